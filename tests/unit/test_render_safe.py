"""Text of a host is made visible and harmless, and nothing else is changed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import runs
from hostcheck.render.safe import ascii_only, clip, hidden, json_safe, safe, safe_lines


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain text, ünïcode, 日本語, 8 × H100", "plain text, ünïcode, 日本語, 8 × H100"),
        ("", ""),
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("a\nb\tc\rd\x00", r"a\nb\tc\rd\x00"),
        ("\x7f\x85\x9b", r"\x7f\x85\x9b"),
        ("\u202egnp.exe\u2066", r"\u202egnp.exe\u2066"),
        ("zero\u200bwidth\ufeff\u2060", r"zero\u200bwidth\ufeff\u2060"),
        ("soft\u00adhyphen", r"soft\xadhyphen"),
        ("line\u2028paragraph\u2029", r"line\u2028paragraph\u2029"),
        ("filler\u3164 selector\ufe0f blank\u2800", r"filler\u3164 selector\ufe0f blank\u2800"),
        ("\ue000 \U000e0041 \ud800", r"\ue000 \U000e0041 \ud800"),
        ("no\u00a0break\u3000space", "no break space"),
        (r"C:\n [bold]", r"C:\n [bold]"),
    ],
)
def test_safe(raw: str, shown: str) -> None:
    assert safe(raw) == shown


@given(st.text(st.characters(exclude_categories=())))
def test_safe_text_is_one_visible_line(raw: str) -> None:
    shown = safe(raw)

    assert shown.isprintable()
    assert not any(map(hidden, shown))
    assert safe(shown) == shown
    shown.encode()


@given(st.text(st.characters(exclude_categories=())))
def test_safe_lines_keep_lines_and_nothing_else_that_acts(raw: str) -> None:
    lines = safe_lines(raw)

    assert lines
    assert all(line.isprintable() and not any(map(hidden, line)) for line in lines)


def test_safe_lines_keep_indentation() -> None:
    assert safe_lines("\nif true; then\n\techo\x07 1  \nfi\n") == ["if true; then", r"    echo\x07 1", "fi"]


@given(st.text())
def test_json_reads_back_as_the_same_and_is_visible(raw: str) -> None:
    document = json_safe(json.dumps({"text": raw, raw: 1}, ensure_ascii=False, indent=2))

    assert json.loads(document) == json.loads(json.dumps({"text": raw, raw: 1}))
    assert not any(hidden(character) for character in document if character != "\n")


@given(st.text())
def test_ascii_only(raw: str) -> None:
    assert ascii_only(raw).isascii()


def test_typographic_characters_are_spelt_out() -> None:
    assert ascii_only("8 × H100 ≥ 700 W – “fine”, 3 µs…") == '8 x H100 >= 700 W - "fine", 3 us...'


def test_clip_says_what_it_leaves_out() -> None:
    assert clip("short", 10) == "short"
    assert clip("x" * 1500, 1000) == "x" * 1000 + " … (500 more characters)"


def test_the_hostile_sample_is_hostile() -> None:
    assert sum(map(hidden, runs.HOSTILE)) > 15
