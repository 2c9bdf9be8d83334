"""Operations of NCCL between the GPUs of one host, by size; each is checked, and so is the way that NCCL took."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache

from hostcheck.bench.bus import name_of, sampled
from hostcheck.bench.collective import Ranks
from hostcheck.bench.lab import Lab
from hostcheck.bench.model import Backend, Level, Sampled, Scope
from hostcheck.errors import HostcheckError, NotApplicable
from hostcheck.registry import bench

from .repeat import is_whole

MIB = 1 << 20
GIB = 1 << 30
SIZES = {
    Level.QUICK: (GIB, 2 * GIB),
    Level.STANDARD: (MIB, 16 * MIB, 128 * MIB, GIB, 2 * GIB),
    Level.FULL: (1 << 10, 64 << 10, MIB, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB, GIB, 2 * GIB, 8 * GIB),
}
"""Bytes. Nearly all that large sizes can reach is reached at 1 GiB in a ring; in-switch reduction goes on to 8 GiB."""
_LIMIT = 60.0
"""Seconds until ranks that wait for each other give up."""
_BUFFERS = 3
"""Of the size of the operation, at most, that are on a GPU at one time, with what checking takes."""


_REFERENCES = ("NVIDIA nccl-tests, doc/PERFORMANCE.md", "NVIDIA NCCL documentation, environment variables")


@bench(
    id="nccl.all-reduce",
    scope=Scope.RANKS,
    backend=Backend.TORCH,
    level=Level.QUICK,
    seconds=4,
    rows=["x-micro-nccl", "x-micro-nccl-stability", "x-net-transport-used", "prof-collectives"],
    references=_REFERENCES,
)
def all_reduce(lab: Lab) -> Iterator[Sampled]:
    """Bus bandwidth of all-reduce between all GPUs of the host, by size.

    Through torch, as training does it: sums of FP32, checked on each rank. Bus bandwidth is that of nccl-tests. In a
    ring it is what each link carries, 76 to 82 % of NVLink's one direction; with reduction in the switch (NVLS) it can
    exceed the link. Algorithm and transport come from NCCL's own log: a fallback to shared memory or to the network
    is named.
    """
    yield from _measure(lab, "all-reduce")


@bench(
    id="nccl.all-gather",
    scope=Scope.RANKS,
    backend=Backend.TORCH,
    level=Level.STANDARD,
    seconds=5,
    rows=["x-micro-nccl", "x-net-transport-used"],
    references=_REFERENCES,
)
def all_gather(lab: Lab) -> Iterator[Sampled]:
    """Bus bandwidth of all-gather between all GPUs of the host, by size.

    As nccl.all-reduce. The size is that of what each rank has in the end.
    """
    yield from _measure(lab, "all-gather")


@bench(
    id="nccl.reduce-scatter",
    scope=Scope.RANKS,
    backend=Backend.TORCH,
    level=Level.STANDARD,
    seconds=5,
    rows=["x-micro-nccl", "x-net-transport-used"],
    references=_REFERENCES,
)
def reduce_scatter(lab: Lab) -> Iterator[Sampled]:
    """Bus bandwidth of reduce-scatter between all GPUs of the host, by size.

    As nccl.all-reduce. The size is that of what each rank has at the beginning.
    """
    yield from _measure(lab, "reduce-scatter")


@bench(
    id="nccl.all-to-all",
    scope=Scope.RANKS,
    backend=Backend.TORCH,
    level=Level.STANDARD,
    seconds=5,
    rows=["x-micro-nccl", "scale-all-to-all"],
    references=_REFERENCES,
)
def all_to_all(lab: Lab) -> Iterator[Sampled]:
    """Bus bandwidth of all-to-all between all GPUs of the host, by size.

    As nccl.all-reduce, with sends and receives between all pairs at once, as experts of a model do. The size is that
    of what each rank sends in all.
    """
    yield from _measure(lab, "all-to-all")


@bench(
    id="nccl.send-receive",
    scope=Scope.RANKS,
    backend=Backend.TORCH,
    level=Level.STANDARD,
    seconds=5,
    rows=["x-micro-nccl", "x-net-transport-used"],
    references=_REFERENCES,
)
def send_receive(lab: Lab) -> Iterator[Sampled]:
    """Bandwidth of sends around a ring of all GPUs of the host, by size: each sends to the next and receives.

    As nccl.all-reduce. Pipelines do this.
    """
    yield from _measure(lab, "send-receive")


def _measure(lab: Lab, operation: str) -> Iterator[Sampled]:
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        raise NotApplicable("there is one GPU, and nobody to talk to")
    ranks = _join(lab.gpu.ordinal)
    free, total = _room(ranks)
    wanted = [size for size in SIZES[min(lab.level, Level.FULL)] if size <= total]
    sizes = [size for size in wanted if size <= free]
    for size in sizes:
        whole = is_whole(lab)
        with lab.watch():
            found = ranks.measure(operation, size, lab.seconds / len(sizes) * (0.9 if whole else 0.5), whole=whole)
        # Each rank tells, since its conditions are its own; what is kept of the number is what rank 0 says.
        yield sampled(found, lab.gpu)
    if len(sizes) < len(wanted):
        lacking = ", ".join(name_of(size) for size in wanted[len(sizes) :])
        raise HostcheckError(f"for {lacking} too little GPU memory is free: nvidia-smi shows what runs there")


@cache
def _join(ordinal: int) -> Ranks:
    import torch
    import torch.distributed as dist

    if not torch.cuda.is_available():
        raise HostcheckError(f"torch {torch.__version__} cannot use the GPU: install one for the CUDA of the driver")
    if not dist.is_nccl_available():
        raise HostcheckError(f"torch {torch.__version__} was built without NCCL")
    return Ranks("nccl", ordinal, _LIMIT)


def _room(ranks: Ranks) -> tuple[int, int]:
    """Return how large an operation may be on the GPU with the least memory free, and on the one with the least."""
    free, total = zip(*ranks.share(ranks.torch.cuda.mem_get_info()), strict=True)
    return int(min(free) * 0.9 / _BUFFERS), int(min(total) * 0.9 / _BUFFERS)
