"""`hostcheck audit TARGETS` and `hostcheck fleet`, as a person meets them, over real sshd processes."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sshlab
from hostcheck.cli.fleet import show
from hostcheck.errors import HostcheckError
from hostcheck.fleet.store import Store
from hostcheck.fleet.targets import Target
from sshlab import HOSTILE, Lab
from waiting import until

MANY = 64
ONLY = ("--only", "memory.swappiness", "--only", "platform")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    sshlab.require()
    with sshlab.lab() as built:
        yield built


def command(*arguments: str | Path) -> list[str]:
    words = [str(argument) for argument in arguments]
    return [sys.executable, "-P", "-c", "from hostcheck.cli.main import main; main()", *words]


def hostcheck(*arguments: str | Path, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "100"}
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=120, env=environment, input=stdin, check=False,
        cwd=cwd,
    )  # fmt: skip


def fleet_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode in (0, 1, 3), done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert not (document["absent"] and done.returncode == 0), "an absent host is no pass"
    return document


def reaches(document: dict[str, Any]) -> dict[str, str]:
    return {**dict.fromkeys(document["runs"], "ok"), **{one["name"]: one["reach"] for one in document["absent"]}}


def test_one_host_is_shown_as_this_one_would_be(lab: Lab, tmp_path: Path) -> None:
    host = lab.host("one")
    done = hostcheck("audit", host.address, "--ssh-config", lab.config, "--format", "json", cwd=tmp_path)
    assert done.returncode in (0, 1, 3), done.stderr
    run = json.loads(done.stdout)
    assert run["host"]["name"] == host.address
    assert run["host"]["privileged"]
    assert len(run["results"]) >= 45
    assert list(tmp_path.iterdir()) == []
    page = tmp_path / "page.html"
    shown = hostcheck("audit", f"root@{host.address}:22", "--ssh-config", lab.config, *ONLY, "-o", page, cwd=tmp_path)
    assert shown.returncode in (0, 1, 3), shown.stderr
    assert page.read_text().lower().startswith("<!doctype")


def test_one_host_that_does_not_answer_is_undetermined(lab: Lab, tmp_path: Path) -> None:
    host = lab.host("closed", listen=False)
    done = hostcheck("audit", host.address, "--ssh-config", lab.config, "--retries", "0", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stdout == ""
    assert f"{host.address}: unreachable: " in done.stderr
    assert "connection refused" in done.stderr


def test_sixty_four_hosts_and_what_can_be_wrong_with_some(lab: Lab, tmp_path: Path) -> None:
    for number in range(MANY):
        lab.host(f"many{number}")
    good = [lab.hosts[f"many{number}"].address for number in range(MANY)]
    closed = lab.host("closed", listen=False)
    stranger = lab.host("stranger", known=False)
    bomb = lab.host("bomb", command=f"{HOSTILE} cat /dev/zero")
    liar = lab.host("liar", command=f"{HOSTILE} echo not an archive")
    odd = {closed.address: "unreachable", stranger.address: "host key", bomb.address: "too much", liar.address: "error"}
    run = tmp_path / "run"
    options = ("--ssh-config", lab.config, *ONLY, "--format", "json", "--retries", "0")
    listed = "\n".join([*good[8:], "# and those", *odd])
    words = (*good[:8], good[0], f"root@{good[1]}")
    done = hostcheck("audit", *words, "-", *options, "--run-dir", run, cwd=tmp_path, stdin=listed)
    first = fleet_of(done)
    assert reaches(first) == {**dict.fromkeys(good, "ok"), **odd}
    assert str(run) in done.stderr
    assert sum(path.stat().st_size for path in run.rglob("*")) < 4 * 1024 * 1024
    assert run.stat().st_mode & 0o077 == 0

    again = hostcheck("fleet", "show", run, *ONLY, "--format", "json", cwd=tmp_path)
    assert again.returncode == done.returncode
    assert fleet_of(again) == first
    text = hostcheck("fleet", "show", run, *ONLY, cwd=tmp_path)
    assert "connection refused" in " ".join(text.stdout.split())
    assert "\x1b" not in text.stdout

    one = hostcheck("fleet", "show", run, *ONLY, "--host", good[0], "--format", "json", cwd=tmp_path)
    assert json.loads(one.stdout) == first["runs"][good[0]]
    absent = hostcheck("fleet", "show", run, "--host", stranger.address, cwd=tmp_path)
    assert absent.returncode == 3
    assert "host key" in absent.stderr
    nobody = hostcheck("fleet", "show", run, "--host", "gpu1", cwd=tmp_path)
    assert nobody.returncode == 2

    lab.know(stranger)
    lab.start(closed)
    before = {path.name: path.stat().st_mtime_ns for path in (run / "hosts").glob("*.tar.gz")}
    resumed = hostcheck("audit", "--resume", run, *options, cwd=tmp_path)
    left = {bomb.address: "too much", liar.address: "error"}
    now = reaches(fleet_of(resumed))
    assert now == {**dict.fromkeys([*good, closed.address, stranger.address], "ok"), **left}
    after = {path.name: path.stat().st_mtime_ns for path in (run / "hosts").glob("*.tar.gz")}
    assert {name: after[name] for name in before} == before
    assert len(after) == MANY + 2


def test_a_resumed_run_answers_the_same_question(lab: Lab, tmp_path: Path) -> None:
    host, run = lab.host("one"), tmp_path / "run"
    options = ("--ssh-config", lab.config, "--run-dir", run)
    assert hostcheck("audit", host.address, *options, *ONLY, cwd=tmp_path).returncode in (0, 1, 3)
    other = hostcheck("audit", "--resume", run, "--ssh-config", lab.config, "--only", "kernel", cwd=tmp_path)
    assert other.returncode == 2
    assert "answers are to another program" in other.stderr
    taken = hostcheck("audit", host.address, *options, *ONLY, cwd=tmp_path)
    assert taken.returncode == 2
    assert "--resume" in taken.stderr


def test_ctrl_c_keeps_what_came_and_says_how_to_go_on(lab: Lab, tmp_path: Path) -> None:
    hosts = [lab.host(f"many{number}").address for number in range(3)]
    slow = lab.host("slow", command="sleep 600").address
    run = tmp_path / "run"
    running = subprocess.Popen(
        command("audit", *hosts, slow, "--ssh-config", lab.config, "--run-dir", run, *ONLY),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    until(lambda: len(list(run.glob("hosts/*.json"))) == len(hosts))
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert "interrupted; 3 of 4 hosts answered" in err
    assert f"hostcheck audit --resume {run}" in err
    shown = hostcheck("fleet", "show", run, *ONLY, "--format", "json", cwd=tmp_path)
    assert shown.returncode in (1, 3)
    assert reaches(json.loads(shown.stdout)) == {**dict.fromkeys(hosts, "ok"), slow: "not asked"}


def test_a_time_limit_holds_for_each_host(lab: Lab, tmp_path: Path) -> None:
    good, slow = lab.host("one").address, lab.host("slow", command="sleep 600").address
    options = ("--ssh-config", lab.config, *ONLY, "--format", "json", "--host-timeout", "15")
    found = reaches(fleet_of(hostcheck("audit", good, slow, *options, cwd=tmp_path)))
    assert found == {good: "ok", slow: "timeout"}
    assert len(list(tmp_path.glob("hostcheck-runs/20*"))) == 1


def test_two_fifths_are_dead_and_one_crawls_and_the_others_do_not_notice(lab: Lab, tmp_path: Path) -> None:
    good = [lab.host(f"lives{number}").address for number in range(5)]
    dead = [lab.host(f"dead{number}", listen=False).address for number in range(4)]
    crawls = lab.host("crawls", command="sleep 8; exec sh -s").address
    options = ("--ssh-config", lab.config, *ONLY, "--format", "json", "--retries", "0", "--run-dir", "run")
    done = hostcheck("audit", crawls, *dead, *good, *options, cwd=tmp_path)
    assert reaches(fleet_of(done)) == {**dict.fromkeys([*good, crawls], "ok"), **dict.fromkeys(dead, "unreachable")}
    filed = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run/hosts").glob("*.json")}
    assert len(filed) == 10
    assert max(filed, key=filed.__getitem__) == f"{crawls}.json"


@pytest.mark.parametrize("via", ["ssh", "ansible"])
def test_an_inventory_by_either_way(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, via: str) -> None:
    monkeypatch.setenv("PATH", os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    if shutil.which("ansible-playbook") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("ansible-core is not here: pip install '.[dev]'")
    monkeypatch.setenv("ANSIBLE_HOME", str(tmp_path / "ansible"))
    one, two = lab.host("one").address, lab.host("many0").address
    inventory, run = tmp_path / "hosts.ini", tmp_path / "run"
    inventory.write_text(
        f"[train]\ng1 ansible_host={one}\n[serve]\ng2 ansible_host={two}\nhere ansible_connection=local\n"
        f"[all:vars]\nansible_user=root\nansible_password=hunter2\nansible_ssh_common_args=-F {lab.config}\n"
    )
    way = ("--via", "ansible") if via == "ansible" else ("--ssh-config", lab.config)
    options = ("--run-dir", run, *ONLY, "--role-for", "serve=inference", "--format", "json")
    found = fleet_of(hostcheck("audit", "-i", inventory, *way, *options, cwd=tmp_path))
    assert reaches(found) == dict.fromkeys(("g1", "g2", "here"), "ok")
    assert [found["runs"][name]["role"] for name in ("g1", "g2", "here")] == ["training", "inference", "inference"]
    assert not [path for path in run.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]


def test_judging_a_fleet_collects_garbage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line runs without the collector, and 512 hosts held 318 MB in place of 40 that way."""

    def judge_fleet(*arguments: object, **options: object) -> None:
        raise HostcheckError("collecting" if gc.isenabled() else "not collecting")

    monkeypatch.setattr("hostcheck.fleet.answers.judge_fleet", judge_fleet)
    store = Store(tmp_path)
    store.begin([Target("a", "a"), Target("b", "b")], b"program")
    gc.disable()
    try:
        with pytest.raises(HostcheckError, match=r"^collecting"):
            show.main([str(tmp_path)], standalone_mode=False)
    finally:
        gc.enable()
        store.close()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("audit", "gpu[1-"), "missing bracket"),
        (("audit", "gpu1", "--from", "x.tar.gz"), "one or the other"),
        (("audit", "--become"), "--become is for other hosts, and none is named"),
        (("audit", "--limit", "gpu"), "--limit is for other hosts"),
        (("audit", "gpu[1-2]", "-o", "page.html"), "a fleet is shown as text, json"),
        (("audit", "gpu[1-2]", "--role-for", "gpu=training"), "no host is in group 'gpu'"),
        (("audit", "gpu1", "--password-env", "NOWHERE"), "no such environment variable"),
        (("audit", "gpu1", "--password-fd", "77"), "Bad file descriptor"),
        (("audit", "gpu1", "--password-fd", "0"), "the password is empty"),
        (("audit", "gpu1", "--ask-password", "--password-fd", "0"), "one of them"),
        (("audit", "gpu1", "--ask-become-password"), "is for --become"),
        (("audit", "gpu1", "--via", "ansible"), "-i FILE"),
        (("audit", "gpu1", "--ssh-config", "nowhere"), "no such file"),
        (("audit", "--resume", "nowhere"), "not a run directory"),
        (("audit", "-"), "no host is named"),
        (("fleet", "show", "nowhere"), "not a run directory"),
    ],
)
def test_what_is_not_right_is_refused_in_one_line(arguments: tuple[str, ...], complaint: str, tmp_path: Path) -> None:
    done = hostcheck(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
