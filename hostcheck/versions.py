"""Comparing versions by their numbers."""

from __future__ import annotations

import re


def version_key(text: str) -> tuple[int, ...]:
    """Return the leading dotted numbers of a version, so that versions can be compared; empty if there are none."""
    found = re.match(r"\D{0,8}?(\d+(?:\.\d+)*)", text.strip())
    return tuple(int(part) for part in found[1].split(".")[:6]) if found else ()
