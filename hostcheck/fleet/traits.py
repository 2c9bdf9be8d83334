"""How each fact that ought to be uniform is read from a host's facts. Pure; what is missing raises, as facts do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from hostcheck.errors import Maybe, NotApplicable, Unavailable, need
from hostcheck.facts.base import Facts
from hostcheck.facts.cpu import CLOCKSOURCE, CPUINFO, NUMA, TOPOLOGY
from hostcheck.facts.cpu_power import FREQUENCY, IDLE, Policy
from hostcheck.facts.gpu import DRIVER, DRIVER_CUDA, GPUS, Gpu
from hostcheck.facts.hugepages import THP
from hostcheck.facts.kernel import CMDLINE, IOMMU, SYSCTL
from hostcheck.facts.memory import MEMINFO, SWAPS
from hostcheck.facts.nvlink import LINKS
from hostcheck.facts.nvlink import TOPOLOGY as GPU_TOPOLOGY
from hostcheck.facts.pci import PCI
from hostcheck.facts.platform import PLATFORM, SYSTEM
from hostcheck.facts.software import CONTAINER_TOOLKIT, LIBRARIES, TOOLKITS
from hostcheck.fleet.peers import counted, cpu_model
from hostcheck.render.fold import fold_line

# Parameters that name a disk, an address or the host itself.
_OWN = re.compile(
    r"BOOT_IMAGE|BOOTIF|root|resume|resume_offset|initrd|ip|ifname|hostname|nfsroot|netroot|ds|cryptdevice|osversion"
    r"|systemd\.(hostname|machine_id)|rd\.(luks|lvm|md|dm|iscsi|route|znet)\..*|inst\..*|cloud.*|ostree"
)
_UNIQUE = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-|([0-9a-f]{2}[:-]){5}[0-9a-f]{2}", re.IGNORECASE)
# Counters, and what the kernel computes from the size of memory.
_COUNTED = frozenset((
    "kernel.tainted", "kernel.hung_task_detect_count", "kernel.threads-max", "fs.file-nr", "fs.file-max",
    "vm.min_free_kbytes", "vm.admin_reserve_kbytes", "user.max_user_namespaces",
))  # fmt: skip
_CLASSES = {0x01: "storage", 0x02: "network", 0x03: "GPU", 0x06: "bridge", 0x0C: "bus", 0x12: "accelerator"}


def sysctls(facts: Facts) -> dict[str, Maybe[str]]:
    """Return the kernel settings that are chosen, not counted."""
    return {name: value for name, value in facts.get(SYSCTL).items() if name not in _COUNTED}


def _words(*parts: Maybe[str]) -> str:
    """Join what is there.

    Raises:
        Unavailable, NotApplicable: nothing is; the first reason.
    """
    known = [part for part in parts if isinstance(part, str) and part]
    return " ".join(known) if known else need(parts[0])


def _same(values: Iterable[object]) -> str:
    """Return the distinct values in order, as one text.

    Raises:
        NotApplicable: there are none.
    """
    texts = sorted({str(value) for value in values})
    if not texts:
        raise NotApplicable("there is none")
    return ", ".join(texts)


def _yes(value: Maybe[bool]) -> str:
    return "on" if need(value) else "off"


def _cpu(facts: Facts) -> str:
    facts.get(TOPOLOGY)
    return cpu_model(facts)


def _cores(facts: Facts) -> str:
    topology = facts.get(TOPOLOGY)
    return f"{need(topology.cores)} cores, {len(topology.online)} threads"


def _numa(facts: Facts) -> str:
    nodes = facts.get(NUMA)
    sizes = counted(f"{len(node.cpus)} CPUs" for node in nodes)
    distances = sorted({value for node in nodes for value in need(node.distances).values()})
    return f"{sizes}; distances {', '.join(map(str, distances))}"


def _policies(facts: Facts, read: Callable[[Policy], Maybe[str]]) -> str:
    return _same(need(read(policy)) for policy in facts.get(FREQUENCY).policies)


def _command_line(facts: Facts) -> tuple[str, ...]:
    given = facts.get(CMDLINE).parameters
    return tuple(
        name if value is None else f"{name}={value}"
        for name, value in given
        if not _OWN.fullmatch(name) and not _UNIQUE.search(value or "")
    )


def _swap(facts: Facts) -> str:
    areas = facts.get(SWAPS)
    return counted(f"{area.kind} of {area.size_kib / 2**20:.0f} GiB" for area in areas) or "none"


def _thp(facts: Facts) -> str:
    thp = facts.get(THP)
    return f"{thp.enabled}, defrag {thp.defrag}" if isinstance(thp.defrag, str) else thp.enabled


def _gpus(facts: Facts) -> Sequence[Gpu]:
    found = facts.get(GPUS)
    if not found:
        raise NotApplicable("there is no GPU")
    return found


def _of_gpus(read: Callable[[Gpu], Maybe[object]]) -> Callable[[Facts], str]:
    """Return a reader of what all GPUs of a host have; where they differ it says which has what.

    It is unavailable where one of them does not tell, and not applicable where none has such a thing.
    """

    def reader(facts: Facts) -> str:
        held: dict[str, list[str]] = {}
        for gpu in _gpus(facts):
            value = read(gpu)
            if isinstance(value, Unavailable):
                raise value
            held.setdefault(_word(value), []).append(gpu.subject)
        if len(held) == 1:
            return next(iter(held))
        return ", ".join(f"{text} ({fold_line(subjects)})" for text, subjects in sorted(held.items()))

    return reader


def _word(value: object) -> str:
    if isinstance(value, NotApplicable):
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _names(facts: Facts) -> str:
    return counted(need(gpu.name) for gpu in facts.get(GPUS)) or "none"


def _driver(facts: Facts) -> str:
    driver = facts.get(DRIVER)
    return _words(driver.version, driver.flavour)


def _driver_parameters(facts: Facts) -> tuple[str, ...]:
    return tuple(f"{name}={value}" for name, value in need(facts.get(DRIVER).params).items())


def _nvlinks(facts: Facts) -> str:
    active = Counter(sum(link.active for link in need(gpu.links)) for gpu in facts.get(LINKS))
    return _same(f"{gpus} GPUs with {links} active" for links, gpus in active.items())


def _paths(facts: Facts) -> str:
    """Return how often each kind of way joins two GPUs, and a GPU and a NIC."""
    between: Counter[str] = Counter()
    for row in facts.get(GPU_TOPOLOGY).gpus:
        for other, path in row.paths.items():
            between[f"GPU to {'GPU' if other.startswith('GPU') else 'NIC'} {path}"] += 1
    return counted(between.elements()) or "none"


def _functions(facts: Facts) -> tuple[str, ...]:
    found = Counter(
        f"{_CLASSES.get(part.class_code >> 16, 'device')} {part.vendor_id}:{part.device_id}"
        for part in facts.get(PCI).functions
        if not part.virtual
    )
    return tuple(f"{count} x {name}" for name, count in found.items())


READERS: Mapping[str, Callable[[Facts], str | tuple[str, ...] | float]] = {
    "GPUs": _names,
    "CPU": _cpu,
    "System": lambda facts: _words(facts.get(SYSTEM).vendor, facts.get(SYSTEM).product),
    "Platform": lambda facts: facts.get(PLATFORM).label,
    "BIOS": lambda facts: _words(facts.get(SYSTEM).bios_version, facts.get(SYSTEM).bios_date),
    "CPU microcode": lambda facts: _same(need(facts.get(CPUINFO).microcode)),
    "CPU cores": _cores,
    "NUMA nodes": _numa,
    "Memory": lambda facts: float(facts.get(MEMINFO).total_kib),
    "PCI devices": _functions,
    "OS": lambda facts: need(facts.get(SYSTEM).os_name),
    "Kernel": lambda facts: _words(facts.get(SYSTEM).kernel, facts.get(SYSTEM).architecture),
    "Page size": lambda facts: f"{need(facts.get(SYSTEM).page_size) // 1024} KiB",
    "Kernel command line": _command_line,
    "IOMMU": lambda facts: need(facts.get(IOMMU).state),
    "Clock source": lambda facts: facts.get(CLOCKSOURCE).current,
    "CPU frequency driver": lambda facts: _policies(facts, lambda policy: policy.driver),
    "CPU governor": lambda facts: _policies(facts, lambda policy: policy.governor),
    "CPU energy preference": lambda facts: _policies(facts, lambda policy: policy.preference),
    "CPU boost": lambda facts: _yes(facts.get(FREQUENCY).boost),
    "CPU idle driver": lambda facts: facts.get(IDLE).driver,
    "Transparent huge pages": _thp,
    "Swap": _swap,
    "NVIDIA driver": _driver,
    "NVIDIA driver parameters": _driver_parameters,
    "CUDA of the driver": lambda facts: facts.get(DRIVER_CUDA),
    "CUDA toolkits": lambda facts: _same(need(kit.version) for kit in facts.get(TOOLKITS)),
    "NCCL": lambda facts: _same(facts.get(LIBRARIES).versions("nccl")),
    "Container toolkit": lambda facts: facts.get(CONTAINER_TOOLKIT),
    "GPU VBIOS": _of_gpus(lambda gpu: gpu.vbios),
    "GPU GSP firmware": _of_gpus(lambda gpu: gpu.gsp_firmware),
    "GPU InfoROM": _of_gpus(lambda gpu: gpu.inforom_image),
    "GPU part number": _of_gpus(lambda gpu: gpu.part_number),
    "GPU persistence mode": _of_gpus(lambda gpu: gpu.persistence_mode),
    "GPU compute mode": _of_gpus(lambda gpu: gpu.compute_mode),
    "GPU addressing mode": _of_gpus(lambda gpu: gpu.addressing_mode),
    "GPU power limit, W": _of_gpus(lambda gpu: gpu.power.limit_w),
    "GPU ECC": _of_gpus(lambda gpu: gpu.ecc.current),
    "MIG": _of_gpus(lambda gpu: gpu.mig.current),
    "NVLinks": _nvlinks,
    "GPU paths": _paths,
}
"""Label to reader; the order is that of the report."""
