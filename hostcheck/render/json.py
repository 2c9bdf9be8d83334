"""A run as JSON, and back."""

from __future__ import annotations

from typing import Any

import msgspec

from hostcheck.errors import HostcheckError
from hostcheck.model import SCHEMA, Run
from hostcheck.render.safe import json_safe


def render_json(run: Run) -> str:
    """Return the run as a JSON document: two spaces of indentation, fields in the order of the model.

    What a terminal or an editor would act upon is written as an escape. The exit code, the counts and every other
    report follow from the document alone.
    """
    try:
        encoded = msgspec.json.encode(run)
    except UnicodeEncodeError:
        encoded = msgspec.json.encode(encodable(msgspec.to_builtins(run)))
    return json_safe(msgspec.json.format(encoded, indent=2).decode()) + "\n"


def read_json(document: bytes | str) -> Run:
    """Return the run that a document describes.

    Raises:
        HostcheckError: it is no run, or of a version that this hostcheck does not know.
    """
    try:
        found = msgspec.json.decode(document, type=_Version)
        if found.schema != SCHEMA:
            raise HostcheckError(f"the run is of schema {found.schema}; this hostcheck reads schema {SCHEMA}")
        return msgspec.json.decode(document, type=Run)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as problem:
        raise HostcheckError(f"not a hostcheck run: {problem}") from None


class _Version(msgspec.Struct):
    schema: int


def encodable(value: Any) -> Any:
    """Return the same with what UTF-8 cannot hold (parts of broken UTF-16 or undecodable bytes) as question marks."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {encodable(key): encodable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [encodable(each) for each in value]
    return value
