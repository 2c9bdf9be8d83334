"""Options and helpers that several commands share."""

from __future__ import annotations

import errno
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from hostcheck.errors import HostcheckError


class Finite(click.FloatRange):
    """A number within a range; click lets nan through any range, and inf where it has no end."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return number


class Id(click.ParamType):  # type: ignore[type-arg] # older releases of click have no type argument
    """An id, or a pattern of ids; completes from what there is."""

    def __init__(self, name: str, ids: Callable[[], Iterable[str]]) -> None:
        """Take what help calls it, and what gives the ids; that is asked only to complete one."""
        self.name = name
        self._ids = ids

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        return [click.shell_completion.CompletionItem(id) for id in self._ids() if id.startswith(incomplete)]


def _checks() -> Iterable[str]:
    from hostcheck.registry import load_checks

    return load_checks()


def _tuners() -> Iterable[str]:
    from hostcheck.registry import load_tuners

    return load_tuners()


def _mended() -> Iterable[str]:
    from hostcheck.registry import load_tuners

    return (fix for tuner in load_tuners().values() for fix in tuner.fixes)


def _benches() -> Iterable[str]:
    from hostcheck.registry import load_benches

    return load_benches()


CHECK_ID = Id("check", _checks)
TUNER_ID = Id("tuner", lambda: sorted({*_tuners(), *_mended()}))
"""Of a tuner, or of a check that one mends."""
ANY_ID = Id("id", lambda: sorted({*_checks(), *_tuners()}))
"""Of a check, or of a tuner."""
BENCH_ID = Id("benchmark", _benches)


class PlanOrTarget(click.ParamType):  # type: ignore[type-arg] # as above
    """The file of a plan, or a host; completes files."""

    name = "word"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        return [click.shell_completion.CompletionItem(incomplete, type="file")]


def write(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write a file as a whole or not at all; into what is there and no file, such as /dev/null or a pipe, as it comes.

    Args:
        path: where to; "-" is standard output. A link stays one: what it leads to is written.
        data: what.
        private: for its owner alone to read.

    Raises:
        HostcheckError: it cannot be written; what was there before is untouched.
    """
    if path == Path("-"):
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as opened:
                opened.write(data)
            return
        real = path.resolve() if path.is_symlink() else path
        handle, temporary = tempfile.mkstemp(dir=real.parent, prefix=f".{real.name}.")
        try:
            with os.fdopen(handle, "wb") as opened:
                opened.write(data)
            umask = os.umask(0)
            os.umask(umask)
            Path(temporary).chmod(0o600 if private else 0o666 & ~umask)
            Path(temporary).replace(real)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as problem:
        raise HostcheckError(f"{path}: cannot be written: {problem.strerror}") from None


def look_ahead(*paths: Path | None) -> None:
    """Make sure, before what is to be written takes its time, that files can be made where `write` shall put them.

    Raises:
        HostcheckError: one cannot, in the words of `write`; or two are the same file.
    """
    files: set[Path] = set()
    for path in paths:
        if path is None:
            continue
        try:
            # Where the current folder is gone, this is the first to notice.
            place = path if path == Path("-") else path.resolve()
            if not path.exists() or path.is_file():
                if place in files:
                    raise HostcheckError(f"{path}: named twice: each output needs a file of its own")
                files.add(place)
            if path == Path("-") or (path.exists() and not path.is_file() and not path.is_dir()):
                continue
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            with tempfile.TemporaryFile(dir=place.parent):
                pass
        except OSError as problem:
            raise HostcheckError(f"{path}: cannot be written: {problem.strerror}") from None


def progress() -> Callable[[str, int], None] | None:
    """Return what shows on a terminal which probe is waited for, or None where nobody looks."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return None
    started = time.monotonic()

    def show(slowest: str, running: int) -> None:
        waited = time.monotonic() - started
        if waited > 1:
            more = f" and {running - 1} more" if running > 1 else ""
            click.echo(f"\r\x1b[Kreading: {slowest}{more}, {waited:.0f} s", err=True, nl=False)

    return show


def clear_progress() -> None:
    """Take the progress line away."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        click.echo("\r\x1b[K", err=True, nl=False)
