"""What it costs to plan, to apply a plan of 30 changes here and to take it back, and what of it is the journal's fsync.

20 settings of the real kernel, in a network namespace of their own, and 10 drop-in files on the disk of the temporary
folder. Run it with `make bench-tune` or `python benchmarks/tune.py [--rounds N]`, as root. Nothing here is a test.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from hostcheck.tuning.change import Change, Kind, Plan, Scope
from hostcheck.tuning.journal import End, read_outcomes
from hostcheck.tuning.program import apply_program, rollback_program

SETTINGS, FILES = 20, 10
FOLDER = "/proc/sys/net/ipv4/conf/lo"
DURABLE = 'sync "$@" 2>/dev/null || sync'
INSIDE = ["unshare", "-m", "-n", "sh", "-ec"]


@dataclass(frozen=True)
class Costs:
    """Seconds of one round."""

    apply: float
    back: float


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    if os.geteuid() != 0:
        sys.exit("this changes settings in a namespace of its own, and must be run as root")
    plan = _plan()
    shells = [name for name in ("sh", "bash", "busybox") if shutil.which(name)]
    print(f"{platform.node()}: {os.cpu_count()} CPUs, Linux {platform.release()}, {_disk()}")
    print(f"{len(plan.changes)} changes; median of {rounds} rounds\n")
    for name in shells:
        whole = [_round(plan, name, durable=True) for _ in range(rounds)]
        quick = [_round(plan, name, durable=False) for _ in range(rounds)]
        apply = statistics.median(each.apply for each in whole)
        without = statistics.median(each.apply for each in quick)
        limit = "   (at most 2.0)" if name == "sh" else ""
        real = os.path.realpath(shutil.which(name) or name)
        print(f"{f'apply, {name} ({Path(real).name})':34} {apply:8.3f} s{limit}")
        print(f"{'  of which fsync':34} {apply - without:8.3f} s")
        print(f"{'  take it back':34} {statistics.median(each.back for each in whole):8.3f} s")
    planning(rounds)


def planning(rounds: int) -> None:
    """Print what a plan for a saved snapshot costs above an audit of it, each in a process of its own."""
    root = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder) / "here.tar.gz"
        subprocess.run([*_HOSTCHECK, "collect", "-o", str(here)], check=True, capture_output=True)
        print()
        for name, path in (("h200x8", root / "tests/hosts/h200x8.tar.gz"), ("this host", here)):
            audit = statistics.median(_seconds("audit", path) for _ in range(rounds))
            plan = statistics.median(_seconds("tune", "plan", path) for _ in range(rounds))
            print(f"{f'audit, {name}':34} {audit:8.3f} s")
            print(f"{'  plan':34} {plan:8.3f} s")
            print(f"{'  above the audit':34} {plan - audit:8.3f} s   (at most 0.3)")


_HOSTCHECK = [sys.executable, "-P", "-c", "from hostcheck.cli.main import main; main()"]


def _seconds(*words: str | Path) -> float:
    *command, path = map(str, words)
    begun = time.perf_counter()
    done = subprocess.run([*_HOSTCHECK, *command, "--from", path], capture_output=True, check=False)
    seconds = time.perf_counter() - begun
    assert done.returncode in (0, 1, 3), done.stderr.decode()
    return seconds


def _disk() -> str:
    found = subprocess.run(
        ["df", "--output=fstype", tempfile.gettempdir()], capture_output=True, text=True, check=False
    )
    return f"{tempfile.gettempdir()} on {found.stdout.split()[-1] if found.stdout else 'an unknown file system'}"


def _plan() -> Plan:
    """Return a plan of settings that are 0 or 1, which it turns round, and of new files."""
    found = subprocess.run(
        [*INSIDE, f"cd {FOLDER} && grep -Hx '[01]' $(find * -perm -200)"], capture_output=True, text=True, check=True
    ).stdout.split()
    changes = []
    for line in found[:SETTINGS]:
        name, _, value = line.partition(":")
        changes.append(_change(Kind.WRITE, f"{FOLDER}/{name}", value, str(1 - int(value))))
    for number in range(FILES):
        text = f"# Written by hostcheck tune\nvm.swappiness = {number}\n" + "# why it is so\n" * 10
        changes.append(_change(Kind.FILE, f"/etc/sysctl.d/90-hostcheck-{number}.conf", None, text))
    assert len(changes) == SETTINGS + FILES
    return Plan(
        host="here",
        machine="",
        boot=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        made="",
        tool="",
        role="",
        changes=tuple(changes),
    )


def _change(kind: Kind, target: str, before: str | None, after: str | None) -> Change:
    scope = Scope.PERSISTENT if kind is Kind.FILE else Scope.RUNTIME
    return Change(kind=kind, target=target, before=before, after=after, scope=scope, why="for the benchmark's sake")


def _round(plan: Plan, shell: str, *, durable: bool) -> Costs:
    """Apply the plan on a fresh root, and take it back."""
    with tempfile.TemporaryDirectory() as name:
        root, tools = Path(name, "root"), Path(name, "bin")
        for folder in ("proc", "etc", "var/lib"):
            (root / folder).mkdir(parents=True)
        tools.mkdir()
        (tools / "sh").symlink_to(shutil.which(shell) or shell)
        programs = []
        for program in (apply_program(plan), rollback_program()):
            assert program.count(DURABLE) == 1
            programs.append(program if durable else program.replace(DURABLE, ":"))
        apply, back = (root.parent / each for each in ("apply", "back"))
        apply.write_text(programs[0])
        back.write_text(programs[1])
        # Both in one namespace, each timed by itself.
        script = f"""
mount --bind /proc {root}/proc
echo ready; read go
{tools}/sh -s <{apply}
echo; echo ready; read go
{tools}/sh -s <{back}
"""
        child = subprocess.Popen(
            [*INSIDE, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "HOSTCHECK_ROOT": str(root), "PATH": f"{tools}:{os.environ['PATH']}"},
        )
        assert child.stdin is not None
        assert child.stdout is not None
        times = []
        for wanted in (End.COMMITTED, End.ROLLED_BACK):
            assert child.stdout.readline() == "ready\n"
            started = time.perf_counter()
            child.stdin.write("go\n")
            child.stdin.flush()
            said = []
            while True:
                line = child.stdout.readline()
                if line in ("\n", ""):
                    break
                said.append(line)
                if line.startswith("end\t"):
                    times.append(time.perf_counter() - started)
            outcome = read_outcomes("".join(said).encode())[-1]
            assert outcome.end is wanted, outcome
        child.stdin.close()
        child.stdout.close()
        assert child.wait() == 0
        return Costs(*times)


if __name__ == "__main__":
    main()
