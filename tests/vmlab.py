"""A guest of its own: Debian with several NUMA nodes, cgroup v2, an IOMMU, NVMe behind a PCIe switch, and GRUB.

`scripts/make-vm` makes its disk, and `make vm-test` names the folder. QEMU emulates the processors: where /dev/kvm is a
guest's own, a usual kernel can hang in it (seen with kvm_pvm on 2026-11-21: not a line after "Probing EDD").
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BOOT_SECONDS = 400
ENVIRONMENT = {**os.environ, "NO_COLOR": "1", "COLUMNS": "100"}
_MAIN = "from hostcheck.cli.main import main; main()"


def made() -> Path:
    """Return the folder of the guest; skip where none is named."""
    folder = os.environ.get("HOSTCHECK_VM", "")
    if not folder:
        pytest.skip("these tests boot a guest: make vm-test")
    return Path(folder)


def _machine() -> list[str]:
    """Two nodes with two CPUs each, one of memory alone, and on node 1 a switch with an NVMe drive and the network."""
    return [
        "-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "max,la57=off", "-m", "6656M",
        "-smp", "4,sockets=2,cores=2,threads=1",
        "-object", "memory-backend-ram,id=m0,size=3G", "-numa", "node,nodeid=0,cpus=0-1,memdev=m0",
        "-object", "memory-backend-ram,id=m1,size=3G", "-numa", "node,nodeid=1,cpus=2-3,memdev=m1",
        "-object", "memory-backend-ram,id=m2,size=512M", "-numa", "node,nodeid=2,memdev=m2",
        "-numa", "dist,src=0,dst=1,val=21", "-numa", "dist,src=0,dst=2,val=17", "-numa", "dist,src=1,dst=2,val=28",
        "-device", "intel-iommu,intremap=on",
        "-device", "pxb-pcie,id=far,bus=pcie.0,bus_nr=64,numa_node=1",
        "-device", "pcie-root-port,id=root,bus=far,chassis=1,slot=1",
        "-device", "x3130-upstream,id=switch,bus=root",
        "-device", "xio3130-downstream,id=first,bus=switch,chassis=2,slot=1",
        "-device", "xio3130-downstream,id=second,bus=switch,chassis=3,slot=2",
        "-display", "none", "-monitor", "none",
    ]  # fmt: skip


@dataclass
class Guest:
    """A guest that runs.

    Attributes:
        folder: what is kept of this run: its console, and what hostcheck wrote.
        config: names it "guest", for ssh and for `--ssh-config`.
        seconds: how long each boot took until it could be logged in to.
    """

    folder: Path
    config: Path
    seconds: list[float] = field(default_factory=list)

    def ssh(self, line: str, *, input: str = "", seconds: float = 120) -> str:
        """Run a line of sh there, as root; it must succeed."""
        done = subprocess.run(
            ["ssh", "-F", self.config, "guest", line], input=input, capture_output=True, text=True, timeout=seconds
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def python(self, code: str, *, within: str = "") -> str:
        """Run a program there that can import hostcheck; `within` are properties of the unit to run it in."""
        properties = " ".join(f"-p {word}" for word in within.split())
        unit = "systemd-run -q --pipe --wait -E PYTHONPATH"
        return self.ssh(f"{PYTHON} {f'{unit} {properties} ' if within else ''}python3 -P -", input=code)

    def hostcheck(self, *words: str, codes: tuple[int, ...] = (0,)) -> str:
        """Run hostcheck here."""
        done = subprocess.run(
            [sys.executable, "-P", "-c", _MAIN, *words, "--ssh-config", str(self.config)],
            capture_output=True, text=True, timeout=300, check=False, stdin=subprocess.DEVNULL, cwd=self.folder,
            env=ENVIRONMENT,
        )  # fmt: skip
        assert done.returncode in codes, f"{done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def up(self, before: str = "") -> None:
        """Wait until it has booted; `before` is the identity of the boot that is over."""
        begun = time.monotonic()
        while time.monotonic() < begun + BOOT_SECONDS:
            with suppress(AssertionError, subprocess.TimeoutExpired):
                if self.ssh("cat /proc/sys/kernel/random/boot_id", seconds=20) != before:
                    break
            time.sleep(0.5)
        self.seconds.append(time.monotonic() - begun)
        self.ssh("systemctl is-system-running --wait || systemctl --failed", seconds=BOOT_SECONDS)

    def reboot(self) -> None:
        """Boot it again, through GRUB."""
        before = self.ssh("cat /proc/sys/kernel/random/boot_id")
        with suppress(AssertionError):
            self.ssh("systemctl reboot")
        self.up(before)


PYTHON = "export PYTHONPATH=/mnt/code:/mnt/python PYTHONDONTWRITEBYTECODE=1 LC_ALL=C.UTF-8;"


def _code(folder: Path) -> None:
    """Put hostcheck there as it is installed (package-dir in pyproject.toml)."""
    shutil.copytree(ROOT / "hostcheck", folder / "hostcheck")
    for part in ("ansible", "checks", "tuners", "microbench", "reports"):
        shutil.copytree(ROOT / part, folder / "hostcheck" / part)


@contextmanager
def guest(folder: Path) -> Iterator[Guest]:
    """Boot the guest; what it writes to its disk is forgotten with it."""
    place = made()
    _code(folder / "code")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "ssh_config"
    config.write_text(
        f"Host guest\n HostName 127.0.0.1\n Port {port}\n User root\n IdentityFile {place}/key\n IdentitiesOnly yes\n"
        f" StrictHostKeyChecking no\n UserKnownHostsFile {folder}/known_hosts\n ConnectTimeout 15\n LogLevel ERROR\n"
    )
    with (folder / "nvme").open("wb") as drive:
        drive.truncate(2**30)
    parts = [
        "-serial", f"file:{folder}/console", "-snapshot",
        "-drive", f"file={place}/disk,format=raw,if=none,id=disk", "-device", "virtio-blk-pci,drive=disk,bus=pcie.0",
        "-drive", f"file={folder}/nvme,format=raw,if=none,id=nvme", "-device", "nvme,drive=nvme,serial=1,bus=first",
        "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22", "-device", "virtio-net-pci,netdev=net,bus=second",
    ]  # fmt: skip
    for tag, path in (("code", folder / "code"), ("python", place / "python")):
        parts += ["-fsdev", f"local,id={tag},path={path},security_model=none,readonly=on"]
        parts += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag},bus=pcie.0"]
    with (folder / "qemu").open("wb") as said:
        process = subprocess.Popen(["nice", "-n", "5", "qemu-system-x86_64", *_machine(), *parts], stderr=said)
    try:
        booted = Guest(folder, config)
        booted.up()
        for tag in ("code", "python"):
            booted.ssh(
                f"mkdir -p /mnt/{tag} && modprobe 9pnet_virtio && "
                f"mount -t 9p -o ro,trans=virtio,cache=loose,msize=262144 {tag} /mnt/{tag}"
            )
        yield booted
    finally:
        process.terminate()
        process.wait(30)
