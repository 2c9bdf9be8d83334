"""Processors: how they are counted, listed and laid out over sockets and memory nodes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hostcheck.errors import Maybe, NotApplicable, Unavailable, need
from hostcheck.facts.base import Fact
from hostcheck.facts.platform import CLOCKSOURCE_PROBE, CPUINFO_PROBE
from hostcheck.snapshot.probes import FileProbe
from hostcheck.snapshot.reading import Reading

MAX_CPUS = 65536
"""No kernel is built for more; a list that names a higher number is no list of CPUs."""


_SPAN = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5})(?::([0-9]{1,5})(?:/([0-9]{1,5}))?)?)?")


def parse_cpu_list(text: str) -> frozenset[int]:
    """Parse a kernel list of CPUs (or of memory nodes).

    Ranges may have a stride as lscpu writes it ("0-62:2"), or be groups as on the kernel's command line ("0-63:8/16").
    An empty text and "(null)", which kernels print for a list that was never set, are the empty set.

    Raises:
        Unavailable: this is no such list, or it names a CPU that no kernel can have.

    Sample:
        0-3,8,16-62:2
    """
    text = text.strip()
    cpus: set[int] = set()
    if text in ("", "(null)"):
        return frozenset()
    for part in text.split(","):
        found = _SPAN.fullmatch(part.strip())
        low, high, step, group = (int(number) if number else None for number in found.groups()) if found else [None] * 4
        high = low if high is None else high
        if low is None or high is None or not low <= high < MAX_CPUS or step == 0 or group == 0:
            raise Unavailable(f"{text[:80]!r} is no list of CPUs")
        used, size = (step, group) if group else (1, step or 1)
        cpus.update(cpu for cpu in range(low, high + 1) if (cpu - low) % size < (used or 1))
    return frozenset(cpus)


def cpu_list(cpus: Iterable[int]) -> str:
    """Write CPUs as a kernel list, such as "0-3,8"; "none" for none."""
    spans: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if spans and cpu == spans[-1][1] + 1:
            spans[-1][1] = cpu
        else:
            spans.append([cpu, cpu])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in spans) or "none"


def parse_isolcpus(value: str, last: int) -> frozenset[int]:
    """Return the CPUs that isolcpus= (or nohz_full=) takes away; "N" and "all" are counted up to the last CPU.

    With flags of which none is "domain", isolcpus takes nothing from the scheduler.

    Raises:
        Unavailable: it is no such value.

    Sample:
        managed_irq,domain,0-4,11-N
    """
    parts = value.strip().split(",")
    flags = [part for part in parts if part in ("domain", "managed_irq", "nohz")]
    text = ",".join(parts[len(flags) :])
    if flags and "domain" not in flags:
        return frozenset()
    return parse_cpu_list(f"0-{last}" if text == "all" else text.replace("N", str(last)))


_CPU = "/sys/devices/system/cpu"
_NODE = "/sys/devices/system/node"

TOPOLOGY_PROBE = FileProbe(
    "cpu.topology",
    (
        *(f"{_CPU}/{name}" for name in ("online", "present", "possible", "isolated", "nohz_full")),
        f"{_CPU}/smt/active",
        f"{_CPU}/smt/control",
        f"{_CPU}/cpu*/topology/physical_package_id",
        f"{_CPU}/cpu*/topology/thread_siblings_list",
    ),
)
NUMA_PROBE = FileProbe(
    "cpu.numa",
    (f"{_NODE}/online", f"{_NODE}/node*/cpulist", f"{_NODE}/node*/distance", f"{_NODE}/node*/meminfo"),
)

# Implementer and part, as the Arm manuals and util-linux name them.
_ARM_PARTS = {
    "0x41": {
        "0xd0c": "Neoverse-N1", "0xd40": "Neoverse-V1", "0xd49": "Neoverse-N2", "0xd4f": "Neoverse-V2",
        "0xd83": "Neoverse-V3AE", "0xd84": "Neoverse-V3", "0xd85": "Cortex-X925", "0xd87": "Cortex-A725",
        "0xd8e": "Neoverse-N3",
    },
    "0x4e": {"0x004": "NVIDIA Carmel", "0x010": "NVIDIA Olympus"},
    "0xc0": {"0xac3": "Ampere-1", "0xac4": "Ampere-1a"},
}  # fmt: skip


_UNSEEN = Unavailable("not in this output")


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuInfo:
    """What /proc/cpuinfo says of all online processors together.

    Attributes:
        count: online CPUs (hardware threads).
        models: each model that occurs and how many CPUs are of it, in order of appearance.
        sockets, cores: distinct packages and cores, where the architecture lists them there.
        cores_per_socket: as the first CPU says, those that are offline included.
        microcode: each revision that occurs, and how many CPUs run it; x86 only.
    """

    count: int
    models: Mapping[str, int]
    sockets: Maybe[int]
    cores: Maybe[int]
    cores_per_socket: Maybe[int]
    microcode: Maybe[Mapping[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTopology:
    """Which CPUs there are, and how they share cores and sockets.

    Attributes:
        online: CPUs (hardware threads) that run.
        present: those that are plugged in; unavailable where the source does not say.
        models: each model that occurs and how many CPUs are of it.
        sockets, cores: how many there are of each with a CPU online.
        smt: whether cores run more than one thread.
        smt_control: the kernel's switch, such as "on", "off", "forceoff", "notsupported".
        isolated: CPUs that the scheduler leaves alone (isolcpus).
        nohz_full: CPUs without a timer tick while one task runs.
        siblings: CPU to those that share its core, itself among them; empty where sysfs does not show it.
    """

    online: frozenset[int]
    present: Maybe[frozenset[int]]
    models: Mapping[str, int]
    sockets: Maybe[int]
    cores: Maybe[int]
    smt: Maybe[bool]
    smt_control: Maybe[str] = _UNSEEN
    isolated: Maybe[frozenset[int]] = _UNSEEN
    nohz_full: Maybe[frozenset[int]] = _UNSEEN
    siblings: Mapping[int, frozenset[int]] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """One line such as "2 x Intel(R) Xeon(R) Platinum 8480+, 112 cores, 224 threads"."""
        times = f"{self.sockets} x " if isinstance(self.sockets, int) and len(self.models) == 1 else ""
        cores = f", {self.cores} cores" if isinstance(self.cores, int) else ""
        models = " + ".join(" ".join(model.split()) for model in self.models) or "CPU"
        return f"{times}{models}{cores}, {len(self.online)} threads"


@dataclass(frozen=True, slots=True, kw_only=True)
class NumaNode:
    """One memory node.

    Attributes:
        id: its number; numbers can have gaps.
        cpus: its online CPUs; a node without any is memory of a GPU or of CXL, not of the host's processors.
        memory_kib, free_kib: its memory.
        distances: node id to relative distance; 10 is itself.
    """

    id: int
    cpus: frozenset[int]
    memory_kib: Maybe[int]
    free_kib: Maybe[int]
    distances: Maybe[Mapping[int, int]]

    @property
    def subject(self) -> str:
        """Its name, such as "node0"."""
        return f"node{self.id}"

    @property
    def is_host(self) -> bool:
        """Whether it has processors of its own."""
        return bool(self.cpus)


def parse_cpuinfo(text: str) -> CpuInfo:
    """Parse /proc/cpuinfo of x86, Arm or POWER.

    Raises:
        Unavailable: it lists no processor.

    Sample:
        processor	: 0
        BogoMIPS	: 2000.00
        Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma
        CPU implementer	: 0x41
        CPU architecture: 8
        CPU variant	: 0x0
        CPU part	: 0xd87
        CPU revision	: 1
    """
    fields: dict[str, list[str]] = {}
    for key, value in re.findall(
        r"^(processor|model name|cpu|physical id|core id|cpu cores|microcode|CPU implementer|CPU part)\s*:[ \t]*(.*)$",
        text,
        re.MULTILINE,
    ):
        fields.setdefault(key, []).append(value.strip())
    count = len(fields.get("processor", ()))
    if count == 0:
        raise Unavailable("/proc/cpuinfo lists no processor")
    arm = [
        _ARM_PARTS.get(maker, {}).get(part, f"Arm implementer {maker} part {part}")
        for maker, part in zip(fields.get("CPU implementer", ()), fields.get("CPU part", ()), strict=False)
    ]
    packages, ids = fields.get("physical id", []), fields.get("core id", [])
    listed = len(packages) == len(ids) == count
    unlisted = Unavailable("/proc/cpuinfo of this architecture lists no sockets and cores")
    per_socket = fields.get("cpu cores", [""])[0]
    return CpuInfo(
        count=count,
        models=Counter(fields.get("model name") or arm or fields.get("cpu") or []),
        sockets=len(set(packages)) if listed else unlisted,
        cores=len(set(zip(packages, ids, strict=True))) if listed else unlisted,
        cores_per_socket=_number(per_socket) if per_socket else unlisted,
        microcode=Counter(fields["microcode"]) if "microcode" in fields else NotApplicable("no microcode is listed"),
    )


def parse_node_meminfo(text: str) -> dict[str, int]:
    """Parse a node's meminfo into KiB by name; counts without a unit are left out.

    Sample:
        Node 255 MemTotal:       15728640 kB
        Node 255 MemFree:        15728576 kB
        Node 255 MemUsed:              64 kB
        Node 255 HugePages_Total:     0
    """
    found = re.findall(r"^Node \d+ (\S+):\s+([0-9]{1,15}) kB$", text, re.MULTILINE)
    return {name: int(value) for name, value in found}


def parse_distances(text: str, nodes: Sequence[int]) -> dict[int, int]:
    """Parse a node's distances, which are in the order of the online nodes.

    Raises:
        Unavailable: there are not as many as nodes.

    Sample:
        10 40 80 80 80 80 80 80
    """
    words = text.split()
    if len(words) != len(nodes) or not all(re.fullmatch("[0-9]{1,4}", word) for word in words):
        raise Unavailable(f"{text.strip()[:80]!r} are no distances of {len(nodes)} nodes")
    return {node: int(word) for node, word in zip(nodes, words, strict=True)}


def parse_topology(cpu: Reading, cpuinfo: Reading) -> CpuTopology:
    """Put together the CPUs of the host; what sysfs does not show is taken from /proc/cpuinfo.

    Raises:
        Unavailable: the online CPUs or /proc/cpuinfo were not read.
    """
    online = cpu.read(f"{_CPU}/online")
    if online is None:
        raise cpu.unavailable(f"there is no {_CPU}/online")
    info = parse_cpuinfo(cpuinfo.read("/proc/cpuinfo") or "")
    packages = cpu.glob(f"{_CPU}/cpu*/topology/physical_package_id")
    siblings = cpu.glob(f"{_CPU}/cpu*/topology/thread_siblings_list")
    sockets = {text for text in packages.values() if text != "-1"}
    present = _cpus(cpu, "present")
    return CpuTopology(
        online=parse_cpu_list(online),
        present=Unavailable(f"there is no {_CPU}/present") if isinstance(present, NotApplicable) else present,
        models=info.models,
        sockets=len(sockets) if sockets else info.sockets,
        cores=len(set(siblings.values())) if siblings else info.cores,
        smt=_smt(cpu, siblings),
        smt_control=_word(cpu, f"{_CPU}/smt/control"),
        isolated=_cpus(cpu, "isolated"),
        nohz_full=_cpus(cpu, "nohz_full"),
        siblings={cpu: core for text in set(siblings.values()) for core in [parse_cpu_list(text)] for cpu in core},
    )


def parse_numa(reading: Reading) -> tuple[NumaNode, ...]:
    """Put together the memory nodes, in the order of their numbers.

    Raises:
        Unavailable: they were not read.
        NotApplicable: the kernel shows none.
    """
    texts = {name: reading.glob(f"{_NODE}/node*/{name}") for name in ("cpulist", "distance", "meminfo")}
    by_id = {_node_id(path): parse_cpu_list(text) for path, text in texts["cpulist"].items()}
    if not by_id:
        raise NotApplicable(f"the kernel shows no memory nodes in {_NODE}")
    online = reading.read(f"{_NODE}/online")
    order = sorted(by_id if online is None else parse_cpu_list(online))
    distance = {_node_id(path): text for path, text in texts["distance"].items()}
    meminfo = {_node_id(path): text for path, text in texts["meminfo"].items()}
    nodes = []
    for node, cpus in sorted(by_id.items()):
        sizes = parse_node_meminfo(meminfo.get(node, ""))
        absent = Unavailable(f"{_NODE}/node{node}/meminfo has no such line", reading.probe)
        try:
            distances: Maybe[Mapping[int, int]] = parse_distances(distance.get(node, ""), order)
        except Unavailable as missing:
            distances = missing
        total, free = sizes.get("MemTotal", absent), sizes.get("MemFree", absent)
        nodes.append(NumaNode(id=node, cpus=cpus, memory_kib=total, free_kib=free, distances=distances))
    return tuple(nodes)


def _number(text: str) -> Maybe[int]:
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else Unavailable(f"{text[:40]!r} is no number")


def _node_id(path: str) -> int:
    return int(re.sub(r"\D", "", path.removeprefix(f"{_NODE}/node").partition("/")[0])[:9] or "-1")


def _word(reading: Reading, path: str) -> Maybe[str]:
    try:
        text = reading.read(path)
    except Unavailable as missing:
        return missing
    return NotApplicable(f"there is no {path}") if text is None else text.strip()


def _cpus(reading: Reading, name: str) -> Maybe[frozenset[int]]:
    text = _word(reading, f"{_CPU}/{name}")
    try:
        return parse_cpu_list(text) if isinstance(text, str) else text
    except Unavailable as missing:
        return missing


def _smt(cpu: Reading, siblings: Mapping[str, str]) -> Maybe[bool]:
    active = _word(cpu, f"{_CPU}/smt/active")
    if active in ("0", "1"):
        return active == "1"
    if siblings:
        return any(text.strip().count(",") or "-" in text for text in siblings.values())
    return active if isinstance(active, Unavailable) else Unavailable("neither sysfs file tells whether SMT is on")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocksource:
    """The counter that the kernel keeps time by, and those that it could use."""

    current: str
    available: tuple[str, ...]


def _clocksource(reading: Reading) -> Clocksource:
    current, available = (_word(reading, path) for path in CLOCKSOURCE_PROBE.paths)
    return Clocksource(current=need(current), available=tuple(need(available).split()))


CLOCKSOURCE: Fact[Clocksource] = Fact("cpu.clocksource", _clocksource, CLOCKSOURCE_PROBE)
TOPOLOGY: Fact[CpuTopology] = Fact("cpu.topology", parse_topology, TOPOLOGY_PROBE, CPUINFO_PROBE)
NUMA: Fact[tuple[NumaNode, ...]] = Fact("cpu.numa", parse_numa, NUMA_PROBE)


def _cpuinfo(reading: Reading) -> CpuInfo:
    return parse_cpuinfo(reading.read("/proc/cpuinfo") or "")


CPUINFO: Fact[CpuInfo] = Fact("cpu.info", _cpuinfo, CPUINFO_PROBE)
