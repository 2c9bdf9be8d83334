"""`hostcheck tune` on other hosts, over real sshd processes.

They share one kernel, but not what is changed here: TCP's congestion control and a link's packet size belong to a
network namespace, and the files in /etc/sysctl.d and /var/lib/hostcheck to a mount namespace.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import sshlab
from hostcheck.errors import HostcheckError
from hostcheck.fleet.targets import Target
from hostcheck.transport.base import Reach
from hostcheck.transport.ssh import SshOptions
from hostcheck.tuning.change import Change, Kind, Plan, Scope
from hostcheck.tuning.hosts import Here, There
from hostcheck.tuning.journal import End, StepState, read_history, read_outcomes
from hostcheck.tuning.measure import MEASURES, SAMPLES
from hostcheck.tuning.planfile import plan_text
from hostcheck.tuning.program import apply_program, history_program, recover_program
from sshlab import Host, Lab
from tunelab import CHECKPOINT
from waiting import until

SETTING = "/proc/sys/net/ipv4/tcp_congestion_control"
DROP_IN = "/etc/sysctl.d/90-hostcheck-net.ipv4.tcp_congestion_control.conf"
NAME = "network.congestion"
ONLY = ("--only", NAME, "--set", f"{NAME}=reno")
OWN = (
    "mount -t tmpfs -o mode=755 t /var/lib",
    "mkdir -p /etc/sysctl.d",
    "mount -t tmpfs -o mode=755 t /etc/sysctl.d",
)
ENVIRONMENT = {**os.environ, "NO_COLOR": "1", "COLUMNS": "100"}
START = Path(SETTING).read_text().strip()
"""What a new namespace begins with; "reno" is what the tests want, since every kernel has it."""


@dataclass
class Fleet:
    """Hosts of a lab, each with a machine-id of its own."""

    lab: Lab
    folder: Path

    def host(self, name: str, *before: str) -> Host:
        number = len(self.lab.hosts) + 1
        identity = self.lab.folder / f"machine-{name}"
        if name not in self.lab.hosts:
            identity.write_text(f"{number:032x}\n")
            identity.chmod(0o644)
        return self.lab.host(name, before=[*OWN, f"mount --bind {identity} /etc/machine-id", *before])

    def machine(self, name: str) -> str:
        return (self.lab.folder / f"machine-{name}").read_text().strip()

    def sh(self, name: str, line: str) -> str:
        """Run a line of sh on a host, as somebody else there would."""
        process = self.lab.hosts[name].process
        assert process is not None
        # The process is `ip`, which has become the sshd of the host.
        words = ["nsenter", "-t", str(process.pid), "-m", "-n", "sh", "-c", line]
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=180).stdout

    def value(self, name: str) -> str:
        return self.sh(name, f"cat {SETTING}").strip()

    def state(self, name: str) -> str:
        return self.sh(name, f"cat {SETTING} /sys/class/net/eth0/mtu; ls -lA --time-style=+ /etc/sysctl.d")

    def clean(self) -> None:
        for name in self.lab.hosts:
            if self.lab.hosts[name].process is not None:
                self.sh(name, f"echo {START} >{SETTING} || :; rm -rf /etc/sysctl.d/* /var/lib/hostcheck")

    def words(self, *arguments: str | Path) -> list[str]:
        code = "from hostcheck.cli.main import main; main()"
        return [sys.executable, "-P", "-c", code, "tune", *map(str, arguments), "--ssh-config", str(self.lab.config)]

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.words(*arguments), capture_output=True, text=True, timeout=120, check=False,
            stdin=subprocess.DEVNULL, cwd=self.folder, env=ENVIRONMENT,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def tune(self, *arguments: str | Path, code: int) -> str:
        done = self.run(*arguments)
        assert done.returncode == code, f"{done.returncode}\n{done.stdout}{done.stderr}"
        return " ".join((done.stdout + done.stderr).split())


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    sshlab.require()
    with sshlab.lab() as built:
        yield built


@pytest.fixture
def fleet(lab: Lab, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(lab, tmp_path)
    for name in ("a", "b", "c", "d"):
        made.host(name)
    made.clean()
    yield made
    made.clean()


def addresses(fleet: Fleet, *names: str) -> list[str]:
    return [fleet.lab.hosts[name].address for name in names]


def test_equal_plans_are_shown_once_with_their_hosts(fleet: Fleet) -> None:
    fleet.sh("d", f"echo reno >{SETTING}")
    said = fleet.tune("plan", *addresses(fleet, "a", "b", "c", "d"), *ONLY, code=1)
    ends = [address.rpartition(".")[2] for address in addresses(fleet, "a", "b", "c")]
    assert "4 hosts" in said
    assert "(3 hosts)" in said
    assert "(1 host) Plan for training: nothing to change" in said
    assert said.count(f"{SETTING}: {START} -> reno") == 1
    assert ends == sorted(ends)
    assert fleet.value("a") == START


def test_applied_verified_and_taken_back_everywhere(fleet: Fleet) -> None:
    names = ("a", "b", "c", "d")
    hosts = addresses(fleet, *names)
    before = {name: fleet.state(name) for name in names}
    said = fleet.tune("apply", *hosts, *ONLY, "--yes", "--wave", "2", code=0)
    assert "the first of each plan" in said
    assert "wave 2" in said
    assert "changed, and verified" in said
    for name in names:
        assert fleet.value(name) == "reno"
        assert "reno" in fleet.sh(name, f"cat {DROP_IN}")
    assert "nothing to change" in fleet.tune("plan", *hosts, *ONLY, code=0)
    assert fleet.tune("history", *hosts, code=0).count("committed") == 4
    assert "changed, and verified" in fleet.tune("verify", *hosts, "--set", f"{NAME}=reno", code=0)
    assert "not verified" in fleet.tune("verify", *hosts, "--set", f"{NAME}=bbr", code=4)
    assert "taken back" in fleet.tune("rollback", *hosts, "--yes", code=0)
    assert {name: fleet.state(name) for name in names} == before


def test_without_yes_nothing_is_even_asked(fleet: Fleet) -> None:
    assert "there is no terminal to ask on" in fleet.tune("apply", *addresses(fleet, "a", "b"), *ONLY, code=2)


def test_a_canary_that_fails_leaves_the_others_as_they_are(fleet: Fleet) -> None:
    fleet.host("stiff", "mount --bind /proc/sys /proc/sys", "mount -o remount,bind,ro /proc/sys")
    hosts = addresses(fleet, "stiff", "a", "b")
    said = fleet.tune("apply", *hosts, *ONLY, "--yes", code=4)
    assert "Read-only file system" in said
    assert f"{fleet.lab.hosts['stiff'].address}: taken back" in said
    assert "not touched stopped after 1 failed" in said
    assert (fleet.value("a"), fleet.value("b")) == (START, START)
    assert fleet.sh("stiff", "ls /etc/sysctl.d") == ""
    said = fleet.tune("apply", *hosts, *ONLY, "--yes", "--max-failures", "1", code=4)
    assert (fleet.value("a"), fleet.value("b")) == ("reno", "reno")
    assert "not touched" not in said


def test_a_host_that_does_not_answer_takes_nothing_from_the_others(fleet: Fleet) -> None:
    fleet.lab.host("closed", listen=False)
    hosts = [fleet.lab.hosts["closed"].address, *addresses(fleet, "a")]
    assert "Not planned" in fleet.run("plan", *hosts, *ONLY, "--retries", "0", "--format", "md").stdout
    said = fleet.tune("apply", *hosts, *ONLY, "--yes", "--retries", "0", code=3)
    assert f"{hosts[0]}: not touched unreachable: " in said
    assert fleet.value("a") == "reno"
    said = fleet.tune("history", *hosts, "--retries", "0", code=3)
    assert "committed" in said
    assert "connection refused" in said


def test_the_plans_of_many_in_one_file_each_for_its_host(fleet: Fleet) -> None:
    fleet.sh("b", f"echo reno >{SETTING}")
    path = fleet.folder / "plans.json"
    fleet.tune("plan", *addresses(fleet, "a", "b", "c"), *ONLY, "-o", path, code=1)
    table = json.loads(path.read_text())
    assert [plan["machine"] for plan in table["plans"].values()] == [fleet.machine(name) for name in ("a", "b", "c")]
    said = fleet.tune("apply", path, "--yes", "--set", f"{NAME}=reno", code=0)
    assert "changed, and verified" in said
    first, *_, last = addresses(fleet, "a", "b", "c")
    assert f"hostcheck tune rollback 1 {first.rpartition('.')[0]}.[1,3]" in said, last
    assert [fleet.value(name) for name in ("a", "b", "c", "d")] == ["reno", "reno", "reno", START]
    assert fleet.sh("b", "ls /var/lib") == ""


def test_a_plan_of_one_host_is_refused_on_another(fleet: Fleet) -> None:
    path = fleet.folder / "plan.json"
    (one,), (other,) = addresses(fleet, "a"), addresses(fleet, "b")
    fleet.tune("plan", one, *ONLY, "-o", path, code=1)
    said = fleet.tune("apply", path, other, "--yes", "--set", f"{NAME}=reno", code=2)
    assert f"no plan for {other}" in said
    assert fleet.value("b") == START
    fleet.tune("apply", path, one, "--yes", "--set", f"{NAME}=reno", code=0)
    assert fleet.value("a") == "reno"


def test_the_host_itself_refuses_a_plan_of_another(fleet: Fleet) -> None:
    plan = replace(plan_for(fleet, "a"), machine=fleet.machine("b"))
    answer = sshlab.ask(fleet.lab.hosts["a"].address, fleet.lab.config, apply_program(plan).encode())
    assert "this host is another" in read_outcomes(answer.partial)[-1].why
    assert fleet.value("a") == START


def test_an_account_that_becomes_root_by_sudo(fleet: Fleet) -> None:
    (host,) = addresses(fleet, "a")
    said = fleet.tune("apply", f"plain@{host}", *ONLY, "--yes", code=3)
    assert "refused: nothing was changed" in said
    fleet.tune("apply", f"sudoer@{host}", *ONLY, "--become", "--yes", code=0)
    assert fleet.value("a") == "reno"
    fleet.tune("rollback", f"sudoer@{host}", "--become", "--yes", code=0)
    assert fleet.value("a") == START


def plan_for(fleet: Fleet, name: str) -> Plan:
    """A plan as a tuner makes it, of two changes."""
    return Plan(
        host=name, machine=fleet.machine(name), boot="", made="2026-11-21T00:00:00+00:00", tool="t", role="training",
        changes=(
            Change(kind=Kind.WRITE, target=SETTING, before=START, after="reno", scope=Scope.RUNTIME, why="w"),
            Change(kind=Kind.FILE, target=DROP_IN, before=None, after="x\n", scope=Scope.PERSISTENT, why="w"),
        ),
    )  # fmt: skip


def cut_at(fleet: Fleet, name: str, checkpoint: int) -> tuple[Reach, bool]:
    """Apply a plan, and cut the connection at a checkpoint; return how it ended, and whether it came so far."""
    host = fleet.lab.hosts[name]
    folder = fleet.lab.folder / f"cut-{name}-{checkpoint}"
    folder.mkdir()
    stop = (
        f'seen=0\ncheckpoint() {{\n    seen=$((seen + 1))\n    [ "$seen" = {checkpoint} ] || return 0\n'
        f"    : >{folder}/at\n    while ! [ -e {folder}/go ]; do sleep 0.02; done\n}}"
    )
    text = apply_program(plan_for(fleet, name))
    assert text.count(CHECKPOINT) == 1

    def cut() -> None:
        until(lambda: (folder / "at").exists() or (folder / "over").exists())
        if (folder / "at").exists():
            host.cut()
            time.sleep(0.1)
        (folder / "go").touch()

    thread = threading.Thread(target=cut)
    thread.start()
    answer = sshlab.ask(host.address, fleet.lab.config, text.replace(CHECKPOINT, stop).encode(), seconds=30)
    (folder / "over").touch()
    thread.join()
    return answer.reach, (folder / "at").exists()


def settled(fleet: Fleet, name: str) -> tuple[End, list[StepState]]:
    """Return how the newest transaction ended, once it has."""
    deadline = time.monotonic() + 120
    while True:
        answer = sshlab.ask(fleet.lab.hosts[name].address, fleet.lab.config, history_program().encode())
        try:
            found = read_history(answer.out or answer.partial)
        except HostcheckError:
            found = ()
        if (found and found[-1].end is not End.UNFINISHED) or time.monotonic() > deadline:
            assert found, answer
            return found[-1].end, [step.state for step in found[-1].steps]
        time.sleep(0.05)


def test_a_connection_cut_at_each_step_stops_nothing(fleet: Fleet) -> None:
    """The program goes on there, and the next `history` tells how it ended; the same as without a cut."""
    cuts = 0
    for checkpoint in range(1, 40):
        fleet.clean()
        reach, came = cut_at(fleet, "a", checkpoint)
        assert (reach is Reach.CUT) is came, (checkpoint, reach)
        assert settled(fleet, "a") == (End.COMMITTED, [StepState.APPLIED, StepState.APPLIED]), checkpoint
        assert fleet.value("a") == "reno", checkpoint
        cuts += came
        if not came:
            break
    assert cuts >= 8, "there are that many moments at least"
    said = fleet.tune("history", *addresses(fleet, "a"), code=0)
    assert "committed" in said
    fleet.tune("rollback", *addresses(fleet, "a"), "--yes", code=0)
    assert fleet.value("a") == START


def test_a_host_that_dies_in_the_middle_is_recovered_over_the_next_connection(fleet: Fleet) -> None:
    text = apply_program(plan_for(fleet, "b"))
    dies = 'seen=0\ncheckpoint() {\n    seen=$((seen + 1))\n    [ "$1" != acted ] || kill -KILL $$\n}'
    answer = sshlab.ask(fleet.lab.hosts["b"].address, fleet.lab.config, text.replace(CHECKPOINT, dies).encode())
    assert answer.reach is not Reach.OK
    assert fleet.value("b") == "reno"
    (host,) = addresses(fleet, "b")
    assert "unfinished" in fleet.tune("history", host, code=0)
    assert "Transaction 1 was not brought to an end: run hostcheck tune recover" in fleet.tune(
        "plan", host, *ONLY, code=3
    )
    back = ("--only", NAME, "--set", f"{NAME}={START}")
    assert "run hostcheck tune recover first" in fleet.tune("apply", host, *back, "--yes", code=3)
    assert "taken back" in fleet.tune("recover", host, code=0)
    assert fleet.value("b") == START
    assert "nothing to do" in fleet.tune("recover", host, code=0)
    assert "brought to an end" not in fleet.tune("plan", host, *ONLY, code=1)


def test_what_could_cut_the_connection_is_confirmed_over_a_new_one(fleet: Fleet) -> None:
    mtu = Change(kind=Kind.NIC, target="eth0 mtu", before="1500", after="1400", scope=Scope.RUNTIME, why="w", cuts=True)
    path = fleet.folder / "mtu.json"
    path.write_text(plan_text(replace(plan_for(fleet, "c"), changes=(mtu,))))
    (host,) = addresses(fleet, "c")
    fleet.tune("apply", path, host, "--yes", code=0)
    assert fleet.sh("c", "cat /sys/class/net/eth0/mtu").strip() == "1400"
    assert "committed" in fleet.tune("history", host, code=0)
    fleet.tune("rollback", host, "--yes", code=0)
    assert fleet.sh("c", "cat /sys/class/net/eth0/mtu").strip() == "1500"


def test_two_at_once_on_one_host_never_mix(fleet: Fleet) -> None:
    (host,) = addresses(fleet, "d")
    text = apply_program(plan_for(fleet, "d")).encode()
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(sshlab.ask(host, fleet.lab.config, text, seconds=60)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ends = sorted(read_outcomes(answer.out or answer.partial)[-1].end for answer in answers)
    assert ends.count(End.COMMITTED) == 1
    assert set(ends) <= {End.COMMITTED, End.NOTHING, End.REFUSED}
    assert fleet.value("d") == "reno"
    history = read_history(sshlab.ask(host, fleet.lab.config, history_program().encode()).out)
    assert len(history) == 1
    assert read_outcomes(sshlab.ask(host, fleet.lab.config, recover_program().encode()).out)[-1].end is End.NOTHING


def in_the_middle(fleet: Fleet, name: str, act: Callable[[subprocess.Popen[str]], object]) -> tuple[int, str]:
    """Apply a long plan from the command line, and do something as soon as its transaction has begun."""
    files = tuple(
        Change(
            kind=Kind.FILE, target=f"/etc/sysctl.d/90-hostcheck-{number}.conf", before=None, after=f"{number}\n",
            scope=Scope.PERSISTENT, why="w",
        )
        for number in range(150)
    )  # fmt: skip
    path = fleet.folder / "long.json"
    path.write_text(plan_text(replace(plan_for(fleet, name), changes=files)))
    with subprocess.Popen(
        fleet.words("apply", path, fleet.lab.hosts[name].address, "--yes"),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, cwd=fleet.folder,
        env=ENVIRONMENT,
    ) as run:  # fmt: skip
        until(lambda: "1" in fleet.sh(name, "ls /var/lib/hostcheck/tx 2>/dev/null || :"))
        act(run)
        said, _ = run.communicate(timeout=120)
    assert "Traceback" not in said, said
    return run.returncode, " ".join(said.split())


def test_a_connection_that_is_cut_is_told_and_the_host_knows_more(fleet: Fleet) -> None:
    code, said = in_the_middle(fleet, "a", lambda _: fleet.lab.hosts["a"].cut())
    assert code == 3
    assert "the connection was lost" in said
    assert "hostcheck tune history tells how it ended" in said
    assert settled(fleet, "a")[0] is End.COMMITTED
    assert len(fleet.sh("a", "ls /etc/sysctl.d").split()) == 150
    fleet.tune("rollback", *addresses(fleet, "a"), "--yes", code=0)
    assert fleet.sh("a", "ls /etc/sysctl.d") == ""


def test_ctrl_c_leaves_the_host_to_end_it_and_says_so(fleet: Fleet) -> None:
    code, said = in_the_middle(fleet, "b", lambda run: run.send_signal(signal.SIGINT))
    assert code == 130
    assert "interrupted; what was begun there goes on" in said
    assert settled(fleet, "b")[0] is End.COMMITTED
    fleet.tune("rollback", *addresses(fleet, "b"), "--yes", code=0)
    assert fleet.sh("b", "ls /etc/sysctl.d") == ""


def test_a_probe_is_timed_there_as_it_is_here(fleet: Fleet) -> None:
    measure = next(each for each in MEASURES if each.id == "cpu.loop")
    targets = [Target(name=name, address=fleet.lab.hosts[name].address) for name in ("a", "b")]
    there = There(targets, SshOptions(config_path=fleet.lab.config), user=None, parallel=4, seconds=60.0)
    for hosts in (there, Here()):
        taken = measure.take(hosts, hosts.names)
        assert sorted(taken) == sorted(hosts.names)
        for samples in taken.values():
            assert len(samples) == SAMPLES
            assert all(0.005 < sample < 30 for sample in samples), samples
