"""A fleet's archives in, one `FleetRun` out: each host judged by itself, then compared with its equals."""

from __future__ import annotations

import datetime as dt
import signal
import statistics
import warnings
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

from hostcheck import __version__
from hostcheck.checklist import Checklist
from hostcheck.expect import Layer
from hostcheck.facts.base import Facts
from hostcheck.fleet.one import BROKEN, Work, judge_one
from hostcheck.fleet.outliers import Samples, measures, outliers
from hostcheck.fleet.peers import Hardware, hardware, natural, peer_groups
from hostcheck.fleet.uniform import Values, differences, values
from hostcheck.model import Absentee, FleetRun, Result, Run, Severity
from hostcheck.registry import load_checks

_CHUNK = 8
_AHEAD = 3

T = TypeVar("T", bound=Hashable)
Archive: TypeAlias = tuple[str, Path]


@runtime_checkable
class Archives(Protocol):
    """A place that holds what a fleet's hosts sent, such as `hostcheck.fleet.store.Store`."""

    def archives(self) -> Iterable[Archive]:
        """Yield the name of each host that answered, and its archive."""
        ...

    def absent(self) -> Iterable[Absentee]:
        """Yield the hosts that did not answer."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One host: its run, and what it is compared by."""

    name: str
    run: Run
    hardware: Hardware
    values: Values
    samples: Samples


def judge_fleet(
    source: Archives | Iterable[Archive],
    checklist: Checklist | Callable[[str], Checklist],
    *,
    site: Iterable[Layer] = (),
    fail_on: Severity = Severity.MEDIUM,
    today: dt.date | None = None,
    processes: int = 1,
    progress: Callable[[int], None] | None = None,
) -> FleetRun:
    """Judge the archives of a fleet and compare the hosts.

    One archive is in memory at a time in each process. An archive that cannot be read or judged becomes an absentee
    with its reason; nothing that a host sends raises.

    Args:
        source: a store, or names with archives.
        checklist: by which to judge; or what chooses one by a host's name.
        site: layers over ours and under the checklist's.
        fail_on: failures below this severity do not count.
        today: the day on which waivers must still hold; that of each snapshot where none is given.
        processes: how many judge side by side; 1 judges in this process.
        progress: called with the number of hosts judged so far.
    """
    load_checks()
    pairs, absent = (source.archives(), list(source.absent())) if isinstance(source, Archives) else (source, [])
    work = Work(checklist=checklist, site=tuple(site), fail_on=fail_on, today=today)
    shared = _Shared()
    hosts: dict[str, Judged] = {}
    for done, answer in enumerate(_judged(pairs, work, processes), start=1):
        if isinstance(answer, Absentee):
            absent.append(answer)
        elif answer.name in hosts:
            absent.append(Absentee(name=answer.name, reach=BROKEN, why="there are two archives of this name"))
        else:
            hosts[answer.name] = shared.host(answer)
        if progress:
            progress(done)
    ordered = {name: hosts[name] for name in sorted(hosts, key=natural)}
    groups = peer_groups({name: host.hardware for name, host in ordered.items()})
    return FleetRun(
        tool=__version__,
        taken=_middle([host.run.host.taken for host in ordered.values()]),
        fail_on=fail_on,
        runs={name: host.run for name, host in ordered.items()},
        absent=tuple(sorted(absent, key=lambda absentee: natural(absentee.name))),
        differences=differences(groups, {name: host.values for name, host in ordered.items()}),
        outliers=outliers(groups, {name: host.samples for name, host in ordered.items()}),
    )


def _middle(stamps: Sequence[str]) -> str:
    """Return the median of ISO 8601 times: a host whose clock is off by years does not date the fleet."""
    if not stamps:
        return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    return statistics.median_low(stamps)


def _judge(name: str, path: Path, work: Work) -> Judged | Absentee:
    def compared(run: Run, facts: Facts) -> Judged:
        return Judged(name=name, run=run, hardware=hardware(facts), values=values(facts), samples=measures(facts))

    return judge_one(name, path, work, compared)


