"""The network: buffers and queues of fast Ethernet links, their packets' size, and which CPUs work for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hostcheck.checks.network import ANNOUNCE, BACKLOG, BUFFER, CONGESTION, IGNORE, MTU, TCP_BUFFER, far_queues
from hostcheck.errors import Maybe, NotApplicable, need
from hostcheck.expect import Expect
from hostcheck.facts.dropins import OWN, OwnFiles
from hostcheck.facts.network import (
    FAST,
    QUEUES,
    SETTINGS,
    WIRED,
    Interface,
    Queues,
    cpu_mask,
    parse_triple,
)
from hostcheck.registry import tuner
from hostcheck.tuning.change import Change, Kind, Refusal, Risk, Scope

from .making import because, claimed, pick, set_sysctl, settle, sysctl, unit_at_boot, write

Settings = Mapping[str, Maybe[str]]
Steps = Iterator[Change | Refusal]


@tuner(
    SETTINGS, FAST, OWN, id="network.socket-buffers", fixes=["network.socket-buffers"], rows=["net-tcp-buffers"],
    keys=[BUFFER, TCP_BUFFER],
)  # fmt: skip
def socket_buffers(settings: Settings, fast: Sequence[Interface], own: OwnFiles, expect: Expect) -> Steps:
    """Raise how large the buffers of sockets may become, on hosts with fast Ethernet links.

    It counts for connections that are made afterwards. Each may then take more memory while data is on the way.
    Rollback writes the old sizes back.
    """
    why, fixes = "a connection can keep a fast link full", ["network.socket-buffers"]
    for name in ("net.core.rmem_max", "net.core.wmem_max"):
        yield from sysctl(own, settings, name, expect(BUFFER), why=why, fixes=fixes)
    for name in ("net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"):
        before, wanted = need(settings[name]), expect(TCP_BUFFER)
        low, first, most = parse_triple(before)
        file = own.others.sysctl(name)
        settled = settle(
            own, name, wanted, most, file=file, tuned=[("sysctl", name)], read=lambda text: int(text.split()[-1])
        )
        if isinstance(settled, Refusal):
            yield settled
        elif settled is not None:
            # Between tabs, as the kernel shows them.
            after, source = f"{low}\t{first}\t{settled.value}", because(wanted)
            yield from set_sysctl(own, name, before, after, why=why, source=source, fixes=fixes, kept=settled.kept)


@tuner(
    SETTINGS, FAST, OWN, id="network.backlog", fixes=["network.backlog"], rows=["net-tcp-buffers"], keys=[BACKLOG],
)  # fmt: skip
def backlog(settings: Settings, fast: Sequence[Interface], own: OwnFiles, expect: Expect) -> Steps:
    """Raise how many packets may wait for a CPU, on hosts with fast Ethernet links.

    A burst waits where it was dropped before. Rollback writes the old number back.
    """
    why, wanted = "a burst of packets is not dropped", expect(BACKLOG)
    yield from sysctl(own, settings, "net.core.netdev_max_backlog", wanted, why=why, fixes=["network.backlog"])


@tuner(
    SETTINGS, OWN, id="network.congestion", fixes=["network.congestion"], rows=["net-congestion"], keys=[CONGESTION],
)  # fmt: skip
def congestion(settings: Settings, own: OwnFiles, expect: Expect) -> Steps:
    """Set how TCP avoids congestion, as the site wants it.

    It counts for connections that are made afterwards, and changes how they share links with others, so it is planned
    only by name. Rollback writes the old word back.
    """
    name, wanted = "net.ipv4.tcp_congestion_control", expect(CONGESTION)
    before = need(settings[name])
    file = own.others.sysctl(name)
    settled = settle(own, name, wanted, before, file=file, tuned=[("sysctl", name)])
    if isinstance(settled, Refusal):
        yield settled
    elif settled is not None:
        offered = need(settings["net.ipv4.tcp_available_congestion_control"]).split()
        after, source, why = str(settled.value), because(wanted), "TCP avoids congestion as the site wants it"
        if after not in offered:
            told = f"the kernel offers {', '.join(offered)}: load the module tcp_{after} at boot, then plan again"
            yield Refusal(target=name, why=told)
            return
        fixes, risk = ["network.congestion"], Risk.MEDIUM
        yield from set_sysctl(
            own, name, before, after, why=why, source=source, fixes=fixes, risk=risk, opt_in=True, kept=settled.kept
        )


@tuner(SETTINGS, FAST, OWN, id="network.arp", fixes=["network.arp"], keys=[ANNOUNCE, IGNORE])
def arp(settings: Settings, fast: Sequence[Interface], own: OwnFiles, expect: Expect) -> Steps:
    """Set whether the host answers for each of its addresses on its own link only.

    It is for hosts whose rails share a subnet, where the site says so. What asked by another link gets no answer any
    more. Rollback writes the old numbers back.
    """
    if sum(not interface.master for interface in fast) < 2:
        raise NotApplicable("there is one fast link at most")
    why, fixes, risk = "each rail answers for its own address", ["network.arp"], Risk.MEDIUM
    for name, key in (("net.ipv4.conf.all.arp_announce", ANNOUNCE), ("net.ipv4.conf.all.arp_ignore", IGNORE)):
        yield from sysctl(own, settings, name, expect(key), why=why, fixes=fixes, risk=risk)


@tuner(WIRED, OWN, id="network.mtu", fixes=["network.mtu"], rows=["net-mtu"], keys=[MTU])
def mtu(interfaces: Sequence[Interface], own: OwnFiles, expect: Expect) -> Steps:
    """Set the size of packets of Ethernet links, as the site wants it.

    Switches and all other hosts must agree, or packets are lost; the link may carry this very connection. So it is
    planned only by name, and made with the way back prepared. For later boots it belongs to whatever configures the
    network. Rollback sets the old size.
    """
    for interface in interfaces:
        size, wanted = need(interface.mtu), expect(MTU)
        value = pick(interface.name, wanted, size)
        if isinstance(value, Refusal):
            yield value
        elif value != size and interface.master:
            yield Refusal(target=interface.name, why=f"it is a part of {interface.master}, which hands its MTU down")
        elif value != size:
            place = next((name for name in _KEEPERS if own.others.runs(name)), "the network's configuration")
            yield Change(
                kind=Kind.NIC,
                target=f"{interface.name} mtu",
                before=f"{size}",
                after=f"{value}",
                scope=Scope.RUNTIME,
                why=f"packets of {value} bytes, as the site wants them: set it in {place} too, or a reboot undoes it",
                risk=Risk.HIGH,
                source=because(wanted),
                fixes=("network.mtu",),
                cuts=True,
                opt_in=True,
            )


_KEEPERS = ("netplan", "NetworkManager", "systemd-networkd", "ifupdown")


@tuner(
    QUEUES, OWN, id="network.queue-cpus", fixes=["network.queue-cpus"], rows=["net-nic-affinity"],
    references=["https://docs.kernel.org/networking/scaling.html"],
)  # fmt: skip
def queue_cpus(interfaces: Sequence[Queues], own: OwnFiles, expect: Expect) -> Steps:
    """Let CPUs of the NIC's own node work for queues that name only CPUs of other nodes.

    A queue that names no CPUs is left as it is. Rollback writes the old masks back.
    """
    why, source = "packets stay on the NIC's own node", "the host's own layout: numa_node of the device"
    script: list[str] = []
    for queues in interfaces:
        try:
            far = far_queues(queues)
        except NotApplicable:
            continue
        near = need(queues.near)
        for path, text in far.items():
            rules = (*own.others.udev(path.split("/", 5)[5]), own.others.tmpfile(path))
            refused = next((refusal for rule in rules if (refusal := claimed(path, rule))), None)
            if refused is not None:
                yield refused
                continue
            after = cpu_mask(near, text)
            script.append(f"echo {after} >{path}")
            yield write(path, text.strip(), after, why=why, source=source, fixes=["network.queue-cpus"])
    if script:
        yield from unit_at_boot(own, "nic-queues", script, after="network-online.target", why=why, source=source)
