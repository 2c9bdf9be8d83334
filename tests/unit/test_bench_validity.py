"""What speaks against a number, and what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.bench.model import Conditions, Sampled
from hostcheck.bench.validity import Ceilings, fault, statistic, variation
from hostcheck.facts.bench import allowed

CEILINGS = Ceilings(sm_max_mhz=1980, mem_max_mhz=2619, power_default_w=700)
# An H100 SXM under a tensor load as it was recorded: at its power limit, clocks below the maximum.
LOADED = Conditions(
    sm_mhz=1410, mem_mhz=2619, power_w=699, power_limit_w=700, temperature_c=64, seconds=2.0,
    throttled_ns={"sw_power_cap": 1_950_000_000},
)  # fmt: skip
TENSOR = Sampled(samples=(760.0, 762.0, 764.0, 758.0, 761.0), unit="TFLOPS", limit=989.4, verified=True)
MEMORY = Sampled(samples=(3100.0, 3101.0, 3102.0, 3099.0, 3100.0), unit="GB/s", limit=3352.0, verified=True)


def said(sampled: Sampled, conditions: Conditions = LOADED) -> str:
    return fault(sampled, conditions, ceilings=CEILINGS)


def test_a_healthy_gpu_at_its_power_limit_is_believed() -> None:
    assert said(TENSOR) == ""
    assert said(MEMORY) == ""


def test_nothing_known_of_the_conditions_speaks_against_nothing() -> None:
    assert fault(TENSOR, Conditions(), ceilings=Ceilings()) == ""


@pytest.mark.parametrize(
    ("sampled", "says"),
    [
        (replace(MEMORY, verified=False), "its output was not verified"),
        (replace(MEMORY, samples=()), "there are no samples"),
        (replace(MEMORY, samples=(float("nan"),)), "a sample is no number that can be measured"),
        (replace(MEMORY, samples=(-1.0,)), "a sample is no number that can be measured"),
        (replace(MEMORY, invalid="memory of another node"), "memory of another node"),
        # The sample of a vendor's scanner, which its own floor passes.
        (replace(MEMORY, samples=(4150.0,), limit_source="datasheet"),
         "4,150 GB/s is above the physical limit of 3,352 (datasheet): it was measured wrongly"),
        (replace(MEMORY, samples=(3380.0,)), "above the physical limit"),
        (replace(TENSOR, samples=(1020.0,)), "above the physical limit"),
        (replace(MEMORY, samples=(2000.0, 2500.0, 3000.0, 2100.0, 2900.0)), "unsteady: the samples vary by"),
    ],
)  # fmt: skip
def test_against_the_samples(sampled: Sampled, says: str) -> None:
    assert says in said(sampled)


def test_what_is_at_the_limit_within_rounding_is_not_above_it() -> None:
    assert said(replace(MEMORY, samples=(3360.0,))) == ""
    assert said(replace(TENSOR, samples=(1000.0,))) == ""


def test_a_time_cannot_be_below_its_limit() -> None:
    latency = Sampled(samples=(1.0,), unit="us", limit=2.0, verified=True)
    assert "is below the physical limit" in said(latency)
    nothing = replace(latency, samples=(0.0,), limit=None)
    assert said(nothing) == "nothing takes 0 us: it was measured wrongly"
    assert said(replace(latency, samples=(3.0,))) == ""


def test_one_sample_that_was_held_up_is_no_unsteadiness_and_times_may_scatter() -> None:
    assert said(replace(MEMORY, samples=(3100.0,) * 19 + (1500.0,))) == ""
    scattered = Sampled(samples=(2.0, 9.0, 3.0, 20.0, 2.5), unit="us", verified=True)
    assert said(scattered) == ""
    pageable = replace(MEMORY, samples=(9.0, 8.0, 10.0, 9.5, 8.5), settings={"clock": "host"})
    assert said(pageable) == ""
    assert said(replace(pageable, settings={})) == "unsteady: the samples vary by 12%"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"throttled_ns": {"hw_thermal_slowdown": 500_000_000}}, "slowed by hardware thermal slowdown for 25%"),
        ({"throttled_ns": {"hw_power_brake": 100_000_000}}, "the hardware power brake"),
        ({"throttled_ns": {"sw_thermal_slowdown": 2_000_000_000}}, "software thermal slowdown for 100%"),
        ({"others": ("python (pid 4711)",)}, "python (pid 4711) ran on the GPU meanwhile"),
        ({"errors": {"ecc.dram.uncorrected": 1}}, "errors were counted meanwhile: ecc.dram.uncorrected +1"),
        ({"errors": {"nvlink.replays": 500}}, "nvlink.replays +500"),
        ({"power_limit_w": 400.0}, "the power limit is 400 W of 700 W, and it held the clocks down"),
        ({"sm_mhz": 345.0, "throttled_ns": {"sw_power_cap": 0}}, "the SM clock stayed at 345 of 1980 MHz without"),
    ],
)  # fmt: skip
def test_against_the_conditions(change: dict[str, object], says: str) -> None:
    assert says in said(TENSOR, replace(LOADED, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"throttled_ns": {"hw_thermal_slowdown": 10_000_000}},
        {"errors": {"ecc.dram.corrected": 3}},
        {"errors": {"pcie.replays": 2}},
        {"power_limit_w": 690.0},
        {"sm_mhz": 1500.0, "throttled_ns": {}},
    ],
)
def test_what_does_not_change_a_median_or_is_ecc_at_work_is_no_reason(change: dict[str, object]) -> None:
    assert said(TENSOR, replace(LOADED, **change)) == ""  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "most"), [(None, 8), (0.0, 8), (-1.0, 8), (89.0, 8), (90.0, 8), (900.0, 80), (50_400.0, 4480)]
)
def test_what_a_link_may_repeat_grows_with_the_time(seconds: float | None, most: int) -> None:
    """80 in 15 minutes; 9 in 14 hours made a soak invalid."""
    assert allowed(seconds) == most
    for more in (most, most + 1):
        long = Conditions(seconds=seconds, errors={"pcie.replays": more})
        assert bool(said(TENSOR, long)) == (more > most)


def test_a_power_limit_and_the_clock_of_multiprocessors_do_not_touch_memory() -> None:
    assert said(MEMORY, replace(LOADED, power_limit_w=400.0)) == ""
    assert said(MEMORY, replace(LOADED, sm_mhz=345.0, throttled_ns={})) == ""
    assert "the memory clock stayed at 1593 of 2619 MHz" in said(MEMORY, replace(LOADED, mem_mhz=1593.0))


def test_statistics() -> None:
    samples = [5.0, 1.0, 2.0, 4.0, 3.0]
    found = {name: statistic(samples, name) for name in ("median", "min", "max", "mean", "p99", "p20", "p99.9")}
    assert found == {"median": 3, "min": 1, "max": 5, "mean": 3, "p99": 5, "p20": 1, "p99.9": 5}
    with pytest.raises(ValueError, match="no samples"):
        statistic([], "median")
    with pytest.raises(ValueError, match="no statistic"):
        statistic([1.0], "best")


def test_the_variation_of_normal_samples_is_their_coefficient_of_variation() -> None:
    from statistics import NormalDist

    samples = NormalDist(100, 7).samples(20_000, seed=1)
    assert variation(samples) == pytest.approx(0.07, rel=0.05)
    assert variation([1.0, 2.0]) is None


@given(st.lists(st.floats(0, 1e12), max_size=30), st.floats(0, 1e12) | st.none())
def test_whatever_is_measured_there_is_one_line(samples: list[float], limit: float | None) -> None:
    line = said(Sampled(samples=tuple(samples), unit="GB/s", limit=limit, verified=True))
    assert "\n" not in line


def test_a_cap_that_no_counter_tells_is_told_by_the_power() -> None:
    """A card at its 72 W whose driver does not count for how long the cap held it."""
    slow = Conditions(seconds=1.0, sm_mhz=1050, power_limit_w=72)
    starved = replace(TENSOR, samples=(400.0,))
    most = Ceilings(sm_max_mhz=2040, power_default_w=72)
    assert fault(starved, replace(slow, power_w=71.6), ceilings=most) == ""
    assert fault(starved, slow, ceilings=most) == "", "nobody knows"
    assert "without a power cap" in fault(starved, replace(slow, power_w=40), ceilings=most)
    counted = replace(slow, power_w=71.6, throttled_ns={"sw_power_cap": 0})
    assert "without a power cap" in fault(starved, counted, ceilings=most)
    lowered = Ceilings(power_default_w=100)
    assert "held the clocks down" in fault(starved, replace(slow, power_w=71.6), ceilings=lowered)
    assert fault(starved, replace(slow, power_w=40), ceilings=lowered) == ""
