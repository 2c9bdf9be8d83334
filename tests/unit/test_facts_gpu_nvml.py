"""NVML: the child process against a stand-in library, its report, and the report in hostile hands."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostcheck.errors import NotApplicable, Unavailable
from hostcheck.facts.gpu import NvmlLog
from hostcheck.facts.nvml_parts import Reader
from hostcheck.facts.nvml_read import parse_nvml
from hostcheck.snapshot import nvml
from support import sample

REPORT = (Path(__file__).parent / "samples" / "h200-nvml.json").read_text("utf-8")


class NvmlError(Exception):
    """Stands for pynvml's: built from a code, it is an error of the code's own class."""

    def __new__(cls, code: int = 999) -> NvmlError:
        return super().__new__(NotSupported if code == 3 else cls)

    def __init__(self, code: int = 999) -> None:
        super().__init__({3: "Not Supported", 15: "GPU is lost"}.get(code, "Unknown Error"))


class NotSupported(NvmlError):
    pass


class Pci(ctypes.Structure):
    _fields_ = (("busId", ctypes.c_char * 32), ("pciDeviceId", ctypes.c_uint))


class Value(ctypes.Union):
    _fields_ = (("dVal", ctypes.c_double), ("uiVal", ctypes.c_uint), ("ullVal", ctypes.c_ulonglong))


class Field(ctypes.Structure):
    _fields_ = (("nvmlReturn", ctypes.c_uint), ("valueType", ctypes.c_uint), ("value", Value))


class Library:
    """A pynvml with two GPUs of which the second is lost, on a driver that lacks most functions."""

    NVMLError = NvmlError
    NVMLError_NotSupported = NotSupported
    NVMLError_NotFound = type("NotFound", (NvmlError,), {})

    def __init__(self, **answers: Any) -> None:
        self.called: list[str] = []
        self.changed = answers

    def __getattr__(self, name: str) -> Any:
        if name not in self.answers:
            raise AttributeError(name)
        self.called.append(name)
        return self.answers[name]

    @property
    def answers(self) -> dict[str, Any]:
        def no(*_: object) -> Any:
            raise NvmlError(3)

        def handle(index: int) -> str:
            if index == 1:
                raise NvmlError(15)
            return "handle"

        def values(_: object, wanted: list[int]) -> list[Field]:
            known = {82: (0, 1, 41), 29: (0, 3, 7), 194: (3, 0, 0), 230: (15, 0, 0)}
            return [Field(*known.get(number, (999, 0, 0))[:2], Value(uiVal=known.get(number, (0, 0, 0))[2]))
                    for number in wanted]  # fmt: skip

        def count(_: object, kind: int, period: int, location: int) -> int:
            return {(0, 1, 2): 5}.get((kind, period, location), 0)

        return {
            "nvmlInit": lambda: None,
            "nvmlShutdown": lambda: None,
            "nvmlSystemGetDriverVersion": lambda: b"580.159.04",
            "nvmlSystemGetCudaDriverVersion_v2": lambda: 13000,
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": handle,
            "nvmlDeviceGetPciInfo": lambda _: Pci(b"00000000:53:00.0", 0x233010DE),
            "nvmlDeviceGetName": lambda _: "NVIDIA H100 80GB HBM3",
            "nvmlDeviceGetArchitecture": lambda _: 9,
            "nvmlDeviceGetPersistenceMode": lambda _: 0,
            "nvmlDeviceGetMigMode": no,
            "nvmlDeviceGetMemoryErrorCounter": count,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda _: 0x48,
            "nvmlDeviceGetFieldValues": values,
            **self.changed,
        }


def test_every_query_stands_alone() -> None:
    report = nvml.collect(Library())
    gpu = report["gpus"][0]
    assert (report["driver"], report["count"]) == ("580.159.04", 2)
    assert gpu["bus_id"] == "0000:53:00.0"
    assert gpu["mig"] == gpu["mig_devices"] == {"na": True}
    assert gpu["persistence_mode"] == 0
    assert (gpu["memory_temperature_c"], gpu["slowdown_tlimit_c"], gpu["retired_single_bit"]) == (41, {"na": True}, 7)
    assert gpu["recovery_action"] == {"error": "GPU is lost"}
    assert gpu["vbios"] == {"error": "nvmlDeviceGetVbiosVersion"}
    assert gpu["ecc_aggregate_dram_correctable"] == 5
    assert report["gpus"][1] == {"index": 1, "error": "GPU is lost"}
    json.dumps(report, allow_nan=False)


def test_a_new_name_goes_before_the_old_one() -> None:
    assert nvml.collect(Library())["gpus"][0]["event_reasons"] == 0x48
    library = Library(nvmlDeviceGetCurrentClocksEventReasons=lambda _: 0x4)
    assert nvml.collect(library)["gpus"][0]["event_reasons"] == 0x4
    assert "nvmlDeviceGetCurrentClocksThrottleReasons" not in library.called


def test_mig_devices_are_counted_where_the_mode_is_on() -> None:
    def device(_: object, number: int) -> str:
        if number in (1, 3):
            raise Library.NVMLError_NotFound(6)
        return "device"

    count = {"nvmlDeviceGetMaxMigDeviceCount": lambda _: 4, "nvmlDeviceGetMigDeviceHandleByIndex": device}
    for mode, devices in (([1, 1], 2), ([0, 1], 0)):
        library = Library(nvmlDeviceGetMigMode=lambda _, mode=mode: mode, **count)
        assert nvml.collect(library)["gpus"][0]["mig_devices"] == devices
    assert "nvmlDeviceGetMaxMigDeviceCount" not in library.called


def test_nothing_is_changed_and_no_link_is_asked() -> None:
    library = Library()
    nvml.collect(library)
    assert len(library.called) > 10
    assert {name for name in library.called if not name.startswith(("nvmlDeviceGet", "nvmlSystemGet"))} == {
        "nvmlInit",
        "nvmlShutdown",
    }
    source = Path(nvml.__file__).read_text("utf-8")
    assert not [word for word in ("DeviceSet", "DeviceClear", "DeviceReset", "DeviceGetNvLink") if word in source]


def test_all_that_is_asked_is_read_and_all_that_is_read_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    raw, read = Reader.raw, set[str]()

    def watched(self: Reader, path: str) -> Any:
        read.add(path.partition(".")[0])
        return raw(self, path)

    monkeypatch.setattr(Reader, "raw", watched)
    report = nvml.collect(Library())
    parse_nvml(json.dumps(report))
    asked = {*report, *report["gpus"][0]} - {"schema", "gpus", "bus_id"}
    assert read == asked
    assert asked | {"schema", "gpus", "bus_id"} == {*json.loads(REPORT), *json.loads(REPORT)["gpus"][0]}


def test_the_report_of_the_stand_in_is_understood() -> None:
    log = parse_nvml(json.dumps(nvml.collect(Library())))
    assert log.unreadable == ("index 1: GPU is lost",)
    (gpu,) = log.gpus
    assert (gpu.index, gpu.pci_id, gpu.architecture, gpu.persistence_mode) == (0, "10de:2330", "Hopper", False)
    assert isinstance(gpu.mig.current, NotApplicable)
    assert gpu.clocks.active == ("hw_slowdown", "hw_thermal_slowdown")
    assert (gpu.temperature.memory_c, gpu.ecc.aggregate.dram_correctable) == (41, 5)
    assert isinstance(gpu.temperature.slowdown_tlimit_c, NotApplicable)
    # The driver knows no kinds of SRAM errors, only their sum.
    assert gpu.ecc.aggregate.sram_uncorrectable == 0
    assert isinstance(gpu.ecc.aggregate.sram_uncorrectable_parity, Unavailable)
    assert isinstance(gpu.vbios, Unavailable)
    assert gpu.faults == ("recovery_action: GPU is lost",)


def test_a_lost_gpu_gets_the_address_that_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("0000:53:00.0", "0000:64:00.0", "bind", "module"):
        (tmp_path / name).touch()
    monkeypatch.setattr(nvml, "_DRIVER_FOLDER", str(tmp_path))
    log = parse_nvml(json.dumps(nvml.collect(Library())))
    assert log.unreadable == ("0000:64:00.0: GPU is lost",)
    # With two functions left it is not known which of them is lost.
    (tmp_path / "0000:75:00.0").touch()
    log = parse_nvml(json.dumps(nvml.collect(Library())))
    assert log.unreadable == ("index 1: GPU is lost",)


@pytest.mark.parametrize(("question", "code"), [("nvmlInit", 9), ("nvmlDeviceGetCount", 9), ("nvmlInit", 3)])
def test_where_no_gpu_can_be_counted_there_is_no_empty_list(question: str, code: int) -> None:
    def refuse() -> None:
        raise NvmlError(code)

    report = nvml.collect(Library(**{question: refuse}))
    assert report == {"schema": 1, **({"na": True} if code == 3 else {"error": "Unknown Error"})}
    with pytest.raises(Unavailable):
        parse_nvml(json.dumps(report))


def test_the_child_process_prints_one_report_whatever_is_there() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "hostcheck.snapshot.nvml"], capture_output=True, text=True, check=True
    )
    report = json.loads(done.stdout)
    assert report["schema"] == 1
    assert "error" in report or "gpus" in report


def test_sample() -> None:
    log = parse_nvml(sample(parse_nvml))
    assert (log.driver_version, log.cuda_version, log.seconds) == ("580.159.04", "13.0", 0.43)
    assert log.unreadable == ("0000:00:07.0: GPU is lost",)
    (gpu,) = log.gpus
    assert gpu.traits == {"pci": "10de:2335", "gpu_arch": "Hopper"}
    assert (gpu.compute_capability, gpu.power.limit_w) == ("9.0", 700.0)
    assert gpu.clocks.active == ("gpu_idle",)
    assert (gpu.temperature.shutdown_c, gpu.remapped_rows.failure) == (95, False)
    assert gpu.cpu_affinity == tuple(range(32))
    assert isinstance(gpu.numa_node, NotApplicable)
    assert (gpu.fabric.state, gpu.fabric.status) == ("Completed", "Success")
    assert isinstance(gpu.fabric.summary, NotApplicable)


def changed(**values: Any) -> NvmlLog:
    report = json.loads(REPORT)
    report["gpus"][0] |= values
    return parse_nvml(json.dumps(report))


def test_health_of_the_fabric() -> None:
    fabric = {"state": 3, "status": 0, "cliqueId": 2, "clusterUuid": [0] * 15 + [1], "healthMask": 0x6A5 | 2 << 12,
              "healthSummary": 2}  # fmt: skip
    known = changed(fabric=fabric).gpus[0].fabric
    assert (known.clique, known.cluster_uuid) == (2, "00000000-0000-0000-0000-000000000001")
    assert known.summary == "Unhealthy"
    assert dict(known.health) == {
        "bandwidth": "Degraded",
        "route_recovery_in_progress": "True",
        "route_unhealthy": "False",
        "access_timeout_recovery": "False",
        "incorrect_configuration": "Incompatible GPU Firmware",
        "partition_assigned": "False",
    }
    none = changed(fabric={"state": 0}).gpus[0].fabric
    assert isinstance(none.state, NotApplicable)
    assert all(isinstance(value, NotApplicable) for value in none.health.values())


@pytest.mark.parametrize("value", ["x", True, None, 1.5, [], {"error": "Unknown Error"}, 1 << 70])
def test_a_wrong_type_is_no_value(value: Any) -> None:
    gpu = changed(pcie_gen=value, pcie_max_gen=value, ecc=[value, value], persistence_mode=value).gpus[0]
    for field in (gpu.pcie.gen, gpu.pcie.max_gen, gpu.ecc.current):
        assert isinstance(field, Unavailable)


def test_two_gpus_at_one_address_are_refused() -> None:
    report = json.loads(REPORT)
    report["gpus"] *= 2
    report["count"] = 2
    with pytest.raises(Unavailable, match="same address"):
        parse_nvml(json.dumps(report))


@pytest.mark.parametrize("count", [0, 2, {"error": "Unknown Error"}, {"na": True}, None])
def test_a_list_that_is_not_as_long_as_it_says_is_refused(count: Any) -> None:
    with pytest.raises(Unavailable, match="as many GPUs as it counts"):
        parse_nvml(json.dumps({**json.loads(REPORT), "count": count}))


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", '{"schema":2}', '{"schema":1}', '{"schema":1,"error":"no"}', "[" * 100_000,
        '{"schema":1,"gpus":[{}]}', '{"schema":1,"gpus":[1]}', '{"schema":1,"gpus":' + "9" * 5000 + "}",
    ],
)  # fmt: skip
def test_no_report(text: str) -> None:
    with pytest.raises(Unavailable):
        parse_nvml(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["na", "error", "pid"]), inner),
    max_leaves=6,
)


@settings(max_examples=150)
@given(st.sampled_from(sorted(json.loads(REPORT)["gpus"][0])), JSON)
def test_any_value_anywhere_is_read_or_refused(key: str, value: Any) -> None:
    with suppress(Unavailable):
        assert isinstance(changed(**{key: value}), NvmlLog)


@given(st.text())
def test_any_text_is_refused(text: str) -> None:
    with suppress(Unavailable):
        parse_nvml(text)
