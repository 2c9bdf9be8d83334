"""Real kernel logs, command lines, settings and units, held against what is known of the machines they came from."""

from __future__ import annotations

import os
import re
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from hostcheck.facts.base import Facts
from hostcheck.facts.hugepages import parse_plan
from hostcheck.facts.kernel import CMDLINE, INIT_ON_ALLOC, parse_cmdline
from hostcheck.facts.kernel_log import Kind, Trouble, find_trouble, parse_kernel_log
from hostcheck.facts.limits import UNLIMITED, parse_settings, parse_unit_limit
from hostcheck.facts.memory import MEMINFO, SWAP, parse_meminfo
from hostcheck.snapshot.local import collect
from support import Case

CORPUS = Path(os.environ.get("HOSTCHECK_CORPUS") or Path(__file__).parents[3] / "shared" / "corpus")
pytestmark = pytest.mark.skipif(not CORPUS.is_dir(), reason="there is no corpus folder; HOSTCHECK_CORPUS names one")

# Messages, and what they tell of. Link losses of one device are counted together.
LOGS: dict[str, tuple[int, dict[tuple[Kind, str], int]]] = {
    "azure-ib6-flaps.log": (14, {(Kind.LINK_LOST, "ib6"): 6}),
    "b200-nvrm-noise.log": (200, {}),
    "gpud-boot-mlx5-27w.log": (
        2362,
        {(Kind.LINK_LOST, name): 1 for name in ("enp157s0f0np0", "enp157s0f1np1", "enp27s0f1np1")},
    ),
    "gpud-kmsg-nvswitch.log": (47, {}),
    "gpud-kmsg-peermem.log": (8, {}),
    "gpud-pstore-erst.txt": (39, {(Kind.OOPS, ""): 1}),
    "gpud-pstore-panic.txt": (410, {(Kind.PANIC, ""): 1}),
    "gpud-xid119-gsp.log": (43, {}),
    "gpud-xid13-43-oom.log": (24, {(Kind.OOM_KILL, "httpd"): 2, (Kind.OOM_KILL, "python"): 1}),
    "gpud-xid48-63-94.log": (41, {}),
    "npd-docker-hung.log": (19, {(Kind.HUNG_TASK, "docker"): 1}),
    "npd-null-pointer.log": (36, {(Kind.OOPS, ""): 1}),
}


def read(name: str) -> str:
    return (CORPUS / name).read_text("utf-8", "replace")


def judge(check: str, **changes: Any) -> tuple[str, dict[str, str]]:
    """Return what a check says of the synthetic host with some files of the corpus in place of its own."""
    result = Case(check=check, name="corpus", status="", table="", **changes).judge()
    return result.status.value, {finding.subject: finding.status.value for finding in result.findings}


def test_no_log_is_left_out() -> None:
    assert {path.name for path in (CORPUS / "kmsg").iterdir()} == set(LOGS)


@pytest.mark.parametrize("name", LOGS)
def test_logs(name: str) -> None:
    lines = parse_kernel_log(read(f"kmsg/{name}"))
    count, troubles = LOGS[name]
    assert len(lines) == count
    assert Counter((found.kind, found.who) for found in find_trouble(lines)) == Counter(troubles)
    left = [line.text for line in lines if re.match(r"<\d|\[ *\d+\.\d+\]|kern +:|\d{4}-\d\d-\d\dT|[\d,]+-;", line.text)]
    assert left == []


def test_a_panic_comes_last_in_its_dump() -> None:
    lines = parse_kernel_log(read("kmsg/gpud-pstore-panic.txt"))
    times = [line.at_s for line in lines if line.at_s is not None]
    assert (times[0], max(times)) == (2.608284, times[-1])
    [panic] = [found for found in find_trouble(lines) if found.kind is Kind.PANIC]
    assert (panic.line.at_s, panic.line.level) == (3098.275469, 0)
    assert panic.line.text == "Kernel panic - not syncing: Test panic triggered by crash_test module"


def test_levels_and_stamps() -> None:
    first: Trouble = next(find_trouble(parse_kernel_log(read("kmsg/gpud-xid13-43-oom.log"))))
    assert (first.line.level, first.line.at_s) == (4, None)
    assert first.line.when == "2025-01-21T08:43:30,287197+00:00"
    assert parse_kernel_log(read("kmsg/gpud-xid119-gsp.log"))[0].when == "Sun Feb 23 16:24:18 2025"


