"""What a tuning was good for: the same numbers before and after it, with their noise.

A measure is anything that gives samples for a host: how long a probe takes, or what a benchmark finds. Benchmarks are
run on the host that hostcheck runs on, and nowhere else.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from hostcheck.errors import Unavailable
from hostcheck.facts.gpu_probes import NVML, SMI
from hostcheck.model import Absentee
from hostcheck.snapshot.probes import CommandProbe, Probe
from hostcheck.snapshot.reading import Reading
from hostcheck.tuning.change import Plan
from hostcheck.tuning.drive import Applied
from hostcheck.tuning.hosts import Here, Hosts
from hostcheck.tuning.plan import to_do

SAMPLES = 7
"""How often a probe is timed: enough for a median and its spread, and over in seconds."""

_RUNS = 5
"""How often a benchmark is run, which takes seconds each time."""

_SIGMA = 1.4826
"""A median absolute deviation times this is the standard deviation, where the noise is normal."""
_FAR = 3.0
"""So many deviations apart, two medians differ by more than noise."""

Sampler: TypeAlias = Callable[[Hosts, Sequence[str]], Mapping[str, Sequence[float]]]
"""Gives samples of each of some hosts; a host of which there are none is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A number that tells what a tuner is good for.

    Attributes:
        id: such as "cpu.loop".
        title: what is measured, in a few words.
        unit: of each sample.
        tuners: ids of the tuners that ought to move it.
        take: gives the samples.
        lower_is_better: such as a time.
        only_here: it is a benchmark, which runs on the host that hostcheck runs on, and nowhere else.
    """

    id: str
    title: str
    unit: str
    tuners: tuple[str, ...]
    take: Sampler
    lower_is_better: bool = True
    only_here: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A measure of one host, before and after.

    Attributes:
        verdict: "improved", "worse", "no difference beyond the noise", or why nothing can be said.
        before, after: medians; None where there is none.
        noise_before, noise_after: median absolute deviations.
        samples: of each.
    """

    host: str
    measure: str
    title: str
    unit: str
    verdict: str
    before: float | None = None
    after: float | None = None
    noise_before: float = 0.0
    noise_after: float = 0.0
    samples: int = 0


def seconds_of(probe: Probe) -> Sampler:
    """Return what samples how long a probe takes on its host."""

    def take(hosts: Hosts, names: Sequence[str]) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for _ in range(SAMPLES):
            for name, snapshot in hosts.read([probe], names):
                if not isinstance(snapshot, Absentee) and _ended(snapshot.reading(probe.id)):
                    found.setdefault(name, []).append(snapshot.reading(probe.id).seconds)
        return {name: samples for name, samples in found.items() if len(samples) == SAMPLES}

    return take


def value_of(bench: str, case: str = "") -> Sampler:
    """Return what runs a benchmark, a few times from its start, for what differs from run to run is noise, too."""

    def take(hosts: Hosts, names: Sequence[str]) -> dict[str, list[float]]:
        if not isinstance(hosts, Here):
            return {}
        from hostcheck.bench.model import Level
        from hostcheck.bench.session import choose, lacking, look, measure, plan
        from hostcheck.registry import load_benches

        found: dict[str, list[float]] = {}
        for name, snapshot in hosts.read([NVML], names):
            if isinstance(snapshot, Absentee):
                continue
            host = look(snapshot.reading(NVML.id))
            able, missing = lacking(choose(load_benches(), [bench], Level.QUICK), host, named=True)
            for _ in range(_RUNS if able else 0):
                steps = plan(able, len(host.gpus), Level.QUICK)
                session, _ = measure(steps, host, missing, level=Level.QUICK, options={})
                values = [each.value for each in session.measurements if each.case == case and not each.invalid]
                if numbers := [value for value in values if value is not None]:
                    found.setdefault(name, []).append(statistics.median(numbers))
        return {name: samples for name, samples in found.items() if len(samples) == _RUNS}

    return take


def _ended(reading: Reading) -> bool:
    try:
        reading.check()
    except Unavailable:
        return False
    return True


_LOOP = CommandProbe("measure.loop", ("sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done"), seconds=60.0)

