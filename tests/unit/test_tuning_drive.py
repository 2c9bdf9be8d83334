"""Applying to many hosts: canaries, waves, the failure budget, and what is made of every answer a host can give.

The hosts are made up here: each answers with the lines that the runtime prints, which tests/e2e has for real.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from hostcheck.checklist import Checklist
from hostcheck.facts.bench import lower_is_better
from hostcheck.fleet.progress import Teller
from hostcheck.model import Absentee, Finding, Status
from hostcheck.snapshot.probes import Probe
from hostcheck.snapshot.reading import Ending, FileState, Snapshot
from hostcheck.transport.base import Answer, Reach
from hostcheck.tuning.change import Change, Kind, Needs, Plan, Scope
from hostcheck.tuning.drive import Applied, How, apply, apply_code, back_code, taken_back, waves
from hostcheck.tuning.hosts import Here
from hostcheck.tuning.measure import MEASURES, Compared, Measure, Measuring, compare, value_of
from hostcheck.tuning.plan import Selection
from hostcheck.tuning.planning import Planned, Rules, alike
from support import host

BARE = host("bare")
PATH = "/proc/sys/vm/swappiness"
CHANGE = Change(
    kind=Kind.WRITE, target=PATH, before="60", after="1", scope=Scope.RUNTIME, why="it swaps less",
    fixes=("memory.swappiness",), tuner="memory.swappiness",
)  # fmt: skip
LASTING = Change(
    kind=Kind.FILE, target="/etc/sysctl.d/90-hostcheck-vm.swappiness.conf", before=None, after="vm.swappiness = 1\n",
    scope=Scope.PERSISTENT, why="it lasts", tuner="memory.swappiness",
)  # fmt: skip
OTHER = replace(LASTING, target="/etc/sysctl.d/90-hostcheck-x.conf", tuner="kernel.x", needs=Needs.REBOOT)
PLAN = Plan(host="h", machine="", boot="", made="", tool="t", role="training", changes=(CHANGE, LASTING, OTHER))
DONE = "hostcheck-tune 1\nbegin\t1\n" + "".join(f"step\t{n}\tintent\t\nstep\t{n}\tapplied\t\n" for n in (1, 2, 3))
COMMITTED = DONE + "end\t1\tcommitted\t\n"


def swapping(value: str) -> Snapshot:
    """The synthetic host, with swap in use as it likes."""
    reading = BARE.reading("kernel.sysctl")
    files = {**reading.files, PATH: FileState(Ending.OK, f"{value}\n".encode())}
    info = BARE.reading("memory.info")
    swaps = b"Filename Type Size Used Priority\n/swap file 1048572 0 -2\n"
    return Snapshot(
        BARE.manifest,
        {
            **BARE.readings,
            "kernel.sysctl": replace(reading, files=files),
            "memory.info": replace(info, files={**info.files, "/proc/swaps": FileState(Ending.OK, swaps)}),
        },
    )


@dataclass
class Made:
    """Hosts that answer as a test says: by name, or all in the same way."""

    names: tuple[str, ...]
    applied: Mapping[str, Answer | bytes] = field(default_factory=dict)
    after: Mapping[str, Snapshot | Absentee] = field(default_factory=dict)
    back: Answer | bytes = b"hostcheck-tune 1\nbegin\t1\nstep\t2\tundone\t\nstep\t1\tundone\t\nend\t1\trolled-back\t\n"
    confirmed: Answer | bytes = b"hostcheck-tune 1\nend\t1\tcommitted\t\n"
    runs: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    programs: list[str] = field(default_factory=list)
    interrupt: int = -1

    def read(self, probes: Sequence[Probe], names: Iterable[str]) -> Iterator[tuple[str, Snapshot | Absentee]]:
        for name in names:
            yield name, self.after.get(name, swapping("1"))

    def run(self, programs: Mapping[str, str], *, seconds: float) -> dict[str, Answer]:
        calls = ("apply ", "rollback ", "confirm ")
        lines = [line.strip() for line in next(iter(programs.values())).splitlines()]
        last = [line for line in lines if line.startswith(calls)][-1]
        word = last.split()[0]
        self.programs.append(last)
        if len(self.runs) == self.interrupt:
            raise KeyboardInterrupt
        self.runs.append((word, tuple(programs)))
        said = {"rollback": self.back, "confirm": self.confirmed}
        return {name: answer(said.get(word) or self.applied.get(name, COMMITTED.encode())) for name in programs}


def answer(said: Answer | bytes) -> Answer:
    return said if isinstance(said, Answer) else Answer(reach=Reach.OK, out=said)


def failed(text: str, reach: Reach = Reach.ERROR, why: str = "exit 1") -> Answer:
    return Answer(reach=reach, partial=text.encode(), why=why)


def told(*lines: str, reach: Reach = Reach.ERROR) -> Answer:
    """Return the answer of a program that ended with an error after these lines."""
    return failed("\n".join(["hostcheck-tune 1", *lines, *([] if reach is Reach.CUT else [""])]), reach)


RULES = Rules(checklist=Checklist(), selection=Selection(), site=())


def planned(*names: str, plan: Plan = PLAN) -> Planned:
    before = RULES.judge("", swapping("60"), ["memory.swappiness"])
    return Planned(plans=dict.fromkeys(names, plan), before=dict.fromkeys(names, before), absent=())


def run(hosts: Made, *, plan: Plan = PLAN, wave: int = 10, max_failures: int = 0, keep: bool = False) -> Applied:
    return apply(
        hosts, planned(*hosts.names, plan=plan), RULES, wave=wave, max_failures=max_failures, keep_unverified=keep
    )


def one(
    said: Answer | bytes, after: Snapshot | Absentee | None = None, *, keep: bool = False, **further: object
) -> tuple[Made, Applied]:
    found = Made(("h",), {"h": said}, {} if after is None else {"h": after}, **further)  # type: ignore[arg-type]
    return found, run(found, keep=keep)


def test_what_is_applied_and_passes_is_verified() -> None:
    hosts, applied = one(COMMITTED.encode())
    ended = applied.ended[0]
    assert (ended.how, ended.transaction, ended.made, ended.mended) == (How.VERIFIED, "1", 3, ("memory.swappiness",))
    assert ended.pending == (Needs.REBOOT,)
    assert apply_code(applied, planned("h")) == 0
    assert [word for word, _ in hosts.runs] == ["apply"]


def test_what_does_not_verify_is_taken_back_with_all_of_its_tuner_and_nothing_else() -> None:
    hosts, applied = one(COMMITTED.encode(), swapping("60"))
    ended = applied.ended[0]
    assert ended.how is How.ROLLED_BACK
    assert (ended.made, ended.undone) == (1, 2)
    assert "memory.swappiness: fail" in ended.why
    (finding,) = ended.findings["memory.swappiness"]
    assert (finding.status, finding.observed) == (Status.FAIL, 60)
    assert finding.expected is not None
    assert finding.expected.text == "at most 10"
    assert hosts.programs[-1] == "rollback 1 alone '1 2'"
    assert apply_code(applied, planned("h")) == 4


def test_unknown_is_not_verified() -> None:
    _, applied = one(COMMITTED.encode(), swapping("1").without(["kernel.sysctl"]))
    assert applied.ended[0].how is How.ROLLED_BACK
    assert "unknown" in applied.ended[0].why
    (finding,) = applied.ended[0].findings["memory.swappiness"]
    assert (finding.status, finding.summary) == (Status.UNKNOWN, "kernel.sysctl: not-collected")


def test_it_stays_where_the_caller_wants_it_to() -> None:
    hosts, applied = one(COMMITTED.encode(), swapping("60"), keep=True)
    assert applied.ended[0].how is How.UNVERIFIED
    assert applied.ended[0].made == 3
    assert [word for word, _ in hosts.runs] == ["apply"]
    assert apply_code(applied, planned("h")) == 4


def test_a_host_that_is_gone_after_the_change_is_not_verified() -> None:
    _, applied = one(COMMITTED.encode(), Absentee(name="h", reach="unreachable", why="no route"))
    assert applied.ended[0].how is How.UNVERIFIED
    assert "no route" in applied.ended[0].why
    assert apply_code(applied, planned("h")) == 4


def test_a_rollback_that_does_not_come_through_is_said() -> None:
    _, applied = one(COMMITTED.encode(), swapping("60"), back=Answer(reach=Reach.UNREACHABLE, why="no route"))
    assert applied.ended[0].how is How.STUCK
    assert "not taken back" in applied.ended[0].why


@pytest.mark.parametrize(
    ("said", "how", "code", "why"),
    [
        (told("end\t-\trefused\tanother hostcheck is at work"), How.REFUSED, 3, "is at work"),
        (told("step\t1\tmoved\tit is now 5", "end\t-\trefused\tmake a new plan"), How.REFUSED, 3, "it is now 5"),
        (told("begin\t1", "step\t1\tfailed\tInvalid", "step\t1\tundone\t", "end\t1\trolled-back\tchange 1: Invalid"),
         How.ROLLED_BACK, 4, "Invalid"),
        (told("begin\t1", "step\t1\tstuck\tRead-only", "end\t1\tunfinished\tmend it"), How.STUCK, 4, "Read-only"),
        (told("begin\t1", "step\t1\tapplied\t", "end\t1\tstopped\tchange 2"), How.UNVERIFIED, 4, "change 2"),
        (told("begin\t1", "step\t1\tapp", reach=Reach.CUT), How.LOST, 3, "tune history"),
        (failed("", Reach.TIMEOUT, "no answer"), How.LOST, 3, "tune history"),
        (failed("", Reach.UNREACHABLE, "no route"), How.REFUSED, 3, "no route"),
        (failed("", Reach.PRIVILEGE, "sudo refused"), How.REFUSED, 3, "sudo refused"),
        (b"Welcome!\n", How.LOST, 3, "not that of hostcheck"),
        (b"hostcheck-tune 1\nbegin\t1\nreboot\n", How.LOST, 3, "none of hostcheck's"),
        (b"hostcheck-tune 1\nstep\t1\tsame\t\nend\t-\tnothing\tall as planned\n", How.NOTHING, 0, ""),
    ],
)  # fmt: skip
def test_each_answer_of_a_host_has_an_ending(said: Answer | bytes, how: How, code: int, why: str) -> None:
    _, applied = one(said)
    assert applied.ended[0].how is how
    assert why in applied.ended[0].why
    assert apply_code(applied, planned("h")) == code


def test_what_could_cut_the_connection_is_confirmed_over_a_new_one() -> None:
    waiting = (DONE + "end\t1\tawaiting\t60\n").encode()
    hosts, applied = one(waiting)
    assert applied.ended[0].how is How.VERIFIED
    assert [word for word, _ in hosts.runs] == ["apply", "confirm"]
    _, applied = one(waiting, confirmed=Answer(reach=Reach.UNREACHABLE, why="no route"))
    assert applied.ended[0].how is How.LOST
    assert "taken back within 60 s" in applied.ended[0].why


def test_one_of_each_plan_comes_first_then_waves() -> None:
    plans = {**dict.fromkeys(["a1", "a2", "a3", "a4"], PLAN), "b1": replace(PLAN, changes=(CHANGE,)), "a5": PLAN}
    assert list(waves(plans, 2)) == [["a1", "b1"], ["a2", "a3"], ["a4", "a5"]]
    assert list(waves({"a": PLAN}, 10)) == [["a"]]
    assert list(waves({}, 10)) == []


def test_plans_that_differ_in_uuids_of_gpus_are_alike() -> None:
    def gpu(uuid: str, after: str = "700") -> Plan:
        change = replace(
            CHANGE, kind=Kind.GPU, target=f"GPU-{uuid * 8}-0000-0000-0000-000000000000 power-limit", after=after
        )
        return replace(PLAN, host=uuid, machine=uuid, changes=(change,))

    assert [hosts for hosts, _ in alike({"x": gpu("1"), "y": gpu("2"), "z": gpu("3", "600")})] == [["x", "y"], ["z"]]


def test_a_canary_that_fails_stops_everything() -> None:
    names = tuple(f"n{number}" for number in range(6))
    hosts = Made(names, after={"n0": swapping("60")})
    applied = run(hosts, wave=2)
    assert [ended.how for ended in applied.ended] == [How.ROLLED_BACK, *[How.UNTOUCHED] * 5]
    assert [names for word, names in hosts.runs if word == "apply"] == [("n0",)]
    assert "stopped after 1 failed" in applied.ended[-1].why


def test_the_budget_lets_some_fail() -> None:
    names = tuple(f"n{number}" for number in range(7))
    hosts = Made(names, after={"n1": swapping("60"), "n3": swapping("60")})
    applied = run(hosts, wave=2, max_failures=1)
    hows = {ended.name: ended.how for ended in applied.ended}
    assert hows == {
        "n0": How.VERIFIED, "n1": How.ROLLED_BACK, "n2": How.VERIFIED, "n3": How.ROLLED_BACK, "n4": How.VERIFIED,
        "n5": How.UNTOUCHED, "n6": How.UNTOUCHED,
    }  # fmt: skip
    assert apply_code(applied, planned(*names)) == 4
    everything = run(replace(hosts, runs=[], programs=[]), wave=2, max_failures=2)
    assert How.UNTOUCHED not in {ended.how for ended in everything.ended}


def test_an_interruption_names_what_is_under_way_and_what_is_not_touched() -> None:
    hosts = Made(("a", "b", "c"), interrupt=1)
    applied = run(hosts, wave=1)
    assert applied.interrupted
    assert [ended.how for ended in applied.ended] == [How.VERIFIED, How.LOST, How.UNTOUCHED]
    assert "tune history" in applied.ended[1].why


def test_better_is_told_and_kept() -> None:
    """Where another subject of the same check still fails, that is not the fault of a change that mended its own."""
    from hostcheck.tuning.drive import _better, status_words

    good, bad = (Finding(status=status, summary="s") for status in (Status.PASS, Status.FAIL))
    before = {"x": {"gpu0": bad, "gpu1": bad}}
    assert _better(before, {"x": {"gpu0": good, "gpu1": bad}}, "x")
    assert not _better(before, {"x": {"gpu0": bad, "gpu1": bad}}, "x")
    assert not _better(before, {"x": {"gpu0": good, "gpu2": bad}}, "x")
    assert not _better(before, {}, "x")
    assert status_words({"gpu0": good, "gpu1": bad}) == "fail (gpu1)"


def test_what_was_read_of_a_host_without_end_is_cut_short() -> None:
    from hostcheck.tuning.drive import bad_findings

    long = Finding(status=Status.FAIL, subject="gpu0", summary="s" * 5000, observed="v" * 5000, fix="f" * 5000)
    found = bad_findings({f"gpu{n}": replace(long, subject=f"gpu{n}") for n in range(500)})
    assert (len(found), found[0].subject) == (32, "gpu0")
    assert found[0].summary == f"{'s' * 400} … (4,600 more characters)"
    assert found[0].observed == f"{'v' * 400} … (4,600 more characters)"
    assert found[0].fix == ""
    assert bad_findings({"gpu0": Finding(status=Status.PASS, summary="s")}) == ()


@pytest.mark.parametrize(
    ("said", "how", "code"),
    [
        (b"hostcheck-tune 1\nbegin\t3\nstep\t2\tundone\t\nend\t3\trolled-back\t\n", How.ROLLED_BACK, 0),
        (b"hostcheck-tune 1\nbegin\t3\nstep\t1\tleft\tit is now 7\nend\t3\trolled-back\t\n", How.ROLLED_BACK, 4),
        (b"hostcheck-tune 1\nbegin\t3\nstep\t1\tstuck\tno\nend\t3\tunfinished\tmend it\n", How.STUCK, 4),
        (b"hostcheck-tune 1\nend\t-\tnothing\tthere is none\n", How.NOTHING, 0),
        (b"hostcheck-tune 1\nend\t-\trefused\ttransaction 4 changed the same\n", How.REFUSED, 3),
        (b"hostcheck-tune 1\nbegin\t4\nend\t4\tunfinished\tx\nbegin\t3\nend\t3\trolled-back\t\n", How.STUCK, 4),
        (b"hostcheck-tune 1\nbegin\t3\n", How.LOST, 3),
        (b"", How.LOST, 3),
    ],
)  # fmt: skip
def test_taking_back_has_endings_of_its_own(said: bytes, how: How, code: int) -> None:
    ended = taken_back("h", Answer(reach=Reach.ERROR, partial=said, why="exit 1"))
    assert ended.how is how
    assert back_code([ended]) == code


# Measuring


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ([1.0, 1.1, 0.9], [0.5, 0.55, 0.45], "improved"),
        ([0.5, 0.55, 0.45], [1.0, 1.1, 0.9], "worse"),
        ([1.0, 1.1, 0.9], [0.95, 1.05, 0.85], "no difference beyond the noise"),
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], "no difference beyond the noise"),
        ([1.0, 1.0, 1.0], [0.9, 0.9, 0.9], "improved"),
        ([1.0, 5.0, 0.1], [0.9, 0.2, 4.0], "no difference beyond the noise"),
    ],
)
def test_improved_is_beyond_the_noise(before: list[float], after: list[float], verdict: str) -> None:
    assert compare(before, after, lower_is_better=True)[0] == verdict


def test_every_measure_is_of_tuners_that_are_there() -> None:
    from hostcheck.registry import load_tuners

    assert {tuner for measure in MEASURES for tuner in measure.tuners} <= set(load_tuners())
    assert len({measure.id for measure in MEASURES}) == len(MEASURES)


def test_more_is_better_where_the_measure_says_so() -> None:
    assert compare([1.0, 1.1, 0.9], [5.0, 5.1, 4.9], lower_is_better=False)[0] == "improved"


def test_what_nothing_measures_is_told_and_what_was_not_changed_is_not_measured_again() -> None:
    told: list[str] = []
    taken: list[tuple[str, ...]] = []
    numbers = iter([{"a": [2.0, 2.0], "b": [2.0, 2.0]}, {"a": [1.0, 1.0]}])

    def take(hosts: object, names: Sequence[str]) -> Mapping[str, Sequence[float]]:
        taken.append(tuple(names))
        return next(numbers)

    measure = Measure(id="m", title="a thing", unit="s", tuners=("memory.swappiness",), take=take)
    hosts = Made(("a", "b"), applied={"b": failed("", Reach.UNREACHABLE, "no route")})
    measuring = Measuring(hosts, planned("a", "b").plans, tell=told.append, measures=(measure,))
    measuring.before()
    compared = measuring.after(run(hosts, wave=1, max_failures=5))
    assert any("nothing measures this yet: kernel.x" in line for line in told)
    assert taken == [("a", "b"), ("a",)]
    assert compared[0] == Compared(
        host="a", measure="m", title="a thing", unit="s", verdict="improved", before=2.0, after=1.0, samples=2
    )
    assert compared[1].verdict == "nothing changed"


def test_while_many_are_planned_it_is_told_how_far_that_is() -> None:
    gone = Absentee(name="b", reach="unreachable", why="no route")
    rules, seen = replace(RULES, selection=Selection(only=("memory.swappiness",))), list[int]()
    made = rules.make(Made(names=("a", "b", "c"), after={"b": gone}), ("a", "b", "c"), progress=seen.append)
    assert (seen, list(made.plans), made.absent) == ([1, 2, 3], ["a", "c"], (gone,))
    stream = io.StringIO()
    Teller(stream, terminal=True, clock=iter([0.0, 9.0]).__next__).planning(1, 1200)
    assert "1 of 1,200 hosts planned" in stream.getvalue()


@pytest.mark.parametrize("hosts", ["there", "here"])
def test_what_is_not_measured_elsewhere_is_said_before_anything_is_done(hosts: str) -> None:
    told: list[str] = []
    plan = replace(PLAN, changes=(replace(CHANGE, tuner="cpu.idle-states"), replace(LASTING, tuner="cpu.governor")))
    measuring = Measuring(Made(names=("a",)) if hosts == "there" else Here(), {"a": plan}, tell=told.append)
    if hosts == "here":
        assert not told
        return
    assert told == ["not measured over SSH, since benchmarks run on the host of hostcheck alone: cpu.idle-states"]
    assert [row.measure for row in measuring.after(Applied(()))] == ["cpu.loop"]


def test_a_benchmark_is_a_measure_of_the_host_that_hostcheck_runs_on() -> None:
    take = value_of("cpu.jitter")
    (name,) = Here().names
    taken = take(Here(), [name])
    assert list(taken) == [name]
    assert len(taken[name]) == 5
    assert all(value > 0 for value in taken[name])


def test_a_benchmark_is_not_run_elsewhere_and_what_cannot_run_gives_nothing() -> None:
    assert value_of("cpu.jitter")(Made(names=("a",)), ["a"]) == {}
    assert value_of("storage.read")(Here(), Here().names) == {}


def test_each_linked_benchmark_exists() -> None:
    from hostcheck.registry import load_benches

    linked = {measure.id: measure for measure in MEASURES if measure.id not in ("cpu.loop", "gpu.smi")}
    assert linked.keys() <= load_benches().keys()
    for id, each in linked.items():
        assert each.lower_is_better is lower_is_better(each.unit), id
