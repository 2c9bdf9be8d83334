"""What several checks of GPUs tell people to do, and how they grade a failure."""

from __future__ import annotations

from dataclasses import replace

from hostcheck.model import Finding, Severity, Status

REPLACE = (
    "Take the GPU out of service and have it replaced; collect evidence first: nvidia-bug-report.sh (as root), and the "
    "vendor's field diagnostics."
)


def reset(index: int) -> str:
    """Return how to reset a GPU, and what that interrupts."""
    return (
        f"Drain the GPU (a reset ends every process on it), then nvidia-smi --gpu-reset -i {index}. On boards with "
        "NVSwitch reset all GPUs together: nvidia-smi --gpu-reset. A guest that may not reset it has to be rebooted."
    )


def graded(finding: Finding, severity: Severity) -> Finding:
    """Return a finding that matters so much if it is a failure.

    For checks of what only some drivers or models tell: a failure is grave, while not knowing is the rule.
    """
    return replace(finding, severity=severity) if finding.status is Status.FAIL else finding
