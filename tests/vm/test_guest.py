"""What only a host with several NUMA nodes, cgroup v2 and GRUB can show, on a real kernel in a guest."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

import vmlab
from vmlab import Guest

PLACES = """
import json, os
from hostcheck.bench.hostmem import HostMemory
from hostcheck.bench.pinning import pin
from hostcheck.microbench.host_memory import nodes

def taken(node=None):
    "The nodes as the kernel tells of a page, and of the mapping with its policy."
    memory = HostMemory(32 << 20, node)
    lines = [line.split() for line in open("/proc/self/numa_maps")]
    start, policy, *words = max((words for words in lines if int(words[0], 16) <= memory.pointer),
                                key=lambda words: int(words[0], 16))
    return [sorted(memory.nodes()), sorted(word[:2] for word in words if word[0] == "N" and word[1].isdigit()), policy]

found = {"nodes": [node.number for node in nodes()], "taken": [taken(node) for node in (0, 1, 2)]}
found["pinned"] = pin(1)
found |= {"cpus": sorted(os.sched_getaffinity(0)), "after": taken()}
print(json.dumps(found))
"""
# Without the limits of time and of noise that `hostcheck bench` sets: emulated processors keep neither.
MATRIX = """
import contextlib, json, types
from hostcheck.bench.model import Level
from hostcheck.microbench import host_memory

host_memory.LEAST = 32 << 20
lab = types.SimpleNamespace(level=Level.STANDARD, seconds=2.0, watch=contextlib.nullcontext)
print(json.dumps({each.subject: [each.verified, each.invalid] for each in host_memory.latency(lab)}))
"""
CHANGED = ("kernel.init-on-alloc", "kernel.numa-balancing", "cpu.system-slice", "memory.thp-enabled")
STATE = """
find /etc /boot/grub /usr/local -xdev -type f -exec md5sum {} + -exec stat -c '%n %a %U' {} + | sort
cat /proc/sys/kernel/numa_balancing /sys/kernel/mm/transparent_hugepage/enabled
systemctl show -P AllowedCPUs system.slice
"""
CPUS = "for name in ssh irqbalance dbus systemd-networkd; do"
CPUS += " grep -h Cpus_allowed_list /proc/$(systemctl show -P MainPID $name)/status; done | sort -u | cut -f2"


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    vmlab.made()
    with vmlab.guest(tmp_path_factory.mktemp("guest")) as booted:
        yield booted


def test_memory_lies_on_the_node_that_was_asked_for(guest: Guest) -> None:
    found = json.loads(guest.python(PLACES))
    assert found["nodes"] == [0, 1]
    assert found["taken"] == [[[node], [f"N{node}"], "default"] for node in (0, 1, 2)]
    assert (found["pinned"], found["cpus"]) == ("node1, 2 CPUs", [2, 3])
    assert found["after"] == [[1], ["N1"], "bind:1"]


def test_a_control_group_with_one_node_is_told(guest: Guest) -> None:
    cpus = json.loads(guest.python(PLACES, within="AllowedCPUs=0-1"))
    assert cpus["nodes"] == [0]
    assert cpus["pinned"] == "not pinned: this process may use no CPU of node1"
    assert [nodes for nodes, _, _ in cpus["taken"]] == [[0], [1], [2]]
    memory = json.loads(guest.python(PLACES, within="AllowedMemoryNodes=0"))
    assert memory["pinned"] == "node1, 2 CPUs, but not its memory: Invalid argument"
    assert [nodes for nodes, _, _ in memory["taken"]] == [[0], [0], [0]]


def test_every_pair_of_nodes_is_measured(guest: Guest) -> None:
    measured = json.loads(guest.python(MATRIX))
    assert set(measured) == {"node0", "node0>node1", "node1>node0", "node1"}
    assert all(each == [True, ""] for each in measured.values()), measured


def test_the_audit_sees_the_nodes_and_where_devices_are(guest: Guest) -> None:
    run = json.loads(guest.hostcheck("audit", "guest", "--format", "json", codes=(0, 1, 3)))
    status = {result["id"]: result["status"] for result in run["results"]}
    for check in ("cpu.numa-layout", "cpu.irq-nic", "cpu.online", "storage.scheduler", "pci.aer", "kernel.oops"):
        assert status[check] == "pass", check
    assert (status["kernel.numa-balancing"], status["kernel.init-on-alloc"]) == ("fail", "fail")
    assert "error" not in status.values()


def test_changes_hold_over_a_reboot_and_are_taken_back(guest: Guest) -> None:
    before = guest.ssh(STATE)
    wanted = [word for name in CHANGED for word in ("--only", name)]
    wanted += ["--set", "cpu.isolated.housekeeping=1", "--set", "memory.thp-enabled=madvise"]
    assert guest.ssh(CPUS) == "0-3\n"
    guest.hostcheck("tune", "apply", "guest", "--yes", *wanted)
    assert "init_on_alloc=0 waits for a reboot" in " ".join(
        guest.hostcheck("tune", "verify", "guest", codes=(3,)).split()
    )
    for _ in range(2):
        assert guest.ssh(CPUS) == "0,2\n"
        assert guest.ssh("cat /sys/fs/cgroup/system.slice/cpuset.cpus.effective") == "0,2\n"
        assert guest.ssh("taskset -cp $$ | sed 's/.*: //'") == "0-3\n"
        assert guest.ssh("cat /proc/sys/kernel/numa_balancing") == "0\n"
        assert "[madvise]" in guest.ssh("cat /sys/kernel/mm/transparent_hugepage/enabled")
        if len(guest.seconds) == 1:
            guest.reboot()
    assert "init_on_alloc=0" in guest.ssh("cat /proc/cmdline")
    assert "heap alloc:off" in guest.ssh("dmesg")
    assert "kernel argument init_on_alloc" in " ".join(guest.hostcheck("tune", "verify", "guest").split())
    guest.hostcheck("tune", "rollback", "guest", "--yes")
    assert guest.ssh(CPUS) == "0-3\n"
    assert guest.ssh(STATE) == before
    guest.reboot()
    assert guest.ssh(STATE) == before
    assert "init_on_alloc" not in guest.ssh("cat /proc/cmdline")
    assert "heap alloc:on" in guest.ssh("dmesg")
