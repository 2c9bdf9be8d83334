"""`nvidia-smi -q -x`: XML of schema v9 to v13 into `SmiLog`. The reader of the tree also serves the text format."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from xml.parsers import expat

from hostcheck.errors import Unavailable
from hostcheck.facts.gpu_reports import SmiLog
from hostcheck.facts.smi_read import read_log
from hostcheck.facts.smi_tree import PROBE, Node

_DEPTH = 32
_NODES = 200_000
_ROOT = "nvidia_smi_log"
_CUT = (3, 5, 6, 20)  # expat: no element found, unclosed token, partial character, unclosed CDATA section
_LISTS = ("processes", "mig_devices")
# Hundreds of values for each GPU that no fact needs.
_LEFT_OUT = ("supported_clocks", "accounted_processes")


@dataclass(slots=True)
class _Builder:
    """Builds the tree while expat reads; hostile documents are refused by limits, not by running out of memory."""

    root: Node = field(default_factory=lambda: Node(""))
    path: list[Node] = field(default_factory=list)
    nodes: int = 0
    ignored: int = 0
    depth: int = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        self.nodes += 1
        if self.depth > _DEPTH or self.nodes > _NODES:
            raise Unavailable("nvidia-smi: the XML is nested too deeply or has too many elements", PROBE)
        if self.ignored or name in _LEFT_OUT:
            self.ignored += 1
            return
        node = Node(name, bus_id=attributes.get("id", ""))
        (self.path[-1] if self.path else self.root).add(node)
        self.path.append(node)

    def end(self, _name: str) -> None:
        self.depth -= 1
        if self.ignored:
            self.ignored -= 1
        else:
            self.path.pop()

    def text(self, data: str) -> None:
        if self.path and not self.ignored:
            self.path[-1].text += data

    def cut(self) -> None:
        """Forget what the document stops in: half a value, or a list of which the rest is not known."""
        for parent, node in zip([self.root, *self.path], self.path, strict=False):
            if not node.children or node.name in _LISTS:
                parent.drop_last(node.name)
                break


def _refuse(*_: object) -> None:
    raise Unavailable("nvidia-smi: the XML declares entities of its own, which nvidia-smi never does", PROBE)


def _tree(text: str) -> tuple[Node, bool]:
    """Return the document's tree, and whether the document stops in the middle."""
    builder = _Builder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.text
    parser.EntityDeclHandler = _refuse
    try:
        parser.Parse(text.encode("utf-8", "replace"), True)
    except expat.ExpatError as problem:
        if problem.code not in _CUT:
            why = f"nvidia-smi: not XML: {expat.ErrorString(problem.code)} in line {problem.lineno}"
            raise Unavailable(why, PROBE) from None
        builder.cut()
        return builder.root, True
    return builder.root, False


def _without_processes(text: str) -> str:
    """Blank the process lists: names of programs are the one thing in the document that nvidia-smi may not escape."""
    kept: list[str] = []
    at = 0
    while (start := text.find("<processes>", at)) >= 0 and (end := text.find("</processes>", start)) >= 0:
        kept.append(text[at:start] + "<processes>not XML")
        at = end
    return "".join(kept) + text[at:]


def _document(text: str) -> tuple[str, list[str]]:
    """Return the XML by itself and the lines around it: warnings come before or after it, on the same stream."""
    starts = [at for at in (text.find("<?xml"), text.find(f"<{_ROOT}")) if at >= 0]
    if not starts:
        return "", text.splitlines()
    start = min(starts)
    end = text.rfind(f"</{_ROOT}>")
    end = len(text) if end < start else end + len(_ROOT) + 3
    return text[start:end], [*text[:start].splitlines(), *text[end:].splitlines()]


def parse_xml(text: str, *, messages: Iterable[str] = (), exit_code: int | None = None) -> SmiLog:
    """Parse an output of `nvidia-smi -q -x`, whole or cut off, with the warnings around it.

    Args:
        text: standard output.
        messages: lines of standard error.
        exit_code: the command's, for the record; a complete report counts whatever it is (14: InfoROM is corrupted).

    Raises:
        Unavailable: there is no report, it is malformed, or it declares entities.

    Sample:
        <?xml version="1.0" ?>
        <!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v13.dtd">
        <nvidia_smi_log>
          <timestamp>Fri Nov 20 22:50:07 2026</timestamp>
          <driver_version>580.159.04</driver_version>
          <cuda_version>13.0</cuda_version>
          <attached_gpus>1</attached_gpus>
          <gpu id="00000000:00:06.0">
            <product_name>NVIDIA H200</product_name>
            <product_architecture>Hopper</product_architecture>
            <persistence_mode>Enabled</persistence_mode>
            <minor_number>0</minor_number>
            <pci>
              <pci_device_id>233510DE</pci_device_id>
              <pci_bus_id>00000000:00:06.0</pci_bus_id>
              <pci_gpu_link_info>
                <pcie_gen>
                  <max_link_gen>5</max_link_gen>
                  <current_link_gen>5</current_link_gen>
                  <max_host_link_gen>N/A</max_host_link_gen>
                </pcie_gen>
              </pci_gpu_link_info>
            </pci>
            <ecc_errors>
              <volatile>
                <sram_correctable>0</sram_correctable>
                <sram_uncorrectable_parity>0</sram_uncorrectable_parity>
                <sram_uncorrectable_secded>0</sram_uncorrectable_secded>
                <dram_correctable>0</dram_correctable>
                <dram_uncorrectable>0</dram_uncorrectable>
              </volatile>
            </ecc_errors>
            <gpu_power_readings>
              <average_power_draw>124.34 W</average_power_draw>
              <current_power_limit>700.00 W</current_power_limit>
            </gpu_power_readings>
          </gpu>
        </nvidia_smi_log>
    """
    document, around = _document(text)
    notes = [line.strip() for line in (*around, *messages) if line.strip()]
    if not document:
        return read_log(None, notes, exit_code=exit_code)
    try:
        tree, truncated = _tree(document)
    except Unavailable:
        if "<process_info>" not in document or "<!ENTITY" in document:
            raise
        tree, truncated = _tree(_without_processes(document))
    root = tree.child(_ROOT)
    if root is None:
        raise Unavailable("nvidia-smi: the XML holds no nvidia_smi_log", PROBE)
    return read_log(root, notes, truncated=truncated, exit_code=exit_code)
