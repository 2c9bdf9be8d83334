"""GPUs: their memory and its errors."""

from __future__ import annotations

from collections.abc import Iterator

from hostcheck.errors import NotApplicable, Unavailable, need
from hostcheck.expect import Expect, Key, failed, passed
from hostcheck.facts.base import each
from hostcheck.facts.gpu import GPUS, Gpu
from hostcheck.facts.gpu_health import board_class
from hostcheck.model import Actor, Finding, Severity
from hostcheck.registry import check

from .gpu_fixes import REPLACE, graded, reset

ECC_MODE = Key("gpu.ecc-mode", bool)
ECC_VOLATILE = Key("gpu.ecc-volatile", int, "uncorrectable errors")
SRAM_UNCORRECTABLE = Key("gpu.ecc-aggregate.sram-uncorrectable", int, "errors")
SRAM_CORRECTABLE = Key("gpu.ecc-aggregate.sram-correctable", int, "errors")
DRAM_CORRECTABLE = Key("gpu.ecc-aggregate.dram-correctable", int, "errors")
REMAPPED_ROWS = Key("gpu.row-remap-count", int, "rows", high=1_000_000)
RETIRED_PAGES = Key("gpu.retired-pages", int, "pages", high=1_000)
MEMORY_SIZE = Key("gpu.memory-size", int, "MiB", low=256, high=4_194_304)
"""Total memory as the driver shows it: somewhat below the nominal size, because it keeps a part for itself."""

_GUIDE = "https://docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt/"
_ECC_ROWS = ["gpu-ecc"]
_REMAP_ROWS = ["x-gpu-row-remap"]


@check(each(GPUS), id="gpu.ecc-mode", severity=Severity.HIGH, rows=_ECC_ROWS, keys=[ECC_MODE])
def ecc_mode(gpu: Gpu, expect: Expect) -> Iterator[Finding]:
    """ECC is on, now and after the next reset.

    Without it flipped bits in gigabytes of memory go unseen into results and checkpoints. On GPUs with HBM ECC costs no
    capacity and no bandwidth; boards with GDDR give up about 6 % of their memory for it.
    """
    current, pending = need(gpu.ecc.current), gpu.ecc.pending
    fix = f"nvidia-smi -i {gpu.index} -e 1; it takes effect at the next reset. {reset(gpu.index)}"
    finding = expect(ECC_MODE).judge(
        current, say=f"ECC is {'on' if current else 'off'}", fix=fix, actor=Actor.RESET_GPU
    )
    yield finding if _is_server(gpu) else graded(finding, Severity.LOW)
    if isinstance(pending, bool) and pending != current:
        word = "on" if pending else "off"
        line = f"ECC is to be {word} after the next reset"
        yield failed(line, pending, wanted="no change pending", fix=reset(gpu.index), actor=Actor.RESET_GPU)


def _need_ecc(gpu: Gpu) -> None:
    """Go on unless the board has no ECC: then nobody counts errors, and drivers leave the fields out."""
    if isinstance(gpu.ecc.current, NotApplicable):
        raise gpu.ecc.current


def _is_server(gpu: Gpu) -> bool:
    """Whether ECC is on as delivered: workstation and consumer boards that have it come with it off."""
    return not isinstance(gpu.name, str) or board_class(gpu.name) == "data-centre"


@check(each(GPUS), id="gpu.ecc-volatile", severity=Severity.CRITICAL, rows=_ECC_ROWS, keys=[ECC_VOLATILE])
def ecc_volatile(gpu: Gpu, expect: Expect) -> Finding:
    """The GPU has met no uncorrectable memory error since the driver was loaded.

    Each one has ended a job or, if it was not contained, may have spoilt results. The counter begins anew when the
    driver is loaded, so what it holds is recent.
    """
    count = need(gpu.ecc.volatile.total_uncorrectable)
    say = f"{count} uncorrectable memory errors since the driver was loaded"
    return expect(ECC_VOLATILE).judge(count, say=say, fix=reset(gpu.index), actor=Actor.RESET_GPU)


_AGGREGATE = (
    (SRAM_UNCORRECTABLE, "sram_uncorrectable", "uncorrectable errors in SRAM"),
    (SRAM_CORRECTABLE, "sram_correctable", "corrected errors in SRAM"),
    (DRAM_CORRECTABLE, "dram_correctable", "corrected errors in DRAM"),
)


