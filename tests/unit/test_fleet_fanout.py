"""The fan-out over stand-ins for hosts: dead, slow, flooding, lying, broken, hanging, and Ctrl-C in the middle."""

from __future__ import annotations

import gc
import io
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from hostcheck.checklist import Checklist
from hostcheck.errors import HostcheckError
from hostcheck.fleet import fanout
from hostcheck.fleet.fanout import MIB, Tally, fan_out, share
from hostcheck.fleet.progress import Teller, words
from hostcheck.fleet.reach import over_ssh
from hostcheck.fleet.roles import by_group
from hostcheck.fleet.store import Store
from hostcheck.fleet.targets import Target, fold
from hostcheck.transport.base import Answer, Reach
from hostcheck.transport.local import LocalTransport
from hostcheck.transport.ssh import SshOptions, SshTransport
from support import HOSTS
from waiting import until

GOOD = (HOSTS / "vm-2cpu.tar.gz").read_bytes()
Behaviour = Callable[[float, int], Answer]


class Stand:
    """A transport that behaves as it is told."""

    def __init__(self, host: str, behaviour: Behaviour) -> None:
        self.host = host
        self.behaviour = behaviour
        self.closed = 0

    def run(self, program: bytes, *, seconds: float, most: int) -> Answer:
        assert program == b"program"
        return self.behaviour(seconds, most)

    def close(self) -> None:
        self.closed += 1


def good(seconds: float, most: int) -> Answer:
    return Answer(reach=Reach.OK, out=GOOD, received=len(GOOD))


def dead(seconds: float, most: int) -> Answer:
    return Answer(reach=Reach.UNREACHABLE, why="no route to it", attempts=3)


def flood(seconds: float, most: int) -> Answer:
    """A transport that minds no limit."""
    return Answer(reach=Reach.OK, out=b"x" * (most + 1))


def broken(seconds: float, most: int) -> Answer:
    raise RuntimeError("boom \x1b[2J")


def refused(seconds: float, most: int) -> Answer:
    raise HostcheckError("~/.ssh/config, line 3: not understood")


def quits(seconds: float, most: int) -> Answer:
    raise SystemExit(0)


def spread(store: Store, hosts: dict[str, Behaviour], **options: object) -> dict[str, Stand]:
    targets = [Target(name, name) for name in hosts]
    store.begin(targets, b"program")
    made: dict[str, Stand] = {}

    def make(target: Target) -> Stand:
        made[target.name] = Stand(target.name, hosts[target.name])
        return made[target.name]

    chosen = {"parallel": 8, "seconds": 30.0, "most": MIB, "progress": None, **options}
    fan_out(store.missing(targets), make, b"program", store=store, **chosen)  # type: ignore[arg-type]
    return made


def reaches(store: Store) -> dict[str, str]:
    return {**{name: "ok" for name, _ in store.archives()}, **{a.name: a.reach for a in store.absent()}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "run")


def test_each_host_has_its_own_ending(store: Store) -> None:
    hosts: dict[str, Behaviour] = {f"good{n}": good for n in range(20)}
    hosts |= {f"dead{n}": dead for n in range(16)}
    hosts |= {"flood": flood, "broken": broken, "refused": refused, "quits": quits}
    made = spread(store, hosts)
    found = reaches(store)
    assert [found[f"good{n}"] for n in range(20)] == ["ok"] * 20
    assert [found[f"dead{n}"] for n in range(16)] == ["unreachable"] * 16
    assert found["flood"] == "too much"
    assert {found[name] for name in ("broken", "refused", "quits")} == {"error"}
    why = {absentee.name: absentee.why for absentee in store.absent()}
    assert why["flood"] == "it sent more than 1,048,576 bytes"
    assert why["broken"] == "a fault of hostcheck itself: RuntimeError: boom \\x1b[2J"
    assert why["refused"] == "~/.ssh/config, line 3: not understood"
    assert all(stand.closed == 1 for stand in made.values())


def test_a_slow_host_delays_nobody(store: Store) -> None:
    release = threading.Event()
    order: list[int] = []

    def slow(seconds: float, most: int) -> Answer:
        assert release.wait(120)
        return good(seconds, most)

    def watch(tally: Tally) -> None:
        order.append(tally.answered)
        if tally.answered == 30:
            assert tally.running == 1
            assert tally.slowest == "slow"
            release.set()

    spread(store, {"slow": slow, **{f"h{n}": good for n in range(30)}}, parallel=3, progress=watch)
    assert order[-1] == 31
    assert set(reaches(store).values()) == {"ok"}


def test_never_more_than_the_window_at_once(store: Store) -> None:
    lock, now, peak = threading.Lock(), 0, 0
    together = threading.Barrier(5)

    def counted(seconds: float, most: int) -> Answer:
        nonlocal now, peak
        with lock:
            now += 1
            peak = max(peak, now)
        together.wait(120)
        with lock:
            now -= 1
        return dead(seconds, most)

    spread(store, {f"h{n}": counted for n in range(40)}, parallel=5)
    assert peak == 5


def test_memory_does_not_grow_with_the_hosts(store: Store) -> None:
    """Sixty hosts of a megabyte each, four at a time: what is held is four, and what reading one needs."""

    def large(seconds: float, most: int) -> Answer:
        return Answer(reach=Reach.OK, out=bytes(bytearray(most)))

    tracemalloc.start()
    spread(store, {f"h{n}": large for n in range(60)}, parallel=4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 15 * MIB
    assert set(reaches(store).values()) == {"error"}


def test_a_transport_that_never_ends_is_given_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "_GRACE", 0.1)
    release = threading.Event()

    def hangs(seconds: float, most: int) -> Answer:
        release.wait(120)
        return good(seconds, most)

    made = spread(store, {"hangs": hangs, "h1": good, "h2": good}, parallel=1, seconds=1.0)
    assert reaches(store) == {"hangs": "timeout", "h1": "ok", "h2": "ok"}
    release.set()
    until(lambda: made["hangs"].closed == 2)
    assert reaches(store)["hangs"] == "timeout"


