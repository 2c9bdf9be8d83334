"""Hosts for the programs that change things: a made-up one in a folder, and real settings in private namespaces.

The made-up host has every kind of change. What no test may alter, or this machine lacks, is done there by small
recording programs (`_STANDS`); its files are plain files. The real one changes kernel settings, files, a network
interface, a mount and a swap area for real, in mount and network namespaces of its own.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hostcheck.tuning.change import Change, Kind, Plan, Reload, Scope
from hostcheck.tuning.journal import Outcome, read_outcomes

SHELLS = (["dash"], ["bash"], ["busybox", "sh"])
MACHINE = "0123456789abcdef0123456789abcdef"
BOOT = "11111111-2222-3333-4444-555555555555"
GPU = "GPU-00000000-0000-0000-0000-000000000000"
STATE = "var/lib/hostcheck"
RUN = "run/hostcheck"
HEADER = "# Written by hostcheck tune; hostcheck tune rollback takes it away again.\n"
CHECKPOINT = "checkpoint() { :; }"
KILLED = """\
seen=0
checkpoint() {
    seen=$((seen + 1))
    [ -z "${HOSTCHECK_SEEN:-}" ] || echo "$seen $1" >"$HOSTCHECK_SEEN"
    [ "$seen" != "${HOSTCHECK_KILL_AT:-}" ] || kill -KILL $$
}"""

_STANDS = {
    "systemctl": """
echo "systemctl $*" >>"$root/calls"
for unit; do :; done
file=$root/units/$unit
enabled='' active=inactive
[ ! -e "$file" ] || read -r enabled active <"$file"
case $1 in
show) echo "UnitFileState=$enabled"; echo "ActiveState=$active" ;;
enable) echo "enabled $active" >"$file" ;;
disable) echo "disabled $active" >"$file" ;;
start) echo "$enabled active" >"$file" ;;
stop) echo "$enabled inactive" >"$file" ;;
daemon-reload) [ ! -e "$root/broken-reload" ] || { echo "Failed to reload daemon: no" >&2; exit 1; } ;;
*) echo "systemctl: $1?" >&2; exit 1 ;;
esac
""",
    "nvidia-smi": """
echo "nvidia-smi $*" >>"$root/calls"
if [ "$1" = mig ]; then
    shift 3
    [ -s "$root/gpu/gi" ] || case $1 in -l*) echo "No GPU instances found: Not Found"; exit 6 ;; esac
    case $1 in
    -lgi)
        echo "| GPU instances: |"
        while read -r name; do echo "|   0  MIG $name  9  1  0:4  |"; done <"$root/gpu/gi"
        ;;
    -lci)
        [ -s "$root/gpu/ci" ] || { echo "No compute instances found: Not Found"; exit 6; }
        echo "| Compute instances: |"
        while read -r name; do echo "|   0   1  MIG $name  0  0  0:1  |"; done <"$root/gpu/ci"
        ;;
    -dci) : >"$root/gpu/ci" ;;
    -dgi) [ ! -s "$root/gpu/ci" ] || { echo "In use by another client"; exit 19; }; : >"$root/gpu/gi" ;;
    -cgi)
        IFS=,
        for name in $2; do echo "$name" >>"$root/gpu/gi"; echo "$name" >>"$root/gpu/ci"; done
        ;;
    esac
    exit
fi
shift 2
case $1 in
--query-compute-apps=pid) ;;
--query-gpu=*) cat "$root/gpu/${1#--query-gpu=}" ;;
-pl) echo "$2.00" >"$root/gpu/power.limit" ;;
-pm) case $2 in 1) echo Enabled ;; 0) echo Disabled ;; esac >"$root/gpu/persistence_mode" ;;
-lgc) echo "$2" >"$root/gpu/locked" ;;
-rgc) rm -f "$root/gpu/locked" ;;
*) echo "Invalid combination of input arguments"; exit 2 ;;
esac
""",
    "modprobe": 'echo "modprobe $*" >>"$root/calls"\nmkdir "$root/sys/module/$1"\n',
    "rmmod": 'echo "rmmod $*" >>"$root/calls"\nrmdir "$root/sys/module/$1"\n',
    "udevadm": 'echo "udevadm $*" >>"$root/calls"\n',
    "update-grub": """
