"""Many hosts at a time: each is asked in a thread of its own, and its answer is filed as soon as it comes.

Memory does not grow with the number of hosts: at most `parallel` answers exist at once, each of at most `most` bytes,
and a place is free again only when the answer in it is on disk.
"""

from __future__ import annotations

import gc
import queue
import resource
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from hostcheck.errors import HostcheckError
from hostcheck.fleet.targets import Target
from hostcheck.render.safe import clip, safe
from hostcheck.transport.base import Answer, Reach, Transport

MIB = 1024 * 1024
_TICK = 0.2
_GRACE = 5.0
"""Seconds over its limit that a transport gets to notice by itself; after that its host is given up from outside."""
_BUDGET = 256 * MIB
_HANDLES = 8
"""Open files that one connection may need: sockets, an agent, jump hosts."""


def share(parallel: int) -> int:
    """Return how many bytes one host may send, so that all of a window together stay within 256 MiB or so."""
    return max(MIB, min(8 * MIB, _BUDGET // parallel))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How far a fan-out is.

    Attributes:
        total: hosts to be asked.
        answered, absent: of those, with an archive on disk, and without.
        running: being asked now.
        slowest, seconds: the one among them that was asked first, and how long ago; "" where none is.
    """

    total: int
    answered: int
    absent: int
    running: int
    slowest: str = ""
    seconds: float = 0.0


Progress: TypeAlias = Callable[[Tally], None]
Program: TypeAlias = bytes | Callable[[Target], bytes]
"""The same program for all hosts, or what gives each its own."""


class Files(Protocol):
    """Where answers go, such as `hostcheck.fleet.store.Store`."""

    def put(self, name: str, answer: Answer) -> Answer:
        """File a host's answer, and return it as it was filed."""
        ...


def fan_out(
    targets: Sequence[Target],
    make: Callable[[Target], Transport],
    program: Program,
    *,
    parallel: int,
    seconds: float,
    most: int,
    store: Files,
    progress: Progress | None = None,
) -> None:
    """Run a program on many hosts and file each answer as it comes. No host delays or changes another's answer.

    Args:
        targets: the hosts, each once.
        make: gives the way to a host; what it raises becomes that host's answer.
        program: what to run.
        parallel: hosts at a time.
        seconds: limit for one host, connecting included.
        most: bytes above which a host is cut off.
        store: where answers go.
        progress: called at each change, and several times a second in between.

    Raises:
        KeyboardInterrupt: after Ctrl-C, with everything filed that had come by then.
        HostcheckError: the run directory cannot be written.
    """
    _make_room(parallel)
    collecting = gc.isenabled()
    # Connections are cycles of objects; nobody but the collector takes them away.
    gc.enable()
    try:
        _Fan(targets, make, program, parallel, seconds, most, store, progress).run()
    finally:
        if not collecting:
            gc.disable()


def _make_room(parallel: int) -> None:
    """Raise our limit of open files to what a window may need, as far as we may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 256 + parallel * _HANDLES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            enough = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


@dataclass(slots=True)
class _Attempt:
    target: Target
    begun: float
    transport: Transport | None = None


class _Fan:
    def __init__(
        self,
        targets: Sequence[Target],
        make: Callable[[Target], Transport],
        program: Program,
        parallel: int,
        seconds: float,
        most: int,
        store: Files,
        progress: Progress | None,
    ) -> None:
        self.total = len(targets)
        self.waiting = deque(targets)
        self.make = make
        self.program = program
        self.parallel = parallel
        self.seconds = seconds
        self.most = most
        self.store = store
        self.progress = progress
        self.running: dict[int, _Attempt] = {}
        self.came: queue.SimpleQueue[tuple[int, Answer]] = queue.SimpleQueue()
        self.number = 0
        self.answered = 0
        self.absent = 0

    def run(self) -> None:
        try:
            while self.waiting or self.running:
                while self.waiting and len(self.running) < self.parallel:
                    if not self._start():
                        break
                self._tell()
                with suppress(queue.Empty):
                    self._file(*self.came.get(timeout=_TICK))
                if self.came.empty():
                    self._give_up_late()
            self._tell()
        except BaseException:
            self._stop()
            raise

    def _start(self) -> bool:
        """Ask the next host; return False where the system has no thread left and some must end first."""
        target = self.waiting.popleft()
        self.number += 1
        attempt = _Attempt(target, time.monotonic())
        thread = threading.Thread(target=self._ask, args=(self.number, attempt), name=target.name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self.waiting.appendleft(target)
            if self.running:
                return False
            raise HostcheckError("no thread can be started: the limit of processes is reached (ulimit -u)") from None
        self.running[self.number] = attempt
        return True

    def _ask(self, number: int, attempt: _Attempt) -> None:
        """Ask one host, in its own thread. Whatever happens, there is an answer."""
        try:
            attempt.transport = self.make(attempt.target)
            program = self.program if isinstance(self.program, bytes) else self.program(attempt.target)
            answer = attempt.transport.run(program, seconds=self.seconds, most=self.most)
            if len(answer.out) > self.most:
                answer = replace(answer, reach=Reach.TOO_MUCH, out=b"", why=f"it sent more than {self.most:,} bytes")
        except HostcheckError as problem:
            answer = Answer(reach=Reach.ERROR, why=clip(safe(str(problem)), 300), attempts=0)
        except BaseException as problem:
            told = clip(safe(f"{type(problem).__name__}: {problem}"), 300)
            answer = Answer(reach=Reach.ERROR, why=f"a fault of hostcheck itself: {told}")
        finally:
            if attempt.transport is not None:
                with suppress(Exception):
                    attempt.transport.close()
        self.came.put((number, answer))

    def _file(self, number: int, answer: Answer) -> None:
        attempt = self.running.get(number)
        if attempt is None:
            # It was given up; what it says now comes too late.
            return
        filed = self.store.put(attempt.target.name, answer)
        del self.running[number]
        if filed.reach is Reach.OK:
            self.answered += 1
        else:
            self.absent += 1

    def _give_up_late(self) -> None:
        """Give up hosts whose transport does not end by itself: a name server that hangs, a fault of ours."""
        now = time.monotonic()
        for number, attempt in list(self.running.items()):
            waited = now - attempt.begun
            if waited < self.seconds + _GRACE:
                break
            _close_aside(attempt)
            why = f"no end after {waited:.0f} s, nor when the time was up: given up"
            self._file(number, Answer(reach=Reach.TIMEOUT, why=why, seconds=waited))

    def _stop(self) -> None:
        """File what has come, and leave the rest: a resumed run asks those hosts again."""
        with suppress(queue.Empty, HostcheckError):
            while True:
                self._file(*self.came.get_nowait())
        for attempt in self.running.values():
            _close_aside(attempt)

    def _tell(self) -> None:
        if self.progress is None:
            return
        oldest = next(iter(self.running.values()), None)
        self.progress(
            Tally(
                total=self.total,
                answered=self.answered,
                absent=self.absent,
                running=len(self.running),
                slowest=oldest.target.name if oldest else "",
                seconds=time.monotonic() - oldest.begun if oldest else 0.0,
            )
        )


def _close_aside(attempt: _Attempt) -> None:
    """Close a connection without waiting for it: the other side may be the reason why we leave."""
    if attempt.transport is not None:
        with suppress(RuntimeError):
            threading.Thread(target=_quietly, args=(attempt.transport,), daemon=True).start()


def _quietly(transport: Transport) -> None:
    with suppress(Exception):
        transport.close()
