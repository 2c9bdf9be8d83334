"""How tuners make changes: one value in procfs or sysfs, a drop-in of ours that keeps it, a unit of ours at boot."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hostcheck.errors import Maybe, need
from hostcheck.expect import Expectation
from hostcheck.facts.boot import BootConfig
from hostcheck.facts.dropins import MARK, SCRIPTS, OwnFiles
from hostcheck.facts.kernel import setting
from hostcheck.facts.owners import Setting
from hostcheck.model import Scalar
from hostcheck.render.safe import safe
from hostcheck.tuning.change import Change, Kind, Needs, Refusal, Reload, Risk, Scope
from hostcheck.tuning.target import Unsettled, choose

HEADER = "# Written by hostcheck tune; hostcheck tune rollback takes it away again."


def because(wanted: Expectation) -> str:
    """Return what justifies a value: the source of its expectation, and the layer that set it."""
    return wanted.layer if wanted.source == wanted.layer else f"{wanted.source} ({wanted.layer})"


def pick(target: str, wanted: Expectation, observed: Scalar) -> Scalar | Refusal:
    """Return the value to be written, which is the observed one where it is as expected, or why none follows.

    Args:
        target: what a refusal names.
    """
    try:
        return choose(wanted, observed)
    except Unsettled as unsettled:
        return Refusal(target=target, why=unsettled.why)


@dataclass(frozen=True, slots=True)
class Settled:
    """The value to be written, and whether somebody else sees to it already that it is there after a boot."""

    value: Scalar
    kept: bool = False


def settle(
    own: OwnFiles,
    target: str,
    wanted: Expectation,
    observed: Scalar,
    *,
    file: Setting | None = None,
    tuned: Sequence[tuple[str, str]] = (),
    read: Callable[[str], Scalar] = str,
) -> Settled | Refusal | None:
    """Return what is to be written, or who owns the value; None where the observed one is as expected.

    A value that the operator's own file or tuned's profile sets is theirs: where it is as expected, it is brought back
    and needs no file of ours, else it is left alone.

    Args:
        target: what a refusal names.
        file: the file that sets it at boot, whosever it is.
        tuned: sections and keys by which a profile of tuned sets it.
        read: makes a value out of the text of a file; it may raise ValueError.

    Raises:
        Unavailable: whether somebody else owns it cannot be told.
    """
    value = pick(target, wanted, observed)
    if isinstance(value, Refusal):
        return value
    if value == observed:
        return None
    for owner, text in _claims(own, file, tuned):
        theirs: Scalar
        try:
            theirs = read(" ".join(text.split()))
        except ValueError:
            theirs = None
        if theirs is None or not wanted.matcher.matches(theirs):
            return Refusal(target=target, why=f"{owner} sets it to {text!r}, not {wanted.view.text}: change it there")
        return Settled(theirs, kept=True)
    return Settled(value)


def claimed(target: str, file: Setting | None) -> Refusal | None:
    """Return a refusal where a file that does not give way sets a value at boot, whatever it is.

    Args:
        target: what the refusal names.
        file: the file that sets it, whosever it is.
    """
    if file is None or file.gives_way:
        return None
    return Refusal(target=target, why=f"{file.owner} sets it to {file.value!r} at boot: change it there")


def _claims(own: OwnFiles, file: Setting | None, tuned: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield who sets a value otherwise than as a default that gives way, and to what; the strongest first."""
    profile = need(own.others.tuned) if tuned else None
    if profile is not None and own.others.runs("tuned"):
        for section, key in tuned:
            text = profile.sets(section, key)
            if text is not None:
                yield f"tuned's profile {profile.profile}", text
        if profile.unread:
            yield f"tuned's profile {profile.profile}, of which {profile.unread[0]} could not be found, perhaps", "?"
    if file is not None and not file.gives_way:
        yield file.owner, file.value


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
    tuned = [("sysctl", name), *([("vm", name[3:])] if name.startswith("vm.") else [])]
    settled = settle(own, name, wanted, setting(settings, name), file=own.others.sysctl(name), tuned=tuned, read=int)
    if isinstance(settled, Refusal):
        yield settled
    elif settled is not None:
        yield from set_sysctl(
            own,
            name,
            need(settings[name]),
            f"{settled.value}",
            why=why,
            source=because(wanted),
            fixes=fixes,
            risk=risk,
            opt_in=opt_in,
            kept=settled.kept,
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
    kept: bool = False,
) -> Iterator[Change]:
    """Yield the changes of a sysctl to a text that is known, now and, unless somebody keeps it, for later boots.

    Each setting has a file of its own in sysctl.d, so that two tuners never want the same one to be different.
    """
    path = f"/proc/sys/{name.replace('.', '/')}"
    yield write(path, before, after, why=why, source=source, fixes=fixes, risk=risk, opt_in=opt_in)
    if not kept:
        line, file = f"{name} = {' '.join(after.split())}", f"/etc/sysctl.d/{MARK}{name}.conf"
        yield from drop_in(own, file, [line], why=why, source=source, risk=risk, opt_in=opt_in)


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
    wants: bool = False,
) -> Iterator[Change]:
    """Yield a script of ours and the unit that runs it once at each boot.

    Args:
        name: of the script; the unit is "hostcheck-NAME.service".
        script: lines of POSIX sh, which finds out anew what has other numbers after each boot.
        after: the unit of systemd behind which it runs.
        wants: that unit is started for it, unless it is masked or not installed.
    """
    path, unit = f"{SCRIPTS}/{name}.sh", f"hostcheck-{name}.service"
    yield from drop_in(own, path, script, why=why, source=source, risk=risk, opt_in=opt_in)
    lines = [
        "[Unit]",
        f"Description=hostcheck: {name}",
        *([f"Wants={after}"] if wants else []),
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


def by_hand(target: str, why: str, source: str, commands: Iterable[Sequence[str] | str] = ()) -> Change:
    """Return what the operator is to do, since the place is somebody else's or the step is none of a plan's.

    Args:
        target, why, source: as of any change.
        commands: how, in order; a list of words is quoted for sh. Where one holds what cannot be shown as it is, such
            as a name with a line's end in it, none is given: half of a recipe is worse than none.
    """
    lines = tuple(command if isinstance(command, str) else shlex.join(command) for command in commands)
    return Change(
        kind=Kind.MANUAL,
        target=target,
        before=None,
        after=None,
        scope=Scope.PERSISTENT,
        why=why,
        source=source,
        commands=lines if all(safe(line) == line for line in lines) else (),
    )


def boot_commands(tool: str, argument: str, *, remove: bool = False) -> tuple[Sequence[str] | str, ...]:
    """Return the commands that give the kernel an argument, or show where it is given; none without a known tool."""
    if tool == "grubby":
        return (["grubby", "--update-kernel=ALL", f"--{'remove-' if remove else ''}args={argument}"],)
    if tool == "grub" and remove:
        return (["grep", "-rnwF", "-e", argument, "/etc/default/grub", "/etc/default/grub.d"], "update-grub")
    if tool == "grub":
        line = f'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT {argument}"'
        file = f"/etc/default/grub.d/90-site-{argument.partition('=')[0]}.cfg"
        return (f"echo {shlex.quote(line)} > {shlex.quote(file)}", "update-grub")
    return ()


def boot_argument(
    boot: BootConfig, name: str, after: str, *, why: str, source: str, risk: Risk = Risk.MEDIUM, opt_in: bool = False
) -> Iterator[Change | Refusal]:
    """Yield what gives the kernel an argument from the next boot on; nothing where it will be given already.

    An argument that is there with another value is somebody's decision and left alone.
    """
    wanted = f"{name}={after}" if after else name
    if not boot.tool:
        yield by_hand(wanted, f"add {wanted} to the kernel's command line in this host's boot loader: {why}", source)
        return
    key = name.replace("-", "_")
    if boot.arguments.has(key):
        given = boot.arguments.get(key)
        if given != after:
            told = f"the boot loader gives {name}={given} from the next boot on"
            yield Refusal(target=wanted, why=f"{told}, and somebody decided so: change it there")
        return
    yield Change(
        kind=Kind.KERNEL_ARG,
        target=f"{boot.tool} {name}",
        before=None,
        after=after,
        scope=Scope.PERSISTENT,
        why=why,
        risk=risk,
        needs=Needs.REBOOT,
        source=source,
        opt_in=opt_in,
    )
