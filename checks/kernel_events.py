"""What went wrong with the kernel in this boot, and before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hostcheck.errors import NotApplicable, Unavailable
from hostcheck.expect import Expect, failed, passed
from hostcheck.facts.kernel import CRASHES, HEALTH, MACHINE_CHECK_BIT, KernelHealth
from hostcheck.facts.kernel_log import Kind, LogLine, Trouble
from hostcheck.model import Actor, Finding, Severity
from hostcheck.registry import check

_REPORT = "Save the log for the vendor (journalctl -k -b > kernel.log), drain the host and reboot it."


def _tell(troubles: Sequence[Trouble]) -> str:
    """Return the first message in words, and how many there are."""
    first = troubles[0].line
    when = f" ({first.when})" if first.when else ""
    more = f", and {len(troubles) - 1} more" if len(troubles) > 1 else ""
    return f"{first.text[:120].strip()}{when}{more}"


@check(HEALTH, id="kernel.oops", severity=Severity.HIGH)
def oops(health: KernelHealth, expect: Expect) -> Finding:
    """The kernel has not crashed, found a bug in itself or locked up since boot.

    After an oops the kernel goes on with whatever it held: locks stay taken, driver calls hang, memory may be
    corrupted. Results from such a host are not to be trusted, and its GPUs often cannot be reset any more.
    """
    faults = health.of(Kind.PANIC, Kind.OOPS, Kind.LOCKUP)
    remembered = [words for bit, words in health.taint.items() if bit != MACHINE_CHECK_BIT]
    if not faults and not remembered:
        return passed("the kernel has not crashed or locked up in this boot", 0, source="/proc/sys/kernel/tainted")
    forgotten = "" if faults else " (the log no longer tells where)"
    return failed(
        _tell(faults) if faults else f"{' and '.join(remembered)} in this boot{forgotten}",
        max(len(faults), 1),
        wanted="no oops, BUG, panic or lockup in this boot",
        fix=_REPORT,
        actor=Actor.REBOOT,
        source="kernel log, /proc/sys/kernel/tainted",
    )


@check(HEALTH, id="kernel.hung-tasks", severity=Severity.MEDIUM)
def hung_tasks(health: KernelHealth, expect: Expect) -> Finding:
    """No task has hung in the kernel for minutes.

    Such a task waits for a disk, a file server, a lock or a driver that does not answer. It cannot be killed; a rank
    that hangs so stops its whole job until the collective's timeout.
    """
    if not health.watches_tasks:
        raise NotApplicable("the kernel does not look for hung tasks (kernel.hung_task_timeout_secs)")
    hung = health.of(Kind.HUNG_TASK)
    counted = health.hung_tasks
    if isinstance(counted, Unavailable):
        raise counted
    number = max(len(hung), counted if isinstance(counted, int) else 0)
    if number == 0 and not isinstance(counted, int):
        health.need_all()
    if number == 0:
        return passed("no task has hung in this boot", 0)
    names = ", ".join(sorted({trouble.who for trouble in hung})[:5])
    return failed(
        f"tasks that hung in this boot: {number}{f' ({names})' if names else ''}",
        number,
        wanted="none",
        fix="See what they waited for: journalctl -k -b | grep -A 30 'blocked for more than'. A file server or disk is "
        "mended there; a driver that hangs needs a reboot of the drained host.",
        source="kernel log, kernel.hung_task_detect_count",
    )


@check(HEALTH, id="kernel.hardware-errors", severity=Severity.HIGH)
def hardware_errors(health: KernelHealth, expect: Expect) -> Iterator[Finding]:
    """The processors and the firmware have reported no hardware error since boot.

    A machine check is the processor's word that a core, a cache, a link or memory gave a wrong value. Corrected ones
    are harmless each, and together announce a part that is about to fail.
    """
    wanted = "no machine check and no firmware error record"
    fix = "Read the decoded events (ras-mc-ctl --errors, or the BMC's event log), and have the part they name replaced."
    if MACHINE_CHECK_BIT in health.taint:
        line = "a machine check exception happened in this boot"
        yield failed(line, wanted=wanted, fix=fix, actor=Actor.REPLACE, source="/proc/sys/kernel/tainted")
    events = health.of(Kind.HARDWARE)
    if events:
        yield failed(_tell(events), len(events), wanted=wanted, fix=fix, actor=Actor.REPLACE, source="kernel log")
    if MACHINE_CHECK_BIT not in health.taint and not events:
        health.need_all()
        yield passed("no hardware error was reported in this boot", 0, source="kernel log")


@check(CRASHES, id="kernel.crash-records", severity=Severity.LOW)
def crash_records(crashes: Sequence[LogLine], expect: Expect) -> Finding:
    """No record of an earlier crash waits to be read.

    Firmware and systemd keep the last messages of a kernel that died (pstore). A host that came back by itself after
    a panic looks healthy, and will do it again. Records that stay also fill up the firmware's small store.
    """
    if not crashes:
        return passed("there is no crash record", 0)
    return failed(
        f"crash records of earlier boots: {len(crashes)}, the last one: {crashes[-1].text[:120].strip()}",
        len(crashes),
        wanted="none unread",
        fix="Read them in /sys/fs/pstore and /var/lib/systemd/pstore, keep a copy for the vendor, then delete them.",
        source="/sys/fs/pstore, /var/lib/systemd/pstore",
    )
