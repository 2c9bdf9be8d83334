"""`hostcheck tune` as a person meets it: a real kernel setting and real files, in mount and network namespaces.

vm.max_map_count belongs to the machine as a whole; it is only ever raised here, and put back.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import tunelab
from waiting import until

SETTING = Path("/proc/sys/vm/max_map_count")
NAME = "memory.max-map-count"
DROP_IN = "/etc/sysctl.d/90-hostcheck-vm.max_map_count.conf"
LOW = "65530"
ONLY = ("--only", NAME)
MOUNTS = "\n".join([
    "mount -t tmpfs -o mode=755 t /var/lib",
    "mkdir -p /etc/sysctl.d && mount -t tmpfs -o mode=755 t /etc/sysctl.d",
])  # fmt: skip


@dataclass
class Machine:
    """This machine, as somebody in private namespaces of it sees it."""

    prefix: list[str]
    folder: Path

    def words(self, *arguments: str | Path) -> list[str]:
        code = "import sys; from hostcheck.cli.main import main; sys.argv[0] = 'hostcheck'; main()"
        return [*self.prefix, sys.executable, "-P", "-c", code, *map(str, arguments)]

    def tune(self, *arguments: str | Path, stdin: str = "", code: int | None = None, **environment: str) -> str:
        """Run `hostcheck tune`; return what it printed, with standard error behind it."""
        done = self.run("tune", *arguments, stdin=stdin, **environment)
        assert "Traceback" not in done.stderr, done.stderr
        assert code is None or done.returncode == code, f"{done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def run(self, *arguments: str | Path, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(*arguments), capture_output=True, text=True, timeout=120, input=stdin, check=False,
            cwd=self.folder, env={**os.environ, "NO_COLOR": "1", "COLUMNS": "100", **environment},
        )  # fmt: skip

    def sh(self, line: str) -> str:
        return subprocess.run(
            [*self.prefix, "sh", "-c", line], capture_output=True, text=True, check=True, timeout=180
        ).stdout

    def state(self) -> str:
        """Return all that these tests could alter, to the byte."""
        return SETTING.read_text() + self.sh(
            "ls -lA --time-style=+ /etc/sysctl.d; cat /etc/sysctl.d/* 2>/dev/null || :"
        )

    def plan(self, name: str = "plan.json", **changes: Any) -> Path:
        """Write a plan, with fields of its first change edited; return its file."""
        path = self.folder / name
        self.tune("plan", *ONLY, "-o", path, code=1)
        table = json.loads(path.read_text())
        assert table["changes"][0]["target"] == str(SETTING)
        table["changes"][0].update(changes)
        path.write_text(json.dumps(table))
        return path


@pytest.fixture(scope="module")
def namespaces() -> Iterator[list[str]]:
    with tunelab.inside(MOUNTS) as prefix:
        yield prefix


@pytest.fixture
def machine(namespaces: list[str], tmp_path: Path) -> Iterator[Machine]:
    with Path(tempfile.gettempdir(), "hostcheck-real-settings.lock").open("w") as lock:
        # The setting is that of the whole machine, and other tests may run beside this one.
        fcntl.flock(lock, fcntl.LOCK_EX)
        original = SETTING.read_text()
        SETTING.write_text(LOW)
        found = Machine(namespaces, tmp_path)
        found.sh("rm -rf /var/lib/hostcheck /etc/sysctl.d/*")
        try:
            yield found
        finally:
            SETTING.write_text(original)


def test_from_the_plan_to_the_rollback_everything_is_as_before(machine: Machine) -> None:
    before = machine.state()
    shown = machine.tune(*ONLY, code=1)
    assert f"{SETTING}: 65530 -> 262144 (until the next boot)" in shown
    assert f"{DROP_IN}: new file (kept over a reboot)" in shown
    assert "Nothing has been changed" in " ".join(shown.split())
    assert machine.state() == before
    done = machine.tune("apply", *ONLY, "--yes", code=0)
    assert "changed, and verified" in done
    assert f"Passes now: {NAME}" in done
    assert SETTING.read_text() == "262144\n"
    assert "vm.max_map_count = 262144" in machine.sh(f"cat {DROP_IN}")
    assert "nothing to change" in machine.tune(*ONLY, code=0)
    again = machine.tune("apply", *ONLY, "--yes", code=0)
    assert "nothing to do" in again
    assert "committed" in machine.tune("history", code=0)
    assert "changed, and verified" in machine.tune("verify", code=0)
    back = machine.tune("rollback", "--yes", code=0)
    assert "2 changes taken back" in back
    assert machine.state() == before
    assert "nothing to do" in machine.tune("rollback", "--yes", code=0)
    assert machine.state() == before
    assert "rolled back" in machine.tune("history", code=0)
    assert "nothing to do" in machine.tune("recover", code=0)


def test_tune_alone_plans_and_takes_the_options_of_plan(machine: Machine) -> None:
    # The first line holds the time.
    assert machine.tune().splitlines()[1:] == machine.tune("plan").splitlines()[1:]
    assert NAME not in machine.tune(
        "--only", NAME, "--max-risk", "low", "--persistent-only", "--severity", "critical", code=0
    )
    runtime = machine.tune(*ONLY, "--runtime-only", code=1)
    assert DROP_IN not in runtime
    lasting = machine.tune(*ONLY, "--persistent-only", code=1)
    assert f"{SETTING}:" not in lasting
    assert "hostcheck tune plan gpu07" in machine.tune("gpu07", code=2)
    assert "did you mean 'apply'" in machine.tune("aply", code=2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("plan", "--only", "memory.max-map-cuont"), "did you mean 'memory.max-map-count'"),
        (("plan", "--runtime-only", "--persistent-only"), "one of them"),
        (("plan", "--role", "cook"), "none of"),
        (("plan", "--from", "nowhere.tar.gz"), "nowhere.tar.gz"),
        (("plan", "--become"), "--become is for other hosts"),
        (("apply", "--only", NAME), "there is no terminal to ask on"),
        (("apply", "none.json", "--yes"), "none.json: No such file"),
        (("apply", "a.json", "b.json", "--yes"), "one plan at a time"),
        (("rollback",), "there is no terminal to ask on: look at hostcheck tune history, then say --yes"),
        (("rollback", "99999999999", "--yes"), "is no transaction"),
        (("verify", "7"), "there is no transaction 7"),
    ],
)
def test_bad_input_is_one_line_and_code_2(machine: Machine, arguments: Sequence[str], says: str) -> None:
    before = machine.state()
    done = machine.run("tune", *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1
    assert says in lines[0]
    assert machine.state() == before


def test_the_program_is_there_to_read_and_does_the_same(machine: Machine) -> None:
    program = machine.run("tune", "plan", *ONLY, "--program").stdout
    assert "# 1. a process may have many memory mappings" in program
    before = machine.state()
    done = subprocess.run([*machine.prefix, "sh", "-s"], input=program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert SETTING.read_text() == "262144\n"
    machine.tune("rollback", "--yes", code=0)
    assert machine.state() == before
    path = machine.folder / "do.sh"
    machine.tune("plan", *ONLY, "--program", "-o", path, code=1)
    assert path.read_text().splitlines()[2:] == program.splitlines()[2:], "only the time differs"


def test_a_plan_in_each_form(machine: Machine) -> None:
    table = json.loads(machine.run("tune", "plan", *ONLY, "--format", "json").stdout)
    assert [change["target"] for change in table["changes"]] == [str(SETTING), DROP_IN]
    assert table["machine"] == Path("/etc/machine-id").read_text().strip()
    page = machine.run("tune", "plan", *ONLY, "--format", "md").stdout
    assert page.startswith("# What hostcheck would change")
    assert "`/proc/sys/vm/max_map_count`: `65530 -> 262144`" in page
    saved = machine.folder / "plan.json"
    told = machine.run("tune", "plan", *ONLY, "-o", saved)
    assert (told.stdout, told.returncode) == ("", 1)
    assert "2 changes" in told.stderr
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    assert json.loads(saved.read_text())["changes"] == table["changes"]
    assert machine.run("tune", "plan", *ONLY, "-o", machine.folder / "plan.md").stdout == ""
    assert (machine.folder / "plan.md").read_text().startswith("# What")


def test_a_plan_that_was_edited_by_hand_is_applied_as_it_stands(machine: Machine) -> None:
    path = machine.plan(after="300000")
    machine.tune("apply", path, "--yes", code=0)
    assert SETTING.read_text() == "300000\n"
    machine.tune("rollback", "--yes", code=0)
    assert SETTING.read_text() == f"{LOW}\n"


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"afer": "1"}, 2, "changes[0].afer: unknown field"),
        ({"target": "/etc/passwd"}, 2, "changes[0]: target '/etc/passwd'"),
        ({"after": "65530"}, 2, "before and after are the same"),
        ({"before": "70000"}, 3, "is now 65530, and was 70000 when the plan was made"),
        ({"after": "-1"}, 4, "Invalid argument"),
        ({"after": "many"}, 4, "Invalid argument"),
        ({"after": "65531"}, 4, f"did not verify: {NAME}: fail"),
        ({"after": "65531"}, 4, f"{NAME}: vm.max_map_count is 65,531, expected at least 262,144"),
        ({"after": "$(touch /etc/sysctl.d/ran)"}, 4, "Invalid argument"),
        ({"target": "/proc/sys/vm/there_is_none"}, 3, "is not there"),
    ],
)
def test_what_cannot_be_or_does_not_help_leaves_everything_as_it_was(
    machine: Machine, changes: dict[str, Any], code: int, says: str
) -> None:
    before = machine.state()
    path = machine.plan(**changes)
    assert says in " ".join(machine.tune("apply", path, "--yes", code=code).split())
    assert machine.state() == before


def test_only_what_did_not_verify_is_taken_back(machine: Machine) -> None:
    """A change of another tuner in the same transaction stays, and can be taken back later."""
    path = machine.plan(after="65531")
    table = json.loads(path.read_text())
    other = {
        **table["changes"][1], "target": "/etc/sysctl.d/90-hostcheck-other.conf", "tuner": "kernel.other", "fixes": [],
    }  # fmt: skip
    path.write_text(json.dumps({**table, "changes": [*table["changes"], other]}))
    before = machine.state()
    said = " ".join(machine.tune("apply", path, "--yes", code=4).split())
    assert "taken back in part" in said
    assert "1 change stays, 2 changes taken back" in said
    assert SETTING.read_text() == f"{LOW}\n"
    assert machine.sh("ls /etc/sysctl.d").split() == ["90-hostcheck-other.conf"]
    machine.tune("rollback", "--yes", code=0)
    assert machine.state() == before


def test_what_does_not_verify_stays_where_that_is_wanted(machine: Machine) -> None:
    path = machine.plan(after="65531")
    said = machine.tune("apply", path, "--yes", "--keep-unverified", code=4)
    assert "not verified: kept" in said
    assert SETTING.read_text() == "65531\n"
    (host,) = json.loads(machine.run("tune", "verify", "--format", "json").stdout)["hosts"]
    assert host["unmended"] == {NAME: "fail"}
    (finding,) = host["findings"][NAME]
    assert (finding["status"], finding["observed"], finding["expected"]["text"]) == ("fail", 65531, "at least 262,144")
    machine.tune("rollback", "--yes", code=0)
    assert SETTING.read_text() == f"{LOW}\n"


@pytest.mark.parametrize(
    ("field", "value", "code", "says"),
    [
        ("machine", "0" * 32, 2, "it holds no plan for"),
        ("machine", "", 2, "applied nowhere"),
        ("schema", 0, 2, "make the plan anew"),
        ("schema", 2, 2, "schema 2"),
        ("role", "cook", 2, "its role 'cook'"),
        ("boot", "11111111-2222-3333-4444-555555555555", 3, "started anew since the plan was made"),
    ],
)
def test_a_plan_of_another_host_or_version_is_refused(
    machine: Machine, field: str, value: Any, code: int, says: str
) -> None:
    path = machine.plan()
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    before = machine.state()
    assert says in " ".join(machine.tune("apply", path, "--yes", code=code).split())
    assert machine.state() == before


def test_a_redacted_snapshot_gives_a_plan_to_look_at(machine: Machine) -> None:
    taken = machine.folder / "taken.tar.gz"
    machine.run("collect", "--redact", "-o", taken)
    path = machine.folder / "plan.json"
    machine.tune("plan", "--from", taken, "-o", path)
    assert json.loads(path.read_text())["machine"] == ""
    assert "applied nowhere" in machine.tune("apply", path, "--yes", code=2)


def test_a_saved_snapshot_gives_a_plan_that_can_be_applied(machine: Machine) -> None:
    taken = machine.folder / "taken.tar.gz"
    assert machine.run("collect", "-o", taken).returncode == 0
    path = machine.folder / "plan.json"
    machine.tune("plan", "--from", taken, *ONLY, "-o", path, code=1)
    machine.tune("apply", path, "--yes", code=0)
    machine.tune("rollback", "--yes", code=0)


def test_an_option_narrows_a_plan_that_was_made(machine: Machine) -> None:
    path = machine.plan()
    machine.tune("apply", path, "--runtime-only", "--yes", code=0)
    assert SETTING.read_text() == "262144\n"
    assert machine.sh("ls /etc/sysctl.d") == ""
    machine.tune("rollback", "--yes", code=0)


def asked(machine: Machine, key: str, *arguments: str | Path) -> tuple[int, str]:
    """Run it on a terminal, and press a key when it asks; more than once, as people do, where nothing comes of it."""
    ours, theirs = pty.openpty()
    words = ["setsid", "--ctty", *machine.words("tune", *arguments)]
    environment = {**os.environ, "NO_COLOR": "1", "TERM": "xterm", "COLUMNS": "100"}
    said, pressed, deadline = "", 0.0, time.monotonic() + 120
    with subprocess.Popen(
        words, stdin=theirs, stdout=theirs, stderr=theirs, cwd=machine.folder, env=environment
    ) as run:
        os.close(theirs)
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 0.2)[0]:
                try:
                    said += os.read(ours, 65536).decode()
                except OSError:
                    break
            if "[y/N]" in said and time.monotonic() - pressed > 2:
                assert pressed or SETTING.read_text() == f"{LOW}\n", "nothing happens before the answer"
                os.write(ours, key.encode())
                pressed = time.monotonic()
        os.close(ours)
        if time.monotonic() >= deadline:
            run.kill()
    return run.returncode, said.replace("\r", "")


def test_on_a_terminal_it_shows_the_plan_and_asks_once(machine: Machine) -> None:
    code, said = asked(machine, "n\n", "apply", *ONLY)
    assert code == 2
    assert said.index("65530 -> 262144") < said.index("Make these changes? [y/N]")
    assert "nothing was changed" in said
    assert SETTING.read_text() == f"{LOW}\n"
    code, said = asked(machine, "\x03", "apply", *ONLY)
    assert code == 130
    assert SETTING.read_text() == f"{LOW}\n"
    code, said = asked(machine, "y\n", "apply", *ONLY)
    assert code == 0
    assert said.count("[y/N]") == 1
    assert SETTING.read_text() == "262144\n"


def test_two_at_once_are_one_after_the_other_or_one_is_refused(machine: Machine) -> None:
    machine.tune("history")
    machine.tune("apply", *ONLY, "--yes", code=0)
    machine.tune("rollback", "--yes", code=0)
    before = machine.state()
    path = machine.plan()
    holder = subprocess.Popen([*machine.prefix, "flock", "--no-fork", "/var/lib/hostcheck/lock", "sleep", "600"])
    try:
        free = [*machine.prefix, "flock", "--nonblock", "/var/lib/hostcheck/lock", "true"]
        until(lambda: subprocess.run(free, check=False).returncode)
        said = machine.tune("apply", path, "--yes", code=3)
        assert "refused: nothing was changed" in said
        assert machine.state() == before
    finally:
        holder.kill()
        holder.wait()


def test_somebody_who_changed_it_since_keeps_the_last_word(machine: Machine) -> None:
    machine.tune("apply", *ONLY, "--yes", code=0)
    SETTING.write_text("500000")
    said = machine.tune("rollback", "--yes", code=4)
    assert "is now 500000" in said
    assert "somebody changed it since" in said
    assert SETTING.read_text() == "500000\n"
    assert machine.sh("ls /etc/sysctl.d") == ""


def test_verify_notices_what_was_undone_behind_its_back(machine: Machine) -> None:
    machine.tune("apply", *ONLY, "--yes", code=0)
    SETTING.write_text(LOW)
    said = machine.tune("verify", code=4)
    assert f"{NAME}: fail" in said
    machine.tune("rollback", "--yes")


def test_an_older_transaction_after_a_newer_one_is_refused_or_both_are_taken(machine: Machine) -> None:
    before = machine.state()
    machine.tune("apply", *ONLY, "--yes", code=0)
    machine.tune("apply", *ONLY, "--set", f"{NAME}=400000", "--yes", code=0)
    assert SETTING.read_text() == "400000\n"
    said = machine.tune("rollback", "1", "--yes", code=3)
    assert "transaction 2 changed the same after it" in " ".join(said.split())
    assert SETTING.read_text() == "400000\n"
    machine.tune("rollback", "1", "--with-newer", "--yes", code=0)
    assert machine.state() == before


def test_where_its_drop_in_belongs_to_the_operator_it_stays_out(machine: Machine) -> None:
    machine.sh("echo '# Ansible managed\nvm.max_map_count = 65530' >/etc/sysctl.d/50-site.conf")
    said = machine.tune(*ONLY, code=0)
    assert "LEFT ALONE" in said
    assert "/etc/sysctl.d/50-site.conf (managed by Ansible)" in " ".join(said.split())


def test_a_user_plans_with_what_can_be_read_and_applies_nothing(machine: Machine) -> None:
    before = machine.state()
    # An account cannot enter the checkout of a developer everywhere; where it cannot, there is nothing to see.
    user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    inner = Machine([*machine.prefix, *user], Path("/"))
    if inner.run("--version").returncode != 0:
        pytest.skip("another account cannot run this Python")
    said = inner.tune(*ONLY)
    assert "max_map_count: 65530 -> 262144" in said
    done = inner.run("tune", "apply", *ONLY, "--yes")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "refused: nothing was changed" in done.stdout
    assert inner.run("tune", "history").returncode in (0, 3)
    assert machine.state() == before


def test_a_plan_says_first_what_was_not_brought_to_an_end(machine: Machine) -> None:
    machine.tune("apply", *ONLY, "--yes", code=0)
    machine.sh("touch /var/lib/hostcheck/tx/1/open")
    kept = machine.sh("ls -lR --time-style=full-iso /var/lib/hostcheck")
    shown = machine.tune(*ONLY, code=3)
    assert "Transaction 1 was not brought to an end: run hostcheck tune recover" in shown.splitlines()[1]
    assert json.loads(machine.tune("plan", *ONLY, "--format", "json", code=3))["unfinished"] == ["1"]
    user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    inner = Machine([*machine.prefix, *user], Path("/"))
    if inner.run("--version").returncode == 0:  # another account cannot run every checkout
        assert "brought to an end" not in inner.tune(*ONLY)
    assert machine.sh("ls -lR --time-style=full-iso /var/lib/hostcheck") == kept
    machine.tune("recover", code=0)
    assert "brought to an end" not in machine.tune(*ONLY, code=0)
    machine.tune("rollback", "--yes", code=0)


def test_json_of_everything(machine: Machine) -> None:
    applied = json.loads(machine.run("tune", "apply", *ONLY, "--yes", "--format", "json").stdout)
    assert applied["code"] == 0
    assert [(host["how"], host["made"], host["mended"]) for host in applied["hosts"]] == [("verified", 2, [NAME])]
    history = json.loads(machine.run("tune", "history", "--format", "json").stdout)
    (transactions,) = history["hosts"].values()
    assert [(one["id"], one["end"]) for one in transactions] == [("1", "committed")]
    assert [step["state"] for step in transactions[0]["steps"]] == ["applied", "applied"]
    assert json.loads(machine.run("tune", "verify", "--format", "json").stdout)["code"] == 0
    back = json.loads(machine.run("tune", "rollback", "--yes", "--format", "json").stdout)
    assert [(host["how"], host["undone"]) for host in back["hosts"]] == [("rolled-back", 2)]
    assert json.loads(machine.run("tune", "recover", "--format", "json").stdout)["hosts"][0]["how"] == "nothing"


def test_measure_says_what_nothing_measures(machine: Machine) -> None:
    said = machine.tune("apply", *ONLY, "--yes", "--measure", code=0)
    assert f"nothing measures this yet: {NAME}" in said
    machine.tune("rollback", "--yes", code=0)


def test_measure_takes_samples_before_and_after(machine: Machine) -> None:
    """The setting has nothing to do with what is measured; that it is called a governor's makes it be measured."""
    path = machine.plan(tuner="cpu.governor", fixes=[])
    done = machine.run("tune", "apply", path, "--runtime-only", "--yes", "--measure", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert "measuring: one thread counts to 300,000 in sh" in done.stderr
    (row,) = json.loads(done.stdout)["measured"]
    assert (row["measure"], row["samples"], row["unit"]) == ("cpu.loop", 7, "s")
    assert 0.005 < row["before"] < 30
    assert 0.005 < row["after"] < 30
    assert row["verdict"] in ("improved", "worse", "no difference beyond the noise")
    machine.tune("rollback", "--yes", code=0)


def test_ctrl_c_does_not_leave_half_a_change(machine: Machine) -> None:
    """The program ends what it began, and what it did is judged as ever."""
    machine.sh("mkdir -p /var/lib/hostcheck")
    path = machine.plan()
    words = machine.words("tune", "apply", path, "--yes")
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        until(lambda: machine.sh("ls /var/lib/hostcheck/tx 2>/dev/null || :").strip())
        os.killpg(run.pid, signal.SIGINT)
        out, err = run.communicate(timeout=120)
    assert "Traceback" not in err, err
    assert "unfinished" not in machine.tune("history")
    transactions = json.loads(machine.run("tune", "history", "--format", "json").stdout)["hosts"]
    ends = [one["end"] for one in next(iter(transactions.values()))]
    assert ends in (["committed"], ["rolled-back"]), (out, err)
    assert (SETTING.read_text() == "262144\n") is (ends == ["committed"])


def test_completion_knows_tuners_and_subcommands(machine: Machine) -> None:
    def complete(*words: str) -> str:
        return machine.run(
            _HOSTCHECK_COMPLETE="bash_complete", COMP_WORDS=" ".join(["hostcheck", *words]), COMP_CWORD=str(len(words))
        ).stdout

    assert "plain,tune" in complete("tu")
    assert {"plain,apply", "plain,rollback"} <= set(complete("tune", "").split())
    assert f"plain,{NAME}" in complete("tune", "apply", "--only", "memory.max")
    assert "file,pl" in complete("tune", "apply", "pl")


def test_the_audit_ends_by_saying_what_tune_could_mend(machine: Machine) -> None:
    said = machine.run("audit", *ONLY).stdout
    assert "1 of these it may mend" in said
    run = json.loads(machine.run("audit", *ONLY, "--format", "json").stdout)
    findings = [finding for result in run["results"] if result["id"] == NAME for finding in result["findings"]]
    assert [finding["actor"] for finding in findings] == ["tune"]
    SETTING.write_text("262144")
    assert "it may mend" not in machine.run("audit", *ONLY).stdout


def test_explain_shows_the_tuner(machine: Machine) -> None:
    said = machine.run("explain", NAME).stdout
    assert f"hostcheck tune --only {NAME}" in said
    assert "Rollback" in said
    assert NAME in machine.run("list", "--tuners").stdout
    assert f'"id": "{NAME}"' in machine.run("list", "--tuners", "--format", "json").stdout


def test_help_of_each_command_teaches(machine: Machine) -> None:
    for word in ("plan", "apply", "verify", "rollback", "history", "recover"):
        done = machine.run("tune", word, "--help")
        assert done.returncode == 0
        assert len(done.stdout.splitlines()) > 5
    assert "hostcheck tune rollback" in machine.run("tune", "--help").stdout


def test_a_folder_can_stand_for_the_root(machine: Machine) -> None:
    """With HOSTCHECK_ROOT, the files of that folder are read and changed, and nothing of this machine."""
    root = machine.folder / "image"
    for path, text in {"etc/machine-id": f"{'a' * 32}\n", "proc/sys/vm/max_map_count": "65530\n"}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    for path in ("proc/cpuinfo", "proc/version", "proc/sys/kernel/osrelease", "proc/self/mountinfo", "etc/os-release"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(Path(f"/{path}").read_text())
    (root / "var/lib").mkdir(parents=True)
    before = machine.state()
    here = {"HOSTCHECK_ROOT": str(root)}
    assert "65530 -> 262144" in machine.tune(*ONLY, code=1, **here)
    assert "changed, and verified" in machine.tune("apply", *ONLY, "--yes", code=0, **here)
    assert (root / "proc/sys/vm/max_map_count").read_text() == "262144\n"
    assert "vm.max_map_count = 262144" in (root / DROP_IN[1:]).read_text()
    machine.tune("rollback", "--yes", code=0, **here)
    assert (root / "proc/sys/vm/max_map_count").read_text() == "65530\n"
    assert not (root / DROP_IN[1:]).exists()
    assert machine.state() == before
