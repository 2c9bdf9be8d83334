"""How far a fleet's audit is, for people: one line that changes on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from typing import IO

from hostcheck.fleet.fanout import Tally
from hostcheck.render.safe import clip, safe

_EVERY = 5.0
_REFRESH = 0.1


class Teller:
    """Says how far it is; nothing where all is over before anybody could wonder."""

    def __init__(
        self,
        stream: IO[str],
        *,
        terminal: bool | None = None,
        every: float = _EVERY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Say it on a stream.

        Args:
            stream: usually standard error.
            terminal: whether a line can be written over; None to find out.
            every: seconds between two lines elsewhere.
            clock: seconds.
        """
        self._stream = stream
        self._terminal = (
            stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb") if terminal is None else terminal
        )
        self._every = _REFRESH if self._terminal else every
        self._clock = clock
        self._last = clock()
        self._drawn = False

    def __call__(self, tally: Tally) -> None:
        """Say how far a fan-out is."""
        self._say(lambda: words(tally))

    def judging(self, done: int, total: int) -> None:
        """Say how far the judging is."""
        self._say(lambda: f"{done:,} of {total:,} hosts judged")

    def planning(self, done: int, total: int) -> None:
        """Say how far the planning is."""
        self._say(lambda: f"{done:,} of {total:,} hosts planned")

    def clear(self) -> None:
        """Take the line away from a terminal."""
        if self._drawn:
            self._write("\r\x1b[K")
            self._drawn = False

    def _say(self, text: Callable[[], str]) -> None:
        now = self._clock()
        if now - self._last < self._every:
            return
        self._last = now
        if not self._terminal:
            self._write(f"hostcheck: {text()}\n")
            return
        width = shutil.get_terminal_size().columns - 1
        self._write(f"\r\x1b[K{text()[:width]}")
        self._drawn = True

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            # Nobody listens any more; the audit goes on.
            self._every = float("inf")


def words(tally: Tally) -> str:
    """Return one line that says how far a fan-out is."""
    absent = f", {tally.absent:,} failed to" if tally.absent else ""
    left = tally.total - tally.answered - tally.absent - tally.running
    parts = [f"{tally.answered:,} of {tally.total:,} hosts answered{absent}"]
    if tally.running:
        slowest = f" (slowest: {clip(safe(tally.slowest), 60)}, {tally.seconds:.0f} s)" if tally.slowest else ""
        parts.append(f"{tally.running:,} running{slowest}")
    if left:
        parts.append(f"{left:,} waiting")
    return "; ".join(parts)
