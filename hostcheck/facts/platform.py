"""What kind of machine this is: bare metal, guest or container, whose, and under which system. Told from files only."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hostcheck.errors import Maybe, NotApplicable, Unavailable
from hostcheck.facts.base import Fact, Optional
from hostcheck.facts.guest import (
    OSRELEASE,
    Mount,
    Signs,
    find_cloud,
    find_container,
    find_hypervisor,
    parse_mountinfo,
)
from hostcheck.snapshot.probes import MIB, FileProbe
from hostcheck.snapshot.reading import Reading

__all__ = ["HOST_PROBE", "PLATFORM", "SYSTEM", "Mount", "Platform", "System", "parse_mountinfo"]

_DMI = "/sys/class/dmi/id/"
_DMI_FIELDS = (
    "sys_vendor",
    "product_name",
    "bios_vendor",
    "bios_version",
    "bios_date",
    "chassis_asset_tag",
    "chassis_type",
)
_TREE = "/sys/firmware/devicetree/base/"

HOST_PROBE = FileProbe(
    "platform.host",
    (
        *(_DMI + name for name in _DMI_FIELDS),
        *(_TREE + name for name in ("model", "compatible", "hypervisor/compatible")),
        "/sys/hypervisor/type",
        "/proc/version",
        OSRELEASE,
        "/proc/sys/kernel/arch",
        "/proc/self/auxv",
        "/etc/os-release",
        "/usr/lib/os-release",
        "/.dockerenv",
        "/.singularity.d/runscript",
        "/run/.containerenv",
        "/run/systemd/container",
        "/run/host/container-manager",
        "/proc/1/cgroup",
        "/proc/self/cgroup",
        "/proc/self/mountinfo",
    ),
    # Nodes of Kubernetes have thousands of mounts; a read of 4 MiB or more at once is refused by /proc/sys.
    limit=2 * MIB,
)
CPUINFO_PROBE = FileProbe("platform.cpuinfo", ("/proc/cpuinfo",), limit=8 * MIB)
_CLOCK = "/sys/devices/system/clocksource/clocksource0/"
CLOCKSOURCE_PROBE = FileProbe(
    "platform.clocksource", (f"{_CLOCK}current_clocksource", f"{_CLOCK}available_clocksource")
)

# Chassis types of the SMBIOS specification, table 17.
_FORMS = {
    **dict.fromkeys(("8", "9", "10", "11", "14", "30", "31", "32"), "laptop"),
    **dict.fromkeys(("3", "4", "5", "6", "7", "13", "15", "16", "24", "35", "36"), "desktop"),
    **dict.fromkeys(("17", "23", "25", "28", "29"), "server"),
}
_BLANK = ("", "none", "n/a", "default string", "to be filled by o.e.m.", "not specified", "system manufacturer",
          "system product name", "empty", "unknown", "o.e.m.")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """Who made the machine, and what runs on it.

    Attributes:
        vendor, product: as the firmware (DMI or device tree) names them, such as "Supermicro" and "SYS-821GE-TNHR".
        bios_vendor, bios_version, bios_date: the firmware; the date as written there, such as "08/06/2025".
        form: "laptop", "desktop" or "server" by the chassis that the firmware names; empty where it names none.
        cloud: "aws", "azure", "gcp", "oci" and others; empty for none that is known by its firmware.
        os_id, os_name, os_version: from os-release, such as "ubuntu", "Ubuntu 24.04.2 LTS", "24.04". In a container
            they are the image's.
        kernel: the running release, such as "6.8.0-60-generic".
        architecture: "x86_64", "aarch64" or "ppc64le".
        page_size: bytes of a memory page, such as 4096 or 65536.
    """

    vendor: Maybe[str]
    product: Maybe[str]
    bios_vendor: Maybe[str]
    bios_version: Maybe[str]
    bios_date: Maybe[str]
    form: str
    cloud: str
    os_id: Maybe[str]
    os_name: Maybe[str]
    os_version: Maybe[str]
    kernel: Maybe[str]
    architecture: Maybe[str]
    page_size: Maybe[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform(System):
    """The machine, and what stands between hostcheck and the hardware.

    Attributes:
        kind: "bare-metal", "vm" or "container"; a container in a guest is "container" and has a hypervisor too.
        hypervisor: "kvm", "qemu" (without KVM), "nitro", "vmware", "hyperv", "xen" and others, "unidentified" where
            the processor only says that there is one; empty on bare metal.
        container: "docker", "podman", "kubernetes", "lxc", "gvisor", "wsl" and others; empty outside of one.
    """

    kind: str
    hypervisor: str
    container: str

    @property
    def label(self) -> str:
        """The kind in words, such as "vm (kvm)" or "container (docker) in a vm (kvm)"."""
        inner = f"container ({self.container})"
        if self.kind == "bare-metal":
            return "bare metal"
        if self.kind == "vm":
            return f"vm ({self.hypervisor})"
        return f"{inner} in a vm ({self.hypervisor})" if self.hypervisor else f"{inner} on bare metal"

    def need_bare_metal(self, why: str) -> None:
        """Go on only where nothing stands before the hardware.

        Args:
            why: what a guest or container lacks, such as "the hypervisor sets CPU frequencies".

        Raises:
            NotApplicable: this is a guest or a container.
        """
        if self.kind != "bare-metal":
            raise NotApplicable(f"{self.label}: {why}")

    def need_host(self, why: str) -> None:
        """Go on only outside of a container; a guest will do.

        Raises:
            NotApplicable: this is a container.
        """
        if self.container:
            raise NotApplicable(f"{self.label}: {why}")


def parse_os_release(text: str) -> dict[str, str]:
    """Parse os-release into its keys; what is no assignment is left out.

    Sample:
        PRETTY_NAME="Ubuntu 24.04.2 LTS"
        NAME="Ubuntu"
        VERSION_ID="24.04"
        ID=ubuntu
        ID_LIKE=debian
    """
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}


def parse_page_size(auxv: bytes) -> int:
    """Return the page size in bytes from a 64-bit little-endian auxiliary vector (AT_PAGESZ is 6).

    Raises:
        Unavailable: it holds none that can be.
    """
    for kind, value in struct.iter_unpack("<QQ", auxv[: len(auxv) // 16 * 16]):
        if kind == 6 and value in (4096, 16384, 65536):
            return int(value)
    raise Unavailable("/proc/self/auxv holds no page size")


def parse_system(host: Reading) -> System:
    """Parse what the host says about itself; see `System`."""
    return System(**_system(host, None))


def parse_platform(host: Reading, cpuinfo: Reading, clocksource: Reading) -> Platform:
    """Tell bare metal, guest and container apart.

    Bare metal is positive knowledge: the processor's flags (or, where an architecture has none for it, the firmware)
    were read, and neither they nor any sign of a container speak against it.

    Raises:
        Unavailable: the signs were not read, or do not suffice.
    """
    host.check()
    text = cpuinfo.read("/proc/cpuinfo")
    if not text:
        raise cpuinfo.unavailable("/proc/cpuinfo is empty or missing")
    system = _system(host, text)
    container = find_container(host)
    hypervisor = find_hypervisor(_signs(host, text, system, clocksource), container)
    kind = "container" if container else "vm" if hypervisor else "bare-metal"
    return Platform(kind=kind, hypervisor=hypervisor, container=container, **system)


def _text(host: Reading, path: str) -> Maybe[str]:
    """Return a one-line file's text, or why there is none; what firmware leaves blank is not applicable."""
    try:
        text = host.read(path)
    except Unavailable as missing:
        return missing
    if text is None:
        return NotApplicable(f"there is no {path}")
    line = text.strip("\0 \t\r\n").replace("\0", " ")
    if line.lower() in _BLANK:
        return NotApplicable(f"the firmware leaves {path.rsplit('/', 1)[1]} blank")
    return line


