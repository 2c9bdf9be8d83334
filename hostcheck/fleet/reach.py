"""Which transport leads to a target."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable

from hostcheck.errors import HostcheckError
from hostcheck.fleet.targets import Target
from hostcheck.transport.base import Transport
from hostcheck.transport.ssh import SshOptions, SshTransport

_SSH = ("", "ssh", "smart", "paramiko", "paramiko_ssh")


def over_ssh(options: SshOptions, user: str | None) -> Callable[[Target], Transport]:
    """Return what makes the transport of a target: SSH, or a shell here where an inventory says so.

    Args:
        options: for all hosts.
        user: where a target names none.
    """
    # A wide window raises our own limit of open files, and the shell here is to have the limit that it would have had.
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    files = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)

    def make(target: Target) -> Transport:
        kind = target.variables.get("ansible_connection", "").removeprefix("ansible.builtin.")
        if kind == "local":
            from hostcheck.transport.local import LocalTransport

            sudo = ("sudo", "-n") if options.become and os.geteuid() != 0 else ()
            return LocalTransport(target.name, argv=(*sudo, "sh", "-c", f"ulimit -S -n {files}; exec sh -s"))
        if kind not in _SSH:
            raise HostcheckError(f"the inventory connects it by {kind}: only --via ansible can do that")
        return SshTransport(
            target.name, address=target.address, user=target.user or user, port=target.port, options=options
        )

    return make
