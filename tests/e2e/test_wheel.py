"""The wheel holds what the tree holds, and puts nothing but hostcheck/ into site-packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "ansible": "hostcheck/ansible",
    "checks": "hostcheck/checks",
    "tuners": "hostcheck/tuners",
    "microbench": "hostcheck/microbench",
    "reports": "hostcheck/reports",
}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    # From a copy, with the setuptools that is here: another may build in the checkout, and there may be no network.
    target, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    for folder in ("hostcheck", *FOLDERS, "benchmarks", "docs", "scripts", "tests", "tools"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, source)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), str(source)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    with zipfile.ZipFile(next(target.glob("*.whl"))) as wheel:
        return set(wheel.namelist())


def tree() -> set[str]:
    kept = {".py", ".toml", ".json", ".j2", ".sh", ".typed", ".yml", ".md", ".c", ".cu", ".cuh"}
    found = set()
    for folder, inside in {"hostcheck": "hostcheck", **FOLDERS}.items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and (path.suffix in kept or path.name == "py.typed") and "__pycache__" not in path.parts:
                found.add(f"{inside}/{path.relative_to(ROOT / folder)}")
    return found


def test_the_wheel_holds_the_tree_and_nothing_else(names: set[str]) -> None:
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == tree()


def test_only_one_package_is_installed(names: set[str]) -> None:
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"hostcheck"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
