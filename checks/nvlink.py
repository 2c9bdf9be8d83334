"""NVLink: links, their errors, the fabric and its daemons, and how GPUs are joined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from hostcheck.errors import NotApplicable, need
from hostcheck.expect import Expect, ExpectationMissing, Key, failed, passed
from hostcheck.facts.addons import FABRIC_STACK, FabricStack
from hostcheck.facts.base import each
from hostcheck.facts.gpu import GPUS, Gpu
from hostcheck.facts.nvlink import LINK_ERRORS, LINKS, TOPOLOGY, GpuLinkErrors, GpuLinks, Topology, TopologyRow
from hostcheck.facts.pci import PCI, PciTree
from hostcheck.facts.platform import PLATFORM, Platform
from hostcheck.facts.process import DAEMONS, Daemons
from hostcheck.facts.xid import XIDS, XidLog, policy
from hostcheck.model import Actor, Finding, Severity, Status
from hostcheck.registry import check

from .gpu_fixes import graded

LINK_COUNT = Key("nvlink.links", int, "active links", high=72)
LINK_SPEED = Key("nvlink.speed", float, "GB/s", high=1000)

_LINK_ROWS = ["x-gpu-nvlink-active", "arch-nvlink-over-pcie"]
_RETRAIN = (
    "Look for Xid 74 and 144 to 150: dmesg -T | grep -i -E 'xid|nvlink'. Drain the node and reset all GPUs together "
    "(nvidia-smi --gpu-reset; it ends every process on them). If it comes back, a bridge or module is loose or broken."
)


@check(each(LINKS), PLATFORM, id="nvlink.links", severity=Severity.CRITICAL, rows=_LINK_ROWS, keys=[LINK_COUNT])
def links(gpu: GpuLinks, platform: Platform, expect: Expect) -> Finding:
    """Every NVLink of the GPU is active.

    NCCL goes by the GPU with the fewest links: one of 18 down costs 6 % of the bandwidth between all GPUs, and a GPU
    without any moves the whole job to PCIe, at a tenth of the speed.
    """
    count = len(need(gpu.links))
    line = f"{gpu.active} of {count or 'all'} NVLinks are active" if count or gpu.active else "no NVLink is active"
    if gpu.active == 0 and gpu.alone and platform.hypervisor:
        raise NotApplicable("a guest with one GPU: its NVLinks lead nowhere")
    try:
        finding = expect(LINK_COUNT).judge(gpu.active, say=line, fix=_RETRAIN, actor=Actor.RESET_GPU)
    except ExpectationMissing:
        if gpu.active == 0 and "SXM" not in gpu.name:
            raise NotApplicable("its NVLinks are unused: no bridge joins the board to another") from None
        finding = passed(line, gpu.active)
        if gpu.active == 0:
            finding = failed(line, 0, wanted="active links, as on every SXM board", fix=_RETRAIN, actor=Actor.RESET_GPU)
    if finding.status is Status.PASS and gpu.active < count:
        wanted = f"{count}, as many as the GPU has"
        finding = failed(line, gpu.active, wanted=wanted, fix=_RETRAIN, actor=Actor.RESET_GPU)
        return finding if "SXM" in gpu.name else graded(finding, Severity.HIGH)
    return replace(finding, source=gpu.source)


@check(each(LINKS), id="nvlink.speed", severity=Severity.HIGH, rows=_LINK_ROWS, keys=[LINK_SPEED])
def speed(gpu: GpuLinks, expect: Expect) -> Finding:
    """Every active NVLink runs at the speed of its generation.

    Each is 25 GB/s in one direction on A100 and H100, 50 GB/s on B200. A link that trained slower still counts as
    active, and holds up every transfer that is spread over all links.
    """
    speeds = {link.number: need(link.speed_gbs) for link in need(gpu.links) if link.active}
    if not speeds:
        raise NotApplicable("no NVLink is active")
    slowest = min(speeds.values())
    slow = [str(number) for number, value in speeds.items() if value < max(speeds.values())]
    which = f" (links {', '.join(slow)}; others {max(speeds.values()):g})" if slow else ""
    say = f"the slowest of {len(speeds)} links runs at {slowest:g} GB/s{which}"
    finding = expect(LINK_SPEED).judge(slowest, say=say, fix=_RETRAIN, actor=Actor.RESET_GPU, source=gpu.source)
    if slow and finding.status is Status.PASS:
        return failed(say, slowest, wanted="one speed on all links", fix=_RETRAIN, actor=Actor.RESET_GPU)
    return finding


@check(
    each(LINK_ERRORS), id="nvlink.errors", severity=Severity.HIGH, rows=["x-gpu-nvlink-active", "scale-link-saturation"]
)
def errors(gpu: GpuLinkErrors, expect: Expect) -> Finding:
    """No error counter of the GPU's NVLinks grows.

    A link with a poor signal repeats packets, which shows as bandwidth that varies; later it drops and takes the job
    with it. What was counted before the two readings may be from training the links at boot, and is only named.
    """
    counters = need(gpu.counters)
    grown = [(counter, growth) for counter in counters if (growth := need(counter.growth)) > 0]
    total = sum(counter.before for counter in counters)
    if not grown:
        past = f"; {total} are on the counters from before" if total else ""
        return passed(f"no error was added on {len({c.link for c in counters})} links{past}", 0, source=gpu.source)
    words = ", ".join(f"link {counter.link} {counter.name} +{growth}" for counter, growth in grown[:6])
    more = f" and {len(grown) - 6} more" if len(grown) > 6 else ""
    return failed(
        f"errors were added while hostcheck looked: {words}{more}",
        sum(growth for _, growth in grown),
        wanted="no growth between two readings",
        fix=_RETRAIN,
        actor=Actor.RESET_GPU,
        source=gpu.source,
    )


@check(each(GPUS), id="nvlink.fabric", severity=Severity.LOW, rows=["x-gpu-fabric-state"])
def fabric(gpu: Gpu, expect: Expect) -> Iterator[Finding]:
    """The GPU is registered with the NVLink fabric, and the fabric calls it healthy.

    Until the registration is complete CUDA does not initialise on the GPU (error 802, system not yet initialised).
    Degraded bandwidth or a bad route slows every GPU of the partition.
    """
    state, status = need(gpu.fabric.state), gpu.fabric.status
    good = state == "Completed" and status in ("Success", "0")
    line = f"fabric registration: {state}" + (f", {status}" if isinstance(status, str) else "")
    if good:
        yield passed(line, state)
    elif state == "Completed":
        need(status)
    if not good:
        yield graded(failed(line, state, wanted="Completed, Success", fix=_FABRIC), Severity.CRITICAL)
    bad = {part: word for part, word in gpu.fabric.health.items() if isinstance(word, str) and word not in _HEALTHY}
    if isinstance(gpu.fabric.summary, str) and gpu.fabric.summary != "Healthy":
        bad["summary"] = gpu.fabric.summary
    if bad:
        words = ", ".join(f"{part.replace('_', ' ')}: {word}" for part, word in bad.items())
        finding = failed(f"fabric health: {words}", words, wanted="Healthy", fix=_RETRAIN, actor=Actor.RESET_GPU)
        yield graded(finding, Severity.HIGH)


_HEALTHY = ("Full", "False", "None", "No", "Healthy", "True")
_FABRIC = (
    "systemctl status nvidia-fabricmanager; its version must be the driver's. Start it with systemctl enable --now "
    "nvidia-fabricmanager (never restart one that runs: jobs end). On NVLink racks look at switch trays and IMEX."
)


@check(
    GPUS, PCI, DAEMONS, PLATFORM, id="nvlink.fabric-manager", severity=Severity.CRITICAL, rows=["gpu-fabric-manager"]
)
def fabric_manager(gpus: Sequence[Gpu], pci: PciTree, daemons: Daemons, platform: Platform, expect: Expect) -> Finding:
    """The fabric manager runs where NVSwitches join the GPUs.

    It sets up the switches' routes after each boot. Without it CUDA programs fail at start on HGX boards of H100 and
    later, and on A100 boards run without NVLink. On trays of NVLink racks it runs in the switch trays, not here.
    """
    what = need_fabric(gpus, pci, platform)
    if daemons.runs("nv-fabricmanager"):
        return passed(f"{what}, and the fabric manager runs", True)
    return failed(f"{what}, and no fabric manager runs", False, wanted="nv-fabricmanager", fix=_FABRIC)


def need_fabric(gpus: Sequence[Gpu], pci: PciTree, platform: Platform) -> str:
    """Go on only where this machine has a fabric to manage; return what it consists of.

    Raises:
        NotApplicable: there is none, or another machine manages it.
    """
    platform.need_host("the fabric manager runs on the host")
    if any(gpu.c2c is True for gpu in gpus):
        raise NotApplicable("GPUs of a superchip: the fabric is managed by the rack's switch trays")
    member = any(isinstance(gpu.fabric.state, str) for gpu in gpus)
    if not pci.nvswitches and (platform.kind != "bare-metal" or not member):
        why = "the fabric manager runs on the machine that has the NVSwitches" if member else "there is no NVSwitch"
        raise NotApplicable(why)
    return f"{len(pci.nvswitches)} NVSwitches" if pci.nvswitches else "GPUs on an NVLink fabric"


@check(GPUS, PCI, PLATFORM, FABRIC_STACK, id="nvlink.fabric-manager-version", severity=Severity.HIGH,
       rows=["gpu-fabric-manager"])  # fmt: skip
def fabric_manager_version(
    gpus: Sequence[Gpu], pci: PciTree, platform: Platform, stack: FabricStack, expect: Expect
) -> Finding:
    """The fabric manager has the version of the driver.

    One of another version refuses to start after the next boot or restart, and then CUDA programs fail at start.
    """
    need_fabric(gpus, pci, platform)
    have, driver = need(stack.manager), need(stack.driver)
    line = f"fabric manager {have}, driver {driver}"
    if have == driver:
        return passed(line, have)
    branch = driver.partition(".")[0]
    fix = f"Install the fabric manager {driver} (package nvidia-fabricmanager-{branch} or nvidia-fabricmanager), then "
    return failed(line, have, wanted=driver, fix=f"{fix}drain the host and restart its service: it ends every GPU job.")


@check(GPUS, DAEMONS, PLATFORM, id="nvlink.imex", severity=Severity.INFO, rows=["x-gpu-imex"])
def imex(gpus: Sequence[Gpu], daemons: Daemons, platform: Platform, expect: Expect) -> Finding:
    """On a tray of an NVLink rack the IMEX daemon runs.

    It lets programs on several trays share GPU memory over NVLink; without it their traffic goes over the network.
    Kubernetes starts it for each job, so it may be absent between jobs.
    """
    if not any(gpu.c2c is True and isinstance(gpu.fabric.state, str) for gpu in gpus):
        raise NotApplicable("no tray of an NVLink rack")
    platform.need_host("the host's daemons are not seen from a container")
    if daemons.runs("nvidia-imex"):
        return passed("nvidia-imex runs", True)
    return failed("nvidia-imex does not run", False, wanted="nvidia-imex, unless Kubernetes starts it for each job")


@check(XIDS, PCI, id="nvlink.switch-errors", severity=Severity.CRITICAL, rows=["x-os-xid", "gpu-fabric-manager"])
def switch_errors(log: XidLog, pci: PciTree, expect: Expect) -> Iterator[Finding]:
    """The kernel log of this boot holds no error of an NVSwitch (SXid).

    A fatal one breaks the links of all GPUs on the switch until switches and GPUs are reset together.
    """
    if not log.sxids and not pci.nvswitches:
        raise NotApplicable("there is no NVSwitch")
    for record in log.sxids:
        meaning = policy().sxid_fatal if record.fatal else policy().sxid_other
        finding = failed(
            f"SXid {record.code} x{record.count} ({meaning.name}): {record.text}",
            record.code,
            subject=f"nvswitch{record.switch}",
            wanted="no SXid",
            fix=meaning.step,
            actor=Actor(meaning.actor),
            source=log.source,
        )
        yield graded(finding, Severity(meaning.severity))
    if not log.sxids:
        log.need_all()
        yield passed(f"no SXid since {log.covers_from}", 0, source=log.source)


@check(TOPOLOGY, GPUS, id="nvlink.topology", severity=Severity.HIGH, rows=["arch-nvlink-over-pcie"])
def topology(matrix: Topology, gpus: Sequence[Gpu], expect: Expect) -> Iterator[Finding]:
    """All GPUs are joined to their peers by the same numbers of NVLinks.

    One GPU that reaches the others over PCIe only makes NCCL build its rings over PCIe for all of them.
    """
    whole = [row for row in matrix.gpus if row.index not in _sliced(gpus)]
    if len(whole) < 2:
        raise NotApplicable("fewer than two GPUs that are not in MIG mode")
    joined = {row.subject: _joined(row, [other.index for other in whole]) for row in whole}
    usual, _ = Counter(joined.values()).most_common(1)[0]
    usual = usual or max(joined.values(), key=len)
    if not usual:
        raise NotApplicable("no NVLink joins the GPUs")
    odd = 0
    for subject, numbers in joined.items():
        # Boards in bridged pairs: one without a bridge is how the host was built.
        if numbers != usual and not (len(usual) == 1 and not numbers):
            odd += 1
            yield failed(
                f"joined by {_links_in_words(numbers)}",
                len(numbers),
                subject=subject,
                wanted=f"{_links_in_words(usual)}, as most GPUs here",
                fix=_RETRAIN,
                actor=Actor.RESET_GPU,
            )
    if not odd:
        yield passed(f"each GPU is joined by {_links_in_words(usual)}", len(usual), source="nvidia-smi topo -m")


def _sliced(gpus: Sequence[Gpu]) -> set[int]:
    return {gpu.index for gpu in gpus if gpu.mig.current is True}


def _joined(row: TopologyRow, others: Sequence[int]) -> tuple[int, ...]:
    """Return the numbers of NVLinks to each peer that it has any to, highest first."""
    return tuple(sorted((count for other in others if (count := row.bonded(other))), reverse=True))


def _links_in_words(numbers: tuple[int, ...]) -> str:
    if not numbers:
        return "no NVLink"
    peers = Counter(numbers).items()
    return " and ".join(f"{number} NVLinks to {times} other GPU{'s' * (times > 1)}" for number, times in peers)
