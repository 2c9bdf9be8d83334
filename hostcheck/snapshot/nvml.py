"""Prints what NVML knows about every GPU, as one JSON object. Run as `python -m hostcheck.snapshot.nvml`.

NVML is a C library that can hang or crash with a broken GPU, so it runs in a child process that can be killed. Every
query stands alone: what the GPU does not have is {"na": true}, any other refusal {"error": "text"}. Units are NVML's
own. Nothing here sets, clears or resets anything.
"""

from __future__ import annotations

import json
import math
import sys
import time
from typing import Any

SCHEMA = 1
_DRIVER_FOLDER = "/sys/bus/pci/drivers/nvidia"

# Key in the output, NVML function, further arguments.
_SYSTEM = (
    ("driver", "nvmlSystemGetDriverVersion"),
    ("nvml", "nvmlSystemGetNVMLVersion"),
    ("cuda", "nvmlSystemGetCudaDriverVersion_v2"),
    ("conf_compute", "nvmlSystemGetConfComputeState"),
)
_GPU: tuple[tuple[Any, ...], ...] = (
    ("pci", "nvmlDeviceGetPciInfo"),
    ("name", "nvmlDeviceGetName"),
    ("uuid", "nvmlDeviceGetUUID"),
    ("serial", "nvmlDeviceGetSerial"),
    ("minor", "nvmlDeviceGetMinorNumber"),
    ("vbios", "nvmlDeviceGetVbiosVersion"),
    ("gsp_firmware", "nvmlDeviceGetGspFirmwareVersion"),
    ("inforom_image", "nvmlDeviceGetInforomImageVersion"),
    ("architecture", "nvmlDeviceGetArchitecture"),
    ("compute_capability", "nvmlDeviceGetCudaComputeCapability"),
    ("persistence_mode", "nvmlDeviceGetPersistenceMode"),
    ("compute_mode", "nvmlDeviceGetComputeMode"),
    ("performance_state", "nvmlDeviceGetPerformanceState"),
    ("display_active", "nvmlDeviceGetDisplayActive"),
    ("virtualization", "nvmlDeviceGetVirtualizationMode"),
    ("addressing_mode", "nvmlDeviceGetAddressingMode"),
    ("c2c", "nvmlDeviceGetC2cModeInfoV"),
    ("numa_node", "nvmlDeviceGetNumaNodeId"),
    ("module", "nvmlDeviceGetModuleId"),
    ("mig", "nvmlDeviceGetMigMode"),
    ("ecc", "nvmlDeviceGetEccMode"),
    ("remapped_rows", "nvmlDeviceGetRemappedRows"),
    ("row_banks", "nvmlDeviceGetRowRemapperHistogram"),
    ("retired_pending", "nvmlDeviceGetRetiredPagesPendingStatus"),
    ("repair_pending", "nvmlDeviceGetRepairStatus"),
    ("unrepairable_memory", "nvmlDeviceGetUnrepairableMemoryFlag_v1"),
    ("fan_percent", "nvmlDeviceGetFanSpeed"),
    ("power_usage_mw", "nvmlDeviceGetPowerUsage"),
    ("power_enforced_mw", "nvmlDeviceGetEnforcedPowerLimit"),
    ("power_limit_mw", "nvmlDeviceGetPowerManagementLimit"),
    ("power_default_mw", "nvmlDeviceGetPowerManagementDefaultLimit"),
    ("power_range_mw", "nvmlDeviceGetPowerManagementLimitConstraints"),
    ("temperature_c", "nvmlDeviceGetTemperature", 0),
    ("temperature_margin_c", "nvmlDeviceGetMarginTemperature"),
    ("shutdown_c", "nvmlDeviceGetTemperatureThreshold", 0),
    ("slowdown_c", "nvmlDeviceGetTemperatureThreshold", 1),
    ("memory_max_c", "nvmlDeviceGetTemperatureThreshold", 2),
    ("max_operating_c", "nvmlDeviceGetTemperatureThreshold", 3),
    ("pcie_gen", "nvmlDeviceGetCurrPcieLinkGeneration"),
    ("pcie_max_gen", "nvmlDeviceGetMaxPcieLinkGeneration"),
    ("pcie_device_max_gen", "nvmlDeviceGetGpuMaxPcieLinkGeneration"),
    ("pcie_width", "nvmlDeviceGetCurrPcieLinkWidth"),
    ("pcie_max_width", "nvmlDeviceGetMaxPcieLinkWidth"),
    ("pcie_replays", "nvmlDeviceGetPcieReplayCounter"),
    ("bar1", "nvmlDeviceGetBAR1MemoryInfo"),
    ("protected_memory", "nvmlDeviceGetConfComputeProtectedMemoryUsage"),
    ("utilization", "nvmlDeviceGetUtilizationRates"),
    ("event_reasons", "nvmlDeviceGetCurrentClocksEventReasons"),
    # The same under the name that libraries before 535 know.
    ("throttle_reasons", "nvmlDeviceGetCurrentClocksThrottleReasons"),
    ("compute_processes", "nvmlDeviceGetComputeRunningProcesses"),
    ("graphics_processes", "nvmlDeviceGetGraphicsRunningProcesses"),
    *(
        (f"{key}_{kind}_mhz", function, number)
        for key, function in (
            ("clock", "nvmlDeviceGetClockInfo"),
            ("max_clock", "nvmlDeviceGetMaxClockInfo"),
            ("application_clock", "nvmlDeviceGetApplicationsClock"),
            ("default_application_clock", "nvmlDeviceGetDefaultApplicationsClock"),
            ("max_customer_boost", "nvmlDeviceGetMaxCustomerBoostClock"),
        )
        for number, kind in enumerate(("graphics", "sm", "memory", "video"))
    ),
    *(
        (f"ecc_{period}_{place}_{kind}", "nvmlDeviceGetMemoryErrorCounter", k, p, location)
        for k, kind in enumerate(("correctable", "uncorrectable"))
        for p, period in enumerate(("volatile", "aggregate"))
        for location, place in ((2, "dram"), (7, "sram"))
    ),
    *(
        (f"ecc_{period}_total_{kind}", "nvmlDeviceGetTotalEccErrors", k, p)
        for k, kind in enumerate(("correctable", "uncorrectable"))
        for p, period in enumerate(("volatile", "aggregate"))
    ),
)
# Numbers of NVML_FI_DEV_*, stable across versions; with them a scope: 0 the GPU, 1 its module, 2 its memory.
_FIELDS = {
    "retired_single_bit": (29, 0),
    "retired_double_bit": (30, 0),
    "memory_temperature_c": (82, 0),
    "nvlink_count": (91, 0),
    "pcie_replay_rollovers": (95, 0),
    "shutdown_tlimit_c": (193, 0),
    "slowdown_tlimit_c": (194, 0),
    "memory_max_tlimit_c": (195, 0),
    "max_operating_tlimit_c": (196, 0),
    "recovery_action": (230, 0),
    "event_ns_sw_power_cap": (74, 0),
    "event_ns_sync_boost": (76, 0),
    "event_ns_sw_thermal_slowdown": (269, 0),
    "event_ns_hw_thermal_slowdown": (270, 0),
    "event_ns_hw_power_brake_slowdown": (271, 0),
    **{
        f"{scope}_power_{name}_mw": (number, s)
        for s, scope in enumerate(("gpu", "module", "memory"))
        for name, number in (
            ("average", 185), ("instant", 186), ("min", 187), ("max", 188), ("default", 189), ("limit", 190),
            ("requested", 192),
        )
    },
}  # fmt: skip
# Per link, with the link as scope. The first four are those of NVLink 2 to 4, the others of NVLink 5.
_LINK_ERRORS = ("replay", "recovery", "crc_flit", "crc_data", "ecc_data")
_LINK_FIELDS = {
    "malformed_packets": 206,
    "buffer_overruns": 207,
    "rx_errors": 208,
    "rx_remote_errors": 209,
    "rx_general_errors": 210,
    "local_integrity_errors": 211,
    "tx_discards": 212,
    "recovery_successes": 213,
    "recovery_failures": 214,
    "recovery_events": 215,
    "effective_errors": 219,
    "symbol_errors": 221,
    "tx_data_kib": 138,
    "rx_data_kib": 139,
}
_LINK_SPEED = 164
_LINKS = 36


