"""The host's memory: how much, how it is paged and swapped, what is set aside, and what went wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hostcheck.errors import Maybe, NotApplicable, Unavailable
from hostcheck.facts.base import Fact, Optional
from hostcheck.facts.kernel import maybe
from hostcheck.facts.kernel_log import KERNEL_LOG, KernelLog, Kind, Trouble, find_trouble
from hostcheck.facts.pci import PCI, PciTree
from hostcheck.facts.platform import HOST_PROBE, parse_mountinfo
from hostcheck.snapshot.probes import KIB, FileProbe
from hostcheck.snapshot.reading import Reading

_CGROUP = "/sys/fs/cgroup"
_SHM = "/dev/shm"  # noqa: S108
# Where limits are set: at the top of a container, by slices and scopes, by Slurm for jobs and their steps.
_DEPTHS = ("", "/*", "/*/*", "/*/*/*", "/system.slice/slurmstepd.scope/job_*/step_*")

INFO_PROBE = FileProbe("memory.info", ("/proc/meminfo", "/proc/swaps"))
VMSTAT_PROBE = FileProbe("memory.vmstat", ("/proc/vmstat",), twice=True)
CGROUP_PROBE = FileProbe(
    "memory.cgroup",
    (
        *(f"{_CGROUP}{depth}/memory.max" for depth in _DEPTHS),
        *(f"{_CGROUP}/memory{'/*' * depth}/memory.limit_in_bytes" for depth in range(5)),
    ),
    limit=256,
)


def count(text: str, what: str) -> int:
    """Return the number that a file holds.

    Raises:
        Unavailable: it holds no number.
    """
    if not re.fullmatch(r"[0-9]{1,20}", text.strip()):
        raise Unavailable(f"{what} is {text.strip()[:40]!r}, no number")
    return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemInfo:
    """Sizes of the whole host in KiB, and its default huge pages as counts.

    Attributes:
        total_kib: memory that the kernel manages.
        available_kib: what new work can have without swapping.
        swap_total_kib, swap_free_kib: swap of all areas.
        anon_huge_kib: anonymous memory in transparent huge pages.
        corrupted_kib: pages that the kernel took out of use because of memory errors.
        mlocked_kib: memory that processes have locked.
        hugepage_kib: size of a reserved huge page where none is named.
    """

    total_kib: int
    available_kib: Maybe[int]
    swap_total_kib: Maybe[int]
    swap_free_kib: Maybe[int]
    anon_huge_kib: Maybe[int]
    corrupted_kib: Maybe[int]
    mlocked_kib: Maybe[int]
    hugepage_kib: Maybe[int]


def parse_meminfo(text: str) -> MemInfo:
    """Parse /proc/meminfo.

    Raises:
        Unavailable: it has no total.

    Sample:
        MemTotal:       125508468 kB
        MemFree:        67271204 kB
        MemAvailable:   121737812 kB
        Mlocked:           24548 kB
        SwapTotal:      16777212 kB
        SwapFree:       16541600 kB
        HardwareCorrupted:     0 kB
        AnonHugePages:         0 kB
        HugePages_Total:       0
        Hugepagesize:       2048 kB
    """
    sizes = {name: int(size) for name, size in re.findall(r"^(\S+):\s+([0-9]{1,18})(?: kB)?\s*$", text, re.MULTILINE)}
    if not sizes.get("MemTotal"):
        raise Unavailable("/proc/meminfo gives no MemTotal", INFO_PROBE.id)

    def size(name: str) -> Maybe[int]:
        return sizes.get(name, Unavailable(f"/proc/meminfo has no {name}", INFO_PROBE.id))

    return MemInfo(
        total_kib=sizes["MemTotal"],
        available_kib=size("MemAvailable"),
        swap_total_kib=size("SwapTotal"),
        swap_free_kib=size("SwapFree"),
        anon_huge_kib=size("AnonHugePages"),
        corrupted_kib=sizes.get(
            "HardwareCorrupted", NotApplicable("this kernel was built without memory-error recovery")
        ),
        mlocked_kib=size("Mlocked"),
        hugepage_kib=size("Hugepagesize"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapArea:
    """One swap area.

    Attributes:
        path: its device or file.
        kind: "partition" or "file".
        size_kib, used_kib: its size, and what of it is in use.
        priority: those with a higher one are filled first.
    """

    path: str
    kind: str
    size_kib: int
    used_kib: int
    priority: int

    @property
    def in_memory(self) -> bool:
        """Whether it is compressed memory (zram) and no disk."""
        return re.fullmatch(r"/dev/zram\d+", self.path) is not None


def parse_swaps(text: str) -> tuple[SwapArea, ...]:
    """Parse /proc/swaps; nothing below the heading means that there is no swap.

    Raises:
        Unavailable: a line is not of the form it must have.

    Sample:
        Filename				Type		Size		Used		Priority
        /dev/nvme0n1p3                          partition	8388604		1024		-2
        /dev/zram0                              partition	4194300		0		100
    """
    lines = text.splitlines()
    if not lines or not lines[0].startswith("Filename"):
        raise Unavailable(f"/proc/swaps begins with {text[:40]!r}", INFO_PROBE.id)
    areas = []
    for line in lines[1:]:
        found = re.fullmatch(r"(\S+)\s+(\w+)\s+([0-9]{1,18})\s+([0-9]{1,18})\s+(-?[0-9]{1,9})\s*", line)
        if not found:
            raise Unavailable(f"/proc/swaps holds {line[:60]!r}", INFO_PROBE.id)
        areas.append(
            SwapArea(
                path=found[1],
                kind=found[2],
                size_kib=int(found[3]),
                used_kib=int(found[4]),
                priority=int(found[5]),
            )
        )
    return tuple(areas)


@dataclass(frozen=True, slots=True, kw_only=True)
class VmStat:
    """The kernel's memory counters since boot.

    Attributes:
        counters: by name, such as "oom_kill" or "compact_stall".
        growth: by how much each grew while the snapshot was taken.
        seconds: over how long.
    """

    counters: Mapping[str, int]
    growth: Maybe[Mapping[str, int]]
    seconds: float

    def since_boot(self, name: str) -> int:
        """Return a counter.

        Raises:
            NotApplicable: this kernel does not have it.
        """
        if name not in self.counters:
            raise NotApplicable(f"this kernel does not count {name}")
        return self.counters[name]

    def grown(self, name: str) -> int:
        """Return by how much a counter grew while the snapshot was taken.

        Raises:
            NotApplicable: this kernel does not have it.
            Unavailable: it was read only once.
        """
        self.since_boot(name)
        if isinstance(self.growth, Unavailable):
            raise Unavailable(self.growth.why, self.growth.probe)
        assert not isinstance(self.growth, NotApplicable)
        return self.growth.get(name, 0)


def parse_vmstat(text: str) -> dict[str, int]:
    """Parse /proc/vmstat into its counters.

    Raises:
        Unavailable: it holds none.

    Sample:
        nr_free_pages 1089059
        numa_hit 2098578
        numa_foreign 0
        pswpin 0
        pswpout 0
        oom_kill 3
        compact_stall 42
    """
    found = re.findall(r"^([a-z]\w*) ([0-9]{1,20})$", text, re.MULTILINE)
    if not found:
        raise Unavailable("/proc/vmstat holds no counters", VMSTAT_PROBE.id)
    return {name: int(value) for name, value in found}


def read_vmstat(reading: Reading) -> VmStat:
    """Return the counters of the first sample, and their growth up to the second."""
    counters = parse_vmstat(reading.read("/proc/vmstat") or "")
    if reading.later is None:
        return VmStat(counters=counters, growth=reading.unavailable("/proc/vmstat was read only once"), seconds=0.0)
    second = reading.later

    def growth() -> Mapping[str, int]:
        after = parse_vmstat(second.read("/proc/vmstat") or "")
        return {name: after[name] - value for name, value in counters.items() if name in after}

    return VmStat(counters=counters, growth=maybe(growth), seconds=max(0.0, second.at - reading.at))


@dataclass(frozen=True, slots=True, kw_only=True)
class OomKills:
    """Processes that the kernel killed for want of memory.

    Attributes:
        since_boot: how many.
        growth: how many while the snapshot was taken.
        names: those that the kernel log still names, oldest first.
        of_host: how many of these because the host itself, and not only a cgroup, had run out.
        complete: the log reaches back to the boot.
    """

    since_boot: int
    growth: Maybe[int]
    names: tuple[str, ...]
    of_host: int
    complete: bool


def read_oom(stat: VmStat, log: KernelLog | Unavailable) -> OomKills:
    """Return the kills that the kernel counted, with the names that its log still holds."""
    troubles: Iterable[Trouble] = () if isinstance(log, Unavailable) else find_trouble(log.lines)
    kills = [trouble for trouble in troubles if trouble.kind is Kind.OOM_KILL]
    return OomKills(
        since_boot=stat.since_boot("oom_kill"),
        growth=maybe(lambda: stat.grown("oom_kill")),
        names=tuple(kill.who for kill in kills),
        of_host=sum(kill.line.text.startswith("Out of memory") for kill in kills),
        complete=isinstance(log, KernelLog) and log.complete,
    )


def read_cgroup_limit(cgroup: Reading, host: Reading) -> int | None:
    """Return the lowest memory limit in bytes of the audit's own control group and those above it; None for none.

    Raises:
        Unavailable: a group on the way was not collected.
    """
    groups = dict(line.split(":", 2)[1:] for line in _lines(host, "/proc/self/cgroup") if line.count(":") >= 2)
    if "memory" in groups:  # the first hierarchy, in which a container sees its own group at the top
        top = _limit(cgroup, f"{_CGROUP}/memory/memory.limit_in_bytes")
        parts = [part for part in groups["memory"].split("/") if part] if top is None else []
        above = [f"{_CGROUP}/memory{_joined(parts[:n])}/memory.limit_in_bytes" for n in range(len(parts) + 1)]
        return min((limit for path in above if (limit := _limit(cgroup, path)) is not None), default=None)
    parts = [part for part in groups.get("", "/").split("/") if part and part != ".."]
    above = [f"{_CGROUP}{_joined(parts[:n])}/memory.max" for n in range(len(parts) + 1)]
    return min((limit for path in above if (limit := _limit(cgroup, path)) is not None), default=None)


def _joined(parts: list[str]) -> str:
    return "".join(f"/{part}" for part in parts)


def _lines(host: Reading, path: str) -> list[str]:
    return (host.read(path) or "").splitlines()


def _limit(cgroup: Reading, path: str) -> int | None:
    text = cgroup.read(path)
    if text is None or text.strip() == "max":
        return None
    limit = count(text, path)
    return limit if limit < 2**62 else None  # the first hierarchy writes the highest page for "no limit"


def read_shm(host: Reading, info: MemInfo) -> int:
    """Return the size of /dev/shm in KiB; where its mount does not say, it is half of the memory.

    Raises:
        Unavailable: it is no mount of its own.
    """
    text = host.read("/proc/self/mountinfo")
    mount = next((mount for mount in reversed(parse_mountinfo(text or "")) if mount.point == _SHM), None)
    if mount is None:
        raise Unavailable(f"{_SHM} is no mount of its own, so its size cannot be read", HOST_PROBE.id)
    size = re.search(r"(?:^|[ ,])size=([0-9]{1,15})(k?)(?:,|$)", mount.options)
    if not size:
        return info.total_kib // 2
    return int(size[1]) if size[2] else int(size[1]) // KIB


MEMINFO: Fact[MemInfo] = Fact("memory.info", lambda r: parse_meminfo(r.read("/proc/meminfo") or ""), INFO_PROBE)


def _swaps(reading: Reading) -> tuple[SwapArea, ...]:
    text = reading.read("/proc/swaps")
    if text is None:
        size = parse_meminfo(reading.read("/proc/meminfo") or "").swap_total_kib
        if size != 0 and not isinstance(size, Unavailable):
            raise reading.unavailable("there is no /proc/swaps, and /proc/meminfo counts swap")
        raise NotApplicable("this kernel cannot swap")
    return parse_swaps(text)


SWAPS: Fact[tuple[SwapArea, ...]] = Fact("memory.swaps", _swaps, INFO_PROBE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """The swap areas, and whether it is a GPU host that has them.

    Attributes:
        areas: the swap areas; none if the host does not swap.
        has_gpu: there is an NVIDIA GPU on the PCI bus, or it is not known that there is none.
    """

    areas: tuple[SwapArea, ...]
    has_gpu: bool

    @property
    def disk_gib(self) -> float:
        """Size of those on disk."""
        return sum(area.size_kib for area in self.areas if not area.in_memory) / 2**20

    @property
    def compressed_gib(self) -> float:
        """Size of those that are compressed memory."""
        return sum(area.size_kib for area in self.areas if area.in_memory) / 2**20

    @property
    def used_percent(self) -> float:
        """How much of all of them is in use; 0 where there is none."""
        total = sum(area.size_kib for area in self.areas)
        return sum(area.used_kib for area in self.areas) / total * 100 if total else 0.0


def read_swap(areas: tuple[SwapArea, ...], tree: PciTree | Unavailable) -> Swap:
    """Return the swap areas with what makes them matter."""
    return Swap(areas=areas, has_gpu=isinstance(tree, Unavailable) or bool(tree.gpus))


SWAP: Fact[Swap] = Fact("memory.swap", read_swap, SWAPS, Optional(PCI))
VMSTAT: Fact[VmStat] = Fact("memory.vmstat", read_vmstat, VMSTAT_PROBE)
OOM: Fact[OomKills] = Fact("memory.oom", read_oom, VMSTAT, Optional(KERNEL_LOG))
CGROUP_LIMIT: Fact[int | None] = Fact("memory.cgroup-limit", read_cgroup_limit, CGROUP_PROBE, HOST_PROBE)
SHM: Fact[int] = Fact("memory.shm", read_shm, HOST_PROBE, MEMINFO)
