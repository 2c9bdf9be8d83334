"""Build hostcheck/layers/gpus.toml, our table of GPUs, from a YAML file of researched figures.

    python -m tools.build_gpu_table FACTS.yaml [OUTPUT]

The output depends on the input alone. What has no value or no source in the input is left out, never filled in.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

OUTPUT = Path(__file__).parents[1] / "hostcheck/layers/gpus.toml"

HEADER = """\
# GPUs and their physical limits, built by tools/build_gpu_table.py; change the figures there or in its input.
# Units: GB = 1e9 bytes, GB/s = 1e9 bytes per second; l2_mb as the vendors count it; dense in TFLOPS (int8 in
# TOPS), without sparsity, accumulated in FP32. per_dir_gbs is one direction, total_gbs both. What is unknown is absent.
# pci: device ids of vendor 10de; an id that several models carry is told apart by memory size.
# arch: by compute capability, dense operations per clock and SM (a fused multiply-add is 2); rate_variant: a part that
# departs from its class. family: what all parts have in common that nvidia-smi calls by that architecture.
# rounded: figures that the vendor rounds further than the 5 % that the lint allows.
# disputed: groups for which public sources disagree; no expectation is made from them.
# optional: not every build wires the link: cards need a bridge, superchips a rack. host_memory_in_name: the size in
# the name is that of the CPU's memory.
"""

RECORDED = "RECORDED"
ARITHMETIC = "ARITHMETIC"

# Sources that the input does not have, and shorter titles for some that it has.
TITLES = {
    RECORDED: "nvidia-smi -q of such a board, published by its owner",
    ARITHMETIC: "arithmetic on the other sourced figures of the same entry",
    "A100_DEVQ": "deviceQuery of an A100-SXM4-40GB, published by PC2 Paderborn",
    "A10_DS": "NVIDIA A10 datasheet",
    "LIGHTNING": "Lightning-AI/pytorch-lightning, utilities/throughput",
    "H200_DECK": "NVIDIA training deck 'CUDA Programming and Optimization' 2024, p. 4",
    "BW_TB1": "NVIDIA Blackwell Architecture Technical Brief v1, HGX B200 / HGX B100 table",
    "MPS_BLOG": "NVIDIA developer blog on CUDA MPS (2025-12-16)",
    "C2C_BLOG": "NVIDIA developer blog on CPU-GPU memory sharing (2025-09-05)",
    "BW_TUNING": "CUDA Blackwell Tuning Guide 1.4.2.2",
    "RTXBW_WP": "NVIDIA RTX Blackwell whitepaper, Table 3 pp. 46-48",
    "DEV_H20": "device properties of an H20 as torch reports them",
    "DEV_GB": "device properties of GB200, GB300 and B300, published by their users",
    "DEV_H200": "nvidia-smi telemetry of an H200",
}

# What the notes of the input say in words, or what output of real boards adds, as data.
ADDED: dict[str, dict[str, Any]] = {
    "a100-sxm4-80gb": {"pci": ["20B2", "20B0"]},
    "a100-pcie-40gb": {"optional": True},
    "a100-pcie-80gb": {"optional": True},
    "a10": {"clocks": {"sm_max_mhz": 1695}, "source": {"clocks": [RECORDED]}},
    "a30": {"optional": True},
    "h100-pcie-80gb": {"optional": True},
    "h100-nvl-94gb": {"optional": True},
    "h20-96gb": {"rate_variant": "h20", "disputed": ["tdp"]},
    "h20-141gb": {"rate_variant": "h20"},
    "gh200-96gb": {"host_memory_in_name": True, "optional": True},
    "gh200-144gb": {"optional": True},
    "b100-sxm": {"disputed": ["pcie"]},
    "gb200": {"clocks": {"memory_mhz": 3996}, "source": {"clocks": ["MLE", RECORDED]}},
    "b300-sxm6": {"rounded": ["int8"], "disputed": ["pcie"]},
    "gb300": {"rounded": ["int8", "fp64", "fp64_tensor"], "source": {"clocks": [ARITHMETIC], "c2c": ["C2C_BLOG"]}},
    "rtx-pro-6000-bw-server": {"source": {"clocks": [ARITHMETIC]}},
    "rtx-pro-6000-bw-maxq": {"clocks": {"memory_mhz": 14001}, "source": {"clocks": ["RTXPRO_WP", RECORDED]}},
    "rtx-4090": {"pci": ["2684"], "rate_variant": "geforce"},
    "rtx-5090": {"rate_variant": "geforce"},
}

# What every part of an architecture has in common: the speed of one NVLink in one direction, GB/s. Ampere is not here,
# because its workstation parts have slower links than the A100.
FAMILIES = {
    "Hopper": {"link_gbs": 25, "source": ["H100_WP"]},
    "Blackwell": {"link_gbs": 50, "source": ["BW_TB2"]},
}

# Rates that the input marks as unverified.
UNVERIFIED_RATES = {"8.6": ("fp64", "int8")}

CLOCKS = {"tensor_peak": "tensor_mhz", "sm_max": "sm_max_mhz", "mem_nvml": "memory_mhz"}
MEMORY = {
    "type": "kind", "capacity_gb": "size_gb", "bus_width_bits": "bus_bits", "bandwidth_gbs": "bandwidth_gbs",
}  # fmt: skip
LINK = {
    "gen": "gen", "links": "links", "lanes": "lanes", "gbs_per_dir": "per_dir_gbs", "gbs_total": "total_gbs",
}  # fmt: skip

Group = dict[str, Any]


def _present(table: Mapping[str, Any] | None, names: Mapping[str, str] | None = None) -> Group:
    """Return what has a value, under our names."""
    kept = {name: value for name, value in (table or {}).items() if value is not None}
    return {names[name]: value for name, value in kept.items() if name in names} if names else kept


def _model(entry: Mapping[str, Any]) -> Group:
    """Turn one entry of the input into one of ours; groups without a source are dropped."""
    added = ADDED.get(entry["id"], {})
    source: dict[str, list[str]] = {**entry["source"], **added.get("source", {})}
    source = {"dense" if name == "compute" else name: keys for name, keys in source.items()}
    groups: dict[str, Group] = {
        "clocks": {**_present(entry["clocks_mhz"], CLOCKS), **added.get("clocks", {})},
        "memory": _present(entry["memory"], MEMORY),
        "dense": _present(entry["tflops_dense"]),
        "dense_fp16_accumulate": _present(entry.get("tflops_dense_fp16_accumulate")),
        "nvlink": _present(entry["nvlink"], LINK),
        "c2c": _present(entry.get("c2c"), LINK),
        "pcie": _present(entry["pcie"], LINK),
    }
    if groups["nvlink"] and added.get("optional"):
        groups["nvlink"]["optional"] = True
    made: Group = {
        "id": entry["id"],
        "names": [name.removeprefix("NVIDIA ") for name in entry["names"]],
        "pci": added.get("pci", entry["pci_device_ids"]),
        "cc": entry["compute_capability"],
        "confidence": entry["confidence"],
    }
    for name in ("rate_variant", "rounded", "disputed", "host_memory_in_name"):
        if name in added:
            made[name] = added[name]
    single = {"sm": entry["sm_count"], "l2": entry["l2_mb"], "tdp": entry["tdp_w"]}
    source.setdefault("sm", source["dense"])
    for name, key in (("sm", "sm"), ("l2", "l2_mb"), ("tdp", "tdp_w")):
        if single[name] is not None and name in source:
            made[key] = single[name]
    for name, group in groups.items():
        if group and ("dense" if name.startswith("dense") else name) in source:
            made[name] = group
    used = {"l2_mb": "l2", "tdp_w": "tdp"}
    made["source"] = {name: source[name] for name in (used.get(key, key) for key in made) if name in source}
    return made


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_value(item)}" for name, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _rates(table: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for cc, entry in table.items():
        rates = {
            name: value
            for name, value in _present(entry).items()
            if isinstance(value, int) and name not in UNVERIFIED_RATES.get(cc, ())
        }
        made: Group = {"rates": rates}
        variants = dict(_present(entry.get("exceptions")))
        if "geforce" in entry:
            variants["geforce"] = entry["geforce"]
        for name, variant in variants.items():
            # A part with reduced BF16 has its FP16 and TF32 reduced alike.
            reduced = {"tf32": variant["bf16"] // 2, "fp16": variant["bf16"]}
            own = {rate: value for rate, value in variant.items() if isinstance(value, int)}
            made.setdefault("variants", {})[name.lower()] = {"fp32": rates["fp32"], **reduced, **own}
        made["source"] = [entry["source"]]
        yield f'\n[arch."{cc}"]'
        yield from (f"{name} = {_value(value)}" for name, value in made.items())


def build(facts: Mapping[str, Any]) -> str:
    """Return the text of the table."""
    models = [_model(entry) for entry in facts["gpus"]]
    used = {key for model in models for keys in model["source"].values() for key in keys}
    used |= {entry["source"] for entry in facts["arch_ops_per_clk_per_sm"].values()}
    titles = {**{name: entry["title"] for name, entry in facts["sources"].items()}, **TITLES}
    lines = [HEADER, f"as_of = {_value(facts['as_of'])}", "", "[sources]"]
    lines += [f"{name} = {_value(title)}" for name, title in titles.items() if name in used]
    lines += _rates(facts["arch_ops_per_clk_per_sm"])
    lines += ["", "[family]", *(f"{name} = {_value(shared)}" for name, shared in FAMILIES.items())]
    for model in models:
        lines += ["", "[[gpu]]"]
        lines += [f"{name} = {_value(value)}" for name, value in model.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("facts", type=Path)
    parser.add_argument("output", type=Path, nargs="?", default=OUTPUT)
    given = parser.parse_args()
    given.output.write_text(build(yaml.safe_load(given.facts.read_text("utf-8"))), "utf-8")


if __name__ == "__main__":
    main()
