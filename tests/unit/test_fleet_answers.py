"""A fleet judged from archives: each host by itself, whatever it sent."""

from __future__ import annotations

import gzip
import io
import os
import signal
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from fleets import LIST, called, edited, equals, fleet_of, written

from hostcheck.audit import judge
from hostcheck.checklist import Checklist
from hostcheck.fleet import answers
from hostcheck.fleet.answers import Archives, judge_fleet
from hostcheck.fleet.one import BROKEN, Work
from hostcheck.fleet.peers import Hardware
from hostcheck.model import Absentee, Severity, exit_code, fleet_exit_code
from hostcheck.render.fleet_hosts import NAMES_ITSELF
from hostcheck.snapshot.reading import Snapshot
from support import host


def test_each_host_is_judged_as_by_itself(tmp_path: Path) -> None:
    hosts = {name: host(name) for name in ("h100x1", "vm-2cpu", "h200x2")}
    fleet = fleet_of(tmp_path, hosts, checklist=Checklist())

    assert list(fleet.runs) == ["h100x1", "h200x2", "vm-2cpu"]
    for name, run in fleet.runs.items():
        alone = judge(host(name), Checklist())
        assert run == replace(alone, host=replace(alone.host, name=name))
    assert fleet.absent == ()
    assert fleet_exit_code(fleet) == max(map(exit_code, fleet.runs.values()), key=(0, 3, 1).index)


def test_a_pool_gives_the_same_as_one_process(tmp_path: Path) -> None:
    hosts: dict[str, Snapshot] = {**equals(17), "vm": called(host("vm-2cpu"), "vm")}
    hosts["gpu07"] = edited(hosts["gpu07"], "gpu.driver", (rb"580\.159\.04", b"570.86.15"))
    pairs = [*written(tmp_path, hosts), ("gone", tmp_path / "gone.tar.gz")]
    seen: list[int] = []

    alone = judge_fleet(pairs, LIST, processes=1)
    pooled = judge_fleet(iter(pairs), LIST, processes=2, progress=seen.append)

    assert pooled == alone
    assert list(pooled.runs) == list(alone.runs)
    assert seen == list(range(1, 20))
    assert pooled.differences
    assert [absentee.name for absentee in pooled.absent] == ["gone"]


def test_each_host_may_have_its_own_checklist(tmp_path: Path) -> None:
    other = replace(LIST, role="inference")
    fleet = fleet_of(tmp_path, equals(3), checklist=lambda name: LIST if name == "gpu02" else other, processes=2)

    assert [run.role for run in fleet.runs.values()] == ["inference", "training", "inference"]


def bomb() -> bytes:
    return gzip.compress(bytes(300 * 2**20), compresslevel=1)


def linked() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        info = tarfile.TarInfo("manifest")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/shadow"
        tar.addfile(info)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a"),
        (b"\x1b[2J garbage", "not a readable hostcheck archive"),
        (bomb(), "unpacks to more than"),
        (linked(), "not a plain file"),
        (None, "No such file"),
    ],
)
def test_a_broken_archive_is_an_absentee_with_its_reason(tmp_path: Path, data: bytes | None, says: str) -> None:
    bad = tmp_path / "bad.tar.gz"
    if data is not None:
        bad.write_bytes(data)
    pairs = [*written(tmp_path, equals(2)), ("bad", bad)]
    fleet = judge_fleet(pairs, LIST)

    (absentee,) = fleet.absent
    assert (absentee.name, absentee.reach) == ("bad", BROKEN)
    assert says in absentee.why
    assert str(tmp_path) not in absentee.why
    assert "\n" not in absentee.why
    assert list(fleet.runs) == ["gpu01", "gpu02"]
    assert fleet_exit_code(fleet) in (1, 3)


