"""Matchers: what a value can be held against. Each decides about one value, and says in words what it wants."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from hostcheck.model import Scalar
from hostcheck.versions import version_key


class Matcher(Protocol):
    """Decides about one value, and says in words what it wants."""

    def matches(self, value: Scalar) -> bool:
        """Whether the value is as wanted."""
        ...

    def words(self, unit: str) -> str:
        """Return the wish, with the unit."""
        ...


def with_unit(value: Scalar, unit: str) -> str:
    """Return a value with its unit: thousands set off, no needless digits, yes and no for flags."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,} {unit}".strip() if abs(value) >= 10_000 else f"{value} {unit}".strip()
    return f"{value:g} {unit}".strip() if isinstance(value, float) else f"{value} {unit}".strip()


@dataclass(frozen=True, slots=True)
class Equals:
    """The value is this one."""

    value: Scalar

    def matches(self, value: Scalar) -> bool:
        return value == self.value and isinstance(value, bool) == isinstance(self.value, bool)

    def words(self, unit: str) -> str:
        return with_unit(self.value, unit)


@dataclass(frozen=True, slots=True)
class OneOf:
    """The value is one of these."""

    values: tuple[Scalar, ...]

    def matches(self, value: Scalar) -> bool:
        return value in self.values

    def words(self, unit: str) -> str:
        return " or ".join(with_unit(value, unit) for value in self.values)


@dataclass(frozen=True, slots=True)
class AtLeast:
    """The number is no lower."""

    value: float

    def matches(self, value: Scalar) -> bool:
        return isinstance(value, int | float) and value >= self.value

    def words(self, unit: str) -> str:
        return f"at least {with_unit(self.value, unit)}"


@dataclass(frozen=True, slots=True)
class AtMost:
    """The number is no higher."""

    value: float

    def matches(self, value: Scalar) -> bool:
        return isinstance(value, int | float) and value <= self.value

    def words(self, unit: str) -> str:
        return f"at most {with_unit(self.value, unit)}"


@dataclass(frozen=True, slots=True)
class Between:
    """The number is in a range, both ends included."""

    low: float
    high: float

    def matches(self, value: Scalar) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    def words(self, unit: str) -> str:
        return f"{with_unit(self.low, '')} to {with_unit(self.high, unit)}"


@dataclass(frozen=True, slots=True)
class VersionAtLeast:
    """The dotted version is no older; a part that is missing counts as 0, text behind the numbers is ignored."""

    value: str

    def matches(self, value: Scalar) -> bool:
        seen, wanted = version_key(str(value)), version_key(self.value)
        width = max(len(seen), len(wanted))
        return bool(seen) and seen + (0,) * (width - len(seen)) >= wanted + (0,) * (width - len(wanted))

    def words(self, unit: str) -> str:
        return f"version {self.value} or newer"


@dataclass(frozen=True, slots=True)
class Present:
    """There is a value, whatever it is."""

    def matches(self, value: Scalar) -> bool:
        return value is not None

    def words(self, unit: str) -> str:
        return "present"


@dataclass(frozen=True, slots=True)
class Absent:
    """There is none."""

    def matches(self, value: Scalar) -> bool:
        return value is None

    def words(self, unit: str) -> str:
        return "absent"


@dataclass(frozen=True, slots=True)
class Regex:
    """The text matches a regular expression as a whole."""

    value: str

    def matches(self, value: Scalar) -> bool:
        return re.fullmatch(self.value, str(value)) is not None

    def words(self, unit: str) -> str:
        return f"like {self.value}"
