"""Hosts over SSH, healthy and not, each through a real sshd: how it ends, and the line that says so."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import sshlab
from hostcheck.snapshot.archive import read_archive
from hostcheck.snapshot.probes import CommandProbe, FileProbe, Probe
from hostcheck.snapshot.program import program
from hostcheck.snapshot.reading import Ending, Snapshot
from hostcheck.transport.base import Answer, Reach
from hostcheck.transport.ssh import SshOptions, SshTransport
from sshlab import Host, Lab, refused

PROBES: list[Probe] = [
    FileProbe("memory.vm", ("/proc/sys/vm/swappiness", "/proc/sys/vm/nope")),
    CommandProbe("platform.uname", ("uname", "-r")),
    CommandProbe("platform.none", ("no-such-command-anywhere",)),
]
SLOW = [*PROBES, CommandProbe("platform.slow", ("sleep", "30"), seconds=30)]
TEXT = program(PROBES).encode()
HIDE = "mount --bind /dev/null /usr/bin/{}"
READ_ONLY = "mount -o bind,remount,ro {0} 2>/dev/null || {{ mount --bind {0} {0}; mount -o bind,remount,ro {0}; }}"
SMALL = "mount -t tmpfs -o size=64k tmpfs {}"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    sshlab.require()
    with sshlab.lab() as built:
        yield built


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Every thread and every descriptor that a run takes is given back."""
    before = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    yield
    after = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    assert after[0] <= before[0], threading.enumerate()
    # The lab itself holds a descriptor or two for each host that a test starts.
    assert after[1] <= before[1] + 8


def ask(lab: Lab, address: str, *, text: bytes = TEXT, **further: object) -> Answer:
    return sshlab.ask(address, lab.config, text, **further)  # type: ignore[arg-type]


def read(answer: Answer) -> Snapshot:
    assert answer.reach is Reach.OK, answer.why
    assert answer.why == ""
    snapshot = read_archive(answer.out)
    assert snapshot.reading("memory.vm").read("/proc/sys/vm/swappiness") is not None
    assert snapshot.reading("memory.vm").read("/proc/sys/vm/nope") is None
    assert snapshot.reading("platform.uname").out == f"{os.uname().release}\n".encode()
    assert snapshot.reading("platform.none").ending is Ending.ABSENT
    return snapshot


@contextmanager
def midway(host: Host, act: Callable[[], object]) -> Iterator[None]:
    """Do something as soon as the slow probe runs on a host, while the body runs."""
    ended = threading.Event()

    def watch() -> None:
        while not host.runs("sleep", "30") and not ended.wait(0.02):
            pass
        act()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def test_a_host_answers(lab: Lab) -> None:
    host = lab.host("good")
    answer = ask(lab, host.address)
    assert read(answer).manifest.uid == 0
    assert (answer.attempts, answer.sent > len(TEXT), answer.received > len(answer.out)) == (1, True, True)


def test_another_account_gets_the_same_program(lab: Lab) -> None:
    assert read(ask(lab, lab.host("good").address, user="plain")).manifest.uid >= 64001


# Hosts that cannot be reached


def test_a_host_that_is_down(lab: Lab) -> None:
    address = lab.address(230)
    sshlab.call("ip", "route", "replace", "unreachable", f"{address}/32")
    try:
        refused(ask(lab, address), Reach.UNREACHABLE, f"no route to {address} port 22", "down")
    finally:
        sshlab.call("ip", "route", "delete", "unreachable", f"{address}/32")


def test_an_address_that_swallows_everything(lab: Lab) -> None:
    host = lab.host("hole", listen=False)
    sshlab.call("ip", "-n", host.namespace, "route", "add", "blackhole", f"{lab.address(254)}/32")
    answer = ask(lab, host.address, connect_seconds=1, retries=3)
    refused(answer, Reach.UNREACHABLE, "no answer", "in 1 s", "firewall")
    assert answer.attempts == 1
    assert answer.seconds < 25


def test_a_closed_port(lab: Lab) -> None:
    refused(ask(lab, lab.host("closed", listen=False).address), Reach.UNREACHABLE, "port 22 is closed", "sshd")


def test_a_name_that_nobody_knows(lab: Lab) -> None:
    refused(ask(lab, "no-such-host.invalid"), Reach.UNREACHABLE, "no-such-host.invalid is not known here", "HostName")


