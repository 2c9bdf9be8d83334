"""PCI links and interrupts of real machines, out of a folder of captured outputs.

The folder is named by HOSTCHECK_CORPUS, else it is ../shared/corpus beside the repository.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from hostcheck.facts.base import Facts
from hostcheck.facts.gpu import Gpu
from hostcheck.facts.irq import parse_interrupts
from hostcheck.facts.nvlink import Topology, TopologyRow
from hostcheck.facts.pci import FUNCTIONS, LINKS, LISTING, PCI, PciTree
from hostcheck.facts.pci_acs import CONFIG, switch_ports
from hostcheck.facts.pci_links import hops
from hostcheck.facts.platform import PLATFORM
from hostcheck.facts.software import DEVICES_PROBE
from hostcheck.model import Result
from hostcheck.snapshot.reading import Ending, Entry, FileState, Manifest, Reading, Snapshot
from support import Case, content, host

CORPUS = Path(os.environ.get("HOSTCHECK_CORPUS", Path(__file__).parents[3] / "shared" / "corpus"))
pytestmark = pytest.mark.skipif(not CORPUS.is_dir(), reason=f"the corpus of captured outputs is not at {CORPUS}")


def text(name: str) -> str:
    return (CORPUS / name).read_text("utf-8", "replace")


def test_interrupts_of_eighty_cpus() -> None:
    whole = text("proc/2xgold6230-interrupts.txt")
    start = time.perf_counter()
    table = parse_interrupts(whole)
    assert time.perf_counter() - start < 0.3
    assert len(table.cpus) == 80
    assert len(table.rows) == 542
    timer = table.rows[0]
    assert (timer.name, timer.counts[0], sum(timer.counts)) == ("timer", 57, 57)
    last = table.rows[max(table.rows)]
    assert last.name == "i40e-0000:86:00.1:fdir-TxRx-0"
    assert last.chip == "IR-PCI-MSIX-0000:86:00.1"
    assert all(row.name for row in table.rows.values()), "each numbered row of this machine is taken by a driver"
    assert all(len(row.counts) == 80 for row in table.rows.values())


HALF = "the link uses 8 of 16 lanes; the hypervisor hides whether the slot has more"
WIDTHS = {
    "netdata-rtx-2080-win.xml": ["fail"],
    "netdata-rtx-pro-6000-driver-580.xml": ["unknown"],
    "pai-nvidia_smi_sample.xml": ["fail", "fail"],
    "qx-l40s.xml": ["fail"],
    "telegraf-a10g.xml": ["fail"],
    "telegraf-dual_2080-v13.xml": ["fail", "fail"],
    "telegraf-gtx-1070-ti.xml": ["unknown"],
    "telegraf-quadro-p2000-v12.xml": ["fail"],
    "telegraf-tesla-t4.xml": ["fail"],
}
"""Documents whose GPUs do not all use 16 lanes, or do not say; every other one passes."""
IDLE = (
    "netdata-rtx-4090-driver-535.xml", "pai-nvidia_smi_out_of_order.xml", "pai-nvidia_smi_sample_ecc_unsupported.xml",
    "telegraf-3090-v13.xml", "telegraf-a10g.xml", "telegraf-dual_2080-v13.xml", "telegraf-dual_a5000-v13.xml",
    "telegraf-gtx-1660-ti.xml", "telegraf-pro-6000-maxq-blackwell-v13.xml", "telegraf-quadro-p2000-v12.xml",
    "telegraf-rtx-3060-v12.xml", "telegraf-rtx-3090-v12.xml", "telegraf-rtx-4000-sff-ada-v13.xml",
)  # fmt: skip
"""Documents in which the link of a GPU is slow only because it idles."""
DOCUMENTS = sorted(path.name for path in (CORPUS / "smi-xml").glob("*.xml")) if CORPUS.is_dir() else []
GUEST = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Processor\nflags\t\t: fpu hypervisor"


def judged(check: str, document: str, *, guest: bool) -> Result:
    """Judge a document of nvidia-smi on a host whose PCI bus is not to be seen."""
    case = Case(check=check, name="", status="", table="", files={"/proc/cpuinfo": GUEST} if guest else {})
    snapshot = case.snapshot().without([LISTING.id, FUNCTIONS.id, LINKS.id])
    reading = Reading("gpu.smi", Ending.OK, 0, out=(CORPUS / "smi-xml" / document).read_bytes())
    return case.judge(Snapshot(snapshot.manifest, {**snapshot.readings, "gpu.smi": reading}))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_link_widths(document: str) -> None:
    guest = judged("pci.gpu-link-width", document, guest=True)
    wanted = WIDTHS.get(document, ["pass"] * len(guest.findings))
    assert [finding.status for finding in guest.findings] == wanted
    for finding in guest.findings:
        if finding.status == "fail":
            assert finding.severity == "low", "the hypervisor decides, and may have wired it so"
            assert (finding.summary == HALF) == (finding.observed == 8)
    bare = judged("pci.gpu-link-width", document, guest=False)
    on_bare = ["unknown" if status == "fail" else status for status in wanted]
    assert [finding.status for finding in bare.findings] == on_bare, "unknown, since the slot may have no more"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_link_speeds(document: str) -> None:
    result = judged("pci.gpu-link-speed", document, guest=False)
    statuses = {finding.status.value for finding in result.findings}
    assert "fail" not in statuses, "no GPU of the corpus is slow under load"
    assert ("not-applicable" in statuses) == (document in IDLE)


@pytest.mark.parametrize("document", ["qx-gb200-4gpu.xml"])
def test_a_slot_that_limits_the_speed_is_told(document: str) -> None:
    for finding in judged("pci.gpu-link-speed", document, guest=False).findings:
        assert finding.summary == "the link runs at 32 GT/s; the slot allows no more, the GPU could 64"


_CLASSES = {
    "PCI bridge": "0x060400", "3D controller": "0x030200", "Non-Volatile memory controller": "0x010802",
    "Ethernet controller": "0x020000", "Infiniband controller": "0x020700", "Bridge": "0x068000",
}  # fmt: skip


def tree_of(dump: str) -> PciTree:
    """Build the tree out of a root user's `lspci -vvv`: the buses below each bridge give the paths."""
    blocks = [block for block in re.split(r"\n\n+", dump) if re.match(r"[0-9a-f]{2}:", block)]
    below: dict[str, str] = {}
    found: dict[str, dict[str, str]] = {}
    for block in blocks:
        address, _, rest = block.partition(" ")
        kind, _, name = rest.partition(": ")
        device = re.search(r"Device ([0-9a-f]{4})", name.splitlines()[0])
        node = re.search(r"NUMA node: (\d+)", block)
        found[address] = {
            "vendor": "0x10de" if name.startswith("NVIDIA") else "0x1234",
            "device": f"0x{device[1]}" if device else "0x0001",
            "class": _CLASSES.get(kind, "0xff0000"),
            "numa_node": node[1] if node else "-1",
        }
        for which, prefix in (("LnkCap", "max"), ("LnkSta", "current")):
            link = re.search(rf"{which}:.*?Speed ([0-9.]+)GT/s[^,]*, Width x(\d+)", block)
            if link:
                found[address][f"{prefix}_link_speed"] = f"{link[1]} GT/s PCIe"
                found[address][f"{prefix}_link_width"] = link[2]
        bus = re.search(r"secondary=([0-9a-f]{2})", block)
        if bus:
            below[bus[1]] = address

    def path(address: str) -> str:
        bridge = below.get(address[:2])
        return f"{path(bridge)}/0000:{address}" if bridge else f"../../../devices/pci0000:{address[:2]}/0000:{address}"

    root = "/sys/bus/pci/devices"
    files = {
        f"{root}/0000:{address}/{name}": FileState(Ending.OK, content.encode())
        for address, texts in found.items()
        for name, content in texts.items()
    }
    entries = {f"{root}/0000:{address}": Entry("l", target=path(address)) for address in found}
    readings = [
        Reading(LISTING.id, Ending.OK, asked=LISTING.paths, entries=entries),
        Reading(FUNCTIONS.id, Ending.OK, asked=FUNCTIONS.paths, files=files),
        Reading(LINKS.id, Ending.OK, asked=LINKS.paths, files=files),
    ]
    manifest = Manifest(1, "test", "local", 0.0, 0.0, "host", 0)
    return Facts(Snapshot(manifest, {reading.probe: reading for reading in readings})).get(PCI)


