"""The file that storage is measured with: where it lies, what it holds, and that nothing of it stays."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench_lab import StandInLab
from hostcheck.errors import HostcheckError
from hostcheck.microbench import gds, storage

DISK = Path("/var/tmp")

# What a container on a diskless node shows, but for the numbers: comma and space are escaped.
MOUNTINFO = r"""1 1 0:2 / / rw shared:1 - rootfs rootfs rw,size=8g
24 1 259:2 / /mnt/my\040disk rw,relatime shared:2 master:3 - xfs /dev/nvme0n1p2 rw,attr2
25 24 0:31 / /mnt/my\040disk/t rw - tmpfs  rw
26 1 0:40 / /o rw - overlay overlay rw,lowerdir=/l,upperdir=/run/a\040b\054c/upper,workdir=/run/w
"""


def test_mounts_are_read_as_the_kernel_writes_them() -> None:
    found = storage.mounts(MOUNTINFO)
    assert {number: (kind, device) for number, (kind, device, _) in found.items()} == {
        "1": ("rootfs", "0:2"), "24": ("xfs", "259:2"), "25": ("tmpfs", "0:31"), "26": ("overlay", "0:40"),
    }  # fmt: skip
    assert found["26"][2]["upperdir"] == "/run/a b,c/upper"


def said_in(script: str, *folders: str) -> list[str]:
    """Return what is said of folders in a mount namespace that a sh script has prepared, with a tmpfs at /mnt."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        assert not os.environ.get("CI"), "mounts of tests need root and util-linux"
        pytest.skip("needs root and unshare")
    program = (
        "import sys; from pathlib import Path; from hostcheck.errors import HostcheckError\n"
        "from hostcheck.microbench import storage\n"
        "for folder in sys.argv[1:]:\n"
        "    try:\n        print(storage._storage(Path(folder)))\n"
        "    except HostcheckError as problem:\n        print(problem)\n"
    )
    inside = f'mount -t tmpfs lab /mnt; cd /mnt; {script}\nexec "$@"'
    argv = ["unshare", "-m", "--propagation", "private", "sh", "-ec", inside, "sh", sys.executable, "-P", "-c", program]
    done = subprocess.run([*argv, *folders], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_memory_is_refused_whatever_its_mount_point_is_called() -> None:
    """As of a tmpfs at a path with a space, which gave 7.7 GB/s as those of the ext4 around it."""
    said = said_in("mkdir 'a b'; mount -t tmpfs lab 'a b'", "/mnt/a b", "/mnt")
    why = "is in memory (tmpfs); name a folder on the storage that is to be measured"
    assert said == [f"/mnt/a b {why}", f"/mnt {why}"]


def test_a_mount_over_another_is_told_apart() -> None:
    """A tmpfs, and over it the disk: what is covered has the same path."""
    said = said_in(f"mkdir d; mount -t tmpfs lab d; mount --bind {DISK} d", "/mnt/d", str(DISK))
    assert said[0] == said[1] == storage.lies_on(DISK)


def test_an_overlay_is_what_its_upper_layer_lies_on() -> None:
    layers = "mkdir 'u p' l w m; mount -t overlay -o 'lowerdir=l,upperdir=/mnt/u p,workdir=w' o m"
    (said,) = said_in(layers, "/mnt/m")
    assert said == ("/mnt/m is in memory (overlay on tmpfs); name a folder on the storage that is to be measured")


def test_an_overlay_whose_upper_layer_is_out_of_sight_is_refused() -> None:
    """As in a container: its layers lie on the host."""
    layers = "mkdir t l m; mount -t tmpfs lab t; mkdir t/u t/w"
    hidden = "mount -t overlay -o lowerdir=l,upperdir=/mnt/t/u,workdir=/mnt/t/w o m; umount -l t"
    (said,) = said_in(f"{layers}; {hidden}", "/mnt/m")
    assert said == (
        "/mnt/m: whether it is in memory cannot be told from here (file system: overlay on unknown); "
        "name a folder whose file system is mounted here"
    )


def test_what_no_mount_tells_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As below a chroot into a folder: the kernel shows the mounts below it alone."""
    monkeypatch.setattr(storage, "mounts", lambda text: {})
    with pytest.raises(HostcheckError, match=r"cannot be told from here \(file system: unknown\)"):
        storage._storage(DISK)


@pytest.mark.parametrize(("name", "system"), [("zram0", "ext4 on zram"), ("ram1", "ext4 on ram"), ("vda", "ext4")])
def test_a_drive_in_memory_is_told(monkeypatch: pytest.MonkeyPatch, name: str, system: str) -> None:
    monkeypatch.setattr(storage, "_mount_of", lambda place: "24")
    monkeypatch.setattr(storage, "mounts", lambda text: {"24": ("ext4", "252:0", {})})
    monkeypatch.setattr(Path, "resolve", lambda path: Path("/sys/devices/virtual/block", name))
    assert storage.lies_on(DISK) == system
    assert (system.split(" on ")[-1] in storage._MEMORY) is (name != "vda")


def test_a_loop_device_is_what_its_file_lies_on(monkeypatch: pytest.MonkeyPatch) -> None:
    mount = {"/mnt": "1", "/dev/shm/disk.img": "2"}
    found: dict[str, tuple[str, str, dict[str, str]]] = {"1": ("ext4", "7:0", {}), "2": ("tmpfs", "0:25", {})}
    monkeypatch.setattr(storage, "_mount_of", lambda place: mount[str(place)])
    monkeypatch.setattr(storage, "mounts", lambda text: found)
    monkeypatch.setattr(Path, "resolve", lambda path: path)
    backing = Path("/sys/dev/block/7:0/loop/backing_file")
    monkeypatch.setattr(storage, "_read", lambda path: "/dev/shm/disk.img" if path == backing else "")
    assert storage.lies_on(Path("/mnt")) == "ext4 on tmpfs"


def test_no_page_of_the_noise_comes_again_and_none_can_be_compressed(tmp_path: Path) -> None:
    """As of one page that was written over and over: 15 KiB were left of each MiB."""
    size = 32 * storage.BLOCK
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    storage._writer(descriptor)(0, size)
    written = os.pread(descriptor, size, 0)
    os.close(descriptor)
    assert len(written) == size
    pages = [written[at : at + storage.PAGE] for at in range(0, size, storage.PAGE)]
    assert len({page[8:] for page in pages}) == len(pages)
    assert [storage._page(at * storage.PAGE) for at in range(len(pages))] == pages
    assert len(zlib.compress(written[: 2 * storage.BLOCK], 1)) > 2 * storage.BLOCK


UNNAMED = """
import os, signal, sys
from pathlib import Path
from hostcheck.microbench import storage
with storage.created(Path(sys.argv[1]), storage.GIB // 4) as file:
    storage._writer(file.descriptor)(0, 2 * storage.BLOCK)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder on the disk."""
    with tempfile.TemporaryDirectory(dir=DISK) as folder:
        yield Path(folder)


def test_a_process_that_is_killed_while_it_writes_leaves_nothing(scratch: Path) -> None:
    """As gds.read on Ctrl-C, which left up to 16 GiB."""
    done = subprocess.run([sys.executable, "-P", "-c", UNNAMED, str(scratch)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(scratch.iterdir()) == []


def old_file_system(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Let no file be without a name."""
    opened = os.open

    def named_alone(path: str | Path, flags: int, mode: int = 0o777, **more: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(code, os.strerror(code))
        return opened(path, flags, mode, **more)

    monkeypatch.setattr(storage.os, "open", named_alone)


def cufile(seen: list[tuple[Path, int, int]]) -> Any:
    """Return a stand-in that notes what it is given: the name by which cuFile would open it again, flags and inode."""

    def register(description: Any) -> int:
        link = Path(f"/proc/self/fd/{description.handle.fd}")
        flags = fcntl.fcntl(description.handle.fd, fcntl.F_GETFL)
        seen.append((link.readlink(), flags, link.readlink().stat().st_ino))
        return 7

    def describe() -> Any:
        description = SimpleNamespace(handle=SimpleNamespace())
        description.ptr = description
        return description

    return SimpleNamespace(
        cuFileError=ZeroDivisionError, FileHandleType=SimpleNamespace(OPAQUE_FD=1), Descr=describe,
        handle_register=register, handle_deregister=lambda handle: None,
    )  # fmt: skip


@pytest.mark.parametrize("refused", [0, errno.EOPNOTSUPP, errno.EISDIR])
def test_a_file_has_a_name_only_while_cufile_opens_it(
    monkeypatch: pytest.MonkeyPatch, scratch: Path, refused: int
) -> None:
    if refused:
        old_file_system(monkeypatch, refused)
    seen: list[tuple[Path, int, int]] = []
    with storage.created(scratch, storage.GIB // 4) as file:
        assert len(list(scratch.iterdir())) == bool(refused)
        with gds.registered(cufile(seen), file, str(scratch)) as handle:
            ((name, flags, inode),) = seen
            assert list(scratch.iterdir()) == []
        assert name == file.name
        assert inode == os.fstat(file.descriptor).st_ino
        assert flags & (os.O_ACCMODE | os.O_DIRECT) == os.O_RDONLY | os.O_DIRECT
        assert handle == 7


def test_a_file_that_cufile_refuses_loses_its_name_too(scratch: Path) -> None:
    def refuse(description: Any) -> int:
        raise RuntimeError("broken")

    library = cufile([])
    library.handle_register = refuse
    held = Path("/proc/self/fd")
    before = len(list(held.iterdir()))
    with storage.created(scratch, storage.GIB // 4) as file:
        with pytest.raises(RuntimeError, match="broken"), gds.registered(library, file, str(scratch)):
            raise AssertionError("it was refused")
        assert list(scratch.iterdir()) == []
    assert len(list(held.iterdir())) == before


def test_the_file_of_another_is_left_alone(monkeypatch: pytest.MonkeyPatch, scratch: Path) -> None:
    """As in two containers, or on two hosts that share a folder, where processes have the same number."""
    old_file_system(monkeypatch, errno.EOPNOTSUPP)
    with storage.created(scratch, storage.GIB // 4) as one, storage.created(scratch, storage.GIB // 4) as other:
        assert sorted(scratch.iterdir()) == sorted([one.name, other.name])


def test_fio_is_looked_at_afterwards_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also that a fio which fails later on, as at a read error, leaves no number of the runs before."""
    rates = iter([5.0, None, 5.0, 5.0, 5.0] + [5.0] * 5)
    monkeypatch.setattr(storage, "GIB", 8 * 2**20)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/fio")
    monkeypatch.setattr(storage, "_by_fio", lambda *_: next(rates))
    sequential, random = storage.read(StandInLab(seconds=0.5, options={"path": str(DISK)}))
    assert sequential.invalid == "fio failed in 1 of 5 runs: dmesg may say why"
    assert not random.invalid
    assert random.settings["verified"] == "64 pages afterwards"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    (sequential, _) = storage.read(StandInLab(seconds=0.5, options={"path": str(DISK)}))
    assert sequential.settings["verified"] == "64 pages afterwards, and where each read came from"
