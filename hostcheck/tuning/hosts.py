"""The hosts that are tuned: this one, or others over SSH. Both read snapshots and run programs; nothing else."""

from __future__ import annotations

import os
import queue
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hostcheck.model import Absentee
from hostcheck.snapshot.probes import Probe
from hostcheck.snapshot.reading import Snapshot
from hostcheck.transport.base import Answer

if TYPE_CHECKING:
    from hostcheck.fleet.fanout import Files, Program
    from hostcheck.fleet.targets import Target
    from hostcheck.transport.connect import SshOptions

ROOT = "HOSTCHECK_ROOT"
"""Names a folder that stands for the root of this host: its files are read and changed there. For tests."""
_MOST = 8 * 1024 * 1024


class Hosts(Protocol):
    """Some hosts, by the names under which the user knows them."""

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, in order."""
        ...

    def read(self, probes: Sequence[Probe], names: Iterable[str]) -> Iterator[tuple[str, Snapshot | Absentee]]:
        """Yield a fresh snapshot of each of these hosts, or why there is none."""
        ...

    def run(self, programs: Mapping[str, str], *, seconds: float) -> dict[str, Answer]:
        """Run a sh program on each of these hosts, and return how it ended.

        Args:
            programs: by the host's name.
            seconds: limit for one host; its program goes on there all the same.
        """
        ...


class Here:
    """The host that hostcheck runs on."""

    def __init__(self, progress: Callable[[str, int], None] | None = None) -> None:
        """Name it.

        Args:
            progress: called with the slowest probe and how many run, while a snapshot is taken.
        """
        self._progress = progress

    @property
    def names(self) -> tuple[str, ...]:
        return (socket.gethostname(),)

    def read(self, probes: Sequence[Probe], names: Iterable[str]) -> Iterator[tuple[str, Snapshot | Absentee]]:
        from hostcheck.snapshot.local import collect

        for name in names:
            yield name, collect(probes, root=os.environ.get(ROOT) or "/", progress=self._progress)

    def run(self, programs: Mapping[str, str], *, seconds: float) -> dict[str, Answer]:
        return {name: _patiently(name, text.encode(), seconds) for name, text in programs.items()}


def _patiently(name: str, program: bytes, seconds: float) -> Answer:
    """Run a program here to its end, whatever keys are pressed: half a change is worse than a late one."""
    from hostcheck.transport.local import LocalTransport

    came: queue.SimpleQueue[Answer | BaseException] = queue.SimpleQueue()

    def run() -> None:
        try:
            came.put(LocalTransport(name).run(program, seconds=seconds, most=_MOST))
        except BaseException as problem:
            came.put(problem)

    threading.Thread(target=run, daemon=True).start()
    while True:
        try:
            found = came.get()
            break
        except KeyboardInterrupt:
            print("\nhostcheck: what has been begun is brought to its end first", file=sys.stderr, flush=True)
    if isinstance(found, BaseException):
        raise found
    return found


class There:
    """Other hosts, over SSH or as an inventory says."""

    def __init__(
        self,
        targets: Sequence[Target],
        options: SshOptions,
        *,
        user: str | None,
        parallel: int,
        seconds: float,
    ) -> None:
        """Name them; nothing is connected yet.

        Args:
            targets: the hosts.
            options: how to connect.
            user: where a target names none.
            parallel: hosts at a time.
            seconds: limit for reading one host.
        """
        self._targets = {target.name: target for target in targets}
        self._options = options
        self._user = user
        self._parallel = parallel
        self._seconds = seconds

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._targets)

    def read(self, probes: Sequence[Probe], names: Iterable[str]) -> Iterator[tuple[str, Snapshot | Absentee]]:
        from hostcheck.fleet.store import Store
        from hostcheck.snapshot.archive import read_archive
        from hostcheck.snapshot.program import program

        text = program(probes).encode()
        asked = [self._targets[name] for name in names]
        with tempfile.TemporaryDirectory(prefix="hostcheck-") as folder:
            store = Store(Path(folder) / "run")
            store.begin(asked, text)
            self._ask(asked, lambda _: text, store, self._seconds)
            for target in asked:
                found = store.find(target.name)
                yield target.name, found if isinstance(found, Absentee) else read_archive(found)
            store.close()

    def run(self, programs: Mapping[str, str], *, seconds: float) -> dict[str, Answer]:
        kept = _Kept()
        asked = [self._targets[name] for name in programs]
        self._ask(asked, lambda target: programs[target.name].encode(), kept, seconds)
        return kept.answers

    def _ask(self, asked: Sequence[Target], program: Program, files: Files, seconds: float) -> None:
        from hostcheck.fleet.fanout import fan_out, share
        from hostcheck.fleet.progress import Teller
        from hostcheck.fleet.reach import over_ssh

        teller = Teller(sys.stderr)
        try:
            fan_out(
                asked,
                over_ssh(self._options, self._user),
                program,
                parallel=self._parallel,
                seconds=seconds,
                most=share(self._parallel),
                store=files,
                progress=teller,
            )
        finally:
            teller.clear()


class _Kept:
    """Answers in memory: what a program that changes a host prints is small."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}

    def put(self, name: str, answer: Answer) -> Answer:
        self.answers[name] = answer
        return answer
