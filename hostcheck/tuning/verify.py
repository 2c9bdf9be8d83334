"""What was changed before, judged anew: the checks that it was to mend, and what the kernel was started with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hostcheck.checklist import Checklist
from hostcheck.errors import Unavailable
from hostcheck.expect import Layer, shipped_names
from hostcheck.facts.base import Facts
from hostcheck.facts.kernel import BOOT_ID, CMDLINE
from hostcheck.model import Absentee, Expected, Finding, Status
from hostcheck.render.safe import clip
from hostcheck.tuning.change import Kind, Needs
from hostcheck.tuning.drive import Ended, How, bad_findings, passes, status_words
from hostcheck.tuning.hosts import Hosts
from hostcheck.tuning.journal import StepState, Transaction
from hostcheck.tuning.plan import Selection
from hostcheck.tuning.planning import Rules, probes_for_checks

_STANDS = (StepState.APPLIED, StepState.SAME, StepState.LEFT)
_LONGEST = 400
"""Characters of the list of arguments that wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Argument:
    """An argument that the kernel was given, for its next boot.

    Attributes:
        name, value: as in a `Change`.
        boot: in which it was given; empty where that is not known.
        transaction: which gave it.
        taken_back: the boot of a newer transaction that changed it and was taken back, then or in a later boot; empty
            where there is none.
    """

    name: str
    value: str | None
    boot: str
    transaction: str
    taken_back: str = ""

    def finding(self, facts: Facts) -> Finding | None:
        """Return whether the kernel was started with it; None while it waits for a reboot."""
        try:
            running = facts.get(CMDLINE).get(self.name.replace("-", "_"))
            now = "" if running == self.value else facts.get(BOOT_ID)
            waits = running != self.value and now == self.boot
        except Unavailable as missing:
            return Finding(status=Status.UNKNOWN, subject="host", summary=missing.why, cause=missing.probe)
        if waits:
            return None
        given = f"without {self.name}" if running is None else f"with {_words(self.name, running)}"
        said = f"the kernel was started {given}"
        status = Status.PASS if running == self.value else Status.FAIL
        if status is Status.FAIL and (not self.boot or self.taken_back not in ("", now)):
            status = Status.UNKNOWN
            said += f", and whether that was before {_words(self.name, self.value)} was set is not known"
        expected = Expected(
            text=_words(self.name, self.value), key="", layer="", source=f"transaction {self.transaction}"
        )
        return Finding(status=status, subject="host", summary=said, observed=running, expected=expected)


def _words(name: str, value: str | None) -> str:
    return f"no {name}" if value is None else f"{name}={value}" if value else name


def _arguments(transactions: Sequence[Transaction]) -> list[_Argument]:
    """Return what the newest transaction that stands says of each argument."""
    found: dict[str, _Argument] = {}
    for each in transactions:
        for step in each.steps:
            name = step.target.partition(" ")[2]
            key = name.replace("-", "_")
            if step.kind is not Kind.KERNEL_ARG or step.state is StepState.PLANNED:
                continue
            if step.state is StepState.SAME and key in found and found[key].value == step.after:
                continue  # given before, and maybe in another boot
            if step.state in (StepState.APPLIED, StepState.SAME):
                found[key] = _Argument(name=name, value=step.after, boot=each.boot, transaction=each.id)
            elif key in found:
                # Taken back, the older one stands again.
                found[key] = replace(found[key], taken_back=each.boot)
    return [found[key] for key in sorted(found)]


def verify(
    hosts: Hosts,
    transactions: Mapping[str, Sequence[Transaction]],
    checklist: Checklist,
    site: tuple[Layer, ...],
    *,
    role: str | None = None,
) -> tuple[Ended, ...]:
    """Judge the checks that transactions were to mend, and the arguments of the kernel, by a fresh snapshot.

    An argument passes where the kernel was started with it; in the boot in which it was given, it waits for a reboot.

    Args:
        hosts: where.
        transactions: by host; those that were taken back claim nothing.
        checklist, site: by which to judge.
        role: for which role; that of the newest transaction where none is given.
    """
    claims: dict[str, tuple[str, ...]] = {}
    given = {name: _arguments(own) for name, own in transactions.items()}
    roles: dict[str, str] = {}
    known = [name.split("/", 1)[1] for name in shipped_names("role")]
    for name, own in transactions.items():
        steps = [step for each in own for step in each.steps if step.state in _STANDS]
        claims[name] = tuple(sorted({id for step in steps for id in step.fixes}))
        roles[name] = role or next((each.role for each in reversed(own) if each.role in known), checklist.role)
    why = "nothing that was changed here is to be judged"
    ended = {name: Ended(name=name, how=How.NOTHING, why=why) for name in claims}
    asked = [name for name, ids in claims.items() if ids or given[name]]
    if asked:
        rules = Rules(checklist=lambda name: replace(checklist, role=roles[name]), selection=Selection(), site=site)
        for name, found in hosts.read(probes_for_checks({id for each in asked for id in claims[each]}), asked):
            if isinstance(found, Absentee):
                ended[name] = Ended(name=name, how=How.REFUSED, why=f"{found.reach}: {found.why}")
                continue
            facts = Facts(found)
            verdicts = dict(rules.judge(name, found, claims[name], facts=facts))
            ids, waiting = list(claims[name]), []
            for argument in given[name]:
                finding = argument.finding(facts)
                if finding is None:
                    waiting.append(_words(argument.name, argument.value))
                    continue
                ids.append(f"kernel argument {argument.name}")
                verdicts[ids[-1]] = {finding.subject: finding}
            good = tuple(id for id in ids if passes(verdicts.get(id, {})))
            bad = {id: status_words(verdicts.get(id, {})) for id in ids if id not in good}
            ended[name] = Ended(
                name=name,
                how=How.UNVERIFIED if bad else How.WAITING if waiting else How.VERIFIED,
                why=_waits(waiting),
                mended=good,
                unmended=bad,
                findings={id: bad_findings(verdicts.get(id, {})) for id in bad},
                pending=(Needs.REBOOT,) if waiting else (),
            )
    return tuple(ended.values())


def _waits(arguments: Sequence[str]) -> str:
    if not arguments:
        return ""
    return f"{clip(' '.join(arguments), _LONGEST)} {'waits' if len(arguments) == 1 else 'wait'} for a reboot"
