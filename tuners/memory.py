"""The host's memory: swap, huge pages, page-cache and allocation settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hostcheck.checks.memory import (
    DIRTY,
    DIRTY_BACKGROUND,
    MAP_COUNT,
    MIN_FREE,
    OVERCOMMIT,
    SWAPPINESS,
    THP_DEFRAG,
    THP_ENABLED,
    THP_LARGE,
    ZONE_RECLAIM,
)
from hostcheck.errors import Maybe, NotApplicable, need
from hostcheck.expect import Expect, Expectation
from hostcheck.facts.dropins import OWN, OwnFiles
from hostcheck.facts.hugepages import THP, Thp
from hostcheck.facts.kernel import SYSCTL, setting
from hostcheck.facts.memory import MEMINFO, SWAP, MemInfo, Swap
from hostcheck.registry import tuner
from hostcheck.tuning.change import Change, Refusal, Risk

from .making import at_boot, because, set_sysctl, settle, sysctl, write

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
            keep = f"{why}: kept over a reboot"
            yield from at_boot(own, f"thp-{name}", {path: value}, why=keep, source=source, risk=risk)


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
