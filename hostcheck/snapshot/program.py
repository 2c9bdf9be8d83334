"""The other producer: the same probes as one POSIX sh program, sent on standard input, with one tar as its output."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from shlex import quote

from hostcheck import __version__
from hostcheck.snapshot.local import SYSTEM_PATH
from hostcheck.snapshot.probes import CommandProbe, FileProbe, Guard, ListProbe, Probe
from hostcheck.snapshot.reading import SCHEMA

_BLOCK = 512
_ROOM = FileProbe("", ()).total


@cache
def _runtime() -> str:
    return (files("hostcheck.snapshot") / "runtime.sh").read_text("utf-8").replace("@SYSTEM_PATH@", SYSTEM_PATH)


def program(probes: Iterable[Probe], *, window: float = 0.0) -> str:
    """Return the sh program that carries out these probes.

    Args:
        probes: what to read; each id once.
        window: seconds between the two samples of counters, at least.
    """
    chosen = list(probes)
    pause = math.ceil(window)
    again = [probe for probe in chosen if not isinstance(probe, ListProbe) and probe.twice and _runs(probe)]
    first, second = _groups(chosen, 1), _groups(again, 3)
    alone = [probe for probe in chosen if not any(probe in members for members in first.values())]
    folders = [f"p/{probe.id}" for probe in alone] + [f"p/+{number}" for number in (*first, *second)]
    folders += [f"p/{probe.id}/2" for probe in again if not any(probe in members for members in second.values())]
    asked = [quote("\t".join((probe.id, *probe.paths))) for probe in chosen if not isinstance(probe, CommandProbe)]
    lines = [
        "#!/bin/sh",
        f"# hostcheck {__version__}",
        _runtime(),
        'cd "$dir" || fail "$dir is gone"',
        f"mkdir -p {' '.join(folders)} || fail 'no room for the answers'",
        "cd /",
        f"printf '%s\\n' {' '.join(asked)} >\"$dir/asked\"",
        "now",
        "uptime=$up",
        "",
        *_reading(chosen, first, _lines),
        "settle",
        "",
    ]
    if again:
        lines += [f"sleep {pause}"] if pause else []
        lines += _reading(again, second, _again)
        lines += ["settle", ""]
    lines += [
        "hostname=unknown",
        "read -r hostname </proc/sys/kernel/hostname",
        "user",
        "printf '%s\\n' "
        f'schema={SCHEMA} tool={__version__} producer=sh "time=$(date +%s)" '
        '"uptime=$uptime" "hostname=$hostname" "uid=$uid" complete=1 >"$dir/manifest"',
        'room 65536 || fail "$dir became full while the host was read"',
        'cd "$dir" || fail "$dir is gone"',
        "if command -v gzip >/dev/null 2>&1; then",
        "    tar -cf - manifest asked p/*/* | gzip -c",
        "else",
        "    tar -cf - manifest asked p/*/*",
        "fi",
        "cd /",
        "",
    ]
    return "\n".join(lines)


def _runs(probe: Probe) -> bool:
    return not (isinstance(probe, CommandProbe) and probe.local_module)


def _groups(probes: Iterable[Probe], number: int) -> dict[int, list[Probe]]:
    """Return the probes that one process can read together, by the number of their group: files, and paths to list.

    A file that can hang has a process of its own, and so has one that is not always asked for or is short of room.
    """
    groups: dict[int, list[Probe]] = {}
    for probe in sorted(probes, key=lambda probe: probe.id):  # the order in which the archive's reader takes them
        if isinstance(probe, FileProbe) and not probe.may_hang and not probe.guard and probe.total == _ROOM:
            groups.setdefault(number, []).append(probe)
        elif isinstance(probe, ListProbe):
            groups.setdefault(number + 1, []).append(probe)
    return {number: members for number, members in groups.items() if len(members) > 1}


def _reading(
    probes: Iterable[Probe], groups: Mapping[int, Sequence[Probe]], lines: Callable[[Probe], list[str]]
) -> list[str]:
    """Return the lines that start all probes, those of a group together and first."""
    grouped = {probe.id for members in groups.values() for probe in members}
    written: list[str] = []
    for number, members in groups.items():
        limit = max(probe.limit for probe in members if isinstance(probe, FileProbe)) if number % 2 else 0
        command = f"head -c {limit + 1} /dev/null" if number % 2 else "ls -ldn"
        seconds = math.ceil(min(probe.seconds for probe in members))
        written += [f"group_{number}() {{", *(f"    {line}" for probe in members for line in lines(probe)), "}"]
        written.append(f"together {number} {seconds} {_ROOM // _BLOCK + 1} {command}")
    return written + [line for probe in probes if probe.id not in grouped for line in lines(probe)]


def _again(probe: Probe) -> list[str]:
    """Return the second sample of a probe, taken only if the first one was."""
    return [
        f"if answered {probe.id}; then",
        f"    {_start(probe, f'{probe.id}/2')}",
        "fi",
    ]


def _lines(probe: Probe) -> list[str]:
    """Return the lines that start one probe."""
    into = probe.id
    if not _runs(probe):
        return [f"skip {into} not-collected 'only where hostcheck itself runs on the host'"]
    if isinstance(probe, ListProbe) or not probe.guard:
        return [_start(probe, into)]
    return [
        f"if {_condition(probe.guard)}; then",
        f"    {_start(probe, into)}",
        "else",
        f"    skip {into} not-collected {quote(probe.guard.why_not)}",
        "fi",
    ]


def _start(probe: Probe, into: str) -> str:
    limits = f"{into} {math.ceil(probe.seconds)} {probe.total // _BLOCK + 1}"
    if isinstance(probe, FileProbe):
        return f"files {limits} {probe.limit} {' '.join(probe.paths)}"
    if isinstance(probe, ListProbe):
        return f"entries {limits} {' '.join(probe.paths)}"
    return f"tool {limits} {' '.join(quote(word) for word in probe.argv)}"


def _condition(guard: Guard) -> str:
    exists = " || ".join(f"[ -e {path} ]" for path in guard.any_of)
    return f"{{ {exists}; }} && awake {guard.awake}" if guard.awake else exists
