"""Matrix products: what is handed to torch, and that no wrong output passes; on the CPU, with a real torch."""

from __future__ import annotations

import math
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torchlab

from bench_lab import StandInLab
from hostcheck.bench.lab import BenchGpu
from hostcheck.bench.model import Conditions, Level, Measurement, Sampled, Session
from hostcheck.bench.validity import Ceilings, fault
from hostcheck.errors import HostcheckError, NotApplicable
from hostcheck.gpu_table import find, table
from hostcheck.microbench import gemm, gemm_forms, overlap
from hostcheck.render.bench import render_session

H100 = next(model for model in table().models if model.id == "h100-sxm5-80gb")


def gpu(cc: tuple[int, int] = (9, 0)) -> BenchGpu:
    return BenchGpu(index=0, ordinal=0, uuid="GPU-0", name="NVIDIA H100 80GB HBM3", model=H100, sm_count=132, cc=cc)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("torch")


@pytest.mark.parametrize("name", gemm_forms.FORMS)
def test_a_right_product_passes_and_a_wrong_element_does_not(name: str, folder: Path) -> None:
    found = torchlab.ask(folder, "product", name)
    assert found["wrong"] == ""
    assert found["error"] <= found["bound"]
    # The bound means something: what the format loses is not far below it.
    assert name in ("tf32", "fp64") or found["error"] > found["bound"] / 20
    assert found["unwritten"].startswith("the output is wrong: nan")
    assert found["spoilt"].startswith("the output is wrong in places")
    assert "the output is wrong" in found["swapped"]
    assert found["distinct"] > 10
    assert all(abs(mean) < 0.02 for mean in found["means"])


def test_block_scaled_factors_have_the_types_and_sizes_that_torch_asks_for(folder: Path) -> None:
    # Rows are filled up to 128, scales of a row to 4: 300 x 256 has 384 x 8 scales of 32 numbers.
    assert torchlab.ask(folder, "scaled", "mxfp8") == {
        "a": ["torch.float8_e4m3fn", 300, 256],
        "b": ["torch.float8_e4m3fn", 256, 192, 1],
        "scale_a": ["torch.float8_e8m0fnu", 384 * 8],
        "scale_b": ["torch.float8_e8m0fnu", 256 * 8],
        "out": ["torch.bfloat16", 300, 192],
    }
    assert torchlab.ask(folder, "scaled", "nvfp4") == {
        "a": ["torch.float4_e2m1fn_x2", 300, 128],
        "b": ["torch.float4_e2m1fn_x2", 128, 192, 1],
        "scale_a": ["torch.float8_e4m3fn", 384 * 16],
        "scale_b": ["torch.float8_e4m3fn", 256 * 16],
        "out": ["torch.bfloat16", 300, 192],
    }


def test_each_output_that_is_looked_at_was_made_since_it_was_spoiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """In FP64 on a part that has little of it, a product of 16384 takes 7 s: one fits into a stretch."""
    gpu = BenchGpu(index=0, ordinal=0, uuid="GPU-0", name="")
    timer = gemm._Timer(None, None, StandInLab(gpus=(gpu,), level=Level.STANDARD), "fp64", 300.0)
    outputs = [SimpleNamespace(out=SimpleNamespace(), made=True) for _ in range(gemm.SETS)]
    for each in outputs:
        each.out.fill_ = lambda value, each=each: setattr(each, "made", False)
    ran: list[int] = []

    def run(problems, count, each=1):
        ran.append(count * each)
        for number in range(count * each):
            problems[number % len(problems)].made = True
        return [7.0] * count

    monkeypatch.setattr(timer, "problems", lambda shape: outputs)
    monkeypatch.setattr(timer, "heat", lambda problems, one: None)
    monkeypatch.setattr(timer, "run", run)
    monkeypatch.setattr(gemm, "check", lambda torch, problem, bound: (0.0, "" if problem.made else "wrong"))
    sampled = timer.sample((16384, 16384, 16384), "16384")
    assert sampled.verified, sampled.invalid
    assert (sum(ran[1:]), len(ran[1:])) == (17, 5), "all that the time is for, and looked at five times"


def test_shapes_grow_with_the_level() -> None:
    assert gemm.shapes(Level.QUICK, 132) == [(8192, 8192, 8192)]
    assert gemm.shapes(Level.STANDARD, 132) == [(8192,) * 3, (16384,) * 3]
    searched = gemm.shapes(Level.FULL, 132)[2:]
    # 66 x 32 tiles of 128 x 256 are 16 for each of 132 multiprocessors.
    assert (8448, 8192, 8192) in searched
    assert all(size % 128 == 0 for shape in searched for size in shape)
    assert gemm.shapes(Level.SOAK, 0)


