"""Copies from GPU to GPU, over NVLink or PCIe."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import combinations, permutations
from typing import TYPE_CHECKING

from hostcheck.bench.model import ALL_GPUS, Backend, Level, Sampled, Scope
from hostcheck.errors import NotApplicable
from hostcheck.registry import bench

from . import pattern
from .links import path_between, peer_link
from .repeat import Proof, one_by_one, repeated

if TYPE_CHECKING:
    from hostcheck.bench.cuda import Buffer, Device, Stream
    from hostcheck.bench.lab import BenchGpu, Lab

SIZE = 512 * 2**20
SMALL = 64 * 2**20
"""Where not all of it is NVLink: 56 pairs at 12 GB/s would take half a minute, and 5 ms are enough for one copy."""
_SEED = 100
_ROWS = ["scale-all-to-all", "scale-nvlink-bandwidth"]
_REFERENCES = ["nvbandwidth: https://github.com/NVIDIA/nvbandwidth"]
_NO_ACCESS = "no peer access: through the host's memory"


class Floor:
    """GPUs that copy to each other, and their memory, which serves one measurement after the other.

    Args:
        gpus, devices: the same, in the same order.
        size: bytes of one copy.
    """

    def __init__(self, gpus: Sequence[BenchGpu], devices: Sequence[Device], size: int = SIZE) -> None:
        self.gpus = gpus
        self.devices = devices
        self.size = size
        self._sources: dict[int, Buffer] = {}
        self._targets: dict[tuple[int, int], Buffer] = {}

    def source(self, number: int) -> Buffer:
        """Return what a GPU sends, filled with a pattern of its own."""
        if number not in self._sources:
            self._sources[number] = self.devices[number].alloc(self.size)
            pattern.fill(self._sources[number], _SEED + number)
        return self._sources[number]

    def target(self, number: int, place: int) -> Buffer:
        """Return where a GPU receives; places are those that are written at the same time."""
        if (number, place) not in self._targets:
            self._targets[number, place] = self.devices[number].alloc(self.size)
        return self._targets[number, place]


class Lane:
    """One direction between two GPUs: memory of both, a stream of the sender, and the way between them.

    Args:
        floor: the GPUs.
        first, second: which of them sends, and which receives.
        place: into which of the receiver's buffers.
        stream: of the sender, where its copies are to follow each other; one of its own by default.
    """

    def __init__(self, floor: Floor, first: int, second: int, place: int = 0, stream: Stream | None = None) -> None:
        self.sender, receiver = floor.devices[first], floor.devices[second]
        ends = floor.gpus[first], floor.gpus[second]
        self.ends = ends[0].subject, ends[1].subject
        self.name = ">".join(self.ends)
        self.source, self.target, self.size = floor.source(first), floor.target(second, place), floor.size
        self.seed = _SEED + first
        self.stream: Stream = stream or self.sender.stream()
        self.transport, self.limit, self.limit_source = peer_link(*ends)
        self.direct = self.sender.reach(receiver) and receiver.reach(self.sender)
        if not self.direct:
            self.transport, self.limit, self.limit_source = _NO_ACCESS, None, ""
        self.path = "" if self.transport == "nvlink" else path_between(*ends)

    def copy(self) -> None:
        """Queue the copy."""
        self.stream.copy(self.target.pointer, self.source.pointer, self.size)

    def poison(self) -> None:
        """Spoil what was written."""
        self.target.fill(pattern.NEVER)

    def wrong(self) -> int:
        """Return how many words did not arrive, counted by the GPU that owns the memory."""
        return pattern.wrong(self.target, self.seed)


@bench(
    id="peer.copy", scope=Scope.GPUS, backend=Backend.CUDA, level=Level.QUICK, seconds=4, rows=_ROWS,
    references=_REFERENCES,
)  # fmt: skip
def copy(lab: Lab) -> Iterator[Sampled]:
    """Each GPU copies to each other GPU at this rate, one pair and one direction at a time.

    512 MiB (64 MiB where not all is NVLink) by the sender's copy engine, timed by events. The receiver compares every
    word. Without peer access the driver takes the way through the host's memory, which the settings then say. One slow
    pair among fast ones points to a link that is down or degraded.
    """
    with ExitStack() as stack:
        floor = _open(lab, stack)
        pairs = list(permutations(range(len(lab.gpus)), 2))
        for pair in pairs:
            lane = Lane(floor, *pair)
            yield from _measure(lab, [lane], lane.name, len(pairs), counted=1, rule="each byte once")


@bench(
    id="peer.both", scope=Scope.GPUS, backend=Backend.CUDA, level=Level.QUICK, seconds=3, rows=_ROWS,
    references=_REFERENCES,
)  # fmt: skip
def both(lab: Lab) -> Iterator[Sampled]:
    """Two GPUs copy to each other at the same time at this rate, both directions added.

    As much as in peer.copy each way, each by the copy engine of its sender, timed on both from when both may start;
    the slower counts.
    """
    with ExitStack() as stack:
        floor = _open(lab, stack)
        pairs = list(combinations(range(len(lab.gpus)), 2))
        for first, second in pairs:
            lanes = [Lane(floor, first, second), Lane(floor, second, first)]
            name = f"{lab.gpus[first].subject}-{lab.gpus[second].subject}"
            yield from _measure(lab, lanes, name, len(pairs), counted=2, rule="both directions added")


@bench(
    id="peer.all", scope=Scope.GPUS, backend=Backend.CUDA, level=Level.QUICK, seconds=2, rows=_ROWS,
    references=_REFERENCES,
)  # fmt: skip
def everyone(lab: Lab) -> Iterator[Sampled]:
    """All GPUs copy to all others at the same time; each sends at this rate on average.

    As much as in peer.copy to each other GPU, one after the other, the next neighbour first, so that each receives
    from one at a time;
    timed on each GPU from when all may start until its last copy is done; the slowest counts. Far below `peer.copy`:
    links are shared, as between cards on one PCIe switch.
    """
    with ExitStack() as stack:
        floor = _open(lab, stack)
        many = len(lab.gpus)
        turns = [(first, (first + step) % many) for step in range(1, many) for first in range(many)]
        # On streams of their own a GPU's copies share its engines unevenly: 170 to 390 GB/s on four H200.
        streams = [device.stream() for device in floor.devices]
        lanes = [Lane(floor, first, second, first, streams[first]) for first, second in turns]
        yield from _measure(lab, lanes, ALL_GPUS, 1, counted=len(lab.gpus) - 1, rule="what one GPU sends")


def _open(lab: Lab, stack: ExitStack) -> Floor:
    if len(lab.gpus) < 2:
        raise NotApplicable("only one GPU takes part")
    from hostcheck.bench.cuda import Device

    ways = {peer_link(lab.gpus[0], other)[0] for other in lab.gpus[1:]}
    devices = [stack.enter_context(Device(gpu.ordinal)) for gpu in lab.gpus]
    return Floor(lab.gpus, devices, SIZE if ways == {"nvlink"} else SMALL)


def _measure(
    lab: Lab, lanes: Sequence[Lane], subject: str, cases: int, *, counted: int, rule: str
) -> Iterator[Sampled]:
    """Measure lanes at the same time.

    Args:
        lab: how thorough.
        lanes: what copies.
        subject: what is measured.
        cases: among how many the time is shared.
        counted: how many lanes' bytes are counted.
        rule: says so.
    """
    subjects = list(dict.fromkeys(subject for lane in lanes for subject in lane.ends))
    size = lanes[0].size

    def poisoned() -> float:
        for lane in lanes:
            lane.poison()
        return at_once(lanes)

    proof = Proof(poisoned, lambda: sum(lane.wrong() for lane in lanes))
    times = repeated(lab, one_by_one(partial(at_once, lanes)), cases, subjects, proof)
    limit = _limit(lanes, counted)
    yield Sampled(
        samples=tuple(size * counted / 1e9 / each for each in times),
        unit="GB/s",
        subject=subject,
        limit=limit,
        limit_source="; ".join(dict.fromkeys(lane.limit_source for lane in lanes)) if limit is not None else "",
        settings={
            "bytes": rule,
            "block_bytes": size,
            "transport": ", ".join(sorted({lane.transport for lane in lanes})),
            "data": "pseudo-random",
            "clock": "events" if all(lane.direct for lane in lanes) else "host",
            **({"path": ", ".join(paths)} if (paths := sorted({lane.path for lane in lanes} - {""})) else {}),
        },
        verified=proof.is_right,
    )


def _limit(lanes: Sequence[Lane], counted: int) -> float | None:
    """Return the highest rate of as many lanes, where each sender serves its own one after the other."""
    takes: dict[int, float] = {}
    for lane in lanes:
        if not lane.limit:
            return None
        takes[lane.sender.ordinal] = takes.get(lane.sender.ordinal, 0.0) + 1 / lane.limit
    return counted / max(takes.values())


def at_once(lanes: Sequence[Lane]) -> float:
    """Let all copies start at the same time; return the seconds until the last one is done, on the slowest GPU."""
    from hostcheck.bench.cuda import between, discard

    if not all(lane.direct for lane in lanes):
        return _by_the_host(lanes)
    with lanes[0].stream.hold():
        gate = lanes[0].stream.mark()
        begins, ends = [], []
        for lane in lanes:
            lane.stream.wait(gate)
            begins.append(lane.stream.mark())
        for lane in lanes:
            lane.copy()
            ends.append(lane.stream.mark())
    # Streams of one GPU may share a queue, and then one begins only after another's copy: from the first to begin.
    for lane in lanes:
        lane.stream.synchronize()
    seconds = max(
        between(begin, end)
        for lane, end in zip(lanes, ends, strict=True)
        for other, begin in zip(lanes, begins, strict=True)
        if other.sender is lane.sender
    )
    discard([gate, *begins, *ends])
    return seconds


def _by_the_host(lanes: Sequence[Lane]) -> float:
    """Return the seconds that all copies take by the host's clock: the driver itself may wait for parts of them."""
    begin = time.perf_counter()
    for lane in lanes:
        lane.copy()
    for lane in lanes:
        lane.stream.synchronize()
    return time.perf_counter() - begin
