"""Ranks on several hosts: torchrun on each, started over its transport, and what came back.

A host needs sh and a Python with torch; nothing is installed on it, and what is written goes away with the program.
When one host fails, the others would wait for it: they are let go at once, and end by themselves.
"""

from __future__ import annotations

import json
import queue
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Annotated, TypeAlias

import msgspec

from hostcheck.bench.collective import FACTORS, MARK
from hostcheck.errors import HostcheckError
from hostcheck.fleet.targets import Target
from hostcheck.transport.base import Answer, Reach, Transport
from hostcheck.transport.framing import one_line

Case: TypeAlias = tuple[str, int, float]
"""An operation, its size in bytes, and for how many seconds it is measured."""

MOST = 4 << 20
"""Bytes that one host may send."""
RANKS = 100_000
_SECONDS = 600.0
_STARTING = 90.0
"""Seconds for torch's import, for the ranks to find each other, and for NCCL to connect them."""
_LAST_WORDS = 3.0
"""Seconds after the first failure in which others may say what they know of it."""
_GRACE = 10.0

_END = "END_OF_THE_SOURCE"
_NEVER_THERE = (Reach.UNREACHABLE, Reach.DENIED, Reach.HOST_KEY, Reach.SHELL, Reach.PRIVILEGE)
_REFUSAL = "cannot take part: "
_PATH = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./+@:=,-]*")
_VARIABLE = re.compile(r"([A-Z][A-Z0-9_]{0,99})=([A-Za-z0-9_./+@:=,^%~ -]{0,500})")
_ADDRESS = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.:%-]{0,252})")

