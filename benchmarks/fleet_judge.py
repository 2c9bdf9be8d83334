"""What it costs to judge a fleet from disk: 100 and 1,000 variations of the recorded hosts, seconds and memory.

Run it with `python benchmarks/fleet_judge.py [--hosts 100,1000] [--processes 2]`. Nothing here is a test, and no figure
here is extrapolated: each line was measured.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hostcheck.snapshot.reading import Ending, FileState, Reading, Snapshot

HOSTS = Path(__file__).resolve().parents[1] / "tests" / "hosts"
SWAPPINESS = "/proc/sys/vm/swappiness"
LIMITS = {1000: (30.0, 500)}


def vary(folder: Path, count: int) -> list[tuple[str, Path]]:
    """Write archives of that many hosts: the recorded ones in turn, each with numbers of its own.

    Name, time, free memory, temperature, power and UUIDs differ on every host. Every tenth has an unusual
    vm.swappiness, every 25th an nvidia-smi that took 20 times as long, every 50th another driver, and one in 200 is
    cut off.
    """
    from hostcheck.snapshot.archive import read_archive, write_archive

    recorded = [read_archive(path) for path in sorted(HOSTS.glob("*.tar.gz"))]
    pairs = []
    for number in range(count):
        snapshot = recorded[number % len(recorded)]
        name = f"node{number:04d}"
        manifest = replace(snapshot.manifest, hostname=name, redacted=False, time=snapshot.manifest.time + number)
        path = folder / f"{name}.tar.gz"
        with path.open("wb") as opened:
            write_archive(replace(snapshot, manifest=manifest, readings=_readings(snapshot, number)), opened)
        if number % 200 == 199:
            path.write_bytes(path.read_bytes()[:9000])
        pairs.append((name, path))
    return pairs


def _readings(snapshot: Snapshot, number: int) -> dict[str, Reading]:
    readings = dict(snapshot.readings)

    def edit(probe: str, *changes: tuple[bytes, bytes]) -> None:
        reading = readings[probe]
        files = {path: replace(state, data=_edited(state.data, changes)) for path, state in reading.files.items()}
        readings[probe] = replace(reading, files=files, out=_edited(reading.out, changes))

    edit("memory.info", (rb"(MemAvailable: +)\d+( kB)", rb"\g<1>%d\2" % (23_000_000 + number * 7919 % 500_000)))
    edit(
        "gpu.smi",
        (rb"(<gpu_temp>)\d+", rb"\g<1>%d" % (30 + number * 7 % 6)),
        (rb"(draw>)\d+\.\d+", rb"\g<1>%d.%02d" % (70 + number * 13 % 9, number % 100)),
        (rb"GPU-[0-9a-f]{8}", b"GPU-%08x" % number),
    )
    if number % 10 == 3:
        files = {**readings["kernel.sysctl"].files, SWAPPINESS: FileState(Ending.OK, b"%d\n" % (60 + number % 3))}
        readings["kernel.sysctl"] = replace(readings["kernel.sysctl"], files=files)
    if number % 25 == 5:
        readings["gpu.smi"] = replace(readings["gpu.smi"], seconds=readings["gpu.smi"].seconds * 20)
    if number % 50 == 1:
        edit("gpu.driver", (rb"580\.159\.04", b"570.86.15"))
    return readings


def _edited(data: bytes, changes: Sequence[tuple[bytes, bytes]]) -> bytes:
    for pattern, new in changes:
        data = re.sub(pattern, new, data)
    return data


def measure(folder: Path, processes: int, forms: Sequence[str]) -> None:
    """Judge a folder and print what it cost; runs in a process of its own, so that its peak is its own."""
    from hostcheck.checklist import Checklist
    from hostcheck.fleet.answers import judge_fleet
    from hostcheck.render.fleet import render_fleet

    pairs = [(path.name.removesuffix(".tar.gz"), path) for path in sorted(folder.glob("*.tar.gz"))]
    size = sum(path.stat().st_size for _, path in pairs)
    started = time.perf_counter()
    fleet = judge_fleet(pairs, Checklist(), processes=processes)
    judged = time.perf_counter()
    sizes = {form: len(render_fleet(fleet, form, color=False, width=100, ascii=False).encode()) for form in forms}
    ended = time.perf_counter()
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    seconds, megabytes = ended - started, own + (processes * children if processes > 1 else 0)
    limit = LIMITS.get(len(pairs))
    print(
        f"{len(pairs):6,} hosts  {size / 1e6:6.1f} MB read  {judged - started:6.2f} s judged  "
        f"{ended - judged:5.2f} s folded and shown  {seconds:6.2f} s in all  "
        f"{own:4.0f} MB here + {processes} x {children:.0f} MB = {megabytes:4.0f} MB at most"
        + (f"   (limits: {limit[0]:.0f} s, {limit[1]} MB)" if limit else "")
    )
    print(
        f"{'':14}{len(fleet.runs):,} judged, {len(fleet.absent)} absent, {len(fleet.differences)} differences, "
        f"{len(fleet.outliers)} outliers; " + ", ".join(f"{form} {size / 1e6:.2f} MB" for form, size in sizes.items())
    )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", default="100,1000", help="how many, separated by commas")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--forms", default="text,md", help="text, md, json, jsonl")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.folder:
        measure(chosen.folder, chosen.processes, chosen.forms.split(","))
        return
    print(f"{os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}, warm cache")
    for count in map(int, chosen.hosts.split(",")):
        with tempfile.TemporaryDirectory() as name:
            vary(Path(name), count)
            options = ["--processes", str(chosen.processes), "--forms", chosen.forms, "--folder", name]
            subprocess.run([sys.executable, "-P", __file__, *options], check=True)


if __name__ == "__main__":
    main()
