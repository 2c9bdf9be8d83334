"""What was measured, for people at a terminal: each number beside its physical limit, and beside its equals."""

from __future__ import annotations

from collections.abc import Sequence

from hostcheck.bench.baseline import Comparison
from hostcheck.bench.figures import figures
from hostcheck.bench.floors import Floors
from hostcheck.bench.model import Session
from hostcheck.model import Figure
from hostcheck.render.fold import fold_line
from hostcheck.render.page import Page, page_width, wants_ascii, wants_color
from hostcheck.render.words import not_run, number, of_limit, of_whom, some

_BAR = 16
_NAME = 25
_VALUE = 15


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
    put_figures(page, figures(session, floors))
    if not session.measurements:
        page.put("nothing", indent=2)
    _pinning(page, session)
    _missing(page, session)
    page.blank()
    return page.text()


def put_figures(page: Page, measured: Sequence[Figure]) -> None:
    """Put a line for each figure, and below them which of them we never had on such a part ourselves."""
    shown: tuple[str, str] = "", ""
    for figure in measured:
        _line(page, figure, shown)
        shown = figure.bench, figure.case
    for note in not_run(measured):
        page.put(note, indent=2, hang=4)


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


def _line(page: Page, figure: Figure, shown: tuple[str, str]) -> None:
    """Show a figure after one of that benchmark and case, whose names are not repeated."""
    bench = "" if figure.bench == shown[0] else figure.bench
    head = f"{bench:<14} {figure.case}" if page.width >= 60 else f"{bench} {figure.case}"
    text = "" if figure.value is None else f"{number(figure.value):>7} {figure.unit}"
    subjects = fold_line(figure.subjects, most=3)
    if figure.invalid:
        page.put(
            f"{'' if shown == (figure.bench, figure.case) else head:<{_NAME}}{text:<{_VALUE}}",
            ("invalid", "yellow"),
            f"on {subjects}: {figure.invalid}",
            indent=2,
            hang=_NAME + _VALUE + 11 if page.width >= 90 else 4,
        )
        return
    beside: tuple[str, str] = ("", "")
    if figure.share is not None:
        pad = " " * (5 - len(f"{figure.share:.1f}"))
        beside = (f"{_bar(figure, page.ascii)} {pad}{of_limit(figure)}", "red" if figure.is_short else "green")
    page.put(
        f"{head:<{_NAME}}{text:<{_VALUE}}",
        beside,
        (of_whom(figure), "dim"),
        indent=2,
        hang=_NAME + _VALUE + 3 if page.width >= 90 else 4,
        between=" ",
    )


def _pinning(page: Page, session: Session) -> None:
    """Say which GPUs were measured from anywhere on the host: their copies can be slow by that alone."""
    reasons: dict[str, list[str]] = {}
    for subject, told in session.devices.items():
        if "not" in told.get("pinned", ""):
            reasons.setdefault(told["pinned"], []).append(subject)
    for why, subjects in reasons.items():
        page.put(f"The process of {fold_line(subjects, most=3)}:", why, indent=2, hang=4)


def _bar(figure: Figure, ascii: bool) -> str:
    """Return a bar that is full at the limit, with a mark at the floor."""
    filled = max(0, min(_BAR, round((figure.share or 0.0) / 100 * _BAR)))
    full, empty, mark = ("#", ".", "|") if ascii else ("█", "░", "┃")
    bar = full * filled + empty * (_BAR - filled)
    if figure.floor is None:
        return bar
    place = min(_BAR - 1, int(figure.floor / 100 * _BAR))
    return bar[:place] + mark + bar[place + 1 :]


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
        page.put((f"{some(list(benches))}{where}:", "bold"), why, indent=2, hang=4)
