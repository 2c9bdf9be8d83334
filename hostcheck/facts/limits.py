"""Resource limits: those of the audit's own session, and those that jobs get from login, Slurm and container units."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hostcheck.errors import Maybe, NotApplicable, Unavailable
from hostcheck.facts.base import Fact
from hostcheck.snapshot.probes import KIB, MIB, FileProbe
from hostcheck.snapshot.reading import Reading

UNLIMITED = 2**64 - 1
"""RLIM_INFINITY of 64-bit kernels: compares above every finite limit."""

# systemd looks into these in this order; a file in one hides that of the same name in a later one.
UNIT_DIRS = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
SERVICES = ("slurmd", "containerd", "docker", "kubelet")
_CONF = "/etc/security/limits.conf"
_CONF_D = "/etc/security/limits.d/*.conf"
_MANAGER, _MANAGER_D = "/etc/systemd/system.conf", "/etc/systemd/system.conf.d/*.conf"
_LOGIND, _LOGIND_VENDOR = "/etc/systemd/logind.conf", "/usr/lib/systemd/logind.conf"
_LOGIND_D = ("/usr/lib/systemd/logind.conf.d/*.conf", "/etc/systemd/logind.conf.d/*.conf")


def _unit_paths(service: str) -> Iterator[str]:
    for folder in UNIT_DIRS:
        yield f"{folder}/{service}.service"
        yield f"{folder}/{service}.service.d/*.conf"


LIMITS_PROBE = FileProbe(
    "kernel.limits",
    (
        "/proc/self/limits",
        _CONF,
        _CONF_D,
        *(path for service in SERVICES for path in _unit_paths(service)),
        _MANAGER,
        _MANAGER_D,
        _LOGIND_VENDOR,
        _LOGIND,
        *_LOGIND_D,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One resource limit, in bytes or as a count.

    Attributes:
        soft: what holds; a process may raise it itself.
        hard: up to which it may.
        by_default: nobody set it: it is what systemd gives.

    Of a login, either can be missing: where limits.conf sets only the other, it stays what the login began with.
    """

    soft: Maybe[int]
    hard: Maybe[int]
    by_default: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits that one source of processes hands out.

    Attributes:
        subject: "session" (the audit's own), "login" (what limits.conf says for everybody), or a service.
        place: the folder for files of our own that set them.
        heirs: who inherits them, such as "Slurm jobs"; empty where no GPU job does.
        memlock: locked memory, in bytes.
        stack: stack of a process, in bytes.
        nofile: open files.
    """

    subject: str
    place: str
    heirs: str
    memlock: Maybe[Limit]
    stack: Maybe[Limit]
    nofile: Maybe[Limit]


_ITEMS = {"memlock": "Max locked memory", "stack": "Max stack size", "nofile": "Max open files"}
# In the absence of a setting. The finite default of memlock differs between releases of systemd (64 KiB, 8 MiB, an
# eighth of the memory); this is what most have.
_SYSTEMD = {
    "memlock": Limit(soft=8 * MIB, hard=8 * MIB, by_default=True),
    "stack": Limit(soft=8 * MIB, hard=UNLIMITED, by_default=True),
    "nofile": Limit(soft=1024, hard=524288, by_default=True),
}
_HEIRS = {"slurmd": "Slurm jobs", "containerd": "containers", "docker": "containers", "kubelet": ""}


def parse_limits(text: str) -> dict[str, Limit]:
    """Parse /proc/self/limits: name to limit.

    Raises:
        Unavailable: it is not of that form.

    Sample:
        Limit                     Soft Limit           Hard Limit           Units
        Max stack size            8388608              unlimited            bytes
        Max processes             96365                96365                processes
        Max open files            1024                 524288               files
        Max locked memory         8388608              8388608              bytes
    """
    found = re.findall(r"^(Max [a-z ]*?[a-z]) +(unlimited|\d{1,20}) +(unlimited|\d{1,20})\b", text, re.MULTILINE)
    if not found:
        raise Unavailable(f"/proc/self/limits holds {text[:60]!r}", LIMITS_PROBE.id)
    return {name: Limit(soft=_number(soft), hard=_number(hard)) for name, soft, hard in found}


def _number(text: str) -> int:
    return UNLIMITED if text == "unlimited" else int(text)


def parse_limits_conf(text: str) -> tuple[tuple[str, str, str, int], ...]:
    """Parse a file of pam_limits: domain, type ("soft", "hard" or "-"), item, and bytes or count.

    Items that hostcheck does not judge, and lines of another form, are left out.

    Sample:
        # /etc/security/limits.d/95-rdma.conf
        *            soft    memlock         unlimited
        *            hard    memlock         unlimited
        @users       -       nofile          131072
        root         -       stack           8192
    """
    entries = []
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) != 4 or words[1] not in ("soft", "hard", "-") or words[2] not in _ITEMS:
            continue
        if words[3] in ("unlimited", "infinity", "-1"):
            entries.append((words[0], words[1], words[2], UNLIMITED))
        elif re.fullmatch(r"[0-9]{1,19}", words[3]):
            entries.append((words[0], words[1], words[2], int(words[3]) * (1 if words[2] == "nofile" else KIB)))
    return tuple(entries)


def parse_settings(text: str, section: str) -> dict[str, str]:
    """Parse one section of a file of systemd: key to its last value.

    Sample:
        [Unit]
        Description=Slurm node daemon
        After=munge.service network.target remote-fs.target

        [Service]
        Type=forking
        ExecStart=/usr/sbin/slurmd $SLURMD_OPTIONS
        LimitNOFILE=131072
        LimitMEMLOCK=infinity
        LimitSTACK=infinity
        Delegate=yes
    """
    settings: dict[str, str] = {}
    inside = False
    for row in text.replace("\\\n", " ").splitlines():
        line = row.strip()
        if line.startswith("["):
            inside = line == f"[{section}]"
        elif inside and "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            settings[key.strip()] = value.strip()
    return settings


def parse_unit_limit(text: str) -> Limit:
    """Parse the value of a Limit...= setting: "infinity", "64M", or soft and hard with a colon between.

    Raises:
        Unavailable: it is not of that form.

    Sample:
        1024:512K
    """
    soft, colon, hard = text.strip().partition(":")
    return Limit(soft=_amount(soft), hard=_amount(hard if colon else soft))


def _amount(text: str) -> int:
    if text == "infinity":
        return UNLIMITED
    found = re.fullmatch(r"([0-9]{1,20})([KMGTPE]?)", text)
    if not found:
        raise Unavailable(f"the limit {text[:40]!r} is not understood", LIMITS_PROBE.id)
    factor: int = 1024 ** " KMGTPE".index(found[2] or " ")
    return int(found[1]) * factor


def limits_files(reading: Reading) -> dict[str, str]:
    """Return what pam_limits reads: path to text, in its order, in which later lines win.

    Raises:
        Unavailable: one of the files could not be read.
    """
    return {_CONF: reading.read(_CONF) or "", **reading.glob(_CONF_D)}


def read_limits(reading: Reading) -> Sequence[Limits]:
    """Return the limits of the session, then of whatever else hands some out on this host.

    Raises:
        Unavailable: nothing was collected.
    """
    reading.check()
    found = [_session(reading), _login(reading)]
    units = {service: limits for service in SERVICES if (limits := _service(reading, service))}
    if "containerd" in units and "docker" in units:
        found += [limits for service, limits in units.items() if service != "docker"]
    else:
        found += units.values()
    return [limits for limits in found if limits is not None]


def _session(reading: Reading) -> Limits:
    place = "/etc/security/limits.d"
    try:
        limits = parse_limits(reading.read("/proc/self/limits") or "")
    except Unavailable as missing:
        return Limits(
            subject="session", place=place, heirs="this session", memlock=missing, stack=missing, nofile=missing
        )
    values: dict[str, Maybe[Limit]] = {
        item: limits.get(name) or Unavailable(f"/proc/self/limits has no {name!r}", reading.probe)
        for item, name in _ITEMS.items()
    }
    return Limits(subject="session", place=place, heirs="this session", **values)


def _login(reading: Reading) -> Limits | None:
    """Return what limits.conf gives to everybody ("*"), if it says anything; later files win."""
    values: dict[str, Maybe[Limit]] = {item: NotApplicable(f"limits.conf sets no {item} for all") for item in _ITEMS}
    try:
        texts = limits_files(reading).values()
    except Unavailable as missing:
        values = dict.fromkeys(_ITEMS, missing)
        return Limits(subject="login", place="/etc/security/limits.d", heirs="login sessions", **values)
    for domain, kind, item, number in (entry for text in texts for entry in parse_limits_conf(text)):
        if domain != "*":
            continue
        before = values[item]
        unset = NotApplicable(f"limits.conf sets only one of the soft and the hard {item} for all")
        old = before if isinstance(before, Limit) else Limit(soft=unset, hard=unset)
        values[item] = Limit(soft=old.soft if kind == "hard" else number, hard=old.hard if kind == "soft" else number)
    if not any(isinstance(value, Limit) for value in values.values()):
        return None
    return Limits(subject="login", place="/etc/security/limits.d", heirs="login sessions", **values)


def _service(reading: Reading, service: str) -> Limits | None:
    """Return the limits that a service's unit and its drop-ins set, or None if there is no such unit."""
    place = f"/etc/systemd/system/{service}.service.d"
    try:
        units = [reading.read(f"{folder}/{service}.service") for folder in UNIT_DIRS]
        unit = next((text for text in units if text), None)
        if unit is None:
            return None
        dropins: dict[str, str] = {}
        for folder in reversed(UNIT_DIRS):
            found = reading.glob(f"{folder}/{service}.service.d/*.conf")
            dropins.update({path.rpartition("/")[2]: text for path, text in found.items()})
        manager = [reading.read(_MANAGER) or "", *reading.glob(_MANAGER_D).values()]
    except Unavailable as missing:
        return Limits(
            subject=service, place=place, heirs=_HEIRS[service], memlock=missing, stack=missing, nofile=missing
        )
    settings = parse_settings(unit, "Service")
    for name in sorted(dropins):
        settings.update(parse_settings(dropins[name], "Service"))
    defaults: dict[str, str] = {}
    for text in manager:
        defaults.update(parse_settings(text, "Manager"))
    values = {item: _unit_value(settings, defaults, item) for item in _ITEMS}
    return Limits(subject=service, place=place, heirs=_HEIRS[service], **values)


def _unit_value(settings: Mapping[str, str], defaults: Mapping[str, str], item: str) -> Maybe[Limit]:
    text = settings.get(f"Limit{item.upper()}") or defaults.get(f"DefaultLimit{item.upper()}")
    if not text:
        return _SYSTEMD[item]
    try:
        return parse_unit_limit(text)
    except Unavailable as missing:
        return missing


def read_remove_ipc(reading: Reading) -> bool | None:
    """Return systemd-logind's RemoveIPC; None where nobody sets it.

    Raises:
        NotApplicable: there is no systemd-logind.
    """
    base = [text for path in (_LOGIND_VENDOR, _LOGIND) if (text := reading.read(path)) is not None]
    dropins: dict[str, str] = {}
    for pattern in _LOGIND_D:
        dropins.update({path.rpartition("/")[2]: text for path, text in reading.glob(pattern).items()})
    if not base and not dropins:
        raise NotApplicable("there is no systemd-logind here")
    values = [
        value
        for text in (*base[-1:], *(dropins[name] for name in sorted(dropins)))
        if (value := parse_settings(text, "Login").get("RemoveIPC"))
    ]
    return values[-1].lower() in ("yes", "true", "on", "1", "y", "t") if values else None


LIMITS: Fact[Sequence[Limits]] = Fact("kernel.limits", read_limits, LIMITS_PROBE)
REMOVE_IPC: Fact[bool | None] = Fact("kernel.remove-ipc", read_remove_ipc, LIMITS_PROBE)
