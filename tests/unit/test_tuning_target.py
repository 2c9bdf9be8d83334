"""The value that is written, out of each sort of expectation."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.expect import KEYS, Expectation, Key, parse_matcher
from hostcheck.tuning.target import Unsettled, choose


def key(kind: type) -> Key:
    name = f"test.target-{kind.__name__}"
    return KEYS[name] if name in KEYS else Key(name, kind, low=-1e9)


def wanted(kind: type, matcher: Any) -> Expectation:
    return Expectation(key(kind), parse_matcher(matcher, key(kind)), "site", "a source")


@pytest.mark.parametrize(
    ("kind", "matcher", "observed", "value"),
    [
        (int, 0, 1, 0),
        (int, {"equals": 0}, 0, 0),
        (int, {"at_least": 10}, 3, 10),
        (int, {"at_least": 10}, 30, 30),
        (int, {"at_least": 2.5}, 1, 3),
        (int, {"at_most": 2.5}, 9, 2),
        (int, {"between": [5, 9]}, 1, 5),
        (int, {"between": [5, 9]}, 100, 9),
        (int, {"one_of": [0, 1]}, 2, 1),
        (int, {"one_of": [0, 100]}, 30, 0),
        (float, {"at_most": 0}, 16.0, 0),
        (str, {"one_of": ["madvise", "never"]}, "always", "madvise"),
        (str, {"one_of": ["madvise", "never"]}, "never", "never"),
        (str, {"present": True}, "on", "on"),
        (bool, False, True, False),
        (bool, True, True, True),
    ],
)
def test_the_nearest_value_that_is_as_expected(kind: type, matcher: Any, observed: Any, value: Any) -> None:
    assert choose(wanted(kind, matcher), observed) == value
    assert type(choose(wanted(kind, matcher), observed)) in (type(value), type(observed))


@pytest.mark.parametrize(
    ("kind", "matcher", "observed"),
    [
        (str, {"regex": "mad.*"}, "always"),
        (str, {"version_at_least": "2.0"}, "1.0"),
        (str, {"absent": True}, "on"),
        (str, {"present": True}, None),
        (int, {"between": [1.2, 1.8]}, 9),
    ],
)
def test_where_no_value_follows_it_says_so(kind: type, matcher: Any, observed: Any) -> None:
    with pytest.raises(Unsettled, match="names no value that could be set"):
        choose(wanted(kind, matcher), observed)


@given(st.integers(-1000, 1000), st.integers(-1000, 1000), st.integers(-1000, 1000))
def test_what_is_chosen_is_as_expected_and_no_farther_than_needed(low: int, high: int, observed: int) -> None:
    low, high = sorted((low, high))
    value = choose(wanted(int, {"between": [low, high]}), observed)
    assert isinstance(value, int)
    assert low <= value <= high
    assert abs(value - observed) == min(abs(x - observed) for x in range(low, high + 1))
