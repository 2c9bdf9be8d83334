"""The protocol that every way to reach a host serves: run this program there, give me what it prints."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Reach(StrEnum):
    """How an attempt to run a program on a host ended. Only `ok` gives an output to judge."""

    OK = "ok"
    UNREACHABLE = "unreachable"
    DENIED = "denied"
    HOST_KEY = "host key"
    SHELL = "shell"
    PRIVILEGE = "privilege"
    CUT = "cut"
    TIMEOUT = "timeout"
    TOO_MUCH = "too much"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back from a host.

    Attributes:
        reach: how it ended.
        out: what the program printed, at most as much as was allowed.
        partial: what it had printed where it did not end well: nothing to judge, but a program that alters something
            tells how far it came.
        why: one line for people, where it did not end well: what was tried, and what to do.
        seconds: from the first attempt to the end.
        attempts: how often a connection was tried.
        sent, received: bytes of the channel, for the record.
    """

    reach: Reach
    out: bytes = b""
    partial: bytes = b""
    why: str = ""
    seconds: float = 0.0
    attempts: int = 1
    sent: int = 0
    received: int = 0


class Transport(Protocol):
    """One host, and a way to reach it."""

    @property
    def host(self) -> str:
        """The name by which the user knows the host."""
        ...

    def run(self, program: bytes, *, seconds: float, most: int) -> Answer:
        """Run a sh program (on standard input of `sh -s`) and return what it prints; never raises for a host's fault.

        Args:
            program: the text of the program.
            seconds: limit for all of it, connecting included.
            most: bytes of output above which the host is cut off.
        """
        ...

    def close(self) -> None:
        """Give back what is held; may be called twice."""
        ...
