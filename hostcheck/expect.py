"""Expectations: the keys that checks read, and the layers that set matchers for them, each with its source."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

from hostcheck.errors import HostcheckError
from hostcheck.matchers import (
    Absent,
    AtLeast,
    AtMost,
    Between,
    Equals,
    Matcher,
    OneOf,
    Present,
    Regex,
    VersionAtLeast,
    with_unit,
)
from hostcheck.model import Actor, Expected, Finding, Scalar, Status
from hostcheck.versions import version_key


class ExpectationMissing(Exception):
    """No layer sets this key for this hardware: without an expected value there is no verdict."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


KEYS: dict[str, Key] = {}


def key_of(name: str) -> str:
    """Return the key that a layer sets, without the case that it may set it for: "bench.gemm[gemm.bf16]" is of one."""
    return name.partition("[")[0]


@dataclass(frozen=True, slots=True)
class Key:
    """A name that layers may set and checks may read, with the type that keeps units apart.

    Attributes:
        name: the check that reads it, and, where it reads several, a last word of its own.
        kind: str, int, float or bool: the type of the observed value.
        unit: the unit of a number, such as "W" or "KiB"; empty for a bare count or a word, and where the case decides.
        words: the only words that the value can take, if they are few.
        low, high: bounds outside of which a number is in another unit or impossible.
        cases: layers may also set it for one of several cases, as "NAME[CASE]": of any, or of those whose first word is
            like one of these patterns, such as "hbm.*".
        example: of a number that is measured, and comes out a little different each time, so that only bounds can hold
            it: what follows the name in a setting, such as "[hbm.triad]={ at_least = 90 }".
    """

    name: str
    kind: type
    unit: str = ""
    words: tuple[str, ...] = ()
    low: float = 0.0
    high: float = float("inf")
    cases: bool | tuple[str, ...] = False
    example: str = ""

    def __post_init__(self) -> None:
        if self.name in KEYS:
            raise ValueError(f"two expectation keys are named {self.name}")
        KEYS[self.name] = self

    @property
    def patterns(self) -> tuple[str, ...]:
        """What the first words of its cases are like."""
        return self.cases if isinstance(self.cases, tuple) else ("*",) if self.cases else ()

    def has_case(self, case: str) -> bool:
        """Whether a case can be one of this key's: of "hbm.*" are "hbm.triad", "hbm.triad 1 GiB", and "hbm" for all."""
        word = case.partition(" ")[0]
        return any(fnmatchcase(word, pattern) or pattern == f"{word}.*" for pattern in self.patterns)

    def fault(self, value: object) -> str:
        """Return what is wrong with a value for this key, or an empty string."""
        if self.kind is bool:
            return "" if isinstance(value, bool) else f"true or false is needed, not {value!r}"
        if self.kind is str:
            if not isinstance(value, str):
                return f"a text is needed, not {value!r}"
            if self.words and value not in self.words:
                return f"{value!r} is none of {', '.join(self.words)}"
            return ""
        if isinstance(value, bool) or not isinstance(value, int | float):
            number = re.match(r"\s*-?\d+(\.\d+)?", value) if isinstance(value, str) else None
            unit = f" of {self.unit}" if self.unit else ""
            hint = f", without quotes and unit: {number[0].strip()}" if number else ""
            return f"a number{unit} is needed{hint}, not {value!r}"
        if not self.low <= value <= self.high:
            unit = f" {self.unit}" if self.unit else ""
            return f"{value}{unit} is outside {self.low:g} to {self.high:g}{unit}; is it in another unit?"
        return ""


MATCHERS = (
    "equals", "one_of", "at_least", "at_most", "between", "version_at_least", "present", "absent", "regex",
)  # fmt: skip


def parse_matcher(table: object, key: Key) -> Matcher:
    """Build the matcher that a TOML value describes; a bare value means equals.

    Raises:
        HostcheckError: with what is wrong and what would be right.
    """
    if not isinstance(table, dict):
        table = {"equals": table}
    names = [name for name in table if name not in ("source", "why")]
    unknown = [name for name in names if name not in MATCHERS]
    if unknown:
        raise HostcheckError(f"{unknown[0]!r} is no matcher{suggest(unknown[0], MATCHERS)}")
    if len(names) != 1:
        raise HostcheckError(f"exactly one matcher is needed ({', '.join(MATCHERS)}), found {len(names)}")
    name, value = names[0], table[names[0]]
    if name in ("present", "absent"):
        if value is not True:
            raise HostcheckError(f"{name} takes true, not {value!r}")
        return Present() if name == "present" else Absent()
    if name in ("version_at_least", "regex"):
        return _text_matcher(name, value, key)
    values = value if name in ("one_of", "between") else [value]
    if not isinstance(values, list) or not values or (name == "between" and len(values) != 2):
        raise HostcheckError(f"{name} takes a list{' of two numbers' if name == 'between' else ''}, not {value!r}")
    for item in values:
        if fault := key.fault(item):
            raise HostcheckError(f"{name}: {fault}")
    if name in ("at_least", "at_most", "between") and key.kind not in (int, float):
        raise HostcheckError(f"{name} needs a key that is a number, and {key.name} is not")
    if name == "between" and values[0] > values[1]:
        raise HostcheckError(f"between: {values[0]} is above {values[1]}; the lower number comes first")
    built: dict[str, Any] = {"equals": Equals, "at_least": AtLeast, "at_most": AtMost}
    if name == "one_of":
        return OneOf(tuple(values))
    if name == "between":
        return Between(values[0], values[1])
    return built[name](value)  # type: ignore[no-any-return]


