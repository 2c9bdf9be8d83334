"""Which machine this is, and which of its boots, so that what was planned for one is never done to another."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hostcheck.facts.base import Fact
from hostcheck.facts.kernel import BOOT_PROBE
from hostcheck.snapshot.probes import FileProbe
from hostcheck.snapshot.reading import Reading

_MACHINE, _BOOT = "/etc/machine-id", "/proc/sys/kernel/random/boot_id"

IDENTITY_PROBE = FileProbe("platform.identity", (_MACHINE,))


@dataclass(frozen=True, slots=True)
class Identity:
    """A machine and its boot; each empty where the host has none.

    Attributes:
        machine: /etc/machine-id: 32 hexadecimal digits.
        boot: the kernel's boot_id: a UUID.
    """

    machine: str
    boot: str


def parse_identity(machines: Reading, boots: Reading) -> Identity:
    """Return who the host says it is; an image that has not booted yet says "uninitialized", which is nobody.

    Raises:
        Unavailable: one of the files is there and could not be read.
    """
    machine = (machines.read(_MACHINE) or "").strip().lower()
    boot = (boots.read(_BOOT) or "").strip().lower()
    return Identity(
        machine=machine if re.fullmatch("[0-9a-f]{32}", machine) else "",
        boot=boot if re.fullmatch("[0-9a-f-]{36}", boot) else "",
    )


IDENTITY = Fact("platform.identity", parse_identity, IDENTITY_PROBE, BOOT_PROBE)
