"""What measurements are held against: the floors that layers set, and what is below them only because GPUs share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hostcheck.bench.model import UNSTEADY, Measurement, Session
from hostcheck.expect import KEYS, Expect, Expectation, ExpectationMissing, Key, Layer
from hostcheck.facts.bench import SHARED, about, behind, cases, equals, judge_of, others, traits
from hostcheck.matchers import AtLeast


@dataclass(frozen=True, slots=True)
class Floors:
    """The expectations of benchmarks.

    Attributes:
        layers: in order, as checks get them.
        traits: of the host.
    """

    layers: Sequence[Layer]
    traits: Mapping[str, str] = field(default_factory=dict)

    def of(self, session: Session, measured: Measurement, key: str = "") -> Expectation | None:
        """Return what a number is held against; None where no layer says.

        Args:
            session: it is of.
            measured: the number.
            key: another than that of the check that judges the benchmark.
        """
        found = KEYS.get(key or judge_of(measured.bench))
        if found is None:
            return None
        expect = Expect(self.layers, self.traits, (found.name,))
        try:
            return expect.of(traits(session, measured))(found, *cases(measured))
        except ExpectationMissing:
            return None

    def share(self, session: Session, measured: Measurement) -> float | None:
        """Return the floor in per cent of the physical limit; None where there is none of this kind."""
        found = self.of(session, measured)
        if found is None or found.key.unit != "%" or not isinstance(found.matcher, AtLeast):
            return None
        return found.matcher.value

    def doubtful(self, session: Session) -> list[tuple[str, str, tuple[str, ...]]]:
        """Return what only a measurement alone can judge, as benchmark, subject and cases, the worst first.

        It is what several GPUs did at once with something that they share, and is unsteady, or below its floor or its
        equals.
        """
        groups = {id(measured): group for group in equals(session) for measured in group}
        part = about(session, *SHARED).measurements
        together = Counter((measured.bench, measured.case) for measured in part if not measured.alone)
        worst: dict[tuple[str, str], float] = {}
        doubted: dict[tuple[str, str], list[str]] = {}
        for measured in part:
            if measured.alone or together[measured.bench, measured.case] < 2:
                continue
            off, low = 0.0, measured.invalid.startswith(UNSTEADY)
            if id(measured) in groups:
                group = groups[id(measured)]
                off = behind(measured, others(measured, group)) if len(group) > 1 else 0.0
                floor, alike = self.of(session, measured), self.of(session, measured, "bench.alike")
                value = None if floor is None else in_unit_of(floor.key, measured)
                low = floor is not None and value is not None and not floor.matcher.matches(value)
                low = low or (alike is not None and not alike.matcher.matches(off))
            if low:
                place = measured.bench, measured.subject
                worst[place] = max(worst.get(place, 0.0), off)
                doubted.setdefault(place, []).append(measured.case)
        return [(*place, tuple(doubted[place])) for place in sorted(worst, key=lambda place: -worst[place])]


def in_unit_of(key: Key, measured: Measurement) -> float | None:
    """Return what a floor that names the benchmark is held against: a share in per cent, or the number in its own unit.

    None where it is a share, and the physical limit is not known.
    """
    if key.unit == "%":
        return round(100 * (measured.value or 0.0) / measured.limit, 1) if measured.limit else None
    return measured.value
