"""What tests share: samples out of docstrings, recorded and synthetic hosts, and the case tables."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from hostcheck.audit import judge, probes_of
from hostcheck.checklist import Checklist, read_setting
from hostcheck.model import Result
from hostcheck.registry import load_checks, load_tuners
from hostcheck.snapshot.archive import read_archive
from hostcheck.snapshot.probes import CommandProbe, FileProbe, ListProbe, Probe
from hostcheck.snapshot.reading import Ending, Entry, FileState, Manifest, Reading, Snapshot, _is_match
from hostcheck.tuning.change import Change, Kind, Plan
from hostcheck.tuning.plan import Selection, make_plan, probes_for_plan

TESTS = Path(__file__).parent
CASES = TESTS / "cases"
HOSTS = TESTS / "hosts"
GOLDEN = TESTS / "golden"


def sample(function: Callable[..., Any]) -> str:
    """Return the real sample that a parser's docstring holds after its line "Sample:"."""
    text = inspect.getdoc(function) or ""
    _, found, body = text.partition("Sample:\n")
    assert found, f"{function.__name__} has no sample"
    return textwrap.dedent(body)


def every_probe() -> list[Probe]:
    """Return each probe that some check or tuner reads."""
    probes = {probe.id: probe for probe in probes_for_plan(load_tuners().values())}
    probes |= {probe.id: probe for probe in probes_of(load_checks().values())}
    return [probes[id] for id in sorted(probes)]


def recorded_hosts() -> list[str]:
    """Return the names of the recorded hosts."""
    return sorted(path.name.removesuffix(".tar.gz") for path in HOSTS.glob("*.tar.gz"))


@cache
def host(name: str) -> Snapshot:
    """Return a recorded host, or the synthetic one, "bare", that the bases of the case tables describe."""
    return _bare() if name == "bare" else read_archive(HOSTS / f"{name}.tar.gz")


def _bare() -> Snapshot:
    files: dict[str, Any] = {}
    outputs: dict[str, str] = {}
    links: dict[str, str] = {}
    for path in sorted(CASES.glob("*.toml")):
        base = tomllib.loads(path.read_text("utf-8")).get("base", {})
        for target, name in ((files, "files"), (outputs, "out"), (links, "links")):
            clash = target.keys() & base.get(name, {}).keys()
            assert all(target[key] == base[name][key] for key in clash), f"{path.name}: base {name} differs: {clash}"
            target.update(base.get(name, {}))
    readings = {probe.id: _answer(probe, files, outputs, links) for probe in every_probe()}
    manifest = Manifest(1, "test", "local", 1_790_000_000.0, 86_400.0, "bare", 0)
    return Snapshot(manifest, readings)


def _answer(probe: Probe, files: Mapping[str, Any], outputs: Mapping[str, str], links: Mapping[str, str]) -> Reading:
    if isinstance(probe, CommandProbe):
        if probe.id not in outputs:
            return Reading(probe.id, Ending.ABSENT, note="not installed")
        answer = Reading(probe.id, Ending.OK, 0, 0.1, 86_400.0, out=outputs[probe.id].encode())
        return replace(answer, later=replace(answer, at=86_410.0)) if probe.twice else answer
    if isinstance(probe, ListProbe):
        entries = {path: _entry(text) for path, text in sorted(links.items()) if _asked(path, probe.paths)}
        return Reading(probe.id, Ending.OK, 0, 0.1, 86_400.0, asked=probe.paths, entries=entries)
    states = {
        path: FileState(Ending.OK, content(text)) for path, text in sorted(files.items()) if _asked(path, probe.paths)
    }
    answer = Reading(probe.id, Ending.OK, 0, 0.1, 86_400.0, asked=probe.paths, files=states)
    return replace(answer, later=replace(answer, at=86_410.0)) if probe.twice else answer


def content(told: str | Mapping[str, Any]) -> bytes:
    """Return a file's bytes: a text and its newline; or `size` bytes, all zero but for what stands at some offsets."""
    if isinstance(told, str):
        return f"{told}\n".encode()
    data = bytearray(told["size"])
    for offset, digits in told.items():
        if offset != "size":
            part = bytes.fromhex(digits)
            data[int(offset, 16) : int(offset, 16) + len(part)] = part
    return bytes(data[: told["size"]])


def _asked(path: str, patterns: tuple[str, ...]) -> bool:
    return any(_is_match(path, pattern) for pattern in patterns)


