"""Reading from storage straight into GPU memory (GPUDirect Storage), with proof that it was straight."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hostcheck.bench.model import Backend, Level, Sampled, Scope
from hostcheck.bench.options import FOLDER
from hostcheck.errors import HostcheckError, NotApplicable, install
from hostcheck.registry import bench

from . import pattern, storage

if TYPE_CHECKING:
    from hostcheck.bench.cuda import Buffer, Device
    from hostcheck.bench.lab import Lab

SEED = 3
BLOCK = 2**20
_THREADS = 16
_RUNS = 3
_GIB_OF_LEVEL = {Level.QUICK: 1, Level.STANDARD: 4}
_GIB_AT_MOST = 16
_PIECE = 16 * BLOCK
_WRITING = 0.15
"""Share of the time that goes into writing the file; each of six reads takes as long or less."""
_MAY_FALL_BACK = False

_INSTALL = install("bench")
_NOT_SET_UP = "DRIVER_NOT_INITIALIZED"
_ADVICE = {
    "IO_NOT_SUPPORTED": "its file system or drive is none that can be read straight; gdscheck -p lists those that can",
    "DEVICE_NOT_SUPPORTED": "this GPU has no GPUDirect Storage",
    "GPU_MEMORY_PINNING_FAILED": "the GPU's BAR1 is full or too small: nvidia-smi -q -d MEMORY",
}


@dataclass(frozen=True, slots=True)
class Reads:
    """How often cuFile has read so far, and how often of those by the CPU."""

    all: int
    by_cpu: int


@bench(
    id="gds.read", scope=Scope.GPU, backend=Backend.CUDA, level=Level.STANDARD, seconds=30, alone=True,
    options=[FOLDER],
    rows=["io-gds-bandwidth"],
    references=["NVIDIA GPUDirect Storage, cuFile API Reference Guide: cuFileGetStatsL3, cuFile Compatibility Mode"],
)  # fmt: skip
def read(lab: Lab) -> Iterator[Sampled]:
    """Storage is read straight into the memory of a GPU at this rate, and by way of the CPU at that.

    A file of 4 GiB (16 at the level full; never more than half of what is free on either side, nor than can be written
    in a sixth of the time) holds words that the GPU made. It lies in the folder that `--option path=FOLDER` names, and
    has a name only while cuFile opens it, so that nothing is left behind (where the file system knows no files without
    a name, it has one while it is written, too). 16 threads read it in blocks of 1 MiB: straight,
    by NVIDIA's cuFile, and with O_DIRECT into pinned memory of the host and from there to the GPU. The GPU compares
    every word. Where it may, cuFile falls back to the CPU in silence; here it may not (`allow_compat_mode` is off,
    which settings of some file systems overrule), and its count of reads by the CPU must stay as it was. A straight
    rate no better than the other says that GPUDirect Storage is not worth its trouble here.
    """
    folder = lab.options.get("path")
    if not folder:
        raise NotApplicable("storage is measured only where you say: --option path=FOLDER")
    library = _library()
    from hostcheck.bench.cuda import Device

    with Device(lab.gpu.ordinal) as device, opened(library, folder):
        most = min(_GIB_OF_LEVEL.get(lab.level, _GIB_AT_MOST) * storage.GIB, device.memory()[0] // 2)
        with storage.created(Path(folder), most) as file:
            size = _written(device, file.descriptor, file.room, _WRITING * lab.seconds)
            target = device.alloc(size)
            with registered(library, file, folder) as handle:
                for way, once in {
                    "straight": lambda: _straight(library, handle, target),
                    "by the CPU": lambda: _by_cpu(file.descriptor, target),
                }.items():
                    with _said(library, folder):
                        before = counted(library)
                        seconds, wrong = _measured(lab, target, once)
                        after = counted(library)
                    straight = way == "straight"
                    yield Sampled(
                        samples=tuple(size / 1e9 / each for each in seconds),
                        unit="GB/s",
                        case=way,
                        settings={
                            "threads": _THREADS,
                            "bytes of a read": BLOCK,
                            "bytes of the file": size,
                            "folder": folder,
                            "data": f"pseudo-random, seed {SEED}",
                        },
                        details={"reads by cuFile": after.all - before.all} if straight else {},
                        invalid=fallen_back(before, after) if straight else "",
                        verified=wrong == 0,
                    )


def _library() -> Any:
    """Return the module of cuFile's calls.

    Raises:
        NotApplicable: it is not installed, or too old to prove anything.
    """
    # Without it cuFile writes cufile.log wherever it is started.
    os.environ.setdefault("CUFILE_LOGFILE_PATH", os.devnull)
    try:
        from cuda.bindings import cufile

        version = cufile.get_version()
    except (ImportError, RuntimeError) as problem:
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise NotApplicable(f"cuFile is not installed ({reason[:120]}): {_INSTALL}") from None
    if not hasattr(cufile, "get_stats_l3"):
        raise NotApplicable(f"cuFile {version} does not count how it reads, so that nothing proves it: {_INSTALL}")
    return cufile


@contextmanager
def opened(library: Any, folder: str) -> Iterator[None]:
    """Open cuFile such that it may not fall back, and counts.

    Raises:
        NotApplicable: GPUDirect Storage is not set up here.
        HostcheckError: it is, and does not work.
    """
    with _said(library, folder):
        library.set_parameter_bool(int(library.BoolConfigParameter.PROPERTIES_ALLOW_COMPAT_MODE), _MAY_FALL_BACK)
        library.set_stats_level(3)
        library.driver_open()
    try:
        with _said(library, folder):
            library.stats_start()
        yield
    finally:
        with suppress(library.cuFileError):
            library.driver_close()


@contextmanager
def registered(library: Any, file: storage.File, folder: str) -> Iterator[int]:
    """Give cuFile's handle of a file, which has a name only while it is registered: by that cuFile opens it again."""
    with ExitStack() as held:
        with file.named():
            reading = os.open(file.name, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
            held.callback(os.close, reading)
            handle = held.enter_context(_handle(library, reading, folder))
        yield handle


@contextmanager
def _handle(library: Any, descriptor: int, folder: str) -> Iterator[int]:
    description = library.Descr()
    description.type = int(library.FileHandleType.OPAQUE_FD)
    description.handle.fd = descriptor
    with _said(library, folder):
        handle = library.handle_register(description.ptr)
    try:
        yield handle
    finally:
        with suppress(library.cuFileError):
            library.handle_deregister(handle)


@contextmanager
def _said(library: Any, folder: str) -> Iterator[None]:
    """Turn what cuFile refuses into one line."""
    try:
        yield
    except library.cuFileError as problem:
        known = {int(error): error.name for error in library.OpError}
        name = known.get(abs(int(problem.status)), f"status {problem.status}")
        if name == _NOT_SET_UP:
            raise NotApplicable(
                "GPUDirect Storage is not set up here: nvidia-fs is not loaded, and PCI P2PDMA is not to be had"
            ) from None
        raise HostcheckError(f"{folder}: cuFile says {name}: {_ADVICE.get(name, str(problem)[:200])}") from None


def counted(library: Any) -> Reads:
    """Return how often cuFile has read, over all GPUs of this process."""
    told = library.StatsLevel3()
    library.get_stats_l3(told.ptr)
    gpus = [told.per_gpu_stats[number] for number in range(int(told.num_gpus))]
    return Reads(sum(int(gpu.n_total_reads) for gpu in gpus), sum(int(gpu.n_posix_reads) for gpu in gpus))


def fallen_back(before: Reads, after: Reads) -> str:
    """Say what speaks against reads having been straight; empty where nothing does."""
    if after.all <= before.all:
        return "cuFile counted no read, so that nothing proves that it was straight"
    if more := after.by_cpu - before.by_cpu:
        return f"cuFile read {more:,} of {after.all - before.all:,} blocks by the CPU (compatibility mode)"
    return ""


def _written(device: Device, descriptor: int, room: int, seconds: float) -> int:
    """Fill a file with what the GPU makes, and return its size."""
    source, host, stream = device.alloc(room), device.pinned(_PIECE), device.stream()
    pattern.fill(source, SEED)

    def write(begin: int, end: int) -> None:
        for offset in range(begin, end, _PIECE):
            length = min(_PIECE, end - offset)
            stream.copy(host.pointer, source.pointer + offset, length)
            stream.synchronize()
            if os.pwrite(descriptor, host.view[:length], offset) != length:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)

    size = storage.filled(room, seconds, write)
    source.free()
    host.free()
    stream.free()
    return size


