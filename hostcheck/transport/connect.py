"""From a host's name to a session on which somebody is logged in: address, proxies, handshake, host key, login."""

from __future__ import annotations

import errno
import logging
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from hostcheck.errors import HostcheckError
from hostcheck.transport.base import Reach
from hostcheck.transport.framing import Failed, one_line
from hostcheck.transport.names import parse_hop
from hostcheck.transport.sshconfig import Settings, settings

CONNECT_SECONDS = 10.0
_DEEPEST = 8
_LOADING = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class SshOptions:
    """How to connect, for all hosts of a run.

    Attributes:
        connect_seconds: limit for one attempt, login included; None for ConnectTimeout of the configuration, or 10 s.
        config_path: the configuration; None for ~/.ssh/config and the system's.
        accept_new: a host that known_hosts does not have becomes known; a changed key is refused all the same.
        become: run the program as root, through sudo.
        password, become_password: asked when one is needed, by any thread; None where there is none to give.
        retries: further attempts where a connection was refused or broke before the login.
    """

    connect_seconds: float | None = None
    config_path: Path | None = None
    accept_new: bool = False
    become: bool = False
    password: Callable[[], str] | None = None
    become_password: Callable[[], str] | None = None
    retries: int = 2


def load_paramiko() -> ModuleType:
    """Import paramiko, once, without what is not needed here, and keep it from writing on our terminal."""
    with _LOADING:
        if "paramiko" not in sys.modules:
            # paramiko imports invoke (and with it a YAML library) for `Match exec` alone, if it is there: half of its
            # loading time. We read the configuration ourselves.
            absent = "invoke" not in sys.modules
            if absent:
                sys.modules["invoke"] = None  # type: ignore[assignment]
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # old ciphers that its releases still name
                    import paramiko
            finally:
                if absent:
                    del sys.modules["invoke"]
            logging.getLogger("paramiko").addHandler(logging.NullHandler())
        import paramiko

        return paramiko  # type: ignore[no-any-return]


class _Socket(socket.socket):
    """A socket that acknowledges at once what it has read.

    After a login sshd sends two small packets, the second only when the first is acknowledged (Nagle's algorithm), and
    Linux would take 40 ms for that.
    """

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        data = super().recv(bufsize, flags)
        with suppress(OSError):
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return data


class Link:
    """A session of a user who is logged in, and all that carries it.

    Attributes:
        transport: paramiko's.
        settings: what held for the host.
    """

    def __init__(self, transport: Any, settings: Settings, carriers: list[Callable[[], None]]) -> None:
        self.transport = transport
        self.settings = settings
        self._carriers = carriers

    def close(self) -> None:
        """Close it, and what carries it; returns when its thread has ended."""
        end(self.transport)
        for close in self._carriers:
            close()
        self._carriers = []


def end(transport: Any) -> None:
    """Close a transport and wait for its thread."""
    with suppress(OSError, EOFError, AttributeError):
        # The thread sleeps in a read; this wakes it at once, where closing alone would let it sleep on.
        transport.sock.shutdown(socket.SHUT_RDWR)
    transport.close()
    with suppress(OSError):
        transport.sock.close()
    if transport.ident is not None and transport is not threading.current_thread():
        transport.join(2.0)


def connect(
    address: str,
    user: str | None,
    port: int | None,
    options: SshOptions,
    deadline: float,
    *,
    through: tuple[str, ...] = (),
    depth: int = 0,
) -> Link:
    """Connect and log in.

    Args:
        address, user, port: the host, as the user named it.
        options: for all hosts.
        deadline: on the monotonic clock.
        through: jump hosts; by default those of the configuration.
        depth: how many hosts wait for this one.

    Raises:
        Failed: with how far it got, and what to do.
    """
    from hostcheck.transport.child import holds

    if depth > _DEEPEST:
        raise Failed(Reach.ERROR, f"ProxyJump goes through more than {_DEEPEST} hosts, or in a circle")
    try:
        found = settings(address, user=user, port=port, path=options.config_path, holds=holds)
        if through:
            found = replace(found, jumps=through, proxy="")
    except HostcheckError as problem:
        raise Failed(Reach.ERROR, one_line(str(problem))) from None
    limit = options.connect_seconds or found.connect_seconds or CONNECT_SECONDS
    deadline = min(deadline, time.monotonic() + limit * (1 + len(found.jumps)))
    return _Attempt(load_paramiko(), found, options, deadline, depth).run()


