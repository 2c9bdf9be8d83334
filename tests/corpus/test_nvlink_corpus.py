"""NVLink states and topologies of real machines, out of a folder of captured outputs.

The folder is named by HOSTCHECK_CORPUS, else it is ../shared/corpus beside the repository.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hostcheck.audit import judge
from hostcheck.checklist import Checklist
from hostcheck.errors import NotApplicable
from hostcheck.facts.cpu import cpu_list, parse_cpu_list
from hostcheck.facts.nvlink_smi import GpuBlock, parse_status, parse_topology
from hostcheck.model import Result
from hostcheck.snapshot.reading import Ending, Reading, Snapshot
from support import host

CORPUS = Path(os.environ.get("HOSTCHECK_CORPUS", Path(__file__).parents[3] / "shared" / "corpus"))
pytestmark = pytest.mark.skipif(not CORPUS.is_dir(), reason=f"the corpus of captured outputs is not at {CORPUS}")


def text(name: str) -> str:
    return (CORPUS / name).read_text("utf-8", "replace")


@pytest.mark.parametrize(
    ("name", "gpus", "links", "speed"), [("nvlink/a100x8-s.txt", 8, 12, 25.0), ("nvlink/h100-s.txt", 1, 18, 26.562)]
)
def test_all_links_are_up(name: str, gpus: int, links: int, speed: float) -> None:
    blocks = parse_status(text(name))
    assert [block.index for block in blocks] == list(range(gpus))
    for block in blocks:
        assert isinstance(block.links, tuple)
        assert [link.number for link in block.links] == list(range(links))
        assert all(link.active and link.speed_gbs == speed for link in block.links)


def test_every_link_down_is_not_no_nvlink() -> None:
    (block,) = parse_status(text("nvlink/azure-a100-all-inactive.txt"))
    assert (block.index, block.links) == (6, ())


@pytest.mark.parametrize("name", ["nvlink/l40s-s.txt", "nvlink/h100mig-s.txt", "mig/h200mig-nvlink-unsupported.txt"])
def test_no_nvlink_and_mig_mode_are_not_applicable(name: str) -> None:
    (block,) = parse_status(text(name))
    assert isinstance(block.links, NotApplicable)


@pytest.mark.parametrize(
    ("name", "device", "status"),
    [
        ("nvlink/a100x8-s.txt", "20B210DE", "pass"),
        ("nvlink/h100-s.txt", "233010DE", "pass"),
        ("nvlink/azure-a100-all-inactive.txt", "20B210DE", "fail"),
        ("nvlink/l40s-s.txt", "26B910DE", "not-applicable"),
        ("nvlink/h100mig-s.txt", "233010DE", "not-applicable"),
        ("mig/h200mig-nvlink-unsupported.txt", "233510DE", "not-applicable"),
    ],
)
def test_the_verdict_on_bare_metal(name: str, device: str, status: str) -> None:
    result = links_of(parse_status(text(name)), text(name), device)
    assert result.status == status, result.findings


def links_of(blocks: tuple[GpuBlock, ...], status: str, device: str) -> Result:
    """Judge the links on the synthetic host, given GPUs of these names and UUIDs."""
    gpus = "".join(
        f'<gpu id="00000000:{0x10 + block.index:02X}:00.0"><product_name>{block.model}</product_name>'
        f"<uuid>{block.uuid}</uuid><minor_number>{block.index}</minor_number>"
        f"<pci><pci_device_id>{device}</pci_device_id></pci></gpu>"
        for block in blocks
    )
    document = f"<nvidia_smi_log><attached_gpus>{len(blocks)}</attached_gpus>{gpus}</nvidia_smi_log>"
    bare = host("bare")
    answers = {"gpu.smi": f'<?xml version="1.0" ?>\n{document}\n', "nvlink.status": status}
    readings = {probe: Reading(probe, Ending.OK, 0, 1.0, 1.0, out=out.encode()) for probe, out in answers.items()}
    run = judge(Snapshot(bare.manifest, {**bare.readings, **readings}), Checklist(only=("nvlink.links",)))
    return next(result for result in run.results if result.id == "nvlink.links")


@pytest.mark.parametrize(
    ("name", "cpus"),
    [("topo/b200-1gpu-vm.txt", "0-29"), ("topo/h100-1gpu-vm.txt", "0-19"), ("topo/h200-1gpu-vm.txt", "0-23")],
)
def test_a_matrix_of_one(name: str, cpus: str) -> None:
    (row,) = parse_topology(text(name)).gpus
    assert (row.subject, row.paths, row.cpus, row.node) == ("gpu0", {}, cpus, "0")


def test_eight_gpus_and_ten_nics() -> None:
    topology = parse_topology(text("topo/h200x8-10nic.txt"))
    assert len(topology.gpus) == 8
    for row in topology.gpus:
        assert [row.bonded(other) for other in range(8) if other != row.index] == [18] * 7
        assert isinstance(row.cpus, str)
        first = row.index < 4
        assert cpu_list(parse_cpu_list(row.cpus)) == ("0-63,128-191" if first else "64-127,192-255")
        assert row.node == ("0" if first else "1")
    near = {row.index: [label for label, path in row.paths.items() if path == "PIX"] for row in topology.gpus}
    assert near == {
        0: ["NIC3"], 1: ["NIC5"], 2: ["NIC4"], 3: ["NIC0", "NIC1", "NIC2"],
        4: ["NIC7"], 5: ["NIC9"], 6: ["NIC8"], 7: ["NIC6"],
    }  # fmt: skip
    assert topology.nics == {f"NIC{number}": f"mlx5_{number}" for number in range(10)}
