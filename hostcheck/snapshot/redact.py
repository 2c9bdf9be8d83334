"""Masks what names a host, a site or a person, consistently: equal values keep equal masks within an archive."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import IPv6Address

from hostcheck.facts.pci_config import without_serial
from hostcheck.snapshot.reading import Entry, FileState, Reading, Snapshot

KERNEL_PARAMETERS = frozenset(
    """
    acpi acpi_power_meter.force_cap_on amd_iommu amd_pstate apparmor arm64.nopauth audit clocksource console
    cpuidle.off crashkernel default_hugepagesz deferred_init hugepages hugepagesz idle init_on_alloc
    init_on_free intel_idle.max_cstate intel_iommu intel_pstate iommu iommu.passthrough iommu.strict irqaffinity
    isolcpus kpti mce mem mitigations modprobe.blacklist nmi_watchdog nohz nohz_full nomodule nosmt nosoftlockup
    nowatchdog nox2apic numa numa_balancing nvidia-drm.modeset panic pci pcie_acs_override pcie_aspm pcie_ports
    preempt processor.max_cstate psi quiet random.trust_cpu rcu_nocbs rcupdate.rcu_expedited rd.driver.blacklist
    ro rw selinux skew_tick slab_nomerge spec_store_bypass_disable spectre_v2 splash swapaccount swiotlb
    systemd.unified_cgroup_hierarchy transparent_hugepage tsc tsx vga x2apic_phys
    """.split()  # noqa: SIM905
)
"""Kernel parameters whose values say how the host is tuned; the value of any other one is masked."""

DAEMONS = re.compile(
    r"nvidia|nv-|nvsm|dcgm|irqbalance|tuned|chronyd|ntpd|ptp4l|systemd|init$|slurm|munge|kubelet|containerd|docker"
    r"|kthreadd|ksoftirqd|kworker|migration|rcu|khugepaged|kcompactd|kswapd|watchdog"
)
"""Process names that are kept; those of users' programs are masked."""

