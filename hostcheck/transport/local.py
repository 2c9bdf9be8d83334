"""The program through a child `sh -s` on this host: for tests, and wherever a shell is near."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

from hostcheck.transport.base import Answer, Reach
from hostcheck.transport.framing import Failed, Stream

_PIECE = 64 * 1024
_GRACE = 1.0
"""Seconds that a program gets to remove its folder when it is ended."""


class LocalTransport:
    """A shell here, or what a command makes of one; serves `hostcheck.transport.base.Transport`."""

    def __init__(self, name: str = "localhost", *, argv: Sequence[str] = ("sh", "-s")) -> None:
        """Name the host.

        Args:
            name: the name by which the user knows it.
            argv: a command that reads a sh program from standard input.
        """
        self._name = name
        self._argv = list(argv)
        self._child: subprocess.Popen[bytes] | None = None
        self._closed = False

    @property
    def host(self) -> str:
        return self._name

    def run(self, program: bytes, *, seconds: float, most: int) -> Answer:
        begun = time.monotonic()
        stream = Stream(most)
        sent = 0
        try:
            child = self._start()
            try:
                sent = _converse(child, stream, stream.opening + program, begun + seconds, seconds)
                code = child.wait(max(0.1, begun + seconds - time.monotonic())) if not stream.full else None
            except subprocess.TimeoutExpired:
                raise Failed(Reach.TIMEOUT, _given_up(seconds)) from None
            finally:
                self._stop(child)
            killed = f"signal {-code}" if code is not None and code < 0 else ""
            reach, why = stream.judge(code, signal=killed)
        except Failed as problem:
            reach, why = problem.reach, problem.why
        if self._closed:
            reach, why = Reach.CUT, "interrupted"
        return Answer(
            reach=reach,
            out=stream.out if reach is Reach.OK else b"",
            partial=b"" if reach is Reach.OK else stream.out,
            why=why,
            seconds=time.monotonic() - begun,
            sent=sent,
            received=stream.received,
        )

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            self._child = subprocess.Popen(
                self._argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as problem:
            raise Failed(Reach.SHELL, f"{self._argv[0]} did not start: {problem.strerror}") from None
        return self._child

    def _stop(self, child: subprocess.Popen[bytes]) -> None:
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if child.poll() is not None:
                break
            with suppress(ProcessLookupError):
                os.killpg(child.pid, number)
            with suppress(subprocess.TimeoutExpired):
                child.wait(_GRACE)

    def close(self) -> None:
        self._closed = True
        if self._child is not None and self._child.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGTERM)


def _given_up(seconds: float) -> str:
    return f"no complete answer in {seconds:g} s, and it was given up"


def _converse(child: subprocess.Popen[bytes], stream: Stream, data: bytes, deadline: float, seconds: float) -> int:
    """Write the program and read both streams, side by side; return how many bytes were taken.

    Raises:
        Failed: it took too long.
    """
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    view, sent = memoryview(data), 0
    with selectors.DefaultSelector() as streams:
        for pipe, event in (
            (child.stdin, selectors.EVENT_WRITE),
            (child.stdout, selectors.EVENT_READ),
            (child.stderr, selectors.EVENT_READ),
        ):
            os.set_blocking(pipe.fileno(), False)
            streams.register(pipe, event)
        while len(streams.get_map()) and not stream.full:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Failed(Reach.TIMEOUT, _given_up(seconds))
            for key, _ in streams.select(left):
                if key.fileobj is child.stdin:
                    try:
                        count = os.write(key.fd, view[sent : sent + _PIECE])
                    except BrokenPipeError:
                        count = len(view)
                    sent = min(sent + count, len(view))
                    if sent == len(view):
                        streams.unregister(child.stdin)
                        child.stdin.close()
                    continue
                piece = os.read(key.fd, _PIECE)
                if not piece:
                    streams.unregister(key.fileobj)
                elif key.fileobj is child.stdout:
                    stream.feed(piece)
                else:
                    stream.feed_err(piece)
    return sent