@check(
    each(GPUS),
    id="gpu.ecc-aggregate",
    severity=Severity.HIGH,
    rows=_ECC_ROWS,
    keys=[key for key, _, _ in _AGGREGATE],
)
def ecc_aggregate(gpu: Gpu, expect: Expect) -> Iterator[Finding]:
    """Over its whole life the GPU has had few memory errors.

    SRAM cannot be remapped: a part of the chip that fails again and again will not get better. Uncorrectable errors
    in DRAM are not counted here, since each of them retires its row; see gpu.row-remap-count.
    """
    for key, name, words in _AGGREGATE:
        count = getattr(gpu.ecc.aggregate, name)
        if isinstance(count, NotApplicable) and key is not SRAM_UNCORRECTABLE:
            continue
        say = f"{need(count)} {words} in the GPU's life"
        yield expect(key).judge(count, say=say, fix=REPLACE, actor=Actor.REPLACE)


@check(each(GPUS), id="gpu.sram-threshold", severity=Severity.LOW, rows=_ECC_ROWS)
def sram_threshold(gpu: Gpu, expect: Expect) -> Finding:
    """The GPU's own threshold of uncorrectable SRAM errors is not exceeded.

    The driver sets this flag when the errors are so many that the vendor's diagnostics would fail the board: the
    plainest sign there is that a GPU is to be replaced.
    """
    _need_ecc(gpu)
    if need(gpu.ecc.sram_threshold_exceeded):
        line = "the threshold of uncorrectable SRAM errors is exceeded"
        return graded(failed(line, True, wanted="not exceeded", fix=REPLACE, actor=Actor.REPLACE), Severity.HIGH)
    return passed("the threshold of uncorrectable SRAM errors is not exceeded", False)


@check(each(GPUS), id="gpu.row-remap-pending", severity=Severity.MEDIUM, rows=_REMAP_ROWS, references=[_GUIDE])
def row_remap_pending(gpu: Gpu, expect: Expect) -> Finding:
    """No bad memory row waits to be remapped.

    The row is put aside meanwhile and running work is safe, but the spare takes its place only at the next reset, and
    a second error in the same bank before that can end a job.
    """
    if need(gpu.remapped_rows.pending):
        line = "a memory row waits for a reset to be remapped"
        return failed(line, True, wanted="none pending", fix=reset(gpu.index), actor=Actor.RESET_GPU)
    return passed("no memory row waits to be remapped", False)


@check(each(GPUS), id="gpu.row-remap-failure", severity=Severity.HIGH, rows=_REMAP_ROWS, references=[_GUIDE])
def row_remap_failure(gpu: Gpu, expect: Expect) -> Finding:
    """Every bad memory row of the GPU could be remapped.

    A remap fails when the bank has no spare row left; the bad row stays in use. This flag is what the vendor's
    replacement policy goes by.
    """
    if need(gpu.remapped_rows.failure):
        line = "a memory row could not be remapped"
        return failed(line, True, wanted="no failed remap", fix=REPLACE, actor=Actor.REPLACE)
    return passed("no remap has failed", False)


@check(each(GPUS), id="gpu.row-remap-count", severity=Severity.HIGH, rows=_REMAP_ROWS, keys=[REMAPPED_ROWS])
def row_remap_count(gpu: Gpu, expect: Expect) -> Finding:
    """Few memory rows were remapped because of uncorrectable errors.

    Spare rows are a fixed number for each bank; hundreds in use mean that the memory stack wears out.
    """
    count = need(gpu.remapped_rows.uncorrectable)
    say = f"{count} rows remapped after uncorrectable errors"
    return expect(REMAPPED_ROWS).judge(count, say=say, fix=REPLACE, actor=Actor.REPLACE)


@check(each(GPUS), id="gpu.row-remap-spares", severity=Severity.MEDIUM, rows=_REMAP_ROWS, references=[_GUIDE])
def row_remap_spares(gpu: Gpu, expect: Expect) -> Finding:
    """Every bank of the GPU's memory has a spare row left.

    In a bank without spares the next uncorrectable error cannot be remapped, and the GPU has to be replaced then.
    """
    banks = need(gpu.remapped_rows.banks)
    if "none" not in banks:
        raise Unavailable("the histogram of spare rows has no line for banks without any")
    if banks["none"] == 0:
        return passed(f"all {sum(banks.values())} banks have spare rows", 0)
    line = f"{banks['none']} of {sum(banks.values())} banks have no spare row left"
    return failed(line, banks["none"], wanted="0 banks", fix="Plan the replacement of the GPU; it is safe to use until "
                  "a remap fails (gpu.row-remap-failure).", actor=Actor.REPLACE)  # fmt: skip


