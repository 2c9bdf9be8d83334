"""Calls of the CUDA driver through cuda-bindings, and what its errors mean to who runs a benchmark."""

from __future__ import annotations

from functools import cache
from typing import Any

from hostcheck.bench import kernels
from hostcheck.errors import HostcheckError

NVIDIA_SMI = "nvidia-smi shows what runs there"

# What the driver's errors mean to who runs a benchmark. The names are those of CUresult, without CUDA_ERROR_.
_ADVICE = {
    "OUT_OF_MEMORY": f"the GPU's memory is full; {NVIDIA_SMI}",
    "NO_DEVICE": "this process sees no GPU; see CUDA_VISIBLE_DEVICES, and whether the container was given GPUs",
    "INVALID_DEVICE": "there is no such GPU in this process; see CUDA_VISIBLE_DEVICES",
    "DEVICE_UNAVAILABLE": f"the GPU is taken (compute mode exclusive or prohibited); {NVIDIA_SMI}",
    "SYSTEM_NOT_READY": "start nvidia-fabricmanager (NVSwitch), or wait until confidential computing is ready",
    "SYSTEM_DRIVER_MISMATCH": "libcuda and the kernel module are of different versions: reboot, or reload the module",
    "COMPAT_NOT_SUPPORTED_ON_DEVICE": "the compatibility libcuda is not for this GPU: take it off LD_LIBRARY_PATH",
    "STUB_LIBRARY": "a stub libcuda was loaded: take it off LD_LIBRARY_PATH",
    "NO_BINARY_FOR_GPU": f"the driver is older than the compiler of the kernels: {kernels.INSTALL}",
    "UNSUPPORTED_PTX_VERSION": f"the driver is older than the compiler of the kernels: {kernels.INSTALL}",
    "INVALID_IMAGE": f"the driver is older than the compiler of the kernels: {kernels.INSTALL}",
    "OPERATING_SYSTEM": "the driver could not get what it needs from the kernel; see ulimit -l, and dmesg for Xids",
    "ECC_UNCORRECTABLE": "memory of the GPU is damaged: drain the host, then reset the GPU; see dmesg for Xids",
    "CONTAINED": "memory of the GPU is damaged: drain the host, then reset the GPU; see dmesg for Xids",
    "NVLINK_UNCORRECTABLE": "an NVLink failed: drain the host, then reset the GPU; see dmesg for Xids",
    "MPS_CONNECTION_FAILED": "the MPS daemon does not answer: see CUDA_MPS_PIPE_DIRECTORY",
    "PEER_ACCESS_UNSUPPORTED": "the GPUs have no peer access",
    "NOT_SUPPORTED": "the driver does not offer this here, as with confidential computing or a vGPU",
    "UNKNOWN": "see dmesg for Xids; the GPU may have to be reset",
    "LAUNCH_FAILED": "a kernel failed; see dmesg for Xids",
    "ILLEGAL_ADDRESS": "a kernel failed; see dmesg for Xids",
}
# What these lack is memory of the host.
_OF_HOST = ("cuMemHostAlloc", "cuMemHostRegister")
_HOST_FULL = "see the free memory of the host and ulimit -l"


class CudaError(HostcheckError):
    """A call of the driver failed: one line with the error's name and what to do.

    Attributes:
        name: of the CUresult without "CUDA_ERROR_", such as "OUT_OF_MEMORY"; "" where no driver is there.
    """

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message)
        self.name = name


@cache
def driver() -> Any:
    """Return the module of the driver's calls.

    Raises:
        CudaError: cuda-bindings is not installed.
    """
    try:
        from cuda.bindings import driver
    except ImportError as problem:
        raise CudaError(f"the GPU cannot be used: {problem}; {kernels.INSTALL}") from None
    return driver


def call(name: str, *args: Any) -> Any:
    """Call a function of the driver, such as "cuMemAlloc", and return what it gives beside its status.

    Raises:
        CudaError: it failed, or the driver has no such function.
    """
    bound = driver()
    try:
        status, *rest = getattr(bound, name)(*args)
    except RuntimeError as problem:
        raise CudaError(_no_driver(str(problem))) from None
    if int(status) != 0:
        raise failed(name, status)
    return rest[0] if len(rest) == 1 else tuple(rest)


def failed(name: str, status: Any) -> CudaError:
    """Return the error for a status."""
    short = status.name.removeprefix("CUDA_ERROR_")
    advice = _HOST_FULL if short == "OUT_OF_MEMORY" and name in _OF_HOST else _ADVICE.get(short)
    return CudaError(f"{name}: {short}" + (f": {advice}" if advice else ""), short)


def _no_driver(said: str) -> str:
    if said.startswith("Function "):
        return f"the NVIDIA driver is too old: {said}"
    return "no NVIDIA driver: libcuda.so.1 cannot be loaded; install the driver, or give the container GPUs"


def start() -> tuple[int, int]:
    """Start the driver and return the CUDA version that it supports, such as (13, 0).

    Raises:
        CudaError: there is no driver, or no GPU that it can use.
    """
    call("cuInit", 0)
    version = call("cuDriverGetVersion")
    return version // 1000, version % 1000 // 10
