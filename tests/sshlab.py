"""Real sshd processes, one to a network namespace with an address of its own, and hosts that misbehave.

Everything is private to the lab: its bridge and addresses (198.18.0.0/15, set aside for tests by RFC 2544), accounts
and sudoers (mounted over /etc in each host's mount namespace), keys and known_hosts. It needs root, sshd, ip and sudo.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hostcheck.snapshot.archive import read_archive
from hostcheck.snapshot.probes import FileProbe
from hostcheck.snapshot.program import program
from hostcheck.transport.base import Answer, Reach
from hostcheck.transport.ssh import SshOptions, SshTransport
from waiting import until

TEXT = program([FileProbe("memory.vm", ("/proc/sys/vm/swappiness",))]).encode()
PASSWORD = "correct horse"
SSHD = "/usr/sbin/sshd"
ACCOUNTS = {  # name: login shell
    "plain": "/bin/sh",
    "noisy": "/bin/bash",
    "noshell": "/usr/sbin/nologin",
    "restricted": "/bin/rbash",
    "cshell": "/bin/tcsh",
    "sudoer": "/bin/sh",
    "asker": "/bin/sh",
    "ttyonly": "/bin/sh",
}
BASHRC = {
    "noisy": "echo 'Welcome to the cluster!'; printf 'no end of line'; echo 'to stderr' >&2\n",
    "restricted": "PATH=$HOME/bin\n",
}
SUDOERS = """\
Defaults !lecture
sudoer ALL=(ALL) NOPASSWD: ALL
asker ALL=(ALL) ALL
ttyonly ALL=(ALL) NOPASSWD: ALL
Defaults:ttyonly requiretty
"""
# Makes a shell of what reads our program: it obeys the first line, which prints the marker, and then does as it likes.
HOSTILE = 'IFS= read -r line; eval "$line"; '


def missing() -> str:
    """Return what the lab lacks here, if anything."""
    if os.geteuid() != 0:
        return "root"
    tools = {"ip": "iproute2", "ssh-keygen": "openssh-client", "sudo": "sudo", "openssl": "openssl", "tcsh": "tcsh"}
    absent = [package for tool, package in tools.items() if shutil.which(tool) is None]
    if not Path(SSHD).exists():
        absent.append("openssh-server")
    return ", ".join(absent)


def require() -> None:
    """Skip, or fail where nothing may be skipped, unless the lab can be built."""
    if lacks := missing():
        told = f"the lab of sshd processes needs {lacks} (scripts/install-test-parts, as root)"
        assert not os.environ.get("CI"), told
        pytest.skip(told)


def call(*words: str | Path, input: str | None = None) -> str:
    """Run a command that must succeed; return what it prints."""
    done = subprocess.run(
        [str(word) for word in words], input=input, capture_output=True, text=True, check=False, timeout=180
    )
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


@dataclass
class Host:
    """One sshd in its namespace."""

    name: str
    address: str
    namespace: str
    near: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def pids(self) -> list[int]:
        """Return all processes of the host."""
        return [int(pid) for pid in call("ip", "netns", "pids", self.namespace).split()]

    def runs(self, *argv: str) -> bool:
        """Whether a process of the host was started so."""
        wanted = "".join(f"{word}\0" for word in argv).encode()
        for pid in self.pids():
            with suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_bytes() == wanted:
                    return True
        return False

    def cut(self) -> None:
        """End every session from below, as a crash of their sshd does; the listening one stays."""
        for pid in self.pids():
            with suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                if self.process and pid != self.process.pid and command.startswith(b"sshd"):
                    os.kill(pid, signal.SIGKILL)

    def reboot(self) -> None:
        """End everything at once, as a reboot does; nothing comes back."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def unplug(self) -> None:
        """Take the cable out: nobody is told anything."""
        call("ip", "-n", self.namespace, "link", "set", "eth0", "down")

    @property
    def log(self) -> str:
        """What sshd had to say."""
        return (self.folder / "log").read_text("utf-8", "replace")