def _plain(value: Maybe[str]) -> str:
    return value if isinstance(value, str) else ""


def _system(host: Reading, cpuinfo: str | None) -> dict[str, Any]:
    dmi = {name: _text(host, _DMI + name) for name in _DMI_FIELDS}
    tree = _text(host, f"{_TREE}model")
    release = _os_release(host)
    product = dmi["product_name"]
    if not isinstance(product, str) and isinstance(tree, str):
        product = tree
    return {
        "vendor": dmi["sys_vendor"],
        "product": product,
        "bios_vendor": dmi["bios_vendor"],
        "bios_version": dmi["bios_version"],
        "bios_date": dmi["bios_date"],
        "form": _FORMS.get(_plain(dmi["chassis_type"]), ""),
        "cloud": find_cloud({name: _plain(value) for name, value in dmi.items()}),
        "os_id": _entry(release, "ID"),
        "os_name": _entry(release, "PRETTY_NAME"),
        "os_version": _entry(release, "VERSION_ID"),
        "kernel": _text(host, OSRELEASE),
        "architecture": _architecture(host, cpuinfo),
        "page_size": _page_size(host),
    }


def _signs(host: Reading, cpuinfo: str, system: Mapping[str, Any], clocksource: Reading) -> Signs:
    try:
        clocks = clocksource.read(f"{_CLOCK}available_clocksource") or ""
    except Unavailable:
        clocks = ""
    return Signs(
        cpuinfo=cpuinfo,
        vendor=_plain(system["vendor"]),
        product=_plain(system["product"]),
        bios_version=_plain(system["bios_version"]),
        tree_compatible=_plain(_text(host, f"{_TREE}compatible")),
        tree_hypervisor=_plain(_text(host, f"{_TREE}hypervisor/compatible")),
        hypervisor_type=_plain(_text(host, "/sys/hypervisor/type")),
        clocks=clocks,
    )


