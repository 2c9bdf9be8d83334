"""Pseudo-random words by their index, on the GPU and on the host, so that what was moved can be checked."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from ctypes import c_uint32, c_uint64
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hostcheck.bench.cuda import Argument, Buffer

THREADS = 512
NEVER = 0xFFFFFFFF
"""What a target is filled with before it is written: a NaN, which is no word of any pattern."""

_SPOTS = 64


def word(index: int, seed: int) -> int:
    """Return the word at an index; the same as in pattern.cuh."""
    h = (index * 0x9E3779B1 ^ (index >> 32) * 0x85EBCA77 ^ seed * 0xC2B2AE3D) & 0xFFFFFFFF
    h ^= h >> 16
    h = h * 0x7FEB352D & 0xFFFFFFFF
    h ^= h >> 15
    h = h * 0x846CA68B & 0xFFFFFFFF
    h ^= h >> 16
    return h & 0x807FFFFF | 120 + (h >> 23 & 7) << 23


def as_float(bits: int) -> float:
    """Return the float that a word is."""
    value: float = struct.unpack("<f", struct.pack("<I", bits))[0]
    return value


def as_word(value: float) -> int:
    """Return the word of a number rounded to float."""
    bits: int = struct.unpack("<I", struct.pack("<f", value))[0]
    return bits


def fill(buffer: Buffer, seed: int) -> None:
    """Fill a buffer with the pattern."""
    _each(buffer, "fill", c_uint32(seed))


def wrong(buffer: Buffer, seed: int) -> int:
    """Return how many words of a buffer are not the pattern, counted by the GPU that owns it, and seen on the host."""
    found = buffer.device.alloc(16)
    try:
        found.upload(struct.pack("<QQ", 0, 2**64 - 1))
        _each(buffer, "differ", c_uint32(seed), found)
        return found.words()[0] + (found.words()[1] << 32) + seen(buffer, lambda index: word(index, seed))
    finally:
        found.free()


def seen(buffer: Buffer, expected: Callable[[int], int]) -> int:
    """Return how many of some words all over a buffer, read by the host, are not as expected at their index."""
    last = buffer.size // 4 - 1
    places = [0, last, *(random.Random(last).randint(0, last) for _ in range(_SPOTS))]  # noqa: S311 (no secret)
    return sum(buffer.words(4 * place, 1)[0] != expected(place) for place in places)


def grid(buffer: Buffer) -> int:
    """Return how many blocks of `THREADS` walk over a buffer."""
    return buffer.device.sm_count * 4


def _each(buffer: Buffer, name: str, *args: Argument) -> None:
    stream = buffer.device.stream()
    launch = buffer.device.kernel("pattern", name).bind(
        grid(buffer), THREADS, buffer, c_uint64(buffer.size // 4), *args
    )
    launch(stream)
    stream.synchronize()
    stream.free()
