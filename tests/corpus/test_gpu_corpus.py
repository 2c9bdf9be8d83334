"""Outputs of nvidia-smi that other people published, each with what a reader must conclude from it.

The outputs are no part of this repository. They are looked for in the folder that HOSTCHECK_CORPUS names, else in
`shared/corpus` beside the repository; without them these tests are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest

from hostcheck.errors import NotApplicable, Unavailable
from hostcheck.facts.gpu import Gpu, SmiLog
from hostcheck.facts.gpu_mig import parse_devices
from hostcheck.facts.smi_text import parse_text
from hostcheck.facts.smi_xml import parse_xml

CORPUS = Path(os.environ.get("HOSTCHECK_CORPUS") or Path(__file__).parents[3] / "shared" / "corpus")
FOLDERS = ("smi-xml", "smi-q")

pytestmark = pytest.mark.skipif(
    not (CORPUS / FOLDERS[0]).is_dir(), reason=f"no corpus: {CORPUS} is not there (HOSTCHECK_CORPUS names another)"
)

NA: Literal["n/a"] = "n/a"
UNKNOWN: Literal["?"] = "?"


@dataclass(frozen=True)
class Truth:
    """What one output says; the defaults are those of a healthy GPU.

    Attributes:
        gpus: how many it describes; attached: how many it announces, if that differs.
        temperature: lowest and highest of all its GPUs, in degrees.
        idle_gen: generation now and at most of GPUs in P8, where it is lower now.
        reasons: active clock reasons besides idleness, by index.
        ecc_counts, remapped, retired: counts that are not zero: "index path" to the count.
        width: of 16 lanes, on all of its GPUs.
        slot: generation of GPU and slot together, and of the GPU alone, where the slot is the lower one.
        power: limit in force and default limit, where they differ.
        fabric: state and status; summary: health.
        lost: values that are an error, by index.
    """

    gpus: int
    name: str
    persistence: bool | str = True
    ecc: bool | str = True
    temperature: tuple[int, int] | None = None
    attached: int | str | None = None
    truncated: bool = False
    mig: bool = False
    idle_gen: tuple[int, int] | None = None
    reasons: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    ecc_counts: Mapping[str, int] = field(default_factory=dict)
    remapped: Mapping[str, int | bool] = field(default_factory=dict)
    retired: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    replays: tuple[int, ...] = ()
    width: int | str = 16
    slot: tuple[int, int] | None = None
    power: tuple[float, float] | None = None
    fabric: tuple[str, str] | None = None
    summary: str | None = None
    mig_devices: int = 0
    lost: Mapping[int, int] = field(default_factory=dict)


COMPLETED = ("Completed", "Success")
BRAKED = ("hw_slowdown", "hw_power_brake_slowdown")
CAP = ("sw_power_cap",)
H100, RTX_4090, SUPER = "NVIDIA H100 80GB HBM3", "NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 2080 SUPER"
INJECTED = {"0 volatile.dram_uncorrectable": 5, "0 aggregate.dram_uncorrectable": 8}

TRUTHS = {
    "smi-q/2080s595-idle.txt": Truth(1, SUPER, False, NA, (40, 40), idle_gen=(1, 3)),
    "smi-q/2080s610-load.txt": Truth(1, SUPER, False, NA, (38, 38)),
    "smi-q/azure-retired-pages-clean.txt": Truth(8, UNKNOWN, UNKNOWN, UNKNOWN, width=UNKNOWN),
    "smi-q/gpud-535.129.03.0.valid.a10.txt": Truth(
        1, "NVIDIA A10", temperature=(33, 33), remapped={"0 uncorrectable": 4, "0 pending": True}
    ),
    "smi-q/gpud-535.154.05.0.valid.4090.txt": Truth(8, RTX_4090, True, False, (28, 32), idle_gen=(1, 4)),
    "smi-q/gpud-535.154.05.0.valid.txt": Truth(8, RTX_4090, True, False, (31, 62), idle_gen=(1, 4)),
    "smi-q/gpud-535.154.05.1.valid.txt": Truth(
        8, RTX_4090, True, False, (29, 76), idle_gen=(1, 4), reasons={1: CAP, 4: CAP}
    ),
    "smi-q/gpud-535.154.05.2.valid.txt": Truth(8, RTX_4090, True, False, (29, 74), idle_gen=(1, 4), reasons={4: CAP}),
    "smi-q/gpud-535.161.08.0.valid.txt": Truth(
        8, H100, temperature=(29, 32), reasons=dict.fromkeys(range(8), BRAKED), fabric=COMPLETED,
        replays=(67, 63, 52, 43, 49, 53, 82, 67),
    ),
    "smi-q/gpud-535.183.01.0.invalid.txt": Truth(1, H100, ecc=UNKNOWN, attached=8, truncated=True, replays=(120,)),
    "smi-q/gpud-560.35.03.0.valid.txt": Truth(1, "NVIDIA TITAN V", False, NA, (44, 44), idle_gen=(1, 3)),
    "smi-q/h100-idle.txt": Truth(1, H100, temperature=(41, 41), fabric=COMPLETED, replays=(9,)),
    "smi-q/h100-load.txt": Truth(1, H100, temperature=(59, 59), fabric=COMPLETED, replays=(9,)),
    "smi-q/h100mig-idle.txt": Truth(
        1, H100, temperature=(42, 42), mig=True, mig_devices=4, fabric=COMPLETED, replays=(9,)
    ),
    "smi-q/h100mig-load.txt": Truth(
        1, H100, temperature=(53, 53), mig=True, mig_devices=4, fabric=COMPLETED, replays=(9,)
    ),
    "smi-q/l40s-idle.txt": Truth(1, "NVIDIA L40S", False, temperature=(64, 64)),
    "smi-q/l40s-load.txt": Truth(1, "NVIDIA L40S", False, temperature=(54, 54)),
    "smi-q/win591-idle.txt": Truth(1, SUPER, NA, NA, (40, 40)),
    "smi-xml/mock-qx-a100-healthy.xml": Truth(2, "NVIDIA A100-SXM4-40GB", temperature=(63, 63)),
    "smi-xml/mock-qx-gb200-ecc-injected.xml": Truth(
        2, "NVIDIA GB200", temperature=(63, 63), fabric=COMPLETED, ecc_counts=INJECTED,
        remapped={"0 uncorrectable": 1, "0 failure": True},
    ),
    "smi-xml/mock-qx-gb200-lost.xml": Truth(
        2, "NVIDIA GB200", temperature=(63, 63), fabric=COMPLETED, ecc_counts=INJECTED,
        remapped={"0 uncorrectable": 1, "0 failure": True}, lost={1: 29},
    ),
    "smi-xml/netdata-rtx-2080-win.xml": Truth(1, "NVIDIA GeForce RTX 2080", NA, NA, (29, 29), width=8),
    "smi-xml/netdata-rtx-4090-driver-535.xml": Truth(1, RTX_4090, True, False, (40, 40), idle_gen=(1, 3), slot=(3, 4)),
    "smi-xml/netdata-rtx-pro-6000-driver-580.xml": Truth(
        1, "NVIDIA RTX PRO 6000 Blackwell", UNKNOWN, UNKNOWN, (37, 37), attached=UNKNOWN, width=UNKNOWN
    ),
    "smi-xml/netdata-tesla-p100.xml": Truth(
        1, "Tesla P100-PCIE-16GB", False, temperature=(38, 38), ecc_counts={"0 aggregate.dram_correctable": 3}
    ),
    "smi-xml/pai-nvidia_smi_out_of_order.xml": Truth(
        4, "Tesla K80", False, temperature=(26, 69), idle_gen=(1, 3), retired={0: (1, 1), 1: (1, 1)},
        reasons=dict.fromkeys((0, 1), ("applications_clocks_setting",)),
        ecc_counts={
            "0 aggregate.dram_correctable": 7, "0 aggregate.dram_uncorrectable": 7,
            "1 aggregate.dram_correctable": 34, "1 aggregate.dram_uncorrectable": 4,
        },
    ),
    "smi-xml/pai-nvidia_smi_sample.xml": Truth(2, "GeForce GTX 1070", False, NA, (59, 60), attached=6, width=1),
    "smi-xml/pai-nvidia_smi_sample_ecc_unsupported.xml": Truth(
        2, "GeForce RTX 2080 Ti", False, NA, (24, 24), idle_gen=(1, 3), reasons={1: CAP}
    ),
    "smi-xml/qx-a100-40gb.xml": Truth(1, "NVIDIA A100-SXM4-40GB", temperature=(33, 33)),
    "smi-xml/qx-b200-8gpu.xml": Truth(
        8, "NVIDIA B200", False, temperature=(37, 53), fabric=COMPLETED, summary="Healthy"
    ),
    "smi-xml/qx-gb200-4gpu.xml": Truth(
        4, "NVIDIA GB200", temperature=(26, 28), fabric=COMPLETED, summary="Healthy", slot=(5, 6)
    ),
    "smi-xml/qx-h100-8gpu.xml": Truth(
        8, H100, temperature=(29, 32), fabric=COMPLETED, replays=(150, 144, 174, 158, 145, 172, 162, 106)
    ),
    "smi-xml/qx-l40s.xml": Truth(1, "NVIDIA L40S", temperature=(29, 29), width=8),
    "smi-xml/telegraf-3090-v13.xml": Truth(
        1, "NVIDIA GeForce RTX 3090", True, NA, (32, 32), idle_gen=(1, 4), reasons={0: CAP}
    ),
    "smi-xml/telegraf-a100-sxm4-v12.xml": Truth(
        1, "NVIDIA A100-SXM4-80GB", False, temperature=(27, 27), attached=4, mig=True, mig_devices=4
    ),
    "smi-xml/telegraf-a10g.xml": Truth(1, "NVIDIA A10G", False, temperature=(17, 17), idle_gen=(1, 4), width=8),
    "smi-xml/telegraf-dual_2080-v13.xml": Truth(
        2, "NVIDIA GeForce RTX 2080", True, NA, (15, 15), idle_gen=(1, 3), width=8
    ),
    "smi-xml/telegraf-dual_a5000-v13.xml": Truth(2, "NVIDIA RTX A5000", True, False, (13, 15), idle_gen=(1, 4)),
    "smi-xml/telegraf-gtx-1070-ti.xml": Truth(
        1, "GeForce GTX 1070 Ti", UNKNOWN, UNKNOWN, (39, 39), attached=UNKNOWN
    ),
    "smi-xml/telegraf-gtx-1660-ti.xml": Truth(1, "Graphics Device", False, NA, (40, 40), idle_gen=(1, 3)),
    "smi-xml/telegraf-pro-6000-maxq-blackwell-v13.xml": Truth(
        1, "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", True, False, (24, 24), idle_gen=(1, 4),
        slot=(4, 5),
    ),
    "smi-xml/telegraf-quadro-p2000-v12.xml": Truth(1, "Quadro P2000", True, NA, (34, 34), idle_gen=(1, 3), width=8),
    "smi-xml/telegraf-rtx-3060-v12.xml": Truth(1, "NVIDIA GeForce RTX 3060", True, NA, (42, 42), idle_gen=(1, 4)),
    "smi-xml/telegraf-rtx-3080-v12.xml": Truth(
        1, "NVIDIA GeForce RTX 3080", NA, NA, (31, 31), power=(336.0, 320.0)
    ),
    "smi-xml/telegraf-rtx-3090-v12.xml": Truth(
        1, "NVIDIA GeForce RTX 3090", True, NA, (37, 37), idle_gen=(1, 4), power=(200.0, 350.0)
    ),
    "smi-xml/telegraf-rtx-4000-sff-ada-v13.xml": Truth(
        1, "NVIDIA RTX 4000 SFF Ada Generation", True, False, (38, 38), idle_gen=(1, 4)
    ),
    "smi-xml/telegraf-tesla-t4.xml": Truth(1, "Tesla T4", False, temperature=(40, 40), width=8),
}  # fmt: skip


@cache
def log(name: str) -> SmiLog:
    text = (CORPUS / name).read_text("utf-8")
    return parse_xml(text) if name.startswith("smi-xml/") else parse_text(text)


def plain(value: Any) -> Any:
    """Return a value, or one word for why there is none."""
    return NA if isinstance(value, NotApplicable) else UNKNOWN if isinstance(value, Unavailable) else value


def counted(gpus: tuple[Gpu, ...], of: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Return those of several fields of all GPUs that are neither zero nor missing: "index name" to the value."""
    found: dict[str, Any] = {}
    for gpu in gpus:
        for name in names:
            value: Any = gpu
            for part in f"{of}.{name}".split("."):
                value = getattr(value, part)
            if plain(value) not in (0, NA, UNKNOWN):
                found[f"{gpu.index} {name}"] = value
    return found


