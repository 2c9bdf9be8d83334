"""Matchers, keys and layers."""

from __future__ import annotations

import re

import pytest

from hostcheck.checklist import read_setting
from hostcheck.errors import HostcheckError
from hostcheck.expect import (
    KEYS,
    Expect,
    ExpectationMissing,
    Key,
    Layer,
    parse_matcher,
    read_layer,
)
from hostcheck.versions import version_key

WATTS = Key("test.watts", float, "W", high=2000)
COUNT = Key("test.count", int)
WORD = Key("test.word", str, words=("always", "madvise", "never"))
FLAG = Key("test.flag", bool)
VERSION = Key("test.version", str)
SHARE = Key("test.share", float, "%", high=100, cases=True, example="[a b]={ at_least = 90 }")


@pytest.mark.parametrize(
    ("key", "table", "good", "bad", "words"),
    [
        (COUNT, 0, 0, 1, "0"),
        (COUNT, {"at_most": 10}, 0, 11, "at most 10"),
        (WATTS, {"at_least": 700}, 700.0, 699.9, "at least 700 W"),
        (WATTS, {"between": [1, 2]}, 2, 2.1, "1 to 2 W"),
        (WORD, {"one_of": ["always", "madvise"]}, "madvise", "never", "always or madvise"),
        (FLAG, True, True, False, "yes"),
        (VERSION, {"version_at_least": "570.86"}, "570.124.06", "570.85.99", "version 570.86 or newer"),
        (VERSION, {"version_at_least": "2.25"}, "2.25.0", "2.9", "version 2.25 or newer"),
        (VERSION, {"regex": "5[78]0\\..*"}, "580.1", "590.1", "like 5[78]0\\..*"),
        (VERSION, {"present": True}, "x", None, "present"),
        (VERSION, {"absent": True}, None, "x", "absent"),
    ],
)
def test_a_matcher_decides_and_says_what_it_wants(key, table, good, bad, words) -> None:
    matcher = parse_matcher(table, key)
    assert matcher.matches(good)
    assert not matcher.matches(bad)
    assert matcher.words(key.unit) == words


def test_zero_is_no_flag_and_a_flag_is_no_number() -> None:
    assert not parse_matcher(False, FLAG).matches(0)
    assert not parse_matcher(1, COUNT).matches(True)


def test_a_missing_value_never_matches_a_number() -> None:
    assert not parse_matcher({"at_least": 0}, COUNT).matches(None)
    assert not parse_matcher({"at_most": 5}, COUNT).matches(None)


@pytest.mark.parametrize(
    ("key", "table", "complaint"),
    [
        (WATTS, {"at_least": "700 W"}, "a number of W is needed, without quotes and unit: 700"),
        (WATTS, {"at_least": 700_000}, "is it in another unit?"),
        (WATTS, {"at_leats": 700}, "did you mean 'at_least'?"),
        (WATTS, {"at_least": 1, "at_most": 2}, "exactly one matcher"),
        (WATTS, {"between": [2, 1]}, "the lower number comes first"),
        (WATTS, {"between": 2}, "takes a list of two numbers"),
        (WORD, {"one_of": ["alway"]}, "is none of always, madvise, never"),
        (WORD, {"at_least": "always"}, "needs a key that is a number"),
        (FLAG, 1, "true or false is needed"),
        (VERSION, {"version_at_least": "new"}, "is no version"),
        (VERSION, {"regex": "("}, "regex"),
        (COUNT, True, "a number is needed"),
    ],
)
def test_a_wrong_expectation_is_refused_with_what_would_be_right(key, table, complaint) -> None:
    with pytest.raises(HostcheckError, match=complaint.replace("?", r"\?")):
        parse_matcher(table, key)


def test_a_layer_names_file_key_and_neighbour() -> None:
    with pytest.raises(HostcheckError, match=r'site.toml: \[expect\] "test.wats": no check reads .*test.watts'):
        read_layer('[expect]\n"test.wats" = 1', "site.toml")
    with pytest.raises(HostcheckError, match=r"site.toml: unknown table \[expects\]; did you mean 'expect'"):
        read_layer("[expects]", "site.toml")
    with pytest.raises(HostcheckError, match=r"site\.toml: not TOML"):
        read_layer("[expect", "site.toml")
    with pytest.raises(HostcheckError, match=r"site.toml: \[match\] pcie: unknown; did you mean 'pci'"):
        read_layer('[match]\npcie = "10de:2330"', "site.toml")


@pytest.mark.parametrize("value", ["78", "78.5", "{ equals = 78 }", "{ one_of = [78, 79] }"])
def test_a_measured_number_is_held_against_a_bound_and_never_against_a_number(value: str) -> None:
    """Nothing that is measured comes out at exactly 78 %: 91.5 % would fail, and the rest would pass by chance."""
    form = re.escape("{ at_least = 78")
    with pytest.raises(HostcheckError, match=rf"^site.toml: .*never quite .*write \"test.share\[a b\]\" = {form}"):
        read_layer(f'[expect]\n"test.share[a b]" = {value}', "site.toml")
    with pytest.raises(HostcheckError, match=rf"never quite .*write --set 'test.share={form}[^\n]*$"):
        read_setting(f"test.share={value}")
    with pytest.raises(HostcheckError, match="a number of % is needed"):
        read_setting("test.share=much")
    for right in ("{ at_least = 78 }", "{ at_most = 78 }", "{ between = [78, 90] }"):
        assert read_setting(f"test.share[a b]={right}").values.keys() == {"test.share[a b]"}


def test_later_layers_win_and_say_so() -> None:
    layers = [
        read_layer('[expect]\n"test.watts" = { at_least = 1, source = "a" }', "defaults"),
        read_layer('[match]\npci = ["10de:2330"]\n[expect]\n"test.watts" = { at_least = 700, source = "b" }', "gpu/h"),
        read_layer('[match]\npci = ["10de:9999"]\n[expect]\n"test.watts" = { at_least = 9, source = "c" }', "gpu/x"),
    ]
    expect = Expect(layers, {"arch": "x86_64"}, ("test.watts",))
    assert expect(WATTS).layer == "defaults"
    own = expect.of({"pci": "10de:2330"})(WATTS)
    assert (own.layer, own.source, own.view.text) == ("gpu/h", "b", "at least 700 W")


def test_nothing_expected_is_no_verdict() -> None:
    with pytest.raises(ExpectationMissing):
        Expect([Layer("x", {}, {})], {}, ("test.count",))(COUNT)
    with pytest.raises(ValueError, match="does not declare"):
        Expect([], {}, ())(COUNT)


def test_versions_compare_by_number() -> None:
    assert version_key("v570.124.06-1ubuntu") == (570, 124, 6)
    assert version_key("R570") == (570,)
    assert version_key("none") == ()
    assert version_key("") == ()


def test_a_key_is_defined_once() -> None:
    with pytest.raises(ValueError, match=r"two expectation keys are named test\.watts"):
        Key("test.watts", int)
    assert KEYS["test.watts"] is WATTS
