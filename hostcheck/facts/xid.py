"""GPU and NVSwitch errors in the kernel log (Xid and SXid), and what each code means, from `xid.toml`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from hostcheck.errors import Unavailable
from hostcheck.facts.base import Fact, Optional
from hostcheck.facts.gpu import GPUS, Gpu
from hostcheck.facts.kernel_log import KERNEL_LOG, KernelLog, LogLine

# One record a line, at the start of the message: a process can carry such words in its name.
_XID = re.compile(
    r"NVRM: Xid \((?:PCI:)?([\da-fA-F]{4,8}:[\da-fA-F]{2}:[\da-fA-F]{2})(?:\.\d)?\): (\d{1,5})\b,? ?(.{0,300})"
)
_SXID = re.compile(
    r"nvidia-nvswitch(\d{1,3}): SXid \(PCI:([\da-fA-F:.]{7,16})\): (\d{1,7}), (Fatal|Non-fatal)\b,? ?(.{0,300})"
)
_BEGUN = re.compile(r"NVRM: Xid\b|nvidia-nvswitch\d+: SXid\b")
_PROCESS = re.compile(r"pid=(?:'<unknown>'|<unknown>|(\d{1,10}))(?:\(.{0,40}?\))?(?:, name=([^,]{0,40}))?(?:, )?")
_MOST = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Xid:
    """One code on one GPU during this boot.

    Attributes:
        address: PCI address without the function, such as "0000:9b:00".
        code: the Xid.
        count: how many records there are.
        processes: names of the processes that the records name, each once.
        text: what the first record says.
        first, last: when, in words; empty if unknown.
    """

    address: str
    code: int
    count: int
    processes: tuple[str, ...]
    text: str
    first: str
    last: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sxid:
    """One code on one NVSwitch during this boot."""

    switch: int
    address: str
    code: int
    fatal: bool
    count: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class XidLog:
    """All errors of this boot that the kernel log still holds.

    Attributes:
        xids, sxids: ordered by address and code.
        gpus: PCI address without the function to the GPU's name, such as "gpu4"; empty if the driver did not answer.
        strange: how many lines begin like a record and are of no form that is known.
        complete: the log reaches back to the boot, so that what is not in it did not happen.
        covers_from: since when it has no gap, in words.
        source: "dmesg" or "journal".
    """

    xids: tuple[Xid, ...]
    sxids: tuple[Sxid, ...]
    gpus: Mapping[str, str]
    strange: int
    complete: bool
    covers_from: str
    source: str

    def need_all(self) -> None:
        """Go on only if the log holds all messages of this boot, and every record of an error could be read.

        Raises:
            Unavailable: older messages were overwritten, or a record is of another form.
        """
        if self.strange:
            raise Unavailable(f"{self.strange} lines of the kernel log begin as Xid records and cannot be read")
        if not self.complete:
            raise Unavailable(f"the kernel log ({self.source}) begins only at {self.covers_from}", "kernel.dmesg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What is known about a code.

    Attributes:
        name: in a few words.
        actor, severity: who mends it, and how much it matters, in the words of the result model; the severity is
            "info" where it is no fault of the host.
        step: what that actor does.
    """

    name: str
    actor: str
    severity: str
    step: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The table of codes; `other` is for those that it lacks."""

    codes: Mapping[int, Meaning]
    other: Meaning
    sxid_fatal: Meaning
    sxid_other: Meaning
    source: str

    def meaning(self, code: int) -> Meaning:
        """Return what an Xid means."""
        return self.codes.get(code, self.other)


def parse_xids(lines: Iterable[LogLine]) -> tuple[tuple[Xid, ...], tuple[Sxid, ...]]:
    """Count the Xid and SXid records of a kernel log.

    Sample:
        NVRM: GPU at PCI:0000:9b:00: GPU-509665ad-b600-ac93-3616-d754b23d636d
        NVRM: Xid (PCI:0000:9b:00): 119, pid=2024380, name=nvidia-smi, Timeout after 6s of waiting for RPC response
        NVRM: Xid (PCI:0000:9b:00): 119, pid=1240590, name=gpud, Timeout after 6s of waiting for RPC response
        NVRM: Xid (PCI:0000:19:00): 48, pid='<unknown>', name=<unknown>, An uncorrectable double bit error (DBE)
        NVRM: Xid (PCI:0000:05:00): 79, GPU has fallen off the bus.
        nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 12028, Non-fatal, Link 32 egress non-posted PRIV error (First)
    """
    xids: dict[tuple[str, int], list[tuple[str, str, str]]] = {}
    sxids: dict[tuple[int, str, int, bool], list[str]] = {}
    for line in lines:
        if found := _XID.match(line.text):
            name, text = _process(found[3])
            key = (_address(found[1]), int(found[2]))
            if key in xids or len(xids) < _MOST:
                xids.setdefault(key, []).append((name, text, line.when))
        elif found := _SXID.match(line.text):
            where = (int(found[1]), found[2].lower(), int(found[3]), found[4] == "Fatal")
            if where in sxids or len(sxids) < _MOST:
                sxids.setdefault(where, []).append(found[5])
    return (
        tuple(
            Xid(
                address=address,
                code=code,
                count=len(records),
                processes=tuple(dict.fromkeys(name for name, _, _ in records if name)),
                text=records[0][1],
                first=records[0][2],
                last=records[-1][2],
            )
            for (address, code), records in sorted(xids.items())
        ),
        tuple(
            Sxid(switch=switch, address=address, code=code, fatal=fatal, count=len(texts), text=texts[0])
            for (switch, address, code, fatal), texts in sorted(sxids.items())
        ),
    )


def read_xids(log: KernelLog, gpus: tuple[Gpu, ...] | Unavailable) -> XidLog:
    """Return the errors of this boot; the names of the GPUs are left out where the driver does not answer."""
    xids, sxids = parse_xids(log.lines)
    begun = [line.text for line in log.lines if _BEGUN.match(line.text)]
    known = () if isinstance(gpus, Unavailable) else gpus
    return XidLog(
        xids=xids,
        sxids=sxids,
        gpus={_address(gpu.bus_id.rpartition(".")[0]): gpu.subject for gpu in known},
        strange=sum(not _XID.match(text) and not _SXID.match(text) for text in begun),
        complete=log.complete,
        covers_from=log.covers_from,
        source=log.source,
    )


def read_policy(text: str) -> Policy:
    """Read the table of codes.

    Raises:
        ValueError: it is not of the form that it must have; a table of ours that is wrong is a bug.
    """
    table = tomllib.loads(text)
    codes: dict[int, Meaning] = {}
    for group in table["policy"]:
        for code, name in group["codes"].items():
            if int(code) in codes:
                raise ValueError(f"Xid {code} is in two groups")
            codes[int(code)] = _meaning({**group, "name": name})
    return Policy(
        codes=codes,
        other=_meaning(table["other"]),
        sxid_fatal=_meaning(table["sxid"]["fatal"]),
        sxid_other=_meaning(table["sxid"]["non-fatal"]),
        source=f"{table['source']}, {table['as_of']}",
    )


@cache
def policy() -> Policy:
    """Return our table of codes."""
    return read_policy((files("hostcheck") / "xid.toml").read_text("utf-8"))


def _meaning(entry: Mapping[str, str]) -> Meaning:
    return Meaning(name=entry["name"], actor=entry["actor"], severity=entry["severity"], step=entry["step"])


def _address(text: str) -> str:
    """Return a PCI address without its function, with four digits of domain, as sysfs has it."""
    domain, _, rest = text.lower().partition(":")
    return f"{domain[-4:] if domain.startswith('0000') else domain}:{rest}"


def _process(text: str) -> tuple[str, str]:
    """Split "pid=1, name=python3, text" into the process's name and the text."""
    found = _PROCESS.match(text)
    if not found:
        return "", text.strip()
    name = (found[2] or "").strip()
    return ("" if name == "<unknown>" else name), text[found.end() :].strip()


# The GPUs come first, so that on a host without any the question does not arise, whether the log can be read or not.
XIDS: Fact[XidLog] = Fact("gpu.xids", lambda gpus, log: read_xids(log, gpus), Optional(GPUS), KERNEL_LOG)
