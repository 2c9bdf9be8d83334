"""The GPU table: figures that hold together, models that are found, layers that no healthy board fails."""

from __future__ import annotations

import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hostcheck.errors import HostcheckError
from hostcheck.expect import KEYS, Key, Layer
from hostcheck.gpu_lint import ceiling, figures, lint
from hostcheck.gpu_table import GENERATED, GpuModel, GpuTable, find, layers, read_table, table
from hostcheck.matchers import AtLeast, Equals, Matcher
from hostcheck.registry import load_checks

load_checks()  # it defines the keys

UNITS = {
    "gpu.max-sm-clock": "MHz", "gpu.memory-size": "MiB", "gpu.default-power-limit": "W", "nvlink.links": "active links",
    "nvlink.speed": "GB/s",
}  # fmt: skip

# What nvidia-smi shows of real boards: architecture, PCI id, name, MiB, highest SM clock, default power limit, and the
# speed of an NVLink.
BOARDS = [
    ("a100-sxm4-40gb", "Ampere", "0x20B010DE", "NVIDIA A100-SXM4-40GB", 40960, 1410, 400.0, 25.0),
    ("a100-sxm4-80gb", "Ampere", "0x20B210DE", "NVIDIA A100-SXM4-80GB", 81920, 1410, 500.0, 25.0),
    ("h100-sxm5-80gb", "Hopper", "0x233010DE", "NVIDIA H100 80GB HBM3", 81559, 1980, 700.0, 26.562),
    ("b200-sxm-180gb", "Blackwell", "0x290110DE", "NVIDIA B200", 183359, 1965, 1000.0, 53.125),
    ("gb200", "Blackwell", "0x294110DE", "NVIDIA GB200", 189471, 2062, 1200.0, 53.125),
    ("l40s", "Ada Lovelace", "0x26B910DE", "NVIDIA L40S", 46068, 2520, 350.0, None),
    ("a10", "Ampere", "0x223610DE", "NVIDIA A10", 23028, 1695, 150.0, None),
    ("rtx-4090", "Ada Lovelace", "0x268410DE", "NVIDIA GeForce RTX 4090", 24564, 3105, 450.0, None),
    (
        "rtx-pro-6000-bw-maxq", "Blackwell", "0x2BB410DE", "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
        97887, 3090, 300.0, None,
    ),
]  # fmt: skip


def keys() -> dict[str, Key]:
    """Keys like those of the checks, in their usual units, without entering them into the register."""
    made = {}
    for name, unit in UNITS.items():
        key = object.__new__(Key)
        for field, value in (
            ("name", name), ("kind", float), ("unit", unit), ("words", ()), ("low", 0.0), ("high", float("inf"))
        ):  # fmt: skip
            object.__setattr__(key, field, value)
        made[name] = key
    return made


def model(id: str) -> GpuModel:
    return next(found for found in table().models if found.id == id)


def changed(which: str, **fields: Any) -> GpuTable:
    """Our table with one model changed; a field such as memory__size_gb reaches into a part."""
    own = model(which)
    for name, value in fields.items():
        part, _, field = name.partition("__")
        own = replace(own, **{part: replace(getattr(own, part), **{field: value}) if field else value})
    return replace(table(), models=tuple(own if found.id == which else found for found in table().models))


def test_our_table_and_its_layers_are_sound() -> None:
    read = {key.name for check in load_checks().values() for key in check.keys}
    assert lint(table(), layers(), read) == []
    assert lint(table(), layers(keys()), UNITS) == []


def test_every_figure_has_a_source() -> None:
    assert len(table().models) >= 25
    assert sum(len(figures(own)) for own in table().models) > 500
    assert all(len(own.source) >= 3 for own in table().models)


