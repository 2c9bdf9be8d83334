"""Bandwidth and latency of the host's own memory, for each NUMA node and between them.

The loops are compiled by numba, because it brings LLVM with it: no compiler is needed on the host, the loops are as
wide as its vectors, and they run without Python's lock. Copies are the C library's, which bypass the caches.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hostcheck.bench.cgroup import cpus_left, memory_left
from hostcheck.bench.model import Backend, Level, Sampled, Scope
from hostcheck.errors import HostcheckError, Unavailable, install
from hostcheck.model import Scalar
from hostcheck.registry import bench

from .repeat import MOST, WARM, seconds

if TYPE_CHECKING:
    from hostcheck.bench.hostmem import HostMemory
    from hostcheck.bench.lab import Lab

SCALE = 3.0
LEAST = 256 * 2**20
"""Bytes of each array at least; more where that is not four times the last-level cache, as STREAM wants it."""
_LINE = 64
_SHARE = 0.25
_PIECE = 1 << 15
_CHASED = 20_000
"""Loads that are timed together: as short as a time slice, so that some are undisturbed on a CPU that is shared."""
_EACH = 0.5e-3
"""Seconds that work takes for each thread of a crew: Python's lock lets them begin one by one, 20 us apart."""
_HAD = 0.9
"""Share of a CPU's time that a thread must have had for its time to count."""
_LEAST = 10
_PATIENCE = 3.0
"""So many times as long as planned, at most, it is tried to have the least number of undisturbed samples..."""
_PATIENT = 3.0
"""... and for no more seconds than this, unless the benchmark may take longer anyway."""
_NUMBA = f"numba is not installed: {install('bench')}"


@dataclass(frozen=True, slots=True)
class Node:
    """A NUMA node with CPUs that this process may use.

    Attributes:
        cpus: one of each core, and no more than the time that a container may take is worth.
        cache_bytes: of its last-level caches together.
        free_bytes: that can be taken, of the node and of what a container may.
    """

    number: int
    cpus: tuple[int, ...]
    cache_bytes: int
    free_bytes: int

    @property
    def subject(self) -> str:
        """Its name in findings."""
        return f"node{self.number}"


@dataclass(frozen=True, slots=True)
class _Loops:
    """Compiled loops over arrays of 64-bit words."""

    add_up: Callable[[Any], int]
    triad: Callable[[Any, Any, Any, float], None]
    chase: Callable[[Any, int, int], int]


_AVAILABLE = ("MemAvailable:",)
_RECLAIMED = ("MemFree:", "Active(file):", "Inactive(file):")


def nodes(root: str = "/") -> tuple[Node, ...]:
    """Return the NUMA nodes whose CPUs this process may use; a host that shows none is one node."""
    from hostcheck.bench.pinning import cpus_of

    allowed = os.sched_getaffinity(0)
    found = []
    paths = sorted(Path(root, "sys/devices/system/node").glob("node[0-9]*"), key=lambda path: int(path.name[4:]))
    for path in paths:
        number = int(path.name[4:])
        # All memory is of the only node; what was plugged in later, its own count can lack.
        meminfo = path / "meminfo" if len(paths) > 1 else Path(root, "proc/meminfo")
        if cpus := cpus_of(number, root) & allowed:
            found.append(_node(number, cpus, meminfo, root))
    return tuple(found) or (_node(0, allowed, Path(root, "proc/meminfo"), root),)


