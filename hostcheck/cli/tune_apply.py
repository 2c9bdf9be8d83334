"""`hostcheck tune apply`."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hostcheck.cli.audit_fleet import Remote
from hostcheck.cli.main import INTERRUPTED
from hostcheck.cli.options import clear_progress, write
from hostcheck.cli.tune import by_role, make, plans_text, reach, take
from hostcheck.errors import HostcheckError
from hostcheck.render.safe import safe

if TYPE_CHECKING:
    from hostcheck.tuning.change import Plan
    from hostcheck.tuning.drive import Applied
    from hostcheck.tuning.hosts import Hosts
    from hostcheck.tuning.measure import Compared, Measuring
    from hostcheck.tuning.planning import Planned, Rules


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """What the options say of how to apply."""

    yes: bool
    keep_unverified: bool
    measure: bool
    wave: int
    max_failures: int
    json: bool
    verbose: bool


def apply(words: tuple[str, ...], rules: Rules, remote: Remote, how: How) -> int:
    """Plan or read the plan, ask, apply, show; return the exit code.

    Raises:
        HostcheckError: the plan is not right or of another host, or nobody is there to say yes.
    """
    from hostcheck.tuning.drive import apply as drive
    from hostcheck.tuning.drive import apply_code
    from hostcheck.tuning.plan import to_do

    file, targets = _split(words)
    if not how.yes:
        _need_terminal("plan")
    given = _given(file)
    if isinstance(given, dict) and not (targets or remote.hosts_file or remote.inventory):
        targets = tuple(given)
    hosts, asked = reach(targets, remote)
    if asked:
        rules = by_role(rules, asked, remote)
    if given is None:
        planned = make(rules, hosts)
    else:
        plans = given.values() if isinstance(given, dict) else [given]
        planned, rules = take(rules, hosts, tuple(plans), str(file))
    _show_plans(planned, how)
    places = [name for name, plan in planned.plans.items() if to_do(plan)]
    measuring = _measuring(hosts, planned) if how.measure and places else None
    if places:
        many = f" on {len(places):,} hosts" if len(places) > 1 else f" on {safe(places[0])}" if asked else ""
        consent(f"Make these changes{many}?", yes=how.yes)
    if measuring:
        measuring.before()
    try:
        applied = drive(
            hosts,
            planned,
            rules,
            wave=how.wave,
            max_failures=how.max_failures,
            keep_unverified=how.keep_unverified,
            tell=tell,
        )
    finally:
        clear_progress()
    code = apply_code(applied, planned)
    compared = measuring.after(applied) if measuring else ()
    _show(applied, planned, code, compared, how, there=bool(asked))
    return INTERRUPTED if applied.interrupted else code


def _need_terminal(look: str) -> None:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise HostcheckError(f"there is no terminal to ask on: look at hostcheck tune {look}, then say --yes")


def consent(question: str, *, yes: bool, look: str = "plan") -> None:
    """Ask on the terminal, once; without one, name the command of `tune` that shows what would be done.

    Raises:
        HostcheckError: there is none.
        Abort: the answer was no.
    """
    if not yes:
        _need_terminal(look)
        if not click.confirm(f"\n{question}", err=True):
            raise HostcheckError("nothing was changed")


def tell(line: str) -> None:
    """Say something to whoever watches."""
    click.echo(f"hostcheck: {safe(line)}", err=True)


def _split(words: tuple[str, ...]) -> tuple[Path | None, tuple[str, ...]]:
    """Return the plan's file and the targets; a file is told by its slash or its ending, which no host has."""
    files = [word for word in words if "/" in word or word.endswith(".json")]
    if len(files) > 1:
        raise HostcheckError(f"{files[1]}: one plan at a time; tune plan -o writes the plans of many hosts to one file")
    targets = tuple(word for word in words if word not in files)
    for word in targets:
        if _is_plan(word):
            raise HostcheckError(f"{word} is a file here: write ./{word}")
    return (Path(files[0]) if files else None), targets


def _is_plan(word: str) -> bool:
    """Whether a word that would be a host is a file here that may hold a plan."""
    # A node set may be longer than any file's name.
    with suppress(OSError), Path(word).open("rb") as file:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode) and file.read(1) == b"{"
    return False


def _given(file: Path | None) -> Plan | dict[str, Plan] | None:
    if file is None:
        return None
    from hostcheck.tuning.planfile import Plans, read_plan_file

    found = read_plan_file(file)
    return found.plans if isinstance(found, Plans) else found


def _measuring(hosts: Hosts, planned: Planned) -> Measuring:
    from hostcheck.tuning.measure import Measuring

    return Measuring(hosts, planned.plans, tell=tell)


def _show_plans(planned: Planned, how: How) -> None:
    """Show what is about to be done; where the output is for programs, beside it."""
    if how.json and how.yes:
        return
    text = plans_text(planned, "text", verbose=how.verbose, asking=True)
    click.echo(text, err=how.json, nl=False)


def _show(
    applied: Applied, planned: Planned, code: int, compared: Sequence[Compared], how: How, *, there: bool
) -> None:
    if how.json:
        from hostcheck.render.json import encoded
        from hostcheck.render.safe import json_safe

        document = {
            "schema": 1,
            "code": code,
            "hosts": applied.ended,
            "absent": planned.absent,
            "measured": tuple(compared),
        }
        write(Path("-"), (json_safe(encoded(document).decode()) + "\n").encode())
        return
    from hostcheck.render.tuned import render_compared, render_ended
    from hostcheck.tuning.drive import Ended
    from hostcheck.tuning.drive import How as Ending

    absent = (Ended(name=each.name, how=Ending.UNTOUCHED, why=f"{each.reach}: {each.why}") for each in planned.absent)
    write(
        Path("-"),
        (render_compared(compared) + render_ended((*applied.ended, *absent), code, there=there)).encode(
            "utf-8", "replace"
        ),
    )
