"""`hostcheck bench` as a user runs it: real child processes, with a stand-in for NVML (there is no GPU here)."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import bench_fakes
from hostcheck.bench.model import Measurement, Session
from hostcheck.cli.signals import interrupt_on_signals
from hostcheck.facts.bench import parse_results
from hostcheck.render.json import encoded as json_of
from hostcheck.snapshot.archive import read_archive
from support import host
from waiting import LONG, until

TESTS = Path(bench_fakes.__file__).parent
# What a plug-in's entry point would do: the fakes are in the register before the command begins.
START = "import sys, bench_fakes; from hostcheck.cli.main import main; sys.argv = ['hostcheck', *sys.argv[1:]]; main()"
NODES = "/sys/devices/system/node"
ONE: dict[str, Any] = {"gpus": [{}]}
TWO: dict[str, Any] = {"gpus": [{}, {}]}
COMMAND = (sys.executable, "-c", START, "bench")


def environment(nvml: dict[str, Any] | None = None) -> dict[str, str]:
    given = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(TESTS / "fakes"), str(TESTS))),
        "HOSTCHECK_FAKE_NVML": json.dumps(ONE if nvml is None else nvml),
        "COLUMNS": "100",
    }
    given.pop("CUDA_VISIBLE_DEVICES", None)
    return given


def start(*arguments: str, nvml: dict[str, Any] | None = None, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment(nvml),
    )


def bench(*arguments: str, nvml: dict[str, Any] | None = None, cwd: Path) -> tuple[int, str, str]:
    running = start(*arguments, nvml=nvml, cwd=cwd)
    out, err = running.communicate(timeout=120)
    return running.returncode, out, err


def kept(folder: Path) -> Session:
    (archive,) = folder.glob("hostcheck-bench-*.tar.gz")
    return parse_results(read_archive(archive).reading("bench.results"))


def test_numbers_conditions_and_the_archive(tmp_path: Path) -> None:
    code, out, err = bench("fake.good", nvml=TWO, cwd=tmp_path)
    assert "Traceback" not in err
    assert "MEASURED  quick level, 2 x NVIDIA H100 80GB HBM3, driver 580.159.04" in out
    assert "fake.good" in out
    assert "100 GB/s" in out
    assert "gpu[0-1]" in out
    assert "its output was not verified" in out
    assert "[1/1] fake.good on gpu[0-1]" in err
    assert code == 3, "what is unverified is unknown"
    session = kept(tmp_path)
    first = next(measured for measured in session.measurements if not measured.case)
    assert first.conditions.sm_mhz == 1755
    assert first.conditions.power_w == 650
    assert first.conditions.power_limit_w == 700
    assert {reason for reason, more in first.conditions.throttled_ns.items() if more} == {"sw_power_cap"}
    assert first.conditions.seconds is not None
    assert 0.04 < first.conditions.seconds < LONG
    assert first.conditions.joules is None, "its stretch is too short to tell"
    assert session.devices["gpu0"]["pci_id"] == "10de:2330"
    assert session.devices["gpu0"]["default power limit"] == "700 W"
    assert session.devices["gpu0"]["pinned"] == "the host has one node" or len(list(Path(NODES).glob("node?"))) > 1
    assert session.versions["driver"] == "580.159.04"


def test_the_archive_is_judged_again_by_other_expectations(tmp_path: Path) -> None:
    bench("fake.turns", "--save", "kept.tar.gz", cwd=tmp_path)
    again = [sys.executable, "-m", "hostcheck.cli", "audit", "--from", "kept.tar.gz", "--only", "bench.other"]
    command = [sys.executable, "-c", START, *again[3:]]
    for floor, code in ((0.5, 0), (2, 1)):
        wanted = f"bench.other[fake.turns]={{at_least={floor}}}"
        run = subprocess.run(
            [*command, "--set", wanted], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(TESTS)}, check=False,
            capture_output=True, text=True,
        )  # fmt: skip
        assert run.returncode == code, run.stdout + run.stderr


def test_each_form_of_the_report_holds_the_numbers_and_says_what_we_never_ran(tmp_path: Path) -> None:
    _, shown, _ = bench("fake.turns", "--save", "kept.tar.gz", nvml={"gpus": [{"cc": [10, 3]}]}, cwd=tmp_path)
    assert shown.count("not run on this hardware by us") == shown.count("MEASURED") == 1
    again = ["audit", "--from", "kept.tar.gz", "--only", "bench"]
    for form in ("text", "md", "html", "json"):
        run = subprocess.run(
            [sys.executable, "-c", START, *again, "--format", form], cwd=tmp_path, check=False, capture_output=True,
            text=True, env={**os.environ, "PYTHONPATH": str(TESTS)},
        )  # fmt: skip
        assert "fake.turns" in run.stdout, form
        assert "1 GB/s" in run.stdout, form
        assert "not run on this hardware by us" in run.stdout, form


def test_json_is_the_run(tmp_path: Path) -> None:
    _, out, _ = bench("fake.turns", "--format", "json", cwd=tmp_path)
    run = json.loads(out)
    other = next(result for result in run["results"] if result["id"] == "bench.other")
    assert other["findings"][0]["subject"] == "gpu0"
    assert "fake.turns: 1 GB/s" in other["findings"][0]["summary"]


@pytest.mark.parametrize(
    ("nvml", "says"),
    [
        ({"gpus": []}, "NVML sees no GPU"),
        ({"init": "NVML Shared Library Not Found", "gpus": []}, "there is no NVIDIA driver here"),
        ({"init": "Driver Not Loaded", "gpus": []}, "the NVIDIA driver is installed but not loaded"),
        ({"init": "Driver/library version mismatch", "gpus": []}, "of different versions: reboot"),
        ({"gpus": [{"lost": 1}]}, "GPU is lost"),
        ({"gpus": [{"mig": 1}]}, "MIG is on"),
        ({"gpus": [{"compute_mode": 2}]}, "its compute mode is Prohibited: nvidia-smi -i 0 -c DEFAULT"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_one_line(tmp_path: Path, nvml: dict[str, Any], says: str) -> None:
    code, out, err = bench("fake.good", nvml=nvml, cwd=tmp_path)
    assert code == 2
    assert out == ""
    assert says in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("gpu", "says"),
    [
        ({"processes": [1]}, "gpu1 is in use by "),
        ({"free": 300 << 20}, "gpu1 has only 300 of 81,559 MiB of memory free"),
        ({"mig": 1}, "MIG is on"),
        ({"lost": 1}, "GPU is lost"),
    ],
)
def test_one_gpu_that_cannot_be_measured_is_named_and_the_others_are(
    tmp_path: Path, gpu: dict[str, Any], says: str
) -> None:
    code, out, _ = bench("fake.turns", nvml={"gpus": [{}, gpu]}, cwd=tmp_path)
    session = kept(tmp_path)
    assert [measured.subject for measured in session.measurements] == ["gpu0"]
    assert len(session.missing) == 1
    assert says in session.missing[0].why
    assert says.split(" of ")[0] in " ".join(out.split())
    assert code == 3


def test_those_that_need_several_gpus_do_without_one_that_is_in_use(tmp_path: Path) -> None:
    bench("fake.turns", "fake.together", nvml={"gpus": [{}, {"processes": [1]}, {}]}, cwd=tmp_path)
    session = kept(tmp_path)
    together = [measured.subject for measured in session.measurements if measured.bench == "fake.together"]
    assert together == ["gpu0>gpu2", "gpu2>gpu0"]
    assert [(entry.bench, entry.subject) for entry in session.missing] == [("fake.turns", "gpu1")]


@pytest.mark.parametrize(("id", "subjects"), [("together", ["gpu0>gpu2", "gpu2>gpu0"]), ("sizes", ["gpu[0,2]"] * 2)])
def test_also_where_nothing_else_is_measured(tmp_path: Path, id: str, subjects: list[str]) -> None:
    code, out, _ = bench(f"fake.{id}", nvml={"gpus": [{}, {"processes": [1]}, {}]}, cwd=tmp_path)
    session = kept(tmp_path)
    assert [measured.subject for measured in session.measurements] == subjects
    assert [entry.subject for entry in session.missing] == ["gpu1"]
    assert "gpu1 is in use by " in out
    assert code == 3


def test_where_none_or_one_is_free_nothing_is_measured_between_gpus(tmp_path: Path) -> None:
    bench("fake.together", "fake.sizes", nvml={"gpus": [{}, {"processes": [1]}, {"processes": [1]}]}, cwd=tmp_path)
    session = kept(tmp_path)
    assert session.measurements == ()
    assert [(entry.bench, entry.subject) for entry in session.missing] == [
        ("fake.together", "gpu1"), ("fake.together", "gpu2"), ("fake.together", "host"), ("fake.sizes", "host"),
    ]  # fmt: skip
    assert session.missing[-1].why == "it needs two GPUs or more that are free"


def test_where_only_pairs_are_measured_a_lost_gpu_is_named_and_unknown(tmp_path: Path) -> None:
    code, out, _ = bench("fake.together", nvml={"gpus": [{}, {}, {"lost": 1}]}, cwd=tmp_path)
    assert [measured.subject for measured in kept(tmp_path).measurements] == ["gpu0>gpu1", "gpu1>gpu0"]
    assert "GPU is lost" in out
    assert code == 3


def test_a_share_of_a_gpu_has_no_datasheet(tmp_path: Path) -> None:
    bench("fake.model", nvml={"gpus": [{}, {"virtualization": 2}]}, cwd=tmp_path)
    session = kept(tmp_path)
    models = {measured.subject: measured.details["model"] for measured in session.measurements}
    assert models == {"gpu0": "h100-sxm5-80gb", "gpu1": ""}
    assert session.devices["gpu1"]["virtualization"] == "VGPU"


def test_under_confidential_computing_links_have_no_limit(tmp_path: Path) -> None:
    bench("copy.fake", nvml={"gpus": [{}, {"protected": 1 << 30}]}, cwd=tmp_path)
    measured = {each.subject: each for each in kept(tmp_path).measurements}
    assert (measured["gpu0"].limit, measured["gpu1"].limit) == (63, None)
    assert measured["gpu1"].settings["confidential computing"] == "on"


def test_a_link_is_judged_by_what_it_carries_alone_where_all_at_once_share(tmp_path: Path) -> None:
    wanted = "bench.copies={at_least=72}"
    asked = ("copy.shared", "--only", "bench.copies", "--only", "bench.alike", "--set", wanted)
    (tmp_path / "good").mkdir()
    code, out, err = bench(*asked, "--option", f"count={tmp_path / 'good'}", nvml=TWO, cwd=tmp_path)
    assert code == 0, out
    assert "copy.shared on gpu0 alone" in err
    assert "gpu[0-1], all at once" in out
    assert "87.3% of 63, at least 72% gpu[0-1], each alone" in " ".join(out.split())
    pinned = [m for m in kept(tmp_path).measurements if m.case == "pinned"]
    assert {(m.subject, m.value, m.alone) for m in pinned} == {
        ("gpu0", 20.0, False), ("gpu1", 20.0, False), ("gpu0", 55.0, True), ("gpu1", 55.0, True),
    }  # fmt: skip
    (tmp_path / "bad").mkdir()
    options = ("--option", f"count={tmp_path / 'bad'}", "--option", "bad=gpu1")
    code, out, _ = bench(*asked, *options, "--format", "json", nvml=TWO, cwd=tmp_path / "bad")
    assert code == 1
    copies = next(result for result in json.loads(out)["results"] if result["id"] == "bench.copies")
    judged = [each for each in copies["findings"] if "copy.shared pinned" in each["summary"]]
    assert sorted((each["subject"], each["status"]) for each in judged) == [
        ("gpu0", "not-applicable"), ("gpu0", "pass"), ("gpu1", "fail"), ("gpu1", "not-applicable"),
    ]  # fmt: skip
    assert "a limit of all together, not of this link" in judged[0]["summary"]


def test_of_two_that_copy_to_each_other_the_hot_one_is_named(tmp_path: Path) -> None:
    code, out, _ = bench("fake.together", "--format", "json", nvml={"gpus": [{}, {"thermal": 0.4}]}, cwd=tmp_path)
    assert code == 1
    assert [list(measured.each) for measured in kept(tmp_path).measurements] == [["gpu0", "gpu1"]] * 2
    results = {result["id"]: result for result in json.loads(out)["results"]}
    for check, second in (("bench.slowdown", "fail"), ("bench.errors", "pass")):
        found = {each["subject"]: each["status"] for each in results[check]["findings"]}
        assert found == {"gpu0": "pass", "gpu1": second}, check


def test_heat_is_invalid_and_a_failure(tmp_path: Path) -> None:
    code, out, _ = bench("fake.good", nvml={"gpus": [{"thermal": 0.4}]}, cwd=tmp_path)
    assert re.search(r"slowed by hardware thermal slowdown for \d+% of the time", " ".join(out.split()))
    assert "bench.slowdown" in out
    assert code == 1


def test_a_hot_gpu_of_another_rank_voids_what_all_took_part_in(tmp_path: Path) -> None:
    nvml = {"gpus": [{}, {"thermal": 0.5}]}
    bench("fake.ranks", "--option", "last=0.3", "--only", "bench.other", nvml=nvml, cwd=tmp_path)
    (measured,) = kept(tmp_path).measurements
    assert measured.subject == "gpu[0-1]"
    assert measured.invalid.startswith("gpu1: slowed by hardware thermal slowdown for ")


def test_each_gpu_that_took_part_is_judged_by_its_own_conditions(tmp_path: Path) -> None:
    nvml = {"gpus": [{}, {"thermal": 0.5}, {"ecc_per_s": 100}]}
    asked = ("fake.sizes", "--only", "bench.slowdown", "--only", "bench.errors", "--format", "json")
    code, out, _ = bench(*asked, nvml=nvml, cwd=tmp_path)
    assert code == 1
    found = {
        (result["id"], finding["subject"]): finding["status"]
        for result in json.loads(out)["results"]
        for finding in result["findings"]
        if result["id"] in ("bench.slowdown", "bench.errors")
    }
    assert found == {
        ("bench.slowdown", "gpu0"): "pass", ("bench.slowdown", "gpu1"): "fail", ("bench.slowdown", "gpu2"): "pass",
        ("bench.errors", "gpu0"): "pass", ("bench.errors", "gpu1"): "pass", ("bench.errors", "gpu2"): "fail",
    }  # fmt: skip
    measurements = kept(tmp_path).measurements
    assert [(m.case, m.value, sorted(m.each)) for m in measurements] == [
        ("small", 1.0, ["gpu0", "gpu1", "gpu2"]), ("large", 1.0, ["gpu0", "gpu1", "gpu2"]),
    ]  # fmt: skip
    assert all(m.invalid.startswith(("gpu1: slowed by", "gpu2: errors")) for m in measurements)
    assert all(0.09 < (c.seconds or 0) < LONG for m in measurements for c in m.each.values())
    assert all((m.each["gpu0"].seconds or 0) < m.seconds + 0.001 for m in measurements), "each size by itself"


def test_errors_that_grow_are_a_failure(tmp_path: Path) -> None:
    code, out, _ = bench("fake.turns", nvml={"gpus": [{"ecc_per_s": 100}]}, cwd=tmp_path)
    assert "errors were counted meanwhile: ecc.dram.uncorrected" in " ".join(out.split())
    assert "bench.errors" in out
    assert code == 1


def test_gpus_are_chosen(tmp_path: Path) -> None:
    bench("fake.turns", "--gpus", "1", nvml=TWO, cwd=tmp_path)
    assert [measured.subject for measured in kept(tmp_path).measurements] == ["gpu1"]
    code, _, err = bench("fake.turns", "--gpus", "5", nvml=TWO, cwd=tmp_path)
    assert (code, err) == (2, "hostcheck: --gpus: no GPU '5' (there are 0, 1)\n")
    for words in (["fake.turns"], ["record", "base.json"], ["compare", "base.json", "--from", "base.json"]):
        (tmp_path / "base.json").write_bytes(json_of(kept(tmp_path)))
        code, _, err = bench(*words, "--gpus", "", nvml=TWO, cwd=tmp_path)
        assert (code, len(err.splitlines())) == (2, 1), "an unset variable of a shell is not all of them"
        assert "--gpus" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["hbm.raed"], "no benchmark matches 'hbm.raed'; did you mean 'hbm.read'?"),
        *(
            (["--duration", text], f"{text!r} is no time from 1s to 168h: a number of s, m (or min) or h, such as 90s")
            for text in ("soon", "1d", "0.5", "20000m", "-5")
        ),
        (["--option", "path"], "NAME=VALUE is needed"),
        (["storage.read", "--option", "pth=/tmp"],
         "no benchmark has such an option; did you mean 'path'?; hostcheck bench explain NAME lists them"),
        (["storage.read", "--option", "path=/nowhere"], "--option path: there is no folder '/nowhere'"),
        (["storage.read", "cpu.jitter"],
         "storage.read needs --option path=FOLDER: the folder on the storage that is measured"),
        (["storage.rea?"], "storage.read needs --option path=FOLDER: the folder on the storage that is measured"),
        (["record", "base.json", "cpu.jitter", "gds.read"], "gds.read needs --option path=FOLDER: the folder on"),
        (["storage.read", "--option", "path="], "--option path: there is no folder ''"),
        (["hbm.read", "--option", "path=/tmp"], "of what runs nothing takes it; fake.folder, gds.read, st"),
        (["storage.read", "--option", "path=/tmp", "--option", "path=/var"], "--option path was given twice"),
        (["explain", "hbm.raed"], "no benchmark is called 'hbm.raed'; did you mean 'hbm.read'?"),
        (["compare", "nowhere.json"], "nowhere.json: No such file or directory"),
    ],
)  # fmt: skip
def test_a_typing_error_is_one_line(tmp_path: Path, arguments: list[str], says: str) -> None:
    code, _, err = bench(*arguments, cwd=tmp_path)
    assert code == 2
    assert says in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_what_a_pattern_names_and_needs_an_option_is_unknown_and_the_rest_is_measured(tmp_path: Path) -> None:
    code, out, err = bench("fake.turns", "fake.fold*", "--only", "bench.other", cwd=tmp_path)
    assert code == 3, "it was asked for"
    assert "fake.folder needs --option path=FOLDER: the folder on the storage that is measured" in " ".join(out.split())
    assert "[1/1] fake.turns on gpu0" in err, "no time is kept for it"
    assert [measured.bench for measured in kept(tmp_path).measurements] == ["fake.turns"]
    given = ("--option", f"path={tmp_path}", "--save", "given.tar.gz")
    _, out, _ = bench("fake.turns", "fake.fold*", *given, cwd=tmp_path)
    assert "fake.folder" in out
    assert "--option" not in out


def test_a_benchmark_knows_whether_its_time_is_to_be_used_up(tmp_path: Path) -> None:
    for name, given in (("level", ()), ("time", ("--duration", "6s"))):
        (tmp_path / name).mkdir()
        bench("fake.good", *given, cwd=tmp_path / name)
        (found, _) = kept(tmp_path / name).measurements
        assert (found.details["whole"], found.details["seconds"]) == ((True, 5.5) if given else (False, 0.2))


def test_a_baseline_is_recorded_and_held_against(tmp_path: Path) -> None:
    code, _, err = bench("record", "base.json", "fake.turns", cwd=tmp_path)
    assert (code, "Traceback" in err) == (0, False)
    code, out, _ = bench("compare", "base.json", cwd=tmp_path)
    assert code == 0
    assert "1 compared, 0 worse" in out
    base = json.loads((tmp_path / "base.json").read_text())
    base["measurements"][0]["value"] = 1.2
    (tmp_path / "better.json").write_text(json.dumps(base))
    code, out, _ = bench("compare", "better.json", "--from", "base.json", cwd=tmp_path)
    assert code == 1
    assert "fake.turns gpu0: 1.2 -> 1 GB/s -16.7 %" in out


def test_what_was_measured_before_is_taken_as_far_as_it_is_named(tmp_path: Path) -> None:
    bench("fake.turns", "fake.good", "--save", "kept.tar.gz", cwd=tmp_path)
    bench("record", "all.json", "--from", "kept.tar.gz", cwd=tmp_path)
    for words in (["record", "one.json", "fake.turns"], ["compare", "all.json", "fake.turns"]):
        code, out, err = bench(*words, "--from", "kept.tar.gz", cwd=tmp_path)
        assert code == 0, out + err
        assert "fake.good" not in out
    assert "fake.good" not in (tmp_path / "one.json").read_text()
    for option in (["nosuch"], ["--gpus", "7"], ["--level", "quick"], ["--duration", "9s"], ["--option", "a=b"]):
        for words in (["record", "x.json"], ["compare", "all.json"]):
            code, _, err = bench(*words, *option, "--from", "kept.tar.gz", cwd=tmp_path)
            assert (code, len(err.splitlines())) == (2, 1), err
            assert ("no benchmark matches" if option == ["nosuch"] else option[0]) in err


def test_a_baseline_is_compared_at_its_own_level_unless_another_is_named(tmp_path: Path) -> None:
    assert bench("record", "base.json", "fake.model", "--level", "full", nvml=TWO, cwd=tmp_path)[0] == 0
    code, out, _ = bench("compare", "base.json", nvml=TWO, cwd=tmp_path)
    assert (code, "4 compared, 0 worse" in out) == (0, True), out
    code, out, _ = bench("compare", "base.json", "--level", "quick", nvml=TWO, cwd=tmp_path)
    assert (code, "fake.model on gpu1 alone: not measured now" in out) == (3, True), out
    base = json.loads((tmp_path / "base.json").read_text())
    (tmp_path / "hosts.json").write_text(json.dumps({**base, "level": ""}))
    code, out, _ = bench("compare", "hosts.json", "fake.model", nvml=TWO, cwd=tmp_path)
    assert (code, "2 compared, 0 worse" in out) == (0, True), "between hosts there is no level: quick"


def begun(folder: Path) -> subprocess.Popen[str]:
    """Start what takes long, and return once it has told something."""
    told = folder / "told"
    running = start("fake.slow", "--option", f"told={told}", cwd=folder)
    until(told.exists)
    time.sleep(1)
    return running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_and_the_end_of_a_job_keep_what_came(tmp_path: Path, number: signal.Signals) -> None:
    running = begun(tmp_path)
    running.send_signal(number)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "hostcheck: interrupted" in err
    assert "Traceback" not in err
    assert [measured.case for measured in kept(tmp_path).measurements] == ["early"]
    assert "interrupted" in out


def test_a_terminal_that_hangs_up_keeps_what_came(tmp_path: Path) -> None:
    told = tmp_path / "told"
    ours, theirs = os.openpty()
    running = subprocess.Popen(
        ["setsid", "--ctty", *COMMAND, "fake.slow", "--option", f"told={told}"],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, env=environment(),
    )  # fmt: skip
    os.close(theirs)
    until(told.exists)
    time.sleep(1)
    os.close(ours)
    assert running.wait(120) == 130
    assert [measured.case for measured in kept(tmp_path).measurements] == ["early"]


def test_nohup_is_left_as_it_is(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        running = begun(tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    running.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(2)
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=120)
    assert running.returncode == 130


@pytest.mark.parametrize(
    "arguments",
    [
        ("fake.turns", "--save", "/nowhere/file"), ("fake.turns", "-o", "/nowhere/file"),
        ("record", "/nowhere/file", "fake.turns"), ("nccl", "--hosts", "a,b", "-o", "/nowhere/file"),
    ],
)  # fmt: skip
def test_where_nothing_can_be_written_nothing_is_measured(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    code, out, err = bench(*arguments, cwd=tmp_path)
    assert (code, out, err) == (2, "", "hostcheck: /nowhere/file: cannot be written: No such file or directory\n")
    assert not list(tmp_path.iterdir())


def test_where_the_archive_cannot_be_kept_nothing_is_measured(tmp_path: Path) -> None:
    """The folder of the kernel takes no files, not even root's."""
    code, out, err = bench("fake.turns", cwd=Path("/proc"))
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert err.startswith("hostcheck: hostcheck-bench-")
    assert ".tar.gz: cannot be written: " in err
    assert err.endswith("; --save FILE names another place\n")
    code, _, err = bench("fake.turns", "--save", str(tmp_path / "kept.tar.gz"), cwd=Path("/proc"))
    assert (tmp_path / "kept.tar.gz").exists(), err


