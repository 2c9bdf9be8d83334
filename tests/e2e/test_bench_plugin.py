"""The benchmark of docs/bench.md, taken from the page and installed as the page says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "bench.md").read_text("utf-8")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a folder for sys.path with the module of the page, and what pip makes of its pyproject.toml."""
    part = PAGE.partition("## Benchmarks of your own")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", part, re.DOTALL)
    (project,) = re.findall(r"```toml\n(.*?)```", part, re.DOTALL)
    table = tomllib.loads(project)["project"]
    info = tmp_path / "acme_bench-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {table['name']}\nVersion: {table['version']}\n")
    lines = [
        line
        for group, points in table["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "acme_bench.py").write_text(code)
    return tmp_path


def hostcheck(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "hostcheck", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environ, cwd=site, timeout=120, check=False)


def measured(site: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = hostcheck(site, "bench", "crc.one-cpu", "--save", "kept.tar.gz", "--format", "json", *arguments)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_the_benchmark_of_the_page_measures_and_is_judged(site: Path) -> None:
    page = hostcheck(site, "bench", "explain", "crc.one-cpu")
    assert "One CPU makes CRC-32 checksums at this rate." in page.stdout, page.stderr
    (least,) = re.findall(r"--set '(bench\.other\[crc\.one-cpu\]=[^']*)'", PAGE)
    _, run = measured(site, "--set", least)
    (figure,) = run["measured"]
    assert figure["verified"]
    assert (figure["bench"], figure["unit"], figure["settings"]["bytes"]) == ("crc.one-cpu", "GB/s", 1 << 20)
    assert figure["value"] > 0.01
    # A machine that is busy makes it unsteady, which is unknown; nothing else may be wrong with it.
    assert figure["invalid"].startswith("unsteady") or not figure["invalid"]
    code, run = measured(site, "--set", "bench.other[crc.one-cpu]={ at_least = 1000000 }")
    (result,) = (result for result in run["results"] if result["id"] == "bench.other")
    if not run["measured"][0]["invalid"]:
        assert (code, result["status"]) == (1, "fail")
        assert result["findings"][0]["expected"]["text"] == "at least 1,000,000 GB/s"


@pytest.mark.parametrize(
    ("was", "becomes"), [("verified=sums == {_SUM},", ""), ("0x04D0E435", "0x04D0E436")], ids=["unsaid", "wrong"]
)
def test_without_a_verified_output_there_is_no_number(site: Path, was: str, becomes: str) -> None:
    module = site / "acme_bench.py"
    code = module.read_text()
    assert was in code
    module.write_text(code.replace(was, becomes))
    status, run = measured(site)
    (figure,) = run["measured"]
    assert (status, figure["invalid"], figure["verified"]) == (3, "its output was not verified", False)
    assert figure["invalid"] in PAGE
