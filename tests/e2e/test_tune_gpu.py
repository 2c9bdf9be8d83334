"""GPU settings from the plan to the program and back, against the stand-in for nvidia-smi; units by systemd itself.

No real GPU is ever set. The host is a folder, and nvidia-smi, systemctl and modprobe are stand-ins that keep what they
are told.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hostcheck.checklist import Checklist, read_setting
from hostcheck.facts.dropins import OWN_PROBE, OWN_UNITS_PROBE
from hostcheck.facts.gpu_locks import LOCKS_PROBE
from hostcheck.facts.gpu_mig import INSTANCES_PROBE, PROFILES_PROBE
from hostcheck.facts.identity import IDENTITY_PROBE
from hostcheck.facts.owners import FILES_PROBE
from hostcheck.registry import load_tuners
from hostcheck.snapshot.local import collect
from hostcheck.snapshot.reading import Ending, Entry, Reading, Snapshot
from hostcheck.tuning.change import Kind, Plan
from hostcheck.tuning.journal import End, StepState, read_history
from hostcheck.tuning.plan import Selection, make_plan, to_do
from hostcheck.tuning.program import apply_program, history_program, recover_program, rollback_program
from smistand import Stand
from support import host as recorded
from tunelab import BOOT, CHECKPOINT, SHELLS, Host, change, made_up, plan

SITE = (
    "gpu.power-limit=90",
    'gpu.compute-mode="Exclusive_Process"',
    "gpu.clock-lock=1410",
    "gpu.clock-lock.memory=2619",
    "gpu.mig-policy=true",
)
NAMES = ("gpu.power-limit", "gpu.compute-mode", "gpu.clock-lock", "gpu.mig-policy", "gpu.ecc-mode", "gpu.persistence",
         "gpu.mps", "process.memlock", "gds.module")  # fmt: skip
UNITS = (
    "nvidia-persistenced hostcheck-gpu-power-limit hostcheck-gpu-compute-mode hostcheck-gpu-clock-lock hostcheck-mps"
    " hostcheck-gpu-mig-layout"
)


def prepared(
    folder: Path, command: tuple[str, ...] = ("dash",), gpus: int = 2, *, persistent: bool = True
) -> tuple[Host, Stand]:
    """Return a made-up host with GPUs, which nvidia-persistenced keeps ready or not."""
    host = made_up(folder, command)
    stand = Stand(folder / "gpu", gpus=gpus)
    (host.bin / "nvidia-smi").unlink()
    (host.bin / "nvidia-smi").symlink_to(stand.folder / "nvidia-smi")
    for unit in UNITS.split():
        host.put(f"/units/{unit}.service", "disabled inactive\n")
    if persistent:
        host.put("/units/nvidia-persistenced.service", "enabled active\n")
    return host, stand


def seen(host: Host, stand: Stand) -> Snapshot:
    """Return a snapshot of the made-up host: what it lacks is as on a recorded guest with GPUs."""
    base = {**recorded("bare").readings, **recorded("h200x2").readings}
    base.pop("gpu.nvml")
    here = collect([OWN_PROBE, OWN_UNITS_PROBE, FILES_PROBE, IDENTITY_PROBE, LOCKS_PROBE], root=str(host.root))
    report = subprocess.run([stand.folder / "nvidia-smi", "-q", "-x"], capture_output=True, check=True).stdout
    states = {unit: host.get(f"/units/{unit}.service").split() for unit in UNITS.split()}
    enabled, active = states["nvidia-persistenced"]
    told = (
        f"Id=nvidia-persistenced.service\nLoadState=loaded\nActiveState={active}\nUnitFileState={enabled}\n"
        "ExecStart={ argv[]=/usr/bin/nvidia-persistenced --verbose ; }\n\n"
        "Id=nvidia-fabricmanager.service\nLoadState=not-found\nActiveState=inactive\n"
    )
    names = base["process.names"]
    if active == "active":
        # The daemon would have done so.
        report = report.replace(b"<persistence_mode>Disabled", b"<persistence_mode>Enabled")
        comm = replace(next(iter(names.files.values())), data=b"nvidia-persiste\n")
        names = replace(names, files={**names.files, "/proc/4711/comm": comm})
    wants = [unit for unit, (word, _) in states.items() if word == "enabled" and unit.startswith("hostcheck-")]
    links = {f"/etc/systemd/system/multi-user.target.wants/{unit}.service": Entry("l") for unit in wants}
    mig = {
        probe.id: subprocess.run([stand.folder / "nvidia-smi", *probe.argv[1:]], capture_output=True, check=False)
        for probe in (INSTANCES_PROBE, PROFILES_PROBE)
    }
    told_of_mig = {
        id: Reading(id, Ending.EXIT if done.returncode else Ending.OK, done.returncode, out=done.stdout)
        for id, done in mig.items()
    }
    readings = {
        **base,
        **here.readings,
        **told_of_mig,
        "gpu.smi": Reading("gpu.smi", Ending.OK, 0, out=report),
        "software.units": Reading("software.units", Ending.OK, 0, out=told.encode()),
        "process.names": names,
        OWN_UNITS_PROBE.id: replace(here.readings[OWN_UNITS_PROBE.id], entries=links),
    }
    return Snapshot(replace(recorded("h200x2").manifest, redacted=False), readings)


def planned(host: Host, stand: Stand, *settings: str, only: tuple[str, ...] = NAMES) -> Plan:
    """Return what is to be done on the made-up host."""
    load_tuners()
    checklist = Checklist(layers=tuple(read_setting(setting) for setting in settings))
    return replace(make_plan(seen(host, stand), checklist, Selection(only=only)), boot=BOOT)


@pytest.mark.parametrize("command", SHELLS, ids=" ".join)
def test_settings_of_gpus_there_and_back(command: tuple[str, ...], tmp_path: Path) -> None:
    host, stand = prepared(tmp_path, command, persistent=False)
    files, gpus = host.state(), stand.gpus
    first = planned(host, stand, only=("gpu.persistence",))
    assert host.run(apply_program(first)).outcome.end is End.COMMITTED
    plan = planned(host, stand, *SITE)
    kinds = {change.kind for change in plan.changes}
    assert kinds == {Kind.GPU, Kind.FILE, Kind.UNIT}, plan
    assert not plan.refusals
    done = host.run(apply_program(plan))
    assert done.outcome.end is End.COMMITTED, (done.outcome, done.err)
    assert {step.state for step in done.outcome.steps.values()} == {StepState.APPLIED}
    for gpu in stand.gpus:
        assert gpu["power.limit"] == 630.0
        assert gpu["compute_mode"] == "Exclusive_Process"
        assert (gpu["sm-clock-lock"], gpu["memory-clock-lock"]) == ("1410,1410", "2619,2619")
        assert (gpu["mig.mode.current"], gpu["mig.mode.pending"]) == ("Disabled", "Enabled")
    assert host.get("/units/nvidia-persistenced.service") == "enabled active\n"
    assert not any("reset" in line for line in stand.sets)
    again = planned(host, stand, *SITE)
    assert not to_do(again), again.changes

    # What the units do after a boot: the same settings, on GPUs that have forgotten theirs.
    wanted = stand.gpus
    for index, gpu in enumerate(gpus):
        stand.change(index, {**gpu, "mig.mode.pending": "Enabled"})
    for script in sorted((host.root / "etc/hostcheck/tune.d").iterdir()):
        subprocess.run(["sh", script], env={**os.environ, "PATH": stand.path}, check=True, capture_output=True)
    assert stand.gpus == wanted

    for _ in range(2):
        back = host.run(rollback_program())
        assert back.outcome.end is End.ROLLED_BACK, (back.outcome, back.err)
    assert stand.gpus == gpus
    assert host.state() == files


def test_a_value_that_is_not_taken_is_no_success(tmp_path: Path) -> None:
    host, stand = prepared(tmp_path)
    plan = planned(host, stand, "gpu.power-limit=90", only=("gpu.power-limit",))
    stand.fault("-pl", "ignored")
    gpus = stand.gpus
    done = host.run(apply_program(plan))
    assert done.outcome.end is End.ROLLED_BACK, done.outcome
    assert stand.gpus == gpus
    assert not (host.root / "etc/hostcheck").exists() or not list((host.root / "etc/hostcheck").rglob("*.sh"))


def test_a_refusal_of_the_second_gpu_takes_the_first_back(tmp_path: Path) -> None:
    host, stand = prepared(tmp_path)
    gpus = stand.gpus
    plan = planned(host, stand, "gpu.power-limit=90", only=("gpu.power-limit",))
    stand.change(1, {"power.min_limit": 650.0})
    done = host.run(apply_program(plan))
    assert done.outcome.end is End.ROLLED_BACK, done.outcome
    assert [gpu["power.limit"] for gpu in stand.gpus] == [gpu["power.limit"] for gpu in gpus]


def test_somebody_who_set_another_limit_in_between_is_not_overwritten(tmp_path: Path) -> None:
    host, stand = prepared(tmp_path)
    plan = planned(host, stand, "gpu.power-limit=90", only=("gpu.power-limit",))
    stand.change(0, {"power.limit": 555.0})
    done = host.run(apply_program(plan))
    assert done.outcome.end is End.REFUSED, done.outcome
    assert [gpu["power.limit"] for gpu in stand.gpus] == [555.0, 700.0]
    assert stand.sets == []


def test_rollback_leaves_alone_what_somebody_set_since(tmp_path: Path) -> None:
    host, stand = prepared(tmp_path)
    plan = planned(host, stand, "gpu.power-limit=90", only=("gpu.power-limit",))
    assert host.run(apply_program(plan)).outcome.end is End.COMMITTED
    stand.change(1, {"power.limit": 500.0})
    host.run(rollback_program())
    assert [gpu["power.limit"] for gpu in stand.gpus] == [700.0, 500.0]


def idle(snapshot: Snapshot) -> Snapshot:
    """Return a snapshot in which the SM clocks of all GPUs are low, as those of idle ones may be, locked or not."""
    smi = snapshot.readings["gpu.smi"]
    out = re.sub(rb"(<clocks>.*?<sm_clock>)[0-9]+ MHz", rb"\g<1>345 MHz", smi.out, flags=re.DOTALL)
    return Snapshot(snapshot.manifest, {**snapshot.readings, "gpu.smi": replace(smi, out=out)})


def locking(host: Host, stand: Stand, clock: int) -> Plan:
    """Return a plan that locks the SM clocks of idle GPUs."""
    load_tuners()
    checklist = Checklist(layers=(read_setting(f"gpu.clock-lock={clock}"),))
    plan = make_plan(idle(seen(host, stand)), checklist, Selection(only=("gpu.clock-lock",)))
    return replace(plan, boot=BOOT)


@pytest.mark.parametrize("command", SHELLS, ids=" ".join)
def test_a_lock_that_hostcheck_made_is_known_and_comes_back(command: tuple[str, ...], tmp_path: Path) -> None:
    host, stand = prepared(tmp_path, command, gpus=1)
    for clock in (1410, 1200):
        assert host.run(apply_program(locking(host, stand, clock))).outcome.end is End.COMMITTED
        assert not to_do(locking(host, stand, clock)), "the same lock a second time"
    assert [change.before for change in locking(host, stand, 1500).changes if change.kind is Kind.GPU] == ["1200,1200"]
    assert host.run(rollback_program()).outcome.end is End.ROLLED_BACK
    assert stand.gpus[0]["sm-clock-lock"] == "1410,1410"
    assert not to_do(locking(host, stand, 1410))
    assert host.run(rollback_program()).outcome.end is End.ROLLED_BACK
    assert stand.gpus[0]["sm-clock-lock"] is None
    assert not list((host.root / "run/hostcheck").iterdir())


@pytest.mark.parametrize("command", SHELLS, ids=" ".join)
def test_a_lock_is_taken_back_wherever_its_making_is_cut_short(command: tuple[str, ...], tmp_path: Path) -> None:
    host, stand = prepared(tmp_path, command, gpus=1)
    assert host.run(apply_program(locking(host, stand, 1410))).outcome.end is End.COMMITTED
    program = apply_program(replace(locking(host, stand, 1200), changes=locking(host, stand, 1200).changes[:1]))
    for moment in range(1, 100):
        killed = host.run(program, kill_at=moment)
        if killed.code == 0:
            break
        host.run(recover_program())
        if stand.gpus[0]["sm-clock-lock"] != "1410,1410":
            assert host.run(rollback_program()).outcome.end is End.ROLLED_BACK
        assert stand.gpus[0]["sm-clock-lock"] == "1410,1410", moment
        assert not to_do(locking(host, stand, 1410)), moment
    assert moment > 10
    assert stand.gpus[0]["sm-clock-lock"] == "1200,1200"


def test_a_lock_that_could_be_anything_is_not_known(tmp_path: Path) -> None:
    host, stand = prepared(tmp_path, gpus=1)
    plan = locking(host, stand, 1410)
    assert host.run(apply_program(plan)).outcome.end is End.COMMITTED
    (lock,) = (host.root / "run/hostcheck").iterdir()
    assert (lock.read_text(), lock.stat().st_mode & 0o777) == ("1410,1410\n", 0o644)
    # A link in its place is neither followed nor written through.
    other = host.put("/other", "1410,1410\n")
    lock.unlink()
    lock.symlink_to(other)
    assert host.run(apply_program(replace(plan, changes=plan.changes[:1]))).outcome.end is End.COMMITTED
    assert not lock.is_symlink()
    assert other.read_text() == "1410,1410\n"
    # Nor is a folder trusted into which others can write: what is locked is not known, as that of another tool.
    assert host.run(apply_program(replace(plan, changes=plan.changes[:1]))).outcome.end is End.NOTHING
    lock.parent.chmod(0o777)
    for _ in range(2):
        assert host.run(apply_program(replace(plan, changes=plan.changes[:1]))).outcome.end is End.COMMITTED
    assert host.run(rollback_program()).outcome.end is End.ROLLED_BACK
    assert stand.gpus[0]["sm-clock-lock"] is None


def hurried(program: str) -> str:
    """Return a program that waits a second for nvidia-smi."""
    assert program.count("answer_seconds=60 ") == 1
    return program.replace("answer_seconds=60 ", "answer_seconds=1 ")


@pytest.mark.parametrize("command", SHELLS, ids=" ".join)
def test_a_tool_that_hangs_does_not_hold_the_host_for_ever(command: tuple[str, ...], tmp_path: Path) -> None:
    host, stand = prepared(tmp_path, command, gpus=1)
    plan = planned(host, stand, "gpu.power-limit=90", only=("gpu.power-limit",))
    before = host.state()
    stand.fault("-pl", "hangs")
    done = host.run(hurried(apply_program(plan)))
    assert done.outcome.end is End.ROLLED_BACK, (done.outcome, done.err)
    assert "nvidia-smi did not answer in 1 s" in done.err
    assert host.state() == before
    assert stand.gpus[0]["power.limit"] == 700.0

    stand.fault("", "hangs")
    done = host.run(hurried(apply_program(plan)))
    assert done.outcome.end is End.REFUSED, done.outcome
    assert "nvidia-smi did not answer in 1 s" in done.err
    assert host.state() == before

    # Hung from the setting on: what it set cannot be read, so that the transaction stays open for `recover`.
    stand.fault("")
    program = apply_program(plan).replace(CHECKPOINT, f'checkpoint() {{ [ "$1" != intent ] || {hang(stand)}; }}')
    done = host.run(hurried(program))
    assert done.outcome.end is End.UNFINISHED, (done.outcome, done.err)
    stand.fault("")
    assert host.run(recover_program()).outcome.end is End.ROLLED_BACK
    assert stand.gpus[0]["power.limit"] == 700.0
    assert host.state() == before


@pytest.mark.parametrize("command", SHELLS, ids=" ".join)
def test_a_tool_that_hangs_when_nobody_confirms(command: tuple[str, ...], tmp_path: Path) -> None:
    """What takes changes back then is another process than the one that began, and has to wake up all the same."""
    host, stand = prepared(tmp_path, command, gpus=1)
    before = host.state()
    limit = planned(host, stand, "gpu.power-limit=90", only=("gpu.power-limit",)).changes[0]
    program = hurried(
        apply_program(plan(limit, change(Kind.NIC, "eth0 mtu", "1500", "9000", cuts=True)), confirm_seconds=1)
    )
    state = stand.folder / "state.json"
    hung = f"""sed -i 's/"faults": {{}}/"faults": {{"-pl": "hangs"}}/' {state}"""
    done = host.run(program.replace(CHECKPOINT, f'checkpoint() {{ [ "$1" != closed ] || {hung}; }}'))
    assert done.outcome.end is End.AWAITING, (done.outcome, done.err)
    for _ in range(300):
        told = read_history(host.run(history_program()).out)[-1]
        if StepState.STUCK in {step.state for step in told.steps}:
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"it still waits: {told}")
    assert stand.gpus[0]["power.limit"] == 630.0
    assert host.get("/sys/class/net/eth0/mtu") == "1500\n"
    stand.fault("-pl")
    for _ in range(300):
        done = host.run(recover_program())
        if done.outcome.end is not End.REFUSED:
            break
        time.sleep(0.1)  # until it has let go of the lock
    assert done.outcome.end is End.ROLLED_BACK, (done.outcome, done.err)
    assert stand.gpus[0]["power.limit"] == 700.0
    assert host.state() == before


def setting(host: Host, stand: Stand, line: str) -> None:
    """Let a line of sh be what happens where a power limit is set."""
    (host.bin / "nvidia-smi").unlink()
    (host.bin / "nvidia-smi").write_text(
        f'#!/bin/sh\ncase $* in *-pl*) {line} ;; esac\nexec {stand.folder}/nvidia-smi "$@"\n'
    )
    (host.bin / "nvidia-smi").chmod(0o755)


@pytest.mark.parametrize("command", SHELLS, ids=" ".join)
def test_what_cannot_be_killed_keeps_no_lock(command: tuple[str, ...], tmp_path: Path) -> None:
    host, stand = prepared(tmp_path, command, gpus=1)
    plan = planned(host, stand, "gpu.power-limit=90", only=("gpu.power-limit",))
    setting(host, stand, f"sleep 3600 & echo $! >{tmp_path}/left; wait")
    done = host.run(hurried(apply_program(plan)))
    try:
        assert done.outcome.end is End.ROLLED_BACK, (done.outcome, done.err)
        setting(host, stand, ":")
        assert host.run(apply_program(plan)).outcome.end is End.COMMITTED
    finally:
        os.kill(int((tmp_path / "left").read_text()), signal.SIGKILL)


@pytest.mark.parametrize("command", SHELLS, ids=" ".join)
def test_a_tool_that_is_still_at_work_is_waited_for(command: tuple[str, ...], tmp_path: Path) -> None:
    """What was killed left it behind, and it may yet set what `recover` would have looked at too early."""
    host, stand = prepared(tmp_path, command, gpus=1)
    before = host.state()
    plan = planned(host, stand, "gpu.power-limit=90", only=("gpu.power-limit",))
    setting(host, stand, f"echo $$ >{tmp_path}/left; kill -KILL $PPID; exec sleep 3600")
    assert host.run(apply_program(plan)).outcome.end is End.CUT
    try:
        impatient = recover_program().replace('"$tries" -lt 10', '"$tries" -lt 1')
        assert "is still at work" in host.run(impatient).outcome.why
    finally:
        os.kill(int((tmp_path / "left").read_text()), signal.SIGKILL)
    setting(host, stand, ":")
    assert host.run(recover_program()).outcome.end is End.ROLLED_BACK
    assert stand.gpus[0]["power.limit"] == 700.0
    assert host.state() == before


def hang(stand: Stand) -> str:
    """Return a line of sh that makes every call of the stand-in hang."""
    state = stand.folder / "state.json"
    hung = stand.folder / "hung.json"
    told = json.loads(state.read_text())
    told["faults"][""] = "hangs"
    hung.write_text(json.dumps(told))
    return f"cp {hung} {state}"


def sliced(folder: Path, command: tuple[str, ...] = ("dash",)) -> tuple[Host, Stand]:
    """Return a made-up host with a GPU in MIG mode, without instances."""
    host, stand = prepared(folder, command, gpus=1)
    stand.change(0, {"mig.mode.current": "Enabled", "mig.mode.pending": "Enabled", "persistence_mode": "Enabled"})
    return host, stand


def cutting(host: Host, stand: Stand, layout: str) -> Plan:
    """Return a plan that makes a layout of MIG instances."""
    return planned(host, stand, f'gpu.mig-layout="{layout}"', only=("gpu.mig-layout",))


def instances(stand: Stand) -> list[str]:
    """Return the profiles of the GPU instances that have a compute instance of their own."""
    made = stand.gpus[0]["instances"]
    return sorted(one["name"] for one in made if one["compute"] == [one["name"]])


@pytest.mark.parametrize("command", SHELLS, ids=" ".join)
def test_mig_layouts_there_and_back(command: tuple[str, ...], tmp_path: Path) -> None:
    host, stand = sliced(tmp_path, command)
    files = host.state()
    done = host.run(apply_program(cutting(host, stand, "1g.18gb,3g.71gb,1g.18gb")))
    assert done.outcome.end is End.COMMITTED, (done.outcome, done.err)
    first = ["1g.18gb", "1g.18gb", "3g.71gb"]
    assert instances(stand) == first
    again = cutting(host, stand, "3g.71gb,1g.18gb,1g.18gb")
    assert not to_do(again), again
    assert not again.refusals

    # What the unit does after a boot, which leaves neither the mode nor the instances.
    stand.change(0, {"instances": [], "mig.mode.pending": "Disabled"})
    (script,) = (host.root / "etc/hostcheck/tune.d").iterdir()
    subprocess.run(["sh", script], env={**os.environ, "PATH": stand.path}, check=True, capture_output=True)
    assert instances(stand) == first

    done = host.run(apply_program(cutting(host, stand, "7g.141gb")))
    assert done.outcome.end is End.COMMITTED, (done.outcome, done.err)
    assert instances(stand) == ["7g.141gb"]
    assert host.run(rollback_program()).outcome.end is End.ROLLED_BACK
    assert instances(stand) == first
    assert host.run(rollback_program()).outcome.end is End.ROLLED_BACK
    assert stand.gpus[0]["instances"] == []
    assert host.state() == files
    assert not any("reset" in line for line in stand.sets)


@pytest.mark.parametrize("command", SHELLS, ids=" ".join)
def test_a_layout_that_fits_in_part_leaves_the_former_one(command: tuple[str, ...], tmp_path: Path) -> None:
    host, stand = sliced(tmp_path, command)
    assert host.run(apply_program(cutting(host, stand, "2g.35gb,1g.18gb"))).outcome.end is End.COMMITTED
    before = host.state()
    done = host.run(apply_program(cutting(host, stand, "3g.71gb,3g.71gb,1g.18gb")))
    assert done.outcome.end is End.ROLLED_BACK, done.outcome
    assert "Insufficient Resources" in done.err
    assert any("-cgi 3g.71gb,3g.71gb,1g.18gb" in line for line in stand.sets), "it was tried"
    assert instances(stand) == ["1g.18gb", "2g.35gb"]
    assert host.state() == before


def test_a_layout_that_is_not_made_is_no_success(tmp_path: Path) -> None:
    host, stand = sliced(tmp_path)
    plan = cutting(host, stand, "3g.71gb,1g.18gb")
    for how, said in (
        ("ignored", "mig-layout is none, and not 3g.71gb,1g.18gb"),
        ("refused", "Insufficient Permissions"),
    ):
        stand.fault("-cgi", how)
        done = host.run(apply_program(plan))
        assert done.outcome.end is End.ROLLED_BACK, done.outcome
        assert said in done.err
        assert stand.gpus[0]["instances"] == []
    stand.fault("-cgi", "hangs")
    done = host.run(hurried(apply_program(plan)))
    assert done.outcome.end is End.ROLLED_BACK, done.outcome
    assert "nvidia-smi did not answer in 1 s" in done.err


def test_instances_in_use_stay(tmp_path: Path) -> None:
    host, stand = sliced(tmp_path)
    assert host.run(apply_program(cutting(host, stand, "3g.71gb,1g.18gb"))).outcome.end is End.COMMITTED
    plan = cutting(host, stand, "7g.141gb")
    stand.change(0, {"pids": [4711, 4712]})
    made = stand.gpus[0]["instances"]
    done = host.run(apply_program(plan))
    assert done.outcome.end is End.ROLLED_BACK, done.outcome
    assert "processes run on its MIG instances: 4711, 4712" in done.err
    assert stand.gpus[0]["instances"] == made
    # Nor are they taken back under a job: the transaction stays open until the GPU is drained.
    done = host.run(rollback_program())
    assert done.outcome.end is End.UNFINISHED, done.outcome
    assert stand.gpus[0]["instances"] == made
    stand.change(0, {"pids": []})
    assert host.run(recover_program()).outcome.end is End.ROLLED_BACK
    assert stand.gpus[0]["instances"] == []


def test_instances_that_somebody_made_since_are_left_alone(tmp_path: Path) -> None:
    host, stand = sliced(tmp_path)
    plan = cutting(host, stand, "3g.71gb,1g.18gb")
    theirs = [{"name": "3g.71gb", "id": 1, "start": 4, "size": 4, "compute": ["1c.3g.71gb", "2c.3g.71gb"]}]
    stand.change(0, {"instances": theirs})
    done = host.run(apply_program(plan))
    assert done.outcome.end is End.REFUSED, done.outcome
    assert "is now 3g.71gb with compute instances 1c.3g.71gb,2c.3g.71gb" in done.err
    assert stand.gpus[0]["instances"] == theirs
    refused = cutting(host, stand, "3g.71gb,1g.18gb")
    assert not refused.changes
    assert "without exactly one compute instance: 1" in refused.refusals[0].why


def test_a_gpu_that_hangs_the_tool_does_not_hang_for_ever(tmp_path: Path) -> None:
    """The plan is made of a snapshot, whose probe of nvidia-smi has its own limit: nothing is planned without it."""
    host, stand = prepared(tmp_path)
    load_tuners()
    snapshot = seen(host, stand).without(["gpu.smi"])
    checklist = Checklist(layers=(read_setting("gpu.power-limit=90"),))
    plan = make_plan(snapshot, checklist, Selection(only=("gpu.power-limit",)))
    assert not plan.changes
    assert plan.unplanned


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_every_unit_and_drop_in(tmp_path: Path) -> None:
    """Real part: systemd's own reader, over the files that plans of all case tables would write."""
    from support import plan_cases

    units = tmp_path / "units"
    names: set[str] = set()
    for case in plan_cases():
        for own in case.plan().changes:
            folder, _, name = own.target.rpartition("/")
            if own.kind is Kind.FILE and own.after and folder.startswith("/etc/systemd/system"):
                if "/system/hostcheck-" not in own.target and ".service.d" not in folder:
                    continue
                target = units / folder.removeprefix("/etc/systemd/system").strip("/") / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(own.after)
                names.add(target.parent.name.removesuffix(".d") if ".d" in target.parent.name else name)
    assert {"hostcheck-mps.service", "hostcheck-gpu-power-limit.service", "slurmd.service"} <= names
    for name in names:
        if not (units / name).exists():
            (units / name).write_text("[Service]\nExecStart=/bin/true\n")
        text = (units / name).read_text()
        # What is not installed here would be all that systemd complains of.
        (units / name).write_text(text.replace("/usr/bin/nvidia-cuda-mps-control", "/bin/true"))
    drop_in = units / "nvidia-persistenced.service.d/90-hostcheck-persistence.conf"
    drop_in.write_text(drop_in.read_text().replace("/usr/bin/nvidia-persistenced", "/bin/true"))
    for name in sorted(names):
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(units / name)],
            env={**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"},
            capture_output=True,
            text=True,
            timeout=180,
        )
        complaints = [line for line in done.stderr.splitlines() if "hostcheck" in line or name in line]
        assert not complaints, done.stderr