def _os_release(host: Reading) -> Maybe[dict[str, str]]:
    try:
        text = host.read("/etc/os-release")
        text = host.read("/usr/lib/os-release") if text is None else text
    except Unavailable as missing:
        return missing
    return NotApplicable("there is no os-release file") if text is None else parse_os_release(text)


def _entry(table: Maybe[dict[str, str]], key: str) -> Maybe[str]:
    if not isinstance(table, dict):
        return table
    return table.get(key) or NotApplicable(f"os-release has no {key}")


def _architecture(host: Reading, cpuinfo: str | None) -> Maybe[str]:
    # /proc/sys/kernel/arch is there since Linux 6.1.
    told = _text(host, "/proc/sys/kernel/arch")
    if isinstance(told, str):
        return told
    signs = (("vendor_id", "x86_64"), ("CPU implementer", "aarch64"), ("POWER", "ppc64le"))
    build = _plain(_text(host, OSRELEASE)) + _plain(_text(host, "/proc/version"))
    builds = (("x86_64", "x86_64"), ("amd64", "x86_64"), ("aarch64", "aarch64"), ("arm64", "aarch64"),
              ("ppc64le", "ppc64le"))  # fmt: skip
    for text, table in (((cpuinfo or "")[:4096], signs), (build, builds)):
        for sign, name in table:
            if sign in text:
                return name
    return Unavailable("neither the kernel nor /proc/cpuinfo names the architecture")


def _page_size(host: Reading) -> Maybe[int]:
    try:
        if host.read("/proc/self/auxv") is None:
            return NotApplicable("there is no /proc/self/auxv")
        return parse_page_size(host.files["/proc/self/auxv"].data)
    except Unavailable as missing:
        return missing


SYSTEM = Fact("platform.system", parse_system, HOST_PROBE)
PLATFORM = Fact("platform.platform", parse_platform, HOST_PROBE, CPUINFO_PROBE, Optional(CLOCKSOURCE_PROBE))
