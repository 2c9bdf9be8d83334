"""Measurements as people see them: equal parts as one figure, beside the physical limit and the floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from hostcheck.bench.floors import Floors
from hostcheck.bench.model import ALL_GPUS, Measurement, Session
from hostcheck.facts.bench import gpus_in, lower_is_better
from hostcheck.model import Figure, MeasuredSession

_CLOCKS = 0.2
"""By this share the limits of equal parts may differ, as those of the clock of the moment do."""


def figures(session: Session, floors: Floors | None = None) -> tuple[Figure, ...]:
    """Return the figures of a session in the order in which they were measured, what is invalid behind its equals.

    Args:
        session: what was measured.
        floors: what each number is held against.
    """
    groups: list[list[Measurement]] = []
    for measured in session.measurements:
        beside = next((group for group in groups if _are_equal(group[0], measured)), None)
        if beside is None:
            groups.append([measured])
        else:
            beside.append(measured)
    alone = {(measured.bench, measured.case) for measured in session.measurements if measured.alone}
    found: list[Figure] = []
    for group in groups:
        at_once = not group[0].alone and (group[0].bench, group[0].case) in alone
        valid = [measured for measured in group if not measured.invalid and measured.value is not None]
        if valid:
            # What is at once and alone, is judged alone.
            least = {floors.share(session, measured) for measured in group} if floors and not at_once else {None}
            found.append(_figure(valid, least.pop() if len(least) == 1 else None, at_once=at_once))
        reasons: dict[str, list[Measurement]] = {}
        for measured in group:
            if measured.invalid:
                reasons.setdefault(measured.invalid, []).append(measured)
        found += [_invalid(own, why, at_once=at_once) for why, own in reasons.items()]
    return tuple(replace(figure, hardware=_hardware(session, figure)) for figure in found)


def session_of(session: Session) -> MeasuredSession:
    """Return when and how a session was measured."""
    versions = {"hostcheck": session.tool, **session.versions}
    return MeasuredSession(level=session.level, taken=session.taken, seconds=session.seconds, versions=versions)


def _hardware(session: Session, figure: Figure) -> str:
    named = [f"gpu{index}" for subject in figure.subjects for index in gpus_in(subject)]
    if ALL_GPUS in figure.subjects:
        named += session.devices
    return next((told["hardware"] for gpu in named if "hardware" in (told := session.devices.get(gpu, {}))), "")


def _are_equal(one: Measurement, other: Measurement) -> bool:
    if (one.bench, one.case, one.unit, one.alone) != (other.bench, other.case, other.unit, other.alone):
        return False
    if not one.limit or not other.limit:
        return one.limit == other.limit
    return abs(one.limit / other.limit - 1) < _CLOCKS


def _figure(valid: Sequence[Measurement], floor: float | None, *, at_once: bool) -> Figure:
    first = valid[0]
    values = [measured.value or 0.0 for measured in valid]
    limits = [measured.limit for measured in valid if measured.limit]
    limit = median(limits) if limits else None
    # Limits by the clock of the moment differ: each is held against its own, and rounded as its check does.
    shares = [round(100 * (measured.value or 0.0) / measured.limit, 1) for measured in valid if measured.limit]
    worst = max(values) if lower_is_better(first.unit) else min(values)
    energies = [measured.joules_per_tflop for measured in valid if measured.joules_per_tflop is not None]
    return Figure(
        bench=first.bench,
        case=first.case,
        unit=first.unit,
        subjects=tuple(measured.subject for measured in valid),
        value=median(values),
        worst=worst,
        worst_on=valid[values.index(worst)].subject,
        limit=limit,
        share=None if limit is None or lower_is_better(first.unit) else 100 * median(values) / limit,
        floor=floor,
        is_short=floor is not None and min(shares, default=floor) < floor,
        how="all at once" if at_once else "each alone" if first.alone and len(valid) > 1 else "",
        joules_per_tflop=median(energies) if energies else None,
        **_parts(valid),
    )


def _invalid(own: Sequence[Measurement], why: str, *, at_once: bool) -> Figure:
    told = [measured.value for measured in own if measured.value is not None]
    return Figure(
        bench=own[0].bench,
        case=own[0].case,
        unit=own[0].unit,
        subjects=tuple(measured.subject for measured in own),
        value=median(told) if told else None,
        how="all at once" if at_once else "",
        invalid=why,
        **_parts(own),
    )


def _parts(own: Sequence[Measurement]) -> dict[str, Any]:
    """Return the fields of a figure that tell its parts apart."""
    first = own[0]
    same = {
        name: value
        for name, value in first.settings.items()
        if all(name in measured.settings and measured.settings[name] == value for measured in own)
    }
    rest = {
        measured.subject: {name: value for name, value in measured.settings.items() if name not in same}
        for measured in own
    }
    return {
        "values": {measured.subject: measured.value for measured in own},
        "statistic": first.statistic,
        "settings": same,
        "own_settings": {subject: settings for subject, settings in rest.items() if settings},
        "verified": all(measured.verified for measured in own),
    }
