"""What nvidia-smi tells of MIG instances, and the clocks that hostcheck locked: samples, corners, texts of any kind."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.errors import Unavailable
from hostcheck.facts.base import Facts
from hostcheck.facts.gpu import GPUS, Gpu, MigDevice
from hostcheck.facts.gpu_locks import LOCKS_PROBE, read_locks
from hostcheck.facts.gpu_mig import (
    LAYOUT,
    Layouts,
    MigInstance,
    in_order,
    parse_devices,
    parse_instances,
    parse_profiles,
)
from hostcheck.snapshot.reading import Ending, FileState, Reading
from support import host, sample

GPU: Gpu = Facts(host("h200x2")).get(GPUS)[0]
ROW = "|   0  MIG 3g.20gb       9        1          4:4     |"


def test_instances_of_the_user_guide() -> None:
    first = MigInstance(profile="3g.20gb", profile_id=9, id=1, start=4, size=4)
    assert parse_instances(sample(parse_instances)) == {0: (first, replace(first, id=2, start=0))}
    assert parse_instances("No GPU instances found: Not Found\n") == {}
    assert parse_instances("No MIG-enabled devices found.\n") == {}


def test_devices_by_the_name_of_their_profile() -> None:
    assert parse_devices(sample(parse_devices)) == {0: ("3g.40gb", "1g.10gb"), 1: ()}
    assert parse_devices("No devices found.\n") == {}


@pytest.mark.parametrize(
    "text", ["MIG 1g.10gb     Device  0: (UUID: MIG-1)", sample(parse_devices).replace("3g.40gb", "most", 1)]
)
def test_a_device_that_is_not_understood_is_not_left_out(text: str) -> None:
    with pytest.raises(Unavailable):
        parse_devices(text)


def test_profiles_of_the_user_guide() -> None:
    assert parse_profiles(sample(parse_profiles)) == {0: {"1g.5gb": 7, "1g.5gb+me": 1, "3g.20gb": 2}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Insufficient Permissions",
        "No devices were found",
        sample(parse_instances).replace("MIG 3g.20gb       9", "MIG all-of-it     9", 1),
        sample(parse_instances).replace(ROW, "|   0  MIG 3g.20", 1),
    ],
)
def test_what_is_no_list_of_instances_is_not_an_empty_one(text: str) -> None:
    with pytest.raises(Unavailable):
        parse_instances(text)
    with pytest.raises(Unavailable):
        parse_profiles(text)


def test_the_largest_come_first() -> None:
    assert in_order(["1g.18gb", "1g.35gb", "3g.71gb", "1g.18gb+me"]) == "3g.71gb,1g.35gb,1g.18gb,1g.18gb+me"
    assert in_order([]) == "none"
    assert LAYOUT.fullmatch(in_order(["1g.24gb+me.all", "1g.24gb-me", "4g.96gb+gfx"]))
    for text in ("", "9", "1g.10gb,", "1g.10gb -dgi", "1g.10gb;reboot", "1c.3g.40gb", "-C", "1g.10gb\n"):
        assert not LAYOUT.fullmatch(text), text


def test_each_instance_is_to_have_one_compute_instance() -> None:
    layouts = Layouts(instances=parse_instances(sample(parse_instances)))

    def uneven(*used: int) -> tuple[int, ...]:
        devices = tuple(MigDevice(gpu_instance=id) for id in used)
        return layouts.uneven(replace(GPU, mig=replace(GPU.mig, devices=devices)))

    assert uneven(1, 2) == ()
    assert uneven(1) == (2,)
    assert uneven(1, 1, 2) == (1,)
    with pytest.raises(Unavailable):
        layouts.uneven(replace(GPU, mig=replace(GPU.mig, devices=(MigDevice(),))))


def test_locks_that_hostcheck_made() -> None:
    def locks(text: bytes, ending: Ending = Ending.OK) -> str | None:
        files = {"/run/hostcheck/GPU-1.sm-clock-lock": FileState(ending, text)}
        return read_locks(Reading(LOCKS_PROBE.id, Ending.OK, 0, files=files)).of("GPU-1", "sm-clock-lock")

    assert locks(sample(read_locks).encode()) == "1410,1410"
    assert locks(b"", Ending.ABSENT) is None
    for text, ending in ((b"", Ending.OK), (b"1410", Ending.OK), (b"\xff,1", Ending.OK), (b"", Ending.DENIED)):
        with pytest.raises(Unavailable):
            locks(text, ending)


@given(st.text() | st.text(alphabet="|+- MIG0123456789g.b:/\n").map(lambda text: f"| GPU instances:\n{text}"))
def test_no_text_raises_anything_else(text: str) -> None:
    for parse in (parse_devices, parse_instances, parse_profiles):
        with contextlib.suppress(Unavailable):
            parse(text)
