"""A real systemd, booted in namespaces of its own over a copy of this machine's root; nothing of it reaches outside.

The root is an overlay on "/", so that what is written stays in memory. /proc/sys and /sys are read-only there, the
network is its own, and its cgroups lie in one group that goes with it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_MOUNTS = """\
mount --make-rprivate /
mount -t tmpfs lab "$1"
mkdir "$1/up" "$1/work" "$1/root" "$1/cgroup"
mount -t cgroup2 lab "$1/cgroup"
mkdir "$1/cgroup/$2"
echo $$ >"$1/cgroup/$2/cgroup.procs"
exec unshare -C sh -ec "$3" sh "$@"
"""
_BOOT = """\
mount -t overlay lab -o "lowerdir=/,upperdir=$1/up,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc lab proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro lab sys
mount -t cgroup2 lab sys/fs/cgroup
mount -t tmpfs lab run
mount -t tmpfs lab dev
for node in null zero full random urandom tty; do
    : >"dev/$node"
    mount --bind "/dev/$node" "dev/$node"
done
mkdir dev/shm dev/pts
ln -s /proc/self/fd dev/fd
for folder in $4; do
    mkdir -p ".$folder"
    mount --bind "$folder" ".$folder"
done
# What starts a machine is not needed, and its tmpfiles would clean the copy of a /tmp of any size for minutes.
rm -rf etc/systemd/system usr/lib/systemd/system/sysinit.target.wants lib/systemd/system/sysinit.target.wants
mkdir -p etc/systemd/system
printf '[Unit]\\nDefaultDependencies=no\\n' >etc/systemd/system/lab.target
printf '0123456789abcdef0123456789abcdef\\n' >etc/machine-id
init=/usr/lib/systemd/systemd
[ -x ".$init" ] || init=/lib/systemd/systemd
export container=lab
exec chroot . "$init" --system --unit=lab.target --show-status=0 --log-target=null
"""


@dataclass(frozen=True)
class SystemdHost:
    """A booted systemd.

    Attributes:
        pid: its first process, as this machine counts.
    """

    pid: int

    @property
    def root(self) -> Path:
        """Its root, as this machine sees it."""
        return Path(f"/proc/{self.pid}/root")

    def run(self, *words: str, text: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command there."""
        spaces = ["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w"]
        done = subprocess.run([*spaces, *words], input=text, capture_output=True, text=True, timeout=180, check=False)
        assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
        return done

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file there."""
        target = Path(f"{self.root}{path}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def show(self, unit: str, *properties: str) -> Mapping[str, str]:
        """Return properties of a unit, in systemd's words."""
        words = [f"--property={name}" for name in properties]
        said = self.run("systemctl", "show", *words, unit).stdout
        return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)

    def files(self, *folders: str) -> str:
        """Return what lies in some folders: names, modes, links and contents."""
        lines = (
            'find "$@" -printf "%p %y %m %l\\n" 2>/dev/null | sort; find "$@" -type f 2>/dev/null | sort | xargs cat'
        )
        return self.run("sh", "-c", lines, "sh", *folders).stdout


@contextmanager
def booted(folder: Path, seconds: float = 60.0) -> Iterator[SystemdHost]:
    """Yield a booted systemd; skip the test where there can be none.

    Args:
        folder: shared with it, at the same path.
        seconds: it has to be up by then.
    """
    lacking = [tool for tool in ("unshare", "nsenter", "systemctl") if shutil.which(tool) is None]
    if os.geteuid() != 0 or lacking:
        assert not os.environ.get("CI"), "a systemd in namespaces needs root, util-linux and systemd"
        pytest.skip(f"needs root and {', '.join(lacking) or 'systemd'}")
    base, group = folder / "lab", f"hostcheck-lab-{secrets.token_hex(4)}"
    shared = folder / "shared"
    base.mkdir()
    shared.mkdir(exist_ok=True)
    spaces = ["unshare", "-m", "-p", "-f", "-u", "-n", "-i", "--propagation", "private"]
    # The overlay holds the root file system alone, and the tests may lie on another.
    seen = " ".join(dict.fromkeys((str(shared), str(Path(__file__).resolve().parents[1]), sys.prefix)))
    keeper = subprocess.Popen(
        [*spaces, "sh", "-ec", _MOUNTS, "sh", str(base), group, _BOOT, seen],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield _wait(keeper, seconds)
    finally:
        for pid in _children(keeper.pid):
            os.kill(pid, signal.SIGKILL)
        keeper.kill()
        keeper.communicate()
        tidy = """mount -t cgroup2 lab "$1" && cd "$1" || exit
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    find "$2" -depth -type d -exec rmdir {} + && exit
    sleep 0.1 # what was killed is not gone at once
done"""
        subprocess.run(["unshare", "-m", "sh", "-c", tidy, "sh", str(base), group], capture_output=True, check=False)


def _children(pid: int) -> Sequence[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _wait(keeper: subprocess.Popen[str], seconds: float) -> SystemdHost:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if keeper.poll() is not None:
            assert keeper.stderr is not None
            said = keeper.stderr.read().strip()
            assert not os.environ.get("CI"), said
            pytest.skip(f"no systemd can be booted here: {said}")
        for pid in _children(keeper.pid):
            host = SystemdHost(pid)
            if host.run("systemctl", "is-active", "lab.target", check=False).stdout == "active\n":
                return host
        time.sleep(0.1)
    raise AssertionError("systemd did not come up")
