"""Ordinary memory of the host on a chosen NUMA node, for copies to and from GPUs."""

from __future__ import annotations

import ctypes
import mmap
import platform
from contextlib import nullcontext

from hostcheck.bench.pinning import memory_from
from hostcheck.errors import HostcheckError

# Number of the system call get_mempolicy (asm/unistd.h); glibc has no function for it.
_GET_MEMPOLICY = {"x86_64": 239, "aarch64": 236}
_NODE_OF_ADDRESS = 1 | 2  # MPOL_F_NODE | MPOL_F_ADDR


class HostMemory:
    """Pageable memory, every page of which is there.

    Args:
        size: in bytes.
        node: from which to take it; where the thread runs if not given.

    Attributes:
        pointer: its address.
        view: its content.
    """

    def __init__(self, size: int, node: int | None = None) -> None:
        self.size = size
        try:
            self._map = mmap.mmap(-1, size)
        except OSError as problem:
            raise HostcheckError(f"{size / 2**20:.0f} MiB of host memory cannot be had: {problem.strerror}") from None
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._map.madvise(mmap.MADV_HUGEPAGE)
        self._place = (ctypes.c_char * size).from_buffer(self._map)
        self.pointer = ctypes.addressof(self._place)
        self.view = memoryview(self._map)
        with memory_from(node) if node is not None else nullcontext():
            ctypes.memset(self.pointer, 0x5A, size)

    def nodes(self) -> set[int] | None:
        """Return the NUMA nodes on which it lies, by pages all over it; None where the kernel does not tell."""
        steps = range(0, self.size, max(mmap.PAGESIZE, self.size // 64))
        found = {_node_at(self.pointer + step) for step in steps}
        return None if None in found else {node for node in found if node is not None}

    def free(self) -> None:
        """Give it back; a second time does nothing."""
        if self.pointer:
            self.pointer = 0
            self.view.release()
            del self._place
            self._map.close()


def _node_at(address: int) -> int | None:
    number = _GET_MEMPOLICY.get(platform.machine())
    if number is None:
        return None
    node = ctypes.c_int(-1)
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    arguments = (
        ctypes.byref(node),
        None,
        ctypes.c_ulong(0),
        ctypes.c_void_p(address),
        ctypes.c_ulong(_NODE_OF_ADDRESS),
    )
    return node.value if syscall(ctypes.c_long(number), *arguments) == 0 else None
