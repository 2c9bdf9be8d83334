"""Processors: their threads, their clock source, and those that are kept for the system's own work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hostcheck.checks.cpu import CLOCK_ARM, CLOCK_GUEST, CLOCK_POWER, CLOCK_X86, HOUSEKEEPING, SMT
from hostcheck.errors import NotApplicable, need
from hostcheck.expect import Expect, Expectation
from hostcheck.facts.boot import BOOT_CONFIG, BootConfig
from hostcheck.facts.cpu import (
    CLOCKSOURCE,
    NUMA,
    TOPOLOGY,
    Clocksource,
    CpuTopology,
    NumaNode,
    cpu_list,
    parse_cpu_list,
)
from hostcheck.facts.dropins import MARK, OWN, OwnFiles
from hostcheck.facts.kernel import CMDLINE, Cmdline
from hostcheck.facts.platform import PLATFORM, Platform
from hostcheck.facts.process import DAEMONS, Daemons
from hostcheck.facts.slices import SYSTEM_SLICE, SystemSlice
from hostcheck.registry import tuner
from hostcheck.tuning.change import Change, Refusal, Reload, Risk

from .making import at_boot, because, boot_argument, claimed, drop_in, pick, settle, write

_CONTROL = "/sys/devices/system/cpu/smt/control"
_SLICE = f"/etc/systemd/system/system.slice.d/{MARK}allowed-cpus.conf"
_HANDING_OUT = {
    "slurmd": "Slurm (CpuSpecList)",
    "kubelet": "the kubelet (reservedSystemCPUs)",
    "dockerd": "Docker, whose containers may be in system.slice",
    "pbs_mom": "PBS",
    "sbatchd": "LSF",
}
"""Daemons that hand out CPUs, or whose jobs live in system.slice, and would be held to its CPUs."""
_CLOCK = "/sys/devices/system/clocksource/clocksource0/current_clocksource"

Steps = Iterator[Change | Refusal]


@tuner(TOPOLOGY, PLATFORM, DAEMONS, OWN, id="cpu.smt", fixes=["cpu.smt"], rows=["data-smt"], keys=[SMT])
def smt(topology: CpuTopology, platform: Platform, daemons: Daemons, own: OwnFiles, expect: Expect) -> Steps:
    """Set whether each core runs one thread or two, as the site wants it.

    Half of the CPUs go offline or come back, with running work pushed together or apart; only by name, and never where
    a kubelet has handed out CPUs. Measure before and after. Rollback writes the old word back.
    """
    platform.need_bare_metal("the hypervisor decides which threads share a core")
    state, wanted = "on" if need(topology.smt) else "off", expect(SMT)
    settled = settle(own, _CONTROL, wanted, state, file=own.others.tmpfile(_CONTROL))
    control = need(topology.smt_control)
    if isinstance(settled, Refusal):
        yield settled
    elif settled is not None and control != state:
        why = f"{_CONTROL} is {control}: only the firmware or the kernel's command line can change it"
        yield Refusal(target=_CONTROL, why=why)
    elif settled is not None and daemons.runs("kubelet"):
        why = "a kubelet runs here, which may have handed out CPUs for good: drain the node and do it in the firmware"
        yield Refusal(target=_CONTROL, why=why)
    elif settled is not None:
        after, source = str(settled.value), because(wanted)
        why = f"cores run {'two threads' if after == 'on' else 'one thread'} each, as the site wants it"
        yield write(_CONTROL, control, after, why=why, source=source, fixes=["cpu.smt"], risk=Risk.MEDIUM, opt_in=True)
        yield from at_boot(own, "smt", {_CONTROL: after}, why=why, source=source, risk=Risk.MEDIUM, opt_in=True)


@tuner(
    CLOCKSOURCE, PLATFORM, OWN, id="cpu.clocksource", fixes=["cpu.clocksource"], rows=["x-os-clocksource"],
    keys=[CLOCK_X86, CLOCK_ARM, CLOCK_POWER, CLOCK_GUEST],
)  # fmt: skip
def clocksource(clock: Clocksource, platform: Platform, own: OwnFiles, expect: Expect) -> Steps:
    """Choose a clock source that programs read without a system call, where the kernel still offers one.

    A source that the kernel found to be unstable is not offered. Rollback writes the old one back.
    """
    keys = {"x86_64": CLOCK_X86, "aarch64": CLOCK_ARM, "ppc64le": CLOCK_POWER}
    key = CLOCK_GUEST if platform.hypervisor else keys.get(need(platform.architecture))
    if key is None:
        raise NotApplicable(f"no rule for {need(platform.architecture)}")
    wanted = expect(key)
    better = next((name for name in clock.available if wanted.matcher.matches(name)), None)
    if wanted.matcher.matches(clock.current):
        return
    if better is None:
        offers = ", ".join(clock.available)
        yield Refusal(target=_CLOCK, why=f"the kernel offers {offers}, and none of them is {wanted.view.text}")
        return
    refused = claimed(_CLOCK, own.others.tmpfile(_CLOCK))
    if refused is not None:
        yield refused
        return
    why, source = "reading the clock takes no system call", because(wanted)
    yield write(_CLOCK, clock.current, better, why=why, source=source, fixes=["cpu.clocksource"], risk=Risk.MEDIUM)
    yield from at_boot(own, "clocksource", {_CLOCK: better}, why=why, source=source, risk=Risk.MEDIUM)


@tuner(
    TOPOLOGY, NUMA, CMDLINE, BOOT_CONFIG, id="cpu.isolated", fixes=["cpu.isolated"], rows=["os-housekeeping-cores"],
    keys=[HOUSEKEEPING], references=["https://docs.kernel.org/admin-guide/kernel-parameters.html"],
)  # fmt: skip
def isolated(
    topology: CpuTopology, nodes: Sequence[NumaNode], cmdline: Cmdline, boot: BootConfig, expect: Expect
) -> Steps:
    """Keep all CPUs but those that the site wants for the system's own work free of it, from the next boot on.

    The kernel gets isolcpus=, nohz_full= and rcu_nocbs=. Nothing then runs on these CPUs unless it is pinned to them:
    a host whose jobs are not pinned becomes very slow, so it is planned only by name. Rollback takes the arguments
    away, which counts from the boot after.
    """
    wanted = expect(HOUSEKEEPING)
    given = [name for name in ("isolcpus", "nohz_full") if cmdline.has(name)]
    kept = _kept("isolcpus", topology, nodes, wanted)
    if isinstance(kept, Refusal):
        yield kept
        return
    away = topology.online - kept
    if not away or wanted.layer.startswith("defaults"):
        return
    names, after = ("isolcpus", "nohz_full", "rcu_nocbs"), cpu_list(away)
    if all(cmdline.all(name) == (after,) for name in names):
        return
    if given:
        yield Refusal(target="isolcpus", why=f"{' and '.join(given)} is on the command line: change it there")
        return
    why = f"{len(kept)} of {len(topology.online)} CPUs do the system's work, and leave the others alone"
    for name in names:
        source = because(wanted)
        yield from boot_argument(boot, name, after, why=why, source=source, risk=Risk.HIGH, opt_in=True)


@tuner(
    TOPOLOGY, NUMA, SYSTEM_SLICE, DAEMONS, OWN, id="cpu.system-slice", rows=["os-housekeeping-cores"],
    keys=[HOUSEKEEPING],
    references=["https://www.freedesktop.org/software/systemd/man/latest/systemd.resource-control.html"],
)  # fmt: skip
def system_slice(
    topology: CpuTopology,
    nodes: Sequence[NumaNode],
    slice: SystemSlice,
    daemons: Daemons,
    own: OwnFiles,
    expect: Expect,
) -> Steps:
    """Keep systemd's own services on the CPUs that the site wants for the system's work.

    Jobs of users stay where they are; those that run as a service, or in a container of system.slice, would be held to
    these few CPUs too: it is planned only by name, and never where a scheduler, a kubelet or Docker is at work. systemd
    holds its services to it once it has read the file again. Rollback takes the file away, and they may run everywhere.
    """
    wanted = expect(HOUSEKEEPING)
    kept = _kept("system.slice", topology, nodes, wanted)
    if isinstance(kept, Refusal):
        yield kept
        return
    if not topology.online - kept or wanted.layer.startswith("defaults"):
        return
    if slice.why_not:
        yield Refusal(target="system.slice", why=slice.why_not)
        return
    told = [line.partition("=")[2] for line in (own.text(_SLICE) or "").splitlines() if line.startswith("AllowedCPUs=")]
    ours = parse_cpu_list(told[-1]) if told else None
    if slice.allowed != ours:
        if slice.allowed != kept:
            theirs = ", ".join(path for path in slice.drop_ins if path != _SLICE) or "somebody"
            cpus = "all CPUs" if slice.allowed is None else f"CPUs {cpu_list(slice.allowed)}"
            yield Refusal(target="system.slice", why=f"{theirs} lets it use {cpus}: change it there")
        return
    holder = next((what for name, what in _HANDING_OUT.items() if daemons.runs(name)), "")
    if holder:
        yield Refusal(target="system.slice", why=f"CPUs are handed out here by {holder}: set it there")
        return
    why = f"services of the system run on {len(kept)} of {len(topology.online)} CPUs, and leave the others alone"
    lines = ["[Slice]", f"AllowedCPUs={cpu_list(kept)}"]
    source, reload = because(wanted), Reload.SYSTEMD
    yield from drop_in(own, _SLICE, lines, why=why, source=source, risk=Risk.MEDIUM, reload=reload, opt_in=True)


def _kept(
    target: str, topology: CpuTopology, nodes: Sequence[NumaNode], wanted: Expectation
) -> frozenset[int] | Refusal:
    """Return the CPUs of all nodes that are to do the system's work, or why that does not follow."""
    kept: frozenset[int] = frozenset()
    for node in nodes:
        if not node.is_host:
            continue
        number = pick(target, wanted, len(node.cpus))
        if isinstance(number, Refusal):
            return number
        kept |= _whole_cores(node, topology, int(number)) if isinstance(number, int | float) else set()
    return kept


def _whole_cores(node: NumaNode, topology: CpuTopology, count: int) -> set[int]:
    """Return the first CPUs of a node, with the threads that share their cores, until there are enough."""
    kept: set[int] = set()
    for cpu in sorted(node.cpus):
        if len(kept) < count:
            kept |= topology.siblings.get(cpu, frozenset({cpu})) & node.cpus
    return kept
