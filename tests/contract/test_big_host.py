"""A host of fleet shape is read by at most one process per probe, whole, and judged without an error."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from big_host import build
from hostcheck.audit import judge
from hostcheck.checklist import Checklist
from hostcheck.snapshot.local import collect
from hostcheck.snapshot.program import program
from hostcheck.snapshot.reading import Ending
from support import every_probe


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("big"))


def test_nothing_is_cut_and_nothing_is_an_error(tree: Path) -> None:
    # The host is as large as they come, and this machine may be busy: the probes' own limits are not what is tested.
    snapshot = collect([replace(probe, seconds=60) for probe in every_probe()], root=str(tree))
    for id, reading in snapshot.readings.items():
        assert reading.ending in (Ending.OK, Ending.NOT_COLLECTED), (id, reading.how)
        assert not [path for path, state in reading.files.items() if state.ending is Ending.TRUNCATED], id
    run = judge(snapshot, Checklist())
    assert not [(result.id, result.traceback) for result in run.results if result.status == "error"]
    assert sum(result.status == "pass" for result in run.results) >= 10


def test_one_process_a_probe() -> None:
    """Each probe appears once as a command in the program (and once more where it is read twice)."""
    text = program(every_probe())
    starts = re.findall(r"^\s*(files|entries|tool) (\S+)", text, re.M)
    ids = [id for _, id in starts if not id.endswith("/2")]
    assert len(ids) == len(set(ids))
    assert set(ids) <= {probe.id for probe in every_probe()}
