"""Archives that came by another way are filed as the answers of hosts, and compared with what else is there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from fleets import equals, written

from hostcheck.bench.model import Measurement, Session
from hostcheck.bench.session import with_results
from hostcheck.cli.fleet import command
from hostcheck.errors import HostcheckError
from hostcheck.facts.base import Facts
from hostcheck.fleet.outliers import measures


def measured(value: float) -> Session:
    triad = Measurement(bench="hbm.triad", subject="gpu0", unit="GB/s", value=value, verified=True)
    return Session(tool="t", taken="", level="quick", measurements=(triad,))


def test_collectives_of_fewer_gpus_are_another_measure() -> None:
    ring = Measurement(
        bench="nccl.all-reduce", case="1 GiB", subject="gpu[0-3]", unit="GB/s", value=330.0, verified=True
    )
    found = [
        measures(Facts(with_results(equals(1)["gpu01"], replace(measured(1.0), measurements=(each,)))))
        for each in (replace(ring, settings={"ranks": 4}), replace(ring, settings={"ranks": 8}))
    ]
    assert [name for each in found for name in each if name.startswith("bench")] == [
        "bench nccl.all-reduce 1 GiB of 4, GB/s", "bench nccl.all-reduce 1 GiB of 8, GB/s",
    ]  # fmt: skip


def archives(folder: Path) -> list[str]:
    hosts = {name: with_results(each, measured(4370.0)) for name, each in equals(7).items()}
    hosts["gpu03"] = with_results(hosts["gpu03"], measured(3000.0))
    return [f"{name}={path}" for name, path in written(folder, hosts)]


def add(*arguments: object) -> None:
    CliRunner().invoke(command, ["add", *map(str, arguments)], catch_exceptions=False)


def test_what_is_filed_is_compared(tmp_path: Path) -> None:
    first, *others = archives(tmp_path)
    add(tmp_path / "run", first)
    add(tmp_path / "run", *others)
    shown = CliRunner().invoke(command, ["show", str(tmp_path / "run"), "--only", "platform", "--format", "json"])
    fleet = json.loads(shown.stdout)
    assert len(fleet["runs"]) == 7
    (outlier,) = fleet["outliers"]
    assert (outlier["host"], outlier["measure"], outlier["value"]) == ("gpu03", "bench hbm.triad, GB/s", 3000.0)


def test_nothing_is_filed_where_one_of_them_is_wrong(tmp_path: Path) -> None:
    first, second, *_ = archives(tmp_path)
    (tmp_path / "text").write_text("no archive")
    for wrong, says in (
        (f"gpu09={tmp_path / 'text'}", "text: "), ("gpu09", "NAME=FILE is needed"), (first, "gpu01 was given twice"),
        (f"gpu09={tmp_path / 'none'}", "none: "), (f"gpu[1-2]={tmp_path / 'text'}", "one host is needed here, not 2"),
        (f"../x={tmp_path / 'text'}", "'../x' is no host name"), (f"a b={tmp_path / 'text'}", "has no place in a host"),
    ):  # fmt: skip
        with pytest.raises(HostcheckError, match=says):
            add(tmp_path / "run", first, wrong)
        assert not (tmp_path / "run").exists()
    with pytest.raises(HostcheckError, match="text: not a directory"):
        add(tmp_path / "text", first)
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").touch()
    with pytest.raises(HostcheckError, match="not a run directory"):
        add(other, second)


def test_one_host_is_not_shown_as_lines_for_many(tmp_path: Path) -> None:
    add(tmp_path / "run", *archives(tmp_path)[:1])
    words = ["show", str(tmp_path / "run"), "--host", "gpu01", "--format", "jsonl"]
    with pytest.raises(HostcheckError, match="one host is shown as text, json, md, html, not as jsonl"):
        CliRunner().invoke(command, words, catch_exceptions=False)
