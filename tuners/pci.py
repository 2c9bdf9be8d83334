"""PCI functions: whether they may be suspended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hostcheck.errors import need
from hostcheck.expect import Expect
from hostcheck.facts.dropins import MARK, OWN, OwnFiles
from hostcheck.facts.pci import DEVICES, PCI_GPUS, PciFunction
from hostcheck.registry import tuner
from hostcheck.tuning.change import Change, Refusal, Reload

from .making import claimed, drop_in, write

_SOURCE = "run-time power management is for notebooks: NVIDIA driver documentation, PCI-Express Runtime D3 (RTD3)"


@tuner(PCI_GPUS, OWN, id="pci.power-control", fixes=["pci.power-control"])
def power_control(gpus: Sequence[PciFunction], own: OwnFiles, expect: Expect) -> Iterator[Change | Refusal]:
    """Keep GPUs from being suspended between jobs.

    A GPU that is suspended wakes at once, and none is suspended any more, which costs some watts; a notebook's battery
    pays for it, so it is planned only by name. Rollback writes the old word back.
    """
    kept = []
    for gpu in gpus:
        control, path = need(gpu.power_control), f"{DEVICES}/{gpu.address}/power/control"
        if control == "on":
            continue
        rules = (*own.others.udev("power/control"), own.others.tmpfile(path))
        refused = next((refusal for rule in rules if (refusal := claimed(path, rule))), None)
        if refused is not None:
            yield refused
            continue
        kept.append(gpu.address)
        why = "no job waits for a GPU to wake"
        yield write(path, control, "on", why=why, source=_SOURCE, fixes=["pci.power-control"], opt_in=True)
    if kept:
        rule = f'ACTION=="add", SUBSYSTEM=="pci", KERNEL=="{"|".join(kept)}", ATTR{{power/control}}="on"'
        file = f"/etc/udev/rules.d/{MARK}power-control.rules"
        yield from drop_in(
            own, file, [rule], why="no job waits for a GPU to wake", source=_SOURCE, reload=Reload.UDEV, opt_in=True
        )
