"""Narrow formats and block scales, held against fractions that were written down from the specifications alone."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostcheck.microbench import scaled_formats as sf

INF, NAN = math.inf, math.nan
SMALLEST = 2.0**-149
"""The smallest number in FP32 that is not zero."""


# --- the reference: nothing below knows how scaled_formats does it


def e2m1(code: int) -> Fraction:
    """OCP MX 1.0, table 5: the eight magnitudes, then the same with a sign."""
    size = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)[code & 7]
    return Fraction(-size if code & 8 else size)


def bits(code: int, exponent: int, mantissa: int, bias: int) -> Fraction:
    """A number from its bits: (-1)^s 2^(e - bias) 1.m, or 2^(1 - bias) 0.m where e is 0."""
    e = (code >> mantissa) & ((1 << exponent) - 1)
    m = Fraction(code & ((1 << mantissa) - 1), 1 << mantissa)
    size = (1 + m) * Fraction(2) ** (e - bias) if e else m * Fraction(2) ** (1 - bias)
    return -size if code >> (exponent + mantissa) else size


def e4m3(code: int) -> Fraction | None:
    """OCP FP8: no infinity, and NaN only where all bits but the sign are set."""
    return None if code & 0x7F == 0x7F else bits(code, 4, 3, 7)


E4M3_SIZES = [bits(code, 4, 3, 7) for code in range(0x7F)]
E2M1_SIZES = [e2m1(code) for code in range(8)]


def nearest(number: Fraction, sizes: list[Fraction]) -> int:
    """The code of the nearest number, of two equally near the one whose last bit is 0; the largest for all above."""
    size = abs(number)
    return min(range(len(sizes)), key=lambda code: (abs(sizes[code] - size), code & 1))


def signed(number: float, code: int, sign: int) -> int:
    return code | sign if math.copysign(1, number) < 0 else code


def power_below(number: Fraction) -> int:
    """floor(log2(number)), by doubling and halving."""
    power = 0
    while number >= 2:
        number, power = number / 2, power + 1
    while number < 1:
        number, power = number * 2, power - 1
    return power


def mxfp8(block: list[float]) -> tuple[list[int] | None, int]:
    """One block of 32 by OCP MX 1.0, 6.3; codes None where the whole block is no number."""
    if not all(map(math.isfinite, block)):
        return None, 255
    largest = max(abs(Fraction(x)) for x in block)
    power = 0 if largest == 0 else max(-127, power_below(largest) - 8)
    codes = [signed(x, nearest(Fraction(x) / Fraction(2) ** power, E4M3_SIZES), 0x80) for x in block]
    return codes, power + 127


def single(number: Fraction) -> Fraction:
    """The nearest number in FP32."""
    return Fraction(float(np.float32(float(number))))


def nvfp4(rows: list[list[float]]) -> tuple[list[list[int] | None], list[int], Fraction]:
    """All blocks of 16: the scale for all is (largest / 6 / 448) in FP32, a block's is (its largest / 6 / that)."""
    blocks = [row[at : at + 16] for row in rows for at in range(0, len(row), 16)]
    good = [max(abs(Fraction(x)) for x in block) for block in blocks if all(map(math.isfinite, block))]
    whole = single(max(good, default=Fraction(0)) / (6 * 448)) or Fraction(1)
    all_codes: list[list[int] | None] = []
    scales = []
    for block in blocks:
        if not all(map(math.isfinite, block)):
            all_codes.append(None)
            scales.append(0x7F)
            continue
        scale = nearest(max(abs(Fraction(x)) for x in block) / 6 / whole, E4M3_SIZES)
        step = E4M3_SIZES[scale] * whole
        all_codes.append([signed(x, nearest(Fraction(x) / step, E2M1_SIZES) if step else 0, 8) for x in block])
        scales.append(scale)
    return all_codes, scales, whole


# --- the formats


