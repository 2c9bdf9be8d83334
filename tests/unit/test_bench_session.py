"""Which GPUs, which benchmarks, how long; and what the fact makes of sessions from anywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Container
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import bench_fakes  # noqa: F401 (it registers benchmarks)
from hostcheck.audit import judge, shipped_layers
from hostcheck.bench.floors import Floors
from hostcheck.bench.lab import BenchGpu
from hostcheck.bench.model import Backend, Level, Measurement, Scope, Session
from hostcheck.bench.parent import Step
from hostcheck.bench.session import (
    BUDGET,
    SPARE,
    Host,
    _encrypted,
    choose,
    gpus_on_bus,
    lacking,
    look,
    plan,
    with_results,
)
from hostcheck.checklist import Checklist
from hostcheck.errors import HostcheckError, Unavailable
from hostcheck.expect import KEYS, Expect, Layer, read_layer
from hostcheck.facts.bench import equals, gpus_in, judge_of, parse_results, read_session, traits
from hostcheck.model import Status, exit_code
from hostcheck.registry import BENCHES, load_benches
from hostcheck.render import FORMATS, render
from hostcheck.snapshot.archive import read_archive, write_archive
from hostcheck.snapshot.reading import Ending, Reading
from support import host, sample

GPU = BenchGpu(index=0, ordinal=0, uuid="GPU-0", name="fake")
OWN = {id: made for id, made in load_benches().items() if made.module.startswith("hostcheck.microbench.")}


def nvml(name: str) -> Reading:
    return host(name).reading("gpu.nvml")


def test_the_gpus_of_a_real_host() -> None:
    """The recording of a host with one H100."""
    seen = look(nvml("h100x1"))
    (gpu,) = seen.gpus
    assert (gpu.index, gpu.name, gpu.cc, gpu.sm_count) == (0, "NVIDIA H100 80GB HBM3", (9, 0), 132)
    assert gpu.model is not None
    assert gpu.model.id == "h100-sxm5-80gb"
    assert seen.versions == {"driver": "580.159.04", "CUDA driver": "13.0"}
    assert seen.devices["gpu0"]["bus_id"] == "0000:00:06.0"
    assert seen.devices["gpu0"]["virtualization"] == "Pass-Through"
    assert seen.refused == {}
    assert seen.why_none == ""


def test_parts_on_which_we_never_ran_say_so() -> None:
    assert "hardware" not in look(nvml("h100x1")).devices["gpu0"]
    for told in ("10,3", "12,0", "8,0"):
        other = nvml("h100x1").out.replace(b'capability":[9,0]', f'capability":[{told}]'.encode())
        assert other != nvml("h100x1").out
        assert look(replace(nvml("h100x1"), out=other)).devices["gpu0"]["hardware"] == "not run on this hardware by us"


def test_gpus_are_chosen_by_index_range_uuid_and_by_what_the_job_sees() -> None:
    both = [gpu.index for gpu in look(nvml("h200x2")).gpus]
    assert both == [0, 1]
    uuid = look(nvml("h200x2")).gpus[1].uuid
    for chosen, visible, indices in (
        ("1", None, [1]), ("0-1", None, both), ("gpu1,0", "0", [1, 0]), (uuid, None, [1]),
        (None, "1", [1]), (None, uuid, [1]), (None, None, both), (None, "", []), (None, "-1", []),
    ):  # fmt: skip
        assert [gpu.index for gpu in look(nvml("h200x2"), chosen, visible).gpus] == indices, (chosen, visible)
    with pytest.raises(HostcheckError, match=r"--gpus: no GPU '7' \(there are 0, 1\)"):
        look(nvml("h200x2"), "7")
    with pytest.raises(HostcheckError, match=r"--gpus: no GPU '2, 3, 4, 5, 6, 7' \(there are 0, 1\)"):
        look(nvml("h200x2"), "0-7")
    for nothing in ("", " ", ",", " , "):
        for reading in (nvml("h200x2"), Reading("gpu.nvml", Ending.TIMEOUT, note="no answer in 60 s")):
            with pytest.raises(HostcheckError, match=r"--gpus: no GPU is named: leave it out for all, or .* 0,2-3"):
                look(reading, nothing)
    for many in ("GPU-", "gpu", uuid[:-1]):
        two = nvml("h200x2").out.replace(look(nvml("h200x2")).gpus[0].uuid.encode(), f"{uuid[:-1]}x".encode())
        for chosen, visible in ((many, None), (None, many), (f"0,{many}", None)):
            who = "CUDA_VISIBLE_DEVICES" if chosen is None else "--gpus"
            with pytest.raises(HostcheckError, match=rf"{who}: '{many}' begins the UUID of several GPUs: 0, 1"):
                look(replace(nvml("h200x2"), out=two), chosen, visible)
    with pytest.raises(HostcheckError, match="MIG devices are not measured"):
        look(nvml("h200x2"), None, "MIG-41b36a2c")


def test_a_probe_without_an_answer_is_no_gpu_and_says_why() -> None:
    assert "no answer in 60 s" in look(Reading("gpu.nvml", Ending.TIMEOUT, note="no answer in 60 s")).why_none


def test_a_lost_gpu_is_named_unless_others_were_chosen() -> None:
    report = json.loads(nvml("h200x2").text())
    report["gpus"][1] = {"index": 1, "bus_id": report["gpus"][1]["bus_id"], "error": "GPU is lost"}
    reading = Reading("gpu.nvml", Ending.OK, 0, out=json.dumps(report).encode())
    assert list(look(reading).refused.values()) == ["GPU is lost; see dmesg for Xids"]
    for chosen, visible in (("0", None), (None, "0")):
        seen = look(reading, chosen, visible)
        assert ([gpu.index for gpu in seen.gpus], seen.refused) == ([0], {})
    with pytest.raises(HostcheckError, match=r"no GPU '1' \(there are 0\); 0000:\S+: GPU is lost, see dmesg"):
        look(reading, "0-1")


def test_a_driver_that_does_not_answer_for_gpus_on_the_bus_is_unknown_and_not_a_host_without_any(
    tmp_path: Path,
) -> None:
    for name, (vendor, kind) in {"bridge": ("0x10de", "0x060400"), "gpu": ("0x10de", "0x030200")}.items():
        assert not gpus_on_bus(str(tmp_path)), name
        device = tmp_path / "sys/bus/pci/devices" / name
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")
    assert gpus_on_bus(str(tmp_path))
    for error, applies in (("Driver Not Loaded", True), ("NVML Shared Library Not Found", False)):
        reading = Reading("gpu.nvml", Ending.OK, 0, out=json.dumps({"schema": 1, "error": error}).encode())
        for on_bus in (False, True):
            _, missing = lacking([BENCHES["fake.good"]], look(reading, on_bus=on_bus), named=False)
            assert [entry.applies for entry in missing] == [applies and on_bus], error


def test_what_answers_soonest_runs_first() -> None:
    order = [(made.backend, made.scope) for made in choose(load_benches(), ["*.*"], Level.QUICK)]
    backends = [backend for backend, _ in order]
    assert backends == sorted(backends, key=[Backend.CUDA, Backend.TORCH, Backend.NONE].index)
    assert order.index((Backend.CUDA, Scope.GPU)) < order.index((Backend.TORCH, Scope.GPU))


def test_a_level_includes_the_lower_ones_and_a_name_overrules_it() -> None:
    benches = load_benches()
    quick = {made.id for made in choose(benches, [], Level.QUICK)}
    standard = {made.id for made in choose(benches, [], Level.STANDARD)}
    assert "hbm.triad" in quick
    assert quick < standard
    assert "gemm.tf32" not in quick
    assert [made.id for made in choose(benches, ["gemm.tf32"], Level.QUICK)] == ["gemm.tf32"]
    with pytest.raises(HostcheckError, match=r"no benchmark matches 'gem.tf32'; did you mean 'gemm.tf32'"):
        choose(benches, ["gem.tf32"], Level.QUICK)


@pytest.mark.parametrize("gpus", [1, 2, 8])
@pytest.mark.parametrize("level", [Level.QUICK, Level.STANDARD, Level.FULL])
def test_a_level_keeps_its_time_whatever_runs(level: Level, gpus: int) -> None:
    benches = [made for id, made in load_benches().items() if not id.startswith(("fake.", "copy.fake"))]
    between = (Scope.GPUS, Scope.RANKS)
    chosen = [made for made in benches if made.level <= level and (gpus > 1 or made.scope not in between)]
    total = sum(step.seconds * step.turns(gpus) for step in plan(chosen, gpus, level))
    assert total <= BUDGET[level]
    assert BUDGET[level] + SPARE[level] <= {Level.QUICK: 55, Level.STANDARD: 300, Level.FULL: 3600}[level]
    assert total > BUDGET[level] / 3, "and it is not left unused"


def test_at_level_full_each_gpu_is_measured_alone_besides() -> None:
    made = [load_benches()["hbm.triad"], load_benches()["peer.copy"]]
    assert [(step.bench.id, step.alone) for step in plan(made, 2, Level.FULL)] == [
        ("hbm.triad", False), ("peer.copy", False), ("hbm.triad", True),
    ]  # fmt: skip
    others = plan(made, 2, Level.STANDARD) + plan(made, 2, Level.SOAK) + plan(made, 1, Level.FULL)
    assert not any(step.alone for step in others)


def shares(steps: list[Step], gpus: int) -> tuple[float, float, float]:
    """Return the seconds in which all GPUs work, in which one does, and in which none does."""
    times = dict.fromkeys(("all", "some", "none"), 0.0)
    for step in steps:
        where = "none" if step.bench.scope is Scope.HOST else "some" if step.alone else "all"
        times[where] += step.seconds * step.turns(gpus)
    return times["all"], times["some"], times["none"]


@pytest.mark.parametrize(
    ("names", "level", "duration", "options"),
    [
        ([], Level.SOAK, None, ()), ([], Level.SOAK, 36_000, {"path"}), (["gemm.bf16"], Level.SOAK, 600, ()),
        (["gemm.bf16"], Level.QUICK, 600, ()), ([], Level.STANDARD, 3600, ()),
    ],
)  # fmt: skip
def test_a_long_load_is_one_of_all_gpus(
    names: list[str],
    level: Level,
    duration: float | None,
    options: Container[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The hour of soak that was planned for 8 GPUs loaded one of them for 2234 s while seven idled."""
    monkeypatch.setattr("hostcheck.bench.session.find_spec", lambda package: package)
    chosen, _ = lacking(choose(OWN, names, level), Host(gpus=(GPU,) * 8), named=False, options=options)
    time = duration or BUDGET[level]
    steps = plan(chosen, 8, level, duration)
    together, alone, idle = shares(steps, 8)
    assert together > 0.95 * time
    assert together + alone + idle == pytest.approx(time, abs=25)
    assert bool(alone) == ("path" in options)


