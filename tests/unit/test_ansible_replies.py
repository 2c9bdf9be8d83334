"""What comes back through Ansible's raw module, hostile or broken, and how it is named."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.audit import probes_for
from hostcheck.checklist import Checklist
from hostcheck.fleet.replies import MOST, answer, file_replies
from hostcheck.fleet.store import Store
from hostcheck.snapshot.program import program
from hostcheck.transport.base import Reach
from support import HOSTS

ARCHIVE = (HOSTS / "vm-2cpu.tar.gz").read_bytes()
VARS = yaml.safe_load((Path(__file__).parents[2] / "ansible/roles/audit/vars/main.yml").read_text())


def framed(archive: bytes = ARCHIVE, said: str = "", newline: str = "\n", before: str = "") -> dict[str, Any]:
    body = base64.encodebytes(archive).decode()
    text = f"{before}\nhostcheck:begin 10.50\n{body}\nhostcheck:said\n{said}\nhostcheck:end 12.75\n"
    return {"host": "a", "stdout": text.replace("\n", newline)}


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["pipe", "terminal"])
@pytest.mark.parametrize("before", ["", "Welcome to the machine", "hostcheck:begin of my profile\nhostcheck:said"])
def test_an_archive_survives_a_terminal_and_a_talkative_profile(newline: str, before: str) -> None:
    found = answer(framed(newline=newline, before=before))
    assert (found.reach, found.why) == (Reach.OK, "")
    assert found.out == ARCHIVE
    assert found.seconds == 2.25


def test_complaints_do_not_spoil_a_good_archive() -> None:
    assert answer(framed(said="tar: /x: file changed as we read it")).reach is Reach.OK


@pytest.mark.parametrize(
    ("reply", "reach", "told"),
    [
        ({"unreachable": True, "msg": "Task failed: Connection refused"}, Reach.UNREACHABLE, "Connection refused"),
        ({"unreachable": True, "msg": "me@a: Permission denied (publickey)."}, Reach.DENIED, "publickey"),
        ({"unreachable": True, "msg": "Host key verification failed."}, Reach.HOST_KEY, "verification"),
        ({"unreachable": True}, Reach.UNREACHABLE, "no connection"),
        ({"timedout": True, "msg": "Timed out after 2 second(s)."}, Reach.TIMEOUT, "no answer"),
        ({"too_much": True}, Reach.TOO_MUCH, "32 MiB"),
        ({"msg": "Task failed: Missing sudo password"}, Reach.PRIVILEGE, "NOPASSWD"),
        ({"stdout": "This account is currently not available.\r\n"}, Reach.SHELL, "currently not available"),
        ({"stdout": "", "stderr": "Connection to 10.0.0.1 closed.\r\n"}, Reach.SHELL, "says: nothing"),
        ({}, Reach.SHELL, "nothing"),
        ({"stdout": framed()["stdout"][:2000]}, Reach.CUT, "in the middle"),
        (framed(b"", said="sh: base64: not found"), Reach.SHELL, "base64: not found"),
        (framed(b"", said="hostcheck: no folder can be written"), Reach.ERROR, "no folder"),
        (framed(ARCHIVE[:-100]), Reach.ERROR, "cut off"),
        (framed(b"\0" * (MOST + 1)), Reach.TOO_MUCH, "32 MiB"),
        (framed(b"not an archive"), Reach.ERROR, "archive"),
        ({"stdout": framed()["stdout"].replace("H4s", "!!!")}, Reach.ERROR, "not base64"),
        ({"stdout": 5, "msg": ["x"]}, Reach.SHELL, "nothing"),
    ],
)  # fmt: skip
def test_each_bad_ending_has_its_name_and_reason(reply: dict[str, Any], reach: Reach, told: str) -> None:
    found = answer(reply)
    assert found.reach is reach
    assert told in found.why
    assert found.out == b""


def test_what_a_host_says_cannot_act_on_a_terminal() -> None:
    found = answer({"stdout": "\x1b[2Jgone\u202e\n" * 1000})
    assert found.why.isprintable()
    assert len(found.why) < 500


BEGIN, END = "\nhostcheck:begin 1\n", "\nhostcheck:said\nhostcheck:end 2\n"


@given(st.text(), st.sampled_from(["", BEGIN]), st.sampled_from(["", END]))
def test_no_reply_raises_or_passes(noise: str, begin: str, end: str) -> None:
    found = answer({"stdout": f"{begin}{noise}{end}", "stderr": noise, "msg": noise})
    assert found.reach is not Reach.OK
    assert found.why
    assert found.seconds >= 0


def test_a_reply_full_of_markers_is_read_in_linear_time() -> None:
    text = "\nhostcheck:begin 1\n" + "hostcheck:said\n\nhostcheck:begin 1\n" * 200_000
    assert answer({"stdout": text}).reach is Reach.CUT


def test_the_program_of_every_probe_fits_into_one_word_of_a_command_line() -> None:
    encoded = base64.b64encode(program(probes_for(Checklist())).encode())
    assert len(encoded) + 1000 < VARS["audit_carry_most"]


def test_both_ends_cut_at_the_same_size() -> None:
    assert VARS["audit_most"] == MOST


def write_reply(folder: Path, number: int, reply: object) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{number}.json").write_text(reply if isinstance(reply, str) else json.dumps(reply))


def test_replies_are_filed_once_and_no_host_is_forgotten(tmp_path: Path) -> None:
    write_reply(tmp_path / "replies", 1, framed())
    write_reply(tmp_path / "replies", 2, {"host": "../../evil", "unreachable": True, "msg": "Connection refused"})
    write_reply(tmp_path / "replies", 3, '{"host": "cut')
    write_reply(tmp_path / "replies", 4, ["no reply"])
    (tmp_path / "asked.json").write_text('["a", "../../evil", "lost"]')
    assert file_replies(tmp_path) == 2
    store = Store(tmp_path)
    assert [name for name, _ in store.archives()] == ["a"]
    absent = {absentee.name: absentee for absentee in store.absent()}
    assert absent["../../evil"].reach == "unreachable"
    assert "no reply" in absent["lost"].why
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hosts"]
    assert file_replies(tmp_path) == 0
