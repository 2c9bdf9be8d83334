"""Host keys, keys, agents, certificates, passwords and proxies, through a real sshd."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import sshlab
from hostcheck.transport.base import Reach
from sshlab import PASSWORD, Host, Lab, ask, keygen, refused, uid


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    sshlab.require()
    with sshlab.lab() as built:
        built.host(
            "main", sshd=["PasswordAuthentication yes", f"TrustedUserCAKeys {built.folder}/ca.pub", "MaxAuthTries 4"]
        )
        keygen("ed25519", built.folder / "ca")
        keygen("ed25519", built.folder / "stranger")
        yield built


def mine(lab: Lab, text: str, *, user: str = "root") -> Path:
    """Write a configuration that holds only what a test says."""
    number = len(list(lab.folder.glob("mine*")))
    path = lab.folder / f"mine{number}"
    path.write_text(
        f"{text}\nHost *\n  User {user}\n  IdentityAgent none\n  GlobalKnownHostsFile none\n"
        f"  UserKnownHostsFile {lab.known_hosts}\n  IdentityFile none\n"
    )
    return path


def print_of(host: Host) -> str:
    return sshlab.call("ssh-keygen", "-lf", host.folder / "host_key.pub").split()[1]


# Host keys


def test_an_unknown_host_key_is_refused_and_named(lab: Lab) -> None:
    host = lab.host("unknown", known=False)
    answer = ask(host.address, lab.config)
    refused(
        answer,
        Reach.HOST_KEY,
        "not known",
        f"ED25519 key {print_of(host)}",
        f"ssh-keyscan {host.address} >>{lab.known_hosts}",
    )
    # What it says to do helps.
    scanned = subprocess.run(["ssh-keyscan", host.address], capture_output=True, check=True).stdout
    with lab.known_hosts.open("ab") as file:
        file.write(scanned)
    assert uid(ask(host.address, lab.config)) == 0


@pytest.mark.parametrize("hashed", ["yes", "no"])
def test_an_unknown_host_key_is_kept_where_the_user_says_so(lab: Lab, hashed: str) -> None:
    host = lab.host("new", known=False)
    known = lab.folder / f"kept-{hashed}"
    config = lab.write_config(f"UserKnownHostsFile {known}\nHashKnownHosts {hashed}", name=f"config-{hashed}")
    assert uid(ask(host.address, config, accept_new=True)) == 0
    assert (host.address in known.read_text()) is (hashed == "no")
    assert known.stat().st_mode & 0o777 == 0o600
    assert uid(ask(host.address, config)) == 0
    assert len(known.read_text().splitlines()) == 1
    assert sshlab.call("ssh-keygen", "-F", host.address, "-f", known)


@pytest.mark.parametrize("extra", ["", "StrictHostKeyChecking no\n"])
def test_a_changed_host_key_is_always_refused(lab: Lab, extra: str) -> None:
    host = lab.host("changed", known=False)
    known = lab.folder / f"changed{len(extra)}"
    other = keygen("ed25519", lab.folder / f"other{len(extra)}")
    public = other.with_suffix(".pub").read_text().split()
    known.write_text(f"# a comment\n{host.address} {public[0]} {public[1]}\n")
    config = lab.write_config(f"{extra}UserKnownHostsFile {known}", name="config-changed")
    answer = ask(host.address, config, accept_new=True)
    refused(
        answer, Reach.HOST_KEY, "changed", print_of(host), f"{known}:2", f"ssh-keygen -R '{host.address}' -f {known}"
    )
    assert answer.attempts == 1
    sshlab.call("ssh-keygen", "-R", host.address, "-f", known)
    assert uid(ask(host.address, config, accept_new=True)) == 0


def test_a_key_of_another_type_is_a_changed_key(lab: Lab) -> None:
    host = lab.host("retyped", known=False)
    other = keygen("ecdsa", lab.folder / "retyped_key")
    lab.know(host, key=other)
    refused(ask(host.address, lab.config, accept_new=True), Reach.HOST_KEY, "changed")


def test_the_known_type_of_key_is_asked_for(lab: Lab) -> None:
    keygen("rsa", lab.folder / "rsa_key", "-b", "2048")
    host = lab.host("manykeys", sshd=[f"HostKey {lab.folder}/rsa_key"], known=False)
    lab.know(host, key=lab.folder / "rsa_key")
    assert uid(ask(host.address, lab.config)) == 0


def test_a_revoked_key_is_refused(lab: Lab) -> None:
    host = lab.host("revoked")
    public = (host.folder / "host_key.pub").read_text().split()
    with lab.known_hosts.open("a") as file:
        file.write(f"@revoked * {public[0]} {public[1]}\n")
    refused(ask(host.address, lab.config, accept_new=True), Reach.HOST_KEY, "revoked")


@pytest.mark.parametrize(
    ("name", "further", "inside"),
    [
        ("good", ("-n", "{address}"), True),
        ("othername", ("-n", "elsewhere"), False),
        ("expired", ("-n", "{address}", "-V", "20200101:20210101"), False),
        ("nameless", (), False),
    ],
)
def test_an_authority_vouches_for_a_host(lab: Lab, name: str, further: tuple[str, ...], inside: bool) -> None:
    host = lab.host(f"ca-{name}", sshd=[f"HostCertificate {lab.folder}/hosts/ca-{name}/host_key-cert.pub"],
                    known=False, listen=False)  # fmt: skip
    words = [word.format(address=host.address) for word in further]
    sshlab.call("ssh-keygen", "-q", "-s", lab.folder / "ca", "-I", "id", "-h", *words, host.folder / "host_key.pub")
    lab.start(host)
    authority = (lab.folder / "ca.pub").read_text().split()
    known = lab.folder / "known-ca"
    known.write_text(f"@cert-authority 198.18.* {authority[0]} {authority[1]}\n")
    answer = ask(host.address, lab.write_config(f"UserKnownHostsFile {known}", name="config-ca"))
    if inside:
        assert uid(answer) == 0
    else:
        refused(answer, Reach.HOST_KEY, "not known")


def test_an_alias_and_a_port_have_their_own_keys(lab: Lab) -> None:
    host = lab.host("aliased", known=False, sshd=["Port 22", "Port 2222"])
    lab.know(host, name="rack1-node1")
    config = lab.write_config("HostKeyAlias rack1-node1", name="config-alias")
    assert uid(ask(host.address, config)) == 0
    refused(ask(host.address, lab.config, port=2222), Reach.HOST_KEY, f"ssh-keyscan -p 2222 {host.address}")
    lab.know(host, name=f"[{host.address}]:2222")
    assert uid(ask(host.address, lab.config, port=2222)) == 0


# Logins


def test_a_wrong_key(lab: Lab) -> None:
    config = mine(lab, f"IdentityFile {lab.folder}/stranger")
    answer = ask(lab.main.address, config)
    refused(answer, Reach.DENIED, f"does not let root in with {lab.folder}/stranger", "asks for: publickey, password")
    assert answer.attempts == 1


def test_no_key_at_all(lab: Lab) -> None:
    refused(ask(lab.main.address, mine(lab, "")), Reach.DENIED, "no key to log in with as root", "ssh-add")


def test_a_key_that_is_not_there_is_told(lab: Lab) -> None:
    answer = ask(lab.main.address, mine(lab, "IdentityFile /no/such/key"))
    refused(answer, Reach.DENIED, "/no/such/key: No such file or directory")


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
def test_each_kind_of_key(lab: Lab, kind: str) -> None:
    key = keygen(kind, lab.folder / f"kind_{kind}")
    with (lab.folder / "authorized_keys").open("a") as file:
        file.write(key.with_suffix(".pub").read_text())
    assert uid(ask(lab.main.address, mine(lab, f"IdentityFile {lab.folder}/kind_{kind}"))) == 0


@pytest.fixture
def agent(lab: Lab) -> Iterator[str]:
    path = str(lab.folder / f"agent{time.monotonic_ns()}")
    running = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    while not Path(path).exists():
        time.sleep(0.01)
    yield path
    running.terminate()
    running.wait()


def add(agent: str, key: Path, passphrase: str = "") -> None:
    helper = key.with_name("askpass")
    helper.write_text(f"#!/bin/sh\necho '{passphrase}'\n")
    helper.chmod(0o700)
    environment = {**os.environ, "SSH_AUTH_SOCK": agent, "SSH_ASKPASS": str(helper), "SSH_ASKPASS_REQUIRE": "force"}
    subprocess.run(["ssh-add", "-q", key], env=environment, check=True, stdin=subprocess.DEVNULL)


def test_a_locked_key_is_used_through_the_agent(lab: Lab, agent: str) -> None:
    key = lab.folder / "locked"
    if not key.exists():
        sshlab.call("ssh-keygen", "-q", "-t", "ed25519", "-N", "secret words", "-f", key)
        with (lab.folder / "authorized_keys").open("a") as file:
            file.write(key.with_suffix(".pub").read_text())
    refused(ask(lab.main.address, mine(lab, f"IdentityFile {key}")), Reach.DENIED, "has a passphrase", "ssh-add")
    add(agent, key, "secret words")
    config = f"IdentityAgent {agent}\nIdentitiesOnly yes\nIdentityFile "
    assert uid(ask(lab.main.address, mine(lab, f"{config}{key}"))) == 0
    assert uid(ask(lab.main.address, mine(lab, f"{config}{key}.pub"))) == 0


def test_only_the_named_key_of_a_full_agent_is_offered(lab: Lab, agent: str) -> None:
    for number in range(6):
        add(agent, keygen("ed25519", lab.folder / f"crowd{number}"))
    add(agent, lab.key)
    crowded = ask(lab.main.address, mine(lab, f"IdentityAgent {agent}"))
    refused(crowded, Reach.DENIED, "closed the connection after the agent's crowd0", "IdentitiesOnly")
    only = f"IdentityAgent {agent}\nIdentitiesOnly yes\nIdentityFile {lab.key}.pub"
    assert uid(ask(lab.main.address, mine(lab, only))) == 0
    # Named keys come first, without IdentitiesOnly too.
    assert uid(ask(lab.main.address, mine(lab, f"IdentityAgent {agent}\nIdentityFile {lab.key}"))) == 0


def test_an_agent_that_is_gone_is_told(lab: Lab) -> None:
    answer = ask(lab.main.address, mine(lab, "IdentityAgent /no/agent"))
    refused(answer, Reach.DENIED, "agent at /no/agent does not answer")


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_a_certificate_lets_a_key_in(lab: Lab, kind: str, beside: bool) -> None:
    key = keygen(kind, lab.folder / f"cert{kind}{beside}")
    sshlab.call("ssh-keygen", "-q", "-s", lab.folder / "ca", "-I", "me", "-n", "root", f"{key}.pub")
    certificate = key.with_name(f"{key.name}-cert.pub")
    text = f"IdentityFile {key}"
    if not beside:
        text += f"\nCertificateFile {certificate.rename(lab.folder / f'elsewhere-{kind}.pub')}"
    assert uid(ask(lab.main.address, mine(lab, text))) == 0


def test_a_certificate_goes_with_a_key_of_the_agent(lab: Lab, agent: str) -> None:
    key = keygen("ed25519", lab.folder / "agentcert")
    sshlab.call("ssh-keygen", "-q", "-s", lab.folder / "ca", "-I", "me", "-n", "root", f"{key}.pub")
    add(agent, key)
    key.unlink()
    text = f"IdentityAgent {agent}\nIdentityFile {key}\nCertificateFile {key}-cert.pub"
    assert uid(ask(lab.main.address, mine(lab, text))) == 0


def test_a_password_is_asked_for_only_when_it_helps(lab: Lab) -> None:
    asked = []

    def password() -> str:
        asked.append(1)
        return PASSWORD

    assert uid(ask(lab.main.address, lab.config, user="asker", password=password)) > 0
    assert not asked
    assert uid(ask(lab.main.address, mine(lab, "", user="asker"), password=password)) > 0
    assert len(asked) == 1
    wrong = ask(lab.main.address, mine(lab, "", user="asker"), password=lambda: f"not {PASSWORD}")
    refused(wrong, Reach.DENIED, "does not let asker in with the password")


# The configuration, on the way


def test_a_jump_host_and_a_chain(lab: Lab) -> None:
    first, second, last = (lab.host(name) for name in ("jump1", "jump2", "far"))
    # Nobody but the second jump host may talk to the last one.
    sshlab.call("ip", "-n", last.namespace, "route", "add", "blackhole", f"{lab.address(254)}/32")
    refused(ask(last.address, lab.config, connect_seconds=1), Reach.UNREACHABLE, "no answer")
    one = lab.write_config(f"Host far\n  HostName {last.address}\n  ProxyJump {second.address}", name="jump")
    assert uid(ask("far", one)) == 0
    text = f"Host far\n  HostName {last.address}\n  ProxyJump plain@j1,j2:22\n"
    chain = lab.write_config(
        f"{text}Host j1\n  HostName {first.address}\nHost j2\n  HostName {second.address}", name="chain"
    )
    assert uid(ask("far", chain)) == 0
    assert "Accepted publickey for plain" in first.log
    text += f"Host j1\n  HostName {first.address}\nHost j2\n  HostName {lab.host('nojump', listen=False).address}"
    refused(ask("far", lab.write_config(text, name="broken")), Reach.UNREACHABLE, "jump host j2", "does not reach")


def test_jump_hosts_in_a_circle(lab: Lab) -> None:
    config = lab.write_config("Host a\n  ProxyJump b\nHost b\n  ProxyJump a", name="circle")
    refused(ask("a", config), Reach.ERROR, "jump host b", "circle")


def test_the_key_of_a_jump_host_is_checked_too(lab: Lab) -> None:
    jump = lab.host("strangejump", known=False)
    config = lab.write_config(f"Host {lab.main.address}\n  ProxyJump {jump.address}", name="strange")
    refused(ask(lab.main.address, config), Reach.HOST_KEY, f"jump host {jump.address}", print_of(jump))


def test_a_proxy_command(lab: Lab) -> None:
    text = f"Host x\n  HostName {lab.main.address}\n  ProxyCommand busybox nc %h %p"
    config = lab.write_config(f"{text}\n  HostKeyAlias {lab.main.address}", name="proxy")
    assert uid(ask("x", config)) == 0
    bad = lab.write_config("Host x\n  ProxyCommand echo 'gateway says no' >&2; exit 1", name="badproxy")
    refused(ask("x", bad), Reach.UNREACHABLE, "ProxyCommand failed: gateway says no")
    hangs = lab.write_config("Host x\n  ProxyCommand sleep 600", name="hangs")
    answer = ask("x", hangs, connect_seconds=1)
    refused(answer, Reach.UNREACHABLE, "no SSH handshake")
    assert answer.seconds < 30


def test_user_port_and_match_come_from_the_configuration(lab: Lab) -> None:
    host = lab.host("onport", sshd=["Port 22", "Port 2022"], known=False)
    lab.know(host, name=f"[{host.address}]:2022")
    text = f"Host rack?-node*\n  HostName {host.address}\n  Port 2022\n"
    text += 'Match originalhost rack1-* exec "test %p = 2022"\n  User plain'
    config = lab.write_config(text, name="matched")
    assert uid(ask("rack1-node3", config)) > 0
    assert uid(ask("rack2-node3", config)) == 0
    assert uid(ask("rack2-node3", config, user="plain")) > 0


def test_a_configuration_that_is_not_understood(lab: Lab) -> None:
    bad = lab.folder / "bad"
    bad.write_text("Host *\nPort many\n")
    refused(ask(lab.main.address, bad), Reach.ERROR, f"{bad}:2", "'many' is not a number from 1 to 65535")
    refused(ask(lab.main.address, lab.folder / "none"), Reach.ERROR, "none: No such file")
