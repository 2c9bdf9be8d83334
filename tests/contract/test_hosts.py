"""Recorded hosts: each evaluates without an error, and gives the committed run.

After a deliberate change: `HOSTCHECK_ACCEPT=1 pytest tests/contract/test_hosts.py`, and read the difference.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from hostcheck.audit import judge, probes_of
from hostcheck.checklist import Checklist
from hostcheck.model import Run, Status
from hostcheck.registry import load_checks
from hostcheck.render import render
from support import GOLDEN, host, recorded_hosts


def golden(run: Run) -> str:
    """Return what must not change unnoticed: each check's verdict, line by line; texts of help are left out."""
    table: dict[str, Any] = {
        result.id: [f"{finding.status} {finding.subject}: {finding.summary}" for finding in result.findings]
        for result in run.results
    }
    return json.dumps({"host": run.host.facts, "results": table}, indent=1, ensure_ascii=False) + "\n"


def test_there_are_recorded_hosts() -> None:
    assert {"h100x1", "h200x2", "h200x8", "vm-2cpu", "vm-numa4"} <= set(recorded_hosts())


@pytest.mark.parametrize("name", recorded_hosts())
def test_it_is_redacted_and_evaluates_without_error(name: str) -> None:
    snapshot = host(name)
    assert snapshot.manifest.redacted
    run = judge(snapshot, Checklist())
    assert not [(result.id, result.traceback) for result in run.results if result.status is Status.ERROR]


@pytest.mark.parametrize("name", recorded_hosts())
def test_it_gives_the_committed_run(name: str) -> None:
    path = GOLDEN / f"{name}.json"
    text = golden(judge(host(name), Checklist()))
    if os.environ.get("HOSTCHECK_ACCEPT"):
        path.write_text(text, "utf-8")
    assert path.read_text("utf-8") == text


@pytest.mark.parametrize("name", recorded_hosts())
def test_without_any_answer_nothing_passes(name: str) -> None:
    """Not read is never healthy: with every probe gone, no check of that host passes or fails."""
    run = judge(host(name).without(host(name).readings), Checklist())
    judged = [result.id for result in run.results if result.status in (Status.PASS, Status.FAIL)]
    assert judged == []


@pytest.mark.parametrize("name", recorded_hosts())
@pytest.mark.parametrize("probe", sorted({probe.id for probe in probes_of(load_checks().values())}))
def test_without_one_probe_no_check_that_needs_it_is_judged(name: str, probe: str) -> None:
    run = judge(host(name).without([probe]), Checklist())
    for result in run.results:
        needs = {needed.id for needed in load_checks()[result.id].probes(required_only=True)}
        if probe in needs:
            assert result.status not in (Status.PASS, Status.FAIL, Status.ERROR), (result.id, result.findings)


@pytest.mark.parametrize("name", recorded_hosts())
@pytest.mark.parametrize("format", ["text", "json", "md", "html"])
def test_every_form_shows_it(name: str, format: str) -> None:
    assert len(render(judge(host(name), Checklist()), format)) > 1000


def test_a_healthy_gpu_host_has_no_failure_of_its_gpus() -> None:
    """These hosts were healthy when they were recorded, and read line by line against nvidia-smi -q.

    What they lack is the persistence daemon: persistence mode is on, by a tool that does not outlive a reboot.
    """
    for name in ("h100x1", "h200x2"):
        run = judge(host(name), Checklist())
        for result in run.results:
            if result.subsystem in ("gpu", "nvlink", "pci") and result.id != "gpu.persistence-daemon":
                assert result.status in (Status.PASS, Status.NOT_APPLICABLE), (name, result.id, result.findings)
