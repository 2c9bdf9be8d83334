"""nvidia-smi outputs that nobody printed in good faith: they are read or refused, and in no time."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostcheck.errors import Unavailable
from hostcheck.facts.gpu import SmiLog
from hostcheck.facts.smi_text import parse_text
from hostcheck.facts.smi_xml import parse_xml

SAMPLES = Path(__file__).parent / "samples"
H200_XML = (SAMPLES / "h200-smi-q-x.xml").read_text("utf-8")
H200_TEXT = (SAMPLES / "h200-smi-q.txt").read_text("utf-8")


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE x [<!ENTITY a "b">]><nvidia_smi_log><gpu>&a;</gpu></nvidia_smi_log>',
        '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><nvidia_smi_log>&a;</nvidia_smi_log>',
        "<nvidia_smi_log>" + "<a>" * 100_000 + "</a>" * 100_000 + "</nvidia_smi_log>",
        "<nvidia_smi_log>" + "<a/>" * 300_000 + "</nvidia_smi_log>",
        "<nvidia_smi_log><gpu>\x00</gpu></nvidia_smi_log>",
    ],
    ids=["entity", "external", "deep", "wide", "control"],
)
def test_hostile_xml_is_refused(text: str) -> None:
    with pytest.raises(Unavailable):
        parse_xml(text)


@pytest.mark.parametrize(
    "text",
    [
        "<nvidia_smi_log>" + "<processes>" * 200_000 + "&",
        "<nvidia_smi_log><process_info>" + "<processes></processes>" * 50_000 + "&",
        H200_XML.replace("NVIDIA H200", "x" * 2_000_000),
    ],
    ids=["unclosed", "many", "long"],
)
def test_hostile_xml_takes_no_time(text: str) -> None:
    started = time.perf_counter()
    with suppress(Unavailable):
        parse_xml(text)
    assert time.perf_counter() - started < 2.0


def test_hostile_text_takes_no_time() -> None:
    started = time.perf_counter()
    for text in (
        "NVSMI LOG\n" + "".join(" " * depth + "x\n" for depth in range(3000)),
        "NVSMI LOG\nGPU 00000000:01:00.0\n" + " x:" * 500_000,
        "NVSMI LOG\n" + "a\n" * 300_000,
        "NVSMI LOG\n" + "GPU 00000000:01:00.0\n    MIG Device\n" * 20_000,
    ):
        with suppress(Unavailable):
            parse_text(text)
    assert time.perf_counter() - started < 4.0


MARKS = st.sampled_from(
    ["N/A", "", "<", "&", "\x00", "9" * 30, "-1", "GPU is lost", "GPU 00000000:01:00.0", ":", "\n", "é"]
)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_xml, parse_text):
        with suppress(Unavailable):
            assert isinstance(parse(text), SmiLog)


@settings(max_examples=150)
@given(st.integers(0, len(H200_XML)), st.integers(0, 200), MARKS)
def test_a_mutated_report_is_read_or_refused(at: int, length: int, mark: str) -> None:
    with suppress(Unavailable):
        assert isinstance(parse_xml(H200_XML[:at] + mark + H200_XML[at + length :]), SmiLog)
    at = min(at, len(H200_TEXT))
    with suppress(Unavailable):
        assert isinstance(parse_text(H200_TEXT[:at] + mark + H200_TEXT[at + length :]), SmiLog)
