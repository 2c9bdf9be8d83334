"""What names somebody goes; what says how a host is tuned stays."""

from __future__ import annotations

import pytest

from hostcheck.snapshot.reading import Ending, Entry, FileState, Manifest, Reading, Snapshot
from hostcheck.snapshot.redact import kernel_command_line, redact


def masked(text: str, hostname: str = "gpu-node-17.example.org") -> str:
    reading = Reading("a.b", Ending.OK, 0, out=text.encode())
    return redact(Snapshot(Manifest(1, "t", "sh", 0, 0, hostname, 0), {"a.b": reading})).readings["a.b"].out.decode()


@pytest.mark.parametrize(
    "secret",
    [
        "gpu-node-17",
        "gpu-node-17.example.org",
        "GPU-408643ac-e981-0be4-04ea-8dcdaffdd9c2",
        "408643ac-e981-0be4-04ea-8dcdaffdd9c2",
        "a0:36:9f:12:34:56",
        "10.20.30.40",
        "fe80::a236:9fff:fe12:3456",
        "2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff",
        "0x506b4b03005c2740",
        "506b:4b03:005c:2740",
        "builder@sandbox-3",
        "/home/alice",
        "password=hunter2",
        "<serial>1650124014249</serial>",
        "GPU Board Serial Number: 1650124014249",
        "<pdi>0x9d1b4b03005c27aa</pdi>",
    ],
)
def test_a_secret_goes(secret: str) -> None:
    text = masked(f"before {secret} after")
    value = secret.split("=")[-1].split(": ")[-1].removeprefix("<serial>").removesuffix("</serial>")
    assert value.removeprefix("<pdi>").removesuffix("</pdi>").removeprefix("/home/") not in text
    assert text.startswith("before ")
    assert text.endswith(" after")


@pytest.mark.parametrize(
    "fact",
    [
        "580.105.08",
        "96.00.a5.00.1a",
        "G520.0200.00.05",
        "00000000:53:00.0",
        "0000:53:00.0",
        "2025-01-17T15:36:15,345059+00:00",
        "NVRM: Xid (PCI:0000:9b:00): 119, pid=2024380, name=nvidia-smi",
        "vm.swappiness",
        "0-63,128-191",
        "libnccl.so.2.28.3",
        "127.0.0.1",
        "CUDA 13.0",
        "0::/",
        "7783-7084-3265-9085-8269-3286-77",
        "OracleCloud.com",
    ],
)
def test_a_fact_stays(fact: str) -> None:
    assert masked(f"x {fact} y") == f"x {fact} y"


def test_equal_values_keep_equal_masks_and_different_ones_differ() -> None:
    first, second, third = masked("10.0.0.1 10.0.0.2 10.0.0.1").split()
    assert first == third != second
    uuid = "408643ac-e981-0be4-04ea-8dcdaffdd9c2"
    assert masked(f"GPU-{uuid} {uuid}").split()[0].removeprefix("GPU-") == masked(f"GPU-{uuid} {uuid}").split()[1]


def test_a_short_or_common_name_does_not_damage_the_text() -> None:
    assert masked("vm.swappiness = 1", hostname="vm") == "vm.swappiness = 1"
    assert masked("localhost", hostname="localhost") == "localhost"


def test_of_a_kernel_command_line_only_tuning_is_left() -> None:
    line = "iommu=pt quiet root=UUID=abc ks=http://10.0.0.1/x hugepages=8 token=1 -- --init-secret x\n"
    assert kernel_command_line(line) == "iommu=pt quiet masked masked hugepages=8 masked\n"


def test_files_links_and_programs_are_masked_too() -> None:
    files = {
        "/proc/1/comm": FileState(Ending.OK, b"systemd\n"),
        "/proc/9/comm": FileState(Ending.OK, b"secret-model\n"),
        "/proc/cmdline": FileState(Ending.OK, b"root=/dev/sda iommu=pt\n"),
    }
    readings = {
        "p.c": Reading("p.c", Ending.OK, asked=("/proc/*/comm",), files=files),
        "p.l": Reading("p.l", Ending.OK, asked=("/x",), entries={"/x": Entry("l", target="/home/bob/x")}),
    }
    clean = redact(Snapshot(Manifest(1, "t", "sh", 0, 0, "node-1", 0), readings))
    assert clean.manifest.redacted
    assert clean.manifest.hostname == "host-1"
    assert clean.readings["p.c"].files["/proc/1/comm"].data == b"systemd\n"
    assert clean.readings["p.c"].files["/proc/9/comm"].data == b"program-1\n"
    assert clean.readings["p.c"].files["/proc/cmdline"].data == b"masked iommu=pt\n"
    assert clean.readings["p.l"].entries["/x"].target == "/home/user-1/x"


def masked_file(path: str, text: str) -> str:
    reading = Reading("a.b", Ending.OK, asked=(path,), files={path: FileState(Ending.OK, text.encode())})
    clean = redact(Snapshot(Manifest(1, "t", "sh", 0, 0, "node-1", 0), {"a.b": reading}))
    return clean.readings["a.b"].files[path].data.decode()


def test_mounts_keep_their_kind_and_lose_their_names() -> None:
    text = (
        "24 27 0:6 / /dev rw,relatime - devtmpfs devtmpfs rw,size=131993300k,mode=755\n"
        "30 27 0:40 / /projects/secret rw,noatime - nfs4 filer3:/export/secret rw,vers=4.2,addr=10.1.2.3\n"
    )
    assert masked_file("/proc/self/mountinfo", text) == (
        "24 27 0:6 / /dev rw,relatime - devtmpfs devtmpfs rw,size=131993300k,mode=755\n"
        "30 27 0:40 / /masked-1 rw,noatime - nfs4 /masked-2 rw,vers=4.2,addr=192.0.2.2\n"
    )


