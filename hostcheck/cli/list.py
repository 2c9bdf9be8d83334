"""`hostcheck list`."""

from __future__ import annotations

import json

import click

from hostcheck.cli.options import ANY_ID
from hostcheck.registry import load_checks, load_tuners, select


@click.command("list")
@click.argument("patterns", nargs=-1, type=ANY_ID)
@click.option("--tuners", is_flag=True, help="List what `hostcheck tune` can change.")
@click.option("--format", "style", type=click.Choice(("text", "json")), default="text", help="Form of the output.")
def command(patterns: tuple[str, ...], tuners: bool, style: str) -> None:
    """List the checks, or those that match PATTERNS, such as gpu or 'memory.thp-*'."""
    if tuners:
        _tuners(patterns, style)
        return
    checks = load_checks()
    chosen = sorted(select(checks, patterns or ("*",)))
    if style == "json":
        table = [
            {"id": id, "severity": checks[id].severity, "title": checks[id].title, "rows": checks[id].rows}
            for id in chosen
        ]
        click.echo(json.dumps(table, indent=2))
        return
    width = max(len(id) for id in chosen)
    for id in chosen:
        click.echo(f"{id:{width}}  {checks[id].severity.value:8}  {checks[id].title}")
    click.echo(f"\n{len(chosen)} checks. `hostcheck explain ID` tells what one reads, what it expects, and why.")


def _tuners(patterns: tuple[str, ...], style: str) -> None:
    tuners = load_tuners()
    chosen = sorted(select(tuners, patterns or ("*",), noun="tuner", listed="hostcheck list --tuners"))
    if style == "json":
        table = [
            {"id": id, "title": tuners[id].title, "fixes": tuners[id].fixes, "rows": tuners[id].rows} for id in chosen
        ]
        click.echo(json.dumps(table, indent=2))
        return
    width = max(len(id) for id in chosen)
    for id in chosen:
        click.echo(f"{id:{width}}  {tuners[id].title}")
    click.echo(f"\n{len(chosen)} tuners. `hostcheck tune` says what they would change here.")
