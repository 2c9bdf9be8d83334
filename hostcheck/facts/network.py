"""Network interfaces: their links, queues and CPUs, and the kernel's network settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from hostcheck.errors import Maybe, NotApplicable, Unavailable
from hostcheck.facts.base import Fact
from hostcheck.facts.irq import NIC_IRQS, DeviceIrqs
from hostcheck.facts.kernel import maybe
from hostcheck.facts.memory import count
from hostcheck.facts.pci import parse_path
from hostcheck.snapshot.probes import KIB, FileProbe, ListProbe
from hostcheck.snapshot.reading import Reading

NET = "/sys/class/net"
_NAMES = {
    "core": "rmem_max wmem_max netdev_max_backlog default_qdisc",
    "ipv4": """
        tcp_rmem tcp_wmem tcp_congestion_control tcp_available_congestion_control conf/all/arp_announce
        conf/all/arp_ignore
    """,
}
_KNOBS = {
    f"net.{group}.{name.replace('/', '.')}": f"/proc/sys/net/{group}/{name}"
    for group, names in _NAMES.items()
    for name in names.split()
}
_RX, _TX = f"{NET}/*/queues/rx-*/rps_cpus", f"{NET}/*/queues/tx-*/xps_cpus"

LINKS_PROBE = ListProbe("network.links", (f"{NET}/*", f"{NET}/*/master"))
INTERFACES_PROBE = FileProbe(
    "network.interfaces", tuple(f"{NET}/*/{name}" for name in ("mtu", "type", "operstate", "speed")), limit=256
)
SETTINGS_PROBE = FileProbe("network.sysctl", tuple(_KNOBS.values()), limit=4 * KIB)
QUEUES_PROBE = FileProbe("network.queues", (_RX, _TX), limit=4 * KIB)

FAST_MBPS = 25_000
"""From this speed on, an interface is one for data and not only one for logins."""

_ETHERNET = "1"  # ARPHRD_ETHER


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """One network interface of a device.

    Attributes:
        name: such as "ens1np0".
        address: the PCI address of its device; empty where it has none on that bus.
        master: the bond or bridge that it is a part of; empty for none.
        ethernet: whether it speaks Ethernet, and not InfiniBand.
        up: whether it is up, with a link.
        mtu: the largest packet in bytes.
        speed_mbps: of its link; not applicable where the driver names none, as in most guests, or the link is down.
    """

    name: str
    address: str
    master: str
    ethernet: bool
    up: bool
    mtu: Maybe[int]
    speed_mbps: Maybe[int]

    @property
    def subject(self) -> str:
        """Its name."""
        return self.name

    @property
    def is_fast(self) -> bool:
        """Whether it is an Ethernet link that is up and fast enough for data."""
        return self.ethernet and self.up and isinstance(self.speed_mbps, int) and self.speed_mbps >= FAST_MBPS


def parse_speed_mbps(text: str) -> int:
    """Parse an interface's speed.

    Raises:
        NotApplicable: the driver knows none.
        Unavailable: it is no number.

    Sample:
        200000
    """
    if text.strip() == "-1":
        raise NotApplicable("the driver names no speed")
    return count(text, "speed")


def read_interfaces(links: Reading, files: Reading) -> Sequence[Interface]:
    """Return the interfaces of devices; those of software (bridges, tunnels, lo) are left out.

    Raises:
        Unavailable: they were not read.
    """
    texts = {name: files.glob(f"{NET}/*/{name}", refused="leave-out") for name in ("mtu", "type", "operstate", "speed")}
    masters = {path.split("/")[4]: entry.target for path, entry in links.listed(f"{NET}/*/master").items()}
    found = []
    for path, entry in links.listed(f"{NET}/*").items():
        if entry.kind != "l" or "/virtual/" in entry.target:
            continue
        name = path.rpartition("/")[2]
        own = {field: texts[field].get(f"{path}/{field}", "").strip() for field in texts}
        speed = maybe(partial(parse_speed_mbps, own["speed"])) if own["speed"] else NotApplicable("it has no link")
        found.append(
            Interface(
                name=name,
                address=next(reversed(parse_path(entry.target)), ""),
                master=masters.get(name, "").rpartition("/")[2],
                ethernet=own["type"] == _ETHERNET,
                up=own["operstate"] == "up",
                mtu=maybe(partial(count, own["mtu"], f"{path}/mtu")),
                speed_mbps=speed,
            )
        )
    return found


def read_settings(reading: Reading) -> Mapping[str, Maybe[str]]:
    """Return each network setting by its sysctl name; one that this kernel lacks is not applicable."""

    def text(name: str, path: str) -> str:
        found = reading.read(path)
        if found is None:
            raise NotApplicable(f"this kernel has no {name}")
        return found.strip()

    return MappingProxyType({name: maybe(partial(text, name, path)) for name, path in _KNOBS.items()})


def parse_triple(text: str) -> tuple[int, int, int]:
    """Parse the least, the first and the largest size of a TCP buffer, in bytes.

    Raises:
        Unavailable: they are not three numbers.

    Sample:
        4096	131072	6291456
    """
    words = text.split()
    if len(words) != 3 or not all(re.fullmatch("[0-9]{1,12}", word) for word in words):
        raise Unavailable(f"{text.strip()[:60]!r} are not three sizes", SETTINGS_PROBE.id)
    low, first, most = (int(word) for word in words)
    return low, first, most


def parse_mask(text: str) -> frozenset[int]:
    """Parse a mask of CPUs: groups of eight hexadecimal digits, the highest CPUs first.

    Raises:
        Unavailable: it is no mask.

    Sample:
        00000000,0000ffff
    """
    digits = text.strip().replace(",", "")
    if not re.fullmatch("[0-9a-f]{1,16384}", digits):
        raise Unavailable(f"{text.strip()[:60]!r} is no mask of CPUs", QUEUES_PROBE.id)
    mask = int(digits, 16)
    return frozenset(cpu for cpu in range(mask.bit_length()) if mask >> cpu & 1)


def cpu_mask(cpus: frozenset[int], like: str) -> str:
    """Write CPUs as a mask, in as many digits as the kernel shows for this file."""
    groups = [len(group) for group in like.strip().split(",")]
    digits = f"{sum(1 << cpu for cpu in cpus):0{sum(groups)}x}"
    parts = []
    for size in reversed(groups[1:]):
        parts.append(digits[-size:])
        digits = digits[:-size]
    return ",".join([digits, *reversed(parts)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Queues:
    """Which CPUs may work for the queues of an interface.

    Attributes:
        name: of the interface.
        address: of its PCI function.
        near: CPUs of its own node that are not isolated.
        receive: file of each receive queue to its mask, as text: CPUs to which packets are handed on (RPS).
        send: file of each send queue to its mask: CPUs that send by it (XPS).
    """

    name: str
    address: str
    near: Maybe[frozenset[int]]
    receive: Mapping[str, str]
    send: Mapping[str, str]

    @property
    def subject(self) -> str:
        """The interface's name."""
        return self.name


