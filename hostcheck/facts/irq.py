"""Interrupts: their numbers, names and devices, and the CPUs that may handle them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from hostcheck.errors import Maybe, NotApplicable, Unavailable, need
from hostcheck.facts.base import Fact
from hostcheck.facts.cpu import NUMA, TOPOLOGY, CpuTopology, NumaNode, parse_cpu_list
from hostcheck.facts.pci import DEVICES, PCI, PciFunction, PciTree
from hostcheck.snapshot.probes import FileProbe, ListProbe
from hostcheck.snapshot.reading import Reading

_IRQ = "/proc/irq"
_NAMED = "/sys/kernel/irq"
# /proc/interrupts would tell as well which interrupts have come since boot, but it has a column of 11 characters for
# each CPU: 23 MB on a host of 512 CPUs with 4000 interrupts, nearly all of it zeros.
AFFINITY_PROBE = FileProbe(
    "irq.affinity",
    (f"{_IRQ}/*/smp_affinity_list", f"{_IRQ}/*/effective_affinity_list", f"{_NAMED}/*/actions"),
    limit=4096,
    seconds=10.0,
)
MSI = f"{DEVICES}/*/msi_irqs/*"
MSI_PROBE = ListProbe("irq.msi", (MSI,))

SAME_SOCKET = 16
"""NUMA distance up to which nodes share a socket: 12 inside an EPYC of several nodes, 20 and more between sockets."""

_COUNT = re.compile(r"[0-9]{1,20}")
_ROW = re.compile(r"(?P<chip>\S.{0,199}?)\s+\d+(?:-\w+)?(?:\s+(?:Edge|Level|None)\b)?\s*(?P<name>.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupt:
    """One numbered row of the kernel's table.

    Attributes:
        number: of the interrupt.
        chip: who delivers it, such as "IR-PCI-MSIX-0000:86:00.1".
        name: what its drivers call it, such as "i40e-ens7f1-TxRx-75"; empty if no driver has taken it.
        counts: how often each CPU has handled it since boot, in the order of the table's CPUs.
    """

    number: int
    chip: str
    name: str
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupts:
    """The table of device interrupts; per-CPU sources such as the local timer are left out.

    Attributes:
        cpus: numbers of the CPUs that are online, in the order of the columns.
        rows: by interrupt number.
    """

    cpus: tuple[int, ...]
    rows: Mapping[int, Interrupt]


@dataclass(frozen=True, slots=True, kw_only=True)
class Irq:
    """One interrupt of a device.

    Attributes:
        number: of the interrupt.
        name: what its drivers call it, with commas between them; empty if no driver has taken it. Not applicable
            where the kernel does not tell: before Linux 4.9, without CONFIG_SPARSE_IRQ, and in gVisor.
        allowed: CPUs that may handle it.
        effective: CPUs that do handle it; empty while it is not in use.
    """

    number: int
    name: Maybe[str]
    allowed: Maybe[frozenset[int]]
    effective: Maybe[frozenset[int]]

    @property
    def handlers(self) -> frozenset[int]:
        """The CPUs that handle it, or, on kernels that do not tell, those that may.

        Raises:
            NotApplicable: the kernel tells neither.
            Unavailable: they could not be read.
        """
        return need(self.allowed) if isinstance(self.effective, NotApplicable) else need(self.effective)

    @property
    def next_handlers(self) -> frozenset[int]:
        """The CPU that handles the next one, where only one may; else those that handle it now.

        Without interrupt remapping the kernel moves an interrupt only when it comes, so that one which is idle still
        shows the CPU that it was on.

        Raises:
            NotApplicable: the kernel tells neither.
            Unavailable: they could not be read.
        """
        if isinstance(self.allowed, frozenset) and len(self.allowed) == 1:
            return self.allowed
        return self.handlers

    @property
    def is_used(self) -> bool:
        """Whether a driver has taken it and a CPU handles it.

        Raises:
            NotApplicable: the kernel does not tell which CPUs handle it.
            Unavailable: it could not be read.
        """
        if self.name == "":
            # Its masks may still name CPUs, left from a driver that has given it back.
            return False
        if not isinstance(self.name, NotApplicable):
            return bool(self.handlers) and bool(need(self.name))
        # Without names the CPUs must do, or no host with such a kernel could be judged: the kernel makes the folder in
        # /proc/irq when a driver takes the interrupt for the first time, so one without has never been in use.
        return not isinstance(self.allowed, NotApplicable) and bool(self.handlers)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceIrqs:
    """The message interrupts of one PCI function.

    Attributes:
        function: the PCI function.
        irqs: empty if it has none, or only a line shared with others.
        near: online CPUs of its own node, and of nodes of the same socket; not applicable where that is all of them.
        isolated: CPUs that the scheduler leaves alone; empty where the kernel does not tell.
        housekeeping: the other online CPUs.
    """

    function: PciFunction
    irqs: tuple[Irq, ...]
    near: Maybe[frozenset[int]]
    isolated: frozenset[int]
    housekeeping: frozenset[int]

    @property
    def subject(self) -> str:
        """The function's address."""
        return self.function.address

    @property
    def used(self) -> tuple[Irq, ...]:
        """The interrupts that a driver has taken and a CPU handles, whether or not one has come yet.

        Raises:
            NotApplicable: there are none.
            Unavailable: it could not be read whether they are taken, or which CPUs handle them.
        """
        used = tuple(irq for irq in self.irqs if irq.is_used)
        if not used:
            raise NotApplicable(f"{self.function.address} uses no message interrupts")
        return used