@dataclass
class Lab:
    """A network of such hosts.

    Attributes:
        folder: what the lab keeps; not under /tmp, which some hosts lose.
        number: the third part of its addresses.
        key: a private key that every account accepts.
        known_hosts, config: files for the client; `config` uses the other two and nothing else.
    """

    folder: Path
    number: int
    hosts: dict[str, Host] = field(default_factory=dict)

    @property
    def main(self) -> Host:
        """The host of that name, which tests share that do it no harm."""
        return self.hosts["main"]

    @property
    def key(self) -> Path:
        return self.folder / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def config(self) -> Path:
        return self.folder / "config"

    @property
    def bridge(self) -> str:
        return f"hcl{self.number}"

    def address(self, last: int) -> str:
        """Return an address of the lab's network; 1 to 200 are for hosts."""
        return f"198.18.{self.number}.{last}"

    def prepare(self) -> None:
        """Make what all hosts share."""
        self.folder.chmod(0o755)
        keygen("ed25519", self.key)
        (self.folder / "authorized_keys").write_text(self.key.with_suffix(".pub").read_text())
        self.known_hosts.touch()
        self.write_config()
        hashed = call("openssl", "passwd", "-6", "-stdin", input=PASSWORD).strip()
        etc = self.folder / "etc"
        etc.mkdir()
        passwd = ["root:x:0:0:root:/root:/bin/sh", "sshd:x:100:65534::/run/sshd:/usr/sbin/nologin"]
        shadow = ["root:*:19000:0:99999:7:::", "sshd:!:19000::::::"]
        for number, (name, shell) in enumerate(ACCOUNTS.items(), 64001):
            home = self.folder / "home" / name
            (home / "bin").mkdir(parents=True)
            os.chown(home, number, number)
            if name in BASHRC:
                (home / ".bashrc").write_text(BASHRC[name])
            passwd.append(f"{name}:x:{number}:{number}::{home}:{shell}")
            shadow.append(f"{name}:{hashed}:19000:0:99999:7:::")
        for name, text, mode in (
            ("passwd", "\n".join(passwd), 0o644),
            ("group", "root:x:0:\nnogroup:x:65534:", 0o644),
            ("shadow", "\n".join(shadow), 0o600),
            ("sudoers", f"root ALL=(ALL) ALL\n{SUDOERS}", 0o440),
        ):
            (etc / name).write_text(f"{text.rstrip()}\n")
            (etc / name).chmod(mode)

    def write_config(self, text: str = "", *, name: str = "config") -> Path:
        """Write a client's configuration; `text` goes before what all hosts need."""
        path = self.folder / name
        path.write_text(
            f"{text}\nHost *\n  User root\n  IdentityFile {self.key}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
            f"  UserKnownHostsFile {self.known_hosts}\n  GlobalKnownHostsFile none\n"
        )
        return path

    def host(
        self,
        name: str,
        *,
        sshd: Sequence[str] = (),
        before: Sequence[str] = (),
        command: str = "",
        known: bool = True,
        listen: bool = True,
        last: int | None = None,
    ) -> Host:
        """Return a host, started on first use.

        Args:
            name: of the host; it stays until the lab ends.
            sshd: further lines of its configuration.
            before: lines of sh run as root in its mount namespace before sshd starts.
            command: run in place of whatever a user asks for.
            known: its key is put into known_hosts.
            listen: sshd runs; else the port is closed.
            last: last part of its address.
        """
        if name in self.hosts:
            return self.hosts[name]
        last = last or len(self.hosts) + 1
        folder = self.folder / "hosts" / name
        folder.mkdir(parents=True)
        host = Host(name, self.address(last), f"{self.bridge}-{last}", f"{self.bridge}v{last}", folder)
        self.hosts[name] = host
        call("ip", "netns", "add", host.namespace)
        call(
            "ip", "-batch", "-",
            input=f"link add {host.near} type veth peer name eth0 netns {host.namespace}\n"
            f"link set {host.near} master {self.bridge} up\n",
        )  # fmt: skip
        call(
            "ip", "-n", host.namespace, "-batch", "-",
            input=f"link set lo up\naddress add {host.address}/24 dev eth0\nlink set eth0 up\n",
        )  # fmt: skip
        keygen("ed25519", folder / "host_key")
        if known:
            self.know(host)
        (folder / "sshd_config").write_text("\n".join([
            *sshd,  # the first value holds, for sshd as for ssh
            "ListenAddress 0.0.0.0", f"HostKey {folder}/host_key", "PidFile none", "UsePAM no", "StrictModes no",
            f"AuthorizedKeysFile {self.folder}/authorized_keys", "PermitRootLogin yes", "PasswordAuthentication no",
            "KbdInteractiveAuthentication no", "UseDNS no", "PrintMotd no", "MaxStartups 100", "",
        ]))  # fmt: skip
        if command:
            script = folder / "command"
            script.write_text(f"#!/bin/sh\n{command}\n")
            script.chmod(0o755)
            with (folder / "sshd_config").open("a") as file:
                file.write(f"ForceCommand {script}\n")
        if listen:
            self.start(host, before)
        return host

    def know(self, host: Host, name: str = "", key: Path | None = None) -> None:
        """Put a host's key into known_hosts."""
        public = (key or host.folder / "host_key").with_suffix(".pub").read_text().split()
        with self.known_hosts.open("a") as file:
            file.write(f"{name or host.address} {public[0]} {public[1]}\n")

    def start(self, host: Host, before: Sequence[str] = ()) -> None:
        """Start the sshd of a host and wait until it listens."""
        etc = self.folder / "etc"
        script = "\n".join([
            "set -e",
            "mount -t tmpfs tmpfs /run",
            "mkdir -p -m 755 /run/sshd",
            "mount -t tmpfs tmpfs /dev/shm",  # what a test kills there leaves its folder in no other host's memory
            *(f"mount --bind {etc}/{name} /etc/{name}" for name in ("passwd", "group", "shadow", "sudoers")),
            *before,
            f"exec {SSHD} -D -e -f {host.folder}/sshd_config",
        ])  # fmt: skip
        self.serve(host, script)

    def serve(self, host: Host, script: str) -> None:
        """Run a script in the namespace of a host, as its one process, and wait until it listens on port 22."""
        with (host.folder / "log").open("wb") as log:
            host.process = subprocess.Popen(
                ["ip", "netns", "exec", host.namespace, "sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        process = host.process
        until(lambda: process.poll() is not None or _listens(process.pid))
        assert process.poll() is None, f"{host.name} does not listen: {host.log}"

    def close(self) -> None:
        """Stop and remove all of it."""
        for host in self.hosts.values():
            with suppress(AssertionError):
                host.reboot()
            if host.process is not None:
                host.process.kill()
                host.process.wait()
            # The link by itself, because its namespace goes only when the last of the killed processes has gone.
            for words in (["link", "delete", host.near], ["netns", "delete", host.namespace]):
                subprocess.run(["ip", *words], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", self.bridge], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def ask(
    address: str,
    config: Path,
    text: bytes = TEXT,
    *,
    user: str | None = None,
    port: int | None = None,
    seconds: float = 20,
    most: int = 1 << 20,
    **options: object,
) -> Answer:
    """Run a program on a host, known to the user as node7, without further attempts unless `retries` says so."""
    chosen = SshOptions(**{"config_path": config, "connect_seconds": 5, "retries": 0, **options})  # type: ignore[arg-type]
    transport = SshTransport("node7", address=address, user=user, port=port, options=chosen)
    assert transport.host == "node7"
    return transport.run(text, seconds=seconds, most=most)


def uid(answer: Answer) -> int:
    """Return as whom the program ran."""
    assert answer.reach is Reach.OK, answer.why
    return read_archive(answer.out).manifest.uid


def refused(answer: Answer, reach: Reach, *words: str) -> None:
    """Assert how an attempt ended, and that its line holds these words and nothing that acts on a terminal."""
    assert answer.reach is reach, answer
    assert answer.out == b""
    for word in words:
        assert word in answer.why
    assert answer.why.isprintable()
    assert len(answer.why) < 500
    assert PASSWORD not in repr(answer)


def keygen(kind: str, path: Path, *further: str) -> Path:
    """Make a key pair."""
    call("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", path, "-C", path.name, *further)
    return path


def _listens(pid: int) -> bool:
    """Return whether port 22 is open where a process is, without a connection, which a listener for one would waste."""
    for table in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):
            sockets = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()
            # "0016" is the port, "0A" the state.
            if any(line.split()[1].endswith(":0016") and line.split()[3] == "0A" for line in sockets[1:]):
                return True
    return False


@contextmanager
def lab() -> Iterator[Lab]:
    """Build a lab; whoever else builds one at the same time gets other addresses."""
    for number in range(1, 250):
        made = subprocess.run(["ip", "link", "add", f"hcl{number}", "type", "bridge"], capture_output=True, check=False)
        if made.returncode == 0:
            break
    else:
        raise AssertionError(f"no bridge can be made: {made.stderr!r}")
    place = Lab(Path(tempfile.mkdtemp(prefix="sshlab-", dir="/srv")), number)
    try:
        call("ip", "address", "add", f"{place.address(254)}/24", "dev", place.bridge)
        call("ip", "link", "set", place.bridge, "up")
        place.prepare()
        yield place
    finally:
        place.close()
