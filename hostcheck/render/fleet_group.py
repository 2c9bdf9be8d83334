"""How every report of a fleet groups it: hosts by verdict, findings by how many hosts they touch. Pure.

A line of a fleet's report is what several hosts share. Two hosts share a finding if nothing differs but the host;
where a measured number differs on each of many hosts, the lines are joined once more, and the range is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from hostcheck.model import (
    Absentee,
    Actor,
    Difference,
    Finding,
    FleetRun,
    Outlier,
    Result,
    Run,
    Severity,
    Status,
    Waiver,
    exit_code,
)
from hostcheck.render import group
from hostcheck.render.fleet_hosts import NAMES_ITSELF, short_name

NOT_READ = "not read"
"""Stands among a difference's values for hosts on which it could not be read."""
_JOINED_FROM = 8
"""More lines than this that differ in a number only are joined into one."""

_DIGITS = re.compile(r"[0-9]+(\.[0-9]+)?")
_CODES = (1, 3, 0)


@dataclass(frozen=True, slots=True)
class Absence:
    """Hosts that could not be judged, for one reason.

    Attributes:
        why: the reason, with HOST in place of the name where it holds the name.
    """

    reach: str
    why: str
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What left checks without a verdict, on all hosts where it did.

    Attributes:
        text: what is in the way.
        status: unknown, or error for a bug of hostcheck's own.
        checks: the ids that it touches on some host.
        counted: whether it takes part in the exit code of one of the hosts.
    """

    text: str
    status: Status
    hosts: tuple[str, ...]
    checks: tuple[str, ...]
    counted: bool


@dataclass(frozen=True, slots=True)
class Line:
    """What several hosts have in common.

    Attributes:
        finding: of the first of them.
        subjects: which parts of each host; empty where they are not the same on all.
        hosts: whose.
        joined: how many lines it stands for, which differ in numbers only.
        low, high: the range of the observed numbers, where lines were joined.
    """

    finding: Finding
    subjects: tuple[str, ...]
    hosts: tuple[str, ...]
    joined: int = 1
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class FleetIssue:
    """What one check says, on all hosts where it says it.

    Attributes:
        counted: whether any of it takes part in an exit code.
        hosts: all that it touches.
        seen: what was seen, most hosts first.
        fixes: each different fix once.
    """

    result: Result
    actor: Actor | None
    severity: Severity
    counted: bool
    hosts: tuple[str, ...]
    seen: tuple[Line, ...]
    fixes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Exempt:
    """What a waiver covers, or what was required and did not pass: one check, and the hosts."""

    check: str
    hosts: tuple[str, ...]
    waiver: Waiver | None = None
    status: Status = Status.FAIL


@dataclass(frozen=True, slots=True)
class Standing:
    """The hosts of one verdict: its exit code, or None for those that could not be judged."""

    code: int | None
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Odd:
    """Hosts that differ from their equals in the same facts.

    Attributes:
        group: what they have in common with their equals.
        facts: (label, their value, the value of most, how many have that).
    """

    hosts: tuple[str, ...]
    group: str
    facts: tuple[tuple[str, str, str, int], ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """A host that gives itself another name.

    Attributes:
        other: the host of this fleet that has that name; empty where none has.
    """

    host: str
    name: str
    other: str


@dataclass(frozen=True, slots=True)
class Away:
    """Hosts that share an outlier, which names none of them."""

    outlier: Outlier
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Far:
    """The outliers of one measure in one group, the farthest first."""

    measure: str
    group: str
    seen: tuple[Away, ...]


def standings(fleet: FleetRun) -> tuple[Standing, ...]:
    """Return the hosts by verdict: those that could not be judged, failing, undetermined, passing."""
    found: dict[int | None, list[str]] = {None: [each.name for each in fleet.absent]}
    for name, run in fleet.runs.items():
        found.setdefault(exit_code(run), []).append(name)
    return tuple(Standing(code, tuple(found[code])) for code in (None, *_CODES) if found.get(code))


def absences(fleet: FleetRun) -> tuple[Absence, ...]:
    """Return the hosts that could not be judged by reason, most hosts first."""
    found: dict[tuple[str, str], list[str]] = {}
    for each in fleet.absent:
        found.setdefault((each.reach, _unnamed(each)), []).append(each.name)
    by_number = sorted(found.items(), key=lambda item: -len(item[1]))
    return tuple(
        Absence(reach, why if len(hosts) > 1 else why.replace("HOST", hosts[0]), tuple(hosts))
        for (reach, why), hosts in by_number
    )


def _unnamed(absentee: Absentee) -> str:
    if not absentee.name:
        return absentee.why
    why = absentee.why.removeprefix(f"{absentee.name}: ")
    return re.sub(rf"(?<![\w.-]){re.escape(absentee.name)}(?![\w-])", "HOST", why)


def obstacles(fleet: FleetRun) -> tuple[Obstacle, ...]:
    """Return what could not be determined by what was in the way: errors first, then by hosts and by checks."""
    found: dict[tuple[Status, str], list[tuple[str, group.Cause]]] = {}
    for name, run in fleet.runs.items():
        for cause in group.causes(run):
            found.setdefault((cause.status, _reason(cause)), []).append((name, cause))
    made = (
        Obstacle(
            text=text,
            status=status,
            hosts=tuple(dict.fromkeys(name for name, _ in seen)),
            checks=tuple(dict.fromkeys(check.id for _, cause in seen for check in cause.checks)),
            counted=any(cause.counted for _, cause in seen),
        )
        for (status, text), seen in found.items()
    )
    return tuple(
        sorted(
            made,
            key=lambda each: (not each.counted, each.status is not Status.ERROR, -len(each.hosts), -len(each.checks)),
        )
    )


def _reason(cause: group.Cause) -> str:
    """Return the same text for the same obstacle on any host; a duration is no part of it."""
    if len(cause.reasons) == 1:
        keys = f"; KEY: {', '.join(cause.keys)}" if cause.keys else ""
        return cause.reasons[0] + keys
    if cause.probe and cause.probe.ending not in ("ok", "absent"):
        return f"{cause.name}: {cause.probe.detail or cause.probe.ending}"
    return f"{cause.name}: {'; '.join(sorted(cause.reasons)[:3])}"


def fleet_issues(fleet: FleetRun) -> tuple[FleetIssue, ...]:
    """Return the failures that are not waived and more than a note; what counts and touches most hosts first."""
    found: dict[tuple[str, Actor | None], list[tuple[str, group.Issue]]] = {}
    for name, run in fleet.runs.items():
        for action in group.actions(run):
            for issue in action.issues:
                found.setdefault((issue.result.id, action.actor), []).append((name, issue))
    made = (_issue(actor, seen) for (_, actor), seen in found.items())
    return tuple(
        sorted(made, key=lambda each: (not each.counted, -len(each.hosts), each.severity.rank, each.result.id))
    )


def fleet_notes(fleet: FleetRun) -> tuple[FleetIssue, ...]:
    """Return the failures that are worth a word and nothing more."""
    found: dict[str, list[tuple[str, group.Issue]]] = {}
    for name, run in fleet.runs.items():
        for issue in group.notes(run):
            found.setdefault(issue.result.id, []).append((name, issue))
    return tuple(_issue(None, seen) for seen in found.values())


def _issue(actor: Actor | None, seen: Sequence[tuple[str, group.Issue]]) -> FleetIssue:
    lines: dict[tuple[Finding, tuple[str, ...]], list[str]] = {}
    fixes: dict[str, None] = {}
    for name, issue in seen:
        fixes.update(dict.fromkeys(issue.fixes))
        for same in issue.seen:
            bare = replace(same.finding, subject="", fix="")
            lines.setdefault((bare, same.subjects), []).append(name)
    made = [Line(finding, subjects, tuple(hosts)) for (finding, subjects), hosts in lines.items()]
    if len(made) > _JOINED_FROM:
        made = _joined(made)
    return FleetIssue(
        result=seen[0][1].result,
        actor=actor,
        severity=min((issue.severity for _, issue in seen), key=lambda severity: severity.rank),
        counted=any(issue.counted for _, issue in seen),
        hosts=tuple(dict.fromkeys(name for name, _ in seen)),
        seen=tuple(sorted(made, key=lambda line: -len(line.hosts))),
        fixes=tuple(fixes),
    )


def _joined(lines: Sequence[Line]) -> list[Line]:
    """Join lines that differ in numbers only."""
    alike: dict[tuple[object, ...], list[Line]] = {}
    for line in lines:
        finding = line.finding
        text = _DIGITS.sub("0", finding.summary)
        alike.setdefault((text, finding.expected, finding.severity, finding.status), []).append(line)
    joined = []
    for same in alike.values():
        first = same[0]
        if len(same) == 1:
            joined.append(first)
            continue
        numbers = [number for line in same if (number := _number(line.finding.observed)) is not None]
        joined.append(
            Line(
                finding=first.finding,
                subjects=first.subjects if len({line.subjects for line in same}) == 1 else (),
                hosts=tuple(dict.fromkeys(host for line in same for host in line.hosts)),
                joined=len(same),
                low=min(numbers) if len(numbers) == len(same) else None,
                high=max(numbers) if len(numbers) == len(same) else None,
            )
        )
    return joined


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def fleet_unmet(fleet: FleetRun) -> tuple[Exempt, ...]:
    """Return the required checks that did not pass, by check and status."""
    found: dict[tuple[str, Status], list[str]] = {}
    for name, run in fleet.runs.items():
        for result in group.unmet(run):
            found.setdefault((result.id, result.status), []).append(name)
    return tuple(Exempt(id, tuple(hosts), status=status) for (id, status), hosts in found.items())


def fleet_waived(fleet: FleetRun) -> tuple[Exempt, ...]:
    """Return what checklists waive, by check and waiver."""
    found: dict[tuple[str, Waiver], list[str]] = {}
    for name, run in fleet.runs.items():
        for waived in group.waived(run):
            found.setdefault((waived.result.id, waived.waiver), []).append(name)
    return tuple(Exempt(id, tuple(hosts), waiver=waiver) for (id, waiver), hosts in found.items())


def odd_ones(fleet: FleetRun) -> tuple[Odd, ...]:
    """Return the hosts that differ from their equals, those that differ in the same facts together."""
    return _odd(fleet.differences, unread=False)


def uncompared(fleet: FleetRun) -> tuple[Odd, ...]:
    """Return the hosts of which something could not be compared, because it could not be read there."""
    return _odd(fleet.differences, unread=True)


def _odd(differences: Iterable[Difference], *, unread: bool) -> tuple[Odd, ...]:
    found: dict[tuple[str, tuple[str, ...]], list[tuple[str, str, str, int]]] = {}
    for each in differences:
        for value, hosts in each.minorities.items():
            if (value == NOT_READ) is unread:
                found.setdefault((each.group, hosts), []).append((each.fact, value, each.majority, each.majority_hosts))
    made = (Odd(hosts, label, tuple(facts)) for (label, hosts), facts in found.items())
    return tuple(sorted(made, key=lambda odd: (-len(odd.hosts), -len(odd.facts))))


def far_ones(fleet: FleetRun) -> tuple[Far, ...]:
    """Return the outliers by measure and group, the farthest first."""
    found: dict[tuple[str, str], dict[Outlier, list[str]]] = {}
    for each in fleet.outliers:
        same = found.setdefault((each.measure, each.group), {})
        same.setdefault(replace(each, host=""), []).append(each.host)
    return tuple(
        Far(measure, label, tuple(Away(outlier, tuple(hosts)) for outlier, hosts in same.items()))
        for (measure, label), same in found.items()
    )


def claims(fleet: FleetRun) -> tuple[Claim, ...]:
    """Return the hosts that name themselves otherwise; those that take the name of another host first."""
    short = {short_name(name): name for name in (*(each.name for each in fleet.absent), *fleet.runs)}
    found = []
    for name, run in fleet.runs.items():
        if said := run.host.facts.get(NAMES_ITSELF):
            other = short.get(short_name(said), "")
            found.append(Claim(name, said, other if other != name else ""))
    return tuple(sorted(found, key=lambda claim: not claim.other))


def judged_by(fleet: FleetRun) -> Mapping[tuple[str, str], tuple[str, ...]]:
    """Return checklist and role to the hosts that were judged by them."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, run in fleet.runs.items():
        found.setdefault((run.checklist, run.role), []).append(name)
    return {key: tuple(hosts) for key, hosts in found.items()}


def introductions(runs: Mapping[str, Run]) -> Mapping[str, tuple[str, ...]]:
    """Return hardware in words, as the hosts introduce themselves, to those that have it; most hosts first."""
    found: dict[str, list[str]] = {}
    for name, run in runs.items():
        parts = (run.host.facts.get(label, "") for label in ("GPUs", "CPU"))
        found.setdefault(", ".join(filter(None, parts)) or "not told", []).append(name)
    return {text: tuple(hosts) for text, hosts in sorted(found.items(), key=lambda item: -len(item[1]))}
