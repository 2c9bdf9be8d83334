"""What it costs to start work on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hostcheck.bench.model import Backend, Level, Sampled, Scope
from hostcheck.registry import bench

from .repeat import repeated

if TYPE_CHECKING:
    from hostcheck.bench.cuda import Device, Stream
    from hostcheck.bench.lab import Lab

TOGETHER = 100
"""Kernels of a graph, and of one look at the clock."""


@dataclass(frozen=True, slots=True)
class Case:
    """One way to look at the clock.

    Attributes:
        clock: "events" of the GPU or that of the "host".
        kernels: how many run in one piece of work.
        once: does one piece of work and returns its seconds.
    """

    name: str
    clock: str
    kernels: int
    once: Callable[[], float]


@bench(
    id="launch.kernel", scope=Scope.GPU, backend=Backend.CUDA, level=Level.QUICK, seconds=2,
    rows=["sched-fuse-kernels", "cuda-repeatable-timing"],
)  # fmt: skip
def kernel(lab: Lab) -> Iterator[Sampled]:
    """A kernel takes this long to start.

    "gpu": what each of 100 kernels takes that wait in a queue behind one another, by events. "queue": what the host
    takes to queue one. "wall": from the launch until the host knows that it has run. The last two hang on the CPU: its
    clock, governor and sleep states, the IOMMU, virtualisation. They include the way through Python, which is a part
    of "queue" and shown beside it as the time of a call that does nothing.
    """
    from hostcheck.bench.cuda import Device

    with Device(lab.gpu.ordinal) as device:
        stream = device.stream()
        runs = device.alloc(4)
        launch = device.kernel("launch", "once").bind(1, 1, runs)

        def many() -> None:
            for _ in range(TOGETHER):
                launch(stream)

        yield from _measure(
            lab,
            device,
            lambda: int(runs.words()[0]),
            Case("gpu", "events", TOGETHER, lambda: stream.time([many])[0]),
            Case("queue", "host", TOGETHER, lambda: _queued(stream, many)),
            Case("wall", "host", 1, lambda: _done(stream, lambda: launch(stream))),
        )


@bench(
    id="launch.graph", scope=Scope.GPU, backend=Backend.CUDA, level=Level.QUICK, seconds=1,
    rows=["cuda-graphs"],
)  # fmt: skip
def graph(lab: Lab) -> Iterator[Sampled]:
    """A kernel within a graph of 100 takes this long.

    "gpu": by events; "wall": from the launch of the graph until the host knows that it has run; each divided by 100.
    Beside `launch.kernel` it tells what CUDA graphs save.
    """
    from hostcheck.bench.cuda import Device, Graph

    with Device(lab.gpu.ordinal) as device:
        stream = device.stream()
        runs = device.alloc(4)
        launch = device.kernel("launch", "once").bind(1, 1, runs)

        def record() -> None:
            for _ in range(TOGETHER):
                launch(stream)

        recorded = Graph(stream, record)
        yield from _measure(
            lab,
            device,
            lambda: int(runs.words()[0]),
            Case("gpu", "events", TOGETHER, lambda: stream.time([lambda: recorded(stream)])[0]),
            Case("wall", "host", TOGETHER, lambda: _done(stream, lambda: recorded(stream))),
        )


def _measure(lab: Lab, device: Device, runs: Callable[[], int], *cases: Case) -> Iterator[Sampled]:
    for case in cases:
        before, done = runs(), 0

        def batch(count: int, case: Case = case) -> list[float]:
            nonlocal done
            done += count * case.kernels
            return [case.once() for _ in range(count)]

        times = repeated(lab, batch, len(cases))
        yield Sampled(
            samples=tuple(1e6 * each / case.kernels for each in times),
            unit="us",
            case=case.name,
            settings={"kernel": "one thread that counts its runs", "kernels": case.kernels, "clock": case.clock},
            details={} if case.clock == "events" else {"empty_call_us": 1e6 * _empty_call(device)},
            verified=runs() - before == done,
        )


def _queued(stream: Stream, work: Callable[[], None]) -> float:
    """Return the seconds that the host takes to queue work on an idle stream."""
    stream.synchronize()
    begin = time.perf_counter()
    work()
    seconds = time.perf_counter() - begin
    stream.synchronize()
    return seconds


def _done(stream: Stream, work: Callable[[], None]) -> float:
    """Return the seconds from queueing work on an idle stream until it is done."""
    begin = time.perf_counter()
    work()
    stream.synchronize()
    return time.perf_counter() - begin


def _empty_call(device: Device) -> float:
    """Return the seconds of a call of the driver that does nothing."""
    begin = time.perf_counter()
    for _ in range(TOGETHER):
        device.use()
    return (time.perf_counter() - begin) / TOGETHER
