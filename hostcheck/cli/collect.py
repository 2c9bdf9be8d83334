"""`hostcheck collect`."""

from __future__ import annotations

import io
from pathlib import Path

import click

from hostcheck.audit import probes_for
from hostcheck.checklist import Checklist
from hostcheck.cli.main import INTERRUPTED
from hostcheck.cli.options import Finite, clear_progress, progress, write
from hostcheck.errors import HostcheckError
from hostcheck.snapshot.probes import Probe


@click.command("collect")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to; - is standard output.  [default: hostcheck-HOST.tar.gz, with --program -]",
)
@click.option("--redact", is_flag=True, help="Mask host names, addresses, serials, UUIDs, keys and user names.")
@click.option("--program", "as_program", is_flag=True, help="Print the sh program that takes a snapshot elsewhere.")
@click.option("--window", type=Finite(0, 3600), default=0.0, metavar="SECONDS", help="Watch counters longer.")
@click.pass_context
def command(ctx: click.Context, output: Path | None, redact: bool, as_program: bool, window: float) -> None:
    """Take a snapshot of this host, for `hostcheck audit --from` and `hostcheck tune plan --from`, later or elsewhere.

    Reads only; changes nothing.

    \b
    hostcheck collect                                       writes hostcheck-HOST.tar.gz
    hostcheck collect --redact -o case.tar.gz               to attach to a report
    hostcheck collect -o - | ssh box 'cat >here.tar.gz'     the archive itself, for a pipe
    hostcheck collect --program | ssh node7 sh -s >node7.tar.gz
                                                            a host without Python or hostcheck
    """
    probes = _probes()
    if as_program:
        if redact:
            raise HostcheckError("--program cannot redact on the other host; use collect --redact where hostcheck runs")
        from hostcheck.snapshot.program import program

        write(output or Path("-"), program(probes, window=window).encode())
        return
    from hostcheck.snapshot.archive import write_archive
    from hostcheck.snapshot.local import collect, is_interrupted

    try:
        snapshot = collect(probes, window=window, progress=progress())
    finally:
        clear_progress()
    interrupted = is_interrupted(snapshot)
    if redact:
        from hostcheck.snapshot.redact import redact as masked

        snapshot = masked(snapshot)
    name = snapshot.manifest.hostname.replace("/", "_")
    target = output or Path(f"hostcheck-{name}.tar.gz")
    packed = io.BytesIO()
    write_archive(snapshot, packed)
    write(target, packed.getvalue(), private=not redact)
    if target != Path("-"):
        click.echo(f"{target}: {len(packed.getvalue()):,} bytes, {len(snapshot.readings)} probes", err=True)
    if interrupted:
        click.echo("hostcheck: interrupted; what had not been read by then is unknown in it", err=True)
        ctx.exit(INTERRUPTED)


def _probes() -> list[Probe]:
    """Return what is read to judge a host and to plan for it."""
    from hostcheck.registry import load_tuners
    from hostcheck.tuning.plan import probes_for_plan

    found = {probe.id: probe for probe in (*probes_for(Checklist()), *probes_for_plan(load_tuners().values()))}
    return [found[id] for id in sorted(found)]