def _node(number: int, cpus: set[int], meminfo: Path, root: str) -> Node:
    cores: dict[str, int] = {}
    caches: dict[str, int] = {}
    for cpu in sorted(cpus):
        folder = Path(root, f"sys/devices/system/cpu/cpu{cpu}")
        cores.setdefault(_read(folder / "topology/thread_siblings_list") or str(cpu), cpu)
        last = max(folder.glob("cache/index[0-9]*"), default=None)
        if last is not None:
            shared, size = _read(last / "shared_cpu_list"), _read(last / "size").removesuffix("K")
            caches[shared] = int(size) * 1024 if size.isdecimal() else 0
    words = _read(meminfo).split()
    kib = {label: int(words[words.index(label) + 1]) for label in _AVAILABLE + _RECLAIMED if label in words}
    # Nodes do not say what is available: what files are cached in is.
    free = 1024 * (kib.get("MemAvailable:") or sum(kib.values()))
    room, time_left = memory_left(root), cpus_left(root)
    most = len(cores) if time_left is None else max(1, int(time_left))
    least = free if room is None else min(free, room)
    # Interrupts gather on the first.
    return Node(number, tuple(cores.values())[-most:], sum(caches.values()), least)


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError:
        return ""


def size_of(node: Node, arrays: int) -> int:
    """Return the bytes of each of so many arrays.

    Raises:
        HostcheckError: the node has too little memory free.
    """
    size = max(LEAST, 4 * node.cache_bytes)
    if arrays * size > _SHARE * node.free_bytes:
        raise HostcheckError(
            f"{node.subject} has {node.free_bytes / 2**20:,.0f} MiB of memory free; "
            f"{arrays * size / _SHARE / 2**20:,.0f} MiB are needed for arrays that its caches do not hold"
        )
    return size


def pairs(level: Level, found: Sequence[Node]) -> list[tuple[Node, Node]]:
    """Return which CPUs are to reach which memory: each its own, and at higher levels every other, too.

    A socket without a memory module is a node that has none (numactl: "node 2 size: 0 MB"). Where no node says what it
    has, all are tried.
    """
    filled = [node for node in found if node.free_bytes] or list(found)
    return [(near, far) for near in found for far in filled if near == far or level > Level.QUICK]


def _apart(near: Node, far: Node) -> dict[str, Scalar]:
    """Return how far two nodes are from each other: of remote memory only what is equally far is alike."""
    from hostcheck.bench.pinning import distances

    return {} if near == far else {"distance": distances(near.number).get(far.number, 0)}


def _subject(near: Node, far: Node) -> str:
    return near.subject if near == far else f"{near.subject}>{far.subject}"


@bench(
    id="memory.bandwidth",
    scope=Scope.HOST,
    backend=Backend.NONE,
    package="numba",
    level=Level.QUICK,
    seconds=4,
    rows=["x-micro-numa-bw"],
)
def bandwidth(lab: Lab) -> Iterator[Sampled]:
    """Memory of the host is read, copied and combined at this rate, by all cores of a NUMA node.

    Each core goes over its part of arrays that are four times the last-level cache: it adds up 64-bit words (read),
    copies them (copy, by the C library), and computes a = b + 3c (triad). Bytes are counted as STREAM does: loaded
    plus stored, without what a store first loads. "node0>node1" is cores of node0 on memory of node1. A low number
    points to empty memory channels, a slow DIMM that slows all, or a power profile that saves. What other processes
    disturb does not count; where too little is left, the number is invalid.
    """
    loops = _compiled()
    wanted = pairs(lab.level, nodes())
    yield from _each(wanted, lambda near, far: _stream(lab, loops, near, far, cases=3 * len(wanted)))


@bench(
    id="memory.latency", scope=Scope.HOST, backend=Backend.NONE, package="numba", level=Level.QUICK, seconds=3,
    rows=["x-micro-numa-bw"],
)  # fmt: skip
def latency(lab: Lab) -> Iterator[Sampled]:
    """A load from memory that no cache holds takes this long.

    One core follows a chain through all lines of an array in random order, in huge pages where the kernel gives them,
    so that each load waits for the one before it. "node0>node1" is a core of node0 on memory of node1: half as much
    again is usual between sockets; much more points to a link that runs narrow, or to memory in another place. Loads
    while another process had the core do not count; where too few are left, the number is invalid.
    """
    loops = _compiled()
    wanted = pairs(lab.level, nodes())
    yield from _each(wanted, lambda near, far: [_chase(lab, loops, near, far, cases=len(wanted))])