@pytest.mark.parametrize(
    ("id", "fields", "words"),
    [
        ("h100-sxm5-80gb", {"memory__bandwidth_gbs": 3_700}, "3700 GB/s, but 2619 MHz x 5120 bit x 2 gives 3352"),
        ("h200-sxm5-141gb", {"memory__bandwidth_gbs": 4_800_000}, "memory.bandwidth_gbs 4.8e+06 is outside"),
        ("h200-sxm5-141gb", {"memory__bandwidth_gbs": 4.8}, "memory.bandwidth_gbs 4.8 is outside"),
        ("h200-sxm5-141gb", {"memory__size_gb": 141_000}, "memory.size_gb 141000 is outside"),
        ("h200-sxm5-141gb", {"tdp_w": 0.7}, "tdp_w 0.7 is outside 30 to 3000"),
        ("h200-sxm5-141gb", {"tdp_w": 700_000}, "tdp_w 700000 is outside"),
        ("h200-sxm5-141gb", {"clocks__sm_max_mhz": 1.98}, "clocks.sm_max_mhz 1.98 is outside"),
        ("b200-sxm-180gb", {"dense": {"bf16": 4500}}, "148 SM x 1856 MHz x 8192 gives 2250.2 (the figure"),
        ("b200-sxm-180gb", {"dense": {"bf16": 2400}}, "gives 2250.2"),
        ("rtx-4090", {"dense": {"bf16": 330.3}}, "(the figure with sparsity?)"),
        ("rtx-4090", {"rate_variant": ""}, "dense bf16 165.2, but"),
        ("h100-nvl-94gb", {"dense": {"bf16": 835.5, "fp8": 3341}}, "fp8 3341 does not go with bf16 835.5 (the figure"),
        ("h100-nvl-94gb", {"dense": {"fp32": 60, "bf16": 1671}}, "bf16 1671 does not go with fp32 60"),
        ("h20-96gb", {"rate_variant": ""}, "dense bf16 148 does not go with fp32 44"),
        ("h20-96gb", {"dense": {"fp32": 44, "bf16": 989}}, "does not go with fp32"),
        ("b300-sxm6", {"rounded": ()}, "dense int8 150"),
        ("h100-sxm5-80gb", {"nvlink__per_dir_gbs": 900}, "nvlink 900 GB/s in one direction is not half of 900"),
        ("gb200", {"c2c__total_gbs": 450}, "c2c 450 GB/s in one direction is not half of 450"),
        ("h100-sxm5-80gb", {"pcie__per_dir_gbs": 128}, "pcie 128 GB/s, but gen 5 x16 gives 63.0"),
        ("h100-sxm5-80gb", {"source": {}}, "h100-sxm5-80gb: sm has no source"),
        ("h100-sxm5-80gb", {"source": {"sm": ("RUMOUR",)}}, "source RUMOUR is unknown"),
        ("h100-sxm5-80gb", {"confidence": "sure"}, "confidence 'sure'"),
        ("h100-sxm5-80gb", {"pci": ("2331",)}, "shares PCI id 2331 with h100-sxm5-80gb, and memory does not"),
        ("h100-sxm5-80gb", {"pci": ("10DE:2330x",)}, "is no PCI device id"),
        ("h100-sxm5-80gb", {"names": ("H100 PCIe",)}, "shares the name 'H100 PCIe'"),
        ("gh200-96gb", {"host_memory_in_name": False}, "'GH200 480GB' does not have 96 GB"),
        ("h100-sxm5-80gb", {"id": "gb200"}, "gb200: there are two of that id"),
        ("h100-sxm5-80gb", {"cc": "9.9"}, "compute capability 9.9 has no rates"),
        ("h100-sxm5-80gb", {"rate_variant": "h21"}, "9.0 has no rates for h21"),
    ],
)
def test_the_lint_finds(id: str, fields: dict[str, Any], words: str) -> None:
    assert any(words in fault for fault in lint(changed(id, **fields))), lint(changed(id, **fields))


def test_the_lint_finds_an_unknown_source_of_a_family() -> None:
    hopper = replace(table().family["Hopper"], source=("RUMOUR",))
    assert lint(replace(table(), family={"Hopper": hopper})) == ["Hopper: source 'RUMOUR' is unknown"]


