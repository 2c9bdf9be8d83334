"""Storage: block devices and their queues, file systems and how they are mounted, and what starts swap at boot."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from hostcheck.errors import Maybe, NotApplicable, Unavailable
from hostcheck.facts.base import Fact
from hostcheck.facts.kernel import maybe
from hostcheck.facts.limits import parse_settings
from hostcheck.facts.memory import count
from hostcheck.snapshot.probes import KIB, MIB, FileProbe
from hostcheck.snapshot.reading import Reading

BLOCK = "/sys/block"
_SIZE = f"{BLOCK}/*/size"
_FIELDS = ("queue/scheduler", "queue/read_ahead_kb")
# The system's own units last: the first of a name holds.
_UNITS = ("/etc/systemd/system", "/run/systemd/generator", "/run/systemd/generator.late", "/usr/lib/systemd/system")

BLOCK_PROBE = FileProbe("storage.block", (_SIZE, *(f"{BLOCK}/*/{name}" for name in _FIELDS)), limit=4 * KIB)
MOUNTS_PROBE = FileProbe("storage.mounts", ("/proc/self/mounts",), limit=2 * MIB)
SWAP_UNITS_PROBE = FileProbe("storage.swap-units", tuple(f"{folder}/*.swap" for folder in _UNITS), limit=16 * KIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDevice:
    """One whole disk, or what is put together of several.

    Attributes:
        name: such as "nvme0n1", "vda" or "dm-0".
        scheduler: the I/O scheduler in use, such as "none"; not applicable where the device has no choice.
        schedulers: those that it could use.
        read_ahead_kib: how much of a file that is read in order is read ahead.
    """

    name: str
    scheduler: Maybe[str]
    schedulers: tuple[str, ...]
    read_ahead_kib: Maybe[int]

    @property
    def subject(self) -> str:
        """Its name."""
        return self.name

    @property
    def is_nvme(self) -> bool:
        """Whether it is a namespace of an NVMe drive."""
        return self.name.startswith("nvme")


# Loops, RAM disks, optical and floppy drives, and the hidden paths of multipath NVMe drives.
_NO_DISK = re.compile(r"(loop|ram|zram|sr|fd|nbd|rbd)\d+|nvme\d+c\d+n\d+")


def parse_scheduler(text: str) -> tuple[str, tuple[str, ...]]:
    """Return the scheduler in brackets, and all that are offered.

    Raises:
        NotApplicable: the device has no choice, as those that are put together of others.
        Unavailable: it is no such list.

    Sample:
        [none] mq-deadline kyber bfq
    """
    words = text.split()
    chosen = [word[1:-1] for word in words if word.startswith("[") and word.endswith("]")]
    if words == ["none"]:
        raise NotApplicable("the device hands its requests on and schedules none")
    if len(chosen) != 1:
        raise Unavailable(f"{text.strip()[:60]!r} is no list of I/O schedulers", BLOCK_PROBE.id)
    return chosen[0], tuple(word.strip("[]") for word in words)


def read_devices(reading: Reading) -> Sequence[BlockDevice]:
    """Return the disks that hold something; those of size 0 are empty slots.

    Raises:
        Unavailable: they were not read.
    """
    devices = []
    for path, size in reading.glob(_SIZE).items():
        name = path.split("/")[3]
        if _NO_DISK.fullmatch(name) or count(size, path) == 0:
            continue
        text, ahead = (maybe(partial(_file, reading, f"{BLOCK}/{name}/{field}")) for field in _FIELDS)
        choice = maybe(partial(parse_scheduler, text)) if isinstance(text, str) else text
        devices.append(
            BlockDevice(
                name=name,
                scheduler=choice[0] if isinstance(choice, tuple) else choice,
                schedulers=choice[1] if isinstance(choice, tuple) else (),
                read_ahead_kib=maybe(partial(count, ahead, "read_ahead_kb")) if isinstance(ahead, str) else ahead,
            )
        )
    return devices


def _file(reading: Reading, path: str) -> str:
    text = reading.read(path)
    if text is None:
        raise NotApplicable(f"there is no {path}")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class MountedDisk:
    """A file system on a disk of the host, as it is mounted at one place.

    Attributes:
        source: its device, such as "/dev/nvme0n1p2".
        point: where it is mounted.
        fstype: such as "ext4".
        options: all its options as the kernel shows them, such as "rw,relatime,errors=remount-ro".
    """

    source: str
    point: str
    fstype: str
    options: str

    @property
    def subject(self) -> str:
        """Where it is mounted."""
        return self.point

    @property
    def atime(self) -> str:
        """When reading a file is written down: "noatime", "relatime" (at most once a day) or "strictatime"."""
        words = self.options.split(",")
        return next((word for word in ("noatime", "relatime") if word in words), "strictatime")


_DISK_TYPES = ("ext4", "ext3", "ext2", "xfs", "btrfs", "f2fs", "zfs", "bcachefs")
_SYSTEM = re.compile(r"/(boot|efi|snap|run|var/lib/(kubelet|docker|containerd|containers|snapd))(/.*)?")
_SHM = "/dev/shm"  # noqa: S108


def parse_mounts(text: str) -> tuple[MountedDisk, ...]:
    r"""Parse /proc/self/mounts; of several mounts on one place, the last one is the one that is seen.

    Sample:
        /dev/mapper/vg0-root / ext4 rw,relatime,errors=remount-ro 0 0
        tmpfs /dev/shm tmpfs rw,nosuid,nodev,inode64 0 0
        /dev/nvme1n1p1 /data/model\040store xfs rw,noatime,attr2,inode64,logbufs=8,logbsize=32k,noquota 0 0
    """
    found: dict[str, MountedDisk] = {}
    for line in text.splitlines():
        words = line.split(" ")
        if len(words) < 4:
            raise Unavailable(f"/proc/self/mounts holds {line[:60]!r}", MOUNTS_PROBE.id)
        source, point, fstype, options = (unescape(word) for word in words[:4])
        found[point] = MountedDisk(source=source, point=point, fstype=fstype, options=options)
    return tuple(found.values())


def unescape(text: str) -> str:
    """Return a path as it is, out of a table of the kernel in which blanks and backslashes are octal numbers."""
    return re.sub(r"\\(040|011|012|134)", lambda found: chr(int(found[1], 8)), text)


def _mounts(reading: Reading) -> tuple[MountedDisk, ...]:
    text = reading.read("/proc/self/mounts")
    if not text:
        raise reading.unavailable("/proc/self/mounts is missing or empty")
    return parse_mounts(text)


def _disks(mounts: Sequence[MountedDisk]) -> Sequence[MountedDisk]:
    return [
        mount
        for mount in mounts
        if mount.fstype in _DISK_TYPES and not _SYSTEM.fullmatch(mount.point) and mount.options.split(",")[0] == "rw"
    ]


def _shm_mount(mounts: Sequence[MountedDisk]) -> MountedDisk:
    found = next((mount for mount in mounts if mount.point == _SHM), None)
    if found is None:
        raise NotApplicable(f"{_SHM} is no mount of its own")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapUnit:
    r"""A unit of systemd that starts a swap area at boot.

    Attributes:
        name: such as "dev-disk-by\x2duuid-18e645be.swap".
        source: its device or file, as the unit names it.
        origin: the file that it was made of, such as "/etc/fstab"; empty where it is a file of its own.
    """

    name: str
    source: str
    origin: str


def parse_swap_unit(name: str, text: str) -> SwapUnit:
    """Parse a unit file.

    Sample:
        # Automatically generated by systemd-fstab-generator

        [Unit]
        Documentation=man:fstab(5) man:systemd-fstab-generator(8)
        SourcePath=/etc/fstab

        [Swap]
        What=/swap.img
        Options=sw
    """
    return SwapUnit(
        name=name,
        source=parse_settings(text, "Swap").get("What", ""),
        origin=parse_settings(text, "Unit").get("SourcePath", ""),
    )


def read_swap_units(reading: Reading) -> Sequence[SwapUnit]:
    """Return the units that start swap on disks; those of compressed memory (zram) are left out."""
    texts: dict[str, str] = {}
    for folder in reversed(_UNITS):
        texts.update({path.rpartition("/")[2]: text for path, text in reading.glob(f"{folder}/*.swap").items()})
    units = (parse_swap_unit(name, text) for name, text in sorted(texts.items()))
    return [unit for unit in units if unit.source and not unit.source.startswith("/dev/zram")]


DISKS: Fact[Sequence[BlockDevice]] = Fact("storage.disks", read_devices, BLOCK_PROBE)


def _nvme(devices: Sequence[BlockDevice]) -> Sequence[BlockDevice]:
    return [device for device in devices if device.is_nvme]


NVME: Fact[Sequence[BlockDevice]] = Fact("storage.nvme", _nvme, DISKS)
MOUNTS: Fact[tuple[MountedDisk, ...]] = Fact("storage.mounts", _mounts, MOUNTS_PROBE)
FILE_SYSTEMS: Fact[Sequence[MountedDisk]] = Fact("storage.file-systems", _disks, MOUNTS)
SHM_MOUNT: Fact[MountedDisk] = Fact("storage.shm-mount", _shm_mount, MOUNTS)
SWAP_UNITS: Fact[Sequence[SwapUnit]] = Fact("storage.swap-units", read_swap_units, SWAP_UNITS_PROBE)
