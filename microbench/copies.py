"""Copies between host and GPU, over PCIe or C2C."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hostcheck.bench.model import Backend, Level, Sampled, Scope
from hostcheck.errors import Unavailable
from hostcheck.facts.cpu import parse_cpu_list
from hostcheck.registry import bench

from . import pattern
from .links import host_link
from .repeat import Proof, one_by_one, repeated

if TYPE_CHECKING:
    from hostcheck.bench.cuda import Buffer, Device, Stream
    from hostcheck.bench.hostmem import HostMemory
    from hostcheck.bench.lab import Lab
    from hostcheck.model import Scalar

SIZE = 256 * 2**20
SEED = 4
POISON = 0x5A
"""What each byte of the host's side is before it is written; no word of the pattern repeats it four times."""

_SIZES = {"4 KiB": 2**12, "64 KiB": 2**16, "1 MiB": 2**20, "16 MiB": 2**24}
"""Blocks that are measured from the level standard on, beside the whole."""
_BLOCKS = 16
_REFERENCES = ["nvbandwidth: https://github.com/NVIDIA/nvbandwidth"]


@dataclass(frozen=True, slots=True)
class Case:
    """One way to copy.

    Attributes:
        pinned: whether the host's memory is held in place, so that the GPU's copy engine reaches it.
        node: NUMA node of that memory; None for where the process runs.
        block: bytes of one copy.
    """

    name: str
    pinned: bool = True
    node: int | None = None
    block: int = SIZE


@bench(
    id="copy.h2d", scope=Scope.GPU, backend=Backend.CUDA, level=Level.QUICK, seconds=2,
    rows=["cuda-fewer-transfers", "chip-direct-access"], references=_REFERENCES,
)  # fmt: skip
def h2d(lab: Lab) -> Iterator[Sampled]:
    """Memory of the host is copied to the GPU at this rate.

    "pinned": 256 MiB of pinned memory on the GPU's own NUMA node, by the copy engine and timed by events. "pinned, far
    node": the same from the farthest node, where there is one. "pageable": ordinary memory, which the driver moves
    through a buffer of its own, timed by the host's clock. From the level standard on also in smaller blocks. The GPU
    compares every word. Low: a link that came up narrow or slow, ACS or an IOMMU in the way, slow host memory.
    """
    yield from _measure(lab, to_gpu=True)


@bench(
    id="copy.d2h", scope=Scope.GPU, backend=Backend.CUDA, level=Level.QUICK, seconds=2,
    rows=["cuda-fewer-transfers", "chip-direct-access"], references=_REFERENCES,
)  # fmt: skip
def d2h(lab: Lab) -> Iterator[Sampled]:
    """Memory of the GPU is copied to the host at this rate.

    The cases are those of `copy.h2d`. What arrived is sent back, and the GPU compares every word.
    """
    yield from _measure(lab, to_gpu=False)


@bench(
    id="copy.both", scope=Scope.GPU, backend=Backend.CUDA, level=Level.QUICK, seconds=2,
    rows=["cuda-fewer-transfers", "cuda-overlap"], references=_REFERENCES,
)  # fmt: skip
def both(lab: Lab) -> Iterator[Sampled]:
    """Host and GPU copy to each other at the same time at this rate, both directions added.

    256 MiB of pinned memory each way, on two streams, from when both may start until both are done. Some hosts, such
    as many with A100, do far less than twice one direction; that is normal there.
    """
    from hostcheck.bench.cuda import Device

    case = Case("pinned", node=lab.gpu.numa_node)
    with Device(lab.gpu.ordinal) as device, Sides(device, case) as up, Sides(device, case) as down:
        first, second = device.stream(), device.stream()
        up.prepare(first, to_gpu=True)
        down.prepare(first, to_gpu=False)

        def once() -> float:
            return at_once(first, lambda: up.copy(first, to_gpu=True), second, lambda: down.copy(second, to_gpu=False))

        def poisoned() -> float:
            up.poison(to_gpu=True)
            down.poison(to_gpu=False)
            return once()

        proof = Proof(poisoned, lambda: up.wrong(first, to_gpu=True) + down.wrong(first, to_gpu=False))
        times = repeated(lab, one_by_one(once), proof=proof)
        limit, source = _limit(lab, once)
        yield Sampled(
            samples=tuple(2 * SIZE / 1e9 / each for each in times),
            unit="GB/s",
            case=case.name,
            limit=None if limit is None else 2 * limit,
            limit_source=source and f"twice one direction: {source}",
            settings=_settings(up, case) | {"bytes": "both directions added"},
            verified=proof.is_right,
            invalid=up.misplaced(),
        )


def _measure(lab: Lab, *, to_gpu: bool) -> Iterator[Sampled]:
    from hostcheck.bench.cuda import Device

    with Device(lab.gpu.ordinal) as device:
        stream = device.stream()
        every = [case for case in cases(lab) if lab.wants(case.name)]
        for case in every:
            with Sides(device, case) as sides:
                sides.prepare(stream, to_gpu=to_gpu)

                once = partial(sides.once, stream, to_gpu=to_gpu)
                proof = Proof(
                    partial(sides.poisoned, stream, to_gpu=to_gpu), partial(sides.wrong, stream, to_gpu=to_gpu)
                )
                times = repeated(lab, one_by_one(once), len(every), proof=proof)
                limit, source = _limit(lab, once)
                yield Sampled(
                    samples=tuple(sides.moved / 1e9 / each for each in times),
                    unit="GB/s",
                    case=case.name,
                    limit=limit,
                    limit_source=source,
                    settings=_settings(sides, case),
                    verified=proof.is_right,
                    invalid=sides.misplaced(),
                )


