"""Letting a host know who we are: agent, keys, certificates, and a password where the user gives one."""

from __future__ import annotations

import base64
import binascii
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostcheck.transport.base import Reach
from hostcheck.transport.framing import Failed, one_line
from hostcheck.transport.sshconfig import Settings

_CONTAINER = b"openssh-key-v1\0"
_AGENT_SECONDS = 30.0
"""A key in an agent may wait for a finger on it."""


class Agent:
    """The keys of an ssh-agent; none where there is no agent."""

    def __init__(self, paramiko: Any, path: str) -> None:
        self.keys: Sequence[Any] = ()
        self.note = ""
        self._agent: Any = None
        if not path:
            return
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            line.settimeout(_AGENT_SECONDS)
            line.connect(path)
            # The class that reads the environment for its socket offers no way to name one; its base does.
            self._agent = paramiko.agent.AgentSSH()
            self._agent._connect(line)
            self.keys = self._agent.get_keys()
        except (OSError, paramiko.SSHException) as problem:
            line.close()
            self.note = f"the agent at {path} does not answer ({one_line(str(problem), 80)})"

    def close(self) -> None:
        """Leave the agent."""
        if self._agent is not None:
            self._agent._close()


@dataclass(frozen=True, slots=True)
class _Identity:
    path: Path
    blob: bytes
    private: bool
    locked: bool


def _identity(path: Path) -> _Identity:
    """Return what a key file tells without its passphrase; OSError where it cannot be read."""
    data = path.read_bytes()
    if not data.lstrip().startswith(b"-----BEGIN"):
        return _Identity(path, _public(data), private=False, locked=False)
    public, locked = b"", b"ENCRYPTED" in data[:512]
    if b"OPENSSH PRIVATE KEY" in data[:64]:
        with suppress(ValueError, binascii.Error, IndexError):
            public, locked = _container(base64.b64decode(b"".join(data.split(b"-----")[2].split())))
    if not public:
        with suppress(OSError):
            public = _public(path.with_name(f"{path.name}.pub").read_bytes())
    return _Identity(path, public, private=True, locked=locked)


def _public(data: bytes) -> bytes:
    words = data.split()
    with suppress(ValueError, binascii.Error, IndexError):
        return base64.b64decode(words[1], validate=True)
    return b""


def _container(data: bytes) -> tuple[bytes, bool]:
    """Return the public key of OpenSSH's own format, and whether the private one is encrypted."""
    if not data.startswith(_CONTAINER):
        raise ValueError
    at, fields = len(_CONTAINER), []
    for _ in range(3):
        size = int.from_bytes(data[at : at + 4], "big")
        fields.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    at += 4
    size = int.from_bytes(data[at : at + 4], "big")
    return data[at + 4 : at + 4 + size], fields[0] != b"none"


