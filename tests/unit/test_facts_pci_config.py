"""Configuration space and access control: the bytes of a PLX 8749's port, against lspci, and hostile ones."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.errors import Unavailable
from hostcheck.facts.pci_acs import CONFIG, SwitchPort
from hostcheck.facts.pci_config import BITS, DOWNSTREAM, access_control, port_type, without_serial
from hostcheck.snapshot.archive import read_archive
from hostcheck.snapshot.local import collect
from hostcheck.snapshot.program import program
from hostcheck.snapshot.reading import Ending, FileState, Manifest, Reading, Snapshot
from hostcheck.snapshot.redact import redact
from support import content

SERIAL = "000edfb5100087ca"
PLX: Mapping[str, object] = {
    "size": 4096,
    "0": "b510498707041000ca00040600000100",
    "18": "02040400",
    "34": "40",
    "40": "014803c80800000005688701",
    "68": "10a462010180000010080900826879100000010080",
    "a4": "0d000000b5104987",
    "100": f"030041fb{SERIAL}",
    "fb4": "01008113",
    "138": "0400c110",
    "10c": "19008114",
    "148": "020001e0",
    "e00": "120041f2",
    "f24": "0d0001b77f001d00",
    "b70": "0b000100",
}


def port(**changes: object) -> bytes:
    """Return the port's bytes with others at some places, such as at_f24="0d0001b7"."""
    return content({**PLX, **{place.removeprefix("at_"): told for place, told in changes.items()}})


def test_a_downstream_port_as_the_kernel_sets_it() -> None:
    assert port_type(port()) == DOWNSTREAM
    assert access_control(port()) == 0x1D


def test_it_reads_what_lspci_reads(tmp_path: Path) -> None:
    """Every value of the control register, and every type of port, as lspci prints them."""
    if shutil.which("lspci") is None:
        assert not os.environ.get("CI"), "lspci is missing; scripts/install-test-parts installs it"
        pytest.skip("lspci is not installed (scripts/install-test-parts)")
    ports = {}
    for value in range(128):
        kind = 4 + value % 3
        ports[f"{value // 32:02x}:{value % 32:02x}.0"] = port(
            at_f24=f"0d0001b77f00{value:02x}00", at_68=f"10a4{kind << 4 | 2:02x}010180000010080900"
        )
    dump = tmp_path / "dump"
    dump.write_text("".join(f"{address} PCI bridge: x\n{lines(data)}\n" for address, data in ports.items()))
    told = subprocess.run(["lspci", "-F", dump, "-vvv"], capture_output=True, text=True, check=True).stdout
    seen = 0
    for block in told.strip().split("\n\n"):
        data = ports[block.split()[0]]
        words = re.search(r"ACSCtl:\s*(.*)", block)
        assert words is not None
        control = access_control(data) or 0
        assert [word[-1] == "+" for word in words[1].split()] == [bool(control >> place & 1) for place in range(7)]
        assert [word[:-1] for word in words[1].split()] == list(BITS)
        kinds = {"Root Port": 4, "Upstream Port": 5, "Downstream Port": 6}
        assert port_type(data) == next(kind for name, kind in kinds.items() if name in block)
        seen += 1
    assert seen == 128


def lines(data: bytes) -> str:
    return "".join(f"{at:02x}: {data[at : at + 16].hex(' ')}\n" for at in range(0, len(data), 16))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (port()[:64], "only root"),
        (port()[:256], "only 256 of 4096"),
        (port()[:4000], "only 4000 of 4096"),
        (b"", "only 0 of 4096"),
        (b"\xff" * 4096, "does not answer"),
        (b"\xff" * 64, "does not answer"),
        (port(at_100="ffffffff"), "do not answer"),
        (port(at_f24="0d0001b77f00ffff"), "does not answer"),
        (port(at_fb4="01000110"), "leads to 0x100"),  # back to the first one
        (port(at_fb4="01000104"), "leads to 0x40"),
    ],
    ids=["user", "legacy", "cut", "empty", "gone", "gone for a user", "no list", "no register", "loop", "out"],
)
def test_what_cannot_be_is_unknown(data: bytes, why: str) -> None:
    with pytest.raises(Unavailable, match=why):
        access_control(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (port()[:64], "only root"),
        (port(at_48="0540"), "leads to 0x40"),
        (port(at_34="10"), "leads to 0x10"),
        (port(at_06="00"), "no PCI Express"),
        (port(at_48="0500"), "no PCI Express"),
    ],
    ids=["user", "loop", "out", "no list", "not in the list"],
)
def test_a_port_of_no_known_type_is_unknown(data: bytes, why: str) -> None:
    with pytest.raises(Unavailable, match=why):
        port_type(data)


