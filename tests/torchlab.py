"""A Python with torch for the CPU, apart from the one that runs the tests: scripts/install-test-parts puts it there."""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import hostcheck

HERE = Path(__file__).parent
CONTENT = ("checks", "tuners", "microbench", "reports")
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def python() -> Path:
    """Return the Python that has torch; skip, or fail where nothing may be skipped, if there is none."""
    found = _CACHE / "hostcheck-tests" / "torch"
    if not (found / "ready").exists():
        told = "torch for the CPU is missing: scripts/install-test-parts installs it"
        assert not os.environ.get("CI"), told
        pytest.skip(told)
    return found / "bin" / "python"


@cache
def environment(folder: Path) -> dict[str, str]:
    """Return an environment in which that Python finds the hostcheck under test and these tests, and nothing else.

    Args:
        folder: an empty one, for a tree of links.
    """
    tree = folder / "hostcheck"
    tree.mkdir(parents=True)
    for path in Path(hostcheck.__file__).parent.iterdir():
        (tree / path.name).symlink_to(path)
    for name in CONTENT:
        link = tree / name
        if not link.exists():
            link.symlink_to(next(iter(import_module(f"hostcheck.{name}").__path__)))
    # Threads of two ranks on few cores wait for each other.
    return {**os.environ, "PYTHONPATH": f"{folder}:{HERE}", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def ask(folder: Path, case: str, *words: str, seconds: float = 120) -> Any:
    """Return what a function of torch_cases.py returns in that Python."""
    done = subprocess.run(
        [python(), "-P", HERE / "torch_cases.py", case, *words],
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
