"""Ansible as a source of targets and as a fan-out: its own programs are run; nothing of Ansible is imported."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from hostcheck.errors import HostcheckError, install
from hostcheck.fleet.replies import file_replies
from hostcheck.fleet.targets import Target

# Everything else that an inventory says of a host is left alone: it may be a secret.
_ADDRESS = ("ansible_host", "ansible_ssh_host")
_USER = ("ansible_user", "ansible_ssh_user")
_PORT = ("ansible_port", "ansible_ssh_port")
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:%-]{0,252}")
_USER_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@+=\\~-]*")
_KEPT = ("ansible_connection",)
_OURS = "hostcheck_"
_MANY = 256 * 1024 * 1024
_GRACE = 10.0


def read_inventory(path: Path, limit: str | None, *, connect: bool = True) -> tuple[Target, ...]:
    """Return the hosts of an Ansible inventory: INI, YAML, a folder, a plug-in's file, or a script.

    Of a host's variables only the address, the user, the port, `ansible_connection` and those that begin with
    `hostcheck_` are looked at. What `ansible-inventory` complains about is not shown, because it quotes the file, and
    with it perhaps a password.

    Args:
        path: the inventory.
        limit: a host pattern of Ansible, such as "gpu:!gpu07" or "@retry.txt"; None for all hosts.
        connect: whether hostcheck itself will connect. Where Ansible does, addresses, users and ports are its own
            affair, and are left out.

    Raises:
        HostcheckError: Ansible is not there or cannot read the inventory, no host is left, or a host's address is a
            template, which only a playbook resolves.
    """
    if not path.exists():
        raise HostcheckError(f"{path}: no such inventory")
    argv = [_tool("ansible-inventory"), "--inventory", str(path), "--list"]
    argv += ["--limit", limit] if limit is not None else []
    environment = {
        **os.environ,
        "ANSIBLE_INVENTORY_UNPARSED_FAILED": "true",
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
    }
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, env=environment, check=False)
    again = f"see: ansible-inventory -i {path} --list"
    if done.returncode or len(done.stdout) > _MANY:
        raise HostcheckError(f"{path}: Ansible cannot read this inventory (exit code {done.returncode}); {again}")
    try:
        targets = _targets(json.loads(done.stdout), connect)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise HostcheckError(f"{path}: ansible-inventory printed something unexpected; {again}") from None
    if not targets:
        raise HostcheckError(f"{path}: no host{f' matches --limit {limit}' if limit else ' in this inventory'}")
    return targets


def _targets(document: Mapping[str, Any], connect: bool) -> tuple[Target, ...]:
    groups = {name: group for name, group in document.items() if name != "_meta"}
    variables = document.get("_meta", {}).get("hostvars", {})
    of_host: dict[str, set[str]] = {}
    for name in groups:
        for host in _hosts(groups, name, set()):
            of_host.setdefault(host, set()).add(name)
    return tuple(
        _target(host, tuple(sorted(names - {"all", "ungrouped"})), variables.get(host, {}), connect)
        for host, names in of_host.items()
    )


def _hosts(groups: Mapping[str, Any], name: str, seen: set[str]) -> Iterator[str]:
    """Yield the hosts of a group and of those below it."""
    if name in seen:
        return
    seen.add(name)
    group = groups.get(name, {})
    yield from group.get("hosts", ())
    for child in group.get("children", ()):
        yield from _hosts(groups, child, seen)


def _target(host: str, groups: tuple[str, ...], variables: Mapping[str, Any], connect: bool) -> Target:
    kept = {name: str(value) for name, value in variables.items() if name in _KEPT or name.startswith(_OURS)}
    if not connect:
        return Target(host, host, groups=groups, variables=kept)
    address, user, port = (_plain(host, variables, names) for names in (_ADDRESS, _USER, _PORT))
    # What a ProxyCommand or a remote shell could act upon is no address and no user.
    if not _HOST.fullmatch(address or host):
        raise HostcheckError(f"{host!a}: {'ansible_host' if address else 'this name'} is no host name or address")
    if user is not None and not _USER_NAME.fullmatch(user):
        raise HostcheckError(f"{host!a}: ansible_user is no user name")
    if port is not None and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise HostcheckError(f"{host!a}: ansible_port is not a port")
    return Target(host, address or host, user, int(port) if port else None, groups, kept)


def _plain(host: str, variables: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    for name in names:
        value = variables.get(name)
        if value is None or value == "":
            continue
        if isinstance(value, dict) or "{{" in str(value):
            kind = "encrypted" if isinstance(value, dict) else "a template"
            raise HostcheckError(f"{host!a}: {name} is {kind}, which only a playbook resolves: use --via ansible")
        return str(value)
    return None


def run_via_ansible(
    inventory: Path, limit: str | None, program: bytes, run_dir: Path, forks: int, become: bool, *, seconds: float = 120
) -> None:
    """Let Ansible carry the program to the hosts and their archives into a run directory.

    Runs the playbook `audit.yml` of our collection with `ansible-playbook`, as a child whose messages go to standard
    error as they come. Ansible's own configuration, connection plug-ins and prompts hold: keys, jump hosts, passwords
    (`ansible.cfg`, `ANSIBLE_BECOME_PASSWORD_FILE`, vaults) are none of our business, and never pass through our hands.
    A host that did not answer is filed with the reason. A host whose archive is in the run directory is not asked
    again. Interrupted, it keeps what came.

    Args:
        inventory: whatever `ansible-playbook -i` takes.
        limit: a host pattern of Ansible; None for all hosts.
        program: the sh program, as `hostcheck collect --program` prints it.
        run_dir: the run directory; made where it is not there.
        forks: how many hosts at a time.
        become: whether to read as root, by Ansible's become.
        seconds: limit for one host, connecting included.

    Raises:
        HostcheckError: Ansible is not there, or ended in a way that is no host's fault.
    """
    playbook = _tool("ansible-playbook")
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hostcheck-ansible-") as temporary:
        place = Path(temporary)
        argv = [playbook, "--inventory", str(inventory), "--forks", str(forks)]
        argv += ["--limit", limit] if limit is not None else []
        argv += ["--become"] if become else []
        argv += ["--extra-vars", f"@{place / 'variables.json'}", str(_playbook(place))]
        (place / "program.sh").write_bytes(program)
        variables = {
            "audit_run_dir": str(run_dir.resolve()),
            "audit_program": str(place / "program.sh"),
            "audit_seconds": max(1, round(seconds)),
            "audit_report": False,
        }
        (place / "variables.json").write_text(json.dumps(variables), "utf-8")
        try:
            code = _wait(argv)
        finally:
            file_replies(run_dir)
    if code:
        raise HostcheckError(f"ansible-playbook ended with exit code {code}; its messages are above")


def _playbook(place: Path) -> Path:
    """Return a playbook beside which Ansible finds our collection, without any setting of the user's being changed."""
    namespace = place / "collections" / "ansible_collections" / "hostcheck"
    namespace.mkdir(parents=True)
    (namespace / "hostcheck").symlink_to(_collection(), target_is_directory=True)
    playbook = place / "audit.yml"
    playbook.write_text("- ansible.builtin.import_playbook: hostcheck.hostcheck.audit\n", "utf-8")
    return playbook


def _collection() -> Path:
    """Return the folder of the collection: inside the installed package, or beside it in a checkout."""
    package = Path(str(files("hostcheck")))
    for place in (package / "ansible", package.parent / "ansible"):
        if (place / "galaxy.yml").exists():
            return place.resolve()
    raise HostcheckError("this installation of hostcheck lacks its Ansible collection: install the wheel again")


def _wait(argv: list[str]) -> int:
    """Run a command with standard output on ours for errors, and let it end by itself when we are interrupted."""
    sys.stderr.flush()
    child = subprocess.Popen(argv, stdout=2)
    try:
        return child.wait()
    except BaseException:
        # A terminal sends its Ctrl-C to the child, too.
        with suppress(subprocess.TimeoutExpired):
            child.send_signal(signal.SIGINT)
            child.wait(_GRACE)
        child.kill()
        child.wait()
        raise


def _tool(name: str) -> str:
    """Return a program of Ansible: of the environment that hostcheck runs in, else of PATH."""
    here = shutil.which(name, path=str(Path(sys.executable).parent))
    found = here or shutil.which(name)
    if found is None:
        raise HostcheckError(f"{name} is not installed: {install('ansible')}, or the package ansible-core")
    return found
