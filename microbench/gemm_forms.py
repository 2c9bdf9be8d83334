"""Factors of matrix products in each number format that torch multiplies, and the exact numbers that they stand for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from hostcheck.bench.lab import BenchGpu
from hostcheck.errors import HostcheckError, NotApplicable

from . import scaled_formats

Tensor: TypeAlias = Any  # torch.Tensor; torch is imported only where it is used
Shape: TypeAlias = tuple[int, int, int]
"""m, n, k: an m x k matrix times a k x n matrix."""

SEED = 20
_DISTINCT_ROWS = 256
"""Rows that are quantised on the CPU; larger matrices repeat them in random order."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One set of inputs with its output.

    Attributes:
        multiply: queues the product, which writes all of `out`.
        out: m x n.
        left, right: give some rows of the first factor, and some columns of the second, in FP64 on the GPU: exactly
            the numbers that are multiplied.
    """

    multiply: Callable[[], object]
    out: Tensor
    left: Callable[[Any], Tensor]
    right: Callable[[Any], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A number format, as torch multiplies it.

    Attributes:
        rates: the formats of the table of GPU models whose peak holds for it, the first that is known.
        least: the compute capability from which on GPUs have it.
        make: makes a set of inputs from torch, a device, a shape and a seed.
        bound: how far sampled rows may be from the reference: norm of the difference over norm of the reference.
        output: format of what comes out.
        bytes: of one element of a factor and of the output.
    """

    rates: tuple[str, ...]
    least: tuple[int, int]
    make: Callable[[Any, Any, Shape, int], Problem]
    bound: float
    output: str
    bytes: tuple[float, int]

    @property
    def block_scaled(self) -> bool:
        """Whether each block of numbers has a factor of its own, as tensor cores take them from 10.0 on."""
        return self.least >= (10, 0)


def _plain(kind: str) -> Callable[[Any, Any, Shape, int], Problem]:
    """Return what makes factors of a type that torch multiplies as it is."""

    def make(torch: Any, device: Any, shape: Shape, seed: int) -> Problem:
        m, n, k = shape
        draw = torch.Generator(device).manual_seed(seed)
        kind_of = getattr(torch, kind)
        a = torch.randn((m, k), generator=draw, device=device, dtype=kind_of)
        b = torch.randn((k, n), generator=draw, device=device, dtype=kind_of)
        out = torch.full((m, n), math.nan, device=device, dtype=kind_of)
        return Problem(
            lambda: torch.mm(a, b, out=out), out, lambda rows: a[rows].double(), lambda columns: b[:, columns].double()
        )

    return make


def _fp8(by_row: bool) -> Callable[[Any, Any, Shape, int], Problem]:
    """Return what makes factors in E4M3, with one scale in FP32 for all or for each row and column."""

    def make(torch: Any, device: Any, shape: Shape, seed: int) -> Problem:
        m, n, k = shape
        draw = torch.Generator(device).manual_seed(seed)

        def quantised(count: int) -> tuple[Tensor, Tensor]:
            numbers = torch.randn((count, k), generator=draw, device=device)
            largest = numbers.abs().amax(dim=1, keepdim=True) if by_row else numbers.abs().amax()
            scale = largest / scaled_formats.E4M3.most
            return (numbers / scale).clamp(-448, 448).to(torch.float8_e4m3fn), scale

        a, scale_a = quantised(m)
        b, scale_b = quantised(n)
        out = torch.full((m, n), math.nan, device=device, dtype=torch.bfloat16)
        scales = {"scale_a": scale_a, "scale_b": scale_b.t() if by_row else scale_b}

        def left(rows: Any) -> Tensor:
            return a[rows].double() * (scale_a[rows] if by_row else scale_a).double()

        def right(columns: Any) -> Tensor:
            return (b[columns].double() * (scale_b[columns] if by_row else scale_b).double()).t()

        return Problem(
            lambda: torch._scaled_mm(
                a, b.t(), **scales, out_dtype=torch.bfloat16, use_fast_accum=device.type == "cuda", out=out
            ),
            out,
            left,
            right,
        )

    return make


def _block_scaled(form: str) -> Callable[[Any, Any, Shape, int], Problem]:
    """Return what makes factors with a scale for each block, in the order in which tensor cores want the scales."""

    def make(torch: Any, device: Any, shape: Shape, seed: int) -> Problem:
        m, n, k = shape
        a, scale_a, exact_a = _quantised(torch, device, (m, k), form, 0, seed)
        b, scale_b, exact_b = _quantised(torch, device, (n, k), form, 1, seed)
        out = torch.full((m, n), math.nan, device=device, dtype=torch.bfloat16)
        return Problem(
            lambda: torch._scaled_mm(a, b.t(), scale_a=scale_a, scale_b=scale_b, out_dtype=torch.bfloat16, out=out),
            out,
            exact_a,
            lambda columns: exact_b(columns).t(),
        )

    return make