def _plain(value: Any) -> Any:
    """Turn what pynvml returns, a structure, an array or a number, into JSON."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float) and not math.isfinite(value):
        return {"error": str(value)}
    if value is None or isinstance(value, str | int | float):
        return value
    if hasattr(value, "_fields_"):
        return {name: _plain(getattr(value, name)) for name, *_ in value._fields_}
    if hasattr(value, "__len__"):
        return [_plain(item) for item in value]
    return {name: _plain(item) for name, item in vars(value).items()}


class _Nvml:
    """pynvml, with every refusal turned into a value."""

    def __init__(self, library: Any) -> None:
        self.library = library

    def refusal(self, problem: Exception) -> dict[str, Any]:
        """Return {"na": true} where the GPU has no such thing, else the error."""
        if isinstance(problem, self.library.NVMLError_NotSupported):
            return {"na": True}
        return {"error": str(problem) or type(problem).__name__}

    def ask(self, function: str, *arguments: Any) -> Any:
        """Call one function of NVML, which the library or the driver may not have."""
        try:
            return _plain(getattr(self.library, function)(*arguments))
        except Exception as problem:
            return self.refusal(problem)

    def fields(self, gpu: Any, wanted: dict[str, tuple[int, int]]) -> dict[str, Any]:
        """Read several field values at once; each has a return code of its own."""
        try:
            values = self.library.nvmlDeviceGetFieldValues(gpu, list(wanted.values()))
        except Exception as problem:
            return dict.fromkeys(wanted, self.refusal(problem))
        return {name: self._field(value) for name, value in zip(wanted, values, strict=True)}

    def _field(self, value: Any) -> Any:
        try:
            if value.nvmlReturn:
                raise self.library.NVMLError(value.nvmlReturn)
            kinds = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
            return _plain(getattr(value.value, kinds[value.valueType]))
        except Exception as problem:
            return self.refusal(problem)

    def structure(self, gpu: Any, function: str, *kinds: str) -> Any:
        """Call a function that fills a structure, with the newest kind of structure that the driver takes."""
        from ctypes import byref

        answer: Any = {"error": "this pynvml does not know it"}
        for kind in kinds:
            try:
                filled = getattr(self.library, kind)()
                getattr(self.library, function)(gpu, byref(filled))
                return _plain(filled)
            except Exception as problem:
                answer = self.refusal(problem)
                if "na" in answer:
                    return answer
        return answer


def _memory(nvml: _Nvml, gpu: Any) -> Any:
    version = getattr(nvml.library, "nvmlMemory_v2", None)
    answer = nvml.ask("nvmlDeviceGetMemoryInfo", gpu, version)
    return nvml.ask("nvmlDeviceGetMemoryInfo", gpu) if "error" in answer else answer


def _links(nvml: _Nvml, gpu: Any, count: Any) -> Any:
    """Describe each NVLink that there is, without its counters."""
    if isinstance(count, dict) and "error" not in count:
        return count
    links = []
    for link in range(min(count, _LINKS) if isinstance(count, int) else _LINKS):
        state = nvml.ask("nvmlDeviceGetNvLinkState", gpu, link)
        if not isinstance(count, int) and isinstance(state, dict):
            break
        links.append(
            {
                "link": link,
                "state": state,
                "version": nvml.ask("nvmlDeviceGetNvLinkVersion", gpu, link),
                "remote_pci": nvml.ask("nvmlDeviceGetNvLinkRemotePciInfo", gpu, link),
                "remote_kind": nvml.ask("nvmlDeviceGetNvLinkRemoteDeviceType", gpu, link),
                **nvml.fields(gpu, {"speed_mb_per_s": (_LINK_SPEED, link)}),
            }
        )
    return links


def _counters(nvml: _Nvml, gpu: Any, link: int) -> dict[str, Any]:
    return {
        **{
            name: nvml.ask("nvmlDeviceGetNvLinkErrorCounter", gpu, link, number)
            for number, name in enumerate(_LINK_ERRORS)
        },
        **nvml.fields(gpu, {name: (number, link) for name, number in _LINK_FIELDS.items()}),
    }


def _cpus(nvml: _Nvml, gpu: Any) -> Any:
    """Return the CPUs near the GPU as words of 64 bits."""
    return nvml.ask("nvmlDeviceGetCpuAffinity", gpu, 64)


def _mig_devices(nvml: _Nvml, gpu: Any) -> Any:
    """Count the MIG devices; where the mode is off there is nothing to count."""
    most = nvml.ask("nvmlDeviceGetMaxMigDeviceCount", gpu)
    if not isinstance(most, int):
        return most
    found = 0
    for number in range(min(most, 64)):
        try:
            nvml.library.nvmlDeviceGetMigDeviceHandleByIndex(gpu, number)
            found += 1
        except nvml.library.NVMLError_NotFound:
            continue
        except Exception as problem:
            return nvml.refusal(problem)
    return found


def _gpu(nvml: _Nvml, gpu: Any, index: int) -> dict[str, Any]:
    known = {key: nvml.ask(function, gpu, *arguments) for key, function, *arguments in _GPU}
    known |= nvml.fields(gpu, _FIELDS)
    return {
        "index": index,
        **known,
        "memory": _memory(nvml, gpu),
        "sram": nvml.structure(gpu, "nvmlDeviceGetSramEccErrorStatus", "c_nvmlEccSramErrorStatus_v1_t"),
        "fabric": nvml.structure(
            gpu, "nvmlDeviceGetGpuFabricInfoV", "c_nvmlGpuFabricInfo_v3_t", "c_nvmlGpuFabricInfo_v2_t"
        ),
        "cpu_affinity": _cpus(nvml, gpu),
        "mig_devices": _mig_devices(nvml, gpu),
        "nvlinks": _links(nvml, gpu, known["nvlink_count"]),
    }


def _sample(nvml: _Nvml, gpus: dict[int, Any], described: list[dict[str, Any]]) -> dict[int, dict[int, dict[str, Any]]]:
    """Read the counters of all links of all GPUs: GPU index to link to counters."""
    return {
        entry["index"]: {link["link"]: _counters(nvml, gpus[entry["index"]], link["link"]) for link in entry["nvlinks"]}
        for entry in described
        if isinstance(entry.get("nvlinks"), list)
    }


def _name_lost(lost: list[dict[str, Any]], seen: set[str]) -> None:
    """Give GPUs that cannot be opened their PCI address: those that the kernel driver has and NVML did not open."""
    from pathlib import Path

    try:
        names = sorted(path.name for path in Path(_DRIVER_FOLDER).iterdir() if path.name.count(":") == 2)
    except OSError:
        return
    left = [name for name in names if name.lower() not in seen]
    if len(left) == len(lost):
        for entry, name in zip(lost, left, strict=True):
            entry["bus_id"] = name


def _bus_id(entry: dict[str, Any]) -> str:
    """Return a GPU's PCI address as sysfs spells it."""
    pci = entry.get("pci", {})
    domain, _, rest = str(pci.get("busId", "")).partition(":")
    try:
        return f"{int(domain, 16):04x}:{rest}".lower()
    except ValueError:
        return ""


