"""What programs print and journals hold, read as what they are: a host's words."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.errors import HostcheckError
from hostcheck.tuning.change import Kind, Reload, Scope
from hostcheck.tuning.journal import (
    End,
    Ending,
    Outcome,
    StepState,
    read_history,
    read_journal,
    read_outcomes,
)

HEAD = ["0", "journal", "1", "3", "2026-11-21T02:21:29Z", "0.1.0", "gpu01", "boot-id", "training", "2"]
FIRST = [
    "1", "plan", "write", "/proc/sys/vm/swappiness", "=60", "=10", "runtime", "-", "memory.swap", "a.b,c.d", "it helps",
]  # fmt: skip
SECOND = [
    "2", "plan", "file", "/etc/x/90-hostcheck.conf", "-", "=a\\\\b\\n\\tc\\n", "persistent", "systemd", "-", "-", "so",
]  # fmt: skip


def line(*fields: str) -> str:
    """Return a line of a journal."""
    body = "\t".join(fields)
    return f"{body}\t{len(body.encode())}\n"


def said(*lines: str) -> bytes:
    """Return what a program printed."""
    return "".join(f"{each}\n" for each in ("hostcheck-tune 1", *lines)).encode()


JOURNAL = line(*HEAD) + line(*FIRST) + line(*SECOND) + line("1", "intent") + line("1", "applied")


def test_an_application() -> None:
    (outcome,) = read_outcomes(
        said(
            "step\t3\tsame\t",
            "begin\t7",
            "step\t1\tintent\t",
            "step\t1\tapplied\t",
            "step\t2\tintent\t",
            "step\t2\tfailed\tno\\tway\\nhere \\\\o/",
            "step\t2\tundone\t",
            "step\t1\tundone\t",
            "end\t7\trolled-back\tchange 2: no",
        )
    )
    assert outcome == Outcome(
        transaction="7",
        end=End.ROLLED_BACK,
        why="change 2: no",
        steps={3: Ending(StepState.SAME), 1: Ending(StepState.UNDONE), 2: Ending(StepState.UNDONE)},
        failures={2: Ending(StepState.FAILED, "no\tway\nhere \\o/")},
    )


def test_one_that_was_refused_and_one_that_was_cut_off() -> None:
    (refused,) = read_outcomes(said("step\t1\tmoved\tit is 3", "end\t-\trefused\tno"))
    assert (refused.transaction, refused.end, refused.steps[1].why) == ("", End.REFUSED, "it is 3")
    (cut,) = read_outcomes(said("begin\t7", "step\t1\tintent\t") + b"step\t1\tappl")
    assert (cut.transaction, cut.end, cut.steps) == ("7", End.CUT, {1: Ending(StepState.INTENT)})
    (silent,) = read_outcomes(said())
    assert silent == Outcome()


def test_several_transactions_taken_back() -> None:
    newer, older = read_outcomes(
        said(
            "begin\t9",
            "step\t1\tundone\t",
            "end\t9\trolled-back\t",
            "begin\t4",
            "step\t1\tleft\tis 5",
            "end\t4\trolled-back\t",
        )
    )
    assert (newer.transaction, older.transaction) == ("9", "4")
    assert newer.steps == {1: Ending(StepState.UNDONE)}
    assert older.steps == {1: Ending(StepState.LEFT, "is 5")}
    # Of two, the second was cut off.
    assert [each.end for each in read_outcomes(said("begin\t9", "end\t9\trolled-back\t", "begin\t4"))] == [
        End.ROLLED_BACK,
        End.CUT,
    ]


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"Welcome!\n",
        b"hostcheck-tune 2\nend\t-\tnothing\t\n",
        said("reboot\tnow"),
        said("step\t0\tapplied\t"),
        said("step\t1\tperfect\t"),
        said("step\t1\tapplied"),
        said("begin\t../../etc"),
        said("begin\t1", "end\t2\tcommitted\t"),
        said("end\t1\tsplendid\t"),
        said("end\t1\tcommitted\t\textra"),
    ],
)
def test_what_is_none_of_ours(output: bytes) -> None:
    with pytest.raises(HostcheckError):
        read_outcomes(output)


def test_a_journal() -> None:
    found = read_journal(
        "3", JOURNAL + line("2", "intent") + line("2", "made", "/etc/x") + line("2", "applied") + line("0", "committed")
    )
    assert (found.id, found.made, found.tool, found.host) == ("3", "2026-11-21T02:21:29Z", "0.1.0", "gpu01")
    assert (found.boot, found.role, found.end, found.damaged) == ("boot-id", "training", End.COMMITTED, False)
    one, two = found.steps
    assert (one.kind, one.target, one.before, one.after) == (Kind.WRITE, "/proc/sys/vm/swappiness", "60", "10")
    assert (one.scope, one.reload, one.tuner, one.fixes) == (
        Scope.RUNTIME,
        Reload.NOTHING,
        "memory.swap",
        ("a.b", "c.d"),
    )
    assert (one.why, one.state) == ("it helps", StepState.APPLIED)
    assert (two.before, two.after, two.reload, two.tuner, two.fixes) == (None, "a\\b\n\tc\n", Reload.SYSTEMD, "", ())


def test_one_that_has_no_end() -> None:
    assert read_journal("3", JOURNAL).end is End.UNFINISHED
    assert read_journal("3", JOURNAL + line("0", "rolling-back")).end is End.UNFINISHED
    assert read_journal("3", JOURNAL + line("0", "committed"), open=True).end is End.UNFINISHED
    assert read_journal("3", JOURNAL + line("0", "awaiting", "60"), open=True).end is End.AWAITING
    assert read_journal("3", JOURNAL + line("0", "rolled-back", "too late")).why == "too late"


def test_a_journal_cut_at_every_byte() -> None:
    lines = JOURNAL.splitlines(keepends=True)
    ends = {sum(map(len, lines[:number])) for number in range(3, 6)}
    for length in range(len(JOURNAL)):
        found = read_journal("3", JOURNAL[:length])
        # A line whose end alone is missing is whole.
        assert found.damaged == (length not in ends and length + 1 not in ends), length
        assert length >= len(JOURNAL) - 1 or all(step.state is not StepState.APPLIED for step in found.steps)


@pytest.mark.parametrize(
    "bad",
    [
        "1\tapplied\t9 ",
        "1\tapplied",
        "1\tapplied\t٩",
        "9\tapplied\t9",
        "x\tapplied\t9",
        line("1", "gone")[:-1],
        line("0", "splendid")[:-1],
        line("0", "journal", "2", "3")[:-1],
        line(*FIRST[:-1])[:-1],
        line("1", "plan", "rootkit", *FIRST[3:])[:-1],
        line(*FIRST[:4], "60", *FIRST[5:])[:-1],
        "\0\0\0",
    ],
)
def test_a_line_that_makes_no_sense_is_left_out_and_told(bad: str) -> None:
    good = read_journal("3", JOURNAL)
    found = read_journal("3", f"{JOURNAL}{bad}\n")
    assert found.damaged
    assert not good.damaged
    assert found.steps == good.steps


def test_a_history() -> None:
    lines = [f"journal\t{each}" for each in (JOURNAL + line("0", "stopped")).splitlines()]
    one, two = read_history(said("transaction\t1\tclosed", *lines, "transaction\t2\topen", "end\t-\tnothing\t"))
    assert (one.id, one.end, one.damaged, len(one.steps)) == ("1", End.STOPPED, False, 2)
    assert (two.id, two.end, two.damaged, two.steps) == ("2", End.UNFINISHED, True, ())
    assert read_history(said("end\t-\tnothing\tnothing was ever changed here")) == ()


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (said("end\t-\trefused\trun this as root"), "run this as root"),
        (said("transaction\t1\tclosed"), "without its end"),
        (said("journal\tx", "end\t-\tnothing\t"), "none of hostcheck's"),
        (said("transaction\t-1\tclosed", "end\t-\tnothing\t"), "none of hostcheck's"),
    ],
)
def test_a_history_that_cannot_be_trusted(output: bytes, why: str) -> None:
    with pytest.raises(HostcheckError, match=why):
        read_history(output)


def test_bytes_that_are_no_text() -> None:
    whole = b"0\tawaiting\t\xff\xfe"
    output = said("transaction\t1\tclosed", *[f"journal\t{each}" for each in JOURNAL.splitlines()])
    output += b"journal\t" + whole + f"\t{len(whole)}\n".encode() + b"end\t-\tnothing\t\n"
    (found,) = read_history(output)
    assert (found.end, found.why, found.damaged) == (End.AWAITING, "��", False)


pieces = st.sampled_from(
    [b"hostcheck-tune 1\n", b"begin\t", b"step\t", b"end\t", b"transaction\t", b"journal\t", b"\t", b"\n", b"1", b"-",
     b"applied", b"committed", b"open", b"0\tjournal\t1", b"\xff", b"\\", JOURNAL.encode()]
)  # fmt: skip


@given(st.lists(pieces, max_size=30).map(b"".join))
def test_no_answer_raises_anything_but_a_complaint(output: bytes) -> None:
    for read in (read_outcomes, read_history):
        with suppress(HostcheckError):
            read(output)


@given(st.text())
def test_no_journal_raises_anything(text: str) -> None:
    read_journal("1", text)
