"""Checklists: which checks, which expectations, what is waived, attested or required. TOML, read strictly."""

from __future__ import annotations

import datetime as dt
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from hostcheck.errors import HostcheckError, Maybe, NotApplicable, Unavailable, need
from hostcheck.expect import Expect, Expectation, Key, Layer, parse_matcher, read_values, suggest
from hostcheck.facts.base import FACTS
from hostcheck.matchers import Matcher
from hostcheck.model import Actor, Attestation, Finding, Severity, Waiver
from hostcheck.registry import Check, select


@dataclass(frozen=True, slots=True)
class WaiverRule:
    """Which findings a waiver is about: a check, and a subject or all of them."""

    check: str
    subject: str
    waiver: Waiver

    def concerns(self, check: str, subject: str) -> bool:
        """Whether the rule is about this finding, ended or not."""
        return check == self.check and self.subject in ("*", subject)

    def covers(self, check: str, subject: str, today: str) -> bool:
        """Whether the rule is about this finding and has not ended."""
        return self.concerns(check, subject) and today <= self.waiver.until


@dataclass(frozen=True, slots=True)
class Checklist:
    """What is to be judged and how.

    Attributes:
        name: shown in reports; a file's own name where it gives none.
        role: the role layer, such as "training".
        only, skip: patterns of check ids.
        require: ids that must pass.
        layers: expectations of the checklist itself, over all shipped ones.
        checks: checks that the checklist defines.
        who: who deselects, for the reason of a skip.
    """

    name: str = "default"
    role: str = "training"
    only: tuple[str, ...] = ("*",)
    skip: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    layers: tuple[Layer, ...] = ()
    waivers: tuple[WaiverRule, ...] = ()
    attestations: tuple[Attestation, ...] = ()
    checks: tuple[Check, ...] = ()
    who: Mapping[str, str] = field(default_factory=dict)


_TOP: dict[str, type] = {
    "name": str, "role": str, "only": list, "skip": list, "require": list,
    "expect": dict, "waive": list, "attest": list, "check": list,
}  # fmt: skip


