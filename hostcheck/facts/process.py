"""Which services run: the names of processes, and the sockets by which services are reached."""

from __future__ import annotations

from dataclasses import dataclass

from hostcheck.errors import Unavailable
from hostcheck.facts.base import Fact
from hostcheck.snapshot.probes import FileProbe, ListProbe
from hostcheck.snapshot.reading import Ending, Entry, Reading

NAMES = "/proc/[0-9]*/comm"
NAMES_PROBE = FileProbe("process.names", (NAMES,), limit=256)

SOCKETS_PROBE = ListProbe(
    "process.sockets",
    (
        "/run/nvidia-persistenced/socket",
        "/run/nvidia-fabricmanager/*",
        # MPS puts its pipes here unless CUDA_MPS_PIPE_DIRECTORY says otherwise (MPS guide, environment variables).
        "/tmp/nvidia-mps/control",  # noqa: S108
        "/run/nvidia-topologyd",
        "/run/docker.sock",
        "/run/containerd/containerd.sock",
        "/run/crio/crio.sock",
        "/run/systemd/system",
        "/run/dbus/system_bus_socket",
    ),
)

NAME_LENGTH = 15
"""The kernel keeps so many bytes of a process's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemons:
    """Processes by name, and the service sockets that are there.

    Attributes:
        names: the names in view, cut at 15 bytes, kernel threads among them.
        complete: whether every process of the machine is in view, so that a name that is not there does not run.
        entries: what is at the known service paths.
    """

    names: frozenset[str]
    complete: bool
    entries: dict[str, Entry]

    def runs(self, name: str) -> bool:
        """Whether a process of this name runs; names that agree in their first 15 bytes cannot be told apart.

        So "nvidia-cuda-mps-control" is true for the server of MPS also.

        Raises:
            Unavailable: it is not in view, and neither is the rest of the machine.
        """
        if _short(name) in self.names:
            return True
        if not self.complete:
            raise Unavailable(
                f"whether {name} runs cannot be seen: this container or /proc's hidepid hides other processes",
                NAMES_PROBE.id,
            )
        return False

    def has(self, path: str) -> bool:
        """Whether something is at one of the known service paths, as seen from here."""
        return path in self.entries


def _short(name: str) -> str:
    return name.encode()[:NAME_LENGTH].decode("utf-8", "replace")


def parse_name(text: str) -> str:
    """Return a process's name from its comm file.

    Sample:
        nvidia-persiste
    """
    return text.removesuffix("\n")


def _daemons(names: Reading, sockets: Reading) -> Daemons:
    names.check()
    sockets.check()
    if NAMES not in names.asked:
        raise names.unavailable(f"{names.probe}: {NAMES} was not collected")
    # Left out: a process that ended meanwhile, and one that is hidden, which the next line sees by kthreadd's lack.
    found = {
        path: parse_name(state.data.decode("utf-8", "replace"))
        for path, state in names.files.items()
        if state.ending is Ending.OK
    }
    # kthreadd is process 2 of every Linux kernel, and of no other PID namespace than the kernel's own.
    complete = found.get("/proc/2/comm") == "kthreadd"
    return Daemons(names=frozenset(found.values()), complete=complete, entries=dict(sockets.entries))


DAEMONS: Fact[Daemons] = Fact("process.daemons", _daemons, NAMES_PROBE, SOCKETS_PROBE)
