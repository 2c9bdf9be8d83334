"""GPUs: the power limit and locked clocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hostcheck.checks.gpu_clocks import MEMORY_LOCK, POWER_LIMIT, SM_LOCK
from hostcheck.errors import NotApplicable, Unavailable, need
from hostcheck.expect import Expect, Expectation, ExpectationMissing
from hostcheck.facts.dropins import OWN, SCRIPTS, OwnFiles
from hostcheck.facts.gpu import GPUS, Gpu
from hostcheck.facts.gpu_health import board_class
from hostcheck.facts.gpu_locks import CLOCK_LOCKS, ClockLocks
from hostcheck.registry import tuner
from hostcheck.tuning.change import Change, Refusal, Risk

from .gpu_settings import again_at_boot, forgets, need_own, set_gpu, uuid_of
from .making import because, pick

Steps = Iterator[Change | Refusal]


@tuner(
    GPUS, OWN, id="gpu.power-limit", fixes=["gpu.power-limit"], rows=["gpu-power-limit", "power-derate"],
    keys=[POWER_LIMIT], references=["https://docs.nvidia.com/deploy/nvidia-smi/index.html"],
)  # fmt: skip
def power_limit(gpus: Sequence[Gpu], own: OwnFiles, expect: Expect) -> Steps:
    """Set the power limit of every GPU to what is expected, in percent of its own default.

    Without an expectation of the site that is the default, so that a forgotten cap goes; where the cap is meant, such
    as 90 % for jobs of many weeks, expect it: gpu.power-limit = 90. A cap is made again after each boot by a unit of
    ours, since GPUs forget it. A limit that is lifted draws more power than the rack may be planned
    for. Rollback sets the old limit.
    """
    capped: dict[str, str] = {}
    wanted: Expectation | None = None
    for gpu in gpus:
        try:
            wanted = _limit_is_ours(gpu, expect)
        except (NotApplicable, ExpectationMissing):
            continue
        found = _watts(gpu, wanted)
        if isinstance(found, Refusal):
            yield found
            continue
        now, watts, default = found
        if watts != now and (lost := forgets(gpu, "power limit")):
            yield lost
            continue
        if not wanted.matcher.matches(100.0):
            capped[uuid_of(gpu)] = f"-pl {watts:.2f}"
        if watts != now:
            verb = "capped to" if watts < default else "raised to"
            yield set_gpu(
                gpu,
                "power-limit",
                f"{now:.2f}",
                f"{watts:.2f}",
                why=f"power {verb} {100 * watts / default:.0f} % of the default of {default:g} W",
                source=because(wanted),
                fixes=["gpu.power-limit"],
                risk=Risk.MEDIUM,
            )
    if wanted is not None and capped:
        yield from again_at_boot(own, "gpu-power-limit", capped, why="GPUs are capped", source=because(wanted))
    elif own.text(f"{SCRIPTS}/gpu-power-limit.sh") is not None:
        why = "it caps GPUs at each boot, and no cap is expected: hostcheck tune rollback of its transaction removes it"
        yield Refusal(target=f"{SCRIPTS}/gpu-power-limit.sh", why=why)


def _limit_is_ours(gpu: Gpu, expect: Expect) -> Expectation:
    """Return the expectation of a GPU whose limit software may set.

    Raises:
        NotApplicable: it is not for us to set.
    """
    need_own(gpu, "its host sets the power limit")
    if board_class(need(gpu.name)) == "laptop":
        raise NotApplicable("a laptop moves the limit with its temperature and battery")
    need(gpu.power.limit_w)
    return expect.of(gpu.traits)(POWER_LIMIT)


def _watts(gpu: Gpu, wanted: Expectation) -> tuple[float, float, float] | Refusal:
    """Return the limit that software asked for, the one to be set, and the default, in W."""
    power = gpu.power
    limit, default = need(power.limit_w), need(power.default_limit_w)
    if default <= 0:
        raise Unavailable(f"the default power limit is given as {default:g} W", "gpu.smi")
    asked = power.requested_limit_w if isinstance(power.requested_limit_w, float) else limit
    share = round(100 * limit / default, 1)
    if wanted.matcher.matches(share):
        return asked, asked, default
    target = f"{gpu.subject} power limit"
    if asked > limit:
        return Refusal(target=target, why=f"the BMC caps it at {limit:g} W: lift the limit in its power settings")
    # A cap that nobody asks for gives way to the default, and not to the last percent that would do.
    value = 100.0 if share < 100 and wanted.matcher.matches(100.0) else pick(target, wanted, share)
    if isinstance(value, Refusal):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Refusal(target=target, why=f"{wanted.view.text} is no share of the default")
    watts = round(default * value / 100, 2)
    low, high = need(power.min_limit_w), need(power.max_limit_w)
    if not low <= watts <= high:
        return Refusal(target=target, why=f"{watts:g} W is outside of the {low:g} to {high:g} W that the GPU allows")
    return asked, watts, default


@tuner(
    GPUS, OWN, CLOCK_LOCKS, id="gpu.clock-lock", fixes=["gpu.clock-lock"], rows=["gpu-clock-lock"],
    keys=[SM_LOCK, MEMORY_LOCK], references=["https://docs.nvidia.com/deploy/nvidia-smi/index.html"],
)  # fmt: skip
def clock_lock(gpus: Sequence[Gpu], own: OwnFiles, locks: ClockLocks, expect: Expect) -> Steps:
    """Lock the clocks of every GPU, where the site expects a clock: gpu.clock-lock, gpu.clock-lock.memory.

    Runs become comparable; the boost above the clock is lost, and an idle GPU draws more power. No driver tells which
    clocks are locked, so hostcheck keeps its own locks in /run/hostcheck: what it locked in this boot it does not lock
    again, and rollback locks as before. A lock of another tool is not seen and cannot be brought back: rollback
    unlocks. Nor is it seen when another tool, a GPU reset or a reload of the driver ends a lock.
    """
    options: dict[str, list[str]] = {}
    source = ""
    for gpu in gpus:
        for key, setting, option, now, highest in (
            (SM_LOCK, "sm-clock-lock", "-lgc", gpu.clocks.current.sm_mhz, gpu.clocks.max.sm_mhz),
            (MEMORY_LOCK, "memory-clock-lock", "-lmc", gpu.clocks.current.memory_mhz, gpu.clocks.max.memory_mhz),
        ):
            try:
                wanted = expect.of(gpu.traits)(key)
                need_own(gpu, "its host sets the clocks")
            except (NotApplicable, ExpectationMissing):
                continue
            clock = need(now)
            value = pick(f"{gpu.subject} {setting}", wanted, clock)
            if isinstance(value, Refusal):
                yield value
                continue
            if isinstance(value, int) and value > need(highest):
                why = f"{value} MHz is above the {need(highest)} MHz that the GPU can do"
                yield Refusal(target=f"{gpu.subject} {setting}", why=why)
                continue
            before, after = locks.of(uuid_of(gpu), setting), f"{value},{value}"
            # Without a lock of ours, the clock itself is all that tells.
            done = value == clock if before is None else before == after
            if not done and (lost := forgets(gpu, setting)):
                yield lost
                continue
            source = because(wanted)
            options.setdefault(uuid_of(gpu), []).append(f"{option} {after}")
            if not done:
                why = f"the clock stays at {value} MHz"
                yield set_gpu(gpu, setting, before, after, why=why, source=source, risk=Risk.MEDIUM)
    # nvidia-smi takes one of the two options at a time.
    lines = {uuid: f" && nvidia-smi -i {uuid} ".join(words) for uuid, words in options.items()}
    yield from again_at_boot(own, "gpu-clock-lock", lines, why="clocks are locked", source=source)
