"""Parsers of everything about processors: samples, corners, and texts of any kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostcheck.errors import NotApplicable, Unavailable, need
from hostcheck.facts import cpu, cpu_load, cpu_power, cpu_text
from hostcheck.facts.base import Fact
from hostcheck.facts.cpu import CpuTopology, cpu_list, parse_cpu_list, parse_isolcpus
from hostcheck.facts.platform import CLOCKSOURCE_PROBE, CPUINFO_PROBE, HOST_PROBE
from hostcheck.snapshot.probes import FileProbe
from hostcheck.snapshot.reading import Ending, FileState, Reading
from support import sample

CPU = "/sys/devices/system/cpu"

PARSERS: list[Callable[[str], Any]] = [
    parse_cpu_list,
    cpu.parse_cpuinfo,
    cpu.parse_node_meminfo,
    cpu_load.parse_allowed,
    cpu_load.parse_cpu_max,
    cpu_load.parse_load,
    cpu_load.parse_pressure,
    cpu_power.parse_khz,
    cpu_text.parse_lscpu,
    cpu_text.parse_lscpu_nodes,
    cpu_text.parse_numactl,
    lambda text: cpu.parse_distances(text, (0, 8)),
    lambda text: parse_isolcpus(text, 255),
]
SAMPLES = [sample(parser) for parser in PARSERS[:-2]]


def reading(probe: FileProbe, files: Mapping[str, str | FileState], at: float = 0.0) -> Reading:
    states = {
        path: state if isinstance(state, FileState) else FileState(Ending.OK, state.encode())
        for path, state in files.items()
    }
    return Reading(probe.id, Ending.OK, asked=probe.paths, files=states, at=at)


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0-3,8", {0, 1, 2, 3, 8}),
        ("", set()),
        ("              (null)\n", set()),
        ("5", {5}),
        ("0-6:2", {0, 2, 4, 6}),
        ("0-31:2/16", {0, 1, 16, 17}),
        (" 1 , 3-4 ", {1, 3, 4}),
        ("65535", {65535}),
    ],
)
def test_cpu_lists(text: str, cpus: set[int]) -> None:
    assert parse_cpu_list(text) == cpus


@pytest.mark.parametrize(
    "text", ["0-99999999999", "65536", "3-1", "a", "1-", "-1", "0-3:0", "0-3:1/0", "1,,2", "١", "0x3", "0-3:2/", "1 2"]
)
def test_what_is_no_cpu_list(text: str) -> None:
    with pytest.raises(Unavailable):
        parse_cpu_list(text)


@given(st.frozensets(st.integers(0, 2000), max_size=100))
def test_lists_are_written_as_they_are_read(cpus: frozenset[int]) -> None:
    text = cpu_list(cpus)
    assert (parse_cpu_list(text) if cpus else text) == (cpus or "none")


@pytest.mark.parametrize(
    ("value", "cpus"),
    [
        ("1-3", {1, 2, 3}),
        ("managed_irq,domain,2-N", {2, 3, 4, 5}),
        ("domain,all", {0, 1, 2, 3, 4, 5}),
        ("managed_irq,1-3", set()),
        ("nohz,1", set()),
    ],
)
def test_isolcpus(value: str, cpus: set[int]) -> None:
    assert parse_isolcpus(value, 5) == cpus
    assert parse_isolcpus(sample(parse_isolcpus), 20) == {*range(5), *range(11, 21)}


def test_cpuinfo_of_arm_has_no_model_name() -> None:
    info = cpu.parse_cpuinfo(sample(cpu.parse_cpuinfo))
    assert dict(info.models) == {"Cortex-A725": 1}
    assert isinstance(info.sockets, Unavailable)
    assert isinstance(info.microcode, NotApplicable)


def test_an_arm_part_that_is_not_known_is_named_by_its_numbers() -> None:
    info = cpu.parse_cpuinfo("processor : 0\nCPU implementer : 0x99\nCPU part : 0x123\n")
    assert list(info.models) == ["Arm implementer 0x99 part 0x123"]


def test_nodes_meminfo_and_distances() -> None:
    assert cpu.parse_node_meminfo(sample(cpu.parse_node_meminfo))["MemTotal"] == 15728640
    nodes = [0, 8, *range(250, 256)]
    assert cpu.parse_distances(sample(cpu.parse_distances), nodes) == dict(zip(nodes, [10, 40, *[80] * 6], strict=True))
    with pytest.raises(Unavailable):
        cpu.parse_distances("10 20", (0,))


def test_load_and_limits() -> None:
    pressure = cpu_load.parse_pressure(sample(cpu_load.parse_pressure))
    assert (pressure.some.avg60, need(pressure.full).avg300) == (0.45, 0.0)
    assert cpu_load.parse_load(sample(cpu_load.parse_load)).avg15 == 0.38
    allowed = cpu_load.parse_allowed(sample(cpu_load.parse_allowed))
    assert (len(allowed.cpus), need(allowed.nodes)) == (32, frozenset({0, 1}))
    assert cpu_load.parse_cpu_max(sample(cpu_load.parse_cpu_max)) == 4.0
    assert cpu_load.parse_cpu_max("max 100000") is None
    assert cpu_power.parse_khz(sample(cpu_power.parse_khz)) == 3_900_000
    for text in ("0 0", "5", "max", "-5 100", "1e9 1"):
        with pytest.raises(Unavailable):
            cpu_load.parse_cpu_max(text)


def test_pressure_that_the_kernel_was_told_not_to_keep() -> None:
    refused = FileState(Ending.ERROR, b"", "Operation not supported")
    found = cpu_load.read_pressures(
        reading(cpu_load.PRESSURE_PROBE, {"/proc/pressure/cpu": refused, "/proc/pressure/io": "rubbish"})
    )
    assert isinstance(found.cpu, NotApplicable)
    assert isinstance(found.memory, NotApplicable)
    assert isinstance(found.io, Unavailable)


def test_lscpu() -> None:
    found = cpu_text.parse_lscpu(sample(cpu_text.parse_lscpu))
    assert (len(found.online), found.sockets, found.cores, found.smt) == (64, 4, 32, True)
    assert found.summary == "4 x Intel(R) Xeon(R) CPU X7550 @ 2.00GHz, 32 cores, 64 threads"
    assert isinstance(found.present, Unavailable)
    assert [node.id for node in cpu_text.parse_lscpu_nodes(sample(cpu_text.parse_lscpu))] == [0, 2, 3]
    nodes = cpu_text.parse_lscpu_nodes(sample(cpu_text.parse_lscpu_nodes))
    assert [(node.subject, len(node.cpus)) for node in nodes] == [("node0", 64), ("node1", 0)]
    assert [node.is_host for node in nodes] == [True, False]
    assert all(isinstance(node.memory_kib, Unavailable) for node in nodes)


def test_lscpu_as_newer_versions_indent_it() -> None:
    text = (
        "Architecture:             x86_64\n  CPU op-mode(s):         64-bit\nCPU(s):                   4\n"
        "  On-line CPU(s) list:    0-3\nVendor ID:                AuthenticAMD\n  Model name:             EPYC\n"
        "    Thread(s) per core:   2\n    Core(s) per socket:   2\n    Socket(s):            1\nNUMA:\n"
        "  NUMA node(s):           1\n  NUMA node0 CPU(s):      0-3\n"
    )
    found = cpu_text.parse_lscpu(text)
    assert (found.summary, found.smt) == ("1 x EPYC, 2 cores, 4 threads", True)
    assert [len(node.cpus) for node in cpu_text.parse_lscpu_nodes(text)] == [4]


def test_lscpu_for_programs_and_for_people() -> None:
    table = "# CPU,Core,Socket,Node,,L1d,L1i\n0,0,0,0,,0,0\n1,0,0,0,,0,0\n2,1,1,1,,1,1\n3,1,1,1,,1,1\n"
    people = """CPU NODE SOCKET CORE L1d:L1i ONLINE
  0    0      0    0 0:0       yes
  1    0      0    0 0:0       yes
  2    1      1    1 1:1       yes
  3    1      1    1 1:1       yes
  4    -      -    - -          no
