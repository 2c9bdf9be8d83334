"""What several sources together tell about GPUs: whether the driver answers, which are missing, what is faulty."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hostcheck.errors import Maybe, NotApplicable, Unavailable
from hostcheck.facts.base import Fact, Optional
from hostcheck.facts.cpu import NUMA, NumaNode, parse_cpu_list
from hostcheck.facts.gpu import DRIVER, GPUS, NVML_LOG, SMI, SMI_LOG, Driver, Gpu, NvmlLog, SmiLog
from hostcheck.facts.nvlink import TOPOLOGY, Topology
from hostcheck.facts.pci import PCI, PciTree, address_of
from hostcheck.facts.platform import PLATFORM, Platform
from hostcheck.snapshot.probes import NVIDIA_DRIVER
from hostcheck.snapshot.reading import Ending, Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """How the driver answered.

    Attributes:
        answered: a list of GPUs came back.
        how: how the question ended, in words; of what did not come back, the cause.
        seconds: how long it took.
        source: who asked: "nvidia-smi -q -x" or "NVML".
    """

    answered: bool
    how: str
    seconds: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFaults:
    """Values of one GPU that are errors, as "element/path: text"; its address alone where it could not be opened."""

    subject: str
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The same GPUs, as counted by those who know of them.

    Attributes:
        described: how many nvidia-smi describes.
        attached: how many the head of its output announces.
        on_bus: how many PCI functions the driver should have; not applicable in a container, which shows those of
            its neighbours too.
        missing: addresses of those among them that nvidia-smi does not know.
    """

    described: int
    attached: Maybe[int]
    on_bus: Maybe[int]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuAffinity:
    """Which CPUs are near a GPU, by the driver and by the kernel.

    Attributes:
        driver_cpus: as nvidia-smi topo shows; in a container only those that it may use.
        node: the GPU's NUMA node by sysfs.
        node_cpus: the online CPUs of that node.
        nodes: how many nodes have CPUs.
    """

    index: int
    driver_cpus: Maybe[frozenset[int]]
    node: Maybe[int]
    node_cpus: frozenset[int]
    nodes: int

    @property
    def subject(self) -> str:
        """Such as "gpu0"."""
        return f"gpu{self.index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReplays:
    """PCIe packets of one GPU that had to be sent again.

    Attributes:
        total: since the GPU was last reset.
        minutes: since boot, which is as long or longer, so that total / minutes is the least that the rate can be.
    """

    index: int
    total: Maybe[int]
    minutes: Maybe[float]

    @property
    def subject(self) -> str:
        """Such as "gpu0"."""
        return f"gpu{self.index}"


def judge_response(
    smi: Reading,
    log: SmiLog | Unavailable,
    nvml: NvmlLog | Unavailable,
    driver: Driver,
    platform: Platform | Unavailable,
) -> Response:
    """Tell a driver that does not answer from one that nobody could ask.

    Raises:
        Unavailable: nobody asked it.
        NotApplicable: there is no driver to ask, or no GPU for it to list.
    """
    if not driver.loaded:
        raise NotApplicable("the NVIDIA driver is not loaded")
    if smi.ending is Ending.NOT_COLLECTED and smi.note == NVIDIA_DRIVER.why_not:
        raise NotApplicable("every GPU is suspended to save power, and asking would wake it")
    source = "nvidia-smi -q -x"
    if smi.ending is Ending.ABSENT and isinstance(nvml, NvmlLog):
        return Response(answered=True, how="no nvidia-smi, but NVML answered", seconds=nvml.seconds, source="NVML")
    if smi.ending in (Ending.TIMEOUT, Ending.KILLED):
        return Response(answered=False, how=smi.how, seconds=smi.seconds, source=source)
    if smi.ending is Ending.EXIT:
        if isinstance(log, SmiLog) and log.gpus:
            return Response(answered=True, how=f"{smi.how}, with a list of GPUs", seconds=smi.seconds, source=source)
        if "No devices" in smi.how and isinstance(platform, Platform) and platform.container:
            raise NotApplicable("no GPU was given to this container")
        return Response(answered=False, how=smi.how, seconds=smi.seconds, source=source)
    if smi.ending not in (Ending.OK, Ending.TRUNCATED):
        raise smi.unavailable()
    fault = log.why if isinstance(log, Unavailable) else "its report stops in the middle" if log.truncated else ""
    return Response(answered=not fault, how=fault or "a list of GPUs", seconds=smi.seconds, source=source)


def gather_faults(gpus: tuple[Gpu, ...], smi: SmiLog | Unavailable, nvml: NvmlLog | Unavailable) -> Sequence[GpuFaults]:
    """Return the error values of each GPU, and those GPUs that a tool counts and cannot open."""
    told = [GpuFaults(subject=gpu.subject, faults=gpu.faults) for gpu in gpus]
    closed = [line for log in (smi, nvml) if not isinstance(log, Unavailable) for line in log.unreadable]
    by_address: dict[str, list[str]] = {}
    for line in closed:
        address, _, text = line.partition(": ")
        by_address.setdefault(address, []).append(text or "cannot be opened")
    return [*told, *(GpuFaults(subject=address, faults=tuple(texts)) for address, texts in sorted(by_address.items()))]


