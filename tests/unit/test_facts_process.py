"""Names of processes, whole and hidden."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.errors import Unavailable
from hostcheck.facts.base import Facts
from hostcheck.facts.process import DAEMONS, NAMES_PROBE, SOCKETS_PROBE, Daemons, parse_name
from hostcheck.snapshot.reading import Ending, Entry, FileState, Manifest, Reading, Snapshot
from support import sample


def snapshot(names: dict[int, str | Ending], sockets: tuple[str, ...] = ()) -> Snapshot:
    files = {
        f"/proc/{pid}/comm": FileState(name) if isinstance(name, Ending) else FileState(Ending.OK, f"{name}\n".encode())
        for pid, name in names.items()
    }
    readings = (
        Reading(NAMES_PROBE.id, Ending.OK, asked=NAMES_PROBE.paths, files=files),
        Reading(SOCKETS_PROBE.id, Ending.OK, asked=SOCKETS_PROBE.paths, entries={path: Entry("s") for path in sockets}),
    )
    return Snapshot(Manifest(1, "test", "local", 0.0, 0.0, "host", 0), {reading.probe: reading for reading in readings})


def daemons(names: dict[int, str | Ending], sockets: tuple[str, ...] = ()) -> Daemons:
    return Facts(snapshot(names, sockets)).get(DAEMONS)


def test_sample() -> None:
    assert parse_name(sample(parse_name)) == "nvidia-persiste"


def test_a_host_shows_all() -> None:
    found = daemons({1: "systemd", 2: "kthreadd", 900: "nvidia-persiste"}, ("/run/docker.sock",))
    assert found.complete
    assert found.runs("nvidia-persistenced"), "the kernel cuts names at 15 bytes"
    assert not found.runs("nvidia-fabricmanager")
    assert found.has("/run/docker.sock")
    assert not found.has("/run/containerd/containerd.sock")


def test_a_container_hides_the_rest() -> None:
    found = daemons({1: "bash", 7: "irqbalance"})
    assert found.runs("irqbalance")
    with pytest.raises(Unavailable, match="hides"):
        found.runs("nvidia-persistenced")


def test_a_container_whose_second_process_is_another_hides_the_rest_too() -> None:
    with pytest.raises(Unavailable):
        daemons({1: "tini", 2: "python3"}).runs("dockerd")


def test_hidepid_hides_the_rest() -> None:
    with pytest.raises(Unavailable):
        daemons({1: "systemd", 2: Ending.DENIED, 900: Ending.DENIED}).runs("dockerd")


def test_a_process_that_ended_meanwhile_is_left_out() -> None:
    found = daemons({1: "systemd", 2: "kthreadd", 44: Ending.ERROR, 45: Ending.ABSENT})
    assert found.names == {"systemd", "kthreadd"}


@pytest.mark.parametrize("missing", [NAMES_PROBE.id, SOCKETS_PROBE.id])
def test_without_its_probes_nothing_is_known(missing: str) -> None:
    with pytest.raises(Unavailable):
        Facts(snapshot({2: "kthreadd"}).without([missing])).get(DAEMONS)


@given(st.binary(max_size=40))
def test_no_name_breaks_it(name: bytes) -> None:
    taken = snapshot({2: "kthreadd"})
    files = {**taken.readings[NAMES_PROBE.id].files, "/proc/3/comm": FileState(Ending.OK, name)}
    reading = Reading(NAMES_PROBE.id, Ending.OK, asked=NAMES_PROBE.paths, files=files)
    found = Facts(Snapshot(taken.manifest, {**taken.readings, NAMES_PROBE.id: reading})).get(DAEMONS)
    assert found.runs("kthreadd")
