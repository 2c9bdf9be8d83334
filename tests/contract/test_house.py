"""Who may import whom; what is loaded when; and that checks cannot read a host."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTENT = ("checks", "tuners", "microbench", "reports")
PURE = {
    "__future__", "collections", "dataclasses", "functools", "itertools", "math", "re", "statistics", "typing", "enum",
    "operator", "fractions", "datetime", "string", "textwrap", "bisect", "heapq", "decimal",
}  # fmt: skip
HEAVY = ("torch", "cuda", "kubernetes", "paramiko", "pynvml", "rich", "jinja2", "msgspec", "psutil", "ClusterShell")


def imports(path: Path) -> set[str]:
    """Return the absolute names that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return found


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", sources("checks"), ids=lambda path: path.name)
def test_a_check_cannot_read_a_host(path: Path) -> None:
    foreign = {name for name in imports(path) if name.split(".")[0] not in PURE | {"hostcheck"}}
    assert not foreign
    assert not {name for name in imports(path) if name.startswith("hostcheck.snapshot.local")}
    called = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"open", "eval", "exec", "__import__", "compile"}


@pytest.mark.parametrize("path", sources("hostcheck"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_engine_names_no_content(path: Path) -> None:
    for name in imports(path):
        assert not name.startswith(tuple(f"hostcheck.{folder}" for folder in CONTENT)), name
        assert name.split(".")[0] not in CONTENT, name
    if path == ROOT / "hostcheck/model.py":
        assert not {name for name in imports(path) if name.startswith("hostcheck")}
    if "facts" in path.parts:
        words = ("bench.model", "errors", "facts", "snapshot.probes", "snapshot.reading", "versions")
        allowed = tuple(f"hostcheck.{name}" for name in words)
        assert all(name.startswith(allowed) for name in imports(path) if name.startswith("hostcheck"))


def test_content_folders_stay_flat() -> None:
    for folder in CONTENT:
        assert not [path for path in (ROOT / folder).iterdir() if path.is_dir() and path.name != "__pycache__"]


def loaded(*arguments: str) -> set[str]:
    code = (
        "import sys; sys.argv = ['hostcheck', *sys.argv[1:]]\n"
        "from hostcheck.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print('LOADED', *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(done.stdout.split("LOADED")[-1].split())


def test_help_loads_nothing_heavy() -> None:
    assert not loaded("--help") & set(HEAVY)


def test_an_audit_loads_only_what_it_shows() -> None:
    heavy = loaded("audit", "--only", "memory.swappiness", "--format", "json") & set(HEAVY)
    assert heavy <= {"msgspec"}


def test_child_processes_are_started_only_where_they_belong() -> None:
    allowed = {
        "hostcheck/bench/process.py",
        "hostcheck/snapshot/local.py",
        "hostcheck/transport/child.py",
        "hostcheck/transport/local.py",
        "hostcheck/fleet/ansible.py",
    }
    for path in sources("hostcheck") + sources("checks"):
        if "subprocess" in imports(path):
            assert str(path.relative_to(ROOT)) in allowed