def test_a_search_reports_the_fastest_and_whatever_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[gemm_forms.Shape, str, bool]] = []
    wrong = (4096, 4096, 4096)

    class Timer:
        def __init__(self, torch: object, device: object, lab: object, name: str, seconds: float) -> None:
            assert seconds == 30 / 10

        def affordable(self, shape: gemm_forms.Shape) -> gemm_forms.Shape:
            return shape

        def sample(self, shape: gemm_forms.Shape, case: str, *, watched: bool = True) -> Sampled:
            asked.append((shape, case, watched))
            rate = 800.0 if shape == (12288,) * 3 else 700.0
            return Sampled(samples=(rate,), unit="TFLOPS", case=case, verified=shape != wrong)

    cuda = SimpleNamespace(is_available=lambda: True, device=lambda device: nullcontext(), empty_cache=lambda: None)
    torch = SimpleNamespace(
        cuda=cuda,
        device=lambda *words: words,
        get_float32_matmul_precision=lambda: "highest",
        set_float32_matmul_precision=lambda value: None,
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(gemm, "_Timer", Timer)
    lab = StandInLab((gpu(),), Level.FULL, 30.0)
    yielded = list(gemm.bf16(lab))
    assert [(sampled.case, sampled.verified) for sampled in yielded] == [
        ("8192", True), ("16384", True), ("4096 x 4096 x 4096", False), ("best shape", True),
    ]  # fmt: skip
    assert yielded[-1].samples == (800.0,)
    # Conditions are those of what is yielded: the search itself is not watched.
    assert [shape for shape, _, watched in asked if watched] == [(8192,) * 3, (16384,) * 3, (12288,) * 3]


def card() -> BenchGpu:
    """An RTX 5090; its datasheet counts at 2,407 MHz."""
    return BenchGpu(
        index=0, ordinal=0, uuid="", name="card", sm_count=170, cc=(12, 0), sm_max_mhz=3090,
        model=find(None, None, "NVIDIA GeForce RTX 5090", None),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "measured", "too_much"), [("bf16", 224.3, 280.0), ("fp8", 430.0, 1100.0), ("mxfp8", 737.1, 1100.0)]
)
def test_a_clock_above_the_datasheets_makes_no_number_wrong(name: str, measured: float, too_much: float) -> None:
    form = gemm_forms.FORMS[name]
    limit, _ = gemm._limit(card(), form)
    for value, above in ((measured, False), (too_much, True)):
        made = Sampled(
            samples=(value,), unit="TFLOPS", limit=limit, verified=True, ceiling=gemm._ceiling(card(), form, limit)
        )
        assert ("is above the physical limit" in fault(made, Conditions(), ceilings=Ceilings())) is above, value
    assert gemm._ceiling(replace(card(), sm_max_mhz=None), form, limit) is None
    assert gemm._ceiling(gpu(), gemm_forms.FORMS["bf16"], 989.4) is None, "its clock is not told"


def test_limits_are_the_datasheets() -> None:
    for name, peak in (("bf16", 989.4), ("tf32", 494.7), ("fp64", 66.9), ("fp8", 1978.9), ("fp8-rowwise", 1978.9)):
        limit, source = gemm._limit(gpu(), gemm_forms.FORMS[name])
        assert limit == peak
        assert "h100-sxm5-80gb" in source
    assert gemm._limit(gpu(), gemm_forms.FORMS["nvfp4"]) == (None, "")
    assert gemm._limit(card(), gemm_forms.FORMS["fp8"])[0] == 419
    assert gemm._limit(card(), gemm_forms.FORMS["mxfp8"])[0] == 838
    assert gemm._limit(BenchGpu(index=0, ordinal=0, uuid="", name="unknown"), gemm_forms.FORMS["bf16"]) == (None, "")


def test_what_a_gpu_cannot_do_does_not_apply() -> None:
    with pytest.raises(NotApplicable, match=r"compute capability 9\.0; its tensor cores have no nvfp4 before 10\.0"):
        gemm_forms.available(None, gpu(), "nvfp4")
    with pytest.raises(NotApplicable, match=r"no fp8 before 8\.9"):
        gemm_forms.available(None, gpu((8, 6)), "fp8")


def test_what_torch_cannot_do_is_one_line() -> None:
    class Cuda:
        def __init__(self, able: bool) -> None:
            self.able = able

        def is_available(self) -> bool:
            return self.able

    class Torch:
        __version__ = "2.15.0"

        class version:  # noqa: N801
            cuda: str | None = None

        def __init__(self, able: bool) -> None:
            self.cuda = Cuda(able)

    with pytest.raises(HostcheckError, match=r"torch 2\.15\.0 is built without CUDA"):
        gemm_forms.available(Torch(False), gpu(), "bf16")
    Torch.version.cuda = "13.0"
    with pytest.raises(HostcheckError, match=r"built for CUDA 13\.0, but cannot use the driver"):
        gemm_forms.available(Torch(False), gpu(), "bf16")
    with pytest.raises(HostcheckError, match="has no float8_e4m3fn"):
        gemm_forms.available(Torch(True), gpu(), "fp8")


def test_energy_of_the_work() -> None:
    measured = Measurement(
        bench="gemm.bf16", subject="gpu0", unit="TFLOPS", value=700.0, limit=989.4, samples=(700.0,), verified=True,
        details={"flops": 2e15}, conditions=Conditions(joules=2060.0),
    )  # fmt: skip
    assert measured.joules_per_tflop == pytest.approx(1.03)
    assert replace(measured, conditions=Conditions()).joules_per_tflop is None
    assert replace(measured, details={}).joules_per_tflop is None
    assert replace(measured, conditions=Conditions(joules=0.0)).joules_per_tflop == 0
    session = Session(tool="", taken="", level="quick", measurements=(measured,))
    assert "gpu0, 1.03 J/TFLOP" in render_session(session, color=False, width=120, ascii=True)


@pytest.mark.parametrize(
    ("first", "second", "both", "share"), [(1, 1, 1, 1), (1, 1, 2, 0), (2, 1, 2.5, 0.5), (1, 1, 0.9, 1), (1, 1, 9, 0)]
)
def test_hidden_share(first: float, second: float, both: float, share: float) -> None:
    assert math.isclose(overlap.hidden(first, second, both), share)
