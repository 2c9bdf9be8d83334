"""From the tree of an nvidia-smi report, however it was written down, to `SmiLog` and `Gpu`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from hostcheck.errors import Maybe, Unavailable
from hostcheck.facts import smi_parts as parts
from hostcheck.facts.gpu_reports import SmiLog
from hostcheck.facts.gpu_types import Gpu, GpuProcess, Mig, MigDevice, Utilization
from hostcheck.facts.smi_tree import PROBE, Node, Reader, is_denied, is_fault, normal_bus_id

SOURCE = "nvidia-smi"
_GPUS = 256

_PCI_ID = re.compile(r"(?:0x)?([0-9a-fA-F]{4})([0-9a-fA-F]{4})")
_UNREADABLE = re.compile(r"Unable to determine the device handle for (GPU.{0,200})", re.IGNORECASE)
_INFOROM = re.compile(r"infoROM is corrupted at gpu\s+(\S{1,40})", re.IGNORECASE)
_DEPRECATED = re.compile(r"\s*\[Deprecated.*", re.IGNORECASE)


def read_log(
    root: Node | None, notes: Sequence[str], *, truncated: bool = False, exit_code: int | None = None
) -> SmiLog:
    """Read a whole report.

    Args:
        root: the element nvidia_smi_log; None if nothing but notes was printed.
        notes: lines outside of the report.
        truncated: whether the report is known to stop in the middle.
        exit_code: for the record.

    Raises:
        Unavailable: nothing but notes was printed, and they do not say that there is no GPU; or the GPUs of the
            report cannot be told apart.
    """
    unreadable = tuple(dict.fromkeys(_unreadable(notes)))
    corrupted = [normal_bus_id(found[1]) or found[1] for line in notes if (found := _INFOROM.search(line))]
    if root is None:
        nothing_there = any("no devices were found" in line.lower() for line in notes)
        if not unreadable and not nothing_there:
            raise Unavailable(f"nvidia-smi printed no report{f': {notes[-1][:200]}' if notes else ''}", PROBE)
        # With the driver loaded and no GPU to be opened, nvidia-smi says so in words in place of a report.
        root = Node("nvidia_smi_log")
        root.add(Node("attached_gpus", str(len(unreadable))))
    read = Reader(root)
    return SmiLog(
        driver_version=_version(read.text("driver_version", "kmd_version")),
        cuda_version=_version(read.text("cuda_version", "cuda_umd_version")),
        attached=read.whole("attached_gpus"),
        timestamp=read.text("timestamp"),
        gpus=_gpus(root.children.get("gpu", []), read.whole("attached_gpus"), unreadable),
        truncated=truncated,
        unreadable=unreadable,
        inforom_corrupted=tuple(dict.fromkeys(corrupted)),
        notes=tuple(notes),
        exit_code=exit_code,
    )


def _version(text: Maybe[str]) -> Maybe[str]:
    """Return a version without the remark that drivers from 610 on put behind it."""
    return _DEPRECATED.sub("", text) if isinstance(text, str) else text


def _unreadable(notes: Iterable[str]) -> Iterable[str]:
    """Yield "bus id: text" of each GPU that could not be opened, spelt "GPU 0000:", "GPU0000:" or "GPU0: 0000:"."""
    for line in notes:
        if found := _UNREADABLE.search(line):
            words = found[1]
            bus_id = normal_bus_id(words)
            yield f"{bus_id}: {words.rpartition(': ')[2].strip()}" if bus_id else words.strip()


def _gpus(nodes: Sequence[Node], attached: Maybe[int], unreadable: Sequence[str]) -> tuple[Gpu, ...]:
    """Read the GPUs and number them.

    nvidia-smi numbers by PCI address. Where it shows only some, the minor number is the better guess at the number.
    """
    if len(nodes) > _GPUS:
        raise Unavailable(f"nvidia-smi: {len(nodes)} GPUs in one report", PROBE)
    gpus = sorted((read_gpu(node) for node in nodes), key=lambda gpu: bus_order(gpu.bus_id))
    addresses = [gpu.bus_id for gpu in gpus]
    if len(set(addresses)) != len(gpus):
        raise Unavailable("nvidia-smi: two GPUs have the same PCI address", PROBE)
    numbers = ranks(addresses, unreadable)
    minors = [gpu.minor for gpu in gpus if isinstance(gpu.minor, int) and gpu.minor >= 0]
    if isinstance(attached, int) and attached > len(gpus) and len(set(minors)) == len(gpus):
        numbers = minors
    numbered = [replace(gpu, index=number) for gpu, number in zip(gpus, numbers, strict=True)]
    return tuple(sorted(numbered, key=lambda gpu: gpu.index))


def bus_order(bus_id: str) -> tuple[int, str]:
    """Return a key that sorts PCI addresses as numbers."""
    domain, _, rest = bus_id.partition(":")
    return int(domain, 16), rest


def ranks(addresses: Iterable[str], unreadable: Iterable[str]) -> list[int]:
    """Return the number of each address, in order, counting also GPUs that could not be opened: "address: text"."""
    own = set(addresses)
    lost = {normal_bus_id(line[:20]) for line in unreadable} - {""}
    together = sorted(own | lost, key=bus_order)
    return [number for number, address in enumerate(together) if address in own]


def read_gpu(node: Node) -> Gpu:
    """Read one GPU; its index is still to be set.

    Raises:
        Unavailable: it has no PCI address.
    """
    read = Reader(node)
    address = read.text("pci/pci_bus_id")
    bus_id = normal_bus_id(node.bus_id) or normal_bus_id(address if isinstance(address, str) else "")
    if not bus_id:
        raise Unavailable("nvidia-smi: a GPU without a PCI address", PROBE)
    texts = list(node.leaves())
    return Gpu(
        index=0,
        bus_id=bus_id,
        source=SOURCE,
        pci_id=_pci_id(read, "pci/pci_device_id", vendor="10de"),
        subsystem_id=_pci_id(read, "pci/pci_sub_system_id"),
        name=read.text("product_name"),
        architecture=read.text("product_architecture"),
        uuid=read.text("uuid"),
        serial=read.text("serial"),
        minor=read.whole("minor_number"),
        part_number=read.text("gpu_part_number"),
        vbios=read.text("vbios_version"),
        gsp_firmware=read.text("gsp_firmware_version"),
        inforom_image=read.text("inforom_version/img_version"),
        persistence_mode=read.flag("persistence_mode"),
        addressing_mode=read.text("addressing_mode"),
        compute_mode=read.text("compute_mode"),
        virtualization=read.text("gpu_virtualization_mode/virtualization_mode"),
        driver_model=read.text("driver_model/current_dm"),
        display_active=read.flag("display_active"),
        c2c=read.flag("c2c_mode"),
        dram_encryption=read.flag("dram_encryption_mode/current_dram_encryption"),
        recovery_action=read.text("gpu_recovery_action"),
        reset_required=read.flag("gpu_reset_status/reset_required"),
        drain_and_reset_recommended=read.flag("gpu_reset_status/drain_and_reset_recommended"),
        performance_state=read.text("performance_state", "power_readings/power_state"),
        fan_percent=read.whole("fan_speed", unit="%"),
        memory_power_w=read.number("gpu_memory_power_readings/average_power_draw", unit="W"),
        mig=_mig(node, read),
        ecc=parts.ecc(read),
        remapped_rows=parts.remapped_rows(read),
        retired_pages=parts.retired_pages(read),
        clocks=parts.clocks(read),
        power=parts.power(read, "gpu_power_readings", "power_readings"),
        module_power=parts.power(read, "module_power_readings"),
        temperature=parts.temperature(read),
        pcie=parts.pcie(read),
        memory=parts.memory(read, "fb_memory_usage"),
        bar1=parts.memory(read, "bar1_memory_usage"),
        protected_memory=parts.memory(read, "cc_protected_memory_usage"),
        utilization=Utilization(
            gpu_percent=read.whole("utilization/gpu_util", unit="%"),
            memory_percent=read.whole("utilization/memory_util", unit="%"),
            encoder_percent=read.whole("utilization/encoder_util", unit="%"),
            decoder_percent=read.whole("utilization/decoder_util", unit="%"),
        ),
        fabric=parts.fabric(read),
        place=parts.place(read),
        processes=_processes(node, read),
        faults=tuple(f"{path}: {text}" for path, text in texts if is_fault(text) and "process_info" not in path),
        denied=tuple(f"{path}: {text}" for path, text in texts if is_denied(text) and "process_info" not in path),
    )


def _pci_id(read: Reader, path: str, vendor: str = "") -> Maybe[str]:
    """Return vendor and device as "10de:2330"; nvidia-smi writes them the other way round, "233010DE"."""
    text = read.text(path)
    if not isinstance(text, str):
        return text
    found = _PCI_ID.fullmatch(text)
    if found is None or (vendor and found[2].lower() != vendor):
        return Unavailable(f"nvidia-smi: {path}: {text[:60]!r} is no PCI id", PROBE)
    return f"{found[2]}:{found[1]}".lower()


def _mig(node: Node, read: Reader) -> Mig:
    listed = node.child("mig_devices")
    devices: Maybe[tuple[MigDevice, ...]]
    if listed is not None and listed.children:
        devices = tuple(_mig_device(Reader(child)) for child in listed.children.get("mig_device", []))
    else:
        text = read.text("mig_devices")
        none = listed is not None and listed.text.strip() in ("None", "")
        devices = () if none else text if not isinstance(text, str) else Unavailable(f"nvidia-smi: {text}", PROBE)
    return Mig(current=read.flag("mig_mode/current_mig"), pending=read.flag("mig_mode/pending_mig"), devices=devices)


def _mig_device(read: Reader) -> MigDevice:
    return MigDevice(
        index=read.whole("index"),
        gpu_instance=read.whole("gpu_instance_id"),
        compute_instance=read.whole("compute_instance_id"),
        multiprocessors=read.whole("device_attributes/shared/multiprocessor_count"),
        memory_mib=read.whole("fb_memory_usage/total", unit="MiB"),
    )


def _processes(node: Node, read: Reader) -> Maybe[tuple[GpuProcess, ...]]:
    listed = node.child("processes")
    if listed is None or (not listed.children and listed.text.strip() not in ("None", "")):
        text = read.text("processes")
        return text if not isinstance(text, str) else Unavailable(f"nvidia-smi: processes: {text[:60]}", PROBE)
    found = []
    for child in listed.children.get("process_info", []):
        one = Reader(child)
        pid = one.whole("pid")
        if not isinstance(pid, int):
            return Unavailable("nvidia-smi: a process without a number", PROBE)
        memory = one.whole("used_memory", unit="MiB")
        found.append(GpuProcess(pid=pid, kind=one.text("type"), name=one.text("process_name"), memory_mib=memory))
    return tuple(found)
