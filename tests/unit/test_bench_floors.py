"""What measurements are held against, and what is to be measured alone."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from hostcheck.audit import shipped_layers
from hostcheck.bench.floors import Floors
from hostcheck.bench.model import Measurement, Session
from hostcheck.checklist import read_setting
from hostcheck.cli.explain import explain
from hostcheck.errors import HostcheckError
from hostcheck.expect import KEYS, read_layer
from hostcheck.facts.bench import judge_of
from hostcheck.matchers import AtLeast, AtMost
from hostcheck.registry import load_benches, load_checks

COPY = Measurement(
    bench="copy.h2d", case="pinned", subject="gpu0", unit="GB/s", value=55.0, limit=63.0, verified=True
)  # fmt: skip


def doubtful(*measurements: Measurement) -> list[tuple[str, str, tuple[str, ...]]]:
    session = Session(
        tool="test", taken="2026-11-21T00:00:00+00:00", level="quick", measurements=measurements,
        devices={f"gpu{number}": {"pci_id": "10de:2330"} for number in range(4)},
    )  # fmt: skip
    return Floors(shipped_layers("training", gpus=True)).doubtful(session)


def each(*values: float, **changes: object) -> list[Measurement]:
    made = [replace(COPY, subject=f"gpu{number}", value=value) for number, value in enumerate(values)]
    return [replace(one, **changes) for one in made]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "doubted"),
    [
        ((55, 55, 55), []),
        ((38, 38, 38), ["gpu0", "gpu1", "gpu2"]),
        ((38, 55, 30), ["gpu2", "gpu0"]),
        # Above the floor of 72 %, but far behind the others.
        ((55, 47, 55), ["gpu1"]),
    ],
)
def test_copies_at_once_below_the_floor_or_the_others_are_in_doubt_the_worst_first(
    values: tuple[float, ...], doubted: list[str]
) -> None:
    assert [subject for _, subject, _ in doubtful(*each(*values))] == doubted


def test_what_is_its_own_fault_or_no_number_is_not() -> None:
    assert doubtful(*each(38)) == [], "one GPU shares with nobody"
    assert doubtful(*each(38, 38, alone=True)) == []
    assert doubtful(*each(38, 38, invalid="its output was not verified")) == []
    assert doubtful(*each(38, 38, bench="hbm.triad", case="")) == [], "GPUs do not share their own memory"
    assert doubtful(*each(8, 8, case="pageable")) == [], "it has no floor"


@pytest.mark.parametrize("bench", ["copy.d2h", "overlap.copy"])
def test_what_was_unsteady_at_once_is_in_doubt_after_what_is_too_slow(bench: str) -> None:
    """As on four H200, 2026-11-21, of which two were too slow and the two others unsteady."""
    steady, unsteady = each(55, 55, bench=bench, case="pinned")
    one = replace(unsteady, invalid="unsteady: the samples vary by 13%")
    assert doubtful(steady, one) == [(bench, "gpu1", ("pinned",))]
    assert doubtful(one) == [], "one GPU shares with nobody"


def test_only_cases_in_doubt_are_measured_once_more() -> None:
    small = each(20, 44, 44, case="pinned 16 MiB")
    assert doubtful(*each(38, 55, 55), *small, *each(8, 8, 8, case="pageable")) == [
        ("copy.h2d", "gpu0", ("pinned", "pinned 16 MiB"))
    ]


def test_gpus_of_two_numa_nodes_share_a_host_too() -> None:
    first, second = each(38, 55)
    apart = replace(first, settings={"NUMA node": 0}), replace(second, settings={"NUMA node": 1})
    assert doubtful(*apart) == [("copy.h2d", "gpu0", ("pinned",))]


def test_each_key_of_a_number_shows_how_to_set_it_and_refuses_the_bare_number() -> None:
    keys = [key for key in KEYS.values() if key.name.startswith("bench.") and key.kind is float]
    assert len(keys) > 12
    for key in keys:
        text = f"{key.name}{key.example}"
        ((name, (matcher, _)),) = read_setting(text).values.items()
        assert isinstance(matcher, AtLeast | AtMost)
        case = name.partition("[")[2].rstrip("]")
        assert case in ("", "NAME", "hbm") or judge_of(case.partition(" ")[0]) == key.name
        assert case in ("", "NAME", "hbm") or case.partition(" ")[0] in load_benches()
        with pytest.raises(HostcheckError, match=r"never quite 50; write --set '.*\{ at_") as refused:
            read_setting(f"{name}=50")
        # What it says is right.
        written = str(refused.value).partition("--set '")[2].partition("'")[0]
        assert isinstance(read_setting(written).values[name][0], type(matcher))
    page = "\n".join(explain(load_checks()["bench.storage"]))
    assert "--set 'bench.storage[storage.read random]={ at_least = 500 }'" in page


@pytest.mark.parametrize("page", ["docs/bench.md", "docs/checks.md", "README.md", "CONTRIBUTING.md"])
def test_what_pages_show_of_floors_is_right(page: str) -> None:
    text = (Path(__file__).parents[2] / page).read_text("utf-8")
    names = [name for setting in re.findall(r"--set '(bench\.[^']*)'", text) for name in read_setting(setting).values]
    for block in re.findall(r"```toml\n(# site.toml.*?)```", text, re.DOTALL):
        names += read_layer(block, "site.toml").values
    assert names or not page.startswith("docs")
    for name in names:
        bench = name.partition("[")[2].partition(" ")[0].rstrip("]")
        known = bench in ("", "NAME", "hbm", "crc.one-cpu") or judge_of(bench) == name.partition("[")[0]
        assert known, name


@pytest.mark.parametrize("name", ["bench.memory[gemm.bf16]", "bench.storage[memory.latency]", "bench.memory[triad]"])
def test_a_floor_of_what_another_check_judges_would_never_apply_and_is_refused(name: str) -> None:
    with pytest.raises(HostcheckError, match=r": bench\.\w+ judges only (hbm|storage)\.\*"):
        read_setting(f"{name}={{ at_least = 1 }}")
    for right in ("bench.memory[hbm]", "bench.memory[hbm.triad]", "bench.storage[gds.read]", "bench.alike[gemm]"):
        assert read_setting(f"{right}={{ at_least = 1 }}").values
