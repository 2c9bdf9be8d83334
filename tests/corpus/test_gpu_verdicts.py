"""Verdicts of the GPU checks on nvidia-smi outputs of real machines, out of a folder of captured outputs.

The folder is named by HOSTCHECK_CORPUS, else it is ../shared/corpus beside the repository. What must come out of each
file stands in its index: nothing else may fail. How old the drivers are by now is not judged here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hostcheck.audit import judge
from hostcheck.checklist import Checklist
from hostcheck.facts.gpu import SMI_LOG
from hostcheck.facts.smi_text import parse_text
from hostcheck.model import Result
from hostcheck.snapshot.reading import Ending, Manifest, Reading, Snapshot

CORPUS = Path(os.environ.get("HOSTCHECK_CORPUS", Path(__file__).parents[3] / "shared" / "corpus"))
pytestmark = pytest.mark.skipif(not CORPUS.is_dir(), reason=f"the corpus of captured outputs is not at {CORPUS}")

DATED = {"gpu.driver-minimum"}
UPTIME_S = 864_000.0
EIGHT = [f"gpu{index}" for index in range(8)]
PERSISTENCE, ECC_OFF = "gpu.persistence-mode", "gpu.ecc-mode"

# file: check to the subjects that fail; nothing else may.
FAILS: dict[str, dict[str, list[str]]] = {
    "smi-xml/mock-qx-a100-healthy.xml": {},
    "smi-xml/mock-qx-gb200-ecc-injected.xml": {"gpu.ecc-volatile": ["gpu0"], "gpu.row-remap-failure": ["gpu0"]},
    "smi-xml/mock-qx-gb200-lost.xml": {
        "gpu.ecc-volatile": ["gpu0"],
        "gpu.row-remap-failure": ["gpu0"],
        "gpu.faults": ["gpu1"],
    },
    "smi-xml/netdata-rtx-2080-win.xml": {},
    "smi-xml/netdata-rtx-4090-driver-535.xml": {ECC_OFF: ["gpu0"]},
    "smi-xml/netdata-rtx-pro-6000-driver-580.xml": {},
    "smi-xml/netdata-tesla-p100.xml": {PERSISTENCE: ["gpu0"]},
    "smi-xml/pai-nvidia_smi_out_of_order.xml": {PERSISTENCE: EIGHT[:4]},
    "smi-xml/pai-nvidia_smi_sample.xml": {PERSISTENCE: EIGHT[:2], "gpu.count": ["host"]},
    "smi-xml/pai-nvidia_smi_sample_ecc_unsupported.xml": {PERSISTENCE: EIGHT[:2]},
    "smi-xml/qx-a100-40gb.xml": {},
    "smi-xml/qx-b200-8gpu.xml": {PERSISTENCE: EIGHT},
    "smi-xml/qx-gb200-4gpu.xml": {},
    "smi-xml/qx-h100-8gpu.xml": {},
    "smi-xml/qx-l40s.xml": {},
    "smi-xml/telegraf-3090-v13.xml": {},
    "smi-xml/telegraf-a100-sxm4-v12.xml": {
        PERSISTENCE: ["gpu1"],
        "gpu.mig-persistence": ["gpu1"],
        "gpu.count": ["host"],
    },
    "smi-xml/telegraf-a10g.xml": {PERSISTENCE: ["gpu0"]},
    "smi-xml/telegraf-dual_2080-v13.xml": {},
    "smi-xml/telegraf-dual_a5000-v13.xml": {ECC_OFF: EIGHT[:2], "gpu.bar1": EIGHT[:2]},
    "smi-xml/telegraf-gtx-1070-ti.xml": {},
    "smi-xml/telegraf-gtx-1660-ti.xml": {PERSISTENCE: ["gpu0"]},
    "smi-xml/telegraf-pro-6000-maxq-blackwell-v13.xml": {ECC_OFF: ["gpu0"]},
    "smi-xml/telegraf-quadro-p2000-v12.xml": {"gpu.bar1": ["gpu0"]},
    "smi-xml/telegraf-rtx-3060-v12.xml": {},
    "smi-xml/telegraf-rtx-3080-v12.xml": {},
    "smi-xml/telegraf-rtx-3090-v12.xml": {"gpu.power-limit": ["gpu0"]},
    "smi-xml/telegraf-rtx-4000-sff-ada-v13.xml": {ECC_OFF: ["gpu0"]},
    "smi-xml/telegraf-tesla-t4.xml": {PERSISTENCE: ["gpu0"], "gpu.bar1": ["gpu0"]},
    "smi-q/2080s595-idle.txt": {PERSISTENCE: ["gpu0"]},
    "smi-q/2080s610-load.txt": {PERSISTENCE: ["gpu0"]},
    "smi-q/azure-retired-pages-clean.txt": {},
    "smi-q/gpud-535.129.03.0.valid.a10.txt": {"gpu.row-remap-pending": ["gpu0"]},
    "smi-q/gpud-535.154.05.0.valid.4090.txt": {ECC_OFF: EIGHT},
    "smi-q/gpud-535.154.05.0.valid.txt": {ECC_OFF: EIGHT},
    "smi-q/gpud-535.154.05.1.valid.txt": {ECC_OFF: EIGHT},
    "smi-q/gpud-535.154.05.2.valid.txt": {ECC_OFF: EIGHT},
    "smi-q/gpud-535.161.08.0.valid.txt": {"gpu.clock-events": EIGHT},
    "smi-q/gpud-535.183.01.0.invalid.txt": {},
    "smi-q/gpud-560.35.03.0.valid.txt": {PERSISTENCE: ["gpu0"]},
    "smi-q/h100-idle.txt": {},
    "smi-q/h100-load.txt": {},
    "smi-q/h100mig-idle.txt": {},
    "smi-q/h100mig-load.txt": {},
    "smi-q/l40s-idle.txt": {PERSISTENCE: ["gpu0"]},
    "smi-q/l40s-load.txt": {PERSISTENCE: ["gpu0"]},
    "smi-q/win591-idle.txt": {},
}
# Severities below which nothing counts: what is off as delivered is told, and fails no gate.
LOW = {ECC_OFF, "gpu.bar1"}
# Boards of which the index says that they have no ECC.
NO_ECC = (
    "smi-xml/netdata-rtx-2080-win.xml", "smi-xml/pai-nvidia_smi_sample.xml", "smi-xml/telegraf-3090-v13.xml",
    "smi-xml/pai-nvidia_smi_sample_ecc_unsupported.xml", "smi-xml/telegraf-dual_2080-v13.xml",
    "smi-xml/telegraf-gtx-1660-ti.xml", "smi-xml/telegraf-quadro-p2000-v12.xml", "smi-xml/telegraf-rtx-3060-v12.xml",
    "smi-xml/telegraf-rtx-3080-v12.xml", "smi-xml/telegraf-rtx-3090-v12.xml", "smi-q/2080s595-idle.txt",
    "smi-q/2080s610-load.txt", "smi-q/gpud-560.35.03.0.valid.txt", "smi-q/win591-idle.txt",
)  # fmt: skip
WINDOWS = ("smi-xml/netdata-rtx-2080-win.xml", "smi-xml/telegraf-rtx-3080-v12.xml", "smi-q/win591-idle.txt")
# Neither 8 nor 6 healthy GPUs may come of these.
INCOMPLETE = {
    "smi-xml/pai-nvidia_smi_sample.xml": "fail",
    "smi-xml/telegraf-a100-sxm4-v12.xml": "fail",
    "smi-q/gpud-535.183.01.0.invalid.txt": "unknown",
}


@cache
def results(name: str) -> Mapping[str, Result]:
    """Judge a host of which nothing but this output is known."""
    out = (CORPUS / name).read_bytes()
    reading = Reading("gpu.smi", Ending.OK, 0, 1.0, UPTIME_S, out=out)
    snapshot = Snapshot(Manifest(1, "test", "local", 1_790_000_000.0, UPTIME_S, "h", 0), {"gpu.smi": reading})
    parse: Any = SMI_LOG.parse
    if name.endswith(".txt"):
        SMI_LOG.parse = lambda reading: parse_text(reading.text())
    try:
        run = judge(snapshot, Checklist(only=("gpu.*", "nvlink.*")))
    finally:
        SMI_LOG.parse = parse
    return {result.id: result for result in run.results}


def test_every_output_has_its_verdicts() -> None:
    files = {f"{folder}/{path.name}" for folder in ("smi-xml", "smi-q") for path in (CORPUS / folder).iterdir()}
    assert files == set(FAILS)


@pytest.mark.parametrize("name", FAILS)
def test_what_fails_is_what_the_index_says(name: str) -> None:
    seen: dict[str, list[str]] = {}
    for id, result in results(name).items():
        assert result.status != "error", result.traceback
        subjects = [finding.subject for finding in result.findings if finding.status == "fail"]
        if subjects and id not in DATED:
            seen[id] = subjects
    assert seen == FAILS[name]


@pytest.mark.parametrize("name", [name for name, fails in FAILS.items() if LOW & fails.keys()])
def test_what_is_so_as_delivered_counts_in_no_gate(name: str) -> None:
    for id in LOW & FAILS[name].keys():
        for finding in results(name)[id].findings:
            assert (finding.severity or results(name)[id].severity) in ("low", "info")


@pytest.mark.parametrize("name", NO_ECC)
def test_a_board_without_ecc_is_not_asked_for_it(name: str) -> None:
    for id in ("gpu.ecc-mode", "gpu.ecc-volatile", "gpu.ecc-aggregate", "gpu.sram-threshold", "gpu.repair-pending"):
        assert results(name)[id].status == "not-applicable", results(name)[id].findings


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_has_no_persistence_mode(name: str) -> None:
    assert results(name)["gpu.persistence-mode"].status == "not-applicable"
    assert results(name)["gpu.driver-minimum"].status == "not-applicable"


@pytest.mark.parametrize(("name", "status"), INCOMPLETE.items())
def test_an_incomplete_list_of_gpus_never_passes(name: str, status: str) -> None:
    assert results(name)["gpu.count"].status == status


def test_a_count_without_the_bus_is_unknown() -> None:
    assert results("smi-xml/qx-h100-8gpu.xml")["gpu.count"].status == "unknown"


def test_a_failed_remap_is_for_the_vendor() -> None:
    finding = results("smi-xml/mock-qx-gb200-ecc-injected.xml")["gpu.row-remap-failure"].findings[0]
    assert (finding.status, finding.actor) == ("fail", "replace")


def test_a_pending_remap_is_for_a_reset() -> None:
    finding = results("smi-q/gpud-535.129.03.0.valid.a10.txt")["gpu.row-remap-pending"].findings[0]
    assert (finding.status, finding.actor) == ("fail", "reset-gpu")
    assert results("smi-q/gpud-535.129.03.0.valid.a10.txt")["gpu.row-remap-count"].findings[0].observed == 4


LOST = (
    "gpu.ecc-volatile",
    "gpu.row-remap-failure",
    "gpu.temperature",
    "gpu.bar1",
    "nvlink.fabric",
)


@pytest.mark.parametrize("id", LOST)
def test_what_a_lost_gpu_cannot_tell_is_unknown(id: str) -> None:
    result = results("smi-xml/mock-qx-gb200-lost.xml")[id]
    assert {finding.status.value for finding in result.findings if finding.subject == "gpu1"} == {"unknown"}


def test_power_brake_is_named() -> None:
    for finding in results("smi-q/gpud-535.161.08.0.valid.txt")["gpu.clock-events"].findings:
        assert "power brake" in finding.summary


def test_the_power_limit_in_percent() -> None:
    result = results("smi-xml/telegraf-rtx-3090-v12.xml")["gpu.power-limit"]
    assert result.findings[0].observed == 57.1
    assert results("smi-xml/telegraf-rtx-3080-v12.xml")["gpu.power-limit"].status == "pass"


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("smi-xml/telegraf-3090-v13.xml", "at its power limit"),
        ("smi-xml/pai-nvidia_smi_out_of_order.xml", "application clocks are set"),
    ],
)
def test_other_clock_reasons_are_notes(name: str, note: str) -> None:
    result = results(name)["gpu.clock-events"]
    assert result.status == "pass"
    assert any(note in finding.summary for finding in result.findings)


@pytest.mark.parametrize("name", ["smi-q/h100mig-idle.txt", "smi-q/h100mig-load.txt"])
def test_mig_hides_remapped_rows(name: str) -> None:
    assert results(name)["gpu.row-remap-count"].status == "not-applicable"
    assert results(name)["gpu.mig-mode"].findings[0].observed is True


@pytest.mark.parametrize("name", ["smi-xml/qx-b200-8gpu.xml", "smi-xml/qx-gb200-4gpu.xml", "smi-q/h100-load.txt"])
def test_boards_on_a_fabric(name: str) -> None:
    assert results(name)["nvlink.fabric"].status == "pass"


@pytest.mark.parametrize("name", ["smi-xml/qx-l40s.xml", "smi-xml/qx-a100-40gb.xml", "smi-xml/telegraf-3090-v13.xml"])
def test_boards_on_none(name: str) -> None:
    assert results(name)["nvlink.fabric"].status == "not-applicable"


def test_replays_of_a_healthy_host_are_few_a_minute() -> None:
    result = results("smi-xml/qx-h100-8gpu.xml")["gpu.pcie-replays"]
    assert result.status == "pass"
    assert result.findings[0].observed == round(150 / (UPTIME_S / 60), 4)


XIDS = {
    "gpud-xid119-gsp.log": ("fail", "0000:9b:00", "119", "reset-gpu"),
    "gpud-xid48-63-94.log": ("fail", "0000:19:00", "48, 94, 63", "reset-gpu"),
    "gpud-xid13-43-oom.log": ("pass", "0000:38:00", "13, 43", None),
    "b200-nvrm-noise.log": ("pass", "host", 0, None),
    "gpud-kmsg-peermem.log": ("pass", "host", 0, None),
    "npd-null-pointer.log": ("pass", "host", 0, None),
}


@pytest.mark.parametrize("name", XIDS)
def test_kernel_logs(name: str) -> None:
    """Parts of logs, here given the first line of a whole one."""
    whole = b"[    0.000000] Linux version 6.8.0\n" + (CORPUS / "kmsg" / name).read_bytes()
    finding = kernel_log(whole).findings[0]
    assert (finding.status, finding.subject, finding.observed, finding.actor) == XIDS[name]


def test_part_of_a_log_does_not_prove_that_nothing_happened() -> None:
    assert kernel_log((CORPUS / "kmsg" / "b200-nvrm-noise.log").read_bytes()).status == "unknown"
    assert kernel_log((CORPUS / "kmsg" / "gpud-xid119-gsp.log").read_bytes()).status == "fail"


def kernel_log(out: bytes) -> Result:
    manifest = Manifest(1, "test", "local", 1_790_000_000.0, UPTIME_S, "h", 0)
    xml = (CORPUS / "smi-xml/qx-a100-40gb.xml").read_bytes()
    smi = Reading("gpu.smi", Ending.OK, 0, 1.0, UPTIME_S, out=xml)
    snapshot = Snapshot(manifest, {"gpu.smi": smi, "kernel.dmesg": replace(smi, probe="kernel.dmesg", out=out)})
    run = judge(snapshot, Checklist(only=("gpu.xid",)))
    return next(result for result in run.results if result.id == "gpu.xid")
