"""Benchmarks of the host itself, on this very host."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count, cycle, repeat
from pathlib import Path
from statistics import median

import pytest

from bench_lab import StandInLab
from hostcheck.bench import pinning
from hostcheck.bench.model import Level, Sampled
from hostcheck.errors import HostcheckError, NotApplicable, Unavailable
from hostcheck.microbench import host_memory, jitter, storage


def need_numba() -> None:
    try:
        import numba  # noqa: F401
    except ImportError:
        assert not os.environ.get("CI"), "numba is missing: pip install -e '.[dev]'"
        pytest.skip("numba is not installed: pip install '.[bench]'")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> StandInLab:
    """Arrays that are quick to fill; the caches may hold them."""
    need_numba()
    monkeypatch.setattr(host_memory, "LEAST", 8 * 2**20)
    monkeypatch.setattr(host_memory, "nodes", lambda: (host_memory.Node(0, cpus(), 0, 2**30),))
    return StandInLab(seconds=0.2)


def cpus() -> tuple[int, ...]:
    return tuple(sorted(os.sched_getaffinity(0)))


def test_memory_is_read_copied_and_combined_by_every_core(small: StandInLab) -> None:
    before = os.sched_getaffinity(0)
    found = {sampled.case: sampled for sampled in host_memory.bandwidth(small)}
    assert found.keys() == {"read", "copy", "triad"}
    for sampled in found.values():
        assert sampled.verified
        assert sampled.subject == "node0"
        assert sampled.settings["threads"] == len(cpus())
        assert all(rate > 0 for rate in sampled.samples)
    assert os.sched_getaffinity(0) == before, "threads are bound, not the process"


def test_a_node_without_memory_and_one_with_too_little_keep_the_others_from_nothing(
    small: StandInLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = host_memory.Node
    found = (node(5, cpus(), 0, 0), node(6, cpus(), 0, 1 << 20), node(0, cpus(), 0, 2**30))
    monkeypatch.setattr(host_memory, "nodes", lambda: found)
    came: list[Sampled] = []
    with pytest.raises(HostcheckError, match="node6 has 1 MiB of memory free"):
        came.extend(host_memory.latency(small))
    assert [(each.subject, each.verified) for each in came] == [("node0", True)]


def test_remote_memory_is_alike_where_it_is_equally_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinning, "distances", lambda node: {0: 10, 1: 12, 2: 32})
    near, *others = (host_memory.Node(number, (0,), 0, 1) for number in range(3))
    assert [host_memory._apart(near, far) for far in (near, *others)] == [{}, {"distance": 12}, {"distance": 32}]


def test_a_cpu_that_is_gone_ends_it_and_hangs_nobody(small: StandInLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "nodes", lambda: (host_memory.Node(0, (*cpus(), 4095), 0, 2**30),))
    with pytest.raises(OSError, match="Invalid argument"):
        list(host_memory.bandwidth(small))


def test_a_wrong_word_is_found(small: StandInLab, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(target: object, one: object, other: object, scale: float) -> None:
        """Do nothing, as a machine that loses stores."""

    monkeypatch.setattr(host_memory, "_triad", wrong)
    assert [s.verified for s in host_memory.bandwidth(small)] == [True, True, False]


def test_the_chain_goes_through_every_line(small: StandInLab) -> None:
    (found,) = host_memory.latency(small)
    assert found.verified
    assert found.unit == "ns"
    assert all(0.5 < ns < 100_000 for ns in found.samples)


def test_a_chain_that_ends_elsewhere_is_found(small: StandInLab, monkeypatch: pytest.MonkeyPatch) -> None:
    def lazy(following: object, at: int, steps: int) -> int:
        return at

    monkeypatch.setattr(host_memory, "_follow", lazy)
    (found,) = host_memory.latency(small)
    assert not found.verified


class ScriptedCrew:
    """Takes 10 ms each time while it has its CPUs; where it has half of one, twice that."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, had: Iterator[float]) -> None:
        self.now = 0.0
        self.had = 1.0
        self._next = had
        monkeypatch.setattr(host_memory.time, "monotonic", lambda: self.now)

    def time(self, work: object) -> float:
        self.had = next(self._next)
        self.now += 0.01 / self.had
        return 0.01 / self.had


