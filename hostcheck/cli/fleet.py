"""`hostcheck fleet`."""

from __future__ import annotations

import datetime as dt
import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hostcheck.cli.judging import Judging, exit_style_option, judging_options
from hostcheck.cli.views import View
from hostcheck.errors import HostcheckError

if TYPE_CHECKING:
    from hostcheck.checklist import Checklist
    from hostcheck.expect import Layer
    from hostcheck.fleet.store import Store

_UNDETERMINED = 3
_FORMATS = ("text", "json", "jsonl", "md", "html")
_PER_PROCESS = 8
"""Hosts for which a further process is worth starting."""


@click.group("fleet")
def command() -> None:
    """Show what a fleet answered, from its run directory.

    \b
    hostcheck fleet show hostcheck-runs/DIR                 all hosts, and what differs between them
    hostcheck fleet show hostcheck-runs/DIR --host gpu07    one of them
    hostcheck fleet add DIR gpu07=FILE gpu08=FILE           file archives that came by another way
    """


@command.command("show")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@judging_options()
@click.option("--role-for", multiple=True, metavar="GROUP=ROLE", help="Another role for the hosts of a group.")
@click.option("--host", metavar="NAME", help="Show one host's audit.")
@click.option(
    "--format",
    "style",
    type=click.Choice(_FORMATS),
    help="Form of the output; html for one host, jsonl (a host a line) for all.  [default: text]",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write to a file.")
@exit_style_option
@click.option("-v", "--verbose", is_flag=True, help="Show what passed and what does not apply, too.")
@click.pass_context
def show(
    ctx: click.Context,
    folder: Path,
    judging: Judging,
    role_for: tuple[str, ...],
    host: str | None,
    style: str | None,
    output: Path | None,
    exit_style: str,
    verbose: bool,
) -> None:
    """Judge the archives in a run directory anew, by the options given here, and show the verdict.

    No host is asked again.
    """
    from hostcheck.expect import suggest
    from hostcheck.fleet.roles import by_group
    from hostcheck.fleet.store import Store

    store, view = Store(folder), View(style=style, output=output, verbose=verbose, nagios=exit_style == "nagios")
    checklist, layers, targets = judging.checklist(), judging.layers(), store.targets()
    chosen = by_group(checklist, targets, role_for)
    names = [target.name for target in targets]
    if host is None:
        view.check_fleet()
        ctx.exit(show_fleet(store, chosen, layers, judging, view))
    if host not in names:
        raise HostcheckError(f"{folder}: no host {host!r} in it{suggest(host, names)}")
    view.check_host()
    ctx.exit(show_host(store, host, chosen, layers, judging, view))


@command.command("add")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.argument("archives", nargs=-1, required=True, metavar="NAME=FILE...")
def add(folder: Path, archives: tuple[str, ...]) -> None:
    """File archives of hosts, as `hostcheck collect` and `hostcheck bench` write them, in a run directory.

    NAME is how the host is called from then on, as in TARGETS of `hostcheck audit`; an older answer of it is replaced.
    DIR is made where there is none.
    """
    from hostcheck.fleet.store import Store
    from hostcheck.fleet.targets import parse_name
    from hostcheck.snapshot.archive import read_archive
    from hostcheck.transport.base import Answer, Reach

    store = Store(folder)
    if folder.exists() and not folder.is_dir():
        raise HostcheckError(f"{folder}: not a directory")
    if folder.exists() and any(folder.iterdir()):
        store.targets()
    found: dict[str, bytes] = {}
    for text in archives:
        word, equals, file = text.partition("=")
        if not (word and equals and file):
            raise HostcheckError(f"{text!r}: NAME=FILE is needed, such as gpu07=gpu07.tar.gz")
        name = parse_name(word)
        if name in found:
            raise HostcheckError(f"{name} was given twice")
        read_archive(Path(file))
        found[name] = Path(file).read_bytes()
    for name, content in found.items():
        store.put(name, Answer(reach=Reach.OK, out=content, received=len(content)))


@command.command("import")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="DIR")
def import_(folder: Path) -> None:
    """File the replies that Ansible brought into a run directory."""
    from hostcheck.fleet.replies import file_replies

    click.echo(f"{folder}: {file_replies(folder):,} replies filed", err=True)


def show_fleet(
    store: Store,
    chosen: Checklist | Callable[[str], Checklist],
    layers: Sequence[Layer],
    judging: Judging,
    view: View,
) -> int:
    """Judge all hosts of a run directory and show them; return the exit code."""
    from hostcheck.fleet.answers import judge_fleet
    from hostcheck.fleet.progress import Teller

    # A run on one host keeps nearly all that it makes; one over a thousand hosts would keep what it needs no more.
    gc.enable()
    teller, total = Teller(sys.stderr), len(store.targets())
    processors = len(os.sched_getaffinity(0))
    try:
        fleet = judge_fleet(
            store,
            chosen,
            site=layers,
            fail_on=judging.fail_on,
            today=dt.date.today(),
            processes=max(1, min(processors, total // _PER_PROCESS)),
            progress=lambda done: teller.judging(done, total),
        )
    finally:
        teller.clear()
    return view.fleet(fleet)


def show_host(
    store: Store,
    name: str,
    chosen: Checklist | Callable[[str], Checklist],
    layers: Sequence[Layer],
    judging: Judging,
    view: View,
) -> int:
    """Judge one host of a run directory and show its audit; return the exit code."""
    from hostcheck.fleet.one import Work, judge_one
    from hostcheck.model import Absentee
    from hostcheck.render.safe import safe

    found = store.find(name)
    if isinstance(found, Path):
        work = Work(checklist=chosen, site=tuple(layers), fail_on=judging.fail_on, today=dt.date.today())
        judged = judge_one(name, found, work, lambda run, _: run)
        if not isinstance(judged, Absentee):
            return view.run(judged)
        found = judged
    click.echo(f"hostcheck: {safe(name)}: {found.reach}: {safe(found.why)}", err=True)
    return _UNDETERMINED
