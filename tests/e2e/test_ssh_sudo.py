"""Becoming root through sudo: who may, who is refused and why, and that a password goes to sudo alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import sshlab
from hostcheck.snapshot.archive import read_archive
from hostcheck.snapshot.probes import FileProbe
from hostcheck.snapshot.program import program
from hostcheck.transport.base import Answer, Reach
from sshlab import PASSWORD, Host, Lab, refused

TEXT = program([FileProbe("memory.vm", ("/proc/sys/vm/swappiness",))]).encode()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    sshlab.require()
    with sshlab.lab() as built:
        built.host("main")
        yield built


@pytest.fixture
def main(lab: Lab) -> Host:
    return lab.hosts["main"]


def ask(address: str, config: Path, **further: object) -> Answer:
    return sshlab.ask(address, config, TEXT, **further)  # type: ignore[arg-type]


def uid(answer: Answer) -> int:
    assert answer.reach is Reach.OK, answer.why
    return read_archive(answer.out).manifest.uid


@pytest.mark.parametrize("user", ["sudoer", "root"])
def test_the_program_becomes_root(lab: Lab, main: Host, user: str) -> None:
    assert uid(ask(main.address, lab.config, user=user, become=True)) == 0
    assert uid(ask(main.address, lab.config, user=user, become=True, become_password=lambda: PASSWORD)) == 0


def test_sudo_wants_a_password(lab: Lab, main: Host) -> None:
    refused(ask(main.address, lab.config, user="asker", become=True), Reach.PRIVILEGE, "sudo wants a password")


def test_sudo_gets_its_password_on_standard_input_alone(lab: Lab, main: Host) -> None:
    seen = set()

    def password() -> str:
        for pid in main.pids():
            seen.add(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" "))
        return PASSWORD

    answer = ask(main.address, lab.config, user="asker", become=True, become_password=password)
    assert uid(answer) == 0
    assert any(b"sudo -S -p" in line for line in seen)
    assert not any(PASSWORD.encode() in line for line in seen)
    assert PASSWORD not in main.log


def test_sudo_gets_a_wrong_password_once(lab: Lab, main: Host) -> None:
    answer = ask(main.address, lab.config, user="asker", become=True, become_password=lambda: f"not {PASSWORD}")
    refused(answer, Reach.PRIVILEGE, "sudo did not accept the password")


def test_a_password_that_sudo_does_not_ask_for_is_never_sent(lab: Lab, main: Host) -> None:
    def password() -> str:
        raise AssertionError("nobody wants to know")

    assert uid(ask(main.address, lab.config, user="sudoer", become=True, become_password=password)) == 0


def test_sudo_wants_a_terminal(lab: Lab, main: Host) -> None:
    for given in (None, lambda: PASSWORD):
        answer = ask(main.address, lab.config, user="ttyonly", become=True, become_password=given)
        refused(answer, Reach.PRIVILEGE, "sudo wants a terminal", "requiretty", "visudo")


def test_sudo_refuses(lab: Lab, main: Host) -> None:
    for given in (None, lambda: PASSWORD):
        answer = ask(main.address, lab.config, user="plain", become=True, become_password=given)
        refused(answer, Reach.PRIVILEGE, "sudo")


def test_sudo_is_not_there(lab: Lab) -> None:
    folder = lab.folder / "nosudo"
    folder.mkdir()
    for tool in ("sh", "env"):
        (folder / tool).symlink_to(f"/usr/bin/{tool}")
    host = lab.host("nosudo", sshd=[f"SetEnv PATH={folder}"])
    answer = ask(host.address, lab.config, user="sudoer", become=True)
    refused(answer, Reach.PRIVILEGE, "sudo is not installed there")


def test_an_account_without_a_shell_is_no_matter_of_sudo(lab: Lab, main: Host) -> None:
    refused(ask(main.address, lab.config, user="noshell", become=True), Reach.SHELL, "did not start")