MEASURES: tuple[Measure, ...] = (
    Measure(
        id="cpu.loop",
        title="one thread counts to 300,000 in sh",
        unit="s",
        tuners=("cpu.governor", "cpu.energy-preference", "cpu.boost", "cpu.max-frequency"),
        take=seconds_of(_LOOP),
    ),
    Measure(
        id="gpu.smi",
        title="nvidia-smi answers",
        unit="s",
        tuners=("gpu.persistence",),
        take=seconds_of(SMI),
    ),
    Measure(
        id="memory.latency",
        title="a load from memory that no cache holds",
        unit="ns",
        tuners=("memory.thp-enabled", "kernel.numa-balancing"),
        take=value_of("memory.latency"),
        only_here=True,
    ),
    Measure(
        id="cpu.jitter",
        title="by how much the slowest of a thousand equal pieces of work is late",
        unit="us",
        tuners=("cpu.idle-states", "cpu.irq-gpu", "cpu.irq-nic"),
        take=value_of("cpu.jitter"),
        only_here=True,
    ),
    Measure(
        id="gemm.bf16",
        title="a matrix product of torch in BF16, 8192 x 8192 x 8192",
        unit="TFLOPS",
        tuners=("gpu.power-limit", "gpu.clock-lock"),
        take=value_of("gemm.bf16", "8192"),
        only_here=True,
        lower_is_better=False,
    ),
)


def compare(before: Sequence[float], after: Sequence[float], *, lower_is_better: bool) -> tuple[str, float, float]:
    """Return a verdict on two sets of samples, and the median absolute deviation of each.

    They differ where their medians are further apart than three standard deviations of both, as robustly estimated;
    where all samples of both are the same, any difference counts.
    """
    middle, now = statistics.median(before), statistics.median(after)
    noise = [
        statistics.median([abs(one - center) for one in each]) for each, center in ((before, middle), (after, now))
    ]
    if abs(now - middle) <= _FAR * _SIGMA * (noise[0] ** 2 + noise[1] ** 2) ** 0.5:
        return "no difference beyond the noise", noise[0], noise[1]
    return ("improved" if (now < middle) is lower_is_better else "worse"), noise[0], noise[1]


class Measuring:
    """Measures what the plans of some hosts ought to move, before and after."""

    def __init__(
        self,
        hosts: Hosts,
        plans: Mapping[str, Plan],
        *,
        tell: Callable[[str], None],
        measures: Sequence[Measure] = MEASURES,
    ) -> None:
        """Find out what is to be measured where, which takes no samples; tuners that nothing measures are told once."""
        self._hosts = hosts
        self._tell = tell
        self._names: dict[str, list[str]] = {}
        self._before: dict[str, Mapping[str, Sequence[float]]] = {}
        linked = {tuner: measure for measure in measures for tuner in measure.tuners}
        self._measures = {measure.id: measure for measure in measures}
        unmeasured: dict[str, None] = {}
        elsewhere: dict[str, None] = {}
        for name, plan in plans.items():
            for tuner in dict.fromkeys(change.tuner for change in to_do(plan)):
                if tuner not in linked:
                    unmeasured[tuner or "(by hand)"] = None
                elif linked[tuner].only_here and not isinstance(hosts, Here):
                    elsewhere[tuner] = None
                elif name not in self._names.setdefault(linked[tuner].id, []):
                    self._names[linked[tuner].id].append(name)
        if unmeasured:
            tell(f"nothing measures this yet: {', '.join(sorted(unmeasured))}")
        if elsewhere:
            what = ", ".join(sorted(elsewhere))
            tell(f"not measured over SSH, since benchmarks run on the host of hostcheck alone: {what}")

    def before(self) -> None:
        """Take the samples before anything is changed."""
        for id, names in self._names.items():
            self._tell(f"measuring: {self._measures[id].title}")
            self._before[id] = self._measures[id].take(self._hosts, names)

    def after(self, applied: Applied) -> tuple[Compared, ...]:
        """Take the samples again where something was changed, and compare."""
        changed = {each.name for each in applied.ended if each.made}
        found = []
        for id, names in self._names.items():
            measure = self._measures[id]
            again = [name for name in names if name in changed]
            taken = measure.take(self._hosts, again) if again else {}
            for name in names:
                row = Compared(host=name, measure=id, title=measure.title, unit=measure.unit, verdict="nothing changed")
                if name in changed:
                    row = _row(row, self._before[id].get(name, ()), taken.get(name, ()), measure)
                found.append(row)
        return tuple(found)


def _row(row: Compared, before: Sequence[float], after: Sequence[float], measure: Measure) -> Compared:
    if not before or not after:
        return replace(row, verdict=f"could not be measured {'before' if not before else 'after'}")
    verdict, noise_before, noise_after = compare(before, after, lower_is_better=measure.lower_is_better)
    return replace(
        row,
        verdict=verdict,
        before=statistics.median(before),
        after=statistics.median(after),
        noise_before=noise_before,
        noise_after=noise_after,
        samples=min(len(before), len(after)),
    )
