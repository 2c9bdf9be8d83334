"""What `--option NAME=VALUE` gives to benchmarks: which names they know, and which values they can use."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
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
        required: without it there is nothing to measure.
    """

    name: str
    value: str
    says: str
    fault: Callable[[str], str] = lambda _: ""
    required: bool = False

    @property
    def help(self) -> str:
        """How it is written, and what it does."""
        return f"--option {self.name}={self.value}: {self.says}"


def _folder_fault(text: str) -> str:
    try:
        return "" if text and Path(text).is_dir() else f"there is no folder {text!r}"
    except (OSError, ValueError) as problem:
        return f"{text!r} cannot be looked at: {problem}"


FOLDER = Option("path", "FOLDER", "the folder on the storage that is measured", _folder_fault, required=True)


def lacks(made: Bench, given: Container[str]) -> str:
    """Return which option a benchmark needs that is not among those given; an empty string where there is none."""
    return next((option.help for option in made.options if option.required and option.name not in given), "")


def read_options(
    texts: Sequence[str], chosen: Sequence[Bench], every: Mapping[str, Bench], names: Container[str] = ()
) -> dict[str, str]:
    """Return what the user set, by name.

    Args:
        texts: such as "path=/scratch".
        chosen: the benchmarks that are to run.
        every: the register.
        names: what the user named; whose very id is among these, has to get each option that it needs.

    Raises:
        HostcheckError: one is no NAME=VALUE, nothing that runs knows it, it cannot use the value, or one is not given
            that it needs; in one line.
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
    for made in chosen:
        if made.id in names and (needed := lacks(made, found)):
            raise HostcheckError(f"{made.id} needs {needed}")
    return found
