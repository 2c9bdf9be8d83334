"""The registers: `@check`, `@tuner`, `@bench`, and the loading of the content folders and of plug-ins."""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, overload

from hostcheck.errors import HostcheckError
from hostcheck.expect import Expect, Key, suggest
from hostcheck.facts.base import Each, Fact
from hostcheck.model import Finding, Severity
from hostcheck.snapshot.probes import Probe

if TYPE_CHECKING:
    from hostcheck.bench.lab import Lab
    from hostcheck.bench.model import Backend, Level, Sampled, Scope
    from hostcheck.bench.options import Option
    from hostcheck.tuning.change import Change, Refusal

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")

Outcome: TypeAlias = Finding | Iterable[Finding]
Need: TypeAlias = "Fact[A] | Each[A]"

SUBSYSTEMS = (
    "platform", "cpu", "kernel", "memory", "pci", "gpu", "nvlink", "rdma", "network", "storage", "gds", "container",
    "kubernetes", "slurm", "process", "software", "power", "bench", "site",
)  # fmt: skip

_ID = re.compile(r"[a-z0-9]+\.[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Check:
    """A check and all that is known about it; see `check` for the meaning of each field."""

    id: str
    title: str
    rationale: str
    severity: Severity
    needs: tuple[Fact[Any] | Each[Any], ...]
    function: Callable[..., Outcome]
    rows: tuple[str, ...] = ()
    keys: tuple[Key, ...] = ()
    references: tuple[str, ...] = ()
    module: str = ""

    @property
    def subsystem(self) -> str:
        """The first word of the id."""
        return self.id.split(".", 1)[0]

    def probes(self, *, required_only: bool = False) -> Iterator[Probe]:
        """Yield each probe that the check's facts are read from; one may come twice."""
        for wanted in self.needs:
            fact = wanted.fact if isinstance(wanted, Each) else wanted
            yield from fact.probes(required_only=required_only)


CHECKS: dict[str, Check] = {}


@overload
def check(
    first: Need[A], /, *, id: str, severity: Severity, rows: Sequence[str] = ..., keys: Sequence[Key] = ...,
    references: Sequence[str] = ...,
) -> Callable[[Callable[[A, Expect], Outcome]], Callable[[A, Expect], Outcome]]: ...  # fmt: skip
@overload
def check(
    first: Need[A], second: Fact[B], /, *, id: str, severity: Severity, rows: Sequence[str] = ...,
    keys: Sequence[Key] = ..., references: Sequence[str] = ...,
) -> Callable[[Callable[[A, B, Expect], Outcome]], Callable[[A, B, Expect], Outcome]]: ...  # fmt: skip
@overload
def check(
    first: Need[A], second: Fact[B], third: Fact[C], /, *, id: str, severity: Severity, rows: Sequence[str] = ...,
    keys: Sequence[Key] = ..., references: Sequence[str] = ...,
) -> Callable[[Callable[[A, B, C, Expect], Outcome]], Callable[[A, B, C, Expect], Outcome]]: ...  # fmt: skip
@overload
def check(
    first: Need[A], second: Fact[B], third: Fact[C], fourth: Fact[D], /, *, id: str, severity: Severity,
    rows: Sequence[str] = ..., keys: Sequence[Key] = ..., references: Sequence[str] = ...,
) -> Callable[[Callable[[A, B, C, D, Expect], Outcome]], Callable[[A, B, C, D, Expect], Outcome]]: ...  # fmt: skip
def check(
    *needs: Any,
    id: str,
    severity: Severity,
    rows: Sequence[str] = (),
    keys: Sequence[Key] = (),
    references: Sequence[str] = (),
) -> Any:
    """Register a check.

    The function gets the values of the facts in order, and last the expectations. It returns or yields findings, and
    raises NotApplicable where the question does not arise; missing facts and expectations are the engine's affair.
    Its docstring is the help page: a sentence that is true when the check passes, an empty line, why it matters.

    Args:
        needs: one to four facts. `each(FACT)` in the first place runs the function once for each element.
        id: subsystem and name, such as "memory.thp-enabled".
        severity: how much a failure matters; a finding may differ.
        rows: the rows of the checklist that it answers.
        keys: the expectation keys that it may read.
        references: where the rationale comes from.
    """

    def register(function: Callable[..., Outcome]) -> Callable[..., Outcome]:
        title, rationale = _help_page(function)
        made = Check(
            id=id,
            title=title,
            rationale=rationale,
            severity=severity,
            needs=needs,
            function=function,
            rows=tuple(rows),
            keys=tuple(keys),
            references=tuple(references),
            module=function.__module__,
        )
        add(made)
        return function

    return register


def add(made: Check) -> None:
    """Put a check into the register.

    Raises:
        ValueError: its id is malformed or taken; both modules are named.
    """
    if not _ID.fullmatch(made.id) or made.subsystem not in SUBSYSTEMS:
        raise ValueError(f"{made.module}: check id {made.id!r} is not subsystem.kebab-case")
    if made.id in CHECKS:
        raise ValueError(f"{made.module} and {CHECKS[made.id].module} both define the check {made.id}")
    CHECKS[made.id] = made


def load(package: str) -> None:
    """Import every module of a content folder, by name, so that its decorators run."""
    for module in pkgutil.iter_modules(import_module(package).__path__):
        import_module(f"{package}.{module.name}")


def load_checks() -> dict[str, Check]:
    """Load our checks and those of installed plug-ins (entry points of the group `hostcheck.checks`).

    Raises:
        HostcheckError: a plug-in cannot be imported.
    """
    if not CHECKS:
        load("hostcheck.checks")
        _load_plugins("hostcheck.checks")
    return CHECKS


def _load_plugins(group: str) -> None:
    from importlib.metadata import entry_points

    for plugin in entry_points(group=group):
        try:
            plugin.load()
        except Exception as problem:
            raise HostcheckError(f"plug-in {plugin.name} ({plugin.value}) cannot be loaded: {problem}") from None


def matches(id: str, pattern: str) -> bool:
    """Whether a pattern names a check: its id, a glob such as "gpu.ecc-*", or a subsystem word such as "gpu"."""
    return fnmatchcase(id, pattern) or id.split(".", 1)[0] == pattern


def select(
    ids: Iterable[str], patterns: Iterable[str], *, noun: str = "check", listed: str = "hostcheck list"
) -> set[str]:
    """Return the ids that any of the patterns matches, such as "gpu.*" or "memory.swap".

    Args:
        ids, patterns: what there is, and what is wanted of it.
        noun, listed: what the ids are of, and which command shows all.

    Raises:
        HostcheckError: a pattern matches nothing; the nearest id is named.
    """
    known = list(ids)
    chosen: set[str] = set()
    for pattern in patterns:
        found = [id for id in known if matches(id, pattern)]
        if not found:
            raise HostcheckError(f"no {noun} matches {pattern!r}{suggest(pattern, known)} ({listed} shows all)")
        chosen.update(found)
    return chosen


@dataclass(frozen=True, slots=True)
class Tuner:
    """A tuner and all that is known about it; see `tuner` for the meaning of each field."""

    id: str
    title: str
    rationale: str
    needs: tuple[Fact[Any] | Each[Any], ...]
    function: Callable[..., Iterable[Change | Refusal]]
    rows: tuple[str, ...] = ()
    keys: tuple[Key, ...] = ()
    fixes: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    module: str = ""

    @property
    def subsystem(self) -> str:
        """The first word of the id."""
        return self.id.split(".", 1)[0]

    def probes(self) -> Iterator[Probe]:
        """Yield each probe that the tuner's facts are read from; one may come twice."""
        for wanted in self.needs:
            yield from (wanted.fact if isinstance(wanted, Each) else wanted).probes()


@dataclass(frozen=True, slots=True)
class Bench:
    """A benchmark and all that is known about it; see `bench` for the meaning of each field."""

    id: str
    title: str
    rationale: str
    function: Callable[[Lab], Iterable[Sampled]]
    scope: Scope
    backend: Backend
    level: Level
    seconds: float
    package: str = ""
    rows: tuple[str, ...] = ()
    alone: bool = False
    options: tuple[Option, ...] = ()
    references: tuple[str, ...] = ()
    module: str = ""

    @property
    def extra(self) -> str:
        """Which extra brings what it needs; an empty string where it needs none."""
        return self.backend.value or ("bench" if self.package else "")


TUNERS: dict[str, Tuner] = {}
BENCHES: dict[str, Bench] = {}


def tuner(
    *needs: Fact[Any] | Each[Any],
    id: str,
    fixes: Sequence[str] = (),
    rows: Sequence[str] = (),
    keys: Sequence[Key] = (),
    references: Sequence[str] = (),
) -> Callable[[Callable[..., Iterable[Change | Refusal]]], Callable[..., Iterable[Change | Refusal]]]:
    """Register a tuner.

    The function gets the values of the facts in order, and last the expectations, as a check does. It yields changes
    and refusals, nothing where all is as expected, and raises NotApplicable where the question does not arise. Missing
    facts and expectations are the engine's affair. Values come from expectations alone. Its docstring is the help
    page: a sentence that says what it sets, an empty line, why, what it costs, how it is undone.

    Args:
        needs: facts. `each(FACT)` in the first place runs the function once for each element.
        id: subsystem and name, such as "memory.thp-enabled".
        fixes: ids of the checks whose findings it can mend.
        rows: the rows of the checklist that it answers.
        keys: the expectation keys that it may read.
        references: where the rationale comes from.
    """

    def register(function: Callable[..., Iterable[Change | Refusal]]) -> Callable[..., Iterable[Change | Refusal]]:
        title, rationale = _help_page(function)
        if not _ID.fullmatch(id) or id.split(".", 1)[0] not in SUBSYSTEMS:
            raise ValueError(f"{function.__module__}: tuner id {id!r} is not subsystem.kebab-case")
        if id in TUNERS:
            raise ValueError(f"{function.__module__} and {TUNERS[id].module} both define the tuner {id}")
        TUNERS[id] = Tuner(
            id=id,
            title=title,
            rationale=rationale,
            needs=needs,
            function=function,
            rows=tuple(rows),
            keys=tuple(keys),
            fixes=tuple(fixes),
            references=tuple(references),
            module=function.__module__,
        )
        return function

    return register


def load_tuners() -> dict[str, Tuner]:
    """Load our checks, whose keys tuners read, and our tuners."""
    load_checks()
    if not TUNERS:
        load("hostcheck.tuners")
    return TUNERS


def bench(
    *,
    id: str,
    scope: Scope,
    backend: Backend,
    level: Level,
    seconds: float,
    package: str = "",
    rows: Sequence[str] = (),
    alone: bool = False,
    options: Sequence[Option] = (),
    references: Sequence[str] = (),
) -> Callable[[Callable[[Lab], Iterable[Sampled]]], Callable[[Lab], Iterable[Sampled]]]:
    """Register a benchmark.

    The function gets a `Lab` and yields a `Sampled` for each case. It checks the output of what it timed. What it
    raises ends this benchmark on this device alone. Its docstring is the help page: a sentence that says what is
    measured, an empty line, by which method, and what a low number means.

    Args:
        id: subject and name, such as "hbm.triad".
        scope: what one child process has to itself.
        backend: which extra it needs.
        level: the lowest level at which it runs.
        seconds: what it takes at that level.
        package: of the extra "bench", what it needs although its backend is none.
        rows: the rows of the checklist that it answers.
        alone: it is to be run on one GPU after the other, not on all at once.
        options: what it takes with `--option`.
        references: where the method comes from.
    """

    def register(function: Callable[[Lab], Iterable[Sampled]]) -> Callable[[Lab], Iterable[Sampled]]:
        title, rationale = _help_page(function)
        if not _ID.fullmatch(id):
            raise ValueError(f"{function.__module__}: benchmark id {id!r} is not subject.kebab-case")
        if id in BENCHES:
            raise ValueError(f"{function.__module__} and {BENCHES[id].module} both define the benchmark {id}")
        BENCHES[id] = Bench(
            id=id,
            title=title,
            rationale=rationale,
            function=function,
            scope=scope,
            backend=backend,
            level=level,
            seconds=seconds,
            package=package,
            rows=tuple(rows),
            alone=alone,
            options=tuple(options),
            references=tuple(references),
            module=function.__module__,
        )
        return function

    return register


def load_benches() -> dict[str, Bench]:
    """Load our benchmarks and those of installed plug-ins (entry points of the group `hostcheck.microbench`).

    Their modules import what they measure with only inside of their functions.

    Raises:
        HostcheckError: a plug-in cannot be imported.
    """
    load("hostcheck.microbench")
    _load_plugins("hostcheck.microbench")
    return BENCHES


def _help_page(function: Callable[..., object]) -> tuple[str, str]:
    """Return the title and the rationale that a docstring holds."""
    title, _, rationale = inspect.cleandoc(function.__doc__ or "").partition("\n\n")
    return " ".join(title.split()), rationale.strip()
