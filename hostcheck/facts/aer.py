"""PCI Express errors: the kernel's counters of Advanced Error Reporting, and their growth."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hostcheck.errors import Maybe, NotApplicable, Unavailable
from hostcheck.facts.base import Fact
from hostcheck.facts.pci import AER_SERVICE, DEVICES, LISTING, attribute
from hostcheck.snapshot.probes import FileProbe
from hostcheck.snapshot.reading import Reading

_KINDS = ("correctable", "nonfatal", "fatal")
ERRORS = FileProbe("pci.aer", tuple(f"{DEVICES}/*/aer_dev_{kind}" for kind in _KINDS), limit=4096, twice=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class AerCounters:
    """Error messages of one function, counted by the kernel since boot (Advanced Error Reporting).

    Attributes:
        address: the function.
        correctable, nonfatal, fatal: error name to count; names of one kernel release may differ from another's.
        correctable_growth, nonfatal_growth, fatal_growth: how many came while the snapshot was taken.
    """

    address: str
    correctable: Maybe[Mapping[str, int]]
    nonfatal: Maybe[Mapping[str, int]]
    fatal: Maybe[Mapping[str, int]]
    correctable_growth: Maybe[int]
    nonfatal_growth: Maybe[int]
    fatal_growth: Maybe[int]

    @property
    def subject(self) -> str:
        """The function's address."""
        return self.address


def parse_aer(text: str) -> dict[str, int]:
    """Return the count of each error name; the line TOTAL_ERR_... is left out, since it counts messages.

    Raises:
        Unavailable: a line has no number.

    Sample:
        RxErr 2
        BadTLP 0
        BadDLLP 0
        Rollover 0
        Timeout 0
        NonFatalErr 0
        CorrIntErr 0
        HeaderOF 0
        TOTAL_ERR_COR 2
    """
    counts: dict[str, int] = {}
    for line in text.splitlines():
        # Kernel 4.19 writes names of several words ("Receiver Error 2").
        name, _, number = line.strip().rpartition(" ")
        if not name or not re.fullmatch(r"[0-9]{1,20}", number):
            raise Unavailable(f"AER line {line[:60]!r} is not understood")
        if not name.startswith("TOTAL_"):
            counts[name] = int(number)
    return counts


def _counts(reading: Reading | None, address: str, kind: str) -> Maybe[Mapping[str, int]]:
    if reading is None:
        return Unavailable("the counters were read only once", ERRORS.id)
    text = attribute(reading, address, f"aer_dev_{kind}")
    if text is None:
        return NotApplicable(f"{address} counts no {kind} errors")
    if not isinstance(text, str):
        return text
    try:
        return parse_aer(text)
    except Unavailable as missing:
        return missing


def _growth(before: Maybe[Mapping[str, int]], after: Maybe[Mapping[str, int]]) -> Maybe[int]:
    if not isinstance(before, Mapping):
        return before
    if not isinstance(after, Mapping):
        return after
    # The counters never go back, but with the device itself, which then starts from zero.
    return sum(max(0, count - before.get(name, 0)) for name, count in after.items())


def _errors(listing: Reading, reading: Reading) -> Sequence[AerCounters]:
    reading.check()
    found = {path.split("/")[5] for path in reading.files if path.startswith(f"{DEVICES}/")}
    if not found:
        raise NotApplicable("no PCI function counts errors here, as in most guests")
    if not listing.listed(AER_SERVICE):
        raise NotApplicable("PCI errors go to the firmware on this host, not to the kernel: the BMC's log has them")
    return [_counters(reading, address) for address in sorted(found)]


def _counters(reading: Reading, address: str) -> AerCounters:
    before = {kind: _counts(reading, address, kind) for kind in _KINDS}
    growth = {kind: _growth(before[kind], _counts(reading.later, address, kind)) for kind in _KINDS}
    return AerCounters(
        address=address,
        correctable=before["correctable"],
        nonfatal=before["nonfatal"],
        fatal=before["fatal"],
        correctable_growth=growth["correctable"],
        nonfatal_growth=growth["nonfatal"],
        fatal_growth=growth["fatal"],
    )


AER: Fact[Sequence[AerCounters]] = Fact("pci.aer", _errors, LISTING, ERRORS)
