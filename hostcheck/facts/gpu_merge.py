"""One list of GPUs from what nvidia-smi and NVML each say about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from hostcheck.errors import NotApplicable, Unavailable
from hostcheck.facts.gpu_reports import NvmlLog, SmiLog
from hostcheck.facts.gpu_types import Gpu
from hostcheck.facts.smi_read import bus_order, ranks
from hostcheck.facts.smi_tree import PROBE

T = TypeVar("T")

_OWN = ("index", "bus_id", "source", "faults", "denied")


def fill(first: T, second: T) -> T:
    """Return the first with its gaps closed from the second; a value of the first always stays."""
    if is_dataclass(first) and not isinstance(first, type):
        changed: dict[str, Any] = {
            part.name: fill(getattr(first, part.name), getattr(second, part.name))
            for part in fields(first)
            if part.name not in _OWN
        }
        return replace(first, **changed)
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return {**second, **{name: fill(value, second.get(name, value)) for name, value in first.items()}}  # type: ignore[return-value]
    if isinstance(first, Unavailable) or (
        isinstance(first, NotApplicable) and not isinstance(second, Unavailable | NotApplicable)
    ):
        return first if isinstance(second, Unavailable) else second
    return first


def _both(smi: Gpu, nvml: Gpu) -> Gpu:
    return replace(
        fill(smi, nvml),
        index=nvml.index,
        source=f"{smi.source} and {nvml.source}",
        faults=(*smi.faults, *nvml.faults),
        denied=(*smi.denied, *nvml.denied),
    )


def merge(smi: SmiLog | Unavailable, nvml: NvmlLog | Unavailable) -> tuple[Gpu, ...]:
    """Return the GPUs that either tool saw, ordered and numbered by PCI address as both tools do.

    nvidia-smi speaks first, NVML fills what it leaves out. A report that stops in the middle counts for nothing. GPUs
    that a tool names and cannot open are not in the list, but in the tools' own reports, and keep their numbers.

    Raises:
        Unavailable: neither tool answered in full.
    """
    if isinstance(smi, SmiLog) and smi.truncated:
        smi = Unavailable("nvidia-smi: the report stops in the middle", PROBE)
    if isinstance(smi, Unavailable) and isinstance(nvml, Unavailable):
        raise Unavailable(smi.why, smi.probe or PROBE)
    gpus = {} if isinstance(smi, Unavailable) else {gpu.bus_id: gpu for gpu in smi.gpus}
    for gpu in () if isinstance(nvml, Unavailable) else nvml.gpus:
        gpus[gpu.bus_id] = _both(gpus[gpu.bus_id], gpu) if gpu.bus_id in gpus else gpu
    lost = [line for report in (smi, nvml) if not isinstance(report, Unavailable) for line in report.unreadable]
    ordered = [gpus[bus_id] for bus_id in sorted(gpus, key=bus_order)]
    told = [gpu.index for gpu in ordered]
    if told == sorted(set(told)):
        return tuple(ordered)
    return tuple(replace(gpu, index=index) for gpu, index in zip(ordered, ranks(gpus, lost), strict=True))
