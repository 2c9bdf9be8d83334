"""A fleet for people at a terminal: who did not answer, what is failing where, who differs, the verdict last."""

from __future__ import annotations

from collections.abc import Sequence

from hostcheck.model import FleetRun, Status, exit_code
from hostcheck.render import fleet_group as group
from hostcheck.render import fleet_words as words
from hostcheck.render.fleet_hosts import hosts_line
from hostcheck.render.fold import fold_line
from hostcheck.render.group import tunable
from hostcheck.render.page import SEVERITY_STYLE, Page, page_width, wants_ascii, wants_color
from hostcheck.render.words import expired, many, provenance, threshold, when, why

_VERDICT_STYLE = {None: "bold red", 0: "bold green", 1: "bold red", 3: "bold yellow"}
_LINES, _FIXES, _SETS, _FAR, _IDS, _RANGES = 8, 3, 12, 8, 6, 8
"""How many lines and fixes of one issue, sets of hosts, outliers, ids and ranges of a set are shown, unless all are."""


def render_fleet_text(
    fleet: FleetRun,
    *,
    verbose: bool = False,
    color: bool | None = None,
    width: int | None = None,
    ascii: bool | None = None,
) -> str:
    """Return a fleet as text.

    Args:
        fleet: what to show.
        verbose: also list each host, and everything that is otherwise cut short.
        color: whether to write colours; None asks the environment and standard output.
        width: columns; None asks the terminal, and takes 100 where there is none.
        ascii: whether to do without other characters; None asks the encoding of standard output.
    """
    page = Page(
        width=page_width() if width is None else width,
        color=wants_color() if color is None else color,
        ascii=wants_ascii() if ascii is None else ascii,
    )
    _header(page, fleet, verbose)
    _absences(page, fleet, verbose)
    _obstacles(page, fleet, verbose)
    _issues(page, fleet, verbose)
    _unmet(page, fleet, verbose)
    _odd(page, fleet, verbose)
    _far(page, fleet, verbose)
    _claims(page, fleet, verbose)
    _waived(page, fleet, verbose)
    _notes(page, fleet, verbose)
    if verbose:
        _hosts(page, fleet)
    _summary(page, fleet, verbose)
    return page.text()


def _heading(page: Page, title: str, lead: str = "") -> None:
    page.blank()
    page.put((title.upper(), "bold"), (lead, "dim"), hang=2, between="  ")
    page.blank()


def _header(page: Page, fleet: FleetRun, verbose: bool) -> None:
    total = len(fleet.runs) + len(fleet.absent)
    page.put((many(total, "host"), "bold"), when(fleet.taken), (f"hostcheck {fleet.tool}", "dim"), between=" · ")
    column = 13
    page.pair("Judged", f"{len(fleet.runs):,} of {total:,}", width=column - 2)
    machines = list(group.introductions(fleet.runs).items())
    shown = machines if verbose else machines[:_LINES]
    for at, (text, hosts) in enumerate(shown):
        names = hosts_line(hosts)
        page.pair("" if at else "Hardware", f"{many(len(hosts), 'host')} with {text}: {names}", width=column - 2)
    _more(page, len(machines) - len(shown), "kind", indent=column)
    for at, ((checklist, role), hosts) in enumerate(group.judged_by(fleet).items()):
        by = f"checklist {checklist}" + (f" for {role}" if role else "")
        who = "" if len(hosts) == len(fleet.runs) else f": {hosts_line(hosts)}"
        counts = f"; failures {threshold(fleet.fail_on)} count"
        page.pair("" if at else "Judged by", f"{by}{who}{'' if at else counts}", width=column - 2)


def _put_hosts(page: Page, hosts: Sequence[str], verbose: bool, indent: int = 4) -> None:
    """Put which hosts: all of them in one line for a verbose reader, to be copied."""
    text = words.hosts_word(hosts, len(hosts) if verbose else _RANGES)
    if verbose and len(text) > page.width - indent:
        page.verbatim(text, indent=indent, style="bold")
    else:
        page.put((text, "bold"), indent=indent, hang=indent + 2)


def _absences(page: Page, fleet: FleetRun, verbose: bool) -> None:
    if not fleet.absent:
        return
    number = many(len(fleet.absent), "host")
    _heading(page, "Not judged", f"{number}; nothing is known about {'it' if len(fleet.absent) == 1 else 'them'}.")
    found = group.absences(fleet)
    shown = found if verbose else found[:_SETS]
    for absence in shown:
        page.put((absence.reach or "not judged", "red"), absence.why, indent=2, hang=4, between=": ")
        _put_hosts(page, absence.hosts, verbose)
    _more(page, len(found) - len(shown), "reason", indent=2)


