"""How tuners bring up services of NVIDIA's, and load kernel modules, each with what keeps it over a boot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hostcheck.facts.dropins import MARK, OwnFiles
from hostcheck.facts.units import Units
from hostcheck.tuning.change import Change, Kind, Refusal, Risk, Scope

from .making import drop_in


def start(
    units: Units, name: str, *, package: str, why: str, source: str, fixes: Sequence[str], risk: Risk = Risk.LOW
) -> Iterator[Change | Refusal]:
    """Yield what enables and starts a unit; nothing where it is so; a refusal where it is not there, or not wanted.

    Args:
        name: such as "nvidia-persistenced.service".
        package: what to install where there is no such unit.
        fixes: the checks that pass once it runs.
    """
    if not units.booted:
        yield Refusal(target=name, why="systemd does not run here: let this host's own init start it")
        return
    unit = units.unit(name)
    if unit is None:
        yield Refusal(target=name, why=f"it is not installed: install {package}, then plan again")
        return
    if unit.active == "active" and unit.file != "disabled":
        return
    if unit.why_not:
        yield Refusal(target=name, why=unit.why_not)
        return
    is_static = unit.file == "static"
    yield Change(
        kind=Kind.UNIT,
        target=name,
        before=unit.state,
        after="static active" if is_static else "enabled active",
        scope=Scope.RUNTIME if is_static else Scope.PERSISTENT,
        why=why,
        risk=risk,
        source=source,
        fixes=() if unit.active == "active" else tuple(fixes),
    )


def load_module(
    own: OwnFiles,
    loaded: frozenset[str],
    name: str,
    *,
    why: str,
    source: str,
    fixes: Sequence[str],
    risk: Risk = Risk.LOW,
) -> Iterator[Change | Refusal]:
    """Yield what loads a kernel module, now and at each boot.

    Args:
        loaded: names of the modules that are.
        name: with underscores.

    Raises:
        Unavailable: whether somebody keeps it from being loaded cannot be told.
    """
    ban = own.others.ban(name)
    if ban is not None:
        yield Refusal(target=name, why=f"{ban.owner} says {ban.value!r}: somebody wants it never to be loaded")
        return
    if name not in loaded:
        yield Change(
            kind=Kind.MODULE,
            target=name,
            before=None,
            after="",
            scope=Scope.RUNTIME,
            why=why,
            risk=risk,
            source=source,
            fixes=tuple(fixes),
        )
    line = own.others.load(name)
    if line is None or line.ours:
        path = f"/etc/modules-load.d/{MARK}{name.replace('_', '-')}.conf"
        yield from drop_in(own, path, [name], why=f"{why}: kept over a reboot", source=source, risk=risk)