def test_an_eight_gpu_server_has_no_link_below_what_both_ends_can() -> None:
    tree = tree_of(text("lspci/gpud-xe9680-8xh100-vvv.txt"))
    assert [gpu.pci for gpu in tree.gpus] == ["10de:2330"] * 8
    assert len(tree.nvswitches) == 4
    found = hops(tree)
    assert len(found) >= 8 + 8, "a switch's link upwards for each GPU, and a NIC's for each"
    narrow = [hop.subject for hop in found if hop.width < hop.max_width]
    slow = [hop.subject for hop in found if hop.speed_gts < hop.max_speed_gts]
    assert not narrow
    assert not slow, "ports that lspci calls downgraded have a slower device below"
    shared = {bridge.address for gpu in tree.gpus for bridge in tree.parents(gpu)}
    assert all(len(tree.parents(gpu)) >= 3 for gpu in tree.gpus), f"each GPU is behind a switch: {sorted(shared)}"


def configured(dump: str) -> Reading:
    """Return the configuration space of each port: the type and access control that lspci printed."""
    files = {}
    for block in re.split(r"\n\n+", dump):
        kind = re.search(r"Express \(v2\) (Root|Upstream|Downstream) Port", block)
        if kind is None:
            continue
        control = re.search(r"ACSCtl:\s*(.*)", block)
        bits = [word.endswith("+") for word in control[1].split()] if control else []
        space = {"size": 4096, "0": "b510498707041000", "34": "68"}
        space["68"] = f"1000{('Root', 'Upstream', 'Downstream').index(kind[1]) + 4 << 4 | 2:02x}01"
        if control:
            space["100"] = f"0d0001007f00{sum(bit << place for place, bit in enumerate(bits)):02x}00"
        path = CONFIG.paths[0].replace("*", f"0000:{block.split()[0]}")
        files[path] = FileState(Ending.OK, content(space))
    return Reading(CONFIG.id, Ending.OK, asked=CONFIG.paths, files=files)


