"""GPUs: the MIG instances that each is cut into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hostcheck.checks.gpu_modes import MIG_LAYOUT, as_expected
from hostcheck.errors import NotApplicable, need
from hostcheck.expect import Expect, ExpectationMissing
from hostcheck.facts.dropins import OWN, OwnFiles
from hostcheck.facts.gpu import GPUS, Gpu
from hostcheck.facts.gpu_mig import LAYOUT, LAYOUTS, MANAGED, NO_INSTANCES, OFFERS, Layouts, Offers, in_order
from hostcheck.facts.process import DAEMONS, Daemons
from hostcheck.registry import tuner
from hostcheck.tuning.change import Change, Refusal, Risk

from .gpu_settings import again_at_boot, forgets, need_own, set_gpu, uuid_of
from .making import because, pick

Steps = Iterator[Change | Refusal]

_NAME = "gpu-mig-layout"


@tuner(
    GPUS, LAYOUTS, OFFERS, MANAGED, DAEMONS, OWN, id="gpu.mig-layout", fixes=["gpu.mig-layout", "gpu.mig-devices"],
    rows=["gpu-mig"], keys=[MIG_LAYOUT], references=["https://docs.nvidia.com/datacenter/tesla/mig-user-guide/"],
)  # fmt: skip
def mig_layout(
    gpus: Sequence[Gpu],
    layouts: Layouts,
    offers: Offers,
    managed: bool,
    daemons: Daemons,
    own: OwnFiles,
    expect: Expect,
) -> Steps:
    """Cut GPUs in MIG mode into instances, where the site expects a layout: gpu.mig-layout.

    Only by name, and only on a GPU without processes: all instances that are there go, and the wanted ones are made,
    each with one compute instance. A unit of ours makes mode and instances again at each boot, which no instance
    survives (MIG user guide). Where nvidia-mig-manager does that, its configuration is the place. Rollback makes the
    former profiles again; instances get other places and UUIDs, so that jobs that name them do not find them.
    """
    lines: dict[str, str] = {}
    source = ""
    for gpu in gpus:
        target = f"{gpu.subject} mig-layout"
        try:
            wanted = expect.of(gpu.traits)(MIG_LAYOUT)
            on = need(gpu.mig.current)
            need_own(gpu, "its host makes the slices")
        except (NotApplicable, ExpectationMissing):
            continue
        before = layouts.of(gpu) if on else NO_INSTANCES
        value = pick(target, wanted, as_expected(before, wanted))
        if isinstance(value, Refusal):
            yield value
            continue
        if not isinstance(value, str) or not LAYOUT.fullmatch(value):
            why = f"{value!r} is no list of MIG profiles, such as 3g.40gb,1g.10gb"
            yield Refusal(target=target, why=why)
            continue
        after = value if value == NO_INSTANCES else in_order(value.split(","))
        if managed or daemons.runs("nvidia-mig-manager"):
            if after != before:
                why = "nvidia-mig-manager makes the instances: change its configuration (/etc/nvidia-mig-manager)"
                yield Refusal(target=target, why=why)
            continue
        if after != before:
            if against := _against(gpu, after, layouts, offers, on=on):
                yield Refusal(target=target, why=against)
                continue
            if lost := forgets(gpu, "mig-layout"):
                yield lost
                continue
        source = because(wanted)
        if after != NO_INSTANCES:
            lines[uuid_of(gpu)] = f"-mig 1 && nvidia-smi mig -i {uuid_of(gpu)} -cgi {after} -C"
        if after != before:
            fixes = ["gpu.mig-layout", *(["gpu.mig-devices"] if before == NO_INSTANCES else [])]
            why = f"its MIG instances are {after}"
            yield set_gpu(
                gpu, "mig-layout", before, after, why=why, source=source, fixes=fixes, risk=Risk.HIGH, opt_in=True
            )
    why = "GPUs are cut into MIG instances"
    yield from again_at_boot(own, _NAME, lines, why=why, source=source, risk=Risk.MEDIUM, opt_in=True)


def _against(gpu: Gpu, after: str, layouts: Layouts, offers: Offers, *, on: bool) -> str:
    """Return why the instances of a GPU are not to be made anew; an empty text where nothing speaks against it."""
    if not on or not need(gpu.mig.pending):
        return "MIG is off, or will be after the next reset: first hostcheck tune apply --only gpu.mig-policy"
    names = [] if after == NO_INSTANCES else after.split(",")
    offered = offers.of(gpu) if names else {}
    for name in names:
        if name not in offered:
            return f"the GPU has no profile {name}, only {', '.join(offered)}"
        if names.count(name) > offered[name]:
            return f"{names.count(name)} of {name} are more than the {offered[name]} that the GPU can have"
    busy = need(gpu.processes)
    if busy:
        return f"processes run on it ({', '.join(str(one.pid) for one in busy[:8])}): drain it, then plan again"
    uneven = layouts.uneven(gpu)
    if uneven:
        numbers = ", ".join(map(str, uneven))
        gone = f"nvidia-smi mig -i {gpu.index} -dci, then -dgi, removes them"
        return f"no rollback brings back GPU instances without exactly one compute instance: {numbers} ({gone})"
    return ""
