"""Parsers for what `nvidia-smi nvlink` and `nvidia-smi topo` print."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hostcheck.errors import Maybe, NotApplicable, Unavailable

_GPU = re.compile(r"GPU (\d{1,4}):\s*(.*?)\s*\(UUID:\s*([^)]*)\)\s*")
_LINK = re.compile(r"\s*Link (\d{1,3}):\s*(.*?)\s*")
_SPEED = re.compile(r"(\d{1,5}(?:\.\d{1,6})?) GB/s")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_BONDED = re.compile(r"NV(\d{1,3})")
_LABEL = re.compile(r"[A-Za-z][\w.-]{0,40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One NVLink of a GPU.

    Attributes:
        number: as the driver counts it, from 0.
        active: whether it is trained and carries data.
        speed_gbs: one direction, in decimal GB/s as printed; not applicable while it is inactive.
    """

    number: int
    active: bool
    speed_gbs: Maybe[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuBlock:
    """What one GPU's part of an `nvidia-smi nvlink` output says.

    Attributes:
        index: NVML index.
        model, uuid: as printed.
        links: empty where the board has NVLink and every link is down.
    """

    index: int
    model: str
    uuid: str
    links: Maybe[tuple[Link, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterBlock:
    """The fault counters of one GPU, by (link, name), since the counters were last reset."""

    index: int
    uuid: str
    counters: Maybe[Mapping[tuple[int, str], int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyRow:
    """One GPU's row of the matrix.

    Attributes:
        index: NVML index.
        paths: label of each other GPU or NIC to the word for the way there: NV18, PIX, PXB, PHB, NODE or SYS.
        cpus: Linux list of the CPUs near it, such as "0-31,64-95".
        node: Linux list of the NUMA nodes near it; usually one.
    """

    index: int
    paths: Mapping[str, str]
    cpus: Maybe[str]
    node: Maybe[str]

    @property
    def subject(self) -> str:
        """Such as "gpu0"."""
        return f"gpu{self.index}"

    def bonded(self, other: int) -> int:
        """Return how many NVLinks join this GPU with another one; 0 where they meet over PCIe only."""
        found = _BONDED.fullmatch(self.paths.get(f"GPU{other}", ""))
        return int(found[1]) if found else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """The matrix of `nvidia-smi topo -m`: its GPUs, and the device name of each NIC label."""

    gpus: tuple[TopologyRow, ...]
    nics: Mapping[str, str]


def parse_status(text: str) -> tuple[GpuBlock, ...]:
    """Parse `nvidia-smi nvlink -s`.

    Raises:
        Unavailable: there is no GPU in it.

    Sample:
        GPU 0: NVIDIA H200 (UUID: GPU-11111111-2222-3333-4444-555555555555)
             Link 0: 26.562 GB/s
             Link 1: <inactive>
        GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-9667d95e-6d22-0c22-1f57-c481f13e7c44)
        NVML: Unable to retrieve NVLink information as all links are inactive
        GPU 2: NVIDIA H100 80GB HBM3 (UUID: GPU-00000000-0000-0000-0000-000000000000)
        Nvlink queries are not supported for Devices in MIG mode
        GPU 3: NVIDIA L40S (UUID: GPU-00000000-0000-0000-0000-000000000001)
        Device does not have or support Nvlink
    """
    return tuple(
        GpuBlock(index=index, model=model, uuid=uuid, links=_links(lines))
        for index, model, uuid, lines in _blocks(text)
    )


def parse_errors(text: str) -> tuple[CounterBlock, ...]:
    """Parse `nvidia-smi nvlink -e`: the counters that stand for a fault, not traffic nor what FEC corrected.

    NVLink 4 and older count replay, recovery and CRC errors. NVLink 5 has other names; its "FEC Errors - N" are
    histogram bins of corrected code words, which grow on a healthy link, and its BER lines are ratios.

    Raises:
        Unavailable: there is no GPU in it.

    Sample:
        GPU 0: NVIDIA H200 (UUID: GPU-11111111-2222-3333-4444-555555555555)
             Link 0: Replay Errors: 0
             Link 0: Recovery Errors: 0
             Link 0: CRC Errors: 3

             Link 1: Replay Errors: 0
             Link 1: Recovery Errors: 0
             Link 1: CRC Errors: 0
    """
    return tuple(
        CounterBlock(index=index, uuid=uuid, counters=_counters(lines)) for index, _, uuid, lines in _blocks(text)
    )


def parse_topology(text: str) -> Topology:
    """Parse `nvidia-smi topo -m`; the header carries terminal codes even when it is written to a pipe.

    Raises:
        Unavailable: there is no matrix in it.

    Sample:
                GPU0    GPU1    NIC0    CPU Affinity    NUMA Affinity   GPU NUMA ID
        GPU0     X      NV18    PIX     0-31            0               N/A
        GPU1    NV18     X      SYS     32-63           1               N/A
        NIC0    PIX     SYS      X

        NIC Legend:

          NIC0: mlx5_0
    """
    labels: list[str] = []
    rows: list[TopologyRow] = []
    nics: dict[str, str] = {}
    for line in _ANSI.sub("", text).splitlines():
        # Tabs part the columns; where somebody's terminal has turned them into blanks, no cell is empty or has a blank.
        cells = [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()
        if not labels:
            labels = _header(line)
        elif cells and re.fullmatch(r"GPU\d{1,4}", cells[0]) and len(cells) > len(labels):
            paths = dict(zip(labels, cells[1 : len(labels) + 1], strict=True))
            rest = [*cells[len(labels) + 1 :], "", ""]
            rows.append(
                TopologyRow(
                    index=int(cells[0][3:]),
                    paths={label: path for label, path in paths.items() if path != "X"},
                    cpus=_list(rest[0], "CPU affinity"),
                    node=_list(rest[1], "NUMA affinity"),
                )
            )
        elif legend := re.fullmatch(r"(NIC\d{1,4}): (\S+)", line.strip()):
            nics[legend[1]] = legend[2]
    if not rows:
        raise Unavailable("nvidia-smi topo -m shows no matrix")
    return Topology(gpus=tuple(rows), nics=nics)


def _blocks(text: str) -> Iterator[tuple[int, str, str, list[str]]]:
    """Yield index, model, UUID and lines of each GPU."""
    head: re.Match[str] | None = None
    lines: list[str] = []
    found = False
    for line in text.splitlines():
        if match := _GPU.fullmatch(line):
            if head:
                yield int(head[1]), head[2], head[3], lines
            head, lines, found = match, [], True
        elif line.strip():
            lines.append(line)
    if head:
        yield int(head[1]), head[2], head[3], lines
    if not found:
        raise Unavailable(f"no GPU in the output of nvidia-smi nvlink: {text.strip()[:120]!r}")


def _refusal(lines: list[str]) -> tuple[()] | Unavailable | NotApplicable | None:
    """Return what a block without a line for each link means, or None if it has such lines."""
    words = " ".join(line.strip() for line in lines)
    lower = words.lower()
    if "mig mode" in lower:
        return NotApplicable("the GPU is in MIG mode, in which its NVLinks are not used")
    if "does not have or support nvlink" in lower:
        return NotApplicable("the board has no NVLink")
    if "all links are inactive" in lower:
        return ()
    if not any(_LINK.fullmatch(line) for line in lines):
        return Unavailable(f"nvidia-smi nvlink says {words[:120]!r}" if words else "nvidia-smi nvlink says nothing")
    return None


def _links(lines: list[str]) -> Maybe[tuple[Link, ...]]:
    refused = _refusal(lines)
    if refused is not None:
        return refused
    links: list[Link] = []
    for number, state in _pairs(lines):
        if speed := _SPEED.fullmatch(state):
            links.append(Link(number=number, active=True, speed_gbs=float(speed[1])))
        elif state.strip("<>").lower() == "inactive":
            links.append(Link(number=number, active=False, speed_gbs=NotApplicable("the link is inactive")))
        else:
            return Unavailable(f"nvidia-smi nvlink -s says {state[:60]!r} for link {number}")
    return tuple(links)


def _counters(lines: list[str]) -> Maybe[Mapping[tuple[int, str], int]]:
    refused = _refusal(lines)
    if refused == ():
        return NotApplicable("every link is inactive")
    if isinstance(refused, Unavailable | NotApplicable):
        return refused
    counters: dict[tuple[int, str], int] = {}
    for number, rest in _pairs(lines):
        name, _, value = rest.rpartition(":")
        if _is_fault(name.strip()) and re.fullmatch(r"\d{1,20}", value.strip()):
            counters[number, name.strip()] = int(value)
    return counters or Unavailable("nvidia-smi nvlink -e shows no error counter that is known")


def _pairs(lines: list[str]) -> Iterator[tuple[int, str]]:
    for line in lines:
        if match := _LINK.fullmatch(line):
            yield int(match[1]), match[2]


def _is_fault(name: str) -> bool:
    if name.startswith("FEC "):
        return False
    return name.endswith((" Errors", "recovery successful events", "recovery failed events")) or name == "Tx discards"


def _header(line: str) -> list[str]:
    """Return the labels of the matrix's columns if this is its header, else nothing."""
    before, found, _ = line.partition("CPU Affinity")
    labels = before.split() if found else []
    return labels if all(_LABEL.fullmatch(label) for label in labels) else []


def _list(cell: str, what: str) -> Maybe[str]:
    if re.fullmatch(r"\d{1,6}(-\d{1,6})?(,\d{1,6}(-\d{1,6})?)*", cell):
        return cell
    return NotApplicable(f"the driver knows no {what}") if cell == "N/A" else Unavailable(f"no {what} in topo -m")
