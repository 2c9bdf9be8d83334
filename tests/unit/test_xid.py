"""Xid and SXid records in kernel logs of every form, and the table of what they mean."""

from __future__ import annotations

import tomllib
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.errors import Unavailable
from hostcheck.facts.gpu_types import Gpu
from hostcheck.facts.kernel_log import KernelLog, LogLine, parse_kernel_log
from hostcheck.facts.xid import Xid, parse_xids, policy, read_policy, read_xids
from hostcheck.model import Actor, Severity
from support import sample

RECORD = "NVRM: Xid (PCI:0000:9b:00): 119, pid=2024380, name=nvidia-smi, Timeout after 6s of waiting for RPC response"


def found(text: str) -> tuple[Xid, ...]:
    return parse_xids(parse_kernel_log(text))[0]


def test_the_sample() -> None:
    xids, sxids = parse_xids(parse_kernel_log(sample(parse_xids)))
    assert [(xid.address, xid.code, xid.count) for xid in xids] == [
        ("0000:05:00", 79, 1),
        ("0000:19:00", 48, 1),
        ("0000:9b:00", 119, 2),
    ]
    assert xids[0].text == "GPU has fallen off the bus."
    assert xids[1].processes == ()
    assert xids[2].processes == ("nvidia-smi", "gpud")
    (sxid,) = sxids
    assert (sxid.switch, sxid.address, sxid.code, sxid.fatal, sxid.count) == (3, "0000:05:00.0", 12028, False, 1)


@pytest.mark.parametrize(
    "line",
    [
        RECORD,
        f"[Sun Feb 23 16:24:18 2025] {RECORD}",
        f"[ 3098.275469] {RECORD}",
        f"[ 3098.275469][  T811] {RECORD}",
        f"kern  :warn  : 2025-01-21T04:41:44,283302+00:00 {RECORD}",
        f"2024-11-15T12:02:03,470068+00:00 {RECORD}",
        f"3,4711,3098275469,-;{RECORD}",
        f"<3>[ 3098.275469] {RECORD}",
        f"Feb 23 16:24:18 node7 kernel: {RECORD}",
        f"Feb 23 16:24:18 node7 kernel: [ 3098.275469] {RECORD}",
        f"[ 3098.275469] node7 kernel: {RECORD}",
    ],
)
def test_every_form_of_log(line: str) -> None:
    (xid,) = found(line)
    assert (xid.address, xid.code, xid.count, xid.processes) == ("0000:9b:00", 119, 1, ("nvidia-smi",))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("NVRM: Xid (0000:03:00): 14, Ch 00000010", "0000:03:00"),
        ("NVRM: Xid (PCI:00000000:5E:00): 14, x", "0000:5e:00"),
        ("NVRM: Xid (PCI:0009:01:00): 14, x", "0009:01:00"),
        ("NVRM: Xid (PCI:10000:01:00): 14, x", "10000:01:00"),
        ("NVRM: Xid (PCI:0000:03:00.0): 14, x", "0000:03:00"),
    ],
)
def test_addresses_are_as_sysfs_has_them(text: str, address: str) -> None:
    assert found(text)[0].address == address


@pytest.mark.parametrize(
    "line",
    [
        "NVRM: GPU at PCI:0000:9b:00: GPU-509665ad-b600-ac93-3616-d754b23d636d",
        "NVRM: nvAssertFailedNoLog: Assertion failed: pStaticInfo->pSmIssueThrottleCtrl != NULL",
        "NVRM: Xid (PCI:0000:9b:00): garbled",
        # Somebody's process has such a name.
        "Out of memory: Killed process 1 (NVRM: Xid (PCI:0000:9b:00): 79, x)",
        'audit: comm="NVRM: Xid (PCI:0000:9b:00): 79, GPU has fallen off the bus."',
    ],
)
def test_what_is_no_record(line: str) -> None:
    assert found(line) == ()


def log(*lines: str, complete: bool = True) -> KernelLog:
    made = tuple(LogLine(text=line, at_s=float(number)) for number, line in enumerate(lines))
    return KernelLog(
        lines=made, complete=complete, covers_from="boot" if complete else "90700 s after boot", source="dmesg"
    )


