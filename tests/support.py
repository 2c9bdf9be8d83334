"""What tests share: samples out of docstrings, and snapshots built from plain text."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import Any


def sample(function: Callable[..., Any]) -> str:
    """Return the real sample that a parser's docstring holds after its line "Sample:"."""
    text = inspect.getdoc(function) or ""
    head, found, body = text.partition("Sample:\n")
    assert found, f"{function.__name__} has no sample"
    return textwrap.dedent(body)
