"""GPUs: clocks, power and temperature."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hostcheck.errors import Maybe, NotApplicable, Unavailable, need
from hostcheck.expect import Expect, ExpectationMissing, Key, failed, passed
from hostcheck.facts.base import each
from hostcheck.facts.gpu import GPUS, Gpu
from hostcheck.facts.gpu_health import board_class
from hostcheck.model import Actor, Finding, Severity
from hostcheck.registry import check

from .gpu_fixes import graded

MAX_SM_CLOCK = Key("gpu.max-sm-clock", int, "MHz", low=200, high=6000)
SM_LOCK = Key("gpu.clock-lock", int, "MHz", low=100, high=6000)
MEMORY_LOCK = Key("gpu.clock-lock.memory", int, "MHz", low=100, high=12000)
POWER_LIMIT = Key("gpu.power-limit", float, "% of the default limit", high=300)
TEMPERATURE = Key("gpu.temperature", int, "C below the GPU's own limit", low=-100, high=150)
MEMORY_TEMPERATURE = Key("gpu.memory-temperature", int, "C", high=150)

_SLOWED = {
    "hw_power_brake_slowdown": (
        "the power supply asks for less (HW power brake)",
        "look at power supplies and the power budget in the BMC: ipmitool sdr type 'Power Supply'; ipmitool sel list",
    ),
    "hw_thermal_slowdown": (
        "too hot (HW thermal slowdown)",
        "check fans, air flow, inlet temperature and the heat sink: ipmitool sdr type Temperature",
    ),
    "sw_thermal_slowdown": (
        "too hot (SW thermal slowdown)",
        "check fans, air flow and inlet temperature: ipmitool sdr type Temperature",
    ),
    "hw_slowdown": (
        "HW slowdown",
        "look at power supplies and cooling in the BMC: ipmitool sel list; nvidia-smi -q -d PERFORMANCE",
    ),
}
_NOTED = {
    "sw_power_cap": "at its power limit",
    "applications_clocks_setting": "application clocks are set",
    "sync_boost": "held back by sync boost",
    "gpu_idle": "idle",
}


@check(each(GPUS), id="gpu.clock-events", severity=Severity.HIGH, rows=["power-thermals", "power-cooling"])
def clock_events(gpu: Gpu, expect: Expect) -> Finding:
    """Neither heat nor the power supply slows the GPU down.

    A hardware slowdown halves the clocks or worse, and one slow GPU holds up all others of a job. Reaching the power
    limit under load, and low clocks when idle, are normal and are named only.
    """
    reasons = gpu.clocks.reasons
    slowed = [name for name in _SLOWED if reasons.get(name) is True]
    if len(slowed) > 1 and "hw_slowdown" in slowed:
        slowed.remove("hw_slowdown")
    if slowed:
        return failed(
            f"slowed down: {', '.join(_SLOWED[name][0] for name in slowed)}",
            ", ".join(slowed),
            wanted="no thermal or hardware slowdown",
            fix="; ".join(_SLOWED[name][1] for name in slowed),
        )
    unknown = [reasons[name] for name in _SLOWED if name in reasons and reasons[name] is not False]
    if len(unknown) == len(_SLOWED) or any(isinstance(reason, Unavailable) for reason in unknown):
        need(next(reason for reason in sorted(unknown, key=_unread_first)))
    notes = ", ".join(words for name, words in _NOTED.items() if reasons.get(name) is True)
    return passed(f"not slowed down{f' ({notes})' if notes else ''}", "none")


def _unread_first(reason: Maybe[bool]) -> bool:
    return not isinstance(reason, Unavailable)


@check(each(GPUS), id="gpu.max-sm-clock", severity=Severity.LOW, rows=["gpu-clock-lock"], keys=[MAX_SM_CLOCK])
def max_sm_clock(gpu: Gpu, expect: Expect) -> Finding:
    """The GPU's SM clock can rise as high as its model allows.

    Clocks of a board can be limited by its maker or by a firmware for another system; compute follows the clock one
    to one.
    """
    if gpu.virtualization == "VGPU" or board_class(need(gpu.name)) != "data-centre":
        raise NotApplicable("board makers choose the clocks of consumer and workstation boards")
    clock = need(gpu.clocks.max.sm_mhz)
    fix = "Compare part number and VBIOS (nvidia-smi -q) with a GPU that has it; ask the maker for the right VBIOS."
    finding = expect(MAX_SM_CLOCK).judge(clock, say=f"SM clocks up to {clock} MHz", fix=fix)
    return graded(finding, Severity.MEDIUM)


@check(each(GPUS), id="gpu.clock-limits", severity=Severity.LOW, rows=["gpu-clock-lock"])
def clock_limits(gpu: Gpu, expect: Expect) -> Finding:
    """No application clock is set below the GPU's default.

    Such a setting, made with nvidia-smi -ac and forgotten, caps every program on the GPU. The default itself can be
    below the maximum, as on A100 and T4; the GPU then rises above it by itself. Drivers from 590 on no longer tell.
    """
    pairs = {
        "graphics": (gpu.clocks.application.graphics_mhz, gpu.clocks.default_application.graphics_mhz),
        "memory": (gpu.clocks.application.memory_mhz, gpu.clocks.default_application.memory_mhz),
    }
    known = {kind: (need(now), need(usual)) for kind, (now, usual) in pairs.items()}
    words = ", ".join(f"{kind} {now} of {usual} MHz" for kind, (now, usual) in known.items())
    if all(now >= usual for now, usual in known.values()):
        return passed(f"application clocks are at their default: {words}", known["graphics"][0])
    finding = failed(
        f"an application clock is set below its default: {words}",
        known["graphics"][0],
        wanted=f"{known['graphics'][1]} MHz graphics and {known['memory'][1]} MHz memory, the defaults",
        fix=f"nvidia-smi -i {gpu.index} --reset-applications-clocks",
    )
    return graded(finding, Severity.MEDIUM)


@check(each(GPUS), id="gpu.clock-lock", severity=Severity.LOW, rows=["gpu-clock-lock"], keys=[SM_LOCK, MEMORY_LOCK])
def clock_lock(gpu: Gpu, expect: Expect) -> Iterator[Finding]:
    """Where clocks are to be locked, the GPU runs at them.

    Locked clocks make one run comparable with the next, and cost the boost above them. No driver tells what is
    locked, so the clock itself is looked at, and that of an idle GPU may be lower. Which clock only the site can say:
    expect gpu.clock-lock and gpu.clock-lock.memory.
    """
    asked = 0
    for key, kind, option, clock in (
        (SM_LOCK, "SM", "-lgc", gpu.clocks.current.sm_mhz),
        (MEMORY_LOCK, "memory", "-lmc", gpu.clocks.current.memory_mhz),
    ):
        try:
            wanted = expect(key)
        except ExpectationMissing:
            continue
        asked += 1
        now = need(clock)
        if not wanted.matcher.matches(now) and gpu.clocks.reasons.get("gpu_idle") is not False:
            raise Unavailable(f"the {kind} clock is {now} MHz, and the GPU is idle: only a load shows what is locked")
        fix = f"nvidia-smi -i {gpu.index} {option} MIN,MAX (lost at the next reboot)"
        yield wanted.judge(now, say=f"the {kind} clock is {now} MHz", fix=fix)
    if not asked:
        raise NotApplicable("nothing says that clocks are to be locked here (gpu.clock-lock)")


@check(
    each(GPUS),
    id="gpu.power-limit",
    severity=Severity.MEDIUM,
    rows=["gpu-power-limit", "power-derate"],
    keys=[POWER_LIMIT],
)
def power_limit(gpu: Gpu, expect: Expect) -> Finding:
    """The power limit in force is the GPU's default or higher.

    A GPU at 70 % of its power does large matrix products 10 to 20 % slower. A limit set with nvidia-smi is easily
    forgotten; one set through the BMC shows in no setting of the operating system, only here. A site that caps power on
    purpose, such as to 90 % for jobs of many weeks, expects that: gpu.power-limit = 90.
    """
    if board_class(need(gpu.name)) == "laptop":
        raise NotApplicable("a laptop moves the limit with its temperature and battery")
    limit, default = need(gpu.power.limit_w), need(gpu.power.default_limit_w)
    if default <= 0:
        raise Unavailable(f"the default power limit is given as {default:g} W")
    asked = gpu.power.requested_limit_w
    outside = isinstance(asked, float) and asked > limit
    fix = "The BMC caps it: lift the limit in its power settings." if outside else (
        f"nvidia-smi -i {gpu.index} -pl {default:.0f} (until the next reboot; look for the unit or script that caps it)"
    )  # fmt: skip
    say = f"power limit {limit:g} W of {default:g} W by default"
    return expect(POWER_LIMIT).judge(round(100 * limit / default, 1), say=say, fix=fix)


@check(each(GPUS), id="gpu.temperature", severity=Severity.HIGH, rows=["power-thermals"], keys=[TEMPERATURE])
def temperature(gpu: Gpu, expect: Expect) -> Finding:
    """The GPU is cooler than its own operating limit.

    At the limit it lowers its clocks, some degrees above it slows down hard, and then it shuts itself off. The limit
    differs by model, from below 80 to above 90 C, and newer GPUs tell only how far they are from it.
    """
    temps = gpu.temperature
    if isinstance(temps.tlimit_c, int):
        limit = _first((temps.max_operating_tlimit_c, temps.slowdown_tlimit_c, 0))
        margin = temps.tlimit_c - need(limit)
        now = f"{temps.gpu_c} C, " if isinstance(temps.gpu_c, int) else ""
    else:
        current = need(temps.gpu_c)
        margin = need(_first((temps.max_operating_c, temps.slowdown_c, temps.shutdown_c))) - current
        now = f"{current} C, "
    fix = (
        "Check fans, air flow, inlet temperature and dust: nvidia-smi -q -d TEMPERATURE; ipmitool sdr type Temperature"
    )
    return expect(TEMPERATURE).judge(margin, say=f"{now}{margin} C below its operating limit", fix=fix)


def _first(values: Iterable[Maybe[int]]) -> Maybe[int]:
    """Return the first that is known; if none is, the first reason."""
    values = list(values)
    return next((value for value in values if isinstance(value, int)), values[0])


@check(
    each(GPUS),
    id="gpu.memory-temperature",
    severity=Severity.HIGH,
    rows=["power-thermals"],
    keys=[MEMORY_TEMPERATURE],
)
def memory_temperature(gpu: Gpu, expect: Expect) -> Finding:
    """The GPU's memory is cooler than its limit.

    HBM sits under the same cooler as the chip and throttles bandwidth when it is too hot; heat also makes bit errors
    more frequent. Where the GPU names no limit in degrees, a fixed one is used.
    """
    now, limit = need(gpu.temperature.memory_c), gpu.temperature.memory_max_operating_c
    fix = "Check fans, air flow and the seat of the heat sink: nvidia-smi -q -d TEMPERATURE"
    if not isinstance(limit, int):
        return expect(MEMORY_TEMPERATURE).judge(now, say=f"memory at {now} C", fix=fix)
    line = f"memory at {now} C, its limit is {limit} C"
    if now < limit:
        return passed(line, now)
    return failed(line, now, wanted=f"below {limit} C, the GPU's own limit", fix=fix, actor=Actor.OPERATOR)
