"""How busy the processors are, and how much of them this process may use."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hostcheck.errors import Maybe, NotApplicable, Unavailable
from hostcheck.facts.base import Fact, Optional
from hostcheck.facts.cpu import parse_cpu_list
from hostcheck.facts.gpu import GPUS
from hostcheck.facts.gpu_types import Gpu
from hostcheck.facts.kernel import BOOT_PROBE
from hostcheck.facts.pci import PCI_GPUS, PciFunction
from hostcheck.facts.platform import HOST_PROBE, PLATFORM, Platform
from hostcheck.snapshot.probes import FileProbe
from hostcheck.snapshot.reading import Reading

PRESSURE_PROBE = FileProbe("cpu.pressure", tuple(f"/proc/pressure/{name}" for name in ("cpu", "memory", "io")))

_STATUS = "/proc/self/status"
_V2 = "/sys/fs/cgroup"
_V1 = "/sys/fs/cgroup/cpu"
# The groups in which a login, a service, a batch job or a container's own view of the hierarchy may run.
_GROUPS = tuple(
    _V2 + depth
    for depth in (
        "", "/*", "/*/*", "/*/*/*", "/user.slice/*/*/*", "/user.slice/*/*/*/*",
        *(f"/system.slice/slurmstepd.scope/job_*{deeper}" for deeper in ("/step_*", "/step_*/*", "/step_*/*/*")),
    )
)  # fmt: skip
ALLOWED_PROBE = FileProbe("cpu.allowed", (_STATUS,))
QUOTA_PROBE = FileProbe(
    "cpu.quota",
    (
        *(f"{group}/cpu.max" for group in _GROUPS),
        f"{_V2}/cpu.stat",
        f"{_V1}/cpu.cfs_quota_us",
        f"{_V1}/cpu.cfs_period_us",
        f"{_V1}/cpu.stat",
    ),
    limit=4096,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """One line of pressure information: the share of time, in percent, that tasks waited for a resource."""

    avg10: float
    avg60: float
    avg300: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """Stalls of one resource.

    Attributes:
        some: at least one task waited.
        full: all tasks waited at once; for the processors of a whole host there is none, or it is zero.
    """

    some: Stall
    full: Maybe[Stall]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressures:
    """Stalls for the processors, for memory and for storage."""

    cpu: Maybe[Pressure]
    memory: Maybe[Pressure]
    io: Maybe[Pressure]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Tasks that ran, wanted to run or waited for storage, averaged over 1, 5 and 15 minutes."""

    avg1: float
    avg5: float
    avg15: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """What the process that took the snapshot may use.

    Attributes:
        cpus: CPUs that it may run on: cpuset and affinity together.
        nodes: memory nodes that it may take memory from.
    """

    cpus: frozenset[int]
    nodes: Maybe[frozenset[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """The processor time that control groups grant the process that took the snapshot.

    Attributes:
        cpus: CPUs' worth of time, such as 4.0; None without a limit.
        periods, throttled: scheduling periods so far, and those in which the time was used up.
    """

    cpus: float | None
    periods: Maybe[int]
    throttled: Maybe[int]


def parse_pressure(text: str) -> Pressure:
    """Parse a file of /proc/pressure.

    Raises:
        Unavailable: it has no "some" line of the known form.

    Sample:
        some avg10=0.00 avg60=0.45 avg300=0.72 total=109563261
        full avg10=0.00 avg60=0.00 avg300=0.00 total=0
    """
    found = {
        name: Stall(avg10=float(ten), avg60=float(minute), avg300=float(five))
        for name, ten, minute, five in re.findall(
            r"^(some|full) avg10=([0-9]{1,3}\.[0-9]{2}) avg60=([0-9]{1,3}\.[0-9]{2}) avg300=([0-9]{1,3}\.[0-9]{2})\b",
            text,
            re.MULTILINE,
        )
    }
    if "some" not in found:
        raise Unavailable(f"{text.strip()[:80]!r} is no pressure information")
    return Pressure(some=found["some"], full=found.get("full") or NotApplicable("the kernel gives no full stalls"))


def parse_load(text: str) -> Load:
    """Parse /proc/loadavg.

    Raises:
        Unavailable: it has another form.

    Sample:
        1.13 0.75 0.38 2/1231 40637
    """
    found = re.match(r"([0-9]{1,9}\.[0-9]{2}) ([0-9]{1,9}\.[0-9]{2}) ([0-9]{1,9}\.[0-9]{2})\b", text)
    if not found:
        raise Unavailable(f"{text.strip()[:80]!r} are no load averages")
    return Load(avg1=float(found[1]), avg5=float(found[2]), avg15=float(found[3]))


def parse_allowed(text: str) -> Allowed:
    """Parse /proc/self/status as far as it tells what the process may use.

    Raises:
        Unavailable: it does not list the CPUs.

    Sample:
        Name:	head
        Cpus_allowed:	ffffffff
        Cpus_allowed_list:	0-31
        Mems_allowed:	00000000,00000003
        Mems_allowed_list:	0-1
    """
    lists = dict(re.findall(r"^(Cpus|Mems)_allowed_list:\s*(\S*)\s*$", text, re.MULTILINE))
    if not lists.get("Cpus"):
        raise Unavailable(f"{_STATUS} does not list the CPUs that the process may use")
    try:
        nodes: Maybe[frozenset[int]] = parse_cpu_list(lists["Mems"])
    except KeyError:
        nodes = NotApplicable("the kernel lists no memory nodes for a process")
    except Unavailable as missing:
        nodes = missing
    return Allowed(cpus=parse_cpu_list(lists["Cpus"]), nodes=nodes)


def parse_cpu_max(text: str) -> float | None:
    """Parse cpu.max into CPUs' worth of time; None without a limit.

    Raises:
        Unavailable: it has another form.

    Sample:
        400000 100000
    """
    found = re.fullmatch(r"(max|-1|[0-9]{1,15}) ([1-9][0-9]{0,9})", text.strip())
    if not found:
        raise Unavailable(f"{text.strip()[:40]!r} is no quota of processor time")
    return None if found[1] in ("max", "-1") else int(found[1]) / int(found[2])


def read_pressures(reading: Reading) -> Pressures:
    """Return the stalls of each resource; a kernel started without accounting refuses to be read."""
    return Pressures(cpu=_pressure(reading, "cpu"), memory=_pressure(reading, "memory"), io=_pressure(reading, "io"))


def read_quota(quota: Reading, host: Reading) -> Quota:
    """Return the tightest limit of the groups that the process is in.

    Raises:
        Unavailable: the process is in a group whose limit was not read.
        NotApplicable: there are no control groups for processor time.
    """
    own = quota.read(f"{_V2}/cpu.max")
    if own is not None:
        return _quota(parse_cpu_max(own), quota.read(f"{_V2}/cpu.stat"))
    old = quota.read(f"{_V1}/cpu.cfs_quota_us")
    if old is not None:
        limit = parse_cpu_max(f"{old.strip()} {(quota.read(f'{_V1}/cpu.cfs_period_us') or '').strip()}")
        return _quota(limit, quota.read(f"{_V1}/cpu.stat"))
    groups = host.read("/proc/self/cgroup") or ""
    found = re.search(r"^0::(/.*)$", groups, re.MULTILINE)
    if found and quota.read(f"{_V2}/cpu.stat") is not None:
        texts = [quota.read(f"{_V2}{group}/cpu.max") for group in _ancestors(found[1])]
        limits = [limit for text in texts if text is not None and (limit := parse_cpu_max(text)) is not None]
        return _quota(min(limits, default=None), None)
    found = re.search(r"^[0-9]+:(?:[^:\n]+,)?cpu(?:,[^:\n]+)?:(/.*)$", groups, re.MULTILINE)
    if found is None:
        raise NotApplicable("no control group here can limit processor time")
    if found[1] != "/":
        raise Unavailable(f"the quota of the control group {found[1][:80]} was not read", quota.probe)
    return _quota(None, None)


def read_gpu_count(
    platform: Platform, functions: Sequence[PciFunction] | Unavailable, gpus: Sequence[Gpu] | Unavailable
) -> int:
    """Return how many GPUs share the processors: those on the host's bus, or those that a container was given.

    Raises:
        Unavailable: they could not be counted.
        NotApplicable: there are none.
    """
    listed = gpus if platform.container or isinstance(functions, Unavailable) else functions
    if isinstance(listed, Unavailable):
        raise Unavailable(listed.why, listed.probe)
    if not listed:
        raise NotApplicable("there is no GPU")
    return len(listed)


def _pressure(reading: Reading, name: str) -> Maybe[Pressure]:
    path = f"/proc/pressure/{name}"
    try:
        text = reading.read(path)
        return NotApplicable("the kernel keeps no pressure information") if text is None else parse_pressure(text)
    except Unavailable as missing:
        if "not supported" in missing.why.lower():
            return NotApplicable("the kernel was started without pressure information (psi=0)")
        return missing


def _ancestors(group: str) -> Iterator[str]:
    """Yield a group and those above it, the root left out, which has no limit."""
    parts = [part for part in group.split("/") if part]
    for depth in range(len(parts), 0, -1):
        yield "/" + "/".join(parts[:depth])


def _quota(cpus: float | None, stat: str | None) -> Quota:
    absent = NotApplicable("the group counts no throttled periods")
    counts = {name: int(value) for name, value in re.findall(r"^(nr_\w+) ([0-9]{1,18})$", stat or "", re.MULTILINE)}
    return Quota(cpus=cpus, periods=counts.get("nr_periods", absent), throttled=counts.get("nr_throttled", absent))


def _text(reading: Reading, path: str) -> str:
    text = reading.read(path)
    if text is None:
        raise reading.unavailable(f"there is no {path}")
    return text


PRESSURES: Fact[Pressures] = Fact("cpu.pressures", read_pressures, PRESSURE_PROBE)
LOAD: Fact[Load] = Fact("cpu.load", lambda boot: parse_load(_text(boot, "/proc/loadavg")), BOOT_PROBE)
ALLOWED: Fact[Allowed] = Fact("cpu.allowed", lambda own: parse_allowed(_text(own, _STATUS)), ALLOWED_PROBE)
QUOTA: Fact[Quota] = Fact("cpu.quota", read_quota, QUOTA_PROBE, Optional(HOST_PROBE))
GPU_COUNT: Fact[int] = Fact("cpu.gpu-count", read_gpu_count, PLATFORM, Optional(PCI_GPUS), Optional(GPUS))
