"""What the engine makes of findings, of missing facts, and of bugs."""

from __future__ import annotations

import pytest

from hostcheck.checklist import Checklist, WaiverRule
from hostcheck.engine import evaluate
from hostcheck.errors import NotApplicable, Unavailable, need
from hostcheck.expect import Key, failed, passed
from hostcheck.facts.base import Fact, Optional, each
from hostcheck.model import Severity, Status, Waiver, exit_code, nagios_code, worst
from hostcheck.registry import Check
from hostcheck.snapshot.probes import CommandProbe, FileProbe
from hostcheck.snapshot.reading import Ending, Manifest, Reading, Snapshot

PROBE = FileProbe("memory.test", ("/x",))
TOOL = CommandProbe("memory.tool", ("tool",))
TEXT = Fact("memory.test-text", lambda reading: reading.read("/x"), PROBE)
WORDS = Fact("memory.test-words", lambda text: tuple(text.split()), TEXT)
EITHER = Fact(
    "memory.test-either", lambda tool, text: text if isinstance(tool, Unavailable) else "tool", Optional(TOOL), TEXT
)
UNSET = Key("test.unset", int)


def snapshot(text: str | None = "a b", ending: Ending = Ending.OK) -> Snapshot:
    from hostcheck.snapshot.reading import FileState

    files = {} if text is None else {"/x": FileState(Ending.OK, text.encode())}
    reading = Reading("memory.test", ending, asked=("/x",), files=files if ending is Ending.OK else {})
    return Snapshot(Manifest(1, "t", "local", 0.0, 1.0, "h", 0), {"memory.test": reading})


def made(function, *needs, severity=Severity.MEDIUM, keys=()) -> Check:
    return Check("memory.test", "True.", "Why.", severity, needs, function, keys=keys)


def run(check: Check, snap: Snapshot | None = None, checklist: Checklist | None = None, **options):
    return evaluate(snap or snapshot(), checklist or Checklist(), {check.id: check}, [], **options)


def only(result_run):
    (result,) = result_run.results
    return result


def test_findings_get_their_subject_and_the_result_its_worst() -> None:
    def judge(word, expect):
        return passed(f"{word} is fine") if word == "a" else failed(f"{word} is not")

    result = only(run(made(judge, each(WORDS))))
    assert [(f.subject, f.status) for f in result.findings] == [("a", Status.PASS), ("b", Status.FAIL)]
    assert result.status is Status.FAIL


def test_a_missing_fact_is_unknown_with_its_probe() -> None:
    result = only(run(made(lambda text, expect: passed(text), TEXT), snapshot(ending=Ending.DENIED)))
    assert result.status is Status.UNKNOWN
    assert result.findings[0].cause == "memory.test"
    assert "denied" in result.findings[0].summary


def test_a_probe_that_was_not_collected_is_unknown() -> None:
    nothing = Snapshot(snapshot().manifest, {})
    assert only(run(made(lambda text, expect: passed(text), TEXT), nothing)).status is Status.UNKNOWN


def test_an_empty_sequence_is_not_applicable_never_a_pass() -> None:
    result = only(run(made(lambda word, expect: passed(word), each(WORDS)), snapshot("")))
    assert result.status is Status.NOT_APPLICABLE


def test_a_check_that_yields_nothing_is_not_applicable() -> None:
    assert only(run(made(lambda text, expect: [], TEXT))).status is Status.NOT_APPLICABLE


def test_one_element_that_lacks_something_does_not_touch_the_others() -> None:
    def judge(word, expect):
        if word == "a":
            need(Unavailable("a has none", "p"))
        if word == "b":
            raise NotApplicable("b has no such thing")
        return passed(word)

    result = only(run(made(judge, each(WORDS)), snapshot("a b c")))
    assert [f.status for f in result.findings] == [Status.UNKNOWN, Status.NOT_APPLICABLE, Status.PASS]
    assert result.status is Status.UNKNOWN


