"""The lint of the GPU table and of expectation layers: what cannot be, found before it can judge anybody's host."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from hostcheck.expect import KEYS, Key, Layer, key_of
from hostcheck.gpu_table import MEMORY_UNITS, NVIDIA, GpuModel, GpuTable, ModelLink
from hostcheck.matchers import AtLeast, Between, Equals

# Figures that disagree by more are wrong somewhere; figures off by this factor are those with sparsity.
_CLOSE = 0.05
_SPARSE = 2.0

# Formats that the tensor cores compute at the tensor clock; the others run at the maximum clock.
_TENSOR = ("tf32", "bf16", "fp16", "fp8", "fp6", "fp4", "int8")

# What a figure can be in its unit; outside, it is in another one.
_ANY = float("inf")
_RANGES: dict[str, tuple[float, float]] = {
    "sm": (8, 512),
    "l2_mb": (1, 1024),
    "tdp_w": (30, 3000),
    "clocks.tensor_mhz": (800, 4000),
    "clocks.sm_max_mhz": (800, 4000),
    "clocks.memory_mhz": (500, 20_000),
    "memory.size_gb": (8, 1024),
    "memory.bus_bits": (64, 16_384),
    "memory.bandwidth_gbs": (100, 30_000),
    "nvlink.per_dir_gbs": (40, 4000),
    "nvlink.links": (1, 36),
    "c2c.per_dir_gbs": (100, 2000),
    "pcie.per_dir_gbs": (3, 300),
    "pcie.gen": (3, 7),
    "pcie.lanes": (1, 16),
    "dense": (0.1, 50_000),
}

# Raw GB/s of one PCIe lane in one direction by generation.
_PCIE_LANE_GBS = {3: 0.985, 4: 1.969, 5: 3.938, 6: 7.563, 7: 15.13}

_CONFIDENCE = ("high", "medium", "low")


def lint(table: GpuTable, layers: Sequence[Layer] = (), read: Iterable[str] | None = None) -> list[str]:
    """Return what is wrong, one line each; nothing where all is well.

    Args:
        table: the GPU table.
        layers: expectation layers to hold against it.
        read: names of the keys that checks read; those of the register if not given.
    """
    known = set(KEYS if read is None else read)
    found = [f"{model.id}: {fault}" for model in table.models for fault in _faults(model, table)]
    found += _families(table)
    found += _identity(table.models)
    for layer in layers:
        found += [f"{layer.name}: no check reads {name}" for name in layer.values if key_of(name) not in known]
        found += _floors(layer, table)
    return found


def _faults(model: GpuModel, table: GpuTable) -> Iterator[str]:
    yield from _sources(model, table)
    yield from _units(model)
    yield from _links(model)
    yield from _bandwidth(model)
    if model.cc not in table.arch:
        yield f"compute capability {model.cc} has no rates"
    elif model.rate_variant and model.rate_variant not in table.arch[model.cc].variants:
        yield f"{model.cc} has no rates for {model.rate_variant}"
    else:
        yield from _rates(model, table)
        yield from _ratios(model, table)


def figures(model: GpuModel) -> dict[str, float]:
    """Return every number of a model by its place, such as "memory.size_gb" or "dense.bf16"."""
    made: dict[str, float | None] = {"sm": model.sm, "l2_mb": model.l2_mb, "tdp_w": model.tdp_w}
    for name in ("clocks", "memory", "nvlink", "c2c", "pcie"):
        part = getattr(model, name)
        for field in part.__slots__ if part is not None else ():
            value = getattr(part, field)
            if isinstance(value, int | float) and not isinstance(value, bool):
                made[f"{name}.{field}"] = value
    made |= {f"dense.{name}": value for name, value in model.dense.items()}
    made |= {f"dense_fp16_accumulate.{name}": value for name, value in model.dense_fp16_accumulate.items()}
    return {name: value for name, value in made.items() if value is not None}


def _sources(model: GpuModel, table: GpuTable) -> Iterator[str]:
    for group in dict.fromkeys(_group(name) for name in figures(model)):
        if not model.source.get(group):
            yield f"{group} has no source"
    for key in dict.fromkeys(key for keys in model.source.values() for key in keys):
        if key not in table.sources:
            yield f"source {key} is unknown"
    if model.confidence not in _CONFIDENCE:
        yield f"confidence {model.confidence!r} is none of {', '.join(_CONFIDENCE)}"


def _group(name: str) -> str:
    first = name.split(".", 1)[0]
    return {"l2_mb": "l2", "tdp_w": "tdp", "dense_fp16_accumulate": "dense"}.get(first, first)


def _units(model: GpuModel) -> Iterator[str]:
    for name, value in figures(model).items():
        low, high = _RANGES.get(name) or _RANGES.get(_group(name), (0, _ANY))
        if not low <= value <= high:
            yield f"{name} {value:g} is outside {low:g} to {high:g}: another unit?"


def _links(model: GpuModel) -> Iterator[str]:
    for name in ("nvlink", "c2c"):
        link: ModelLink | None = getattr(model, name)
        if link is not None and link.total_gbs is not None and link.total_gbs != 2 * link.per_dir_gbs:
            yield f"{name} {link.per_dir_gbs:g} GB/s in one direction is not half of {link.total_gbs:g}"
    pcie = model.pcie
    if pcie is not None and pcie.gen in _PCIE_LANE_GBS and pcie.lanes:
        raw = _PCIE_LANE_GBS[pcie.gen] * pcie.lanes
        if _far(pcie.per_dir_gbs, raw):
            yield f"pcie {pcie.per_dir_gbs:g} GB/s, but gen {pcie.gen} x{pcie.lanes} gives {raw:.1f}"


def _bandwidth(model: GpuModel) -> Iterator[str]:
    clock, bits = model.clocks.memory_mhz, model.memory.bus_bits
    if clock and bits:
        gbs = clock * bits / 8 * 2 / 1000
        if _far(model.memory.bandwidth_gbs, gbs):
            yield f"memory {model.memory.bandwidth_gbs:g} GB/s, but {clock:g} MHz x {bits} bit x 2 gives {gbs:.0f}"


def _rates(model: GpuModel, table: GpuTable) -> Iterator[str]:
    """Hold each dense figure against SMs x clock x operations per clock."""
    for name, rate in table.rates(model).items():
        clocks = (model.clocks.tensor_mhz,) if name in _TENSOR else (model.clocks.sm_max_mhz, model.clocks.tensor_mhz)
        clock = next((clock for clock in clocks if clock), None)
        if name not in model.dense or name in model.rounded or not clock or not model.sm:
            continue
        made = model.sm * clock * rate / 1e6
        if _far(model.dense[name], made):
            yield (
                f"dense {name} {model.dense[name]:g}, but {model.sm} SM x {clock:g} MHz x {rate} gives {made:.1f}"
                f"{_hint(model.dense[name] / made)}"
            )


def _ratios(model: GpuModel, table: GpuTable) -> Iterator[str]:
    """Hold the tensor figures against each other, and against FP32, for parts whose clock is not known."""
    rates, dense = table.rates(model), model.dense
    for name in _TENSOR:
        if name in rates and name in dense and "bf16" in dense and name not in model.rounded:
            wanted = dense["bf16"] * rates[name] / rates["bf16"]
            if _far(dense[name], wanted):
                hint = _hint(dense[name] / wanted)
                yield f"dense {name} {dense[name]:g} does not go with bf16 {dense['bf16']:g}{hint}"
    if "fp32" in dense and "bf16" in dense:
        off = dense["bf16"] / dense["fp32"] * rates["fp32"] / rates["bf16"]
        if not 0.67 < off < 1.5:  # tensor and vector clocks differ by less than this
            yield f"dense bf16 {dense['bf16']:g} does not go with fp32 {dense['fp32']:g}{_hint(off)}"


def _hint(ratio: float) -> str:
    return " (the figure with sparsity?)" if not _far(ratio, _SPARSE, 0.15) else ""


def _far(value: float, wanted: float, share: float = _CLOSE) -> bool:
    return abs(value - wanted) > share * wanted


def _families(table: GpuTable) -> Iterator[str]:
    sources = {name: shared.source for name, shared in table.arch.items()}
    sources |= {name: shared.source for name, shared in table.family.items()}
    for name, keys in sources.items():
        for key in keys or ("",):
            if key not in table.sources:
                yield f"{name}: source {key!r} is unknown"


def _identity(models: Sequence[GpuModel]) -> Iterator[str]:
    """Two models may share a PCI id only if memory tells them apart; names and ids of models are their own."""
    for place, model in enumerate(models):
        for other in models[:place]:
            if model.id == other.id:
                yield f"{model.id}: there are two of that id"
            for pci in set(model.pci) & set(other.pci):
                small, large = sorted((model.memory.size_gb, other.memory.size_gb))
                if large < 1.3 * small:
                    yield f"{model.id}: shares PCI id {pci} with {other.id}, and memory does not tell them apart"
            for name in set(model.names) & set(other.names):
                yield f"{model.id}: shares the name {name!r} with {other.id}"
        for pci in model.pci:
            if not re.fullmatch(r"[0-9A-F]{4}(:[0-9A-F]{4})?", pci):
                yield f"{model.id}: {pci!r} is no PCI device id such as 2330"
        for name in model.names:
            size = re.search(r"(\d+) ?GB\b", name)
            if size and not model.host_memory_in_name and float(size[1]) != model.memory.size_gb:
                yield f"{model.id}: {name!r} does not have {model.memory.size_gb:g} GB"


def ceiling(key: Key, model: GpuModel) -> float | None:
    """Return what a value of this key cannot exceed on this model, or None where nothing is known.

    Benchmarks are known by their unit and a word of their name: a number format, "hbm", "nvlink" or "p2p", "pcie",
    "h2d" or "d2h".
    """
    fixed = _FIXED.get(key.name)
    if fixed is not None:
        return fixed(model, key)
    words = set(re.split(r"[.-]", key.name))
    if key.unit in ("TFLOPS", "TOPS"):
        return next((value for name, value in model.dense.items() if name in words), None)
    for names, link in (({"nvlink", "p2p"}, model.nvlink), ({"pcie", "h2d", "d2h"}, model.c2c or model.pcie)):
        if key.unit == "GB/s" and names & words:
            return link.per_dir_gbs if link else None
    return model.memory.bandwidth_gbs if key.unit == "GB/s" and words & {"hbm", "memory", "stream"} else None


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


# An A100 of 400 W is also sold with 500 W; the highest clocks of cards exceed the advertised boost; a link of 25 GB/s
# runs at a line rate of 26.5625; memory is sold in GB and built in GiB.
_FIXED: dict[str, Callable[[GpuModel, Key], float | None]] = {
    "gpu.memory-size": lambda model, key: model.memory.size_gb * 2**30 / 1e9 / MEMORY_UNITS[key.unit],
    "gpu.max-sm-clock": lambda model, _: _times(model.clocks.sm_max_mhz, 1.25),
    "gpu.default-power-limit": lambda model, _: _times(model.tdp_w, 1.3),
    "nvlink.links": lambda model, _: model.nvlink.links if model.nvlink else None,
    "nvlink.speed": lambda model, _: _times(model.nvlink.link_gbs, 1.07) if model.nvlink else None,
}


def _floors(layer: Layer, table: GpuTable) -> Iterator[str]:
    """Find what a layer asks of a model that the model cannot give."""
    for model in table.models:
        if not any(f"{NVIDIA}:{pci.lower()}" in layer.match.get("pci", ()) for pci in model.pci):
            continue
        for name, (matcher, _) in layer.values.items():
            floor = (
                matcher.low if isinstance(matcher, Between)
                else matcher.value if isinstance(matcher, AtLeast | Equals) else None
            )  # fmt: skip
            limit = ceiling(KEYS[key_of(name)], model) if key_of(name) in KEYS else None
            if limit is not None and isinstance(floor, int | float) and floor > limit:
                yield f"{layer.name}: {name} {floor:g} is above what {model.id} can reach ({limit:g})"
