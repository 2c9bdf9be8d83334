"""make_plan: what runs, what is left alone and why, what could not be planned, and in which order things are done."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

from hostcheck.checklist import Checklist, WaiverRule
from hostcheck.errors import HostcheckError, NotApplicable, Unavailable
from hostcheck.expect import Expect, Key
from hostcheck.facts.base import Each, Fact
from hostcheck.model import Severity, Waiver
from hostcheck.registry import TUNERS, Tuner, load_tuners
from hostcheck.snapshot.reading import Ending, Entry, FileState, Reading, Snapshot
from hostcheck.tuners.making import by_hand
from hostcheck.tuning.change import Change, Kind, Plan, Refusal, Risk, Scope
from hostcheck.tuning.plan import Selection, make_plan, ordered, plan_code, plans_code, probes_for_plan, to_do
from support import host

BARE = host("bare")
DEFAULT = Checklist()


def swappiness(value: str = "1", **further: object) -> Change:
    fields = {
        "kind": Kind.WRITE, "target": "/proc/sys/vm/swappiness", "before": "60", "after": value, "scope": Scope.RUNTIME,
        "why": "it swaps less", "fixes": ("memory.swappiness",),
    }  # fmt: skip
    return Change(**(fields | further))  # type: ignore[arg-type]


def drop_in(name: str = "vm.swappiness", **further: object) -> Change:
    fields = {
        "kind": Kind.FILE, "target": f"/etc/sysctl.d/90-hostcheck-{name}.conf", "before": None, "after": "x = 1\n",
        "scope": Scope.PERSISTENT, "why": "it lasts",
    }  # fmt: skip
    return Change(**(fields | further))  # type: ignore[arg-type]


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Give the register tuners that yield what a test says, and no others."""
    load_tuners()
    table: dict[str, Tuner] = {}
    monkeypatch.setattr("hostcheck.registry.TUNERS", table)

    def made(
        id: str,
        *items: Change | Refusal | Exception,
        needs: tuple[Fact[object] | Each[object], ...] = (),
        keys: tuple[Key, ...] = (),
        fixes: tuple[str, ...] = ("memory.swappiness",),
    ) -> None:
        def function(*arguments: object) -> Iterator[Change | Refusal]:
            for item in items:
                if isinstance(item, Exception):
                    raise item
                yield item

        always = Fact.__new__(Fact)
        always.name, always.parse, always.needs = f"test.{id}", lambda: "value", ()
        table[id] = Tuner(
            id=id, title="T.", rationale="", needs=needs or (always,), function=function, fixes=fixes, keys=keys
        )

    yield made
    assert TUNERS is not table


def plan(
    *, only: Iterable[str] = (), checklist: Checklist = DEFAULT, snapshot: Snapshot = BARE, **wanted: object
) -> Plan:
    return make_plan(snapshot, checklist, Selection(only=tuple(only), **wanted))  # type: ignore[arg-type]


def test_the_engine_fills_in_the_tuner_and_who_the_host_is(add) -> None:
    add("memory.one", swappiness(), Refusal(target="x", why="tuned owns it"))
    made = plan()
    assert [change.tuner for change in made.changes] == ["memory.one"]
    assert made.refusals == (Refusal(target="x", why="tuned owns it", tuner="memory.one"),)
    assert (made.host, made.role, made.schema) == ("bare", "training", 1)
    assert made.made.startswith("2026-")
    assert plan_code(made) == 1


def test_nothing_to_do_is_code_0_and_ignorance_is_code_3(add) -> None:
    add("memory.one")
    assert plan_code(plan()) == 0
    add("memory.two", Unavailable("/proc/x: permission denied", "kernel.sysctl"))
    made = plan()
    assert plan_code(made) == 3
    assert [(entry.tuner, entry.cause) for entry in made.unplanned] == [("memory.two", "kernel.sysctl")]
    assert "permission denied" in made.unplanned[0].why


def with_open(*paths: str) -> Snapshot:
    reading = BARE.readings["platform.transactions"]
    entries = {path: Entry("-") for path in paths}
    return replace(BARE, readings={**BARE.readings, reading.probe: replace(reading, entries=entries)})


