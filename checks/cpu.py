"""Processors: which there are, where their memory is, how they keep time, and who else uses them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hostcheck.errors import NotApplicable, Unavailable, need
from hostcheck.expect import Expect, Key, failed, passed
from hostcheck.facts.cpu import (
    CLOCKSOURCE,
    CPUINFO,
    NUMA,
    TOPOLOGY,
    Clocksource,
    CpuInfo,
    CpuTopology,
    NumaNode,
    cpu_list,
    parse_isolcpus,
)
from hostcheck.facts.cpu_load import (
    ALLOWED,
    GPU_COUNT,
    LOAD,
    PRESSURES,
    QUOTA,
    Allowed,
    Load,
    Pressures,
    Quota,
)
from hostcheck.facts.kernel import CMDLINE, Cmdline
from hostcheck.facts.platform import PLATFORM, Platform
from hostcheck.model import Actor, Finding, Severity
from hostcheck.registry import check

SMT = Key("cpu.smt", str, words=("on", "off"))
CLOCK_X86 = Key("cpu.clocksource.x86", str)
CLOCK_ARM = Key("cpu.clocksource.arm", str)
CLOCK_POWER = Key("cpu.clocksource.power", str)
CLOCK_GUEST = Key("cpu.clocksource.guest", str)
SPREAD = Key("cpu.numa-layout", float, unit="%", high=100)
PER_GPU = Key("cpu.per-gpu", int, unit="CPUs", high=4096)
HOUSEKEEPING = Key("cpu.isolated.housekeeping", int, unit="CPUs", high=4096)
PRESSURE = Key("cpu.pressure", float, unit="%", high=100)
LOAD_PER_CPU = Key("cpu.pressure.load", float, high=1000)

ARGUMENTS = (
    "Edit the kernel's arguments (Debian, Ubuntu: GRUB_CMDLINE_LINUX in /etc/default/grub, then update-grub; "
    "RHEL: grubby --update-kernel=ALL --args='...' or --remove-args='...') and reboot."
)


@check(TOPOLOGY, CPUINFO, PLATFORM, id="cpu.online", severity=Severity.MEDIUM)
def online(topology: CpuTopology, info: CpuInfo, platform: Platform, expect: Expect) -> Finding:
    """Every CPU that is present is online.

    A CPU can be left offline by a test, a power tool, maxcpus= or a machine check, and nothing else complains: jobs
    just have fewer cores, often on one socket only. Siblings that are offline because SMT is off are meant.
    """
    platform.need_host("some runtimes show only the CPUs of the container as online")
    absent = need(topology.present) - topology.online
    if not absent:
        return passed(f"all {len(topology.online)} CPUs are online", len(topology.online))
    if topology.smt_control in ("off", "forceoff") and len(absent) <= len(topology.online):
        whole = isinstance(info.cores, int) and info.cores == need(info.sockets) * need(info.cores_per_socket)
        if whole or not isinstance(info.cores, int):
            return passed(f"{len(topology.online)} CPUs are online; SMT is off, so their siblings are not")
    return failed(
        f"{len(absent)} CPUs are present and offline: {cpu_list(absent)}",
        len(topology.online),
        wanted=f"{len(need(topology.present))} online: all that are present",
        fix="for cpu in " + " ".join(str(cpu) for cpu in sorted(absent)[:32]) + "; do "
        "echo 1 | sudo tee /sys/devices/system/cpu/cpu$cpu/online; done   # first see the kernel log for why",
    )


@check(TOPOLOGY, id="cpu.smt", severity=Severity.INFO, rows=["data-smt"], keys=[SMT])
def smt(topology: CpuTopology, expect: Expect) -> Finding:
    """Simultaneous multithreading is as the site wants it; without a wish, its state is only told.

    Two threads of a core share its units: latency-critical work and memory bandwidth gain from SMT off, throughput of
    many small tasks from SMT on. Vendors disagree, so there is no general rule.
    """
    state = "on" if need(topology.smt) else "off"
    off = "echo off | sudo tee /sys/devices/system/cpu/smt/control   # until reboot; kernel argument nosmt to last"
    fix = off if state == "on" else "Remove nosmt from the kernel's arguments, and enable SMT in the firmware."
    return expect(SMT).judge(state, say=f"SMT is {state}: {topology.summary}", fix=fix)


@check(CPUINFO, id="cpu.microcode", severity=Severity.LOW)
def microcode(info: CpuInfo, expect: Expect) -> Finding:
    """All CPUs run the same microcode.

    A CPU that missed a late update, or a socket that was replaced, runs with other errata and other mitigations, and
    shows it as one slow or unstable socket.
    """
    revisions = need(info.microcode)
    if len(revisions) == 1:
        return passed(f"all CPUs run microcode {next(iter(revisions))}", next(iter(revisions)))
    counts = ", ".join(f"{revision} on {count} CPUs" for revision, count in revisions.items())
    return failed(
        f"CPUs run different microcode: {counts}",
        counts,
        wanted="one revision on all CPUs",
        fix="Install the distribution's microcode package (Debian, Ubuntu: intel-microcode or amd64-microcode; RHEL: "
        "microcode_ctl or linux-firmware) or the vendor's firmware update, and reboot.",
        actor=Actor.REBOOT,
    )


@check(
    TOPOLOGY, NUMA, CMDLINE, id="cpu.isolated", severity=Severity.MEDIUM, rows=["os-housekeeping-cores"],
    keys=[HOUSEKEEPING], references=["https://docs.kernel.org/admin-guide/kernel-parameters.html"],
)  # fmt: skip
def isolated(topology: CpuTopology, nodes: Sequence[NumaNode], cmdline: Cmdline, expect: Expect) -> Iterator[Finding]:
    """CPU isolation is as the command line asks, and leaves each memory node CPUs for the system's own work.

    Without a housekeeping CPU on a node, its interrupts, kernel threads and memory reclaim run on the other socket or
    on the isolated CPUs, which undoes what isolation was for.
    """
    kept = {"isolcpus": topology.isolated, "nohz_full": topology.nohz_full}
    taken = {name: frozenset() if isinstance(cpus, NotApplicable) else need(cpus) for name, cpus in kept.items()}
    away = taken["isolcpus"] | taken["nohz_full"]
    wanted = expect(HOUSEKEEPING)
    none = not away and not any(cmdline.has(name) for name in taken)
    if none and all(wanted.matcher.matches(len(node.cpus)) for node in nodes if node.is_host):
        raise NotApplicable("no CPU is isolated")
    for name, cpus in taken.items():
        yield from _agrees(name, cmdline.get(name), cpus, topology)
    for node in nodes:
        if node.is_host:
            left = len(node.cpus - away)
            yield wanted.judge(
                left,
                say=f"{left} of {len(node.cpus)} CPUs do the system's work",
                subject=node.subject,
                fix=f"Keep whole cores, {wanted.view.text} of each node, out of isolcpus= and nohz_full=. {ARGUMENTS}",
                actor=Actor.REBOOT,
            )


def _agrees(name: str, asked: str | None, taken: frozenset[int], topology: CpuTopology) -> Iterator[Finding]:
    if asked is None:
        return
    wanted = parse_isolcpus(asked, max(topology.online | taken)) & topology.online
    if wanted <= taken:
        yield passed(f"{name}={asked} is in force")
    else:
        line = f"{name}={asked} is not in force for CPUs {cpu_list(wanted - taken)}"
        wish = f"{cpu_list(wanted)}, as the command line asks"
        yield failed(line, cpu_list(taken), wanted=wish, fix=ARGUMENTS, actor=Actor.REBOOT)


@check(
    CLOCKSOURCE, PLATFORM, id="cpu.clocksource", severity=Severity.MEDIUM, rows=["x-os-clocksource"],
    keys=[CLOCK_X86, CLOCK_ARM, CLOCK_POWER, CLOCK_GUEST],
)  # fmt: skip
def clocksource(clock: Clocksource, platform: Platform, expect: Expect) -> Finding:
    """Timekeeping uses a counter that programs read without a system call.

    With hpet or acpi_pm each reading of the clock takes about a microsecond in place of 20 to 30 ns, one CPU at a time;
    profilers, NCCL and every log line pay for it. The kernel falls back to them if it finds TSC unstable.
    """
    keys = {"x86_64": CLOCK_X86, "aarch64": CLOCK_ARM, "ppc64le": CLOCK_POWER}
    key = CLOCK_GUEST if platform.hypervisor else keys.get(need(platform.architecture))
    if key is None:
        raise NotApplicable(f"no rule for {need(platform.architecture)}")
    folder = "/sys/devices/system/clocksource/clocksource0"
    better = next((name for name in clock.available if expect(key).matcher.matches(name)), None)
    why = "See the kernel log for why TSC was found unstable, update the firmware and reboot."
    return expect(key).judge(
        clock.current,
        say=f"the clock source is {clock.current}",
        fix=f"echo {better} | sudo tee {folder}/current_clocksource   # and see the kernel log" if better else why,
        actor=Actor.OPERATOR if better else Actor.REBOOT,
    )


@check(NUMA, TOPOLOGY, PLATFORM, id="cpu.numa-layout", severity=Severity.HIGH, rows=["os-numa-topology"], keys=[SPREAD])
def numa_layout(
    nodes: Sequence[NumaNode], topology: CpuTopology, platform: Platform, expect: Expect
) -> Iterator[Finding]:
    """Every node with CPUs has memory of its own, as much as the others, and sockets do not share one node.

    CPUs of a node without memory do every access over the link between sockets, at about half the bandwidth (measured
    on GB200: 137 GB/s local, 66 GB/s remote). Uneven nodes tell of a missing or failed module, and of its channel.
    """
    host = [node for node in nodes if node.is_host]
    if not host:
        raise Unavailable("no memory node lists a CPU")
    bare = [node for node in host if need(node.memory_kib) == 0]
    fix = _GUEST if platform.hypervisor else _SEAT
    for node in bare:
        line = f"{len(node.cpus)} CPU{'s' * (len(node.cpus) > 1)} and no memory"
        yield failed(line, 0, subject=node.subject, wanted="memory on its own channels", fix=fix)
    yield from _shared(len(host), topology, platform)
    sizes = [need(node.memory_kib) for node in host]
    if len(host) > 1 and not bare:
        spread = round((max(sizes) - min(sizes)) / max(sizes) * 100, 1)
        amounts = ", ".join(f"{node.subject} {need(node.memory_kib) / 2**20:.0f} GiB" for node in host)
        yield expect(SPREAD).judge(spread, say=f"nodes differ by {spread:g} %: {amounts}", fix=fix)


_SEAT = "Compare the modules with the board's population rules (sudo dmidecode -t memory), and reseat or replace them."
_GUEST = "Give each node of the guest that has CPUs memory of its own, and as much as the others, in its definition."


def _shared(count: int, topology: CpuTopology, platform: Platform) -> Iterator[Finding]:
    """Judge how the sockets are spread over the nodes that have CPUs."""
    sockets = topology.sockets
    if not isinstance(sockets, int) or count >= sockets:
        yield passed(f"{count} nodes have CPUs" if count > 1 else "one node has all CPUs", count)
    elif platform.hypervisor:
        yield passed(f"{sockets} sockets in {count} nodes: the hypervisor hides the layout, so pinning is not possible")
    else:
        yield failed(
            f"{sockets} sockets share {count} memory node{'s' * (count > 1)}: memory is interleaved, or NUMA is off",
            count,
            wanted=f"at least {sockets}: one for each socket",
            fix=f"Turn node interleaving off in the firmware, and remove numa=off if it is given. {ARGUMENTS}",
            actor=Actor.REBOOT,
        )


@check(
    GPU_COUNT, TOPOLOGY, ALLOWED, PLATFORM, id="cpu.per-gpu", severity=Severity.MEDIUM, rows=["arch-cpu-gpu-ratio"],
    keys=[PER_GPU],
)  # fmt: skip
def per_gpu(gpus: int, topology: CpuTopology, allowed: Allowed, platform: Platform, expect: Expect) -> Finding:
    """There are enough CPUs for each GPU.

    Each GPU needs a thread that launches kernels without a wait and workers that load, decode and copy its data; a host
    short of them shows low GPU utilization with no error anywhere.
    """
    cpus = len(topology.online & allowed.cpus if platform.container else topology.online)
    each = cpus // gpus
    return expect(PER_GPU).judge(
        each,
        say=f"{each} CPUs for each GPU ({cpus} CPUs, {gpus} GPU{'s' * (gpus > 1)})",
        fix="Give the guest or container more CPUs, or choose a machine with more for each GPU.",
    )


@check(
    PRESSURES, LOAD, TOPOLOGY, id="cpu.pressure", severity=Severity.LOW, rows=["gpu-cpu-oversubscription"],
    keys=[PRESSURE, LOAD_PER_CPU], references=["https://docs.kernel.org/accounting/psi.html"],
)  # fmt: skip
def pressure(pressures: Pressures, load: Load, topology: CpuTopology, expect: Expect) -> Finding:
    """Tasks that could run do not wait for a processor.

    A launching thread that waits for its turn leaves its GPU idle. Pressure is the share of the last minute in which a
    task waited; load, which also counts tasks that wait for storage, is used where the kernel keeps no pressure.
    """
    fix = "See who uses the processors (top -b -n 1 | head -30); run fewer jobs or loader workers side by side."
    if isinstance(pressures.cpu, NotApplicable):
        ratio = round(load.avg5 / max(1, len(topology.online)), 2)
        line = f"load of five minutes is {load.avg5:g} on {len(topology.online)} CPUs"
        return expect(LOAD_PER_CPU).judge(ratio, say=line, fix=fix, actor=Actor.APPLICATION)
    share = need(pressures.cpu).some.avg60
    line = f"tasks waited for a processor in {share:g} % of the last minute"
    return expect(PRESSURE).judge(share, say=line, fix=fix, actor=Actor.APPLICATION)


@check(ALLOWED, TOPOLOGY, PLATFORM, id="cpu.affinity", severity=Severity.INFO)
def affinity(allowed: Allowed, topology: CpuTopology, platform: Platform, expect: Expect) -> Finding:
    """Every CPU that is online and not isolated is open to this process; of a container, its share is told.

    What is measured or counted from here holds for the CPUs that this process may use. A login or service that is
    confined by a CPU set hands its limits to everything that it starts.
    """
    isolated = topology.isolated if isinstance(topology.isolated, frozenset) else frozenset()
    closed = topology.online - allowed.cpus - isolated
    line = f"this process may run on {len(allowed.cpus & topology.online)} of {len(topology.online)} CPUs"
    if not closed or platform.container:
        return passed(line if not closed else f"{line}: {cpu_list(allowed.cpus)}", len(allowed.cpus))
    return failed(
        f"{line}: not on {cpu_list(closed)}",
        len(allowed.cpus),
        wanted="all that are online and not isolated",
        fix="See who confines it: taskset -cp $$; cat /proc/self/cgroup; systemctl show -p AllowedCPUs user.slice",
    )


@check(QUOTA, ALLOWED, id="cpu.quota", severity=Severity.MEDIUM, rows=["x-ctr-cpuset"])
def quota(quota: Quota, allowed: Allowed, expect: Expect) -> Finding:
    """No quota of processor time stops this process, or the quota covers all CPUs that it may use.

    With a quota, all threads of a group stop for the rest of a 100 ms period once its time is used up, the one that
    launches GPU kernels among them. A CPU set bounds a container without such stops.
    """
    if quota.cpus is None:
        return passed("no quota of processor time")
    stops = ""
    if isinstance(quota.throttled, int) and isinstance(quota.periods, int) and quota.periods:
        stops = f"; it was stopped in {quota.throttled / quota.periods:.1%} of the periods so far"
    line = f"the quota is {quota.cpus:g} CPUs' worth of time on {len(allowed.cpus)} CPUs{stops}"
    if quota.cpus >= len(allowed.cpus) or quota.throttled == 0:
        return passed(line, quota.cpus)
    return failed(
        line,
        quota.cpus,
        wanted=f"none, or at least {len(allowed.cpus)} CPUs' worth",
        fix="Kubernetes: kubelet cpuManagerPolicy static, integer CPUs with requests equal to limits. Docker: "
        "--cpuset-cpus in place of --cpus. systemd: systemctl set-property UNIT CPUQuota=",
    )
