"""How tuners make changes: one value in procfs or sysfs, a drop-in of ours that keeps it, a unit of ours at boot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from hostcheck.errors import Maybe, need
from hostcheck.expect import Expectation
from hostcheck.facts.dropins import MARK, SCRIPTS, OwnFiles
from hostcheck.facts.kernel import setting
from hostcheck.model import Scalar
from hostcheck.tuning.change import Change, Kind, Needs, Refusal, Reload, Risk, Scope
from hostcheck.tuning.target import Unsettled, choose

HEADER = "# Written by hostcheck tune; hostcheck tune rollback takes it away again."


def because(wanted: Expectation) -> str:
    """Return what justifies a value: the source of its expectation, and the layer that set it."""
    return f"{wanted.source} ({wanted.layer})"


def settle(target: str, wanted: Expectation, observed: Scalar) -> Scalar | Refusal:
    """Return the value to be written, which is the observed one where it is as expected, or why none follows.

    Args:
        target: what a refusal names.
    """
    try:
        return choose(wanted, observed)
    except Unsettled as unsettled:
        return Refusal(target=target, why=unsettled.why)


def write(
    path: str,
    before: str,
    after: str,
    *,
    why: str,
    source: str,
    fixes: Sequence[str] = (),
    risk: Risk = Risk.LOW,
    opt_in: bool = False,
) -> Change:
    """Return the change of one file of procfs or sysfs, until the next boot."""
    return Change(
        kind=Kind.WRITE,
        target=path,
        before=before,
        after=after,
        scope=Scope.RUNTIME,
        why=why,
        risk=risk,
        source=source,
        fixes=tuple(fixes),
        opt_in=opt_in,
    )


def drop_in(
    own: OwnFiles,
    path: str,
    lines: Iterable[str],
    *,
    why: str,
    source: str,
    fixes: Sequence[str] = (),
    risk: Risk = Risk.LOW,
    needs: Needs = Needs.NOTHING,
    reload: Reload = Reload.NOTHING,
    opt_in: bool = False,
    header: str = HEADER,
) -> Iterator[Change]:
    """Yield the change of a whole file of ours; nothing where it is there already as wanted."""
    text = "".join(f"{line}\n" for line in (header, *lines))
    before = own.text(path)
    if before != text:
        yield Change(
            kind=Kind.FILE,
            target=path,
            before=before,
            after=text,
            scope=Scope.PERSISTENT,
            why=why,
            risk=risk,
            needs=needs,
            reload=reload,
            source=source,
            fixes=tuple(fixes),
            opt_in=opt_in,
        )


def at_boot(
    own: OwnFiles,
    name: str,
    values: Mapping[str, str],
    *,
    why: str,
    source: str,
    risk: Risk = Risk.LOW,
    opt_in: bool = False,
) -> Iterator[Change]:
    """Yield a file of tmpfiles.d that writes values to procfs or sysfs at each boot.

    Args:
        name: for the file's name.
        values: path, which may be a glob, to the word.
    """
    lines = [f"w {path} - - - - {value}" for path, value in values.items()]
    path = f"/etc/tmpfiles.d/{MARK}{name}.conf"
    yield from drop_in(own, path, lines, why=why, source=source, risk=risk, opt_in=opt_in)


def sysctl(
    own: OwnFiles,
    settings: Mapping[str, Maybe[str]],
    name: str,
    wanted: Expectation,
    *,
    why: str,
    fixes: Sequence[str],
    risk: Risk = Risk.LOW,
    opt_in: bool = False,
) -> Iterator[Change | Refusal]:
    """Yield what brings a sysctl to an expected whole number, now and for later boots; nothing where it is there.

    Raises:
        NotApplicable: this kernel has no such setting.
        Unavailable: it could not be read.
    """
    observed = setting(settings, name)
    value = settle(name, wanted, observed)
    if isinstance(value, Refusal):
        yield value
    elif value != observed:
        before, source = need(settings[name]), because(wanted)
        yield from set_sysctl(
            own, name, before, f"{value}", why=why, source=source, fixes=fixes, risk=risk, opt_in=opt_in
        )


def set_sysctl(
    own: OwnFiles,
    name: str,
    before: str,
    after: str,
    *,
    why: str,
    source: str,
    fixes: Sequence[str],
    risk: Risk = Risk.LOW,
    opt_in: bool = False,
) -> Iterator[Change]:
    """Yield the changes of a sysctl to a text that is known, now and for later boots.

    Each setting has a file of its own in sysctl.d, so that two tuners never want the same one to be different.
    """
    path = f"/proc/sys/{name.replace('.', '/')}"
    yield write(path, before, after, why=why, source=source, fixes=fixes, risk=risk, opt_in=opt_in)
    line = f"{name} = {' '.join(after.split())}"
    file = f"/etc/sysctl.d/{MARK}{name}.conf"
    yield from drop_in(own, file, [line], why=f"{why}: kept over a reboot", source=source, risk=risk, opt_in=opt_in)


def unit_at_boot(
    own: OwnFiles,
    name: str,
    script: Iterable[str],
    *,
    after: str,
    why: str,
    source: str,
    risk: Risk = Risk.LOW,
    opt_in: bool = False,
) -> Iterator[Change]:
    """Yield a script of ours and the unit that runs it once at each boot.

    Args:
        name: of the script; the unit is "hostcheck-NAME.service".
        script: lines of POSIX sh, which finds out anew what has other numbers after each boot.
        after: the unit of systemd behind which it runs.
    """
    path, unit = f"{SCRIPTS}/{name}.sh", f"hostcheck-{name}.service"
    yield from drop_in(own, path, script, why=why, source=source, risk=risk, opt_in=opt_in)
    lines = [
        "[Unit]",
        f"Description=hostcheck: {name}",
        f"After={after}",
        "",
        "[Service]",
        "Type=oneshot",
        f"ExecStart=/bin/sh {path}",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    file = f"/etc/systemd/system/{unit}"
    yield from drop_in(own, file, lines, why=why, source=source, risk=risk, reload=Reload.SYSTEMD, opt_in=opt_in)
    if unit not in own.enabled:
        yield Change(
            kind=Kind.UNIT,
            target=unit,
            before="disabled inactive",
            after="enabled inactive",
            scope=Scope.PERSISTENT,
            why=why,
            risk=risk,
            source=source,
            opt_in=opt_in,
        )


def by_hand(target: str, why: str, *, source: str = "", scope: Scope = Scope.PERSISTENT) -> Change:
    """Return what the operator is to do, since the place is somebody else's or the step is none of a plan's."""
    return Change(kind=Kind.MANUAL, target=target, before=None, after=None, scope=scope, why=why, source=source)
