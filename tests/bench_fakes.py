"""Benchmarks that need no GPU, to see what the engine makes of good and bad ones. Real child processes run them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hostcheck.bench.lab import Lab
from hostcheck.bench.model import Backend, Level, Sampled, Scope
from hostcheck.bench.options import FOLDER, Option
from hostcheck.errors import HostcheckError
from hostcheck.model import Scalar
from hostcheck.registry import BENCHES, bench

if "fake.good" not in BENCHES:

    @bench(id="fake.good", scope=Scope.GPU, backend=Backend.NONE, level=Level.QUICK, seconds=0.2)
    def good(lab: Lab) -> Iterator[Sampled]:
        """A steady number.

        It prints what must not be taken for a result.
        """
        print('{"type":"Done","bench":"fake.good"}')
        os.write(1, b"noise of a library\n" * 1000)
        with lab.watch():
            time.sleep(0.05)
        seen: dict[str, Scalar] = {
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
            "order": os.environ.get("CUDA_DEVICE_ORDER", ""),
            "ordinal": lab.gpu.ordinal,
            "seconds": lab.seconds,
            "whole": lab.whole,
            "pid": os.getpid(),
        }
        yield Sampled(samples=(99.0, 100.0, 101.0), unit="GB/s", verified=True, settings={"bytes": 8}, details=seen)
        yield Sampled(samples=(1.0,), unit="GB/s", case="unproven")

    @bench(id="fake.turns", scope=Scope.GPU, backend=Backend.NONE, level=Level.QUICK, seconds=0.2, alone=True)
    def turns(lab: Lab) -> Iterator[Sampled]:
        """One GPU after the other."""
        begun = time.monotonic()
        time.sleep(0.2)
        yield Sampled(samples=(1.0,), unit="GB/s", verified=True, details={"begun": begun, "ended": time.monotonic()})

    @bench(
        id="fake.meets",
        scope=Scope.GPU,
        backend=Backend.NONE,
        level=Level.QUICK,
        seconds=0.2,
        options=[Option("folder", "VALUE", "for tests"), Option("come", "VALUE", "for tests")],
    )
    def meets(lab: Lab) -> Iterator[Sampled]:
        """Ends only where as many as are to come are there at the same time."""
        folder = Path(lab.options["folder"])
        (folder / lab.gpu.subject).touch()
        while len(list(folder.iterdir())) < int(lab.options["come"]):
            time.sleep(0.01)
        yield Sampled(samples=(1.0,), unit="GB/s", verified=True)

    @bench(id="fake.raises", scope=Scope.GPU, backend=Backend.NONE, level=Level.QUICK, seconds=0.2)
    def raises(lab: Lab) -> Iterator[Sampled]:
        """A number, and then a bug of ours."""
        yield Sampled(samples=(1.0,), unit="GB/s", verified=True)
        raise ZeroDivisionError("one line\nand another")

    @bench(id="fake.refuses", scope=Scope.GPU, backend=Backend.NONE, level=Level.QUICK, seconds=0.2)
    def refuses(lab: Lab) -> Iterator[Sampled]:
        """What a user can cause."""
        raise HostcheckError("there is no such folder; name another with --option path=FOLDER")
        yield

    @bench(id="fake.package", scope=Scope.GPU, backend=Backend.TORCH, level=Level.QUICK, seconds=0.2)
    def package(lab: Lab) -> Iterator[Sampled]:
        """A package that is not there."""
        import a_package_that_nobody_has  # type: ignore[import-not-found] # noqa: F401

        yield Sampled(samples=(1.0,), unit="GB/s")

    @bench(id="fake.silent", scope=Scope.GPU, backend=Backend.NONE, level=Level.QUICK, seconds=0.2)
    def silent(lab: Lab) -> Iterator[Sampled]:
        """No number at all."""
        yield from ()

    @bench(id="fake.dies", scope=Scope.GPU, backend=Backend.NONE, level=Level.QUICK, seconds=0.2)
    def dies(lab: Lab) -> Iterator[Sampled]:
        """The process of one GPU is killed in the middle."""
        yield Sampled(samples=(1.0,), unit="GB/s", case="before", verified=True)
        if lab.gpu.index == 1:
            print("CUDA error: the GPU is lost", flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        yield Sampled(samples=(2.0,), unit="GB/s", case="after", verified=True)

    @bench(id="fake.hangs", scope=Scope.GPU, backend=Backend.NONE, level=Level.QUICK, seconds=0.2)
    def hangs(lab: Lab) -> Iterator[Sampled]:
        """One GPU never answers, deaf to all but SIGKILL; what it started goes with it."""
        if lab.gpu.index == 1:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            yield Sampled(samples=(1.0,), unit="GB/s", case="started", verified=True, details={"pid": started.pid})
            time.sleep(600)
        yield Sampled(samples=(1.0,), unit="GB/s", verified=True)

    @bench(
        id="fake.slow",
        scope=Scope.GPU,
        backend=Backend.NONE,
        level=Level.QUICK,
        seconds=0.2,
        options=[Option("told", "VALUE", "for tests")],
    )
    def slow(lab: Lab) -> Iterator[Sampled]:
        """One number at once, and the next much later."""
        yield Sampled(samples=(1.0,), unit="GB/s", case="early", verified=True, details={"pid": os.getpid()})
        Path(lab.options.get("told", "/dev/null")).touch()
        time.sleep(600)
        yield Sampled(samples=(1.0,), unit="GB/s", case="late", verified=True)

    @bench(id="fake.steps", scope=Scope.GPU, backend=Backend.NONE, level=Level.QUICK, seconds=0.2)
    def by_steps(lab: Lab) -> Iterator[Sampled]:
        """Number after number, for far longer than was planned; one GPU stops to answer after the last."""
        for case in range(8):
            time.sleep(0.5)
            yield Sampled(samples=(1.0,), unit="GB/s", case=str(case), verified=True)
        time.sleep(600 if lab.gpu.index == 1 else 0)

    @bench(id="fake.reports", scope=Scope.RANKS, backend=Backend.NONE, level=Level.QUICK, seconds=0.2)
    def reports(lab: Lab) -> Iterator[Sampled]:
        """Number after number of one rank, for far longer than was planned, while the others say nothing."""
        for case in range(8):
            time.sleep(0.5)
            if os.environ["RANK"] == "0":
                yield Sampled(samples=(1.0,), unit="GB/s", case=str(case), verified=True)

    @bench(id="fake.garbles", scope=Scope.GPU, backend=Backend.NONE, level=Level.QUICK, seconds=0.2)
    def garbles(lab: Lab) -> Iterator[Sampled]:
        """Writes on the pipe that is the engine's own."""
        os.write(int(sys.argv[1]), b"garbage\n")
        yield Sampled(samples=(1.0,), unit="GB/s", verified=True)

    @bench(id="fake.infinite", scope=Scope.GPU, backend=Backend.NONE, level=Level.QUICK, seconds=0.2)
    def infinite(lab: Lab) -> Iterator[Sampled]:
        """A number that no document can hold."""
        yield Sampled(samples=(1.0, float("inf")), unit="GB/s", verified=True)

    @bench(id="fake.leaves", scope=Scope.GPU, backend=Backend.NONE, level=Level.QUICK, seconds=0.2)
    def leaves(lab: Lab) -> Iterator[Sampled]:
        """Starts what it does not wait for."""
        started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        yield Sampled(samples=(1.0,), unit="GB/s", verified=True, details={"pid": started.pid})

    @bench(id="fake.floods", scope=Scope.GPU, backend=Backend.NONE, level=Level.QUICK, seconds=0.2)
    def floods(lab: Lab) -> Iterator[Sampled]:
        """A library of one GPU's process prints without end, whatever becomes of it."""
        while lab.gpu.index == 1:
            with suppress(OSError):
                os.write(1, b"a warning\n" * 6000)
        yield Sampled(samples=(1.0,), unit="GB/s", verified=True)

    @bench(id="fake.fills", scope=Scope.GPU, backend=Backend.NONE, level=Level.QUICK, seconds=0.2)
    def fills(lab: Lab) -> Iterator[Sampled]:
        """A library prints until nothing more is taken; it tells how much that was."""
        written = 0
        with suppress(OSError):
            while True:
                written += os.write(1, b"a warning\n" * 6000)
        yield Sampled(samples=(1.0,), unit="GB/s", verified=True, details={"written": written})

    @bench(id="fake.sizes", scope=Scope.RANKS, backend=Backend.NONE, level=Level.QUICK, seconds=0.2)
    def sizes(lab: Lab) -> Iterator[Sampled]:
        """Each rank tells of two sizes, as NCCL's do."""
        for case in ("small", "large"):
            with lab.watch():
                time.sleep(0.1)
            yield Sampled(samples=(1.0 + int(os.environ["RANK"]),), unit="GB/s", case=case, verified=True)

    @bench(id="fake.together", scope=Scope.GPUS, backend=Backend.NONE, level=Level.QUICK, seconds=0.2)
    def together(lab: Lab) -> Iterator[Sampled]:
        """All GPUs in one process."""
        for one in lab.gpus:
            for other in lab.gpus:
                if one is not other:
                    pair = f"{one.subject}>{other.subject}"
                    yield Sampled(
                        samples=(1.0,),
                        unit="GB/s",
                        subject=pair,
                        verified=True,
                        details={"ordinal": one.ordinal, "visible": os.environ["CUDA_VISIBLE_DEVICES"]},
                    )

    @bench(
        id="fake.ranks",
        scope=Scope.RANKS,
        backend=Backend.NONE,
        level=Level.QUICK,
        seconds=0.2,
        options=[Option("die", "VALUE", "for tests"), Option("last", "VALUE", "for tests")],
    )
    def ranks(lab: Lab) -> Iterator[Sampled]:
        """One process for each GPU that talk to each other: rank 0 sums what the others send."""
        import socket

        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        if lab.options.get("die") == str(rank):
            os._exit(7)
        time.sleep(float(lab.options.get("last", "0")))
        if rank:
            for _ in range(2400):
                try:
                    with socket.create_connection(address) as peer:
                        peer.sendall(bytes([rank]))
                    return
                except ConnectionRefusedError:
                    time.sleep(0.05)
        with socket.create_server(address) as server:
            total = 0
            for _ in range(size - 1):
                peer, _ = server.accept()
                total += peer.recv(1)[0]
        yield Sampled(samples=(float(total),), unit="GB/s", verified=True, details={"ordinal": lab.gpu.ordinal})

    @bench(id="fake.host", scope=Scope.HOST, backend=Backend.NONE, level=Level.QUICK, seconds=0.2)
    def host(lab: Lab) -> Iterator[Sampled]:
        """The host itself."""
        # When this process began, in seconds since the boot: proc(5), 22 of /proc/PID/stat.
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        seen: dict[str, Scalar] = {"gpus": len(lab.gpus), "begun": ticks / os.sysconf("SC_CLK_TCK")}
        yield Sampled(samples=(5.0,), unit="GB/s", verified=True, subject="node0", details=seen)

    @bench(
        id="fake.folder", scope=Scope.GPU, backend=Backend.NONE, level=Level.SOAK, seconds=0.2, alone=True,
        options=[FOLDER],
    )  # fmt: skip
    def folder(lab: Lab) -> Iterator[Sampled]:
        """Measures a folder that the user has to name."""
        yield Sampled(samples=(1.0,), unit="GB/s", verified=True, settings={"folder": lab.options["path"]})

    @bench(id="fake.model", scope=Scope.GPU, backend=Backend.NONE, level=Level.QUICK, seconds=0.2)
    def model(lab: Lab) -> Iterator[Sampled]:
        """Which row of the table of models holds."""
        known = "" if lab.gpu.model is None else lab.gpu.model.id
        yield Sampled(samples=(1.0,), unit="GB/s", verified=True, details={"model": known})

    @bench(id="copy.fake", scope=Scope.GPU, backend=Backend.NONE, level=Level.QUICK, seconds=0.2)
    def link(lab: Lab) -> Iterator[Sampled]:
        """A copy over a link with a limit."""
        yield Sampled(samples=(20.0,), unit="GB/s", verified=True, limit=63.0, limit_source="PCIe 5.0 x16")

    @bench(
        id="copy.shared", scope=Scope.GPU, backend=Backend.NONE, level=Level.QUICK, seconds=0.2,
        options=[Option("count", "FOLDER", "where each run leaves a file"), Option("bad", "GPU", "slow when alone")],
    )  # fmt: skip
    def shared(lab: Lab) -> Iterator[Sampled]:
        """Too slow a copy the first time, when all run; the second time as fast as the link, but on one GPU."""
        first = Path(lab.options["count"], lab.gpu.subject)
        again = first.exists()
        first.touch()
        rate = 55.0 if again and lab.options.get("bad") != lab.gpu.subject else 20.0
        if lab.wants("pinned"):
            yield Sampled(samples=(rate,), unit="GB/s", case="pinned", verified=True, limit=63.0)
        if lab.wants("pageable"):
            yield Sampled(samples=(8.0,), unit="GB/s", case="pageable", verified=True)
