"""The command line as a person meets it: every answer, every refusal, every exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hostcheck.registry import load_checks
from hostcheck.snapshot.archive import read_archive


def hostcheck(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-P", "-c", "from hostcheck.cli.main import main; main()", *arguments],
        capture_output=True, text=True, timeout=120, env=environment, stdin=subprocess.DEVNULL, check=False,
        cwd=cwd,
    )  # fmt: skip


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot of this very machine."""
    path = tmp_path_factory.mktemp("taken") / "here.tar.gz"
    done = hostcheck("collect", "-o", str(path))
    assert done.returncode == 0, done.stderr
    return path


def test_help_teaches() -> None:
    done = hostcheck("--help")
    assert done.returncode == 0
    assert "hostcheck audit" in done.stdout
    for command in ("audit", "collect", "list", "explain", "coverage", "completion"):
        assert hostcheck(command, "--help").returncode == 0


def test_an_audit_of_this_machine_judges_and_says_so(taken: Path) -> None:
    done = hostcheck("audit", "--from", str(taken))
    assert done.returncode in (0, 1, 3), done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout


def test_live_and_saved_agree(taken: Path) -> None:
    live = json.loads(hostcheck("audit", "--only", "memory.swappiness", "--format", "json").stdout)
    saved = json.loads(
        hostcheck("audit", "--from", str(taken), "--only", "memory.swappiness", "--format", "json").stdout
    )
    status = [[r["status"] for r in run["results"] if r["id"] == "memory.swappiness"] for run in (live, saved)]
    assert status[0] == status[1]


def test_json_has_every_check_and_its_schema_number(taken: Path) -> None:
    run = json.loads(hostcheck("audit", "--from", str(taken), "--format", "json").stdout)
    assert run["schema"] == 1
    assert len(run["results"]) >= 45
    assert all(result["findings"] for result in run["results"])


