"""The sampler, over a stand-in for NVML whose answers are known; and pinning, by the kernel's own word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hostcheck.bench import conditions
from hostcheck.bench.conditions import Sampler, Watched, together
from hostcheck.bench.pinning import cpus_of, memory_from, node_of, pin


class Nvml:
    """Answers from tables that a test changes between questions; what is not in them is refused."""

    def __init__(self) -> None:
        self.fields: dict[int, float] = {186: 500_000, 83: 0, 74: 0, 270: 0}
        self.clock = 1755
        self.processes: list[int] = []
        self.ecc = 0

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return uuid

    def nvmlDeviceGetFieldValues(self, gpu: str, wanted: list[Any]) -> list[SimpleNamespace]:  # noqa: N802
        return [
            SimpleNamespace(nvmlReturn=0, valueType=0, value=SimpleNamespace(dVal=self.fields[number]))
            if number in self.fields
            else SimpleNamespace(nvmlReturn=3, valueType=0, value=None)
            for number in wanted
        ]

    def nvmlDeviceGetClockInfo(self, gpu: str, kind: int) -> int:  # noqa: N802
        return self.clock if kind == 1 else 2619

    def nvmlDeviceGetMemoryErrorCounter(self, gpu: str, kind: int, period: int, place: int) -> int:  # noqa: N802
        return self.ecc if (kind, place) == (1, 2) else 0

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: str) -> list[SimpleNamespace]:  # noqa: N802
        return [SimpleNamespace(pid=pid) for pid in self.processes]


class Clock:
    """Time that stands still until it is told to go on."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def made(nvml: Nvml, clock: Clock) -> Sampler:
    return Sampler({"gpu0": Watched(nvml, "GPU-0")}, period=3600, clock=clock)


def test_only_what_was_watched_counts() -> None:
    nvml, clock = Nvml(), Clock()
    sampler = made(nvml, clock)
    sampler.start()
    nvml.clock = 345
    sampler.sample()
    clock.now = 1.0
    sampler.open()
    nvml.clock = 1700
    for clock.now in (1.2, 1.4, 1.6):
        sampler.sample()
    nvml.fields |= {74: 3e8}
    clock.now = 2.0
    sampler.close()
    nvml.fields |= {83: 5_000_000, 74: 9e9, 270: 9e9}
    clock.now = 9.0
    nvml.clock = 210
    sampler.sample()
    sampler.stop()
    assert sampler.seconds() == 1.0
    seen = sampler.take(["gpu0"])["gpu0"]
    assert (seen.sm_mhz, seen.sm_mhz_low, seen.mem_mhz, seen.power_w) == (1700, 1700, 2619, 500)
    assert seen.throttled_ns == {"sw_power_cap": 300_000_000, "hw_thermal_slowdown": 0}, "what was read, and no other"
    assert seen.temperature_c is None, "what NVML refuses is not known, and not zero"
    assert seen.power_limit_w is None


def test_of_a_long_stretch_a_bounded_number_of_samples_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "_MOST", 10)
    nvml, clock = Nvml(), Clock()
    sampler = Sampler({subject: Watched(nvml, subject) for subject in ("gpu0", "gpu1")}, period=1, clock=clock)
    sampler.open()
    for at in range(1, 14):
        nvml.clock = at
        clock.now = at
        sampler.sample()
        assert all(len(samples) <= 10 for samples in sampler._samples.values())
    assert [sample.at for sample in sampler._samples["gpu1"]] == [1, 3, 5, 7, 9, 11, 12, 13]
    assert sampler._pace == 2, "as often as what is left"
    sampler.close()
    assert sampler.take([])["gpu1"].sm_mhz_low == 1
    assert sampler._pace == 1


def test_stretches_add_up_and_the_next_begins_anew() -> None:
    nvml, clock = Nvml(), Clock()
    sampler = made(nvml, clock)
    for begin in (1.0, 5.0):
        clock.now = begin
        sampler.open()
        nvml.fields[270] += 1e8
        clock.now = begin + 0.5
        sampler.close()
    assert sampler.seconds() == 1.0
    assert sampler.take(["gpu0"])["gpu0"].throttled_ns == {"hw_thermal_slowdown": 200_000_000, "sw_power_cap": 0}
    assert sampler.take(["gpu0"])["gpu0"].throttled_ns == {}


