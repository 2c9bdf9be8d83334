"""Bandwidth of the L2 cache."""

from __future__ import annotations

from collections.abc import Iterator
from ctypes import c_uint32
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from hostcheck.bench.model import Backend, Level, Sampled, Scope
from hostcheck.registry import bench

from . import pattern
from .repeat import Proof, repeated

if TYPE_CHECKING:
    from hostcheck.bench.cuda import Buffer, Device, Launch, Stream
    from hostcheck.bench.lab import Lab

SEED = 3
PASSES = 50
_TILE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to read: vectors of each thread at a time, threads of a block, blocks on each SM."""

    unroll: int
    threads: int
    blocks: int

    def __str__(self) -> str:
        return f"{self.threads} threads x {self.unroll} vectors, {self.blocks} blocks on each SM"

    def options(self) -> tuple[str, ...]:
        """Return the options of the compiler."""
        return (f"-DUNROLL={self.unroll}",)

    def launch(self, device: Device, source: Buffer, sums: Buffer) -> Launch:
        """Return a launch that reads a buffer `PASSES` times."""
        tiles = source.size // (16 * self.unroll * self.threads)
        grid = min(tiles, self.blocks * device.sm_count)
        kernel = device.kernel("l2", "read", self.options())
        return kernel.bind(grid, self.threads, source, c_uint32(tiles), c_uint32(PASSES), sums)


# Which is fastest depends on the GPU; each is tried for a moment.
VARIANTS = (Variant(4, 512, 1), Variant(4, 512, 2), Variant(8, 256, 2), Variant(8, 256, 4), Variant(8, 512, 2))


def size_of(device: Device) -> int:
    """Return how much is read: a quarter of the L2 cache, which fits into one half of those that have two."""
    return max(1, device.l2_bytes // 4 // _TILE) * _TILE


@bench(
    id="l2.read", scope=Scope.GPU, backend=Backend.CUDA, level=Level.QUICK, seconds=1, rows=["cuda-memory-hierarchy"],
)  # fmt: skip
def read(lab: Lab) -> Iterator[Sampled]:
    """The L2 cache is read at this rate.

    All SMs load vectors of 16 bytes, past their L1 caches, from a buffer of a quarter of the L2 cache, and add them
    up; the sum is compared. No vendor states a limit: compare with other GPUs of the same model.
    """
    from hostcheck.bench.cuda import Device

    with Device(lab.gpu.ordinal) as device:
        size = size_of(device)
        source, sums = device.alloc(size), device.alloc(4 * 32)
        pattern.fill(source, SEED)
        stream = device.stream()
        variant = best(device, stream, source, sums)
        work = variant.launch(device, source, sums)
        wanted = PASSES * once(source) & 0xFFFFFFFF
        proof = Proof(
            lambda: stream.time([lambda: stream.fill(sums, 0), lambda: work(stream)])[1],
            lambda: abs(sum(sums.words()) - wanted) & 0xFFFFFFFF,
        )
        times = repeated(lab, lambda count: stream.time([lambda: work(stream)] * count), proof=proof)
        yield Sampled(
            samples=tuple(PASSES * size / 1e9 / each for each in times),
            unit="GB/s",
            settings={"bytes": "bytes loaded", "buffer_bytes": size, "data": "pseudo-random", "clock": "events"},
            details={"variant": str(variant), "l2_bytes": device.l2_bytes},
            verified=proof.is_right,
        )


def best(device: Device, stream: Stream, source: Buffer, sums: Buffer) -> Variant:
    """Return the variant that is fastest in a few launches."""
    took = {}
    for variant in VARIANTS:
        work = variant.launch(device, source, sums)
        took[variant] = median(stream.time([partial(work, stream)] * 6)[1:])
    return min(took, key=lambda variant: took[variant])


def once(source: Buffer) -> int:
    """Return the sum of all words, added up on the host, after it has seen that they are the pattern."""
    return sum(source.words()) if pattern.wrong(source, SEED) == 0 else -1