def test_at_standard_what_is_not_there_gets_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hostcheck.bench.session.find_spec", lambda package: package)
    chosen, _ = lacking(choose(OWN, [], Level.STANDARD), Host(gpus=(GPU,) * 8), named=False)
    seconds = {step.bench.id: step.seconds for step in plan(chosen, 8, Level.STANDARD)}
    assert seconds["hbm.triad"] >= 1.0, "it had 0.67 s of the 1 s that it takes"


def test_what_is_of_the_host_alone_gets_all_the_time_there_is() -> None:
    (step,) = plan([OWN["cpu.jitter"]], 8, Level.QUICK, 600)
    assert step.seconds > 590


def test_a_duration_is_used_up() -> None:
    steps = plan([BENCHES["fake.good"], BENCHES["fake.turns"]], 2, Level.QUICK, 61)
    assert sum(step.seconds for step in steps) + steps[1].seconds == pytest.approx(60.5, abs=0.1)


def test_what_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hostcheck.bench.session.find_spec", lambda package: None)
    wanted = [BENCHES["fake.package"], BENCHES["fake.together"], BENCHES["fake.good"], BENCHES["fake.host"]]
    can, missing = lacking(wanted, Host(gpus=(GPU,)), named=False)
    assert [made.id for made in can] == ["fake.good", "fake.host"]
    assert {(entry.bench, entry.why, entry.applies) for entry in missing} == {
        ("fake.package", "torch is not installed: pip install '.[torch]' in the checkout of hostcheck", False),
        ("fake.together", "it needs two GPUs or more", False),
    }
    _, named = lacking(wanted[:1], Host(gpus=(GPU,)), named=True)
    assert named[0].applies, "what was asked for and is not there is unknown"
    mig = Host(refused={"gpu0": "MIG is on", "gpu1": "MIG is on"})
    can, missing = lacking(wanted[1:2], mig, named=True)
    assert can == []
    assert {(entry.bench, entry.subject, entry.applies) for entry in missing} == {
        ("fake.together", "gpu0", True), ("fake.together", "gpu1", True),
    }  # fmt: skip
    _, missing = lacking(wanted[1:2], Host(gpus=(GPU,), refused={"gpu1": "MIG is on"}), named=True)
    assert [(entry.subject, entry.applies) for entry in missing] == [("host", True), ("gpu1", True)], (
        "there would be two"
    )
    can, missing = lacking(wanted[2:], Host(why_none="NVML sees no GPU"), named=False)
    assert [made.id for made in can] == ["fake.host"]
    assert [entry.why for entry in missing] == ["NVML sees no GPU"]


