"""Limits that services hand to the jobs and containers that they start."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hostcheck.checks.kernel_limits import MEMLOCK, NOFILE
from hostcheck.errors import NotApplicable, need
from hostcheck.expect import Expect, Expectation
from hostcheck.facts.base import each
from hostcheck.facts.dropins import MARK, OWN, OwnFiles
from hostcheck.facts.limits import LIMITS, SERVICES, UNLIMITED, Limits, parse_unit_limit
from hostcheck.facts.memory import MEMINFO, MemInfo
from hostcheck.model import Scalar
from hostcheck.registry import tuner
from hostcheck.tuning.change import Change, Needs, Refusal, Reload

from .making import because, drop_in, settle

Steps = Iterator[Change | Refusal]

_NCCL = "https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html"


@tuner(
    each(LIMITS), MEMINFO, OWN, id="process.memlock", fixes=["kernel.memlock"], rows=["os-memlock"], keys=[MEMLOCK],
    references=[_NCCL],
)  # fmt: skip
def memlock(limits: Limits, info: MemInfo, own: OwnFiles, expect: Expect) -> Steps:
    """Let jobs of Slurm, containers and pods lock the memory that RDMA registers: LimitMEMLOCK of their service.

    It counts for what the service starts after the operator has restarted it; hostcheck restarts nothing. A job can
    then lock all of the memory that its cgroup has. Rollback takes the drop-in away.
    """
    _need_service(limits)
    if not limits.heirs:
        raise NotApplicable(f"no GPU job inherits the limits of {limits.subject}")
    soft = need(need(limits.memlock).soft)
    wanted = expect(MEMLOCK)

    def share(amount: int) -> float:
        return round(amount / 1024 / info.total_kib * 100, 2)

    def words(value: Scalar) -> str:
        if wanted.matcher.matches(float("inf")) or not isinstance(value, int | float):
            return "infinity"
        return f"{int(info.total_kib * value / 100)}K"

    if soft != UNLIMITED:
        yield from _limit(
            own, limits, "LimitMEMLOCK", wanted, share(soft), words,
            lambda text: share(need(parse_unit_limit(text).soft)),
            why=f"{limits.heirs} may lock the memory that RDMA registers",
        )  # fmt: skip


@tuner(
    each(LIMITS), OWN, id="process.nofile", fixes=["kernel.nofile"], rows=["x-os-nofile"], keys=[NOFILE],
    references=[_NCCL],
)  # fmt: skip
def nofile(limits: Limits, own: OwnFiles, expect: Expect) -> Steps:
    """Let jobs of Slurm, containers and pods open many files: LimitNOFILE of their service.

    It counts for what the service starts after the operator has restarted it; hostcheck restarts nothing. Rollback
    takes the drop-in away.
    """
    _need_service(limits)
    hard = need(need(limits.nofile).hard)
    if hard != UNLIMITED:
        yield from _limit(
            own, limits, "LimitNOFILE", expect(NOFILE), hard, str, lambda text: need(parse_unit_limit(text).hard),
            why=f"{limits.heirs or limits.subject} may open many files",
        )  # fmt: skip


def _need_service(limits: Limits) -> None:
    if limits.subject not in SERVICES:
        raise NotApplicable("sessions get their limits from limits.d")


def _limit(
    own: OwnFiles,
    limits: Limits,
    name: str,
    wanted: Expectation,
    observed: Scalar,
    words: Callable[[Scalar], str],
    read: Callable[[str], Scalar],
    *,
    why: str,
) -> Steps:
    """Yield the drop-in that sets a limit of a service.

    Args:
        words: writes a value as systemd takes it.
        read: makes a value out of a setting of the service.
    """
    path = f"/etc/systemd/system/{limits.subject}.service.d/{MARK}{name.removeprefix('Limit').lower()}.conf"
    theirs = own.others.unit(limits.subject, name)
    settled = settle(own, f"{limits.subject}: {name}", wanted, observed, file=theirs, read=read)
    if isinstance(settled, Refusal):
        yield settled
    elif settled is not None and not settled.kept:
        yield from drop_in(
            own,
            path,
            ["[Service]", f"{name}={words(settled.value)}"],
            why=f"{why}, once {limits.subject} is restarted",
            source=because(wanted),
            needs=Needs.SERVICE_RESTART,
            reload=Reload.SYSTEMD,
        )
