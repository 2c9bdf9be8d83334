"""Host names in few words: node sets as ClusterShell reads them, whatever a name may hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from hostcheck.render.safe import safe
from hostcheck.render.words import many

# Nothing else can be in a name that is folded: ClusterShell gives a meaning to brackets, commas, "@", "!", "&", "^",
# and refuses numbers that are too long.
_PLAIN = re.compile(r"(?=.{1,253}$)(?!.*[0-9]{10})[A-Za-z0-9_.:-]+")
_CLEAR = re.compile(r"[^\s,\[\]\"]+")
_SETS = re.compile(r"(?:[^,\[]|\[[^\]]*\])+")
"""What stands between the commas outside of brackets."""

NAMES_ITSELF = "Names itself"
"""The line of `Host.facts` that holds the name a host gave itself, where it is not the name by which it is known."""


def fold_hosts(hosts: Iterable[str]) -> list[str]:
    """Return host names as few node sets, in ClusterShell's syntax; a name that has no place in one stands alone.

    Names that could be taken for a node set, or for several names, are in quotation marks.
    """
    return [text for text, _ in _folded(tuple(dict.fromkeys(hosts)))]


@lru_cache(maxsize=512)
def _folded(hosts: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """Return each node set with the number of hosts in it."""
    from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet

    plain = [host for host in hosts if _PLAIN.fullmatch(host)]
    odd = [safe(host) for host in hosts if not _PLAIN.fullmatch(host)]
    sets = _SETS.findall(str(NodeSet.fromlist(plain, resolver=RESOLVER_NOGROUP)))
    return (
        *((each, len(NodeSet(each, resolver=RESOLVER_NOGROUP))) for each in sets),
        *((name if _CLEAR.fullmatch(name) else f'"{name}"', 1) for name in odd),
    )


def hosts_line(hosts: Sequence[str], most: int = 8) -> str:
    """Return the node sets in one line, which ClusterShell reads; the last of too many ranges as a number of hosts."""
    shown: list[str] = []
    told, room = 0, most
    for text, size in _folded(tuple(dict.fromkeys(hosts))):
        ranges = text.count(",") + 1 if size > 1 else 1
        if ranges > room:
            if room and (cut := _cut(text, room)):
                shown.append(cut)
                told += _size(cut)
            break
        shown.append(text)
        told += size
        room -= ranges
    left = len(set(hosts)) - told
    if not left:
        return ", ".join(shown)
    return f"{', '.join(shown)} and {left:,} more" if shown else many(left, "host")


def _cut(folded: str, ranges: int) -> str:
    """Return a node set with its first ranges only; empty if it has more than one dimension."""
    before, bracket, rest = folded.partition("[")
    inner, _, after = rest.partition("]")
    if not bracket or "[" in after:
        return ""
    return f"{before}[{','.join(inner.split(',')[:ranges])}]{after}"


def _size(folded: str) -> int:
    from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet

    return len(NodeSet(folded, resolver=RESOLVER_NOGROUP))


def short_name(name: str) -> str:
    """Return a host's name without user, domain and port; an address stays whole."""
    name = name.rpartition("@")[2].lower()
    if name.count(":") == 1:
        name = name.partition(":")[0]
    numeric = ":" in name or name.replace(".", "").isdigit()
    return name if numeric else name.partition(".")[0]
