"""For any plan, apply and roll back is the identity; and whatever happens in between is either untouched or reported.

The host is a folder; the shell and the program that changes it are the real ones.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hostcheck.tuning.change import Change, Kind
from hostcheck.tuning.journal import End, StepState
from hostcheck.tuning.kinds import fault
from hostcheck.tuning.program import apply_program, recover_program, rollback_program
from tunelab import Host, change, made_up, plan

SETTINGS = [f"/proc/sys/test/{name}" for name in ("a", "b", "c d", "e'f")]
FILES = [f"/etc/sysctl.d/90-hostcheck-{name}.conf" for name in "xyz"]
# A kernel setting is what a file of the kernel would give back: no blanks around, and no line breaks.
VALUES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), min_size=1, max_size=12
) | st.sampled_from(
    ["0", "-1", "00", "1 2\t3", "$(touch ran)", "`reboot`", "'; rm -rf /", '"', "\\", "\\n", "*", "-n", "%s", "=", "-"]
)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=60) | VALUES
MANY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("property")
    made_up(folder / "pristine", ["dash"])
    return folder


@st.composite
def situations(draw: st.DrawFn) -> tuple[dict[str, str | None], list[Change]]:
    """What stands on a host, and a plan that knows it: settings and files, each at most once."""
    stands: dict[str, str | None] = {path: draw(VALUES) for path in SETTINGS}
    stands |= {path: draw(st.none() | TEXTS) for path in FILES}
    changes = []
    for path in draw(st.lists(st.sampled_from([*SETTINGS, *FILES]), unique=True, min_size=1, max_size=6)):
        if path in FILES:
            changes.append(change(Kind.FILE, path, stands[path], draw(st.none() | TEXTS)))
        else:
            changes.append(change(Kind.WRITE, path, stands[path], draw(VALUES)))
    assume(not any(map(fault, changes)))
    return stands, changes


def fresh(lab: Path, stands: dict[str, str | None]) -> Host:
    """Return a new copy of the host with these things on it."""
    root = lab / "root"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(lab / "pristine/root", root, symlinks=True)
    host = Host(root, lab / "pristine/bin")
    for path, text in stands.items():
        if text is not None:
            target = host.put(path, "")
            target.write_bytes(text.encode() + (b"" if path in FILES else b"\n"))
    return host


def at(host: Host, path: str) -> str | None:
    found = host.root / path[1:]
    if not found.exists():
        return None
    text = found.read_bytes().decode()
    return text if path in FILES else text.removesuffix("\n")


@MANY
@given(situations())
def test_apply_and_rollback_is_the_identity(lab: Path, situation: tuple[dict[str, str | None], list[Change]]) -> None:
    stands, changes = situation
    host = fresh(lab, stands)
    before = host.state()
    done = host.run(apply_program(plan(*changes)))
    assert done.outcome.end is End.COMMITTED, (done.outcome, done.err)
    for each in changes:
        assert at(host, each.target) == each.after
    untouched = set(stands) - {each.target for each in changes}
    for path in untouched:
        assert at(host, path) == stands[path]
    assert host.run(apply_program(plan(*changes))).outcome.end is End.NOTHING
    assert host.run(rollback_program()).outcome.end is End.ROLLED_BACK
    assert host.state() == before
    assert host.run(rollback_program()).outcome.end is End.NOTHING
    assert host.state() == before
    assert not list(lab.rglob("ran"))


@MANY
@given(situations(), st.integers(0, 5), VALUES)
def test_what_moved_before_stops_everything_and_is_named(
    lab: Path, situation: tuple[dict[str, str | None], list[Change]], which: int, other: str
) -> None:
    stands, changes = situation
    host = fresh(lab, stands)
    moved = changes[which % len(changes)]
    assume(other not in (moved.before, moved.after) and "".join(other.split()).strip("0,"))
    host.put(moved.target, "").write_bytes(other.encode() + (b"" if moved.kind is Kind.FILE else b"\n"))
    before = host.state()
    outcome = host.run(apply_program(plan(*changes))).outcome
    assert outcome.end is End.REFUSED
    assert outcome.steps[changes.index(moved) + 1].state is StepState.MOVED
    assert host.state() == before


@MANY
@given(situations(), st.integers(0, 5), VALUES)
def test_what_somebody_changed_since_stays_and_is_named(
    lab: Path, situation: tuple[dict[str, str | None], list[Change]], which: int, other: str
) -> None:
    stands, changes = situation
    host = fresh(lab, stands)
    assert host.run(apply_program(plan(*changes))).outcome.end is End.COMMITTED
    theirs = changes[which % len(changes)]
    assume(other not in (theirs.before, theirs.after) and "".join(other.split()).strip("0,"))
    host.put(theirs.target, "").write_bytes(other.encode() + (b"" if theirs.kind is Kind.FILE else b"\n"))
    outcome = host.run(rollback_program()).outcome
    assert outcome.steps[changes.index(theirs) + 1].state is StepState.LEFT
    assert at(host, theirs.target) == other
    for each in changes:
        if each is not theirs:
            assert at(host, each.target) == each.before


@MANY
@given(situations(), st.integers(1, 60), st.integers(1, 40))
def test_killed_anywhere_even_while_recovering_everything_comes_back(
    lab: Path, situation: tuple[dict[str, str | None], list[Change]], first: int, second: int
) -> None:
    stands, changes = situation
    host = fresh(lab, stands)
    before = host.state()
    done = host.run(apply_program(plan(*changes)), kill_at=first)
    host.run(recover_program(), kill_at=second)
    last = host.run(recover_program())
    assert last.outcome.end in (End.NOTHING, End.ROLLED_BACK, End.COMMITTED), (done.err, last.err)
    if any(at(host, each.target) != each.before for each in changes):
        assert all(at(host, each.target) == each.after for each in changes), "all of it, or nothing"
        host.run(rollback_program())
    assert host.state() == before
    assert host.run(recover_program()).outcome.end is End.NOTHING
