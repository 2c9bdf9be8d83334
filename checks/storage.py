"""Storage: the queues of disks, and how file systems are mounted."""

from __future__ import annotations

from hostcheck.errors import NotApplicable, need
from hostcheck.expect import Expect, Key
from hostcheck.facts.base import each
from hostcheck.facts.platform import PLATFORM, Platform
from hostcheck.facts.storage import BLOCK, DISKS, FILE_SYSTEMS, NVME, BlockDevice, MountedDisk
from hostcheck.model import Finding, Severity
from hostcheck.registry import check

from .kernel_fixes import target

SCHEDULER = Key("storage.scheduler", str)
READ_AHEAD = Key("storage.read-ahead", int, unit="KiB", high=2**20)
ATIME = Key("storage.atime", str, words=("noatime", "relatime", "strictatime"))

_HOSTS = "disks and their file systems are the host's"


@check(
    each(NVME), PLATFORM, id="storage.scheduler", severity=Severity.LOW, rows=["os-io-scheduler"], keys=[SCHEDULER],
    references=["https://docs.kernel.org/block/switching-sched.html"],
)  # fmt: skip
def scheduler(device: BlockDevice, platform: Platform, expect: Expect) -> Finding:
    """Requests to NVMe drives are not sorted by the kernel first.

    A drive with its own deep queues gains nothing from sorting, which costs processor time and a lock per request:
    bfq bounds a fast drive to a fraction of what it can do.
    """
    platform.need_host(_HOSTS)
    name, wanted = need(device.scheduler), expect(SCHEDULER)
    path = f"{BLOCK}/{device.name}/queue/scheduler"
    return wanted.judge(
        name,
        say=f"the I/O scheduler is {name}",
        fix=f"echo {target(wanted)} > {path}   # until reboot; to last: a udev rule that sets ATTR{{queue/scheduler}}",
        source=path,
    )


@check(each(DISKS), PLATFORM, id="storage.read-ahead", severity=Severity.LOW, rows=["os-readahead"], keys=[READ_AHEAD])
def read_ahead(device: BlockDevice, platform: Platform, expect: Expect) -> Finding:
    """The kernel reads far enough ahead in files that are read in order.

    With the kernel's default of 128 KiB a single reader of a fast drive waits for most of its requests. What is read
    ahead is read for nothing where programs jump about in their files.
    """
    platform.need_host(_HOSTS)
    if platform.form == "laptop":
        raise NotApplicable("a laptop streams no data sets")
    size, wanted = need(device.read_ahead_kib), expect(READ_AHEAD)
    path = f"{BLOCK}/{device.name}/queue/read_ahead_kb"
    return wanted.judge(
        size,
        say=f"{size:,} KiB are read ahead",
        fix=f"echo {target(wanted)} > {path}   # until reboot; to last: a udev rule, ATTR{{queue/read_ahead_kb}}",
        source=path,
    )


@check(each(FILE_SYSTEMS), PLATFORM, id="storage.atime", severity=Severity.LOW, rows=["os-mount-noatime"], keys=[ATIME])
def atime(mount: MountedDisk, platform: Platform, expect: Expect) -> Finding:
    """Reading a file does not write to its file system each time.

    With strictatime each read of a file is written down, so a data set of millions of small files is written to as
    often as it is read. relatime does so once a day at most, which is nearly as good as noatime.
    """
    platform.need_host(_HOSTS)
    wanted = expect(ATIME)
    return wanted.judge(
        mount.atime,
        say=f"mounted with {mount.atime}",
        fix=f"mount -o remount,{target(wanted)} {mount.point}, and the same in /etc/fstab",
        source="/proc/self/mounts",
    )
