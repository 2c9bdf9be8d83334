"""`hostcheck tune`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hostcheck.cli.audit_fleet import Remote, remote_options
from hostcheck.cli.judging import Judging, judging_options
from hostcheck.cli.options import TUNER_ID, PlanOrTarget, clear_progress, progress, write
from hostcheck.errors import HostcheckError
from hostcheck.model import Severity
from hostcheck.tuning.change import Risk, Scope

if TYPE_CHECKING:
    from hostcheck.fleet.targets import Target
    from hostcheck.tuning.change import Plan
    from hostcheck.tuning.hosts import Hosts
    from hostcheck.tuning.plan import Selection
    from hostcheck.tuning.planning import Planned, Rules

FORMATS = ("text", "json", "md")


class _Planning(click.Group):
    """Plans where no subcommand is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # While a shell completes, nothing is no plan: it wants to know the subcommands.
        if (not args and not ctx.resilient_parsing) or (
            args and args[0].startswith("-") and args[0] not in ("-h", "--help")
        ):
            args = ["plan", *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            from hostcheck.expect import suggest

            known = ", ".join(self.commands)
            near = suggest(args[0], self.commands) or "."
            ctx.fail(f"no command {args[0]!r}{near} Commands: {known}. For a host: hostcheck tune plan {args[0]}")
        return super().resolve_command(ctx, args)


@click.group("tune", cls=_Planning)
def command() -> None:
    """Plan changes that mend what the audit finds, make them, and take them back.

    \b
    hostcheck tune                          what would be changed here, and why; changes nothing
    hostcheck tune plan -o plan.json        the same as a file, to read and edit
    hostcheck tune apply plan.json          make these changes, after asking
    hostcheck tune apply 'gpu[01-08]' --yes plan and apply on each of these, over SSH
    hostcheck tune history                  what was changed here, and when
    hostcheck tune rollback                 take the last of it back
    hostcheck tune recover                  bring to an end what was cut off, such as by a crash

    Each change is written down on its host before it is made, read back, and judged by the checks that it is to mend;
    what does not verify is taken back.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the options say of which changes."""

    only: tuple[str, ...]
    skip: tuple[str, ...]
    max_risk: str
    severity: str
    runtime_only: bool
    persistent_only: bool

    def selection(self) -> Selection:
        """Return the selection that the options make.

        Raises:
            HostcheckError: they contradict each other.
        """
        from hostcheck.tuning.plan import Selection

        if self.runtime_only and self.persistent_only:
            raise HostcheckError("--runtime-only and --persistent-only leave nothing: one of them")
        scopes = tuple(
            scope
            for scope, left_out in ((Scope.RUNTIME, self.persistent_only), (Scope.PERSISTENT, self.runtime_only))
            if not left_out
        )
        return Selection(
            only=self.only,
            skip=self.skip,
            max_risk=Risk(self.max_risk),
            severity=Severity(self.severity),
            scopes=scopes,
        )


_WANTED = {
    "only": click.option(
        "--only",
        multiple=True,
        type=TUNER_ID,
        help="Only what these tuners change, or what mends these checks, such as memory or 'cpu.*'.",
    ),
    "skip": click.option("--skip", multiple=True, type=TUNER_ID, help="Leave these out."),
    "max_risk": click.option(
        "--max-risk",
        type=click.Choice([str(risk) for risk in Risk]),
        default=Risk.HIGH.value,
        show_default=True,
        help="Leave riskier changes out.",
    ),
    "severity": click.option(
        "--severity",
        type=click.Choice([str(level) for level in Severity]),
        default=Severity.INFO.value,
        show_default=True,
        help="Only what mends checks of this severity or above.",
    ),
    "runtime_only": click.option("--runtime-only", is_flag=True, help="Only what lasts until the next boot."),
    "persistent_only": click.option("--persistent-only", is_flag=True, help="Only what is kept over a reboot."),
}


def _planning_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options by which plans are made, as `judging` and `wanted`."""

    @wraps(function)
    def packed(*args: Any, **values: Any) -> None:
        wanted = Wanted(**{field.name: values.pop(field.name) for field in fields(Wanted)})
        function(*args, wanted=wanted, **values)

    for field in reversed(fields(Wanted)):
        packed = _WANTED[field.name](packed)
    return judging_options("path", "site", "role", "settings")(packed)


_remote = remote_options("via", "run_dir", "resume", "mixed")


@command.command("plan")
@click.argument("targets", nargs=-1)
@click.option("--from", "source", type=click.Path(path_type=Path), metavar="FILE", help="Plan for a saved snapshot.")
@_planning_options
@click.option("--program", is_flag=True, help="Print the sh program that would make the changes.")
@click.option("--format", "style", type=click.Choice(FORMATS), help="Form of the output.  [default: text]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write to a file: the plan itself (JSON), for apply; or what --format or --program say.",
)
@click.option("-v", "--verbose", is_flag=True, help="Show files in full.")
@_remote
@click.pass_context
def plan(
    ctx: click.Context,
    targets: tuple[str, ...],
    source: Path | None,
    judging: Judging,
    wanted: Wanted,
    program: bool,
    style: str | None,
    output: Path | None,
    verbose: bool,
    remote: Remote,
) -> None:
    """Say what would be changed, and why; change nothing. This is what `hostcheck tune` alone does.

    The exit code is 1 where there is something to change, 0 where there is nothing, and 3 where something could not be
    determined, or a transaction was not brought to an end (hostcheck tune recover), which only root can see. What you
    would have to do by hand does not count.

    \b
    hostcheck tune plan --only memory --max-risk low
    hostcheck tune plan --from node7.tar.gz         for a snapshot of `hostcheck collect`
    hostcheck tune plan --program | less            the program that would do it
    hostcheck tune plan 'gpu[01-64]' -o plans.json  many hosts; equal plans are shown once
    """
    rules = make_rules(judging, wanted)
    if source is not None:
        if remote.asked(targets):
            raise HostcheckError("--from plans for a saved snapshot, TARGETS are asked now: one or the other")
        planned = _from(source, rules)
    else:
        hosts, asked = reach(targets, remote)
        if asked:
            rules = by_role(rules, asked, remote)
        planned = make(rules, hosts)
    ctx.exit(_show(planned, program=program, style=style, output=output, verbose=verbose))


def make_rules(judging: Judging, wanted: Wanted) -> Rules:
    """Return by what plans are made.

    Raises:
        HostcheckError: an option names what is not there.
    """
    from hostcheck.tuning.planning import Rules

    rules = Rules(checklist=judging.checklist(), selection=wanted.selection(), site=tuple(judging.layers()))
    rules.tuners([""])
    return rules


def by_role(rules: Rules, targets: tuple[Target, ...], remote: Remote) -> Rules:
    """Return the rules with another role for the hosts of some groups."""
    from hostcheck.checklist import Checklist
    from hostcheck.fleet.roles import by_group

    assert isinstance(rules.checklist, Checklist)
    return replace(rules, checklist=by_group(rules.checklist, targets, remote.role_for))


def reach(words: tuple[str, ...], remote: Remote) -> tuple[Hosts, tuple[Target, ...]]:
    """Return the hosts that are meant, and the targets; without any, this host.

    Raises:
        HostcheckError: a target or an option is not right.
    """
    from hostcheck.tuning.hosts import Here, There

    if not remote.asked(words):
        return Here(progress()), ()
    from hostcheck.cli.audit_fleet import SECONDS, ssh_options, targets_of

    targets = targets_of(words, remote)
    hosts = There(
        targets,
        ssh_options(remote),
        user=remote.user,
        parallel=remote.parallel,
        seconds=remote.host_timeout or SECONDS,
    )
    return hosts, targets


def make(rules: Rules, hosts: Hosts) -> Planned:
    """Return the plans of hosts; while they are read and planned, the terminal shows what is waited for."""
    total = len(hosts.names)
    if total < 2:
        try:
            return rules.make(hosts, hosts.names)
        finally:
            clear_progress()
    from hostcheck.fleet.progress import Teller

    teller = Teller(sys.stderr)
    try:
        return rules.make(hosts, hosts.names, progress=lambda done: teller.planning(done, total))
    finally:
        teller.clear()


def take(rules: Rules, hosts: Hosts, plans: Sequence[Plan], where: str) -> tuple[Planned, Rules]:
    """Return the plan of a file for each host, and the rules with the roles that they were made for.

    Raises:
        HostcheckError: there is none for a host, or it makes no sense here.
    """
    try:
        return rules.take(hosts, hosts.names, plans)
    except HostcheckError as problem:
        raise HostcheckError(f"{where}: {problem}") from None
    finally:
        clear_progress()


def _from(source: Path, rules: Rules) -> Planned:
    from hostcheck.snapshot.archive import read_archive
    from hostcheck.tuning.planning import Planned

    snapshot = read_archive(source)
    name = snapshot.manifest.hostname
    made, before = rules.plan(name, snapshot)
    return Planned(plans={name: made}, before={name: before}, absent=())


def _show(planned: Planned, *, program: bool, style: str | None, output: Path | None, verbose: bool) -> int:
    from hostcheck.tuning.plan import plans_code, to_do

    plans = list(planned.plans.values())
    several = len(plans) + len(planned.absent) != 1
    if program:
        if several or not plans:
            raise HostcheckError("--program prints the program of one host; plan for one of them")
        from hostcheck.tuning.program import apply_program

        write(output or Path("-"), apply_program(plans[0]).encode())
    else:
        chosen = style or {".md": "md", ".txt": "text"}.get(
            output.suffix if output else "", "json" if output else "text"
        )
        text = plans_text(planned, chosen, verbose=verbose, plain=output is not None)
        write(output or Path("-"), text.encode("utf-8", "replace"), private=chosen == "json")
    if output is not None and output != Path("-"):
        changes = sum(len(to_do(plan)) for plan in plans)
        what = "program" if program else "plan"
        click.echo(f"hostcheck: {output}: the {what} of {changes:,} changes on {len(plans):,} host(s)", err=True)
    return plans_code(plans, planned.absent)


def plans_text(planned: Planned, style: str, *, verbose: bool, plain: bool = False, asking: bool = False) -> str:
    """Return plans in one of the FORMATS; `plain` without colours, as for a file; `asking` before they are applied."""
    from hostcheck.tuning.planfile import Plans, plan_text

    only: Plan | None = next(iter(planned.plans.values())) if len(planned.plans) == 1 and not planned.absent else None
    if style == "json":
        return plan_text(only or Plans(plans=planned.plans, absent=planned.absent))
    if style == "md":
        from hostcheck.render.plan_markdown import plan_markdown

        return plan_markdown(planned.plans, planned.absent)
    from hostcheck.render.plan import render_plan, render_plans

    shape: dict[str, Any] = {"verbose": verbose, "asking": asking}
    if plain:
        shape |= {"color": False, "width": 100, "ascii": False}
    if only is not None:
        return render_plan(only, name=next(iter(planned.plans)), **shape)
    return render_plans(planned.plans, planned.absent, **shape)


_FORMAT = click.option(
    "--format", "style", type=click.Choice(("text", "json")), default="text", help="Form of the output."
)
_YES = click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")


@command.command("apply")
@click.argument("words", nargs=-1, type=PlanOrTarget(), metavar="[PLAN] [TARGETS]...")
@_planning_options
@_YES
@click.option("--keep-unverified", is_flag=True, help="Leave in place what does not verify.")
@click.option("--measure", is_flag=True, help="Measure before and after, and print the difference with its noise.")
@click.option(
    "--wave",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    metavar="N",
    help="Hosts at a time, once one of each different plan is done.",
)
@click.option(
    "--max-failures",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Stop when more hosts than this have failed.",
)
@_FORMAT
@click.option("-v", "--verbose", is_flag=True, help="Show files in full.")
@_remote
@click.pass_context
def apply(
    ctx: click.Context,
    words: tuple[str, ...],
    judging: Judging,
    wanted: Wanted,
    yes: bool,
    keep_unverified: bool,
    measure: bool,
    wave: int,
    max_failures: int,
    style: str,
    verbose: bool,
    remote: Remote,
) -> None:
    """Make the changes of a plan, and judge what came of it.

    PLAN is a file of `tune plan -o`; without one, each host is planned for now. TARGETS are hosts as for `hostcheck
    audit`; without any, it is this host, or the hosts of the plan.

    The plan is shown, and done when you say yes. Then a fresh snapshot is judged: where a check that was to pass does
    not, its changes are taken back, and the exit code is 4. Of many hosts, one of each different plan comes first, then
    the others in waves; when too many fail, the rest is left as it is, and named.

    \b
    hostcheck tune apply --only memory --max-risk low
    hostcheck tune apply plan.json
    hostcheck tune apply 'gpu[01-08]' --yes --wave 4 --max-failures 1
    """
    from hostcheck.cli import tune_apply

    ctx.exit(
        tune_apply.apply(
            words,
            make_rules(judging, wanted),
            remote,
            tune_apply.How(
                yes=yes,
                keep_unverified=keep_unverified,
                measure=measure,
                wave=wave,
                max_failures=max_failures,
                json=style == "json",
                verbose=verbose,
            ),
        )
    )


@command.command("verify")
@click.argument("words", nargs=-1, metavar="[TRANSACTION] [TARGETS]...")
@judging_options("path", "site", "role", "settings")
@_FORMAT
@_remote
@click.pass_context
def verify(ctx: click.Context, words: tuple[str, ...], judging: Judging, style: str, remote: Remote) -> None:
    """Judge anew what was changed: whether the checks that were to be mended pass today.

    Arguments of the kernel are held against those that it was started with; before a reboot, they wait for it.

    TRANSACTION is a number of `tune history`; without one, all that stands is judged. The exit code is 0 where all of
    it passes, 4 where something does not or could not be judged, and 3 where something waits for a reboot, or a host
    could not be read.
    """
    from hostcheck.cli.tune_history import verify as run

    ctx.exit(run(words, judging, remote, json=style == "json"))


@command.command("rollback")
@click.argument("words", nargs=-1, metavar="[TRANSACTION] [TARGETS]...")
@click.option("--with-newer", is_flag=True, help="Take back newer transactions first that changed the same.")
@_YES
@_FORMAT
@_remote
@click.pass_context
def rollback(
    ctx: click.Context, words: tuple[str, ...], with_newer: bool, yes: bool, style: str, remote: Remote
) -> None:
    """Take changes back, in reverse order.

    TRANSACTION is a number of `tune history`; without one, it is the newest that stands. What somebody changed since is
    left alone, and told. To do it twice is the same as once.
    """
    from hostcheck.cli.tune_history import rollback as run

    ctx.exit(run(words, remote, with_newer=with_newer, yes=yes, json=style == "json"))


@command.command("history")
@click.argument("targets", nargs=-1)
@_FORMAT
@_remote
@click.pass_context
def history(ctx: click.Context, targets: tuple[str, ...], style: str, remote: Remote) -> None:
    """Show what hostcheck changed, from the journals on the hosts themselves. Changes nothing."""
    from hostcheck.cli.tune_history import history as run

    ctx.exit(run(targets, remote, json=style == "json"))


@command.command("recover")
@click.argument("targets", nargs=-1)
@_FORMAT
@_remote
@click.pass_context
def recover(ctx: click.Context, targets: tuple[str, ...], style: str, remote: Remote) -> None:
    """Bring to an end what was cut off, such as by a crash or a power failure: what was begun is taken back."""
    from hostcheck.cli.tune_history import recover as run

    ctx.exit(run(targets, remote, json=style == "json"))
