"""The run directory: what each host of a fleet answered, one file a host, written as a whole or not at all.

    fleet.json          the hosts that were asked, the digest of the program, when, by which hostcheck
    hosts/NAME.tar.gz   the archive as it came, kept only once it was read successfully
    hosts/NAME.json     how the attempt ended; written after the archive, so that it never speaks of a missing one

A directory that is not ours, or of another program, is refused: its answers would not be answers to what is asked.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import hashlib
import json
import os
import re
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hostcheck import __version__
from hostcheck.errors import HostcheckError
from hostcheck.fleet.targets import Target, fold
from hostcheck.model import Absentee
from hostcheck.snapshot.archive import read_archive
from hostcheck.transport.base import Answer, Reach

SCHEMA = 1
NOT_ASKED = "not asked"
"""How it stands with a host that belongs to the fleet and has no answer yet, as after Ctrl-C."""
_LINE = 500
_SMALL = 64 * 1024
_LARGE = 256 * 1024 * 1024
_LONGEST = 180
_ODD = re.compile(rb"[^A-Za-z0-9_.-]|^\.")
_ESCAPE = re.compile(rb"%([0-9a-f]{2})")
_ENDINGS = (".json", ".tar.gz")


def file_name(name: str) -> str:
    """Return the name of a host as the stem of a file: the same for most, and never one that leaves its folder."""
    raw = name.encode("utf-8", "surrogatepass")
    plain = _ODD.sub(lambda match: b"%%%02x" % match[0][0], raw).decode()
    if plain and len(plain) <= _LONGEST:
        return plain
    return f"{plain[:100]}%{hashlib.sha256(raw).hexdigest()}"


def _name(stem: str) -> str:
    """Return the name of which `file_name` makes this stem; the stem itself where that cannot be told."""
    raw = _ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()), stem.encode("utf-8", "surrogatepass"))
    name = raw.decode("utf-8", "replace")
    return name if file_name(name) == stem else stem


class Store:
    """A run directory. Making the object touches nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hosts = path / "hosts"
        self._about = path / "fleet.json"
        self._reading = threading.Lock()
        self._lock: int | None = None

    def begin(
        self, targets: Sequence[Target], program: bytes, *, resume: bool = False, mixed: bool = False
    ) -> tuple[Target, ...]:
        """Make the directory, or take up one that is there, and return the hosts that are to be asked.

        Args:
            targets: the hosts; without any, those that the directory knows.
            program: what is run on them; its digest tells whether older answers are answers to the same question.
            resume: take up a directory that is there; else it must be new or empty.
            mixed: resume although its answers are another program's.

        Raises:
            HostcheckError: it is not ours, of another program, used by another process, or cannot be written.
        """
        digest = hashlib.sha256(program).hexdigest()
        try:
            if resume:
                about = self._read_about()
            elif self.path.exists() and any(self.path.iterdir()):
                raise HostcheckError(f"{self.path}: there is something in it already; --resume takes up a run")
            else:
                about = {"schema": SCHEMA, "tool": __version__, "started": _now(), "programs": [], "targets": []}
            if about["programs"] and about["programs"] != [digest] and not mixed:
                raise HostcheckError(
                    f"{self.path}: its answers are to another program (other checks, or hostcheck "
                    f"{about['tool']}); start a new run, or mix them with --mixed"
                )
            self._make()
            self._take()
            if resume:
                about = self._read_about()
            known = _targets(about, self.path)
            asked = tuple(targets) or known
            about["programs"] = sorted({*about["programs"], digest})
            about["targets"] = [_plain(target) for target in _union(known, asked)]
            _write(self._about, json.dumps(about, indent=1).encode())
            for left in (*self._hosts.glob(".new-*"), *self.path.glob(".new-*")):
                left.unlink(missing_ok=True)
        except OSError as problem:
            self._refuse(problem)
        return asked

    def _make(self) -> None:
        """Make the folders; what hosts say of themselves is for their owner alone to read."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.mkdir(mode=0o700, exist_ok=True)
        self._hosts.mkdir(mode=0o700, exist_ok=True)

    def _take(self) -> None:
        """Hold the directory against a second process; the lock ends with this one."""
        if self._lock is not None:
            return
        handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise HostcheckError(f"{self.path}: another hostcheck is writing there") from None
        except OSError:
            # A file system without locks, as some NFS servers are.
            os.close(handle)
            return
        self._lock = handle

    def close(self) -> None:
        """Let others write; may be called twice."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def targets(self) -> tuple[Target, ...]:
        """Return the hosts of the run: those that were to be asked, and any others that have an answer.

        Raises:
            HostcheckError: this is no run directory.
        """
        about = self._read_about() if self._about.exists() else None
        if about is None and not self._hosts.is_dir():
            raise HostcheckError(f"{self.path}: not a run directory of hostcheck: it has no fleet.json")
        known = _targets(about, self.path) if about else ()
        files = {path.name.removesuffix(end) for end in _ENDINGS for path in self._hosts.glob(f"*{end}")}
        others = files - {file_name(target.name) for target in known}
        names = (self._recorded(stem) or _name(stem) for stem in sorted(others) if stem[:1] not in ("", "."))
        return (*known, *(Target(name, name) for name in names))

    def _recorded(self, stem: str) -> str | None:
        """Return the name that a record gives its host; None where it cannot be read, or is another's."""
        name = (_told(self._hosts / f"{stem}.json") or {}).get("name")
        return name if isinstance(name, str) and file_name(name) == stem else None

    def missing(self, targets: Iterable[Target]) -> tuple[Target, ...]:
        """Return those hosts of which there is no archive: never asked, interrupted, or absent."""
        return tuple(target for target in targets if not isinstance(self.find(target.name), Path))

    def put(self, name: str, answer: Answer) -> Answer:
        """File a host's answer, and return it as it was filed: an archive that cannot be read is an error.

        One archive is unpacked at a time, so that hostile ones cannot add up.

        Raises:
            HostcheckError: the directory cannot be written.
        """
        told: dict[str, Any] = {"name": name}
        if answer.reach is Reach.OK:
            try:
                with self._reading:
                    told["hostname"] = read_archive(answer.out).manifest.hostname[:_LINE]
            except HostcheckError as problem:
                why = f"what it sent is no answer: {problem}"
                answer = Answer(
                    reach=Reach.ERROR, why=why, seconds=answer.seconds, attempts=answer.attempts,
                    sent=answer.sent, received=answer.received,
                )  # fmt: skip
        told |= {
            "reach": answer.reach.value,
            "why": answer.why[:_LINE],
            "seconds": round(answer.seconds, 3),
            "attempts": answer.attempts,
            "sent": answer.sent,
            "received": answer.received,
            "time": _now(),
        }
        stem = file_name(name)
        try:
            self._make()
            if answer.reach is Reach.OK:
                _write(self._hosts / f"{stem}.tar.gz", answer.out)
            _write(self._hosts / f"{stem}.json", json.dumps(told).encode())
        except OSError as problem:
            self._refuse(problem)
        return answer

    def archives(self) -> Iterator[tuple[str, Path]]:
        """Yield the hosts that answered, with their archives."""
        for target in self.targets():
            state = self.find(target.name)
            if isinstance(state, Path):
                yield target.name, state

    def absent(self) -> Iterator[Absentee]:
        """Yield the hosts that did not answer, those included that were never asked."""
        for target in self.targets():
            state = self.find(target.name)
            if isinstance(state, Absentee):
                yield state

    def find(self, name: str) -> Path | Absentee:
        """Return the archive of a host, or why there is none."""
        stem = file_name(name)
        told, archive = _told(self._hosts / f"{stem}.json"), self._hosts / f"{stem}.tar.gz"
        if not any((self._hosts / f"{stem}{end}").exists() for end in _ENDINGS):
            return Absentee(name=name, reach=NOT_ASKED, why="it has not been asked yet, or the run was interrupted")
        if told is None or told.get("name") != name:
            why = f"its record is missing or cannot be read: {self._hosts / f'{stem}.json'}"
            return Absentee(name=name, reach=Reach.ERROR.value, why=why)
        if told.get("reach") != Reach.OK.value:
            return Absentee(name=name, reach=str(told.get("reach", "?"))[:40], why=str(told.get("why", ""))[:_LINE])
        if not archive.is_file():
            return Absentee(name=name, reach=Reach.ERROR.value, why=f"its archive is gone: {archive}")
        return archive

    def _read_about(self) -> dict[str, Any]:
        try:
            with self._about.open("rb") as opened:
                about = json.loads(opened.read(_LARGE))
            schema, programs = about["schema"], about["programs"]
            if not (isinstance(schema, int) and isinstance(programs, list) and isinstance(about["targets"], list)):
                raise ValueError
            str(about["tool"]), str(about["started"])
        except FileNotFoundError:
            raise HostcheckError(f"{self.path}: not a run directory of hostcheck: it has no fleet.json") from None
        except OSError as problem:
            self._refuse(problem)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise HostcheckError(f"{self._about}: broken: this is no record of a run") from None
        if schema > SCHEMA:
            raise HostcheckError(f"{self._about}: made by a newer hostcheck ({str(about['tool'])[:40]!r})")
        known: dict[str, Any] = about
        return known

    def _refuse(self, problem: OSError) -> NoReturn:
        raise HostcheckError(f"{problem.filename or self.path}: {problem.strerror}") from None


