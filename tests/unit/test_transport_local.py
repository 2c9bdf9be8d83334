"""The same protocol on this host, through a child shell."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from hostcheck.snapshot.archive import read_archive
from hostcheck.snapshot.probes import CommandProbe, FileProbe, Probe
from hostcheck.snapshot.program import program
from hostcheck.transport.base import Answer, Reach, Transport
from hostcheck.transport.local import LocalTransport
from waiting import LONG, until

PROBES: list[Probe] = [FileProbe("memory.vm", ("/proc/sys/vm/swappiness",))]
NAP = str(10_000_000 + os.getpid())  # by which other runs of these tests can be told from this one
SLOW = program([*PROBES, CommandProbe("platform.slow", ("sleep", NAP), seconds=30)]).encode()


def run(text: bytes, *argv: str, seconds: float = 20, most: int = 1 << 20) -> Answer:
    transport: Transport = LocalTransport("here", argv=argv or ("sh", "-s"))
    before = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    answer = transport.run(text, seconds=seconds, most=most)
    transport.close()
    transport.close()
    assert (threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))) == before
    return answer


def test_this_host_answers() -> None:
    text = program(PROBES).encode()
    answer = run(text)
    assert (answer.reach, answer.why, answer.attempts) == (Reach.OK, "", 1)
    assert read_archive(answer.out).reading("memory.vm").read("/proc/sys/vm/swappiness") is not None
    assert answer.sent > len(text)
    assert answer.received > len(answer.out)


def test_noise_does_not_matter() -> None:
    answer = run(program(PROBES).encode(), "sh", "-c", "echo hello; printf hello; echo hello >&2; exec sh -s")
    assert read_archive(answer.out).reading("memory.vm").files


def sleepers() -> list[str]:
    """Return the slow commands that still run: one that was killed goes when its turn comes."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes()
        except OSError:
            continue
        if command == f"sleep\0{NAP}\0".encode():
            found.append(entry.parent.name)
    return found


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_it_takes_too_long_and_nothing_is_left(shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    answer = run(SLOW, shell, "-s", seconds=0.7)
    assert (answer.reach, answer.out) == (Reach.TIMEOUT, b"")
    assert "0.7 s" in answer.why
    assert answer.seconds < LONG
    assert list(tmp_path.iterdir()) == []
    until(lambda: not sleepers())


def test_it_sends_too_much() -> None:
    answer = run(b"exec cat /dev/zero\n", most=1 << 20)
    assert (answer.reach, answer.out) == (Reach.TOO_MUCH, b"")
    assert answer.received < 2 << 20
    assert run(b"exec cat /dev/zero >&2\n", most=1 << 20).reach is Reach.TOO_MUCH


@pytest.mark.parametrize(
    ("text", "argv", "reach", "says"),
    [
        (b"kill -9 $$\n", ("sh", "-s"), Reach.CUT, "killed on the host (signal 9)"),
        (b"echo hostcheck: no room >&2; exit 1\n", ("sh", "-s"), Reach.ERROR, "no room"),
        (b"true\n", ("false",), Reach.SHELL, "did not start"),
        (b"true\n", ("no-such-shell",), Reach.SHELL, "no-such-shell did not start: No such file"),
        (b"#" * (4 << 20), ("sh", "-c", "exit 0"), Reach.SHELL, "something other than sh"),
    ],
)
def test_each_ending(text: bytes, argv: tuple[str, ...], reach: Reach, says: str) -> None:
    answer = run(text, *argv)
    assert answer.reach is reach, answer
    assert says in answer.why


def test_no_tar_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = program(PROBES).replace(":/usr/local/sbin", f"\nPATH={tmp_path}\nX=").encode()
    for tool in ("mkdir", "mkfifo", "rm", "head", "ls", "cat", "date", "id", "grep", "sleep"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
    answer = run(text)
    assert (answer.reach, answer.why) == (
        Reach.ERROR,
        "tar is not installed there, and nothing can be read without it",
    )


def test_whoever_gives_up_is_obeyed() -> None:
    transport = LocalTransport()
    timer = threading.Timer(0.3, transport.close)
    timer.start()
    begun = time.monotonic()
    answer = transport.run(SLOW, seconds=2 * LONG, most=1 << 20)
    timer.join()
    assert (answer.reach, answer.why) == (Reach.CUT, "interrupted")
    assert time.monotonic() - begun < LONG
