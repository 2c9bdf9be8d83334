"""Parsers of network interfaces, on the samples of their docstrings and on what real interfaces said."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.errors import NotApplicable, Unavailable
from hostcheck.facts.network import cpu_mask, parse_mask, parse_speed_mbps, parse_triple
from support import sample


def test_speeds() -> None:
    assert parse_speed_mbps(sample(parse_speed_mbps)) == 200_000
    with pytest.raises(NotApplicable):  # virtio
        parse_speed_mbps("-1")
    with pytest.raises(Unavailable):
        parse_speed_mbps("fast")


def test_sizes_of_buffers() -> None:
    assert parse_triple(sample(parse_triple)) == (4096, 131072, 6291456)
    with pytest.raises(Unavailable):
        parse_triple("4096 131072")


def test_masks() -> None:
    assert parse_mask(sample(parse_mask)) == frozenset(range(16))
    assert parse_mask("0") == frozenset()
    assert parse_mask("80000000,00000001") == {0, 63}
    with pytest.raises(Unavailable):
        parse_mask("0-3")


@given(st.sets(st.integers(0, 95)))
def test_a_mask_is_written_as_it_is_read(cpus: set[int]) -> None:
    for like in ("00000000,00000000,00000000", "0" * 24, "00000000,00000000,0000000000000000"):
        text = cpu_mask(frozenset(cpus), like)
        assert parse_mask(text) == cpus
        assert [len(group) for group in text.split(",")] == [len(group) for group in like.split(",")]


@given(st.text(max_size=100))
def test_no_text_is_a_bug(text: str) -> None:
    for parse in (parse_speed_mbps, parse_triple, parse_mask):
        with contextlib.suppress(Unavailable, NotApplicable):
            parse(text)
