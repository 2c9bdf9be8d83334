"""Switch ports between GPUs and what they exchange data with, and whether access control (ACS) redirects it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hostcheck.errors import Maybe, NotApplicable, Unavailable, need
from hostcheck.facts.base import Fact, Optional
from hostcheck.facts.gpu import GPUS, Gpu
from hostcheck.facts.kernel import MODULES
from hostcheck.facts.nvlink import TOPOLOGY, Topology
from hostcheck.facts.pci import PCI, PciFunction, PciTree, parse_path
from hostcheck.facts.pci_config import BITS, DOWNSTREAM, access_control, port_type
from hostcheck.facts.platform import PLATFORM, Platform
from hostcheck.facts.software import DEVICES_PROBE, VERBS
from hostcheck.snapshot.probes import GPUS_AWAKE, FileProbe
from hostcheck.snapshot.reading import Reading

_PORTS = "/sys/bus/pci/drivers/pcieport"
# Root ports and ports of switches. To read what a suspended port says wakes it.
CONFIG = FileProbe("pci.config", (f"{_PORTS}/*/config",), limit=4096, guard=GPUS_AWAKE)

# PCI_ACS_RR, PCI_ACS_CR and PCI_ACS_EC: what the kernel takes for redirection (drivers/pci/p2pdma.c).
_REDIRECT, _DIRECT_TRANSLATED = 0x04 | 0x08 | 0x20, 0x40


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchPort:
    """A downstream port of a PCI Express switch in which the way from a GPU to a peer, or back, turns around.

    Only the port at which two ways part decides: the ports below it send everything upwards anyway, and what goes from
    one root port to another passes the root complex with or without ACS.

    Attributes:
        address: of the port.
        below: addresses of the GPUs, adapters or drives on this port's side.
        peers: addresses of those on the other side, under the same switch.
        needed: true, or why it is not known whether any of the pairs exchanges data over PCIe.
        control: the control register of its ACS; None where it has no ACS.
    """

    address: str
    below: tuple[str, ...]
    peers: tuple[str, ...]
    needed: Maybe[bool]
    control: Maybe[int | None]

    @property
    def subject(self) -> str:
        """Its address."""
        return self.address

    @property
    def bits(self) -> str:
        """The bits that are set, as lspci prints them; empty for none."""
        control = need(self.control) or 0
        return " ".join(f"{name}+" for place, name in enumerate(BITS) if control >> place & 1)

    @property
    def routing(self) -> str:
        """Either "direct", if the switch passes on what they exchange, or "redirected", by way of the root complex."""
        control = need(self.control) or 0
        if not control & _REDIRECT:
            return "direct"
        need(self.needed)
        if control & _DIRECT_TRANSLATED:
            raise Unavailable(
                "only addresses that are not translated yet are redirected (DirectTrans+), and whether the devices "
                "translate them (ATS) is not read",
                CONFIG.id,
            )
        return "redirected"


def _drives(tree: PciTree, modules: frozenset[str] | Unavailable) -> Iterator[tuple[PciFunction, Maybe[bool]]]:
    """Yield the NVMe drives, which GPUs reach by themselves where GPUDirect Storage (nvidia-fs) is loaded."""
    used = modules if isinstance(modules, Unavailable) else "nvidia_fs" in modules
    if used is not False:
        yield from ((drive, used) for drive in tree.functions if drive.is_nvme and not drive.virtual)


def _rdma(tree: PciTree, devices: Reading) -> list[PciFunction]:
    """Return the functions with an RDMA interface that programs can use."""
    paths = (parse_path(entry.target) for entry in devices.listed(VERBS).values())
    found = {path[-1]: tree.by_address.get(path[-1]) for path in paths if path}
    return [adapter for adapter in found.values() if adapter is not None and not adapter.virtual]


def _needs_pcie(
    one: PciFunction, other: PciFunction, gpus: Sequence[Gpu] | Unavailable, topology: Topology | Unavailable
) -> Maybe[bool]:
    """Return whether two GPUs can exchange data over PCIe only; GeForce boards do not do so at all."""
    if isinstance(gpus, Unavailable):
        return gpus
    if isinstance(topology, Unavailable):
        return topology
    named = {gpu.bus_id: gpu for gpu in gpus}
    first, second = named.get(one.address), named.get(other.address)
    rows = {row.index: row for row in topology.gpus}
    if first is None or second is None or first.index not in rows:
        return Unavailable(f"the driver does not tell how {one.address} reaches {other.address}")
    if any(isinstance(gpu.name, str) and "GeForce" in gpu.name for gpu in (first, second)):
        return False
    return not rows[first.index].bonded(second.index)


def _pairs(
    tree: PciTree,
    others: Sequence[tuple[PciFunction, Maybe[bool]]],
    gpus: Sequence[Gpu] | Unavailable,
    topology: Topology | Unavailable,
) -> Iterator[tuple[PciFunction, PciFunction, Maybe[bool]]]:
    """Yield each GPU with what it exchanges data with over PCIe, and whether that is known."""
    cards = [card for card in tree.gpus if not card.is_passed_through]
    for place, card in enumerate(cards):
        yield from ((card, other, needed) for other, needed in others)
        for other in cards[place + 1 :]:
            if card.shares(other) and (needed := _needs_pcie(card, other, gpus, topology)) is not False:
                yield card, other, needed


def _control(configs: Reading, address: str) -> Maybe[int | None]:
    """Return the control register of a switch's downstream port, and not applicable for any other function."""
    try:
        path = f"{_PORTS}/{address}/config"
        if configs.read(path) is None:
            raise Unavailable("the kernel's driver for ports has not taken the port")
        data = configs.files[path].data
        if port_type(data) != DOWNSTREAM:
            return NotApplicable("it is no downstream port of a switch")
        return access_control(data)
    except Unavailable as missing:
        return Unavailable(missing.why, configs.probe, missing.ending)


