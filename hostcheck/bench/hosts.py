"""Collectives between hosts, all together or by pairs, as measurements and as verdicts on hosts and links."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock

import msgspec

from hostcheck.bench.bus import sampled
from hostcheck.bench.model import Conditions, Measurement, Missing
from hostcheck.bench.pairwise import FEWEST, Pair, Pairing, Verdict, slow
from hostcheck.bench.ranks import Found, Launch, Outcome, run
from hostcheck.bench.validity import Ceilings, fault, statistic
from hostcheck.fleet.targets import Target
from hostcheck.render.fold import fold_line
from hostcheck.transport.base import Transport

AT_ONCE = 64
"""Pairs that are measured at the same time, at most."""

Make = Callable[[Target], Transport]


@dataclass(kw_only=True)
class Between:
    """What came of a measurement between hosts.

    Attributes:
        devices, versions: of all ranks where all hosts measured together, and of torch and NCCL.
        failed: pairs that failed, and why; empty where all hosts measured together.
        unknown: pairs that prove nothing, and why.
        verdict: what pairs prove; None where all hosts measured together.
        absent: hosts that could not take part, and why.
        interrupted: Ctrl-C ended it early; what pairs had proven by then holds.
    """

    measurements: list[Measurement] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    devices: dict[str, dict[str, str]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    failed: dict[Pair, str] = field(default_factory=dict)
    unknown: dict[Pair, str] = field(default_factory=dict)
    verdict: Verdict | None = None
    absent: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    def note(self, found: Found, subject: str) -> Measurement:
        """Take a result in, and return it as a measurement."""
        made = measurement(found, subject)
        self.measurements.append(made)
        self.versions["torch"] = found.torch
        if found.log.version:
            self.versions["NCCL"] = found.log.version
        return made


def measurement(found: Found, subject: str) -> Measurement:
    """Return what ranks of several hosts found as a measurement. The links between hosts have no limit that we know."""
    told = sampled(msgspec.to_builtins(found), None)
    samples = tuple(told.samples)
    return Measurement(
        bench=f"nccl.{found.operation}",
        subject=subject,
        unit=told.unit,
        value=statistic(samples, told.statistic),
        case=told.case,
        statistic=told.statistic,
        samples=samples,
        settings={
            **told.settings,
            "hosts": len({name for name, _, _ in found.who}),
            "devices": ", ".join(sorted({name for _, _, name in found.who})),
        },
        verified=told.verified,
        # TCP is the CPU's work.
        invalid=fault(told, Conditions(), ceilings=Ceilings(), on_host="Socket" in str(told.settings["transport"])),
        details=told.details,
        seconds=round(sum(found.seconds), 3),
    )


def together(targets: Sequence[Target], make: Make, launch: Launch) -> Between:
    """Measure on all hosts at once."""
    between = Between()
    outcome = run(targets, make, launch)
    subject = fold_line([target.name for target in targets])
    for found in outcome.found:
        between.note(found, subject)
        between.devices = {f"rank{rank}": {"name": name} for rank, (_, _, name) in enumerate(found.who)}
    named = launch.cases[0][0]
    for host, why in outcome.failed.items():
        between.missing.append(Missing(bench=f"nccl.{named}", subject=host, why=why))
        if host in outcome.absent:
            between.absent[host] = why
    return between


def by_pairs(
    targets: Sequence[Target],
    make: Make,
    launch: Launch,
    *,
    floor: float | None = None,
    tell: Callable[[str], None] | None = None,
) -> Between:
    """Measure pairs, then suspects with others, until it is clear which host or which link is at fault.

    Args:
        targets: the hosts.
        make: gives the way to a host.
        launch: what each pair measures.
        floor: GB/s that each case of a pair must reach; without it, pairs are held against each other by their first
            case, once there are enough.
        tell: called with a line at each round.
    """
    between = Between()
    by_name = {target.name: target for target in targets}
    pairing = Pairing(list(by_name))
    numbers: dict[Pair, Measurement] = {}
    waiting: list[Pair] = []
    number = 0
    while not between.interrupted and (pairs := pairing.round()):
        number += 1
        if tell is not None:
            tell(f"round {number}: {len(pairs)} pairs of {len(by_name)} hosts")
        outcomes: dict[Pair, Outcome] = {}
        try:
            _measure_pairs([(by_name[first], by_name[second]) for first, second in pairs], make, launch, outcomes)
        except KeyboardInterrupt:
            between.interrupted = True
        found = _take(between, pairing, {pair: outcomes[pair] for pair in pairs if pair in outcomes}, floor)
        numbers |= found
        waiting += found
        if floor is not None or len(numbers) >= FEWEST:
            _judge(between, pairing, numbers, waiting, floor)
            waiting = []
    for pair in waiting:
        more = "a third host" if len(by_name) < FEWEST else "more hosts"
        between.unknown[pair] = (
            f"{_rate(numbers[pair]):.3g} GB/s, and fewer than {FEWEST} pairs say what is normal: "
            f"name {more}, or a --floor"
        )
    between.verdict = pairing.verdict()
    return between


def _take(
    between: Between, pairing: Pairing, outcomes: Mapping[Pair, Outcome], floor: float | None
) -> dict[Pair, Measurement]:
    """Note the pairs that failed or prove nothing; return the numbers of the others, which are yet to be judged."""
    numbers: dict[Pair, Measurement] = {}
    for pair, outcome in outcomes.items():
        if outcome.absent:
            between.absent |= {host: outcome.failed[host] for host in outcome.absent}
            continue
        made = [between.note(found, "+".join(pair)) for found in outcome.found]
        wrong = [each.invalid for each in made if not each.verified]
        if outcome.failed:
            wrong = ["; ".join(f"{host}: {why}" for host, why in outcome.failed.items())]
        if wrong:
            between.failed[pair] = wrong[0]
            pairing.record(pair, False)
        elif (deciding := _deciding(made, floor)).invalid:
            # The two do talk to each other; how fast is not known, which says nothing for or against either.
            between.unknown[pair] = deciding.invalid
            pairing.void(pair)
        else:
            numbers[pair] = deciding
            pairing.record(pair, None)
    for host in between.absent:
        pairing.leave(host)
    return numbers


def _deciding(made: Sequence[Measurement], floor: float | None) -> Measurement:
    """Return the case by which a pair is judged.

    A floor holds for each: one that is below it, else one that proves nothing. Without it, the first, since what is
    normal differs between cases.
    """
    if floor is None:
        return made[0]
    below = [each for each in made if not each.invalid and _rate(each) < floor]
    return [*below, *(each for each in made if each.invalid), *made][0]


def _judge(
    between: Between,
    pairing: Pairing,
    numbers: Mapping[Pair, Measurement],
    waiting: Sequence[Pair],
    floor: float | None,
) -> None:
    """Hold the rates of the pairs that wait against the floor, or against all others."""
    known = [_rate(made) for pair, made in numbers.items() if pair not in waiting]
    too_slow = slow({pair: _rate(numbers[pair]) for pair in waiting}, known, floor)
    for pair in waiting:
        pairing.record(pair, pair not in too_slow)
        if pair in too_slow:
            made = numbers[pair]
            between.failed[pair] = f"{_rate(made):.3g} GB/s is {too_slow[pair]} ({made.bench} {made.case})"


def _rate(made: Measurement) -> float:
    return made.value or 0.0


def _measure_pairs(
    pairs: Iterable[tuple[Target, Target]], make: Make, launch: Launch, outcomes: dict[Pair, Outcome]
) -> None:
    """Measure pairs at the same time, and put down what came of each as it ends; on Ctrl-C, let all hosts go."""
    opened: list[Transport] = []
    lock = Lock()
    ended = False

    def kept(target: Target) -> Transport:
        transport = make(target)
        with lock:
            opened.append(transport)
        if ended:
            transport.close()
        return transport

    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        begun = {pool.submit(run, (one, other), kept, launch): (one.name, other.name) for one, other in pairs}
        for future in as_completed(begun):
            outcomes[begun[future]] = future.result()
    except BaseException:
        ended = True
        with lock:
            for transport in opened:
                with suppress(Exception):
                    transport.close()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