def test_an_eight_gpu_server_redirects_nothing_between_gpus_and_adapters() -> None:
    """Six of its bridges check sources and one redirects, none of them between a GPU and its adapter."""
    dump = text("lspci/gpud-xe9680-8xh100-vvv.txt")
    tree = tree_of(dump)
    adapters = [nic for nic in tree.nics if not nic.address.startswith("0000:01:")]  # ConnectX; the others are BCM5720
    target = "../../devices/pci0000:00/{}/infiniband_verbs/uverbs0"
    verbs = {
        f"/sys/class/infiniband_verbs/uverbs{number}": Entry("l", target=target.format("/".join(nic.path)))
        for number, nic in enumerate(adapters)
    }
    devices = Reading(DEVICES_PROBE.id, Ending.OK, asked=DEVICES_PROBE.paths, entries=verbs)
    gpus = [Gpu(index=index, bus_id=gpu.address, source="nvidia-smi") for index, gpu in enumerate(tree.gpus)]
    joined = {f"GPU{index}": "NV18" for index in range(8)}
    rows = tuple(TopologyRow(index=gpu.index, paths=joined, cpus="", node="") for gpu in gpus)
    platform = Facts(host("bare")).get(PLATFORM)
    ports = switch_ports(tree, configured(dump), devices, frozenset(), gpus, Topology(gpus=rows, nics={}), platform)
    assert len(adapters) == 12
    assert {below for port in ports for below in port.below} == {part.address for part in (*tree.gpus, *adapters)}
    assert {port.routing for port in ports} == {"direct"}

    redirecting = configured(re.sub(r"(ACSCtl:.*ReqRedir)-", r"\1+", dump))
    ports = switch_ports(tree, redirecting, devices, frozenset(), gpus, Topology(gpus=rows, nics={}), platform)
    assert {port.routing for port in ports} == {"redirected"}


def test_a_recorded_fault_is_found() -> None:
    """The same server with one switch at half of its lanes."""
    dump = text("lspci/gpud-xe9680-8xh100-vvv.txt")
    head, bridge, tail = dump.partition("16:00.0 PCI bridge")
    assert bridge
    whole = "LnkSta:\tSpeed 32GT/s (ok), Width x16 (ok)"
    broken = tail.replace(whole, whole.replace("x16 (ok)", "x8 (downgraded)"), 1)
    found = hops(tree_of(head + bridge + broken))
    assert [hop.subject for hop in found if hop.width < hop.max_width] == ["0000:16:00.0"]


def test_the_synthetic_host_is_no_guest() -> None:
    """The other tests here say "bare metal" and mean it."""
    assert b"hypervisor" not in host("bare").readings["platform.cpuinfo"].files["/proc/cpuinfo"].data
