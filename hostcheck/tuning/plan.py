"""make_plan(): a snapshot in, a `Plan` out. Pure: nothing here opens a file, runs a command or alters anything."""

from __future__ import annotations

import datetime as dt
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from hostcheck import __version__
from hostcheck.audit import layers_for, probes_of
from hostcheck.checklist import Checklist, WaiverRule
from hostcheck.engine import chosen_ids
from hostcheck.errors import HostcheckError, NotApplicable, Unavailable
from hostcheck.expect import Expect, ExpectationMissing, Layer, suggest
from hostcheck.facts.base import Each, Facts
from hostcheck.facts.host import PROBES, traits
from hostcheck.facts.identity import IDENTITY, Identity
from hostcheck.facts.owners import OWNERS
from hostcheck.facts.platform import PLATFORM
from hostcheck.facts.transactions import UNFINISHED
from hostcheck.model import Absentee, Severity
from hostcheck.registry import Tuner, load_checks, load_tuners, matches
from hostcheck.snapshot.probes import Probe
from hostcheck.snapshot.reading import Snapshot
from hostcheck.tuning.change import Change, Kind, Plan, Refusal, Risk, Scope, Unplanned
from hostcheck.tuning.kinds import fault

_KINDS = (
    Kind.MODULE, Kind.WRITE, Kind.GPU, Kind.NIC, Kind.MOUNT, Kind.SWAP, Kind.FILE, Kind.KERNEL_ARG, Kind.UNIT,
    Kind.MANUAL,
)  # fmt: skip
"""What is done first: a module brings the settings that others write, and a unit reads the files beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which changes are wanted.

    Attributes:
        only, skip: patterns of the ids of tuners and of the checks that they mend; no `only` means all.
        max_risk: the highest.
        severity: of the checks that a tuner mends, one at least matters as much as this.
        scopes: how long they last.
    """

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    max_risk: Risk = Risk.HIGH
    severity: Severity = Severity.INFO
    scopes: tuple[Scope, ...] = tuple(Scope)

    def tuners(self, checklist: Checklist) -> list[Tuner]:
        """Return the tuners that are to run, in order of their ids.

        Args:
            checklist: a tuner all of whose checks it leaves out is left out, too.

        Raises:
            HostcheckError: a pattern matches neither a tuner nor a check that one mends.
        """
        tuners, checks = load_tuners(), load_checks()
        known = sorted({*tuners, *(id for tuner in tuners.values() for id in tuner.fixes)})
        for pattern in (*self.only, *self.skip):
            if not any(matches(id, pattern) for id in known):
                raise HostcheckError(f"no tuner matches {pattern!r}{suggest(pattern, known)} (hostcheck list --tuners)")
        judged = chosen_ids(checklist, {**checks, **{check.id: check for check in checklist.checks}})
        chosen = []
        for id, tuner in sorted(tuners.items()):
            grave = [checks[fix].severity for fix in tuner.fixes if fix in checks]
            if (
                (not self.only or _named(tuner, self.only))
                and not _named(tuner, self.skip)
                and (not tuner.fixes or judged.intersection(tuner.fixes))
                and (self.severity is Severity.INFO or any(level.counts_at(self.severity) for level in grave))
            ):
                chosen.append(tuners[id])
        return chosen

    def narrow(self, plan: Plan) -> Plan:
        """Return a plan that was made before, without the changes that are not wanted.

        Raises:
            HostcheckError: a pattern matches none of its changes.
        """
        for pattern in self.only:
            if not any(matches(id, pattern) for change in plan.changes for id in (change.tuner, *change.fixes)):
                raise HostcheckError(f"no change of the plan is of {pattern!r}")
        tuners, checks = load_tuners(), load_checks()
        kept = []
        for change in plan.changes:
            ids = (change.tuner, *change.fixes, *(tuners[change.tuner].fixes if change.tuner in tuners else ()))
            grave = any(id in checks and checks[id].severity.counts_at(self.severity) for id in ids)
            if (
                self.takes(change)
                and (not self.only or any(matches(id, pattern) for id in ids for pattern in self.only))
                and not any(matches(id, pattern) for id in ids for pattern in self.skip)
                and (grave or self.severity is Severity.INFO)
            ):
                kept.append(change)
        return replace(plan, changes=tuple(kept))

    def takes(self, change: Change) -> bool:
        """Return whether a change lasts as long, and has no more risk, than is wanted."""
        return change.scope in self.scopes and change.risk.rank <= self.max_risk.rank

    def asks(self, tuner: Tuner) -> bool:
        """Return whether a tuner, or a check that it mends, is asked for by its own name and not by a pattern."""
        return not {tuner.id, *tuner.fixes}.isdisjoint(self.only)


def _named(tuner: Tuner, patterns: Sequence[str]) -> bool:
    return any(matches(id, pattern) for id in (tuner.id, *tuner.fixes) for pattern in patterns)


