"""Where the NVLinks of a GPU lead: all to a switch, behind which are the other GPUs, or some to each of them."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from functools import cache
from typing import Any

GPU, NPU, SWITCH = KINDS = range(3)  # NVML_NVLINK_DEVICE_TYPE_*; 255 is one that is not known


@cache
def far_ends(uuid: str) -> tuple[tuple[int | None, str], ...]:
    """Return what is at the far end of each NVLink of a GPU: its kind, as NVML counts, and its PCI address.

    What NVML does not tell is None and "": old drivers know no kinds, and virtual machines hide what is not theirs.
    Links of which it tells neither are left out. Where one leads to a switch, that stands for all, and the others are
    not asked for: NVML takes its time for each.
    """
    found = []
    with suppress(Exception):
        import pynvml

        pynvml.nvmlInit()
        gpu = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
            kind, address = None, ""
            with suppress(Exception):
                kind = int(pynvml.nvmlDeviceGetNvLinkRemoteDeviceType(gpu, link))
            if kind == SWITCH:
                return ((SWITCH, ""),)
            with suppress(Exception):
                address = address_of(pynvml.nvmlDeviceGetNvLinkRemotePciInfo(gpu, link))
            if kind in KINDS or address:
                found.append((kind, address))
    return tuple(found)


def address_of(pci: Any) -> str:
    """Return the PCI address in what NVML tells of a device."""
    return f"{pci.domain:08x}:{pci.bus:02x}:{pci.device:02x}"


def share_to(uuid: str, peers: int) -> float:
    """Return which share of a GPU's NVLinks leads to so many others, if each leads to a GPU for certain; 1 if not."""
    ends = far_ends(uuid)
    if not ends or any(kind != GPU or not address for kind, address in ends):
        return 1.0
    return sum(count for _, count in Counter(address for _, address in ends).most_common(peers)) / len(ends)
