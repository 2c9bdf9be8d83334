"""Ctrl-C in the middle of reading shows what is known by then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from hostcheck.cli.audit import command as audit
from hostcheck.cli.collect import command as collect
from hostcheck.snapshot.archive import read_archive
from waiting import until


def test_ctrl_c_ends_with_what_is_known(tmp_path: Path) -> None:
    mark = tmp_path / "asked"
    slow = tmp_path / "dmesg"
    slow.write_text(f"#!/bin/sh\n: >{mark}\nexec sleep 600\n")
    slow.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "NO_COLOR": "1"}
    running = subprocess.Popen(
        [sys.executable, "-P", "-c", "from hostcheck.cli.main import main; main()", "audit", "-v"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    until(mark.exists)
    time.sleep(1)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert "memory.swappiness" in out
    assert "interrupted" in out
    assert subprocess.run(["pgrep", "-f", str(mark)], capture_output=True, check=False).stdout == b""


def interrupt_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = time.sleep

    def interrupted(seconds: float) -> None:
        if seconds > 5:
            raise KeyboardInterrupt
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", interrupted)


def test_ctrl_c_between_the_samples_leaves_growth_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_the_window(monkeypatch)
    words = ["--only", "memory.oom-kills", "--only", "memory.compaction", "--format", "json", "--window", "20"]
    done = CliRunner().invoke(audit, words)
    assert done.exit_code == 130
    assert "hostcheck: interrupted; what had not been read by then is unknown above" in done.stderr
    findings = {result["id"]: result["findings"][0] for result in json.loads(done.stdout)["results"]}
    assert findings["memory.compaction"]["status"] == "unknown"
    assert "interrupted" in findings["memory.compaction"]["summary"]
    assert findings["memory.oom-kills"]["status"] != "pass"


def test_an_interrupted_archive_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    interrupt_the_window(monkeypatch)
    file = tmp_path / "case.tar.gz"
    done = CliRunner().invoke(collect, ["-o", str(file), "--window", "20"])
    assert done.exit_code == 130
    assert "hostcheck: interrupted; what had not been read by then is unknown in it" in done.stderr
    later = read_archive(file).readings["memory.vmstat"].later
    assert later is not None
    assert later.how == "killed: interrupted"
    judged = CliRunner().invoke(audit, ["--from", str(file), "--only", "memory.compaction", "--fail-on", "low"])
    assert judged.exit_code == 3, "the one who judges it was not interrupted"


def test_ctrl_c_while_the_command_is_loaded_is_no_traceback() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, name = project["scripts"]["hostcheck"].partition(":")
    code = f"""
import sys

class Interrupted:
    def find_spec(name, path=None, target=None):
        if name == "click":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted)
from {module} import {name}
{name}()
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
