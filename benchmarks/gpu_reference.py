"""Print what hostcheck measures on a GPU beside what torch reaches with the same work on the same memory.

Ours and the reference take turns, and the medians of all rounds are compared: what the GPU does meanwhile (clocks,
heat) meets both. Each pair states the least ratio that is expected. `python benchmarks/gpu_reference.py --help`.

Needs torch with CUDA, and the extra "bench". Reads and measures; changes no setting.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import bench_lab
from hostcheck.bench.cuda import Buffer, Device, Stream
from hostcheck.bench.lab import BenchGpu
from hostcheck.microbench import copies, gemm, gemm_forms, hbm, peers, tensor_chain, tensor_pipe

ROUNDS = 9
_EACH = 10
_PRODUCTS_SECONDS = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Ours and the reference: each call does the work some times and returns the rate.

    Attributes:
        least: the ratio that ours is to reach.
        limit: of the datasheet, in the same unit; `share` is what ours is to reach of it.
    """

    name: str
    unit: str
    ours: Callable[[], float]
    reference: Callable[[], float]
    reference_name: str
    least: float
    limit: float | None = None
    share: float | None = None


class _View:
    """Memory of ours, for torch."""

    def __init__(self, buffer: Buffer) -> None:
        self.__cuda_array_interface__ = {
            "shape": (buffer.size // 4,),
            "typestr": "<f4",
            "data": (buffer.pointer, False),
            "version": 3,
            "strides": None,
        }


@cache
def opened(ordinal: int) -> tuple[Device, Stream]:
    """Return a GPU and a stream on it, for good: torch comes back to streams that it has used."""
    device = Device(ordinal)
    return device, device.stream()


def tensor(buffer: Buffer) -> Any:
    """Return the torch tensor of floats that lies in a buffer of ours."""
    import torch

    return torch.as_tensor(_View(buffer), device=f"cuda:{buffer.device.ordinal}")


def on(stream: Stream, work: Callable[[], object]) -> Callable[[], None]:
    """Return work that torch queues on a stream of ours, so that both are timed alike."""
    import torch

    outer = torch.cuda.ExternalStream(int(stream.handle), device=f"cuda:{stream.device.ordinal}")

    def run() -> None:
        with torch.cuda.stream(outer):
            work()

    for _ in range(5):
        run()
    stream.synchronize()
    return run


def rate(stream: Stream, work: Callable[[], object], amount: float) -> float:
    """Return the median rate of some pieces of work that were queued behind one another."""
    return float(amount / median(stream.time([work] * _EACH)))


def memory(gpus: tuple[BenchGpu, ...]) -> Iterator[Pair]:
    """Yield triad, copy and read over device memory."""
    import torch

    gpu = gpus[0]
    limit = hbm.limit_of(gpu)[0]
    device, stream = opened(gpu.ordinal)
    for name, least, share in (("triad", 1.0, 0.90), ("copy", 1.0, None), ("read", 1.0, 0.92)):
        task = hbm.TASKS[name](device, stream, hbm.size_of(device))
        buffers = [tensor(thing) for thing in device.owned if isinstance(thing, Buffer)]
        work = partial(task.launch(hbm.best(stream, task)), stream)
        for what, reference in _references(torch, name, buffers):
            yield Pair(
                name=f"hbm.{name}",
                unit="GB/s",
                ours=partial(rate, stream, work, task.moved / 1e9),
                reference=partial(rate, stream, on(stream, reference), task.moved / 1e9),
                reference_name=what,
                least=least,
                limit=limit,
                share=share,
            )
        del buffers
        for thing in [thing for thing in device.owned if isinstance(thing, Buffer)]:
            thing.free()


def _references(torch: Any, name: str, buffers: list[Any]) -> Iterator[tuple[str, Callable[[], object]]]:
    if name == "copy":
        yield "torch copy_", lambda: buffers[1].copy_(buffers[0])
    elif name == "read":
        out = torch.empty((), device=buffers[0].device)
        yield "torch sum", lambda: torch.sum(buffers[0], dim=0, out=out)
    else:
        a, b, c = buffers

        def plain(a: Any, b: Any, c: Any) -> Any:
            return a.copy_(b + hbm.SCALE * c)

        compiled = torch.compile(plain)
        yield "torch.compile", lambda: compiled(a, b, c)
        tuned = torch.compile(plain, mode="max-autotune-no-cudagraphs")
        yield "torch.compile, max-autotune", lambda: tuned(a, b, c)


def host(gpus: tuple[BenchGpu, ...]) -> Iterator[Pair]:
    """Yield copies from and to pinned memory of the host."""
    import torch

    case = copies.Case("pinned", node=gpus[0].numa_node)
    pinned = torch.empty(copies.SIZE // 4, dtype=torch.float32, pin_memory=True)
    device, stream = opened(gpus[0].ordinal)
    with copies.Sides(device, case) as sides:
        for name, to_gpu in (("copy.h2d", True), ("copy.d2h", False)):
            sides.prepare(stream, to_gpu=to_gpu)
            target, source = (tensor(sides.gpu), pinned) if to_gpu else (pinned, tensor(sides.gpu))
            reference = on(stream, partial(target.copy_, source, non_blocking=True))
            yield Pair(
                name=name,
                unit="GB/s",
                ours=partial(rate, stream, partial(sides.copy, stream, to_gpu=to_gpu), sides.moved / 1e9),
                reference=partial(rate, stream, reference, sides.moved / 1e9),
                reference_name="torch copy_, pinned",
                least=0.98,
            )


def between_gpus(gpus: tuple[BenchGpu, ...]) -> Iterator[Pair]:
    """Yield copies from each GPU to the next."""
    floor = peers.Floor(gpus, [opened(gpu.ordinal)[0] for gpu in gpus])
    for first, second in ((first, (first + 1) % len(gpus)) for first in range(len(gpus)) if len(gpus) > 1):
        lane = peers.Lane(floor, first, second)
        yield Pair(
            name=f"peer.copy {lane.name}",
            unit="GB/s",
            ours=partial(_lane_rate, lane),
            reference=partial(_torch_rate, tensor(lane.source), tensor(lane.target)),
            reference_name="torch copy_",
            least=0.98,
            limit=lane.limit,
        )


def _lane_rate(lane: peers.Lane) -> float:
    return float(peers.SIZE / 1e9 / median(peers.at_once([lane]) for _ in range(_EACH)))


def _torch_rate(source: Any, target: Any) -> float:
    import torch

    with torch.cuda.device(source.device):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        target.copy_(source, non_blocking=True)
        begin.record()
        for _ in range(_EACH):
            target.copy_(source, non_blocking=True)
        end.record()
        end.synchronize()
    return float(peers.SIZE * _EACH / 1e6 / begin.elapsed_time(end))


class _Pipe:
    """A chain of matrix instructions, and what the multiprocessors could do at the clocks that they counted."""

    def __init__(self, gpu: BenchGpu, device: Device, stream: Stream, chain: tensor_chain.Chain) -> None:
        self._stream = stream
        self.runner = tensor_chain.Runner(device, chain)
        self._periods = self.runner.periods(stream, tensor_pipe.LAUNCH_SECONDS)
        self._work = chain.operations(self._periods, chain.repeats) * device.sm_count / 1e12
        self._per_hz = device.sm_count * (tensor_chain.operations_per_clock(gpu, chain)[0] or 0) / 1e12
        self._untold: dict[str, float] = {}

    def rate(self) -> float:
        """Return what was reached."""
        return self._told("rate")

    def bound(self) -> float:
        """Return what the multiprocessors could do in the same launches."""
        return self._told("bound")

    def _told(self, what: str) -> float:
        if what not in self._untold:
            run = self.runner.run(self._stream, self._periods, count=_EACH)
            assert run.verdict.right, run.verdict.error
            clock = median(tensor_chain.clock_mhz(reports) for reports in run.launches)
            self._untold = {"rate": self._work / median(run.seconds), "bound": clock * 1e6 * self._per_hz}
        return self._untold.pop(what)


def pipes(gpus: tuple[BenchGpu, ...]) -> Iterator[Pair]:
    """Yield each number format's chain beside multiprocessors x counted clock x operations per clock."""
    device, stream = opened(gpus[0].ordinal)
    for chain in tensor_chain.chains(device.cc).values():
        pipe = _Pipe(gpus[0], device, stream, chain)
        yield Pair(
            name=f"tensor.pipe {chain.label}",
            unit=chain.unit,
            ours=pipe.rate,
            reference=pipe.bound,
            reference_name="SMs x clock x operations",
            least=0.95,
        )
        pipe.runner.free()


def products(gpus: tuple[BenchGpu, ...]) -> Iterator[Pair]:
    """Yield products of square matrices through torch, beside a plain loop on random data of its own."""
    import torch

    gpu = gpus[0]
    device = torch.device("cuda", gpu.ordinal)
    shape = (gemm.SQUARE,) * 3
    for name in ("bf16", "fp16", "tf32", "fp64", "fp8", "fp8-rowwise"):
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        timer = gemm._Timer(torch, device, bench_lab.StandInLab(gpus), name, 2.0)
        problems = timer.problems(shape)
        other = _plain_product(torch, device, name, shape)
        other()
        one = min(timer.run(problems, len(problems)))
        timer.heat(problems, one)
        times = max(3, round(_PRODUCTS_SECONDS / one))
        work = gemm._flops(shape) * times / 1e12

        def ours(timer: Any = timer, problems: Any = problems, times: int = times, work: float = work) -> float:
            return float(work / timer.run(problems, 1, times)[0])

        def plain(other: Callable[[], object] = other, times: int = times, work: float = work) -> float:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            for _ in range(times):
                other()
            end.record()
            end.synchronize()
            return work / (float(begin.elapsed_time(end)) / 1e3)

        called = "torch._scaled_mm" if name.startswith("fp8") else "torch.matmul"
        yield Pair(
            name=f"gemm.{name} {gemm.SQUARE}",
            unit="TFLOPS",
            ours=ours,
            reference=plain,
            reference_name=f"a loop of {called}",
            least=0.99,
            limit=gemm._limit(gpu, gemm_forms.FORMS[name])[0],
        )
        wrong = [gemm.check(torch, problem, gemm_forms.FORMS[name].bound)[1] for problem in problems]
        assert not any(wrong), wrong
        del problems, other
        torch.cuda.empty_cache()


def _plain_product(torch: Any, device: Any, name: str, shape: gemm_forms.Shape) -> Callable[[], object]:
    """Return a product as anybody would write it: one pair of factors, a new output each time."""
    m, n, k = shape
    if name.startswith("fp8"):
        # What is multiplied decides how much power it takes: these factors are quantised as ours are.
        kept: dict[str, Any] = {}
        real = torch._scaled_mm
        problem = gemm_forms.FORMS[name].make(torch, device, shape, 7)
        try:
            torch._scaled_mm = lambda *words, **options: kept.update(words=words, options=options)
            problem.multiply()
        finally:
            torch._scaled_mm = real
        del kept["options"]["out"]
        return lambda: torch._scaled_mm(*kept["words"], **kept["options"])
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float32, "fp64": torch.float64}[name]
    a = torch.randn(m, k, device=device, dtype=kind)
    b = torch.randn(k, n, device=device, dtype=kind)
    return lambda: torch.matmul(a, b)


class _RanksAside:
    """Ranks in processes of their own, that do what they are told by a word."""

    def __init__(self, count: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        told = {**os.environ, "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        self._ranks = [
            subprocess.Popen(
                [sys.executable, Path(__file__).with_name("rank_reference.py")],
                env={**told, "RANK": str(rank)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(count)
        ]

    def ask(self, word: str) -> float:
        """Return the rate that rank 0 answers with."""
        asked, answer = self._ranks[0].stdin, self._ranks[0].stdout
        assert asked is not None
        assert answer is not None
        print(word, file=asked, flush=True)
        return float(answer.readline())

    def end(self) -> None:
        """Let all of them end."""
        for rank in self._ranks:
            rank.communicate()


def collectives(gpus: tuple[BenchGpu, ...]) -> Iterator[Pair]:
    """Yield all-reduce between all GPUs beside a plain loop of it, both by the same ranks."""
    if len(gpus) < 2:
        return
    ranks = _RanksAside(len(gpus))
    link = gpus[0].model.nvlink if gpus[0].model else None
    yield Pair(
        name="nccl.all-reduce 2 GiB",
        unit="GB/s",
        ours=partial(ranks.ask, "ours"),
        reference=partial(ranks.ask, "plain"),
        reference_name=f"a loop of all_reduce, {len(gpus)} GPUs",
        least=0.99,
        limit=link.per_dir_gbs if link else None,
    )
    ranks.end()


PAIRS: dict[str, Callable[[tuple[BenchGpu, ...]], Iterator[Pair]]] = {
    "memory": memory,
    "host": host,
    "peers": between_gpus,
    "tensor": pipes,
    "products": products,
    "collectives": collectives,
}
"""What is compared, by the word for --only. An entry yields one pair at a time and frees its memory afterwards."""


def compare(pair: Pair, rounds: int) -> dict[str, Any]:
    """Let both take turns, each first in every other round, and return the medians."""
    pair.ours()
    pair.reference()
    ours: list[float] = []
    references: list[float] = []
    for turn in range(rounds):
        for first in (turn % 2 == 0, turn % 2 == 1):
            (ours if first else references).append((pair.ours if first else pair.reference)())
    mine, other = median(ours), median(references)
    share = None if pair.limit is None else mine / pair.limit
    enough = mine / other >= pair.least and (share is None or (share >= (pair.share or 0) and share <= 1))
    return {
        "name": pair.name,
        "unit": pair.unit,
        "ours": mine,
        "reference": other,
        "reference_name": pair.reference_name,
        "ratio": mine / other,
        "least": pair.least,
        "limit": pair.limit,
        "of_limit": share,
        "least_of_limit": pair.share,
        "reached": enough,
        "ours_rounds": ours,
        "reference_rounds": references,
    }


def main() -> int:
    """Print the table; exit 1 where a ratio or a share is not reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=sorted(PAIRS), help="compare only this (may be repeated)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of each (default %(default)s)")
    parser.add_argument("--json", type=Path, help="write all rounds to this file too")
    options = parser.parse_args()
    gpus = bench_lab.gpus()
    if not gpus:
        print("no GPU here", file=sys.stderr)
        return 2
    import torch

    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    print(f"{when}; {len(gpus)} x {gpus[0].name}; torch {torch.__version__}; Python {platform.python_version()}")
    print(f"medians of {options.rounds} rounds in turns\n")
    print(f"{'':22}{'ours':>9} {'reference':>10}  unit   ratio  (least)  of limit (least)  reference")
    results = []
    for word in options.only or PAIRS:
        for pair in PAIRS[word](gpus):
            result = compare(pair, options.rounds)
            results.append(result)
            share = "" if result["of_limit"] is None else f"{result['of_limit']:.3f}"
            share += "" if pair.share is None else f" ({pair.share:.2f})"
            mark = "" if result["reached"] else "  NOT REACHED"
            print(
                f"{pair.name:22}{result['ours']:9.1f} {result['reference']:10.1f}  {pair.unit:5} {result['ratio']:7.4f}"
                f"   ({pair.least:.2f})  {share:16}  {pair.reference_name}{mark}",
                flush=True,
            )
    if options.json:
        options.json.write_text(
            json.dumps({"when": when, "gpus": [gpu.name for gpu in gpus], "pairs": results}, indent=1)
        )
    return 0 if all(result["reached"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