def _obstacles(page: Page, fleet: FleetRun, verbose: bool) -> None:
    found = group.obstacles(fleet)
    if not found:
        return
    hosts = {host for obstacle in found for host in obstacle.hosts}
    _heading(page, "Could not be determined", f"On {many(len(hosts), 'host')}; not the same as passed.")
    shown = found if verbose else found[:_SETS]
    for obstacle in shown:
        bug = obstacle.status is Status.ERROR
        page.put(
            (f"{many(len(obstacle.checks), 'check')}:", "red" if bug else "yellow"),
            obstacle.text,
            ("" if obstacle.counted else "(does not count)", "dim"),
            indent=2,
            hang=4,
        )
        _put_hosts(page, obstacle.hosts, verbose)
        _ids(page, obstacle.checks, verbose)
        if bug:
            page.put("Not these hosts' fault: please report it, with the output of --format json.", indent=4)
    _more(page, len(found) - len(shown), "reason", indent=2)


def _issues(page: Page, fleet: FleetRun, verbose: bool) -> None:
    found = group.fleet_issues(fleet)
    if not found:
        return
    _heading(page, "Failing", "What touches most hosts first.")
    for issue in found:
        page.put(
            (f"{issue.severity:<8}" if page.width >= 60 else str(issue.severity), SEVERITY_STYLE[issue.severity]),
            (issue.result.id, "bold"),
            ("" if issue.counted else "(does not count)", "dim"),
            indent=2,
            hang=4,
            between="  ",
        )
        _put_hosts(page, issue.hosts, verbose)
        _seen(page, issue, verbose)
        if reason := why(issue.result):
            page.put(("Why:", "dim"), reason, indent=4)
        if issue.fixes:
            page.put(("Fix:", "dim"), words.actor_word(issue.actor), indent=4)
            fixes = issue.fixes if verbose else issue.fixes[:_FIXES]
            for fix in fixes:
                page.verbatim(fix, indent=6, style="cyan")
            _more(page, len(issue.fixes) - len(fixes), "fix", indent=6)
        page.blank()


def _seen(page: Page, issue: group.FleetIssue, verbose: bool) -> None:
    shown = issue.seen if verbose else issue.seen[:_LINES]
    for line in shown:
        whose = "" if line.hosts == issue.hosts else hosts_line(line.hosts)
        parts = "" if set(line.subjects) <= {"host", ""} else fold_line(line.subjects)
        label = " ".join(filter(None, (whose, parts)))
        source = provenance(line.finding)
        page.put(f"{label}:" if label else "", line.finding.summary, indent=4, hang=6)
        page.put(words.compared_range(line), (f"({source})" if source else "", "dim"), indent=6)
        page.put((expired(line.finding), "yellow"), indent=6)
    _more(page, len(issue.seen) - len(shown), "line", indent=4)


def _unmet(page: Page, fleet: FleetRun, verbose: bool) -> None:
    if found := group.fleet_unmet(fleet):
        _heading(page, "Required, and not passed")
        for each in found:
            page.put((each.check, "bold"), words.exempt_words(each), indent=2, hang=4, between="  ")
            _put_hosts(page, each.hosts, verbose)


def _odd(page: Page, fleet: FleetRun, verbose: bool) -> None:
    if found := group.odd_ones(fleet):
        _heading(page, "Differing", "Hosts with the same hardware ought to be the same in these.")
        shown = found if verbose else found[:_SETS]
        for odd in shown:
            _put_hosts(page, odd.hosts, verbose, indent=2)
            page.put((f"of those with {odd.group}", "dim"), indent=4, hang=6)
            facts = odd.facts if verbose else odd.facts[:_LINES]
            for label, value, most, number in facts:
                page.put((f"{label}:", "dim"), f"{value};", f"on {many(number, 'other')} {most}", indent=4, hang=6)
            _more(page, len(odd.facts) - len(facts), "fact", indent=4)
        _more(page, len(found) - len(shown), "set of hosts", indent=2)
    if found := group.uncompared(fleet):
        _heading(page, "Not compared", "What could not be read on some of the hosts with the same hardware.")
        shown = found if verbose else found[:_SETS]
        for odd in shown:
            _put_hosts(page, odd.hosts, verbose, indent=2)
            _ids(page, [label for label, *_ in odd.facts], verbose)
        _more(page, len(found) - len(shown), "set of hosts", indent=2)


