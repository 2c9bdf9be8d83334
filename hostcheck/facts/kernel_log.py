"""The kernel's own log of this boot: from the ring buffer or, where that has wrapped, from the journal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Literal

from hostcheck.errors import Unavailable
from hostcheck.facts.base import Fact, Optional
from hostcheck.snapshot.probes import MIB, CommandProbe
from hostcheck.snapshot.reading import Reading

# A busy host fills both: the ring buffer is at most a few MiB, a journal of months can be a gigabyte.
DMESG = CommandProbe("kernel.dmesg", ("dmesg",), total=8 * MIB, seconds=10.0)
JOURNAL = CommandProbe(
    "kernel.journal",
    ("journalctl", "-k", "-b", "-q", "--no-pager", "-o", "short-monotonic"),
    total=16 * MIB,
    seconds=20.0,
)

MOST_LINES = 400_000
LONGEST_LINE = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One message.

    Attributes:
        text: the message without time, level and the name of the host.
        at_s: seconds since boot; None where the log does not say.
        level: 0 (emergency) to 7 (debug); None where the log does not say.
        stamp: the wall-clock time as written, where the log has that in place of seconds.
    """

    text: str
    at_s: float | None = None
    level: int | None = None
    stamp: str = ""

    @property
    def when(self) -> str:
        """The time in words, such as "3098 s after boot"; empty if unknown."""
        return self.stamp if self.at_s is None else f"{self.at_s:.0f} s after boot"


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelLog:
    """The messages of this boot, oldest first.

    Attributes:
        lines: the messages.
        complete: they reach back to the boot without a gap, so that what is not there did not happen.
        covers_from: since when they are without a gap, in words.
        source: which of the two was read.
    """

    lines: tuple[LogLine, ...]
    complete: bool
    covers_from: str
    source: Literal["dmesg", "journal"]

    def need_all(self) -> None:
        """Go on only if the log holds every message of this boot.

        Raises:
            Unavailable: older messages were overwritten.
        """
        if not self.complete:
            raise Unavailable(f"the kernel log ({self.source}) begins only at {self.covers_from}", DMESG.id)


_LEVELS = ("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug")
_KMSG = re.compile(r"(\d{1,4}),\d{1,20},(\d{1,18}),[^;]{0,200};(.*)", re.DOTALL)
_KMSG_MORE = re.compile(r" [A-Z0-9_]+=")
_RAW_LEVEL = re.compile(r"<(\d{1,4})>")
_DECODED_LEVEL = re.compile(rf"[a-z]+[0-7]?\s*:({'|'.join(_LEVELS)})\s*: ?")
_SECONDS = re.compile(r"\[ *(\d{1,12}\.\d{1,9})(?: <[^>]{1,20}>)?\](?:\[ *[TC]\d{1,10}\])? ?")
_STAMP = re.compile(
    r"(?:\[([A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4})\] ?"
    r"|(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?) )"
)
_SYSLOG = re.compile(r"([A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) \S+ ")
_FROM_KERNEL = re.compile(r"(?:[\w.-]{1,255} )?kernel: ")
_PART = re.compile(r"[A-Z][a-z]+#(\d{1,6}) Part(\d{1,6})$")
_DUMP_NAME = re.compile(r"dmesg-[\w.-]+:?$")


def parse_kernel_log(text: str) -> tuple[LogLine, ...]:
    """Read a kernel log in any of its usual forms; line by line, so that they may be mixed.

    Known are `dmesg` with and without -T, -r, -x and --time-format iso, records of /dev/kmsg, syslog files, the
    journal's short-monotonic form, dumps of pstore (whose parts come newest first) and bare text.

    Sample:
        [    0.000000] Linux version 5.15.0-112-generic (buildd@lcy02-amd64-051)
        [ 3098.275469][  T811] Kernel panic - not syncing: Test panic triggered by crash_test module
        [Sun Feb 23 16:24:18 2025] NVRM: GPU at PCI:0000:9b:00: GPU-509665ad-b600-ac93-3616-d754b23d636d
        kern  :warn  : 2025-01-17T15:36:25,335739+00:00 mlx_compat: loading out-of-tree module taints kernel.
        6,3973,227986636,-;IPv6: ADDRCONF(NETDEV_CHANGE): eth0: link becomes ready
        <1>[  201.654822] BUG: unable to handle kernel NULL pointer dereference at           (null)
        Aug 17 06:18:01 node1 systemd-networkd[5398]: ib6: lost carrier
        [    5.120010] node1 kernel: EXT4-fs (sda1): mounted filesystem with ordered data mode.
        INFO: task docker:20744 blocked for more than 120 seconds.
    """
    parts: list[tuple[tuple[int, int], list[LogLine]]] = [((0, 0), [])]
    for row in islice(text.split("\n"), MOST_LINES):
        raw = row.rstrip("\r")[:LONGEST_LINE]
        # Most lines begin with a bracket, and logs have many: only a line that can match a form is held against it.
        if raw[:1] != "[" and (header := _PART.match(raw)):
            parts.append(((int(header[1]), -int(header[2])), []))
        elif (raw[:1] == "[" or not _DUMP_NAME.match(raw)) and (line := _line(raw)):
            parts[-1][1].append(line)
    return tuple(line for _, lines in sorted(parts, key=lambda part: part[0]) for line in lines)


