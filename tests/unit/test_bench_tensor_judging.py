"""What is made of the reports of the multiprocessors."""

from __future__ import annotations

import struct
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from bench_lab import StandInLab
from hostcheck.bench import validity
from hostcheck.bench.lab import BenchGpu
from hostcheck.bench.model import Conditions, Level, Sampled
from hostcheck.errors import HostcheckError
from hostcheck.gpu_table import find
from hostcheck.microbench import sm_sweep, tensor_chain, tensor_pipe
from hostcheck.microbench.tensor_chain import Report, Run, Verdict

CHAIN = tensor_chain.wgmma("int8")
GOOD = Report(sm=0, cycles=1_000_000, ns=600_000, word=77, differing=0)


def test_sums_that_all_have_and_that_are_right_are_right():
    reports, tile, wanted = _launch()
    verdict = tensor_chain.judge(CHAIN, [reports], tile, wanted, 1)
    assert (verdict.error, verdict.right, verdict.wrong) == (0.0, True, {})


def test_a_multiprocessor_with_other_sums_is_named():
    reports, tile, wanted = _launch()
    reports[5] = replace(reports[5], word=78)
    reports[9] = replace(reports[9], differing=3)
    verdict = tensor_chain.judge(CHAIN, [reports], tile, wanted, 1)
    assert verdict.right
    assert verdict.wrong == {5: "other sums than most", 9: "sums changed 3 times"}


def test_other_sums_in_an_earlier_launch_are_named_too():
    reports, tile, wanted = _launch()
    earlier = [replace(report, word=1) if report.sm == 2 else report for report in reports]
    assert tensor_chain.judge(CHAIN, [earlier, reports], tile, wanted, 1).wrong == {2: "other sums than most"}


def test_the_sums_that_most_have_are_judged_even_if_the_first_block_has_others():
    reports, _, _ = _launch()
    reports[0] = replace(reports[0], word=1)
    assert tensor_chain.typical(reports) == 1


def test_sums_that_all_have_and_that_are_wrong_are_wrong():
    reports, tile, wanted = _launch()
    assert not tensor_chain.judge(CHAIN, [reports], tile, wanted + 1, 1).right


def _launch(count: int = 12):
    import numpy as np

    wanted = np.arange(CHAIN.rows * CHAIN.columns).reshape(CHAIN.rows, CHAIN.columns)
    return [replace(GOOD, sm=sm) for sm in range(count)], wanted.astype("<i4").tobytes(), wanted


def _runs(count: int = 12, slow: int | None = None, by: float = 0.0, wrong: dict[int, str] | None = None, error=0.0):
    """Twenty launches on healthy multiprocessors, of which one may take longer."""
    reports = tuple(
        replace(GOOD, sm=sm, cycles=1_000_000 + sm, ns=int(600_000 * (1 + (by if sm == slow else sm / 1e4))))
        for sm in range(count)
    )
    run = Run((0.001,) * 10, (reports,) * 10, Verdict(error, error == 0, wrong or {}))
    return [run, run]


def test_a_healthy_gpu_has_neither_wrong_nor_slow_multiprocessors():
    found = sm_sweep.judged(CHAIN, 8_000_000_000, 12, _runs())
    assert (found.details["wrong_sms"], found.details["slow_sms"]) == ("", "")
    assert (found.verified, found.invalid) == (True, "")
    assert len(found.samples) == 20
    assert 7999 < found.samples[0] < 8000
    assert (found.details["slowest_sm"], found.details["fastest_sm"]) == (11, 0)


class FakeRunner:
    """Computes wrongly on one multiprocessor in its third round, and never again."""

    def __init__(self, device, chain):
        self.rounds = 0

    def periods(self, stream, seconds):
        return 10

    def run(self, stream, periods, count):
        self.rounds += count == sm_sweep._LEAST
        time.sleep(0.01)
        return _runs(wrong={3: "other sums than most"} if self.rounds == 3 else None)[0]

    def free(self):
        pass