_GPU_UUID = re.compile(r"\b(GPU|MIG)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.I)
_UUID = re.compile(r"(?<![-\w])[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.I)
_MAC = re.compile(r"(?<![\w:.])(?:[0-9a-f]{2}:){5}[0-9a-f]{2}(?![\w:])", re.I)
_NAMED_BY_MAC = re.compile(r"(?<!\w)enx[0-9a-f]{12}(?!\w)")
_GUID = re.compile(r"(?<![\w:])0x[0-9a-f]{16}\b|(?<![\w:])(?:[0-9a-f]{4}:){3}[0-9a-f]{4}(?![\w:])", re.I)
_IPV4 = re.compile(r"(?<![\w.-])(?:(?:25[0-5]|2[0-4]\d|1?[1-9]?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?[1-9]?\d)(?![\w.-])")
_IPV6 = re.compile(r"(?<![\w:.])[0-9a-f]{0,4}:[0-9a-f:.]*:[0-9a-f]{0,4}(?![\w:])", re.I)
_AT = re.compile(r"[\w.+-]+@[\w.-]+")
_HOME = re.compile(r"(/home/|/Users/|/data/users/)([^/\s:]+)")
_SERIAL = re.compile(
    r"(serial(?:[_ ]number)?\s*[:=>]\s*|<serial>|<pdi>|<chassis_serial_number>)([0-9A-Za-z]{6,})", re.I
)
_LONG_ID = re.compile(r"(?<=<pdi>)0x[0-9a-f]+", re.I)
_COMMAND_LINE = re.compile(r"(command line(?: parameters)?:? *\"?)(.*)", re.I)
# What the kernel tells of init: its path, and, indented, its arguments and environment.
_INIT = re.compile(r"((?<=\] )Run |^(?:\S+ )?\[[ .\d]+\] {5})\S.*", re.M)
# Names of programs: before their process number, in an Xid, and in the report of a kill.
_PROGRAM = re.compile(r"((?<=\] )|\bname=|[Kk]illed process \d+ \()(?!nvidia|<)([\w.:/-]+)(?= \(\d+\):|,|\))")
# What runs on a GPU while it is measured.
_HOLDER = re.compile(rb"[^\s\"]+(?= \(pid \d+\))")
_PRIVATE = re.compile(r"((?:password|passwd|token|secret|api_?key)\s*[=:]\s*)(\S+)", re.I)


def redact(snapshot: Snapshot) -> Snapshot:
    """Return the same snapshot without host names, addresses, serials, UUIDs, keys, user names and user programs."""
    mask = _Masks(snapshot.manifest.hostname)
    return Snapshot(
        replace(snapshot.manifest, hostname=mask.host(), redacted=True),
        {id: _reading(reading, mask) for id, reading in snapshot.readings.items()},
    )


def _reading(reading: Reading, mask: _Masks) -> Reading:
    out = reading.out
    if reading.probe == "kernel.grubby":
        text = out.decode("utf-8", "surrogateescape")
        out = "".join(_boot_line(line) for line in text.splitlines(keepends=True)).encode("utf-8", "surrogateescape")
    if reading.probe == "bench.results":
        out = _HOLDER.sub(b"a process", out)
    return replace(
        reading,
        note=mask.text(reading.note),
        out=mask.bytes(out),
        err=mask.bytes(reading.err),
        files={_path(path, mask): _file(path, state, mask) for path, state in reading.files.items()},
        entries=_entries(reading.entries, mask),
        later=None if reading.later is None else _reading(reading.later, mask),
    )


def _file(path: str, state: FileState, mask: _Masks) -> FileState:
    if path.startswith("/sys/bus/pci/") and path.endswith("/config"):
        return replace(state, data=without_serial(state.data))
    text = state.data.decode("utf-8", "surrogateescape")
    if path == "/proc/cmdline":
        text = kernel_command_line(text)
    elif path == "/etc/machine-id":
        text = "masked\n"
    elif path.endswith("/comm") and not DAEMONS.match(text):
        text = f"program-{mask.number('comm', text.strip())}\n"
    elif path.endswith(("/mountinfo", "/mounts")):
        text = "".join(_mount(line, mask) for line in text.splitlines(keepends=True))
    elif path.endswith("/cgroup"):
        text = re.sub(r"[^/\n]+(?=/|$)", lambda found: _cgroup(found[0], mask), text, flags=re.M)
    elif path.startswith("/etc/default/grub"):
        text = "".join(_boot_line(line) for line in text.splitlines(keepends=True))
    elif path.endswith((".conf", ".service", ".rules", ".swap")):
        text = "".join(_setting(line) for line in text.splitlines(keepends=True))
    return replace(state, data=mask.text(text).encode("utf-8", "surrogateescape"), why=mask.text(state.why))


_USUAL = re.compile(
    r"/|/(?:proc|sys|dev|run|boot|etc|usr|tmp|home|var|opt|data|scratch|mnt|srv)(?:/(?:shm|pts|mqueue|hugepages|fs|cgroup"
    r"|kernel|debug|tracing|security|lib|log|local|nvidia|hosts|hostname|resolv\.conf|docker|containerd|overlay2|efi))*"
)
_CGROUPS = re.compile(
    r"\d+:.*:|kubepods.*|.*docker.*|libpod.*|crio.*|.*containerd.*|lxc.*|slurm.*|.*\.(?:slice|service|scope)"
)
_HIERARCHIES = ("cpu", "memory", "cpuset", "unified")
_SOURCES = frozenset(
    (
        "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs", "fusectl",
        "hugetlbfs", "lxcfs", "mqueue", "none", "nsfs", "overlay", "proc", "pstore", "ramfs", "rootfs",
        "securityfs", "shm", "sysfs", "systemd-1", "tmpfs", "tracefs", "udev",
    )
)  # fmt: skip
_SETTING = re.compile(
    r"\s*(?:\[|#|;|(?:Limit|Tasks|Memory|CPU|Allowed|OOM|Delegate|Slice|RemoveIPC|KillMode)\w*\s*=|[*]|root\s|$)"
)


_SWAP_BY = re.compile(r"(by\\x2d\w+-)([^/]+)(?=\.swap$)")


def _path(path: str, mask: _Masks) -> str:
    path = _SWAP_BY.sub(lambda found: f"{found[1]}masked{mask.number('swap', found[2])}", path)
    folder, _, name = path.partition("/sys/fs/cgroup/")[2].rpartition("/")
    if not folder:
        return mask.text(path)
    groups = "/".join(group if group in _HIERARCHIES else _cgroup(group, mask) for group in folder.split("/"))
    return mask.text(f"/sys/fs/cgroup/{groups}/{name}")


def _mount(line: str, mask: _Masks) -> str:
    """Keep a mount's kind and plain options; mask where it is, where it comes from, and options that name things."""
    words = [",".join(part for part in word.split(",") if not re.search(r"=.*[/:]", part)) for word in line.split()]
    source = words.index("-") + 2 if "-" in words else 0
    for number, word in enumerate(words):
        known = word in _SOURCES if number == source else "/" not in word
        if not known and not _USUAL.fullmatch(word):
            words[number] = f"/masked-{mask.number('mount', word)}"
    return " ".join(words) + ("\n" if line.endswith("\n") else "")


def _cgroup(name: str, mask: _Masks) -> str:
    return name if _CGROUPS.fullmatch(name) else f"group-{mask.number('cgroup', name)}"


def _setting(line: str) -> str:
    """Keep sections, limits and comments of a configuration file; of other settings only the name."""
    if _SETTING.match(line):
        return line
    name, equals, _ = line.partition("=")
    return f"{name}=masked\n" if equals else "masked\n"


_BOOT_LINE = re.compile(r"""((?:GRUB_CMDLINE_LINUX\w*\+?|args)=)(["']?)([^"']*)(["']?)$""")


def _boot_line(line: str) -> str:
    """Keep what the boot loader gives the kernel, as of a kernel command line; of other settings only the name."""
    found = _BOOT_LINE.match(line.rstrip("\n"))
    if found:
        words = (word if word.startswith("$") else kernel_command_line(word) for word in found[3].split())
        return f"{found[1]}{found[2]}{' '.join(words)}{found[4]}\n"
    if not line.strip() or line.lstrip().startswith("#"):
        return "\n"
    name, equals, _ = line.partition("=")
    return f"{name}=masked\n" if equals else "masked\n"


def _entries(entries: Mapping[str, Entry], mask: _Masks) -> dict[str, Entry]:
    return {mask.text(path): replace(entry, target=mask.text(entry.target)) for path, entry in entries.items()}


def kernel_command_line(text: str) -> str:
    """Return a kernel command line in which only the values of known parameters are left, and none of init's own."""
    words = []
    for word in text.split():
        if word == "--":
            break
        name = word.partition("=")[0]
        words.append(word if name in KERNEL_PARAMETERS else "masked")
    return " ".join(words) + ("\n" if text.endswith("\n") else "")


class _Masks:
    """One archive's masks, numbered in the order in which values are met."""

    def __init__(self, hostname: str) -> None:
        self._known: dict[tuple[str, str], int] = {}
        self._hostname = hostname
        # A host that is called "vm" must not turn vm.swappiness into something else.
        telling = len(hostname) > 4 or any(sign.isdigit() or sign == "-" for sign in hostname)
        names = {hostname, hostname.split(".", 1)[0]} - {"localhost", ""} if telling else set()
        self._names = (
            re.compile("|".join(rf"(?<![\w-]){re.escape(name)}(?![\w-])" for name in sorted(names))) if names else None
        )
        self._rules: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
            (_PRIVATE, lambda found: f"{found[1]}masked"),
            (_COMMAND_LINE, lambda found: found[1] + kernel_command_line(found[2])),
            (_INIT, lambda found: f"{found[1]}masked"),
            (_PROGRAM, lambda found: f"{found[1]}program-{self.number('comm', found[2])}"),
            (_SERIAL, lambda found: found[1] + self._like("serial", found[2])),
            (_GPU_UUID, lambda found: f"{found[1]}-{self._uuid(found[0])}"),
            (_UUID, lambda found: self._uuid(found[0])),
            (_MAC, lambda found: "02:00:00:00:{:02x}:{:02x}".format(*divmod(self.number("mac", found[0]), 256))),
            (_NAMED_BY_MAC, lambda found: f"enx{self.number('mac', found[0]):012x}"),
            (_GUID, lambda found: self._like("guid", found[0])),
            (_LONG_ID, lambda found: self._like("pdi", found[0])),
            (_IPV6, self._ipv6),
            (_IPV4, self._ipv4),
            (_AT, lambda found: f"user@host-{self.number('at', found[0])}"),
            (_HOME, lambda found: f"{found[1]}user-{self.number('home', found[2])}"),
        )  # fmt: skip

    def host(self) -> str:
        """Return the mask of the host's own name."""
        return "host-1"

    def number(self, kind: str, value: str) -> int:
        """Return the number of a value among its kind, from 1."""
        return self._known.setdefault((kind, value.lower()), len([1 for known, _ in self._known if known == kind]) + 1)

    def text(self, text: str) -> str:
        """Return a text with everything masked that names somebody."""
        if self._names is not None:
            text = self._names.sub(self.host(), text)
        for pattern, mask in self._rules:
            text = pattern.sub(mask, text)
        return text

    def bytes(self, data: bytes) -> bytes:
        """Return what a stream holds, masked; bytes that are no UTF-8 stay as they are."""
        return self.text(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape") if data else data

    def _uuid(self, value: str) -> str:
        return f"00000000-0000-0000-0000-{self.number('uuid', value[-36:]):012d}"

    def _like(self, kind: str, value: str) -> str:
        """Return a number in the shape of a value: its hexadecimal signs replaced, its length and separators kept."""
        digits = str(self.number(kind, value))
        prefix = "0x" if value.startswith("0x") else ""
        body = re.sub(r"[0-9A-Za-z]", "0", value[len(prefix) :])
        return prefix + body[: max(len(body) - len(digits), 0)] + digits

    def _ipv4(self, found: re.Match[str]) -> str:
        if found[0].startswith(("127.", "0.", "255.")):
            return found[0]
        number = self.number("ipv4", found[0])
        return f"192.0.{2 + number // 254}.{number % 254 + 1}"

    def _ipv6(self, found: re.Match[str]) -> str:
        try:
            IPv6Address(found[0])
        except ValueError:
            return found[0]
        # "0::" begins a line of /proc/self/cgroup; an address of somebody has more in it.
        return (
            found[0]
            if len(re.findall(r"[0-9a-fA-F]+", found[0])) < 3
            else f"2001:db8::{self.number('ipv6', found[0]):x}"
        )
