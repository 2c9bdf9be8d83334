"""`hostcheck tune history`, `verify`, `rollback` and `recover`: what hosts know of what was changed there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hostcheck.cli.audit_fleet import Remote
from hostcheck.cli.judging import Judging
from hostcheck.cli.options import clear_progress, write
from hostcheck.cli.tune import reach
from hostcheck.cli.tune_apply import consent
from hostcheck.errors import HostcheckError
from hostcheck.tuning.journal import Transaction

if TYPE_CHECKING:
    from hostcheck.tuning.drive import Ended
    from hostcheck.tuning.hosts import Hosts

_VERIFIED = {
    0: "nothing that was changed fails",
    3: "something waits for a reboot, or could not be read",
    4: "something that was changed does not pass, or could not be judged",
}
_UNDONE = {
    0: "what was asked for is done",
    3: "something was refused, or could not be determined",
    4: "something was left as it is, or could not be taken back",
}


def history(targets: tuple[str, ...], remote: Remote, *, json: bool) -> int:
    """Show the transactions of hosts; return the exit code."""
    hosts, _ = reach(targets, remote)
    found, absent = _histories(hosts)
    if json:
        _write({"schema": 1, "hosts": found, "absent": dict(absent)})
    else:
        from hostcheck.render.tuned import render_history

        _text(render_history(found, absent))
    return 3 if absent else 0


def verify(words: tuple[str, ...], judging: Judging, remote: Remote, *, json: bool) -> int:
    """Judge what was changed; return the exit code."""
    from hostcheck.tuning.drive import Ended, How, code_of
    from hostcheck.tuning.verify import verify as judge

    number, targets = _split(words)
    checklist, layers = judging.checklist(), judging.layers()
    hosts, _ = reach(targets, remote)
    found, absent = _histories(hosts)
    chosen = {name: _chosen(transactions, number) for name, transactions in found.items()}
    if number is not None and chosen and not any(chosen.values()):
        raise HostcheckError(f"there is no transaction {number} (hostcheck tune history shows all)")
    try:
        ended = judge(hosts, chosen, checklist, tuple(layers), role=judging.role)
    finally:
        clear_progress()
    ended = (*ended, *(Ended(name=name, how=How.REFUSED, why=why) for name, why in absent))
    return _show(ended, code_of(ended), _VERIFIED, json=json)


def rollback(words: tuple[str, ...], remote: Remote, *, with_newer: bool, yes: bool, json: bool) -> int:
    """Take changes back; return the exit code."""
    from hostcheck.tuning.program import rollback_program

    number, targets = _split(words)
    program = rollback_program(number, with_newer=with_newer)
    hosts, asked = reach(targets, remote)
    what = f"transaction {number}" if number else "the newest transaction"
    consent(f"Take {what} back on {len(asked):,} host(s)?" if asked else f"Take {what} back?", yes=yes, look="history")
    return _run_back(hosts, program, json=json)


def recover(targets: tuple[str, ...], remote: Remote, *, json: bool) -> int:
    """Bring to an end what was cut off; return the exit code."""
    from hostcheck.tuning.program import recover_program

    hosts, _ = reach(targets, remote)
    return _run_back(hosts, recover_program(), json=json)


def _split(words: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """Return the number of a transaction, wherever it stands, and the targets; no host is called by a number alone.

    Raises:
        HostcheckError: there are several numbers.
    """
    numbers = [word for word in words if word.isascii() and word.isdigit()]
    if len(numbers) > 1:
        raise HostcheckError(f"one transaction at a time, not {' and '.join(numbers)}")
    return next(iter(numbers), None), tuple(word for word in words if word not in numbers)


def _histories(hosts: Hosts) -> tuple[dict[str, tuple[Transaction, ...]], list[tuple[str, str]]]:
    """Return the transactions of each host, and the hosts that could not be asked, with the reason."""
    from hostcheck.tuning.drive import SECONDS
    from hostcheck.tuning.journal import read_history
    from hostcheck.tuning.program import history_program

    found: dict[str, tuple[Transaction, ...]] = {}
    absent = []
    for name, answer in hosts.run(dict.fromkeys(hosts.names, history_program()), seconds=SECONDS).items():
        said = answer.out or answer.partial
        try:
            if not said.strip():
                raise HostcheckError(f"{answer.reach}: {answer.why}")
            found[name] = read_history(said)
        except HostcheckError as problem:
            absent.append((name, str(problem)))
    return {name: found[name] for name in hosts.names if name in found}, absent


def _chosen(transactions: Sequence[Transaction], number: str | None) -> tuple[Transaction, ...]:
    return tuple(each for each in transactions if number is None or int(each.id) == int(number))


def _run_back(hosts: Hosts, program: str, *, json: bool) -> int:
    from hostcheck.tuning.drive import SECONDS, back_code, taken_back

    answers = hosts.run(dict.fromkeys(hosts.names, program), seconds=SECONDS)
    ended = tuple(taken_back(name, answers[name]) for name in hosts.names)
    return _show(ended, back_code(ended), _UNDONE, json=json)


def _show(ended: Sequence[Ended], code: int, meanings: Mapping[int, str], *, json: bool) -> int:
    if json:
        _write({"schema": 1, "code": code, "hosts": tuple(ended)})
    else:
        from hostcheck.render.tuned import render_ended

        _text(render_ended(ended, code, meanings))
    return code


def _write(document: Mapping[str, Any]) -> None:
    from hostcheck.render.json import encoded
    from hostcheck.render.safe import json_safe

    _text(json_safe(encoded(document).decode()) + "\n")


def _text(text: str) -> None:
    write(Path("-"), text.encode("utf-8", "replace"))
