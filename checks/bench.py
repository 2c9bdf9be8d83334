"""What was measured, held against floors and against equals. Without measurements, these checks take no part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from hostcheck.bench.floors import in_unit_of
from hostcheck.bench.model import ALL_GPUS, HEAT, PROVING, SLOWDOWNS, UNSTEADY, Conditions, Measurement, Session
from hostcheck.errors import NotApplicable
from hostcheck.expect import Expect, ExpectationMissing, Key, shipped_names
from hostcheck.facts.bench import (
    JUDGES,
    MANY,
    SESSION,
    SHARED,
    about,
    allowed,
    behind,
    cases,
    equals,
    gpus_in,
    lower_is_better,
    others,
    traits,
)
from hostcheck.matchers import AtLeast
from hostcheck.model import Actor, Expected, Finding, Severity, Status
from hostcheck.registry import check


def _floor(name: str, unit: str, example: str) -> Key:
    """Return the key of the floors of a check: for its benchmarks, and each of their cases."""
    high = 100.0 if unit == "%" else float("inf")
    return Key(name, float, unit=unit, high=high, cases=JUDGES[name], example=example)


MEMORY = _floor("bench.memory", "%", "[hbm.triad]={ at_least = 90 }")
CACHE = _floor("bench.cache", "GB/s", "[l2.read]={ at_least = 7000 }")
COPIES = _floor("bench.copies", "%", "[copy.h2d pinned]={ at_least = 80 }")
PEERS = _floor("bench.peers", "%", "[peer.copy]={ at_least = 80 }")
LAUNCH = _floor("bench.launch", "us", "[launch.kernel wall]={ at_most = 15 }")
TENSOR = _floor("bench.tensor-cores", "%", "[tensor.pipe BF16]={ at_least = 95 }")
MATRIX = _floor("bench.matrix", "%", "[gemm.bf16 8192]={ at_least = 70 }")
COLLECTIVES = _floor("bench.collectives", "%", "[nccl.all-reduce 2 GiB]={ at_least = 70 }")
OVERLAP = _floor("bench.overlap", "%", "[overlap.copy]={ at_least = 90 }")
HOST_MEMORY = _floor("bench.host-memory", "GB/s", "[memory.bandwidth]={ at_least = 150 }")
JITTER = _floor("bench.jitter", "us", "[cpu.jitter]={ at_most = 50 }")
STORAGE = _floor("bench.storage", "GB/s", "[storage.read random]={ at_least = 500 }")
OTHER = Key("bench.other", float, cases=True, example="[NAME]={ at_least = 5 }")
ALIKE = Key("bench.alike", float, unit="%", high=100, cases=True, example="[hbm]={ at_most = 3 }")
SLOWDOWN = Key("bench.slowdown", float, unit="%", high=100, example="={ at_most = 2 }")
ERRORS = Key("bench.errors", int, cases=True)

_LOOK = (
    "# Nothing on the host is wrong for certain. Look for a cause, then measure again:\n"
    "hostcheck audit --only gpu --only pci --only nvlink --only cpu"
)
_FEWEST = 2
_NVLINK = "nvlink"
_LIMITLESS = "its physical limit is not known"
_TOGETHER = "all GPUs copied at once, and share the host's memory"
_LIMITED = f"{_TOGETHER}: a limit of all together, not of this link, which was measured alone, too"


@check(SESSION, id="bench.memory", severity=Severity.HIGH, keys=[MEMORY],
       rows=["cuda-memory-hierarchy", "pat-ch07", "arch-weakest-link", "prof-roofline"],
       references=["S. Bekman, Machine Learning Engineering; Azure AI benchmarking guide"])  # fmt: skip
def memory(session: Session, expect: Expect) -> Iterator[Finding]:
    """GPU memory delivers its bandwidth.

    Most kernels of training and inference wait for memory. Healthy parts reach 83 to 95 % of the datasheet with a
    triad. Less points to a memory clock below its maximum, to another process, to heat, or to a part that is failing.
    """
    yield from _judged(session, MEMORY, expect)


@check(SESSION, id="bench.cache", severity=Severity.MEDIUM, keys=[CACHE], rows=["cuda-memory-hierarchy"])
def cache(session: Session, expect: Expect) -> Iterator[Finding]:
    """The L2 cache of each GPU delivers its bandwidth.

    No vendor publishes a figure: without a floor of the site's own, GPUs are compared with each other (bench.alike).
    """
    yield from _judged(session, CACHE, expect)


@check(SESSION, id="bench.copies", severity=Severity.HIGH, keys=[COPIES],
       rows=["cuda-fewer-transfers", "pat-ch08", "chip-direct-access", "cuda-overlap"])  # fmt: skip
def copies(session: Session, expect: Expect) -> Iterator[Finding]:
    """Copies between host and GPU reach what the link can carry.

    With pinned memory on the right NUMA node a copy engine reaches 81 to 88 % of the raw rate of the negotiated link.
    Less points to a link that trained down, to a relay of the IOMMU or of ACS, or to memory of another node. Where
    several GPUs copied at once they shared the memory of the host: what is too little for one link is then a limit of
    all together, and the number that the GPU reached alone is judged. A GPU that was not measured alone is unknown.
    """
    yield from _judged_alone(session, COPIES, expect)


def _judged_alone(session: Session, key: Key, expect: Expect) -> Iterator[Finding]:
    """Hold each number against its floor; what speaks against one of several at once is left to the one alone."""
    part = about(session, *JUDGES[key.name])
    together = Counter((measured.bench, measured.case) for measured in part.measurements if not measured.alone)
    alone = _alone(part)
    for measured in part.measurements:
        finding = _against(session, measured, key, expect)
        shared = not measured.alone and together[measured.bench, measured.case] > 1
        if shared and (finding.status is Status.FAIL or measured.invalid.startswith(UNSTEADY)):
            finding = _idle(measured, _LIMITED) if _place(measured) in alone else _open(measured)
        yield finding
    yield from _missing(part)
    _something(part, JUDGES[key.name])


def _place(measured: Measurement) -> tuple[str, str, str]:
    return measured.bench, measured.case, measured.subject


def _alone(session: Session) -> dict[tuple[str, str, str], Measurement]:
    """Return what was measured while all other GPUs idled, of what GPUs share at once."""
    return {_place(measured): measured for measured in about(session, *SHARED).measurements if measured.alone}


def _open(measured: Measurement) -> Finding:
    one = measured.subject.removeprefix("gpu")
    why = f"; {measured.invalid}" if measured.invalid else ""
    line = f"{_value(measured)}{why}; {_TOGETHER}: hostcheck bench {measured.bench} --gpus {one} measures it alone"
    return Finding(status=Status.UNKNOWN, subject=measured.subject, summary=line)


@check(SESSION, id="bench.peers", severity=Severity.HIGH, keys=[PEERS],
       rows=["scale-nvlink-bandwidth", "scale-all-to-all"])  # fmt: skip
def peers(session: Session, expect: Expect) -> Iterator[Finding]:
    """Every GPU reaches every other one at the speed of their link.

    One slow pair holds up every collective of the host. NVLink copies reach 86 to 92 % of the raw rate. A pair that
    goes another way fails, however fast that way is, where other pairs of its model go over NVLink. That holds for
    modules (SXM), all of which reach each other: those whose NVLink is not optional in the table of models. Cards have
    it in pairs, where there is a bridge, and go over PCIe between the pairs.
    """
    part = about(session, *JUDGES[PEERS.name])
    linked: dict[str, set[frozenset[int]]] = {}
    for measured in part.measurements:
        if measured.settings.get("transport") == _NVLINK and gpus_in(measured.subject):
            linked.setdefault(_module(session, measured), set()).add(frozenset(gpus_in(measured.subject)))
    for measured in part.measurements:
        module = _module(session, measured)
        detour = _detour(measured, linked.get(module, set())) if module else None
        yield detour or _against(session, measured, PEERS, expect)
    yield from _missing(part)
    _something(part, JUDGES[PEERS.name])


def _module(session: Session, measured: Measurement) -> str:
    """Return the model that all GPUs of a number are of, if it has NVLink to all others in each build; "" if not."""
    # An audit without measurements does without it.
    from hostcheck.gpu_table import find

    named = [session.devices.get(f"gpu{number}", {}) for number in gpus_in(measured.subject)]
    words = ("pci_id", "name", "virtualization")
    told = {tuple(map(device.get, words)) for device in named or session.devices.values()}
    if len(told) != 1:
        return ""
    ((pci_id, name, virtualization),) = told
    model = None if virtualization == "VGPU" else find(pci_id, name=name)
    return "" if model is None or model.nvlink is None or model.nvlink.optional else model.id


def _detour(measured: Measurement, linked: set[frozenset[int]]) -> Finding | None:
    """Return what is wrong with the way of a pair, or of all GPUs, where other pairs go over NVLink."""
    ways = set(str(measured.settings.get("transport", "")).split(", "))
    slow = ", ".join(sorted(ways - {_NVLINK, ""}))
    way = "over PCIe" if slow == "pcie" else slow.rpartition(": ")[2]
    own = frozenset(gpus_in(measured.subject))
    count = len(linked - {own})
    if slow and own and count:
        those = f"{count} other pairs of this model go" if count > 1 else "another pair of this model goes"
        why = f"goes {way}, where {those} over NVLink"
    elif slow and not own and _NVLINK in ways:
        why = f"goes {way} between some GPUs, and over NVLink between others"
    else:
        return None
    return Finding(
        status=Status.FAIL,
        subject=measured.subject,
        summary=f"{_name(measured) if measured.invalid or measured.value is None else _value(measured)}; {why}",
        observed=slow,
        fix="# Look for links that are down, and for Xids in dmesg.\n"
        "nvidia-smi topo -p2p n\n"
        "hostcheck audit --only nvlink --only gpu",
        actor=Actor.OPERATOR,
        source="NVML, while hostcheck bench ran",
        expected=Expected(text="over NVLink", key="", layer="host", source="the other pairs"),
    )


@check(SESSION, id="bench.launch", severity=Severity.LOW, keys=[LAUNCH],
       rows=["cuda-graphs", "sched-fuse-kernels", "pat-ch10-12", "cuda-repeatable-timing"])  # fmt: skip
def launch(session: Session, expect: Expect) -> Iterator[Finding]:
    """Kernels start as fast as on hosts of the same kind.

    The CPU's clock and sleep states, the IOMMU and virtualisation decide. No public figure holds for all hosts: without
    a floor of the site's own, GPUs are compared with each other (bench.alike).
    """
    yield from _judged(session, LAUNCH, expect)


@check(SESSION, id="bench.tensor-cores", severity=Severity.HIGH, keys=[TENSOR],
       rows=["prec-tensorcore-tmem", "prof-roofline"])  # fmt: skip
def tensor_cores(session: Session, expect: Expect) -> Iterator[Finding]:
    """Tensor cores compute at the rate that their clock allows.

    Measured without memory traffic and held against multiprocessors x clock x operations at the clock of that moment,
    so that power and heat play no part: what is missing here is missing in the chip.
    """
    yield from _judged(session, TENSOR, expect)


@check(SESSION, id="bench.multiprocessors", severity=Severity.CRITICAL, rows=["bench-validate", "prof-roofline"])
def multiprocessors(session: Session, expect: Expect) -> Iterator[Finding]:
    """Each multiprocessor of each GPU computes the same result, in the same time.

    One that computes wrongly corrupts training without a trace in any log; no ECC sees it.
    """
    part = about(session, *JUDGES["bench.multiprocessors"])
    # The chains of tensor.pipe compare what multiprocessors compute, too; their rates are another check's.
    chains = [measured for measured in about(session, "tensor.*").measurements if measured.details.get("wrong_sms")]
    for measured in (*part.measurements, *chains):
        wrong, slow = (str(measured.details.get(word) or "") for word in ("wrong_sms", "slow_sms"))
        if wrong or (slow and not measured.invalid):
            found = ((f"computes wrongly: {wrong}", wrong), (f"is slow: {slow}", slow))
            what = "; ".join(words for words, there in found if there)
            yield Finding(
                status=Status.FAIL,
                subject=measured.subject,
                summary=f"{_name(measured)}: {what}",
                observed=wrong or slow,
                severity=None if wrong else Severity.MEDIUM,
                fix="# Drain the host and run the vendor's field diagnostics on this GPU.",
                actor=Actor.REPLACE if wrong else Actor.OPERATOR,
                source="hostcheck bench",
                expected=Expected(text="the same of each", key="", layer="host", source="the other multiprocessors"),
            )
        elif measured.invalid:
            yield _unknown(measured)
        else:
            yield _passed(measured, f"{_name(measured)}: all multiprocessors agree")
    yield from _missing(part)
    if not chains:
        _something(part, JUDGES["bench.multiprocessors"])


@check(SESSION, id="bench.matrix", severity=Severity.HIGH, keys=[MATRIX],
       rows=["prec-fp8-fp4", "cuda-scalability", "pat-ch09", "arch-goodput", "x-micro-gemm"])  # fmt: skip
def matrix(session: Session, expect: Expect) -> Iterator[Finding]:
    """Matrix products of the libraries reach the usual share of the datasheet.

    This is what training can reach at most. SXM parts reach 73 to 87 % in BF16 and 71 to 78 % in FP8: power decides.
    Less points to a power cap, to heat, to clocks that somebody set, or to a library that chose a poor kernel.
    """
    yield from _judged(session, MATRIX, expect)


@check(SESSION, id="bench.collectives", severity=Severity.HIGH, keys=[COLLECTIVES],
       rows=["net-allreduce-topology", "prof-collectives", "pat-profile-small-first", "arch-cluster-size",
             "pat-nccl-debug", "x-net-transport-used", "x-micro-nccl", "x-micro-nccl-stability"])  # fmt: skip
def collectives(session: Session, expect: Expect) -> Iterator[Finding]:
    """Collective operations reach the bandwidth of their algorithm and transport.

    Where they do not, the transport is usually not the one that was meant, and each step of training waits for it. A
    floor holds for a GPU model, a number of GPUs, a transport and a message size; an in-switch reduction (NVLS) shows
    more than the link carries, a ring less.
    """
    yield from _judged(session, COLLECTIVES, expect)
    for subject, why in dict.fromkeys(
        (measured.subject, str(measured.details["fallback"]))
        for measured in about(session, *JUDGES["bench.collectives"]).measurements
        if measured.details.get("fallback")
    ):
        yield Finding(
            status=Status.FAIL,
            subject=subject,
            summary=why,
            fix="env | grep NCCL_  # and of the job: nothing there should turn off what the hardware has",
            actor=Actor.OPERATOR,
            source="NCCL's own log",
            expected=Expected(text="from GPU to GPU", key="", layer="host", source="the GPUs have NVLink"),
        )


@check(SESSION, id="bench.overlap", severity=Severity.MEDIUM, keys=[OVERLAP],
       rows=["cuda-overlap", "mind-stage-overlap", "io-overlap-transfer"])  # fmt: skip
def overlap(session: Session, expect: Expect) -> Iterator[Finding]:
    """Copies hide behind computation.

    Where they do not, each batch waits for its input: pageable memory, one stream for all, or a copy engine that is
    taken. As with copies, what several GPUs did at once is left to what one does alone.
    """
    yield from _judged_alone(session, OVERLAP, expect)


@check(SESSION, id="bench.host-memory", severity=Severity.MEDIUM, keys=[HOST_MEMORY],
       rows=["arch-weakest-link", "x-micro-numa-bw"])  # fmt: skip
def host_memory(session: Session, expect: Expect) -> Iterator[Finding]:
    """The memory of each NUMA node delivers its bandwidth.

    An empty or failed channel shows as a node far below the others (bench.alike).
    """
    yield from _judged(session, HOST_MEMORY, expect)


@check(SESSION, id="bench.jitter", severity=Severity.LOW, keys=[JITTER], rows=["x-k8s-jitter"])
def jitter(session: Session, expect: Expect) -> Iterator[Finding]:
    """A pinned loop on the CPU is seldom held up for long.

    One process that is held up holds up the collective of all. Interrupts, other processes and firmware do it.
    """
    yield from _judged(session, JITTER, expect)


@check(SESSION, id="bench.storage", severity=Severity.MEDIUM, keys=[STORAGE],
       rows=["io-storage-bandwidth", "io-gds-bandwidth", "x-micro-storage"])  # fmt: skip
def storage(session: Session, expect: Expect) -> Iterator[Finding]:
    """The storage that was named delivers the rate that its site expects.

    Only the site knows what its storage should do: set bench.storage in a site file or a checklist.
    """
    yield from _judged(session, STORAGE, expect)


@check(SESSION, id="bench.other", severity=Severity.MEDIUM, keys=[OTHER])
def other(session: Session, expect: Expect) -> Iterator[Finding]:
    """Each further benchmark reaches the floor that its site set.

    We know of none for benchmarks of plug-ins: set "bench.other[NAME]" in a site file or a checklist, in the unit of
    the benchmark.
    """
    known = [pattern for patterns in JUDGES.values() for pattern in patterns]
    taken = {measured.bench for measured in about(session, *known).measurements}
    taken |= {missing.bench for missing in about(session, *known).missing}
    every = {measured.bench for measured in session.measurements} | {missing.bench for missing in session.missing}
    part = about(session, *(every - taken))
    yield from _held_against(session, part, OTHER, expect)
    if every <= taken:
        raise NotApplicable("there are no others")


@check(SESSION, id="bench.alike", severity=Severity.MEDIUM, keys=[ALIKE],
       rows=["arch-weakest-link", "scale-all-to-all"])  # fmt: skip
def alike(session: Session, expect: Expect) -> Iterator[Finding]:
    """Equal parts of one host measure alike.

    The slowest GPU sets the pace of all. What is several per cent below its equals under the same load has another
    clock, temperature, link or memory than they have. A copy that was behind while all GPUs copied at once is excused
    where it is not behind alone.
    """
    compared = [group for group in equals(session) if len(group) >= _FEWEST]
    if not compared:
        raise NotApplicable("nothing was measured on two equal parts")
    alone = _alone(session)
    for group in compared:
        for measured in group:
            middle = others(measured, group)
            off = behind(measured, middle)
            expectation = expect.of(traits(session, measured))(ALIKE, *cases(measured))
            side = "above" if lower_is_better(measured.unit) else "below"
            equal = f"the median of {len(group) - 1} equals" if len(group) > _FEWEST else "its equal"
            say = f"{_value(measured)}, {off:g} % {side} {equal} ({_number(middle)})"
            finding = expectation.judge(off, subject=measured.subject, say=say, fix=_LOOK, source="hostcheck bench")
            again = None if measured.alone else alone.get(_place(measured))
            if finding.status is Status.FAIL and again is not None:
                finding = _idle(measured, f"{off:g} % below its equals, {_TOGETHER}; it was measured alone, too")
                # Alone it can only be faster: what is behind even so is behind for a reason of its own.
                if not again.invalid and again.value is not None:
                    off = behind(again, middle)
                    say = f"{_value(again)} alone, and still {off:g} % below {equal} at once ({_number(middle)})"
                    own = expectation.judge(off, subject=again.subject, say=say, fix=_LOOK, source="hostcheck bench")
                    finding = own if own.status is Status.FAIL else finding
            yield finding


@check(SESSION, id="bench.slowdown", severity=Severity.HIGH, keys=[SLOWDOWN], rows=["arch-cooling-power"])
def slowdown(session: Session, expect: Expect) -> Iterator[Finding]:
    """No heat and no power supply slowed a GPU down while it was measured.

    A job on a GPU that is slowed holds up all others of its collective. Airflow, a fan, a heat sink or a power supply
    that is too weak does it. A software power cap under a tensor load is no slowdown of this kind, but normal.
    """
    worst: dict[str, tuple[float, str, str]] = {}
    counted: set[str] = set()
    for measured, subject, conditions in _watched(session):
        if not conditions.throttled_ns.keys().isdisjoint(HEAT):
            counted.add(subject)
        for reason, words in SLOWDOWNS.items():
            part = conditions.share(reason)
            worst[subject] = max(worst.get(subject, (0.0, "", "")), (part, words, measured.bench))
    if not worst:
        raise NotApplicable("no GPU was watched")
    for subject, (part, words, bench) in worst.items():
        if subject not in counted and not part:
            yield Finding(status=Status.NOT_APPLICABLE, subject=subject, summary="no counter of slowdowns is on record")
            continue
        percent = round(100 * part, 1)
        yield expect(SLOWDOWN).judge(
            percent,
            subject=subject,
            say=f"{words} for {percent:g} % of the time of {bench}" if part else "no slowdown by heat or power supply",
            fix="# Look at airflow, fans, inlet temperature and power supplies.\n"
            "nvidia-smi -q -d PERFORMANCE,TEMPERATURE",
            source="NVML, while hostcheck bench ran",
        )


@check(SESSION, id="bench.errors", severity=Severity.CRITICAL, keys=[ERRORS], rows=["bench-validate"])
def errors(session: Session, expect: Expect) -> Iterator[Finding]:
    """No error was counted while the GPUs were measured.

    Errors that show under load are those that end jobs: uncorrectable memory errors, rows that were remapped, links of
    NVLink and PCIe that repeat what they sent. Links repeat now and then: the benchmark in which they did it most
    counts, not their sum over a long session, and of one that took longer than 90 s, what they did in 90 s on average.
    """
    grew: dict[str, dict[str, tuple[int, int]]] = {}
    counted: set[str] = set()
    for measured in session.measurements:
        for subject, conditions in measured.watched.items():
            counted |= {subject} if conditions.errors else set()
            for name, more in conditions.errors.items():
                if more and (name in PROVING or name.startswith(("nvlink.", "pcie."))):
                    own = grew.setdefault(subject, {})
                    before = own.get(name, (0, 0))
                    # Against what is allowed in a short one: rounded up, so that one too many stays one too many.
                    part = -(-more * MANY // allowed(conditions.seconds))
                    own[name] = (before[0] + more,) * 2 if name in PROVING else max(before, (part, more))
    watched = [subject for _, subject, _ in _watched(session)]
    if not watched and not grew:
        raise NotApplicable("no GPU was watched")
    for subject in dict.fromkeys((*watched, *grew)):
        if subject not in counted:
            yield Finding(status=Status.NOT_APPLICABLE, subject=subject, summary="no counter of errors is on record")
        elif not grew.get(subject):
            yield Finding(status=Status.PASS, subject=subject, summary="no error was counted", observed=0)
        for name, (part, more) in grew.get(subject, {}).items():
            long = f", {part} in 90 s on average" if part < more else ""
            yield expect(ERRORS, name).judge(
                part,
                subject=subject,
                say=f"{name} grew by {more} while it was measured{long}",
                fix="# Drain the host, then let the audit tell what to reset or to replace.\n"
                "hostcheck audit --only gpu --only nvlink --only pci",
                source="NVML, before and after each benchmark",
            )


def _watched(session: Session) -> Iterator[tuple[Measurement, str, Conditions]]:
    """Yield the conditions of each GPU that took part in a measurement; of several where they are not told apart."""
    for measured in session.measurements:
        for subject, conditions in measured.watched.items():
            is_gpu = subject in session.devices or subject == ALL_GPUS or gpus_in(subject)
            if is_gpu and conditions.seconds:
                yield measured, subject, conditions


def _judged(session: Session, key: Key, expect: Expect) -> Iterator[Finding]:
    """Hold each number of a check's benchmarks against its floor."""
    part = about(session, *JUDGES[key.name])
    yield from _held_against(session, part, key, expect)
    _something(part, JUDGES[key.name])


