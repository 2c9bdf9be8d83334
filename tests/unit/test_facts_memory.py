"""Parsers of memory: samples, corners, and texts of any kind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostcheck.errors import NotApplicable, Unavailable
from hostcheck.facts import edac, hugepages, memory
from hostcheck.facts.hugepages import HugePool
from hostcheck.facts.kernel import BOOT_PROBE
from hostcheck.facts.kernel_log import KernelLog, LogLine
from hostcheck.facts.memory import MemInfo
from hostcheck.facts.platform import HOST_PROBE
from hostcheck.snapshot.probes import FileProbe
from hostcheck.snapshot.reading import Ending, FileState, Reading
from support import sample

PARSERS: list[Callable[[str], Any]] = [
    memory.parse_meminfo,
    memory.parse_swaps,
    memory.parse_vmstat,
    hugepages.parse_choice,
    hugepages.parse_plan,
]
SAMPLES = [sample(parser) for parser in PARSERS]
INFO = memory.parse_meminfo(sample(memory.parse_meminfo))
POOL = "/sys/kernel/mm/hugepages/hugepages-{}kB/{}_hugepages"


def reading(probe: FileProbe, files: Mapping[str, str | FileState], at: float = 0.0) -> Reading:
    states = {
        path: state if isinstance(state, FileState) else FileState(Ending.OK, state.encode())
        for path, state in files.items()
    }
    return Reading(probe.id, Ending.OK, asked=probe.paths, files=states, at=at)


def twice(probe: FileProbe, before: Mapping[str, str], after: Mapping[str, str]) -> Reading:
    return replace(reading(probe, before, 100.0), later=reading(probe, after, 104.0))


def test_meminfo() -> None:
    assert (INFO.total_kib, INFO.available_kib, INFO.corrupted_kib) == (125508468, 121737812, 0)
    assert (INFO.swap_total_kib, INFO.swap_free_kib, INFO.hugepage_kib) == (16777212, 16541600, 2048)
    bare = memory.parse_meminfo("MemTotal: 1024 kB")
    assert isinstance(bare.available_kib, Unavailable)
    assert isinstance(bare.corrupted_kib, NotApplicable)
    with pytest.raises(Unavailable):
        memory.parse_meminfo("MemFree: 1024 kB")


def test_swaps() -> None:
    disk, zram = memory.parse_swaps(sample(memory.parse_swaps))
    assert (disk.path, disk.kind, disk.size_kib, disk.used_kib, disk.priority) == (
        "/dev/nvme0n1p3",
        "partition",
        8388604,
        1024,
        -2,
    )
    assert (disk.in_memory, zram.in_memory) == (False, True)
    assert memory.parse_swaps("Filename\tType\tSize\tUsed\tPriority") == ()


@pytest.mark.parametrize("text", ["", "cat: no such file", "Filename\tType\n/dev/sda1 partition"])
def test_swaps_that_cannot_be_read_are_not_none(text: str) -> None:
    with pytest.raises(Unavailable):
        memory.parse_swaps(text)


def test_swap_that_only_meminfo_counts_is_not_none() -> None:
    info = sample(memory.parse_meminfo)
    with pytest.raises(Unavailable, match="counts swap"):
        memory.SWAPS.parse(reading(memory.INFO_PROBE, {"/proc/meminfo": info}))
    with pytest.raises(NotApplicable):
        memory.SWAPS.parse(reading(memory.INFO_PROBE, {"/proc/meminfo": "MemTotal: 9 kB\nSwapTotal: 0 kB"}))


def test_vmstat_grows() -> None:
    first = sample(memory.parse_vmstat)
    stat = memory.read_vmstat(
        twice(memory.VMSTAT_PROBE, {"/proc/vmstat": first}, {"/proc/vmstat": first.replace("oom_kill 3", "oom_kill 5")})
    )
    assert (stat.since_boot("oom_kill"), stat.grown("oom_kill"), stat.grown("pswpin"), stat.seconds) == (3, 2, 0, 4.0)
    with pytest.raises(NotApplicable):
        stat.since_boot("thp_zero")


def test_vmstat_read_once_does_not_stand_still() -> None:
    stat = memory.read_vmstat(reading(memory.VMSTAT_PROBE, {"/proc/vmstat": "oom_kill 3"}))
    with pytest.raises(Unavailable, match="only once"):
        stat.grown("oom_kill")


def test_out_of_memory_kills() -> None:
    stat = memory.read_vmstat(reading(memory.VMSTAT_PROBE, {"/proc/vmstat": "oom_kill 3"}))
    lines = (
        LogLine(text="Memory cgroup out of memory: Killed process 7 (pt_main_thread) total-vm:9kB"),
        LogLine(text="Out of memory: Killed process 8 (python) total-vm:9kB"),
    )
    log = KernelLog(lines=lines, complete=True, covers_from="boot", source="dmesg")
    kills = memory.read_oom(stat, log)
    assert (kills.since_boot, kills.names, kills.of_host) == (3, ("pt_main_thread", "python"), 1)
    assert isinstance(kills.growth, Unavailable)
    assert memory.read_oom(stat, Unavailable("denied")).names == ()


@pytest.mark.parametrize(
    ("text", "plan"),
    [
        ("hugepagesz=2M hugepages=5128 hugepagesz=1G hugepages=2", {2048: 5128, 1048576: 2}),
        ("hugepages=16", {None: 16}),
        ("default_hugepagesz=1G hugepages=4", {1048576: 4}),
        ("default_hugepagesz=1G hugepagesz=2M hugepages=0", {2048: 0}),
        ("hugepagesz=2M hugepages=0:512,1:512", {2048: 1024}),
        ("hugepagesz=2M hugepages=many", {}),
        ("ro quiet", {}),
    ],
)
def test_planned_huge_pages(text: str, plan: dict[int | None, int]) -> None:
    assert hugepages.parse_plan(text) == plan


def test_the_samples_plan() -> None:
    assert hugepages.parse_plan(sample(hugepages.parse_plan)) == {1048576: 4, 2048: 5128}


def pools(files: Mapping[str, str], cmdline: str, info: MemInfo = INFO) -> list[HugePool]:
    boot = reading(BOOT_PROBE, {"/proc/cmdline": cmdline})
    return list(hugepages.read_pools(reading(hugepages.PAGES_PROBE, files), boot, info))


def pool(size: int, total: int, free: int = 0, reserved: int = 0) -> dict[str, str]:
    counts = {"nr": total, "free": free, "resv": reserved}
    return {POOL.format(size, name): f"{count}\n" for name, count in counts.items()}


def test_pools() -> None:
    files = {
        **pool(2048, 5128, 100, 40),
        **pool(1048576, 0),
        "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages": "2564\n",
        "/sys/devices/system/node/node10/hugepages/hugepages-2048kB/nr_hugepages": "2564\n",
    }
    small, large = pools(files, "hugepages=5128")
    assert (small.total, small.free, small.reserved, small.planned) == (5128, 100, 40, 5128)
    assert small.by_node == {0: 2564, 10: 2564}
    assert (large.subject, large.total, large.planned) == ("1048576 kB pages", 0, None)


def test_a_plan_without_a_size_is_for_the_kernels_default_size() -> None:
    files = {**pool(2048, 0), **pool(524288, 8)}
    small, large = pools(files, "hugepages=8", replace(INFO, hugepage_kib=524288))
    assert (small.planned, large.planned) == (None, 8)


def test_a_pool_that_cannot_be_read_is_not_empty() -> None:
    with pytest.raises(Unavailable, match="no number"):
        pools({**pool(2048, 0), POOL.format(2048, "nr"): "?"}, "")
    with pytest.raises(Unavailable, match="free_hugepages"):
        pools({POOL.format(2048, "nr"): "64", POOL.format(2048, "resv"): "0"}, "")


def test_thp() -> None:
    assert hugepages.parse_choice(sample(hugepages.parse_choice)) == "madvise"
    folder = "/sys/kernel/mm/transparent_hugepage"
    thp = hugepages.read_thp(
        reading(
            hugepages.PAGES_PROBE,
            {f"{folder}/enabled": "[always] madvise never", f"{folder}/khugepaged/defrag": "1\n"},
        )
    )
    assert (thp.enabled, thp.khugepaged) == ("always", {"defrag": "1"})
    assert isinstance(thp.defrag, NotApplicable)


def test_edac_tells_the_host_that_counts_from_the_one_that_cannot() -> None:
    folder = "/sys/devices/system/edac/mc/mc0"
    before = {f"{folder}/ce_count": "4", f"{folder}/ue_count": "0", f"{folder}/mc_name": "skx\n"}
    (controller,) = edac.read_edac(twice(edac.EDAC_PROBE, before, {**before, f"{folder}/ce_count": "9"}))
    assert (controller.subject, controller.name, controller.correctable) == ("mc0", "skx", 4)
    assert (controller.uncorrectable, controller.correctable_growth) == (0, 5)
    (once,) = edac.read_edac(reading(edac.EDAC_PROBE, before))
    assert isinstance(once.correctable_growth, Unavailable)
    with pytest.raises(NotApplicable):
        edac.read_edac(reading(edac.EDAC_PROBE, {}))


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        ("0::/", {"/sys/fs/cgroup/memory.max": "1073741824"}, 1 << 30),
        ("0::/", {"/sys/fs/cgroup/memory.max": "max"}, None),
        ("0::/", {}, None),
        (
            "0::/a.slice/b.scope",
            {"/sys/fs/cgroup/a.slice/memory.max": "4096", "/sys/fs/cgroup/a.slice/b.scope/memory.max": "8192"},
            4096,
        ),
        ("0::/../../other", {"/sys/fs/cgroup/memory.max": "max"}, None),
        ("4:memory:/docker/1\n0::/", {"/sys/fs/cgroup/memory/memory.limit_in_bytes": "4096"}, 4096),
        ("4:memory:/\n0::/", {"/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, None),
    ],
)
def test_cgroup_limit(own: str, files: Mapping[str, str], limit: int | None) -> None:
    host = reading(HOST_PROBE, {"/proc/self/cgroup": own})
    assert memory.read_cgroup_limit(reading(memory.CGROUP_PROBE, files), host) == limit


@pytest.mark.parametrize(
    ("options", "size_kib"),
    [("rw,size=65536k", 65536), ("rw,inode64,size=1048576", 1024), ("rw,inode64", INFO.total_kib // 2)],
)
def test_shared_memory(options: str, size_kib: int) -> None:
    mounts = f"27 24 0:23 / /dev/shm rw,nosuid - tmpfs shm {options}"
    assert memory.read_shm(reading(HOST_PROBE, {"/proc/self/mountinfo": mounts}), INFO) == size_kib


def test_of_two_mounts_the_last_one_is_seen() -> None:
    mounts = "27 24 0:23 / /dev/shm rw - tmpfs a rw,size=64k\n28 24 0:24 / /dev/shm rw - tmpfs b rw,size=128k"
    assert memory.read_shm(reading(HOST_PROBE, {"/proc/self/mountinfo": mounts}), INFO) == 128


def quiet(parse: Callable[..., Any], *arguments: Any) -> None:
    """Call a parser; what it may raise is all that may come out."""
    with contextlib.suppress(Unavailable, NotApplicable):
        parse(*arguments)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200) | st.lists(st.sampled_from("\n".join(SAMPLES).splitlines())).map("\n".join))
def test_any_text_gives_a_value_or_a_reason(text: str) -> None:
    for parser in PARSERS:
        quiet(parser, text)
    quiet(memory.read_vmstat, twice(memory.VMSTAT_PROBE, {"/proc/vmstat": text}, {"/proc/vmstat": "oom_kill 1"}))
    folder = "/sys/devices/system/edac/mc/mc0"
    quiet(edac.read_edac, reading(edac.EDAC_PROBE, {f"{folder}/ce_count": text, f"{folder}/ue_count": text}))
    quiet(pools, {**pool(2048, 1), POOL.format(2048, "nr"): text}, text)
    own = reading(HOST_PROBE, {"/proc/self/cgroup": text, "/proc/self/mountinfo": text})
    quiet(memory.read_cgroup_limit, reading(memory.CGROUP_PROBE, {"/sys/fs/cgroup/memory.max": text}), own)
    quiet(memory.read_shm, own, INFO)
    page = {path: text for path in hugepages.PAGES_PROBE.paths if "*" not in path}
    quiet(hugepages.read_thp, reading(hugepages.PAGES_PROBE, page))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_mutilated_sample_gives_a_value_or_a_reason(data: st.DataObject) -> None:
    for parser, text in zip(PARSERS, SAMPLES, strict=True):
        place = data.draw(st.integers(0, len(text)))
        filler = data.draw(st.text(max_size=6))
        quiet(parser, text[:place] + filler + text[place + len(filler) :])
