"""Baselines: what a host or its like measured before, and whether what is measured now is worse by more than noise.

A baseline is the session of another day or host, as JSON. Only what was measured in the same way is compared: the same
benchmark, case and settings on the same model of GPU.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from hostcheck.bench.floors import in_unit_of
from hostcheck.bench.model import ALL_GPUS, Backend, Level, Measurement, Scope, Session
from hostcheck.bench.validity import variation
from hostcheck.errors import HostcheckError, Unavailable
from hostcheck.expect import Key, key_of
from hostcheck.facts.bench import SHARED, about, gpus_in, judge_of, lower_is_better, read_session, traits
from hostcheck.registry import load_benches
from hostcheck.render.fold import fold_line

TOLERANCE = 3.0
"""Per cent that a number may be worse than its baseline."""
_TIMES = 10.0
"""So many times the tolerance holds for times: the state of the CPU decides them, and differs from run to run."""
_NOISE = 2.0
"""So many standard errors of both medians are noise."""
_OF_A_TAIL = 0.3
"""The standard error of a percentile of which there is one, by some ten pieces of work beyond it."""
_ON_PURPOSE = [level.name.lower() for level in Level if level >= Level.FULL]
"""Levels that measure each GPU alone besides, whatever all did at once."""
_OF_GPUS = ("hostcheck", "kernel", "driver", "CUDA driver")
"""Versions that every number of a GPU depends on."""
_LARGEST = 64 << 20
_MARGIN = 0.95
"""Share of the lowest number that becomes a floor: 5 % below, the rule of SuperBench."""
_MARGIN_TIMES = 1.3
"""The same for the longest time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One number beside its baseline.

    Attributes:
        name: benchmark and case.
        subject: what was measured, such as "gpu0", or "gpu0 alone" beside what all GPUs did at once.
        change: per cent, below 0 where it is worse.
        noise: per cent that the scatter of the samples explains.
        worse: by more than tolerance and noise.
        software: what else changed that this number depends on, such as "driver: 580 then, 590 now".
    """

    name: str
    subject: str
    unit: str
    before: float
    now: float
    change: float
    noise: float
    worse: bool
    software: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All numbers beside their baselines, and what could not be compared, one line each."""

    compared: tuple[Compared, ...]
    apart: tuple[str, ...]
    versions: tuple[str, ...] = ()


def read(path: Path) -> Session:
    """Read a baseline, or the measurements of a snapshot.

    Raises:
        HostcheckError: the file cannot be read, or is neither.
    """
    try:
        with path.open("rb") as opened:
            content = opened.read(_LARGEST + 1)
    except OSError as problem:
        raise HostcheckError(f"{path}: {problem.strerror}") from None
    try:
        if content[:1] == b"{":
            if len(content) > _LARGEST:
                raise HostcheckError(f"{path}: it is larger than {_LARGEST >> 20} MiB, as no measurements are")
            return read_session(content)
        from hostcheck.facts.bench import parse_results
        from hostcheck.snapshot.archive import read_archive

        return parse_results(read_archive(path).reading("bench.results"))
    except Unavailable as problem:
        raise HostcheckError(f"{path}: {problem}") from None


def compare(baseline: Session, now: Session, *, tolerance: float = TOLERANCE) -> Comparison:
    """Hold measurements against a baseline.

    Args:
        baseline, now: the two sessions.
        tolerance: per cent; ten times that for times.
    """
    baseline = _renamed(baseline, now)
    known = {_key(measured): measured for measured in baseline.measurements}
    compared: list[Compared] = []
    apart: list[str] = []
    beside = _beside(baseline) | _beside(now)
    extra = _doubted(now) - known.keys() | _doubted(baseline) - {_key(measured) for measured in now.measurements}
    for measured in now.measurements:
        if _key(measured) in extra:
            continue
        before = known.pop(_key(measured), None)
        subject = f"{measured.subject} alone" if _key(measured) in beside else measured.subject
        where = f"{_name(measured)} on {subject}"
        if before is None:
            apart.append(f"{where}: not in the baseline")
        elif why := _differs(baseline, now, before, measured):
            apart.append(f"{where}: {why}")
        else:
            software = tuple(_versions(baseline, now, _software(measured.bench)))
            compared.append(replace(_compared(before, measured, tolerance), subject=subject, software=software))
    missing = {(entry.bench, entry.subject): entry.why for entry in now.missing}
    for place, before in known.items():
        if place not in extra:
            why = missing.get((before.bench, before.subject), "not measured now")
            apart.append(f"{_name(before)} on {before.subject}{' alone' if place in beside else ''}: {why}")
    return Comparison(compared=tuple(compared), apart=tuple(apart), versions=tuple(_versions(baseline, now)))


