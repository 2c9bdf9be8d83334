"""What probes answered: `Snapshot` and `Reading`, the only things that facts are parsed from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache

from hostcheck.errors import Unavailable

SCHEMA = 2


class Ending(StrEnum):
    """How a probe ended. Absent is knowledge; all the others but `ok` are ignorance."""

    OK = "ok"
    EXIT = "exit"
    ABSENT = "absent"
    DENIED = "denied"
    TIMEOUT = "timeout"
    KILLED = "killed"
    TRUNCATED = "truncated"
    ERROR = "error"
    NOT_COLLECTED = "not-collected"


@dataclass(frozen=True, slots=True)
class FileState:
    """One file of a `FileProbe`: its ending (ok, absent, denied, truncated or error) and what was read."""

    ending: Ending
    data: bytes = b""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of a `ListProbe`: its type as in `ls -l` ("-", "d", "l", "c", "s"; "?" denied), and a link's target."""

    kind: str
    mode: str = ""
    uid: int = 0
    gid: int = 0
    target: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """One probe's answer.

    Attributes:
        probe: id of the probe.
        ending: how it ended as a whole.
        code: exit status of a command, or the number of the signal that ended it.
        seconds: how long it took.
        at: seconds since boot when it was read, for rates.
        note: details of the ending, such as "left behind: it cannot be killed".
        out, err: a command's streams.
        asked: the paths and globs that a file or list probe was asked for.
        files: what a file probe read; entries: what a list probe saw.
        later: the second sample of a probe that is read twice.
    """

    probe: str
    ending: Ending
    code: int | None = None
    seconds: float = 0.0
    at: float = 0.0
    note: str = ""
    out: bytes = b""
    err: bytes = b""
    asked: tuple[str, ...] = ()
    files: Mapping[str, FileState] = field(default_factory=dict)
    entries: Mapping[str, Entry] = field(default_factory=dict)
    later: Reading | None = None

    @property
    def how(self) -> str:
        """The ending in words, such as "exit 9: No devices were found"."""
        words = f"exit {self.code}" if self.ending is Ending.EXIT else self.ending.value
        last = _last_line(self.err) or _last_line(self.out) if self.ending is Ending.EXIT else ""
        return ": ".join(part for part in (words, self.note or last) if part)

    def unavailable(self, why: str = "") -> Unavailable:
        """Return (not raise) the reason why a fact of this probe is not to be had."""
        ending = "" if self.ending is Ending.OK else self.ending.value
        return Unavailable(why or f"{self.probe}: {self.how}", self.probe, ending)

    def check(self) -> None:
        """Raise Unavailable unless the probe ended well."""
        if self.ending is not Ending.OK:
            raise self.unavailable()

    def text(self) -> str:
        """Return a command's whole output.

        Raises:
            Unavailable: the command did not end with exit 0, or its output was cut.
        """
        self.check()
        return self.out.decode("utf-8", "replace")

    def read(self, path: str) -> str | None:
        """Return a file's text without its last newline, or None if there is no such file.

        Raises:
            Unavailable: the file is there and could not be read, or nobody asked for it.
        """
        state = self.files.get(path)
        if state is None:
            self.check()
            if any(_is_match(path, pattern) for pattern in self.asked):
                return None
            raise self.unavailable(f"{self.probe}: {path} was not collected")
        if state.ending is Ending.ABSENT:
            return None
        if state.ending is not Ending.OK:
            raise self.unavailable(f"{path}: {state.why or state.ending.value}")
        return state.data.decode("utf-8", "replace").removesuffix("\n")

    def glob(self, pattern: str, *, refused: str = "raise") -> dict[str, str]:
        """Return the text of each file that a glob of this probe matched, in path order; empty if none is there.

        Args:
            pattern: one of the globs that the probe asks for.
            refused: "raise" if one file that could not be read makes the whole unavailable; "leave-out" where
                the kernel refuses an attribute that a device does not have (EINVAL and the like).
        """
        if pattern not in self.asked:
            self.check()
            raise self.unavailable(f"{self.probe}: {pattern} was not collected")
        self.check()
        texts: dict[str, str] = {}
        for path in filter(_matcher(pattern), self.files):
            if self.files[path].ending is Ending.ERROR and refused == "leave-out":
                continue
            text = self.read(path)
            if text is not None:
                texts[path] = text
        return texts

    def entry(self, path: str) -> Entry | None:
        """Return what a list probe saw at a path, or None if nothing is there."""
        self.check()
        if path not in self.entries and not any(_is_match(path, pattern) for pattern in self.asked):
            raise self.unavailable(f"{self.probe}: {path} was not collected")
        self._refuse_denied({path: self.entries[path]} if path in self.entries else {})
        return self.entries.get(path)

    def listed(self, pattern: str) -> dict[str, Entry]:
        """Return the entries that a glob of this list probe matched."""
        self.check()
        if pattern not in self.asked:
            raise self.unavailable(f"{self.probe}: {pattern} was not collected")
        is_match = _matcher(pattern)
        found = {path: entry for path, entry in self.entries.items() if is_match(path)}
        self._refuse_denied(found)
        return found

    def _refuse_denied(self, entries: Mapping[str, Entry]) -> None:
        for path, entry in entries.items():
            if entry.kind == "?":
                raise self.unavailable(f"{path}: permission denied")


def _last_line(stream: bytes) -> str:
    lines = stream[-4096:].decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip()[:200] if lines else ""


@lru_cache(maxsize=1024)
def _matcher(pattern: str) -> Callable[[str], bool]:
    """Return a predicate for a shell glob, in which `*` does not cross a slash."""
    parts = re.split(r"(\*|\?|\[[^]]*\])", pattern)
    translated = "".join(
        "[^/]*" if part == "*" else "[^/]" if part == "?" else part if part.startswith("[") else re.escape(part)
        for part in parts
    )
    compiled = re.compile(translated)
    return lambda path: compiled.fullmatch(path) is not None


def _is_match(path: str, pattern: str) -> bool:
    return path == pattern or _matcher(pattern)(path)


@dataclass(frozen=True, slots=True)
class Manifest:
    """Who took a snapshot of what, and when.

    Attributes:
        schema: version of the archive's layout.
        tool: hostcheck version of the producer.
        producer: "local" or "sh".
        time: seconds since the epoch.
        uptime: seconds since boot.
        hostname: the host's own name.
        uid: user id of the reader; 0 is root.
        redacted: whether names, addresses and serials are masked.
    """

    schema: int
    tool: str
    producer: str
    time: float
    uptime: float
    hostname: str
    uid: int
    redacted: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The raw answers of all probes of one host at one time."""

    manifest: Manifest
    readings: Mapping[str, Reading]

    def reading(self, probe: str) -> Reading:
        """Return a probe's answer; one that was not collected says so."""
        return self.readings.get(probe) or Reading(probe, Ending.NOT_COLLECTED)

    def without(self, probes: Iterable[str]) -> Snapshot:
        """Return the same snapshot as if these probes had not been collected."""
        gone = set(probes)
        return replace(self, readings={id: r for id, r in self.readings.items() if id not in gone})
