"""PCI functions, paths, links and error counters from sysfs texts, healthy, odd and hostile."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.errors import NotApplicable, Unavailable
from hostcheck.facts.aer import AER, ERRORS, parse_aer
from hostcheck.facts.base import Facts
from hostcheck.facts.gpu import Gpu
from hostcheck.facts.gpu_types import Pcie
from hostcheck.facts.pci import (
    DEVICES,
    FUNCTIONS,
    LINKS,
    LISTING,
    PCI,
    PciTree,
    address_of,
    parse_path,
    parse_speed,
    parse_width,
)
from hostcheck.facts.pci_links import gpu_links, hops
from hostcheck.facts.platform import Platform
from hostcheck.snapshot.reading import Ending, Entry, FileState, Manifest, Reading, Snapshot
from support import sample

ROOT_PORT = "0000:15:01.0"
UP, DOWN, DOWN2, GPU, NIC = "0000:16:00.0", "0000:17:01.0", "0000:17:02.0", "0000:19:00.0", "0000:1a:00.0"
PATHS = {
    ROOT_PORT: f"../../../devices/pci0000:15/{ROOT_PORT}",
    UP: f"../../../devices/pci0000:15/{ROOT_PORT}/{UP}",
    DOWN: f"../../../devices/pci0000:15/{ROOT_PORT}/{UP}/{DOWN}",
    DOWN2: f"../../../devices/pci0000:15/{ROOT_PORT}/{UP}/{DOWN2}",
    GPU: f"../../../devices/pci0000:15/{ROOT_PORT}/{UP}/{DOWN}/{GPU}",
    NIC: f"../../../devices/pci0000:15/{ROOT_PORT}/{UP}/{DOWN2}/{NIC}",
}
GEN5 = {
    "current_link_speed": "32.0 GT/s PCIe",
    "current_link_width": "16",
    "max_link_speed": "32.0 GT/s PCIe",
    "max_link_width": "16",
}


def identity(vendor: str, device: str, kind: str, **more: str) -> dict[str, str]:
    texts = {"vendor": vendor, "device": device, "class": kind, "revision": "0xa1", "numa_node": "0"}
    return {**texts, "local_cpulist": "0-31", "power/control": "on", "power/runtime_status": "active", **more}


FUNCTIONS_TEXT = {
    ROOT_PORT: identity("0x8086", "0x352a", "0x060400"),
    UP: identity("0x1000", "0xc030", "0x060400"),
    DOWN: identity("0x1000", "0xc030", "0x060400"),
    DOWN2: identity("0x1000", "0xc030", "0x060400"),
    GPU: identity("0x10de", "0x2330", "0x030200", subsystem_vendor="0x10de", subsystem_device="0x16c1"),
    NIC: identity("0x15b3", "0x1021", "0x020700"),
}


def probe(asked: tuple[str, ...], id: str, texts: dict[str, dict[str, str]]) -> Reading:
    files = {
        f"{DEVICES}/{address}/{name}": FileState(Ending.OK, f"{text}\n".encode())
        for address, attributes in texts.items()
        for name, text in attributes.items()
    }
    return Reading(id, Ending.OK, asked=asked, files=files)


def snapshot(
    functions: dict[str, dict[str, str]] | None = None,
    links: dict[str, dict[str, str]] | None = None,
    paths: dict[str, str] | None = None,
    more: dict[str, str] | None = None,
) -> Snapshot:
    paths = PATHS if paths is None else paths
    entries = {f"{DEVICES}/{address}": Entry("l", target=target) for address, target in paths.items()}
    entries |= {path: Entry("l", target=target) for path, target in (more or {}).items()}
    readings = (
        Reading(LISTING.id, Ending.OK, asked=LISTING.paths, entries=entries),
        probe(FUNCTIONS.paths, FUNCTIONS.id, FUNCTIONS_TEXT if functions is None else functions),
        probe(LINKS.paths, LINKS.id, dict.fromkeys(paths, GEN5) if links is None else links),
    )
    manifest = Manifest(1, "test", "local", 0.0, 0.0, "host", 0)
    return Snapshot(manifest, {reading.probe: reading for reading in readings})


def tree(**fields: Any) -> PciTree:
    return Facts(snapshot(**fields)).get(PCI)


def test_samples() -> None:
    assert parse_path(sample(parse_path)) == (ROOT_PORT, UP, DOWN, GPU)
    assert parse_speed(sample(parse_speed)) == 32.0
    assert parse_width(sample(parse_width)) == 16
    counts = parse_aer(sample(parse_aer))
    assert counts["RxErr"] == 2
    assert sum(counts.values()) == 2, "the line of the total is no error of its own"


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("../../../devices/pci0000:00/0000:00:06.0", ("0000:00:06.0",)),
        # Intel VMD: the drives are in a domain that begins below the controller.
        (
            "../../../devices/pci0000:ae/0000:ae:05.5/pci10000:00/10000:00:02.0/10000:01:00.0",
            ("10000:00:02.0", "10000:01:00.0"),
        ),
        # Hyper-V: each device is its own domain, under the VM bus.
        (
            "../../../devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0004:00/VMBUS:00/47505500-0001-0000/pci0001:00/0001:00:00.0",
            ("0001:00:00.0",),
        ),
        ("../../../devices/platform/30c00000.pcie/pci0002:00/0002:00:00.0", ("0002:00:00.0",)),
        ("", ()),
        ("../../../devices/pci0000:00/evil\n0000:00:06.0", ()),
    ],
)
def test_paths_start_at_the_last_root(target: str, path: tuple[str, ...]) -> None:
    assert parse_path(target) == path


@pytest.mark.parametrize(
    ("bus_id", "address"),
    [
        ("00000000:53:00.0", "0000:53:00.0"),
        ("00000000:3B:00.0", "0000:3b:00.0"),
        ("3b:00.0", "0000:3b:00.0"),
        ("00010000:01:00.0", "10000:01:00.0"),
        ("0009:01:00", "0009:01:00.0"),
        ("N/A", "N/A"),
    ],
)
def test_addresses_of_every_tool_meet(bus_id: str, address: str) -> None:
    assert address_of(bus_id) == address


@pytest.mark.parametrize("text", ["Unknown", "Unknown speed", None])
def test_a_speed_that_the_function_does_not_know_is_not_applicable(text: str | None) -> None:
    assert isinstance(parse_speed(text), NotApplicable)


@pytest.mark.parametrize("text", ["", "fast", "0.0 GT/s PCIe", "-8 GT/s", "8 MT/s"])
def test_a_speed_that_is_none_is_unavailable(text: str) -> None:
    assert isinstance(parse_speed(text), Unavailable)


def test_old_kernels_write_speeds_short() -> None:
    assert parse_speed("8 GT/s") == 8.0
    assert parse_speed("2.5 GT/s") == 2.5


def test_widths_that_are_no_widths() -> None:
    assert isinstance(parse_width("0"), NotApplicable)
    assert isinstance(parse_width("255"), NotApplicable)
    assert isinstance(parse_width("63"), Unavailable), "all ones: the device does not answer"
    assert isinstance(parse_width("x16"), Unavailable)


def test_a_tree() -> None:
    found = tree()
    assert [gpu.address for gpu in found.gpus] == [GPU]
    gpu = found.gpus[0]
    assert (gpu.subject, gpu.pci, gpu.traits) == (GPU, "10de:2330", {"pci": "10de:2330"})
    assert (gpu.class_code, gpu.revision, gpu.numa_node, gpu.driver) == (0x030200, 0xA1, 0, None)
    assert (gpu.subsystem_vendor_id, gpu.subsystem_device_id) == ("10de", "16c1")
    assert [bridge.address for bridge in found.parents(gpu)] == [DOWN, UP, ROOT_PORT]
    assert found.get("00000000:19:00.0") is gpu
    assert found.get("00000000:20:00.0") is None
    assert [nic.address for nic in found.nics] == [NIC]
    assert found.by_address[NIC].subsystem_vendor_id == ""


def test_kinds() -> None:
    texts = {
        "0000:01:00.0": identity("0x10de", "0x22a3", "0x068000"),
        "0000:02:00.0": identity("0x10de", "0x0373", "0x068000"),  # nForce Ethernet of 2006
        "0000:03:00.0": identity("0x1a03", "0x2000", "0x030000"),  # the BMC's graphics
        "0000:04:00.0": identity("0x1002", "0x74a1", "0x120000"),
        "0000:05:00.0": identity("0x144d", "0xa808", "0x010802"),
    }
    found = tree(functions=texts, links={}, paths={a: f"../../../devices/pci0000:00/{a}" for a in texts})
    assert [function.address for function in found.nvswitches] == ["0000:01:00.0"]
    assert found.gpus == ()
    assert found.by_address["0000:04:00.0"].is_amd_gpu
    assert found.by_address["0000:05:00.0"].is_nvme
    assert isinstance(found.by_address["0000:05:00.0"].link, NotApplicable)


def test_drivers_and_virtual_functions() -> None:
    found = Facts(
        snapshot(
            more={
                f"{DEVICES}/{GPU}/driver": "../../../bus/pci/drivers/nvidia",
                f"{DEVICES}/{NIC}/driver": "../../../../bus/pci/drivers/vfio-pci",
                f"{DEVICES}/{NIC}/physfn": "../0000:1a:00.1",
            }
        )
    ).get(PCI)
    assert found.by_address[GPU].driver == "nvidia"
    assert found.by_address[NIC].virtual
    assert found.by_address[NIC].is_passed_through
    assert found.nics == (), "a virtual function is no NIC of the host's own"
    assert found.by_address[UP].driver is None


def test_a_virtual_gpu_of_this_host_is_no_gpu() -> None:
    found = Facts(snapshot(more={f"{DEVICES}/{GPU}/physfn": "../0000:18:00.0"})).get(PCI)
    assert found.gpus == ()


def test_a_node_that_the_firmware_does_not_name_is_unavailable() -> None:
    found = tree(functions={**FUNCTIONS_TEXT, GPU: identity("0x10de", "0x2330", "0x030200", numa_node="-1")})
    assert isinstance(found.by_address[GPU].numa_node, Unavailable)


def test_a_suspended_function_has_no_link_to_judge() -> None:
    asleep = identity("0x10de", "0x2330", "0x030200", **{"power/runtime_status": "suspended"})
    assert isinstance(tree(functions={**FUNCTIONS_TEXT, GPU: asleep}).by_address[GPU].link, Unavailable)


def test_without_links_the_rest_is_known() -> None:
    found = Facts(snapshot().without([LINKS.id])).get(PCI)
    assert found.gpus[0].pci == "10de:2330"
    assert isinstance(found.gpus[0].link, Unavailable)


@pytest.mark.parametrize("missing", [LISTING.id, FUNCTIONS.id])
def test_without_its_probes_there_is_no_tree(missing: str) -> None:
    with pytest.raises(Unavailable):
        Facts(snapshot().without([missing])).get(PCI)


def test_nothing_visible_is_not_nothing_there() -> None:
    with pytest.raises(Unavailable, match="not visible"):
        tree(paths={}, functions={}, links={})
    empty = snapshot(paths={}, functions={}, links={}, more={DEVICES: ""})
    assert Facts(empty).get(PCI).functions == ()


def test_what_cannot_be_understood_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="hexadecimal"):
        tree(functions={**FUNCTIONS_TEXT, GPU: identity("ten-de", "0x2330", "0x030200")})


def test_hops_leave_out_switches_insides_and_the_gpu_s_own_link() -> None:
    assert [(hop.upper.address, hop.lower.address) for hop in hops(tree())] == [(ROOT_PORT, UP), (DOWN2, NIC)]


def test_a_hop_is_judged_by_both_ends() -> None:
    narrow = {**GEN5, "max_link_width": "8", "current_link_width": "8", "max_link_speed": "16.0 GT/s PCIe"}
    found = hops(tree(links={**dict.fromkeys(PATHS, GEN5), DOWN2: narrow}))
    hop = next(hop for hop in found if hop.lower.address == NIC)
    assert (hop.max_width, hop.max_speed_gts) == (8, 16.0)


def bare(hypervisor: str = "") -> Platform:
    missing = Unavailable("not in this test")
    return Platform(
        vendor=missing, product=missing, bios_vendor=missing, bios_version=missing, bios_date=missing, form="",
        cloud="",
        os_id=missing, os_name=missing, os_version=missing, kernel=missing, architecture=missing, page_size=missing,
        kind="vm" if hypervisor else "bare-metal", hypervisor=hypervisor, container="",
    )  # fmt: skip


def test_a_gpu_link_puts_driver_and_kernel_together() -> None:
    pcie = Pcie(gen=1, device_max_gen=5, host_max_gen=4, width=8, max_width=16)
    gpus = [Gpu(index=0, bus_id=GPU, source="test", pcie=pcie, performance_state="P8")]
    (link,) = gpu_links(tree(), gpus, bare())
    assert (link.subject, link.width, link.card_width, link.slot_width) == ("gpu0", 8, 16, 16)
    assert (link.speed_gts, link.card_speed_gts, link.slot_speed_gts) == (2.5, 32.0, 16.0)
    (alone,) = gpu_links(tree(), Unavailable("timeout"), bare())
    assert (alone.subject, alone.width, alone.slot_width) == (GPU, 16, 16)
    assert isinstance(alone.performance_state, Unavailable)
    (told,) = gpu_links(Unavailable("denied"), gpus, bare())
    assert (told.subject, told.width) == ("gpu0", 8)
    assert isinstance(told.slot_width, Unavailable)


def test_in_a_guest_no_slot_is_believed() -> None:
    (link,) = gpu_links(tree(), Unavailable("timeout"), bare("kvm"))
    assert isinstance(link.slot_width, Unavailable)


def aer(first: str, last: str, *, service: bool = True) -> Snapshot:
    names = ("aer_dev_correctable", "aer_dev_nonfatal", "aer_dev_fatal")
    texts = [{UP: dict.fromkeys(names, text)} for text in (first, last)]
    before, after = (probe(ERRORS.paths, ERRORS.id, text) for text in texts)
    reading = Reading(ERRORS.id, Ending.OK, asked=before.asked, files=before.files, later=after)
    more = {f"/sys/bus/pci_express/drivers/aer/{ROOT_PORT}:pcie002": ""} if service else {}
    base = snapshot(more=more)
    return Snapshot(base.manifest, {**base.readings, ERRORS.id: reading})


def test_errors_grow() -> None:
    (counters,) = Facts(aer("RxErr 2\nBadTLP 0\nTOTAL_ERR_COR 2", "RxErr 5\nBadTLP 1\nTOTAL_ERR_COR 6")).get(AER)
    assert counters.subject == UP
    assert counters.correctable == {"RxErr": 2, "BadTLP": 0}
    assert (counters.correctable_growth, counters.fatal_growth) == (4, 4)


def test_errors_of_4_19_have_names_of_several_words() -> None:
    assert parse_aer("Receiver Error 2\nBad TLP 0\nTOTAL_ERR_COR 2") == {"Receiver Error": 2, "Bad TLP": 0}


def test_counters_that_nobody_feeds_are_not_applicable() -> None:
    with pytest.raises(NotApplicable, match="firmware"):
        Facts(aer("RxErr 0", "RxErr 0", service=False)).get(AER)


def test_three_hundred_functions_are_cheap() -> None:
    texts, links, paths = {}, {}, {}
    for bus in range(1, 151):
        port, device = f"0000:{bus:02x}:00.0", f"0001:{bus:02x}:00.0"
        texts[port], texts[device] = identity("0x8086", "0x352a", "0x060400"), identity("0x15b3", "0x1021", "0x020700")
        links[port] = links[device] = GEN5
        paths[port] = f"../../../devices/pci0000:{bus:02x}/{port}"
        paths[device] = f"{paths[port]}/{device}"
    taken = snapshot(functions=texts, links=links, paths=paths)
    start = time.perf_counter()
    found = Facts(taken).get(PCI)
    assert (len(found.functions), len(hops(found))) == (300, 150)
    assert time.perf_counter() - start < 1.0


@pytest.mark.parametrize("parse", [parse_path, parse_speed, parse_width, parse_aer, address_of])
@given(text=st.text())
def test_no_text_breaks_a_parser(parse: Callable[[str], object], text: str) -> None:
    with suppress(Unavailable, NotApplicable):
        parse(text)


@given(cut=st.integers(0, 90), put=st.text(max_size=5))
def test_no_change_of_a_sample_breaks_its_parser(cut: int, put: str) -> None:
    for parse in (parse_path, parse_speed, parse_width, parse_aer):
        text = sample(parse)
        with suppress(Unavailable, NotApplicable):
            parse(text[:cut] + put + text[cut + 1 :])


@given(
    attribute=st.sampled_from([*identity("", "", "")]),
    text=st.one_of(st.text(max_size=12), st.sampled_from(["0x", "-1", "99999999999999", "٣"])),
)
def test_no_attribute_breaks_the_tree(attribute: str, text: str) -> None:
    changed = {**FUNCTIONS_TEXT[GPU], attribute: text}
    try:
        found = tree(functions={**FUNCTIONS_TEXT, GPU: changed})
    except Unavailable:
        return
    assert found.gpus is not None
    assert hops(found)
