"""A stand-in for NVML, where there is no GPU: what HOSTCHECK_FAKE_NVML says, as JSON.

`{"gpus": [{"uuid": "GPU-0", "mig": 0, "processes": [4711]}], "init": "Driver Not Loaded"}`; each GPU is an H100 SXM
unless it says otherwise. Clocks, power and counters are those of a healthy GPU under load.
"""

# ruff: noqa: N802 (NVML has these names)

from __future__ import annotations

import json
import os
import time
from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    pass


class NVMLError_NotSupported(NVMLError):  # noqa: N801
    pass


class NVMLError_NotFound(NVMLError):  # noqa: N801
    pass


_SCENE: dict[str, Any] = json.loads(os.environ.get("HOSTCHECK_FAKE_NVML", '{"gpus": []}'))
_BEGUN = time.monotonic()


def nvmlInit() -> None:
    if "init" in _SCENE:
        raise NVMLError(_SCENE["init"])


def nvmlShutdown() -> None:
    pass


def nvmlSystemGetDriverVersion() -> str:
    return "580.159.04"


def nvmlSystemGetCudaDriverVersion_v2() -> int:
    return 13000


def nvmlDeviceGetCount() -> int:
    return len(_SCENE["gpus"])


def nvmlDeviceGetHandleByIndex(index: int) -> dict[str, Any]:
    gpu = {"index": index, "uuid": f"GPU-{index}", **_SCENE["gpus"][index]}
    if "lost" in gpu:
        raise NVMLError("GPU is lost")
    return gpu


def nvmlDeviceGetHandleByUUID(uuid: str) -> dict[str, Any]:
    return next(gpu for gpu in map(nvmlDeviceGetHandleByIndex, range(nvmlDeviceGetCount())) if gpu["uuid"] == uuid)


def nvmlDeviceGetPciInfo(gpu: dict[str, Any]) -> SimpleNamespace:
    bus = f"00000000:{0x10 + gpu['index']:02X}:00.0"
    return SimpleNamespace(busId=bus, pciDeviceId=0x233010DE, pciSubSystemId=0x16C110DE)


def nvmlDeviceGetName(gpu: dict[str, Any]) -> str:
    return str(gpu.get("name", "NVIDIA H100 80GB HBM3"))


def nvmlDeviceGetUUID(gpu: dict[str, Any]) -> str:
    return str(gpu["uuid"])


def nvmlDeviceGetArchitecture(gpu: dict[str, Any]) -> int:
    return 9


def nvmlDeviceGetCudaComputeCapability(gpu: dict[str, Any]) -> list[int]:
    return list(gpu.get("cc", (9, 0)))


def nvmlDeviceGetComputeMode(gpu: dict[str, Any]) -> int:
    return int(gpu.get("compute_mode", 0))


def nvmlDeviceGetVirtualizationMode(gpu: dict[str, Any]) -> int:
    return int(gpu.get("virtualization", 0))


def nvmlDeviceGetMigMode(gpu: dict[str, Any]) -> list[int]:
    return [int(gpu.get("mig", 0))] * 2


def nvmlDeviceGetMaxMigDeviceCount(gpu: dict[str, Any]) -> int:
    return 0


def nvmlDeviceGetConfComputeProtectedMemoryUsage(gpu: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(total=int(gpu.get("protected", 0)), free=0, used=0)


def nvmlDeviceGetMemoryInfo(gpu: dict[str, Any], version: object = None) -> SimpleNamespace:
    return SimpleNamespace(total=85520809984, free=int(gpu.get("free", 85017493504)), used=0)


def nvmlDeviceGetComputeRunningProcesses(gpu: dict[str, Any]) -> list[SimpleNamespace]:
    return [SimpleNamespace(pid=pid) for pid in gpu.get("processes", [])]


def nvmlDeviceGetMaxClockInfo(gpu: dict[str, Any], kind: int) -> int:
    return 2619 if kind == 2 else 1980


def nvmlDeviceGetClockInfo(gpu: dict[str, Any], kind: int) -> int:
    return int(gpu.get("mem_mhz", 2619)) if kind == 2 else int(gpu.get("sm_mhz", 1755))


def nvmlDeviceGetTemperature(gpu: dict[str, Any], kind: int) -> int:
    return 61


def nvmlDeviceGetEnforcedPowerLimit(gpu: dict[str, Any]) -> int:
    return int(gpu.get("limit_mw", 700000))


def nvmlDeviceGetPowerManagementDefaultLimit(gpu: dict[str, Any]) -> int:
    return 700000


def nvmlDeviceGetMemoryErrorCounter(gpu: dict[str, Any], kind: int, period: int, place: int) -> int:
    return int(gpu.get("ecc_per_s", 0) * (time.monotonic() - _BEGUN)) if kind == 1 else 0


def nvmlDeviceGetRemappedRows(gpu: dict[str, Any]) -> tuple[int, int, int, int]:
    return (0, 0, 0, 0)


def nvmlDeviceGetPcieReplayCounter(gpu: dict[str, Any]) -> int:
    return 0


def nvmlDeviceGetFieldValues(gpu: dict[str, Any], wanted: list[Any]) -> list[SimpleNamespace]:
    """Answer power (186, mW), energy (83, mJ) and nanoseconds of slowdowns (74 power cap, 270 hardware thermal)."""
    now = time.monotonic() - _BEGUN
    known = {186: 650_000, 83: int(650_000 * now), 74: int(9e8 * now), 76: 0, 269: 0, 271: 0, 91: 0}
    known[270] = int(1e9 * now * gpu.get("thermal", 0))
    return [
        SimpleNamespace(nvmlReturn=0, valueType=3, value=SimpleNamespace(ullVal=known[number]))
        if number in known
        else SimpleNamespace(nvmlReturn=3, valueType=0, value=None)
        for number in wanted
    ]
