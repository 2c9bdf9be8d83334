"""`choose()`: the value that a tuner writes, out of the expectation that the observed value does not satisfy."""

from __future__ import annotations

import math

from hostcheck.expect import Expectation
from hostcheck.matchers import AtLeast, AtMost, Between, Equals, OneOf
from hostcheck.model import Scalar


class Unsettled(Exception):
    """An expectation that is not satisfied names no single value that could be written.

    Attributes:
        why: one line that says so, and what to do instead.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def choose(wanted: Expectation, observed: Scalar) -> Scalar:
    """Return the value to be written: the observed one where it satisfies the expectation, else the nearest that does.

    Of words, the nearest is the first that the layer names. Of numbers it is the bound, or the listed number next to
    the observed one; where the key is a whole number, so is the result.

    Raises:
        Unsettled: the expectation accepts many values, and none of them follows from it (a pattern, a version).
    """
    if wanted.matcher.matches(observed):
        return observed
    value = _nearest(wanted, observed)
    if value is None or not wanted.matcher.matches(value):
        words = wanted.view.text
        raise Unsettled(f"{words} ({wanted.layer}) names no value that could be set: expect one by equals")
    return value


def _nearest(wanted: Expectation, observed: Scalar) -> Scalar:
    match wanted.matcher:
        case Equals(value):
            return value
        case OneOf(values):
            return _closest(values, observed)
        case AtLeast(value):
            return math.ceil(value) if wanted.key.kind is int else value
        case AtMost(value):
            return math.floor(value) if wanted.key.kind is int else value
        case Between(low, high):
            below = isinstance(observed, int | float) and observed < low
            if wanted.key.kind is int:
                return math.ceil(low) if below else math.floor(high)
            return low if below else high
    return None


def _closest(values: tuple[Scalar, ...], observed: Scalar) -> Scalar:
    if isinstance(observed, bool) or not isinstance(observed, int | float):
        return values[0]
    seen = observed
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return min(numbers, key=lambda value: abs(value - seen)) if numbers else values[0]
