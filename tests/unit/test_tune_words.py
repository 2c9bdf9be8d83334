"""The words of `hostcheck tune apply` and `rollback`: plans, hosts, and what is said where there is no terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from hostcheck.cli.tune import command
from hostcheck.errors import HostcheckError


def tune(*words: str) -> None:
    CliRunner().invoke(command, words, catch_exceptions=False)


def test_a_file_is_not_taken_for_a_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "planfile").write_text("{}")
    for yes in ((), ("--yes",)):
        with pytest.raises(HostcheckError, match=r"^planfile is a file here: write \./planfile$"):
            tune("apply", "planfile", *yes)
    with pytest.raises(HostcheckError, match=r"^planfile: not a plan"):
        tune("apply", "./planfile", "--yes")
