"""Copies while the tensor cores compute: how much of the shorter one is hidden behind the other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median
from typing import Any

from hostcheck.bench.lab import Lab
from hostcheck.bench.model import Backend, Level, Sampled, Scope
from hostcheck.registry import bench

from . import gemm, gemm_forms
from .repeat import is_whole

SIZE = 512 << 20
"""Bytes of a copy: some 10 ms over PCIe 5."""
_SHAPE = (gemm.SQUARE,) * 3
_LEAST_ROUNDS = 5
_MOST_ROUNDS = 50


@bench(
    id="overlap.copy",
    scope=Scope.GPU,
    backend=Backend.TORCH,
    level=Level.STANDARD,
    seconds=4,
    rows=["cuda-overlap", "io-overlap-transfer", "mind-stage-overlap"],
)
def copy(lab: Lab) -> Iterator[Sampled]:
    """Share of a copy over PCIe that is hidden behind matrix products.

    A copy from or to pinned memory, BF16 products that take as long, and both at once, in turns; 100 % where both at
    once take no longer than one alone. What input pipelines and offloading rest on. Much less means that copies wait
    for products: there is one queue for both (CUDA_DEVICE_MAX_CONNECTIONS=1), or the copy engine is not used.
    """
    import torch

    gemm_forms.available(torch, lab.gpu, "bf16")
    device = torch.device("cuda", lab.gpu.ordinal)
    with torch.cuda.device(device):
        try:
            cases = [case for case in ("H2D", "D2H") if lab.wants(case)]
            for case in cases:
                yield _sample(torch, device, lab, case, lab.seconds / len(cases))
        finally:
            torch.cuda.empty_cache()


def _sample(torch: Any, device: Any, lab: Lab, case: str, seconds: float) -> Sampled:
    form = gemm_forms.FORMS["bf16"]
    problem = form.make(torch, device, _SHAPE, gemm_forms.SEED)
    draw = torch.Generator(device).manual_seed(gemm_forms.SEED)
    source = torch.randint(-(2**62), 2**62, (SIZE // 8,), dtype=torch.int64, device=device, generator=draw)
    target = torch.empty_like(source)
    host = torch.empty(SIZE // 8, dtype=torch.int64, pin_memory=True)
    host.copy_(source)
    aside = torch.cuda.Stream(device)

    def move() -> None:
        if case == "H2D":
            target.copy_(host, non_blocking=True)
        else:
            host.copy_(source, non_blocking=True)

    def run(products: int, copies: int) -> float:
        """Return the seconds of products on one stream and copies on another, begun together."""
        begin, copied, end = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        begin.record()
        aside.wait_event(begin)
        with torch.cuda.stream(aside):
            for _ in range(copies):
                move()
            copied.record()
        for _ in range(products):
            problem.multiply()
        torch.cuda.current_stream().wait_event(copied)
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    for _ in range(2):
        one, product = run(0, 1), run(10, 0) / 10
    products = max(1, round(one / product))
    rounds = max(_LEAST_ROUNDS, int(seconds / 2 / (3 * one)))
    if not is_whole(lab):
        rounds = min(_MOST_ROUNDS, rounds)
    problem.out.fill_(math.nan)
    (target if case == "H2D" else host).fill_(0)
    samples = []
    alone: list[tuple[float, float, float]] = []
    with lab.watch():
        for _ in range(rounds):
            alone.append((run(products, 0), run(0, 1), run(products, 1)))
            samples.append(100 * hidden(*alone[-1]))
    error, wrong = gemm.check(torch, problem, form.bound)
    same = bool(torch.equal(target, source)) if case == "H2D" else bool(torch.equal(host, source.cpu()))
    computing, copying, both = (median(times) for times in zip(*alone, strict=True))
    return Sampled(
        samples=tuple(samples),
        unit="%",
        case=case,
        limit=100.0,
        limit_source="all of the shorter one",
        settings={"bytes": SIZE, "m, n, k": gemm.SQUARE, "input": f"random, seed {gemm_forms.SEED}"},
        details={
            "products": products,
            "copy, GB/s": SIZE / copying / 1e9,
            "products, seconds": computing,
            "copy, seconds": copying,
            "both, seconds": both,
            "error": error,
        },
        verified=same and not wrong,
        invalid=wrong or ("" if same else "the copy differs from its source"),
    )


def hidden(first: float, second: float, both: float) -> float:
    """Return which share of the shorter of two is hidden when both run at once: 0 one after the other, at most 1."""
    return min(1.0, max(0.0, (first + second - both) / min(first, second)))
