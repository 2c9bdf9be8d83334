"""Units of systemd that a GPU host has to have, and their states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hostcheck.errors import Unavailable
from hostcheck.facts.base import Fact
from hostcheck.snapshot.probes import CommandProbe
from hostcheck.snapshot.reading import Ending, Reading

PERSISTENCED = "nvidia-persistenced.service"
FABRIC_MANAGER = "nvidia-fabricmanager.service"
UNITS_PROBE = CommandProbe(
    "software.units",
    (
        "systemctl",
        "show",
        "--no-pager",
        "--property=Id",
        "--property=LoadState",
        "--property=UnitFileState",
        "--property=ActiveState",
        "--property=ExecStart",
        PERSISTENCED,
        FABRIC_MANAGER,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One unit, in systemd's own words.

    Attributes:
        name: such as "nvidia-persistenced.service".
        load: "loaded", "not-found", "masked" and others.
        file: "enabled", "disabled", "static" (nothing to enable: others start it) and others; empty without a file.
        active: "active", "inactive", "failed" and others.
        command: the words of its first ExecStart; empty where it has none.
    """

    name: str
    load: str
    file: str
    active: str
    command: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """What a change of a unit has as its value, such as "disabled inactive"; "failed" is inactive there."""
        return f"{self.file} {'inactive' if self.active == 'failed' else self.active}"

    @property
    def why_not(self) -> str:
        """Why it cannot be started or enabled; an empty string where it can."""
        if self.load == "masked" or self.file.startswith("masked"):
            return "it is masked: somebody wants it never to run (systemctl unmask takes that back)"
        if self.active == "failed":
            return f"it has failed, and would again: systemctl status {self.name} tells why"
        if self.load != "loaded" or self.file not in ("enabled", "disabled", "static"):
            return f"systemd calls it {self.load}, {self.file or 'without a file'}"
        if self.active not in ("active", "inactive"):
            return f"it is {self.active} just now"
        return ""


def parse_units(text: str) -> dict[str, Unit]:
    """Parse blocks of `systemctl show`: name to unit; blocks without a name or a state are left out.

    Sample:
        Id=nvidia-persistenced.service
        LoadState=loaded
        ActiveState=active
        UnitFileState=static
        ExecStart={ path=/usr/bin/nvidia-persistenced ; argv[]=/usr/bin/nvidia-persistenced --user nvidia-persistenced --no-persistence-mode --verbose ; ignore_errors=no ; start_time=[Fri 2026-11-20 08:11:02 UTC] ; stop_time=[n/a] ; pid=1377 ; code=(null) ; status=0/0 }

        Id=nvidia-fabricmanager.service
        LoadState=not-found
        ActiveState=inactive
    """  # noqa: E501
    units = {}
    for block in text.split("\n\n"):
        values: dict[str, str] = {}
        for line in block.splitlines():
            key, _, value = line.partition("=")
            values.setdefault(key, value)
        if values.get("Id") and values.get("LoadState") and values.get("ActiveState"):
            _, _, rest = values.get("ExecStart", "").partition("argv[]=")
            units[values["Id"]] = Unit(
                name=values["Id"],
                load=values["LoadState"],
                file=values.get("UnitFileState", ""),
                active=values["ActiveState"],
                command=tuple(rest.partition(" ; ")[0].split()),
            )
    return units


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """The units that were asked for.

    Attributes:
        booted: whether systemd runs this host at all.
        known: name to unit.
    """

    booted: bool
    known: Mapping[str, Unit]

    def unit(self, name: str) -> Unit | None:
        """Return a unit, or None where it is not installed.

        Raises:
            Unavailable: systemctl said nothing of it.
        """
        if not self.booted:
            return None
        found = self.known.get(name)
        if found is None:
            raise Unavailable(f"systemctl said nothing of {name}", UNITS_PROBE.id)
        return None if found.load == "not-found" else found


def read_units(reading: Reading) -> Units:
    """Return the units.

    Raises:
        Unavailable: systemctl did not answer.
    """
    said = reading.err + reading.out
    if reading.ending is Ending.ABSENT or (reading.ending is Ending.EXIT and b"not been booted with systemd" in said):
        return Units(booted=False, known={})
    return Units(booted=True, known=parse_units(reading.text()))


UNITS: Fact[Units] = Fact("software.units", read_units, UNITS_PROBE)
