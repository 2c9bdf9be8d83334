"""Tuners of GPUs where the case tables cannot go: programs on the GPU, and slices that exist."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hostcheck.errors import Unavailable
from hostcheck.expect import Expect, Layer, read_values
from hostcheck.facts.addons import Addons
from hostcheck.facts.base import Facts
from hostcheck.facts.dropins import OWN
from hostcheck.facts.gpu import GPUS, Gpu, GpuProcess, MigDevice
from hostcheck.facts.gpu_mig import Layouts, MigInstance, Offers
from hostcheck.facts.process import DAEMONS, Daemons
from hostcheck.registry import TUNERS, load_tuners
from hostcheck.tuning.change import Change, Refusal
from support import host

load_tuners()
MIG, MPS = TUNERS["gpu.mig-policy"], TUNERS["gpu.mps"]
GPU: Gpu = Facts(host("h200x2")).get(GPUS)[0]
BUSY = (GpuProcess(pid=4711, kind="C"),)


def expect(key: str, value: bool | str) -> Expect:
    return Expect([Layer("site", {}, read_values({key: value}, "site"))], {}, (key,))


def mig(gpu: Gpu, *, wanted: bool) -> list[Change | Refusal]:
    return list(MIG.function(gpu, expect("gpu.mig-policy", wanted)))


def mps(gpu: Gpu) -> list[Change | Refusal]:
    own = Facts(host("bare")).get(OWN)
    daemons = Facts(host("bare")).get(DAEMONS)
    addons = Addons(mps=True, gds_source=False, gds_kernels=())
    return list(MPS.function([gpu], addons, daemons, own, expect("gpu.mps", True)))


def test_mig_is_not_switched_under_a_program() -> None:
    assert isinstance(mig(replace(GPU, processes=()), wanted=True)[0], Change)
    (refused,) = mig(replace(GPU, processes=BUSY), wanted=True)
    assert isinstance(refused, Refusal)
    assert "drain it" in refused.why
    with pytest.raises(Unavailable):
        mig(replace(GPU, processes=Unavailable("nobody tells")), wanted=True)


def test_slices_that_exist_are_not_thrown_away() -> None:
    sliced = replace(GPU.mig, current=True, pending=True, devices=(MigDevice(index=0),))
    (refused,) = mig(replace(GPU, mig=sliced, processes=()), wanted=False)
    assert isinstance(refused, Refusal)
    assert "no rollback brings them back" in refused.why
    empty = replace(sliced, devices=())
    (change,) = mig(replace(GPU, mig=empty, processes=()), wanted=False)
    assert isinstance(change, Change)
    assert (change.before, change.after) == ("Enabled", "Disabled")


def test_mps_is_not_started_beside_programs() -> None:
    assert all(isinstance(step, Change) for step in mps(replace(GPU, processes=())))
    (refused,) = mps(replace(GPU, processes=BUSY))
    assert isinstance(refused, Refusal)
    assert "drain" in refused.why
    shown = (GpuProcess(pid=1, kind="G"),)
    assert all(isinstance(step, Change) for step in mps(replace(GPU, processes=shown))), "a desktop is no CUDA program"


def cut(gpu: Gpu, *, daemons: Daemons | None = None, wanted: str = "7g.141gb") -> list[Change | Refusal]:
    """Return what is to be done to a GPU in MIG mode that has the instances 1 and 2."""
    instances = tuple(MigInstance(profile="3g.71gb", profile_id=9, id=id, start=None, size=None) for id in (1, 2))
    layouts = Layouts(instances={gpu.index: instances})
    offers = Offers(profiles={gpu.index: {"3g.71gb": 2, "7g.141gb": 1}})
    own, names = Facts(host("bare")).get(OWN), daemons or Facts(host("bare")).get(DAEMONS)
    wish = expect("gpu.mig-layout", wanted)
    return list(TUNERS["gpu.mig-layout"].function([gpu], layouts, offers, False, names, own, wish))


SLICED = replace(
    GPU,
    mig=replace(GPU.mig, current=True, pending=True, devices=(MigDevice(gpu_instance=1), MigDevice(gpu_instance=2))),
    processes=(),
)


def test_a_layout_is_changed_on_an_idle_gpu() -> None:
    first, *rest = cut(SLICED)
    assert isinstance(first, Change)
    assert (first.before, first.after, first.opt_in) == ("3g.71gb,3g.71gb", "7g.141gb", True)
    assert rest
    assert all(isinstance(step, Change) and step.opt_in for step in rest)
    (gone,) = cut(SLICED, wanted="none")
    assert isinstance(gone, Change)
    assert gone.after == "none"


@pytest.mark.parametrize(
    ("gpu", "says"),
    [
        (replace(SLICED, processes=BUSY), "processes run on it (4711)"),
        (replace(SLICED, mig=replace(SLICED.mig, pending=False)), "--only gpu.mig-policy"),
        (replace(SLICED, mig=replace(SLICED.mig, devices=(MigDevice(gpu_instance=1),))), "exactly one compute"),
        (replace(SLICED, persistence_mode=False), "the GPU would forget it"),
    ],
)
def test_a_layout_is_not_changed_where_something_would_be_lost(gpu: Gpu, says: str) -> None:
    (refused,) = cut(gpu)
    assert isinstance(refused, Refusal)
    assert says in refused.why


def test_a_layout_is_left_to_the_manager_that_makes_it() -> None:
    daemons = Facts(host("bare")).get(DAEMONS)
    managed = replace(daemons, names=daemons.names | {"nvidia-mig-mana"})
    (refused,) = cut(SLICED, daemons=managed)
    assert isinstance(refused, Refusal)
    assert "nvidia-mig-manager makes the instances" in refused.why
    assert cut(SLICED, daemons=managed, wanted="3g.71gb,3g.71gb") == [], "nor does a unit of ours make it"


def test_what_a_host_calls_a_uuid_does_not_become_a_command() -> None:
    power = TUNERS["gpu.power-limit"]
    own = Facts(host("bare")).get(OWN)
    hostile = replace(GPU, uuid="GPU-1; reboot")
    capped = Expect([Layer("site", {}, read_values({"gpu.power-limit": 90}, "site"))], {}, ("gpu.power-limit",))
    assert all(isinstance(step, Change) for step in power.function([GPU], own, capped))
    with pytest.raises(Unavailable, match="is no UUID"):
        list(power.function([hostile], own, capped))
