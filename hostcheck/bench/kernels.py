"""Kernels of the content folder `microbench`, compiled at run time by NVRTC for the GPU found, and kept on disk.

Compiling needs neither a GPU nor a driver nor a CUDA toolkit, only the packages of the extra "bench". The kernels
therefore include no header of CUDA's.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from hostcheck.errors import HostcheckError, install

FOLDER = "hostcheck.microbench"
INSTALL = f"{install('bench')} ('.[bench-cu12]' for drivers older than 580)"

_OPTIONS = ("--std=c++17",)
_CUDA_12 = 12
_OLDEST_OF_12 = 50
"""The oldest architecture that NVRTC of CUDA 12 compiles for; that of CUDA 13 begins with sm_75."""
_ELF = b"\x7fELF"


def arch_of(cc: tuple[int, int]) -> str:
    """Return what to compile for on a compute capability: from 9.0 on with what only that very part has ("sm_90a")."""
    return f"sm_{cc[0]}{cc[1]}" + ("a" if cc >= (9, 0) else "")


def compiled(name: str, arch: str, *, options: Sequence[str] = (), driver: str = "none") -> bytes:
    """Return the machine code of one file of kernels, from the cache or newly compiled.

    Args:
        name: file of the content folder without its ending, such as "hbm".
        arch: such as "sm_90a".
        options: further ones for NVRTC, such as "-DUNROLL=4".
        driver: its version, a part of the cache's key.

    Raises:
        HostcheckError: NVRTC is not installed, or too old for this GPU.
        ValueError: the kernel does not compile: a bug of ours, with NVRTC's log.
    """
    source, headers = read_source(name)
    version = nvrtc_version()
    key = _key(arch, driver, f"{version[0]}.{version[1]}", *_OPTIONS, *options, name, source, *sorted(headers.items()))
    place = folder()
    kept = place / f"{name}-{arch}-{key[:32]}.cubin" if place is not None else None
    code = _load(kept) if kept is not None else None
    if code is None:
        code = _compile(name, source, headers, arch, (*_OPTIONS, *options))
        if kept is not None:
            _store(kept, code)
    return code


def read_source(name: str) -> tuple[str, Mapping[str, str]]:
    """Return the text of a file of kernels, and the headers of the content folder by name."""
    content = files(FOLDER)
    headers = {entry.name: entry.read_text("utf-8") for entry in content.iterdir() if entry.name.endswith(".cuh")}
    return (content / f"{name}.cu").read_text("utf-8"), headers


def folder() -> Path | None:
    """Return where compiled kernels are kept: below XDG_CACHE_HOME or ~/.cache, None for a user without a home."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # A relative path is to be ignored, says the XDG Base Directory Specification.
    if not base.startswith("/"):
        base = os.path.expanduser("~/.cache")  # noqa: PTH111 (Path raises where there is no home)
    return Path(base) / "hostcheck" / "kernels" if base.startswith("/") else None


@cache
def nvrtc_version() -> tuple[int, int]:
    """Return the version of NVRTC.

    Raises:
        HostcheckError: it is not installed.
    """
    major, minor = _call(_nvrtc().nvrtcVersion)
    return major, minor


def _nvrtc() -> Any:
    try:
        from cuda.bindings import nvrtc
    except ImportError as problem:
        raise HostcheckError(f"kernels cannot be compiled: {problem}; {INSTALL}") from None
    return nvrtc


def _call(function: Any, *args: Any) -> Any:
    """Call NVRTC and return what it gives beside its status.

    Raises:
        HostcheckError: the library is not there.
        RuntimeError: the call failed; the status is its argument.
    """
    try:
        status, *rest = function(*args)
    except RuntimeError as problem:  # the library is opened with the first call
        what = str(problem).splitlines()[0]
        raise HostcheckError(f"NVRTC, which compiles the kernels, cannot be loaded: {what}; {INSTALL}") from None
    if int(status) != 0:
        raise RuntimeError(status)
    return rest[0] if len(rest) == 1 else tuple(rest)


def _compile(name: str, source: str, headers: Mapping[str, str], arch: str, options: Sequence[str]) -> bytes:
    nvrtc = _nvrtc()
    known = _call(nvrtc.nvrtcGetSupportedArchs)
    if int("".join(filter(str.isdigit, arch))) not in known:
        raise HostcheckError(_unknown(arch, min(known)))
    texts, names = [text.encode() for text in headers.values()], [header.encode() for header in headers]
    program = _call(nvrtc.nvrtcCreateProgram, source.encode(), f"{name}.cu".encode(), len(names), texts, names)
    try:
        every = [f"--gpu-architecture={arch}".encode(), *(option.encode() for option in options)]
        try:
            _call(nvrtc.nvrtcCompileProgram, program, len(every), every)
        except RuntimeError as problem:
            log = b" " * _call(nvrtc.nvrtcGetProgramLogSize, program)
            _call(nvrtc.nvrtcGetProgramLog, program, log)
            said = log.rstrip(b"\0 \n").decode("utf-8", "replace")
            raise ValueError(f"{name}.cu does not compile for {arch} ({problem.args[0].name}):\n{said}") from None
        code: bytes = b" " * _call(nvrtc.nvrtcGetCUBINSize, program)
        _call(nvrtc.nvrtcGetCUBIN, program, code)
        return code
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _unknown(arch: str, oldest: int) -> str:
    """Say what to do for an architecture that NVRTC does not know."""
    version = nvrtc_version()
    number = int("".join(filter(str.isdigit, arch)))
    words = f"NVRTC {version[0]}.{version[1]}"
    if number > oldest:
        return f"{words} does not know {arch}: install a newer one; {INSTALL}"
    if version[0] > _CUDA_12 and number >= _OLDEST_OF_12:
        return f"{words} no longer knows {arch}, that of CUDA 12 does: {install('bench-cu12')}"
    return f"{words} no longer knows {arch}: this GPU is too old to be measured"


def _key(*parts: object) -> str:
    return sha256(repr(parts).encode()).hexdigest()


def _load(path: Path) -> bytes | None:
    """Return what was kept, None where there is none, it is damaged, or somebody else put it there.

    The first 32 bytes are the hash of the rest.
    """
    try:
        # Whoever can put a pipe there does not hold us up.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            told = os.fstat(file.fileno())
            if told.st_uid != os.geteuid() or not stat.S_ISREG(told.st_mode):
                return None
            content = file.read()
    except OSError:
        return None
    digest, code = content[:32], content[32:]
    return code if sha256(code).digest() == digest and code.startswith(_ELF) else None


def _store(path: Path, code: bytes) -> None:
    """Keep machine code, so that a reader sees all of it or nothing. That it cannot be kept costs time alone."""
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(sha256(code).digest() + code)
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink()
            raise