def switch_ports(
    tree: PciTree,
    configs: Reading,
    devices: Reading,
    modules: frozenset[str] | Unavailable,
    gpus: Sequence[Gpu] | Unavailable,
    topology: Topology | Unavailable,
    platform: Platform,
) -> Sequence[SwitchPort]:
    """Return the ports that decide on what GPUs exchange with adapters, drives, and GPUs that NVLink does not reach.

    Raises:
        NotApplicable: there are none, the switches are those of a hypervisor, or the host is an Arm server.
        Unavailable: RDMA devices or the configuration space were not read.
    """
    if platform.hypervisor:
        raise NotApplicable(f"{platform.label}: the bridges that a guest sees are not those of the machine")
    if platform.architecture == "aarch64":
        raise NotApplicable("Arm servers: what they want of their switches has not been learnt on one yet")
    others = [*((adapter, True) for adapter in _rdma(tree, devices)), *_drives(tree, modules)]
    configs.check()
    meeting: dict[str, list[tuple[str, str, Maybe[bool]]]] = {}
    for one, other, needed in _pairs(tree, others, gpus, topology):
        for near, far in ((one, other), (other, one)):
            depth = near.shares(far)
            port = tree.by_address.get(near.path[depth]) if 0 < depth < len(near.path) - 1 else None
            if port is not None and port.is_bridge:
                meeting.setdefault(port.address, []).append((near.address, far.address, needed))
    ports = [_port(address, pairs, _control(configs, address)) for address, pairs in sorted(meeting.items())]
    ports = [port for port in ports if not isinstance(port.control, NotApplicable)]
    if not ports:
        raise NotApplicable(
            "no GPU shares a switch with an RDMA adapter, a drive of GPUDirect Storage, or a GPU without NVLink to it"
        )
    return ports


def _port(address: str, pairs: Sequence[tuple[str, str, Maybe[bool]]], control: Maybe[int | None]) -> SwitchPort:
    return SwitchPort(
        address=address,
        below=tuple(dict.fromkeys(near for near, _, _ in pairs)),
        peers=tuple(dict.fromkeys(far for _, far, _ in pairs)),
        needed=next((needed for _, _, needed in pairs if needed is True), pairs[0][2]),
        control=control,
    )


SWITCH_PORTS: Fact[Sequence[SwitchPort]] = Fact(
    "pci.switch-ports",
    switch_ports,
    PCI,
    CONFIG,
    DEVICES_PROBE,
    Optional(MODULES),
    Optional(GPUS),
    Optional(TOPOLOGY),
    PLATFORM,
)