def test_errors_count_from_the_beginning_of_the_benchmark_also_between_stretches() -> None:
    nvml, clock = Nvml(), Clock()
    nvml.ecc = 7
    sampler = made(nvml, clock)
    sampler.start()
    nvml.ecc = 9
    sampler.stop()
    assert sampler.take(["gpu0"])["gpu0"].errors["ecc.dram.uncorrected"] == 2
    assert sampler.take(["gpu0"])["gpu0"].errors["ecc.dram.uncorrected"] == 0


def test_of_several_gpus_the_one_that_suffered_most_counts() -> None:
    cool, hot, clock = Nvml(), Nvml(), Clock()
    hot.clock, hot.fields[270] = 900, 0
    sampler = Sampler({"gpu0": Watched(cool, "GPU-0"), "gpu1": Watched(hot, "GPU-1")}, period=3600, clock=clock)
    sampler.open()
    hot.fields[270] = 5e8
    for step in range(1, 10):
        clock.now = step / 10
        hot.fields[83] += 50_000
        cool.fields[83] += 10_000
        sampler.sample()
    clock.now = 1.0
    sampler.close()
    each = sampler.take([])
    assert [one.throttled_ns["hw_thermal_slowdown"] for one in each.values()] == [0, 500_000_000]
    assert [one.seconds for one in each.values()] == [1.0, 1.0]
    both = together([*each.values()])
    assert both.sm_mhz == 900
    assert both.joules == pytest.approx(600)
    assert both.throttled_ns == {"hw_thermal_slowdown": 500_000_000, "sw_power_cap": 0}


def test_a_stretch_of_some_gpus_asks_no_others() -> None:
    """Each sample of a GPU takes its time, and of eight only two copy to each other."""
    ours, other, clock = Nvml(), Nvml(), Clock()
    sampler = Sampler({"gpu0": Watched(ours, "GPU-0"), "gpu1": Watched(other, "GPU-1")}, period=3600, clock=clock)
    asked: list[str] = []
    other.nvmlDeviceGetClockInfo = lambda gpu, kind: asked.append(gpu) or 345  # type: ignore[method-assign, func-returns-value]
    sampler.open("gpu0")
    ours.fields[270] = 5e8
    clock.now = 1.0
    sampler.close()
    assert asked == []
    seen = sampler.take(["gpu0"])["gpu0"]
    assert (seen.sm_mhz, seen.throttled_ns) == (1755, {"hw_thermal_slowdown": 500_000_000, "sw_power_cap": 0})
    sampler.open()
    sampler.close()
    assert asked, "all of them where none is named"


@pytest.mark.parametrize(("length", "joules"), [(0.58, 0.58 * 700), (2.0, 2.0 * 700), (0.3, None)])
def test_energy_is_told_from_a_counter_that_moves_ten_times_a_second(length: float, joules: float | None) -> None:
    nvml, clock = Nvml(), Clock()
    sampler = made(nvml, clock)

    def go_on(until: float) -> None:
        while clock.now + 0.02 < until:
            clock.now += 0.02
            # As an H100 does it: idle at 130 W until the load of 700 W begins.
            moved = int(clock.now * 10) / 10
            nvml.fields[83] = 1000 * (130 * min(moved, 1.0) + 700 * max(0.0, moved - 1.0))
            sampler.sample()

    go_on(1.0)
    sampler.open()
    go_on(1.0 + length)
    clock.now = 1.0 + length
    sampler.close()
    assert sampler.take(["gpu0"])["gpu0"].joules == (None if joules is None else pytest.approx(joules, rel=0.05))


def test_energy_of_a_gpu_that_does_not_count_it_is_not_known() -> None:
    nvml, clock = Nvml(), Clock()
    del nvml.fields[83]
    sampler = made(nvml, clock)
    sampler.open()
    clock.now = 5.0
    sampler.close()
    seen = sampler.take(["gpu0"])["gpu0"]
    assert (seen.joules, seen.power_w) == (None, 500)