def test_every_file_has_its_truth() -> None:
    there = {f"{folder}/{path.name}" for folder in FOLDERS for path in (CORPUS / folder).iterdir()}
    assert there == set(TRUTHS)


@pytest.mark.parametrize("name", TRUTHS)
def test_the_report_as_a_whole(name: str) -> None:
    truth, read = TRUTHS[name], log(name)
    assert len(read.gpus) == truth.gpus
    assert plain(read.attached) == (truth.gpus if truth.attached is None else truth.attached)
    assert read.truncated is truth.truncated
    assert (read.unreadable, read.notes) == ((), ())
    if truth.attached is None:
        assert [gpu.index for gpu in read.gpus] == list(range(truth.gpus))


@pytest.mark.parametrize("name", TRUTHS)
def test_modes(name: str) -> None:
    truth = TRUTHS[name]
    for gpu in log(name).gpus:
        assert plain(gpu.name) == truth.name
        assert plain(gpu.persistence_mode) == truth.persistence
        assert plain(gpu.ecc.current) == plain(gpu.ecc.pending) == truth.ecc or truth.truncated
        assert (gpu.mig.current is True) == truth.mig
        devices = gpu.mig.devices
        assert (len(devices) if isinstance(devices, tuple) else 0) == truth.mig_devices


