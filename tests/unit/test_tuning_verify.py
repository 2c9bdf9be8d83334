"""Arguments of the kernel after a reboot: held against those that it was started with, and never passed unread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pytest

from hostcheck.checklist import Checklist
from hostcheck.model import Absentee, Status
from hostcheck.render.tuned import render_ended
from hostcheck.snapshot.probes import Probe
from hostcheck.snapshot.reading import Ending, FileState, Snapshot
from hostcheck.transport.base import Answer
from hostcheck.tuning.change import Kind, Needs, Reload, Scope
from hostcheck.tuning.drive import Ended, How, code_of
from hostcheck.tuning.journal import Step, StepState, Transaction
from hostcheck.tuning.verify import verify
from support import host

BARE = host("bare")
THEN, NOW = "11111111-2222-3333-4444-555555555555", "99999999-2222-3333-4444-555555555555"
NAME = "kernel argument init_on_alloc"


def step(
    target: str = "grub init_on_alloc", after: str | None = "0", state: StepState = StepState.APPLIED, number: int = 1
) -> Step:
    return Step(
        number=number, kind=Kind.KERNEL_ARG, target=target, before=None, after=after, scope=Scope.PERSISTENT,
        reload=Reload.NOTHING, tuner="kernel.init-on-alloc", fixes=(), why="w", state=state,
    )  # fmt: skip


def transaction(*steps: Step, boot: str = THEN) -> Transaction:
    return Transaction(id="1", role="training", boot=boot, steps=steps)


def started(cmdline: str | None, boot: str | None = NOW) -> Snapshot:
    """The synthetic host, started with these arguments; None where the file cannot be read."""
    reading = BARE.reading("kernel.boot")
    files = dict(reading.files)
    for path, text in (("/proc/cmdline", cmdline), ("/proc/sys/kernel/random/boot_id", boot)):
        files[path] = (
            FileState(Ending.DENIED) if text is None else FileState(Ending.OK, f"{text}\n".encode())
        )  # fmt: skip
    return Snapshot(BARE.manifest, {**BARE.readings, "kernel.boot": replace(reading, files=files)})


@dataclass
class Made:
    """One host that reads as a test says."""

    found: Snapshot | Absentee
    names: tuple[str, ...] = ("h",)

    def read(self, probes: Sequence[Probe], names: Iterable[str]) -> Iterator[tuple[str, Snapshot | Absentee]]:
        assert "kernel.boot" in {probe.id for probe in probes}
        for name in names:
            yield name, self.found

    def run(self, programs: Mapping[str, str], *, seconds: float) -> dict[str, Answer]:
        raise AssertionError("nothing is run")


def judged(found: Snapshot | Absentee, *transactions: Transaction) -> Ended:
    (ended,) = verify(Made(found), {"h": transactions}, Checklist(), ())
    return ended


def test_what_the_kernel_was_started_with_passes() -> None:
    ended = judged(started("ro quiet init_on_alloc=0"), transaction(step()))
    assert (ended.how, ended.mended, ended.pending, code_of([ended])) == (How.VERIFIED, (NAME,), (), 0)
    both = transaction(step("grubby transparent-hugepage", "never"), step("grub nosmt", "", number=2))
    ended = judged(started("ro transparent_hugepage=never nosmt"), both)
    assert ended.mended == ("kernel argument nosmt", "kernel argument transparent-hugepage")


@pytest.mark.parametrize(
    ("cmdline", "after", "said"),
    [
        ("ro quiet", "0", "the kernel was started without init_on_alloc, expected init_on_alloc=0"),
        ("ro init_on_alloc=1", "0", "the kernel was started with init_on_alloc=1, expected init_on_alloc=0"),
        ("init_on_alloc=0 init_on_alloc=1", "0", "started with init_on_alloc=1, expected"),
        ("ro -- init_on_alloc=0", "0", "the kernel was started without init_on_alloc"),
        ("ro init_on_alloc=0", "", "the kernel was started with init_on_alloc=0, expected init_on_alloc"),
        ("ro init_on_alloc=1", None, "started with init_on_alloc=1, expected no init_on_alloc"),
    ],
)
def test_what_it_was_not_started_with_fails_after_a_reboot(cmdline: str, after: str | None, said: str) -> None:
    ended = judged(started(cmdline), transaction(step(after=after)))
    assert (ended.how, ended.unmended, ended.pending, code_of([ended])) == (How.UNVERIFIED, {NAME: "fail"}, (), 4)
    assert said in " ".join(render_ended([ended], 4, meanings={4: ""}, color=False).split())


def test_it_waits_for_a_reboot_only_in_the_boot_in_which_it_was_set() -> None:
    ended = judged(started("ro quiet", boot=THEN), transaction(step()))
    assert (ended.how, ended.mended, ended.unmended) == (How.WAITING, (), {})
    assert (ended.why, ended.pending) == ("init_on_alloc=0 waits for a reboot", (Needs.REBOOT,))
    assert code_of([ended]) == 3
    assert "waits for a reboot" in render_ended([ended], 3, color=False)
    several = transaction(step(), step("grub isolcpus", "1,3", number=2))
    assert judged(started("ro", boot=THEN), several).why == "init_on_alloc=0 isolcpus=1,3 wait for a reboot"
    # What fails beside it is worse.
    newer = replace(transaction(step("grub nosmt", ""), boot=NOW), id="2")
    ended = judged(started("ro", boot=NOW), transaction(step()), newer)
    assert (ended.how, ended.unmended, ended.why) == (How.UNVERIFIED, {NAME: "fail"}, "nosmt waits for a reboot")


@pytest.mark.parametrize(
    ("found", "boot", "why"),
    [
        (started(None), THEN, "/proc/cmdline: denied"),
        (started("ro", boot=None), THEN, "boot_id: denied"),
        (started("ro"), "", "the kernel was started without init_on_alloc, and whether that was before"),
        (started("ro init_on_alloc=0").without(["kernel.boot"]), THEN, "not-collected"),
    ],
)
def test_what_cannot_be_read_is_unknown(found: Snapshot, boot: str, why: str) -> None:
    ended = judged(found, transaction(step(), boot=boot))
    assert (ended.how, ended.mended, ended.unmended) == (How.UNVERIFIED, (), {NAME: "unknown"})
    (finding,) = ended.findings[NAME]
    assert (finding.status, why in finding.summary) == (Status.UNKNOWN, True), finding.summary


def test_the_newest_word_on_an_argument_counts() -> None:
    older, newer = transaction(step()), replace(transaction(step("grubby init-on-alloc", "1")), id="2")
    ended = judged(started("ro init_on_alloc=1"), older, newer)
    assert (ended.how, ended.mended) == (How.VERIFIED, ("kernel argument init-on-alloc",))
    # Taken back, the older one stands again; in which boot that was, no journal says.
    undone = replace(newer, steps=(replace(newer.steps[0], state=StepState.UNDONE),))
    assert judged(started("ro init_on_alloc=0"), older, undone).how is How.VERIFIED
    assert judged(started("ro init_on_alloc=1"), older, undone).unmended == {NAME: "unknown"}
    # What happened in the boot that still runs tells nothing of what the kernel was started with.
    then = [replace(each, boot=NOW) for each in (older, undone)]
    assert judged(started("ro init_on_alloc=1"), *then).how is How.WAITING
    assert judged(started("ro init_on_alloc=1"), older, then[1]).unmended == {NAME: "fail"}
    # A newer one that found it given already does not make it wait again.
    again = replace(transaction(step(state=StepState.SAME), boot=NOW), id="2")
    assert judged(started("ro"), older, again).unmended == {NAME: "fail"}
    assert judged(started("ro"), again).how is How.WAITING


@pytest.mark.parametrize("state", [StepState.PLANNED, StepState.INTENT, StepState.UNDONE, StepState.LEFT])
def test_what_does_not_stand_is_not_judged(state: StepState) -> None:
    assert judged(started("ro"), transaction(step(state=state))).how is How.NOTHING


def test_a_host_that_does_not_answer_is_named() -> None:
    gone = Absentee(name="h", reach="unreachable", why="no route")
    assert judged(gone, transaction(step())).how is How.REFUSED
