"""`Lab`: what a benchmark is given, whichever child process it runs in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from hostcheck.bench.model import Level
from hostcheck.gpu_table import GpuModel


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchGpu:
    """A GPU that takes part.

    Attributes:
        index: as nvidia-smi counts; its subject is "gpu" and this number.
        ordinal: as CUDA counts in this process (CUDA_VISIBLE_DEVICES holds UUIDs, CUDA_DEVICE_ORDER is PCI_BUS_ID).
        model: the row of the table of GPU models, None where it is not known.
        sm_count, cc: multiprocessors and compute capability (major, minor), as the driver says.
        sm_max_mhz, mem_max_mhz: maximum clocks that NVML tells.
        numa_node: of its PCI function; None where the host has no such thing.
    """

    index: int
    ordinal: int
    uuid: str
    name: str
    model: GpuModel | None = None
    sm_count: int = 0
    cc: tuple[int, int] = (0, 0)
    sm_max_mhz: float | None = None
    mem_max_mhz: float | None = None
    numa_node: int | None = None

    @property
    def subject(self) -> str:
        """Its name in findings."""
        return f"gpu{self.index}"


class Lab(Protocol):
    """The means of one benchmark: which devices, how long, how thorough.

    Attributes:
        gpus: those that take part; one for `Scope.GPU`, none for `Scope.HOST`.
        level: how thorough.
        seconds: what this benchmark may take; it plans its repetitions so that it ends by then.
        whole: whether all of `seconds` is to be used, since the user gave a duration.
        options: what the user set for it, such as {"path": "/scratch"}.
    """

    gpus: tuple[BenchGpu, ...]
    level: Level
    seconds: float
    whole: bool
    options: Mapping[str, str]

    @property
    def gpu(self) -> BenchGpu:
        """The only one."""
        ...

    def watch(self, *subjects: str) -> AbstractContextManager[None]:
        """Mark the timed part: clocks, power and counters are those between its begin and its end.

        What is yielded next gets them; without it, all since the last yield counts.

        Args:
            subjects: the GPUs that take part, where these are not all.
        """
        ...

    def wants(self, case: str) -> bool:
        """Whether a case is to be measured: all are, but where some were in doubt and are measured once more."""
        ...
