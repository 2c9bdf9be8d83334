"""Installed software: the driver's libraries, CUDA, NCCL, the container toolkit, and what waits for a reboot."""

from __future__ import annotations

from collections.abc import Iterator

from hostcheck.errors import NotApplicable, need
from hostcheck.expect import Expect, Key, failed, passed
from hostcheck.facts.base import each
from hostcheck.facts.gpu import DRIVER, DRIVER_CUDA, Driver
from hostcheck.facts.kernel import MODULES
from hostcheck.facts.platform import PLATFORM, Platform
from hostcheck.facts.software import (
    CONTAINER_TOOLKIT,
    DEVICES,
    KERNELS,
    LIBRARIES,
    TOOLKITS,
    Devices,
    Kernels,
    Libraries,
    Toolkit,
    kernel_order,
)
from hostcheck.model import Actor, Finding, Severity
from hostcheck.registry import check
from hostcheck.versions import version_key

NCCL = Key("software.nccl", str)
CONTAINER = Key("software.container-toolkit", str)

_FIRST_WITH_MINOR_COMPATIBILITY = 11


@check(each(TOOLKITS), DRIVER_CUDA, LIBRARIES, id="software.cuda-compat", severity=Severity.MEDIUM,
       rows=["os-driver-version"],
       references=["https://docs.nvidia.com/deploy/cuda-compatibility/"])  # fmt: skip
def cuda_compat(toolkit: Toolkit, can: str, libraries: Libraries, expect: Expect) -> Finding:
    """Each installed CUDA toolkit is one that the driver can run.

    A driver runs programs of its own CUDA major version, newer minor ones included (from CUDA 11 on), and of all older
    ones. A program of a newer major version ends with "CUDA driver version is insufficient for CUDA runtime version".
    """
    have = need(toolkit.version)
    line = f"CUDA toolkit {have} in {toolkit.folder}, and the driver is made for CUDA {can}"
    wanted, offered = version_key(have)[:2], version_key(can)[:2]
    if wanted <= offered:
        return passed(line, have)
    if wanted[0] == offered[0] >= _FIRST_WITH_MINOR_COMPATIBILITY:
        return passed(f"{line}: it runs, but code that the driver must compile first (PTX) may not", have)
    if toolkit.folder in libraries.compat:
        return passed(f"{line}: it brings a newer libcuda (compat), for data-centre GPUs only", have)
    return failed(
        line,
        have,
        wanted=f"CUDA {offered[0] if offered else can} or older",
        fix=f"Install a driver for CUDA {wanted[0]}; or, on data-centre GPUs, the package cuda-compat-{wanted[0]}-"
        f"{wanted[1]}; or use an older toolkit. A new driver ends every GPU job when its modules are reloaded.",
    )


@check(LIBRARIES, id="software.nccl", severity=Severity.LOW, rows=["scale-modern-nccl"], keys=[NCCL])
def nccl(libraries: Libraries, expect: Expect) -> Iterator[Finding]:
    """At most one NCCL is installed, and it is a current one.

    Newer releases know newer fabrics and choose better algorithms. With several, the order of library folders decides
    which one a program gets, and jobs that mix two do not start. Python packages bring an NCCL of their own, which this
    one does not replace: torch.cuda.nccl.version() tells.
    """
    versions = libraries.versions("nccl")
    if not versions:
        raise NotApplicable("no NCCL is installed in the usual folders; Python packages bring their own")
    if len(versions) > 1:
        places = ", ".join(f"{file.version} in {file.folder}" for file in libraries.of("nccl"))
        line = f"{len(versions)} versions of NCCL are installed: {places}"
        fix = "Remove all but one: dpkg -S or rpm -qf tells which package a file is from."
        yield failed(line, len(versions), subject="libnccl", wanted="one version", fix=fix)
    yield expect(NCCL).judge(
        versions[-1],
        say=f"NCCL {versions[-1]} is installed",
        fix="Debian, Ubuntu: apt install --only-upgrade libnccl2 libnccl-dev; RHEL: dnf upgrade libnccl. Running jobs "
        "keep the old one until they restart.",
        actor=Actor.OPERATOR,
        source="file names of libnccl.so.*",
    )


@check(CONTAINER_TOOLKIT, id="software.container-toolkit", severity=Severity.HIGH, rows=["x-ctr-toolkit-cve"],
       keys=[CONTAINER],
       references=["https://nvidia.custhelp.com/app/answers/detail/a_id/5850",
                   "https://nvidia.custhelp.com/app/answers/detail/a_id/5659"])  # fmt: skip
def container_toolkit(version: str, expect: Expect) -> Finding:
    """Containers have no known way out through the installed NVIDIA Container Toolkit.

    Its hooks run as root on the host with what an image brings along. Up to 1.17.7 an image could make them run code of
    its own (CVE-2025-23266, CVSS 9.0); up to 1.19.0 a race gives the same (CVE-2026-24260, CVSS 8.5).
    """
    return expect(CONTAINER).judge(
        version,
        say=f"NVIDIA Container Toolkit {version} is installed",
        fix="Debian, Ubuntu: apt update && apt install --only-upgrade nvidia-container-toolkit "
        "nvidia-container-toolkit-base libnvidia-container-tools libnvidia-container1; RHEL: dnf upgrade "
        "nvidia-container-toolkit; where the GPU operator installed it, upgrade that. Containers that run go on.",
        source="nvidia-ctk --version, else the file name of libnvidia-container",
    )


