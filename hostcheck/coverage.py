"""Which rows of the checklist are answered: the rows, what names them, and what is proven of the checks among that.

A row counts as answered where a check names it that the case tables have seen failing: a check that cannot fail answers
nothing. A row of what is to be changed is answered by a tuner too, all of which the case tables have seen changing
something, and a row of what is to be measured by a benchmark.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from hostcheck.errors import HostcheckError
from hostcheck.expect import suggest
from hostcheck.model import Status
from hostcheck.registry import Bench, Check, Tuner

PROVEN_STATUSES = (Status.FAIL, Status.PASS, Status.UNKNOWN)


class RowClass(StrEnum):
    """How a row can be settled at all."""

    PROBE = "probe"
    TUNE = "tune"
    BENCH = "bench"
    WORKLOAD = "workload"
    ADVICE = "advice"


class RowState(StrEnum):
    """How far a row is settled.

    ANSWERED: by a proven check, or by what makes or measures it. UNPROVEN: checks name it, but none is known to fail
    when it should. ATTESTED: advice that no machine can judge; an operator attests it in a checklist. OPEN: not yet.
    """

    ANSWERED = "answered"
    UNPROVEN = "unproven"
    ATTESTED = "by attestation"
    OPEN = "not yet"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the checklist."""

    id: str
    section: int
    kind: RowClass
    title: str


@dataclass(frozen=True, slots=True)
class RowCoverage:
    """One row and the ids of the checks that name it, those of them that are proven, and of what else names it."""

    row: Row
    checks: tuple[str, ...]
    proven: tuple[str, ...]
    tuners: tuple[str, ...] = ()
    benches: tuple[str, ...] = ()

    @property
    def state(self) -> RowState:
        """How far the row is settled."""
        made = self.row.kind is RowClass.TUNE and self.tuners
        measured = self.row.kind is RowClass.BENCH and self.benches
        if self.proven or made or measured:
            return RowState.ANSWERED
        if self.checks:
            return RowState.UNPROVEN
        return RowState.ATTESTED if self.row.kind is RowClass.ADVICE else RowState.OPEN


@dataclass(frozen=True, slots=True)
class Coverage:
    """All rows, in the order of the checklist."""

    rows: tuple[RowCoverage, ...]

    def pick(
        self, *, section: int | None = None, kind: str | None = None, state: Collection[RowState] = tuple(RowState)
    ) -> tuple[RowCoverage, ...]:
        """Return the rows of a section, of a class and of some states, or of all."""
        return tuple(
            entry
            for entry in self.rows
            if section in (None, entry.row.section) and kind in (None, entry.row.kind) and entry.state in state
        )

    def count(self, *, section: int | None = None, kind: str | None = None) -> tuple[int, int]:
        """Return how many rows are answered, and how many there are."""
        own = self.pick(section=section, kind=kind)
        return sum(entry.state is RowState.ANSWERED for entry in own), len(own)


SECTIONS: Mapping[int, str]
"""Title of each section by its number; read when first asked for."""

ROWS: Mapping[str, Row]
"""Every row by id, in the order of the checklist; read when first asked for."""


def __getattr__(name: str) -> object:
    if name == "SECTIONS":
        return _read()[0]
    if name == "ROWS":
        return _read()[1]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _read() -> tuple[Mapping[int, str], Mapping[str, Row]]:
    table = tomllib.loads((files("hostcheck") / "rows.toml").read_text("utf-8"))["section"]
    rows = (
        Row(id, section["number"], RowClass(kind), title) for section in table for id, kind, title in section["rows"]
    )
    return {section["number"]: section["title"] for section in table}, {row.id: row for row in rows}


def row_ids() -> tuple[str, ...]:
    """Return the id of every row, in the order of the checklist."""
    return tuple(_read()[1])


def section_words() -> tuple[str, ...]:
    """Return the words that name sections, each the first of its rows' ids."""
    return tuple(dict.fromkeys(_word(id) for id in row_ids()))


def find_section(text: str) -> int:
    """Return the number of the section that a number or the first word of its rows' ids names, such as "6" or "os".

    Raises:
        HostcheckError: there is none.
    """
    sections, rows = _read()
    words = {_word(row.id): row.section for row in rows.values()}
    number = int(text) if text.isdecimal() and len(text) < 4 else words.get(text.rstrip("-"), 0)
    if number not in sections:
        raise HostcheckError(f"there is no section {text!r}{suggest(text, words)} (1 to {max(sections)}, or a word)")
    return number


def _word(id: str) -> str:
    parts = id.split("-")
    return "-".join(parts[:2]) if parts[0] == "x" else parts[0]


def read_proven() -> dict[str, frozenset[str]]:
    """Return the ids of the checks that the case tables have seen ending as "fail", "pass" and "unknown"."""
    table = tomllib.loads((files("hostcheck") / "proven.toml").read_text("utf-8"))
    return {status.value: frozenset(table.get(status.value, ())) for status in PROVEN_STATUSES}


