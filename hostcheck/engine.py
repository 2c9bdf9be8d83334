"""evaluate(): a snapshot and a checklist in, a `Run` out. Pure: nothing here opens a file or runs a command."""

from __future__ import annotations

import datetime as dt
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from hostcheck import __version__
from hostcheck.checklist import Checklist
from hostcheck.errors import NotApplicable, Unavailable
from hostcheck.expect import Expect, ExpectationMissing, Layer
from hostcheck.facts.base import Each, Facts, Subject
from hostcheck.facts.host import introduce, traits
from hostcheck.model import Finding, Host, ProbeEnding, Result, Run, Severity, Status, worst
from hostcheck.registry import Check, Outcome, matches, select
from hostcheck.snapshot.probes import is_given
from hostcheck.snapshot.reading import Ending, Snapshot

_UNMEASURED = "not measured; hostcheck bench does that"


def evaluate(
    snapshot: Snapshot,
    checklist: Checklist,
    checks: Mapping[str, Check],
    layers: Sequence[Layer],
    *,
    fail_on: Severity = Severity.MEDIUM,
    today: str | None = None,
    facts: Facts | None = None,
) -> Run:
    """Judge one snapshot.

    Args:
        snapshot: what was read.
        checklist: what is to be judged.
        checks: the register, by id.
        layers: shipped expectation layers, earliest first; those of the checklist come on top.
        fail_on: failures below this severity do not count.
        today: ISO date on which waivers are held against; the snapshot's own day where none is given.
        facts: the snapshot's facts, where the caller wants to go on using what was parsed.
    """
    facts = facts or Facts(snapshot)
    host_traits = traits(facts)
    taken = dt.datetime.fromtimestamp(snapshot.manifest.time, dt.UTC)
    today = today or taken.date().isoformat()
    every = {**checks, **{made.id: made for made in checklist.checks}}
    chosen = chosen_ids(checklist, every)
    unmeasured = _unmeasured(checklist, every, chosen, snapshot)
    holding = [layer for layer in (*layers, *checklist.layers) if layer.values]
    results = []
    for id in sorted(every):
        expect = Expect(holding, host_traits, tuple(key.name for key in every[id].keys))
        if id in unmeasured:
            findings, trace = [Finding(status=Status.SKIPPED, summary=_UNMEASURED)], ""
        elif id in chosen:
            findings, trace = _judge(every[id], facts, expect)
        else:
            findings, trace = [Finding(status=Status.SKIPPED, summary=_why_skipped(checklist, id))], ""
        findings = [_waive(finding, id, checklist, today) for finding in findings]
        results.append(_result(every[id], findings, trace, required=id in checklist.require))
    return Run(
        tool=__version__,
        host=Host(
            name=snapshot.manifest.hostname,
            taken=taken.isoformat(timespec="seconds"),
            privileged=snapshot.manifest.uid == 0,
            redacted=snapshot.manifest.redacted,
            facts=introduce(facts),
        ),
        checklist=checklist.name,
        role=checklist.role,
        fail_on=fail_on,
        results=tuple(results),
        probes=tuple(
            ProbeEnding(
                id=id,
                ending=reading.ending.value,
                seconds=round(reading.seconds, 3),
                detail="" if reading.ending is Ending.OK else reading.how,
            )
            for id, reading in sorted(snapshot.readings.items())
        ),
        attestations=checklist.attestations,
    )


def chosen_ids(checklist: Checklist, checks: Iterable[str]) -> set[str]:
    """Return the ids of the checks that a checklist runs; what it requires always runs."""
    known = list(checks)
    chosen = select(known, checklist.only) - select(known, checklist.skip)
    return chosen | set(checklist.require)


def _unmeasured(checklist: Checklist, every: Mapping[str, Check], chosen: set[str], snapshot: Snapshot) -> set[str]:
    """Return the chosen checks of what was not measured, but for those that were asked for: they are unknown."""
    asked = set(checklist.require)
    if "*" not in checklist.only:
        asked |= select(every, checklist.only)
    return {
        id
        for id in chosen - asked
        if any(is_given(probe) and probe.id not in snapshot.readings for probe in every[id].probes())
    }


