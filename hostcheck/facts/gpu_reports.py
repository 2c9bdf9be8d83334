"""Whole reports about GPUs: nvidia-smi's, NVML's, and the kernel driver's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hostcheck.errors import Maybe
from hostcheck.facts.gpu_types import UNSEEN, Gpu


@dataclass(frozen=True, slots=True, kw_only=True)
class SmiLog:
    """One output of `nvidia-smi -q` or `nvidia-smi -q -x` as a whole.

    Attributes:
        attached: how many GPUs the head of the output announces; a GPU that the driver cannot open, or whose device
            node is hidden, is not among them.
        gpus: those that the output describes, ordered by index; where it is truncated, the last one is in part.
        truncated: the output stops in the middle.
        unreadable: "0000:41:00.0: text" of GPUs that nvidia-smi could not open, such as one that is lost.
        inforom_corrupted: bus ids of GPUs with a corrupted InfoROM.
        notes: all that was printed outside of the report.
        exit_code: None where the output came from elsewhere.
    """

    driver_version: Maybe[str] = UNSEEN
    cuda_version: Maybe[str] = UNSEEN
    attached: Maybe[int] = UNSEEN
    timestamp: Maybe[str] = UNSEEN
    gpus: tuple[Gpu, ...] = ()
    truncated: bool = False
    unreadable: tuple[str, ...] = ()
    inforom_corrupted: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    exit_code: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmlLog:
    """What NVML says about the host and every GPU, but not about NVLink.

    Attributes:
        seconds: how long it took.
        unreadable: "0000:41:00.0: text" of GPUs that NVML counts and cannot open.
    """

    driver_version: Maybe[str] = UNSEEN
    cuda_version: Maybe[str] = UNSEEN
    seconds: float = 0.0
    gpus: tuple[Gpu, ...] = ()
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverGpu:
    """One GPU as the kernel driver lists it in /proc/driver/nvidia/gpus, without asking the GPU.

    Attributes:
        model, firmware, vbios: as the driver says; firmware is not applicable where the GSP is not used.
        excluded: the driver was told to leave it alone.
        runtime_d3: "Runtime D3 status" of its power file; laptops have it on.
    """

    bus_id: str
    model: Maybe[str] = UNSEEN
    uuid: Maybe[str] = UNSEEN
    minor: Maybe[int] = UNSEEN
    vbios: Maybe[str] = UNSEEN
    firmware: Maybe[str] = UNSEEN
    excluded: Maybe[bool] = UNSEEN
    runtime_d3: Maybe[str] = UNSEEN

    @property
    def subject(self) -> str:
        """Its name in findings: the index of nvidia-smi is not known here."""
        return self.bus_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """The NVIDIA kernel driver.

    Attributes:
        loaded: whether the module is in the kernel; the other fields are not applicable if not.
        version: of the module that runs, which can differ from the libraries on disk.
        flavour: "open" or "proprietary".
        params: module parameters by their names in /proc/driver/nvidia/params, which lack the prefix NVreg_.
        gpus: those that the driver has taken, ordered by bus id.
    """

    loaded: bool
    version: Maybe[str] = UNSEEN
    flavour: Maybe[str] = UNSEEN
    params: Maybe[Mapping[str, str]] = UNSEEN
    gpus: Maybe[tuple[DriverGpu, ...]] = UNSEEN
