"""The NVIDIA kernel driver's own files: version, flavour, module parameters, and the GPUs that it has taken."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hostcheck.errors import Maybe, NotApplicable, Unavailable
from hostcheck.facts.gpu_reports import Driver, DriverGpu
from hostcheck.facts.smi_tree import normal_bus_id
from hostcheck.snapshot.reading import Reading

PROBE = "gpu.driver"
VERSION = "/proc/driver/nvidia/version"
PARAMS = "/proc/driver/nvidia/params"
INFORMATION = "/proc/driver/nvidia/gpus/*/information"
POWER = "/proc/driver/nvidia/gpus/*/power"
MODULE_VERSION = "/sys/module/nvidia/version"

_VERSION = re.compile(r"NVRM version:\s+NVIDIA UNIX (Open )?.{0,60}?\s(\d{2,4}(?:\.\d{1,5}){1,3})(?!\S)")
_PAIR = re.compile(r"([^:]{1,80}?)\s*:\s*(.*?)\s*")


def parse_version(text: str) -> tuple[str, str]:
    """Return version and flavour ("open" or "proprietary") of the loaded module.

    Raises:
        Unavailable: the text has neither.

    Sample:
        NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (nixbld@)
        GCC version:  gcc version 15.3.0 (GCC)
    """
    found = _VERSION.search(text)
    if found is None:
        raise Unavailable(f"{VERSION} names no version", PROBE)
    return found[2], "open" if found[1] else "proprietary"


def parse_pairs(text: str) -> dict[str, str]:
    """Return the lines "name: value" of a file; quotes around a text are left out.

    Sample:
        EnableStreamMemOPs: 0
        EnableGpuFirmware: 18
        DynamicPowerManagement: 3
        CoherentGPUMemoryMode: ""
        RegistryDwords: "RMDebugOverridePerRunlistChannelRam=1"
    """
    pairs: dict[str, str] = {}
    for line in text.splitlines()[:1000]:
        if found := _PAIR.fullmatch(line.strip()):
            value = found[2]
            pairs[found[1]] = value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    return pairs


def parse_information(bus_id: str, text: str, power: Mapping[str, str] | None = None) -> DriverGpu:
    """Read one GPU's file `information`, and the pairs of its file `power`.

    Sample:
        Model: 		 NVIDIA H200
        IRQ:   		 41
        GPU UUID: 	 GPU-408643ac-e981-0be4-04ea-8dcdaffdd9c2
        Video BIOS: 	 96.00.a5.00.1a
        Bus Type: 	 PCIe
        DMA Size: 	 52 bits
        Bus Location: 	 0000:00:06.0
        Device Minor: 	 0
        GPU Firmware: 	 580.159.04
        GPU Excluded:	 No
    """
    pairs = parse_pairs(text)

    def value(name: str) -> Maybe[str]:
        found = pairs.get(name, "")
        # The driver writes question marks for what it has not read from a GPU that sleeps or was never opened.
        if not found or "??" in found:
            return Unavailable(f"the driver does not tell the {name} of {bus_id}", PROBE)
        return NotApplicable(f"the driver says {found} for the {name} of {bus_id}") if found == "N/A" else found

    minor, excluded = value("Device Minor"), value("GPU Excluded")
    d3 = (power or {}).get("Runtime D3 status", "")
    return DriverGpu(
        bus_id=bus_id,
        model=value("Model"),
        uuid=value("GPU UUID"),
        minor=_minor(minor, bus_id),
        vbios=value("Video BIOS"),
        firmware=value("GPU Firmware"),
        excluded=excluded == "Yes" if excluded in ("Yes", "No") else _unclear(excluded, bus_id),
        runtime_d3=d3 or Unavailable(f"the driver does not tell the runtime D3 status of {bus_id}", PROBE),
    )


def _minor(text: Maybe[str], bus_id: str) -> Maybe[int]:
    if not isinstance(text, str):
        return text
    fine = text.isascii() and text.isdigit() and len(text) < 8
    return int(text) if fine else Unavailable(f"the driver tells no minor number of {bus_id}", PROBE)


def _unclear(value: Maybe[str], bus_id: str) -> Maybe[bool]:
    return Unavailable(f"GPU Excluded of {bus_id}: {value[:40]}", PROBE) if isinstance(value, str) else value


def _attempt(reading: Reading, path: str) -> Maybe[str]:
    """Return a file's text; that it is not there is Unavailable too."""
    try:
        text = reading.read(path)
    except Unavailable as missing:
        return missing
    return text if text is not None else Unavailable(f"{path} is not there", PROBE)


def parse_driver(reading: Reading) -> Driver:
    """Read the driver's state; without its files it is not loaded.

    Raises:
        Unavailable: neither of the two version files could be read.
    """
    version = reading.read(VERSION)
    if version is None:
        module = reading.read(MODULE_VERSION)
        if module is None:
            nothing = NotApplicable("the NVIDIA kernel driver is not loaded")
            return Driver(loaded=False, version=nothing, flavour=nothing, params=nothing, gpus=nothing)
        unknown = Unavailable(f"{VERSION} is not there", PROBE)
        return Driver(loaded=True, version=module.strip(), flavour=unknown, params=unknown, gpus=unknown)
    number, flavour = parse_version(version)
    params = _attempt(reading, PARAMS)
    return Driver(
        loaded=True,
        version=number,
        flavour=flavour,
        params=parse_pairs(params) if isinstance(params, str) else params,
        gpus=_gpus(reading),
    )


def _gpus(reading: Reading) -> Maybe[tuple[DriverGpu, ...]]:
    try:
        texts = reading.glob(INFORMATION)
    except Unavailable as missing:
        return missing
    found = []
    for path, text in texts.items():
        power = _attempt(reading, path.removesuffix("information") + "power")
        pairs = parse_pairs(power) if isinstance(power, str) else None
        if bus_id := normal_bus_id(path):
            found.append(parse_information(bus_id, text, pairs))
    return tuple(sorted(found, key=lambda gpu: gpu.bus_id))
