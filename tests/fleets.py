"""Fleets: of recorded hosts, varied and written as archives; and of runs built by hand, for what shows them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import runs
from hostcheck.checklist import Checklist
from hostcheck.fleet.answers import judge_fleet
from hostcheck.model import Absentee, Actor, Difference, FleetRun, Outlier, ProbeEnding, Run, Severity, Waiver
from hostcheck.render.fleet_group import NOT_READ
from hostcheck.render.fleet_hosts import NAMES_ITSELF
from hostcheck.snapshot.archive import write_archive
from hostcheck.snapshot.reading import Ending, FileState, Reading, Snapshot
from support import host

LIST = Checklist(only=("memory.*", "gpu.driver-version"))
"""A few checks, so that many hosts are judged in a moment."""


def edited(snapshot: Snapshot, probe: str, *changes: tuple[bytes, bytes]) -> Snapshot:
    """A host on which a probe answered something else."""

    def change(data: bytes) -> bytes:
        for pattern, new in changes:
            data, number = re.subn(pattern, new, data)
            hits.append(number)
        return data

    hits: list[int] = []
    reading = snapshot.reading(probe)
    files = {path: replace(state, data=change(state.data)) for path, state in reading.files.items()}
    changed = replace(reading, files=files, out=change(reading.out))
    assert any(hits), "nothing was changed"
    return replace(snapshot, readings={**snapshot.readings, probe: changed})


def called(snapshot: Snapshot, name: str, **fields: Any) -> Snapshot:
    return replace(snapshot, manifest=replace(snapshot.manifest, hostname=name, redacted=False, **fields))


def with_file(snapshot: Snapshot, probe: str, path: str, text: str) -> Snapshot:
    reading = snapshot.reading(probe)
    files = {**reading.files, path: FileState(Ending.OK, text.encode())}
    return replace(snapshot, readings={**snapshot.readings, probe: replace(reading, files=files)})


def silent(snapshot: Snapshot, *probes: str) -> Snapshot:
    hung = {probe: Reading(probe, Ending.TIMEOUT, seconds=30.0) for probe in probes}
    return replace(snapshot, readings={**snapshot.readings, **hung})


def written(folder: Path, hosts: Mapping[str, Snapshot]) -> list[tuple[str, Path]]:
    pairs = []
    for number, (name, snapshot) in enumerate(hosts.items()):
        path = folder / f"{number}.tar.gz"
        with path.open("wb") as opened:
            write_archive(snapshot, opened)
        pairs.append((name, path))
    return pairs


def fleet_of(folder: Path, hosts: Mapping[str, Snapshot], **options: Any) -> FleetRun:
    return judge_fleet(written(folder, hosts), options.pop("checklist", LIST), **options)


def equals(number: int, name: str = "h200x2") -> dict[str, Snapshot]:
    return {f"gpu{at:02d}": called(host(name), f"gpu{at:02d}") for at in range(1, number + 1)}


# by hand


def named(name: str, run: Run, **facts: str) -> Run:
    """A run under a host's name."""
    return replace(run, host=replace(run.host, name=name, facts={**facts, **run.host.facts}))


def fleet(runs_: Mapping[str, Run], **fields: Any) -> FleetRun:
    """A fleet of these runs."""
    return FleetRun(
        tool="0.1.0",
        taken="2026-11-20T22:50:07+00:00",
        fail_on=Severity.MEDIUM,
        runs={name: named(name, run) for name, run in runs_.items()},
        absent=fields.pop("absent", ()),
        differences=fields.pop("differences", ()),
        outliers=fields.pop("outliers", ()),
        **fields,
    )


GROUP = "8 x NVIDIA H100 80GB HBM3, 2 x Intel Xeon Platinum 8480C"


def _limited(watts: int, number: int = 8) -> Run:
    wanted = ("at least 700 W", "gpu/h100-sxm5-80gb", "vendor datasheet")
    return runs.run(
        runs.result(
            "gpu.power-limit",
            *(
                runs.finding("fail", f"the power limit is {watts} W", subject=f"gpu{n}", observed=watts,
                             expected=wanted, actor=Actor.OPERATOR, fix=f"nvidia-smi -i {n} -pl 700")
                for n in range(number)
            ),
            severity="high",
            rationale="A lower limit costs clock under load.",
        ),
        runs.result("memory.thp"),
    )  # fmt: skip


