"""GPUs through the CUDA driver: memory, streams, events and launches, as far as benchmarks need them.

A thin layer over the calls of `cuda_calls` that adds types and frees memory. It uses the primary context, which torch
uses too, so that both can be measured side by side in one process.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from itertools import pairwise
from types import TracebackType
from typing import Any, TypeAlias

from hostcheck.bench import kernels
from hostcheck.bench.cuda_calls import NVIDIA_SMI, CudaError, call, driver, failed, start
from hostcheck.bench.hostmem import HostMemory

Argument: TypeAlias = "Buffer | HostBuffer | ctypes._SimpleCData[Any] | ctypes.Structure"

# When a held stream goes on by itself, in case that something queued on it waits for the GPU.
_HOLD_NS = 2_000_000_000


class Buffer:
    """Memory of a GPU, by a plain allocation."""

    def __init__(self, device: Device, size: int) -> None:
        self.device = device
        self.size = size
        device.use()
        try:
            self.pointer = int(call("cuMemAlloc", size))
        except CudaError as problem:
            if problem.name != "OUT_OF_MEMORY":
                raise
            free, total = device.memory()
            raise CudaError(
                f"{size / 2**30:.1f} GiB of GPU memory cannot be had: {free / 2**30:.1f} of {total / 2**30:.1f} GiB "
                f"are free; {NVIDIA_SMI}",
                problem.name,
            ) from None
        device.owned.append(self)

    def fill(self, word: int) -> None:
        """Set each 32-bit word. The rest of a size that is no multiple of 4 stays."""
        self.device.use()
        call("cuMemsetD32", self.pointer, word, self.size // 4)
        self.device.synchronize()

    def upload(self, content: bytes, offset: int = 0) -> None:
        """Write bytes, and wait for it."""
        self._inside(offset, len(content))
        self.device.use()
        call("cuMemcpyHtoD", self.pointer + offset, content, len(content))
        self.device.synchronize()

    def download(self, offset: int = 0, size: int | None = None) -> bytes:
        """Return bytes of it, after all that was queued on the GPU."""
        size = self.size - offset if size is None else size
        self._inside(offset, size)
        self.device.synchronize()
        content = bytearray(size)
        place = (ctypes.c_char * size).from_buffer(content)
        call("cuMemcpyDtoH", ctypes.addressof(place), self.pointer + offset, size)
        return bytes(content)

    def words(self, offset: int = 0, count: int | None = None) -> memoryview:
        """Return 32-bit words of it, counted from a byte offset."""
        return memoryview(self.download(offset, None if count is None else 4 * count)).cast("I")

    def free(self) -> None:
        """Give the memory back; a second time does nothing."""
        if self.pointer:
            self.device.use()
            call("cuMemFree", self.pointer)
            self.pointer = 0
            self.device.owned.remove(self)

    def _inside(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ValueError(f"bytes {offset} to {offset + size} of a buffer of {self.size}")


class HostBuffer:
    """Pinned memory of the host, that GPUs reach at the same address."""

    def __init__(self, device: Device, size: int) -> None:
        self.device = device
        self.size = size
        device.use()
        try:
            self.pointer = int(call("cuMemHostAlloc", size, driver().CU_MEMHOSTALLOC_PORTABLE))
        except CudaError as problem:
            if problem.name != "OUT_OF_MEMORY":
                raise
            raise CudaError(
                f"{size / 2**20:.0f} MiB of pinned host memory cannot be had; see the free memory and ulimit -l",
                problem.name,
            ) from None
        self.view = memoryview((ctypes.c_char * size).from_address(self.pointer)).cast("B")
        device.owned.append(self)

    def free(self) -> None:
        """Give the memory back; a second time does nothing."""
        if self.pointer:
            self.device.use()
            self.view.release()
            call("cuMemFreeHost", self.pointer)
            self.pointer = 0
            self.device.owned.remove(self)


class Pinning:
    """Ordinary memory of the host that is held in place, so that GPUs reach it at the same address."""

    def __init__(self, device: Device, memory: HostMemory) -> None:
        self.device = device
        self.pointer = memory.pointer
        device.use()
        call("cuMemHostRegister", memory.pointer, memory.size, driver().CU_MEMHOSTREGISTER_PORTABLE)
        device.owned.append(self)

    def free(self) -> None:
        """Let it go; a second time does nothing."""
        if self.pointer:
            self.device.use()
            call("cuMemHostUnregister", self.pointer)
            self.pointer = 0
            self.device.owned.remove(self)


class Stream:
    """A queue of work on one GPU, and the means to time it."""

    def __init__(self, device: Device) -> None:
        self.device = device
        device.use()
        self.handle = call("cuStreamCreate", int(driver().CUstream_flags.CU_STREAM_NON_BLOCKING))
        self._flags: HostBuffer | None = None
        device.owned.append(self)

    def copy(self, target: int, source: int, size: int) -> None:
        """Queue a copy of bytes from one address to another, of GPUs or of the host."""
        self.device.use()
        call("cuMemcpyAsync", target, source, size, self.handle)

    def fill(self, target: Buffer, word: int) -> None:
        """Queue the setting of each 32-bit word of a buffer."""
        self.device.use()
        call("cuMemsetD32Async", target.pointer, word, target.size // 4, self.handle)

    def wait(self, event: Any) -> None:
        """Let what is queued from now on wait for an event of any stream."""
        self.device.use()
        call("cuStreamWaitEvent", self.handle, event, 0)

    def mark(self) -> Any:
        """Queue an event that keeps its time, and return it."""
        self.device.use()
        event = call("cuEventCreate", int(driver().CUevent_flags.CU_EVENT_DEFAULT))
        call("cuEventRecord", event, self.handle)
        return event

    def synchronize(self) -> None:
        """Wait until all that was queued is done."""
        self.device.use()
        call("cuStreamSynchronize", self.handle)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Let nothing that is queued within, here or on a stream that waits for this one, run before the block ends.

        At most 500 launches, copies and events may be queued within, for which there is room, and nothing that waits
        for the GPU: no allocation, no pageable copy, no kernel that was never launched. At the end of the block all of
        it has run.

        Raises:
            CudaError: the host took longer than two seconds, so that times are void.
        """
        if self._flags is None:
            self._flags = HostBuffer(self.device, 8)
        flags = self._flags.view.cast("I")
        flags[0] = flags[1] = 0
        keep = self.device.kernel("hold", "hold").bind(1, 1, self._flags, ctypes.c_uint64(_HOLD_NS))
        keep(self)
        try:
            yield
        finally:
            flags[0] = 1
            self.synchronize()
        if flags[1]:
            raise CudaError("queueing the work took longer than 2 s, so its times are void; is the host overloaded?")

    def time(self, works: Sequence[Callable[[], object]]) -> tuple[float, ...]:
        """Queue pieces of work behind one another, each of which queues on this stream, and return the seconds of each.

        All are queued before the first one runs; see `hold` for what they may do.
        """
        with self.hold():
            marks = [self.mark()]
            for work in works:
                work()
                marks.append(self.mark())
        return elapsed(marks)

    def free(self) -> None:
        """Give it back, after what is queued; a second time does nothing."""
        if self.handle is not None:
            self.device.use()
            if self._flags is not None:
                self._flags.free()
            call("cuStreamDestroy", self.handle)
            self.handle = None
            self.device.owned.remove(self)


