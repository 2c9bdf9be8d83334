"""The parent of the children that measure: starts one for each GPU, orders, listens, and outlives all of them."""

from __future__ import annotations

import os
import selectors
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from hostcheck.bench.lab import BenchGpu
from hostcheck.bench.model import Backend, Level, Measurement, Missing, Scope
from hostcheck.bench.process import GOING, LOUDEST, TOO_LOUD, Child
from hostcheck.bench.validity import disturbed
from hostcheck.bench.wire import Beside, Done, Event, Got, Lacking, Order, Plan, Ready
from hostcheck.registry import Bench
from hostcheck.render.fold import fold_line

_START = 60.0
"""Seconds until a child must be up; a GPU without persistence takes 3 of them."""
STARTING = {Backend.NONE: 0.5, Backend.CUDA: 2.0, Backend.TORCH: 8.0}
"""Seconds that the children of a kind take to start, as planned."""
_GRACE = {Backend.NONE: 20.0, Backend.CUDA: 30.0, Backend.TORCH: 90.0}
"""Seconds over what a benchmark plans, for imports and for kernels that are compiled the first time."""
_OVER = 0.1
"""The same as a share of the plan, where that is more."""
_SHORTEST = 0.3
"""Seconds that a benchmark needs, at least, where it is measured once more."""
_GARBLED = "told what is no measurement"
_LISTEN = 0.5
"""Seconds after which is looked, at the latest, how much was printed."""
_AHEAD = 15.0
"""Seconds before the end of one kind of benchmarks at which the children of the next are started."""
_LOAD = {Backend.NONE: ("numba",), Backend.CUDA: (), Backend.TORCH: ("torch",)}
"""What children import while they wait for their devices; torch takes 2 to 6 s of a minute."""
_BETWEEN = (Scope.GPUS, Scope.RANKS)
"""Scopes of what no GPU does without the others."""
_DEATHS = 2
"""After so many deaths of its process a GPU is left alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One benchmark, what it may take on each device, and whether GPUs take turns."""

    bench: Bench
    seconds: float
    alone: bool = False

    def turns(self, gpus: int) -> int:
        """Return how often it takes its time on a host with so many GPUs."""
        return gpus if self.alone and self.bench.scope is Scope.GPU else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What runs, and what is left.

    Attributes:
        bench: id of the benchmark.
        subjects: on what it runs.
        step, steps: it is this one of so many.
        left: seconds until all is done, as planned.
        got: what was measured this moment; None where a benchmark begins.
        alone: it is measured once more, while the other GPUs idle.
    """

    bench: str
    subjects: str
    step: int
    steps: int
    left: float
    got: Measurement | None = None
    alone: bool = False


@dataclass(kw_only=True)
class Harvest:
    """What came back.

    Attributes:
        told: of each subject, what its child said of it.
        interrupted: Ctrl-C ended it early.
        first: seconds from the start to the first measurement.
    """

    measurements: list[Measurement] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    told: dict[str, dict[str, str]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False
    first: float | None = None


class Parent:
    """Runs benchmarks on GPUs and on the host.

    Args:
        gpus: those that take part.
        level, options: as the user set them.
        whole: whether benchmarks are to use up their time.
        tell: called with each progress.
        doubt: called with what was measured; returns which cases of which benchmarks on which subjects are to be
            measured once more, alone, the worst first.
        spare: seconds that this may take.
        until: seconds from the start by which all is to be done: what is measured once more gives way to what is left.
        grace: seconds, at least, that a child has over its plan, and from one number to the next, before it is killed;
            by default, by what it has to load.
        launcher: what starts a child; the descriptor's number is added.
    """

    def __init__(
        self,
        gpus: Sequence[BenchGpu],
        *,
        level: Level,
        options: Mapping[str, str] | None = None,
        whole: bool = False,
        tell: Callable[[Progress], None] | None = None,
        doubt: Callable[[Harvest], Sequence[tuple[str, str, tuple[str, ...]]]] | None = None,
        spare: float = 0.0,
        until: float = float("inf"),
        grace: float | None = None,
        launcher: Sequence[str] = (sys.executable, "-P", "-m", "hostcheck.bench.child"),
    ) -> None:
        self._gpus = tuple(gpus)
        self._level = level
        self._options = dict(options or {})
        self._whole_time = whole
        self._tell = tell
        self._doubt = doubt
        self._spare = spare
        self._until = until
        self._grace = grace
        self._launcher = launcher
        self._children: dict[str, Child] = {}
        # Children of the next kind, and for which kind and which GPUs they were made.
        self._ahead: dict[str, Child] = {}
        self._ahead_of: tuple[Scope, Backend, tuple[BenchGpu, ...]] | None = None
        self._deaths: dict[str, int] = {}
        # GPUs that turned out to be in use, or that no process survives on: the others do without them.
        self._out: set[str] = set()
        self._beside: list[Beside] = []
        self._begun = time.monotonic()
        self._step, self._steps, self._left, self._starting = 0, 0, 0.0, 0.0
        self.harvest = Harvest()

    def run(self, steps: Sequence[Step]) -> Harvest:
        """Run benchmarks, those of one kind of child after the other, and return what came of it.

        After Ctrl-C, it is what had come by then, and each benchmark that had not ended is missing.
        """
        self._steps, self._left = len(steps), sum(self._cost(step) for step in steps)
        left = list(steps)
        kinds = list(dict.fromkeys((step.bench.scope, step.bench.backend) for step in steps))
        self._starting = sum(STARTING[backend] for _, backend in kinds)
        try:
            for kind, following in zip(kinds, [*kinds[1:], None], strict=True):
                if kind[0] in _BETWEEN:
                    self._leave_out()
                self._adopt(*kind)
                self._starting -= STARTING[kind[1]]
                own = [step for step in steps if (step.bench.scope, step.bench.backend) == kind]
                try:
                    for place, step in enumerate(own):
                        if following and _leaves_cpus(*kind) and sum(map(self._cost, own[place:])) < _AHEAD:
                            self._prepare(*following)
                        self._run(step)
                        left.remove(step)
                    if kind[0] is Scope.GPU and len(self._gpus) > 1:
                        self._again(own)
                finally:
                    self._dismiss(0.0 if sys.exc_info()[0] else 10.0)
        except KeyboardInterrupt:
            self.harvest.interrupted = True
            for step in left:
                self._lack(step.bench.id, "host", "interrupted")
        finally:
            self._forsake()
        return self.harvest

    def _prepare(self, scope: Scope, backend: Backend) -> None:
        """Start the children of the next kind, which load what they need and wait."""
        if self._ahead_of is not None:
            return
        self._ahead_of = scope, backend, self._gpus
        with suppress(OSError):
            for subject in self._subjects(scope):
                self._ahead[subject] = self._made(scope, subject, _LOAD[backend])

    def _adopt(self, scope: Scope, backend: Backend) -> None:
        """Take the children that were started ahead, if they are those that are needed now."""
        if self._ahead_of != (scope, backend, self._gpus):
            self._forsake()
            return
        for subject in [subject for subject in self._ahead if self._deaths.get(subject, 0) < _DEATHS]:
            self._children[subject] = self._ahead.pop(subject)
            self._children[subject].begin(_START)
        self._forsake()

    def _forsake(self) -> None:
        """Let go of children that were started ahead."""
        for child in self._ahead.values():
            child.end(0.0)
            child.close()
        self._ahead, self._ahead_of = {}, None

    def _cost(self, step: Step) -> float:
        return step.seconds * step.turns(len(self._gpus))

    def _run(self, step: Step) -> None:
        self._step += 1
        scope = step.bench.scope
        able = self._ready(step)
        if scope in _BETWEEN and self._leave_out():
            # Some turned out to be in use: the others do without them.
            self._dismiss(10.0)
            able = self._ready(step)
        if scope is Scope.RANKS and 1 < len(self._gpus) > len(able):
            self._lack(step.bench.id, self._whole(scope), "not all of its GPUs can take part")
            able = []
        turns = [[child] for child in able] if step.alone and scope is Scope.GPU else [able]
        for turn in turns:
            self._turn(step, turn)
        # Only now: another rank may be done before the one that reports.
        for beside in self._beside:
            self._join(beside)
        self._beside.clear()
        self._left -= self._cost(step)

    def _ready(self, step: Step) -> list[Child]:
        """Return the children that can run a benchmark, started where they are not up; say who cannot."""
        scope = step.bench.scope
        if scope in _BETWEEN and len(self._gpus) <= 1:
            self._lack(step.bench.id, "host", "it needs two GPUs or more that are free")
            return []
        subjects = self._subjects(scope)
        self._show(step.bench.id, subjects if scope is Scope.GPU else [self._whole(scope)])
        for subject in subjects:
            try:
                self._start(scope, subject)
            except OSError as problem:
                self._lack(step.bench.id, subject, f"no process could be started: {problem.strerror}")
        self._wait(step, [child for child in self._children.values() if child.ready is None], starting=True)
        return [self._children[subject] for subject in subjects if self._is_able(step, subject)]

    def _leave_out(self) -> bool:
        """Go on without the GPUs that cannot take part; return whether there were any."""
        before = self._gpus
        self._gpus = tuple(gpu for gpu in before if gpu.subject not in self._out)
        return self._gpus != before

    def _again(self, steps: Sequence[Step]) -> None:
        """Measure alone what was doubtful at once, the worst first, while there is time to spare."""
        doubted = self._doubt(self.harvest) if self._doubt else ()
        alone = {step.bench.id for step in steps if step.alone}
        together = {step.bench.id: step for step in steps if step.bench.id not in alone}
        wanted = [(together[bench], subject, cases) for bench, subject, cases in doubted if bench in together]
        begun = time.monotonic()
        spare = min(self._spare, self._until - (begun - self._begun) - self._left - self._starting)
        for step, subject, cases in wanted:
            short = replace(step, seconds=min(step.seconds, max(_SHORTEST, spare / len(wanted))), alone=True)
            child = self._children.get(subject)
            if child is None:
                continue
            if time.monotonic() - begun + short.seconds > spare:
                break
            self._show(step.bench.id, [subject], alone=True)
            self._turn(short, [child], cases)
        self._spare = max(0.0, self._spare - (time.monotonic() - begun))

    def _turn(self, step: Step, turn: Sequence[Child], cases: tuple[str, ...] = ()) -> None:
        """Let some children run a benchmark at the same time, or some of its cases."""
        alone = step.bench.scope is Scope.GPU and (step.alone or len(self._gpus) == 1)
        for child in turn:
            order = Order(bench=step.bench.id, module=step.bench.module, seconds=step.seconds, alone=alone, cases=cases)
            child.order(order, step.seconds + self._patience(step))
        self._wait(step, turn)

    def _patience(self, step: Step) -> float:
        """Return for how long, over the plan or after a number, a child may be silent."""
        return max(_GRACE[step.bench.backend] if self._grace is None else self._grace, _OVER * step.seconds)

    def _whole(self, scope: Scope) -> str:
        return "host" if scope is Scope.HOST else fold_line([gpu.subject for gpu in self._gpus])

    def _subjects(self, scope: Scope) -> list[str]:
        """Return for what a scope has a child each."""
        return [gpu.subject for gpu in self._gpus] if scope in (Scope.GPU, Scope.RANKS) else [self._whole(scope)]

    def _start(self, scope: Scope, subject: str) -> None:
        """Start a child for a subject, unless it has one, or has lost too many."""
        if subject in self._children or self._deaths.get(subject, 0) >= _DEATHS:
            return
        self._children[subject] = self._made(scope, subject)
        self._children[subject].begin(_START)

    def _made(self, scope: Scope, subject: str, load: tuple[str, ...] = ()) -> Child:
        own = tuple(gpu for gpu in self._gpus if gpu.subject == subject or scope is Scope.GPUS)
        seen = self._gpus if scope in (Scope.GPUS, Scope.RANKS) else own
        ranks = len(self._gpus) if scope is Scope.RANKS else 0
        placed = tuple(_placed(gpu, seen) for gpu in own)
        nodes = {gpu.numa_node for gpu in own}
        plan = Plan(
            gpus=placed,
            subject=self._whole(scope) if ranks else subject,
            level=self._level,
            options=self._options,
            whole=self._whole_time,
            ranks=ranks,
            rank=self._gpus.index(own[0]) if ranks else 0,
            pin=nodes.pop() if len(nodes) == 1 else None,
            load=load,
        )
        environment = {
            **os.environ,
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in seen),
        }
        if ranks:
            environment |= self._ranks(own[0])
        return Child(plan, environment, self._launcher)

    def _ranks(self, gpu: BenchGpu) -> dict[str, str]:
        """Return what torch.distributed reads of its environment."""
        if gpu is self._gpus[0]:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self._port = free.getsockname()[1]
        rank, size = str(self._gpus.index(gpu)), str(len(self._gpus))
        return {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": size,
            "LOCAL_WORLD_SIZE": size,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self._port),
        }

    def _is_able(self, step: Step, subject: str) -> bool:
        """Whether a subject can be measured; say so where not."""
        child = self._children.get(subject)
        if child is None:
            if self._deaths.get(subject, 0) >= _DEATHS:
                self._lack(step.bench.id, subject, f"left alone after its process died {_DEATHS} times")
            return False
        busy = {} if child.ready is None else child.ready.busy
        for gpu, why in busy.items():
            self._out.add(gpu)
            self._lack(step.bench.id, gpu, why)
        return not busy

    def _wait(self, step: Step, children: Sequence[Child], *, starting: bool = False) -> None:
        """Listen until each of these children is ready, or done, or gone."""
        waited = list(children)
        with selectors.DefaultSelector() as selector:
            for child in waited:
                selector.register(child.fd, selectors.EVENT_READ, child)
            while waited:
                pause = max(0.0, min(child.deadline for child in waited) - time.monotonic())
                heard = [key.data for key, _ in selector.select(min(pause, _LISTEN))]
                late = [child for child in waited if child not in heard and child.deadline <= time.monotonic()]
                loud = [child for child in waited if child not in [*heard, *late] and child.printed() >= LOUDEST]
                for child in heard:
                    for event in child.events():
                        self._take(step, child, event)
                    if child.mute:
                        self._bury(step, child, _GARBLED if child.garbled else "")
                    if child.mute or (child.ready if starting else not child.working):
                        selector.unregister(child.fd)
                        waited.remove(child)
                for child in late:
                    doing = "did not start" if starting else "gave no answer"
                    selector.unregister(child.fd)
                    waited.remove(child)
                    self._bury(step, child, f"{doing} in {child.silent():.0f} s")
                for child in loud:
                    selector.unregister(child.fd)
                    waited.remove(child)
                    self._bury(step, child, TOO_LOUD)
                if step.bench.scope is Scope.RANKS and len(self._children) < len(self._gpus):
                    # The others wait for the one that is gone, and would for ever.
                    for child in waited:
                        selector.unregister(child.fd)
                    waited.clear()
                    self._dismiss(0.0)

    def _take(self, step: Step, child: Child, event: Event) -> None:
        # Ranks work together: what one of them tells, all have had a part in.
        for each in self._children.values() if step.bench.scope is Scope.RANKS else (child,):
            if each.working:
                each.answered(self._patience(step))
        if isinstance(event, Ready):
            child.ready = event
            for subject, told in event.told.items():
                self.harvest.told.setdefault(subject, {}).update(told)
        elif isinstance(event, Got):
            self.harvest.measurements.append(event.measurement)
            if self.harvest.first is None:
                self.harvest.first = time.monotonic() - self._begun
            self._show(step.bench.id, [event.measurement.subject], event.measurement)
        elif isinstance(event, Beside):
            self._beside.append(event)
        elif isinstance(event, Lacking):
            missing = event.missing
            if missing not in self.harvest.missing:
                self.harvest.missing.append(missing)
        elif isinstance(event, Done):
            self.harvest.versions.update(event.versions)
            child.working = False

    def _join(self, beside: Beside) -> None:
        """Keep what the GPU of another rank did with the numbers that it had a part in; it can speak against them."""
        why, conditions = disturbed(beside.conditions), beside.conditions
        for place, measured in enumerate(self.harvest.measurements):
            if measured.bench == beside.bench and beside.case in (None, measured.case):
                self.harvest.measurements[place] = replace(
                    measured,
                    invalid=measured.invalid or (f"{beside.subject}: {why}" if why else ""),
                    each={**measured.each, beside.subject: conditions},
                )
                # Where it cannot be told at which of several numbers errors were counted, they count once.
                conditions = replace(conditions, errors={})

    def _bury(self, step: Step, child: Child, why: str) -> None:
        """Kill a child, or find it dead, and say so; the others go on."""
        subject = next(subject for subject, each in self._children.items() if each is child)
        gone = child.end(0.0) if why else child.end(GOING)
        if why:
            fate = "it was killed" if gone else f"it cannot be killed and was left behind (pid {child.process.pid})"
            line = f"the process that measured it {why}; {fate}"
        else:
            line = f"the process that measured it ended ({child.how()})"
        if child.plan.gpus:
            line += "; see dmesg for Xids"
        self._lack(step.bench.id, subject, line)
        self._deaths[subject] = self._deaths.get(subject, 0) + 1
        if self._deaths[subject] >= _DEATHS:
            self._out.add(subject)
        child.close()
        del self._children[subject]

    def _dismiss(self, seconds: float) -> None:
        """End all children, so that the memory of their GPUs is free."""
        for child in self._children.values():
            with suppress(OSError):
                assert child.process.stdin is not None
                child.process.stdin.close()
        until = time.monotonic() + seconds
        for child in self._children.values():
            child.end(max(0.0, until - time.monotonic()))
            child.close()
        self._children.clear()

    def _lack(self, bench: str, subject: str, why: str) -> None:
        self.harvest.missing.append(Missing(bench=bench, subject=subject, why=why))

    def _show(
        self, bench: str, subjects: Sequence[str], got: Measurement | None = None, *, alone: bool = False
    ) -> None:
        if self._tell is None:
            return
        self._tell(
            Progress(
                bench=bench,
                subjects=fold_line(subjects),
                step=self._step,
                steps=self._steps,
                left=max(0.0, self._left),
                got=got,
                alone=alone,
            )
        )


def _leaves_cpus(scope: Scope, backend: Backend) -> bool:
    """Whether the GPUs do the work of a kind of benchmarks, such that processes may start beside it."""
    return scope is not Scope.HOST and (scope, backend) != (Scope.GPU, Backend.CUDA)


def _placed(gpu: BenchGpu, seen: Sequence[BenchGpu]) -> BenchGpu:
    """Return a GPU with its number among those that a process sees, as the PCI order has it."""
    return replace(gpu, ordinal=seen.index(gpu))
