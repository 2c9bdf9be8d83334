"""Versions in file names and small files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.errors import NotApplicable, Unavailable
from hostcheck.facts.base import Facts
from hostcheck.facts.software import (
    CONTAINER_TOOLKIT,
    CTK_PROBE,
    CUDA_PROBE,
    KERNELS,
    KERNELS_PROBE,
    LIBRARIES,
    LIBRARIES_PROBE,
    PACKAGES_PROBE,
    TOOLKITS,
    kernel_order,
    parse_cuda_version,
    parse_toolkit_version,
)
from hostcheck.snapshot.reading import Ending, Entry, FileState, Manifest, Reading, Snapshot
from support import sample

LIB = "/usr/lib/x86_64-linux-gnu"


def snapshot(*readings: Reading) -> Facts:
    return Facts(Snapshot(Manifest(1, "test", "local", 0.0, 0.0, "host", 0), {r.probe: r for r in readings}))


def listing(links: dict[str, str]) -> Reading:
    entries = {path: Entry("l", target=target) if target else Entry("-") for path, target in links.items()}
    return Reading(LIBRARIES_PROBE.id, Ending.OK, asked=LIBRARIES_PROBE.paths, entries=entries)


def test_samples() -> None:
    assert parse_cuda_version(sample(parse_cuda_version)) == "13.0.2"
    assert parse_toolkit_version(sample(parse_toolkit_version)) == "1.17.8"
    assert parse_cuda_version("CUDA Version 10.2.89\n") == "10.2.89"


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"cuda": 12}', '{"cuda": {"version": 12}}', '{"cuda": {"version": "new"}}', "[" * 5000]
)
def test_what_names_no_toolkit_is_unavailable(text: str) -> None:
    with pytest.raises(Unavailable):
        parse_cuda_version(text)


def test_libraries() -> None:
    found = snapshot(
        listing(
            {
                f"{LIB}/libcuda.so.1": "libcuda.so.580.159.04",
                f"{LIB}/libcuda.so.580.159.04": "",
                f"{LIB}/libcuda.so.570.86.15": "",
                f"{LIB}/libnccl.so.2": "libnccl.so.2.28.3",
                f"{LIB}/libnccl.so.2.28.3": "",
                "/usr/local/cuda-13.0/compat/libcuda.so.590.44.01": "",
                f"{LIB}/libnvidia-ml.so.1": "",
            }
        )
    ).get(LIBRARIES)
    assert found.versions("cuda") == ("580.159.04", "570.86.15")
    assert [(file.version, file.linked) for file in found.of("cuda")] == [("580.159.04", True), ("570.86.15", False)]
    assert found.versions("nccl") == ("2.28.3",)
    assert found.versions("nvidia-ml") == (), "a single number is no version"
    assert found.compat == ("/usr/local/cuda-13.0",)


def test_a_toolkit_is_named_once_and_by_its_own_folder() -> None:
    text = FileState(Ending.OK, sample(parse_cuda_version).encode())
    files = {f"/usr/local/{name}/version.json": text for name in ("cuda", "cuda-13", "cuda-13.0")}
    old = {"/usr/local/cuda-10.2/version.txt": FileState(Ending.OK, b"CUDA Version 10.2.89\n")}
    broken = {"/usr/local/cuda-9/version.json": FileState(Ending.OK, b"{")}
    toolkits = snapshot(
        Reading(CUDA_PROBE.id, Ending.OK, asked=CUDA_PROBE.paths, files={**files, **old, **broken})
    ).get(TOOLKITS)
    assert [toolkit.subject for toolkit in toolkits] == ["cuda-10.2", "cuda-13.0", "cuda-9"]
    assert [toolkit.version for toolkit in toolkits[:2]] == ["10.2.89", "13.0.2"]
    assert isinstance(toolkits[2].version, Unavailable)


def ctk(ending: Ending, out: str = "") -> Reading:
    return Reading(CTK_PROBE.id, ending, 0 if ending is Ending.OK else None, out=out.encode())


def test_the_container_toolkit_speaks_for_itself() -> None:
    lib = listing({f"{LIB}/libnvidia-container.so.1.16.2": ""})
    assert snapshot(ctk(Ending.OK, sample(parse_toolkit_version)), lib).get(CONTAINER_TOOLKIT) == "1.17.8"
    assert snapshot(ctk(Ending.ABSENT), lib).get(CONTAINER_TOOLKIT) == "1.16.2"
    assert snapshot(ctk(Ending.TIMEOUT), lib).get(CONTAINER_TOOLKIT) == "1.16.2"
    with pytest.raises(NotApplicable):
        snapshot(ctk(Ending.ABSENT), listing({})).get(CONTAINER_TOOLKIT)
    with pytest.raises(Unavailable, match="timeout"):
        snapshot(ctk(Ending.TIMEOUT), listing({})).get(CONTAINER_TOOLKIT)


@pytest.mark.parametrize(
    ("version", "order"),
    [
        ("6.8.0-49-generic", ((6, 8, 0, 49), "generic")),
        ("6.8.0-1021-nvidia-64k", ((6, 8, 0, 1021), "nvidia-k")),
        ("5.14.0-427.13.1.el9_4.x86_64", ((5, 14, 0, 427, 13, 1), "el_.x")),
        ("5.14.0-503.11.1.el9_5.x86_64", ((5, 14, 0, 503, 11, 1), "el_.x")),
        ("6.1.0-28-amd64", ((6, 1, 0, 28), "amd")),
        ("6.18.44-fc-v445-gpu", ((6, 18, 44), "fc-v-gpu")),
        ("rescue", ((), "rescue")),
    ],
)
def test_kernels_are_compared_within_their_flavour(version: str, order: tuple[tuple[int, ...], str]) -> None:
    assert kernel_order(version) == order


def test_installed_kernels() -> None:
    paths = (
        "/boot/vmlinuz-6.8.0-45-generic",
        "/boot/vmlinuz-6.8.0-101-generic",
        "/boot/vmlinuz-0-rescue-9f3c4d",
        "/boot/vmlinuz-6.8.0-45-generic.old",
        "/lib/modules/6.8.0-99-generic/vmlinuz",
    )
    reading = Reading(
        KERNELS_PROBE.id, Ending.OK, asked=KERNELS_PROBE.paths, entries={path: Entry("-") for path in paths}
    )
    kernels = snapshot(reading).get(KERNELS)
    assert kernels.installed == ("6.8.0-45-generic", "6.8.0-99-generic", "6.8.0-101-generic")
    assert not kernels.reboot_required
    marked = Reading(
        KERNELS_PROBE.id, Ending.OK, asked=KERNELS_PROBE.paths, entries={"/run/reboot-required": Entry("-")}
    )
    state = FileState(Ending.OK, b"linux-base\nlinux-base\nlibc6\n")
    packages = Reading(PACKAGES_PROBE.id, Ending.OK, asked=PACKAGES_PROBE.paths, files={PACKAGES_PROBE.paths[0]: state})
    kernels = snapshot(marked, packages).get(KERNELS)
    assert kernels.reboot_required
    assert kernels.packages == ("libc6", "linux-base")


@pytest.mark.parametrize("parse", [parse_cuda_version, parse_toolkit_version, kernel_order])
@given(text=st.text())
def test_no_text_breaks_a_parser(parse: Callable[[str], object], text: str) -> None:
    with suppress(Unavailable):
        parse(text)


@given(cut=st.integers(0, 150), put=st.text(max_size=5))
def test_no_change_of_a_sample_breaks_its_parser(cut: int, put: str) -> None:
    for parse in (parse_cuda_version, parse_toolkit_version):
        text = sample(parse)
        with suppress(Unavailable):
            parse(text[:cut] + put + text[cut + 1 :])


@given(st.dictionaries(st.text(max_size=30).map(lambda name: f"{LIB}/lib{name}"), st.text(max_size=20)))
def test_no_file_name_breaks_the_libraries(links: dict[str, str]) -> None:
    assert snapshot(listing(links)).get(LIBRARIES) is not None
