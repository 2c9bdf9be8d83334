"""GPUs: the driver, the inventory, and the settings of the driver as a whole."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from hostcheck.errors import NotApplicable, need
from hostcheck.expect import Expect, Key, failed, passed
from hostcheck.facts.base import each
from hostcheck.facts.cpu import cpu_list
from hostcheck.facts.gpu import DRIVER, GPUS, SMI_LOG, Driver, Gpu, SmiLog
from hostcheck.facts.gpu_health import (
    AFFINITY,
    FAULTS,
    INVENTORY,
    RESPONSE,
    GpuAffinity,
    GpuFaults,
    Inventory,
    Response,
)
from hostcheck.facts.pci import PCI_GPUS, PciFunction
from hostcheck.model import Actor, Finding, Severity
from hostcheck.registry import check

from .gpu_fixes import REPLACE, graded

_RELOAD = (
    "Reboot, or stop everything that uses a GPU (jobs end) and reload the modules: "
    "modprobe -r nvidia_drm nvidia_modeset nvidia_uvm nvidia && modprobe nvidia"
)
_HUNG = (
    "Look for the cause in the kernel log: dmesg -T | grep -i -E 'nvrm|xid|pcie'. A driver that hangs needs a reboot "
    "(all jobs end); if it hangs again, have the GPU that the log names replaced."
)

FLOORS = {branch: Key(f"gpu.driver-minimum.{branch}", str) for branch in ("535", "570", "580", "590", "595")}
"""The driver branches that get security fixes, each with a key for its oldest version without a known hole."""


@check(PCI_GPUS, DRIVER, id="gpu.driver-loaded", severity=Severity.CRITICAL, rows=["os-driver-version"])
def driver_loaded(gpus: Sequence[PciFunction], driver: Driver, expect: Expect) -> Finding:
    """The NVIDIA kernel driver is loaded on a host that has NVIDIA GPUs.

    Without it no program sees a GPU. The usual causes are a kernel update for which no module was built, Secure Boot
    that refuses an unsigned module, and the free nouveau driver that took the GPUs first.
    """
    if not gpus:
        raise NotApplicable("there is no NVIDIA GPU")
    holders = Counter(gpu.driver for gpu in gpus if gpu.driver)
    if driver.loaded:
        version = driver.version if isinstance(driver.version, str) else "of unknown version"
        return passed(f"driver {version} is loaded for {len(gpus)} GPUs", True)
    if holders["vfio-pci"] == len(gpus):
        raise NotApplicable("every NVIDIA GPU is handed to guests (vfio-pci)")
    held = f"; {', '.join(holders)} holds them" if holders else ""
    return failed(
        f"{len(gpus)} NVIDIA GPUs and no NVIDIA driver{held}",
        False,
        wanted="the nvidia module in the kernel",
        fix="modprobe nvidia; dmesg | tail. If there is no module for this kernel: dkms status, then dkms autoinstall, "
        "or reinstall the driver. If nouveau holds the GPUs: blacklist it, rebuild the initramfs, reboot.",
    )


@check(RESPONSE, id="gpu.driver-responds", severity=Severity.CRITICAL, rows=["x-gpu-count"])
def driver_responds(response: Response, expect: Expect) -> Finding:
    """The driver answers when it is asked for its GPUs.

    One GPU that is lost, or whose system processor hangs, can block every call into the driver for good; jobs then
    fail to start or never end. All other checks of GPUs are unknown meanwhile, this one says why.
    """
    if response.answered:
        return passed(f"answered in {response.seconds:.1f} s: {response.how}", True, source=response.source)
    mismatch = "version mismatch" in response.how
    return failed(
        f"the driver did not answer: {response.how}",
        False,
        wanted="a list of GPUs",
        fix=_RELOAD if mismatch else _HUNG,
        actor=Actor.REBOOT,
        source=response.source,
    )


@check(GPUS, DRIVER, SMI_LOG, id="gpu.driver-version", severity=Severity.HIGH, rows=["os-driver-version"])
def driver_version(gpus: Sequence[Gpu], driver: Driver, log: SmiLog, expect: Expect) -> Finding:
    """Kernel module, libraries and the firmware on the GPUs are of one version.

    A package update replaces the libraries on disk while the old module stays in the kernel: running jobs go on,
    every new one fails with "Driver/library version mismatch" until a reboot.
    """
    seen = {"kernel module": need(driver.version), "nvidia-smi": need(log.driver_version)}
    seen |= {f"firmware of {gpu.subject}": gpu.gsp_firmware for gpu in gpus if isinstance(gpu.gsp_firmware, str)}
    if len(set(seen.values())) == 1:
        return passed(f"all parts are of version {driver.version}", str(driver.version))
    groups: dict[str, list[str]] = {}
    for part, version in seen.items():
        groups.setdefault(version, []).append(part)
    words = "; ".join(f"{version}: {', '.join(parts)}" for version, parts in groups.items())
    return failed(
        f"the driver is of {len(groups)} versions: {words}",
        words,
        wanted="one version",
        fix=_RELOAD,
        actor=Actor.REBOOT,
    )


@check(
    GPUS,
    SMI_LOG,
    id="gpu.driver-minimum",
    severity=Severity.MEDIUM,
    rows=["os-driver-version"],
    keys=list(FLOORS.values()),
    references=["https://www.nvidia.com/en-us/security/"],
)
def driver_minimum(gpus: Sequence[Gpu], log: SmiLog, expect: Expect) -> Finding:
    """The driver is of a branch that gets security fixes, and not older than the last of them.

    Holes in the kernel module let a user of one GPU reach the memory of others or become root; each branch gets the
    fix in a version of its own.
    """
    version = need(log.driver_version)
    if any(isinstance(gpu.driver_model, str) for gpu in gpus):
        raise NotApplicable("Windows drivers are numbered differently")
    branch = version.partition(".")[0]
    say = f"driver {version}"
    fix = "Update the driver within its branch, or move to a newer branch; needs a reboot or a reload of the modules."
    if branch in FLOORS:
        return expect(FLOORS[branch]).judge(version, say=say, fix=fix)
    if branch.isdecimal() and int(branch) > int(max(FLOORS)):
        raise NotApplicable(f"{say}: no fix is on record for branch {branch}, which is newer than the table")
    known = ", ".join(FLOORS)
    return failed(f"{say}: branch {branch} gets no fixes", version, wanted=f"a branch of {known} or newer", fix=fix)


@check(INVENTORY, id="gpu.count", severity=Severity.CRITICAL, rows=["x-gpu-count"])
def count(inventory: Inventory, expect: Expect) -> Iterator[Finding]:
    """Every GPU on the bus is one that the driver has and describes.

    A GPU that is missing is worse than a broken one: jobs start with one rank less, or wait for ever, and a check
    that goes through the list of GPUs sees only healthy ones.
    """
    attached, shown = need(inventory.attached), inventory.described
    fix = "dmesg -T | grep -E 'NVRM|pcie'; nvidia-smi -L. Reboot; if it stays away, reseat or replace the GPU."
    if attached != shown:
        yield failed(
            f"nvidia-smi announces {attached} GPUs and describes {shown}",
            shown,
            wanted=f"{attached}, as announced",
            fix=fix,
            actor=Actor.REBOOT,
        )
    for address in inventory.missing:
        line = f"{address} is on the PCI bus and the driver does not have it"
        yield failed(line, subject=address, wanted="in the driver's list", fix=fix, actor=Actor.REBOOT)
    if attached == shown and not inventory.missing:
        if not isinstance(inventory.on_bus, NotApplicable):
            need(inventory.on_bus)
        yield passed(f"{shown} GPUs", shown)


@check(each(FAULTS), id="gpu.faults", severity=Severity.CRITICAL, rows=["x-gpu-count"])
def faults(gpu: GpuFaults, expect: Expect) -> Finding:
    """No value that the driver reports of the GPU is an error.

    A GPU that fell off the bus stays in the list, with "GPU is lost" or "Unknown Error" in place of its values; its
    jobs hang. "ERR!" in a single value, such as the fan's, is a failed sensor.
    """
    if not gpu.faults:
        return passed("no value is an error", 0)
    lost = [text for text in gpu.faults if "lost" in text.lower() or "fallen" in text.lower()]
    first = (lost or list(gpu.faults))[0]
    more = f" (and {len(gpu.faults) - 1} more)" if len(gpu.faults) > 1 else ""
    gone = bool(lost) or len(gpu.faults) > 5
    finding = failed(
        f"{first}{more}",
        len(gpu.faults),
        wanted="no error value",
        fix=_HUNG
        if gone
        else "Look for the cause: dmesg -T | grep NVRM. A sensor or fan that failed needs the board replaced.",
        actor=Actor.REBOOT if gone else Actor.OPERATOR,
    )
    return finding if gone else graded(finding, Severity.HIGH)


@check(GPUS, SMI_LOG, id="gpu.inforom", severity=Severity.HIGH, rows=["os-firmware"])
def inforom(gpus: Sequence[Gpu], log: SmiLog, expect: Expect) -> Iterator[Finding]:
    """No GPU has a corrupted InfoROM.

    It holds the board's configuration, its ECC history and its serial number. With a corrupted one the driver cannot
    count errors over the GPU's life, and vendors replace such boards.
    """
    names = {gpu.bus_id: gpu.subject for gpu in gpus}
    for address in log.inforom_corrupted:
        yield failed(
            "the InfoROM is corrupted",
            subject=names.get(address, address),
            wanted="an InfoROM that can be read",
            fix=REPLACE,
            actor=Actor.REPLACE,
        )
    if not log.inforom_corrupted:
        yield passed(f"nvidia-smi warns of none on {len(gpus)} GPUs", 0)


@check(GPUS, id="gpu.uniform", severity=Severity.LOW, rows=["os-firmware"])
def uniform(gpus: Sequence[Gpu], expect: Expect) -> Iterator[Finding]:
    """All GPUs of the host are of one model, with the same firmware and as much memory.

    The slowest of a group sets the pace of every collective. A board that was swapped in often differs in its VBIOS,
    and with it in clocks and power.
    """
    if len(gpus) < 2:
        raise NotApplicable("there is one GPU")
    sizes = {gpu.subject: need(gpu.memory.total_mib) for gpu in gpus}
    largest = max(sizes.values())
    traits = {
        "model": {gpu.subject: need(gpu.name) for gpu in gpus},
        "VBIOS": {gpu.subject: need(gpu.vbios) for gpu in gpus if not _MANY_ON_A_BOARD.search(need(gpu.name))},
        # A display takes some MiB of one GPU.
        "memory": {name: f"{largest if size > 0.98 * largest else size} MiB" for name, size in sizes.items()},
    }
    odd = [finding for word, values in traits.items() for finding in _odd_ones(word, values)]
    yield from odd
    if not odd:
        yield passed(f"{len(gpus)} GPUs of one model, VBIOS and memory size", len(gpus))


_MANY_ON_A_BOARD = re.compile(r"\b(K10|K80|M10|M60|A16)\b")
"""Boards with two or four GPUs, each of which has a VBIOS of its own."""


def _odd_ones(word: str, values: Mapping[str, str]) -> Iterator[Finding]:
    usual, _ = Counter(values.values()).most_common(1)[0] if values else ("", 0)
    for subject, value in values.items():
        if value != usual:
            yield failed(
                f"{word} is {value}, other GPUs here have {usual}",
                value,
                subject=subject,
                wanted=f"{usual}, as other GPUs of this host",
                fix="Bring all boards to one VBIOS with the vendor's tool; put odd models into hosts of their own.",
            )


@check(each(GPUS), id="gpu.virtualization", severity=Severity.INFO)
def virtualization(gpu: Gpu, expect: Expect) -> Finding:
    """The GPU is used as a whole, not as a share that a hypervisor hands out (vGPU).

    A vGPU has a part of the memory and of the time of a GPU, so figures for the whole GPU do not hold for it.
    """
    mode = need(gpu.virtualization)
    if mode.upper() == "VGPU":
        return failed("the GPU is a vGPU, a share of one", mode, wanted="a whole GPU")
    return passed(f"virtualization mode is {mode}", mode)


@check(each(GPUS), id="gpu.confidential-compute", severity=Severity.INFO, rows=["x-gpu-confidential"])
def confidential_compute(gpu: Gpu, expect: Expect) -> Finding:
    """Confidential computing is off.

    With it on, every copy between host and GPU is encrypted and goes through a bounce buffer: copies are several times
    slower, and bandwidth figures of the GPU do not hold.
    """
    protected = need(gpu.protected_memory.total_mib)
    if protected == 0:
        return passed("no memory is set aside for confidential computing", 0)
    return failed(f"{protected} MiB are protected for confidential computing", protected, wanted="off")


@check(each(AFFINITY), id="gpu.cpu-affinity", severity=Severity.MEDIUM, rows=["os-numa-topology"])
def cpu_affinity(gpu: GpuAffinity, expect: Expect) -> Finding:
    """The CPUs that the driver calls near the GPU are those of the GPU's NUMA node.

    NCCL and job launchers bind threads by the driver's list. A wrong one places a job's threads and buffers on the
    far socket, which costs a third to a half of the copy bandwidth.
    """
    if gpu.nodes < 2:
        raise NotApplicable("the host has one NUMA node with CPUs")
    node, driver = need(gpu.node), need(gpu.driver_cpus)
    line = f"the driver names CPUs {cpu_list(driver)}, node {node} has {cpu_list(gpu.node_cpus)}"
    if driver and driver <= gpu.node_cpus:
        return passed(line, cpu_list(driver))
    return failed(
        line,
        cpu_list(driver),
        wanted=f"CPUs of node {node}",
        fix="Update the firmware, so that its NUMA tables (SRAT) and the GPU's slot agree. Until then bind jobs by "
        f"hand: numactl --cpunodebind={node} --membind={node}",
    )
