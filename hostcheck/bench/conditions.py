"""What GPUs do while they are measured: clocks, power, temperature, slowdowns, errors. Reads NVML, sets nothing.

The sampler is a thread of the process that measures: each GPU is watched by its own process, so that one GPU with a
driver that hangs takes nobody else along. A sample takes some 3 ms of each GPU (H200, 2026-11-21).

Energy comes from a counter that moves ten times a second (H100, driver 580; 2026-11-21), so that the difference between
the ends of a short stretch can be off by a fifth of a second of power. It is told from where the counter moved first to
where it moved last, and not at all where less than a third of a second lies between.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from hostcheck.bench.model import Conditions

PERIOD = 0.02
"""Seconds between two samples."""
_MOST = 8192
"""Samples of a GPU that are kept; of more, every second one goes, and from then on half as many are taken."""
_LEAST_ENERGY = 0.35
"""Seconds between two moves of the energy counter from which on they tell the power to some 5 %."""

# Numbers of NVML_FI_DEV_*, stable across versions. Nanoseconds for which a reason held the clocks down.
SLOWDOWNS = {
    "sw_power_cap": 74,
    "sync_boost": 76,
    "sw_thermal_slowdown": 269,
    "hw_thermal_slowdown": 270,
    "hw_power_brake": 271,
}
_POWER_MW = 186
_ENERGY_MJ = 83
# Totals over all links of a GPU; NVLink 5 counts other things, one link at a time.
_NVLINK_TOTALS = {"nvlink.crc": 38, "nvlink.data-crc": 45, "nvlink.replays": 52, "nvlink.recoveries": 59}
_NVLINK_EACH = {
    "nvlink.malformed": 206,
    "nvlink.overruns": 207,
    "nvlink.local-integrity": 211,
    "nvlink.recoveries-failed": 214,
}
_LINKS = 91
_PCIE = {"pcie.l0-recoveries": 169, "pcie.fatal": 180}


class Watched:
    """One GPU through NVML. Whatever it does not have or refuses is None or left out.

    Args:
        library: pynvml, or a stand-in.
        uuid: which GPU.
    """

    def __init__(self, library: Any, uuid: str) -> None:
        self._library = library
        self._gpu = library.nvmlDeviceGetHandleByUUID(uuid)
        self._links = range(int(self.fields({"links": _LINKS}).get("links", 0)))

    def ask(self, function: str, *arguments: Any) -> Any:
        """Call a function about this GPU; None where it is refused."""
        try:
            return getattr(self._library, function)(self._gpu, *arguments)
        except Exception:
            return None

    def fields(self, wanted: Mapping[str, int], link: int | None = None) -> dict[str, float]:
        """Read field values; those that there are none of are left out."""
        numbers = [number if link is None else (number, link) for number in wanted.values()]
        values = self.ask("nvmlDeviceGetFieldValues", numbers) or ()
        kinds = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
        found = {}
        for name, value in zip(wanted, values, strict=False):
            with suppress(IndexError, AttributeError):
                if value.nvmlReturn == 0:
                    found[name] = float(getattr(value.value, kinds[value.valueType]))
        return found

    def slowdowns(self) -> dict[str, int]:
        """Return the nanoseconds of each reason so far."""
        return {name: int(value) for name, value in self.fields(SLOWDOWNS).items()}

    def errors(self) -> dict[str, int]:
        """Return every error counter that can be read."""
        found: dict[str, int] = {}
        # Kind of error: 0 corrected, 1 uncorrected; period: 0 since driver load; place: 2 DRAM, 7 SRAM.
        for name, kind, place in (
            ("ecc.dram.corrected", 0, 2),
            ("ecc.dram.uncorrected", 1, 2),
            ("ecc.sram.corrected", 0, 7),
            ("ecc.sram.uncorrected", 1, 7),
        ):
            count = self.ask("nvmlDeviceGetMemoryErrorCounter", kind, 0, place)
            if count is not None:
                found[name] = int(count)
        rows = self.ask("nvmlDeviceGetRemappedRows")
        if rows is not None:
            found["rows.remapped"] = int(rows[0]) + int(rows[1])
        replays = self.ask("nvmlDeviceGetPcieReplayCounter")
        if replays is not None:
            found["pcie.replays"] = int(replays)
        found |= {name: int(value) for name, value in self.fields({**_PCIE, **_NVLINK_TOTALS}).items()}
        for link in self._links:
            for name, value in self.fields(_NVLINK_EACH, link).items():
                found[name] = found.get(name, 0) + int(value)
        return found

    def others(self, ours: int = 1) -> tuple[str, ...]:
        """Return the compute processes on the GPU that are not of this run, such as "python (pid 4711)".

        In a container NVML can show numbers of another process namespace. Where this process is not among what is
        shown, only more processes than `ours` are foreign for certain.
        """
        seen = [int(entry.pid) for entry in self.ask("nvmlDeviceGetComputeRunningProcesses") or ()]
        if os.getpid() in seen:
            return tuple(f"{_name(pid)} (pid {pid})" for pid in seen if not _is_ours(pid))
        if len(seen) <= ours:
            return ()
        return tuple(f"{_name(pid)} (pid {pid})" for pid in seen if not _is_ours(pid))[: len(seen) - ours]

    def sample(self, at: float) -> Sample:
        """Read what changes from moment to moment."""
        read = self.fields({"energy": _ENERGY_MJ, "power": _POWER_MW})
        power = read["power"] if "power" in read else self.ask("nvmlDeviceGetPowerUsage")
        # Kind of clock: 1 SM, 2 memory; kind of temperature: 0 the GPU itself.
        return Sample(
            at,
            self.ask("nvmlDeviceGetClockInfo", 1),
            self.ask("nvmlDeviceGetClockInfo", 2),
            None if power is None else power / 1000,
            self.ask("nvmlDeviceGetTemperature", 0),
            read["energy"] / 1000 if "energy" in read else None,
        )

    def power_limit(self) -> float | None:
        """Return the power limit in force, W."""
        limit = self.ask("nvmlDeviceGetEnforcedPowerLimit")
        return None if limit is None else limit / 1000


def _is_ours(pid: int) -> bool:
    """Whether a process belongs to this run: this one, what started it, and all that descends from either."""
    ours = {os.getpid(), os.getppid()}
    while pid > 0 and pid not in ours:
        pid = _parent(pid)
    return pid > 0


def _parent(pid: int) -> int:
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[1])
    return 0


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip() or "a process"
    except OSError:
        return "a process out of sight"


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment of one GPU; `joules` as its counter says."""

    at: float
    sm_mhz: float | None
    mem_mhz: float | None
    power_w: float | None
    temperature_c: float | None
    joules: float | None