echo "update-grub" >>"$root/calls"
. "$root/etc/default/grub"
for file in "$root"/etc/default/grub.d/*.cfg; do [ ! -r "$file" ] || . "$file"; done
echo "linux /vmlinuz $GRUB_CMDLINE_LINUX $GRUB_CMDLINE_LINUX_DEFAULT" >"$root/boot/grub.cfg"
""",
    "grubby": """
echo "grubby $*" >>"$root/calls"
read -r args <"$root/boot/args"
case $2 in
--remove-args=*) name=${2#*=}; value= ;;
--args=*) value=${2#*=}; name=${value%%=*} ;;
*) echo index=0; echo "args=\\"$args\\""; exit ;;
esac
kept=
for word in $args; do case $word in "$name" | "$name="*) ;; *) kept="$kept $word" ;; esac; done
echo $kept $value >"$root/boot/args"
""",
    "mount": """
echo "mount $*" >>"$root/calls"
options=${2#remount,}
echo "tmpfs ${3#"$root"} tmpfs ${options#atime,} 0 0" >"$root/proc/self/mounts"
""",
    "swapon": """
echo "swapon $*" >>"$root/calls"
priority=-2
[ "$1" != -p ] || { priority=$2; shift 2; }
{ echo "Filename Type Size Used Priority"; echo "$1 file 8188 0 $priority"; } >"$root/proc/swaps"
""",
    "swapoff": 'echo "swapoff $*" >>"$root/calls"\necho "Filename Type Size Used Priority" >"$root/proc/swaps"\n',
}


def change(kind: Kind, target: str, before: str | None, after: str | None, **more: object) -> Change:
    """Return a change as a tuner would make it."""
    lasting = kind in (Kind.FILE, Kind.UNIT, Kind.KERNEL_ARG)
    told = {"scope": Scope.PERSISTENT if lasting else Scope.RUNTIME, "why": "for the test's sake", **more}
    return Change(kind=kind, target=target, before=before, after=after, **told)  # type: ignore[arg-type]


def write(path: str, before: str, after: str, **more: object) -> Change:
    """Return a change of a kernel setting."""
    return change(Kind.WRITE, path, before, after, **more)


def file(path: str, before: str | None, after: str | None, **more: object) -> Change:
    """Return a change of a file."""
    return change(Kind.FILE, path, before, after, **more)


def plan(*changes: Change, machine: str = MACHINE, boot: str = BOOT) -> Plan:
    """Return a plan for the made-up host, unless another is named."""
    return Plan(
        host="node", machine=machine, boot=boot, made="2026-01-01T00:00:00Z", tool="test", role="", changes=changes
    )


def shell(command: Sequence[str], folder: Path) -> Path:
    """Return a folder in which `sh` is this shell; skip the test where there is none."""
    found = shutil.which(command[0])
    if found is None:
        assert not os.environ.get("CI"), f"{command[0]} is missing; scripts/install-test-parts installs it"
        pytest.skip(f"{command[0]} is not installed (scripts/install-test-parts)")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sh").symlink_to(found)
    return folder


@dataclass
class Ran:
    """How a program ended."""

    code: int
    out: bytes
    err: str

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """What it said, read by the reader under test."""
        return read_outcomes(self.out)

    @property
    def outcome(self) -> Outcome:
        """The only one, or the last."""
        return self.outcomes[-1]


@dataclass
class Host:
    """A made-up host: a folder that is its root, and programs that stand in for those of a real one."""

    root: Path
    bin: Path
    inside: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, program: str, *, kill_at: int | None = None, seconds: float = 60, user: int | None = None) -> Ran:
        """Run a program, and kill it at a checkpoint if one is named."""
        more = {}
        if kill_at is not None:
            assert program.count(CHECKPOINT) == 1
            program = program.replace(CHECKPOINT, KILLED)
            more = {"HOSTCHECK_KILL_AT": str(kill_at), "HOSTCHECK_SEEN": f"{self.bin}/seen"}
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [*self.inside, str(self.bin / "sh"), "-s"],
            input=program.encode(),
            capture_output=True,
            timeout=seconds,
            env={**os.environ, "HOSTCHECK_ROOT": str(self.root), "PATH": path, **self.environment, **more},
            user=user,
        )
        return Ran(done.returncode, done.stdout, done.stderr.decode())

    def put(self, path: str, text: str) -> Path:
        """Write a file of the host."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

    def get(self, path: str) -> str:
        """Return a file's text."""
        return (self.root / path.lstrip("/")).read_text()

    def calls(self) -> list[str]:
        """Return what the stand-ins were asked to do."""
        found = self.root / "calls"
        return found.read_text().splitlines() if found.exists() else []

    def state(self) -> dict[object, object]:
        """Return all that a change could alter, with modes; not what hostcheck keeps of itself."""
        found: dict[object, object] = {}
        for path in sorted(self.root.rglob("*")):
            name = str(path.relative_to(self.root))
            if name == "calls" or name.startswith((STATE, RUN)):
                continue
            mode = path.lstat().st_mode
            found[name] = (mode, path.read_bytes() if path.is_file() else None)
        return found


def made_up(folder: Path, command: Sequence[str]) -> Host:
    """Return a made-up host whose programs are run by this shell."""
    host = Host(folder / "root", shell(command, folder / "bin"))
    for name, text in _STANDS.items():
        (host.bin / name).write_text(f"#!/bin/dash\nroot=$HOSTCHECK_ROOT\n{text}")
        (host.bin / name).chmod(0o755)
    for path, text in {
        "/etc/machine-id": f"{MACHINE}\n",
        "/proc/sys/kernel/random/boot_id": f"{BOOT}\n",
        "/proc/sys/vm/swappiness": "60\n",
        "/proc/sys/net/ipv4/tcp_rmem": "4096\t131072\t6291456\n",
        "/sys/class/net/eth0/mtu": "1500\n",
        "/etc/sysctl.d/90-hostcheck-old.conf": f"{HEADER}vm.swappiness = 60\n",
        "/etc/sysctl.d/90-hostcheck-gone.conf": f"{HEADER}vm.max_map_count = 1\n",
        "/etc/default/grub": 'GRUB_CMDLINE_LINUX="ro"\nGRUB_CMDLINE_LINUX_DEFAULT="quiet iommu=off"\n',
        "/boot/grub.cfg": "linux /vmlinuz ro quiet iommu=off\n",
        "/boot/args": "ro quiet iommu=off\n",
        "/units/irqbalance.service": "enabled active\n",
        "/gpu/power.limit": "700.00\n",
        "/gpu/persistence_mode": "Disabled\n",
        "/gpu/gi": "3g.40gb\n1g.10gb\n",
        "/gpu/ci": "3g.40gb\n1g.10gb\n",
        "/proc/self/mounts": "tmpfs /data tmpfs rw,relatime,size=1024k 0 0\n",
        "/proc/swaps": "Filename Type Size Used Priority\n/swapfile file 8188 0 -2\n",
        "/run/udev/control": "",
    }.items():
        host.put(path, text)
    for path in ("var/lib", "sys/module", "run/systemd/system", "etc/default/grub.d", "etc/udev/rules.d"):
        (host.root / path).mkdir(parents=True, exist_ok=True)
    (host.root / "etc/sysctl.d/90-hostcheck-old.conf").chmod(0o640)
    # The stand-ins see paths with the root before them, as the runtime gives them.
    host.put("/proc/swaps", f"Filename Type Size Used Priority\n{host.root}/swapfile file 8188 0 -2\n")
    return host


def every_kind() -> Plan:
    """Return a plan for the made-up host with every kind of change that is applied."""
    return plan(
        write("/proc/sys/vm/swappiness", "60", "10"),
        write("/proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456", "4096 131072 16777216"),
        file("/etc/sysctl.d/90-hostcheck-old.conf", f"{HEADER}vm.swappiness = 60\n", f"{HEADER}vm.swappiness = 10\n"),
        file("/etc/sysctl.d/90-hostcheck-gone.conf", f"{HEADER}vm.max_map_count = 1\n", None),
        file(
            "/etc/systemd/system/slurmd.service.d/90-hostcheck-limits.conf",
            None,
            f"{HEADER}[Service]\nLimitMEMLOCK=infinity\n",
            reload=Reload.SYSTEMD,
        ),
        file("/etc/udev/rules.d/90-hostcheck-x.rules", None, f"{HEADER}# it's \\ none\n", reload=Reload.UDEV),
        change(Kind.UNIT, "irqbalance.service", "enabled active", "disabled inactive"),
        change(Kind.KERNEL_ARG, "grub iommu", "off", "pt"),
        change(Kind.KERNEL_ARG, "grubby nosmt", None, ""),
        change(Kind.GPU, f"{GPU} power-limit", "700", "500"),
        change(Kind.GPU, f"{GPU} sm-clock-lock", None, "1200,1980"),
        change(Kind.GPU, f"{GPU} mig-layout", "3g.40gb,1g.10gb", "2g.20gb,1g.10gb,1g.10gb"),
        change(Kind.NIC, "eth0 mtu", "1500", "9000"),
        change(Kind.MOUNT, "/data", "rw,relatime,size=1024k", "rw,noatime,size=1024k"),
        change(Kind.SWAP, "/swapfile", "-2", None),
        change(Kind.MODULE, "nvidia_fs", None, ""),
    )


@dataclass
class RealHost(Host):
    """Real settings, reached through private mount and network namespaces."""

    swap: str = ""
    block: str = ""

    def sh(self, line: str) -> str:
        """Run a line of sh in the namespaces, as somebody else on that host would."""
        done = subprocess.run([*self.inside, "sh", "-c", line], capture_output=True, text=True)
        assert done.returncode == 0, (line, done.stderr)
        return done.stdout

    def state(self) -> dict[object, object]:
        paths = (
            "/proc/sys/vm/swappiness /proc/sys/net/ipv4/tcp_rmem /sys/kernel/mm/transparent_hugepage/defrag "
            f"/sys/block/{self.block}/queue/scheduler /sys/block/{self.block}/queue/read_ahead_kb /sys/class/net/v0/mtu"
        )
        folders = "/etc/sysctl.d /etc/systemd/system"
        said = self.sh(
            f"for f in {paths}; do echo $f; cat $f; done; grep ' /srv ' /proc/mounts;"
            f" awk '{{print $1, $5}}' /proc/swaps | grep {self.swap};"
            f" ls -lRA --time-style=+ {folders}; cat $(find {folders} -type f)"
        )
        return dict(enumerate(said.splitlines()))

    def plan(self) -> Plan:
        """Return a plan of real changes, from what stands there."""
        rmem = self.sh("cat /proc/sys/net/ipv4/tcp_rmem").strip()
        options = self.sh("grep ' /srv ' /proc/mounts").split()[3]
        machine = Path("/etc/machine-id").read_text().strip() if Path("/etc/machine-id").exists() else ""
        swappiness = self.sh("cat /proc/sys/vm/swappiness").strip()
        defrag = self.sh("cat /sys/kernel/mm/transparent_hugepage/defrag").partition("[")[2].partition("]")[0]
        ahead = self.sh(f"cat /sys/block/{self.block}/queue/read_ahead_kb").strip()
        return plan(
            write("/proc/sys/vm/swappiness", swappiness, "11" if swappiness != "11" else "12"),
            write("/proc/sys/net/ipv4/tcp_rmem", rmem, "4096 131072 16777216"),
            write("/sys/kernel/mm/transparent_hugepage/defrag", defrag, "never" if defrag != "never" else "madvise"),
            write(f"/sys/block/{self.block}/queue/scheduler", "none", "mq-deadline"),
            write(f"/sys/block/{self.block}/queue/read_ahead_kb", ahead, "4096"),
            file("/etc/sysctl.d/90-hostcheck-old.conf", f"{HEADER}a = 1\n", f"{HEADER}a = 2\n"),
            file("/etc/systemd/system/x.service.d/90-hostcheck-x.conf", None, f"{HEADER}[Service]\n"),
            change(Kind.NIC, "v0 mtu", "1500", "9000"),
            change(Kind.MOUNT, "/srv", options, options.replace("relatime", "noatime")),
            change(Kind.SWAP, self.swap, "5", None),
            machine=machine,
            boot=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        )


def missing() -> str:
    """Return what the real host lacks here, if anything."""
    if os.geteuid() != 0:
        return "root"
    tools = ("ip", "unshare", "nsenter", "losetup", "mkswap", "swapon")
    return ", ".join(tool for tool in tools if shutil.which(tool) is None)


def _tools() -> None:
    """Skip the test where there can be no namespaces."""
    lacking = missing()
    if lacking:
        assert not os.environ.get("CI"), f"no namespaces without {lacking}"
        pytest.skip(f"needs {lacking}")


@contextmanager
def inside(script: str) -> Iterator[list[str]]:
    """Yield what stands before a command to run it in mount and network namespaces that a sh script has prepared."""
    _tools()
    with subprocess.Popen(
        ["unshare", "-m", "-n", "sh", "-ec", f"{script}\necho ready; exec sleep 3600"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as keeper:
        try:
            assert keeper.stdout is not None
            assert keeper.stderr is not None
            assert keeper.stdout.readline() == "ready\n", keeper.stderr.read()
            yield ["nsenter", "-t", str(keeper.pid), "-m", "-n"]
        finally:
            keeper.kill()


@contextmanager
def real(folder: Path, command: Sequence[str]) -> Iterator[RealHost]:
    """Yield a host with real settings; what it changed outside of its namespaces is put back whatever happens.

    Some of them are those of the whole machine, so there is one such host at a time.
    """
    _tools()
    with Path(tempfile.gettempdir(), "hostcheck-real-settings.lock").open("w") as lock:
        deadline = time.monotonic() + 300
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < deadline, f"another test run has held {lock.name} for 300 s"
                time.sleep(0.1)
        with _real(folder, command) as host:
            yield host


@contextmanager
def _real(folder: Path, command: Sequence[str]) -> Iterator[RealHost]:
    paths = [Path("/proc/sys/vm/swappiness"), Path("/sys/kernel/mm/transparent_hugepage/defrag")]
    originals = {path: path.read_text() for path in paths}
    swap, image = folder / "swap", folder / "image"
    swap.write_bytes(bytes(4 << 20))
    swap.chmod(0o600)
    image.write_bytes(bytes(1 << 20))
    subprocess.run(["mkswap", str(swap)], check=True, capture_output=True)
    losetup = subprocess.run(["losetup", "--show", "-f", str(image)], check=True, capture_output=True, text=True)
    loop = losetup.stdout.strip()
    script = f"""
mount -t tmpfs -o mode=755 t /var/lib
mount -t tmpfs -o mode=755 t /etc/sysctl.d
mount -t tmpfs -o mode=755 t /etc/systemd/system
mount -t sysfs s /sys
mount -t tmpfs -o relatime,size=64k t /srv
ip link add v0 type veth peer name v1
ip link add link v0 name above0 type macvlan
printf '{HEADER}a = 1\\n' >/etc/sysctl.d/90-hostcheck-old.conf
chmod 600 /etc/sysctl.d/90-hostcheck-old.conf
swapon -p 5 {swap}
"""
    try:
        with inside(script) as prefix:
            tools = shell(command, folder / "bin")
            yield RealHost(Path(), tools, prefix, {"HOSTCHECK_ROOT": ""}, swap=str(swap), block=Path(loop).name)
    finally:
        for path, text in originals.items():
            if path.read_text() != text:
                path.write_text(text.partition("[")[2].partition("]")[0] or text)
        subprocess.run(["swapoff", str(swap)], capture_output=True)
        subprocess.run(["losetup", "-d", loop], check=True)


SWAPPINESS = "/proc/sys/vm/swappiness"
OLD, GONE = "/etc/sysctl.d/90-hostcheck-old.conf", "/etc/sysctl.d/90-hostcheck-gone.conf"
SMALL = plan(
    write(SWAPPINESS, "60", "10"),
    file(OLD, f"{HEADER}vm.swappiness = 60\n", f"{HEADER}vm.swappiness = 10\n"),
    file("/etc/sysctl.d/new/90-hostcheck-x.conf", None, f"{HEADER}x\n"),
)
