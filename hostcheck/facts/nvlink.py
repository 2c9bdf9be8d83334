"""NVLink: the links of each GPU with their error counters, and the topology matrix of the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from hostcheck.errors import Maybe, NotApplicable, Unavailable
from hostcheck.facts.base import Fact, Optional
from hostcheck.facts.gpu import GPUS, NVML_LOG, Gpu, NvmlLog
from hostcheck.facts.nvlink_smi import (
    CounterBlock,
    GpuBlock,
    Link,
    Topology,
    TopologyRow,
    parse_errors,
    parse_status,
    parse_topology,
)
from hostcheck.snapshot.probes import NVIDIA_DRIVER, CommandProbe
from hostcheck.snapshot.reading import Reading

__all__ = [
    "LINKS",
    "LINK_ERRORS",
    "TOPOLOGY",
    "GpuLinkErrors",
    "GpuLinks",
    "Link",
    "LinkCounter",
    "Topology",
    "TopologyRow",
]

STATUS_PROBE = CommandProbe("nvlink.status", ("nvidia-smi", "nvlink", "-s"), guard=NVIDIA_DRIVER)
ERRORS_PROBE = CommandProbe("nvlink.errors", ("nvidia-smi", "nvlink", "-e"), guard=NVIDIA_DRIVER, twice=True)
TOPOLOGY_PROBE = CommandProbe("nvlink.topology", ("nvidia-smi", "topo", "-m"), guard=NVIDIA_DRIVER)

B = TypeVar("B", GpuBlock, CounterBlock)
_IN_MIG = NotApplicable("the GPU is in MIG mode, in which its NVLinks are not used")
_NO_NVLINK = NotApplicable("the board has no NVLink")
# Of NVML's counters those that nvidia-smi nvlink -e shows as faults; CRC and ECC of data lanes are mended in passing.
_FAULTS = frozenset(
    (
        "replay", "recovery", "crc_flit",
        "malformed_packets", "buffer_overruns", "rx_errors", "rx_remote_errors", "rx_general_errors",
        "local_integrity_errors", "tx_discards", "recovery_successes", "recovery_failures", "effective_errors",
        "symbol_errors",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLinks:
    """The NVLinks of one GPU.

    Attributes:
        name: the model.
        links: empty where the board has NVLink and every link is down; not applicable where it has none.
        source: who told: "NVML" or "nvidia-smi nvlink -s".
        alone: it is the only GPU of the host.
        traits: what expectation layers match on.
    """

    index: int
    name: str
    links: Maybe[tuple[Link, ...]]
    source: str
    alone: bool
    traits: Mapping[str, str] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """Such as "gpu0"."""
        return f"gpu{self.index}"

    @property
    def active(self) -> int:
        """How many links are known to be up."""
        return sum(link.active for link in self.links) if isinstance(self.links, tuple) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkCounter:
    """One fault counter of one link, read twice; `after` is unavailable where it was read once only."""

    link: int
    name: str
    before: int
    after: Maybe[int]

    @property
    def growth(self) -> Maybe[int]:
        """How much it grew. A total of 0 cannot have grown; a counter that was reset in between counts from 0."""
        if not isinstance(self.after, int):
            return 0 if self.before == 0 else self.after
        return self.after - self.before if self.after >= self.before else self.after


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLinkErrors:
    """The fault counters of one GPU's links, and who read them."""

    index: int
    counters: Maybe[tuple[LinkCounter, ...]]
    source: str

    @property
    def subject(self) -> str:
        """Such as "gpu0"."""
        return f"gpu{self.index}"


def merge_links(
    gpus: tuple[Gpu, ...], nvml: NvmlLog | Unavailable, status: Reading | Unavailable
) -> Sequence[GpuLinks]:
    """Return the links of every GPU, from NVML where it tells of all of them, else from nvidia-smi."""
    blocks = _printed(status, parse_status)
    made = []
    for gpu in gpus:
        links, source = _links(gpu, nvml, blocks)
        name = gpu.name if isinstance(gpu.name, str) else ""
        alone = len(gpus) == 1
        made.append(GpuLinks(index=gpu.index, name=name, links=links, source=source, alone=alone, traits=gpu.traits))
    return made


def merge_errors(
    gpus: tuple[Gpu, ...],
    links: Sequence[GpuLinks],
    nvml: NvmlLog | Unavailable,
    errors: Reading | Unavailable,
) -> Sequence[GpuLinkErrors]:
    """Return the fault counters of every GPU with active links, from NVML where it has them, else from nvidia-smi."""
    first, last = _printed(errors, parse_errors), _printed(_second(errors), parse_errors)
    made = []
    for gpu, own in zip(gpus, links, strict=True):
        counters, source = _errors(gpu, nvml, first, last)
        if isinstance(own.links, NotApplicable):
            counters = own.links
        elif isinstance(own.links, tuple) and not own.active:
            counters = NotApplicable("no NVLink is active")
        made.append(GpuLinkErrors(index=gpu.index, counters=counters, source=source))
    return made


