"""The tree of an nvidia-smi report, and typed look-ups in it.

A path such as "ecc_mode/current_ecc" names an element; a text where a branch should be ("GPU is lost" in place of
all remapped rows) holds for everything below it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hostcheck.errors import Maybe, NotApplicable, Unavailable

PROBE = "gpu.smi"

_NONE_SUCH = ("n/a", "not supported", "not applicable", "not available in wddm driver model")
_FAULTS = (
    "gpu is lost",
    "err!",
    "unknown error",
    "gpu requires reset",
    "gpu requires restart",
    "timeout",
    "insufficient external power",
    "interrupt request issue",
    "inforom is corrupted",
)
_DENIED = ("insufficient permissions", "no permission")
_NO_ANSWER = (
    "", "not found", "function not found", "no data", "uninitialized", "invalid argument", "driver not loaded",
    "driver/library version mismatch", "operating system call failed", "argument version mismatch",
)  # fmt: skip

_TRUE = ("enabled", "yes", "on", "active", "true")
_FALSE = ("disabled", "no", "off", "not active", "false")
_NUMBER = re.compile(r"(-?\d{1,18})(\.\d{1,9})?\s*([^\s\d].{0,15})?")
_BUS_ID = re.compile(r"([0-9a-fA-F]{4,8}):([0-9a-fA-F]{2}):([0-9a-fA-F]{2})\.([0-7])")


@dataclass(slots=True)
class Node:
    """One element: its text, and its children by name."""

    name: str
    text: str = ""
    bus_id: str = ""
    children: dict[str, list[Node]] = field(default_factory=dict)

    def add(self, node: Node) -> None:
        """Append a child."""
        self.children.setdefault(node.name, []).append(node)

    def drop_last(self, name: str) -> None:
        """Remove the last child of a name."""
        self.children[name].pop()
        if not self.children[name]:
            del self.children[name]

    def child(self, name: str) -> Node | None:
        """Return the first child of a name."""
        return self.children.get(name, [None])[0]

    def leaves(self, path: str = "") -> Iterator[tuple[str, str]]:
        """Yield path and text of everything without children."""
        for name, nodes in self.children.items():
            for node in nodes:
                here = f"{path}/{name}" if path else name
                if node.children:
                    yield from node.leaves(here)
                else:
                    yield here, node.text.strip()


def normal_bus_id(text: str) -> str:
    """Return a PCI address as sysfs spells it, such as "0000:53:00.0", or an empty text if there is none."""
    found = _BUS_ID.search(text)
    return f"{int(found[1], 16):04x}:{found[2]}:{found[3]}.{found[4]}".lower() if found else ""


def _words(text: str) -> str:
    """Return the text without the brackets that some fields have around "N/A", and without case."""
    return text.strip().removeprefix("[").removesuffix("]").strip().lower()


def is_fault(text: str) -> bool:
    """Whether a value is an error of the GPU in place of a value."""
    return _words(text).startswith(_FAULTS)


def is_denied(text: str) -> bool:
    """Whether a value is kept from this user."""
    return _words(text).startswith(_DENIED)


def _value(text: str, path: str) -> Maybe[str]:
    """Return the text if it is a value, or why it is none."""
    words = _words(text)
    if words in _NONE_SUCH:
        return NotApplicable(f"nvidia-smi: {path} is N/A on this GPU")
    if "has been deprecated" in words:
        return Unavailable(f"nvidia-smi of this driver no longer shows {path}", PROBE)
    if words in _NO_ANSWER or is_fault(text) or is_denied(text):
        return Unavailable(f"nvidia-smi: {path}: {text.strip()[:100] or 'empty'}", PROBE)
    return text.strip()


def _mistaken(path: str, text: str, what: str) -> Unavailable:
    return Unavailable(f"nvidia-smi: {path}: {text[:60]!r} is {what}", PROBE)


@dataclass(frozen=True, slots=True)
class Reader:
    """Typed look-ups in one element. Of several paths the first with a value counts, else the first that is there."""

    node: Node

    def text(self, *paths: str) -> Maybe[str]:
        """Return an element's text."""
        reason: Maybe[str] | None = None
        for path in paths:
            for text in self._texts(path):
                value = _value(text, path)
                if isinstance(value, str):
                    return value
                reason = reason or value
        return reason or Unavailable(f"nvidia-smi: {paths[0]} is not in this output", PROBE)

    def _texts(self, path: str) -> Iterator[str]:
        """Yield the text at a path, in which "*" stands for any one element."""
        nodes = [self.node]
        named = True
        for part in path.split("/"):
            if named:
                yield from (node.text for node in nodes if not node.children and node.text.strip())
            named = part != "*"
            nodes = [
                child
                for node in nodes
                for name, children in node.children.items()
                if part in ("*", name)
                for child in children
            ]
        yield from (node.text for node in nodes if not node.children)

    def number(self, *paths: str, unit: str = "") -> Maybe[float]:
        """Return a number, whose unit must be the one that is asked for."""
        text = self.text(*paths)
        if not isinstance(text, str):
            return text
        found = _NUMBER.fullmatch(text)
        if found is None or (found[3] or "") != unit:
            return _mistaken(paths[0], text, f"no number{f' in {unit}' if unit else ''}")
        return float(found[1] + (found[2] or ""))

    def whole(self, *paths: str, unit: str = "") -> Maybe[int]:
        """Return a whole number."""
        text = self.text(*paths)
        if not isinstance(text, str):
            return text
        found = _NUMBER.fullmatch(text)
        if found is None or (found[3] or "") != unit or (found[2] or ".").strip(".0"):
            return _mistaken(paths[0], text, f"no whole number{f' in {unit}' if unit else ''}")
        return int(found[1])

    def flag(self, *paths: str) -> Maybe[bool]:
        """Return a yes or no, in any of nvidia-smi's ways to say so."""
        text = self.text(*paths)
        if not isinstance(text, str):
            return text
        if text.lower() in _TRUE:
            return True
        if text.lower() in _FALSE:
            return False
        return _mistaken(paths[0], text, "neither yes nor no")

    def has(self, path: str) -> bool:
        """Whether an element is there, whatever it holds."""
        node: Node | None = self.node
        for part in path.split("/"):
            node = node.child(part) if node else None
        return node is not None

    def table(self, path: str, names: Mapping[str, str], unit: str = "") -> Maybe[Mapping[str, int]]:
        """Return several counts, name to element below the path, as one mapping; one missing makes all missing."""
        values = {name: self.whole(f"{path}/{element}", unit=unit) for name, element in names.items()}
        reasons = [value for value in values.values() if not isinstance(value, int)]
        if reasons:
            return next((reason for reason in reasons if isinstance(reason, Unavailable)), reasons[0])
        return {name: value for name, value in values.items() if isinstance(value, int)}


def added(values: Sequence[Maybe[int]]) -> Maybe[int]:
    """Return the sum of what applies; what could not be read makes the sum unavailable."""
    missing = next((value for value in values if isinstance(value, Unavailable)), None)
    if missing is not None:
        return missing
    known = [value for value in values if isinstance(value, int)]
    return sum(known) if known else next(value for value in values if not isinstance(value, int))
