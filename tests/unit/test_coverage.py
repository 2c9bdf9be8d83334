"""Rows of the checklist and which checks answer them."""

from __future__ import annotations

import runpy
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from hostcheck import coverage as module
from hostcheck.coverage import (
    RowState,
    coverage,
    find_section,
    proven,
    read_proven,
    render_coverage,
    row_ids,
    unknown_rows,
)
from hostcheck.errors import HostcheckError
from hostcheck.model import Severity
from hostcheck.registry import Check, Tuner, load_benches, load_checks, load_tuners


def check(id: str, *rows: str) -> Check:
    return Check(id=id, title="", rationale="", severity=Severity.LOW, needs=(), function=lambda: (), rows=rows)


CHECKS = {
    one.id: one
    for one in (
        check("cpu.governor", "os-cpu-governor"),
        check("memory.swap", "os-swap", "x-os-swappiness"),
        check("memory.swappiness", "x-os-swappiness", "x-os-swappiness"),
    )
}
SEEN = coverage(CHECKS, {"cpu.governor", "memory.swappiness"})


def state(id: str) -> RowState:
    return next(entry.state for entry in SEEN.rows if entry.row.id == id)


def test_the_rows_are_those_of_the_checklist() -> None:
    rows = module.ROWS
    assert len(rows) == 352
    assert Counter(row.kind.value for row in rows.values()) == {
        "probe": 94, "tune": 33, "bench": 65, "workload": 99, "advice": 61,
    }  # fmt: skip
    assert Counter(row.section for row in rows.values()) == dict(
        zip(
            range(1, 27),
            (24, 9, 8, 6, 8, 26, 11, 21, 13, 16, 46, 6, 10, 13, 14, 11, 4, 12, 16, 10, 18, 12, 11, 9, 11, 7),
            strict=True,
        )
    )
    assert sum(id.startswith("x-") for id in rows) == 68
    assert list(rows) == list(row_ids())
    assert rows["os-swap"].section == 6
    assert set(module.SECTIONS) == set(range(1, 27))


def test_titles_are_short_and_each_its_own() -> None:
    titles = [row.title for row in module.ROWS.values()]
    assert len(set(titles)) == len(titles)
    assert all(2 <= len(title.split()) <= 6 and not title.endswith(".") for title in titles)


def test_a_row_counts_only_with_a_proven_check() -> None:
    assert state("os-cpu-governor") is RowState.ANSWERED
    assert state("os-swap") is RowState.UNPROVEN
    assert state("x-os-swappiness") is RowState.ANSWERED
    assert state("os-irq-nic") is RowState.OPEN
    assert state("mind-roi") is RowState.ATTESTED
    [entry] = [entry for entry in SEEN.rows if entry.row.id == "x-os-swappiness"]
    assert entry.checks == ("memory.swap", "memory.swappiness")
    assert entry.proven == ("memory.swappiness",)
    assert SEEN.count() == (2, 352)
    assert SEEN.count(section=6) == (1, 26)
    assert SEEN.count(kind="tune") == (2, 33)
    assert coverage(CHECKS, frozenset()).count() == (0, 352)


def test_a_tuner_answers_what_is_to_be_changed_and_a_benchmark_what_is_to_be_measured() -> None:
    bench_row = next(row.id for row in module.ROWS.values() if row.kind == "bench")
    advice = next(row.id for row in module.ROWS.values() if row.kind == "advice")
    made = Tuner(id="cpu.irq", title="", rationale="", needs=(), function=lambda: (), rows=("os-irq-nic", advice))
    measured = SimpleNamespace(id="memory.x", rows=(bench_row, "os-swap"))
    seen = coverage(CHECKS, {"cpu.governor"}, tuners={"cpu.irq": made}, benches={"memory.x": measured})  # type: ignore[dict-item]
    states = {entry.row.id: entry.state for entry in seen.rows}
    assert states["os-irq-nic"] is states[bench_row] is RowState.ANSWERED
    # A benchmark measures and does not set, and advice is not followed by a setting.
    assert states["os-swap"] is RowState.UNPROVEN
    assert states[advice] is RowState.ATTESTED
    assert "      tune cpu.irq" in render_coverage(seen, row="os-irq-nic").splitlines()
    assert "      bench memory.x" in render_coverage(seen, row=bench_row).splitlines()
    assert "os-irq-nic" not in render_coverage(seen, missing=True)


def test_what_is_shipped_names_rows_that_are_there() -> None:
    registers = (load_checks(), load_tuners(), load_benches())
    assert [line for register in registers for line in unknown_rows(register)] == []


def test_unknown_rows_are_named() -> None:
    assert unknown_rows(CHECKS) == []
    assert unknown_rows({"a.b": check("a.b", "os-swop")}) == ["a.b: row 'os-swop' is unknown; did you mean 'os-swap'?"]


def test_the_overview_has_a_line_for_each_section() -> None:
    lines = render_coverage(SEEN).splitlines()
    assert " 6 Operating system and driver        1 of  26" in lines
    assert "   tune                               2 of  33" in lines
    assert "   all                                2 of 352" in lines
    assert len(lines) == 26 + 1 + 6