def test_the_lint_finds_floors_above_the_peak_and_keys_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    hbm, gemm = (object.__new__(Key) for _ in range(2))
    for key, name, unit in ((hbm, "bench.hbm-copy", "GB/s"), (gemm, "bench.gemm-bf16", "TFLOPS")):
        object.__setattr__(key, "name", name)
        object.__setattr__(key, "unit", unit)
        monkeypatch.setitem(KEYS, name, key)
    match = {"pci": ("10de:2335",)}
    values: dict[str, tuple[Matcher, str]] = {
        "bench.hbm-copy": (AtLeast(4900), ""), "bench.gemm-bf16": (Equals(700), ""), "bench.hmb": (AtLeast(1), ""),
    }  # fmt: skip
    assert lint(table(), [Layer("site", match, values)]) == [
        "site: no check reads bench.hmb",
        "site: bench.hbm-copy 4900 is above what h200-sxm5-141gb can reach (4800)",
    ]
    assert ceiling(gemm, model("h200-sxm5-141gb")) == 989.5
    assert lint(table(), [Layer("site", {"pci": ("10de:ffff",)}, {"bench.hbm-copy": (AtLeast(9e9), "")})]) == []


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board[0])
def test_real_boards_are_found_and_pass(board: tuple[Any, ...]) -> None:
    id, arch, pci, name, mib, clock, watts, link = board
    found = find(pci, name=name, memory_mib=mib)
    assert found is not None
    assert found.id == id
    assert find(None, name=name, memory_mib=mib) == found
    seen = {"gpu.max-sm-clock": clock, "gpu.memory-size": mib, "gpu.default-power-limit": watts, "nvlink.speed": link}
    traits = {"pci": f"10de:{pci[2:6].lower()}", "gpu_arch": arch}
    holding = [layer for layer in layers(keys()) if layer.holds(traits)]
    assert any(layer.name.startswith("gpu/") for layer in holding)
    for layer in holding:
        for key, (matcher, source) in layer.values.items():
            assert source
            assert seen.get(key) is None or matcher.matches(seen[key]), (layer.name, key)


def test_a_shared_id_is_told_apart_by_memory_then_by_name() -> None:
    assert find("10de:20b0", memory_mib=81920) == model("a100-sxm4-80gb")
    assert find("10DE:20B0", name="NVIDIA A100-SXM4-80GB") == model("a100-sxm4-80gb")
    assert find("20B0") is None
    assert find("20B0", memory_mib=4864) is None
    [shared] = [layer for layer in layers(keys()) if layer.match.get("pci") == ("10de:20b0",)]
    assert shared.values["gpu.memory-size"][0] == AtLeast(int(40e9 * 0.97 / 2**20))
    assert shared.values["gpu.max-sm-clock"][0] == AtLeast(1410)


def test_the_id_goes_before_the_name() -> None:
    assert find("10de:2330", name="NVIDIA H200") == model("h100-sxm5-80gb")
    assert find("10de:2330", name="NVIDIA H100 80GB HBM3", memory_mib=9984) == model("h100-sxm5-80gb")
    assert find("1002:2330", name="NVIDIA H200") is None
    assert find("10de:ffff", name="NVIDIA  GeForce RTX 5090") == model("rtx-5090")
    assert find("10de:ffff", name="NVIDIA GeForce RTX 5090 D") is None
    assert find("nonsense", name="H200") == model("h200-sxm5-141gb")
    assert find(None) is None
    assert find("") is None


def test_the_memory_in_the_name_of_a_superchip_is_not_the_gpu_s() -> None:
    found = find(None, name="NVIDIA GH200 480GB", memory_mib=97871)
    assert found is not None
    assert (found.id, found.memory.size_gb) == ("gh200-96gb", 96)


def test_a_subsystem_goes_before_the_plain_id() -> None:
    plain, special = replace(model("gb200"), pci=("2941",)), replace(model("gb300"), pci=("2941:197F",))
    among = (plain, special)
    assert find("10de:2941", "10de:197f", among=among) == special
    assert find("10de:2941", "0x197F10DE", among=among) == special
    assert find("10de:2941", "10de:0001", among=among) == plain
    assert find("10de:2941", among=among) == plain


def test_no_links_are_expected_where_a_build_may_lack_them() -> None:
    by_name = {layer.name: layer.values for layer in layers(keys())}
    assert by_name["gpu/h100-sxm5-80gb"]["nvlink.links"][0] == AtLeast(18)
    assert "nvlink.links" not in by_name["gpu/a100-pcie-40gb"]
    assert "nvlink.links" not in by_name["gpu/gh200-96gb"]
    assert "nvlink.speed" not in by_name["gpu/l40s"]


def test_nothing_is_expected_from_disputed_or_weak_figures() -> None:
    assert "gpu/h20-96gb" not in {layer.name for layer in layers(keys())}
    doubted = changed("b200-sxm-180gb", disputed=("tdp",))
    [own] = [layer for layer in layers(keys(), doubted) if layer.name == "gpu/b200-sxm-180gb"]
    assert "gpu.default-power-limit" not in own.values
    assert own.values["nvlink.links"][0] == AtLeast(18)


