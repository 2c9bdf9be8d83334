"""The parts of one GPU in an nvidia-smi report: memory errors, clocks, power, temperature, PCIe, fabric."""

from __future__ import annotations

from hostcheck.errors import Maybe, NotApplicable, Unavailable
from hostcheck.facts.gpu_types import (
    FABRIC_HEALTH,
    REASONS,
    TIMED_REASONS,
    Clocks,
    ClockSet,
    Ecc,
    EccCounters,
    Fabric,
    Memory,
    Pcie,
    Place,
    Power,
    RemappedRows,
    RetiredPages,
    Temperature,
)
from hostcheck.facts.smi_tree import PROBE, Reader, added

_ON_CHIP = ("register_file", "l1_cache", "l2_cache", "texture_memory", "texture_shm", "cbu")


def ecc(read: Reader) -> Ecc:
    """Read ECC mode and counters, of every schema."""
    at = "ecc_errors/"
    units = {unit: f"sram_{unit}" for unit in ("l2", "sm", "microcontroller", "pcie", "other")}
    return Ecc(
        current=read.flag("ecc_mode/current_ecc"),
        pending=read.flag("ecc_mode/pending_ecc"),
        volatile=_counters(read, at + "volatile"),
        aggregate=_counters(read, at + "aggregate"),
        sram_threshold_exceeded=read.flag(at + "aggregate/sram_threshold_exceeded"),
        channel_repair_pending=read.flag(at + "channel_repair_pending"),
        tpc_repair_pending=read.flag(at + "tpc_repair_pending"),
        unrepairable_memory=read.flag(at + "unrepairable_memory"),
        sram_sources=read.table(at + "aggregate_uncorrectable_sram_sources", units),
    )


def _counters(read: Reader, at: str) -> EccCounters:
    if read.has(f"{at}/single_bit"):
        return _by_place(read, at)
    parity = read.whole(f"{at}/sram_uncorrectable_parity")
    secded = read.whole(f"{at}/sram_uncorrectable_secded")
    one = read.has(f"{at}/sram_uncorrectable") or not read.has(f"{at}/sram_uncorrectable_parity")
    sram = read.whole(f"{at}/sram_uncorrectable") if one else added([parity, secded])
    sram_correctable = read.whole(f"{at}/sram_correctable")
    dram_correctable = read.whole(f"{at}/dram_correctable")
    dram = read.whole(f"{at}/dram_uncorrectable")
    return EccCounters(
        sram_correctable=sram_correctable,
        sram_uncorrectable=sram,
        sram_uncorrectable_parity=parity,
        sram_uncorrectable_secded=secded,
        dram_correctable=dram_correctable,
        dram_uncorrectable=dram,
        total_correctable=added([sram_correctable, dram_correctable]),
        total_uncorrectable=added([sram, dram]),
    )


def _by_place(read: Reader, at: str) -> EccCounters:
    """Read the counters of drivers and GPUs that tell single-bit and double-bit errors by place."""

    def on_chip(bits: str) -> Maybe[int]:
        there = [place for place in _ON_CHIP if read.has(f"{at}/{bits}/{place}")]
        return added([read.whole(f"{at}/{bits}/{place}") for place in there or _ON_CHIP])

    places = {
        f"{bits}.{place}": read.whole(f"{at}/{bits}/{place}")
        for bits in ("single_bit", "double_bit")
        for place in ("device_memory", *_ON_CHIP)
    }
    return EccCounters(
        sram_correctable=on_chip("single_bit"),
        sram_uncorrectable=on_chip("double_bit"),
        dram_correctable=read.whole(f"{at}/single_bit/device_memory"),
        dram_uncorrectable=read.whole(f"{at}/double_bit/device_memory"),
        total_correctable=read.whole(f"{at}/single_bit/total"),
        total_uncorrectable=read.whole(f"{at}/double_bit/total"),
        by_place={place: count for place, count in places.items() if isinstance(count, int)},
    )


