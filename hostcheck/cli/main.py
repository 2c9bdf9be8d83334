"""The `hostcheck` command: finds the subcommand, and turns every ending into an exit code."""

from __future__ import annotations

import gc
import sys
from contextlib import suppress
from importlib import import_module
from itertools import pairwise

import click

from hostcheck import __version__
from hostcheck.cli.streams import mend
from hostcheck.errors import HostcheckError

COMMANDS = {
    "audit": "Judge this host, others over SSH, or a saved snapshot, against the checklist.",
    "tune": "Plan changes that mend what the audit finds, make them, and take them back.",
    "fleet": "Show what a fleet answered, from its run directory.",
    "bench": "Measure this host; each number beside its physical limit, where one is known.",
    "collect": "Take a snapshot of this host, to be judged later or elsewhere.",
    "list": "List the checks, or the tuners.",
    "explain": "Explain one check or tuner: what it reads, what it expects, and why.",
    "coverage": "Show which rows of the checklist are answered, and by what.",
    "completion": "Print the completion script for a shell.",
}
UNDETERMINED = 3
INTERRUPTED = 130


class _Lazy(click.Group):
    """Imports a command's module only when that command runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"hostcheck.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from hostcheck.expect import suggest

            ctx.fail(f"no command {args[0]!r}{suggest(args[0], COMMANDS) or '.'} Commands: {', '.join(COMMANDS)}.")
        return super().resolve_command(ctx, args)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="hostcheck %(version)s")
def cli() -> None:
    """Tell the owner of a GPU host what is wrong with it, and prove it.

    \b
    hostcheck audit                     judge this host
    hostcheck audit -o report.html      the same as a page
    hostcheck audit 'gpu[01-64]'        many hosts, over SSH, with nothing installed on them
    hostcheck explain gpu.ecc-mode      why one check matters, and what it reads
    hostcheck tune                      what could be mended here; changes nothing before `tune apply`

    Exit codes: 0 no counted failure; 1 a failure, or something to change; 2 bad usage or input; 3 no failure, but
    something could not be determined; 4 a change was made and did not verify.
    """


def _bad_input(words: list[str]) -> int:
    """Return the exit code of bad usage or input; for Nagios, which takes 2 for a critical host, nothing is known."""
    nagios = "--exit-style=nagios" in words or ("--exit-style", "nagios") in pairwise(words)
    return UNDETERMINED if nagios else 2


def _say(text: str) -> None:
    """Say something on standard error, if that can be written."""
    with suppress(HostcheckError):
        click.echo(text, err=True)


def main() -> None:
    """Run the command line and exit."""
    mend()
    # A run is short and keeps nearly all that it makes: collecting garbage would take a tenth of it.
    gc.disable()
    try:
        code = cli.main(standalone_mode=False)
        sys.stdout.flush()
    except HostcheckError as problem:
        from hostcheck.render.safe import safe

        _say(f"hostcheck: {safe(str(problem))}")
        code = _bad_input(sys.argv)
    except click.ClickException as problem:
        with suppress(HostcheckError):
            problem.show()
        code = _bad_input(sys.argv)
    except (click.Abort, KeyboardInterrupt):
        _say("hostcheck: interrupted")
        code = INTERRUPTED
    except Exception:
        import traceback

        _say(f"{traceback.format_exc()}hostcheck: this is a bug in hostcheck; nothing was judged")
        code = UNDETERMINED
    sys.exit(code)
