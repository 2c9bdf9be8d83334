"""The archive: one tar, the same from both producers, and its reader, which trusts nothing in it.

Layout (schema 2), every member a plain file:

    manifest            key=value lines
    asked               "ID<tab>PATH...": the paths and globs that each file or list probe was asked for
    p/ID/status         "ENDING CODE STARTED FINISHED LIMIT": times in seconds since boot, the limit in bytes a file;
                        a note on the second line
    p/ID/list           the paths as the shell expanded them
    p/ID/out, p/ID/err  the streams: of a command; of `head`, which puts "==> PATH <==" before each file; of `ls -ldn`
    p/ID/2/...          the second sample of a probe that is read twice
    p/+N/...            the same of a group: probes whose files one `head`, or whose paths one `ls`, read together. In
                        its list "ID" or "ID/2" and the probe's limit stand on two lines before the paths of each

In schema 1 the paths that a probe was asked for are in p/ID/asked, and there are no groups.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from hostcheck.errors import HostcheckError
from hostcheck.snapshot.probes import MIB
from hostcheck.snapshot.reading import SCHEMA, Ending, Entry, FileState, Manifest, Reading, Snapshot
from hostcheck.snapshot.streams import cut_last, lines, parse_head, parse_ls

MEMBERS = 2_000
TOTAL = 256 * MIB
_GROUP = re.compile(r"\+[0-9]{1,3}")
_PROBE = re.compile(r"[a-z0-9]+(\.[a-z0-9-]+)*")
_HEAD = b"==> "
_PARTS = {"status", "asked", "list", "out", "err"}


def write_archive(snapshot: Snapshot, target: IO[bytes]) -> None:
    """Write a snapshot as a compressed tar; equal snapshots give equal bytes."""
    with (
        gzip.GzipFile(fileobj=target, mode="wb", mtime=0, filename="") as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, data in _members(snapshot):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mtime = int(snapshot.manifest.time)
            info.mode = 0o600
            tar.addfile(info, io.BytesIO(data))


def _members(snapshot: Snapshot) -> Iterator[tuple[str, bytes]]:
    manifest = snapshot.manifest
    table = {
        "schema": manifest.schema,
        "tool": manifest.tool,
        "producer": manifest.producer,
        "time": f"{manifest.time:.0f}",
        "uptime": f"{manifest.uptime:.2f}",
        "hostname": manifest.hostname,
        "uid": manifest.uid,
        "redacted": int(manifest.redacted),
        "complete": 1,
    }
    yield "manifest", "".join(f"{key}={value}\n" for key, value in table.items()).encode()
    asked = (("\t".join((id, *reading.asked))) for id, reading in sorted(snapshot.readings.items()) if reading.asked)
    yield "asked", "".join(f"{line}\n" for line in asked).encode()
    for id, reading in sorted(snapshot.readings.items()):
        yield from _reading_members(f"p/{id}", reading)


def _reading_members(folder: str, reading: Reading) -> Iterator[tuple[str, bytes]]:
    code = "-" if reading.code is None else reading.code
    status = f"{reading.ending} {code} {reading.at:.2f} {reading.at + reading.seconds:.2f} -\n{reading.note}\n"
    yield f"{folder}/status", status.encode()
    if reading.files or reading.entries:
        yield f"{folder}/list", "".join(f"{path}\n" for path in (reading.files or reading.entries)).encode()
    out, err = reading.out, reading.err
    if reading.files:
        out, err = _head_output(reading.files)
    elif reading.entries:
        out, err = _ls_output(reading.entries)
    if out:
        yield f"{folder}/out", out
    if err:
        yield f"{folder}/err", err
    if reading.later is not None:
        yield from _reading_members(f"{folder}/2", reading.later)


def _head_output(files: Mapping[str, FileState]) -> tuple[bytes, bytes]:
    """Spell what was read as `head -v` does, with its complaints on the other stream."""
    out, err = [b"==> /dev/null <==\n"], []
    for path, state in files.items():
        if state.ending in (Ending.OK, Ending.TRUNCATED):
            out.append(b"\n==> %b <==\n%b" % (path.encode(), state.data))
        if state.ending is not Ending.OK:
            why = {Ending.ABSENT: "No such file or directory", Ending.DENIED: "Permission denied"}
            err.append(f"head: {path}: {why.get(state.ending, state.why or state.ending.value)}\n".encode())
    return b"".join(out), b"".join(err)


def _ls_output(entries: Mapping[str, Entry]) -> tuple[bytes, bytes]:
    seen = [f"{_ls_line(path, entry)}\n" for path, entry in entries.items() if entry.kind != "?"]
    denied = [f"ls: {path}: Permission denied\n" for path, entry in entries.items() if entry.kind == "?"]
    return "".join(seen).encode(), "".join(denied).encode()


def _ls_line(path: str, entry: Entry) -> str:
    arrow = f" -> {entry.target}" if entry.kind == "l" else ""
    return f"{entry.kind}{entry.mode} 1 {entry.uid} {entry.gid} 0 Jan  1 00:00 {path}{arrow}"


def read_archive(source: Path | bytes) -> Snapshot:
    """Read an archive, plain or gzipped, that may come from anywhere.

    Raises:
        HostcheckError: one line that says what is wrong with the file.
    """
    where = str(source) if isinstance(source, Path) else "the archive"
    try:
        data = source if isinstance(source, bytes) else _bounded(source)
    except OSError as problem:
        raise HostcheckError(f"{where}: {problem.strerror}") from None
    try:
        members = _unpack(_gunzip(data))
    except _Refused as problem:
        raise HostcheckError(f"{where}: {problem}") from None
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError) as problem:
        raise HostcheckError(f"{where}: not a readable hostcheck archive ({problem})") from None
    if "manifest" not in members:
        raise HostcheckError(f"{where}: not a hostcheck archive: it has no manifest")
    manifest = _manifest(members.pop("manifest"), where)
    listed = (line.split("\t") for line in lines(members.pop("asked", b"")))
    folders: dict[str, dict[str, bytes]] = {}
    for name, content in members.items():
        id, _, part = name.removeprefix("p/").partition("/")
        folders.setdefault(id, {})[part] = content
    try:
        asked = {_id(id): tuple(paths) for id, *paths in listed}
        read = {id: sample for name in list(folders) if name[0] == "+" for id, sample in _group(folders.pop(name))}
    except (_Refused, ValueError) as problem:
        raise HostcheckError(f"{where}: not a readable hostcheck archive ({problem})") from None
    ids = sorted({*folders, *asked, *(id.removesuffix("/2") for id in read)})
    return Snapshot(manifest, {id: _reading(id, folders.get(id, {}), asked.get(id, ()), read) for id in ids})


class _Refused(Exception):
    """Something in an archive that no honest producer writes."""


def _bounded(path: Path) -> bytes:
    with path.open("rb") as opened:
        data = opened.read(TOTAL + 1)
    if len(data) > TOTAL:
        raise HostcheckError(f"{path}: larger than {TOTAL // MIB} MiB, which no hostcheck archive is")
    return data


def _gunzip(data: bytes) -> bytes:
    if not data.startswith(b"\x1f\x8b"):
        return data
    unpacked = zlib.decompressobj(wbits=31)
    plain = unpacked.decompress(data, TOTAL + 1)
    if len(plain) > TOTAL:
        raise _Refused(f"it unpacks to more than {TOTAL // MIB} MiB")
    if not unpacked.eof:
        raise _Refused("it is cut off")
    return plain


def _unpack(data: bytes) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for count, info in enumerate(tar):
            if count >= MEMBERS:
                raise _Refused(f"it has more than {MEMBERS} members")
            name = info.name.removeprefix("./")
            if info.isdir():
                continue
            if not info.isreg():
                raise _Refused(f"member {_show(name)} is not a plain file")
            if not _is_ours(name):
                raise _Refused(f"member {_show(name)} has no place in a hostcheck archive")
            if name in members:
                raise _Refused(f"member {_show(name)} is there twice")
            opened = tar.extractfile(info)
            content = opened.read() if opened else b""
            if len(content) != info.size:
                raise _Refused("it is cut off")
            members[name] = content
    return members


def _is_ours(name: str) -> bool:
    if name in ("manifest", "asked"):
        return True
    parts = name.split("/")
    if len(parts) == 4 and parts[2] == "2":
        del parts[2]
    if len(parts) != 3 or parts[0] != "p":
        return False
    if _GROUP.fullmatch(parts[1]):
        return parts[2] in ("status", "list", "out", "err")
    return _PROBE.fullmatch(parts[1]) is not None and parts[2] in _PARTS


def _id(word: str) -> str:
    """Return the id of a probe, or of its second sample."""
    if not _PROBE.fullmatch(word.removesuffix("/2")):
        raise _Refused(f"{_show(word)} is no probe")
    return word


def _show(name: str) -> str:
    return ascii(name[:80])


def _manifest(data: bytes, where: str) -> Manifest:
    table = dict(line.partition("=")[::2] for line in data.decode("utf-8", "replace").splitlines())
    try:
        schema = int(table["schema"])
        if schema > SCHEMA:
            made = _show(table.get("tool", "?"))
            raise HostcheckError(
                f"{where}: made by a newer hostcheck ({made}, archive schema {schema}); this one reads up to {SCHEMA}"
            )
        manifest = Manifest(
            schema=schema,
            tool=table["tool"],
            producer=table["producer"],
            time=_number(table["time"]),
            uptime=_number(table["uptime"]),
            hostname=table["hostname"],
            uid=int(table["uid"]),
            redacted=table.get("redacted") == "1",
        )
    except (KeyError, ValueError) as problem:
        raise HostcheckError(f"{where}: its manifest is broken: {problem}") from None
    if "complete" not in table:
        raise HostcheckError(f"{where}: it is cut off: the host did not finish writing it")
    return manifest


def _number(text: str) -> float:
    """Return a time; what no clock can show (not finite, negative, after the year 9999) is refused."""
    value = float(text)
    if not 0 <= value < 253402300800:
        raise ValueError(f"{text!r} is no time")
    return value


def _group(parts: Mapping[str, bytes]) -> Iterator[tuple[str, _Sample]]:
    """Yield what a group read, probe by probe; nothing if it did not end well, and each was read by itself."""
    status = _status(parts.get("status", b""))
    if status.ending is not Ending.OK:
        return
    limit: int | None = None
    limits: dict[str, int | None] = {}
    members: list[tuple[str, list[str]]] = []
    words = iter(lines(parts.get("list", b"")))
    for word in words:
        if not word.startswith("/"):
            limit = _integer(next(words, ""))
            members.append((_id(word), []))
        elif members:
            members[-1][1].append(word)
            limits[word] = limit
    files, entries = _contents(status, parts, limits)
    for id, listed in members:
        own = {path: files[path] for path in listed if path in files}
        yield id, _Sample(status, own, {path: entries[path] for path in listed if path in entries})


def _contents(
    status: _Status, parts: Mapping[str, bytes], limits: Mapping[str, int | None]
) -> tuple[dict[str, FileState], dict[str, Entry]]:
    """Return what `head` or `ls` told of these paths."""
    out, err = parts.get("out", b""), parts.get("err", b"")
    if out.startswith(_HEAD):
        files = parse_head(out, err, limits)
        if status.ending is Ending.TRUNCATED:
            cut_last(files)
        return files, {}
    return {}, parse_ls(out, err) if status.ending is Ending.OK else {}


def _reading(id: str, parts: Mapping[str, bytes], asked: tuple[str, ...], read: Mapping[str, _Sample]) -> Reading:
    asked = asked or tuple(lines(parts.get("asked", b"")))
    first = read.get(id) or _sample({name: data for name, data in parts.items() if "/" not in name}, parts, asked)
    second = {name[2:]: data for name, data in parts.items() if name.startswith("2/")}
    later = read.get(f"{id}/2") or (_sample(second, parts, asked) if second else None)
    return replace(first.reading(id, asked), later=later.reading(id, asked) if later else None)


def _sample(parts: Mapping[str, bytes], shared: Mapping[str, bytes], asked: tuple[str, ...]) -> _Sample:
    status = _status(parts.get("status", b""))
    if asked and "list" in shared and status.ending in (Ending.OK, Ending.TRUNCATED):
        listed = lines(parts.get("list") or shared["list"])
        return _Sample(status, *_contents(status, parts, dict.fromkeys(listed, status.limit)))
    return _Sample(status, {}, {}, parts.get("out", b""), parts.get("err", b""))


@dataclass(frozen=True, slots=True)
class _Sample:
    """One reading of one probe."""

    status: _Status
    files: dict[str, FileState]
    entries: dict[str, Entry]
    out: bytes = b""
    err: bytes = b""

    def reading(self, id: str, asked: tuple[str, ...]) -> Reading:
        """Return it under the name of its probe."""
        return Reading(
            probe=id,
            ending=self.status.ending,
            code=self.status.code,
            seconds=max(self.status.finished - self.status.started, 0.0),
            at=self.status.started,
            note=self.status.note,
            out=self.out,
            err=self.err,
            asked=asked,
            files=self.files,
            entries=self.entries,
        )


@dataclass(frozen=True, slots=True)
class _Status:
    """What a probe's status says: times in seconds since boot, `limit` in bytes a file."""

    ending: Ending
    code: int | None = None
    started: float = 0.0
    finished: float = 0.0
    limit: int | None = None
    note: str = ""


def _status(data: bytes) -> _Status:
    words, _, note = data.decode("utf-8", "replace").partition("\n")
    try:
        ending, code, started, finished, limit = words.split()
        return _Status(Ending(ending), _integer(code), float(started), float(finished), _integer(limit), note.strip())
    except ValueError:
        return _Status(Ending.ERROR, note=note.strip())


def _integer(word: str) -> int | None:
    return None if word == "-" else int(word)
