"""What control groups leave: of both hierarchies, in containers and in jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostcheck.bench.cgroup import cpus_left, memory_left
from hostcheck.microbench import host_memory

GIB = 1 << 30
STAT = f"anon 1\nactive_file {GIB}\ninactive_file {GIB}\n"
OLD_STAT = f"cache 1\ntotal_active_file {GIB}\ntotal_inactive_file 0\n"
NO_LIMIT = "9223372036854771712"
TOP = "sys/fs/cgroup"


def made(root: Path, groups: str, files: dict[str, str]) -> str:
    for name, content in {"proc/self/cgroup": groups, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return str(root)


@pytest.mark.parametrize(
    ("groups", "files", "memory", "cpus"),
    [
        ("", {}, None, None),
        ("0::/", {}, None, None),
        ("0::/", {f"{TOP}/memory.max": "max", f"{TOP}/memory.current": "5", f"{TOP}/memory.stat": STAT,
                  f"{TOP}/cpu.max": "max 100000"}, None, None),
        # Of 4 GiB, 3 are in use, of which 2 hold files.
        ("0::/", {f"{TOP}/memory.max": str(4 * GIB), f"{TOP}/memory.current": str(3 * GIB), f"{TOP}/memory.stat": STAT,
                  f"{TOP}/cpu.max": "250000 100000"}, 3 * GIB, 2.5),
        ("0::/job/step", {
            f"{TOP}/job/memory.max": str(2 * GIB), f"{TOP}/job/memory.current": "0", f"{TOP}/job/memory.stat": "",
            f"{TOP}/job/step/memory.max": "max", f"{TOP}/job/cpu.max": "50000 100000",
            f"{TOP}/job/step/cpu.max": "200000 100000"}, 2 * GIB, 0.5),
        ("4:memory:/host/path\n2:cpu,cpuacct:/host/path\n0::/", {
            f"{TOP}/memory/memory.limit_in_bytes": str(2 * GIB), f"{TOP}/memory/memory.usage_in_bytes": str(2 * GIB),
            f"{TOP}/memory/memory.stat": OLD_STAT, f"{TOP}/cpu/cpu.cfs_quota_us": "-1",
            f"{TOP}/cpu/cpu.cfs_period_us": "100000"}, GIB, None),
        ("garbage\n0", {f"{TOP}/memory.max": "much", f"{TOP}/cpu.max": "1"}, None, None),
    ],
)  # fmt: skip
def test_what_is_left(
    tmp_path: Path, groups: str, files: dict[str, str], memory: int | None, cpus: float | None
) -> None:
    root = made(tmp_path, groups, files)
    assert memory_left(root) == memory
    assert cpus_left(root) == cpus


def test_arrays_and_threads_keep_within_what_a_container_has(tmp_path: Path) -> None:
    limits = {
        "proc/meminfo": "MemAvailable: 1048576000 kB", f"{TOP}/memory.max": str(GIB), f"{TOP}/memory.current": "0",
        f"{TOP}/memory.stat": STAT, f"{TOP}/cpu.max": "100000 100000",
    }  # fmt: skip
    (node,) = host_memory.nodes(made(tmp_path, "0::/", limits))
    assert node.free_bytes == GIB
    assert len(node.cpus) == 1
