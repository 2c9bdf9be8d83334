"""Naming hosts: what is understood, what is folded, and what is refused in one line."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.errors import HostcheckError
from hostcheck.fleet.targets import MOST, Target, fold, parse_word, read_targets


def names(*words: str) -> list[str]:
    return [target.name for target in read_targets(words)]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("gpu07", ["gpu07"]),
        ("gpu[08-10,70]", ["gpu08", "gpu09", "gpu10", "gpu70"]),
        ("gpu[1-2]-ib[0-1]", ["gpu1-ib0", "gpu1-ib1", "gpu2-ib0", "gpu2-ib1"]),
        ("gpu[01-07/3]", ["gpu01", "gpu04", "gpu07"]),
        ("10.0.0.[9-11]", ["10.0.0.9", "10.0.0.10", "10.0.0.11"]),
        ("a,b.example.org,c", ["a", "b.example.org", "c"]),
        ("gpu[1-4]!gpu[2-3]", ["gpu1", "gpu4"]),
        ("gpu[1-3]&gpu[3-9]", ["gpu3"]),
    ],
)
def test_node_sets(word: str, expected: list[str]) -> None:
    assert names(word) == expected


def test_users_and_ports_belong_to_their_part_of_a_word() -> None:
    assert read_targets(["root@gpu[1-2]:2222,login"]) == (
        Target("gpu1:2222", "gpu1", "root", 2222),
        Target("gpu2:2222", "gpu2", "root", 2222),
        Target("login", "login"),
    )
    assert parse_word("me@example.org@host") == [Target("host", "host", "me@example.org")]


def test_ipv6_is_in_brackets_and_equal_spellings_are_one_host() -> None:
    assert parse_word("root@[fe80::1%eth0]:22") == [Target("[fe80::1%eth0]:22", "fe80::1%eth0", "root", 22)]
    assert read_targets(["[2001:db8:0:0::7]", "[2001:DB8::7]"]) == (Target("2001:db8::7", "2001:db8::7"),)


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("gpu[1-3", "missing bracket"),
        ("gpu1]", "closing bracket"),
        ("gpu[3-1]", "'3-1' is no range"),
        ("gpu[]", "no range"),
        ("gpu[a-b]", "'[a-b]' is no range of numbers"),
        ("gpu[1-8/0]", "no range"),
        ("gpu[01-100]x[01-3]", "padding"),
        ("gpu1,,gpu2", "a name is missing beside a comma"),
        ("gpu1,", "a name is missing beside a comma"),
        ("::1", "an IPv6 address goes in brackets"),
        ("[::1", "no IPv6 address"),
        ("[::zz]", "no IPv6 address"),
        ("host:0", "'0' is no port"),
        ("host:65536", "no port"),
        ("host:ssh", "no port"),
        ("host:", "no port after"),
        ("user@", "no host is named"),
        ("@", "no group"),
        ("@-x", "no group"),
        ("root@@rack1", "a group takes no user"),
        ("-oProxyCommand=x", "no host name"),
        ("a..b", "no host name"),
        ("../x", "no host name"),
        ("a b", "' ' has no place"),
        ("a;reboot", "';' has no place"),
        ("@$(reboot)", "'$' has no place"),
        ("a\x1b[2Jb", "'\\x1b' has no place"),
        ("gpü", "'\\xfc' has no place"),
        ("x" * 300, "no host name"),
        ("gpu[1-2]!gpu[1-2]", "no host is left"),
        (f"gpu[0-{MOST}]", "more than 100,000 hosts"),
        ("gpu[1-99999]x[1-99999]", "more than 100,000 hosts"),
        (f"gpu[1-{'9' * 18}]", "more than 100,000 hosts"),
        (f"gpu[1-{'9' * 5000}]", "is no range"),
    ],
)
def test_a_malformed_word_is_refused_in_one_line(word: str, complaint: str) -> None:
    with pytest.raises(HostcheckError) as caught:
        read_targets([word])
    assert complaint in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@given(st.text(max_size=60) | st.text(alphabet="agpu019[]-,:@!&^*%/.\\", max_size=40))
def test_any_word_is_hosts_or_one_line(word: str) -> None:
    try:
        targets = parse_word(word)
    except HostcheckError as caught:
        said = str(caught)
        assert said.isprintable()
        return
    assert targets
    for target in targets:
        assert target.name.isprintable()
        assert target.name.isascii()
        assert not target.address.startswith("-")
        assert not set(target.address) & set(" ;|&$`<>()/'\"\\")


def test_duplicates_are_folded_and_contradictions_refused() -> None:
    assert names("gpu[1-3]", "gpu2", "gpu[3-4]") == ["gpu1", "gpu2", "gpu3", "gpu4"]
    assert read_targets(["gpu1", "root@gpu1"]) == (Target("gpu1", "gpu1", "root"),)
    with pytest.raises(HostcheckError, match="twice, as me@ and as root@"):
        read_targets(["me@gpu1", "root@gpu1"])
    with pytest.raises(HostcheckError, match="twice, with different addresses"):
        fold([Target("gpu1", "10.0.0.1"), Target("gpu1", "10.0.0.2")])
    assert fold([Target("a", "a", groups=("x",)), Target("a", "a", groups=("y", "x"))])[0].groups == ("x", "y")


def test_files_and_standard_input(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("# the fleet\ngpu[1-2]  # first rack\n\nroot@login:22 gpu1\n")
    assert [t.name for t in read_targets([], files=[path])] == ["gpu1", "gpu2", "login:22"]
    assert [t.name for t in read_targets(["-", "z"], stdin=io.StringIO("a b\n"))] == ["a", "b", "z"]
    path.write_text("gpu1\ngpu[2-\n")
    with pytest.raises(HostcheckError, match=r"hosts, line 2: 'gpu\[2-'"):
        read_targets([], files=[path])
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(HostcheckError, match="not a text file"):
        read_targets([], files=[path])
    with pytest.raises(HostcheckError, match="No such file"):
        read_targets([], files=[tmp_path / "nope"])
    with pytest.raises(HostcheckError, match="no host is named"):
        read_targets(["-"], stdin=io.StringIO("# nobody\n"))


def test_an_endless_file_is_no_list_of_hosts() -> None:
    with pytest.raises(HostcheckError, match="larger than 16 MiB"):
        read_targets([], files=[Path("/dev/zero")])


def test_an_inventory_is_in_place_of_names() -> None:
    with pytest.raises(HostcheckError, match="not both"):
        read_targets(["gpu1"], inventory=Path("hosts.yml"))
    with pytest.raises(HostcheckError, match="-i is missing"):
        read_targets(["gpu1"], limit="x")


GROUPS = """\
[Main]
default: local
[local]
map: case $GROUP in rack1) echo 'gpu[1-3]';; old) echo gpu2;; big) echo 'gpu[1-200000]';; esac
all: echo 'gpu[1-3] login'
list: echo rack1 old
[broken]
map: exit 3
"""


def test_groups_are_those_of_clustershell(tmp_path: Path) -> None:
    (tmp_path / "groups.conf").write_text(GROUPS)
    code = (
        "import sys\n"
        "from hostcheck.errors import HostcheckError\n"
        "from hostcheck.fleet.targets import read_targets\n"
        "for word in sys.argv[1:]:\n"
        "    try: print(*(f'{t.name}/{\".\".join(t.groups)}' for t in read_targets([word])))\n"
        "    except HostcheckError as problem: print(problem)\n"
    )
    words = [
        "@rack1",
        "@local:rack1,x",
        "@rack1!@old",
        "@rack1!@odl",
        "@nope",
        "@no:x",
        "@broken:x",
        "@*",
        "gpu[2-9]&@*",
    ]
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *words],
        env={**os.environ, "CLUSTERSHELL_CFGDIR": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    rack, named, without, slip, nobody, source, failing, every, masked = done.stdout.splitlines()
    assert rack == "gpu1/rack1 gpu2/rack1 gpu3/rack1"
    assert named == f"{rack} x/"
    assert without == "gpu1/rack1 gpu3/rack1"
    assert "'@odl': no group" in slip
    assert "'@nope': no group" in nobody
    assert "no group source 'no'" in source
    assert "group sources cannot tell" in failing
    assert every.split() == ["gpu1/", "gpu2/", "gpu3/", "login/"]
    assert masked.split() == ["gpu2/", "gpu3/"]
