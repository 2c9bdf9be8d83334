"""The sentences that all reports share: values, times, reasons, and the verdict of `model.exit_code` in words."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hostcheck.model import Figure, Finding, ProbeEnding, Result, Run, Scalar, Severity, Status, exit_code
from hostcheck.render.fold import fold_line
from hostcheck.render.group import Affected, Cause, Count, actions, by_status, causes, notes, silent, unmet, waived

# A full stop behind one of these does not end a sentence.
_SENTENCE = re.compile(r"(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\bvs\.)(?<!\bcf\.)(?<!\bapprox\.)(?<=[.!?])\s+(?=[A-Z0-9])")
_WHY_LENGTH = 180
_ALIKE = 0.01
"""By this share the worst of equal parts may be off without being named."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The run's verdict.

    Attributes:
        code: the exit code.
        word: the verdict in one or two words.
        line: what it rests on, in one sentence.
        meaning: what the exit code says.
    """

    code: int
    word: str
    line: str
    meaning: str


def verdict(run: Run) -> Verdict:
    """Put the exit code into words; the code itself is the model's."""
    code = exit_code(run)
    level = threshold(run.fail_on)
    passes = sum(result.status is Status.PASS for result in run.results)
    if all(result.status in (Status.NOT_APPLICABLE, Status.SKIPPED) for result in run.results):
        line = "No check passed, failed or was left undetermined: this says nothing about the host."
        return Verdict(code, "nothing judged", line, "nothing was judged")
    parts = [_failing(run), _undetermined(run), _required(unmet(run))]
    if code == 0:
        parts.insert(0, f"{many(passes, 'check')} passed")
    waivers = sum(len(same.subjects) for group in waived(run) for same in group.seen)
    parts.append(f"{many(waivers, 'finding')} waived" if waivers else "")
    word, meaning = {
        0: ("pass", f"no failure {level}, and nothing that counts is undetermined"),
        1: ("fail", f"at least one failure {level}"),
        3: ("undetermined", "no failure, but something that counts is undetermined or a required check did not pass"),
    }[code]
    line = "; ".join(filter(None, parts))
    return Verdict(code, word, f"{line[:1].upper()}{line[1:]}.", meaning)


def threshold(fail_on: Severity) -> str:
    """Return from which severity on failures count, to follow the word "failure"."""
    if fail_on is Severity.INFO:
        return "of any severity"
    return f"of severity {fail_on}" + ("" if fail_on is Severity.CRITICAL else " or above")


def _failing(run: Run) -> str:
    severities: dict[Severity, set[str]] = {}
    uncounted: set[str] = set()
    for action in actions(run):
        for issue in action.issues:
            if issue.counted:
                severities.setdefault(issue.severity, set()).add(issue.result.id)
            else:
                uncounted.add(issue.result.id)
    total = set().union(*severities.values())
    by_severity = ", ".join(f"{len(severities[each])} {each}" for each in Severity if each in severities)
    lines = [f"{many(len(total), 'check')} failed ({by_severity})"] if total else []
    if uncounted - total:
        lines.append(f"{many(len(uncounted - total), 'failure')} below {run.fail_on}")
    noted = {issue.result.id for issue in notes(run)} - uncounted - total
    if noted and lines:
        lines.append(many(len(noted), "note"))
    return ", ".join(lines)


def _undetermined(run: Run) -> str:
    found = causes(run)
    ids = {check.id for cause in found for check in cause.checks if check.counted}
    others = {check.id for cause in found for check in cause.checks} - ids
    lines = [f"{many(len(ids), 'check')} could not be determined"] if ids else []
    if others:
        lines.append(f"{len(others):,} {'more ' if ids else ''}undetermined below {run.fail_on}")
    return ", ".join(lines)


def _required(found: Sequence[Result]) -> str:
    return f"{many(len(found), 'required check')} did not pass" if found else ""


def many(number: int, noun: str) -> str:
    """Return "1 check", "1,200 checks"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def tally(found: Sequence[Count]) -> str:
    """Return how many checks there are of each status, such as "3 fail (1 does not count), 12 pass"."""
    return ", ".join(
        f"{count.checks:,} {status_word(count.status)}" + (f" ({_not_counting(count)})" if count.uncounted else "")
        for count in found
    )


def _not_counting(count: Count) -> str:
    if count.uncounted == count.checks:
        return "not counted"
    return f"{count.uncounted:,} not counted"


def status_word(status: Status) -> str:
    """Return a status as it is read."""
    return status.replace("-", " ")


def value_words(value: Scalar) -> str:
    """Return an observed value as a person writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 and value.is_integer() else f"{value:g}"
    return "none" if value is None else value or "(empty)"


def gist(result: Result) -> str:
    """Return a result in one line: what is true when it passed, else what was seen, and of whom."""
    if result.status is Status.PASS or not result.findings:
        return result.title
    seen = by_status(result)
    first, *others = [same for same in seen if same.finding.status is result.status] or seen
    subjects = "" if set(first.subjects) <= {"host", ""} else f"{fold_line(first.subjects)}: "
    waived = " (waived)" if first.finding.waived else f" ({ended})" if (ended := expired(first.finding)) else ""
    return f"{subjects}{first.finding.summary}{waived}" + (f"; and {len(others)} more" if others else "")


def expired(finding: Finding) -> str:
    """Return "its waiver expired on 2026-10-31", or nothing where it had none, or one holds."""
    return f"its waiver expired on {finding.expired.until}" if finding.expired else ""


def compared(finding: Finding) -> str:
    """Return "observed Disabled, expected Enabled", or less where less is known."""
    return ", ".join(filter(None, (observed(finding), f"expected {finding.expected.text}" if finding.expected else "")))


