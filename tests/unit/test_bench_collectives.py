"""Collectives: real ranks over Gloo, what NCCL's log says, and what is made of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torchlab

from bench_lab import StandInLab
from hostcheck.bench import bus, collective, mesh
from hostcheck.bench.lab import BenchGpu
from hostcheck.errors import HostcheckError
from hostcheck.gpu_table import table
from hostcheck.microbench import collectives
from waiting import LONG

SAMPLES = Path(__file__).parent / "samples"
H200 = next(model for model in table().models if model.id.startswith("h200"))
GPU = BenchGpu(index=0, ordinal=0, uuid="GPU-0", name="NVIDIA H200", model=H200, sm_count=132, cc=(9, 0))

# Lines that users of NVIDIA/nccl published (issues 1412, 1453, 1189 and 952), for what our machines do not have.
MULTI = """\
gpu-06:4015:4015 [0] NCCL INFO 16 coll channels, 16 collnet channels, 16 nvls channels, 16 p2p channels
gpu-06:4015:4015 [0] NCCL INFO 8589934592 Bytes -> Algo 1 proto 2 time 86069.968750
gpu-06:4015:4015 [0] NCCL INFO Channel 00/0 : 3[1] -> 2[0] via P2P/CUMEM
gpu-06:4015:4015 [0] NCCL INFO Channel 07/0 : 0[0] -> 2[0] [receive] via NET/IB/3/GDRDMA
gpu-06:4015:4015 [0] NCCL INFO Channel 06/0 : 6[6] -> 3[3] via P2P/direct pointer/read
gpu-06:4015:4015 [0] NCCL INFO Channel 07/0 : 15[7] -> 14[6] [send] via NET/Socket/3
gpu-06:4015:4015 [0] NCCL INFO Channel 01/1 : 33[1] -> 41[1] [send] via NET/IBext_v8/4(1)/GDRDMA/Shared
gpu-06:4015:4015 [0] NCCL WARN NET/IB : Got completion from peer 10.0.0.1<55921> with status=12
gpu-06:4015:4015 [0] NCCL INFO NCCL_ALGO set by environment to Ring
"""


@pytest.mark.parametrize(
    ("free", "total", "measured", "says"),
    [
        (70, 80, ["1 GiB", "2 GiB"], ""),
        (5, 80, ["1 GiB"], "for 2 GiB too little GPU memory is free: nvidia-smi shows what runs there"),
        (1, 80, [], "for 1 GiB, 2 GiB too little GPU memory is free"),
        # What does not fit into the part at all is not missing.
        (3.8, 4, ["1 GiB"], ""),
    ],
)
def test_a_size_for_which_memory_lacks_is_told(
    monkeypatch: pytest.MonkeyPatch, free: float, total: float, measured: list[str], says: str
) -> None:
    class Alone:
        torch = SimpleNamespace(cuda=SimpleNamespace(mem_get_info=lambda: (int(free * 2**30), int(total * 2**30))))

        def share(self, mine: Any) -> list[Any]:
            return [mine, mine]

        def measure(self, operation: str, size: int, seconds: float, *, whole: bool) -> int:
            return size

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(collectives, "_join", lambda ordinal: Alone())
    monkeypatch.setattr(collectives, "sampled", lambda found, gpu: bus.name_of(found))
    came: list[Any] = []
    with pytest.raises(HostcheckError, match=says) if says else nullcontext():
        for each in collectives.all_reduce(StandInLab(gpus=(GPU,))):
            came.append(each)
    assert came == measured


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def ranks(folder: Path, count: int, *words: str) -> list[subprocess.Popen[str]]:
    """Start ranks that find each other, as the engine does."""
    told = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        subprocess.Popen(
            [torchlab.python(), "-P", *words],
            env={**torchlab.environment(folder), **told, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def outputs(started: list[subprocess.Popen[str]]) -> list[str]:
    found = []
    for process in started:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        found.append(out)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("torch")


@pytest.mark.parametrize("count", [2, 3])
def test_every_operation_gives_the_right_data(count: int, folder: Path) -> None:
    size = 1_000_000
    operations = list(collective.FACTORS)
    plan = {"backend": "gloo", "limit": LONG, "cases": [[name, size, 0.1] for name in operations]}
    first, *others = outputs(ranks(folder, count, collective.__file__, json.dumps(plan)))
    assert not any(collective.MARK in other for other in others)
    lines = [line.removeprefix(collective.MARK) for line in first.splitlines() if line.startswith(collective.MARK)]
    results = [json.loads(line) for line in lines]
    assert [result["operation"] for result in results] == operations
    for result in results:
        assert result["wrong"] == {}
        assert result["ranks"] == count
        assert 0 <= size - result["bytes"] < 4 * count
        assert len(result["per_rank"]) == count
        assert all(0 < seconds < LONG for seconds in result["seconds"])
        sampled = bus.sampled(result, None)
        assert sampled.verified
        assert sampled.limit is None
        seconds = result["seconds"][0]
        moved = result["bytes"] * collective.FACTORS[result["operation"]](count)
        assert sampled.samples[0] == pytest.approx(moved / seconds / 1e9)


def test_wrong_data_is_found_and_its_rank_named(folder: Path) -> None:
    found: dict[str, Any] = json.loads(
        outputs(ranks(folder, 2, str(torchlab.HERE / "torch_cases.py"), "spoilt-ranks"))[0].splitlines()[-1]
    )
    assert list(found) == list(collective.FACTORS)
    for wrong in found.values():
        # Three elements in each batch.
        assert list(wrong) == ["1"]
        assert wrong["1"] % 3 == 0


def test_all_of_a_time_is_used_and_a_bounded_number_of_samples_told(folder: Path) -> None:
    found = json.loads(outputs(ranks(folder, 2, str(torchlab.HERE / "torch_cases.py"), "whole"))[0].splitlines()[-1])
    assert found["took"] >= 5, "it ends after 50 batches unless all of the time is wanted"
    assert found["samples"] <= 1000
    assert found["wrong"] == {}


def test_the_log_of_nccl_is_read_as_it_grows_and_its_memory_given_back() -> None:
    """It has a line for each operation: gigabytes in an hour of small ones."""
    log = os.memfd_create("nccl")
    ranks = object.__new__(collective.Ranks)
    ranks._log, ranks._read, ranks._said, ranks._chosen = log, 0, [], Counter()
    choice = b"host:1:1 [0] NCCL INFO AllReduce: 400 Bytes -> Algo 1 proto 2 time 1.0\n"
    os.write(log, b"NCCL version 2.27.3+cuda13.0\n" + choice + choice[:30])
    ranks._drain()
    os.write(log, choice[30:] + 50_000 * choice)
    ranks._drain()
    found = ranks._read_log()
    assert found["version"] == "2.27.3"
    assert found["chosen"] == {"ring simple": 50_002}
    assert os.fstat(log).st_blocks * 512 < 20_000
    ranks._chosen.clear()
    assert ranks._read_log()["chosen"] == {}
    os.close(log)


def test_bus_bandwidth_is_that_of_nccl_tests() -> None:
    # PERFORMANCE.md of nccl-tests, for 8 ranks.
    assert {name: factor(8) for name, factor in collective.FACTORS.items()} == {
        "all-reduce": 1.75, "all-gather": 0.875, "reduce-scatter": 0.875, "all-to-all": 0.875, "send-receive": 1.0,
    }  # fmt: skip


def test_a_real_log() -> None:
    found = collective.read_log((SAMPLES / "nccl-2.28-h200x2.log").read_text())
    assert found == {
        "version": "2.28.9",
        "via": {"P2P/CUMEM": 56},
        "chosen": {"ring simple": 3, "ring ll": 1},
        "nvls": False,
        "set": {"NCCL_NVLS_ENABLE": "0"},
        "warnings": [],
    }


def test_logs_of_other_machines() -> None:
    found = collective.read_log(MULTI)
    assert found["via"] == {
        "P2P/CUMEM": 1, "P2P/direct pointer/read": 1,
        "NET/IB/GDRDMA": 1, "NET/Socket": 1, "NET/IBext_v8/GDRDMA/Shared": 1,
    }  # fmt: skip
    assert found["chosen"] == {"ring simple": 1}
    assert found["nvls"]
    assert found["set"] == {"NCCL_ALGO": "Ring"}
    assert found["warnings"] == ["NET/IB : Got completion from peer 10.0.0.1<55921> with status=12"]
    new = "x NCCL INFO AllReduce: 2147483648 Bytes -> Algo NVLS_TREE proto SIMPLE channel{Lo..Hi}={0..15}"
    assert collective.read_log(new)["chosen"] == {"nvls tree simple": 1}
    assert collective.read_log("\x1b[2J Channel via \xff\n" * 3)["via"] == {}


def found(operation: str = "all-reduce", **changes: Any) -> dict[str, Any]:
    log = {"version": "2.28.9", "via": {"P2P/CUMEM": 48}, "chosen": {"ring simple": 20}, "nvls": False, "set": {}}
    log |= {"warnings": []} | changes.pop("log", {})
    return {
        "operation": operation, "bytes": 1 << 31, "ranks": 8, "seconds": [0.01, 0.011, 0.0105],
        "per_rank": [0.01] * 7 + [0.02], "wrong": {}, "log": log, **changes,
    }  # fmt: skip


def test_a_ring_is_held_against_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus, "linked", lambda gpu: True)
    sampled = bus.sampled(found(), GPU)
    assert sampled.case == "2 GiB"
    assert sampled.samples[0] == pytest.approx((1 << 31) * 1.75 / 0.01 / 1e9)
    assert (sampled.limit, sampled.unit, sampled.verified) == (450, "GB/s", True)
    assert sampled.settings["algorithm"] == "ring simple"
    assert sampled.settings["transport"] == "P2P/CUMEM"
    assert sampled.details["slowest rank"] == 7
    assert sampled.details["fallback"] == ""


@pytest.mark.parametrize(
    ("operation", "ranks", "ends", "limit"),
    [
        ("all-reduce", 4, [(0, "a")] * 6 + [(0, "b")] * 6 + [(0, "c")] * 6, 450),
        ("all-reduce", 2, [(0, "a")] * 6 + [(0, "b")] * 6 + [(0, "c")] * 6, 150),
        ("send-receive", 4, [(0, "a")] * 6 + [(0, "b")] * 6 + [(0, "c")] * 6, 150),
        ("all-reduce", 2, [(2, "")], 450),
        ("all-reduce", 2, [], 450),
        ("all-reduce", 2, [(None, "a")] * 3 + [(None, "b")] * 3, 450),
        ("all-reduce", 2, [(0, "")] * 18, 450),
    ],
    ids=[
        "a mesh of four",
        "two of them",
        "in a ring",
        "a switch",
        "hidden",
        "of a kind that is not told",
        "out of sight",
    ],
)
def test_without_a_switch_only_links_between_those_that_take_part_count(
    monkeypatch: pytest.MonkeyPatch, operation: str, ranks: int, ends: list[Any], limit: float
) -> None:
    monkeypatch.setattr(bus, "linked", lambda gpu: True)
    monkeypatch.setattr(mesh, "far_ends", lambda uuid: ends)
    assert bus.sampled(found(operation=operation, ranks=ranks), GPU).limit == pytest.approx(limit)


def test_with_reduction_in_the_switch_the_limit_is_another() -> None:
    limit, source = bus.limit_of("all-reduce", 8, "nvls simple", GPU, True)
    # 475 to 480 GB/s were published for 8 H200: above the link's 450.
    assert limit == pytest.approx(700)
    assert "reduction in the switch" in source
    assert bus.limit_of("all-gather", 8, "nvls simple", GPU, True)[0] == 450
    assert bus.limit_of("all-reduce", 8, "ring simple", GPU, False)[0] == 63
    assert bus.limit_of("all-reduce", 8, "ring simple", GPU, None) == (None, "")


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ({"via": {"SHM/direct/direct": 8}}, "SHM/direct/direct (memory of the host), although the GPUs have NVLink"),
        ({"via": {"P2P/CUMEM": 8, "NET/Socket": 8}}, "NET/Socket (the network)"),
        ({"via": {"SHM/direct/direct": 8}, "set": {"NCCL_P2P_DISABLE": "1"}}, "NCCL_P2P_DISABLE=1 is set"),
    ],
)
def test_a_fallback_is_named(log: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus, "linked", lambda gpu: True)
    sampled = bus.sampled(found(log=log), GPU)
    assert words in str(sampled.details["fallback"])
    # The link is there, and the number is held against it.
    assert sampled.limit == 450


def test_cards_with_bridges_may_go_through_the_host() -> None:
    log = found(log={"via": {"P2P/CUMEM": 8, "SHM/direct/direct": 8}})["log"]
    bridged = next(model for model in table().models if model.nvlink and model.nvlink.optional)
    assert bus.fallback(log, replace(GPU, model=bridged), True) == ""
    assert bus.fallback(log, GPU, False) == ""
    assert bus.fallback(log, GPU, None) == ""
    assert bus.fallback(log, replace(GPU, model=None), True) == ""


def test_the_time_of_small_operations_may_scatter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus, "linked", lambda gpu: True)
    assert bus.sampled(found(bytes=1 << 20), GPU).statistic == "p50"
    assert bus.sampled(found(), GPU).statistic == "median"


def test_wrong_data_voids_the_number() -> None:
    sampled = bus.sampled(found(wrong={"3": 17}), None)
    assert not sampled.verified
    assert sampled.invalid == "the data is wrong on rank 3 (17 elements)"


def test_names_of_sizes() -> None:
    named = [bus.name_of(size) for size in (512, 1 << 10, 64 << 10, 16 << 20, 1 << 30, 8 << 30)]
    assert named == ["512 B", "1 KiB", "64 KiB", "16 MiB", "1 GiB", "8 GiB"]


def test_nccl_is_told_what_to_say_and_not_how_to_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_NVLS_ENABLE", "0")
    for name in ("NCCL_DEBUG", "NCCL_DEBUG_SUBSYS", "NCCL_DEBUG_FILE"):
        monkeypatch.setenv(name, "user")
    before = dict(os.environ)
    log = collective._log_to_memory()
    changed = {name for name in os.environ if os.environ[name] != before.get(name)}
    assert changed == {"NCCL_DEBUG", "NCCL_DEBUG_SUBSYS", "NCCL_DEBUG_FILE"}
    Path(os.environ["NCCL_DEBUG_FILE"]).write_text("NCCL version 2.28.9+cuda13.0\n")
    assert collective.read_log(os.pread(log, 100, 0).decode())["version"] == "2.28.9"
    os.close(log)
