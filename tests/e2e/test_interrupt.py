"""Ctrl-C in the middle of reading shows what is known by then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def test_ctrl_c_ends_with_what_is_known(tmp_path: Path) -> None:
    mark = tmp_path / "asked"
    slow = tmp_path / "dmesg"
    slow.write_text(f"#!/bin/sh\n: >{mark}\nexec sleep 60\n")
    slow.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "NO_COLOR": "1"}
    running = subprocess.Popen(
        [sys.executable, "-P", "-c", "from hostcheck.cli.main import main; main()", "audit", "-v"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    for _ in range(200):
        if mark.exists():
            break
        time.sleep(0.05)
    time.sleep(1)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=20)
    assert running.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert "memory.swappiness" in out
    assert "interrupted" in out
    assert subprocess.run(["pgrep", "-f", str(mark)], capture_output=True, check=False).stdout == b""
