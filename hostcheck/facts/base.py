"""`Fact`: a typed value that a pure function parses from probes and other facts; `Facts` evaluates and remembers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, runtime_checkable

from hostcheck.errors import NotApplicable, Unavailable
from hostcheck.snapshot.probes import CommandProbe, Probe
from hostcheck.snapshot.reading import Ending, Snapshot

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@runtime_checkable
class Subject(Protocol):
    """One of many things of a kind on a host, such as a GPU or a PCI function."""

    @property
    def subject(self) -> str:
        """Its short name in findings, such as "gpu0"."""
        ...


class Optional(Generic[T]):
    """A need that may be missing: the parser gets the value, or the Unavailable."""

    def __init__(self, source: Fact[T] | Probe) -> None:
        self.source = source


Source: TypeAlias = "Probe | Fact[Any] | Optional[Any]"

FACTS: dict[str, Fact[Any]] = {}
"""All facts by name, for checks that a checklist defines."""


class Fact(Generic[T_co]):
    """A typed value of a host.

    Args:
        name: subsystem and name, such as "kernel.sysctl".
        parse: pure function from what `needs` names to the value. A probe gives its `Reading`, a fact its value.
            It may raise Unavailable or NotApplicable; anything else is a bug.
        needs: probes and facts, in the order of the function's parameters.
    """

    def __init__(self, name: str, parse: Callable[..., T_co], *needs: Source) -> None:
        if name in FACTS:
            raise ValueError(f"two facts are named {name}")
        self.name = name
        self.parse = parse
        self.needs = needs
        FACTS[name] = self

    def __repr__(self) -> str:
        return f"Fact({self.name})"

    def probes(self, *, required_only: bool = False) -> Iterator[Probe]:
        """Yield each probe that the value is read from, directly or through other facts.

        Args:
            required_only: leave out those without which the value can still be had.
        """
        seen: set[str] = set()
        for wanted in self.needs:
            if isinstance(wanted, Optional) and required_only:
                continue
            source = wanted.source if isinstance(wanted, Optional) else wanted
            found = source.probes(required_only=required_only) if isinstance(source, Fact) else [source]
            for probe in found:
                if probe.id not in seen:
                    seen.add(probe.id)
                    yield probe


class Each(Generic[T]):
    """A need of a check that runs once for each element of a sequence; see `each`."""

    def __init__(self, fact: Fact[Sequence[T]]) -> None:
        self.fact = fact


def each(fact: Fact[Sequence[T]]) -> Each[T]:
    """Judge every element of a fact by itself; what one of them lacks does not touch the others."""
    return Each(fact)


class Facts:
    """The facts of one snapshot, evaluated when asked for, and remembered with their failures."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._known: dict[str, Any] = {}

    def get(self, fact: Fact[T]) -> T:
        """Return the value.

        Raises:
            Unavailable: something it needs could not be read.
            NotApplicable: there is no such thing on this host.
            Exception: a bug in the parser.
        """
        if fact.name not in self._known:
            try:
                self._known[fact.name] = fact.parse(*(self._source(need) for need in fact.needs))
            except Unavailable as missing:
                self._known[fact.name] = Unavailable(missing.why, missing.probe or _first_probe(fact), missing.ending)
            except Exception as problem:
                self._known[fact.name] = problem
        value = self._known[fact.name]
        if isinstance(value, Unavailable):
            raise Unavailable(value.why, value.probe, value.ending)
        if isinstance(value, NotApplicable):
            raise NotApplicable(value.why)
        if isinstance(value, Exception):
            raise value
        return value  # type: ignore[no-any-return]

    def _source(self, need: Source) -> Any:
        if isinstance(need, Fact):
            return self.get(need)
        if isinstance(need, Optional):
            try:
                value = self._source(need.source)
            except Unavailable as missing:
                return missing
            unread = isinstance(need.source, CommandProbe) and value.ending is not Ending.OK
            return value.unavailable() if unread else value
        return self.snapshot.reading(need.id)


def _first_probe(fact: Fact[Any]) -> str:
    return next((probe.id for probe in fact.probes()), "")
