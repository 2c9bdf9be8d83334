"""`hostcheck coverage`."""

from __future__ import annotations

import click

from hostcheck.coverage import coverage, read_proven, render_coverage, section_words
from hostcheck.registry import load_benches, load_checks, load_tuners


class _Section(click.ParamType):  # type: ignore[type-arg] # older releases of click have no type argument
    """A section's number or word; completes words."""

    name = "section"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        return [click.shell_completion.CompletionItem(word) for word in section_words() if word.startswith(incomplete)]


@click.command("coverage")
@click.argument("section", required=False, type=_Section())
@click.option("--missing", is_flag=True, help="List the rows that nothing answers yet.")
@click.option("-v", "--verbose", is_flag=True, help="List every row with what answers it.")
def command(section: str | None, missing: bool, verbose: bool) -> None:
    """Show which of the 352 rows of the checklist are answered, and by what.

    A row counts only where a check that answers it has been shown to fail on a case of its own, or where a tuner brings
    about what it asks for, or a benchmark measures it.
    SECTION, such as os or 6, lists that section's rows.
    """
    answered = coverage(load_checks(), read_proven()["fail"], tuners=load_tuners(), benches=load_benches())
    click.echo(render_coverage(answered, section=section, missing=missing, verbose=verbose), nl=False)
