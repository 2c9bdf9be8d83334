"""NVLink: the links of each GPU with their error counters, and the topology matrix of the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from hostcheck.errors import Maybe, NotApplicable, Unavailable
from hostcheck.facts.base import Fact, Optional
from hostcheck.facts.gpu import GPUS, Gpu
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
from hostcheck.snapshot.reading import Ending, Reading

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


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLinks:
    """The NVLinks of one GPU.

    Attributes:
        name: the model.
        links: empty where the board has NVLink and every link is down; not applicable where it has none.
        alone: it is the only GPU of the host.
        traits: what expectation layers match on.
    """

    index: int
    name: str
    links: Maybe[tuple[Link, ...]]
    alone: bool
    traits: Mapping[str, str] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """Such as "gpu0"."""
        return f"gpu{self.index}"

    @property
    def source(self) -> str:
        """The command that told."""
        return " ".join(STATUS_PROBE.argv)

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
    """The fault counters of one GPU's links."""

    index: int
    counters: Maybe[tuple[LinkCounter, ...]]

    @property
    def subject(self) -> str:
        """Such as "gpu0"."""
        return f"gpu{self.index}"

    @property
    def source(self) -> str:
        """The command that told."""
        return " ".join(ERRORS_PROBE.argv)


def merge_links(gpus: Sequence[Gpu], status: Reading) -> Sequence[GpuLinks]:
    """Return the links of every GPU."""
    blocks = _printed(status, parse_status)
    # Driver 580 prints nothing where no GPU has NVLink, driver 595 says so (github.com/canonical/checkbox/pull/2634).
    silent = status.ending is Ending.OK and not status.out.strip()
    return [
        GpuLinks(
            index=gpu.index,
            name=gpu.name if isinstance(gpu.name, str) else "",
            links=_NO_NVLINK if silent and _may_lack_nvlink(gpu) else _links(gpu, blocks),
            alone=len(gpus) == 1,
            traits=gpu.traits,
        )
        for gpu in gpus
    ]


def merge_errors(
    gpus: Sequence[Gpu], links: Sequence[GpuLinks] | Unavailable, errors: Reading
) -> Sequence[GpuLinkErrors]:
    """Return the fault counters of every GPU with active links."""
    unasked = {} if isinstance(links, Unavailable) else {own.index: _nothing_to_count(own) for own in links}
    first = _printed(errors, parse_errors)
    last: Maybe[Sequence[CounterBlock]] = Unavailable("the counters were read once only", errors.probe)
    if errors.later:
        last = _printed(errors.later, parse_errors)
    return [
        GpuLinkErrors(index=gpu.index, counters=unasked.get(gpu.index) or _errors(gpu, first, last)) for gpu in gpus
    ]


def read_topology(_: tuple[Gpu, ...], reading: Reading) -> Topology:
    """Return the matrix; a host without GPUs has none."""
    return parse_topology(reading.text())


def _may_lack_nvlink(gpu: Gpu) -> bool:
    """Whether it can be a board without NVLink; modules, and what is on an NVLink fabric, have it."""
    return isinstance(gpu.name, str) and "SXM" not in gpu.name and not isinstance(gpu.fabric.state, str)


def _links(gpu: Gpu, blocks: Maybe[Sequence[GpuBlock]]) -> Maybe[tuple[Link, ...]]:
    if gpu.mig.current is True:
        return _IN_MIG
    block = _own(blocks, gpu, STATUS_PROBE)
    return block.links if isinstance(block, GpuBlock) else block


def _nothing_to_count(own: GpuLinks) -> NotApplicable | None:
    if isinstance(own.links, NotApplicable):
        return own.links
    return NotApplicable("no NVLink is active") if isinstance(own.links, tuple) and not own.active else None


def _errors(
    gpu: Gpu, first: Maybe[Sequence[CounterBlock]], last: Maybe[Sequence[CounterBlock]]
) -> Maybe[tuple[LinkCounter, ...]]:
    before, after = _own(first, gpu, ERRORS_PROBE), _own(last, gpu, ERRORS_PROBE)
    if not isinstance(before, CounterBlock):
        return before
    if not isinstance(before.counters, Mapping):
        return before.counters
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
    )


def _printed(reading: Reading, parse: Callable[[str], tuple[B, ...]]) -> Maybe[Sequence[B]]:
    try:
        return parse(reading.text())
    except Unavailable as missing:
        return Unavailable(missing.why, missing.probe or reading.probe, missing.ending)


def _own(blocks: Maybe[Sequence[B]], gpu: Gpu, probe: CommandProbe) -> B | Unavailable | NotApplicable:
    """Return a GPU's block: by UUID, since a GPU may be lost between two commands, else by index."""
    if isinstance(blocks, Unavailable | NotApplicable):
        return blocks
    by_uuid = [block for block in blocks if block.uuid == gpu.uuid]
    found = by_uuid or [block for block in blocks if block.index == gpu.index]
    return found[0] if len(found) == 1 else Unavailable(f"{' '.join(probe.argv)} says nothing about it", probe.id)


LINKS: Fact[Sequence[GpuLinks]] = Fact("nvlink.links", merge_links, GPUS, STATUS_PROBE)
LINK_ERRORS: Fact[Sequence[GpuLinkErrors]] = Fact("nvlink.errors", merge_errors, GPUS, Optional(LINKS), ERRORS_PROBE)
TOPOLOGY: Fact[Topology] = Fact("nvlink.topology", read_topology, GPUS, TOPOLOGY_PROBE)
