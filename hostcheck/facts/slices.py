"""The slice of systemd in which services run: the CPUs that it may use, and who said so."""

from __future__ import annotations

from dataclasses import dataclass

from hostcheck.errors import NotApplicable, Unavailable
from hostcheck.facts.base import Fact
from hostcheck.facts.cpu import parse_cpu_list
from hostcheck.facts.process import DAEMONS, Daemons
from hostcheck.snapshot.probes import CommandProbe, FileProbe
from hostcheck.snapshot.reading import Ending, Reading

_CONTROLLERS = "/sys/fs/cgroup/cgroup.controllers"
CONTROLLERS_PROBE = FileProbe("cpu.cgroup-controllers", (_CONTROLLERS,))
SLICE_PROBE = CommandProbe(
    "cpu.system-slice",
    ("systemctl", "show", "--no-pager", "--property=AllowedCPUs", "--property=DropInPaths", "system.slice"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemSlice:
    """What systemd knows of system.slice.

    Attributes:
        allowed: the CPUs that its services may use; None where nothing was said, and they may use all.
        drop_ins: paths of the files that add to its unit, in order.
        why_not: why systemd could not hold to it here; empty where it can.
    """

    allowed: frozenset[int] | None
    drop_ins: tuple[str, ...]
    why_not: str = ""


def parse_system_slice(text: str, controllers: str | None) -> SystemSlice:
    """Parse `systemctl show system.slice`.

    Args:
        text: what it said.
        controllers: those of the unified hierarchy; None where there is none.

    Raises:
        Unavailable: it said something else.

    Sample:
        AllowedCPUs=0-3 8
        DropInPaths=/etc/systemd/system.control/system.slice.d/50-AllowedCPUs.conf
    """
    said = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if "DropInPaths" not in said:
        raise Unavailable(f"systemctl show system.slice said {text[:60]!r}", SLICE_PROBE.id)
    why_not = ""
    if "AllowedCPUs" not in said:
        why_not = "this systemd does not know AllowedCPUs=, which came with version 244"
    elif "cpuset" not in (controllers or "").split():
        why_not = "cpusets are not in the unified hierarchy here (cgroup v2), and systemd sets no others"
    cpus = said.get("AllowedCPUs", "").split()
    allowed = parse_cpu_list(",".join(cpus)) if cpus else None
    return SystemSlice(allowed=allowed, drop_ins=tuple(said["DropInPaths"].split()), why_not=why_not)


def read_system_slice(said: Reading, controllers: Reading, daemons: Daemons) -> SystemSlice:
    """Return what systemd knows of system.slice.

    Raises:
        NotApplicable: systemd does not run this machine.
        Unavailable: it did not answer.
    """
    if said.ending is Ending.ABSENT or not daemons.has("/run/systemd/system"):
        raise NotApplicable("systemd does not run here")
    return parse_system_slice(said.text(), controllers.read(_CONTROLLERS))


SYSTEM_SLICE: Fact[SystemSlice] = Fact("cpu.system-slice", read_system_slice, SLICE_PROBE, CONTROLLERS_PROBE, DAEMONS)
