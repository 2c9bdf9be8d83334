"""~/.ssh/config as ssh reads it: what holds for one host.

The first value that is found holds; Host and Match blocks and Include are followed; tokens are expanded with what the
user asked for. paramiko has a reader of its own, but it knows no Include, stops at a Match
it does not know, and expands %p and %r without the port and user that were asked for.
"""

from __future__ import annotations

import getpass
import glob
import os
import re
import shlex
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from hostcheck.errors import HostcheckError
from hostcheck.transport.names import known_name, matches

SYSTEM = Path("/etc/ssh/ssh_config")
_DEEPEST = 16
_IDENTITIES = ("id_ed25519", "id_ecdsa", "id_rsa", "id_ed25519_sk", "id_ecdsa_sk")
_KNOWN = ("known_hosts", "known_hosts2")
_MANY = {"identityfile", "certificatefile"}
_LISTS = {"userknownhostsfile", "globalknownhostsfile", "canonicaldomains"}
_RAW = {"proxycommand", "localcommand", "remotecommand", "knownhostscommand"}
_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
_LINE = re.compile(r"\s*(\w+)(?:\s*=\s*|\s+)(.*?)\s*")
_TOKEN = re.compile(r"%(.?)")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to reach one host.

    Attributes:
        hostname, port, user: where to, and as whom.
        known_as: the name in known_hosts, lower case; with its port in ssh's form where that is not 22.
        identities: private keys to try, in order; `named` says whether the configuration names them.
        only_identities: keys of the agent that are not among them are not tried.
        certificates: files that go with the keys.
        agent: socket of the agent; empty where there is none to ask.
        jumps: hosts to go through, in order.
        proxy: shell command whose streams are the connection; empty for none.
        known_hosts: files with host keys, the user's first; `user_known_hosts` of them may be written.
        strict: whether an unknown host key is refused; None where the configuration does not say.
        hashed: whether names are written to known_hosts as hashes.
        connect_seconds: ConnectTimeout; None where the configuration does not say.
        family: address family to use.
        bind: local address to use; empty for any.
        alive_seconds: interval of messages that keep the connection open; 0 for none.
    """

    hostname: str
    port: int
    user: str
    known_as: str
    identities: tuple[Path, ...]
    named: bool
    only_identities: bool
    certificates: tuple[Path, ...]
    agent: str
    jumps: tuple[str, ...]
    proxy: str
    known_hosts: tuple[Path, ...]
    user_known_hosts: tuple[Path, ...]
    strict: bool | None
    hashed: bool
    connect_seconds: float | None
    family: socket.AddressFamily
    bind: str
    alive_seconds: int


def settings(
    name: str,
    *,
    user: str | None = None,
    port: int | None = None,
    path: Path | None = None,
    holds: Callable[[str], bool] = lambda _: False,
) -> Settings:
    """Return what holds for a host.

    Args:
        name: the host as the user typed it, which Host patterns match.
        user, port: what the user asked for; it goes before the configuration.
        path: a configuration file; by default the user's and the system's.
        holds: carries out the command of a `Match exec`.

    Raises:
        HostcheckError: a file is not readable or not understood, in one line.
    """
    if name.startswith("-") or not name or any(character.isspace() for character in name):
        raise HostcheckError(f"{name!r} is not a host name")
    files = [path] if path else [file for file in (Path.home() / ".ssh/config", SYSTEM) if file.exists()]
    lookup = _Lookup(name, user, port, holds)
    lookup.read(files)
    lookup.canonicalize()
    if lookup.wants_final or lookup.canonical:
        lookup.settle()
        lookup.read(files)
    return lookup.settings()


@dataclass(frozen=True, slots=True)
class _Line:
    where: str
    key: str
    words: tuple[str, ...]
    raw: str


@lru_cache(maxsize=64)
def _parsed(path: Path, _stamp: tuple[int, int]) -> tuple[_Line, ...]:
    try:
        text = path.read_text("utf-8", "surrogateescape")
    except OSError as problem:
        raise HostcheckError(f"{path}: {problem.strerror}") from None
    return tuple(_lines(path, text))


def _lines(path: Path, text: str) -> list[_Line]:
    found = []
    if "\0" in text:
        raise HostcheckError(f"{path}: not a text file")
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{path}:{number}"
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if not match:
            raise HostcheckError(f"{where}: not understood: {line.strip()[:80]!r}")
        key, raw = match[1].lower(), match[2]
        try:
            words = (raw,) if key in _RAW else tuple(shlex.split(raw, comments=True))
        except ValueError as problem:
            raise HostcheckError(f"{where}: {str(problem).lower()}") from None
        if not words:
            raise HostcheckError(f"{where}: {match[1]} has no value")
        found.append(_Line(where, key, words, raw))
    return found


@dataclass
class _Lookup:
    name: str
    user: str | None
    port: int | None
    holds: Callable[[str], bool]
    values: dict[str, tuple[str, ...]] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)
    target: str = ""
    final: bool = False
    canonical: bool = False
    wants_final: bool = False

    def read(self, files: Sequence[Path]) -> None:
        for file in files:
            self._file(file, active=True, depth=0)

    def _file(self, path: Path, *, active: bool, depth: int) -> None:
        if depth > _DEEPEST:
            raise HostcheckError(f"{path}: Include goes deeper than {_DEEPEST} files")
        try:
            seen = path.stat()
        except OSError as problem:
            raise HostcheckError(f"{path}: {problem.strerror}") from None
        outer = active
        for line in _parsed(path, (seen.st_mtime_ns, seen.st_size)):
            if line.key == "host":
                active = outer and matches(self.target or self.name, line.words)
            elif line.key == "match":
                active = self._match(line) and outer
            elif line.key == "include":
                for file in self._included(line):
                    self._file(file, active=active, depth=depth + 1)
            elif active:
                self._take(line)

    def _included(self, line: _Line) -> list[Path]:
        found: list[str] = []
        for word in line.words:
            pattern = self.expand(word, line.where, tokens=False)
            base = SYSTEM.parent if Path(line.where).is_relative_to(SYSTEM.parent) else Path.home() / ".ssh"
            found += sorted(glob.glob(str(base / pattern)))
        return [Path(name) for name in found if Path(name).is_file()]

    def _take(self, line: _Line) -> None:
        key = line.key
        # Whichever of the two comes first holds, and the other is left out.
        if key in ("proxyjump", "proxycommand") and self.values.keys() & {"proxyjump", "proxycommand"}:
            return
        if key in _MANY:
            known = self.values.get(key, ())
            self.values[key] = (*known, *(word for word in line.words[:1] if word not in known))
        elif key not in self.values:
            self.values[key] = line.words if key in _LISTS | _RAW else line.words[:1]
        self.where.setdefault(key, line.where)

    def _match(self, line: _Line) -> bool:
        words = list(line.words)
        held = True
        while words:
            criterion = words.pop(0)
            negated = criterion.startswith("!")
            criterion, glued, value = criterion.removeprefix("!").partition("=")
            criterion = criterion.lower()
            if criterion in ("all", "canonical", "final"):
                self.wants_final |= criterion == "final"
                truth = {"all": True, "canonical": self.canonical, "final": self.final}[criterion]
            else:
                if not glued:
                    if not words:
                        raise HostcheckError(f"{line.where}: Match {criterion} has no value")
                    value = words.pop(0)
                truth = held and self._criterion(criterion, value, line.where)
            held = held and truth is not negated
        return held

    def _criterion(self, criterion: str, value: str, where: str) -> bool:
        if criterion == "exec":
            return self.holds(self.expand(value, where))
        seen = {
            "host": self.hostname,
            "originalhost": self.name,
            "user": self.remote_user,
            "localuser": getpass.getuser(),
            "tagged": self._one("tag"),
            "sessiontype": "exec",
        }
        if criterion not in seen:
            raise HostcheckError(
                f"{where}: Match {criterion} is not understood; name a configuration without it for these hosts"
            )
        return matches(seen[criterion], value.split(","))

    def canonicalize(self) -> None:
        """Find the full name of a short one, if the configuration says so."""
        wanted = self._one("canonicalizehostname", "no").lower()
        proxied = self.values.keys() & {"proxyjump", "proxycommand"}
        if wanted not in ("yes", "always") or (proxied and wanted != "always"):
            return
        if self.hostname.rstrip(".").count(".") > self._whole("canonicalizemaxdots", 1, 0, 99):
            return
        for domain in self.values.get("canonicaldomains", ()):
            full = f"{self.hostname}.{domain}"
            try:
                socket.getaddrinfo(full, None)
            except (OSError, UnicodeError):
                continue
            self.canonical = True
            self.values["hostname"] = (full,)
            return

    def settle(self) -> None:
        """Prepare the second pass: in it, Host patterns match the address that the first one found."""
        self.final = True
        self.target = self.hostname.lower()
        self.values["hostname"] = (self.target.replace("%", "%%"),)

    def _one(self, key: str, default: str = "") -> str:
        return self.values.get(key, (default,))[0]

    def _whole(self, key: str, default: int, low: int, high: int) -> int:
        text = self._one(key, str(default))
        if not text.isdecimal() or not low <= int(text) <= high:
            raise HostcheckError(f"{self.where[key]}: {text!r} is not a number from {low} to {high}")
        return int(text)

    def _yes(self, key: str) -> bool:
        return self._one(key).lower() in ("yes", "true")

    @property
    def hostname(self) -> str:
        """The address to go to, as far as it is known by now."""
        return re.sub("%([%h])", lambda found: "%" if found[1] == "%" else self.name, self._one("hostname", self.name))

    @property
    def remote_user(self) -> str:
        """The account there."""
        return self.user or self._one("user") or getpass.getuser()

    @property
    def remote_port(self) -> int:
        """The port there."""
        return self.port or self._whole("port", 22, 1, 65535)

    def expand(self, text: str, where: str, *, tokens: bool = True) -> str:
        """Return text with ~, variables and tokens replaced."""
        table: Mapping[str, Callable[[], str]] = {
            "%": lambda: "%",
            "d": lambda: str(Path.home()),
            "h": lambda: self.hostname,
            "i": lambda: str(os.getuid()),
            "k": lambda: self._one("hostkeyalias", self.hostname),
            "L": lambda: socket.gethostname().split(".")[0],
            "l": socket.getfqdn,
            "n": lambda: self.name,
            "p": lambda: str(self.remote_port),
            "r": lambda: self.remote_user,
            "u": getpass.getuser,
        }

        def token(found: re.Match[str]) -> str:
            if found[1] not in table:
                raise HostcheckError(f"{where}: {found[0]} is not understood")
            return table[found[1]]()

        def variable(found: re.Match[str]) -> str:
            if found[1] not in os.environ:
                raise HostcheckError(f"{where}: the environment has no {found[1]}")
            return os.environ[found[1]]

        if text.startswith("~"):
            try:
                text = str(Path(text).expanduser())
            except RuntimeError:
                raise HostcheckError(f"{where}: nobody here is called {text.partition('/')[0]}") from None
        return _TOKEN.sub(token, _VARIABLE.sub(variable, text)) if tokens else _VARIABLE.sub(variable, text)

    def _paths(self, key: str, default: Sequence[str] = ()) -> tuple[Path, ...]:
        words = self.values.get(key, tuple(default))
        return tuple(
            Path(self.expand(word, self.where.get(key, ""))) for word in words if word.lower() not in ("none", "")
        )

    def _command(self, key: str) -> str:
        word = self._one(key)
        return "" if word.lower() in ("", "none") else self.expand(word, self.where[key])

    def _agent(self) -> str:
        word = self._one("identityagent", "SSH_AUTH_SOCK")
        if word.lower() == "none":
            return ""
        if word == "SSH_AUTH_SOCK" or (word.startswith("$") and not word.startswith("${")):
            return os.environ.get(word.removeprefix("$"), "")
        return self.expand(word, self.where["identityagent"])

    def settings(self) -> Settings:
        port, hostname = self.remote_port, self.hostname
        ours = self._paths("userknownhostsfile", [f"~/.ssh/{name}" for name in _KNOWN])
        shared = self._paths("globalknownhostsfile", [f"/etc/ssh/ssh_{name}" for name in _KNOWN])
        strict = self._one("stricthostkeychecking").lower()
        alias = self._one("hostkeyalias").lower()
        return Settings(
            hostname=hostname,
            port=port,
            user=self.remote_user,
            known_as=alias or known_name(hostname, port),
            identities=self._paths("identityfile", [f"~/.ssh/{name}" for name in _IDENTITIES]),
            named="identityfile" in self.values,
            only_identities=self._yes("identitiesonly"),
            certificates=self._paths("certificatefile"),
            agent=self._agent(),
            jumps=tuple(hop for hop in self._command("proxyjump").replace(" ", "").split(",") if hop),
            proxy=self._command("proxycommand"),
            known_hosts=(*ours, *shared),
            user_known_hosts=ours,
            strict=strict not in ("no", "off", "accept-new") if strict else None,
            hashed=self._yes("hashknownhosts"),
            connect_seconds=self._connect_seconds(),
            family=_FAMILIES.get(self._one("addressfamily").lower(), socket.AF_UNSPEC),
            bind=self._one("bindaddress"),
            alive_seconds=self._whole("serveraliveinterval", 0, 0, 86400),
        )

    def _connect_seconds(self) -> float | None:
        text = self._one("connecttimeout").lower()
        return None if text in ("", "none", "0") else float(self._whole("connecttimeout", 0, 1, 86400))
