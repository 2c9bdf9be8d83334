"""What it costs to ask a fleet, beside clush, Ansible and bare ssh on the same hosts, in the same run.

Run it as root with `python benchmarks/fleet.py [--hosts 64] [--parallel 64] [--rounds 3]`. The hosts are sshd processes
in network namespaces (tests/sshlab.py), so all of them share the processors of this machine with the controller: the
ratios say more than the seconds. Each figure is a median of rounds that alternate. Nothing here is a test.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import sshlab  # noqa: E402
from hostcheck.audit import probes_for  # noqa: E402
from hostcheck.checklist import Checklist  # noqa: E402
from hostcheck.fleet.fanout import fan_out, share  # noqa: E402
from hostcheck.fleet.reach import over_ssh  # noqa: E402
from hostcheck.fleet.store import Store  # noqa: E402
from hostcheck.fleet.targets import read_targets  # noqa: E402
from hostcheck.snapshot.archive import read_archive  # noqa: E402
from hostcheck.snapshot.program import program  # noqa: E402
from hostcheck.transport.base import Answer, Reach  # noqa: E402
from hostcheck.transport.ssh import SshOptions, SshTransport  # noqa: E402

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
    "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
    "PYTHONPATH": str(ROOT),
    "ANSIBLE_LOCALHOST_WARNING": "False",
    "NO_COLOR": "1",
}
SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all measurements share."""

    lab: sshlab.Lab
    addresses: list[str]
    parallel: int
    folder: Path
    text: bytes

    @property
    def options(self) -> SshOptions:
        return SshOptions(config_path=self.lab.config, connect_seconds=10, retries=2)

    @property
    def ssh(self) -> list[str]:
        """The options with which ssh, clush and Ansible log in as hostcheck does, a new connection each time."""
        return ["-F", str(self.lab.config), "-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "BatchMode=yes"]

    def call(self, *words: str) -> None:
        """Run a command that must succeed on every host; its output goes to a file."""
        with (self.folder / "out").open("wb") as out:
            done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=ENVIRONMENT, check=False)
        if done.returncode:
            raise SystemExit(f"{words[0]}: exit {done.returncode}: {(self.folder / 'out').read_text()[-600:]}")

    def ask(self) -> None:
        """Ask all hosts, through the library, and judge nothing."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        store = Store(folder)
        try:
            targets = store.begin(read_targets(self.addresses), self.text)
            make = over_ssh(self.options, None)
            most = share(self.parallel)
            fan_out(targets, make, self.text, parallel=self.parallel, seconds=SECONDS, most=most, store=store)
            absent = list(store.absent())
        finally:
            store.close()
        if absent:
            raise SystemExit(f"hostcheck: {absent[0]}")
        shutil.rmtree(folder)

    def audit_one(self) -> None:
        """Do the same for one host."""
        self.audit(self.addresses[:1])

    def audit(self, addresses: Sequence[str] = ()) -> None:
        """Ask hosts, by default all, judge them and show the verdict, as a person does."""
        addresses = addresses or self.addresses
        run = Path(tempfile.mkdtemp(dir=self.folder)) / "run"
        command = [sys.executable, "-P", "-c", "from hostcheck.cli.main import main; main()", "audit", *addresses]
        command += ["--ssh-config", str(self.lab.config), "--parallel", str(self.parallel), "--run-dir", str(run)]
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
        told = f"{len(addresses):,} of {len(addresses):,} hosts answered"
        if done.returncode not in (0, 1, 3) or told not in done.stderr:
            raise SystemExit(f"hostcheck audit: exit {done.returncode}: {done.stderr[-600:]}")
        shutil.rmtree(run.parent)

    def clush(self) -> None:
        """Fetch a file of one answer's size from all hosts."""
        options = " ".join(self.ssh)
        hosts = ",".join(self.addresses)
        cat = f"cat {self.folder}/answer"
        self.call("clush", "-S", "-q", "-N", "-w", hosts, "-f", str(self.parallel), "-o", options, cat)

    def ansible(self) -> None:
        """Gather Ansible's facts of all hosts."""
        words = ["ansible", "all", "-i", f"{','.join(self.addresses)},", "-m", "setup", "-f", str(self.parallel)]
        words += ["-e", f"ansible_python_interpreter={sys.executable} ansible_remote_tmp={self.folder}/ansible"]
        words += ["--ssh-common-args", " ".join(self.ssh)]
        self.call(*words)

    def ask_one(self) -> Answer:
        """Ask one host."""
        answer = SshTransport(self.addresses[0], options=self.options).run(self.text, seconds=SECONDS, most=share(1))
        if answer.reach is not Reach.OK:
            raise SystemExit(f"{self.addresses[0]}: {answer.why}")
        return answer

    def ssh_true(self) -> None:
        """Log in to one host and do nothing there."""
        self.call("ssh", *self.ssh, self.addresses[0], "true")

    def sh(self) -> None:
        """Run the program here, without a network."""
        subprocess.run(["sh", "-s"], input=self.text, stdout=subprocess.DEVNULL, check=True)


