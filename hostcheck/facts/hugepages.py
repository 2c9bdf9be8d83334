"""Huge pages: the transparent ones, and those that are set aside."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from hostcheck.errors import Maybe, NotApplicable, Unavailable
from hostcheck.facts.base import Fact
from hostcheck.facts.kernel import BOOT_PROBE, maybe, parse_cmdline
from hostcheck.facts.memory import MEMINFO, MemInfo, count
from hostcheck.snapshot.probes import KIB, MIB, FileProbe
from hostcheck.snapshot.reading import Reading

_THP = "/sys/kernel/mm/transparent_hugepage"
_POOLS = "/sys/kernel/mm/hugepages/hugepages-*"
_NODE_POOLS = "/sys/devices/system/node/node*/hugepages/hugepages-*"

PAGES_PROBE = FileProbe(
    "memory.pages",
    (
        *(f"{_THP}/{name}" for name in ("enabled", "defrag", "shmem_enabled", "hpage_pmd_size", "khugepaged/*")),
        *(f"{_POOLS}/{name}" for name in ("nr_hugepages", "free_hugepages", "resv_hugepages", "surplus_hugepages")),
        *(f"{_NODE_POOLS}/{name}" for name in ("nr_hugepages", "free_hugepages")),
    ),
    limit=4 * KIB,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thp:
    """Transparent huge pages.

    Attributes:
        enabled: "always", "madvise" or "never".
        defrag: what an allocation does if there is no free huge page, such as "madvise" or "defer+madvise".
        size_kib: size of one: 2 MiB with 4 KiB pages, 512 MiB with the 64 KiB pages of some Arm kernels.
        khugepaged: the background collector's settings by name.
    """

    enabled: str
    defrag: Maybe[str]
    size_kib: Maybe[int]
    khugepaged: Mapping[str, str]


def parse_choice(text: str) -> str:
    """Return the word in brackets.

    Raises:
        Unavailable: no word is.

    Sample:
        always defer defer+madvise [madvise] never
    """
    found = re.search(r"\[([\w+-]{1,40})\]", text)
    if not found:
        raise Unavailable(f"no word of {text.strip()[:60]!r} is in brackets", PAGES_PROBE.id)
    return found[1]


def _file(pages: Reading, path: str) -> str:
    text = pages.read(path)
    if text is None:
        raise NotApplicable(f"this kernel has no {path}")
    return text


def read_thp(pages: Reading) -> Thp:
    """Return how transparent huge pages are set.

    Raises:
        NotApplicable: the kernel was built without them.
    """
    enabled = pages.read(f"{_THP}/enabled")
    if enabled is None:
        raise NotApplicable("this kernel has no transparent huge pages")
    defrag, size = (maybe(partial(_file, pages, f"{_THP}/{name}")) for name in ("defrag", "hpage_pmd_size"))
    return Thp(
        enabled=parse_choice(enabled),
        defrag=maybe(lambda: parse_choice(defrag)) if isinstance(defrag, str) else defrag,
        size_kib=maybe(lambda: count(size, "hpage_pmd_size") // KIB) if isinstance(size, str) else size,
        khugepaged={
            path.rpartition("/")[2]: text.strip()
            for path, text in pages.glob(f"{_THP}/khugepaged/*", refused="leave-out").items()
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HugePool:
    """The reserved huge pages of one size.

    Attributes:
        size_kib: size of one page.
        total, free, reserved: pages in the pool, those that nobody has mapped, and of these those promised to somebody.
        by_node: pages on each memory node.
        planned: how many the kernel's command line asks for; None if it asks for none of this size.
    """

    size_kib: int
    total: int
    free: int
    reserved: int
    by_node: Mapping[int, int]
    planned: int | None

    @property
    def subject(self) -> str:
        """Its page size, such as "2048 kB pages"."""
        return f"{self.size_kib} kB pages"


def parse_plan(text: str) -> dict[int | None, int]:
    """Return how many huge pages a kernel command line asks for, by size in KiB; None is the kernel's default size.

    Sample:
        BOOT_IMAGE=/boot/vmlinuz ro default_hugepagesz=1G hugepages=4 hugepagesz=2M hugepages=0:2564,1:2564
    """
    plan: dict[int | None, int] = {}
    size: int | None = None
    default: int | None = None
    for name, value in parse_cmdline(text).parameters:
        if name in ("hugepagesz", "default_hugepagesz"):
            found = re.fullmatch(r"([0-9]{1,9})([KMG])", (value or "").upper())
            size = int(found[1]) * {"K": 1, "M": KIB, "G": MIB}[found[2]] if found else None
            default = size if name == "default_hugepagesz" else default
        elif name == "hugepages":
            counts = [part.rpartition(":")[2] for part in (value or "").split(",")]
            if all(re.fullmatch(r"[0-9]{1,12}", count) for count in counts):
                plan[size if size is not None else default] = sum(map(int, counts))
    return plan


def read_pools(pages: Reading, boot: Reading, info: MemInfo) -> Sequence[HugePool]:
    """Return the pool of each page size that the kernel knows.

    Raises:
        NotApplicable: the kernel has no huge pages.
    """
    counts = {
        name: {_size_kib(path): count(text, path) for path, text in pages.glob(f"{_POOLS}/{name}").items()}
        for name in ("nr_hugepages", "free_hugepages", "resv_hugepages")
    }
    if not counts["nr_hugepages"]:
        raise NotApplicable("this kernel has no reserved huge pages")
    nodes: dict[int, dict[int, int]] = {}
    for path, text in pages.glob(f"{_NODE_POOLS}/nr_hugepages").items():
        node = int(re.sub(r"\D", "", path.split("/")[5])[:9] or "-1")
        nodes.setdefault(_size_kib(path), {})[node] = count(text, path)
    for name in ("free_hugepages", "resv_hugepages"):
        if counts[name].keys() != counts["nr_hugepages"].keys():
            raise pages.unavailable(f"some pools of huge pages have no {name}")
    plan = parse_plan(boot.read("/proc/cmdline") or "")
    return [
        HugePool(
            size_kib=size,
            total=total,
            free=counts["free_hugepages"][size],
            reserved=counts["resv_hugepages"][size],
            by_node=nodes.get(size, {}),
            planned=plan.get(size, plan.get(None) if size == info.hugepage_kib else None),
        )
        for size, total in sorted(counts["nr_hugepages"].items())
    ]


def _size_kib(path: str) -> int:
    found = re.search(r"hugepages-([0-9]{1,12})kB/", path)
    if not found:
        raise Unavailable(f"{path} names no page size", PAGES_PROBE.id)
    return int(found[1])


THP: Fact[Thp] = Fact("memory.thp", read_thp, PAGES_PROBE)
HUGE_POOLS: Fact[Sequence[HugePool]] = Fact("memory.hugepages", read_pools, PAGES_PROBE, BOOT_PROBE, MEMINFO)