@pytest.mark.parametrize(
    ("name", "check", "status"),
    [
        ("npd-null-pointer.log", "kernel.oops", "fail"),
        ("gpud-pstore-erst.txt", "kernel.oops", "fail"),
        ("b200-nvrm-noise.log", "kernel.oops", "pass"),
        ("gpud-boot-mlx5-27w.log", "kernel.oops", "pass"),
        ("npd-docker-hung.log", "kernel.hung-tasks", "fail"),
        ("b200-nvrm-noise.log", "kernel.hung-tasks", "unknown"),
        ("gpud-boot-mlx5-27w.log", "kernel.hardware-errors", "unknown"),
    ],
)
def test_verdicts_on_logs(name: str, check: str, status: str) -> None:
    assert judge(check, out={"kernel.dmesg": read(f"kmsg/{name}")})[0] == status


def test_the_record_of_a_panic_is_found() -> None:
    dump = read("kmsg/gpud-pstore-panic.txt")
    assert judge("kernel.crash-records", files={"/sys/fs/pstore/dmesg-erst-1": dump})[0] == "fail"


def test_command_line_of_a_real_time_host() -> None:
    text = read("proc/2xgold6230-cmdline.txt")
    found = parse_cmdline(text)
    assert (found.get("iommu"), found.get("intel_iommu"), found.get("mce"), found.get("idle")) == (
        "pt", "on", "off", "poll",
    )  # fmt: skip
    assert found.get("isolcpus") == "managed_irq,0-4,11-79"
    assert found.all("tsc") == ("reliable", "reliable")
    assert found.has("nosoftlockup")
    assert parse_plan(text) == {2048: 0}
    files = {"/proc/cmdline": text}
    assert judge("kernel.machine-checks", files=files)[0] == "fail"
    assert judge("kernel.cmdline-conflicts", files=files)[0] == "pass"


def test_command_line_and_memory_of_a_gb10() -> None:
    found = parse_cmdline(read("proc/gb10-cmdline.txt"))
    assert (found.get("iommu.passthrough"), found.get("init_on_alloc"), found.get("pci")) == ("0", "0", "pcie_bus_safe")
    assert found.get("crashkernel") == "1G-:0M"
    info = parse_meminfo(read("proc/gb10-meminfo.txt"))
    assert (info.total_kib, info.swap_total_kib, info.swap_free_kib) == (125508468, 16777212, 16541600)
    assert info.corrupted_kib == 0


def test_the_tree_of_a_gb10(tmp_path: Path) -> None:
    with tarfile.open(CORPUS / "host-sysfs" / "dgx-gb10.tar.bz2") as archive:
        archive.extractall(tmp_path, filter="data")
    probes = {probe.id: probe for fact in (CMDLINE, INIT_ON_ALLOC, MEMINFO, SWAP) for probe in fact.probes()}
    facts = Facts(collect(probes.values(), root=str(tmp_path / "nvidia-dgx-gb10")))
    assert facts.get(MEMINFO).total_kib == 125508468
    assert facts.get(INIT_ON_ALLOC) is False
    with pytest.raises(Exception, match="counts swap"):
        facts.get(SWAP)


def snapshot(name: str) -> tuple[dict[str, str], dict[str, str], dict[str, dict[str, Any]]]:
    """Return the settings by path, the kernel arguments, and the unit properties of an AICR snapshot."""
    settings: dict[str, str] = {}
    arguments: dict[str, str] = {}
    units: dict[str, dict[str, Any]] = {}
    for measurement in yaml.safe_load(read(f"sysctl/{name}"))["measurements"]:
        for part in measurement["subtypes"]:
            if part["subtype"] == "sysctl":
                settings = {path: str(value) for path, value in part["data"].items()}
            elif part["subtype"] == "grub":
                arguments = part["data"]
            elif part["subtype"].endswith(".service"):
                units[part["subtype"]] = part["data"]
    return settings, arguments, units


GB200 = {
    "kernel.numa-balancing": "pass",
    "kernel.file-max": "pass",
    "kernel.perf-access": "fail",
    "kernel.version": "pass",
    "memory.zone-reclaim": "pass",
    "memory.overcommit": "pass",
    "memory.max-map-count": "pass",
    "memory.min-free": "pass",
    "memory.dirty-ratios": "pass",
    "memory.swappiness": "not-applicable",
}
AICR = {
    "gb200-aicr-snapshot.yaml": GB200,
    "h100-aicr-snapshot.yaml": {**GB200, "kernel.numa-balancing": "fail"},
}


def test_no_snapshot_is_left_out() -> None:
    assert {path.name for path in (CORPUS / "sysctl").iterdir()} == set(AICR)


@pytest.mark.parametrize(("name", "check"), [(name, check) for name, table in AICR.items() for check in table])
def test_settings_of_snapshots(name: str, check: str) -> None:
    settings, _, _ = snapshot(name)
    assert len(settings) > 200
    assert judge(check, files=settings)[0] == AICR[name][check]


