"""What the links of a GPU can carry at most, as the link itself says or as the table of models does."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hostcheck.bench.mesh import GPU, SWITCH, address_of, far_ends

if TYPE_CHECKING:
    from hostcheck.bench.lab import BenchGpu

# One lane in one direction, GB/s, by generation: transfers a second, less what the encoding of the line takes.
LANE_GBS = {
    1: 2.5 * 8 / 10 / 8,
    2: 5 * 8 / 10 / 8,
    3: 8 * 128 / 130 / 8,
    4: 16 * 128 / 130 / 8,
    5: 32 * 128 / 130 / 8,
    6: 64 * 242 / 256 / 8,
}

_LINK_COUNT, _LINK_MBS = 91, 164  # NVML_FI_DEV_NVLINK_LINK_COUNT, NVML_FI_DEV_NVLINK_GET_SPEED
# NVML tells the rate of the line; of 17 bits on it 16 are data.
_LINE_SHARE = 16 / 17


# NVML_TOPOLOGY_*
_PATHS = {
    0: "one card", 10: "one switch", 20: "several switches", 30: "one host bridge", 40: "one NUMA node",
    50: "between NUMA nodes",
}  # fmt: skip


class Nvml:
    """NVML for as long as it is asked; what it does not tell is None."""

    def __enter__(self) -> Nvml:
        self._library: Any = None
        with suppress(Exception):
            import pynvml

            pynvml.nvmlInit()
            self._library = pynvml
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(Exception):
            self._library.nvmlShutdown()

    def ask(self, function: str, gpu: BenchGpu, *arguments: Any) -> Any:
        """Call a function about a GPU; None where it is refused."""
        with suppress(Exception):
            handle = self._library.nvmlDeviceGetHandleByUUID(gpu.uuid)
            return getattr(self._library, function)(handle, *arguments)
        return None

    def handle(self, gpu: BenchGpu) -> Any:
        """Return the handle of a GPU."""
        with suppress(Exception):
            return self._library.nvmlDeviceGetHandleByUUID(gpu.uuid)
        return None

    def field(self, gpu: BenchGpu, number: int) -> int | None:
        """Return a field value that is an integer."""
        with suppress(Exception):
            (value,) = self.ask("nvmlDeviceGetFieldValues", gpu, [number])
            if value.nvmlReturn == 0:
                return int(value.value.uiVal)
        return None


def host_link(gpu: BenchGpu) -> tuple[float | None, str]:
    """Return what the link to the host carries in one direction, GB/s, and whence that is known.

    An idle link is slower: to be asked while something is copied.
    """
    if gpu.model is not None and gpu.model.c2c is not None:
        return gpu.model.c2c.per_dir_gbs, _cite(gpu, "c2c")
    with Nvml() as nvml:
        generation = nvml.ask("nvmlDeviceGetCurrPcieLinkGeneration", gpu)
        width = nvml.ask("nvmlDeviceGetCurrPcieLinkWidth", gpu)
    if generation in LANE_GBS and width:
        return LANE_GBS[generation] * width, f"PCIe {generation}.0 x{width}, as negotiated (NVML)"
    if gpu.model is not None and gpu.model.pcie is not None:
        return gpu.model.pcie.per_dir_gbs, _cite(gpu, "pcie")
    return None, ""


def peer_link(first: BenchGpu, second: BenchGpu) -> tuple[str, float | None, str]:
    """Return over what two GPUs with peer access reach each other ("nvlink", "pcie" or ""), its limit and its source.

    The limit is that of one GPU in one direction, GB/s. Behind a switch all of its NVLinks lead to each other GPU;
    without one, only those count that lead to this one.
    """
    with Nvml() as nvml:
        other = nvml.handle(second)
        status = None if other is None else nvml.ask("nvmlDeviceGetP2PStatus", first, other, 2)  # over NVLink
        if status == 0:
            return ("nvlink", *_nvlink(nvml, first, second))
    if status is None:
        return "", None, ""
    limits = [each for each in (host_link(first), host_link(second)) if each[0] is not None]
    return ("pcie", *min(limits)) if limits else ("pcie", None, "")


def _nvlink(nvml: Nvml, first: BenchGpu, second: BenchGpu) -> tuple[float | None, str]:
    """Return what NVLink carries from one GPU to another, and whence that is known.

    Where NVML does not tell what is at the far ends, as in virtual machines, a model that has NVLink in each build is
    taken to be behind a switch; of others there is no limit rather than a wrong one.
    """
    link = None if first.model is None else first.model.nvlink
    ends = far_ends(first.uuid)
    there = nvml.ask("nvmlDeviceGetPciInfo", second)
    straight = 0 if there is None else sum(address == address_of(there) for _, address in ends)
    kinds = {kind for kind, _ in ends}
    if not straight and SWITCH not in kinds and (GPU in kinds or link is None or link.optional):
        return None, ""
    if link is not None and straight:
        said = f"{straight} links that lead there, {_cite(first, 'nvlink')}"
        return link.per_dir_gbs * straight / (link.links or len(ends)), said
    if link is not None:
        return link.per_dir_gbs, _cite(first, "nvlink")
    links, speed = straight or nvml.field(first, _LINK_COUNT), nvml.field(first, _LINK_MBS)
    if links and speed:
        only = " that lead there" if straight else ""
        return links * speed * _LINE_SHARE / 1e3, f"{links} links{only} of {speed} MB/s on the line (NVML)"
    return None, ""


def path_between(first: BenchGpu, second: BenchGpu) -> str:
    """Return what two GPUs share of the way over PCIe, such as "one switch"; empty where NVML does not tell.

    Between some pairs of equal cards there is one switch and between others the whole host, with other rates.
    """
    with Nvml() as nvml:
        other = nvml.handle(second)
        level = None if other is None else nvml.ask("nvmlDeviceGetTopologyCommonAncestor", first, other)
    return _PATHS.get(level, "") if isinstance(level, int) else ""


def _cite(gpu: BenchGpu, group: str) -> str:
    from hostcheck.gpu_table import table

    assert gpu.model is not None
    return table().cite(gpu.model.source.get(group, ()))