def _key(measured: Measurement) -> tuple[str, str, str, bool]:
    # Two GPUs that copy to each other are the same pair in either order.
    pair = re.fullmatch(r"(gpu\d+)-(gpu\d+)", measured.subject)
    return measured.bench, measured.case, "-".join(sorted(pair.groups())) if pair else measured.subject, measured.alone


def _doubted(session: Session) -> set[tuple[str, str, str, bool]]:
    """Return what was measured alone only because it was in doubt at once: a run without a doubt has none of it."""
    return set() if session.level in _ON_PURPOSE else _beside(session)


def _beside(session: Session) -> set[tuple[str, str, str, bool]]:
    """Return what was measured alone beside what all GPUs did at once."""
    every = {_key(measured) for measured in session.measurements}
    return {place for place in every if place[3] and (*place[:3], False) in every}


def _name(measured: Measurement) -> str:
    return f"{measured.bench} {measured.case}".strip()


def _differs(baseline: Session, now: Session, before: Measurement, measured: Measurement) -> str:
    """Say why two measurements cannot be compared; an empty string where they can."""
    for what, each in (("the baseline", before), ("the new number", measured)):
        if each.invalid or each.value is None:
            return f"{what} is invalid: {each.invalid or 'there is none'}"
    if not before.value:
        return "the baseline is 0"
    then, today = _models(baseline, before), _models(now, measured)
    if then != today or "unknown" in then:
        return f"another GPU: {', '.join(then)} then, {', '.join(today)} now"
    if before.unit != measured.unit:
        return f"another unit: {before.unit} then, {measured.unit} now"
    changed = [
        f"{name} {before.settings.get(name)!s} then, {measured.settings.get(name)!s} now"
        for name in sorted({*before.settings, *measured.settings})
        if before.settings.get(name) != measured.settings.get(name)
    ]
    return f"other settings: {'; '.join(changed)}" if changed else ""


def _models(session: Session, measured: Measurement) -> list[str]:
    """Return the models of the GPUs that a subject such as "gpu0>gpu1" or "gpu[0-3,7]" names; none for hosts."""
    if "hosts" in measured.settings:
        # Hosts may be called gpu01; what they have is among the settings.
        return []
    named = [f"gpu{index}" for index in gpus_in(measured.subject)]
    if measured.subject == ALL_GPUS:
        named = list(session.devices)
    return sorted({session.devices.get(subject, {}).get("name", "unknown") for subject in named})


def _renamed(baseline: Session, now: Session) -> Session:
    """Return a baseline in which a GPU that is still there has the number that it has now: its UUID tells."""
    here = {told["uuid"]: subject for subject, told in now.devices.items() if told.get("uuid")}
    names = {subject: here.get(told.get("uuid", ""), subject) for subject, told in baseline.devices.items()}
    if len(set(names.values())) < len(names):
        return baseline

    def renamed(subject: str) -> str:
        if not gpus_in(subject):
            return subject
        return re.sub(r"gpu\d+", lambda found: names.get(found[0], found[0]), subject)

    return replace(
        baseline,
        devices={names[subject]: told for subject, told in baseline.devices.items()},
        measurements=tuple(replace(each, subject=renamed(each.subject)) for each in baseline.measurements),
    )


def _compared(before: Measurement, measured: Measurement, tolerance: float) -> Compared:
    assert before.value
    assert measured.value is not None
    change = 100 * (measured.value / before.value - 1)
    if lower_is_better(measured.unit):
        change, tolerance = -change, tolerance * _TIMES
    noise = 100 * _NOISE * math.hypot(_error(before), _error(measured))
    return Compared(
        name=_name(measured),
        subject=measured.subject,
        unit=measured.unit,
        before=before.value,
        now=measured.value,
        change=round(change, 2),
        noise=round(noise, 2),
        worse=change < -tolerance and change < -noise,
    )


def _error(measured: Measurement) -> float:
    """Return the standard error of a median as a share of it; 0 where too few samples tell."""
    spread = variation(measured.samples)
    if spread is None:
        return _OF_A_TAIL if measured.statistic.startswith("p") else 0.0
    return 1.2533 * abs(spread) / math.sqrt(len(measured.samples))


