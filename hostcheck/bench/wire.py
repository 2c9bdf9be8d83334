"""What the parent and its children say to each other: one JSON object a line, and nothing else on that pipe.

The parent writes a `Plan`, a `Begin` and then an `Order` for each benchmark on the child's standard input. The child
writes `Ready` once it has begun, and for each order any number of `Got`, `Beside` and `Lacking` and at last `Done`, on
a descriptor of its own. What libraries print goes elsewhere.
"""

from __future__ import annotations

import msgspec

from hostcheck.bench.lab import BenchGpu
from hostcheck.bench.model import Conditions, Level, Measurement, Missing

LONGEST = 8 * 1024 * 1024
"""No honest line is longer, in bytes."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a child has to itself.

    Attributes:
        gpus: those that it may use.
        subject: what is measured where a benchmark does not say otherwise.
        whole: all the time of each benchmark is to be used.
        ranks: how many processes take part that talk to each other; 0 where it is alone.
        rank: which of them it is. Rank 0 measures for all.
        pin: NUMA node to keep to; None to stay where it is.
        load: packages to import before it begins.
    """

    gpus: tuple[BenchGpu, ...]
    subject: str
    level: Level
    options: dict[str, str] = {}
    whole: bool = False
    ranks: int = 0
    rank: int = 0
    pin: int | None = None
    load: tuple[str, ...] = ()


class Begin(msgspec.Struct, frozen=True):
    """The devices are free now. Until then a child touches none of them."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Run one benchmark, that a module registers.

    Attributes:
        seconds: that it may take.
        alone: the other GPUs idle meanwhile.
        cases: only these of its cases; all where none is named.
    """

    bench: str
    module: str
    seconds: float
    alone: bool = False
    cases: tuple[str, ...] = ()


class Ready(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The child is up.

    Attributes:
        gpus: as the driver completed them.
        told: of each subject, what is worth keeping: its clocks, limits, and where the child is pinned.
        busy: of each GPU that is not to be measured, why.
    """

    gpus: tuple[BenchGpu, ...] = ()
    told: dict[str, dict[str, str]] = {}
    busy: dict[str, str] = {}


class Got(msgspec.Struct, frozen=True, tag=True):
    """A measurement."""

    measurement: Measurement


class Beside(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """What the GPU of another rank did while one rank measured for all: one case, or None where it cannot be told."""

    bench: str
    subject: str
    conditions: Conditions
    case: str | None = None


class Lacking(msgspec.Struct, frozen=True, tag=True):
    """No measurement, and why."""

    missing: Missing


class Done(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The benchmark ended; `versions` of what it used."""

    bench: str
    versions: dict[str, str] = {}


Event = Ready | Got | Beside | Lacking | Done
