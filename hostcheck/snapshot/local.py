"""The in-process producer: files are read without a fork, commands run side by side as children."""

from __future__ import annotations

import errno
import glob
import os
import resource
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hostcheck import __version__
from hostcheck.snapshot.probes import MIB, CommandProbe, FileProbe, Guard, ListProbe, Probe
from hostcheck.snapshot.reading import SCHEMA, Ending, Entry, FileState, Manifest, Reading, Snapshot
from hostcheck.snapshot.streams import parse_head

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/nvidia/bin:/usr/lib/wsl/lib"
INTERRUPTED = "interrupted"
_GRACE = 0.5
"""Seconds that a killed child gets to go away before it is left behind."""


def collect(
    probes: Iterable[Probe],
    *,
    root: str = "/",
    window: float = 0.0,
    progress: Callable[[str, int], None] | None = None,
    begun: Commands | None = None,
) -> Snapshot:
    """Read this host, or a tree that was copied from another.

    Args:
        probes: what to read; each id once.
        root: folder under which file and list probes look; commands are left out where it is not "/".
        window: seconds between the two samples of counters, at least.
        progress: called with the id of the slowest command that still runs, and how many do.
        begun: commands that run already; see `begin`.

    Returns:
        The snapshot. After Ctrl-C it holds what had been read by then, and each unfinished probe, or second sample of
        one, is "killed"; `is_interrupted` tells.
    """
    started = _now()
    chosen = list(probes)
    reader = _Reader(root)
    commands = begun or Commands(window, local=root == "/")
    readings: dict[str, Reading] = {}
    stopped = False
    try:
        for probe in chosen:
            if probe.id in commands.ids or isinstance(probe, ListProbe):
                continue
            if isinstance(probe, CommandProbe) or (probe.may_hang and root == "/"):
                commands.start(probe)
        for probe in chosen:
            if isinstance(probe, FileProbe | ListProbe) and probe.id not in commands.ids:
                readings[probe.id] = reader.read(probe)
        commands.wait(progress)
        twice = [
            probe for probe in chosen if isinstance(probe, FileProbe) and probe.twice and _is_read(probe, readings)
        ]
        if twice:
            read_at = max(readings[probe.id].at for probe in twice)
            time.sleep(max(0.0, read_at + window - _now()))
        for probe in twice:
            readings[probe.id] = replace(readings[probe.id], later=reader.read(probe))
    except KeyboardInterrupt:
        stopped = True
        commands.stop()
    readings.update(commands.readings)
    for probe in chosen:
        cut = Reading(probe.id, Ending.KILLED, note=INTERRUPTED)
        first = readings.setdefault(probe.id, cut)
        waits = not isinstance(probe, ListProbe) and probe.twice and first.ending is Ending.OK and first.later is None
        if stopped and waits:
            readings[probe.id] = replace(first, later=cut)
    return Snapshot(_manifest(root, started), readings)


def is_interrupted(snapshot: Snapshot) -> bool:
    """Whether Ctrl-C kept something from being read, or from being read a second time."""
    samples = (sample for first in snapshot.readings.values() for sample in (first, first.later) if sample)
    return any(sample.note == INTERRUPTED for sample in samples)


def begin(probes: Iterable[CommandProbe], *, window: float = 0.0) -> Commands:
    """Start slow commands, so that they run while the rest of hostcheck is loaded; `collect` waits for them."""
    commands = Commands(window, local=True)
    for probe in probes:
        commands.start(probe)
    return commands


def _is_read(probe: Probe, readings: Mapping[str, Reading]) -> bool:
    return probe.id in readings and readings[probe.id].ending is Ending.OK


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _manifest(root: str, started: float) -> Manifest:
    name = Path(root, "proc/sys/kernel/hostname")
    try:
        hostname = name.read_text("utf-8", "replace").strip() if root != "/" else os.uname().nodename
    except OSError:
        hostname = "unknown"
    return Manifest(
        schema=SCHEMA,
        tool=__version__,
        producer="local",
        time=time.time(),
        uptime=started,
        hostname=hostname,
        uid=os.geteuid(),
    )


