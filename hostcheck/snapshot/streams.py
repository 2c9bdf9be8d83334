"""What `head` and `ls` print, by which both producers read many files with one process."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping

from hostcheck.snapshot.reading import Ending, Entry, FileState


def lines(data: bytes) -> list[str]:
    """Return the lines of a stream that are not empty."""
    return [line for line in data.decode("utf-8", "replace").split("\n") if line]


def parse_head(out: bytes, err: bytes, limits: Mapping[str, int | None]) -> dict[str, FileState]:
    """Split what `head -c LIMIT /dev/null PATH...` printed into files.

    A file can hold a line that looks like a header, so only the header of a path that comes later in `limits` counts.

    Args:
        out, err: the two streams.
        limits: the paths in the order in which they were given, with the bytes above which each was or is to be cut.
    """
    complaints = _complaints(err, limits)
    found: list[tuple[str, int, int]] = []
    position = 0
    for path in limits:
        if _file_ending(complaints.get(path, "")) in (Ending.ABSENT, Ending.DENIED):
            continue
        header = b"\n==> %b <==\n" % path.encode("utf-8", "replace")
        start = out.find(header, position)
        if start >= 0:
            position = start + len(header)
            found.append((path, start, position))
    ends = [start for _, start, _ in found[1:]] + [len(out)] * bool(found)
    contents = {path: out[begin:end] for (path, _, begin), end in zip(found, ends, strict=True)}
    files = {path: _file_state(contents.get(path), complaints.get(path, ""), limit) for path, limit in limits.items()}
    return {path: state for path, state in files.items() if state.ending is not Ending.ABSENT or "*" not in path}


def cut_last(files: dict[str, FileState]) -> None:
    """Mark the last file of a stream that was cut: nobody knows how much of it is missing."""
    whole = [path for path, state in files.items() if state.ending is Ending.OK]
    if whole:
        files[whole[-1]] = FileState(Ending.TRUNCATED, files[whole[-1]].data, "the output was cut here")


def _complaints(err: bytes, known: Container[str]) -> dict[str, str]:
    complaints: dict[str, str] = {}
    for line in err.decode("utf-8", "replace").splitlines():
        named = re.search(r"(/[^'\"]*?)['\"]?(?: for reading)?: ([^:]+)$", line)
        if named and named[1] in known:
            complaints[named[1]] = named[2].strip()
    return complaints


def _file_state(content: bytes | None, complaint: str, limit: int | None) -> FileState:
    if content is None:
        return FileState(_file_ending(complaint), b"", complaint or "nothing was read")
    if complaint.startswith("truncated") or (limit is not None and len(content) > limit):
        return FileState(Ending.TRUNCATED, content[:limit], complaint or f"truncated at {limit} bytes")
    return FileState(Ending.ERROR, b"", complaint) if complaint else FileState(Ending.OK, content)


def _file_ending(why: str) -> Ending:
    if "No such file" in why or "Not a directory" in why:
        return Ending.ABSENT
    if "ermission denied" in why or "not permitted" in why:
        return Ending.DENIED
    return Ending.ERROR


_LS = re.compile(r"([-dlcbps])([-rwxsStT]{9})\S?\s+\d+\s+(\d+)\s+(\d+)\s+\d+(?:,\s*\d+)?\s+\w+\s+\d+\s+[\d:]+\s+(/.*)")


def parse_ls(out: bytes, err: bytes) -> dict[str, Entry]:
    """Read the lines of `ls -ldn PATH...`; a path that may not be looked at becomes an entry of kind "?"."""
    entries: dict[str, Entry] = {}
    for line in lines(out):
        if found := _LS.fullmatch(line):
            path, _, target = found[5].partition(" -> ") if found[1] == "l" else (found[5], "", "")
            entries[path] = Entry(found[1], found[2], int(found[3]), int(found[4]), target)
    for line in lines(err):
        if denied := re.search(r"(/[^'\"]*)['\"]?: (?:Permission denied|Operation not permitted)$", line):
            entries[denied[1]] = Entry("?")
    return entries
