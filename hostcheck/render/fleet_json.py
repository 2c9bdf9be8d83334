"""A fleet as JSON, and back; and its runs as JSON lines."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from hostcheck.model import FleetRun
from hostcheck.render.json import decoded, encoded
from hostcheck.render.safe import json_safe


def render_fleet_json(fleet: FleetRun) -> str:
    """Return the fleet as one JSON document, with the run of each host in a line of its own.

    Everything else is indented by two spaces. What a terminal or an editor would act upon is written as an escape.
    """
    frame = msgspec.json.format(encoded(replace(fleet, runs={})), indent=2).decode()
    runs = ",\n".join(f"    {encoded(name).decode()}: {encoded(run).decode()}" for name, run in fleet.runs.items())
    if runs:
        frame = frame.replace('\n  "runs": {},\n', f'\n  "runs": {{\n{runs}\n  }},\n', 1)
    return json_safe(frame) + "\n"


def render_fleet_lines(fleet: FleetRun) -> str:
    """Return the run of each host as one line of JSON, of the schema of a single run; for DuckDB, jq and the like."""
    return "".join(json_safe(encoded(run).decode()) + "\n" for run in fleet.runs.values())


def read_fleet_json(document: bytes | str) -> FleetRun:
    """Return the fleet that a document describes.

    Raises:
        HostcheckError: it is no fleet, or of a version that this hostcheck does not know.
    """
    return decoded(document, FleetRun, "fleet")