_Name = Annotated[str, msgspec.Meta(max_length=300)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]
_Time = Annotated[float, msgspec.Meta(gt=0, le=_SECONDS * 10)]


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """What NCCL said; see `hostcheck.bench.collective.read_log`."""

    version: _Name
    via: dict[_Name, _Count]
    chosen: dict[_Name, _Count]
    nvls: bool
    set: dict[_Name, _Name]
    warnings: Annotated[list[_Name], msgspec.Meta(max_length=100)]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One line of rank 0; see `hostcheck.bench.collective.Ranks.measure`.

    Attributes:
        who: of each rank: its host, the number of its GPU there, and the GPU's name.
    """

    operation: _Name
    bytes: Annotated[int, msgspec.Meta(gt=0, le=1 << 45)]
    ranks: Annotated[int, msgspec.Meta(ge=1, le=RANKS)]
    seconds: Annotated[list[_Time], msgspec.Meta(min_length=1, max_length=100_000)]
    per_rank: Annotated[list[_Time], msgspec.Meta(min_length=1, max_length=RANKS)]
    wrong: dict[_Name, _Count]
    log: Log
    who: Annotated[list[tuple[_Name, _Count, _Name]], msgspec.Meta(min_length=1, max_length=RANKS)]
    torch: _Name


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What hosts are to measure together.

    Attributes:
        cases: one after the other.
        backend: "nccl", or "gloo" for CPUs and TCP.
        python: the one that has torch, on each host.
        per_host: ranks on each host; 0 for one a GPU.
        master: where the first host is reached by the others; by default, its own name.
        port: of the first host.
        environment: variables for the ranks, such as NCCL_IB_HCA.
    """

    cases: Sequence[Case]
    backend: str = "nccl"
    python: str = "python3"
    per_host: int = 0
    master: str = ""
    port: int = 29500
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How long all of it may take."""
        return _STARTING + sum(4 * seconds + 10 for _, _, seconds in self.cases)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a launch.

    Attributes:
        found: results in order of the cases; none where a host failed.
        failed: why each host that failed did.
        absent: those of them that could not even take part, which proves nothing against their links.
    """

    found: tuple[Found, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()


def read_environment(words: Sequence[str]) -> dict[str, str]:
    """Return the variables that NAME=VALUE words set.

    Raises:
        HostcheckError: a word is none, or has what a shell would act upon.
    """
    made = {}
    for word in words:
        found = _VARIABLE.fullmatch(word)
        if found is None:
            raise HostcheckError(f"--env {word[:80]!a}: NAME=VALUE is needed, such as NCCL_IB_HCA=mlx5")
        made[found[1]] = found[2]
    return made


def program(launch: Launch, node: int, nodes: int, master: str) -> bytes:
    """Return the sh program for one host.

    It prints a dot each second, so that it notices when nobody listens any more, and then ends what it started.

    Raises:
        HostcheckError: the Python or the address has what a shell would act upon.
    """
    if not _PATH.fullmatch(launch.python):
        raise HostcheckError(f"--python {launch.python[:80]!a} is no path of a program")
    if not _ADDRESS.fullmatch(master):
        raise HostcheckError(f"--master {master[:80]!a} is no address")
    plan = {"backend": launch.backend, "limit": 60, "cases": launch.cases}
    words = [
        "-m", "torch.distributed.run", "--nnodes", str(nodes), "--node-rank", str(node),
        "--nproc-per-node", str(launch.per_host or "gpu"), "--master-addr", master, "--master-port", str(launch.port),
        "--max-restarts", "0",
    ]  # fmt: skip
    folder = files("hostcheck.bench")
    source = folder.joinpath("collective.py").read_text("utf-8")
    lines = [
        *(f"export {name}='{value}'" for name, value in launch.environment.items()),
        f"python={shlex.quote(launch.python)}",
        f"cuda={1 if launch.backend == 'nccl' else ''}",
        f"limit={int(launch.seconds)}",
        f"plan={shlex.quote(json.dumps(plan))}",
        f"set -- {shlex.join(words)}",
        f"write_source() {{ cat <<'{_END}'\n{source}{_END}\n}}",
        folder.joinpath("ranks.sh").read_text("utf-8"),
    ]
    return "\n".join(lines).encode()


def run(
    targets: Sequence[Target], make: Callable[[Target], Transport], launch: Launch, *, seconds: float | None = None
) -> Outcome:
    """Measure on some hosts together; whatever they do, there is an outcome.

    Args:
        targets: the hosts; the first one has rank 0.
        make: gives the way to a host.
        launch: what to measure.
        seconds: limit for all of it; by default, what the launch plans.

    Raises:
        HostcheckError: the launch has what a shell would act upon.
        KeyboardInterrupt: after Ctrl-C, with all hosts let go.
    """
    most = seconds or launch.seconds + _GRACE
    master = launch.master or targets[0].address
    programs = [program(launch, node, len(targets), master) for node in range(len(targets))]
    came: queue.SimpleQueue[tuple[Target, Answer]] = queue.SimpleQueue()
    open_: dict[str, Transport] = {}

    def ask(target: Target, text: bytes) -> None:
        try:
            open_[target.name] = make(target)
            answer = open_[target.name].run(text, seconds=most, most=MOST)
        except HostcheckError as problem:
            answer = Answer(reach=Reach.ERROR, why=one_line(str(problem)))
        except BaseException as problem:
            answer = Answer(
                reach=Reach.ERROR, why=one_line(f"a fault of hostcheck: {type(problem).__name__}: {problem}")
            )
        came.put((target, answer))

    for target, text in zip(targets, programs, strict=True):
        threading.Thread(target=ask, args=(target, text), name=target.name, daemon=True).start()
    try:
        return _gather(targets, came, open_, time.monotonic() + most + _GRACE, launch.cases)
    finally:
        for transport in list(open_.values()):
            with suppress(Exception):
                transport.close()


def _gather(
    targets: Sequence[Target],
    came: queue.SimpleQueue[tuple[Target, Answer]],
    open_: Mapping[str, Transport],
    deadline: float,
    cases: Sequence[Case],
) -> Outcome:
    answers: dict[str, Answer] = {}
    failed: dict[str, str] = {}
    absent: set[str] = set()
    let_go: set[str] = set()
    until = deadline
    while len(answers) < len(targets):
        try:
            target, answer = came.get(timeout=max(0.0, min(until, deadline) - time.monotonic()))
        except queue.Empty:
            waiting = [target.name for target in targets if target.name not in answers]
            if not failed or time.monotonic() >= deadline or let_go:
                failed |= dict.fromkeys(set(waiting) - let_go, "no end, nor when the time was up: given up")
                break
            let_go |= set(waiting)
            for name in waiting:
                if name in open_:
                    open_[name].close()
            until = time.monotonic() + _GRACE
            continue
        answers[target.name] = answer
        if answer.reach is not Reach.OK and target.name not in let_go:
            failed[target.name] = (
                f"{answer.reach.value}: {answer.why}" if answer.reach is not Reach.ERROR else answer.why
            )
            if answer.reach in _NEVER_THERE or answer.why.startswith(_REFUSAL):
                absent.add(target.name)
            until = min(until, time.monotonic() + _LAST_WORDS)
    first = answers.get(targets[0].name)
    found: tuple[Found, ...] = ()
    if first is not None and first.reach is Reach.OK and not failed:
        try:
            found = tuple(read_found(first.out))
        except HostcheckError as problem:
            failed[targets[0].name] = str(problem)
        if not failed and len(found) != len(cases):
            failed[targets[0].name] = f"it gave {len(found)} of {len(cases)} results"
        elif not failed and not all(_is_of(one, case, len(targets)) for one, case in zip(found, cases, strict=True)):
            failed[targets[0].name] = "what it sent is not what was to be measured"
    return Outcome(found=found, failed=failed, absent=frozenset(absent))


def _is_of(found: Found, case: Case, hosts: int) -> bool:
    """Whether a result is that of a case, measured between so many hosts; sizes are rounded to what ranks share."""
    operation, size, _ = case
    return found.operation == operation and found.ranks >= hosts and abs(found.bytes - size) <= 4 * found.ranks


def read_found(out: bytes) -> Iterator[Found]:
    """Yield what a host printed as results. It may print anything.

    Raises:
        HostcheckError: a line is no result.
    """
    decoder = msgspec.json.Decoder(Found)
    mark = MARK.encode()
    for line in out.splitlines():
        if not line.startswith(mark):
            continue
        try:
            found = decoder.decode(line[len(mark) :])
        except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
            raise HostcheckError(f"what it sent is no result: {one_line(str(problem), 120)}") from None
        if found.operation not in FACTORS or found.ranks != len(found.per_rank) or found.ranks != len(found.who):
            raise HostcheckError("what it sent is no result: its parts contradict each other")
        yield found
