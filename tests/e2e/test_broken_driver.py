"""A driver tool that is absent, lies, fails, floods or never returns: real processes, judged on a recorded GPU host.

The tool is a script of ours in place of nvidia-smi; everything else of the host is as recorded.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hostcheck.audit import judge
from hostcheck.checklist import Checklist
from hostcheck.facts.gpu_probes import SMI
from hostcheck.model import Result, Status
from hostcheck.snapshot.local import collect
from hostcheck.snapshot.reading import Ending, Reading, Snapshot
from support import host

LIMIT = 1.0


def asked(folder: Path, script: str, limit: float = LIMIT) -> tuple[Snapshot, float]:
    """Return the recorded host with what the script answers, and how long the asking took."""
    tool = folder / "broken-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    started = time.monotonic()
    answer = collect([replace(SMI, argv=(str(tool), "-q", "-x"), guard=None, seconds=limit)])
    seconds = time.monotonic() - started
    recorded = host("h200x2")
    silent = {
        id: Reading(id, Ending.TIMEOUT) for id in ("gpu.nvml", "nvlink.status", "nvlink.errors", "nvlink.topology")
    }
    return Snapshot(recorded.manifest, {**recorded.readings, **silent, **answer.readings}), seconds


def results(snapshot: Snapshot) -> dict[str, Result]:
    return {result.id: result for result in judge(snapshot, Checklist()).results}


SCRIPTS = {
    "fails": "echo 'Unable to determine the device handle for GPU 0000:19:00.0: Unknown Error'; exit 15",
    "has no driver": "echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'; exit 9",
    "prints garbage": "head -c 5000 /dev/urandom",
    "prints nothing": ":",
    "prints half": 'printf \'<?xml version="1.0" ?><nvidia_smi_log><attached_gpus>2</attached_gpus><gpu id="00\'',
    "floods": "yes",
    "prints 1 GB": "head -c 1000000000 /dev/zero",
    "never returns": "exec sleep 600",
    "ignores being asked to stop": "trap '' TERM INT HUP; while :; do sleep 600; done",
    "dies": "kill -SEGV $$",
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_nothing_passes_and_one_check_says_so(script: str, tmp_path: Path) -> None:
    snapshot, seconds = asked(tmp_path, script)
    assert seconds < 30
    found = results(snapshot)
    assert not [result for result in found.values() if result.status is Status.ERROR]
    assert found["gpu.driver-responds"].status is Status.FAIL
    assert found["gpu.driver-responds"].findings[0].fix
    for id in ("gpu.ecc-mode", "gpu.persistence-mode", "gpu.temperature", "gpu.count", "nvlink.links"):
        assert found[id].status in (Status.UNKNOWN, Status.FAIL), id
    unknown = [finding for result in found.values() for finding in result.findings if finding.status is Status.UNKNOWN]
    assert sum(finding.cause == "gpu.smi" for finding in unknown) >= 20, "unknowns name their cause"


def test_a_tool_that_is_not_installed_is_not_a_healthy_driver() -> None:
    recorded = host("h200x2")
    absent = {id: Reading(id, Ending.ABSENT) for id in ("gpu.smi", "gpu.nvml", "nvlink.status", "nvlink.errors")}
    found = results(Snapshot(recorded.manifest, {**recorded.readings, **absent}))
    assert found["gpu.ecc-mode"].status is Status.UNKNOWN
    assert found["gpu.driver-responds"].status in (Status.UNKNOWN, Status.FAIL)


def test_a_driver_call_that_cannot_be_killed(tmp_path: Path) -> None:
    """For real: a process in a frozen cgroup (version 1) takes SIGKILL only when it is thawed."""
    freezer = Path("/sys/fs/cgroup/freezer")
    if not (freezer / "tasks").exists() or os.geteuid() != 0:
        pytest.skip("needs root and a version 1 freezer cgroup")
    cage = freezer / f"hostcheck-smi-{os.getpid()}"
    cage.mkdir()
    try:
        freeze = f"echo $$ >{cage}/tasks; echo FROZEN >{cage}/freezer.state; sleep 600"
        snapshot, seconds = asked(tmp_path, freeze, limit=5)  # in which it must come to be frozen
        assert seconds < 30
        found = results(snapshot)
        assert found["gpu.driver-responds"].status is Status.FAIL
        assert "cannot be killed" in found["gpu.driver-responds"].findings[0].summary
        assert found["gpu.ecc-mode"].status is Status.UNKNOWN
    finally:
        (cage / "freezer.state").write_text("THAWED")
        for _ in range(100):
            try:
                cage.rmdir()
                break
            except OSError:
                time.sleep(0.05)
