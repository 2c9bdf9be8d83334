"""Processors: the frequencies and idle states that software allows them, and whether heat takes them back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hostcheck.errors import Maybe, NotApplicable, Unavailable, need
from hostcheck.expect import Expect, Expectation, Key, failed, passed
from hostcheck.facts.cpu import cpu_list
from hostcheck.facts.cpu_power import (
    FREQUENCY,
    IDLE,
    THROTTLING,
    Frequency,
    Idle,
    Policy,
    Throttling,
)
from hostcheck.facts.platform import PLATFORM, Platform
from hostcheck.model import Finding, Severity
from hostcheck.registry import check

GOVERNOR = Key("cpu.governor", str)
PREFERENCE = Key("cpu.energy-preference", str)
IDLE_LATENCY = Key("cpu.idle-states", int, unit="us", high=1_000_000)
BOOST = Key("cpu.boost", bool)

POLICIES = "/sys/devices/system/cpu/cpufreq/policy*"
LASTING = "# until reboot; to last: a systemd oneshot unit, or tuned-adm profile accelerator-performance"


def _policies(frequency: Frequency, platform: Platform) -> Sequence[Policy]:
    if platform.hypervisor:
        raise NotApplicable(f"{platform.label}: the hypervisor decides about frequencies")
    if not frequency.policies:
        raise NotApplicable("the kernel has no frequency control here (no cpufreq): the firmware decides")
    return frequency.policies


def _by_value(
    policies: Sequence[Policy], values: Sequence[Maybe[str]], wish: Expectation, what: str, fix: str
) -> Iterator[Finding]:
    """Judge each value that occurs, with the CPUs that have it."""
    groups: dict[str, set[int]] = {}
    for policy, value in zip(policies, values, strict=True):
        groups.setdefault(need(value), set()).update(policy.cpus)
    total = sum(len(cpus) for cpus in groups.values())
    for value, cpus in sorted(groups.items()):
        where = f"all {total} CPUs" if len(groups) == 1 else f"{len(cpus)} of {total} CPUs: {cpu_list(cpus)}"
        yield wish.judge(value, say=f"{what} is {value} on {where}", subject="host", fix=fix)


@check(
    FREQUENCY, PLATFORM, id="cpu.governor", severity=Severity.MEDIUM, rows=["os-cpu-governor"], keys=[GOVERNOR],
    references=["https://docs.kernel.org/admin-guide/pm/cpufreq.html"],
)  # fmt: skip
def governor(frequency: Frequency, platform: Platform, expect: Expect) -> Iterator[Finding]:
    """Every CPU runs with the performance governor.

    Others lower the clock between bursts and raise it too late, which lengthens kernel launches, data loading and the
    CPU side of every collective. One socket left behind is as bad for a job as both.
    """
    policies = _policies(frequency, platform)
    fix = f"echo performance | sudo tee {POLICIES}/scaling_governor   {LASTING}"
    yield from _by_value(policies, [policy.governor for policy in policies], expect(GOVERNOR), "the governor", fix)


@check(
    FREQUENCY, PLATFORM, id="cpu.energy-preference", severity=Severity.LOW, rows=["os-cpu-governor"], keys=[PREFERENCE],
    references=["https://docs.kernel.org/admin-guide/pm/intel_pstate.html"],
)  # fmt: skip
def energy_preference(frequency: Frequency, platform: Platform, expect: Expect) -> Iterator[Finding]:
    """Every CPU prefers performance over saving energy.

    Where the processor chooses its own frequency (intel_pstate, amd-pstate), this hint and not the governor decides
    how fast it raises the clock.
    """
    policies = _policies(frequency, platform)
    fix = f"echo performance | sudo tee {POLICIES}/energy_performance_preference   {LASTING}"
    values = [policy.preference for policy in policies]
    yield from _by_value(policies, values, expect(PREFERENCE), "the energy preference", fix)


@check(FREQUENCY, PLATFORM, id="cpu.max-frequency", severity=Severity.MEDIUM)
def max_frequency(frequency: Frequency, platform: Platform, expect: Expect) -> Finding:
    """No CPU is held below the highest frequency that its driver offers.

    A forgotten cap (power tools, a benchmark, a thermal daemon) outlives its reason, and no governor lifts it.
    """
    policies = _policies(frequency, platform)
    if frequency.boost is False:
        raise NotApplicable("boost is off, which lowers the highest frequency by itself: see cpu.boost")
    # One percent: some drivers round the bound to a step of theirs.
    capped = [policy for policy in policies if need(policy.max_khz) < need(policy.hardware_max_khz) * 0.99]
    if not capped:
        return passed(f"{len(policies)} frequency policies go up to their hardware's highest")
    cpus = sorted(cpu for policy in capped for cpu in policy.cpus)
    lowest = min(capped, key=lambda policy: need(policy.max_khz))
    ends = f"{need(lowest.max_khz) // 1000} of {need(lowest.hardware_max_khz) // 1000} MHz"
    return failed(
        f"{len(cpus)} CPUs are held at {ends} or above: {cpu_list(cpus)}",
        need(lowest.max_khz) // 1000,
        wanted=f"{need(lowest.hardware_max_khz) // 1000} MHz, as the driver offers",
        fix=f"sudo sh -c 'for p in {POLICIES}; do cat $p/cpuinfo_max_freq >$p/scaling_max_freq; done'   {LASTING}",
    )


@check(
    IDLE, PLATFORM, id="cpu.idle-states", severity=Severity.LOW, rows=["x-os-cstates"], keys=[IDLE_LATENCY],
    references=["https://docs.kernel.org/admin-guide/pm/cpuidle.html"],
)  # fmt: skip
def idle_states(idle: Idle, platform: Platform, expect: Expect) -> Finding:
    """No CPU may enter an idle state that takes long to leave.

    A CPU in C6 needs 170 to 290 us until it works again, in C2 of EPYC 400 to 800 us: as long as several small NCCL
    operations. Each interrupt of a network card or a GPU may have to wait for it. It costs idle power, and boost.
    """
    if platform.hypervisor:
        raise NotApplicable(f"{platform.label}: the hypervisor decides about idle states")
    states = [state for state in idle.states if state.enabled_on]
    if idle.driver in ("none", "haltpoll") or not states:
        raise NotApplicable(f"idle CPUs enter no state to wake up from (cpuidle driver {idle.driver})")
    held = idle.latency_limit_us
    states = [state for state in states if not isinstance(held, int) or state.latency_us <= held] or states[:1]
    deep = max(states, key=lambda state: state.latency_us)
    where = f"{deep.name}, {deep.latency_us} us, on {len(deep.enabled_on)} CPUs"
    fix = f"sudo cpupower idle-set -D {deep.latency_us}   # cpupower: linux-tools or kernel-tools; {LASTING[2:]}"
    finding = expect(IDLE_LATENCY).judge(deep.latency_us, say=f"the deepest idle state is {where}", fix=fix)
    if finding.fix and isinstance(held, Unavailable):
        raise Unavailable(f"{where} is enabled, and whether a program holds it off is unknown: {held.why}", held.probe)
    return finding


@check(FREQUENCY, PLATFORM, id="cpu.boost", severity=Severity.MEDIUM, rows=["x-os-turbo"], keys=[BOOST])
def boost(frequency: Frequency, platform: Platform, expect: Expect) -> Finding:
    """Processors may run above their nominal frequency.

    The thread that launches kernels runs alone on its core and lives from boost: 2.0 GHz in place of 3.8 on a usual
    56-core part.
    """
    if platform.hypervisor:
        raise NotApplicable(f"{platform.label}: the hypervisor decides about boost")
    on = need(frequency.boost)
    folder = "/sys/devices/system/cpu"
    return expect(BOOST).judge(
        on,
        say=f"boost is {'on' if on else 'off'}",
        fix=f"[ -e {folder}/intel_pstate/no_turbo ] && echo 0 | sudo tee {folder}/intel_pstate/no_turbo || "
        f"echo 1 | sudo tee {folder}/cpufreq/boost   # refused: enable turbo or core performance boost in the firmware",
    )


@check(THROTTLING, PLATFORM, id="cpu.throttle", severity=Severity.MEDIUM)
def throttle(throttling: Throttling, platform: Platform, expect: Expect) -> Finding:
    """No processor slowed down for heat while it was watched.

    A processor that throttles under load has a cooling fault or a power limit, and makes its node the straggler of
    every collective. Counts since boot are told, not judged: one hot afternoon long ago is no fault today.
    """
    if platform.hypervisor:
        raise NotApplicable(f"{platform.label}: the counters are the hypervisor's")
    span = f"in {throttling.seconds:.1f} s; at most {throttling.since_boot} on one CPU since boot"
    if not throttling.grown:
        return passed(f"no CPU throttled {span}", 0)
    return failed(
        f"{len(throttling.grown)} CPUs throttled {span}: {cpu_list(throttling.grown)}",
        len(throttling.grown),
        wanted="none",
        fix="Check fans, inlet temperature, heat sinks and firmware power limits (ipmitool sdr; sensors).",
    )
