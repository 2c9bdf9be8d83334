"""What is generated from the code is committed as the code has it."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@cache
def generated() -> dict[Path, str]:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "tools" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    files: dict[Path, str] = module.generated()
    return files


@pytest.mark.parametrize(
    "name",
    [
        "hostcheck/run.schema.json",
        "hostcheck/proven.toml",
        "hostcheck/tunable.toml",
        "docs/benchmarks.md",
        "docs/checks.md",
        "docs/commands.md",
        "docs/tuning.md",
    ],
)
def test_it_is_as_the_code_has_it(name: str) -> None:
    assert (ROOT / name).read_text("utf-8") == generated()[ROOT / name], "run `make docs`"
