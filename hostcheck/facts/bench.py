"""What `hostcheck bench` measured, as it lies in a snapshot."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from fnmatch import fnmatchcase

from hostcheck.bench.model import SCHEMA, UNVERIFIED, Measurement, Session
from hostcheck.errors import Unavailable
from hostcheck.facts.base import Fact
from hostcheck.snapshot.probes import CommandProbe
from hostcheck.snapshot.reading import Ending, Reading

RESULTS = CommandProbe("bench.results", total=64 << 20)
"""Put into a snapshot by `hostcheck bench` itself: the session, as JSON."""

JUDGES = {
    "bench.memory": ("hbm.*",),
    "bench.cache": ("l2.*",),
    "bench.copies": ("copy.*",),
    "bench.peers": ("peer.*",),
    "bench.launch": ("launch.*",),
    "bench.tensor-cores": ("tensor.*",),
    "bench.multiprocessors": ("sm.*",),
    "bench.matrix": ("gemm.*",),
    "bench.collectives": ("nccl.*",),
    "bench.overlap": ("overlap.*",),
    "bench.host-memory": ("memory.*",),
    "bench.jitter": ("cpu.*",),
    "bench.storage": ("storage.*", "gds.*"),
}
"""Which benchmarks each check judges; `bench.other` has the rest."""

SHARED = ("copy.*", "overlap.*")
"""Benchmarks with which GPUs at once share the memory of the host: too little for one is then not that GPU's own."""


MANY = 8
"""How often the links of a GPU may repeat what they sent in a benchmark of 90 s or less."""
_RATE = 80 / 900
"""The same for each second of longer ones: DCGM 4.6 diag allows 80 replays in 15 minutes."""

_LONGEST = 200
"""Characters of a subject that are looked at."""
_GPUS = re.compile(r"{0}(?:[>,+-]{0})*".format(r"gpu(?:\d+|\[[\d,-]+\])"))
"""A subject that is one GPU, or several; a folder may be called so in part."""
_LARGEST = 1e30
"""No number of a measurement is so large, in whatever unit; infinity and what is no number are refused with it."""
_SMALLEST = 1e-9
"""No physical limit is smaller."""


def parse_results(reading: Reading) -> Session:
    """Parse a session.

    Raises:
        Unavailable: nothing was measured, or this is no session that this hostcheck can read.

    Sample:
        {"tool": "0.1.0", "taken": "2026-11-21T02:00:00+00:00", "level": "quick", "schema": 1, "seconds": 21.0,
         "measurements": [{"bench": "hbm.triad", "subject": "gpu0", "unit": "GB/s", "value": 3100.0,
           "samples": [3099.0, 3100.0, 3101.0], "limit": 3352.0, "limit_source": "datasheet", "verified": true}],
         "devices": {"gpu0": {"name": "NVIDIA H100 80GB HBM3", "pci_id": "10de:2330"}}}
    """
    if reading.ending is Ending.NOT_COLLECTED:
        raise reading.unavailable("nothing was measured; hostcheck bench does that")
    reading.check()
    return read_session(reading.out)


def read_session(document: bytes) -> Session:
    """Return the session that a document describes; what cannot be a measurement is refused.

    Raises:
        Unavailable: it is none, or of a version that this hostcheck does not know.
    """
    # An audit without measurements does without it.
    import msgspec

    try:
        found = msgspec.json.decode(document)
        schema = found.get("schema") if isinstance(found, dict) else None
        if schema != SCHEMA:
            raise Unavailable(f"the measurements are of schema {schema!r}; this hostcheck reads schema {SCHEMA}")
        session = msgspec.json.decode(document, type=Session)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as problem:
        raise Unavailable(f"these are no measurements of hostcheck: {problem}") from None
    if not _can_be(session.seconds):
        raise Unavailable("these are no measurements of hostcheck: no time is so long")
    for measured in session.measurements:
        limit = measured.limit or 0.0
        rates = (*measured.samples, measured.value or 0.0, limit)
        others = (*measured.settings.values(), *measured.details.values(), measured.seconds, *_seen(measured))
        if not all(map(_can_be, (*rates, *others))) or min(rates) < 0 or 0 < limit < _SMALLEST:
            raise Unavailable(f"these are no measurements of hostcheck: {measured.bench} has a number that cannot be")
    return replace(session, measurements=tuple(map(_believed, session.measurements)))


def _can_be(value: object) -> bool:
    """Whether something is no number, or of a size that one of a measurement can have."""
    return not isinstance(value, int | float) or abs(value) < _LARGEST


