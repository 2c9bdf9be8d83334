"""What `hostcheck tune` began on a host and did not bring to an end, as far as the reader may see it."""

from __future__ import annotations

import re

from hostcheck.facts.base import Fact
from hostcheck.snapshot.probes import ListProbe
from hostcheck.snapshot.reading import Reading

_OPEN = "/var/lib/hostcheck/tx/*/open"
TRANSACTIONS_PROBE = ListProbe("platform.transactions", (_OPEN,))


def read_unfinished(reading: Reading) -> tuple[str, ...]:
    """Return the numbers of transactions that have no end, in order.

    The folder is for root alone: to anybody else all of it looks empty, so that none says nothing.

    Raises:
        Unavailable: it was not looked at.
    """
    found = [path.split("/")[-2] for path in reading.listed(_OPEN)]
    return tuple(sorted((number for number in found if re.fullmatch("[1-9][0-9]{0,8}", number)), key=int))


UNFINISHED: Fact[tuple[str, ...]] = Fact("platform.unfinished", read_unfinished, TRANSACTIONS_PROBE)
