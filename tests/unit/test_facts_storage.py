"""Parsers of storage and of the boot loader's configuration, on the samples of their docstrings."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.errors import NotApplicable, Unavailable
from hostcheck.facts.boot import parse_grub_default, parse_grubby
from hostcheck.facts.storage import SwapUnit, parse_mounts, parse_scheduler, parse_swap_unit, unescape
from support import sample


def test_schedulers() -> None:
    assert parse_scheduler(sample(parse_scheduler)) == ("none", ("none", "mq-deadline", "kyber", "bfq"))
    with pytest.raises(NotApplicable):
        parse_scheduler("none")
    with pytest.raises(Unavailable):
        parse_scheduler("none mq-deadline")


def test_mounts() -> None:
    root, shm, data = parse_mounts(sample(parse_mounts))
    assert (root.point, root.atime) == ("/", "relatime")
    assert shm.options == "rw,nosuid,nodev,inode64"
    assert (data.point, data.fstype, data.atime) == ("/data/model store", "xfs", "noatime")
    assert parse_mounts("/dev/sda1 / ext4 rw 0 0\n/dev/sdb1 / ext4 rw,relatime 0 0")[0].source == "/dev/sdb1"
    assert parse_mounts("/dev/sda1 / ext4 rw,nodev 0 0")[0].atime == "strictatime"


def test_escaped_paths() -> None:
    assert unescape(r"/a\040b\134c\011") == "/a b\\c\t"
    assert unescape(r"/a\0400") == "/a 0"


def test_swap_units() -> None:
    unit = parse_swap_unit("swap.img.swap", sample(parse_swap_unit))
    assert unit == SwapUnit(name="swap.img.swap", source="/swap.img", origin="/etc/fstab")


def test_grub() -> None:
    assert parse_grub_default([sample(parse_grub_default)]) == "quiet splash console=ttyS0"
    assert parse_grub_default(["GRUB_CMDLINE_LINUX='a=1 b'\n", 'GRUB_CMDLINE_LINUX+=" c" # more\n']) == "a=1 b c"
    assert parse_grub_default(['GRUB_CMDLINE_LINUX="a \\\nb"']).split() == ["a", "b"]
    assert parse_grub_default([""]) == ""
    for text in ('GRUB_CMDLINE_LINUX="$(cat /etc/args)"', 'GRUB_CMDLINE_LINUX="a', "GRUB_CMDLINE_LINUX=`args`"):
        with pytest.raises(Unavailable):
            parse_grub_default([text])


def test_grubby() -> None:
    line = parse_grubby(sample(parse_grubby))
    assert line.startswith("ro crashkernel=")
    assert line.endswith("$tuned_params")
    with pytest.raises(Unavailable, match="different arguments"):
        parse_grubby('args="a"\nargs="b"')
    with pytest.raises(Unavailable, match="lists no kernel"):
        parse_grubby("")


@given(st.text(max_size=300))
def test_no_text_is_a_bug(text: str) -> None:
    for parse in (parse_scheduler, parse_mounts, parse_grubby, lambda line: parse_grub_default([line])):
        with contextlib.suppress(Unavailable, NotApplicable):
            parse(text)
    parse_swap_unit("a.swap", text)
    assert isinstance(unescape(text), str)