def _each(wanted: Sequence[tuple[Node, Node]], measure: Callable[[Node, Node], Iterable[Sampled]]) -> Iterator[Sampled]:
    """Measure all pairs; those for which memory lacks keep the others from nothing.

    Raises:
        HostcheckError: at last, for which it did.
    """
    lacking: dict[str, None] = {}
    for near, far in wanted:
        try:
            yield from measure(near, far)
        except HostcheckError as problem:
            lacking[str(problem)] = None
    if lacking:
        raise HostcheckError("; ".join(lacking))


def _compiled() -> _Loops:
    try:
        import numba
        import numpy as np
    except ImportError:
        raise Unavailable(_NUMBA) from None
    loops = _Loops(*(_jit(numba, loop) for loop in (_add_up, _triad, _follow)))
    words, numbers = np.arange(2, dtype=np.int64), np.ones(2)
    loops.add_up(words)
    loops.triad(numbers, numbers, numbers, SCALE)
    loops.chase(np.array([1, 0]), 0, 2)
    return loops


@cache
def _jit(numba: Any, loop: Callable[..., Any]) -> Any:
    """Return what compiles a loop for the types of its first call, once in this process."""
    return numba.njit(nogil=True)(loop)


def _add_up(words: Any) -> int:
    total = 0
    for word in words:
        total += word
    return total


def _triad(target: Any, one: Any, other: Any, scale: float) -> None:
    for number in range(target.size):
        target[number] = one[number] + scale * other[number]


def _follow(following: Any, at: int, steps: int) -> int:
    for _ in range(steps):
        at = following[at]
    return at


class _Crew:
    """Threads that do the same at the same time, each bound to a core."""

    def __init__(self, cpus: Sequence[int], prepare: Callable[[int], None]) -> None:
        """Start the threads; each calls `prepare` with its number, on its core.

        Raises:
            Exception: what `prepare` raised in one of them.
        """
        self._work: Callable[[int], None] = prepare
        self.had = 1.0
        """Share of the last work's time for which the thread that had its CPU least had it."""
        self._spans: list[tuple[float, float, float]] = [(0.0, 0.0, 0.0)] * len(cpus)
        self._failed: list[Exception] = []
        self._begin = threading.Barrier(len(cpus) + 1)
        self._end = threading.Barrier(len(cpus) + 1)
        self._over = False
        for number, cpu in enumerate(cpus):
            threading.Thread(target=self._serve, args=(number, cpu), daemon=True).start()
        try:
            self.time(prepare)
        except Exception:
            self.close()
            raise

    def _serve(self, number: int, cpu: int) -> None:
        bound = False
        while True:
            self._begin.wait()
            if self._over:
                return
            begun, used = time.perf_counter(), time.thread_time()
            try:
                if not bound:
                    os.sched_setaffinity(0, {cpu})
                    bound = True
                self._work(number)
            except Exception as problem:
                self._failed.append(problem)
            used = time.thread_time() - used
            self._spans[number] = (begun, time.perf_counter(), used)
            self._end.wait()

    def time(self, work: Callable[[int], None]) -> float:
        """Return the seconds from the first to begin to the last to end.

        Raises:
            Exception: what the work raised in one of them.
        """
        self._work = work
        self._begin.wait()
        self._end.wait()
        failed, self._failed = self._failed, []
        if failed:
            raise failed[0]
        first = min(begun for begun, _, _ in self._spans)
        seconds = max(end for _, end, _ in self._spans) - first
        # To be done early is no loss: memory is not equally near to all cores.
        lost = max(end - first - used for _, end, used in self._spans)
        self.had = 1 - max(0.0, lost) / max(seconds, 1e-9)
        return seconds

    def passes(self, work: Callable[[int], None]) -> int:
        """Return how often each thread is to do it in a row, so that how far apart they begin hardly counts."""
        once = min(self.time(work) for _ in range(3))
        return max(1, math.ceil(_EACH * len(self._spans) / once))

    def agree(self, right: Callable[[int], bool]) -> bool:
        """Whether it is right in all threads; they look at the same time, each at its own part."""
        said = [False] * len(self._spans)

        def look(number: int) -> None:
            said[number] = right(number)

        self.time(look)
        return all(said)

    def close(self) -> None:
        """End the threads."""
        self._over = True
        self._begin.wait()