@pytest.mark.parametrize("name", TRUTHS)
def test_memory_errors(name: str) -> None:
    truth, gpus = TRUTHS[name], log(name).gpus
    kinds = ("sram_correctable", "sram_uncorrectable", "dram_correctable", "dram_uncorrectable")
    both = tuple(f"{period}.{kind}" for period in ("volatile", "aggregate") for kind in kinds)
    assert counted(gpus, "ecc", both) == truth.ecc_counts
    assert counted(gpus, "remapped_rows", ("correctable", "uncorrectable", "pending", "failure")) == truth.remapped
    retired = {gpu.index: (plain(gpu.retired_pages.single_bit), plain(gpu.retired_pages.double_bit)) for gpu in gpus}
    assert {index: pages for index, pages in retired.items() if set(pages) - {0, NA, UNKNOWN}} == truth.retired
    for gpu in gpus:
        total = plain(gpu.ecc.aggregate.total_uncorrectable)
        parts = [plain(gpu.ecc.aggregate.sram_uncorrectable), plain(gpu.ecc.aggregate.dram_uncorrectable)]
        known = [part for part in parts if isinstance(part, int)]
        assert total == sum(known) if known and UNKNOWN not in parts else not isinstance(total, int)
        assert plain(gpu.ecc.unrepairable_memory) in (False, NA, UNKNOWN)


