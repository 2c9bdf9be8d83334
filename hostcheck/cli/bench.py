"""`hostcheck bench`."""

from __future__ import annotations

import datetime as dt
import io
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import wraps
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hostcheck.bench.model import Level
from hostcheck.cli import bench_nccl
from hostcheck.cli.judging import Judging, judging_options
from hostcheck.cli.main import INTERRUPTED
from hostcheck.cli.options import BENCH_ID, Finite, clear_progress, look_ahead, progress, write
from hostcheck.cli.signals import interrupt_on_signals
from hostcheck.cli.views import View
from hostcheck.errors import HostcheckError, install
from hostcheck.render import FORMATS

if TYPE_CHECKING:
    from hostcheck.bench.floors import Floors
    from hostcheck.bench.model import Session
    from hostcheck.bench.parent import Progress
    from hostcheck.snapshot.reading import Snapshot

_ELSEWHERE = "; --save FILE names another place"
_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


class _Duration(click.ParamType):  # type: ignore[type-arg] # older releases of click have no type argument
    """A time such as 90, 90s, 10m or 2h, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(value).strip())
        if found is None or found[2] not in _UNITS or not 1 <= float(found[1]) * _UNITS[found[2]] <= 7 * 86_400:
            self.fail(
                f"{value!r} is no time from 1s to 168h: a number of s, m (or min) or h, such as 90s or 1.5h", param, ctx
            )
        return float(found[1]) * _UNITS[found[2]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """What the options say of what to measure, and how; no level means quick."""

    names: tuple[str, ...]
    level: str | None
    gpus: str | None
    duration: float | None
    option: tuple[str, ...]

    def session(self, names: tuple[str, ...] = (), floors: Floors | None = None) -> tuple[Session, bool]:
        """Measure now; return what came of it, and whether it was interrupted.

        Args:
            names: benchmarks, in place of those that the user named.
            floors: by which GPUs are measured alone once more where at once they shared too little.

        Raises:
            HostcheckError: nothing can be measured here, in one line with what to do.
        """
        from hostcheck.bench.options import read_options
        from hostcheck.bench.session import choose, gpus_on_bus, lacking, look, measure, plan
        from hostcheck.registry import load_benches
        from hostcheck.snapshot.local import INTERRUPTED as NOTE
        from hostcheck.snapshot.local import collect
        from hostcheck.snapshot.probes import CommandProbe

        level = Level[(self.level or "quick").upper()]
        wanted = choose(load_benches(), names or self.names, level)
        # Names that a baseline gave ask for nothing: without its option, one of them is told as missing.
        options = read_options(self.option, wanted, load_benches(), self.names)
        # Unlike an audit, whoever measures wants the driver loaded and the GPUs awake: without a guard.
        asked = CommandProbe("gpu.nvml", seconds=60.0, local_module="hostcheck.snapshot.nvml")
        reading = collect([asked]).readings["gpu.nvml"]
        if reading.note == NOTE:
            raise click.Abort
        host = look(reading, self.gpus, os.environ.get("CUDA_VISIBLE_DEVICES"), on_bus=gpus_on_bus())
        if self.gpus is not None and host.why_none:
            raise HostcheckError(host.why_none)
        can, missing = lacking(wanted, host, named=bool(names or self.names), options=options)
        if not can:
            raise HostcheckError("; ".join(dict.fromkeys(entry.why for entry in missing)) or "there is no benchmark")
        steps = plan(can, len(host.gpus), level, self.duration)
        try:
            session, harvest = measure(
                steps, host, missing, level=level, options=options, tell=_show(), floors=floors, duration=self.duration
            )
        finally:
            clear_progress()
        return session, harvest.interrupted

    def before(self, source: Path) -> Session:
        """Return what was measured before, as far as it is named.

        Raises:
            HostcheckError: it cannot be read, or an option is about what is measured now.
        """
        from hostcheck.bench.baseline import read

        now = {"--level": self.level, "--gpus": self.gpus, "--duration": self.duration, "--option": self.option}
        for option, value in now.items():
            if value not in (None, ()):
                raise HostcheckError(f"{option} is for what is measured now, and --from takes what was measured before")
        return self.named(read(source))

    def named(self, session: Session) -> Session:
        """Return the part of a session that the user named; all of it where nothing is named.

        Raises:
            HostcheckError: a name matches no benchmark.
        """
        from hostcheck.facts.bench import about
        from hostcheck.registry import load_benches, select

        if not self.names:
            return session
        known = {*load_benches(), *(measured.bench for measured in session.measurements)}
        return about(session, *select(known, self.names, noun="benchmark", listed="hostcheck bench list"))


_LEVELS = [level.name.lower() for level in Level]
_OPTIONS = (
    click.argument("names", nargs=-1, type=BENCH_ID),
    click.option("--gpus", metavar="LIST", help="Only these GPUs, such as 0,2-3, or UUIDs."),
    click.option("--duration", type=_Duration(), metavar="TIME", help="Take this long in all, such as 90s, 10m or 2h."),
    click.option(
        "--option",
        multiple=True,
        metavar="NAME=VALUE",
        help="For a benchmark that takes one (see `bench explain`).",
    ),
)


def measuring_options(level: str = "quick") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of `Measuring`, as one argument `measuring`.

    Args:
        level: what the help says of the one that holds where none is named.
    """
    levels = click.option(
        "--level",
        type=click.Choice(_LEVELS),
        help="How thorough: under a minute for the whole host, five minutes, an hour, or as long as --duration.  "
        f"[default: {level}]",
    )

    def given(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def packed(*args: Any, **values: Any) -> None:
            own = {field.name: values.pop(field.name) for field in fields(Measuring)}
            function(*args, measuring=Measuring(**own), **values)

        for option in reversed((levels, *_OPTIONS)):
            packed = option(packed)
        return packed

    return given


class _Bench(click.Group):
    """Runs `run` where no other subcommand is named."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[click.shell_completion.CompletionItem]:
        run = self.commands["run"]
        if incomplete.startswith("-"):
            return run.shell_complete(ctx, incomplete)
        return [*super().shell_complete(ctx, incomplete), *BENCH_ID.shell_complete(ctx, run.params[0], incomplete)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # While a shell completes, nothing is no run: it wants to know the subcommands, too.
        if not args and ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group("bench", cls=_Bench)
def command() -> None:
    """Measure this host, and hold each number against its physical limit, where one is known.

    \b
    hostcheck bench                           all that fits into a minute
    hostcheck bench --level standard          more of it, in five minutes
    hostcheck bench 'hbm.*' gemm.bf16         some benchmarks
    hostcheck bench --gpus 0-3                some GPUs
    hostcheck bench run --help                all options
    hostcheck bench nccl --hosts 'gpu[1-8]'   collectives between hosts, over SSH
    hostcheck audit --from FILE               judge what was measured again, by other expectations

    GPUs need the NVIDIA driver and the extra [bench]; matrix products and NCCL also [torch] (bench explain NAME).
    Sets no clock, no limit and no mode. A GPU that somebody uses is left alone.
    """


command.add_command(bench_nccl.command)


@command.command("run")
@measuring_options()
@judging_options()
@click.option("--save", type=click.Path(path_type=Path), metavar="FILE", help="Where to keep the measurements.")
@click.option("--format", "style", type=click.Choice(FORMATS), help="Form of the output.  [default: text]")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write to a file.")
@click.option("-v", "--verbose", is_flag=True, help="Show what passed and what does not apply, too.")
@click.pass_context
@interrupt_on_signals()
def run(
    ctx: click.Context,
    measuring: Measuring,
    judging: Judging,
    save: Path | None,
    style: str | None,
    output: Path | None,
    verbose: bool,
) -> None:
    """Measure, judge, and keep the measurements.

    NAMES are benchmarks of `hostcheck bench list`, or patterns such as 'hbm.*'. The measurements go into an archive,
    with a snapshot of the whole host; `hostcheck audit --from` judges it again.
    """
    from hostcheck.audit import judge, shipped_layers
    from hostcheck.bench.floors import Floors
    from hostcheck.bench.session import with_results
    from hostcheck.facts.base import Facts
    from hostcheck.facts.host import traits
    from hostcheck.render.bench import render_session
    from hostcheck.snapshot.local import is_interrupted

    look_ahead(save, output)
    if save is None:
        _look_ahead_here()
    checklist = judging.checklist()
    if "*" in checklist.only:
        checklist = replace(checklist, only=("bench",), who={**checklist.who, "only": "hostcheck bench"})
    layers = judging.layers()
    view = View(style=style, output=output, verbose=verbose, nagios=False)
    view.check_host()
    floors = Floors((*shipped_layers(checklist.role, gpus=True), *layers, *checklist.layers))
    session, interrupted = measuring.session(floors=floors)
    snapshot = with_results(_snapshot(), session)
    interrupted = interrupted or is_interrupted(snapshot)
    kept = _keep(snapshot, save)
    try:
        facts = Facts(snapshot)
        judged = judge(snapshot, checklist, site=layers, fail_on=judging.fail_on, today=dt.date.today(), facts=facts)
        if (style or "text") == "text" and output is None:
            click.echo(render_session(session, replace(floors, traits=traits(facts))), nl=False)
            # The table above has more of it.
            judged = replace(judged, measured=())
        code = view.run(judged)
    finally:
        if kept:
            click.echo(kept, err=True)
    if interrupted:
        click.echo("hostcheck: interrupted; what had not been measured or read by then is unknown above", err=True)
        code = INTERRUPTED
    ctx.exit(code)


@command.command("list")
def list_() -> None:
    """List the benchmarks: from which level on they run, what they need, and what they measure."""
    from hostcheck.registry import load_benches

    benches = load_benches()
    width = max((len(id) for id in benches), default=0)
    for id in sorted(benches):
        made = benches[id]
        click.echo(f"{id:{width}}  {made.level.name.lower():8}  {made.extra or '-':5}  {made.title}")
    click.echo(f"\n{len(benches)} benchmarks. `hostcheck bench explain NAME` tells how one measures.")


@command.command("explain")
@click.argument("name", type=BENCH_ID)
def explain(name: str) -> None:
    """Explain one benchmark: what it measures, how, and what a low number means."""
    from hostcheck.expect import suggest
    from hostcheck.registry import load_benches

    benches = load_benches()
    if name not in benches:
        raise HostcheckError(
            f"no benchmark is called {name!r}{suggest(name, benches)} (hostcheck bench list shows all)"
        )
    click.echo("\n".join(explained(name)))


def explained(id: str) -> list[str]:
    """Return the help page of a benchmark, line by line."""
    from hostcheck.cli.explain import values
    from hostcheck.expect import KEYS
    from hostcheck.facts.bench import judge_of
    from hostcheck.registry import load_benches, load_checks

    load_checks()
    judge = judge_of(id)
    made = load_benches()[id]
    lines = [id, "", *textwrap.wrap(made.title, 88), ""]
    for paragraph in made.rationale.split("\n\n"):
        lines += [*textwrap.wrap(" ".join(paragraph.split()), 88), ""] if paragraph else []
    needs = [f"{made.package}: {install(made.extra)}" if made.package else install(made.extra)] if made.extra else []
    needs += [option.help for option in made.options if option.required]
    where = {
        "host": "the host",
        "gpu": "each GPU",
        "gpus": "all GPUs in one process",
        "ranks": "a process for each GPU",
    }
    alone = ", one after the other" if made.alone else ", all at once" if made.scope == "gpu" else ""
    lines += [
        f"Runs on    {where[made.scope]}{alone}",
        f"From level {made.level.name.lower()}, about {made.seconds:g} s",
        *(f"Needs      {each}" for each in needs or ["nothing else"]),
        f"Judged by  {judge}, bench.alike",
        *(f"Expects    {line}" for line in (values(KEYS[judge], id) if judge in KEYS else ())),
        *(f"Takes      {option.help}" for option in made.options if not option.required),
    ]
    if made.rows:
        lines += [f"Rows       {', '.join(made.rows)}"]
    if made.references:
        lines += ["", "References", *(f"  {reference}" for reference in made.references)]
    return lines


@command.command("record")
@click.argument("file", type=click.Path(path_type=Path))
@measuring_options()
@click.option(
    "--from", "source", type=click.Path(path_type=Path), metavar="FILE", help="Take what was measured before."
)
@click.option("--floors", is_flag=True, help="Write a layer of expectations (TOML) for hosts of this kind instead.")
@click.pass_context
@interrupt_on_signals()
def record(ctx: click.Context, file: Path, measuring: Measuring, source: Path | None, floors: bool) -> None:
    """Keep measurements as a baseline in FILE, for `hostcheck bench compare`; - is standard output.

    With --floors, FILE becomes a site layer: what was measured here, less 5 %, is then expected of each host with GPUs
    of this model (hostcheck bench --site FILE).
    """
    from hostcheck.render.bench import render_session

    look_ahead(file)
    session, interrupted = measuring.session() if source is None else (measuring.before(source), False)
    try:
        if interrupted:
            raise HostcheckError(f"interrupted: {file} was not written")
        write(file, _baseline(file, session, floors))
    except HostcheckError as problem:
        if source is None:
            click.echo(render_session(session), nl=False, err=file == Path("-"))
        if not interrupted:
            raise
        click.echo(f"hostcheck: {problem}", err=True)
        ctx.exit(INTERRUPTED)


def _baseline(file: Path, session: Session, floors: bool) -> bytes:
    from hostcheck.bench.baseline import floors as make_floors
    from hostcheck.expect import KEYS
    from hostcheck.registry import load_checks
    from hostcheck.render.json import encoded

    if floors:
        load_checks()
        return make_floors(session, KEYS).encode()
    if not any(not measured.invalid for measured in session.measurements):
        raise HostcheckError(f"there is no valid number: {file} was not written")
    return encoded(session) + b"\n"


@command.command("compare")
@click.argument("file", type=click.Path(path_type=Path))
@measuring_options("that of the baseline")
@click.option(
    "--from", "source", type=click.Path(path_type=Path), metavar="FILE", help="Compare what was measured before."
)
@click.option(
    "--tolerance", type=Finite(0, 100), default=3.0, show_default=True, metavar="PERCENT",
    help="How much worse a rate may be, and it must be more than noise; times, ten times that.",
)  # fmt: skip
@click.pass_context
@interrupt_on_signals()
def compare(ctx: click.Context, file: Path, measuring: Measuring, source: Path | None, tolerance: float) -> None:
    """Hold measurements of now against the baseline in FILE.

    Measures the benchmarks of the baseline at its level; --gpus, --duration and --option are to be given again.

    Exit code 1 if a number is worse by more than the tolerance and than what the scatter of the samples explains; 3 if
    none is, but some could not be compared.
    """
    from hostcheck.bench.baseline import compare as held
    from hostcheck.bench.baseline import read
    from hostcheck.render.bench import render_comparison

    baseline = read(file)
    names = tuple(dict.fromkeys(measured.bench for measured in baseline.measurements))
    if measuring.names:
        baseline, names = measuring.named(baseline), ()
    if source is None and measuring.level is None and baseline.level in _LEVELS:
        measuring = replace(measuring, level=baseline.level)
    session, interrupted = measuring.session(names) if source is None else (measuring.before(source), False)
    comparison = held(baseline, session, tolerance=tolerance)
    click.echo(render_comparison(comparison), nl=False)
    if interrupted:
        ctx.exit(INTERRUPTED)
    worse = any(each.worse for each in comparison.compared)
    ctx.exit(1 if worse else 3 if comparison.apart or not comparison.compared else 0)


def _show() -> Callable[[Progress], None]:
    """Return what shows what runs and what is left: a line that changes on a terminal, else a line for each."""
    live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def show(told: Progress) -> None:
        where = f"{told.subjects} alone" if told.alone else told.subjects
        line = f"[{told.step}/{told.steps}] {told.bench} on {where}, {told.left:.0f} s left"
        if live:
            # A line that is wrapped could not be taken away again.
            width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
            click.echo(f"\r\x1b[K{line[: width - 1]}", err=True, nl=False)
        elif told.got is None:
            click.echo(line, err=True)

    return show


def _snapshot() -> Snapshot:
    """Return this host as it is after the measurements: what they brought to light is in it."""
    from hostcheck.audit import probes_for
    from hostcheck.checklist import Checklist
    from hostcheck.snapshot.local import collect

    try:
        return collect(probes_for(Checklist()), progress=progress())
    finally:
        clear_progress()


def _place(hostname: str, time: float) -> Path:
    """Return where the measurements of a host are kept unless the user says where."""
    name = re.sub(r"[^\w.-]", "_", hostname)
    at = dt.datetime.fromtimestamp(time).strftime("%Y%m%d-%H%M%S")
    own = (Path(f"hostcheck-bench-{name}-{at}{more}.tar.gz") for more in chain([""], (f"-{n}" for n in count(2))))
    # Two that measure at once, each its own GPUs, can end in the same second.
    return next(path for path in own if not path.exists())


def _look_ahead_here() -> None:
    """Make sure that the archive can be kept in the current folder."""
    place = _place(os.uname().nodename, time.time())
    try:
        look_ahead(place)
    except HostcheckError as problem:
        raise HostcheckError(f"{problem}{_ELSEWHERE}") from None


def _keep(snapshot: Snapshot, save: Path | None) -> str:
    """Write the archive; return what to say of it. What was measured is shown even where it cannot be kept."""
    from hostcheck.snapshot.archive import write_archive

    target = save or _place(snapshot.manifest.hostname, snapshot.manifest.time)
    packed = io.BytesIO()
    write_archive(snapshot, packed)
    try:
        write(target, packed.getvalue(), private=True)
    except HostcheckError as problem:
        return f"hostcheck: the measurements were not kept: {problem}{_ELSEWHERE}"
    # A pipe and /dev/null keep nothing.
    return f"Kept in {target}; hostcheck audit --from {target} judges it again." if target.is_file() else ""