def observed(finding: Finding) -> str:
    """Return "observed 60", or nothing where there is no value or the summary has said it."""
    if finding.observed is None or _says(finding.summary, value_words(finding.observed)):
        return ""
    unit = finding.expected.unit if finding.expected else ""
    return f"observed {value_words(finding.observed)} {unit}".rstrip()


def _says(summary: str, value: str) -> bool:
    return re.search(rf"(?<![\w.,]){re.escape(value)}(?![\w]|[.,]\d)", summary) is not None


def provenance(finding: Finding) -> str:
    """Return which layer and source set the expected value."""
    if finding.expected is None:
        return ""
    return ": ".join(filter(None, (finding.expected.layer, finding.expected.source)))


def why(result: Result) -> str:
    """Return the first sentence of a check's rationale, and more of them while they are short."""
    paragraph = " ".join(result.rationale.split("\n\n", 1)[0].split())
    said = ""
    for sentence in _SENTENCE.split(paragraph):
        if said and len(said) + len(sentence) >= _WHY_LENGTH:
            break
        said = f"{said} {sentence}".strip()
    return said


def when(stamp: str) -> str:
    """Return an ISO 8601 time as "2026-11-20 22:50 UTC"; whatever else it is, as it is."""
    try:
        moment = dt.datetime.fromisoformat(stamp)
        if moment.tzinfo is not None:
            moment = moment.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        return stamp
    return f"{moment:%Y-%m-%d %H:%M}{' UTC' if moment.tzinfo else ''}"


def was_measured(run: Run) -> str:
    """Return when, how thoroughly and how long was measured; an empty text where nothing was."""
    session = run.session
    if session is None:
        return ""
    level = f", level {session.level}" if session.level else ""
    return f"Measured {when(session.taken)}{level}, in {session.seconds:.0f} s."


def was_read(run: Run) -> str:
    """Return through whose eyes the host was seen, and how many probes answered."""
    who = "as root" if run.host.privileged else "without root"
    failed = len(silent(run))
    answers = f"{len(run.probes) - failed} of {many(len(run.probes), 'probe')} answered"
    return f"{who}; {answers}" + ("; names and addresses are masked" if run.host.redacted else "")


def was_judged(run: Run) -> str:
    """Return by which checklist, for which role, and what counts."""
    role = f" for {run.role}" if run.role else ""
    return f"checklist {run.checklist}{role}; failures {threshold(run.fail_on)} count"


def headline(cause: Cause) -> str:
    """Return one line for a cause: its only reason, else how its probe ended."""
    seconds = f" after {cause.probe.seconds:g} s" if cause.probe and cause.probe.ending == "timeout" else ""
    if len(cause.reasons) == 1:
        return cause.reasons[0] + seconds
    if cause.probe and cause.probe.ending not in ("ok", "absent"):
        return f"{cause.name}: {cause.probe.detail or cause.probe.ending}{seconds}"
    return f"{cause.name}: {len(cause.reasons)} reasons"


def affected(check: Affected, folded: str) -> str:
    """Return a check's id; in parentheses its subjects unless they are the host as a whole, and that a waiver ended."""
    ended = f"waiver expired on {check.expired}" if check.expired else ""
    more = "; ".join(filter(None, ("" if set(check.subjects) <= {"host", ""} else folded, ended)))
    return f"{check.id} ({more})" if more else check.id


def refused(run: Run, found: Sequence[Cause]) -> int:
    """Return how many checks may be answered by reading as root: those that a refusal left without a verdict."""
    if run.host.privileged:
        return 0
    ids: set[str] = set()
    for cause in found:
        ending = cause.probe.ending if cause.probe else ""
        said = " ".join(cause.reasons).lower()
        if ending == "denied" or any(word in said for word in ("denied", "not permitted", "only root")):
            ids |= {check.id for check in cause.checks}
    return len(ids)


def ending_words(probe: ProbeEnding) -> str:
    """Return how a probe ended, with its details."""
    if probe.detail.startswith(probe.ending):
        return probe.detail
    return ": ".join(filter(None, (probe.ending, probe.detail)))


def number(value: float) -> str:
    """Spell a measured number with about four digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def of_whom(figure: Figure) -> str:
    """Say on what a figure is, how, which part was the worst where they are not all alike, and at what energy."""
    text = fold_line(figure.subjects, most=3) + (f", {figure.how}" if figure.how else "")
    if figure.worst is not None and figure.value and abs(figure.worst / figure.value - 1) > _ALIKE:
        text += f"; worst {number(figure.worst)} on {figure.worst_on}"
    return text + ("" if figure.joules_per_tflop is None else f", {figure.joules_per_tflop:.3g} J/TFLOP")


def not_run(figures: Sequence[Figure]) -> list[str]:
    """Say which benchmarks we never ran on such a part ourselves."""
    notes: dict[str, dict[str, None]] = {}
    for figure in figures:
        if figure.hardware:
            notes.setdefault(figure.hardware, {})[figure.bench] = None
    return [f"{some(list(benches))}: {note}" for note, benches in notes.items()]


def some(names: Sequence[str]) -> str:
    """Return up to four names, of more the first three and how many others there are."""
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def of_limit(figure: Figure) -> str:
    """Say which share of what is possible a figure is, and which is wanted; empty where there is no limit."""
    if figure.share is None or figure.limit is None:
        return ""
    least = "" if figure.floor is None else f", at least {figure.floor:g}%"
    return f"{figure.share:.1f}% of {number(figure.limit)}{least}"
