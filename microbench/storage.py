"""How fast storage is read: a file of our own, past the page cache, in a folder that the user names."""

from __future__ import annotations

import errno
import json
import mmap
import os
import random
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
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
_MEMORY = ("tmpfs", "ramfs", "rootfs", "devtmpfs", "ram", "zram")
_UNKNOWN = "unknown"
_NO_UNNAMED = (errno.EOPNOTSUPP, errno.EISDIR)
"""What opening a file without a name ends with where the file system has none; the second before it knew the flag."""


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
    blocks of 1 MiB in order, 16 under way, and in pages of 4 KiB at random, 64 under way. It holds noise, no two pages
    alike, which takes half a second of a CPU for each GiB. fio reads where it is installed, else threads of our own.
    What fio reads while the time is taken nobody looks at: 64 pages all over the file are compared afterwards. Threads
    also look from where in the file each read came. Drives with a large cache of their own can be faster than they are
    for more data. Folders in memory are refused, also below an overlay.
    """
    folder = lab.options.get("path")
    if not folder:
        raise NotApplicable("storage is measured only where you say: --option path=FOLDER")
    with created(Path(folder), _GIB_OF_LEVEL.get(lab.level, 64) * GIB) as file:
        file.name.unlink(missing_ok=True)
        size = filled(file.room, _WRITING * lab.seconds, _writer(file.descriptor))
        for work in WORKS:
            yield _measured(lab, work, file, size, folder)


@dataclass(frozen=True, slots=True)
class File:
    """An empty file for reading and writing past the page cache.

    Attributes:
        room: how many bytes may go into it.
        system: on what it lies, as `lies_on` says.
        name: that it may have; it has it from the start only where files without a name are not to be had.
    """

    descriptor: int
    room: int
    system: str
    name: Path

    @contextmanager
    def named(self) -> Iterator[None]:
        """Let it have its name for a moment, and none from then on."""
        if not os.fstat(self.descriptor).st_nlink:
            # Only with a folder's descriptor does Python have the kernel follow the link to the file.
            source = f"/proc/self/fd/{self.descriptor}"
            os.link(source, self.name, src_dir_fd=self.descriptor, follow_symlinks=True)
        try:
            yield
        finally:
            self.name.unlink(missing_ok=True)


@contextmanager
def created(folder: Path, most: int) -> Iterator[File]:
    """Give a file of at most so many bytes that is gone at the end, also of a process that is killed.

    Where the file system has no files without a name, a process that is killed before `File.name` goes leaves it.

    Raises:
        HostcheckError: it cannot be had there; also what fails within the block, as a read that ends early.
    """
    name = folder / f".hostcheck-bench-{secrets.token_hex(8)}"
    try:
        # Asked first for what is free, since that mounts what autofs mounts on demand.
        free = shutil.disk_usage(folder).free
        system = _storage(folder)
        size = min(most, int(free * _FREE_SHARE)) // BLOCK * BLOCK
        if size < GIB // 4:
            raise HostcheckError(f"{folder}: {free / 2**20:,.0f} MiB are free, 512 are needed to read from it")
        descriptor = _opened(name)
    except OSError as problem:
        with suppress(OSError):
            name.unlink()
        if problem.errno == errno.EINVAL:
            raise HostcheckError(f"{folder}: its file system ({system}) has no O_DIRECT") from None
        raise HostcheckError(f"{folder}: {problem.strerror}") from None
    try:
        yield File(descriptor, size, system, name)
    except OSError as problem:
        raise HostcheckError(f"{folder}: {problem.strerror}") from None
    finally:
        os.close(descriptor)
        with suppress(OSError):
            name.unlink()


def _opened(name: Path) -> int:
    """Open a new file without a name; with this one, where the file system has no others."""
    flags = os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC
    try:
        return os.open(name.parent, flags | os.O_TMPFILE, 0o600)
    except OSError as problem:
        if problem.errno not in _NO_UNNAMED:
            raise
    return os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600)


def _storage(folder: Path) -> str:
    """Return on what a folder lies.

    Raises:
        HostcheckError: on memory, or that cannot be told.
    """
    system = lies_on(folder)
    below = system.split(" on ")[-1]
    if below in _MEMORY:
        raise HostcheckError(f"{folder} is in memory ({system}); name a folder on the storage that is to be measured")
    if below == _UNKNOWN:
        raise HostcheckError(
            f"{folder}: whether it is in memory cannot be told from here (file system: {system}); "
            "name a folder whose file system is mounted here"
        )
    return system


def lies_on(place: Path) -> str:
    """Return the file system of a place and what is below it, such as "ext4", "overlay on xfs" or "ext4 on zram".

    Below an overlay is what its upper layer lies on, for there is what is written; below a loop device, its file.
    """
    kind, device, options = mounts(Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")).get(
        _mount_of(place), (_UNKNOWN, "", {})
    )
    drive = Path("/sys/dev/block", device).resolve()
    below = options.get("upperdir", "") if kind == "overlay" else _read(drive / "loop/backing_file")
    if below:
        try:
            return f"{kind} on {lies_on(Path('/', below))}"
        except OSError:
            return f"{kind} on {_UNKNOWN}"
    in_memory = re.fullmatch(r"(z?ram)\d+", drive.name)
    return f"{kind} on {in_memory[1]}" if in_memory else kind


def _mount_of(place: Path) -> str:
    """Return the number of the mount through which a place is reached; what its path looks like can mislead."""
    descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
    try:
        told = Path(f"/proc/self/fdinfo/{descriptor}").read_text("ascii")
    finally:
        os.close(descriptor)
    return dict(line.split(":\t", 1) for line in told.splitlines() if ":\t" in line).get("mnt_id", "")


def mounts(text: str) -> dict[str, tuple[str, str, dict[str, str]]]:
    """Return the type, the device (major:minor) and the options of each file system of mountinfo, by its number."""
    found = {}
    for line in filter(None, text.split("\n")):
        mount, _, system = line.partition(" - ")
        number, _, device, *_ = mount.split(" ")
        kind, *_, options = system.split(" ")
        pairs = (option.partition("=") for option in options.split(","))
        found[number] = (kind, device, {name: _unescaped(value) for name, _, value in pairs})
    return found


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "surrogateescape").removesuffix("\n")
    except OSError:
        return ""


_NOISE = random.Random(1).randbytes(BLOCK)  # noqa: S311 # data, not a secret


@lru_cache(maxsize=1)
def _block(number: int) -> bytes:
    """Return the noise of a block, which no drive can compress, nor find a second time in the file.

    It is the same random bytes for all, and for each block other bytes in their place: a permutation of the 256. That
    takes half a second for a GiB, where random bytes of its own take three.
    """
    return _NOISE.translate(bytes(random.Random(number).sample(range(256), 256)))  # noqa: S311


def _page(offset: int) -> bytes:
    """Return what a page of the file holds: where it is, and noise."""
    number, at = divmod(offset, BLOCK)
    return offset.to_bytes(8, "little") + _block(number)[at + 8 : at + PAGE]


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
            for offset in range(begin, end, BLOCK):
                block[:] = _block(offset // BLOCK)
                for at in range(0, BLOCK, PAGE):
                    block[at : at + 8] = (offset + at).to_bytes(8, "little")
                if os.pwrite(descriptor, block, offset) != BLOCK:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)

    return write


def _measured(lab: Lab, work: Work, file: File, size: int, folder: str) -> Sampled:
    descriptor = file.descriptor
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
    failed = runs.count(None)
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
            "file system": file.system,
            "read by": "fio, libaio" if fio else "threads",
            "verified": f"{_LOOKED_AT} pages afterwards{'' if fio else ', and where each read came from'}",
        },
        verified=_right(descriptor, size),
        invalid=f"fio failed in {failed} of {_RUNS} runs: dmesg may say why" if failed else "",
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
