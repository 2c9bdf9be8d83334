"""What was changed before, judged anew: whether the checks that it was to mend pass today."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hostcheck.checklist import Checklist
from hostcheck.expect import Layer, shipped_names
from hostcheck.model import Absentee
from hostcheck.tuning.drive import Ended, How, bad_findings, passes, status_words
from hostcheck.tuning.hosts import Hosts
from hostcheck.tuning.journal import StepState, Transaction
from hostcheck.tuning.plan import Selection
from hostcheck.tuning.planning import Rules, probes_for_checks

_STANDS = (StepState.APPLIED, StepState.SAME, StepState.LEFT)


def verify(
    hosts: Hosts,
    transactions: Mapping[str, Sequence[Transaction]],
    checklist: Checklist,
    site: tuple[Layer, ...],
    *,
    role: str | None = None,
) -> tuple[Ended, ...]:
    """Judge the checks that transactions were to mend, by a fresh snapshot.

    Args:
        hosts: where.
        transactions: by host; those that were taken back claim nothing.
        checklist, site: by which to judge.
        role: for which role; that of the newest transaction where none is given.
    """
    claims: dict[str, tuple[str, ...]] = {}
    roles: dict[str, str] = {}
    known = [name.split("/", 1)[1] for name in shipped_names("role")]
    for name, own in transactions.items():
        steps = [step for each in own for step in each.steps if step.state in _STANDS]
        claims[name] = tuple(sorted({id for step in steps for id in step.fixes}))
        roles[name] = role or next((each.role for each in reversed(own) if each.role in known), checklist.role)
    why = "nothing that was changed here is to be judged"
    ended = {name: Ended(name=name, how=How.NOTHING, why=why) for name in claims}
    asked = [name for name, ids in claims.items() if ids]
    if asked:
        rules = Rules(checklist=lambda name: replace(checklist, role=roles[name]), selection=Selection(), site=site)
        for name, found in hosts.read(probes_for_checks({id for each in asked for id in claims[each]}), asked):
            if isinstance(found, Absentee):
                ended[name] = Ended(name=name, how=How.REFUSED, why=f"{found.reach}: {found.why}")
                continue
            verdicts = rules.judge(name, found, claims[name])
            good = tuple(id for id in claims[name] if passes(verdicts.get(id, {})))
            bad = {id: status_words(verdicts.get(id, {})) for id in claims[name] if id not in good}
            how = How.UNVERIFIED if bad else How.VERIFIED
            findings = {id: bad_findings(verdicts.get(id, {})) for id in bad}
            ended[name] = Ended(name=name, how=how, mended=good, unmended=bad, findings=findings)
    return tuple(ended.values())