def _measured(lab: Lab, target: Buffer, once: Callable[[], float]) -> tuple[list[float], int]:
    """Return the seconds of each run, and how many words were wrong after any of them."""
    seconds, wrong = [], 0
    for _ in range(_RUNS):
        target.fill(pattern.NEVER)
        with lab.watch():
            seconds.append(once())
        wrong += pattern.wrong(target, SEED)
    return seconds, wrong


def _straight(library: Any, handle: int, target: Buffer) -> float:
    def some(thread: int) -> None:
        target.device.use()
        for offset in range(thread * BLOCK, target.size, _THREADS * BLOCK):
            if library.read(handle, target.pointer, BLOCK, offset, offset) != BLOCK:
                raise OSError(errno.EIO, "cuFile ended a read early")

    return _together(some)


def _by_cpu(descriptor: int, target: Buffer) -> float:
    device = target.device
    hosts = [device.pinned(BLOCK) for _ in range(_THREADS)]
    streams = [device.stream() for _ in range(_THREADS)]

    def some(thread: int) -> None:
        host, stream = hosts[thread], streams[thread]
        for offset in range(thread * BLOCK, target.size, _THREADS * BLOCK):
            if os.preadv(descriptor, [host.view], offset) != BLOCK:
                raise OSError(errno.EIO, "a read ended early")
            stream.copy(target.pointer + offset, host.pointer, BLOCK)
            stream.synchronize()

    try:
        return _together(some)
    finally:
        for host, stream in zip(hosts, streams, strict=True):
            stream.free()
            host.free()


def _together(some: Callable[[int], None]) -> float:
    """Let all threads do their share; return the seconds until the last one is done."""
    with ThreadPoolExecutor(_THREADS) as threads:
        begun = time.perf_counter()
        list(threads.map(some, range(_THREADS)))
        return time.perf_counter() - begun
