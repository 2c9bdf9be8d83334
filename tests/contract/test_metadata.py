"""What every check, key and layer must say of itself."""

from __future__ import annotations

import re

import pytest

from hostcheck.audit import shipped_layers
from hostcheck.coverage import row_ids
from hostcheck.expect import KEYS, key_of, shipped_names
from hostcheck.registry import Check, add, load_checks
from hostcheck.snapshot.probes import CommandProbe, FileProbe
from support import every_probe

CHECKS = load_checks()


@pytest.mark.parametrize("id", sorted(CHECKS))
def test_a_check_explains_itself(id: str) -> None:
    check = CHECKS[id]
    assert re.fullmatch(r"[A-Z0-9].*[.]", check.title), "the title is one sentence"
    assert len(check.title) <= 120
    assert len(check.rationale) > 40, "the rationale says why it matters"
    assert check.module.rsplit(".", 1)[1].split("_")[0] == check.subsystem


def test_the_rows_that_checks_answer_exist() -> None:
    known = set(row_ids())
    assert {row for check in CHECKS.values() for row in check.rows} <= known


def test_there_are_at_least_forty_five_checks() -> None:
    assert len(CHECKS) >= 45


def test_every_key_is_read_by_a_check_and_every_check_key_is_set_or_said_to_be_for_sites() -> None:
    declared = {key.name for check in CHECKS.values() for key in check.keys}
    shipped = {key for key in KEYS if not key.startswith("test.")}
    assert shipped == declared
    layered = {
        key
        for role in shipped_names("role")
        for layer in shipped_layers(role.split("/")[1], gpus=True)
        for key in layer.values
    }
    assert {key_of(name) for name in layered} <= declared


def test_every_shipped_value_has_a_source() -> None:
    for role in shipped_names("role"):
        for layer in shipped_layers(role.split("/")[1], gpus=True):
            for key, (_, source) in layer.values.items():
                assert source not in ("", layer.name), f"{layer.name}: {key}"


def test_an_id_is_taken_once() -> None:
    taken = next(iter(CHECKS.values()))
    with pytest.raises(ValueError, match=f"both define the check {re.escape(taken.id)}"):
        add(taken)
    with pytest.raises(ValueError, match=r"is not subsystem\.kebab-case"):
        add(Check("Gpu.X", "t", "r", taken.severity, taken.needs, taken.function))


def test_probes_are_bounded_and_a_path_has_one_owner() -> None:
    owners: dict[str, str] = {}
    for probe in every_probe():
        assert 0 < probe.seconds <= 60, probe.id
        assert probe.total <= 32 << 20, probe.id
        if isinstance(probe, FileProbe):
            for path in probe.paths:
                assert owners.setdefault(path, probe.id) == probe.id, f"{path} is read by {owners[path]} and {probe.id}"
        if isinstance(probe, CommandProbe):
            assert probe.argv or probe.local_module


def test_no_probe_of_the_driver_is_asked_without_a_guard() -> None:
    for probe in every_probe():
        if isinstance(probe, CommandProbe) and (probe.argv[:1] == ("nvidia-smi",) or probe.local_module):
            assert probe.guard is not None, probe.id