def _far(page: Page, fleet: FleetRun, verbose: bool) -> None:
    if not (found := group.far_ones(fleet)):
        return
    _heading(page, "Outliers", "Far from the median of hosts with the same hardware; nothing fails for them.")
    for far in found:
        page.put((words.measure_name(far.measure), "bold"), (f"({far.group})", "dim"), indent=2, hang=4)
        shown = far.seen if verbose else far.seen[:_FAR]
        for away in shown:
            part = "" if away.outlier.subject in ("host", "") else f" {away.outlier.subject}"
            whose = words.hosts_word(away.hosts, len(away.hosts) if verbose else _RANGES)
            page.put(f"{whose}{part}:", words.outlier_words(away.outlier), indent=4, hang=6)
        if rest := {host: None for away in far.seen[len(shown) :] for host in away.hosts}:
            page.put((f"and {words.hosts_word(tuple(rest))}; -v shows all", "dim"), indent=4, hang=6)


def _claims(page: Page, fleet: FleetRun, verbose: bool) -> None:
    if not (found := group.claims(fleet)):
        return
    _heading(page, "Other names", "These hosts are reported under the names that you gave them.")
    taken = [claim for claim in found if claim.other]
    others = [claim for claim in found if not claim.other]
    for claim in taken:
        said = f"names itself {claim.name}: that is {claim.other} of this fleet"
        page.put((claim.host, "bold"), said, indent=2, hang=4)
    shown = others if verbose else others[:_LINES]
    for claim in shown:
        page.put((claim.host, "bold"), f"names itself {claim.name}", indent=2, hang=4)
    _more(page, len(others) - len(shown), "host", indent=2)


def _waived(page: Page, fleet: FleetRun, verbose: bool) -> None:
    if found := group.fleet_waived(fleet):
        _heading(page, "Waived", "Not counted until the date given.")
        for each in found:
            page.put((each.check, "bold"), words.exempt_words(each), indent=2, hang=4, between="  ")
            _put_hosts(page, each.hosts, verbose)


def _notes(page: Page, fleet: FleetRun, verbose: bool) -> None:
    if found := group.fleet_notes(fleet):
        _heading(page, "Notes", "Findings of severity info: worth knowing, never counted.")
        for note in found:
            page.put((note.result.id, "bold"), indent=2)
            _put_hosts(page, note.hosts, verbose)
            _seen(page, note, verbose)


def _hosts(page: Page, fleet: FleetRun) -> None:
    _heading(page, "Each host")
    for name, run in fleet.runs.items():
        code = exit_code(run)
        failing = sum(result.status is Status.FAIL for result in run.results)
        unknown = sum(result.status in (Status.UNKNOWN, Status.ERROR) for result in run.results)
        page.put(
            (name, "bold"),
            (words.STANDINGS[code], _VERDICT_STYLE[code]),
            f"{failing} fail, {unknown} undetermined",
            (when(run.host.taken), "dim"),
            indent=2,
            hang=4,
            between="  ",
        )


def _summary(page: Page, fleet: FleetRun, verbose: bool) -> None:
    verdict = words.fleet_verdict(fleet)
    _heading(page, "Summary", words.fleet_tally(fleet) or "nothing to look at")
    found = group.standings(fleet)
    column = max((len(words.standing_word(each)) for each in found), default=0) + 2
    for each in found:
        page.pair(words.standing_word(each), words.hosts_word(each.hosts), width=column)
    page.blank()
    id = next((issue.result.id for issue in group.fleet_issues(fleet)), "")
    ids = {id for run in fleet.runs.values() for id in tunable(run)}
    hints = {
        f"hostcheck explain {id}": "what a check is for" if id else "",
        "-v": "" if verbose else "each host, and every line",
        "hostcheck tune plan TARGETS": f"{len(ids)} of these it may mend: it shows how" if ids else "",
    }
    column = max((len(command) for command, what in hints.items() if what), default=0) + 2
    for command, what in hints.items():
        if what:
            page.pair(command, what, width=column)
    page.blank()
    page.put((verdict.word.upper(), _VERDICT_STYLE[verdict.code]), verdict.line, hang=2, between="  ")
    page.put((f"Exit code {verdict.code}: {verdict.meaning}.", "dim"), hang=2)


def _ids(page: Page, ids: Sequence[str], verbose: bool) -> None:
    shown = list(ids) if verbose or len(ids) <= _IDS + 1 else [*ids[:_IDS], f"and {len(ids) - _IDS} more"]
    page.put((", ".join(shown).replace(", and ", " and "), "dim"), indent=4)


def _more(page: Page, number: int, noun: str, indent: int) -> None:
    if number > 0:
        first, _, rest = noun.partition(" ")
        plural = first if number == 1 else f"{first}es" if first.endswith("x") else f"{first}s"
        page.put((f"and {number:,} more {' '.join(filter(None, (plural, rest)))}: -v shows all", "dim"), indent=indent)