@pytest.mark.parametrize(("level", "wrong"), [(Level.QUICK, ""), (Level.SOAK, "SM 3 (other sums than most)")])
def test_a_soak_sweeps_until_its_time_is_over_and_forgets_no_round(level, wrong, monkeypatch):
    monkeypatch.setattr(tensor_chain, "Runner", FakeRunner)
    device = SimpleNamespace(cc=(9, 0), sm_count=12, stream=lambda: SimpleNamespace(free=int))
    gpu = BenchGpu(index=0, ordinal=0, uuid="GPU-0", name="")
    lab = StandInLab(gpus=(gpu,), level=level, seconds=0.5 if level is Level.SOAK else 0.01)
    assert sm_sweep.sweep(lab, device, CHAIN).details["wrong_sms"] == wrong


def test_the_clock_of_a_long_measurement_is_that_of_all_of_it(monkeypatch):
    at = [0.0]
    monkeypatch.setattr(tensor_pipe.time, "monotonic", lambda: at[0])

    class Slowing(FakeRunner):
        def run(self, stream, periods, count=1, repeats=None):
            at[0] += 0.0021 * count
            report = replace(GOOD, cycles=1_000_000 if at[0] < 45 else 2_000_000)
            return Run((0.002,) * count, ((report,),) * count, Verdict(0.0, True, {}))

    monkeypatch.setattr(tensor_chain, "Runner", Slowing)
    device = SimpleNamespace(cc=(9, 0), sm_count=12, stream=lambda: SimpleNamespace(free=int))
    gpu = BenchGpu(index=0, ordinal=0, uuid="GPU-0", name="")
    found = tensor_pipe.measure(StandInLab(gpus=(gpu,), level=Level.SOAK, seconds=100.0), device, CHAIN)
    assert found.details["operations_per_clock_and_sm"] == CHAIN.operations(10, CHAIN.repeats) / 1_000_000


def test_a_slow_multiprocessor_is_named():
    found = sm_sweep.judged(CHAIN, 8_000_000_000, 12, _runs(slow=7, by=0.08))
    assert found.details["slow_sms"] == "SM 7 (+0.0% cycles, +7.9% time)"
    assert (found.details["slowest_sm"], found.verified) == (7, True)


def test_clusters_whose_clocks_differ_as_on_a_healthy_gpu_are_not_slow():
    assert sm_sweep.judged(CHAIN, 8_000_000_000, 12, _runs(slow=7, by=0.03)).details["slow_sms"] == ""


def test_on_parts_that_we_never_ran_on_only_a_tenth_is_slow():
    runs = {by: _runs(slow=7, by=by) for by in (0.08, 0.15)}
    found = {by: sm_sweep.judged(CHAIN, 8_000_000_000, 12, each, known=False) for by, each in runs.items()}
    assert found[0.08].details["slow_sms"] == ""
    assert str(found[0.15].details["slow_sms"]).startswith("SM 7 (")


def test_a_wrong_multiprocessor_is_named_and_the_number_still_counts():
    found = sm_sweep.judged(CHAIN, 8_000_000_000, 12, _runs(wrong={3: "other sums than most"}))
    assert found.details["wrong_sms"] == "SM 3 (other sums than most)"
    assert (found.verified, found.invalid) == (True, "")


def test_wrong_sums_everywhere_make_the_number_void():
    assert not sm_sweep.judged(CHAIN, 8_000_000_000, 12, _runs(error=0.5)).verified


def test_a_multiprocessor_that_was_never_reached_makes_the_number_void():
    found = sm_sweep.judged(CHAIN, 8_000_000_000, 13, _runs())
    assert found.invalid == "1 of 13 multiprocessors were never given a block"
    assert not sm_sweep.enough(dict.fromkeys(range(12), 20), 13)
    assert not sm_sweep.enough({0: 20, 1: 9}, 2)
    assert sm_sweep.enough(dict.fromkeys(range(12), 10), 12)


def test_many_that_are_wrong_are_counted():
    assert tensor_chain.named(dict.fromkeys(range(20), "x")).endswith("SM 7 (x) and 12 more")


def test_the_clock_is_what_multiprocessors_counted():
    assert round(tensor_chain.clock_mhz([GOOD, GOOD, replace(GOOD, ns=500_000)]), 1) == 1666.7


