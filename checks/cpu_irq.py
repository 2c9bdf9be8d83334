"""Interrupts of GPUs and NICs: which processors handle them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hostcheck.errors import NotApplicable, need
from hostcheck.expect import Expect, Key, failed, passed
from hostcheck.facts.base import each
from hostcheck.facts.cpu import cpu_list
from hostcheck.facts.irq import GPU_IRQS, NIC_IRQS, DeviceIrqs, Irq
from hostcheck.model import Finding, Severity
from hostcheck.registry import check

SHARE = Key("cpu.irq-balance", int, unit="%", low=1, high=100)
FEW = 8
"""Fewer interrupts in use, or fewer CPUs for them, need no spreading."""


def _place(device: DeviceIrqs) -> Finding:
    """Judge where a device's interrupts are handled: not only far, and not only on isolated CPUs."""
    used = device.used
    handlers = frozenset[int]().union(*(irq.next_handlers for irq in used))
    if device.isolated and handlers <= device.isolated:
        spare = cpu_list((device.near if isinstance(device.near, frozenset) else frozenset()) & device.housekeeping)
        spare = cpu_list(device.housekeeping) if spare == "none" else spare
        line = f"all {len(used)} interrupts are handled by isolated CPUs ({cpu_list(handlers)})"
        return failed(line, cpu_list(handlers), wanted="CPUs that are not isolated", fix=_move(used, spare))
    near = need(device.near)
    far = [irq for irq in used if not need(irq.allowed) & near]
    line = f"{len(used) - len(far)} of {len(used)} interrupts may be handled by a near CPU ({cpu_list(near)})"
    if len(far) < len(used):
        return passed(line, cpu_list(handlers))
    wanted = f"CPUs of its own node: {cpu_list(near)}"
    return failed(line, cpu_list(handlers), wanted=wanted, fix=_move(used, cpu_list(near)))


def _move(irqs: Sequence[Irq], cpus: str) -> str:
    numbers = " ".join(str(irq.number) for irq in irqs)
    return (
        f"for n in {numbers}; do echo {cpus} > /proc/irq/$n/smp_affinity_list; done\n# It lasts until the next boot or "
        "until irqbalance moves them back (systemctl status irqbalance; its --banirq keeps them)."
    )


@check(each(GPU_IRQS), id="cpu.irq-gpu", severity=Severity.LOW, rows=["os-irq-gpu"])
def irq_gpu(device: DeviceIrqs, expect: Expect) -> Finding:
    """Interrupts of each GPU can be handled by processors of its own node.

    The GPU raises one when a wait that blocks comes to its end, and for faults. A far processor adds the way between
    the sockets to each; an isolated one is taken away from the thread that it was kept free for.
    """
    return _place(device)


@check(each(NIC_IRQS), id="cpu.irq-nic", severity=Severity.MEDIUM, rows=["os-irq-nic", "net-nic-affinity"])
def irq_nic(device: DeviceIrqs, expect: Expect) -> Finding:
    """Interrupts of each NIC can be handled by processors of its own node.

    The processor that takes the interrupt also carries the packet through the network stack, so from a far one each
    packet's data crosses between the sockets, and often back to the program.
    """
    return _place(device)


@check(each(NIC_IRQS), id="cpu.irq-balance", severity=Severity.MEDIUM, rows=["os-irq-nic"], keys=[SHARE])
def irq_balance(device: DeviceIrqs, expect: Expect) -> Finding:
    """Interrupts of a NIC's many queues are spread over processors.

    A NIC has a queue for each processor so that many can work at once. With all queues on one, that one alone limits
    the network, at a few million packets a second.
    """
    used = [irq for irq in device.used if len(irq.next_handlers) == 1]
    if min(len(used), len(device.housekeeping)) < FEW:
        raise NotApplicable(f"{len(used)} interrupts, {len(device.housekeeping)} CPUs for them: too few to be spread")
    (cpu, most), *_ = Counter(next(iter(irq.next_handlers)) for irq in used).most_common(1)
    return expect(SHARE).judge(
        round(100 * most / len(used)),
        say=f"CPU {cpu} handles {most} of the {len(used)} interrupts in use",
        fix="systemctl enable --now irqbalance (package irqbalance), or spread them by /proc/irq/N/smp_affinity_list",
    )
