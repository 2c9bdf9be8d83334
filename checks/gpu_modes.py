"""GPUs: the modes that somebody sets: persistence, MIG, MPS, compute mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hostcheck.errors import NotApplicable, Unavailable, need
from hostcheck.expect import Expect, Expectation, ExpectationMissing, Key, failed, passed
from hostcheck.facts.base import each
from hostcheck.facts.gpu import DRIVER, GPUS, Driver, Gpu
from hostcheck.facts.gpu_health import board_class
from hostcheck.facts.gpu_mig import MIG_DEVICES, NO_INSTANCES, MigDevices
from hostcheck.facts.owner_files import DROP_IN
from hostcheck.facts.platform import PLATFORM, Platform
from hostcheck.facts.process import DAEMONS, Daemons
from hostcheck.matchers import Equals, OneOf
from hostcheck.model import Actor, Finding, Severity, Status
from hostcheck.registry import check

PERSISTENCE = Key("gpu.persistence-mode", bool)
MIG = Key("gpu.mig-policy", bool)
MIG_LAYOUT = Key("gpu.mig-layout", str)
MPS = Key("gpu.mps", bool)
TOPOLOGY_OVERRIDE = Key("gpu.grdma-topology", int, high=1)
COMPUTE_MODE = Key("gpu.compute-mode", str, words=("Default", "Exclusive_Process", "Exclusive_Thread", "Prohibited"))

_PERSIST = (
    "systemctl enable --now nvidia-persistenced\n"
    "# package nvidia-persistenced or nvidia-compute-utils; its unit must not carry --no-persistence-mode\n"
    "# without the daemon: nvidia-smi -pm 1, which is lost at the next reboot"
)
_PERSISTENCE_ROWS = ["os-persistence-mode"]


@check(each(GPUS), id="gpu.persistence-mode", severity=Severity.MEDIUM, rows=_PERSISTENCE_ROWS, keys=[PERSISTENCE])
def persistence_mode(gpu: Gpu, expect: Expect) -> Finding:
    """Persistence mode is on, so that the driver keeps the GPU ready between jobs.

    Without it the driver shuts the GPU down when its last client ends. Each job then waits for it to start, some
    seconds on a board with eight, and clocks, power limits and other runtime settings fall back to their defaults.
    """
    on = need(gpu.persistence_mode)
    if not on and _is_laptop(gpu):
        raise NotApplicable("a laptop lets its GPU sleep")
    return expect(PERSISTENCE).judge(on, say=f"persistence mode is {'on' if on else 'off'}", fix=_PERSIST)


@check(GPUS, DAEMONS, PLATFORM, id="gpu.persistence-daemon", severity=Severity.LOW, rows=_PERSISTENCE_ROWS)
def persistence_daemon(gpus: Sequence[Gpu], daemons: Daemons, platform: Platform, expect: Expect) -> Finding:
    """The daemon nvidia-persistenced runs, which keeps persistence over reboots.

    The other way, nvidia-smi -pm 1, ends at the next reboot or driver reload; the driver calls it deprecated.
    """
    if all(isinstance(gpu.persistence_mode, NotApplicable) or _is_laptop(gpu) for gpu in gpus):
        raise NotApplicable("this driver has no persistence mode, or this is a laptop, which lets its GPU sleep")
    platform.need_host("the host's daemons are not seen from a container")
    if daemons.has("/run/nvidia-persistenced/socket") or daemons.runs("nvidia-persistenced"):
        return passed("nvidia-persistenced runs")
    on = all(gpu.persistence_mode is True for gpu in gpus)
    line = "nvidia-persistenced does not run" + ("; persistence mode is on by other means" if on else "")
    return failed(line, wanted="the daemon to run", fix=_PERSIST)


def _is_laptop(gpu: Gpu) -> bool:
    return isinstance(gpu.name, str) and board_class(gpu.name) == "laptop"


@check(each(GPUS), id="gpu.mig-mode", severity=Severity.MEDIUM, rows=["gpu-mig"])
def mig_mode(gpu: Gpu, expect: Expect) -> Finding:
    """The MIG mode that was asked for is the one in force.

    A change waits for a reset of the GPU where clients held it. Until then the next reboot silently turns one whole
    GPU into slices, or slices into one GPU.
    """
    current, pending = need(gpu.mig.current), need(gpu.mig.pending)
    word = {True: "on", False: "off"}
    if current == pending:
        return passed(f"MIG is {word[current]}", current)
    return failed(
        f"MIG is {word[current]}, and {word[pending]} after the next reset",
        current,
        wanted=word[pending],
        fix=f"Drain the GPU (a reset ends every process on it), then nvidia-smi --gpu-reset -i {gpu.index}; or take "
        f"the request back: nvidia-smi -i {gpu.index} -mig {int(current)}",
        actor=Actor.RESET_GPU,
    )


@check(each(GPUS), id="gpu.mig-policy", severity=Severity.MEDIUM, rows=["gpu-mig"], keys=[MIG])
def mig_policy(gpu: Gpu, expect: Expect) -> Finding:
    """MIG is on, or off, as this host is meant to have it.

    Slices suit many small jobs; a job over several GPUs needs whole ones, since a GPU in MIG mode takes part in no
    NVLink or peer-to-peer traffic. Which it is only the site can say: expect gpu.mig-policy = true or false.
    """
    try:
        wanted = expect(MIG)
    except ExpectationMissing:
        raise NotApplicable("nothing says whether MIG is wanted here (gpu.mig-policy)") from None
    current = need(gpu.mig.current)
    return wanted.judge(
        current,
        say=f"MIG is {'on' if current else 'off'}",
        fix="Drain the GPU (a change ends every process on it), then "
        f"nvidia-smi -i {gpu.index} -mig {int(not current)}",
        actor=Actor.RESET_GPU,
    )


@check(GPUS, id="gpu.mig-uniform", severity=Severity.LOW, rows=["gpu-mig"])
def mig_uniform(gpus: Sequence[Gpu], expect: Expect) -> Finding:
    """MIG is on for all GPUs of the host or for none.

    A GPU in MIG mode takes part in no NVLink or peer-to-peer traffic, so a host with both kinds can run neither a job
    over all its GPUs nor a uniform set of slices. Where the mixture is meant, waive this check.
    """
    modes = {gpu.subject: gpu.mig.current for gpu in gpus if not isinstance(gpu.mig.current, NotApplicable)}
    if len(modes) < 2:
        raise NotApplicable("fewer than two GPUs here can do MIG")
    sliced = [subject for subject, mode in modes.items() if need(mode)]
    if len(sliced) in (0, len(modes)):
        return passed(f"MIG is {'on' if sliced else 'off'} on all {len(modes)} GPUs", bool(sliced))
    return failed(
        f"MIG is on for {', '.join(sliced)} only",
        ", ".join(sliced),
        wanted="one mode on all GPUs",
        fix="Drain the GPU that is to change (a change ends every process on it), then nvidia-smi -i GPU -mig 0 or 1.",
    )


@check(GPUS, PLATFORM, id="gpu.mig-devices", severity=Severity.MEDIUM, rows=["gpu-mig"])
def mig_devices(gpus: Sequence[Gpu], platform: Platform, expect: Expect) -> Iterator[Finding]:
    """Each GPU in MIG mode has at least one MIG device.

    The mode survives a reboot on some GPUs, the devices never do. A GPU in MIG mode without devices runs nothing, and
    schedulers show it as no GPU at all.
    """
    sliced = [gpu for gpu in gpus if not isinstance(gpu.mig.current, NotApplicable) and need(gpu.mig.current)]
    if not sliced:
        raise NotApplicable("no GPU is in MIG mode")
    platform.need_host("a container shows only the devices that it was given")
    for gpu in sliced:
        number = len(need(gpu.mig.devices))
        if number:
            yield passed(f"{number} MIG devices", number, subject=gpu.subject)
            continue
        yield failed(
            "MIG is on and there are no MIG devices",
            0,
            subject=gpu.subject,
            wanted="at least 1",
            fix=f"nvidia-smi mig -i {gpu.index} -lgip lists the profiles; nvidia-smi mig -i {gpu.index} -cgi PROFILE "
            "-C makes devices. They must be made again after each reboot: use nvidia-mig-manager.",
        )


@check(GPUS, MIG_DEVICES, PLATFORM, id="gpu.mig-layout", severity=Severity.MEDIUM, rows=["gpu-mig"], keys=[MIG_LAYOUT])
def mig_layout(gpus: Sequence[Gpu], devices: MigDevices, platform: Platform, expect: Expect) -> Iterator[Finding]:
    """Each GPU is cut into the MIG devices that this host is meant to have.

    Schedulers count slices by profile: one that is missing, or of another size, is a job that waits for ever. They are
    gone after each reboot. Which there are to be only the site can say: expect gpu.mig-layout =
    "3g.40gb,1g.10gb,1g.10gb", in any order, for each GPU, or "none". A part of a GPU instance is told as the driver
    does: "1c.3g.40gb".
    """
    platform.need_host("a container shows only the devices that it was given")
    asked = 0
    for gpu in gpus:
        try:
            wanted = expect.of(gpu.traits)(MIG_LAYOUT)
            on = need(gpu.mig.current)
        except (NotApplicable, ExpectationMissing):
            continue
        asked += 1
        found = as_expected(devices.of(gpu), wanted) if on else NO_INSTANCES
        profiles = wanted.matcher.value if isinstance(wanted.matcher, Equals) else "PROFILE,PROFILE"
        fix = f"Drain the GPU, then nvidia-smi mig -i {gpu.index} -dci; nvidia-smi mig -i {gpu.index} -dgi"
        if profiles != NO_INSTANCES:
            fix = f"{fix}; nvidia-smi mig -i {gpu.index} -cgi {profiles} -C (until the next reboot)"
        say = f"its MIG devices are {found}" if on else "MIG is off"
        finding = wanted.judge(found, say=say, subject=gpu.subject, fix=fix)
        if on and found == NO_INSTANCES and finding.status is Status.PASS:
            # The driver lists devices; a GPU instance without a compute instance holds its slices and is none.
            say = "it has no MIG devices; whether GPU instances are left without any, nvidia-smi mig -lgi tells"
            finding = Finding(status=Status.UNKNOWN, subject=gpu.subject, summary=say)
        yield finding
    if not asked:
        raise NotApplicable("nothing says which MIG devices are wanted here (gpu.mig-layout), or no GPU can do MIG")


def as_expected(layout: str, wanted: Expectation) -> str:
    """Return a layout in the order in which it is expected; as it is where none of those expected has its profiles."""
    matcher = wanted.matcher
    texts = (matcher.value,) if isinstance(matcher, Equals) else matcher.values if isinstance(matcher, OneOf) else ()
    same = (text for text in texts if isinstance(text, str) and sorted(text.split(",")) == sorted(layout.split(",")))
    return next(same, layout)


@check(each(GPUS), id="gpu.mig-persistence", severity=Severity.MEDIUM, rows=["os-persistence-mig"])
def mig_persistence(gpu: Gpu, expect: Expect) -> Finding:
    """A GPU in MIG mode has persistence mode on.

    When the driver lets go of an idle GPU, its MIG devices are gone, and jobs that name them do not start.
    """
    if not need(gpu.mig.current):
        raise NotApplicable("MIG is off")
    if need(gpu.persistence_mode):
        return passed("MIG is on, and so is persistence mode", True)
    return failed("MIG is on and persistence mode is off", False, wanted="persistence mode on", fix=_PERSIST)


@check(GPUS, DAEMONS, PLATFORM, id="gpu.mps", severity=Severity.LOW, rows=["gpu-mps"], keys=[MPS])
def mps(gpus: Sequence[Gpu], daemons: Daemons, platform: Platform, expect: Expect) -> Iterator[Finding]:
    """Where MPS runs, its GPUs admit one process only, so that nothing goes past the MPS server.

    Programs run on a GPU side by side only through that server. In the default mode one that was started without MPS's
    pipe directory gets a context of its own and shares the GPU in time slices with all clients of MPS. Whether MPS is
    to run only the site can say: expect gpu.mps = true or false.
    """
    platform.need_host("the host's daemons are not seen from a container")
    runs = daemons.has("/tmp/nvidia-mps/control") or daemons.runs("nvidia-cuda-mps-control")  # noqa: S108
    try:
        finding = expect(MPS).judge(
            runs,
            say=f"MPS {'runs' if runs else 'does not run'}",
            subject="host",
            fix=_START_MPS if not runs else _STOP_MPS,
        )
        yield finding
        if finding.status is Status.FAIL:
            return
    except ExpectationMissing:
        pass
    if not runs:
        raise NotApplicable("MPS does not run")
    for gpu in gpus:
        mode = need(gpu.compute_mode)
        if mode == "Exclusive_Process":
            yield passed(f"MPS runs, compute mode is {mode}", mode, subject=gpu.subject)
            continue
        yield failed(
            f"MPS runs, compute mode is {mode}",
            mode,
            subject=gpu.subject,
            wanted="Exclusive_Process",
            fix=f"nvidia-smi -i {gpu.index} -c EXCLUSIVE_PROCESS (lost at the next reboot)",
        )


_START_MPS = "nvidia-smi -c EXCLUSIVE_PROCESS && nvidia-cuda-mps-control -d (both are lost at the next reboot)"
_STOP_MPS = "echo quit | nvidia-cuda-mps-control (ends when its last client does), then nvidia-smi -c DEFAULT"


@check(GPUS, DRIVER, id="gpu.grdma-topology", severity=Severity.HIGH, rows=["net-peermem"], keys=[TOPOLOGY_OVERRIDE],
       references=["https://github.com/NVIDIA/aicr"])  # fmt: skip
def grdma_topology(gpus: Sequence[Gpu], driver: Driver, expect: Expect) -> Finding:
    """On Grace superchips of the Blackwell generation the driver lets RDMA adapters reach GPU memory by dma-buf.

    It refuses a peer that does not share a PCI switch with the GPU, and on these boards none does. NCCL then goes
    through host memory or plain sockets without a word, at a tenth of the speed.
    """
    try:
        wanted = expect.of(gpus[0].traits if gpus else {})(TOPOLOGY_OVERRIDE)
    except ExpectationMissing:
        raise NotApplicable("only Grace superchips of the Blackwell generation need it") from None
    text = need(driver.params).get("GrdmaPciTopoCheckOverride")
    if text is None:
        raise NotApplicable("this driver has no option GrdmaPciTopoCheckOverride")
    if not text.isdigit():
        raise Unavailable(f"GrdmaPciTopoCheckOverride is {text[:40]!r}", "gpu.driver")
    return wanted.judge(
        int(text),
        say=f"the driver's option GrdmaPciTopoCheckOverride is {text}",
        # The file that the tuner writes, so that there is one; a later one of the site's would win over it.
        fix=f"echo 'options nvidia NVreg_GrdmaPciTopoCheckOverride=1' > /etc/modprobe.d/{DROP_IN}nvidia.conf, or "
        "change the file in /etc/modprobe.d that sets it already. Rebuild the initramfs if it holds the driver, drain "
        "the host and reboot it",
        actor=Actor.REBOOT,
    )


@check(each(GPUS), id="gpu.compute-mode", severity=Severity.HIGH, rows=["gpu-mps"], keys=[COMPUTE_MODE])
def compute_mode(gpu: Gpu, expect: Expect) -> Finding:
    """The GPU admits compute programs.

    In the mode "Prohibited" every CUDA program fails with "all CUDA-capable devices are busy or unavailable".
    """
    mode = need(gpu.compute_mode)
    fix = f"nvidia-smi -i {gpu.index} -c DEFAULT"
    return expect(COMPUTE_MODE).judge(mode, say=f"compute mode is {mode}", fix=fix)
