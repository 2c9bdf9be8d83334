"""What stands between a program and the hardware: the signs of hypervisors, containers and clouds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hostcheck.errors import Unavailable
from hostcheck.snapshot.reading import Reading

OSRELEASE = "/proc/sys/kernel/osrelease"
UNIDENTIFIED = "unidentified"
"""The hypervisor's name where the processor says that there is one, and nothing says which."""

# sys_vendor or product_name of guests begins so, lower case; the first that fits wins.
_HYPERVISORS = {
    "vmware": "vmware",
    "microsoft corporation virtual machine": "hyperv",
    "amazon ec2": "nitro",
    "xen": "xen",
    "innotek": "virtualbox",
    "oracle corporation virtualbox": "virtualbox",
    "parallels": "parallels",
    "bochs": "bochs",
    "bhyve": "bhyve",
    "apple inc. apple virtualization": "apple",
    "cloud hypervisor": "cloud-hypervisor",
    "nutanix": "kvm",
    "qemu": "kvm",
    "red hat": "kvm",
    "ovirt": "kvm",
    "openstack": "kvm",
    "google": "kvm",
    "digitalocean": "kvm",
    "hetzner": "kvm",
    "alibaba cloud": "kvm",
    "tencent cloud": "kvm",
    "scaleway": "kvm",
    "vultr": "kvm",
    "akamai": "kvm",
    "linode": "kvm",
    "upcloud": "kvm",
    "nebius": "kvm",
}
# Of these, boards of bare machines carry the same name, so the vendor alone does not tell a guest from its host.
_ALSO_BARE = ("amazon ec2", "google", "nutanix", "red hat", "alibaba cloud", "tencent cloud", "scaleway", "akamai",
              "hetzner", "upcloud", "vultr", "nebius")  # fmt: skip
_CLOUDS = {
    "amazon ec2": "aws",
    "google google compute engine": "gcp",
    "digitalocean": "digitalocean",
    "hetzner": "hetzner",
    "alibaba cloud": "alibaba",
    "tencent cloud": "tencent",
    "scaleway": "scaleway",
    "vultr": "vultr",
    "akamai": "akamai",
    "linode": "akamai",
    "upcloud": "upcloud",
    "nebius": "nebius",
    "openstack": "openstack",
}
# Asset tags that two clouds print into each of their machines (cloud-init knows them by the same).
_ASSET_TAGS = {"7783-7084-3265-9085-8269-3286-77": "azure", "oraclecloud.com": "oci"}

