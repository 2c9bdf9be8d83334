"""One host's archive, judged under the name by which the user knows the host."""

from __future__ import annotations

import datetime as dt
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from hostcheck.audit import judge
from hostcheck.checklist import Checklist
from hostcheck.errors import HostcheckError
from hostcheck.expect import Layer
from hostcheck.facts.base import Facts
from hostcheck.model import Absentee, Run, Severity
from hostcheck.render.fleet_hosts import NAMES_ITSELF, short_name
from hostcheck.snapshot.archive import read_archive
from hostcheck.snapshot.reading import Manifest

BROKEN = "broken"
"""How an attempt ended whose archive came and cannot be judged."""
_LONGEST_NAME = 300

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is needed to judge any host.

    Attributes:
        checklist: the checklist, or what chooses one by a host's name.
        site: layers over ours and under the checklist's.
    """

    checklist: Checklist | Callable[[str], Checklist]
    site: tuple[Layer, ...]
    fail_on: Severity
    today: dt.date | None


def judge_one(name: str, path: Path, work: Work, give: Callable[[Run, Facts], T]) -> T | Absentee:
    """Judge one archive. Never raises for what is in it.

    Args:
        name: of the host, as the user knows it.
        path: of the archive.
        work: how to judge it.
        give: makes of the run, and of what it was judged by, what is wanted of the host.
    """
    try:
        snapshot = read_archive(path)
        checklist = work.checklist if isinstance(work.checklist, Checklist) else work.checklist(name)
        facts = Facts(snapshot)
        run = judge(snapshot, checklist, site=work.site, fail_on=work.fail_on, today=work.today, facts=facts)
        return give(_named(run, name, snapshot.manifest), facts)
    except HostcheckError as problem:
        why = str(problem).removeprefix(f"{path}: ")
    except Exception as problem:
        frame = traceback.extract_tb(problem.__traceback__)[-1]
        why = f"a bug in hostcheck: {type(problem).__name__}: {problem} ({Path(frame.filename).name}:{frame.lineno})"
    return Absentee(name=name, reach=BROKEN, why=f"its archive cannot be judged: {' '.join(why.split())[:500]}")


def _named(run: Run, name: str, manifest: Manifest) -> Run:
    """Return the run under the name by which the user knows the host; another name that it gives itself is told."""
    claimed = manifest.hostname[:_LONGEST_NAME]
    facts = run.host.facts
    if not manifest.redacted and short_name(claimed) != short_name(name):
        facts = {NAMES_ITSELF: claimed or "(no name)", **facts}
    return replace(run, host=replace(run.host, name=name, facts=facts))
