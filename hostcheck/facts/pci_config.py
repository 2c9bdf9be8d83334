"""The configuration space of a PCI Express function, out of raw bytes: what kind of port it is, its access control.

Numbers are those of the kernel's include/uapi/linux/pci_regs.h. What cannot be is Unavailable: a list that runs in a
circle or out of its space, and a function that no longer answers, which reads as ones.
"""

from __future__ import annotations

from collections.abc import Iterator

from hostcheck.errors import Unavailable

_USER, _LEGACY, WHOLE = 64, 256, 4096
_PCIE, _SERIAL, _ACS = 0x10, 0x0003, 0x000D
DOWNSTREAM = 6
"""Type of a switch's downstream port; 4 is a root port, 5 a switch's upstream port."""

BITS = ("SrcValid", "TransBlk", "ReqRedir", "CmpltRedir", "UpstreamFwd", "EgressCtrl", "DirectTrans")
"""Names of the bits of the control register, lowest first, as lspci prints them."""


def port_type(data: bytes) -> int:
    """Return the device and port type of a function's PCI Express capability.

    Raises:
        Unavailable: it is not to be read, or there is no such capability.
    """
    _need(data, _LEGACY)
    seen: set[int] = set()
    at = data[0x34] & 0xFC if data[0x06] & 0x10 else 0
    while at:
        if at < _USER or at in seen:
            raise Unavailable(f"the list of capabilities leads to {at:#x}, where none can be")
        seen.add(at)
        if data[at] == _PCIE:
            return data[at + 2] >> 4
        at = data[at + 1] & 0xFC
    raise Unavailable("the port has no PCI Express capability")


def access_control(data: bytes) -> int | None:
    """Return the control register of a function's access control (ACS); None if it has none and so redirects nothing.

    Raises:
        Unavailable: it is not to be read.
    """
    for number, at in _extended(data):
        if number == _ACS:
            control = int.from_bytes(data[at + 6 : at + 8], "little")
            if at + 8 > WHOLE or control == 0xFFFF:
                raise Unavailable("the port's access control does not answer")
            return control
    return None


def without_serial(data: bytes) -> bytes:
    """Return the same bytes with zeros in place of a device serial number.

    Where the list cannot be followed nothing is left of the part that it is in.
    """
    masked = bytearray(data)
    try:
        for number, at in _extended(data):
            if number == _SERIAL:
                masked[at + 4 : at + 12] = bytes(len(masked[at + 4 : at + 12]))
    except Unavailable:
        return data[:_LEGACY]
    return bytes(masked)


def _extended(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield number and place of each extended capability."""
    _need(data, WHOLE)
    at, seen = _LEGACY, set[int]()
    while at:
        if at < _LEGACY or at in seen:
            raise Unavailable(f"the list of extended capabilities leads to {at:#x}, where none can be")
        seen.add(at)
        header = int.from_bytes(data[at : at + 4], "little")
        if header == 0xFFFF_FFFF:
            raise Unavailable("the port's extended capabilities do not answer")
        yield header & 0xFFFF, at
        at = header >> 20 & 0xFFC


def _need(data: bytes, size: int) -> None:
    if data[:2] == b"\xff\xff":
        raise Unavailable("the port does not answer")
    if len(data) == _USER:
        raise Unavailable("only root reads beyond 64 bytes of a port's configuration space")
    if len(data) < size:
        raise Unavailable(f"only {len(data)} of {size} bytes of the port's configuration space are to be read")
