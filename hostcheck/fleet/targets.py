"""Which hosts: node sets, groups, addresses, files, standard input and inventories in, folded `Target`s out."""

from __future__ import annotations

import ipaddress
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from hostcheck.errors import HostcheckError

MOST = 100_000
"""Hosts of one run, at most: a slip such as gpu[1-10000000] must not fill the memory."""
_FILE = 16 * 1024 * 1024
_SHOWN = 80

# What a shell, a ProxyCommand or a group source could act upon has no place in the name of a host or a user.
_WORD = re.compile(r"[A-Za-z0-9._\-\[\],:/@*?!&^=%+\\~]+")
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]|\.(?!\.)){0,252}")
_USER = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@+=\\~-]*")
_GROUP = re.compile(r"@(?:[A-Za-z0-9_][\w.-]*:)?(?:\*|[A-Za-z0-9_][A-Za-z0-9_.=-]*(?:\[[0-9,/-]+\][A-Za-z0-9_.=-]*)*)")
_RANGES = re.compile(r"\[([^]]*)\]")
_OUTSIDE = re.compile(r"\[[^]]*\]")


@dataclass(frozen=True, slots=True)
class Target:
    """One host to be reached.

    Attributes:
        name: as the user knows it, and as every output calls it: the host, and the port where one was named.
        address: what is connected to: a host name, an alias of the SSH configuration, or an IP address.
        user, port: as named; None leaves them to the SSH configuration.
        groups: the groups that brought it here.
        variables: what an inventory says of it, never a password.
    """

    name: str
    address: str
    user: str | None = None
    port: int | None = None
    groups: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict, hash=False)


def read_targets(
    words: Sequence[str],
    *,
    files: Sequence[Path] = (),
    inventory: Path | None = None,
    limit: str | None = None,
    stdin: IO[str] | None = None,
    connect: bool = True,
) -> tuple[Target, ...]:
    """Return the hosts that are named, each once, in the order in which they are named first.

    Args:
        words: node sets such as gpu[01-64,70], with or without user@ and :port; [IPv6]; @group; - for standard input.
        files: files of such words, with # comments; - is standard input.
        inventory: an Ansible inventory, in place of words and files.
        limit: a host pattern of Ansible for the inventory.
        stdin: where - reads.
        connect: whether hostcheck itself will connect; else an inventory's addresses and users are left alone.

    Raises:
        HostcheckError: one line that names the word and what is wrong with it.
    """
    if inventory is not None:
        if words or files:
            raise HostcheckError(
                "hosts come from the inventory or are named, not both; --limit picks from an inventory"
            )
        from hostcheck.fleet.ansible import read_inventory

        return fold(read_inventory(inventory, limit, connect=connect))
    if limit is not None:
        raise HostcheckError("--limit picks hosts of an inventory: -i is missing")
    found: list[Target] = []
    for origin, word in _words(words, files, stdin):
        try:
            found += parse_word(word)
        except HostcheckError as problem:
            raise HostcheckError(f"{origin}{problem}") from None
        if len(found) > 2 * MOST:
            break
    if not found:
        raise HostcheckError("no host is named")
    return fold(found)


def fold(targets: Iterable[Target]) -> tuple[Target, ...]:
    """Return each host once; what one naming leaves open, another may fill in.

    Raises:
        HostcheckError: two namings contradict each other, or there are too many hosts.
    """
    known: dict[str, Target] = {}
    for target in targets:
        first = known.get(target.name)
        if first is None:
            known[target.name] = target
            continue
        if first.address != target.address or first.port != target.port:
            raise HostcheckError(f"{_show(target.name)} is named twice, with different addresses")
        if None not in (first.user, target.user) and first.user != target.user:
            raise HostcheckError(f"{_show(target.name)} is named twice, as {first.user}@ and as {target.user}@")
        groups = tuple(dict.fromkeys((*first.groups, *target.groups)))
        known[target.name] = replace(first, user=first.user or target.user, groups=groups)
    if len(known) > MOST:
        raise HostcheckError(f"more than {MOST:,} hosts: split them into several runs")
    return tuple(known.values())


