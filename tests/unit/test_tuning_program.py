"""The programs that change hosts, as text: what a person reads there, and what no plan can make of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hostcheck.errors import HostcheckError
from hostcheck.tuning.change import Kind, Needs, Risk
from hostcheck.tuning.program import (
    apply_program,
    confirm_program,
    history_program,
    recover_program,
    rollback_program,
    runtime,
)
from tunelab import BOOT, HEADER, MACHINE, change, every_kind, file, plan, write

SWAPPINESS = write(
    "/proc/sys/vm/swappiness",
    "60",
    "10",
    why="pages of jobs stay in memory",
    source="kernel documentation (defaults)",
    tuner="memory.swappiness",
    fixes=("memory.swappiness", "memory.swap"),
    risk=Risk.MEDIUM,
)


def own_lines(program: str) -> list[str]:
    """Return what comes after the runtime."""
    return program.split(runtime(), 1)[1].splitlines()


def test_a_person_can_read_what_it_will_do() -> None:
    program = apply_program(plan(SWAPPINESS, file("/etc/sysctl.d/90-hostcheck-vm.conf", None, "vm.swappiness = 10\n")))
    assert own_lines(program) == [
        "",
        "changes() {",
        "    # 1. pages of jobs stay in memory",
        "    #    until the next boot, medium risk; kernel documentation (defaults)",
        "    change 1 write /proc/sys/vm/swappiness =60 =10 runtime - - memory.swappiness"
        " memory.swappiness,memory.swap 'pages of jobs stay in memory'",
        "    # 2. for the test's sake",
        "    #    lasting, low risk",
        "    change 2 file /etc/sysctl.d/90-hostcheck-vm.conf - '=vm.swappiness = 10",
        "' persistent - - - - 'for the test'\"'\"'s sake'",
        "    :",
        "}",
        "",
        "{",
        f"    apply test node - {MACHINE} {BOOT} 60 all",
        "}",
        "end-of-hostcheck",
        "exit $?",
    ]
    assert program.splitlines()[1].startswith("# hostcheck ")
    assert "Changes node as planned 2026-01-01T00:00:00Z." in program.splitlines()[1]


def test_what_is_done_by_hand_is_told_and_not_done() -> None:
    acs = change(Kind.MANUAL, "IOMMU", None, None, why="turn it off in the firmware", needs=Needs.REBOOT,
                 commands=("reboot", "echo 'x y'"))  # fmt: skip
    lines = own_lines(apply_program(plan(acs, SWAPPINESS)))
    assert "    # 1. By hand: IOMMU: turn it off in the firmware" in lines
    assert lines[lines.index("    # 1. By hand: IOMMU: turn it off in the firmware") + 1] == "    #    reboot"
    assert [line.split()[:3] for line in lines if line.startswith("    change ")] == [["change", "2", "write"]]


def test_only_values_of_a_boot_bind_a_plan_to_it() -> None:
    lasting = file("/etc/sysctl.d/90-hostcheck-vm.conf", None, HEADER)
    assert own_lines(apply_program(plan(lasting)))[-4].endswith(f"{MACHINE} - 60 all")
    assert f"{MACHINE} {BOOT} 60 all" in apply_program(plan(lasting, SWAPPINESS))


def test_options() -> None:
    program = apply_program(plan(SWAPPINESS), keep_unverified=True, confirm_seconds=5)
    assert own_lines(program)[-4].endswith("5 rest")
    for text, line in {
        rollback_program(): "rollback last alone",
        rollback_program("007"): "rollback 7 alone",
        rollback_program("12", changes=[3, 1], with_newer=True): "rollback 12 newer '3 1'",
        recover_program(): "recover",
        confirm_program("3"): "confirm 3",
        history_program(): "list",
    }.items():
        assert own_lines(text)[-4] == f"    {line}"


@pytest.mark.parametrize("id", ["", "last", "1; reboot", "-1", "١", "1234567890", "1 2", "$(x)"])
def test_numbers_of_transactions(id: str) -> None:
    for make in (rollback_program, confirm_program):
        with pytest.raises(HostcheckError, match="is no transaction"):
            make(id)


def test_nothing_in_a_value_ends_the_program() -> None:
    text = "end-of-hostcheck\nend-of-hostcheck-\n"
    program = apply_program(plan(file("/etc/sysctl.d/90-hostcheck-x.conf", None, text)))
    assert "<<'end-of-hostcheck--'" in program
    assert program.splitlines().count("end-of-hostcheck--") == 1


def test_what_no_program_can_hold_is_refused() -> None:
    for wrong in (
        replace(SWAPPINESS, target="/etc/passwd"),
        replace(SWAPPINESS, target="/proc/sys/../x"),
        replace(SWAPPINESS, why="two\nlines"),
        replace(SWAPPINESS, after="\udcff"),
        change(Kind.MODULE, "x; reboot", None, ""),
        change(Kind.KERNEL_ARG, "grub iommu", None, 'pt" $(reboot)'),
        file("/etc/sysctl.d/90-hostcheck-x.conf", None, "\0"),
    ):
        with pytest.raises(HostcheckError, match=r"^change 1: "):
            apply_program(plan(wrong))
    with pytest.raises(HostcheckError, match="heading"):
        apply_program(replace(plan(SWAPPINESS), host="\udcff"))


def test_shellcheck_has_nothing_to_say(tmp_path: Path) -> None:
    tool = Path(sys.executable).with_name("shellcheck")
    found = str(tool) if tool.exists() else shutil.which("shellcheck")
    if found is None:
        pytest.skip("shellcheck is not installed")
    whole = apply_program(every_kind())
    # What is sent is the text between the marks; around it are a few lines that start it.
    body = whole.split("'end-of-hostcheck'\n", 1)[1].split("\nend-of-hostcheck\n", 1)[0]
    for name, text in (("whole", whole), ("body", f"#!/bin/sh\n{body}\n")):
        (tmp_path / name).write_text(text)
        # Every program has the whole runtime, and calls the part of it that it needs.
        unused = ["-e", "SC2329,SC2317"]
        done = subprocess.run([found, "-s", "sh", *unused, str(tmp_path / name)], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "")
