"""The standard streams of the process, as a shell, a service manager or a pipe left them."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from pathlib import Path
from typing import Any

from hostcheck.errors import HostcheckError


class _Patient(io.FileIO):
    """A stream whose reader may go away (`hostcheck list | head`, a terminal), or whose disk may be full.

    What is left goes to /dev/null; a full disk is told as one.
    """

    def write(self, data: Any, /) -> Any:
        try:
            return super().write(data)
        except OSError as problem:
            hung_up = problem.errno == errno.EIO and stat.S_ISCHR(os.fstat(self.fileno()).st_mode)
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if not (hung_up or problem.errno == errno.EPIPE):
                raise HostcheckError(f"what is printed cannot be written: {problem.strerror}") from None
            return super().write(data)


def mend() -> None:
    """Let a stream that is closed, or whose reader goes away, change neither what a command does nor its exit code.

    /dev/null stands in for one that is closed (`2>&-`), so that no other file takes its number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8", errors="replace")  # noqa: SIM115 # for good
            os.set_inheritable(stream.fileno(), True)
        elif mode == "w":
            stream = io.TextIOWrapper(
                io.BufferedWriter(_Patient(stream.fileno(), "w", closefd=False)),
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering,
            )
        setattr(sys, name, stream)
