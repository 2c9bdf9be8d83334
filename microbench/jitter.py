"""How evenly the scheduler and the hardware let a program run that never waits."""

from __future__ import annotations

import hashlib
import os
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING

from hostcheck.bench.model import Backend, Level, Sampled, Scope
from hostcheck.bench.validity import statistic
from hostcheck.registry import bench

from .repeat import is_whole

if TYPE_CHECKING:
    from hostcheck.bench.lab import Lab

QUANTUM_US = 50.0
"""How long the fixed piece of work takes: short beside a time slice, long beside reading the clock."""
_TAIL = 10
"""Pieces beyond a percentile, at least, for it to be told."""
_LEAST = 1000 * _TAIL
_TOGETHER = 200
_PATIENCE = 12.0
"""Seconds that the least number of pieces may take on all CPUs together, half a second each where nothing disturbs."""
_SECONDS = {Level.QUICK: 1.0, Level.STANDARD: 5.0, Level.FULL: 30.0}
_INPUT = bytes(range(256))


@bench(
    id="cpu.jitter", scope=Scope.HOST, backend=Backend.NONE, level=Level.QUICK, seconds=2,
    rows=["x-k8s-jitter"],
    references=["Sottile and Minnich 2004, microbenchmarks for performance tuning of clusters: fixed work quantum"],
)  # fmt: skip
def jitter(lab: Lab) -> Iterator[Sampled]:
    """A fixed piece of work on one CPU takes hardly longer in the worst case than usual.

    A thread bound to one CPU of each NUMA node does the same 50 us of hashing over and over, 10,000 times or more. The
    number is by how much the 99.9th percentile of all is over their median. Ranks that wait for each other take the
    worst of all, so that what one CPU loses now and then all lose nearly always. Interrupts, daemons, SMT siblings, a
    hypervisor and system management interrupts show here; so does a CPU quota.
    """
    chosen = _cpus()
    most = 0.8 * lab.seconds
    budget = (most if is_whole(lab) else min(_SECONDS[lab.level], most)) / len(chosen)
    for subject, cpu in chosen:
        yield _quanta(lab, subject, cpu, budget, max(budget, _PATIENCE / len(chosen)))


def _cpus() -> list[tuple[str, int]]:
    """Return a CPU of each node: the last that this process may use, because interrupts gather on the first."""
    from .host_memory import nodes

    return [(node.subject, node.cpus[-1]) for node in nodes()]


@contextmanager
def _bound(cpu: int) -> Iterator[None]:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _quanta(lab: Lab, subject: str, cpu: int, budget: float, patience: float) -> Sampled:
    """Do pieces of work for as long as planned; longer, if those are too few for the percentile."""
    with _bound(cpu):
        rounds = _calibrated()
        expected = hashlib.blake2b(_INPUT * rounds).digest()
        wrong = 0
        spans = array("q")
        with lab.watch():
            begun = time.monotonic()
            while time.monotonic() - begun < (budget if len(spans) >= _LEAST else patience):
                piece, right = _piece(rounds, expected)
                spans.extend(piece)
                wrong += not right
    usual = median(spans) / 1e3
    late = {name: round(statistic(spans, name) / 1e3 - usual, 3) for name in ("p99", "p99.9", "max")}
    few = f"{len(spans):,} pieces of work were done in {patience:.1f} s; a 99.9th percentile needs {_LEAST:,}"
    return Sampled(
        samples=(late["p99.9"],),
        unit="us",
        statistic="p99.9",
        subject=subject,
        settings={"work": "blake2b", "us of a piece": QUANTUM_US, "pieces": f"at least {_LEAST:,}"},
        details={
            "cpu": cpu,
            "pieces": len(spans),
            "bytes of a piece": len(_INPUT) * rounds,
            "median us": round(usual, 2),
            "p99 us over the median": late["p99"],
            "p99.9 us over the median": late["p99.9"],
            "longest us over the median": late["max"],
            "time lost %": round(100 * sum(max(0.0, span / 1e3 - usual) for span in spans) / (sum(spans) / 1e3), 3),
        },
        verified=not wrong,
        invalid=few if len(spans) < _LEAST else "",
    )


def _calibrated() -> int:
    """Return how often the input is to be hashed so that it takes the quantum, at the clock that holds under load."""
    end = time.perf_counter() + 0.05
    rounds = 64
    while time.perf_counter() < end:
        begun = time.perf_counter_ns()
        hashlib.blake2b(_INPUT * rounds).digest()
        taken = (time.perf_counter_ns() - begun) / 1e3
        rounds = max(8, min(4096, round(rounds * QUANTUM_US / max(taken, 1.0))))
    return rounds


def _piece(rounds: int, expected: bytes) -> tuple[array[int], bool]:
    """Do the work many times; return the nanoseconds of each, and whether every result was right."""
    clock, work, data = time.perf_counter_ns, hashlib.blake2b, _INPUT * rounds
    spans = array("q")
    right = True
    for _ in range(_TOGETHER):
        begun = clock()
        result = work(data).digest()
        spans.append(clock() - begun)
        right &= result == expected
    return spans, right
