"""NVLink: the fabric manager."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hostcheck.checks.nvlink import need_fabric
from hostcheck.errors import need
from hostcheck.expect import Expect
from hostcheck.facts.addons import FABRIC_STACK, FabricStack
from hostcheck.facts.gpu import GPUS, Gpu
from hostcheck.facts.pci import PCI, PciTree
from hostcheck.facts.platform import PLATFORM, Platform
from hostcheck.facts.process import DAEMONS, Daemons
from hostcheck.facts.units import FABRIC_MANAGER, UNITS, Units
from hostcheck.registry import tuner
from hostcheck.tuning.change import Change, Refusal, Risk

from .services import start


@tuner(
    GPUS, PCI, PLATFORM, DAEMONS, UNITS, FABRIC_STACK, id="nvlink.fabric-manager", fixes=["nvlink.fabric-manager"],
    rows=["gpu-fabric-manager"],
    references=["https://docs.nvidia.com/datacenter/tesla/fabric-manager-user-guide/index.html"],
)  # fmt: skip
def fabric_manager(
    gpus: Sequence[Gpu],
    pci: PciTree,
    platform: Platform,
    daemons: Daemons,
    units: Units,
    stack: FabricStack,
    expect: Expect,
) -> Iterator[Change | Refusal]:
    """Enable and start the fabric manager, where this machine has the NVSwitches.

    CUDA programs start again, and GPUs see each other. One that runs is never restarted, which would end every job,
    and one of another version than the driver's is not started. Rollback stops and disables it, if it was so.
    """
    need_fabric(gpus, pci, platform)
    driver = need(stack.driver)
    package = f"nvidia-fabricmanager (or nvidia-fabricmanager-{driver.partition('.')[0]}) in version {driver}"
    unit = units.unit(FABRIC_MANAGER)
    if daemons.runs("nv-fabricmanager") and (unit is None or unit.active != "active"):
        return  # something else than its unit started it
    if unit is not None and unit.active != "active":
        have = need(stack.manager)
        if have != driver:
            why = f"it has version {have}, and the driver {driver}: it would refuse to start; install {package}"
            yield Refusal(target=FABRIC_MANAGER, why=why)
            return
    yield from start(
        units,
        FABRIC_MANAGER,
        package=package,
        why="the NVSwitches get their routes, without which CUDA programs fail at start",
        source="the host's own hardware: NVSwitches on the PCI bus, or GPUs on an NVLink fabric",
        fixes=["nvlink.fabric-manager"],
        risk=Risk.MEDIUM,
    )
