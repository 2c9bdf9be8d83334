"""`Change` and `Plan`: what is to be altered on a host, as data. Nothing in this module alters anything."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

SCHEMA = 1


class Kind(StrEnum):
    """What sort of thing a change alters; the runtime has one reader and one writer for each.

    WRITE: a value in procfs or sysfs. `target` is its path. Where the file shows a choice ("always [madvise] never"),
        before and after are the chosen word.
    FILE: a whole drop-in file of our own. `target` is its path; before and after are its contents, None where it is not
        there.
    UNIT: a systemd unit. `target` is its name; before and after are "enabled" or "disabled" ("static" for one that only
        others start), a space, and "active" or "inactive".
    KERNEL_ARG: an argument of the kernel's command line. `target` is "grub" or "grubby", a space, and its name; before
        and after are its value, "" for a bare word, None where it is not given.
    GPU: a setting made by nvidia-smi. `target` is the GPU's UUID, a space and the setting: power-limit (W), ecc, mig,
        persistence, compute-mode (words as nvidia-smi prints them), sm-clock-lock, memory-clock-lock ("MIN,MAX" in MHz,
        None for unlocked, or for what hostcheck did not lock in this boot), mig-layout (profiles of MIG instances
        between commas, in any order, or "none").
    NIC: a setting of a network interface. `target` is its name, a space, and "mtu".
    MOUNT: an option of a mounted file system. `target` is its mount point; before and after are all its options, as
        /proc/self/mounts shows them.
    SWAP: a swap area. `target` is its path; before and after are its priority, None where it is off.
    MODULE: a kernel module. `target` is its name; before and after are "" where it is loaded, None where not.
    MANUAL: nothing that hostcheck does: `why` says what the operator is to do, and `commands` how. Never applied.
    """

    WRITE = "write"
    FILE = "file"
    UNIT = "unit"
    KERNEL_ARG = "kernel-arg"
    GPU = "gpu"
    NIC = "nic"
    MOUNT = "mount"
    SWAP = "swap"
    MODULE = "module"
    MANUAL = "manual"


class Scope(StrEnum):
    """How long a change lasts: until the next boot, or from then on (a file that is read at boot)."""

    RUNTIME = "runtime"
    PERSISTENT = "persistent"


class Needs(StrEnum):
    """What must happen before a change has its effect; hostcheck never does this by itself."""

    NOTHING = "nothing"
    SERVICE_RESTART = "service-restart"
    NEW_SESSION = "new-session"
    GPU_RESET = "gpu-reset"
    REBOOT = "reboot"


class Risk(StrEnum):
    """How bad the worst case is: a slower host; a service or a job that fails; a host that cannot be reached."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"

    @property
    def rank(self) -> int:
        """0 for low, 2 for high."""
        return list(Risk).index(self)


class Reload(StrEnum):
    """Who must read a FILE again for it to be known: systemd (daemon-reload), udev, or nobody before the next boot."""

    NOTHING = ""
    SYSTEMD = "systemd"
    UDEV = "udev"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One reversible edit.

    Attributes:
        kind, target: what is altered; `Kind` says what a target looks like.
        before: what stands there now, by the snapshot; None where there is nothing.
        after: what is to stand there; None to remove it.
        scope: how long it lasts.
        why: one line: what this is good for.
        risk: of the worst case.
        needs: what must happen before it has its effect.
        reload: who must be told of a FILE.
        source: what justifies the value, from the expectation that set it, with its layer.
        fixes: ids of the checks that it is to make pass; only those that can pass without what `needs` says.
        tuner: id of the tuner; the engine fills it in.
        cuts: it could cut the connection through which it is made: applied under confirm-or-revert alone.
        opt_in: it is in a plan only where it was asked for by name (`--only`).
        commands: of MANUAL alone: lines of sh for the operator to copy, run as root; words in capitals stand for what
            only they know.
    """

    kind: Kind
    target: str
    before: str | None
    after: str | None
    scope: Scope
    why: str
    risk: Risk = Risk.LOW
    needs: Needs = Needs.NOTHING
    reload: Reload = Reload.NOTHING
    source: str = ""
    fixes: tuple[str, ...] = ()
    tuner: str = ""
    cuts: bool = False
    opt_in: bool = False
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Something that a tuner would change, and that is left alone.

    Attributes:
        tuner: id of the tuner; the engine fills it in.
        target: what would have been changed.
        why: one line: who owns it, or why it cannot be done here, and what to do instead.
    """

    target: str
    why: str
    tuner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unplanned:
    """A tuner that could not say whether there is something to change, and why: ignorance, never "nothing to do".

    Attributes:
        tuner: its id; empty where nothing could be planned for this host at all.
        why: one line.
        cause: the probe that is the reason, where it is one.
        bug: it is ours: the traceback of an exception that no user can cause.
    """

    tuner: str
    why: str
    cause: str = ""
    bug: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An ordered list of changes for one host, and what was left out of it.

    Attributes:
        host: its name; `machine` is its identity (/etc/machine-id), empty where it has none. A plan is applied nowhere
            else.
        boot: the boot (/proc/sys/kernel/random/boot_id) whose runtime values it knows.
        made: when the snapshot was taken, ISO 8601 UTC.
        tool: the hostcheck version that made it.
        unfinished: numbers of transactions that were not brought to an end when the snapshot was taken: values may be
            half changed, and nothing is applied before `recover`. None also where the reader was not root.
    """

    host: str
    machine: str
    boot: str
    made: str
    tool: str
    role: str
    changes: tuple[Change, ...]
    refusals: tuple[Refusal, ...] = ()
    unplanned: tuple[Unplanned, ...] = ()
    unfinished: tuple[str, ...] = ()
    schema: int = SCHEMA