def probes_for_plan(tuners: Iterable[Tuner]) -> list[Probe]:
    """Return what must be read for a plan: for the tuners, for the checks that they mend, and to know the host."""
    chosen, checks = list(tuners), load_checks()
    mended = probes_of(checks[id] for tuner in chosen for id in tuner.fixes if id in checks)
    own = (probe for tuner in chosen for probe in tuner.probes())
    always = (*PROBES, *IDENTITY.probes(), *OWNERS.probes(), *UNFINISHED.probes())
    found = {probe.id: probe for probe in (*always, *own, *mended)}
    return [found[id] for id in sorted(found)]


def make_plan(
    snapshot: Snapshot,
    checklist: Checklist,
    selection: Selection = Selection(),
    *,
    site: Iterable[Layer] = (),
    facts: Facts | None = None,
) -> Plan:
    """Return what is to be changed on a host.

    A tuner that lacks a fact plans nothing and is counted as `Unplanned`; where no expectation says a value, or the
    question does not arise, there is nothing to bring about.

    Args:
        snapshot: what was read.
        checklist: role, expectations, and what it leaves out or waives.
        selection: which changes are wanted.
        site: layers over ours and under the checklist's.
        facts: the snapshot's facts, where the caller has parsed some.

    Raises:
        HostcheckError: the selection names what is not there.
    """
    facts = facts or Facts(snapshot)
    tuners = selection.tuners(checklist)
    work = _Planning(facts, selection)
    closed = _closed(facts)
    if closed is not None:
        work.note(closed)
    else:
        holding = [*layers_for(snapshot, checklist, site), *checklist.layers]
        layers = [layer for layer in holding if layer.values]
        host = traits(facts)
        today = dt.datetime.fromtimestamp(snapshot.manifest.time, dt.UTC).date().isoformat()
        for tuner in tuners:
            work.run(tuner, Expect(layers, host, tuple(key.name for key in tuner.keys)))
        work.leave_waived(checklist.waivers, today)
        work.leave_what_cannot_last()
    changes = ordered(work.settled())
    who = _identity(facts, redacted=snapshot.manifest.redacted)
    return Plan(
        host=snapshot.manifest.hostname,
        machine=who.machine,
        boot=who.boot,
        made=dt.datetime.fromtimestamp(snapshot.manifest.time, dt.UTC).isoformat(timespec="seconds"),
        tool=__version__,
        role=checklist.role,
        changes=tuple(changes),
        refusals=tuple(sorted(set(work.refusals), key=lambda refusal: (refusal.tuner, refusal.target, refusal.why))),
        unplanned=tuple(work.unplanned),
        unfinished=_unfinished(facts),
    )


def plan_code(plan: Plan) -> int:
    """Return 1 where something is to be changed, else 3 where something is not known or unfinished, else 0."""
    if to_do(plan):
        return 1
    return 3 if plan.unplanned or plan.unfinished else 0


def plans_code(plans: Iterable[Plan], absent: Sequence[Absentee]) -> int:
    """Return the exit code of several hosts' plans; one of which there is none makes it 3 at least."""
    codes = {plan_code(plan) for plan in plans}
    if 1 in codes:
        return 1
    return 3 if 3 in codes or absent or not codes else 0


def to_do(plan: Plan) -> tuple[Change, ...]:
    """Return the changes that hostcheck makes; what the operator is to do by hand is left out."""
    return tuple(change for change in plan.changes if change.kind is not Kind.MANUAL)


def ordered(changes: Iterable[Change]) -> list[Change]:
    """Return changes in the order in which they are made.

    Runtime comes before persistent, so that a value that the kernel refuses is never written to be read at boot; what
    could cut the connection comes last.
    """
    scopes = list(Scope)
    return sorted(changes, key=lambda change: (change.cuts, scopes.index(change.scope), _KINDS.index(change.kind)))


def _closed(facts: Facts) -> Unplanned | None:
    """Return why nothing at all is planned for this host; None where it is ours to change."""
    try:
        platform = facts.get(PLATFORM)
    except (Unavailable, NotApplicable) as missing:
        why = f"a container cannot be excluded, and in one nothing is changed: {missing.why}"
        return Unplanned(tuner="", why=why, cause=getattr(missing, "probe", ""))
    if platform.container:
        why = f"{platform.label}: what it sees are its host's settings; run hostcheck tune on the host itself"
        return Unplanned(tuner="", why=why)
    return None


def _identity(facts: Facts, *, redacted: bool) -> Identity:
    """Return whose plan it is; a plan on masked or incomplete data is nobody's, and can be applied nowhere."""
    try:
        return Identity("", "") if redacted else facts.get(IDENTITY)
    except Unavailable:
        return Identity("", "")


def _unfinished(facts: Facts) -> tuple[str, ...]:
    """Return what is known to be unfinished; a snapshot that does not tell is no reason to plan nothing."""
    try:
        return facts.get(UNFINISHED)
    except Unavailable:
        return ()


