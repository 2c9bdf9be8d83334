"""What tests have a Python with torch do, on the CPU: `python torch_cases.py CASE ...` prints one line of JSON."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from hostcheck.bench.collective import Ranks
from hostcheck.microbench import gemm, gemm_forms

SHAPE = (1280, 192, 256)
"""More rows than one strip of the check."""


def product(name: str) -> dict[str, Any]:
    """Multiply in a format, and judge the output as it is and with one element wrong."""
    form = gemm_forms.FORMS[name]
    problem = form.make(torch, torch.device("cpu"), SHAPE, gemm_forms.SEED)
    unwritten = gemm.check(torch, problem, form.bound)[1]
    if name in ("mxfp8", "nvfp4"):
        # No CPU multiplies these; the library's part is done in FP64 and rounded as it would be.
        problem.out.copy_(problem.left(slice(None)) @ problem.right(slice(None)))
    else:
        problem.multiply()
    error, wrong = gemm.check(torch, problem, form.bound)
    row, column = 1100, 77
    kept = problem.out[row, column].clone()
    problem.out[row, column] += 2 * math.sqrt(SHAPE[2]) * (200000 if name == "nvfp4" else 1)
    spoilt = gemm.check(torch, problem, form.bound)[1]
    problem.out[row, column] = kept
    problem.out[:, column] = problem.out[:, column - 1]
    swapped = gemm.check(torch, problem, form.bound)[1]
    left, right = problem.left(slice(None)), problem.right(slice(None))
    return {
        "error": error,
        "bound": form.bound,
        "wrong": wrong,
        "unwritten": unwritten,
        "spoilt": spoilt,
        "swapped": swapped,
        "means": [float(left.mean() / left.std()), float(right.mean() / right.std())],
        "distinct": len(left.unique()),
    }


def scaled(name: str) -> dict[str, Any]:
    """Look at what a block-scaled format hands to torch."""
    kept: dict[str, Any] = {}

    def multiply(a: Any, b: Any, **options: Any) -> None:
        kept.update(
            a=[str(a.dtype), *a.shape],
            b=[str(b.dtype), *b.shape, b.stride(0)],
            scale_a=[str(options["scale_a"].dtype), options["scale_a"].numel()],
            scale_b=[str(options["scale_b"].dtype), options["scale_b"].numel()],
            out=[str(options["out"].dtype), *options["out"].shape],
        )

    real, torch._scaled_mm = torch._scaled_mm, multiply
    try:
        gemm_forms.FORMS[name].make(torch, torch.device("cpu"), (300, 192, 256), 1).multiply()
    finally:
        torch._scaled_mm = real
    return kept


def spoilt_ranks() -> dict[str, Any]:
    """Measure with the last three elements changed on rank 1 after each batch."""
    ranks = Ranks("gloo", 0, 120)
    from hostcheck.bench import collective

    class Spoilt(collective._Work):
        def wrong(self, times: int) -> int:
            if self.ranks.rank == 1:
                self.target[-3:] *= 1.5
            return super().wrong(times)

    real, collective._Work = collective._Work, Spoilt  # type: ignore[misc]
    found = {operation: ranks.measure(operation, 100_000, 0.05)["wrong"] for operation in collective.FACTORS}
    collective._Work = real  # type: ignore[misc]
    return found


def whole() -> dict[str, Any]:
    """Measure for all of a time that is more than 50 batches take on a machine that is not busy."""
    ranks = Ranks("gloo", 0, 120)
    begun = time.monotonic()
    found = ranks.measure("all-reduce", 400, 5.0, whole=True)
    return {"took": time.monotonic() - begun, "samples": len(found["seconds"]), "wrong": found["wrong"]}


CASES: dict[str, Callable[..., Any]] = {
    "product": product,
    "scaled": scaled,
    "spoilt-ranks": spoilt_ranks,
    "whole": whole,
}

if __name__ == "__main__":
    print(json.dumps(CASES[sys.argv[1]](*sys.argv[2:])))
