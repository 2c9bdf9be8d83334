"""`hostcheck explain`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import click

from hostcheck.audit import shipped_layers
from hostcheck.cli.options import CheckId
from hostcheck.errors import HostcheckError
from hostcheck.expect import Key, key_of, shipped_names, suggest
from hostcheck.registry import Check, load_checks
from hostcheck.snapshot.probes import CommandProbe, Probe, is_given

_SHOWN = 3


@click.command("explain")
@click.argument("name", type=CheckId(), metavar="CHECK")
def command(name: str) -> None:
    """Explain one check: what is true when it passes, why that matters, what it reads and what it expects.

    CHECK is an id of `hostcheck list`, or a row of `hostcheck coverage`.
    """
    checks = load_checks()
    if name in checks:
        click.echo("\n".join(explain(checks[name])))
        return
    answering = [check for check in checks.values() if name in check.rows]
    if not answering:
        from hostcheck.coverage import row_ids

        if name in row_ids():
            click.echo(f"{name} is a row of the checklist that no check answers yet.")
            return
        raise HostcheckError(f"no check or row is called {name!r}{suggest(name, [*checks, *row_ids()])}")
    click.echo("\n\n".join("\n".join(explain(check)) for check in answering))


def explain(check: Check) -> list[str]:
    """Return the help page of a check, line by line."""
    lines = [f"{check.id}  ({check.severity.value})", "", *textwrap.wrap(check.title, 88), ""]
    for paragraph in check.rationale.split("\n\n"):
        lines += [*textwrap.wrap(" ".join(paragraph.split()), 88), ""] if paragraph else []
    if check.keys:
        lines += ["Expects", *(f"  {line}" for key in check.keys for line in _values(key)), ""]
    probes = {probe.id: probe for probe in check.probes()}
    lines += ["Reads", *(f"  {id:20} {_reads(probes[id], check.id)}" for id in sorted(probes))]
    if check.rows:
        lines += [
            "",
            "Answers the rows",
            *textwrap.wrap(", ".join(check.rows), 86, initial_indent="  ", subsequent_indent="  "),
        ]
    if check.references:
        lines += ["", "References", *(f"  {reference}" for reference in check.references)]
    return lines


def _values(key: Key) -> Iterator[str]:
    """Say what each of our layers sets a key to."""
    said = False
    for role in shipped_names("role"):
        for layer in shipped_layers(role.split("/", 1)[1], gpus=True):
            if not layer.name.startswith("role/") and role != shipped_names("role")[0]:
                continue
            for name, (matcher, source) in layer.values.items():
                if key_of(name) == key.name:
                    said = True
                    yield f"{name}: {matcher.words(key.unit)}  [{layer.name}: {source}]"
    if not said:
        yield f"{key.name}: nothing by itself; set it in a site file, a checklist or with --set"


def _reads(probe: Probe, id: str) -> str:
    """Say what a probe reads; of many paths those first that share a word with the check's name."""
    if isinstance(probe, CommandProbe):
        if is_given(probe):
            return "what hostcheck bench measured"
        return " ".join(probe.argv) or f"python -m {probe.local_module}"
    words = id.partition(".")[2].split("-")
    paths = sorted(probe.paths, key=lambda path: not any(word in path.rpartition("/")[2] for word in words))
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return f"{', '.join(paths[:_SHOWN])}{more}"