def proven() -> frozenset[str]:
    """Return the ids of the checks that the case tables have seen failing."""
    return read_proven()[Status.FAIL.value]


def coverage(
    checks: Mapping[str, Check],
    proven: Collection[str],
    *,
    tuners: Mapping[str, Tuner] = MappingProxyType({}),
    benches: Mapping[str, Bench] = MappingProxyType({}),
) -> Coverage:
    """Hold the registers against the rows.

    Args:
        checks, tuners, benches: the registers, by id.
        proven: ids of the checks that are known to fail when they should.
    """
    judging, changing, measuring = _naming(checks), _naming(tuners), _naming(benches)
    return Coverage(
        tuple(
            RowCoverage(
                row=row,
                checks=judging.get(row.id, ()),
                proven=tuple(id for id in judging.get(row.id, ()) if id in proven),
                tuners=changing.get(row.id, ()),
                benches=measuring.get(row.id, ()),
            )
            for row in _read()[1].values()
        )
    )


def _naming(register: Mapping[str, Check | Tuner | Bench]) -> dict[str, tuple[str, ...]]:
    """Return the ids of those that name each row."""
    found: dict[str, tuple[str, ...]] = {}
    for id, each in sorted(register.items()):
        for row in dict.fromkeys(each.rows):
            found[row] = (*found.get(row, ()), id)
    return found


def unknown_rows(register: Mapping[str, Check | Tuner | Bench]) -> list[str]:
    """Return one line for each row id that is named and that the checklist does not have."""
    rows = _read()[1]
    return [
        f"{id}: row {row!r} is unknown{suggest(row, rows)}"
        for id, each in sorted(register.items())
        for row in each.rows
        if row not in rows
    ]


def render_coverage(
    coverage: Coverage,
    *,
    section: str | None = None,
    kind: str | None = None,
    row: str | None = None,
    missing: bool = False,
    verbose: bool = False,
) -> str:
    """Return the coverage as plain text of at most 80 columns: one line for each section, and the totals by class.

    Args:
        coverage: what to show.
        section: only this section, by number or word, with its rows and their checks.
        kind: only this class of rows.
        row: only this row, with its checks.
        missing: list the rows that no proven check answers; not advice, since operators attest that.
        verbose: list every row with its checks.

    Raises:
        HostcheckError: there is no such section, class or row.
    """
    sections, rows = _read()
    only = None if section is None else find_section(section)
    if kind is not None and kind not in list(RowClass):
        raise HostcheckError(f"class {kind!r} is none of {', '.join(RowClass)}")
    if row is not None and row not in rows:
        raise HostcheckError(f"row {row!r} is unknown{suggest(row, rows)}")
    if row is not None:
        entry = next(entry for entry in coverage.rows if entry.row.id == row)
        return _text([_section(entry.row.section), *_row(entry)])
    state = (RowState.UNPROVEN, RowState.OPEN) if missing else tuple(RowState)
    lines: list[str] = []
    for number in sections if only is None else [only]:
        chosen = coverage.pick(section=number, kind=kind, state=state)
        if chosen:
            lines.append(_tally(_section(number), coverage.count(section=number, kind=kind)))
        if missing or verbose or only is not None:
            lines += [line for entry in chosen for line in _row(entry, say_open=not missing)]
    if not lines:
        return "no rows are missing\n" if missing else "no rows\n"
    return _text([*lines, "", *_totals(coverage, only, kind)])


def _text(lines: Sequence[str]) -> str:
    legend = ["", "?: no case has shown this check failing yet"] if any(line.endswith("?") for line in lines) else []
    return "\n".join([*lines, *legend]) + "\n"


def _section(number: int) -> str:
    return f"{number:>2} {_read()[0][number]}"


def _tally(label: str, count: tuple[int, int]) -> str:
    return f"{label:<36}{count[0]:>3} of {count[1]:>3}"


def _totals(coverage: Coverage, section: int | None, kind: str | None) -> list[str]:
    lines = []
    for own in RowClass if kind is None else [RowClass(kind)]:
        count = coverage.count(section=section, kind=own)
        if count[1]:
            advice = "  (advice is attested)" if own is RowClass.ADVICE else ""
            lines.append(_tally(f"   {own}", count) + advice)
    if len(lines) > 1:
        lines.append(_tally("   all", coverage.count(section=section, kind=kind)))
    return lines


def _row(entry: RowCoverage, *, say_open: bool = True) -> list[str]:
    """Return a row's line, and below it what names it; a check that is not proven has a question mark."""
    lines = [f"   {entry.row.id:<28} {entry.row.kind:<9} {entry.row.title}"]
    for id in entry.checks:
        lines.append(f"      {id}" if id in entry.proven else f"      {id}?")
    lines += [f"      tune {id}" for id in entry.tuners]
    lines += [f"      bench {id}" for id in entry.benches]
    if len(lines) == 1 and say_open:
        lines.append(f"      {entry.state}")
    return lines
