"""Applying plans and judging what came of it: on one host, or on many, first a few and then in waves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from hostcheck.errors import HostcheckError
from hostcheck.model import Absentee, Finding, Status
from hostcheck.render.safe import clip
from hostcheck.transport.base import Answer, Reach
from hostcheck.tuning.change import Needs, Plan
from hostcheck.tuning.hosts import Hosts
from hostcheck.tuning.journal import End, Outcome, StepState, read_outcomes
from hostcheck.tuning.plan import to_do
from hostcheck.tuning.planning import Planned, Rules, Verdicts, alike, mended, probes_for_checks
from hostcheck.tuning.program import apply_program, confirm_program, rollback_program

SECONDS = 600.0
"""Limit for what a program changes on one host: a driver that hangs must not hold up the others for ever."""

_BAD = (Status.FAIL, Status.UNKNOWN, Status.ERROR)
_MOST_FINDINGS = 32
"""Of one check; its subjects may be hundreds."""
_LONGEST = 400
"""Characters of what a host told that are kept of a finding."""
_NOT_BEGUN = (Reach.UNREACHABLE, Reach.DENIED, Reach.HOST_KEY, Reach.SHELL, Reach.PRIVILEGE)


class How(StrEnum):
    """How it ended on one host.

    NOTHING: there was nothing to change. VERIFIED: changed, and every check that was to be mended passes. WAITING: the
    same, as far as it can be judged before a reboot; of `verify` alone. PARTLY: changed, and a check that was to be
    mended is better, but does not pass. UNVERIFIED: changed, not shown to be any better, and kept. ROLLED_BACK:
    something failed or did not verify, and was taken back. REFUSED: nothing was begun. LOST: the connection went away
    in the middle; the program goes on there. STUCK: something could not be taken back. UNTOUCHED: its turn did not
    come.
    """

    NOTHING = "nothing"
    VERIFIED = "verified"
    WAITING = "waiting"
    PARTLY = "partly"
    UNVERIFIED = "unverified"
    ROLLED_BACK = "rolled-back"
    REFUSED = "refused"
    LOST = "lost"
    STUCK = "stuck"
    UNTOUCHED = "untouched"


FAILURES = (How.UNVERIFIED, How.ROLLED_BACK, How.REFUSED, How.LOST, How.STUCK)
"""Endings that the failure budget counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a plan ended on one host.

    Attributes:
        name: as the user knows it.
        transaction: its number on that host; empty where none was begun.
        why: one line, where it did not end well.
        made: how many changes were made, and stay.
        undone: how many were made and taken back.
        mended: checks that pass now; of `verify` also arguments of the kernel, such as "kernel argument iommu".
        unmended: such that were to be mended and are not, each with what became of it.
        findings: of those, what was expected and what was read afterwards, or why it could not be read.
        pending: what must happen before some changes have their effect.
    """

    name: str
    how: How
    transaction: str = ""
    why: str = ""
    made: int = 0
    undone: int = 0
    mended: tuple[str, ...] = ()
    unmended: Mapping[str, str] = field(default_factory=dict)
    findings: Mapping[str, tuple[Finding, ...]] = field(default_factory=dict)
    pending: tuple[Needs, ...] = ()


@dataclass(frozen=True, slots=True)
class Applied:
    """How plans ended, host by host; `interrupted` where somebody pressed Ctrl-C."""

    ended: tuple[Ended, ...]
    interrupted: bool = False


def apply(
    hosts: Hosts,
    planned: Planned,
    rules: Rules,
    *,
    wave: int,
    max_failures: int,
    keep_unverified: bool = False,
    tell: Callable[[str], None] | None = None,
) -> Applied:
    """Apply the plans of hosts: first one of each different plan, then the others in waves.

    On each host the program itself looks whether it is the right one, and whether every value is still as planned.

    Args:
        hosts: where.
        planned: the plans, and what the checks said before.
        rules: by what is judged afterwards.
        wave: hosts at a time, once the first ones are done.
        max_failures: stop when more hosts than this have failed.
        keep_unverified: leave what does not verify, in place of taking it back.
        tell: called with a line for people before each wave.

    Returns:
        An ending for each host that has a plan, in the order of the plans, also after an interruption.

    Raises:
        HostcheckError: a plan cannot be made a program of.
    """
    ended: dict[str, Ended] = {}
    failed, interrupted = 0, False
    todo = {name: plan for name, plan in planned.plans.items() if to_do(plan)}
    for _, plan in alike(todo):
        # What no program can be made of is refused before the first host is touched.
        apply_program(plan)
    for number, names in enumerate(waves(todo, wave)):
        if failed > max_failures:
            break
        if tell and len(todo) > 1:
            first = "the first of each plan" if number == 0 else f"wave {number}"
            tell(f"{first}: {', '.join(names[:8])}{f' and {len(names) - 8} more' if len(names) > 8 else ''}")
        run = _Wave(hosts, {name: todo[name] for name in names}, planned.before, rules, keep_unverified=keep_unverified)
        try:
            ended |= run.go()
        except KeyboardInterrupt:
            ended |= run.interrupted()
            interrupted = True
            break
        failed = sum(each.how in FAILURES for each in ended.values())
    why = f"stopped after {failed} failed" if failed > max_failures else "interrupted before its turn"
    return Applied(
        tuple(
            ended.get(name)
            or (Ended(name=name, how=How.UNTOUCHED, why=why) if name in todo else Ended(name=name, how=How.NOTHING))
            for name in planned.plans
        ),
        interrupted,
    )


def waves(plans: Mapping[str, Plan], size: int) -> Iterator[list[str]]:
    """Yield the names by which plans are applied together: first one host of each different plan, then the others."""
    first = [hosts[0] for hosts, _ in alike(plans)]
    rest = [name for name in plans if name not in set(first)]
    for names in (first, rest):
        for at in range(0, len(names), size):
            yield names[at : at + size]


def apply_code(applied: Applied, planned: Planned) -> int:
    """Return 4 where something was changed and did not verify, else 3 where anything is undetermined, else 0."""
    code = code_of(applied.ended)
    unknown = (
        planned.absent or not planned.plans or any(plan.unplanned or plan.unfinished for plan in planned.plans.values())
    )
    return 3 if code == 0 and unknown else code


def code_of(ended: Iterable[Ended]) -> int:
    """Return the exit code that endings mean by themselves."""
    hows = {each.how for each in ended}
    if hows & {How.UNVERIFIED, How.ROLLED_BACK, How.PARTLY, How.STUCK}:
        return 4
    return 3 if hows & {How.REFUSED, How.LOST, How.UNTOUCHED, How.WAITING} else 0


def back_code(ended: Iterable[Ended]) -> int:
    """Return the exit code of what was to be taken back: 4 where something stays, 3 where nothing is known, else 0."""
    own = tuple(ended)
    if any(each.how is How.STUCK or each.made for each in own):
        return 4
    return 3 if any(each.how in (How.REFUSED, How.LOST) for each in own) else 0


def taken_back(name: str, answer: Answer) -> Ended:
    """Return how a rollback or a recovery ended on a host."""
    said = answer.out or answer.partial
    try:
        outcomes = read_outcomes(said) if said.strip() else ()
    except HostcheckError as problem:
        return Ended(name=name, how=How.LOST, why=str(problem))
    if not outcomes:
        begun = answer.reach not in _NOT_BEGUN
        return Ended(name=name, how=How.LOST if begun else How.REFUSED, why=f"{answer.reach}: {answer.why}")
    states = [ending.state for outcome in outcomes for ending in outcome.steps.values()]
    last = outcomes[-1]
    how = {
        End.NOTHING: How.NOTHING,
        End.REFUSED: How.REFUSED,
        End.CUT: How.LOST,
        End.UNFINISHED: How.STUCK,
    }.get(last.end, How.ROLLED_BACK)
    if any(outcome.end is End.UNFINISHED for outcome in outcomes):
        how = How.STUCK
    spoken = [
        ending.why
        for outcome in outcomes
        for ending in outcome.steps.values()
        if ending.state in (StepState.LEFT, StepState.STUCK) and ending.why
    ]
    whys = dict.fromkeys([*spoken, *(outcome.why for outcome in outcomes if outcome.why)])
    return Ended(
        name=name,
        how=how,
        transaction=last.transaction,
        why="; ".join(whys),
        made=sum(state in (StepState.LEFT, StepState.STUCK) for state in states),
        undone=sum(state is StepState.UNDONE for state in states),
    )


def read_outcome(answer: Answer) -> Outcome | None:
    """Return what a program that changes a host told, as far as it was heard; None where it said nothing.

    Raises:
        HostcheckError: what came is no answer of ours.
    """
    said = answer.out or answer.partial
    return read_outcomes(said)[-1] if said.strip() else None


class _Wave:
    """Some hosts, all the way: apply, confirm, judge, take back."""

    def __init__(
        self,
        hosts: Hosts,
        plans: Mapping[str, Plan],
        before: Mapping[str, Verdicts],
        rules: Rules,
        *,
        keep_unverified: bool,
    ) -> None:
        self.hosts = hosts
        self.plans = plans
        self.before = before
        self.rules = rules
        self.keep = keep_unverified
        self.ended: dict[str, Ended] = {}

    def go(self) -> dict[str, Ended]:
        programs = {name: apply_program(plan, keep_unverified=self.keep) for name, plan in self.plans.items()}
        outcomes: dict[str, Outcome] = {}
        for name, answer in self.hosts.run(programs, seconds=SECONDS).items():
            self._heard(name, answer, outcomes)
        self._confirm(outcomes)
        self._judge(outcomes)
        return self.ended

    def interrupted(self) -> dict[str, Ended]:
        """Return the endings as far as they are known; of the other hosts nobody knows more than they themselves."""
        why = "interrupted; what was begun there goes on: hostcheck tune history tells how it ended"
        lost = {name: Ended(name=name, how=How.LOST, why=why) for name in self.plans}
        return {**lost, **self.ended}

    def _end(self, name: str, how: How, why: str = "", outcome: Outcome | None = None, **further: object) -> None:
        outcome = outcome or Outcome()
        states = [ending.state for ending in outcome.steps.values()]
        made = sum(state in (StepState.APPLIED, StepState.LEFT, StepState.STUCK) for state in states)
        whole = Ended(
            name=name,
            how=how,
            transaction=outcome.transaction,
            why=why,
            made=made,
            undone=sum(state is StepState.UNDONE for state in states),
            pending=_pending(self.plans[name]) if made else (),
        )
        self.ended[name] = replace(whole, **further)  # type: ignore[arg-type]

    def _heard(self, name: str, answer: Answer, outcomes: dict[str, Outcome]) -> None:
        """Take what a host told of its transaction."""
        try:
            outcome = read_outcome(answer)
        except HostcheckError as problem:
            self._end(name, How.LOST, f"{problem}; {_LATER}")
            return
        if outcome is None:
            if answer.reach in _NOT_BEGUN:
                self._end(name, How.REFUSED, f"{answer.reach}: {answer.why}")
            else:
                self._end(name, How.LOST, f"{answer.reach}: {answer.why}; {_LATER}")
        elif outcome.end in (End.COMMITTED, End.NOTHING, End.AWAITING):
            outcomes[name] = outcome
        elif outcome.end is End.CUT:
            self._end(name, How.LOST, f"{answer.reach}: {answer.why}; {_LATER}", outcome)
        elif outcome.end is End.REFUSED:
            self._end(name, How.REFUSED, _all_why(outcome), outcome)
        elif outcome.end is End.ROLLED_BACK:
            self._end(name, How.ROLLED_BACK, _all_why(outcome), outcome)
        elif outcome.end is End.STOPPED:
            self._end(name, How.UNVERIFIED, _all_why(outcome), outcome)
        else:
            self._end(name, How.STUCK, _all_why(outcome), outcome)

    def _confirm(self, outcomes: dict[str, Outcome]) -> None:
        """Tell the hosts that wait for it that they can still be reached, over a connection of its own."""
        waiting = {name: outcome for name, outcome in outcomes.items() if outcome.end is End.AWAITING}
        if not waiting:
            return
        programs = {name: confirm_program(outcome.transaction) for name, outcome in waiting.items()}
        for name, answer in self.hosts.run(programs, seconds=SECONDS).items():
            outcome = outcomes.pop(name)
            try:
                told = read_outcome(answer)
            except HostcheckError:
                told = None
            if told is not None and told.end is End.COMMITTED:
                outcomes[name] = replace(outcome, end=End.COMMITTED)
            else:
                why = told.why if told is not None else f"{answer.reach}: {answer.why}"
                self._end(
                    name, How.LOST, f"not confirmed ({why}), so that it is taken back within {outcome.why} s", outcome
                )

    def _judge(self, outcomes: Mapping[str, Outcome]) -> None:
        """Take a fresh snapshot where checks were to be mended, judge it, and take back what does not verify."""
        claims = {name: mended(self.plans[name]) for name in outcomes}
        for name, outcome in outcomes.items():
            if not claims[name]:
                self._end(name, How.VERIFIED if outcome.end is End.COMMITTED else How.NOTHING, outcome=outcome)
        asked = [name for name in outcomes if claims[name]]
        if not asked:
            return
        back: dict[str, tuple[list[int], Mapping[str, str]]] = {}
        for name, found in self.hosts.read(probes_for_checks({id for each in asked for id in claims[each]}), asked):
            outcome = outcomes[name]
            if isinstance(found, Absentee):
                self._end(name, How.UNVERIFIED, f"changed, and not judged: {found.reach}: {found.why}", outcome)
                continue
            after = self.rules.judge(name, found, claims[name])
            good = tuple(id for id in claims[name] if passes(after.get(id, {})))
            better = [id for id in claims[name] if id not in good and _better(self.before[name], after, id)]
            bad = [id for id in claims[name] if id not in good and id not in better]
            unmended = {id: status_words(after.get(id, {})) for id in (*better, *bad)}
            how = How.UNVERIFIED if bad else How.PARTLY if better else How.VERIFIED
            if how is How.VERIFIED and outcome.end is End.NOTHING:
                how = How.NOTHING
            findings = {id: bad_findings(after.get(id, {})) for id in unmended}
            self._end(name, how, outcome=outcome, mended=good, unmended=unmended, findings=findings)
            numbers = _numbers(self.plans[name], outcome, bad)
            if numbers and not self.keep:
                back[name] = numbers, unmended
        self._take_back(outcomes, back)

    def _take_back(
        self, outcomes: Mapping[str, Outcome], back: Mapping[str, tuple[list[int], Mapping[str, str]]]
    ) -> None:
        if not back:
            return
        programs = {
            name: rollback_program(outcomes[name].transaction, changes=numbers) for name, (numbers, _) in back.items()
        }
        for name, answer in self.hosts.run(programs, seconds=SECONDS).items():
            ended, unmended = self.ended[name], back[name][1]
            try:
                told = read_outcome(answer)
            except HostcheckError:
                told = None
            undone = sum(ending.state is StepState.UNDONE for ending in told.steps.values()) if told else 0
            left = ended.made - undone
            if told is not None and told.end in (End.ROLLED_BACK, End.COMMITTED, End.STOPPED):
                why = f"did not verify: {'; '.join(f'{id}: {word}' for id, word in unmended.items())}"
                changed = replace(ended, how=How.ROLLED_BACK, why=why, made=left, undone=undone)
            else:
                why = told.why if told is not None else f"{answer.reach}: {answer.why}"
                changed = replace(ended, how=How.STUCK, why=f"did not verify, and was not taken back: {why}")
            self.ended[name] = changed if changed.made else replace(changed, pending=())


_LATER = "what was begun there goes on: hostcheck tune history tells how it ended"


def _pending(plan: Plan) -> tuple[Needs, ...]:
    wanted = {change.needs for change in to_do(plan)} - {Needs.NOTHING}
    return tuple(needs for needs in Needs if needs in wanted)


def _all_why(outcome: Outcome) -> str:
    """Return what was said of the whole, and of the first change that stood in the way."""
    spoken = [*outcome.failures.items(), *outcome.steps.items()]
    bad = (StepState.MOVED, StepState.REFUSED, StepState.FAILED, StepState.STUCK)
    first = next((ending.why for _, ending in spoken if ending.state in bad and ending.why), "")
    return outcome.why if not first or first in outcome.why else f"{first}; {outcome.why}".rstrip("; ")


def passes(subjects: Mapping[str, Finding]) -> bool:
    """Return whether a check says nothing bad of any of its subjects, and something at all."""
    return bool(subjects) and not any(finding.status in _BAD for finding in subjects.values())


def _better(before: Verdicts, after: Verdicts, id: str) -> bool:
    """Whether fewer subjects of a check are bad than before, and none that was not."""
    was = {subject for subject, finding in before.get(id, {}).items() if finding.status in _BAD}
    now = {subject for subject, finding in after.get(id, {}).items() if finding.status in _BAD}
    return bool(after.get(id)) and now < was


def bad_findings(subjects: Mapping[str, Finding]) -> tuple[Finding, ...]:
    """Return what a check says of the subjects that do not pass: of not too many, and not too long."""
    bad = [finding for finding in subjects.values() if finding.status in _BAD]
    return tuple(
        replace(
            finding,
            summary=clip(finding.summary, _LONGEST),
            observed=clip(finding.observed, _LONGEST) if isinstance(finding.observed, str) else finding.observed,
            fix="",
        )
        for finding in bad[:_MOST_FINDINGS]
    )


def status_words(subjects: Mapping[str, Finding]) -> str:
    """Return what is wrong with a check in a few words, such as "fail (gpu0)"."""
    bad = {subject: finding.status for subject, finding in subjects.items() if finding.status in _BAD}
    if not bad:
        return "not judged"
    named = ", ".join(subject for subject in bad if subject != "host")
    return f"{next(iter(bad.values()))}{f' ({named})' if named else ''}"


def _numbers(plan: Plan, outcome: Outcome, bad: Sequence[str]) -> list[int]:
    """Return the numbers of the changes that stand or fall with some checks: those of the same tuner go together."""
    tuners = {change.tuner for change in plan.changes if change.tuner and not set(change.fixes).isdisjoint(bad)}
    return [
        number
        for number, change in enumerate(plan.changes, 1)
        if (change.tuner in tuners or not set(change.fixes).isdisjoint(bad))
        and number in outcome.steps
        and outcome.steps[number].state is StepState.APPLIED
    ]
