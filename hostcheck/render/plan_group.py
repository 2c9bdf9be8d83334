"""How every form shows a plan: equal edits together, by subsystem, and equal plans of many hosts as one. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from hostcheck.registry import SUBSYSTEMS
from hostcheck.render.fold import fold_line
from hostcheck.render.words import many
from hostcheck.tuning.change import Change, Kind, Needs, Plan, Scope
from hostcheck.tuning.plan import to_do

NEEDS: Mapping[Needs, str] = {
    Needs.NOTHING: "",
    Needs.SERVICE_RESTART: "takes effect when its service is restarted",
    Needs.NEW_SESSION: "takes effect in new sessions",
    Needs.GPU_RESET: "takes effect when the GPU is reset",
    Needs.REBOOT: "takes effect at the next boot",
}
"""What is left to be done after a change, for people; hostcheck does none of it."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Changes that differ in nothing but the target.

    Attributes:
        change: the first of them.
        targets: all of them, unfolded.
    """

    change: Change
    targets: tuple[str, ...]

    @property
    def place(self) -> str:
        """The targets in few words, such as "/sys/devices/system/cpu/cpu[0-63]/cpufreq/scaling_governor"."""
        if self.change.kind is Kind.GPU:
            gpus = [target.partition(" ")[0] for target in self.targets]
            setting = self.change.target.partition(" ")[2]
            return f"{setting} of {gpus[0] if len(gpus) == 1 else many(len(gpus), 'GPU')}"
        return fold_line(self.targets)

    @property
    def diff(self) -> list[str]:
        """What becomes of it: of one value, a line with an arrow; of a file, lines that begin with "-", "+" or " "."""
        before, after = self.change.before, self.change.after
        if self.change.kind is Kind.MANUAL:
            return []
        if self.change.kind is not Kind.FILE:
            return [f"{value_text(before)} -> {value_text(after)}"]
        old, new = (before or "").splitlines(), (after or "").splitlines()
        if before is None or after is None:
            return [*(f"- {line}" for line in old), *(f"+ {line}" for line in new)]
        return [line for line in difflib.ndiff(old, new) if not line.startswith("?")]

    @property
    def act(self) -> str:
        """What is done to a file, in a word or two; empty for anything else."""
        if self.change.kind is not Kind.FILE:
            return ""
        if self.change.before is None:
            return "new file"
        return "file removed" if self.change.after is None else "file changed"


_KEPT = ": kept over a reboot"


def value_text(value: str | None) -> str:
    """Return a value as a person reads it."""
    if value is None:
        return "(none)"
    return value if value.strip() else "(empty)"


def edits(changes: Iterable[Change]) -> list[Edit]:
    """Return changes with equal ones together, in the order of the first of each."""
    found: dict[tuple[object, ...], list[Change]] = {}
    for change in changes:
        setting = change.target.partition(" ")[2] if change.kind in (Kind.GPU, Kind.NIC) else ""
        found.setdefault((replace(change, target=""), setting), []).append(change)
    return [Edit(group[0], tuple(change.target for change in group)) for group in found.values()]


@dataclass(frozen=True, slots=True)
class Section:
    """The edits of one tuner, and what they have in common.

    Attributes:
        why, source: where all of its edits agree on them; else empty, and each edit says its own. That something is
            kept over a reboot is said of each edit anyway, and no reason of its own.
    """

    tuner: str
    why: str
    source: str
    edits: tuple[Edit, ...]


def subsystems(changes: Iterable[Change]) -> dict[str, list[Section]]:
    """Return the sections by subsystem, in the order of the checklist; what no tuner made is "other"."""
    by_tuner: dict[str, list[Change]] = {}
    for change in changes:
        by_tuner.setdefault(change.tuner, []).append(change)
    found: dict[str, list[Section]] = {}
    order = {name: number for number, name in enumerate(SUBSYSTEMS)}
    for tuner in sorted(by_tuner, key=lambda tuner: (order.get(tuner.partition(".")[0], 99), tuner)):
        own = tuple(edits(by_tuner[tuner]))
        whys = {edit.change.why.removesuffix(_KEPT) for edit in own}
        sources = {edit.change.source for edit in own}
        made = Section(
            tuner,
            whys.pop() if len(whys) == 1 else "",
            sources.pop() if len(sources) == 1 else "",
            own,
        )
        word = tuner.partition(".")[0]
        found.setdefault(word if word in order else "other", []).append(made)
    return found


def reasons(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return (who, why) pairs by why, each who once, in order."""
    found: dict[str, list[str]] = {}
    for who, why in pairs:
        whose = found.setdefault(why, [])
        if who not in whose:
            whose.append(who)
    return found


def could_not(plan: Plan) -> dict[str, list[str]]:
    """Return what could not be planned: the reason to the tuners; a snapshot of an older kind is one reason."""
    pairs = []
    for entry in plan.unplanned:
        old = entry.why == f"{entry.cause}: not-collected"
        pairs.append((entry.tuner or "this host", _OLD if old else entry.why))
    return reasons(pairs)


_OLD = "the snapshot was taken without what these read: take a new one with hostcheck collect"


def by_hand(plan: Plan) -> tuple[Change, ...]:
    """Return what the operator is to do."""
    return tuple(change for change in plan.changes if change.kind is Kind.MANUAL)


def unfinished(plan: Plan) -> str:
    """Return what to do about transactions that were not brought to an end, in one line; empty where there is none."""
    if not plan.unfinished:
        return ""
    one = len(plan.unfinished) == 1
    which = (
        f"Transaction{'' if one else 's'} {', '.join(plan.unfinished[:8])}{' ...' if len(plan.unfinished) > 8 else ''}"
    )
    return (
        f"{which} {'was' if one else 'were'} not brought to an end: run hostcheck tune recover there before anything "
        "else, unless another hostcheck is at work there now."
    )


def tally(plan: Plan) -> str:
    """Return what there is to do in one line, such as "5 changes: 3 until the next boot, 2 kept; at most low risk"."""
    changes = to_do(plan)
    if not changes:
        return "nothing to change" + (", as far as that could be planned" if plan.unplanned else "")
    scopes = [(sum(change.scope is scope for change in changes), words) for scope, words in _SCOPES]
    told = ", ".join(f"{number:,} {words}" for number, words in scopes if number)
    gravest = max((change.risk for change in changes), key=lambda risk: risk.rank)
    return f"{many(len(changes), 'change')} ({told}), risk {'up to ' if gravest.rank else ''}{gravest}"


_SCOPES = ((Scope.RUNTIME, "until the next boot"), (Scope.PERSISTENT, "kept over a reboot"))


def mends(plan: Plan) -> list[str]:
    """Return the checks that the plan is to make pass."""
    return sorted({id for change in to_do(plan) for id in change.fixes})


def meaning(code: int) -> str:
    """Return what the exit code of a plan says."""
    return {
        0: "there is nothing to change",
        1: "there is something to change",
        3: "something could not be determined",
    }[code]
