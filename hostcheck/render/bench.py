"""What was measured, for people at a terminal: each number beside its physical limit, and beside its equals."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from hostcheck.bench.baseline import Comparison
from hostcheck.bench.floors import Floors
from hostcheck.bench.model import Measurement, Session
from hostcheck.facts.bench import lower_is_better
from hostcheck.render.fold import fold_line
from hostcheck.render.page import Page, page_width, wants_ascii, wants_color

_BAR = 16
_NAME = 25
_VALUE = 15
_ALIKE = 0.01
"""By this share the worst may be off without being named."""
_CLOCKS = 0.2


def render_session(
    session: Session,
    floors: Floors | None = None,
    *,
    color: bool | None = None,
    width: int | None = None,
    ascii: bool | None = None,
) -> str:
    """Return the measurements of a session as text; equal parts share a line.

    Args:
        session: what was measured.
        floors: what each number is held against.
        color, width, ascii: as for `hostcheck.render.text.render_text`.
    """
    page = _page(color, width, ascii)
    page.put(("MEASURED", "bold"), (_headline(session), "dim"), hang=2, between="  ")
    page.blank()
    groups: list[list[Measurement]] = []
    for measured in session.measurements:
        beside = next((group for group in groups if _share_a_line(group[0], measured)), None)
        if beside is None:
            groups.append([measured])
        else:
            beside.append(measured)
    shown = ""
    alone = {(measured.bench, measured.case) for measured in session.measurements if measured.alone}
    for group in groups:
        bench, together = group[0].bench, not group[0].alone and (group[0].bench, group[0].case) in alone
        least = {floors.share(session, measured) for measured in group} if floors and not together else {None}
        _line(page, group, "" if bench == shown else bench, least.pop() if len(least) == 1 else None, together)
        shown = bench
    if not groups:
        page.put("nothing", indent=2)
    _pinning(page, session)
    _unseen(page, session)
    _missing(page, session)
    page.blank()
    return page.text()


def render_comparison(
    comparison: Comparison, *, color: bool | None = None, width: int | None = None, ascii: bool | None = None
) -> str:
    """Return a comparison as text, what is worse first, and last what could not be compared."""
    page = _page(color, width, ascii)
    for title, worse in (("Worse", True), ("Not worse", False)):
        own = [each for each in comparison.compared if each.worse is worse]
        if own:
            page.blank()
            page.put((f"{title.upper()}", "bold red" if worse else "bold"))
        for each in own:
            page.put(
                (each.name, "bold"),
                f"{each.subject}:",
                f"{number(each.before)} -> {number(each.now)} {each.unit}",
                (f"{each.change:+.1f} %", "red" if worse else ""),
                (f"(noise {each.noise:.1f} %)", "dim"),
                f"or the software's: {'; '.join(each.software)}" if worse and each.software else "",
                indent=2,
                hang=4,
            )
    if comparison.apart:
        page.blank()
        page.put(("NOT COMPARED", "bold"))
        for line in comparison.apart:
            page.put(line, indent=2, hang=4)
    if comparison.versions:
        page.blank()
        page.put(("OTHER VERSIONS", "bold"))
        for line in comparison.versions:
            page.put(line, indent=2, hang=4)
    page.blank()
    worse_ones = sum(each.worse for each in comparison.compared)
    page.put(
        f"{len(comparison.compared)} compared, {worse_ones} worse by more than tolerance and noise, "
        f"{len(comparison.apart)} not compared."
    )
    return page.text()


def number(value: float) -> str:
    """Spell a number with about four digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _page(color: bool | None, width: int | None, ascii: bool | None) -> Page:
    return Page(
        width=page_width() if width is None else width,
        color=wants_color() if color is None else color,
        ascii=wants_ascii() if ascii is None else ascii,
    )


def _headline(session: Session) -> str:
    names: dict[str, int] = {}
    for told in session.devices.values():
        if "name" in told:
            names[told["name"]] = names.get(told["name"], 0) + 1
    parts = [f"{session.level} level"] if session.level else []
    parts += [f"{count} x {name}" for name, count in names.items()]
    parts += [f"driver {session.versions['driver']}"] if "driver" in session.versions else []
    return ", ".join([*parts, f"{session.seconds:.0f} s"])


def _share_a_line(one: Measurement, other: Measurement) -> bool:
    """Whether two are the same thing, with limits that differ no more than the clocks of equal parts."""
    if (one.bench, one.case, one.unit, one.alone) != (other.bench, other.case, other.unit, other.alone):
        return False
    if not one.limit or not other.limit:
        return one.limit == other.limit
    return abs(one.limit / other.limit - 1) < _CLOCKS