def timed(crew: ScriptedCrew) -> host_memory._Timed:
    return host_memory._timed(StandInLab(seconds=1.0), crew, lambda _: None, 1)


def test_what_other_processes_disturbed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A load of 340 ns was told as 1,361, since others had the CPU three quarters of the time."""
    found = timed(ScriptedCrew(monkeypatch, cycle([1.0, 0.25, 0.25, 0.95])))
    assert set(found.seconds) == {0.01, 0.01 / 0.95}
    assert len(found.seconds) >= 10
    assert not found.invalid
    assert found.left_out == found.details["disturbed and left out"] > 0


def test_where_others_nearly_always_have_the_cpu_there_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    crew = ScriptedCrew(monkeypatch, cycle([0.5] * 30 + [1.0]))
    found = timed(crew)
    assert found.invalid == (
        "other processes or a CPU quota took the CPU for 49% of the time: measure again without them"
    )
    assert crew.now < 1.1, "it tries three times as long as it plans for, 0.3 s, and no longer"


def test_undisturbed_work_is_measured_for_as_long_as_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    found = timed(ScriptedCrew(monkeypatch, repeat(1.0)))
    assert len(found.seconds) in (30, 31)
    assert found.details == {}


def test_many_times_become_a_thousand_means() -> None:
    assert host_memory._few([1.0, 2.0]) == [1.0, 2.0]
    assert host_memory._few([1.0, 3.0] * 1000) == [2.0] * 1000


DISTURBED = "other processes or a CPU quota took the CPU for 100% of the time: measure again without them"


def test_a_thread_that_has_no_cpu_is_disturbed(small: StandInLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory.time, "thread_time", lambda: 7.0)
    assert {sampled.invalid for sampled in host_memory.bandwidth(small)} == {DISTURBED}
    assert {sampled.invalid for sampled in host_memory.latency(small)} == {DISTURBED}


@pytest.mark.parametrize(
    ("other", "had"),
    [
        ((1.000, 1.010, 0.010), 1.0),
        ((1.000, 1.005, 0.005), 1.0),  # It was done early.
        ((1.005, 1.010, 0.005), 0.5),  # It could not begin.
        ((1.000, 1.008, 0.004), 0.6),  # It was held up.
    ],
)
def test_a_crew_lacks_what_any_of_it_lacks(other: tuple[float, float, float], had: float) -> None:
    """10 ms of work of one thread, and of another: when it began and ended, and for how long it had its CPU."""
    crew = host_memory._Crew(cpus()[:1] * 2, lambda number: None)

    def late(number: int) -> None:
        crew._spans = Late([(1.0, 1.010, 0.010), other])

    try:
        assert crew.time(late) == pytest.approx(0.010)
        assert crew.had == pytest.approx(had)
    finally:
        crew.close()


class Late(list[tuple[float, float, float]]):
    """Spans that nothing overwrites."""

    def __setitem__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("threads", "once", "passes"), [(2, 0.02, 1), (64, 0.002, 16), (128, 0.2, 1)])
def test_work_of_many_threads_is_long_beside_how_far_apart_they_begin(
    monkeypatch: pytest.MonkeyPatch, threads: int, once: float, passes: int
) -> None:
    """64 threads begin 1 ms apart: without it, 2 ms of memory traffic are told as 3."""
    crew = object.__new__(host_memory._Crew)
    crew._spans = [(0.0, 0.0, 0.0)] * threads
    taken = iter([3 * once, once, 2 * once])
    monkeypatch.setattr(crew, "time", lambda work: next(taken))
    assert crew.passes(lambda number: None) == passes


def test_all_passes_are_counted(small: StandInLab, monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(lab: object, crew: object, work: partial[None], cases: int) -> host_memory._Timed:
        assert work.args[1] == 5
        return host_memory._Timed([0.005])

    monkeypatch.setattr(host_memory._Crew, "passes", lambda crew, work: 5)
    monkeypatch.setattr(host_memory, "_timed", timed)
    found = list(host_memory.bandwidth(small))
    size = int(str(found[0].settings["bytes of each array"]))
    assert [each.samples for each in found] == [pytest.approx((arrays * size / 1e6,)) for arrays in (1, 2, 3)]


def test_passes_follow_each_other() -> None:
    seen: list[int] = []
    host_memory._over_again(seen.append, 3, 7)
    assert seen == [7, 7, 7]


def test_a_thread_with_a_cpu_of_its_own_is_undisturbed(small: StandInLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory.time, "thread_time", count().__next__)
    assert {sampled.invalid for sampled in host_memory.bandwidth(small)} == {""}
    assert {sampled.invalid for sampled in host_memory.latency(small)} == {""}


def test_memory_on_the_wrong_node_is_told() -> None:
    class Elsewhere:
        def nodes(self) -> set[int]:
            return {1}

    far = host_memory.Node(0, (0,), 0, 0)
    assert host_memory._misplaced([Elsewhere()], far) == "memory of node1 was had in place of node0"


def test_nodes_have_one_cpu_of_each_core_and_their_caches(tmp_path: Path) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    node = tmp_path / "sys/devices/system/node/node1"
    node.mkdir(parents=True)
    (node / "cpulist").write_text(",".join(map(str, allowed)))
    (node / "meminfo").write_text(
        "Node 1 MemTotal:  2048 kB\nNode 1 MemFree:  512 kB\nNode 1 Inactive(file):  512 kB\n"
    )
    empty = tmp_path / "sys/devices/system/node/node2"
    empty.mkdir()
    (empty / "cpulist").write_text("\n")
    for cpu in allowed:
        folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}"
        for name, text in {
            "topology/thread_siblings_list": f"{allowed[0]}-{allowed[-1]}",
            "cache/index2/size": "1024K",
            "cache/index2/shared_cpu_list": str(cpu),
            "cache/index3/size": "32768K",
            "cache/index3/shared_cpu_list": "all",
        }.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"{text}\n")
    assert host_memory.nodes(str(tmp_path)) == (host_memory.Node(1, (allowed[0],), 32 * 2**20, 2**20),)


def test_the_only_node_has_all_memory(tmp_path: Path) -> None:
    """As on a guest whose kernel counts under node0 only what it booted with: 5 of 252 GiB."""
    node = tmp_path / "sys/devices/system/node/node0"
    node.mkdir(parents=True)
    (node / "cpulist").write_text(",".join(map(str, os.sched_getaffinity(0))))
    (node / "meminfo").write_text("Node 0 MemTotal:  8220144 kB\nNode 0 MemFree:  5230320 kB\n")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  263998500 kB\nMemAvailable:  263231320 kB\n")
    (found,) = host_memory.nodes(str(tmp_path))
    assert found.free_bytes == 263231320 * 1024


def test_too_little_memory_is_one_line() -> None:
    node = host_memory.Node(1, (0,), 384 * 2**20, 8 * 2**30)
    with pytest.raises(HostcheckError, match=r"node1 has 8,192 MiB of memory free; 18,432 MiB are needed"):
        host_memory.size_of(node, 3)
    assert host_memory.size_of(host_memory.Node(0, (0,), 0, 2**40), 3) == 256 * 2**20


def test_a_quick_run_measures_no_pairs() -> None:
    two = [host_memory.Node(number, (0,), 0, 2**30) for number in (0, 1)]
    assert [host_memory._subject(*pair) for pair in host_memory.pairs(Level.QUICK, two)] == ["node0", "node1"]
    every = [host_memory._subject(*pair) for pair in host_memory.pairs(Level.STANDARD, two)]
    assert every == ["node0", "node0>node1", "node1>node0", "node1"]


def test_a_node_without_memory_is_measured_from_and_not_to() -> None:
    """As on Linux 6.1 in QEMU 7.2 with four nodes, 2026-11-21: the one with a CPU and no memory ended the run."""
    found = [host_memory.Node(number, (number,), 0, free) for number, free in enumerate((2**33, 0, 2**33))]
    assert [host_memory._subject(*pair) for pair in host_memory.pairs(Level.QUICK, found)] == ["node0", "node2"]
    every = {host_memory._subject(*pair) for pair in host_memory.pairs(Level.STANDARD, found)}
    assert every == {"node0", "node0>node2", "node1>node0", "node1>node2", "node2>node0", "node2"}


def test_without_numba_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "numba", None)
    with pytest.raises(Unavailable, match=r"numba is not installed: pip install '.\[bench\]'"):
        next(iter(host_memory.bandwidth(StandInLab())))


def test_jitter_is_measured_on_one_cpu_of_each_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jitter, "_PATIENCE", 600.0)
    before = os.sched_getaffinity(0)
    (found,) = list(jitter.jitter(StandInLab(seconds=0.2)))[:1]
    assert found.verified
    assert not found.invalid
    assert found.details["cpu"] in before
    assert int(str(found.details["pieces"])) >= 10_000, "more than fit into the time of 0.2 s"
    assert found.statistic == "p99.9"
    late = [float(str(found.details[f"{name} us over the median"])) for name in ("p99", "p99.9", "longest")]
    assert late == sorted(late)
    assert os.sched_getaffinity(0) == before


def quanta(monkeypatch: pytest.MonkeyPatch, spans: Sequence[int], seconds: float) -> Sampled:
    """Measure pieces of work of so many nanoseconds, which take so many seconds together."""
    now = [0.0]

    def piece(rounds: int, expected: bytes) -> tuple[array[int], bool]:
        now[0] += seconds
        return array("q", spans), True

    monkeypatch.setattr(jitter, "_calibrated", lambda: 1)
    monkeypatch.setattr(jitter, "_piece", piece)
    monkeypatch.setattr(jitter.time, "monotonic", lambda: now[0])
    found: Sampled = jitter._quanta(StandInLab(), "node0", cpus()[0], 0.5, 2.0)
    return found


def test_the_percentile_is_of_all_pieces_not_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One late piece in each of nine tenths of the time: the longest of nearly every part, and yet not one in 1,000."""
    late = [60_000] * 999 + [90_000]
    found = quanta(monkeypatch, [*late * 9, *([60_000] * 1000)], seconds=0.6)
    assert found.samples == (0.0,), "nine of 10,000 are above"
    found = quanta(monkeypatch, [*late * 9, *([60_000] * 998), 90_000, 90_000], seconds=0.6)
    assert found.samples == (30.0,), "eleven are"
    assert found.details["p99 us over the median"] == 0.0
    assert found.details["median us"] == 60.0


