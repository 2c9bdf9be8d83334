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
PROFILES = {
    "1g.18gb": (19, 7, 1), "1g.18gb+me": (20, 1, 1), "1g.35gb": (15, 4, 2), "2g.35gb": (14, 3, 2),
    "3g.71gb": (9, 2, 4), "4g.71gb": (5, 1, 4), "7g.141gb": (0, 1, 8),
}  # fmt: skip
"""Of an H200 (MIG user guide, "H200 MIG Profiles"): name to number, how many there can be, and memory slices."""

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
        "instances": [],
        "pids": [],
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
            if key not in gpu or key.endswith("-lock") or key in ("instances", "pids"):
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
        devices = element.find("mig_devices")
        assert devices is not None
        for instance in gpu["instances"]:
            for number in range(len(instance["compute"])):
                device = ElementTree.SubElement(devices, "mig_device")
                ElementTree.SubElement(device, "index").text = str(len(devices) - 1)
                ElementTree.SubElement(device, "gpu_instance_id").text = str(instance["id"])
                ElementTree.SubElement(device, "compute_instance_id").text = str(number)
            devices.text = None
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


def _table(title: str, heads: Sequence[str], rows: Sequence[str]) -> None:
    """Print a table as `nvidia-smi mig` does: see the samples of hostcheck/facts/gpu_mig.py, of the MIG user guide."""
    line = f"+{'-' * 68}+"
    lines = [line, f"| {title:<67}|", *(f"| {head:<67}|" for head in heads), f"|{'=' * 68}|"]
    for row in rows:
        lines += [f"| {row:<67}|", line]
    sys.stdout.write("\n".join(lines) + "\n")


def _mig(folder: Path, state: Any, arguments: Sequence[str]) -> int:
    """Do what `nvidia-smi mig` would, in its words; faults go by "-cgi", "-dci" and so on.

    The words are those of the MIG user guide ("Creating GPU Instances", "Destroying GPU Instances"), and for an
    instance that is in use those that people have reported.
    """
    words, gpus = list(arguments), state["gpus"]
    if words[:1] == ["-i"]:
        gpus = [gpu for gpu in gpus if words[1] in (gpu["index"], gpu["uuid"], gpu["pci.bus_id"])]
        words = words[2:]
    action, *rest = words
    if "hangs" in (state["faults"].get(action), state["faults"].get("")):
        time.sleep(3600)
    gpus = [gpu for gpu in gpus if gpu["mig.mode.current"] == "Enabled"]
    if not gpus:
        return _refuse("No MIG-enabled devices found.", 6)
    if action == "-lgip":
        rows = [
            f"  {gpu['index']}  MIG {name:<14} {number:>3}     {_free(gpu, name)}/{most}   16.00    No   16   1   0"
            for gpu in gpus
            for name, (number, most, _) in PROFILES.items()
        ]
        _table("GPU instance profiles:", ("GPU   Name   ID   Instances   Memory   P2P   SM   DEC   ENC",), rows)
        return 0
    if action == "-lgi":
        rows = [
            f"  {gpu['index']}  MIG {one['name']:<14} {PROFILES[one['name']][0]:>3} {one['id']:>8}"
            f" {one['start']:>10}:{one['size']}    "
            for gpu in gpus
            for one in gpu["instances"]
        ]
        if not rows:
            return _refuse("No GPU instances found: Not Found", 6)
        _table("GPU instances:", ("GPU   Name   Profile  Instance   Placement", "ID ID Start:Size"), rows)
        return 0
    if action == "-lci":
        rows = [
            f"  {gpu['index']} {one['id']:>6}       MIG {name:<14} 0 {number:>8}          0:1 "
            for gpu in gpus
            for one in gpu["instances"]
            for number, name in enumerate(one["compute"])
        ]
        if not rows:
            return _refuse("No compute instances found: Not Found", 6)
        _table("Compute instances:", ("GPU     GPU       Name   Profile   Instance   Placement",), rows)
        return 0
    _log(folder, ["mig", *arguments])
    how = state["faults"].get(action)
    if how == "refused":
        return _refuse("Insufficient Permissions", 4)
    act = {"-cgi": _make, "-dci": _end_compute, "-dgi": _end}[action]
    code = 0
    for gpu in gpus if how != "ignored" else ():
        code = act(gpu, rest) or code
    _save(folder, state)
    return code


def _free(gpu: dict[str, Any], name: str) -> int:
    return PROFILES[name][1] - [one["name"] for one in gpu["instances"]].count(name)


