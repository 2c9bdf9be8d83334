"""The network: buffers and queues of fast Ethernet links, their packets' size, and which CPUs work for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hostcheck.errors import Maybe, NotApplicable, need
from hostcheck.expect import Expect, Key, failed, passed
from hostcheck.facts.base import each
from hostcheck.facts.cpu import cpu_list
from hostcheck.facts.kernel import setting
from hostcheck.facts.network import (
    FAST,
    QUEUES,
    SETTINGS,
    WIRED,
    Interface,
    Queues,
    parse_mask,
    parse_triple,
)
from hostcheck.facts.platform import PLATFORM, Platform
from hostcheck.model import Finding, Severity
from hostcheck.registry import check

from .kernel_fixes import sysctl, target

BUFFER = Key("network.socket-buffers", int, unit="B", high=2**40)
TCP_BUFFER = Key("network.socket-buffers.tcp", int, unit="B", high=2**40)
BACKLOG = Key("network.backlog", int, unit="packets", high=2**31)
CONGESTION = Key("network.congestion", str)
ANNOUNCE = Key("network.arp.announce", int, high=2)
IGNORE = Key("network.arp.ignore", int, high=8)
MTU = Key("network.mtu", int, unit="B", low=68, high=65535)

Settings = Mapping[str, Maybe[str]]

_OF_HOST = "network settings are the host's"


@check(
    SETTINGS, FAST, PLATFORM, id="network.socket-buffers", severity=Severity.LOW, rows=["net-tcp-buffers"],
    keys=[BUFFER, TCP_BUFFER],
)  # fmt: skip
def socket_buffers(
    settings: Settings, fast: Sequence[Interface], platform: Platform, expect: Expect
) -> Iterator[Finding]:
    """Sockets may have buffers that are large enough for fast links.

    A connection cannot have more data on the way than its buffer holds: 100 Gb/s over 1 ms are 12 MiB. It matters to
    what goes over TCP: checkpoints, data sets, NCCL without RDMA.
    """
    platform.need_host(_OF_HOST)
    for name in ("net.core.rmem_max", "net.core.wmem_max"):
        value, wanted = setting(settings, name), expect(BUFFER)
        yield wanted.judge(value, say=f"{name} is {value:,} bytes", fix=sysctl(name, wanted))
    for name in ("net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"):
        low, first, most = parse_triple(need(settings[name]))
        wanted = expect(TCP_BUFFER)
        triple = f"{low} {first} {target(wanted)}"
        fix = f"sysctl -w {name}='{triple}' && echo '{name} = {triple}' > /etc/sysctl.d/zz-gpu-{name}.conf"
        yield wanted.judge(most, say=f"{name} goes up to {most:,} bytes", fix=fix)


@check(SETTINGS, FAST, PLATFORM, id="network.backlog", severity=Severity.LOW, rows=["net-tcp-buffers"], keys=[BACKLOG])
def backlog(settings: Settings, fast: Sequence[Interface], platform: Platform, expect: Expect) -> Finding:
    """Packets that come faster than a CPU takes them wait, and are not dropped.

    The backlog is used where packets are handed on to other CPUs (RPS), by tunnels and by virtual interfaces of
    containers; a burst of a fast link fills the default of 1,000 in a tenth of a millisecond.
    """
    platform.need_host(_OF_HOST)
    name = "net.core.netdev_max_backlog"
    value, wanted = setting(settings, name), expect(BACKLOG)
    return wanted.judge(value, say=f"{name} is {value:,}", fix=sysctl(name, wanted))


@check(SETTINGS, PLATFORM, id="network.congestion", severity=Severity.LOW, rows=["net-congestion"], keys=[CONGESTION])
def congestion(settings: Settings, platform: Platform, expect: Expect) -> Finding:
    """TCP avoids congestion in the way that the site wants; without a wish, it is only told.

    BBR keeps long and lossy ways full where cubic backs off; inside of one data centre it gains little, and it can
    crowd out others.
    """
    platform.need_host(_OF_HOST)
    name = "net.ipv4.tcp_congestion_control"
    word, wanted = need(settings[name]), expect(CONGESTION)
    return wanted.judge(word, say=f"congestion control is {word}", fix=sysctl(name, wanted))


@check(SETTINGS, FAST, PLATFORM, id="network.arp", severity=Severity.LOW, keys=[ANNOUNCE, IGNORE])
def arp(settings: Settings, fast: Sequence[Interface], platform: Platform, expect: Expect) -> Iterator[Finding]:
    """A host with several rails answers for each address on its own link; without a wish, it is only told.

    By default Linux answers for any of its addresses on any link. Where two rails share a subnet, the traffic of both
    may then come in by one of them.
    """
    platform.need_host(_OF_HOST)
    if sum(not interface.master for interface in fast) < 2:
        raise NotApplicable("there is one fast link at most")
    for name, key in (("net.ipv4.conf.all.arp_announce", ANNOUNCE), ("net.ipv4.conf.all.arp_ignore", IGNORE)):
        value, wanted = setting(settings, name), expect(key)
        yield wanted.judge(value, say=f"{name} is {value}", fix=sysctl(name, wanted))


@check(each(WIRED), PLATFORM, id="network.mtu", severity=Severity.MEDIUM, rows=["net-mtu"], keys=[MTU])
def mtu(interface: Interface, platform: Platform, expect: Expect) -> Finding:
    """Packets are as large as the site wants them on its network.

    With 9,000 bytes a fast link needs a sixth of the packets, interrupts and headers. All ends and switches of a
    network must agree; what is too large for one of them is lost without a word.
    """
    platform.need_host(_OF_HOST)
    size, wanted = need(interface.mtu), expect(MTU)
    return wanted.judge(
        size,
        say=f"packets of {size:,} bytes",
        fix=f"ip link set {interface.name} mtu {target(wanted)}   # until reboot, and only if the switches and all "
        "other hosts agree; to last: in netplan, NetworkManager or systemd-networkd",
        source=f"/sys/class/net/{interface.name}/mtu",
    )


@check(
    each(QUEUES), id="network.queue-cpus", severity=Severity.LOW, rows=["net-nic-affinity"],
    references=["https://docs.kernel.org/networking/scaling.html"],
)  # fmt: skip
def queue_cpus(queues: Queues, expect: Expect) -> Finding:
    """Where packets are handed on to other CPUs, those of the NIC's own node are among them.

    Receive packet steering (RPS) and transmit packet steering (XPS) name CPUs for each queue. Masks that were written
    by a script for another machine send each packet over the link between the sockets.
    """
    steered = {
        path: cpus for path, text in (*queues.receive.items(), *queues.send.items()) if (cpus := parse_mask(text))
    }
    if not steered:
        raise NotApplicable("no queue names any CPUs")
    near = need(queues.near)
    far = far_queues(queues)
    line = f"{len(steered) - len(far)} of {len(steered)} queues that name CPUs name near ones ({cpu_list(near)})"
    if not far:
        return passed(line)
    files = " ".join(sorted(far)[:4])
    return failed(
        line,
        len(far),
        wanted=f"CPUs of its own node: {cpu_list(near)}",
        fix=f"Write a mask of near CPUs, or 0 for none, to {files}{' ...' if len(far) > 4 else ''}",
    )


def far_queues(queues: Queues) -> dict[str, str]:
    """Return the files that name CPUs of other nodes only; of send queues, only where none at all names a near CPU.

    Send queues share out all CPUs among them, so that some of them are far by right.

    Raises:
        Unavailable: the node is not known, or a file holds no mask.
        NotApplicable: there is only one node.
    """
    near = need(queues.near)
    far = {path: text for path, text in queues.receive.items() if (cpus := parse_mask(text)) and not cpus & near}
    sending = {path: text for path, text in queues.send.items() if parse_mask(text)}
    if not any(parse_mask(text) & near for text in sending.values()):
        far |= sending
    return far