def test_in_a_folder_that_is_gone_nothing_is_measured(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    # Python itself stumbles where it is to look for modules in a folder that is gone: -P.
    command = [sys.executable, "-P", *COMMAND[1:], "fake.turns"]
    done = subprocess.run(
        ["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh", *command], cwd=folder, env=environment(),
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert "cannot be written: No such file or directory; --save FILE names another place" in done.stderr


def test_two_that_end_in_the_same_second_are_both_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hostcheck.cli.bench import _keep

    monkeypatch.chdir(tmp_path)
    said = [_keep(host("bare"), None) for _ in range(3)]
    assert len(set(said)) == len(list(tmp_path.iterdir())) == 3


def test_signals_are_as_before_where_none_came() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    with pytest.raises(KeyboardInterrupt), interrupt_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, "it may come once more"
    for number, handler in before.items():
        signal.signal(number, handler)
    with interrupt_on_signals():
        assert signal.getsignal(signal.SIGTERM) is not before[signal.SIGTERM]
    assert {number: signal.getsignal(number) for number in before} == before


def test_ctrl_c_while_the_host_is_read_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from hostcheck.cli import bench as cli
    from hostcheck.snapshot.reading import Ending, Reading

    measured = Measurement(bench="hbm.read", subject="gpu0", unit="GB/s", value=1.0, samples=(1.0,), verified=True)
    session = Session(tool="t", taken="2026-11-21T00:00:00+00:00", level="quick", measurements=(measured,))
    bare = host("bare")
    cut = Reading("gpu.smi", Ending.KILLED, note="interrupted")
    monkeypatch.setattr(cli.Measuring, "session", lambda self, floors: (session, False))
    monkeypatch.setattr(cli, "_snapshot", lambda: replace(bare, readings={**bare.readings, "gpu.smi": cut}))
    done = CliRunner().invoke(cli.command, ["run", "--save", str(tmp_path / "kept.tar.gz")])
    assert done.exit_code == 130, done.output
    assert "Kept in" in done.output
    assert parse_results(read_archive(tmp_path / "kept.tar.gz").reading("bench.results")).measurements


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A device like /dev/full."""
    if os.geteuid() != 0:
        pytest.skip("only root makes devices")
    made = tmp_path / "full"
    try:
        os.mknod(made, 0o666 | stat.S_IFCHR, os.makedev(1, 7))
        made.open("rb").close()
    except OSError:
        pytest.skip("no devices can be made here")
    return made


def test_what_a_full_disk_does_not_take_is_shown_or_kept_all_the_same(tmp_path: Path, full: Path) -> None:
    code, out, err = bench("fake.turns", "--save", str(full), cwd=tmp_path)
    assert "fake.turns" in out
    assert f"the measurements were not kept: {full}: cannot be written: No space left" in err
    assert code != 2
    code, _, err = bench("fake.turns", "-o", str(full), cwd=tmp_path)
    assert code == 2
    assert "Kept in hostcheck-bench-" in err
    assert len(kept(tmp_path).measurements) == 1


@pytest.mark.parametrize("further", [[], ["--floors"]])
def test_a_baseline_that_a_full_disk_does_not_take_is_shown(tmp_path: Path, full: Path, further: list[str]) -> None:
    code, out, err = bench("record", str(full), "fake.turns", *further, cwd=tmp_path)
    assert code == 2
    assert "fake.turns" in out
    assert err.endswith(f"hostcheck: {full}: cannot be written: No space left on device\n")


def test_numbers_between_hosts_that_a_full_disk_does_not_take_are_shown(
    full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from hostcheck.bench import hosts
    from hostcheck.cli import bench as cli
    from hostcheck.errors import HostcheckError

    measured = Measurement(
        bench="nccl.all-reduce", subject="a,b", unit="GB/s", value=1.0, samples=(1.0,), verified=True
    )
    monkeypatch.setattr(hosts, "together", lambda *_: hosts.Between(measurements=[measured]))
    done = CliRunner().invoke(cli.command, ["nccl", "--hosts", "a,b", "-o", str(full)])
    assert "nccl.all-reduce" in done.output
    assert isinstance(done.exception, HostcheckError)


@pytest.mark.parametrize(("one", "other"), [("same", "same"), ("same", "./same"), ("same", "link"), ("-", "-")])
def test_two_outputs_need_two_files(tmp_path: Path, one: str, other: str) -> None:
    (tmp_path / "link").symlink_to("same")
    code, out, err = bench("fake.turns", "--save", one, "-o", other, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err == f"hostcheck: {Path(other)}: named twice: each output needs a file of its own\n"
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_two_outputs_may_both_be_thrown_away(tmp_path: Path) -> None:
    code, _, err = bench("fake.turns", "--save", "/dev/null", "-o", "/dev/null", cwd=tmp_path)
    assert code != 2, err


def test_list_and_explain(tmp_path: Path) -> None:
    code, out, _ = bench("list", cwd=tmp_path)
    assert code == 0
    assert any(line.startswith("hbm.triad ") for line in out.splitlines())
    for command, level in (("run", "quick"), ("record", "quick"), ("compare", "that of the baseline")):
        _, out, _ = bench(command, "--help", cwd=tmp_path)
        assert f"[default: {level}]" in " ".join(out.split())
    code, out, _ = bench("explain", "hbm.triad", cwd=tmp_path)
    assert code == 0
    assert "Judged by  bench.memory, bench.alike" in out
    assert [line.partition(":")[0] for line in out.splitlines() if line.startswith("Expects ")] == [
        "Expects    bench.memory[hbm.triad]"
    ]
    assert "pip install '.[bench]' in the checkout" in out
    _, out, _ = bench("explain", "memory.latency", cwd=tmp_path)
    assert "Needs      numba: pip install '.[bench]' in the checkout of hostcheck" in out
    _, out, _ = bench("explain", "storage.read", cwd=tmp_path)
    assert "Needs      --option path=FOLDER: the folder on the storage that is measured" in out
    assert "nothing else" not in out
    assert "Expects    bench.storage: nothing by itself; set it in a site file" in out
