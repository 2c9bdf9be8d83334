"""Both producers read the same host alike, whichever shell runs the program, and each ending is told."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hostcheck.snapshot.archive import read_archive
from hostcheck.snapshot.local import _Reader, collect
from hostcheck.snapshot.probes import CommandProbe, FileProbe, Guard, ListProbe, Probe
from hostcheck.snapshot.program import program
from hostcheck.snapshot.reading import Ending, Reading, Snapshot
from support import every_probe

SHELLS = (["dash"], ["bash"], ["bash", "--posix"], ["busybox", "sh"])
PROBES: list[Probe] = [
    # Settings that no test changes: tests of what changes a host run beside these.
    FileProbe("memory.vm", ("/proc/sys/vm/vfs_cache_pressure", "/proc/sys/vm/nope", "/proc/sys/vm/oom_*"), twice=True),
    FileProbe("cpu.topology", ("/sys/devices/system/cpu/cpu*/topology/core_id", "/sys/nope/*", "/root/.secret/*")),
    FileProbe("kernel.cut", ("/proc/cpuinfo",), limit=100),
    FileProbe("gpu.hang", ("/proc/version", "/proc/driver/nvidia/gpus/*/information"), may_hang=True),
    ListProbe("platform.dev", ("/dev/null", "/dev/nope*", "/sys/class/mem/*", "/proc/1/root/x", "/etc/mtab")),
    CommandProbe("platform.uname", ("uname", "-r")),
    CommandProbe("platform.none", ("no-such-command-anywhere",)),
    CommandProbe("platform.exit", ("sh", "-c", "echo some; echo bad >&2; exit 3")),
    CommandProbe("platform.twice", ("cat", "/proc/uptime"), twice=True),
    CommandProbe("platform.flood", ("yes",), total=1 << 20),
    CommandProbe("platform.killed", ("sh", "-c", "kill -9 $$")),
    CommandProbe("platform.slow", ("sleep", "60"), seconds=1),
    CommandProbe("platform.guarded", ("echo", "asked"), guard=Guard(("/no/such/path",), why_not="not here")),
    CommandProbe("platform.input", ("cat",)),
]


def shell(command: list[str], text: str, **options: object) -> Snapshot:
    if shutil.which(command[0]) is None:
        assert not os.environ.get("CI"), f"{command[0]} is missing; scripts/install-test-parts installs it"
        pytest.skip(f"{command[0]} is not installed (scripts/install-test-parts)")
    done = subprocess.run([*command, "-s"], input=text.encode(), capture_output=True, timeout=180, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return read_archive(done.stdout)


def told(reading: Reading, *, volatile: bool) -> object:
    """Return what two producers must agree on."""
    same = (reading.ending, reading.code, reading.asked, reading.later is not None)
    if volatile:
        files = {path: (state.ending, state.why) for path, state in reading.files.items()}
        return same, files, {path: entry.kind for path, entry in reading.entries.items()}
    return same, dict(reading.files), dict(reading.entries), reading.out


@pytest.mark.parametrize("command", SHELLS, ids=" ".join)
def test_the_program_and_the_process_agree(command: list[str]) -> None:
    local, remote = collect(PROBES), shell(command, program(PROBES))
    assert local.readings.keys() == remote.readings.keys()
    for id, reading in local.readings.items():
        volatile = id in ("platform.twice", "platform.flood", "kernel.cut")
        assert told(remote.readings[id], volatile=volatile) == told(reading, volatile=volatile), id
    assert local.manifest.hostname == remote.manifest.hostname


@pytest.mark.parametrize("command", SHELLS, ids=" ".join)
def test_every_shipped_probe_ends_alike(command: list[str]) -> None:
    probes = [probe for probe in every_probe() if not (isinstance(probe, CommandProbe) and probe.local_module)]
    before = collect(probes)
    for _ in range(5):
        remote, after = shell(command, program(every_probe())), collect(probes)
        differ = [id for id in before.readings if not alike(before, remote, after, id)]
        if not differ:
            return
        before = after  # something came and went meanwhile
    raise AssertionError(differ)


def alike(before: Snapshot, remote: Snapshot, after: Snapshot, id: str) -> bool:
    """Whether both producers found the same, but for what came or went: network devices, block devices, cgroups."""
    first, other, last = (snapshot.readings[id] for snapshot in (before, remote, after))
    if other.ending not in (first.ending, last.ending) or other.asked != first.asked:
        return False
    sets = [
        ({path for path in reading.files if not path.startswith("/proc/")}, set(reading.entries))
        for reading in (first, other, last)
    ]
    return all(one & three <= two <= one | three for one, two, three in zip(*sets, strict=True))


@pytest.mark.parametrize("command", SHELLS, ids=" ".join)
def test_a_file_that_never_ends_is_given_up_alone(command: list[str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stuck")
    stuck = FileProbe("gpu.stuck", (str(tmp_path / "stuck"),), seconds=2, may_hang=True)
    snapshot = shell(command, program([stuck, *PROBES]))
    assert snapshot.readings["gpu.stuck"].how == "timeout: no answer in 2 s"
    assert snapshot.readings["kernel.cut"].ending is Ending.OK
    later = snapshot.reading("memory.vm").later
    assert later is not None
    assert later.ending is Ending.OK


@pytest.mark.parametrize("command", SHELLS, ids=" ".join)
def test_what_a_command_started_ends_with_it(command: list[str]) -> None:
    nap = f"61.{os.getpid()}{SHELLS.index(command)}"
    slow = CommandProbe("platform.family", ("sh", "-c", f"sleep {nap} & sleep {nap}"), seconds=1)
    assert shell(command, program([slow])).readings["platform.family"].how == "timeout: no answer in 1 s"
    for _ in range(100):  # a killed one takes a moment to go
        left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if nap.encode() in _read(path)]
        if not left:
            return
        time.sleep(0.05)
    raise AssertionError(left)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("command", SHELLS, ids=" ".join)
def test_what_is_read_together_is_read_apart_where_one_file_is_stuck(command: list[str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stuck")
    stuck = FileProbe("cpu.stuck", (str(tmp_path / "stuck"),), seconds=1)
    text = program([stuck, *PROBES])
    assert "    files cpu.stuck" in text, "it is of a group"
    snapshot = shell(command, text)
    assert snapshot.readings["cpu.stuck"].how == "timeout: no answer in 1 s"
    assert snapshot.readings["memory.vm"].files == collect(PROBES).readings["memory.vm"].files
    assert snapshot.readings["kernel.cut"].files["/proc/cpuinfo"].ending is Ending.TRUNCATED
    assert len(snapshot.readings["kernel.cut"].files["/proc/cpuinfo"].data) == 100


def test_more_than_one_command_can_take_is_read_apart(tmp_path: Path) -> None:
    for number in range(1500):
        (tmp_path / f"{number:0200}").write_text(f"{number}\n")
    many = FileProbe("cpu.many", (f"{tmp_path}/*",))
    snapshot = shell(["dash"], program([many, *PROBES]))
    files = snapshot.readings["cpu.many"].files
    assert sorted(int(state.data) for state in files.values()) == list(range(1500))
    assert snapshot.readings["memory.vm"].files == collect(PROBES).readings["memory.vm"].files


@pytest.mark.parametrize("producer", ["local", "dash"])
def test_each_ending_is_told(producer: str) -> None:
    snapshot = collect(PROBES) if producer == "local" else shell(["dash"], program(PROBES))
    how = {id: reading.how for id, reading in snapshot.readings.items()}
    assert how["platform.none"] == "absent: no-such-command-anywhere is not installed"
    assert how["platform.exit"] == "exit 3: bad"
    assert how["platform.slow"] == "timeout: no answer in 1 s"
    assert how["platform.killed"] == "killed: signal 9"
    assert how["platform.guarded"] == "not-collected: not here"
    assert snapshot.reading("platform.flood").ending is Ending.TRUNCATED
    assert len(snapshot.reading("platform.flood").out) <= (1 << 20) + 512
    assert snapshot.reading("platform.input").out == b""
    assert snapshot.reading("kernel.cut").files["/proc/cpuinfo"].ending is Ending.TRUNCATED
    later = snapshot.reading("platform.twice").later
    assert later is not None
    assert float(later.text().split()[0]) >= float(snapshot.reading("platform.twice").text().split()[0])


def test_a_user_without_rights_gets_the_same_program_and_an_honest_answer() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become nobody")
    snapshot = shell(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "dash"], program(PROBES), cwd="/")
    assert snapshot.manifest.uid == 65534
    secret = snapshot.reading("cpu.topology").files["/root/.secret/*"]
    assert secret.ending is Ending.DENIED
    assert snapshot.reading("platform.dev").entries["/proc/1/root/x"].kind == "?"


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    shell(["dash"], program(PROBES), env={**os.environ, "TMPDIR": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["setsid", "gzip", "mktemp"])
def test_it_runs_without_what_is_not_everywhere(missing: str, tmp_path: Path) -> None:
    """Only what the program says it needs may be needed."""
    tools = (
        "sh",
        "mkdir",
        "mkfifo",
        "rm",
        "head",
        "ls",
        "tar",
        "date",
        "id",
        "sleep",
        "grep",
        "cat",
        "uname",
        "setsid",
        "gzip",
        "mktemp",
        "yes",
    )
    for tool in tools:
        found = shutil.which(tool)
        if tool != missing and found:
            (tmp_path / tool).symlink_to(found)
    text = program(PROBES).replace(":/usr/local/sbin", f"\nPATH={tmp_path}\nX=")
    snapshot = shell(["dash"], text)
    assert snapshot.reading("platform.uname").ending is Ending.OK
    assert snapshot.reading("platform.slow").ending is Ending.TIMEOUT


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_the_program_is_clean_for_shellcheck() -> None:
    done = subprocess.run(
        ["shellcheck", "-s", "sh", "-"], input=program(every_probe()), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_a_child_that_cannot_be_killed_is_left_behind() -> None:
    """For real: a process in a frozen cgroup (version 1) takes SIGKILL only when it is thawed."""
    freezer = Path("/sys/fs/cgroup/freezer")
    if not (freezer / "tasks").exists() or os.geteuid() != 0:
        pytest.skip("needs root and a version 1 freezer cgroup")
    cage = freezer / f"hostcheck-{os.getpid()}"
    cage.mkdir()
    script = f"echo $$ >{cage}/tasks; echo FROZEN >{cage}/freezer.state; sleep 600"
    probe = CommandProbe("gpu.smi", ("sh", "-c", script), seconds=5)  # in which it must come to be frozen
    try:
        for snapshot in (collect([probe, PROBES[0]]), shell(["dash"], program([probe, PROBES[0]]))):
            reading = snapshot.reading("gpu.smi")
            assert reading.ending is Ending.TIMEOUT
            assert "cannot be killed" in reading.note
            assert reading.seconds < 30
            assert snapshot.reading("memory.vm").ending is Ending.OK
            (cage / "freezer.state").write_text("THAWED")
    finally:
        (cage / "freezer.state").write_text("THAWED")
        for _ in range(100):
            try:
                cage.rmdir()
                break
            except OSError:
                subprocess.run(["sleep", "0.05"], check=False)


def test_a_tree_of_another_host_is_read_from_its_root(tmp_path: Path) -> None:
    (tmp_path / "proc/sys/vm").mkdir(parents=True)
    (tmp_path / "proc/sys/vm/vfs_cache_pressure").write_text("7\n")
    snapshot = collect(PROBES, root=str(tmp_path))
    assert snapshot.reading("memory.vm").read("/proc/sys/vm/vfs_cache_pressure") == "7"
    assert snapshot.reading("memory.vm").read("/proc/sys/vm/nope") is None
    assert snapshot.reading("platform.uname").ending is Ending.NOT_COLLECTED


def test_counters_are_watched_for_the_window() -> None:
    for snapshot in (
        collect([PROBES[0], PROBES[8]], window=0.4),
        shell(["dash"], program([PROBES[0], PROBES[8]], window=0.4)),
    ):
        for id in ("memory.vm", "platform.twice"):
            first = snapshot.reading(id)
            assert first.later is not None
            assert first.later.at - first.at >= 0.35, (snapshot.manifest.producer, id)


def test_the_window_begins_when_counters_were_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not when their collection began: on a busy host, much lies between the two."""
    read, slow = _Reader.read, [0.5]

    def late(reader: _Reader, probe: FileProbe | ListProbe) -> Reading:
        time.sleep(slow.pop() if slow else 0)
        return read(reader, probe)

    monkeypatch.setattr(_Reader, "read", late)
    first = collect([PROBES[0]], window=0.5).reading("memory.vm")
    assert first.later is not None
    assert first.later.at - first.at >= 0.5


def test_interruption_keeps_what_is_known() -> None:
    def press(slowest: str, running: int) -> None:
        assert (slowest, running) == ("platform.slow", 1)
        signal.raise_signal(signal.SIGINT)

    slow = CommandProbe("platform.slow", ("sleep", "600"), seconds=500)
    snapshot = collect([PROBES[0], slow], progress=press)
    assert snapshot.reading("platform.slow").how == "killed: interrupted"
    assert snapshot.reading("memory.vm").ending is Ending.OK
    assert sys.version_info >= (3, 11)


def test_a_guarded_file_probe_is_left_out_by_both() -> None:
    probe = FileProbe(
        "pci.guarded", ("/proc/version",), guard=Guard(("/no/such/path",), why_not="it sleeps"), twice=True
    )
    for snapshot in (collect([probe]), shell(["dash"], program([probe]))):
        assert snapshot.reading("pci.guarded").how == "not-collected: it sleeps"
        assert snapshot.reading("pci.guarded").later is None