def _words(words: Sequence[str], files: Sequence[Path], stdin: IO[str] | None) -> Iterator[tuple[str, str]]:
    """Yield each word with where it stands, for a complaint."""
    for path in (*(Path("-") for word in words if word == "-"), *files):
        where = "standard input" if path == Path("-") else str(path)
        for number, line in enumerate(_read(path, where, stdin).splitlines(), start=1):
            for word in line.partition("#")[0].split():
                if word == "-":
                    raise HostcheckError(f"{where}, line {number}: - is for the command line")
                yield f"{where}, line {number}: ", word
    yield from (("", word) for word in words if word != "-")


def _read(path: Path, where: str, stdin: IO[str] | None) -> str:
    try:
        if path == Path("-"):
            text = (stdin or sys.stdin).read(_FILE + 1)
        else:
            with path.open(encoding="utf-8") as opened:
                text = opened.read(_FILE + 1)
    except OSError as problem:
        raise HostcheckError(f"{where}: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise HostcheckError(f"{where}: not a text file (UTF-8)") from None
    if len(text) > _FILE:
        raise HostcheckError(f"{where}: larger than {_FILE // (1024 * 1024)} MiB, which no list of hosts is")
    return text


def parse_word(word: str) -> list[Target]:
    """Return the hosts that one word names.

    Raises:
        HostcheckError: one line that names the word and what is wrong with it.
    """
    if not _WORD.fullmatch(word):
        odd = next((character for character in word if not _WORD.fullmatch(character)), "")
        raise HostcheckError(f"{_show(word)}: {odd!a} has no place in a host's name" if odd else "an empty word")
    outside = _OUTSIDE.sub("", word)
    if set(outside) & set("!&^*?"):
        # An operation on sets: the whole of it is ClusterShell's. Its members have no user or port.
        return _members(word)
    return [target for item in _split(word) for target in _item(item, word)]


def parse_name(word: str) -> str:
    """Return the name of the one host that a word names.

    Raises:
        HostcheckError: it names none or several.
    """
    named = parse_word(word)
    if len(named) != 1:
        raise HostcheckError(f"{_show(word)}: one host is needed here, not {len(named):,}")
    return named[0].name


def _members(word: str) -> list[Target]:
    """Return the hosts of an expression with groups, each with those of its groups that it is in."""
    names = _expand(word)
    # Each group is asked for by itself: one that is empty, as by a slip in its name, must not pass for a subtraction.
    groups = {group.rpartition(":")[2].removeprefix("@"): set(_expand(group)) for group in _groups(word)}
    return [
        Target(name, name, groups=tuple(group for group, members in groups.items() if name in members))
        for name in names
    ]


def _split(word: str) -> Iterator[str]:
    """Yield the parts between the commas that are outside brackets."""
    depth, start = 0, 0
    for at, character in enumerate(word):
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "," and depth <= 0:
            yield word[start:at]
            start = at + 1
    yield word[start:]


def _item(item: str, word: str) -> Iterator[Target]:
    where = _show(word) if item == word else f"{_show(item)} in {_show(word)}"
    if not item:
        raise HostcheckError(f"{where}: a name is missing beside a comma")
    if item.startswith("@"):
        yield from _members(item)
        return
    user, at, rest = item.rpartition("@")
    if at and user.endswith("@"):
        raise HostcheckError(f"{where}: a group takes no user; use --user")
    if at and not _USER.fullmatch(user):
        raise HostcheckError(f"{where}: {_show(user)} is no user name" if user else f"{where}: no user before the @")
    if rest.startswith("[") and ":" in rest and "]" not in rest:
        raise HostcheckError(f"{where}: {_show(rest)} is no IPv6 address: ] is missing")
    hosts, port = _port(rest, where)
    ending = "" if port is None else f":{port}"
    if hosts.startswith("[") and ":" in hosts:
        address = _ipv6(hosts, where)
        yield Target(f"[{address}]{ending}" if ending else address, address, user or None, port)
        return
    for name in _expand(hosts, where) if "[" in hosts or "]" in hosts else [_name(hosts, where)]:
        yield Target(f"{name}{ending}", name, user or None, port)


def _port(text: str, where: str) -> tuple[str, int | None]:
    outside = _OUTSIDE.sub("", text)
    if outside.count(":") > 1:
        raise HostcheckError(f"{where}: an IPv6 address goes in brackets, such as [2001:db8::7] or [2001:db8::7]:22")
    if ":" not in outside:
        return text, None
    hosts, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise HostcheckError(f"{where}: {_show(port)} is no port (1 to 65535)" if port else f"{where}: no port after :")
    return hosts, int(port)


def _ipv6(text: str, where: str) -> str:
    try:
        if not text.endswith("]"):
            raise ValueError
        address = ipaddress.IPv6Address(text[1:-1])
    except ValueError:
        raise HostcheckError(f"{where}: {_show(text)} is no IPv6 address") from None
    if address.scope_id and not _NAME.fullmatch(address.scope_id):
        raise HostcheckError(f"{where}: {_show(address.scope_id)} is no network interface")
    return str(address)


def _name(name: str, where: str) -> str:
    if not _NAME.fullmatch(name):
        raise HostcheckError(f"{where}: {_show(name)} is no host name" if name else f"{where}: no host is named")
    return name


def _groups(word: str) -> Iterator[str]:
    """Yield the groups in a word, as written.

    Raises:
        HostcheckError: one is malformed. A group source hands the name to a shell, so that nothing odd may pass.
    """
    for operand in re.split(r"[,!&^](?![^\[]*\])", word):
        if not operand.startswith("@"):
            continue
        if not _GROUP.fullmatch(operand):
            raise HostcheckError(f"{_show(word)}: {_show(operand)} is no group, such as @rack1 or @slurm:gpu")
        if operand[-1] != "*" and "[" not in operand:
            yield operand


def _expand(text: str, where: str = "") -> list[str]:
    """Return the hosts of a node set, by ClusterShell."""
    where = where or _show(text)
    if _count(text, where) > MOST:
        raise HostcheckError(f"{where}: more than {MOST:,} hosts: split them into several runs")
    from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException, std_group_resolver
    from ClusterShell.NodeUtils import GroupResolverError, GroupResolverSourceError, GroupSourceError

    asks = set(text) & set("@*?")
    try:
        names = [str(name) for name in NodeSet(text, resolver=std_group_resolver() if asks else RESOLVER_NOGROUP)]
    except GroupResolverSourceError as problem:
        raise HostcheckError(f"{where}: ClusterShell has no group source {_show(str(problem))}") from None
    except (
        NodeSetException, GroupResolverError, GroupSourceError, OSError, ValueError, OverflowError, RecursionError
    ) as problem:  # fmt: skip
        what = "ClusterShell's group sources cannot tell" if asks else "not a node set"
        raise HostcheckError(f"{where}: {what}: {_plain(problem)}") from None
    if not names:
        kind = "group or host is known to ClusterShell's group sources by that name" if asks else "host is left"
        raise HostcheckError(f"{where}: no {kind}")
    return [_name(name, where) for name in names]


def _count(text: str, where: str) -> int:
    """Return how many hosts a node set can have, at most, without making them."""
    total = 0
    for operand in re.split(r"[,!&^](?![^\[]*\])", text):
        total += math.prod(_size(ranges, where) for ranges in _RANGES.findall(operand))
    return total


def _size(ranges: str, where: str) -> int:
    count = 0
    for part in ranges.split(","):
        found = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18})(?:/(\d{1,18}))?)?", part, re.ASCII)
        if found is None:
            raise HostcheckError(f"{where}: {_show(f'[{ranges}]')} is no range of numbers, such as [01-64,70]")
        first, last, step = (int(number) if number else None for number in found.groups())
        assert first is not None
        if last is not None and (last < first or step == 0):
            raise HostcheckError(f"{where}: {_show(part)} is no range of numbers, such as 01-64")
        count += 1 if last is None else (last - first) // (step or 1) + 1
    return count


def _plain(problem: BaseException) -> str:
    return " ".join(str(problem).split())[:200] or type(problem).__name__


def _show(text: str) -> str:
    """Return a word as it can be shown: quoted, short, in ASCII."""
    return ascii(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
