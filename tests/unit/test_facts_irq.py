"""The table of interrupts and the processors that handle them."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.errors import NotApplicable, Unavailable
from hostcheck.facts.cpu import CpuTopology, NumaNode
from hostcheck.facts.irq import AFFINITY_PROBE, DeviceIrqs, Irq, _irq, _near, parse_interrupts
from hostcheck.facts.pci import PciFunction
from hostcheck.snapshot.reading import Ending, FileState, Reading
from support import sample


def function(node: int | Unavailable = 0) -> PciFunction:
    none = NotApplicable("not in this test")
    return PciFunction(
        address="0000:1a:00.0", path=("0000:1a:00.0",), vendor_id="15b3", device_id="1021", subsystem_vendor_id="",
        subsystem_device_id="", class_code=0x020000, revision=0, driver="mlx5_core", virtual=False, numa_node=node,
        local_cpulist=none, link=none, power_control=none, runtime_status=none,
    )  # fmt: skip


def nodes(*distances: tuple[int, ...]) -> list[NumaNode]:
    none = Unavailable("not in this test")
    return [
        NumaNode(
            id=id, cpus=frozenset({2 * id, 2 * id + 1}), memory_kib=none, free_kib=none, distances=dict(enumerate(row))
        )
        for id, row in enumerate(distances)
    ]


def cpus(online: int, isolated: frozenset[int] = frozenset()) -> CpuTopology:
    none = Unavailable("not in this test")
    every = frozenset(range(online))
    return CpuTopology(online=every, present=every, models={}, sockets=none, cores=none, smt=none, isolated=isolated)


def test_sample() -> None:
    table = parse_interrupts(sample(parse_interrupts))
    assert table.cpus == (0, 1, 2, 3)
    assert list(table.rows) == [24, 38, 42], "per-CPU sources and ERR have no number"
    row = table.rows[38]
    assert (row.chip, row.name, row.counts) == ("PCI-MSIX-0000:00:03.0", "virtio2-input.0", (0, 450, 0, 0))
    assert table.rows[42].name == "nvidia"


@pytest.mark.parametrize(
    ("tail", "chip", "name"),
    [
        ("IR-PCI-MSIX-0000:86:00.1   76-edge      i40e-ens7f1-TxRx-75", "IR-PCI-MSIX-0000:86:00.1",
         "i40e-ens7f1-TxRx-75"),
        ("GICv3  27 Level     arch_timer", "GICv3", "arch_timer"),
        ("ITS-MSI 524288 Edge      nvidia, nvidia", "ITS-MSI", "nvidia, nvidia"),
        ("Hyper-V PCIe MSI 1048576-edge      mlx5_async0@pci:0001:00:00.0", "Hyper-V PCIe MSI",
         "mlx5_async0@pci:0001:00:00.0"),
        ("IO-APIC   9-fasteoi   acpi", "IO-APIC", "acpi"),
        ("PCI-MSI 65536-edge", "PCI-MSI", ""),
        ("xen-dyn    -event     blkif", "", "xen-dyn    -event     blkif"),
    ],
)  # fmt: skip
def test_rows_of_other_machines(tail: str, chip: str, name: str) -> None:
    row = parse_interrupts(f"  CPU0 CPU1\n 7:  3  12345678901  {tail}").rows[7]
    assert (row.chip, row.name, row.counts) == (chip, name, (3, 12345678901))


def test_cpus_that_are_offline_have_no_column() -> None:
    table = parse_interrupts("      CPU0  CPU2  CPU5\n 7:  1  2  3  PCI-MSI 1-edge x")
    assert table.cpus == (0, 2, 5)
    assert table.rows[7].counts == (1, 2, 3)


@pytest.mark.parametrize("text", ["", "\n\n", "7: 1 2 x", "           CPUx\n 7: 1 x"])
def test_what_is_no_table_is_unavailable(text: str) -> None:
    with pytest.raises(Unavailable):
        parse_interrupts(text)


@pytest.mark.parametrize("counts", ["1 2", "1 2 PCI-MSI", f"1 2 {'3' * 5000}", "1 2 -3"])
def test_a_row_without_a_count_for_each_cpu_is_left_out(counts: str) -> None:
    table = parse_interrupts(f"  CPU0 CPU1 CPU2\n 7: {counts}\n 8: 0 0 0 PCI-MSI 1-edge x")
    assert list(table.rows) == [8]


def test_near_is_the_own_node() -> None:
    assert _near(function(1), cpus(4), nodes((10, 21), (21, 10))) == frozenset({2, 3})


def test_near_holds_the_nodes_of_the_same_socket() -> None:
    four = nodes((10, 12, 32, 32), (12, 10, 32, 32), (32, 32, 10, 12), (32, 32, 12, 10))
    assert _near(function(3), cpus(8), four) == frozenset({4, 5, 6, 7})


def test_near_is_not_asked_of_one_node() -> None:
    assert isinstance(_near(function(), cpus(2), nodes((10,))), NotApplicable)
    gpu_memory = NumaNode(
        id=8, cpus=frozenset(), memory_kib=Unavailable(""), free_kib=Unavailable(""), distances=Unavailable("")
    )
    assert isinstance(_near(function(), cpus(2), [*nodes((10,)), gpu_memory]), NotApplicable)


def test_near_is_unknown_without_a_node() -> None:
    two = nodes((10, 21), (21, 10))
    assert isinstance(_near(function(Unavailable("-1")), cpus(4), two), Unavailable)
    assert isinstance(_near(function(7), cpus(4), two), Unavailable)
    assert isinstance(_near(function(1), cpus(2), two), Unavailable), "none of its CPUs is online"


def irq(
    number: int,
    effective: frozenset[int] | Unavailable | NotApplicable,
    name: str | Unavailable | NotApplicable = "x",
    allowed: frozenset[int] | Unavailable | NotApplicable = frozenset({0, 1, 2, 3}),
) -> Irq:
    return Irq(number=number, name=name, allowed=allowed, effective=effective)


def device(*irqs: Irq) -> DeviceIrqs:
    every = frozenset({0, 1, 2, 3})
    return DeviceIrqs(function=function(), irqs=irqs, near=frozenset({0, 1}), isolated=frozenset(), housekeeping=every)


def test_interrupts_in_use() -> None:
    used = device(
        irq(1, frozenset({2})),
        irq(2, frozenset()),
        irq(3, frozenset({2}), name=""),
        irq(4, NotApplicable("")),
        irq(5, Unavailable("denied"), name=""),
        irq(6, frozenset(), name=Unavailable("denied")),
    ).used
    assert [one.number for one in used] == [1, 4]
    assert used[1].handlers == frozenset({0, 1, 2, 3}), "kernels that tell no more: all that may"


def test_without_names_the_processors_tell_the_use() -> None:
    untold = NotApplicable("no such file")
    used = device(
        irq(1, frozenset({2}), name=untold),
        irq(2, frozenset(), name=untold),
        irq(3, untold, name=untold),
        irq(4, untold, name=untold, allowed=untold),
    ).used
    assert [one.number for one in used] == [1, 3]


def test_no_interrupt_in_use() -> None:
    with pytest.raises(NotApplicable, match="uses no message interrupts"):
        _ = device(irq(1, frozenset({2}), name="")).used
    with pytest.raises(NotApplicable, match="no such file"):
        _ = device(irq(1, NotApplicable(""), allowed=NotApplicable("no such file"))).used


def test_what_was_not_read_is_unknown() -> None:
    for unread in (irq(1, Unavailable("denied")), irq(1, frozenset({2}), name=Unavailable("denied"))):
        with pytest.raises(Unavailable, match="denied"):
            _ = device(irq(0, frozenset({2})), unread).used


def test_files_of_an_interrupt() -> None:
    denied = FileState(Ending.DENIED, b"", "Permission denied")
    reading = Reading(AFFINITY_PROBE.id, Ending.OK, asked=AFFINITY_PROBE.paths, files={
        "/proc/irq/9/smp_affinity_list": FileState(Ending.OK, b"0-2\n"),
        "/proc/irq/9/effective_affinity_list": FileState(Ending.OK, b"\n"),
        "/sys/kernel/irq/9/actions": FileState(Ending.OK, b"ahci,nvidia\n"),
        "/proc/irq/8/smp_affinity_list": FileState(Ending.OK, b"four\n"),
        "/proc/irq/8/effective_affinity_list": denied,
        "/sys/kernel/irq/8/actions": denied,
        "/sys/kernel/irq/7/actions": FileState(Ending.OK, b""),
    })  # fmt: skip
    nine, eight, seven, six = (_irq(reading, number) for number in (9, 8, 7, 6))
    assert (nine.name, nine.allowed, nine.effective) == ("ahci,nvidia", frozenset({0, 1, 2}), frozenset())
    for field in (eight.name, eight.allowed, eight.effective):
        assert isinstance(field, Unavailable)
        assert "/8/" in field.why
        assert field.probe == "irq.affinity"
    assert seven.name == "", "no driver has taken it"
    assert isinstance(seven.allowed, NotApplicable)
    assert isinstance(six.name, NotApplicable)


def test_names_that_nobody_asked_for_are_unknown() -> None:
    """As in an archive of a version that did not read them."""
    asked = ("/proc/irq/*/smp_affinity_list", "/proc/irq/*/effective_affinity_list")
    reading = Reading(AFFINITY_PROBE.id, Ending.OK, asked=asked)
    assert isinstance(_irq(reading, 9).name, Unavailable)


@given(st.text())
def test_no_text_breaks_the_table(text: str) -> None:
    with suppress(Unavailable):
        parse_interrupts(text)


@given(cut=st.integers(0, 400), put=st.text(max_size=6))
def test_no_change_of_the_sample_breaks_the_table(cut: int, put: str) -> None:
    text = sample(parse_interrupts)
    with suppress(Unavailable):
        table = parse_interrupts(text[:cut] + put + text[cut + 1 :])
        assert all(len(row.counts) == len(table.cpus) for row in table.rows.values())
