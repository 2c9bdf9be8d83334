"""Tensor-pipe chains on a real GPU. Where there is none, these tests are skipped and say so."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import pytest

import bench_lab
from hostcheck.bench.cuda import Device
from hostcheck.bench.model import Level
from hostcheck.microbench import sm_sweep, tensor_chain, tensor_operands, tensor_pipe

FAULTY = 17


@pytest.fixture(scope="module")
def gpu():
    pytest.importorskip("cuda.bindings")
    found = bench_lab.gpus()
    if not found:
        pytest.skip("no GPU here")
    return found[0]


@pytest.fixture(scope="module")
def device(gpu):
    with Device(gpu.ordinal) as device:
        yield device


@pytest.fixture(params=sorted(tensor_operands.FORMATS))
def chain(request, device):
    known = tensor_chain.chains(device.cc)
    if request.param not in known:
        pytest.skip("this part has no such format")
    return known[request.param]


def lab(gpu, level=Level.QUICK):
    return bench_lab.StandInLab(gpus=(gpu,), level=level, seconds=3.0)


def test_the_pipe_is_full_and_right(chain, gpu, device):
    found = tensor_pipe.measure(lab(gpu), device, chain)
    assert found.verified
    assert found.details.get("wrong_sms") is None
    if found.limit is not None:
        assert 0.95 <= median(found.samples) / found.limit <= 1.01


def test_a_healthy_gpu_has_no_multiprocessor_that_stands_out(chain, gpu, device):
    found = sm_sweep.sweep(lab(gpu), device, chain)
    assert (found.verified, found.invalid) == (True, "")
    assert (found.details["wrong_sms"], found.details["slow_sms"]) == ("", "")
    assert found.details["multiprocessors"] == device.sm_count


def test_one_faulty_multiprocessor_is_named(chain, gpu, device):
    options = (*chain.options, f"-DFAULTY_SM={FAULTY}", "-DFAULTY_SLEEP_NS=100000")
    found = sm_sweep.sweep(lab(gpu), device, replace(chain, options=options))
    assert str(found.details["wrong_sms"]).startswith(f"SM {FAULTY} (sums changed 1 times)")
    assert str(found.details["slow_sms"]).startswith(f"SM {FAULTY} (")
    assert "," not in str(found.details["wrong_sms"])
    assert found.verified


def test_another_operand_is_found(chain, device):
    stream = device.stream()
    runner = tensor_chain.Runner(device, chain)
    assert runner.run(stream, 2, repeats=1).verdict.right
    operand = runner.operands[0]
    operand.upload(bytes(byte ^ 0xFF for byte in operand.download(0, 8)))
    assert not runner.run(stream, 2, repeats=1).verdict.right
    runner.free()
