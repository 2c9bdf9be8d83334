"""SSH: one connection and one channel for one program; no `ssh` binary, nothing left on the host."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hostcheck.errors import HostcheckError
from hostcheck.transport.base import Answer, Reach
from hostcheck.transport.connect import Link, SshOptions, connect, load_paramiko
from hostcheck.transport.framing import Failed, Stream, one_line

__all__ = ["SshOptions", "SshTransport"]

_PIECE = 64 * 1024
_GLANCE = 0.2
"""Seconds between two looks at standard error while standard output is silent."""
_PAUSE = 0.5
"""Seconds before the first new attempt; doubled for each further one."""


class SshTransport:
    """One host over SSH; serves `hostcheck.transport.base.Transport`."""

    def __init__(
        self,
        target_name: str,
        *,
        address: str = "",
        user: str | None = None,
        port: int | None = None,
        options: SshOptions | None = None,
    ) -> None:
        """Name the host; nothing is connected yet.

        Args:
            target_name: the name by which the user knows it.
            address: what to connect to, and what Host patterns match; by default the name.
            user, port: go before the configuration.
            options: for all hosts of a run.
        """
        self._name = target_name
        self._address = address or target_name
        self._user = user
        self._port = port
        self._options = options or SshOptions()
        self._link: Link | None = None
        self._closed = False

    @property
    def host(self) -> str:
        return self._name

    def run(self, program: bytes, *, seconds: float, most: int) -> Answer:
        begun = time.monotonic()
        session = _Session(self._options, Stream(most), begun + seconds, seconds)
        attempts = 0
        try:
            while True:
                attempts += 1
                try:
                    self._link = connect(self._address, self._user, self._port, self._options, session.deadline)
                    break
                except Failed as problem:
                    pause = _PAUSE * 2 ** (attempts - 1) * random.uniform(0.5, 1.5)  # noqa: S311
                    late = time.monotonic() + pause > session.deadline
                    if not problem.again or attempts > self._options.retries or late or self._closed:
                        raise
                    time.sleep(pause)
            if self._closed:
                raise Failed(Reach.CUT, "interrupted")
            reach, why = session.run(self._link, program)
        except Failed as problem:
            reach, why = problem.reach, problem.why
        finally:
            self._drop()
        if self._closed:
            reach, why = Reach.CUT, "interrupted"
        return Answer(
            reach=reach,
            out=session.stream.out if reach is Reach.OK else b"",
            partial=b"" if reach is Reach.OK else session.stream.out,
            why=why,
            seconds=time.monotonic() - begun,
            attempts=attempts,
            sent=session.sent,
            received=session.stream.received,
        )

    def close(self) -> None:
        self._closed = True
        self._drop()

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()


class _Session:
    """The program's one run over a connection."""

    def __init__(self, options: SshOptions, stream: Stream, deadline: float, seconds: float) -> None:
        self.options = options
        self.stream = stream
        self.deadline = deadline
        self.seconds = seconds
        self.sent = 0

    def left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Failed(Reach.TIMEOUT, f"no complete answer in {self.seconds:g} s, and it was given up")
        return left

    def run(self, link: Link, program: bytes) -> tuple[Reach, str]:
        paramiko = load_paramiko()
        become = self.options.become and link.settings.user != "root"
        password = self.options.become_password if become else None
        try:
            channel = link.transport.open_session(timeout=self.left())
        except paramiko.ChannelException as problem:
            text = one_line(str(problem.text), 80)
            raise Failed(Reach.SHELL, f"it opens no session for {link.settings.user}: {text}") from None
        except (paramiko.SSHException, EOFError, OSError) as problem:
            raise Failed(Reach.CUT, f"the connection broke after the login ({one_line(str(problem), 80)})") from None
        try:
            channel.settimeout(self.left())
            channel.exec_command(command(become, self.stream if password else None))
            if password is None or self._admitted(channel, password):
                self._send(channel, self.stream.opening + program)
            with suppress(OSError, EOFError):
                channel.shutdown_write()
            self._receive(channel)
            code, signal = self._ending(channel, link)
        except HostcheckError as problem:
            raise Failed(Reach.ERROR, one_line(str(problem))) from None
        except (paramiko.SSHException, EOFError, OSError) as problem:
            text = one_line(str(problem) or type(problem).__name__, 80)
            raise Failed(Reach.CUT, f"the connection broke when the program was to start ({text})") from None
        finally:
            # Of a host that never stops sending, nothing more is taken.
            channel.close()
        return self.stream.judge(code, signal=signal, become=become)

    def _send(self, channel: Any, data: bytes) -> None:
        """Send all of it, or as much as somebody reads: a shell that ended says more by its own words."""
        view = memoryview(data)
        while view:
            channel.settimeout(self.left())
            try:
                count = channel.send(view[:_PIECE])
            except TimeoutError:
                continue
            except OSError:
                return
            self.sent += count
            view = view[count:]

    def _admitted(self, channel: Any, password: Callable[[], str]) -> bool:
        """Give sudo the password when, and only when, it asks; return whether a shell runs then."""
        given = False
        while not self.stream.full:
            more = self._glance(channel)
            if self.stream.ready:
                return True
            if self.stream.asked > 1:
                raise Failed(Reach.PRIVILEGE, "sudo did not accept the password")
            if self.stream.asked and not given:
                given = True
                # Not counted: what is told of a run tells nothing of a password.
                channel.settimeout(self.left())
                channel.sendall(password().encode() + b"\n")
            elif not more:
                return False
        return False

    def _glance(self, channel: Any) -> bool:
        """Take what is there, waiting shortly; return whether more can come."""
        channel.settimeout(min(self.left(), _GLANCE))
        try:
            data = channel.recv(_PIECE)
        except TimeoutError:
            data = None
        if data:
            self.stream.feed(data)
        while channel.recv_stderr_ready() and not self.stream.full:
            self.stream.feed_err(channel.recv_stderr(_PIECE))
        return data is None or bool(data)

    def _receive(self, channel: Any) -> None:
        while not self.stream.full and self._glance(channel):
            pass

    def _ending(self, channel: Any, link: Link) -> tuple[int | None, str]:
        """Return the exit status; or, where none came, whether a signal was the cause and not the connection."""
        if self.stream.full:
            return None, ""
        channel.status_event.wait(min(self.left(), 5.0))
        code = channel.exit_status
        if code >= 0:
            return code, ""
        # The thread ends with the connection, but shortly after its channels.
        link.transport.join(0.3)
        return None, "a signal" if link.transport.is_alive() else ""


def command(become: bool, asks: Stream | None = None) -> str:
    """Return what the host is to run; any login shell understands it.

    Args:
        become: as root, through sudo.
        asks: where there is a password to give. sudo then says when it wants it, and the shell when it runs, so that
            a password is never read by anything but sudo.
    """
    if not become:
        return "sh -s"
    if asks is None:
        return "env LC_ALL=C sudo -n sh -s"
    return f"env LC_ALL=C sudo -S -p '{asks.prompt}' sh -c 'echo {asks.sign}; exec sh -s'"