def test_every_code_of_every_format() -> None:
    for form, exponent, mantissa, bias in ((sf.E2M3, 2, 3, 1), (sf.E3M2, 3, 2, 3)):
        assert [Fraction(float(x)) for x in form.values()] == [bits(c, exponent, mantissa, bias) for c in range(64)]
    assert [Fraction(float(x)) for x in sf.E2M1.values()] == [e2m1(code) for code in range(16)]
    found = [None if math.isnan(x) else Fraction(float(x)) for x in sf.E4M3.values()]
    assert found == [e4m3(code) for code in range(256)]
    assert (sf.E2M1.most, sf.E2M3.most, sf.E3M2.most, sf.E4M3.most) == (6, 7.5, 28, 448)
    powers = sf.decode_e8m0(np.arange(256))
    assert [Fraction(float(x)) for x in powers[:255]] == [Fraction(2) ** (code - 127) for code in range(255)]
    assert math.isnan(powers[255])


@pytest.mark.parametrize("form", [sf.E2M1, sf.E2M3, sf.E3M2, sf.E4M3], ids=lambda form: form.name)
def test_rounding_at_and_beside_every_midpoint(form: sf.Narrow) -> None:
    sizes = [Fraction(float(x)) for x in form.magnitudes()]
    numbers = [float(x) for x in sizes] + [float(sizes[-1]) * 1.5, 1e30, INF, SMALLEST]
    for low, high in itertools.pairwise(sizes):
        middle = float((low + high) / 2)
        numbers += [math.nextafter(middle, 0), middle, math.nextafter(middle, INF)]
    numbers += [-x for x in numbers]
    expected = [signed(x, len(sizes) - 1 if math.isinf(x) else nearest(Fraction(x), sizes), form.sign) for x in numbers]
    assert form.encode(np.array(numbers)).tolist() == expected


def test_nan_has_a_code_or_is_refused() -> None:
    assert math.isnan(sf.E4M3.decode(sf.E4M3.encode(np.array([NAN])))[0])
    with pytest.raises(ValueError, match="E2M1 has no NaN"):
        sf.E2M1.encode(np.array([1.0, NAN]))


# --- MXFP8

MX_EDGES: dict[str, list[float]] = {
    "zeros": [0.0] * 31 + [-0.0],
    "one": [1.0] + [0.0] * 31,
    "saturates": [511.0, -511.0, 465.0, 464.0, 463.9, 448.0] + [1.0] * 26,
    "just a power": [512.0] + [1.0] * 31,
    "subnormal elements": [448.0, 2.0**-9, 2.0**-10, 2.0**-10 + 2.0**-33, 3 * 2.0**-10] + [2.0**-7] * 27,
    "smallest of fp32": [SMALLEST, -SMALLEST] + [0.0] * 30,
    "subnormal block": [2.0**-130, 2.0**-133, 3 * 2.0**-149] + [0.0] * 29,
    "largest of fp32": [3.4028234663852886e38, 1.0] + [0.0] * 30,
    "nan": [NAN] + [1.0] * 31,
    "infinity": [1.0] * 31 + [-INF],
}


@pytest.mark.parametrize("name", MX_EDGES)
def test_mxfp8_at_the_edges(name: str) -> None:
    block = MX_EDGES[name]
    expected, scale = mxfp8(block)
    codes, scales = sf.quantize_mx(np.array([block], dtype=np.float32))
    assert scales.tolist() == [[scale]]
    back = sf.dequantize_mx(codes, scales)[0]
    if expected is None:
        assert np.isnan(back).all()
    else:
        assert codes[0].tolist() == expected
        assert [Fraction(float(x)) for x in back] == [e4m3(c) * Fraction(2) ** (scale - 127) for c in expected]  # type: ignore[operator]


