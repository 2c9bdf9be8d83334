"""What a change of each kind must look like: the reader of plans trusts none, and a tuner's own is held to the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from hostcheck.facts.gpu_mig import LAYOUT
from hostcheck.tuning.change import Change, Kind

_LONGEST = {"target": 4096, "why": 2000, "source": 4000, "tuner": 200}
_VALUE = 64 * 1024
"""Bytes of a value, also of a whole file: as in runtime.sh, whose work grows faster than that."""
_COMMANDS = 20
_COMMAND = 2000

_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,240}\.(service|socket|timer|mount|swap|path|target|slice)")
_UNIT_STATE = re.compile(r"(enabled|disabled|static) (active|inactive)")
_ARGUMENT = re.compile(r"(grub|grubby) [A-Za-z0-9][A-Za-z0-9_.-]{0,100}")
_GPU = re.compile(r"GPU-[0-9a-fA-F-]{8,40} ([a-z-]+)")
_NIC = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,14} mtu")
_MODULE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ -]{0,40}")
_OWN = re.compile(r"/etc/(?:[A-Za-z0-9_.@-]+/)*[A-Za-z0-9_.@:-]+")
_GPU_VALUES: Mapping[str, re.Pattern[str]] = {
    "power-limit": re.compile(r"[0-9]{1,5}(\.[0-9]{1,3})?"),
    "ecc": _WORD,
    "mig": _WORD,
    "mig-layout": LAYOUT,
    "persistence": _WORD,
    "compute-mode": _WORD,
    "sm-clock-lock": re.compile(r"[0-9]{1,5},[0-9]{1,5}"),
    "memory-clock-lock": re.compile(r"[0-9]{1,5},[0-9]{1,5}"),
}


def fault(change: Change) -> str:
    """Return what makes no sense in a change, in one line that begins with the field's name; empty where all does."""
    for name, most in _LONGEST.items():
        text: str = getattr(change, name)
        if not text.isprintable() or len(text) > most:
            return f"{name} is to be one line of at most {most:,} characters"
    if not change.target:
        return "target is empty"
    if not change.why:
        return "why is empty: nothing is changed without a reason"
    if change.kind is Kind.MANUAL:
        return _texts(change) or _commands(change)
    if change.commands:
        return f"commands are for what is done by hand: hostcheck makes a {change.kind} change itself"
    if change.before == change.after:
        return "before and after are the same: there is nothing to change"
    return _texts(change) or _FAULTS[change.kind](change)


def _texts(change: Change) -> str:
    for name in ("before", "after"):
        text: str | None = getattr(change, name)
        if text is None:
            continue
        if "\0" in text or len(text.encode("utf-8", "replace")) > _VALUE:
            return f"{name} is to be a text of at most {_VALUE:,} bytes, without NUL"
        if change.kind is not Kind.FILE and any(sign in text for sign in "\n\r\x1b"):
            return f"{name} is to be one line"
    return ""


def _commands(change: Change) -> str:
    if len(change.commands) > _COMMANDS:
        return f"commands are to be at most {_COMMANDS}"
    for command in change.commands:
        if not command.strip() or not command.isprintable() or len(command) > _COMMAND:
            return f"commands are to be lines of 1 to {_COMMAND:,} characters each"
    return ""


def _path(target: str, *, under: tuple[str, ...] = ("/",)) -> str:
    parts = target.split("/")
    if not target.startswith("/") or any(part in ("", ".", "..") for part in parts[1:]):
        return f"target {target!r} is no plain absolute path"
    if not target.startswith(under):
        return f"target {target!r} is not in {' or '.join(under)}"
    return ""


def _both(change: Change) -> str:
    for name in ("before", "after"):
        if getattr(change, name) is None:
            return f"{name} is missing: a {change.kind} change always has a value"
    return ""


def _each(change: Change, pattern: re.Pattern[str], what: str) -> str:
    for name in ("before", "after"):
        text: str | None = getattr(change, name)
        if text is not None and not pattern.fullmatch(text):
            return f"{name} {text!r} is not {what}"
    return ""


def _write(change: Change) -> str:
    wrong = _path(change.target, under=("/proc/sys/", "/proc/irq/", "/sys/")) or _both(change)
    return wrong or ("after is empty: no setting is written as nothing" if not (change.after or "").strip() else "")


def _file(change: Change) -> str:
    wrong = _path(change.target, under=("/etc/",))
    if wrong:
        return wrong
    if "hostcheck" not in change.target or not _OWN.fullmatch(change.target):
        return f"target {change.target!r} is no file of hostcheck's own: those have its name in theirs"
    return ""


def _unit(change: Change) -> str:
    if not _UNIT.fullmatch(change.target):
        return f"target {change.target!r} is no name of a unit such as irqbalance.service"
    return _both(change) or _each(change, _UNIT_STATE, "such as 'enabled active'")


def _argument(change: Change) -> str:
    if not _ARGUMENT.fullmatch(change.target):
        return f"target {change.target!r} is not 'grub' or 'grubby' and the name of a kernel argument"
    return _each(change, re.compile(r"[A-Za-z0-9_.,:;=/+@%-]*"), "a value of a kernel argument: one word, no quotes")


def _gpu(change: Change) -> str:
    found = _GPU.fullmatch(change.target)
    if not found or found[1] not in _GPU_VALUES:
        return f"target {change.target!r} is not a GPU's UUID and one of {', '.join(_GPU_VALUES)}"
    if found[1].endswith("-lock"):
        return _each(change, _GPU_VALUES[found[1]], "MIN,MAX in MHz")
    return _both(change) or _each(change, _GPU_VALUES[found[1]], f"a value for {found[1]}")


def _nic(change: Change) -> str:
    if not _NIC.fullmatch(change.target):
        return f"target {change.target!r} is not the name of a network interface and 'mtu'"
    wrong = _both(change) or _each(change, re.compile(r"[0-9]{2,5}"), "an MTU in bytes")
    return wrong or ("" if 68 <= int(change.after or 0) <= 65535 else "after is outside of 68 to 65535 bytes")


def _mount(change: Change) -> str:
    options = re.compile(r"[^\s]+")
    place = "" if change.target == "/" else _path(change.target)
    return place or _both(change) or _each(change, options, "a list of mount options")


def _swap(change: Change) -> str:
    return _path(change.target) or _each(change, re.compile(r"-?[0-9]{1,5}"), "a priority")


def _module(change: Change) -> str:
    if not _MODULE.fullmatch(change.target):
        return f"target {change.target!r} is no name of a kernel module"
    return _each(change, re.compile(""), "empty, which means loaded, or missing, which means not loaded")


_FAULTS: Mapping[Kind, Callable[[Change], str]] = {
    Kind.WRITE: _write,
    Kind.FILE: _file,
    Kind.UNIT: _unit,
    Kind.KERNEL_ARG: _argument,
    Kind.GPU: _gpu,
    Kind.NIC: _nic,
    Kind.MOUNT: _mount,
    Kind.SWAP: _swap,
    Kind.MODULE: _module,
}
