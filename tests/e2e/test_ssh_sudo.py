"""Becoming root through sudo: who may, who is refused and why, and that a password goes to sudo alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import sshlab
from hostcheck.transport.base import Reach
from sshlab import PASSWORD, Lab, ask, refused, uid


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    sshlab.require()
    with sshlab.lab() as built:
        built.host("main")
        yield built


@pytest.mark.parametrize("user", ["sudoer", "root"])
def test_the_program_becomes_root(lab: Lab, user: str) -> None:
    assert uid(ask(lab.main.address, lab.config, user=user, become=True)) == 0
    assert uid(ask(lab.main.address, lab.config, user=user, become=True, become_password=lambda: PASSWORD)) == 0


def test_sudo_wants_a_password(lab: Lab) -> None:
    refused(ask(lab.main.address, lab.config, user="asker", become=True), Reach.PRIVILEGE, "sudo wants a password")


def test_sudo_gets_its_password_on_standard_input_alone(lab: Lab) -> None:
    seen = set()

    def password() -> str:
        for pid in lab.main.pids():
            seen.add(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" "))
        return PASSWORD

    answer = ask(lab.main.address, lab.config, user="asker", become=True, become_password=password)
    assert uid(answer) == 0
    assert any(b"sudo -S -p" in line for line in seen)
    assert not any(PASSWORD.encode() in line for line in seen)
    assert PASSWORD not in lab.main.log


def test_sudo_gets_a_wrong_password_once(lab: Lab) -> None:
    answer = ask(lab.main.address, lab.config, user="asker", become=True, become_password=lambda: f"not {PASSWORD}")
    refused(answer, Reach.PRIVILEGE, "sudo did not accept the password")


def test_a_password_that_sudo_does_not_ask_for_is_never_sent(lab: Lab) -> None:
    def password() -> str:
        raise AssertionError("nobody wants to know")

    assert uid(ask(lab.main.address, lab.config, user="sudoer", become=True, become_password=password)) == 0


def test_sudo_wants_a_terminal(lab: Lab) -> None:
    for given in (None, lambda: PASSWORD):
        answer = ask(lab.main.address, lab.config, user="ttyonly", become=True, become_password=given)
        refused(answer, Reach.PRIVILEGE, "sudo wants a terminal", "requiretty", "visudo")


def test_sudo_refuses(lab: Lab) -> None:
    for given in (None, lambda: PASSWORD):
        answer = ask(lab.main.address, lab.config, user="plain", become=True, become_password=given)
        refused(answer, Reach.PRIVILEGE, "sudo")


def test_sudo_is_not_there(lab: Lab) -> None:
    folder = lab.folder / "nosudo"
    folder.mkdir()
    for tool in ("sh", "env"):
        (folder / tool).symlink_to(f"/usr/bin/{tool}")
    host = lab.host("nosudo", sshd=[f"SetEnv PATH={folder}"])
    answer = ask(host.address, lab.config, user="sudoer", become=True)
    refused(answer, Reach.PRIVILEGE, "sudo is not installed there")


def test_an_account_without_a_shell_is_no_matter_of_sudo(lab: Lab) -> None:
    refused(ask(lab.main.address, lab.config, user="noshell", become=True), Reach.SHELL, "did not start")