@pytest.mark.parametrize("name", TRUTHS)
def test_clocks_power_and_heat(name: str) -> None:
    truth, gpus = TRUTHS[name], log(name).gpus
    active = {gpu.index: tuple(reason for reason in gpu.clocks.active if reason != "gpu_idle") for gpu in gpus}
    assert {index: reasons for index, reasons in active.items() if reasons} == truth.reasons
    degrees = [gpu.temperature.gpu_c for gpu in gpus if isinstance(gpu.temperature.gpu_c, int)]
    assert ((min(degrees), max(degrees)) if degrees else None) == truth.temperature
    for gpu in gpus:
        limit, default = plain(gpu.power.limit_w), plain(gpu.power.default_limit_w)
        assert (limit, default) == truth.power if truth.power else limit == default


@pytest.mark.parametrize("name", TRUTHS)
def test_links(name: str) -> None:
    truth, gpus = TRUTHS[name], log(name).gpus
    assert {plain(gpu.pcie.width) for gpu in gpus} == {truth.width}
    replays = tuple(gpu.pcie.replays for gpu in gpus)
    assert replays == truth.replays or (not truth.replays and {plain(count) for count in replays} <= {0, UNKNOWN})
    slow = {
        (gpu.pcie.gen, gpu.pcie.max_gen)
        for gpu in gpus
        if isinstance(gpu.pcie.gen, int) and isinstance(gpu.pcie.max_gen, int) and gpu.pcie.gen < gpu.pcie.max_gen
    }
    assert slow == ({truth.idle_gen} if truth.idle_gen else set())
    assert all(gpu.performance_state == "P8" for gpu in gpus if (gpu.pcie.gen, gpu.pcie.max_gen) in slow)
    held = {
        (gpu.pcie.max_gen, gpu.pcie.device_max_gen)
        for gpu in gpus
        if isinstance(gpu.pcie.device_max_gen, int) and gpu.pcie.max_gen != gpu.pcie.device_max_gen
    }
    assert held == ({truth.slot} if truth.slot else set())