def _judged(pairs: Iterable[Archive], work: Work, processes: int) -> Iterator[Judged | Absentee]:
    if processes <= 1:
        for name, path in pairs:
            yield _judge(name, path, work)
        return
    chunks = _chunks(pairs)
    broken: list[Archive] | None = []
    while broken is not None:
        broken = yield from _pooled(chunks, work, processes)
        for pair in broken or ():
            yield _alone(pair, work)


def _chunks(pairs: Iterable[Archive]) -> Iterator[list[Archive]]:
    rest = iter(pairs)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk


def _pooled(
    chunks: Iterator[list[Archive]], work: Work, processes: int
) -> Generator[Judged | Absentee, None, list[Archive] | None]:
    """Judge chunk by chunk, a few ahead of the reader.

    Returns:
        None at the end; where a process of the pool died, those that were under way.
    """
    taken: deque[list[Archive]] = deque()
    running: deque[Future[list[Judged | Absentee]]] = deque()
    with _pool(work, processes) as pool:
        try:
            while True:
                for chunk in islice(chunks, processes * _AHEAD - len(taken)):
                    taken.append(chunk)
                    running.append(_submitted(pool, chunk))
                if not taken:
                    return None
                answers = running.popleft().result()
                taken.popleft()
                yield from answers
        except BrokenProcessPool:
            return [pair for chunk in taken for pair in chunk]


def _submitted(pool: ProcessPoolExecutor, chunk: list[Archive]) -> Future[list[Judged | Absentee]]:
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork beside threads. Ours hold no lock that the children take.
        warnings.simplefilter("ignore", DeprecationWarning)
        return pool.submit(_judge_chunk, chunk)


def _alone(pair: Archive, work: Work) -> Judged | Absentee:
    """Judge a host in a process of its own, so that only its own archive can end that process."""
    with _pool(work, 1) as pool:
        try:
            return _submitted(pool, [pair]).result()[0]
        except BrokenProcessPool:
            why = "its archive cannot be judged: the process that read it was killed, as when memory runs out"
            return Absentee(name=pair[0], reach=BROKEN, why=why)


def _pool(work: Work, processes: int) -> ProcessPoolExecutor:
    # A checklist's own checks are closures, which a forked process inherits and no other can be sent.
    return ProcessPoolExecutor(processes, mp_context=get_context("fork"), initializer=_begin, initargs=(work,))


_work: list[Work] = []


def _begin(work: Work) -> None:
    """Prepare a process of the pool; an interrupt is the parent's to handle, and the pool must be able to end it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _work[:] = [work]


def _judge_chunk(chunk: list[Archive]) -> list[Judged | Absentee]:
    shared = _Shared()
    answers = [_judge(name, path, _work[0]) for name, path in chunk]
    return [answer if isinstance(answer, Absentee) else shared.host(answer) for answer in answers]


class _Shared:
    """Keeps one object of each that are equal: most results of a fleet's hosts are, and a thousand runs fit."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Any] = {}

    def host(self, host: Judged) -> Judged:
        """Return an equal host that shares its parts with those before it."""
        run = replace(
            host.run,
            results=tuple(map(self._result, host.run.results)),
            probes=tuple(map(self._one, host.run.probes)),
            attestations=tuple(map(self._one, host.run.attestations)),
        )
        return Judged(
            name=host.name,
            run=run,
            hardware=self._one(host.hardware),
            values={self._one(label): self._typed(value) for label, value in host.values.items()},
            samples={self._one(label): numbers for label, numbers in host.samples.items()},
        )

    def _one(self, value: T) -> T:
        found: T = self._known.setdefault(value, value)
        return found

    def _typed(self, value: Any) -> Any:
        return self._known.setdefault((type(value), value), value)

    def _result(self, result: Result) -> Result:
        # 1, 1.0 and True are equal, and are not the same observation.
        kinds = tuple(type(finding.observed) for finding in result.findings)
        known: Result | None = self._known.get((result, kinds))
        if known is not None:
            return known
        result = replace(
            result,
            title=self._one(result.title),
            rationale=self._one(result.rationale),
            references=self._one(result.references),
            rows=self._one(result.rows),
            findings=tuple(self._known.setdefault((each, type(each.observed)), each) for each in result.findings),
        )
        self._known[result, kinds] = result
        return result