@dataclass(frozen=True, slots=True)
class _Timed:
    """How long work took.

    Attributes:
        seconds: each time it was done undisturbed; if that was too seldom, each time.
        left_out: how often it was done in vain.
        invalid: why the times are not to be believed; empty where they are.
    """

    seconds: list[float]
    left_out: int = 0
    invalid: str = ""

    @property
    def details(self) -> dict[str, Scalar]:
        """What to show of it."""
        return {"disturbed and left out": self.left_out} if self.left_out else {}


def _timed(lab: Lab, crew: _Crew, work: Callable[[int], None], cases: int) -> _Timed:
    """Let a crew work over and over, longer where something else takes a CPU of it meanwhile."""
    budget = seconds(lab, cases)
    _during(min(WARM, budget / 4), lambda: crew.time(work))
    alone: list[float] = []
    every: list[float] = []
    lost = 0.0

    def once() -> None:
        nonlocal lost
        every.append(crew.time(work))
        lost += every[-1] * (1 - crew.had)
        if crew.had >= _HAD:
            alone.append(every[-1])

    with lab.watch():
        _during(budget, once)
        most = min(_PATIENCE * budget, max(_PATIENT, 0.9 * lab.seconds / cases))
        _during(most - budget, once, lambda: len(alone) >= _LEAST)
        while len(every) < _LEAST:
            once()
    if len(alone) >= _LEAST:
        return _Timed(_few(alone), len(every) - len(alone))
    share = lost / sum(every)
    why = f"other processes or a CPU quota took the CPU for {share:.0%} of the time: measure again without them"
    return _Timed(_few(every), invalid=why)


def _during(length: float, work: Callable[[], object], enough: Callable[[], bool] = lambda: False) -> None:
    """Work over and over for so many seconds, or until it is enough."""
    end = time.monotonic() + length
    while time.monotonic() < end and not enough():
        work()