def _blind() -> Run:
    return runs.run(
        runs.result("gpu.power-limit", runs.finding("unknown", "gpu.smi: timeout", cause="gpu.smi"), severity="high"),
        runs.result("gpu.ecc", runs.finding("unknown", "gpu.smi: timeout", cause="gpu.smi"), severity="high"),
        runs.result("memory.thp"),
        probes=[ProbeEnding(id="gpu.smi", ending="timeout", seconds=30.0)],
    )


def mixed() -> FleetRun:
    """A fleet with every kind of answer."""
    waiver = Waiver(reason="spare part is on order", until="2027-01-31", by="ops")
    waived = runs.run(
        runs.result("network.mtu", runs.finding("fail", "the MTU is 1500", waived=waiver)),
        runs.result("software.uptime", runs.finding("fail", "the host has been up for 431 days"), severity="info"),
        runs.result("rdma.speed", runs.finding("not-applicable", "there is no NIC"), required=True),
    )
    hosts: dict[str, Run] = {f"gpu{n:02d}": _limited(650) for n in range(1, 41)}
    hosts |= {"gpu41": _limited(600, 1), "gpu42": _blind(), "gpu43": _blind(), "gpu44": waived}
    hosts |= {f"gpu{n:02d}": runs.healthy() for n in range(45, 61)}
    made = fleet(
        hosts,
        absent=(
            Absentee(name="gpu61", reach="unreachable", why="gpu61: no route to host"),
            Absentee(name="gpu62", reach="unreachable", why="gpu62: no route to host"),
            Absentee(name="gpu63", reach="host key", why="the key of gpu63 has changed; see ssh-keygen -R gpu63"),
        ),
        differences=(
            Difference(fact="NVIDIA driver", group=GROUP, majority="570.86.15", majority_hosts=57,
                       minorities={"580.159.04": ("gpu07", "gpu08"), NOT_READ: ("gpu42", "gpu43")}),
            Difference(fact="Kernel", group=GROUP, majority="6.8.0-51", majority_hosts=58,
                       minorities={"6.8.0-60": ("gpu07", "gpu08")}),
        ),
        outliers=(
            Outlier(host="gpu17", subject="gpu3", measure="GPU temperature when idle, °C", value=61.0, median=34.0,
                    deviations=9.0, group=GROUP),
            Outlier(host="gpu18", subject="gpu3", measure="GPU temperature when idle, °C", value=61.0, median=34.0,
                    deviations=9.0, group=GROUP),
        ),
    )  # fmt: skip
    claiming = named("gpu45", made.runs["gpu45"], **{NAMES_ITSELF: "gpu46"})
    return replace(made, runs={**made.runs, "gpu45": claiming})


def hostile() -> FleetRun:
    """A fleet in which every text that a host or an inventory can supply is an attack."""
    text = runs.HOSTILE
    names = (text, "gpu[1-9]", "@all", "a,b", "gpu1 gpu2", "../../etc/passwd", "", "a\nb", "9" * 300, "gpu1")
    made = fleet(
        {name: runs.hostile() for name in names},
        absent=(Absentee(name=text, reach=text, why=text), Absentee(name="", reach="", why="")),
        differences=(
            Difference(fact=text, group=text, majority=text, majority_hosts=3, minorities={text + "x": (text, "@all")}),
        ),
        outliers=(
            Outlier(host=text, subject=text, measure=text, value=1e300, median=-1e300, deviations=1e300, group=text),
        ),
    )
    return replace(made, runs={name: named(name, run, **{NAMES_ITSELF: text}) for name, run in made.runs.items()})


def huge(number: int = 300) -> FleetRun:
    """A fleet in which each host says something else."""
    hosts = {
        f"r{n // 20}n{n}": runs.run(
            runs.result("memory.free", runs.finding("fail", f"{n} GiB are free", observed=n, fix=f"echo {n}")),
            runs.result("memory.odd", runs.finding("fail", f"it is {chr(0x4E00 + n)}")),
        )
        for n in range(number)
    }
    return fleet(
        hosts,
        differences=(
            Difference(fact="x", group=GROUP, majority="a", majority_hosts=1,
                       minorities={f"v{n}": (name,) for n, name in enumerate(hosts)}),
        ),
        outliers=tuple(
            Outlier(host=name, subject="host", measure="m, s", value=float(n), median=0.0, deviations=9.0, group=GROUP)
            for n, name in enumerate(hosts)
        ),
    )  # fmt: skip


SAMPLES = {
    "empty": lambda: fleet({}),
    "healthy": lambda: fleet({f"gpu{n}": runs.healthy() for n in range(8)}),
    "mixed": mixed,
    "hostile": hostile,
    "huge": huge,
}