def test_only_keys_that_checks_define_are_generated() -> None:
    assert layers({}) == []
    some = {"nvlink.speed": keys()["nvlink.speed"]}
    assert {key for layer in layers(some) for key in layer.values} == {"nvlink.speed"}
    assert [layer.match for layer in layers(some)][:2] == [{"gpu_arch": ("Hopper",)}, {"gpu_arch": ("Blackwell",)}]


def test_units_of_the_checks_are_those_of_the_table() -> None:
    for name in GENERATED.keys() & KEYS.keys():
        assert KEYS[name].unit == UNITS[name], name
    for layer in layers():
        for name, (matcher, _) in layer.values.items():
            assert isinstance(matcher, AtLeast)
            assert KEYS[name].fault(matcher.value) == "", layer.name


def test_a_broken_table_is_refused_in_one_line() -> None:
    for text in ("[", "as_of = 1", 'as_of = "x"\ngpu = [{}]\nsources = {}\narch = {}\nfamily = {}', "gpu = 1"):
        with pytest.raises(HostcheckError, match="the GPU table cannot be read"):
            read_table(text)


def test_importing_reads_nothing_and_reading_is_quick() -> None:
    code = (
        "import time, hostcheck.gpu_table as t; assert t.table.cache_info().currsize == 0; "
        "a = time.process_time(); t.layers(); print(time.process_time() - a)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.1  # 10 ms on an ordinary machine


TOOLS = Path(__file__).parents[2] / "tools"

FACTS: dict[str, Any] = {
    "as_of": "2026-01-01",
    "sources": {"SHEET": {"title": 'The "sheet"'}, "UNUSED": {"title": "not cited"}},
    "arch_ops_per_clk_per_sm": {
        "9.0": {
            "fp32": 256, "bf16": 4096, "fp8": None, "check": "words", "source": "SHEET",
            "exceptions": {"H20": {"bf16": 1024, "note": "words"}},
        },
    },
    "gpus": [
        {
            "id": "new", "names": ["NVIDIA New"], "pci_device_ids": ["2330"], "compute_capability": "9.0",
            "sm_count": 132, "clocks_mhz": {"tensor_peak": 1830, "sm_max": None, "mem_nvml": None},
            "memory": {"type": "HBM3", "capacity_gb": 80, "bus_width_bits": None, "bandwidth_gbs": 3352.5},
            "l2_mb": 50, "nvlink": None, "pcie": {"gen": 5, "lanes": 16, "gbs_per_dir": 63.0}, "tdp_w": None,
            "tflops_dense": {"fp64": None, "bf16": 989.4}, "confidence": "high",
            "source": {"compute": ["SHEET"], "memory": ["SHEET"], "clocks": ["SHEET"]}, "notes": ["a sentence"],
        },
    ],
}  # fmt: skip


def test_the_builder_leaves_out_what_has_no_value_or_no_source() -> None:
    build = runpy.run_path(str(TOOLS / "build_gpu_table.py"))["build"]
    text = build(FACTS)
    assert text == build(FACTS)
    made = read_table(text)
    [new] = made.models
    assert (new.sm, new.clocks.tensor_mhz, new.memory.bandwidth_gbs, new.dense) == (132, 1830, 3352.5, {"bf16": 989.4})
    assert new.names == ("New",)
    assert (new.l2_mb, new.pcie, new.tdp_w, new.clocks.sm_max_mhz) == (None, None, None, None)
    assert made.sources == {"SHEET": 'The "sheet"'}
    assert made.arch["9.0"].variants == {"h20": {"fp32": 256, "tf32": 512, "fp16": 1024, "bf16": 1024}}
    assert "sentence" not in text
    assert lint(replace(made, family={})) == []


def test_the_page_is_that_of_the_table() -> None:
    page = runpy.run_path(str(TOOLS / "build_gpu_docs.py"))["page"]
    assert (TOOLS.parent / "docs/gpus.md").read_text("utf-8") == page(table()), "run python -m tools.build_gpu_docs"
    assert all(own.dense.get("fp16") == own.dense.get("bf16") for own in table().models)  # as the page says