# Every release of gVisor answers so; it runs no Linux at all.
_GVISOR = "Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016"
_CGROUP_MARKS = (
    ("kubernetes", re.compile(r"kubepods")),
    ("docker", re.compile(r"/docker[-/][0-9a-f]{12}")),
    ("podman", re.compile(r"/libpod-[0-9a-f]{12}")),
    ("crio", re.compile(r"/crio-[0-9a-f]{12}")),
    ("containerd", re.compile(r"/cri-containerd-[0-9a-f]{12}")),
    ("lxc", re.compile(r"/lxc(\.payload)?[./]")),
)
_ROOT_MARKS = (
    ("docker", re.compile(r"/overlay2/|/docker/")),
    ("podman", re.compile(r"containers/storage/")),
    ("enroot", re.compile(r"/enroot")),
    ("apptainer", re.compile(r"/(apptainer|singularity)/")),
    ("containerd", re.compile(r"io\.containerd|/containerd/")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of mountinfo, as far as it tells a container from a host, and what can be written.

    Attributes:
        options: the source and the options of the file system.
        flags: the options of this mount, such as "ro,nosuid".
    """

    point: str
    root: str
    fstype: str
    options: str
    flags: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What a hypervisor is told by; an empty text where there is no such thing.

    Attributes:
        cpuinfo: /proc/cpuinfo.
        vendor, product, bios_version: of the firmware.
        tree_compatible, tree_hypervisor: the device tree's root and hypervisor node.
        hypervisor_type: /sys/hypervisor/type, which only Xen has.
        clocks: the clock sources that the kernel could use; some are one hypervisor's own.
    """

    cpuinfo: str
    vendor: str
    product: str
    bios_version: str
    tree_compatible: str
    tree_hypervisor: str
    hypervisor_type: str
    clocks: str


def parse_mountinfo(text: str) -> tuple[Mount, ...]:
    r"""Parse mountinfo; lines of another form are left out. Octal escapes (\040) stay as they are.

    Sample:
        1187 1039 0:58 / / rw,relatime - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/V3SJ:/var/lib/docker/l/X
        1188 1187 0:61 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
        1189 1187 0:62 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
        1209 1187 259:2 /var/lib/docker/containers/4f2b/hosts /etc/hosts rw,relatime - ext4 /dev/nvme0n1p2 rw
    """
    mounts = []
    for line in text.splitlines():
        left, dash, right = line.partition(" - ")
        words, after = left.split(), right.split()
        if dash and len(words) >= 6 and after:
            options = " ".join(after[1:])
            mounts.append(Mount(point=words[4], root=words[3], fstype=after[0], options=options, flags=words[5]))
    return tuple(mounts)


def find_cloud(dmi: Mapping[str, str]) -> str:
    """Return the cloud that the firmware names, or an empty string."""
    tag = _ASSET_TAGS.get(dmi["chassis_asset_tag"].lower())
    if tag:
        return tag
    if "amazon" in dmi["bios_version"].lower():
        return "aws"
    return next((name for _, name in _lookup(_CLOUDS, dmi["sys_vendor"], dmi["product_name"])), "")


def find_container(host: Reading) -> str:
    """Return the container's kind, or an empty string.

    Raises:
        Unavailable: the kernel's release or the mounts were not read, so that a container cannot be excluded.
    """
    version, release = host.read("/proc/version") or "", host.read(OSRELEASE) or ""
    if version.startswith(_GVISOR):
        return "gvisor"
    if "microsoft-standard" in release or release.endswith(("-Microsoft", "-WSL2")):
        return "wsl"
    for path in ("/proc/self/cgroup", "/proc/1/cgroup"):
        text = _sign(host, path) or ""
        found = next((name for name, mark in _CGROUP_MARKS if mark.search(text)), "")
        if found:
            return found
    mounts = parse_mountinfo(host.read("/proc/self/mountinfo") or "")
    if not mounts:
        raise host.unavailable("/proc/self/mountinfo is missing or empty: a container cannot be excluded")
    return _by_mounts(mounts) or _by_marks(host, mounts)


def find_hypervisor(signs: Signs, container: str) -> str:
    """Return the hypervisor's name, an empty string where there is none.

    Raises:
        Unavailable: this architecture has no flag for it, and the firmware says nothing.
    """
    flags = re.search(r"^flags\s*:(.*)$", signs.cpuinfo, re.MULTILINE)
    known = list(_lookup(_HYPERVISORS, signs.vendor, signs.product))
    if flags:
        return _name(signs, known, container) if "hypervisor" in flags[1].split() else ""
    if "PowerNV" in signs.cpuinfo:
        return ""
    if "pSeries" in signs.cpuinfo:
        return "kvm" if "qemu" in signs.cpuinfo else "powervm"
    tree = signs.tree_hypervisor
    if tree or "dummy-virt" in signs.tree_compatible:
        return next((name for name in ("xen", "vmware", "kvm") if name in tree), "kvm")
    sure = [name for start, name in known if start not in _ALSO_BARE]
    if sure:
        return sure[0]
    if known:
        return "" if re.search(r"\bmetal\b", signs.product) else known[0][1]
    if signs.vendor or signs.tree_compatible:
        return ""
    raise Unavailable(
        "this architecture's /proc/cpuinfo has no hypervisor flag, and there is neither DMI nor a device tree: bare "
        "metal and guest cannot be told apart"
    )


def _name(signs: Signs, known: list[tuple[str, str]], container: str) -> str:
    """Return the name of the hypervisor that the processor's flag announces."""
    if container == "wsl":
        return "hyperv"
    if signs.hypervisor_type == "xen" or "amazon" in signs.bios_version.lower():
        return "xen"
    # QEMU's own word for a processor that it emulates; systemd-detect-virt calls that "qemu", too.
    if re.search(r"^model name\s*: QEMU TCG CPU", signs.cpuinfo, re.MULTILINE):
        return "qemu"
    if known:
        return known[0][1]
    by_clock = (("hyperv", "hyperv"), ("kvm-clock", "kvm"), ("xen", "xen"))
    return next((name for sign, name in by_clock if sign in signs.clocks), UNIDENTIFIED)


def _lookup(table: Mapping[str, str], vendor: str, product: str) -> Iterator[tuple[str, str]]:
    whole = f"{vendor} {product}".strip().lower()
    for start, name in table.items():
        if whole.startswith(start) or product.lower().startswith(start):
            yield start, name


def _sign(host: Reading, path: str) -> str | None:
    """Return a file that proves a container if it is there, and proves nothing if it cannot be read."""
    try:
        return host.read(path)
    except Unavailable:
        return None


def _by_mounts(mounts: tuple[Mount, ...]) -> str:
    """Return which engine made the root file system; a diskless host's overlay root names none of them."""
    for mount in mounts:
        if mount.point == "/etc/hosts" and "/kubelet/pods/" in mount.root:
            return "kubernetes"
        if mount.fstype == "fuse.lxcfs" and mount.point.startswith("/proc/"):
            return "lxc"
    root = next((mount for mount in reversed(mounts) if mount.point == "/"), None)
    text = f"{root.root} {root.options}" if root else ""
    return next((name for name, mark in _ROOT_MARKS if mark.search(text)), "")


def _by_marks(host: Reading, mounts: tuple[Mount, ...]) -> str:
    """Return which engine left its mark in the file system.

    A guest that was made from an image keeps the marks of its engine; only there is /dev the kernel's own.
    """
    if _sign(host, "/.singularity.d/runscript") is not None:
        return "apptainer"
    if any(mount.point == "/dev" and mount.fstype == "devtmpfs" for mount in mounts):
        return ""
    for path in ("/run/systemd/container", "/run/host/container-manager"):
        manager = (_sign(host, path) or "").split()
        if manager:
            return manager[0].removeprefix("systemd-")[:40]
    marks = {"/run/.containerenv": "podman", "/.dockerenv": "docker"}
    return next((name for path, name in marks.items() if _sign(host, path) is not None), "")
