"""What the engine tells about a host by itself: the traits that expectations match, and a few lines that introduce it.

Both take what is to be had and leave out the rest; neither ever fails because of a host.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from hostcheck.errors import NotApplicable, Unavailable
from hostcheck.facts.base import Fact, Facts
from hostcheck.facts.cpu import NUMA, NUMA_PROBE, TOPOLOGY, TOPOLOGY_PROBE
from hostcheck.facts.gpu import DRIVER, DRIVER_PROBE, GPUS, SMI_LOG
from hostcheck.facts.memory import INFO_PROBE, MEMINFO
from hostcheck.facts.platform import CLOCKSOURCE_PROBE, CPUINFO_PROBE, HOST_PROBE, PLATFORM, SYSTEM
from hostcheck.snapshot.probes import Probe

PROBES: tuple[Probe, ...] = (
    HOST_PROBE, CPUINFO_PROBE, CLOCKSOURCE_PROBE, TOPOLOGY_PROBE, NUMA_PROBE, INFO_PROBE, DRIVER_PROBE,
)  # fmt: skip
"""What is read of every host: what its traits and its introduction are told from. Files only, none slow to read."""


def traits(facts: Facts) -> dict[str, str]:
    """Return what layers match a host by: "arch", "platform", "vendor", "product" and "form"."""
    system, platform = _value(facts, SYSTEM), _value(facts, PLATFORM)
    found = {
        "arch": getattr(platform or system, "architecture", None),
        "platform": getattr(platform, "kind", None),
        "vendor": getattr(system, "vendor", None),
        "product": getattr(system, "product", None),
        "form": getattr(system, "form", None) or None,
    }
    return {name: value for name, value in found.items() if isinstance(value, str)}


def introduce(facts: Facts) -> dict[str, str]:
    """Return lines, label to text, that introduce the host to a reader."""
    lines = {label: _line(describe, facts) for label, describe in _LINES.items()}
    return {label: line for label, line in lines.items() if line}


def _value(facts: Facts, fact: Fact[Any]) -> Any:
    """Return a fact's value, or None where there is none, even for a bug in its parser: a check reports that."""
    try:
        return facts.get(fact)
    except Exception:
        return None


def _line(describe: Callable[[Facts], str], facts: Facts) -> str:
    try:
        return describe(facts)
    except Exception:
        return ""


def _words(*parts: object) -> str:
    return " ".join(str(part) for part in parts if part and not isinstance(part, Unavailable | NotApplicable))


def _system(facts: Facts) -> str:
    system = facts.get(SYSTEM)
    bios = _words(system.bios_version, system.bios_date)
    product = str(system.product) if isinstance(system.product, str) else ""
    if isinstance(system.vendor, str) and product.startswith(system.vendor):
        product = product[len(system.vendor) :].lstrip(" _-")
    return _words(system.vendor, product, f"(firmware {bios})" if bios else "")


def _platform(facts: Facts) -> str:
    platform = facts.get(PLATFORM)
    return f"{platform.label}, {platform.cloud}" if platform.cloud else platform.label


def _software(facts: Facts) -> str:
    system = facts.get(SYSTEM)
    page = f", {system.page_size // 1024} KiB pages" if isinstance(system.page_size, int) else ""
    kernel = f"Linux {system.kernel}" if isinstance(system.kernel, str) else ""
    parts = [part for part in (_words(system.os_name), _words(kernel, system.architecture)) if part]
    return ", ".join(parts) + page


def _cpu(facts: Facts) -> str:
    return facts.get(TOPOLOGY).summary


def _memory(facts: Facts) -> str:
    total = facts.get(MEMINFO).total_kib
    away = [node.memory_kib for node in _value(facts, NUMA) or () if not node.is_host]
    far = sum(size for size in away if isinstance(size, int))
    return f"{(total - far) / 2**20:.0f} GiB" + (f", {far / 2**20:.0f} GiB more in nodes without CPUs" if far else "")


def _gpus(facts: Facts) -> str:
    listed, driver = _value(facts, GPUS), _value(facts, DRIVER)
    names = [gpu.name for gpu in listed or ()]
    if not names and isinstance(getattr(driver, "gpus", None), tuple):
        names = [gpu.model for gpu in driver.gpus]
    counts = Counter(name if isinstance(name, str) else "NVIDIA GPU" for name in names)
    return ", ".join(f"{count} x {name}" for name, count in counts.items())


def _driver(facts: Facts) -> str:
    log, driver = _value(facts, SMI_LOG), _value(facts, DRIVER)
    version = next((str(text) for text in (_word(driver, "version"), _word(log, "driver_version")) if text), "")
    flavour, cuda = _word(driver, "flavour"), _word(log, "cuda_version")
    extras = ", ".join(part for part in (flavour, f"CUDA {cuda}" if cuda else "") if part)
    return f"{version} ({extras})" if version and extras else version


def _word(value: object, name: str) -> str:
    found = getattr(value, name, None)
    return found if isinstance(found, str) else ""


_LINES: dict[str, Callable[[Facts], str]] = {
    "System": _system,
    "Platform": _platform,
    "OS": _software,
    "CPU": _cpu,
    "Memory": _memory,
    "GPUs": _gpus,
    "Driver": _driver,
}