def test_every_cut_of_an_archive_is_an_absentee_or_a_run(tmp_path: Path) -> None:
    (_, path), *_ = written(tmp_path, equals(1))
    data = path.read_bytes()
    for at in range(0, len(data), len(data) // 23):
        path.write_bytes(data[:at])
        fleet = judge_fleet([("gpu01", path)], LIST)
        assert [absentee.name for absentee in fleet.absent] == ["gpu01"]
        assert fleet_exit_code(fleet) == 3


def test_a_bug_is_an_absentee_and_says_so(tmp_path: Path) -> None:
    def fails(name: str) -> Checklist:
        raise KeyError("x" * 10_000)

    (absentee,) = fleet_of(tmp_path, equals(1), checklist=fails).absent

    assert "a bug in hostcheck: KeyError" in absentee.why
    assert len(absentee.why) < 600


def test_a_process_that_is_killed_costs_one_host(tmp_path: Path) -> None:
    parent = os.getpid()

    def kills(name: str) -> Checklist:
        if name == "gpu05" and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return LIST

    fleet = fleet_of(tmp_path, equals(20), checklist=kills, processes=2)

    (absentee,) = fleet.absent
    assert (absentee.name, absentee.reach) == ("gpu05", BROKEN)
    assert "killed" in absentee.why
    assert len(fleet.runs) == 19


def test_a_pool_can_end_its_processes_whatever_ended_this_one() -> None:
    """They hung where this process turned SIGTERM into an exception, which theirs had inherited."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        work = Work(checklist=LIST, site=(), fail_on=Severity.MEDIUM, today=None)
        with answers._pool(work, 1) as pool:
            assert pool.submit(signal.getsignal, signal.SIGTERM).result() is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_no_host_at_all_is_no_success() -> None:
    fleet = judge_fleet([], LIST)

    assert fleet_exit_code(fleet) == 3
    assert fleet.taken


def test_a_name_that_comes_twice_is_told(tmp_path: Path) -> None:
    pairs = written(tmp_path, {"a": host("vm-2cpu"), "b": host("vm-2cpu")})
    fleet = judge_fleet([*pairs, ("a", pairs[1][1])], LIST)

    assert list(fleet.runs) == ["a", "b"]
    assert [(absentee.name, absentee.why) for absentee in fleet.absent] == [
        ("a", "there are two archives of this name")
    ]


class Shelf:
    """A store, as `judge_fleet` needs it."""

    def __init__(self, pairs: Iterable[tuple[str, Path]]) -> None:
        self.pairs = pairs

    def archives(self) -> Iterable[tuple[str, Path]]:
        return self.pairs

    def absent(self) -> Iterable[Absentee]:
        for name in ("gpu10", "gpu9"):
            yield Absentee(name=name, reach="unreachable", why=f"{name}: no route")


def test_a_store_brings_its_absentees(tmp_path: Path) -> None:
    shelf = Shelf(written(tmp_path, equals(1)))
    fleet = judge_fleet(shelf, LIST)

    assert isinstance(shelf, Archives)
    assert [absentee.name for absentee in fleet.absent] == ["gpu9", "gpu10"]
    assert list(fleet.runs) == ["gpu01"]


def test_equal_parts_are_one_object_and_nothing_else_changes(tmp_path: Path) -> None:
    fleet = fleet_of(tmp_path, equals(2), checklist=Checklist())
    one, two = fleet.runs.values()

    assert one.results == two.results
    assert all(first is second for first, second in zip(one.results, two.results, strict=True))


def test_sharing_keeps_numbers_apart_that_python_calls_equal(tmp_path: Path) -> None:
    run = judge(host("vm-2cpu"), LIST)
    shared = answers._Shared()
    seen = []
    for observed in (1, True, 1.0, 1):
        finding = replace(run.results[0].findings[0], observed=observed)
        judged = answers.Judged(
            name="x",
            run=replace(run, results=(replace(run.results[0], findings=(finding,)),)),
            hardware=Hardware(),
            values={"Memory": 1.0, "x": "1"},
            samples={},
        )
        seen.append(shared.host(judged).run.results[0].findings[0].observed)

    assert list(map(repr, seen)) == ["1", "True", "1.0", "1"]


# names


def test_a_host_is_named_by_its_target_and_its_claim_is_told(tmp_path: Path) -> None:
    hosts = {"gpu01": called(host("vm-2cpu"), "gpu02"), "gpu02": called(host("vm-2cpu"), "gpu02")}
    fleet = fleet_of(tmp_path, hosts)

    assert [run.host.name for run in fleet.runs.values()] == ["gpu01", "gpu02"]
    assert fleet.runs["gpu01"].host.facts[NAMES_ITSELF] == "gpu02"
    assert NAMES_ITSELF not in fleet.runs["gpu02"].host.facts


@pytest.mark.parametrize(
    ("target", "said", "told"),
    [
        ("gpu01.example.org", "gpu01", ""),
        ("gpu01", "GPU01.example.org", ""),
        ("gpu01:2222", "gpu01", ""),
        ("10.0.0.7", "gpu07", "gpu07"),
        ("10.0.0.7", "10.0.0.8", "10.0.0.8"),
        ("gpu01", "", "(no name)"),
        ("gpu01", "x" * 100_000, "x" * 300),
    ],
)
def test_which_claims_are_told(tmp_path: Path, target: str, said: str, told: str) -> None:
    fleet = fleet_of(tmp_path, {target: called(host("vm-2cpu"), said)})

    assert fleet.runs[target].host.facts.get(NAMES_ITSELF, "") == told


def test_a_masked_name_is_no_claim(tmp_path: Path) -> None:
    assert NAMES_ITSELF not in fleet_of(tmp_path, {"gpu01": host("vm-2cpu")}).runs["gpu01"].host.facts
