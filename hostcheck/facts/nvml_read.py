"""The report of `hostcheck.snapshot.nvml` (JSON) into `NvmlLog`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hostcheck.errors import Maybe, NotApplicable, Unavailable
from hostcheck.facts import nvml_parts as parts
from hostcheck.facts.gpu_reports import NvmlLog
from hostcheck.facts.gpu_types import Gpu, Memory, Mig, MigDevice, RemappedRows, RetiredPages
from hostcheck.facts.nvml_parts import PROBE, Reader
from hostcheck.facts.smi_tree import is_denied, normal_bus_id

SOURCE = "NVML"

# "Unknown Error" is not among them: drivers also answer so to a question that is too new for them.
_FAULTS = ("gpu is lost", "gpu requires", "insufficient external power", "interrupt request issue", "corrupted inforom")
_ARCHITECTURES = {
    2: "Kepler", 3: "Maxwell", 4: "Pascal", 5: "Volta", 6: "Turing", 7: "Ampere", 8: "Ada Lovelace", 9: "Hopper",
    10: "Blackwell", 13: "Rubin",
}  # fmt: skip
_COMPUTE_MODES = {0: "Default", 1: "Exclusive_Thread", 2: "Prohibited", 3: "Exclusive_Process"}
_VIRTUALIZATION = {0: "None", 1: "Pass-Through", 2: "VGPU", 3: "Host VGPU", 4: "Host VSGA"}
_RECOVERY = {
    0: "None", 1: "Reset", 2: "Reboot", 3: "Drain P2P", 4: "Drain and Reset", 5: "Recover IMEX Domain", 6: "Bus Reset",
    7: "System Reboot",
}  # fmt: skip


def parse_nvml(text: str) -> NvmlLog:
    """Parse what `python -m hostcheck.snapshot.nvml` prints.

    Raises:
        Unavailable: NVML could not be loaded or started, or this is no such report.

    Sample:
        {"schema": 1, "driver": "580.159.04", "cuda": 13000, "count": 2, "seconds": 0.43,
         "gpus": [
           {"index": 0, "bus_id": "0000:00:06.0", "pci": {"pciDeviceId": 590680286, "pciSubSystemId": 415174878},
            "name": "NVIDIA H200", "architecture": 9, "compute_capability": [9, 0], "persistence_mode": 1,
            "mig": [0, 0], "ecc": [1, 1], "remapped_rows": [0, 0, 0, 0], "numa_node": {"na": true},
            "power_enforced_mw": 700000, "shutdown_c": 95, "event_reasons": 1, "cpu_affinity": [4294967295, 0],
            "fabric": {"status": 0, "cliqueId": 0, "state": 3, "healthMask": 0, "healthSummary": 0}},
           {"index": 1, "bus_id": "0000:00:07.0", "error": "GPU is lost"}]}
    """
    try:
        report = json.loads(text)
    except (ValueError, RecursionError):
        raise Unavailable("NVML: the report is no JSON", PROBE) from None
    if not isinstance(report, dict) or report.get("schema") != 1:
        raise Unavailable("NVML: this is no report of a known schema", PROBE)
    if "error" in report:
        raise Unavailable(f"NVML: {str(report['error'])[:200]}", PROBE)
    entries = report.get("gpus")
    if not isinstance(entries, list) or len(entries) > 256 or not all(isinstance(entry, dict) for entry in entries):
        raise Unavailable("NVML: the report has no list of GPUs", PROBE)
    read = Reader(report)
    if read.whole("count") != len(entries):
        raise Unavailable("NVML: the report does not hold as many GPUs as it counts", PROBE)
    opened = [entry for entry in entries if "error" not in entry and "na" not in entry]
    gpus = [_gpu(entry) for entry in opened]
    if len({gpu.bus_id for gpu in gpus}) != len(gpus) or len({gpu.index for gpu in gpus}) != len(gpus):
        raise Unavailable("NVML: two GPUs have the same address or index", PROBE)
    seconds = read.raw("seconds")
    return NvmlLog(
        driver_version=read.text("driver"),
        cuda_version=_cuda(read.whole("cuda")),
        seconds=float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < 1e6 else 0.0,
        gpus=tuple(sorted(gpus, key=lambda gpu: gpu.index)),
        unreadable=tuple(_lost(entry) for entry in entries if entry not in opened),
    )


def _cuda(number: Maybe[int]) -> Maybe[str]:
    return f"{number // 1000}.{number % 1000 // 10}" if isinstance(number, int) else number


def _lost(entry: Mapping[str, Any]) -> str:
    bus_id = normal_bus_id(str(entry.get("bus_id", "")))
    name = bus_id or f"index {str(entry.get('index', '?'))[:8]}"
    return f"{name}: {str(entry.get('error', 'not supported'))[:100]}"


def _gpu(entry: Mapping[str, Any]) -> Gpu:
    read = Reader(entry)
    index, bus_id = read.whole("index"), normal_bus_id(str(entry.get("bus_id", "")))
    if not isinstance(index, int) or not 0 <= index < 10_000 or not bus_id:
        raise Unavailable("NVML: a GPU without index or PCI address", PROBE)
    errors = {key: str(value["error"]) for key, value in entry.items() if isinstance(value, dict) and "error" in value}
    capability = [read.whole(f"compute_capability.{part}") for part in (0, 1)]
    state = read.whole("performance_state")
    node = read.whole("numa_node")
    return Gpu(
        index=index,
        bus_id=bus_id,
        source=SOURCE,
        pci_id=parts.pci_id(read.whole("pci.pciDeviceId"), "10de"),
        subsystem_id=parts.pci_id(read.whole("pci.pciSubSystemId")),
        name=read.text("name"),
        architecture=read.word("architecture", _ARCHITECTURES),
        compute_capability=next(
            (part for part in capability if not isinstance(part, int)), ".".join(str(part) for part in capability)
        ),
        uuid=read.text("uuid"),
        vbios=read.text("vbios"),
        gsp_firmware=read.text("gsp_firmware"),
        persistence_mode=read.flag("persistence_mode"),
        compute_mode=read.word("compute_mode", _COMPUTE_MODES),
        virtualization=read.word("virtualization", _VIRTUALIZATION),
        c2c=read.flag("c2c.isC2cEnabled"),
        recovery_action=read.word("recovery_action", _RECOVERY),
        performance_state=f"P{state}" if isinstance(state, int) else state,
        numa_node=NotApplicable("the GPU's memory is no NUMA node of this system") if node == -1 else node,
        cpu_affinity=parts.cpus(read.raw("cpu_affinity")),
        mig=Mig(
            current=read.flag("mig.0"), pending=read.flag("mig.1"), devices=_mig_devices(read.whole("mig_devices"))
        ),
        ecc=parts.ecc(read),
        remapped_rows=RemappedRows(
            correctable=read.whole("remapped_rows.0"),
            uncorrectable=read.whole("remapped_rows.1"),
            pending=read.flag("remapped_rows.2"),
            failure=read.flag("remapped_rows.3"),
            banks=parts.table(read, {name: f"row_banks.{name}" for name in ("max", "high", "partial", "low", "none")}),
        ),
        retired_pages=RetiredPages(
            single_bit=read.whole("retired_single_bit"),
            double_bit=read.whole("retired_double_bit"),
            pending=read.flag("retired_pending"),
        ),
        clocks=parts.clocks(read),
        power=parts.power(read),
        temperature=parts.temperature(read),
        pcie=parts.pcie(read),
        memory=Memory(total_mib=read.mib("memory.total")),
        bar1=Memory(total_mib=read.mib("bar1.bar1Total")),
        protected_memory=Memory(total_mib=read.mib("protected_memory.total")),
        fabric=parts.fabric(read),
        faults=tuple(f"{key}: {text[:100]}" for key, text in errors.items() if text.lower().startswith(_FAULTS)),
        denied=tuple(f"{key}: {text[:100]}" for key, text in errors.items() if is_denied(text)),
    )


def _mig_devices(count: Maybe[int]) -> Maybe[tuple[MigDevice, ...]]:
    """Return as many devices as NVML counts; what each is, only nvidia-smi says."""
    return (MigDevice(),) * min(max(count, 0), 64) if isinstance(count, int) else count