def test_the_sampler_runs_in_the_background() -> None:
    nvml = Nvml()
    sampler = Sampler({"gpu0": Watched(nvml, "GPU-0")}, period=0.005)
    sampler.start()
    sampler.open()
    import time

    time.sleep(0.2)
    sampler.close()
    sampler.stop()
    assert sampler.take(["gpu0"])["gpu0"].sm_mhz == 1755


def test_other_processes_are_named_and_ours_are_not() -> None:
    nvml = Nvml()
    watched = Watched(nvml, "GPU-0")
    nvml.processes = [os.getpid()]
    assert watched.others() == ()
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE) as own:
        assert own.stdout
        grandchild = int(own.stdout.readline())
        nvml.processes = [os.getpid(), os.getppid(), own.pid, grandchild, 1]
        others = watched.others()
        os.kill(grandchild, signal.SIGKILL)
    assert len(others) == 1
    assert others[0].endswith("(pid 1)")


def test_a_process_of_the_same_terminal_is_not_ours() -> None:
    orphan = int(subprocess.check_output(["sh", "-c", "sleep 60 >/dev/null & echo $!"]))
    try:
        assert os.getsid(orphan) == os.getsid(0)
        nvml = Nvml()
        nvml.processes = [os.getpid(), orphan]
        assert [other.endswith(f"(pid {orphan})") for other in Watched(nvml, "GPU-0").others()] == [True]
    finally:
        os.kill(orphan, signal.SIGKILL)


def test_where_process_numbers_are_of_another_namespace_our_own_is_not_foreign() -> None:
    nvml = Nvml()
    watched = Watched(nvml, "GPU-0")
    nvml.processes = [4_000_001]
    assert watched.others(1) == ()
    assert watched.others(0) == ("a process out of sight (pid 4000001)",)
    nvml.processes = [4_000_001, 4_000_002]
    assert len(watched.others(1)) == 1


def test_the_node_of_a_gpu_and_its_cpus(tmp_path: Path) -> None:
    device = tmp_path / "sys/bus/pci/devices/0000:19:00.0"
    device.mkdir(parents=True)
    node = tmp_path / "sys/devices/system/node/node1"
    node.mkdir(parents=True)
    assert node_of("0000:19:00.0", str(tmp_path)) is None
    (device / "numa_node").write_text("-1\n")
    assert node_of("0000:19:00.0", str(tmp_path)) is None
    (device / "numa_node").write_text("1\n")
    (node / "cpulist").write_text("0-1,4\n")
    assert node_of("0000:19:00.0", str(tmp_path)) == 1
    assert cpus_of(1, str(tmp_path)) == {0, 1, 4}
    assert cpus_of(7, str(tmp_path)) == set()


def _in_a_child(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_pinning_holds_by_the_kernels_word() -> None:
    """On the real kernel: a process pinned to node 0 may run on its CPUs alone, and takes memory from it alone."""
    said, cpus, maps = _in_a_child(
        "import os, mmap\n"
        "from hostcheck.bench.pinning import pin\n"
        "print(pin(0))\n"
        "print(sorted(os.sched_getaffinity(0)))\n"
        "held = mmap.mmap(-1, 64 << 20)\n"
        "try: lines = open('/proc/self/numa_maps').read().splitlines()\n"
        "except OSError: lines = ['bind:0 (not told)']\n"
        "print(sum(' bind:0' in line for line in lines))\n"
    )
    assert said.startswith(("node0, ", "not pinned: "))
    if said.startswith("node0, "):
        assert set(eval(cpus)) == cpus_of(0) & os.sched_getaffinity(0)
    if said.startswith("node0, ") and "but not its memory" not in said:
        assert int(maps) > 0


def test_what_cannot_be_pinned_says_so(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    assert pin(None, str(tmp_path)) == "the host has one node"
    for node in ("node0", "node1"):
        (tmp_path / "sys/devices/system/node" / node).mkdir(parents=True)
    assert pin(None, str(tmp_path)) == "not pinned: the NUMA node of the GPU is not known"
    assert pin(5, str(tmp_path)) == "not pinned: this process may use no CPU of node5"
    assert os.sched_getaffinity(0) == before


def test_memory_from_another_node_is_given_back() -> None:
    def policies() -> Iterator[str]:
        with memory_from(0) as refused:
            yield refused

    (refused,) = policies()
    assert isinstance(refused, str)
