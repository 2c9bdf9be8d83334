"""PCI Express links that matter: that of each GPU, and each hop above GPUs, switches, NICs and NVMe drives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from hostcheck.errors import Maybe, NotApplicable, Unavailable, need
from hostcheck.facts.base import Fact, Optional
from hostcheck.facts.gpu import GPUS, Gpu
from hostcheck.facts.pci import PCI, PciFunction, PciLink, PciTree
from hostcheck.facts.platform import PLATFORM, Platform

T = TypeVar("T")
SPEED_OF_GENERATION = {1: 2.5, 2: 5.0, 3: 8.0, 4: 16.0, 5: 32.0, 6: 64.0, 7: 128.0}
"""Transfer rate of a lane in GT/s by PCI Express generation (PCI-SIG)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLink:
    """The link between a GPU and what is above it.

    Attributes:
        subject: the GPU's name in findings, or its address where only the kernel tells of it.
        traits: what expectation layers may match.
        address: the GPU's PCI address.
        hypervisor: of the guest that this is, in which nothing above the GPU is real; empty on bare metal.
        width, speed_gts: lanes, and GT/s of each, now.
        card_width, card_speed_gts: the most that the GPU can.
        slot_width, slot_speed_gts: the most that the port above it can.
        performance_state: "P0" (full) to "P15"; GPUs slow their link down below P0.
    """

    subject: str
    traits: Mapping[str, str]
    address: str
    hypervisor: str
    width: Maybe[int]
    speed_gts: Maybe[float]
    card_width: Maybe[int]
    card_speed_gts: Maybe[float]
    slot_width: Maybe[int]
    slot_speed_gts: Maybe[float]
    performance_state: Maybe[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PciHop:
    """One link between two functions of the tree.

    Attributes:
        upper: the root port, or the downstream port of a switch.
        lower: the device, or the upstream port of the next switch.
    """

    upper: PciFunction
    lower: PciFunction

    @property
    def subject(self) -> str:
        """The lower end, which names the link: it has no other."""
        return self.lower.address

    @property
    def width(self) -> int:
        """Lanes in use."""
        return need(need(self.lower.link).width)

    @property
    def max_width(self) -> int:
        """The most lanes that both ends have."""
        return min(need(need(self.upper.link).max_width), need(need(self.lower.link).max_width))

    @property
    def speed_gts(self) -> float:
        """Transfer rate of a lane in GT/s."""
        return need(need(self.lower.link).speed_gts)

    @property
    def max_speed_gts(self) -> float:
        """The highest transfer rate that both ends can, in GT/s."""
        return min(need(need(self.upper.link).max_speed_gts), need(need(self.lower.link).max_speed_gts))


def hops(tree: PciTree) -> tuple[PciHop, ...]:
    """Return each link on the way from a root port to a NIC, NVMe drive or NVSwitch, and above each GPU.

    A GPU's own link is left out: it slows down by itself and has checks of its own. Links are every second step of a
    path: from a root port or downstream port to what is below; the steps between lie inside a switch.
    """
    found: dict[str, PciHop] = {}
    for leaf in tree.functions:
        if leaf.virtual or not (leaf.is_gpu or leaf.is_amd_gpu or leaf.is_nvswitch or leaf.is_nic or leaf.is_nvme):
            continue
        for top, bottom in zip(leaf.path[::2], leaf.path[1::2], strict=False):
            upper, lower = tree.by_address.get(top), tree.by_address.get(bottom)
            own = lower is leaf and (leaf.is_gpu or leaf.is_amd_gpu)
            if upper is not None and lower is not None and upper.is_bridge and not own:
                # The functions of one device share its link; the first speaks for all.
                found.setdefault(f"{top} {bottom.rpartition('.')[0]}", PciHop(upper=upper, lower=lower))
    return tuple(found.values())


def _hops(tree: PciTree, platform: Platform) -> Sequence[PciHop]:
    if platform.hypervisor:
        raise NotApplicable(f"{platform.label}: the bridges that a guest sees are not those of the machine")
    return hops(tree)


HOPS: Fact[Sequence[PciHop]] = Fact("pci.links", _hops, PCI, PLATFORM)


def _first(*values: Maybe[T]) -> Maybe[T]:
    """Return the first value there is, else the first reason, ignorance before not applicable."""
    missing: Maybe[T] = NotApplicable("this GPU has no PCI Express link")
    for value in values:
        if not isinstance(value, Unavailable | NotApplicable):
            return value
        if isinstance(value, Unavailable) and not isinstance(missing, Unavailable):
            missing = value
    return missing


def _speed(generation: Maybe[int]) -> Maybe[float]:
    if not isinstance(generation, int):
        return generation
    speed = SPEED_OF_GENERATION.get(generation)
    return Unavailable(f"PCI Express generation {generation} is not known") if speed is None else speed


def _of(link: Maybe[PciLink], field: Callable[[PciLink], Maybe[T]]) -> Maybe[T]:
    return field(link) if isinstance(link, PciLink) else link


def _gpu_link(gpu: Gpu | None, function: PciFunction | None, slot: Maybe[PciLink], hypervisor: str) -> GpuLink:
    """Put together what the driver and the kernel say; the driver's word comes first, since it asks the GPU itself."""
    unseen = NotApplicable("the driver does not name this GPU")
    own = function.link if function else NotApplicable("the kernel does not list this GPU")
    pcie = gpu.pcie if gpu else None
    return GpuLink(
        subject=gpu.subject if gpu else function.address if function else "",
        traits=gpu.traits if gpu else function.traits if function else {},
        address=function.address if function else gpu.bus_id if gpu else "",
        hypervisor=hypervisor,
        width=_first(pcie.width if pcie else unseen, _of(own, lambda link: link.width)),
        speed_gts=_first(_speed(pcie.gen) if pcie else unseen, _of(own, lambda link: link.speed_gts)),
        card_width=_first(pcie.max_width if pcie else unseen, _of(own, lambda link: link.max_width)),
        card_speed_gts=_first(
            _speed(pcie.device_max_gen) if pcie else unseen,
            _of(own, lambda link: link.max_speed_gts),
            _speed(pcie.max_gen) if pcie else unseen,
        ),
        slot_width=_of(slot, lambda link: link.max_width),
        slot_speed_gts=_first(
            _speed(pcie.host_max_gen) if pcie else unseen,
            _of(slot, lambda link: link.max_speed_gts),
            _speed(pcie.max_gen) if pcie else unseen,
        ),
        performance_state=gpu.performance_state if gpu else Unavailable("the driver does not name this GPU"),
    )


def _slot(tree: PciTree, function: PciFunction, hypervisor: str) -> Maybe[PciLink]:
    if hypervisor:
        return Unavailable("the hypervisor does not show the slot")
    above = tree.parents(function)
    return above[0].link if above else Unavailable("no bridge is shown above the GPU")


def gpu_links(tree: PciTree | Unavailable, gpus: Sequence[Gpu] | Unavailable, platform: Platform) -> list[GpuLink]:
    """Return the link of each GPU that the driver or the kernel names.

    Raises:
        Unavailable: neither could be read.
    """
    if isinstance(tree, Unavailable) and isinstance(gpus, Unavailable):
        raise Unavailable(gpus.why, gpus.probe)
    hypervisor = platform.hypervisor
    named = {} if isinstance(gpus, Unavailable) else {gpu.bus_id: gpu for gpu in gpus}
    if isinstance(tree, Unavailable):
        return [_gpu_link(gpu, None, tree, hypervisor) for gpu in named.values()]
    cards = [card for card in tree.gpus if not card.is_passed_through]
    known = [_gpu_link(named.get(card.address), card, _slot(tree, card, hypervisor), hypervisor) for card in cards]
    hidden = [gpu for address, gpu in named.items() if tree.get(address) is None]
    return known + [_gpu_link(gpu, None, Unavailable("the slot is not shown"), hypervisor) for gpu in hidden]


GPU_LINKS: Fact[Sequence[GpuLink]] = Fact("pci.gpu-links", gpu_links, Optional(PCI), Optional(GPUS), PLATFORM)
