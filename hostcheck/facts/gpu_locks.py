"""Clocks of GPUs that hostcheck itself has locked since the host was started."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from hostcheck.errors import Maybe, Unavailable, need
from hostcheck.facts.base import Fact
from hostcheck.snapshot.probes import KIB, FileProbe
from hostcheck.snapshot.reading import Ending, FileState, Reading

LOCKS_PROBE = FileProbe("gpu.clock-locks", ("/run/hostcheck/GPU-*-clock-lock",), limit=KIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockLocks:
    """What hostcheck wrote down when it locked clocks: neither NVML nor nvidia-smi has a way to ask.

    Another tool, a GPU reset or a reload of the driver can have ended or moved a lock since, unseen. A reboot ends the
    locks, and this record, which is below /run, with them.

    Attributes:
        known: a GPU's UUID and the setting ("sm-clock-lock" or "memory-clock-lock") to "MIN,MAX" in MHz.
    """

    known: Mapping[tuple[str, str], Maybe[str]]

    def of(self, uuid: str, setting: str) -> str | None:
        """Return what hostcheck locked a clock to, or None where it did not.

        Raises:
            Unavailable: its record cannot be read, or is none.
        """
        found = self.known.get((uuid, setting))
        return None if found is None else need(found)


def read_locks(reading: Reading) -> ClockLocks:
    """Return the locks that hostcheck made.

    Raises:
        Unavailable: they were not looked for.

    Sample:
        1410,1410
    """
    reading.check()
    known: dict[tuple[str, str], Maybe[str]] = {}
    for path, state in reading.files.items():
        uuid, _, setting = path.rpartition("/")[2].partition(".")
        if state.ending is not Ending.ABSENT:
            known[uuid, setting] = _lock(path, state)
    return ClockLocks(known=known)


def _lock(path: str, state: FileState) -> Maybe[str]:
    if state.ending is not Ending.OK:
        return Unavailable(f"{path}: {state.why or state.ending.value}", LOCKS_PROBE.id)
    text = state.data.decode("ascii", "replace").strip()
    return text if re.fullmatch(r"[0-9]{1,5},[0-9]{1,5}", text) else Unavailable(f"{path} is no lock", LOCKS_PROBE.id)


CLOCK_LOCKS: Fact[ClockLocks] = Fact("gpu.clock-locks", read_locks, LOCKS_PROBE)
