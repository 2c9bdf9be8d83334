"""Operations of NCCL between the GPUs of one host, by size; each is checked, and so is the way that NCCL took."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from statistics import median
from typing import Any

from hostcheck.bench.collective import FACTORS, Ranks
from hostcheck.bench.lab import BenchGpu, Lab
from hostcheck.bench.model import Backend, Level, Sampled, Scope
from hostcheck.errors import HostcheckError, NotApplicable
from hostcheck.registry import bench

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

_TURN_OFF = ("NCCL_P2P_DISABLE", "NCCL_P2P_LEVEL", "NCCL_SHM_DISABLE")
"""What an environment can hold NCCL back with."""

_REFERENCES = ("NVIDIA nccl-tests, doc/PERFORMANCE.md", "NVIDIA NCCL documentation, environment variables")


@bench(
    id="nccl.all-reduce", scope=Scope.RANKS, backend=Backend.TORCH, level=Level.QUICK, seconds=4, references=_REFERENCES
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
    sizes = [size for size in SIZES[min(lab.level, Level.FULL)] if size <= _room(ranks)]
    if not sizes:
        raise HostcheckError("less than a few MiB of GPU memory are free: nvidia-smi shows what runs there")
    for size in sizes:
        with lab.watch():
            found = ranks.measure(operation, size, lab.seconds / len(sizes) / 2)
        if ranks.rank == 0:
            yield sampled(found, lab.gpu)


@cache
def _join(ordinal: int) -> Ranks:
    import torch
    import torch.distributed as dist

    if not torch.cuda.is_available():
        raise HostcheckError(f"torch {torch.__version__} cannot use the GPU: install one for the CUDA of the driver")
    if not dist.is_nccl_available():
        raise HostcheckError(f"torch {torch.__version__} was built without NCCL")
    return Ranks("nccl", ordinal, _LIMIT)


def _room(ranks: Ranks) -> int:
    """Return how large an operation may be on the GPU with the least memory free."""
    return int(min(ranks.share(ranks.torch.cuda.mem_get_info()[0])) * 0.9 / _BUFFERS)


def sampled(found: dict[str, Any], gpu: BenchGpu | None) -> Sampled:
    """Return what ranks found as samples of bus bandwidth.

    Args:
        found: of `Ranks.measure`.
        gpu: one of the GPUs, if all are of one host.
    """
    operation, size, n, log = found["operation"], found["bytes"], found["ranks"], found["log"]
    factor = FACTORS[operation](n)
    algorithm = " + ".join(sorted(log["chosen"])) or ("point to point" if log["via"] else "")
    limit, source = (None, "") if gpu is None else limit_of(operation, n, algorithm, gpu, linked(gpu))
    slowest = max(range(n), key=found["per_rank"].__getitem__)
    wrong = [f"rank {rank} ({count:,} elements)" for rank, count in found["wrong"].items()]
    return Sampled(
        samples=tuple(size * factor / seconds / 1e9 for seconds in found["seconds"]),
        unit="GB/s",
        case=name_of(size),
        limit=limit,
        limit_source=source,
        settings={
            "operation": operation,
            "bytes": size,
            "ranks": n,
            "factor": round(factor, 6),
            "type": "fp32, sum",
            "algorithm": algorithm,
            "transport": " + ".join(sorted(log["via"])),
            "nvls": log["nvls"],
            **{name: value for name, value in sorted(log["set"].items()) if not name.startswith("NCCL_DEBUG")},
        },
        details={
            "NCCL": log["version"],
            "seconds": median(found["seconds"]),
            "slowest rank": slowest,
            "slowest rank, seconds": found["per_rank"][slowest],
            "connections": ", ".join(f"{count} {via}" for via, count in sorted(log["via"].items())),
            "fallback": "" if gpu is None else fallback(log, gpu, linked(gpu)),
            "warnings": "; ".join(log["warnings"]),
        },
        verified=not wrong,
        invalid=f"the data is wrong on {', '.join(wrong)}" if wrong else "",
    )


def name_of(size: int) -> str:
    """Return a size in binary units, such as "2 GiB"."""
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.3g} {unit}"
    return f"{size} B"


def linked(gpu: BenchGpu) -> bool | None:
    """Return whether a GPU has an NVLink that is up, as NVML says; None where it does not say."""
    with suppress(Exception):
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
        up = []
        for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
            with suppress(pynvml.NVMLError_NotSupported, pynvml.NVMLError_InvalidArgument):
                up.append(bool(pynvml.nvmlDeviceGetNvLinkState(handle, link)))
        return any(up)
    return None


def limit_of(operation: str, n: int, algorithm: str, gpu: BenchGpu, nvlink: bool | None) -> tuple[float | None, str]:
    """Return what bus bandwidth the links of a GPU allow, and why; None where it is not known which links there are.

    Where the switch reduces (NVLS), a GPU sends each byte once, and a share of the sums, in place of twice: bus
    bandwidth, which is defined by the ring, may then exceed what a link carries.
    """
    model = gpu.model
    if model is None or nvlink is None:
        return None, ""
    link = model.nvlink if nvlink else model.pcie
    if link is None:
        return None, ""
    name = f"{model.id}: {'NVLink' if nvlink else 'PCIe'}, one direction, of the datasheet"
    if operation == "all-reduce" and "nvls" in algorithm:
        return link.per_dir_gbs * 2 * (n - 1) / (n + 1), f"{name}, with reduction in the switch"
    return link.per_dir_gbs, name


def fallback(log: dict[str, Any], gpu: BenchGpu, nvlink: bool | None) -> str:
    """Return what NCCL fell back to between GPUs of one host; "" where it went from GPU to GPU, or said nothing."""
    slow = [via for via in log["via"] if not via.startswith(("P2P", "NVLS"))]
    if not slow:
        return ""
    ways = {"SHM": "memory of the host", "NET": "the network"}
    named = ", ".join(f"{via} ({ways.get(via.split('/')[0], 'another way')})" for via in sorted(slow))
    has = f"although {gpu.subject} has NVLink" if nvlink else "not from GPU to GPU"
    turned = ", ".join(f"{name}={value}" for name, value in sorted(log["set"].items()) if name in _TURN_OFF)
    return f"NCCL went through {named}, {has}" + (f"; {turned} is set" if turned else "")
