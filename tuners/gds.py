"""GPUDirect Storage: its kernel module."""

from __future__ import annotations

from collections.abc import Iterator

from hostcheck.checks.gds import module as judged
from hostcheck.errors import need
from hostcheck.expect import Expect
from hostcheck.facts.addons import ADDONS, Addons
from hostcheck.facts.dropins import OWN, OwnFiles
from hostcheck.facts.gpu import DRIVER, Driver
from hostcheck.facts.kernel import MODULES
from hostcheck.facts.platform import PLATFORM, Platform
from hostcheck.model import Status
from hostcheck.registry import tuner
from hostcheck.tuning.change import Change, Refusal, Risk

from .services import load_module


@tuner(
    DRIVER, ADDONS, MODULES, PLATFORM, OWN, id="gds.module", fixes=["gds.module"], rows=["io-gds-module"],
    references=["https://docs.nvidia.com/gpudirect-storage/troubleshooting-guide/"],
)  # fmt: skip
def module(
    driver: Driver, addons: Addons, modules: frozenset[str], platform: Platform, own: OwnFiles, expect: Expect
) -> Iterator[Change | Refusal]:
    """Load nvidia-fs, where it is installed, now and at each boot.

    cuFile reads into GPU memory without a copy through host memory. It is one more kernel module from outside of the
    kernel. Rollback unloads it, which fails while a program uses it.
    """
    finding = judged(driver, addons, modules, platform, expect)
    if finding.status is not Status.FAIL:
        return
    kernel = need(platform.kernel)
    if kernel not in addons.gds_kernels:
        why = f"it is not built for kernel {kernel}: {finding.fix}"
        yield Refusal(target="nvidia_fs", why=why)
        return
    yield from load_module(
        own,
        modules,
        "nvidia_fs",
        why="cuFile needs no copy through host memory",
        source="the host's own software: nvidia-fs is installed for this kernel",
        fixes=["gds.module"],
        risk=Risk.MEDIUM,
    )
