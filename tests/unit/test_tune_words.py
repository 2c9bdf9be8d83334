"""The words of `hostcheck tune apply` and `rollback`: plans, hosts, and what is said where there is no terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from hostcheck.cli.tune import command
from hostcheck.cli.tune_apply import _split
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


def test_a_host_may_be_called_like_a_file_and_a_node_set_be_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "node7").write_bytes(b"\x1f\x8b what ssh brought")
    nodes = f"gpu[{','.join(map(str, range(1001, 1200, 2)))}]"
    assert len(nodes) > 255
    assert _split(("node7", nodes, "plan.json")) == (Path("plan.json"), ("node7", nodes))