def collect(library: Any, window: float) -> dict[str, Any]:
    """Ask everything.

    Args:
        library: pynvml, or a stand-in.
        window: seconds between the two samples of counters, at least.
    """
    nvml = _Nvml(library)
    try:
        library.nvmlInit()
    except Exception as problem:
        return {"schema": SCHEMA, **nvml.refusal(problem)}
    report: dict[str, Any] = {"schema": SCHEMA, **{key: nvml.ask(function) for key, function in _SYSTEM}}
    report["count"] = nvml.ask("nvmlDeviceGetCount")
    handles: dict[int, Any] = {}
    lost: list[dict[str, Any]] = []
    for index in range(report["count"] if isinstance(report["count"], int) else 0):
        try:
            handles[index] = library.nvmlDeviceGetHandleByIndex(index)
        except Exception as problem:
            lost.append({"index": index, **nvml.refusal(problem)})
    described = [_gpu(nvml, handle, index) for index, handle in handles.items()]
    for entry in described:
        entry["bus_id"] = _bus_id(entry)
    if lost:
        _name_lost(lost, {entry["bus_id"] for entry in described})
    started = time.monotonic()
    first = _sample(nvml, handles, described)
    if first and any(first.values()):
        time.sleep(window)
    report["seconds"] = time.monotonic() - started
    second = _sample(nvml, handles, described)
    for entry in described:
        for link in entry["nvlinks"] if isinstance(entry["nvlinks"], list) else ():
            link["counters"] = [sample[entry["index"]][link["link"]] for sample in (first, second)]
    report["gpus"] = sorted([*described, *lost], key=lambda entry: entry["index"])
    nvml.ask("nvmlShutdown")
    return report


def main(arguments: list[str]) -> int:
    """Print the report; also where there is no library, no driver or no GPU."""
    window = 0.2
    if len(arguments) == 2 and arguments[0] == "--window":
        window = min(max(float(arguments[1]), 0.0), 600.0)
    try:
        import pynvml
    except Exception as problem:
        report: dict[str, Any] = {"schema": SCHEMA, "error": f"pynvml: {problem}"}
    else:
        report = collect(pynvml, window)
    json.dump(report, sys.stdout, separators=(",", ":"), allow_nan=False)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
