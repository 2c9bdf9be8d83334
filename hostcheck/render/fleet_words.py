"""The sentences that all reports of a fleet share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hostcheck.model import Actor, FleetRun, Outlier, fleet_exit_code
from hostcheck.render.fleet_group import (
    Absence,
    Exempt,
    Line,
    Standing,
    fleet_issues,
    obstacles,
    odd_ones,
    standings,
)
from hostcheck.render.fleet_hosts import hosts_line
from hostcheck.render.words import Verdict, many, observed, status_word, threshold, value_words

STANDINGS: Mapping[int | None, str] = {None: "not judged", 1: "fail", 3: "undetermined", 0: "pass"}
"""A host's verdict, by its exit code."""

_ACTORS: Mapping[Actor | None, str] = {
    Actor.REPLACE: "replace a part",
    Actor.RESET_GPU: "reset a GPU",
    Actor.REBOOT: "reboot the host",
    Actor.OPERATOR: "change a setting",
    Actor.TUNE: "let hostcheck tune",
    Actor.APPLICATION: "change the workload",
    None: "look into it",
}


def fleet_verdict(fleet: FleetRun) -> Verdict:
    """Put the fleet's exit code into words; the code itself is the model's."""
    code = fleet_exit_code(fleet)
    level = threshold(fleet.fail_on)
    if not fleet.runs:
        hosts = many(len(fleet.absent), "host")
        line = f"None of {hosts} could be judged." if fleet.absent else "There was no host to judge."
        return Verdict(code, "nothing judged", line, "nothing was judged")
    numbers = {standing.code: len(standing.hosts) for standing in standings(fleet)}
    parts = [
        f"{many(numbers[key], 'host')} {said}"
        for key, said in ((1, "failed"), (None, "could not be judged"), (3, "undetermined"), (0, "passed"))
        if key in numbers
    ]
    word, meaning = {
        0: ("pass", f"no host has a failure {level}, and nothing that counts is undetermined"),
        1: ("fail", f"at least one host has a failure {level}"),
        3: ("undetermined", "no failure, but a host could not be judged or something that counts is undetermined"),
    }[code]
    return Verdict(code, word, f"Of {many(len(fleet.runs) + len(fleet.absent), 'host')}: {', '.join(parts)}.", meaning)


def fleet_tally(fleet: FleetRun) -> str:
    """Return how many things there are to look at, beside the verdict."""
    issues = fleet_issues(fleet)
    counted = sum(issue.counted for issue in issues)
    parts = [
        f"{many(counted, 'check')} failing" if counted else "",
        f"{many(len(issues) - counted, 'check')} failing below {fleet.fail_on}" if len(issues) > counted else "",
        f"{many(len(obstacles(fleet)), 'reason')} for what is undetermined" if obstacles(fleet) else "",
        f"{many(len(odd_ones(fleet)), 'set')} of hosts that differ" if odd_ones(fleet) else "",
        many(len(fleet.outliers), "outlier") if fleet.outliers else "",
    ]
    return ", ".join(filter(None, parts))


def standing_word(standing: Standing) -> str:
    """Return a verdict as it is read."""
    return STANDINGS[standing.code]


def actor_word(actor: Actor | None) -> str:
    """Return what is to be done, in two or three words."""
    return _ACTORS[actor]


def hosts_word(hosts: Sequence[str], most: int = 8) -> str:
    """Return "3 hosts: gpu[1-3]", or the name of the only one."""
    return hosts_line(hosts) if len(hosts) == 1 else f"{many(len(hosts), 'host')}: {hosts_line(hosts, most)}"


def absence_word(absence: Absence) -> str:
    """Return how the attempt ended, and why."""
    return ": ".join(filter(None, (absence.reach, absence.why)))


def observed_range(line: Line) -> str:
    """Return "observed 60", or "observed 60 to 75" where several lines were joined."""
    if line.low is None or line.high is None:
        return observed(line.finding)
    unit = line.finding.expected.unit if line.finding.expected else ""
    low, high = (value_words(int(value) if value.is_integer() else value) for value in (line.low, line.high))
    return f"observed {low} to {high} {unit}".rstrip()


def compared_range(line: Line) -> str:
    """Return what was observed and expected, or less where less is known; and that a line stands for others."""
    expected = f"expected {line.finding.expected.text}" if line.finding.expected else ""
    others = f"{many(line.joined - 1, 'more line')} with other numbers" if line.joined > 1 else ""
    return ", ".join(filter(None, (observed_range(line), expected, others)))


def outlier_words(outlier: Outlier) -> str:
    """Return "61 °C; median 34 °C, 9.2 deviations away"."""
    unit = unit_of(outlier.measure)
    value, middle = (f"{_short(number)} {unit}".rstrip() for number in (outlier.value, outlier.median))
    return f"{value}; the median is {middle}, {outlier.deviations:g} deviations away"


def measure_name(measure: str) -> str:
    """Return a measure without its unit."""
    return measure.rpartition(", ")[0] or measure


def unit_of(measure: str) -> str:
    """Return the unit behind the last comma of a measure, such as "W"."""
    return measure.rpartition(", ")[2] if ", " in measure else ""


def _short(number: float) -> str:
    return value_words(round(number) if abs(number) >= 1000 else float(f"{number:.4g}"))


def exempt_words(exempt: Exempt) -> str:
    """Return how a required check ended, or until when and why a waiver holds."""
    if exempt.waiver is None:
        return status_word(exempt.status)
    by = f" by {exempt.waiver.by}" if exempt.waiver.by else ""
    return f"until {exempt.waiver.until}{by}: {exempt.waiver.reason}"