def test_what_was_not_brought_to_an_end_is_told_and_makes_the_code_3(add) -> None:
    add("memory.one")
    tx = "/var/lib/hostcheck/tx"
    made = plan(snapshot=with_open(f"{tx}/12/open", f"{tx}/9/open", f"{tx}/x y/open", f"{tx}/0/open"))
    assert made.unfinished == ("9", "12")
    assert plan_code(made) == 3
    assert plan(snapshot=with_open()).unfinished == ()
    # An older snapshot does not tell: nothing is claimed, and the rest is planned as ever.
    assert plan_code(plan(snapshot=BARE.without(["platform.transactions"]))) == 0
    add("memory.two", swappiness())
    assert plan_code(plan(snapshot=with_open(f"{tx}/9/open"))) == 1


def test_what_does_not_apply_or_is_not_expected_is_nothing_to_do(add) -> None:
    from hostcheck.expect import ExpectationMissing

    add("memory.one", NotApplicable("no swap"))
    add("memory.two", ExpectationMissing("memory.nobody-sets-this"))
    made = plan()
    assert (made.changes, made.unplanned, plan_code(made)) == ((), (), 0)


def test_a_bug_of_a_tuner_is_told_and_takes_nothing_else_with_it(add) -> None:
    add("memory.one", ZeroDivisionError("oh"))
    add("memory.two", swappiness())
    made = plan()
    assert [change.tuner for change in made.changes] == ["memory.two"]
    assert "a bug in hostcheck: ZeroDivisionError" in made.unplanned[0].why
    assert "Traceback" in made.unplanned[0].bug


def test_what_was_yielded_before_something_was_missing_counts(add) -> None:
    add("memory.one", swappiness(), Unavailable("the rest"))
    made = plan()
    assert len(made.changes) == 1
    assert len(made.unplanned) == 1


def test_a_change_that_makes_no_sense_is_a_bug_and_no_change(add) -> None:
    add("memory.one", swappiness(target="/etc/passwd"))
    made = plan()
    assert not made.changes
    assert "/etc/passwd" in made.unplanned[0].why


def test_what_is_as_wanted_is_no_change(add) -> None:
    add("memory.one", swappiness("60"))
    assert not plan().changes


def test_runtime_comes_before_persistent_files_before_units_and_what_cuts_last() -> None:
    cut = swappiness(target="/proc/sys/net/x", cuts=True)
    unit = Change(kind=Kind.UNIT, target="x.service", before="disabled inactive", after="enabled active",
                  scope=Scope.PERSISTENT, why="w")  # fmt: skip
    module = Change(kind=Kind.MODULE, target="x", before=None, after="", scope=Scope.RUNTIME, why="w")
    manual = Change(kind=Kind.MANUAL, target="BIOS", before=None, after=None, scope=Scope.PERSISTENT, why="w")
    wanted = [module, swappiness(), drop_in(), unit, manual, cut]
    assert ordered([cut, manual, unit, drop_in(), swappiness(), module]) == wanted


def test_equal_changes_of_two_tuners_are_one_with_the_gravest_risk(add) -> None:
    add("memory.one", swappiness(risk=Risk.LOW))
    add("memory.two", swappiness(risk=Risk.HIGH, fixes=("memory.swap",)))
    made = plan()
    assert len(made.changes) == 1
    assert made.changes[0].risk is Risk.HIGH
    assert made.changes[0].fixes == ("memory.swappiness", "memory.swap")


def test_tuners_that_contradict_each_other_change_nothing_and_both_are_named(add) -> None:
    add("memory.one", swappiness("1"))
    add("memory.two", swappiness("10"))
    made = plan()
    assert not made.changes
    assert {refusal.tuner for refusal in made.refusals} == {"memory.one", "memory.two"}
    assert all(
        "memory.one wants '1'" in refusal.why and "memory.two wants '10'" in refusal.why for refusal in made.refusals
    )


def test_what_must_be_asked_for_by_name_is_left_out_and_told(add) -> None:
    add("memory.one", swappiness(opt_in=True))
    for only in ((), ("memory",), ("memory.*",)):
        made = plan(only=only)
        assert not made.changes, only
        assert "--only memory.one" in made.refusals[0].why
    for name in ("memory.one", "memory.swappiness"):
        assert len(plan(only=(name,)).changes) == 1, name