def cases(lab: Lab) -> list[Case]:
    """Return the ways to copy one direction that this host has and the level asks for."""
    own = lab.gpu.numa_node
    far = None if own is None else far_node(own)
    made = [Case("pinned", node=own), Case("pageable", pinned=False, node=own)]
    if far is not None:
        made.append(Case("pinned, far node", node=far))
    if lab.level >= Level.STANDARD:
        made += [Case(f"pinned {name}", node=own, block=block) for name, block in _SIZES.items()]
    return made


def far_node(own: int, root: str = "/") -> int | None:
    """Return the NUMA node with CPUs and memory that is farthest from a node, None where there is no other."""
    from hostcheck.bench.pinning import distances

    nodes = Path(root, "sys/devices/system/node")
    with suppress(OSError, ValueError, Unavailable):
        # A GPU of a superchip is a node with memory and without CPUs.
        whole = set(parse_cpu_list((nodes / "has_memory").read_text("ascii")))
        whole &= set(parse_cpu_list((nodes / "has_cpu").read_text("ascii")))
        others = {node: far for node, far in distances(own, root).items() if node in whole and node != own}
        return max(others, key=lambda node: others[node], default=None)
    return None


@dataclass
class Sides:
    """Memory of the host and of the GPU between which is copied. Leaving the `with` block gives both back."""

    device: Device
    case: Case
    host: HostMemory = field(init=False)
    gpu: Buffer = field(init=False)

    def __enter__(self) -> Sides:
        from hostcheck.bench.hostmem import HostMemory

        self.host = HostMemory(self.moved, self.case.node)
        try:
            self._pinning = self.device.pin(self.host) if self.case.pinned else None
            self.gpu = self.device.alloc(self.moved)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for thing in (getattr(self, "_pinning", None), getattr(self, "gpu", None), self.host):
            if thing is not None:
                thing.free()

    @property
    def moved(self) -> int:
        """Bytes that one piece of work moves."""
        return self.case.block if self.case.block == SIZE else self.case.block * _BLOCKS

    def prepare(self, stream: Stream, *, to_gpu: bool) -> None:
        """Put the pattern where it is copied from, and poison the other side."""
        pattern.fill(self.gpu, SEED)
        if to_gpu:
            stream.copy(self.host.pointer, self.gpu.pointer, self.moved)
            stream.synchronize()
        self.poison(to_gpu=to_gpu)

    def poison(self, *, to_gpu: bool) -> None:
        """Spoil the side that is copied to."""
        if to_gpu:
            self.gpu.fill(pattern.NEVER)
        else:
            ctypes.memset(self.host.pointer, POISON, self.moved)

    def copy(self, stream: Stream, *, to_gpu: bool) -> None:
        """Queue one piece of work."""
        block = self.case.block
        for offset in range(0, self.moved, block):
            ends = self.gpu.pointer + offset, self.host.pointer + offset
            stream.copy(*(ends if to_gpu else ends[::-1]), block)

    def once(self, stream: Stream, *, to_gpu: bool) -> float:
        """Do one piece of work and return its seconds."""
        if self.case.pinned:
            return stream.time([lambda: self.copy(stream, to_gpu=to_gpu)])[0]
        begin = time.perf_counter()
        self.copy(stream, to_gpu=to_gpu)
        stream.synchronize()
        return time.perf_counter() - begin

    def poisoned(self, stream: Stream, *, to_gpu: bool) -> float:
        """Do one piece of work on a spoiled side and return its seconds."""
        self.poison(to_gpu=to_gpu)
        return self.once(stream, to_gpu=to_gpu)

    def wrong(self, stream: Stream, *, to_gpu: bool) -> int:
        """Return how many words did not arrive, counted by the GPU, and seen on the host."""
        words = self.host.view.cast("I")
        places = [0, len(words) - 1, *range(1, len(words), max(1, len(words) // 1021))]
        bad: int = sum(words[place] != pattern.word(place, SEED) for place in places)
        words.release()
        if to_gpu:
            return bad + pattern.wrong(self.gpu, SEED)
        back = self.device.alloc(self.moved)
        back.fill(pattern.NEVER)
        stream.copy(back.pointer, self.host.pointer, self.moved)
        stream.synchronize()
        bad += pattern.wrong(back, SEED)
        back.free()
        return bad

    def misplaced(self) -> str:
        """Return what is wrong with the place of the host's memory, empty where it is as wanted or not known."""
        nodes = self.host.nodes()
        if self.case.node is None or nodes is None or nodes == {self.case.node}:
            return ""
        return f"the memory lies on {', '.join(f'node{node}' for node in sorted(nodes))}, not on node{self.case.node}"


def at_once(first: Stream, work: Callable[[], None], second: Stream, other: Callable[[], None]) -> float:
    """Let two streams of one GPU start at the same time; return the seconds until both are done."""
    from hostcheck.bench.cuda import between, discard

    with first.hold():
        begin = first.mark()
        second.wait(begin)
        work()
        other()
        ends = first.mark(), second.mark()
    seconds = max(between(begin, end) for end in ends)
    discard((begin, *ends))
    return seconds


def _limit(lab: Lab, once: Callable[[], object]) -> tuple[float | None, str]:
    """Return the limit of the link, asked right after it was used."""
    once()
    return host_link(lab.gpu)


def _settings(sides: Sides, case: Case) -> dict[str, Scalar]:
    settings: dict[str, Scalar] = {
        "bytes": "each byte once",
        "block_bytes": case.block,
        "memory": "pinned" if case.pinned else "pageable",
        "data": "pseudo-random",
        "clock": "events" if case.pinned else "host",
    }
    nodes = sides.host.nodes()
    return settings | ({"node": ",".join(map(str, sorted(nodes)))} if nodes else {})
