"""What the runtime prints, and the journals that it keeps on a host, as data. Both are a host's, and not trusted.

A journal is a file of lines. A line is fields between tabs; the last is the length in bytes of what stands before it,
so that a line which a power cut left in part is known. In a field, a backslash, a tab and a line's end are written
\\\\, \\t and \\n, nothing as "-", a value as "=" and its text. The first field is the number of a change, or 0 for the
whole:

    0 journal 1 12 2026-11-21T02:21:29Z 0.1.0 gpu01 BOOT-ID training 1 66
    1 plan write /proc/sys/vm/swappiness =60 =10 runtime - memory.swappiness memory.swappiness why... 94
    1 intent 8
    1 applied 9
    0 committed 11
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import StrEnum

from hostcheck.errors import HostcheckError
from hostcheck.tuning.change import Kind, Reload, Scope

PROTOCOL = "hostcheck-tune 1"
"""First line of what a program prints."""

_LARGEST = 64 * 1024 * 1024
_MOST = 200_000
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_PLAIN = {"\\": "\\", "n": "\n", "t": "\t"}


class StepState(StrEnum):
    """How far a change came, or how it ended.

    PLANNED: it was not begun. SAME: it was as wanted before. INTENT: begun, and no word of its end. APPLIED: done, and
    read back. MOVED: another value stood there than the plan found; nothing was done. REFUSED: what stands there cannot
    be read, or is not safe to change; nothing was done. FAILED: it was tried, and did not succeed or did not take.
    UNDONE: taken back. LEFT: not taken back, since somebody changed it since. STUCK: it could not be taken back.
    """

    PLANNED = "planned"
    SAME = "same"
    INTENT = "intent"
    APPLIED = "applied"
    MOVED = "moved"
    REFUSED = "refused"
    FAILED = "failed"
    UNDONE = "undone"
    LEFT = "left"
    STUCK = "stuck"


class End(StrEnum):
    """How a transaction, or a program without one, ended.

    COMMITTED: every change is there. NOTHING: there was nothing to do. REFUSED: nothing was begun. ROLLED_BACK: taken
    back. STOPPED: a change failed, and those before it stay. AWAITING: to be confirmed, else it is taken back.
    UNFINISHED: something could not be taken back. CUT: no word of its end; the host knows.
    """

    COMMITTED = "committed"
    NOTHING = "nothing"
    REFUSED = "refused"
    ROLLED_BACK = "rolled-back"
    STOPPED = "stopped"
    AWAITING = "awaiting"
    UNFINISHED = "unfinished"
    CUT = "cut"


@dataclass(frozen=True, slots=True)
class Ending:
    """The last word on one change: its state, and why, which is empty where nothing needs to be said."""

    state: StepState
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a program did in one transaction.

    Attributes:
        transaction: its number; empty where nothing was begun.
        end: how it ended.
        why: one line; for AWAITING the number of seconds.
        steps: the last word on each change that was spoken of, by its number in the plan.
        failures: of a change that was taken back after it failed: what had failed, by its number.
    """

    transaction: str = ""
    end: End = End.CUT
    why: str = ""
    steps: dict[int, Ending] = field(default_factory=dict)
    failures: dict[int, Ending] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A change, as the journal of a transaction has it.

    Attributes:
        number: its number in the plan.
        kind, target, before, after, scope, reload, tuner, fixes, why: as in `hostcheck.tuning.change.Change`.
        state: how far it came.
    """

    number: int
    kind: Kind
    target: str
    before: str | None
    after: str | None
    scope: Scope
    reload: Reload
    tuner: str
    fixes: tuple[str, ...]
    why: str
    state: StepState


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """A plan that was applied on a host, as its journal has it.

    Attributes:
        id: its number on that host; a newer one has a higher number.
        made: when it was begun, ISO 8601 UTC, by that host's clock.
        tool: the hostcheck version that began it.
        host: the name under which the plan knew the host.
        boot: the boot in which it was begun; empty where the host does not tell.
        role: the role of the plan; empty if none.
        end: how it ended; UNFINISHED where it was not brought to an end, which `hostcheck tune recover` does.
        why: what was said at its end.
        steps: by number.
        damaged: whether lines of the journal were lost.
    """

    id: str
    made: str = ""
    tool: str = ""
    host: str = ""
    boot: str = ""
    role: str = ""
    end: End = End.UNFINISHED
    why: str = ""
    steps: tuple[Step, ...] = ()
    damaged: bool = False


def read_outcomes(output: bytes) -> tuple[Outcome, ...]:
    """Return what a program printed, an outcome for each transaction; a rollback can have several.

    The last one ends CUT where there is no word of its end.

    Raises:
        HostcheckError: this is not what a program of this version prints.
    """
    lines = _opened(output)
    outcomes: list[Outcome] = []
    current: Outcome | None = None
    for line in lines:
        word, *fields = line
        if word == "begin" and len(fields) == 1 and _NUMBER.fullmatch(fields[0]):
            # What was said before is of the same run: changes that are as wanted are told before a transaction begins.
            held = current if current is not None and not current.transaction else Outcome()
            if current is not None and current.transaction:
                outcomes.append(current)
            current = replace(held, transaction=fields[0])
        elif word == "step" and len(fields) == 3 and _NUMBER.fullmatch(fields[0]):
            current = current or Outcome()
            _take(current, int(fields[0]), Ending(_state(fields[1]), fields[2]))
        elif word == "end" and len(fields) == 3 and (fields[0] == "-" or _NUMBER.fullmatch(fields[0])):
            transaction = "" if fields[0] == "-" else fields[0]
            held = current or Outcome()
            if held.transaction not in ("", transaction):
                raise _strange(line)
            outcomes.append(replace(held, transaction=transaction, end=_end(fields[1]), why=fields[2]))
            current = None
        else:
            raise _strange(line)
    if current is not None or not outcomes:
        outcomes.append(current or Outcome())
    return tuple(outcomes)


def read_history(output: bytes) -> tuple[Transaction, ...]:
    """Return the transactions that `history_program` printed, oldest first.

    Raises:
        HostcheckError: this is not what a program of this version prints, or it was refused there.
    """
    found: list[_Journal] = []
    ended = False
    for line in _opened(output, raw="journal"):
        word, *fields = line
        if word == "transaction" and len(fields) == 2 and _NUMBER.fullmatch(fields[0]):
            found.append(_Journal(fields[0], open=fields[1] != "closed"))
        elif word == "journal" and len(fields) == 1 and found:
            found[-1].take(fields[0])
        elif word == "end" and len(fields) == 3:
            ended = True
            if fields[1] == End.REFUSED:
                raise HostcheckError(fields[2])
        else:
            raise _strange(line)
    if not ended:
        raise HostcheckError("the history came without its end")
    return tuple(journal.transaction() for journal in found)


def read_journal(id: str, text: str, *, open: bool = False) -> Transaction:
    """Return one transaction from its journal's text; lines that are not whole are left out, and said so.

    Args:
        id: its number.
        open: whether the host holds it for unfinished.
    """
    journal = _Journal(id, open=open)
    for line in text.split("\n"):
        if line:
            journal.take(line)
    return journal.transaction()


class _Journal:
    """One journal, line by line."""

    def __init__(self, id: str, *, open: bool) -> None:
        self._known = Transaction(id=id)
        self._open = open
        self._steps: dict[int, Step] = {}
        self._damaged = False
        self._last = 0  # number of the last change; 0 where the heading is lost

    def take(self, line: str) -> None:
        body, _, length = line.rpartition("\t")
        fields = [_unescaped(each) for each in body.split("\t")]
        whole = length.isascii() and length.isdigit() and len(length) < 10 and int(length) == len(_bytes(body))
        if not whole or len(fields) < 2 or not self._entry(fields):
            self._damaged = True

    def _entry(self, fields: list[str]) -> bool:
        """Take one entry; return whether it makes sense."""
        number, word, *rest = fields
        if number == "0":
            return self._whole(word, rest)
        if not _NUMBER.fullmatch(number):
            return False
        if word == "plan":
            return self._plan(int(number), rest)
        step = self._steps.get(int(number))
        if step is None:
            return False
        if word == "made":
            return True
        try:
            self._steps[step.number] = replace(step, state=StepState(word))
        except ValueError:
            return False
        return True

    def _whole(self, word: str, rest: list[str]) -> bool:
        if word == "journal":
            if len(rest) != 8 or rest[0] != "1" or not _NUMBER.fullmatch(rest[7]):
                return False
            _, _, made, tool, host, boot, role, last = rest
            self._last = int(last)
            self._known = replace(
                self._known, made=made, tool=_none(tool), host=_none(host), boot=_none(boot), role=_none(role)
            )
            return True
        try:
            end = End.UNFINISHED if word == "rolling-back" else End(word)
        except ValueError:
            return False
        self._known = replace(self._known, end=end, why=rest[0] if rest else "")
        return True

    def _plan(self, number: int, rest: list[str]) -> bool:
        if len(rest) != 9:
            return False
        kind, target, before, after, scope, reload, tuner, fixes, why = rest
        try:
            self._steps[number] = Step(
                number=number,
                kind=Kind(kind),
                target=target,
                before=_value(before),
                after=_value(after),
                scope=Scope(scope),
                reload=Reload(_none(reload)),
                tuner=_none(tuner),
                fixes=tuple(each for each in _none(fixes).split(",") if each),
                why=why,
                state=StepState.PLANNED,
            )
        except ValueError:
            return False
        return True

    def transaction(self) -> Transaction:
        end = self._known.end
        if self._open and end is not End.AWAITING:
            end = End.UNFINISHED
        steps = tuple(self._steps[number] for number in sorted(self._steps))
        missing = not self._last or max(self._steps, default=0) != self._last
        return replace(self._known, end=end, steps=steps, damaged=self._damaged or missing)


def _opened(output: bytes, *, raw: str = "") -> list[list[str]]:
    """Return the lines of what a program printed, split and unescaped, less a last one that is not whole.

    Args:
        raw: word of lines whose rest is one field, left as it is.
    """
    if len(output) > _LARGEST:
        raise HostcheckError("the answer is too large to be one of hostcheck's programs")
    whole, _, _ = output.decode("utf-8", "surrogateescape").rpartition("\n")
    first, *lines = whole.split("\n")
    if first != PROTOCOL:
        raise HostcheckError("the answer is not that of hostcheck's programs")
    if len(lines) > _MOST:
        raise HostcheckError("the answer is too long to be one of hostcheck's programs")
    split = []
    for line in lines:
        word, tab, rest = line.partition("\t")
        if word == raw and tab:
            split.append([word, rest])
        else:
            split.append([_unescaped(each) for each in line.split("\t")])
    return split


def _take(outcome: Outcome, number: int, ending: Ending) -> None:
    earlier = outcome.steps.get(number)
    if earlier is not None and earlier.state is StepState.FAILED:
        outcome.failures[number] = earlier
    outcome.steps[number] = ending


def _state(word: str) -> StepState:
    try:
        return StepState(word)
    except ValueError:
        raise _strange(["step", word]) from None


def _end(word: str) -> End:
    try:
        return End(word)
    except ValueError:
        raise _strange(["end", word]) from None


def _strange(line: list[str]) -> HostcheckError:
    return HostcheckError(f"the answer holds a line that is none of hostcheck's: {' '.join(line)[:200]!r}")


def _unescaped(text: str) -> str:
    whole = _ESCAPE.sub(lambda found: _PLAIN.get(found[1], found[0]), text) if "\\" in text else text
    return whole if whole.isascii() else _bytes(whole).decode("utf-8", "replace")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _none(text: str) -> str:
    return "" if text == "-" else text


def _value(text: str) -> str | None:
    if text == "-":
        return None
    if not text.startswith("="):
        raise ValueError(text)
    return text[1:]
