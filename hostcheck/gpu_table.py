"""The table of GPU models (layers/gpus.toml): what is physically possible, and the expectation layers made from it.

Nothing is read before it is asked for. The figures and their sources are in the file; its header explains the units.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from hostcheck.errors import HostcheckError
from hostcheck.expect import KEYS, Key, Layer
from hostcheck.matchers import AtLeast

NVIDIA = "10de"

# Drivers keep some memory for themselves, and ECC of GDDR takes a sixteenth: an A10 of 24 GB (22888 MiB) shows
# 23028 MiB of its 24 GiB. The rest of the margin is for other drivers.
_MEMORY_SHARE = 0.97

# How far the size that the driver shows may be from the nominal one: 40 GB are shown as 40960 MiB (42.9 GB).
_SAME_SIZE = 0.12


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelClocks:
    """Clocks of a model, MHz.

    Attributes:
        tensor_mhz: the clock that the vendor's tensor figures hold for; can be lower than the maximum.
        sm_max_mhz: the highest SM clock.
        memory_mhz: as NVML counts it: two transfers a clock.
    """

    tensor_mhz: float | None = None
    sm_max_mhz: float | None = None
    memory_mhz: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMemory:
    """Device memory: nominal size in GB, as it is sold, and the datasheet's bandwidth in GB/s."""

    kind: str
    size_gb: float
    bandwidth_gbs: float
    bus_bits: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLink:
    """NVLink, C2C or PCIe of one GPU.

    Attributes:
        per_dir_gbs, total_gbs: all links together in one direction, and in both, GB/s.
        optional: not every build wires it: cards need a bridge, superchips a rack.
    """

    per_dir_gbs: float
    total_gbs: float | None = None
    gen: int | None = None
    links: int | None = None
    lanes: int | None = None
    optional: bool = False

    @property
    def link_gbs(self) -> float | None:
        """One link in one direction, GB/s."""
        return self.per_dir_gbs / self.links if self.links else None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuModel:
    """One model. What no source tells is None or absent.

    Attributes:
        names: as nvidia-smi shows them, without "NVIDIA".
        pci: device ids of NVIDIA, upper case; "2901:1999" holds only with that subsystem device.
        cc: compute capability.
        confidence: high (vendor's document), medium (known conflict or derived) or low (third-party table).
        source: group of figures ("dense", "memory", "tdp" and so on) to keys of the table's sources.
        dense: TFLOPS without sparsity by number format (int8 in TOPS), accumulated in FP32.
        dense_fp16_accumulate: the same with FP16 accumulation, where that is faster.
        rate_variant: the part departs from the rates of its compute capability.
        rounded: formats whose figure the vendor rounds further than the lint allows.
        disputed: groups for which public sources disagree.
        host_memory_in_name: the size in the name is that of the CPU's memory.
    """

    id: str
    names: tuple[str, ...]
    pci: tuple[str, ...]
    cc: str
    confidence: str
    source: Mapping[str, tuple[str, ...]]
    memory: ModelMemory
    clocks: ModelClocks = ModelClocks()
    sm: int | None = None
    l2_mb: float | None = None
    tdp_w: float | None = None
    dense: Mapping[str, float] = field(default_factory=dict)
    dense_fp16_accumulate: Mapping[str, float] = field(default_factory=dict)
    nvlink: ModelLink | None = None
    c2c: ModelLink | None = None
    pcie: ModelLink | None = None
    rate_variant: str = ""
    rounded: tuple[str, ...] = ()
    disputed: tuple[str, ...] = ()
    host_memory_in_name: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Dense operations per clock and SM of a compute capability, and of parts that depart from it."""

    rates: Mapping[str, int]
    source: tuple[str, ...]
    variants: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What all parts of an architecture have in common: the speed of one NVLink in one direction, GB/s."""

    link_gbs: float
    source: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuTable:
    """The whole table; `sources` holds the title of each source by its key."""

    as_of: str
    sources: Mapping[str, str]
    arch: Mapping[str, Rates]
    family: Mapping[str, Family]
    models: tuple[GpuModel, ...]

    def rates(self, model: GpuModel) -> Mapping[str, int]:
        """Return the dense operations per clock and SM of a model by number format."""
        own = self.arch[model.cc]
        return own.variants[model.rate_variant] if model.rate_variant else own.rates

    def cite(self, keys: Iterable[str]) -> str:
        """Return the titles of sources."""
        return "; ".join(self.sources.get(key, key) for key in keys)


def read_table(text: str) -> GpuTable:
    """Read a table.

    Raises:
        HostcheckError: it is not TOML, or not of this form.
    """
    try:
        raw = tomllib.loads(text)
        return GpuTable(
            as_of=raw["as_of"],
            sources=raw["sources"],
            arch={cc: Rates(**_frozen(entry)) for cc, entry in raw["arch"].items()},
            family={name: Family(**_frozen(entry)) for name, entry in raw["family"].items()},
            models=tuple(_model(entry) for entry in raw["gpu"]),
        )
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as problem:
        raise HostcheckError(f"the GPU table cannot be read: {problem}") from None


def _frozen(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}


def _model(entry: dict[str, Any]) -> GpuModel:
    parts: dict[str, Callable[..., Any]] = {
        "clocks": ModelClocks, "memory": ModelMemory, "nvlink": ModelLink, "c2c": ModelLink, "pcie": ModelLink,
    }  # fmt: skip
    made = {name: parts[name](**value) if name in parts else value for name, value in _frozen(entry).items()}
    made["source"] = _frozen(entry["source"])
    return GpuModel(**made)


@cache
def table() -> GpuTable:
    """Return our own table."""
    return read_table((files("hostcheck.layers") / "gpus.toml").read_text("utf-8"))


