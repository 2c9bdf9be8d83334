"""Copies from GPU to GPU, over NVLink or PCIe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from hostcheck.bench.model import Backend, Level, Sampled, Scope
from hostcheck.errors import NotApplicable
from hostcheck.registry import bench

from . import pattern
from .links import peer_link
from .repeat import one_by_one, repeated

if TYPE_CHECKING:
    from hostcheck.bench.cuda import Buffer, Device, Stream
    from hostcheck.bench.lab import BenchGpu, Lab

SIZE = 512 * 2**20
_SEED = 100
_ROWS = ["scale-all-to-all", "scale-nvlink-bandwidth"]
_REFERENCES = ["nvbandwidth: https://github.com/NVIDIA/nvbandwidth"]
_NO_ACCESS = "no peer access: through the host's memory"


class Lane:
    """One direction between two GPUs: memory of both, a stream of the sender, and the way between them."""

    def __init__(self, gpus: Sequence[BenchGpu], devices: Sequence[Device], first: int, second: int) -> None:
        self.sender, self.receiver = devices[first], devices[second]
        self.seed = _SEED + first
        self.name = f"{gpus[first].subject}>{gpus[second].subject}"
        self.source: Buffer = self.sender.alloc(SIZE)
        self.target: Buffer = self.receiver.alloc(SIZE)
        self.stream: Stream = self.sender.stream()
        direct = self.sender.reach(self.receiver) and self.receiver.reach(self.sender)
        transport, self.limit, self.limit_source = peer_link(gpus[first], gpus[second])
        self.transport = transport if direct else _NO_ACCESS
        if not direct:
            self.limit, self.limit_source = None, ""
        pattern.fill(self.source, self.seed)

    def copy(self) -> None:
        """Queue the copy."""
        self.stream.copy(self.target.pointer, self.source.pointer, SIZE)

    def poison(self) -> None:
        """Spoil what was written."""
        self.target.fill(pattern.NEVER)

    def wrong(self) -> int:
        """Return how many words did not arrive, counted by the GPU that owns the memory."""
        return pattern.wrong(self.target, self.seed)

    def free(self) -> None:
        """Give the memory back."""
        for thing in (self.source, self.target, self.stream):
            thing.free()


@bench(
    id="peer.copy", scope=Scope.GPUS, backend=Backend.CUDA, level=Level.QUICK, seconds=8, rows=_ROWS,
    references=_REFERENCES,
)  # fmt: skip
def copy(lab: Lab) -> Iterator[Sampled]:
    """Each GPU copies to each other GPU at this rate, one pair and one direction at a time.

    512 MiB by the sender's copy engine, timed by events. The receiver compares every word. Without peer access the
    driver takes the way through the host's memory, which the settings then say. One slow pair among fast ones points
    to a link that is down or degraded.
    """
    with ExitStack() as stack:
        devices = _open(lab, stack)
        pairs = [(first, second) for first in range(len(devices)) for second in range(len(devices)) if first != second]
        for first, second in pairs:
            lane = Lane(lab.gpus, devices, first, second)
            yield from _measure(lab, [lane], lane.name, len(pairs), counted=1, rule="each byte once")


@bench(
    id="peer.both", scope=Scope.GPUS, backend=Backend.CUDA, level=Level.QUICK, seconds=5, rows=_ROWS,
    references=_REFERENCES,
)  # fmt: skip
def both(lab: Lab) -> Iterator[Sampled]:
    """Two GPUs copy to each other at the same time at this rate, both directions added.

    512 MiB each way, each by the copy engine of its sender, timed on both from when both may start; the slower counts.
    """
    with ExitStack() as stack:
        devices = _open(lab, stack)
        pairs = [(first, second) for first in range(len(devices)) for second in range(first + 1, len(devices))]
        for first, second in pairs:
            lanes = [Lane(lab.gpus, devices, *ends) for ends in ((first, second), (second, first))]
            name = f"{lab.gpus[first].subject}-{lab.gpus[second].subject}"
            yield from _measure(lab, lanes, name, len(pairs), counted=2, rule="both directions added")


@bench(
    id="peer.all", scope=Scope.GPUS, backend=Backend.CUDA, level=Level.QUICK, seconds=3, rows=_ROWS,
    references=_REFERENCES,
)  # fmt: skip
def everyone(lab: Lab) -> Iterator[Sampled]:
    """All GPUs copy to all others at the same time; each sends at this rate on average.

    512 MiB to each other GPU, timed on each GPU from when all may start until its last copy is done; the slowest
    counts. Far below `peer.copy`: links are shared, as between cards on one PCIe switch.
    """
    with ExitStack() as stack:
        devices = _open(lab, stack)
        others = len(devices) - 1
        ends = [(first, second) for first in range(len(devices)) for second in range(len(devices)) if first != second]
        lanes = [Lane(lab.gpus, devices, *pair) for pair in ends]
        yield from _measure(lab, lanes, "all GPUs", 1, counted=others, rule="what one GPU sends")


def _open(lab: Lab, stack: ExitStack) -> list[Device]:
    if len(lab.gpus) < 2:
        raise NotApplicable("only one GPU takes part")
    from hostcheck.bench.cuda import Device

    return [stack.enter_context(Device(gpu.ordinal)) for gpu in lab.gpus]


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
    times = repeated(lab, one_by_one(partial(at_once, lanes)), cases)
    for lane in lanes:
        lane.poison()
    times.append(at_once(lanes))
    limits = [lane.limit for lane in lanes if lane.limit is not None]
    # All lanes of one sender share its links, and each sender has its own.
    senders = len({lane.sender.ordinal for lane in lanes})
    limit = min(limits) * senders * counted / len(lanes) if len(limits) == len(lanes) else None
    yield Sampled(
        samples=tuple(SIZE * counted / 1e9 / each for each in times),
        unit="GB/s",
        subject=subject,
        limit=limit,
        limit_source=lanes[0].limit_source if limit is not None else "",
        settings={
            "bytes": rule,
            "block_bytes": SIZE,
            "transport": ", ".join(sorted({lane.transport for lane in lanes})),
            "data": "pseudo-random",
            "clock": "events",
        },
        verified=sum(lane.wrong() for lane in lanes) == 0,
    )
    for lane in lanes:
        lane.free()


def at_once(lanes: Sequence[Lane]) -> float:
    """Let all copies start at the same time; return the seconds until the last one is done, on the slowest GPU."""
    from hostcheck.bench.cuda import between, discard

    with lanes[0].stream.hold():
        gate = lanes[0].stream.mark()
        begins, ends = [], []
        for lane in lanes:
            lane.stream.wait(gate)
            begins.append(lane.stream.mark())
        for lane in lanes:
            lane.copy()
            ends.append(lane.stream.mark())
    seconds = max(between(begin, end) for begin, end in zip(begins, ends, strict=True))
    discard([gate, *begins, *ends])
    return seconds
