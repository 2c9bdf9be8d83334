"""The program's output is found whatever surrounds it, and each ending has its line."""

from __future__ import annotations

import subprocess
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.transport.base import Reach
from hostcheck.transport.framing import Stream, no_sudo


def marker(stream: Stream) -> bytes:
    return subprocess.run(["sh", "-s"], input=stream.opening, capture_output=True, check=True).stdout


@given(st.binary(max_size=300), st.binary(max_size=300), st.lists(st.integers(0, 700), max_size=6))
def test_the_output_is_found_however_it_is_cut(noise: bytes, out: bytes, cuts: list[int]) -> None:
    stream = Stream(1 << 20)
    mark = f"hostcheck-{stream.prompt[:-1]}\n".encode()
    data = noise + mark + out
    points = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, end in pairwise(points):
        stream.feed(data[start:end])
    assert stream.found
    assert stream.out == out
    assert stream.noise.encode() == noise.decode("utf-8", "replace").encode()
    assert stream.received == len(data)


def test_the_shell_prints_the_marker_and_an_echo_does_not() -> None:
    stream = Stream(1 << 20)
    stream.feed(stream.opening)
    assert not stream.found
    stream.feed(marker(stream))
    assert stream.found
    assert Stream(1).opening != stream.opening


@given(st.lists(st.integers(0, 60), max_size=6))
def test_a_prompt_is_counted_however_it_is_cut(cuts: list[int]) -> None:
    stream = Stream(1 << 20)
    data = f"note\n{stream.prompt}\nSorry\n{stream.prompt}".encode()
    points = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, end in pairwise(points):
        stream.feed_err(data[start:end])
    assert stream.asked == 2
    assert stream.errors == "note\n\nSorry\n"


def test_errors_keep_their_beginning_and_their_end() -> None:
    stream = Stream(1 << 30)
    stream.feed_err(b"first\n")
    for _ in range(1000):
        stream.feed_err(b"x" * 1000)
    stream.feed_err(b"\nlast")
    assert stream.errors.startswith("first")
    assert stream.errors.endswith("last")
    assert len(stream.errors) <= 8192
    assert stream.received == 1_000_011


def ended(
    code: int | None, out: bytes = b"data", err: bytes = b"", *, noise: bytes | None = None, **how: object
) -> tuple[Reach, str]:
    stream = Stream(1000)
    stream.feed(marker(stream) + out if noise is None else noise)
    stream.feed_err(err)
    return stream.judge(code, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "reach", "says"),
    [
        ({"code": 0}, Reach.OK, ""),
        ({"code": 0, "out": b""}, Reach.ERROR, "exit status 0"),
        ({"code": 1, "err": b"noise\nhostcheck: tar is missing\nmore"}, Reach.ERROR, "tar is missing"),
        ({"code": 1, "err": b"sh: syntax error"}, Reach.ERROR, "exit status 1: sh: syntax error"),
        ({"code": 137}, Reach.CUT, "killed on the host (exit status 137)"),
        ({"code": None, "signal": "a signal"}, Reach.CUT, "killed on the host (a signal)"),
        ({"code": None}, Reach.CUT, "the connection broke after"),
        ({"code": None, "noise": b""}, Reach.CUT, "before sh answered"),
        ({"code": 127, "noise": b"", "err": b"zsh: command not found: sh\n"}, Reach.SHELL, "command not found: sh"),
        ({"code": 1, "noise": b"This account is currently not available.\n"}, Reach.SHELL, "not available"),
        ({"code": 0, "noise": b"backup done\n"}, Reach.SHELL, "forced command?): backup done"),
        ({"code": 0, "out": b"x" * 2000}, Reach.TOO_MUCH, "more than 1,000 bytes"),
        ({"code": 1, "noise": b"", "err": b"sudo: a password is required", "become": True}, Reach.PRIVILEGE, "visudo"),
        ({"code": 1, "noise": b"", "err": b"sudo: a password is required\n"}, Reach.SHELL, "password is required"),
    ],
)  # fmt: skip
def test_each_ending(arguments: dict[str, object], reach: Reach, says: str) -> None:
    how, why = ended(**arguments)  # type: ignore[arg-type]
    assert how is reach
    assert says in why
    assert bool(why) is (reach is not Reach.OK)


@pytest.mark.parametrize(
    ("errors", "says"),
    [
        ("sudo: a password is required", "wants a password"),
        ("sudo: unable to resolve host x: Name or service not known\nsudo: a password is required", "wants a password"),
        ("sudo: sorry, you must have a tty to run sudo", "requiretty"),
        ("Sorry, try again.\nsudo: no password was provided\nsudo: 1 incorrect password attempt", "did not accept"),
        ("ada is not in the sudoers file.  This incident will be reported.", "refused: ada is not in the sudoers"),
        (
            "Sorry, user ada is not allowed to execute '/usr/bin/sh -s' as root on n1.\nsudo: x",
            "refused: Sorry, user ada",
        ),
        ("env: 'sudo': No such file or directory", "not installed"),
        ("env: can't execute 'sudo': No such file or directory", "not installed"),
        ("bash: line 1: sudo: command not found", "not installed"),
        ("sudo: /etc/sudo.conf is owned by uid 1, should be 0", "refused: sudo: /etc/sudo.conf"),
        ("bash: some other thing", ""),
        ("", ""),
    ],
)
def test_what_sudo_says(errors: str, says: str) -> None:
    told = no_sudo(errors)
    assert (says in told) if says else not told