def parse_interrupts(text: str) -> Interrupts:
    """Return the numbered rows of the text of /proc/interrupts, such as support bundles of other tools hold.

    hostcheck itself does not collect it. A row that does not have a count for each CPU is left out.

    Raises:
        Unavailable: the first line does not name the CPUs.

    Sample:
                    CPU0       CPU1       CPU2       CPU3
          24:          0          0          0          0  IO-APIC   5-edge      ACPI:Ged
          38:          0        450          0          0 PCI-MSIX-0000:00:03.0   1-edge      virtio2-input.0
          42:          0          0          0         57 PCI-MSIX-0000:00:06.0   0-edge      nvidia
         NMI:          0          0          0          0   Non-maskable interrupts
         ERR:          0
    """
    lines = text.splitlines()
    heads = lines[0].split() if lines else []
    if not heads or not all(re.fullmatch(r"CPU[0-9]{1,6}", head) for head in heads):
        raise Unavailable("the table of interrupts does not begin with the names of CPUs")
    rows = (_row(line, len(heads)) for line in lines[1:])
    return Interrupts(
        cpus=tuple(int(head[3:]) for head in heads),
        rows={row.number: row for row in rows if row is not None},
    )


def _row(line: str, columns: int) -> Interrupt | None:
    label, colon, rest = line.partition(":")
    number = label.strip()
    if not colon or not (number.isascii() and number.isdigit() and len(number) <= 9):
        return None
    *counts, text = [*rest.split(None, columns), ""][: columns + 1]
    if len(counts) < columns or not all(_COUNT.fullmatch(count) for count in counts):
        return None
    found = _ROW.fullmatch(text.strip())
    chip, name = (found["chip"], found["name"]) if found else ("", text.strip())
    return Interrupt(number=int(number), chip=chip, name=name, counts=tuple(map(int, counts)))


@lru_cache(maxsize=4096)
def _cpus(text: str) -> frozenset[int]:
    return parse_cpu_list(text)


def _read(reading: Reading, path: str) -> Maybe[str]:
    try:
        text = reading.read(path)
    except Unavailable as missing:
        return Unavailable(missing.why, missing.probe or reading.probe)
    return NotApplicable(f"this kernel has no {path}") if text is None else text.strip()


def _list(reading: Reading, path: str) -> Maybe[frozenset[int]]:
    text = _read(reading, path)
    try:
        return _cpus(text) if isinstance(text, str) else text
    except Unavailable as missing:
        return Unavailable(f"{path}: {missing.why}", reading.probe)


def _irq(reading: Reading, number: int) -> Irq:
    return Irq(
        number=number,
        name=_read(reading, f"{_NAMED}/{number}/actions"),
        allowed=_list(reading, f"{_IRQ}/{number}/smp_affinity_list"),
        effective=_list(reading, f"{_IRQ}/{number}/effective_affinity_list"),
    )


def _near(function: PciFunction, cpus: CpuTopology, nodes: Sequence[NumaNode]) -> Maybe[frozenset[int]]:
    if sum(node.is_host for node in nodes) < 2:
        return NotApplicable("the host has one NUMA node with processors")
    if not isinstance(function.numa_node, int):
        return function.numa_node
    own = next((node for node in nodes if node.id == function.numa_node), None)
    if own is None:
        return Unavailable(f"{function.address} is on node {function.numa_node}, which is not online")
    distances = own.distances if isinstance(own.distances, Mapping) else {}
    close = [node for node in nodes if node is own or distances.get(node.id, 255) <= SAME_SOCKET]
    near = frozenset[int]().union(*(node.cpus for node in close)) & cpus.online
    return near or Unavailable(f"no CPU is online on the node of {function.address}")


def _devices(
    tree: PciTree,
    affinity: Reading,
    listing: Reading,
    cpus: CpuTopology,
    nodes: Sequence[NumaNode],
) -> Sequence[DeviceIrqs]:
    affinity.check()
    numbers: dict[str, list[int]] = {}
    for path in listing.listed(MSI):
        address, number = path.split("/")[5], path.rpartition("/")[2]
        if number.isascii() and number.isdigit() and len(number) <= 9:
            numbers.setdefault(address, []).append(int(number))
    isolated = cpus.isolated if isinstance(cpus.isolated, frozenset) else frozenset[int]()
    return [
        DeviceIrqs(
            function=function,
            irqs=tuple(_irq(affinity, number) for number in sorted(numbers.get(function.address, ()))),
            near=_near(function, cpus, nodes),
            isolated=isolated,
            housekeeping=cpus.online - isolated,
        )
        for function in tree.functions
        if (function.is_gpu or function.is_nic) and function.driver is not None and not function.is_passed_through
    ]


def _of_gpus(devices: Sequence[DeviceIrqs]) -> Sequence[DeviceIrqs]:
    return [device for device in devices if device.function.is_gpu]


def _of_nics(devices: Sequence[DeviceIrqs]) -> Sequence[DeviceIrqs]:
    return [device for device in devices if device.function.is_nic]


DEVICE_IRQS: Fact[Sequence[DeviceIrqs]] = Fact("irq.devices", _devices, PCI, AFFINITY_PROBE, MSI_PROBE, TOPOLOGY, NUMA)
GPU_IRQS: Fact[Sequence[DeviceIrqs]] = Fact("irq.gpus", _of_gpus, DEVICE_IRQS)
NIC_IRQS: Fact[Sequence[DeviceIrqs]] = Fact("irq.nics", _of_nics, DEVICE_IRQS)
