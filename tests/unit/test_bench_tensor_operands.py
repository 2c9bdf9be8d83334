"""Operands of the tensor-pipe chains, read back as the PTX ISA says that each instruction reads them.

The readers below are written from the manual's pictures and know nothing of how the orders are made.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import pytest
from _pytest.mark import ParameterSet

from hostcheck.microbench import scaled_formats, tensor_chain, tensor_operands

EVERY = sorted(tensor_operands.FORMATS)


def chains(*files: str, among: Sequence[str] = EVERY) -> list[ParameterSet]:
    """The chains of these files of kernels, or of all, for each compute capability."""
    return [
        pytest.param(chain, id=f"{cc[0]}.{cc[1]}-{name}")
        for cc in ((8, 0), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0))
        for name, chain in tensor_chain.chains(cc).items()
        if name in among and (chain.file in files or not files)
    ]


def small_float(code: int, exponent: int, mantissa: int, bias: int) -> float:
    power, fraction = code >> mantissa & (1 << exponent) - 1, code & (1 << mantissa) - 1
    size: float = (fraction / 2**mantissa + (power > 0)) * 2.0 ** (max(power, 1) - bias)
    return -size if code >> (exponent + mantissa) & 1 else size


def numbers(name: str, row: bytes) -> list[float]:
    """The numbers of a row without their scales, as the format's definition reads them."""
    if name == "bf16":
        return [struct.unpack("<f", b"\0\0" + row[i : i + 2])[0] for i in range(0, len(row), 2)]
    if name == "fp16":
        return list(struct.unpack(f"<{len(row) // 2}e", row))
    if name == "tf32":
        assert all(row[i] == 0 and row[i + 1] & 0x1F == 0 for i in range(0, len(row), 4)), "more than 10 bits"
        return list(struct.unpack(f"<{len(row) // 4}f", row))
    if name == "fp64":
        return list(struct.unpack(f"<{len(row) // 8}d", row))
    if name == "int8":
        return list(struct.unpack(f"<{len(row)}b", row))
    if name in ("fp8", "mxfp8"):
        return [small_float(code, 4, 3, 7) for code in row]
    if name == "fp6":
        found = []
        for i in range(0, len(row), 16):
            assert row[i + 12 : i + 16] == b"\0\0\0\0"
            word = int.from_bytes(row[i : i + 12], "little")
            found += [small_float(word >> 6 * place & 63, 2, 3, 1) for place in range(16)]
        return found
    assert name == "nvfp4"
    return [small_float(code, 2, 1, 1) for byte in row for code in (byte & 15, byte >> 4)]


@pytest.mark.parametrize("name", EVERY)
def test_a_matrix_means_what_its_bytes_say(name):
    made = tensor_operands.draw(name, 4, 128, 3)
    block = {"mxfp8": 32, "nvfp4": 16}.get(name)
    for place, row in enumerate(made.raw):
        read = np.array(numbers(name, row.tobytes()))
        if block:
            codes = made.scales[place]
            scale = [2.0 ** (int(c) - 127) if name == "mxfp8" else small_float(int(c), 4, 3, 7) for c in codes]
            read = read * np.repeat(scale, block)
        assert np.array_equal(read, made.values[place])


