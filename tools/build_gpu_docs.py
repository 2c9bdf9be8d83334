"""Write docs/gpus.md, the reference page of the GPU table.

Run it as `python -m tools.build_gpu_docs`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hostcheck.gpu_table import GpuModel, GpuTable, ModelLink, table

OUTPUT = Path(__file__).parents[1] / "docs/gpus.md"

HEAD = """\
# GPUs that hostcheck knows

This page is generated from `hostcheck/layers/gpus.toml` by `tools/build_gpu_docs.py`; the figures are as of {as_of}.

They are physical limits, not thresholds: a measurement above one is invalid, and no floor may be above one.
GB and GB/s are decimal. TFLOPS are dense (no sparsity) with FP32 accumulation; INT8 is in TOPS. A figure that no source
tells is left empty. Models are recognised by PCI id, then by exact name; an id that several carry, by memory size.
"""

FORMATS = ("fp64", "fp64_tensor", "fp32", "tf32", "bf16", "fp8", "fp6", "fp4", "int8")


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield ""
    yield "| " + " | ".join(head) + " |"
    yield "| --- |" + " ---: |" * (len(head) - 1)
    for row in rows:
        yield "| " + " | ".join("" if cell is None else _text(cell) for cell in row) + " |"


def _text(cell: object) -> str:
    return f"{cell:g}" if isinstance(cell, float) else str(cell)


def _link(link: ModelLink | None) -> str:
    if link is None:
        return ""
    links = f" ({link.links} × {link.link_gbs:g})" if link.links else ""
    return f"{link.per_dir_gbs:g}{links}{', optional' if link.optional else ''}"


def _board(model: GpuModel) -> tuple[object, ...]:
    pcie = f"{model.pcie.gen} x{model.pcie.lanes}" if model.pcie and model.pcie.gen else ""
    return (
        f"`{model.id}`", ", ".join(model.pci), model.cc, model.sm, model.clocks.tensor_mhz, model.clocks.sm_max_mhz,
        model.memory.size_gb, model.memory.kind, model.memory.bandwidth_gbs, model.l2_mb, _link(model.nvlink),
        _link(model.c2c), pcie, model.tdp_w, model.confidence,
    )  # fmt: skip


def page(known: GpuTable) -> str:
    """Return the page."""
    lines = [HEAD.format(as_of=known.as_of).rstrip(), "", "## Boards"]
    lines += _table(
        ("model", "PCI id", "CC", "SMs", "tensor clock MHz", "max SM clock MHz", "memory GB", "kind", "GB/s", "L2 MB",
         "NVLink GB/s per direction", "C2C", "PCIe", "W", "confidence"),
        [_board(model) for model in known.models],
    )  # fmt: skip
    lines += ["", "## Dense peaks, TFLOPS"]
    lines += _table(("model", *FORMATS), [(f"`{model.id}`", *map(model.dense.get, FORMATS)) for model in known.models])
    lines += ["", "FP16 is as fast as BF16 everywhere here.", "", "## Operations per clock and SM"]
    lines += _table(
        ("compute capability", *FORMATS),
        [(cc, *map(entry.rates.get, FORMATS)) for cc, entry in known.arch.items()]
        + [
            (f"{cc}, {name}", *map(rates.get, FORMATS))
            for cc, entry in known.arch.items()
            for name, rates in entry.variants.items()
        ],
    )
    lines += ["", "## Sources", ""]
    lines += [f"- `{model.id}`: {_cited(model)}" for model in known.models]
    lines += ["", *(f"- {key}: {title}" for key, title in known.sources.items())]
    return "\n".join(lines) + "\n"


def _cited(model: GpuModel) -> str:
    by_keys: dict[tuple[str, ...], list[str]] = {}
    for group, keys in model.source.items():
        by_keys.setdefault(keys, []).append(group)
    return "; ".join(f"{', '.join(groups)} from {', '.join(keys)}" for keys, groups in by_keys.items())


if __name__ == "__main__":
    OUTPUT.write_text(page(table()), "utf-8")
