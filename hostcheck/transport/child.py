"""The child processes that ~/.ssh/config can ask for: a ProxyCommand, and the test of a `Match exec`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from contextlib import suppress

_GRACE = 0.5
"""Seconds that a proxy gets to go away by itself."""


class Proxy:
    """A running ProxyCommand, whose standard streams are our end of a socket.

    Attributes:
        socket: the connection through it.
    """

    def __init__(self, command: str) -> None:
        """Start it; OSError where there is no shell to do so."""
        self.socket, theirs = socket.socketpair()
        self._errors = os.memfd_create("proxy")
        words = command if command.startswith("exec ") else f"exec {command}"
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", words],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._errors,
                start_new_session=True,
            )
        except OSError:
            self.socket.close()
            os.close(self._errors)
            raise
        finally:
            theirs.close()

    def told(self) -> str:
        """Return the last line of what it wrote on standard error."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)
        written = os.pread(self._errors, 4096, max(0, os.fstat(self._errors).st_size - 4096))
        lines = [line for line in written.decode("utf-8", "replace").splitlines() if line.strip()]
        code = self._process.returncode
        return lines[-1] if lines else f"exit status {code}" if code is not None else "it closed the connection"

    def close(self) -> None:
        """End it and all that it started."""
        self.socket.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.05)
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.returncode is not None:
                break
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE)
        os.close(self._errors)


def holds(command: str) -> bool:
    """Return whether a command of the configuration succeeds; one that takes longer than 10 s does not."""
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
