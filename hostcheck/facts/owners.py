"""Who else owns settings on this host: its image, its managers, and the files by which each sets a given key."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from hostcheck.errors import Maybe, NotApplicable, Unavailable, need
from hostcheck.facts.base import Fact
from hostcheck.facts.guest import Mount, parse_mountinfo
from hostcheck.facts.limits import LIMITS_PROBE, UNIT_DIRS, limits_files, parse_limits_conf, parse_settings
from hostcheck.facts.owner_files import (
    Setting,
    Source,
    Tuned,
    find_ban,
    find_load,
    find_module_option,
    find_sysctl,
    find_tmpfile,
    find_udev,
    resolve_profile,
    sources,
)
from hostcheck.facts.platform import HOST_PROBE, PLATFORM, Platform
from hostcheck.facts.process import DAEMONS, Daemons
from hostcheck.snapshot.probes import KIB, MIB, FileProbe, ListProbe
from hostcheck.snapshot.reading import Reading

__all__ = ["OWNERS", "Owners", "Setting", "Tuned"]

T = TypeVar("T")

_SYSCTL = ("/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d")
_SYSCTL_CONF = "/etc/sysctl.conf"
_MODPROBE = tuple(f"{base}/modprobe.d" for base in ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib"))
_LOAD = tuple(f"{base}/modules-load.d" for base in ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib"))
_TMPFILES = tuple(f"{base}/tmpfiles.d" for base in ("/etc", "/run", "/usr/local/lib", "/usr/lib"))  # noqa: S108
_UDEV = ("/etc/udev/rules.d", "/run/udev/rules.d", "/usr/local/lib/udev/rules.d", "/usr/lib/udev/rules.d",
         "/lib/udev/rules.d")  # fmt: skip
_ACTIVE_PROFILE = "/etc/tuned/active_profile"
_PROFILES = ("/etc/tuned/profiles", "/etc/tuned", "/usr/lib/tuned/profiles", "/usr/lib/tuned")

FILES_PROBE = FileProbe(
    "platform.owner-files",
    (
        *(f"{folder}/*.conf" for folder in (*_SYSCTL, *_MODPROBE, *_LOAD, *_TMPFILES)),
        *(f"{folder}/*.rules" for folder in _UDEV),
        _SYSCTL_CONF,
        _ACTIVE_PROFILE,
        *(f"{folder}/*/tuned.conf" for folder in _PROFILES),
    ),
    limit=256 * KIB,
    total=4 * MIB,
)

_OSTREE, _NIXOS = "/run/ostree-booted", "/etc/NIXOS"
_TLP = ("/run/tlp", "/etc/systemd/system/multi-user.target.wants/tlp.service")
_CLOUD_INIT, _CLOUD_INIT_OFF = "/etc/cloud/cloud.cfg", "/etc/cloud/cloud-init.disabled"
_NETPLAN = ("/etc/netplan/*.yaml", "/run/netplan/*.yaml", "/lib/netplan/*.yaml")
_IFUPDOWN = "/etc/network/interfaces"
MARKS_PROBE = ListProbe(
    "platform.owner-marks", (_OSTREE, _NIXOS, *_TLP, _CLOUD_INIT, _CLOUD_INIT_OFF, *_NETPLAN, _IFUPDOWN)
)

# By the ID of os-release: what it is called, and where its settings are made instead.
_IMAGES = {
    "cos": ("Container-Optimized OS", "the node system configuration of GKE, or a DaemonSet"),
    "flatcar": ("Flatcar Container Linux", "its Ignition or Butane configuration"),
    "bottlerocket": ("Bottlerocket", "its user data, or apiclient set"),
    "talos": ("Talos Linux", "its machine configuration (talosctl patch machineconfig)"),
    "nixos": ("NixOS", "configuration.nix and nixos-rebuild"),
    "guix": ("Guix System", "its system configuration and guix system reconfigure"),
    "rhcos": ("Red Hat CoreOS", "a MachineConfig, or OpenShift's Node Tuning Operator"),
    "opensuse-microos": ("openSUSE MicroOS", "transactional-update"),
    "sle-micro": ("SLE Micro", "transactional-update"),
    "sl-micro": ("SL Micro", "transactional-update"),
    "ubuntu-core": ("Ubuntu Core", "snap set system, or its gadget snap"),
}

SERVICES = ("tuned", "tlp", "power-profiles-daemon", "irqbalance", "cloud-init", "netplan", "NetworkManager",
            "systemd-networkd", "ifupdown")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """The files that count, by what reads them."""

    sysctl: Sequence[Source]
    modprobe: Sequence[Source]
    modules_load: Sequence[Source]
    tmpfiles: Sequence[Source]
    udev: Sequence[Source]


@dataclass(frozen=True, slots=True, kw_only=True)
class Owners:
    """Who else owns settings on this host.

    What could not be read raises Unavailable where it is asked for; None and "" are knowledge: nobody does.

    Attributes:
        container: its kind, such as "docker"; empty outside of one.
        guest: whether a hypervisor owns the hardware.
        why_immutable: why nothing of it lasts that is written here, and where to set it instead; empty on an ordinary
            system. Values that hold until the next boot can be written nevertheless.
        tuned: its active profile; None where it is not installed or has none. It need not run: see `runs`.
    """

    container: str
    guest: bool
    why_immutable: str
    tuned: Maybe[Tuned | None]
    services: Mapping[str, Maybe[bool]]
    mounts: tuple[Mount, ...]
    files: Maybe[_Files]
    limits: Reading

    def runs(self, service: str) -> bool:
        """Whether one of SERVICES is at work here: its daemon runs, or, where it has none, it is configured.

        Raises:
            Unavailable: it cannot be seen.
        """
        return need(self.services[service])

    def why_read_only(self, path: str) -> str:
        """Return why a file there cannot be written, or an empty string."""
        mount = _mount_of(self.mounts, path)
        if mount is None or not _is_read_only(mount):
            return ""
        return f"{mount.point} is mounted read-only ({mount.fstype})"

    def why_not_lasting(self, path: str) -> str:
        """Return why a file of ours must not be put there to last, or an empty string."""
        if self.container:
            return f"a container ({self.container}): what is written here is not the host's, and is lost with it"
        return self.why_immutable or self.why_read_only(path)

    def sysctl(self, name: str) -> Setting | None:
        """Return the line that sets a sysctl, such as "vm.swappiness", at boot."""
        return find_sysctl(need(self.files).sysctl, name)

    def module_option(self, module: str, option: str) -> Setting | None:
        """Return the line of modprobe.d that gives a module an option; `module` with underscores."""
        return find_module_option(need(self.files).modprobe, module, option)

    def ban(self, module: str) -> Setting | None:
        """Return the line of modprobe.d that keeps a module from being loaded."""
        return find_ban(need(self.files).modprobe, module)

    def load(self, module: str) -> Setting | None:
        """Return the line of modules-load.d that loads a module at boot."""
        return find_load(need(self.files).modules_load, module)

    def tmpfile(self, path: str) -> Setting | None:
        """Return the line of tmpfiles.d that writes to a path at boot."""
        return find_tmpfile(need(self.files).tmpfiles, path)

    def udev(self, attribute: str) -> list[Setting]:
        """Return the udev rules that set an attribute, such as "queue/scheduler", in the order in which they apply.

        For which devices, each rule says itself: it is the setting's value.
        """
        return find_udev(need(self.files).udev, attribute)

    def limit(self, domain: str, kind: str, item: str) -> Setting | None:
        """Return the line of limits.conf or limits.d that sets a limit: the last one of the same domain.

        Args:
            domain: as written there, such as "*" or "root".
            kind: "soft" or "hard".
            item: "memlock", "nofile" or "stack".
        """
        found: Setting | None = None
        for path, text in limits_files(self.limits).items():
            for who, which, what, value in parse_limits_conf(text):
                if (who, what) == (domain, item) and which in (kind, "-"):
                    file = Source(path, text)
                    found = file.setting(str(value), stays=file.is_late and "/limits.d/" in path)
        return found

    def unit(self, service: str, key: str) -> Setting | None:
        """Return the file that sets a key of a service's section [Service]: the unit, or the last of its drop-ins.

        Args:
            service: one of `hostcheck.facts.limits.SERVICES`.
            key: such as "LimitMEMLOCK".
        """
        reading = self.limits
        found: Setting | None = None
        for folder in UNIT_DIRS:
            path = f"{folder}/{service}.service"
            if text := reading.read(path):
                value = parse_settings(text, "Service").get(key)
                found = Source(path, text).setting(value) if value is not None else None
                break
        for file in sources(reading, [f"{folder}/{service}.service.d" for folder in UNIT_DIRS], ".conf"):
            value = parse_settings(file.text, "Service").get(key)
            found = found if value is None else file.setting(value, stays=file.is_late)
        return found


def _mount_of(mounts: Sequence[Mount], path: str) -> Mount | None:
    """Return the mount that a path lies on: the last of those with the longest mount point."""
    best: Mount | None = None
    for mount in mounts:
        inside = mount.point == "/" or path == mount.point or path.startswith(f"{mount.point}/")
        if inside and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def _is_read_only(mount: Mount) -> bool:
    return "ro" in mount.flags.split(",") or "ro" in mount.options.rpartition(" ")[2].split(",")


def _why_immutable(platform: Platform, mounts: Sequence[Mount], marks: Reading) -> str:
    id = platform.os_id if isinstance(platform.os_id, str) else ""
    image = _IMAGES.get("nixos" if marks.entry(_NIXOS) is not None else id)
    if image is None and marks.entry(_OSTREE) is not None:
        image = ("an ostree system", "its image, Ignition or rpm-ostree kargs")
    if image:
        return f"this is {image[0]}, which is built as a whole: set it in {image[1]}"
    for path in ("/etc", "/usr"):
        mount = _mount_of(mounts, path)
        if mount is not None and _is_read_only(mount):
            return f"{path} is read-only here (mount of {mount.point}): set it in the image that this host is made of"
    if _is_in_memory(mounts, "/etc"):
        return "/etc is in memory here, so that the host is set up anew at each boot: set it in what it boots from"
    return ""


_IN_MEMORY = ("tmpfs", "ramfs", "rootfs")


def _is_in_memory(mounts: Sequence[Mount], path: str) -> bool:
    """Whether what is written there is gone after a boot, as on diskless hosts and live systems."""
    mount = _mount_of(mounts, path)
    if mount is None or mount.fstype in _IN_MEMORY:
        return mount is not None
    upper = re.search(r"\bupperdir=([^,\s]+)", mount.options) if mount.fstype == "overlay" else None
    below = _mount_of(mounts, upper[1]) if upper else None
    return below is not None and below is not mount and below.fstype in _IN_MEMORY


def _files(reading: Reading, *, systemd: bool) -> _Files:
    sysctl = sources(reading, _SYSCTL, ".conf")
    conf = reading.read(_SYSCTL_CONF)
    # systemd reads sysctl.conf only through a link in sysctl.d; the sysctl command of other systems reads it last.
    if conf is not None and not systemd:
        sysctl.append(Source(_SYSCTL_CONF, conf))
    return _Files(
        sysctl=sysctl,
        modprobe=sources(reading, _MODPROBE, ".conf"),
        modules_load=sources(reading, _LOAD, ".conf"),
        tmpfiles=sources(reading, _TMPFILES, ".conf"),
        udev=sources(reading, _UDEV, ".rules"),
    )


def _tuned(reading: Reading) -> Tuned | None:
    active = (reading.read(_ACTIVE_PROFILE) or "").strip()
    if not active:
        return None

    def text(profile: str) -> str | None:
        found = (reading.read(f"{folder}/{profile}/tuned.conf") for folder in _PROFILES if "/" not in profile)
        return next((text for text in found if text is not None), None)

    return resolve_profile(active, text)


def _maybe(read: Callable[[], T]) -> Maybe[T]:
    try:
        return read()
    except (Unavailable, NotApplicable) as missing:
        return missing


def _services(daemons: Daemons, marks: Reading) -> dict[str, Maybe[bool]]:
    def there(*paths: str) -> bool:
        return any(marks.entry(path) is not None for path in paths)

    running = ("tuned", "power-profiles-daemon", "irqbalance", "NetworkManager", "systemd-networkd")
    return {
        **{name: _maybe(partial(daemons.runs, name)) for name in running},
        "tlp": _maybe(lambda: there(*_TLP)),
        "cloud-init": _maybe(lambda: there(_CLOUD_INIT) and not there(_CLOUD_INIT_OFF)),
        "netplan": _maybe(lambda: any(marks.listed(pattern) for pattern in _NETPLAN)),
        "ifupdown": _maybe(lambda: there(_IFUPDOWN)),
    }


def read_owners(
    host: Reading, platform: Platform, daemons: Daemons, marks: Reading, files: Reading, limits: Reading
) -> Owners:
    """Return who else owns settings.

    Raises:
        Unavailable: whether this is a container, or an immutable system, could not be told.
    """
    mounts = parse_mountinfo(host.read("/proc/self/mountinfo") or "")
    systemd = daemons.has("/run/systemd/system")
    return Owners(
        container=platform.container,
        guest=bool(platform.hypervisor),
        why_immutable=_why_immutable(platform, mounts, marks),
        tuned=_maybe(lambda: _tuned(files)),
        services=_services(daemons, marks),
        mounts=mounts,
        files=_maybe(lambda: _files(files, systemd=systemd)),
        limits=limits,
    )


OWNERS: Fact[Owners] = Fact(
    "platform.owners", read_owners, HOST_PROBE, PLATFORM, DAEMONS, MARKS_PROBE, FILES_PROBE, LIMITS_PROBE
)
