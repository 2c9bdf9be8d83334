"""MIG: the devices and GPU instances of each GPU, its profiles, and whether nvidia-mig-manager makes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hostcheck.errors import Maybe, Unavailable, need
from hostcheck.facts.base import Fact, Optional
from hostcheck.facts.gpu import Gpu
from hostcheck.snapshot.probes import NVIDIA_DRIVER, CommandProbe, ListProbe
from hostcheck.snapshot.reading import Ending, Reading

# Of all that lists MIG devices this alone ends with 0 where there are none.
LIST_PROBE = CommandProbe("gpu.list", ("nvidia-smi", "-L"), seconds=40.0, guard=NVIDIA_DRIVER)
INSTANCES_PROBE = CommandProbe("gpu.mig-instances", ("nvidia-smi", "mig", "-lgi"), seconds=40.0, guard=NVIDIA_DRIVER)
PROFILES_PROBE = CommandProbe("gpu.mig-profiles", ("nvidia-smi", "mig", "-lgip"), seconds=40.0, guard=NVIDIA_DRIVER)
_WANTS = "/etc/systemd/system/*.wants/nvidia-mig-manager.service"
MANAGER_PROBE = ListProbe("gpu.mig-manager", (_WANTS,))

PROFILE = r"[1-9]g\.[1-9][0-9]{0,3}gb(?:[+-][a-z]{2,8}(?:\.[a-z]{2,8})?){0,3}"
"""Name of a profile, such as "1g.10gb" or "1g.10gb+me"; its memory is in GB and differs between boards of a model."""

NO_INSTANCES = "none"
"""What stands for a layout without GPU instances."""

LAYOUT = re.compile(rf"{NO_INSTANCES}|{PROFILE}(?:,{PROFILE}){{0,15}}")
"""A layout as one text: names of profiles, or "none"."""

_GPU = re.compile(r"GPU (\d{1,3}): .*\(UUID: GPU-\S+\)")
_DEVICE = re.compile(rf"MIG ((?:[1-9]c\.)?{PROFILE}) +Device +\d{{1,3}}: \(UUID: MIG-\S+\)")
_INSTANCE = re.compile(
    rf"\| +(\d{{1,3}}) +MIG +({PROFILE}) +(\d{{1,3}}) +(\d{{1,3}}) +(?:(\d{{1,3}}):(\d{{1,3}}) +)?\|"
)
_OFFER = re.compile(rf"\| +(\d{{1,3}}) +MIG +({PROFILE}) +(\d{{1,3}}) +(\d{{1,3}})/(\d{{1,3}}) .*\|")
_ROW = re.compile(r"\| +\d+ +MIG ")


@dataclass(frozen=True, slots=True, kw_only=True)
class MigInstance:
    """One GPU instance: its profile by name and number, its own number, and which memory slices it has."""

    profile: str
    profile_id: int
    id: int
    start: int | None
    size: int | None


def parse_devices(text: str) -> dict[int, tuple[str, ...]]:
    """Parse `nvidia-smi -L`: a GPU's index to the names of its MIG devices; a GPU that is not told is not in it.

    A device has the name of its GPU instance's profile where it has all of it, and a longer one, such as "1c.3g.40gb",
    where it has a part.

    Raises:
        Unavailable: a MIG device is told in a way that is not understood.

    Sample:
        GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-00000000-0000-0000-0000-000000000000)
          MIG 3g.40gb     Device  0: (UUID: MIG-00000000-0000-0000-0000-000000000000)
          MIG 1g.10gb     Device  1: (UUID: MIG-00000002-0000-0000-0000-000000000002)
        GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-00000000-0000-0000-0000-000000000001)
    """
    found: dict[int, tuple[str, ...]] = {}
    gpu: int | None = None
    for line in map(str.strip, text.splitlines()):
        if told := _GPU.fullmatch(line):
            gpu = int(told[1])
            found[gpu] = ()
        elif line.startswith("MIG "):
            device = _DEVICE.fullmatch(line)
            if device is None or gpu is None:
                raise Unavailable(f"nvidia-smi -L: {line[:100]!r} is not understood", LIST_PROBE.id)
            found[gpu] += (device[1],)
        elif line:
            gpu = None
    return found


def parse_instances(text: str) -> dict[int, tuple[MigInstance, ...]]:
    """Parse `nvidia-smi mig -lgi`: a GPU's index to its GPU instances; a GPU without any is not in it.

    Without instances it says "No GPU instances found: Not Found", and where no GPU is in MIG mode "No MIG-enabled
    devices found.". The sample is that of the MIG user guide, chapter "Creating GPU Instances".

    Raises:
        Unavailable: that is no such list.

    Sample:
        +----------------------------------------------------+
        | GPU instances:                                     |
        | GPU   Name          Profile  Instance   Placement  |
        |                       ID       ID       Start:Size |
        |====================================================|
        |   0  MIG 3g.20gb       9        1          4:4     |
        +----------------------------------------------------+
        |   0  MIG 3g.20gb       9        2          0:4     |
        +----------------------------------------------------+
    """
    if "| GPU instances:" not in text:
        if "No GPU instances found: Not Found" in text or "No MIG-enabled devices found" in text:
            return {}
        raise Unavailable(f"nvidia-smi mig -lgi: {_last(text)}", INSTANCES_PROBE.id)
    found: dict[int, tuple[MigInstance, ...]] = {}
    for row in _rows(text, _INSTANCE, INSTANCES_PROBE):
        gpu, profile, profile_id, number, start, size = row.groups()
        place = (int(start), int(size)) if start is not None else (None, None)
        instance = MigInstance(
            profile=profile, profile_id=int(profile_id), id=int(number), start=place[0], size=place[1]
        )
        found[int(gpu)] = (*found.get(int(gpu), ()), instance)
    return found


def parse_profiles(text: str) -> dict[int, dict[str, int]]:
    """Parse `nvidia-smi mig -lgip`: a GPU's index to its profiles, each with how many of it there can be at most.

    The sample is from the MIG user guide, chapter "List GPU Instance Profiles".

    Raises:
        Unavailable: that is no such list.

    Sample:
        +-----------------------------------------------------------------------------+
        | GPU instance profiles:                                                      |
        | GPU   Name             ID    Instances   Memory     P2P    SM    DEC   ENC  |
        |                              Free/Total   GiB              CE    JPEG  OFA  |
        |=============================================================================|
        |   0  MIG 1g.5gb        19     7/7        4.75       No     14     0     0   |
        |                                                             1     0     0   |
        +-----------------------------------------------------------------------------+
        |   0  MIG 1g.5gb+me     20     1/1        4.75       No     14     1     0   |
        |                                                             1     1     1   |
        +-----------------------------------------------------------------------------+
        |   0  MIG 3g.20gb        9     2/2        19.62      No     42     2     0   |
        |                                                             3     0     0   |
        +-----------------------------------------------------------------------------+
    """
    if "| GPU instance profiles:" not in text:
        raise Unavailable(f"nvidia-smi mig -lgip: {_last(text)}", PROFILES_PROBE.id)
    found: dict[int, dict[str, int]] = {}
    for row in _rows(text, _OFFER, PROFILES_PROBE):
        found.setdefault(int(row[1]), {})[row[2]] = int(row[5])
    return found


def _rows(text: str, pattern: re.Pattern[str], probe: CommandProbe) -> Iterable[re.Match[str]]:
    for line in map(str.strip, text.splitlines()):
        if _ROW.match(line):
            row = pattern.fullmatch(line)
            if row is None:
                raise Unavailable(f"{' '.join(probe.argv)}: {line[:100]!r} is not understood", probe.id)
            yield row


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1][:200]


def in_order(profiles: Iterable[str]) -> str:
    """Return a layout in one text, as "3g.40gb,1g.10gb": the largest first, since small ones can lie in its way."""

    def rank(name: str) -> tuple[int, int, str]:
        size = re.search(r"(\d+)g\.(\d+)gb", name)
        return (-int(size[1]), -int(size[2]), name) if size else (0, 0, name)

    return ",".join(sorted(profiles, key=rank)) or NO_INSTANCES


@dataclass(frozen=True, slots=True, kw_only=True)
class MigDevices:
    """The names of the MIG devices of all GPUs, by index."""

    names: Maybe[Mapping[int, tuple[str, ...]]]

    def of(self, gpu: Gpu) -> str:
        """Return the MIG devices of a GPU as one text: see `in_order`.

        Raises:
            Unavailable: they are not told.
        """
        found = need(self.names).get(gpu.index)
        if found is None:
            raise Unavailable(f"nvidia-smi -L does not tell of {gpu.subject}", LIST_PROBE.id)
        return in_order(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layouts:
    """The GPU instances of all GPUs, by index."""

    instances: Maybe[Mapping[int, tuple[MigInstance, ...]]]

    def of(self, gpu: Gpu) -> str:
        """Return the layout of a GPU in MIG mode as one text: see `in_order`.

        Raises:
            Unavailable: it could not be read.
        """
        return in_order(instance.profile for instance in need(self.instances).get(gpu.index, ()))

    def uneven(self, gpu: Gpu) -> tuple[int, ...]:
        """Return the numbers of those GPU instances of a GPU that have not exactly one compute instance.

        Raises:
            Unavailable: the compute instances are not told.
        """
        used = [need(device.gpu_instance) for device in need(gpu.mig.devices)]
        return tuple(one.id for one in need(self.instances).get(gpu.index, ()) if used.count(one.id) != 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offers:
    """The profiles that all GPUs in MIG mode offer, by index."""

    profiles: Maybe[Mapping[int, Mapping[str, int]]]

    def of(self, gpu: Gpu) -> Mapping[str, int]:
        """Return a GPU's profiles, each with how many of it there can be at most.

        Raises:
            Unavailable: they are not told.
        """
        found = need(self.profiles).get(gpu.index)
        if found is None:
            raise Unavailable(f"nvidia-smi mig -lgip tells no profiles of {gpu.subject}", PROFILES_PROBE.id)
        return found


def _told(reading: Reading) -> str:
    """Return what nvidia-smi said: without instances it ends with 6, and its words are what counts.

    Raises:
        Unavailable: it did not come to its end.
    """
    if reading.ending not in (Ending.OK, Ending.EXIT):
        raise reading.unavailable()
    return (reading.out + reading.err).decode("utf-8", "replace")


_DEVICES = Fact("gpu.mig-names", lambda reading: parse_devices(reading.text()), LIST_PROBE)
MIG_DEVICES: Fact[MigDevices] = Fact("gpu.mig-devices", lambda found: MigDevices(names=found), Optional(_DEVICES))
_INSTANCES = Fact("gpu.mig-instances", lambda reading: parse_instances(_told(reading)), INSTANCES_PROBE)
_PROFILES = Fact("gpu.mig-profiles", lambda reading: parse_profiles(_told(reading)), PROFILES_PROBE)
LAYOUTS: Fact[Layouts] = Fact("gpu.mig-layouts", lambda found: Layouts(instances=found), Optional(_INSTANCES))
OFFERS: Fact[Offers] = Fact("gpu.mig-offers", lambda found: Offers(profiles=found), Optional(_PROFILES))
MANAGED: Fact[bool] = Fact("gpu.mig-managed", lambda reading: bool(reading.listed(_WANTS)), MANAGER_PROBE)
"""Whether nvidia-mig-manager makes the instances at each boot."""