@dataclass
class _Window:
    """One stretch of time that counts, and what its begin and end say of each GPU."""

    begin: float
    end: float = 0.0
    slowdowns: dict[str, dict[str, int]] = field(default_factory=dict)


class Sampler:
    """Samples GPUs all the time, and sums up the stretches that count.

    Args:
        gpus: the GPUs by subject.
        ours: how many processes of this run may be on a GPU.
        period: seconds between samples.
        clock: what tells the time, s.
    """

    def __init__(
        self,
        gpus: Mapping[str, Watched],
        *,
        ours: int = 1,
        period: float = PERIOD,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gpus = dict(gpus)
        # Those that the present stretch is of: each sample of a GPU takes its time.
        self._watched = self._gpus
        self._ours = ours
        self._period = self._pace = period
        self._clock = clock
        self._samples: dict[str, list[Sample]] = {subject: [] for subject in self._gpus}
        self._windows: list[_Window] = []
        self._errors: dict[str, dict[str, int]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to sample in the background."""
        if self._gpus:
            self._errors = {subject: gpu.errors() for subject, gpu in self._gpus.items()}
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="conditions", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End sampling, as far as NVML lets go of the thread."""
        self._stop.set()
        if self._thread:
            self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stop.wait(self._pace):
            self.sample()

    def sample(self) -> None:
        """Take one sample of each GPU that is watched."""
        for subject, gpu in self._watched.items():
            self._samples[subject].append(gpu.sample(self._clock()))
        if max(map(len, self._samples.values()), default=0) > _MOST:
            for samples in self._samples.values():
                del samples[1::2]
            self._pace *= 2

    def open(self, *subjects: str) -> None:
        """Begin a stretch that counts, of these GPUs; of all where none is named."""
        self._watched = {subject: self._gpus[subject] for subject in subjects if subject in self._gpus} or self._gpus
        window = _Window(0.0)
        for subject, gpu in self._watched.items():
            window.slowdowns[subject] = gpu.slowdowns()
        window.begin = self._clock()
        self._windows.append(window)

    def close(self) -> None:
        """End the stretch that was begun last."""
        window = self._windows[-1]
        self.sample()
        window.end = self._clock()
        for subject, before in window.slowdowns.items():
            after = self._gpus[subject].slowdowns()
            window.slowdowns[subject] = {
                name: max(0, after[name] - value) for name, value in before.items() if name in after
            }

    def forget(self) -> None:
        """Leave out what was before."""
        self._windows = []

    def seconds(self) -> float:
        """Return how long the stretches since the last `take` were."""
        return sum(window.end - window.begin for window in self._windows)

    def take(self, subjects: Sequence[str]) -> dict[str, Conditions]:
        """Return the conditions of the stretches since the last `take` by GPU, and begin anew.

        Args:
            subjects: of which GPUs; of all where it names none.
        """
        seconds = round(self.seconds(), 6)
        windows, self._windows = self._windows, []
        own = [subject for subject in subjects if subject in self._gpus] or list(self._gpus)
        every = {subject: self._of(subject, windows, seconds) for subject in own}
        for samples in self._samples.values():
            samples.clear()
        self._pace = self._period
        return every

    def _of(self, subject: str, windows: Sequence[_Window], seconds: float) -> Conditions:
        gpu = self._gpus[subject]
        samples = [sample for sample in self._samples[subject] if _within(sample, windows)]
        slowed: dict[str, int] = {}
        for window in windows:
            for reason, more in window.slowdowns.get(subject, {}).items():
                slowed[reason] = slowed.get(reason, 0) + more
        joules = [_joules(samples, window) for window in windows]
        before, now = self._errors.get(subject, {}), gpu.errors()
        self._errors[subject] = now
        return Conditions(
            sm_mhz=_median(sample.sm_mhz for sample in samples),
            sm_mhz_low=_least(sample.sm_mhz for sample in samples),
            mem_mhz=_median(sample.mem_mhz for sample in samples),
            power_w=_most(sample.power_w for sample in samples),
            power_limit_w=gpu.power_limit(),
            temperature_c=_most(sample.temperature_c for sample in samples),
            throttled_ns=slowed,
            errors={name: max(0, now[name] - before[name]) for name in now if name in before},
            others=gpu.others(self._ours),
            joules=None if None in joules or not joules else sum(_known(joules)),
            seconds=seconds,
        )


def together(every: Sequence[Conditions]) -> Conditions:
    """Return the conditions of GPUs that were watched at the same time as those of one.

    The one that suffered most counts: the lowest clocks, the highest temperature, the longest slowdown. Their energies
    are added.
    """
    if len(every) == 1:
        return every[0]
    reasons = {reason for each in every for reason in each.throttled_ns}
    counters = {name for each in every for name in each.errors}
    joules = [each.joules for each in every if each.joules is not None]
    return Conditions(
        sm_mhz=_least(each.sm_mhz for each in every),
        sm_mhz_low=_least(each.sm_mhz_low for each in every),
        mem_mhz=_least(each.mem_mhz for each in every),
        power_w=_most(each.power_w for each in every),
        power_limit_w=_least(each.power_limit_w for each in every),
        temperature_c=_most(each.temperature_c for each in every),
        throttled_ns={reason: max(each.throttled_ns.get(reason, 0) for each in every) for reason in sorted(reasons)},
        errors={name: sum(each.errors.get(name, 0) for each in every) for name in sorted(counters)},
        others=tuple(dict.fromkeys(other for each in every for other in each.others)),
        joules=sum(joules) if joules and len(joules) == len(every) else None,
        seconds=_most(each.seconds for each in every),
    )


def _joules(samples: Sequence[Sample], window: _Window) -> float | None:
    """Return the energy of a stretch by the power between two moves of the counter; None where they are too close."""
    told = [(sample.at, sample.joules) for sample in samples if sample.joules is not None and _within(sample, [window])]
    moved = [later for earlier, later in pairwise(told) if later[1] != earlier[1]]
    if not moved or moved[-1][0] - moved[0][0] < _LEAST_ENERGY:
        return None
    (begin, before), (end, after) = moved[0], moved[-1]
    return (after - before) / (end - begin) * (window.end - window.begin)


def _within(sample: Sample, windows: Sequence[_Window]) -> bool:
    return any(window.begin <= sample.at <= window.end for window in windows)


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _median(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return median(known) if known else None


def _least(values: Iterable[float | None]) -> float | None:
    return min(_known(values), default=None)


def _most(values: Iterable[float | None]) -> float | None:
    return max(_known(values), default=None)
