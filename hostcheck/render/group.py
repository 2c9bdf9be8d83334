"""How every report groups a run: by what to do, by what is in the way, by subsystem. Pure; no other place does it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from hostcheck.model import Actor, Finding, ProbeEnding, Result, Run, Severity, Status, Waiver, counted, severity_of

STATUSES = (Status.FAIL, Status.ERROR, Status.UNKNOWN, Status.PASS, Status.NOT_APPLICABLE, Status.SKIPPED)
"""All statuses, the one to read first in front."""

_UNDETERMINED = (Status.UNKNOWN, Status.ERROR)
_ANSWERED = ("ok", "absent")

_ACTIONS: tuple[tuple[Actor | None, str, str], ...] = (
    (Actor.REPLACE, "Replace a part", "Hardware is failing; no setting mends it."),
    (Actor.RESET_GPU, "Reset a GPU", "Ends every process on that GPU: drain it first."),
    (Actor.REBOOT, "Reboot the host", "Ends everything that runs on it: drain it first."),
    (Actor.OPERATOR, "Change a setting", "For whoever administers this host."),
    (Actor.TUNE, "Let hostcheck tune", "The plan shows what it would change; each change can be undone."),
    (Actor.APPLICATION, "Change the workload", "For whoever writes or starts the job."),
    (None, "Look into it", "No step is known that mends these by itself."),
)


@dataclass(frozen=True, slots=True)
class Alike:
    """Findings of one check that differ in nothing but the subject and the subject's name in the fix.

    Attributes:
        finding: the first of them.
        subjects: all of them, unfolded.
        fixes: each different fix once.
    """

    finding: Finding
    subjects: tuple[str, ...]
    fixes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Issue:
    """What one check says that one actor has to do.

    Attributes:
        severity: that of the gravest finding.
        counted: whether any of it takes part in the exit code.
        seen: what was seen, alike subjects together.
        fixes: each different fix once, over all subjects.
    """

    result: Result
    severity: Severity
    counted: bool
    seen: tuple[Alike, ...]
    fixes: tuple[str, ...]

    def differing(self, same: Alike) -> str:
        """Return the severity of a line where it is another one than the issue's."""
        severity = severity_of(self.result, same.finding)
        return "" if severity is self.severity else str(severity)

    @property
    def expected(self) -> Finding | None:
        """A finding with nothing but the expectation that all the subjects share; None if there is one line anyway."""
        if len(self.seen) == 1 or len({same.finding.expected for same in self.seen}) > 1:
            return None
        return replace(self.seen[0].finding, observed=None)


@dataclass(frozen=True, slots=True)
class Action:
    """What to do, and the issues that it mends, worst first."""

    actor: Actor | None
    title: str
    lead: str
    issues: tuple[Issue, ...]

    @property
    def findings(self) -> int:
        """How many findings ask for it."""
        return sum(len(seen.subjects) for issue in self.issues for seen in issue.seen)


@dataclass(frozen=True, slots=True)
class Affected:
    """A check and those of its subjects that a cause left without a verdict.

    Attributes:
        counted: whether any of them takes part in the exit code.
        expired: the last date on which one of them was waived; empty if none was.
    """

    id: str
    subjects: tuple[str, ...]
    counted: bool
    expired: str = ""


@dataclass(frozen=True, slots=True)
class Cause:
    """One reason for which something could not be determined.

    Attributes:
        status: unknown, or error for a bug of hostcheck's own.
        name: the probe that gave no answer; empty where it is something else.
        keys: the expectation keys that no layer sets; `reasons` writes KEY in their place where there are several.
        reasons: what was said, each once, most frequent first.
        checks: which checks it left without a verdict.
        probe: how the probe ended, where the cause is one that was read.
    """

    status: Status
    name: str
    keys: tuple[str, ...]
    reasons: tuple[str, ...]
    checks: tuple[Affected, ...]
    probe: ProbeEnding | None

    @property
    def counted(self) -> bool:
        """Whether any of it takes part in the exit code."""
        return any(check.counted for check in self.checks)