def test_control_groups_keep_what_tells_a_container() -> None:
    assert masked_file("/proc/self/cgroup", "0::/system.slice/my-job/1fd6\n") == "0::/system.slice/group-1/group-2\n"
    assert masked_file("/proc/1/cgroup", "0::/kubepods.slice/x\n") == "0::/kubepods.slice/group-1\n"


def test_configuration_keeps_limits_and_loses_secrets() -> None:
    text = "[Service]\nLimitMEMLOCK=infinity\nEnvironment=API_TOKEN=abc\nExecStart=/opt/x --key y\n"
    assert masked_file("/etc/systemd/system/slurmd.service.d/x.conf", text) == (
        "[Service]\nLimitMEMLOCK=infinity\nEnvironment=masked\nExecStart=masked\n"
    )
    rule = 'ACTION=="add", RUN+="/opt/site/notify --token abc"\n# kept\n'
    assert masked_file("/etc/udev/rules.d/50-site.rules", rule) == "ACTION=masked\n# kept\n"


def test_what_the_kernel_tells_of_init_goes() -> None:
    text = (
        "[    0.000000] Command line: quiet ks=http://x -- --addr 0.0.0.0\n"
        "[    0.100000] Kernel command line: quiet root=/dev/sda1\n"
        '[    0.200000] Unknown kernel command line parameters "ks=http://x", will be passed to user space.\n'
        "[    1.000000] Run /secret-init as init process\n"
        "[    1.000001]   with arguments:\n"
        "[    1.000002]     /secret-init\n"
        "[    1.500000] secret-daemon (1): drop_caches: 3\n"
        "[    1.600000] Out of memory: Killed process 77 (secret-job) total-vm:9kB\n"
        "[    1.700000] NVRM: Xid (PCI:0000:9b:00): 31, pid=5, name=secret-model, Ch 1\n"
        "[    2.000000] NVRM: Xid (PCI:0000:9b:00): 79, GPU has fallen off the bus.\n"
    )
    clean = masked(text)
    assert "secret" not in clean
    assert "addr" not in clean
    assert "http" not in clean
    assert "Command line: quiet masked\n" in clean
    assert "Xid (PCI:0000:9b:00): 79, GPU has fallen off the bus." in clean


def test_control_groups_in_paths_are_masked_like_their_names() -> None:
    path = "/sys/fs/cgroup/system.slice/my-job/cpu.max"
    reading = Reading(
        "a.b", Ending.OK, asked=("/sys/fs/cgroup/*/*/cpu.max",), files={path: FileState(Ending.OK, b"max")}
    )
    clean = redact(Snapshot(Manifest(1, "t", "sh", 0, 0, "node-1", 0), {"a.b": reading})).readings["a.b"]
    assert list(clean.files) == ["/sys/fs/cgroup/system.slice/group-1/cpu.max"]


def test_the_boot_loader_keeps_how_the_host_is_tuned() -> None:
    text = (
        "# made by the site\n"
        'GRUB_CMDLINE_LINUX="iommu=pt root=UUID=18e645be-0000-4000-8000-000000000000 ks=http://deploy/x"\n'
        "GRUB_CMDLINE_LINUX_DEFAULT='$GRUB_CMDLINE_LINUX_DEFAULT quiet'\n"
        'GRUB_PASSWORD="hunter2"\n'
    )
    assert masked_file("/etc/default/grub", text) == (
        "\n"
        'GRUB_CMDLINE_LINUX="iommu=pt masked masked"\n'
        "GRUB_CMDLINE_LINUX_DEFAULT='$GRUB_CMDLINE_LINUX_DEFAULT quiet'\n"
        "GRUB_PASSWORD=masked\n"
    )
    told = 'index=0\nargs="ro iommu=pt rd.lvm.lv=site/root $tuned_params"\nid="0123456789abcdef0123456789abcdef-5.14"\n'
    reading = Reading("kernel.grubby", Ending.OK, out=told.encode())
    clean = redact(Snapshot(Manifest(1, "t", "sh", 0, 0, "node-1", 0), {"kernel.grubby": reading}))
    assert clean.readings["kernel.grubby"].out.decode() == (
        'index=masked\nargs="ro iommu=pt masked $tuned_params"\nid=masked\n'
    )


def test_mounted_disks_keep_their_kind() -> None:
    text = "/dev/mapper/site-root / ext4 rw,relatime 0 0\nfiler:/secret /projects/secret nfs4 rw,addr=10.1.2.3 0 0\n"
    clean = masked_file("/proc/self/mounts", text)
    assert clean == "/masked-1 / ext4 rw,relatime 0 0\n/masked-2 /masked-3 nfs4 rw,addr=192.0.2.2 0 0\n"


def test_names_that_hold_an_identity_are_masked() -> None:
    path = r"/run/systemd/generator/dev-disk-by\x2duuid-18e645be\x2d0000\x2d4000.swap"
    files = {path: FileState(Ending.OK, b"[Swap]\nWhat=/dev/disk/by-label/SITE\n")}
    reading = Reading("a.b", Ending.OK, asked=("/run/systemd/generator/*.swap",), files=files)
    clean = redact(Snapshot(Manifest(1, "t", "sh", 0, 0, "node-1", 0), {"a.b": reading})).readings["a.b"]
    assert {path: state.data for path, state in clean.files.items()} == {
        r"/run/systemd/generator/dev-disk-by\x2duuid-masked1.swap": b"[Swap]\nWhat=masked\n"
    }
    assert masked("enx0c42a1000001 is up") == "enx000000000001 is up"