def remapped_rows(read: Reader) -> RemappedRows:
    """Read row remapping."""
    at = "remapped_rows/remapped_row"
    banks = {name: f"row_remapper_histogram_{name}" for name in ("max", "high", "partial", "low", "none")}
    return RemappedRows(
        correctable=read.whole(f"{at}_corr"),
        uncorrectable=read.whole(f"{at}_unc"),
        pending=read.flag(f"{at}_pending"),
        failure=read.flag(f"{at}_failure"),
        banks=read.table("remapped_rows/row_remapper_histogram", banks, unit="bank(s)"),
    )


def retired_pages(read: Reader) -> RetiredPages:
    """Read page retirement."""
    # One thing under two names: the old one was dropped from the XML, the new one never came into the text.
    either = read.flag("retired_pages/pending_blacklist", "retired_pages/pending_retirement")
    return RetiredPages(
        single_bit=read.whole("retired_pages/multiple_single_bit_retirement/retired_count"),
        double_bit=read.whole("retired_pages/double_bit_retirement/retired_count"),
        pending=read.flag("retired_pages/pending_retirement") is True or either,
    )


def _clock_set(read: Reader, at: str) -> ClockSet:
    return ClockSet(
        graphics_mhz=read.whole(f"{at}/graphics_clock", unit="MHz"),
        sm_mhz=read.whole(f"{at}/sm_clock", unit="MHz"),
        memory_mhz=read.whole(f"{at}/mem_clock", unit="MHz"),
        video_mhz=read.whole(f"{at}/video_clock", unit="MHz"),
    )


# What the counters are called where it is not the reason's own name.
_COUNTER = {
    "sw_thermal_slowdown": "sw_therm_slowdown",
    "hw_thermal_slowdown": "hw_therm_slowdown",
    "hw_power_brake_slowdown": "hw_power_brake",
}


def clocks(read: Reader) -> Clocks:
    """Read clocks, and why they are not higher."""
    new, old = "clocks_event_reasons/clocks_event_reason", "clocks_throttle_reasons/clocks_throttle_reason"
    counter = "clocks_event_reasons_counters"
    return Clocks(
        current=_clock_set(read, "clocks"),
        application=_clock_set(read, "applications_clocks"),
        default_application=_clock_set(read, "default_applications_clocks"),
        max=_clock_set(read, "max_clocks"),
        max_customer_boost_mhz=read.whole("max_customer_boost_clocks/graphics_clock", unit="MHz"),
        reasons={name: read.flag(f"{new}_{name}", f"{old}_{name}") for name in REASONS},
        counters_us={
            name: read.whole(f"{counter}/{counter}_{_COUNTER.get(name, name)}", unit="us") for name in TIMED_REASONS
        },
    )


def power(read: Reader, *groups: str) -> Power:
    """Read power, from the first of several elements that holds it."""

    def watts(*names: str) -> Maybe[float]:
        return read.number(*(f"{group}/{name}" for group in groups for name in names), unit="W")

    # Driver 610 puts the limits that software sets one level deeper.
    return Power(
        draw_w=watts("average_power_draw", "power_draw", "instant_power_draw"),
        average_w=watts("average_power_draw"),
        instant_w=watts("instant_power_draw"),
        limit_w=watts("current_power_limit", "*/current_power_limit", "enforced_power_limit"),
        requested_limit_w=watts("requested_power_limit", "*/requested_power_limit", "power_limit"),
        default_limit_w=watts("default_power_limit", "*/default_power_limit"),
        min_limit_w=watts("min_power_limit", "*/min_power_limit"),
        max_limit_w=watts("max_power_limit", "*/max_power_limit"),
    )


_LIMITS = {
    "shutdown": "gpu_temp_max",
    "slowdown": "gpu_temp_slow",
    "max_operating": "gpu_temp_max_gpu",
    "memory_max_operating": "gpu_temp_max_mem",
}


