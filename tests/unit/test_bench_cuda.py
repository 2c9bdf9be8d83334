"""What of the benchmarks without torch can be tested without a GPU: compiling, the cache, errors, what is counted."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench_lab import StandInLab
from hostcheck.bench import cuda, cuda_calls, kernels, mesh
from hostcheck.bench.hostmem import HostMemory
from hostcheck.bench.lab import BenchGpu
from hostcheck.bench.model import Level
from hostcheck.errors import HostcheckError, NotApplicable
from hostcheck.gpu_table import table
from hostcheck.microbench import copies, hbm, l2, links, pattern, peers, repeat

ARCHES = ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_103a", "sm_120"]
FILES = {
    "hold": {"hold"},
    "pattern": {"fill", "differ"},
    "hbm": {"read", "write", "copy", "triad", "check_read", "check_write", "check_triad"},
    "l2": {"read"},
    "launch": {"once"},
}
MODELS = {model.id: model for model in table().models}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hostcheck" / "kernels"


@pytest.fixture
def nvrtc():
    try:
        kernels.nvrtc_version()
    except HostcheckError as problem:
        (pytest.fail if "CI" in os.environ else pytest.skip)(f"kernels are not compiled here: {problem}")


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", sorted(FILES))
def test_every_kernel_compiles_without_a_gpu(name, arch, nvrtc):
    code = kernels.compiled(name, arch)
    assert code[:4] == b"\x7fELF"
    assert int.from_bytes(code[18:20], "little") == 190  # EM_CUDA: machine code, not PTX
    for function in FILES[name]:
        assert f".text.{function}\0".encode() in code


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100a"])
@pytest.mark.parametrize(
    ("name", "options"),
    sorted({("hbm", each.options()) for each in hbm.VARIANTS} | {("l2", each.options()) for each in l2.VARIANTS}),
)
def test_every_variant_compiles(name, options, arch, nvrtc):
    assert kernels.compiled(name, arch, options=options) != kernels.compiled(name, arch, options=("-DUNROLL=3",))


@pytest.mark.parametrize("name", sorted(FILES))
def test_kernels_need_no_header_of_cuda(name):
    source, headers = kernels.read_source(name)
    for text in (source, *headers.values()):
        assert "#include <" not in text


def test_the_newest_parts_get_what_only_they_have():
    made = {cc: kernels.arch_of(cc) for cc in ((8, 0), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0))}
    assert list(made.values()) == ["sm_80", "sm_89", "sm_90a", "sm_100a", "sm_103a", "sm_120a"]


# The cache


def test_a_second_time_nothing_is_compiled(cache, nvrtc, monkeypatch):
    first = kernels.compiled("hold", "sm_90a")
    assert [path.stat().st_mode & 0o777 for path in cache.iterdir()] == [0o600]
    monkeypatch.setattr(kernels, "_compile", lambda *_: pytest.fail("compiled again"))
    assert kernels.compiled("hold", "sm_90a") == first


@pytest.mark.parametrize("damage", [b"", b"x" * 10, b"\0" * 4000])
def test_a_damaged_entry_is_compiled_anew(cache, nvrtc, damage):
    first = kernels.compiled("hold", "sm_90a")
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(damage)
    assert kernels.compiled("hold", "sm_90a") == first
    assert kept.read_bytes() == whole


def test_one_flipped_bit_is_noticed(cache, nvrtc):
    first = kernels.compiled("hold", "sm_90a")
    (kept,) = cache.iterdir()
    whole = bytearray(kept.read_bytes())
    whole[-1] ^= 1
    kept.write_bytes(whole)
    assert kernels.compiled("hold", "sm_90a") == first


def test_a_pipe_in_place_of_an_entry_holds_nobody_up(cache, nvrtc):
    first = kernels.compiled("hold", "sm_90a")
    (kept,) = cache.iterdir()
    kept.unlink()
    os.mkfifo(kept)
    assert kernels.compiled("hold", "sm_90a") == first
    assert kept.is_file()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_what_somebody_else_put_there_is_not_run(cache, nvrtc, monkeypatch):
    kernels.compiled("hold", "sm_90a")
    (kept,) = cache.iterdir()
    os.chown(kept, 12345, 12345)
    kernels_compile = kernels._compile
    compiled: list[str] = []

    def compile(name, *args):
        compiled.append(name)
        return kernels_compile(name, *args)

    monkeypatch.setattr(kernels, "_compile", compile)
    kernels.compiled("hold", "sm_90a")
    assert compiled == ["hold"]
    assert kept.stat().st_uid == 0


def test_a_cache_that_cannot_be_written_is_no_error(cache, nvrtc):
    cache.parent.parent.mkdir(parents=True)
    cache.parent.write_text("a file where a folder should be")
    assert kernels.compiled("hold", "sm_90a")[:4] == b"\x7fELF"
    assert cache.parent.read_text() == "a file where a folder should be"


def test_a_full_disk_leaves_nothing_half(cache, nvrtc, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert kernels.compiled("hold", "sm_90a")[:4] == b"\x7fELF"
    assert list(cache.iterdir()) == []


def test_all_that_matters_is_in_the_key(cache, monkeypatch):
    compiled: list[tuple[object, ...]] = []

    def compile(*args: object) -> bytes:
        compiled.append(args)
        return b"\x7fELF" + bytes([len(compiled)])

    monkeypatch.setattr(kernels, "_compile", compile)
    monkeypatch.setattr(kernels, "nvrtc_version", lambda: (13, 0))

    def get(name="hold", arch="sm_90a", **more):
        return kernels.compiled(name, arch, **more)

    get(), get()
    assert len(compiled) == 1
    get(arch="sm_80"), get(driver="13.0"), get(options=("-DUNROLL=2",)), get("launch")
    assert len(compiled) == 5
    monkeypatch.setattr(kernels, "nvrtc_version", lambda: (13, 1))
    get()
    assert len(compiled) == 6
    source, headers = kernels.read_source("hold")
    monkeypatch.setattr(kernels, "read_source", lambda _: (source + " ", headers))
    get()
    monkeypatch.setattr(kernels, "read_source", lambda _: (source, {**headers, "pattern.cuh": ""}))
    get()
    assert len(compiled) == 8


def test_a_user_without_a_home_has_no_cache(monkeypatch, nvrtc):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert kernels.folder() is None
    assert kernels.compiled("hold", "sm_90a")[:4] == b"\x7fELF"


# What a user can cause


def one_line(problem: BaseException) -> str:
    text = str(problem)
    assert isinstance(problem, HostcheckError)
    assert text
    assert "\n" not in text
    return text


def test_without_cuda_bindings_it_says_how_to_get_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    cuda_calls.driver.cache_clear()
    kernels.nvrtc_version.cache_clear()
    with pytest.raises(HostcheckError) as caught:
        cuda.Device()
    assert "pip install '.[bench]' in the checkout" in one_line(caught.value)
    with pytest.raises(HostcheckError) as caught:
        kernels.compiled("hold", "sm_90a")
    assert "pip install '.[bench]' in the checkout" in one_line(caught.value)


def test_without_the_compiler_it_says_how_to_get_it(monkeypatch):
    class Bound:
        def nvrtcVersion(self):  # noqa: N802
            raise RuntimeError("Failed to dlopen libnvrtc.so.12\nand more")

    kernels.nvrtc_version.cache_clear()
    monkeypatch.setattr(kernels, "_nvrtc", Bound)
    with pytest.raises(HostcheckError) as caught:
        kernels.compiled("hold", "sm_90a")
    text = one_line(caught.value)
    assert "libnvrtc.so.12" in text
    assert "pip install '.[bench]' in the checkout" in text
    kernels.nvrtc_version.cache_clear()


def test_a_gpu_that_the_compiler_does_not_know_is_named(nvrtc):
    with pytest.raises(HostcheckError) as caught:
        kernels.compiled("hold", "sm_999a")
    assert "does not know sm_999a" in one_line(caught.value)


def test_a_kernel_that_does_not_compile_shows_the_log(nvrtc):
    with pytest.raises(ValueError, match=r"hbm\.cu does not compile for sm_90a(.|\n)*error"):
        kernels.compiled("hbm", "sm_90a", options=("-DUNROLL=x",))


def test_without_a_driver_it_is_one_line():
    program = (
        "from hostcheck.bench.cuda import Device\nfrom hostcheck.bench.cuda_calls import CudaError\n"
        "try: Device()\nexcept CudaError as problem: print(problem)"
    )
    pytest.importorskip("cuda.bindings")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    if said:  # else there is a GPU
        assert len(said) == 1
        assert "no NVIDIA driver" in said[0] or "NO_DEVICE" in said[0]
    assert done.stderr == ""


def test_every_error_that_has_an_advice_exists():
    driver = pytest.importorskip("cuda.bindings.driver")
    for name in cuda_calls._ADVICE:
        assert hasattr(driver.CUresult, f"CUDA_ERROR_{name}"), name


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("CUDA_ERROR_NO_BINARY_FOR_GPU", "bench-cu12"),
        ("CUDA_ERROR_SYSTEM_NOT_READY", "nvidia-fabricmanager"),
        ("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "reboot"),
        ("CUDA_ERROR_DEVICE_UNAVAILABLE", "compute mode"),
        ("CUDA_ERROR_ECC_UNCORRECTABLE", "drain"),
        ("CUDA_ERROR_INVALID_HANDLE", "cuCall: INVALID_HANDLE"),
    ],
)
def test_an_error_of_the_driver_says_what_to_do(status, expected):
    driver = pytest.importorskip("cuda.bindings.driver")
    problem = cuda_calls.failed("cuCall", getattr(driver.CUresult, status))
    assert expected in one_line(problem)
    assert problem.name == status.removeprefix("CUDA_ERROR_")


@pytest.mark.parametrize("name", ["cuMemHostRegister", "cuMemHostAlloc"])
def test_pinned_memory_that_cannot_be_had_is_not_the_gpus(name):
    driver = pytest.importorskip("cuda.bindings.driver")
    problem = cuda_calls.failed(name, driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY)
    assert one_line(problem) == f"{name}: OUT_OF_MEMORY: see the free memory of the host and ulimit -l"
    assert "GPU's memory is full" in one_line(cuda_calls.failed("cuMemAlloc", driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY))


def test_a_function_that_the_driver_does_not_have(monkeypatch):
    class Bound:
        def cuNew(self):  # noqa: N802
            raise RuntimeError('Function "cuNew" not found')

    monkeypatch.setattr(cuda_calls, "driver", Bound)
    with pytest.raises(cuda_calls.CudaError, match=r"driver is too old.*cuNew"):
        cuda_calls.call("cuNew")


# What is counted


@pytest.mark.parametrize("l2_mib", [0, 4, 40, 50, 126, 192])
def test_buffers_are_far_larger_than_the_cache(l2_mib):
    size = hbm.size_of(SimpleNamespace(l2_bytes=l2_mib * 2**20))
    assert size >= 2**30
    assert size >= 8 * l2_mib * 2**20
    assert size % (16 * max(variant.unroll * variant.threads for variant in hbm.VARIANTS)) == 0


@pytest.mark.parametrize("l2_bytes", [0, 6 * 2**20, 52428800, 132120576])
def test_the_cache_test_stays_in_the_cache(l2_bytes):
    size = l2.size_of(SimpleNamespace(l2_bytes=l2_bytes))
    assert size <= max(l2._TILE, l2_bytes // 4)
    for variant in l2.VARIANTS:
        assert size % (16 * variant.unroll * variant.threads) == 0


@pytest.mark.parametrize("variant", hbm.VARIANTS, ids=str)
def test_a_grid_covers_every_tile(variant):
    vectors = 2**30 // 16
    grid = variant.grid(SimpleNamespace(sm_count=132), vectors)
    tile = variant.unroll * variant.threads
    assert grid * tile >= vectors if variant.blocks == 0 else grid <= variant.blocks * 132
    assert vectors % tile == 0


def test_the_limit_is_that_of_the_datasheet_with_its_source():
    known = BenchGpu(index=0, ordinal=0, uuid="GPU-0", name="H100", model=MODELS["h100-sxm5-80gb"])
    assert hbm.limit_of(known)[0] == 3352
    assert "H100" in hbm.limit_of(known)[1]
    assert hbm.limit_of(BenchGpu(index=0, ordinal=0, uuid="GPU-0", name="new")) == (None, "")


def test_words_of_the_pattern_are_ordinary_floats_without_repetition():
    words = [pattern.word(index, 1) for index in range(20000)]
    assert len(set(words)) > 19900
    assert all(2.0**-7 <= abs(pattern.as_float(word)) < 2 for word in words)
    assert sum(word >> 31 for word in words) == pytest.approx(10000, abs=500)
    assert pattern.word(2**32 + 5, 1) != pattern.word(5, 1)
    assert pattern.NEVER not in words
    assert copies.POISON * 0x01010101 not in words


def test_the_expected_triad_is_rounded_once():
    for index in range(2000):
        b, c = (pattern.as_float(pattern.word(index, seed)) for seed in hbm.SEEDS)
        assert Fraction(b + hbm.SCALE * c) == Fraction(b) + Fraction(hbm.SCALE) * Fraction(c)


def test_lanes_carry_what_the_standard_says():
    assert {generation: round(16 * lane, 1) for generation, lane in links.LANE_GBS.items()} == {
        1: 4.0, 2: 8.0, 3: 15.8, 4: 31.5, 5: 63.0, 6: 121.0,
    }  # fmt: skip


class Library:
    """NVML with what a GPU answers, always the same or by what it is asked for."""

    NVML_NVLINK_MAX_LINKS = 18

    def __init__(self, answers):
        self.answers = answers

    def __getattr__(self, name):
        def ask(*asked):
            if name not in self.answers:
                raise RuntimeError(f"{name} is not supported")
            answer = self.answers[name]
            return answer(*asked) if callable(answer) else answer

        return ask


def with_nvml(monkeypatch, **answers):
    mesh.far_ends.cache_clear()
    monkeypatch.setitem(sys.modules, "pynvml", Library({"nvmlInit": None, "nvmlDeviceGetHandleByUUID": 1, **answers}))


def test_the_link_to_the_host_is_the_negotiated_one(monkeypatch):
    gpu = BenchGpu(index=0, ordinal=0, uuid="GPU-0", name="H100", model=MODELS["h100-sxm5-80gb"])
    with_nvml(monkeypatch, nvmlDeviceGetCurrPcieLinkGeneration=4, nvmlDeviceGetCurrPcieLinkWidth=8)
    limit, source = links.host_link(gpu)
    assert limit == pytest.approx(15.75, abs=0.01)
    assert source == "PCIe 4.0 x8, as negotiated (NVML)"
    with_nvml(monkeypatch)
    assert links.host_link(gpu)[0] == 63
    assert links.host_link(BenchGpu(index=0, ordinal=0, uuid="GPU-0", name="new")) == (None, "")


def test_a_superchip_copies_over_its_own_link(monkeypatch):
    model, link = next((model, model.c2c) for model in MODELS.values() if model.c2c is not None)
    with_nvml(monkeypatch, nvmlDeviceGetCurrPcieLinkGeneration=4, nvmlDeviceGetCurrPcieLinkWidth=1)
    limit, _ = links.host_link(BenchGpu(index=0, ordinal=0, uuid="GPU-0", name="GH200", model=model))
    assert limit == link.per_dir_gbs


def test_peers_over_nvlink_have_its_limit_and_others_that_of_pcie(monkeypatch):
    known = BenchGpu(index=0, ordinal=0, uuid="GPU-0", name="H100", model=MODELS["h100-sxm5-80gb"])
    new = BenchGpu(index=1, ordinal=1, uuid="GPU-1", name="new")
    with_nvml(monkeypatch, nvmlDeviceGetP2PStatus=0)
    assert links.peer_link(known, known)[:2] == ("nvlink", 450)
    assert links.peer_link(new, new) == ("nvlink", None, "")
    card = BenchGpu(index=2, ordinal=2, uuid="GPU-2", name="H100 NVL", model=MODELS["h100-nvl-94gb"])
    assert links.peer_link(card, card) == ("nvlink", None, ""), "of which nobody knows how many bridges it has"
    with_nvml(monkeypatch, nvmlDeviceGetP2PStatus=5)
    assert links.peer_link(known, new)[:2] == ("pcie", 63)
    with_nvml(monkeypatch)
    assert links.peer_link(known, known) == ("", None, "")


GPU, SWITCH, HIDDEN = 0, 2, 255


def meshed(monkeypatch, model, ends, **answers):
    """Return the link from the first of two GPUs to the second, which is at bus 1, and how often NVML was asked."""
    asked: list[tuple[str, int]] = []

    def kind(_, link):
        asked.append(("kind", link))
        return ends[link][0]

    def remote(_, link):
        asked.append(("address", link))
        return SimpleNamespace(domain=0, bus=ends[link][1], device=0)

    with_nvml(
        monkeypatch,
        nvmlDeviceGetP2PStatus=0,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetPciInfo=lambda uuid: SimpleNamespace(domain=0, bus=int(uuid[-1]), device=0),
        nvmlDeviceGetFieldValues=lambda _, numbers: [
            SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal={91: len(ends), 164: 26562}[numbers[0]]))
        ],
        **{"nvmlDeviceGetNvLinkRemoteDeviceType": kind, "nvmlDeviceGetNvLinkRemotePciInfo": remote, **answers},
    )
    first, second = (
        BenchGpu(index=number, ordinal=number, uuid=f"GPU-{number}", name="GPU", model=MODELS.get(model))
        for number in (0, 1)
    )
    return links.peer_link(first, second), links.peer_link(first, second), asked


@pytest.mark.parametrize(
    ("model", "ends", "limit"),
    [
        ("a100-sxm4-40gb", [(GPU, 1 + number % 3) for number in range(12)], 100),
        ("h100-sxm5-80gb", [(GPU, 1 + number % 3) for number in range(18)], 150),
        ("gh200-96gb", [(GPU, 1 + number % 3) for number in range(18)], 150),
        ("", [(GPU, 1 + number % 3) for number in range(18)], 150),
        ("h100-nvl-94gb", [(GPU, 1)] * 12, 300),
        ("h100-sxm5-80gb", [(SWITCH, 9)] * 18, 450),
        ("gh200-96gb", [(SWITCH, 9)] * 18, 450),
        ("", [(SWITCH, 9)] * 18, 450),
        ("h200-sxm5-141gb", [(HIDDEN, 0xFF)] * 18, 450),
        ("h200-sxm5-141gb", [], 450),
        ("h200-sxm5-141gb", [(GPU, 7)] * 18, None),
        ("gh200-96gb", [], None),
        ("", [], None),
    ],
)
def test_over_nvlink_only_links_that_lead_to_the_other_count(model, ends, limit, monkeypatch):
    first, second, asked = meshed(monkeypatch, model, ends)
    assert first == second
    assert first[0] == "nvlink"
    assert first[1] == (None if limit is None else pytest.approx(limit, rel=0.001))
    assert ("links that lead there" in first[2]) == (limit in (100, 150, 300))
    assert len(asked) == len(set(asked)), "each link once, however many pairs there are"
    assert ends[:1] != [(SWITCH, 9)] or asked == [("kind", 0)], "one tells of all"


def test_a_driver_that_tells_no_kinds_tells_the_addresses(monkeypatch):
    def refuse(*_):
        raise RuntimeError("Function Not Found")

    ends = [(GPU, 1 + number % 3) for number in range(18)]
    found, *_ = meshed(monkeypatch, "h100-sxm5-80gb", ends, nvmlDeviceGetNvLinkRemoteDeviceType=refuse)
    assert found[1] == pytest.approx(150)
    switches = [(GPU, 8 + number % 4) for number in range(18)]
    found, *_ = meshed(monkeypatch, "h100-sxm5-80gb", switches, nvmlDeviceGetNvLinkRemoteDeviceType=refuse)
    assert found[1] == 450, "they are of switches, for all that is known"


# How often, and from where


def test_the_warm_up_is_not_among_the_samples():
    lab = StandInLab(seconds=0.05)
    asked: list[int] = []

    def batch(count):
        asked.append(count)
        return [1e-3 if lab.watched else 9.0] * count

    samples = repeat.repeated(lab, batch)
    assert set(samples) == {1e-3}
    assert lab.watched == 1
    assert max(asked) <= 100


def test_a_long_run_of_short_work_has_a_bounded_number_of_samples(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(repeat.time, "monotonic", lambda: clock[0])

    def batch(count):
        clock[0] += count * 1e-3
        return [1e-3] * count

    samples = repeat.repeated(StandInLab(level=Level.SOAK, seconds=100.0), batch)
    assert 900 <= len(samples) <= 1100
    assert samples[0] == pytest.approx(1e-3)


@pytest.fixture
def clock(monkeypatch):
    """A clock that only work moves."""
    at = [0.0]
    monkeypatch.setattr(repeat.time, "monotonic", lambda: at[0])
    return at


def test_the_output_of_long_work_is_looked_at_again_and_again_and_one_wrong_word_counts(clock):
    looks = []
    inside = [False]

    class Watching(StandInLab):
        @contextmanager
        def watch(self, *subjects):
            inside[0] = True
            yield
            inside[0] = False

    def batch(count):
        clock[0] += count * 1e-3
        return [1e-3] * count

    def once():
        assert not inside[0], "neither is the looking measured, nor what the GPU did meanwhile"
        looks.append(clock[0])
        return 2e-3

    proof = repeat.Proof(once, lambda: len(looks) == 3)
    samples = repeat.repeated(Watching(level=Level.SOAK, seconds=100.0), batch, proof=proof)
    assert looks == pytest.approx([10, 20, 30, 40, 50, 60], abs=0.5)
    assert samples.count(2e-3) == 6
    assert not proof.is_right, "it was wrong in the middle, and right at the end"


@pytest.mark.parametrize(("level", "whole", "took"), [("QUICK", False, 0.3), ("QUICK", True, 36), ("SOAK", False, 36)])
def test_all_of_the_time_is_used_where_the_user_gave_it_or_soaks(level, whole, took, clock):
    lab = StandInLab(level=Level[level], seconds=60.0)
    lab.whole = whole

    def batch(count):
        clock[0] += count * 1e-3
        return [1e-3] * count

    repeat.repeated(lab, batch)
    assert clock[0] == pytest.approx(took, rel=0.5)


def test_slow_work_has_few_samples_but_some(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(repeat.time, "monotonic", lambda: clock[0])

    def batch(count):
        clock[0] += count * 0.2
        return [0.2] * count

    assert len(repeat.repeated(StandInLab(seconds=1.0), batch)) == 10


def nodes(root, *, cpus="0-1", memory="0-1", online="0-1", distance="10 21") -> str:
    folder = root / "sys/devices/system/node"
    (folder / "node0").mkdir(parents=True)
    (folder / "online").write_text(f"{online}\n")
    (folder / "has_memory").write_text(f"{memory}\n")
    (folder / "has_cpu").write_text(f"{cpus}\n")
    (folder / "node0/distance").write_text(f"{distance}\n")
    return str(root)


def test_the_farthest_node_is_found(tmp_path):
    assert copies.far_node(0, nodes(tmp_path / "two")) == 1
    four = nodes(tmp_path / "four", cpus="0-3", memory="0-3", online="0-3", distance="10 12 32 20")
    assert copies.far_node(0, four) == 2


def test_memory_of_a_gpu_or_a_node_without_memory_is_not_far_memory(tmp_path):
    assert copies.far_node(0, nodes(tmp_path / "gpu", cpus="0")) is None
    assert copies.far_node(0, nodes(tmp_path / "bare", memory="0")) is None
    assert copies.far_node(0, nodes(tmp_path / "one", cpus="0", memory="0", online="0", distance="10")) is None
    assert copies.far_node(0, str(tmp_path / "nothing")) is None


def test_a_longer_run_also_copies_small_blocks():
    gpu = BenchGpu(index=0, ordinal=0, uuid="GPU-0", name="H100")
    quick = copies.cases(StandInLab(gpus=(gpu,)))
    assert [case.name for case in quick] == ["pinned", "pageable"]
    standard = copies.cases(StandInLab(gpus=(gpu,), level=Level.STANDARD))
    assert [case.name for case in standard][2:] == ["pinned 4 KiB", "pinned 64 KiB", "pinned 1 MiB", "pinned 16 MiB"]


def test_memory_of_the_host_tells_where_it_lies():
    memory = HostMemory(8 * 2**20)
    assert memory.view[12345] == 0x5A
    assert ctypes.string_at(memory.pointer, 4) == b"\x5a" * 4
    placed = memory.nodes()
    assert placed is None or all(node >= 0 for node in placed)
    memory.free()
    memory.free()


def test_memory_can_be_had_from_a_chosen_node():
    memory = HostMemory(2**20, 0)
    assert memory.nodes() in ({0}, None)
    memory.free()


def test_one_gpu_has_no_peers():
    lab = StandInLab(gpus=(BenchGpu(index=0, ordinal=0, uuid="GPU-0", name="H100"),))
    for function in (peers.copy, peers.both, peers.everyone):
        with pytest.raises(NotApplicable, match="only one GPU"):
            list(function(lab))


@pytest.mark.parametrize(("name", "times"), [("read", 1), ("write", 1), ("copy", 2), ("triad", 3)])
def test_what_is_loaded_and_what_is_stored_counts(name, times, monkeypatch):
    monkeypatch.setattr(pattern, "fill", lambda *_: None)
    device = SimpleNamespace(sm_count=132, alloc=lambda size: SimpleNamespace(size=size))
    task = hbm.TASKS[name](device, SimpleNamespace(), 2**30)
    assert task.moved == times * 2**30


def test_all_copies_at_once_are_waited_for_before_their_times_are_read(monkeypatch):
    """On four H200 a stream began only after another stream of its GPU had ended: NOT_READY."""
    passed = set()

    class FakeStream:
        def __init__(self, number):
            self.number = number

        @contextmanager
        def hold(self):
            yield
            self.synchronize()

        def mark(self):
            return self.number

        def wait(self, event):
            pass

        def synchronize(self):
            passed.add(self.number)

    def between(first, second):
        assert {first, second} <= passed
        return 0.5 + second

    monkeypatch.setattr(cuda, "between", between)
    monkeypatch.setattr(cuda, "discard", lambda marks: None)
    sender = SimpleNamespace(ordinal=0)
    lanes = [SimpleNamespace(direct=True, sender=sender, copy=int, stream=FakeStream(number)) for number in range(3)]
    assert peers.at_once(lanes) == 2.5


@pytest.mark.parametrize(
    ("ends", "counted", "rate", "limit"),
    [
        ([(0, 1)], 1, 1.0, 450.0),
        ([(0, 1), (1, 0)], 2, 2.0, 900.0),
        ([(first, second) for first in range(8) for second in range(8) if first != second], 7, 7.0, 450.0),
    ],
    ids=["one way", "both ways", "all of eight"],
)
def test_peers_count_what_their_limit_counts(ends, counted, rate, limit, monkeypatch):
    wrong, path = [0], ["one switch"]

    def lane(first):
        return SimpleNamespace(
            sender=SimpleNamespace(ordinal=first),
            limit=450.0,
            limit_source="datasheet",
            transport="pcie",
            path=path[0],
            direct=True,
            ends=("gpu0", "gpu1"),
            size=2**20,
            poison=lambda: None,
            wrong=lambda: wrong[0],
        )

    def measure():
        lanes = [lane(first) for first, _ in ends]
        (sampled,) = peers._measure(StandInLab(seconds=0.01), lanes, "subject", 1, counted=counted, rule="rule")
        return sampled

    monkeypatch.setattr(peers, "at_once", lambda lanes: 2**20 / 1e9)
    sampled = measure()
    assert sampled.samples[0] == pytest.approx(rate)
    assert sampled.limit == pytest.approx(limit)
    assert sampled.verified
    assert sampled.settings["path"] == "one switch", "others take another, and are no equals"
    path[0] = ""
    assert "path" not in measure().settings
    wrong[0] = 1
    assert not measure().verified


@pytest.mark.parametrize(
    ("ways", "size"), [(("nvlink", "nvlink"), peers.SIZE), (("nvlink", "pcie"), peers.SMALL), (("", ""), peers.SMALL)]
)
def test_over_pcie_less_is_copied_at_a_time(ways, size, monkeypatch):
    """56 pairs of 8 cards at 12 GB/s and 512 MiB took half a minute."""
    of = dict(zip((1, 2), ways, strict=True))
    monkeypatch.setattr(peers, "peer_link", lambda one, other: (of[other.index], None, ""))
    monkeypatch.setattr(cuda, "Device", lambda ordinal: ExitStack())
    gpus = tuple(BenchGpu(index=number, ordinal=number, uuid=f"GPU-{number}", name="") for number in range(3))
    assert peers._open(StandInLab(gpus=gpus), ExitStack()).size == size


def test_pairs_with_links_of_several_kinds_have_the_limit_of_one_after_the_other():
    def lane(first, second):
        return SimpleNamespace(sender=SimpleNamespace(ordinal=first), limit=50.0 if first + second == 1 else 450.0)

    every = [lane(first, second) for first in range(4) for second in range(4) if first != second]
    assert peers._limit(every, 3) == pytest.approx(3 / (1 / 50 + 2 / 450))
    assert peers._limit([*every, SimpleNamespace(limit=None)], 3) is None
