"""Hosts of a fleet compared with their equals: who is an equal, what differs, what lies far off."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fleets import called, edited, equals, fleet_of, silent, with_file
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.bench.model import Measurement, Session
from hostcheck.bench.session import with_results
from hostcheck.facts.base import Facts
from hostcheck.fleet.outliers import EQUALS, LIMIT, MEASURES, NORMAL, measures, outliers, spread
from hostcheck.fleet.peers import Hardware, hardware, natural, peer_groups
from hostcheck.fleet.uniform import NONE, Value, differences, values
from hostcheck.render.fleet_group import NOT_READ
from hostcheck.snapshot.reading import Ending, Reading, Snapshot
from support import host

# peers


def box(gpus: int, *, model: str = "NVIDIA H100", cpu: str = "2 x Xeon", product: str = "DGX") -> Hardware:
    models = frozenset({model} if gpus else ())
    return Hardware(gpus=f"{gpus} x {model}" if gpus else "no GPU", models=models, cpu=cpu, product=product)


def test_one_that_lost_a_gpu_is_put_with_those_it_was_bought_with() -> None:
    hosts = {"a": box(7), "b": box(8), "c": box(8), "d": box(8), "login": box(0, cpu="1 x EPYC", product="R650")}

    assert peer_groups(hosts) == {
        "8 x NVIDIA H100, 2 x Xeon": ("a", "b", "c", "d"),
        "no GPU, 1 x EPYC": ("login",),
    }


def test_one_that_lost_all_gpus_is_known_by_its_product() -> None:
    hosts = {"a": box(0), "b": box(8), "c": box(8), "d": box(8)}

    assert list(peer_groups(hosts).values()) == [("a", "b", "c", "d")]


def test_two_kinds_of_hosts_stay_two_groups() -> None:
    many = {f"a{n}": box(8) for n in range(20)} | {f"b{n}": box(4) for n in range(5)}

    assert [len(names) for names in peer_groups(many).values()] == [20, 5]
    assert [len(names) for names in peer_groups({"a": box(8), "b": box(4)}).values()] == [1, 1]


@given(st.dictionaries(st.text(max_size=5), st.builds(box, st.integers(0, 3), cpu=st.sampled_from("ab")), max_size=40))
def test_each_host_is_in_one_group(hosts: dict[str, Hardware]) -> None:
    groups = peer_groups(hosts)

    assert sorted(name for names in groups.values() for name in names) == sorted(hosts)


def test_a_host_whose_driver_hangs_stays_with_its_equals(tmp_path: Path) -> None:
    hung = silent(host("h200x2"), "gpu.smi", "gpu.nvml", "nvlink.status", "nvlink.topology")

    assert hardware(Facts(hung)) == hardware(Facts(host("h200x2")))
    fleet = fleet_of(tmp_path, {**equals(4), "gpu03": called(hung, "gpu03")})
    vbios = next(each for each in fleet.differences if each.fact == "GPU VBIOS")
    assert vbios.minorities == {NOT_READ: ("gpu03",)}
    assert vbios.majority_hosts == 3


def test_hardware_never_raises() -> None:
    nothing = Snapshot(host("vm-2cpu").manifest, {})

    assert hardware(Facts(nothing)).label == "hardware that could not be read"
    assert set(values(Facts(nothing)).values()) == {NOT_READ}
    assert measures(Facts(nothing)) == {"clock against that of its equals, s": {"host": nothing.manifest.time}}


def test_natural_order() -> None:
    assert sorted(["gpu10", "gpu2", "a", "gpu02x", "10", "9", "", "é", "9" * 50], key=natural)[:4] == [
        "",
        "9",
        "10",
        "9" * 50,
    ]


# differences


def test_what_differs_is_told_with_the_minority(tmp_path: Path) -> None:
    hosts = equals(6)
    hosts["gpu02"] = edited(hosts["gpu02"], "gpu.driver", (rb"580\.159\.04", b"570.86.15"))
    hosts["gpu03"] = with_file(hosts["gpu03"], "kernel.sysctl", "/proc/sys/kernel/numa_balancing", "1\n")
    hosts["gpu04"] = edited(hosts["gpu04"], "kernel.boot", (rb"console=ttyS0 ", b"console=ttyS0 iommu=pt "))
    hosts["gpu05"] = edited(hosts["gpu05"], "memory.info", (rb"(MemTotal: +)\d+", rb"\g<1>196608000"))
    hosts["gpu06"] = edited(
        hosts["gpu06"], "gpu.smi", (rb"96\.00\.A5\.00\.1A", b"96.00.A5.00.01"), (rb"700\.00 W", b"650.00 W")
    )
    found = {each.fact: each for each in fleet_of(tmp_path, hosts).differences}

    assert found["NVIDIA driver"].minorities == {"570.86.15 open": ("gpu02",)}
    assert found["NVIDIA driver"].majority == "580.159.04 open"
    assert found["NVIDIA driver"].majority_hosts == 5
    assert found["NVIDIA driver"].group == "2 x NVIDIA H200, 1 x Intel(R) Xeon(R) Processor"
    assert found["kernel.numa_balancing"].minorities == {"1": ("gpu03",)}
    assert found["Kernel command line"].minorities == {"iommu=pt": ("gpu04",)}
    assert found["Kernel command line"].majority == NONE
    assert found["Memory"].minorities == {"187.5 GiB": ("gpu05",)}
    assert found["GPU VBIOS"].minorities == {"96.00.A5.00.01": ("gpu06",)}
    assert found["GPU power limit, W"].minorities == {"650": ("gpu06",)}
    assert set(found) <= {
        "NVIDIA driver", "kernel.numa_balancing", "Kernel command line", "Memory", "GPU VBIOS", "GPU power limit, W",
    }  # fmt: skip


def test_one_of_several_gpus_is_named(tmp_path: Path) -> None:
    hosts = equals(3)
    document = hosts["gpu03"].reading("gpu.smi").out
    at = document.rindex(b"<vbios_version>")
    changed = document[:at] + document[at:].replace(b"96.00.A5.00.1A", b"96.00.A5.00.01", 1)
    readings = {**hosts["gpu03"].readings, "gpu.smi": replace(hosts["gpu03"].reading("gpu.smi"), out=changed)}
    hosts["gpu03"] = replace(hosts["gpu03"], readings=readings)
    found = {each.fact: each for each in fleet_of(tmp_path, hosts).differences}

    assert found["GPU VBIOS"].minorities == {"96.00.A5.00.01 (gpu1), 96.00.A5.00.1A (gpu0)": ("gpu03",)}


def test_equal_hosts_do_not_differ(tmp_path: Path) -> None:
    hosts = equals(3)
    hosts["gpu02"] = edited(
        hosts["gpu02"],
        "kernel.boot",
        (rb"console=ttyS0 ", b"console=ttyS0 root=UUID=0d5f8a1c-0000-4000-8000-000000000001 BOOT_IMAGE=/x hostname=h "),
    )
    hosts["gpu03"] = edited(hosts["gpu03"], "memory.info", (rb"(MemTotal: +)\d+", rb"\g<1>263700000"))

    assert fleet_of(tmp_path, hosts).differences == ()


def test_hosts_of_other_hardware_are_not_compared(tmp_path: Path) -> None:
    assert fleet_of(tmp_path, {name: host(name) for name in ("h100x1", "h200x2", "vm-2cpu")}).differences == ()


def test_sizes_that_are_near_are_the_same() -> None:
    gib = 2.0**20
    hosts: dict[str, Mapping[str, Value]] = {
        str(n): {"Memory": size * gib} for n, size in enumerate((2015.2, 2015.6, 2009.9, 1951.0))
    }
    (found,) = differences({"x": list(hosts)}, hosts)

    assert found.minorities == {"1951.0 GiB": ("3",)}
    assert found.majority_hosts == 3


def test_a_host_that_was_not_read_is_no_majority() -> None:
    hosts: dict[str, Mapping[str, Value]] = {"a": {"x": "1"}, "b": {"x": NOT_READ}, "c": {}, "d": {"x": NOT_READ}}

    (found,) = differences({"g": ("a", "b", "c", "d")}, hosts)
    assert (found.majority, found.majority_hosts, found.minorities) == ("1", 1, {NOT_READ: ("b", "c", "d")})
    assert differences({"g": ("b", "c", "d")}, hosts) == ()


VALUE = st.one_of(
    st.sampled_from(["a", "b", NONE, NOT_READ]),
    st.lists(st.sampled_from("pqr"), max_size=3).map(tuple),
    st.floats(0, 1e9),
)


@given(st.dictionaries(st.text(max_size=3), VALUE, min_size=1, max_size=12), st.randoms())
def test_each_host_has_one_place_in_a_difference(own: dict[str, Value], order: Any) -> None:
    names = list(own)
    hosts = {name: {"fact": value} for name, value in own.items()}
    found = differences({"g": names}, hosts)

    if len(set(map(repr, own.values()))) == 1:
        assert found == ()
    for each in found:
        placed = [name for some in each.minorities.values() for name in some]
        assert len(placed) + each.majority_hosts == len(names)
        assert len(set(placed)) == len(placed)
        assert all(len(some) <= each.majority_hosts for text, some in each.minorities.items() if text != NOT_READ)
    order.shuffle(names)
    again = differences({"g": names}, hosts)
    kept = {tuple(sorted(map(len, each.minorities.values()))) for each in found}
    assert kept == {tuple(sorted(map(len, each.minorities.values()))) for each in again}


@given(st.binary(max_size=300))
def test_no_host_makes_the_comparison_raise(data: bytes) -> None:
    snapshot = host("h200x2")
    probes = ("gpu.smi", "gpu.driver", "kernel.boot", "memory.info", "platform.cpuinfo", "nvlink.topology")
    readings = dict(snapshot.readings)
    for probe in probes:
        reading = readings[probe]
        files = {path: replace(state, data=data) for path, state in reading.files.items()}
        readings[probe] = replace(reading, files=files, out=data)
    facts = Facts(replace(snapshot, readings=readings))

    assert hardware(facts).label
    assert values(facts)
    assert measures(facts)


# outliers

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)
CLOCK = "clock against that of its equals, s"
HEAT = "GPU temperature when idle, °C"


def one_each(numbers: Iterable[float], measure: str = HEAT) -> dict[str, dict[str, dict[str, float]]]:
    return {f"h{n}": {measure: {"gpu0": number}} for n, number in enumerate(numbers)}


def far(numbers: Iterable[float], measure: str = HEAT) -> set[str]:
    samples = one_each(numbers, measure)
    return {each.host for each in outliers({"g": list(samples)}, samples)}


@given(NUMBERS, st.floats(0.1, 100), st.floats(0, 1))
def test_the_spread_is_never_below_its_floor(numbers: list[float], floor: float, share: float) -> None:
    middle, width = spread(numbers, floor=floor, share=share)

    assert middle == statistics.median(numbers)
    assert width >= floor
    assert width >= NORMAL * statistics.median(abs(number - middle) for number in numbers)


@given(st.lists(st.floats(-1, 1), min_size=EQUALS + 1, max_size=40), st.floats(20, 80))
def test_jitter_below_the_floor_is_no_outlier(jitter: list[float], base: float) -> None:
    """All but one may be equal, so that the deviation is 0: the floor still holds."""
    assert far([base, *([base] * 30), *(base + each * MEASURES[HEAT].floor for each in jitter)]) == set()


@given(NUMBERS)
def test_less_than_half_of_the_hosts_are_outliers(numbers: list[float]) -> None:
    assert 2 * len(far(numbers)) <= len(numbers)


@given(st.lists(st.floats(30, 40), min_size=EQUALS, max_size=40), st.sampled_from([-1, 1]))
def test_one_that_is_far_is_found_wherever_the_others_lie(numbers: list[float], side: int) -> None:
    middle, width = spread(numbers, floor=MEASURES[HEAT].floor)
    odd = middle + side * 20 * (width + 10)

    assert far([*numbers, odd]) == {f"h{len(numbers)}"}


@given(st.lists(st.integers(-1000, 1000).map(float), max_size=30), st.integers(-1000, 1000))
def test_outliers_do_not_depend_on_order_or_origin(numbers: list[float], shift: int) -> None:
    assert far(numbers) == {f"h{len(numbers) - 1 - int(name[1:])}" for name in far(numbers[::-1])}
    assert far(numbers) == far([number + shift for number in numbers])


@given(st.lists(st.floats(0, 1e6), max_size=EQUALS))
def test_too_few_equals_say_nothing(numbers: list[float]) -> None:
    assert far(numbers) == set()


def test_the_side_that_is_no_trouble_is_not_told() -> None:
    assert far([5.0] * 9 + [900.0], "corrected ECC errors since the driver was loaded") == {"h9"}
    assert far([900.0] * 9 + [5.0], "corrected ECC errors since the driver was loaded") == set()
    assert far([99.0] * 9 + [40.0], "available memory, %") == {"h9"}
    assert far([40.0] * 9 + [99.0], "available memory, %") == set()


def test_a_probe_may_take_a_while_and_not_much_longer_than_elsewhere() -> None:
    assert far([0.3] * 9 + [1.5], "time of probe gpu.smi, s") == set()
    assert far([0.3] * 9 + [6.4], "time of probe gpu.smi, s") == {"h9"}
    assert far([20.0] * 9 + [35.0], "time of probe gpu.smi, s") == set()


def test_a_clock_that_is_off_is_told_against_the_others() -> None:
    year = 365 * 86_400.0
    samples = one_each([1.79e9 + n for n in range(8)] + [1.79e9 - 3 * year], CLOCK)
    (found,) = outliers({"g": list(samples)}, samples)

    assert (found.host, found.median) == ("h8", 0.0)
    assert found.value == pytest.approx(-3 * year, abs=10)


def test_what_a_snapshot_holds_is_measured(tmp_path: Path) -> None:
    hosts = equals(7)
    hosts["gpu04"] = edited(hosts["gpu04"], "gpu.smi", (rb"<gpu_temp>\d+ C", b"<gpu_temp>71 C"))
    hosts["gpu05"] = edited(hosts["gpu05"], "memory.info", (rb"(MemAvailable: +)\d+", rb"\g<1>20000000"))
    hosts["gpu06"] = called(hosts["gpu06"], "gpu06", time=1.0e9)
    slow = replace(hosts["gpu07"].reading("gpu.smi"), seconds=9.0)
    hosts["gpu07"] = replace(hosts["gpu07"], readings={**hosts["gpu07"].readings, "gpu.smi": slow})
    fleet = fleet_of(tmp_path, hosts)
    found = {(each.host, each.subject, each.measure) for each in fleet.outliers}

    assert found == {
        ("gpu04", "gpu0", HEAT),
        ("gpu04", "gpu1", HEAT),
        ("gpu05", "host", "available memory, %"),
        ("gpu06", "host", CLOCK),
        ("gpu07", "host", "time of probe gpu.smi, s"),
    }
    assert all(each.deviations >= LIMIT for each in fleet.outliers)
    assert fleet.taken.startswith("2026"), "one wrong clock does not date the fleet"


def test_a_gpu_that_measures_worse_than_its_equals_elsewhere_is_named(tmp_path: Path) -> None:
    def measured(triad: float, wall: float, **changes: Any) -> Session:
        every = [
            Measurement(
                bench="hbm.triad", subject=f"gpu{gpu}", unit="GB/s", value=triad + gpu, verified=True, **changes
            )
            for gpu in range(2)
        ]
        wall_time = Measurement(
            bench="launch.kernel", case="wall", subject="gpu0", unit="us", value=wall, verified=True
        )
        return Session(tool="t", taken="", level="quick", measurements=(*every, wall_time))

    hosts = equals(8)
    sessions = {name: measured(4370.0, 5.0) for name in hosts}
    sessions["gpu03"] = measured(4000.0, 5.0)
    sessions["gpu04"] = measured(4900.0, 3.0)
    sessions["gpu05"] = measured(4370.0, 9.0)
    sessions["gpu06"] = measured(4000.0, 5.0, invalid="slowed by heat")
    del sessions["gpu07"]
    for name, session in sessions.items():
        hosts[name] = with_results(hosts[name], session)
    found = {(each.host, each.subject, each.measure, each.value) for each in fleet_of(tmp_path, hosts).outliers}

    assert found == {
        ("gpu03", "gpu0", "bench hbm.triad, GB/s", 4000.0),
        ("gpu03", "gpu1", "bench hbm.triad, GB/s", 4001.0),
        ("gpu05", "gpu0", "bench launch.kernel wall, us", 9.0),
    }


def test_a_busy_gpu_is_not_compared_with_idle_ones() -> None:
    busy = edited(host("h200x2"), "gpu.smi", (rb"<gpu_util>\d+ %", b"<gpu_util>97 %"))
    nvml = {**busy.readings, "gpu.nvml": Reading("gpu.nvml", Ending.ABSENT)}

    assert HEAT in measures(Facts(host("h200x2")))
    assert HEAT not in measures(Facts(replace(busy, readings=nvml)))


def test_what_is_not_a_number_is_left_out() -> None:
    def found(seconds: float) -> set[str]:
        reading = Reading("x.y", Ending.OK, seconds=seconds)
        return set(measures(Facts(replace(host("vm-2cpu"), readings={"x.y": reading}))))

    assert "time of probe x.y, s" in found(1.0)
    assert "time of probe x.y, s" not in found(float("nan"))
    assert "time of probe x.y, s" not in found(float("inf"))


def test_nothing_is_an_outlier_that_could_not_be_read(tmp_path: Path) -> None:
    hosts = equals(7)
    hosts["gpu03"] = silent(hosts["gpu03"], "gpu.smi", "gpu.nvml")
    fleet = fleet_of(tmp_path, hosts)

    assert fleet.outliers == ()
    assert [each.fact for each in fleet.differences if each.minorities == {NOT_READ: ("gpu03",)}]