def _line(raw: str) -> LogLine | None:
    level: int | None = None
    if raw[:1] != "[":
        if record := _KMSG.match(raw):
            return LogLine(text=record[3], at_s=int(record[2]) / 1e6, level=int(record[1]) & 7)
        if not raw.strip() or _KMSG_MORE.match(raw):
            return None
        if found := _RAW_LEVEL.match(raw):
            raw, level = raw[found.end() :], int(found[1]) & 7
        elif found := _DECODED_LEVEL.match(raw):
            raw, level = raw[found.end() :], _LEVELS.index(found[1])
    at_s: float | None = None
    stamp = ""
    if found := _SECONDS.match(raw):
        at_s = float(found[1])
    elif found := _STAMP.match(raw):
        stamp = found[1] or found[2]
    elif found := _SYSLOG.match(raw):
        stamp = found[1]
    raw = raw[found.end() :] if found else raw
    if found := _FROM_KERNEL.match(raw):
        raw = raw[found.end() :]
        if nested := _SECONDS.match(raw):
            raw, at_s = raw[nested.end() :], float(nested[1])
    return LogLine(text=raw, at_s=at_s, level=level, stamp=stamp) if raw.strip() else None


def read_kernel_log(dmesg: Reading | Unavailable, journal: Reading | Unavailable) -> KernelLog:
    """Return the source that reaches back to the boot, or else the one that reaches back further.

    Raises:
        Unavailable: neither could be read, or both are empty.
    """
    ring = _log(dmesg, "dmesg")
    older = None if ring and ring.complete else _log(journal, "journal")
    logs = [log for log in (ring, older) if log is not None]
    if not logs:
        whys = [source.why for source in (dmesg, journal) if isinstance(source, Unavailable)]
        raise Unavailable("; ".join(whys) or "the kernel log is empty: it was cleared, or is not shown here", DMESG.id)
    if logs[0].lines[0].text.startswith("Starting gVisor"):
        raise Unavailable("this sandbox (gVisor) shows a kernel log of its own, not the host's", DMESG.id)
    return min(logs, key=lambda log: (not log.complete, _first_s(log)))


def _log(reading: Reading | Unavailable, source: Literal["dmesg", "journal"]) -> KernelLog | None:
    lines = () if isinstance(reading, Unavailable) else parse_kernel_log(reading.text())
    if not lines:
        return None
    complete = len(lines) < MOST_LINES and any(_FIRST.match(line.text) for line in lines[:20])
    since = "boot" if complete else lines[0].when or "an unknown time"
    return KernelLog(lines=lines, complete=complete, covers_from=since, source=source)


def _first_s(log: KernelLog) -> float:
    at_s = log.lines[0].at_s
    return float("inf") if at_s is None else at_s


# The first message of x86 and of arm64; a ring buffer that has wrapped no longer holds it.
_FIRST = re.compile(r"Linux version \d|Booting Linux on ")

KERNEL_LOG: Fact[KernelLog] = Fact("kernel.log", read_kernel_log, Optional(DMESG), Optional(JOURNAL))


class Kind(StrEnum):
    """What kind of trouble a message tells of."""

    PANIC = "panic"
    OOPS = "oops"
    LOCKUP = "lockup"
    HUNG_TASK = "hung task"
    OOM_KILL = "out-of-memory kill"
    HARDWARE = "hardware error"
    LINK_LOST = "link lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """One event in the log.

    Attributes:
        who: the process or network device it happened to; empty where the message names none.
        line: the message that tells of it first.
    """

    kind: Kind
    who: str
    line: LogLine


# Anchored at the start of the message, because a process can have such words in its name.
_TROUBLE = {
    Kind.PANIC: (r"Kernel panic - not syncing",),
    Kind.LOCKUP: (
        r"(?:NMI |watchdog: )*(?:BUG: soft lockup|BUG: workqueue lockup|Watchdog detected hard LOCKUP)",
        r"(?:rcu: )?INFO: rcu_\w+ .{0,40}?detected .{0,20}?stall",
    ),
    Kind.OOPS: (
        r"BUG: |kernel BUG at |Oops(?:: | - )|Internal error: |Unable to handle kernel ",
        r"(?:general protection fault|invalid opcode|divide error|stack segment)\b.{0,120}\[#\d+\]",
    ),
    Kind.HUNG_TASK: (r"INFO: task (.{1,40}):\d+ (?:is )?blocked .{0,40}?for more than \d+ seconds",),
    Kind.OOM_KILL: (
        r"(?:Memory cgroup out of memory|Out of memory)[^:]{0,40}: Kill(?:ed)? process \d+[^(]{0,40}\((.{1,40}?)\)",
    ),
    Kind.HARDWARE: (
        r"(?:mce: )?(?:\{\d+\})?\[Hardware Error\]: "
        r"(?:Machine check events logged|event severity: |.{0,20}Machine Check)",
    ),
    Kind.LINK_LOST: (
        r"(?i:(?:[\w-]+\[\d+\]: |\S+ [\da-f:.]{7,12}:? )?([\w.@-]{1,32}): (?:lost carrier|(?:NIC )?link (?:is )?down))",
    ),
}
_KINDS = {f"kind{number}": kind for number, kind in enumerate(_TROUBLE)}
# One pattern, because each line of each host's log is held against it.
_ANY_TROUBLE = re.compile("|".join(f"(?P<{name}>{'|'.join(_TROUBLE[kind])})" for name, kind in _KINDS.items()))
_SAME_EVENT = 40


def find_trouble(lines: Iterable[LogLine]) -> Iterator[Trouble]:
    """Yield the events that a kernel log tells of, oldest first; the many lines of one oops are one event."""
    last_oops = -_SAME_EVENT
    for number, line in enumerate(lines):
        found = _ANY_TROUBLE.match(line.text)
        if not found:
            continue
        kind = _KINDS[found.lastgroup or ""]
        if kind is Kind.OOPS:
            same, last_oops = number - last_oops < _SAME_EVENT, number
            if same:
                continue
        named = [group for group in found.groups() if group is not None]  # the whole, and who where the line says so
        yield Trouble(kind=kind, who=named[1] if len(named) > 1 else "", line=line)
