"""Showing what was judged: which form, where to, and the exit code that it means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
        if self.style is None:
            _style(self.output)

    def run(self, run: Run) -> int:
        """Show one host; return the exit code."""
        style = self.style or _style(self.output)
        if self.output is None:
            text = render(run, style, verbose=self.verbose)
        else:
            text = render(run, style, verbose=self.verbose, color=False, width=100, ascii=False)
        self._write(text)
        return nagios_code(run) if self.nagios else exit_code(run)

    def check_host(self) -> None:
        """Refuse what cannot show one host, before anything is asked.

        Raises:
            HostcheckError: one line with what can.
        """
        style = self.style or _style(self.output)
        if style not in FORMATS:
            raise HostcheckError(f"one host is shown as {', '.join(FORMATS)}, not as {style}")

    def check_fleet(self) -> None:
        """Refuse what cannot show a fleet, before anything is asked.

        Raises:
            HostcheckError: one line with what can.
        """
        from hostcheck.render.fleet import FORMATS as FLEET_FORMATS

        style = self.style or _style(self.output)
        if style not in FLEET_FORMATS:
            raise HostcheckError(f"a fleet is shown as {', '.join(FLEET_FORMATS)}, not as {style}")

    def fleet(self, fleet: FleetRun) -> int:
        """Show a fleet; return the exit code."""
        from hostcheck.render.fleet import render_fleet

        style = self.style or _style(self.output)
        if self.output is None:
            text = render_fleet(fleet, style, verbose=self.verbose)
        else:
            text = render_fleet(fleet, style, verbose=self.verbose, color=False, width=100, ascii=False)
        self._write(text)
        code = fleet_exit_code(fleet)
        if self.nagios and code == 1:
            return 2 if any(nagios_code(run) == 2 for run in fleet.runs.values()) else 1
        return code

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
