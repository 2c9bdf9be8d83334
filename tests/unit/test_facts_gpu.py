"""The facts about GPUs as the engine gets them: endings of the probes, both tools together, the kernel driver."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.errors import NotApplicable, Unavailable
from hostcheck.facts.base import Facts
from hostcheck.facts.gpu import DRIVER, DRIVER_PROBE, GPUS, NVML, NVML_LOG, SMI, SMI_LOG, Driver, Gpu
from hostcheck.facts.gpu_driver import parse_information, parse_pairs, parse_version
from hostcheck.facts.gpu_merge import fill
from hostcheck.facts.gpu_types import Pcie
from hostcheck.snapshot.reading import Ending, FileState, Manifest, Reading, Snapshot
from support import sample

SAMPLES = Path(__file__).parent / "samples"
XML = (SAMPLES / "h200-smi-q-x.xml").read_bytes()
JSON = (SAMPLES / "h200-nvml.json").read_bytes()


def facts(*readings: Reading) -> Facts:
    manifest = Manifest(1, "test", "local", 0.0, 0.0, "host", 0)
    return Facts(Snapshot(manifest, {reading.probe: reading for reading in readings}))


def smi(out: bytes = XML, ending: Ending = Ending.OK, code: int | None = 0, err: bytes = b"") -> Reading:
    return Reading(SMI.id, ending, code, out=out, err=err)


def nvml(out: bytes = JSON, ending: Ending = Ending.OK) -> Reading:
    return Reading(NVML.id, ending, 0, out=out)


def test_both_tools_together() -> None:
    (gpu,) = facts(smi(), nvml()).get(GPUS)
    assert gpu.source == "nvidia-smi and NVML"
    # Only NVML has the first two, only nvidia-smi the others.
    assert (gpu.compute_capability, gpu.temperature.slowdown_c) == ("9.0", 89)
    assert (gpu.part_number, gpu.pcie.device_gen) == ("2335-895-A1", 5)
    assert isinstance(gpu.numa_node, NotApplicable)


def test_each_tool_is_enough() -> None:
    (one,) = facts(smi()).get(GPUS)
    (other,) = facts(nvml()).get(GPUS)
    assert (one.source, other.source) == ("nvidia-smi", "NVML")
    same = ("index", "bus_id", "pci_id", "subsystem_id", "name", "architecture", "uuid", "vbios", "gsp_firmware",
            "persistence_mode", "compute_mode", "performance_state", "virtualization", "c2c", "recovery_action",
            "remapped_rows", "mig", "subject", "traits")  # fmt: skip
    for name in same:
        assert getattr(one, name) == getattr(other, name), name
    assert one.ecc.sram_sources == other.ecc.sram_sources
    assert one.ecc.volatile.total_uncorrectable == other.ecc.volatile.total_uncorrectable == 0
    for name in ("sram_correctable", "sram_uncorrectable", "sram_uncorrectable_secded", "dram_correctable"):
        assert getattr(one.ecc.aggregate, name) == getattr(other.ecc.aggregate, name) == 0, name
    assert one.clocks.reasons == other.clocks.reasons
    assert one.clocks.max.sm_mhz == other.clocks.max.sm_mhz == 1980
    for name in ("limit_w", "requested_limit_w", "default_limit_w"):
        assert getattr(one.power, name) == getattr(other.power, name) == 700, name
    assert one.temperature.slowdown_tlimit_c == other.temperature.slowdown_tlimit_c == -2
    assert (one.pcie.gen, one.pcie.width, one.pcie.max_gen) == (other.pcie.gen, other.pcie.width, other.pcie.max_gen)
    assert (one.fabric.state, one.fabric.cluster_uuid) == (other.fabric.state, other.fabric.cluster_uuid)
    assert (one.memory.total_mib, one.bar1.total_mib) == (other.memory.total_mib, other.bar1.total_mib)


@pytest.mark.parametrize(
    "reading",
    [
        smi(b"", Ending.TIMEOUT, None),
        smi(XML[:4000], Ending.TIMEOUT, None),
        smi(b"", Ending.ABSENT, None),
        smi(b"", Ending.DENIED, None),
        smi(b"", Ending.KILLED, 9),
        smi(b"NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", Ending.EXIT, 9),
        smi(b"Failed to initialize NVML: GPU access blocked by the operating system\n", Ending.EXIT, 17),
        smi(b""),
    ],
    ids=lambda reading: f"{reading.ending}-{reading.code}",
)
def test_no_answer_is_no_empty_list(reading: Reading) -> None:
    with pytest.raises(Unavailable) as caught:
        facts(reading).get(SMI_LOG)
    assert caught.value.probe == SMI.id
    with pytest.raises(Unavailable) as caught:
        facts(reading).get(GPUS)
    assert caught.value.probe == SMI.id
    assert facts(reading, nvml()).get(GPUS)[0].source == "NVML"


def test_a_refusal_is_told_in_the_tool_s_own_words() -> None:
    reading = smi(b"Failed to initialize NVML: GPU access blocked by the operating system\n", Ending.EXIT, 17)
    with pytest.raises(Unavailable, match="exit 17: Failed to initialize NVML: GPU access blocked"):
        facts(reading).get(GPUS)


def test_no_device_is_an_empty_list() -> None:
    reading = smi(b"No devices were found\n", Ending.EXIT, 6)
    assert facts(reading).get(GPUS) == ()
    assert facts(reading).get(SMI_LOG).attached == 0


def test_a_whole_report_counts_whatever_the_exit_status() -> None:
    reading = smi(XML, Ending.EXIT, 14, b"WARNING: infoROM is corrupted at gpu 0000:00:06.0\n")
    log = facts(reading).get(SMI_LOG)
    assert (log.exit_code, log.inforom_corrupted) == (14, ("0000:00:06.0",))
    assert len(facts(reading).get(GPUS)) == 1


@pytest.mark.parametrize("reading", [smi(XML[:-40]), smi(XML, Ending.TRUNCATED, None)], ids=["cut", "limit"])
def test_a_cut_report_counts_for_nothing_but_itself(reading: Reading) -> None:
    assert facts(reading).get(SMI_LOG).truncated
    with pytest.raises(Unavailable, match="stops in the middle"):
        facts(reading).get(GPUS)
    assert facts(reading, nvml()).get(GPUS)[0].source == "NVML"


def test_numbers_come_from_nvml_where_nvidia_smi_shows_some() -> None:
    report = json.loads(JSON)
    report["gpus"][0]["index"] = 3
    hidden = XML.replace(b"<attached_gpus>1<", b"<attached_gpus>4<")
    (gpu,) = facts(smi(hidden), nvml(json.dumps(report).encode())).get(GPUS)
    assert gpu.index == 3


def test_a_lost_gpu_keeps_its_number_free() -> None:
    line = b"Unable to determine the device handle for GPU0: 0000:00:05.0: Unknown Error\n"
    (gpu,) = facts(smi(line + XML)).get(GPUS)
    assert gpu.index == 1
    assert facts(smi(line + XML)).get(SMI_LOG).unreadable == ("0000:00:05.0: Unknown Error",)


def test_gaps_are_closed_and_values_stay() -> None:
    gap, none, value = Unavailable("?"), NotApplicable("-"), 4
    first = Pcie(gen=gap, max_gen=none, width=gap, max_width=0, replays=none, device_gen=gap)
    second = Pcie(gen=value, max_gen=value, width=none, max_width=16, replays=gap, device_gen=Unavailable("!"))
    merged = fill(first, second)
    assert (merged.gen, merged.max_gen, merged.width) == (value, value, none)
    assert (merged.max_width, merged.replays, merged.device_gen) == (0, none, gap)


def test_nvml_that_did_not_answer() -> None:
    with pytest.raises(Unavailable, match="Library Not Found"):
        facts(nvml(b'{"schema":1,"error":"NVML Shared Library Not Found"}')).get(NVML_LOG)
    assert facts(smi(), nvml(b"", Ending.TIMEOUT)).get(GPUS)[0].source == "nvidia-smi"


def test_traits_hold_only_what_is_known() -> None:
    assert Gpu(index=0, bus_id="0000:01:00.0", source="x").traits == {}


VERSION, PARAMS, MODULE = "/proc/driver/nvidia/version", "/proc/driver/nvidia/params", "/sys/module/nvidia/version"
FOLDER = "/proc/driver/nvidia/gpus/0000:00:06.0"


def driver(files: dict[str, str], **endings: Ending) -> Driver:
    states = {path: FileState(Ending.OK, text.encode()) for path, text in files.items()}
    states |= {path: FileState(ending) for path, ending in endings.items()}
    reading = Reading(DRIVER_PROBE.id, Ending.OK, asked=DRIVER_PROBE.paths, files=states)
    return facts(reading).get(DRIVER)


def test_the_driver() -> None:
    known = driver(
        {
            VERSION: sample(parse_version),
            PARAMS: sample(parse_pairs),
            f"{FOLDER}/information": sample(parse_information),
            f"{FOLDER}/power": "Runtime D3 status:          Disabled by default\nVideo Memory:               Active\n",
        }
    )
    assert (known.loaded, known.version, known.flavour) == (True, "580.159.04", "open")
    assert isinstance(known.params, dict)
    assert known.params["EnableStreamMemOPs"] == "0"
    assert known.params["CoherentGPUMemoryMode"] == ""
    assert known.params["RegistryDwords"] == "RMDebugOverridePerRunlistChannelRam=1"
    assert isinstance(known.gpus, tuple)
    (gpu,) = known.gpus
    assert (gpu.bus_id, gpu.model, gpu.minor, gpu.firmware) == ("0000:00:06.0", "NVIDIA H200", 0, "580.159.04")
    assert (gpu.excluded, gpu.runtime_d3, gpu.vbios) == (False, "Disabled by default", "96.00.a5.00.1a")


@pytest.mark.parametrize(
    ("line", "version", "flavour"),
    [
        ("x86_64 Kernel Module  470.57.02  Tue Jul 13 16:14:05 UTC 2021", "470.57.02", "proprietary"),
        ("x86_64 Kernel Module  390.157  Wed Oct 12 09:19:07 UTC 2022", "390.157", "proprietary"),
        ("Open Kernel Module for aarch64  540.4.0  Release Build  (buildbrain@x)", "540.4.0", "open"),
    ],
)
def test_versions_and_flavours(line: str, version: str, flavour: str) -> None:
    text = f"NVRM version: NVIDIA UNIX {line}\nGCC version:  gcc version 9.3.0\n"
    assert parse_version(text) == (version, flavour)


def test_what_the_driver_has_not_read_is_not_known() -> None:
    text = "Model: Unknown\nGPU UUID: \t GPU-????????-????\nVideo BIOS: ??.??\nGPU Firmware: N/A\n"
    gpu = parse_information("0000:01:00.0", text)
    assert isinstance(gpu.uuid, Unavailable)
    assert isinstance(gpu.vbios, Unavailable)
    assert isinstance(gpu.firmware, NotApplicable)
    assert isinstance(gpu.minor, Unavailable)
    assert isinstance(gpu.excluded, Unavailable)


def test_a_driver_that_is_not_loaded_is_knowledge() -> None:
    known = driver({})
    assert not known.loaded
    for field in (known.version, known.flavour, known.params, known.gpus):
        assert isinstance(field, NotApplicable)


def test_a_driver_whose_proc_files_are_hidden() -> None:
    known = driver({MODULE: "580.159.04\n"})
    assert (known.loaded, known.version) == (True, "580.159.04")
    assert isinstance(known.flavour, Unavailable)
    with pytest.raises(Unavailable):
        driver({}, **{VERSION: Ending.DENIED})
    partly = driver({VERSION: sample(parse_version)}, **{PARAMS: Ending.DENIED})
    assert isinstance(partly.params, Unavailable)
    assert partly.version == "580.159.04"


@given(st.text(), st.text())
def test_any_driver_text_is_read_or_refused(version: str, information: str) -> None:
    with suppress(Unavailable):
        driver({VERSION: version, PARAMS: information, f"{FOLDER}/information": information})
    with suppress(Unavailable):
        more = sample(parse_information) + information
        driver({VERSION: sample(parse_version) + version, f"{FOLDER}/information": more})


def test_dropping_either_probe_never_loses_the_truth() -> None:
    snapshot: Any = facts(smi(), nvml()).snapshot
    assert Facts(snapshot.without([NVML.id])).get(GPUS)[0].source == "nvidia-smi"
    assert Facts(snapshot.without([SMI.id])).get(GPUS)[0].source == "NVML"
    with pytest.raises(Unavailable):
        Facts(snapshot.without([SMI.id, NVML.id])).get(GPUS)
