"""The host's memory: swap, huge pages, page-cache and allocation settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hostcheck.checks.memory import (
    DIRTY,
    DIRTY_BACKGROUND,
    HUGE,
    HUGE_UNUSED,
    KHUGEPAGED,
    MAP_COUNT,
    MIN_FREE,
    OVERCOMMIT,
    SHM_SIZE,
    SWAP_SIZE,
    SWAPPINESS,
    THP_DEFRAG,
    THP_ENABLED,
    THP_LARGE,
    ZONE_RECLAIM,
)
from hostcheck.errors import Maybe, NotApplicable, need
from hostcheck.expect import Expect, Expectation
from hostcheck.facts.cpu import NUMA, NumaNode
from hostcheck.facts.dropins import MARK, OWN, OwnFiles
from hostcheck.facts.hugepages import HUGE_POOLS, THP, HugePool, Thp
from hostcheck.facts.kernel import SYSCTL, setting
from hostcheck.facts.memory import MEMINFO, SHM, SWAP, MemInfo, Swap, count
from hostcheck.facts.process import DAEMONS, Daemons
from hostcheck.facts.storage import SHM_MOUNT, SWAP_UNITS, MountedDisk, SwapUnit, unescape
from hostcheck.registry import tuner
from hostcheck.tuning.change import Change, Kind, Refusal, Reload, Risk, Scope

from .making import at_boot, because, by_hand, claimed, drop_in, pick, set_sysctl, settle, sysctl, write

_THP_DIR = "/sys/kernel/mm/transparent_hugepage"
_LARGE_KIB = 32 * 1024
_SMALL_HOST_KIB = 32 * 1024 * 1024
_PAGE = 65536

_BY_TUNED = {
    "enabled": (("vm", "transparent_hugepages"), ("vm", "transparent_hugepage")),
    "defrag": (("vm", "transparent_hugepage.defrag"),),
}

Settings = Mapping[str, Maybe[str]]
Steps = Iterator[Change | Refusal]


def _thp_word(own: OwnFiles, name: str, word: str, wanted: Expectation, why: str, risk: Risk) -> Steps:
    """Yield the change of one of the files in which transparent huge pages have a choice of words."""
    path, source, check = f"{_THP_DIR}/{name}", because(wanted), f"memory.thp-{name}"
    settled = settle(own, path, wanted, word, file=own.others.tmpfile(path), tuned=_BY_TUNED[name])
    if isinstance(settled, Refusal):
        yield settled
    elif settled is not None:
        value = str(settled.value)
        yield write(path, word, value, why=why, source=source, fixes=[check], risk=risk)
        if not settled.kept:
            yield from at_boot(own, f"thp-{name}", {path: value}, why=why, source=source, risk=risk)


@tuner(
    THP, OWN, id="memory.thp-enabled", fixes=["memory.thp-enabled"], rows=["os-thp-enabled"],
    keys=[THP_ENABLED, THP_LARGE],
)  # fmt: skip
def thp_enabled(thp: Thp, own: OwnFiles, expect: Expect) -> Steps:
    """Set transparent huge pages to what the role wants.

    Memory that is mapped already keeps its pages; new mappings follow the new word. With "always", programs can take
    more memory than before. Rollback writes the old word back.
    """
    size = thp.size_kib if isinstance(thp.size_kib, int) else 2048
    wanted = expect(THP_LARGE if size > _LARGE_KIB else THP_ENABLED)
    yield from _thp_word(own, "enabled", thp.enabled, wanted, "transparent huge pages as the role wants", Risk.MEDIUM)


@tuner(THP, OWN, id="memory.thp-defrag", fixes=["memory.thp-defrag"], rows=["os-thp-defrag"], keys=[THP_DEFRAG])
def thp_defrag(thp: Thp, own: OwnFiles, expect: Expect) -> Steps:
    """Set what a page fault does that finds no free huge page.

    Page faults no longer stop to compact memory; fewer of them get a huge page at once. Rollback writes the old word.
    """
    if thp.enabled == "never":
        raise NotApplicable("transparent huge pages are off")
    why = "page faults do not stop to compact memory"
    yield from _thp_word(own, "defrag", need(thp.defrag), expect(THP_DEFRAG), why, Risk.LOW)


@tuner(THP, OWN, id="memory.khugepaged", fixes=["memory.khugepaged"], rows=["os-thp-defrag"], keys=[KHUGEPAGED])
def khugepaged(thp: Thp, own: OwnFiles, expect: Expect) -> Steps:
    """Set whether the background collector of huge pages may compact memory.

    Without it, programs get huge pages only where memory has room as it is. Rollback writes the old number.
    """
    if thp.enabled == "never":
        raise NotApplicable("transparent huge pages are off")
    text = thp.khugepaged.get("defrag")
    if text is None:
        raise NotApplicable("this kernel has no khugepaged/defrag")
    path, wanted = f"{_THP_DIR}/khugepaged/defrag", expect(KHUGEPAGED)
    settled = settle(own, path, wanted, count(text, path), file=own.others.tmpfile(path), read=int)
    if isinstance(settled, Refusal):
        yield settled
    elif settled is not None:
        why, source = "memory is not compacted under running programs", because(wanted)
        yield write(path, text, f"{settled.value}", why=why, source=source, fixes=["memory.khugepaged"])
        if not settled.kept:
            yield from at_boot(own, "khugepaged", {path: f"{settled.value}"}, why=why, source=source)


@tuner(
    SWAP, MEMINFO, SWAP_UNITS, DAEMONS, OWN, id="memory.swap", fixes=["memory.swap"], rows=["os-swap"],
    keys=[SWAP_SIZE],
)  # fmt: skip
def swap(
    state: Swap, info: MemInfo, units: Sequence[SwapUnit], daemons: Daemons, own: OwnFiles, expect: Expect
) -> Steps:
    """Switch swap on disks off, now and for later boots.

    What is swapped out is read back first, which takes a while and needs as much free memory; where there is not, it
    is refused. Without swap, memory that runs short ends in the kill of a process. Compressed memory (zram) stays.
    The file that keeps it off makes systemd pass over the swap units; /etc/fstab stays as it is. Rollback switches the
    areas on again and takes the files away.
    """
    wanted = expect(SWAP_SIZE)
    value = pick("swap", wanted, round(state.disk_gib, 2))
    if isinstance(value, Refusal):
        yield value
        return
    if value == round(state.disk_gib, 2):
        return
    if value != 0:
        yield Refusal(target="swap", why=f"{wanted.view.text} is expected: which areas are to stay is yours to choose")
        return
    areas = [area for area in state.areas if not area.in_memory]
    used, free = sum(area.used_kib for area in areas), need(info.available_kib)
    if used + info.total_kib // 20 > free:
        told = f"{used // 1024:,} MiB of it are in use, and {free // 1024:,} MiB of memory are available"
        yield Refusal(target="swap", why=f"{told}: it does not fit back; let those jobs end first")
        return
    why, source = "no process waits for memory that was swapped out", because(wanted)
    for area in areas:
        yield Change(
            kind=Kind.SWAP,
            target=unescape(area.path),
            before=f"{area.priority}",
            after=None,
            scope=Scope.RUNTIME,
            why=why,
            risk=Risk.MEDIUM,
            source=source,
            fixes=("memory.swap",),
        )
    if not daemons.has("/run/systemd/system"):
        yield by_hand("/etc/fstab", "take the lines of type swap out of /etc/fstab: swap is back at a reboot", source)
        return
    for folder, names in _swap_folders(units).items():
        if not folder:
            told = "mask its unit, or take it out of /etc/fstab: swap is back at a reboot"
            yield by_hand(names[0], told, source, [["systemctl", "mask", "--", *names]])
            continue
        lines = [f"# Passes over {name}" for name in names]
        lines += ["[Unit]", "# The root is always there, so that this is never true.", "ConditionPathExists=!/"]
        path = f"/etc/systemd/system/{folder}/{MARK}off.conf"
        yield from drop_in(own, path, lines, why=why, source=source, risk=Risk.MEDIUM, reload=Reload.SYSTEMD)


def _swap_folders(units: Sequence[SwapUnit]) -> dict[str, list[str]]:
    r"""Return the folders for drop-ins of units, with the names of those that each covers; "" where there is none.

    systemd looks for those of "dev-disk-by\x2duuid-1.swap" in "dev-disk-.swap.d" too (systemd.unit(5)), so that a name
    with escapes is covered by what comes before them.
    """
    folders: dict[str, list[str]] = {}
    for unit in units:
        stem = unit.name.removesuffix(".swap")
        plain, escape, _ = stem.partition("\\")
        prefix = f"{plain.rpartition('-')[0]}-" if "-" in plain else ""
        folder = f"{prefix}.swap.d" if escape and prefix else "" if escape else f"{unit.name}.d"
        folders.setdefault(folder, []).append(unit.name)
    return folders


@tuner(
    HUGE_POOLS, NUMA, MEMINFO, OWN, id="memory.hugepages", fixes=["memory.hugepages"],
    rows=["x-os-static-hugepages"], keys=[HUGE, HUGE_UNUSED],
)  # fmt: skip
def hugepages(
    pools: Sequence[HugePool], nodes: Sequence[NumaNode], info: MemInfo, own: OwnFiles, expect: Expect
) -> Steps:
    """Reserve huge pages of the default size, as many as are planned, spread evenly over the memory nodes.

    Reserved memory is gone for everything else, so that no more is reserved than may be unused until an application
    maps it. A kernel whose memory is fragmented reserves fewer: what it did not take is taken back. Memory of GPUs that
    shows as nodes is left out. Rollback writes the old numbers.
    """
    pool = next((pool for pool in pools if pool.size_kib == info.hugepage_kib), None)
    if pool is None:
        raise NotApplicable("the kernel has no pool of huge pages of its default size")
    if pool.planned is not None:
        raise NotApplicable("the kernel's command line has a plan of its own")
    wanted, gib = expect(HUGE), pool.total * pool.size_kib / 2**20
    value = pick("nr_hugepages", wanted, round(gib, 2))
    if isinstance(value, Refusal):
        yield value
        return
    if not isinstance(value, int | float) or value == round(gib, 2):
        return
    pages = -int(-value * 2**20 // pool.size_kib)
    if not wanted.matcher.matches(round(pages * pool.size_kib / 2**20, 2)):
        yield Refusal(target="nr_hugepages", why=f"no whole number of pages is {wanted.view.text}")
        return
    growth = (pages - pool.total) * pool.size_kib
    if growth > need(info.available_kib) * 0.8:
        told = f"{growth / 2**20:.1f} GiB more are wanted, and {need(info.available_kib) / 2**20:.1f} GiB are available"
        yield Refusal(target="nr_hugepages", why=f"{told}: reserve them at boot, by the kernel's command line")
        return
    idle = max(0, pool.free - pool.reserved + pages - pool.total) * pool.size_kib
    unused = expect(HUGE_UNUSED)
    if growth > 0 and not unused.matcher.matches(share := round(idle / info.total_kib * 100, 1)):
        told = f"{idle / 2**20:.1f} GiB would be reserved and unused, {share:g} % of the memory"
        why = f"{told}, not {unused.view.text}: allow that too (memory.hugepages.unused)"
        yield Refusal(target="nr_hugepages", why=why)
        return
    if pool.total - pages > pool.free - pool.reserved:
        yield Refusal(target="nr_hugepages", why="an application has mapped them, or was promised them")
        return
    why, source = f"{pages} huge pages of {pool.size_kib} KiB are reserved, as planned", because(wanted)
    values = _shares(pool, nodes, pages)
    claims = [claimed(path, own.others.tmpfile(path)) for path in values]
    refused = claimed("vm.nr_hugepages", own.others.sysctl("vm.nr_hugepages")) or next(filter(None, claims), None)
    if refused is not None:
        yield refused
        return
    for path, (before, after) in values.items():
        fixes = ["memory.hugepages"]
        if before != after:
            yield write(path, f"{before}", f"{after}", why=why, source=source, fixes=fixes, risk=Risk.MEDIUM)
    kept = {path: f"{after}" for path, (_, after) in values.items()}
    yield from at_boot(own, "hugepages", kept, why=why, source=source, risk=Risk.MEDIUM)


def _shares(pool: HugePool, nodes: Sequence[NumaNode], wanted: int) -> dict[str, tuple[int, int]]:
    """Return each file that holds a number of pages, with the number before and after."""
    folder = f"hugepages-{pool.size_kib}kB/nr_hugepages"
    host = [node.id for node in nodes if node.is_host and node.id in pool.by_node]
    others = sum(held for node, held in pool.by_node.items() if node not in host)
    if not host:
        return {f"/sys/kernel/mm/hugepages/{folder}": (pool.total, wanted)}
    share, rest = divmod(max(0, wanted - others), len(host))
    return {
        f"/sys/devices/system/node/node{node}/hugepages/{folder}": (pool.by_node[node], share + (place < rest))
        for place, node in enumerate(host)
    }


@tuner(SHM, SHM_MOUNT, id="memory.shm", fixes=["memory.shm"], keys=[SHM_SIZE])
def shm(size_kib: int, mount: MountedDisk, expect: Expect) -> Steps:
    """Make shared memory as large as NCCL and data loaders need it.

    It takes memory only as it is filled. It lasts until the next boot: for later ones, the line in /etc/fstab is the
    operator's. Rollback mounts it as before; the kernel refuses that while more is in it.
    """
    wanted = expect(SHM_SIZE)
    value = pick(mount.point, wanted, round(size_kib / 2**20, 3))
    if isinstance(value, Refusal):
        yield value
    elif isinstance(value, int | float) and value != round(size_kib / 2**20, 3):
        words = [word for word in mount.options.split(",") if not word.startswith("size=")]
        size = f"size={int(value * 2**20)}k"
        why, source = "NCCL and data loaders exchange data through it", because(wanted)
        yield Change(
            kind=Kind.MOUNT,
            target=mount.point,
            before=mount.options,
            after=",".join([*words, size]),
            scope=Scope.RUNTIME,
            why=why,
            source=source,
            fixes=("memory.shm",),
        )
        told = f"give {mount.point} the option {size} in /etc/fstab: it is lost at a reboot"
        yield by_hand(f"/etc/fstab {mount.point}", told, source)


@tuner(
    SYSCTL, SWAP, OWN, id="memory.swappiness", fixes=["memory.swappiness"], rows=["x-os-swappiness"],
    keys=[SWAPPINESS],
)  # fmt: skip
def swappiness(settings: Settings, state: Swap, own: OwnFiles, expect: Expect) -> Steps:
    """Set vm.swappiness, where there is swap.

    The kernel drops cached files before it swaps out processes. What is swapped out already stays there. Rollback
    writes the old number.
    """
    if not state.areas:
        raise NotApplicable("the host has no swap")
    why = "cached files go before the memory of processes"
    yield from sysctl(own, settings, "vm.swappiness", expect(SWAPPINESS), why=why, fixes=["memory.swappiness"])


@tuner(
    SYSCTL, OWN, id="memory.zone-reclaim", fixes=["memory.zone-reclaim"], rows=["x-os-zone-reclaim"],
    keys=[ZONE_RECLAIM],
)  # fmt: skip
def zone_reclaim(settings: Settings, own: OwnFiles, expect: Expect) -> Steps:
    """Set vm.zone_reclaim_mode.

    With 0, a full memory node takes from the others before it reclaims its own cache. Rollback writes the old number.
    """
    why = "a full node takes memory from the others before it drops its cache"
    wanted = expect(ZONE_RECLAIM)
    yield from sysctl(own, settings, "vm.zone_reclaim_mode", wanted, why=why, fixes=["memory.zone-reclaim"])


@tuner(
    SYSCTL, MEMINFO, OWN, id="memory.dirty-ratios", fixes=["memory.dirty-ratios"], rows=["x-os-dirty-ratios"],
    keys=[DIRTY, DIRTY_BACKGROUND],
)  # fmt: skip
def dirty_ratios(settings: Settings, info: MemInfo, own: OwnFiles, expect: Expect) -> Steps:
    """Bound how much of the memory may be file data that is not yet written.

    A limit that is given in bytes stays one in bytes: the kernel sets the one to zero when the other is written. A
    writer is slowed down earlier; what is written is the same. Rollback writes the old number.
    """
    for name, key in (("dirty", DIRTY), ("dirty_background", DIRTY_BACKGROUND)):
        wanted, in_bytes = expect(key), setting(settings, f"vm.{name}_bytes")
        percent = in_bytes / 1024 / info.total_kib * 100 if in_bytes else float(setting(settings, f"vm.{name}_ratio"))
        what = f"vm.{name}_{'bytes' if in_bytes else 'ratio'}"
        tuned = (("vm", what[3:]), ("sysctl", what))
        settled = settle(own, what, wanted, round(percent, 2), file=own.others.sysctl(what), tuned=tuned, read=float)
        if isinstance(settled, Refusal):
            yield settled
        elif settled is not None and isinstance(settled.value, int | float):
            size = int(settled.value / 100 * info.total_kib * 1024)
            after = f"{size // _PAGE * _PAGE if in_bytes else int(settled.value)}"
            why, fixes = "unwritten file data cannot fill a large part of the memory", ["memory.dirty-ratios"]
            before, source = need(settings[what]), because(wanted)
            yield from set_sysctl(own, what, before, after, why=why, source=source, fixes=fixes, kept=settled.kept)


@tuner(
    SYSCTL, OWN, id="memory.overcommit", fixes=["memory.overcommit"], rows=["x-os-overcommit"], keys=[OVERCOMMIT],
)  # fmt: skip
def overcommit(settings: Settings, own: OwnFiles, expect: Expect) -> Steps:
    """Set vm.overcommit_memory, so that large mappings are not refused for fear that they might be used.

    A host that runs out of memory then kills a process, where before a mapping was refused. Rollback writes the old
    number; processes that have mapped more by then keep it.
    """
    why = "large mappings of CUDA and of forked loaders are not refused"
    wanted, fixes = expect(OVERCOMMIT), ["memory.overcommit"]
    yield from sysctl(own, settings, "vm.overcommit_memory", wanted, why=why, fixes=fixes, risk=Risk.MEDIUM)


@tuner(
    SYSCTL, OWN, id="memory.max-map-count", fixes=["memory.max-map-count"], rows=["x-os-overcommit"], keys=[MAP_COUNT],
)  # fmt: skip
def max_map_count(settings: Settings, own: OwnFiles, expect: Expect) -> Steps:
    """Raise vm.max_map_count.

    Each mapping costs the kernel some 200 bytes, when it is made. Rollback writes the old number; processes that have
    more mappings by then keep them.
    """
    why = "a process may have many memory mappings"
    yield from sysctl(own, settings, "vm.max_map_count", expect(MAP_COUNT), why=why, fixes=["memory.max-map-count"])


@tuner(SYSCTL, MEMINFO, OWN, id="memory.min-free", fixes=["memory.min-free"], keys=[MIN_FREE])
def min_free(settings: Settings, info: MemInfo, own: OwnFiles, expect: Expect) -> Steps:
    """Raise vm.min_free_kbytes, the memory that the kernel keeps free for drivers that cannot wait.

    The memory is lost to everything else, and a little of the page cache is dropped at once. Rollback writes the old
    number.
    """
    if info.total_kib < _SMALL_HOST_KIB:
        raise NotApplicable(f"a host of {info.total_kib / 2**20:.0f} GiB needs no such reserve")
    why = "drivers that cannot wait find free memory"
    wanted, fixes = expect(MIN_FREE), ["memory.min-free"]
    yield from sysctl(own, settings, "vm.min_free_kbytes", wanted, why=why, fixes=fixes, risk=Risk.MEDIUM)
