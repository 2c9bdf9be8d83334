"""The kernel log: every form that it comes in, where it begins, and what it tells of."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostcheck.errors import Unavailable
from hostcheck.facts.kernel_log import (
    LONGEST_LINE,
    KernelLog,
    Kind,
    LogLine,
    find_trouble,
    parse_kernel_log,
    read_kernel_log,
)
from hostcheck.snapshot.reading import Ending, Reading
from support import sample

SAMPLE = sample(parse_kernel_log)
BOOT = "[    0.000000] Linux version 6.8.0 (gcc) #1 SMP\n"


def ok(text: str, probe: str = "kernel.dmesg") -> Reading:
    return Reading(probe, Ending.OK, 0, out=text.encode())


def troubles(*texts: str) -> list[tuple[Kind, str]]:
    return [(found.kind, found.who) for found in find_trouble(LogLine(text=text) for text in texts)]


def test_the_sample_in_all_its_forms() -> None:
    lines = parse_kernel_log(SAMPLE)
    assert [(line.at_s, line.level, line.stamp) for line in lines] == [
        (0.0, None, ""),
        (3098.275469, None, ""),
        (None, None, "Sun Feb 23 16:24:18 2025"),
        (None, 4, "2025-01-17T15:36:25,335739+00:00"),
        (227.986636, 6, ""),
        (201.654822, 1, ""),
        (None, None, "Aug 17 06:18:01"),
        (5.12001, None, ""),
        (None, None, ""),
    ]
    assert lines[1].text == "Kernel panic - not syncing: Test panic triggered by crash_test module"
    assert lines[3].text == "mlx_compat: loading out-of-tree module taints kernel."
    assert lines[6].text == "systemd-networkd[5398]: ib6: lost carrier"
    assert lines[7].text == "EXT4-fs (sda1): mounted filesystem with ordered data mode."


@pytest.mark.parametrize(
    ("raw", "text", "at_s", "level"),
    [
        ("<30>[    4.1] systemd[1]: Inserted module", "systemd[1]: Inserted module", 4.1, 6),
        ("kern  :err   : [   12.5] nvme: oh", "nvme: oh", 12.5, 3),
        ("[    1.234567 <    0.000012>] tick", "tick", 1.234567, None),
        ("[    1.5][   C3] from an interrupt", "from an interrupt", 1.5, None),
        ("Aug  7 06:18:01 n1 kernel: [  77.5] in syslog", "in syslog", 77.5, None),
        ("2024-11-15T12:02:03.470068+00:00 n1 kernel: NVRM: x", "NVRM: x", None, None),
        ("4,12,5000000,-,caller=T1;with a caller", "with a caller", 5.0, 4),
        ("a [1.2] in the midst", "a [1.2] in the midst", None, None),
        ("\ttabs and \x1b[31m colour", "\ttabs and \x1b[31m colour", None, None),
    ],
)
def test_forms(raw: str, text: str, at_s: float | None, level: int | None) -> None:
    (line,) = parse_kernel_log(raw + "\r\n")
    assert (line.text, line.at_s, line.level) == (text, at_s, level)


def test_continuations_of_kmsg_records_and_blank_lines_are_no_messages() -> None:
    assert len(parse_kernel_log("6,1,10,-;one\n SUBSYSTEM=pci\n DEVICE=+pci:0000:00:00.0\n\n   \n6,2,11,-;two")) == 2


def test_the_parts_of_a_dump_are_put_in_order_of_time() -> None:
    dump = "dmesg-efi-1:\nPanic#1 Part1\n<0>[ 9.0] late\ndmesg-efi-2:\nPanic#1 Part2\n<6>[ 1.0] early\n<6>[ 2.0] more"
    assert [line.text for line in parse_kernel_log(dump)] == ["early", "more", "late"]


def test_a_long_line_is_cut() -> None:
    assert len(parse_kernel_log("x" * 100_000)[0].text) == LONGEST_LINE


def test_the_ring_buffer_is_complete_only_with_the_first_message() -> None:
    log = read_kernel_log(ok(BOOT + "[ 9.5] later"), Unavailable("no journal"))
    assert (log.source, log.complete, log.covers_from, len(log.lines)) == ("dmesg", True, "boot", 2)
    wrapped = read_kernel_log(ok("[    0.000000] BIOS-e820: usable\n"), Unavailable("no journal"))
    assert (wrapped.complete, wrapped.covers_from) == (False, "0 s after boot")
    with pytest.raises(Unavailable, match="begins only at"):
        wrapped.need_all()


def test_the_journal_stands_in_where_the_ring_buffer_has_wrapped_or_is_denied() -> None:
    journal = ok("[    0.000000] n1 kernel: Linux version 6.8.0\n[ 9.5] n1 kernel: old\n", "kernel.journal")
    for dmesg in (ok("[ 99.0] new\n"), Unavailable("exit 1: Operation not permitted"), ok("")):
        log = read_kernel_log(dmesg, journal)
        assert (log.source, log.complete, log.lines[1].text) == ("journal", True, "old")


def test_of_two_that_begin_late_the_longer_is_taken() -> None:
    log = read_kernel_log(ok("[ 99.0] new\n"), ok("[ 50.0] n1 kernel: older\n[ 99.0] n1 kernel: new\n"))
    assert (log.source, log.complete, log.covers_from) == ("journal", False, "50 s after boot")


@pytest.mark.parametrize("journal", [Unavailable("kernel.journal: absent"), ok("", "kernel.journal")])
def test_nothing_at_all_is_ignorance(journal: Reading | Unavailable) -> None:
    with pytest.raises(Unavailable, match=r"not permitted|empty"):
        read_kernel_log(Unavailable("exit 1: Operation not permitted"), journal)
    with pytest.raises(Unavailable):
        read_kernel_log(ok("\n\n"), journal)


def test_the_log_of_a_sandbox_is_not_the_hosts() -> None:
    with pytest.raises(Unavailable, match="gVisor"):
        read_kernel_log(ok("[    0.000000] Starting gVisor...\n"), Unavailable("absent"))


@pytest.mark.parametrize(
    ("text", "kind", "who"),
    [
        ("watchdog: BUG: soft lockup - CPU#12 stuck for 26s! [nvidia-smi:41022]", Kind.LOCKUP, ""),
        ("NMI watchdog: Watchdog detected hard LOCKUP on cpu 3", Kind.LOCKUP, ""),
        ("rcu: INFO: rcu_preempt self-detected stall on CPU", Kind.LOCKUP, ""),
        ("Oops: general protection fault, probably for non-canonical address 0x1: 0000 [#1] SMP", Kind.OOPS, ""),
        ("general protection fault, probably for non-canonical address 0x1: 0000 [#1] SMP PTI", Kind.OOPS, ""),
        ("Internal error: Oops: 0000000096000004 [#1] SMP", Kind.OOPS, ""),
        ("Unable to handle kernel paging request at virtual address ffff", Kind.OOPS, ""),
        ("INFO: task kworker/u8:3:99 blocked in I/O wait for more than 122 seconds.", Kind.HUNG_TASK, "kworker/u8:3"),
        (
            "Memory cgroup out of memory: Killed process 7 (pt_main_thread) total-vm:9kB",
            Kind.OOM_KILL,
            "pt_main_thread",
        ),
        ("Out of memory: Kill process 456 (python) score 50 or sacrifice child", Kind.OOM_KILL, "python"),
        ("mce: [Hardware Error]: Machine check events logged", Kind.HARDWARE, ""),
        ("{2}[Hardware Error]: event severity: corrected", Kind.HARDWARE, ""),
        ("mlx5_core 0000:41:00.1 ens1f1np1: Link down", Kind.LINK_LOST, "ens1f1np1"),
        ("bnxt_en 0000:01:00.0 eno1: NIC Link is Down", Kind.LINK_LOST, "eno1"),
        ("systemd-networkd[5398]: ib6: lost carrier", Kind.LINK_LOST, "ib6"),
    ],
)
def test_trouble(text: str, kind: Kind, who: str) -> None:
    assert troubles(text) == [(kind, who)]


@pytest.mark.parametrize(
    "text",
    [
        "traps: a.out[1] general protection fault ip:401 sp:7ff error:0 in a.out",
        "BUG[123]: segfault at 0 ip 0 sp 0 error 4",
        "user said: Out of memory: Killed process 1 (x)",
        "ata3: SATA link down (SStatus 0 SControl 300)",
        "mlx5_core 0000:1b:00.1: Port module event: module 1, Cable unplugged",
        "NVRM: nvAssertFailedNoLog: Assertion failed: x != NULL @ kernel_graphics.c:3411",
        "Kernel command line: panic=1 oops=panic",
        "nvidia: loading out-of-tree module taints kernel.",
        "oom_reaper: reaped process 345646 (vector), now anon-rss:0kB",
    ],
)
def test_no_trouble(text: str) -> None:
    assert troubles(text) == []


def test_the_lines_of_one_oops_are_one_event() -> None:
    first = ["BUG: unable to handle kernel NULL pointer dereference", "IP: x", "Oops: 0002 [#1] SMP"]
    assert troubles(*first) == [(Kind.OOPS, "")]
    assert len(troubles(*first, *(["noise"] * 60), "Oops: 0002 [#2] SMP")) == 2


def test_a_flood_is_read_in_time() -> None:
    line = "[ 9.5] nvidia-peermem nv_get_p2p_free_callback:127 ERROR detected invalid context, skipping\n"
    log = read_kernel_log(ok(BOOT + line * 50_000), Unavailable("absent"))
    assert len(log.lines) == 50_001
    assert list(find_trouble(log.lines)) == []


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300) | st.lists(st.sampled_from(SAMPLE.splitlines()) | st.text(max_size=60)).map("\n".join))
def test_any_text_is_read(text: str) -> None:
    lines = parse_kernel_log(text)
    list(find_trouble(lines))
    try:
        log: KernelLog = read_kernel_log(ok(text), Unavailable("absent"))
    except Unavailable:
        return
    assert log.lines == lines


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_mutilated_sample_is_read(data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(SAMPLE)))
    filler = data.draw(st.text(max_size=8))
    list(find_trouble(parse_kernel_log(SAMPLE[:place] + filler + SAMPLE[place + len(filler) :])))