@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        ({"only": ("memory.one",)}, {"memory.one"}),
        ({"only": ("memory.swappiness",)}, {"memory.one"}),
        ({"only": ("memory",)}, {"memory.one"}),
        ({"only": ("c*.two",)}, {"cpu.two"}),
        ({"skip": ("memory",)}, {"cpu.two"}),
        ({"skip": ("memory.swappiness",)}, {"cpu.two"}),
        ({"max_risk": Risk.MEDIUM}, {"memory.one"}),
        ({"severity": Severity.CRITICAL}, set()),
        ({"scopes": (Scope.PERSISTENT,)}, {"cpu.two"}),
        ({"scopes": (Scope.RUNTIME,)}, {"memory.one"}),
        ({}, {"memory.one", "cpu.two"}),
    ],
)  # fmt: skip
def test_a_selection_leaves_out_what_is_not_wanted(add, wanted: dict[str, object], left: set[str]) -> None:
    add("memory.one", swappiness())
    add("cpu.two", drop_in(risk=Risk.HIGH), fixes=())
    assert {change.tuner for change in plan(**wanted).changes} == left  # type: ignore[arg-type]


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest(add) -> None:
    add("memory.one", swappiness())
    for wanted in ({"only": ("memory.swapiness",)}, {"skip": ("memory.swapiness",)}):
        with pytest.raises(HostcheckError, match=r"did you mean 'memory\.swappiness'"):
            plan(**wanted)  # type: ignore[arg-type]


def test_checks_that_a_checklist_leaves_out_are_not_tuned_for(add) -> None:
    add("memory.one", swappiness())
    assert plan().changes
    assert not plan(checklist=Checklist(skip=("memory.swappiness",))).changes
    assert not plan(checklist=Checklist(only=("gpu",))).changes


def test_a_waiver_holds_for_tuning_until_it_ends(add) -> None:
    add("memory.one", swappiness(), drop_in())
    for until, planned in (("2999-01-01", 1), ("2020-01-01", 2)):
        waiver = WaiverRule("memory.swappiness", "*", Waiver(reason="the database wants it", until=until))
        made = plan(checklist=Checklist(waivers=(waiver,)))
        assert len(made.changes) == planned
        assert any("the database wants it" in refusal.why for refusal in made.refusals) is (planned == 1)


def with_file(path: str, text: str | None, probe: str) -> Snapshot:
    reading = BARE.reading(probe)
    files = dict(reading.files)
    files.pop(path, None)
    if text is not None:
        files[path] = FileState(Ending.OK, text.encode())
    return Snapshot(BARE.manifest, {**BARE.readings, probe: replace(reading, files=files)})


def test_in_a_container_nothing_is_planned_and_that_is_no_good_news(add) -> None:
    add("memory.one", swappiness())
    made = plan(snapshot=with_file("/proc/1/cgroup", "0::/docker/0123456789abcdef\n", "platform.host"))
    assert not made.changes
    assert "container (docker)" in made.unplanned[0].why
    assert plan_code(made) == 3


def test_where_a_container_cannot_be_excluded_nothing_is_planned(add) -> None:
    add("memory.one", swappiness())
    made = plan(snapshot=BARE.without(["platform.host"]))
    assert not made.changes
    assert "container" in made.unplanned[0].why


def test_a_system_that_is_built_as_a_whole_keeps_only_what_lasts_until_the_next_boot(add) -> None:
    add("memory.one", swappiness(), drop_in())
    made = plan(snapshot=with_file("/etc/os-release", 'ID=cos\nNAME="COS"\n', "platform.host"))
    assert [change.scope for change in made.changes] == [Scope.RUNTIME]
    assert "Container-Optimized OS" in made.refusals[0].why


def test_a_snapshot_without_identity_gives_a_plan_for_nobody(add) -> None:
    add("memory.one", swappiness())
    assert plan(snapshot=BARE.without(["platform.identity"])).machine == ""
    masked = Snapshot(replace(BARE.manifest, redacted=True), BARE.readings)
    assert plan(snapshot=masked).machine == ""