def temperature(read: Reader) -> Temperature:
    """Read temperatures, and limits in both forms."""

    def limit(name: str, form: str) -> Maybe[int]:
        at = f"temperature/{_LIMITS[name]}"
        other = "threshold" if form == "tlimit_threshold" else "tlimit_threshold"
        if not read.has(f"{at}_{form}") and read.has(f"{at}_{other}"):
            return NotApplicable(f"this GPU gives its {name.replace('_', ' ')} limit in the other form")
        return read.whole(f"{at}_{form}", unit="C")

    return Temperature(
        gpu_c=read.whole("temperature/gpu_temp", unit="C"),
        memory_c=read.whole("temperature/memory_temp", unit="C"),
        tlimit_c=read.whole("temperature/gpu_temp_tlimit", unit="C"),
        target_c=read.whole("temperature/gpu_target_temperature", unit="C"),
        shutdown_c=limit("shutdown", "threshold"),
        slowdown_c=limit("slowdown", "threshold"),
        max_operating_c=limit("max_operating", "threshold"),
        memory_max_operating_c=limit("memory_max_operating", "threshold"),
        shutdown_tlimit_c=limit("shutdown", "tlimit_threshold"),
        slowdown_tlimit_c=limit("slowdown", "tlimit_threshold"),
        max_operating_tlimit_c=limit("max_operating", "tlimit_threshold"),
        memory_max_operating_tlimit_c=limit("memory_max_operating", "tlimit_threshold"),
    )


def _generation(read: Reader, path: str) -> Maybe[int]:
    value = read.whole(path)
    return Unavailable(f"nvidia-smi: {path} is 0, which is no PCIe generation", PROBE) if value == 0 else value


def pcie(read: Reader) -> Pcie:
    """Read the PCIe link."""
    gen, width = "pci/pci_gpu_link_info/pcie_gen", "pci/pci_gpu_link_info/link_widths"
    return Pcie(
        gen=_generation(read, f"{gen}/current_link_gen"),
        max_gen=_generation(read, f"{gen}/max_link_gen"),
        device_gen=_generation(read, f"{gen}/device_current_link_gen"),
        device_max_gen=_generation(read, f"{gen}/max_device_link_gen"),
        host_max_gen=_generation(read, f"{gen}/max_host_link_gen"),
        width=read.whole(f"{width}/current_link_width", unit="x"),
        max_width=read.whole(f"{width}/max_link_width", unit="x"),
        replays=read.whole("pci/replay_counter"),
        replay_rollovers=read.whole("pci/replay_rollover_counter"),
        tx_kb_per_s=read.whole("pci/tx_util", unit="KB/s"),
        rx_kb_per_s=read.whole("pci/rx_util", unit="KB/s"),
    )


def memory(read: Reader, at: str) -> Memory:
    """Read one kind of memory."""
    return Memory(
        total_mib=read.whole(f"{at}/total", unit="MiB"),
        reserved_mib=read.whole(f"{at}/reserved", unit="MiB"),
        used_mib=read.whole(f"{at}/used", unit="MiB"),
        free_mib=read.whole(f"{at}/free", unit="MiB"),
    )


def fabric(read: Reader) -> Fabric:
    """Read the registration with the NVLink fabric."""
    return Fabric(
        state=read.text("fabric/state"),
        status=read.text("fabric/status"),
        clique=read.whole("fabric/cliqueId"),
        cluster_uuid=read.text("fabric/clusterUuid"),
        summary=read.text("fabric/health/summary"),
        health={name: read.text(f"fabric/health/{name}") for name in FABRIC_HEALTH},
    )


def place(read: Reader) -> Place:
    """Read where the GPU sits."""
    return Place(
        module=read.whole("platformInfo/module_id", "gpu_module_id"),
        slot=read.whole("platformInfo/slot_number"),
        tray=read.whole("platformInfo/tray_index"),
        chassis_serial=read.text("platformInfo/chassis_serial_number"),
        peer_type=read.text("platformInfo/peer_type"),
    )
