"""Bandwidth of device memory, by kernels of our own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from ctypes import c_float, c_uint32, c_uint64
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from hostcheck.bench.model import Backend, Level, Sampled, Scope
from hostcheck.registry import bench

from . import pattern
from .repeat import Proof, repeated

if TYPE_CHECKING:
    from hostcheck.bench.cuda import Argument, Device, Launch, Stream
    from hostcheck.bench.lab import BenchGpu, Lab

SCALE = 3.0
SEEDS = (1, 2)
_WRITE_SEED = 0x6A09E667
_STREAM_RULE = "bytes loaded plus bytes stored"


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to go over memory.

    Attributes:
        unroll: vectors that each thread has under way at a time.
        threads: of a block.
        blocks: on each SM, each taking several tiles; 0 for a block for each tile.
        stream: whether what was touched is the first to leave the L2 cache again.
    """

    unroll: int
    threads: int
    blocks: int = 0
    stream: bool = True

    def __str__(self) -> str:
        blocks = f"{self.blocks} blocks on each SM" if self.blocks else "a block for each tile"
        return f"{self.threads} threads x {self.unroll} vectors, {blocks}{', streaming' if self.stream else ''}"

    def launch(self, device: Device, name: str, vectors: int, *args: Argument) -> Launch:
        """Return a launch of a kernel of hbm.cu over so many vectors of 16 bytes."""
        kernel = device.kernel("hbm", name, self.options())
        return kernel.bind(self.grid(device, vectors), self.threads, *args)

    def options(self) -> tuple[str, ...]:
        """Return the options of the compiler."""
        return (f"-DUNROLL={self.unroll}", *(("-DSTREAM",) if self.stream else ()))

    def grid(self, device: Device, vectors: int) -> int:
        """Return how many blocks go over so many vectors."""
        tiles = -(-vectors // (self.unroll * self.threads))
        return min(tiles, self.blocks * device.sm_count) if self.blocks else tiles


# Which is fastest depends on the GPU and the kernel; each is tried for a moment.
VARIANTS = (
    Variant(1, 1024),
    Variant(1, 256),
    Variant(4, 1024),
    Variant(4, 512, 4),
    Variant(1, 1024, stream=False),
    Variant(1, 256, stream=False),
)


def size_of(device: Device) -> int:
    """Return how large each buffer is: 1 GiB, and at least 8 times the L2 cache."""
    mib = 2**20
    return max(2**30, -(-8 * device.l2_bytes // mib) * mib)


def limit_of(gpu: BenchGpu) -> tuple[float | None, str]:
    """Return the bandwidth of the datasheet in GB/s, and whence it is."""
    if gpu.model is None:
        return None, ""
    from hostcheck.gpu_table import table

    return gpu.model.memory.bandwidth_gbs, table().cite(gpu.model.source["memory"])


@bench(
    id="hbm.read", scope=Scope.GPU, backend=Backend.CUDA, level=Level.QUICK, seconds=1, rows=["cuda-memory-hierarchy"],
)  # fmt: skip
def read(lab: Lab) -> Iterator[Sampled]:
    """Device memory is read at this rate.

    Each thread loads vectors of 16 bytes from 1 GiB (at least 8 times the L2 cache) of pseudo-random words and adds
    them up; the sum is compared. A low number with a high `hbm.write` points to too few loads under way, both low
    to damaged or slow memory, or to somebody else on the GPU.
    """
    yield from _measure(lab, "read")


@bench(
    id="hbm.write", scope=Scope.GPU, backend=Backend.CUDA, level=Level.QUICK, seconds=1, rows=["cuda-memory-hierarchy"],
)  # fmt: skip
def write(lab: Lab) -> Iterator[Sampled]:
    """Device memory is written at this rate.

    Each thread stores vectors of 16 bytes, made from their index, to 1 GiB (at least 8 times the L2 cache); every word
    is compared afterwards.
    """
    yield from _measure(lab, "write")


@bench(
    id="hbm.copy", scope=Scope.GPU, backend=Backend.CUDA, level=Level.QUICK, seconds=1, rows=["cuda-memory-hierarchy"],
)  # fmt: skip
def copy(lab: Lab) -> Iterator[Sampled]:
    """Device memory is copied within the GPU at this rate, counting what is read and what is written.

    1 GiB (at least 8 times the L2 cache) of pseudo-random words, in vectors of 16 bytes; every word of the copy is
    compared. Tools that count each byte once show half of it.
    """
    yield from _measure(lab, "copy")


@bench(
    id="hbm.triad", scope=Scope.GPU, backend=Backend.CUDA, level=Level.QUICK, seconds=1,
    rows=["cuda-memory-hierarchy", "prof-roofline"], references=["STREAM: https://www.cs.virginia.edu/stream/"],
)  # fmt: skip
def triad(lab: Lab) -> Iterator[Sampled]:
    """Device memory serves a = b + s * c at this rate, counting two reads and one write.

    Three arrays of floats of 1 GiB each (at least 8 times the L2 cache), in vectors of 16 bytes; every result is
    compared. It is the usual figure for memory-bound work. Low: another process on the GPU, a hot or damaged memory,
    ECC of GDDR.
    """
    yield from _measure(lab, "triad")


@dataclass(frozen=True, slots=True)
class Task:
    """One kernel with its memory.

    Attributes:
        moved: bytes that one launch loads and stores.
        launch: returns a launch of a variant.
        poison: spoils the output; queued on a stream.
        wrong: how many words of the output are wrong, given the variant that made it.
    """

    moved: int
    launch: Callable[[Variant], Launch]
    poison: Callable[[], None]
    wrong: Callable[[Variant], int]


def _measure(lab: Lab, name: str) -> Iterator[Sampled]:
    from hostcheck.bench.cuda import Device

    with Device(lab.gpu.ordinal) as device:
        size = size_of(device)
        stream = device.stream()
        task = TASKS[name](device, stream, size)
        variant = best(stream, task)
        work = task.launch(variant)
        proof = Proof(lambda: stream.time([task.poison, lambda: work(stream)])[1], lambda: task.wrong(variant))
        times = repeated(lab, lambda count: stream.time([lambda: work(stream)] * count), proof=proof)
        limit, source = limit_of(lab.gpu)
        yield Sampled(
            samples=tuple(task.moved / 1e9 / each for each in times),
            unit="GB/s",
            limit=limit,
            limit_source=source,
            settings={"bytes": _STREAM_RULE, "buffer_bytes": size, "data": "pseudo-random", "clock": "events"},
            details={"variant": str(variant)},
            verified=proof.is_right,
        )


def best(stream: Stream, task: Task, variants: Sequence[Variant] = VARIANTS) -> Variant:
    """Return the variant that is fastest in a few launches."""
    took = {}
    for variant in variants:
        work = task.launch(variant)
        took[variant] = median(stream.time([partial(work, stream)] * 6)[1:])
    return min(took, key=lambda variant: took[variant])


def read_task(device: Device, stream: Stream, size: int) -> Task:
    """Return the task of adding up all words."""
    source = device.alloc(size)
    pattern.fill(source, SEEDS[0])
    vectors = size // 16
    sums = device.alloc(4 * max(variant.grid(device, vectors) for variant in VARIANTS))

    def wrong(variant: Variant) -> int:
        blocks = variant.grid(device, vectors)
        rest = _count(device, "check_read", sums, c_uint64(blocks), c_uint64(size // 4), c_uint32(SEEDS[0]))
        return rest + pattern.seen(source, lambda index: pattern.word(index, SEEDS[0]))

    return Task(
        moved=size,
        launch=lambda variant: variant.launch(device, "read", vectors, source, c_uint64(vectors), sums),
        poison=lambda: stream.fill(sums, pattern.NEVER),
        wrong=wrong,
    )


def write_task(device: Device, stream: Stream, size: int) -> Task:
    """Return the task of writing words made from their index."""
    target = device.alloc(size)
    vectors = size // 16

    def wrong(_: Variant) -> int:
        found = _count(device, "check_write", target, c_uint64(size // 4), c_uint32(_WRITE_SEED))
        return found + pattern.seen(target, lambda index: (index * 0x9E3779B1 & 0xFFFFFFFF) ^ _WRITE_SEED)

    return Task(
        moved=size,
        launch=lambda variant: variant.launch(
            device, "write", vectors, target, c_uint64(vectors), c_uint32(_WRITE_SEED)
        ),
        poison=lambda: stream.fill(target, pattern.NEVER),
        wrong=wrong,
    )


def copy_task(device: Device, stream: Stream, size: int) -> Task:
    """Return the task of copying words."""
    source, target = device.alloc(size), device.alloc(size)
    pattern.fill(source, SEEDS[0])
    vectors = size // 16
    return Task(
        moved=2 * size,
        launch=lambda variant: variant.launch(device, "copy", vectors, target, source, c_uint64(vectors)),
        poison=lambda: stream.fill(target, pattern.NEVER),
        wrong=lambda _: pattern.wrong(target, SEEDS[0]),
    )


def triad_task(device: Device, stream: Stream, size: int) -> Task:
    """Return the task of a = b + s * c."""
    a, b, c = (device.alloc(size) for _ in range(3))
    pattern.fill(b, SEEDS[0])
    pattern.fill(c, SEEDS[1])
    vectors = size // 16

    def expected(index: int) -> int:
        # In double all of it is exact, so that it is rounded once, as by the GPU.
        first, second = (pattern.as_float(pattern.word(index, seed)) for seed in SEEDS)
        return pattern.as_word(first + SCALE * second)

    def wrong(_: Variant) -> int:
        seeds = (c_uint32(SEEDS[0]), c_uint32(SEEDS[1]))
        return _count(device, "check_triad", a, c_uint64(size // 4), *seeds, c_float(SCALE)) + pattern.seen(a, expected)

    return Task(
        moved=3 * size,
        launch=lambda variant: variant.launch(device, "triad", vectors, a, b, c, c_float(SCALE), c_uint64(vectors)),
        poison=lambda: stream.fill(a, pattern.NEVER),
        wrong=wrong,
    )


TASKS: dict[str, Callable[[Device, Stream, int], Task]] = {
    "read": read_task, "write": write_task, "copy": copy_task, "triad": triad_task,
}  # fmt: skip


def _count(device: Device, name: str, *args: Argument) -> int:
    """Run a check of hbm.cu and return what it found."""
    found = device.alloc(8)
    found.fill(0)
    stream = device.stream()
    device.kernel("hbm", name).bind(device.sm_count * 4, pattern.THREADS, *args, found)(stream)
    stream.synchronize()
    words = found.words()
    return words[0] + (words[1] << 32)
