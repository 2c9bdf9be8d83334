"""GPUs: errors in the kernel log, what the driver asks for, and repeated PCIe packets."""

from __future__ import annotations

from collections.abc import Iterator

from hostcheck.errors import NotApplicable, Unavailable, need
from hostcheck.expect import Expect, Key, failed, passed
from hostcheck.facts.base import each
from hostcheck.facts.gpu import GPUS, Gpu
from hostcheck.facts.gpu_health import REPLAYS, GpuReplays
from hostcheck.facts.xid import XIDS, Meaning, Xid, XidLog, policy
from hostcheck.model import Actor, Finding, Severity
from hostcheck.registry import check

from .gpu_fixes import graded

REPLAY_RATE = Key("gpu.pcie-replays", float, "a minute")

_ACTORS = (Actor.REPLACE, Actor.REBOOT, Actor.RESET_GPU, Actor.OPERATOR, Actor.APPLICATION)


@check(
    XIDS,
    id="gpu.xid",
    severity=Severity.CRITICAL,
    rows=["x-os-xid"],
    references=["https://docs.nvidia.com/deploy/xid-errors/"],
)
def xid(log: XidLog, expect: Expect) -> Iterator[Finding]:
    """The kernel log of this boot holds no GPU error (Xid) that tells of a fault of the host.

    The driver writes one line for each error, and its number tells a program's mistake from a memory error, a broken
    link or a GPU that fell off the bus. Numbers that programs cause are named and pass. A line stays until the next
    boot, also after the GPU was reset.
    """
    faulty = False
    for address in dict.fromkeys(record.address for record in log.xids):
        finding = _judge_gpu(log, address)
        faulty |= bool(finding.fix)
        yield finding
    if not faulty:
        log.need_all()
    if not log.xids:
        yield passed(f"no Xid since {log.covers_from}", 0, source=log.source)


def _judge_gpu(log: XidLog, address: str) -> Finding:
    """Return one finding for all the codes of a GPU, as severe as the worst of them."""
    table = policy()
    found = [(table.meaning(record.code), record) for record in log.xids if record.address == address]
    found.sort(key=lambda pair: (Severity(pair[0].severity).rank, _ACTORS.index(Actor(pair[0].actor)), pair[1].code))
    worst, severity = found[0][0], Severity(found[0][0].severity)
    line, subject = ", ".join(_words(*pair) for pair in found), log.gpus.get(address, address)
    codes = ", ".join(str(record.code) for _, record in found)
    if severity is Severity.INFO:
        return passed(f"no fault of the host: {line}", codes, subject=subject, source=log.source)
    steps = dict.fromkeys(meaning.step for meaning, _ in found if meaning.severity != "info")
    finding = failed(
        line,
        codes,
        subject=subject,
        wanted="no Xid that tells of a fault",
        fix="; ".join(steps).replace("-i GPU", f"-i {address}.0"),
        actor=Actor(worst.actor),
        source=f"{log.source}; {table.source}",
    )
    return graded(finding, severity)


def _words(meaning: Meaning, record: Xid) -> str:
    who = f", in {', '.join(record.processes[:3])}" if record.processes else ""
    return f"Xid {record.code} x{record.count} ({meaning.name}{who})"


_RECOVERY = {
    "Reset": (Actor.RESET_GPU, Severity.CRITICAL, "Drain the GPU, then nvidia-smi --gpu-reset -i {index}"),
    "Reboot": (Actor.REBOOT, Severity.CRITICAL, "Drain the host and reboot it"),
    "Drain P2P": (
        Actor.OPERATOR,
        Severity.HIGH,
        "End the jobs that use this GPU together with others; it goes on working alone",
    ),
    "Drain and Reset": (
        Actor.RESET_GPU,
        Severity.HIGH,
        "Let running jobs end, start no new ones, then nvidia-smi --gpu-reset -i {index}",
    ),
}


@check(each(GPUS), id="gpu.recovery-action", severity=Severity.LOW, rows=["x-gpu-row-remap"])
def recovery_action(gpu: Gpu, expect: Expect) -> Finding:
    """The driver asks for no reset, reboot or drain of the GPU.

    The flag stays after the error that raised it, so it is seen even if the log has been overwritten. New programs
    fail on a GPU that waits for a reset, while all its counters may read zero.
    """
    action = gpu.recovery_action
    if isinstance(action, Unavailable):
        # Drivers before 560 tell the same by two flags.
        drain = gpu.drain_and_reset_recommended
        action = "Reset" if need(gpu.reset_required) else "None"
        if action == "None" and not isinstance(drain, NotApplicable) and need(drain):
            action = "Drain and Reset"
    action = need(action)
    if action == "None":
        return passed("the driver asks for nothing", action)
    actor, severity, step = _RECOVERY.get(action, (Actor.OPERATOR, Severity.HIGH, "See the driver's release notes"))
    finding = failed(
        f"the driver asks for: {action}", action, wanted="None", fix=step.format(index=gpu.index), actor=actor
    )
    return graded(finding, severity)


@check(each(REPLAYS), id="gpu.pcie-replays", severity=Severity.MEDIUM, rows=["x-os-pcie-link"], keys=[REPLAY_RATE])
def pcie_replays(gpu: GpuReplays, expect: Expect) -> Finding:
    """PCIe packets of the GPU seldom have to be sent again.

    Replays are how a link with a poor signal shows before it fails; each one delays what is behind it. The average
    since boot is judged, since some replays at link training are normal.
    """
    total = need(gpu.total)
    if total == 0:
        return passed("no replay since the last reset", 0.0)
    if isinstance(gpu.minutes, NotApplicable | Unavailable):
        raise Unavailable(f"{total} replays since the last reset, in an unknown time", "gpu.smi")
    rate = total / gpu.minutes
    say = f"{total} replays since the last reset, {rate:.2g} a minute on average since boot"
    fix = "Reseat the GPU, its riser and cables; watch nvidia-smi -q | grep -i replay and the AER counters (pci.aer)."
    return expect(REPLAY_RATE).judge(round(rate, 4), say=say, fix=fix)
