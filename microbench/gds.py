"""Reading from storage straight into GPU memory (GPUDirect Storage), with proof that it was straight."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hostcheck.bench.model import Backend, Level, Sampled, Scope
from hostcheck.bench.options import FOLDER
from hostcheck.errors import HostcheckError, NotApplicable
from hostcheck.registry import bench

if TYPE_CHECKING:
    from hostcheck.bench.lab import BenchGpu, Lab

_STATS = Path("/proc/driver/nvidia-fs/stats")
_TOOLS = ("/usr/local/cuda/gds/tools", "/opt/nvidia/gds/tools")
_WAYS = {"straight": 0, "by the CPU": 2}
_THREADS = 16
_RUNS = 3
_SIZE_MIB = {Level.QUICK: 64, Level.STANDARD: 512, Level.FULL: 4096}
_RATE = re.compile(r"IoType: READ XferType: (\w+) .*?Throughput: ([0-9.]+) GiB/sec", re.DOTALL)
_READS_OK = re.compile(r"^Reads\s*:.*?\bok=(\d+)", re.MULTILINE)
_WORDS = {"straight": "GPUD", "by the CPU": "CPU_GPU"}
_READ, _WRITE = ("-I", "0"), ("-I", "1", "-V")
"""What gdsio is to do: read, or write, read back and compare."""


@bench(
    id="gds.read", scope=Scope.GPU, backend=Backend.NONE, level=Level.STANDARD, seconds=30, alone=True,
    options=[FOLDER],
    rows=["io-gds-bandwidth"],
    references=["NVIDIA GPUDirect Storage, Benchmarking and Configuration Guide: gdsio"],
)  # fmt: skip
def read(lab: Lab) -> Iterator[Sampled]:
    """Storage is read straight into the memory of a GPU at this rate, and by way of the CPU at that.

    NVIDIA's gdsio reads a file of each of 16 threads in the folder that `--option path=FOLDER` names, in blocks of
    1 MiB: straight (`-x 0`), and through a buffer in host memory (`-x 2`). cuFile falls back to the CPU in silence
    where it may; here it may not (`allow_compat_mode` is false in a configuration of our own), and where the nvidia-fs
    driver counts, its count of reads must have risen. A straight rate no better than the other says that GPUDirect
    Storage is not worth its trouble here.
    """
    folder = lab.options.get("path")
    if not folder:
        raise NotApplicable("storage is measured only where you say: --option path=FOLDER")
    tool = _gdsio()
    with tempfile.TemporaryDirectory(prefix=".hostcheck-gds-", dir=_writable(folder)) as place:
        config = Path(place, "cufile.json")
        config.write_text(json.dumps({"properties": {"allow_compat_mode": False}}), "ascii")
        size = _SIZE_MIB.get(lab.level, 4096)
        if shutil.disk_usage(place).free < 2 * _THREADS * size * 2**20:
            raise HostcheckError(f"{folder}: {2 * _THREADS * size:,} MiB must be free there")
        for name in _WAYS:
            _run(tool, lab.gpu, place, size, config, name, _WRITE)
            before = direct_reads()
            with lab.watch():
                rates = [_run(tool, lab.gpu, place, size, config, name, _READ) for _ in range(_RUNS)]
            after = direct_reads()
            yield Sampled(
                samples=tuple(rates),
                unit="GB/s",
                case=name,
                settings={"threads": _THREADS, "bytes of a read": 2**20, "MiB of a file": size, "folder": folder},
                details={"proof": _proof(before, after)} if name == "straight" else {},
                invalid=fallen_back(before, after) if name == "straight" else "",
                verified=True,  # what this way had written was read back and compared, or _run would have raised
            )


def _gdsio() -> str:
    tool = shutil.which("gdsio", path=os.pathsep.join((os.environ.get("PATH", ""), *_TOOLS)))
    if tool is None:
        raise NotApplicable(f"gdsio is not installed (package gds-tools; looked on PATH and in {', '.join(_TOOLS)})")
    return tool


def _writable(folder: str) -> str:
    if not Path(folder).is_dir() or not os.access(folder, os.W_OK):
        raise HostcheckError(f"{folder}: no folder that can be written")
    return folder


def direct_reads(stats: Path = _STATS) -> int | None:
    """Return how many reads the nvidia-fs driver has carried out, None where it does not say."""
    try:
        found = _READS_OK.search(stats.read_text("ascii", "replace"))
    except OSError:
        return None
    return int(found[1]) if found else None


def fallen_back(before: int | None, after: int | None) -> str:
    """Say that reads went by the CPU where the driver shows it; empty where it does not."""
    if before is None or after is None or after > before:
        return ""
    return "nvidia-fs counted no read: it was not straight"


def _proof(before: int | None, after: int | None) -> str:
    if before is None or after is None:
        # Through PCI peer-to-peer DMA nvidia-fs takes no part, and its statistics can be off.
        return "the fallback was forbidden (allow_compat_mode is false); nvidia-fs counts nothing here"
    return f"nvidia-fs counted {after - before:,} reads"


def _run(tool: str, gpu: BenchGpu, place: str, size: int, config: Path, name: str, what: tuple[str, ...]) -> float:
    """Run gdsio once; return GB/s.

    Raises:
        HostcheckError: it failed, or what it read back was wrong; with its last line.
    """
    argv = [
        tool, "-D", place, "-d", str(gpu.ordinal), "-w", str(_THREADS), "-s", f"{size}M", "-i", "1M",
        "-x", str(_WAYS[name]), *what,
    ]  # fmt: skip
    environment = {**os.environ, "CUFILE_ENV_PATH_JSON": str(config)}
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise HostcheckError("gdsio did not end in 120 s") from None
    return throughput(done.stdout, done.stderr, done.returncode, _WORDS[name])


def throughput(out: str, err: str, code: int, way: str) -> float:
    """Return the rate in GB/s that gdsio printed for reading.

    Raises:
        HostcheckError: it failed, or read in another way than it was told to.
    """
    rate = _RATE.search(out)
    if code or rate is None:
        said = (err.strip() or out.strip() or "it said nothing").splitlines()[-1]
        raise HostcheckError(f"gdsio failed (exit {code}): {said[:200]}")
    if rate[1] != way:
        raise HostcheckError(f"gdsio read by {rate[1]} in place of {way}")
    return float(rate[2]) * 2**30 / 1e9
