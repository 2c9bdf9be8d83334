"""The programs that change a host: every kind of change, killed at every moment, made-up and on real settings.

The made-up host stands in for what cannot be had or must not be touched in tests: systemd, GPUs, kernel modules, GRUB.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from hostcheck.tuning.journal import End, StepState
from hostcheck.tuning.program import apply_program, recover_program, rollback_program
from tunelab import RUN, SHELLS, Host, every_kind, made_up, real

pytestmark = pytest.mark.sh

shells = pytest.mark.parametrize("command", SHELLS, ids=" ".join)


def moments(host: Host) -> int:
    """Return the number of the last checkpoint that a program came to."""
    return int((host.bin / "seen").read_text().split()[0])


@shells
def test_every_kind_there_and_back(command: Sequence[str], tmp_path: Path) -> None:
    host = made_up(tmp_path, command)
    before = host.state()
    done = host.run(apply_program(every_kind()))
    assert done.outcome.end is End.COMMITTED, (done.outcome, done.err)
    assert {ending.state for ending in done.outcome.steps.values()} == {StepState.APPLIED}
    assert len(done.outcome.steps) == len(every_kind().changes)
    assert host.get("/proc/sys/vm/swappiness") == "10\n"
    assert host.get("/boot/grub.cfg") == "linux /vmlinuz ro quiet iommu=off iommu=pt\n"
    assert host.get("/boot/args") == "ro quiet iommu=off nosmt\n"
    assert host.get("/gpu/power.limit") == "500.00\n"
    assert host.get("/gpu/locked") == "1200,1980\n"
    assert host.get("/units/irqbalance.service") == "disabled inactive\n"
    assert host.get("/sys/class/net/eth0/mtu") == "9000\n"
    assert (host.root / "sys/module/nvidia_fs").is_dir()
    calls = host.calls()
    assert calls.count("systemctl daemon-reload") == 1
    assert calls.count("udevadm control --reload") == 1
    again = host.run(apply_program(every_kind()))
    assert again.outcome.end is End.NOTHING
    assert {step.state for step in again.outcome.steps.values()} == {StepState.SAME}
    # What nvidia-smi does not show, and hostcheck did not write down, cannot be known to be there already.
    shutil.rmtree(host.root / RUN)
    again = host.run(apply_program(every_kind()))
    assert again.outcome.end is End.COMMITTED
    assert [n for n, step in again.outcome.steps.items() if step.state is not StepState.SAME] == [11]
    back = host.run(rollback_program(with_newer=True))
    back = host.run(rollback_program("1"))
    assert back.outcome.end is End.ROLLED_BACK, (back.outcome, back.err)
    after = host.state()
    rmem = "proc/sys/net/ipv4/tcp_rmem"  # the kernel writes its own blanks; here they stay as written
    assert after.pop(rmem)
    assert before.pop(rmem)
    assert after == before


@shells
def test_killed_at_every_moment(command: Sequence[str], tmp_path: Path) -> None:
    _killed_everywhere(made_up(tmp_path, command), apply_program(every_kind()))


@shells
def test_killed_at_every_moment_on_real_settings(command: Sequence[str], tmp_path: Path) -> None:
    with real(tmp_path, command) as host:
        _killed_everywhere(host, apply_program(host.plan()))


def _state(host: Host) -> dict[object, object]:
    found = host.state()
    found.pop("proc/sys/net/ipv4/tcp_rmem", None)
    return found


def _killed_everywhere(host: Host, program: str) -> None:
    """Kill a program at its first checkpoint, then at its second, and so on, until it is not killed any more."""
    before = _state(host)
    committed = 0
    for moment in range(1, 1000):
        killed = host.run(program, kill_at=moment)
        if killed.code == 0:
            assert killed.outcome.end is End.COMMITTED
            assert moments(host) == moment - 1 > 40
            break
        assert killed.outcome.end is End.CUT, (moment, killed)
        found = host.run(recover_program())
        assert found.code == 0, (moment, found)
        if found.outcome.end is End.COMMITTED:
            # Nothing was left to do but to say so.
            committed += 1
            assert host.run(rollback_program()).outcome.end is End.ROLLED_BACK
        assert _state(host) == before, (moment, found)
        if moment % 7 == 0:
            again = host.run(recover_program())
            assert (again.outcome.end, _state(host)) == (End.NOTHING, before), moment
    assert committed == 2
    assert _state(host) != before
    assert host.run(rollback_program()).outcome.end is End.ROLLED_BACK
    assert _state(host) == before
