"""`hostcheck explain`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

import click

from hostcheck.audit import shipped_layers
from hostcheck.cli.options import ANY_ID
from hostcheck.errors import HostcheckError
from hostcheck.expect import Key, key_of, shipped_names, suggest
from hostcheck.registry import Check, Tuner, load_checks, load_tuners
from hostcheck.snapshot.probes import CommandProbe, Probe, is_given

_SHOWN = 3


@click.command("explain")
@click.argument("name", type=ANY_ID, metavar="ID")
def command(name: str) -> None:
    """Explain one check: what is true when it passes, why that matters, what it reads and what it expects.

    ID is a check or a tuner of `hostcheck list`, or a row of `hostcheck coverage`.
    """
    checks, tuners = load_checks(), load_tuners()
    pages = [explain(checks[name])] if name in checks else []
    pages += [explain_tuner(tuner) for tuner in tuners.values() if name == tuner.id or name in tuner.fixes]
    answering = [check for check in checks.values() if name in check.rows]
    changing = [tuner for tuner in tuners.values() if name in tuner.rows]
    pages += [*map(explain, answering), *map(explain_tuner, changing)]
    if not pages:
        from hostcheck.coverage import row_ids

        if name in row_ids():
            click.echo(f"{name} is a row of the checklist that no check answers yet.")
            return
        known = [*checks, *tuners, *row_ids()]
        raise HostcheckError(f"no check, tuner or row is called {name!r}{suggest(name, known)}")
    click.echo("\n\n".join("\n".join(page) for page in pages))


def explain(check: Check) -> list[str]:
    """Return the help page of a check, line by line."""
    lines = [f"{check.id}  ({check.severity.value})", "", *_prose(check)]
    if check.keys:
        lines += ["Expects", *(f"  {line}" for key in check.keys for line in values(key))]
        lines += [*(f"  To change it: --set '{key.name}{key.example}'" for key in check.keys if key.example), ""]
    probes = {probe.id: probe for probe in check.probes()}
    lines += ["Reads", *(f"  {id:20} {_reads(probes[id], check.id)}" for id in sorted(probes))]
    return [*lines, *_ends(check)]


def explain_tuner(tuner: Tuner) -> list[str]:
    """Return the help page of a tuner, line by line."""
    lines = [f"{tuner.id}  (tuner: hostcheck tune --only {tuner.id})", "", *_prose(tuner)]
    if tuner.fixes:
        lines += ["Mends", *_names(tuner.fixes), ""]
    if tuner.keys:
        lines += ["Values from", *(f"  {line}" for key in tuner.keys for line in values(key)), ""]
    probes = {probe.id: probe for probe in tuner.probes()}
    lines += ["Reads", *(f"  {id:20} {_reads(probes[id], tuner.id)}" for id in sorted(probes))]
    return [*lines, *_ends(tuner)]


def _prose(of: Check | Tuner) -> Iterator[str]:
    yield from (*textwrap.wrap(of.title, 88), "")
    for paragraph in of.rationale.split("\n\n"):
        if paragraph:
            yield from (*textwrap.wrap(" ".join(paragraph.split()), 88), "")


def _ends(of: Check | Tuner) -> Iterator[str]:
    if of.rows:
        yield from ("", "Answers the rows", *_names(of.rows))
    if of.references:
        yield from ("", "References", *(f"  {reference}" for reference in of.references))


def _names(ids: Sequence[str]) -> list[str]:
    return textwrap.wrap(", ".join(ids), 86, initial_indent="  ", subsequent_indent="  ")


def values(key: Key, bench: str = "") -> Iterator[str]:
    """Say what each of our layers sets a key to; with a benchmark, only what is for that one."""
    said = False
    for role in shipped_names("role"):
        for layer in shipped_layers(role.split("/", 1)[1], gpus=True):
            if not layer.name.startswith("role/") and role != shipped_names("role")[0]:
                continue
            for name, (matcher, source) in layer.values.items():
                case = name.partition("[")[2].removesuffix("]")
                is_of = not bench or case in ("", bench, bench.partition(".")[0]) or case.startswith(f"{bench} ")
                if key_of(name) == key.name and is_of:
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
