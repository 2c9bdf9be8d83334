"""Folding many names into few: gpu0 to gpu7 become gpu[0-7], as ClusterShell writes node sets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# Bounded, so that no host can make us parse a number of a million digits.
_NUMBER = re.compile(r"([0-9]{1,9})")
# Bus, device and domain are hexadecimal: [79-80] would not say that 7a is left out. Only the function is folded.
_PCI = re.compile(r"((?:[0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.)([0-7])")

_Box = tuple[tuple[str, ...], tuple[frozenset[str], ...]]


def fold(subjects: Iterable[str]) -> list[str]:
    """Return as few names as the subjects can be written with, in natural order; together they say the same.

    Several numbers in a name are folded each by itself: gpu0/link0 to gpu7/link17 become gpu[0-7]/link[0-17].
    """
    shapes: dict[tuple[str, ...], set[tuple[frozenset[str], ...]]] = {}
    for subject in subjects:
        address = _PCI.fullmatch(subject)
        parts = [address[1], address[2], ""] if address else _NUMBER.split(subject)
        shapes.setdefault(tuple(parts[::2]), set()).add(tuple(frozenset({digits}) for digits in parts[1::2]))
    boxes: list[_Box] = []
    for texts, points in shapes.items():
        merged = points
        for dimension in reversed(range(len(texts) - 1)):
            merged = _merge(merged, dimension)
        boxes += [(texts, box) for box in merged]
    return [_written(box) for box in sorted(boxes, key=_order)]


def fold_line(subjects: Sequence[str], most: int = 12) -> str:
    """Return the folded subjects in one line, the last ones as a number where there are too many."""
    names = fold(subjects)
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"


def _merge(boxes: set[tuple[frozenset[str], ...]], dimension: int) -> set[tuple[frozenset[str], ...]]:
    """Join the boxes that differ in one dimension only."""
    rest: dict[tuple[frozenset[str], ...], frozenset[str]] = {}
    for box in boxes:
        others = box[:dimension] + box[dimension + 1 :]
        rest[others] = rest.get(others, frozenset()) | box[dimension]
    return {(*others[:dimension], joined, *others[dimension:]) for others, joined in rest.items()}


def _order(box: _Box) -> tuple[tuple[str, int], ...]:
    texts, sets = box
    lowest = [min(map(int, numbers)) for numbers in sets]
    return tuple(zip(texts, [*lowest, -1], strict=True))


def _written(box: _Box) -> str:
    texts, sets = box
    return "".join(text + ranges for text, ranges in zip(texts, [*map(_ranges, sets), ""], strict=True))


def _ranges(numbers: frozenset[str]) -> str:
    if len(numbers) == 1:
        return next(iter(numbers))
    padded = {len(digits) for digits in numbers if len(digits) > 1 and digits.startswith("0")}
    runs: list[list[tuple[int, int, str]]] = []
    for width, number, digits in sorted((len(d) if len(d) in padded else 0, int(d), d) for d in numbers):
        if runs and runs[-1][-1][:2] == (width, number - 1):
            runs[-1].append((width, number, digits))
        else:
            runs.append([(width, number, digits)])
    return f"[{','.join(run[0][2] if len(run) == 1 else f'{run[0][2]}-{run[-1][2]}' for run in runs)}]"
