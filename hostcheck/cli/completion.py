"""`hostcheck completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from hostcheck.cli.main import cli


@click.command("completion")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def command(shell: str) -> None:
    """Print the completion script for a shell.

    \b
    bash: hostcheck completion bash >~/.local/share/bash-completion/completions/hostcheck
    zsh:  hostcheck completion zsh >"${fpath[1]}/_hostcheck"
    fish: hostcheck completion fish >~/.config/fish/completions/hostcheck.fish
    """
    completer = get_completion_class(shell)
    assert completer is not None
    click.echo(completer(cli, {}, "hostcheck", "_HOSTCHECK_COMPLETE").source())
