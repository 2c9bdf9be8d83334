"""Finding the program's output in what a host prints, within limits, and saying in one line how it ended.

A login shell may print before `sh -s` starts (a .bashrc that echoes), and a hostile or broken host may print anything.
So the program is preceded by one line that prints a marker which nobody could know; what comes before it is noise.
"""

from __future__ import annotations

import re
import secrets

from hostcheck.render.safe import clip, safe
from hostcheck.transport.base import Reach

MIB = 1024 * 1024
KEPT = 4096
"""Bytes kept of each stream that is only needed to say why: noise, and the first and the last of the errors."""


class Failed(Exception):
    """An attempt that ended before there was an output.

    Attributes:
        reach: how it ended.
        why: one line, with what to do.
        again: whether another attempt could end otherwise.
    """

    def __init__(self, reach: Reach, why: str, *, again: bool = False) -> None:
        super().__init__(reach, why)
        self.reach = reach
        self.why = why
        self.again = again


class Stream:
    """What came back, cut at a limit.

    Attributes:
        most: bytes of both streams together above which the host is cut off.
        received: bytes so far.
        found: whether the program has begun to print.
        opening: the line of sh to send before the program.
        prompt, sign: what sudo is to write when it wants a password, and a shell to print before it reads anything.
        asked: how often sudo wanted a password.
        ready: whether that shell has said so.
    """

    def __init__(self, most: int) -> None:
        nonce = secrets.token_hex(8)
        # An echo of this line is not the marker: the two halves meet only where a shell has read it.
        self.opening = f'echo "hostcheck-""{nonce}"\n'.encode()
        self._marker = f"hostcheck-{nonce}\n".encode()
        self.prompt = f"{nonce}:"
        self.sign = f"{nonce}-shell"
        self.most = most
        self.received = 0
        self.found = False
        self.asked = 0
        self.ready = False
        self._before = b""
        self._noise = b""
        self._out: list[bytes] = []
        self._held = b""
        self._err = b""
        self._last = b""

    @property
    def full(self) -> bool:
        """Whether more came than is allowed."""
        return self.received > self.most

    @property
    def out(self) -> bytes:
        """What the program printed."""
        return b"".join(self._out)

    def feed(self, data: bytes) -> None:
        """Take a piece of standard output."""
        self.received += len(data)
        if self.found:
            self._out.append(data)
            return
        self._before += data
        self.ready |= f"{self.sign}\n".encode() in self._before
        noise, marker, rest = self._before.partition(self._marker)
        if marker:
            self.found = True
            self._out.append(rest)
            self._before = b""
        else:
            keep = len(self._marker) - 1
            noise, self._before = self._before[:-keep], self._before[-keep:]
        self._noise = (self._noise + noise)[:KEPT]

    def feed_err(self, data: bytes) -> None:
        """Take a piece of standard error."""
        self.received += len(data)
        prompt = self.prompt.encode()
        data = self._held + data
        self.asked += data.count(prompt)
        data = data.replace(prompt, b"")
        # The beginning of a prompt may be the end of this piece.
        cut = next((size for size in range(len(prompt) - 1, 0, -1) if data.endswith(prompt[:size])), 0)
        data, self._held = data[: len(data) - cut], data[len(data) - cut :]
        room = KEPT - len(self._err)
        self._err += data[:room]
        self._last = (self._last + data[room:])[-KEPT:] if room < len(data) else self._last

    @property
    def errors(self) -> str:
        """Standard error, its middle left out if it is long."""
        return (self._err + self._last + self._held).decode("utf-8", "replace")

    @property
    def noise(self) -> str:
        """The beginning of what came on standard output and was not the program's."""
        return (self._noise + self._before)[:KEPT].decode("utf-8", "replace")

    def judge(self, code: int | None, *, signal: str = "", become: bool = False) -> tuple[Reach, str]:
        """Return how a run ended that neither took too long nor printed too much, and why.

        Args:
            code: exit status; None where none came.
            signal: name of the signal that ended it, if one did.
            become: whether sudo stood between.
        """
        if self.full:
            return Reach.TOO_MUCH, too_much(self.most)
        if signal or (code is not None and code > 128 and self.found):
            return Reach.CUT, f"the program was killed on the host ({signal or f'exit status {code}'})"
        if code is None:
            state = "before sh answered" if not self.found else f"after {self.received:,} bytes"
            return Reach.CUT, f"the connection broke {state}; the host may be rebooting"
        if not self.found:
            return self._no_shell(code, become=become)
        said = own_line(self.errors)
        if code or not any(self._out):
            return Reach.ERROR, said or f"the program ended with exit status {code}{self._told()}"
        return Reach.OK, ""

    def _no_shell(self, code: int, *, become: bool) -> tuple[Reach, str]:
        if become and (refusal := no_sudo(self.errors)):
            return Reach.PRIVILEGE, refusal
        if code == 0:
            return Reach.SHELL, f"something other than sh answered (a forced command?){self._told()}"
        return Reach.SHELL, f"`sh -s` did not start (exit status {code}){self._told()}; the account needs a shell"

    def _told(self) -> str:
        """Return what the host had to say, if anything, for the end of a line."""
        for text in (self.errors, self.noise):
            if lines := [line for line in text.splitlines() if line.strip()]:
                return f": {one_line(lines[-1])}"
        return ""


def too_much(most: int) -> str:
    """Return the line for a host that was cut off because it did not stop sending."""
    return (
        f"it sent more than {most / MIB:,.0f} MiB and was cut off"
        if most >= MIB
        else (f"it sent more than {most:,} bytes and was cut off")
    )


def one_line(text: str, most: int = 240) -> str:
    """Return text of a host as one short line that cannot act on a terminal."""
    return clip(safe(" ".join(text.split())), most)


def own_line(errors: str) -> str:
    """Return the complaint of the program itself, if there is one."""
    found = re.findall(r"^hostcheck: (.+)$", errors, re.MULTILINE)
    return one_line(found[-1]) if found else ""


def no_sudo(errors: str) -> str:
    """Return why sudo did not let us, and what to do; empty if sudo had no part in it."""
    if "sudo" not in errors and "tty" not in errors:
        return ""
    for sign, why in _SUDO:
        for line in errors.splitlines():
            if re.search(sign, line, re.IGNORECASE):
                return why.replace("{line}", one_line(line))
    return ""


_SUDO = (
    (r"must have a tty|no tty present", "sudo wants a terminal (Defaults requiretty), and programs have none: add "
     "`Defaults:USER !requiretty` with visudo, or connect as root"),
    (r"sorry, try again|incorrect password|no password was provided", "sudo did not accept the password"),
    (r"password is required|terminal is required|no askpass", "sudo wants a password: give one "
     "(--ask-become-password), or allow this user NOPASSWD with visudo"),
    (r"not in the sudoers file|not allowed to (execute|run)|may not run sudo", "sudo refused: {line}"),
    (r"sudo: (command )?not found|no such file or directory|unknown command", "sudo is not installed there: connect "
     "as root, or install it"),
    (r"sudo", "sudo refused: {line}"),
)  # fmt: skip
