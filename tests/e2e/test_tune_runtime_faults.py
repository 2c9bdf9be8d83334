"""What can go wrong while a host is changed: it is said in a line, and the host is as before."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from hostcheck.tuning.change import Kind, Plan
from hostcheck.tuning.journal import End, StepState, read_history
from hostcheck.tuning.program import (
    apply_program,
    confirm_program,
    history_program,
    recover_program,
    rollback_program,
)
from tunelab import (
    CHECKPOINT,
    HEADER,
    OLD,
    RUN,
    SHELLS,
    SMALL,
    STATE,
    SWAPPINESS,
    Host,
    Ran,
    change,
    every_kind,
    file,
    inside,
    made_up,
    plan,
    real,
    write,
)
from waiting import until

pytestmark = pytest.mark.sh

shells = pytest.mark.parametrize("command", SHELLS, ids=" ".join)


@pytest.fixture(params=SHELLS, ids=" ".join)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    return made_up(tmp_path, request.param)


@pytest.fixture
def dash(tmp_path: Path) -> Host:
    return made_up(tmp_path, ["dash"])


def meddling(program: str, at: str, line: str) -> str:
    """Return the program with somebody who runs a line of sh at a checkpoint, once."""
    assert program.count(CHECKPOINT) == 1
    return program.replace(CHECKPOINT, f'done=\ncheckpoint() {{ [ "$done$1" != {at} ] || {{ done=yes; {line}\n}}; }}')


def meddled(host: Host, program: str, at: str, line: str) -> Ran:
    return host.run(meddling(program, at, line))


# --- killed ---


@shells
def test_killed_while_it_takes_back(command: Sequence[str], tmp_path: Path) -> None:
    """`recover` and `rollback` may themselves be killed, at any moment, and the next `recover` ends it."""
    host = made_up(tmp_path, command)
    before = host.state()
    assert host.run(apply_program(SMALL)).outcome.end is End.COMMITTED
    for moment in range(1, 100):
        killed = host.run(rollback_program(), kill_at=moment)
        if killed.code == 0:
            break
        for again in range(1, 100):
            if host.run(recover_program(), kill_at=again).code == 0:
                break
        ended = read_history(host.run(history_program()).out)[-1].end
        if moment == 1:  # before it had said that it takes back
            assert ended is End.COMMITTED
            continue
        assert (ended, host.state()) == (End.ROLLED_BACK, before), moment
        assert host.run(apply_program(SMALL)).outcome.end is End.COMMITTED
    assert moment > 8
    assert host.state() == before


@shells
def test_killed_with_all_its_children_at_any_time(command: Sequence[str], tmp_path: Path) -> None:
    _killed_at_any_time(made_up(tmp_path, command), SMALL)


def test_killed_with_all_its_children_at_any_time_on_real_settings(tmp_path: Path) -> None:
    with real(tmp_path, ["dash"]) as host:
        _killed_at_any_time(host, host.plan())


def _killed_at_any_time(host: Host, wanted: Plan) -> None:
    before = host.state()
    took = []
    for _ in range(3):
        started = time.monotonic()
        host.run(apply_program(wanted))
        took.append(time.monotonic() - started)
        host.run(rollback_program())
    longest = min(took) * 1.2  # one that a busy machine held up would put most kills after the end
    chance = random.Random(7)
    caught = 0
    for _ in range(25):
        when = chance.uniform(0.01, longest)
        program = apply_program(wanted).replace(
            CHECKPOINT, f"{CHECKPOINT}\n(sleep {when:.3f}; exec env kill -KILL -- -$$) >/dev/null 2>&1 </dev/null &"
        )
        ran = host.run(program)
        caught += ran.code != 0
        assert host.run(recover_program()).code == 0
        if _last_end(host) is End.COMMITTED:  # whether it could still say so or not
            assert host.run(rollback_program()).outcome.end is End.ROLLED_BACK
        assert host.state() == before, (when, ran)
    assert caught > 3


def test_cut_short_while_it_is_sent(host: Host) -> None:
    program = apply_program(SMALL)
    before = host.state()
    for length in [*range(0, len(program) - 400, len(program) // 20), *range(len(program) - 400, len(program) - 30, 9)]:
        ran = host.run(program[:length])
        assert b"begin" not in ran.out, program[length - 30 : length]
        assert host.state() == before


@shells
def test_the_connection_is_cut(command: Sequence[str], tmp_path: Path) -> None:
    """Whoever sent the program goes, with its process group and its pipes, and the program goes on to its end."""
    host = made_up(tmp_path, command)
    before = host.state()
    names = ("mkdir", "open", "begun", "before", "intent", "durable", "written", "acted", "applied", "end", "closed")
    for name in names:
        (tmp_path / "at").unlink(missing_ok=True)
        program = meddling(apply_program(SMALL), name, f": >{tmp_path}/at; sleep 0.3")
        child = subprocess.Popen(
            [str(host.bin / "sh"), "-s"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "HOSTCHECK_ROOT": str(host.root), "PATH": f"{host.bin}:{os.environ['PATH']}"},
        )
        assert child.stdin
        assert child.stdout
        assert child.stderr
        child.stdin.write(program.encode())
        child.stdin.close()
        until(lambda: (tmp_path / "at").exists())
        child.stdout.close()
        child.stderr.close()
        os.killpg(child.pid, signal.SIGHUP)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        until(lambda: _last_end(host) is End.COMMITTED)
        until(lambda: host.run(rollback_program()).outcome.end is End.ROLLED_BACK)
        assert host.state() == before, name


def _last_end(host: Host) -> End:
    found = read_history(host.run(history_program()).out)
    return found[-1].end if found else End.CUT


# --- the journal ---


@shells
def test_a_journal_cut_at_every_byte(command: Sequence[str], tmp_path: Path) -> None:
    """A power cut may leave any part of what was written: what the rest names is taken back, and the loss is told."""
    host = made_up(tmp_path, command)
    before = host.state()
    assert host.run(apply_program(SMALL)).outcome.end is End.COMMITTED
    done = host.state()
    tx = host.root / STATE / "tx/1"
    kept = tmp_path / "kept"
    shutil.copytree(host.root, kept, symlinks=True)
    journal = (tx / "journal").read_bytes()
    whole = journal[: journal.rindex(b"0\tcommitted")]
    lost = 0
    for length in range(0, len(whole), 1 if command == ["dash"] else 11):
        shutil.rmtree(host.root)
        shutil.copytree(kept, host.root, symlinks=True)
        (tx / "journal").write_bytes(whole[:length])
        (tx / "open").touch()
        ran = host.run(recover_program())
        assert (ran.code, ran.outcome.end) == (0, End.ROLLED_BACK), (length, ran)
        left = {number for number, step in ran.outcome.steps.items() if step.state is StepState.LEFT}
        found = host.state()
        for number, name in ((1, SWAPPINESS[1:]), (2, OLD[1:]), (3, "etc/sysctl.d/new/90-hostcheck-x.conf")):
            if found.get(name) != before.get(name):
                lost += 1
                assert found[name] == done[name]
                assert number in left or "cut short" in ran.outcome.why, (length, ran)
        if length % 11 == 0:
            assert host.run(recover_program()).outcome.end is End.NOTHING
            assert host.state() == found
    assert lost
    (tx / "open").touch()
    (tx / "journal").write_bytes(whole)
    shutil.rmtree(host.root / "etc")
    shutil.copytree(kept / "etc", host.root / "etc")
    host.put(SWAPPINESS, "10\n")
    assert host.run(recover_program()).outcome.end is End.ROLLED_BACK
    assert host.state() == before


def test_a_journal_with_a_hole(host: Host) -> None:
    """Blocks that never reached the disk read as zeros."""
    before = host.state()
    host.run(apply_program(SMALL))
    journal = host.root / STATE / "tx/1/journal"
    text = journal.read_bytes()
    text = text[: text.index(b"0\tcommitted")]
    (journal.parent / "open").touch()
    at = text.index(b"1\tplan")
    end = text.index(b"2\tplan")
    journal.write_bytes(text[:at] + bytes(end - at) + text[end:])
    ran = host.run(recover_program())
    assert "cut short" in ran.outcome.why
    assert host.get(SWAPPINESS) == "10\n"  # what it was is not known any more
    host.put(SWAPPINESS, "60\n")
    assert host.state() == before


def test_a_journal_of_another_version(host: Host) -> None:
    host.run(apply_program(SMALL))
    journal = host.root / STATE / "tx/1/journal"
    journal.write_text(journal.read_text().replace("0\tjournal\t1\t", "0\tjournal\t2\t", 1))
    ran = host.run(rollback_program("1"))
    assert ran.outcome.end is End.REFUSED
    assert "another version" in ran.outcome.why
    assert host.get(SWAPPINESS) == "10\n"


# --- the disk ---


@pytest.mark.parametrize("free", [0, 4, 8, 12, 16, 20, 24, 28, 32, 40])
@pytest.mark.parametrize("command", SHELLS, ids=" ".join)
def test_the_disk_of_the_journal_is_full(command: Sequence[str], free: int, tmp_path: Path) -> None:
    host = made_up(tmp_path, command)
    before = host.state()
    at = host.root / "var/lib"
    with inside(
        f"mount -t tmpfs -o mode=755,size=128k t {at}; head -c {(128 - free) << 10} /dev/zero >{at}/full"
    ) as prefix:
        host.inside = prefix
        ran = host.run(apply_program(SMALL))
        if ran.outcome.end is End.COMMITTED:
            assert free >= 28
            assert host.run(rollback_program()).outcome.end is End.ROLLED_BACK
        else:
            assert free < 40
            assert "No space left on device" in ran.outcome.why, ran
            assert len(ran.err.splitlines()) < 5, ran.err
        assert host.state() == before
        subprocess.run([*prefix, "rm", str(at / "full")], check=True)
        assert host.run(recover_program()).outcome.end in (End.NOTHING, End.ROLLED_BACK)
        assert host.state() == before
        assert host.run(apply_program(SMALL)).outcome.end is End.COMMITTED


def test_the_disk_of_a_file_is_full(host: Host) -> None:
    large = f"{HEADER}{'x' * 50000}\n"
    wanted = plan(write(SWAPPINESS, "60", "10"), file("/etc/udev/rules.d/90-hostcheck-x.rules", None, large))
    before = host.state()
    with inside(f"mount -t tmpfs -o mode=755,size=32k t {host.root}/etc/udev/rules.d") as prefix:
        host.inside = prefix
        ran = host.run(apply_program(wanted))
        listed = subprocess.run([*prefix, "ls", "-A", f"{host.root}/etc/udev/rules.d"], capture_output=True).stdout
    assert ran.outcome.end is End.ROLLED_BACK
    assert ran.outcome.failures[2].why.endswith("cannot be written: No space left on device")
    assert listed == b""
    assert host.state() == before


@pytest.mark.parametrize("where", ["var", "etc"])
def test_a_file_system_that_is_read_only(host: Host, where: str) -> None:
    before = host.state()
    at = host.root / where
    with inside(f"mount --bind {at} {at}; mount -o remount,bind,ro {at}") as prefix:
        host.inside = prefix
        ran = host.run(apply_program(SMALL))
    assert ran.outcome.end is (End.REFUSED if where == "var" else End.ROLLED_BACK)
    assert "Read-only file system" in ran.outcome.why
    assert host.state() == before


def test_not_root() -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        host = made_up(folder, ["dash"])
        if os.geteuid() != 0:
            pytest.skip("needs root, to be somebody else")
        before = host.state()
        ran = host.run(apply_program(SMALL), user=65534)
        assert ran.outcome.end is End.REFUSED
        assert ran.outcome.why.endswith("var/lib/hostcheck cannot be made: Permission denied; run this as root")
        assert ran.err.count("\n") == 1
        assert host.run(apply_program(SMALL)).outcome.end is End.COMMITTED
        for program in (history_program(), rollback_program(), recover_program()):
            ran = host.run(program, user=65534)
            assert ran.outcome.end is End.REFUSED
            assert "run this as root" in ran.outcome.why
        assert host.run(rollback_program()).outcome.end is End.ROLLED_BACK
        assert host.state() == before
    finally:
        shutil.rmtree(folder)


# --- the kernel ---


@shells
def test_what_the_kernel_refuses_and_what_it_does_not_take(command: Sequence[str], tmp_path: Path) -> None:
    with real(tmp_path, command) as host:
        before = host.state()
        good = host.plan()
        queue = f"/sys/block/{host.block}/queue"
        ahead = host.sh(f"cat {queue}/read_ahead_kb").strip()
        control = host.sh("cat /proc/sys/net/ipv4/tcp_congestion_control").strip()
        bad = {
            write(f"{queue}/scheduler", "none", "such"): "the kernel refused such: Invalid argument",
            write("/proc/sys/net/ipv4/tcp_congestion_control", control, "nosuch"): "No such file or directory",
            change(Kind.NIC, "above0 mtu", "1500", "9000"): "the kernel refused 9000: Invalid argument",
            change(Kind.SWAP, "/etc/passwd", None, "5"): "swapon",
            # The kernel counts in pages of 4 KiB, and rounds down.
            write(
                f"{queue}/read_ahead_kb", ahead, "134"
            ): f"it was accepted and did not take: {queue}/read_ahead_kb is 132, and not 134",
        }
        first = write("/proc/sys/net/ipv4/tcp_rmem", good.changes[1].before or "", "4096 131072 16777216")
        for wrong, why in bad.items():
            ran = host.run(apply_program(plan(first, wrong, machine=good.machine, boot=good.boot)))
            assert ran.outcome.end is End.ROLLED_BACK, ran
            assert why in ran.outcome.why, ran.outcome
            assert ran.outcome.failures[2].state is StepState.FAILED
            assert ran.outcome.steps[1].state is StepState.UNDONE
            assert host.state() == before
        kept = host.run(apply_program(plan(first, wrong, machine=good.machine, boot=good.boot), keep_unverified=True))
        assert kept.outcome.end is End.STOPPED
        assert {n: step.state for n, step in kept.outcome.steps.items()} == {
            1: StepState.APPLIED,
            2: StepState.UNDONE,
        }
        assert host.sh("cat /proc/sys/net/ipv4/tcp_rmem").split()[2] == "16777216"
        assert host.run(rollback_program()).outcome.end is End.ROLLED_BACK
        assert host.state() == before


@shells
def test_killed_before_it_saw_that_a_value_was_not_taken(command: Sequence[str], tmp_path: Path) -> None:
    with real(tmp_path, command) as host:
        before = host.state()
        good = host.plan()
        at = f"/sys/block/{host.block}/queue/read_ahead_kb"
        ahead = host.sh(f"cat {at}").strip()
        program = apply_program(plan(write(at, ahead, "134"), machine=good.machine, boot=good.boot))
        assert host.run(meddling(program, "acted", "kill -KILL $$")).outcome.end is End.CUT
        assert host.sh(f"cat {at}") == "132\n"
        assert host.run(recover_program()).outcome.end is End.ROLLED_BACK
        assert host.state() == before


# --- other people ---


def test_something_moved_since_the_plan(host: Host) -> None:
    host.put(SWAPPINESS, "30\n")
    host.put("/etc/sysctl.d/new/90-hostcheck-x.conf", "mine = 'all'\n")
    before = host.state()
    ran = host.run(apply_program(SMALL))
    assert ran.outcome.end is End.REFUSED
    assert ran.outcome.steps[1].why == f"{SWAPPINESS} is now 30, and was 60 when the plan was made"
    assert ran.outcome.steps[3].why == (
        "/etc/sysctl.d/new/90-hostcheck-x.conf is there already, and not by hostcheck; it holds: mine = 'all'\n"
    )
    assert host.state() == before
    assert host.run(history_program()).outcome.end is End.NOTHING


def test_something_moves_in_between(host: Host) -> None:
    before = host.state()
    ran = meddled(host, apply_program(SMALL), "applied", f"echo 'x = 1' >{host.root}{OLD}")
    assert ran.outcome.end is End.ROLLED_BACK
    assert ran.outcome.steps[2].state is StepState.MOVED
    after = host.state()
    assert after.pop(OLD[1:])[1] == b"x = 1\n"  # type: ignore[index]
    before.pop(OLD[1:])
    assert after == before


def test_what_somebody_changed_since_is_left_alone(host: Host) -> None:
    before = host.state()
    host.run(apply_program(SMALL))
    host.put(SWAPPINESS, "33\n")
    host.put("/etc/sysctl.d/new/theirs.conf", "x\n")
    ran = host.run(rollback_program())
    assert ran.outcome.end is End.ROLLED_BACK
    assert ran.outcome.steps[1].state is StepState.LEFT
    assert "is now 33, which is not what was set" in ran.outcome.steps[1].why
    assert ran.outcome.steps[2].state is StepState.UNDONE
    assert ran.outcome.steps[3].why == "/etc/sysctl.d/new holds something else, and stays"
    assert host.get(SWAPPINESS) == "33\n"
    host.put(SWAPPINESS, "60\n")
    shutil.rmtree(host.root / "etc/sysctl.d/new")
    assert host.state() == before
    again = host.run(rollback_program("1"))
    assert (again.outcome.end, again.outcome.steps) == (End.ROLLED_BACK, {})


def test_two_at_once(host: Host) -> None:
    hold = f": >{host.bin}/at; until [ -e {host.bin}/go ]; do sleep 0.05; done"
    program = meddling(apply_program(SMALL), "intent", hold)
    first = subprocess.Popen(
        [str(host.bin / "sh"), "-s"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "HOSTCHECK_ROOT": str(host.root), "PATH": f"{host.bin}:{os.environ['PATH']}"},
    )
    assert first.stdin
    assert first.stdout
    first.stdin.write(program.encode())
    first.stdin.close()
    try:
        until(lambda: (host.bin / "at").exists())
        ran = host.run(apply_program(SMALL))
        assert ran.outcome.end is End.REFUSED
        assert "another hostcheck is changing this host: process " in ran.outcome.why
        assert "applying a plan for node, since 2" in ran.outcome.why
        assert host.run(rollback_program()).outcome.end is End.REFUSED
    finally:
        (host.bin / "go").touch()
    assert b"committed" in first.stdout.read()
    first.stdout.close()
    assert first.wait() == 0
    assert host.run(rollback_program()).outcome.end is End.ROLLED_BACK


def test_a_killed_one_whose_child_holds_the_lock_a_moment_longer(dash: Host) -> None:
    program = meddling(apply_program(SMALL), "acted", "(sleep 1.5 >/dev/null 2>&1 &) ; kill -KILL $$")
    assert dash.run(program).outcome.end is End.CUT
    assert dash.run(recover_program()).outcome.end is End.ROLLED_BACK


def test_what_a_killed_one_started_is_waited_for(dash: Host) -> None:
    left = dash.bin / "left"
    program = meddling(apply_program(SMALL), "acted", f"(sleep 600 >/dev/null 2>&1 & echo $! >{left}); kill -KILL $$")
    assert dash.run(program).outcome.end is End.CUT
    try:
        ran = dash.run(recover_program().replace('"$tries" -lt 10', '"$tries" -lt 1'))
    finally:
        os.kill(int(left.read_text()), signal.SIGKILL)
    assert ran.outcome.end is End.REFUSED
    assert "started before it was killed is still at work (applying a plan for node, since " in ran.outcome.why


def test_an_unfinished_one_comes_first(host: Host) -> None:
    assert host.run(apply_program(SMALL), kill_at=20).outcome.end is End.CUT
    for program in (apply_program(SMALL), rollback_program()):
        ran = host.run(program)
        assert ran.outcome.end is End.REFUSED
        assert "transaction 1 was not brought to an end: run hostcheck tune recover first" in ran.outcome.why


def test_another_host_and_another_boot(host: Host) -> None:
    other = host.run(apply_program(plan(*SMALL.changes, machine="f" * 32)))
    assert "the plan was made for node (machine ffff" in other.outcome.why
    later = host.run(apply_program(plan(*SMALL.changes, boot="other")))
    assert "was started anew since the plan was made" in later.outcome.why
    assert (other.outcome.end, later.outcome.end) == (End.REFUSED, End.REFUSED)
    # Files do not care about the boot.
    lasting = host.run(apply_program(plan(*SMALL.changes[1:], boot="other")))
    assert lasting.outcome.end is End.COMMITTED


def test_after_another_boot_values_of_the_old_one_are_nobodys(host: Host) -> None:
    before = host.state()
    host.run(apply_program(every_kind()))
    host.put("/proc/sys/kernel/random/boot_id", "another\n")
    shutil.rmtree(host.root / RUN)  # which a boot makes anew
    host.put(SWAPPINESS, "60\n")
    host.put("/sys/class/net/eth0/mtu", "4000\n")
    calls = len(host.calls())
    ran = host.run(rollback_program())
    assert ran.outcome.steps[1].state is StepState.UNDONE
    assert ran.outcome.steps[13].state is StepState.LEFT
    assert not [call for call in host.calls()[calls:] if "-rgc" in call]
    assert host.get("/boot/grub.cfg") == before["boot/grub.cfg"][1].decode()  # type: ignore[index]


def test_a_clock_that_jumps_back(host: Host) -> None:
    (host.bin / "date").write_text('#!/bin/sh\nread -r said <"${0%/*}/clock"\necho "$said"\n')
    (host.bin / "date").chmod(0o755)
    for time_, after in (("2031-01-01T00:00:00Z", "10"), ("1999-01-01T00:00:00Z", "5")):
        (host.bin / "clock").write_text(f"{time_}\n")
        before = host.get(SWAPPINESS).strip()
        assert host.run(apply_program(plan(write(SWAPPINESS, before, after)))).outcome.end is End.COMMITTED
    found = read_history(host.run(history_program()).out)
    assert [(each.id, each.made[:4]) for each in found] == [("1", "2031"), ("2", "1999")]
    assert host.run(rollback_program()).outcome.transaction == "2"
    assert host.get(SWAPPINESS) == "10\n"


# --- arguments of the kernel ---

ARGUMENTS = plan(
    change(Kind.KERNEL_ARG, "grub iommu", "off", "pt"),
    change(Kind.KERNEL_ARG, "grub nosmt", None, ""),
)
GIVEN = "linux /vmlinuz ro quiet iommu=off iommu=pt nosmt\n"


def test_grub_makes_its_configuration_once_for_all_arguments(host: Host) -> None:
    before = host.state()
    ran = host.run(apply_program(ARGUMENTS))
    assert (ran.outcome.end, host.get("/boot/grub.cfg")) == (End.COMMITTED, GIVEN)
    assert {step.state for step in ran.outcome.steps.values()} == {StepState.APPLIED}
    assert host.calls() == ["update-grub"]
    assert host.run(rollback_program("1", changes=[2])).outcome.end is End.COMMITTED
    assert host.get("/boot/grub.cfg") == GIVEN.replace(" nosmt", "")
    back = host.run(rollback_program("1"))
    assert {n: step.state for n, step in back.outcome.steps.items()} == {1: StepState.UNDONE}
    assert host.calls() == ["update-grub"] * 3
    assert host.state() == before


@shells
def test_killed_between_the_arguments_and_the_configuration(command: Sequence[str], tmp_path: Path) -> None:
    """Whatever was written and not yet made a configuration of is known, both on the way there and back."""
    host = made_up(tmp_path, command)
    before = host.state()
    for moment in range(1, 100):
        if host.run(apply_program(ARGUMENTS), kill_at=moment).code == 0:
            break
        assert host.run(recover_program()).code == 0
        if _last_end(host) is End.COMMITTED:
            host.run(rollback_program())
        assert host.state() == before, moment
    assert moment > 20
    for moment in range(1, 100):
        if host.run(rollback_program(), kill_at=moment).code == 0:
            break
        host.run(recover_program(), kill_at=moment % 9 + 1)
        assert host.run(recover_program()).code == 0
        if _last_end(host) is End.COMMITTED:  # killed before it had said that it takes back
            assert host.get("/boot/grub.cfg") == GIVEN
            continue
        assert (_last_end(host), host.state()) == (End.ROLLED_BACK, before), moment
        assert host.run(apply_program(ARGUMENTS)).outcome.end is End.COMMITTED
    assert moment > 12
    assert host.state() == before


@pytest.mark.parametrize("keep", [False, True])
def test_a_configuration_that_cannot_be_made(host: Host, keep: bool) -> None:
    before = host.state()
    good = (host.bin / "update-grub").read_text()
    # It fails where an argument is given, and works again once it was taken back.
    (host.bin / "update-grub").write_text(
        good
        + '\ngrep -q nosmt "$root/boot/grub.cfg" && echo "grub-probe: error: no such device" >&2 && exit 1\nexit 0\n'
    )
    ran = host.run(apply_program(ARGUMENTS, keep_unverified=keep))
    assert ran.outcome.end is (End.STOPPED if keep else End.ROLLED_BACK)
    assert "GRUB's configuration could not be made: grub-probe: error: no such device" in ran.outcome.why
    assert {n: step.state for n, step in ran.outcome.failures.items()} == dict.fromkeys((1, 2), StepState.FAILED)
    assert {step.state for step in ran.outcome.steps.values()} == {StepState.UNDONE}
    assert host.state() == before

    (host.bin / "update-grub").write_text("#!/bin/sh\nexit 1\n")
    ran = host.run(apply_program(ARGUMENTS, keep_unverified=keep))
    assert ran.outcome.end is End.UNFINISHED
    assert {step.why for step in ran.outcome.steps.values()} == {
        "GRUB's configuration could not be made: update-grub failed without a word"
    }
    assert host.run(recover_program()).outcome.end is End.UNFINISHED
    (host.bin / "update-grub").write_text(good)
    assert host.run(recover_program()).outcome.end is End.ROLLED_BACK
    assert host.state() == before


def test_arguments_stay_where_a_later_change_fails_and_what_was_made_is_kept(host: Host) -> None:
    wanted = plan(*ARGUMENTS.changes, change(Kind.UNIT, "none.service", "disabled inactive", "static inactive"))
    before = host.state()
    assert host.run(apply_program(wanted)).outcome.end is End.ROLLED_BACK
    assert host.state() == before
    ran = host.run(apply_program(wanted, keep_unverified=True))
    assert {n: step.state for n, step in ran.outcome.steps.items()} == {
        1: StepState.APPLIED, 2: StepState.APPLIED, 3: StepState.UNDONE
    }  # fmt: skip
    assert (ran.outcome.end, host.get("/boot/grub.cfg")) == (End.STOPPED, GIVEN)


def test_an_argument_that_somebody_takes_out_meanwhile_did_not_take(host: Host) -> None:
    """It is read back after the configuration was made, each by itself."""
    mine = f"{host.root}/etc/default/grub.d/90-hostcheck-arguments.cfg"
    ran = meddled(host, apply_program(ARGUMENTS), "configured", f"sed -i /nosmt/d {mine}")
    assert ran.outcome.end is End.ROLLED_BACK
    assert [n for n, step in ran.outcome.failures.items() if step.state is StepState.FAILED] == [2]
    assert "it was accepted and did not take: grub nosmt is nothing, and not an empty value" in ran.outcome.why


# --- many transactions ---


def test_an_old_one_after_newer_ones(host: Host) -> None:
    before = host.state()
    host.run(apply_program(SMALL))
    host.run(apply_program(plan(write("/proc/sys/net/ipv4/tcp_rmem", "4096 131072 6291456", "1 2 3"))))
    host.run(apply_program(plan(write(SWAPPINESS, "10", "5"))))
    ran = host.run(rollback_program("1"))
    assert ran.outcome.end is End.REFUSED
    assert f"transaction 3 changed the same after it ({SWAPPINESS})" in ran.outcome.why
    assert host.get(SWAPPINESS) == "5\n"
    ran = host.run(rollback_program("1", with_newer=True))
    assert [(each.transaction, each.end) for each in ran.outcomes] == [("3", End.ROLLED_BACK), ("1", End.ROLLED_BACK)]
    assert host.get("/proc/sys/net/ipv4/tcp_rmem") == "1 2 3\n"
    assert host.run(rollback_program()).outcome.transaction == "2"
    rmem = "proc/sys/net/ipv4/tcp_rmem"
    after = host.state()
    assert after.pop(rmem)
    assert before.pop(rmem)
    assert after == before
    assert host.run(rollback_program()).outcome.end is End.NOTHING


def test_some_changes_of_one(host: Host) -> None:
    before = host.state()
    host.run(apply_program(SMALL))
    killed = host.run(meddling(rollback_program("1", changes=[1, 3]), "undone", "kill -KILL $$"))
    assert killed.outcome.end is End.CUT
    assert host.run(recover_program()).outcome.end is End.COMMITTED
    assert host.get(SWAPPINESS) == "60\n"
    assert host.get(OLD) == f"{HEADER}vm.swappiness = 10\n"
    assert host.run(rollback_program("1")).outcome.steps.keys() == {2}
    assert host.state() == before
    host.run(apply_program(SMALL))
    ran = host.run(rollback_program("2", changes=[1, 3]))
    assert (ran.outcome.end, set(ran.outcome.steps)) == (End.COMMITTED, {1, 3})
    assert host.get(SWAPPINESS) == "60\n"
    assert host.get(OLD) == f"{HEADER}vm.swappiness = 10\n"
    assert host.run(rollback_program("2")).outcome.steps.keys() == {2}
    assert host.state() == before


def test_some_changes_of_one_that_was_stopped(host: Host) -> None:
    before = host.state()
    wanted = plan(*SMALL.changes, change(Kind.UNIT, "none.service", "disabled inactive", "static inactive"))
    assert host.run(apply_program(wanted, keep_unverified=True)).outcome.end is End.STOPPED
    assert host.run(rollback_program("1", changes=[1])).outcome.end is End.STOPPED
    assert _last_end(host) is End.STOPPED
    killed = host.run(meddling(rollback_program("1", changes=[2]), "undone", "kill -KILL $$"))
    assert killed.outcome.end is End.CUT
    assert host.run(recover_program()).outcome.end is End.STOPPED
    assert _last_end(host) is End.STOPPED
    assert host.run(rollback_program("1")).outcome.steps.keys() == {3}
    assert _last_end(host) is End.ROLLED_BACK
    assert host.state() == before


def test_one_of_which_nothing_stands_any_more_was_taken_back(host: Host) -> None:
    before = host.state()
    host.run(apply_program(plan(SMALL.changes[2])))
    host.run(apply_program(plan(*SMALL.changes)))
    assert host.run(rollback_program("2", changes=[1])).outcome.end is End.COMMITTED
    assert host.run(rollback_program("2", changes=[2])).outcome.end is End.ROLLED_BACK
    assert _last_end(host) is End.ROLLED_BACK
    assert host.run(rollback_program()).outcome.transaction == "1"
    assert host.state() == before


def test_a_transaction_that_is_not_there(host: Host) -> None:
    assert host.run(rollback_program("7")).outcome.why == "there is no transaction 7"
    assert host.run(rollback_program()).outcome.end is End.NOTHING
    assert host.run(recover_program()).outcome.end is End.NOTHING


# --- changes that could cut the connection ---


def test_confirmed_or_taken_back(host: Host) -> None:
    before = host.state()
    mtu = change(Kind.NIC, "eth0 mtu", "1500", "9000", cuts=True)
    wanted = plan(*SMALL.changes, mtu)
    ran = host.run(apply_program(wanted, confirm_seconds=30))
    assert (ran.outcome.end, ran.outcome.why) == (End.AWAITING, "30")
    assert read_history(host.run(history_program()).out)[-1].end is End.AWAITING
    assert host.run(confirm_program("1")).outcome.end is End.COMMITTED
    assert host.run(confirm_program("1")).outcome.end is End.COMMITTED
    assert host.run(rollback_program()).outcome.end is End.ROLLED_BACK
    assert host.state() == before

    ran = host.run(apply_program(wanted, confirm_seconds=5))
    assert ran.outcome.end is End.AWAITING
    assert host.get("/sys/class/net/eth0/mtu") == "9000\n"
    until(lambda: _last_end(host) is End.ROLLED_BACK)
    assert "it was not confirmed within 5 s" in read_history(host.run(history_program()).out)[-1].why
    assert host.state() == before
    late = host.run(confirm_program("2"))
    assert (late.outcome.end, late.code) == (End.ROLLED_BACK, 1)


def test_killed_while_it_waits_to_be_confirmed(host: Host) -> None:
    before = host.state()
    mtu = change(Kind.NIC, "eth0 mtu", "1500", "9000", cuts=True)
    program = apply_program(plan(mtu), confirm_seconds=30).replace(
        CHECKPOINT, f"{CHECKPOINT}\necho $$ >'{host.bin}/pid'"
    )
    assert host.run(program).outcome.end is End.AWAITING
    os.killpg(int((host.bin / "pid").read_text()), signal.SIGKILL)
    assert host.run(recover_program()).outcome.end is End.ROLLED_BACK
    assert host.state() == before
