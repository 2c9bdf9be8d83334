"""Benchmarks without torch on a real GPU. Where there is none, these tests are skipped and say so."""

from __future__ import annotations

import subprocess
import sys
import time
from ctypes import c_uint32
from pathlib import Path

import pytest

import bench_lab
from hostcheck.bench.cuda import Device, Graph
from hostcheck.bench.cuda_calls import CudaError
from hostcheck.bench.model import Level, Sampled
from hostcheck.microbench import copies, hbm, l2, launch, pattern, peers

MIB = 2**20


@pytest.fixture(scope="module")
def gpus():
    pytest.importorskip("cuda.bindings")
    found = bench_lab.gpus()
    if not found:
        pytest.skip("no GPU here")
    return found


@pytest.fixture
def device(gpus):
    with Device(gpus[0].ordinal) as device:
        yield device


def measure(function, gpus, seconds=1.0) -> list[Sampled]:
    lab = bench_lab.StandInLab(gpus=gpus, level=Level.QUICK, seconds=seconds)
    found = list(function(lab))
    assert found
    assert lab.watched == len(found)
    return found


@pytest.mark.parametrize(
    "function",
    [
        hbm.read,
        hbm.write,
        hbm.copy,
        hbm.triad,
        l2.read,
        copies.h2d,
        copies.d2h,
        copies.both,
        launch.kernel,
        launch.graph,
    ],
)
def test_each_is_verified_and_below_its_limit(function, gpus):
    for sampled in measure(function, gpus[:1]):
        assert sampled.verified, sampled.case
        assert sampled.invalid == ""
        assert len(sampled.samples) >= 10
        assert all(sample > 0 for sample in sampled.samples)
        if sampled.limit is not None:
            assert max(sampled.samples) <= sampled.limit, sampled.case


@pytest.mark.parametrize("function", [peers.copy, peers.both, peers.everyone])
def test_peers_are_verified_and_below_their_limit(function, gpus):
    if len(gpus) < 2:
        pytest.skip("one GPU only")
    for sampled in measure(function, gpus, seconds=4.0):
        assert sampled.verified, sampled.subject
        assert sampled.limit is None or max(sampled.samples) <= sampled.limit, sampled.subject


WITHOUT_ACCESS = """
import sys
sys.path.insert(0, {tests!r})
import bench_lab
from hostcheck.bench.cuda import Device
from hostcheck.microbench import peers
Device.reach = lambda self, peer: False
lab = bench_lab.StandInLab(gpus=bench_lab.gpus()[:2])
for sampled in peers.both(lab):
    how = sampled.settings
    print(how["transport"], how["clock"], sampled.limit, sampled.verified, max(sampled.samples))
"""


def test_without_peer_access_the_way_through_the_host_is_named(gpus):
    if len(gpus) < 2:
        pytest.skip("one GPU only")
    # In a process of its own: access that was once allowed stays.
    program = WITHOUT_ACCESS.format(tests=str(Path(__file__).parents[1]))
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=100)
    assert done.stderr == ""
    print(done.stdout)
    assert done.stdout.startswith("no peer access: through the host's memory host None True ")


@pytest.mark.parametrize("name", sorted(hbm.TASKS))
def test_one_wrong_word_is_found(name, device):
    stream = device.stream()
    task = hbm.TASKS[name](device, stream, 64 * MIB)
    variant = hbm.VARIANTS[0]
    task.poison()
    task.launch(variant)(stream)
    stream.synchronize()
    assert task.wrong(variant) == 0
    buffers = [thing for thing in device.owned if hasattr(thing, "download")]
    output = {"read": buffers[1], "write": buffers[0], "copy": buffers[1], "triad": buffers[0]}[name]
    word = output.words(400, 1)[0]
    output.upload((word ^ 1).to_bytes(4, "little"), 400)
    assert task.wrong(variant) > 0


@pytest.mark.parametrize("name", sorted(hbm.TASKS))
def test_a_launch_that_never_ran_is_found(name, device):
    stream = device.stream()
    task = hbm.TASKS[name](device, stream, 64 * MIB)
    task.poison()
    stream.synchronize()
    assert task.wrong(hbm.VARIANTS[0]) > 0


def test_the_pattern_is_the_same_on_the_host(device):
    buffer = device.alloc(4 * MIB)
    pattern.fill(buffer, 7)
    words = buffer.words()
    assert all(words[index] == pattern.word(index, 7) for index in range(0, MIB, 997))
    assert pattern.wrong(buffer, 7) == 0
    assert pattern.wrong(buffer, 8) > MIB * 0.99
    buffer.upload(b"\0\0\0\0", 4 * 12345)
    assert pattern.wrong(buffer, 7) == 1


def test_nothing_runs_while_a_stream_is_held(device):
    stream = device.stream()
    other = device.stream()
    runs = device.alloc(4)
    runs.fill(0)
    once = device.kernel("launch", "once").bind(1, 1, runs)
    host = device.pinned(4)
    with stream.hold():
        once(stream)
        time.sleep(0.05)
        other.copy(host.pointer, runs.pointer, 4)
        other.synchronize()
        assert host.view.tobytes() == b"\0\0\0\0"
    assert runs.words()[0] == 1


def test_a_stream_that_is_held_too_long_goes_on_and_its_times_are_void(device):
    stream = device.stream()
    with pytest.raises(CudaError, match="longer than 2 s"), stream.hold():
        time.sleep(2.5)


def test_times_are_those_of_the_work(device):
    stream = device.stream()
    small, large = device.alloc(64 * MIB), device.alloc(1024 * MIB)
    works = [lambda: stream.fill(small, 1), lambda: stream.fill(large, 1)]
    for _ in range(2):
        first, second = stream.time(works)
    assert 4 < second / first < 40


def test_too_much_memory_is_one_line(device):
    with pytest.raises(CudaError, match=r"GiB of GPU memory cannot be had: [\d.]+ of [\d.]+ GiB are free") as caught:
        device.alloc(2**50)
    assert caught.value.name == "OUT_OF_MEMORY"
    assert "\n" not in str(caught.value)


def test_an_ordinal_that_is_not_there_is_one_line(device):
    with pytest.raises(CudaError, match="no such GPU"):
        Device(99)


def test_memory_is_given_back(gpus):
    with Device(gpus[0].ordinal) as device:
        device.stream()
        before = device.memory()[0]
        device.alloc(1024 * MIB)
        device.pinned(MIB)
        device.kernel("launch", "once")
        assert device.memory()[0] <= before - 1024 * MIB
    with Device(gpus[0].ordinal) as device:
        assert device.memory()[0] >= before - 16 * MIB


def test_a_kernel_gets_more_shared_memory_than_the_default(device):
    stream = device.stream()
    runs = device.alloc(4)
    runs.fill(0)
    device.kernel("launch", "once").bind(1, 1, runs, shared=64 * 1024)(stream)
    stream.synchronize()
    assert runs.words()[0] == 1


def test_a_graph_runs_all_that_was_recorded(device):
    stream = device.stream()
    runs = device.alloc(4)
    runs.fill(0)
    once = device.kernel("launch", "once").bind(1, 1, runs)
    recorded = Graph(stream, lambda: [once(stream) for _ in range(7)])
    assert runs.words()[0] == 0
    for _ in range(3):
        recorded(stream)
    stream.synchronize()
    assert runs.words()[0] == 21


def test_an_argument_without_a_size_is_refused(device):
    kernel = device.kernel("pattern", "fill")
    with pytest.raises(TypeError, match="ctypes"):
        kernel.bind(1, 1, device.alloc(16), 4, c_uint32(1))
