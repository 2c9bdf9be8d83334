"""Errors of the host's memory, as its memory controllers count them (EDAC)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from hostcheck.errors import Maybe, NotApplicable
from hostcheck.facts.base import Fact
from hostcheck.facts.kernel import maybe
from hostcheck.facts.memory import count
from hostcheck.snapshot.probes import KIB, FileProbe
from hostcheck.snapshot.reading import Reading

_MC = "/sys/devices/system/edac/mc/mc*"

EDAC_PROBE = FileProbe(
    "memory.edac", (f"{_MC}/mc_name", f"{_MC}/ce_count", f"{_MC}/ue_count"), limit=4 * KIB, twice=True
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryController:
    """One memory controller that reports errors (EDAC).

    Attributes:
        subject: such as "mc0".
        name: its driver's name for it.
        correctable, uncorrectable: errors since the driver was loaded.
        correctable_growth: how many were added while the snapshot was taken.
    """

    subject: str
    name: str
    correctable: Maybe[int]
    uncorrectable: Maybe[int]
    correctable_growth: Maybe[int]


def read_edac(reading: Reading) -> Sequence[MemoryController]:
    """Return the memory controllers.

    Raises:
        NotApplicable: none reports errors: there is no ECC memory, this is a guest, or no driver is loaded.
    """
    found = reading.glob(f"{_MC}/ce_count", refused="leave-out")
    if not found:
        raise NotApplicable("no memory controller reports errors here (no ECC memory, a guest, or no EDAC driver)")

    def number(sample: Reading, path: str) -> Maybe[int]:
        return maybe(lambda: count(sample.read(path) or "", path))

    controllers = []
    for path in found:
        before = number(reading, path)
        after = number(reading.later, path) if reading.later else reading.unavailable("it was read only once")
        growth = after - before if isinstance(before, int) and isinstance(after, int) else after
        folder = path.rpartition("/")[0]
        name = maybe(partial(reading.read, f"{folder}/mc_name"))
        controllers.append(
            MemoryController(
                subject=folder.rpartition("/")[2],
                name=name.strip() if isinstance(name, str) else "",
                correctable=before,
                uncorrectable=number(reading, f"{folder}/ue_count"),
                correctable_growth=growth,
            )
        )
    return controllers


EDAC: Fact[Sequence[MemoryController]] = Fact("memory.edac", read_edac, EDAC_PROBE)
