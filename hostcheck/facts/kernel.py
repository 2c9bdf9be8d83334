"""The running kernel: its settings, its command line, its modules, its IOMMU, and what it went through."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TypeVar

from hostcheck.errors import Maybe, NotApplicable, Unavailable, need
from hostcheck.facts.base import Fact, Optional
from hostcheck.facts.cpu import TOPOLOGY_PROBE, parse_cpu_list
from hostcheck.facts.kernel_log import KERNEL_LOG, KernelLog, Kind, LogLine, Trouble, find_trouble, parse_kernel_log
from hostcheck.facts.pci import PCI, PciTree
from hostcheck.snapshot.probes import KIB, MIB, FileProbe, ListProbe
from hostcheck.snapshot.reading import Reading

T = TypeVar("T")

_NAMES = {
    "vm": """
        admin_reserve_kbytes compact_unevictable_allowed compaction_proactiveness dirty_background_bytes
        dirty_background_ratio dirty_bytes dirty_expire_centisecs dirty_ratio dirty_writeback_centisecs
        extfrag_threshold hugetlb_shm_group laptop_mode max_map_count memory_failure_recovery min_free_kbytes
        nr_hugepages nr_overcommit_hugepages numa_stat oom_kill_allocating_task overcommit_kbytes
        overcommit_memory overcommit_ratio page-cluster panic_on_oom stat_interval swappiness
        unprivileged_userfaultfd vfs_cache_pressure watermark_boost_factor watermark_scale_factor zone_reclaim_mode
    """,
    "kernel": """
        apparmor_restrict_unprivileged_userns core_pattern dmesg_restrict hardlockup_panic hung_task_detect_count
        hung_task_panic hung_task_timeout_secs io_uring_disabled kptr_restrict modules_disabled nmi_watchdog
        numa_balancing numa_balancing_promote_rate_limit_MBps panic panic_on_oops perf_event_mlock_kb
        perf_event_paranoid pid_max randomize_va_space sched_autogroup_enabled sched_rt_runtime_us shmall shmmax shmmni
        soft_watchdog softlockup_panic sysrq tainted threads-max timer_migration unprivileged_bpf_disabled
        unprivileged_userns_clone watchdog watchdog_thresh yama.ptrace_scope
    """,
    "fs": "aio-max-nr file-max file-nr inotify.max_user_instances inotify.max_user_watches nr_open pipe-max-size",
    "user": "max_user_namespaces",
}
_KNOBS = {
    f"{group}.{name}": f"/proc/sys/{group}/{name.replace('.', '/')}"
    for group, names in _NAMES.items()
    for name in names.split()
}
_VULNERABILITIES = "/sys/devices/system/cpu/vulnerabilities/*"
_POSSIBLE = "/sys/devices/system/cpu/possible"
_IOMMUS = "/sys/class/iommu/*"
_GROUP_TYPES = "/sys/bus/pci/devices/*/iommu_group/type"
_DUMPS = ("/sys/fs/pstore/dmesg-*", "/var/lib/systemd/pstore/dmesg-*", "/var/lib/systemd/pstore/*/dmesg.txt")

SYSCTL_PROBE = FileProbe("kernel.sysctl", tuple(_KNOBS.values()), limit=4 * KIB)
BOOT_PROBE = FileProbe(
    "kernel.boot",
    ("/proc/cmdline", "/proc/modules", "/proc/loadavg", "/proc/sys/kernel/random/boot_id", _VULNERABILITIES),
    limit=256 * KIB,
)
IOMMUS_PROBE = ListProbe("kernel.iommus", (_IOMMUS,))
GROUPS_PROBE = FileProbe("kernel.iommu-groups", (_GROUP_TYPES,), limit=256)
DUMPS_PROBE = FileProbe("kernel.dumps", _DUMPS, total=1 * MIB)


def maybe(read: Callable[[], T]) -> Maybe[T]:
    """Return what a function reads, or why it is not to be had."""
    try:
        return read()
    except (Unavailable, NotApplicable) as missing:
        return missing


def _required(reading: Reading, path: str) -> str:
    text = reading.read(path)
    if text is None:
        raise reading.unavailable(f"there is no {path}")
    return text


def read_sysctl(reading: Reading) -> Mapping[str, Maybe[str]]:
    """Return each setting by its sysctl name; one that this kernel lacks is not applicable."""

    def text(name: str, path: str) -> str:
        found = reading.read(path)
        if found is None:
            raise NotApplicable(f"this kernel has no {name}")
        return found.strip()

    return MappingProxyType({name: maybe(partial(text, name, path)) for name, path in _KNOBS.items()})


def setting(sysctl: Mapping[str, Maybe[str]], name: str) -> int:
    """Return a setting as a number; of those that hold several, the first.

    Raises:
        NotApplicable: this kernel has no such setting.
        Unavailable: it could not be read, or is no number.
    """
    text = need(sysctl[name])
    found = re.match(r"-?\d{1,20}(?=\s|$)", text)
    if not found:
        raise Unavailable(f"{name} is {text[:40]!r}, no number", SYSCTL_PROBE.id)
    return int(found[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Cmdline:
    """The kernel's command line.

    Attributes:
        text: as it is.
        parameters: name and value in order; the value of one without "=" is None. Hyphens in names are underscores,
            since the kernel takes both for the same.
    """

    text: str
    parameters: tuple[tuple[str, str | None], ...]

    def has(self, name: str) -> bool:
        """Whether a parameter is given, with a value or without."""
        return any(name == given for given, _ in self.parameters)

    def all(self, name: str) -> tuple[str, ...]:
        """Return the values of a parameter in order; that of one without "=" is empty."""
        return tuple(value or "" for given, value in self.parameters if given == name)

    def get(self, name: str) -> str | None:
        """Return the last value, which is the one that counts; None if the parameter is not given."""
        values = self.all(name)
        return values[-1] if values else None


def parse_cmdline(text: str) -> Cmdline:
    """Parse /proc/cmdline; double quotes keep spaces together, and what follows "--" is for init.

    Sample:
        BOOT_IMAGE=/boot/vmlinuz-6.17.0-1014-nvidia root=UUID=18e645be ro init_on_alloc=0 iommu.passthrough=0 console=tty0 console=ttyS0,921600 crashkernel=1G-:0M quiet "dyndbg=file drivers/usb/* +p" pci=pcie_bus_safe
    """  # noqa: E501
    parameters: list[tuple[str, str | None]] = []
    for word in re.findall(r'(?:"[^"]*"?|[^\s"])+', text):
        if word == "--":
            break
        name, equals, value = word.replace('"', "").partition("=")
        parameters.append((name.replace("-", "_"), value if equals else None))
    return Cmdline(text=text.strip(), parameters=tuple(parameters))


def parse_modules(text: str) -> frozenset[str]:
    """Return the names of the loaded modules.

    Raises:
        Unavailable: a line is not of the form that /proc/modules has.

    Sample:
        nvidia_uvm 4911104 0 - Live 0x0000000000000000 (POE)
        nvidia 104165376 213 nvidia_uvm,nvidia_modeset, Live 0x0000000000000000 (POE)
        ib_uverbs 200704 2 rdma_ucm,mlx5_ib, Live 0x0000000000000000
    """
    names = set()
    for line in text.splitlines():
        words = line.split()
        if len(words) < 3 or not words[1].isdigit():
            raise Unavailable(f"/proc/modules holds {line[:60]!r}", BOOT_PROBE.id)
        names.add(words[0])
    return frozenset(names)


def parse_tasks(text: str) -> int:
    """Return the number of tasks (threads of all processes) out of /proc/loadavg.

    Raises:
        Unavailable: it is not of that form.

    Sample:
        1.52 1.43 1.37 3/2217 884312
    """
    found = re.match(r"\S+ \S+ \S+ \d{1,9}/(\d{1,9}) ", text)
    if not found:
        raise Unavailable(f"/proc/loadavg holds {text[:60]!r}", BOOT_PROBE.id)
    return int(found[1])


# Documentation/admin-guide/tainted-kernels.rst; those left out are no trouble (proprietary, out of tree, unsigned ...).
_TAINTS = {
    4: "a machine check happened",
    5: "a page of memory was found corrupted",
    7: "the kernel died with an oops or BUG",
    14: "a CPU locked up",
}
MACHINE_CHECK_BIT = 4


def parse_taint(value: int) -> Mapping[int, str]:
    """Return, by bit, what troubled the kernel since boot; an unsigned or proprietary module is none of that."""
    return {bit: words for bit, words in _TAINTS.items() if value >> bit & 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Iommu:
    """What the IOMMU does.

    Attributes:
        units: its units, such as "dmar0" or "ivhd0"; empty if it is off, or hidden from a guest.
        types: PCI address to its domain's type, such as "identity" or "DMA-FQ".
        judged: the addresses that matter: GPUs and network controllers if any have a type, else all.
        state: "off", "passthrough" or "translated".
        serves: whether there are GPUs or InfiniBand adapters, whose traffic it would slow down.
    """

    units: tuple[str, ...]
    types: Mapping[str, str]
    judged: tuple[str, ...]
    state: Maybe[str]
    serves: bool


_INFINIBAND = 0x0207  # PCI class of an InfiniBand controller


def read_iommu(units: Reading, groups: Reading, boot: Reading, tree: PciTree | Unavailable) -> Iommu:
    """Return the state that the kernel itself shows, and by the command line only where it shows none."""
    names = tuple(sorted(path.rpartition("/")[2] for path in units.listed(_IOMMUS)))
    types = {path.split("/")[5]: text.strip() for path, text in groups.glob(_GROUP_TYPES, refused="leave-out").items()}
    wanted = () if isinstance(tree, Unavailable) else (*tree.gpus, *tree.nics)
    judged = tuple(part.address for part in wanted if part.address in types) or tuple(types)
    state: Maybe[str]
    if judged:
        state = "passthrough" if all(types[address] == "identity" for address in judged) else "translated"
    elif names:
        state = maybe(lambda: _by_cmdline(parse_cmdline(_required(boot, "/proc/cmdline"))))
    else:
        state = "off"
    fabric = isinstance(tree, Unavailable) or any(nic.kind == _INFINIBAND for nic in tree.nics)
    serves = fabric or (isinstance(tree, PciTree) and any(part.is_gpu or part.is_amd_gpu for part in tree.functions))
    return Iommu(units=names, types=types, judged=judged, state=state, serves=serves)


def _by_cmdline(cmdline: Cmdline) -> str:
    if cmdline.get("iommu.passthrough") in ("1", "y", "Y", "yes", "on", "true"):
        return "passthrough"
    if any("pt" in value.split(",") for name in ("iommu", "intel_iommu", "amd_iommu") for value in cmdline.all(name)):
        return "passthrough"
    raise Unavailable("the IOMMU is on, and neither its groups nor the command line tell how", GROUPS_PROBE.id)


_AUTO_INIT = re.compile(r"mem auto-init: .*heap alloc:(on|off)")


def read_init_on_alloc(boot: Reading, log: KernelLog | Unavailable) -> bool:
    """Return whether the kernel clears memory as it hands it out.

    The command line says so or, where it is silent, the line in which the kernel tells its own default (since 5.3).

    Raises:
        Unavailable: neither does.
    """
    given = parse_cmdline(_required(boot, "/proc/cmdline")).get("init_on_alloc")
    if given is not None:
        return given.lower() not in ("0", "n", "no", "off", "false")
    if isinstance(log, Unavailable):
        raise Unavailable(f"the command line has no init_on_alloc, and the default is not told ({log.why})", log.probe)
    told = [found[1] for line in log.lines if (found := _AUTO_INIT.match(line.text))]
    if not told and log.complete:
        return False  # a kernel older than 5.3, which cannot do it
    if not told:
        raise Unavailable("the command line has no init_on_alloc, and the kernel log lost its default", BOOT_PROBE.id)
    return told[-1] == "on"


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelHealth:
    """What went wrong in this boot.

    Attributes:
        taint: by bit, what the kernel itself remembers until the next boot.
        watches_tasks: whether it looks for tasks that hang.
        hung_tasks: how many it found; not applicable to kernels before 6.13, which do not count.
        log: the kernel log, which tells more, and forgets.
        troubles: what the log tells of.
    """

    taint: Mapping[int, str]
    watches_tasks: bool
    hung_tasks: Maybe[int]
    log: KernelLog | Unavailable
    troubles: tuple[Trouble, ...]

    def of(self, *kinds: Kind) -> tuple[Trouble, ...]:
        """Return the events of some kinds."""
        return tuple(trouble for trouble in self.troubles if trouble.kind in kinds)

    def need_all(self) -> None:
        """Go on only if the log was read and holds every message of this boot.

        Raises:
            Unavailable: why not.
        """
        if isinstance(self.log, Unavailable):
            raise Unavailable(self.log.why, self.log.probe)
        self.log.need_all()


def read_health(sysctl: Mapping[str, Maybe[str]], log: KernelLog | Unavailable) -> KernelHealth:
    """Return what the kernel remembers and what its log tells.

    Raises:
        Unavailable: the kernel's memory of it, the taint flags, could not be read.
    """
    timeout = maybe(partial(setting, sysctl, "kernel.hung_task_timeout_secs"))
    if isinstance(timeout, Unavailable):
        raise timeout
    return KernelHealth(
        taint=parse_taint(setting(sysctl, "kernel.tainted")),
        watches_tasks=isinstance(timeout, int) and timeout > 0,
        hung_tasks=maybe(partial(setting, sysctl, "kernel.hung_task_detect_count")),
        log=log,
        troubles=() if isinstance(log, Unavailable) else tuple(find_trouble(log.lines)),
    )


def read_crashes(dumps: Reading) -> Sequence[LogLine]:
    """Return the first message of each crash that the firmware or systemd kept of earlier boots."""
    crashes = []
    for pattern in _DUMPS:
        for text in dumps.glob(pattern).values():
            kinds = (Kind.PANIC, Kind.OOPS, Kind.LOCKUP)
            crashes += [trouble.line for trouble in find_trouble(parse_kernel_log(text)) if trouble.kind in kinds][:1]
    return crashes


SYSCTL: Fact[Mapping[str, Maybe[str]]] = Fact("kernel.sysctl", read_sysctl, SYSCTL_PROBE)
CMDLINE: Fact[Cmdline] = Fact(
    "kernel.cmdline", lambda boot: parse_cmdline(_required(boot, "/proc/cmdline")), BOOT_PROBE
)


def _modules(boot: Reading) -> frozenset[str]:
    _required(boot, "/proc/cmdline")  # without it, there is no /proc that could tell
    return parse_modules(boot.read("/proc/modules") or "")  # a kernel without modules has no such file


MODULES: Fact[frozenset[str]] = Fact("kernel.modules", _modules, BOOT_PROBE)
TASKS: Fact[int] = Fact("kernel.tasks", lambda boot: parse_tasks(_required(boot, "/proc/loadavg")), BOOT_PROBE)
BOOT_ID: Fact[str] = Fact(
    "kernel.boot-id", lambda boot: _required(boot, "/proc/sys/kernel/random/boot_id").strip(), BOOT_PROBE
)
VULNERABILITIES: Fact[Mapping[str, str]] = Fact(
    "kernel.vulnerabilities",
    lambda boot: {path.rpartition("/")[2]: text.strip() for path, text in boot.glob(_VULNERABILITIES).items()},
    BOOT_PROBE,
)
HEALTH: Fact[KernelHealth] = Fact("kernel.health", read_health, SYSCTL, Optional(KERNEL_LOG))
POSSIBLE_CPUS: Fact[int] = Fact(
    "kernel.possible-cpus", lambda cpu: len(parse_cpu_list(_required(cpu, _POSSIBLE))), TOPOLOGY_PROBE
)
IOMMU: Fact[Iommu] = Fact("kernel.iommu", read_iommu, IOMMUS_PROBE, GROUPS_PROBE, Optional(BOOT_PROBE), Optional(PCI))
INIT_ON_ALLOC: Fact[bool] = Fact("kernel.init-on-alloc", read_init_on_alloc, BOOT_PROBE, Optional(KERNEL_LOG))
CRASHES: Fact[Sequence[LogLine]] = Fact("kernel.crashes", read_crashes, DUMPS_PROBE)