"""
    for text in (table, people):
        found = cpu_text.parse_lscpu(text)
        assert (found.online, found.sockets, found.cores, found.smt) == (frozenset(range(4)), 2, 2, True)
        assert [node.cpus for node in cpu_text.parse_lscpu_nodes(text)] == [{0, 1}, {2, 3}]


def test_numactl() -> None:
    first, second = cpu_text.parse_numactl(sample(cpu_text.parse_numactl))
    assert (first.id, first.cpus, first.memory_kib) == (0, frozenset(range(4)), 515281 * 1024)
    assert (second.id, second.free_kib, second.distances) == (8, 407783 * 1024, {0: 21, 8: 10})


def test_a_size_that_numactl_does_not_know_is_missing_and_not_zero() -> None:
    [node] = cpu_text.parse_numactl("node 3 cpus:\nnode 3 size: <not available>\n")
    assert (node.cpus, node.is_host) == (frozenset(), False)
    assert isinstance(node.memory_kib, Unavailable)


def test_sockets_that_the_firmware_does_not_name_come_from_cpuinfo_or_nowhere() -> None:
    files = {f"{CPU}/online": "0", f"{CPU}/cpu0/topology/physical_package_id": "-1"}
    info = reading(CPUINFO_PROBE, {"/proc/cpuinfo": "processor : 0\nCPU implementer : 0x41\nCPU part : 0xd4f\n"})
    found = cpu.parse_topology(reading(cpu.TOPOLOGY_PROBE, files), info)
    assert isinstance(found.sockets, Unavailable)
    assert isinstance(found.smt, Unavailable)
    assert isinstance(found.present, Unavailable)
    assert isinstance(found.isolated, NotApplicable)
    assert found.summary == "Neoverse-V2, 1 threads"


def test_a_policy_whose_cpus_are_all_offline_is_left_out() -> None:
    folder = f"{CPU}/cpufreq/policy"
    busy = FileState(Ending.ERROR, b"", "Device or resource busy")
    files: dict[str, str | FileState] = {
        f"{folder}0/scaling_driver": "cppc_cpufreq", f"{folder}0/affected_cpus": "0 1",
        f"{folder}0/scaling_governor": "performance",
        f"{folder}2/scaling_driver": "cppc_cpufreq", f"{folder}2/affected_cpus": "",
        f"{folder}2/scaling_governor": busy,
    }  # fmt: skip
    found = cpu_power.parse_frequency(reading(cpu_power.FREQUENCY_PROBE, files))
    assert [(policy.id, policy.cpus) for policy in found.policies] == [(0, frozenset({0, 1}))]
    assert isinstance(found.policies[0].preference, NotApplicable)


def test_growth_of_throttling_is_what_came_between_the_samples() -> None:
    path = f"{CPU}/cpu1/thermal_throttle/core_throttle_count"
    first, later = (reading(cpu_power.THROTTLE_PROBE, {path: text}, at) for text, at in (("7", 10.0), ("9", 12.5)))
    with pytest.raises(Unavailable):
        cpu_power.parse_throttling(first)
    whole = Reading(first.probe, Ending.OK, asked=first.asked, files=first.files, at=10.0, later=later)
    found = cpu_power.parse_throttling(whole)
    assert (dict(found.grown), found.since_boot, found.seconds) == ({1: 2}, 7, 2.5)


def test_idle_states_are_enabled_cpu_by_cpu() -> None:
    files = {
        f"{CPU}/cpuidle/current_driver": "intel_idle", f"{CPU}/cpu0/cpuidle/state0/name": "C1",
        f"{CPU}/cpu0/cpuidle/state0/latency": "1", f"{CPU}/cpu0/cpuidle/state0/disable": "0",
        f"{CPU}/cpu7/cpuidle/state0/disable": "1", "/dev/cpu_dma_latency": "c\0\0\0",
    }  # fmt: skip
    found = cpu_power.parse_idle(reading(cpu_power.IDLE_PROBE, files))
    assert found.states[0].enabled_on == {0}
    assert found.latency_limit_us == 99


@pytest.mark.parametrize("parser", PARSERS)
@given(text=st.text(max_size=300))
def test_any_text(parser: Callable[[str], Any], text: str) -> None:
    with suppress(Unavailable, NotApplicable):
        parser(text)


@pytest.mark.parametrize("place", range(len(SAMPLES)))
@given(data=st.data())
def test_any_change_of_a_sample(place: int, data: st.DataObject) -> None:
    text = SAMPLES[place]
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    changed = text[:start] + data.draw(st.text(max_size=10) | st.sampled_from(["9" * 30, "-", ",", "\0"])) + text[end:]
    with suppress(Unavailable, NotApplicable):
        PARSERS[place](changed)


FACTS: list[tuple[Fact[Any], FileProbe]] = [
    (cpu.NUMA, cpu.NUMA_PROBE),
    (cpu.CLOCKSOURCE, CLOCKSOURCE_PROBE),
    (cpu_power.FREQUENCY, cpu_power.FREQUENCY_PROBE),
    (cpu_power.IDLE, cpu_power.IDLE_PROBE),
    (cpu_power.THROTTLING, cpu_power.THROTTLE_PROBE),
    (cpu_load.PRESSURES, cpu_load.PRESSURE_PROBE),
    (cpu_load.ALLOWED, cpu_load.ALLOWED_PROBE),
]
WORDS = st.text(max_size=12) | st.sampled_from(["0", "1", "0-3", "10 20", "performance", "", "99999999999999999999"])


@pytest.mark.parametrize(("fact", "probe"), FACTS, ids=lambda value: getattr(value, "name", ""))
@settings(max_examples=60)
@given(data=st.data())
def test_any_files(fact: Fact[Any], probe: FileProbe, data: st.DataObject) -> None:
    paths = [path.replace("*", number) for path in probe.paths for number in ("0", "1", "x", "99999999")]
    files = {path: data.draw(WORDS) for path in data.draw(st.lists(st.sampled_from(paths), max_size=12))}
    first = reading(probe, files)
    whole = Reading(probe.id, Ending.OK, asked=probe.paths, files=first.files, later=first)
    with suppress(Unavailable, NotApplicable):
        fact.parse(whole)


@settings(max_examples=60)
@given(data=st.data())
def test_any_files_of_the_topology_and_the_groups(data: st.DataObject) -> None:
    paths = [path.replace("*", "0") for path in cpu.TOPOLOGY_PROBE.paths]
    files = {path: data.draw(WORDS) for path in data.draw(st.lists(st.sampled_from(paths)))}
    info = reading(CPUINFO_PROBE, {"/proc/cpuinfo": "processor : 0\n" + data.draw(WORDS)})
    groups = {path: data.draw(WORDS) for path in data.draw(st.lists(st.sampled_from(cpu_load.QUOTA_PROBE.paths)))}
    own = reading(HOST_PROBE, {"/proc/self/cgroup": data.draw(st.sampled_from(["0::/", "0::/a/b", "x", ""]))})
    with suppress(Unavailable, NotApplicable):
        assert isinstance(cpu.parse_topology(reading(cpu.TOPOLOGY_PROBE, files), info), CpuTopology)
    with suppress(Unavailable, NotApplicable):
        cpu_load.read_quota(reading(cpu_load.QUOTA_PROBE, groups), own)


class _Place:
    def __init__(self, container: str) -> None:
        self.container = container


@pytest.mark.parametrize(
    ("container", "bus", "listed", "count"),
    [("", 8, 4, 8), ("", Unavailable("no bus"), 4, 4), ("docker", 8, 2, 2), ("docker", Unavailable("no bus"), 1, 1)],
)
def test_gpus_are_those_of_the_bus_or_those_of_the_container(container: str, bus: Any, listed: int, count: int) -> None:
    functions = bus if isinstance(bus, Unavailable) else [object()] * bus
    assert cpu_load.read_gpu_count(_Place(container), functions, [object()] * listed) == count  # type: ignore[arg-type,list-item]


def test_gpus_that_cannot_be_counted_are_not_none() -> None:
    functions: Any = [object()]
    with pytest.raises(Unavailable):
        cpu_load.read_gpu_count(_Place("docker"), functions, Unavailable("timeout"))  # type: ignore[arg-type]
    with pytest.raises(NotApplicable):
        cpu_load.read_gpu_count(_Place(""), [], Unavailable("timeout"))  # type: ignore[arg-type]
