"""Units, drop-ins and scripts of tuners on a real systemd, there and back.

systemd is real, booted in namespaces; the daemons of NVIDIA's and Slurm's are small programs in their place, and
nvidia-smi is the stand-in that keeps what it is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hostcheck.checklist import Checklist, read_setting
from hostcheck.facts.dropins import OWN_PROBE, OWN_UNITS_PROBE
from hostcheck.facts.identity import IDENTITY_PROBE
from hostcheck.facts.limits import LIMITS_PROBE
from hostcheck.facts.owners import FILES_PROBE
from hostcheck.facts.process import NAMES_PROBE
from hostcheck.facts.units import FABRIC_MANAGER, PERSISTENCED, UNITS_PROBE
from hostcheck.registry import load_tuners
from hostcheck.snapshot.local import collect
from hostcheck.snapshot.reading import Ending, Entry, FileState, Reading, Snapshot
from hostcheck.tuning.change import Kind, Needs, Plan
from hostcheck.tuning.journal import End, StepState, read_outcomes
from hostcheck.tuning.plan import Selection, make_plan, to_do
from hostcheck.tuning.program import apply_program, rollback_program
from smistand import Stand
from support import host as recorded
from systemdlab import SystemdHost, booted

UNIT = "[Service]\nExecStart={command}\n\n[Install]\nWantedBy=multi-user.target\n"
SITE = ("gpu.power-limit=90", "gpu.mps=true")
NAMES = ("gpu.persistence", "gpu.power-limit", "gpu.mps", "process.memlock", "process.nofile")
KEPT = ("/etc/systemd/system", "/etc/hostcheck")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[tuple[SystemdHost, Stand]]:
    stand = Stand(tmp_path / "shared" / "gpu", gpus=2)
    with booted(tmp_path) as lab:
        lab.put("/usr/bin/nvidia-smi", f'#!/bin/sh\nexec {stand.folder}/nvidia-smi "$@"\n', 0o755)
        lab.put("/usr/bin/nvidia-persistenced", "#!/bin/sh\nexec sleep 1000\n", 0o755)
        lab.put("/usr/bin/nvidia-cuda-mps-control", '#!/bin/sh\n[ "$1" != -d ] || sleep 1000 &\n', 0o755)
        lab.put("/usr/sbin/slurmd", "#!/bin/sh\nexec sleep 1000\n", 0o755)
        command = "/usr/bin/nvidia-persistenced --user nvidia-persistenced --no-persistence-mode --verbose"
        lab.put(f"/usr/lib/systemd/system/{PERSISTENCED}", UNIT.format(command=command))
        lab.put("/usr/lib/systemd/system/slurmd.service", UNIT.format(command="/usr/sbin/slurmd"))
        lab.run("systemctl", "daemon-reload")
        lab.run("systemctl", "start", "slurmd")
        yield lab, stand


def seen(lab: SystemdHost, stand: Stand) -> Snapshot:
    """Return a snapshot of it: units, files and settings are its own, the rest is of a recorded guest with GPUs."""
    base = {**recorded("bare").readings, **recorded("h200x2").readings}
    base.pop("gpu.nvml")
    files = collect([OWN_PROBE, OWN_UNITS_PROBE, FILES_PROBE, IDENTITY_PROBE, LIMITS_PROBE], root=str(lab.root))
    told = lab.run(*UNITS_PROBE.argv).stdout
    names = {"/proc/2/comm": FileState(Ending.OK, b"kthreadd\n")}
    if lab.show(PERSISTENCED, "ActiveState")["ActiveState"] == "active":
        names["/proc/4711/comm"] = FileState(Ending.OK, b"nvidia-persiste\n")
    if lab.run("systemctl", "is-active", "hostcheck-mps.service", check=False).stdout == "active\n":
        names["/proc/4712/comm"] = FileState(Ending.OK, b"nvidia-cuda-mps\n")
    report = lab.run("nvidia-smi", "-q", "-x").stdout
    addons = base["software.addons"]
    readings = {
        **base,
        **files.readings,
        UNITS_PROBE.id: Reading(UNITS_PROBE.id, Ending.OK, 0, out=told.encode()),
        "gpu.smi": Reading("gpu.smi", Ending.OK, 0, out=report.encode()),
        NAMES_PROBE.id: replace(base[NAMES_PROBE.id], files=names),
        "software.addons": replace(addons, entries={"/usr/bin/nvidia-cuda-mps-control": Entry("-")}),
    }
    return Snapshot(replace(recorded("h200x2").manifest, redacted=False), readings)


def planned(lab: SystemdHost, stand: Stand, *only: str) -> Plan:
    load_tuners()
    checklist = Checklist(layers=tuple(read_setting(setting) for setting in SITE))
    boot = (lab.root / "proc/sys/kernel/random/boot_id").read_text().strip()
    return replace(make_plan(seen(lab, stand), checklist, Selection(only=only or NAMES)), boot=boot)


def run(lab: SystemdHost, program: str) -> End:
    done = lab.run("sh", "-s", text=program, check=False)
    outcome = read_outcomes(done.stdout.encode())[-1]
    states = {step.state for step in outcome.steps.values()}
    assert not states & {StepState.FAILED, StepState.REFUSED}, (outcome, done.stderr)
    return outcome.end


def test_units_drop_ins_and_scripts_there_and_back(host: tuple[SystemdHost, Stand]) -> None:
    lab, stand = host
    files, gpus = lab.files(*KEPT), stand.gpus
    told = lab.run(*UNITS_PROBE.argv).stdout
    assert "Id=nvidia-persistenced.service" in told
    assert FABRIC_MANAGER in told

    # The daemon first, without which the GPUs would forget the rest.
    first = planned(lab, stand, "gpu.persistence")
    assert [change.kind for change in first.changes] == [Kind.FILE, Kind.UNIT]
    assert run(lab, apply_program(first)) is End.COMMITTED
    state = lab.show(PERSISTENCED, "ActiveState", "UnitFileState", "ExecStart")
    assert (state["ActiveState"], state["UnitFileState"]) == ("active", "enabled")
    assert "--no-persistence-mode" not in state["ExecStart"]
    assert "--verbose" in state["ExecStart"]
    for index in range(2):
        stand.change(index, {"persistence_mode": "Enabled"})  # as the daemon does

    plan = planned(lab, stand)
    assert not plan.refusals
    assert {change.tuner for change in plan.changes} == {"gpu.power-limit", "gpu.mps", "process.memlock"}
    assert run(lab, apply_program(plan)) is End.COMMITTED
    assert not to_do(planned(lab, stand)), "a plan that was applied is empty the second time"

    # Limits count once the service is restarted, which nobody but the operator does. Some machines that run tests let
    # nobody have more, not even root.
    waiting = [change for change in plan.changes if change.needs is Needs.SERVICE_RESTART]
    assert [change.tuner for change in waiting] == ["process.memlock"]
    assert "unlimited" not in _locked(lab)
    lab.run("systemctl", "restart", "slurmd")
    assert lab.show("slurmd", "LimitMEMLOCK")["LimitMEMLOCK"] == "infinity"
    if lab.run("prlimit", "--memlock=unlimited:unlimited", "true", check=False).returncode == 0:
        assert _locked(lab).count("unlimited") == 2

    # What the units do at the next boot, on GPUs that have forgotten everything.
    for index, gpu in enumerate(gpus):
        stand.change(index, {**gpu, "persistence_mode": "Enabled"})
    assert lab.show("hostcheck-gpu-power-limit.service", "Wants")["Wants"] == PERSISTENCED
    lab.run("systemctl", "start", "hostcheck-gpu-power-limit.service")
    lab.run("systemctl", "restart", "hostcheck-mps.service")
    assert [(gpu["power.limit"], gpu["compute_mode"]) for gpu in stand.gpus] == [(630.0, "Exclusive_Process")] * 2
    assert lab.show("hostcheck-mps.service", "ActiveState")["ActiveState"] == "active"

    assert run(lab, rollback_program()) is End.ROLLED_BACK
    assert run(lab, rollback_program()) is End.ROLLED_BACK
    for index in range(2):
        stand.change(index, {"persistence_mode": "Disabled"})
    assert stand.gpus == gpus
    assert lab.files(*KEPT) == files
    assert lab.run(*UNITS_PROBE.argv).stdout == told
    assert lab.show("hostcheck-mps.service", "LoadState")["LoadState"] == "not-found"
    assert lab.show("slurmd", "LimitMEMLOCK")["LimitMEMLOCK"] != "infinity"


def _locked(lab: SystemdHost) -> str:
    pid = lab.show("slurmd", "MainPID")["MainPID"]
    text = lab.run("cat", f"/proc/{pid}/limits").stdout
    return next(line for line in text.splitlines() if line.startswith("Max locked memory"))


def test_what_somebody_stopped_or_masked_stays_so(host: tuple[SystemdHost, Stand]) -> None:
    lab, stand = host
    lab.run("systemctl", "mask", PERSISTENCED)
    plan = planned(lab, stand, "gpu.persistence")
    assert not plan.changes
    assert "masked" in plan.refusals[0].why
    lab.run("systemctl", "unmask", PERSISTENCED)
    plan = planned(lab, stand, "gpu.persistence")
    assert run(lab, apply_program(plan)) is End.COMMITTED
    # Stopped by the operator since: rollback does not start it, and says nothing else of it than that.
    lab.run("systemctl", "disable", "--now", PERSISTENCED)
    lab.run("sh", "-s", text=rollback_program(), check=False)
    state = lab.show(PERSISTENCED, "ActiveState", "UnitFileState")
    assert (state["ActiveState"], state["UnitFileState"]) == ("inactive", "disabled")


def test_a_service_that_does_not_come_up_is_taken_back(host: tuple[SystemdHost, Stand]) -> None:
    lab, stand = host
    plan = planned(lab, stand, "gpu.persistence")
    files = lab.files(*KEPT)
    lab.put("/usr/bin/nvidia-persistenced", "#!/bin/sh\nexit 1\n", 0o755)
    lab.put(f"/usr/lib/systemd/system/{PERSISTENCED}", UNIT.format(command="/nowhere/nvidia-persistenced"))
    lab.run("systemctl", "daemon-reload")
    lab.run("rm", "/usr/bin/nvidia-persistenced")
    done = lab.run("sh", "-s", text=apply_program(plan), check=False)
    assert read_outcomes(done.stdout.encode())[-1].end is not End.COMMITTED, done.stdout
    assert lab.files(*KEPT) == files
