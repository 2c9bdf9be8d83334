"""PCI functions: whether they may be suspended, and what their switches redirect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from hostcheck.checks.pci import NCCL_ACS, PEER_ROUTE
from hostcheck.errors import need
from hostcheck.expect import Expect
from hostcheck.facts.dropins import MARK, OWN, OwnFiles
from hostcheck.facts.pci import DEVICES, PCI_GPUS, PciFunction
from hostcheck.facts.pci_acs import SWITCH_PORTS, SwitchPort
from hostcheck.facts.platform import PLATFORM, Platform
from hostcheck.registry import tuner
from hostcheck.tuning.change import Change, Refusal, Reload

from .making import because, by_hand, claimed, drop_in, write

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


_AT_ONCE = 8
"""Ports in one command."""


@tuner(
    SWITCH_PORTS, PLATFORM, id="pci.acs", fixes=["pci.acs"], rows=["x-os-iommu-acs"], keys=[PEER_ROUTE],
    references=[NCCL_ACS],
)  # fmt: skip
def acs(ports: Sequence[SwitchPort], platform: Platform, expect: Expect) -> Iterator[Change | Refusal]:
    """Say how access control (ACS) is switched off on the switch ports between GPUs and their peers.

    It is said and not done: it takes away what keeps devices of guests apart, and lasts only in the firmware or on the
    kernel's command line. Writing the old number with setpci takes it back.
    """
    platform.need_bare_metal("the PCIe switches are the host's")
    wanted = expect(PEER_ROUTE)
    redirecting = [port for port in ports if port.routing == "redirected"]
    if not redirecting or wanted.matcher.matches("redirected"):
        return
    names = ";".join(port.address for port in redirecting)
    before = ", ".join(sorted({f"{need(port.control) or 0:04x}" for port in redirecting}))
    told = (
        "access control (ACS) of the switches redirects what GPUs and their peers exchange. For good: switch it off "
        f"in the firmware setup or, where an IOMMU is on, give the kernel 'pci=disable_acs_redir={names}' (in quotes "
        f"for GRUB). Until the next boot (before: {before}):"
    )
    words = [("-s", port.address, "ECAP_ACS+0x6.w=0000") for port in redirecting]
    commands = [["setpci", *chain(*words[at : at + _AT_ONCE])] for at in range(0, len(words), _AT_ONCE)]
    yield by_hand("ACS", told, because(wanted), commands)
