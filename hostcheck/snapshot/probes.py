"""Probes: what is read from a host, as data. Both producers carry out the same ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Guard:
    """When a probe would change something, or cannot answer: read only if this holds, without asking the device.

    Attributes:
        any_of: at least one of these paths exists.
        awake: a glob of `power/runtime_status` files; the probe is left out if all of them say "suspended".
        why_not: what is told where the guard does not hold.
    """

    any_of: tuple[str, ...]
    awake: str = ""
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class FileProbe:
    """The contents of files, read without a process per file.

    Attributes:
        id: name of the probe and of its folder in the archive.
        paths: absolute paths or globs. A path without a match is known to be absent.
        limit: bytes kept of each file; what is longer is truncated.
        total: bytes kept of all of them together.
        seconds: time limit.
        twice: read again at the end, so that counters give a rate.
        may_hang: a driver can keep a reader for ever (as /proc/driver/nvidia does): never read by hostcheck itself.
        guard: left out where it does not hold.
    """

    id: str
    paths: tuple[str, ...]
    limit: int = 64 * KIB
    total: int = 16 * MIB
    seconds: float = 5.0
    twice: bool = False
    may_hang: bool = False
    guard: Guard | None = None


@dataclass(frozen=True, slots=True)
class ListProbe:
    """Existence, type and link target of paths (`ls -ldn`), for device nodes, sockets and sysfs links."""

    id: str
    paths: tuple[str, ...]
    total: int = 4 * MIB
    seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class CommandProbe:
    """One command with its own limits, no standard input, and LC_ALL=C.

    Attributes:
        argv: the command; its first word is looked up on PATH and in the usual system folders. Without one, and without
            a module, nothing is run: a command of hostcheck's own puts the answer into the snapshot.
        twice: run again after the first run, for counters that only a command shows.
        guard: left out where it does not hold.
        local_module: run this Python module of ours in its place; only where hostcheck itself runs on the host.
    """

    id: str
    argv: tuple[str, ...] = ()
    total: int = 4 * MIB
    seconds: float = 10.0
    twice: bool = False
    guard: Guard | None = None
    local_module: str = ""


Probe: TypeAlias = FileProbe | ListProbe | CommandProbe


def is_given(probe: Probe) -> bool:
    """Whether the answer is put into the snapshot, as measurements are, so that no producer can ask for it."""
    return isinstance(probe, CommandProbe) and not probe.argv and not probe.local_module


_GPUS_POWER = "/sys/bus/pci/drivers/nvidia/*/power/runtime_status"

NVIDIA_DRIVER = Guard(
    any_of=("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg"),
    awake=_GPUS_POWER,
    why_not="the NVIDIA driver is not loaded, or every GPU is suspended, and asking would load or wake it",
)
GPUS_AWAKE = Guard(
    any_of=("/sys",),
    awake=_GPUS_POWER,
    why_not="every GPU is suspended, and reading its link, or the ports above it, would wake it",
)
