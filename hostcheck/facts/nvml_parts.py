"""The parts of one GPU in NVML's report, and typed look-ups in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hostcheck.errors import Maybe, NotApplicable, Unavailable
from hostcheck.facts.gpu_types import (
    FABRIC_HEALTH,
    REASONS,
    Clocks,
    ClockSet,
    Ecc,
    EccCounters,
    Fabric,
    Pcie,
    Power,
    Temperature,
)
from hostcheck.facts.smi_tree import added

PROBE = "gpu.nvml"
_MIB = 1 << 20
_MOST = 1 << 64

_FABRIC_STATES = {1: "Not Started", 2: "In Progress", 3: "Completed"}
_FABRIC_SUMMARY = {1: "Healthy", 2: "Unhealthy", 3: "Limited Capacity"}
# Bit of nvmlClocksEventReasons_t for each name.
_REASON_BITS = dict(zip(REASONS, (0x1, 0x2, 0x4, 0x8, 0x40, 0x80, 0x10, 0x20, 0x100), strict=True))
# Shift, mask and words of each part of the fabric's health mask; 0 is "not supported" in all of them.
_YES_NO = {1: "True", 2: "False"}
_HEALTH = {
    "bandwidth": (0, 0x3, {1: "Degraded", 2: "Full"}),
    "route_recovery_in_progress": (2, 0x3, _YES_NO),
    "route_unhealthy": (4, 0x3, _YES_NO),
    "access_timeout_recovery": (6, 0x3, _YES_NO),
    "incorrect_configuration": (8, 0xF, {1: "None", 2: "Incorrect SysGuid", 3: "Incorrect Chassis Serial Number",
                                         4: "No Partition", 5: "Insufficient NVLinks", 6: "Incompatible GPU Firmware",
                                         7: "Invalid Location", 8: "GPU State Invalid"}),
    "partition_assigned": (12, 0x3, _YES_NO),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reader:
    """Typed look-ups in one object; a path such as "bar1.bar1Total" goes into objects and, by number, into lists."""

    entry: Mapping[str, Any]

    def raw(self, path: str) -> Any:
        """Return a value, or why there is none."""
        value: Any = self.entry
        for part in path.split("."):
            if isinstance(value, dict):
                value = value.get(part)
            elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
                value = value[int(part)]
            else:
                value = None
            if isinstance(value, dict) and value.get("na") is True:
                return NotApplicable(f"NVML: this GPU does not support {path}")
            if isinstance(value, dict) and "error" in value:
                return Unavailable(f"NVML: {path}: {str(value['error'])[:100]}", PROBE)
        return Unavailable(f"NVML: {path} was not asked for", PROBE) if value is None else value

    def text(self, path: str) -> Maybe[str]:
        """Return a text."""
        value = self.raw(path)
        return value if isinstance(value, str | Unavailable | NotApplicable) else wrong(path, value)

    def whole(self, path: str) -> Maybe[int]:
        """Return a whole number."""
        value = self.raw(path)
        if isinstance(value, Unavailable | NotApplicable):
            return value
        if isinstance(value, bool) or not isinstance(value, int) or not -_MOST < value < _MOST:
            return wrong(path, value)
        return value

    def mib(self, path: str) -> Maybe[int]:
        """Return bytes as MiB, rounded down."""
        value = self.whole(path)
        return value // _MIB if isinstance(value, int) else value

    def watts(self, path: str) -> Maybe[float]:
        """Return milliwatts as watts."""
        value = self.whole(path)
        return value / 1000 if isinstance(value, int) else value

    def flag(self, path: str) -> Maybe[bool]:
        """Return a 0 or 1 as a truth value."""
        value = self.whole(path)
        return bool(value) if value in (0, 1) else value if not isinstance(value, int) else wrong(path, value)

    def word(self, path: str, words: Mapping[int, str]) -> Maybe[str]:
        """Return the word for a number."""
        value = self.whole(path)
        if not isinstance(value, int):
            return value
        return words.get(value) or wrong(path, value)


def wrong(path: str, value: object) -> Unavailable:
    """Return the reason that a value is not understood."""
    return Unavailable(f"NVML: {path}: {str(value)[:60]} is not a known value", PROBE)


def pci_id(number: Maybe[int], vendor: str = "") -> Maybe[str]:
    """Return vendor and device; NVML has the device in the upper half of the number."""
    if not isinstance(number, int):
        return number
    text = f"{number & 0xFFFF:04x}:{number >> 16 & 0xFFFF:04x}"
    return text if text.startswith(vendor) else wrong("pci", text)


def cpus(words: Any) -> Maybe[tuple[int, ...]]:
    """Return the CPU numbers in a bit mask of 64-bit words."""
    if isinstance(words, Unavailable | NotApplicable):
        return words
    fine = isinstance(words, list) and len(words) <= 1024 and all(type(w) is int and 0 <= w < _MOST for w in words)
    if not fine:
        return wrong("cpu_affinity", words)
    return tuple(64 * at + bit for at, word in enumerate(words) for bit in range(64) if word >> bit & 1)


def table(read: Reader, names: Mapping[str, str]) -> Maybe[Mapping[str, int]]:
    """Return several counts as one mapping; one that is missing makes the whole missing."""
    values = {name: read.whole(path) for name, path in names.items()}
    reason = next((value for value in values.values() if not isinstance(value, int)), None)
    return reason or {name: value for name, value in values.items() if isinstance(value, int)}


def ecc(read: Reader) -> Ecc:
    """Read ECC mode and counters."""
    units = {"l2": "L2", "sm": "Sm", "microcontroller": "Mcu", "pcie": "Pcie", "other": "Other"}
    sram = _sram(read, "aggregate")
    other = read.whole("ecc_aggregate_sram_uncorrectable")
    return Ecc(
        current=read.flag("ecc.0"),
        pending=read.flag("ecc.1"),
        volatile=replace(_sram(read, "volatile"), total_uncorrectable=read.whole("ecc_volatile_total_uncorrectable")),
        aggregate=replace(
            sram,
            sram_correctable=read.whole("ecc_aggregate_sram_correctable"),
            sram_uncorrectable=sram.sram_uncorrectable if isinstance(sram.sram_uncorrectable, int) else other,
            dram_correctable=read.whole("ecc_aggregate_dram_correctable"),
        ),
        sram_threshold_exceeded=read.flag("sram.bThresholdExceeded"),
        channel_repair_pending=read.flag("repair_pending.0"),
        tpc_repair_pending=read.flag("repair_pending.1"),
        unrepairable_memory=read.flag("unrepairable_memory"),
        sram_sources=table(read, {name: f"sram.aggregateUncBucket{unit}" for name, unit in units.items()}),
    )


def _sram(read: Reader, period: str) -> EccCounters:
    """Read the uncorrectable SRAM errors by kind, which older drivers do not tell."""
    parity, secded = read.whole(f"sram.{period}UncParity"), read.whole(f"sram.{period}UncSecDed")
    return EccCounters(
        sram_uncorrectable=added([parity, secded]),
        sram_uncorrectable_parity=parity,
        sram_uncorrectable_secded=secded,
    )


def clocks(read: Reader) -> Clocks:
    """Read clock settings, and why clocks are not higher."""
    mask = read.whole("event_reasons")

    def settings(prefix: str) -> ClockSet:
        return ClockSet(
            graphics_mhz=read.whole(f"{prefix}_graphics_mhz"), memory_mhz=read.whole(f"{prefix}_memory_mhz")
        )

    return Clocks(
        application=settings("application_clock"),
        default_application=settings("default_application_clock"),
        max=ClockSet(sm_mhz=read.whole("max_clock_sm_mhz")),
        reasons={name: bool(mask & bit) if isinstance(mask, int) else mask for name, bit in _REASON_BITS.items()},
    )


def power(read: Reader) -> Power:
    """Read power limits."""
    return Power(
        limit_w=read.watts("power_enforced_mw"),
        requested_limit_w=read.watts("power_limit_mw"),
        default_limit_w=read.watts("power_default_mw"),
    )


def temperature(read: Reader) -> Temperature:
    """Read temperatures and limits; NVML has both forms of the limits on new GPUs."""
    return Temperature(
        gpu_c=read.whole("temperature_c"),
        memory_c=read.whole("memory_temperature_c"),
        tlimit_c=read.whole("temperature_margin_c"),
        shutdown_c=read.whole("shutdown_c"),
        slowdown_c=read.whole("slowdown_c"),
        max_operating_c=read.whole("max_operating_c"),
        memory_max_operating_c=read.whole("memory_max_c"),
        slowdown_tlimit_c=read.whole("slowdown_tlimit_c"),
        max_operating_tlimit_c=read.whole("max_operating_tlimit_c"),
    )


def pcie(read: Reader) -> Pcie:
    """Read the PCIe link."""

    def generation(path: str) -> Maybe[int]:
        value = read.whole(path)
        return wrong(path, value) if value == 0 else value

    return Pcie(
        gen=generation("pcie_gen"),
        max_gen=generation("pcie_max_gen"),
        device_max_gen=generation("pcie_device_max_gen"),
        width=generation("pcie_width"),
        max_width=generation("pcie_max_width"),
        replays=read.whole("pcie_replays"),
    )


def fabric(read: Reader) -> Fabric:
    """Read the registration with the NVLink fabric."""
    state = read.whole("fabric.state")
    if state == 0:
        nothing = NotApplicable("NVML: this GPU is on no NVLink fabric")
        return Fabric(
            state=nothing, status=nothing, clique=nothing, cluster_uuid=nothing, summary=nothing,
            health=dict.fromkeys(FABRIC_HEALTH, nothing),
        )  # fmt: skip
    status = read.whole("fabric.status")
    mask = read.whole("fabric.healthMask")
    return Fabric(
        state=read.word("fabric.state", _FABRIC_STATES),
        status=status if not isinstance(status, int) else "Success" if status == 0 else f"NVML error {status}",
        clique=read.whole("fabric.cliqueId"),
        cluster_uuid=_uuid(read.raw("fabric.clusterUuid")),
        summary=_supported(read, "fabric.healthSummary", _FABRIC_SUMMARY),
        health={name: _health(mask, *_HEALTH[name]) for name in FABRIC_HEALTH},
    )


def _supported(read: Reader, path: str, words: Mapping[int, str]) -> Maybe[str]:
    none_such = NotApplicable(f"NVML: this GPU does not support {path}")
    return none_such if read.whole(path) == 0 else read.word(path, words)


def _health(mask: Maybe[int], shift: int, bits: int, words: Mapping[int, str]) -> Maybe[str]:
    if not isinstance(mask, int):
        return mask
    value = mask >> shift & bits
    if value == 0:
        return NotApplicable("NVML: this GPU does not tell this part of the fabric's health")
    return words.get(value) or wrong("fabric.healthMask", mask)


def _uuid(octets: Any) -> Maybe[str]:
    if isinstance(octets, Unavailable | NotApplicable):
        return octets
    fine = isinstance(octets, list) and len(octets) == 16 and all(type(o) is int and 0 <= o < 256 for o in octets)
    if not fine:
        return wrong("fabric.clusterUuid", octets)
    text = bytes(octets).hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
