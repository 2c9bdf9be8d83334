"""The sh programs that change a host and take changes back: a fixed runtime, and one line for each change.

A program is for `sh -s`: it comes whole or does nothing, since its last lines start it, and it goes on in a session of
its own when whoever sent it is gone. Its transactions are kept on the host, in /var/lib/hostcheck/tx/NUMBER, and the
clocks of GPUs that it locked, until the next boot, in /run/hostcheck. What it prints is read by
`hostcheck.tuning.journal`. HOSTCHECK_ROOT, where it is set, stands before every path that it touches.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from shlex import quote

from hostcheck import __version__
from hostcheck.errors import HostcheckError
from hostcheck.snapshot.local import SYSTEM_PATH
from hostcheck.tuning.change import Change, Kind, Plan, Scope
from hostcheck.tuning.kinds import fault

CONFIRM_SECONDS = 60
"""Seconds within which a change that could cut the connection must be confirmed."""

LONGEST_ID = 9
"""Digits of a transaction's number."""


@cache
def runtime() -> str:
    """Return the fixed part of every program: functions that do nothing until the last line calls one."""
    return (files("hostcheck.tuning") / "runtime.sh").read_text("utf-8").replace("@SYSTEM_PATH@", SYSTEM_PATH)


def apply_program(plan: Plan, *, keep_unverified: bool = False, confirm_seconds: int = CONFIRM_SECONDS) -> str:
    """Return the program that applies a plan.

    It changes nothing where another is at work, on another host, in another boot than that of the plan's runtime
    values, or where any value is neither what the plan found nor what it wants. Where a change fails, all are taken
    back.

    Args:
        plan: changes of the kind MANUAL are told in comments alone.
        keep_unverified: where a change fails, take back that one only.
        confirm_seconds: where a change could cut the connection, all are taken back unless `confirm_program` came
            within so many seconds.

    Raises:
        HostcheckError: a change makes no sense, or holds what no program can.
    """
    lines = ["changes() {"]
    for number, change in enumerate(plan.changes, 1):
        lines += [f"    {line}" for line in _lines(number, change)]
    lines += ["    :", "}"]
    runtime_values = any(change.scope is Scope.RUNTIME for change in plan.changes if change.kind is not Kind.MANUAL)
    boot = (plan.boot if runtime_values else "") or "-"
    what = [plan.tool, plan.host, plan.role or "-", plan.machine, boot, str(confirm_seconds)]
    for word in what:
        _sendable(word, "the plan's heading")
    call = " ".join(["apply", *map(quote, what), "rest" if keep_unverified else "all"])
    return _program(f"Changes {_comment(plan.host)} as planned {_comment(plan.made)}", [*lines, "", call])


def rollback_program(transaction: str | None = None, *, changes: Sequence[int] = (), with_newer: bool = False) -> str:
    """Return the program that takes a transaction back, in reverse; what somebody changed since is left alone and told.

    Args:
        transaction: its number; None for the newest that was not taken back.
        changes: numbers of the changes to take back; all if there are none.
        with_newer: take back first the newer transactions that changed the same; else one is named, and nothing is
            done.

    Raises:
        HostcheckError: that is no number of a transaction.
    """
    words = [_number(transaction) if transaction is not None else "last", "newer" if with_newer else "alone"]
    if changes:
        words.append(quote(" ".join(str(int(number)) for number in changes)))
    return _program("Takes changes back", [f"rollback {' '.join(words)}"])


def recover_program() -> str:
    """Return the program that takes back what was begun and not brought to an end, however it was killed."""
    return _program("Takes back what was not brought to an end", ["recover"])


def confirm_program(transaction: str) -> str:
    """Return the program that confirms a transaction which could have cut the connection.

    Raises:
        HostcheckError: that is no number of a transaction.
    """
    return _program("Confirms changes", [f"confirm {_number(transaction)}"])


def history_program() -> str:
    """Return the program that prints the journals of all transactions; it changes nothing."""
    return _program("Prints the journals of all transactions", ["list"])


def _number(transaction: str) -> str:
    if not (transaction.isascii() and transaction.isdigit() and len(transaction) <= LONGEST_ID):
        raise HostcheckError(f"{transaction!r} is no transaction; they are numbers, such as 12")
    return str(int(transaction))


def _program(what: str, lines: Sequence[str]) -> str:
    *before, call = lines
    # Braces that are not closed are no command: a program that was cut short says so, and does nothing.
    body = "\n".join([runtime(), *before, "{", f"    {call}", "}"])
    mark = "end-of-hostcheck"
    while mark in body:
        mark += "-"
    return "\n".join(
        [
            "#!/bin/sh",
            f"# hostcheck {__version__}. {what}.",
            "# In a session of its own where that is possible: it ends what it began, whoever goes away.",
            "session=",
            "command -v setsid >/dev/null 2>&1 && session=setsid",
            f"$session sh -s <<'{mark}'",
            body,
            mark,
            "exit $?",
            "",
        ]
    )


def _lines(number: int, change: Change) -> list[str]:
    """Return the comment that explains a change, and the line that makes it."""
    wrong = fault(change)
    if wrong:
        raise HostcheckError(f"change {number}: {wrong}")
    if change.kind is Kind.MANUAL:
        said = [f"# {number}. By hand: {_comment(change.target)}: {_comment(change.why)}"]
        return [*said, *(f"#    {_comment(command)}" for command in change.commands)]
    lasting = "until the next boot" if change.scope is Scope.RUNTIME else "lasting"
    said = [f"# {number}. {_comment(change.why)}", f"#    {lasting}, {change.risk} risk"]
    if change.source:
        said[-1] += f"; {_comment(change.source)}"
    words = [
        change.target,
        _value(change.before),
        _value(change.after),
        str(change.scope),
        str(change.reload) or "-",
        "cuts" if change.cuts else "-",
        change.tuner or "-",
        ",".join(change.fixes) or "-",
        change.why,
    ]
    for word in words:
        _sendable(word, f"change {number}")
    return [*said, f"change {number} {change.kind} {' '.join(map(quote, words))}"]


def _value(value: str | None) -> str:
    return "-" if value is None else f"={value}"


def _comment(text: str) -> str:
    """Return text as one line, which cannot end a comment."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _sendable(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise HostcheckError(f"{what}: a value holds bytes that are not UTF-8") from None
    if "\0" in text:
        raise HostcheckError(f"{what}: a value holds NUL")
