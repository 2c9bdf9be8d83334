"""Processors: the frequencies and idle states that software allows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hostcheck.checks.cpu_power import BOOST, GOVERNOR, IDLE_LATENCY, PREFERENCE
from hostcheck.errors import Maybe, NotApplicable, Unavailable, need
from hostcheck.expect import Expect, Expectation
from hostcheck.facts.cpu_power import (
    CHOICES,
    FREQUENCY,
    IDLE,
    Choices,
    Frequency,
    Idle,
    IdleState,
    Policy,
)
from hostcheck.facts.dropins import OWN, OwnFiles
from hostcheck.facts.platform import PLATFORM, Platform
from hostcheck.registry import tuner
from hostcheck.tuning.change import Change, Refusal, Risk

from .making import Settled, at_boot, because, claimed, settle, write

_CPU = "/sys/devices/system/cpu"
_ALL = f"{_CPU}/cpufreq/policy*"

Steps = Iterator[Change | Refusal]


def _policies(frequency: Frequency, platform: Platform) -> tuple[Policy, ...]:
    platform.need_bare_metal("the hypervisor decides about frequencies")
    if not frequency.policies:
        raise NotApplicable("the kernel has no frequency control here (no cpufreq): the firmware decides")
    return frequency.policies


def _by_daemon(own: OwnFiles, target: str) -> Refusal | None:
    """Return a refusal where a daemon of the host chooses frequencies by its own rules."""
    for service in ("tlp", "power-profiles-daemon"):
        if own.others.runs(service):
            return Refusal(target=target, why=f"{service} is at work here and sets it by its own rules: configure it")
    return None


def _words(
    own: OwnFiles,
    wanted: Expectation,
    file: str,
    values: Mapping[str, str],
    choices: Mapping[str, frozenset[str]],
    *,
    why: str,
    check: str,
    tuned: Sequence[tuple[str, str]],
) -> Steps:
    """Yield what brings a file of every policy to an expected word, now and at each boot.

    Args:
        values: folder of the policy to the word that is there.
        choices: folder to the words that it takes, where the driver says so.
        tuned: sections and keys by which a profile of tuned sets it.
    """
    after = dict(values)
    kept = True
    for folder, word in values.items():
        path = f"{folder}/{file}"
        settled = settle(own, path, wanted, word, file=own.others.tmpfile(path), tuned=tuned)
        if settled is None:
            continue
        refused = settled if isinstance(settled, Refusal) else _by_daemon(own, f"{_ALL}/{file}")
        if refused is None and isinstance(settled, Settled):
            after[folder], kept = str(settled.value), kept and settled.kept
            if after[folder] not in choices.get(folder, {after[folder]}):
                offers = ", ".join(sorted(choices[folder]))
                refused = Refusal(target=path, why=f"the driver does not offer {after[folder]}, but {offers}")
        if refused is not None:
            yield refused
            return
    source = because(wanted)
    for folder, word in values.items():
        if after[folder] != word:
            yield write(f"{folder}/{file}", word, after[folder], why=why, source=source, fixes=[check])
    if not kept:
        same = set(after.values())
        lines = {f"{folder}/{file}": word for folder, word in after.items()}
        lines = {f"{_ALL}/{file}": same.pop()} if len(same) == 1 else lines
        yield from at_boot(own, check.partition(".")[2], lines, why=why, source=source)


@tuner(
    FREQUENCY, CHOICES, PLATFORM, OWN, id="cpu.governor", fixes=["cpu.governor"], rows=["os-cpu-governor"],
    keys=[GOVERNOR], references=["https://docs.kernel.org/admin-guide/pm/cpufreq.html"],
)  # fmt: skip
def governor(frequency: Frequency, choices: Choices, platform: Platform, own: OwnFiles, expect: Expect) -> Steps:
    """Set the frequency governor of every CPU.

    The clock no longer drops between bursts; idle power and heat rise a little. Rollback writes the old governor of
    each policy back.
    """
    values = {policy.path: need(policy.governor) for policy in _policies(frequency, platform)}
    why = "the clock does not lag behind the work"
    wanted, tuned = expect(GOVERNOR), [("cpu", "governor")]
    file, check = "scaling_governor", "cpu.governor"
    yield from _words(own, wanted, file, values, choices.governors, why=why, check=check, tuned=tuned)


@tuner(
    FREQUENCY, CHOICES, PLATFORM, OWN, id="cpu.energy-preference", fixes=["cpu.energy-preference"],
    rows=["os-cpu-governor"], keys=[PREFERENCE], references=["https://docs.kernel.org/admin-guide/pm/intel_pstate.html"],
)  # fmt: skip
def energy_preference(
    frequency: Frequency, choices: Choices, platform: Platform, own: OwnFiles, expect: Expect
) -> Steps:
    """Set the energy-performance preference of every CPU.

    Where the processor chooses its own frequency, this hint decides how fast it raises the clock. The performance
    governor of intel_pstate and amd-pstate sets it as well, and then refuses any other. Rollback writes the old ones.
    """
    policies = _policies(frequency, platform)
    values = {p.path: need(p.preference) for p in policies if not isinstance(p.preference, NotApplicable)}
    if not values:
        raise NotApplicable("the frequency driver has no energy preference")
    why = "the processor raises its clock at once"
    file, check = "energy_performance_preference", "cpu.energy-preference"
    wanted, tuned = expect(PREFERENCE), [("cpu", "energy_performance_preference")]
    yield from _words(own, wanted, file, values, choices.preferences, why=why, check=check, tuned=tuned)


@tuner(FREQUENCY, PLATFORM, id="cpu.max-frequency", fixes=["cpu.max-frequency"])
def max_frequency(frequency: Frequency, platform: Platform, expect: Expect) -> Steps:
    """Lift a cap under the highest frequency that the driver offers.

    The kernel starts without a cap at each boot, so this lasts as long as the cap would have. Whatever set it may do
    so again. Rollback writes the old bound back.
    """
    policies = _policies(frequency, platform)
    if frequency.boost is False:
        raise NotApplicable("boost is off, which lowers the highest frequency by itself: see cpu.boost")
    for policy in policies:
        bound, highest = need(policy.max_khz), need(policy.hardware_max_khz)
        if bound < highest * 0.99:
            yield write(
                f"{policy.path}/scaling_max_freq",
                f"{bound}",
                f"{highest}",
                why=f"the CPUs of policy {policy.id} are not held at {bound // 1000} of {highest // 1000} MHz",
                source=f"the host's own driver: {policy.path}/cpuinfo_max_freq",
                fixes=["cpu.max-frequency"],
            )


@tuner(FREQUENCY, PLATFORM, OWN, id="cpu.boost", fixes=["cpu.boost"], rows=["x-os-turbo"], keys=[BOOST])
def boost(frequency: Frequency, platform: Platform, own: OwnFiles, expect: Expect) -> Steps:
    """Set whether processors may run above their nominal frequency.

    Single threads gain up to half of their clock; power and heat rise. Where the firmware has switched boost off, the
    kernel refuses. Rollback writes the old value back.
    """
    platform.need_bare_metal("the hypervisor decides about boost")
    on, wanted = need(frequency.boost), expect(BOOST)
    path, intel = frequency.switch, frequency.is_intel

    def read(text: str) -> bool:
        return (int(text) == 1) is not intel

    tuned = [("cpu", "no_turbo" if intel else "boost")]
    settled = settle(own, path, wanted, on, file=own.others.tmpfile(path), tuned=tuned, read=read)
    refused = settled if isinstance(settled, Refusal) or settled is None else _by_daemon(own, path)
    if isinstance(refused, Refusal):
        yield refused
    elif isinstance(settled, Settled):
        before, after = (f"{int(state is not intel)}" for state in (on, settled.value is True))
        why, source = "processors may run above their nominal frequency", because(wanted)
        yield write(path, before, after, why=why, source=source, fixes=["cpu.boost"])
        if not settled.kept:
            yield from at_boot(own, "boost", {path: after}, why=why, source=source)


@tuner(
    IDLE, PLATFORM, OWN, id="cpu.idle-states", fixes=["cpu.idle-states"], rows=["x-os-cstates"], keys=[IDLE_LATENCY],
    references=["https://docs.kernel.org/admin-guide/pm/cpuidle.html"],
)  # fmt: skip
def idle_states(idle: Idle, platform: Platform, own: OwnFiles, expect: Expect) -> Steps:
    """Switch off the idle states that take longer to leave than the role allows.

    CPUs wake up in microseconds. It costs idle power and heat on every core, and single threads reach a lower boost;
    so it is planned only where a role or the site asks for it, else by name. Rollback allows each state again.
    """
    platform.need_bare_metal("the hypervisor decides about idle states")
    if idle.driver in ("none", "haltpoll"):
        raise NotApplicable(f"idle CPUs enter no state to wake up from (cpuidle driver {idle.driver})")
    wanted = expect(IDLE_LATENCY)
    slow = _too_slow(idle, wanted)
    if not slow:
        return
    if len(slow) == len(idle.states):
        yield Refusal(target=f"{_CPU}/cpuidle", why=f"no idle state of this host is {wanted.view.text}")
        return
    for state in slow:
        path = f"{_CPU}/cpu{min(state.enabled_on)}/cpuidle/state{state.index}/disable"
        refused = claimed(path, own.others.tmpfile(path))
        if refused is not None:
            yield refused
            return
    opt_in, source = wanted.layer.startswith("defaults"), because(wanted)
    risk = Risk.MEDIUM
    for state in slow:
        why = f"{state.name} takes {state.latency_us} us to wake up from"
        for cpu in sorted(state.enabled_on):
            path = f"{_CPU}/cpu{cpu}/cpuidle/state{state.index}/disable"
            fixes = ["cpu.idle-states"]
            yield write(path, "0", "1", why=why, source=source, fixes=fixes, risk=risk, opt_in=opt_in)
    kept = {f"{_CPU}/cpu*/cpuidle/state{state.index}/disable": "1" for state in slow}
    why = f"{', '.join(state.name for state in slow)} switched off"
    yield from at_boot(own, "idle-states", kept, why=why, source=source, risk=risk, opt_in=opt_in)


def _too_slow(idle: Idle, wanted: Expectation) -> list[IdleState]:
    """Return the states that CPUs may enter and that no expectation accepts, shallowest first.

    Raises:
        Unavailable: whether a program holds them off could not be read.
    """
    held: Maybe[int] = idle.latency_limit_us
    allowed = [state for state in idle.states if state.enabled_on]
    open_states = [state for state in allowed if not isinstance(held, int) or state.latency_us <= held]
    slow = [state for state in open_states if not wanted.matcher.matches(state.latency_us)]
    if slow and isinstance(held, Unavailable):
        raise Unavailable(held.why, held.probe, held.ending)
    return slow