@dataclass(frozen=True, slots=True)
class Waived:
    """Findings of one check that one waiver covers."""

    result: Result
    waiver: Waiver
    seen: tuple[Alike, ...]


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason for which checks do not apply or were left out."""

    text: str
    checks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Count:
    """How many checks have a status.

    Attributes:
        uncounted: of them, those that take no part in the exit code: waived, or below the severity that counts.
    """

    status: Status
    checks: int
    uncounted: int


@dataclass(frozen=True, slots=True)
class Subsystem:
    """The results of one subsystem, in id order, and how many there are of each status."""

    name: str
    results: tuple[Result, ...]
    counts: tuple[Count, ...]


def alike(findings: Iterable[Finding]) -> tuple[Alike, ...]:
    """Join findings of one check that say the same of several subjects; order of first appearance."""
    found: dict[Finding, list[Finding]] = {}
    for finding in findings:
        found.setdefault(replace(finding, subject="", fix=""), []).append(finding)
    return tuple(
        Alike(same[0], tuple(each.subject for each in same), _distinct(each.fix for each in same))
        for same in found.values()
    )


def actions(run: Run) -> tuple[Action, ...]:
    """Return the failures that are not waived and more than a note, by who acts, worst first."""
    issues: dict[Actor | None, list[Issue]] = {}
    for result, findings in _failures(run):
        actors: dict[Actor | None, list[Finding]] = {}
        for finding in findings:
            if not _is_note(run, result, finding):
                actors.setdefault(finding.actor, []).append(finding)
        for actor, same in actors.items():
            issues.setdefault(actor, []).append(_issue(run, result, same))
    return tuple(
        Action(actor, title, lead, tuple(sorted(issues[actor], key=lambda issue: issue.severity.rank)))
        for actor, title, lead in _ACTIONS
        if actor in issues
    )


def tunable(run: Run) -> list[str]:
    """Return the ids of the failing checks that `hostcheck tune` can mend."""
    found = {issue.result.id for action in actions(run) for issue in action.issues if action.actor is Actor.TUNE}
    return sorted(found)


def notes(run: Run) -> tuple[Issue, ...]:
    """Return the failures that are worth a word and nothing more."""
    found = []
    for result, findings in _failures(run):
        if said := [finding for finding in findings if _is_note(run, result, finding)]:
            found.append(_issue(run, result, said))
    return tuple(found)


def causes(run: Run) -> tuple[Cause, ...]:
    """Return what could not be determined and is not waived, by what was in the way; most checks first."""
    endings = {probe.id: probe for probe in run.probes}
    groups: dict[tuple[Status, str], list[tuple[Result, Finding]]] = {}
    for result in run.results:
        for finding in result.findings:
            if finding.status in _UNDETERMINED and finding.waived is None:
                groups.setdefault((finding.status, _obstacle(finding, endings)), []).append((result, finding))
    found = [_cause(run, status, pairs, endings) for (status, _), pairs in groups.items()]
    return tuple(sorted(found, key=lambda cause: (STATUSES.index(cause.status), not cause.counted, -len(cause.checks))))


def unmet(run: Run) -> tuple[Result, ...]:
    """Return the required checks that did not pass."""
    return tuple(result for result in run.results if result.required and result.status is not Status.PASS)


def waived(run: Run) -> tuple[Waived, ...]:
    """Return what the checklist waives, by check and waiver."""
    found = []
    for result in run.results:
        rules: dict[Waiver, list[Finding]] = {}
        for finding in result.findings:
            if finding.waived is not None:
                rules.setdefault(finding.waived, []).append(finding)
        found += [Waived(result, waiver, alike(findings)) for waiver, findings in rules.items()]
    return tuple(found)


def reasons(run: Run, status: Status) -> tuple[Reason, ...]:
    """Return why checks have a status such as not-applicable; the reason of most checks first."""
    found: dict[str, list[str]] = {}
    for result in run.results:
        if result.status is status:
            for text in _distinct(finding.summary for finding in result.findings if finding.status is status):
                found.setdefault(text, []).append(result.id)
    return tuple(Reason(text, tuple(ids)) for text, ids in sorted(found.items(), key=lambda item: -len(item[1])))


def counts(run: Run, results: Sequence[Result] | None = None) -> tuple[Count, ...]:
    """Return how many checks there are of each status that occurs, in the order of STATUSES; of all, or of some."""
    total: Counter[Status] = Counter()
    uncounted: Counter[Status] = Counter()
    for result in run.results if results is None else results:
        total[result.status] += 1
        if result.status in (Status.FAIL, *_UNDETERMINED) and not _counts(run, result):
            uncounted[result.status] += 1
    return tuple(Count(status, total[status], uncounted[status]) for status in STATUSES if total[status])


def gravest(result: Result) -> Severity:
    """Return how much a result matters: the gravest of the findings that make its status."""
    found = (severity_of(result, each) for each in result.findings if each.status is result.status)
    return min(found, key=lambda severity: severity.rank, default=result.severity)


def severities(run: Run) -> tuple[Severity, ...]:
    """Return the severities that the run's results have, most severe first."""
    found = {gravest(result) for result in run.results}
    return tuple(severity for severity in Severity if severity in found)


