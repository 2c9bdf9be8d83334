"""Views of a FleetRun: text, JSON, JSON lines and Markdown."""

from __future__ import annotations

from hostcheck.model import FleetRun

FORMATS = ("text", "json", "jsonl", "md")


def render_fleet(
    fleet: FleetRun,
    format: str,
    *,
    verbose: bool = False,
    color: bool | None = None,
    width: int | None = None,
    ascii: bool | None = None,
) -> str:
    """Return a fleet in one of the FORMATS; only the renderer that is asked for is loaded.

    Args:
        fleet: what to show.
        format: "text"; "json", one document; "jsonl", the run of each host in a line of its own; or "md".
        verbose, color, width, ascii: for text only; see `hostcheck.render.fleet_text.render_fleet_text`.

    Raises:
        ValueError: there is no such format.
    """
    if format == "text":
        from hostcheck.render.fleet_text import render_fleet_text

        return render_fleet_text(fleet, verbose=verbose, color=color, width=width, ascii=ascii)
    if format == "json":
        from hostcheck.render.fleet_json import render_fleet_json

        return render_fleet_json(fleet)
    if format == "jsonl":
        from hostcheck.render.fleet_json import render_fleet_lines

        return render_fleet_lines(fleet)
    if format == "md":
        from hostcheck.render.fleet_markdown import render_fleet_markdown

        return render_fleet_markdown(fleet)
    raise ValueError(f"no renderer for {format!r}; there are {', '.join(FORMATS)}")
