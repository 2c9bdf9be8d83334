"""Which hosts of a fleet are equals: those with the same GPUs and the same CPU model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hostcheck.errors import NotApplicable, Unavailable
from hostcheck.facts.base import Facts
from hostcheck.facts.cpu import TOPOLOGY
from hostcheck.facts.gpu import DRIVER, GPUS
from hostcheck.facts.pci import PCI
from hostcheck.facts.platform import SYSTEM

_LONGEST = 200
_ALONE, _FEW = 3, 10
"""One host by itself is put with so many that are nearly like it, at least; a few with so many times as many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What a host is grouped by; what could not be read is empty.

    Attributes:
        gpus: such as "8 x NVIDIA H100 80GB HBM3", or "no GPU".
        models: the GPU models among them.
        cpu: such as "2 x Intel(R) Xeon(R) Platinum 8480C".
        product: the machine's model, as its firmware names it.
    """

    gpus: str = ""
    models: frozenset[str] = frozenset()
    cpu: str = ""
    product: str = ""

    @property
    def label(self) -> str:
        """What equal hosts have in common, in words."""
        return ", ".join(filter(None, (self.gpus, self.cpu))) or "hardware that could not be read"

    def is_like(self, other: Hardware) -> bool:
        """Whether the two were bought to be equal: a GPU model in common, or the same product with the same CPU."""
        same_box = bool(self.product) and (self.product, self.cpu) == (other.product, other.cpu)
        return bool(self.models & other.models) or same_box


def hardware(facts: Facts) -> Hardware:
    """Return what a host is grouped by. Never raises: what is not to be had is left empty."""
    models = gpu_models(facts)
    return Hardware(
        gpus=_gpus(models),
        models=frozenset(models or ()),
        cpu=_clean(cpu_model(facts)),
        product=_clean(_product(facts)),
    )


def gpu_models(facts: Facts) -> list[str] | None:
    """Return the model of each GPU, by the first source that tells: nvidia-smi or NVML, the driver's files, the bus.

    A GPU that only the bus shows is named by its PCI id. None: no source could be read.
    """
    try:
        return [_clean(gpu.name if isinstance(gpu.name, str) else "NVIDIA GPU") for gpu in facts.get(GPUS)]
    except NotApplicable:
        return []
    except Exception:
        return _models_elsewhere(facts)


def _models_elsewhere(facts: Facts) -> list[str] | None:
    try:
        told = facts.get(DRIVER).gpus
        if isinstance(told, tuple) and told:
            return [_clean(gpu.model if isinstance(gpu.model, str) else "NVIDIA GPU") for gpu in told]
    except Exception:  # noqa: S110 (the next source is asked; the check of this fact reports what is wrong with it)
        pass
    try:
        return [_clean(f"{gpu.vendor_id}:{gpu.device_id}") for gpu in facts.get(PCI).gpus]
    except Exception:
        return None


def cpu_model(facts: Facts) -> str:
    """Return such as "2 x Intel(R) Xeon(R) Platinum 8480C"; empty if it could not be read."""
    try:
        topology = facts.get(TOPOLOGY)
    except Exception:
        return ""
    models = " + ".join(" ".join(model.split()) for model in topology.models)
    return f"{topology.sockets} x {models}" if models and isinstance(topology.sockets, int) else models


def _product(facts: Facts) -> str:
    try:
        system = facts.get(SYSTEM)
    except Exception:
        return ""
    words = (system.vendor, system.product)
    if any(isinstance(word, Unavailable | NotApplicable) for word in words):
        return ""
    return " ".join(map(str, words))


def _gpus(models: list[str] | None) -> str:
    if models is None:
        return ""
    return counted(models) or "no GPU"


def counted(names: Iterable[str]) -> str:
    """Return "8 x A", or "7 x A, 1 x B", the most frequent first."""
    found = Counter(names)
    return ", ".join(f"{found[name]} x {name}" for name in sorted(found, key=lambda name: (-found[name], name)))


def _clean(text: str) -> str:
    return " ".join(text.split())[:_LONGEST]


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a key that sorts gpu2 before gpu10."""
    parts = re.split(r"([0-9]{1,9})", name)
    return tuple((1, int(part), part) if at % 2 else (0, 0, part) for at, part in enumerate(parts))


def peer_groups(hosts: Mapping[str, Hardware]) -> dict[str, tuple[str, ...]]:
    """Return the groups of equals: a label to its hosts, the largest group first.

    A host that differs from many that are like it, such as one that shows seven GPUs among hosts with eight, is
    put with them: that it differs is what a reader must be told, and it would have nobody to be compared with.
    """
    exact: dict[tuple[str, str], list[str]] = {}
    for name, own in hosts.items():
        exact.setdefault((own.gpus, own.cpu), []).append(name)
    by_size = sorted(exact.values(), key=lambda names: (-len(names), hosts[names[0]].label))
    groups: list[list[str]] = []
    for names in by_size:
        home = next((group for group in groups if _is_stray(names, group, hosts)), None)
        if home is None:
            groups.append(list(names))
        else:
            home += names
    place = {name: number for number, name in enumerate(hosts)}
    labelled: dict[str, list[str]] = {}
    for names in groups:
        labelled.setdefault(hosts[names[0]].label, []).extend(names)
    return {label: tuple(sorted(names, key=place.__getitem__)) for label, names in labelled.items()}


def _is_stray(names: list[str], group: list[str], hosts: Mapping[str, Hardware]) -> bool:
    few = (len(names) == 1 and len(group) >= _ALONE) or len(names) * _FEW <= len(group)
    return few and hosts[names[0]].is_like(hosts[group[0]])
