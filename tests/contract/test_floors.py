"""Which hardware has floors: a part whose links nobody holds against anything passes with any of them."""

from __future__ import annotations

import pytest

from hostcheck.audit import shipped_layers
from hostcheck.bench.floors import Floors
from hostcheck.bench.model import Measurement, Session
from hostcheck.gpu_table import table
from hostcheck.matchers import AtLeast

LINKED = [
    (model.id, device.partition(":")[0])
    for model in table().models
    if model.nvlink is not None and not model.nvlink.optional
    for device in model.pci
]


@pytest.mark.parametrize(("id", "device"), LINKED)
@pytest.mark.parametrize(
    ("bench", "case", "algorithm"),
    [
        ("peer.copy", "", ""),
        ("nccl.all-reduce", "2 GiB", "ring simple"),
        ("nccl.all-reduce", "2 GiB", "nvls simple"),
    ],
)
def test_each_model_with_nvlink_in_every_build_has_floors_of_it(
    id: str, device: str, bench: str, case: str, algorithm: str
) -> None:
    measured = Measurement(
        bench=bench, case=case, subject="gpu0>gpu1", unit="GB/s", value=1.0, settings={"algorithm": algorithm}
    )
    session = Session(
        tool="test", taken="2026-11-21T00:00:00+00:00", level="quick", measurements=(measured,),
        devices={f"gpu{number}": {"pci_id": f"10de:{device.lower()}"} for number in range(2)},
    )  # fmt: skip
    floor = Floors(shipped_layers("training", gpus=True)).of(session, measured)
    assert floor is not None, f"{id} ({device})"
    assert isinstance(floor.matcher, AtLeast)
    assert 40 <= floor.matcher.value <= 90
