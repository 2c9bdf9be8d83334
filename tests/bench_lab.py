"""A stand-in for what the engine gives to a benchmark, and the GPUs of this machine, for driving benchmarks alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from hostcheck.bench.lab import BenchGpu
from hostcheck.bench.model import Level


@dataclass
class StandInLab:
    """A lab without an engine: it samples no conditions, and counts how often `watch` was used."""

    gpus: tuple[BenchGpu, ...] = ()
    level: Level = Level.QUICK
    seconds: float = 2.0
    whole: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    watched: int = 0
    only: tuple[str, ...] = ()

    def wants(self, case: str) -> bool:
        return not self.only or case in self.only

    @property
    def gpu(self) -> BenchGpu:
        (only,) = self.gpus
        return only

    @contextmanager
    def watch(self, *subjects: str) -> Iterator[None]:
        self.watched += 1
        yield


def gpus() -> tuple[BenchGpu, ...]:
    """Return the GPUs of this machine; empty without a driver or without cuda-bindings."""
    from uuid import UUID

    import pynvml

    from hostcheck.bench.cuda import Device
    from hostcheck.bench.cuda_calls import CudaError, call, start
    from hostcheck.gpu_table import find

    try:
        start()
        many = call("cuDeviceGetCount")
    except CudaError:
        return ()
    pynvml.nvmlInit()
    found = []
    for ordinal in range(many):
        uuid = f"GPU-{UUID(bytes=bytes(call('cuDeviceGetUuid', call('cuDeviceGet', ordinal)).bytes))}"
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        pci = pynvml.nvmlDeviceGetPciInfo(handle)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle).total // 2**20
        with Device(ordinal) as device:
            model = find(f"{pci.pciDeviceId:#010x}", f"{pci.pciSubSystemId:#010x}", device.name, memory)
            found.append(
                BenchGpu(
                    index=pynvml.nvmlDeviceGetIndex(handle),
                    ordinal=ordinal,
                    uuid=uuid,
                    name=device.name,
                    model=model,
                    sm_count=device.sm_count,
                    cc=device.cc,
                    sm_max_mhz=pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM),
                    mem_max_mhz=pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_MEM),
                )
            )
    pynvml.nvmlShutdown()
    return tuple(found)