def _versions(baseline: Session, now: Session, names: Collection[str] | None = None) -> Iterator[str]:
    """Say what else changed, to look at first where numbers did; all of it, or some by name.

    Of those by name none that only one run has loaded: it changed nothing.
    """
    versions = [{**session.versions, "hostcheck": session.tool} for session in (baseline, now)]
    every, both = {*versions[0], *versions[1]}, versions[0].keys() & versions[1].keys()
    for name in sorted(every if names is None else both.intersection(names)):
        then, today = (each.get(name, "none") for each in versions)
        if then != today:
            yield f"{name}: {then} then, {today} now"


def _software(bench: str) -> tuple[str, ...]:
    """Return the names of the versions that a number depends on; all that can be where the benchmark is not known."""
    made = load_benches().get(bench)
    own = ("hostcheck", "kernel") if made is not None and made.scope is Scope.HOST else _OF_GPUS
    libraries = {Backend.NONE: ("numpy",), Backend.CUDA: ("cuda-bindings",), Backend.TORCH: ("torch", "NCCL")}
    return (*own, *libraries[made.backend if made is not None else Backend.TORCH])


def floors(session: Session, keys: dict[str, Key]) -> str:
    """Return a site layer (TOML) that expects what was measured, less a margin for what equal parts differ.

    Args:
        session: what was measured on a host that is known to be good.
        keys: the expectation keys by name.

    Raises:
        HostcheckError: there is no valid number.
    """
    groups: dict[str, list[Measurement]] = {}
    for measured in session.measurements:
        id = judge_of(measured.bench)
        groups.setdefault(f"{id}[{_name(measured)}]" if id in keys else _name(measured), []).append(measured)
    lines = [
        f"# Floors from hostcheck bench of {_plain(session.taken)}, {_plain(session.level)}. "
        "For --site, or /etc/hostcheck/site.toml."
    ]
    ids = sorted({told["pci_id"] for told in session.devices.values() if "pci_id" in told})
    if ids:
        lines += ["", "[match]", f"pci = {_toml(ids)}"]
    found, why = 0, ""
    for name, every in groups.items():
        valid = [measured for measured in every if not measured.invalid and measured.value]
        group = _unshared(session, valid) if valid else []
        key = keys.get(key_of(name))
        values = [] if key is None else [in_unit_of(key, measured) for measured in group]
        known = [value for value in values if value is not None]
        lacking = ""
        if key is None:
            lacking = f"{judge_of(every[0].bench)} takes no floor"
        elif not valid:
            lacking = f"it is invalid: {every[0].invalid}" if every[0].invalid else "there is no number above 0"
        elif not group:
            lacking = "GPUs shared the host's memory, and none was measured alone (--level full)"
        elif ids and not all("pci" in traits(session, measured) for measured in group):
            lacking = "it is not of one known model of GPU"
        elif len(known) < len(values):
            lacking = "its physical limit is not known"
        if lacking:
            why = f"{_plain(name)} is left out: {_plain(lacking)}"
            lines += ["", f"# {why}."]
            continue
        found += 1
        lower = lower_is_better(group[0].unit)
        value = max(known) * _MARGIN_TIMES if lower else min(known) * _MARGIN
        word, margin = ("at_most", "plus 30 %") if lower else ("at_least", "less 5 %")
        subjects = [measured.subject for measured in group]
        middle = median(measured.value or 0.0 for measured in group)
        source = (
            f"hostcheck bench, {session.taken[:10]}: {middle:.5g} {group[0].unit} on {fold_line(subjects)}, {margin}"
        )
        lines += ["", f"[expect.{_quoted(name)}]", f"{word} = {float(f'{value:.4g}')!r}", f"source = {_quoted(source)}"]
    if not found:
        raise HostcheckError(f"there is no valid number to make a floor of{'; ' if why else ''}{why}")
    return "\n".join(lines) + "\n"


def _unshared(session: Session, group: Sequence[Measurement]) -> Sequence[Measurement]:
    """Return the numbers of one case that tell what a GPU can do: of what GPUs share at once, those of one alone."""
    case = group[0].bench, group[0].case
    shared = [measured for measured in about(session, *SHARED).measurements if (measured.bench, measured.case) == case]
    if not shared:
        return group
    alone = [measured for measured in group if measured.alone]
    return alone or (group if len(shared) == 1 else [])


def _toml(values: Sequence[str]) -> str:
    return "[" + ", ".join(_quoted(value) for value in values) + "]"


def _quoted(text: str) -> str:
    return f'"{_plain(text)}"'


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() and letter not in '"\\' else " " for letter in text)
