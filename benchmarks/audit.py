"""What an audit costs on this host: medians, beside the bare cost of the same reads, and on a host of fleet shape.

Run it with `make bench` or `python benchmarks/audit.py [--rounds N]`. Nothing here is a test.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from big_host import build

RUN = [sys.executable, "-P", "-c", "from hostcheck.cli.main import main; main()"]


def median(rounds: int, action: Callable[[], object]) -> float:
    """Return the median wall time of an action in seconds, after one round to warm the cache."""
    action()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


# As installed, with compiled modules, whatever this shell says about writing them.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def run(command: list[str]) -> None:
    """Run a command and throw its output away."""
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT, check=False)


def command(*arguments: str) -> Callable[[], object]:
    """Return an action that runs hostcheck."""
    return lambda: run([*RUN, *arguments])


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    from hostcheck.audit import judge, probes_for
    from hostcheck.checklist import Checklist
    from hostcheck.snapshot.local import collect
    from hostcheck.snapshot.program import program

    print(f"{platform.node()}: {os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}")
    print(f"median of {rounds} rounds, warm cache\n")
    show("python -c pass", median(rounds, lambda: subprocess.run([sys.executable, "-c", "pass"], check=False)))
    show("hostcheck --help", median(rounds, command("--help")), limit=0.15)
    audit = median(rounds, command("audit"))
    show("hostcheck audit", audit, limit=0.8)
    probes = probes_for(Checklist())
    show("the same reads, in process", median(rounds, lambda: collect(probes)))
    text = program(probes).encode()
    show(
        "the same reads, sh program",
        median(rounds, lambda: subprocess.run(["sh", "-s"], input=text, capture_output=True, check=False)),
    )
    snapshot = collect(probes)
    show("judging them", median(rounds, lambda: judge(snapshot, Checklist())))
    slowest = max(snapshot.readings.values(), key=lambda reading: reading.seconds)
    show(f"slowest probe ({slowest.probe})", slowest.seconds)
    show("the audit above its slowest probe", audit - slowest.seconds, limit=0.4)
    run([*RUN, "audit"])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{'peak memory of a child':34} {peak:8.0f} MB   (at most 150)")
    with tempfile.TemporaryDirectory() as folder:
        root = build(Path(folder))
        print("\n512 CPUs, 4,000 interrupts, 300 PCI functions")
        show("reading the tree, in process", median(3, lambda: collect(probes, root=str(root))))
        big = collect(probes, root=str(root))
        show("judging it", median(3, lambda: judge(big, Checklist())), limit=1.0)


def show(name: str, seconds: float, *, limit: float | None = None) -> None:
    """Print one figure."""
    print(f"{name:34} {seconds * 1000:8.1f} ms" + (f"   (at most {limit * 1000:.0f})" if limit else ""))


if __name__ == "__main__":
    main()
