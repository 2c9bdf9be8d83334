"""Matrix products through torch's libraries (cuBLAS, cuBLASLt, CUTLASS) in each number format that the GPU multiplies.

Inputs are random normal numbers: constants draw less power and run a tenth faster. Several sets of inputs and outputs
take turns. What is checked afterwards is what the timed products themselves left in outputs that had been filled with
NaN: sampled rows against the product of the same numbers in FP64, and the sums of all columns, which no wrong element
escapes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import pairwise
from statistics import fmean
from typing import Any

from hostcheck.bench.lab import BenchGpu, Lab
from hostcheck.bench.model import Backend, Level, Sampled, Scope
from hostcheck.errors import HostcheckError
from hostcheck.gpu_table import table
from hostcheck.registry import bench

from .gemm_forms import FORMS, SEED, Form, Problem, Shape, available
from .repeat import stretch

SQUARE = 8192
LARGE = 16384
PROBE = (2048, 2048, 2048)
"""Tells how fast the GPU is at all, before anything larger is tried."""
SETS = 3
MOST_SAMPLES = 200
LEAST_SAMPLES = 10
_PIECE = 0.1
_STILL = 0.01
"""While it heats up: seconds after which the rate is looked at, and by how much it may then differ."""
_SAMPLED_ROWS = 32
_SAMPLED_ELEMENTS = 64
_STRIP = 1024
"""Rows or columns that are taken to FP64 at a time, and the elements of a column that are summed."""
_REFERENCES = (
    "S. Bekman, Machine Learning Engineering: Maximum Achievable Matmul FLOPS Finder",
    "NVIDIA cuBLAS documentation, 1D block scaling factors layout",
)


@bench(
    id="gemm.bf16",
    scope=Scope.GPU,
    backend=Backend.TORCH,
    level=Level.QUICK,
    seconds=3,
    rows=["x-micro-gemm", "arch-goodput"],
    references=_REFERENCES,
)
def bf16(lab: Lab) -> Iterator[Sampled]:
    """Matrix products in BF16.

    What training and inference in BF16 can reach at most: cuBLAS on square matrices, hot, on random numbers. Healthy
    data-centre GPUs reach 73 to 87 % of the datasheet; the rest is power. Less than other GPUs of the same host means
    heat, a power cap, or a clock that somebody set.
    """
    yield from _measure(lab, "bf16")


@bench(
    id="gemm.fp16",
    scope=Scope.GPU,
    backend=Backend.TORCH,
    level=Level.STANDARD,
    seconds=6,
    rows=["x-micro-gemm"],
    references=_REFERENCES,
)
def fp16(lab: Lab) -> Iterator[Sampled]:
    """Matrix products in FP16.

    As gemm.bf16. The tensor cores do both at the same rate; a difference between the two is the library's.
    """
    yield from _measure(lab, "fp16")


@bench(
    id="gemm.tf32",
    scope=Scope.GPU,
    backend=Backend.TORCH,
    level=Level.STANDARD,
    seconds=8,
    rows=["x-micro-gemm"],
    references=_REFERENCES,
)
def tf32(lab: Lab) -> Iterator[Sampled]:
    """Matrix products of FP32 numbers in TF32.

    As gemm.bf16, at half of its peak. This is what torch does with FP32 where TF32 is allowed.
    """
    yield from _measure(lab, "tf32")


@bench(
    id="gemm.fp64",
    scope=Scope.GPU,
    backend=Backend.TORCH,
    level=Level.STANDARD,
    seconds=8,
    rows=["x-micro-gemm"],
    references=_REFERENCES,
)
def fp64(lab: Lab) -> Iterator[Sampled]:
    """Matrix products in FP64.

    A100, H100, H200 and B200 do them on tensor cores. B300 and cards without FP64 units have a sixty-fourth of that,
    which is no fault. Where a product takes too long, it is made smaller.
    """
    yield from _measure(lab, "fp64")


@bench(
    id="gemm.fp8",
    scope=Scope.GPU,
    backend=Backend.TORCH,
    level=Level.QUICK,
    seconds=3,
    rows=["x-micro-gemm", "prec-fp8-fp4"],
    references=_REFERENCES,
)
def fp8(lab: Lab) -> Iterator[Sampled]:
    """Matrix products in FP8 (E4M3) with one scale for each matrix.

    As gemm.bf16, at twice its peak; healthy GPUs reach 71 to 78 % of it. With fast accumulation, without which Hopper's
    tensor cores do not reach their peak.
    """
    yield from _measure(lab, "fp8")


@bench(
    id="gemm.fp8-rowwise",
    scope=Scope.GPU,
    backend=Backend.TORCH,
    level=Level.STANDARD,
    seconds=6,
    rows=["x-micro-gemm", "prec-fp8-fp4"],
    references=_REFERENCES,
)
def fp8_rowwise(lab: Lab) -> Iterator[Sampled]:
    """Matrix products in FP8 (E4M3) with a scale for each row and each column.

    As gemm.fp8. Some releases of torch take a kernel of CUTLASS for it in place of cuBLAS, which is slower.
    """
    yield from _measure(lab, "fp8-rowwise")


@bench(
    id="gemm.mxfp8",
    scope=Scope.GPU,
    backend=Backend.TORCH,
    level=Level.STANDARD,
    seconds=8,
    rows=["x-micro-gemm", "prec-fp8-fp4"],
    references=_REFERENCES,
)
def mxfp8(lab: Lab) -> Iterator[Sampled]:
    """Matrix products in MXFP8: E4M3 with a power of two for each 32 numbers.

    Needs the tensor cores of compute capability 10, which apply the scales themselves, at the rate of FP8.
    """
    yield from _measure(lab, "mxfp8")


@bench(
    id="gemm.nvfp4",
    scope=Scope.GPU,
    backend=Backend.TORCH,
    level=Level.STANDARD,
    seconds=8,
    rows=["x-micro-gemm", "prec-fp8-fp4"],
    references=_REFERENCES,
)
def nvfp4(lab: Lab) -> Iterator[Sampled]:
    """Matrix products in NVFP4: E2M1 with a scale in E4M3 for each 16 numbers.

    Needs the tensor cores of compute capability 10, at twice the rate of FP8 (10.3: three times).
    """
    yield from _measure(lab, "nvfp4")


def shapes(level: Level, sm_count: int) -> list[Shape]:
    """Return the shapes of a level, the two squares first.

    From `full` on others follow, of which the fastest is reported: besides further squares, such with a number of rows
    that spreads tiles of 128 x 256 evenly over the multiprocessors.
    """
    squares = [(SQUARE,) * 3] if level is Level.QUICK else [(SQUARE,) * 3, (LARGE,) * 3]
    if level < Level.FULL:
        return squares
    even = 64 * sm_count if sm_count else SQUARE
    return [
        *squares,
        (4096, 4096, 4096), (12288, 12288, 12288), (8192, 8192, 16384), (16384, 16384, 8192),
        (even, 8192, 8192), (even, 8192, 16384), (2 * even, 8192, 8192),
    ]  # fmt: skip


def _measure(lab: Lab, name: str) -> Iterator[Sampled]:
    import torch

    gpu = lab.gpu
    available(torch, gpu, name)
    device = torch.device("cuda", gpu.ordinal)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if name == "tf32" else precision)
    wanted = shapes(lab.level, gpu.sm_count)
    # The fastest of the others is measured once more.
    count = len(wanted) + (len(wanted) > 2)
    timer = _Timer(torch, device, lab, name, lab.seconds / count)
    try:
        with torch.cuda.device(device):
            squares, others = wanted[:2], wanted[2:]
            for shape in dict.fromkeys(timer.affordable(shape) for shape in squares):
                yield timer.sample(shape, str(shape[0]))
            searched = {shape: timer.sample(shape, " x ".join(map(str, shape)), watched=False) for shape in others}
            yield from (sampled for sampled in searched.values() if not sampled.verified)
            if searched:
                yield timer.sample(max(searched, key=lambda shape: fmean(searched[shape].samples)), "best shape")
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.cuda.empty_cache()


class _Timer:
    """Measures products of one format, one shape after the other."""

    def __init__(self, torch: Any, device: Any, lab: Lab, name: str, seconds: float) -> None:
        self.torch = torch
        self.device = device
        self.lab = lab
        self.form = FORMS[name]
        self.name = name
        self.seconds = seconds
        self.rate = 0.0

    def affordable(self, shape: Shape) -> Shape:
        """Return a shape, halved until it can be done often enough in the time."""
        if not self.rate:
            self.rate = _flops(PROBE) / min(self.run(self.problems(PROBE, sets=1), 4))
        while LEAST_SAMPLES * _flops(shape) / self.rate > 0.4 * self.seconds and shape > PROBE:
            m, n, k = shape
            shape = (m // 2, n // 2, k // 2)
        return shape

    def sample(self, shape: Shape, case: str, *, watched: bool = True) -> Sampled:
        problems = self.problems(shape)
        one = min(self.run(problems, 2 * len(problems)))
        self.heat(problems, one)
        # The rest of the time goes into making the inputs and into looking at the outputs.
        total = max(LEAST_SAMPLES, int(0.4 * self.seconds / one))
        each = math.ceil(total / MOST_SAMPLES)
        batches = total // each
        # In each part, each output is made at least once.
        parts = max(1, min(int(total * one / stretch(total * one)), batches // len(problems)))
        times: list[float] = []
        found: list[tuple[float, str]] = []
        for part in range(parts):
            for problem in problems:
                problem.out.fill_(math.nan)
            with self.lab.watch() if watched else nullcontext():
                times += self.run(problems, batches // parts + (part < batches % parts), each)
            found += [check(self.torch, problem, self.form.bound) for problem in problems]
        errors, wrong = zip(*found, strict=True)
        m, n, k = shape
        limit, source = _limit(self.lab.gpu, self.form)
        return Sampled(
            samples=tuple(each * _flops(shape) / seconds / 1e12 for seconds in times),
            unit="TFLOPS",
            case=case,
            # A GPU at its power limit swings its clock by a fifth, several times in a second. A job gets the mean.
            statistic="mean",
            limit=limit,
            limit_source=source,
            ceiling=_ceiling(self.lab.gpu, self.form, limit),
            settings={
                "m": m, "n": n, "k": k, "input": f"random normal, seed {SEED}", "sets": len(problems),
                "output": self.form.output,
            },
            details={"flops": _flops(shape) * each * len(times), "error": max(errors), "bound": self.form.bound},
            verified=not any(wrong),
            invalid=next(filter(None, wrong), ""),
        )  # fmt: skip

    def heat(self, problems: Sequence[Problem], one: float) -> None:
        """Multiply until the rate holds still: a cold GPU is faster, and one that meets its power limit swings."""
        begun, before = time.monotonic(), math.inf
        while (spent := time.monotonic() - begun) < 0.4 * self.seconds:
            (pace,) = self.run(problems, 1, max(1, round(_PIECE / one)))
            if spent > 0.2 * self.seconds and abs(pace / before - 1) < _STILL:
                break
            before = pace

    def problems(self, shape: Shape, sets: int = SETS) -> list[Problem]:
        """Make sets of inputs, fewer where the memory does not hold more.

        Raises:
            HostcheckError: it does not even hold one.
        """
        need = _bytes(shape, self.form)
        self.torch.cuda.empty_cache()
        free, total = self.torch.cuda.mem_get_info(self.device)
        sets = min(sets, int(free * 0.9 / need))
        if not sets:
            size, have = " x ".join(map(str, shape)), f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB"
            raise HostcheckError(
                f"a product of {size} in {self.name} needs {need / 2**30:.1f} GiB of GPU memory; {have} are free: "
                "nvidia-smi shows what runs there"
            )
        return [self.form.make(self.torch, self.device, shape, SEED + number) for number in range(sets)]

    def run(self, problems: Sequence[Problem], count: int, each: int = 1) -> list[float]:
        """Multiply `count` times `each` times, the sets taking turns, and return the seconds of each `each`; waits."""
        marks = [self.torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        marks[0].record()
        for number in range(count * each):
            problems[number % len(problems)].multiply()
            if number % each == each - 1:
                marks[number // each + 1].record()
        self.torch.cuda.synchronize()
        return [first.elapsed_time(second) / 1e3 for first, second in pairwise(marks)]


def check(torch: Any, problem: Problem, bound: float) -> tuple[float, str]:
    """Hold an output against the product of the same numbers in FP64.

    Sampled rows tell how exact it is. The sums of strips of all columns tell whether any element is off: in BF16, by
    half of an element's typical size or more. What was FP64 already is, besides, summed up exactly on the CPU.

    Returns:
        The relative error of the sampled rows, and what is wrong with the output, "" where nothing is.
    """
    out = problem.out
    m, n = out.shape
    draw = torch.Generator().manual_seed(SEED)
    rows = torch.randperm(m, generator=draw)[:_SAMPLED_ROWS].to(out.device)
    strips = [slice(at, at + _STRIP) for at in range(0, m, _STRIP)]
    left = torch.cat([problem.left(rows), *(problem.left(strip).sum(0, keepdim=True) for strip in strips)])
    product = torch.cat([left @ problem.right(slice(at, at + _STRIP)) for at in range(0, n, _STRIP)], dim=1)
    sampled, sums = product[: len(rows)], product[len(rows) :]
    found = torch.stack([out[strip].double().sum(0) for strip in strips])
    error = float((out[rows].double() - sampled).norm() / sampled.norm())
    if not error <= bound:
        return error, f"the output is wrong: {error:.1e} from the product in FP64, allowed are {bound:.0e}"
    worst = float((found - sums).abs().amax() / sums.square().mean().sqrt())
    if not worst <= 8 * max(error, 1e-14):
        return error, f"the output is wrong in places: the sum of a column is {worst:.1e} off"
    if out.dtype == torch.float64:
        exact = _exact_error(torch, problem, draw)
        if not exact <= bound:
            return exact, f"the output is wrong: {exact:.1e} from the exact sums, allowed are {bound:.0e}"
    return error, ""


def _exact_error(torch: Any, problem: Problem, draw: Any) -> float:
    """Return how far sampled elements are from sums without rounding, over the norm of these."""
    m, n = problem.out.shape
    rows, columns = (torch.randint(0, size, (_SAMPLED_ELEMENTS,), generator=draw) for size in (m, n))
    left = problem.left(rows.to(problem.out.device)).cpu().tolist()
    right = problem.right(columns.to(problem.out.device)).t().cpu().tolist()
    exact = [math.fsum(a * b for a, b in zip(*pair, strict=True)) for pair in zip(left, right, strict=True)]
    found = problem.out[rows.to(problem.out.device), columns.to(problem.out.device)].cpu().tolist()
    return math.dist(found, exact) / math.hypot(*exact)


def _limit(gpu: BenchGpu, form: Form) -> tuple[float | None, str]:
    if gpu.model is not None:
        for rate in form.rates:
            if rate in gpu.model.dense:
                sums, figure = "", gpu.model.dense[rate]
                if form.block_scaled and rate in gpu.model.dense_fp16_accumulate:
                    sums, figure = " (sums in FP16)", gpu.model.dense_fp16_accumulate[rate]
                return figure, f"{gpu.model.id}: {rate}, dense{sums}, of the datasheet"
    return None, ""


def _ceiling(gpu: BenchGpu, form: Form, limit: float | None) -> float | None:
    """Return what no product can pass; None where the datasheet is all that is known.

    The datasheet counts at a clock below the maximum: an RTX 5090 gave 224 TFLOPS in BF16, of 209.5. On GeForce it
    counts sums in FP32 at half the rate of those in FP16; products with scaled blocks went at the full one, 737 TFLOPS
    in MXFP8 (https://main-horse.github.io/posts/5090-mm-perf).
    """
    model, clock = gpu.model, gpu.sm_max_mhz
    if model is None or limit is None or not clock:
        return None
    rate = next(rate for rate in form.rates if rate in model.dense)
    per_clock = table().rates(model).get(rate, 0)
    faster = max(1.0, model.dense_fp16_accumulate.get(rate, 0.0) / model.dense[rate])
    return max(limit, gpu.sm_count * clock * per_clock / 1e6 * faster)


def _flops(shape: Shape) -> float:
    m, n, k = shape
    return 2.0 * m * n * k


def _bytes(shape: Shape, form: Form) -> float:
    """Return what one set takes while it is made: factors that are quantised are there as FP32 first."""
    m, n, k = shape
    factor, output = form.bytes
    return (m + n) * k * (factor + (8 if factor < 2 else 0)) + m * n * output
