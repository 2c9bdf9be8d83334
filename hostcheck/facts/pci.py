"""PCI functions of the host, the bridges above them, their links and their drivers, all from sysfs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from hostcheck.errors import Maybe, NotApplicable, Unavailable
from hostcheck.facts.base import Fact, Optional
from hostcheck.snapshot.probes import GPUS_AWAKE, FileProbe, ListProbe
from hostcheck.snapshot.reading import Ending, Reading

DEVICES = "/sys/bus/pci/devices"
AER_SERVICE = "/sys/bus/pci_express/drivers/aer/*:pcie*"

LISTING = ListProbe("pci.devices", (DEVICES, f"{DEVICES}/*", f"{DEVICES}/*/driver", f"{DEVICES}/*/physfn", AER_SERVICE))

_IDENTITY = ("vendor", "device", "subsystem_vendor", "subsystem_device", "class", "revision")
_PLACE = ("numa_node", "local_cpulist", "power/control", "power/runtime_status")
FUNCTIONS = FileProbe("pci.functions", tuple(f"{DEVICES}/*/{name}" for name in (*_IDENTITY, *_PLACE)), limit=4096)

# A probe of its own: unlike the others, these attributes are read out of the device's configuration space, for which
# newer kernels wake a suspended function.
_LINK = ("current_link_speed", "current_link_width", "max_link_speed", "max_link_width")
LINKS = FileProbe("pci.links", tuple(f"{DEVICES}/*/{name}" for name in _LINK), limit=4096, guard=GPUS_AWAKE)

T = TypeVar("T")
NVIDIA, AMD = "10de", "1002"
_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_ROOT = re.compile(r"pci[0-9a-f]{4,8}:[0-9a-f]{2}")
_BUS_ID = re.compile(r"(?:([0-9a-f]{1,8}):)?([0-9a-f]{2}):([0-9a-f]{2})(?:\.([0-7]))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class PciLink:
    """The PCI Express link of a function towards its bridge, or of a bridge's port towards what is below it.

    Attributes:
        speed_gts, max_speed_gts: transfer rate of a lane now, and the highest that this end can, in GT/s.
        width, max_width: lanes in use now, and the most that this end can.
    """

    speed_gts: Maybe[float]
    width: Maybe[int]
    max_speed_gts: Maybe[float]
    max_width: Maybe[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PciFunction:
    """One PCI function.

    Attributes:
        address: domain, bus, device and function in the kernel's form, such as "0000:53:00.0".
        path: addresses from the root port down to the function itself; in many guests only itself.
        vendor_id, device_id, subsystem_vendor_id, subsystem_device_id: four hexadecimal digits each.
        class_code: class, subclass and programming interface in one number, such as 0x030200.
        revision: such as 0xa1.
        driver: the kernel driver that is bound, or None.
        virtual: a virtual function of a physical one that this same host owns (SR-IOV).
        numa_node: the node that the firmware names; unavailable where it names none (-1).
        local_cpulist: CPUs near the function as the kernel lists them ("0-31,64-95"); all where the node is unknown.
        link: its link, if it shows one.
        power_control: "on" (always powered) or "auto" (may be suspended at run time).
        runtime_status: "active", "suspended" or "unsupported".
    """

    address: str
    path: tuple[str, ...]
    vendor_id: str
    device_id: str
    subsystem_vendor_id: str
    subsystem_device_id: str
    class_code: int
    revision: int
    driver: str | None
    virtual: bool
    numa_node: Maybe[int]
    local_cpulist: Maybe[str]
    link: Maybe[PciLink]
    power_control: Maybe[str]
    runtime_status: Maybe[str]

    @property
    def subject(self) -> str:
        """Its address."""
        return self.address

    @property
    def pci(self) -> str:
        """Vendor and device, such as "10de:2330"."""
        return f"{self.vendor_id}:{self.device_id}"

    @property
    def traits(self) -> dict[str, str]:
        """What expectation layers may match."""
        return {"pci": self.pci}

    def shares(self, other: PciFunction) -> int:
        """Return how many functions its path has in common with another one's; two and more are ports of one switch."""
        pairs = zip(self.path, other.path, strict=False)
        return next((depth for depth, (a, b) in enumerate(pairs) if a != b), min(len(self.path), len(other.path)))

    @property
    def kind(self) -> int:
        """Class and subclass, such as 0x0302."""
        return self.class_code >> 8

    @property
    def is_gpu(self) -> bool:
        """Whether it is an NVIDIA GPU (not a virtual function that the host gives to its guests)."""
        return self.vendor_id == NVIDIA and self.kind in (0x0300, 0x0302) and not self.virtual

    @property
    def is_passed_through(self) -> bool:
        """Whether the host keeps its hands off it, so that a guest can have it."""
        return self.driver is not None and self.driver.startswith(("vfio", "pci-stub", "pciback", "nvgrace"))

    @property
    def is_amd_gpu(self) -> bool:
        """Whether it is an AMD GPU: a display or 3D controller, or a processing accelerator."""
        return self.vendor_id == AMD and self.kind in (0x0300, 0x0302, 0x0380, 0x1200) and not self.virtual

    @property
    def is_nvswitch(self) -> bool:
        """Whether it is an NVSwitch; nForce chipsets of 2006 have the same vendor and class, and lower ids."""
        return self.vendor_id == NVIDIA and self.kind == 0x0680 and int(self.device_id, 16) >= 0x1A00

    @property
    def is_nic(self) -> bool:
        """Whether it is a network or InfiniBand controller."""
        return self.kind >> 8 == 0x02

    @property
    def is_nvme(self) -> bool:
        """Whether it is an NVMe controller."""
        return self.kind == 0x0108

    @property
    def is_bridge(self) -> bool:
        """Whether it is a PCI-to-PCI bridge: a root port, or a port of a switch."""
        return self.kind == 0x0604


