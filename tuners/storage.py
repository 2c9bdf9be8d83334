"""Storage: the queues of disks, and how file systems are mounted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from hostcheck.checks.storage import ATIME, READ_AHEAD, SCHEDULER
from hostcheck.errors import Maybe, NotApplicable, need
from hostcheck.expect import Expect
from hostcheck.facts.dropins import MARK, OWN, OwnFiles
from hostcheck.facts.platform import PLATFORM, Platform
from hostcheck.facts.storage import BLOCK, DISKS, FILE_SYSTEMS, NVME, BlockDevice, MountedDisk
from hostcheck.model import Scalar
from hostcheck.registry import tuner
from hostcheck.tuning.change import Change, Kind, Refusal, Reload, Risk, Scope

from .making import Settled, because, by_hand, claimed, drop_in, pick, settle, write

Steps = Iterator[Change | Refusal]


def _queues(
    own: OwnFiles,
    devices: Sequence[BlockDevice],
    attribute: str,
    observe: Callable[[BlockDevice], Maybe[Scalar]],
    settled: Callable[[BlockDevice, Scalar], Settled | Refusal | None],
    *,
    check: str,
    why: str,
    source: str,
) -> Steps:
    """Yield what brings an attribute of the queues of disks to its value, now and by a udev rule.

    Args:
        attribute: its name in sysfs, below the queue.
        observe: returns what is there; where it is not applicable, the disk is left out.
        settled: returns what is to be there.

    Raises:
        Unavailable: the attribute of some disk could not be read.
    """
    rules: dict[str, list[str]] = {}
    seen = [(device, need(found)) for device in devices if not isinstance(found := observe(device), NotApplicable)]
    for device, before in seen:
        after = settled(device, before)
        if isinstance(after, Refusal):
            yield after
        elif after is not None:
            path = f"{BLOCK}/{device.name}/queue/{attribute}"
            yield write(path, f"{before}", f"{after.value}", why=why, source=source, fixes=[check])
            if not after.kept:
                rules.setdefault(f"{after.value}", []).append(device.name)
    lines = [
        f'ACTION=="add|change", SUBSYSTEM=="block", KERNEL=="{"|".join(names)}", ATTR{{queue/{attribute}}}="{value}"'
        for value, names in sorted(rules.items())
    ]
    if lines:
        path = f"/etc/udev/rules.d/{MARK}{check.partition('.')[2]}.rules"
        yield from drop_in(own, path, lines, why=why, source=source, reload=Reload.UDEV)


def _ruled(own: OwnFiles, attribute: str, target: str) -> Refusal | None:
    """Return a refusal where a udev rule of the operator's sets an attribute, for whichever device."""
    return next((refusal for rule in own.others.udev(attribute) if (refusal := claimed(target, rule))), None)


@tuner(
    NVME, OWN, id="storage.scheduler", fixes=["storage.scheduler"], rows=["os-io-scheduler"], keys=[SCHEDULER],
)  # fmt: skip
def scheduler(devices: Sequence[BlockDevice], own: OwnFiles, expect: Expect) -> Steps:
    """Set the I/O scheduler of NVMe drives.

    Requests that wait are handed on first; nothing is lost. A scheduler that shares a drive out among groups (bfq)
    does so no longer. Rollback writes the old word back.
    """
    wanted = expect(SCHEDULER)

    def settled(device: BlockDevice, word: Scalar) -> Settled | Refusal | None:
        path = f"{BLOCK}/{device.name}/queue/scheduler"
        result = settle(own, path, wanted, word, tuned=[("disk", "elevator")])
        if isinstance(result, Settled):
            if result.value not in device.schedulers:
                offers = ", ".join(device.schedulers)
                return Refusal(target=path, why=f"the kernel offers {offers}, and not {result.value}")
            return _ruled(own, "queue/scheduler", path) or result
        return result

    why, source = "requests to NVMe drives are not sorted first", because(wanted)
    check = "storage.scheduler"
    yield from _queues(
        own, devices, "scheduler", lambda disk: disk.scheduler, settled, check=check, why=why, source=source
    )


@tuner(
    DISKS, PLATFORM, OWN, id="storage.read-ahead", fixes=["storage.read-ahead"], rows=["os-readahead"],
    keys=[READ_AHEAD],
)  # fmt: skip
def read_ahead(devices: Sequence[BlockDevice], platform: Platform, own: OwnFiles, expect: Expect) -> Steps:
    """Raise how far the kernel reads ahead in files that are read in order.

    Programs that jump about in large files read more for nothing. It counts for files that are opened afterwards.
    Rollback writes the old number back.
    """
    if platform.form == "laptop":
        raise NotApplicable("a laptop streams no data sets")
    wanted = expect(READ_AHEAD)

    def settled(device: BlockDevice, size: Scalar) -> Settled | Refusal | None:
        path = f"{BLOCK}/{device.name}/queue/read_ahead_kb"
        # A profile of tuned writes ">4096" for "at least".
        result = settle(
            own, path, wanted, size, tuned=[("disk", "readahead")], read=lambda text: int(text.strip("> ").split()[0])
        )
        return (_ruled(own, "queue/read_ahead_kb", path) or result) if isinstance(result, Settled) else result

    why, source = "files that are read in order are read ahead", because(wanted)
    check = "storage.read-ahead"
    yield from _queues(
        own, devices, "read_ahead_kb", lambda disk: disk.read_ahead_kib, settled, check=check, why=why, source=source
    )


@tuner(FILE_SYSTEMS, id="storage.atime", fixes=["storage.atime"], rows=["os-mount-noatime"], keys=[ATIME])
def atime(mounts: Sequence[MountedDisk], expect: Expect) -> Steps:
    """Mount file systems so that reading a file does not write to them.

    Programs that ask when a file was last read get an older answer. It lasts until the file system is mounted anew:
    for later boots, the line in /etc/fstab or the mount unit is the operator's. Rollback mounts it as before.
    """
    wanted = expect(ATIME)
    for mount in mounts:
        value = pick(mount.point, wanted, mount.atime)
        if isinstance(value, Refusal):
            yield value
        elif value != mount.atime:
            words = [word for word in mount.options.split(",") if word not in ("noatime", "relatime", "strictatime")]
            after = [words[0], *([] if value == "strictatime" else [str(value)]), *words[1:]]
            yield Change(
                kind=Kind.MOUNT,
                target=mount.point,
                before=mount.options,
                after=",".join(after),
                scope=Scope.RUNTIME,
                why="reading a file does not write to its file system",
                risk=Risk.LOW,
                source=because(wanted),
                fixes=("storage.atime",),
            )
            told = f"give {mount.point} the option {value} in /etc/fstab, or in its mount unit: it is lost at a reboot"
            yield by_hand(f"/etc/fstab {mount.point}", told, because(wanted))
