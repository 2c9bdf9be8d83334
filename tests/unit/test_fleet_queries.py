"""The questions of docs/queries.md, asked of what hostcheck writes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import fleets
import pytest

import runs
from hostcheck.render.fleet import render_fleet

ROOT = Path(__file__).parents[2]


def test_the_documented_questions_are_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    duckdb = pytest.importorskip("duckdb")
    questions = re.findall(r"```sql\n(.*?)```", (ROOT / "docs/queries.md").read_text("utf-8"), re.DOTALL)
    healthy, mixed = fleets.SAMPLES["healthy"](), fleets.mixed()
    monday = fleets.fleet(dict.fromkeys(mixed.runs, healthy.runs["gpu0"]))
    failed = fleets.fleet({name: runs.mixed() for name in list(mixed.runs)[:9]})
    (tmp_path / "monday.jsonl").write_text(render_fleet(monday, "jsonl"))
    (tmp_path / "tuesday.jsonl").write_text(render_fleet(failed, "jsonl"))
    (tmp_path / "tuesday" / "hosts").mkdir(parents=True)
    told = {"name": "gpu01", "reach": "timeout", "why": "", "seconds": 120.0, "attempts": 1, "received": 812}
    (tmp_path / "tuesday" / "hosts" / "gpu01.json").write_text(json.dumps(told))
    monkeypatch.chdir(tmp_path)
    answers = [duckdb.sql(question).fetchall() for question in questions]

    assert len(answers) == 4
    worst, ended, changed, slow = answers
    assert worst[0][2] == 9
    assert ended == [("timeout", 1, 120.0, 812, "gpu01")]
    assert ("gpu01", "gpu.persistence", "pass", "fail", 8) in changed
    assert slow[0][:2] == ("gpu.nvlink", 9)