def _seen(measured: Measurement) -> Iterator[object]:
    """Yield what the conditions of a measurement hold."""
    for conditions in (measured.conditions, *measured.each.values()):
        for field in fields(conditions):
            value = getattr(conditions, field.name)
            yield from value.values() if isinstance(value, dict) else (value,)


def _believed(measured: Measurement) -> Measurement:
    """Return a measurement that says that it is invalid where it is unverified, whoever wrote it down."""
    if measured.verified or measured.invalid:
        return measured
    return replace(measured, invalid=UNVERIFIED)


def about(session: Session, *patterns: str) -> Session:
    """Return the part of a session that some benchmarks gave, such as "hbm.*"."""

    def wanted(bench: str) -> bool:
        return any(fnmatchcase(bench, pattern) for pattern in patterns)

    return replace(
        session,
        measurements=tuple(measured for measured in session.measurements if wanted(measured.bench)),
        missing=tuple(missing for missing in session.missing if wanted(missing.bench)),
    )


def gpus_in(subject: str) -> list[int]:
    """Return the GPUs that a subject such as "gpu0>gpu1" or "gpu[0-3,7]" names; none for a host, a folder or all GPUs.

    Of what an archive from anywhere calls a subject, no more than any host can have.
    """
    every: list[int] = []
    if not _GPUS.fullmatch(subject[:_LONGEST]):
        return every
    for listed, single in re.findall(r"gpu(?:\[([\d,-]+)\]|(\d+))", subject[:_LONGEST]):
        for first, last in re.findall(r"(\d{1,3})(?:-(\d{1,3}))?", listed or single):
            every += range(int(first), int(last or first) + 1)
    return every


def traits(session: Session, measured: Measurement) -> Mapping[str, str]:
    """Return what expectation layers match on: the GPU's model, how many took part, and how they talked.

    What names no GPU is of the host or of all GPUs: its model is the one that all of them are of, if they are.
    """
    named = gpus_in(measured.subject)
    devices = [session.devices.get(f"gpu{named[0]}", {})] if named else list(session.devices.values())
    known: dict[str, str] = {}
    for trait, word in (("pci", "pci_id"), ("gpu_arch", "architecture")):
        told = {device.get(word, "") for device in devices}
        known[trait] = told.pop() if len(told) == 1 else ""
    for word in ("ranks", "transport", "algorithm"):
        known[word] = str(measured.settings.get(word, ""))
    return {name: value for name, value in known.items() if value}


def cases(measured: Measurement) -> tuple[str, ...]:
    """Return what layers may call a measurement, the most telling first."""
    own = (f"{measured.bench} {measured.case}",) if measured.case else ()
    return (*own, measured.bench, measured.bench.partition(".")[0])


def equals(session: Session) -> list[list[Measurement]]:
    """Return the valid numbers of a session in groups of equals: the same thing on the same model of GPU."""
    groups: dict[tuple[object, ...], list[Measurement]] = {}
    for measured in session.measurements:
        if not measured.invalid and measured.value is not None:
            groups.setdefault(_kind(session, measured), []).append(measured)
    return list(groups.values())


def _kind(session: Session, measured: Measurement) -> tuple[object, ...]:
    settings = tuple(sorted((name, str(value)) for name, value in measured.settings.items()))
    model = tuple(sorted(traits(session, measured).items()))
    shape = "".join(letter for letter in measured.subject if not letter.isdigit())
    return (measured.bench, measured.case, measured.unit, measured.alone, settings, model, shape)


def others(measured: Measurement, group: Sequence[Measurement]) -> float:
    """Return the median of the others of a group of two equals or more.

    Its own number would move the median, of two equals so far that no time could ever be twice of it.
    """
    # An audit without measurements does without it.
    from statistics import median

    return median(each.value or 0.0 for each in group if each is not measured)


def behind(measured: Measurement, middle: float) -> float:
    """Return by how many per cent a number is worse than the middle of its equals; 0 where it is not, or that is 0."""
    value = measured.value or 0.0
    worse = value - middle if lower_is_better(measured.unit) else middle - value
    return max(0.0, round(100 * worse / middle, 1)) if middle else 0.0


def lower_is_better(unit: str) -> bool:
    """Whether less of a unit is better: times, as opposed to rates."""
    return unit in ("s", "ms", "us", "ns")


def allowed(seconds: float | None) -> int:
    """Return how often the links of a GPU may repeat what they sent, in a benchmark of so many seconds."""
    return max(MANY, int(_RATE * (seconds or 0.0)))


def judge_of(bench: str) -> str:
    """Return the id of the check that judges a benchmark."""
    judges = (id for id, own in JUDGES.items() if any(fnmatchcase(bench, pattern) for pattern in own))
    return next(judges, "bench.other")


SESSION = Fact("bench.session", parse_results, RESULTS)