def subsystems(run: Run) -> tuple[Subsystem, ...]:
    """Return all results by subsystem."""
    found: dict[str, list[Result]] = {}
    for result in run.results:
        found.setdefault(result.subsystem, []).append(result)
    return tuple(Subsystem(name, tuple(results), counts(run, results)) for name, results in found.items())


def silent(run: Run) -> tuple[ProbeEnding, ...]:
    """Return the probes that gave no answer; that something is absent is an answer."""
    return tuple(probe for probe in run.probes if probe.ending not in _ANSWERED)


def by_status(result: Result) -> tuple[Alike, ...]:
    """Return a check's findings, alike ones joined, the status to read first in front."""
    return tuple(sorted(alike(result.findings), key=lambda same: STATUSES.index(same.finding.status)))


def _counts(run: Run, result: Result) -> bool:
    return any(each.status is result.status and counted(run, result, each) for each in result.findings)


def _failures(run: Run) -> Iterable[tuple[Result, list[Finding]]]:
    for result in run.results:
        yield result, [each for each in result.findings if each.status is Status.FAIL and each.waived is None]


def _is_note(run: Run, result: Result, finding: Finding) -> bool:
    return severity_of(result, finding) is Severity.INFO and not counted(run, result, finding)


def _issue(run: Run, result: Result, findings: Sequence[Finding]) -> Issue:
    severities = [severity_of(result, finding) for finding in findings]
    return Issue(
        result=result,
        severity=min(severities, key=lambda severity: severity.rank),
        counted=any(counted(run, result, finding) for finding in findings),
        seen=alike(findings),
        fixes=_distinct(finding.fix for finding in findings),
    )


def _obstacle(finding: Finding, endings: dict[str, ProbeEnding]) -> str:
    """Return what findings of one cause have in common.

    That is the probe. Where an expectation is missing, it is the sentence without the key, so that hardware that no
    layer knows reads as one cause with many keys.
    """
    if _is_key(finding, endings):
        return _without_key(finding)
    return finding.cause or finding.summary


def _is_key(finding: Finding, endings: dict[str, ProbeEnding]) -> bool:
    return bool(finding.cause) and finding.cause not in endings and f"'{finding.cause}'" in finding.summary


def _without_key(finding: Finding) -> str:
    return finding.summary.replace(f"'{finding.cause}'", "KEY")


def _cause(run: Run, status: Status, pairs: Sequence[tuple[Result, Finding]], endings: dict[str, ProbeEnding]) -> Cause:
    first = pairs[0][1]
    keys = _distinct(finding.cause for _, finding in pairs) if _is_key(first, endings) else ()
    said = Counter(_without_key(finding) if len(keys) > 1 else finding.summary for _, finding in pairs)
    checks: dict[str, list[tuple[Result, Finding]]] = {}
    for result, finding in pairs:
        checks.setdefault(result.id, []).append((result, finding))
    return Cause(
        status=status,
        name="" if keys else first.cause,
        keys=keys if len(keys) > 1 else (),
        reasons=tuple(text for text, _ in said.most_common()),
        checks=tuple(
            Affected(
                id,
                tuple(finding.subject for _, finding in own),
                any(counted(run, result, finding) for result, finding in own),
                max((finding.expired.until for _, finding in own if finding.expired), default=""),
            )
            for id, own in checks.items()
        ),
        probe=endings.get(first.cause),
    )


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in texts if text))
