"""Names of hosts as ssh writes and matches them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

from hostcheck.errors import HostcheckError


def matches(text: str, patterns: Sequence[str]) -> bool:
    """Return whether one of ssh's patterns matches, and none that is negated does."""
    found = False
    for pattern in patterns:
        if like(text, pattern.removeprefix("!")):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def like(text: str, pattern: str) -> bool:
    """Return whether one pattern of `*` and `?` matches; brackets stand for themselves."""
    return fnmatch.fnmatchcase(text, pattern.replace("[", "[[]"))


def known_name(hostname: str, port: int) -> str:
    """Return the name under which known_hosts has a host."""
    name = hostname.lower()
    return name if port == 22 else f"[{name}]:{port}"


def parse_hop(text: str) -> tuple[str, str | None, int | None]:
    """Return host, user and port of `[user@]host[:port]` or of an ssh:// address.

    Raises:
        HostcheckError: it is not of that form.
    """
    match = re.fullmatch(r"(?:ssh://)?(?:([^@]+)@)?(?:\[([^]]+)\]|([^:@/\s]+))(?::(\d{1,5}))?/?", text)
    if not match:
        raise HostcheckError(f"ProxyJump {text!r}: not of the form user@host:port")
    return match[2] or match[3], match[1], int(match[4]) if match[4] else None
