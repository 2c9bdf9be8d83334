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

_STRETCH, _STRETCHES = 10.0, 100
"""Seconds after which the output is looked at, and how often at most."""
_SECONDS = {Level.QUICK: 0.3, Level.STANDARD: 1.0, Level.FULL: 5.0}
_LEAST = 10
_QUEUED = 100


def is_whole(lab: Lab) -> bool:
    """Whether all of the time is to be used: under soak, and where the user said how long."""
    return lab.level is Level.SOAK or lab.whole


def seconds(lab: Lab, cases: int = 1) -> float:
    """Return for how long one of several cases is measured: by the level, and within what the benchmark may take."""
    most = 0.6 * lab.seconds / cases
    return most if is_whole(lab) else min(_SECONDS[lab.level], most)


def stretch(budget: float) -> float:
    """Return the seconds after which the output of work that takes so long is looked at."""
    return max(_STRETCH, budget / _STRETCHES)


class Proof:
    """What shows that the work that is timed does what it should.

    Args:
        once: spoils the output, does one piece of work, and returns its seconds.
        wrong: returns how much of the output is wrong.
    """

    def __init__(self, once: Callable[[], float], wrong: Callable[[], int]) -> None:
        self._once = once
        self._wrong = wrong
        self.is_right = True

    def seconds(self) -> float:
        """Return how long the piece of work took that was looked at."""
        took = self._once()
        self.is_right = self._wrong() == 0 and self.is_right
        return took


def repeated(
    lab: Lab,
    batch: Callable[[int], Sequence[float]],
    cases: int = 1,
    subjects: Sequence[str] = (),
    proof: Proof | None = None,
) -> list[float]:
    """Return the seconds of each of many pieces of work, in order of time.

    Args:
        lab: its `watch` marks the time of the samples, not that of the warm-up.
        batch: does so many pieces of work and returns the seconds of each.
        cases: among how many the time is shared.
        subjects: the GPUs that take part, where these are not all.
        proof: looks at the output at the end, and on the way every 10 s or a hundred times.
    """
    budget = seconds(lab, cases)
    each = _warm_up(batch, min(WARM, budget / 4))
    together = max(1, int(budget / each / MOST))
    size = max(1, min(_QUEUED, int(budget / each / 4)))
    samples: list[float] = []
    pending: list[float] = []
    end = time.monotonic() + budget
    while True:
        until = min(end, time.monotonic() + stretch(budget))
        with lab.watch(*subjects):
            while time.monotonic() < until or len(samples) < _LEAST:
                pending += batch(size)
                while len(pending) >= together:
                    samples.append(fmean(pending[:together]))
                    del pending[:together]
        if proof is not None:
            samples.append(proof.seconds())
        if time.monotonic() >= end:
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