def read_queues(interfaces: Sequence[Interface], nics: Sequence[DeviceIrqs], reading: Reading) -> Sequence[Queues]:
    """Return the queues of each interface whose place on the PCI bus is known."""
    receive, send = (reading.glob(pattern, refused="leave-out") for pattern in (_RX, _TX))
    by_address = {device.subject: device for device in nics}
    found = []
    for interface in interfaces:
        device = by_address.get(interface.address)
        if device is None:
            continue
        near = device.near
        folder = f"{NET}/{interface.name}/queues/"
        found.append(
            Queues(
                name=interface.name,
                address=interface.address,
                near=(near & device.housekeeping or near) if isinstance(near, frozenset) else near,
                receive={path: text for path, text in receive.items() if path.startswith(folder)},
                send={path: text for path, text in send.items() if path.startswith(folder)},
            )
        )
    return found


INTERFACES: Fact[Sequence[Interface]] = Fact("network.interfaces", read_interfaces, LINKS_PROBE, INTERFACES_PROBE)


def _wired(interfaces: Sequence[Interface]) -> Sequence[Interface]:
    return [interface for interface in interfaces if interface.ethernet and interface.up]


def _fast(interfaces: Sequence[Interface]) -> Sequence[Interface]:
    found = [interface for interface in interfaces if interface.is_fast]
    if not found:
        raise NotApplicable(f"no Ethernet link of {FAST_MBPS // 1000} Gb/s or more is up")
    return found


WIRED: Fact[Sequence[Interface]] = Fact("network.ethernet-links", _wired, INTERFACES)
FAST: Fact[Sequence[Interface]] = Fact("network.fast-links", _fast, INTERFACES)
SETTINGS: Fact[Mapping[str, Maybe[str]]] = Fact("network.sysctl", read_settings, SETTINGS_PROBE)
QUEUES: Fact[Sequence[Queues]] = Fact("network.queues", read_queues, INTERFACES, NIC_IRQS, QUEUES_PROBE)
