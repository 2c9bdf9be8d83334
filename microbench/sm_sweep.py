"""Whether each multiprocessor computes the same, and as fast as the others."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from hostcheck.bench.model import RUN_ON, Backend, Level, Sampled, Scope
from hostcheck.errors import NotApplicable
from hostcheck.registry import bench

from . import repeat, tensor_chain
from .tensor_pipe import settings

if TYPE_CHECKING:
    from hostcheck.bench.cuda import Device, Stream
    from hostcheck.bench.lab import Lab
    from hostcheck.model import Scalar

LAUNCH_SECONDS = 2e-3
SLOW_CYCLES = 0.01
"""How many more cycles than the median one a multiprocessor may take. On a healthy H100 it was 0.0001."""
SLOW_TIME = 0.05
"""And how much longer. Each cluster (GPC) has a clock of its own: under a power cap a healthy H100 showed 0.015."""
SLOW_UNKNOWN = 0.1
"""And both, on parts of which we know no healthy one."""
_MOST = 200
_LEAST = 10
_WARM = 50


@bench(
    id="sm.sweep", scope=Scope.GPU, backend=Backend.CUDA, level=Level.QUICK, seconds=3, rows=["prof-roofline"],
)  # fmt: skip
def sm_sweep(lab: Lab) -> Iterator[Sampled]:
    """The slowest multiprocessor multiplies at this rate, and all of them get the same sums.

    The chains of `tensor.pipe`, one block on each multiprocessor, again and again until each was covered at least ten
    times. The sums are compared bit by bit between multiprocessors and periods, and with the right ones; cycles and
    times are compared with the median. `wrong_sms` and `slow_sms` name those that differ: a multiprocessor that
    computes wrongly spoils results in silence, and one that is slow holds up all others. Either is a reason to
    replace the GPU once it repeats after a reset.
    """
    from hostcheck.bench.cuda import Device

    with Device(lab.gpu.ordinal) as device:
        known = tensor_chain.chains(device.cc)
        if not known:
            raise NotApplicable(f"no chain is written for compute capability {device.cc[0]}.{device.cc[1]}")
        names = [name for name in known if lab.level > Level.QUICK or name in ("bf16", "int8")]
        for name in names:
            yield sweep(lab, device, known[name], cases=len(names))


def sweep(lab: Lab, device: Device, chain: tensor_chain.Chain, cases: int = 1) -> Sampled:
    """Return the rate of the slowest multiprocessor, in operations per clock, with what differs between them."""
    stream = device.stream()
    runner = tensor_chain.Runner(device, chain)
    earlier = tensor_chain.FLAWLESS
    end = time.monotonic() + (repeat.seconds(lab, cases) if repeat.is_whole(lab) else 0.0)
    try:
        periods = runner.periods(stream, LAUNCH_SECONDS)
        runner.run(stream, periods, count=_WARM)
        wanted = max(_LEAST, min(_MOST, int(repeat.seconds(lab, cases) / LAUNCH_SECONDS / 2)))
        with lab.watch():
            while (runs := _round(runner, stream, periods, wanted, device.sm_count)) and time.monotonic() < end:
                # Of several rounds, the times of the last one count, and what was computed of all.
                earlier = tensor_chain.worst([earlier, *(run.verdict for run in runs)])
    finally:
        runner.free()
        stream.free()
    operations = chain.operations(periods, chain.repeats)
    known = device.cc in RUN_ON
    # Of a part on which we never ran the chain, we do not know that it can do no more.
    rate, source = tensor_chain.operations_per_clock(lab.gpu, chain) if known else (None, "")
    return replace(
        judged(chain, operations, device.sm_count, runs, earlier, known=known),
        limit=rate,
        limit_source=source,
        settings=settings(chain),
    )


def _round(
    runner: tensor_chain.Runner, stream: Stream, periods: int, wanted: int, sm_count: int
) -> list[tensor_chain.Run]:
    """Launch until each multiprocessor was covered often enough, but not for ever."""
    runs: list[tensor_chain.Run] = []
    while sum(len(run.launches) for run in runs) < _MOST:
        runs.append(runner.run(stream, periods, count=_LEAST))
        seen = Counter(report.sm for run in runs for reports in run.launches for report in reports)
        if sum(seen.values()) >= wanted * sm_count and enough(seen, sm_count):
            break
    return runs


def enough(seen: Mapping[int, int], sm_count: int) -> bool:
    """Whether each multiprocessor was covered often enough."""
    return len(seen) >= sm_count and min(seen.values()) >= _LEAST


def judged(
    chain: tensor_chain.Chain,
    operations: int,
    sm_count: int,
    runs: Sequence[tensor_chain.Run],
    earlier: tensor_chain.Verdict = tensor_chain.FLAWLESS,
    *,
    known: bool = True,
) -> Sampled:
    """Return what was found.

    A multiprocessor that differs makes the number no less true: it is what was looked for. Only if the sums that most
    agree on are wrong, or some multiprocessor was not covered, is the number void.

    Args:
        chain: what ran.
        operations: of a block in a launch.
        sm_count: how many multiprocessors there are.
        runs: what came of the launches that were timed.
        earlier: what the sums of launches before were worth.
        known: whether we know by how much healthy multiprocessors of such a part differ.
    """
    slow_cycles, slow_time = (SLOW_CYCLES, SLOW_TIME) if known else (SLOW_UNKNOWN, SLOW_UNKNOWN)
    verdict = tensor_chain.worst([earlier, *(run.verdict for run in runs)])
    launches = [reports for run in runs for reports in run.launches]
    cycles: dict[int, list[int]] = defaultdict(list)
    ns: dict[int, list[int]] = defaultdict(list)
    for report in (report for reports in launches for report in reports):
        cycles[report.sm].append(report.cycles)
        ns[report.sm].append(report.ns)
    counted, took = _shares(cycles), _shares(ns)
    slow = {
        sm: f"{counted[sm] - 1:+.1%} cycles, {took[sm] - 1:+.1%} time"
        for sm in took
        if counted[sm] > 1 + slow_cycles or took[sm] > 1 + slow_time
    }
    slowest, fastest = max(took, key=lambda sm: took[sm]), min(took, key=lambda sm: took[sm])
    missing = sm_count - len(took)
    details: dict[str, Scalar] = {
        "multiprocessors": len(took),
        "wrong_sms": tensor_chain.named(verdict.wrong),
        "slow_sms": tensor_chain.named(slow),
        "slowest_sm": slowest,
        "slowest_time": took[slowest],
        "fastest_sm": fastest,
        "fastest_time": took[fastest],
        "most_cycles": max(counted.values()),
        "least_cycles": min(counted.values()),
        "launches": len(launches),
        "error": verdict.error,
    }
    return Sampled(
        case=chain.label,
        samples=tuple(operations / max(report.cycles for report in reports) for reports in launches),
        unit="ops/clk",
        details=details,
        verified=verdict.right,
        invalid=f"{missing} of {sm_count} multiprocessors were never given a block" if missing > 0 else "",
    )


def _shares(values: Mapping[int, Sequence[int]]) -> dict[int, float]:
    """Return the median of each multiprocessor as a share of the median one's."""
    medians = {sm: median(each) for sm, each in values.items()}
    usual = median(medians.values())
    return {sm: value / usual for sm, value in medians.items()}
