"""The host's memory: swap, huge pages, page-cache and allocation settings, errors, and limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from hostcheck.errors import Maybe, NotApplicable, need
from hostcheck.expect import Expect, Key, failed, passed
from hostcheck.facts.base import each
from hostcheck.facts.edac import EDAC, MemoryController
from hostcheck.facts.hugepages import HUGE_POOLS, THP, HugePool, Thp
from hostcheck.facts.kernel import SYSCTL, setting
from hostcheck.facts.memory import (
    CGROUP_LIMIT,
    MEMINFO,
    OOM,
    SHM,
    SWAP,
    VMSTAT,
    MemInfo,
    OomKills,
    Swap,
    VmStat,
    count,
)
from hostcheck.facts.platform import PLATFORM, Platform
from hostcheck.model import Actor, Finding, Severity
from hostcheck.registry import check

from .kernel_fixes import sysctl, sysfs, target

_MODES = ("always", "madvise", "never")
THP_ENABLED = Key("memory.thp-enabled", str, words=_MODES)
THP_LARGE = Key("memory.thp-enabled.large-pages", str, words=_MODES)
THP_DEFRAG = Key("memory.thp-defrag", str, words=("always", "defer", "defer+madvise", "madvise", "never"))
KHUGEPAGED = Key("memory.khugepaged", int, high=1)
SWAP_SIZE = Key("memory.swap", float, "GiB", high=1e6)
SWAP_USED = Key("memory.swap.used", float, "% of the swap", high=100)
SWAPPINESS = Key("memory.swappiness", int, high=200)
ZONE_RECLAIM = Key("memory.zone-reclaim", int, high=7)
HUGE = Key("memory.hugepages", float, "GiB", high=1e6)
HUGE_UNUSED = Key("memory.hugepages.unused", float, "% of the memory", high=100)
DIRTY = Key("memory.dirty-ratios", float, "% of the memory", high=100)
DIRTY_BACKGROUND = Key("memory.dirty-ratios.background", float, "% of the memory", high=100)
OVERCOMMIT = Key("memory.overcommit", int, high=2)
MAP_COUNT = Key("memory.max-map-count", int, low=1024, high=2**31)
MIN_FREE = Key("memory.min-free", int, "KiB", high=2**40)
STALLS = Key("memory.compaction", float, "stalls/s", high=1e9)
CORRECTABLE = Key("memory.errors.correctable", int, "errors", high=2**40)
SHM_SIZE = Key("memory.shm", float, "GiB", high=1e6)
CGROUP = Key("memory.cgroup-limit", float, "% of the memory", high=100)

_THP_DIR = "/sys/kernel/mm/transparent_hugepage"
_SHM_DIR = "/dev/shm"  # noqa: S108
_LARGE_KIB = 32 * 1024
_SMALL_HOST_KIB = 32 * 1024 * 1024

Settings = Mapping[str, Maybe[str]]


@check(THP, id="memory.thp-enabled", severity=Severity.MEDIUM, rows=["os-thp-enabled"], keys=[THP_ENABLED, THP_LARGE])
def thp_enabled(thp: Thp, expect: Expect) -> Finding:
    """Transparent huge pages are used as the role wants it.

    One 2 MiB page in place of 512 of 4 KiB spares TLB misses in large buffers: data loading, optimizers on the CPU,
    staging for copies. Latency-critical serving pays for "always" with compaction and bloat. Kernels with 64 KiB
    pages have transparent huge pages of 512 MiB, which hardly ever fit.
    """
    size = thp.size_kib if isinstance(thp.size_kib, int) else 2048
    wanted = expect(THP_LARGE if size > _LARGE_KIB else THP_ENABLED)
    return wanted.judge(
        thp.enabled,
        say=f"transparent huge pages ({size // 1024} MiB) are {thp.enabled}",
        fix=sysfs(f"{_THP_DIR}/enabled", target(wanted)),
        source=f"{_THP_DIR}/enabled",
    )


@check(THP, id="memory.thp-defrag", severity=Severity.MEDIUM, rows=["os-thp-defrag"], keys=[THP_DEFRAG])
def thp_defrag(thp: Thp, expect: Expect) -> Finding:
    """An allocation does not stop to compact memory for a huge page that it did not ask for.

    With "always", every page fault may compact memory first, for milliseconds. "madvise" and "defer+madvise" leave
    that to programs that ask, and to the background.
    """
    if thp.enabled == "never":
        raise NotApplicable("transparent huge pages are off")
    wanted = expect(THP_DEFRAG)
    return wanted.judge(
        need(thp.defrag),
        say=f"a page fault that finds no huge page: {need(thp.defrag)}",
        fix=sysfs(f"{_THP_DIR}/defrag", target(wanted)),
        source=f"{_THP_DIR}/defrag",
    )


@check(THP, id="memory.khugepaged", severity=Severity.LOW, rows=["os-thp-defrag"], keys=[KHUGEPAGED])
def khugepaged(thp: Thp, expect: Expect) -> Finding:
    """The background collector of huge pages compacts memory only where the role allows it.

    khugepaged moves small pages together under a lock that stops their program. For throughput it is worth it; where
    each millisecond counts, it is not.
    """
    if thp.enabled == "never":
        raise NotApplicable("transparent huge pages are off")
    text = thp.khugepaged.get("defrag")
    if text is None:
        raise NotApplicable("this kernel has no khugepaged/defrag")
    path, wanted = f"{_THP_DIR}/khugepaged/defrag", expect(KHUGEPAGED)
    value = count(text, path)
    say = f"khugepaged {'compacts' if value else 'does not compact'} memory in the background"
    return wanted.judge(value, say=say, fix=sysfs(path, target(wanted)), source=path)


@check(SWAP, id="memory.swap", severity=Severity.MEDIUM, rows=["os-swap"], keys=[SWAP_SIZE, SWAP_USED])
def swap(state: Swap, expect: Expect) -> Iterator[Finding]:
    """The host has no swap, or what the role allows of it is hardly used.

    A rank whose memory is swapped out waits milliseconds for a page, and all other ranks wait for it. Without swap,
    memory that runs short ends in an out-of-memory kill of the job at fault.
    """
    beside = f", and {state.compressed_gib:.1f} GiB in compressed memory (zram)" if state.compressed_gib else ""
    findings = [
        expect(SWAP_SIZE).judge(
            round(state.disk_gib, 2),
            say=f"{state.disk_gib:.1f} GiB of swap are on disk{beside}",
            fix=_SWAP_OFF,
            source="/proc/swaps",
        )
    ]
    if state.areas:
        used = sum(area.used_kib for area in state.areas) / 1024
        findings.append(
            expect(SWAP_USED).judge(
                round(state.used_percent, 1),
                say=f"{used:,.0f} MiB of swap are used, {state.used_percent:.1f} %",
                fix="See who is swapped: grep VmSwap /proc/[0-9]*/status | sort -nk2 | tail. Let those jobs use less.",
                actor=Actor.APPLICATION,
                source="/proc/swaps",
            )
        )
    for finding in findings:
        yield finding if state.has_gpu else replace(finding, severity=Severity.LOW)


_SWAP_OFF = (
    "If free -m shows more available memory than used swap: swapoff -a, and comment the swap line in /etc/fstab "
    "(systemctl mask the .swap unit where there is none). swapoff reads all of it back first."
)


@check(SYSCTL, SWAP, id="memory.swappiness", severity=Severity.LOW, rows=["x-os-swappiness"], keys=[SWAPPINESS])
def swappiness(settings: Settings, state: Swap, expect: Expect) -> Finding:
    """Where there is swap, the kernel rather drops cached files than swaps out processes.

    The kernel's default of 60 swaps out idle buffers of jobs to keep files in memory that were read once.
    """
    if not state.areas:
        raise NotApplicable("the host has no swap")
    value, wanted = setting(settings, "vm.swappiness"), expect(SWAPPINESS)
    return wanted.judge(value, say=f"vm.swappiness is {value}", fix=sysctl("vm.swappiness", wanted))


@check(SYSCTL, id="memory.zone-reclaim", severity=Severity.MEDIUM, rows=["x-os-zone-reclaim"], keys=[ZONE_RECLAIM])
def zone_reclaim(settings: Settings, expect: Expect) -> Finding:
    """A full memory node takes memory from the other nodes before it drops its own cache.

    With vm.zone_reclaim_mode on, an allocation on a full node first reclaims there, and stalls, while other nodes
    have free memory: data sets that are cached on one node are dropped again and again.
    """
    value, wanted = setting(settings, "vm.zone_reclaim_mode"), expect(ZONE_RECLAIM)
    return wanted.judge(value, say=f"vm.zone_reclaim_mode is {value}", fix=sysctl("vm.zone_reclaim_mode", wanted))


@check(
    each(HUGE_POOLS),
    MEMINFO,
    id="memory.hugepages",
    severity=Severity.LOW,
    rows=["x-os-static-hugepages"],
    keys=[HUGE, HUGE_UNUSED],
)
def hugepages(pool: HugePool, info: MemInfo, expect: Expect) -> Iterator[Finding]:
    """Reserved huge pages are as many as planned, and in use.

    Reserved memory is gone for everything else, whether an application maps it or not. A kernel that could not
    reserve all that its command line asks for says so only in its log. A plan that is expected and not on the command
    line is for pages of the default size.
    """
    gib = pool.total * pool.size_kib / 2**20
    write = f"echo COUNT > /sys/kernel/mm/hugepages/hugepages-{pool.size_kib}kB/nr_hugepages"
    if pool.planned is not None:
        line = f"{pool.total} of {pool.planned} planned pages are reserved"
        source = "/proc/cmdline, /sys/kernel/mm/hugepages"
        now = write.replace("COUNT", str(pool.planned))
        short = f"Memory was too fragmented: drain the host and reboot it, or with no job running {now}"
        wanted = f"{pool.planned} pages, as the kernel's command line asks for"
        yield (
            passed(line, pool.total, source=source)
            if pool.total >= pool.planned
            else failed(line, pool.total, wanted=wanted, fix=short, actor=Actor.REBOOT, source=source)
        )
    elif pool.size_kib == info.hugepage_kib:
        yield expect(HUGE).judge(round(gib, 2), say=f"{gib:.1f} GiB are reserved", fix=write)
    idle = max(0, pool.free - pool.reserved) * pool.size_kib
    yield expect(HUGE_UNUSED).judge(
        round(idle / info.total_kib * 100, 1),
        say=f"{idle / 2**20:.1f} GiB of them are reserved and unused",
        fix=f"If no application is going to map them: {write}, with the count that is needed.",
    )


@check(
    SYSCTL,
    MEMINFO,
    id="memory.dirty-ratios",
    severity=Severity.LOW,
    rows=["x-os-dirty-ratios"],
    keys=[DIRTY, DIRTY_BACKGROUND],
)
def dirty_ratios(settings: Settings, info: MemInfo, expect: Expect) -> Iterator[Finding]:
    """Unwritten file data cannot fill a large part of the memory.

    20 % of 2 TiB are 400 GiB: a checkpoint seems written at once, and then blocks every writer for minutes while it
    really goes to disk.
    """
    for name, key in (("dirty", DIRTY), ("dirty_background", DIRTY_BACKGROUND)):
        in_bytes, wanted = setting(settings, f"vm.{name}_bytes"), expect(key)
        if in_bytes:
            share, say = in_bytes / 1024 / info.total_kib * 100, f"vm.{name}_bytes is {in_bytes / 2**20:,.0f} MiB"
        else:
            share = setting(settings, f"vm.{name}_ratio")
            say = f"vm.{name}_ratio is {share:g} %"
        yield wanted.judge(round(share, 2), say=say, fix=sysctl(f"vm.{name}_ratio", wanted))


@check(SYSCTL, id="memory.overcommit", severity=Severity.MEDIUM, rows=["x-os-overcommit"], keys=[OVERCOMMIT])
def overcommit(settings: Settings, expect: Expect) -> Finding:
    """The kernel does not refuse large mappings for fear that they might be used.

    CUDA reserves address space of the size of all GPU memory and more, and forked data loaders count their parent's
    memory again. With vm.overcommit_memory 2 such mappings fail though the memory is there.
    """
    value, wanted = setting(settings, "vm.overcommit_memory"), expect(OVERCOMMIT)
    return wanted.judge(value, say=f"vm.overcommit_memory is {value}", fix=sysctl("vm.overcommit_memory", wanted))


@check(SYSCTL, id="memory.max-map-count", severity=Severity.LOW, rows=["x-os-overcommit"], keys=[MAP_COUNT])
def max_map_count(settings: Settings, expect: Expect) -> Finding:
    """A process may have many memory mappings.

    Memory-mapped data sets, allocators with guard pages and GPU memory pools take thousands; at the limit (65,530
    where nobody raised it) mmap fails with "cannot allocate memory" while memory is free.
    """
    value, wanted = setting(settings, "vm.max_map_count"), expect(MAP_COUNT)
    return wanted.judge(value, say=f"vm.max_map_count is {value:,}", fix=sysctl("vm.max_map_count", wanted))


@check(SYSCTL, MEMINFO, id="memory.min-free", severity=Severity.LOW, keys=[MIN_FREE])
def min_free(settings: Settings, info: MemInfo, expect: Expect) -> Finding:
    """The kernel keeps enough memory free for drivers that cannot wait.

    Network drivers take memory in interrupts, where nothing can be reclaimed. With too small a reserve they drop
    packets and allocations stall while the page cache fills the rest.
    """
    if info.total_kib < _SMALL_HOST_KIB:
        raise NotApplicable(f"a host of {info.total_kib / 2**20:.0f} GiB needs no such reserve")
    value, wanted = setting(settings, "vm.min_free_kbytes"), expect(MIN_FREE)
    return wanted.judge(value, say=f"vm.min_free_kbytes is {value:,} KiB", fix=sysctl("vm.min_free_kbytes", wanted))


@check(OOM, id="memory.oom-kills", severity=Severity.MEDIUM, rows=["x-os-oom-kills"])
def oom_kills(kills: OomKills, expect: Expect) -> Finding:
    """The kernel has killed no process for want of memory since boot.

    One killed data loader or rank ends a job, hours later and with another message. If only a container's own limit
    was hit, that container's limit is too low; if the host ran out, any process on it may be next.
    """
    growth = kills.growth if isinstance(kills.growth, int) else 0
    if kills.since_boot == 0 and need(kills.growth) == 0:
        return passed("no process was killed for want of memory", 0, source="/proc/vmstat")
    names = f", last {', '.join(dict.fromkeys(kills.names[::-1][:3]))}" if kills.names else ""
    where = f", {kills.of_host} of {len(kills.names)} in the log because the host ran out" if kills.names else ""
    now = f", {growth} of them while the snapshot was taken" if growth else ""
    only_groups = kills.complete and len(kills.names) >= kills.since_boot and kills.of_host == 0 and not growth
    finding = failed(
        f"processes killed for want of memory: {kills.since_boot + growth}{now}{names}{where}",
        kills.since_boot + growth,
        wanted="none since boot",
        fix="See who and why: journalctl -k -b | grep -iE 'out of memory|oom-kill'. Then give that job or pod more "
        "memory, or fewer workers. The count starts anew with the next boot.",
        actor=Actor.APPLICATION,
        source="/proc/vmstat, kernel log",
    )
    return replace(finding, severity=Severity.LOW) if only_groups else finding


@check(VMSTAT, id="memory.compaction", severity=Severity.LOW, rows=["os-thp-defrag"], keys=[STALLS])
def compaction(stat: VmStat, expect: Expect) -> Finding:
    """No allocation waits for the kernel to compact memory.

    Each stall is a process that stood still while pages were moved to make room for a huge page.
    """
    grown = stat.grown("compact_stall")
    rate = grown / max(stat.seconds, 1.0)
    return expect(STALLS).judge(
        round(rate, 2),
        say=f"{grown} compaction stalls in {stat.seconds:.1f} s ({stat.since_boot('compact_stall'):,} since boot)",
        fix=sysfs(f"{_THP_DIR}/defrag", "madvise"),
        source="/proc/vmstat",
    )


@check(each(EDAC), id="memory.errors", severity=Severity.HIGH, keys=[CORRECTABLE])
def errors(controller: MemoryController, expect: Expect) -> Iterator[Finding]:
    """The memory controller has seen no uncorrectable error, and correctable ones do not pile up.

    An uncorrectable error kills the process that reads it, or the host. Correctable errors cost nothing each; a DIMM
    that has thousands, or gains some every minute, is the one that will have the uncorrectable one.
    """
    fix = "Find the DIMM: ras-mc-ctl --errors, or the BMC's event log. Drain the host and have it replaced."
    bad = need(controller.uncorrectable)
    line = f"{bad} uncorrectable errors ({controller.name})"
    yield (
        passed(line, bad)
        if bad == 0
        else failed(line, bad, wanted="no uncorrectable error", fix=fix, actor=Actor.REPLACE)
    )
    number = need(controller.correctable)
    finding = expect(CORRECTABLE).judge(number, say=f"{number:,} correctable errors", fix=fix, actor=Actor.REPLACE)
    yield replace(finding, severity=Severity.LOW)
    growth = need(controller.correctable_growth)
    if growth > 0:
        line = f"{growth} correctable errors came while the snapshot was taken"
        finding = failed(line, growth, wanted="no growth", fix=fix, actor=Actor.REPLACE)
        yield replace(finding, severity=Severity.MEDIUM)


@check(MEMINFO, id="memory.poisoned", severity=Severity.HIGH)
def poisoned(info: MemInfo, expect: Expect) -> Finding:
    """The kernel has taken no page out of use because of a memory error.

    Each such page had an error that the hardware could not correct, or too many that it could.
    """
    corrupted = need(info.corrupted_kib)
    line = f"{corrupted} KiB of memory are out of use because of errors"
    if corrupted == 0:
        return passed(line, 0, source="/proc/meminfo")
    return failed(
        line,
        corrupted,
        wanted="0 KiB",
        fix="Find the DIMM: ras-mc-ctl --errors, or the BMC's event log. Drain the host and have it replaced.",
        actor=Actor.REPLACE,
        source="/proc/meminfo (HardwareCorrupted)",
    )


@check(CGROUP_LIMIT, MEMINFO, id="memory.cgroup-limit", severity=Severity.INFO, keys=[CGROUP])
def cgroup_limit(limit: int | None, info: MemInfo, expect: Expect) -> Finding:
    """The audit's own control group may use nearly all of the host's memory.

    Where it may not, sizes on this page that speak of the host are not what a job in this group gets.
    """
    if limit is None or limit >= info.total_kib * 1024:
        return passed("no control group limits the memory of this session")
    share = limit / 1024 / info.total_kib * 100
    say = f"this session may use {limit / 2**30:.1f} of {info.total_kib / 2**20:.1f} GiB"
    return expect(CGROUP).judge(round(min(share, 100.0), 1), say=say)


@check(SHM, PLATFORM, id="memory.shm", severity=Severity.HIGH, rows=["os-container-ipc"], keys=[SHM_SIZE])
def shm(size_kib: int, platform: Platform, expect: Expect) -> Finding:
    """Shared memory (/dev/shm) is large enough.

    NCCL and the workers of data loaders exchange data through it. Containers get 64 MiB unless told otherwise, and a
    write beyond that ends the process with a bus error. On a host it is half of the memory by default.
    """
    size = size_kib / 2**20
    own = f"docker run --ipc=host, or --shm-size=16g; Kubernetes: an emptyDir with medium Memory mounted at {_SHM_DIR}"
    return expect(SHM_SIZE).judge(
        round(size, 3),
        say=f"{_SHM_DIR} holds {size * 1024:,.0f} MiB",
        fix=own if platform.container else f"mount -o remount,size=50% {_SHM_DIR}, and the same in /etc/fstab",
        actor=Actor.APPLICATION if platform.container else Actor.OPERATOR,
        source="/proc/self/mountinfo",
    )
