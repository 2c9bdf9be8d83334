"""Every check against its case table, and the promises that hold for each check without a line of its own."""

from __future__ import annotations

import pytest

from hostcheck.audit import all_checks
from hostcheck.checklist import Checklist
from hostcheck.coverage import read_proven
from hostcheck.registry import load_checks, load_tuners
from support import CASES, Case, cases, host

CHECKS = all_checks(Checklist())
JUDGED = [case for case in cases() if case.status in ("pass", "fail")]


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.id)
def test_case(case: Case) -> None:
    result = case.judge()
    told = "\n".join(f"{finding.subject}: {finding.status}: {finding.summary}" for finding in result.findings)
    assert result.status == case.status, f"{told}\n{result.traceback}"
    seen = {finding.subject: finding.status.value for finding in result.findings}
    assert {subject: seen.get(subject) for subject in case.findings} == dict(case.findings), told
    assert case.says in told
    if case.observed is not None:
        assert next(f.observed for f in result.findings if f.status == case.status) == case.observed, told


@pytest.mark.parametrize("case", [case for case in cases() if case.status == "fail"], ids=lambda case: case.id)
def test_a_failure_says_what_to_do(case: Case) -> None:
    for finding in case.judge().findings:
        if finding.status == "fail" and (finding.severity or CHECKS[case.check].severity) != "info":
            assert finding.fix, f"{finding.subject}: no fix"
            assert finding.actor, f"{finding.subject}: nobody acts"
            assert finding.expected is not None, f"{finding.subject}: nothing expected"


@pytest.mark.parametrize("case", JUDGED, ids=lambda case: case.id)
def test_without_a_needed_probe_nothing_passes(case: Case) -> None:
    for probe in {probe.id for probe in CHECKS[case.check].probes(required_only=True)}:
        result = case.judge(case.snapshot().without([probe]))
        assert result.status == "unknown", f"without {probe}: {result.status}: {result.findings}"


@pytest.mark.parametrize("case", JUDGED, ids=lambda case: case.id)
def test_without_any_of_its_probes_it_is_unknown(case: Case) -> None:
    result = case.judge(case.snapshot().without(probe.id for probe in CHECKS[case.check].probes()))
    assert result.status == "unknown", result.findings


@pytest.mark.parametrize("id", sorted(CHECKS))
def test_each_check_has_cases_that_pass_and_fail(id: str) -> None:
    seen = {case.status for case in cases() if case.check == id}
    assert {"pass", "fail"} <= seen, f"{id} has only {sorted(seen)}"


def test_every_case_is_of_a_check_and_in_its_table() -> None:
    for case in cases():
        assert case.check in CHECKS, f"{case.table}: {case.id}"


def test_the_synthetic_host_is_healthy() -> None:
    """No false alarm: on a healthy host without GPUs nothing fails."""
    from hostcheck.audit import judge

    run = judge(host("bare"), Checklist())
    failing = [(r.id, f.summary) for r in run.results for f in r.findings if f.status in ("fail", "error")]
    assert not failing


def test_what_is_proven_is_written_down() -> None:
    """`hostcheck coverage` counts what the case tables show; regenerate with `make docs`."""
    assert read_proven() == proven()


def proven() -> dict[str, frozenset[str]]:
    """Return the ids of the checks that reach each status in some case."""
    return {
        status: frozenset(case.check for case in cases() if case.status == status)
        for status in ("fail", "pass", "unknown")
    }


def test_tables_are_named_after_subsystems() -> None:
    known = {check.subsystem for check in load_checks().values()} | {"irq"}
    known |= {tuner.subsystem for tuner in load_tuners().values()}
    for path in CASES.glob("*.toml"):
        assert path.stem.split("-")[0] in known, path.name
