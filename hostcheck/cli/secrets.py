"""Passwords: from a terminal, an environment variable or a file descriptor; never from a command line or a file."""

from __future__ import annotations

import getpass
import os
import warnings
from collections.abc import Callable

from hostcheck.errors import HostcheckError

_LONGEST = 4096


def secret(what: str, ask: bool, variable: str | None, descriptor: int | None) -> Callable[[], str] | None:
    """Return what gives a password, or None where none is offered.

    It is taken at once, so that no thread has to ask, and taken out of the environment, so that no child inherits it.

    Args:
        what: "password" or "become-password", for the options' names.
        ask, variable, descriptor: what the options say; one of them at most.

    Raises:
        HostcheckError: more than one is named, or it is not there.
    """
    if sum((ask, variable is not None, descriptor is not None)) > 1:
        raise HostcheckError(f"--ask-{what}, --{what}-env and --{what}-fd: one of them")
    if ask:
        value = _asked("Password for sudo: " if what.startswith("become") else "Password: ", what)
    elif variable is not None:
        taken = os.environ.pop(variable, None)
        if taken is None:
            raise HostcheckError(f"--{what}-env {variable}: there is no such environment variable")
        value = taken
    elif descriptor is not None:
        value = _read(descriptor, what)
    else:
        return None
    if not value:
        raise HostcheckError(f"the {what.replace('-', ' ')} is empty")
    return lambda: value


def _asked(prompt: str, what: str) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)
            return getpass.getpass(prompt)
    except (getpass.GetPassWarning, EOFError, OSError):
        raise HostcheckError(
            f"--ask-{what} needs a terminal; elsewhere there are --{what}-env and --{what}-fd"
        ) from None


def _read(descriptor: int, what: str) -> str:
    data = b""
    try:
        while b"\n" not in data and len(data) <= _LONGEST:
            piece = os.read(descriptor, _LONGEST)
            if not piece:
                break
            data += piece
        return data.partition(b"\n")[0][:_LONGEST].decode()
    except OSError as problem:
        raise HostcheckError(f"--{what}-fd {descriptor}: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise HostcheckError(f"--{what}-fd {descriptor}: not text (UTF-8)") from None