@dataclass(frozen=True, slots=True, kw_only=True)
class PciTree:
    """All PCI functions in address order."""

    functions: tuple[PciFunction, ...]
    by_address: Mapping[str, PciFunction] = field(repr=False, compare=False)

    @property
    def gpus(self) -> tuple[PciFunction, ...]:
        """NVIDIA GPUs."""
        return tuple(function for function in self.functions if function.is_gpu)

    @property
    def nvswitches(self) -> tuple[PciFunction, ...]:
        """NVSwitches that show themselves on the bus; those of Blackwell boards do not."""
        return tuple(function for function in self.functions if function.is_nvswitch)

    @property
    def nics(self) -> tuple[PciFunction, ...]:
        """Network and InfiniBand controllers, virtual functions of this host left out."""
        return tuple(function for function in self.functions if function.is_nic and not function.virtual)

    def get(self, bus_id: str) -> PciFunction | None:
        """Return the function at an address in any usual form ("00000000:3B:00.0", "3b:00.0"), or None."""
        return self.by_address.get(address_of(bus_id))

    def parents(self, function: PciFunction) -> tuple[PciFunction, ...]:
        """Return the bridges above a function, nearest first; those that the host does not show are left out."""
        above = (self.by_address.get(address) for address in reversed(function.path[:-1]))
        return tuple(bridge for bridge in above if bridge is not None)


def address_of(bus_id: str) -> str:
    """Return a PCI address in the kernel's form; text that is no address comes back as it is.

    nvidia-smi writes eight digits of domain in upper case, lspci may leave the domain out.
    """
    found = _BUS_ID.fullmatch(bus_id.strip().lower())
    if found is None:
        return bus_id
    domain = (found[1] or "0").lstrip("0").rjust(4, "0")
    return f"{domain}:{found[2]}:{found[3]}.{found[4] or '0'}"


def parse_path(target: str) -> tuple[str, ...]:
    """Return the addresses from the root port to the function out of the target of its sysfs link.

    A controller that opens a PCI domain of its own (Intel VMD) stands in the middle; the path starts below it.

    Sample:
        ../../../devices/pci0000:15/0000:15:01.0/0000:16:00.0/0000:17:01.0/0000:19:00.0
    """
    parts = target.strip().split("/")
    roots = [place for place, part in enumerate(parts) if _ROOT.fullmatch(part)]
    below = parts[roots[-1] + 1 :] if roots else parts
    return tuple(part for part in below if _ADDRESS.fullmatch(part))


def parse_speed(text: str | None) -> Maybe[float]:
    """Return a link speed in GT/s; kernels before 5.7 write "8 GT/s", later ones "8.0 GT/s PCIe".

    Sample:
        32.0 GT/s PCIe
    """
    if text is None:
        return NotApplicable("the function shows no PCI Express link")
    if text.lower().startswith("unknown"):
        return NotApplicable("the function gives its link speed as unknown")
    found = re.fullmatch(r"(\d{1,3}(?:\.\d)?) GT/s.*", text.strip())
    if found is None or float(found[1]) == 0:
        return Unavailable(f"link speed {text.strip()[:40]!r} is not understood")
    return float(found[1])


def parse_width(text: str | None) -> Maybe[int]:
    """Return a link width in lanes; 0 and 255 are a function without a link, 63 one that does not answer.

    Sample:
        16
    """
    if text is None:
        return NotApplicable("the function shows no PCI Express link")
    stripped = text.strip()
    if not re.fullmatch(r"[0-9]{1,3}", stripped):
        return Unavailable(f"link width {stripped[:40]!r} is not understood")
    width = int(stripped)
    if width in (0, 255):
        return NotApplicable("the function reports no link of its own")
    if width > 32:
        return Unavailable(f"link width reads {width}: the function does not answer")
    return width


