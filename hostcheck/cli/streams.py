"""The standard streams of the process, as a shell, a service manager or a pipe left them."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def open_missing() -> None:
    """Open /dev/null for each standard stream that is closed (`2>&-`), so that no other file takes its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8", errors="replace")  # noqa: SIM115 # for good
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
