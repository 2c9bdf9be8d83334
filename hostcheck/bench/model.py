"""`Measurement`: the samples and conditions of one benchmark on one subject, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from hostcheck.model import Scalar

SCHEMA = 1

# What the driver lowers clocks for that no healthy, well cooled, well fed GPU shows.
SLOWDOWNS = {
    "hw_thermal_slowdown": "hardware thermal slowdown",
    "hw_power_brake": "the hardware power brake (power supply or rack)",
    "sw_thermal_slowdown": "software thermal slowdown",
    "sync_boost": "sync boost with another GPU",
}

HEAT = ("hw_thermal_slowdown", "hw_power_brake", "sw_thermal_slowdown")
"""Which of them drivers since 535 count."""

# Error counters of which a single one counts.
PROVING = ("ecc.dram.uncorrected", "ecc.sram.uncorrected", "rows.remapped", "pcie.fatal")

_CAPPED = 0.1
_AT_THE_LIMIT = 0.95

# How the reason begins where samples scatter.
UNSTEADY = "unsteady: "


RUN_ON = ((9, 0),)
"""Compute capabilities on which we ran the benchmarks ourselves."""
NOT_RUN = "not run on this hardware by us"


UNVERIFIED = "its output was not verified"
"""Why such a number is invalid."""


ALL_GPUS = "all GPUs"
"""The subject of what no GPU does without the others."""


class Level(IntEnum):
    """How much is measured: a whole host in under a minute, in five, in an hour, and until told to stop."""

    QUICK = 0
    STANDARD = 1
    FULL = 2
    SOAK = 3


class Scope(StrEnum):
    """What one child process has to itself."""

    HOST = "host"  # no GPU at all
    GPU = "gpu"  # one GPU; all GPUs at once, and alone where that differs
    GPUS = "gpus"  # every chosen GPU in one process, such as peer copies
    RANKS = "ranks"  # one process for each GPU that talk to each other, such as NCCL


class Backend(StrEnum):
    """What a benchmark needs beside hostcheck itself; the value is the extra that brings it."""

    NONE = ""
    CUDA = "bench"
    TORCH = "torch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a device did while it was measured. A value that could not be read is None, or not there, and never 0.

    Attributes:
        sm_mhz, mem_mhz: median clocks during the samples; `sm_mhz_low` the lowest that was seen.
        power_w, temperature_c: the highest that was seen; `power_limit_w` as enforced.
        throttled_ns: by reason (NVML's words, such as "hw_thermal_slowdown", "sw_power_cap"), how much was added.
        errors: by how much error counters grew meanwhile, such as "ecc.dram.corrected" or "pcie.replays".
        others: what else ran on the device, such as "python (pid 4711)".
        joules: energy taken by the device during the samples; None where they were too short to tell.
        seconds: how long it was watched; nanoseconds of slowdown are of these.
    """

    sm_mhz: float | None = None
    sm_mhz_low: float | None = None
    mem_mhz: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    temperature_c: float | None = None
    throttled_ns: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    joules: float | None = None
    seconds: float | None = None

    def share(self, reason: str) -> float:
        """Return for which share of the watched time a reason held the clocks down."""
        if not self.seconds:
            return 0.0
        return min(1.0, self.throttled_ns.get(reason, 0) / 1e9 / self.seconds)

    @property
    def is_capped(self) -> bool | None:
        """Whether the power limit held the clocks down; None where neither a counter nor the power tells."""
        if self.seconds and "sw_power_cap" in self.throttled_ns:
            return self.share("sw_power_cap") > _CAPPED
        if self.power_w is None or not self.power_limit_w:
            return None
        return self.power_w > self.power_limit_w * _AT_THE_LIMIT


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What a benchmark yields: samples of one case, before the engine adds conditions and judges validity.

    Attributes:
        samples: one number for each repetition, in `unit`; more is better, but less of a time.
        unit: such as "GB/s" (10^9 bytes), "TFLOPS" (10^12), "us"; s, ms, us and ns are times.
        subject: where it is not the child's own GPU, such as "gpu0>gpu1" or "node0".
        limit, limit_source: the physical limit in the same unit, where the benchmark knows it.
        ceiling: above this the number is wrong, where the limit is a vendor's figure that good parts may pass.
        verified: whether the output of the very kernels that were timed was compared and right.
        invalid: what the benchmark itself knows against the number.

    The other fields are those of `Measurement`.
    """

    samples: tuple[float, ...]
    unit: str
    case: str = ""
    subject: str = ""
    statistic: str = "median"
    limit: float | None = None
    limit_source: str = ""
    ceiling: float | None = None
    settings: dict[str, Scalar] = field(default_factory=dict)
    details: dict[str, Scalar] = field(default_factory=dict)
    verified: bool = False
    invalid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One number, how it came about, and whether it may be believed.

    Attributes:
        bench: id of the benchmark, such as "hbm.triad".
        subject: what was measured, such as "gpu0", "gpu0>gpu1", "node0>node1" or "host".
        case: which of several of one benchmark, such as "bf16 8192" or "1 GiB"; empty where there is one.
        value: the statistic of the samples; None where there is none, and `invalid` says why.
        unit: such as "GB/s" (10^9 bytes), "TFLOPS" (10^12), "us".
        statistic: how `value` comes from `samples`: "median", "min", "max", "p99".
        samples: all of them, in order of time.
        limit: the physical limit in the same unit, None where none is known; `limit_source` says whence.
        settings: sizes, bytes convention, data and seed, warm-up, transport used: what must be equal for two numbers to
            be comparable.
        verified: whether the output was checked and right. An unverified number is invalid.
        invalid: why the number may not be believed; empty where it may. Invalid is unknown: neither pass nor fail.
        details: further numbers to show, not to judge, such as the bandwidth of each SM.
        alone: whether the other GPUs idled meanwhile.
        each: where several GPUs took part, the conditions of each; `conditions` are then those of all together if they
            shared a process, and the first's if each had its own.
    """

    bench: str
    subject: str
    unit: str
    value: float | None
    case: str = ""
    statistic: str = "median"
    samples: tuple[float, ...] = ()
    limit: float | None = None
    limit_source: str = ""
    settings: dict[str, Scalar] = field(default_factory=dict)
    verified: bool = False
    invalid: str = ""
    details: dict[str, Scalar] = field(default_factory=dict)
    conditions: Conditions = Conditions()
    alone: bool = False
    each: dict[str, Conditions] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def watched(self) -> dict[str, Conditions]:
        """Conditions by the GPU, or what else was measured, that they are of."""
        return self.each or {self.subject: self.conditions}

    @property
    def joules_per_tflop(self) -> float | None:
        """Energy of 10^12 operations, where the benchmark counted them and the device its energy."""
        flops = self.details.get("flops")
        if self.conditions.joules is None or not isinstance(flops, int | float) or flops <= 0:
            return None
        return self.conditions.joules / flops * 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A benchmark that gave no number, and why: a device that was lost, a package that is not there, a limit reached.

    Attributes:
        why: one line, with what to do.
        applies: whether a number was to be had at all; not, where the GPU has no such units, or a package that nobody
            asked for is not installed.
        bug: it is ours: an exception that no user can cause, and its traceback.
    """

    bench: str
    subject: str
    why: str
    applies: bool = True
    bug: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """All that one `hostcheck bench` measured on one host.

    Attributes:
        devices: subject to what it is: name, PCI address, UUID, driver and so on, of each GPU.
        versions: of what measured: driver, CUDA, torch, NCCL, kernel.
        taken: when it began, ISO 8601 UTC.
    """

    tool: str
    taken: str
    level: str
    measurements: tuple[Measurement, ...]
    missing: tuple[Missing, ...] = ()
    devices: dict[str, dict[str, str]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    schema: int = SCHEMA
