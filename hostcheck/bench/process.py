"""A child process that measures, as its parent holds it: pipes, what it printed, and its end."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec

from hostcheck.bench.wire import LONGEST, Begin, Event, Order, Plan, Ready

GOING = 2.0
"""Seconds that a killed child gets to go away before it is left behind."""
LOUDEST = 16 * 2**20
"""Bytes that a child and what it loads may print; of twice as much nothing is kept, so that memory has a bound."""
TOO_LOUD = f"printed more than {LOUDEST >> 20} MiB"
_ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT


class Child:
    """A child process, and our ends of its pipes."""

    def __init__(self, plan: Plan, environment: Mapping[str, str], launcher: Sequence[str]) -> None:
        self.plan = plan
        self.ready: Ready | None = None
        self.working = False
        self.mute = False
        self.garbled = False
        self.deadline = 0.0
        self.heard = 0.0
        self._buffer = b""
        self._decoder = msgspec.json.Decoder(Event)
        self._log = os.memfd_create("bench", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._log, 2 * LOUDEST)
        fcntl.fcntl(self._log, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
        self.fd, theirs = os.pipe()
        os.set_blocking(self.fd, False)
        try:
            self.process = subprocess.Popen(
                [*launcher, str(theirs)],
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=self._log,
                env={**environment},
                pass_fds=(theirs,),
                start_new_session=True,
            )
        except OSError:
            os.close(self.fd)
            os.close(self._log)
            raise
        finally:
            os.close(theirs)
        self._send(plan)

    def _send(self, what: Plan | Begin | Order) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(msgspec.json.encode(what) + b"\n")
            self.process.stdin.flush()

    def begin(self, seconds: float) -> None:
        """Let it use its devices, and give it so long to be up."""
        self._give(seconds)
        self._send(Begin())

    def order(self, order: Order, seconds: float) -> None:
        """Let it run a benchmark, and give it so long to answer."""
        self.working = True
        self._give(seconds)
        self._send(order)

    def _give(self, seconds: float) -> None:
        self.heard = time.monotonic()
        self.deadline = self.heard + seconds

    def answered(self, seconds: float) -> None:
        """Give it so long for its next answer, at least."""
        self.heard = time.monotonic()
        self.deadline = max(self.deadline, self.heard + seconds)

    def silent(self) -> float:
        """Return the seconds since it was told what to do, or has answered."""
        return time.monotonic() - self.heard

    def events(self) -> list[Event]:
        """Return what it has said since; mute: it can say no more, garbled: it said what is no event."""
        while not self.mute:
            try:
                piece = os.read(self.fd, 1 << 16)
            except BlockingIOError:
                break
            self._buffer += piece
            self.garbled = len(self._buffer) > LONGEST
            self.mute = not piece or self.garbled
        *lines, self._buffer = self._buffer.split(b"\n")
        found: list[Event] = []
        for line in lines:
            try:
                found.append(self._decoder.decode(line))
            except msgspec.MsgspecError:
                self.mute = self.garbled = True
                break
        return found

    def end(self, seconds: float) -> bool:
        """Let it go, kill it if it does not, and in any case what it started; return whether it is gone."""
        with suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        until = time.monotonic() + seconds
        # As long as nobody has waited for it, its number is its group's, whoever else of that is left.
        while time.monotonic() < until and not os.waitid(os.P_PID, self.process.pid, _ENDED):
            time.sleep(0.005)
        return self.kill()

    def kill(self) -> bool:
        """Kill it and what it started; return whether it is gone."""
        with suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(GOING)
        if self.process.returncode is not None:
            return True
        # Without a return code, Popen would warn about it and try to reap it at exit.
        self.process.returncode = -signal.SIGKILL
        return False

    def printed(self) -> int:
        """Return how many bytes it has printed; it writes at the same place of the same file as we hold."""
        return os.lseek(self._log, 0, os.SEEK_CUR)

    def how(self) -> str:
        """Say how it ended, with the last that it or a library wrote."""
        if self.printed() >= LOUDEST:
            return TOO_LOUD
        code = self.process.returncode
        words = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit status {code}"
        size = self.printed()
        tail = os.pread(self._log, min(4096, size), max(0, size - 4096)).decode("utf-8", "replace")
        lines = [line.strip() for line in tail.splitlines() if line.strip()]
        return f"{words}: {lines[-1][:200]}" if lines else words

    def close(self) -> None:
        """Give back the descriptors."""
        with suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        os.close(self.fd)
        os.close(self._log)
