"""The machine code of the tensor-pipe chains: the intended instructions, and nothing else that takes time.

For compute capabilities of which we have no GPU this is what can be known of speed: that the loop holds the right
instructions, no access to memory and no spilled register.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from hostcheck.bench import kernels
from hostcheck.microbench import tensor_chain

PARTS = ((8, 0), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0))

# The instruction that each chain is to consist of, and how many a repeat takes.
INTENDED = {
    ("tensor_mma", "bf16"): (r"HMMA\.16816\.F32\.BF16", 32),
    ("tensor_mma", "fp16"): (r"HMMA\.16816\.F32", 32),
    ("tensor_mma", "tf32"): (r"HMMA\.1688\.F32\.TF32", 32),
    ("tensor_mma", "fp8"): (r"QMMA\.16832\.F32\.E4M3\.E4M3", 32),
    ("tensor_mma", "int8"): (r"IMMA\.16832\.S8\.S8", 32),
    ("tensor_mma", "mxfp8"): (r"QMMA\.SF\.16832\.F32\.E4M3\.E4M3\.E8", 32),
    ("tensor_mma", "nvfp4"): (r"OMMA\.SF\.16864\.F32\.E2M1\.E2M1\.UE4M3\.4X", 32),
    ("tensor_wgmma", "bf16"): (r"HGMMA\.64x256x16\.F32\.BF16", 16),
    ("tensor_wgmma", "fp16"): (r"HGMMA\.64x256x16\.F32", 16),
    ("tensor_wgmma", "tf32"): (r"HGMMA\.64x256x8\.F32\.TF32", 16),
    ("tensor_wgmma", "fp8"): (r"QGMMA\.64x256x32\.F32\.E4M3\.E4M3", 16),
    ("tensor_wgmma", "int8"): (r"IGMMA\.64x256x32\.S8\.S8", 16),
    ("tensor_tcgen05", "bf16"): (r"UTCHMMA", 16),
    ("tensor_tcgen05", "fp16"): (r"UTCHMMA", 16),
    ("tensor_tcgen05", "tf32"): (r"UTCHMMA", 16),
    ("tensor_tcgen05", "fp8"): (r"UTCQMMA", 16),
    ("tensor_tcgen05", "fp6"): (r"UTCQMMA", 16),
    ("tensor_tcgen05", "int8"): (r"UTCIMMA", 16),
    ("tensor_tcgen05", "mxfp8"): (r"UTCQMMA", 8),
    ("tensor_tcgen05", "nvfp4"): (r"UTCOMMA\.(4X|BLOCK16)", 8),
}
# FP64 has another shape on each part.
FP64 = {(8, 0): (r"DMMA\.884", 64), (9, 0): (r"DMMA\.16x8x16", 16), (10, 0): (r"DMMA\.8x8x4", 128)}

_LINE = re.compile(r"\s+/\*(?P<at>[0-9a-f]+)\*/\s+(?:@!?U?P\w+\s+)?(?P<op>[A-Z][\w.]*)(?P<rest>[^;]*);")
_LABEL = re.compile(r"(\.L_x_\d+):")


def _nvdisasm() -> str | None:
    for folder in sys.path:
        for found in Path(folder).glob("nvidia/*/bin/nvdisasm"):
            return str(found)
    return shutil.which("nvdisasm")


@cache
def disassembled(arch: str, file: str, options: tuple[str, ...], folder: Path) -> list[tuple[str, str, int | None]]:
    """Return each instruction as opcode, operands, and the place that it jumps to."""
    code = folder / "code.cubin"
    code.write_bytes(kernels.compiled(file, arch, options=options))
    told = subprocess.run([str(_nvdisasm()), "-c", str(code)], capture_output=True, text=True, check=True).stdout
    labels: dict[str, int] = {}
    found: list[tuple[str, str]] = []
    for line in told.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(found)
        elif match := _LINE.match(line):
            found.append((match["op"], match["rest"]))
    jumps = [re.search(r"\.L_x_\d+", rest) if op.startswith("BRA") else None for op, rest in found]
    return [(op, rest, labels[jump[0]] if jump else None) for (op, rest), jump in zip(found, jumps, strict=True)]


def hot_loop(code, intended):
    """Return the opcodes of the smallest loop that holds the intended instruction."""
    loops = [
        [op for op, _, _ in code[target : place + 1]]
        for place, (_, _, target) in enumerate(code)
        if target is not None and target <= place
    ]
    return min((loop for loop in loops if any(re.fullmatch(intended, op) for op in loop)), key=len)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if _nvdisasm() is None:
        pytest.skip("nvdisasm is not installed (pip install nvidia-cuda-nvdisasm)")
    return tmp_path_factory.mktemp("code")


@pytest.mark.parametrize(
    ("cc", "chain"),
    [
        pytest.param(cc, chain, id=f"{kernels.arch_of(cc)}-{name}")
        for cc in PARTS
        for name, chain in tensor_chain.chains(cc).items()
    ],
)
def test_the_loop_multiplies_and_does_nothing_else(cc, chain, folder):
    code = disassembled(kernels.arch_of(cc), chain.file, chain.options, folder)
    intended, count = FP64[cc] if chain.name == "fp64" else INTENDED[chain.file, chain.name]
    loop = hot_loop(code, intended)
    assert sum(bool(re.fullmatch(intended, op)) for op in loop) == count
    others = {op for op in loop if "MMA" in op and not re.fullmatch(intended, op)}
    assert not others, "another matrix instruction"
    memory = {
        op
        for op in loop
        if re.match(r"(LD(?!C)|ST|ATOM|RED|UBLKCP|UTMA|LDTM|STTM|SYNCS|BAR|MEMBAR|WARPGROUP.DEPBAR)", op)
    }
    assert not memory, "waits for memory or for other threads"  # LDC reads a parameter
    # Addresses and conditions; an instruction here is hidden behind a product, many are not.
    rest = Counter(op for op in loop if not re.fullmatch(intended, op))
    assert sum(rest.values()) < 10 * count, rest


@pytest.mark.parametrize("cc", PARTS, ids=kernels.arch_of)
def test_nothing_is_spilled(cc, folder):
    for chain in tensor_chain.chains(cc).values():
        code = disassembled(kernels.arch_of(cc), chain.file, chain.options, folder)
        assert not [op for op, _, _ in code if op.startswith(("LDL", "STL"))], chain.name


def test_a_chain_is_there_for_every_part_of_the_table():
    from hostcheck.gpu_table import table

    for model in table().models:
        cc = tuple(map(int, model.cc.split(".")))
        assert tensor_chain.chains(cc), model.id