def test_no_access_control_is_knowledge() -> None:
    assert access_control(port(at_e00="12000100")) is None
    assert access_control(content({"size": 4096, "0": "b5104987"})) is None


@given(st.binary(max_size=300), st.integers(0, 4095), st.sampled_from([0, 64, 256, 4096]))
def test_no_bytes_raise_anything_else(noise: bytes, at: int, size: int) -> None:
    data = bytearray(port())
    data[at : at + len(noise)] = noise
    data = data[:size]
    for read in (access_control, port_type):
        with suppress(Unavailable):
            read(bytes(data))
    assert len(without_serial(bytes(data))) <= size


def test_only_what_redirects_counts() -> None:
    def routing(control: int) -> str:
        pair = {"below": ("0000:19:00.0",), "peers": ("0000:1a:00.0",)}
        return SwitchPort(address="0000:17:01.0", needed=True, control=control, **pair).routing

    direct = [control for control in range(64) if routing(control) == "direct"]
    assert direct == [control for control in range(64) if not control & 0b101100]


def test_a_serial_number_is_masked_and_the_verdict_stays() -> None:
    path = "/sys/bus/pci/drivers/pcieport/0000:17:01.0/config"
    hostile = port(at_fb4="01000110")
    files = {path: FileState(Ending.OK, port()), path.replace("01.0", "02.0"): FileState(Ending.OK, hostile)}
    reading = Reading(CONFIG.id, Ending.OK, 0, asked=CONFIG.paths, files=files)
    masked = redact(Snapshot(Manifest(2, "test", "local", 0.0, 0.0, "h", 0), {CONFIG.id: reading}))
    told = [state.data for state in masked.readings[CONFIG.id].files.values()]
    assert bytes.fromhex(SERIAL) in port()
    assert told[0] == port(at_100="030041fb" + "00" * 8)
    assert access_control(told[0]) == 0x1D
    assert not any(bytes.fromhex(SERIAL) in data for data in told)
    with pytest.raises(Unavailable):
        access_control(told[1])


@pytest.mark.parametrize("command", [["dash"], ["bash"], ["busybox", "sh"]], ids=" ".join)
def test_both_producers_bring_the_very_bytes(command: list[str], tmp_path: Path) -> None:
    """Zeros, line ends and every other byte come through head, the archive and its reader as they were."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed (scripts/install-test-parts)")
    folder = tmp_path / "sys/bus/pci/drivers/pcieport"
    ports = {"0000:17:01.0": port(), "0000:17:02.0": port(at_200=bytes(range(256)).hex()), "0000:17:03.0": port()[:64]}
    for address, data in ports.items():
        (folder / address).mkdir(parents=True)
        (folder / address / "config").write_bytes(data)
    text = program([CONFIG]).replace("/sys/bus/pci/drivers/pcieport", str(folder))
    done = subprocess.run([*command, "-s"], input=text.encode(), capture_output=True, timeout=180, check=True)
    remote, local = read_archive(done.stdout), collect([CONFIG], root=str(tmp_path))
    for snapshot, root in ((remote, str(tmp_path)), (local, "")):
        files = snapshot.readings[CONFIG.id].files
        seen = {path.removeprefix(root).split("/")[6]: state.data for path, state in files.items()}
        assert seen == ports
