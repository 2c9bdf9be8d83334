"""Kernel modules by which others reach GPU memory."""

from __future__ import annotations

from collections.abc import Iterator

from hostcheck.checks.software import gdrcopy as judge_gdrcopy
from hostcheck.checks.software import peermem as judge_peermem
from hostcheck.expect import Expect
from hostcheck.facts.dropins import OWN, OwnFiles
from hostcheck.facts.gpu import DRIVER, Driver
from hostcheck.facts.kernel import MODULES
from hostcheck.facts.platform import PLATFORM, Platform
from hostcheck.facts.software import DEVICES, LIBRARIES, Devices, Libraries
from hostcheck.model import Status
from hostcheck.registry import tuner
from hostcheck.tuning.change import Change, Refusal

from .services import load_module

Steps = Iterator[Change | Refusal]


@tuner(
    DRIVER, MODULES, DEVICES, OWN, id="software.peermem", fixes=["software.peermem"], rows=["net-peermem"],
    references=["https://docs.nvidia.com/cuda/gpudirect-rdma/"],
)  # fmt: skip
def peermem(driver: Driver, modules: frozenset[str], devices: Devices, own: OwnFiles, expect: Expect) -> Steps:
    """Load nvidia-peermem, where RDMA adapters have no other way to GPU memory, now and at each boot.

    With the open driver they have one, dma-buf, and nothing is loaded. The module needs the RDMA stack that the driver
    was built with; where it does not fit, loading it fails and nothing is changed. Rollback unloads it.
    """
    if judge_peermem(driver, modules, devices, expect).status is Status.FAIL:
        yield from load_module(
            own,
            modules,
            "nvidia_peermem",
            why="RDMA adapters reach GPU memory without a copy through host memory",
            source="the host's own hardware and driver: RDMA devices, and a driver without dma-buf",
            fixes=["software.peermem"],
        )


@tuner(LIBRARIES, MODULES, PLATFORM, OWN, id="software.gdrcopy", fixes=["software.gdrcopy"])
def gdrcopy(libraries: Libraries, modules: frozenset[str], platform: Platform, own: OwnFiles, expect: Expect) -> Steps:
    """Load gdrdrv, where GDRCopy is installed, now and at each boot.

    Small messages of UCX, NVSHMEM and NCCL go straight to GPU memory. Rollback unloads it, which fails while a program
    uses it.
    """
    if judge_gdrcopy(libraries, modules, platform, expect).status is Status.FAIL:
        yield from load_module(
            own,
            modules,
            "gdrdrv",
            why="GDRCopy maps GPU memory",
            source="the host's own software: GDRCopy is installed",
            fixes=["software.gdrcopy"],
        )
