"""What `--option NAME=VALUE` gives to benchmarks: which names they know, and which values they can use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hostcheck.errors import HostcheckError
from hostcheck.expect import suggest

if TYPE_CHECKING:
    from hostcheck.registry import Bench


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a benchmark.

    Attributes:
        name: as the user writes it.
        value: what stands for the value in help, such as "FOLDER".
        says: what it does, in one line.
        fault: returns what is wrong with a value; an empty string where nothing is.
    """

    name: str
    value: str
    says: str
    fault: Callable[[str], str] = lambda _: ""


def _folder_fault(text: str) -> str:
    try:
        return "" if text and Path(text).is_dir() else f"there is no folder {text!r}"
    except (OSError, ValueError) as problem:
        return f"{text!r} cannot be looked at: {problem}"


FOLDER = Option("path", "FOLDER", "the folder on the storage that is measured", _folder_fault)


def read_options(texts: Sequence[str], chosen: Sequence[Bench], every: Mapping[str, Bench]) -> dict[str, str]:
    """Return what the user set, by name.

    Args:
        texts: such as "path=/scratch".
        chosen: the benchmarks that are to run.
        every: the register.

    Raises:
        HostcheckError: one is no NAME=VALUE, nothing that runs knows it, or it cannot use the value; in one line.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise HostcheckError(f"--option {text!r}: NAME=VALUE is needed, such as path=/scratch")
        if name in found:
            raise HostcheckError(f"--option {name} was given twice")
        takers = [made.id for made in every.values() if any(option.name == name for option in made.options)]
        own = [option for made in chosen for option in made.options if option.name == name]
        if not takers:
            known = sorted({option.name for made in every.values() for option in made.options})
            hint = suggest(name, known) or f" (there are: {', '.join(known)})"
            raise HostcheckError(
                f"--option {name}: no benchmark has such an option{hint}; hostcheck bench explain NAME lists them"
            )
        if not own:
            raise HostcheckError(f"--option {name}: of what runs nothing takes it; {', '.join(sorted(takers))} would")
        if fault := next(filter(None, (option.fault(value) for option in own)), ""):
            raise HostcheckError(f"--option {name}: {fault}")
        found[name] = value
    return found
