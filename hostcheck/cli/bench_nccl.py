"""`hostcheck bench nccl`."""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hostcheck import __version__
from hostcheck.cli.main import INTERRUPTED
from hostcheck.cli.options import Finite, look_ahead, write
from hostcheck.cli.signals import interrupt_on_signals
from hostcheck.errors import HostcheckError

if TYPE_CHECKING:
    from hostcheck.bench.hosts import Between
    from hostcheck.bench.model import Session

_OPERATIONS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "send-receive")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_MOST = 1 << 40
_PATH = click.Path(path_type=Path)
_LET_GO = "hostcheck: interrupted; all hosts were let go"


class _Size(click.ParamType):  # type: ignore[type-arg] # older releases of click have no type argument
    """A size such as 512K, 64M or 2G, in bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"(\d{1,13})\s*([KMG]?)(?:iB)?", str(value).strip())
        if found is None or not 4 <= int(found[1]) * _UNITS[found[2]] <= _MOST:
            self.fail(f"{value!r} is no size such as 512K, 64M or 2G", param, ctx)
        return int(found[1]) * _UNITS[found[2]]


@click.command("nccl")
@click.option("--hosts", multiple=True, metavar="HOSTS", help="Node sets, [user@]host[:port]; may be repeated.")
@click.option(
    "--hosts-file", multiple=True, type=_PATH, metavar="FILE", help="The same in a file; - is standard input."
)
@click.option("--pairs", is_flag=True, help="Measure pairs, and find the bad host or link by pairing suspects anew.")
@click.option(
    "--operation", multiple=True, type=click.Choice(_OPERATIONS), help="May be repeated.  [default: all-reduce]"
)
@click.option(
    "--size", multiple=True, type=_Size(), metavar="SIZE", help="Such as 64M; may be repeated.  [default: 1G]"
)
@click.option("--seconds", type=Finite(0.1, 600), default=2.0, show_default=True, help="For each operation and size.")
@click.option("--floor", type=Finite(0), metavar="GB/S", help="Bus bandwidth below which it is a failure.")
@click.option("--backend", type=click.Choice(("nccl", "gloo")), default="nccl", help="gloo: CPUs and TCP.")
@click.option("--per-host", type=click.IntRange(1, 64), help="Ranks of each host.  [default: one a GPU; gloo: 1]")
@click.option("--python", default="python3", show_default=True, metavar="PATH", help="On the hosts; it needs torch.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="For the ranks, such as NCCL_IB_HCA=mlx5.")
@click.option("--master", metavar="ADDRESS", default="", help="Where others reach the first host.  [default: its name]")
@click.option("--port", type=click.IntRange(1024, 65535), default=29500, show_default=True, help="Of the first host.")
@click.option("--ssh-config", type=_PATH, metavar="FILE", help="In place of ~/.ssh/config.")
@click.option("--user", metavar="NAME", help="Log in as NAME, where HOSTS name nobody else.")
@click.option("--accept-new-keys", is_flag=True, help="Trust hosts that known_hosts lacks, never a changed key.")
@click.option("-o", "--output", type=_PATH, metavar="FILE", help="Write the measurements to a file, as JSON.")
@click.pass_context
@interrupt_on_signals()
def command(
    ctx: click.Context,
    hosts: tuple[str, ...],
    hosts_file: tuple[Path, ...],
    pairs: bool,
    operation: tuple[str, ...],
    size: tuple[int, ...],
    seconds: float,
    floor: float | None,
    backend: str,
    per_host: int | None,
    python: str,
    env: tuple[str, ...],
    master: str,
    port: int,
    ssh_config: Path | None,
    user: str | None,
    accept_new_keys: bool,
    output: Path | None,
) -> None:
    """Measure collectives between hosts, over SSH and torchrun.

    Each host needs a Python with torch; nothing is installed there, and nothing stays. The data is checked on each
    rank, and NCCL's own log tells which algorithm and which way it took. Exit code 1 if data is wrong, a floor is not
    reached, or a host or link is found bad; 3 if a host could not take part, or pairs prove nothing.

    \b
    hostcheck bench nccl --hosts 'gpu[01-16]'             all together
    hostcheck bench nccl --hosts 'gpu[01-16]' --pairs     which host or link is at fault
    hostcheck bench 'nccl.*'                              between the GPUs of this host
    """
    from hostcheck.bench.hosts import by_pairs, together
    from hostcheck.bench.ranks import Launch, program, read_environment
    from hostcheck.fleet.reach import over_ssh
    from hostcheck.fleet.targets import read_targets
    from hostcheck.transport.ssh import SshOptions

    if not hosts and not hosts_file:
        raise HostcheckError("no --hosts are named; hostcheck bench 'nccl.*' measures between the GPUs of this host")
    if ssh_config is not None and not ssh_config.is_file():
        raise HostcheckError(f"--ssh-config {ssh_config}: no such file")
    look_ahead(output)
    targets = read_targets(hosts, files=hosts_file)
    if len(targets) < 2:
        raise HostcheckError("one host alone has nobody to talk to: name two at least")
    if pairs and master:
        raise HostcheckError("--master is for all hosts together; of a pair, the first is reached by its own name")
    cases = [(name, number, seconds) for name in operation or ("all-reduce",) for number in size or (1 << 30,)]
    launch = Launch(
        cases=cases,
        backend=backend,
        python=python,
        per_host=per_host or (1 if backend == "gloo" else 0),
        master=master,
        port=port,
        environment=read_environment(env),
    )
    program(launch, 0, 2, master or targets[0].address)
    make = over_ssh(SshOptions(config_path=ssh_config, accept_new=accept_new_keys), user)
    begun = dt.datetime.now(dt.UTC)
    started = time.monotonic()
    try:
        if pairs:
            between = by_pairs(targets, make, launch, floor=floor, tell=lambda line: click.echo(line, err=True))
        else:
            click.echo(f"{len(targets)} hosts, at most {launch.seconds:.0f} s", err=True)
            between = together(targets, make, launch)
    except KeyboardInterrupt:
        click.echo(_LET_GO, err=True)
        ctx.exit(INTERRUPTED)
    session = _session(between, begun, time.monotonic() - started)
    # First, so that a full disk takes no numbers along.
    if output != Path("-"):
        _show(session, between, floor)
    if output is not None:
        from hostcheck.render.json import encoded

        write(output, encoded(session) + b"\n")
    if between.interrupted:
        click.echo(_LET_GO, err=True)
        ctx.exit(INTERRUPTED)
    ctx.exit(_code(between, floor))


def _session(between: Between, begun: dt.datetime, seconds: float) -> Session:
    from hostcheck.bench.model import Session

    return Session(
        tool=f"hostcheck {__version__}",
        taken=begun.strftime("%Y-%m-%dT%H:%M:%SZ"),
        level="",
        measurements=tuple(between.measurements),
        missing=tuple(between.missing),
        devices=between.devices,
        versions=between.versions,
        seconds=round(seconds, 1),
    )


def _show(session: Session, between: Between, floor: float | None) -> None:
    from hostcheck.render.bench import render_session
    from hostcheck.render.fold import fold_line
    from hostcheck.render.safe import clip, safe

    click.echo(render_session(session), nl=False)
    for made in between.measurements if between.verdict is None else ():
        way = ", ".join(str(made.settings[name]) for name in ("algorithm", "transport") if made.settings.get(name))
        if way:
            click.echo(f"{made.bench} {made.case}: {clip(safe(way), 200)}")
        if made.invalid:
            click.echo(f"INVALID {made.bench} {made.case}: {clip(safe(made.invalid), 300)}")
        elif floor is not None and (made.value or 0.0) < floor:
            click.echo(f"FAIL {made.bench} {made.case}: {made.value:.4g} GB/s is below the floor of {floor:g} GB/s")
    if between.verdict is None:
        return
    for pair, why in between.failed.items():
        click.echo(f"failed: {' and '.join(pair)}: {clip(safe(why), 300)}")
    for pair, why in between.unknown.items():
        # Of the others, it is told below.
        if not between.verdict.open.keys() & set(pair):
            click.echo(f"unknown: {' and '.join(pair)}: {clip(safe(why), 300)}")
    for host, why in between.absent.items():
        click.echo(f"NOT THERE {host}: {clip(safe(why), 300)}")
    for host in between.verdict.bad:
        click.echo(f"BAD HOST {host}: it passed with nobody; of those that it failed with, one works with others")
    for first, second in between.verdict.links:
        click.echo(f"BAD LINK {first} - {second}: each of them works with others; look at what lies between")
    for host, others in between.verdict.open.items():
        told = "interrupted before that was clear" if between.interrupted else _why_open(between, host, others)
        click.echo(f"UNKNOWN {host}: {clip(safe(told), 300)}")
    if between.verdict.good:
        click.echo(f"good: {fold_line(between.verdict.good)}")


def _why_open(between: Between, host: str, failed: Sequence[str]) -> str:
    """Return why nothing is proven of a host, which failed with others, or met some in vain, or nobody."""
    whys = []
    if failed:
        nobody = between.verdict is not None and not between.verdict.good
        whys = [f"it failed with {', '.join(failed)}" + (", and nobody is proven good" if nobody else "")]
    for pair, why in between.unknown.items():
        whys += [f"with {other}: {why}" for other in pair if host in pair and other != host]
    return "; ".join(whys) or "nobody was left to pair it"


def _code(between: Between, floor: float | None) -> int:
    if between.verdict is not None:
        bad = bool(between.verdict.bad or between.verdict.links)
        unknown = bool(between.verdict.open or between.absent)
    else:
        values = [made.value for made in between.measurements if made.verified and not made.invalid]
        bad = any(not made.verified for made in between.measurements)
        bad |= floor is not None and any((value or 0.0) < floor for value in values)
        unknown = bool(between.missing)
    unknown |= any(made.verified and made.invalid for made in between.measurements)
    return 1 if bad else 3 if unknown else 0