class Login:
    """One attempt to log in over a connection whose host key was accepted."""

    def __init__(
        self,
        paramiko: Any,
        transport: Any,
        settings: Settings,
        password: Callable[[], str] | None,
    ) -> None:
        self.paramiko = paramiko
        self.transport = transport
        self.settings = settings
        self.password = password
        self.notes: list[str] = []
        self.tried: list[str] = []

    def run(self) -> None:
        """Log in.

        Raises:
            Failed: the host let us in by nothing that we have.
        """
        agent = Agent(self.paramiko, self.settings.agent)
        try:
            left = self._by_key(agent)
        finally:
            agent.close()
        if left is None:
            return
        allowed = left or self._allowed()
        if allowed is not None and not self._by_password(allowed):
            raise Failed(Reach.DENIED, self._why(allowed))

    def _by_key(self, agent: Agent) -> list[str] | None:
        """Try the keys; return None once inside, else what else is asked for after one was accepted, or nothing."""
        if agent.note:
            self.notes.append(agent.note)
        for label, key in self._keys(agent):
            self.tried.append(label)
            try:
                left = self.transport.auth_publickey(self.settings.user, key)
            except self.paramiko.BadAuthenticationType as problem:
                return list(problem.allowed_types)
            except self.paramiko.AuthenticationException as problem:
                self._still_there(problem)
                continue
            except (self.paramiko.SSHException, EOFError, OSError, ValueError) as problem:
                self._still_there(problem)
                self.notes.append(f"{label}: {one_line(str(problem), 80)}")
                continue
            return list(left) or None
        return []

    def _still_there(self, problem: Exception) -> None:
        if self.transport.is_active():
            return
        why = f"it closed the connection after {self._tried()}"
        if isinstance(problem, self.paramiko.AuthenticationException | EOFError):
            why += ": it takes only so many keys (MaxAuthTries); name the right one with IdentityFile and set"
            raise Failed(Reach.DENIED, f"{why} IdentitiesOnly yes") from None
        raise Failed(Reach.DENIED, f"{why}: {one_line(str(problem), 120)}") from None

    def _keys(self, agent: Agent) -> Iterator[tuple[str, Any]]:
        """Yield the keys in ssh's order: named ones that the agent has, the agent's others, then files."""
        identities = list(self._identities())
        certificates = {path: certified(path) for path in self._certificate_files(identities)}
        named = {identity.blob: identity for identity in identities if identity.blob}
        held = {key.asbytes(): key for key in agent.keys}
        first = [key for blob, key in held.items() if blob in named or blob in certificates.values()]
        others = [key for key in held.values() if not any(key is one for one in first)]
        for key in first + ([] if self.settings.only_identities else others):
            yield from self._with_certificates(
                f"the agent's {one_line(key.comment or key.get_name(), 60)}", key, certificates
            )
        for identity in identities:
            if not identity.private or identity.blob in held:
                continue
            if identity.locked:
                self.notes.append(f"{identity.path} has a passphrase: add it to the agent with ssh-add")
                continue
            try:
                key = self.paramiko.PKey.from_path(identity.path)
            except Exception as problem:  # what a key file can raise is not documented, and differs by library
                self.notes.append(f"{identity.path}: {one_line(str(problem) or type(problem).__name__, 80)}")
                continue
            key.public_blob = None
            yield from self._with_certificates(str(identity.path), key, certificates)

    def _with_certificates(self, label: str, key: Any, certificates: dict[Path, bytes]) -> Iterator[tuple[str, Any]]:
        for path, blob in certificates.items():
            if blob == key.asbytes():
                key.load_certificate(str(path))
                yield f"{label} with {path.name}", key
        key.public_blob = None
        yield label, key

    def _identities(self) -> Iterator[_Identity]:
        for path in self.settings.identities:
            try:
                yield _identity(path)
            except OSError as problem:
                # `IdentityFile ~/.ssh/x` may name a key of which only x.pub is here, the rest in the agent.
                beside = path.with_name(f"{path.name}.pub")
                if beside.is_file():
                    yield _Identity(path, _public(beside.read_bytes()), private=False, locked=False)
                elif self.settings.named:
                    self.notes.append(f"{path}: {problem.strerror}")

    def _certificate_files(self, identities: Sequence[_Identity]) -> list[Path]:
        beside = [identity.path.with_name(f"{identity.path.name}-cert.pub") for identity in identities]
        return [*self.settings.certificates, *(path for path in beside if path.is_file())]

    def _allowed(self) -> list[str] | None:
        """Return what the host would let us try; None if it lets us in without anything."""
        try:
            self.transport.auth_none(self.settings.user)
        except self.paramiko.BadAuthenticationType as problem:
            return list(problem.allowed_types)
        except (self.paramiko.SSHException, EOFError, OSError) as problem:
            self._still_there(problem)
            return []
        return None

    def _by_password(self, allowed: Sequence[str]) -> bool:
        if self.password is None:
            return False
        ways = [way for way in ("password", "keyboard-interactive") if way in allowed]
        for way in ways:
            self.tried.append("the password")
            try:
                if way == "password":
                    left = self.transport.auth_password(self.settings.user, self.password(), fallback=False)
                else:
                    left = self.transport.auth_interactive(self.settings.user, self._answers)
            except (self.paramiko.SSHException, EOFError, OSError) as problem:
                self._still_there(problem)
                continue
            if not left:
                return True
        return False

    def _answers(self, title: str, instructions: str, prompts: Sequence[tuple[str, bool]]) -> list[str]:
        """Answer the one question that a password is the answer to, and no other."""
        if self.password is None or len(prompts) > 1 or any(shown for _, shown in prompts):
            raise self.paramiko.SSHException("it asks for more than a password")
        return [self.password() for _ in prompts]

    def _tried(self) -> str:
        unique = list(dict.fromkeys(self.tried))
        some = ", ".join(unique[:3])
        return f"{some} and {len(unique) - 3} more" if len(unique) > 3 else some or "nothing"

    def _why(self, allowed: Sequence[str]) -> str:
        user, may = self.settings.user, ", ".join(one_line(word, 40) for word in allowed[:5]) or "nothing"
        told = f" ({'; '.join(self.notes[:2])})" if self.notes else ""
        if not self.tried:
            return (
                f"no key to log in with as {user}{told}: add one to the agent (ssh-add), or name it with IdentityFile"
            )
        return (
            f"it does not let {user} in with {self._tried()}{told}; it asks for: {may}. Put the public key into its"
            f" authorized_keys, or name the right key with IdentityFile, or the right User"
        )


def certified(path: Path) -> bytes:
    """Return the public key that a certificate file is for; empty where it is no certificate."""
    from cryptography.hazmat.primitives import serialization as keys

    try:
        read = keys.load_ssh_public_identity(path.read_bytes())
        if not isinstance(read, keys.SSHCertificate):
            return b""
        text = read.public_key().public_bytes(keys.Encoding.OpenSSH, keys.PublicFormat.OpenSSH)
    except (OSError, ValueError, TypeError):
        return b""
    return base64.b64decode(text.split()[1])
