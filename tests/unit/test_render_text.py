"""The terminal report: what a person reads, at any width, piped or not."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

import runs
from hostcheck.model import Actor, Run
from hostcheck.render import FORMATS, page, render
from hostcheck.render.safe import hidden
from hostcheck.render.text import render_text

TESTS = Path(runs.__file__).parent
SGR = re.compile(r"\x1b\[[0-9;]*m")


def text(run: Run, *, verbose: bool = False, color: bool = False, width: int = 80, ascii: bool = False) -> str:
    return render_text(run, verbose=verbose, color=color, width=width, ascii=ascii)


def flat(shown: str) -> str:
    return " ".join(shown.split())


SMALL = runs.run(
    runs.result(
        "gpu.persistence",
        *(
            runs.finding("fail", "persistence mode is off", subject=f"gpu{n}", observed="Disabled",
                         actor=Actor.OPERATOR, expected=("Enabled", "defaults-gpu", "NVIDIA driver persistence guide"),
                         fix="sudo systemctl enable --now nvidia-persistenced")
            for n in range(8)
        ),
        rationale="The driver unloads when the last client leaves. The next job then waits 1 to 3 s for each GPU.",
    ),
    runs.result("memory.thp", runs.finding("unknown", "memory.vm: denied", cause="memory.vm"), severity="low"),
    runs.result("cpu.governor"),
    privileged=False,
)  # fmt: skip

SMALL_SHOWN = """\
node017 · 2026-11-20 22:50 UTC · hostcheck 0.1.0
  System     Supermicro SYS-821GE-TNHR, bare metal
  CPU        2 × Intel Xeon Platinum 8480C, 112 cores, 2 NUMA nodes
  GPU        8 × NVIDIA H100 80GB HBM3, driver 570.86.15
  Kernel     6.8.0-51-generic, Ubuntu 24.04.1 LTS
  Judged by  checklist default for training; failures of severity medium or
             above count
  Read       without root; 0 of 0 probes answered

CHANGE A SETTING  For whoever administers this host.

  medium    gpu.persistence  gpu[0-7]
    persistence mode is off
    observed Disabled, expected Enabled (defaults-gpu: NVIDIA driver persistence
    guide)
    Why: The driver unloads when the last client leaves. The next job then waits
    1 to 3 s for each GPU.
    Fix:
      sudo systemctl enable --now nvidia-persistenced

COULD NOT BE DETERMINED  1 check; not the same as passed.

  1 check: memory.vm: denied (does not count)
    memory.thp
  Reading as root may answer 1 of these.

SUMMARY  1 fail, 1 unknown (not counted), 1 pass

  hostcheck explain gpu.persistence  what a check is for
  -v                                 everything that was judged
  -o report.html                     a page to hand on