@pytest.mark.parametrize("name", EVERY)
def test_a_matrix_is_random_and_the_same_for_the_same_seed(name):
    first, again, other = (tensor_operands.draw(name, 32, 256, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.raw, again.raw)
    assert not np.array_equal(first.raw, other.raw)
    # Neither zeros nor copies of one row, which would cost less power and hide wrong orders.
    assert np.count_nonzero(first.values) > 0.7 * first.values.size
    assert len(np.unique(first.values, axis=0)) == 32
    if first.scales is not None:
        assert len(np.unique(first.scales)) > 3


@pytest.mark.parametrize("chain", chains("tensor_wgmma", "tensor_tcgen05"))
def test_shared_memory_holds_what_the_descriptor_points_at(chain):
    """K-major without swizzle: core matrices of 8 rows x 16 bytes, in strides that the descriptor names."""
    for rows, seed, content in zip((chain.rows, chain.columns), (1, 2), _arranged(chain), strict=False):
        matrix = tensor_operands.draw(chain.name, rows, chain.step * chain.steps, seed)
        assert len(content) == matrix.raw.size == rows * 32 * chain.steps
        for step in range(chain.steps):
            start = step * rows * 32  # what the kernel adds to the start address for each step
            across, down = rows * 16, 128  # leading and stride byte offset
            for row in range(0, rows, 3):
                for k in range(0, 32, 5):
                    address = start + k // 16 * across + row // 8 * down + row % 8 * 16 + k % 16
                    assert content[address] == matrix.raw[row, step * 32 + k]


def _arranged(chain):
    columns = chain.step * chain.steps
    a, b = (tensor_operands.draw(chain.name, rows, columns, s) for rows, s in ((chain.rows, 1), (chain.columns, 2)))
    return tensor_chain.arranged(chain, a, b)


@pytest.mark.parametrize("chain", chains("tensor_mma"))
def test_registers_of_mma_sync_give_the_product(chain):
    """PTX ISA, "Matrix Fragments for mma": lane = 4 * group + thread."""
    columns = chain.step * chain.steps
    a, b = (tensor_operands.draw(chain.name, rows, columns, s) for rows, s in ((32, 1), (32, 2)))
    contents = tensor_chain.arranged(chain, a, b)
    word = 8 if chain.name == "fp64" else 4
    tile_rows = 8 if chain.instruction.startswith("mma.sync.m8") else 16
    row_bytes = a.raw.shape[1] // chain.steps
    read_a = _read(contents[0], word, chain.steps, tile_rows, row_bytes)
    read_b = _read(contents[1], word, chain.steps, 8, row_bytes)
    assert read_a == [row.tobytes() for row in a.raw]
    assert read_b == [row.tobytes() for row in b.raw]
    values = [np.array([numbers(chain.name, row) for row in rows], dtype=float) for rows in (read_a, read_b)]
    if a.scales is not None:
        per_step = a.scales.shape[1] // chain.steps
        for place, (content, tile) in enumerate(((contents[2], 16), (contents[3], 8))):
            codes = _read_scales(content, chain.steps, tile, per_step)
            scale = scaled_formats.decode_e8m0 if chain.name == "mxfp8" else scaled_formats.E4M3.decode
            values[place] *= scale(np.array(codes)).repeat(chain.step // per_step, axis=1)
    np.testing.assert_allclose(values[0] @ values[1].T, tensor_chain.product(a, b), rtol=1e-9, atol=1e-9)


def _read(content: bytes, word: int, steps: int, tile_rows: int, row_bytes: int) -> list[bytes]:
    rows = [bytearray(steps * row_bytes) for _ in range(32)]
    tiles, halves = 32 // tile_rows, tile_rows // 8
    parts = halves * row_bytes // word // 4
    assert len(content) == steps * tiles * parts * 32 * word
    for step in range(steps):
        for tile in range(tiles):
            for part in range(parts):
                for lane in range(32):
                    group, thread = lane // 4, lane % 4
                    if tile_rows == 16:  # a0: row g, a1: row g + 8, a2: row g and the upper half of k, a3: both
                        row, k = group + 8 * (part % 2), thread + 4 * (part // 2)
                    else:
                        row, k = group, thread + 4 * part
                    at = (((step * tiles + tile) * parts + part) * 32 + lane) * word
                    to = step * row_bytes + k * word
                    rows[tile * tile_rows + row][to : to + word] = content[at : at + word]
    return [bytes(row) for row in rows]


def _read_scales(content: bytes, steps: int, tile_rows: int, per_step: int) -> list[list[int]]:
    """Selectors 0: of four lanes, those of threads 0 and 1 give rows g and g + 8 of A; thread 0 column g of B."""
    rows: list[list[int]] = [[] for _ in range(32)]
    for step in range(steps):
        for tile in range(32 // tile_rows):
            for row in range(tile_rows):
                lane = row % 8 * 4 + row // 8
                at = ((step * (32 // tile_rows) + tile) * 32 + lane) * 4
                rows[tile * tile_rows + row] += content[at : at + per_step]
    return rows


@pytest.mark.parametrize("chain", chains("tensor_tcgen05", among=("mxfp8", "nvfp4")))
def test_tensor_memory_holds_the_scales_where_the_instruction_looks(chain):
    """PTX ISA, "Scale factor layouts": row r is in lane r % 32 and column r / 32, one byte for each block.

    scale_vec::1X picks one byte of the word by the selector, 4X takes all four.
    """
    a, b = (
        tensor_operands.draw(chain.name, rows, chain.step * chain.steps, seed)
        for rows, seed in ((chain.rows, 1), (chain.columns, 2))
    )
    per_word = 4 if chain.name == "mxfp8" else 1  # steps
    for matrix, content in zip((a, b), tensor_chain.arranged(chain, a, b)[2:], strict=True):
        down = -(-len(matrix.raw) // 128)
        tiles = chain.steps // per_word
        # What keep_scales of tensor_tcgen05.cu writes: memory[lane][column].
        memory = np.zeros((32, tiles * down * 4, 4), dtype=np.uint8)
        words = np.frombuffer(content, dtype=np.uint8).reshape(down, tiles, 32, 4, 4)
        for tile in range(tiles):
            for part in range(down):
                memory[:, (tile * down + part) * 4 : (tile * down + part) * 4 + 4] = words[part, tile]
        for step in range(chain.steps):
            base = step // per_word * down * 4  # the address that the kernel gives for the step
            for row in range(len(matrix.raw)):
                word = memory[row % 32, base + row // 32]
                found = word[step % 4 : step % 4 + 1] if per_word == 4 else word
                count = 1 if per_word == 4 else 4
                assert np.array_equal(found, matrix.scales[row, step * count : step * count + count])


def test_the_descriptor_of_an_instruction_has_the_fields_of_the_manual():
    """PTX ISA, tables of "Instruction descriptor"."""

    def fields(value, *places):
        return [value >> low & (1 << size) - 1 for low, size in places]

    plain = ((4, 2), (7, 3), (10, 3), (17, 6), (24, 5))  # sums, A, B, N / 8, M / 16
    assert fields(tensor_chain.descriptor("bf16", 128, 256), *plain) == [1, 1, 1, 32, 8]
    assert fields(tensor_chain.descriptor("fp16", 128, 256), *plain) == [1, 0, 0, 32, 8]
    assert fields(tensor_chain.descriptor("tf32", 128, 256), *plain) == [1, 2, 2, 32, 8]
    assert fields(tensor_chain.descriptor("fp8", 128, 256), *plain) == [1, 0, 0, 32, 8]
    assert fields(tensor_chain.descriptor("fp6", 128, 256), *plain) == [1, 3, 3, 32, 8]
    assert fields(tensor_chain.descriptor("int8", 128, 256), *plain) == [2, 1, 1, 32, 8]
    scaled = ((4, 2), (7, 3), (10, 3), (17, 6), (23, 1), (24, 5), (29, 2), (31, 1))  # ... format of scales, selectors
    assert fields(tensor_chain.descriptor("mxfp8", 128, 192), *scaled) == [0, 0, 0, 24, 1, 8, 0, 0]
    assert fields(tensor_chain.descriptor("nvfp4", 128, 192), *scaled) == [0, 1, 1, 24, 0, 8, 0, 0]


def _tile(chain, repeats, spoil=None):
    once = tensor_chain.product(
        *(tensor_operands.draw(chain.name, rows, chain.step * chain.steps, seed)
          for rows, seed in ((chain.rows, 1), (chain.columns, 2)))
    )  # fmt: skip
    form = "<i4" if chain.exact else "<f8" if chain.name == "fp64" else "<f4"
    sums = (once * repeats).astype(form)
    if spoil:
        spoil(sums)
    return sums.tobytes(), once


@pytest.mark.parametrize("chain", chains())
def test_right_sums_are_right(chain):
    tile, once = _tile(chain, chain.repeats)
    assert tensor_chain.off(chain, tile, once * chain.repeats) <= chain.tolerance


@pytest.mark.parametrize("chain", chains())
def test_sums_that_lack_a_product_are_wrong(chain):
    a, b = (
        tensor_operands.draw(chain.name, rows, chain.step * chain.steps, seed)
        for rows, seed in ((chain.rows, 1), (chain.columns, 2))
    )
    short = a.values[:, chain.step :] @ b.values[:, chain.step :].T
    form = "<i4" if chain.exact else "<f8" if chain.name == "fp64" else "<f4"
    assert tensor_chain.off(chain, short.astype(form).tobytes(), tensor_chain.product(a, b)) > chain.tolerance


@pytest.mark.parametrize("chain", chains("tensor_wgmma"))
def test_a_sum_that_is_no_number_is_wrong(chain):
    def spoil(sums):
        sums.view("u4")[3, 5] = 0xFFFFFFFF  # what an unwritten sum looks like

    tile, once = _tile(chain, 1, spoil)
    assert tensor_chain.off(chain, tile, once) == float("inf")


def test_one_wrong_bit_of_a_whole_number_is_wrong():
    chain = tensor_chain.wgmma("int8")

    def spoil(sums):
        sums[0, 0] ^= 1

    tile, once = _tile(chain, chain.repeats, spoil)
    assert tensor_chain.off(chain, tile, once * chain.repeats) == float("inf")