@pytest.mark.parametrize("name", AICR)
def test_huge_pages_of_snapshots(name: str) -> None:
    _, arguments, _ = snapshot(name)
    # The snapshot sorts the arguments; the kernel takes the size before the count.
    line = " ".join(f"{key}={arguments[key]}" for key in ("hugepagesz", "hugepages"))
    assert parse_plan(line) == {2048: 5128}
    pool = "/sys/kernel/mm/hugepages/hugepages-2048kB"
    full = {"/proc/cmdline": line, f"{pool}/nr_hugepages": "5128", f"{pool}/free_hugepages": "1024"}
    assert judge("memory.hugepages", files=full)[0] == "pass"
    assert judge("memory.hugepages", files={**full, f"{pool}/nr_hugepages": "3000"})[0] == "fail"


def test_command_line_of_a_gb200() -> None:
    _, arguments, _ = snapshot("gb200-aicr-snapshot.yaml")
    line = " ".join(f"{key}={value}" if value else key for key, value in arguments.items())
    assert parse_cmdline(line).get("numa_balancing") == "disable"
    assert judge("kernel.init-on-alloc", files={"/proc/cmdline": line}) == ("pass", {"host": "pass"})


def test_limits_of_containerd_on_a_gb200() -> None:
    """What systemd shows as properties is written back as the unit that it came from."""
    _, _, units = snapshot("gb200-aicr-snapshot.yaml")
    files = {}
    for service, properties in units.items():
        pairs = {name: properties[f"Limit{name}"] for name in ("MEMLOCK", "NOFILE", "STACK")}
        lines = [f"Limit{name}={'infinity' if value == UNLIMITED else value}" for name, value in pairs.items()]
        files[f"/usr/lib/systemd/system/{service}"] = "\n".join(["[Service]", *lines])
    status, found = judge("kernel.memlock", files=files)
    assert (status, found["containerd"], found["kubelet"]) == ("pass", "pass", "not-applicable")
    assert "docker" not in found
    assert judge("kernel.stack-limit", files=files)[1]["containerd"] == "pass"


def ulimit(text: str) -> str:
    """Write the output of `ulimit -a` as /proc/self/limits."""
    names = {"stack": ("Max stack size", 1024), "locked": ("Max locked memory", 1024), "nofiles": ("Max open files", 1)}
    lines = []
    for line in text.splitlines():
        word, value = re.split(r"[ (]", line)[0], line.split()[-1]
        if word in names:
            name, unit = names[word]
            limit = value if value == "unlimited" else str(int(value) * unit)
            lines.append(f"{name:<26}{limit:<21}{limit:<21}units")
    return "\n".join(lines)


def test_limits_of_a_b200_guest() -> None:
    files = {"/proc/self/limits": ulimit(read("systemd/b200-ulimit.txt"))}
    assert judge("kernel.memlock", files=files)[1]["session"] == "fail"
    assert judge("kernel.nofile", files=files)[1]["session"] == "pass"
    assert judge("kernel.stack-limit", files=files)[1]["session"] == "pass"


def test_unit_of_slurmd() -> None:
    unit = read("systemd/shine-slurmd.service")
    settings = parse_settings(unit, "Service")
    assert {key: settings[key] for key in ("LimitMEMLOCK", "LimitNOFILE", "LimitSTACK", "Delegate")} == {
        "LimitMEMLOCK": "infinity", "LimitNOFILE": "131072", "LimitSTACK": "infinity", "Delegate": "yes",
    }  # fmt: skip
    assert parse_unit_limit(settings["LimitMEMLOCK"]).soft == UNLIMITED
    files = {"/usr/lib/systemd/system/slurmd.service": unit}
    assert judge("kernel.memlock", files=files)[1]["slurmd"] == "pass"
    assert judge("kernel.nofile", files=files)[1]["slurmd"] == "pass"
    finite = unit.replace("LimitMEMLOCK=infinity", "LimitMEMLOCK=8G")
    assert judge("kernel.memlock", files={"/usr/lib/systemd/system/slurmd.service": finite})[1]["slurmd"] == "fail"


def test_a_drop_in_without_limits_changes_none() -> None:
    text = read("systemd/shine-persistent-driver.conf")
    assert parse_settings(text, "Service") == {"ExecStartPre": "/usr/bin/nvidia-smi -pm 1"}
    files = {"/etc/systemd/system/slurmd.service.d/persistent-driver.conf": text}
    assert judge("kernel.memlock", files=files)[1]["slurmd"] == "pass"
