"""`nvidia-smi -q`: the indented text, turned into the tree of the XML and read by the same reader.

Other people's support bundles hold this format. A part of it (`-q -d PAGE_RETIREMENT`) is as good; what it lacks is
Unavailable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from hostcheck.errors import Unavailable
from hostcheck.facts.gpu_reports import SmiLog
from hostcheck.facts.smi_read import read_log
from hostcheck.facts.smi_tree import PROBE, Node

_LINES = 200_000
_DEPTH = 32
_BANNER = "NVSMI LOG"
_NOTES = ("WARNING", "Unable to determine")
_GPU = re.compile(r"GPU ([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7])")
_NOT_WORD = re.compile(r"[^0-9a-z]+")
_EVENT = "clocks_event_reason_"
_THROTTLE = "clocks_throttle_reason_"
_COUNTER = "clocks_event_reasons_counters_"


def _both(names: dict[str, str], form: str) -> dict[str, str]:
    return {label: form.format(name) for label, name in names.items()}


_NOW_NEXT = {"Current": "current", "Pending": "pending"}
_REASONS = {
    "Idle": "gpu_idle",
    "Applications Clocks Setting": "applications_clocks_setting",
    "SW Power Cap": "sw_power_cap",
    "HW Slowdown": "hw_slowdown",
    "HW Thermal Slowdown": "hw_thermal_slowdown",
    "HW Power Brake Slowdown": "hw_power_brake_slowdown",
    "Sync Boost": "sync_boost",
    "SW Thermal Slowdown": "sw_thermal_slowdown",
    "Display Clock Setting": "display_clocks_setting",
}
_CLOCKS = {"Graphics": "graphics_clock", "SM": "sm_clock", "Memory": "mem_clock", "Video": "video_clock"}

# The element of a label where it is not simply the label in lower case with underscores, by the element around it.
_ELEMENTS: dict[str, dict[str, str]] = {
    "gpu": {
        "Serial Number": "serial",
        "GPU UUID": "uuid",
        "Platform Info": "platformInfo",
        "GPU C2C Mode": "c2c_mode",
        "Module ID": "gpu_module_id",
        "Conf Compute Protected Memory Usage": "cc_protected_memory_usage",
    },
    "inforom_version": {"Image Version": "img_version"},
    "mig_mode": _both(_NOW_NEXT, "{}_mig"),
    "driver_model": _both(_NOW_NEXT, "{}_dm"),
    "ecc_mode": _both(_NOW_NEXT, "{}_ecc"),
    "dram_encryption_mode": _both(_NOW_NEXT, "{}_dram_encryption"),
    "mig_device": {"Shared FB Memory Usage": "fb_memory_usage", "FB Memory Usage": "fb_memory_usage"},
    "pci": {
        "Device Id": "pci_device_id",
        "Bus Id": "pci_bus_id",
        "Sub System Id": "pci_sub_system_id",
        "GPU Link Info": "pci_gpu_link_info",
        "Replays Since Reset": "replay_counter",
        "Replay Number Rollovers": "replay_rollover_counter",
        "Tx Throughput": "tx_util",
        "Rx Throughput": "rx_util",
    },
    "pci_gpu_link_info": {"PCIe Generation": "pcie_gen", "Link Width": "link_widths"},
    "pcie_gen": {
        "Max": "max_link_gen",
        "Current": "current_link_gen",
        "Device Current": "device_current_link_gen",
        "Device Max": "max_device_link_gen",
        "Host Max": "max_host_link_gen",
    },
    "link_widths": {"Max": "max_link_width", "Current": "current_link_width"},
    "clocks_event_reasons": _both(_REASONS, _EVENT + "{}"),
    "clocks_throttle_reasons": _both(_REASONS, _THROTTLE + "{}"),
    "clocks_event_reasons_counters": {
        "SW Power Capping": _COUNTER + "sw_power_cap",
        "Sync Boost": _COUNTER + "sync_boost",
        "SW Thermal Slowdown": _COUNTER + "sw_therm_slowdown",
        "HW Thermal Slowdown": _COUNTER + "hw_therm_slowdown",
        "HW Power Braking": _COUNTER + "hw_power_brake",
    },
    "utilization": {
        "GPU": "gpu_util",
        "Gpu": "gpu_util",
        "Memory": "memory_util",
        "Encoder": "encoder_util",
        "Decoder": "decoder_util",
    },
    "volatile": {"SRAM Uncorrectable SEC-DED": "sram_uncorrectable_secded"},
    "aggregate": {"SRAM Uncorrectable SEC-DED": "sram_uncorrectable_secded"},
    "single_bit": {"Texture Shared": "texture_shm"},
    "double_bit": {"Texture Shared": "texture_shm"},
    "retired_pages": {
        "Single Bit ECC": "multiple_single_bit_retirement/retired_count",
        "Double Bit ECC": "double_bit_retirement/retired_count",
        "Pending Page Blacklist": "pending_blacklist",
        "Pending": "pending_retirement",
    },
    "remapped_rows": {
        "Correctable Error": "remapped_row_corr",
        "Uncorrectable Error": "remapped_row_unc",
        "Pending": "remapped_row_pending",
        "Remapping Failure Occurred": "remapped_row_failure",
        "Bank Remap Availability Histogram": "row_remapper_histogram",
    },
    "row_remapper_histogram": {
        name: f"row_remapper_histogram_{name.lower()}" for name in ("Max", "High", "Partial", "Low", "None")
    },
    "temperature": {
        "GPU Current Temp": "gpu_temp",
        "GPU T.Limit Temp": "gpu_temp_tlimit",
        "GPU Current T.Limit Temp": "gpu_temp_tlimit",
        "GPU Shutdown Temp": "gpu_temp_max_threshold",
        "GPU Slowdown Temp": "gpu_temp_slow_threshold",
        "GPU Max Operating Temp": "gpu_temp_max_gpu_threshold",
        "GPU Shutdown T.Limit Temp": "gpu_temp_max_tlimit_threshold",
        "GPU Slowdown T.Limit Temp": "gpu_temp_slow_tlimit_threshold",
        "GPU Max Operating T.Limit Temp": "gpu_temp_max_gpu_tlimit_threshold",
        "GPU Target Temperature": "gpu_target_temperature",
        "Memory Current Temp": "memory_temp",
        "Memory Max Operating Temp": "gpu_temp_max_mem_threshold",
        "Memory Max Operating T.Limit Temp": "gpu_temp_max_mem_tlimit_threshold",
    },
    "gpu_power_readings": {"Instantaneous Power Draw": "instant_power_draw"},
    "gpu_memory_power_readings": {"Instantaneous Power Draw": "instant_power_draw"},
    "module_power_readings": {"Instantaneous Power Draw": "instant_power_draw"},
    "fabric": {"CliqueId": "cliqueId", "ClusterUUID": "clusterUuid"},
    "process_info": {"Process ID": "pid", "Name": "process_name", "Used GPU Memory": "used_memory"},
    **dict.fromkeys(
        ("clocks", "applications_clocks", "default_applications_clocks", "max_clocks", "max_customer_boost_clocks"),
        _CLOCKS,
    ),
}


def _element(parent: str, label: str) -> str:
    special = _ELEMENTS.get(parent, {}).get(label)
    return special or _NOT_WORD.sub("_", label.lower()).strip("_")


class _Tree:
    """Builds the tree from one line after the other; a deeper indentation is inside of the section before it."""

    def __init__(self) -> None:
        self.root = Node("nvidia_smi_log")
        self.sections: list[tuple[int, Node]] = [(-1, self.root)]
        self.process: Node | None = None

    def gpu(self, bus_id: str) -> None:
        node = Node("gpu", bus_id=bus_id)
        self.root.add(node)
        self.sections = [(-1, self.root), (0, node)]

    def line(self, indent: int, label: str, value: str | None) -> None:
        while self.sections[-1][0] >= indent:
            self.sections.pop()
        parent = self.sections[-1][1]
        if parent.name == "processes":
            self._process_line(parent, label, value or "")
        elif value is None:
            if len(self.sections) > _DEPTH:
                raise Unavailable("nvidia-smi -q: the text is nested too deeply", PROBE)
            self.sections.append((indent, self._section(parent, label)))
        else:
            name, _, inner = _element(parent.name, label).partition("/")
            node = Node(name, value)
            if inner:
                node = Node(name)
                node.add(Node(inner, value))
            parent.add(node)

    def _section(self, parent: Node, label: str) -> Node:
        if parent.name == "gpu" and label == "MIG Device":
            parent = self._mig_devices(parent)
        self.process = None
        node = Node(_element(parent.name, label))
        parent.add(node)
        return node

    def _mig_devices(self, gpu: Node) -> Node:
        there = gpu.child("mig_devices")
        if there is None:
            there = Node("mig_devices")
            gpu.add(there)
        return there

    def _process_line(self, parent: Node, label: str, value: str) -> None:
        """Read a list without brackets: "Process ID" begins a process, and what belongs to it follows."""
        if label == "Process ID":
            self.process = Node("process_info")
            parent.add(self.process)
        if self.process is not None and not label.endswith("nstance ID"):
            self.process.add(Node(_element("process_info", label), value))


def _finish(root: Node) -> bool:
    """Add what the text does not say, and return whether it stops in the middle.

    The text has no end mark. But each GPU of a full report has a name near its start and a process list near its end.
    """
    gpus = root.children.get("gpu", [])
    for gpu in gpus:
        if gpu.child("mig_mode") and not gpu.child("mig_devices"):
            gpu.add(Node("mig_devices", "None"))
    return bool(gpus) and gpus[-1].child("product_name") is not None and gpus[-1].child("processes") is None


def parse_text(text: str, *, messages: Iterable[str] = (), exit_code: int | None = None) -> SmiLog:
    """Parse an output of `nvidia-smi -q`, in whole or in part.

    Args:
        text: standard output.
        messages: lines of standard error.
        exit_code: the command's, for the record.

    Raises:
        Unavailable: there is no report in it.

    Sample:
        ==============NVSMI LOG==============

        Timestamp                                              : Fri Nov 20 22:50:07 2026
        Driver Version                                         : 580.159.04
        CUDA Version                                           : 13.0

        Attached GPUs                                          : 1
        GPU 00000000:00:06.0
            Product Name                                       : NVIDIA H200
            Persistence Mode                                   : Enabled
            MIG Mode
                Current                                        : Disabled
                Pending                                        : Disabled
            Clocks Event Reasons
                Idle                                           : Active
                HW Slowdown                                    : Not Active
                    HW Thermal Slowdown                        : Not Active
                    HW Power Brake Slowdown                    : Not Active
                Sync Boost                                     : Not Active
            Retired Pages
                Single Bit ECC                                 : N/A
            Processes                                          : None
    """
    lines = text.splitlines()
    if len(lines) > _LINES:
        raise Unavailable("nvidia-smi -q: too many lines", PROBE)
    start = next((number for number, line in enumerate(lines) if _BANNER in line), None)
    notes = [line.strip() for line in (*lines[: len(lines) if start is None else start], *messages) if line.strip()]
    if start is None:
        return read_log(None, notes, exit_code=exit_code)
    body = [line for line in lines[start + 1 :] if line.strip()]
    notes += [line for line in body if line.startswith(_NOTES)]
    root = _build(body)
    truncated = _finish(root)
    if truncated and not text.endswith("\n"):
        # The last line may be half a value.
        root = _build(body[:-1])
        _finish(root)
    return read_log(root, notes, truncated=truncated, exit_code=exit_code)


def _build(lines: Iterable[str]) -> Node:
    tree = _Tree()
    for line in lines:
        if heading := _GPU.fullmatch(line.strip()):
            tree.gpu(heading[1])
        elif not line.startswith(_NOTES):
            label, colon, value = line.strip().partition(":")
            tree.line(len(line) - len(line.lstrip(" ")), label.strip(), value.strip() if colon else None)
    return tree.root
