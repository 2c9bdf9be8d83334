"""How fast the processors may run and how deep they may sleep: frequencies, boost, idle states, throttling."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from hostcheck.errors import Maybe, NotApplicable, Unavailable
from hostcheck.facts.base import Fact
from hostcheck.facts.cpu import MAX_CPUS, parse_cpu_list
from hostcheck.snapshot.probes import FileProbe
from hostcheck.snapshot.reading import Reading

_CPU = "/sys/devices/system/cpu"
_POLICY = f"{_CPU}/cpufreq/policy*"
_POLICY_FIELDS = (
    "affected_cpus", "scaling_driver", "scaling_governor", "energy_performance_preference", "scaling_min_freq",
    "scaling_max_freq", "cpuinfo_max_freq",
)  # fmt: skip
_BOOST = f"{_CPU}/cpufreq/boost"
_NO_TURBO = f"{_CPU}/intel_pstate/no_turbo"
_STATE = f"{_CPU}/cpu0/cpuidle/state*"
_DISABLE = f"{_CPU}/cpu*/cpuidle/state*/disable"
_LATENCY_DEVICE = "/dev/cpu_dma_latency"
_THROTTLE = f"{_CPU}/cpu*/thermal_throttle"

FREQUENCY_PROBE = FileProbe(
    "cpu.frequency", (_BOOST, _NO_TURBO, *(f"{_POLICY}/{name}" for name in _POLICY_FIELDS)), limit=4096
)
_GOVERNORS = f"{_POLICY}/scaling_available_governors"
_PREFERENCES = f"{_POLICY}/energy_performance_available_preferences"
CHOICES_PROBE = FileProbe("cpu.frequency-choices", (_GOVERNORS, _PREFERENCES), limit=4096)
IDLE_PROBE = FileProbe(
    "cpu.idle",
    (
        f"{_CPU}/cpuidle/current_driver",
        f"{_STATE}/name",
        f"{_STATE}/latency",
        _DISABLE,
        # Reading it tells the latency that all its holders together allow, and asks for none of its own.
        _LATENCY_DEVICE,
    ),
    limit=4096,
)
THROTTLE_PROBE = FileProbe(
    "cpu.throttle", (f"{_THROTTLE}/core_throttle_count", f"{_THROTTLE}/package_throttle_count"), limit=64, twice=True
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """CPUs whose frequency is set together.

    Attributes:
        id: number of its first CPU.
        path: its folder in sysfs.
        cpus: those of its CPUs that are online.
        driver: such as "intel_pstate", "amd-pstate-epp", "acpi-cpufreq".
        governor: such as "performance" or "powersave".
        preference: the energy-performance preference, such as "balance_performance"; only some drivers have it.
        min_khz, max_khz: bounds that software set.
        hardware_max_khz: the highest frequency that the driver offers, boost included where it counts it.
    """

    id: int
    path: str
    cpus: frozenset[int]
    driver: Maybe[str]
    governor: Maybe[str]
    preference: Maybe[str]
    min_khz: Maybe[int]
    max_khz: Maybe[int]
    hardware_max_khz: Maybe[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frequency:
    """Frequency control of the host.

    Attributes:
        policies: all with a CPU online; empty where the kernel has no control, as in most guests.
        boost: whether frequencies above the nominal one are allowed.
        switch: path of the file that says so, with 1 for no where it is Intel's; empty where there is none.
    """

    policies: tuple[Policy, ...]
    boost: Maybe[bool]
    switch: str = ""

    @property
    def is_intel(self) -> bool:
        """Whether the switch is Intel's, which is the other way round."""
        return self.switch == _NO_TURBO


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What the frequency drivers let one choose; empty where a policy does not say.

    Attributes:
        governors, preferences: folder of the policy to the words that it takes.
    """

    governors: Mapping[str, frozenset[str]]
    preferences: Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleState:
    """One idle state.

    Attributes:
        index: its number; deeper states have higher ones.
        name: such as "C6".
        latency_us: microseconds until a CPU works again.
        enabled_on: CPUs that may enter it.
    """

    index: int
    name: str
    latency_us: int
    enabled_on: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """What CPUs do when there is nothing to do.

    Attributes:
        driver: such as "intel_idle", "acpi_idle", "haltpoll"; "none" where idle CPUs poll or only halt.
        states: its states, shallowest first.
        latency_limit_us: the wake-up latency that programs hold through /dev/cpu_dma_latency; states that take
            longer are not entered. Two thousand seconds where nobody holds any.
    """

    driver: str
    states: tuple[IdleState, ...]
    latency_limit_us: Maybe[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttling:
    """How often processors slowed down for heat.

    Attributes:
        grown: CPU to the number of new events between the two samples; those without any are left out.
        since_boot: events of cores and packages, the highest count of any CPU.
        seconds: time between the samples.
    """

    grown: Mapping[int, int]
    since_boot: int
    seconds: float


def parse_khz(text: str) -> int:
    """Parse a frequency in kHz.

    Raises:
        Unavailable: it is no number, such as "<unknown>".

    Sample:
        3900000
    """
    if not re.fullmatch("[0-9]{1,9}", text.strip()):
        raise Unavailable(f"{text.strip()[:40]!r} is no frequency in kHz")
    return int(text)


def parse_frequency(reading: Reading) -> Frequency:
    """Put together the policies; a policy whose CPUs are all offline refuses to be read and is left out."""
    texts = {name: reading.glob(f"{_POLICY}/{name}", refused="leave-out") for name in _POLICY_FIELDS}
    folders = sorted({path.rpartition("/")[0] for path in texts["scaling_driver"] | texts["scaling_governor"]})
    policies = []
    for folder in folders:
        number = folder.removeprefix(f"{_CPU}/cpufreq/policy")
        own = {name: texts[name].get(f"{folder}/{name}") for name in _POLICY_FIELDS}
        affected = own["affected_cpus"]
        cpus = parse_cpu_list(",".join((number if affected is None else affected).split()))
        if cpus:
            policies.append(
                Policy(
                    id=min(cpus),
                    path=folder,
                    cpus=cpus,
                    driver=_word(own["scaling_driver"], "scaling_driver"),
                    governor=_word(own["scaling_governor"], "scaling_governor"),
                    preference=_preference(own["energy_performance_preference"]),
                    min_khz=_khz(own["scaling_min_freq"]),
                    max_khz=_khz(own["scaling_max_freq"]),
                    hardware_max_khz=_khz(own["cpuinfo_max_freq"]),
                )
            )
    boost, switch = _boost(reading)
    # This driver shows its switch, off, also where a processor has nothing above its nominal frequency (GB10).
    if boost is False and any(policy.driver == "cppc_cpufreq" for policy in policies):
        boost = NotApplicable("cppc_cpufreq does not tell whether there is anything to boost to")
    return Frequency(policies=tuple(sorted(policies, key=lambda policy: policy.id)), boost=boost, switch=switch)


def parse_choices(reading: Reading) -> Choices:
    """Return the words that each policy takes; a policy whose CPUs are all offline is left out."""

    def words(pattern: str) -> dict[str, frozenset[str]]:
        texts = reading.glob(pattern, refused="leave-out")
        return {path.rpartition("/")[0]: frozenset(text.split()) for path, text in texts.items()}

    return Choices(governors=words(_GOVERNORS), preferences=words(_PREFERENCES))


def parse_idle(reading: Reading) -> Idle:
    """Put together the idle states of the first CPU, and on which CPUs each is enabled.

    Raises:
        Unavailable: they were not read.
        NotApplicable: the kernel has no choice of idle states.
    """
    driver = (reading.read(f"{_CPU}/cpuidle/current_driver") or "").strip()
    if not driver:
        raise NotApplicable("the kernel has no cpuidle")
    names, latencies = reading.glob(f"{_STATE}/name"), reading.glob(f"{_STATE}/latency")
    enabled: dict[int, set[int]] = {}
    for path, text in reading.glob(_DISABLE).items():
        found = re.fullmatch(r".*/cpu([0-9]{1,5})/cpuidle/state([0-9]{1,2})/disable", path)
        if found and text.strip() == "0":
            enabled.setdefault(int(found[2]), set()).add(int(found[1]))
    states = []
    for path, name in names.items():
        folder = path.rpartition("/")[0]
        index, latency = folder.removeprefix(_STATE[:-1]), latencies.get(f"{folder}/latency", "").strip()
        if not (re.fullmatch("[0-9]{1,2}", index) and re.fullmatch("[0-9]{1,9}", latency)):
            raise Unavailable(f"{folder}/latency is {latency[:40]!r}, no number of microseconds", reading.probe)
        cpus = frozenset(enabled.get(int(index), ()))
        states.append(IdleState(index=int(index), name=name.strip(), latency_us=int(latency), enabled_on=cpus))
    states.sort(key=lambda state: state.index)
    return Idle(driver=driver, states=tuple(states), latency_limit_us=_latency_limit(reading))


def parse_throttling(reading: Reading) -> Throttling:
    """Compare the two samples of the thermal counters.

    Raises:
        Unavailable: one of them was not read.
        NotApplicable: the processors count no throttling (all but Intel's), or this is a guest.
    """
    first = _counts(reading)
    if not first:
        raise NotApplicable("these processors, or this guest, keep no count of thermal throttling")
    if reading.later is None:
        raise reading.unavailable("the counters were read only once")
    later = _counts(reading.later)
    grown: dict[int, int] = {}
    for path, count in later.items():
        cpu = int(re.sub(r"\D", "", path.removeprefix(f"{_CPU}/cpu").partition("/")[0])[:5] or MAX_CPUS)
        if count > first.get(path, count):
            grown[cpu] = max(grown.get(cpu, 0), count - first[path])
    seconds = max(0.0, reading.later.at - reading.at)
    return Throttling(grown=grown, since_boot=max(first.values()), seconds=seconds)


def _word(text: str | None, name: str) -> Maybe[str]:
    return Unavailable(f"{name} was not read") if text is None else text.strip()


def _preference(text: str | None) -> Maybe[str]:
    if text is None:
        return NotApplicable("the frequency driver has no energy preference")
    return "performance" if text.strip() == "0" else text.strip()


def _khz(text: str | None) -> Maybe[int]:
    if text is None:
        return NotApplicable("the frequency driver does not show it")
    try:
        return parse_khz(text)
    except Unavailable as missing:
        return missing


def _boost(reading: Reading) -> tuple[Maybe[bool], str]:
    """Return whether boost is allowed, and the file that says so; Intel's driver has it the other way round."""
    try:
        no_turbo, boost = reading.read(_NO_TURBO), reading.read(_BOOST)
    except Unavailable as missing:
        return missing, ""
    for path, text, on in ((_NO_TURBO, no_turbo, "0"), (_BOOST, boost, "1")):
        if text is not None and text.strip() in ("0", "1"):
            return text.strip() == on, path
    return NotApplicable("the frequency driver has no switch for boost"), ""


def _latency_limit(reading: Reading) -> Maybe[int]:
    try:
        if reading.read(_LATENCY_DEVICE) is None:
            return NotApplicable(f"there is no {_LATENCY_DEVICE}")
    except Unavailable as missing:
        return missing
    data = reading.files[_LATENCY_DEVICE].data[:4]
    if len(data) < 4:
        return Unavailable(f"{_LATENCY_DEVICE} gave no number", reading.probe)
    return int.from_bytes(data, "little")


def _counts(reading: Reading) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in ("core_throttle_count", "package_throttle_count"):
        for path, text in reading.glob(f"{_THROTTLE}/{name}").items():
            if not re.fullmatch("[0-9]{1,18}", text.strip()):
                raise Unavailable(f"{path} is {text.strip()[:40]!r}, no count", reading.probe)
            counts[path] = int(text)
    return counts


FREQUENCY: Fact[Frequency] = Fact("cpu.frequency", parse_frequency, FREQUENCY_PROBE)
CHOICES: Fact[Choices] = Fact("cpu.frequency-choices", parse_choices, CHOICES_PROBE)
IDLE: Fact[Idle] = Fact("cpu.idle", parse_idle, IDLE_PROBE)
THROTTLING: Fact[Throttling] = Fact("cpu.throttling", parse_throttling, THROTTLE_PROBE)
