"""What kind of machine a host is: each sign by itself, and together."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.errors import NotApplicable, Unavailable
from hostcheck.facts.base import Facts
from hostcheck.facts.guest import UNIDENTIFIED, parse_mountinfo
from hostcheck.facts.host import PROBES, introduce, traits
from hostcheck.facts.platform import (
    CLOCKSOURCE_PROBE,
    CPUINFO_PROBE,
    HOST_PROBE,
    PLATFORM,
    SYSTEM,
    Platform,
    parse_os_release,
    parse_page_size,
    parse_platform,
)
from hostcheck.snapshot.probes import FileProbe
from hostcheck.snapshot.reading import Ending, FileState, Manifest, Reading, Snapshot
from support import host, sample

DMI = "/sys/class/dmi/id/"
TREE = "/sys/firmware/devicetree/base/"
MOUNTS = "24 28 0:5 / /dev rw - devtmpfs udev rw\n28 1 259:2 / / rw - ext4 /dev/nvme0n1p2 rw"
BARE = "processor : 0\nvendor_id : GenuineIntel\nflags : fpu vme aperfmperf\n"
GUEST = "processor : 0\nvendor_id : GenuineIntel\nflags : fpu vme hypervisor lahf_lm\n"
# QEMU 7.2 with -accel tcg -cpu max, 2026-11-21.
EMULATED = GUEST + "model name\t: QEMU TCG CPU version 2.5+\n"
ARM = "processor : 0\nCPU implementer : 0x41\nCPU part : 0xd4f\n"
POWER = "processor : 0\ncpu : POWER9, altivec supported\n"
HOST = {"/proc/version": "Linux version 6.8.0", "/proc/sys/kernel/osrelease": "6.8.0", "/proc/self/mountinfo": MOUNTS}
POD = "\n9 8 8:1 /var/lib/kubelet/pods/a/etc-hosts /etc/hosts rw - ext4 /dev/sda rw"
RUNS_DOCKER = "\n9 8 0:9 / /var/lib/docker/overlay2/4/m rw - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/"
SNAPSHOT = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/8"
OWN_ROOT = "28 1 259:2 / / rw - ext4 /dev/nvme0n1p2 rw\n24 28 0:5 / /dev rw - tmpfs tmpfs rw"
OVERLAY = "1187 1039 0:58 / / rw - overlay overlay rw,lowerdir={}\n1189 1187 0:62 / /dev rw - tmpfs tmpfs rw"


def reading(probe: FileProbe, files: Mapping[str, str]) -> Reading:
    states = {path: FileState(Ending.OK, text.encode()) for path, text in files.items()}
    return Reading(probe.id, Ending.OK, asked=probe.paths, files=states)


def platform(cpuinfo: str = BARE, clocks: str = "tsc", **files: str) -> Platform:
    told = {**HOST, **{path.replace("__", "/"): text for path, text in files.items()}}
    available = CLOCKSOURCE_PROBE.paths[1]
    return parse_platform(
        reading(HOST_PROBE, told),
        reading(CPUINFO_PROBE, {"/proc/cpuinfo": cpuinfo}),
        reading(CLOCKSOURCE_PROBE, {available: clocks}),
    )


def dmi(vendor: str, product: str = "", **more: str) -> dict[str, str]:
    return {DMI + "sys_vendor": vendor, DMI + "product_name": product, **{DMI + k: v for k, v in more.items()}}


def told(cpuinfo: str, files: Mapping[str, str], clocks: str = "tsc") -> tuple[str, str, str]:
    found = platform(cpuinfo, clocks, **files)
    return found.kind, found.hypervisor, found.cloud


@pytest.mark.parametrize(
    ("cpuinfo", "files", "kind", "hypervisor", "cloud"),
    [
        (BARE, dmi("Supermicro", "SYS-821GE-TNHR"), "bare-metal", "", ""),
        (BARE, dmi("Amazon EC2", "m7i.metal-24xl"), "bare-metal", "", "aws"),
        (GUEST, dmi("Amazon EC2", "p5.48xlarge", bios_version="1.0"), "vm", "nitro", "aws"),
        (GUEST, dmi("Xen", "HVM domU", bios_version="4.11.amazon"), "vm", "xen", "aws"),
        (GUEST, dmi("Microsoft Corporation", "Virtual Machine",
                    chassis_asset_tag="7783-7084-3265-9085-8269-3286-77"), "vm", "hyperv", "azure"),
        (GUEST, dmi("Microsoft Corporation", "Virtual Machine", chassis_asset_tag="1234"), "vm", "hyperv", ""),
        (GUEST, dmi("Google", "Google Compute Engine"), "vm", "kvm", "gcp"),
        (GUEST, dmi("QEMU", "Standard PC", chassis_asset_tag="OracleCloud.com"), "vm", "kvm", "oci"),
        (EMULATED, dmi("QEMU", "Standard PC (Q35 + ICH9, 2009)"), "vm", "qemu", ""),
        (BARE, dmi("Oracle Corporation", "X9-2c", chassis_asset_tag="OracleCloud.com"), "bare-metal", "", "oci"),
        (GUEST, dmi("VMware, Inc.", "VMware Virtual Platform"), "vm", "vmware", ""),
        (GUEST, dmi("OpenStack Foundation", "OpenStack Nova"), "vm", "kvm", "openstack"),
        (GUEST, dmi("Red Hat", "KVM"), "vm", "kvm", ""),
        (GUEST, dmi("innotek GmbH", "VirtualBox"), "vm", "virtualbox", ""),
        (GUEST, {}, "vm", UNIDENTIFIED, ""),
        (GUEST, dmi("Unheard of", "Thing"), "vm", UNIDENTIFIED, ""),
        (ARM, dmi("NVIDIA", "NVIDIA_DGX_Spark"), "bare-metal", "", ""),
        (ARM, dmi("Amazon EC2", "c7g.16xlarge"), "vm", "nitro", "aws"),
        (ARM, dmi("Amazon EC2", "c7g.metal"), "bare-metal", "", "aws"),
        (ARM, dmi("QEMU", "QEMU Virtual Machine"), "vm", "kvm", ""),
        (ARM, {TREE + "compatible": "linux,dummy-virt"}, "vm", "kvm", ""),
        (ARM, {TREE + "compatible": "xen,xenvm", TREE + "hypervisor/compatible": "xen,xen"}, "vm", "xen", ""),
        (ARM, {TREE + "compatible": "nvidia,p3737\0nvidia,tegra234"}, "bare-metal", "", ""),
        (POWER + "platform : PowerNV\n", {}, "bare-metal", "", ""),
        (POWER + "platform : pSeries\nmachine : CHRP IBM,9105-22A\n", {}, "vm", "powervm", ""),
        (POWER + "platform : pSeries\nmachine : CHRP IBM pSeries (emulated by qemu)\n", {}, "vm", "kvm", ""),
    ],
)  # fmt: skip
def test_hypervisors_and_clouds(cpuinfo: str, files: dict[str, str], kind: str, hypervisor: str, cloud: str) -> None:
    assert told(cpuinfo, files) == (kind, hypervisor, cloud)


def test_a_guest_without_dmi_is_named_by_its_clock() -> None:
    assert told(GUEST, {}, "tsc kvm-clock ")[1] == "kvm"
    assert told(GUEST, {}, "hyperv_clocksource_tsc_page acpi_pm")[1] == "hyperv"


def test_where_an_architecture_has_no_flag_silence_of_the_firmware_is_no_bare_metal() -> None:
    with pytest.raises(Unavailable, match="cannot be told apart"):
        platform(ARM)


@pytest.mark.parametrize(
    ("files", "container"),
    [
        ({"/.dockerenv": "", "/proc/self/mountinfo": OVERLAY.format("/var/lib/docker/overlay2/l/V3SJ")}, "docker"),
        ({"/.dockerenv": "", "/proc/self/mountinfo": OVERLAY.format("/data/images/snapshots/3/fs")}, "docker"),
        ({"/proc/self/mountinfo": OVERLAY.format(SNAPSHOT)}, "containerd"),
        ({"/run/.containerenv": "", "/proc/self/mountinfo": OVERLAY.format("/x/containers/storage/l")}, "podman"),
        ({"/proc/self/mountinfo": OVERLAY.format("/x") + POD}, "kubernetes"),
        ({"/proc/self/cgroup": "12:cpu:/kubepods/burstable/pod1/8d1f"}, "kubernetes"),
        ({"/proc/self/cgroup": "12:cpu:/docker/8d1f0a9b8c7d6e5f"}, "docker"),
        ({"/proc/1/cgroup": "0::/machine.slice/libpod-8d1f0a9b8c7d6e5f.scope"}, "podman"),
        ({"/proc/1/cgroup": "0::/lxc.payload.web/init.scope"}, "lxc"),
        ({"/run/systemd/container": "systemd-nspawn", "/proc/self/mountinfo": OWN_ROOT}, "nspawn"),
        ({"/run/systemd/container": "lxc", "/proc/self/mountinfo": OWN_ROOT}, "lxc"),
        ({"/proc/self/mountinfo": MOUNTS + "\n9 8 0:9 / /proc/cpuinfo rw - fuse.lxcfs lxcfs rw"}, "lxc"),
        ({"/proc/self/mountinfo": "9 8 0:9 /enroot-data/user-0/pyxis_1 / rw - xfs /dev/md0 rw"}, "enroot"),
        ({"/.singularity.d/runscript": "#!/bin/sh"}, "apptainer"),
        ({"/proc/version": "Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016"}, "gvisor"),
        ({"/proc/sys/kernel/osrelease": "5.15.153.1-microsoft-standard-WSL2"}, "wsl"),
        # Not containers:
        ({}, ""),
        ({"/.dockerenv": ""}, ""),
        ({"/run/systemd/container": "docker"}, ""),  # a guest made from an image: its /dev is the kernel's own
        ({"/proc/sys/kernel/osrelease": "6.8.0-1021-azure"}, ""),
        ({"/proc/self/cgroup": "0::/system.slice/docker.service"}, ""),
        ({"/proc/self/mountinfo": OVERLAY.format("/run/rootfs/lower")}, ""),
        ({"/proc/self/mountinfo": MOUNTS + RUNS_DOCKER}, ""),
    ],
)  # fmt: skip
def test_containers(files: dict[str, str], container: str) -> None:
    found = platform(**files)
    assert found.container == container
    assert found.kind == ("container" if container else "bare-metal")


def test_a_container_in_a_guest_keeps_both() -> None:
    found = platform(GUEST, **dmi("QEMU", "x"), **{"/proc/self/cgroup": "0::/kubepods.slice/x"})
    assert (found.kind, found.hypervisor, found.container) == ("container", "kvm", "kubernetes")
    assert found.label == "container (kubernetes) in a vm (kvm)"
    with pytest.raises(NotApplicable, match="IOMMU"):
        found.need_bare_metal("the IOMMU is the host's")
    with pytest.raises(NotApplicable, match="modules"):
        found.need_host("modules are the host's")


def test_a_guest_is_a_host_but_no_bare_metal() -> None:
    found = platform(GUEST, **dmi("QEMU", "x"))
    found.need_host("anything")
    with pytest.raises(NotApplicable, match=r"vm \(kvm\): the hypervisor sets it"):
        found.need_bare_metal("the hypervisor sets it")
    platform().need_bare_metal("anything")


@pytest.mark.parametrize("path", ["/proc/self/mountinfo", "/proc/version"])
def test_a_container_that_cannot_be_excluded_leaves_bare_metal_unknown(path: str) -> None:
    files = {name: FileState(Ending.OK, text.encode()) for name, text in HOST.items()}
    files[path] = FileState(Ending.DENIED, b"", "Permission denied")
    signs = Reading(HOST_PROBE.id, Ending.OK, asked=HOST_PROBE.paths, files=files)
    clock = Reading(CLOCKSOURCE_PROBE.id, Ending.NOT_COLLECTED)
    with pytest.raises(Unavailable):
        parse_platform(signs, reading(CPUINFO_PROBE, {"/proc/cpuinfo": BARE}), clock)


def test_an_empty_cpuinfo_is_no_bare_metal() -> None:
    with pytest.raises(Unavailable):
        platform("")


def test_what_firmware_leaves_blank_is_no_name() -> None:
    found = platform(**dmi("To Be Filled By O.E.M.", "System Product Name"), **{TREE + "model": "Jetson AGX Orin\0"})
    assert isinstance(found.vendor, NotApplicable)
    assert found.product == "Jetson AGX Orin"


def test_samples() -> None:
    assert parse_os_release(sample(parse_os_release))["PRETTY_NAME"] == "Ubuntu 24.04.2 LTS"
    mounts = parse_mountinfo(sample(parse_mountinfo))
    assert [mount.point for mount in mounts] == ["/", "/proc", "/dev", "/etc/hosts"]
    assert mounts[0].fstype == "overlay"
    assert "lowerdir=/var/lib/docker" in mounts[0].options


@pytest.mark.parametrize("size", [4096, 16384, 65536])
def test_page_size(size: int) -> None:
    assert parse_page_size(struct.pack("<6Q", 33, 7, 6, size, 0, 0) + b"\n") == size


@pytest.mark.parametrize("auxv", [b"", b"\0" * 15, struct.pack("<2Q", 6, 1 << 60), struct.pack("<2Q", 7, 4096)])
def test_a_page_size_that_cannot_be(auxv: bytes) -> None:
    with pytest.raises(Unavailable):
        parse_page_size(auxv)


@given(st.binary(max_size=200))
def test_page_size_never_fails_otherwise(auxv: bytes) -> None:
    with suppress(Unavailable):
        assert parse_page_size(auxv) in (4096, 16384, 65536)


@given(st.dictionaries(st.sampled_from(HOST_PROBE.paths), st.text(max_size=80)), st.text(max_size=200), st.text())
def test_no_text_of_a_host_is_a_bug(files: dict[str, str], cpuinfo: str, clocks: str) -> None:
    try:
        found = platform(cpuinfo, clocks, **files)
    except Unavailable:
        return
    assert found.kind in ("bare-metal", "vm", "container")


def test_the_engine_gets_what_there_is() -> None:
    facts = Facts(host("bare"))
    assert traits(facts) == {
        "arch": "x86_64", "platform": "bare-metal", "vendor": "Supermicro", "product": "SYS-821GE-TNHR",
    }  # fmt: skip
    lines = introduce(facts)
    assert lines["System"] == "Supermicro SYS-821GE-TNHR (firmware 2.1 12/05/2023)"
    assert lines["Platform"] == "bare metal"
    assert lines["OS"] == "Ubuntu 24.04.2 LTS, Linux 6.8.0-60-generic x86_64, 4 KiB pages"
    assert lines["CPU"] == "2 x Intel(R) Xeon(R) Platinum 8480+, 4 cores, 8 threads"


def test_nothing_collected_introduces_nobody_and_fails_nowhere() -> None:
    facts = Facts(Snapshot(Manifest(1, "test", "local", 0.0, 0.0, "x", 0), {}))
    assert traits(facts) == {}
    assert introduce(facts) == {}


def test_what_introduces_a_host_is_read_from_files() -> None:
    assert all(isinstance(probe, FileProbe) for probe in PROBES)
    needed = {probe.id for fact in (PLATFORM, SYSTEM) for probe in fact.probes()}
    assert needed <= {probe.id for probe in PROBES}
