"""What the tensor cores can do at most, without memory in the way."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from hostcheck.bench.model import RUN_ON, Backend, Level, Sampled, Scope
from hostcheck.errors import NotApplicable
from hostcheck.registry import bench

from . import repeat, tensor_chain

if TYPE_CHECKING:
    from hostcheck.bench.cuda import Device
    from hostcheck.bench.lab import BenchGpu, Lab
    from hostcheck.model import Scalar

LAUNCH_SECONDS = 20e-3
_ABOVE = 1.02
_HEAT = {Level.QUICK: 0.3}
_HEAT_ELSE = 1.5
"""Seconds after which a power cap has settled: in the first one it swings, and takes a tenth off now and then."""
_QUICK = ("bf16", "fp8", "nvfp4")


@bench(
    id="tensor.pipe", scope=Scope.GPU, backend=Backend.CUDA, level=Level.QUICK, seconds=6, rows=["prof-roofline"],
    references=["PTX ISA: https://docs.nvidia.com/cuda/parallel-thread-execution"],
)  # fmt: skip
def tensor_pipe(lab: Lab) -> Iterator[Sampled]:
    """The tensor cores multiply at this rate when no memory is in the way, for each number format of the part.

    Chains of matrix instructions (mma.sync, wgmma on 9.0, tcgen05 on 10.x) on random operands that lie in registers or
    shared memory, one block on each multiprocessor. The limit is multiprocessors x clock x operations per clock, at
    the clock that the multiprocessors themselves counted meanwhile; so a low clock, such as under a power cap, lowers
    the number and the limit alike, and `of_datasheet` tells of it. The sums of every multiprocessor are compared in
    every period, and with the right ones. Below 0.95 of the limit: multiprocessors that stall; see `sm.sweep`.

    We ran it on compute capability 9.0. The chains for 8.x, 10.x and 12.x are compiled, and their machine code is
    tested, but no such GPU was at hand: instead of a limit to be judged by, their results carry the detail `of_bound`.
    """
    from hostcheck.bench.cuda import Device

    with Device(lab.gpu.ordinal) as device:
        known = tensor_chain.chains(device.cc)
        if not known:
            raise NotApplicable(f"no chain is written for compute capability {device.cc[0]}.{device.cc[1]}")
        names = [name for name in known if lab.level > Level.QUICK or name in _QUICK]
        for name in names:
            yield measure(lab, device, known[name], cases=len(names))


def measure(lab: Lab, device: Device, chain: tensor_chain.Chain, cases: int = 1) -> Sampled:
    """Return the rate of one chain."""
    stream = device.stream()
    runner = tensor_chain.Runner(device, chain)
    seen = _Seen()

    def batch(count: int) -> Sequence[float]:
        run = runner.run(stream, periods, count=count)
        seen.take(run)
        return run.seconds

    try:
        once = runner.run(stream, 2, repeats=1).verdict
        periods = runner.periods(stream, LAUNCH_SECONDS)
        end = time.monotonic() + min(_HEAT.get(lab.level, _HEAT_ELSE), 0.3 * lab.seconds / cases)
        while time.monotonic() < end:
            batch(4)
        begun = len(seen.mhz)
        times = repeat.repeated(lab, batch, cases)
    finally:
        runner.free()
        stream.free()
    operations = chain.operations(periods, chain.repeats)
    samples = tuple(operations * device.sm_count / each / 1e12 for each in times)
    # A tenth of a second of it was warm-up. Which launches these were cannot be told, where a sample is of several.
    clock = median(seen.mhz[begun:])
    limit, source = bound(lab.gpu, chain, device.sm_count, clock)
    details: dict[str, Scalar] = {
        "operations_per_clock_and_sm": operations / median(seen.cycles[begun:]),
        "error": seen.verdict.error,
        "error_once": once.error,
    }
    if (vendor := tensor_chain.datasheet(lab.gpu.model, chain)) is not None:
        details["of_datasheet"] = median(samples) / vendor
    if seen.verdict.wrong:
        details["wrong_sms"] = tensor_chain.named(seen.verdict.wrong)
    made = Sampled(
        case=chain.label,
        samples=samples,
        unit=chain.unit,
        limit=limit,
        limit_source=source,
        settings=settings(chain),
        details=details,
        verified=once.right and seen.verdict.right and not seen.verdict.wrong,
    )
    return made if device.cc in RUN_ON else unproven(made)


def bound(gpu: BenchGpu, chain: tensor_chain.Chain, sm_count: int, mhz: float) -> tuple[float | None, str]:
    """Return what a GPU can do at most at a clock, in the unit of the chain, and how that is known."""
    rate, source = tensor_chain.operations_per_clock(gpu, chain)
    if rate is None:
        return None, ""
    told = f"{sm_count} SMs x {mhz:.0f} MHz as counted x {rate} ({source})"
    return sm_count * mhz * 1e6 * rate / 1e12, told


def unproven(sampled: Sampled) -> Sampled:
    """Return what was measured on a part on which we never ran the chain, so that no floor is held against it.

    Nothing can be above the limit there either. But a number below it may be the fault of the chain.
    """
    if sampled.limit is None:
        return sampled
    share = median(sampled.samples) / sampled.limit
    return replace(
        sampled,
        limit=None,
        limit_source="",
        details={**sampled.details, "of_bound": share, "bound": sampled.limit_source},
        invalid=f"above the physical limit by {share - 1:.0%} ({sampled.limit_source})" if share > _ABOVE else "",
    )


class _Seen:
    """What is kept of runs, of which a long benchmark makes many.

    Attributes:
        mhz, cycles: of each launch, the median over its blocks.
        verdict: on the sums of all.
    """

    def __init__(self) -> None:
        self.mhz: list[float] = []
        self.cycles: list[float] = []
        self.verdict = tensor_chain.FLAWLESS

    def take(self, run: tensor_chain.Run) -> None:
        """Add a run."""
        self.mhz += [tensor_chain.clock_mhz(reports) for reports in run.launches]
        self.cycles += [median(report.cycles for report in reports) for reports in run.launches]
        self.verdict = tensor_chain.worst([self.verdict, run.verdict])


def settings(chain: tensor_chain.Chain) -> dict[str, Scalar]:
    """Return what must be equal for two numbers to be comparable."""
    return {
        "instruction": chain.instruction,
        "data": "random" if chain.exact else "random, normal",
        "clock": "events",
    }