def test_gpus_are_named_where_the_driver_answers() -> None:
    gpus = (Gpu(index=4, bus_id="0000:9b:00.0", source="test"),)
    assert read_xids(log(RECORD), gpus).gpus == {"0000:9b:00": "gpu4"}
    assert read_xids(log(RECORD), Unavailable("nvidia-smi hangs")).gpus == {}


def test_a_log_that_wrapped_does_not_tell_what_did_not_happen() -> None:
    read_xids(log(), ()).need_all()
    with pytest.raises(Unavailable, match="90700 s after boot"):
        read_xids(log(complete=False), ()).need_all()


def test_a_record_of_another_form_is_not_passed_over() -> None:
    changed = read_xids(log("NVRM: Xid (GPU 3): 79, something of a later driver"), ())
    assert changed.xids == ()
    with pytest.raises(Unavailable, match="1 lines"):
        changed.need_all()


def test_times_are_those_of_the_first_and_the_last_record() -> None:
    (xid,) = read_xids(log(RECORD, "between", RECORD), ()).xids
    assert (xid.first, xid.last) == ("0 s after boot", "2 s after boot")


def test_every_meaning_has_an_actor_a_severity_and_a_step() -> None:
    table = policy()
    for meaning in (*table.codes.values(), table.other, table.sxid_fatal, table.sxid_other):
        assert Actor(meaning.actor)
        assert Severity(meaning.severity)
        assert meaning.name
        assert meaning.step


@pytest.mark.parametrize(
    ("code", "actor", "severity"),
    [
        (13, "application", "info"), (31, "application", "info"), (43, "application", "info"),
        (45, "application", "info"), (68, "application", "info"), (63, "operator", "info"),
        (48, "reset-gpu", "critical"), (64, "reset-gpu", "critical"), (95, "reset-gpu", "critical"),
        (119, "reset-gpu", "critical"), (79, "reboot", "critical"), (94, "reset-gpu", "medium"),
        (74, "reset-gpu", "high"), (54, "operator", "high"), (999, "operator", "medium"), (65, "operator", "medium"),
    ],
)  # fmt: skip
def test_who_acts_on_what(code: int, actor: str, severity: str) -> None:
    meaning = policy().meaning(code)
    assert (meaning.actor, meaning.severity) == (actor, severity)


def test_a_fault_is_never_called_the_programs() -> None:
    """The vendor's table calls for a reset, a reboot or a service for these; none of them may pass."""
    acts = [
        46,
        48,
        54,
        62,
        64,
        74,
        79,
        95,
        109,
        110,
        119,
        120,
        136,
        140,
        142,
        143,
        151,
        155,
        156,
        158,
        *range(144, 151),
    ]
    assert not [code for code in acts if policy().meaning(code).severity == "info"]


def test_a_code_in_two_groups_is_refused() -> None:
    text = (files("hostcheck") / "xid.toml").read_text("utf-8")
    group = '\n[[policy]]\nactor = "reboot"\nseverity = "low"\nstep = "x"\n[policy.codes]\n79 = "again"\n'
    with pytest.raises(ValueError, match="Xid 79 is in two groups"):
        read_policy(text + group)


def test_the_table_says_when_and_from_where() -> None:
    table = tomllib.loads((files("hostcheck") / "xid.toml").read_text("utf-8"))
    assert table["as_of"] in policy().source
    assert "docs.nvidia.com" in policy().source


@given(st.lists(st.text(max_size=120), max_size=20))
def test_no_line_raises_anything(lines: list[str]) -> None:
    parse_xids(LogLine(text=line) for line in lines)


@given(st.data())
def test_no_mutation_of_a_record_raises_anything(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(RECORD)))
    end = data.draw(st.integers(at, len(RECORD)))
    parse_xids([LogLine(text=RECORD[:at] + data.draw(st.text(max_size=8)) + RECORD[end:])])


def test_a_log_of_nothing_but_codes_stays_small() -> None:
    xids, _ = parse_xids(LogLine(text=f"NVRM: Xid (PCI:0000:9b:00): {code}, x") for code in range(50_000))
    assert len(xids) == 10_000
