"""A run for people at a terminal: what to do first, the verdict last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hostcheck.model import Finding, Run, Status
from hostcheck.render import group, words
from hostcheck.render.fold import fold_line
from hostcheck.render.page import SEVERITY_STYLE, Page, page_width, wants_ascii, wants_color

_VERDICT_STYLE = {0: "bold green", 1: "bold red", 3: "bold yellow"}
_SEEN, _FIXES, _IDS, _REASONS = 8, 24, 8, 3
"""How many lines and fixes of one issue, and ids and reasons of one cause, are shown unless all are asked for."""


def render_text(
    run: Run,
    *,
    verbose: bool = False,
    color: bool | None = None,
    width: int | None = None,
    ascii: bool | None = None,
) -> str:
    """Return a run as text.

    Args:
        run: what to show.
        verbose: also list what passed, what does not apply and why, and every subject.
        color: whether to write colours; None asks the environment and standard output.
        width: columns; None asks the terminal, and takes 100 where there is none.
        ascii: whether to do without other characters; None asks the encoding of standard output.
    """
    page = Page(
        width=page_width() if width is None else width,
        color=wants_color() if color is None else color,
        ascii=wants_ascii() if ascii is None else ascii,
    )
    _header(page, run)
    for action in group.actions(run):
        _heading(page, action.title, action.lead)
        for issue in action.issues:
            _issue(page, issue, verbose)
    _causes(page, run, verbose)
    _unmet(page, run)
    _waived(page, run, verbose)
    _notes(page, run, verbose)
    _measured(page, run)
    if verbose:
        _rest(page, run)
    _summary(page, run, verbose)
    return page.text()


def _header(page: Page, run: Run) -> None:
    page.put(
        (run.host.name or "(no host name)", "bold"),
        words.when(run.host.taken),
        (f"hostcheck {run.tool}", "dim"),
        between=" · ",
    )
    pairs = {**run.host.facts, "Judged by": words.was_judged(run), "Read": words.was_read(run)}
    column = min(16, max(len(label) for label in pairs) + 2)
    for label, value in pairs.items():
        page.pair(label, value, width=column)


def _heading(page: Page, title: str, lead: str = "") -> None:
    page.blank()
    page.put((title.upper(), "bold"), (lead, "dim"), hang=2, between="  ")
    page.blank()


def _issue(page: Page, issue: group.Issue, verbose: bool) -> None:
    result = issue.result
    only = issue.seen[0] if len(issue.seen) == 1 else None
    page.put(
        (f"{issue.severity:<8}" if page.width >= 60 else str(issue.severity), SEVERITY_STYLE[issue.severity]),
        (result.id, "bold"),
        _subjects(only.subjects, verbose) if only else "",
        ("" if issue.counted else "(does not count)", "dim"),
        indent=2,
        hang=4,
        between="  ",
    )
    shown = issue.seen if verbose else issue.seen[:_SEEN]
    for same in shown:
        subjects = "" if only else f"{_subjects(same.subjects, verbose) or 'host'}:"
        finding = same.finding if issue.expected is None else replace(same.finding, expected=None)
        other = issue.differing(same)
        page.put(subjects, same.finding.summary, f"({other})" if other else "", indent=4, hang=4 if only else 6)
        _evidence(page, finding, 4 if only else 6, verbose)
        page.put((words.expired(finding), "yellow"), indent=4 if only else 6)
    _more(page, len(issue.seen) - len(shown), "line", indent=4)
    if issue.expected is not None:
        _evidence(page, issue.expected, 4, verbose=False)
    if reason := words.why(result):
        page.put(("Why:", "dim"), reason, indent=4)
    if verbose:
        page.put(("Passes when:", "dim"), result.title, indent=4)
        page.put(("Read more:" if result.references else "", "dim"), ", ".join(result.references), indent=4)
    if issue.fixes:
        page.put(("Fix:", "dim"), indent=4)
        fixes = issue.fixes if verbose else issue.fixes[:_FIXES]
        for fix in fixes:
            page.verbatim(fix, indent=6, style="cyan")
        _more(page, len(issue.fixes) - len(fixes), "fix", indent=6)
    page.blank()


def _evidence(page: Page, finding: Finding, indent: int, verbose: bool) -> None:
    source = words.provenance(finding)
    page.put(words.compared(finding), (f"({source})" if source else "", "dim"), indent=indent)
    if verbose and finding.source:
        page.put(("read from", "dim"), finding.source, indent=indent)


def _causes(page: Page, run: Run, verbose: bool) -> None:
    causes = group.causes(run)
    if not causes:
        return
    total = len({check.id for cause in causes for check in cause.checks})
    _heading(page, "Could not be determined", f"{words.many(total, 'check')}; not the same as passed.")
    for cause in causes:
        bug = cause.status is Status.ERROR
        page.put(
            (f"{words.many(len(cause.checks), 'check')}:", "red" if bug else "yellow"),
            words.headline(cause),
            ("" if cause.counted else "(does not count)", "dim"),
            indent=2,
            hang=4,
        )
        if len(cause.reasons) > 1:
            shown = cause.reasons if verbose else cause.reasons[:_REASONS]
            for reason in shown:
                page.put(reason, indent=6, hang=8)
            _more(page, len(cause.reasons) - len(shown), "reason", indent=6)
        if cause.keys:
            page.put(("KEY:", "dim"), ", ".join(cause.keys), indent=4, hang=6)
        if set(cause.keys) != {check.id for check in cause.checks}:
            _ids(page, [words.affected(check, fold_line(check.subjects)) for check in cause.checks], verbose)
        if bug:
            page.put("Not this host's fault: please report it, with the output of --format json.", indent=4)
    if refused := words.refused(run, causes):
        page.put(f"Reading as root may answer {refused} of these.", indent=2)
    page.blank()


def _unmet(page: Page, run: Run) -> None:
    if found := group.unmet(run):
        _heading(page, "Required, and not passed")
        for result in found:
            page.put((result.id, "bold"), f"{words.status_word(result.status)}:", words.gist(result), indent=2, hang=4)


def _waived(page: Page, run: Run, verbose: bool) -> None:
    if not (found := group.waived(run)):
        return
    _heading(page, "Waived", "Not counted until the date given.")
    for waived in found:
        subjects = tuple(subject for same in waived.seen for subject in same.subjects)
        statuses = {same.finding.status: None for same in waived.seen}
        page.put(
            ", ".join(map(words.status_word, statuses)),
            (waived.result.id, "bold"),
            _subjects(subjects, verbose),
            indent=2,
            hang=4,
        )
        by = f" by {waived.waiver.by}" if waived.waiver.by else ""
        page.put((f"until {waived.waiver.until}{by}:", "dim"), waived.waiver.reason, indent=4)


def _notes(page: Page, run: Run, verbose: bool) -> None:
    if not (notes := group.notes(run)):
        return
    _heading(page, "Notes", "Findings of severity info: worth knowing, never counted.")
    for note in notes:
        shown = note.seen if verbose else note.seen[:_SEEN]
        for same in shown:
            subjects = _subjects(same.subjects, verbose)
            subject = f"{' '.join(filter(None, (note.result.id, subjects)))}:"
            page.put(subject, (same.finding.summary, "dim"), indent=2, hang=4)
        _more(page, len(note.seen) - len(shown), "line", indent=4)
        for fix in note.fixes if verbose else ():
            page.verbatim(fix, indent=6, style="cyan")


def _measured(page: Page, run: Run) -> None:
    if run.measured:
        # An audit without measurements does without it.
        from hostcheck.render.bench import put_figures

        lead = "Each number beside what is possible, if known; the mark in a bar is what is wanted."
        _heading(page, "Measured", lead)
        if run.session is not None:
            page.put(words.was_measured(run), indent=2)
            page.blank()
        put_figures(page, run.measured)


def _rest(page: Page, run: Run) -> None:
    """Put what only a verbose reader wants: passes, what does not apply, silent probes, what people attest."""
    if passed := [result for result in run.results if result.status is Status.PASS]:
        _heading(page, "Passed")
        for result in passed:
            page.put((result.id, "bold"), result.title, indent=2, hang=4, between="  ")
    for status, title in ((Status.NOT_APPLICABLE, "Not applicable"), (Status.SKIPPED, "Skipped")):
        if reasons := group.reasons(run, status):
            _heading(page, title)
            for reason in reasons:
                if len(reason.checks) == 1:
                    page.put((reason.checks[0], "dim"), reason.text, indent=2, hang=4, between="  ")
                else:
                    page.put(f"{len(reason.checks)} checks:", reason.text, indent=2, hang=4)
                    _ids(page, reason.checks, verbose=True)
    if silent := group.silent(run):
        _heading(page, "Probes without an answer")
        for probe in silent:
            page.put((probe.id, "bold"), words.ending_words(probe), indent=2, hang=4, between="  ")
    if run.attestations:
        _heading(page, "Attested by people")
        for attested in run.attestations:
            answer = "yes" if attested.answer else "no"
            who = f"({attested.by}, {attested.date})"
            page.put((attested.row, "bold"), f"{answer}:", attested.note, (who, "dim"), indent=2, hang=4)


def _summary(page: Page, run: Run, verbose: bool) -> None:
    verdict = words.verdict(run)
    _heading(page, "Summary", words.tally(group.counts(run)) or "no checks")
    ids = group.tunable(run)
    failing = next((issue.result.id for action in group.actions(run) for issue in action.issues), "")
    id = failing or next((check.id for cause in group.causes(run) for check in cause.checks), "")
    hints = {
        f"hostcheck explain {id}": "what a check is for" if id else "",
        "-v": "" if verbose else "everything that was judged",
        "-o report.html": "a page to hand on",
        "hostcheck tune": f"{len(ids)} of these it may mend: it shows how, and changes nothing" if ids else "",
    }
    column = max(len(command) for command, what in hints.items() if what) + 2
    for command, what in hints.items():
        if what:
            page.pair(command, what, width=column)
    page.blank()
    page.put((verdict.word.upper(), _VERDICT_STYLE[verdict.code]), verdict.line, hang=2, between="  ")
    page.put((f"Exit code {verdict.code}: {verdict.meaning}.", "dim"), hang=2)


def _subjects(subjects: Sequence[str], verbose: bool) -> str:
    if set(subjects) <= {"host", ""}:
        return ""
    return fold_line(subjects, most=len(subjects) if verbose else 12)


def _ids(page: Page, ids: Sequence[str], verbose: bool) -> None:
    shown = list(ids) if verbose or len(ids) <= _IDS + 1 else [*ids[:_IDS], f"and {len(ids) - _IDS} more"]
    page.put((", ".join(shown).replace(", and ", " and "), "dim"), indent=4)


def _more(page: Page, number: int, noun: str, indent: int) -> None:
    if number > 0:
        plural = f"{noun}es" if noun.endswith("x") and number > 1 else f"{noun}{'s' if number > 1 else ''}"
        page.put((f"and {number:,} more {plural}: -v shows all", "dim"), indent=indent)
