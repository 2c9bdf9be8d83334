"""What ought to be the same on equal hosts: versions, firmware, settings and the shape of the machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from hostcheck.errors import Maybe, NotApplicable, Unavailable, need
from hostcheck.facts.base import Facts
from hostcheck.fleet.traits import READERS, sysctls
from hostcheck.model import Difference
from hostcheck.render.fleet_group import NOT_READ
from hostcheck.render.safe import clip

Value: TypeAlias = str | tuple[str, ...] | float
"""A text; the parts of a list, of which only those are told that hosts do not share; or a size in KiB."""
Values = Mapping[str, Value]

NONE = "none"
"""Stands where a host has no such thing, or the same list as the shared one."""
_LONGEST, _PARTS = 500, 500
_NEAR_KIB, _NEAR_SHARE = 2**20, 0.005
"""Sizes of memory this near to each other are the same: what the kernel keeps for itself differs a little."""


def values(facts: Facts) -> dict[str, Value]:
    """Return a host's values by label. Never raises: NOT_READ and NONE say why there is none."""
    found: dict[str, Value] = {}
    for label, read in READERS.items():
        try:
            found[label] = _bounded(read(facts))
        except NotApplicable:
            found[label] = NONE
        except Exception:
            found[label] = NOT_READ
    try:
        settings: Mapping[str, Maybe[str]] = sysctls(facts)
    except Exception:
        settings = {}
    return found | {name: _setting(value) for name, value in settings.items()}


def _setting(value: Maybe[str]) -> str:
    try:
        return " ".join(need(value).split())[:_LONGEST]
    except NotApplicable:
        return NONE
    except Unavailable:
        return NOT_READ


def _bounded(value: Value) -> Value:
    if isinstance(value, str):
        return clip(" ".join(value.split()), _LONGEST)
    if isinstance(value, tuple):
        return tuple(clip(part, _LONGEST) for part in value[:_PARTS])
    return value


def differences(groups: Mapping[str, Sequence[str]], hosts: Mapping[str, Values]) -> tuple[Difference, ...]:
    """Return what differs within each group of equal hosts, in the order of the labels.

    Args:
        groups: label to hosts.
        hosts: the values of each host. A label that a host lacks was not read there.
    """
    found: list[Difference] = []
    for group, names in groups.items():
        labels = dict.fromkeys(label for name in names for label in hosts.get(name, {}))
        for label in labels:
            own = {name: hosts.get(name, {}).get(label, NOT_READ) for name in names}
            if len(set(own.values())) > 1:
                found += _difference(label, group, _texts(own))
    return tuple(found)


def _difference(label: str, group: str, texts: Mapping[str, str]) -> Iterator[Difference]:
    """Yield the difference, if there is one: the value that most hosts have, at a tie the one of the first host."""
    holders: dict[str, list[str]] = {}
    for name, text in texts.items():
        holders.setdefault(text, []).append(name)
    unread = holders.pop(NOT_READ, [])
    if not holders:
        return
    majority = max(holders, key=lambda text: len(holders[text]))
    most = holders.pop(majority)
    minorities = {text: tuple(holders[text]) for text in sorted(holders, key=lambda text: (-len(holders[text]), text))}
    if unread:
        minorities[NOT_READ] = tuple(unread)
    if minorities:
        yield Difference(fact=label, group=group, majority=majority, majority_hosts=len(most), minorities=minorities)


def _texts(own: Mapping[str, Value]) -> dict[str, str]:
    """Return each host's value as a text that is equal where the values are."""
    near = _near(value for value in own.values() if isinstance(value, float))
    lists = [frozenset(value) for value in own.values() if isinstance(value, tuple)]
    shared = frozenset.intersection(*lists) if lists else frozenset()
    texts = {}
    for name, value in own.items():
        if isinstance(value, float):
            texts[name] = near[value]
        elif isinstance(value, tuple):
            texts[name] = clip(" ".join(sorted(set(value) - shared)), _LONGEST) or NONE
        else:
            texts[name] = value
    return texts


def _near(sizes: Iterable[float]) -> dict[float, str]:
    """Return a text for each size in KiB; sizes that differ by no more than the kernel's own share have the same."""
    texts: dict[float, str] = {}
    last, text = 0.0, ""
    for size in sorted(set(sizes)):
        if not text or size - last > max(_NEAR_KIB, last * _NEAR_SHARE):
            text = f"{size / 2**20:.1f} GiB"
        texts[size] = text
        last = size
    return texts
