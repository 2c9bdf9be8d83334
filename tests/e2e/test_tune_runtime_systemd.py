"""Units and drop-ins on a real systemd: there, back, and killed at every moment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hostcheck.facts.slices import SystemSlice, parse_system_slice
from hostcheck.tuning.change import Kind, Plan, Reload
from hostcheck.tuning.journal import End, StepState, read_outcomes
from hostcheck.tuning.program import apply_program, recover_program, rollback_program
from systemdlab import SystemdHost, booted
from tunelab import CHECKPOINT, HEADER, KILLED, MACHINE, SHELLS, Ran, change, file, plan, shell

pytestmark = pytest.mark.sh

DEMO = (
    "[Unit]\nDefaultDependencies=no\n[Service]\nType=exec\nExecStart=/bin/sleep 1000\n[Install]\nWantedBy=lab.target\n"
)
OWN = "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"
OWN += "[Install]\nWantedBy=lab.target\n"
LIMITS = "/etc/systemd/system/demo.service.d/90-hostcheck-limits.conf"
KNOWN = ("LoadState", "UnitFileState", "ActiveState", "LimitNOFILE", "NeedDaemonReload", "DropInPaths", "FragmentPath")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[SystemdHost]:
    with booted(tmp_path) as found:
        found.put("/etc/systemd/system/demo.service", DEMO)
        found.run("systemctl", "daemon-reload")
        for name in ("dash", "bash", "busybox"):
            shell([name], tmp_path / "shared" / name)
        yield found


def changes(*, starts: bool = True) -> Plan:
    own = OWN if starts else OWN.replace("/bin/true", "/bin/false")
    return plan(
        file("/etc/systemd/system/hostcheck-own.service", None, HEADER + own, reload=Reload.SYSTEMD),
        change(Kind.UNIT, "hostcheck-own.service", "disabled inactive", "enabled active"),
        file(LIMITS, None, f"{HEADER}[Service]\nLimitNOFILE=4321\n", reload=Reload.SYSTEMD),
        change(Kind.UNIT, "demo.service", "disabled inactive", "enabled active"),
    )


def run(host: SystemdHost, tmp_path: Path, program: str, *, name: str = "dash", kill_at: int = 0) -> Ran:
    """Run a program there by this shell; kill it at a checkpoint if one is named."""
    folder = tmp_path / "shared" / name
    words = ["env", f"PATH={folder}{os.pathsep}{os.environ['PATH']}", "sh", "-s"]
    if kill_at:
        words.insert(1, f"HOSTCHECK_KILL_AT={kill_at}")
        program = program.replace(CHECKPOINT, KILLED)
    done = host.run(*words, text=program, check=False)
    return Ran(done.returncode, done.stdout.encode(), done.stderr)


def state(host: SystemdHost) -> Sequence[object]:
    """Return what systemd knows of the units, and the files that it knows it from."""
    return host.files("/etc/systemd/system"), *(host.show(unit, *KNOWN) for unit in ("demo", "hostcheck-own"))


@pytest.mark.parametrize("name", [command[0] for command in SHELLS])
def test_units_and_drop_ins(host: SystemdHost, tmp_path: Path, name: str) -> None:
    before = state(host)
    ran = run(host, tmp_path, apply_program(changes()), name=name)
    assert ran.outcome.end is End.COMMITTED, ran
    assert host.show("hostcheck-own", "ActiveState", "UnitFileState") == {
        "ActiveState": "active",
        "UnitFileState": "enabled",
    }
    pid = host.show("demo", "MainPID")["MainPID"]
    assert "4321" in host.run("grep", "open files", f"/proc/{pid}/limits").stdout.split()
    assert run(host, tmp_path, apply_program(changes()), name=name).outcome.end is End.NOTHING
    back = run(host, tmp_path, rollback_program(), name=name)
    assert back.outcome.end is End.ROLLED_BACK, back
    assert state(host) == before


def test_the_cpus_of_system_slice(host: SystemdHost, tmp_path: Path) -> None:
    """systemd takes the drop-in that the tuner writes for its own slice; what holds is the kernel's part."""
    known = ("AllowedCPUs", "DropInPaths", "NeedDaemonReload")
    before = host.files("/etc/systemd/system"), host.show("system.slice", *known)
    assert before[1]["AllowedCPUs"] == ""
    path = "/etc/systemd/system/system.slice.d/90-hostcheck-allowed-cpus.conf"
    wanted = plan(file(path, None, f"{HEADER}[Slice]\nAllowedCPUs=0\n", reload=Reload.SYSTEMD))
    assert run(host, tmp_path, apply_program(wanted)).outcome.end is End.COMMITTED
    assert host.show("system.slice", *known) == {"AllowedCPUs": "0", "DropInPaths": path, "NeedDaemonReload": "no"}
    said = "\n".join(f"{name}={value}" for name, value in host.show("system.slice", *known).items())
    assert parse_system_slice(said, "cpuset cpu") == SystemSlice(allowed=frozenset({0}), drop_ins=(path,))
    verify = host.run("systemd-analyze", "verify", "system.slice", check=False)
    assert "90-hostcheck" not in verify.stdout + verify.stderr
    assert run(host, tmp_path, rollback_program()).outcome.end is End.ROLLED_BACK
    assert (host.files("/etc/systemd/system"), host.show("system.slice", *known)) == before


def test_units_that_do_not_start_or_are_not_there(host: SystemdHost, tmp_path: Path) -> None:
    before = state(host)
    ran = run(host, tmp_path, apply_program(changes(starts=False)))
    assert ran.outcome.end is End.ROLLED_BACK, ran
    assert ran.outcome.failures[2].state is StepState.FAILED
    assert state(host) == before
    nowhere = change(Kind.UNIT, "nothere.service", "disabled inactive", "enabled active")
    ran = run(host, tmp_path, apply_program(plan(nowhere)))
    assert ran.outcome.end is End.ROLLED_BACK, ran
    assert "nothere.service does not exist" in ran.outcome.failures[1].why
    assert state(host) == before


def test_killed_at_every_moment(host: SystemdHost, tmp_path: Path) -> None:
    before = state(host)
    program = apply_program(changes())
    for moment in range(1, 200):
        if run(host, tmp_path, program, kill_at=moment).code == 0:
            break
        found = run(host, tmp_path, recover_program())
        assert found.code == 0, (moment, found)
        if read_outcomes(found.out)[-1].end is End.COMMITTED:
            assert run(host, tmp_path, rollback_program()).outcome.end is End.ROLLED_BACK
        assert state(host) == before, (moment, found)
    assert moment > 30


def test_the_machine_of_the_lab_is_the_plans(host: SystemdHost) -> None:
    assert host.run("cat", "/etc/machine-id").stdout.strip() == MACHINE
