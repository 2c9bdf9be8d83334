"""The options by which hosts are judged, for every command that judges some."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hostcheck.cli.options import CHECK_ID
from hostcheck.errors import HostcheckError
from hostcheck.model import Severity

if TYPE_CHECKING:
    from hostcheck.checklist import Checklist
    from hostcheck.expect import Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """What the options say of how to judge.

    Attributes:
        path, site: the checklist file and the site file.
        role, only, skip, require, settings: over what the checklist file says.
        fail_on: failures below this severity do not count.

    Where a command has no such option, its field keeps the default.
    """

    path: Path | None
    site: Path | None
    role: str | None
    only: tuple[str, ...]
    skip: tuple[str, ...]
    require: tuple[str, ...] = ()
    settings: tuple[str, ...]
    fail_on: Severity = Severity.MEDIUM

    def checklist(self) -> Checklist:
        """Return the checklist that the options make.

        Raises:
            HostcheckError: something in it is not right, in one line.
        """
        from hostcheck.audit import all_checks
        from hostcheck.checklist import Checklist, read_checklist, read_setting
        from hostcheck.expect import shipped_names
        from hostcheck.registry import load_checks, select

        checks = load_checks()
        roles = [name.split("/", 1)[1] for name in shipped_names("role")]
        if self.role is not None and self.role not in roles:
            raise HostcheckError(f"--role {self.role}: none of {', '.join(roles)}")
        checklist = Checklist()
        if self.path is not None:
            from hostcheck.coverage import row_ids

            checklist = read_checklist(self.path, checks, row_ids(), roles)
        known = all_checks(checklist)
        select(known, (*self.only, *self.skip))
        required = select(known, self.require)
        return replace(
            checklist,
            role=self.role or checklist.role,
            only=self.only or checklist.only,
            skip=(*checklist.skip, *self.skip),
            require=tuple(sorted({*checklist.require, *required})),
            layers=(*checklist.layers, *(read_setting(text) for text in self.settings)),
            who={
                "only": "--only" if self.only else str(self.path),
                "skip": "--skip" if self.skip else str(self.path),
            },
        )

    def layers(self) -> list[Layer]:
        """Return the site's layers."""
        from hostcheck.audit import read_site

        return read_site(self.site)


class _Role(click.ParamType):  # type: ignore[type-arg] # older releases of click have no type argument
    """The name of a role; completes from the layers."""

    name = "role"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        from hostcheck.expect import shipped_names

        names = [name.partition("/")[2] for name in shipped_names("role")]
        return [click.shell_completion.CompletionItem(name) for name in names if name.startswith(incomplete)]


_OPTIONS = {
    "path": click.option(
        "--checklist", "path", type=click.Path(path_type=Path), metavar="FILE", help="Judge by this checklist."
    ),
    "site": click.option(
        "--site",
        type=click.Path(path_type=Path),
        metavar="FILE",
        envvar="HOSTCHECK_SITE",
        help="Expectations of this site.  [default: /etc/hostcheck/site.toml where it exists]",
    ),
    "role": click.option(
        "--role", type=_Role(), metavar="ROLE", help="What the host is for: training (default), inference or latency."
    ),
    "only": click.option(
        "--only", multiple=True, type=CHECK_ID, help="Run only these checks, such as gpu or 'memory.thp-*'."
    ),
    "skip": click.option("--skip", multiple=True, type=CHECK_ID, help="Leave these checks out; the report says so."),
    "require": click.option(
        "--require", multiple=True, type=CHECK_ID, help="These checks must pass, or the exit code is 3."
    ),
    "settings": click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override one expectation."),
    "fail_on": click.option(
        "--fail-on",
        type=click.Choice([str(level) for level in Severity]),
        default=Severity.MEDIUM.value,
        show_default=True,
        help="Count failures, and what is unknown, from this severity on.",
    ),
}


exit_style_option = click.option(
    "--exit-style",
    type=click.Choice(("plain", "nagios")),
    default="plain",
    help="Meaning of the exit code: as of `hostcheck --help`, or as of Nagios plug-ins: 0 OK; 1 WARNING: a counted "
    "failure; 2 CRITICAL: one of severity high or above; 3 UNKNOWN: not determined, or bad usage or input.",
)


def judging_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of `Judging`, as one argument `judging`; those that are named, or all."""
    chosen = names or tuple(_OPTIONS)

    def give(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def packed(*args: Any, **values: Any) -> None:
            own = {"only": (), "skip": (), **{name: values.pop(name) for name in chosen}}
            if "fail_on" in own:
                own["fail_on"] = Severity(own["fail_on"])
            function(*args, judging=Judging(**own), **values)

        for name in reversed(chosen):
            packed = _OPTIONS[name](packed)
        return packed

    return give
