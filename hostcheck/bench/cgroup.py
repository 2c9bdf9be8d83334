"""What control groups, as of containers and jobs, leave to this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def memory_left(root: str = "/") -> int | None:
    """Return the bytes that may still be taken, files in the page cache not counted; None where nothing limits them."""
    left = []
    for group, unified in _groups("memory", root):
        names = ("memory.max", "memory.current") if unified else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        files = ("active_file", "inactive_file") if unified else ("total_active_file", "total_inactive_file")
        with suppress(OSError, ValueError, IndexError):
            limit, used = (int((group / name).read_text("ascii")) for name in names)
            told = (line.split() for line in (group / "memory.stat").read_text("ascii").splitlines())
            cached = sum(int(words[1]) for words in told if words and words[0] in files)
            left.append(max(0, limit - max(0, used - cached)))
    return min(left, default=None)


def cpus_left(root: str = "/") -> float | None:
    """Return how many CPUs' worth of time may be taken; None where nothing limits it."""
    left = []
    for group, unified in _groups("cpu", root):
        with suppress(OSError, ValueError):
            if unified:
                quota, period = map(int, (group / "cpu.max").read_text("ascii").split())
            else:
                quota, period = (int((group / f"cpu.cfs_{name}_us").read_text("ascii")) for name in ("quota", "period"))
            if quota > 0 and period > 0:
                left.append(quota / period)
    return min(left, default=None)


def _groups(controller: str, root: str) -> Iterator[tuple[Path, bool]]:
    """Yield the folders of this process's group and those above it, and whether they are of the unified hierarchy."""
    try:
        lines = Path(root, "proc/self/cgroup").read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, names, place = (*line.split(":", 2), "", "")[:3]
        if names and controller not in names.split(","):
            continue
        top = Path(root, "sys/fs/cgroup", *([controller] if names else []))
        # In a container the path can be that of the host, of which only the top is to be seen.
        parts = [part for part in place.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            yield Path(top, *parts[:depth]), not names