@pytest.mark.parametrize("name", TRUTHS)
def test_fabric_and_lost_gpus(name: str) -> None:
    truth = TRUTHS[name]
    for gpu in log(name).gpus:
        assert len(gpu.faults) == truth.lost.get(gpu.index, 0)
        known = (plain(gpu.fabric.state), plain(gpu.fabric.status))
        if gpu.faults:
            assert known == (UNKNOWN, UNKNOWN)
            assert all(fault.endswith(": GPU is lost") for fault in gpu.faults)
            assert "fabric/health/summary: GPU is lost" in gpu.faults
        else:
            assert known == truth.fabric if truth.fabric else set(known) <= {NA, UNKNOWN}
            assert (
                plain(gpu.fabric.summary) == truth.summary
                if truth.summary
                else plain(gpu.fabric.summary)
                in (
                    NA,
                    UNKNOWN,
                )
            )


def test_gpus_out_of_order_are_numbered_by_address_not_by_minor_number() -> None:
    gpus = log("smi-xml/pai-nvidia_smi_out_of_order.xml").gpus
    assert [(gpu.index, gpu.minor, gpu.bus_id) for gpu in gpus] == [
        (0, 1, "1580:00:00.0"),
        (1, 2, "2df7:00:00.0"),
        (2, 3, "4968:00:00.0"),
        (3, 0, "f8d6:00:00.0"),
    ]


def test_one_of_four_gpus_keeps_its_own_number() -> None:
    assert [gpu.index for gpu in log("smi-xml/telegraf-a100-sxm4-v12.xml").gpus] == [1]


def test_a_reduced_report_is_mostly_unknown() -> None:
    for name in ("smi-xml/telegraf-gtx-1070-ti.xml", "smi-xml/netdata-rtx-pro-6000-driver-580.xml"):
        read = log(name)
        assert isinstance(read.driver_version, Unavailable)
        gpu = read.gpus[0]
        for missing in (gpu.persistence_mode, gpu.serial, gpu.ecc.current, gpu.remapped_rows.pending, gpu.pcie.replays):
            assert isinstance(missing, Unavailable)
        assert gpu.performance_state == "P8"


def test_a_part_of_a_report_holds_only_that_part() -> None:
    for gpu in log("smi-q/azure-retired-pages-clean.txt").gpus:
        assert (gpu.retired_pages.single_bit, gpu.retired_pages.double_bit, gpu.retired_pages.pending) == (0, 0, False)
        assert isinstance(gpu.uuid, Unavailable)


def test_what_needs_privilege_is_no_fault() -> None:
    for gpu in log("smi-xml/qx-b200-8gpu.xml").gpus:
        assert gpu.denied == ("power_smoothing: Insufficient Permissions",)
        assert gpu.faults == ()


def test_limits_of_driver_610_stand_one_level_deeper() -> None:
    power = log("smi-q/2080s610-load.txt").gpus[0].power
    assert (power.limit_w, power.requested_limit_w, power.min_limit_w, power.draw_w) == (250.0, 250.0, 105.0, 97.75)
    assert log("smi-q/2080s610-load.txt").driver_version == "610.57.04"


@pytest.mark.parametrize(
    ("name", "devices"), [("h100-L.txt", ()), ("h100mig-L.txt", ("3g.40gb", "2g.20gb", "1g.10gb", "1g.10gb"))]
)
def test_mig_devices_of_a_list(name: str, devices: tuple[str, ...]) -> None:
    assert parse_devices((CORPUS / "smi-list" / name).read_text()) == {0: devices}
