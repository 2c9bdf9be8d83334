"""The stand-in for nvidia-smi: its report is one that the parser takes, and it keeps what it is told."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hostcheck.facts.gpu_mig import parse_instances, parse_profiles
from hostcheck.facts.smi_xml import parse_xml
from smistand import FIRST, Stand


def call(stand: Stand, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["nvidia-smi", *words], env={"PATH": stand.path}, capture_output=True, text=True, timeout=180, check=False
    )


@pytest.mark.parametrize(
    ("words", "field", "before", "after"),
    [
        (("-pl", "450"), "power.limit", "700.00", "450.00"),
        (("-pm", "1"), "persistence_mode", "Disabled", "Enabled"),
        (("-c", "EXCLUSIVE_PROCESS"), "compute_mode", "Default", "Exclusive_Process"),
        (("-c", "0"), "compute_mode", "Default", "Default"),
        (("-e", "0"), "ecc.mode.pending", "Enabled", "Disabled"),
        (("-e", "0"), "ecc.mode.current", "Enabled", "Enabled"),
        (("-mig", "1"), "mig.mode.pending", "Disabled", "Enabled"),
    ],
)
def test_what_is_set_is_told(tmp_path: Path, words: tuple[str, ...], field: str, before: str, after: str) -> None:
    stand = Stand(tmp_path, gpus=2)

    def asked() -> list[str]:
        return call(stand, f"--query-gpu={field}", "--format=csv,noheader,nounits").stdout.splitlines()

    assert asked() == [before, before]
    assert call(stand, "-i", FIRST, *words).returncode == 0
    assert asked() == [after, before]
    assert stand.sets == [" ".join(("-i", FIRST, *words))]


def test_clock_locks_are_set_and_taken_away(tmp_path: Path) -> None:
    stand = Stand(tmp_path)
    assert call(stand, "-i", "0", "-lgc", "1410,1410").returncode == 0
    assert stand.gpus[0]["sm-clock-lock"] == "1410,1410"
    assert call(stand, "-i", "0", "-rgc").returncode == 0
    assert stand.gpus[0]["sm-clock-lock"] is None
    assert call(stand, "--query-gpu=sm-clock-lock", "--format=csv").returncode == 2, "the real one cannot tell either"


@pytest.mark.parametrize(
    "words", [("-pl", "10000"), ("-pl", "many"), ("-c", "7"), ("-e", "2"), ("-lgc", "9,1"), ("--gpu-reset",), ("-pl",)]
)
def test_what_cannot_be_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    stand = Stand(tmp_path)
    before = stand.gpus
    assert call(stand, "-i", "0", *words).returncode == 2
    assert stand.gpus == before
    assert call(stand, "-i", "7", "-pm", "1").returncode == 6


def test_faults(tmp_path: Path) -> None:
    stand = Stand(tmp_path)
    stand.fault("-pl", "refused")
    assert call(stand, "-pl", "500").returncode == 4
    stand.fault("-pl", "ignored")
    assert call(stand, "-pl", "500").returncode == 0
    assert stand.gpus[0]["power.limit"] == 700.0
    stand.fault("-pl")
    assert call(stand, "-pl", "500").returncode == 0
    assert stand.gpus[0]["power.limit"] == 500.0


def test_its_report_is_one_of_nvidia_smi(tmp_path: Path) -> None:
    stand = Stand(tmp_path, gpus=2)
    stand.change(1, {"power.limit": 500.0, "persistence_mode": "Enabled"})
    log = parse_xml(call(stand, "-q", "-x").stdout, messages=[], exit_code=0)
    assert [gpu.power.limit_w for gpu in log.gpus] == [700.0, 500.0]
    assert [gpu.persistence_mode for gpu in log.gpus] == [False, True]
    assert log.gpus[0].uuid == FIRST


def test_mig_instances_are_made_and_removed(tmp_path: Path) -> None:
    stand = Stand(tmp_path, gpus=2)
    off = call(stand, "mig", "-lgi")
    assert (off.returncode, off.stdout) == (6, "No MIG-enabled devices found.\n")
    stand.change(1, {"mig.mode.current": "Enabled"})
    assert parse_instances(call(stand, "mig", "-lgi").stdout) == {}
    assert parse_profiles(call(stand, "mig", "-lgip").stdout)[1]["3g.71gb"] == 2
    assert call(stand, "mig", "-i", "1", "-cgi", "3g.71gb,1g.18gb", "-C").returncode == 0
    made = parse_instances(call(stand, "mig", "-lgi").stdout)
    assert [(one.profile, one.start, one.size) for one in made[1]] == [("3g.71gb", 4, 4), ("1g.18gb", 3, 1)]
    log = parse_xml(call(stand, "-q", "-x").stdout, messages=[], exit_code=0)
    devices = log.gpus[1].mig.devices
    assert isinstance(devices, tuple)
    assert [device.gpu_instance for device in devices] == [1, 2]
    assert call(stand, "mig", "-dgi").returncode != 0, "a compute instance is in it"
    assert call(stand, "mig", "-dci").returncode == 0
    assert call(stand, "mig", "-dgi").returncode == 0
    assert call(stand, "mig", "-lgi").stdout == "No GPU instances found: Not Found\n"


def test_mig_instances_that_do_not_fit_stop_half_way(tmp_path: Path) -> None:
    stand = Stand(tmp_path)
    stand.change(0, {"mig.mode.current": "Enabled"})
    said = call(stand, "mig", "-cgi", "3g.71gb,3g.71gb,1g.18gb", "-C")
    assert said.returncode != 0
    assert said.stdout.endswith("Failed to create GPU instances: Insufficient Resources\n")
    assert [one["name"] for one in stand.gpus[0]["instances"]] == ["3g.71gb", "3g.71gb"]
    assert call(stand, "mig", "-cgi", "1g.10gb", "-C").returncode != 0, "a profile of another GPU"
