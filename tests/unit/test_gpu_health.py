"""What several sources together tell about GPUs: board classes, the driver's answer, the inventory, CPU affinity."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hostcheck.errors import NotApplicable, Unavailable
from hostcheck.facts.gpu_health import (
    board_class,
    compare_affinity,
    count_replays,
    gather_faults,
    judge_response,
    take_inventory,
)
from hostcheck.facts.gpu_reports import Driver, DriverGpu, NvmlLog, SmiLog
from hostcheck.facts.gpu_types import Gpu, Pcie
from hostcheck.snapshot.probes import NVIDIA_DRIVER
from hostcheck.snapshot.reading import Ending, Reading

GPU = Gpu(index=0, bus_id="0000:19:00.0", source="test", name="NVIDIA H200")
LOADED, NONE = Driver(loaded=True, version="580.159.04"), Unavailable("not asked")
SMI = Reading("gpu.smi", Ending.OK, 0, 1.5)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA H200", "data-centre"), ("NVIDIA A100-SXM4-40GB", "data-centre"), ("Tesla T4", "data-centre"),
        ("NVIDIA L40S", "data-centre"), ("NVIDIA GB200", "data-centre"), ("NVIDIA A10G", "data-centre"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "data-centre"), ("NVIDIA GeForce RTX 4090", "consumer"),
        ("GeForce GTX 1070", "consumer"), ("NVIDIA TITAN V", "consumer"), ("Graphics Device", "consumer"),
        ("Quadro P2000", "workstation"), ("NVIDIA RTX A5000", "workstation"), ("NVIDIA T1000 8GB", "workstation"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "workstation"), ("NVIDIA GB10", "workstation"),
        ("NVIDIA GeForce RTX 4080 Laptop GPU", "laptop"), ("GeForce RTX 2080 with Max-Q Design", "laptop"),
    ],
)  # fmt: skip
def test_boards_are_told_apart_by_name(name: str, kind: str) -> None:
    assert board_class(name) == kind


def response(smi: Reading, log: Any = NONE, nvml: Any = NONE, driver: Driver = LOADED) -> Any:
    return judge_response(smi, log, nvml, driver, NONE)


def test_a_driver_that_answers() -> None:
    answer = response(SMI, SmiLog(gpus=(GPU,)))
    assert (answer.answered, answer.seconds) == (True, 1.5)
    flood = replace(SMI, ending=Ending.TRUNCATED)
    assert not response(flood).answered
    assert not response(flood, SmiLog(gpus=(GPU,), truncated=True)).answered


def test_an_exit_status_with_a_list_is_an_answer() -> None:
    smi = replace(SMI, ending=Ending.EXIT, code=14)
    assert response(smi, SmiLog(gpus=(GPU,))).answered
    assert not response(smi, SmiLog()).answered


@pytest.mark.parametrize("ending", [Ending.TIMEOUT, Ending.KILLED])
def test_a_driver_that_hangs(ending: Ending) -> None:
    answer = response(replace(SMI, ending=ending), nvml=NvmlLog(gpus=(GPU,)))
    assert not answer.answered
    assert ending.value in answer.how


def test_nvml_answers_where_nvidia_smi_is_missing() -> None:
    absent = replace(SMI, ending=Ending.ABSENT)
    assert response(absent, nvml=NvmlLog(gpus=(GPU,))).source == "NVML"
    with pytest.raises(Unavailable):
        response(absent)


@pytest.mark.parametrize("ending", [Ending.DENIED, Ending.NOT_COLLECTED, Ending.ERROR])
def test_a_driver_that_nobody_asked(ending: Ending) -> None:
    with pytest.raises(Unavailable):
        response(replace(SMI, ending=ending))


def test_no_driver_and_sleeping_gpus_are_not_asked() -> None:
    with pytest.raises(NotApplicable):
        response(SMI, driver=Driver(loaded=False))
    with pytest.raises(NotApplicable, match="suspended"):
        response(Reading("gpu.smi", Ending.NOT_COLLECTED, note=NVIDIA_DRIVER.why_not))


def test_a_list_that_was_cut_is_no_count() -> None:
    inventory = take_inventory((), SmiLog(attached=8, gpus=(GPU,), truncated=True), NONE, NONE, NONE)
    assert isinstance(inventory.attached, Unavailable)
    assert isinstance(inventory.on_bus, Unavailable)


def test_excluded_gpus_are_not_missed() -> None:
    from hostcheck.facts.gpu_health import _excluded

    gpus = (DriverGpu(bus_id="0000:19:00.0", excluded=True), DriverGpu(bus_id="0000:3b:00.0", excluded=False))
    assert _excluded(replace(LOADED, gpus=gpus)) == {"0000:19:00.0"}
    assert _excluded(NONE) == set()


def test_gpus_that_cannot_be_opened_are_faults_too() -> None:
    log = SmiLog(unreadable=("0000:41:00.0: GPU is lost",))
    told = gather_faults((replace(GPU, faults=("fan_speed: ERR!",)),), log, NONE)
    assert [(gpu.subject, gpu.faults) for gpu in told] == [
        ("gpu0", ("fan_speed: ERR!",)),
        ("0000:41:00.0", ("GPU is lost",)),
    ]


def test_replays_need_a_time() -> None:
    gpus = (replace(GPU, pcie=Pcie(replays=9)),)
    assert count_replays(gpus, replace(SMI, at=600.0))[0].minutes == 10.0
    for smi in (SMI, NONE):
        assert isinstance(count_replays(gpus, smi)[0].minutes, Unavailable)


def test_affinity_without_a_matrix_is_unknown() -> None:
    from hostcheck.facts.pci import PciTree

    (gpu,) = compare_affinity((GPU,), NONE, PciTree(functions=(), by_address={}), ())
    assert isinstance(gpu.driver_cpus, Unavailable)
    assert isinstance(gpu.node, Unavailable)
    assert gpu.nodes == 0
