"""What of NVIDIA's software is installed beside the driver: MPS, the module of GPUDirect Storage, fabric manager."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hostcheck.errors import Maybe, NotApplicable, Unavailable
from hostcheck.facts.base import Fact, Optional
from hostcheck.facts.gpu import DRIVER, Driver
from hostcheck.facts.kernel import maybe
from hostcheck.snapshot.probes import CommandProbe, ListProbe
from hostcheck.snapshot.reading import Ending, Reading

MPS_CONTROL = "/usr/bin/nvidia-cuda-mps-control"
_MODULES = tuple(
    f"/lib/modules/*/{folder}/nvidia-fs.ko*"
    for folder in ("updates", "updates/dkms", "extra", "extra/nvidia-fs", "weak-updates", "kernel/nvidia-fs")
)
_SOURCES = "/usr/src/nvidia-fs-*"
ADDONS_PROBE = ListProbe("software.addons", (MPS_CONTROL, *_MODULES, _SOURCES))
FABRIC_MANAGER_PROBE = CommandProbe("nvlink.fabric-manager-version", ("nv-fabricmanager", "--version"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Addons:
    """What is installed.

    Attributes:
        mps: the program that controls MPS.
        gds_source: the source of the module nvidia-fs, which DKMS builds for each kernel.
        gds_kernels: releases of the kernels that the module was built for.
    """

    mps: bool
    gds_source: bool
    gds_kernels: tuple[str, ...]


def read_addons(reading: Reading) -> Addons:
    """Return what is installed.

    Raises:
        Unavailable: it was not looked for.
    """
    modules = [path for pattern in _MODULES for path in reading.listed(pattern)]
    return Addons(
        mps=reading.entry(MPS_CONTROL) is not None,
        gds_source=bool(reading.listed(_SOURCES)),
        gds_kernels=tuple(sorted({path.split("/")[3] for path in modules})),
    )


def parse_fabric_manager_version(text: str) -> str:
    """Return the version of the fabric manager.

    Raises:
        Unavailable: the output names none.

    Sample:
        Fabric Manager version is : 580.159.04
    """
    found = re.search(r"version is\s*:\s*([0-9]{2,4}(?:\.[0-9]{1,5}){1,3})", text)
    if found is None:
        raise Unavailable("nv-fabricmanager names no version", FABRIC_MANAGER_PROBE.id)
    return found[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class FabricStack:
    """The two versions that must agree: those of the fabric manager and of the loaded driver."""

    manager: Maybe[str]
    driver: Maybe[str]


def _fabric_stack(reading: Reading | Unavailable, driver: Driver | Unavailable) -> FabricStack:
    manager: Maybe[str]
    if not isinstance(reading, Unavailable):
        manager = maybe(lambda: parse_fabric_manager_version(reading.text()))
    elif reading.ending == Ending.ABSENT.value:
        manager = NotApplicable("the fabric manager is not installed")
    else:
        manager = reading
    return FabricStack(manager=manager, driver=driver if isinstance(driver, Unavailable) else driver.version)


ADDONS: Fact[Addons] = Fact("software.addons", read_addons, ADDONS_PROBE)
FABRIC_STACK: Fact[FabricStack] = Fact(
    "nvlink.fabric-stack", _fabric_stack, Optional(FABRIC_MANAGER_PROBE), Optional(DRIVER)
)
