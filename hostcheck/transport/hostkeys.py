"""known_hosts: whether a host is the one it was.

An unknown key is refused unless the user said otherwise; a changed, revoked or replaced one always.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hostcheck.transport.base import Reach
from hostcheck.transport.framing import Failed, one_line
from hostcheck.transport.names import known_name, like
from hostcheck.transport.sshconfig import Settings

_WRITING = threading.Lock()
_CERTIFICATE = "-cert-v01@openssh.com"
_ORDER = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)


@dataclass(frozen=True, slots=True)
class _Entry:
    mark: str
    names: tuple[str, ...]
    type: str
    blob: bytes
    where: str

    def holds_for(self, name: str) -> bool:
        found = False
        for pattern in self.names:
            if pattern.startswith("|1|"):
                found |= _hashes_to(pattern, name)
            elif like(name, pattern.removeprefix("!").lower()):
                if pattern.startswith("!"):
                    return False
                found = True
        return found


def _hashes_to(pattern: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part) for part in pattern[3:].split("|"))
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)


@lru_cache(maxsize=16)
def _entries(path: Path, _stamp: tuple[int, int]) -> tuple[_Entry, ...]:
    found = []
    for number, line in enumerate(path.read_bytes().decode("utf-8", "replace").splitlines(), 1):
        words = line.split()
        mark = words.pop(0) if words and words[0].startswith("@") else ""
        if len(words) < 3 or words[0].startswith("#"):
            continue
        try:
            blob = base64.b64decode(words[2], validate=True)
        except (ValueError, binascii.Error):
            continue
        found.append(_Entry(mark, tuple(words[0].split(",")), words[1], blob, f"{path}:{number}"))
    return tuple(found)


def _known(paths: Sequence[Path], name: str) -> list[_Entry]:
    found: list[_Entry] = []
    for path in paths:
        try:
            seen = path.stat()
            found += [entry for entry in _entries(path, (seen.st_mtime_ns, seen.st_size)) if entry.holds_for(name)]
        except FileNotFoundError:
            continue
        except OSError as problem:
            raise Failed(Reach.ERROR, f"{path}: {problem.strerror}") from None
    return found


class HostKeys:
    """What is known of one host's keys."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.name = settings.known_as
        self.entries = _known(settings.known_hosts, self.name)
        # A name with a port also is known by its keys without one, as for ssh.
        plain = settings.hostname.lower()
        borrowed = self.name == known_name(plain, settings.port) and self.name != plain
        self.borrowed = _known(settings.known_hosts, plain) if borrowed and not self._plain(self.entries) else []

    def _plain(self, entries: Sequence[_Entry]) -> list[_Entry]:
        return [entry for entry in entries if not entry.mark]

    def algorithms(self, possible: Sequence[str]) -> list[str]:
        """Return the key algorithms to ask for, those of known keys first, so that one of these is shown."""
        types = {entry.type for entry in (*self.entries, *self.borrowed) if not entry.mark}
        types |= {f"rsa-sha2-{bits}" for bits in (512, 256) if "ssh-rsa" in types}
        ordered = sorted((name for name in _ORDER if name in possible), key=lambda name: name not in types)
        if any(entry.mark == "@cert-authority" for entry in (*self.entries, *self.borrowed)):
            ordered = [name + _CERTIFICATE for name in _ORDER if name + _CERTIFICATE in possible] + ordered
        return ordered

    def check(self, key: Any, *, accept_new: bool) -> None:
        """Judge the key that a host showed.

        Args:
            key: a key of paramiko.
            accept_new: whether a host that is not known at all may become known by this.

        Raises:
            Failed: the key is not trusted; the line names its fingerprint and says what to do.
        """
        blob, shown = key.asbytes(), f"{kind_of(key)} key {fingerprint(key.asbytes())}"
        entries = (*self.entries, *self.borrowed)
        for entry in entries:
            if entry.mark == "@revoked" and entry.blob == blob:
                raise Failed(Reach.HOST_KEY, f"its {shown} is marked as revoked in {entry.where}")
        if any(not entry.mark and entry.blob == blob for entry in entries):
            return
        certificate = getattr(key, "public_blob", None)
        if certificate is not None and self._certified(certificate.key_blob):
            return
        if known := self._plain(self.entries):
            old = next((entry for entry in known if entry.type == key.get_name()), known[0])
            raise Failed(
                Reach.HOST_KEY,
                f"its host key changed: {shown}, where {old.where} has {fingerprint(old.blob)}. Somebody may be"
                f" between, or the host was set up anew; if so, remove the old one: ssh-keygen -R '{self.name}'"
                f" -f {old.where.rpartition(':')[0]}",
            )
        if not accept_new:
            raise Failed(
                Reach.HOST_KEY,
                f"its host key is not known: {shown}. Compare that with `ssh-keygen -lf` of /etc/ssh/ssh_host_*_key.pub"
                f" there, then make it known: {self._scan()} (or --accept-new-keys)",
            )
        self._remember(key)

    def _scan(self) -> str:
        settings = self.settings
        if settings.proxy or settings.jumps or self.name != known_name(settings.hostname, settings.port):
            return "connect once with ssh"
        port = f"-p {settings.port} " if settings.port != 22 else ""
        target = settings.user_known_hosts[0] if settings.user_known_hosts else "~/.ssh/known_hosts"
        return f"ssh-keyscan {port}{one_line(settings.hostname)} >>{target}"

    def _certified(self, blob: bytes) -> bool:
        """Return whether an authority that is trusted for this name vouches for a key, now."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import serialization as keys

        try:
            read = keys.load_ssh_public_identity(b"%b %b" % (_type_of(blob), base64.b64encode(blob)))
            if not isinstance(read, keys.SSHCertificate) or read.type is not keys.SSHCertificateType.HOST:
                return False
            signer = read.signature_key().public_bytes(keys.Encoding.OpenSSH, keys.PublicFormat.OpenSSH).split()[1]
            read.verify_cert_signature()
        except (ValueError, InvalidSignature, TypeError):
            return False
        trusted = {entry.blob for entry in (*self.entries, *self.borrowed) if entry.mark == "@cert-authority"}
        revoked = {entry.blob for entry in self.entries if entry.mark == "@revoked"}
        authority = base64.b64decode(signer)
        # A certificate is for host names, never for the form with a port; critical options are for users only.
        names = {principal.decode("utf-8", "replace").lower() for principal in read.valid_principals}
        alias = self.name if self.name != known_name(self.settings.hostname, self.settings.port) else ""
        wanted = alias or self.settings.hostname.lower()
        return (
            authority in trusted
            and authority not in revoked
            and any(like(wanted, name) for name in names)
            and read.valid_after <= time.time() < read.valid_before
            and not read.critical_options
        )

    def _remember(self, key: Any) -> None:
        if not self.settings.user_known_hosts:
            return
        path = self.settings.user_known_hosts[0]
        line = f"{self._written_name()} {key.get_name()} {base64.b64encode(key.asbytes()).decode()}\n"
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            with _WRITING, os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "ab+") as file:
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read(1) == b"\n" else f"\n{line}"
                file.write(line.encode())
        except OSError as problem:
            raise Failed(Reach.HOST_KEY, f"its host key could not be kept: {path}: {problem.strerror}") from None

    def _written_name(self) -> str:
        if not self.settings.hashed:
            return self.name
        salt = os.urandom(20)
        digest = hmac.new(salt, self.name.encode(), hashlib.sha1).digest()
        return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def _type_of(blob: bytes) -> bytes:
    size = int.from_bytes(blob[:4], "big")
    return blob[4 : 4 + size]


def kind_of(key: Any) -> str:
    """Return the kind of a key as ssh-keygen calls it, such as ED25519."""
    name = str(key.get_name())
    return {"ssh-ed25519": "ED25519", "ssh-rsa": "RSA"}.get(name, "ECDSA" if name.startswith("ecdsa") else name)


def fingerprint(blob: bytes) -> str:
    """Return the fingerprint of a public key as ssh-keygen writes it."""
    return f"SHA256:{base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip('=')}"
