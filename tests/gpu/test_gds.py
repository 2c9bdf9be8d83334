"""cuFile on a real GPU. Where a file cannot even be read in compatibility mode, this is skipped and says so."""

from __future__ import annotations

from pathlib import Path

import pytest

import bench_lab
from hostcheck.errors import HostcheckError, NotApplicable
from hostcheck.microbench import gds

ON_DISK = "/var/tmp"


@pytest.fixture
def lab():
    pytest.importorskip("cuda.bindings")
    found = bench_lab.gpus()
    if not found:
        pytest.skip("no GPU here")
    return bench_lab.StandInLab(gpus=found[:1], seconds=20.0, options={"path": ON_DISK})


def test_compatibility_mode_gives_the_right_words_and_is_not_believed(lab, monkeypatch):
    monkeypatch.setattr(gds, "_MAY_FALL_BACK", True)
    before = set(Path(ON_DISK).iterdir())
    try:
        straight, by_cpu = gds.read(lab)
    except HostcheckError as problem:
        pytest.skip(str(problem))
    assert straight.verified
    assert by_cpu.verified
    assert straight.details["reads by cuFile"] > 0
    if not Path("/proc/driver/nvidia-fs").exists():
        assert "by the CPU (compatibility mode)" in straight.invalid
    assert by_cpu.invalid == ""
    assert min(straight.samples + by_cpu.samples) > 0
    assert set(Path(ON_DISK).iterdir()) == before


def test_without_a_straight_way_nothing_is_measured(lab):
    if Path("/proc/driver/nvidia-fs").exists():
        pytest.skip("nvidia-fs is loaded here")
    with pytest.raises(NotApplicable, match="not set up here"):
        next(iter(gds.read(lab)))


def test_wrong_words_are_found(lab, monkeypatch):
    monkeypatch.setattr(gds, "_MAY_FALL_BACK", True)
    monkeypatch.setattr(gds, "_by_cpu", lambda descriptor, target: 1.0)
    try:
        straight, by_cpu = gds.read(lab)
    except HostcheckError as problem:
        pytest.skip(str(problem))
    assert straight.verified
    assert not by_cpu.verified
