"""GPUDirect Storage."""

from __future__ import annotations

from hostcheck.errors import NotApplicable, need
from hostcheck.expect import Expect, failed, passed
from hostcheck.facts.addons import ADDONS, Addons
from hostcheck.facts.gpu import DRIVER, Driver
from hostcheck.facts.kernel import MODULES
from hostcheck.facts.platform import PLATFORM, Platform
from hostcheck.model import Finding, Severity
from hostcheck.registry import check


@check(DRIVER, ADDONS, MODULES, PLATFORM, id="gds.module", severity=Severity.LOW, rows=["io-gds-module"],
       references=["https://docs.nvidia.com/gpudirect-storage/troubleshooting-guide/"])  # fmt: skip
def module(driver: Driver, addons: Addons, modules: frozenset[str], platform: Platform, expect: Expect) -> Finding:
    """Where the module of GPUDirect Storage is installed, it is loaded.

    Without nvidia-fs cuFile falls back to copies through host memory, silently, unless the file system and the driver
    can do without it (P2PDMA of the open driver from 565 on). Whoever installed the module meant it to be used.
    """
    if not driver.loaded:
        raise NotApplicable("the NVIDIA driver is not loaded")
    if not addons.gds_kernels and not addons.gds_source:
        raise NotApplicable("the module nvidia-fs is not installed")
    platform.need_host("the host loads kernel modules")
    if "nvidia_fs" in modules:
        return passed("nvidia-fs is installed and loaded", True)
    kernel = need(platform.kernel)
    if kernel not in addons.gds_kernels:
        fix = f"dkms autoinstall -k {kernel} (needs linux-headers-{kernel}), then modprobe nvidia-fs"
        return failed(f"nvidia-fs is installed, and not built for kernel {kernel}", False, wanted="built", fix=fix)
    fix = "modprobe nvidia-fs && echo nvidia-fs > /etc/modules-load.d/nvidia-fs.conf"
    return failed("nvidia-fs is installed and not loaded", False, wanted="nvidia_fs loaded", fix=fix)