def _few(times: Sequence[float]) -> list[float]:
    """Return means of as many in a row as leave no more than `MOST`."""
    together = -(-len(times) // MOST)
    return [fmean(times[begin : begin + together]) for begin in range(0, len(times), together)]


def _stream(lab: Lab, loops: _Loops, near: Node, far: Node, *, cases: int) -> Iterator[Sampled]:
    import numpy as np

    from hostcheck.bench.hostmem import HostMemory

    size = size_of(far, 3)
    count = size // 8 // len(near.cpus)
    slices: list[tuple[Any, Any, Any]] = [()] * len(near.cpus)  # type: ignore[list-item]
    kept: list[HostMemory] = []

    def prepare(number: int) -> None:
        memory = HostMemory(3 * 8 * count, far.number)
        kept.append(memory)
        target, one, other = np.frombuffer(memory.view, dtype=np.float64).reshape(3, count)
        random = np.random.default_rng(number)
        random.random(out=one)
        random.random(out=other)
        target[:] = np.nan
        slices[number] = (target, one, other)

    crew = _Crew(near.cpus, prepare)
    settings: dict[str, Scalar] = {
        "bytes of each array": 8 * count * len(near.cpus), "threads": len(near.cpus), "data": "random",
        "bytes": "loaded plus stored, as STREAM counts", **_apart(near, far),
    }  # fmt: skip
    try:
        sums = [0] * len(near.cpus)

        def read(number: int) -> None:
            sums[number] = int(loops.add_up(slices[number][1].view(np.int64)))

        def copy(number: int) -> None:
            target, one, _ = slices[number]
            ctypes.memmove(target.ctypes.data, one.ctypes.data, one.nbytes)

        def triad(number: int) -> None:
            loops.triad(*slices[number], SCALE)

        def read_right(number: int) -> bool:
            return sums[number] == int(slices[number][1].view(np.int64).sum())

        def copy_right(number: int) -> bool:
            return all(np.array_equal(target, one) for target, one, _ in _pieces(*slices[number]))

        def triad_right(number: int) -> bool:
            return all(_is_triad(*piece) for piece in _pieces(*slices[number]))

        for case, work, right, arrays in (
            ("read", read, read_right, 1), ("copy", copy, copy_right, 2), ("triad", triad, triad_right, 3),
        ):  # fmt: skip
            passes = crew.passes(work)
            moved = passes * arrays * 8 * count * len(near.cpus)
            timed = _timed(lab, crew, partial(_over_again, work, passes), cases)
            yield Sampled(
                samples=tuple(moved / took / 1e9 for took in timed.seconds),
                unit="GB/s",
                case=case,
                subject=_subject(near, far),
                settings=dict(settings),
                details=timed.details,
                verified=crew.agree(right),
                invalid=_misplaced(kept, far) or timed.invalid,
            )
    finally:
        crew.close()


def _over_again(work: Callable[[int], None], times: int, number: int) -> None:
    for _ in range(times):
        work(number)


def _pieces(*arrays: Any) -> Iterator[tuple[Any, ...]]:
    """Yield arrays piece by piece, so that what is computed of them to compare stays in the cache."""
    for begin in range(0, len(arrays[0]), _PIECE):
        yield tuple(array[begin : begin + _PIECE] for array in arrays)


def _is_triad(target: Any, one: Any, other: Any) -> bool:
    wanted = one + SCALE * other
    # Not a number is no less than anything, and so is wrong. A fused multiplication rounds once, not twice.
    return bool((abs(target - wanted) <= 1e-15 * wanted).all())


def _misplaced(kept: Sequence[HostMemory], far: Node) -> str:
    """Say where the kernel took the memory from another node than the one that was asked for."""
    found = set().union(*(memory.nodes() or () for memory in kept)) - {far.number}
    return f"memory of node{min(found)} was had in place of {far.subject}" if found else ""


def _chase(lab: Lab, loops: _Loops, near: Node, far: Node, *, cases: int) -> Sampled:
    import numpy as np

    from hostcheck.bench.hostmem import HostMemory

    size = size_of(far, 2)
    stride = _LINE // 8
    lines = size // _LINE
    kept: list[HostMemory] = []
    order = np.random.default_rng(1).permutation(lines) * stride
    place = [0]
    chased = 0

    def prepare(_: int) -> None:
        kept.append(HostMemory(size, far.number))
        following = np.frombuffer(kept[0].view, dtype=np.int64)
        following[order] = np.roll(order, -1)

    def work(_: int) -> None:
        nonlocal chased
        chased += _CHASED
        place[0] = int(loops.chase(following, place[0], _CHASED))

    crew = _Crew(near.cpus[:1], prepare)
    following = np.frombuffer(kept[0].view, dtype=np.int64)
    place[0] = int(order[0])
    try:
        timed = _timed(lab, crew, work, cases)
    finally:
        crew.close()
    return Sampled(
        samples=tuple(took / _CHASED * 1e9 for took in timed.seconds),
        unit="ns",
        subject=_subject(near, far),
        settings={"bytes": size, "order": "random, each line once", "huge pages": "asked for", **_apart(near, far)},
        details=timed.details,
        verified=place[0] == int(order[chased % lines]),
        invalid=_misplaced(kept, far) or timed.invalid,
    )