@check(each(GPUS), id="gpu.retired-pages", severity=Severity.HIGH, rows=_REMAP_ROWS, keys=[RETIRED_PAGES])
def retired_pages(gpu: Gpu, expect: Expect) -> Iterator[Finding]:
    """Few memory pages were retired, and none waits to be (GPUs before Ampere).

    The table of retired pages has room for 64; when it is full, further bad pages stay in use.
    """
    pages = gpu.retired_pages
    count = need(pages.single_bit) + need(pages.double_bit)
    yield expect(RETIRED_PAGES).judge(count, say=f"{count} retired pages", fix=REPLACE, actor=Actor.REPLACE)
    if need(pages.pending):
        finding = failed(
            "a page waits for a reset to be retired",
            True,
            wanted="none pending",
            fix=reset(gpu.index),
            actor=Actor.RESET_GPU,
        )
        yield graded(finding, Severity.MEDIUM)


@check(each(GPUS), id="gpu.repair-pending", severity=Severity.LOW, rows=_REMAP_ROWS)
def repair_pending(gpu: Gpu, expect: Expect) -> Finding:
    """No repair of a memory channel or of a compute unit waits for a reset.

    Newer GPUs put spare channels and units in the place of bad ones, but only when they are reset.
    """
    _need_ecc(gpu)
    repairs = {"memory channel": gpu.ecc.channel_repair_pending, "compute unit (TPC)": gpu.ecc.tpc_repair_pending}
    waiting = [word for word, state in repairs.items() if not isinstance(state, NotApplicable) and need(state)]
    if waiting:
        words = ", ".join(waiting)
        line, fix = f"a repair waits for a reset: {words}", reset(gpu.index)
        return graded(failed(line, words, wanted="none pending", fix=fix, actor=Actor.RESET_GPU), Severity.MEDIUM)
    for state in repairs.values():
        need(state)
    return passed("no repair is pending", False)


@check(each(GPUS), id="gpu.unrepairable-memory", severity=Severity.LOW, rows=_REMAP_ROWS)
def unrepairable_memory(gpu: Gpu, expect: Expect) -> Finding:
    """The GPU has no memory that can no longer be repaired.

    All spare rows and channels for it are used up.
    """
    _need_ecc(gpu)
    if need(gpu.ecc.unrepairable_memory):
        finding = failed("the GPU has unrepairable memory", True, wanted="none", fix=REPLACE, actor=Actor.REPLACE)
        return graded(finding, Severity.CRITICAL)
    return passed("no memory is beyond repair", False)


@check(each(GPUS), id="gpu.memory-size", severity=Severity.LOW, rows=["x-gpu-count"], keys=[MEMORY_SIZE])
def memory_size(gpu: Gpu, expect: Expect) -> Finding:
    """The GPU has the memory of its model.

    A GPU can come up with a part of its memory switched off after errors in it; jobs sized for the whole then end with
    "out of memory" on this one GPU.
    """
    if gpu.virtualization == "VGPU":
        raise NotApplicable("a vGPU has the memory of its profile")
    total = need(gpu.memory.total_mib)
    say = f"{total:,} MiB of memory"
    finding = expect(MEMORY_SIZE).judge(
        total, say=say, fix=reset(gpu.index) + " If it stays: " + REPLACE, actor=Actor.RESET_GPU
    )
    return graded(finding, Severity.HIGH)


@check(each(GPUS), id="gpu.bar1", severity=Severity.LOW, rows=["x-gpu-bar1"])
def bar1(gpu: Gpu, expect: Expect) -> Finding:
    """The whole memory of the GPU can be reached over PCIe (BAR1 is as large as the memory).

    NICs and NVMe drives read and write GPU memory through BAR1. Through a small one, transfers larger than it are cut
    up or go through host memory.
    """
    kind = board_class(need(gpu.name))
    if kind in ("consumer", "laptop"):
        raise NotApplicable("no NIC or drive reaches the memory of a consumer board directly")
    size, memory = need(gpu.bar1.total_mib), need(gpu.memory.total_mib)
    line = f"BAR1 has {size:,} MiB, the memory {memory:,} MiB"
    if size >= memory:
        return passed(line, size)
    finding = failed(
        line,
        size,
        wanted=f"at least {memory:,} MiB",
        fix="Switch on 'Above 4G decoding' and 'Resizable BAR' in the firmware setup. Some boards (T4, RTX) also need "
        "their BAR1 mode changed with NVIDIA's display mode selector; a reboot follows.",
        actor=Actor.REBOOT,
    )
    return graded(finding, Severity.INFO) if kind == "workstation" else finding
