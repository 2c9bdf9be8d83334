"""Collectives over several hosts: real sshd processes in namespaces of their own, real torchrun, Gloo over TCP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torchlab

import sshlab
from hostcheck.bench import ranks
from hostcheck.bench.hosts import Between, by_pairs
from hostcheck.bench.ranks import Launch, Outcome, run
from hostcheck.fleet.targets import Target
from hostcheck.transport.ssh import SshOptions, SshTransport
from sshlab import Host, Lab
from waiting import LONG, until

# Gloo asks which address the host's name has, and here all hosts have the name of this machine.
ENVIRONMENT = {"GLOO_SOCKET_IFNAME": "eth0"}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    sshlab.require()
    torchlab.python()
    with sshlab.lab() as built:
        yield built


@pytest.fixture(scope="module")
def hosts(lab: Lab) -> list[Host]:
    return [lab.host(f"rank{number}") for number in range(3)]


def launch(**changes: object) -> Launch:
    given = {
        "cases": [("all-reduce", 100_000, 0.1), ("send-receive", 1_000_000, 0.1)],
        "backend": "gloo",
        "python": str(torchlab.python()),
        "per_host": 1,
        "environment": ENVIRONMENT,
        **changes,
    }
    return Launch(**given)  # type: ignore[arg-type]


def measure(lab: Lab, hosts: Sequence[Host], asked: Launch, seconds: float | None = None) -> Outcome:
    options = SshOptions(config_path=lab.config, connect_seconds=5, retries=0)
    targets = [Target(host.name, host.address) for host in hosts]
    return run(
        targets,
        lambda target: SshTransport(target.name, address=target.address, options=options),
        asked,
        seconds=seconds,
    )


def left_behind(host: Host) -> list[str]:
    """Return what runs on a host and is not sshd."""
    commands = []
    for pid in host.pids():
        try:
            commands.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return [command for command in commands if "sshd" not in command]


def settle(hosts: Sequence[Host]) -> None:
    until(lambda: not any(left_behind(host) for host in hosts))


def test_three_hosts_measure_together(lab: Lab, hosts: list[Host], tmp_path: Path) -> None:
    outcome = measure(lab, hosts, launch(environment={**ENVIRONMENT, "TMPDIR": str(tmp_path)}))
    assert outcome.failed == {}
    assert [(found.operation, found.ranks, found.wrong) for found in outcome.found] == [
        ("all-reduce", 3, {}), ("send-receive", 3, {}),
    ]  # fmt: skip
    assert all(0 < seconds < LONG for found in outcome.found for seconds in found.seconds)
    settle(hosts)
    assert list(tmp_path.iterdir()) == []


def test_a_host_without_torch_is_named_and_the_others_are_let_go(lab: Lab, hosts: list[Host]) -> None:
    lacking = lab.host("lacking", before=[f"mount -t tmpfs tmpfs {torchlab.python().parent.parent / 'lib'}"])
    began = time.monotonic()
    outcome = measure(lab, [*hosts[:2], lacking], launch())
    assert list(outcome.failed) == ["lacking"]
    assert outcome.absent == {"lacking"}
    assert "torch" in outcome.failed["lacking"] or "encodings" in outcome.failed["lacking"]
    assert outcome.found == ()
    assert time.monotonic() - began < LONG
    settle(hosts)


def test_a_host_that_is_not_there(lab: Lab, hosts: list[Host]) -> None:
    gone = lab.host("gone", listen=False)
    outcome = measure(lab, [gone, *hosts[:2]], launch())
    assert list(outcome.failed) == ["gone"]
    assert outcome.absent == {"gone"}
    assert outcome.failed["gone"].startswith("unreachable: ")
    settle(hosts)


def test_no_such_python_is_one_line(lab: Lab, hosts: list[Host]) -> None:
    outcome = measure(lab, hosts[:2], launch(python="/opt/no/python"))
    assert set(outcome.failed.values()) == {
        "cannot take part: /opt/no/python is not there; --python names one that has torch"
    }


def test_a_host_that_goes_in_the_middle(lab: Lab, hosts: list[Host], tmp_path: Path) -> None:
    dying = lab.host("dying")
    # What has no time to clean up behind itself leaves its files here.
    asked = launch(cases=[("all-reduce", 1_000_000, 20.0)], environment={**ENVIRONMENT, "TMPDIR": str(tmp_path)})
    timer = threading.Timer(8, dying.reboot)
    timer.start()
    outcome = measure(lab, [*hosts[:2], dying], asked)
    timer.join()
    assert outcome.found == ()
    assert "dying" in outcome.failed
    assert outcome.absent == set()
    settle(hosts)


def test_nothing_stays_when_we_go(lab: Lab, hosts: list[Host]) -> None:
    began = time.monotonic()
    outcome = measure(lab, hosts[:2], launch(cases=[("all-reduce", 1_000_000, 300.0)]), seconds=8)
    assert time.monotonic() - began < LONG
    assert set(outcome.failed) == {"rank0", "rank1"}
    assert all("no complete answer in 8 s" in why for why in outcome.failed.values())
    settle(hosts)


def find_bad(lab: Lab, hosts: Sequence[Host], asked: Launch) -> Between:
    options = SshOptions(config_path=lab.config, connect_seconds=5, retries=0)
    targets = [Target(host.name, host.address) for host in hosts]
    return by_pairs(
        targets, lambda target: SshTransport(target.name, address=target.address, options=options), asked, floor=0.02
    )


def test_pairs_find_a_slow_host_and_a_broken_one_and_one_that_is_not_there(lab: Lab, hosts: list[Host]) -> None:
    slow = lab.host("slow")
    # Not every kernel has the token bucket filter. Without it, this host is as good as the others.
    shaped = ["ip", "netns", "exec", slow.namespace, "tc", "qdisc", "add", "dev", "eth0", "root", "tbf"]
    limit = ["rate", "50mbit", "burst", "32kbit", "latency", "400ms"]
    is_slow = subprocess.run([*shaped, *limit], capture_output=True, check=False).returncode == 0
    run_py = next((torchlab.python().parent.parent / "lib").glob("python3.*/site-packages/torch/distributed/run.py"))
    broken = lab.host("broken", before=[f"echo 'raise OSError(5)' >/run/run.py; mount --bind /run/run.py {run_py}"])
    gone = lab.host("gone", listen=False)
    tested = find_bad(lab, [slow, broken, gone, *hosts], launch(cases=[("send-receive", 4_000_000, 0.1)]))
    assert tested.verdict is not None
    assert set(tested.verdict.bad) == {"broken", *(["slow"] if is_slow else [])}
    assert {host.name for host in hosts} <= set(tested.verdict.good)
    assert list(tested.absent) == ["gone"]
    assert tested.verdict.links == ()
    assert is_slow == any("below the floor" in why for why in tested.failed.values())
    assert any("OSError" in why for why in tested.failed.values())
    settle([*hosts, slow, broken])


def test_pairs_find_a_link(lab: Lab, hosts: list[Host], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = hosts[:2]
    sshlab.call("ip", "-n", first.namespace, "route", "add", "blackhole", f"{second.address}/32")
    # How long a pair is waited for that never begins; two cores import torch eight times meanwhile.
    monkeypatch.setattr(ranks, "_STARTING", 30.0)
    try:
        tested = find_bad(lab, [*hosts, lab.host("fourth")], launch(cases=[("send-receive", 100_000, 0.1)]))
    finally:
        sshlab.call("ip", "-n", first.namespace, "route", "delete", "blackhole", f"{second.address}/32")
    assert tested.verdict is not None
    assert tested.verdict.links == (("rank0", "rank1"),)
    assert tested.verdict.bad == ()
    settle(hosts)


def hostcheck(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", "from hostcheck.cli.main import main; main()", "bench", "nccl", *map(str, words)],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "100"},
    )  # fmt: skip


def test_the_command(lab: Lab, hosts: list[Host], tmp_path: Path) -> None:
    named = ",".join(host.address for host in hosts[:2])
    common = (
        "--hosts", named, "--ssh-config", lab.config, "--python", torchlab.python(), "--backend", "gloo",
        "--env", "GLOO_SOCKET_IFNAME=eth0", "--size", "1M", "--seconds", "0.1",
    )  # fmt: skip
    done = hostcheck(*common, "--operation", "all-gather", "-o", tmp_path / "out.json")
    # TCP between processes that share two cores may scatter, and is then no number to believe.
    assert done.returncode in (0, 3), done.stderr
    assert "all-gather" in done.stdout
    assert "1 MiB" in done.stdout
    (measured,) = json.loads((tmp_path / "out.json").read_text())["measurements"]
    assert (measured["bench"], measured["case"], measured["verified"]) == ("nccl.all-gather", "1 MiB", True)
    assert measured["value"] > 0.001
    assert measured["settings"]["hosts"] == 1  # all say the same name here
    failing = hostcheck(*common, "--floor", "10000")
    assert failing.returncode == 1 or "INVALID" in failing.stdout
    pairs = hostcheck(*common, "--pairs", "--floor", "0.001")
    assert pairs.returncode == 0, pairs.stderr
    assert f"good: {hosts[0].address.rpartition('.')[0]}." in pairs.stdout
    assert "Traceback" not in done.stderr + failing.stderr + pairs.stderr


def test_what_a_user_can_get_wrong_is_one_line(tmp_path: Path) -> None:
    for words, told in (
        ((), "no --hosts are named"),
        (("--hosts", "a"), "one host alone has nobody to talk to"),
        (("--hosts", "a,b", "--env", "X=$(reboot)"), "NAME=VALUE is needed"),
        (("--hosts", "a,b", "--python", "python3; reboot"), "is no path of a program"),
        (("--hosts", "a,b", "--master", "-x"), "is no address"),
        (("--hosts", "a,b", "--master", "c", "--pairs"), "--master is for all hosts together"),
        (("--hosts", "a,b", "--ssh-config", tmp_path / "none"), "no such file"),
    ):
        done = hostcheck(*words)
        assert done.returncode == 2
        assert told in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("number", "further"), [(signal.SIGINT, []), (signal.SIGINT, ["--pairs"]), (signal.SIGTERM, ["--pairs"])]
)
def test_an_interrupt_lets_all_hosts_go(
    lab: Lab, hosts: list[Host], number: signal.Signals, further: list[str]
) -> None:
    words = [
        "bench", "nccl", "--hosts", ",".join(host.address for host in hosts), "--ssh-config", lab.config,
        "--python", torchlab.python(), "--backend", "gloo", "--env", "GLOO_SOCKET_IFNAME=eth0",
        "--seconds", "300", *further,
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", "from hostcheck.cli.main import main; main()", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(lambda: left_behind(hosts[0]))
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted; all hosts were let go" in err
    assert "Traceback" not in err
    settle(hosts)
