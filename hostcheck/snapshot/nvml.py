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
from collections.abc import Mapping
from typing import Any

SCHEMA = 1
_DRIVER_FOLDER = "/sys/bus/pci/drivers/nvidia"

# Key in the output, NVML function, further arguments. Each is a round trip to the GPU, so that only what a check reads
# is asked, and what nvidia-smi -q -x does not show. Not NVLink: its questions are one for each link and counter.
_SYSTEM = (
    ("driver", "nvmlSystemGetDriverVersion"),
    ("cuda", "nvmlSystemGetCudaDriverVersion_v2"),
)
_GPU: tuple[tuple[Any, ...], ...] = (
    ("pci", "nvmlDeviceGetPciInfo"),
    ("name", "nvmlDeviceGetName"),
    ("uuid", "nvmlDeviceGetUUID"),
    ("vbios", "nvmlDeviceGetVbiosVersion"),
    ("gsp_firmware", "nvmlDeviceGetGspFirmwareVersion"),
    ("architecture", "nvmlDeviceGetArchitecture"),
    ("compute_capability", "nvmlDeviceGetCudaComputeCapability"),
    ("persistence_mode", "nvmlDeviceGetPersistenceMode"),
    ("compute_mode", "nvmlDeviceGetComputeMode"),
    ("performance_state", "nvmlDeviceGetPerformanceState"),
    ("virtualization", "nvmlDeviceGetVirtualizationMode"),
    ("c2c", "nvmlDeviceGetC2cModeInfoV"),
    ("numa_node", "nvmlDeviceGetNumaNodeId"),
    # In words of 64 CPUs.
    ("cpu_affinity", "nvmlDeviceGetCpuAffinity", 64),
    ("mig", "nvmlDeviceGetMigMode"),
    ("ecc", "nvmlDeviceGetEccMode"),
    ("remapped_rows", "nvmlDeviceGetRemappedRows"),
    ("row_banks", "nvmlDeviceGetRowRemapperHistogram"),
    ("retired_pending", "nvmlDeviceGetRetiredPagesPendingStatus"),
    ("repair_pending", "nvmlDeviceGetRepairStatus"),
    ("unrepairable_memory", "nvmlDeviceGetUnrepairableMemoryFlag_v1"),
    ("power_enforced_mw", "nvmlDeviceGetEnforcedPowerLimit"),
    ("power_limit_mw", "nvmlDeviceGetPowerManagementLimit"),
    ("power_default_mw", "nvmlDeviceGetPowerManagementDefaultLimit"),
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
    # Kind of clock: 1 SM, 0 graphics, 2 memory.
    ("max_clock_sm_mhz", "nvmlDeviceGetMaxClockInfo", 1),
    ("application_clock_graphics_mhz", "nvmlDeviceGetApplicationsClock", 0),
    ("application_clock_memory_mhz", "nvmlDeviceGetApplicationsClock", 2),
    ("default_application_clock_graphics_mhz", "nvmlDeviceGetDefaultApplicationsClock", 0),
    ("default_application_clock_memory_mhz", "nvmlDeviceGetDefaultApplicationsClock", 2),
    # Kind of error: 0 correctable, 1 uncorrectable; period: 0 volatile, 1 aggregate; place: 2 DRAM, 7 SRAM.
    ("ecc_volatile_total_uncorrectable", "nvmlDeviceGetTotalEccErrors", 1, 0),
    ("ecc_aggregate_dram_correctable", "nvmlDeviceGetMemoryErrorCounter", 0, 1, 2),
    ("ecc_aggregate_sram_correctable", "nvmlDeviceGetMemoryErrorCounter", 0, 1, 7),
    ("ecc_aggregate_sram_uncorrectable", "nvmlDeviceGetMemoryErrorCounter", 1, 1, 7),
)
# Numbers of NVML_FI_DEV_*, stable across versions.
_FIELDS = {
    "retired_single_bit": 29,
    "retired_double_bit": 30,
    "memory_temperature_c": 82,
    "slowdown_tlimit_c": 194,
    "max_operating_tlimit_c": 196,
    "recovery_action": 230,
}


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

    def newest(self, *calls: tuple[Any, ...]) -> Any:
        """Return the answer to the first of several calls that library and driver know; they ask the same."""
        answer: Any = None
        for function, *arguments in calls:
            answer = self.ask(function, *arguments)
            if not (isinstance(answer, dict) and "error" in answer):
                break
        return answer

    def fields(self, gpu: Any, wanted: Mapping[str, int]) -> dict[str, Any]:
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


def _mig_devices(nvml: _Nvml, gpu: Any, mode: Any) -> Any:
    """Count the MIG devices; where the mode is off there is nothing to count."""
    if not isinstance(mode, list):
        return mode
    if mode[:1] == [0]:
        return 0
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
    memory_v2 = getattr(nvml.library, "nvmlMemory_v2", None)
    return {
        "index": index,
        "bus_id": _bus_id(known["pci"]),
        **known,
        **nvml.fields(gpu, _FIELDS),
        "memory": nvml.newest(("nvmlDeviceGetMemoryInfo", gpu, memory_v2), ("nvmlDeviceGetMemoryInfo", gpu)),
        # The second is the name that libraries before 535 know.
        "event_reasons": nvml.newest(
            ("nvmlDeviceGetCurrentClocksEventReasons", gpu), ("nvmlDeviceGetCurrentClocksThrottleReasons", gpu)
        ),
        "sram": nvml.structure(gpu, "nvmlDeviceGetSramEccErrorStatus", "c_nvmlEccSramErrorStatus_v1_t"),
        "fabric": nvml.structure(
            gpu, "nvmlDeviceGetGpuFabricInfoV", "c_nvmlGpuFabricInfo_v3_t", "c_nvmlGpuFabricInfo_v2_t"
        ),
        "mig_devices": _mig_devices(nvml, gpu, known["mig"]),
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


def _bus_id(pci: dict[str, Any]) -> str:
    """Return a GPU's PCI address as sysfs spells it."""
    domain, _, rest = str(pci.get("busId", "")).partition(":")
    try:
        return f"{int(domain, 16):04x}:{rest}".lower()
    except ValueError:
        return ""


def collect(library: Any) -> dict[str, Any]:
    """Ask everything.

    Args:
        library: pynvml, or a stand-in.
    """
    started = time.monotonic()
    nvml = _Nvml(library)
    try:
        library.nvmlInit()
        count = library.nvmlDeviceGetCount()
    except Exception as problem:
        return {"schema": SCHEMA, **nvml.refusal(problem)}
    report: dict[str, Any] = {"schema": SCHEMA, **{key: nvml.ask(function) for key, function in _SYSTEM}}
    described: list[dict[str, Any]] = []
    lost: list[dict[str, Any]] = []
    for index in range(count):
        try:
            handle = library.nvmlDeviceGetHandleByIndex(index)
        except Exception as problem:
            lost.append({"index": index, **nvml.refusal(problem)})
        else:
            described.append(_gpu(nvml, handle, index))
    if lost:
        _name_lost(lost, {entry["bus_id"] for entry in described})
    nvml.ask("nvmlShutdown")
    gpus = sorted([*described, *lost], key=lambda entry: entry["index"])
    return {**report, "count": count, "seconds": time.monotonic() - started, "gpus": gpus}


def main() -> int:
    """Print the report; also where there is no library, no driver or no GPU."""
    try:
        import pynvml
    except Exception as problem:
        report: dict[str, Any] = {"schema": SCHEMA, "error": f"pynvml: {problem}"}
    else:
        report = collect(pynvml)
    json.dump(report, sys.stdout, separators=(",", ":"), allow_nan=False)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
