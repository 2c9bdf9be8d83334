"""Real captures of processors and memory nodes, held against what is known of the machines they came from."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from hostcheck.errors import NotApplicable, Unavailable, need
from hostcheck.facts.base import Facts
from hostcheck.facts.cpu import NUMA, TOPOLOGY, parse_cpuinfo, parse_isolcpus
from hostcheck.facts.cpu_power import FREQUENCY, IDLE
from hostcheck.facts.cpu_text import parse_lscpu, parse_lscpu_nodes, parse_numactl
from hostcheck.facts.host import PROBES, introduce
from hostcheck.facts.kernel import parse_cmdline
from hostcheck.facts.platform import SYSTEM
from hostcheck.snapshot.local import collect

CORPUS = Path(os.environ.get("HOSTCHECK_CORPUS") or Path(__file__).parents[3] / "shared" / "corpus")
pytestmark = pytest.mark.skipif(not CORPUS.is_dir(), reason="there is no corpus folder; HOSTCHECK_CORPUS names one")

MIB = 1024
LSCPU = {
    "b200-vm-xeon6960p.txt": (30, 30, 30, False, {0: 30}),
    "lscpu-arm-A510-A710-A715-X3.txt": (8, 1, 8, False, {}),
    "lscpu-ppc64-POWER7-64cpu.txt": (64, 16, 16, True, {0: 64, 1: 0}),
    "lscpu-x86_64-64cpu.txt": (64, 4, 32, True, {0: 32, 2: 16, 3: 16}),
    "lscpu-x86_64-epyc_7451.txt": (96, 2, 48, True, dict.fromkeys(range(8), 12)),
}
NUMACTL = {
    "2socket-128cpu.txt": {0: (64, 515281), 1: (64, 516035)},
    "b200-vm.txt": {0: (30, 185139)},
}
CPUINFO = {
    "2xgold6230-cpuinfo.txt": (80, {"Intel(R) Xeon(R) Gold 6230 CPU @ 2.10GHz": 80}, 2, 40),
    "gb10-cpuinfo.txt": (20, {"Cortex-A725": 10, "Cortex-X925": 10}, None, None),
    "master-cpuinfo.txt": (112, {"Intel(R) Xeon(R) Gold 6330 CPU @ 2.00GHz": 112}, 2, 56),
}


def read(kind: str, name: str) -> str:
    return (CORPUS / kind / name).read_text("utf-8", "replace")


@pytest.mark.parametrize(
    ("kind", "known"), [("lscpu", LSCPU), ("numactl", NUMACTL), ("proc", CPUINFO)], ids=["lscpu", "numactl", "cpuinfo"]
)
def test_no_capture_is_left_out(kind: str, known: dict[str, object]) -> None:
    pattern = "*cpuinfo*" if kind == "proc" else "*"
    assert {path.name for path in (CORPUS / kind).glob(pattern)} == set(known)


@pytest.mark.parametrize("name", LSCPU)
def test_lscpu(name: str) -> None:
    count, sockets, cores, smt, nodes = LSCPU[name]
    found = parse_lscpu(read("lscpu", name))
    assert (len(found.online), found.sockets, found.cores, found.smt) == (count, sockets, cores, smt)
    assert sum(found.models.values()) == count
    if nodes:
        assert {node.id: len(node.cpus) for node in parse_lscpu_nodes(read("lscpu", name))} == nodes
    else:
        with pytest.raises(Unavailable):
            parse_lscpu_nodes(read("lscpu", name))


def test_lscpu_keeps_every_kind_of_core() -> None:
    found = parse_lscpu(read("lscpu", "lscpu-arm-A510-A710-A715-X3.txt"))
    assert dict(found.models) == {"Cortex-A510": 3, "Cortex-A710": 2, "Cortex-A715": 2, "Cortex-X3": 1}


@pytest.mark.parametrize("name", [name for name in LSCPU if name.startswith("lscpu-")])
def test_lscpu_for_programs_agrees_with_its_summary(name: str) -> None:
    text = read("lscpu", name)
    table, whole = parse_lscpu(text[text.index("# The following") :]), parse_lscpu(text)
    assert (table.online, table.sockets) == (whole.online, whole.sockets)
    assert (table.cores, table.smt) == (whole.cores, whole.smt)


@pytest.mark.parametrize("name", NUMACTL)
def test_numactl(name: str) -> None:
    nodes = parse_numactl(read("numactl", name))
    assert {node.id: (len(node.cpus), need(node.memory_kib) // MIB) for node in nodes} == NUMACTL[name]
    assert all(need(node.distances)[node.id] == 10 for node in nodes)
    assert {need(node.distances)[other.id] for node in nodes for other in nodes if node is not other} <= {21}


@pytest.mark.parametrize("name", CPUINFO)
def test_cpuinfo(name: str) -> None:
    count, models, sockets, cores = CPUINFO[name]
    found = parse_cpuinfo(read("proc", name))
    assert (found.count, dict(found.models)) == (count, models)
    if sockets is None:
        assert isinstance(found.sockets, Unavailable)
        assert isinstance(found.microcode, NotApplicable)
    else:
        assert (found.sockets, found.cores) == (sockets, cores)
        assert len(need(found.microcode)) == 1


def test_isolcpus_of_a_real_command_line() -> None:
    cmdline = parse_cmdline(read("proc", "2xgold6230-cmdline.txt"))
    asked = cmdline.get("isolcpus")
    assert asked == "managed_irq,0-4,11-79"
    assert parse_isolcpus(asked, 79) == frozenset(), "managed_irq alone takes nothing from the scheduler"
    assert parse_isolcpus(cmdline.get("rcu_nocbs") or "", 79) == {*range(5), *range(11, 80)}


def tree(tmp_path: Path, name: str) -> Facts:
    """Return the facts of a copied /proc and /sys; the archive's links stay inside of the folder."""
    with tarfile.open(CORPUS / "host-sysfs" / name) as archive:
        archive.extractall(tmp_path, filter="data")
    [root] = tmp_path.iterdir()
    probes = {probe.id: probe for fact in (NUMA, FREQUENCY, IDLE, TOPOLOGY) for probe in fact.probes()}
    return Facts(collect({**probes, **{probe.id: probe for probe in PROBES}}.values(), root=str(root)))


