"""The run directory: what is kept, what is refused, and that no name leads out of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.checklist import Checklist
from hostcheck.errors import HostcheckError
from hostcheck.fleet.answers import judge_fleet
from hostcheck.fleet.store import Store, file_name
from hostcheck.fleet.targets import Target
from hostcheck.model import fleet_exit_code
from hostcheck.render.fleet import render_fleet
from hostcheck.transport.base import Answer, Reach
from support import HOSTS

GOOD = (HOSTS / "vm-2cpu.tar.gz").read_bytes()
TARGETS = tuple(Target(name, name) for name in ("gpu1", "gpu2", "gpu3"))
DOWN = Answer(reach=Reach.UNREACHABLE, why="no route", seconds=3.0004, attempts=3)


def ok(data: bytes = GOOD) -> Answer:
    return Answer(reach=Reach.OK, out=data, seconds=1.5, sent=10, received=len(data))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "runs" / "one")
    assert store.begin(TARGETS, b"program") == TARGETS
    yield store
    store.close()


def files(store: Store) -> list[str]:
    return sorted(str(path.relative_to(store.path)) for path in store.path.rglob("*") if path.is_file())


def test_an_answer_is_kept_as_it_came_with_its_record(store: Store) -> None:
    store.put("gpu1", ok())
    assert (store.path / "hosts" / "gpu1.tar.gz").read_bytes() == GOOD
    told = json.loads((store.path / "hosts" / "gpu1.json").read_text())
    assert told["name"] == "gpu1"
    assert told["reach"] == "ok"
    assert (told["seconds"], told["sent"], told["received"]) == (1.5, 10, len(GOOD))
    assert told["hostname"]
    assert list(store.archives()) == [("gpu1", store.path / "hosts" / "gpu1.tar.gz")]
    assert store.path.stat().st_mode & 0o077 == 0


def test_who_never_answered_is_absent_and_missing(store: Store) -> None:
    store.put("gpu1", ok())
    store.put("gpu2", DOWN)
    assert [(a.name, a.reach, a.why) for a in store.absent()] == [
        ("gpu2", "unreachable", "no route"),
        ("gpu3", "not asked", "it has not been asked yet, or the run was interrupted"),
    ]
    assert [target.name for target in store.missing(TARGETS)] == ["gpu2", "gpu3"]


@pytest.mark.parametrize("data", [b"", b"hello", GOOD[:-100], GOOD[:200], b"\x1f\x8b" + b"x" * 50])
def test_what_is_no_archive_is_not_kept(store: Store, data: bytes) -> None:
    filed = store.put("gpu1", ok(data))
    assert filed.reach is Reach.ERROR
    assert filed.why.startswith("what it sent is no answer:")
    assert filed.received == len(data)
    assert files(store) == [".lock", "fleet.json", "hosts/gpu1.json"]
    assert next(store.absent()).reach == "error"


def test_a_later_answer_takes_the_place_of_an_absence(store: Store) -> None:
    store.put("gpu1", DOWN)
    store.put("gpu1", ok())
    assert [name for name, _ in store.archives()] == ["gpu1"]
    assert "gpu1" not in [absentee.name for absentee in store.absent()]


def test_an_archive_that_is_gone_is_no_answer(store: Store) -> None:
    store.put("gpu1", ok())
    (store.path / "hosts" / "gpu1.tar.gz").unlink()
    assert list(store.archives()) == []
    assert "is gone" in next(store.absent()).why
    assert store.missing(TARGETS) == TARGETS


def test_a_crash_between_the_two_files_leaves_the_host_missing(store: Store) -> None:
    store.put("gpu1", ok())
    (store.path / "hosts" / "gpu1.json").unlink()
    assert store.missing(TARGETS[:1]) == TARGETS[:1]
    (store.path / "hosts" / "gpu1.json").write_text('{"name": "gpu1", "reach":')
    assert store.missing(TARGETS[:1]) == TARGETS[:1]


def test_a_full_disk_is_one_line_and_leaves_no_half_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(HostcheckError, match="No space left on device"):
        store.put("gpu1", ok())
    assert files(store) == [".lock", "fleet.json"]


def test_resuming_knows_its_hosts_and_takes_further_ones(store: Store) -> None:
    store.put("gpu1", ok())
    store.close()
    again = Store(store.path)
    more = Target("gpu9", "10.0.0.9", "root", 22, ("rack1",), {"ansible_connection": "local", "secret": "x"})
    assert again.begin((), b"program", resume=True) == TARGETS
    assert again.begin((more,), b"program", resume=True) == (more,)
    again.close()
    assert "secret" not in (store.path / "fleet.json").read_text()
    last = Store(store.path)
    known = last.begin((), b"program", resume=True)
    last.close()
    assert known[:3] == TARGETS
    assert (known[3].address, known[3].user, known[3].port, known[3].groups) == ("10.0.0.9", "root", 22, ("rack1",))
    assert known[3].variables == {"ansible_connection": "local"}
    assert [target.name for target in last.missing(known)] == ["gpu2", "gpu3", "gpu9"]


def test_another_program_is_refused_unless_asked(store: Store) -> None:
    store.close()
    with pytest.raises(HostcheckError, match=r"another program.*--mixed"):
        Store(store.path).begin((), b"other", resume=True)
    mixed = Store(store.path)
    mixed.begin((), b"other", resume=True, mixed=True)
    mixed.close()
    digests = [hashlib.sha256(program).hexdigest() for program in (b"program", b"other")]
    assert json.loads((store.path / "fleet.json").read_text())["programs"] == sorted(digests)
    with pytest.raises(HostcheckError, match="another program"):
        Store(store.path).begin((), b"program", resume=True)


def test_a_directory_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(HostcheckError, match="something in it already"):
        Store(tmp_path).begin(TARGETS, b"program")
    with pytest.raises(HostcheckError, match=r"no fleet\.json"):
        Store(tmp_path).begin((), b"program", resume=True)
    with pytest.raises(HostcheckError, match=r"no fleet\.json"):
        Store(tmp_path).targets()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "a-file").write_text("")
    with pytest.raises(HostcheckError):
        Store(tmp_path / "a-file").begin(TARGETS, b"program")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{", '{"schema": 1}', "[" * 100_000,
     '{"schema": "1", "programs": [], "targets": [], "tool": "", "started": ""}',
     '{"schema": 1, "programs": [], "targets": [{"name": 1}], "tool": "", "started": ""}'],
)  # fmt: skip
def test_a_broken_record_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "fleet.json").write_text(text)
    with pytest.raises(HostcheckError, match="broken"):
        Store(tmp_path).targets()
    with pytest.raises(HostcheckError, match="broken"):
        Store(tmp_path).begin((), b"", resume=True)


def test_a_newer_record_is_refused(store: Store) -> None:
    about = store.path / "fleet.json"
    about.write_text(about.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(HostcheckError, match="newer hostcheck"):
        store.targets()


def test_two_writers_at_once_are_refused(store: Store) -> None:
    with pytest.raises(HostcheckError, match="another hostcheck is writing"):
        Store(store.path).begin((), b"program", resume=True)


def test_answers_without_a_list_of_hosts_are_shown(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("gpu1", ok())
    store.put("odd name", DOWN)
    assert [name for name, _ in store.archives()] == ["gpu1"]
    assert [absentee.name for absentee in store.absent()] == ["odd name"]


@pytest.mark.parametrize(
    "text",
    [None, "", "{", "[]", "{}", '{"name": 5, "reach": "ok"}', '{"name": null}', '{"name": "gpu2", "reach": "ok"}'],
)
@pytest.mark.parametrize("name", ["gpu1", "gpu1:2222", "x" * 200])
def test_a_record_that_cannot_be_read_hides_no_host(tmp_path: Path, name: str, text: str | None) -> None:
    store = Store(tmp_path)
    store.put("gpu2", ok())
    store.put(name, ok())
    record = tmp_path / "hosts" / f"{file_name(name)}.json"
    record.unlink()
    if text is not None:
        record.write_text(text)
    assert [host for host, _ in store.archives()] == ["gpu2"]
    (absent,) = store.absent()
    if len(name) < 100:
        assert (absent.name, absent.reach) == (name, "error")
        assert absent.why == f"its record is missing or cannot be read: {record}"
    assert fleet_exit_code(judge_fleet(store, Checklist(only=("memory.swappiness",)))) != 0
    store.put(name, ok())
    assert sorted(host for host, _ in store.archives()) == sorted(["gpu2", name])


def test_a_name_that_is_no_text_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "hosts").mkdir()
    for file in (b"a\xff.json", b"%ff.tar.gz", b".tar.gz", b".json"):
        (tmp_path / "hosts" / os.fsdecode(file)).write_text("x")
    fleet = judge_fleet(Store(tmp_path), Checklist(only=("memory.swappiness",)))
    assert len(fleet.absent) == 2
    assert "%ff" in render_fleet(fleet, "json")
    assert "%ff" in render_fleet(fleet, "text")


def test_names_that_are_alike_as_files_do_not_take_each_others_place(store: Store) -> None:
    store.put("a/b", ok())
    store.put("a%2fb", DOWN)
    assert [name for name, _ in store.archives()] == ["a/b"]
    assert "a%2fb" in [absentee.name for absentee in store.absent()]


@given(st.text(max_size=300))
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    stem = file_name(name)
    assert stem
    assert not set(stem) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-%")
    assert not stem.startswith(".")
    assert len(stem) <= 180


@given(st.lists(st.text(max_size=220), unique=True, max_size=8))
def test_different_names_are_different_files(names: list[str]) -> None:
    assert len({file_name(name) for name in names}) == len(names)
