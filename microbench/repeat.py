"""How often something is measured: what level and time allow, after a warm-up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import TYPE_CHECKING

from hostcheck.bench.model import Level

if TYPE_CHECKING:
    from hostcheck.bench.lab import Lab

WARM = 0.1
"""Seconds of warm-up at most, in which clocks rise."""
MOST = 1000
"""Samples at most; where there would be more, each is the mean of several."""

_SECONDS = {Level.QUICK: 0.3, Level.STANDARD: 1.0, Level.FULL: 5.0}
_LEAST = 10
_QUEUED = 100


def seconds(lab: Lab, cases: int = 1) -> float:
    """Return for how long one of several cases is measured: by the level, and within what the benchmark may take."""
    most = 0.6 * lab.seconds / cases
    return min(_SECONDS.get(lab.level, most), most)


def repeated(
    lab: Lab, batch: Callable[[int], Sequence[float]], cases: int = 1, subjects: Sequence[str] = ()
) -> list[float]:
    """Return the seconds of each of many pieces of work, in order of time.

    Args:
        lab: its `watch` marks the time of the samples, not that of the warm-up.
        batch: does so many pieces of work and returns the seconds of each.
        cases: among how many the time is shared.
        subjects: the GPUs that take part, where these are not all.
    """
    budget = seconds(lab, cases)
    each = _warm_up(batch, min(WARM, budget / 4))
    together = max(1, int(budget / each / MOST))
    size = max(1, min(_QUEUED, int(budget / each / 4)))
    samples: list[float] = []
    pending: list[float] = []
    with lab.watch(*subjects):
        end = time.monotonic() + budget
        while time.monotonic() < end or len(samples) < _LEAST:
            pending += batch(size)
            while len(pending) >= together:
                samples.append(fmean(pending[:together]))
                del pending[:together]
    return samples


def one_by_one(once: Callable[[], float]) -> Callable[[int], list[float]]:
    """Return a batch for `repeated`, of what does one piece of work and returns its seconds."""
    return lambda count: [once() for _ in range(count)]


def _warm_up(batch: Callable[[int], Sequence[float]], warm: float) -> float:
    """Work for a while; return the median of the last seconds of one piece."""
    end = time.monotonic() + warm
    each = median(batch(3))
    while time.monotonic() < end:
        each = median(batch(max(1, min(_QUEUED, int(warm / 4 / each)))))
    return max(each, 1e-9)
