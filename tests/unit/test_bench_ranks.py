"""What goes to a host that takes part, and what may come back from one that does not mean well."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.bench import collective
from hostcheck.bench.collective import MARK
from hostcheck.bench.ranks import Launch, program, read_environment, read_found, run
from hostcheck.errors import HostcheckError
from hostcheck.fleet.targets import Target
from hostcheck.transport.base import Answer, Reach

FOUND: dict[str, Any] = {
    "operation": "all-reduce", "bytes": 1 << 30, "ranks": 2, "seconds": [0.01, 0.011], "per_rank": [0.01, 0.011],
    "wrong": {},
    "log": {"version": "2.28.9", "via": {"NET/IB/GDRDMA": 8}, "chosen": {"ring simple": 20}, "nvls": False, "set": {},
            "warnings": []},
    "who": [["gpu01", 0, "NVIDIA H200"], ["gpu02", 0, "NVIDIA H200"]], "torch": "2.11.0",
}  # fmt: skip
LAUNCH = Launch(cases=[("all-reduce", 1 << 30, 2.0)], environment={"NCCL_IB_HCA": "=mlx5_0,mlx5_1"})


def line(**changes: Any) -> bytes:
    return (MARK + json.dumps({**FOUND, **changes})).encode()


def test_the_program_holds_the_very_file_and_all_of_the_plan(tmp_path: Path) -> None:
    text = program(LAUNCH, 3, 16, "gpu01").decode()
    assert Path(collective.__file__).read_text() in text
    for words in (
        "--nnodes 16 --node-rank 3 --nproc-per-node gpu --master-addr gpu01 --master-port 29500",
        "export NCCL_IB_HCA='=mlx5_0,mlx5_1'",
        '"cases": [["all-reduce", 1073741824, 2.0]]',
    ):
        assert words in text
    for shell in ("dash", "bash", "busybox"):
        if shutil.which(shell):
            call = [shell, "sh"] if shell == "busybox" else [shell]
            assert subprocess.run([*call, "-n"], input=text, text=True, capture_output=True, check=False).stderr == ""


def test_the_program_is_clean_for_shellcheck() -> None:
    checker = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{Path('/usr/bin')}")
    if checker is None:
        pytest.skip("shellcheck is not installed")
    text = program(LAUNCH, 0, 2, "gpu01").decode()
    done = subprocess.run([checker, "-s", "sh", "-"], input=text, capture_output=True, text=True, check=False)
    assert done.stdout == ""


@pytest.mark.parametrize("python", ["python3; reboot", "$(reboot)", "-c", "a b", "`x`", "a\nb", ""])
def test_no_python_that_a_shell_would_act_upon(python: str) -> None:
    with pytest.raises(HostcheckError, match="is no path of a program"):
        program(Launch(cases=LAUNCH.cases, python=python), 0, 2, "gpu01")


@pytest.mark.parametrize("address", ["a;b", "-x", "$(x)", "a b", ""])
def test_no_address_that_a_shell_would_act_upon(address: str) -> None:
    with pytest.raises(HostcheckError, match="is no address"):
        program(LAUNCH, 0, 2, address)


@given(st.text(max_size=30))
def test_no_variable_that_a_shell_would_act_upon(word: str) -> None:
    try:
        made = read_environment([word])
    except HostcheckError:
        return
    ((name, value),) = made.items()
    text = program(Launch(cases=LAUNCH.cases, environment=made), 0, 2, "a").decode()
    echoed = subprocess.run(
        ["sh", "-c", text.splitlines()[0] + f'\nprintf "%s" "${name}"'], capture_output=True, text=True, check=True
    )
    assert echoed.stdout == value


def test_results_are_read_among_whatever_else_is_printed() -> None:
    out = b"\n".join([b"NCCL version 2.28.9", line(), b"\xff\xfe .", b". " + MARK.encode() + b"{}", line(bytes=8)])
    assert [found.bytes for found in read_found(out)] == [1 << 30, 8]


@pytest.mark.parametrize(
    "changes",
    [
        {"ranks": 3}, {"ranks": -1}, {"operation": "reboot"}, {"seconds": []}, {"seconds": [0.0]},
        {"seconds": [float("inf")]}, {"seconds": ["fast"]}, {"bytes": 0}, {"bytes": 1 << 60}, {"who": []},
        {"wrong": {"0": -1}}, {"torch": "x" * 1000}, {"log": {}}, {"per_rank": [0.01]},
    ],
)  # fmt: skip
def test_what_is_no_result_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(HostcheckError, match="what it sent is no result"):
        list(read_found(line(**changes)))


@given(st.binary(max_size=60))
def test_no_bytes_do_more_than_be_refused(tail: bytes) -> None:
    with pytest.raises(HostcheckError) as problem:
        list(read_found(MARK.encode() + tail.replace(b"\n", b"").replace(b"\r", b"") + b"x"))
    assert str(problem.value).isprintable()


class Host:
    """A host that answers at once."""

    def __init__(self, name: str, answer: Answer) -> None:
        self.host = name
        self.answer = answer

    def run(self, program: bytes, *, seconds: float, most: int) -> Answer:
        return self.answer

    def close(self) -> None:
        pass


def answered(*answers: Answer, cases: int = 1) -> Any:
    targets = [Target(f"n{number}", f"n{number}") for number in range(len(answers))]
    hosts = {target.name: Host(target.name, answer) for target, answer in zip(targets, answers, strict=True)}
    launch = Launch(cases=[("all-reduce", 1 << 30, 0.1)] * cases)
    return run(targets, lambda target: hosts[target.name], launch)


GOOD = Answer(reach=Reach.OK, out=b".\n" + line() + b"\n")
QUIET = Answer(reach=Reach.OK, out=b".\n")


def test_only_the_first_host_is_believed_about_the_result() -> None:
    assert len(answered(GOOD, QUIET).found) == 1
    outcome = answered(QUIET, GOOD)
    assert outcome.found == ()
    assert outcome.failed == {"n0": "it gave 0 of 1 results"}


def test_fewer_results_than_asked_for_are_a_failure() -> None:
    assert answered(GOOD, QUIET, cases=2).failed == {"n0": "it gave 1 of 2 results"}


@pytest.mark.parametrize("changes", [{"operation": "all-gather"}, {"bytes": 1 << 20}])
def test_a_result_of_something_else_is_a_failure(changes: dict[str, Any]) -> None:
    outcome = answered(Answer(reach=Reach.OK, out=line(**changes)), QUIET)
    assert outcome.failed == {"n0": "what it sent is not what was to be measured"}


def test_a_result_between_fewer_hosts_and_one_too_many_are_failures() -> None:
    assert answered(GOOD, QUIET, QUIET).failed == {"n0": "what it sent is not what was to be measured"}
    assert answered(Answer(reach=Reach.OK, out=line() + b"\n" + line()), QUIET).failed == {
        "n0": "it gave 2 of 1 results"
    }


def test_garbage_is_a_failure_of_the_host() -> None:
    outcome = answered(Answer(reach=Reach.OK, out=MARK.encode() + b'{"operation": "\x1b[2J"}'), QUIET)
    assert list(outcome.failed) == ["n0"]
    assert outcome.failed["n0"].isprintable()


def test_a_result_does_not_count_where_another_host_failed() -> None:
    outcome = answered(GOOD, Answer(reach=Reach.DENIED, why="no key was accepted"))
    assert outcome.found == ()
    assert outcome.failed == {"n1": "denied: no key was accepted"}
    assert outcome.absent == {"n1"}
