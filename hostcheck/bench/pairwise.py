"""Finding the bad host among many by measuring pairs: which pairs to try next, and what the outcomes prove.

A pair that fails says nothing about which of the two is at fault, or whether it is what lies between them. So each of
them is paired with a host that is known to be good. Nothing is measured twice, and two suspects are paired with each
other only while there is no good host to try them with; that pair, too, is then new. A pair whose number is not to be
believed proves nothing for either of the two, nor against them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Pair: TypeAlias = tuple[str, str]

SLOW = 0.85
"""A pair below this share of what the faster half of all pairs reaches is slow."""
FEWEST = 3
"""Pairs from which on that says what is normal."""
_PROOF = 2
"""Partners with which a host must fail before it is called bad, one of them good."""
_PATIENCE = 3
"""Partners with which a host proves nothing before it is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the outcomes prove.

    Attributes:
        good: hosts that passed with somebody.
        bad: hosts that passed with nobody, and failed with two others, one of which works with somebody.
        links: pairs that failed though both hosts work with others: what lies between them is at fault.
        open: hosts of which nothing is proven, with those with which they failed.
    """

    good: tuple[str, ...]
    bad: tuple[str, ...]
    links: tuple[Pair, ...]
    open: Mapping[str, tuple[str, ...]]


class Pairing:
    """The state of a search. Ask for a `round`, measure its pairs, `record` each, and ask again until it is empty."""

    def __init__(self, hosts: Sequence[str]) -> None:
        """Begin with these hosts; their order decides who meets whom.

        Raises:
            ValueError: there are fewer than two, or one comes twice.
        """
        if len(hosts) < 2 or len(set(hosts)) < len(hosts):
            raise ValueError("two different hosts at least make a pair")
        self.hosts = tuple(hosts)
        self._outcome: dict[frozenset[str], bool | None] = {}
        self._void: set[frozenset[str]] = set()

    def record(self, pair: Iterable[str], passed: bool | None) -> None:
        """Note how a pair did; None where that will only be known, and recorded, once others were measured."""
        self._outcome[self._new(pair)] = passed

    def void(self, pair: Iterable[str]) -> None:
        """Note that a pair was measured and proves nothing: it clears neither of the two, and does not meet again."""
        self._void.add(self._new(pair))

    def _new(self, pair: Iterable[str]) -> frozenset[str]:
        key = frozenset(pair)
        if self._outcome.get(key) is not None or key in self._void:
            raise ValueError(f"{' and '.join(sorted(key))} have been paired before")
        return key

    def leave(self, host: str) -> None:
        """Take out a host that cannot take part. Whoever was to meet it is as if the two had never been paired."""
        self.hosts = tuple(other for other in self.hosts if other != host)

    def round(self) -> list[Pair]:
        """Return pairs to be measured at the same time, each host in one at most; none when there is no more to do."""
        if not self._outcome and not self._void:
            return [(first, second) for first, second in zip(self.hosts[::2], self.hosts[1::2], strict=False)]
        if None in self._outcome.values():
            return self._anew(self.hosts)
        good = self._good()
        unsolved = [
            host for host in self.hosts if not (host in good or self._is_bad(host, good) or self._is_given_up(host))
        ]
        free = [host for host in self.hosts if host in good]
        pairs: list[Pair] = []
        left: list[str] = []
        for host in unsolved:
            partner = next((other for other in free if not self._met(host, other)), None)
            if partner is None:
                left.append(host)
            else:
                free.remove(partner)
                pairs.append((host, partner))
        # Nobody is proven good: only suspects can clear suspects, and each such pair is new as well.
        return pairs if good else self._anew(left)

    def _anew(self, hosts: Iterable[str]) -> list[Pair]:
        """Pair hosts that have not met."""
        left = [host for host in hosts if not self._is_given_up(host)]
        pairs: list[Pair] = []
        while left:
            host = left.pop(0)
            partner = next((other for other in left if not self._met(host, other)), None)
            if partner is not None:
                left.remove(partner)
                pairs.append((host, partner))
        return pairs

    def verdict(self) -> Verdict:
        """Return what is proven by now."""
        good = self._good()
        # While some numbers cannot be judged yet, none has been: who failed gave none, and who gave one works.
        works = good | {host for pair, passed in self._outcome.items() if passed is None for host in pair}
        bad = [host for host in self.hosts if host not in works and self._is_bad(host, works)]
        links = [
            (first, second)
            for number, first in enumerate(self.hosts)
            for second in self.hosts[number + 1 :]
            if self._outcome.get(frozenset((first, second))) is False and {first, second} <= works
        ]
        unsolved = [host for host in self.hosts if host not in good and host not in bad]
        return Verdict(
            good=tuple(host for host in self.hosts if host in good),
            bad=tuple(bad),
            links=tuple(links),
            open={host: self._failed_with(host) for host in unsolved},
        )

    def _good(self) -> set[str]:
        return {host for pair, passed in self._outcome.items() if passed for host in pair}

    def _is_bad(self, host: str, good: set[str]) -> bool:
        partners = self._failed_with(host)
        return len(partners) >= _PROOF and any(partner in good for partner in partners)

    def _is_given_up(self, host: str) -> bool:
        return sum(host in pair for pair in self._void) >= _PATIENCE

    def _failed_with(self, host: str) -> tuple[str, ...]:
        return tuple(other for other in self.hosts if self._outcome.get(frozenset((host, other))) is False)

    def _met(self, first: str, second: str) -> bool:
        return frozenset((first, second)) in self._outcome.keys() | self._void


def slow(rates: Mapping[Pair, float], known: Iterable[float] = (), floor: float | None = None) -> dict[Pair, str]:
    """Return the pairs that are too slow, and against what.

    Of few pairs, one bad host can be in every second one, so that their median says nothing.

    Args:
        rates: of the pairs in question.
        known: rates of others.
        floor: what a pair must reach; without it, pairs are held against the faster half of all, if there are enough.
    """
    if floor is not None:
        return {pair: f"below the floor of {floor:g} GB/s" for pair, rate in rates.items() if rate < floor}
    every = [*rates.values(), *known]
    if len(every) < FEWEST:
        return {}
    normal = sorted(every)[-(len(every) // 2)]
    return {
        pair: f"{rate / normal:.0%} of what the faster half of all pairs reaches ({normal:.3g} GB/s)"
        for pair, rate in rates.items()
        if rate < SLOW * normal
    }