def _targets(about: dict[str, Any], path: Path) -> tuple[Target, ...]:
    try:
        return tuple(
            Target(
                name=str(entry["name"]),
                address=str(entry["address"]),
                user=None if entry["user"] is None else str(entry["user"]),
                port=None if entry["port"] is None else int(entry["port"]),
                groups=tuple(str(group) for group in entry["groups"]),
                variables={str(name): str(value) for name, value in entry["variables"].items()},
            )
            for entry in about["targets"]
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise HostcheckError(f"{path / 'fleet.json'}: broken: its list of hosts cannot be read") from None


def _plain(target: Target) -> dict[str, Any]:
    # Of an inventory's variables only this one is needed again; any other could be a secret.
    kept = {name: value for name, value in target.variables.items() if name == "ansible_connection"}
    return {
        "name": target.name,
        "address": target.address,
        "user": target.user,
        "port": target.port,
        "groups": list(target.groups),
        "variables": kept,
    }


def _union(known: Sequence[Target], asked: Sequence[Target]) -> tuple[Target, ...]:
    """Return all hosts; where both name one, the newer word counts."""
    newer = {target.name: target for target in asked}
    return fold((*(newer.pop(target.name, target) for target in known), *newer.values()))


def _told(path: Path) -> dict[str, Any] | None:
    """Return what is recorded of a host; None where nothing readable is."""
    try:
        with path.open("rb") as opened:
            found = json.loads(opened.read(_SMALL))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _write(path: Path, data: bytes) -> None:
    """Write a file as a whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(data)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
