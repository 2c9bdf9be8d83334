"""Chains of matrix instructions that run out of registers and shared memory: which there are, running one, judging it.

Each block of the grid has a multiprocessor for itself and computes the same sums with the same operands, over and over.
So every sum is known, whichever multiprocessor made it and whenever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ctypes import c_uint32, c_uint64
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from hostcheck.errors import HostcheckError

from . import scaled_formats, tensor_operands

if TYPE_CHECKING:
    from hostcheck.bench.cuda import Device, Launch, Stream
    from hostcheck.bench.lab import BenchGpu
    from hostcheck.gpu_table import GpuModel

SEEDS = (11, 12)

_REPORT = ("clock0", "clock1", "ns0", "ns1", "word", "sm", "differing", "stuck", "unwritten")
_REPORT_BYTES = 56
_MANY = 8
_NEVER = 0xFFFFFFFF
"""What memory holds before a launch writes it. As a sum it is no number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """How one number format is multiplied on one compute capability.

    Attributes:
        name: of the format, as in `tensor_operands`; `label` as people write it.
        file: of the kernel; `options` for its compilation.
        instruction: of PTX, to show.
        rate: what the table of GPU models calls its operations per clock and SM; empty where it tells nothing of this
            instruction.
        rows, columns, steps: of the sums, and how many products are summed before they repeat.
        step: numbers of a row in one product.
        threads: of a block.
        parallel: how many such tiles of sums a block works on.
        repeats: of the products in one period.
        tolerance: how far the sums of one repeat may be off, as a share of their size; 0 where they are exact. It
            grows with the repeats, as every sum is rounded.
        descriptor: of a tcgen05 instruction.
    """

    name: str
    label: str
    file: str
    options: tuple[str, ...]
    instruction: str
    rate: str
    rows: int
    columns: int
    steps: int
    step: int
    threads: int
    parallel: int
    repeats: int
    tolerance: float
    descriptor: int | None = None

    def operations(self, periods: int, repeats: int) -> int:
        """Return those of one block in a launch; a multiplication and its addition are two."""
        # Each warpgroup of wgmma has half a period more.
        times = periods * repeats + (repeats // 2 if self.file == "tensor_wgmma" else 0)
        return 2 * self.rows * self.columns * self.step * self.steps * self.parallel * times

    @property
    def unit(self) -> str:
        """What 10^12 operations a second are called."""
        return "TOPS" if self.name == "int8" else "TFLOPS"

    @property
    def exact(self) -> bool:
        """Whether sums are whole numbers."""
        return self.name == "int8"


# Label, rate, bits of a number, and how far the sums of a repeat may be off: some 10 times what an H100 shows for BF16,
# and 3 times for FP8, of whose sums it keeps 13 bits.
_LABELS = {
    "bf16": ("BF16", "bf16", 16, 5e-6),
    "fp16": ("FP16", "fp16", 16, 5e-6),
    "tf32": ("TF32", "tf32", 32, 5e-6),
    "fp8": ("FP8 E4M3", "fp8", 8, 1e-3),
    "fp6": ("FP6 E2M3", "fp6", 8, 1e-3),
    "int8": ("INT8", "int8", 8, 0.0),
    "mxfp8": ("MXFP8 E4M3", "fp8", 8, 1e-3),
    "nvfp4": ("NVFP4", "fp4", 4, 1e-3),
    "fp64": ("FP64", "fp64_tensor", 64, 1e-14),
}
_WGMMA = {
    "bf16": "m64n256k16.f32.bf16.bf16", "fp16": "m64n256k16.f32.f16.f16", "tf32": "m64n256k8.f32.tf32.tf32",
    "fp8": "m64n256k32.f32.e4m3.e4m3", "int8": "m64n256k32.s32.s8.s8",
}  # fmt: skip
_MMA = {
    "bf16": "m16n8k16.f32.bf16.bf16.f32", "fp16": "m16n8k16.f32.f16.f16.f32", "tf32": "m16n8k8.f32.tf32.tf32.f32",
    "fp8": "m16n8k32.f32.e4m3.e4m3.f32", "int8": "m16n8k32.s32.s8.s8.s32",
    "mxfp8": "kind::mxf8f6f4.m16n8k32.f32.e4m3.e4m3.f32.ue8m0",
    "nvfp4": "kind::mxf4nvf4.m16n8k64.f32.e2m1.e2m1.f32.ue4m3",
    "fp64": "m16n8k16.f64.f64.f64.f64",
}  # fmt: skip
_KINDS = {
    "bf16": "f16", "fp16": "f16", "tf32": "tf32", "fp8": "f8f6f4", "fp6": "f8f6f4", "int8": "i8",
    "mxfp8": "mxf8f6f4.block_scale.scale_vec::1X", "nvfp4": "mxf4nvf4.block_scale.scale_vec::4X",
}  # fmt: skip
# The codes of an operand's format and of the sums' in the descriptor of a tcgen05 instruction.
_OPERAND_CODES = {"bf16": 1, "fp16": 0, "tf32": 2, "fp8": 0, "fp6": 3, "int8": 1, "mxfp8": 0, "nvfp4": 1}
_SUM_CODES = {"bf16": 1, "fp16": 1, "tf32": 1, "fp8": 1, "fp6": 1, "int8": 2}
_SCALE_CODES = {"mxfp8": 1, "nvfp4": 0}


def chains(cc: tuple[int, int]) -> dict[str, Chain]:
    """Return the chains that a compute capability has, by the name of their number format.

    Formats that a part computes only in name are left out (FP64 on 8.9 and 12.0, and on 10.3).
    """
    if cc == (9, 0):
        made = [wgmma(name) for name in _WGMMA] + [mma("fp64")]
    elif cc == (10, 0):
        made = [tcgen05(name) for name in _KINDS] + [mma("fp64")]
    elif cc == (10, 3):
        # The rate of FP4 takes instructions with K = 96, which are not written: without a limit, K = 64 is no failure.
        made = [replace(tcgen05("nvfp4"), rate="")]
        made += [tcgen05(name) for name in _KINDS if name not in ("int8", "nvfp4")] + [mma("int8")]
    elif cc[0] == 12:
        made = [mma(name) for name in ("bf16", "fp16", "tf32", "fp8", "int8", "mxfp8", "nvfp4")]
    elif cc[0] == 8:
        names = ["bf16", "fp16", "tf32", "int8"] + (["fp8"] if cc >= (8, 9) else [])
        made = [mma(name) for name in names] + ([mma("fp64", small=True)] if cc == (8, 0) else [])
    else:
        made = []
    return {chain.name: chain for chain in made}


def wgmma(name: str) -> Chain:
    """Return a chain of wgmma, with operands in shared memory and sums in registers."""
    label, rate, bits, tolerance = _LABELS[name]
    return Chain(
        name=name, label=label, file="tensor_wgmma", rate=rate, tolerance=tolerance,
        options=(f"-DPRECISION_{name.upper()}", "-DSTEPS=16"),
        instruction=f"wgmma.mma_async.{_WGMMA[name]}", rows=64, columns=256, steps=16, step=256 // bits,
        threads=256, parallel=2, repeats=4,
    )  # fmt: skip


def mma(name: str, *, small: bool = False) -> Chain:
    """Return a chain of mma.sync, with operands and sums in registers; `small` for FP64 before 9.0."""
    label, rate, bits, tolerance = _LABELS[name]
    option, instruction, step = name.upper(), _MMA[name], 256 // bits
    rows, columns, steps = 32, 32, 4
    if name == "fp64":
        option, instruction = ("FP64_SMALL", "m8n8k4.f64.f64.f64.f64") if small else ("FP64", instruction)
        step, steps = (4, 4) if small else (16, 2)
    return Chain(
        name=name, label=label, file="tensor_mma", rate=rate, tolerance=tolerance,
        options=(f"-DPRECISION_{option}",), instruction=f"mma.sync.{instruction}",
        rows=rows, columns=columns, steps=steps, step=step, threads=256, parallel=8, repeats=64,
    )  # fmt: skip


def tcgen05(name: str) -> Chain:
    """Return a chain of tcgen05.mma, with operands in shared memory and sums and scales in tensor memory."""
    label, rate, bits, tolerance = _LABELS[name]
    scaled = name in _SCALE_CODES
    columns, steps = (192, 8) if scaled else (256, 16)
    return Chain(
        name=name, label=label, file="tensor_tcgen05", rate=rate, tolerance=tolerance,
        options=(f"-DPRECISION_{name.upper()}", f"-DSTEPS={steps}", f"-DCOLUMNS={columns}"),
        instruction=f"tcgen05.mma.cta_group::1.kind::{_KINDS[name]}", rows=128, columns=columns, steps=steps,
        step=256 // bits, threads=160, parallel=1, repeats=64 // steps, descriptor=descriptor(name, 128, columns),
    )  # fmt: skip


def descriptor(name: str, rows: int, columns: int) -> int:
    """Return the descriptor of a tcgen05 instruction with both operands K-major (PTX ISA, "Instruction descriptor").

    Which scale of a word is meant (bits 4, 5, 29 and 30) is left 0.
    """
    operand = _OPERAND_CODES[name]
    common = operand << 7 | operand << 10 | columns >> 3 << 17 | rows >> 4 << 24
    return common | (_SCALE_CODES[name] << 23 if name in _SCALE_CODES else _SUM_CODES[name] << 4)


@dataclass(frozen=True, slots=True)
class Report:
    """What one block told of one launch.

    Attributes:
        sm: the multiprocessor that it ran on.
        cycles, ns: how long its chain took by the multiprocessor's clock, and by the GPU's on the wall.
        word: of all its sums; equal for equal sums.
        differing: how often a thread had sums in a period that were not those of its first.
    """

    sm: int
    cycles: int
    ns: int
    word: int
    differing: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the sums of launches were worth.

    Attributes:
        error: of the sums that most multiprocessors agree on, as a share of their size; infinite if they hold a NaN.
        right: whether it is within the tolerance.
        wrong: the multiprocessors that did not have these sums in every period, and what was found.
    """

    error: float
    right: bool
    wrong: Mapping[int, str]


FLAWLESS = Verdict(0.0, True, {})


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Return what all launches together were worth."""
    return Verdict(
        error=max(verdict.error for verdict in verdicts),
        right=all(verdict.right for verdict in verdicts),
        wrong={sm: what for verdict in verdicts for sm, what in verdict.wrong.items()},
    )


@dataclass(frozen=True, slots=True)
class Run:
    """What came of launches.

    Attributes:
        seconds: of each, by events.
        launches: for each, the reports of all blocks.
        verdict: on all of their sums.
    """

    seconds: tuple[float, ...]
    launches: tuple[tuple[Report, ...], ...]
    verdict: Verdict


class Runner:
    """A chain on a GPU: its operands, its memory, its launches.

    Attributes:
        operands: as the kernel gets them, in its order.

    Args:
        device: where it runs.
        chain: what.
    """

    def __init__(self, device: Device, chain: Chain) -> None:
        self.device = device
        self.chain = chain
        columns = chain.step * chain.steps
        a = tensor_operands.draw(chain.name, chain.rows, columns, SEEDS[0])
        b = tensor_operands.draw(chain.name, chain.columns, columns, SEEDS[1])
        self._once = product(a, b)
        self._kernel = device.kernel(chain.file, "chain", chain.options)
        self.operands = [self._upload(content) for content in arranged(chain, a, b)]
        self._tile_bytes = chain.rows * chain.columns * (8 if chain.name == "fp64" else 4)
        self._tiles = device.alloc(device.sm_count * self._tile_bytes)
        self._reports = device.alloc(device.sm_count * _REPORT_BYTES)
        # So much shared memory for one block that no second one fits beside it.
        used = self._kernel.attribute("SHARED_SIZE_BYTES")
        self._shared = device.attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN") - used

    def _upload(self, content: bytes) -> Any:
        buffer = self.device.alloc(max(16, len(content)))
        buffer.upload(content)
        return buffer

    def periods(self, stream: Stream, seconds: float) -> int:
        """Return how many periods take about so long, from a short launch."""
        few = 4
        took = self.run(stream, few, count=3).seconds[-1]
        return max(few, int(few * seconds / max(took, 1e-7)))

    def run(self, stream: Stream, periods: int, repeats: int | None = None, count: int = 1) -> Run:
        """Run the chain on every multiprocessor a number of times, and judge the sums.

        Raises:
            HostcheckError: a block did not run, or waited in vain.
        """
        repeats = self.chain.repeats if repeats is None else repeats
        size = self.device.sm_count * _REPORT_BYTES
        if self._reports.size < count * size:
            self._reports.free()
            self._reports = self.device.alloc(count * size)
        self._tiles.fill(_NEVER)
        self._reports.fill(_NEVER)
        works = [self._launch(periods, repeats, self._reports.pointer + each * size) for each in range(count)]
        seconds = stream.time([lambda work=work: work(stream) for work in works])  # type: ignore[misc]
        launches = tuple(read_reports(self.chain, self._reports.download(each * size, size)) for each in range(count))
        tile = self._tiles.download(self._tile_bytes * typical(launches[-1]), self._tile_bytes)
        return Run(seconds, launches, judge(self.chain, launches, tile, self._once, repeats))

    def _launch(self, periods: int, repeats: int, reports: int) -> Launch:
        last = [] if self.chain.descriptor is None else [c_uint32(self.chain.descriptor)]
        return self._kernel.bind(
            self.device.sm_count, self.chain.threads, *self.operands, self._tiles, c_uint64(reports),
            c_uint32(periods), c_uint32(repeats), *last, shared=self._shared,
        )  # fmt: skip

    def free(self) -> None:
        """Give its memory back."""
        for buffer in (*self.operands, self._tiles, self._reports):
            buffer.free()


def arranged(chain: Chain, a: tensor_operands.Matrix, b: tensor_operands.Matrix) -> list[bytes]:
    """Return the operands, then the scales where the kernel takes them, each in the order that it reads."""
    if chain.file == "tensor_mma":
        part, tile = (8, 8 if chain.step == 4 else 16) if chain.name == "fp64" else (4, 16)
        return [
            tensor_operands.fragments(a.raw, part, tile, chain.steps),
            tensor_operands.fragments(b.raw, part, 8, chain.steps),
            b"" if a.scales is None else tensor_operands.scale_registers(a.scales, tile, chain.steps),
            b"" if b.scales is None else tensor_operands.scale_registers(b.scales, 8, chain.steps),
        ]
    operands = [tensor_operands.chunked(a.raw), tensor_operands.chunked(b.raw)]
    if chain.file == "tensor_tcgen05":
        operands += [b"" if each.scales is None else scaled_formats.swizzle(each.scales).tobytes() for each in (a, b)]
    return operands


def product(a: tensor_operands.Matrix, b: tensor_operands.Matrix) -> Any:
    """Return the sums of one repeat; float64, or int64 for whole numbers."""
    import numpy as np

    # Not by a library that keeps threads spinning on every core afterwards.
    return np.einsum("ik,jk->ij", a.values, b.values)


def read_reports(chain: Chain, raw: bytes) -> tuple[Report, ...]:
    """Return what the blocks of one launch wrote.

    Raises:
        HostcheckError: one wrote nothing, or waited in vain.
    """
    import numpy as np

    form = np.dtype([(name, "<u8" if place < 5 else "<u4") for place, name in enumerate(_REPORT)])
    read = np.frombuffer(raw, dtype=form)
    if read["unwritten"].any():
        raise HostcheckError(f"the {chain.label} chain did not run on every multiprocessor")
    if read["stuck"].any():
        raise HostcheckError(f"the {chain.label} chain got stuck: a matrix instruction did not complete")
    return tuple(
        Report(
            sm=int(each["sm"]),
            cycles=int(each["clock1"]) - int(each["clock0"]),
            ns=int(each["ns1"]) - int(each["ns0"]),
            word=int(each["word"]),
            differing=int(each["differing"]),
        )
        for each in read
    )


def typical(reports: Sequence[Report]) -> int:
    """Return the place of the first report that has the word that most have."""
    words = [report.word for report in reports]
    return words.index(max(set(words), key=words.count))


def judge(chain: Chain, launches: Sequence[Sequence[Report]], tile: bytes, once: Any, repeats: int) -> Verdict:
    """Judge the sums of launches.

    Args:
        chain: what made them.
        launches: for each, the reports of all blocks.
        tile: the sums of the typical block of the last launch, as the GPU wrote them.
        once: the right sums of one repeat.
        repeats: how many of them were added up.
    """
    usual = launches[-1][typical(launches[-1])].word
    error = off(chain, tile, once * repeats)
    wrong = {
        report.sm: "other sums than most" if report.word != usual else f"sums changed {report.differing} times"
        for reports in launches
        for report in reports
        if report.word != usual or report.differing
    }
    return Verdict(error, error <= chain.tolerance * repeats, wrong)


def off(chain: Chain, tile: bytes, wanted: Any) -> float:
    """Return how far sums are off, as a share of their size: root mean square over root mean square.

    Args:
        chain: what made them.
        tile: rows x columns as the GPU wrote them.
        wanted: the right sums.
    """
    import numpy as np

    form = "<i4" if chain.exact else "<f8" if chain.name == "fp64" else "<f4"
    sums = np.frombuffer(tile, dtype=form).reshape(chain.rows, chain.columns)
    if chain.exact:
        return 0.0 if np.array_equal(sums, wanted.astype("i4")) else float("inf")
    error = float(np.sqrt(np.square(sums - wanted).mean() / np.square(wanted).mean()))
    return error if np.isfinite(error) else float("inf")


def named(found: Mapping[int, str]) -> str:
    """Return multiprocessors with what was found against them, the first few of many; "" for none."""
    each = [f"SM {sm} ({what})" for sm, what in sorted(found.items())]
    return ", ".join(each[:_MANY]) + (f" and {len(each) - _MANY} more" if len(each) > _MANY else "")


def clock_mhz(reports: Sequence[Report]) -> float:
    """Return the median clock of the multiprocessors, from what they counted."""
    return median(report.cycles * 1e3 / report.ns for report in reports)


def operations_per_clock(gpu: BenchGpu, chain: Chain) -> tuple[float | None, str]:
    """Return what a multiprocessor of this GPU can do at most in a clock, and whence that is known."""
    from hostcheck.gpu_table import table

    known = table()
    if gpu.model is not None:
        return known.rates(gpu.model).get(chain.rate), known.cite(known.arch[gpu.model.cc].source)
    arch = known.arch.get(f"{gpu.cc[0]}.{gpu.cc[1]}")
    if arch is None:
        return None, ""
    return arch.rates.get(chain.rate), f"estimate for compute capability {gpu.cc[0]}.{gpu.cc[1]}, the model is unknown"


def datasheet(model: GpuModel | None, chain: Chain) -> float | None:
    """Return the vendor's figure for a format, in 10^12 operations a second; None where there is none."""
    return None if model is None else model.dense.get(chain.rate)
