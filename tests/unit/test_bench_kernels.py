"""What is said of GPUs that this NVRTC does not compile for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hostcheck.bench import kernels
from hostcheck.errors import HostcheckError

# As NVRTC 13.5 and 12.8 tell them.
KNOWN = {13: [75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121], 12: [50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 90]}


class Nvrtc:
    """Stands in for cuda.bindings.nvrtc of a release of CUDA."""

    def __init__(self, major: int) -> None:
        self.nvrtcVersion = lambda: (0, major, 0)
        self.nvrtcGetSupportedArchs = lambda: (0, KNOWN[major])


@pytest.fixture(autouse=True)
def _another_nvrtc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", "/nowhere")
    yield
    kernels.nvrtc_version.cache_clear()


@pytest.mark.parametrize(
    ("major", "arch", "says"),
    [
        (13, "sm_70", "NVRTC 13.0 no longer knows sm_70, that of CUDA 12 does: pip install '.[bench-cu12]' in the"),
        (13, "sm_35", "NVRTC 13.0 no longer knows sm_35: this GPU is too old to be measured"),
        (12, "sm_35", "NVRTC 12.0 no longer knows sm_35: this GPU is too old to be measured"),
        (12, "sm_103a", "NVRTC 12.0 does not know sm_103a: install a newer one; pip install '.[bench]' in the"),
        (13, "sm_130a", "NVRTC 13.0 does not know sm_130a: install a newer one; pip install '.[bench]' in the"),
    ],
)
def test_a_gpu_that_the_compiler_does_not_know_says_which_one_does(
    major: int, arch: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A V100 was told to install a newer NVRTC, but it is CUDA 13 that dropped it."""
    monkeypatch.setattr(kernels, "_nvrtc", lambda: Nvrtc(major))
    kernels.nvrtc_version.cache_clear()
    with pytest.raises(HostcheckError) as caught:
        kernels.compiled("hold", arch)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)
