"""A stand-in for nvidia-smi that keeps what is set, since the settings of real GPUs are never changed by tests.

It is a program in a folder that tests put on PATH. It answers queries as driver 580 does, in the words of the real
tool where they are known, and writes down each call that sets something. What it cannot do it refuses aloud.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

SAMPLE = Path(__file__).parent / "unit" / "samples" / "h200-smi-q-x.xml"
FIRST = "GPU-00000000-0000-0000-0000-000000000000"
"""UUID of the first GPU; that of GPU N ends in N."""

_COMPUTE = {"0": "Default", "1": "Exclusive_Thread", "2": "Prohibited", "3": "Exclusive_Process"}
_WORDS = {"0": False, "1": True, "disabled": False, "enabled": True}


class Stand:
    """A folder with the program `nvidia-smi` and what is set on its GPUs.

    Args:
        folder: to be put on PATH.
        gpus: how many GPUs there are.
    """

    def __init__(self, folder: Path, gpus: int = 1) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        program = folder / "nvidia-smi"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -S -P {Path(__file__).resolve()} "{folder}" "$@"\n')
        program.chmod(0o755)
        _save(folder, {"gpus": [_new_gpu(index) for index in range(gpus)], "faults": {}})
        (folder / "set.log").write_text("")

    @property
    def path(self) -> str:
        """PATH with this program before the others."""
        return f"{self.folder}{os.pathsep}{os.environ['PATH']}"

    @property
    def gpus(self) -> list[dict[str, Any]]:
        """What each GPU's settings are; to change one as somebody else would, use `change`."""
        return list(_load(self.folder)["gpus"])

    @property
    def sets(self) -> list[str]:
        """The arguments of every call that set something or tried to, in order."""
        return (self.folder / "set.log").read_text().splitlines()

    def change(self, gpu: int, settings: Mapping[str, Any]) -> None:
        """Change settings of the GPU of this number behind everybody's back."""
        state = _load(self.folder)
        state["gpus"][gpu].update(settings)
        _save(self.folder, state)

    def fault(self, option: str, how: str = "") -> None:
        """Let calls with an option, such as "-pl", go wrong.

        Args:
            option: as given on the command line; "" for every call.
            how: "refused" (exit 4, a line that says so), "ignored" (exit 0, nothing is set), "hangs" (for an hour);
                "" makes it work again.
        """
        state = _load(self.folder)
        state["faults"][option] = how
        _save(self.folder, state)


def _new_gpu(index: int) -> dict[str, Any]:
    return {
        "index": str(index),
        "uuid": f"{FIRST[:-12]}{index:012d}",
        "pci.bus_id": f"00000000:{6 + index:02X}:00.0",
        "name": "NVIDIA H200",
        "persistence_mode": "Disabled",
        "power.limit": 700.0,
        "power.default_limit": 700.0,
        "power.min_limit": 200.0,
        "power.max_limit": 700.0,
        "ecc.mode.current": "Enabled",
        "ecc.mode.pending": "Enabled",
        "mig.mode.current": "Disabled",
        "mig.mode.pending": "Disabled",
        "compute_mode": "Default",
        "clocks.max.sm": 1980,
        "clocks.max.memory": 3201,
        "sm-clock-lock": None,
        "memory-clock-lock": None,
    }


def _load(folder: Path) -> Any:
    return json.loads((folder / "state.json").read_text())


def _save(folder: Path, state: Any) -> None:
    fresh = folder / f"state.{os.getpid()}"
    fresh.write_text(json.dumps(state, indent=1))
    fresh.replace(folder / "state.json")


def _refuse(text: str, code: int = 2) -> int:
    sys.stdout.write(f"{text}\n")
    return code


def _query(gpus: Sequence[dict[str, Any]], names: Sequence[str], style: Sequence[str]) -> int:
    aliases = {"enforced.power.limit": "power.limit", "gpu_uuid": "uuid", "gpu_bus_id": "pci.bus_id",
               "clocks.max.mem": "clocks.max.memory"}  # fmt: skip
    rows = []
    for gpu in gpus:
        row = []
        for name in names:
            key = aliases.get(name, name)
            if key not in gpu or key.endswith("-lock"):
                return _refuse(f'Field "{name}" is not a valid field to query.\n')
            value, unit = gpu[key], " W" if key.startswith("power.") else " MHz" if key.startswith("clocks.") else ""
            text = f"{value:.2f}" if isinstance(value, float) else str(value)
            row.append(text if "nounits" in style else f"{text}{unit}")
        rows.append(", ".join(row))
    if "noheader" not in style:
        rows.insert(0, ", ".join(names))
    sys.stdout.write("".join(f"{row}\n" for row in rows))
    return 0


