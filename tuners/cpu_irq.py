"""Interrupts of GPUs and NICs: which processors handle them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from hostcheck.checks.cpu_irq import FEW, SHARE
from hostcheck.errors import Maybe, NotApplicable, Unavailable, need
from hostcheck.expect import Expect, Expectation
from hostcheck.facts.cpu import cpu_list
from hostcheck.facts.dropins import OWN, OwnFiles
from hostcheck.facts.irq import GPU_IRQS, NIC_IRQS, DeviceIrqs
from hostcheck.registry import tuner
from hostcheck.tuning.change import Change, Refusal, Risk

from .making import because, unit_at_boot, write

Steps = Iterator[Change | Refusal]

_HOST = "the host's own layout: numa_node of the device, and the CPUs that are isolated"


def _is_misplaced(device: DeviceIrqs) -> bool:
    """Whether all interrupts are far from the device, or handled by isolated CPUs only."""
    used = device.used
    handlers = frozenset[int]().union(*(irq.next_handlers for irq in used))
    if device.isolated and handlers <= device.isolated:
        return True
    if isinstance(device.near, NotApplicable):
        return False
    return not any(need(irq.allowed) & need(device.near) for irq in used)


def _is_crowded(device: DeviceIrqs, wanted: Expectation) -> bool:
    """Whether one CPU handles more than its share of a NIC's many interrupts."""
    single = [next(iter(irq.next_handlers)) for irq in device.used if len(irq.next_handlers) == 1]
    if min(len(single), len(device.housekeeping)) < FEW:
        return False
    ((_, most),) = Counter(single).most_common(1)
    return not wanted.matcher.matches(round(100 * most / len(single)))


def _cpus(device: DeviceIrqs) -> list[int]:
    """Return the CPUs that are to handle a device's interrupts: near ones that are not isolated, else any such."""
    near = device.near if isinstance(device.near, frozenset) else device.housekeeping
    return sorted(near & device.housekeeping or device.housekeeping)


@dataclass(frozen=True, slots=True)
class _Move:
    """Interrupts of one device that are to be handled elsewhere.

    Attributes:
        address: of the device.
        turns: what is written for its interrupts, one after the other.
        changes: for those that are to be moved.
    """

    address: str
    turns: tuple[str, ...]
    changes: tuple[Change, ...]


def _move(device: DeviceIrqs, turns: Sequence[str], why: str, source: str, fixes: Sequence[str]) -> _Move:
    changes = []
    for place, irq in enumerate(device.used):
        before, after = cpu_list(need(irq.allowed)), turns[place % len(turns)]
        if before != after:
            path = f"/proc/irq/{irq.number}/smp_affinity_list"
            changes.append(write(path, before, after, why=why, source=source, fixes=fixes, risk=Risk.MEDIUM))
    return _Move(device.subject, tuple(turns), tuple(changes))


def _all(
    own: OwnFiles, devices: Sequence[DeviceIrqs], judge: Callable[[DeviceIrqs], _Move | None], name: str, after: str
) -> Steps:
    """Yield the moves, and the unit that makes them at each boot.

    Where some device could not be read, the others are moved, and no check is claimed to pass.

    Args:
        judge: returns the move that a device needs; it may raise.
        name: of the unit.
        after: the unit of systemd behind which it runs.
    """
    moves, unread = _judged(devices, judge)
    if moves and own.others.runs("irqbalance"):
        for move in moves:
            yield Refusal(
                target=move.address,
                why="irqbalance runs and would move its interrupts back within seconds: give it --banmod with the name "
                "of the driver (IRQBALANCE_ARGS in /etc/default/irqbalance or /etc/sysconfig/irqbalance) or stop it",
            )
    elif moves:
        for move in moves:
            yield from move.changes if unread is None else (replace(change, fixes=()) for change in move.changes)
        first = moves[0].changes[0]
        why, source = first.why, first.source
        yield from unit_at_boot(own, name, _script(moves), after=after, why=why, source=source, risk=first.risk)
    need(unread)


def _script(moves: Sequence[_Move]) -> Iterator[str]:
    """Yield sh lines that hand out the interrupts of each device in turn; they have other numbers at each boot."""
    for move in moves:
        yield f"set -- {' '.join(dict.fromkeys(move.turns))}"
        yield f"for irq in $(ls /sys/bus/pci/devices/{move.address}/msi_irqs | sort -n); do"
        yield "    [ -w /proc/irq/$irq/smp_affinity_list ] || continue"
        yield "    echo $1 >/proc/irq/$irq/smp_affinity_list || continue"
        yield '    first=$1; shift; set -- "$@" "$first"'
        yield "done"


@tuner(
    NIC_IRQS, OWN, id="cpu.irq-nic", fixes=["cpu.irq-nic", "cpu.irq-balance"], rows=["os-irq-nic", "net-nic-affinity"],
    keys=[SHARE],
)  # fmt: skip
def irq_nic(devices: Sequence[DeviceIrqs], own: OwnFiles, expect: Expect) -> Steps:
    """Hand the interrupts of each NIC to the CPUs of its own node, one after the other.

    Only a NIC whose interrupts are all far away, on isolated CPUs or crowded on one CPU is touched. Some drivers keep
    their interrupts to themselves, and the kernel then refuses. Where irqbalance runs, it is left to irqbalance.
    Rollback writes the old CPUs back.
    """
    wanted = expect(SHARE)

    def judge(device: DeviceIrqs) -> _Move | None:
        far, crowded = _is_misplaced(device), _is_crowded(device, wanted)
        if not far and not crowded:
            return None
        fixes = ["cpu.irq-nic"] * far + ["cpu.irq-balance"] * crowded
        why, source = "interrupts are handled near the NIC, by many CPUs", _HOST if far else because(wanted)
        return _move(device, [f"{cpu}" for cpu in _cpus(device)], why, source, fixes)

    yield from _all(own, devices, judge, "irq-nic", "network-online.target")


@tuner(GPU_IRQS, OWN, id="cpu.irq-gpu", fixes=["cpu.irq-gpu"], rows=["os-irq-gpu"])
def irq_gpu(devices: Sequence[DeviceIrqs], own: OwnFiles, expect: Expect) -> Steps:
    """Let the CPUs of its own node handle the interrupts of each GPU.

    Only a GPU whose interrupts are all far away or on isolated CPUs is touched; the kernel chooses among the CPUs.
    Where irqbalance runs, it is left to irqbalance. Rollback writes the old CPUs back.
    """

    def judge(device: DeviceIrqs) -> _Move | None:
        if not _is_misplaced(device):
            return None
        return _move(device, [cpu_list(_cpus(device))], "interrupts are handled near the GPU", _HOST, ["cpu.irq-gpu"])

    yield from _all(own, devices, judge, "irq-gpu", "nvidia-persistenced.service")


def _judged(
    devices: Sequence[DeviceIrqs], judge: Callable[[DeviceIrqs], _Move | None]
) -> tuple[list[_Move], Maybe[None]]:
    """Return the moves of those devices that could be read, and what could not be read of the others."""
    moves: list[_Move] = []
    unread: Maybe[None] = None
    for device in devices:
        try:
            move = judge(device)
        except NotApplicable:
            continue
        except Unavailable as missing:
            unread = missing
        else:
            moves += [move] if move is not None and move.changes else []
    return moves, unread