def _text_matcher(name: str, value: object, key: Key) -> Matcher:
    if not isinstance(value, str) or key.kind is not str:
        raise HostcheckError(f"{name} takes a text in quotes and a key that is a text ({key.name})")
    if name == "version_at_least":
        if not version_key(value):
            raise HostcheckError(f"version_at_least: {value!r} is no version such as 570.86")
        return VersionAtLeast(value)
    try:
        re.compile(value)
    except re.error as problem:
        raise HostcheckError(f"regex: {value!r}: {problem}") from None
    return Regex(value)


def suggest(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" for a word that is close to a known one, else nothing."""
    close = get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


@dataclass(frozen=True, slots=True)
class Layer:
    """A named set of expectations, and where it holds.

    Attributes:
        name: such as "defaults", "role/training" or the path of a site file.
        match: facts of the host or the GPU that must all be equal, such as {"pci": ("10de:2330",)}.
        values: key to matcher and source.
    """

    name: str
    match: Mapping[str, tuple[str, ...]]
    values: Mapping[str, tuple[Matcher, str]]

    def holds(self, traits: Mapping[str, str]) -> bool:
        """Whether the layer is for hardware with these traits."""
        return all(traits.get(name) in allowed for name, allowed in self.match.items())


TRAITS = ("pci", "gpu_arch", "arch", "platform", "vendor", "product", "form", "ranks", "transport", "algorithm")
"""What a layer's [match] may name: a GPU's PCI id and architecture, the CPU's, the platform, and what DMI tells; of a
measurement, how many GPUs took part, by which way they talked and by which algorithm."""


def read_values(table: object, where: str) -> dict[str, tuple[Matcher, str]]:
    """Read an [expect] table.

    Raises:
        HostcheckError: naming `where`, the key and what would be right.
    """
    if not isinstance(table, dict):
        raise HostcheckError(f"{where}: [expect] must be a table")
    values: dict[str, tuple[Matcher, str]] = {}
    for name, entry in table.items():
        key, case = key_of(name), name.partition("[")[2]
        if key not in KEYS:
            raise HostcheckError(f'{where}: [expect] "{name}": no check reads this key{suggest(key, KEYS)}')
        if case and not (KEYS[key].cases and case.endswith("]")):
            raise HostcheckError(f'{where}: [expect] "{name}": {key} has no cases')
        if case and not KEYS[key].has_case(case[:-1]):
            known = ", ".join(KEYS[key].patterns)
            raise HostcheckError(f'{where}: [expect] "{name}": {key} judges only {known}')
        try:
            matcher = parse_matcher(entry, KEYS[key])
        except HostcheckError as problem:
            raise HostcheckError(f'{where}: [expect] "{name}": {problem}') from None
        if KEYS[key].example and isinstance(matcher, Equals | OneOf):
            value = matcher.value if isinstance(matcher, Equals) else matcher.values[0]
            bound = f"{{ {'at_most' if 'at_most' in KEYS[key].example else 'at_least'} = {value} }}"
            form = f"--set '{name}={bound}'" if where == "--set" else f'"{name}" = {bound}'
            raise HostcheckError(
                f'{where}: [expect] "{name}": what is measured is never quite {value}; write {form}'
                " (at_most where less is better, else at_least)"
            )
        source = entry.get("source", "") if isinstance(entry, dict) else ""
        values[name] = (matcher, str(source) or where)
    return values


def read_layer(text: str, name: str) -> Layer:
    """Read one layer file.

    Raises:
        HostcheckError: one line that names the file, the key and what would be right.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise HostcheckError(f"{name}: not TOML: {problem}") from None
    for word in table:
        if word not in ("match", "expect"):
            raise HostcheckError(f"{name}: unknown table [{word}]{suggest(word, ('match', 'expect'))}")
    match: dict[str, tuple[str, ...]] = {}
    for trait, allowed in table.get("match", {}).items():
        if trait not in TRAITS:
            raise HostcheckError(f"{name}: [match] {trait}: unknown{suggest(trait, TRAITS)}")
        match[trait] = tuple(allowed) if isinstance(allowed, list) else (allowed,)
    return Layer(name, match, read_values(table.get("expect", {}), name))


@cache
def shipped_layer(name: str) -> Layer:
    """Return a layer of ours by name, such as "defaults" or "role/inference"."""
    return read_layer((files("hostcheck.layers") / f"{name.replace('/', '-')}.toml").read_text("utf-8"), name)


def shipped_names(kind: str) -> list[str]:
    """Return the names of our layers of a kind, such as "role" or "platform"."""
    names = sorted(entry.name for entry in files("hostcheck.layers").iterdir())
    return [f"{kind}/{name[len(kind) + 1 : -5]}" for name in names if name.startswith(f"{kind}-")]


@dataclass(frozen=True, slots=True)
class Expectation:
    """What one value is held against.

    Attributes:
        name: the key as the layer sets it, with the case.
        unit: of the number, where the case decides it, and not the key.
    """

    key: Key
    matcher: Matcher
    layer: str
    source: str
    name: str = ""
    unit: str = ""

    @property
    def view(self) -> Expected:
        """The form in which a finding carries it."""
        unit = self.unit or self.key.unit
        return Expected(
            text=self.matcher.words(unit), key=self.key.name, layer=self.layer, source=self.source, unit=unit
        )

    def judge(
        self,
        observed: Scalar,
        *,
        say: str = "",
        subject: str = "",
        fix: str = "",
        actor: Actor = Actor.OPERATOR,
        source: str = "",
    ) -> Finding:
        """Return a pass, or a failure with its fix.

        Args:
            observed: the value, in the key's unit.
            say: the finding's line; it should hold for a pass as for a failure, since it states what is so.
            subject: who was judged, where the engine does not know it.
            fix: the exact commands that would mend a failure.
            actor: who carries them out.
            source: where the value was read.
        """
        good = self.matcher.matches(observed)
        line = say or f"{self.key.name.split('.', 1)[1].replace('-', ' ')} is {with_unit(observed, self.key.unit)}"
        return Finding(
            status=Status.PASS if good else Status.FAIL,
            subject=subject,
            summary=line,
            observed=observed,
            expected=self.view,
            fix="" if good else fix,
            actor=None if good else actor,
            source=source,
        )


@dataclass(frozen=True, slots=True)
class Expect:
    """The expectations of one check: call it with a key. Later layers win over earlier ones."""

    layers: Sequence[Layer]
    traits: Mapping[str, str]
    declared: tuple[str, ...] = ()

    def of(self, traits: Mapping[str, str]) -> Expect:
        """Return the expectations for one piece of hardware of the host, such as a GPU."""
        return replace(self, traits={**self.traits, **traits})

    def __call__(self, key: Key, *cases: str) -> Expectation:
        """Return what the last layer that holds here says.

        Args:
            key: what is asked for.
            cases: for a key with cases, the names of this one, the most telling first; within a layer, the first
                that it sets wins, and the key without a case comes last.

        Raises:
            ExpectationMissing: none says anything.
        """
        if key.name not in self.declared:
            raise ValueError(f"the check does not declare that it reads {key.name}")
        names = (*(f"{key.name}[{case}]" for case in cases), key.name)
        for layer in reversed(self.layers):
            found = next((name for name in names if name in layer.values), None)
            if found is not None and layer.holds(self.traits):
                matcher, source = layer.values[found]
                return Expectation(key, matcher, layer.name, source, name=found)
        raise ExpectationMissing(names[0])


def passed(summary: str, observed: Scalar = None, *, subject: str = "", source: str = "") -> Finding:
    """Return a pass that no expectation was needed for."""
    return Finding(status=Status.PASS, summary=summary, observed=observed, subject=subject, source=source)


def failed(
    summary: str,
    observed: Scalar = None,
    *,
    subject: str = "",
    wanted: str = "",
    fix: str = "",
    actor: Actor = Actor.OPERATOR,
    source: str = "",
) -> Finding:
    """Return a failure whose right value follows from the host itself; `wanted` says which and why."""
    expected = Expected(text=wanted, key="", layer="host", source="the host's own state") if wanted else None
    return Finding(
        status=Status.FAIL,
        summary=summary,
        observed=observed,
        subject=subject,
        expected=expected,
        fix=fix,
        actor=actor,
        source=source,
    )
