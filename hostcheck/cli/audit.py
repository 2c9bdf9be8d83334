"""`hostcheck audit`."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hostcheck.cli.audit_fleet import Remote, remote_options
from hostcheck.cli.judging import Judging, exit_style_option, judging_options
from hostcheck.cli.main import INTERRUPTED
from hostcheck.cli.options import Finite, clear_progress, progress
from hostcheck.cli.views import View
from hostcheck.errors import HostcheckError
from hostcheck.facts.gpu_probes import NVML, SMI
from hostcheck.render import FORMATS
from hostcheck.snapshot.local import Commands, begin, collect, is_interrupted

if TYPE_CHECKING:
    from hostcheck.checklist import Checklist
    from hostcheck.snapshot.reading import Snapshot

# The checks and their facts take longer to load than most probes take to answer. They are imported inside the functions
# below, after the driver has been asked.


@click.command("audit")
@click.argument("targets", nargs=-1)
@click.option("--from", "source", type=click.Path(path_type=Path), metavar="FILE", help="Judge a saved snapshot.")
@judging_options()
@click.option(
    "--window",
    type=Finite(0, 3600),
    default=0.0,
    metavar="SECONDS",
    help="Watch error counters for this long; by default, for as long as the reading takes.",
)
@click.option("--format", "style", type=click.Choice(FORMATS), help="Form of the output.  [default: text]")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write to a file.")
@exit_style_option
@click.option("-v", "--verbose", is_flag=True, help="Show what passed and what does not apply, too.")
@remote_options()
@click.pass_context
def command(
    ctx: click.Context,
    targets: tuple[str, ...],
    source: Path | None,
    judging: Judging,
    window: float,
    style: str | None,
    output: Path | None,
    exit_style: str,
    verbose: bool,
    remote: Remote,
) -> None:
    """Judge this host, others over SSH, or a saved snapshot, against the checklist.

    Reads only; changes nothing, and installs nothing anywhere. As root it sees more; what could not be read is reported
    as unknown, never as good.

    TARGETS are node sets, [user@]host[:port], IPv6 addresses in brackets, groups of ClusterShell, or - for standard
    input. Without any, it is this host. The results of several are kept in a run directory.

    \b
    hostcheck audit                                 this host, for people
    hostcheck audit -o report.html                  as a page (or .md, .json)
    hostcheck audit --only gpu --only nvlink        some checks
    hostcheck audit --set memory.swappiness=10      another expectation
    hostcheck audit --from node7.tar.gz             a snapshot of `hostcheck collect`
    hostcheck audit root@gpu07                      another host, over SSH
    hostcheck audit 'gpu[01-64,70]' @rack2          many
    hostcheck audit -i inventory.yml --limit gpu    an Ansible inventory
    hostcheck audit --resume hostcheck-runs/DIR     only the hosts that have not answered yet
    """
    view = View(style=style, output=output, verbose=verbose, nagios=exit_style == "nagios")
    if remote.asked(targets):
        if source is not None:
            raise HostcheckError("--from judges a saved snapshot, TARGETS are asked now: one or the other")
        from hostcheck.cli.audit_fleet import audit_fleet

        ctx.exit(audit_fleet(targets, remote, judging, view, window=window))
    view.check_host()
    begun = begin((SMI, NVML), window=window) if not (source or judging.only or judging.skip or judging.path) else None
    try:
        from hostcheck.audit import judge

        checklist = judging.checklist()
        layers = judging.layers()
        snapshot = _snapshot(source, checklist, window, begun)
    except BaseException:
        if begun:
            begun.stop()
        raise
    code = view.run(judge(snapshot, checklist, site=layers, fail_on=judging.fail_on, today=dt.date.today()))
    if source is None and is_interrupted(snapshot):
        click.echo("hostcheck: interrupted; what had not been read by then is unknown above", err=True)
        ctx.exit(INTERRUPTED)
    ctx.exit(code)


def _snapshot(source: Path | None, checklist: Checklist, window: float, begun: Commands | None) -> Snapshot:
    if source is not None:
        from hostcheck.snapshot.archive import read_archive

        return read_archive(source)
    from hostcheck.audit import probes_for

    try:
        return collect(probes_for(checklist), window=window, progress=progress(), begun=begun)
    finally:
        clear_progress()
