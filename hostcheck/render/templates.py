"""The Jinja environment of the reports: a template gets the Run, these pure filters, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from hostcheck.model import FleetRun, Run
from hostcheck.render import fold, group, safe, words

_PACKAGE = "hostcheck.reports"
_LINK = re.compile(r"https?://[\x21\x23-\x3b\x3d\x3f-\x5b\x5d\x5f\x61-\x7a\x7e]+")

_FILTERS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        fold.fold_line, safe.safe_lines,
        group.actions, group.by_status, group.causes, group.counts, group.gravest, group.notes, group.severities,
        group.silent, group.subsystems, group.unmet, group.waived,
        words.affected, words.compared, words.ending_words, words.expired, words.gist, words.headline, words.many,
        words.not_run, words.number, words.observed, words.of_limit, words.of_whom, words.provenance, words.refused,
        words.status_word, words.tally, words.verdict, words.was_judged, words.was_measured, words.was_read,
        words.when, words.why,
    )
}  # fmt: skip


def fill(
    template: str,
    run: Run | FleetRun,
    finish: Callable[[str], str],
    filters: dict[str, Callable[..., Any]],
    *,
    html: bool,
) -> str:
    """Return a template of `hostcheck.reports`, filled in with a run.

    Args:
        template: its file name.
        run: what to show; its name in the template is "run".
        finish: applied to every text that the template writes, unless a filter has returned it as Markup.
        filters: further filters of this format.
        html: whether what is written is escaped for HTML after that.
    """
    environment = Environment(
        loader=FunctionLoader(lambda name: files(_PACKAGE).joinpath(name).read_text("utf-8")),
        autoescape=html,  # noqa: S701 (Markdown has an escaping of its own, `finish`)
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else finish(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.clear()
    environment.filters.pop("safe")
    environment.filters.update({**_FILTERS, "link": link, "digest": digest, "paragraphs": paragraphs, **filters})
    return environment.get_template(template).render(run=run)


def link(text: str) -> str:
    """Return the text if it is a web address and nothing else; else an empty text."""
    return text if _LINK.fullmatch(text) else ""


def digest(text: str) -> str:
    """Return the hash by which a content security policy knows an inline style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a docstring, each in one line."""
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]
