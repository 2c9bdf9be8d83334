"""Files that hostcheck itself has put on a host, which of its units are enabled, and who else owns settings there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from hostcheck.errors import Maybe, Unavailable, need
from hostcheck.facts.base import Fact
from hostcheck.facts.owner_files import DROP_IN
from hostcheck.facts.owners import OWNERS, Owners
from hostcheck.snapshot.probes import KIB, FileProbe, ListProbe
from hostcheck.snapshot.reading import Ending, FileState, Reading

MARK = DROP_IN

SCRIPTS = "/etc/hostcheck/tune.d"
"""Scripts of ours that units of ours run at boot."""

OWN_PROBE = FileProbe(
    "platform.own-files",
    (
        f"/etc/sysctl.d/{MARK}*.conf",
        f"/etc/tmpfiles.d/{MARK}*.conf",
        f"/etc/udev/rules.d/{MARK}*.rules",
        f"/etc/security/limits.d/{MARK}*.conf",
        f"/etc/modules-load.d/{MARK}*.conf",
        f"/etc/modprobe.d/{MARK}*.conf",
        f"/etc/default/grub.d/{MARK}*.cfg",
        f"/etc/systemd/logind.conf.d/{MARK}*.conf",
        f"/etc/systemd/system/*.d/{MARK}*.conf",
        "/etc/systemd/system/hostcheck-*.service",
        f"{SCRIPTS}/*",
    ),
    limit=64 * KIB,
)
_WANTS = "/etc/systemd/system/*.wants/hostcheck-*.service"
OWN_UNITS_PROBE = ListProbe("platform.own-units", (_WANTS,))


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnFiles:
    """Drop-in files, scripts and units of ours, beside those of others.

    Attributes:
        texts: path to content; a path that is not there is not in it.
        enabled: names of units of ours that are started at boot.
        others: who else owns settings on the host.
    """

    texts: Mapping[str, Maybe[str]]
    enabled: frozenset[str]
    others: Owners

    def text(self, path: str) -> str | None:
        """Return a file's content to the byte, or None if there is no such file.

        Raises:
            Unavailable: it is there and could not be read, or is no text.
            ValueError: files of ours have no such path.
        """
        if not any(fnmatchcase(path, pattern) for pattern in OWN_PROBE.paths):
            raise ValueError(f"{path} is none of the places for files of ours")
        return need(self.texts[path]) if path in self.texts else None


def read_own(files: Reading, units: Reading, others: Owners) -> OwnFiles:
    """Return what of ours is on the host.

    Raises:
        Unavailable: it was not looked for.
    """
    for pattern in OWN_PROBE.paths:
        if pattern not in files.asked:
            files.check()
            raise files.unavailable(f"{files.probe}: {pattern} was not collected")
    files.check()
    texts = {path: _text(path, state) for path, state in files.files.items() if state.ending is not Ending.ABSENT}
    enabled = frozenset(path.rpartition("/")[2] for path in units.listed(_WANTS))
    return OwnFiles(texts=texts, enabled=enabled, others=others)


def _text(path: str, state: FileState) -> Maybe[str]:
    if state.ending is not Ending.OK:
        return Unavailable(f"{path}: {state.why or state.ending.value}", OWN_PROBE.id)
    try:
        return state.data.decode("utf-8")
    except UnicodeDecodeError:
        return Unavailable(f"{path} is no text", OWN_PROBE.id)


OWN: Fact[OwnFiles] = Fact("platform.own-files", read_own, OWN_PROBE, OWN_UNITS_PROBE, OWNERS)