def _held_against(session: Session, part: Session, key: Key, expect: Expect) -> Iterator[Finding]:
    for measured in part.measurements:
        yield _against(session, measured, key, expect)
    yield from _missing(part)


def _against(session: Session, measured: Measurement, key: Key, expect: Expect) -> Finding:
    if measured.invalid or measured.value is None:
        return _unknown(measured)
    return _held(session, measured, key, expect)


def _held(session: Session, measured: Measurement, key: Key, expect: Expect) -> Finding:
    names = cases(measured)
    own = f"{key.name}[{names[0]}]"
    try:
        found = expect.of(traits(session, measured))(key, *names)
    except ExpectationMissing:
        is_share = key.unit == "%" and not measured.limit
        return _idle(measured, _LIMITLESS if is_share else f"no floor is known (set {own!r})")
    is_named = found.name != key.name
    observed = in_unit_of(key, measured)
    if observed is None:
        # What a layer of ours wants of all hosts, nobody set for this one.
        if is_named and found.layer not in (*shipped_names("defaults"), *shipped_names("bench")):
            return _undecided(measured, f"{_LIMITLESS}, of which {found.name!r} wants {found.view.text}")
        return _idle(measured, _LIMITLESS)
    if key.unit != "%":
        # Only a floor with the full name of a number is in its unit for certain.
        if found.name != own and key.unit not in ("", measured.unit):
            if is_named:
                floor = f"the floor {found.name!r} is in {key.unit}"
                return _undecided(measured, f"{floor}, and this in {measured.unit}: set {own!r}")
            return _idle(measured, f"no floor is in {measured.unit} (set {own!r})")
        found = replace(found, unit=measured.unit)
    if lower_is_better(found.view.unit) and isinstance(found.matcher, AtLeast):
        why = f"{found.name!r} is {found.view.text}, and less of a time is better: set at_most"
        return _undecided(measured, why)
    return found.judge(observed, subject=measured.subject, say=_value(measured), fix=_LOOK, source="hostcheck bench")


