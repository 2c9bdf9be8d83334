"""What several tuners of GPUs share: one setting of one GPU, and a script that makes settings again after each boot."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from hostcheck.errors import NotApplicable, Unavailable, need
from hostcheck.facts.dropins import OwnFiles
from hostcheck.facts.gpu import Gpu
from hostcheck.facts.units import PERSISTENCED
from hostcheck.tuning.change import Change, Kind, Needs, Refusal, Risk, Scope

from .making import unit_at_boot


def need_own(gpu: Gpu, why: str) -> None:
    """Go on only where the GPU is this machine's own, which one that is passed through whole is.

    Raises:
        NotApplicable: it is a slice that a hypervisor hands out.
        Unavailable: nobody tells.
    """
    if isinstance(gpu.virtualization, Unavailable):
        raise gpu.virtualization
    if gpu.virtualization == "VGPU":
        raise NotApplicable(f"a virtual GPU: {why}")


def uuid_of(gpu: Gpu) -> str:
    """Return a GPU's UUID, which goes into commands.

    Raises:
        Unavailable: it is not told, or is none.
    """
    uuid = need(gpu.uuid)
    if not re.fullmatch(r"GPU-[0-9a-fA-F-]{8,40}", uuid):
        raise Unavailable(f"{gpu.subject}: {uuid[:60]!r} is no UUID of a GPU", "gpu.smi")
    return uuid


def forgets(gpu: Gpu, setting: str) -> Refusal | None:
    """Return why a setting would not hold until the next boot: without persistence it ends with the last program."""
    if gpu.persistence_mode is not False:
        return None
    why = "persistence is off, and the GPU would forget it at once: first hostcheck tune apply --only gpu.persistence"
    return Refusal(target=f"{gpu.subject} {setting}", why=why)


def set_gpu(
    gpu: Gpu,
    setting: str,
    before: str | None,
    after: str,
    *,
    why: str,
    source: str,
    fixes: Sequence[str] = (),
    risk: Risk = Risk.LOW,
    scope: Scope = Scope.RUNTIME,
    needs: Needs = Needs.NOTHING,
    opt_in: bool = False,
) -> Change:
    """Return the change of one setting of one GPU; `hostcheck.tuning.change.Kind` tells the settings."""
    return Change(
        kind=Kind.GPU,
        target=f"{uuid_of(gpu)} {setting}",
        before=before,
        after=after,
        scope=scope,
        why=f"gpu{gpu.index}: {why}",
        risk=risk,
        needs=needs,
        source=source,
        fixes=tuple(fixes),
        opt_in=opt_in,
    )


def again_at_boot(
    own: OwnFiles,
    name: str,
    options: Mapping[str, str],
    *,
    why: str,
    source: str,
    risk: Risk = Risk.LOW,
    opt_in: bool = False,
) -> Iterator[Change]:
    """Yield a unit of ours that makes settings again after each boot, since GPUs forget them.

    It has nvidia-persistenced started first, without which they would be forgotten at once.

    Args:
        name: of the unit.
        options: UUID of a GPU to the options of nvidia-smi; none where nothing is to be kept.
    """
    if options:
        script = [f"nvidia-smi -i {uuid} {words}" for uuid, words in sorted(options.items())]
        kept = f"{why}: made again after each boot"
        yield from unit_at_boot(
            own, name, script, after=PERSISTENCED, wants=True, why=kept, source=source, risk=risk, opt_in=opt_in
        )
