"""Whether a number may be believed: pure functions from samples and conditions to what speaks against it.

Invalid is unknown, neither good nor bad. What a healthy GPU does under load is no reason: a software power cap is what
a tensor load at the power limit looks like, and a corrected memory error is ECC at work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median, quantiles

from hostcheck.bench.model import PROVING, SLOWDOWNS, UNSTEADY, UNVERIFIED, Conditions, Sampled
from hostcheck.facts.bench import allowed, lower_is_better

# A share of the measured time. Below, a slowdown does not show in a median.
_SLOWED = 0.01
_BELOW_DEFAULT = 0.97
_STARVED = 0.7
# GeForce cards compute at a memory clock a little below the maximum.
_MEMORY_STARVED = 0.9
_VARIATION = 0.1
# Where the CPU does the work, as for pageable copies, other processes and interrupts have their part in each sample.
_VARIATION_HOST = 0.2
_FEWEST = 5

COMPUTE = ("TFLOPS", "TOPS")
"""Units of what the clock of the multiprocessors decides."""

_PER_CLOCK = ("ops/clk",)
"""Units of what no clock decides, so that no slowdown of it speaks against the number."""

# Clock and datasheet are rounded; tensor figures are those of a clock between base and boost.
_ABOVE = {"TFLOPS": 1.02, "TOPS": 1.02}
_ABOVE_ELSE = 1.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """What a GPU could do: maximum clocks, and the power limit that it comes with."""

    sm_max_mhz: float | None = None
    mem_max_mhz: float | None = None
    power_default_w: float | None = None


def statistic(samples: Sequence[float], name: str) -> float:
    """Return the median, min, max, mean or a percentile such as "p99" or "p99.9" of samples.

    Raises:
        ValueError: there are no samples, or there is no such statistic.
    """
    ordered = sorted(samples)
    if not ordered:
        raise ValueError("no samples")
    if name.startswith("p"):
        place = math.ceil(len(ordered) * float(name[1:]) / 100) - 1
        return ordered[min(max(place, 0), len(ordered) - 1)]
    known: dict[str, Callable[[Sequence[float]], float]] = {"median": median, "min": min, "max": max, "mean": fmean}
    if name not in known:
        raise ValueError(f"no statistic {name!r}")
    return float(known[name](ordered))


def variation(samples: Sequence[float]) -> float | None:
    """Return the coefficient of variation as quartiles show it, None for too few samples.

    The distance of the quartiles is 1.349 standard deviations of a normal distribution. One sample that an interrupt
    held up moves the quartiles, as the median, hardly; the plain coefficient would cry wolf.
    """
    if len(samples) < _FEWEST:
        return None
    low, middle, high = quantiles(samples, n=4)
    return (high - low) / 1.349 / middle if middle else None


def fault(
    sampled: Sampled,
    conditions: Conditions,
    *,
    ceilings: Ceilings,
    on_host: bool = False,
) -> str:
    """Return why a number may not be believed, in one line; an empty string where nothing speaks against it.

    Args:
        sampled: what the benchmark yielded.
        conditions: of the GPU meanwhile.
        ceilings: what the GPU could do.
        on_host: it is the host that was measured.
    """
    if sampled.invalid:
        return sampled.invalid
    if not sampled.samples:
        return "there are no samples"
    if not all(math.isfinite(sample) and sample >= 0 for sample in sampled.samples):
        return "a sample is no number that can be measured"
    if not sampled.verified:
        return UNVERIFIED
    value = statistic(sampled.samples, sampled.statistic)
    return (
        _above(sampled, value)
        or _meanwhile(conditions)
        or ("" if sampled.unit in _PER_CLOCK else _slowed(conditions))
        or _capped(sampled, conditions, ceilings)
        or _starved(sampled, conditions, ceilings)
        or _unsteady(sampled, on_host)
    )


def disturbed(conditions: Conditions) -> str:
    """Return what a GPU did that spoils what it took part in; an empty string where nothing did."""
    return _meanwhile(conditions) or _slowed(conditions)


def _above(sampled: Sampled, value: float) -> str:
    """Say where a number is better than is possible: then the measurement is broken, not the GPU good."""
    is_time = lower_is_better(sampled.unit)
    if is_time and not value:
        return f"nothing takes 0 {sampled.unit}: it was measured wrongly"
    limit = sampled.limit if sampled.ceiling is None else sampled.ceiling
    if limit is None:
        return ""
    room = _ABOVE.get(sampled.unit, _ABOVE_ELSE)
    if not (value * room < limit if is_time else value > limit * room):
        return ""
    source = f" ({sampled.limit_source})" if sampled.limit_source else ""
    side = "below" if is_time else "above"
    return f"{value:,.4g} {sampled.unit} is {side} the physical limit of {limit:,.4g}{source}: it was measured wrongly"


def _meanwhile(conditions: Conditions) -> str:
    if conditions.others:
        return f"{', '.join(conditions.others)} ran on the GPU meanwhile"
    grew = [
        f"{name} +{more}"
        for name, more in conditions.errors.items()
        if (name in PROVING and more) or (name.startswith(("nvlink.", "pcie.")) and more > allowed(conditions.seconds))
    ]
    return f"errors were counted meanwhile: {', '.join(grew)}" if grew else ""


def _slowed(conditions: Conditions) -> str:
    for reason, words in SLOWDOWNS.items():
        part = conditions.share(reason)
        if part > _SLOWED:
            return f"slowed by {words} for {part:.0%} of the time"
    return ""


def _capped(sampled: Sampled, conditions: Conditions, ceilings: Ceilings) -> str:
    """Say where a power limit below the part's own held a compute benchmark down."""
    limit, default = conditions.power_limit_w, ceilings.power_default_w
    if sampled.unit not in COMPUTE or limit is None or default is None or limit >= default * _BELOW_DEFAULT:
        return ""
    if not conditions.is_capped:
        return ""
    return f"the power limit is {limit:.0f} W of {default:.0f} W, and it held the clocks down"


def _starved(sampled: Sampled, conditions: Conditions, ceilings: Ceilings) -> str:
    """Say where clocks stayed low without a reason that the driver counts, as locked or application clocks do."""
    memory, memory_max = conditions.mem_mhz, ceilings.mem_max_mhz
    if sampled.unit == "GB/s" and memory and memory_max and memory < memory_max * _MEMORY_STARVED:
        return f"the memory clock stayed at {memory:.0f} of {memory_max:.0f} MHz"
    clock, clock_max = conditions.sm_mhz, ceilings.sm_max_mhz
    if sampled.unit not in COMPUTE or not clock or not clock_max or clock >= clock_max * _STARVED:
        return ""
    if conditions.is_capped is not False:
        return ""
    return (
        f"the SM clock stayed at {clock:.0f} of {clock_max:.0f} MHz without a power cap: locked or application clocks?"
    )


def _unsteady(sampled: Sampled, on_host: bool) -> str:
    """Say where samples of a rate scatter. Latencies scatter by nature, and percentiles are made for that."""
    if sampled.statistic != "median" or lower_is_better(sampled.unit):
        return ""
    spread = variation(sampled.samples)
    most = _VARIATION_HOST if on_host or sampled.settings.get("clock") == "host" else _VARIATION
    return f"{UNSTEADY}the samples vary by {spread:.0%}" if spread is not None and spread > most else ""
