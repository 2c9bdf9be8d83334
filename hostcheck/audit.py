"""What every command that judges a host shares: which probes to read, which layers hold, and the judgement."""

from __future__ import annotations

import datetime as dt
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from hostcheck.checklist import Checklist
from hostcheck.engine import chosen_ids, evaluate
from hostcheck.errors import HostcheckError, Unavailable
from hostcheck.expect import Layer, read_layer, shipped_layer, shipped_names
from hostcheck.facts.base import Facts
from hostcheck.model import Actor, Result, Run, Severity, Status
from hostcheck.registry import Check, load_checks
from hostcheck.snapshot.probes import Probe, is_given
from hostcheck.snapshot.reading import Ending, Snapshot

SITE = Path("/etc/hostcheck/site.toml")


def probes_of(checks: Iterable[Check]) -> list[Probe]:
    """Return each probe that some of the checks read and a producer can ask for, once, in order of its id."""
    found = {probe.id: probe for check in checks for probe in check.probes() if not is_given(probe)}
    return [found[id] for id in sorted(found)]


def probes_for(checklist: Checklist) -> list[Probe]:
    """Return the probes that a checklist needs, and those that introduce a host to a reader."""
    every = all_checks(checklist)
    from hostcheck.facts.host import PROBES

    found = {probe.id: probe for probe in (*PROBES, *probes_of(every[id] for id in chosen_ids(checklist, every)))}
    return [found[id] for id in sorted(found)]


def all_checks(checklist: Checklist) -> Mapping[str, Check]:
    """Return the register and what the checklist adds to it."""
    return {**load_checks(), **{check.id: check for check in checklist.checks}}


def read_site(path: Path | None) -> list[Layer]:
    """Return the layer of a site file; without a path, of the usual one if it is there.

    Raises:
        HostcheckError: the file cannot be read or is wrong, in one line.
    """
    load_checks()
    if path is None and not SITE.exists():
        return []
    chosen = path or SITE
    try:
        return [read_layer(chosen.read_text("utf-8"), str(chosen))]
    except OSError as problem:
        raise HostcheckError(f"{chosen}: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise HostcheckError(f"{chosen}: not a text file (UTF-8)") from None


@cache
def shipped_layers(role: str, *, gpus: bool) -> tuple[Layer, ...]:
    """Return our own layers in order: defaults, architecture and GPU model, floors of benchmarks, platform, role.

    Args:
        role: such as "training".
        gpus: whether the host may have GPUs; the table of models is read only then.
    """
    load_checks()
    models: list[Layer] = []
    if gpus:
        from hostcheck.gpu_table import layers

        models = layers()
    return (
        *(shipped_layer(name) for name in shipped_names("defaults")),
        *models,
        *(shipped_layer(name) for name in shipped_names("bench") if gpus),
        *(shipped_layer(name) for name in shipped_names("platform")),
        shipped_layer(f"role/{role}"),
    )


def layers_for(snapshot: Snapshot, checklist: Checklist, site: Iterable[Layer] = ()) -> list[Layer]:
    """Return the layers that hold for a snapshot under a checklist, in order: ours and a site's; not the checklist's.

    Args:
        snapshot: what was read; it tells whether there may be GPUs.
        checklist: for its role.
        site: layers over ours.
    """
    asked = {snapshot.reading(id).ending for id in ("gpu.smi", "gpu.nvml", "bench.results")}
    return [*shipped_layers(checklist.role, gpus=Ending.OK in asked), *site]


def judge(
    snapshot: Snapshot,
    checklist: Checklist,
    *,
    site: Iterable[Layer] = (),
    fail_on: Severity = Severity.MEDIUM,
    today: dt.date | None = None,
    facts: Facts | None = None,
) -> Run:
    """Judge a snapshot by a checklist, our layers and a site's.

    Args:
        snapshot: what was read.
        checklist: what is to be judged.
        site: layers over ours and under the checklist's.
        fail_on: failures below this severity do not count.
        today: the day on which waivers must still hold; the snapshot's own where none is given.
        facts: the snapshot's facts, where the caller wants to go on using what was parsed.
    """
    facts = facts or Facts(snapshot)
    layers = layers_for(snapshot, checklist, site)
    run = evaluate(
        snapshot,
        checklist,
        load_checks(),
        layers,
        fail_on=fail_on,
        today=today.isoformat() if today else None,
        facts=facts,
    )
    run = replace(run, results=tuple(_for_tune(result) for result in run.results))
    return _with_measured(run, facts, (*layers, *checklist.layers))


def _with_measured(run: Run, facts: Facts, layers: Sequence[Layer]) -> Run:
    """Return a run with what was measured, beside what it is held against; the same where nothing was."""
    if facts.snapshot.reading("bench.results").ending is not Ending.OK:
        return run
    # An audit without measurements does without these.
    from hostcheck.bench.figures import figures, session_of
    from hostcheck.bench.floors import Floors
    from hostcheck.facts.bench import SESSION
    from hostcheck.facts.host import traits

    try:
        session = facts.get(SESSION)
    except Unavailable:
        return run
    return replace(run, measured=figures(session, Floors(layers, traits(facts))), session=session_of(session))


@cache
def tunable() -> frozenset[str]:
    """Return the ids of the checks that some tuner can mend; the list is generated, so that no audit loads a tuner."""
    return frozenset(tomllib.loads((files("hostcheck") / "tunable.toml").read_text("utf-8"))["checks"])


def _for_tune(result: Result) -> Result:
    """Return a result whose failures hostcheck itself can mend, where an operator would have to."""
    if result.status is not Status.FAIL or result.id not in tunable():
        return result
    findings = tuple(
        replace(finding, actor=Actor.TUNE)
        if finding.status is Status.FAIL and finding.actor is Actor.OPERATOR
        else finding
        for finding in result.findings
    )
    return replace(result, findings=findings)
