"""Views of a Run: text, JSON, Markdown and HTML."""

from __future__ import annotations

from hostcheck.model import Run

FORMATS = ("text", "json", "md", "html")


def render(
    run: Run,
    format: str,
    *,
    verbose: bool = False,
    color: bool | None = None,
    width: int | None = None,
    ascii: bool | None = None,
) -> str:
    """Return a run in one of the FORMATS; only the renderer that is asked for is loaded.

    Args:
        run: what to show.
        format: one of FORMATS.
        verbose, color, width, ascii: for text only; see `hostcheck.render.text.render_text`.

    Raises:
        ValueError: there is no such format.
    """
    if format == "text":
        from hostcheck.render.text import render_text

        return render_text(run, verbose=verbose, color=color, width=width, ascii=ascii)
    if format == "json":
        from hostcheck.render.json import render_json

        return render_json(run)
    if format == "md":
        from hostcheck.render.markdown import render_markdown

        return render_markdown(run)
    if format == "html":
        from hostcheck.render.html import render_html

        return render_html(run)
    raise ValueError(f"no renderer for {format!r}; there are {', '.join(FORMATS)}")
