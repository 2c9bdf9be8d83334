"""Groups hold each finding once, in the order in which it is to be read, and never judge by themselves."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

import runs
from hostcheck.model import Actor, Finding, ProbeEnding, Result, Run, Severity, Status, Waiver, exit_code
from hostcheck.render import group, words

WAIVER = Waiver(reason="ticket 4711", until="2027-01-31")

FINDINGS = st.builds(
    Finding,
    status=st.sampled_from(Status),
    subject=st.sampled_from(["host", "gpu0", "gpu1", "gpu2"]),
    summary=st.sampled_from(["one", "probe.a: timeout", "set 'key.a' in a checklist", "set 'key.b' in a checklist"]),
    severity=st.none() | st.sampled_from(Severity),
    actor=st.none() | st.sampled_from(Actor),
    fix=st.sampled_from(["", "do a", "do b"]),
    cause=st.sampled_from(["", "probe.a", "key.a", "key.b"]),
    waived=st.none() | st.just(WAIVER),
)  # fmt: skip


@st.composite
def any_run(draw: st.DrawFn) -> Run:
    made: list[Result] = []
    for number in range(draw(st.integers(0, 5))):
        found = draw(st.lists(FINDINGS, min_size=1, max_size=4))
        severity = draw(st.sampled_from(Severity))
        made.append(runs.result(f"gpu.check-{number}", *found, severity=severity, required=draw(st.booleans())))
    return runs.run(
        *made,
        fail_on=draw(st.sampled_from(Severity)),
        probes=[ProbeEnding(id="probe.a", ending="timeout", seconds=3.0)],
    )


@given(any_run())
def test_each_finding_is_told_once(run: Run) -> None:
    told: Counter[tuple[str, str]] = Counter()
    for issue in [issue for action in group.actions(run) for issue in action.issues] + list(group.notes(run)):
        told.update((issue.result.id, "fail") for same in issue.seen for _ in same.subjects)
    for cause in group.causes(run):
        for check in cause.checks:
            told.update((check.id, str(cause.status)) for _ in check.subjects)
    for waived in group.waived(run):
        told.update((waived.result.id, "waived") for same in waived.seen for _ in same.subjects)

    wanted: Counter[tuple[str, str]] = Counter()
    for result in run.results:
        for finding in result.findings:
            if finding.waived is not None:
                wanted[result.id, "waived"] += 1
            elif finding.status in (Status.FAIL, Status.UNKNOWN, Status.ERROR):
                wanted[result.id, str(finding.status)] += 1
    assert told == wanted


@given(any_run())
def test_verdict_is_the_models(run: Run) -> None:
    verdict = words.verdict(run)
    judged = any(result.status not in (Status.NOT_APPLICABLE, Status.SKIPPED) for result in run.results)

    assert verdict.code == exit_code(run)
    assert verdict.word == {0: "pass", 1: "fail", 3: "undetermined" if judged else "nothing judged"}[verdict.code]
    assert ("failed (" in verdict.line) == (verdict.code == 1)
    assert verdict.line.endswith(".")
    assert sum(count.checks for count in group.counts(run)) == len(run.results)


@given(any_run())
def test_actions_are_in_order(run: Run) -> None:
    order = [Actor.REPLACE, Actor.RESET_GPU, Actor.REBOOT, Actor.OPERATOR, Actor.TUNE, Actor.APPLICATION, None]
    actions = group.actions(run)

    assert [order.index(action.actor) for action in actions] == sorted(order.index(action.actor) for action in actions)
    for action in actions:
        assert [issue.severity.rank for issue in action.issues] == sorted(
            issue.severity.rank for issue in action.issues
        )


def test_one_fix_for_many_subjects_is_given_once() -> None:
    issue = next(
        issue
        for action in group.actions(runs.mixed())
        for issue in action.issues
        if issue.result.id == "gpu.persistence"
    )

    assert issue.fixes == ("sudo systemctl enable --now nvidia-persistenced",)
    assert [same.subjects for same in issue.seen] == [tuple(f"gpu{n}" for n in range(8))]


def test_severities_of_one_check_are_one_issue_under_the_gravest() -> None:
    low = runs.finding("fail", "somewhat", subject="a", severity=Severity.LOW, actor=Actor.OPERATOR, fix="do it")
    high = runs.finding("fail", "much", subject="b", severity=Severity.HIGH, actor=Actor.OPERATOR, fix="do it")
    (action,) = group.actions(runs.run(runs.result("gpu.one", low, high)))
    (issue,) = action.issues

    assert (issue.severity, issue.counted, issue.fixes) == (Severity.HIGH, True, ("do it",))
    assert [issue.differing(same) for same in issue.seen] == ["low", ""]


def test_an_expectation_that_all_lines_share_is_given_once() -> None:
    issues = {issue.result.id: issue for action in group.actions(runs.mixed()) for issue in action.issues}
    shared = issues["gpu.power-limit"].expected

    assert shared is not None
    assert words.compared(shared) == "expected at least 700 W"
    assert issues["gpu.persistence"].expected is None


def test_a_low_failure_is_shown_and_does_not_count() -> None:
    issues = {issue.result.id: issue for action in group.actions(runs.mixed()) for issue in action.issues}

    assert not issues["memory.swappiness"].counted
    assert issues["gpu.persistence"].counted


def test_unknowns_of_one_probe_are_one_cause() -> None:
    cause = next(cause for cause in group.causes(runs.mixed()) if cause.name == "gpu.nvlink")

    assert [check.id for check in cause.checks] == ["nvlink.active", "nvlink.errors", "nvlink.speed"]
    assert words.headline(cause) == "gpu.nvlink: timeout after 30 s"
    assert words.affected(cause.checks[1], "gpu[0-7]") == "nvlink.errors (gpu[0-7])"
    assert words.affected(cause.checks[0], "host") == "nvlink.active"


def test_missing_expectations_are_one_cause() -> None:
    cause = next(cause for cause in group.causes(runs.mixed()) if cause.keys)

    assert cause.keys == ("bench.gemm", "bench.hbm")
    assert words.headline(cause) == "no expected value is known for this hardware (set KEY in a checklist)"


def test_a_single_missing_expectation_names_its_key() -> None:
    summary = "no expected value is known for this hardware (set 'gpu.x' in a checklist)"
    (cause,) = group.causes(runs.run(runs.result("gpu.x", runs.finding("unknown", summary, cause="gpu.x"))))

    assert words.headline(cause) == summary


def test_of_one_cause_each_check_counts_by_itself() -> None:
    high = runs.result("gpu.high", runs.finding("unknown", "gpu.smi: timeout", cause="gpu.smi"), severity="high")
    low = runs.result("gpu.low", runs.finding("unknown", "gpu.smi: timeout", cause="gpu.smi"), severity="low")
    run = runs.run(high, low)
    (cause,) = group.causes(run)

    assert [check.counted for check in cause.checks] == [True, False]
    assert words.verdict(run).line == "1 check could not be determined, 1 more undetermined below medium."
    assert words.tally(group.counts(run)) == "2 unknown (1 not counted)"


def test_several_reasons_of_one_probe() -> None:
    cause = next(cause for cause in group.causes(runs.mixed()) if cause.name == "pci.config")

    assert len(cause.reasons) == 2
    assert words.headline(cause) == "pci.config: 2 reasons"


def test_reading_as_root_is_offered_only_to_others() -> None:
    run = runs.mixed()

    assert words.refused(run, group.causes(run)) == 2
    denied = runs.result("pci.acs", runs.finding("unknown", "config: denied", cause="pci.config"))
    assert words.refused(runs.run(denied), group.causes(runs.run(denied))) == 0
    partly = runs.result("pci.acs", runs.finding("unknown", "only root reads beyond 64 bytes", cause="pci.config"))
    users = runs.run(partly, privileged=False)
    assert words.refused(users, group.causes(users)) == 1


def test_uncounted_are_told_apart() -> None:
    counts = {count.status: count for count in group.counts(runs.mixed())}

    assert (counts[Status.FAIL].checks, counts[Status.FAIL].uncounted) == (10, 3)
    assert (counts[Status.UNKNOWN].checks, counts[Status.UNKNOWN].uncounted) == (7, 0)
    assert words.tally(group.counts(runs.mixed())).startswith("10 fail (3 not counted), 1 error, 7 unknown")


def test_absent_is_an_answer() -> None:
    assert [probe.id for probe in group.silent(runs.mixed())] == ["gpu.nvlink"]


def test_required_checks_that_did_not_pass() -> None:
    assert [result.id for result in group.unmet(runs.mixed())] == ["nvlink.speed"]
    not_there = runs.result("rdma.width", runs.finding("not-applicable", "no device"), required=True)
    verdict = words.verdict(runs.run(runs.result("gpu.one"), not_there))
    assert (verdict.code, verdict.line) == (3, "1 required check did not pass.")


def test_nothing_judged_is_no_praise() -> None:
    skipped = runs.result("gpu.one", runs.finding("skipped", "not selected"))

    assert words.verdict(runs.run(skipped)).word == "nothing judged"
    assert words.verdict(runs.empty()).word == "nothing judged"


def test_reasons_of_the_not_applicable() -> None:
    (reason,) = group.reasons(runs.mixed(), Status.NOT_APPLICABLE)

    assert reason == group.Reason("there is no InfiniBand or RoCE device", ("rdma.link-speed", "rdma.link-width"))


@pytest.mark.parametrize(
    ("result", "line"),
    [
        (runs.result("gpu.one", title="It is well."), "It is well."),
        (runs.result("gpu.one", runs.finding("fail", "it is not")), "it is not"),
        (
            runs.result(
                "gpu.one",
                *(runs.finding("fail", "off", subject=f"gpu{n}") for n in range(2)),
                runs.finding("pass", "on", subject="gpu2"),
                runs.finding("fail", "gone", subject="gpu3"),
            ),
            "gpu[0-1]: off; and 1 more",
        ),
        (runs.result("gpu.one", runs.finding("fail", "off", waived=WAIVER)), "off (waived)"),
    ],
)
def test_gist(result: Result, line: str) -> None:
    assert words.gist(result) == line


def test_severity_of_a_result_is_that_of_its_gravest_finding() -> None:
    result = runs.result(
        "gpu.one", runs.finding("fail", severity=Severity.HIGH), runs.finding("pass", severity=Severity.CRITICAL)
    )

    assert group.gravest(result) is Severity.HIGH
    assert group.gravest(runs.result("gpu.one", severity="low")) is Severity.LOW


@pytest.mark.parametrize(
    ("value", "shown"),
    [(True, "yes"), (False, "no"), (0, "0"), (60, "60"), (65536, "65,536"), (0.5, "0.5"), (12000.0, "12,000"),
     (None, "none"), ("", "(empty)"), ("Disabled", "Disabled")],
)  # fmt: skip
def test_value_words(value: str | float | bool | None, shown: str) -> None:
    assert words.value_words(value) == shown


@pytest.mark.parametrize(
    ("summary", "observed", "shown"),
    [
        ("swappiness is 60", 60, ""),
        ("swappiness is 160", 60, "observed 60"),
        ("the limit is 60.5 W", 60, "observed 60"),
        ("the limit is 60.", 60, ""),
        ("no row has failed", 0, "observed 0"),
        ("no row has failed", None, ""),
    ],
)
def test_observed_is_not_said_twice(summary: str, observed: int | None, shown: str) -> None:
    assert words.observed(runs.finding("fail", summary, observed=observed)) == shown


@pytest.mark.parametrize(
    ("rationale", "shown"),
    [
        ("", ""),
        ("One sentence.", "One sentence."),
        ("First, e.g. This one. Second.\n\nThird.", "First, e.g. This one. Second."),
        (f"A short one. {'Long ' * 60}end.", "A short one."),
        ("It costs 1.5 GB/s.\nAlways.", "It costs 1.5 GB/s. Always."),
    ],
)
def test_why_is_short_and_whole(rationale: str, shown: str) -> None:
    assert words.why(runs.result("gpu.one", rationale=rationale)) == shown


@pytest.mark.parametrize(
    ("stamp", "shown"),
    [
        ("2026-11-20T22:50:07+00:00", "2026-11-20 22:50 UTC"),
        ("2026-11-20T23:50:07+01:00", "2026-11-20 22:50 UTC"),
        ("2026-11-20T22:50:07", "2026-11-20 22:50"),
        ("yesterday", "yesterday"),
    ],
)
def test_when(stamp: str, shown: str) -> None:
    assert words.when(stamp) == shown