def _entry(text: str) -> Entry:
    if text.startswith("-> "):
        return Entry("l", "rwxrwxrwx", target=text[3:])
    return Entry(text or "-", "rw-r--r--")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A host, and what is different on it."""

    name: str
    table: str
    host: str = "bare"
    role: str = "training"
    set: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)
    out: Mapping[str, str] = field(default_factory=dict)
    later: Mapping[str, str] = field(default_factory=dict)
    ends: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, Any] = field(default_factory=dict)
    xml: Mapping[str, Any] = field(default_factory=dict)
    measured: Sequence[Mapping[str, Any]] = ()
    missing: Sequence[Mapping[str, Any]] = ()
    gpu: str = "10de:2330"

    def snapshot(self) -> Snapshot:
        """Return the host as this case has it; what a recorded one was not asked is as on the synthetic one."""
        snapshot = host(self.host)
        readings = {**host("bare").readings, **snapshot.readings}
        for probe in every_probe():
            reading = readings.get(probe.id)
            if reading is not None:
                readings[probe.id] = self._changed(probe, reading)
        if self.measured or self.missing:
            readings["bench.results"] = self._results()
        if self.xml:
            readings["gpu.smi"] = _edited(readings["gpu.smi"], self.xml)
            readings.pop("gpu.nvml", None)
        return Snapshot(snapshot.manifest, readings)

    def _results(self) -> Reading:
        """Return what `hostcheck bench` would have put there; all subjects are GPUs of one model."""
        measurements = [
            {"unit": "GB/s", "verified": True, "conditions": {"seconds": 1.0}, **entry} for entry in self.measured
        ]
        devices = {f"gpu{number}": {"pci_id": self.gpu} for number in range(8)}
        session = {
            "tool": "test", "taken": "2026-11-21T00:00:00+00:00", "level": "quick", "schema": 1, "devices": devices,
            "measurements": measurements, "missing": list(self.missing),
        }  # fmt: skip
        return Reading("bench.results", Ending.OK, 0, 20.0, 86_400.0, out=json.dumps(session).encode())

    def _changed(self, probe: Probe, reading: Reading) -> Reading:
        if probe.id in self.ends:
            return Reading(probe.id, Ending(self.ends[probe.id]), 1 if self.ends[probe.id] == "exit" else None)
        first = self._sample(probe, reading, {})
        if reading.later is None and probe.id not in self.later:
            return first
        return replace(first, later=self._sample(probe, reading.later or first, self.later))

    def _sample(self, probe: Probe, reading: Reading, later: Mapping[str, str]) -> Reading:
        if isinstance(probe, CommandProbe):
            text = later.get(probe.id, self.out.get(probe.id))
            if text is None:
                return reading
            return replace(reading, ending=Ending.OK, code=0, note="", out=text.encode(), err=b"")
        if isinstance(probe, FileProbe):
            return replace(reading, files=self._files(probe, reading, {**self.files, **later}))
        entries = {path: entry for path, entry in reading.entries.items() if self.links.get(path) is not False}
        for path, text in self.links.items():
            if text is not False and _asked(path, probe.paths):
                entries[path] = _entry(text)
        return replace(reading, entries=dict(sorted(entries.items())))

    def _files(self, probe: FileProbe, reading: Reading, changes: Mapping[str, Any]) -> dict[str, FileState]:
        files = dict(reading.files)
        for path, text in changes.items():
            if not _asked(path, probe.paths):
                continue
            files.pop(path, None)
            if text == "denied":
                files[path] = FileState(Ending.DENIED, b"", "Permission denied")
            elif text is not False:
                files[path] = FileState(Ending.OK, content(text))
        return dict(sorted(files.items()))

    def checklist(self, *only: str) -> Checklist:
        """Return a checklist with the expectations of this scene, and with these checks."""
        settings = tuple(read_setting(f"{key}={_toml(value)}") for key, value in self.set.items())
        return Checklist(role=self.role, only=only or ("*",), layers=settings)


@dataclass(frozen=True, kw_only=True)
class Case(Scene):
    """One row of a case table: a host, what is different on it, and what a check must say."""

    check: str
    status: str
    findings: Mapping[str, str] = field(default_factory=dict)
    observed: Any = None
    says: str = ""

    @property
    def id(self) -> str:
        return f"{self.check}: {self.name}"

    def judge(self, snapshot: Snapshot | None = None) -> Result:
        """Return what the check says of this case, or of another snapshot under the same expectations."""
        run = judge(snapshot or self.snapshot(), self.checklist(self.check))
        return next(result for result in run.results if result.id == self.check)


@dataclass(frozen=True, kw_only=True)
class PlanCase(Scene):
    """One row of the tables of plans: a host, and what a tuner must want to change on it.

    Attributes:
        changes: fields of each change that must be in the plan, and of no other; an empty list is an empty plan.
        refused: texts that refusals hold, in any order.
        unplanned: texts of why the tuner could not say whether there is something to change; none where it could.
        then: what the host says after the changes (`files`, `out`, `links`, `xml`), where `applied` cannot know.
    """

    tuner: str
    changes: Sequence[Mapping[str, Any]] = ()
    refused: Sequence[str] = ()
    unplanned: Sequence[str] = ()
    then: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.tuner}: {self.name}"

    def plan(self, snapshot: Snapshot | None = None) -> Plan:
        """Return what the tuner plans for this case, or for another snapshot under the same expectations."""
        return make_plan(snapshot or self.snapshot(), self.checklist(), Selection(only=(self.tuner,)))

    def after(self, plan: Plan) -> Snapshot:
        """Return the host as it is after a plan was applied, and before it boots again."""
        snapshot = applied(self.snapshot(), plan.changes)
        if not self.then:
            return snapshot
        told = Scene(name=self.name, table=self.table, **self.then)
        readings = {
            probe.id: told._changed(probe, snapshot.readings[probe.id])
            for probe in every_probe()
            if probe.id in snapshot.readings
        }
        if told.xml:
            readings["gpu.smi"] = _edited(readings["gpu.smi"], told.xml)
        return Snapshot(snapshot.manifest, readings)


def applied(snapshot: Snapshot, changes: Iterable[Change]) -> Snapshot:
    """Return a snapshot with what changes write into files; changes of other kinds leave it as it is."""
    files: dict[str, str | None] = {}
    links: dict[str, str] = {}
    for change in changes:
        if change.kind in (Kind.WRITE, Kind.FILE):
            files[change.target] = change.after if change.kind is Kind.FILE else f"{change.after}\n"
        elif change.kind is Kind.NIC:
            name, _, setting = change.target.partition(" ")
            files[f"/sys/class/net/{name}/{setting}"] = f"{change.after}\n"
        elif change.kind is Kind.UNIT and change.after is not None and change.after.startswith("enabled"):
            links[f"/etc/systemd/system/multi-user.target.wants/{change.target}"] = f"-> ../{change.target}"
    readings = dict(snapshot.readings)
    for id, reading in readings.items():
        own = {path: text for path, text in files.items() if _asked(path, reading.asked)}
        seen = {path: _entry(text) for path, text in links.items() if _asked(path, reading.asked)}
        if reading.out or reading.entries or seen:
            readings[id] = replace(reading, entries=dict(sorted({**reading.entries, **seen}.items())))
        elif own:
            readings[id] = replace(reading, files=_written(reading.files, own))
            if reading.later is not None:
                later = replace(reading.later, files=_written(reading.later.files, own))
                readings[id] = replace(readings[id], later=later)
    return Snapshot(snapshot.manifest, readings)


def _written(files: Mapping[str, FileState], changes: Mapping[str, str | None]) -> dict[str, FileState]:
    result = dict(files)
    for path, text in changes.items():
        before = result.pop(path, None)
        if text is None:
            continue
        told = before.data.decode() if before is not None else ""
        if re.search(r"\[\S+\]", told) and f"{text.strip()} " in f"{told.strip()} ".replace("[", "").replace("]", ""):
            words = told.replace("[", "").replace("]", "").split()
            text = " ".join(f"[{word}]" if word == text.strip() else word for word in words) + "\n"
        result[path] = FileState(Ending.OK, text.encode())
    return dict(sorted(result.items()))


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)


def _edited(reading: Reading, changes: Mapping[str, Any]) -> Reading:
    """Return an nvidia-smi document with elements changed (path -> text) or taken out (path -> false)."""
    root = ElementTree.fromstring(reading.out)
    parents = {child: parent for parent in root.iter() for child in parent}
    for path, text in changes.items():
        found = root.findall(path)
        assert found, f"the document has no {path}"
        for element in found:
            if text is False:
                parents[element].remove(element)
            else:
                element.text = str(text)
    return replace(reading, out=b'<?xml version="1.0" ?>\n' + ElementTree.tostring(root))


@cache
def cases() -> tuple[Case, ...]:
    """Return every case of every table."""
    return tuple(_read_cases())


def _read_cases() -> Iterator[Case]:
    for path in sorted(CASES.glob("*.toml")):
        for entry in tomllib.loads(path.read_text("utf-8")).get("case", []):
            yield Case(table=path.name, **entry)


@cache
def plan_cases() -> tuple[PlanCase, ...]:
    """Return every case of a plan, of every table."""
    return tuple(
        PlanCase(table=path.name, **entry)
        for path in sorted(CASES.glob("*.toml"))
        for entry in tomllib.loads(path.read_text("utf-8")).get("plan", [])
    )
