"""A run as Markdown (CommonMark with the tables of GitHub), for issues, wikis and job summaries."""

from __future__ import annotations

import re

from markupsafe import Markup

from hostcheck.model import Run
from hostcheck.render.safe import safe, safe_lines
from hostcheck.render.templates import fill

_MARKUP = re.compile(r"[\\`*_{}\[\]|~$#]")
# What begins a heading, a list, a quotation, a rule or an underline where it begins a line.
_BLOCK = re.compile(r"([-+=])|([0-9]{1,9})(?=[.)](?: |$))")
_AUTOLINK = re.compile(r"://|(?<=\bwww)\.|@|(?<=\bmailto):|(?<=\bxmpp):", re.IGNORECASE)


def render_markdown(run: Run) -> str:
    """Return the document. Text of the host is escaped wherever it is written, so that it stays text."""
    return fill("report.md.j2", run, escape, {"code": code, "fence": fence, "as_is": Markup}, html=False)


def escape(text: str) -> str:
    """Return a line of text that Markdown shows as it is: no markup, no HTML, no table cell, no link."""
    shown = safe(text).strip().replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    shown = _MARKUP.sub(r"\\\g<0>", shown)
    shown = _AUTOLINK.sub(lambda found: "".join(f"\\{character}" for character in found[0]), shown)
    opening = _BLOCK.match(shown)
    if opening is None:
        return shown
    return f"\\{shown}" if opening[1] else f"{opening[2]}\\{shown[opening.end() :]}"


def code(text: str) -> Markup:
    """Return a code span; not for a cell of a table, where a bar would end it."""
    shown = safe(text)
    ticks = "`" * (_longest_run(shown) + 1)
    pad = " " if shown.startswith("`") or shown.endswith("`") or not shown.strip() else ""
    return Markup(f"{ticks}{pad}{shown}{pad}{ticks}")  # noqa: S704 (no HTML is made of it)


def fence(text: str) -> Markup:
    """Return a code block of one or several lines."""
    lines = safe_lines(text)
    ticks = "`" * max(3, max(map(_longest_run, lines)) + 1)
    return Markup("\n".join((f"{ticks}sh", *lines, ticks)))  # noqa: S704 (as above)


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
