"""What is known about one GPU, whichever tool and driver version told it.

Every field that a tool can leave out is a `Maybe`: Unavailable where nobody spoke of it, NotApplicable for "N/A".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hostcheck.errors import Maybe, Unavailable

UNSEEN = Unavailable("no tool that answered shows this", "gpu.smi")

REASONS = (
    "gpu_idle",
    "applications_clocks_setting",
    "sw_power_cap",
    "hw_slowdown",
    "hw_thermal_slowdown",
    "hw_power_brake_slowdown",
    "sync_boost",
    "sw_thermal_slowdown",
    "display_clocks_setting",
)
"""Why clocks are below their maximum: the names that every driver version's spelling is mapped to."""

TIMED_REASONS = ("sw_power_cap", "sync_boost", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown")
"""Those reasons that newer drivers also time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MigDevice:
    """One MIG compute instance."""

    index: Maybe[int] = UNSEEN
    gpu_instance: Maybe[int] = UNSEEN
    compute_instance: Maybe[int] = UNSEEN
    multiprocessors: Maybe[int] = UNSEEN
    memory_mib: Maybe[int] = UNSEEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Mig:
    """MIG mode now and after the next reset; `devices` is empty where the mode is off or nothing was created."""

    current: Maybe[bool] = UNSEEN
    pending: Maybe[bool] = UNSEEN
    devices: Maybe[tuple[MigDevice, ...]] = UNSEEN


@dataclass(frozen=True, slots=True, kw_only=True)
class EccCounters:
    """Counts of memory errors. Volatile ones begin at the last driver load, aggregate ones at manufacture.

    Old drivers count single-bit and double-bit errors by place. Here those of device memory are the DRAM's and the
    sum of those on the chip is the SRAM's.

    Attributes:
        sram_uncorrectable: parity and SEC-DED together, where a driver tells them apart.
        total_correctable, total_uncorrectable: all places together, as the tool counts them or as the sum.
        by_place: what old drivers say, such as {"single_bit.device_memory": 3}.
    """

    sram_correctable: Maybe[int] = UNSEEN
    sram_uncorrectable: Maybe[int] = UNSEEN
    sram_uncorrectable_parity: Maybe[int] = UNSEEN
    sram_uncorrectable_secded: Maybe[int] = UNSEEN
    dram_correctable: Maybe[int] = UNSEEN
    dram_uncorrectable: Maybe[int] = UNSEEN
    total_correctable: Maybe[int] = UNSEEN
    total_uncorrectable: Maybe[int] = UNSEEN
    by_place: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ecc:
    """ECC mode and what it has found.

    Attributes:
        current, pending: mode now and after the next reset.
        sram_threshold_exceeded: so many uncorrectable SRAM errors that the GPU is to be replaced.
        channel_repair_pending, tpc_repair_pending: a repair waits for a reset.
        unrepairable_memory: memory that cannot be repaired any more.
        sram_sources: aggregate uncorrectable SRAM errors by unit: l2, sm, microcontroller, pcie, other.
    """

    current: Maybe[bool] = UNSEEN
    pending: Maybe[bool] = UNSEEN
    volatile: EccCounters = EccCounters()
    aggregate: EccCounters = EccCounters()
    sram_threshold_exceeded: Maybe[bool] = UNSEEN
    channel_repair_pending: Maybe[bool] = UNSEEN
    tpc_repair_pending: Maybe[bool] = UNSEEN
    unrepairable_memory: Maybe[bool] = UNSEEN
    sram_sources: Maybe[Mapping[str, int]] = UNSEEN


@dataclass(frozen=True, slots=True, kw_only=True)
class RemappedRows:
    """Row remapping of Ampere and later.

    Attributes:
        correctable, uncorrectable: rows remapped because of such errors.
        pending: a remap waits for a GPU reset.
        failure: a remap failed at some time; the GPU qualifies for replacement.
        banks: banks by how many spare rows they have left: max, high, partial, low, none.
    """

    correctable: Maybe[int] = UNSEEN
    uncorrectable: Maybe[int] = UNSEEN
    pending: Maybe[bool] = UNSEEN
    failure: Maybe[bool] = UNSEEN
    banks: Maybe[Mapping[str, int]] = UNSEEN


@dataclass(frozen=True, slots=True, kw_only=True)
class RetiredPages:
    """Page retirement of GPUs before Ampere: pages retired by cause, and whether one waits for a reset."""

    single_bit: Maybe[int] = UNSEEN
    double_bit: Maybe[int] = UNSEEN
    pending: Maybe[bool] = UNSEEN


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockSet:
    """One clock of each kind."""

    graphics_mhz: Maybe[int] = UNSEEN
    sm_mhz: Maybe[int] = UNSEEN
    memory_mhz: Maybe[int] = UNSEEN
    video_mhz: Maybe[int] = UNSEEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """Clocks now and their settings, and why they are not higher.

    Attributes:
        application, default_application: only graphics and memory; drivers from 590 on no longer show them.
        max_customer_boost_mhz: the highest graphics clock that can be asked for.
        reasons: every name of REASONS.
        counters_us: time since driver load that a reason held, for every name of TIMED_REASONS.
    """

    current: ClockSet = ClockSet()
    application: ClockSet = ClockSet()
    default_application: ClockSet = ClockSet()
    max: ClockSet = ClockSet()
    max_customer_boost_mhz: Maybe[int] = UNSEEN
    reasons: Mapping[str, Maybe[bool]] = field(default_factory=lambda: dict.fromkeys(REASONS, UNSEEN))
    counters_us: Mapping[str, Maybe[int]] = field(default_factory=lambda: dict.fromkeys(TIMED_REASONS, UNSEEN))

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the reasons known to hold; says nothing about those that are not known."""
        return tuple(name for name in REASONS if self.reasons.get(name) is True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Power of the GPU, or of the whole module (GPU, CPU and memory of a superchip).

    Attributes:
        draw_w: the average where the tool tells it apart, else the only value, else the instant one.
        limit_w: the limit in force, the lowest of all that act (software, board, out of band).
        requested_limit_w: the limit that software asked for.
    """

    draw_w: Maybe[float] = UNSEEN
    average_w: Maybe[float] = UNSEEN
    instant_w: Maybe[float] = UNSEEN
    limit_w: Maybe[float] = UNSEEN
    requested_limit_w: Maybe[float] = UNSEEN
    default_limit_w: Maybe[float] = UNSEEN
    min_limit_w: Maybe[float] = UNSEEN
    max_limit_w: Maybe[float] = UNSEEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Temperature:
    """Temperatures and the GPU's own limits, which are absolute on old GPUs and offsets to T.Limit on new ones.

    Attributes:
        tlimit_c: degrees left until the GPU slows itself; 0 is at the limit, below 0 is above it.
        shutdown_c, slowdown_c, max_operating_c, memory_max_operating_c: absolute limits.
        shutdown_tlimit_c, slowdown_tlimit_c, max_operating_tlimit_c, memory_max_operating_tlimit_c: the same limits
            as values that `tlimit_c` would have there.
    """

    gpu_c: Maybe[int] = UNSEEN
    memory_c: Maybe[int] = UNSEEN
    tlimit_c: Maybe[int] = UNSEEN
    shutdown_c: Maybe[int] = UNSEEN
    slowdown_c: Maybe[int] = UNSEEN
    max_operating_c: Maybe[int] = UNSEEN
    memory_max_operating_c: Maybe[int] = UNSEEN
    shutdown_tlimit_c: Maybe[int] = UNSEEN
    slowdown_tlimit_c: Maybe[int] = UNSEEN
    max_operating_tlimit_c: Maybe[int] = UNSEEN
    memory_max_operating_tlimit_c: Maybe[int] = UNSEEN
    target_c: Maybe[int] = UNSEEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Pcie:
    """The PCIe link as the GPU sees it. The generation drops when idle; the width does not.

    Attributes:
        max_gen: what GPU and slot can do together; device_max_gen, host_max_gen: each alone.
        replays: since the last reset.
        tx_kb_per_s, rx_kb_per_s: over the last 20 ms, in units of 1000 bytes.
    """

    gen: Maybe[int] = UNSEEN
    max_gen: Maybe[int] = UNSEEN
    device_gen: Maybe[int] = UNSEEN
    device_max_gen: Maybe[int] = UNSEEN
    host_max_gen: Maybe[int] = UNSEEN
    width: Maybe[int] = UNSEEN
    max_width: Maybe[int] = UNSEEN
    replays: Maybe[int] = UNSEEN
    replay_rollovers: Maybe[int] = UNSEEN
    tx_kb_per_s: Maybe[int] = UNSEEN
    rx_kb_per_s: Maybe[int] = UNSEEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """One kind of memory of the GPU."""

    total_mib: Maybe[int] = UNSEEN
    reserved_mib: Maybe[int] = UNSEEN
    used_mib: Maybe[int] = UNSEEN
    free_mib: Maybe[int] = UNSEEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Utilization:
    """Share of the last sampling period in which a unit was busy; not applicable in MIG mode."""

    gpu_percent: Maybe[int] = UNSEEN
    memory_percent: Maybe[int] = UNSEEN
    encoder_percent: Maybe[int] = UNSEEN
    decoder_percent: Maybe[int] = UNSEEN


FABRIC_HEALTH = (
    "bandwidth",
    "route_recovery_in_progress",
    "route_unhealthy",
    "access_timeout_recovery",
    "incorrect_configuration",
    "partition_assigned",
)
"""Parts of the fabric's health; the words are those of nvidia-smi: Full or Degraded, True or False, None or a cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """Registration with the NVLink fabric; not applicable where the GPU is on none.

    Attributes:
        state: "Completed", "In Progress", "Not Started".
        status: "Success", or the error of a completed registration.
        summary: "Healthy", "Unhealthy", "Limited Capacity"; from driver 580 on.
        health: every name of FABRIC_HEALTH.
    """

    state: Maybe[str] = UNSEEN
    status: Maybe[str] = UNSEEN
    clique: Maybe[int] = UNSEEN
    cluster_uuid: Maybe[str] = UNSEEN
    summary: Maybe[str] = UNSEEN
    health: Mapping[str, Maybe[str]] = field(default_factory=lambda: dict.fromkeys(FABRIC_HEALTH, UNSEEN))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in a chassis the GPU sits; mostly known on NVLink racks and HGX boards."""

    module: Maybe[int] = UNSEEN
    slot: Maybe[int] = UNSEEN
    tray: Maybe[int] = UNSEEN
    chassis_serial: Maybe[str] = UNSEEN
    peer_type: Maybe[str] = UNSEEN


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """One process that holds a context: kind is "C" (compute), "G" (graphics) or both."""

    pid: int
    kind: Maybe[str] = UNSEEN
    name: Maybe[str] = UNSEEN
    memory_mib: Maybe[int] = UNSEEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One physical GPU.

    Attributes:
        index: as nvidia-smi and NVML count: by PCI bus id.
        bus_id: as sysfs spells it, "0000:53:00.0".
        source: which tool told: "nvidia-smi", "NVML" or "nvidia-smi and NVML".
        pci_id, subsystem_id: vendor and device, "10de:2330".
        minor: N of /dev/nvidiaN; can differ from the index.
        recovery_action: what the driver asks for: "None", "Reset", "Reboot", "Drain P2P", "Drain and Reset".
        reset_required, drain_and_reset_recommended: the same question in drivers before 570.
        virtualization: "None", "Pass-Through", "VGPU", "Host VGPU", "Host VSGA".
        addressing_mode: "None", "HMM" or "ATS".
        compute_mode: "Default", "Exclusive_Process", "Prohibited".
        performance_state: "P0" to "P15".
        gsp_firmware: version; not applicable where the GSP is not used.
        driver_model: Windows only.
        inforom_image: version of the InfoROM image.
        numa_node: of the GPU's own memory, where the system sees it as a node (ATS).
        cpu_affinity: CPUs near the GPU, as NVML says.
        faults: "element/path: text" of every value that is an error, such as "GPU is lost" or "Unknown Error".
        denied: the same for values that the user may not see; no fault of the GPU.
    """

    index: int
    bus_id: str
    source: str
    pci_id: Maybe[str] = UNSEEN
    subsystem_id: Maybe[str] = UNSEEN
    name: Maybe[str] = UNSEEN
    architecture: Maybe[str] = UNSEEN
    compute_capability: Maybe[str] = UNSEEN
    uuid: Maybe[str] = UNSEEN
    serial: Maybe[str] = UNSEEN
    minor: Maybe[int] = UNSEEN
    part_number: Maybe[str] = UNSEEN
    vbios: Maybe[str] = UNSEEN
    gsp_firmware: Maybe[str] = UNSEEN
    inforom_image: Maybe[str] = UNSEEN
    persistence_mode: Maybe[bool] = UNSEEN
    addressing_mode: Maybe[str] = UNSEEN
    compute_mode: Maybe[str] = UNSEEN
    virtualization: Maybe[str] = UNSEEN
    driver_model: Maybe[str] = UNSEEN
    display_active: Maybe[bool] = UNSEEN
    c2c: Maybe[bool] = UNSEEN
    dram_encryption: Maybe[bool] = UNSEEN
    recovery_action: Maybe[str] = UNSEEN
    reset_required: Maybe[bool] = UNSEEN
    drain_and_reset_recommended: Maybe[bool] = UNSEEN
    performance_state: Maybe[str] = UNSEEN
    fan_percent: Maybe[int] = UNSEEN
    numa_node: Maybe[int] = UNSEEN
    cpu_affinity: Maybe[tuple[int, ...]] = UNSEEN
    memory_power_w: Maybe[float] = UNSEEN
    mig: Mig = Mig()
    ecc: Ecc = Ecc()
    remapped_rows: RemappedRows = RemappedRows()
    retired_pages: RetiredPages = RetiredPages()
    clocks: Clocks = Clocks()
    power: Power = Power()
    module_power: Power = Power()
    temperature: Temperature = Temperature()
    pcie: Pcie = Pcie()
    memory: Memory = Memory()
    bar1: Memory = Memory()
    protected_memory: Memory = Memory()
    utilization: Utilization = Utilization()
    fabric: Fabric = Fabric()
    place: Place = Place()
    processes: Maybe[tuple[GpuProcess, ...]] = UNSEEN
    faults: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """Its name in findings."""
        return f"gpu{self.index}"

    @property
    def traits(self) -> dict[str, str]:
        """What expectation layers match on; a trait that is not known is left out, so that no layer holds by chance."""
        known = {"pci": self.pci_id, "gpu_arch": self.architecture}
        return {name: value for name, value in known.items() if isinstance(value, str)}