FAIL  1 check failed (1 medium); 1 undetermined below medium.
Exit code 1: at least one failure of severity medium or above.
"""


def test_the_whole_of_a_small_report() -> None:
    assert text(SMALL) == SMALL_SHOWN


@pytest.mark.parametrize("name", list(runs.SAMPLES))
@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_too_wide_but_for_what_must_stay_whole(name: str, width: int) -> None:
    run = runs.SAMPLES[name]()
    fixes = {line.strip() for result in run.results for each in result.findings for line in each.fix.split("\n")}
    for line in text(run, width=width, verbose=True).splitlines():
        breakable = " " in line.strip() and line.strip() not in fixes and name != "hostile"
        assert not breakable or cell_len(line) <= width, line
        assert line == line.rstrip()


def test_no_blank_lines_in_a_row_and_none_at_the_ends() -> None:
    for name, make in runs.SAMPLES.items():
        shown = text(make(), verbose=True)
        assert "\n\n\n" not in shown, name
        assert shown.endswith(".\n")
        assert not shown.startswith("\n")


@pytest.mark.parametrize("width", [20, 40, 80])
def test_each_line_of_each_fix_is_whole(width: int) -> None:
    run = runs.mixed()
    lines = [line.strip() for line in text(run, width=width).splitlines()]
    wanted = [
        line
        for result in run.results
        for finding in result.findings
        if finding.fix and finding.waived is None
        for line in finding.fix.split("\n")
    ]

    assert wanted
    assert set(wanted) <= set(lines)
    assert lines.count("sudo systemctl enable --now nvidia-persistenced") == 1


def test_here_document_is_not_indented() -> None:
    fix = "sudo tee /etc/x.conf <<'EOF'\n[x]\n  y = 1\nEOF"
    shown = text(runs.run(runs.result("gpu.one", runs.finding("fail", "off", fix=fix, actor=Actor.OPERATOR))))

    assert f"\n{fix}\n" in shown


def test_wrapping_changes_no_word() -> None:
    narrow, wide = (flat(text(runs.mixed(), width=width)) for width in (60, 110))

    assert narrow.replace("critical ", "") == wide.replace("critical ", "")


def test_sections_come_in_the_order_of_reading() -> None:
    shown = text(runs.mixed(), verbose=True)
    titles = [
        line.split("  ")[0]
        for line in shown.splitlines()
        if line and line[0].isupper() and line.split("  ")[0].isupper()
    ]

    assert titles == [
        "REPLACE A PART", "RESET A GPU", "REBOOT THE HOST", "CHANGE A SETTING", "LET HOSTCHECK TUNE",
        "CHANGE THE WORKLOAD", "LOOK INTO IT", "COULD NOT BE DETERMINED", "REQUIRED, AND NOT PASSED", "WAIVED", "NOTES",
        "MEASURED", "PASSED", "NOT APPLICABLE", "SKIPPED", "PROBES WITHOUT AN ANSWER", "ATTESTED BY PEOPLE",
        "SUMMARY", "FAIL",
    ]  # fmt: skip


def test_waiver_shows_reason_and_date() -> None:
    assert "until 2027-01-31 by ops@example.org: spare board is on order, ticket 4711" in flat(text(runs.mixed()))


def test_a_waiver_that_ended_is_told_with_what_it_was_for() -> None:
    shown = flat(text(runs.expired()))

    assert "swap is on its waiver expired on 2026-10-31" in shown
    assert "eth2: the MTU is 1500 its waiver expired on 2026-10-31 eth3: the MTU is 576 COULD" in shown
    assert "gpu.ecc (gpu3; waiver expired on 2026-10-31)" in shown
    assert "kernel.version (waiver expired on 2026-10-31)" in shown
    assert "WAIVED" not in shown


def test_passes_and_reasons_only_for_verbose_readers() -> None:
    short, long = text(runs.mixed()), text(runs.mixed(), verbose=True)

    for words in ("memory.thp-enabled", "there is no InfiniBand or RoCE device", "skipped by site.toml", "inlet 24 °C"):
        assert words not in short
        assert words in flat(long)


def test_many_findings_are_cut_short_and_say_so() -> None:
    short, long = text(runs.huge()), text(runs.huge(), verbose=True)

    assert "and 992 more lines: -v shows all" in short
    assert "and 976 more fixes: -v shows all" in short
    assert short.count("mlxlink") == 24
    assert long.count("mlxlink") == 1000
    assert "more lines" not in long


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["hostile", "mixed"])
def test_no_output_holds_what_a_reader_cannot_see(format: str, name: str) -> None:
    shown = render(runs.SAMPLES[name](), format, verbose=True, color=False, width=80, ascii=False)

    assert {character for character in shown if hidden(character)} <= {"\n"}


def test_colors_are_the_only_escape_sequences_and_change_no_text() -> None:
    for make in runs.SAMPLES.values():
        plain, colored = (text(make(), verbose=True, color=color) for color in (False, True))
        assert "\x1b" in colored
        assert SGR.sub("", colored) == plain


def test_markup_of_the_host_is_no_markup() -> None:
    markup = "[bold red]x[/] [link=http://x]y[/link] :skull:"
    run = runs.run(runs.result("gpu.one", runs.finding("fail", markup, subject="[b]")))

    assert markup in SGR.sub("", text(run, color=True))


def test_ascii_terminal_gets_ascii() -> None:
    for make in runs.SAMPLES.values():
        assert text(make(), ascii=True, color=True, verbose=True).isascii()
    assert "8 x NVIDIA H100" in text(runs.mixed(), ascii=True)


@pytest.mark.parametrize(
    ("environ", "terminal", "wanted"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "0"}, True, False),
        ({"TERM": "dumb"}, True, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True, True),
    ],
)
def test_when_colors_are_wanted(
    environ: dict[str, str], terminal: bool, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)

    assert page.wants_color(environ) is wanted


@pytest.mark.parametrize(
    ("encoding", "wanted"), [("utf-8", False), ("UTF8", False), ("ascii", True), ("iso8859-1", True)]
)
def test_when_ascii_is_wanted(encoding: str, wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))

    assert page.wants_ascii() is wanted


def test_piped_width_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())

    assert page.page_width({}) == page.PIPED_WIDTH
    assert max(map(len, render_text(runs.healthy()).splitlines())) <= page.PIPED_WIDTH


@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=60), max_size=5), st.integers(20, 120))
def test_any_text_can_be_put(parts: list[str], width: int) -> None:
    sheet = page.Page(width=width, color=False, ascii=False)
    sheet.put(*parts, indent=2, hang=4)
    shown = sheet.text()

    assert all(cell_len(line) <= min(width, page.WIDEST) or " " not in line.strip() for line in shown.splitlines())
    assert not any(hidden(character) for character in shown if character != "\n")


def test_only_the_renderer_that_is_asked_for_is_loaded() -> None:
    """rich and Jinja take tens of milliseconds each."""
    program = (
        "import sys, runs; from hostcheck.render import render; render(runs.mixed(), sys.argv[1]); "
        "print(*sorted({name.split('.')[0] for name in sys.modules} & {'rich', 'jinja2', 'msgspec'}))"
    )
    loaded = {}
    for format in FORMATS:
        command = [sys.executable, "-P", "-c", program, format]
        ended = subprocess.run(command, check=True, capture_output=True, text=True, env={"PYTHONPATH": str(TESTS)})
        loaded[format] = ended.stdout.split()

    assert loaded == {"text": ["rich"], "json": ["msgspec"], "md": ["jinja2"], "html": ["jinja2"]}


def test_unknown_format() -> None:
    with pytest.raises(ValueError, match="no renderer for 'pdf'; there are text, json, md, html"):
        render(runs.empty(), "pdf")