def read_checklist(path: Path, checks: Mapping[str, Check], rows: Sequence[str], roles: Sequence[str]) -> Checklist:
    """Read a checklist file.

    Raises:
        HostcheckError: one line that names file, key and what would be right.
    """
    where = str(path)
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as problem:
        raise HostcheckError(f"{where}: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise HostcheckError(f"{where}: not a text file (UTF-8)") from None
    except tomllib.TOMLDecodeError as problem:
        raise HostcheckError(f"{where}: not TOML: {problem}") from None
    for word, value in table.items():
        if word not in _TOP:
            raise HostcheckError(f"{where}: unknown key {word!r}{suggest(word, _TOP)}")
        if not isinstance(value, _TOP[word]):
            raise HostcheckError(f"{where}: {word} must be a {_TOP[word].__name__}, not {value!r}")
    if table.get("role", "training") not in roles:
        raise HostcheckError(f"{where}: role {table['role']!r} is none of {', '.join(roles)}")
    own = tuple(_custom(entry, where) for entry in table.get("check", []))
    known = [*checks, *(made.id for made in own)]
    for word in ("only", "skip", "require"):
        _names(table.get(word, []), known, f"{where}: {word}")
    return Checklist(
        name=table.get("name", path.stem),
        role=table.get("role", "training"),
        only=tuple(table.get("only", ("*",))),
        skip=tuple(table.get("skip", ())),
        require=tuple(sorted(_names(table.get("require", []), known, f"{where}: require"))),
        layers=(Layer(f"checklist {path.name}", {}, read_values(table.get("expect", {}), where)),),
        waivers=tuple(_waiver(entry, known, where) for entry in table.get("waive", [])),
        attestations=tuple(_attestation(entry, rows, where) for entry in table.get("attest", [])),
        checks=own,
        who={"only": where, "skip": where},
    )


def _names(patterns: Any, known: Sequence[str], where: str) -> set[str]:
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise HostcheckError(f"{where}: a list of check ids is needed")
    try:
        return select(known, patterns)
    except HostcheckError as problem:
        raise HostcheckError(f"{where}: {problem}") from None


def _entry(entry: object, where: str, needed: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise HostcheckError(f"{where} must be a table")
    for word in entry:
        if word not in (*needed, *optional):
            raise HostcheckError(f"{where}: unknown key {word!r}{suggest(word, (*needed, *optional))}")
    for word in needed:
        if word not in entry:
            raise HostcheckError(f"{where}: {word} is missing")
    return entry


def _date(value: object, where: str) -> str:
    if isinstance(value, dt.date):
        return value.isoformat()[:10]
    try:
        return dt.date.fromisoformat(str(value)).isoformat()
    except ValueError:
        raise HostcheckError(f"{where}: {value!r} is no date such as 2027-01-31") from None


def _waiver(entry: object, known: Sequence[str], where: str) -> WaiverRule:
    where = f"{where}: [[waive]]"
    table = _entry(entry, where, ("check", "reason", "until"), ("subject", "by"))
    _names([table["check"]], known, where)
    if table["check"] not in known:
        raise HostcheckError(f"{where}: check {table['check']!r} must be one id, not a pattern")
    if not str(table["reason"]).strip():
        raise HostcheckError(f"{where}: {table['check']}: a reason is needed")
    waiver = Waiver(
        reason=str(table["reason"]), until=_date(table["until"], f"{where}: until"), by=str(table.get("by", ""))
    )
    return WaiverRule(table["check"], str(table.get("subject", "*")), waiver)


def _attestation(entry: object, rows: Sequence[str], where: str) -> Attestation:
    where = f"{where}: [[attest]]"
    table = _entry(entry, where, ("row", "answer", "by", "date"), ("note",))
    if table["row"] not in rows:
        raise HostcheckError(f"{where}: row {table['row']!r} is unknown{suggest(str(table['row']), rows)}")
    if not isinstance(table["answer"], bool):
        raise HostcheckError(f"{where}: answer must be true or false, not {table['answer']!r}")
    return Attestation(
        row=table["row"],
        answer=table["answer"],
        by=str(table["by"]),
        date=_date(table["date"], f"{where}: date"),
        note=str(table.get("note", "")),
    )


def _custom(entry: object, where: str) -> Check:
    where = f"{where}: [[check]]"
    table = _entry(entry, where, ("id", "title", "fact", "expect"), ("path", "severity", "why", "fix", "rows"))
    where = f"{where}: {table['id']}"
    if table["fact"] not in FACTS:
        raise HostcheckError(f"{where}: fact {table['fact']!r} is unknown{suggest(str(table['fact']), FACTS)}")
    if table.get("severity", "medium") not in list(Severity):
        raise HostcheckError(f"{where}: severity {table['severity']!r} is none of {', '.join(Severity)}")
    if not str(table["id"]).startswith("site."):
        raise HostcheckError(f"{where}: the id of a checklist's own check begins with 'site.'")
    path = table.get("path", [])
    if not isinstance(path, list) or not all(isinstance(step, str) for step in path):
        raise HostcheckError(f"{where}: path must be a list of texts, not {path!r}")
    matcher, kind = _free_matcher(table["expect"], where)
    key = _FreeKey(table["id"], kind)

    def judge(fact: object, _: Expect) -> Iterator[Finding]:
        expectation = Expectation(key, matcher, where.split(":")[0], str(table.get("why", "")) or where)
        for subject, value in walk(fact, path):
            seen = need(value)
            say = f"{'.'.join([table['fact'], *path])} is {seen}"
            yield expectation.judge(seen, say=say, subject=subject, fix=str(table.get("fix", "")), actor=Actor.OPERATOR)

    return Check(
        id=table["id"],
        title=str(table["title"]),
        rationale=str(table.get("why", "")),
        severity=Severity(table.get("severity", "medium")),
        needs=(FACTS[table["fact"]],),
        function=judge,
        rows=tuple(table.get("rows", ())),
        module=where,
    )


class _FreeKey(Key):
    """A key of one checklist's own check: not in the register."""

    def __init__(self, name: str, kind: type) -> None:
        for attribute, value in (
            ("name", name), ("kind", kind), ("unit", ""), ("words", ()), ("low", -float("inf")), ("high", float("inf")),
            ("cases", False), ("example", ""),
        ):  # fmt: skip
            object.__setattr__(self, attribute, value)


def _free_matcher(table: object, where: str) -> tuple[Matcher, type]:
    values = list(table.values()) if isinstance(table, dict) else [table]
    sample = values[0] if values else None
    sample = sample[0] if isinstance(sample, list) and sample else sample
    kind = bool if isinstance(sample, bool) else float if isinstance(sample, int | float) else str
    try:
        return parse_matcher(table, _FreeKey("expect", kind)), kind
    except HostcheckError as problem:
        raise HostcheckError(f"{where}: expect: {problem}") from None


def walk(value: Any, path: Sequence[str]) -> Iterator[tuple[str, Maybe[Any]]]:
    """Yield (subject, value) for what a path of attribute names, mapping keys and "*" leads to.

    A step that leads nowhere gives Unavailable, so that a typing error never looks like a pass.
    """
    if isinstance(value, list | tuple) and (not path or path[0] != "*"):
        path = ("*", *path)
    if not path:
        plain = value is None or isinstance(value, str | int | float | bool | Unavailable | NotApplicable)
        yield "", value if plain else Unavailable(f"the path ends at a {type(value).__name__}, not at a value")
        return
    step, rest = path[0], path[1:]
    if step == "*":
        elements = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, element in elements:
            for inner, found in walk(element, rest):
                yield inner or getattr(element, "subject", str(name)), found
    elif isinstance(value, Mapping):
        yield from walk(value[step], rest) if step in value else [("", Unavailable(f"there is no {step!r}"))]
    elif is_dataclass(value) and step in {field.name for field in fields(value)} | _properties(value):
        yield from walk(getattr(value, step), rest)
    else:
        yield "", Unavailable(f"there is no {step!r}")


def _properties(value: object) -> set[str]:
    return {name for name, member in vars(type(value)).items() if isinstance(member, property)}


def read_setting(text: str) -> Layer:
    """Read one `--set KEY=VALUE`, where VALUE is a TOML value or a word.

    Raises:
        HostcheckError: one line with what would be right.
    """
    name, equals, value = text.partition("=")
    name, value = name.strip(), value.strip()
    if not equals or not value:
        raise HostcheckError(f"--set {text!r}: KEY=VALUE is needed, such as memory.swappiness=10")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    return Layer("--set", {}, read_values({name: parsed}, "--set"))
