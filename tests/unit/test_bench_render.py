"""What was measured, as people see it: equal parts on one line, the worst by name, what is invalid apart."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

import runs
from hostcheck.audit import judge, shipped_layers
from hostcheck.bench.figures import figures
from hostcheck.bench.floors import Floors
from hostcheck.bench.model import Measurement, Missing, Session
from hostcheck.bench.session import with_results
from hostcheck.checklist import Checklist
from hostcheck.expect import read_layer
from hostcheck.registry import load_checks
from hostcheck.render.bench import render_session
from hostcheck.render.json import render_json
from hostcheck.render.text import render_text
from hostcheck.render.words import number, when
from support import host

load_checks()  # for their keys
TRIAD = Measurement(bench="hbm.triad", subject="gpu0", unit="GB/s", value=3100.0, limit=3352.0, verified=True)


def shown(*measurements: Measurement, missing: tuple[Missing, ...] = (), width: int = 100) -> list[str]:
    devices = {f"gpu{number}": {"name": "NVIDIA H100 80GB HBM3"} for number in range(8)}
    session = Session(
        tool="test", taken="2026-11-21T00:00:00+00:00", level="quick", measurements=measurements, missing=missing,
        devices=devices, versions={"driver": "580"}, seconds=21.4,
    )  # fmt: skip
    return render_session(session, color=False, width=width, ascii=True).splitlines()


def test_equal_gpus_share_a_line_with_the_worst_by_name() -> None:
    each = [replace(TRIAD, subject=f"gpu{index}", value=3100.0 - 10 * index - 60 * (index == 7)) for index in range(8)]
    lines = shown(*each)
    assert lines[0] == "MEASURED  quick level, 8 x NVIDIA H100 80GB HBM3, driver 580, 21 s"
    assert " ".join(" ".join(lines[2:4]).split()) == (
        "hbm.triad 3,065 GB/s ###############. 91.4% of 3,352 gpu[0-7]; worst 2,970 on gpu7"
    )


def test_limits_by_the_clock_of_the_moment_make_no_second_line_and_another_link_does() -> None:
    chain = replace(TRIAD, bench="tensor.pipe", case="BF16", unit="TFLOPS", value=930.0)
    each = [replace(chain, subject=f"gpu{index}", limit=limit) for index, limit in enumerate((949.0, 951.0, 946.0))]
    assert shown(*each)[2].endswith("of 949 gpu[0-2]")
    links = [replace(TRIAD, bench="copy.h2d", value=25.0, subject=f"gpu{n}", limit=63.0 / (n + 1)) for n in range(2)]
    assert [line.rstrip()[-4:] for line in shown(*links)[2:4]] == ["gpu0", "gpu1"]


def test_where_all_are_alike_nobody_is_named() -> None:
    lines = shown(TRIAD, replace(TRIAD, subject="gpu1", value=3101.0))
    assert lines[2].endswith("92.5% of 3,352 gpu[0-1]")
    alone = [replace(TRIAD, subject=f"gpu{index}", alone=True) for index in range(2)]
    assert shown(*alone)[2].endswith("gpu[0-1], each alone")


def test_the_floor_stands_in_the_bar_and_beside_the_limit() -> None:
    session = Session(
        tool="test", taken="2026-11-21T00:00:00+00:00", level="quick", measurements=(TRIAD,),
        devices={"gpu0": {"pci_id": "10de:2330"}},
    )  # fmt: skip
    text = render_session(session, Floors(shipped_layers("training", gpus=True)), color=False, width=100, ascii=True)
    assert "############|##.  92.5% of 3,352, at least 78% gpu0" in text


def test_a_figure_says_all_that_its_line_does() -> None:
    session = Session(
        tool="test", taken="2026-11-21T00:00:00+00:00", level="quick", devices={"gpu0": {"pci_id": "10de:2330"}},
        measurements=(TRIAD, replace(TRIAD, subject="gpu1", value=2500.0), replace(TRIAD, subject="gpu2", invalid="x")),
    )  # fmt: skip
    good, bad = figures(session, Floors(shipped_layers("training", gpus=True)))
    assert (good.subjects, good.value, good.worst, good.worst_on) == (("gpu0", "gpu1"), 2800.0, 2500.0, "gpu1")
    assert good.share == pytest.approx(100 * 2800 / 3352)
    assert (good.floor, good.is_short) == (78.0, True), "the worst is what is held against the floor"
    assert (bad.subjects, bad.invalid, bad.share, bad.is_short) == (("gpu2",), "x", None, False)


def test_a_figure_tells_each_part_s_number_and_what_must_be_equal_to_compare_it() -> None:
    def triad(subject: str, value: float, **fields: Any) -> Measurement:
        return replace(TRIAD, subject=subject, value=value, **fields)

    session = Session(
        tool="0.1.0", taken="2026-11-21T10:06:00+00:00", level="standard", seconds=122.4,
        versions={"driver": "580"}, measurements=(
            triad("gpu0", 3100.0, settings={"bytes": 4, "NUMA node": 0}),
            triad("gpu1", 3000.0, settings={"bytes": 4, "NUMA node": 1}),
            triad("gpu2", 2000.0, invalid="hot", statistic="mean"),
            triad("gpu3", 2000.0, invalid="wrong", verified=False),
        ),
    )  # fmt: skip
    run = judge(with_results(host("bare"), session), Checklist(only=("bench",)))
    valid, hot, wrong = json.loads(render_json(run))["measured"]
    assert valid["values"] == {"gpu0": 3100.0, "gpu1": 3000.0}
    assert (valid["statistic"], valid["settings"]) == ("median", {"bytes": 4})
    assert valid["own_settings"] == {"gpu0": {"NUMA node": 0}, "gpu1": {"NUMA node": 1}}
    assert (hot["statistic"], hot["values"], hot["own_settings"]) == ("mean", {"gpu2": 2000.0}, {})
    assert [each["verified"] for each in (valid, hot, wrong)] == [True, True, False]
    assert json.loads(render_json(run))["session"] == {
        "level": "standard", "taken": "2026-11-21T10:06:00+00:00", "seconds": 122.4,
        "versions": {"hostcheck": "0.1.0", "driver": "580"},
    }  # fmt: skip
    assert judge(host("bare"), Checklist()).session is None


def test_a_report_says_when_and_how_thoroughly_was_measured() -> None:
    """An archive of last year, judged today, carries the numbers of last year."""
    lines = render_text(runs.mixed(), color=False, width=100, ascii=True).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("MEASURED"))
    assert "  Measured 2026-10-02 10:06 UTC, level standard, in 122 s." in lines[at : at + 4]
    assert "Measured 20" not in render_text(runs.healthy(), color=False, width=100, ascii=True)


@pytest.mark.parametrize("taken", ["0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00", "yesterday", ""])
def test_a_time_that_no_clock_shows_is_shown_as_it_is(taken: str) -> None:
    assert when(taken) == taken


def test_each_is_held_against_the_floor_by_its_own_limit() -> None:
    chain = replace(TRIAD, bench="tensor.pipe", case="BF16", unit="TFLOPS")

    def short(*each: tuple[float, float]) -> bool:
        session = Session(
            tool="test", taken="2026-11-21T00:00:00+00:00", level="quick", devices={"gpu0": {"pci_id": "10de:2330"}},
            measurements=tuple(
                replace(chain, subject=f"gpu{number}", value=value, limit=limit)
                for number, (value, limit) in enumerate(each)
            ),
        )  # fmt: skip
        layer = read_layer('[expect]\n"bench.tensor-cores" = { at_least = 85 }', "site")
        (figure,) = figures(session, Floors([layer]))
        assert figure.floor == 85
        return figure.is_short

    assert short((835.0, 989.0), (800.0, 830.0)), "gpu0 reaches 84.4 %, although gpu1 is the slower"
    assert not short((855.0, 989.0), (720.0, 830.0))
    assert not short((849.6, 1000.0)), "85.0 %, as its check rounds it"


def test_what_is_measured_alone_too_is_held_against_no_floor_at_once() -> None:
    copy = replace(TRIAD, bench="copy.d2h", case="pinned", value=40.0, limit=63.0)
    session = Session(
        tool="test", taken="2026-11-21T00:00:00+00:00", level="quick", devices={"gpu0": {"pci_id": "10de:2330"}},
        measurements=(copy, replace(copy, subject="gpu1"), replace(copy, value=55.0, alone=True)),
    )  # fmt: skip
    at_once, alone = figures(session, Floors(shipped_layers("training", gpus=True)))
    assert (at_once.how, at_once.floor, at_once.is_short) == ("all at once", None, False)
    assert (alone.how, alone.floor, alone.is_short) == ("", 72.0, False)


def test_of_times_the_longest_is_the_worst_and_there_is_no_bar() -> None:
    each = [
        Measurement(bench="launch.kernel", case="wall", subject=f"gpu{index}", unit="us", value=2.0 + index)
        for index in range(3)
    ]
    (line,) = (line for line in shown(*each) if "launch.kernel" in line)
    assert line.split() == ["launch.kernel", "wall", "3", "us", "gpu[0-2];", "worst", "4", "on", "gpu2"]


def test_what_is_invalid_says_why_beside_its_number() -> None:
    lines = shown(
        TRIAD, replace(TRIAD, subject="gpu1", value=2000.0, invalid="python (pid 7) ran on the GPU meanwhile")
    )
    assert lines[2].split()[:2] == ["hbm.triad", "3,100"]
    assert " ".join(lines[3].split()) == "2,000 GB/s invalid on gpu1: python (pid 7) ran on the GPU meanwhile"


def test_cases_of_one_benchmark_do_not_repeat_its_name() -> None:
    lines = shown(replace(TRIAD, bench="copy.h2d", case="pinned"), replace(TRIAD, bench="copy.h2d", case="pageable"))
    assert [line.split()[0] for line in lines[2:4]] == ["copy.h2d", "pageable"]


def test_what_was_never_run_on_such_a_part_is_told_once_for_each_benchmark() -> None:
    each = [replace(TRIAD, bench="tensor.pipe", case=case) for case in ("BF16", "FP8")]
    others = (("launch.kernel", "gpu1"), ("peer.all", "all GPUs"), ("cpu.jitter", "node0"))
    every = (TRIAD, *each, *(replace(TRIAD, bench=bench, subject=subject) for bench, subject in others))
    devices = {"gpu0": {"hardware": "not run on this hardware by us"}, "gpu1": {}}
    session = Session(tool="t", taken="2026-11-21T00:00:00+00:00", level="quick", measurements=every, devices=devices)
    lines = render_session(session, color=False, width=100, ascii=True).splitlines()
    assert "  hbm.triad, tensor.pipe, peer.all: not run on this hardware by us" in lines


def test_what_was_not_measured_is_told_once_for_each_reason() -> None:
    missing = tuple(
        Missing(bench=bench, subject=subject, why="MIG is on")
        for bench in ("hbm.read", "hbm.write", "hbm.copy", "hbm.triad", "l2.read")
        for subject in ("gpu1", "gpu2")
    )
    lines = shown(TRIAD, missing=missing)
    assert "  hbm.read, hbm.write, hbm.copy and 2 more on gpu[1-2]: MIG is on" in lines


def test_names_from_a_host_cannot_act_upon_a_terminal() -> None:
    lines = shown(replace(TRIAD, subject="gpu0\x1b[2J"), missing=(Missing(bench="x\r", subject="\x07", why="\x1b[0m"),))
    assert not any(character in line for line in lines for character in "\x1b\r\x07")


def test_it_fits_a_narrow_page() -> None:
    assert max(map(len, shown(TRIAD, replace(TRIAD, subject="gpu1"), width=50))) <= 50


def test_numbers_have_about_four_digits() -> None:
    assert [number(value) for value in (3352.4, 55.273, 0.83806, 1234567.0)] == [
        "3,352",
        "55.27",
        "0.8381",
        "1,234,567",
    ]