def _line(page: Page, group: Sequence[Measurement], bench: str, floor: float | None, together: bool) -> None:
    valid = [measured for measured in group if not measured.invalid and measured.value is not None]
    subjects = fold_line([measured.subject for measured in valid], most=3)
    head = f"{bench:<14} {group[0].case}" if page.width >= 60 else f"{bench} {group[0].case}"
    if valid:
        values = [measured.value or 0.0 for measured in valid]
        middle = median(values)
        limits = [measured.limit for measured in valid if measured.limit]
        limit = median(limits) if limits else None
        text = f"{number(middle):>7} {group[0].unit}"
        beside: tuple[str, str] = ("", "")
        if limit and not lower_is_better(group[0].unit):
            share = middle / limit
            least = f", at least {floor:g}%" if floor is not None else ""
            style = "red" if floor is not None and 100 * min(values) / limit < floor else "green"
            beside = (f"{_bar(share, floor, page.ascii)} {share:>6.1%} of {number(limit)}{least}", style)
        page.put(
            f"{head:<{_NAME}}{text:<{_VALUE}}",
            beside,
            (_spread(valid, values, subjects, together) + _energy(valid), "dim"),
            indent=2,
            hang=_NAME + _VALUE + 3 if page.width >= 90 else 4,
            between=" ",
        )
    reasons: dict[str, list[Measurement]] = {}
    for measured in group:
        if measured.invalid:
            reasons.setdefault(measured.invalid, []).append(measured)
    for place, (why, own) in enumerate(reasons.items()):
        told = [measured.value for measured in own if measured.value is not None]
        text = f"{number(median(told)):>7} {own[0].unit}" if told else ""
        page.put(
            f"{head if not valid and not place else '':<{_NAME}}{text:<{_VALUE}}",
            ("invalid", "yellow"),
            f"on {fold_line([measured.subject for measured in own], most=3)}: {why}",
            indent=2,
            hang=_NAME + _VALUE + 11 if page.width >= 90 else 4,
        )


def _energy(group: Sequence[Measurement]) -> str:
    told = [measured.joules_per_tflop for measured in group if measured.joules_per_tflop is not None]
    return f", {median(told):.3g} J/TFLOP" if told else ""


def _pinning(page: Page, session: Session) -> None:
    """Say which GPUs were measured from anywhere on the host: their copies can be slow by that alone."""
    reasons: dict[str, list[str]] = {}
    for subject, told in session.devices.items():
        if "not" in told.get("pinned", ""):
            reasons.setdefault(told["pinned"], []).append(subject)
    for why, subjects in reasons.items():
        page.put(f"The process of {fold_line(subjects, most=3)}:", why, indent=2, hang=4)


def _bar(share: float, floor: float | None, ascii: bool) -> str:
    """Return a bar that is full at the limit, with a mark at the floor."""
    filled = max(0, min(_BAR, round(share * _BAR)))
    full, empty, mark = ("#", ".", "|") if ascii else ("█", "░", "┃")
    bar = full * filled + empty * (_BAR - filled)
    if floor is None:
        return bar
    place = min(_BAR - 1, int(floor / 100 * _BAR))
    return bar[:place] + mark + bar[place + 1 :]


def _spread(valid: Sequence[Measurement], values: Sequence[float], subjects: str, together: bool) -> str:
    """Say on what, and which was the worst where they are not all alike."""
    where = f"{subjects}{_how(valid, together)}"
    worst = max(values) if lower_is_better(valid[0].unit) else min(values)
    if abs(worst / median(values) - 1) <= _ALIKE:
        return where
    return f"{where}; worst {number(worst)} on {valid[values.index(worst)].subject}"


def _how(valid: Sequence[Measurement], together: bool) -> str:
    return ", all at once" if together else ", each alone" if valid[0].alone and len(valid) > 1 else ""


def _unseen(page: Page, session: Session) -> None:
    """Say which benchmarks we never ran on such a part ourselves."""
    notes: dict[str, list[str]] = {}
    for measured in session.measurements:
        if note := str(measured.settings.get("hardware", "")):
            notes.setdefault(note, []).append(measured.bench)
    for note, benches in notes.items():
        page.put((f"{_some(list(dict.fromkeys(benches)))}:", "bold"), note, indent=2, hang=4)


def _missing(page: Page, session: Session) -> None:
    reasons: dict[str, dict[str, list[str]]] = {}
    for missing in session.missing:
        reasons.setdefault(missing.why, {}).setdefault(missing.bench, []).append(missing.subject)
    if not reasons:
        return
    page.blank()
    page.put(("NOT MEASURED", "bold"))
    page.blank()
    for why, benches in reasons.items():
        subjects = sorted({subject for own in benches.values() for subject in own} - {"host"})
        where = f" on {fold_line(subjects, most=3)}" if subjects else ""
        page.put((f"{_some(list(benches))}{where}:", "bold"), why, indent=2, hang=4)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"
