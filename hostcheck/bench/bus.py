"""Bus bandwidth from what ranks found: the limit of the links, the way that NCCL took, and what speaks against it."""

from __future__ import annotations

from contextlib import suppress
from statistics import median
from typing import Any

from hostcheck.bench.collective import FACTORS, LARGE
from hostcheck.bench.lab import BenchGpu
from hostcheck.bench.mesh import share_to
from hostcheck.bench.model import Sampled

_TURN_OFF = ("NCCL_P2P_DISABLE", "NCCL_P2P_LEVEL", "NCCL_SHM_DISABLE")
"""What an environment can hold NCCL back with."""


def sampled(found: dict[str, Any], gpu: BenchGpu | None) -> Sampled:
    """Return what ranks found as samples of bus bandwidth.

    Args:
        found: of `Ranks.measure`.
        gpu: one of the GPUs, if all are of one host.
    """
    operation, size, n, log = found["operation"], found["bytes"], found["ranks"], found["log"]
    factor = FACTORS[operation](n)
    algorithm = " + ".join(sorted(log["chosen"])) or ("point to point" if log["via"] else "")
    nvlink = None if gpu is None else linked(gpu)
    limit, source = (None, "") if gpu is None else limit_of(operation, n, algorithm, gpu, nvlink)
    # Without a switch, links to GPUs that take no part carry nothing, and in a ring of sends each has one receiver.
    share = share_to(gpu.uuid, 1 if operation == "send-receive" else n - 1) if gpu and nvlink else 1.0
    slowest = max(range(n), key=found["per_rank"].__getitem__)
    wrong = [f"rank {rank} ({count:,} elements)" for rank, count in found["wrong"].items()]
    return Sampled(
        samples=tuple(size * factor / seconds / 1e9 for seconds in found["seconds"]),
        unit="GB/s",
        case=name_of(size),
        # The time of a small operation is latency, which scatters.
        statistic="median" if size >= LARGE else "p50",
        limit=None if limit is None else limit * share,
        limit_source=source if share == 1 else f"{source}, {share:.0%} of its links",
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
            "fallback": "" if gpu is None else fallback(log, gpu, nvlink),
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
    """Return what NCCL fell back to between GPUs of one host that all have NVLink; "" where it did not.

    Cards with bridges have NVLink in pairs, and between the pairs there is no better way than through the host.
    """
    slow = [via for via in log["via"] if not via.startswith(("P2P", "NVLS"))]
    if not slow or not nvlink or gpu.model is None or gpu.model.nvlink is None or gpu.model.nvlink.optional:
        return ""
    ways = {"SHM": "memory of the host", "NET": "the network"}
    named = ", ".join(f"{via} ({ways.get(via.split('/')[0], 'another way')})" for via in sorted(slow))
    turned = ", ".join(f"{name}={value}" for name, value in sorted(log["set"].items()) if name in _TURN_OFF)
    return f"NCCL went through {named}, although the GPUs have NVLink" + (f"; {turned} is set" if turned else "")
