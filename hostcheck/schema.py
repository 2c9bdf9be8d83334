"""The JSON Schemas of a run and of a fleet, from the model; `python -m hostcheck.schema [fleet]` prints one."""

from __future__ import annotations

import inspect
import json
import sys
from typing import Any

import msgspec

from hostcheck.model import SCHEMA, FleetRun, Run


def run_schema() -> dict[str, Any]:
    """Return the schema (JSON Schema 2020-12) that every document of `render_json` follows.

    Readers should accept fields that they do not know: a field may be added without a new version.
    """
    return _document(Run, "hostcheck run", "One host's audit, as written by hostcheck with --format json.")


def fleet_schema() -> dict[str, Any]:
    """Return the schema of every document of `render_fleet_json`; each run in it follows that of a run."""
    return _document(FleetRun, "hostcheck fleet", "Many hosts' audits, and what only shows between them.")


def _document(model: type, title: str, description: str) -> dict[str, Any]:
    generated = msgspec.json.schema(model)
    for name, definition in generated["$defs"].items():
        if "description" in definition:
            definition["description"] = inspect.cleandoc(definition["description"])
        if name in ("Run", "FleetRun"):
            definition["properties"]["schema"] = {"const": SCHEMA}
            definition["required"].append("schema")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "description": description,
        **generated,
    }


def schema_text() -> str:
    """Return the schema as the file `run.schema.json` holds it."""
    return _text(run_schema())


def fleet_schema_text() -> str:
    """Return the schema as the file `fleet.schema.json` holds it."""
    return _text(fleet_schema())


def _text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(fleet_schema_text() if sys.argv[1:] == ["fleet"] else schema_text(), end="")