def count_replays(gpus: tuple[Gpu, ...], smi: Reading | Unavailable) -> Sequence[GpuReplays]:
    """Return the PCIe replays of each GPU with the time since boot."""
    minutes: Maybe[float] = Unavailable("it is not known when the counters were read", SMI.id)
    if isinstance(smi, Reading) and smi.at > 0:
        minutes = smi.at / 60
    return [GpuReplays(index=gpu.index, total=gpu.pcie.replays, minutes=minutes) for gpu in gpus]


def take_inventory(
    gpus: tuple[Gpu, ...],
    log: SmiLog,
    pci: PciTree | Unavailable,
    driver: Driver | Unavailable,
    platform: Platform | Unavailable,
) -> Inventory:
    """Hold what nvidia-smi describes against what it announces and against the bus."""
    on_bus: Maybe[int]
    missing: tuple[str, ...] = ()
    if isinstance(platform, Platform) and platform.container:
        on_bus = NotApplicable(f"{platform.label}: the bus shows GPUs that were not given to it")
    elif isinstance(pci, Unavailable):
        on_bus = pci
    elif isinstance(platform, Unavailable):
        on_bus = platform
    else:
        known = {address_of(gpu.bus_id) for gpu in gpus}
        wanted = {gpu.address for gpu in pci.gpus if gpu.driver in (None, "nvidia")} - _excluded(driver)
        on_bus, missing = len(wanted), tuple(sorted(wanted - known))
    attached = Unavailable("the output of nvidia-smi was cut off", SMI.id) if log.truncated else log.attached
    return Inventory(described=len(log.gpus), attached=attached, on_bus=on_bus, missing=missing)


def _excluded(driver: Driver | Unavailable) -> set[str]:
    """Return the addresses of the GPUs that the driver was told to leave alone."""
    gpus = driver.gpus if isinstance(driver, Driver) else ()
    return {address_of(gpu.bus_id) for gpu in gpus if gpu.excluded is True} if isinstance(gpus, tuple) else set()


def compare_affinity(
    gpus: tuple[Gpu, ...], topology: Topology | Unavailable, pci: PciTree, nodes: Sequence[NumaNode]
) -> Sequence[GpuAffinity]:
    """Put the CPUs that the driver calls near beside those of the GPU's node."""
    hosts = {node.id: node.cpus for node in nodes if node.is_host}
    rows = {} if isinstance(topology, Unavailable) else {row.index: row for row in topology.gpus}
    unseen = topology if isinstance(topology, Unavailable) else Unavailable("nvidia-smi topo -m does not show it")
    made = []
    for gpu in gpus:
        function, row = pci.get(gpu.bus_id), rows.get(gpu.index)
        node = function.numa_node if function else Unavailable("it is not on the PCI bus that is shown here")
        made.append(
            GpuAffinity(
                index=gpu.index,
                driver_cpus=_cpus(row.cpus) if row else unseen,
                node=node,
                node_cpus=hosts.get(node, frozenset()) if isinstance(node, int) else frozenset(),
                nodes=len(hosts),
            )
        )
    return made


def _cpus(text: Maybe[str]) -> Maybe[frozenset[int]]:
    if not isinstance(text, str):
        return text
    try:
        return parse_cpu_list(text)
    except Unavailable as missing:
        return missing


_LAPTOP = re.compile(r"Laptop|Mobile|with Max-Q")
_CONSUMER = re.compile(r"GeForce|TITAN|Graphics Device")
_WORKSTATION = re.compile(r"Quadro|NVS |RTX (?!.*Server Edition)|\bT\d{3,4}\b|\bGB10\b|Orin|Thor|Xavier")


def board_class(name: str) -> str:
    """Return "laptop", "consumer", "workstation" or "data-centre", by the name of the product.

    The name is the only thing that tells them apart: the same chip with the same PCI class is sold as all four.
    """
    for word, pattern in (("laptop", _LAPTOP), ("consumer", _CONSUMER), ("workstation", _WORKSTATION)):
        if pattern.search(name):
            return word
    return "data-centre"


RESPONSE: Fact[Response] = Fact(
    "gpu.response", judge_response, SMI, Optional(SMI_LOG), Optional(NVML_LOG), DRIVER, Optional(PLATFORM)
)
FAULTS: Fact[Sequence[GpuFaults]] = Fact("gpu.faults", gather_faults, GPUS, Optional(SMI_LOG), Optional(NVML_LOG))
REPLAYS: Fact[Sequence[GpuReplays]] = Fact("gpu.replays", count_replays, GPUS, Optional(SMI))
INVENTORY: Fact[Inventory] = Fact(
    "gpu.inventory", take_inventory, GPUS, SMI_LOG, Optional(PCI), Optional(DRIVER), Optional(PLATFORM)
)
AFFINITY: Fact[Sequence[GpuAffinity]] = Fact("gpu.affinity", compare_affinity, GPUS, Optional(TOPOLOGY), PCI, NUMA)
