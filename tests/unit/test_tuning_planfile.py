"""Files of plans: written to the byte the same, read without trust."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.errors import HostcheckError
from hostcheck.model import Absentee
from hostcheck.tuning.change import Change, Kind, Needs, Plan, Refusal, Reload, Risk, Scope, Unplanned
from hostcheck.tuning.kinds import fault
from hostcheck.tuning.planfile import Plans, plan_text, read_plan, read_plan_file

MACHINE = "0123456789abcdef0123456789abcdef"
GPU = "GPU-00000000-0000-0000-0000-000000000001"
CHANGE = Change(
    kind=Kind.WRITE, target="/proc/sys/vm/swappiness", before="60", after="0", scope=Scope.RUNTIME, why="it swaps less",
    source="a guide (defaults)", fixes=("memory.swappiness",), tuner="memory.swappiness",
)  # fmt: skip
PLAN = Plan(
    host="gpu01", machine=MACHINE, boot="11111111-2222-3333-4444-555555555555", made="2026-11-21T02:00:00+00:00",
    tool="0.1.0", role="training", changes=(CHANGE,),
    refusals=(Refusal(target="x", why="tuned", tuner="a.b"),), unplanned=(Unplanned(tuner="c.d", why="denied"),),
)  # fmt: skip


def edited(**changes: Any) -> str:
    """Return the file of PLAN with fields of its change edited by hand; None as a value takes one out."""
    table = json.loads(plan_text(PLAN))
    for name, value in changes.items():
        table["changes"][0][name] = value
    return json.dumps(table)


def outcome(document: str) -> Plan | Plans | str:
    """Return the plan, or the line that refuses it."""
    try:
        return read_plan(document)
    except HostcheckError as problem:
        return str(problem)


def refused(document: str | bytes) -> str:
    with pytest.raises(HostcheckError) as caught:
        read_plan(document)
    line = str(caught.value)
    assert "\n" not in line
    assert line.isprintable()
    assert len(line) < 600
    return line


def test_a_file_gives_the_plan_back_and_equal_plans_equal_files() -> None:
    assert read_plan(plan_text(PLAN)) == PLAN
    again = read_plan(plan_text(PLAN))
    assert isinstance(again, Plan)
    assert plan_text(again) == plan_text(PLAN)
    several = Plans(
        plans={"gpu01": PLAN, "gpu02": replace(PLAN, host="gpu02")}, absent=(Absentee(name="g", reach="r", why="w"),)
    )
    assert read_plan(plan_text(several)) == several


def test_what_an_editor_does_to_the_layout_changes_nothing() -> None:
    table = json.loads(plan_text(PLAN))
    assert read_plan(json.dumps(table)) == PLAN
    assert read_plan(json.dumps(table, sort_keys=True, indent=8)) == PLAN


def test_another_value_is_taken_and_so_are_fewer_changes() -> None:
    found = read_plan(edited(after="5"))
    assert isinstance(found, Plan)
    assert found.changes[0].after == "5"
    table = json.loads(plan_text(PLAN))
    table["changes"] = []
    assert read_plan(json.dumps(table)) == replace(PLAN, changes=())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"afer": "1"}, "changes[0].afer: unknown field; did you mean 'after'?"),
        ({"risk": "lowish"}, "changes[0].risk: 'lowish' is none of low, medium, high"),
        ({"kind": "delete"}, "changes[0].kind: 'delete' is none of write"),
        ({"before": 60}, "before"),
        ({"after": True}, "after"),
        ({"after": "60"}, "before and after are the same"),
        ({"after": None}, "after is missing"),
        ({"after": ""}, "after is empty"),
        ({"after": "1\n2"}, "after is to be one line"),
        ({"after": "1\u0000"}, "without NUL"),
        ({"why": ""}, "why is empty"),
        ({"why": "a\u202eb"}, "why is to be one line"),
        ({"target": ""}, "target is empty"),
        ({"target": "/etc/passwd"}, "is not in /proc/sys/"),
        ({"target": "/proc/sys/../../etc/passwd"}, "no plain absolute path"),
        ({"target": "proc/sys/vm/swappiness"}, "no plain absolute path"),
        ({"target": "/proc/sys//vm"}, "no plain absolute path"),
        ({"kind": "file", "target": "/etc/sysctl.d/50-site.conf"}, "no file of hostcheck's own"),
        ({"kind": "file", "target": "/etc/hostcheck", "after": "x" * 65_537}, "after is to be a text of at most 65,5"),
        ({"kind": "file", "target": "/etc/hostcheck", "before": "é" * 32_769}, "before is to be a text of at most"),
        ({"kind": "file", "target": "/root/hostcheck"}, "is not in /etc/"),
        ({"kind": "file", "target": "/etc/x/../hostcheck"}, "no plain absolute path"),
        ({"kind": "file", "target": "/etc/a b/hostcheck"}, "no file of hostcheck's own"),
        ({"kind": "unit", "target": "a b.service"}, "no name of a unit"),
        ({"kind": "unit", "target": "irqbalance.service"}, "enabled active"),
        ({"kind": "kernel-arg", "target": "grub"}, "'grub' or 'grubby'"),
        ({"kind": "kernel-arg", "target": "grub iommu", "before": None, "after": "pt quiet"}, "one word"),
        ({"kind": "kernel-arg", "target": "grub iommu", "before": None, "after": 'pt"'}, "one word"),
        ({"kind": "gpu", "target": "0 power-limit"}, "a GPU's UUID"),
        ({"kind": "gpu", "target": f"{GPU} fan"}, "a GPU's UUID"),
        ({"kind": "gpu", "target": f"{GPU} power-limit", "after": "700 W"}, "a value for power-limit"),
        ({"kind": "gpu", "target": f"{GPU} sm-clock-lock", "before": None, "after": "1980"}, "MIN,MAX"),
        ({"kind": "gpu", "target": f"{GPU} mig-layout", "before": "none", "after": "1g.5gb -dgi"}, "a value for mig-"),
        ({"kind": "gpu", "target": f"{GPU} mig-layout", "before": "none", "after": "9"}, "a value for mig-layout"),
        ({"kind": "gpu", "target": f"{GPU} mig-layout", "before": None, "after": "1g.10gb"}, "before is missing"),
        ({"kind": "nic", "target": "eth0"}, "a network interface"),
        ({"kind": "nic", "target": "eth0 mtu", "before": "1500", "after": "20"}, "68 to 65535"),
        ({"kind": "nic", "target": "eth0;reboot mtu"}, "a network interface"),
        ({"kind": "mount", "target": "/", "before": "rw", "after": "rw noatime"}, "mount options"),
        ({"kind": "swap", "target": "/swap", "before": "high", "after": None}, "a priority"),
        ({"kind": "module", "target": "nvidia peermem", "before": None, "after": ""}, "kernel module"),
        ({"kind": "module", "target": "nvidia", "before": None, "after": "loaded"}, "means loaded"),
        ({"fixes": ["memory.swapiness"]}, "did you mean 'memory.swappiness'?"),
        ({"fixes": "memory.swappiness"}, "fixes"),
        ({"cuts": "no"}, "cuts"),
        ({"commands": ["reboot"]}, "commands are for what is done by hand"),
        ({"kind": "manual", "commands": ["a\nb"]}, "commands are to be lines"),
        ({"kind": "manual", "commands": ["a\x1b[31m"]}, "commands are to be lines"),
        ({"kind": "manual", "commands": [" "]}, "commands are to be lines"),
        ({"kind": "manual", "commands": ["x" * 2001]}, "commands are to be lines"),
        ({"kind": "manual", "commands": ["x"] * 21}, "commands are to be at most 20"),
        ({"kind": "manual", "commands": "reboot"}, "commands"),
    ],
)  # fmt: skip
def test_a_change_that_was_edited_into_nonsense_is_refused_by_name(changes: dict[str, Any], says: str) -> None:
    line = refused(edited(**changes))
    assert line.startswith("changes[0]")
    assert says in line


@pytest.mark.parametrize(
    ("kind", "target", "before", "after"),
    [
        (Kind.WRITE, "/sys/kernel/mm/transparent_hugepage/enabled", "always", "madvise"),
        (Kind.WRITE, "/sys/block/sda/queue/read_ahead_kb", "", "-1"),
        (Kind.WRITE, "/sys/class/net/eth0/queues/rx-0/rps_cpus", "00000000,00000000", "ff"),
        (Kind.WRITE, "/proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456", "4096 87380 268435456"),
        (Kind.FILE, "/etc/systemd/system/slurmd.service.d/90-hostcheck-memlock.conf", None, "[Service]\n"),
        (Kind.FILE, "/etc/hostcheck/tune.d/irq.sh", "old\n", None),
        (Kind.UNIT, "irqbalance.service", "enabled active", "disabled inactive"),
        (Kind.KERNEL_ARG, "grubby iommu", None, "pt"),
        (Kind.KERNEL_ARG, "grub quiet", "", None),
        (Kind.GPU, f"{GPU} power-limit", "600.00", "700"),
        (Kind.GPU, f"{GPU} sm-clock-lock", "1980,1980", None),
        (Kind.GPU, f"{GPU} sm-clock-lock", "1410,1410", "1980,1980"),
        (Kind.GPU, f"{GPU} mig-layout", "none", "4g.96gb+gfx,1g.24gb+me.all,1g.24gb-me"),
        (Kind.NIC, "enp3s0.200 mtu", "1500", "9000"),
        (Kind.MOUNT, "/data", "rw,relatime", "rw,noatime"),
        (Kind.SWAP, "/swapfile", "-2", None),
        (Kind.MODULE, "nvidia-fs", None, ""),
        (Kind.MANUAL, "BIOS: SMT", None, None),
    ],
)
def test_what_makes_sense_is_taken(kind: Kind, target: str, before: str | None, after: str | None) -> None:
    change = Change(kind=kind, target=target, before=before, after=after, scope=Scope.RUNTIME, why="because")
    assert fault(change) == ""
    plan = replace(PLAN, changes=(change,))
    assert read_plan(plan_text(plan)) == plan


def test_commands_of_the_operator_are_kept_and_an_older_plan_has_none() -> None:
    manual = Change(
        kind=Kind.MANUAL, target="fstab", before=None, after=None, scope=Scope.PERSISTENT, why="w",
        commands=("systemctl mask -- 'a\\x2db.swap'", "echo 'é' > /etc/x"),
    )  # fmt: skip
    plan = replace(PLAN, changes=(manual,))
    assert read_plan(plan_text(plan)) == plan
    table = json.loads(plan_text(plan))
    del table["changes"][0]["commands"]
    assert read_plan(json.dumps(table)) == replace(PLAN, changes=(replace(manual, commands=()),))


def test_one_target_twice_is_refused() -> None:
    plan = replace(PLAN, changes=(CHANGE, replace(CHANGE, after="7")))
    assert "changes[1]: target: changes[0] is of the same" in refused(plan_text(plan))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("schema", 0, "schema 0, made by hostcheck 0.1.0; this hostcheck reads schema 1: make the plan anew"),
        ("schema", 2, "schema 2"),
        ("schema", True, "schema True"),
        ("schema", "1", "schema 1"),
        ("machine", "other", "machine: 32 hexadecimal digits"),
        ("host", "a\nb", "host: one line"),
        ("role", 5, "role"),
        ("changes", {}, "changes"),
        ("extra", 1, "extra: unknown field"),
        ("unfinished", ["1; reboot"], "unfinished: numbers of transactions"),
        ("unfinished", 3, "unfinished"),
        ("refusals", [{"target": "x"}], "refusals"),
    ],
)
def test_the_rest_of_a_plan_is_looked_at_too(name: str, value: Any, says: str) -> None:
    assert says in refused(json.dumps(json.loads(plan_text(PLAN)) | {name: value}))


@pytest.mark.parametrize(
    "document", ["", "{}", "[]", "null", '{"schema": 1}', "\x00", '{"changes"', b"\xff\xfe", "[" * 100_000]
)
def test_what_is_no_plan_is_refused(document: str | bytes) -> None:
    assert refused(document)


def test_in_a_file_of_many_the_host_is_named() -> None:
    text = plan_text(Plans(plans={"gpu01": PLAN})).replace('"low"', '"lo"')
    assert refused(text).startswith("plans['gpu01'].changes[0].risk")


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    for path, says in ((tmp_path / "none.json", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(HostcheckError, match=says) as caught:
            read_plan_file(path)
        assert str(caught.value).startswith(str(path))


TEXT = st.text(max_size=30)
ANY = st.builds(
    Change, kind=st.sampled_from(Kind), target=TEXT, before=st.none() | TEXT, after=st.none() | TEXT,
    scope=st.sampled_from(Scope), why=TEXT, risk=st.sampled_from(Risk), needs=st.sampled_from(Needs),
    reload=st.sampled_from(Reload), source=TEXT, tuner=TEXT, cuts=st.booleans(), opt_in=st.booleans(),
    commands=st.lists(TEXT, max_size=2).map(tuple),
)  # fmt: skip


@given(st.lists(ANY, max_size=4))
def test_any_plan_is_either_the_same_after_reading_or_refused_in_one_line(changes: list[Change]) -> None:
    plan = replace(PLAN, changes=tuple(changes))
    found = outcome(plan_text(plan))
    if isinstance(found, str):
        assert "\n" not in found
    else:
        assert found == plan
        assert not any(map(fault, changes))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(json.loads(plan_text(PLAN))["changes"][0])), JSON)
def test_nothing_that_is_put_into_a_field_raises_anything_else(name: str, value: Any) -> None:
    found = outcome(edited(**{name: value}))
    assert isinstance(found, Plan) or found.isprintable()  # type: ignore[union-attr]


@given(st.sampled_from(sorted(json.loads(plan_text(PLAN)))), JSON)
def test_nor_what_is_put_into_a_plan(name: str, value: Any) -> None:
    found = outcome(json.dumps(json.loads(plan_text(PLAN)) | {name: value}))
    assert isinstance(found, Plan) or found.isprintable()  # type: ignore[union-attr]
