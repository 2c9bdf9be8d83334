"""Narrow number formats with block scales: MXFP8, MXFP6 and NVFP4 quantisers, and the order in which GPUs want scales.

Everything is numpy on the CPU and exact: values are rounded to nearest, ties to even, as if with infinite precision,
and what does not fit is the largest number of that sign. The formats are those of the OCP Microscaling specification
1.0; NVFP4 is NVIDIA's: blocks of 16 with a scale in E4M3, and one scale in FP32 for all.

A block that holds a NaN or an infinity gets a scale that is NaN, so that no product with it can pass for a number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

Array: TypeAlias = Any  # numpy.ndarray; numpy is imported only where it is used

MX_BLOCK = 32
NV_BLOCK = 16
E8M0_BIAS = 127
E8M0_NAN = 0xFF
TILE_ROWS, TILE_COLUMNS = 128, 4
"""The scales of this many rows and blocks lie together: 512 bytes."""


@dataclass(frozen=True)
class Narrow:
    """A floating-point format of at most 8 bits: sign, exponent, mantissa.

    Attributes:
        exponent, mantissa: bits of each.
        bias: of the exponent.
        nan: the code of NaN, 0 where the format has none. Its negative is NaN too. No code is infinite.
    """

    name: str
    exponent: int
    mantissa: int
    bias: int
    nan: int = 0

    @property
    def sign(self) -> int:
        """The bit of the sign."""
        return 1 << (self.exponent + self.mantissa)

    @property
    def most(self) -> float:
        """The largest number."""
        return float(self.magnitudes()[-1])

    @cache  # noqa: B019 - the formats below live as long as the module
    def magnitudes(self) -> Array:
        """Return the numbers without sign in order of their codes, which is ascending order; float64."""
        import numpy as np

        codes = np.arange(self.nan or self.sign)
        power, fraction = codes >> self.mantissa, codes & ((1 << self.mantissa) - 1)
        steps = np.where(power == 0, fraction, fraction + (1 << self.mantissa))
        return np.ldexp(steps.astype(np.float64), np.maximum(power, 1) - self.bias - self.mantissa)

    @cache  # noqa: B019
    def values(self) -> Array:
        """Return the number of each code; float64."""
        import numpy as np

        half = np.full(self.sign, np.nan)
        half[: self.nan or self.sign] = self.magnitudes()
        return np.concatenate([half, -half])

    def encode(self, numbers: Array) -> Array:
        """Return the codes of numbers (any float type), rounded; what is too large saturates; uint8.

        Raises:
            ValueError: a number is NaN and the format has no code for it.
        """
        import numpy as np

        numbers = np.asarray(numbers, dtype=np.float64)
        absent = np.isnan(numbers)
        if not self.nan and absent.any():
            raise ValueError(f"{self.name} has no NaN")
        known = self.magnitudes()
        # A number on a midpoint stays with the lower code here and goes to the even one of the two below.
        middles = (known[1:] + known[:-1]) / 2
        sizes = np.abs(np.where(absent, 0.0, numbers))
        codes: Array = np.searchsorted(middles, sizes, side="left")
        tied = sizes == np.append(middles, np.inf)[codes]
        codes = codes + (tied & np.isfinite(sizes) & (codes & 1 == 1))
        codes = np.where(absent, self.nan, codes) | np.where(np.signbit(numbers), self.sign, 0)
        return codes.astype(np.uint8)

    def decode(self, codes: Array) -> Array:
        """Return the numbers of codes; float64."""
        return self.values()[codes]


E2M1 = Narrow("E2M1", 2, 1, 1)
E2M3 = Narrow("E2M3", 2, 3, 1)
E3M2 = Narrow("E3M2", 3, 2, 3)
E4M3 = Narrow("E4M3", 4, 3, 7, nan=0x7F)


def decode_e8m0(codes: Array) -> Array:
    """Return the powers of two that codes stand for; float64."""
    import numpy as np

    codes = np.asarray(codes)
    return np.where(codes == E8M0_NAN, np.nan, np.ldexp(1.0, codes.astype(np.int32) - E8M0_BIAS))


def quantize_mx(numbers: Array, form: Narrow = E4M3) -> tuple[Array, Array]:
    """Quantise with one power of two for each 32 numbers of a row, as OCP's specification does (its section 6.3).

    The scale is the highest power of two in the block over the highest in the format. The largest number of a block may
    thus come out above the largest of the format, such as up to 512 where E4M3 ends at 448; it saturates. A block of
    zeros has the scale 1.

    Args:
        numbers: float32, rows x columns; columns in whole blocks.
        form: of the elements.

    Returns:
        Codes, one byte each, rows x columns; scales in E8M0, rows x (columns / 32).
    """
    import numpy as np

    blocks = _blocks(numbers, MX_BLOCK)
    largest = np.abs(blocks).max(axis=2)
    finite = np.isfinite(largest)
    # frexp counts from 0.5: 8 is 0.5 x 2^4, and its power is 3.
    power = np.frexp(np.where(finite, largest, 0.0))[1] - np.frexp(form.most)[1]
    power = np.where(largest == 0, 0, np.clip(power, -E8M0_BIAS, E8M0_BIAS))
    codes = form.encode(np.where(finite[..., None], np.ldexp(blocks, -power[..., None]), 0.0))
    scales = np.where(finite, power + E8M0_BIAS, E8M0_NAN).astype(np.uint8)
    return codes.reshape(numbers.shape), scales


def dequantize_mx(codes: Array, scales: Array, form: Narrow = E4M3) -> Array:
    """Return the numbers that `quantize_mx` made; float64."""
    return (_blocks(form.decode(codes), MX_BLOCK) * decode_e8m0(scales)[..., None]).reshape(codes.shape)


def quantize_nvfp4(numbers: Array) -> tuple[Array, Array, float]:
    """Quantise to E2M1 with a scale in E4M3 for each 16 numbers of a row, and one in FP32 for all.

    The scale for all is chosen so that the largest block scale is the largest E4M3. Zeros alone have the scale 1.

    Args:
        numbers: float32, rows x columns; columns in whole blocks.

    Returns:
        Codes, two in a byte, the first in its lower half, rows x (columns / 2); block scales in E4M3,
        rows x (columns / 16); the scale for all, exact in FP32.
    """
    import numpy as np

    blocks = _blocks(numbers, NV_BLOCK)
    largest = np.abs(blocks).max(axis=2)
    finite = np.isfinite(largest)
    most = largest[finite].max(initial=0.0)
    whole = float(np.float32(most / (E2M1.most * E4M3.most))) or 1.0
    scales = E4M3.encode(np.where(finite, largest / (E2M1.most * whole), np.nan))
    steps = np.where(finite, E4M3.decode(scales), 0.0)[..., None] * whole
    scaled = np.divide(blocks, steps, out=np.copysign(0.0, blocks), where=steps != 0)
    codes = E2M1.encode(scaled).reshape(numbers.shape)
    return pack_e2m1(codes), scales, whole


def dequantize_nvfp4(packed: Array, scales: Array, whole: float) -> Array:
    """Return the numbers that `quantize_nvfp4` made; float64."""
    codes = unpack_e2m1(packed)
    steps = E4M3.decode(scales)[..., None] * whole
    return (_blocks(E2M1.decode(codes), NV_BLOCK) * steps).reshape(codes.shape)


def pack_e2m1(codes: Array) -> Array:
    """Put two codes of 4 bits into a byte, the first into its lower half."""
    import numpy as np

    return (codes[..., 0::2] | (codes[..., 1::2] << 4)).astype(np.uint8)


def unpack_e2m1(packed: Array) -> Array:
    """Undo `pack_e2m1`."""
    import numpy as np

    return np.stack([packed & 0xF, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def swizzle(scales: Array) -> Array:
    """Return scales in the order that tensor cores of compute capability 10 read them (SWIZZLE_32_4_4); flat.

    cuBLAS calls it the 1D block scaling factors layout. The matrix is filled up with zeros to whole tiles of 128 rows
    and 4 blocks. Tiles of the same rows follow each other. Within one, rows 32 apart lie side by side: the scale of row
    r and block c is at (r % 32) * 16 + (r // 32) * 4 + c.
    """
    import numpy as np

    rows, columns = scales.shape
    down, across = -(-rows // TILE_ROWS), -(-columns // TILE_COLUMNS)
    filled = np.zeros((down * TILE_ROWS, across * TILE_COLUMNS), dtype=scales.dtype)
    filled[:rows, :columns] = scales
    tiles = filled.reshape(down, TILE_ROWS // 32, 32, across, TILE_COLUMNS)
    return np.ascontiguousarray(tiles.transpose(0, 3, 2, 1, 4)).reshape(-1)


def unswizzle(flat: Array, rows: int, columns: int) -> Array:
    """Undo `swizzle`."""
    down, across = -(-rows // TILE_ROWS), -(-columns // TILE_COLUMNS)
    tiles = flat.reshape(down, across, 32, TILE_ROWS // 32, TILE_COLUMNS).transpose(0, 3, 2, 1, 4)
    return tiles.reshape(down * TILE_ROWS, across * TILE_COLUMNS)[:rows, :columns]


def _blocks(numbers: Array, size: int) -> Array:
    """Return numbers in float64 as rows x blocks x size."""
    import numpy as np

    rows, columns = numbers.shape
    if columns % size:
        raise ValueError(f"{columns} columns are no whole blocks of {size}")
    return np.asarray(numbers, dtype=np.float64).reshape(rows, columns // size, size)