@pytest.mark.parametrize("suffix", ["json", "md", "html", "txt", "JSON", "Markdown", "HTM", "log"])
def test_the_form_follows_the_file(taken: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"report.{suffix}"
    done = hostcheck("audit", "--from", str(taken), "-o", str(target))
    assert done.returncode in (0, 1, 3), done.stderr
    assert done.stdout == ""
    text = target.read_text("utf-8")
    begins = {"json": "{", "md": "#", "markdown": "#", "html": "<!doctype", "htm": "<!doctype"}.get(suffix.lower(), "")
    assert text.lower().startswith(begins)


def test_an_ending_may_be_any_where_the_form_is_said(taken: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.2026-11-21"
    words = ("audit", "--from", str(taken), "--only", "memory.swappiness", "-o", str(target))
    assert hostcheck(*words).returncode == 2
    assert not target.exists()
    assert hostcheck(*words, "--format", "json").returncode in (0, 1, 3)
    assert target.read_text().startswith("{")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("audot",), "no command 'audot'; did you mean 'audit'?"),
        (("nosuch",), "no command 'nosuch'. Commands: audit, "),
        (("tune", "nosuch"), "no command 'nosuch'. Commands: plan, "),
        (("audit", "--only", "gpu.persistance-mode"), "did you mean 'gpu.persistence-mode'?"),
        (("audit", "--skip", "nope"), "no check matches 'nope'"),
        (("audit", "--require", "memory.swapp"), "did you mean 'memory.swap"),
        (("audit", "--set", "memory.swappiness"), "KEY=VALUE is needed"),
        (("audit", "--set", "memory.swapiness=1"), "did you mean 'memory.swappiness'?"),
        (("audit", "--set", "memory.swappiness=lots"), "a number is needed"),
        (("audit", "--role", "trainin"), "none of inference, latency, training"),
        (("audit", "--from", "/no/such/file"), "/no/such/file: No such file or directory"),
        (("audit", "--from", "/etc/hostname"), "/etc/hostname: not a readable hostcheck archive"),
        (("audit", "--checklist", "/no/such.toml"), "/no/such.toml: No such file or directory"),
        (("audit", "--site", "/no/such.toml"), "/no/such.toml: No such file or directory"),
        (("audit", "--fail-on", "worst"), "is not one of"),
        (("audit", "--window", "-1"), "is not in the range"),
        (("audit", "--window", "nan"), "'nan' is no finite number"),
        (("collect", "--window", "NaN"), "'NaN' is no finite number"),
        (("audit", "host", "--host-timeout", "nan"), "'nan' is no finite number"),
        (("bench", "compare", "base.json", "--tolerance", "nan"), "'nan' is no finite number"),
        (("bench", "nccl", "--hosts", "a,b", "--floor", "nan"), "'nan' is no finite number"),
        (("bench", "nccl", "--hosts", "a,b", "--floor", "inf"), "'inf' is no finite number"),
        (("bench", "nccl", "--hosts", "a,b", "--seconds", "nan"), "'nan' is no finite number"),
        (("audit", "--only", "memory.swap", "-o", "/no/such/x.html"), "cannot be written: No such file or directory"),
        (("audit", "-o", "r.pdf"), "r.pdf: no form has the ending .pdf: there are .txt, .text, .log, .json,"),
        (("audit", "-o", "r.yaml"), "or say --format"),
        (("audit", "-o", "r.jsonl"), "one host is shown as text, json, md, html, not as jsonl"),
        (("audit", "gpu01", "-o", "r.jsonl"), "one host is shown as text, json, md, html, not as jsonl"),
        (("audit", "gpu[1-2]", "-o", "r.HTML"), "a fleet is shown as text, json, jsonl, md, not as html"),
        (("bench", "-o", "r.pdf"), "no form has the ending .pdf"),
        (("explain", "gpu.ecc-mod"), "did you mean 'gpu.ecc-mode'?"),
        (("collect", "--program", "--redact"), "cannot redact"),
        (("completion", "tcsh"), "is not one of"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(arguments: tuple[str, ...], complaint: str) -> None:
    done = hostcheck(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("style", [("--exit-style", "nagios"), ("--exit-style=nagios",)])
@pytest.mark.parametrize("wrong", [("--from", "/no/such/file"), ("--nonsense",), ("--fail-on", "worst")])
def test_bad_input_is_unknown_to_nagios(style: tuple[str, ...], wrong: tuple[str, ...]) -> None:
    for words in (("audit", *style, *wrong), ("audit", *wrong, *style), ("fleet", "show", "/no/such", *style, *wrong)):
        done = hostcheck(*words)
        assert done.returncode == 3, done.stderr
        assert "Traceback" not in done.stderr


CHECKLISTS = {
    "not = toml = x": "not TOML",
    'onyl = ["gpu"]': "unknown key 'onyl'; did you mean 'only'?",
    'only = "gpu"': "only must be a list",
    'only = ["gpuu"]': "no check matches 'gpuu'",
    'role = "train"': "role 'train' is none of",
    '[expect]\n"memory.swapiness" = 1': "did you mean 'memory.swappiness'?",
    '[expect]\n"memory.swappiness" = { at_mots = 1 }': "did you mean 'at_most'?",
    '[expect]\n"memory.swappiness" = { at_most = "10 %" }': "a number is needed, without quotes and unit: 10",
    '[expect]\n"memory.swappiness" = { at_most = 100000 }': "is it in another unit?",
    '[[waive]]\ncheck = "memory.swap"\nuntil = 2030-01-01': "[[waive]]: reason is missing",
    '[[waive]]\ncheck = "memory.swap"\nreason = "x"\nuntil = "soon"': "'soon' is no date such as 2027-01-31",
    '[[waive]]\ncheck = "memory.swp"\nreason = "x"\nuntil = 2030-01-01': "did you mean 'memory.swap'",
    '[[attest]]\nrow = "mind-roy"\nanswer = true\nby = "x"\ndate = 2026-01-01': "did you mean 'mind-roi'?",
    '[[check]]\nid = "site.x"\ntitle = "X."\nfact = "memory.vmm"\nexpect = 1': "fact 'memory.vmm' is unknown",
    '[[check]]\nid = "gpu.x"\ntitle = "X."\nfact = "kernel.sysctl"\nexpect = 1': "begins with 'site.'",
}


@pytest.mark.parametrize("text", CHECKLISTS, ids=lambda text: CHECKLISTS[text])
def test_a_wrong_checklist_names_file_key_and_remedy(text: str, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text(text)
    done = hostcheck("audit", "--checklist", str(path))
    assert done.returncode == 2, done.stdout
    assert f"hostcheck: {path}: " in done.stderr
    assert CHECKLISTS[text] in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_checklist_decides(taken: Path, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text(
        'name = "mine"\nonly = ["memory.swappiness", "site.*"]\nrequire = ["site.hz"]\n'
        '[[check]]\nid = "site.hz"\ntitle = "The watermark is set."\nfact = "kernel.sysctl"\n'
        'path = ["vm.swappiness"]\nexpect = { regex = "\\\\d+" }\nseverity = "high"\nwhy = "house rule"\n'
        '[[check]]\nid = "site.gone"\ntitle = "A path that leads nowhere."\nfact = "kernel.sysctl"\n'
        'path = ["vm.nonsense"]\nexpect = "1"\n'
    )
    done = hostcheck("audit", "--from", str(taken), "--checklist", str(path), "--format", "json")
    run = json.loads(done.stdout)
    by_id = {result["id"]: result for result in run["results"]}
    assert run["checklist"] == "mine"
    assert by_id["site.hz"]["status"] == "pass"
    assert by_id["site.gone"]["status"] == "unknown"
    assert by_id["memory.thp-enabled"]["status"] == "skipped"
    assert str(path) in by_id["memory.thp-enabled"]["findings"][0]["summary"]
    assert done.returncode == 3


def test_an_archive_goes_into_a_file_where_no_terminal_is(tmp_path: Path) -> None:
    done = hostcheck("collect", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    (file,) = tmp_path.iterdir()
    assert file.name == f"hostcheck-{read_archive(file).manifest.hostname}.tar.gz"
    with (tmp_path / "piped").open("wb") as piped:
        words = [sys.executable, "-P", "-c", "from hostcheck.cli.main import main; main()", "collect", "-o", "-"]
        subprocess.run(words, stdout=piped, stderr=subprocess.DEVNULL, timeout=120, check=True, cwd=tmp_path)
    assert read_archive(tmp_path / "piped").readings


def test_an_output_that_fails_keeps_what_was_there(tmp_path: Path, taken: Path) -> None:
    if os.geteuid() == 0:
        target = Path("/proc/version")
        done = hostcheck("audit", "--from", str(taken), "-o", str(target))
        assert done.returncode == 2
        assert "cannot be written" in done.stderr
    else:
        pytest.skip("needs root")


def test_list_and_explain_and_completion(tmp_path: Path) -> None:
    listed = hostcheck("list", "memory")
    assert "memory.swappiness" in listed.stdout
    assert "gpu." not in listed.stdout
    assert json.loads(hostcheck("list", "--format", "json").stdout)
    page = hostcheck("explain", "memory.swappiness").stdout
    for word in ("Expects", "Reads", "/proc/sys/vm/swappiness", "x-os-swappiness"):
        assert word in page
    assert "memory.swappiness" in hostcheck("explain", "x-os-swappiness").stdout
    for shell in ("bash", "zsh", "fish"):
        assert "_HOSTCHECK_COMPLETE" in hostcheck("completion", shell).stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("bench", ""), {"run", "list", "explain", "record", "compare", "nccl", "hbm.triad"}),
        (("bench", "re"), {"record"}),
        (("bench", "--l"), {"--level"}),
        (("bench", "hbm.triad", "hbm.c"), {"hbm.copy"}),
        (("bench", "run", "hbm.c"), {"hbm.copy"}),
        (("audit", "--role", "l"), {"latency"}),
        (("coverage", "o"), {"os"}),
    ],
)
def test_completion_offers_what_can_stand_there(
    words: tuple[str, ...], offered: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_HOSTCHECK_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", " ".join(["hostcheck", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    code = "import sys; from hostcheck.cli.main import main; sys.argv[0] = 'hostcheck'; main()"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=180, check=False)
    given = [line.removeprefix("plain,") for line in done.stdout.splitlines()]
    assert offered <= set(given), done.stderr
    assert len(given) == len(set(given))


def test_the_fix_sets_as_many_open_files_as_are_expected() -> None:
    recorded = ("--from", str(Path(__file__).parents[1] / "hosts/h100x1.tar.gz"), "--only", "kernel.nofile")
    run = json.loads(hostcheck("audit", *recorded, "--format", "json").stdout)
    (fix,) = {finding["fix"] for result in run["results"] for finding in result["findings"] if finding.get("fix")}
    for limit in ("* soft nofile 65536", "* hard nofile 131072"):
        assert limit in fix


RECORDED = str(Path(__file__).parents[1] / "hosts/h100x1.tar.gz")


@pytest.mark.parametrize(
    "words",
    [
        ("list",), ("explain", "memory.swappiness"), ("audit", "--from", RECORDED),
        ("audit", "--from", RECORDED, "--only", "memory.swappiness"), ("list", "nonsense"), ("--help",),
    ],
)  # fmt: skip
@pytest.mark.parametrize("both", [False, True])
def test_a_reader_that_goes_away_changes_no_exit_code(words: tuple[str, ...], both: bool) -> None:
    expected = hostcheck(*words).returncode
    reader, writer = os.pipe()
    os.close(reader)
    told = writer if both else subprocess.PIPE
    code = "from hostcheck.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *words], stdout=writer, stderr=told, text=True, check=False
    )
    os.close(writer)
    assert done.returncode == expected
    assert "Traceback" not in (done.stderr or "")
    assert "Broken" not in (done.stderr or "")


@pytest.mark.parametrize(
    "words",
    [
        "list", "--help", "--version", "explain gpu.xid", "completion bash", "collect --program", "collect -o -",
        f"audit --from {RECORDED}", "tune plan --only memory.swappiness", "bench list",
    ],
)  # fmt: skip
def test_a_full_disk_is_one_line(words: str) -> None:
    command = f"{sys.executable} -P -c 'from hostcheck.cli.main import main; main()' {words} >/dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "No space left on device" in done.stderr


def test_a_reader_that_has_enough_is_no_error() -> None:
    command = f"{sys.executable} -P -c 'from hostcheck.cli.main import main; main()' list | head -n 1"
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("words", ["list", "audit --only memory.swappiness", "collect -o kept", "list nonsense"])
def test_a_stream_that_is_closed_is_as_one_that_nobody_reads(tmp_path: Path, closed: str, words: str) -> None:
    command = f"exec {sys.executable} -P -c 'from hostcheck.cli.main import main; main()' {words} {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (tmp_path / "kept").exists() == ("kept" in words)
    assert done.returncode == hostcheck(*words.replace("kept", "/dev/null").split()).returncode
    assert "Traceback" not in done.stdout + done.stderr


def test_hostile_names_never_reach_the_terminal(tmp_path: Path) -> None:
    done = hostcheck("audit", "--from", str(tmp_path / "\x1b]0;owned\x07.tar"))
    assert done.returncode == 2
    assert "\x1b" not in done.stderr
    assert "\x07" not in done.stderr


def test_the_program_of_collect_makes_an_archive_that_audit_reads(tmp_path: Path) -> None:
    program = hostcheck("collect", "--program").stdout
    archive = tmp_path / "remote.tar.gz"
    with archive.open("wb") as opened:
        subprocess.run(["sh", "-s"], input=program.encode(), stdout=opened, check=True)
    done = hostcheck("audit", "--from", str(archive), "--format", "json")
    assert done.returncode in (0, 1, 3), done.stderr
    assert json.loads(done.stdout)["host"]["name"] == os.uname().nodename


def test_redacted_is_said_and_holds_no_name(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    assert hostcheck("collect", "--redact", "-o", str(path)).returncode == 0
    run = json.loads(hostcheck("audit", "--from", str(path), "--format", "json").stdout)
    assert run["host"]["redacted"] is True
    assert run["host"]["name"] == "host-1"


def test_the_checklist_of_the_readme_is_right(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    path = tmp_path / "nodes.toml"
    path.write_text(readme.split("```toml\n")[1].split("```")[0])
    recorded = Path(__file__).parents[1] / "hosts/h200x2.tar.gz"
    done = hostcheck("audit", "--from", str(recorded), "--checklist", str(path), "--format", "json")
    run = json.loads(done.stdout)
    assert run["checklist"] == "training nodes"
    assert {r["id"]: r["status"] for r in run["results"]}["site.hung-task-timeout"] == "pass"


def test_the_audit_of_the_readme_is_what_is_printed() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    done = hostcheck("audit", "--from", str(Path(__file__).parents[1] / "hosts/h100x1.tar.gz"))
    printed = " ".join(done.stdout.split())
    for part in readme.split("```text\n")[1].split("```")[0].split("[...]"):
        assert " ".join(part.split()) in printed
    assert f"It judges {len(load_checks())} settings" in readme
