"""Units of systemd, and what is installed beside the driver: samples, corners, and texts of any kind."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostcheck.errors import NotApplicable, Unavailable
from hostcheck.facts.addons import (
    ADDONS_PROBE,
    FABRIC_MANAGER_PROBE,
    _fabric_stack,
    parse_fabric_manager_version,
    read_addons,
)
from hostcheck.facts.units import FABRIC_MANAGER, PERSISTENCED, UNITS_PROBE, parse_units, read_units
from hostcheck.snapshot.reading import Ending, Entry, Reading
from support import sample

ANSWER = Reading(UNITS_PROBE.id, Ending.OK, 0, out=sample(parse_units).encode())


def test_units_in_systemds_words() -> None:
    units = read_units(ANSWER)
    daemon = units.unit(PERSISTENCED)
    assert daemon is not None
    assert (daemon.state, daemon.why_not) == ("static active", "")
    assert "--no-persistence-mode" in daemon.command
    assert daemon.command[0] == "/usr/bin/nvidia-persistenced"
    assert units.unit(FABRIC_MANAGER) is None
    with pytest.raises(Unavailable):
        units.unit("slurmd.service")


@pytest.mark.parametrize(
    ("load", "file", "active", "why"),
    [
        ("loaded", "disabled", "inactive", ""),
        ("loaded", "enabled", "active", ""),
        ("masked", "masked", "inactive", "masked"),
        ("loaded", "enabled", "failed", "has failed"),
        ("loaded", "indirect", "inactive", "indirect"),
        ("error", "", "inactive", "error"),
        ("loaded", "enabled", "activating", "activating"),
    ],
)
def test_what_can_be_started(load: str, file: str, active: str, why: str) -> None:
    text = f"Id=a.service\nLoadState={load}\nActiveState={active}\nUnitFileState={file}\n"
    told = parse_units(text)["a.service"].why_not
    assert (why in told) if why else told == ""


def test_a_host_without_systemd() -> None:
    said = b"System has not been booted with systemd as init system (PID 1). Can't operate."
    for reading in (replace(ANSWER, ending=Ending.ABSENT), replace(ANSWER, ending=Ending.EXIT, code=1, err=said)):
        assert not read_units(reading).booted
        assert read_units(reading).unit(PERSISTENCED) is None
    with pytest.raises(Unavailable):
        read_units(replace(ANSWER, ending=Ending.TIMEOUT))


def test_addons() -> None:
    module = "/lib/modules/6.8.0-60-generic/updates/dkms/nvidia-fs.ko.zst"
    entries = {module: Entry("-"), "/usr/src/nvidia-fs-2.26.6": Entry("d")}
    reading = Reading(ADDONS_PROBE.id, Ending.OK, asked=ADDONS_PROBE.paths, entries=entries)
    found = read_addons(reading)
    assert (found.mps, found.gds_source, found.gds_kernels) == (False, True, ("6.8.0-60-generic",))
    with pytest.raises(Unavailable):
        read_addons(Reading(ADDONS_PROBE.id, Ending.NOT_COLLECTED))


def test_the_version_of_the_fabric_manager() -> None:
    assert parse_fabric_manager_version(sample(parse_fabric_manager_version)) == "580.159.04"
    nobody = Unavailable("no driver")
    absent = Unavailable("not installed", FABRIC_MANAGER_PROBE.id, Ending.ABSENT.value)
    assert isinstance(_fabric_stack(absent, nobody).manager, NotApplicable)
    hung = Unavailable("timeout", FABRIC_MANAGER_PROBE.id, Ending.TIMEOUT.value)
    assert _fabric_stack(hung, nobody).manager == hung
    mute = Reading(FABRIC_MANAGER_PROBE.id, Ending.OK, 0, out=b"")
    assert isinstance(_fabric_stack(mute, nobody).manager, Unavailable)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300), st.text("IdLoadStateActive=.\n {};[]", max_size=200))
def test_any_text_is_parsed_or_left_out(text: str, marks: str) -> None:
    for given_text in (text, marks, sample(parse_units)[: len(text)]):
        parse_units(given_text)
        with contextlib.suppress(Unavailable):
            parse_fabric_manager_version(given_text)
