"""GPUs: persistence, ECC, MIG, compute mode, MPS, and an option of the driver."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from hostcheck.checks.gpu_memory import ECC_MODE
from hostcheck.checks.gpu_modes import COMPUTE_MODE, MIG, MPS, PERSISTENCE, TOPOLOGY_OVERRIDE
from hostcheck.errors import NotApplicable, need
from hostcheck.expect import Expect, Expectation, ExpectationMissing
from hostcheck.facts.addons import ADDONS, Addons
from hostcheck.facts.base import each
from hostcheck.facts.dropins import MARK, OWN, OwnFiles
from hostcheck.facts.gpu import DRIVER, GPUS, Driver, Gpu
from hostcheck.facts.gpu_health import board_class
from hostcheck.facts.process import DAEMONS, Daemons
from hostcheck.facts.units import PERSISTENCED, UNITS, Units
from hostcheck.registry import tuner
from hostcheck.tuning.change import Change, Kind, Needs, Refusal, Reload, Risk, Scope

from .gpu_settings import again_at_boot, forgets, need_own, set_gpu, uuid_of
from .making import because, by_hand, drop_in, pick
from .services import start

Steps = Iterator[Change | Refusal]

_ON = {True: "Enabled", False: "Disabled"}
_FLAG = "--no-persistence-mode"
_DAEMON_CHECKS = ("gpu.persistence-daemon", "gpu.persistence-mode")


@tuner(
    GPUS, UNITS, DAEMONS, OWN, id="gpu.persistence", fixes=[*_DAEMON_CHECKS, "gpu.mig-persistence"],
    rows=["os-persistence-mode", "os-persistence-mig"], keys=[PERSISTENCE],
    references=["https://docs.nvidia.com/deploy/driver-persistence/index.html"],
)  # fmt: skip
def persistence(gpus: Sequence[Gpu], units: Units, daemons: Daemons, own: OwnFiles, expect: Expect) -> Steps:
    """Keep the driver ready between jobs, by NVIDIA's daemon nvidia-persistenced.

    The legacy mode of nvidia-smi alone, which a reboot ends, is never made. An idle GPU draws a few watts more, and
    the driver's modules stay in use. Where the unit carries --no-persistence-mode, a drop-in of ours takes it off,
    which counts once the daemon is restarted. Rollback stops and disables the daemon, if it was so.
    """
    concerned = [(gpu, wanted) for gpu in gpus if (wanted := _wants_persistence(gpu, expect)) is not None]
    if not concerned:
        raise NotApplicable("no GPU here is to stay ready between jobs")
    off = [gpu for gpu, _ in concerned if not need(gpu.persistence_mode)]
    source = because(concerned[0][1])
    runs = daemons.has("/run/nvidia-persistenced/socket") or daemons.runs("nvidia-persistenced")
    unit = units.unit(PERSISTENCED)
    if runs and (unit is None or unit.active != "active"):
        # Something else than its unit started it, such as a container of the GPU operator.
        yield from _by_daemon(off, source)
        return
    failing = [check for check, fails in zip(_DAEMON_CHECKS, (not runs, bool(off)), strict=True) if fails]
    why = "the driver keeps GPUs ready between jobs"
    package = "nvidia-persistenced or nvidia-compute-utils, of the driver's version"
    yield from start(units, PERSISTENCED, package=package, why=why, source=source, fixes=failing)
    if unit is None or unit.why_not:
        return
    if _FLAG in unit.command:
        yield from _without_flag(own, unit.command, source, restart=unit.active == "active")
    if unit.active == "active":
        yield from _by_daemon(off, source)


def _wants_persistence(gpu: Gpu, expect: Expect) -> Expectation | None:
    if isinstance(gpu.persistence_mode, NotApplicable):
        return None
    if isinstance(gpu.name, str) and board_class(gpu.name) == "laptop":
        return None
    wanted = expect.of(gpu.traits)(PERSISTENCE)
    return wanted if wanted.matcher.matches(True) and not wanted.matcher.matches(False) else None


def _by_daemon(off: Sequence[Gpu], source: str) -> Steps:
    """Yield what lets a daemon that runs keep the GPUs that it does not: nvidia-smi asks it to."""
    for gpu in off:
        why, fixes = "nvidia-persistenced keeps it ready between jobs", ["gpu.persistence-mode"]
        yield set_gpu(gpu, "persistence", "Disabled", "Enabled", why=why, source=source, fixes=fixes)


def _without_flag(own: OwnFiles, command: Sequence[str], source: str, *, restart: bool) -> Steps:
    path = f"/etc/systemd/system/{PERSISTENCED}.d/{MARK}persistence.conf"
    if not all(re.fullmatch(r"[A-Za-z0-9_./=:,@+-]+", word) for word in command):
        yield Refusal(target=path, why=f"its unit starts it with {_FLAG} in a way that hostcheck does not rewrite")
        return
    words = " ".join(word for word in command if word != _FLAG)
    yield from drop_in(
        own,
        path,
        ["[Service]", "ExecStart=", f"ExecStart={words}"],
        why=f"nvidia-persistenced starts without {_FLAG}, so that GPUs stay ready from boot on",
        source=source,
        needs=Needs.SERVICE_RESTART if restart else Needs.NOTHING,
        reload=Reload.SYSTEMD,
    )


@tuner(
    each(GPUS), id="gpu.ecc-mode", fixes=["gpu.ecc-mode"], rows=["gpu-ecc"], keys=[ECC_MODE],
    references=["https://docs.nvidia.com/deploy/nvidia-smi/index.html"],
)  # fmt: skip
def ecc_mode(gpu: Gpu, expect: Expect) -> Steps:
    """Ask for ECC to be on, or off, from the next reset of the GPU on.

    The GPU keeps the request itself, also over a reboot. The reset is the operator's: it ends every process on the
    GPU. Boards with GDDR, which come with ECC off, give up about 6 % of their memory: asked for by name alone.
    Rollback takes the request back, as long as it waits.
    """
    need_own(gpu, "its host sets ECC")
    current, pending = need(gpu.ecc.current), need(gpu.ecc.pending)
    wanted = expect(ECC_MODE)
    value = pick(f"{gpu.subject} ecc", wanted, current)
    if isinstance(value, Refusal):
        yield value
    elif value != current and value != pending:
        yield set_gpu(
            gpu,
            "ecc",
            _ON[pending],
            _ON[value is True],
            why=f"ECC is {'on' if value else 'off'} from the next reset on, which the operator makes",
            source=because(wanted),
            risk=Risk.MEDIUM,
            scope=Scope.PERSISTENT,
            needs=Needs.GPU_RESET,
            opt_in=board_class(need(gpu.name)) != "data-centre",
        )


@tuner(
    each(GPUS), id="gpu.mig-policy", fixes=["gpu.mig-policy", "gpu.mig-devices"], rows=["gpu-mig"], keys=[MIG],
    references=["https://docs.nvidia.com/datacenter/tesla/mig-user-guide/"],
)  # fmt: skip
def mig_policy(gpu: Gpu, expect: Expect) -> Steps:
    """Switch MIG on or off, where the site expects it: gpu.mig-policy.

    Only on a GPU without processes and without MIG devices, and only by name: on Ampere the driver resets the GPU for
    it, later ones forget the mode at a reboot. The slices themselves are made by nvidia-mig-manager, or where the site
    expects a layout by the tuner gpu.mig-layout. Rollback switches the mode back.
    """
    wanted = expect(MIG)
    need_own(gpu, "its host makes the slices")
    current, pending = need(gpu.mig.current), need(gpu.mig.pending)
    target = f"{gpu.subject} mig"
    value = pick(target, wanted, current)
    if isinstance(value, Refusal):
        yield value
    elif value == current:
        if current and not need(gpu.mig.devices):
            why = "MIG is on and there are no devices: expect a gpu.mig-layout, or let nvidia-mig-manager make them"
            yield by_hand(target, why, because(wanted), [f"nvidia-smi mig -i {gpu.index} -lgip"])
    elif value != pending:
        busy = need(gpu.processes)
        devices = need(gpu.mig.devices) if current else ()
        if busy:
            yield Refusal(target=target, why=f"{len(busy)} processes run on {gpu.subject}: drain it, then plan again")
        elif devices:
            gone = f"nvidia-smi mig -i {gpu.index} -dci, then -dgi, removes them"
            why = f"{len(devices)} MIG devices would be gone, and no rollback brings them back ({gone})"
            yield Refusal(target=target, why=why)
        elif gpu.architecture != "Ampere" and (lost := forgets(gpu, "mig")):
            yield lost
        else:
            yield set_gpu(
                gpu,
                "mig",
                _ON[pending],
                _ON[value is True],
                why=f"MIG is {'on' if value else 'off'}, as this host is meant to have it",
                source=because(wanted),
                risk=Risk.HIGH,
                scope=Scope.PERSISTENT if gpu.architecture == "Ampere" else Scope.RUNTIME,
                needs=Needs.GPU_RESET,
                opt_in=True,
            )


_SETTABLE = ("Default", "Exclusive_Process", "Prohibited")


@tuner(
    GPUS, OWN, id="gpu.compute-mode", fixes=["gpu.compute-mode"], rows=["gpu-mps"], keys=[COMPUTE_MODE],
    references=["https://docs.nvidia.com/deploy/nvidia-smi/index.html"],
)  # fmt: skip
def compute_mode(gpus: Sequence[Gpu], own: OwnFiles, expect: Expect) -> Steps:
    """Set the compute mode: which programs a GPU admits.

    Processes that run go on. Every mode but Default, which a GPU has after a boot, is set again by a unit of ours.
    Rollback sets the old mode.
    """
    options: dict[str, str] = {}
    source = ""
    for gpu in gpus:
        try:
            need_own(gpu, "its host sets the compute mode")
            mode, wanted = need(gpu.compute_mode), expect.of(gpu.traits)(COMPUTE_MODE)
        except (NotApplicable, ExpectationMissing):
            continue
        value = pick(f"{gpu.subject} compute-mode", wanted, mode)
        if isinstance(value, Refusal):
            yield value
            continue
        if value != mode and (lost := forgets(gpu, "compute mode")):
            yield lost
            continue
        source = because(wanted)
        if value != "Default" and not wanted.matcher.matches("Default"):
            options[uuid_of(gpu)] = f"-c {str(value).upper()}"
        if value != mode and mode not in _SETTABLE:
            why = f"it is {mode}, which nvidia-smi no longer sets, so that no rollback could: set {value} by hand"
            yield Refusal(target=f"{gpu.subject} compute-mode", why=why)
        elif value != mode:
            risk = Risk.LOW if value == "Default" else Risk.MEDIUM
            why, fixes = f"programs are admitted as {value} says", ["gpu.compute-mode"]
            yield set_gpu(gpu, "compute-mode", mode, str(value), why=why, source=source, fixes=fixes, risk=risk)
    yield from again_at_boot(own, "gpu-compute-mode", options, why="the compute mode is set", source=source)


_MPS_UNIT = "hostcheck-mps.service"
_MPS_LINES = (
    "[Unit]",
    "Description=hostcheck: CUDA MPS control daemon",
    f"Wants={PERSISTENCED}",
    f"After={PERSISTENCED}",
    "",
    "[Service]",
    "Type=forking",
    "ExecStartPre=/bin/sh -c 'nvidia-smi -c EXCLUSIVE_PROCESS'",
    "ExecStart=/usr/bin/nvidia-cuda-mps-control -d",
    "ExecStop=/bin/sh -c 'echo quit | /usr/bin/nvidia-cuda-mps-control'",
    "",
    "[Install]",
    "WantedBy=multi-user.target",
)


@tuner(
    GPUS, ADDONS, DAEMONS, OWN, id="gpu.mps", fixes=["gpu.mps"], rows=["gpu-mps"], keys=[MPS],
    references=["https://docs.nvidia.com/deploy/mps/index.html"],
)  # fmt: skip
def mps(gpus: Sequence[Gpu], addons: Addons, daemons: Daemons, own: OwnFiles, expect: Expect) -> Steps:
    """Run MPS by a unit of ours, with every GPU open to its server alone, where the site expects it: gpu.mps.

    Small processes then run on a GPU side by side. They share one server: when one of them faults, all on that GPU
    end. Programs that do not find its pipe directory are turned away. Rollback stops and disables the unit and sets
    the old compute modes.
    """
    wanted = expect(MPS)
    runs = daemons.has("/tmp/nvidia-mps/control") or daemons.runs("nvidia-cuda-mps-control")  # noqa: S108
    value = pick("MPS", wanted, runs)
    if isinstance(value, Refusal):
        yield value
    elif runs and value is False:
        yield Refusal(target="MPS", why="it serves programs: echo quit | nvidia-cuda-mps-control, when they have ended")
    elif value is True:
        yield from _mps_on(gpus, addons, own, because(wanted), runs=runs)


def _mps_on(gpus: Sequence[Gpu], addons: Addons, own: OwnFiles, source: str, *, runs: bool) -> Steps:
    for gpu in gpus:
        need_own(gpu, "its host runs MPS")
    busy = [gpu.subject for gpu in gpus if any(process.kind != "G" for process in need(gpu.processes))]
    path = f"/etc/systemd/system/{_MPS_UNIT}"
    if not addons.mps:
        why = "nvidia-cuda-mps-control is not installed: install nvidia-compute-utils of the driver's version"
        yield Refusal(target="MPS", why=why)
        return
    if busy and not runs:
        yield Refusal(target="MPS", why=f"processes run on {', '.join(busy)} without it: drain, then plan again")
        return
    lost = [refusal for gpu in gpus if (refusal := forgets(gpu, "compute mode"))]
    if lost:
        yield from lost
        return
    for gpu in gpus:
        mode = need(gpu.compute_mode)
        if mode != "Exclusive_Process":
            why, fixes = "no program goes past the MPS server", ["gpu.mps"]
            after = "Exclusive_Process"
            yield set_gpu(gpu, "compute-mode", mode, after, why=why, source=source, fixes=fixes, risk=Risk.MEDIUM)
    if runs and _MPS_UNIT not in own.enabled:
        return  # somebody else starts it
    why = "small processes share a GPU side by side"
    yield from drop_in(own, path, _MPS_LINES, why=why, source=source, risk=Risk.MEDIUM, reload=Reload.SYSTEMD)
    if not runs:
        yield Change(
            kind=Kind.UNIT,
            target=_MPS_UNIT,
            before="enabled inactive" if _MPS_UNIT in own.enabled else "disabled inactive",
            after="enabled active",
            scope=Scope.PERSISTENT,
            why=why,
            risk=Risk.MEDIUM,
            source=source,
            fixes=("gpu.mps",),
        )


@tuner(
    GPUS, DRIVER, OWN, id="gpu.grdma-topology", fixes=["gpu.grdma-topology"], rows=["net-peermem"],
    keys=[TOPOLOGY_OVERRIDE],
)  # fmt: skip
def grdma_topology(gpus: Sequence[Gpu], driver: Driver, own: OwnFiles, expect: Expect) -> Steps:
    """Let RDMA adapters attach to GPU memory on Grace superchips of the Blackwell generation.

    An option of the driver, which counts once its modules are loaded again: at the next reboot, after the initramfs
    was rebuilt if it holds the driver. Rollback takes the file away.
    """
    wanted = expect.of(gpus[0].traits if gpus else {})(TOPOLOGY_OVERRIDE)
    text = need(driver.params).get("GrdmaPciTopoCheckOverride")
    if text is None or not text.isdigit():
        raise NotApplicable("this driver has no option GrdmaPciTopoCheckOverride")
    option = "NVreg_GrdmaPciTopoCheckOverride"
    value = pick(option, wanted, int(text))
    if isinstance(value, Refusal):
        yield value
        return
    if value == int(text):
        return
    theirs = own.others.module_option("nvidia", option)
    if theirs is not None and not theirs.ours and theirs.value == f"{value}":
        return  # it waits for a reboot
    if theirs is not None and not theirs.gives_way:
        yield Refusal(target=option, why=f"{theirs.owner} sets it to {theirs.value!r}: change it there")
        return
    yield from drop_in(
        own,
        f"/etc/modprobe.d/{MARK}nvidia.conf",
        [f"options nvidia {option}={value}"],
        why="RDMA adapters reach GPU memory by dma-buf",
        source=because(wanted),
        risk=Risk.MEDIUM,
        needs=Needs.REBOOT,
    )