def medians(rounds: int, actions: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median seconds of each action, in rounds in which each has its turn."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            begun = time.perf_counter()
            action()
            times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(taken) for name, taken in times.items()}


def wire(lab: sshlab.Lab, address: str) -> int:
    """Return the bytes that have gone to and from a host, with all headers down to Ethernet's."""
    near = next(host.near for host in lab.hosts.values() if host.address == address)
    counters = Path("/sys/class/net", near, "statistics")
    return sum(int((counters / name).read_text()) for name in ("rx_bytes", "tx_bytes"))


def show(name: str, figure: str, beside: str = "") -> None:
    """Print one line."""
    print(f"{name:46} {figure:>12}   {beside}".rstrip(), flush=True)


def one_host(bench: Bench, rounds: int) -> None:
    """Print what one host costs; the first answer becomes the file that clush is to fetch."""
    before = wire(bench.lab, bench.addresses[0])
    answer = bench.ask_one()
    both = wire(bench.lab, bench.addresses[0]) - before
    (bench.folder / "answer").write_bytes(answer.out)
    slowest = max(read_archive(answer.out).readings.values(), key=lambda reading: reading.seconds)
    actions = {"ask": bench.ask_one, "audit": bench.audit_one, "true": bench.ssh_true, "sh": bench.sh}
    taken = medians(rounds * 3, actions)
    print("one host")
    show("ssh HOST true", f"{taken['true']:.3f} s")
    show("the program here, without a network", f"{taken['sh']:.3f} s")
    show(f"slowest probe ({slowest.probe})", f"{slowest.seconds:.3f} s")
    for name, label in (
        ("ask", "hostcheck asks it, modules loaded"),
        ("audit", "hostcheck audit HOST, from its start"),
    ):
        show(label, f"{taken[name]:.3f} s")
        for beside, cost in (
            ("ssh true", taken["true"]),
            ("ssh true and the slowest probe", slowest.seconds + taken["true"]),
        ):
            show(f"  over {beside}", f"{taken[name] - cost:+.3f} s", "(limit 0.25 s)" if name == "ask" else "")
    show("program sent, before SSH", f"{answer.sent:,} B")
    show("answer received, before SSH", f"{answer.received:,} B")
    show("bytes on the wire, both ways, with headers", f"{both:,} B", f"{both / 300_000:.2f} x 300 KB (limit 1)")


def many_hosts(bench: Bench, rounds: int) -> None:
    """Print what all of them cost, each figure beside its reference."""
    actions: dict[str, Callable[[], object]] = {"ask": bench.ask, "audit": bench.audit}
    for name, action in (("clush", bench.clush), ("ansible", bench.ansible)):
        if shutil.which(name, path=ENVIRONMENT["PATH"]):
            actions[name] = action
    print(f"\n{len(bench.addresses)} hosts, {bench.parallel} at a time; medians of {rounds} alternating rounds")
    taken = medians(rounds, actions)
    names = {
        "clush": "clush, cat of as many bytes",
        "ansible": "ansible -m setup",
        "ask": "hostcheck asks them, no judging",
        "audit": "hostcheck audit, judged and shown",
    }
    for name in names:
        show(names[name], f"{taken[name]:.2f} s" if name in taken else "not here")
    for ours in ("ask", "audit"):
        if "clush" in taken:
            show(f"  {ours} / clush", f"{taken[ours] / taken['clush']:.2f} x", "(limit 1.5 x)" if ours == "ask" else "")
        if "ansible" in taken:
            ratio = taken["ansible"] / taken[ours]
            show(f"  ansible / {ours}", f"{ratio:.1f} x", "(at least 10 x)" if ours == "audit" else "")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(5):
        bench.sh()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    alone = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 5
    floor = alone * len(bench.addresses) / (os.cpu_count() or 1)
    show("processor time of the programs, on all CPUs", f"{floor:.2f} s", f"{alone:.3f} s for each")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=64)
    parser.add_argument("--parallel", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args(arguments)
    if lacks := sshlab.missing():
        raise SystemExit(f"the hosts of this benchmark need {lacks} (scripts/install-test-parts, as root)")
    text = program(probes_for(Checklist())).encode()
    print(f"{os.cpu_count()} CPUs for all, Linux {platform.release()}, Python {platform.python_version()}")
    with sshlab.lab() as lab, tempfile.TemporaryDirectory(prefix="hostcheck-bench-") as folder:
        Path(folder).chmod(0o755)
        addresses = [lab.host(f"bench{number}").address for number in range(chosen.hosts)]
        bench = Bench(lab=lab, addresses=addresses, parallel=chosen.parallel, folder=Path(folder), text=text)
        bench.ask_one()
        one_host(bench, chosen.rounds)
        many_hosts(bench, chosen.rounds)


if __name__ == "__main__":
    main()
