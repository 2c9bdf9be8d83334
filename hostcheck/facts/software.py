"""Installed software that GPU work depends on, told by file names and small files: libraries, CUDA, kernels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from hostcheck.errors import Maybe, NotApplicable, Unavailable
from hostcheck.facts.base import Fact, Optional
from hostcheck.snapshot.probes import CommandProbe, FileProbe, ListProbe
from hostcheck.snapshot.reading import Ending, Reading
from hostcheck.versions import version_key

_FOLDERS = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
    "/usr/local/cuda*/lib64",
    "/usr/local/cuda*/targets/*/lib",
    "/usr/local/nvidia/lib64",
    "/usr/local/nvidia/toolkit",  # where the GPU operator puts the container toolkit
    "/usr/lib/wsl/lib",
    "/run/nvidia/driver/usr/lib/x86_64-linux-gnu",  # where the GPU operator's driver container shows its files
    "/run/nvidia/driver/usr/lib/aarch64-linux-gnu",
    "/run/nvidia/driver/usr/lib64",
    "/home/kubernetes/bin/nvidia/lib64",  # GKE on Container-Optimized OS
)
_NAMES = ("cuda", "nvidia-ml", "nccl", "cudart", "cudnn", "nvidia-container", "gdrapi")
COMPAT = "/usr/local/cuda*/compat/libcuda.so.*"
LIBRARIES_PROBE = ListProbe(
    "software.libraries", (*(f"{folder}/lib{name}.so.*" for folder in _FOLDERS for name in _NAMES), COMPAT)
)

CUDA_JSON, CUDA_TEXT = "/usr/local/cuda*/version.json", "/usr/local/cuda*/version.txt"
CUDA_PROBE = FileProbe("software.cuda", (CUDA_JSON, CUDA_TEXT))

CTK_PROBE = CommandProbe("software.container-toolkit", ("nvidia-ctk", "--version"), seconds=5.0)

IMAGES = ("/boot/vmlinuz-*", "/lib/modules/*/vmlinuz")
REBOOT = "/run/reboot-required"
KERNELS_PROBE = ListProbe("software.kernels", (*IMAGES, REBOOT))
PACKAGES = "/run/reboot-required.pkgs"
PACKAGES_PROBE = FileProbe("software.reboot-packages", (PACKAGES,))

VERBS, GDRDRV = "/sys/class/infiniband_verbs/uverbs*", "/dev/gdrdrv"
DEVICES_PROBE = ListProbe("software.devices", (VERBS, GDRDRV))

_LIBRARY = re.compile(r"(?P<folder>/.*)/lib(?P<name>[a-z-]+)\.so\.(?P<version>[0-9]+(?:\.[0-9]+)*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """One library file whose name carries its version.

    Attributes:
        name: without "lib" and ".so", such as "cuda" or "nccl".
        version: as in the file's name, such as "580.159.04"; at least two numbers.
        folder: where it is.
        linked: whether a link of one number (libcuda.so.1) in the same folder leads to it, so that programs get it.
    """

    name: str
    version: str
    folder: str
    linked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Libraries:
    """Libraries of the driver, of CUDA and of the container toolkit in the usual folders.

    Attributes:
        files: each with its version, in the order of paths.
        compat: folders of CUDA toolkits that bring a newer libcuda of their own (forward compatibility).
    """

    files: tuple[Library, ...]
    compat: tuple[str, ...]

    def of(self, name: str) -> tuple[Library, ...]:
        """Return the files of one library; those that programs get by a link first."""
        found = [file for file in self.files if file.name == name]
        return tuple(sorted(found, key=lambda file: not file.linked))

    def versions(self, name: str) -> tuple[str, ...]:
        """Return the versions of one library that are there, newest first, each once."""
        return tuple(sorted({file.version for file in self.files if file.name == name}, key=version_key, reverse=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolkit:
    """One CUDA toolkit.

    Attributes:
        folder: such as "/usr/local/cuda-13.0".
        version: such as "13.0.2".
    """

    folder: str
    version: Maybe[str]

    @property
    def subject(self) -> str:
        """The last word of its folder, such as "cuda-13.0"."""
        return self.folder.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """Kernels that are installed, and whether the system itself asks for a reboot.

    Attributes:
        installed: versions of the kernel images on disk, such as "6.8.0-49-generic".
        reboot_required: the mark of Debian and Ubuntu is set; other systems have no such mark.
        packages: those that set the mark.
    """

    installed: tuple[str, ...]
    reboot_required: bool
    packages: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """Devices that libraries reach GPU memory by.

    Attributes:
        rdma: user-space interfaces of RDMA devices, such as "uverbs0".
        gdrdrv: whether GDRCopy's device node is here.
    """

    rdma: tuple[str, ...]
    gdrdrv: bool


def parse_cuda_version(text: str) -> str:
    """Return the toolkit's version out of version.json, or of version.txt as toolkits before 11.1 have it.

    Raises:
        Unavailable: neither form.

    Sample:
        {
           "cuda" : {
              "name" : "CUDA SDK",
              "version" : "13.0.2"
           },
           "cuda_cccl" : {
              "name" : "CUDA C++ Core Compute Libraries",
              "version" : "13.0.85"
           }
        }
    """
    old = re.match(r"\s*CUDA Version ([0-9]+(?:\.[0-9]+)+)", text)
    if old:
        return old[1]
    try:
        table = json.loads(text)
        version = table["cuda"]["version"]
    except (ValueError, TypeError, LookupError, RecursionError):
        raise Unavailable("the CUDA toolkit's version file is not understood") from None
    if not isinstance(version, str) or not re.fullmatch(r"[0-9]+(\.[0-9]+)+", version):
        raise Unavailable("the CUDA toolkit's version file names no version")
    return version


def parse_toolkit_version(text: str) -> str:
    """Return the version of the NVIDIA Container Toolkit.

    Raises:
        Unavailable: there is none in the output.

    Sample:
        NVIDIA Container Toolkit CLI version 1.17.8
        commit: f202b80a9b9d0db00d9b1d73c0128c8962c55f4d
    """
    found = re.search(r"Container Toolkit CLI version v?([0-9]+(?:\.[0-9]+)+)", text)
    if found is None:
        raise Unavailable("nvidia-ctk names no version")
    return found[1]


def kernel_order(version: str) -> tuple[tuple[int, ...], str]:
    """Return what two kernels are compared by: the numbers of their version, and their flavour.

    Only kernels of one flavour follow each other: "6.8.0-49-generic" is (6, 8, 0, 49) and "generic". Text of a
    release, such as el9_4 against el9_5, is no flavour of its own.
    """
    found = re.match(r"[0-9]+(?:[.-][0-9]+)*", version)
    if found is None:
        return (), version
    numbers = tuple(int(part) for part in re.split(r"[.-]", found[0])[:12] if len(part) <= 9)
    return numbers, re.sub(r"[0-9]+", "", version[found.end() :]).strip("-._")


def _libraries(reading: Reading) -> Libraries:
    reading.check()
    linked = {
        f"{path.rpartition('/')[0]}/{entry.target.rpartition('/')[2]}"
        for path, entry in reading.entries.items()
        if entry.kind == "l"
    }
    files = []
    for path in sorted(reading.entries):
        found = _LIBRARY.fullmatch(path)
        if found and "." in found["version"] and not found["folder"].endswith("/compat"):
            files.append(
                Library(name=found["name"], version=found["version"], folder=found["folder"], linked=path in linked)
            )
    compat = sorted({path.rpartition("/compat/")[0] for path in reading.listed(COMPAT)})
    return Libraries(files=tuple(files), compat=tuple(compat))


LIBRARIES: Fact[Libraries] = Fact("software.libraries", _libraries, LIBRARIES_PROBE)


def _toolkits(reading: Reading) -> Sequence[Toolkit]:
    texts = {**reading.glob(CUDA_TEXT), **reading.glob(CUDA_JSON)}
    found: dict[str, Toolkit] = {}
    # Longest folder first: /usr/local/cuda and cuda-13 are links to cuda-13.0, and a version is named once.
    for path, text in sorted(texts.items(), key=lambda item: (-len(item[0]), item[0])):
        folder = path.rpartition("/")[0]
        try:
            version: Maybe[str] = parse_cuda_version(text)
        except Unavailable as missing:
            version = Unavailable(f"{path}: {missing.why}", reading.probe)
        found.setdefault(version if isinstance(version, str) else folder, Toolkit(folder=folder, version=version))
    return tuple(sorted(found.values(), key=lambda toolkit: toolkit.folder))


TOOLKITS: Fact[Sequence[Toolkit]] = Fact("software.cuda-toolkits", _toolkits, CUDA_PROBE)


def _answer(reading: Reading) -> str | None:
    return None if reading.ending is Ending.ABSENT else parse_toolkit_version(reading.text())


def _container_toolkit(answer: str | Unavailable | None, libraries: Libraries) -> str:
    versions = libraries.versions("nvidia-container")
    if isinstance(answer, str):
        return answer
    if versions:
        return versions[-1]
    if answer is None:
        raise NotApplicable("the NVIDIA Container Toolkit is not installed")
    raise Unavailable(answer.why, answer.probe)


CTK_ANSWER: Fact[str | None] = Fact("software.container-toolkit-answer", _answer, CTK_PROBE)
CONTAINER_TOOLKIT: Fact[str] = Fact("software.container-toolkit", _container_toolkit, Optional(CTK_ANSWER), LIBRARIES)
"""Version of the NVIDIA Container Toolkit: its own answer, else that of its library, which has the same number."""


def _kernels(listing: Reading, packages: Reading) -> Kernels:
    images = {version for path in _listed(listing, IMAGES) if (version := _image_version(path))}
    try:
        text = packages.read(PACKAGES) or ""
    except Unavailable:
        text = ""
    return Kernels(
        installed=tuple(sorted(images, key=lambda version: (kernel_order(version)[0], version))),
        reboot_required=listing.entry(REBOOT) is not None,
        packages=tuple(sorted({line.strip() for line in text.splitlines() if line.strip()})),
    )


def _listed(listing: Reading, patterns: Iterable[str]) -> Iterator[str]:
    for pattern in patterns:
        yield from listing.listed(pattern)


def _image_version(path: str) -> str:
    """Return the version in the path of a kernel image; that of a rescue image or of a copy ("old") is empty."""
    version = path.split("/")[3] if path.startswith("/lib/modules/") else path.removeprefix("/boot/vmlinuz-")
    return "" if not re.match(r"[1-9]", version) or version.endswith((".old", ".bak", ".efi.signed")) else version


KERNELS: Fact[Kernels] = Fact("software.kernels", _kernels, KERNELS_PROBE, Optional(PACKAGES_PROBE))


def _devices(listing: Reading) -> Devices:
    rdma = tuple(sorted(path.rpartition("/")[2] for path in listing.listed(VERBS)))
    return Devices(rdma=rdma, gdrdrv=listing.entry(GDRDRV) is not None)


DEVICES: Fact[Devices] = Fact("software.devices", _devices, DEVICES_PROBE)