class _Attempt:
    def __init__(self, paramiko: ModuleType, found: Settings, options: SshOptions, deadline: float, depth: int) -> None:
        self.paramiko = paramiko
        self.settings = found
        self.options = options
        self.begun = time.monotonic()
        self.deadline = deadline
        self.depth = depth
        self.carriers: list[Callable[[], None]] = []
        self.told: Callable[[], str] | None = None
        self.where = f"{found.hostname} port {found.port}"

    def left(self) -> float:
        return max(0.01, self.deadline - time.monotonic())

    def waited(self) -> str:
        return f"{max(1.0, time.monotonic() - self.begun):.0f} s"

    def run(self) -> Link:
        from hostcheck.transport.auth import Login
        from hostcheck.transport.hostkeys import HostKeys

        transport = None
        try:
            keys = HostKeys(self.settings)
            transport = self.paramiko.Transport(self._line())
            transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = self.left()
            transport.get_security_options().key_types = tuple(keys.algorithms(list(transport._key_info)))
            self._shake_hands(transport)
            accept = self.options.accept_new or self.settings.strict is False
            keys.check(transport.get_remote_server_key(), accept_new=accept)
            transport.auth_timeout = self.left()
            Login(self.paramiko, transport, self.settings, self.options.password).run()
            if self.settings.alive_seconds:
                transport.set_keepalive(self.settings.alive_seconds)
        except HostcheckError as problem:
            self._undo(transport)
            raise Failed(Reach.ERROR, one_line(str(problem))) from None
        except BaseException:
            self._undo(transport)
            raise
        return Link(transport, self.settings, self.carriers)

    def _undo(self, transport: Any) -> None:
        if transport is not None:
            end(transport)
        for close in self.carriers:
            close()

    def _line(self) -> Any:
        """Return a connected socket, or what serves as one."""
        if self.settings.jumps:
            return self._through(self.settings.jumps)
        if self.settings.proxy:
            from hostcheck.transport.child import Proxy

            try:
                proxy = Proxy(self.settings.proxy)
            except OSError as problem:
                raise Failed(Reach.ERROR, f"ProxyCommand did not start: {problem.strerror}") from None
            self.carriers.append(proxy.close)
            self.told = proxy.told
            return proxy.socket
        return self._tcp()

    def _through(self, jumps: tuple[str, ...]) -> Any:
        try:
            host, user, port = parse_hop(jumps[-1])
            link = connect(host, user, port, self.options, self.deadline, through=jumps[:-1], depth=self.depth + 1)
        except Failed as problem:
            raise Failed(
                problem.reach, f"jump host {one_line(jumps[-1], 80)}: {problem.why}", again=problem.again
            ) from None
        self.carriers.append(link.close)
        to = (self.settings.hostname, self.settings.port)
        try:
            return link.transport.open_channel("direct-tcpip", to, ("127.0.0.1", 0), timeout=self.left())
        except (self.paramiko.SSHException, EOFError, OSError) as problem:
            text = problem.args[-1] if problem.args else problem
            raise Failed(
                Reach.UNREACHABLE, f"jump host {jumps[-1]} does not reach {self.where}: {one_line(str(text), 80)}"
            ) from None

    def _tcp(self) -> socket.socket:
        found = self.settings
        try:
            addresses = socket.getaddrinfo(found.hostname, found.port, found.family, socket.SOCK_STREAM)
        except OSError as problem:
            again = isinstance(problem, socket.gaierror) and problem.errno == socket.EAI_AGAIN
            name = one_line(found.hostname, 80)
            text = f"the name {name} is not known here ({problem.strerror}): check HostName and DNS"
            raise Failed(Reach.UNREACHABLE, text, again=again) from None
        except UnicodeError:
            raise Failed(Reach.ERROR, f"{one_line(found.hostname, 80)} is not a host name") from None
        last: OSError = TimeoutError()
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            line = _Socket(family, kind, protocol)
            try:
                line.settimeout(self.left() / (len(addresses) - number))
                if found.bind:
                    line.bind((found.bind, 0))
                line.connect(address)
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            except OSError as problem:
                line.close()
                last = problem
            else:
                return line
        raise self._unreachable(last)

    def _unreachable(self, problem: OSError) -> Failed:
        if isinstance(problem, TimeoutError):
            text = f"no answer from {self.where} in {self.waited()}: the host is down, or a firewall drops packets"
            return Failed(Reach.UNREACHABLE, text)
        if isinstance(problem, ConnectionRefusedError):
            text = f"{self.where} is closed (connection refused): sshd does not run there, or listens elsewhere"
            return Failed(Reach.UNREACHABLE, text, again=True)
        if problem.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
            return Failed(Reach.UNREACHABLE, f"no route to {self.where}: the host is down, or its network is not here")
        text = f"{self.where}: {one_line(problem.strerror or str(problem), 120)}"
        return Failed(Reach.UNREACHABLE, text, again=isinstance(problem, ConnectionError))

    def _shake_hands(self, transport: Any) -> None:
        done = threading.Event()
        transport.start_client(event=done)
        if not done.wait(self.left()):
            text = f"{self.where} took the connection, but no SSH handshake came in {self.waited()}"
            raise Failed(Reach.UNREACHABLE, f"{text}: sshd hangs, or something else listens there")
        if transport.is_active():
            return
        problem = transport.get_exception()
        if self.told is not None:
            raise Failed(Reach.UNREACHABLE, f"ProxyCommand failed: {one_line(self.told(), 160)}")
        if isinstance(problem, self.paramiko.ssh_exception.IncompatiblePeer):
            raise Failed(Reach.ERROR, f"no common SSH algorithms: {one_line(str(problem), 160)}")
        if "ndecipherable" in str(problem):
            raise Failed(Reach.UNREACHABLE, f"{self.where} does not speak SSH")
        raise Failed(
            Reach.UNREACHABLE,
            f"{self.where} closed the connection during the handshake: sshd starts up or shuts down, has too many"
            " connections at once (MaxStartups), or shuts us out",
            again=True,
        )
