"""One `hostcheck bench` from the choice of benchmarks to the snapshot that holds what they gave."""

from __future__ import annotations

import datetime as dt
import os
import re
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

from hostcheck import __version__
from hostcheck.bench.floors import Floors
from hostcheck.bench.lab import BenchGpu
from hostcheck.bench.model import NOT_RUN, RUN_ON, Backend, Level, Measurement, Missing, Scope, Session
from hostcheck.bench.options import lacks
from hostcheck.bench.parent import STARTING, Harvest, Parent, Progress, Step
from hostcheck.bench.pinning import node_of
from hostcheck.errors import HostcheckError, Unavailable, install
from hostcheck.facts.bench import gpus_in
from hostcheck.facts.gpu_types import Gpu
from hostcheck.gpu_table import find
from hostcheck.registry import Bench, select
from hostcheck.render.json import encoded
from hostcheck.snapshot.reading import Ending, Reading, Snapshot

BUDGET = {Level.QUICK: 45.0, Level.STANDARD: 270.0, Level.FULL: 3300.0, Level.SOAK: 3600.0}
"""Seconds that a level takes for a whole host: under one minute, five minutes, an hour."""
_ONE_GPU = 36.0
"""The same for quick on a host with one GPU, where nothing is measured between GPUs."""
_STRETCH = {Level.QUICK: 1.0, Level.STANDARD: 4.0, Level.FULL: 30.0, Level.SOAK: float("inf")}
"""How much longer than it plans a benchmark is run where there is time."""
_PACKAGES = {Backend.CUDA: "cuda.bindings", Backend.TORCH: "torch"}
_FEWEST = 0.2
SPARE = {Level.QUICK: 6.0, Level.STANDARD: 25.0, Level.FULL: 0.0, Level.SOAK: 120.0}
"""Seconds, over the budget, in which GPUs are measured alone once more where at once they shared too little."""
_SPARE_SHARE = 0.1
"""The same of a duration that the user gives."""
_PROMISED = {Level.QUICK: 57.0, Level.STANDARD: 297.0}
"""Seconds from the start after which these levels have promised to be done, less what judging and printing take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The GPUs of this host, as far as they can be measured.

    Attributes:
        gpus: those that can, in order.
        devices: subject to what it is, of all that take part.
        refused: subject to why it cannot be measured.
        versions: of the driver.
        why_none: why there are no GPUs at all; empty where there are.
        unanswered: there are none although there is a driver and the PCI bus has some.
    """

    gpus: tuple[BenchGpu, ...] = ()
    devices: dict[str, dict[str, str]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    why_none: str = ""
    unanswered: bool = False


_NO_DRIVER = re.compile(r"shared library not found|libnvidia-ml", re.I)
_NOT_LOADED = re.compile(r"driver not loaded", re.I)
_MISMATCH = re.compile(r"version mismatch", re.I)


def gpus_on_bus(root: str = "/") -> bool:
    """Whether the PCI bus has a GPU of NVIDIA, whatever its driver says."""
    for device in Path(root, "sys/bus/pci/devices").glob("*"):
        with suppress(OSError):
            vendor, kind = ((device / name).read_text("ascii").strip() for name in ("vendor", "class"))
            if vendor == "0x10de" and kind.startswith("0x03"):
                return True
    return False


def look(reading: Reading, chosen: str | None = None, visible: str | None = None, *, on_bus: bool = False) -> Host:
    """Return the GPUs that NVML told of.

    Args:
        reading: of the probe gpu.nvml.
        chosen: what `--gpus` says: indices and ranges such as "0,2-3", or the beginnings of UUIDs; None for all.
        visible: CUDA_VISIBLE_DEVICES, which holds where nothing is chosen.
        on_bus: whether the PCI bus has GPUs.

    Raises:
        HostcheckError: a GPU was chosen that is not there, or it cannot be told which.
    """
    from hostcheck.facts.nvml_read import parse_nvml

    if chosen is not None and not chosen.strip(", "):
        raise HostcheckError("--gpus: no GPU is named: leave it out for all, or name some, such as 0,2-3")
    try:
        log = parse_nvml(reading.text())
    except Unavailable as problem:
        return Host(why_none=_why_none(problem.why), unanswered=on_bus and not _NO_DRIVER.search(problem.why))
    versions = {"driver": log.driver_version, "CUDA driver": log.cuda_version}
    host = Host(versions={name: text for name, text in versions.items() if isinstance(text, str)})
    wanted = log.gpus
    if chosen or visible is not None:
        who, text = ("--gpus", chosen) if chosen else ("CUDA_VISIBLE_DEVICES", visible or "")
        nothing = not chosen and text.strip() in ("", "-1")
        wanted = () if nothing else _chosen(log.gpus, text, who, log.unreadable)
    else:
        for line in log.unreadable:
            name, _, why = line.partition(": ")
            host.refused[name] = f"{why}; see dmesg for Xids"
    made = []
    for gpu in wanted:
        host.devices[gpu.subject] = _describe(gpu)
        if why := _refusal(gpu):
            host.refused[gpu.subject] = why
        elif isinstance(gpu.uuid, str):
            made.append(_bench_gpu(gpu))
    none = "" if made or host.refused else "NVML sees no GPU" if not log.gpus else "no GPU was chosen"
    return replace(host, gpus=tuple(made), why_none=none, unanswered=on_bus and not (log.gpus or log.unreadable))


def _why_none(why: str) -> str:
    if _NO_DRIVER.search(why):
        return "there is no NVIDIA driver here: its library libnvidia-ml.so.1 is not found"
    if _NOT_LOADED.search(why):
        return "the NVIDIA driver is installed but not loaded: see dmesg, or `modprobe nvidia`"
    if _MISMATCH.search(why):
        return "the driver's library and its kernel module are of different versions: reboot, or reload the module"
    return why


def _chosen(gpus: Sequence[Gpu], text: str, who: str, unreadable: Sequence[str]) -> tuple[Gpu, ...]:
    found: list[Gpu] = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        absent = word
        span = re.fullmatch(r"(?:gpu)?(\d{1,4})(?:-(\d{1,4}))?", word)
        if span:
            asked = range(int(span[1]), int(span[2] or span[1]) + 1)
            own = [gpu for gpu in gpus if gpu.index in asked]
            absent = ", ".join(str(index) for index in asked if index not in {gpu.index for gpu in own})[:80]
        else:
            own = [gpu for gpu in gpus if isinstance(gpu.uuid, str) and gpu.uuid.lower().startswith(word.lower())]
        if not own or (span and absent):
            have = ", ".join(str(gpu.index) for gpu in gpus) or "none"
            hint = "; MIG devices are not measured" if word.upper().startswith("MIG-") else ""
            hint += "".join(f"; {line}, see dmesg for Xids" for line in unreadable)
            raise HostcheckError(f"{who}: no GPU {absent or word!r} (there are {have}){hint}")
        if len(own) > 1 and not span:
            those = ", ".join(str(gpu.index) for gpu in own)
            raise HostcheckError(f"{who}: {word!r} begins the UUID of several GPUs: {those}")
        found += [gpu for gpu in own if gpu not in found]
    return tuple(found)


def _refusal(gpu: Gpu) -> str:
    """Say why a GPU cannot be measured; an empty string where it can."""
    if gpu.faults:
        return f"{gpu.faults[0]}: it must be reset or replaced first (hostcheck audit --only gpu)"
    if gpu.mig.current is True:
        return (
            "MIG is on: figures of a whole GPU do not hold for its parts; "
            f"end its jobs and turn it off (nvidia-smi -i {gpu.index} -mig 0), or choose other GPUs with --gpus"
        )
    if gpu.compute_mode == "Prohibited":
        return f"its compute mode is Prohibited: nvidia-smi -i {gpu.index} -c DEFAULT"
    if not isinstance(gpu.uuid, str):
        return "NVML does not tell its UUID"
    return ""


def _describe(gpu: Gpu) -> dict[str, str]:
    known = {
        "name": gpu.name,
        "bus_id": gpu.bus_id,
        "uuid": gpu.uuid,
        "pci_id": gpu.pci_id,
        "architecture": gpu.architecture,
        "vbios": gpu.vbios,
    }
    told = {name: value for name, value in known.items() if isinstance(value, str)}
    if isinstance(gpu.virtualization, str) and gpu.virtualization != "None":
        told["virtualization"] = gpu.virtualization
    if _is_confidential(gpu):
        told["confidential computing"] = "on"
    if _capability(gpu) not in RUN_ON:
        told["hardware"] = NOT_RUN
    return told


def _capability(gpu: Gpu) -> tuple[int, int]:
    major, _, minor = (gpu.compute_capability if isinstance(gpu.compute_capability, str) else "0.0").partition(".")
    return int(major), int(minor or 0)


def _is_confidential(gpu: Gpu) -> bool:
    protected = gpu.protected_memory.total_mib
    return isinstance(protected, int) and protected > 0


def _bench_gpu(gpu: Gpu) -> BenchGpu:
    name = gpu.name if isinstance(gpu.name, str) else "NVIDIA GPU"
    mib = gpu.memory.total_mib
    pci_id, subsystem = (text if isinstance(text, str) else None for text in (gpu.pci_id, gpu.subsystem_id))
    model = find(pci_id, subsystem, name, mib if isinstance(mib, int) else None)
    assert isinstance(gpu.uuid, str)
    return BenchGpu(
        index=gpu.index,
        ordinal=0,
        uuid=gpu.uuid,
        name=name,
        # Of a share of a GPU the figures of the whole one do not hold.
        model=None if gpu.virtualization == "VGPU" else model,
        sm_count=0 if model is None or model.sm is None else model.sm,
        cc=_capability(gpu),
        numa_node=node_of(gpu.bus_id),
    )


def choose(benches: Mapping[str, Bench], names: Sequence[str], level: Level) -> list[Bench]:
    """Return the benchmarks of a level, or those that are named, in the order in which they run.

    First those that answer soonest: without torch, then with it, the host itself last.

    Raises:
        HostcheckError: a name matches none.
    """
    if names:
        ids = select(benches, names, noun="benchmark", listed="hostcheck bench list")
    else:
        ids = {id for id, made in benches.items() if made.level <= level}
    scopes = (Scope.GPU, Scope.GPUS, Scope.RANKS, Scope.HOST)
    backends = (Backend.CUDA, Backend.TORCH, Backend.NONE)
    order = list(benches)
    return sorted(
        (benches[id] for id in ids),
        key=lambda made: (backends.index(made.backend), scopes.index(made.scope), order.index(made.id)),
    )


def lacking(
    benches: Sequence[Bench], host: Host, *, named: bool, options: Container[str] = ()
) -> tuple[list[Bench], list[Missing]]:
    """Return which of the benchmarks can run here, and why the others cannot.

    Args:
        benches: what was chosen.
        host: the GPUs.
        named: whether the user named them: then what is not there counts as unknown.
        options: names of those that the user gave.
    """
    can: list[Bench] = []
    missing: list[Missing] = []
    packages = {made.id: _PACKAGES.get(made.backend, made.package) for made in benches}
    absent = {package for package in packages.values() if package and not _is_there(package)}
    for made in benches:
        if packages[made.id] in absent:
            why = f"{packages[made.id].replace('.', '-')} is not installed: {install(made.extra)}"
            missing.append(Missing(bench=made.id, subject="host", why=why, applies=named))
            continue
        if needed := lacks(made, options):
            missing.append(Missing(bench=made.id, subject="host", why=f"{made.id} needs {needed}", applies=named))
            continue
        if made.scope is Scope.HOST:
            can.append(made)
            continue
        if made.scope in (Scope.GPUS, Scope.RANKS) and len(host.gpus) == 1:
            why = "it needs two GPUs or more"
            missing.append(Missing(bench=made.id, subject="host", why=why, applies=bool(host.refused)))
        elif host.gpus:
            can.append(made)
        elif not host.refused:
            applies = named or host.unanswered
            missing.append(Missing(bench=made.id, subject="host", why=host.why_none, applies=applies))
        missing += [Missing(bench=made.id, subject=subject, why=why) for subject, why in host.refused.items()]
    return can, missing


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def plan(benches: Sequence[Bench], gpus: int, level: Level, duration: float | None = None) -> list[Step]:
    """Share the time of a level, or what the user gives, among benchmarks.

    At level full, what runs on all GPUs at once runs on each of them alone besides: the difference is what they share,
    power and cooling above all. Where all the time is used up, what lets GPUs idle gets no more of it than at level
    standard.

    Args:
        benches: what runs.
        gpus: how many GPUs take part.
        level: how thorough.
        duration: seconds for all, in place of the level's; then it is used up.
    """
    steps = [Step(bench=made, seconds=made.seconds, alone=made.alone) for made in benches]
    if level is Level.FULL and gpus > 1:
        steps += [replace(step, alone=True) for step in steps if step.bench.scope is Scope.GPU and not step.alone]

    def need(some: Iterable[Step]) -> float:
        return sum(step.seconds * step.turns(gpus) for step in some)

    starting = sum(STARTING[backend] for _, backend in {(made.scope, made.backend) for made in benches})
    budget = _ONE_GPU if level is Level.QUICK and gpus <= 1 else BUDGET[level]
    time_left = max(1.0, (budget if duration is None else duration) - starting)
    most = _STRETCH[level] if duration is None else float("inf")
    factor = min(most, time_left / need(steps)) if need(steps) else 1.0
    idle = [step for step in steps if _idles(step.bench)]
    held = factor
    if most == float("inf") and need(idle) < need(steps):
        held = min(factor, _STRETCH[Level.STANDARD])
        factor = (time_left - held * need(idle)) / (need(steps) - need(idle))

    def seconds(step: Step) -> float:
        return max(_FEWEST, round(step.seconds * (held if _idles(step.bench) else factor), 2))

    return [replace(step, seconds=seconds(step)) for step in steps]


def _idles(made: Bench) -> bool:
    """Whether GPUs idle while a benchmark runs: it is of the host, or they take turns."""
    return made.scope is Scope.HOST or made.alone


def measure(
    steps: Sequence[Step],
    host: Host,
    missing: Sequence[Missing],
    *,
    level: Level,
    options: Mapping[str, str],
    tell: Callable[[Progress], None] | None = None,
    floors: Floors | None = None,
    duration: float | None = None,
) -> tuple[Session, Harvest]:
    """Run benchmarks and return all that came of it.

    Args:
        steps: what runs, from `plan`.
        host: the GPUs.
        missing: what cannot run.
        level, options: as the user set them.
        tell: called with each progress.
        floors: with them, what GPUs did badly at once because they share something is measured alone, too.
        duration: seconds for all, in place of the level's.
    """
    taken = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    begun = time.monotonic()
    confidential = {subject for subject, told in host.devices.items() if "confidential computing" in told}

    def session(harvest: Harvest) -> Session:
        return Session(
            tool=__version__,
            taken=taken,
            level=level.name.lower(),
            measurements=tuple(_encrypted(measured, confidential) for measured in harvest.measurements),
            missing=(*missing, *harvest.missing),
            devices={subject: {**told, **harvest.told.get(subject, {})} for subject, told in host.devices.items()},
            versions={"kernel": os.uname().release, **host.versions, **harvest.versions},
            seconds=round(time.monotonic() - begun, 3),
        )

    parent = Parent(
        host.gpus,
        level=level,
        options=options,
        whole=duration is not None,
        tell=tell,
        doubt=None if floors is None else lambda harvest: floors.doubtful(session(harvest)),
        spare=SPARE[level] if duration is None else _SPARE_SHARE * duration,
        until=_PROMISED.get(level, float("inf")) if duration is None else float("inf"),
    )
    harvest = parent.run(steps)
    return session(harvest), harvest


def _encrypted(measured: Measurement, confidential: set[str]) -> Measurement:
    """Return a measurement without its limit where that does not hold, since each copy is encrypted."""
    # What names none, all of them took part in.
    named = {f"gpu{index}" for index in gpus_in(measured.subject)} or confidential
    if not named & confidential or not measured.bench.startswith(("copy.", "peer.", "nccl.")):
        return measured
    settings = {**measured.settings, "confidential computing": "on"}
    return replace(measured, limit=None, limit_source="", settings=settings)


def with_results(snapshot: Snapshot, session: Session) -> Snapshot:
    """Return a snapshot with the measurements in it, as checks and archives want them."""
    at = snapshot.manifest.uptime
    reading = Reading("bench.results", Ending.OK, 0, session.seconds, at, out=encoded(session))
    return replace(snapshot, readings={**snapshot.readings, reading.probe: reading})
