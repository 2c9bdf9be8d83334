"""`hostcheck audit`."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hostcheck.cli.main import INTERRUPTED
from hostcheck.cli.options import CheckId, clear_progress, progress, write
from hostcheck.errors import HostcheckError
from hostcheck.facts.gpu_probes import NVML, SMI
from hostcheck.model import Severity, exit_code, nagios_code
from hostcheck.render import FORMATS, render
from hostcheck.snapshot.local import INTERRUPTED as NOTE
from hostcheck.snapshot.local import Commands, begin, collect

if TYPE_CHECKING:
    from hostcheck.checklist import Checklist
    from hostcheck.snapshot.reading import Snapshot

# The checks and their facts take longer to load than most probes take to answer. They are imported inside the functions
# below, after the driver has been asked.


@click.command("audit")
@click.option("--from", "source", type=click.Path(path_type=Path), metavar="FILE", help="Judge a saved snapshot.")
@click.option("--checklist", "path", type=click.Path(path_type=Path), metavar="FILE", help="Judge by this checklist.")
@click.option(
    "--site",
    type=click.Path(path_type=Path),
    metavar="FILE",
    envvar="HOSTCHECK_SITE",
    help="Expectations of this site.  [default: /etc/hostcheck/site.toml where it exists]",
)
@click.option("--role", metavar="ROLE", help="What the host is for: training (default), inference or latency.")
@click.option("--only", multiple=True, type=CheckId(), help="Run only these checks, such as gpu or 'memory.thp-*'.")
@click.option("--skip", multiple=True, type=CheckId(), help="Leave these checks out; the report says so.")
@click.option("--require", multiple=True, type=CheckId(), help="These checks must pass, or the exit code is 3.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override one expectation.")
@click.option(
    "--fail-on",
    type=click.Choice([str(level) for level in Severity]),
    default=Severity.MEDIUM.value,
    show_default=True,
    help="Count failures, and what is unknown, from this severity on.",
)
@click.option(
    "--window",
    type=click.FloatRange(0, 3600),
    default=0.0,
    metavar="SECONDS",
    help="Watch error counters for this long; by default, for as long as the reading takes.",
)
@click.option("--format", "style", type=click.Choice(FORMATS), help="Form of the output.  [default: text]")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write to a file.")
@click.option("--exit-style", type=click.Choice(("plain", "nagios")), default="plain", help="Meaning of the exit code.")
@click.option("-v", "--verbose", is_flag=True, help="Show what passed and what does not apply, too.")
@click.pass_context
def command(
    ctx: click.Context,
    source: Path | None,
    path: Path | None,
    site: Path | None,
    role: str | None,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    require: tuple[str, ...],
    settings: tuple[str, ...],
    fail_on: str,
    window: float,
    style: str | None,
    output: Path | None,
    exit_style: str,
    verbose: bool,
) -> None:
    """Judge this host, or a saved snapshot, against the checklist.

    Reads only; changes nothing. As root it sees more; what could not be read is reported as unknown, never as good.

    \b
    hostcheck audit                                 this host, for people
    hostcheck audit -o report.html                  as a page (or .md, .json)
    hostcheck audit --only gpu --only nvlink        some checks
    hostcheck audit --set memory.swappiness=10      another expectation
    hostcheck audit --from node7.tar.gz             a snapshot of `hostcheck collect`
    """
    begun = begin((SMI, NVML), window=window) if not (source or only or skip or path) else None
    try:
        from hostcheck.audit import judge, read_site

        checklist = _checklist(path, role, only, skip, require, settings)
        layers = read_site(site)
        snapshot = _snapshot(source, checklist, window, begun)
    except BaseException:
        if begun:
            begun.stop()
        raise
    run = judge(snapshot, checklist, site=layers, fail_on=Severity(fail_on), today=dt.date.today())
    if output is None:
        text = render(run, style or "text", verbose=verbose)
    else:
        text = render(run, style or _style(output), verbose=verbose, color=False, width=100, ascii=False)
    write(output or Path("-"), text.encode("utf-8", "replace"))
    if any(reading.note == NOTE for reading in snapshot.readings.values()):
        click.echo("hostcheck: interrupted; what had not been read by then is unknown above", err=True)
        ctx.exit(INTERRUPTED)
    ctx.exit(nagios_code(run) if exit_style == "nagios" else exit_code(run))


def _style(output: Path | None) -> str:
    suffix = output.suffix.lstrip(".") if output else ""
    return {"htm": "html", "markdown": "md"}.get(suffix, suffix) if suffix in (*FORMATS, "htm", "markdown") else "text"


def _checklist(
    path: Path | None,
    role: str | None,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    require: tuple[str, ...],
    settings: tuple[str, ...],
) -> Checklist:
    from hostcheck.audit import all_checks
    from hostcheck.checklist import Checklist, read_checklist, read_setting
    from hostcheck.expect import shipped_names
    from hostcheck.registry import load_checks, select

    checks = load_checks()
    roles = [name.split("/", 1)[1] for name in shipped_names("role")]
    if role is not None and role not in roles:
        raise HostcheckError(f"--role {role}: none of {', '.join(roles)}")
    checklist = Checklist()
    if path is not None:
        from hostcheck.coverage import row_ids

        checklist = read_checklist(path, checks, row_ids(), roles)
    known = all_checks(checklist)
    select(known, (*only, *skip))
    required = select(known, require)
    return replace(
        checklist,
        role=role or checklist.role,
        only=only or checklist.only,
        skip=(*checklist.skip, *skip),
        require=tuple(sorted({*checklist.require, *required})),
        layers=(*checklist.layers, *(read_setting(text) for text in settings)),
        who={"only": "--only" if only else str(path), "skip": "--skip" if skip else str(path)},
    )


def _snapshot(source: Path | None, checklist: Checklist, window: float, begun: Commands | None) -> Snapshot:
    if source is not None:
        from hostcheck.snapshot.archive import read_archive

        return read_archive(source)
    from hostcheck.audit import probes_for

    try:
        return collect(probes_for(checklist), window=window, progress=progress(), begun=begun)
    finally:
        clear_progress()