def test_rates_are_those_of_the_model_and_estimates_say_so():
    chain = tensor_chain.wgmma("bf16")
    h100, h20 = (BenchGpu(index=0, ordinal=0, uuid="", name="", cc=(9, 0), model=find(id)) for id in ("2330", "2329"))
    assert tensor_chain.operations_per_clock(h100, chain)[0] == 4096
    assert tensor_chain.operations_per_clock(h20, chain)[0] == 1024
    unknown, source = tensor_chain.operations_per_clock(replace(h100, model=None), chain)
    assert unknown == 4096
    assert source.startswith("estimate")
    assert tensor_chain.operations_per_clock(replace(h100, model=None, cc=(13, 0)), chain) == (None, "")


def test_a_hot_gpu_makes_rates_void_but_not_what_is_counted_per_clock():
    hot = Conditions(seconds=1.0, throttled_ns={"hw_thermal_slowdown": 200_000_000})
    rate = Sampled(samples=(800.0,) * 10, unit="TFLOPS", verified=True)
    per_clock = replace(sm_sweep.judged(CHAIN, 8_000_000_000, 12, _runs()), limit=8192)
    assert "thermal" in validity.fault(rate, hot, ceilings=validity.Ceilings())
    assert validity.fault(per_clock, hot, ceilings=validity.Ceilings()) == ""


def _raw(**other: int) -> bytes:
    each = {"clock0": 5, "clock1": 1005, "ns0": 7, "ns1": 607, "word": 2**63 + 1, "sm": 131, "differing": 2, "stuck": 0}
    return struct.pack("<5Q4I", *{**each, "unwritten": 0, **other}.values())


def test_reports_are_read_as_the_kernels_write_them():
    assert tensor_chain.read_reports(CHAIN, _raw() + _raw(sm=0)) == (
        Report(sm=131, cycles=1000, ns=600, word=2**63 + 1, differing=2),
        Report(sm=0, cycles=1000, ns=600, word=2**63 + 1, differing=2),
    )


def test_a_block_that_did_not_run_or_got_stuck_is_an_error():
    with pytest.raises(HostcheckError, match="INT8 chain did not run on every multiprocessor"):
        tensor_chain.read_reports(CHAIN, _raw() + b"\xff" * 56)
    with pytest.raises(HostcheckError, match="got stuck"):
        tensor_chain.read_reports(CHAIN, _raw(stuck=1))


def test_the_bound_is_that_of_the_clock_that_was_counted():
    gpu = BenchGpu(index=0, ordinal=0, uuid="", name="", cc=(9, 0), model=find("2330"))
    limit, source = tensor_pipe.bound(gpu, tensor_chain.wgmma("bf16"), 132, 1600.0)
    assert limit == pytest.approx(132 * 1600e6 * 4096 / 1e12)
    assert source.startswith("132 SMs x 1600 MHz as counted x 4096 (")
    assert tensor_pipe.bound(gpu, tensor_chain.tcgen05("nvfp4"), 132, 1600.0) == (None, "")


def test_no_floor_is_held_against_a_part_that_we_never_ran_on():
    low = Sampled(samples=(70.0,) * 10, unit="TFLOPS", limit=100.0, limit_source="x", verified=True)
    found = tensor_pipe.unproven(low)
    assert (found.limit, found.limit_source, found.invalid) == (None, "", "")
    assert (found.details["of_bound"], found.details["bound"]) == (0.7, "x")


def test_nothing_is_above_the_limit_even_there():
    high = Sampled(samples=(105.0,) * 10, unit="TFLOPS", limit=100.0, limit_source="x", verified=True)
    assert tensor_pipe.unproven(high).invalid == "above the physical limit by 5% (x)"


def test_fp4_of_compute_capability_10_3_has_no_bound():
    gpu = BenchGpu(index=0, ordinal=0, uuid="", name="", cc=(10, 3))
    assert tensor_pipe.bound(gpu, tensor_chain.chains((10, 3))["nvfp4"], 148, 1900.0) == (None, "")
    assert tensor_pipe.bound(gpu, tensor_chain.chains((10, 3))["fp8"], 148, 1900.0)[0] is not None
