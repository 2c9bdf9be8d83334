"""~/.ssh/config is read as ssh reads it; where ssh is installed, it is asked."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.errors import HostcheckError
from hostcheck.transport.names import matches, parse_hop
from hostcheck.transport.sshconfig import Settings, settings

CONFIG = """\
# what came first holds
Include more.conf conf.d/*.conf
Host gateway
    ProxyJump none
Host gpu* !gpu99
    User = "ada"
    Port 2201 # a comment
    HostName %h.cluster.example
    IdentityFile ~/.ssh/id_cluster_%r
    IdentitiesOnly yes
    ProxyJump jump@gateway:2222,inner
Host gpu0?
    Port 1
    User nobody
    ConnectTimeout=7
Match host *.cluster.example user ada
    IdentityFile ~/.ssh/second
    ServerAliveInterval 15
Match originalhost gpu05 !user ada
    HostKeyAlias wrong
Match exec "test %n = gpu07"
    HostKeyAlias SEVEN
Match all
    UserKnownHostsFile ~/.ssh/kh1 "~/.ssh/kh 2"
    CertificateFile ~/.ssh/c-cert.pub
Host via
    ProxyCommand exec nc -x "proxy host" %h %p # %%
    ProxyJump ignored
    AddressFamily inet
Host *.deep
    Hostname Inner.%h
Host inner.*
    HashKnownHosts no
    Hostname too.late
Match final originalhost *.deep
    BindAddress 127.0.0.2
Match final host inner.*
    User finally
Host *
    User everyone
    StrictHostKeyChecking accept-new
    HashKnownHosts yes
"""
NAMES = ("gpu01", "gpu05", "gpu07", "gpu99", "gpu10", "gateway", "via", "other", "inc", "a.deep", "10.0.0.1", "GPU01")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / ".ssh"
    (folder / "conf.d").mkdir(parents=True)
    (folder / "config").write_text(CONFIG)
    (folder / "more.conf").write_text("Host inc\n  Port 99\n")
    (folder / "conf.d/x.conf").write_text("Host inc\n  Port 1\n  User included\nBindAddress 127.0.0.1\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return folder


def run(command: str) -> bool:
    return subprocess.run(["sh", "-c", command], check=False).returncode == 0


def of(home: Path, name: str, **asked: object) -> Settings:
    return settings(name, path=home / "config", holds=run, **asked)  # type: ignore[arg-type]


@pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh is not installed")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("asked", [(), ("-p", "4444"), ("-l", "root")])
def test_ssh_reads_the_same(home: Path, name: str, asked: tuple[str, ...]) -> None:
    # ssh takes its home from the password file; the copy names ours.
    copy = home / "copy"
    copy.write_text(
        CONFIG.replace("~", str(home.parent)).replace(
            "Include more.conf conf.d/", f"Include {home}/more.conf {home}/conf.d/"
        )
    )
    done = subprocess.run(["ssh", "-G", "-F", copy, *asked, name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        told.setdefault(key, []).append(value)
    ours = of(
        home,
        name,
        port=int(asked[1]) if "-p" in asked else None,
        user=asked[1] if "-l" in asked else None,
    )
    assert ours.hostname.lower() == told["hostname"][0].lower()
    assert (ours.user, str(ours.port)) == (told["user"][0], told["port"][0])
    named = [str(path) for path in ours.identities] if ours.named else []
    assert named == [value.replace("%r", ours.user) for value in told["identityfile"] if ours.named]
    assert [str(path) for path in ours.certificates] == told.get("certificatefile", [])
    assert ",".join(ours.jumps) == told.get("proxyjump", [""])[0]
    assert bool(ours.proxy) is ("proxycommand" in told)
    assert " ".join(str(path) for path in ours.user_known_hosts) == told["userknownhostsfile"][0]
    assert ours.connect_seconds == {"none": None}.get(told["connecttimeout"][0], _number(told["connecttimeout"][0]))
    assert str(ours.alive_seconds) == told["serveraliveinterval"][0]
    assert ours.only_identities is (told["identitiesonly"][0] == "yes")
    assert ours.hashed is (told["hashknownhosts"][0] == "yes")
    assert ours.bind == told.get("bindaddress", [""])[0]
    if "hostkeyalias" in told:
        assert ours.known_as == told["hostkeyalias"][0].lower()


def _number(text: str) -> float | None:
    return float(text) if text.isdecimal() else None


def test_what_each_setting_becomes(home: Path) -> None:
    host = of(home, "gpu05")
    assert (host.hostname, host.user, host.port) == ("gpu05.cluster.example", "ada", 2201)
    assert host.known_as == "[gpu05.cluster.example]:2201"
    assert host.identities == (home / "id_cluster_ada", home / "second")
    assert host.jumps == ("jump@gateway:2222", "inner")
    assert host.connect_seconds == 7.0
    assert host.strict is False
    assert of(home, "gpu07").known_as == "seven"
    assert of(home, "gateway").jumps == ()
    via = of(home, "via", port=77)
    assert via.proxy == 'exec nc -x "proxy host" via 77 # %'
    assert (via.jumps, via.family) == ((), socket.AF_INET)
    assert of(home, "a.deep").user == "everyone"
    assert of(home, "inc").port == 99


def test_nothing_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
    (tmp_path / "empty").touch()
    host = settings("node1", path=tmp_path / "empty")
    assert (host.hostname, host.user, host.port, host.agent) == ("node1", getpass.getuser(), 22, "/run/agent")
    assert (host.named, host.strict, host.connect_seconds) == (False, None, None)
    assert host.identities[0] == tmp_path / ".ssh/id_ed25519"
    assert host.known_hosts[0] == tmp_path / ".ssh/known_hosts"
    assert settings("node1").hostname == "node1"


def test_agents(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER", "/run/other")
    for word, path in (
        ("none", ""),
        ("$OTHER", "/run/other"),
        ("~/a%u", f"{home.parent}/a{getpass.getuser()}"),
        ("${OTHER}.x", "/run/other.x"),
    ):
        (home / "config").write_text(f"IdentityAgent {word}\n")
        os.utime(home / "config", ns=(len(word), len(word)))
        assert of(home, "x").agent == path


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Port\n", "not understood"),
        ("Host *\n  Port 0x16", ":2: '0x16' is not a number from 1 to 65535"),
        ("ConnectTimeout soon", "'soon' is not a number"),
        ('User "ada', "no closing quotation"),
        ("IdentityFile ~/%q", "%q is not understood"),
        ("IdentityFile ${NO_SUCH_VARIABLE}", "no NO_SUCH_VARIABLE"),
        ("IdentityFile ~nobody-at-all/x", "nobody here is called ~nobody-at-all"),
        ("CanonicalizeHostname yes\nCanonicalizeMaxDots many", "'many' is not a number"),
        ("User \0", "not a text file"),
        ("Match localnetwork 10.0.0.0/8", "Match localnetwork is not understood"),
        ("Match host", "Match host has no value"),
        ("Include config", "deeper than 16"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(home: Path, text: str, says: str) -> None:
    (home / "config").write_text(f"{text}\n")
    with pytest.raises(HostcheckError, match="config") as caught:
        of(home, "x")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_match_that_fails_before_is_not_looked_at(home: Path) -> None:
    (home / "config").write_text("Match originalhost laptop localnetwork 10.0.0.0/8\n  User x\nHost *\n  User y\n")
    assert of(home, "node").user == "y"


@pytest.mark.parametrize("name", ["", "-oProxyCommand=touch /tmp/x", "a b", "a\nb"])
def test_what_is_no_name(home: Path, name: str) -> None:
    with pytest.raises(HostcheckError, match="not a host name"):
        of(home, name)


def test_short_names_become_full(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(name: str, _: object) -> list[object]:
        if name != "node1.b.example":
            raise OSError
        return []

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    (home / "config").write_text(
        "CanonicalizeHostname yes\nCanonicalDomains a.example b.example\n"
        "Match canonical host *.b.example\n  User b\nHost node1\n  Port 5\nHost node1.b.*\n  BindAddress ::1\n"
    )
    host = of(home, "node1")
    assert (host.hostname, host.user, host.port, host.bind) == ("node1.b.example", "b", 5, "::1")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("gate", ("gate", None, None)),
        ("ada@gate:22", ("gate", "ada", 22)),
        ("ssh://ada@gate:2222/", ("gate", "ada", 2222)),
        ("ada@[fe80::1]:22", ("fe80::1", "ada", 22)),
        ("a@b.example@gate", None),
        ("gate:port", None),
        ("", None),
    ],
)
def test_hops(text: str, parts: tuple[str, str | None, int | None] | None) -> None:
    if parts is None:
        with pytest.raises(HostcheckError, match="ProxyJump"):
            parse_hop(text)
    else:
        assert parse_hop(text) == parts


def test_patterns() -> None:
    assert matches("gpu01", ["gpu0?"])
    assert not matches("gpu01", ["gpu*", "!gpu01"])
    assert not matches("gpu01", ["!gpu02"])
    assert matches("[::1]:22", ["[::1]:22"])
    assert not matches("a", ["[abc]"])


@given(st.text())
def test_no_text_breaks_it(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("c") / "config"
    path.write_text(text, "utf-8", "surrogatepass")
    try:
        settings("node1", path=path)
    except HostcheckError as problem:
        assert "\n" not in str(problem)  # noqa: PT017
