"""How fast storage is read: a file of our own, past the page cache, in a folder that the user names."""

from __future__ import annotations

import errno
import json
import mmap
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hostcheck.bench.model import Backend, Level, Sampled, Scope
from hostcheck.bench.options import FOLDER
from hostcheck.errors import HostcheckError, NotApplicable
from hostcheck.registry import bench

if TYPE_CHECKING:
    from hostcheck.bench.lab import Lab

GIB = 2**30
PAGE = 4096
BLOCK = 2**20
_GIB_OF_LEVEL = {Level.QUICK: 1, Level.STANDARD: 8, Level.FULL: 64}
_FREE_SHARE = 0.5
_WRITING = 0.3
"""Share of the time that goes into writing the file, at most."""
_DEPTH = {"sequential": 16, "random": 64}
_RUNS = 5
_LOOKED_AT = 64
_MEMORY = ("tmpfs", "ramfs")


@dataclass(frozen=True, slots=True)
class Work:
    """A way to read: blocks of so many bytes, so many under way, in order or at random."""

    case: str
    block: int
    unit: str

    @property
    def depth(self) -> int:
        """How many reads are under way at a time."""
        return _DEPTH[self.case]


WORKS = (Work("sequential", BLOCK, "GB/s"), Work("random", PAGE, "kIOPS"))


@bench(
    id="storage.read", scope=Scope.HOST, backend=Backend.NONE, level=Level.QUICK, seconds=12, options=[FOLDER],
    rows=["io-storage-bandwidth", "x-micro-storage"],
)  # fmt: skip
def read(lab: Lab) -> Iterator[Sampled]:
    """A file in the folder that `--option path=FOLDER` names is read at this rate, past the page cache.

    A file of 1 GiB (8 at the level standard, 64 at full; never more than half of what is free, nor than can be written
    in a third of the time) is written once, has no name, so that nothing is left behind, and is read with O_DIRECT: in
    blocks of 1 MiB in order, 16 under way, and in pages of 4 KiB at random, 64 under way. fio reads where it is
    installed, else threads of our own. Drives with a large cache of their own can be faster than they are for more
    data.
    """
    folder = lab.options.get("path")
    if not folder:
        raise NotApplicable("storage is measured only where you say: --option path=FOLDER")
    with created(Path(folder), _GIB_OF_LEVEL.get(lab.level, 64) * GIB) as (descriptor, room, name):
        name.unlink()
        size = filled(room, _WRITING * lab.seconds, _writer(descriptor))
        for work in WORKS:
            yield _measured(lab, work, descriptor, size, folder)


@contextmanager
def created(folder: Path, most: int) -> Iterator[tuple[int, int, Path]]:
    """Give an empty file, opened with O_DIRECT, how many bytes may go into it, and its name, which goes at the end.

    Raises:
        HostcheckError: it cannot be had there; also what fails within the block, as a read that ends early.
    """
    name = folder / f".hostcheck-bench-{os.getpid()}"
    if (kind := _kind(folder)) in _MEMORY:
        raise HostcheckError(f"{folder} is in memory ({kind}); name a folder on the storage that is to be measured")
    try:
        free = shutil.disk_usage(folder).free
        size = min(most, int(free * _FREE_SHARE)) // BLOCK * BLOCK
        if size < GIB // 4:
            raise HostcheckError(f"{folder}: {free / 2**20:,.0f} MiB are free, 512 are needed to read from it")
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_DIRECT | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        with suppress(OSError):
            name.unlink()
        if problem.errno == errno.EINVAL:
            raise HostcheckError(f"{folder}: its file system ({_kind(folder)}) has no O_DIRECT") from None
        raise HostcheckError(f"{folder}: {problem.strerror}") from None
    try:
        yield descriptor, size, name
    except OSError as problem:
        raise HostcheckError(f"{folder}: {problem.strerror}") from None
    finally:
        os.close(descriptor)
        with suppress(OSError):
            name.unlink()


def _kind(folder: Path) -> str:
    best = ("", "unknown")
    for line in Path("/proc/self/mounts").read_text("utf-8", "replace").splitlines():
        _, place, kind, *_ = line.split(" ")
        if folder.resolve().is_relative_to(place) and len(place) >= len(best[0]):
            best = (place, kind)
    return best[1]


_NOISE = random.Random(1).randbytes(PAGE - 8)  # noqa: S311 # data, not a secret


def _page(offset: int) -> bytes:
    """Return what a page of the file holds: where it is, and noise that no drive can compress."""
    return offset.to_bytes(8, "little") + _NOISE