def elapsed(marks: Sequence[Any]) -> tuple[float, ...]:
    """Return the seconds from each event to the next, once all have passed, and give the events back."""
    try:
        return tuple(between(first, second) for first, second in pairwise(marks))
    finally:
        discard(marks)


def between(first: Any, second: Any) -> float:
    """Return the seconds from one event to another of the same GPU, once they have passed."""
    call("cuEventSynchronize", second)
    milliseconds: float = call("cuEventElapsedTime", first, second)
    return milliseconds / 1e3


def discard(marks: Sequence[Any]) -> None:
    """Give events back."""
    for event in marks:
        with suppress(CudaError):
            call("cuEventDestroy", event)


class Launch:
    """A kernel with its grid and arguments, ready to be queued often. It keeps its buffers alive, not their content."""

    def __init__(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared: int,
        args: Sequence[Argument],
    ) -> None:
        self.kernel = kernel
        self.grid = grid
        self.block = block
        self.shared = shared
        # The values stay where the driver reads them, at each launch.
        self._keep = (args, [_value(argument) for argument in args])
        values = self._keep[1]
        self._pointers = (ctypes.c_void_p * max(1, len(values)))(*(ctypes.addressof(value) for value in values))
        self._launch = driver().cuLaunchKernel
        self._fixed = (kernel.handle, *grid, *block, shared)
        self._address = ctypes.addressof(self._pointers)

    def __call__(self, stream: Stream) -> None:
        """Queue it.

        Raises:
            CudaError: the driver refused the launch.
        """
        self.kernel.device.use()
        (status,) = self._launch(*self._fixed, stream.handle, self._address, 0)
        if int(status) != 0:
            raise failed(f"launch of {self.kernel.name}", status)


