"""The search for bad hosts by pairs, on simulated hosts and links."""

from __future__ import annotations

import itertools
import random
from collections.abc import Set

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostcheck.bench.pairwise import Pairing, Verdict, slow


def search(
    count: int, bad: Set[int] = frozenset(), links: Set[frozenset[int]] = frozenset()
) -> tuple[Verdict, list[list[tuple[str, str]]]]:
    """Search among hosts of which some fail with everybody, and some pairs fail with each other."""
    names = [f"n{number}" for number in range(count)]
    pairing = Pairing(names)
    rounds = []
    while pairs := pairing.round():
        rounds.append(pairs)
        assert len(rounds) < 2 * count
        busy = [host for pair in pairs for host in pair]
        assert len(set(busy)) == len(busy)
        suspects = set(names) - set(pairing.verdict().good)
        for first, second in pairs:
            # Two suspects meet only while nobody is known to be good.
            assert len(rounds) == 1 or not pairing.verdict().good or not {first, second} <= suspects
        for pair in pairs:
            numbers = frozenset(int(name[1:]) for name in pair)
            pairing.record(pair, not numbers & bad and numbers not in links)
    met = [frozenset(pair) for pairs in rounds for pair in pairs]
    assert len(set(met)) == len(met)
    return pairing.verdict(), rounds


def test_all_good_takes_one_round() -> None:
    verdict, rounds = search(8)
    assert len(rounds) == 1
    assert len(verdict.good) == 8
    assert (verdict.bad, verdict.links, dict(verdict.open)) == ((), (), {})


def test_an_odd_host_is_paired_in_a_second_round() -> None:
    verdict, rounds = search(7)
    assert [len(pairs) for pairs in rounds] == [3, 1]
    assert len(verdict.good) == 7


@pytest.mark.parametrize("bad", [{0}, {7}, {2, 3}, {0, 2}, {0, 2, 5}, {1, 3, 5, 7}])
def test_bad_hosts_are_named_and_their_partners_cleared(bad: set[int]) -> None:
    verdict, rounds = search(8, bad)
    if len(bad) == 4:
        # Every pair of the first round had one of them: suspects had to clear each other.
        assert set(verdict.bad) | set(verdict.good) == {f"n{number}" for number in range(8)}
    assert set(verdict.bad) == {f"n{number}" for number in bad}
    assert set(verdict.good) == {f"n{number}" for number in range(8)} - set(verdict.bad)
    assert verdict.links == ()
    assert len(rounds) <= 4


def test_a_bad_link_is_told_from_a_bad_host() -> None:
    verdict, rounds = search(8, links={frozenset((2, 3))})
    assert verdict.links == (("n2", "n3"),)
    assert len(verdict.good) == 8
    assert len(rounds) == 2


def test_a_bad_link_to_the_one_who_was_to_prove_it_makes_no_bad_host() -> None:
    # n2 fails with n3 and then with n0, for two different reasons: it is called bad, since it passed with nobody.
    verdict, _ = search(8, links={frozenset((2, 3)), frozenset((2, 0))})
    assert verdict.bad == ("n2",)


def test_two_hosts_alone_prove_nothing() -> None:
    verdict, _ = search(2, bad={1})
    assert (verdict.good, verdict.bad) == ((), ())
    assert dict(verdict.open) == {"n0": ("n1",), "n1": ("n0",)}


def test_three_hosts_are_enough_for_one_bad() -> None:
    for bad in range(3):
        verdict, _ = search(3, bad={bad})
        assert verdict.bad == (f"n{bad}",)


def test_all_bad_is_left_open() -> None:
    verdict, _ = search(4, bad={0, 1, 2, 3})
    assert (verdict.good, verdict.bad) == ((), ())
    assert len(verdict.open) == 4


@given(st.integers(3, 24), st.randoms(use_true_random=False), st.floats(0, 0.4))
@settings(max_examples=200, deadline=None)
def test_no_good_host_is_called_bad_and_no_bad_one_good(count: int, draw: random.Random, share: float) -> None:
    bad = {number for number in range(count) if draw.random() < share}
    verdict, _ = search(count, bad)
    assert {int(name[1:]) for name in verdict.bad} <= bad
    assert not {int(name[1:]) for name in verdict.good} & bad
    assert verdict.links == ()
    assert set(verdict.good) | set(verdict.bad) | set(verdict.open) == {f"n{number}" for number in range(count)}
    if count - len(bad) >= 2 and len(bad) <= count / 3:
        assert {int(name[1:]) for name in verdict.bad} == bad
        assert not verdict.open


