"""A run as JSON, and back."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from hostcheck.errors import HostcheckError
from hostcheck.model import SCHEMA, Run
from hostcheck.render.safe import json_safe

T = TypeVar("T")


def render_json(run: Run) -> str:
    """Return the run as a JSON document: two spaces of indentation, fields in the order of the model.

    What a terminal or an editor would act upon is written as an escape. The exit code, the counts and every other
    report follow from the document alone.
    """
    return json_safe(msgspec.json.format(encoded(run), indent=2).decode()) + "\n"


def read_json(document: bytes | str) -> Run:
    """Return the run that a document describes.

    Raises:
        HostcheckError: it is no run, or of a version that this hostcheck does not know.
    """
    return decoded(document, Run, "run")


def decoded(document: bytes | str, kind: type[T], noun: str) -> T:
    """Return what a document of ours describes.

    Raises:
        HostcheckError: it is something else, or of a version that this hostcheck does not know.
    """
    try:
        found = msgspec.json.decode(document, type=_Version)
        if found.schema != SCHEMA:
            raise HostcheckError(f"the {noun} is of schema {found.schema}; this hostcheck reads schema {SCHEMA}")
        return msgspec.json.decode(document, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as problem:
        raise HostcheckError(f"not a hostcheck {noun}: {problem}") from None


class _Version(msgspec.Struct):
    schema: int


def encoded(value: Any) -> bytes:
    """Return a value of the model as JSON in one line."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_encodable(msgspec.to_builtins(value)))


def _encodable(value: Any) -> Any:
    """Return the same with what UTF-8 cannot hold (parts of broken UTF-16 or undecodable bytes) as question marks."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(each) for each in value]
    return value
