"""The kernel's version and settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hostcheck.errors import Maybe, NotApplicable, need
from hostcheck.expect import Expect, Key, failed, passed
from hostcheck.facts.cpu import NUMA, NumaNode
from hostcheck.facts.kernel import (
    CMDLINE,
    INIT_ON_ALLOC,
    IOMMU,
    POSSIBLE_CPUS,
    SYSCTL,
    VULNERABILITIES,
    Cmdline,
    Iommu,
    setting,
)
from hostcheck.facts.platform import PLATFORM, SYSTEM, Platform, System
from hostcheck.model import Actor, Finding, Severity
from hostcheck.registry import check

from .kernel_fixes import boot_argument, sysctl

VERSION = Key("kernel.version", str)
NUMA_BALANCING = Key("kernel.numa-balancing", int, high=3)
IOMMU_STATE = Key("kernel.iommu", str, words=("off", "passthrough", "translated"))
INIT = Key("kernel.init-on-alloc", bool)
PARANOID = Key("kernel.perf-access", int, low=-1, high=4)
KPTR = Key("kernel.perf-access.kptr", int, high=2)
PTRACE = Key("kernel.perf-access.ptrace", int, high=3)

Settings = Mapping[str, Maybe[str]]


@check(SYSTEM, id="kernel.version", severity=Severity.MEDIUM, rows=["os-kernel-recent"], keys=[VERSION])
def version(system: System, expect: Expect) -> Finding:
    """The kernel is recent enough.

    GPU drivers are built and tested against the kernels of supported distributions only. Newer ones bring what the
    GPU stack leans on: DMA-BUF for GPUDirect RDMA from 5.12, P2PDMA storage from 6.2, scheduling and NUMA fixes.
    """
    kernel = need(system.kernel)
    return expect(VERSION).judge(
        kernel,
        say=f"the kernel is {kernel}",
        fix="Debian, Ubuntu: apt-get install linux-generic (or the linux-generic-hwe package of the release). "
        "RHEL: dnf update kernel. Then drain the host and reboot it.",
        actor=Actor.REBOOT,
        source="/proc/sys/kernel/osrelease",
    )


@check(
    SYSCTL,
    NUMA,
    id="kernel.numa-balancing",
    severity=Severity.MEDIUM,
    rows=["x-os-numa-balancing"],
    keys=[NUMA_BALANCING],
    references=["https://docs.nvidia.com/grace-perf-tuning-guide/os-settings.html"],
)
def numa_balancing(settings: Settings, nodes: Sequence[NumaNode], expect: Expect) -> Finding:
    """Automatic NUMA balancing is as the role wants it.

    The kernel unmaps pages to see who touches them, and moves them between nodes: page faults and TLB shootdowns in
    the midst of a job whose threads and memory are pinned anyway. AMD's and NVIDIA's tuning guides switch it off.
    A host whose jobs are not pinned may gain from it: then set the expectation otherwise.
    """
    if sum(node.is_host for node in nodes) < 2:
        raise NotApplicable("only one memory node has CPUs, so there is nothing to balance")
    wanted = expect(NUMA_BALANCING)
    value = setting(settings, "kernel.numa_balancing")
    word = {0: "off", 1: "on", 2: "on for memory tiers"}.get(value, str(value))
    return wanted.judge(
        value,
        say=f"automatic NUMA balancing is {word} (kernel.numa_balancing = {value})",
        fix=sysctl("kernel.numa_balancing", wanted),
        source="/proc/sys/kernel/numa_balancing",
    )


@check(
    IOMMU,
    PLATFORM,
    POSSIBLE_CPUS,
    id="kernel.iommu",
    severity=Severity.MEDIUM,
    rows=["x-os-iommu-acs"],
    keys=[IOMMU_STATE],
)
def iommu(state: Iommu, platform: Platform, cpus: int, expect: Expect) -> Iterator[Finding]:
    """On bare metal the IOMMU does not translate what GPUs and NICs send.

    A translated access takes a look-up in the IOMMU's own TLB, and traffic between GPUs, or from GPU to NIC, goes up
    to the root complex and back instead of the short way through the switch. Pass-through keeps interrupt remapping,
    and is what NVIDIA's and AMD's profiles set (iommu=pt). In a guest the IOMMU is the hypervisor's.
    """
    if platform.hypervisor:
        raise NotApplicable(f"{platform.label}: the IOMMU is the hypervisor's")
    if not state.serves:
        raise NotApplicable("there is no GPU and no InfiniBand adapter whose traffic it could slow down")
    mode = need(state.state)
    translated = sum(state.types[address] != "identity" for address in state.judged)
    detail = f", {translated} of {len(state.judged)} PCI functions have a translated domain" if translated else ""
    yield expect(IOMMU_STATE).judge(
        mode,
        say=f"the IOMMU is {'in ' if mode == 'passthrough' else ''}{mode}{detail}",
        fix=boot_argument("iommu.passthrough=1" if platform.architecture == "aarch64" else "iommu=pt"),
        actor=Actor.REBOOT,
        source="/sys/bus/pci/devices/*/iommu_group/type",
    )
    if mode == "off" and cpus > 255 and platform.architecture == "x86_64":
        yield failed(
            f"the IOMMU is off on a host with {cpus} possible CPUs: without interrupt remapping x2APIC may stay off",
            cpus,
            wanted="an IOMMU in pass-through where there are more than 255 CPUs",
            fix=f"Switch the IOMMU on in the firmware setup. {boot_argument('iommu=pt', remove='iommu=off')}",
            actor=Actor.REBOOT,
        )


@check(
    INIT_ON_ALLOC,
    id="kernel.init-on-alloc",
    severity=Severity.LOW,
    keys=[INIT],
    references=["https://docs.nvidia.com/grace-perf-tuning-guide/os-settings.html"],
)
def init_on_alloc(on: bool, expect: Expect) -> Finding:
    """The kernel does not clear every page that it hands out to itself.

    Some distributions (Ubuntu) build it so that each allocation is written once with zeros, which costs memory
    bandwidth wherever drivers and file systems allocate much. NVIDIA's Grace guide and base profile switch it off.
    It hardens the kernel against bugs of its own: a multi-tenant host may prefer to keep it.
    """
    return expect(INIT).judge(
        on,
        say=f"memory is {'' if on else 'not '}cleared on allocation (init_on_alloc)",
        fix=boot_argument("init_on_alloc=0"),
        actor=Actor.REBOOT,
        source="/proc/cmdline, kernel log",
    )


@check(VULNERABILITIES, CMDLINE, id="kernel.mitigations", severity=Severity.INFO, rows=["repro-security"])
def mitigations(states: Mapping[str, str], cmdline: Cmdline, expect: Expect) -> Finding:
    """No known vulnerability of the processor is left open.

    Mitigations cost some percent in work that enters the kernel often, and next to nothing in GPU kernels. Switching
    them off is a choice for single-tenant hosts, which this only states.
    """
    if not states:
        raise NotApplicable("the kernel lists no vulnerabilities of this processor")
    given = cmdline.get("mitigations")
    word = f" (mitigations={given})" if given else ""
    leaks = sorted(name for name, text in states.items() if text.startswith(("Vulnerable", "KVM: Vulnerable")))
    if leaks:
        return failed(f"open: {', '.join(leaks)}{word}", len(leaks), wanted="none of them vulnerable")
    return passed(f"none of {len(states)} known vulnerabilities is open{word}", 0)


@check(CMDLINE, id="kernel.machine-checks", severity=Severity.MEDIUM)
def machine_checks(cmdline: Cmdline, expect: Expect) -> Finding:
    """The kernel takes part in reporting hardware errors (machine checks).

    With mce=off, memory and processor errors are neither logged nor contained: a corrupted page that would have cost
    one process goes on into results, and a failing DIMM is found only when the host resets.
    """
    off = [word for word in ("off", "ignore_ce") if any(word in v.split(",") for v in cmdline.all("mce"))]
    given = "nomce" if cmdline.has("nomce") else f"mce={off[0]}" if off else ""
    if not given:
        return passed("nothing on the command line switches machine checks off")
    return failed(
        f"{given} is on the kernel's command line",
        given,
        wanted="no nomce, mce=off or mce=ignore_ce",
        fix=boot_argument("", remove=given),
        actor=Actor.REBOOT,
        source="/proc/cmdline",
    )


# Of each of these the kernel keeps the last one only; others (console, hugepages, pci ...) add up.
_SINGLE = (
    "default_hugepagesz", "init_on_alloc", "intel_iommu", "intel_pstate", "iommu.passthrough", "isolcpus",
    "mitigations", "nohz_full", "numa_balancing", "nmi_watchdog", "preempt", "rcu_nocbs", "transparent_hugepage",
)  # fmt: skip


@check(CMDLINE, id="kernel.cmdline-conflicts", severity=Severity.LOW)
def cmdline_conflicts(cmdline: Cmdline, expect: Expect) -> Iterator[Finding]:
    """No argument of the kernel's command line contradicts another.

    Of two values the last one holds, so that an old setting left behind undoes the new one without a word.
    """
    pairs = [(name, sorted(set(cmdline.all(name)))) for name in _SINGLE]
    clashes = [f"{name} is given as {' and '.join(values)}" for name, values in pairs if len(values) > 1]
    if "off" in cmdline.all("iommu") + cmdline.all("intel_iommu") + cmdline.all("amd_iommu") and any(
        "pt" in value.split(",") for value in cmdline.all("iommu")
    ):
        clashes.append("the IOMMU is asked to be off and in pass-through")
    for clash in clashes:
        yield failed(
            clash,
            wanted="one value for each",
            fix="Decide which is meant, then "
            "Debian, Ubuntu: take the other out of /etc/default/grub and run update-grub. "
            "RHEL: grubby --update-kernel=ALL --remove-args='ARGUMENT'. It holds from the next boot on.",
            source="/proc/cmdline",
        )
    if not clashes:
        yield passed(f"none of {len(cmdline.parameters)} arguments contradicts another", source="/proc/cmdline")


@check(
    SYSCTL,
    id="kernel.perf-access",
    severity=Severity.INFO,
    rows=["prof-root-cause"],
    keys=[PARANOID, KPTR, PTRACE],
)
def perf_access(settings: Settings, expect: Expect) -> Iterator[Finding]:
    """Users may profile their own processes.

    Nsight Systems samples CPUs only with kernel.perf_event_paranoid at 2 or lower, and kernel symbols need 1 and
    kptr_restrict 0. py-spy and cuda-gdb attach only if Yama lets them. Each is a trade against what one user can
    learn of another, so this only states it.
    """
    for name, key in (
        ("kernel.perf_event_paranoid", PARANOID),
        ("kernel.kptr_restrict", KPTR),
        ("kernel.yama.ptrace_scope", PTRACE),
    ):
        if isinstance(settings[name], NotApplicable):
            continue
        value = setting(settings, name)
        yield expect(key).judge(value, say=f"{name} is {value}", fix=sysctl(name, expect(key)))