def test_a_bug_is_an_error_with_its_traceback_and_keeps_what_was_found() -> None:
    def judge(text, expect):
        yield failed("bad")
        raise KeyError("oops")

    result = only(run(made(judge, TEXT)))
    assert [f.status for f in result.findings] == [Status.FAIL, Status.ERROR]
    assert "KeyError" in result.traceback
    broken = Fact("memory.test-broken", lambda reading: 1 // 0, PROBE)
    assert only(run(made(lambda value, expect: passed("x"), broken))).status is Status.ERROR


def test_no_expectation_no_verdict() -> None:
    result = only(run(made(lambda text, expect: expect(UNSET).judge(1), TEXT, keys=(UNSET,))))
    assert result.status is Status.UNKNOWN
    assert result.findings[0].cause == "test.unset"


def test_an_optional_source_may_be_missing() -> None:
    check = made(lambda text, expect: passed(text), EITHER)
    assert only(run(check)).findings[0].summary == "a b"
    assert [probe.id for probe in check.probes()] == ["memory.tool", "memory.test"]
    assert [probe.id for probe in check.probes(required_only=True)] == ["memory.test"]


def test_deselected_is_skipped_with_who() -> None:
    checklist = Checklist(skip=("memory.test",), who={"skip": "--skip"})
    result = only(run(made(lambda text, expect: passed(text), TEXT), checklist=checklist))
    assert (result.status, result.findings[0].summary) == (Status.SKIPPED, "skipped by --skip")
    required = Checklist(skip=("memory.test",), require=("memory.test",))
    assert only(run(made(lambda text, expect: passed(text), TEXT), checklist=required)).status is Status.PASS


def test_a_waiver_counts_until_its_day() -> None:
    rule = WaiverRule("memory.test", "*", Waiver(reason="known", until="1970-01-10"))
    check = made(lambda text, expect: failed("bad"), TEXT)
    waived = run(check, checklist=Checklist(waivers=(rule,)), today="1970-01-10")
    assert (only(waived).status, exit_code(waived)) == (Status.FAIL, 0)
    assert only(waived).findings[0].expired is None
    ended = run(check, checklist=Checklist(waivers=(rule,)), today="1970-01-11")
    assert exit_code(ended) == 1
    assert (only(ended).findings[0].waived, only(ended).findings[0].expired) == (None, rule.waiver)


def test_the_last_waiver_to_end_is_told_and_only_of_its_finding() -> None:
    rules = tuple(
        WaiverRule(check, subject, Waiver(reason=until, until=until))
        for check, subject, until in (
            ("memory.test", "host", "1970-01-03"),
            ("memory.test", "*", "1970-01-02"),
            ("memory.test", "gpu0", "1970-01-04"),
            ("memory.other", "*", "1970-01-05"),
        )
    )

    def told(check: Check, waivers: tuple[WaiverRule, ...]) -> tuple[Waiver | None, Waiver | None]:
        found = only(run(check, checklist=Checklist(waivers=waivers), today="1970-01-11")).findings[0]
        return found.waived, found.expired

    failing = made(lambda text, expect: failed("bad", subject="host"), TEXT)
    assert told(failing, rules) == (None, rules[0].waiver)
    holding = WaiverRule("memory.test", "*", Waiver(reason="known", until="1970-02-01"))
    assert told(failing, (*rules, holding)) == (holding.waiver, None)
    assert told(made(lambda text, expect: passed("good"), TEXT), rules) == (None, None)


@pytest.mark.parametrize(
    ("outcome", "severity", "fail_on", "code", "nagios"),
    [
        (passed("x"), Severity.HIGH, Severity.MEDIUM, 0, 0),
        (failed("x"), Severity.HIGH, Severity.MEDIUM, 1, 2),
        (failed("x"), Severity.MEDIUM, Severity.MEDIUM, 1, 1),
        (failed("x"), Severity.LOW, Severity.MEDIUM, 0, 0),
        (failed("x"), Severity.LOW, Severity.LOW, 1, 1),
        (failed("x"), Severity.INFO, Severity.LOW, 0, 0),
    ],
)
def test_exit_codes(outcome, severity, fail_on, code, nagios) -> None:
    judged = run(made(lambda text, expect: outcome, TEXT, severity=severity), fail_on=fail_on)
    assert (exit_code(judged), nagios_code(judged)) == (code, nagios)


def test_what_is_unknown_or_required_and_not_passed_is_three() -> None:
    check = made(lambda text, expect: passed(text), TEXT)
    assert exit_code(run(check, snapshot(ending=Ending.TIMEOUT))) == 3
    low = made(lambda text, expect: failed("x"), TEXT, severity=Severity.LOW)
    assert exit_code(run(low)) == 0
    assert exit_code(run(low, checklist=Checklist(require=("memory.test",)))) == 3


def test_an_audit_that_judged_nothing_is_three() -> None:
    assert exit_code(run(made(lambda text, expect: [], TEXT))) == 3


def test_unknown_outranks_pass_and_failure_outranks_all() -> None:
    assert worst([Status.PASS, Status.UNKNOWN]) is Status.UNKNOWN
    assert worst([Status.PASS, Status.NOT_APPLICABLE, Status.SKIPPED]) is Status.PASS
    assert worst(Status) is Status.FAIL
    assert worst([]) is Status.NOT_APPLICABLE