def test_no_tree_is_left_out() -> None:
    assert {path.name for path in (CORPUS / "host-sysfs").iterdir()} == {
        "dgx-gb10.tar.bz2", "power9-6xv100-gpu-numa.tar.bz2",
    }  # fmt: skip


def test_memory_of_gpus_is_no_node_of_the_host(tmp_path: Path) -> None:
    facts = tree(tmp_path, "power9-6xv100-gpu-numa.tar.bz2")
    nodes = {node.id: node for node in facts.get(NUMA)}
    assert sorted(nodes) == [0, 8, *range(250, 256)]
    assert {id: len(node.cpus) for id, node in nodes.items() if node.is_host} == {0: 88, 8: 88}
    assert {need(nodes[id].memory_kib) for id in range(250, 256)} == {15 * 1024 * MIB}
    assert need(nodes[0].distances) == {0: 10, 8: 40, **dict.fromkeys(range(250, 256), 80)}
    topology = facts.get(TOPOLOGY)
    assert (topology.sockets, topology.smt, need(topology.isolated)) == (2, True, frozenset())
    assert facts.get(SYSTEM).architecture == "ppc64le"
    assert "90 GiB more in nodes without CPUs" in introduce(facts)["Memory"]


def test_gb10(tmp_path: Path) -> None:
    facts = tree(tmp_path, "dgx-gb10.tar.bz2")
    [node] = facts.get(NUMA)
    assert (len(node.cpus), node.memory_kib) == (20, 125508468)
    topology = facts.get(TOPOLOGY)
    assert (topology.cores, topology.sockets, topology.smt, topology.smt_control) == (20, 1, False, "notsupported")
    assert (need(topology.isolated), need(topology.nohz_full)) == (frozenset(), frozenset())
    frequency = facts.get(FREQUENCY)
    assert {policy.governor for policy in frequency.policies} == {"performance"}
    assert {policy.driver for policy in frequency.policies} == {"cppc_cpufreq"}
    assert {policy.hardware_max_khz for policy in frequency.policies} == {2808000, 3900000}
    assert all(policy.max_khz == policy.hardware_max_khz for policy in frequency.policies)
    assert all(isinstance(policy.preference, NotApplicable) for policy in frequency.policies)
    assert isinstance(frequency.boost, NotApplicable)
    assert facts.get(IDLE).states == ()
    system = facts.get(SYSTEM)
    assert (system.vendor, system.product, system.architecture) == ("NVIDIA", "NVIDIA_DGX_Spark", "aarch64")
    assert introduce(facts)["CPU"] == "Cortex-A725 + Cortex-X925, 20 cores, 20 threads"