class _Reader:
    """Reads file and list probes in this process."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")

    def read(self, probe: FileProbe | ListProbe) -> Reading:
        """Read one probe; a guard is about this host, and so not asked for a copied tree."""
        at = _now()
        if isinstance(probe, FileProbe) and probe.guard and not self.root and not guard_holds(probe.guard):
            return Reading(probe.id, Ending.NOT_COLLECTED, note=probe.guard.why_not, asked=probe.paths)
        paths = self.expand(probe.paths)
        if isinstance(probe, ListProbe):
            entries = {path: entry for path in paths if (entry := self._entry(path))}
            return Reading(probe.id, Ending.OK, 0, round(_now() - at, 4), at, asked=probe.paths, entries=entries)
        files: dict[str, FileState] = {}
        left = probe.total
        ending, note = Ending.OK, ""
        for path in paths:
            if _now() - at > probe.seconds:
                ending, note = Ending.TIMEOUT, f"not all of it could be read in {probe.seconds:g} s"
                break
            state = self._file(path, min(probe.limit, left))
            left -= len(state.data)
            if state.ending is not Ending.ABSENT or not glob.has_magic(path):
                files[path] = state
            if left <= 0:
                ending, note = Ending.TRUNCATED, f"more than {probe.total} bytes"
                break
        return Reading(probe.id, ending, 0, round(_now() - at, 4), at, note=note, asked=probe.paths, files=files)

    def expand(self, patterns: Sequence[str]) -> list[str]:
        """Return what the globs match, each sorted; one that matches nothing stays, so that its error is seen."""
        cut = len(self.root)
        paths: list[str] = []
        for pattern in patterns:
            if not glob.has_magic(pattern):
                paths.append(pattern)
                continue
            found = sorted(glob.glob(self.root + pattern))
            paths.extend(path[cut:] for path in found) if found else paths.append(pattern)
        return list(dict.fromkeys(paths))

    def _file(self, path: str, limit: int) -> FileState:
        try:
            descriptor = os.open(self.root + path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError as problem:
            return _refused(problem)
        try:
            data = b""
            # /proc/sys refuses to be read in pieces of 4 MiB or more.
            while len(data) <= limit and (more := os.read(descriptor, min(limit + 1 - len(data), MIB))):
                data += more
        except OSError as problem:
            return FileState(Ending.ERROR, b"", problem.strerror or "error")
        finally:
            os.close(descriptor)
        if len(data) > limit:
            return FileState(Ending.TRUNCATED, data[:limit], f"truncated at {limit} bytes")
        return FileState(Ending.OK, data)

    def _entry(self, path: str) -> Entry | None:
        try:
            seen = os.lstat(self.root + path)
            target = os.readlink(self.root + path) if stat.S_ISLNK(seen.st_mode) else ""
        except PermissionError:
            return Entry("?")
        except OSError:
            return None
        mode = stat.filemode(seen.st_mode)
        return Entry(mode[0], mode[1:], seen.st_uid, seen.st_gid, target)


def _refused(problem: OSError) -> FileState:
    if problem.errno in (errno.ENOENT, errno.ENOTDIR):
        return FileState(Ending.ABSENT, b"", "No such file or directory")
    if problem.errno in (errno.EACCES, errno.EPERM):
        return FileState(Ending.DENIED, b"", "Permission denied")
    return FileState(Ending.ERROR, b"", problem.strerror or "error")


@dataclass
class _Child:
    """A command that runs."""

    probe: CommandProbe | FileProbe
    process: subprocess.Popen[bytes]
    out: int
    err: int
    at: float
    listed: tuple[str, ...] = ()
    first: Reading | None = None
    doomed: float = 0.0
    why: Ending | None = None


class Commands:
    """Runs commands side by side, each in its own session, its output in memory, within its limits."""

    def __init__(self, window: float, *, local: bool) -> None:
        self.window = window
        self.local = local
        self.ids: set[str] = set()
        self.readings: dict[str, Reading] = {}
        self._running: list[_Child] = []
        self._again: list[tuple[float, CommandProbe, Reading]] = []
        self._path = os.pathsep.join(part for part in (os.environ.get("PATH", ""), SYSTEM_PATH) if part)
        self._environment = {**os.environ, "LC_ALL": "C", "LANGUAGE": "C", "PATH": self._path}

    def start(self, probe: CommandProbe | FileProbe, first: Reading | None = None) -> None:
        """Start a command, or record why it does not run; `first` is the first sample of one that runs again."""
        self.ids.add(probe.id)
        argv, listed = self._argv(probe)
        program = shutil.which(argv[0], path=self._path)
        if not self.local:
            self._record(first, Reading(probe.id, Ending.NOT_COLLECTED, note="a copied tree runs no commands"))
        elif probe.guard and not guard_holds(probe.guard):
            self._record(first, Reading(probe.id, Ending.NOT_COLLECTED, note=probe.guard.why_not))
        elif program is None:
            self._record(first, Reading(probe.id, Ending.ABSENT, note=f"{argv[0]} is not installed"))
        else:
            self._spawn(probe, [program, *argv[1:]], listed, first)

    def _record(self, first: Reading | None, reading: Reading) -> None:
        self.readings[reading.probe] = reading if first is None else replace(first, later=reading)

    def _spawn(
        self, probe: CommandProbe | FileProbe, argv: list[str], listed: tuple[str, ...], first: Reading | None
    ) -> None:
        out, err = os.memfd_create(probe.id), os.memfd_create(probe.id)
        at = _now()
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self._environment,
                start_new_session=True,
            )
        except OSError as problem:
            os.close(out)
            os.close(err)
            ending = Ending.DENIED if isinstance(problem, PermissionError) else Ending.ERROR
            self._record(first, Reading(probe.id, ending, note=f"{argv[0]}: {problem.strerror}"))
            return
        with suppress(OSError, ValueError):
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (probe.total, probe.total))
        self._running.append(_Child(probe, process, out, err, at, listed, first))

    def _argv(self, probe: CommandProbe | FileProbe) -> tuple[list[str], tuple[str, ...]]:
        if isinstance(probe, FileProbe):
            paths = _Reader("/").expand(probe.paths)
            return ["head", "-c", str(probe.limit + 1), "/dev/null", *paths], tuple(paths)
        if probe.local_module:
            return [sys.executable, "-P", "-m", probe.local_module], ()
        return list(probe.argv), ()

    def wait(self, progress: Callable[[str, int], None] | None = None) -> None:
        """Return when every command has ended or was given up."""
        while self._running or self._again:
            self._pause()
            now = _now()
            for due in [entry for entry in self._again if entry[0] <= now]:
                self._again.remove(due)
                self.start(due[1], first=due[2])
            for child in list(self._running):
                if child.process.poll() is not None:
                    self._finish(child)
                elif child.why is None and now - child.at > child.probe.seconds:
                    self._kill(child, Ending.TIMEOUT)
                elif child.why is None and os.fstat(child.out).st_size > child.probe.total:
                    self._kill(child, Ending.TRUNCATED)
                elif child.why is not None and now > child.doomed:
                    self._leave_behind(child)
            if progress and self._running:
                slowest = max(self._running, key=lambda child: now - child.at)
                progress(slowest.probe.id, len(self._running))

    def _pause(self) -> None:
        """Sleep until a child ends, or shortly."""
        descriptors = []
        for child in self._running:
            with suppress(OSError):
                descriptors.append(os.pidfd_open(child.process.pid))
        try:
            if descriptors and len(descriptors) == len(self._running):
                select.select(descriptors, [], [], 0.1 if not self._again else 0.01)
            else:
                time.sleep(0.005)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _kill(self, child: _Child, why: Ending) -> None:
        child.why, child.doomed = why, _now() + _GRACE
        with suppress(OSError):
            os.killpg(child.process.pid, signal.SIGKILL)

    def _leave_behind(self, child: _Child) -> None:
        # Without a return code, Popen would warn about the child and try to reap it at exit.
        child.process.returncode = -signal.SIGKILL
        self._finish(child, behind=True)

    def _finish(self, child: _Child, *, behind: bool = False) -> None:
        self._running.remove(child)
        probe, seconds = child.probe, _now() - child.at
        out, err = _contents(child.out, probe.total), _contents(child.err, 64 * 1024)
        ending, code, note = _ending(child, len(out), behind=behind)
        files: dict[str, FileState] = {}
        if isinstance(probe, FileProbe) and ending in (Ending.OK, Ending.EXIT):
            ending, code = Ending.OK, 0
            files = parse_head(out, err, dict.fromkeys(child.listed, probe.limit))
        reading = Reading(
            probe=probe.id,
            ending=ending,
            code=code,
            seconds=round(seconds, 4),
            at=child.at,
            note=note,
            out=b"" if files else out[: probe.total],
            err=b"" if files else err,
            asked=probe.paths if isinstance(probe, FileProbe) else (),
            files=files,
        )
        self._record(child.first, reading)
        if isinstance(probe, CommandProbe) and probe.twice and child.first is None and ending is Ending.OK:
            self._again.append((child.at + self.window, probe, reading))

    def stop(self) -> None:
        """Kill what runs, and say that it was interrupted."""
        for child in list(self._running):
            self._kill(child, Ending.KILLED)
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(_GRACE)
            self._finish(child, behind=child.process.returncode is None)
            self.readings[child.probe.id] = Reading(child.probe.id, Ending.KILLED, note=INTERRUPTED)


def _contents(descriptor: int, limit: int) -> bytes:
    data = os.pread(descriptor, limit + 1, 0)
    os.close(descriptor)
    return data


def _ending(child: _Child, size: int, *, behind: bool) -> tuple[Ending, int | None, str]:
    code = child.process.returncode
    if child.why is Ending.TIMEOUT:
        left = "; it cannot be killed and was left behind" if behind else ""
        return Ending.TIMEOUT, None, f"no answer in {child.probe.seconds:g} s{left}"
    if child.why is Ending.TRUNCATED or code == -signal.SIGXFSZ or size > child.probe.total:
        return Ending.TRUNCATED, None, f"more than {child.probe.total} bytes"
    if code is not None and code < 0:
        return Ending.KILLED, -code, f"signal {-code}"
    return (Ending.EXIT if code else Ending.OK), code, ""


def guard_holds(guard: Guard) -> bool:
    """Whether a guarded probe may be asked on this host."""
    if not any(glob.glob(path) for path in guard.any_of):
        return False
    states = glob.glob(guard.awake) if guard.awake else []
    return not states or any(_word(path) != "suspended" for path in states)


def _word(path: str) -> str:
    try:
        return Path(path).read_text("ascii", "replace").strip()
    except OSError:
        return ""
