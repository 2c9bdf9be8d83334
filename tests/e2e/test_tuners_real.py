"""What tuners write, on the real kernel and before the real programs that read it.

Settings of the whole machine are changed for a moment, one test at a time, and put back whatever happens; folders of
files are private to a mount namespace.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

import tunelab
from hostcheck.tuning.change import Change, Kind
from hostcheck.tuning.journal import End
from hostcheck.tuning.program import apply_program, rollback_program
from support import PlanCase, plan_cases

FOLDERS = (
    "/var/lib", "/etc/sysctl.d", "/etc/tmpfiles.d", "/etc/udev/rules.d", "/etc/security/limits.d",
    "/etc/systemd/system", "/etc/systemd/logind.conf.d", "/etc/hostcheck",
)  # fmt: skip
MOUNTS = "\n".join(f"mkdir -p {folder} && mount -t tmpfs -o mode=755 t {folder}" for folder in FOLDERS)

# Each expectation is one that a usual machine does not meet, and no value harms it for a moment.
WANTED = {
    "kernel.file-max": ("fs/file-max", "{equals = 4194304}"),
    "kernel.perf-access": ("kernel/perf_event_paranoid", "{equals = 3}"),
    "memory.dirty-ratios": ("vm/dirty_ratio", "{equals = 13}"),
    "memory.max-map-count": ("vm/max_map_count", "{equals = 262147}"),
    "memory.overcommit": ("vm/overcommit_memory", ""),
    "memory.swappiness": ("vm/swappiness", "{equals = 11}"),
    "memory.zone-reclaim": ("vm/zone_reclaim_mode", ""),
    "network.congestion": ("net/ipv4/tcp_congestion_control", '{equals = "reno"}'),
}


@cache
def files() -> dict[str, Change]:
    """Return each file that some case of a plan writes, by its path."""
    changes = (change for case in plan_cases() if case.changes for change in case.plan().changes)
    return {change.target: change for change in changes if change.kind is Kind.FILE and change.after}


def files_of(part: str) -> list[Change]:
    """Return those files whose path holds this."""
    return [change for path, change in files().items() if part in path]


def need_tool(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@contextmanager
def settings(names: dict[str, tuple[str, str]]) -> Iterator[dict[Path, str]]:
    """Yield settings of this kernel as they are, alone with them, and put them back at the end."""
    paths = [Path("/proc/sys") / path for path, _ in names.values()]
    paths += [Path("/sys/kernel/mm/transparent_hugepage") / name for name in ("enabled", "defrag", "khugepaged/defrag")]
    with Path(tempfile.gettempdir(), "hostcheck-real-settings.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = {path: path.read_text() for path in paths if path.exists()}
        try:
            yield before
        finally:
            for path, text in before.items():
                if path.read_text() != text:
                    path.write_text(text.partition("[")[2].partition("]")[0] or text)


def hostcheck(prefix: list[str], code: int, *arguments: str) -> str:
    main = "import sys; from hostcheck.cli.main import main; sys.argv[0] = 'hostcheck'; main()"
    done = subprocess.run(
        [*prefix, sys.executable, "-P", "-c", main, *arguments], capture_output=True, text=True, timeout=120,
        env={**os.environ, "NO_COLOR": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == code, f"{arguments}\n{done.stdout}{done.stderr}"
    return done.stdout


MADE_UP = {Kind.WRITE, Kind.FILE, Kind.UNIT, Kind.NIC, Kind.MANUAL}


def first_cases() -> list[PlanCase]:
    """Return, of each tuner, the first case whose changes a folder with files can stand in for."""
    found: dict[str, PlanCase] = {}
    for case in plan_cases():
        kinds = {change.kind for change in case.plan().changes} if case.changes else set()
        if kinds - {Kind.MANUAL} and kinds <= MADE_UP:
            found.setdefault(case.tuner, case)
    return list(found.values())


@pytest.mark.parametrize("case", first_cases(), ids=lambda case: case.tuner)
def test_the_program_makes_what_a_tuner_plans_and_takes_it_back(case: PlanCase, tmp_path: Path) -> None:
    host = tunelab.made_up(tmp_path, ["dash"])
    plan = replace(case.plan(), machine=tunelab.MACHINE, boot=tunelab.BOOT)
    plan = replace(plan, changes=tuple(replace(change, cuts=False) for change in plan.changes))
    places = {}
    for change in plan.changes:
        path = change.target
        if change.kind is Kind.NIC:
            path = "/sys/class/net/" + path.replace(" ", "/")
        if change.kind in (Kind.WRITE, Kind.NIC):
            host.put(path, f"{change.before}\n")
        elif change.kind is Kind.FILE and change.before is not None:
            host.put(path, change.before)
        if change.kind in (Kind.WRITE, Kind.NIC, Kind.FILE):
            places[path] = change
    before = host.state()
    done = host.run(apply_program(plan))
    assert done.outcome.end is End.COMMITTED, (done.outcome, done.err)
    for path, change in places.items():
        assert host.get(path) == (change.after if change.kind is Kind.FILE else f"{change.after}\n")
    for change in plan.changes:
        if change.kind is Kind.UNIT:
            assert host.get(f"/units/{change.target}").strip() == change.after
    back = host.run(rollback_program())
    assert back.outcome.end is End.ROLLED_BACK, (back.outcome, back.err)
    # The stand-in for systemctl remembers a unit that was enabled once.
    assert {name: it for name, it in host.state().items() if not str(name).startswith("units")} == {
        name: it for name, it in before.items() if not str(name).startswith("units")
    }


def test_settings_of_this_kernel_there_and_back(tmp_path: Path) -> None:
    with settings(WANTED) as before, tunelab.inside(MOUNTS) as prefix:
        tuners = [*WANTED, "memory.thp-enabled", "memory.thp-defrag", "memory.khugepaged"]
        wishes = [f"{name}={wish}" for name, (_, wish) in WANTED.items() if wish]
        for name, file in (("memory.overcommit", "overcommit_memory"), ("memory.zone-reclaim", "zone_reclaim_mode")):
            seen = before[Path("/proc/sys/vm") / file].strip()
            wishes.append(f"{name}={'{equals = 0}' if seen == '1' else '{equals = 1}'}")
        for name, others in (("enabled", ("madvise", "never")), ("defrag", ("madvise", "defer"))):
            seen = before[Path("/sys/kernel/mm/transparent_hugepage") / name]
            other = next(word for word in others if f"[{word}]" not in seen)
            wishes.append(f'memory.thp-{name}={{equals = "{other}"}}')
        seen = before[Path("/sys/kernel/mm/transparent_hugepage/khugepaged/defrag")].strip()
        wishes.append(f"memory.khugepaged={{equals = {int(seen != '1')}}}")
        chosen = [word for tuner in tuners for word in ("--only", tuner)]
        plan = tmp_path / "plan.json"
        arguments = [*chosen, *(word for wish in wishes for word in ("--set", wish))]

        hostcheck(prefix, 1, "tune", "plan", *arguments, "-o", str(plan))
        changes = json.loads(plan.read_text())["changes"]
        writes = {Path(change["target"]): change for change in changes if change["kind"] == "write"}
        # No swap, no swappiness; in a network namespace of its own a kernel may offer no other congestion control.
        assert len(writes) >= 9
        hostcheck(prefix, 0, "tune", "apply", str(plan), "--yes", *arguments[len(chosen) :])
        for path, change in writes.items():
            if not str(path).startswith("/proc/sys/net"):
                text = path.read_text()
                assert (text.partition("[")[2].partition("]")[0] or text.strip()) == change["after"], path
        hostcheck(prefix, 0, "tune", "plan", *arguments)
        hostcheck(prefix, 0, "tune", "rollback", "--yes")
        assert {path: path.read_text() for path in before} == before
        left = subprocess.run(
            [*prefix, "find", *FOLDERS[1:], "-type", "f"], capture_output=True, text=True, check=True
        ).stdout
        assert left == ""


def swap_areas() -> list[tuple[str, str, str]]:
    """Return each swap area's file, size and priority; how much of it is used is the kernel's to say."""
    lines = [line.rsplit(maxsplit=4) for line in Path("/proc/swaps").read_text().splitlines()[1:]]
    return [(file, size, priority) for file, _, size, _, priority in lines]


def test_swap_huge_pages_and_queues_there_and_back(tmp_path: Path) -> None:
    """A swap file of our own, some huge pages, and how far the disks of this machine read ahead."""
    swap, pages = tmp_path / "swap file", Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
    queues = [path for path in Path("/sys/block").glob("[nsv]*/queue/read_ahead_kb") if "nbd" not in str(path)]
    tunelab._tools()
    swap.write_bytes(bytes(16 << 20))
    swap.chmod(0o600)
    subprocess.run(["mkswap", str(swap)], check=True, capture_output=True)
    with settings({}), tunelab.inside(MOUNTS) as prefix:
        if not pages.exists() or not queues or swap_areas():
            pytest.skip("needs huge pages of 2 MiB, a disk, and no swap of the machine's own")
        # About 16 more, which can be had where memory is in pieces, too; a hundredth of a GiB is what can be said.
        gib = round((int(pages.read_text()) + 16) * 2 / 1024, 2)
        wanted = {
            "memory.hugepages": f"{{equals = {gib}}}",
            "memory.swap": "{at_most = 0}",
            "storage.read-ahead": "{equals = 2048}",
        }
        arguments = [word for name, wish in wanted.items() for word in ("--only", name, "--set", f"{name}={wish}")]
        watched = {path: path.read_text() for path in (pages, *queues)}
        subprocess.run(["swapon", "-p", "5", str(swap)], check=True)
        try:
            areas = swap_areas()
            assert len(areas) == 1
            hostcheck(prefix, 0, "tune", "apply", "--yes", *arguments)
            assert swap_areas() == []
            assert int(pages.read_text()) == math.ceil(gib * 1024 / 2) > int(watched[pages])
            assert {path.read_text() for path in queues} == {"2048\n"}
            hostcheck(prefix, 0, "tune", "plan", *arguments)
            hostcheck(prefix, 0, "tune", "rollback", "--yes")
            assert {path: path.read_text() for path in watched} == watched
            assert swap_areas() == areas
        finally:
            subprocess.run(["swapoff", str(swap)], capture_output=True, check=False)
            for path, text in watched.items():
                if path.read_text() != text:
                    path.write_text(text)


def test_systemd_takes_our_units(tmp_path: Path) -> None:
    analyze = need_tool("systemd-analyze")
    units = files_of("/etc/systemd/system/hostcheck-")
    assert len(units) >= 3
    for unit in units:
        path = tmp_path / unit.target.rpartition("/")[2]
        path.write_text(unit.after or "")
        done = subprocess.run([analyze, "verify", str(path)], capture_output=True, text=True, check=False)
        # What a unit starts need not be installed here.
        told = [line for line in done.stderr.splitlines() if path.name in line and "is not executable" not in line]
        assert not told, told


def test_systemd_passes_over_swap_units_of_which_our_file_says_so(tmp_path: Path) -> None:
    analyze = need_tool("systemd-analyze")
    names = {
        "dev-disk-.swap.d": (r"dev-disk-by\x2duuid-18e645be.swap", "/dev/disk/by-uuid/18e645be"),
        "swap.img.swap.d": ("swap.img.swap", "/swap.img"),
    }
    drop_ins = {change.target.split("/")[-2]: change for change in files_of(".swap.d/")}
    for folder, (name, source) in names.items():
        (tmp_path / name).write_text(f"[Swap]\nWhat={source}\n")
        for path, expected in ((tmp_path / "gone", 0), (tmp_path / folder, 1)):
            path.mkdir()
            (path / "90-hostcheck-off.conf").write_text(drop_ins[folder].after or "")
            done = subprocess.run(
                [analyze, "condition", "--unit", name], capture_output=True, text=True, check=False,
                env={**os.environ, "SYSTEMD_UNIT_PATH": str(tmp_path)},
            )  # fmt: skip
            if "Unknown" in done.stderr or "unrecognized" in done.stderr:
                pytest.skip("this systemd-analyze judges no unit's conditions")
            assert done.returncode == expected, f"{name}: {done.stdout}{done.stderr}"
            shutil.rmtree(path) if expected == 0 else None


def test_tmpfiles_writes_what_our_files_say(tmp_path: Path) -> None:
    tool = need_tool("systemd-tmpfiles")
    changes = files_of("/etc/tmpfiles.d/")
    assert len(changes) >= 8
    for change in changes:
        root = tmp_path / change.target.rpartition("/")[2]
        lines = re.findall(r"^w (\S+) - - - - (.*)$", change.after or "", re.MULTILINE)
        assert lines
        for path, _ in lines:
            file = root / path.lstrip("/").replace("*", "0")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("")
        config = tmp_path / "one.conf"
        config.write_text(change.after or "")
        done = subprocess.run(
            [tool, "--create", f"--root={root}", str(config)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        for path, value in lines:
            assert (root / path.lstrip("/").replace("*", "0")).read_text().strip() == value


def test_sysctl_reads_our_files(tmp_path: Path) -> None:
    tool = need_tool("sysctl")
    if "--dry-run" not in subprocess.run([tool, "--help"], capture_output=True, text=True, check=False).stdout:
        pytest.skip("this sysctl cannot say what it would do")
    for change in files_of("/etc/sysctl.d/"):
        path = tmp_path / "one.conf"
        path.write_text(change.after or "")
        line = (change.after or "").splitlines()[-1]
        if not (Path("/proc/sys") / line.split()[0].replace(".", "/")).exists():
            continue
        done = subprocess.run([tool, "--dry-run", "-p", str(path)], capture_output=True, text=True, check=False)
        assert done.stdout.strip() == line, done.stderr


def test_sessions_get_limits_from_files_like_ours() -> None:
    """By PAM, as a login does it: su reads limits.d. Lower numbers stand in, since not every root may raise a limit."""
    need_tool("su")
    if not Path("/etc/pam.d/su").exists() or "pam_limits.so" not in Path("/etc/pam.d/su").read_text():
        pytest.skip("su of this machine does not set limits")
    script = MOUNTS
    for change in files_of("/etc/security/limits.d/90-hostcheck-"):
        low = "1024" if "memlock" in change.target else "300"
        text = re.sub(r"(soft|hard) (memlock|nofile) (\w+)", rf"\1 \2 {low}", change.after or "")
        assert low in text
        # A soft limit alone would leave the hard one at that of process 1, which not every root may set.
        script += f"\ncat >{change.target} <<'END'\n{text}{text.replace('soft', 'hard')}END"
    with tunelab.inside(script) as prefix:
        done = subprocess.run(
            [*prefix, "su", "-s", "/bin/sh", "nobody", "-c", "ulimit -l; ulimit -n"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert done.stdout.split() == ["1024", "300"]


def interrupts() -> dict[str, list[Path]]:
    """Return the affinity files of each PCI function that has message interrupts."""
    found: dict[str, list[Path]] = {}
    for path in sorted(Path("/sys/bus/pci/devices").glob("*/msi_irqs/*"), key=lambda path: int(path.name)):
        file = Path("/proc/irq") / path.name / "smp_affinity_list"
        if file.exists():
            found.setdefault(path.parts[5], []).append(file)
    return found


def test_the_script_for_interrupts_hands_them_out_in_turn() -> None:
    """On the interrupts of a real device, for a moment; some drivers keep theirs, and the script goes on."""
    devices = interrupts()
    if os.geteuid() != 0 or not devices:
        pytest.skip("needs root and a device with message interrupts")
    address = max(devices, key=lambda name: len(devices[name]))
    change = next(change for change in files_of("/etc/hostcheck/tune.d/irq-nic.sh"))
    script = (change.after or "").replace("0000:1a:00.0", address).replace("set -- 0 1 4 5", "set -- 1 0")
    with settings({}):
        before = {path: path.read_text() for path in devices[address]}
        try:
            done = subprocess.run(["sh"], input=script, capture_output=True, text=True, check=False)
            after = [path.read_text().strip() for path in devices[address]]
        finally:
            for path, text in before.items():
                if path.read_text() != text:
                    path.write_text(text)
    refused = done.stderr.count("error")
    assert len([cpu for cpu in after if cpu in ("0", "1")]) >= len(after) - refused
    if not refused:
        assert after == [("1", "0")[place % 2] for place in range(len(after))]
    assert {path: path.read_text() for path in before} == before
