"""Plans, what came of them, and histories for people: everything is said, equal things once, nothing acts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.model import Absentee, Expected, Finding, Status
from hostcheck.render.plan import render_plan, render_plans
from hostcheck.render.plan_group import Edit, edits, tally
from hostcheck.render.plan_markdown import plan_markdown
from hostcheck.render.tuned import render_compared, render_ended, render_history
from hostcheck.tuning.change import Change, Kind, Needs, Plan, Refusal, Risk, Scope, Unplanned
from hostcheck.tuning.drive import Ended, How
from hostcheck.tuning.journal import End, read_journal
from hostcheck.tuning.measure import Compared

GPUS = [f"GPU-0000000{number}-0000-0000-0000-000000000000" for number in range(8)]
WRITE = Change(
    kind=Kind.WRITE, target="/proc/sys/vm/swappiness", before="60", after="0", scope=Scope.RUNTIME,
    why="the kernel swaps less", source="a guide (defaults/memory)", fixes=("memory.swappiness",),
    tuner="memory.swappiness",
)  # fmt: skip
FILE = Change(
    kind=Kind.FILE, target="/etc/sysctl.d/90-hostcheck-x.conf", before=None, after="# ours\nvm.swappiness = 0\n",
    scope=Scope.PERSISTENT, why="it lasts", source="a guide (defaults/memory)", tuner="memory.swappiness",
)  # fmt: skip
PLAN = Plan(
    host="gpu01", machine="", boot="", made="2026-11-21T02:00:00+00:00", tool="0.1.0", role="training",
    changes=(
        WRITE,
        FILE,
        *(
            replace(WRITE, target=f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor", before="powersave",
                    after="performance", tuner="cpu.governor", fixes=("cpu.governor",))
            for cpu in range(64)
        ),
        *(
            replace(WRITE, kind=Kind.GPU, target=f"{gpu} power-limit", before="600", after="700",
                    tuner="gpu.power-limit", risk=Risk.MEDIUM, fixes=())
            for gpu in GPUS
        ),
        replace(WRITE, kind=Kind.KERNEL_ARG, target="grub iommu", before=None, after="pt", scope=Scope.PERSISTENT,
                tuner="kernel.iommu", risk=Risk.HIGH, needs=Needs.REBOOT, fixes=()),
        replace(WRITE, kind=Kind.MANUAL, target="BIOS: SMT", before=None, after=None, why="switch it off",
                tuner="cpu.smt"),
    ),
    refusals=(Refusal(target="vm.dirty_ratio", why="tuned sets it (profile x)", tuner="memory.dirty"),),
    unplanned=(Unplanned(tuner="gpu.mig-policy", why="nvidia-smi: timeout"),
               Unplanned(tuner="gpu.mps", why="nvidia-smi: timeout")),
)  # fmt: skip


def text(plan: Plan = PLAN, **further: object) -> str:
    return render_plan(plan, **{"color": False, "width": 100, "ascii": False, **further})  # type: ignore[arg-type]


def flat(shown: str) -> str:
    return " ".join(shown.split())


def test_a_plan_says_what_why_how_long_how_risky_and_whence() -> None:
    shown = flat(text())
    for said in (
        "gpu01 · 2026-11-21 02:00 UTC",
        "75 changes (73 until the next boot, 2 kept over a reboot), risk up to high",
        "/proc/sys/vm/swappiness: 60 -> 0 (until the next boot)",
        "the kernel swaps less",
        "/etc/sysctl.d/90-hostcheck-x.conf: new file (kept over a reboot) + # ours + vm.swappiness = 0",
        "Makes pass: memory.swappiness",
        "Source: a guide (defaults/memory)",
        "/sys/devices/system/cpu/cpu[0-63]/cpufreq/scaling_governor: powersave -> performance",
        "power-limit of 8 GPUs: 600 -> 700 (until the next boot) medium risk",
        "grub iommu: (none) -> pt (kept over a reboot) high risk takes effect at the next boot",
        "FOR YOU TO DO hostcheck does none of this. BIOS: SMT switch it off",
        "LEFT ALONE",
        "vm.dirty_ratio tuned sets it (profile x)",
        "COULD NOT BE PLANNED Not the same as nothing to do. gpu.mig-policy, gpu.mps nvidia-smi: timeout",
        "hostcheck tune apply",
        "Exit code 1: there is something to change.",
    ):
        assert said in shown, said


def test_subsystems_come_in_their_order() -> None:
    shown = text()
    places = [shown.index(f"\n{word}\n") for word in ("CPU", "KERNEL", "MEMORY", "GPU")]
    assert places == sorted(places)


def test_what_is_unfinished_comes_first() -> None:
    plan = replace(PLAN, unfinished=("3", "4"))
    told = "Transactions 3, 4 were not brought to an end"
    for page in (
        text(plan), text(plan, asking=True), render_plans({"a": plan, "b": plan}, color=False, width=100),
        plan_markdown({"a": plan}),
    ):  # fmt: skip
        assert flat(page).index(told) < flat(page).index("75 changes")
        assert "hostcheck tune recover" in flat(page)
    assert "brought to an end" not in text()


def test_before_it_is_applied_no_next_step_and_no_exit_code_are_told() -> None:
    shown = text(asking=True)
    assert "Exit code" not in shown
    assert "hostcheck tune apply" not in shown
    assert "60 -> 0" in shown


@pytest.mark.parametrize(
    ("plan", "code"),
    [
        (replace(PLAN, changes=(), unplanned=()), "Exit code 0: there is nothing to change."),
        (replace(PLAN, changes=()), "Exit code 3: something could not be determined."),
        (replace(PLAN, changes=PLAN.changes[-1:], unplanned=()), "Only what you would do yourself is left."),
    ],
)
def test_an_empty_plan_says_which_kind_of_nothing_it_is(plan: Plan, code: str) -> None:
    assert "nothing to change" in text(plan)
    assert code in text(plan)


def test_a_file_that_changes_shows_the_lines_that_do() -> None:
    edit = Edit(replace(FILE, before="# ours\nvm.swappiness = 60\n"), (FILE.target,))
    assert edit.diff == ["  # ours", "- vm.swappiness = 60", "+ vm.swappiness = 0"]
    assert Edit(replace(FILE, before=FILE.after, after=None), ("x",)).diff == ["- # ours", "- vm.swappiness = 0"]
    long = replace(FILE, after="".join(f"{number}\n" for number in range(40)))
    assert "and 24 more lines: -v shows all" in text(replace(PLAN, changes=(long,)))
    assert "+ 39" in text(replace(PLAN, changes=(long,)), verbose=True)


def test_an_empty_value_and_none_are_told_apart() -> None:
    (one,) = edits([replace(WRITE, before="", after=None)])
    assert one.diff == ["(empty) -> (none)"]


def test_equal_plans_are_shown_once_and_absent_hosts_named() -> None:
    plans = {f"gpu{number:02}": replace(PLAN, host=f"h{number}", machine=f"{number:032x}") for number in range(1, 9)}
    plans["gpu09"] = replace(PLAN, changes=(WRITE,), unplanned=())
    gone = [
        Absentee(name="gpu10", reach="unreachable", why="no route"),
        Absentee(name="gpu11", reach="unreachable", why="no route"),
    ]
    shown = flat(render_plans(plans, gone, color=False, width=100))
    assert "11 hosts · 9 planned" in shown
    assert "gpu[01-08] (8 hosts)" in shown
    assert "gpu09 (1 host)" in shown
    assert "gpu[10-11] unreachable: no route" in shown
    page = plan_markdown(plans, gone)
    assert page.count("## ") >= 3
    assert page.count("gpu\\[01-08\\]") == 1
    assert "no route" in page


def test_what_an_old_snapshot_lacks_is_one_reason_with_the_way_out() -> None:
    lacks = tuple(Unplanned(tuner=f"a.b{n}", why=f"x.p{n}: not-collected", cause=f"x.p{n}") for n in range(20))
    shown = flat(
        text(replace(PLAN, changes=(), unplanned=(*lacks, Unplanned(tuner="c.d", why="/x: Permission denied"))))
    )
    assert shown.count("take a new one with hostcheck collect") == 1
    assert "a.b7 and 12 more" in shown
    assert "Planning as root reads more." in shown
    assert "a.b19" in text(replace(PLAN, unplanned=lacks), verbose=True)


def test_markdown_says_the_same() -> None:
    page = plan_markdown({"gpu01": PLAN})
    for said in (
        "- `/proc/sys/vm/swappiness`: `60 -> 0` (until the next boot, low risk)",
        "`power-limit of 8 GPUs`: `600 -> 700`",
        "takes effect at the next boot",
        "### Left alone",
        "### Could not be planned",
        "### For you to do",
        "  ```diff\n  + # ours\n  + vm.swappiness = 0\n  ```",
    ):
        assert said in page, said


COMMANDS = ("systemctl mask -- 'my\\x2dswap.swap' 'a b' " + "x" * 120, "echo '`$(id)` <b>' > /etc/x")


def test_commands_stand_on_lines_of_their_own_to_be_copied() -> None:
    manual = replace(PLAN.changes[-1], commands=COMMANDS)
    lines = text(replace(PLAN, changes=(manual,))).splitlines()
    at = lines.index(f"      {COMMANDS[0]}")
    assert lines[at + 1] == f"      {COMMANDS[1]}"
    page = plan_markdown({"gpu01": replace(PLAN, changes=(manual,))})
    assert f"  ```sh\n  {COMMANDS[0]}\n  {COMMANDS[1]}\n  ```\n" in page


HOSTILE = "a\x1b[31m\u202eb\n# c <script>`x`|*y*"


@given(st.text(max_size=40) | st.just(HOSTILE))
def test_no_text_of_a_host_acts_on_a_reader(told: str) -> None:
    change = replace(WRITE, target=told, before=told, after=f"{told}1", why=told, source=told, tuner="memory.x")
    plan = replace(
        PLAN, host=told, role=told,
        changes=(change, replace(change, kind=Kind.FILE), replace(change, kind=Kind.MANUAL, commands=(told, told))),
        refusals=(Refusal(target=told, why=told),), unplanned=(Unplanned(tuner=told, why=told),),
    )  # fmt: skip
    ended = [Ended(name=told, how=How.ROLLED_BACK, why=told, unmended={"memory.x": told})]
    pages = [
        text(plan), render_plans({told: plan}, [Absentee(name=told, reach=told, why=told)], color=False, width=100),
        plan_markdown({told: plan}), render_ended(ended, 4, color=False, width=100),
    ]  # fmt: skip
    for page in pages:
        assert all(line.isprintable() for line in page.split("\n"))
    assert "<script>" not in pages[2].replace("`", "") or "`" in pages[2]


def test_endings_are_folded_the_worst_last() -> None:
    good = [
        Ended(name=f"gpu{n:02}", how=How.VERIFIED, transaction="3", made=2, mended=("memory.swappiness",))
        for n in range(1, 9)
    ]
    bad = Ended(name="gpu09", how=How.ROLLED_BACK, transaction="1", made=0, undone=2, why="did not verify: x: fail")
    left = Ended(name="gpu10", how=How.UNTOUCHED, why="stopped after 1 failed")
    shown = flat(render_ended([left, bad, *good], 4, there=True, color=False, width=100))
    assert "gpu[01-08]: changed, and verified 2 changes made (transaction 3) Passes now: memory.swappiness" in shown
    assert "Take it back: hostcheck tune rollback 3 gpu[01-08]" in shown
    assert "gpu09: taken back did not verify: x: fail 2 changes taken back (transaction 1)" in shown
    assert "gpu10: not touched stopped after 1 failed" in shown
    assert shown.index("gpu[01-08]") < shown.index("gpu09") < shown.index("gpu10")
    assert "Exit code 4: something was changed, and did not verify" in shown


def test_what_was_taken_back_in_part_says_what_stays() -> None:
    ended = Ended(name="h", how=How.ROLLED_BACK, transaction="1", made=1, undone=2, why="did not verify: x.y: fail",
                  unmended={"x.y": "fail"})  # fmt: skip
    shown = flat(render_ended([ended], 4, color=False))
    assert (
        "h: taken back in part did not verify: x.y: fail 1 change stays, 2 changes taken back (transaction 1)" in shown
    )
    assert shown.count("x.y: fail") == 1


def test_what_did_not_verify_says_what_was_wanted_and_what_was_read() -> None:
    expected = Expected(text="at least 700 W", key="gpu.power", layer="site", source="s", unit="W")
    findings = {
        "gpu.power": (
            *(Finding(status=Status.FAIL, subject=f"gpu{n}", summary="the limit is low", observed=600.0,
                      expected=expected) for n in range(3)),
            *(Finding(status=Status.UNKNOWN, subject=f"gpu{n}", summary=f"nvidia-smi: \x1b[2J {n}")
              for n in range(3, 8)),
        ),
    }  # fmt: skip
    ended = Ended(name="h", how=How.UNVERIFIED, transaction="1", made=2, unmended={"gpu.power": "fail (gpu0)"},
                  findings=findings)  # fmt: skip
    lines = render_ended([ended], 4, color=False, width=100).splitlines()
    at = lines.index("  gpu.power: fail (gpu0)")
    assert lines[at + 1 : at + 6] == [
        "    gpu[0-2]: the limit is low, observed 600 W, expected at least 700 W",
        "    gpu3: nvidia-smi: \\x1b[2J 3",
        "    gpu4: nvidia-smi: \\x1b[2J 4",
        "    gpu5: nvidia-smi: \\x1b[2J 5",
        "    and 2 more",
    ]
    back = replace(ended, how=How.ROLLED_BACK, why="did not verify: gpu.power: fail (gpu0)")
    shown = render_ended([back, replace(back, name="g")], 4, color=False, width=100)
    assert shown.count("fail (gpu0)") == 1
    assert shown.count("    gpu.power: gpu[0-2]: the limit is low, observed 600 W, expected at least 700 W\n") == 1


def test_what_has_to_happen_first_is_told() -> None:
    ended = Ended(name="h", how=How.VERIFIED, transaction="1", made=1, pending=(Needs.REBOOT,))
    assert "Some of it takes effect at the next boot." in flat(render_ended([ended], 0, color=False))


def line(*fields: str) -> str:
    body = "\t".join(fields)
    return f"{body}\t{len(body)}"


def test_a_history_names_what_was_changed_and_what_is_left_to_do() -> None:
    journal = "\n".join([
        line("0", "journal", "1", "7", "2026-11-21T02:00:00Z", "0.1.0", "gpu01", "b", "training", "1"),
        line("1", "plan", "write", "/proc/sys/vm/swappiness", "=60", "=0", "runtime", "-", "-", "-", "w"),
        line("1", "intent"),
    ])  # fmt: skip
    found = read_journal("7", journal, open=True)
    assert found.end is End.UNFINISHED
    shown = flat(render_history({"gpu01": [found], "gpu02": []}, [("gpu03", "unreachable: no route")], color=False))
    assert "gpu01: 1 transaction 7 2026-11-21 02:00 UTC unfinished" in shown
    assert "hostcheck tune recover brings it to an end" in shown
    assert "1. /proc/sys/vm/swappiness 60 -> 0 intent" in shown
    assert "gpu02: nothing was changed by hostcheck" in shown
    assert "gpu03: unreachable: no route" in shown


def test_a_comparison_shows_both_medians_and_their_noise() -> None:
    row = Compared(host="h", measure="m", title="nvidia-smi answers", unit="s", verdict="improved", before=1.25,
                   after=0.03, noise_before=0.1, noise_after=0.001, samples=7)  # fmt: skip
    shown = flat(render_compared([row], color=False))
    assert "h nvidia-smi answers: improved 1.25 s (± 0.1) -> 0.03 s (± 0.001), median and its deviation of 7" in shown
    assert render_compared([], color=False) == ""


def test_a_tally_counts_only_what_hostcheck_does() -> None:
    assert tally(replace(PLAN, changes=PLAN.changes[-1:], unplanned=())) == "nothing to change"
    assert tally(replace(PLAN, changes=())) == "nothing to change, as far as that could be planned"
    assert tally(replace(PLAN, changes=(WRITE,))) == "1 change (1 until the next boot), risk low"
