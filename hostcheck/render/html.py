"""A run as one self-contained HTML page."""

from __future__ import annotations

import re

from markupsafe import Markup

from hostcheck.model import Run
from hostcheck.render.safe import safe
from hostcheck.render.templates import fill

_OPTION = re.compile(r"(?<!\S)(--?[A-Za-z]\S*)")


def render_html(run: Run) -> str:
    """Return the page. It loads nothing, runs no script, and its content security policy says so."""
    return fill("report.html.j2", run, safe, {"options": options}, html=True)


def options(text: str) -> Markup:
    """Return a line of a command in which each option is marked, so that it is not broken after its hyphens."""
    marked = Markup('<span class="option">{}</span>')
    parts = enumerate(_OPTION.split(text))
    return Markup("").join(marked.format(safe(part)) if odd % 2 else safe(part) for odd, part in parts)
