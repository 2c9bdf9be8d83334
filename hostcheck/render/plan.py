"""A plan for people at a terminal: what would be changed and why, what is left alone, what could not be planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hostcheck.model import Absentee
from hostcheck.render import plan_group as group
from hostcheck.render.fleet_hosts import hosts_line
from hostcheck.render.fold import fold_line
from hostcheck.render.page import Page, page_width, wants_ascii, wants_color
from hostcheck.render.words import many, when
from hostcheck.tuning.change import Plan, Risk, Scope
from hostcheck.tuning.plan import plan_code, plans_code, to_do
from hostcheck.tuning.planning import alike

_RISK_STYLE = {Risk.LOW: "", Risk.MEDIUM: "yellow", Risk.HIGH: "bold red"}
_DIFF_STYLE = {"+": "green", "-": "red"}
_TUNERS = 8
"""Tuners that one reason left without a plan: so many are named unless all are asked for."""
_LINES = 16
"""Lines of one file's difference that are shown unless all are asked for."""


def render_plan(
    plan: Plan,
    *,
    name: str = "",
    verbose: bool = False,
    asking: bool = False,
    color: bool | None = None,
    width: int | None = None,
    ascii: bool | None = None,
) -> str:
    """Return one host's plan as text.

    Args:
        plan: what to show.
        name: of its host, as the user knows it; else by the name that it gives itself.
        verbose: show files in full.
        asking: it is about to be applied, so that neither what to do next nor an exit code is told.
        color, width, ascii: as for `hostcheck.render.text.render_text`.
    """
    page = _page(color, width, ascii)
    page.put(
        (name or plan.host or "(no host name)", "bold"),
        when(plan.made),
        (f"hostcheck {plan.tool}", "dim"),
        between=" · ",
    )
    page.put((group.unfinished(plan), "bold red"), indent=2, hang=4)
    page.put(
        f"Plan for {plan.role}: {group.tally(plan)}.",
        "Nothing has been changed." if to_do(plan) and not asking else "",
        indent=2,
    )
    _body(page, plan, verbose)
    if not asking:
        _hints(page, plan_code(plan), manual=bool(group.by_hand(plan)))
    return page.text()


def render_plans(
    plans: Mapping[str, Plan],
    absent: Sequence[Absentee] = (),
    *,
    verbose: bool = False,
    asking: bool = False,
    color: bool | None = None,
    width: int | None = None,
    ascii: bool | None = None,
) -> str:
    """Return the plans of many hosts as text, each different one once, with the hosts that it is for.

    The arguments are those of `render_plan`, and the hosts of which there is no plan.
    """
    page = _page(color, width, ascii)
    total = len(plans) + len(absent)
    page.put((many(total, "host"), "bold"), f"{len(plans):,} planned" if absent else "", between=" · ")
    for hosts, plan in alike(plans):
        page.blank()
        page.put((hosts_line(hosts, most=len(hosts)), "bold"), f"({many(len(hosts), 'host')})", hang=2)
        page.put((group.unfinished(plan), "bold red"), indent=2, hang=4)
        page.put(f"Plan for {plan.role}: {group.tally(plan)}.", indent=2)
        _body(page, plan, verbose)
    if absent:
        _heading(page, "Not planned", "These hosts did not answer.")
        for why, names in group.reasons((each.name, f"{each.reach}: {each.why}") for each in absent).items():
            page.put((hosts_line(names), "bold"), why, indent=2, hang=4, between="  ")
    if not asking:
        _hints(page, plans_code(plans.values(), absent), manual=False)
    return page.text()


def _page(color: bool | None, width: int | None, ascii: bool | None) -> Page:
    return Page(
        width=page_width() if width is None else width,
        color=wants_color() if color is None else color,
        ascii=wants_ascii() if ascii is None else ascii,
    )


def _heading(page: Page, title: str, lead: str = "") -> None:
    page.blank()
    page.put((title.upper(), "bold"), (lead, "dim"), hang=2, between="  ")
    page.blank()


def _body(page: Page, plan: Plan, verbose: bool) -> None:
    for subsystem, sections in group.subsystems(to_do(plan)).items():
        _heading(page, subsystem)
        for section in sections:
            _section(page, section, verbose)
    if manual := group.by_hand(plan):
        _heading(page, "For you to do", "hostcheck does none of this.")
        for edit in group.edits(manual):
            page.put((edit.place, "bold"), edit.change.why, indent=2, hang=4, between="  ")
            for command in edit.change.commands:
                page.verbatim(command, indent=6, style="cyan")
            page.put((edit.change.source, "dim"), indent=4)
    if plan.refusals:
        _heading(page, "Left alone", "Somebody else's, or not to be changed here.")
        for why, targets in group.reasons((refusal.target, refusal.why) for refusal in plan.refusals).items():
            page.put((fold_line(targets), "bold"), why, indent=2, hang=4, between="  ")
    if plan.unplanned:
        _heading(page, "Could not be planned", "Not the same as nothing to do.")
        for why, tuners in group.could_not(plan).items():
            named = len(tuners) <= _TUNERS or verbose
            who = ", ".join(tuners) if named else f"{', '.join(tuners[:_TUNERS])} and {len(tuners) - _TUNERS} more"
            page.put((who, "bold"), why, indent=2, hang=4, between="  ")
        if any(word in entry.why.lower() for entry in plan.unplanned for word in ("denied", "not permitted")):
            page.put("Planning as root reads more.", indent=2)


def _section(page: Page, section: group.Section, verbose: bool) -> None:
    page.put((section.tuner or "by hand", "bold"), section.why, indent=2, hang=4, between="  ")
    for edit in section.edits:
        change = edit.change
        risk = "" if change.risk is Risk.LOW else f"{change.risk} risk"
        lasts = "until the next boot" if change.scope is Scope.RUNTIME else "kept over a reboot"
        one = edit.diff[0] if len(edit.diff) == 1 and not edit.act else ""
        page.put(
            f"{edit.place}:",
            (one or edit.act, "cyan"),
            (f"({lasts})", "dim"),
            (risk, _RISK_STYLE[change.risk]),
            indent=4,
            hang=6,
        )
        if not one:
            shown = edit.diff if verbose else edit.diff[:_LINES]
            for line in shown:
                page.verbatim(line, indent=6, style=_DIFF_STYLE.get(line[:1], "dim"))
            if len(edit.diff) > len(shown):
                page.put((f"and {len(edit.diff) - len(shown):,} more lines: -v shows all", "dim"), indent=6)
        page.put("" if section.why else change.why, indent=6)
        page.put((group.NEEDS[change.needs], "yellow"), indent=6)
        page.put(("" if section.source else change.source, "dim"), indent=6)
    fixes = dict.fromkeys(id for edit in section.edits for id in edit.change.fixes)
    page.put(("Makes pass:" if fixes else "", "dim"), ", ".join(fixes), indent=4, hang=6)
    page.put(("Source:" if section.source else "", "dim"), section.source, indent=4, hang=6)
    page.blank()


def _hints(page: Page, code: int, *, manual: bool) -> None:
    page.blank()
    if code == 1:
        for command, what in (
            ("hostcheck tune apply", "makes these changes, after asking; each can be taken back"),
            ("hostcheck tune plan --program", "the program that would make them, to read"),
            ("hostcheck tune plan -o plan.json", "this plan in a file, to read, edit and apply"),
        ):
            page.pair(command, what, width=36)
        page.blank()
    elif manual and code == 0:
        page.put("Only what you would do yourself is left.", indent=2)
    page.put((f"Exit code {code}: {group.meaning(code)}.", "dim"), hang=2)
