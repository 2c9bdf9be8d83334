"""Every tuner against its table of plans, and the promises that hold for each tuner without a line of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import pytest

from hostcheck.audit import judge
from hostcheck.checklist import Checklist
from hostcheck.coverage import row_ids
from hostcheck.facts.base import Each
from hostcheck.facts.limits import SERVICES
from hostcheck.registry import load_checks, load_tuners
from hostcheck.snapshot.reading import Snapshot
from hostcheck.tuning.change import Change, Kind, Needs, Scope
from hostcheck.tuning.plan import make_plan, to_do
from support import PlanCase, Scene, cases, host, plan_cases, recorded_hosts

TUNERS = load_tuners()
CASES = plan_cases()
CHANGING = [case for case in CASES if case.changes]
ASKED_FOR = {
    "kernel.limits": ("/limits.d/", *(f"/{service}.service.d/" for service in SERVICES)),
    "kernel.grub": ("grub ",),
    "kernel.grub-tools": ("grub ",),
    "platform.owner-files": ("/proc/sys/", "/sys/", "/sysctl.d/", "/tmpfiles.d/", "/rules.d/", "/modprobe.d/"),
}
"""Probes of facts that tuners ask part by part: for which targets each is needed."""


def fields(change: Change) -> dict[str, Any]:
    """Return a change as the tables write it: words for enumerations, and no None, which TOML lacks."""
    return {name: str(value) if hasattr(value, "name") else value for name, value in asdict(change).items()}


def fits(change: Change, wanted: Mapping[str, Any]) -> bool:
    """Whether a change has these fields; of `after`, `before` and `why`, a text in slashes is a pattern."""
    seen = fields(change)
    for name, value in wanted.items():
        if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] == "/" and name in ("after", "why"):
            if not re.search(value[1:-1], seen[name] or "", re.DOTALL):
                return False
        elif name in ("before", "after") and value is False:
            if seen[name] is not None:
                return False
        elif (list(seen[name]) if isinstance(seen[name], tuple) else seen[name]) != value:
            return False
    return True


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_plan(case: PlanCase) -> None:
    plan = case.plan()
    told = "\n".join(str(fields(change)) for change in plan.changes) + f"\n{plan.refusals}\n{plan.unplanned}"
    assert not [lack for lack in plan.unplanned if lack.bug], told
    rest = list(plan.changes)
    for wanted in case.changes:
        found = next((change for change in rest if fits(change, wanted)), None)
        assert found is not None, f"nothing like {dict(wanted)} in\n{told}"
        rest.remove(found)
    assert not rest, f"more than was wanted:\n{told}"
    for text in case.refused:
        assert any(text in refusal.why or text in refusal.target for refusal in plan.refusals), told
    if not case.refused:
        assert not plan.refusals, told
    for text in case.unplanned:
        assert any(text in lack.why for lack in plan.unplanned), told
    if not case.unplanned:
        assert not plan.unplanned, told


@pytest.mark.parametrize("case", CHANGING, ids=lambda case: case.id)
def test_a_change_says_all_that_an_operator_must_know(case: PlanCase) -> None:
    for change in case.plan().changes:
        assert change.why
        assert "\n" not in change.why
        assert change.source, f"{change.target}: nothing justifies the value"
        assert set(change.fixes) <= set(load_checks())
        assert change.kind is Kind.MANUAL or change.before != change.after
        if change.needs in (Needs.REBOOT, Needs.GPU_RESET, Needs.NEW_SESSION):
            assert not change.fixes, f"{change.target}: it cannot make a check pass before a {change.needs}"
        if change.kind is Kind.WRITE:
            assert change.scope is Scope.RUNTIME
            assert change.target.startswith(("/proc/", "/sys/"))
        if change.kind is Kind.FILE:
            assert change.scope is Scope.PERSISTENT
            assert "hostcheck" in change.target
            assert change.after is None or change.after.endswith("\n")


@pytest.mark.parametrize("case", CHANGING, ids=lambda case: case.id)
def test_a_plan_on_its_own_result_is_empty(case: PlanCase) -> None:
    plan = case.plan()
    again = case.plan(case.after(plan))
    assert not to_do(again), [fields(change) for change in to_do(again)]
    assert not [lack for lack in again.unplanned if lack.bug], again.unplanned


@pytest.mark.parametrize("case", CHANGING, ids=lambda case: case.id)
def test_what_it_claims_to_fix_passes_afterwards(case: PlanCase) -> None:
    plan = case.plan()
    fixes = sorted({id for change in plan.changes for id in change.fixes})
    if not fixes:
        pytest.skip("its changes take effect later, or are the operator's")
    before = judge(case.snapshot(), case.checklist(*fixes))
    after = judge(case.after(plan), case.checklist(*fixes))
    for result in after.results:
        if result.id in fixes:
            told = [(finding.subject, finding.status.value, finding.summary) for finding in result.findings]
            assert result.status == "pass", f"{result.id}: {told}"
            assert next(r for r in before.results if r.id == result.id).status == "fail", f"{result.id} did not fail"


def test_an_option_of_a_module_is_in_one_file_whoever_writes_it() -> None:
    """What the audit prints and what tune writes would else be two files, of which the later one wins unseen."""
    seen = set()
    for case in CHANGING:
        written = {change.target for change in case.plan().changes if change.target.startswith("/etc/modprobe.d/")}
        for result in judge(case.snapshot(), case.checklist(*TUNERS[case.tuner].fixes)).results if written else ():
            for finding in result.findings:
                advised = set(re.findall(r"/etc/modprobe\.d/\S+\.conf", finding.fix))
                assert advised <= written, finding.fix
                seen |= advised
    assert "/etc/modprobe.d/90-hostcheck-nvidia.conf" in seen


@pytest.mark.parametrize("case", CHANGING, ids=lambda case: case.id)
def test_without_any_one_probe_it_changes_nothing(case: PlanCase) -> None:
    needs = {
        probe.id
        for wanted in TUNERS[case.tuner].needs
        for probe in (wanted.fact if isinstance(wanted, Each) else wanted).probes(required_only=True)
    }
    whole = case.plan().changes
    for probe in sorted(needs):
        plan = case.plan(case.snapshot().without([probe]))
        asked = any(place in change.target for place in ASKED_FOR.get(probe, ("",)) for change in whole)
        if not asked and plan.changes == whole:
            continue
        assert not plan.changes, f"without {probe}: {[fields(change) for change in plan.changes]}"


@pytest.mark.parametrize("id", sorted(TUNERS))
def test_a_tuner_has_a_case_that_changes_and_one_that_does_not(id: str) -> None:
    own = [case for case in CASES if case.tuner == id]
    assert any(case.changes for case in own), "no case with a change"
    assert any(not case.changes and not case.refused for case in own), "no case of a host that needs none"


@pytest.mark.parametrize("id", sorted(TUNERS))
def test_a_tuner_explains_itself(id: str) -> None:
    tuner = TUNERS[id]
    assert re.fullmatch(r"[A-Z0-9].*[.]", tuner.title), "the title is one sentence"
    assert len(tuner.title) <= 120
    assert len(tuner.rationale) > 40, "the rationale says why, what it costs, and how it is undone"
    assert tuner.module.rsplit(".", 1)[1].split("_")[0] == tuner.subsystem
    assert set(tuner.fixes) <= set(load_checks())
    assert set(tuner.rows) <= set(row_ids())


def test_every_case_is_of_a_tuner() -> None:
    for case in CASES:
        assert case.tuner in TUNERS, f"{case.table}: {case.id}"


def test_the_synthetic_host_needs_nothing() -> None:
    plan = make_plan(host("bare"), Checklist())
    assert not plan.changes, [fields(change) for change in plan.changes]
    assert not plan.unplanned, plan.unplanned


@pytest.mark.parametrize("name", recorded_hosts())
def test_a_recorded_host_is_planned_for_without_a_bug(name: str) -> None:
    plan = make_plan(host(name), Checklist())
    assert not [lack for lack in plan.unplanned if lack.bug], plan.unplanned


def told(snapshot: Snapshot, path: str) -> str | None:
    """Return what a snapshot holds of a file: the word in brackets where it shows a choice, else all of it."""
    states = [reading.files[path] for reading in snapshot.readings.values() if path in reading.files]
    if not states:
        return None
    text = states[0].data.decode()
    chosen = re.search(r"\[(\S+)\]", text)
    return chosen[1] if chosen else text


@pytest.mark.parametrize("role", ["training", "latency"])
def test_whatever_a_host_says_no_tuner_fails_and_none_changes_what_was_not_read(role: str) -> None:
    """Over the hosts of all cases of checks and of plans."""
    scenes: list[Scene] = [*cases(), *plan_cases()]
    for scene in scenes:
        snapshot = scene.snapshot()
        plan = make_plan(snapshot, replace(scene.checklist(), role=role))
        assert not [lack for lack in plan.unplanned if lack.bug], (scene.name, plan.unplanned)
        for change in plan.changes:
            if change.kind is Kind.WRITE:
                seen = told(snapshot, change.target)
                assert seen is not None, f"{scene.name}: {change.target} was not read"
                assert seen.strip() == change.before, f"{scene.name}: {change.target}"
            elif change.kind is Kind.FILE:
                assert told(snapshot, change.target) == change.before, f"{scene.name}: {change.target}"