@given(st.integers(4, 16), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_one_bad_link_is_found_where_it_was_tried(count: int, draw: random.Random) -> None:
    link = frozenset(draw.sample(range(count), 2))
    verdict, rounds = search(count, links={link})
    tried = any(frozenset(int(name[1:]) for name in pair) == link for pair in itertools.chain(*rounds))
    assert verdict.bad == ()
    assert verdict.links == (tuple(f"n{number}" for number in sorted(link)),) if tried else verdict.links == ()


def test_before_anything_can_be_told_new_pairs_are_measured() -> None:
    pairing = Pairing(["a", "b", "c", "d"])
    for pair in pairing.round():
        pairing.record(pair, None)
    assert pairing.verdict().good == ()
    assert pairing.round() == [("a", "c"), ("b", "d")]
    for pair in (("a", "b"), ("c", "d"), ("a", "c"), ("b", "d")):
        pairing.record(pair, passed=True)
    assert pairing.round() == []
    assert pairing.verdict().good == ("a", "b", "c", "d")


def test_who_fails_with_hosts_that_work_with_others_is_bad_even_if_nobody_knows_what_is_normal() -> None:
    pairing = Pairing(["n0", "n1", "n2"])
    while pairs := pairing.round():
        for pair in pairs:
            pairing.record(pair, False if "n2" in pair else None)
    assert pairing.verdict() == Verdict(good=(), bad=("n2",), links=(), open={"n0": ("n2",), "n1": ("n2",)})
    link = Pairing(["n0", "n1", "n2"])
    while pairs := link.round():
        for pair in pairs:
            link.record(pair, False if set(pair) == {"n1", "n2"} else None)
    assert (link.verdict().bad, link.verdict().links) == ((), (("n1", "n2"),))
    assert dict(link.verdict().open) == {"n0": (), "n1": ("n2",), "n2": ("n1",)}


def test_a_pair_that_proves_nothing_makes_nobody_good() -> None:
    """Both of n0 and n3 are slow; n0 and n1 met, and their number was not to be believed."""
    pairing = Pairing(["n0", "n1", "n2", "n3"])
    assert pairing.round() == [("n0", "n1"), ("n2", "n3")]
    pairing.void(("n0", "n1"))
    pairing.record(("n2", "n3"), passed=False)
    assert pairing.verdict().good == ()
    assert dict(pairing.verdict().open) == {"n0": (), "n1": (), "n2": ("n3",), "n3": ("n2",)}
    while pairs := pairing.round():
        assert ("n0", "n1") not in pairs
        for pair in pairs:
            pairing.record(pair, set(pair) == {"n1", "n2"})
    assert pairing.verdict() == Verdict(good=("n1", "n2"), bad=("n0", "n3"), links=(), open={})


def test_a_host_that_proves_nothing_with_anybody_is_given_up() -> None:
    pairing = Pairing([f"n{number}" for number in range(16)])
    rounds = 0
    while pairs := pairing.round():
        rounds += 1
        for pair in pairs:
            pairing.void(pair) if "n0" in pair else pairing.record(pair, passed=True)
    assert rounds == 3
    assert dict(pairing.verdict().open) == {"n0": ()}
    nobody = Pairing([f"n{number}" for number in range(16)])
    while pairs := nobody.round():
        rounds += 1
        for pair in pairs:
            nobody.void(pair)
    assert rounds == 6
    assert len(nobody.verdict().open) == 16


@given(st.integers(3, 16), st.randoms(use_true_random=False), st.floats(0, 0.4), st.floats(0, 0.6))
@settings(max_examples=200, deadline=None)
def test_whatever_proves_nothing_accuses_and_clears_nobody(
    count: int, draw: random.Random, share: float, doubtful: float
) -> None:
    bad = {number for number in range(count) if draw.random() < share}
    pairing = Pairing([f"n{number}" for number in range(count)])
    rounds = 0
    while pairs := pairing.round():
        rounds += 1
        assert rounds < 2 * count
        for pair in pairs:
            if draw.random() < doubtful:
                pairing.void(pair)
            else:
                pairing.record(pair, not {int(name[1:]) for name in pair} & bad)
    verdict = pairing.verdict()
    assert {int(name[1:]) for name in verdict.bad} <= bad
    assert not {int(name[1:]) for name in verdict.good} & bad
    assert verdict.links == ()


def test_nothing_is_recorded_twice() -> None:
    pairing = Pairing(["a", "b"])
    pairing.record(("a", "b"), passed=False)
    with pytest.raises(ValueError, match="a and b have been paired before"):
        pairing.record(("b", "a"), passed=True)
    with pytest.raises(ValueError, match="a and b have been paired before"):
        pairing.void(("b", "a"))
    for hosts in ([], ["a"], ["a", "a"]):
        with pytest.raises(ValueError, match="two different hosts"):
            Pairing(hosts)


def test_a_host_that_leaves_frees_its_partner() -> None:
    pairing = Pairing(["a", "b", "c", "d"])
    assert pairing.round() == [("a", "b"), ("c", "d")]
    pairing.record(("a", "b"), passed=True)
    pairing.leave("c")
    assert pairing.round() == [("d", "a")]
    pairing.record(("d", "a"), passed=True)
    assert pairing.round() == []
    assert pairing.verdict() == Verdict(good=("a", "b", "d"), bad=(), links=(), open={})
    alone = Pairing(["a", "b"])
    alone.round()
    alone.leave("a")
    assert alone.round() == []
    assert dict(alone.verdict().open) == {"b": ()}


def test_slow_pairs() -> None:
    rates = {("a", "b"): 48.0, ("c", "d"): 47.0, ("e", "f"): 12.0}
    assert slow(rates) == {("e", "f"): "25% of what the faster half of all pairs reaches (48 GB/s)"}
    assert slow({("e", "f"): 12.0}) == {}
    assert list(slow({("e", "f"): 12.0}, known=[48.0, 47.0])) == [("e", "f")]
    assert slow(rates, floor=10.0) == {}
    assert list(slow(rates, floor=47.5)) == [("c", "d"), ("e", "f")]
    assert slow({("a", "b"): 0.0}, floor=1.0) == {("a", "b"): "below the floor of 1 GB/s"}
