"""GPUDirect Storage on a host that has none: the real cuFile says so. What it counts elsewhere comes from stand-ins."""

from __future__ import annotations

import enum
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench_lab import StandInLab
from hostcheck.errors import HostcheckError, NotApplicable
from hostcheck.microbench import gds
from hostcheck.microbench.gds import Reads


def library() -> Any:
    try:
        return gds._library()
    except NotApplicable:
        assert not os.environ.get("CI"), "cuFile is missing: pip install -e '.[dev]'"
        pytest.skip("cuFile is not installed: pip install '.[bench]'")


NOT_SET_UP = """
from hostcheck.errors import NotApplicable
from hostcheck.microbench import gds
try:
    with gds.opened(gds._library(), "/scratch"):
        print("opened")
except NotApplicable as problem:
    print(problem)
"""


def test_a_host_that_is_not_set_up_for_it_is_no_failure_and_gets_no_log(tmp_path: Path) -> None:
    if Path("/proc/driver/nvidia-fs").exists():
        pytest.skip("nvidia-fs is loaded here")
    library()
    told = subprocess.run(
        [sys.executable, "-P", "-c", NOT_SET_UP], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert told.stdout.startswith("GPUDirect Storage is not set up here: nvidia-fs is not loaded"), told
    assert list(tmp_path.iterdir()) == [], "cuFile writes cufile.log where it is started"


def test_it_is_measured_only_where_the_user_says() -> None:
    with pytest.raises(NotApplicable, match=r"only where you say: --option path=FOLDER"):
        next(iter(gds.read(StandInLab())))


def test_without_cufile_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(NotApplicable, match=r"cuFile is not installed .*: pip install '.\[bench\]'"):
        next(iter(gds.read(StandInLab(options={"path": "/scratch"}))))


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (Reads(0, 0), Reads(4096, 0), ""),
        (Reads(10, 4), Reads(20, 4), ""),
        (Reads(10, 0), Reads(20, 1), "cuFile read 1 of 10 blocks by the CPU (compatibility mode)"),
        (Reads(5, 5), Reads(5, 5), "cuFile counted no read, so that nothing proves that it was straight"),
    ],
)
def test_reads_by_the_cpu_are_not_straight(before: Reads, after: Reads, why: str) -> None:
    assert gds.fallen_back(before, after) == why


class Refused(Exception):
    def __init__(self, status: int) -> None:
        super().__init__("words of cuFile")
        self.status = status


class Words(enum.IntEnum):
    IO_NOT_SUPPORTED = 5008
    INTERNAL_ERROR = 5030


def stand_in(status: int) -> Any:
    def refuse(description: int) -> int:
        raise Refused(status)

    return SimpleNamespace(
        cuFileError=Refused,
        OpError=Words,
        FileHandleType=SimpleNamespace(OPAQUE_FD=1),
        Descr=lambda: SimpleNamespace(handle=SimpleNamespace(), ptr=1),
        handle_register=refuse,
    )


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (5008, "/scratch: cuFile says IO_NOT_SUPPORTED: its file system or drive is none that can be read straight"),
        (-5030, "/scratch: cuFile says INTERNAL_ERROR: words of cuFile"),
        (-1, "/scratch: cuFile says status -1: words of cuFile"),
    ],
)
def test_a_file_that_cannot_be_read_straight_is_one_line(status: int, line: str) -> None:
    with pytest.raises(HostcheckError, match=line), gds._handle(stand_in(status), 7, "/scratch"):
        raise AssertionError("it was refused")


def test_the_real_cufile_names_its_errors() -> None:
    cufile = library()
    assert {int(error): error.name for error in cufile.OpError}[5001] == gds._NOT_SET_UP


def test_reads_of_all_gpus_are_counted() -> None:
    gpus = [SimpleNamespace(n_total_reads=7, n_posix_reads=0), SimpleNamespace(n_total_reads=5, n_posix_reads=2)]
    told = SimpleNamespace(ptr=1, num_gpus=2, per_gpu_stats=gpus)
    fake = SimpleNamespace(StatsLevel3=lambda: told, get_stats_l3=lambda pointer: None)
    assert gds.counted(fake) == Reads(12, 2)