@check(LIBRARIES, DRIVER, id="software.library-versions", severity=Severity.HIGH, rows=["os-driver-version"])
def library_versions(libraries: Libraries, driver: Driver, expect: Expect) -> Iterator[Finding]:
    """Libraries of the NVIDIA driver have the version of the kernel module that runs.

    After an update without a reboot the old module still runs and the new libraries refuse it: each new program fails
    with "Driver/library version mismatch", while running jobs go on and hide it.
    """
    if not driver.loaded:
        raise NotApplicable("the NVIDIA driver is not loaded")
    module = need(driver.version)
    for name in ("cuda", "nvidia-ml"):
        files = libraries.of(name)
        shown = ", ".join(f"{file.version} in {file.folder}" for file in files)
        line = f"lib{name} {shown or 'was not found in the usual folders'}; the kernel module is {module}"
        if not files:
            raise NotApplicable(line)
        if any(file.version == module for file in files):
            yield passed(line, module, subject=f"lib{name}")
        else:
            yield failed(line, files[0].version, subject=f"lib{name}", wanted=module, fix=_RELOAD, actor=Actor.REBOOT)


_RELOAD = (
    "Reboot; or stop every GPU job and service (nvidia-persistenced, nvidia-fabricmanager, dcgm), then modprobe -r "
    "nvidia_drm nvidia_modeset nvidia_uvm nvidia_peermem nvidia, modprobe nvidia, and start them again. Both end every "
    "job on the GPUs."
)


@check(KERNELS, PLATFORM, id="software.reboot-pending", severity=Severity.LOW)
def reboot_pending(kernels: Kernels, platform: Platform, expect: Expect) -> Iterator[Finding]:
    """No installed update waits for a reboot.

    Until then the host runs without the fixes that it seems to have, and the next reboot, planned or not, brings up a
    kernel and driver that nobody has tried on it.
    """
    platform.need_host("its kernel is the host's")
    running = need(platform.kernel)
    numbers, flavour = kernel_order(running)
    newer = [version for version in kernels.installed if kernel_order(version)[1] == flavour
             and kernel_order(version)[0] > numbers]  # fmt: skip
    fix = "systemctl reboot, when no job runs: it ends all of them."
    if kernels.reboot_required:
        why = f" for {', '.join(kernels.packages[:5])}" if kernels.packages else ""
        yield failed(f"the system asks for a reboot{why}", wanted="no such mark", fix=fix, actor=Actor.REBOOT)
    if newer:
        line = f"kernel {running} runs, and {newer[-1]} is installed"
        yield failed(line, running, wanted=newer[-1], fix=fix, actor=Actor.REBOOT)
    if not kernels.reboot_required and not newer:
        yield passed(f"kernel {running} runs, and no newer one is installed", running)


@check(DRIVER, MODULES, DEVICES, id="software.peermem", severity=Severity.MEDIUM, rows=["net-peermem"],
       references=["https://docs.nvidia.com/cuda/gpudirect-rdma/"])  # fmt: skip
def peermem(driver: Driver, modules: frozenset[str], devices: Devices, expect: Expect) -> Finding:
    """RDMA devices can reach GPU memory: through dma-buf of the open GPU driver, or through a peer-memory module.

    Without either NCCL and MPI copy each message through host memory, silently, at half the rate or less.
    """
    if not driver.loaded or not devices.rdma:
        raise NotApplicable("there is no RDMA device" if driver.loaded else "the NVIDIA driver is not loaded")
    models = [need(gpu.model) for gpu in need(driver.gpus)]
    if models and all("GeForce" in model for model in models):
        raise NotApplicable("GeForce boards do not let other devices reach their memory")
    loaded = sorted(modules & _PEER_MODULES)
    if loaded:
        return passed(f"{len(devices.rdma)} RDMA devices, and {', '.join(loaded)} is loaded", loaded[0])
    flavour = need(driver.flavour)
    line = f"{len(devices.rdma)} RDMA devices, no peer-memory module, and the {flavour} GPU driver"
    if flavour == "open":
        return passed(f"{line}, which offers dma-buf", flavour)
    fix = "modprobe nvidia-peermem && echo nvidia-peermem > /etc/modules-load.d/nvidia-peermem.conf; or change to the "
    return failed(line, flavour, wanted="nvidia_peermem, or the open driver", fix=f"{fix}open GPU driver (dma-buf).")


_PEER_MODULES = {"nvidia_peermem", "nv_peer_mem", "efa_nv_peermem", "efa"}
"""The last one, of AWS, has its own way to GPU memory."""


@check(LIBRARIES, MODULES, PLATFORM, id="software.gdrcopy", severity=Severity.LOW)
def gdrcopy(libraries: Libraries, modules: frozenset[str], platform: Platform, expect: Expect) -> Finding:
    """Where GDRCopy is installed, its kernel module is loaded.

    Without gdrdrv the library cannot map GPU memory, and UCX, NVSHMEM and NCCL's small messages take the slower way
    through a copy engine without a word.
    """
    versions = libraries.versions("gdrapi")
    if not versions:
        raise NotApplicable("GDRCopy is not installed")
    platform.need_host("the host loads kernel modules")
    line = f"GDRCopy {versions[0]} is installed, its module gdrdrv is"
    if "gdrdrv" in modules:
        return passed(f"{line} loaded")
    fix = "modprobe gdrdrv && echo gdrdrv > /etc/modules-load.d/gdrdrv.conf (package gdrdrv-dkms)"
    return failed(f"{line} not loaded", wanted="gdrdrv loaded", fix=fix)