def _make(gpu: dict[str, Any], rest: Sequence[str]) -> int:
    """Make instances, one after the other, each where it fits first: what was made before a refusal stays."""
    for name in rest[0].split(","):
        number, _, size = PROFILES.get(name, (-1, 0, 0))
        taken = {slot for one in gpu["instances"] for slot in range(one["start"], one["start"] + one["size"])}
        free = [at for at in range(0, 8, size or 8) if not taken & set(range(at, at + size)) and (size > 1 or at < 7)]
        if number < 0 or not free or not _free(gpu, name):
            what = "Not Supported" if number < 0 else "Insufficient Resources"
            sys.stdout.write(f"Unable to create a GPU instance on GPU  {gpu['index']} using profile {name}: {what}\n")
            return _refuse(f"Failed to create GPU instances: {what}", 3 if number < 0 else 19)
        # Small ones go to the far end first, as on an A100 (MIG user guide): there they lie in the way of large ones.
        start, id = free[-1], 1 + max((one["id"] for one in gpu["instances"]), default=0)
        compute = [name] if "-C" in rest else []
        gpu["instances"].append({"name": name, "id": id, "start": start, "size": size, "compute": compute})
        told = f"on GPU  {gpu['index']}"
        sys.stdout.write(
            f"Successfully created GPU instance ID {id:>2} {told} using profile MIG {name} (ID {number:>2})\n"
        )
        if compute:
            told = f"ID  0 {told} GPU instance ID {id:>2} using profile MIG {name} (ID  0)"
            sys.stdout.write(f"Successfully created compute instance {told}\n")
    return 0


def _end_compute(gpu: dict[str, Any], rest: Sequence[str]) -> int:
    if gpu["pids"]:
        sys.stdout.write(
            f"Unable to destroy compute instance ID  0 from GPU  {gpu['index']}: In use by another client\n"
        )
        return _refuse("Failed to destroy compute instances: In use by another client", 19)
    for one in gpu["instances"]:
        for number in range(len(one["compute"])):
            told = f"from GPU  {gpu['index']} GPU instance ID {one['id']:>2}"
            sys.stdout.write(f"Successfully destroyed compute instance ID {number:>2} {told}\n")
        one["compute"] = []
    return 0


def _end(gpu: dict[str, Any], rest: Sequence[str]) -> int:
    for one in list(gpu["instances"]):
        if one["compute"]:
            told = f"ID {one['id']:>2} from GPU  {gpu['index']}"
            sys.stdout.write(f"Unable to destroy GPU instance {told}: In use by another client\n")
            return _refuse("Failed to destroy GPU instances: In use by another client", 19)
        sys.stdout.write(f"Successfully destroyed GPU instance ID {one['id']:>2} from GPU  {gpu['index']}\n")
        gpu["instances"].remove(one)
    return 0


def main(folder: Path, arguments: Sequence[str]) -> int:
    """Do what nvidia-smi would with these arguments; return its exit status."""
    state = _load(folder)
    if arguments[:1] == ["mig"]:
        return _mig(folder, state, arguments[1:])
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
        elif word == "--query-compute-apps" and words:
            show += word + words.pop(0)
        elif word == "--format" and words:
            style = [name.strip() for name in words.pop(0).split(",")]
        elif word in ("-q", "-x", "-L"):
            show += word
        else:
            if "reset" in word or word == "-r":
                _log(folder, arguments)
            return _refuse(f"Option {word} is not recognized. (The stand-in knows only what hostcheck uses.)")
    for option in ("", *(word for word, _, _ in sets)):
        if state["faults"].get(option) == "hangs":
            time.sleep(3600)
    if sets:
        return _apply(folder, state, chosen, sets, arguments)
    if fields:
        return _query(chosen, fields, style) if "csv" in style else _refuse('"--format=" switch is missing "csv"')
    if show == "--query-compute-appspid":
        sys.stdout.write("".join(f"{pid}\n" for gpu in chosen for pid in gpu["pids"]))
        return 0
    if show == "-L":
        for gpu in chosen:
            sys.stdout.write(f"GPU {gpu['index']}: {gpu['name']} (UUID: {gpu['uuid']})\n")
            names = [name for one in gpu["instances"] for name in one["compute"]]
            for number, name in enumerate(names):
                sys.stdout.write(f"  MIG {name:<12}Device {number:>2}: (UUID: MIG-{FIRST[4:-1]}{number})\n")
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
