"""Collectives over several hosts: real sshd processes in namespaces of their own, real torchrun, Gloo over TCP."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torchlab

import sshlab
from hostcheck.bench.ranks import Launch, Outcome, run
from hostcheck.fleet.targets import Target
from hostcheck.transport.ssh import SshOptions, SshTransport
from sshlab import Host, Lab

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


def settle(hosts: Sequence[Host], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while any(left_behind(host) for host in hosts):
        assert time.monotonic() < until, [left_behind(host) for host in hosts]
        time.sleep(0.2)


def test_three_hosts_measure_together(lab: Lab, hosts: list[Host]) -> None:
    before = set(Path("/tmp").glob("hostcheck-*"))
    outcome = measure(lab, hosts, launch())
    assert outcome.failed == {}
    assert [(found.operation, found.ranks, found.wrong) for found in outcome.found] == [
        ("all-reduce", 3, {}), ("send-receive", 3, {}),
    ]  # fmt: skip
    assert all(0 < seconds < 5 for found in outcome.found for seconds in found.seconds)
    settle(hosts)
    assert set(Path("/tmp").glob("hostcheck-*")) == before


def test_a_host_without_torch_is_named_and_the_others_are_let_go(lab: Lab, hosts: list[Host]) -> None:
    lacking = lab.host("lacking", before=[f"mount -t tmpfs tmpfs {torchlab.python().parent.parent / 'lib'}"])
    began = time.monotonic()
    outcome = measure(lab, [*hosts[:2], lacking], launch())
    assert list(outcome.failed) == ["lacking"]
    assert "torch" in outcome.failed["lacking"] or "encodings" in outcome.failed["lacking"]
    assert outcome.found == ()
    assert time.monotonic() - began < 40
    settle(hosts)


def test_a_host_that_is_not_there(lab: Lab, hosts: list[Host]) -> None:
    gone = lab.host("gone", listen=False)
    outcome = measure(lab, [gone, *hosts[:2]], launch())
    assert list(outcome.failed) == ["gone"]
    assert outcome.failed["gone"].startswith("unreachable: ")
    settle(hosts)


def test_no_such_python_is_one_line(lab: Lab, hosts: list[Host]) -> None:
    outcome = measure(lab, hosts[:2], launch(python="/opt/no/python"))
    assert set(outcome.failed.values()) == {"/opt/no/python is not there; --python names one that has torch"}


def test_a_host_that_goes_in_the_middle(lab: Lab, hosts: list[Host]) -> None:
    dying = lab.host("dying")
    asked = launch(cases=[("all-reduce", 1_000_000, 20.0)])
    timer = threading.Timer(8, dying.reboot)
    timer.start()
    outcome = measure(lab, [*hosts[:2], dying], asked)
    timer.join()
    assert outcome.found == ()
    assert "dying" in outcome.failed
    settle(hosts)


def test_nothing_stays_when_we_go(lab: Lab, hosts: list[Host]) -> None:
    began = time.monotonic()
    outcome = measure(lab, hosts[:2], launch(cases=[("all-reduce", 1_000_000, 300.0)]), seconds=8)
    assert time.monotonic() - began < 20
    assert set(outcome.failed) == {"rank0", "rank1"}
    assert all("no complete answer in 8 s" in why for why in outcome.failed.values())
    settle(hosts, seconds=40)