class Graph:
    """Work that was recorded once, to be queued as one.

    Args:
        stream: on which it is recorded.
        record: queues the work on that stream; nothing of it runs.
    """

    def __init__(self, stream: Stream, record: Callable[[], object]) -> None:
        self.device = stream.device
        self.device.use()
        call("cuStreamBeginCapture", stream.handle, driver().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED)
        try:
            record()
        finally:
            graph = call("cuStreamEndCapture", stream.handle)
        try:
            self.handle = call("cuGraphInstantiate", graph, 0)
        finally:
            call("cuGraphDestroy", graph)
        call("cuGraphUpload", self.handle, stream.handle)
        stream.synchronize()
        self.device.owned.append(self)

    def __call__(self, stream: Stream) -> None:
        """Queue it."""
        self.device.use()
        call("cuGraphLaunch", self.handle, stream.handle)

    def free(self) -> None:
        """Give it back; a second time does nothing."""
        if self.handle is not None:
            self.device.use()
            call("cuGraphExecDestroy", self.handle)
            self.handle = None
            self.device.owned.remove(self)


def _value(argument: Argument) -> Any:
    if isinstance(argument, Buffer | HostBuffer):
        return ctypes.c_void_p(argument.pointer)
    if isinstance(argument, ctypes.Structure | ctypes._SimpleCData):
        return argument
    raise TypeError(f"{type(argument).__name__} is no argument of a kernel: its size is not known; use a ctypes type")


class Kernel:
    """A function of a compiled file."""

    def __init__(self, device: Device, module: Any, name: str) -> None:
        self.device = device
        self.name = name
        self.handle = call("cuModuleGetFunction", module, name.encode())
        self.attribute("NUM_REGS")  # asking also loads it, which must not happen in `Stream.hold`

    def attribute(self, name: str) -> int:
        """Return an attribute, such as "MAX_THREADS_PER_BLOCK"."""
        known = driver().CUfunction_attribute
        return int(call("cuFuncGetAttribute", getattr(known, f"CU_FUNC_ATTRIBUTE_{name}"), self.handle))

    def bind(
        self,
        grid: int | tuple[int, int, int],
        block: int | tuple[int, int, int],
        *args: Argument,
        shared: int = 0,
    ) -> Launch:
        """Return a launch of it with arguments and bytes of dynamic shared memory, for which the limit is raised."""
        if shared > 48 * 1024:
            known = driver().CUfunction_attribute
            wanted = known.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self.device.use()
            call("cuFuncSetAttribute", self.handle, wanted, shared)
        return Launch(self, _triple(grid), _triple(block), shared, args)


def _triple(size: int | tuple[int, int, int]) -> tuple[int, int, int]:
    return (size, 1, 1) if isinstance(size, int) else size


@cache
def _context(ordinal: int) -> Any:
    """Return the primary context of a GPU. It stays until the process ends: making it takes a while."""
    return call("cuDevicePrimaryCtxRetain", call("cuDeviceGet", ordinal))