def test_identity_is_read(add) -> None:
    add("memory.one", swappiness())
    files = {"/etc/machine-id": FileState(Ending.OK, b"0123456789abcdef0123456789abcdef\n")}
    reading = Reading("platform.identity", Ending.OK, asked=("/etc/machine-id",), files=files)
    made = plan(snapshot=Snapshot(BARE.manifest, {**BARE.readings, "platform.identity": reading}))
    assert made.machine == "0123456789abcdef0123456789abcdef"


def test_what_the_operator_does_is_nothing_for_hostcheck_to_do(add) -> None:
    manual = Change(kind=Kind.MANUAL, target="BIOS: SMT", before=None, after=None, scope=Scope.PERSISTENT, why="off")
    add("cpu.one", manual, manual)
    made = plan()
    assert made.changes == (replace(manual, tuner="cpu.one"),)
    assert to_do(made) == ()
    assert plan_code(made) == 0


def test_a_missing_host_makes_a_fleet_undetermined(add) -> None:
    from hostcheck.model import Absentee

    add("memory.one")
    empty = plan()
    gone = Absentee(name="x", reach="unreachable", why="")
    assert plans_code([empty], ()) == 0
    assert plans_code([empty], (gone,)) == 3
    assert plans_code([], ()) == 3
    add("memory.two", swappiness())
    assert plans_code([plan(), empty], (gone,)) == 1


def test_a_plan_that_was_made_is_narrowed_by_the_same_options() -> None:
    made = Plan(host="h", machine="", boot="", made="", tool="", role="training", changes=(
        swappiness(tuner="memory.swappiness"),
        drop_in(tuner="memory.swappiness", risk=Risk.HIGH),
        swappiness(target="/sys/x", tuner="cpu.governor", fixes=("cpu.governor",)),
    ))  # fmt: skip
    assert len(Selection(only=("memory",)).narrow(made).changes) == 2
    assert len(Selection(skip=("memory.swappiness",)).narrow(made).changes) == 1
    assert len(Selection(max_risk=Risk.LOW).narrow(made).changes) == 2
    assert len(Selection(scopes=(Scope.PERSISTENT,)).narrow(made).changes) == 1
    with pytest.raises(HostcheckError, match="no change of the plan"):
        Selection(only=("gpu",)).narrow(made)


def test_probes_for_a_plan_hold_those_of_the_checks_that_it_mends(add) -> None:
    add("memory.one", swappiness())
    ids = [probe.id for probe in probes_for_plan(Selection().tuners(Checklist()))]
    assert {"kernel.sysctl", "platform.identity", "platform.owner-files"} <= set(ids)
    assert ids == sorted(set(ids))


def test_expectations_reach_a_tuner_with_their_layers(add) -> None:
    from hostcheck.checklist import read_setting
    from hostcheck.registry import load_checks

    load_checks()
    seen: list[object] = []
    add("memory.one", keys=())
    tuner = load_tuners()["memory.one"]
    key = next(key for key in load_checks()["memory.swappiness"].keys if key.name == "memory.swappiness")

    def function(_: object, expect: Expect) -> Iterator[Change]:
        seen.append((expect(key).matcher.words(""), expect(key).layer))
        yield swappiness()

    load_tuners()["memory.one"] = replace(tuner, function=function, keys=(key,))
    plan(checklist=Checklist(layers=(read_setting("memory.swappiness=7"),)))
    assert seen == [("7", "--set")]


@pytest.mark.parametrize("name", ["a b", "it's; reboot", "$(id)", "`id`", "-x", "*", 'a"b', "\\x2d", "é", ""])
def test_a_name_of_the_host_stays_one_word_of_the_command(name: str) -> None:
    (command,) = by_hand("t", "w", "s", [["systemctl", "mask", "--", name]]).commands
    assert shlex.split(command) == ["systemctl", "mask", "--", name]


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "a\u202eb", "a\u2800b"])
def test_a_command_that_cannot_be_shown_as_it_is_is_not_given(name: str) -> None:
    assert by_hand("t", "w", "s", ["update-grub", ["rm", name]]).commands == ()