def test_something_else_listens(lab: Lab) -> None:
    host = lab.host("odd", listen=False)
    lab.serve(host, "yes 'HTTP/1.0 400 Bad Request' | head -c 4000 | exec busybox nc -l -p 22")
    refused(ask(lab, host.address, connect_seconds=3), Reach.UNREACHABLE, "does not speak SSH")


def test_a_port_that_says_nothing(lab: Lab) -> None:
    host = lab.host("mute", listen=False)
    lab.serve(host, "sleep 30 | exec busybox nc -l -p 22")
    answer = ask(lab, host.address, connect_seconds=1)
    refused(answer, Reach.UNREACHABLE, "no SSH handshake", "in 1 s")


def test_connections_are_tried_again_and_nothing_else_is(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    host = lab.host("late", listen=False)

    def pause(low: float, high: float) -> float:
        lab.start(host)
        return low

    monkeypatch.setattr("hostcheck.transport.ssh.random.uniform", pause)
    answer = ask(lab, host.address, retries=5)
    read(answer)
    assert answer.attempts == 2
    assert ask(lab, host.address, retries=5, user="noshell").attempts == 1


# Accounts and shells that do not do what they should


def test_an_account_without_a_shell(lab: Lab) -> None:
    answer = ask(lab, lab.host("good").address, user="noshell")
    refused(answer, Reach.SHELL, "`sh -s` did not start", "not available", "the account needs a shell")


def test_a_restricted_shell(lab: Lab) -> None:
    refused(
        ask(lab, lab.host("good").address, user="restricted"), Reach.SHELL, "did not start", "sh: command not found"
    )


def test_a_profile_that_echoes(lab: Lab) -> None:
    assert read(ask(lab, lab.host("good").address, user="noisy")).manifest.uid > 0


def test_a_login_shell_of_the_other_family(lab: Lab) -> None:
    assert read(ask(lab, lab.host("good").address, user="cshell")).manifest.uid > 0


def test_a_banner_and_a_shell_that_prints(lab: Lab) -> None:
    folder = lab.folder / "chatty"
    folder.mkdir()
    (folder / "sh").write_text(
        "#!/bin/dash\necho '*** authorised use only ***'; echo more >&2; exec /bin/dash \"$@\"\n"
    )
    (folder / "sh").chmod(0o755)
    (lab.folder / "banner").write_text("Go away!\n" * 40)
    set_path = f"SetEnv PATH={folder}:/usr/bin:/bin"
    host = lab.host("chatty", sshd=[set_path, f"Banner {lab.folder}/banner", "PrintMotd yes"])
    answer = ask(lab, host.address)
    read(answer)
    assert not answer.out.startswith(b"***")


def test_a_forced_command(lab: Lab) -> None:
    host = lab.host("forced", command="echo 'this account only makes backups'")
    refused(ask(lab, host.address), Reach.SHELL, "something other than sh answered", "only makes backups")


def test_a_host_that_echoes_the_program_has_not_run_it(lab: Lab) -> None:
    refused(ask(lab, lab.host("echo", command="cat").address), Reach.SHELL, "something other than sh")


# Hosts that lack something


@pytest.mark.parametrize("what", ["/dev/shm", "all"])
def test_a_full_tmp(lab: Lab, what: str) -> None:
    places = ["/dev/shm", "/tmp", "/run", "/var/tmp"]
    before = ["mount -t tmpfs tmpfs /root"] if what == "all" else []
    before += [SMALL.format(place) for place in (places if what == "all" else ["/dev/shm"])]
    before += ["mkdir -p /run/sshd", *(["mount -o remount,ro /root", "cd /root"] if what == "all" else [])]
    answer = ask(lab, lab.host(f"full{len(before)}", before=before).address)
    if what == "/dev/shm":
        read(answer)
    else:
        refused(answer, Reach.ERROR, "no folder has room for 1 MiB: /dev/shm /tmp /run /var/tmp")


def test_a_folder_that_fills_up_meanwhile(lab: Lab) -> None:
    host = lab.host("filling", before=["mount -t tmpfs -o size=5m tmpfs /dev/shm"])
    # Each of them gets only as far as the limit of its output.
    fill = [CommandProbe(f"platform.fill{n}", ("sh", "-c", f"exec cat /dev/zero >/dev/shm/{n}")) for n in (1, 2)]
    refused(ask(lab, host.address, text=program([*PROBES, *fill]).encode()), Reach.ERROR, "became full", "/dev/shm/")


@pytest.mark.parametrize("what", ["/", "all"])
def test_a_read_only_root(lab: Lab, what: str) -> None:
    places = ["/", "/srv", "/root"]
    before = [READ_ONLY.format(place) for place in places if what == "all" or place == "/"]
    if what == "all":
        before += [f"mount -t tmpfs -o ro tmpfs {place}" for place in ("/tmp", "/dev/shm", "/var/tmp")]
        before += ["mount -o remount,ro /run"]
    answer = ask(lab, lab.host(f"ro{len(before)}", before=before).address)
    if what == "/":
        read(answer)
    else:
        refused(answer, Reach.ERROR, "no folder can be written: /dev/shm, /tmp")


def test_no_timeout_command(lab: Lab) -> None:
    read(ask(lab, lab.host("timeless", before=[HIDE.format("timeout")]).address))


def test_no_tar(lab: Lab) -> None:
    answer = ask(lab, lab.host("tarless", before=[HIDE.format("tar")]).address)
    refused(answer, Reach.ERROR, "tar is not installed there")


def test_busybox_only(lab: Lab) -> None:
    folder = lab.folder / "busybox"
    folder.mkdir()
    (folder / "busybox").write_bytes(Path("/usr/bin/busybox").read_bytes())
    (folder / "busybox").chmod(0o755)
    sshlab.call("busybox", "--install", "-s", folder)
    for link in folder.iterdir():
        if link.is_symlink():
            link.unlink()
            link.symlink_to("busybox")
    before = [f"mount --bind {folder} /usr/bin", "busybox mount -t tmpfs tmpfs /usr/local"]
    snapshot = read(ask(lab, lab.host("busybox", before=before).address))
    assert snapshot.manifest.producer == "sh"


def test_a_clock_that_is_off_by_years(lab: Lab) -> None:
    folder = lab.folder / "clock"
    folder.mkdir()
    (folder / "date").write_text("#!/bin/sh\necho 86400\n")
    (folder / "date").chmod(0o755)
    host = lab.host("clock", sshd=[f"SetEnv PATH={folder}:/usr/bin:/bin"])
    snapshot = read(ask(lab, host.address))
    assert snapshot.manifest.time == 86400
    assert snapshot.reading("platform.uname").seconds < 5


# Connections that end too early, or never


def test_a_connection_that_is_cut_in_the_middle(lab: Lab) -> None:
    host = lab.host("cut")
    with midway(host, host.cut):
        answer = ask(lab, host.address, text=program(SLOW).encode(), retries=3)
    refused(answer, Reach.CUT, "the connection broke after", "rebooting")
    assert answer.attempts == 1
    assert answer.seconds < 25
    read(ask(lab, host.address))


def test_a_host_that_reboots_in_the_middle(lab: Lab) -> None:
    host = lab.host("reboots")
    with midway(host, host.reboot):
        answer = ask(lab, host.address, text=program(SLOW).encode())
    refused(answer, Reach.CUT, "broke", "rebooting")
    assert ask(lab, host.address).reach is Reach.UNREACHABLE


def test_a_cable_that_is_pulled(lab: Lab) -> None:
    host = lab.host("unplugged")
    with midway(host, host.unplug):
        answer = ask(lab, host.address, text=program(SLOW).encode(), seconds=3)
    refused(answer, Reach.TIMEOUT, "no complete answer in 3 s")
    assert answer.seconds < 25


def test_a_host_that_takes_too_long(lab: Lab) -> None:
    answer = ask(lab, lab.host("good").address, text=program(SLOW).encode(), seconds=1.5)
    refused(answer, Reach.TIMEOUT, "no complete answer in 1.5 s")
    assert answer.seconds < 25


def test_the_program_is_killed_on_the_host(lab: Lab) -> None:
    refused(ask(lab, lab.host("good").address, text=b"kill -9 $$\n"), Reach.CUT, "killed on the host")


def test_whoever_gives_up_is_obeyed_at_once(lab: Lab) -> None:
    host = lab.host("quits")
    transport = SshTransport("node7", address=host.address, options=SshOptions(config_path=lab.config))
    begun = time.monotonic()
    with midway(host, transport.close):
        answer = transport.run(program(SLOW).encode(), seconds=20, most=1 << 20)
    transport.close()
    refused(answer, Reach.CUT, "interrupted")
    assert time.monotonic() - begun < 25, "not the 30 seconds that the host would have taken"
