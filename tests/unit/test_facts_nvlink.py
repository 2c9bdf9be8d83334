"""NVLink status, error counters and topology, from real outputs, from other sources together, and from hostile text."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.errors import NotApplicable, Unavailable
from hostcheck.facts.gpu_types import Fabric, Gpu, Mig
from hostcheck.facts.nvlink import LinkCounter, merge_errors, merge_links
from hostcheck.facts.nvlink_smi import Link, parse_errors, parse_status, parse_topology
from hostcheck.snapshot.reading import Ending, Reading
from support import sample

PARSERS = (parse_status, parse_errors, parse_topology)
FIRST, SECOND = "GPU-11111111-2222-3333-4444-555555555555", "GPU-9667d95e-6d22-0c22-1f57-c481f13e7c44"
GPUS = (
    Gpu(index=0, bus_id="0000:19:00.0", source="test", uuid=FIRST, name="NVIDIA H200"),
    Gpu(index=1, bus_id="0000:3b:00.0", source="test", uuid=SECOND, name="NVIDIA H200"),
)
UNREAD = Reading("nvlink.test", Ending.TIMEOUT)


def printed(text: str, later: str | None = None) -> Reading:
    reading = Reading("nvlink.test", Ending.OK, 0, out=text.encode())
    return (
        reading if later is None else replace(reading, later=Reading("nvlink.test", Ending.OK, 0, out=later.encode()))
    )


def test_each_answer_for_a_gpu_has_its_meaning() -> None:
    first, inactive, mig, none = parse_status(sample(parse_status))
    assert (first.index, first.model, first.uuid) == (0, "NVIDIA H200", FIRST)
    assert isinstance(first.links, tuple)
    assert first.links[0] == Link(number=0, active=True, speed_gbs=26.562)
    assert first.links[1].active is False
    assert isinstance(first.links[1].speed_gbs, NotApplicable)
    assert inactive.links == ()
    assert isinstance(mig.links, NotApplicable)
    assert isinstance(none.links, NotApplicable)


def test_a_state_that_is_new_is_neither_up_nor_down() -> None:
    (block,) = parse_status("GPU 0: X (UUID: u)\n\t Link 0: 25 GB/s\n\t Link 1: sleeping\n")
    assert isinstance(block.links, Unavailable)
    assert "sleeping" in block.links.why


def test_a_gpu_of_which_nothing_is_said_is_not_healthy() -> None:
    (block,) = parse_status("GPU 0: X (UUID: u)\n")
    assert isinstance(block.links, Unavailable)
    (errors,) = parse_errors("GPU 0: X (UUID: u)\n")
    assert isinstance(errors.counters, Unavailable)


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(
    "text", ["", "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n"]
)
def test_no_gpu_is_unavailable(parse: Callable[[str], Any], text: str) -> None:
    with pytest.raises(Unavailable):
        parse(text)


def test_counters_are_by_link_and_name() -> None:
    (block,) = parse_errors(sample(parse_errors))
    assert isinstance(block.counters, dict)
    assert block.counters[0, "CRC Errors"] == 3
    assert block.counters[1, "Replay Errors"] == 0
    assert len(block.counters) == 6


def test_of_nvlink_5_only_faults_are_counted() -> None:
    lines = {
        "Tx packets": "12345", "Rx bytes": "99", "Malformed packet Errors": "1", "Buffer overrun Errors": "2",
        "Rx Errors": "3", "Local link integrity Errors": "4", "Tx discards": "5", "Link recovery failed events": "6",
        "Link recovery successful events": "7", "Total link recovery events": "13", "Effective Errors": "8",
        "Effective BER": "15e-255", "Symbol Errors": "9", "FEC Errors - 0": "17941761", "FEC Errors - 15": "0",
    }  # fmt: skip
    text = "GPU 0: NVIDIA B200 (UUID: u)\n" + "".join(f"\t Link 0: {name}: {value}\n" for name, value in lines.items())
    (block,) = parse_errors(text)
    assert isinstance(block.counters, dict)
    assert sorted(block.counters.values()) == list(range(1, 10))


def test_the_matrix_of_the_sample() -> None:
    topology = parse_topology(sample(parse_topology))
    first, second = topology.gpus
    assert first.paths == {"GPU1": "NV18", "NIC0": "PIX"}
    assert (first.bonded(1), second.bonded(0), first.bonded(7)) == (18, 18, 0)
    assert (first.cpus, first.node, second.cpus, second.node) == ("0-31", "0", "32-63", "1")
    assert topology.nics == {"NIC0": "mlx5_0"}


def test_a_matrix_with_tabs_and_terminal_codes() -> None:
    text = (
        "\t\x1b[4mGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m\n"
        "GPU0\t X \tNODE\t0-31,64-95\t0-1\t\tN/A\nGPU1\tNODE\t X \t\t\t\tN/A\n"
    )
    first, second = parse_topology(text).gpus
    assert (first.cpus, first.node, first.bonded(1)) == ("0-31,64-95", "0-1", 0)
    assert isinstance(second.cpus, Unavailable)


def test_a_row_that_is_cut_off_is_left_out() -> None:
    text = "\tGPU0\tGPU1\tCPU Affinity\nGPU0\t X \tNV4\t0-7\nGPU1\tNV4"
    assert [row.index for row in parse_topology(text).gpus] == [0]


def test_gpus_are_found_by_uuid_not_by_order() -> None:
    text = f"GPU 0: B (UUID: {SECOND})\n\t Link 0: <inactive>\nGPU 1: A (UUID: {FIRST})\n\t Link 0: 25 GB/s\n"
    first, second = merge_links(GPUS, printed(text))
    assert (first.active, second.active) == (1, 0)
    assert first.source == "nvidia-smi nvlink -s"


def test_a_gpu_that_the_output_lacks_is_unknown() -> None:
    _, second = merge_links(GPUS, printed(f"GPU 0: A (UUID: {FIRST})\n\t Link 0: 25 GB/s\n"))
    assert isinstance(second.links, Unavailable)


@pytest.mark.parametrize(
    "reading",
    [
        Reading("nvlink.test", Ending.TIMEOUT),
        Reading("nvlink.test", Ending.NOT_COLLECTED),
        Reading("nvlink.test", Ending.EXIT, 9, out=b"NVIDIA-SMI has failed\n"),
        replace(printed(f"GPU 0: A (UUID: {FIRST})\n\t Link 0: 25 GB/s\n"), ending=Ending.EXIT, code=255),
    ],
    ids=lambda reading: f"{reading.ending}-{reading.code}",
)
def test_what_did_not_end_well_says_nothing(reading: Reading) -> None:
    for gpu in merge_links(GPUS, reading):
        assert isinstance(gpu.links, Unavailable)
        assert (gpu.links.why, gpu.links.probe, gpu.links.ending) == (
            f"nvlink.test: {reading.how}", "nvlink.test", reading.ending.value
        )  # fmt: skip


@pytest.mark.parametrize(
    ("known", "lacks"),
    [
        ({"name": "NVIDIA L40S"}, True),
        ({"name": "NVIDIA A100-SXM4-80GB"}, False),
        ({"name": "NVIDIA H200", "fabric": Fabric(state="Completed")}, False),
        ({}, False),
    ],
    ids=["board", "module", "fabric", "unknown"],
)
def test_silence_is_that_of_boards_without_nvlink(known: dict[str, Any], lacks: bool) -> None:
    gpu = Gpu(index=0, bus_id="0000:19:00.0", source="test", **known)
    (own,) = merge_links((gpu,), printed("\n"))
    assert isinstance(own.links, NotApplicable if lacks else Unavailable)
    (refused,) = merge_links((gpu,), replace(printed(""), ending=Ending.EXIT, code=1))
    assert isinstance(refused.links, Unavailable)
    (errors,) = merge_errors((gpu,), [own], printed("", ""))
    assert isinstance(errors.counters, NotApplicable if lacks else Unavailable)


def test_mig_mode_has_no_links() -> None:
    sliced = (replace(GPUS[0], mig=Mig(current=True)),)
    (gpu,) = merge_links(sliced, UNREAD)
    assert isinstance(gpu.links, NotApplicable)


STATUS = "".join(f"GPU {index}: A (UUID: {uuid})\n\t Link 0: 25 GB/s\n" for index, uuid in enumerate((FIRST, SECOND)))
COUNTED = "GPU 0: A (UUID: {first})\n\t Link 0: Replay Errors: {count}\nGPU 1: A (UUID: {second})\n"


def counted(count: int) -> str:
    return COUNTED.format(first=FIRST, second=SECOND, count=count)


def test_errors_are_read_twice() -> None:
    links = merge_links(GPUS, printed(STATUS))
    first, second = merge_errors(GPUS, links, printed(counted(7), counted(12)))
    assert first.counters == (LinkCounter(link=0, name="Replay Errors", before=7, after=12),)
    assert isinstance(first.counters, tuple)
    assert first.counters[0].growth == 5
    assert isinstance(second.counters, Unavailable)


def test_one_reading_tells_of_no_growth_unless_it_is_zero() -> None:
    links = merge_links(GPUS, printed(STATUS))
    (some, *_), (none, *_) = (merge_errors(GPUS, links, printed(counted(count))) for count in (7, 0))
    assert isinstance(some.counters, tuple)
    assert isinstance(none.counters, tuple)
    assert isinstance(some.counters[0].growth, Unavailable)
    assert none.counters[0].growth == 0


def test_a_counter_that_was_reset_grew_from_nothing() -> None:
    assert LinkCounter(link=0, name="x", before=9, after=2).growth == 2


def test_no_errors_are_asked_of_boards_without_links() -> None:
    text = "".join(f"GPU {gpu.index}: A (UUID: {gpu.uuid})\nDevice does not have or support Nvlink\n" for gpu in GPUS)
    links = merge_links(GPUS, printed(text))
    for gpu in merge_errors(GPUS, links, Reading("nvlink.test", Ending.EXIT, 3)):
        assert isinstance(gpu.counters, NotApplicable)


def test_errors_do_not_hang_on_the_status() -> None:
    for links in (merge_links(GPUS, UNREAD), Unavailable("no GPUs")):
        first, _ = merge_errors(GPUS, links, printed(counted(7), counted(7)))
        assert isinstance(first.counters, tuple)
        assert first.counters[0].growth == 0


def test_inactive_links_have_no_errors_to_tell() -> None:
    down = "".join(f"GPU {gpu.index}: A (UUID: {gpu.uuid})\n\t Link 0: <inactive>\n" for gpu in GPUS)
    for gpu in merge_errors(GPUS, merge_links(GPUS, printed(down)), printed(counted(7))):
        assert isinstance(gpu.counters, NotApplicable)


@given(st.text())
def test_no_text_raises_anything_else(text: str) -> None:
    for parse in PARSERS:
        with suppress(Unavailable):
            parse(text)


@given(st.data())
def test_no_mutation_of_a_sample_raises_anything_else(data: st.DataObject) -> None:
    for parse in PARSERS:
        text = sample(parse)
        at = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(at, len(text)))
        with suppress(Unavailable):
            parse(text[:at] + data.draw(st.text(max_size=8)) + text[end:])