def _quantised(
    torch: Any, device: Any, size: tuple[int, int], form: str, side: int, seed: int
) -> tuple[Tensor, Tensor, Callable[[Any], Tensor]]:
    """Return a matrix in a block-scaled format, its scales, and what gives some of its rows in FP64.

    The scale for all of NVFP4 is left out on both sides: it is a factor of the whole product.
    """
    import numpy as np

    rows, k = size
    codes, scales, exact = _distinct(form, k, side)
    kinds = ("float8_e4m3fn", "float8_e8m0fnu") if form == "mxfp8" else ("float4_e2m1fn_x2", "float8_e4m3fn")
    kind, kind_of_scale = (getattr(torch, name) for name in kinds)
    order = np.random.default_rng((seed, side)).permutation(rows) % len(codes)
    place = torch.from_numpy(order).to(device)
    matrix = torch.from_numpy(codes).to(device)[place].view(kind)
    flat = torch.from_numpy(scaled_formats.swizzle(scales[order])).to(device).view(kind_of_scale)
    known = torch.from_numpy(exact).to(device)
    return matrix, flat, lambda chosen: known[place[chosen]]


@cache
def _distinct(form: str, k: int, side: int) -> tuple[Any, Any, Any]:
    """Return rows of random normal numbers in a block-scaled format: codes, scales, and the numbers they stand for."""
    import numpy as np

    numbers = np.random.default_rng((SEED, side)).standard_normal((_DISTINCT_ROWS, k), dtype=np.float32)
    if form == "mxfp8":
        codes, scales = scaled_formats.quantize_mx(numbers)
        return codes, scales, scaled_formats.dequantize_mx(codes, scales)
    codes, scales, _ = scaled_formats.quantize_nvfp4(numbers)
    return codes, scales, scaled_formats.dequantize_nvfp4(codes, scales, 1.0)


FORMS = {
    "bf16": Form(
        rates=("bf16",), least=(8, 0), make=_plain("bfloat16"), bound=4e-3, output="bf16", bytes=(2, 2)
    ),
    "fp16": Form(rates=("fp16",), least=(7, 0), make=_plain("float16"), bound=1e-3, output="fp16", bytes=(2, 2)),
    "tf32": Form(rates=("tf32",), least=(8, 0), make=_plain("float32"), bound=1e-3, output="fp32", bytes=(4, 4)),
    "fp64": Form(
        rates=("fp64_tensor", "fp64"), least=(6, 0), make=_plain("float64"), bound=1e-13, output="fp64", bytes=(8, 8)
    ),
    "fp8": Form(rates=("fp8",), least=(8, 9), make=_fp8(by_row=False), bound=1e-2, output="bf16", bytes=(1, 2)),
    "fp8-rowwise": Form(
        rates=("fp8",), least=(8, 9), make=_fp8(by_row=True), bound=1e-2, output="bf16", bytes=(1, 2)
    ),
    "mxfp8": Form(
        rates=("fp8",), least=(10, 0), make=_block_scaled("mxfp8"), bound=4e-3, output="bf16", bytes=(1, 2)
    ),
    "nvfp4": Form(
        rates=("fp4",), least=(10, 0), make=_block_scaled("nvfp4"), bound=4e-3, output="bf16", bytes=(0.5, 2)
    ),
}  # fmt: skip
_TYPES = {
    "fp8": "float8_e4m3fn",
    "fp8-rowwise": "float8_e4m3fn",
    "mxfp8": "float8_e8m0fnu",
    "nvfp4": "float4_e2m1fn_x2",
}
"""What torch must know for a format."""


def available(torch: Any, gpu: BenchGpu, name: str) -> None:
    """Make sure that a format can be measured.

    Raises:
        NotApplicable: the GPU has no such units.
        HostcheckError: torch is too old, or sees no GPU.
    """
    form = FORMS[name]
    if gpu.cc < form.least:
        have, least = (".".join(map(str, cc)) for cc in (gpu.cc, form.least))
        raise NotApplicable(f"{gpu.name} has compute capability {have}; its tensor cores have no {name} before {least}")
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"built for CUDA {built}, but cannot use the driver" if built else "built without CUDA"
        raise HostcheckError(
            f"torch {torch.__version__} is {why}: pip install torch, for the CUDA that nvidia-smi shows"
        )
    if name in _TYPES and not (hasattr(torch, _TYPES[name]) and hasattr(torch, "_scaled_mm")):
        raise HostcheckError(f"torch {torch.__version__} has no {_TYPES[name]}: a newer torch does {name}")
