"""Robust outliers: numbers of a host that lie far from those of its equals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median

from hostcheck.errors import Maybe, Unavailable
from hostcheck.facts.base import Facts
from hostcheck.facts.bench import SESSION, lower_is_better
from hostcheck.facts.edac import EDAC
from hostcheck.facts.gpu import GPUS
from hostcheck.facts.gpu_health import REPLAYS
from hostcheck.facts.gpu_types import Gpu
from hostcheck.facts.memory import MEMINFO
from hostcheck.model import Outlier
from hostcheck.render.safe import clip
from hostcheck.snapshot.reading import Ending

EQUALS = 5
"""So many others, at least, are needed to say what is usual."""
LIMIT = 5.0
"""So many robust standard deviations, at least, an outlier is away from the median.

Of normally distributed numbers less than one in a million is. Those of machines have longer tails, and a fleet has
thousands of GPUs: the usual 3.5 would name some of them on a healthy day.
"""
NORMAL = 1.4826
"""The median absolute deviation times this is the standard deviation of normally distributed numbers."""

_LONGEST = 200
_MOST = 1e15
"""No honest measure is larger; not a number and infinity are refused with it."""

Found = Iterable[tuple[str, Maybe[float] | Maybe[int]]]
Samples = Mapping[str, Mapping[str, float]]
"""What was measured on one host: measure to subject to number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One number to compare.

    Attributes:
        read: yields subject and number; what is missing is left out.
        floor: the least that counts as one deviation, in the measure's unit: jitter below it is of no interest, and
            of numbers that are nearly all equal the deviation is 0.
        share: the same, as a part of the median.
        low, high: which side is worth telling.
        shifted: tell the number and the median as distances from the median.
    """

    read: Callable[[Facts], Found]
    floor: float
    share: float = 0.0
    low: bool = False
    high: bool = True
    shifted: bool = False


def _idle(facts: Facts) -> Iterator[Gpu]:
    """Yield the GPUs that do nothing: no load, and no process where processes can be seen."""
    for gpu in facts.get(GPUS):
        if gpu.utilization.gpu_percent == 0 and not (isinstance(gpu.processes, tuple) and gpu.processes):
            yield gpu


def _temperatures(facts: Facts) -> Found:
    return ((gpu.subject, gpu.temperature.gpu_c) for gpu in _idle(facts))


def _powers(facts: Facts) -> Found:
    for gpu in _idle(facts):
        power = gpu.power
        yield gpu.subject, power.draw_w if isinstance(power.draw_w, int | float) else power.instant_w


def _memory_used(facts: Facts) -> Found:
    return ((gpu.subject, gpu.memory.used_mib) for gpu in _idle(facts))


def _corrected(facts: Facts) -> Found:
    for gpu in facts.get(GPUS):
        counters = gpu.ecc.volatile
        parts = [count for count in (counters.sram_correctable, counters.dram_correctable) if isinstance(count, int)]
        yield gpu.subject, sum(parts) if parts else counters.total_correctable


def _replays(facts: Facts) -> Found:
    for gpu in facts.get(REPLAYS):
        if isinstance(gpu.total, int) and isinstance(gpu.minutes, int | float):
            yield gpu.subject, gpu.total / max(gpu.minutes / 1440, 1.0)


def _free_memory(facts: Facts) -> Found:
    memory = facts.get(MEMINFO)
    if isinstance(memory.available_kib, int) and memory.total_kib:
        yield "host", 100 * memory.available_kib / memory.total_kib


MEASURES: Mapping[str, Measure] = {
    "GPU temperature when idle, °C": Measure(read=_temperatures, floor=3.0, low=True),
    "GPU power when idle, W": Measure(read=_powers, floor=8.0, low=True),
    "GPU memory in use when idle, MiB": Measure(read=_memory_used, floor=64.0),
    "corrected ECC errors since the driver was loaded": Measure(read=_corrected, floor=2.0),
    "PCIe replays a day": Measure(read=_replays, floor=5.0),
    "corrected errors of the host's memory": Measure(
        read=lambda facts: ((mc.subject, mc.correctable) for mc in facts.get(EDAC)), floor=5.0
    ),
    "available memory, %": Measure(read=_free_memory, floor=3.0, low=True, high=False),
    "clock against that of its equals, s": Measure(
        read=lambda facts: [("host", facts.snapshot.manifest.time)], floor=7200.0, low=True, shifted=True
    ),
}
_RATE = Measure(read=lambda _: (), floor=1e-9, share=0.01, low=True, high=False)
"""What `hostcheck bench` measured: of healthy equals nearly all are within 5 % of the median, as for bench.alike."""
_TIME = Measure(read=lambda _: (), floor=1e-9, share=0.06)
"""The same of times: within 30 %, since the state of the CPU decides them."""
_SECONDS = Measure(read=lambda _: (), floor=0.3, share=0.2)
_PROBE = "time of probe {}, s"
_BENCH = "bench "


def _benchmarks(facts: Facts) -> Iterator[tuple[str, str, float]]:
    """Yield measure, subject and number of each valid measurement; measured in another way, it has another name."""
    for measured in facts.get(SESSION).measurements:
        if measured.value and not measured.invalid and measured.value < _MOST:
            folder, ranks = measured.settings.get("folder"), measured.settings.get("ranks")
            way = (f"in {folder}" if folder else "", f"of {ranks}" if ranks else "", "alone" if measured.alone else "")
            words = (measured.bench, measured.case, *way)
            yield f"{_BENCH}{' '.join(filter(None, words))}, {measured.unit}", measured.subject, measured.value


def _measure(name: str) -> Measure:
    if name.startswith(_BENCH):
        return _TIME if lower_is_better(name.rpartition(", ")[2]) else _RATE
    return MEASURES.get(name, _SECONDS)


def measures(facts: Facts) -> dict[str, dict[str, float]]:
    """Return what a host's snapshot holds of the measures, how long each probe took, and what was benchmarked.

    Never raises.
    """
    found: dict[str, dict[str, float]] = {}
    for name, measure in MEASURES.items():
        try:
            numbers = {
                subject: float(value)
                for subject, value in measure.read(facts)
                if isinstance(value, int | float) and abs(value) < _MOST
            }
        except Exception:
            numbers = {}
        if numbers:
            found[name] = numbers
    with suppress(Unavailable):
        for name, subject, value in _benchmarks(facts):
            found.setdefault(clip(name, _LONGEST), {})[clip(subject, _LONGEST)] = value
    for id, reading in facts.snapshot.readings.items():
        if reading.ending is Ending.OK and math.isfinite(reading.seconds):
            found[_PROBE.format(id)] = {"host": reading.seconds}
    return found


def outliers(groups: Mapping[str, Sequence[str]], samples: Mapping[str, Samples]) -> tuple[Outlier, ...]:
    """Return the outliers of each group of equal hosts, the farthest first.

    Args:
        groups: label to hosts.
        samples: of each host.
    """
    found: list[Outlier] = []
    for group, hosts in groups.items():
        for name in sorted({name for host in hosts for name in samples.get(host, {})}):
            numbers = {
                (host, subject): value
                for host in hosts
                for subject, value in samples.get(host, {}).get(name, {}).items()
            }
            found += _far(group, name, numbers)
    return tuple(sorted(found, key=lambda outlier: (-outlier.deviations, outlier.measure, outlier.host)))


def _far(group: str, name: str, numbers: Mapping[tuple[str, str], float]) -> Iterator[Outlier]:
    if len(numbers) <= EQUALS:
        return
    measure = _measure(name)
    middle, width = spread(numbers.values(), floor=measure.floor, share=measure.share)
    base = middle if measure.shifted else 0.0
    for (host, subject), value in numbers.items():
        away = (value - middle) / width
        if (measure.high and away >= LIMIT) or (measure.low and away <= -LIMIT):
            yield Outlier(
                host=host,
                subject=subject,
                measure=name,
                value=round(value - base, 3),
                median=round(middle - base, 3),
                deviations=round(abs(away), 1),
                group=group,
            )


def spread(values: Iterable[float], *, floor: float, share: float = 0.0) -> tuple[float, float]:
    """Return the median, and what one robust deviation is: never less than the floor, or than that share of the median.

    Raises:
        ValueError: there are no values, or no positive floor.
    """
    numbers = sorted(values)
    if not numbers or floor <= 0:
        raise ValueError("values and a positive floor are needed")
    middle = median(numbers)
    return middle, max(NORMAL * median(abs(value - middle) for value in numbers), floor, share * abs(middle))
