"""Showing what was judged: which form, where to, and the exit code that it means."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hostcheck.cli.options import write
from hostcheck.errors import HostcheckError
from hostcheck.model import exit_code, fleet_exit_code, nagios_code
from hostcheck.render import FORMATS, render

if TYPE_CHECKING:
    from hostcheck.model import FleetRun, Run

_ENDINGS = {
    "": "text",
    ".txt": "text",
    ".text": "text",
    ".log": "text",
    ".json": "json",
    ".jsonl": "jsonl",
    ".md": "md",
    ".markdown": "md",
    ".html": "html",
    ".htm": "html",
}
"""The form that each ending of a file asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the options say of how to show.

    Attributes:
        style: the form; None to take it from the file's ending, or text.
        output: the file; None or - for standard output.
        verbose: show what passed, too.
        nagios: the exit code means what it means for Nagios plug-ins.

    Raises:
        HostcheckError: the file's ending is that of a form that there is not.
    """

    style: str | None
    output: Path | None
    verbose: bool
    nagios: bool

    def __post_init__(self) -> None:
        self._form()

    def run(self, run: Run) -> int:
        """Show one host; return the exit code."""
        self._write(render(run, self._form(), verbose=self.verbose, **self._page()))
        return nagios_code(run) if self.nagios else exit_code(run)

    def fleet(self, fleet: FleetRun) -> int:
        """Show a fleet; return the exit code."""
        from hostcheck.render.fleet import render_fleet

        self._write(render_fleet(fleet, self._form(), verbose=self.verbose, **self._page()))
        code = fleet_exit_code(fleet)
        if self.nagios and code == 1:
            return 2 if any(nagios_code(run) == 2 for run in fleet.runs.values()) else 1
        return code

    def check_host(self) -> None:
        """Refuse what cannot show one host, before anything is asked.

        Raises:
            HostcheckError: one line with what can.
        """
        self._check("one host", FORMATS)

    def check_fleet(self) -> None:
        """Refuse what cannot show a fleet, before anything is asked.

        Raises:
            HostcheckError: one line with what can.
        """
        from hostcheck.render.fleet import FORMATS as FLEET_FORMATS

        self._check("a fleet", FLEET_FORMATS)

    def _check(self, what: str, forms: Collection[str]) -> None:
        if self._form() not in forms:
            raise HostcheckError(f"{what} is shown as {', '.join(forms)}, not as {self._form()}")

    def _form(self) -> str:
        return self.style or _style(self.output)

    def _page(self) -> Mapping[str, Any]:
        """Return how a file is written: the same wherever it is made. A terminal is asked what it can show."""
        return {} if self.output is None else {"color": False, "width": 100, "ascii": False}

    def _write(self, text: str) -> None:
        write(self.output or Path("-"), text.encode("utf-8", "replace"))


def _style(output: Path | None) -> str:
    """Return the form that a file's ending asks for.

    Raises:
        HostcheckError: it is the ending of a form that there is not.
    """
    ending = output.suffix.lower() if output else ""
    if ending not in _ENDINGS:
        raise HostcheckError(
            f"{output}: no form has the ending {ending}: there are {', '.join(filter(None, _ENDINGS))}; or say --format"
        )
    return _ENDINGS[ending]