def test_a_section_shows_its_rows_and_marks_what_is_not_proven() -> None:
    lines = render_coverage(SEEN, section="os").splitlines()
    place = lines.index("   os-swap                      tune      Swap is off")
    assert lines[place + 1] == "      memory.swap?"
    place = next(n for n, line in enumerate(lines) if line.startswith("   os-cpu-governor "))
    assert lines[place + 1] == "      cpu.governor"
    assert lines[-1] == "?: no case has shown this check failing yet"
    assert "mind-" not in "\n".join(lines)


def test_missing_leaves_out_what_is_answered_and_what_is_attested() -> None:
    text = render_coverage(SEEN, missing=True)
    assert "os-swap " in text
    assert "os-irq-nic " in text
    assert "os-cpu-governor" not in text
    assert "mind-roi" not in text
    assert len([line for line in text.splitlines() if line.startswith("   ") and "-" in line]) == 352 - 2 - 61
    every = coverage({"cpu.all": check("cpu.all", *row_ids())}, {"cpu.all"})
    assert render_coverage(every, missing=True) == "no rows are missing\n"


def test_one_class_and_one_row() -> None:
    text = render_coverage(SEEN, kind="tune", verbose=True)
    assert "os-irq-nic" in text
    assert " probe " not in text
    assert render_coverage(SEEN, row="os-cpu-governor") == (
        " 6 Operating system and driver\n"
        "   os-cpu-governor              tune      Frequency governor for performance\n"
        "      cpu.governor\n"
    )


def test_everything_fits_80_columns() -> None:
    assert max(map(len, render_coverage(SEEN, verbose=True).splitlines())) <= 80


def test_sections_by_number_and_word() -> None:
    assert [find_section(text) for text in ("6", "os", "os-", "x-os", "x-io", "x-net")] == [6, 6, 6, 21, 26, 26]
    for text in ("0", "27", "9999999", "oss", "", "٣٣", "²"):
        with pytest.raises(HostcheckError, match="there is no section"):
            find_section(text)
    with pytest.raises(HostcheckError, match="is none of probe, tune"):
        render_coverage(SEEN, kind="probes")
    with pytest.raises(HostcheckError, match="did you mean 'os-swap'"):
        render_coverage(SEEN, row="os-swop")


def test_what_is_proven_is_read_from_the_package() -> None:
    text = (Path(module.__file__).parent / "proven.toml").read_text("utf-8")
    assert read_proven() == {status: frozenset(ids) for status, ids in tomllib.loads(text).items()}
    assert proven() == read_proven()["fail"]


def test_importing_reads_nothing() -> None:
    code = "import hostcheck.coverage as c; assert c._read.cache_info().currsize == 0; assert len(c.ROWS) == 352"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def test_there_is_nothing_else_in_the_module() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'COLUMNS'"):
        module.COLUMNS  # noqa: B018


TOOL = Path(__file__).parents[2] / "tools/build_rows.py"

DOCUMENT = """\
## Counts

| No. | Category | id prefix | items | rows | probe | tune | bench | workload | advice |
|---|---|---|---|---|---|---|---|---|---|
| 1 | Mind | `mind-` | 2 | 2 | 1 | 0 | 0 | 0 | 1 |
| | **appendix total** | | **2** | **2** | **1** | **0** | **0** | **0** | **1** |
| | supplementary | `x-` | 1 | 1 | 0 | 1 | 0 | 0 | 0 |
| | **all rows** | | **3** | **3** | **1** | **1** | **0** | **0** | **1** |

- `probe`: not a row

## Appendix items

### 1. Mind (`mind-`)

| # | L | id | statement | class | evidence | fix |
|---|---|---|---|---|---|---|
| 1 | 14 | `mind-a` | Say `x \\| y` of an advice kind. | advice | seen | - |
| 2 | 15 | `mind-b` | Words. | probe | `tune` | - |

## Supplementary host rows

### Host (seeds ch. 3)

| # | id | statement | class | evidence | fix | origin |
|---|---|---|---|---|---|---|
| S1 | `x-a` | Words. | tune | here | Change | there |

## Design card

| name | `mind-z` | probe |
"""


def test_rows_are_taken_from_a_document_and_counted() -> None:
    tool = runpy.run_path(str(TOOL))
    rows = tool["rows_of"](DOCUMENT)
    assert [(row.section, row.id, row.kind) for row in rows] == [
        (1, "mind-a", "advice"), (1, "mind-b", "probe"), (2, "x-a", "tune"),
    ]  # fmt: skip
    assert tool["faults"](rows, DOCUMENT) == []
    one_less = tool["faults"](rows[1:], DOCUMENT)
    assert [fault.split(":")[0] for fault in one_less] == ["Mind", "appendix total", "all rows"]
    assert "mind-b: there are two rows of this id" in tool["faults"]([*rows, rows[1]], DOCUMENT)
    titles = {"mind-a": "One", "mind-b": "Two", "x-a": "Three"}
    made = tomllib.loads(tool["write"](rows, {1: "First", 2: "Second"}, titles))
    assert made["section"][0] == {
        "number": 1, "title": "First", "rows": [["mind-a", "advice", "One"], ["mind-b", "probe", "Two"]],
    }  # fmt: skip