@pytest.mark.parametrize("named", [False, True])
def test_a_package_that_nobody_asked_for_does_not_apply_on_the_host_either(
    named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without numba, plain `hostcheck bench` ended with 3."""
    monkeypatch.setattr("hostcheck.bench.session.find_spec", lambda package: None if package == "numba" else package)
    refused = Host(gpus=(GPU,), refused={"gpu1": "MIG is on"})
    can, missing = lacking(
        [OWN[id] for id in ("memory.bandwidth", "memory.latency", "cpu.jitter")], refused, named=named
    )
    assert [made.id for made in can] == ["cpu.jitter"]
    why = "numba is not installed: pip install '.[bench]' in the checkout of hostcheck"
    assert [(entry.bench, entry.subject, entry.why, entry.applies) for entry in missing] == [
        (id, "host", why, named) for id in ("memory.bandwidth", "memory.latency")
    ]


@pytest.mark.parametrize("named", [False, True])
def test_what_needs_an_option_that_is_not_given_takes_no_time(named: bool) -> None:
    benches = load_benches()
    wanted = [benches[id] for id in ("cpu.jitter", "storage.read", "fake.folder")]
    refused = Host(gpus=(GPU,), refused={"gpu1": "MIG is on"})
    can, missing = lacking(wanted, refused, named=named)
    assert [made.id for made in can] == ["cpu.jitter"]
    why = "{} needs --option path=FOLDER: the folder on the storage that is measured"
    assert [(entry.bench, entry.subject, entry.why, entry.applies) for entry in missing] == [
        (id, "host", why.format(id), named) for id in ("storage.read", "fake.folder")
    ]
    assert lacking(wanted, Host(gpus=(GPU,)), named=named, options={"path": "/"}) == (wanted, [])


@pytest.mark.parametrize("id", ["fake.good", "fake.together", "fake.ranks"])
def test_a_gpu_that_is_refused_is_named_whatever_the_others_can_do(id: str) -> None:
    three = Host(gpus=(GPU, replace(GPU, index=1, uuid="GPU-1")), refused={"gpu2": "GPU is lost"})
    can, missing = lacking([BENCHES[id]], three, named=False)
    assert [made.id for made in can] == [id]
    assert [(entry.subject, entry.why, entry.applies) for entry in missing] == [("gpu2", "GPU is lost", True)]
    assert lacking([BENCHES["fake.host"]], three, named=False)[1] == [], "the host itself needs no GPU"


def session(**changes: object) -> Session:
    measured = Measurement(
        bench="hbm.triad", subject="gpu[0-3]", unit="GB/s", value=3100.0, samples=(3100.0,), verified=True
    )
    made = Session(tool="test", taken="2026-11-21T00:00:00+00:00", level="quick", measurements=(measured,))
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bench", "subject", "limit"),
    [
        ("copy.h2d", "gpu0", 63.0), ("copy.h2d", "gpu1", None), ("peer.copy", "gpu0>gpu1", None),
        ("nccl.all-reduce", "gpu[0-3]", None), ("nccl.all-reduce", "gpu[2-3]", 63.0), ("peer.all", "all GPUs", None),
        ("hbm.triad", "gpu1", 63.0),
    ],
)  # fmt: skip
def test_what_is_encrypted_has_no_limit(bench: str, subject: str, limit: float | None) -> None:
    measured = Measurement(bench=bench, subject=subject, unit="GB/s", value=1.0, limit=63.0)
    assert _encrypted(measured, {"gpu1"}).limit == limit
    assert _encrypted(measured, set()).limit == 63.0


def test_a_session_comes_back_from_an_archive_as_it_was() -> None:
    import io

    made = session(devices={"gpu0": {"pci_id": "10de:2330"}})
    packed = io.BytesIO()
    write_archive(with_results(host("bare"), made), packed)
    again = parse_results(read_archive(packed.getvalue()).reading("bench.results"))
    assert again == made
    assert traits(again, again.measurements[0]) == {"pci": "10de:2330"}


def test_the_sample_of_the_docstring() -> None:
    made = parse_results(Reading("bench.results", Ending.OK, 0, out=sample(parse_results).encode()))
    assert made.measurements[0].value == 3100.0
    assert made.devices["gpu0"]["pci_id"] == "10de:2330"


def test_redaction_leaves_the_numbers_and_takes_the_names() -> None:
    from hostcheck.bench.model import Conditions
    from hostcheck.snapshot.redact import redact

    busy = replace(
        session().measurements[0], conditions=Conditions(others=("secret-job (pid 4711)",)), samples=(0.12345678,) * 9
    )
    uuid = "GPU-5a1b2c3d-0000-1111-2222-333344445555"
    made = session(measurements=(busy,), devices={"gpu0": {"uuid": uuid, "bus_id": "0000:19:00.0"}})
    masked = redact(with_results(host("bare"), made)).reading("bench.results")
    assert b"secret-job" not in masked.out
    assert uuid.encode() not in masked.out
    again = parse_results(masked)
    assert again.measurements[0].samples == busy.samples
    assert again.measurements[0].conditions.others == ("a process (pid 4711)",)
    assert again.devices["gpu0"]["bus_id"] == "0000:19:00.0"


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2}, {"measurements": None}, {"measurements": [{"bench": "x"}]}, {"level": 7},
        {"measurements": [{"bench": "x", "subject": "gpu0", "unit": "GB/s", "value": -1}]},
        {"measurements": [{"bench": "x", "subject": "gpu0", "unit": "GB/s", "value": "much"}]},
        {"measurements": [{"bench": "x", "subject": "gpu0", "unit": "GB/s", "value": 1, "samples": [1e999]}]},
    ],
)  # fmt: skip
def test_what_is_no_session_is_unavailable(change: dict[str, object]) -> None:
    good = {"tool": "t", "taken": "2026", "level": "quick", "schema": 1, "measurements": []}
    document = json.dumps({**good, **change}).replace("Infinity", "1e999")
    with pytest.raises(Unavailable, match="measurements"):
        parse_results(Reading("bench.results", Ending.OK, 0, out=document.encode()))


NUMBERS = st.one_of(
    st.sampled_from([0, -1, 10**400, -(10**400), 1e-306, 5e-324, 1.7e308, -1.7e308, 1e30, 1e-9, 3352.0]), st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
)  # fmt: skip
PLACES = ["value", "limit", "samples", "seconds", "details", "settings", "sm_mhz", "throttled_ns", "errors", "joules"]


def document(numbers: dict[str, int | float], *, each: bool = False) -> bytes:
    number = {place: numbers.get(place, 1) for place in PLACES}
    conditions = {
        "sm_mhz": number["sm_mhz"], "joules": number["joules"], "seconds": 1.0,
        "throttled_ns": {"hw_thermal_slowdown": number["throttled_ns"]}, "errors": {"pcie.replays": number["errors"]},
    }  # fmt: skip
    measured = {
        "bench": "hbm.triad", "subject": "gpu0", "unit": "GB/s", "verified": True, "value": number["value"],
        "limit": number["limit"], "samples": [number["samples"], 1.0, 2.0], "seconds": number["seconds"],
        "details": {"flops": number["details"]}, "settings": {"bytes": number["settings"]},
        **({"each": {"gpu0": conditions}} if each else {"conditions": conditions}),
    }  # fmt: skip
    return json.dumps(
        {"tool": "t", "taken": "2026", "level": "quick", "schema": 1, "devices": {"gpu0": {"pci_id": "10de:2330"}},
         "measurements": [measured, {**measured, "subject": "gpu1", "value": 1}]}
    ).encode()  # fmt: skip


@pytest.mark.parametrize("number", [10**400, 1.7e308, 1e30, -(10**400)], ids=["whole", "float", "least", "negative"])
@pytest.mark.parametrize("place", PLACES)
def test_no_measurement_is_so_large(place: str, number: float) -> None:
    for each in (False, True):
        with pytest.raises(Unavailable, match="these are no measurements of hostcheck"):
            read_session(document({place: number}, each=each))


def test_no_limit_is_so_small() -> None:
    with pytest.raises(Unavailable, match="these are no measurements of hostcheck"):
        read_session(document({"limit": 1e-306}))
    assert read_session(document({"limit": 0})).measurements[0].limit == 0
    assert read_session(document({"limit": 1e-9})).measurements[0].limit == 1e-9


@given(st.dictionaries(st.sampled_from(PLACES), NUMBERS, max_size=3), st.booleans())
@example({"limit": 1e-306, "value": 3352.0}, False)
@example({"details": 10**400}, False)
@example({"throttled_ns": 10**400}, True)
@settings(deadline=None, max_examples=50)
def test_whatever_numbers_an_archive_holds_they_are_refused_or_judged_shown_and_compared(
    numbers: dict[str, int | float], each: bool
) -> None:
    from hostcheck.bench.baseline import compare, floors
    from hostcheck.render.bench import render_comparison, render_session

    try:
        made = read_session(document(numbers, each=each))
    except Unavailable:
        return
    run = judge(with_results(host("bare"), made), Checklist(only=("bench",)))
    assert not [result for result in run.results if result.status is Status.ERROR]
    for form in FORMATS:
        assert render(run, form)
    assert render_session(made, Floors(shipped_layers("training", gpus=True)), width=100)
    other = read_session(document({}))
    for then, now in ((made, other), (other, made)):
        assert render_comparison(compare(then, now), width=100)
    with suppress(HostcheckError):
        read_layer(floors(made, KEYS), "site")


@given(st.binary() | st.text().map(str.encode))
def test_no_input_raises_anything_else(document: bytes) -> None:
    with pytest.raises(Unavailable):
        parse_results(Reading("bench.results", Ending.OK, 0, out=document))


def test_each_benchmark_has_its_check_and_that_answers_its_rows() -> None:
    from hostcheck.registry import load_checks

    known = load_checks()
    for id, made in load_benches().items():
        if made.module == "bench_fakes":
            continue
        assert judge_of(id) != "bench.other", id
        rows = {row for check in ("bench.alike", judge_of(id)) for row in known[check].rows}
        assert set(made.rows) <= rows, id


def test_what_nobody_measured_takes_no_part_unless_it_was_asked_for() -> None:
    bare = host("bare")

    def status(checklist: Checklist) -> str:
        run = judge(bare, checklist)
        return next(result.status.value for result in run.results if result.id == "bench.memory")

    assert status(Checklist()) == "skipped"
    assert status(Checklist(skip=("cpu",))) == "skipped"
    assert status(Checklist(only=("bench.*",))) == "unknown"
    assert status(Checklist(require=("bench.memory",))) == "unknown"
    only = judge(bare, Checklist(only=("bench",)))
    assert exit_code(only) == 3


def test_a_floor_above_the_limit_and_a_case_of_what_has_none_are_refused() -> None:
    for text, says in (
        ('[expect]\n"bench.memory[hbm.triad]" = { at_least = 110 }', "110 % is outside 0 to 100 %"),
        ('[expect]\n"bench.memery[hbm.triad]" = 1', "did you mean 'bench.memory'"),
        ('[expect]\n"bench.slowdown[hbm.triad]" = 1', "bench.slowdown has no cases"),
        ('[expect]\n"bench.memory[hbm.triad" = 1', "bench.memory has no cases"),
    ):
        with pytest.raises(HostcheckError, match=re.escape(says)):
            read_layer(text, "site")


def test_the_most_telling_case_of_the_last_layer_wins() -> None:
    key = KEYS["bench.matrix"]

    def layer(**values: int) -> Layer:
        table = "\n".join(f'"bench.matrix{name}" = {{ at_least = {value} }}' for name, value in values.items())
        return read_layer(f"[expect]\n{table}", "site")

    both = layer(**{"": 10, "[gemm.bf16]": 20, "[gemm.bf16 8192]": 30})
    cases = ("gemm.bf16 8192", "gemm.bf16", "gemm")
    assert Expect([both], {}, (key.name,))(key, *cases).matcher.words("%") == "at least 30 %"
    assert Expect([both], {}, (key.name,))(key, *cases[1:]).matcher.words("%") == "at least 20 %"
    assert Expect([both], {}, (key.name,))(key, "gemm.fp8").matcher.words("%") == "at least 10 %"
    later = Expect([both, layer(**{"": 40})], {}, (key.name,))
    assert later(key, *cases).matcher.words("%") == "at least 40 %", "a site that says all means all"


def test_the_host_and_all_gpus_are_of_the_model_that_all_gpus_are_of() -> None:
    told = {"pci_id": "10de:2330", "architecture": "Hopper"}
    own = replace(session().measurements[0], subject="gpu1", settings={"ranks": 2})
    host_, every = (replace(own, subject=subject, settings={}) for subject in ("node0", "all GPUs"))
    both = session(devices={"gpu0": told, "gpu1": told}, measurements=(own, host_, every))
    model = {"pci": "10de:2330", "gpu_arch": "Hopper"}
    assert [traits(both, each) for each in both.measurements] == [{**model, "ranks": "2"}, model, model]
    other = replace(both, devices={"gpu0": {**told, "pci_id": "10de:2335"}, "gpu1": told})
    assert [traits(other, each) for each in both.measurements[1:]] == [{"gpu_arch": "Hopper"}] * 2
    assert traits(replace(both, devices={}), host_) == {}
    nodes = [replace(host_, subject=f"node{number}", value=5.0) for number in (0, 1)]
    for devices in (both.devices, other.devices, {}):
        assert [len(group) for group in equals(session(devices=devices, measurements=tuple(nodes)))] == [2]


def test_a_subject_names_no_more_gpus_than_a_host_can_have() -> None:
    assert gpus_in("gpu0>gpu1") == [0, 1]
    assert gpus_in("gpu[0-3,7]") == [0, 1, 2, 3, 7]
    assert gpus_in("gpu1-gpu0") == gpus_in("gpu1,gpu0") == gpus_in("gpu1+gpu0") == [1, 0]
    for other in ("all GPUs", "host", "node0>node1", "/mnt/gpu1", "gpu1/data", "gpu0>/mnt/gpu1", "gpu", "gpu1>"):
        assert gpus_in(other) == [], other
    assert len(gpus_in("gpu[" + "0-999," * 100_000 + "7]")) < 100_000
