"""Baselines: what is worse, what is noise, and what cannot be compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hostcheck.audit import judge
from hostcheck.bench.baseline import compare, floors, read
from hostcheck.bench.model import Measurement, Missing, Session
from hostcheck.bench.session import with_results
from hostcheck.checklist import Checklist
from hostcheck.errors import HostcheckError
from hostcheck.expect import KEYS, read_layer
from hostcheck.model import Scalar, Status
from hostcheck.registry import load_checks
from hostcheck.render.bench import render_comparison
from hostcheck.render.json import encoded
from support import host

load_checks()  # for their keys
STEADY = (3098.0, 3099.0, 3100.0, 3101.0, 3102.0)
TRIAD = Measurement(
    bench="hbm.triad", subject="gpu0", unit="GB/s", value=3100.0, samples=STEADY, limit=3352.0, verified=True,
    settings={"buffer_bytes": 1 << 30},
)  # fmt: skip


def session(*measurements: Measurement, missing: tuple[Missing, ...] = (), gpu: str = "H100") -> Session:
    devices = {f"gpu{number}": {"name": gpu, "pci_id": "10de:2330"} for number in range(2)}
    return Session(
        tool="test", taken="2026-11-21T00:00:00+00:00", level="quick", measurements=measurements, missing=missing,
        devices=devices, versions={"driver": "580"},
    )  # fmt: skip


def scaled(factor: float, measured: Measurement = TRIAD) -> Measurement:
    assert measured.value is not None
    return replace(measured, value=measured.value * factor, samples=tuple(each * factor for each in measured.samples))


@pytest.mark.parametrize(("factor", "worse"), [(1.0, False), (0.98, False), (0.96, True), (1.5, False)])
def test_worse_by_more_than_the_tolerance(factor: float, worse: bool) -> None:
    (found,) = compare(session(TRIAD), session(scaled(factor))).compared
    assert found.worse is worse
    assert found.change == pytest.approx(100 * (factor - 1), abs=0.01)


def test_what_the_scatter_of_the_samples_explains_is_not_worse() -> None:
    wild = replace(TRIAD, samples=(2000.0, 2500.0, 3100.0, 3600.0, 4100.0))
    (found,) = compare(session(wild), session(scaled(0.9, wild))).compared
    assert found.noise > 10
    assert not found.worse


@pytest.mark.parametrize(("now", "worse"), [(1.8, False), (2.5, True)])
def test_a_percentile_of_which_there_is_one_has_noise_all_the_same(now: float, worse: bool) -> None:
    jitter = Measurement(
        bench="cpu.jitter", subject="node0", unit="us", value=100.0, samples=(100.0,), statistic="p99.9", verified=True
    )
    later = replace(jitter, value=100.0 * now, samples=(100.0 * now,))
    (compared,) = compare(session(jitter), session(later)).compared
    assert (compared.worse, compared.noise > 50) == (worse, True)


def test_of_times_more_is_worse() -> None:
    launch = Measurement(bench="launch.kernel", subject="gpu0", unit="us", value=2.0, samples=(2.0,) * 5)
    (found,) = compare(session(launch), session(scaled(1.5, launch))).compared
    assert (found.worse, found.change) == (True, -50)


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (session(replace(TRIAD, settings={"buffer_bytes": 1 << 28})),
         "hbm.triad on gpu0: other settings: buffer_bytes 1073741824 then, 268435456 now"),
        (session(TRIAD, gpu="H200"), "hbm.triad on gpu0: another GPU: H100 then, H200 now"),
        (session(replace(TRIAD, alone=True)), "hbm.triad on gpu0: not in the baseline"),
        (session(replace(TRIAD, invalid="throttled")), "the new number is invalid: throttled"),
        (session(), "hbm.triad on gpu0: not measured now"),
        (session(missing=(Missing(bench="hbm.triad", subject="gpu0", why="GPU is lost"),)),
         "hbm.triad on gpu0: GPU is lost"),
    ],
)  # fmt: skip
def test_what_was_measured_otherwise_is_named_and_not_compared(now: Session, why: str) -> None:
    found = compare(session(TRIAD), now)
    assert found.compared == ()
    assert any(why in line for line in found.apart)


def test_of_what_is_worse_it_is_told_which_software_changed_that_it_depends_on() -> None:
    gemm, cpu = replace(TRIAD, bench="gemm.bf16"), replace(TRIAD, bench="memory.bandwidth", subject="node0")
    then = replace(session(TRIAD, gemm, cpu), versions={"driver": "580", "torch": "2.10", "kernel": "6.8"})
    now = replace(then, versions={"driver": "590", "torch": "2.11", "kernel": "6.8"}, tool="newer")
    found = {each.name: each.software for each in compare(then, now).compared}
    newer, driver, torch = "hostcheck: test then, newer now", "driver: 580 then, 590 now", "torch: 2.10 then, 2.11 now"
    assert found == {
        "hbm.triad": (driver, newer), "gemm.bf16": (driver, newer, torch), "memory.bandwidth": (newer,),
    }  # fmt: skip
    worse = compare(then, replace(now, measurements=(scaled(0.9),)))
    text = " ".join(render_comparison(worse, color=False, width=100, ascii=True).split())
    assert "3,100 -> 2,790 GB/s -10.0 % (noise 0.1 %) or the software's: driver: 580 then, 590 now; hostcheck" in text
    same = render_comparison(compare(then, replace(then, measurements=(scaled(0.9),))), color=False, width=100)
    assert "or the software's" not in same


def test_software_that_only_one_run_loaded_is_not_to_blame() -> None:
    jitter = Measurement(bench="cpu.jitter", subject="node0", unit="us", value=5.0, samples=(5.0,) * 5, verified=True)
    then = replace(session(jitter), versions={"kernel": "6.8", "numpy": "2.5.5"})
    now = replace(session(scaled(2.0, jitter)), versions={"kernel": "6.9"})
    (found,) = compare(then, now).compared
    assert (found.worse, found.software) == (True, ("kernel: 6.8 then, 6.9 now",))
    (found,) = compare(now, then).compared
    assert found.software == ("kernel: 6.9 then, 6.8 now",)


def test_a_gpu_is_known_by_its_uuid_and_each_of_several_by_its_model() -> None:
    def devices(*uuids: str, names: tuple[str, str] = ("H100", "H100")) -> dict[str, dict[str, str]]:
        return {f"gpu{n}": {"name": names[n], "uuid": uuid} for n, uuid in enumerate(uuids)}

    slow = replace(scaled(0.8), subject="gpu1")
    copy = replace(TRIAD, bench="peer.copy", subject="gpu0>gpu1")
    then = replace(session(TRIAD, slow, copy), devices=devices("GPU-a", "GPU-b"))
    turned = replace(then, measurements=(replace(slow, subject="gpu0"), replace(TRIAD, subject="gpu1"), copy))
    found = compare(then, replace(turned, devices=devices("GPU-b", "GPU-a")))
    assert {each.subject: each.change for each in found.compared} == {"gpu0": 0.0, "gpu1": 0.0}
    assert len(found.apart) == 2, "the copy went the other way"
    other = replace(then, devices=devices("GPU-a", "GPU-c", names=("H100", "H200")))
    found = compare(then, other)
    assert [each.subject for each in found.compared] == ["gpu0"]
    assert "peer.copy on gpu0>gpu1: another GPU: H100 then, H100, H200 now" in found.apart
    every = replace(TRIAD, bench="peer.all", subject="all GPUs")
    found = compare(replace(then, measurements=(every,)), replace(other, measurements=(every,)))
    assert found.apart == ("peer.all on all GPUs: another GPU: H100 then, H100, H200 now",)
    unnamed = replace(then, devices={})
    assert compare(unnamed, unnamed).compared == (), "of what is not known it cannot be said that it is the same"


def test_a_folder_that_is_called_as_a_gpu_is_none() -> None:
    def devices(*uuids: str) -> dict[str, dict[str, str]]:
        return {f"gpu{number}": {"name": "H100", "uuid": uuid} for number, uuid in enumerate(uuids)}

    read_ = replace(TRIAD, bench="storage.read", subject="/mnt/gpu1", limit=None)
    alone = replace(session(read_), devices={})
    assert [each.subject for each in compare(alone, alone).compared] == ["/mnt/gpu1"]
    then, now = (replace(session(read_), devices=devices(*uuids)) for uuids in (("GPU-a", "GPU-b"), ("GPU-b", "GPU-a")))
    found = compare(then, now)
    assert ([each.subject for each in found.compared], found.apart) == (["/mnt/gpu1"], ())


def test_nothing_is_worse_than_something_and_two_gpus_are_a_pair_in_either_order() -> None:
    hidden = replace(TRIAD, bench="overlap.copy", unit="%", value=96.0, samples=(96.0,) * 5)
    (found,) = compare(session(hidden), session(replace(hidden, value=0.0, samples=(0.0,) * 5))).compared
    assert (found.worse, found.change) == (True, -100)
    assert compare(session(replace(hidden, value=0.0)), session(hidden)).apart == (
        "overlap.copy on gpu0: the baseline is 0",
    )
    both = replace(TRIAD, bench="peer.both", subject="gpu0-gpu1")
    turned = compare(session(both), session(replace(both, subject="gpu1-gpu0")))
    assert (len(turned.compared), turned.apart) == (1, ())


def test_hosts_that_are_called_as_gpus_are_compared() -> None:
    settings: dict[str, Scalar] = {"hosts": 2, "devices": "NVIDIA H200"}
    ring = replace(TRIAD, bench="nccl.all-reduce", subject="gpu[01-02]", settings=settings)
    then = replace(session(ring), devices={"rank0": {"name": "NVIDIA H200"}})
    (found,) = compare(then, replace(then, measurements=(scaled(0.5, ring),))).compared
    assert found.worse
    other = replace(ring, settings={**settings, "devices": "NVIDIA H100"})
    assert "devices NVIDIA H200 then, NVIDIA H100 now" in compare(then, session(other)).apart[0]


def test_no_file_makes_more_of_a_layer_than_floors(tmp_path: Path) -> None:
    evil = '"]\nat_least = 0\n[expect."bench.other'
    named = replace(TRIAD, case=evil)
    made = replace(session(named), level='quick"\n[match]\npci = []', taken="2026\nrole = 'x'")
    layer = read_layer(floors(made, KEYS), "site")
    assert layer.match == {"pci": ("10de:2330",)}
    assert len(layer.values) == 1
    huge = tmp_path / "huge.json"
    with huge.open("wb") as opened:
        opened.write(b"{")
        opened.truncate(65 << 20)
    with pytest.raises(HostcheckError, match="larger than 64 MiB"):
        read(huge)


def test_what_one_run_measured_alone_as_well_does_not_stand_apart() -> None:
    alone = replace(TRIAD, alone=True)
    for then, now in ((session(TRIAD), session(TRIAD, alone)), (session(TRIAD, alone), session(TRIAD))):
        found = compare(then, now)
        assert ([each.name for each in found.compared], found.apart) == (["hbm.triad"], ())
    assert compare(session(TRIAD), session(alone)).apart != ()


@pytest.mark.parametrize("level", ["full", "soak"])
def test_what_a_level_measures_alone_on_purpose_and_is_not_there_now_is_named(level: str) -> None:
    copies = [replace(TRIAD, bench="copy.h2d", subject=f"gpu{number}", alone=alone)
              for alone in (False, True) for number in (0, 1)]  # fmt: skip
    then = replace(session(*copies), level=level)
    dead = Missing(bench="copy.h2d", subject="gpu1", why="dead")
    now = replace(then, measurements=tuple(copies[:3]), missing=(dead,))
    found = compare(then, now)
    assert (len(found.compared), found.apart) == (3, ("copy.h2d on gpu1 alone: dead",))
    assert [each.subject for each in found.compared] == ["gpu0", "gpu1", "gpu0 alone"]
    assert compare(then, replace(now, missing=())).apart == ("copy.h2d on gpu1 alone: not measured now",)
    doubted = compare(then, session(*copies))
    assert (len(doubted.compared), doubted.apart) == (4, ()), "what both have alone is compared, whatever led to it"
    assert compare(session(*copies[:2]), then).apart == (
        "copy.h2d on gpu0 alone: not in the baseline", "copy.h2d on gpu1 alone: not in the baseline",
    )  # fmt: skip


def test_a_number_without_a_baseline_is_named_and_versions_that_changed_are() -> None:
    now = replace(session(TRIAD, replace(TRIAD, bench="hbm.read")), versions={"driver": "590", "torch": "2.11"})
    found = compare(session(TRIAD), now)
    assert found.apart == ("hbm.read on gpu0: not in the baseline",)
    assert found.versions == ("driver: 580 then, 590 now", "torch: none then, 2.11 now")
    text = render_comparison(found, color=False, width=100, ascii=True)
    assert "hbm.triad gpu0: 3,100 -> 3,100 GB/s +0.0 %" in text
    assert "1 compared, 0 worse by more than tolerance and noise, 1 not compared." in text


def test_a_baseline_is_read_from_json_and_from_an_archive(tmp_path: Path) -> None:
    from hostcheck.snapshot.archive import write_archive

    plain, packed = tmp_path / "base.json", tmp_path / "host.tar.gz"
    plain.write_bytes(encoded(session(TRIAD)))
    with packed.open("wb") as opened:
        write_archive(with_results(host("bare"), session(TRIAD)), opened)
    assert read(plain) == read(packed) == session(TRIAD)
    plain.write_text('{"schema": 9}')
    with pytest.raises(HostcheckError, match=r"base.json: the measurements are of schema 9"):
        read(plain)
    with packed.open("wb") as opened:
        write_archive(host("bare"), opened)
    with pytest.raises(HostcheckError, match="nothing was measured; hostcheck bench does that"):
        read(packed)


def test_floors_of_a_good_host_hold_for_it_and_not_for_a_worse_one() -> None:
    second = replace(scaled(0.99), subject="gpu1")
    launch = Measurement(bench="launch.kernel", subject="gpu0", unit="us", value=2.0, verified=True)
    good = session(TRIAD, second, launch)
    layer = read_layer(floors(good, KEYS), "site")
    assert set(layer.values) == {"bench.memory[hbm.triad]", "bench.launch[launch.kernel]"}
    assert layer.match == {"pci": ("10de:2330",)}
    for factor, status in ((1.0, Status.PASS), (0.96, Status.PASS), (0.9, Status.FAIL)):
        own = session(scaled(factor), replace(scaled(factor), subject="gpu1"))
        run = judge(with_results(host("bare"), own), Checklist(only=("bench.memory",)), site=[layer])
        assert next(result.status for result in run.results if result.id == "bench.memory") is status, factor


def test_floors_of_the_host_and_of_all_gpus_hold_where_its_gpus_are_of_one_model() -> None:
    memory = Measurement(bench="memory.bandwidth", subject="node0", unit="GB/s", value=200.0, verified=True)
    every = replace(TRIAD, bench="peer.all", subject="all GPUs", value=400.0, limit=450.0)
    good = session(memory, every)
    layer = read_layer(floors(good, KEYS), "site")
    keys = {"bench.host-memory": "memory.bandwidth", "bench.peers": "peer.all"}
    assert set(layer.values) == {f"{key}[{name}]" for key, name in keys.items()}
    for factor, status in ((1.0, Status.PASS), (0.5, Status.FAIL)):
        own = session(scaled(factor, memory), scaled(factor, every))
        run = judge(with_results(host("bare"), own), Checklist(only=tuple(keys)), site=[layer])
        assert {result.id: result.status for result in run.results if result.id in keys} == dict.fromkeys(keys, status)
    first, second = good.devices.values()
    devices = {"gpu0": first, "gpu1": {**second, "pci_id": "10de:2335"}}
    text = floors(replace(good, devices=devices, measurements=(TRIAD, memory)), KEYS)
    assert set(read_layer(text, "site").values) == {"bench.memory[hbm.triad]"}
    assert "# bench.host-memory[memory.bandwidth] is left out: it is not of one known model of GPU." in text


def test_floors_are_in_the_unit_of_each_benchmark_and_hold_for_what_they_were_made_of() -> None:
    latency = Measurement(bench="memory.latency", subject="node0>node1", unit="ns", value=140.0, verified=True)
    random = Measurement(
        bench="storage.read", case="random", subject="/scratch", unit="kIOPS", value=512.0, verified=True
    )
    plugged = Measurement(bench="plug.in", subject="host", unit="widgets", value=7.0, verified=True)
    good = session(latency, random, plugged)
    text = floors(good, KEYS)
    assert "left out" not in text
    layer = read_layer(text, "site")
    words = {name: matcher.words("") for name, (matcher, _) in layer.values.items()}
    assert words == {
        "bench.host-memory[memory.latency]": "at most 182",
        "bench.storage[storage.read random]": "at least 486.4",
        "bench.other[plug.in]": "at least 6.65",
    }
    checks = ("bench.host-memory", "bench.storage", "bench.other")
    bad = session(scaled(2, latency), scaled(0.5, random), scaled(0.5, plugged))
    for own, status in ((good, Status.PASS), (bad, Status.FAIL)):
        run = judge(with_results(host("bare"), own), Checklist(only=checks), site=[layer])
        found = {result.id: result for result in run.results if result.id in checks}
        assert {id: result.status for id, result in found.items()} == dict.fromkeys(checks, status)
    expected = {id: result.findings[0].expected.text for id, result in found.items() if result.findings[0].expected}
    assert expected["bench.host-memory"] == "at most 182 ns"
    assert expected["bench.storage"] == "at least 486.4 kIOPS"


def test_what_is_left_out_of_floors_is_named() -> None:
    unlimited = replace(TRIAD, bench="peer.copy", subject="gpu0>gpu1", limit=None)
    hot = replace(TRIAD, bench="hbm.read", invalid="slowed by heat")
    swept = replace(TRIAD, bench="sm.sweep", case="BF16", limit=None)
    text = floors(session(TRIAD, unlimited, hot, swept), KEYS)
    assert set(read_layer(text, "site").values) == {"bench.memory[hbm.triad]"}
    assert "# bench.peers[peer.copy] is left out: its physical limit is not known." in text
    assert "# bench.memory[hbm.read] is left out: it is invalid: slowed by heat." in text
    assert "# sm.sweep BF16 is left out: bench.multiprocessors takes no floor." in text


def test_a_floor_of_what_gpus_share_at_once_is_made_of_what_they_reach_alone() -> None:
    copy = replace(TRIAD, bench="copy.h2d", case="pinned", limit=63.0)
    at_once = [replace(copy, value=20.0), replace(copy, value=30.0, subject="gpu1")]
    alone = [replace(each, value=value, alone=True) for each, value in zip(at_once, (56.0, 55.0), strict=True)]
    name = "bench.copies[copy.h2d pinned]"

    def least(*measurements: Measurement) -> str:
        layer = read_layer(floors(session(*measurements, TRIAD), KEYS), "site")
        return layer.values[name][0].words("%") if name in layer.values else "none"

    assert least(*at_once, *alone) == "at least 82.93 %"
    assert least(*at_once, alone[0]) == "at least 84.45 %"
    assert least(at_once[0]) == "at least 30.11 %", "it shared with nobody"
    unsteady = replace(at_once[1], invalid="unsteady: the samples vary by 13%")
    dead = replace(alone[0], invalid="slowed by heat")
    for measured in (at_once, [at_once[0], unsteady], [*at_once, dead]):
        assert least(*measured) == "none"
    text = floors(session(*at_once, TRIAD), KEYS)
    assert f"# {name} is left out: GPUs shared the host's memory, and none was measured alone (--level full)." in text
    with pytest.raises(HostcheckError, match="none was measured alone"):
        floors(session(*at_once), KEYS)
    share = [replace(TRIAD, subject=f"gpu{number}", value=3000.0 - number) for number in (0, 1)]
    triad = read_layer(floors(session(*share, replace(TRIAD, alone=True)), KEYS), "site").values
    assert triad["bench.memory[hbm.triad]"][0].words("%") == "at least 85.02 %", "GPUs do not share their own memory"


def test_without_a_valid_number_there_are_no_floors() -> None:
    with pytest.raises(HostcheckError, match="no valid number"):
        floors(session(replace(TRIAD, invalid="throttled")), KEYS)
