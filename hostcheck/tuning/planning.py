"""Plans for one host or many, all by the same rules, and what the checks say before and after."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from hostcheck.audit import judge, probes_of
from hostcheck.checklist import Checklist
from hostcheck.errors import HostcheckError
from hostcheck.expect import Layer, shipped_names
from hostcheck.facts.base import Facts
from hostcheck.facts.host import PROBES
from hostcheck.facts.identity import IDENTITY
from hostcheck.model import Absentee, Finding, worst
from hostcheck.registry import Tuner, load_checks
from hostcheck.snapshot.probes import Probe
from hostcheck.snapshot.reading import Snapshot
from hostcheck.tuning.change import Plan
from hostcheck.tuning.hosts import Hosts
from hostcheck.tuning.plan import Selection, make_plan, probes_for_plan

_UUID = re.compile(r"\b(GPU|MIG)-[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b")

Verdicts: TypeAlias = Mapping[str, Mapping[str, Finding]]
"""What checks said: id to subject to its worst finding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The plans of some hosts.

    Attributes:
        plans: by name, in the order in which the hosts were named.
        before: what the checks that each plan is to mend said of its host when it was made.
        absent: hosts that could not be read.
    """

    plans: dict[str, Plan]
    before: dict[str, Verdicts]
    absent: tuple[Absentee, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """By what plans are made and judged.

    Attributes:
        checklist: the checklist, or what chooses one by a host's name.
        selection: which changes are wanted.
        site: layers over ours and under the checklist's.
    """

    checklist: Checklist | Callable[[str], Checklist]
    selection: Selection
    site: tuple[Layer, ...]

    def _checklist(self, name: str) -> Checklist:
        return self.checklist if isinstance(self.checklist, Checklist) else self.checklist(name)

    def tuners(self, names: Iterable[str]) -> list[Tuner]:
        """Return the tuners that run on some of these hosts.

        Raises:
            HostcheckError: the selection names what is not there.
        """
        lists = {id(found): found for found in map(self._checklist, names)}
        chosen = {tuner.id: tuner for found in lists.values() for tuner in self.selection.tuners(found)}
        return [chosen[id] for id in sorted(chosen)]

    def plan(self, name: str, snapshot: Snapshot) -> tuple[Plan, Verdicts]:
        """Return a host's plan, and what the checks that it is to mend say now."""
        facts = Facts(snapshot)
        plan = make_plan(snapshot, self._checklist(name), self.selection, site=self.site, facts=facts)
        return plan, self.judge(name, snapshot, mended(plan), facts=facts)

    def judge(self, name: str, snapshot: Snapshot, ids: Sequence[str], *, facts: Facts | None = None) -> Verdicts:
        """Return what some checks say of a host."""
        if not ids:
            return {}
        checklist = replace(self._checklist(name), only=tuple(ids), skip=(), require=())
        run = judge(snapshot, checklist, site=self.site, facts=facts)
        return {result.id: _worst(result.findings) for result in run.results if result.id in ids}

    def make(self, hosts: Hosts, names: Sequence[str], *, progress: Callable[[int], None] | None = None) -> Planned:
        """Read hosts and make their plans.

        Args:
            progress: called with how many hosts are done, after each.

        Raises:
            HostcheckError: the selection names what is not there.
        """
        probes = probes_for_plan(self.tuners(names))
        plans: dict[str, Plan] = {}
        before: dict[str, Verdicts] = {}
        absent = []
        for name, found in hosts.read(probes, names):
            if isinstance(found, Absentee):
                absent.append(found)
            else:
                plans[name], before[name] = self.plan(name, found)
            if progress is not None:
                progress(len(plans) + len(absent))
        return Planned(plans=plans, before=before, absent=tuple(absent))

    def take(self, hosts: Hosts, names: Sequence[str], plans: Sequence[Plan]) -> tuple[Planned, Rules]:
        """Read hosts, and give each the plan that was made for it.

        Returns:
            The plans, less what the selection leaves out, and the rules with the roles that they were made for.

        Raises:
            HostcheckError: there is no plan for one of the hosts, or it is of a role that is not there.
        """
        known = [name.split("/", 1)[1] for name in shipped_names("role")]
        for plan in plans:
            if plan.role not in known:
                raise HostcheckError(f"its role {plan.role!r} is none of {', '.join(known)}")
        chosen = [self.selection.narrow(plan) for plan in plans]
        ids = {id for plan in chosen for id in mended(plan)}
        taken: dict[str, Plan] = {}
        snapshots: dict[str, Snapshot] = {}
        absent = []
        for name, found in hosts.read(probes_for_checks(ids), names):
            if isinstance(found, Absentee):
                absent.append(found)
                continue
            taken[name], snapshots[name] = _own(chosen, name, found), found
        roles = {name: replace(self._checklist(name), role=plan.role) for name, plan in taken.items()}
        rules = replace(self, checklist=lambda name: roles[name])
        before = {name: rules.judge(name, snapshots[name], mended(plan)) for name, plan in taken.items()}
        return Planned(plans=taken, before=before, absent=tuple(absent)), rules


def _worst(findings: Iterable[Finding]) -> dict[str, Finding]:
    found: dict[str, Finding] = {}
    for finding in findings:
        known = found.setdefault(finding.subject, finding)
        if worst((known.status, finding.status)) is not known.status:
            found[finding.subject] = finding
    return found


def _own(plans: Sequence[Plan], name: str, snapshot: Snapshot) -> Plan:
    """Return the plan that was made for a host."""
    machine, hostname = Facts(snapshot).get(IDENTITY).machine, snapshot.manifest.hostname
    for plan in plans:
        if plan.machine == machine and (machine or plan.host == hostname):
            return plan
    if len(plans) == 1 and not plans[0].machine:
        raise HostcheckError(
            f"it was made for {plans[0].host!r} without knowing which machine that is (a masked or incomplete "
            "snapshot), so that it can be looked at, and applied nowhere"
        )
    made = ", ".join(repr(plan.host) for plan in plans[:4])
    raise HostcheckError(f"it holds no plan for {name} (machine {machine or 'unknown'}); it was made for {made}")


def alike(plans: Mapping[str, Plan]) -> list[tuple[list[str], Plan]]:
    """Return the hosts of each different plan, the most frequent first; that UUIDs of GPUs differ does not count."""
    groups: dict[Plan, tuple[list[str], Plan]] = {}
    for name, plan in plans.items():
        hosts, _ = groups.setdefault(_nameless(plan), ([], plan))
        hosts.append(name)
    return sorted(groups.values(), key=lambda group: -len(group[0]))


def _nameless(plan: Plan) -> Plan:
    seen: dict[str, str] = {}

    def mask(text: str) -> str:
        return _UUID.sub(lambda found: seen.setdefault(found[0], f"{found[1]} {len(seen) + 1}"), text)

    changes = tuple(replace(change, target=mask(change.target)) for change in plan.changes)
    refusals = tuple(replace(refusal, target=mask(refusal.target)) for refusal in plan.refusals)
    return replace(plan, host="", machine="", boot="", made="", changes=changes, refusals=refusals)


def mended(plan: Plan) -> tuple[str, ...]:
    """Return the ids of the checks that a plan is to make pass."""
    return tuple(sorted({id for change in plan.changes for id in change.fixes}))


def probes_for_checks(ids: Iterable[str]) -> list[Probe]:
    """Return what must be read to judge some checks, and to know the host."""
    checks = load_checks()
    own = probes_of(checks[id] for id in ids if id in checks)
    found = {probe.id: probe for probe in (*PROBES, *IDENTITY.probes(), *own)}
    return [found[id] for id in sorted(found)]
