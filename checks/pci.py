"""PCI Express: the links of GPUs and of what feeds them, their places, drivers and errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from hostcheck.errors import NotApplicable, Unavailable, need
from hostcheck.expect import Expect, Key, failed, passed
from hostcheck.facts.aer import AER, AerCounters
from hostcheck.facts.base import each
from hostcheck.facts.cpu import NUMA, TOPOLOGY, CpuTopology, NumaNode, cpu_list, parse_cpu_list
from hostcheck.facts.pci import PCI, PCI_GPUS, PciFunction, PciTree
from hostcheck.facts.pci_acs import SWITCH_PORTS, SwitchPort
from hostcheck.facts.pci_links import GPU_LINKS, HOPS, GpuLink, PciHop
from hostcheck.model import Actor, Finding, Severity
from hostcheck.registry import check

PEER_ROUTE = Key("pci.acs", str, words=("direct", "redirected"))

_RESEAT = (
    "Power the host off, reseat the card, riser and cables between {upper} and {lower}, and compare again; if the link "
    "stays so, swap the card with a healthy slot's to tell card from slot. lspci -s {lower} -vv (as root) shows LnkSta."
)
_LINK_ROWS = ["x-os-pcie-link"]


def _in_guest(link: GpuLink, finding: Finding) -> Finding:
    """Lower the severity in a guest: the hypervisor decides, and hides what the slot can."""
    return replace(finding, severity=Severity.LOW) if link.hypervisor else finding


@check(each(GPU_LINKS), id="pci.gpu-link-width", severity=Severity.HIGH, rows=_LINK_ROWS)
def gpu_link_width(link: GpuLink, expect: Expect) -> Finding:
    """All lanes that both the GPU and its slot have are in use on the GPU's PCI Express link.

    Half the lanes is half the bandwidth between host and GPU: 32 GT/s gives about 63 GB/s each way over 16 lanes and
    31.5 GB/s over 8. Every copy, and on boards without NVLink every exchange between GPUs, takes twice as long.
    The width does not drop when the GPU idles. Lost lanes come from a card, riser or cable that has lost contact.
    """
    width, card = need(link.width), need(link.card_width)
    if width >= card:
        return passed(f"the link uses {width} lanes, all that the GPU has", width)
    if isinstance(link.slot_width, int) and width >= link.slot_width:
        return passed(f"the link uses {width} lanes, all that its slot has; the GPU could use {card}", width)
    if isinstance(link.slot_width, Unavailable) and not link.hypervisor:
        raise Unavailable(f"the link uses {width} of the GPU's {card} lanes, and its slot is not shown to tell why")
    wanted = min(card, link.slot_width) if isinstance(link.slot_width, int) else card
    why = "; the hypervisor hides whether the slot has more" if link.hypervisor else ""
    finding = failed(
        f"the link uses {width} of {wanted} lanes{why}",
        width,
        wanted=f"{wanted} lanes, as many as {'the GPU has' if why else 'the GPU and its slot have'}",
        fix=_RESEAT.format(upper="the board", lower=link.address) if not link.hypervisor else _ASK,
        actor=Actor.OPERATOR,
    )
    return _in_guest(link, finding)


_ASK = "Compare with other instances of this type: if they have more, report this one to the provider."


@check(each(GPU_LINKS), id="pci.gpu-link-speed", severity=Severity.HIGH, rows=_LINK_ROWS)
def gpu_link_speed(link: GpuLink, expect: Expect) -> Finding:
    """Each GPU's PCI Express link runs at the highest speed that both the GPU and its slot can.

    One generation less is half the bandwidth. GPUs slow their link down when they idle, so a slow link counts only
    while the GPU is in its highest performance state.
    """
    speed, ends = need(link.speed_gts), (link.card_speed_gts, link.slot_speed_gts)
    known = [end for end in ends if isinstance(end, float)]
    wanted = min(known) if known else need(link.card_speed_gts)
    if speed >= wanted:
        better = isinstance(link.card_speed_gts, float) and link.card_speed_gts > wanted
        limit = f"; the slot allows no more, the GPU could {link.card_speed_gts:g}" if better else ""
        return passed(f"the link runs at {speed:g} GT/s{limit}", speed)
    state = need(link.performance_state)
    if state != "P0":
        raise NotApplicable(f"the GPU is in {state} with its link at {speed:g} of {wanted:g} GT/s: judged in P0")
    finding = failed(
        f"the link runs at {speed:g} of {wanted:g} GT/s although the GPU is in {state}",
        speed,
        wanted=f"{wanted:g} GT/s, the highest that the GPU and its slot can",
        fix=_ASK
        if link.hypervisor
        else _RESEAT.format(upper="the board", lower=link.address)
        + " A slot's speed can also be limited in the firmware setup.",
        actor=Actor.OPERATOR,
    )
    return _in_guest(link, finding)


@check(each(HOPS), id="pci.path-width", severity=Severity.MEDIUM, rows=_LINK_ROWS)
def path_width(hop: PciHop, expect: Expect) -> Finding:
    """Each PCI Express link on the way to a GPU, NVSwitch, NIC or NVMe drive uses all lanes that both its ends have.

    A switch's link upwards is shared by all devices under it, so lanes lost there slow a GPU, its NIC and its drives
    at once, while the link of each of them looks healthy.
    """
    width, wanted = hop.width, hop.max_width
    line = f"{hop.upper.address} to {hop.lower.address} uses {width} of {wanted} lanes"
    if width >= wanted:
        return passed(line, width)
    fix = _RESEAT.format(upper=hop.upper.address, lower=hop.lower.address)
    return failed(line, width, wanted=f"{wanted} lanes, as many as both ends have", fix=fix)


@check(each(HOPS), id="pci.path-speed", severity=Severity.MEDIUM, rows=_LINK_ROWS)
def path_speed(hop: PciHop, expect: Expect) -> Finding:
    """Each PCI Express link on the way to a GPU, NVSwitch, NIC or NVMe drive runs at the speed that both its ends can.

    Links train down when the signal is poor. A 400 Gb/s NIC needs 16 lanes of 32 GT/s: at 16 GT/s it ends near 250.
    """
    speed, wanted = hop.speed_gts, hop.max_speed_gts
    line = f"{hop.upper.address} to {hop.lower.address} runs at {speed:g} of {wanted:g} GT/s"
    if speed >= wanted:
        return passed(line, speed)
    fix = _RESEAT.format(upper=hop.upper.address, lower=hop.lower.address)
    return failed(line, speed, wanted=f"{wanted:g} GT/s, the highest that both ends can", fix=fix)


@check(each(PCI_GPUS), NUMA, id="pci.gpu-numa-node", severity=Severity.MEDIUM, rows=["os-numa-topology"])
def gpu_numa_node(gpu: PciFunction, nodes: Sequence[NumaNode], expect: Expect) -> Finding:
    """Each GPU is on a NUMA node that the host knows.

    Without it nothing can place a job's threads, memory and NIC near the GPU: nvidia-smi topo, Slurm, Kubernetes'
    topology manager and NCCL all go by this one number. A recorded two-socket host read memory at 137 GB/s from the
    near socket and at 66 GB/s from the far one.
    """
    with_cpus = [node for node in nodes if node.is_host]
    if len(with_cpus) < 2:
        raise NotApplicable("the host has one NUMA node with processors")
    if isinstance(gpu.numa_node, int):
        return passed(f"the GPU is on node {gpu.numa_node}", gpu.numa_node)
    if "(-1)" not in str(gpu.numa_node):
        need(gpu.numa_node)
    return failed(
        f"the GPU is on no known NUMA node (-1), and the host has {len(with_cpus)}",
        -1,
        wanted="the number of a node",
        fix="Bare metal: update the firmware, whose tables lack the place of the PCI host bridge (_PXM), and enable "
        "NUMA in its setup. Guest: the hypervisor must place it on a virtual node (QEMU: pxb-pcie with numa_node). "
        "Until then find the near node by a copy benchmark bound to each node, and bind jobs by hand with numactl.",
    )


def _nearest_nics(gpu: PciFunction, tree: PciTree) -> str:
    """Say which NICs are nearest to a GPU: behind the same switch, else on the same node."""
    shared = {nic.address: gpu.shares(nic) for nic in tree.nics}
    closest = [address for address, depth in shared.items() if depth >= 2 and depth == max(shared.values())]
    if closest:
        return f"; behind the same PCIe switch: NIC {', '.join(closest)}"
    same = [nic.address for nic in tree.nics if isinstance(nic.numa_node, int) and nic.numa_node == gpu.numa_node]
    return f"; on the same node: NIC {', '.join(same)}" if same else ""


@check(each(PCI_GPUS), PCI, TOPOLOGY, NUMA, id="pci.gpu-locality", severity=Severity.MEDIUM, rows=["os-numa-topology"])
def gpu_locality(
    gpu: PciFunction, tree: PciTree, cpus: CpuTopology, nodes: Sequence[NumaNode], expect: Expect
) -> Finding:
    """Processors near the GPU are online and open to ordinary jobs.

    A job that runs far from its GPU reaches it over the link between the sockets, and so does its NIC's traffic. Where
    every near CPU is offline or isolated, no job without a mask of its own can ever run near.
    """
    several = sum(node.is_host for node in nodes) > 1
    where = f"node {need(gpu.numa_node)}" if several else "the only node"
    near = parse_cpu_list(need(gpu.local_cpulist)) & cpus.online
    isolated = cpus.isolated if isinstance(cpus.isolated, frozenset) else frozenset()
    if not near:
        return failed(f"no CPU is online on {where}, where the GPU is", fix=_ONLINE, wanted="at least one CPU online")
    if near <= isolated:
        line = f"all near CPUs ({cpu_list(near)}) are isolated from the scheduler"
        return replace(failed(line, wanted="near CPUs that are not isolated", fix=_ISOLATED), severity=Severity.LOW)
    return passed(f"the GPU is on {where} with CPUs {cpu_list(near)}{_nearest_nics(gpu, tree)}", cpu_list(near))


_ONLINE = "echo 1 > /sys/devices/system/cpu/cpuN/online for the CPUs of that node; look for maxcpus= or nr_cpus= on "
_ONLINE += "the kernel command line, which keeps them off after the next boot too."
_ISOLATED = "Leave CPUs of each GPU's node out of isolcpus= on the kernel command line (from the next boot on), or pin "
_ISOLATED += "each job with taskset or numactl."


@check(each(AER), id="pci.aer", severity=Severity.HIGH, references=["sysfs-bus-pci-devices-aer in the kernel's ABI"])
def aer(counters: AerCounters, expect: Expect) -> Iterator[Finding]:
    """No PCI Express error was counted while the host was looked at.

    A fatal error means a link that was reset, a non-fatal one a transaction that was lost. Corrected errors cost only
    a retry each, but a steady stream of them is a bad contact in the making. Counts since boot are said, not judged:
    one burst at boot is normal for some boards.
    """
    totals = {
        kind: sum(counts.values())
        for kind, counts in (
            ("fatal", need(counters.fatal)),
            ("non-fatal", need(counters.nonfatal)),
            ("corrected", need(counters.correctable)),
        )
    }
    grown = {
        "fatal": need(counters.fatal_growth),
        "non-fatal": need(counters.nonfatal_growth),
        "corrected": need(counters.correctable_growth),
    }
    since = ", ".join(f"{count} {kind}" for kind, count in totals.items() if count) or "none"
    for kind, growth in grown.items():
        if growth:
            line = f"{kind} errors: {growth} came while the host was looked at; since boot: {since}"
            finding = failed(line, growth, wanted="0", fix=_AER_FIX.format(counters.address), source="aer_dev_*")
            yield replace(finding, severity=Severity.LOW) if kind == "corrected" else finding
    if not any(grown.values()):
        yield passed(f"no new errors; since boot: {since}", 0, source="aer_dev_*")


_AER_FIX = (
    "dmesg | grep -A4 'AER.*{0}' names the errors. Power off and reseat the card and its riser or cable; if the errors "
    "come back, swap the card with a healthy slot's to tell card from slot."
)


NCCL_ACS = "https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html"
_P2PDMA = "https://docs.kernel.org/driver-api/pci/p2pdma.html"
_GDS = "https://docs.nvidia.com/gpudirect-storage/best-practices-guide/software-settings.html"


@check(
    each(SWITCH_PORTS),
    id="pci.acs",
    severity=Severity.MEDIUM,
    rows=["x-os-iommu-acs"],
    keys=[PEER_ROUTE],
    references=[NCCL_ACS, _GDS, _P2PDMA],
)
def acs(port: SwitchPort, expect: Expect) -> Finding:
    """On bare metal, PCIe switches pass on what GPUs and their peers exchange, in place of sending it to the processor.

    With access control (ACS) a switch sends a request to a neighbour up to the root complex first. GPUDirect RDMA and
    Storage, and GPUs without NVLink, then share the switch's one link upwards with everything else; NCCL's guide warns
    of low bandwidth and of hangs. Only the ports at which such ways part are judged: root ports are not. The kernel
    switches ACS on by itself where an IOMMU is on, also in pass-through. A host that passes devices to guests needs it
    for isolation: expect "redirected" there. Only root can read it. Arm servers are not judged.
    """
    routing, bits = port.routing, port.bits
    told = "has no access control" if port.control is None else f"ACSCtl: {bits or 'nothing on'}"
    how = "straight" if routing == "direct" else "by way of the root complex"
    return expect(PEER_ROUTE).judge(
        routing,
        say=f"what {_some(port.below)} and {_some(port.peers)} exchange goes {how} ({told})",
        fix=(_ISOLATE if routing == "direct" else _LET_THROUGH).format(port.address),
        source=f"/sys/bus/pci/devices/{port.address}/config",
    )


_LET_THROUGH = (
    "As root, until the next boot: setpci -s {0} ECAP_ACS+0x6.w=0000. For good: switch ACS off in the firmware setup "
    "or, where an IOMMU is on, name {0} in pci=disable_acs_redir= on the kernel's command line."
)
_ISOLATE = "Switch the IOMMU on and take {0} out of pci=disable_acs_redir: the kernel then switches ACS on at boot."


def _some(addresses: Sequence[str]) -> str:
    return addresses[0] if len(addresses) == 1 else f"{addresses[0]} and {len(addresses) - 1} more"


@check(each(PCI_GPUS), id="pci.driver-bound", severity=Severity.HIGH, rows=["x-gpu-count"])
def driver_bound(gpu: PciFunction, expect: Expect) -> Finding:
    """NVIDIA's driver has taken the GPU.

    A GPU without it is invisible to CUDA and to nvidia-smi, which then counts one GPU less without any error.
    """
    if gpu.is_passed_through:
        raise NotApplicable(f"the GPU is held by {gpu.driver}, for a guest to use")
    if gpu.driver == "nvidia":
        return passed("the nvidia driver has taken the GPU", "nvidia")
    if gpu.driver is None:
        return failed("no driver has taken the GPU", "none", wanted="nvidia", fix=_BIND)
    return failed(f"the GPU is held by {gpu.driver}", gpu.driver, wanted="nvidia", fix=_NOUVEAU, actor=Actor.REBOOT)


_BIND = (
    "modprobe nvidia; then dmesg | grep -i nvrm tells why the driver leaves the GPU alone: too old for it, open kernel "
    "modules needed (Blackwell and newer), excluded by NVreg_ExcludedGpus, or fallen off the bus."
)
_NOUVEAU = (
    "Install the NVIDIA driver, write 'blacklist nouveau' and 'options nouveau modeset=0' to "
    "/etc/modprobe.d/blacklist-nouveau.conf, rebuild the initramfs (Debian, Ubuntu: update-initramfs -u; RHEL: "
    "dracut --force), and reboot; running jobs end."
)


@check(each(PCI_GPUS), id="pci.power-control", severity=Severity.INFO)
def power_control(gpu: PciFunction, expect: Expect) -> Finding:
    """Nothing suspends the GPU between jobs.

    Run-time power management is for notebooks. A suspended GPU has to wake, with seconds of delay, for the first job
    and for whoever asks for its state.
    """
    control, status = need(gpu.power_control), gpu.runtime_status
    line = f"power/control is {control}, and the GPU is {status if isinstance(status, str) else 'in an unknown state'}"
    if control == "on":
        return passed(line, control)
    fix = f"echo on > /sys/bus/pci/devices/{gpu.address}/power/control (until the next boot; a udev rule keeps it)"
    return failed(line, control, wanted="on", fix=fix)
