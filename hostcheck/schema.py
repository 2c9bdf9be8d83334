"""The JSON Schema of a run, generated from the model; `python -m hostcheck.schema` prints it."""

from __future__ import annotations

import inspect
import json
from typing import Any

import msgspec

from hostcheck.model import SCHEMA, Run


def run_schema() -> dict[str, Any]:
    """Return the schema (JSON Schema 2020-12) that every document of `render_json` follows.

    Readers should accept fields that they do not know: a field may be added without a new version.
    """
    generated = msgspec.json.schema(Run)
    for definition in generated["$defs"].values():
        if "description" in definition:
            definition["description"] = inspect.cleandoc(definition["description"])
    top = generated["$defs"]["Run"]
    top["properties"]["schema"] = {"const": SCHEMA}
    top["required"].append("schema")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hostcheck run",
        "description": "One host's audit, as written by hostcheck with --format json.",
        **generated,
    }


def schema_text() -> str:
    """Return the schema as the file `run.schema.json` holds it."""
    return json.dumps(run_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
