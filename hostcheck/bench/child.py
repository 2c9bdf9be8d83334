"""One child process: runs benchmarks one after the other, as it is told. `python -m hostcheck.bench.child FD`.

It gets its plan and its orders on standard input and writes what it finds on descriptor FD, so that nothing a library
prints can be taken for a result. It ends when standard input does, and with its parent whatever happens.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import import_module
from typing import Any

import msgspec

from hostcheck.bench.conditions import Sampler, Watched, together
from hostcheck.bench.lab import BenchGpu
from hostcheck.bench.model import Conditions, Level, Measurement, Missing, Sampled, Scope
from hostcheck.bench.pinning import pin
from hostcheck.bench.validity import Ceilings, fault, statistic
from hostcheck.bench.wire import Beside, Done, Event, Got, Lacking, Order, Plan, Ready
from hostcheck.errors import HostcheckError, NotApplicable, Unavailable, install
from hostcheck.registry import BENCHES, Bench

_PR_SET_PDEATHSIG = 1
_ENOUGH_MIB = 1024
"""With less memory free, a GPU is in use by something, whether it can be seen or not."""


class _Lab:
    """The `Lab` of one benchmark."""

    def __init__(self, plan: Plan, gpus: tuple[BenchGpu, ...], order: Order, sampler: Sampler) -> None:
        self.gpus = gpus
        self.level: Level = plan.level
        self.seconds = order.seconds
        self.whole = plan.whole
        self._cases = order.cases
        self.options: Mapping[str, str] = plan.options
        self._sampler = sampler
        self.watched = False

    @property
    def gpu(self) -> BenchGpu:
        (only,) = self.gpus
        return only

    def wants(self, case: str) -> bool:
        return not self._cases or case in self._cases

    @contextmanager
    def watch(self, *subjects: str) -> Iterator[None]:
        if not self.watched:
            self._sampler.forget()
        self.watched = True
        self._sampler.open(*subjects)
        try:
            yield
        finally:
            self._sampler.close()


class _Worker:
    """What a child knows between its orders.

    Args:
        plan: what it has to itself.
        out: descriptor for events.
        library: pynvml, or None where it cannot be had.
    """

    def __init__(self, plan: Plan, out: int, library: Any) -> None:
        self._plan = plan
        self._out = out
        self._encoder = msgspec.json.Encoder()
        self._watched: dict[str, Watched] = {}
        self._ceilings: dict[str, Ceilings] = {}
        for gpu in plan.gpus if library is not None else ():
            with suppress(Exception):
                self._watched[gpu.subject] = Watched(library, gpu.uuid)
        self.gpus = tuple(self._complete(gpu) for gpu in plan.gpus)

    def _complete(self, gpu: BenchGpu) -> BenchGpu:
        """Return a GPU with what NVML knows of it, and remember what it could do."""
        watched = self._watched.get(gpu.subject)
        if watched is None:
            return gpu
        default = watched.ask("nvmlDeviceGetPowerManagementDefaultLimit")
        self._ceilings[gpu.subject] = Ceilings(
            sm_max_mhz=watched.ask("nvmlDeviceGetMaxClockInfo", 1),
            mem_max_mhz=watched.ask("nvmlDeviceGetMaxClockInfo", 2),
            power_default_w=None if default is None else default / 1000,
        )
        known = self._ceilings[gpu.subject]
        parts = watched.ask("nvmlDeviceGetAttributes_v2")
        return replace(
            gpu,
            sm_count=gpu.sm_count or int(getattr(parts, "multiprocessorCount", 0) or 0),
            sm_max_mhz=known.sm_max_mhz,
            mem_max_mhz=known.mem_max_mhz,
        )

    def tell(self, event: Event) -> None:
        """Send an event to the parent."""
        line = memoryview(self._encoder.encode(event) + b"\n")
        while line:
            line = line[os.write(self._out, line) :]

    def busy(self) -> dict[str, str]:
        """Return of each GPU that is not to be measured why."""
        found = {}
        for subject, watched in self._watched.items():
            memory = watched.ask("nvmlDeviceGetMemoryInfo")
            if others := watched.others(0):
                found[subject] = f"{subject} is in use by {', '.join(others)}: end it, or choose other GPUs with --gpus"
            elif memory is not None and memory.free < _ENOUGH_MIB * 2**20:
                free, total = memory.free / 2**20, memory.total / 2**20
                found[subject] = (
                    f"{subject} has only {free:,.0f} of {total:,.0f} MiB of memory free: something holds the rest"
                )
        return found

    def told(self) -> dict[str, dict[str, str]]:
        """Return what is worth keeping of each GPU."""
        kept: dict[str, dict[str, str]] = {}
        for subject, ceilings in self._ceilings.items():
            limit = self._watched[subject].power_limit()
            values = {
                "max SM clock": (ceilings.sm_max_mhz, "MHz"),
                "max memory clock": (ceilings.mem_max_mhz, "MHz"),
                "default power limit": (ceilings.power_default_w, "W"),
                "power limit": (limit, "W"),
            }
            kept[subject] = {name: f"{value:.0f} {unit}" for name, (value, unit) in values.items() if value is not None}
        return kept

    def run(self, order: Order) -> None:
        """Run one benchmark and tell what came of it."""
        try:
            import_module(order.module)
            made = BENCHES[order.bench]
            self._measure(made, order)
        except Exception as problem:
            self.tell(Lacking(self._missing(order.bench, problem)))
        self.tell(Done(bench=order.bench, versions=_versions()))

    def _measure(self, made: Bench, order: Order) -> None:
        ours = max(1, self._plan.ranks)
        sampler = Sampler(self._watched if made.scope is not Scope.HOST else {}, ours=ours)
        lab = _Lab(self._plan, self.gpus, order, sampler)
        sampler.start()
        sampler.open()
        begun = time.monotonic()
        found = 0
        try:
            for sampled in made.function(lab):
                found += 1
                if not lab.watched:
                    sampler.close()
                subject = sampled.subject or self._plan.subject
                watched = round(sampler.seconds(), 6)
                named = self._subjects_in(subject)
                each = sampler.take(named)
                conditions = replace(together([*each.values()]), seconds=watched)
                now = time.monotonic()
                if self._plan.rank:
                    own = self.gpus[0].subject
                    self.tell(Beside(bench=made.id, subject=own, case=sampled.case, conditions=conditions))
                else:
                    measured = self._measurement(made, order, sampled, subject, conditions, now - begun)
                    if self._plan.ranks or made.scope is Scope.GPUS:
                        unwatched = Conditions(seconds=watched)
                        measured = replace(measured, each={gpu: each.get(gpu, unwatched) for gpu in named})
                    self.tell(Got(measured))
                lab.watched, begun = False, now
                sampler.open()
        finally:
            sampler.stop()
        if found:
            return
        if not self._plan.ranks:
            raise Unavailable("it gave no number")
        sampler.close()
        watched = round(sampler.seconds(), 6)
        for gpu in self.gpus:
            conditions = replace(together([*sampler.take([gpu.subject]).values()]), seconds=watched)
            self.tell(Beside(bench=made.id, subject=gpu.subject, conditions=conditions))

    def _subjects_in(self, subject: str) -> list[str]:
        """Return the GPUs that a subject such as "gpu0>gpu1" names; all of them where it names none."""
        every = [gpu.subject for gpu in self.gpus]
        return [gpu for gpu in every if gpu in subject.replace("-", ">").split(">")] or every

    def _measurement(
        self,
        made: Bench,
        order: Order,
        sampled: Sampled,
        subject: str,
        conditions: Conditions,
        seconds: float,
    ) -> Measurement:
        named = self._subjects_in(subject)
        ceilings = self._ceilings.get(named[0], Ceilings()) if named else Ceilings()
        samples = tuple(float(sample) for sample in sampled.samples)
        sampled = replace(sampled, samples=samples)
        invalid = fault(
            sampled,
            conditions,
            ceilings=ceilings,
            on_host=made.scope is Scope.HOST,
        )
        # JSON has no infinity; why there is no number is told all the same.
        samples = samples if all(map(math.isfinite, samples)) else ()
        try:
            value: float | None = statistic(samples, sampled.statistic)
        except ValueError:
            value = None
        return Measurement(
            bench=made.id,
            subject=subject,
            unit=sampled.unit,
            value=value,
            case=sampled.case,
            statistic=sampled.statistic,
            samples=samples,
            limit=sampled.limit,
            limit_source=sampled.limit_source,
            settings=dict(sampled.settings),
            verified=sampled.verified,
            invalid=invalid,
            details=dict(sampled.details),
            conditions=conditions,
            alone=order.alone,
            seconds=round(seconds, 3),
        )

    def _missing(self, bench: str, problem: Exception) -> Missing:
        made = BENCHES.get(bench)
        subject = self._plan.subject
        if isinstance(problem, HostcheckError | Unavailable | NotApplicable):
            applies = not isinstance(problem, NotApplicable)
            return Missing(bench=bench, subject=subject, why=str(problem) or type(problem).__name__, applies=applies)
        if isinstance(problem, ModuleNotFoundError) and made and made.backend:
            why = f"the Python package {problem.name} is missing: {install(made.backend)}"
            return Missing(bench=bench, subject=subject, why=why)
        if isinstance(problem, MemoryError) or type(problem).__name__ == "OutOfMemoryError":
            return Missing(bench=bench, subject=subject, why=f"there is not enough memory: {_line(problem)}")
        trace = "".join(traceback.format_exception(problem))
        return Missing(bench=bench, subject=subject, why=f"{type(problem).__name__}: {_line(problem)}", bug=trace)


def _line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0][:300]


def _versions() -> dict[str, str]:
    """Return the versions of what this process has loaded to measure with."""
    found: dict[str, str] = {}
    torch = sys.modules.get("torch")
    if torch is not None:
        found["torch"] = str(torch.__version__)
        with suppress(Exception):
            found["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))
    for name, module in (("cuda-bindings", "cuda.bindings"), ("numpy", "numpy")):
        loaded = sys.modules.get(module)
        if loaded is not None:
            found[name] = str(getattr(loaded, "__version__", ""))
    return {name: version for name, version in found.items() if version}


def _nvml(gpus: Sequence[BenchGpu]) -> Any:
    """Return pynvml, started; None where there is no need or no way."""
    if not gpus:
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:
        return None
    return pynvml


def _die_with_parent() -> None:
    """Let the kernel end this process when its parent is gone: no orphan keeps a GPU."""
    parent = os.getppid()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main() -> int:
    """Serve until standard input ends."""
    _die_with_parent()
    out = int(sys.argv[1])
    os.set_inheritable(out, False)
    orders = sys.stdin.buffer
    plan = msgspec.json.decode(orders.readline(), type=Plan)
    pinned = pin(plan.pin) if plan.gpus else ""
    for package in plan.load:
        # What is wrong with it, the benchmark that needs it says.
        with suppress(Exception):
            import_module(package)
    if not orders.readline():
        return 0
    worker = _Worker(plan, out, _nvml(plan.gpus))
    told = worker.told()
    if len(plan.gpus) == 1:
        told.setdefault(plan.gpus[0].subject, {})["pinned"] = pinned
    worker.tell(Ready(gpus=worker.gpus, told=told, busy=worker.busy()))
    decoder = msgspec.json.Decoder(Order)
    for line in orders:
        worker.run(decoder.decode(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