def test_too_few_pieces_for_a_percentile_are_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    found = quanta(monkeypatch, [60_000] * 1000, seconds=0.3)
    assert found.invalid == "7,000 pieces of work were done in 2.0 s; a 99.9th percentile needs 10,000"
    assert not quanta(monkeypatch, [60_000] * 2000, seconds=0.3).invalid


def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use files of 8 MiB."""
    monkeypatch.setattr(storage, "GIB", 8 * 2**20)


def on_disk() -> Path:
    """Return a folder that is not in memory."""
    return Path("/var/tmp")


def read_storage(**options: str) -> dict[str, Sampled]:
    return {s.case: s for s in storage.read(StandInLab(seconds=0.5, options=options))}


@pytest.mark.parametrize("reader", ["fio", "threads"])
def test_storage_is_read_past_the_cache_and_nothing_stays(monkeypatch: pytest.MonkeyPatch, reader: str) -> None:
    tiny(monkeypatch)
    if reader == "threads":
        monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    elif shutil.which("fio") is None:
        assert not os.environ.get("CI"), "fio is missing: scripts/install-test-parts installs it"
        pytest.skip("fio is not installed (scripts/install-test-parts)")
    with tempfile.TemporaryDirectory(dir=on_disk()) as folder:
        found = read_storage(path=folder)
        assert list(Path(folder).iterdir()) == []
    assert found.keys() == {"sequential", "random"}
    for sampled in found.values():
        assert sampled.verified
        assert sampled.settings["read by"] == ("threads" if reader == "threads" else "fio, libaio")
        assert len(sampled.samples) == 5
        assert median(sampled.samples) > 0, "one that a busy machine did not let begin in time read nothing"


def test_writing_ends_in_time_at_a_size_that_the_next_run_has_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that writes a quarter of a GiB in 2 s: 12 s would hold 1.5 GiB, and 1 GiB is what both runs take."""
    now = [0.0]
    monkeypatch.setattr(storage.time, "monotonic", lambda: now[0])
    pieces = []

    def slow(begin: int, end: int) -> None:
        pieces.append((begin, end))
        now[0] += 2 * (end - begin) / (storage.GIB // 4)

    assert storage.filled(64 * storage.GIB, 12, slow) == storage.GIB
    assert pieces == [(0, 2**28), (2**28, 2**29), (2**29, 2**30)]
    assert now[0] <= 12
    assert storage.filled(3 * 2**28, 1e9, slow) == 3 * 2**28, "no more than there is room for"
    assert storage.filled(storage.GIB, 0, slow) == 2**28, "the least that makes sense"


def test_a_drive_that_gives_other_data_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny(monkeypatch)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(storage, "_page", lambda offset: bytes(storage.PAGE))
    assert not any(sampled.verified for sampled in read_storage(path=str(on_disk())).values())


def test_a_folder_is_named_from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny(monkeypatch)
    monkeypatch.chdir(on_disk())
    assert {sampled.subject for sampled in read_storage(path=".").values()} == {str(on_disk().resolve())}


def test_storage_is_measured_only_where_the_user_says() -> None:
    with pytest.raises(NotApplicable, match=r"only where you say: --option path=FOLDER"):
        read_storage()
    with pytest.raises(HostcheckError, match=r"/dev/shm is in memory \(tmpfs\)"):
        read_storage(path="/dev/shm")
    with pytest.raises(HostcheckError, match=r"/no/such/folder: No such file"):
        read_storage(path="/no/such/folder")


def test_a_file_system_that_is_read_only_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, **__: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    tiny(monkeypatch)
    monkeypatch.setattr(storage.os, "open", read_only)
    monkeypatch.setattr(Path, "unlink", read_only)
    with pytest.raises(HostcheckError, match=r"^/var/tmp: Read-only file system$"):
        read_storage(path=str(on_disk()))


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**30, 2**30, 2**20))
    with pytest.raises(HostcheckError, match=r"1 MiB are free, 512 are needed"):
        read_storage(path=str(on_disk()))


def test_a_triad_is_wrong_where_one_word_is_and_where_it_was_never_written() -> None:
    np = pytest.importorskip("numpy")
    one, other = np.random.default_rng(1).random((2, 100_000))
    target = one + host_memory.SCALE * other

    def right() -> bool:
        return all(host_memory._is_triad(*piece) for piece in host_memory._pieces(target, one, other))

    assert right()
    for place, value in ((99_999, np.nan), (40_000, target[40_000] * (1 + 1e-12)), (0, 0.0)):
        kept, target[place] = target[place], value
        assert not right()
        target[place] = kept


def test_all_threads_must_agree() -> None:
    crew = host_memory._Crew(sorted(os.sched_getaffinity(0))[:1] * 3, lambda number: None)
    try:
        assert crew.agree(lambda number: True)
        assert not crew.agree(lambda number: number != 2)
    finally:
        crew.close()


def test_work_that_fails_in_a_thread_gives_no_time() -> None:
    crew = host_memory._Crew(cpus()[:1] * 2, lambda number: None)

    def fail(number: int) -> None:
        raise MemoryError("no room")

    try:
        with pytest.raises(MemoryError, match="no room"):
            crew.time(fail)
        assert crew.time(lambda number: None) > 0
    finally:
        crew.close()
