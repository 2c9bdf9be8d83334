"""Files by which others set things at boot: which of them hold, by the rules of the program that reads them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from hostcheck.snapshot.reading import Reading

MARK = "hostcheck"
"""Files of ours have this word in their name."""

DROP_IN = "90-hostcheck-"
"""What the name of a drop-in of ours begins with: an operator's own file of a higher number has the last word."""

_HEADERS = re.compile(
    r"(?:managed|controlled|generated|maintained|deployed|written)\s+(?:by|with|via)\s+"
    r"(ansible|puppet|chef|salt(?:stack)?|cfengine|cloud-init|rudder|terraform)",
    re.IGNORECASE,
)
_OTHER_HEADERS = re.compile(r"\b(ansible)[ _-]managed\b|\b(chef) managed\b|\b(salt) managed\b", re.IGNORECASE)
_HEAD = 4096
_BLOCK = re.compile(r"^# BEGIN (ANSIBLE) MANAGED BLOCK", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A line of some file that sets something at boot.

    Attributes:
        file: its path.
        value: what it sets, as written there.
        keeper: the tool that its header says to be its manager, such as "Ansible"; empty where it names none.
        stays: a drop-in of ours beside it would change nothing, since this file comes after it, or wherever the first
            one counts, before it.
    """

    file: str
    value: str
    keeper: str = ""
    stays: bool = False

    @property
    def ours(self) -> bool:
        """Whether hostcheck wrote it."""
        return MARK in self.file.rpartition("/")[2]

    @property
    def vendor(self) -> bool:
        """Whether it came with a package, for the operator to override: it lies neither in /etc nor in /run."""
        return self.file.startswith(("/usr/", "/lib/"))

    @property
    def gives_way(self) -> bool:
        """Whether a drop-in of ours may set the same: over our own, or over a package's default that comes first."""
        return self.ours or (self.vendor and not self.stays)

    @property
    def owner(self) -> str:
        """Whose it is, in words, such as "/etc/sysctl.d/60-db.conf (managed by Ansible)"."""
        return f"{self.file} (managed by {self.keeper})" if self.keeper else self.file


@dataclass(frozen=True, slots=True)
class Source:
    """One file that counts: not masked by another of its name."""

    path: str
    text: str

    @property
    def name(self) -> str:
        """Its name without the folder, by which such files are sorted."""
        return self.path.rpartition("/")[2]

    def setting(self, value: str, *, stays: bool = False) -> Setting:
        """Return a line of it."""
        return Setting(file=self.path, value=value, keeper=find_keeper(self.text), stays=stays and not self.is_ours)

    @property
    def is_ours(self) -> bool:
        """Whether hostcheck wrote it."""
        return MARK in self.name

    @property
    def is_late(self) -> bool:
        """Whether its name sorts behind that of a drop-in of ours."""
        return self.name > DROP_IN


def find_keeper(text: str) -> str:
    """Return the configuration management that a file's head says to be its manager, or an empty string.

    Sample:
        #
        # Ansible managed: sysctl.j2 modified on 2026-03-01 by root on deploy01
        #
        vm.swappiness = 10
    """
    head = "\n".join(line for line in text[:_HEAD].splitlines() if line.lstrip().startswith(("#", ";", "//", "/*")))
    found = _HEADERS.search(head) or _OTHER_HEADERS.search(head) or _BLOCK.search(text)
    word = next((group for group in found.groups() if group), "") if found else ""
    return "cloud-init" if word.lower() == "cloud-init" else word.capitalize().replace("Saltstack", "Salt")


def sources(reading: Reading, folders: Sequence[str], suffix: str) -> list[Source]:
    """Return the files that count, by name: of those of one name, that in the first folder.

    Args:
        reading: of a probe that asks for `FOLDER/*SUFFIX` of each folder.
        folders: in order of precedence.
        suffix: such as ".conf".

    Raises:
        Unavailable: one of the files could not be read.
    """
    found: dict[str, Source] = {}
    for folder in reversed(folders):
        for path, text in reading.glob(f"{folder}/*{suffix}").items():
            found[path.rpartition("/")[2]] = Source(path, text)
    return [found[name] for name in sorted(found)]


def _lines(text: str, marks: str = "#;") -> Iterator[str]:
    for row in text.splitlines():
        line = row.strip()
        if line and line[0] not in marks:
            yield line


def sysctl_name(text: str) -> str:
    """Return a sysctl's name with dots between its parts, whichever separator it was written with (sysctl.d(5)).

    A dot inside of a part, as of an interface enp3s0.200, becomes a slash, as `sysctl` prints it.
    """
    first = next((mark for mark in text if mark in "./"), ".")
    return text if first == "." else text.replace("/", "\0").replace(".", "/").replace("\0", ".")


def parse_sysctl_conf(text: str) -> tuple[tuple[str, str | None], ...]:
    """Parse a file of sysctl.d: name (or glob) and value; None for a name that is only kept from globs.

    Sample:
        # Kernel hardening
        kernel.kptr_restrict = 1
        -net.ipv4.conf.all.accept_source_route = 0
        net/ipv4/conf/enp3s0.200/forwarding = 1
        net.ipv4.conf.*.rp_filter = 2
        -net.ipv4.conf.all.rp_filter
    """
    entries: list[tuple[str, str | None]] = []
    for line in _lines(text):
        name, equals, value = line.partition("=")
        if equals:
            entries.append((sysctl_name(name.strip().removeprefix("-").strip()), value.strip()))
        elif line.startswith("-"):
            entries.append((sysctl_name(line[1:].strip()), None))
    return tuple(entries)


def find_sysctl(files: Iterable[Source], name: str) -> Setting | None:
    """Return the line that sets a sysctl at boot: the last one that names it, else the last glob (sysctl.d(5))."""
    exact: Setting | None = None
    by_glob: Setting | None = None
    kept = False
    for file in files:
        for entry, value in parse_sysctl_conf(file.text):
            if entry == name:
                kept = True
                exact = exact if value is None else file.setting(value, stays=file.is_late)
            elif value is not None and any(mark in entry for mark in "*?[") and _covers(entry, name, "."):
                by_glob = file.setting(value)
    return exact if kept else by_glob


def _covers(pattern: str, name: str, mark: str) -> bool:
    """Whether a glob matches part by part: a star crosses no mark between parts."""
    parts, words = pattern.split(mark), name.split(mark)
    return len(parts) == len(words) and all(fnmatchcase(word, part) for part, word in zip(parts, words, strict=True))


def parse_modprobe(text: str) -> tuple[tuple[str, ...], ...]:
    """Parse a file of modprobe.d: the words of each command; hyphens of module names are underscores.

    Sample:
        # modprobe configuration of a GPU host
        options nvidia NVreg_EnableStreamMemOPs=1 \\
            NVreg_GrdmaPciTopoCheckOverride=1
        blacklist nouveau
        install nvidia-drm /bin/false
    """
    commands = []
    for line in _lines(text.replace("\\\n", " "), "#"):
        words = line.split()
        if len(words) > 1:
            commands.append((words[0], words[1].replace("-", "_"), *words[2:]))
    return tuple(commands)


def find_module_option(files: Iterable[Source], module: str, option: str) -> Setting | None:
    """Return the line that gives a module its option: all are handed over in order, and the last one counts."""
    found: Setting | None = None
    for file in files:
        for command, name, *words in parse_modprobe(file.text):
            if command == "options" and name == module:
                for word in words:
                    key, _, value = word.partition("=")
                    found = file.setting(value, stays=file.is_late) if key == option else found
    return found


def find_ban(files: Iterable[Source], module: str) -> Setting | None:
    """Return the line that keeps a module from being loaded: a blacklist, or an install command that fails."""
    found: Setting | None = None
    for file in files:
        for command, name, *words in parse_modprobe(file.text):
            fails = command == "install" and words[:1] in (["/bin/false"], ["/bin/true"], ["/usr/bin/false"])
            if name == module and (command == "blacklist" or fails):
                found = file.setting(" ".join((command, name, *words)))
    return found


def find_load(files: Iterable[Source], module: str) -> Setting | None:
    """Return the line of modules-load.d that loads a module at boot."""
    for file in files:
        for line in _lines(file.text):
            if line.replace("-", "_") == module:
                return file.setting(line)
    return None


@lru_cache(maxsize=1024)
def parse_tmpfiles(text: str) -> tuple[tuple[str, str, str], ...]:
    """Parse a file of tmpfiles.d, as far as it writes to existing files: type, path and what is written.

    Sample:
        # Type Path                                    Mode UID GID Age Argument
        w   /sys/kernel/mm/transparent_hugepage/enabled -    -   -   -   madvise
        w!  /sys/devices/system/cpu/cpu*/power/energy_perf_bias - - - - 0
        d   /run/nvidia-persistenced                    0755 root root -
    """
    entries = []
    for line in _lines(text, "#"):
        words = line.split(None, 6)
        if len(words) == 7 and words[0].rstrip("!+-=~^") == "w":
            entries.append((words[0], words[1], words[6]))
    return tuple(entries)


def find_tmpfile(files: Iterable[Source], path: str) -> Setting | None:
    """Return the line that has the last word on what is written to a path at boot (tmpfiles.d(5)).

    Of lines for one and the same path or glob, the first counts, or, where that is of the type "w+", all of that type
    in order. Of several globs that match, and the path itself, that which appears last is written last.
    """
    lines: dict[str, list[tuple[Source, str, str]]] = {}
    for file in files:
        for kind, target, value in parse_tmpfiles(file.text):
            if target == path or _covers(target, path, "/"):
                lines.setdefault(target, []).append((file, kind, value))
    if not lines:
        return None
    target, found = list(lines.items())[-1]
    first = found[0][0]
    # A line of ours for the path counts only where no other one comes first, and no glob comes behind it.
    stays = (path in lines and not lines[path][0][0].is_late) or (target != path and first.is_late)
    file, _, value = [line for line in found if "+" in line[1]][-1] if "+" in found[0][1] else found[0]
    return file.setting(value, stays=stays)


_ATTRIBUTE = re.compile(r'\bATTR\{([^}"]{1,200})\}\s*:?=\s*"([^"]{0,400})"')


def parse_udev(text: str) -> tuple[tuple[str, str, str], ...]:
    """Parse a file of udev rules, as far as it sets something: the whole rule, the attribute, and the value.

    Sample:
        # I/O schedulers
        ACTION=="add|change", SUBSYSTEM=="block", KERNEL=="nvme[0-9]*n[0-9]*", \\
            ATTR{queue/rotational}=="0", ATTR{queue/scheduler}="none"
        SUBSYSTEM=="net", ACTION=="add", ATTR{address}=="0c:42:a1:00:00:01", NAME="rail0"
    """
    return tuple(
        (line, found[1], found[2])
        for line in _lines(text.replace("\\\n", " "), "#")
        for found in _ATTRIBUTE.finditer(line)
    )


def find_udev(files: Iterable[Source], attribute: str) -> list[Setting]:
    """Return the rules that set an attribute, in the order in which they apply; for which devices, a rule says itself.

    The value of each setting is the whole rule.
    """
    return [
        file.setting(" ".join(rule.split()), stays=file.is_late)
        for file in files
        for rule, name, _ in parse_udev(file.text)
        if name == attribute
    ]


def parse_ini(text: str) -> dict[str, dict[str, str]]:
    """Parse a file with sections: name to its keys, and each key's last value.

    Sample:
        [main]
        summary=Optimize for GPU hosts
        include=throughput-performance

        [sysctl]
        vm.swappiness=10
        kernel.numa_balancing=0

        [vm]
        transparent_hugepages=never
    """
    sections: dict[str, dict[str, str]] = {}
    section: dict[str, str] | None = None
    for line in _lines(text):
        if line.startswith("[") and line.endswith("]"):
            section = sections.setdefault(line[1:-1].strip(), {})
        elif section is not None and "=" in line:
            key, _, value = line.partition("=")
            section[key.strip()] = value.strip()
    return sections


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What tuned does here.

    Attributes:
        profile: the active profile, or several with spaces between, such as "throughput-performance".
        sections: what the profile sets, with what it includes, by section and key; a section that hostcheck has no
            rule for is there all the same.
        unread: names of profiles that are part of it and were not found, so that they may set anything.
    """

    profile: str
    sections: Mapping[str, Mapping[str, str]]
    unread: tuple[str, ...] = ()

    def sets(self, section: str, key: str) -> str | None:
        """Return what the profile sets a key to; None where it does not."""
        return self.sections.get(section, {}).get(key)


def resolve_profile(profile: str, read: Callable[[str], str | None]) -> Tuned:
    """Return an active profile with all that it includes; what comes later wins.

    Args:
        profile: names with spaces between, as the file active_profile holds them.
        read: gives the text of a profile's tuned.conf, None where there is none.
    """
    sections: dict[str, dict[str, str]] = {}
    unread: list[str] = []
    seen: set[str] = set()

    def add(name: str) -> None:
        if name in seen or len(seen) > 100:
            return
        seen.add(name)
        text = read(name)
        if text is None:
            unread.append(name)
            return
        own = parse_ini(text)
        for parent in re.split(r"[\s,;]+", own.get("main", {}).get("include", "")):
            if "$" in parent:
                unread.append(parent)
            elif parent:
                add(parent.removeprefix("-"))
        for section, values in own.items():
            sections.setdefault(section, {}).update(values)

    for name in profile.split():
        add(name)
    return Tuned(profile=profile, sections=sections, unread=tuple(unread))
