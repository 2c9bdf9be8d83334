"""The other producer: the same probes as one POSIX sh program, sent on standard input, with one tar as its output."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from shlex import quote

from hostcheck import __version__
from hostcheck.snapshot.local import SYSTEM_PATH
from hostcheck.snapshot.probes import CommandProbe, FileProbe, Guard, ListProbe, Probe
from hostcheck.snapshot.reading import SCHEMA

_BLOCK = 512


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
    folders = [f'"$dir/p/{probe.id}"' for probe in chosen] + [f'"$dir/p/{probe.id}/2"' for probe in again]
    lines = [
        "#!/bin/sh",
        f"# hostcheck {__version__}",
        _runtime(),
        f"mkdir -p {' '.join(folders)} || fail 'no room for the answers'",
        "now",
        "uptime=$up",
        "",
        *(line for probe in chosen for line in _lines(probe, probe.id)),
        "settle",
        "",
    ]
    if again:
        lines += [f"sleep {pause}"] if pause else []
        lines += [line for probe in again for line in _again(probe)]
        lines += ["settle", ""]
    lines += [
        "hostname=unknown",
        "read -r hostname </proc/sys/kernel/hostname",
        "user",
        "printf '%s\\n' "
        f'schema={SCHEMA} tool={__version__} producer=sh "time=$(date +%s)" '
        '"uptime=$uptime" "hostname=$hostname" "uid=$uid" complete=1 >"$dir/manifest"',
        'room 65536 || fail "$dir became full while the host was read"',
        "if command -v gzip >/dev/null 2>&1; then",
        '    tar -cf - -C "$dir" manifest p | gzip -c',
        "else",
        '    tar -cf - -C "$dir" manifest p',
        "fi",
        "",
    ]
    return "\n".join(lines)


def _runs(probe: Probe) -> bool:
    return not (isinstance(probe, CommandProbe) and probe.local_module)


def _again(probe: FileProbe | CommandProbe) -> list[str]:
    """Return the second sample of a probe, taken only if the first one was."""
    return [
        f"if answered {probe.id}; then",
        f"    {_start(probe, f'{probe.id}/2')}",
        "fi",
    ]


def _lines(probe: Probe, into: str) -> list[str]:
    """Return the lines that start one probe."""
    lines = [] if isinstance(probe, CommandProbe) else [f"ask {into} {' '.join(quote(path) for path in probe.paths)}"]
    if not _runs(probe):
        return [f"skip {into} not-collected 'only where hostcheck itself runs on the host'"]
    if isinstance(probe, ListProbe) or not probe.guard:
        return [*lines, _start(probe, into)]
    return [
        *lines,
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
