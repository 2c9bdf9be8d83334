"""`hostcheck audit TARGETS`: other hosts, one or many."""

from __future__ import annotations

import datetime as dt
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hostcheck.cli.options import Finite
from hostcheck.errors import HostcheckError

if TYPE_CHECKING:
    from hostcheck.cli.judging import Judging
    from hostcheck.cli.views import View
    from hostcheck.fleet.store import Store
    from hostcheck.fleet.targets import Target
    from hostcheck.transport.ssh import SshOptions

SECONDS = 120.0
"""Limit for one host, connecting included, without the window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """What the options say of which hosts, and how to reach them.

    Where a command has no such option, its field keeps the default.
    """

    hosts_file: tuple[Path, ...]
    inventory: Path | None
    limit: str | None
    via: str = "ssh"
    ssh_config: Path | None
    user: str | None
    parallel: int
    host_timeout: float | None
    retries: int
    become: bool
    ask_password: bool
    password_env: str | None
    password_fd: int | None
    ask_become_password: bool
    become_password_env: str | None
    become_password_fd: int | None
    accept_new_keys: bool
    role_for: tuple[str, ...]
    run_dir: Path | None = None
    resume: Path | None = None
    mixed: bool = False

    def asked(self, targets: tuple[str, ...]) -> bool:
        """Return whether other hosts than this one are meant.

        Raises:
            HostcheckError: options for other hosts, and no host.
        """
        if targets or self.hosts_file or self.inventory or self.resume:
            return True
        plain = {"via": "ssh", "parallel": 64, "retries": 2}
        for field in fields(self):
            value = getattr(self, field.name)
            if value not in (None, False, ()) and value != plain.get(field.name):
                raise HostcheckError(f"--{field.name.replace('_', '-')} is for other hosts, and none is named")
        return False


_PATH = click.Path(path_type=Path)
_OPTIONS = {
    "hosts_file": click.option(
        "--hosts-file", multiple=True, type=_PATH, metavar="FILE", help="TARGETS in a file; - is standard input."
    ),
    "inventory": click.option(
        "-i", "--inventory", type=_PATH, metavar="FILE", help="Hosts of an Ansible inventory, of any kind."
    ),
    "limit": click.option("--limit", metavar="PATTERN", help="Only these hosts or groups of the inventory."),
    "via": click.option(
        "--via", type=click.Choice(("ssh", "ansible")), default="ssh", help="Who carries it: hostcheck, or Ansible."
    ),
    "ssh_config": click.option("--ssh-config", type=_PATH, metavar="FILE", help="In place of ~/.ssh/config."),
    "user": click.option(
        "--user", metavar="NAME", help="Log in as NAME, where TARGETS or an inventory name nobody else."
    ),
    "parallel": click.option(
        "--parallel", type=click.IntRange(1, 1024), default=64, metavar="N", help="Hosts at a time.  [default: 64]"
    ),
    "host_timeout": click.option(
        "--host-timeout",
        type=Finite(1, 86_400),
        metavar="SECONDS",
        help=f"Limit for one host, connecting included.  [default: {SECONDS:.0f}, and the window]",
    ),
    "retries": click.option(
        "--retries",
        type=click.IntRange(0, 10),
        default=2,
        metavar="N",
        help="Further attempts to connect, where that may help; a program is never run twice.  [default: 2]",
    ),
    "become": click.option("--become", is_flag=True, help="Be root there, through sudo."),
    "ask_password": click.option(
        "--ask-password", is_flag=True, help="Ask for the password to log in with, where no key does."
    ),
    "password_env": click.option("--password-env", metavar="NAME", help="Take it from this environment variable."),
    "password_fd": click.option(
        "--password-fd", type=click.IntRange(0), metavar="N", help="Read it from this file descriptor."
    ),
    "ask_become_password": click.option(
        "--ask-become-password", is_flag=True, help="Ask for the password that sudo wants."
    ),
    "become_password_env": click.option(
        "--become-password-env", metavar="NAME", help="Take it from this environment variable."
    ),
    "become_password_fd": click.option(
        "--become-password-fd", type=click.IntRange(0), metavar="N", help="Read it from this descriptor."
    ),
    "accept_new_keys": click.option(
        "--accept-new-keys", is_flag=True, help="Trust hosts that known_hosts lacks, never a changed key."
    ),
    "role_for": click.option(
        "--role-for", multiple=True, metavar="GROUP=ROLE", help="Another role for the hosts of a group."
    ),
    "run_dir": click.option(
        "--run-dir", type=_PATH, metavar="DIR", help="Keep the answers here.  [default: hostcheck-runs/TIME]"
    ),
    "resume": click.option("--resume", type=_PATH, metavar="DIR", help="Take up a run: ask only who has not answered."),
    "mixed": click.option("--mixed", is_flag=True, help="Take it up although its answers are to other checks."),
}


def remote_options(*without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of `Remote`, as one argument `remote`; all but those that are named."""
    chosen = [name for name in _OPTIONS if name not in without]

    def give(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def packed(*args: Any, **values: Any) -> None:
            function(*args, remote=Remote(**{name: values.pop(name) for name in chosen}), **values)

        for name in reversed(chosen):
            packed = _OPTIONS[name](packed)
        return packed

    return give


def audit_fleet(words: tuple[str, ...], remote: Remote, judging: Judging, view: View, *, window: float) -> int:
    """Ask hosts, judge them, show the verdict; return the exit code."""
    from hostcheck.audit import probes_for
    from hostcheck.cli.fleet import show_fleet, show_host
    from hostcheck.cli.main import INTERRUPTED
    from hostcheck.fleet.roles import by_group
    from hostcheck.fleet.store import Store
    from hostcheck.snapshot.program import program

    checklist, layers = judging.checklist(), judging.layers()
    targets = targets_of(words, remote)
    options = ssh_options(remote)
    text = program(probes_for(checklist), window=window).encode()
    if len(targets) == 1 and not (remote.run_dir or remote.resume):
        view.check_host()
        chosen = by_group(checklist, targets, remote.role_for)
        with tempfile.TemporaryDirectory(prefix="hostcheck-") as folder:
            store = Store(Path(folder))
            _ask(store, store.begin(targets, text), text, remote, options, window)
            return show_host(store, targets[0].name, chosen, layers, judging, view)
    if len(targets) > 1:
        view.check_fleet()
        by_group(checklist, targets, remote.role_for)
    store = Store(remote.resume or remote.run_dir or _new_folder())
    asked = store.begin(targets, text, resume=remote.resume is not None, mixed=remote.mixed)
    if len(store.targets()) > 1:
        view.check_fleet()
    else:
        view.check_host()
    chosen = by_group(checklist, store.targets(), remote.role_for)
    try:
        _ask(store, asked, text, remote, options, window)
    except KeyboardInterrupt:
        click.echo(
            f"hostcheck: interrupted; {_kept(store)}\n"
            f"  show them:      hostcheck fleet show {store.path}\n"
            f"  ask the others: hostcheck audit --resume {store.path}, with the same options",
            err=True,
        )
        return INTERRUPTED
    click.echo(f"hostcheck: {_kept(store)}", err=True)
    if len(store.targets()) == 1:
        return show_host(store, store.targets()[0].name, chosen, layers, judging, view)
    return show_fleet(store, chosen, layers, judging, view)


def _kept(store: Store) -> str:
    have = sum(1 for _ in store.archives())
    return f"{have:,} of {len(store.targets()):,} hosts answered; the answers are kept in {store.path}"


def targets_of(words: tuple[str, ...], remote: Remote) -> tuple[Target, ...]:
    """Return the hosts that are meant."""
    from hostcheck.fleet.targets import read_targets

    if remote.via == "ansible" and (remote.inventory is None or words or remote.hosts_file):
        raise HostcheckError("--via ansible takes its hosts from an inventory: -i FILE, and --limit")
    if remote.resume and not (words or remote.hosts_file or remote.inventory):
        return ()
    return read_targets(
        words,
        files=remote.hosts_file,
        inventory=remote.inventory,
        limit=remote.limit,
        stdin=sys.stdin,
        connect=remote.via == "ssh",
    )


def _new_folder() -> Path:
    base = Path("hostcheck-runs") / dt.datetime.now().strftime("%Y-%m-%d-%H%M%S")
    number, path = 1, base
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def _ask(
    store: Store, asked: tuple[Target, ...], text: bytes, remote: Remote, options: SshOptions, window: float
) -> None:
    """Ask the hosts of which there is no answer yet."""
    missing = store.missing(asked)
    seconds = remote.host_timeout or SECONDS + window
    if remote.via == "ansible":
        from hostcheck.fleet.ansible import run_via_ansible

        assert remote.inventory is not None
        run_via_ansible(
            remote.inventory, remote.limit, text, store.path, remote.parallel, remote.become, seconds=seconds
        )
        return
    from hostcheck.fleet.fanout import fan_out, share
    from hostcheck.fleet.progress import Teller
    from hostcheck.fleet.reach import over_ssh

    teller = Teller(sys.stderr)
    try:
        fan_out(
            missing,
            over_ssh(options, remote.user),
            text,
            parallel=remote.parallel,
            seconds=seconds,
            most=share(remote.parallel),
            store=store,
            progress=teller,
        )
    finally:
        teller.clear()


def ssh_options(remote: Remote) -> SshOptions:
    """Return how to connect; passwords are taken now."""
    from hostcheck.cli.secrets import secret
    from hostcheck.transport.ssh import SshOptions

    if remote.via == "ansible":
        login = ("ssh_config", "user", "ask_password", "password_env", "password_fd", "accept_new_keys")
        for name in (*login, "ask_become_password", "become_password_env", "become_password_fd"):
            if getattr(remote, name) not in (None, False):
                raise HostcheckError(f"--{name.replace('_', '-')}: with --via ansible, the login is Ansible's own")
    asked = (remote.ask_become_password, remote.become_password_env, remote.become_password_fd)
    if not remote.become and asked != (False, None, None):
        raise HostcheckError("a password for sudo is for --become")
    if remote.ssh_config is not None and not remote.ssh_config.is_file():
        raise HostcheckError(f"--ssh-config {remote.ssh_config}: no such file")
    return SshOptions(
        config_path=remote.ssh_config,
        accept_new=remote.accept_new_keys,
        become=remote.become,
        password=secret("password", remote.ask_password, remote.password_env, remote.password_fd),
        become_password=secret("become-password", *asked),
        retries=remote.retries,
    )
