"""The parent and its children: real processes, with benchmarks that behave and that do not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

import bench_fakes
from hostcheck.bench.lab import BenchGpu
from hostcheck.bench.model import Level, Measurement
from hostcheck.bench.parent import Harvest, Parent, Progress, Step
from hostcheck.bench.process import Child
from hostcheck.bench.wire import Plan, Ready
from hostcheck.registry import BENCHES
from waiting import LONG, until

GPUS = tuple(BenchGpu(index=number, ordinal=0, uuid=f"GPU-{number}", name="fake") for number in (0, 1, 3))


@pytest.fixture(autouse=True)
def _fakes_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(bench_fakes.__file__).parent))


def steps(*ids: str, seconds: float = 0.2) -> list[Step]:
    return [Step(bench=BENCHES[f"fake.{id}"], seconds=seconds, alone=BENCHES[f"fake.{id}"].alone) for id in ids]


def run(*ids: str, gpus: Sequence[BenchGpu] = GPUS, grace: float = 20.0, **options: str) -> Harvest:
    return Parent(gpus, level=Level.QUICK, grace=grace, options=options).run(steps(*ids))


def of(harvest: Harvest, bench: str) -> dict[str, Measurement]:
    return {" ".join(filter(None, (m.subject, m.case))): m for m in harvest.measurements if m.bench == f"fake.{bench}"}


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_each_gpu_has_a_process_of_its_own_that_sees_it_alone() -> None:
    harvest = run("good")
    assert harvest.missing == []
    found = of(harvest, "good")
    assert {name: (m.value, m.details["visible"]) for name, m in found.items() if not m.case} == {
        "gpu0": (100.0, "GPU-0"),
        "gpu1": (100.0, "GPU-1"),
        "gpu3": (100.0, "GPU-3"),
    }
    assert {m.details["order"] for m in found.values() if not m.case} == {"PCI_BUS_ID"}
    assert {m.details["ordinal"] for m in found.values() if not m.case} == {0}
    assert len({m.details["pid"] for m in found.values() if not m.case}) == 3
    assert found["gpu0"].invalid == ""
    assert found["gpu0 unproven"].invalid == "its output was not verified"
    assert found["gpu0"].settings == {"bytes": 8}


def test_all_gpus_run_at_once_and_one_after_the_other_where_that_is_asked_for(tmp_path: Path) -> None:
    harvest = run("meets", "turns", folder=str(tmp_path), come="3")
    assert harvest.missing == []
    assert harvest.first is not None
    assert len(of(harvest, "meets")) == 3
    turns = sorted(
        (float(str(m.details["begun"])), float(str(m.details["ended"]))) for m in of(harvest, "turns").values()
    )
    assert all(first[1] <= second[0] for first, second in pairwise(turns))
    assert all(m.alone for m in of(harvest, "turns").values())
    assert not any(m.alone for m in of(harvest, "meets").values())


def test_a_bug_keeps_what_came_before_it_and_the_others_go_on() -> None:
    harvest = run("raises", "refuses", "package", "silent", "good", gpus=GPUS[:1])
    assert set(of(harvest, "raises")) == {"gpu0"}
    assert set(of(harvest, "good")) == {"gpu0", "gpu0 unproven"}
    missing = {m.bench: m for m in harvest.missing}
    assert missing["fake.raises"].why == "ZeroDivisionError: one line"
    assert "bench_fakes.py" in missing["fake.raises"].bug
    assert missing["fake.refuses"].why == "there is no such folder; name another with --option path=FOLDER"
    assert missing["fake.refuses"].bug == ""
    assert "pip install '.[torch]' in the checkout" in missing["fake.package"].why
    assert missing["fake.silent"].why == "it gave no number"


def test_a_gpu_that_is_lost_is_named_and_the_others_go_on() -> None:
    harvest = run("dies", "good")
    assert set(of(harvest, "dies")) == {"gpu0 before", "gpu0 after", "gpu1 before", "gpu3 before", "gpu3 after"}
    (lost,) = harvest.missing
    assert (lost.bench, lost.subject) == ("fake.dies", "gpu1")
    assert "SIGSEGV" in lost.why
    assert "CUDA error: the GPU is lost" in lost.why
    assert {"gpu0", "gpu1", "gpu3"} <= set(of(harvest, "good")), "a second process measures what is left"


def test_a_gpu_whose_process_dies_again_and_again_is_left_alone() -> None:
    harvest = run("dies", "dies", "good", gpus=GPUS[1:2])
    assert of(harvest, "good") == {}
    assert harvest.missing[-1].why == "left alone after its process died 2 times"


def test_a_hang_ends_at_its_limit_with_all_that_it_started() -> None:
    begun = time.monotonic()
    harvest = run("hangs", "good", grace=15.0)
    assert time.monotonic() - begun < LONG
    (hung,) = harvest.missing
    assert (hung.bench, hung.subject) == ("fake.hangs", "gpu1")
    assert hung.why.startswith("the process that measured it gave no answer in 15 s; it was killed")
    started = int(str(of(harvest, "hangs")["gpu1 started"].details["pid"]))
    assert is_gone(started)
    assert {"gpu0", "gpu1", "gpu3"} <= set(of(harvest, "good"))


def test_what_delivers_numbers_is_given_time_for_the_next_until_none_comes() -> None:
    """Copies between all pairs of 8 GPUs took 35 s where 1.56 s were planned, and were killed among the last."""
    harvest = run("steps", grace=2.0, gpus=GPUS[:2])
    (hung,) = harvest.missing
    assert (hung.bench, hung.subject) == ("fake.steps", "gpu1")
    assert hung.why.startswith("the process that measured it gave no answer in 2 s; it was killed")
    assert len(of(harvest, "steps")) == 16


def test_a_number_of_one_rank_is_one_of_all_that_take_part() -> None:
    harvest = run("reports", grace=2.0)
    assert harvest.missing == []
    assert len(harvest.measurements) == 8


@pytest.mark.parametrize(("seconds", "limit"), [(0.2, 30.2), (10, 40), (3600, 3960), (86_400, 95_040)])
def test_a_hang_is_seen_not_long_after_the_time_that_was_planned(seconds: float, limit: float) -> None:
    (step,) = steps("good", seconds=seconds)
    parent = Parent(GPUS, level=Level.SOAK, grace=30.0)
    assert step.seconds + parent._patience(step) == pytest.approx(limit)


def test_what_floods_is_cut_and_killed_and_named() -> None:
    harvest = run("floods", "good", grace=50.0)
    (loud,) = harvest.missing
    assert (loud.bench, loud.subject) == ("fake.floods", "gpu1")
    assert loud.why.startswith("the process that measured it printed more than 16 MiB; it was killed")
    assert set(of(harvest, "floods")) == {"gpu0", "gpu3"}
    assert {"gpu0", "gpu1", "gpu3"} <= set(of(harvest, "good"))


def test_what_a_process_prints_has_a_bound_also_before_it_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hostcheck.bench.parent._LISTEN", 60.0)
    (filled,) = run("fills", gpus=GPUS[:1]).measurements
    assert 16 << 20 <= int(str(filled.details["written"])) <= 32 << 20


def test_garbage_on_the_pipe_is_no_result() -> None:
    harvest = run("garbles", gpus=GPUS[:1])
    assert harvest.measurements == []
    (missing,) = harvest.missing
    assert missing.why.startswith("the process that measured it told what is no measurement; it was killed")


def test_a_number_that_is_none_is_invalid_and_costs_no_process() -> None:
    harvest = run("infinite", gpus=GPUS[:1])
    assert harvest.missing == []
    (found,) = harvest.measurements
    assert (found.value, found.invalid) == (None, "a sample is no number that can be measured")


def test_what_a_benchmark_leaves_running_goes_with_its_process() -> None:
    (found,) = run("leaves", gpus=GPUS[:1]).measurements
    until(lambda: is_gone(int(str(found.details["pid"]))))


def test_a_child_that_cannot_start_is_named() -> None:
    parent = Parent(GPUS[:2], level=Level.QUICK, launcher=(sys.executable, "-c", "raise SystemExit('no such thing')"))
    harvest = parent.run(steps("good"))
    assert {m.subject for m in harvest.missing} == {"gpu0", "gpu1"}
    assert all("exit status 1: no such thing" in m.why for m in harvest.missing)


def test_where_no_process_can_be_started_it_says_so() -> None:
    harvest = Parent(GPUS[:1], level=Level.QUICK, launcher=("/nowhere/python",)).run(steps("good"))
    assert [(m.subject, m.why) for m in harvest.missing] == [
        ("gpu0", "no process could be started: No such file or directory")
    ]


def test_one_process_with_all_gpus() -> None:
    found = of(run("together"), "together")
    assert set(found) == {"gpu0>gpu1", "gpu0>gpu3", "gpu1>gpu0", "gpu1>gpu3", "gpu3>gpu0", "gpu3>gpu1"}
    assert found["gpu3>gpu0"].details == {"ordinal": 2, "visible": "GPU-0,GPU-1,GPU-3"}


def test_ranks_find_each_other() -> None:
    harvest = run("ranks")
    assert harvest.missing == []
    (found,) = harvest.measurements
    assert (found.subject, found.value) == ("gpu[0-1,3]", 3.0)


def test_a_rank_that_dies_takes_the_benchmark_along_and_no_more() -> None:
    begun = time.monotonic()
    harvest = run("ranks", "good", die="1")
    assert time.monotonic() - begun < LONG
    assert [(m.subject, "exit status 7" in m.why) for m in harvest.missing] == [("gpu1", True)]
    assert set(of(harvest, "good")) >= {"gpu0", "gpu1", "gpu3"}


def test_the_host_needs_no_gpu() -> None:
    (found,) = run("host", gpus=()).measurements
    assert (found.subject, found.details["gpus"]) == ("node0", 0)


def test_the_next_children_start_while_gpus_work() -> None:
    seen: dict[str, float] = {}

    def tell(progress: Progress) -> None:
        if progress.got is not None:
            seen.setdefault(progress.bench, time.clock_gettime(time.CLOCK_BOOTTIME))

    harvest = Parent(GPUS, level=Level.QUICK, tell=tell).run(steps("together", "host"))
    assert harvest.missing == []
    (host,) = of(harvest, "host").values()
    assert float(str(host.details["begun"])) < seen["fake.together"]


def test_what_was_started_ahead_for_gpus_that_are_lost_is_started_anew() -> None:
    harvest = run("dies", "dies", "ranks")
    (found,) = of(harvest, "ranks").values()
    assert (found.subject, found.value) == ("gpu[0,3]", 1.0)


def test_a_gpu_that_is_left_alone_gets_no_process_that_was_started_ahead() -> None:
    why = {missing.subject: missing.why for missing in run("dies", "dies", "package").missing}
    assert why["gpu1"] == "left alone after its process died 2 times"
    assert "a_package_that_nobody_has is missing" in why["gpu0"]


def test_a_child_touches_nothing_before_it_may() -> None:
    child = Child(
        Plan(gpus=(), subject="host", level=Level.QUICK, load=("a_package_that_nobody_has",)),
        os.environ,
        (sys.executable, "-P", "-m", "hostcheck.bench.child"),
    )
    time.sleep(0.5)
    assert child.events() == []
    child.begin(0.0)
    assert [type(event) for event in until(child.events)] == [Ready]
    assert child.end(20.0)
    assert child.process.returncode == 0
    child.close()


def test_children_that_were_started_ahead_go_with_an_interrupt() -> None:
    made = Parent(GPUS, level=Level.QUICK, grace=60.0)

    def press(progress: Progress) -> None:
        if progress.got is not None:
            started.extend(child.process.pid for child in made._ahead.values())
            os.kill(os.getpid(), signal.SIGINT)

    started: list[int] = []
    made._tell = press
    assert made.run(steps("together", "host")).interrupted
    assert len(started) == 1
    assert is_gone(started[0])


def test_progress_says_what_runs_and_what_is_left() -> None:
    told: list[Progress] = []
    Parent(GPUS[:1], level=Level.QUICK, tell=told.append).run(steps("good", "turns"))
    begun = [(p.bench, p.step, p.steps, round(p.left, 1)) for p in told if p.got is None]
    assert begun == [("fake.good", 1, 2, 0.4), ("fake.turns", 2, 2, 0.2)]
    assert [p.got.case for p in told if p.got is not None] == ["", "unproven", ""]


def shared(folder: Path, spare: float, until: float = float("inf"), **options: str) -> tuple[Harvest, list[Progress]]:
    told: list[Progress] = []
    step = Step(bench=BENCHES["copy.shared"], seconds=0.2)
    made = Parent(
        GPUS, level=Level.QUICK, options={"count": str(folder), **options}, tell=told.append, spare=spare,
        until=until,
        doubt=lambda harvest: [
            (m.bench, m.subject, (m.case,)) for m in reversed(harvest.measurements) if m.value == 20.0
        ],
    )  # fmt: skip
    return made.run([step, *steps("turns")]), told


def test_what_is_doubtful_at_once_is_measured_alone_one_after_the_other(tmp_path: Path) -> None:
    harvest, told = shared(tmp_path, spare=60.0)
    found = [m for m in harvest.measurements if m.bench == "copy.shared" and m.case == "pinned"]
    assert [(m.value, m.alone) for m in found] == [(20.0, False)] * 3 + [(55.0, True)] * 3
    assert not any(m.alone for m in harvest.measurements if m.case == "pageable"), "of which nobody had a doubt"
    assert [p.subjects for p in told if p.alone] == [m.subject for m in reversed(found[:3])], (
        "in the order of the doubt"
    )
    assert harvest.missing == []


def test_measuring_alone_takes_no_longer_than_there_is_to_spare(tmp_path: Path) -> None:
    harvest, told = shared(tmp_path, spare=0.0)
    assert [m.alone for m in harvest.measurements if m.bench == "copy.shared"] == [False] * 6
    assert not any(p.alone for p in told)


def test_measuring_alone_leaves_time_for_what_is_still_to_run(tmp_path: Path) -> None:
    harvest, told = shared(tmp_path, spare=60.0, until=0.2)
    assert not any(p.alone for p in told)
    assert [m.bench for m in harvest.measurements if m.bench != "copy.shared"], "the others were measured"


def test_ctrl_c_keeps_what_came_and_leaves_no_process() -> None:
    def press(progress: Progress) -> None:
        if progress.got is not None:
            os.kill(os.getpid(), signal.SIGINT)

    harvest = Parent(GPUS[:1], level=Level.QUICK, grace=60.0, tell=press).run(steps("slow", "good"))
    assert harvest.interrupted
    assert set(of(harvest, "slow")) == {"gpu0 early"}
    assert [(m.bench, m.why) for m in harvest.missing] == [("fake.slow", "interrupted"), ("fake.good", "interrupted")]
    assert is_gone(int(str(of(harvest, "slow")["gpu0 early"].details["pid"])))


def test_no_child_outlives_its_parent(tmp_path: Path) -> None:
    """Also where the parent is killed so that it can tidy up nothing."""
    program = (
        "import sys, bench_fakes\n"
        "from hostcheck.bench.lab import BenchGpu\n"
        "from hostcheck.bench.model import Level\n"
        "from hostcheck.bench.parent import Parent, Step\n"
        "from hostcheck.registry import BENCHES\n"
        "gpu = BenchGpu(index=0, ordinal=0, uuid='GPU-0', name='fake')\n"
        "tell = lambda p: p.got and print(p.got.details['pid'], flush=True)\n"
        "Parent([gpu], level=Level.QUICK, grace=600, tell=tell).run([Step(bench=BENCHES['fake.slow'], seconds=1)])\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        run.kill()
    until(lambda: is_gone(pid))


def test_what_cannot_be_killed_is_left_behind_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver call that never returns keeps a process from dying; here, the signal is kept from it."""
    monkeypatch.setattr("hostcheck.bench.parent.os.killpg", lambda group, number: None)
    monkeypatch.setattr("hostcheck.bench.process.GOING", 0.2)
    harvest = run("hangs", grace=15.0, gpus=GPUS[:2])
    (hung,) = harvest.missing
    assert hung.subject == "gpu1"
    left = re.search(r"it cannot be killed and was left behind \(pid (\d+)\)", hung.why)
    assert left, hung.why
    assert "gpu0" in of(harvest, "hangs")
    monkeypatch.undo()
    os.killpg(int(left[1]), signal.SIGKILL)
    os.waitpid(int(left[1]), 0)
