"""Hosts that mean harm: what they send is cut off, refused or shown as what it is, and harms nobody else."""

from __future__ import annotations

import io
import os
import tarfile
import zlib
from collections.abc import Iterator

import pytest

import sshlab
from hostcheck.errors import HostcheckError
from hostcheck.snapshot.archive import read_archive
from hostcheck.transport.base import Answer, Reach
from sshlab import TEXT, Lab, refused


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    sshlab.require()
    with sshlab.lab() as built:
        yield built


def ask(lab: Lab, address: str, *, text: bytes = TEXT, **further: object) -> Answer:
    return sshlab.ask(address, lab.config, text, **further)  # type: ignore[arg-type]


def hostile(lab: Lab, name: str, rest: str) -> str:
    return lab.host(name, command=f"{sshlab.HOSTILE}{rest}").address


@pytest.mark.parametrize(
    ("name", "rest"), [("out", "cat /dev/zero"), ("err", "cat /dev/zero >&2"), ("both", "yes & yes >&2")]
)
def test_a_host_that_does_not_stop_sending(lab: Lab, name: str, rest: str) -> None:
    answer = ask(lab, hostile(lab, f"flood-{name}", rest), most=4 << 20)
    refused(answer, Reach.TOO_MUCH, "more than 4 MiB", "cut off")
    assert answer.received < 6 << 20


def test_noise_without_end(lab: Lab) -> None:
    refused(ask(lab, lab.host("noise", command="yes").address, most=1 << 20), Reach.TOO_MUCH, "1 MiB")


def packed(members: dict[str, bytes | str], *, hostname: str = "evil") -> bytes:
    """Return an archive with these members besides a good manifest; a string is a link's target."""
    manifest = f"schema=1\ntool=1\nproducer=sh\ntime=1\nuptime=1\nhostname={hostname}\nuid=0\ncomplete=1\n".encode()
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as tar:
        for name, content in {"manifest": manifest, **members}.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return held.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("traversal", packed({"p/../../../etc/cron.d/x": b"x"}), "has no place"),
        ("link", packed({"p/memory.vm/out": "/etc/shadow"}), "is not a plain file"),
        ("nonsense", b"\x1f\x8b" + b"nonsense" * 100, "not a readable hostcheck archive"),
        ("cut", packed({"p/memory.vm/out": os.urandom(50_000)})[:20_000], "cut off"),
    ],
)
def test_an_archive_that_means_harm_is_received_and_refused(lab: Lab, name: str, data: bytes, says: str) -> None:
    (lab.folder / name).write_bytes(data)
    answer = ask(lab, hostile(lab, f"evil-{name}", f"cat {lab.folder}/{name}"))
    assert (answer.reach, answer.out) == (Reach.OK, data)
    with pytest.raises(HostcheckError, match=says):
        read_archive(answer.out)


def test_a_bomb(lab: Lab) -> None:
    # 300 MiB of zeros as 300 times the same piece, each of which starts afresh.
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    pieces = [packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)]
    (lab.folder / "bomb").write_bytes(pieces[0] + pieces[1] * 300)
    answer = ask(lab, hostile(lab, "bomb", f"cat {lab.folder}/bomb"))
    assert answer.received < 1 << 20
    with pytest.raises(HostcheckError, match="unpacks to more than"):
        read_archive(answer.out)


def test_escape_codes_do_not_reach_a_terminal(lab: Lab) -> None:
    answer = ask(lab, hostile(lab, "codes", r"printf 'hostcheck: \033[2J\033]0;owned\007 \302\233 x\n' >&2; exit 1"))
    refused(answer, Reach.ERROR, r"\x1b[2J", r"\x9b")
    shown = ask(lab, lab.host("codes2", command=r"printf '\033[31mred\n'").address)
    refused(shown, Reach.SHELL, r"\x1b[31mred")


def test_another_hosts_name_changes_nothing_here(lab: Lab) -> None:
    (lab.folder / "alias").write_bytes(packed({}, hostname="node1"))
    answer = ask(lab, hostile(lab, "alias", f"cat {lab.folder}/alias"))
    assert read_archive(answer.out).manifest.hostname == "node1"


def test_a_host_that_never_reads_the_program(lab: Lab) -> None:
    answer = ask(lab, lab.host("deaf", command="sleep 20").address, text=b"#" * (8 << 20), seconds=2)
    refused(answer, Reach.TIMEOUT, "2 s")
