"""Pairs of simulated hosts that have rates: who is slow is found among few as among many."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Collection, Iterable
from typing import Any

import pytest

from hostcheck.bench import hosts
from hostcheck.bench.collective import MARK
from hostcheck.bench.hosts import Between, by_pairs
from hostcheck.bench.ranks import Case, Launch, Outcome, read_found
from hostcheck.cli.bench_nccl import _code, _session, _show
from hostcheck.fleet.targets import Target
from hostcheck.render.json import encoded

GIB = 1 << 30
CASES: list[Case] = [("all-reduce", GIB, 1.0)]
WILD = (0.5, 0.8, 1.0, 1.5, 2.0)
LOG = {"version": "", "via": {}, "chosen": {}, "nvls": False, "set": {}, "warnings": []}


def searched(
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    rate: Any,
    *,
    cases: list[Case] = CASES,
    absent: Collection[int] = (),
    broken: Collection[int] = (),
    floor: float | None = None,
    scatter: tuple[float, ...] = (1.0,) * 5,
    wild: Collection[frozenset[int]] = (),
    wild_bytes: int | None = None,
    most: int | None = None,
) -> Between:
    """Let hosts find out who is slow, where `rate` tells GB/s of a pair by its numbers and the bytes.

    The samples of all pairs scatter by `scatter`, those of pairs in `wild` by too much, or only those of
    `wild_bytes`. With `most`, Ctrl-C comes after so many pairs.
    """
    left = itertools.count() if most is None else iter(range(most))

    def found(pair: tuple[int, int], size: int) -> Any:
        shares = WILD if frozenset(pair) in wild and wild_bytes in (None, size) else scatter
        seconds = [size / 1e9 / rate(frozenset(pair), size) * share for share in shares]
        document = {
            "operation": "all-reduce", "bytes": size, "ranks": 2, "seconds": seconds, "per_rank": seconds[:2],
            "wrong": {}, "log": LOG, "who": [["a", 0, "cpu"], ["b", 0, "cpu"]], "torch": "2",
        }  # fmt: skip
        (one,) = read_found(MARK.encode() + encoded(document))
        return one

    def measured(
        pairs: Iterable[tuple[Target, Target]], make: Any, launch: Launch, outcomes: dict[Any, Outcome]
    ) -> None:
        for first, second in pairs:
            if next(left, None) is None:
                raise KeyboardInterrupt
            pair = int(first.name[1:]), int(second.name[1:])
            if gone := {f"n{number}" for number in pair if number in absent}:
                outcomes[first.name, second.name] = Outcome(
                    failed=dict.fromkeys(gone, "not there"), absent=frozenset(gone)
                )
            elif failed := {f"n{number}" for number in pair if number in broken}:
                outcomes[first.name, second.name] = Outcome(failed=dict.fromkeys(failed, "rank 0: OSError"))
            else:
                results = tuple(found(pair, size) for _, size, _ in launch.cases)
                outcomes[first.name, second.name] = Outcome(found=results)

    monkeypatch.setattr(hosts, "_measure_pairs", measured)
    targets = [Target(f"n{number}", f"n{number}") for number in range(count)]
    return by_pairs(targets, lambda target: None, Launch(cases=cases), floor=floor)  # type: ignore[arg-type, return-value]


def shown(found: Between, capsys: pytest.CaptureFixture[str], floor: float | None = None) -> str:
    capsys.readouterr()
    _show(_session(found, dt.datetime.now(dt.UTC), 1.0), found, floor)
    return capsys.readouterr().out


@pytest.mark.parametrize("share", [0.1, 0.8])
@pytest.mark.parametrize("count", [3, 4, 5, 6, 7, 8, 16])
def test_one_slow_host_is_found_among_any_number(monkeypatch: pytest.MonkeyPatch, count: int, share: float) -> None:
    for slow in range(count):
        found = searched(monkeypatch, count, lambda pair, _, slow=slow: 40.0 * (share if slow in pair else 1.0))
        assert found.verdict is not None
        assert found.verdict.bad == (f"n{slow}",), slow
        assert len(found.verdict.good) == count - 1
        assert found.verdict.links == ()


@pytest.mark.parametrize("count", [6, 7, 8, 16])
def test_two_slow_hosts_are_found(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    for slow in itertools.combinations(range(count), 2):
        found = searched(monkeypatch, count, lambda pair, _, slow=slow: 4.0 if pair & set(slow) else 40.0)
        assert found.verdict is not None
        assert found.verdict.bad == tuple(f"n{number}" for number in slow), slow


@pytest.mark.parametrize("count", [3, 4, 5, 7])
def test_one_slow_link_makes_no_bad_host(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    for link in itertools.combinations(range(count), 2):
        found = searched(monkeypatch, count, lambda pair, _, link=link: 4.0 if pair == set(link) else 40.0)
        assert found.verdict is not None
        assert found.verdict.bad == ()
        assert dict(found.verdict.open) == {}
        ends = tuple(f"n{number}" for number in link)
        assert found.verdict.links == ((ends,) if {ends, ends[::-1]} & set(found.failed) else ())


@pytest.mark.parametrize("count", [3, 4, 5, 7, 16])
def test_hosts_that_differ_little_are_all_good(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    found = searched(monkeypatch, count, lambda pair, _: 40.0 - sum(pair) % 5)
    assert found.verdict is not None
    assert len(found.verdict.good) == count
    assert found.failed == {}


def test_only_the_first_size_says_what_is_normal(monkeypatch: pytest.MonkeyPatch) -> None:
    cases: list[Case] = [*CASES, ("all-reduce", 1 << 16, 1.0)]
    found = searched(monkeypatch, 7, lambda pair, size: 0.1 if size < GIB else 20.0 if 6 in pair else 40.0, cases=cases)
    assert found.verdict is not None
    assert found.verdict.bad == ("n6",)


def test_numbers_that_scatter_are_unknown_and_accuse_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = searched(monkeypatch, 4, lambda pair, _: 4.0 if 1 in pair else 40.0, scatter=WILD)
    assert found.verdict is not None
    assert (found.verdict.good, found.verdict.bad, found.failed) == ((), (), {})
    assert _code(found, None) == 3
    assert "UNKNOWN n3: with n2: unsteady: the samples vary by" in shown(found, capsys)
    assert _code(searched(monkeypatch, 4, lambda pair, _: 40.0), None) == 0


def test_a_pair_whose_number_is_unsteady_is_no_proof_against_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """n0 and n3 are slow; that n0 and n1 scatter must not make n0 good, and n2 bad by it."""
    wild = [frozenset({0, 1})]
    found = searched(monkeypatch, 4, lambda pair, _: 5.0 if pair & {0, 3} else 48.0, wild=wild, floor=40.0)
    assert found.verdict is not None
    assert (found.verdict.good, found.verdict.bad) == (("n1", "n2"), ("n0", "n3"))
    told = shown(found, capsys, 40.0)
    assert "unknown: n0 and n1: unsteady: the samples vary by" in told
    assert "BAD HOST n3: it passed with nobody; of those that it failed with, one works with others" in told
    assert _code(found, 40.0) == 1


@pytest.mark.parametrize("floor", [None, 30.0])
def test_a_healthy_host_that_was_unsteady_once_is_cleared_by_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], floor: float | None
) -> None:
    found = searched(monkeypatch, 8, lambda pair, _: 40.0, wild=[frozenset({2, 3})], floor=floor)
    assert found.verdict is not None
    assert len(found.verdict.good) == 8
    assert "unknown: n2 and n3: unsteady" in shown(found, capsys, floor)
    assert _code(found, floor) == 3


@pytest.mark.parametrize("rate", [0.001, 40.0])
def test_two_hosts_alone_prove_nothing_without_a_floor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rate: float
) -> None:
    found = searched(monkeypatch, 2, lambda pair, _: rate)
    assert found.verdict is not None
    assert (found.verdict.good, found.verdict.bad, set(found.verdict.open)) == ((), (), {"n0", "n1"})
    told = shown(found, capsys)
    assert f"UNKNOWN n0: with n1: {rate:g} GB/s, and fewer than 3 pairs say what is normal" in told
    assert "name a third host, or a --floor" in told
    assert _code(found, None) == 3
    assert _code(searched(monkeypatch, 2, lambda pair, _: 40.0, floor=30.0), 30.0) == 0


def test_a_host_that_breaks_with_two_that_work_is_bad(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for broken in range(3):
        found = searched(monkeypatch, 3, lambda pair, _: 40.0, broken={broken})
        assert found.verdict is not None
        assert found.verdict.bad == (f"n{broken}",)
        assert found.verdict.good == ()
        assert "name more hosts, or a --floor" in shown(found, capsys)
        assert _code(found, None) == 1


def test_each_case_must_reach_the_floor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cases: list[Case] = [*CASES, ("all-reduce", GIB // 4, 1.0)]
    found = searched(
        monkeypatch, 4, lambda pair, size: 5.0 if 1 in pair and size < GIB else 40.0, cases=cases, floor=30.0
    )
    assert found.verdict is not None
    assert (found.verdict.good, found.verdict.bad) == (("n0", "n2", "n3"), ("n1",))
    assert "n0 and n1: 5 GB/s is below the floor of 30 GB/s (nccl.all-reduce 256 MiB)" in shown(found, capsys, 30.0)
    assert _code(found, 30.0) == 1


@pytest.mark.parametrize("low", [40.0, 5.0])
def test_a_case_that_scatters_lets_no_pair_pass_by_the_others(monkeypatch: pytest.MonkeyPatch, low: float) -> None:
    cases: list[Case] = [*CASES, ("all-reduce", GIB // 4, 1.0)]
    everywhere = [frozenset(pair) for pair in itertools.combinations(range(4), 2)]
    found = searched(
        monkeypatch, 4, lambda pair, size: low if size < GIB else 40.0, cases=cases, wild=everywhere, floor=30.0,
        wild_bytes=GIB,
    )  # fmt: skip
    assert found.verdict is not None
    assert (found.verdict.good, found.verdict.bad) == ((), ())
    assert bool(found.failed) == (low < 30.0)
    assert bool(found.unknown) == (low > 30.0)


def test_a_floor_and_a_host_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    found = searched(monkeypatch, 4, lambda pair, _: 10.0 if 1 in pair else 40.0, absent={3}, floor=30.0)
    assert found.verdict is not None
    assert (found.verdict.good, found.verdict.bad, set(found.absent)) == (("n0", "n2"), ("n1",), {"n3"})


def test_what_an_interrupt_leaves_is_kept_and_judged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = searched(monkeypatch, 16, lambda pair, _: 4.0 if 3 in pair else 40.0, most=5)
    assert found.interrupted
    assert len(found.measurements) == 5
    assert found.verdict is not None
    assert found.verdict.bad == ()
    assert set(found.verdict.good) == {f"n{number}" for number in (0, 1, 4, 5, 6, 7, 8, 9)}
    assert set(found.verdict.open) == {f"n{number}" for number in (2, 3, *range(10, 16))}
    told = shown(found, capsys)
    assert "UNKNOWN n12: interrupted before that was clear" in told
    assert "failed: n2 and n3: 4 GB/s is 10% of" in told


def test_an_interrupt_before_enough_pairs_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = searched(monkeypatch, 16, lambda pair, _: 40.0, most=2)
    assert found.verdict is not None
    assert (found.verdict.good, found.verdict.bad, len(found.verdict.open)) == ((), (), 16)


@pytest.mark.parametrize(("via", "invalid"), [("NET/IB/GDRDMA", True), ("NET/Socket", False)])
def test_tcp_scatters_as_what_the_cpu_does(via: str, invalid: bool) -> None:
    """All-gathers of 64 MiB between two namespaces varied by 11 % (NCCL 2.28 over TCP, 2026-11-21)."""
    document = {
        "operation": "all-gather", "bytes": GIB, "ranks": 2, "seconds": [0.9, 0.93, 1.0, 1.07, 1.1],
        "per_rank": [1.0, 1.0], "wrong": {}, "log": {**LOG, "via": {via: 8}},
        "who": [["a", 0, "H200"], ["b", 0, "H200"]], "torch": "2",
    }  # fmt: skip
    (found,) = read_found(MARK.encode() + encoded(document))
    assert bool(hosts.measurement(found, "a+b").invalid) is invalid
