"""The kernel's settings and arguments, and the limits that login sessions get."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hostcheck.checks.kernel import INIT, IOMMU_STATE, KPTR, NUMA_BALANCING, PARANOID, PTRACE
from hostcheck.checks.kernel_limits import FILE_MAX, INSTANCES, MEMLOCK, NOFILE, NOFILE_SOFT, REMOVE, WATCHES
from hostcheck.errors import Maybe, NotApplicable, need
from hostcheck.expect import Expect, Key
from hostcheck.facts.boot import BOOT_CONFIG, BOOT_TOOL, BootConfig
from hostcheck.facts.cpu import NUMA, NumaNode
from hostcheck.facts.dropins import MARK, OWN, OwnFiles
from hostcheck.facts.kernel import CMDLINE, INIT_ON_ALLOC, IOMMU, SYSCTL, Cmdline, Iommu, setting
from hostcheck.facts.limits import LIMITS, REMOVE_IPC, UNLIMITED, Limits
from hostcheck.facts.memory import MEMINFO, MemInfo
from hostcheck.facts.platform import PLATFORM, Platform
from hostcheck.facts.process import DAEMONS, Daemons
from hostcheck.registry import tuner
from hostcheck.tuning.change import Change, Needs, Refusal, Risk

from .making import Settled, because, boot_argument, boot_commands, by_hand, drop_in, pick, settle, sysctl

Settings = Mapping[str, Maybe[str]]
Steps = Iterator[Change | Refusal]

_NCCL = "https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html"
# systemd's own default is yes; Red Hat patches it to no.
_REDHAT = ("rhel", "centos", "rocky", "almalinux", "ol")
_REBOOT = " in its boot loader, then drain the host and reboot it."


@tuner(
    SYSCTL, NUMA, OWN, id="kernel.numa-balancing", fixes=["kernel.numa-balancing"], rows=["x-os-numa-balancing"],
    keys=[NUMA_BALANCING], references=["https://docs.nvidia.com/grace-perf-tuning-guide/os-settings.html"],
)  # fmt: skip
def numa_balancing(settings: Settings, nodes: Sequence[NumaNode], own: OwnFiles, expect: Expect) -> Steps:
    """Set kernel.numa_balancing.

    Pages stay where their thread first touched them, which is right for jobs that are pinned; threads that wander
    lose by it. Rollback writes the old number.
    """
    if sum(node.is_host for node in nodes) < 2:
        raise NotApplicable("only one memory node has CPUs, so there is nothing to balance")
    why = "pages of pinned jobs are not unmapped and moved"
    wanted, fixes = expect(NUMA_BALANCING), ["kernel.numa-balancing"]
    yield from sysctl(own, settings, "kernel.numa_balancing", wanted, why=why, fixes=fixes, risk=Risk.MEDIUM)


@tuner(SYSCTL, OWN, id="kernel.file-max", fixes=["kernel.file-max"], rows=["x-os-nofile"], keys=[FILE_MAX])
def file_max(settings: Settings, own: OwnFiles, expect: Expect) -> Steps:
    """Raise fs.file-max, the number of files that all processes together may open.

    Each open file costs the kernel about 256 bytes, when it is opened. Rollback writes the old number.
    """
    why = "the host as a whole may open many files"
    yield from sysctl(own, settings, "fs.file-max", expect(FILE_MAX), why=why, fixes=["kernel.file-max"])


@tuner(SYSCTL, DAEMONS, OWN, id="kernel.inotify", fixes=["kernel.inotify"], keys=[INSTANCES, WATCHES])
def inotify(settings: Settings, daemons: Daemons, own: OwnFiles, expect: Expect) -> Steps:
    """Let programs watch many files, on hosts with a kubelet.

    Each watch costs the kernel about a KiB, when it is made. Rollback writes the old numbers.
    """
    if not daemons.runs("kubelet"):
        raise NotApplicable("no kubelet runs here")
    why, fixes = "programs of a node's many pods may watch their files", ["kernel.inotify"]
    for name, key in (("fs.inotify.max_user_instances", INSTANCES), ("fs.inotify.max_user_watches", WATCHES)):
        yield from sysctl(own, settings, name, expect(key), why=why, fixes=fixes)


@tuner(
    SYSCTL, OWN, id="kernel.perf-access", fixes=["kernel.perf-access"], rows=["prof-root-cause"],
    keys=[PARANOID, KPTR, PTRACE],
)  # fmt: skip
def perf_access(settings: Settings, own: OwnFiles, expect: Expect) -> Steps:
    """Let users profile and debug their own processes.

    It widens what one user can learn of another, so it is planned only by name. A kernel that forbids attaching
    altogether (kernel.yama.ptrace_scope 3) does so until it boots again. Rollback writes the old numbers.
    """
    names: dict[str, Key] = {
        "kernel.perf_event_paranoid": PARANOID,
        "kernel.kptr_restrict": KPTR,
        "kernel.yama.ptrace_scope": PTRACE,
    }
    for name, key in names.items():
        if isinstance(settings[name], NotApplicable):
            continue
        wanted = expect(key)
        if name == "kernel.yama.ptrace_scope" and setting(settings, name) == 3 and not wanted.matcher.matches(3):
            yield Refusal(target=name, why="the kernel does not go back from 3 before it boots again")
            continue
        why = "users may profile and debug their own processes"
        yield from sysctl(own, settings, name, wanted, why=why, fixes=["kernel.perf-access"], opt_in=True)


@tuner(
    INIT_ON_ALLOC, BOOT_CONFIG, id="kernel.init-on-alloc", fixes=["kernel.init-on-alloc"], keys=[INIT],
    references=["https://docs.nvidia.com/grace-perf-tuning-guide/os-settings.html"],
)  # fmt: skip
def init_on_alloc(on: bool, boot: BootConfig, expect: Expect) -> Steps:
    """Give the kernel init_on_alloc=0, from the next boot on.

    Memory is no longer cleared when the kernel hands it out to itself, which saves memory bandwidth. It weakens the
    kernel against bugs of its own, so it is planned only by name: a multi-tenant host may prefer to expect true.
    Rollback takes the argument away.
    """
    wanted = expect(INIT)
    value = pick("init_on_alloc", wanted, on)
    if isinstance(value, Refusal):
        yield value
    elif value != on:
        why = "the kernel does not clear every page that it hands out to itself"
        after = f"{int(value is True)}"
        yield from boot_argument(boot, "init_on_alloc", after, why=why, source=because(wanted), opt_in=True)


@tuner(
    IOMMU, PLATFORM, BOOT_TOOL, id="kernel.iommu", fixes=["kernel.iommu"], rows=["x-os-iommu-acs"],
    keys=[IOMMU_STATE],
)  # fmt: skip
def iommu(state: Iommu, platform: Platform, tool: str, expect: Expect) -> Steps:
    """Say how the IOMMU is put into pass-through.

    It is said and not done: the argument depends on the board and its firmware, and a host whose devices are passed
    to guests needs translation.
    """
    platform.need_bare_metal("the IOMMU is the hypervisor's")
    if not state.serves:
        raise NotApplicable("there is no GPU and no InfiniBand adapter whose traffic it could slow down")
    wanted = expect(IOMMU_STATE)
    if not wanted.matcher.matches(need(state.state)):
        argument = "iommu.passthrough=1" if platform.architecture == "aarch64" else "iommu=pt"
        told = f"the IOMMU is {need(state.state)}, not {wanted.view.text}: give the kernel {argument}{_REBOOT}"
        yield by_hand("iommu", told, because(wanted), boot_commands(tool, argument))


@tuner(CMDLINE, BOOT_TOOL, id="kernel.machine-checks", fixes=["kernel.machine-checks"])
def machine_checks(cmdline: Cmdline, tool: str, expect: Expect) -> Steps:
    """Say how machine checks are switched on again.

    Somebody has put the argument on the command line, so hostcheck does not take it away: it only says what to do.
    """
    off = [word for word in ("off", "ignore_ce") if any(word in value.split(",") for value in cmdline.all("mce"))]
    given = "nomce" if cmdline.has("nomce") else f"mce={off[0]}" if off else ""
    if given:
        told = f"{given} hides hardware errors: take it off the kernel's command line{_REBOOT}"
        source = "the host's own command line: /proc/cmdline"
        yield by_hand(given, told, source, boot_commands(tool, given, remove=True))


@tuner(
    REMOVE_IPC, PLATFORM, OWN, id="kernel.logind-remove-ipc", fixes=["kernel.logind-remove-ipc"], keys=[REMOVE],
    references=[_NCCL],
)  # fmt: skip
def remove_ipc(told: bool | None, platform: Platform, own: OwnFiles, expect: Expect) -> Steps:
    """Tell systemd-logind to leave the shared memory of users alone when they log out.

    What users leave in /dev/shm stays there until somebody removes it. The file counts once systemd-logind has read it
    again (systemctl kill -s HUP systemd-logind), or from the next boot on. Rollback takes the file away.
    """
    wanted = expect(REMOVE)
    removes = platform.os_id not in _REDHAT if told is None else told
    value = pick("RemoveIPC", wanted, removes)
    if isinstance(value, Refusal):
        yield value
    elif value != removes and told is not None and own.text(_LOGIND) is None:
        yes = "yes" if told else "no"
        yield Refusal(target="RemoveIPC", why=f"logind's own configuration says {yes}: change it there")
    elif value != removes:
        lines = ["[Login]", f"RemoveIPC={'yes' if value is True else 'no'}"]
        why = "logging out does not delete the shared memory of running jobs"
        yield from drop_in(
            own,
            _LOGIND,
            lines,
            why=f"{why} (systemctl kill -s HUP systemd-logind lets it count now)",
            source=because(wanted),
            fixes=["kernel.logind-remove-ipc"],
            needs=Needs.SERVICE_RESTART,
        )


_LOGIND = f"/etc/systemd/logind.conf.d/{MARK}remove-ipc.conf"


def _session_limits(own: OwnFiles, item: str, values: Mapping[str, str], *, why: str, source: str) -> Steps:
    """Yield the file of limits.d that sets soft and hard limits of sessions; values by "soft" and "hard"."""
    # A line for "*" does not hold for root (limits.conf(5)).
    lines = [f"{who} {kind} {item} {value}" for who in ("*", "root") for kind, value in values.items()]
    path = f"/etc/security/limits.d/{MARK}{item}.conf"
    yield from drop_in(own, path, lines, why=why, source=source, needs=Needs.NEW_SESSION)


@tuner(
    LIMITS, MEMINFO, OWN, id="kernel.memlock", fixes=["kernel.memlock"], rows=["os-memlock"], keys=[MEMLOCK],
    references=[_NCCL],
)  # fmt: skip
def memlock(sources: Sequence[Limits], info: MemInfo, own: OwnFiles, expect: Expect) -> Steps:
    """Let login sessions lock the memory that RDMA and GPUs need to be locked.

    It counts for sessions that begin afterwards; services get their limits elsewhere. A user can then lock all of the
    memory. Rollback takes the file away.
    """
    wanted = expect(MEMLOCK)
    for limits in sources:
        if limits.subject not in ("session", "login") or isinstance(limits.memlock, NotApplicable):
            continue
        said = need(limits.memlock).soft
        if isinstance(said, NotApplicable) or (soft := need(said)) == UNLIMITED:
            continue

        def share(text: str) -> float:
            return round(int(text) / 1024 / info.total_kib * 100, 2)

        file = own.others.limit("*", "soft", "memlock")
        settled = settle(own, "memlock", wanted, share(f"{soft}"), file=file, read=share)
        if isinstance(settled, Refusal):
            yield settled
            return
        # Where a file of the operator's gives enough, this session began before it or otherwise than by a login.
        if settled is not None and not settled.kept and isinstance(settled.value, int | float):
            amount = f"{int(info.total_kib * settled.value / 100)}"
            text = "unlimited" if wanted.matcher.matches(float("inf")) else amount
            why, source = "sessions may lock the memory that RDMA registers", because(wanted)
            yield from _session_limits(own, "memlock", {"soft": text, "hard": text}, why=why, source=source)
            return


@tuner(
    LIMITS, OWN, id="kernel.nofile", fixes=["kernel.nofile"], rows=["x-os-nofile"], keys=[NOFILE, NOFILE_SOFT],
)  # fmt: skip
def nofile(sources: Sequence[Limits], own: OwnFiles, expect: Expect) -> Steps:
    """Let processes of login sessions open many files.

    It counts for sessions that begin afterwards; services get their limits elsewhere. Rollback takes the file away.
    """
    for limits in sources:
        if limits.subject not in ("session", "login") or isinstance(limits.nofile, NotApplicable):
            continue
        limit = need(limits.nofile)
        seen = {"soft": (limit.soft, expect(NOFILE_SOFT)), "hard": (limit.hard, expect(NOFILE))}
        values: dict[str, str] = {}
        for kind, (said, wanted) in seen.items():
            if isinstance(said, NotApplicable) or (number := need(said)) == UNLIMITED:
                continue
            file = own.others.limit("*", kind, "nofile")
            settled = settle(own, "nofile", wanted, number, file=file, read=int)
            if isinstance(settled, Refusal):
                yield settled
                return
            if isinstance(settled, Settled) and not settled.kept:
                values[kind] = f"{settled.value}"
        if values:
            why, source = "processes of sessions may open many files", because(expect(NOFILE))
            yield from _session_limits(own, "nofile", values, why=why, source=source)
            return