def _missing(part: Session) -> Iterator[Finding]:
    """Yield one finding for each reason for which a subject has no number; the same words for all benchmarks."""
    reasons: dict[tuple[str, str, Status], list[str]] = {}
    for missing in part.missing:
        status = Status.ERROR if missing.bug else Status.UNKNOWN if missing.applies else Status.NOT_APPLICABLE
        reasons.setdefault((missing.subject, missing.why, status), []).append(missing.bench)
    for (subject, why, status), benches in reasons.items():
        yield Finding(status=status, subject=subject, summary=why, source=f"hostcheck bench {' '.join(benches)}")


def _something(part: Session, patterns: tuple[str, ...]) -> None:
    if not part.measurements and not part.missing:
        raise NotApplicable(f"not measured: hostcheck bench {' '.join(repr(pattern) for pattern in patterns)}")


def _unknown(measured: Measurement) -> Finding:
    why = measured.invalid or "there is no number"
    return Finding(status=Status.UNKNOWN, subject=measured.subject, summary=f"{_name(measured)}: {why}")


def _idle(measured: Measurement, why: str) -> Finding:
    return Finding(status=Status.NOT_APPLICABLE, subject=measured.subject, summary=f"{_value(measured)}; {why}")


def _undecided(measured: Measurement, why: str) -> Finding:
    return Finding(status=Status.UNKNOWN, subject=measured.subject, summary=f"{_value(measured)}; {why}")


def _passed(measured: Measurement, line: str) -> Finding:
    return Finding(status=Status.PASS, subject=measured.subject, summary=line, observed=measured.value)


def _name(measured: Measurement) -> str:
    return f"{measured.bench} {measured.case}".strip()


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _value(measured: Measurement) -> str:
    line = f"{_name(measured)}: {_number(measured.value or 0.0)} {measured.unit}"
    if measured.limit and measured.value is not None and not lower_is_better(measured.unit):
        source = f", {measured.limit_source}" if measured.limit_source else ""
        line += f" ({measured.value / measured.limit:.1%} of {_number(measured.limit)}{source})"
    return line
