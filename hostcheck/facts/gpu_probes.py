"""The two slow probes of the driver, apart from what parses them, so that they can be started before that is loaded."""

from __future__ import annotations

from hostcheck.snapshot.probes import MIB, NVIDIA_DRIVER, CommandProbe

# Without persistence every GPU is initialised for the query, up to 3 s each on an eight-GPU board.
SMI = CommandProbe("gpu.smi", ("nvidia-smi", "-q", "-x"), total=8 * MIB, seconds=40.0, guard=NVIDIA_DRIVER)
NVML = CommandProbe(
    "gpu.nvml", total=8 * MIB, seconds=40.0, guard=NVIDIA_DRIVER, local_module="hostcheck.snapshot.nvml"
)
