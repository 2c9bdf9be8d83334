"""A run as one self-contained HTML page."""

from __future__ import annotations

from hostcheck.model import Run
from hostcheck.render.safe import safe
from hostcheck.render.templates import fill


def render_html(run: Run) -> str:
    """Return the page. It loads nothing, runs no script, and its content security policy says so."""
    return fill("report.html.j2", run, safe, {}, html=True)
