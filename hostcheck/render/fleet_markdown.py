"""A fleet as Markdown, for issues, wikis and job summaries; escaped by the same rules as a single host's report."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from hostcheck.model import FleetRun
from hostcheck.render import fleet_group, fleet_hosts, fleet_words, words
from hostcheck.render.fold import fold_line
from hostcheck.render.markdown import code, escape, fence
from hostcheck.render.templates import fill

_FILTERS = {
    function.__name__: function
    for function in (
        fleet_group.absences, fleet_group.claims, fleet_group.far_ones, fleet_group.fleet_issues,
        fleet_group.fleet_notes, fleet_group.fleet_unmet, fleet_group.fleet_waived, fleet_hosts.hosts_line,
        fleet_group.introductions, fleet_group.judged_by, fleet_group.obstacles, fleet_group.odd_ones,
        fleet_group.standings, fleet_group.uncompared,
        fleet_words.actor_word, fleet_words.compared_range, fleet_words.exempt_words, fleet_words.fleet_tally,
        fleet_words.fleet_verdict, fleet_words.measure_name, fleet_words.outlier_words, fleet_words.standing_word,
        words.threshold, fold_line,
    )
}  # fmt: skip


def render_fleet_markdown(fleet: FleetRun) -> str:
    """Return the document. Text of the hosts is escaped wherever it is written, so that it stays text."""
    filters: dict[str, Any] = {**_FILTERS, "code": code, "fence": fence, "as_is": Markup}
    return fill("fleet.md.j2", fleet, escape, filters, html=False)
