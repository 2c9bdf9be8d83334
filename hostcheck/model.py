"""The result model. Every output is a view of one `Run`; nothing in this module knows how it came about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

SCHEMA = 1


class Status(StrEnum):
    """What is known about one subject. There is no "warn": how much it matters is the severity."""

    PASS = "pass"
    FAIL = "fail"
    UNKNOWN = "unknown"
    ERROR = "error"
    NOT_APPLICABLE = "not-applicable"
    SKIPPED = "skipped"


# Worst first: what could not be determined outranks a pass in every aggregate.
_ORDER = (Status.FAIL, Status.ERROR, Status.UNKNOWN, Status.PASS, Status.NOT_APPLICABLE, Status.SKIPPED)


class Severity(StrEnum):
    """How much a failure matters, most first."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    INFO = "info"

    @property
    def rank(self) -> int:
        """0 for critical, 4 for info."""
        return _RANKS[self]

    def counts_at(self, threshold: Severity) -> bool:
        """Whether this severity is at or above the threshold."""
        return self.rank <= threshold.rank


_RANKS = {severity: rank for rank, severity in enumerate(Severity)}


class Actor(StrEnum):
    """Who or what can mend a finding."""

    TUNE = "tune"
    OPERATOR = "operator"
    RESET_GPU = "reset-gpu"
    REBOOT = "reboot"
    REPLACE = "replace"
    APPLICATION = "application"


def worst(statuses: Iterable[Status]) -> Status:
    """Return the status of a whole from those of its parts; of nothing, it is not applicable."""
    return min(statuses, key=_ORDER.index, default=Status.NOT_APPLICABLE)


Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a value was held against, and who says so.

    Attributes:
        text: the matcher in words, with its unit, such as "at least 700 W".
        key: the expectation's key, to override it in a checklist.
        layer: the layer that set it, such as "gpu/h100-sxm5-80gb".
        source: the document or reason that justifies it.
        unit: of the observed number, such as "W"; empty for a bare count or a word.
    """

    text: str
    key: str
    layer: str
    source: str
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """An operator's decision not to count a finding until a date (ISO 8601)."""

    reason: str
    until: str
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One subject's verdict.

    Attributes:
        status: what is known.
        subject: what was judged, such as "gpu0", "node1" or "host".
        summary: one line in words, complete by itself.
        observed: the value that was judged, in the unit that `summary` and `expected` name.
        expected: what it was held against; None where no expectation took part.
        severity: how much it matters, where it differs from the check's own.
        fix: the exact commands or steps; empty where nothing is to be done.
        actor: who acts; None where nothing is to be done.
        cause: for unknown, the probe (or expectation key) that is the reason; equal causes are grouped.
        source: where the observed value was read, such as "nvidia-smi -q -x".
        waived: set where the checklist waives this finding; it is then not counted.
        expired: the waiver that it had, where the last of them has ended; it counts again.
    """

    status: Status
    subject: str = ""
    summary: str
    observed: Scalar = None
    expected: Expected | None = None
    severity: Severity | None = None
    fix: str = ""
    actor: Actor | None = None
    cause: str = ""
    source: str = ""
    waived: Waiver | None = None
    expired: Waiver | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One check's verdict on one host. Always has at least one finding, so that nothing is silently empty."""

    id: str
    title: str
    subsystem: str
    severity: Severity
    status: Status
    findings: tuple[Finding, ...]
    rationale: str = ""
    rows: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    required: bool = False
    traceback: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeEnding:
    """How one probe of the snapshot ended."""

    id: str
    ending: str
    seconds: float
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Which host, when, and through whose eyes.

    Attributes:
        name: the host name, or its mask.
        taken: when the snapshot was taken, ISO 8601 UTC.
        privileged: whether it was taken as root.
        facts: a few lines that introduce the host to a reader, label to text, in order.
    """

    name: str
    taken: str
    privileged: bool
    redacted: bool = False
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """An operator's own answer to a row that no tool can measure."""

    row: str
    answer: bool
    by: str
    date: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number of `hostcheck bench`, of one part or of several equal ones, beside what is possible and what is wanted.

    Attributes:
        bench, case: what was measured, such as "gemm.bf16" and "8192".
        unit: of `value`, `worst` and `limit`.
        subjects: the parts that it is of.
        value: the median of the parts.
        worst, worst_on: the worst of them, and which that is.
        limit: what is physically possible; None where that is not known.
        share: of `limit`, in %; None for times, and where there is no limit.
        floor: the share that is wanted of each part; None where nobody says.
        is_short: one of the parts is below the floor.
        how: "all at once" or "each alone" where parts were measured both ways, or each alone; else empty.
        joules_per_tflop: energy of 10^12 operations; None where it was not told.
        invalid: why the number may not be believed; empty where it may.
        hardware: "not run on this hardware by us", of GPUs on which we never ran a benchmark; else empty.
        values: the number of each part, by subject; None where it has none.
        statistic: how such a number comes from its samples: "median", "mean", "p99".
        settings: sizes, data, transport and what else must be equal for two numbers to be comparable, as far as it is
            the same for all parts.
        own_settings: the other settings of each part, by subject; empty where there are none.
        verified: whether the output was checked, of each part; what was not is invalid.
    """

    bench: str
    case: str
    unit: str
    subjects: tuple[str, ...]
    value: float | None
    worst: float | None = None
    worst_on: str = ""
    limit: float | None = None
    share: float | None = None
    floor: float | None = None
    is_short: bool = False
    how: str = ""
    joules_per_tflop: float | None = None
    invalid: str = ""
    hardware: str = ""
    values: dict[str, float | None] = field(default_factory=dict)
    statistic: str = ""
    settings: dict[str, Scalar] = field(default_factory=dict)
    own_settings: dict[str, dict[str, Scalar]] = field(default_factory=dict)
    verified: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSession:
    """When and how a run's figures were measured, which can be long before they are judged.

    Attributes:
        level: how thoroughly: "quick", "standard", "full" or "soak".
        taken: when it began, ISO 8601 UTC.
        seconds: how long it took.
        versions: of what measured: hostcheck, driver, CUDA, torch, NCCL, kernel.
    """

    level: str
    taken: str
    seconds: float
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One host's audit: everything that any output shows.

    Attributes:
        schema: version of this structure; grows only when a reader would break.
        tool: the hostcheck version that judged.
        checklist, role: which checklist was judged by, and for which role of the host.
        fail_on: failures below this severity do not count towards the exit code.
        results: one for each check, in id order.
        probes: how each probe ended.
        measured: what `hostcheck bench` measured, as the results judge it; empty where it did not.
        session: when and how it did; None where it did not.
    """

    tool: str
    host: Host
    checklist: str
    role: str
    fail_on: Severity
    results: tuple[Result, ...]
    probes: tuple[ProbeEnding, ...]
    attestations: tuple[Attestation, ...] = ()
    measured: tuple[Figure, ...] = ()
    session: MeasuredSession | None = None
    schema: int = SCHEMA


