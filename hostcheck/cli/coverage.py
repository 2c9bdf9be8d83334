"""`hostcheck coverage`."""

from __future__ import annotations

import click

from hostcheck.coverage import coverage, read_proven, render_coverage
from hostcheck.registry import load_checks


@click.command("coverage")
@click.argument("section", required=False)
@click.option("--missing", is_flag=True, help="List the rows that nothing answers yet.")
@click.option("-v", "--verbose", is_flag=True, help="List every row with its checks.")
def command(section: str | None, missing: bool, verbose: bool) -> None:
    """Show which of the 352 rows of the checklist are answered, and by which checks.

    A row counts only where a check that answers it has been shown to fail on a case of its own.
    SECTION, such as os or 6, lists that section's rows.
    """
    answered = coverage(load_checks(), read_proven()["fail"])
    click.echo(render_coverage(answered, section=section, missing=missing, verbose=verbose), nl=False)