def read_topology(_: tuple[Gpu, ...], reading: Reading) -> Topology:
    """Return the matrix; a host without GPUs has none."""
    return parse_topology(reading.text())


def _links(
    gpu: Gpu, nvml: NvmlLog | Unavailable, blocks: Maybe[Sequence[GpuBlock]]
) -> tuple[Maybe[tuple[Link, ...]], str]:
    if gpu.mig.current is True:
        return _IN_MIG, "nvidia-smi -q"
    sampled = nvml.links.get(gpu.bus_id) if isinstance(nvml, NvmlLog) else None
    if sampled == ():
        return _NO_NVLINK, "NVML"
    if isinstance(sampled, tuple) and all(isinstance(sample.active, bool) for sample in sampled):
        return tuple(
            Link(
                number=sample.link,
                active=sample.active is True,
                speed_gbs=sample.speed_mb_per_s / 1000
                if isinstance(sample.speed_mb_per_s, int)
                else sample.speed_mb_per_s,
            )
            for sample in sampled
        ), "NVML"
    block = _own(blocks, gpu)
    return block.links if isinstance(block, GpuBlock) else block, "nvidia-smi nvlink -s"


def _errors(
    gpu: Gpu,
    nvml: NvmlLog | Unavailable,
    first: Maybe[Sequence[CounterBlock]],
    last: Maybe[Sequence[CounterBlock]],
) -> tuple[Maybe[tuple[LinkCounter, ...]], str]:
    if sampled := tuple(_sampled_counters(gpu, nvml)):
        return sampled, "NVML"
    source = "nvidia-smi nvlink -e"
    before, after = _own(first, gpu), _own(last, gpu)
    if not isinstance(before, CounterBlock):
        return before, source
    if isinstance(before.counters, Unavailable | NotApplicable):
        return before.counters, source
    later = after.counters if isinstance(after, CounterBlock) else after
    gone = Unavailable("the counter was read once only", ERRORS_PROBE.id)
    return tuple(
        LinkCounter(
            link=link,
            name=name,
            before=count,
            after=later.get((link, name), gone) if isinstance(later, Mapping) else later,
        )
        for (link, name), count in before.counters.items()
    ), source


def _sampled_counters(gpu: Gpu, nvml: NvmlLog | Unavailable) -> Iterator[LinkCounter]:
    samples = nvml.links.get(gpu.bus_id) if isinstance(nvml, NvmlLog) else None
    for sample in samples if isinstance(samples, tuple) else ():
        for name, (before, after) in sample.counters.items():
            if name in _FAULTS and isinstance(before, int):
                yield LinkCounter(link=sample.link, name=name, before=before, after=after)


def _printed(reading: Reading | Unavailable, parse: Callable[[str], tuple[B, ...]]) -> Maybe[Sequence[B]]:
    if isinstance(reading, Unavailable):
        return reading
    try:
        return parse(reading.text())
    except Unavailable as missing:
        return Unavailable(missing.why, missing.probe or reading.probe)


def _second(reading: Reading | Unavailable) -> Reading | Unavailable:
    if isinstance(reading, Unavailable):
        return reading
    return reading.later or Unavailable("the counters were read once only", reading.probe)


def _own(blocks: Maybe[Sequence[B]], gpu: Gpu) -> B | Unavailable | NotApplicable:
    """Return a GPU's block: by UUID, since a GPU may be lost between two commands, else by index."""
    if isinstance(blocks, Unavailable | NotApplicable):
        return blocks
    by_uuid = [block for block in blocks if block.uuid == gpu.uuid]
    found = by_uuid or [block for block in blocks if block.index == gpu.index]
    return found[0] if len(found) == 1 else Unavailable("nvidia-smi nvlink says nothing about it", STATUS_PROBE.id)


LINKS: Fact[Sequence[GpuLinks]] = Fact("nvlink.links", merge_links, GPUS, Optional(NVML_LOG), Optional(STATUS_PROBE))
LINK_ERRORS: Fact[Sequence[GpuLinkErrors]] = Fact(
    "nvlink.errors", merge_errors, GPUS, LINKS, Optional(NVML_LOG), Optional(ERRORS_PROBE)
)
TOPOLOGY: Fact[Topology] = Fact("nvlink.topology", read_topology, GPUS, TOPOLOGY_PROBE)
