"""A fleet as JSON, and back; and its runs as JSON lines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from hostcheck.errors import HostcheckError
from hostcheck.model import SCHEMA, FleetRun
from hostcheck.render.json import encodable
from hostcheck.render.safe import json_safe


def render_fleet_json(fleet: FleetRun) -> str:
    """Return the fleet as one JSON document, with the run of each host in a line of its own.

    Everything else is indented by two spaces. What a terminal or an editor would act upon is written as an escape.
    """
    frame = msgspec.json.format(_encoded(replace(fleet, runs={})), indent=2).decode()
    runs = ",\n".join(f"    {_encoded(name).decode()}: {_encoded(run).decode()}" for name, run in fleet.runs.items())
    if runs:
        frame = frame.replace('\n  "runs": {},\n', f'\n  "runs": {{\n{runs}\n  }},\n', 1)
    return json_safe(frame) + "\n"


def render_fleet_lines(fleet: FleetRun) -> str:
    """Return the run of each host as one line of JSON, of the schema of a single run; for DuckDB, jq and the like."""
    return "".join(json_safe(_encoded(run).decode()) + "\n" for run in fleet.runs.values())


def read_fleet_json(document: bytes | str) -> FleetRun:
    """Return the fleet that a document describes.

    Raises:
        HostcheckError: it is no fleet, or of a version that this hostcheck does not know.
    """
    try:
        found = msgspec.json.decode(document, type=_Version)
        if found.schema != SCHEMA:
            raise HostcheckError(f"the fleet is of schema {found.schema}; this hostcheck reads schema {SCHEMA}")
        return msgspec.json.decode(document, type=FleetRun)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as problem:
        raise HostcheckError(f"not a hostcheck fleet: {problem}") from None


class _Version(msgspec.Struct):
    schema: int


def _encoded(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(encodable(msgspec.to_builtins(value)))
