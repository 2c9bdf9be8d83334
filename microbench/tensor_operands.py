"""Operands of the tensor-pipe chains: random numbers in each format, in the order in which each instruction reads them.

A matrix is rows x columns, the columns being what is summed over. `raw` holds each row's numbers as the GPU knows
them, one after the other; the functions below reorder whole rows of bytes and know nothing of formats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from . import scaled_formats

Array: TypeAlias = Any  # numpy.ndarray; numpy is imported only where it is used

CHUNK = 16
"""Bytes of a row that lie together in shared memory."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix as the GPU gets it, and what it means.

    Attributes:
        raw: bytes, rows x bytes of a row.
        values: its numbers with their scales, float64 (int64 for whole numbers).
        scales: codes of the block scales, rows x blocks; None where the format has none.
    """

    raw: Array
    values: Array
    scales: Array | None = None


def draw(name: str, rows: int, columns: int, seed: int) -> Matrix:
    """Return a random matrix in a format: normal numbers, or whole ones of all values; equal for equal seeds."""
    import numpy as np

    return FORMATS[name](np.random.default_rng(seed), rows, columns)


def _bf16(random: Any, rows: int, columns: int) -> Matrix:
    codes = _rounded(random.standard_normal((rows, columns)), 16)
    return Matrix(_bytes((codes >> 16).astype("<u2")), _as_float(codes))


def _fp16(random: Any, rows: int, columns: int) -> Matrix:
    numbers = random.standard_normal((rows, columns)).astype("<f2")
    return Matrix(_bytes(numbers), numbers.astype("f8"))


def _tf32(random: Any, rows: int, columns: int) -> Matrix:
    codes = _rounded(random.standard_normal((rows, columns)), 13)
    return Matrix(_bytes(codes.astype("<u4")), _as_float(codes))


def _fp64(random: Any, rows: int, columns: int) -> Matrix:
    numbers = random.standard_normal((rows, columns)).astype("<f8")
    return Matrix(_bytes(numbers), numbers)


def _int8(random: Any, rows: int, columns: int) -> Matrix:
    numbers = random.integers(-128, 128, (rows, columns)).astype("i1")
    return Matrix(_bytes(numbers), numbers.astype("i8"))


def _fp8(random: Any, rows: int, columns: int) -> Matrix:
    codes = scaled_formats.E4M3.encode(random.standard_normal((rows, columns)))
    return Matrix(codes, scaled_formats.E4M3.decode(codes))


def _fp6(random: Any, rows: int, columns: int) -> Matrix:
    codes = scaled_formats.E2M3.encode(random.standard_normal((rows, columns)))
    return Matrix(_sixteen_of_six(codes), scaled_formats.E2M3.decode(codes))


def _mxfp8(random: Any, rows: int, columns: int) -> Matrix:
    codes, scales = scaled_formats.quantize_mx(_uneven(random, rows, columns, scaled_formats.MX_BLOCK))
    return Matrix(codes, scaled_formats.dequantize_mx(codes, scales), scales)


def _nvfp4(random: Any, rows: int, columns: int) -> Matrix:
    packed, scales, _ = scaled_formats.quantize_nvfp4(_uneven(random, rows, columns, scaled_formats.NV_BLOCK))
    # The scale for all is no affair of the matrix instruction.
    return Matrix(packed, scaled_formats.dequantize_nvfp4(packed, scales, 1.0), scales)


FORMATS: dict[str, Callable[[Any, int, int], Matrix]] = {
    "bf16": _bf16, "fp16": _fp16, "tf32": _tf32, "fp64": _fp64, "int8": _int8, "fp8": _fp8, "fp6": _fp6,
    "mxfp8": _mxfp8, "nvfp4": _nvfp4,
}  # fmt: skip


def _rounded(numbers: Array, dropped: int) -> Array:
    """Return the codes of FP32 numbers whose last bits are rounded away, to nearest, ties to even; uint32."""
    import numpy as np

    codes = numbers.astype("<f4").view("<u4").astype(np.uint64)
    half = (1 << (dropped - 1)) - 1 + ((codes >> dropped) & 1)
    return ((codes + half) >> dropped << dropped).astype("<u4")


def _as_float(codes: Array) -> Array:
    return codes.view("<f4").astype("f8")


def _bytes(numbers: Array) -> Array:
    import numpy as np

    return np.ascontiguousarray(numbers).view(np.uint8)


def _uneven(random: Any, rows: int, columns: int, block: int) -> Array:
    """Return numbers whose blocks are of different sizes, so that a scale in the wrong place shows."""
    import numpy as np

    sizes = np.exp2(random.integers(-3, 4, (rows, columns // block))).repeat(block, axis=1)
    return (random.standard_normal((rows, columns)) * sizes).astype("f4")


def _sixteen_of_six(codes: Array) -> Array:
    """Put 16 codes of 6 bits into 12 bytes, the first in the lowest bits, and leave 4 bytes empty."""
    import numpy as np

    rows, columns = codes.shape
    bits = np.unpackbits(codes[..., None], axis=2, bitorder="little")[..., :6].reshape(rows, columns // 16, 96)
    packed = np.packbits(bits, axis=2, bitorder="little")
    return np.pad(packed, ((0, 0), (0, 0), (0, 4))).reshape(rows, columns)


def chunked(raw: Array) -> bytes:
    """Return a matrix in the order of shared memory without swizzle: 16 bytes of all rows, then the next 16."""
    rows, size = raw.shape
    ordered: bytes = raw.reshape(rows, size // CHUNK, CHUNK).transpose(1, 0, 2).tobytes()
    return ordered


def fragments(raw: Array, part: int, tile: int, steps: int) -> bytes:
    """Return a matrix in the order of the registers of mma.sync.

    Lane 4 g + t holds part t of four neighbours in row g. A tile of 16 rows has two such rows in each lane.

    Args:
        raw: the matrix.
        part: bytes of a register.
        tile: rows of a tile, 8 or 16.
        steps: into how many products the rows are cut.

    Returns:
        [step][tile][register][lane].
    """
    rows, size = raw.shape
    halves = tile // 8
    groups = size // steps // part // 4
    split = raw.reshape(rows // tile, halves, 8, steps, groups, 4, part)
    ordered: bytes = split.transpose(3, 0, 4, 1, 2, 5, 6).tobytes()
    return ordered


def scale_registers(scales: Array, tile: int, steps: int) -> bytes:
    """Return block scales in the order of the registers of mma.sync with selectors 0: [step][tile][lane].

    A word holds the scales of one row and one product, from its lowest byte on. Of a tile of 16 rows, lanes with even t
    hold the row g and those with odd t the row g + 8; of one of 8 rows, all hold the row g.
    """
    import numpy as np

    rows, blocks = scales.shape
    halves, count = tile // 8, blocks // steps
    words = np.zeros((rows, steps, 4), dtype=np.uint8)
    words[..., :count] = scales.reshape(rows, steps, count)
    split = words.reshape(rows // tile, halves, 8, steps, 4).transpose(3, 0, 2, 1, 4)
    ordered: bytes = np.tile(split, (1, 1, 1, 4 // halves, 1)).tobytes()
    return ordered
