"""The collection and `--via ansible`, with the real ansible-core, a real sshd, and a host that is dead."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from hostcheck.audit import probes_for
from hostcheck.checklist import Checklist
from hostcheck.errors import HostcheckError
from hostcheck.fleet.ansible import read_inventory, run_via_ansible
from hostcheck.registry import load_checks
from hostcheck.snapshot.archive import read_archive, write_archive
from hostcheck.snapshot.program import program
from support import HOSTS, host
from waiting import until

COLLECTION = Path(__file__).parents[2] / "ansible"
CLI = [sys.executable, "-P", "-c", "from hostcheck.cli.main import main; main()"]
BIN = Path(sys.executable).parent


def tool(name: str) -> str:
    """Return a part that the tests need; without it, a person is told and CI fails."""
    found = shutil.which(name, path=os.pathsep.join((str(BIN), os.environ["PATH"], "/usr/sbin", "/sbin")))
    if found is None:
        why = f"{name} is not here: pip install '.[dev]' and scripts/install-test-parts bring it"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    return found


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for everything that Ansible would keep in the home, with no configuration but its own."""
    tool("ansible-playbook")
    (tmp_path / "ansible.cfg").write_text("[defaults]\nlocalhost_warning = false\n")
    for name in [name for name in os.environ if name.startswith("ANSIBLE_")]:
        monkeypatch.delenv(name)
    settings = {
        "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
        "ANSIBLE_HOME": str(tmp_path / "ansible-home"),
        "ANSIBLE_NOCOLOR": "1",
        "PATH": os.pathsep.join((str(BIN), os.environ["PATH"])),
        "PWD": str(tmp_path),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@dataclass
class Server:
    """An sshd on a port of the loopback interface that takes one key, for the user who runs the tests."""

    port: int
    key: Path
    known: Path
    log: Path

    def line(self, name: str, port: int | None = None) -> str:
        return (
            f"{name} ansible_host=127.0.0.1 ansible_port={port or self.port} ansible_ssh_private_key_file={self.key}"
            f" ansible_ssh_common_args='-F /dev/null -o UserKnownHostsFile={self.known} -o ControlPath=none'"
            " ansible_python_interpreter=/no/python\n"
        )

    def sessions(self) -> int:
        return self.log.read_text().count("Accepted publickey")


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
    return port


@pytest.fixture
def dead() -> Iterator[int]:
    """A port of the loopback interface on which nobody listens, and which nobody else gets meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def listens(port: int) -> bool:
    with socket.socket() as opened:
        return opened.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    sshd, keygen = tool("sshd"), tool("ssh-keygen")
    folder, port = tmp_path_factory.mktemp("sshd"), free_port()
    for name in ("host", "user"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "conf").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
        "StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen([sshd, "-D", "-e", "-f", str(folder / "conf")], stderr=log)
    try:
        until(lambda: child.poll() is not None or listens(port))
        assert child.poll() is None, (folder / "log").read_text()
        yield Server(port, folder / "user", folder / "known", folder / "log")
    finally:
        child.terminate()
        child.wait(120)


@pytest.fixture(scope="module")
def text() -> bytes:
    return program(probes_for(Checklist())).encode()


def inventory(place: Path, lines: str, name: str = "hosts.ini") -> Path:
    (place / name).write_text(lines)
    return place / name


def local(*names: str) -> str:
    return "".join(f"{name} ansible_connection=local ansible_python_interpreter=/no/python\n" for name in names)


def play(place: Path, hosts: Path, book: str, *words: str, **variables: object) -> subprocess.CompletedProcess[str]:
    """Run a playbook of the collection as its user does: found on a collection path, by its name."""
    namespace = place / "collections" / "ansible_collections" / "hostcheck"
    if not namespace.exists():
        namespace.mkdir(parents=True)
        (namespace / "hostcheck").symlink_to(COLLECTION)
    extra = json.dumps({"audit_command": CLI, "audit_run_dir": str(place / "run"), **variables})
    return subprocess.run(
        [tool("ansible-playbook"), "-i", str(hosts), "-e", extra, *words, book],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(place / "collections")},
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip


def record(run: Path, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((run / "hosts" / f"{name}.json").read_text())
    return found


def test_two_hosts_answer_over_ssh_and_the_dead_one_is_told(
    place: Path, server: Server, text: bytes, dead: int
) -> None:
    hosts = inventory(place, server.line("a") + server.line("b") + server.line("dead", dead))
    run, before = place / "run", server.sessions()
    run_via_ansible(hosts, None, text, run, 5, False)
    for name in ("a", "b"):
        snapshot = read_archive(run / "hosts" / f"{name}.tar.gz")
        assert snapshot.manifest.producer == "sh"
        assert snapshot.manifest.hostname == socket.gethostname()
        assert record(run, name)["reach"] == "ok"
    assert record(run, "dead")["reach"] == "unreachable"
    assert "refused" in str(record(run, "dead")["why"])
    assert not (run / "hosts" / "dead.tar.gz").exists()
    assert not (run / "replies").exists()
    assert server.sessions() == before + 2, "one connection a host"

    run_via_ansible(hosts, "a:dead", text, run, 5, False)
    assert server.sessions() == before + 2, "a host that has answered was asked again"


def test_nothing_is_left_on_a_host(place: Path, server: Server, text: bytes) -> None:
    # The program's folder for this run alone: in that of all of them, other tests make and leave theirs.
    own = place / "own"
    own.mkdir()
    made = own.stat().st_mtime_ns
    sent = b"TMPDIR=%s; export TMPDIR\n" % os.fsencode(own) + text
    run_via_ansible(inventory(place, server.line("a")), None, sent, place / "run", 5, False)
    assert record(place / "run", "a")["reach"] == "ok"
    assert own.stat().st_mtime_ns != made, "this is where it worked"
    assert list(own.iterdir()) == []
    assert not list(place.glob("ansible-home/tmp/*"))


@pytest.mark.parametrize(
    ("reach", "script", "told", "seconds"),
    [
        ("timeout", b"sleep 30", "no answer", 1),
        ("error", b"echo 'hostcheck: no room' >&2", "no room", 30),
        ("error", b"head -c 5000 /dev/urandom", "archive", 30),
    ],
)
def test_a_bad_ending_is_told(
    place: Path, server: Server, reach: str, script: bytes, told: str, seconds: float
) -> None:
    run_via_ansible(inventory(place, server.line("a")), None, script, place / "run", 5, False, seconds=seconds)
    assert record(place / "run", "a")["reach"] == reach
    assert told in str(record(place / "run", "a")["why"])


def test_the_command_line_judges_what_ansible_brought(place: Path, server: Server, dead: int) -> None:
    hosts = inventory(place, server.line("a") + server.line("dead", dead))
    argv = [*CLI, "audit", "--via", "ansible", "-i", str(hosts), "--run-dir", "run", "--format", "json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode in (1, 3), done.stderr
    fleet = json.loads(done.stdout)
    assert "Connection refused" in str(fleet["absent"])
    assert "PLAY RECAP" in done.stderr, "Ansible's progress goes to standard error"


INTERRUPTED = """\
import sys
from pathlib import Path
from hostcheck.fleet.ansible import run_via_ansible
run_via_ansible(Path("hosts.ini"), None, Path("program.sh").read_bytes(), Path("run"), 5, False)
"""


def test_an_interruption_keeps_what_came(place: Path) -> None:
    inventory(place, local("a", "b"))
    archive = base64.b64encode((HOSTS / "vm-2cpu.tar.gz").read_bytes()).decode()
    first = f"if mkdir {place}/first 2>/dev/null; then printf %s {archive} | base64 -d; else exec sleep 600; fi\n"
    (place / "program.sh").write_text(first)
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", INTERRUPTED], start_new_session=True, stderr=subprocess.DEVNULL
    )
    until(lambda: list((place / "run" / "replies").glob("*.json")) or child.poll() is not None)
    os.killpg(child.pid, signal.SIGINT)
    assert child.wait(120) != 0
    assert len(list((place / "run" / "hosts").glob("*.tar.gz"))) == 1


def test_a_host_key_that_is_not_known_is_refused(place: Path, server: Server, text: bytes) -> None:
    other = inventory(place, "", "known")
    line = server.line("a").replace(str(server.known), str(other))
    run_via_ansible(inventory(place, line), None, text, place / "run", 5, False)
    assert record(place / "run", "a")["reach"] == "host key"


def test_check_mode_reads_nothing_and_says_so(place: Path) -> None:
    done = play(place, inventory(place, local("a", "b")), "hostcheck.hostcheck.preflight", "--check")
    assert done.returncode == 0, done.stdout
    assert "would be run on 2 hosts" in done.stdout
    assert "no host has passed anything" in " ".join(done.stdout.split())
    assert "changed=0" in done.stdout
    assert not (place / "run").exists()


def test_the_playbook_audits_and_a_second_run_changes_nothing(place: Path) -> None:
    hosts = inventory(place, local("a", "b"))
    done = play(place, hosts, "hostcheck.hostcheck.audit")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed=0" in done.stdout
    assert read_archive(place / "run" / "hosts" / "a.tar.gz").readings
    first = (place / "run" / "hosts" / "a.tar.gz").stat().st_mtime_ns
    again = play(place, hosts, "hostcheck.hostcheck.audit")
    assert again.returncode == 0
    assert "changed=1" not in again.stdout
    assert (place / "run" / "hosts" / "a.tar.gz").stat().st_mtime_ns == first


DEPLOY = """\
- name: Leave out what is not fit
  ansible.builtin.import_playbook: hostcheck.hostcheck.preflight
  vars:
    audit_gate: info
- name: Deploy
  hosts: all
  gather_facts: false
  tasks:
    - name: Deploy
      ansible.builtin.debug:
        msg: deployed {{ inventory_hostname }}
"""


GATES = {
    "good": ["--only", "memory.overcommit", "--set=memory.overcommit=0"],
    "bad": ["--only", "memory.overcommit", "--set=memory.overcommit=2"],
    "unsure": ["--only", "memory.overcommit", "--only", "cpu.clocksource"],
    "empty": ["--only", "memory.swappiness"],
}


def without(check: str) -> str:
    """Return a recorded host, as base64, without what one check reads."""
    snapshot = host("vm-2cpu")
    unread = {probe.id for probe in load_checks()[check].probes()}
    kept = {id: reading for id, reading in snapshot.readings.items() if id not in unread}
    packed = io.BytesIO()
    write_archive(replace(snapshot, readings=kept), packed)
    return base64.b64encode(packed.getvalue()).decode()


def gate(place: Path, dead: int, **variables: object) -> subprocess.CompletedProcess[str]:
    """Run a playbook behind the gate, on hosts that all send a recorded archive."""
    (place / "deploy.yml").write_text(DEPLOY)
    (place / "recorded.sh").write_text(f"printf %s {without('cpu.clocksource')} | base64 -d\n")
    table: dict[str, dict[str, object]] = {
        name: {"ansible_connection": "local", "audit_gate_arguments": words} for name, words in GATES.items()
    }
    table["dead"] = {"ansible_host": "127.0.0.1", "ansible_port": dead}
    hosts = inventory(place, json.dumps({"all": {"hosts": table}}), "hosts.json")
    extra = {"audit_program": str(place / "recorded.sh"), **variables}
    return play(place, hosts, str(place / "deploy.yml"), **extra)


def deployed(done: subprocess.CompletedProcess[str]) -> set[str]:
    return set(re.findall(r"deployed (\w+)", done.stdout))


def test_preflight_holds_back_the_hosts_below_the_gate_alone(place: Path, dead: int) -> None:
    done = gate(place, dead)
    assert done.returncode == 2, done.stdout + done.stderr
    assert deployed(done) == {"good"}
    assert "vm.overcommit_memory" in done.stdout
    assert "hostcheck: dead: unreachable" in done.stdout


def test_what_is_allowed_to_be_unknown_is_not_a_host_of_which_nothing_is_known(place: Path, dead: int) -> None:
    assert deployed(gate(place, dead, audit_allow_unknown=True)) == {"good", "unsure"}


def test_preflight_can_stop_everything(place: Path, dead: int) -> None:
    done = gate(place, dead, audit_all_or_nothing=True)
    assert done.returncode == 2
    assert not deployed(done)
    assert "Below the gate: " in done.stdout


def test_an_inventory_gives_targets_and_no_secret(place: Path) -> None:
    lines = (
        "[gpu]\nn[01:03] ansible_password=hunter2 ansible_port=2222 ansible_host=10.0.0.1\n"
        "[cpu]\nc1 ansible_user=me ansible_become_password=hunter3\n"
        "[site:children]\ngpu\n[gpu:vars]\nhostcheck_role=training\nsecret_token=hunter4\n"
    )
    path = inventory(place, lines)
    found = {target.name: target for target in read_inventory(path, None)}
    assert sorted(found) == ["c1", "n01", "n02", "n03"]
    first = found["n01"]
    assert (first.address, first.user, first.port) == ("10.0.0.1", None, 2222)
    assert first.groups == ("gpu", "site")
    assert dict(first.variables) == {"hostcheck_role": "training"}
    assert (found["c1"].address, found["c1"].user, found["c1"].port) == ("c1", "me", None)
    assert "hunter" not in repr(found)
    assert [target.name for target in read_inventory(path, "site:!n02")] == ["n01", "n03"]
    with pytest.raises(HostcheckError, match="no host matches --limit nobody"):
        read_inventory(path, "nobody")


def test_yaml_and_script_inventories_are_read(place: Path) -> None:
    yaml = inventory(place, "all:\n  children:\n    gpu:\n      hosts:\n        y1: {ansible_port: 22}\n", "hosts.yml")
    (only,) = read_inventory(yaml, None)
    assert (only.name, only.port, only.groups) == ("y1", 22, ("gpu",))
    script = inventory(place, '#!/bin/sh\necho \'{"gpu": {"hosts": ["s1"]}, "_meta": {"hostvars": {}}}\'\n', "dynamic")
    script.chmod(0o755)
    assert [target.name for target in read_inventory(script, "gpu")] == ["s1"]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("[gpu]\nn1 ansible_password=my hunter2\n", "cannot read this inventory"),
        ("[gpu]\nn1 ansible_host='{{ hunter2 }}.example'\n", "ansible_host is a template"),
        ("[gpu]\nn1 ansible_port=hunter2\n", "ansible_port is not a port"),
        ("[gpu]\nn1 ansible_host='$(hunter2)'\n", "ansible_host is no host name"),
        ("[gpu]\nn1 ansible_user='a;hunter2'\n", "ansible_user is no user name"),
        ("[gpu]\n", "no host in this inventory"),
    ],
)
def test_a_bad_inventory_is_refused_without_quoting_it(
    place: Path, lines: str, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(HostcheckError, match=told) as caught:
        read_inventory(inventory(place, lines), None)
    assert "hunter2" not in str(caught.value) + "".join(capfd.readouterr())


def test_an_address_that_only_ansible_resolves_is_no_hindrance_to_ansible(place: Path) -> None:
    path = inventory(place, "[gpu]\nn1 ansible_host='{{ rack }}.example' ansible_port=hunter2\n")
    (only,) = read_inventory(path, None, connect=False)
    assert (only.name, only.address, only.port, only.groups) == ("n1", "n1", None, ("gpu",))


def test_without_ansible_it_is_said_what_to_install(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(place / "python"))
    monkeypatch.setenv("PATH", str(place))
    with pytest.raises(HostcheckError, match=r"'\.\[ansible\]'"):
        read_inventory(inventory(place, local("a")), None)


def test_the_collection_is_clean_and_builds(place: Path) -> None:
    at = place / "ansible_collections" / "hostcheck" / "hostcheck"
    shutil.copytree(COLLECTION, at)
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(place), "NO_COLOR": "1"}
    for argv in (
        [tool("ansible-lint"), "--offline", "--nocolor"],
        [tool("yamllint"), "--strict", "."],
        [tool("ansible-galaxy"), "collection", "build", "--output-path", str(place)],
        [tool("ansible-doc"), "--type", "module", "hostcheck.hostcheck.keep"],
        [tool("ansible-doc"), "--type", "role", "hostcheck.hostcheck.audit"],
    ):
        done = subprocess.run(argv, cwd=at, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (place / "hostcheck-hostcheck-0.1.0.tar.gz").exists()