def filled(most: int, seconds: float, write: Callable[[int, int], None]) -> int:
    """Write a file's first quarter of a GiB, and as much again while that ends in time; return how many bytes.

    By doubling, runs on the same storage come to the same size and can be compared.

    Args:
        most: bytes at most.
        seconds: that writing may take.
        write: writes from one offset to another.
    """
    begun, size, end = time.monotonic(), 0, min(most, GIB // 4)
    while True:
        write(size, end)
        size = end
        if size == most or 2 * (time.monotonic() - begun) > seconds:
            return size
        end = min(most, 2 * size)


def _writer(descriptor: int) -> Callable[[int, int], None]:
    """Return what writes pages as `_page` says."""

    def write(begin: int, end: int) -> None:
        with mmap.mmap(-1, BLOCK) as block:
            for at in range(8, BLOCK, PAGE):
                block[at : at + len(_NOISE)] = _NOISE
            for offset in range(begin, end, BLOCK):
                for at in range(0, BLOCK, PAGE):
                    block[at : at + 8] = (offset + at).to_bytes(8, "little")
                if os.pwrite(descriptor, block, offset) != BLOCK:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)

    return write


def _measured(lab: Lab, work: Work, descriptor: int, size: int, folder: str) -> Sampled:
    seconds = max(0.3, 0.6 * lab.seconds / len(WORKS) / _RUNS)
    fio = shutil.which("fio")
    runs = []
    with lab.watch():
        for number in range(_RUNS):
            runs.append(
                _by_fio(fio, work, descriptor, size, seconds) if fio else _by_threads(work, descriptor, size, seconds)
            )
            if number == 0 and fio and runs[0] is None:
                fio, runs = None, [_by_threads(work, descriptor, size, seconds)]
    per = 1e9 / work.block if work.unit == "GB/s" else 1e3
    return Sampled(
        samples=tuple(blocks / per for blocks in runs if blocks is not None),
        unit=work.unit,
        case=work.case,
        subject=str(Path(folder).absolute()),
        settings={
            "bytes of a read": work.block,
            "under way": work.depth,
            "bytes of the file": size,
            "file system": _kind(Path(folder)),
            "read by": "fio, libaio" if fio else "threads",
        },
        verified=_right(descriptor, size),
    )


def _by_fio(fio: str, work: Work, descriptor: int, size: int, seconds: float) -> float | None:
    """Return blocks a second, None where this fio cannot do it."""
    argv = [
        fio, "--output-format=json", "--name=hostcheck", f"--filename=/proc/{os.getpid()}/fd/{descriptor}",
        f"--size={size}", f"--bs={work.block}", f"--rw={'read' if work.case == 'sequential' else 'randread'}",
        f"--iodepth={work.depth}", "--ioengine=libaio", "--direct=1", "--readonly", "--allow_file_create=0",
        "--time_based", f"--runtime={round(seconds * 1000)}ms", "--randrepeat=0", "--norandommap",
    ]  # fmt: skip
    limit = 10 * seconds + 30
    try:
        done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=limit, check=False)
        job = json.loads(done.stdout)["jobs"][0]
        if done.returncode or job["error"]:
            return None
        return float(job["read"]["iops"]) or None
    except (OSError, subprocess.TimeoutExpired, ValueError, LookupError, TypeError):
        return None


def _by_threads(work: Work, descriptor: int, size: int, seconds: float) -> float:
    """Return blocks a second, each thread waiting for one read at a time."""
    end = time.monotonic() + seconds
    count = size // work.block

    def one(thread: int) -> int:
        order = random.Random(time.monotonic_ns() + thread)  # noqa: S311 # places, not a secret
        done = 0
        with mmap.mmap(-1, work.block) as block:
            while time.monotonic() < end:
                number = order.randrange(count) if work.case == "random" else (done * work.depth + thread) % count
                if os.preadv(descriptor, [block], number * work.block) != work.block:
                    raise OSError(errno.EIO, "a read ended early")
                if int.from_bytes(block[:8], "little") != number * work.block:
                    raise OSError(errno.EIO, "a read gave what was not written there")
                done += 1
        return done

    begun = time.monotonic()
    with ThreadPoolExecutor(work.depth) as threads:
        blocks = sum(threads.map(one, range(work.depth)))
    return blocks / (time.monotonic() - begun)


def _right(descriptor: int, size: int) -> bool:
    """Whether pages all over the file hold what was written there."""
    with mmap.mmap(-1, PAGE) as page:
        for offset in range(0, size, max(PAGE, size // _LOOKED_AT // PAGE * PAGE)):
            if os.preadv(descriptor, [page], offset) != PAGE or page[:] != _page(offset):
                return False
    return True