@given(st.lists(st.floats(width=32), min_size=64, max_size=64))
@settings(max_examples=60, deadline=None)
def test_mxfp8_like_the_reference(numbers: list[float]) -> None:
    codes, scales = sf.quantize_mx(np.array(numbers, dtype=np.float32).reshape(1, 64))
    for at in (0, 32):
        expected, scale = mxfp8(numbers[at : at + 32])
        assert scales[0, at // 32] == scale
        assert expected is None or codes[0, at : at + 32].tolist() == expected


def test_mxfp6_keeps_what_it_can() -> None:
    draw = random.Random(5)
    for form in (sf.E2M3, sf.E3M2):
        exact = [draw.choice(form.values().tolist()) for _ in range(31)] + [form.most]
        codes, scales = sf.quantize_mx(np.array([exact], dtype=np.float32) / 1024, form)
        assert scales.tolist() == [[127 - 10]]
        assert (sf.dequantize_mx(codes, scales, form) * 1024).tolist() == [exact]


# --- NVFP4

NV_EDGES: dict[str, list[list[float]]] = {
    "zeros": [[0.0] * 15 + [-0.0]],
    "one block": [[6.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -5.0, -0.25, 0.1, 0.0, 1.0, 2.0, 3.0, 4.0]],
    "a zero block beside another": [[0.0] * 16 + [1.0] * 16],
    "a block whose scale vanishes": [[1e-9] * 16 + [1e3] * 16],
    "a block whose scale is subnormal": [[2688.0] + [1.0] * 15 + [0.03] * 16],
    "a scale that is rounded down": [[2688.0] * 16 + [6 * 1.0624] * 16],
    "smallest of fp32": [[SMALLEST] * 16],
    "largest of fp32": [[3.4028234663852886e38] * 16],
    "nan": [[NAN] + [1.0] * 15 + [2.0] * 16],
    "infinity": [[INF] + [1.0] * 15 + [2.0] * 16],
    "nothing else": [[NAN] * 16],
}


def check_nvfp4(rows: list[list[float]]) -> None:
    expected, scales, whole = nvfp4(rows)
    packed, found, factor = sf.quantize_nvfp4(np.array(rows, dtype=np.float32))
    assert Fraction(factor) == whole
    assert found.reshape(-1).tolist() == scales
    # Two codes in a byte, the first in its lower half.
    codes = [code for byte in packed.reshape(-1).tolist() for code in (byte & 15, byte >> 4)]
    back = sf.dequantize_nvfp4(packed, found, factor).reshape(-1).tolist()
    for number, block in enumerate(expected):
        at = slice(16 * number, 16 * number + 16)
        if block is None:
            assert all(map(math.isnan, back[at]))
        else:
            assert codes[at] == block
            scale = e4m3(scales[number])
            assert scale is not None
            assert [Fraction(x) for x in back[at]] == [e2m1(code) * scale * whole for code in block]


@pytest.mark.parametrize("name", NV_EDGES)
def test_nvfp4_at_the_edges(name: str) -> None:
    check_nvfp4(NV_EDGES[name])


@given(st.lists(st.floats(width=32), min_size=64, max_size=64))
@settings(max_examples=60, deadline=None)
def test_nvfp4_like_the_reference(numbers: list[float]) -> None:
    check_nvfp4([numbers[:32], numbers[32:]])


def test_normal_numbers_come_back_nearly() -> None:
    numbers = np.random.default_rng(7).standard_normal((64, 256)).astype(np.float32)
    for back, most in (
        (sf.dequantize_mx(*sf.quantize_mx(numbers)), 0.04),
        (sf.dequantize_nvfp4(*sf.quantize_nvfp4(numbers)), 0.12),
    ):
        error = np.linalg.norm(back - numbers) / np.linalg.norm(numbers)
        assert most / 3 < error < most


# --- the order of the scales


def place(row: int, block: int, blocks: int) -> int:
    """Where cuBLAS looks for a scale: its documentation, "1D block scaling factors layout"."""
    tiles = math.ceil(blocks / 4)
    tile = (row // 128) * tiles + block // 4
    return tile * 512 + (row % 32) * 16 + ((row % 128) // 32) * 4 + block % 4


@pytest.mark.parametrize(("rows", "blocks"), [(128, 4), (256, 12), (1, 1), (129, 5), (300, 7), (31, 8)])
def test_scales_lie_where_tensor_cores_look(rows: int, blocks: int) -> None:
    scales = np.arange(1, rows * blocks + 1, dtype=np.uint32).reshape(rows, blocks)
    flat = sf.swizzle(scales)
    assert flat.shape == (math.ceil(rows / 128) * 128 * math.ceil(blocks / 4) * 4,)
    expected = [0] * len(flat)
    for row in range(rows):
        for block in range(blocks):
            expected[place(row, block, blocks)] = row * blocks + block + 1
    assert flat.tolist() == expected
    assert sf.unswizzle(flat, rows, blocks).tolist() == scales.tolist()


def test_columns_must_be_whole_blocks() -> None:
    with pytest.raises(ValueError, match="whole blocks of 16"):
        sf.quantize_nvfp4(np.zeros((1, 24), dtype=np.float32))
