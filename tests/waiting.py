"""Waiting in tests: for what happens, and never for a time that a busy machine could need."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LONG = 120.0
"""Seconds after which what was waited for will not happen any more."""


def until(holds: Callable[[], T], seconds: float = LONG) -> T:
    """Return what `holds` returns once that is true; fail where it is not in time."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {found!r}"
        time.sleep(0.02)
    return found