def _document(gpus: Sequence[dict[str, Any]]) -> int:
    """Print the report of `-q -x`: that of a real H200, with the settings of each GPU."""
    root = ElementTree.fromstring(SAMPLE.read_text("utf-8"))
    sample = root.find("gpu")
    assert sample is not None
    root.remove(sample)
    text = ElementTree.tostring(sample)
    root.find("attached_gpus").text = str(len(gpus))  # type: ignore[union-attr]
    for gpu in gpus:
        element = ElementTree.fromstring(text)
        element.set("id", gpu["pci.bus_id"])
        values = {
            "uuid": gpu["uuid"],
            "minor_number": gpu["index"],
            "pci/pci_bus_id": gpu["pci.bus_id"],
            "persistence_mode": gpu["persistence_mode"],
            "compute_mode": gpu["compute_mode"],
            "mig_mode/current_mig": gpu["mig.mode.current"],
            "mig_mode/pending_mig": gpu["mig.mode.pending"],
            "ecc_mode/current_ecc": gpu["ecc.mode.current"],
            "ecc_mode/pending_ecc": gpu["ecc.mode.pending"],
            "gpu_power_readings/current_power_limit": f"{gpu['power.limit']:.2f} W",
            "gpu_power_readings/requested_power_limit": f"{gpu['power.limit']:.2f} W",
        }
        # A GPU that is locked idles at the lower bound of its lock, or so the stand-in has it.
        for setting, clock in (("sm-clock-lock", "sm_clock"), ("memory-clock-lock", "mem_clock")):
            if gpu[setting] is not None:
                values[f"clocks/{clock}"] = f"{gpu[setting].partition(',')[0]} MHz"
        for path, value in values.items():
            found = element.find(path)
            assert found is not None, path
            found.text = value
        root.append(element)
    sys.stdout.write('<?xml version="1.0" ?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n")
    return 0


def _range(text: str) -> str | None:
    parts = text.split(",")
    if not 1 <= len(parts) <= 2 or not all(part.isdigit() for part in parts):
        return None
    return f"{parts[0]},{parts[-1]}" if int(parts[0]) <= int(parts[-1]) else None


def _set(gpu: dict[str, Any], option: str, value: str) -> tuple[str, int]:
    """Set one thing on one GPU; return what is said and the exit status."""
    where = f"for GPU {gpu['pci.bus_id']}"
    if option == "power":
        low, high = gpu["power.min_limit"], gpu["power.max_limit"]
        try:
            watts = float(value)
        except ValueError:
            return f"Option -pl: {value} is not a number", 2
        if not low <= watts <= high:
            words = f"should be between {low:.2f} W and {high:.2f} W"
            return f"Provided power limit {watts:.2f} W is not a valid power limit which {words} {where}", 2
        was, gpu["power.limit"] = gpu["power.limit"], watts
        return f"Power limit {where} was set to {watts:.2f} W from {was:.2f} W.", 0
    if option == "compute":
        word = _COMPUTE.get(value) or next((name for name in _COMPUTE.values() if name.upper() == value.upper()), None)
        if word is None:
            return f"Option -c: {value} is not a compute mode", 2
        gpu["compute_mode"] = word
        return f"Set compute mode to {word.upper()} {where}.", 0
    if option in ("sm-clock-lock", "memory-clock-lock"):
        lock = _range(value)
        if lock is None:
            return f"Option needs MINIMUM,MAXIMUM, not {value}", 2
        gpu[option] = lock
        return f'GPU clocks set to "({lock})" {where}', 0
    if option.startswith("no-"):
        gpu[option.removeprefix("no-")] = None
        return "", 0
    if value.lower() not in _WORDS:
        return f"Option needs 0 or 1, not {value}", 2
    word = "Enabled" if _WORDS[value.lower()] else "Disabled"
    if option == "persistence":
        gpu["persistence_mode"] = word
        return f"{word} persistence mode {where}.", 0
    if option == "ecc":
        gpu["ecc.mode.pending"] = word
        return f"{word} ECC support {where}.\nAll done.\nReboot required.", 0
    gpu["mig.mode.pending"] = word
    return f"Warning: MIG mode is in pending {word.lower().removesuffix('d')} state {where}:In use by another client", 0


_OPTIONS = {
    "-pl": "power", "--power-limit": "power", "-c": "compute", "--compute-mode": "compute",
    "-pm": "persistence", "--persistence-mode": "persistence", "-e": "ecc", "--ecc-config": "ecc",
    "-mig": "mig", "--multi-instance-gpu": "mig",
    "-lgc": "sm-clock-lock", "--lock-gpu-clocks": "sm-clock-lock",
    "-lmc": "memory-clock-lock", "--lock-memory-clocks": "memory-clock-lock",
    "-rgc": "no-sm-clock-lock", "--reset-gpu-clocks": "no-sm-clock-lock",
    "-rmc": "no-memory-clock-lock", "--reset-memory-clocks": "no-memory-clock-lock",
}  # fmt: skip


def main(folder: Path, arguments: Sequence[str]) -> int:
    """Do what nvidia-smi would with these arguments; return its exit status."""
    state = _load(folder)
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--") else [word])]
    chosen: list[dict[str, Any]] = state["gpus"]
    sets: list[tuple[str, str, str]] = []
    fields: list[str] = []
    style: list[str] = []
    show = ""
    while words:
        word = words.pop(0)
        if word in ("-i", "--id") and words:
            wanted = words.pop(0).split(",")
            keys = ("index", "uuid", "pci.bus_id")
            chosen = [gpu for gpu in state["gpus"] if any(gpu[key] in wanted for key in keys)]
            if not chosen:
                return _refuse("No devices were found", 6)
        elif word in _OPTIONS:
            needs = not _OPTIONS[word].startswith("no-")
            if needs and not words:
                return _refuse(f"Option {word} needs a value")
            sets.append((word, _OPTIONS[word], words.pop(0) if needs else ""))
        elif word == "--query-gpu" and words:
            fields = [name.strip() for name in words.pop(0).split(",")]
        elif word == "--format" and words:
            style = [name.strip() for name in words.pop(0).split(",")]
        elif word in ("-q", "-x", "-L"):
            show += word
        else:
            if "reset" in word or word in ("-r", "mig"):
                _log(folder, arguments)
            return _refuse(f"Option {word} is not recognized. (The stand-in knows only what hostcheck uses.)")
    for option in ("", *(word for word, _, _ in sets)):
        if state["faults"].get(option) == "hangs":
            time.sleep(3600)
    if sets:
        return _apply(folder, state, chosen, sets, arguments)
    if fields:
        return _query(chosen, fields, style) if "csv" in style else _refuse('"--format=" switch is missing "csv"')
    if show == "-L":
        sys.stdout.write("".join(f"GPU {gpu['index']}: {gpu['name']} (UUID: {gpu['uuid']})\n" for gpu in chosen))
        return 0
    return (
        _document(chosen) if show in ("-q-x", "-x-q") else _refuse("Nothing that the stand-in can show was asked for")
    )


def _apply(
    folder: Path,
    state: Any,
    chosen: Sequence[dict[str, Any]],
    sets: Sequence[tuple[str, str, str]],
    arguments: Sequence[str],
) -> int:
    _log(folder, arguments)
    for word, option, value in sets:
        how = state["faults"].get(word) or state["faults"].get("")
        if how == "refused":
            return _refuse("Insufficient Permissions\nTerminating early due to previous errors.", 4)
        if how == "ignored":
            continue
        for gpu in chosen:
            said, code = _set(gpu, option, value)
            if said:
                sys.stdout.write(f"{said}\n")
            if code:
                return _refuse("Terminating early due to previous errors.", code)
    _save(folder, state)
    sys.stdout.write("All done.\n")
    return 0


def _log(folder: Path, arguments: Sequence[str]) -> None:
    with (folder / "set.log").open("a") as log:
        log.write(" ".join(arguments) + "\n")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