class Device:
    """A GPU as this process counts them. Leaving the `with` block gives back all that was taken on it.

    Attributes:
        ordinal: as CUDA counts in this process.
        cc: compute capability.
        sm_count, l2_bytes: multiprocessors, and the size of the L2 cache as the driver tells it.
        arch: what kernels are compiled for, such as "sm_90a".
        driver: CUDA version that the driver supports.
        owned: what is to be given back.
    """

    def __init__(self, ordinal: int = 0) -> None:
        self.driver = start()
        self.ordinal = ordinal
        self.handle = call("cuDeviceGet", ordinal)
        self.cc = (self.attribute("COMPUTE_CAPABILITY_MAJOR"), self.attribute("COMPUTE_CAPABILITY_MINOR"))
        self.sm_count = self.attribute("MULTIPROCESSOR_COUNT")
        self.l2_bytes = self.attribute("L2_CACHE_SIZE")
        self.arch = kernels.arch_of(self.cc)
        self.context = _context(ordinal)
        self.owned: list[Buffer | HostBuffer | Pinning | Stream | Graph] = []
        self._modules: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._kernels: dict[tuple[str, str, tuple[str, ...]], Kernel] = {}

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """What the driver calls it, such as "NVIDIA H100 80GB HBM3"."""
        text: bytes = call("cuDeviceGetName", 256, self.handle)
        return text.split(b"\0")[0].decode("utf-8", "replace")

    def attribute(self, name: str) -> int:
        """Return an attribute, such as "CLOCK_RATE"."""
        known = driver().CUdevice_attribute
        return int(call("cuDeviceGetAttribute", getattr(known, f"CU_DEVICE_ATTRIBUTE_{name}"), self.handle))

    def memory(self) -> tuple[int, int]:
        """Return the bytes that are free, and all."""
        self.use()
        free, total = call("cuMemGetInfo")
        return int(free), int(total)

    def use(self) -> None:
        """Make it the one that calls of this thread go to."""
        call("cuCtxSetCurrent", self.context)

    def synchronize(self) -> None:
        """Wait for all that was queued on it."""
        self.use()
        call("cuCtxSynchronize")

    def stream(self) -> Stream:
        """Return a new stream."""
        return Stream(self)

    def alloc(self, size: int) -> Buffer:
        """Return new memory, whose content is undefined."""
        return Buffer(self, size)

    def pinned(self, size: int) -> HostBuffer:
        """Return new pinned memory of the host."""
        return HostBuffer(self, size)

    def pin(self, memory: HostMemory) -> Pinning:
        """Hold ordinary memory of the host in place. It must not be freed before."""
        return Pinning(self, memory)

    def kernel(self, file: str, name: str, options: Sequence[str] = ()) -> Kernel:
        """Return a function of a file of the content folder, compiled for this GPU.

        Raises:
            HostcheckError: NVRTC is missing or does not know this GPU, or the driver is older than it.
        """
        wanted = (file, name, tuple(options))
        if wanted not in self._kernels:
            self.use()
            compilation = (file, tuple(options))
            if compilation not in self._modules:
                code = kernels.compiled(file, self.arch, options=options, driver="{}.{}".format(*self.driver))
                self._modules[compilation] = call("cuModuleLoadData", code)
            self._kernels[wanted] = Kernel(self, self._modules[compilation], name)
        return self._kernels[wanted]

    def reach(self, peer: Device) -> bool:
        """Let this GPU read and write the memory of another directly; return whether it can."""
        if not call("cuDeviceCanAccessPeer", self.handle, peer.handle):
            return False
        self.use()
        try:
            call("cuCtxEnablePeerAccess", peer.context, 0)
        except CudaError as problem:
            if problem.name != "PEER_ACCESS_ALREADY_ENABLED":
                raise
        return True

    def close(self) -> None:
        """Give everything back; what fails after a lost GPU is of no interest any more."""
        for thing in reversed(list(self.owned)):
            with suppress(CudaError):
                thing.free()
        for module in self._modules.values():
            with suppress(CudaError):
                call("cuModuleUnload", module)
        self.owned.clear()
        self._modules.clear()
        self._kernels.clear()
