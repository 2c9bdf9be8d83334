"""Keeping a process and its memory on one NUMA node, by the kernel's own calls; a host without such calls says so."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hostcheck.errors import Unavailable
from hostcheck.facts.cpu import parse_cpu_list

_DEFAULT, _PREFERRED, _BIND = 0, 1, 2
# Number of the system call set_mempolicy (asm/unistd.h); glibc has no function for it.
_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
_MASK_WORDS = 16  # 1024 nodes, the most that Linux can be built for


def node_of(bus_id: str, root: str = "/") -> int | None:
    """Return the NUMA node of a PCI function, None where the firmware or the guest names none."""
    try:
        node = int(Path(root, "sys/bus/pci/devices", bus_id, "numa_node").read_text("ascii"))
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None


def cpus_of(node: int, root: str = "/") -> set[int]:
    """Return the CPUs of a node; empty where it has none, or there is no such node."""
    try:
        return set(parse_cpu_list(Path(root, f"sys/devices/system/node/node{node}/cpulist").read_text("ascii")))
    except (OSError, ValueError, Unavailable):
        return set()


def distances(node: int, root: str = "/") -> dict[int, int]:
    """Return how far a node is from each that is online, as the firmware tells (10 is itself); empty if it does not."""
    nodes = Path(root, "sys/devices/system/node")
    try:
        online = parse_cpu_list((nodes / "online").read_text("ascii"))
        return dict(zip(online, map(int, (nodes / f"node{node}/distance").read_text("ascii").split()), strict=True))
    except (OSError, ValueError, Unavailable):
        return {}


def pin(node: int | None, root: str = "/") -> str:
    """Keep this process on the CPUs and the memory of a node.

    Returns:
        What holds now, such as "node1, 48 CPUs", or "not pinned: " and why, or that there is no need.
    """
    nodes = list(Path(root, "sys/devices/system/node").glob("node[0-9]*"))
    if node is None and len(nodes) <= 1:
        return "the host has one node"
    if node is None:
        return "not pinned: the NUMA node of the GPU is not known"
    allowed = cpus_of(node, root) & os.sched_getaffinity(0)
    if not allowed:
        return f"not pinned: this process may use no CPU of node{node}"
    try:
        os.sched_setaffinity(0, allowed)
    except OSError as problem:
        return f"not pinned: {problem.strerror}"
    refused = _policy(_BIND, node)
    held = f"node{node}, {len(allowed)} CPU{'s' if len(allowed) > 1 else ''}"
    return f"{held}, but not its memory: {refused}" if refused else held


@contextmanager
def memory_from(node: int) -> Iterator[str]:
    """Take memory that this thread touches for the first time from another node, as far as it has some.

    Yields:
        Why that cannot be; empty where it can. Afterwards memory comes from where the thread runs.
    """
    refused = _policy(_PREFERRED, node)
    try:
        yield refused
    finally:
        if not refused:
            _policy(_DEFAULT, None)


def _policy(mode: int, node: int | None) -> str:
    """Set the memory policy of this thread; return why it was refused, or an empty string."""
    number = _SET_MEMPOLICY.get(platform.machine())
    if number is None:
        return f"hostcheck does not know the system call on {platform.machine()}"
    mask = (ctypes.c_uint64 * _MASK_WORDS)()
    if node is not None:
        mask[node // 64] = 1 << node % 64
    library = ctypes.CDLL(None, use_errno=True)
    words = None if node is None else ctypes.byref(mask)
    bits = 0 if node is None else 64 * _MASK_WORDS
    if library.syscall(ctypes.c_long(number), ctypes.c_long(mode), words, ctypes.c_ulong(bits)) != 0:
        return os.strerror(ctypes.get_errno())
    return ""