@dataclass(slots=True)
class _Planning:
    facts: Facts
    selection: Selection
    changes: list[Change] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    unplanned: list[Unplanned] = field(default_factory=list)

    def run(self, tuner: Tuner, expect: Expect) -> None:
        """Run one tuner, once or for each element of its first fact."""
        try:
            values = [self.facts.get(wanted.fact if isinstance(wanted, Each) else wanted) for wanted in tuner.needs]
        except Exception as problem:
            self._missing(tuner, problem)
            return
        if not isinstance(tuner.needs[0], Each):
            self._call(tuner, values, expect)
            return
        for element in values[0]:
            self._call(tuner, [element, *values[1:]], expect.of(getattr(element, "traits", {})))

    def _call(self, tuner: Tuner, values: Sequence[object], expect: Expect) -> None:
        try:
            for item in tuner.function(*values, expect):
                self._take(tuner, item)
        except Exception as problem:
            self._missing(tuner, problem)

    def _take(self, tuner: Tuner, item: Change | Refusal) -> None:
        if isinstance(item, Refusal):
            self.refusals.append(replace(item, tuner=tuner.id))
            return
        if item.before == item.after and item.kind is not Kind.MANUAL:
            return
        if wrong := fault(item):
            raise ValueError(f"a change of {item.target}: {wrong}")
        if not self.selection.takes(item):
            return
        if item.opt_in and not self.selection.asks(tuner):
            why = f"{item.why.rstrip('.')}; done only where it is asked for by name: --only {tuner.id}"
            self.refusals.append(Refusal(target=item.target, why=why, tuner=tuner.id))
            return
        self.changes.append(replace(item, tuner=tuner.id))

    def _missing(self, tuner: Tuner, problem: Exception) -> None:
        """Record what a fact or a tuner raised; anything unforeseen is a bug, with its traceback."""
        if isinstance(problem, NotApplicable | ExpectationMissing):
            return
        if isinstance(problem, Unavailable):
            entry = Unplanned(tuner=tuner.id, why=problem.why, cause=problem.probe)
        else:
            why = f"a bug in hostcheck: {type(problem).__name__}: {problem}"
            entry = Unplanned(tuner=tuner.id, why=why, bug="".join(traceback.format_exception(problem)))
        self.note(entry)

    def note(self, entry: Unplanned) -> None:
        """Record what could not be planned, once."""
        if entry not in self.unplanned:
            self.unplanned.append(entry)

    def leave_waived(self, rules: Sequence[WaiverRule], today: str) -> None:
        """Leave alone what the operator has waived: a change all of whose checks are."""
        kept = []
        for change in self.changes:
            waived = [
                rule for id in change.fixes for rule in rules if rule.subject == "*" and rule.covers(id, "*", today)
            ]
            if change.fixes and {rule.check for rule in waived} == set(change.fixes):
                why = f"waived until {waived[0].waiver.until}: {waived[0].waiver.reason}"
                self.refusals.append(Refusal(target=change.target, why=why, tuner=change.tuner))
            else:
                kept.append(change)
        self.changes = kept

    def leave_what_cannot_last(self) -> None:
        """Leave alone what would not last here: a system that is built as a whole, a file system without writing."""
        kept = []
        for change in self.changes:
            why = ""
            if change.scope is Scope.PERSISTENT and change.kind is not Kind.MANUAL:
                try:
                    place = change.target if change.kind is Kind.FILE else "/etc"
                    why = self.facts.get(OWNERS).why_not_lasting(place)
                except Unavailable as problem:
                    told = f"whether {change.target} would last cannot be told: {problem.why}"
                    self.note(Unplanned(tuner=change.tuner, why=told, cause=problem.probe))
                    continue
            if why:
                self.refusals.append(Refusal(target=change.target, why=why, tuner=change.tuner))
            else:
                kept.append(change)
        self.changes = kept

    def settled(self) -> Iterator[Change]:
        """Yield each change once: equal ones of several tuners as one, and none where they contradict each other."""
        groups: dict[tuple[Kind, str], list[Change]] = {}
        for change in self.changes:
            groups.setdefault((change.kind, change.target), []).append(change)
        for (kind, target), group in groups.items():
            if kind is Kind.MANUAL:
                yield from dict.fromkeys(group)
                continue
            wanted = {(change.before, change.after) for change in group}
            if len(wanted) == 1:
                fixes = tuple(dict.fromkeys(id for change in group for id in change.fixes))
                gravest = max((change.risk for change in group), key=lambda risk: risk.rank)
                yield replace(group[0], fixes=fixes, risk=gravest, cuts=any(change.cuts for change in group))
                continue
            names = sorted({change.tuner for change in group})
            values = " and ".join(f"{change.tuner} wants {_shown(change.after)}" for change in group)
            why = f"{values}: set the expectation of one of them so that they agree, or leave one out with --skip"
            self.refusals += [Refusal(target=target, why=why, tuner=name) for name in names]


def _shown(value: str | None) -> str:
    if value is None:
        return "it gone"
    line, _, rest = value.partition("\n")
    return f"{line!r} and more lines" if rest else repr(line)