def severity_of(result: Result, finding: Finding) -> Severity:
    """Return how much this finding matters."""
    return finding.severity or result.severity


def counted(run: Run, result: Result, finding: Finding) -> bool:
    """Return whether a finding takes part in the exit code: not waived, and severe enough."""
    return finding.waived is None and severity_of(result, finding).counts_at(run.fail_on)


def exit_code(run: Run) -> int:
    """Return 0, 1 or 3, as the whole family of commands does.

    1: a counted failure. 3: none, but something counted is unknown or in error, a required check did not pass, or
    nothing was judged at all: an empty audit is not a healthy one.
    """
    undetermined = not any(result.status in (Status.PASS, Status.FAIL) for result in run.results)
    for result in run.results:
        for finding in result.findings:
            if counted(run, result, finding):
                if finding.status is Status.FAIL:
                    return 1
                undetermined |= finding.status in (Status.UNKNOWN, Status.ERROR)
        undetermined |= result.required and result.status is not Status.PASS
    return 3 if undetermined else 0


def nagios_code(run: Run) -> int:
    """Return the same verdict in the convention of Nagios plug-ins: 0 ok, 1 warning, 2 critical, 3 unknown."""
    code = exit_code(run)
    if code != 1:
        return code
    severe = any(
        finding.status is Status.FAIL
        and counted(run, result, finding)
        and severity_of(result, finding).counts_at(Severity.HIGH)
        for result in run.results
        for finding in result.findings
    )
    return 2 if severe else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Absentee:
    """A host of a fleet that could not be judged.

    Attributes:
        name: the host, as the user named it.
        reach: how the attempt ended, such as "unreachable", "denied", "host key", "timeout".
        why: one line: what was tried, and what to do.
    """

    name: str
    reach: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A fact that ought to be the same on equal hosts, and is not.

    Attributes:
        fact: its label, such as "NVIDIA driver".
        group: what the compared hosts have in common, such as "8 x NVIDIA H100 80GB HBM3".
        majority: the value that most have, and `majority_hosts` how many.
        minorities: other value to the hosts that have it.
    """

    fact: str
    group: str
    majority: str
    majority_hosts: int
    minorities: dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlier:
    """A host whose number lies far from those of its equals.

    Attributes:
        host, subject: whose number it is.
        measure: what was compared, with its unit, such as "nvidia-smi -q -x, s".
        value, median, deviations: the number, that of its equals, and how many robust deviations lie between them.
        group: what the compared hosts have in common.
    """

    host: str
    subject: str
    measure: str
    value: float
    median: float
    deviations: float
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetRun:
    """Many hosts' audits, and what only shows between them.

    Attributes:
        runs: one for each host that answered, by name as the user knows it.
        absent: hosts that could not be judged.
        differences, outliers: between hosts.
        fail_on: as of each run.
    """

    tool: str
    taken: str
    fail_on: Severity
    runs: dict[str, Run]
    absent: tuple[Absentee, ...]
    differences: tuple[Difference, ...]
    outliers: tuple[Outlier, ...]
    schema: int = SCHEMA


def fleet_exit_code(fleet: FleetRun) -> int:
    """Return 1 if a host has a counted failure, else 3 if one is absent or undetermined, or none was judged, else 0."""
    codes = {exit_code(run) for run in fleet.runs.values()}
    if 1 in codes:
        return 1
    return 3 if 3 in codes or fleet.absent or not fleet.runs else 0
