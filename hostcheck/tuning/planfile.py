"""Plans as files: canonical JSON out; in, read strictly, since a person may have edited them in between."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec

from hostcheck.errors import HostcheckError
from hostcheck.expect import suggest
from hostcheck.model import Absentee
from hostcheck.render.json import encoded
from hostcheck.render.safe import clip, json_safe, safe
from hostcheck.tuning.change import SCHEMA, Change, Kind, Plan
from hostcheck.tuning.kinds import fault

_LARGEST = 64 * 1024 * 1024
_MOST = 20_000
_MACHINE = re.compile(r"(?:[0-9a-f]{32})?")
_TRANSACTION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plans:
    """The plans of several hosts.

    Attributes:
        plans: by the name under which the user knows each host.
        absent: hosts of which there is none.
    """

    plans: dict[str, Plan]
    absent: tuple[Absentee, ...] = ()
    schema: int = field(default=SCHEMA)


def plan_text(plan: Plan | Plans) -> str:
    """Return the file of a plan, or of several: two spaces of indentation, fields in the order of the model.

    Equal plans have equal files, to the byte.
    """
    return json_safe(msgspec.json.format(encoded(plan), indent=2).decode()) + "\n"


def read_plan_file(path: Path) -> Plan | Plans:
    """Return what a file holds: a plan, or several.

    Raises:
        HostcheckError: one line that names the file, the field, and what is wrong with it.
    """
    try:
        with path.open("rb") as opened:
            data = opened.read(_LARGEST + 1)
    except OSError as problem:
        raise HostcheckError(f"{path}: {problem.strerror}") from None
    if len(data) > _LARGEST:
        raise HostcheckError(f"{path}: too large for a plan")
    try:
        return read_plan(data)
    except HostcheckError as problem:
        raise HostcheckError(f"{path}: {problem}") from None


def read_plan(document: bytes | str) -> Plan | Plans:
    """Return what a document describes: a plan, or several.

    Each field is looked at anew, whoever wrote it: unknown names, other types, and values that make no sense are
    refused.

    Raises:
        HostcheckError: one line that names the field and what is wrong with it.
    """
    try:
        table = msgspec.json.decode(document)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as problem:
        raise HostcheckError(f"not JSON: {problem}") from None
    if not isinstance(table, dict) or not {"changes", "plans"} & table.keys():
        raise HostcheckError("not a plan of hostcheck: it has no changes")
    schema = table.get("schema")
    if schema != SCHEMA or isinstance(schema, bool):
        made = f" by hostcheck {clip(safe(str(table['tool'])), 40)}" if "tool" in table else ""
        raise HostcheckError(
            f"a plan of schema {clip(safe(str(schema)), 40)}, made{made or ' elsewhere'}; this hostcheck reads schema "
            f"{SCHEMA}: make the plan anew with hostcheck tune plan"
        )
    kind: type[Plan] | type[Plans] = Plans if "plans" in table else Plan
    _known(table, kind, "")
    try:
        found = msgspec.convert(table, kind)
    except msgspec.ValidationError as problem:
        raise HostcheckError(_where(str(problem))) from None
    for name, plan in found.plans.items() if isinstance(found, Plans) else (("", found),):
        _sensible(plan, f"plans[{name!r}]." if name else "")
    return found


def _known(table: object, kind: Any, where: str) -> None:
    """Refuse names that the model does not have: a misspelt field must not be left out in silence."""
    if isinstance(table, dict) and is_dataclass(kind):
        names = [each.name for each in fields(kind)]
        hints = get_type_hints(kind)
        for name, value in table.items():
            if name not in names:
                raise HostcheckError(f"{where}{clip(safe(str(name)), 60)}: unknown field{suggest(str(name), names)}")
            _known(value, hints[name], f"{where}{name}.")
    elif isinstance(kind, type) and issubclass(kind, StrEnum) and isinstance(table, str):
        words = [str(word) for word in kind]
        if table not in words:
            said = clip(safe(table), 60)
            raise HostcheckError(f"{where.removesuffix('.')}: {said!r} is none of {', '.join(filter(None, words))}")
    elif isinstance(table, dict) and get_args(kind):
        for name, value in table.items():
            _known(value, get_args(kind)[1], f"{where.removesuffix('.')}[{name!r}].")
    elif isinstance(table, list) and get_args(kind):
        for number, value in enumerate(table):
            _known(value, get_args(kind)[0], f"{where.removesuffix('.')}[{number}].")


def _where(problem: str) -> str:
    """Return msgspec's complaint with the path of the field in front."""
    said, _, path = problem.partition(" - at `$")
    return f"{path.rstrip('`').lstrip('.')}: {said}" if path else said


def _sensible(plan: Plan, where: str) -> None:
    if not _MACHINE.fullmatch(plan.machine):
        raise HostcheckError(f"{where}machine: 32 hexadecimal digits as in /etc/machine-id are needed")
    if len(plan.changes) > _MOST:
        raise HostcheckError(f"{where}changes: more than {_MOST:,}")
    for name in ("host", "boot", "made", "tool", "role"):
        text: str = getattr(plan, name)
        if not text.isprintable() or len(text) > 300:
            raise HostcheckError(f"{where}{name}: one line of at most 300 characters is needed")
    if len(plan.unfinished) > _MOST or not all(_TRANSACTION.fullmatch(number) for number in plan.unfinished):
        raise HostcheckError(f"{where}unfinished: numbers of transactions are needed")
    seen: dict[tuple[Kind, str], int] = {}
    for number, change in enumerate(plan.changes):
        here = f"{where}changes[{number}]"
        if wrong := fault(change):
            raise HostcheckError(f"{here}: {clip(wrong, 300)}")
        _checks(change, here)
        if change.kind is not Kind.MANUAL and (other := seen.setdefault((change.kind, change.target), number)) < number:
            raise HostcheckError(f"{here}: target: changes[{other}] is of the same: a plan changes it once")


def _checks(change: Change, here: str) -> None:
    """Refuse a claim that nothing could judge."""
    if not change.fixes:
        return
    from hostcheck.registry import load_checks

    known: Mapping[str, object] = load_checks()
    for id in change.fixes:
        if id not in known:
            raise HostcheckError(f"{here}: fixes: there is no check {clip(safe(id), 80)!r}{suggest(id, known)}")
