"""Limits that jobs run into: locked memory, open files, stack, threads, and who clears shared memory away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from hostcheck.errors import Maybe, NotApplicable, need
from hostcheck.expect import Expect, Expectation, Key, failed, passed
from hostcheck.facts.base import each
from hostcheck.facts.kernel import MODULES, SYSCTL, TASKS, setting
from hostcheck.facts.limits import LIMITS, REMOVE_IPC, UNLIMITED, Limits
from hostcheck.facts.memory import MEMINFO, MemInfo
from hostcheck.facts.platform import PLATFORM, Platform
from hostcheck.facts.process import DAEMONS, Daemons
from hostcheck.model import Finding, Severity
from hostcheck.registry import check

from .kernel_fixes import sysctl, target

MEMLOCK = Key("kernel.memlock", float, "% of the memory", high=100_000)
NOFILE = Key("kernel.nofile", int, high=2**40)
NOFILE_SOFT = Key("kernel.nofile.soft", int, high=2**40)
FILE_MAX = Key("kernel.file-max", int, low=8192, high=2**64)
INSTANCES = Key("kernel.inotify.instances", int, high=2**31)
WATCHES = Key("kernel.inotify.watches", int, high=2**31)
THREADS = Key("kernel.threads", float, "%", high=100)
REMOVE = Key("kernel.logind-remove-ipc", bool)

_NCCL = "https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html"
_RESTART = {
    "slurmd": "Running jobs go on, with their old limits.",
    "containerd": "Running containers go on, with their old limits.",
    "docker": "This stops running containers, unless live-restore is on.",
    "kubelet": "Running pods go on.",
}


def _set_limit(limits: Limits, item: str, soft: str, hard: str) -> str:
    """Return the commands that set a limit where this source of processes gets it from."""
    if limits.subject in _RESTART:
        line = f"Limit{item.upper()}={soft if soft == hard else f'{soft}:{hard}'}".replace("unlimited", "infinity")
        place = f"{limits.place}/zz-gpu-{item}.conf"
        return (
            f"mkdir -p {limits.place} && printf '[Service]\\n{line}\\n' > {place} && "
            f"systemctl daemon-reload && systemctl restart {limits.subject}\n# {_RESTART[limits.subject]}"
        )
    # A line for "*" does not hold for root (limits.conf(5)).
    lines = " ".join(
        f"'{who} {word}'" for who in ("*", "root") for word in (f"soft {item} {soft}", f"hard {item} {hard}")
    )
    return (
        f"printf '%s\\n' {lines} > /etc/security/limits.d/zz-gpu-{item}.conf\n# Then log in again. Where the audit ran "
        "under Slurm, in a container or as a service, set it there."
    )


def _heirs(limits: Limits) -> str:
    if not limits.heirs:
        raise NotApplicable(f"no GPU job inherits the limits of {limits.subject}")
    return limits.heirs


@check(
    each(LIMITS),
    MODULES,
    MEMINFO,
    id="kernel.memlock",
    severity=Severity.HIGH,
    rows=["os-memlock", "os-container-memlock"],
    keys=[MEMLOCK],
    references=[_NCCL],
)
def memlock(limits: Limits, modules: frozenset[str], info: MemInfo, expect: Expect) -> Finding:
    """Jobs may lock as much memory as they want.

    RDMA locks every buffer that it registers. Under a finite limit ibv_reg_mr or ibv_create_qp fails with "cannot
    allocate memory", often only at scale, and NCCL stops or falls back to sockets. The limit that counts is that of
    the service which starts the job, not that of a login. Without RDMA it matters little: CUDA pins memory beside it.
    """
    heirs = _heirs(limits)
    limit = need(limits.memlock)
    soft = need(limit.soft)
    if soft == UNLIMITED:
        return passed(f"{heirs} may lock all memory")
    default = ": the unit sets no LimitMEMLOCK, and systemd's default is finite" if limit.by_default else ""
    finding = expect(MEMLOCK).judge(
        round(soft / 1024 / info.total_kib * 100, 2),
        say=f"{heirs} may lock {soft / 2**20:,.0f} MiB{default}",
        fix=_set_limit(limits, "memlock", "unlimited", "unlimited"),
    )
    return finding if "ib_uverbs" in modules else replace(finding, severity=Severity.LOW)


@check(each(LIMITS), id="kernel.nofile", severity=Severity.MEDIUM, rows=["x-os-nofile"], keys=[NOFILE, NOFILE_SOFT])
def nofile(limits: Limits, expect: Expect) -> Iterator[Finding]:
    """Jobs may open many files.

    Each rank holds a socket or queue for many others, and each worker of a data loader passes tensors as open files.
    NCCL's guide tells of a job of 144 ranks with more than 32,000 in one process, and asks for 131,072.
    """
    limit = need(limits.nofile)
    fix = _set_limit(limits, "nofile", _kept(limit.soft, expect(NOFILE_SOFT)), _kept(limit.hard, expect(NOFILE)))
    heirs = limits.heirs or limits.subject
    hard = need(limit.hard)
    yield _judge_files(expect, NOFILE, hard, f"open files of {heirs}: {_files(hard)} at most", fix)
    if limits.subject == "session":
        soft = need(limit.soft)
        say = f"open files of {heirs}: {_files(soft)} to begin with"
        finding = _judge_files(expect, NOFILE_SOFT, soft, say, fix)
        yield replace(finding, severity=Severity.LOW)


def _judge_files(expect: Expect, key: Key, value: int, say: str, fix: str) -> Finding:
    return passed(say) if value == UNLIMITED else expect(key).judge(value, say=say, fix=fix)


def _kept(value: Maybe[int], wanted: Expectation) -> str:
    """Return the word for a limit as it is where that is right, else as it should be."""
    if not isinstance(value, int) or not (value == UNLIMITED or wanted.matcher.matches(value)):
        return target(wanted)
    return "unlimited" if value == UNLIMITED else str(value)


def _files(number: int) -> str:
    return "any number" if number == UNLIMITED else f"{number:,}"


@check(each(LIMITS), id="kernel.stack-limit", severity=Severity.MEDIUM, references=[_NCCL])
def stack_limit(limits: Limits, expect: Expect) -> Finding:
    """The stack limit is finite.

    "unlimited" does not mean large stacks: glibc then gives each new thread 2 MiB in place of the usual 8, and NCCL's
    search for a topology over multi-node NVLink can run out of it and crash. 8 MiB or 64 MiB are right.
    """
    heirs = _heirs(limits)
    soft = need(need(limits.stack).soft)
    if soft != UNLIMITED:
        return passed(f"stack limit of {heirs}: {soft / 1024:,.0f} KiB", soft // 1024)
    item = "64M" if limits.subject in _RESTART else "65536"
    return failed(
        f"the stack of {heirs} is unlimited",
        "unlimited",
        wanted="a finite limit, such as 8192 KiB",
        fix=_set_limit(limits, "stack", item, "unlimited"),
    )


@check(SYSCTL, id="kernel.file-max", severity=Severity.LOW, rows=["x-os-nofile"], keys=[FILE_MAX])
def file_max(settings: Mapping[str, Maybe[str]], expect: Expect) -> Finding:
    """The host as a whole may open many files.

    All processes share fs.file-max. Current systemd sets it as high as it goes; an old sysctl file may lower it.
    """
    value, wanted = setting(settings, "fs.file-max"), expect(FILE_MAX)
    return wanted.judge(value, say=f"fs.file-max is {value:,}", fix=sysctl("fs.file-max", wanted))


@check(SYSCTL, DAEMONS, id="kernel.inotify", severity=Severity.LOW, keys=[INSTANCES, WATCHES])
def inotify(settings: Mapping[str, Maybe[str]], daemons: Daemons, expect: Expect) -> Iterator[Finding]:
    """Under a kubelet, programs may watch many files.

    The kubelet, container runtimes, log collectors and operators all watch files as the same user. At the limit (128
    instances where nobody raised it) the next one fails with "too many open files", whatever ulimit says.
    """
    if not daemons.runs("kubelet"):
        raise NotApplicable("no kubelet runs here")
    for name, key in (("fs.inotify.max_user_instances", INSTANCES), ("fs.inotify.max_user_watches", WATCHES)):
        value, wanted = setting(settings, name), expect(key)
        yield wanted.judge(value, say=f"{name} is {value:,}", fix=sysctl(name, wanted))


@check(TASKS, SYSCTL, id="kernel.threads", severity=Severity.MEDIUM, keys=[THREADS])
def threads(tasks: int, settings: Mapping[str, Maybe[str]], expect: Expect) -> Finding:
    """The host is far from the highest number of threads.

    At the limit fork and pthread_create fail with "resource temporarily unavailable", in whichever process comes next.
    A job of eight ranks, each with data loaders and math libraries of dozens of threads, has thousands.
    """
    names = ("kernel.pid_max", "kernel.threads-max")
    limits = {name: setting(settings, name) for name in names}
    lowest = min(limits, key=lambda name: limits[name])
    share = round(tasks / max(limits[lowest], 1) * 100, 1)
    return expect(THREADS).judge(
        share,
        say=f"{tasks:,} threads run, {share:g} % of {lowest} ({limits[lowest]:,})",
        fix=f"Find what runs away: ps -eo nlwp,pid,comm --sort=-nlwp | head. If all of it is meant: "
        f"sysctl -w {lowest}=4194304",
        source="/proc/loadavg",
    )


# systemd's own default is yes; Red Hat patches it to no (bug 1959836 and before).
_REDHAT = ("rhel", "centos", "rocky", "almalinux", "ol")


@check(
    REMOVE_IPC,
    PLATFORM,
    LIMITS,
    id="kernel.logind-remove-ipc",
    severity=Severity.MEDIUM,
    keys=[REMOVE],
    references=[_NCCL],
)
def remove_ipc(told: bool | None, platform: Platform, limits: Sequence[Limits], expect: Expect) -> Finding:
    """Systemd does not delete a user's shared memory while a job still uses it.

    With RemoveIPC=yes, systemd-logind deletes what a user has in /dev/shm when the user's last login session ends.
    A job that Slurm or mpirun started for the same user is no session, and dies or hangs over the lost segments.
    """
    platform.need_host("the host's systemd-logind does not manage it")
    removes = platform.os_id not in _REDHAT if told is None else told
    how = "by the distribution's default" if told is None else "as set"
    finding = expect(REMOVE).judge(
        removes,
        say=f"RemoveIPC is {'yes' if removes else 'no'} {how}",
        fix="mkdir -p /etc/systemd/logind.conf.d && printf '[Login]\\nRemoveIPC=no\\n' > "
        "/etc/systemd/logind.conf.d/zz-gpu-host.conf && systemctl kill -s HUP systemd-logind",
        source="/etc/systemd/logind.conf",
    )
    has_slurm = any(source.subject == "slurmd" for source in limits)
    return finding if has_slurm else replace(finding, severity=Severity.LOW)
