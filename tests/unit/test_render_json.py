"""JSON holds the whole run, reads back as the same, and follows the committed schema."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files

import jsonschema
import pytest

import runs
from hostcheck.errors import HostcheckError
from hostcheck.model import exit_code
from hostcheck.render.json import read_json, render_json
from hostcheck.schema import run_schema, schema_text


@pytest.mark.parametrize("name", list(runs.SAMPLES))
def test_round_trip(name: str) -> None:
    run = runs.SAMPLES[name]()
    document = render_json(run)

    assert read_json(document) == run
    assert read_json(document.encode()) == run
    assert exit_code(read_json(document)) == exit_code(run)
    assert render_json(read_json(document)) == document


@pytest.mark.parametrize("name", list(runs.SAMPLES))
def test_documents_follow_the_schema(name: str) -> None:
    validator = jsonschema.Draft202012Validator(run_schema())

    assert [error.message for error in validator.iter_errors(json.loads(render_json(runs.SAMPLES[name]())))] == []


@pytest.mark.parametrize(
    "damage",
    [
        {"schema": 2},
        {"results": None},
        {"fail_on": "severe"},
        {"host": {"name": "x"}},
    ],
)
def test_schema_refuses_what_is_no_run(damage: dict[str, object]) -> None:
    document = json.loads(render_json(runs.mixed())) | damage

    assert not jsonschema.Draft202012Validator(run_schema()).is_valid(document)
    with pytest.raises(HostcheckError):
        read_json(json.dumps(document))


def test_schema_is_a_schema_and_the_committed_one() -> None:
    jsonschema.Draft202012Validator.check_schema(run_schema())

    assert files("hostcheck").joinpath("run.schema.json").read_text("utf-8") == schema_text(), (
        "the model has changed: python -m hostcheck.schema > hostcheck/run.schema.json"
    )


def test_schema_is_printed() -> None:
    printed = subprocess.run(
        [sys.executable, "-P", "-m", "hostcheck.schema"], check=True, capture_output=True, text=True
    )

    assert printed.stdout == schema_text()


def test_document_is_pretty_and_in_the_order_of_the_model() -> None:
    lines = render_json(runs.mixed()).splitlines()

    assert lines[:4] == ["{", '  "tool": "0.1.0",', '  "host": {', '    "name": "node017",']
    assert list(json.loads(render_json(runs.mixed()))["host"]["facts"]) == ["System", "CPU", "GPU", "Kernel"]


def test_numbers_and_booleans_stay_what_they_are() -> None:
    for value in (0, 1, True, False, None, 1.5, 2.0, "", "1", 2**64):
        run = runs.run(runs.result("gpu.one", runs.finding("fail", observed=value)))
        back = read_json(render_json(run)).results[0].findings[0].observed
        assert (type(back), back) == (type(value), value)


def test_hidden_characters_are_escapes() -> None:
    document = render_json(runs.run(runs.result("gpu.one", runs.finding(summary="\x1b[2J\x7f\x9b\u202e\U000e0041é"))))

    assert r'"summary": "\u001b[2J\u007f\u009b\u202e\udb40\udc41é"' in document


def test_undecodable_text_does_not_lose_the_run() -> None:
    document = render_json(runs.run(runs.result("gpu.one", runs.finding(summary="name \udcff end", observed=0))))

    assert read_json(document).results[0].findings[0].summary == "name ? end"
    assert read_json(document).results[0].findings[0].observed == 0


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (b"", "not a hostcheck run"),
        (b"{", "not a hostcheck run"),
        (b"[]", "not a hostcheck run"),
        (b"\xff\xfe", "not a hostcheck run"),
        (b'{"tool": "1"}', "schema"),
        (b'{"schema": 7}', "the run is of schema 7; this hostcheck reads schema 1"),
        (b"[" * 100_000, "not a hostcheck run"),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(document: bytes, says: str) -> None:
    with pytest.raises(HostcheckError) as caught:
        read_json(document)

    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fields_of_a_later_version_are_ignored() -> None:
    document = json.loads(render_json(runs.mixed())) | {"later": 1}

    assert read_json(json.dumps(document)) == runs.mixed()