def _why_skipped(checklist: Checklist, id: str) -> str:
    if any(matches(id, pattern) for pattern in checklist.skip):
        return f"skipped by {checklist.who.get('skip', 'the caller')}"
    return f"not selected by {checklist.who.get('only', 'the caller')}"


def _judge(check: Check, facts: Facts, expect: Expect) -> tuple[list[Finding], str]:
    """Return a check's findings, and the traceback of a bug."""
    try:
        values = [facts.get(wanted.fact if isinstance(wanted, Each) else wanted) for wanted in check.needs]
    except Exception as problem:
        return _missing(problem, "")
    if not isinstance(check.needs[0], Each):
        return _call(check, values, expect, "")
    elements, rest = values[0], values[1:]
    if not elements:
        return [Finding(status=Status.NOT_APPLICABLE, summary=f"there is no {_kind(check.needs[0])}")], ""
    findings: list[Finding] = []
    traces = ""
    for element in elements:
        own = expect.of(getattr(element, "traits", {}))
        found, trace = _call(check, [element, *rest], own, _subject(element))
        findings += found
        traces = traces or trace
    return findings, traces


def _call(check: Check, values: Sequence[object], expect: Expect, subject: str) -> tuple[list[Finding], str]:
    findings: list[Finding] = []
    trace = ""
    try:
        outcome: Outcome = check.function(*values, expect)
        for finding in [outcome] if isinstance(outcome, Finding) else outcome:
            findings.append(finding)
    except Exception as problem:
        found, trace = _missing(problem, subject)
        findings += found
    if not findings:
        findings = [Finding(status=Status.NOT_APPLICABLE, summary="nothing here to judge")]
    return [replace(finding, subject=finding.subject or subject or "host") for finding in findings], trace


def _missing(problem: Exception, subject: str) -> tuple[list[Finding], str]:
    """Turn what a fact or a check raised into a finding; anything unforeseen is a bug, with its traceback."""
    subject = subject or "host"
    if isinstance(problem, Unavailable):
        return [Finding(status=Status.UNKNOWN, subject=subject, summary=problem.why, cause=problem.probe)], ""
    if isinstance(problem, NotApplicable):
        return [Finding(status=Status.NOT_APPLICABLE, subject=subject, summary=problem.why)], ""
    if isinstance(problem, ExpectationMissing):
        line = f"no expected value is known for this hardware (set {problem.key!r} in a checklist)"
        return [Finding(status=Status.UNKNOWN, subject=subject, summary=line, cause=problem.key)], ""
    line = f"a bug in hostcheck: {type(problem).__name__}: {problem}"
    trace = "".join(traceback.format_exception(problem))
    return [Finding(status=Status.ERROR, subject=subject, summary=line)], trace


def _subject(element: object) -> str:
    return element.subject if isinstance(element, Subject) else str(element)


def _kind(wanted: Each[Subject]) -> str:
    return wanted.fact.name.split(".", 1)[1].rstrip("s")


def _waive(finding: Finding, id: str, checklist: Checklist, today: str) -> Finding:
    if finding.status in (Status.PASS, Status.NOT_APPLICABLE, Status.SKIPPED):
        return finding
    ended = []
    for rule in checklist.waivers:
        if rule.covers(id, finding.subject, today):
            return replace(finding, waived=rule.waiver)
        if rule.concerns(id, finding.subject):
            ended.append(rule.waiver)
    return replace(finding, expired=max(ended, key=lambda waiver: waiver.until, default=None))


def _result(check: Check, findings: Sequence[Finding], trace: str, *, required: bool) -> Result:
    return Result(
        id=check.id,
        title=check.title,
        subsystem=check.subsystem,
        severity=check.severity,
        status=worst(finding.status for finding in findings),
        findings=tuple(findings),
        rationale=check.rationale,
        rows=check.rows,
        references=check.references,
        required=required,
        traceback=trace,
    )