def attribute(reading: Reading, address: str, name: str) -> Maybe[str] | None:
    """Return an attribute's text, None if the function has none, or why it could not be read."""
    state = reading.files.get(f"{DEVICES}/{address}/{name}")
    if state is None and reading.ending is Ending.OK and f"{DEVICES}/*/{name}" in reading.asked:
        return None
    try:
        return reading.read(f"{DEVICES}/{address}/{name}")
    except Unavailable as missing:
        return missing


def _text(reading: Reading, address: str, name: str) -> Maybe[str]:
    found = attribute(reading, address, name)
    if found is None:
        return NotApplicable(f"this kernel has no {name} for {address}")
    return found.strip() if isinstance(found, str) else found


def _hex(reading: Reading, address: str, name: str) -> str:
    """Return the digits of a hexadecimal attribute; a missing one (bridges have no subsystem) is empty."""
    found = attribute(reading, address, name)
    if isinstance(found, Unavailable):
        raise Unavailable(found.why, found.probe)
    digits = re.fullmatch(r"(?:0x)?([0-9a-f]{1,8})", found.strip().lower()) if isinstance(found, str) else None
    if isinstance(found, str) and digits is None:
        raise Unavailable(f"{name} of {address} is {found[:40]!r}, no hexadecimal number", reading.probe)
    return digits[1] if digits else ""


def _node(reading: Reading, address: str) -> Maybe[int]:
    found = attribute(reading, address, "numa_node")
    if found is None:
        return NotApplicable("the kernel knows no NUMA nodes")
    if not isinstance(found, str):
        return found
    if not re.fullmatch(r"-?[0-9]{1,6}", found.strip()):
        return Unavailable(f"numa_node of {address} is {found[:40]!r}, no number", reading.probe)
    node = int(found)
    return node if node >= 0 else Unavailable(f"the firmware names no NUMA node for {address} (-1)", reading.probe)


def _link(reading: Reading, address: str, status: Maybe[str]) -> Maybe[PciLink]:
    texts = [attribute(reading, address, name) for name in _LINK]
    if all(text is None for text in texts):
        return NotApplicable(f"{address} shows no PCI Express link")
    if isinstance(texts[0], Unavailable) and all(isinstance(text, Unavailable) for text in texts):
        return texts[0]
    if status == "suspended":
        return Unavailable(f"{address} is suspended, and its link with it", reading.probe)
    return PciLink(
        speed_gts=_parsed(parse_speed, texts[0]),
        width=_parsed(parse_width, texts[1]),
        max_speed_gts=_parsed(parse_speed, texts[2]),
        max_width=_parsed(parse_width, texts[3]),
    )


def _parsed(parse: Callable[[str | None], Maybe[T]], found: Maybe[str] | None) -> Maybe[T]:
    return parse(found) if found is None or isinstance(found, str) else found


def _function(address: str, path: tuple[str, ...], listing: Reading, reading: Reading, links: Reading) -> PciFunction:
    status = _text(reading, address, "power/runtime_status")
    driver = listing.entries.get(f"{DEVICES}/{address}/driver")
    return PciFunction(
        address=address,
        path=path,
        vendor_id=_hex(reading, address, "vendor"),
        device_id=_hex(reading, address, "device"),
        subsystem_vendor_id=_hex(reading, address, "subsystem_vendor"),
        subsystem_device_id=_hex(reading, address, "subsystem_device"),
        class_code=int(_hex(reading, address, "class") or "0", 16),
        revision=int(_hex(reading, address, "revision") or "0", 16),
        driver=driver.target.rstrip("/").rpartition("/")[2] or None if driver else None,
        virtual=f"{DEVICES}/{address}/physfn" in listing.entries,
        numa_node=_node(reading, address),
        local_cpulist=_text(reading, address, "local_cpulist"),
        link=_link(links, address, status),
        power_control=_text(reading, address, "power/control"),
        runtime_status=status,
    )


def _tree(listing: Reading, reading: Reading, links: Reading) -> PciTree:
    listing.check()
    reading.check()
    functions = []
    for name, entry in sorted(listing.listed(f"{DEVICES}/*").items()):
        address = name.rpartition("/")[2]
        if not _ADDRESS.fullmatch(address):
            continue
        function = _function(address, parse_path(entry.target) or (address,), listing, reading, links)
        if not function.vendor_id or not function.device_id:
            continue  # went away between the listing and the reading
        functions.append(function)
    if not functions and listing.entry(DEVICES) is None:
        raise Unavailable(f"{DEVICES} is not visible here", listing.probe)
    return PciTree(functions=tuple(functions), by_address={function.address: function for function in functions})


PCI: Fact[PciTree] = Fact("pci.tree", _tree, LISTING, FUNCTIONS, Optional(LINKS))


def _gpus(tree: PciTree) -> Sequence[PciFunction]:
    return tree.gpus


PCI_GPUS: Fact[Sequence[PciFunction]] = Fact("pci.gpus", _gpus, PCI)
