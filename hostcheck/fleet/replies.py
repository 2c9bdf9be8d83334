"""What Ansible's raw task brought back, read without trust, into the store of a run directory."""

from __future__ import annotations

import base64
import binascii
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from hostcheck.errors import HostcheckError
from hostcheck.fleet.store import NOT_ASKED, Store
from hostcheck.model import Absentee
from hostcheck.render.safe import clip, safe
from hostcheck.snapshot.archive import read_archive
from hostcheck.transport.base import Answer, Reach

FOLDER = "replies"
ASKED = "asked.json"
MOST = 32 * 1024 * 1024
_FILE = 2 * MOST
_BEGIN = re.compile(r"^hostcheck:begin ([0-9.]*)[ \r]*$", re.MULTILINE)
_END = re.compile(r"^hostcheck:end ([0-9.]*)[ \r]*$", re.MULTILINE)
_SAID = "\nhostcheck:said"

# What ssh, sudo and Ansible say, as far as it tells apart what a person does next.
_CONNECTING = (
    (Reach.HOST_KEY, re.compile(r"host key verification failed|host identification has changed", re.I)),
    (Reach.DENIED, re.compile(r"permission denied|authentication fail|too many authentic|incorrect password", re.I)),
)  # fmt: skip
_PRIVILEGE = ((Reach.PRIVILEGE, re.compile(r"sudo|become|privilege|must have a tty|terminal is required", re.I)),)
_RUNNING = ((Reach.SHELL, re.compile(r"not found|no such file|not installed", re.I)),)
_CLOSED = re.compile(r"(Shared c|C)onnection to \S+ closed\.")
_TOO_MUCH = f"it sent more than {MOST // 1024 // 1024} MiB and was cut off"


def file_replies(run_dir: Path) -> int:
    """File every reply that waits in a run directory, and return how many there were.

    A reply is filed and taken away one by one, so that an interruption loses nothing. Each host is filed under the name
    that the inventory gives it. A host that the playbook lists in `asked.json` and that nothing is known of is filed as
    an error, so that none is forgotten.

    Raises:
        HostcheckError: the run directory cannot be read or written.
    """
    store, count = Store(run_dir), 0
    try:
        for path in sorted((run_dir / FOLDER).glob("*.json")):
            reply = _load(path)
            if isinstance(reply, dict) and isinstance(reply.get("host"), str):
                store.put(reply["host"], answer(reply))
                count += 1
            path.unlink()
        asked = run_dir / ASKED
        if asked.exists():
            for name in _load(asked) or ():
                state = store.find(str(name))
                if isinstance(state, Absentee) and state.reach == NOT_ASKED:
                    store.put(str(name), Answer(reach=Reach.ERROR, why="Ansible brought no reply; see what it printed"))
            asked.unlink()
        with suppress(OSError):
            (run_dir / FOLDER).rmdir()
    except OSError as problem:
        raise HostcheckError(f"{problem.filename or run_dir}: {problem.strerror}") from None
    return count


def _load(path: Path) -> Any:
    """Return what a file of the playbook holds; None where it is cut off, as by a full disk."""
    with path.open("rb") as opened:
        data = opened.read(_FILE + 1)
    try:
        return json.loads(data) if len(data) <= _FILE else None
    except (ValueError, RecursionError):
        return None


def answer(reply: dict[str, Any]) -> Answer:
    """Say how a host's reply ended; only a readable archive is well.

    Args:
        reply: `stdout`, `stderr`, `msg`, `unreachable`, `timedout` and `too_much`, as far as there are.
    """
    text, message = _text(reply, "stdout"), _text(reply, "msg").removeprefix("Task failed: ")
    received = len(text)
    if reply.get("too_much"):
        return Answer(reach=Reach.TOO_MUCH, why=_TOO_MUCH, received=received)
    if reply.get("timedout"):
        return Answer(reach=Reach.TIMEOUT, why="no answer in the time that a host is given", received=received)
    if reply.get("unreachable"):
        return Answer(reach=_reach(message, _CONNECTING, Reach.UNREACHABLE), why=_line(message, "no connection"))
    begin = _BEGIN.search(text)
    if begin is None:
        return _no_program(_CLOSED.sub("", f"{text} {_text(reply, 'stderr')}"), message, received)
    lines, _, tail = text[begin.end() :].rpartition(_SAID)
    end = _END.search(tail)
    if end is None:
        return Answer(reach=Reach.CUT, why="the connection ended in the middle of the answer", received=received)
    return _archive(lines, _line(tail[: end.start()], "nothing"), _seconds(begin[1], end[1]), received)


def _no_program(text: str, message: str, received: int) -> Answer:
    said = _line(text, "") or _line(message, "nothing")
    reach = _reach(said, _PRIVILEGE, Reach.SHELL)
    if reach is Reach.PRIVILEGE:
        advice = "give the become password to Ansible, or allow this user NOPASSWD with visudo"
        return Answer(reach=reach, why=f"no leave to become root: {said}; {advice}", received=received)
    return Answer(reach=reach, why=f"no sh ran; the account says: {said}", received=received)


def _archive(lines: str, said: str, seconds: float, received: int) -> Answer:
    def bad(reach: Reach, why: str) -> Answer:
        return Answer(reach=reach, why=why, seconds=seconds, received=received)

    try:
        out = base64.b64decode("".join(lines.split()), validate=True)
    except (binascii.Error, ValueError):
        return bad(Reach.ERROR, f"what came is not base64; it said: {said}")
    if not out:
        return bad(_reach(said, _RUNNING, Reach.ERROR), f"the program gave no archive; it said: {said}")
    if len(out) > MOST:
        return bad(Reach.TOO_MUCH, _TOO_MUCH)
    try:
        read_archive(out)
    except HostcheckError as problem:
        return bad(Reach.ERROR, f"{problem}; it said: {said}")
    return Answer(reach=Reach.OK, out=out, seconds=seconds, received=received)


def _text(reply: dict[str, Any], key: str) -> str:
    value = reply.get(key)
    return value if isinstance(value, str) else ""


def _reach(said: str, kinds: tuple[tuple[Reach, re.Pattern[str]], ...], otherwise: Reach) -> Reach:
    return next((reach for reach, words in kinds if words.search(said)), otherwise)


def _line(text: str, otherwise: str) -> str:
    """Return text of a host as one short line that cannot act on a terminal."""
    return clip(safe(" ".join(text[:2000].split())), 300) or otherwise


def _seconds(begin: str, end: str) -> float:
    try:
        return max(0.0, float(end) - float(begin))
    except ValueError:
        return 0.0
