"""GPUs: the probes of nvidia-smi, NVML and the kernel driver, and the facts that they give together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hostcheck.errors import NotApplicable, Unavailable, need
from hostcheck.facts import gpu_driver
from hostcheck.facts.base import Fact, Optional
from hostcheck.facts.gpu_driver import parse_driver
from hostcheck.facts.gpu_merge import merge
from hostcheck.facts.gpu_probes import NVML, SMI
from hostcheck.facts.gpu_reports import Driver, DriverGpu, NvmlLog, SmiLog
from hostcheck.facts.gpu_types import (
    FABRIC_HEALTH,
    REASONS,
    TIMED_REASONS,
    Clocks,
    ClockSet,
    Ecc,
    EccCounters,
    Fabric,
    Gpu,
    GpuProcess,
    Memory,
    Mig,
    MigDevice,
    Pcie,
    Place,
    Power,
    RemappedRows,
    RetiredPages,
    Temperature,
    Utilization,
)
from hostcheck.facts.nvml_read import parse_nvml
from hostcheck.facts.pci import PCI, PciTree
from hostcheck.facts.smi_xml import parse_xml
from hostcheck.snapshot.probes import FileProbe
from hostcheck.snapshot.reading import Ending, Reading

__all__ = [
    "DRIVER",
    "DRIVER_CUDA",
    "DRIVER_PROBE",
    "FABRIC_HEALTH",
    "GPUS",
    "NVML",
    "NVML_LOG",
    "REASONS",
    "SMI",
    "SMI_LOG",
    "TIMED_REASONS",
    "ClockSet",
    "Clocks",
    "Driver",
    "DriverGpu",
    "Ecc",
    "EccCounters",
    "Fabric",
    "Gpu",
    "GpuProcess",
    "Memory",
    "Mig",
    "MigDevice",
    "NvmlLog",
    "Pcie",
    "Place",
    "Power",
    "RemappedRows",
    "RetiredPages",
    "SmiLog",
    "Temperature",
    "Utilization",
]

DRIVER_PROBE = FileProbe(
    "gpu.driver",
    (gpu_driver.VERSION, gpu_driver.PARAMS, gpu_driver.INFORMATION, gpu_driver.POWER, gpu_driver.MODULE_VERSION),
    may_hang=True,
)


def parse_smi_log(reading: Reading) -> SmiLog:
    """Parse the probe's output; a whole report counts whatever the exit status is (14: an InfoROM is corrupted).

    Raises:
        Unavailable: the command did not run to its end, or printed no report.
    """
    if reading.ending not in (Ending.OK, Ending.EXIT, Ending.TRUNCATED):
        raise reading.unavailable()
    messages = reading.err[-4096:].decode("utf-8", "replace").splitlines()
    try:
        log = parse_xml(reading.out.decode("utf-8", "replace"), messages=messages, exit_code=reading.code)
    except Unavailable as problem:
        spoken = reading.ending is Ending.EXIT and b"<nvidia_smi_log" not in reading.out
        raise reading.unavailable("" if spoken else problem.why) from None
    return replace(log, truncated=log.truncated or reading.ending is Ending.TRUNCATED)


def parse_nvml_log(reading: Reading) -> NvmlLog:
    """Parse the probe's output.

    Raises:
        Unavailable: the child process did not end well, or NVML could not be used.
    """
    return parse_nvml(reading.text())


def gpus(smi: SmiLog | Unavailable, nvml: NvmlLog | Unavailable, pci: PciTree | Unavailable) -> Sequence[Gpu]:
    """Return what both tools tell of every GPU.

    Raises:
        NotApplicable: neither was asked, and the PCI bus holds no NVIDIA GPU, or only those that guests have.
        Unavailable: neither answered, or they list none although the bus holds some.
    """
    on_bus = None if isinstance(pci, Unavailable) else [gpu for gpu in pci.gpus if not gpu.is_passed_through]
    if isinstance(smi, Unavailable) and isinstance(nvml, Unavailable):
        asked = {smi.ending, nvml.ending} - {Ending.ABSENT.value, Ending.NOT_COLLECTED.value}
        if on_bus == [] and not asked:
            if not isinstance(pci, Unavailable) and pci.gpus:
                raise NotApplicable("every NVIDIA GPU is passed through to a guest")
            raise NotApplicable("this host has no NVIDIA GPU")
    listed = merge(smi, nvml)
    if not listed and on_bus:
        raise Unavailable(f"the driver describes none of the {len(on_bus)} NVIDIA GPUs on the PCI bus", SMI.id)
    return listed


SMI_LOG: Fact[SmiLog] = Fact("gpu.smi-log", parse_smi_log, SMI)
NVML_LOG: Fact[NvmlLog] = Fact("gpu.nvml-log", parse_nvml_log, NVML)
GPUS: Fact[Sequence[Gpu]] = Fact("gpu.gpus", gpus, Optional(SMI_LOG), Optional(NVML_LOG), Optional(PCI))
DRIVER: Fact[Driver] = Fact("gpu.driver", parse_driver, DRIVER_PROBE)
DRIVER_CUDA: Fact[str] = Fact("gpu.cuda", lambda _, smi: need(smi.cuda_version), GPUS, SMI_LOG)
"""The CUDA version that the driver is made for; not applicable where there is no GPU."""