def test_ctrl_c_keeps_what_came_and_the_rest_is_asked_again(store: Store) -> None:
    release = threading.Event()

    def waits(seconds: float, most: int) -> Answer:
        release.wait(120)
        return Answer(reach=Reach.CUT, why="interrupted")

    def press(tally: Tally) -> None:
        if tally.answered == 2:
            raise KeyboardInterrupt

    hosts: dict[str, Behaviour] = {"a": good, "b": good, "c": waits, "d": waits, "e": waits}
    with pytest.raises(KeyboardInterrupt):
        spread(store, hosts, parallel=3, progress=press)
    release.set()
    assert reaches(store) == {"a": "ok", "b": "ok", "c": "not asked", "d": "not asked", "e": "not asked"}
    store.close()
    asked: list[str] = []

    def make(target: Target) -> Stand:
        asked.append(target.name)
        return Stand(target.name, good)

    again = Store(store.path)
    known = again.begin((), b"program", resume=True)
    fan_out(again.missing(known), make, b"program", parallel=2, seconds=9, most=MIB, store=again)
    assert sorted(asked) == ["c", "d", "e"]
    assert set(reaches(again).values()) == {"ok"}


def test_a_disk_that_fills_ends_the_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(name: str, answer: Answer) -> Answer:
        raise HostcheckError("hosts: No space left on device")

    monkeypatch.setattr(store, "put", full)
    with pytest.raises(HostcheckError, match="No space left"):
        spread(store, {f"h{n}": good for n in range(10)})


def test_garbage_is_collected_while_it_runs_and_not_after(store: Store) -> None:
    seen: list[bool] = []
    gc.disable()
    try:
        spread(store, {"h": good}, progress=lambda tally: seen.append(gc.isenabled()))
        assert not gc.isenabled()
    finally:
        gc.enable()
    assert seen
    assert all(seen)


def test_without_hosts_there_is_nothing_to_do(store: Store) -> None:
    fan_out((), lambda target: Stand("x", good), b"program", parallel=4, seconds=1, most=1, store=store)
    assert not store.path.exists()


def test_a_window_shares_one_budget() -> None:
    assert [share(parallel) for parallel in (1, 32, 64, 256, 1024)] == [8 * MIB, 8 * MIB, 4 * MIB, MIB, MIB]


def tally(**changes: object) -> Tally:
    values = {"total": 1000, "answered": 940, "absent": 20, "running": 30, "slowest": "gpu\x1b7", "seconds": 12.3}
    return Tally(**{**values, **changes})  # type: ignore[arg-type]


def test_progress_says_who_is_waited_for() -> None:
    assert words(tally()) == (
        "940 of 1,000 hosts answered, 20 failed to; 30 running (slowest: gpu\\x1b7, 12 s); 10 waiting"
    )
    assert words(tally(absent=0, running=0, slowest="", answered=1000)) == "1,000 of 1,000 hosts answered"


def test_progress_is_a_line_now_and_then_where_nobody_looks() -> None:
    now = 0.0
    stream = io.StringIO()
    teller = Teller(stream, every=5.0, clock=lambda: now)
    for _ in range(120):
        now += 0.1
        teller(tally())
    assert stream.getvalue().count("\n") == 2
    assert "\r" not in stream.getvalue()
    teller.clear()
    assert stream.getvalue().count("\n") == 2


def test_progress_is_one_line_on_a_terminal_and_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    now = 0.0
    stream = io.StringIO()
    teller = Teller(stream, terminal=True, clock=lambda: now)
    teller.clear()
    assert stream.getvalue() == ""
    now = 1.0
    teller(tally())
    assert "\n" not in stream.getvalue()
    assert len(stream.getvalue().removeprefix("\r\x1b[K")) == 39
    teller.clear()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_a_terminal_that_goes_away_ends_no_audit() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    Teller(Gone(), terminal=True, every=0, clock=iter([0.0, 9.0]).__next__)(tally())


def test_a_group_has_another_role() -> None:
    targets = (Target("a", "a", groups=("serve", "eu")), Target("b", "b", groups=("eu",)), Target("c", "c"))
    plain = Checklist()
    assert by_group(plain, targets, ()) is plain
    chosen = by_group(plain, targets, ["serve=inference"])
    assert not isinstance(chosen, Checklist)
    assert [chosen(name).role for name in ("a", "b", "c")] == ["inference", "training", "training"]
    for rules, complaint in (
        (["serve"], "GROUP=ROLE is needed"),
        (["serve=infernce"], "none of"),
        (["serv=inference"], "did you mean 'serve'"),
        (["serve=inference", "eu=latency"], "a is inference by another group"),
    ):
        with pytest.raises(HostcheckError, match=complaint):
            by_group(plain, targets, rules)


def test_an_inventory_may_say_how_a_host_is_reached() -> None:
    make = over_ssh(SshOptions(), "root")
    ways = {"local": LocalTransport, "ansible.builtin.ssh": SshTransport, "": SshTransport}
    for kind, expected in ways.items():
        assert isinstance(make(Target("a", "a", variables={"ansible_connection": kind})), expected)
    with pytest.raises(HostcheckError, match="only --via ansible"):
        make(Target("a", "a", variables={"ansible_connection": "community.docker.docker"}))


def test_folding_ten_thousand_is_nothing_special() -> None:
    assert len(fold(Target(f"h{n % 10_000}", f"h{n % 10_000}") for n in range(30_000))) == 10_000