def find(
    pci_id: str | None,
    subsystem: str | None = None,
    name: str | None = None,
    memory_mib: int | None = None,
    *,
    among: Sequence[GpuModel] | None = None,
) -> GpuModel | None:
    """Return the model of a GPU, or None where the table does not tell.

    The PCI id decides; several models with one id are told apart by their memory, or by the exact name. The name
    alone decides only where the id is in no model. Sizes in names are never read: those of GH200 are the CPU's.

    Args:
        pci_id: vendor and device, "10de:2330" or "0x233010DE"; a device alone is taken to be NVIDIA's.
        subsystem: the same for the subsystem.
        name: as nvidia-smi shows it.
        memory_mib: total memory as nvidia-smi shows it.
        among: models to choose from; those of our table if not given.
    """
    models = table().models if among is None else among
    vendor, device = _ids(pci_id)
    if vendor not in ("", NVIDIA):
        return None
    by_name = [model for model in models if name is not None and _short(name) in map(_short, model.names)]
    for wanted in (f"{device}:{_ids(subsystem)[1]}", device) if device else ():
        found = [model for model in models if wanted in model.pci]
        if len(found) > 1 and memory_mib is not None:
            found = [model for model in found if _same_size(model, memory_mib)]
        elif len(found) > 1:
            found = [model for model in found if model in by_name]
        if any(wanted in model.pci for model in models):
            return found[0] if len(found) == 1 else None
    return by_name[0] if len(by_name) == 1 else None


def _ids(text: str | None) -> tuple[str, str]:
    """Return vendor (lower case) and device (upper case), each empty where the text does not tell."""
    plain = (text or "").strip().lower().removeprefix("0x")
    if match := re.fullmatch(r"([0-9a-f]{4}):([0-9a-f]{4})", plain):
        return match[1], match[2].upper()
    if match := re.fullmatch(r"([0-9a-f]{4})([0-9a-f]{4})", plain):
        return match[2], match[1].upper()
    return "", plain.upper() if re.fullmatch(r"[0-9a-f]{4}", plain) else ""


def _short(name: str) -> str:
    return " ".join(name.split()).removeprefix("NVIDIA ").casefold()


def _same_size(model: GpuModel, memory_mib: int) -> bool:
    return abs(memory_mib * 2**20 / 1e9 / model.memory.size_gb - 1) <= _SAME_SIZE


# Units of memory sizes, in GB.
MEMORY_UNITS = {"MiB": 2**20 / 1e9, "GiB": 2**30 / 1e9, "MB": 1e-3, "GB": 1.0}


def _memory_size(model: GpuModel, key: Key) -> float:
    return int(model.memory.size_gb * _MEMORY_SHARE / MEMORY_UNITS[key.unit])


def _links(model: GpuModel, _: Key) -> float | None:
    return model.nvlink.links if model.nvlink and not model.nvlink.optional else None


# The expectation keys that the table answers, each a lower limit: the group of figures, and the value or None.
GENERATED: dict[str, tuple[str, Callable[[GpuModel, Key], float | None]]] = {
    "gpu.max-sm-clock": ("clocks", lambda model, _: model.clocks.sm_max_mhz),
    "gpu.memory-size": ("memory", _memory_size),
    "gpu.default-power-limit": ("tdp", lambda model, _: model.tdp_w),
    "nvlink.links": ("nvlink", _links),
    "nvlink.speed": ("nvlink", lambda model, _: model.nvlink.link_gbs if model.nvlink else None),
}


def layers(keys: Mapping[str, Key] = KEYS, known: GpuTable | None = None) -> list[Layer]:
    """Return the layers of the table, architectures first, for those keys that checks define.

    Models that share a PCI id have one layer together for it, with the lowest of their values.

    Args:
        keys: the register of keys; empty until the checks are loaded.
        known: the table; our own if not given.
    """
    known = known or table()
    made = []
    if "nvlink.speed" in keys:
        for name, family in known.family.items():
            speed = {"nvlink.speed": (AtLeast(family.link_gbs), known.cite(family.source))}
            made.append(Layer(f"arch/{name.lower()}", {"gpu_arch": (name,)}, speed))
    carriers: dict[tuple[str, ...], list[str]] = {}
    for device in dict.fromkeys(device for model in known.models for device in model.pci if ":" not in device):
        carriers.setdefault(tuple(model.id for model in known.models if device in model.pci), []).append(device)
    by_id = {model.id: _values(model, keys, known) for model in known.models}
    for ids, devices in carriers.items():
        values = _lowest([by_id[id] for id in ids])
        if values:
            match = {"pci": tuple(f"{NVIDIA}:{device.lower()}" for device in devices)}
            made.append(Layer(f"gpu/{'+'.join(ids)}", match, values))
    return made


def _values(model: GpuModel, keys: Mapping[str, Key], known: GpuTable) -> dict[str, tuple[AtLeast, str]]:
    """Return what is expected of a model; nothing from figures that are disputed or of low confidence."""
    made: dict[str, tuple[AtLeast, str]] = {}
    for name, (group, value_of) in GENERATED.items():
        if name in keys and group not in model.disputed and model.confidence != "low":
            value = value_of(model, keys[name])
            if value is not None:
                made[name] = (AtLeast(value), known.cite(model.source[group]))
    return made


def _lowest(each: Sequence[Mapping[str, tuple[AtLeast, str]]]) -> dict[str, tuple[AtLeast, str]]:
    """Return the lowest value of each key that all of them have."""
    common = [name for name in each[0] if all(name in values for values in each)]
    return {name: min((values[name] for values in each), key=lambda entry: entry[0].value) for name in common}
