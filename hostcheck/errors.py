"""The four ways in which something can be missing or wrong; every other exception is a bug of ours."""

from __future__ import annotations

from typing import TypeAlias, TypeVar

T = TypeVar("T")


class HostcheckError(Exception):
    """Something a user can cause and mend; shown as one line, without a traceback, with exit code 2."""


class Unavailable(Exception):
    """A value could not be read: ignorance, never a value of its own.

    Raised by parsers and facts, and stored in the fields of facts that can be missing one by one.

    Attributes:
        why: one line that says what was tried and how it ended.
        probe: id of the probe that is the cause; filled in by the engine where a parser does not know it.
        ending: how that probe ended, such as "timeout"; empty where it ended well and the value was missing in it.
    """

    def __init__(self, why: str, probe: str = "", ending: str = "") -> None:
        super().__init__(why, probe, ending)
        self.why = why
        self.probe = probe
        self.ending = ending

    def __str__(self) -> str:
        return self.why

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.args == getattr(other, "args", None)

    def __hash__(self) -> int:
        return hash((type(self), self.args))


class NotApplicable(Exception):
    """The question does not arise here: the part, the platform or the board has no such thing.

    Attributes:
        why: one line with the reason.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.args == getattr(other, "args", None)

    def __hash__(self) -> int:
        return hash((type(self), self.args))


Maybe: TypeAlias = T | Unavailable | NotApplicable
"""A field that can be missing by itself: the value, or why there is none."""


def need(value: Maybe[T]) -> T:
    """Return the value, or raise the reason why there is none.

    Raises:
        Unavailable: the value could not be read.
        NotApplicable: there is no such thing here.
    """
    if isinstance(value, Unavailable):
        raise Unavailable(value.why, value.probe, value.ending)
    if isinstance(value, NotApplicable):
        raise NotApplicable(value.why)
    return value


def install(extra: str) -> str:
    """Return the command that brings an extra. On PyPI the name hostcheck is another project's."""
    return f"pip install '.[{extra}]' in the checkout of hostcheck"
