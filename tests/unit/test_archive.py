"""The archive's reader: what an honest producer wrote comes back; anything else is one clear line."""

from __future__ import annotations

import gzip
import io
import tarfile
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.errors import HostcheckError, Unavailable
from hostcheck.snapshot.archive import read_archive, write_archive
from hostcheck.snapshot.reading import Ending, Entry, FileState, Manifest, Reading, Snapshot
from hostcheck.snapshot.streams import parse_head, parse_ls

MANIFEST = b"schema=1\ntool=0\nproducer=sh\ntime=1700000000\nuptime=5.0\nhostname=h\nuid=0\ncomplete=1\n"


def tar(*members: tuple[str, bytes] | tarfile.TarInfo, manifest: bytes | None = MANIFEST) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        if manifest is not None:
            members = (("manifest", manifest), *members)
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return packed.getvalue()


def whole() -> Snapshot:
    files = {
        "/proc/a": FileState(Ending.OK, b"1\n"),
        "/proc/b": FileState(Ending.OK, b""),
        "/proc/c": FileState(Ending.DENIED, b"", "Permission denied"),
        "/proc/d": FileState(Ending.ABSENT, b"", "No such file or directory"),
        "/proc/e": FileState(Ending.ERROR, b"", "Invalid argument"),
        "/proc/f": FileState(Ending.TRUNCATED, b"12", "truncated at 2 bytes"),
        "/proc/g": FileState(Ending.OK, b"\xff\x00no newline"),
    }
    entries = {
        "/dev/x": Entry("c", "rw-r--r--", 0, 5),
        "/sys/l": Entry("l", "rwxrwxrwx", target="../a b"),
        "/root/x": Entry("?"),
    }
    later = Reading("a.files", Ending.OK, 0, 0.0, 9.0, asked=("/proc/*",), files={"/proc/a": files["/proc/a"]})
    readings = {
        "a.files": Reading("a.files", Ending.OK, 0, 0.0, 5.0, asked=("/proc/*",), files=files, later=later),
        "a.list": Reading("a.list", Ending.OK, 0, 0.0, 5.0, asked=("/dev/x",), entries=entries),
        "a.tool": Reading("a.tool", Ending.EXIT, 9, 1.5, 5.0, out=b"out", err=b"no devices"),
        "a.slow": Reading("a.slow", Ending.TIMEOUT, None, 10.0, 5.0, note="no answer in 10 s"),
    }
    return Snapshot(Manifest(1, "0", "local", 1700000000.0, 5.0, "h", 0), readings)


def test_what_was_written_is_read_back() -> None:
    packed = io.BytesIO()
    write_archive(whole(), packed)
    assert read_archive(packed.getvalue()) == whole()


def test_equal_snapshots_give_equal_bytes() -> None:
    first, second = io.BytesIO(), io.BytesIO()
    write_archive(whole(), first)
    write_archive(whole(), second)
    assert first.getvalue() == second.getvalue()


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "not a readable hostcheck archive"),
        (b"garbage" * 100, "not a readable hostcheck archive"),
        (b"\x1f\x8b garbage", "not a readable hostcheck archive"),
        (tar(manifest=None), "it has no manifest"),
        (tar(("etc/passwd", b"x")), "has no place in a hostcheck archive"),
        (tar(("../../etc/cron.d/x", b"x")), "has no place in a hostcheck archive"),
        (tar(("/p/a/out", b"x")), "has no place in a hostcheck archive"),
        (tar(("p/../x/out", b"x")), "has no place in a hostcheck archive"),
        (tar(("p/a.b/out\x1b[31m", b"x")), "has no place"),
        (tar(("p/a.b/out", b"x"), ("p/a.b/out", b"y")), "is there twice"),
        (tar(manifest=b"schema=99\ntool=9.9\n"), r"made by a newer hostcheck \('9.9', archive schema 99\)"),
        (tar(manifest=b"schema=x\n"), "its manifest is broken"),
        (tar(manifest=MANIFEST.replace(b"complete=1\n", b"")), "the host did not finish writing it"),
        (tar(manifest=MANIFEST.replace(b"1700000000", b"nan")), "its manifest is broken"),
        (tar(manifest=b"\xff\xfe"), "its manifest is broken"),
        (gzip.compress(tar())[:-20], "it is cut off"),
        (gzip.compress(b"\0" * (300 << 20)), "unpacks to more than"),
        (tar(*[(f"p/a{number}/out", b"") for number in range(2100)]), "more than 2000 members"),
        (tar(("p/+7/asked", b"/x")), "has no place"),
        (tar(("p/+7/status", b"ok 0 1 2 -\n"), ("p/+7/list", b"../a\n-\n/x\n")), "is no probe"),
        (tar(("p/+7/status", b"ok 0 1 2 -\n"), ("p/+7/list", b"a.b\nmany\n/x\n")), "invalid literal"),
        (tar(("asked", b"a b\t/x\n")), "is no probe"),
    ],
)
def test_a_foreign_or_broken_archive_is_one_line(data: bytes, complaint: str) -> None:
    with pytest.raises(HostcheckError, match=complaint) as problem:
        read_archive(data)
    assert "\n" not in str(problem.value)
    assert "\x1b" not in str(problem.value)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(kind: bytes) -> None:
    member = tarfile.TarInfo("p/a.b/out")
    member.type, member.linkname = kind, "/etc/shadow"
    with pytest.raises(HostcheckError, match="is not a plain file"):
        read_archive(tar(member))


def test_a_file_that_is_not_there_is_one_line(tmp_path) -> None:
    with pytest.raises(HostcheckError, match="No such file"):
        read_archive(tmp_path / "x")
    with pytest.raises(HostcheckError, match="Is a directory"):
        read_archive(tmp_path)


@given(st.binary(max_size=400), st.integers(0, 3000))
def test_no_damage_raises_anything_else(noise: bytes, at: int) -> None:
    packed = io.BytesIO()
    write_archive(whole(), packed)
    plain = bytearray(gzip.decompress(packed.getvalue()))
    plain[at : at + len(noise)] = noise
    with suppress(HostcheckError):
        read_archive(bytes(plain))


def test_a_file_with_a_header_in_it_stays_one_file() -> None:
    out = b"==> /dev/null <==\n\n==> /a <==\n==> /c <==\nx\n\n==> /b <==\ny\n"
    files = parse_head(out, b"", {"/a": None, "/b": None})
    assert files["/a"].data == b"==> /c <==\nx\n"
    assert files["/b"].data == b"y\n"


@pytest.mark.parametrize(
    "complaint",
    [
        b"head: cannot open '/a' for reading: Permission denied\n",
        b"head: /a: Permission denied\n",
    ],
)
def test_both_spellings_of_a_refusal_are_understood(complaint: bytes) -> None:
    files = parse_head(b"==> /dev/null <==\n\n==> /b <==\ny\n", complaint, {"/a": None, "/b": None})
    assert (files["/a"].ending, files["/b"].ending) == (Ending.DENIED, Ending.OK)


def test_a_file_that_left_no_trace_is_not_empty() -> None:
    files = parse_head(b"==> /dev/null <==\n", b"", {"/a": None})
    assert files["/a"].ending is Ending.ERROR


def test_links_and_devices_of_ls_are_read() -> None:
    text = (
        b"crw-rw-rw- 1 0 0 195, 255 Nov 20 03:57 /dev/nvidiactl\n"
        b"lrwxrwxrwx 1 0 0        0 Nov 20  2025 /sys/x -> ../../devices/pci0000:00/0000:00:06.0\n"
    )
    entries = parse_ls(text, b"ls: cannot access '/root/x': Permission denied\n")
    assert entries["/dev/nvidiactl"].kind == "c"
    assert entries["/sys/x"].target == "../../devices/pci0000:00/0000:00:06.0"
    assert entries["/root/x"].kind == "?"


def reading() -> Reading:
    return whole().readings["a.files"]


def test_absent_is_knowledge_and_the_rest_is_not() -> None:
    assert reading().read("/proc/a") == "1"
    assert reading().read("/proc/d") is None
    assert reading().read("/proc/z") is None  # matched by the glob, and not there
    for path in ("/proc/c", "/proc/e", "/proc/f", "/sys/never-asked"):
        with pytest.raises(Unavailable):
            reading().read(path)


def test_a_glob_with_an_unread_file_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        reading().glob("/proc/*")
    with pytest.raises(Unavailable, match="was not collected"):
        reading().glob("/sys/*")


def test_a_list_that_may_not_be_looked_at_is_unavailable() -> None:
    listed = whole().readings["a.list"]
    assert listed.entry("/dev/x") is not None
    with pytest.raises(Unavailable, match="permission denied"):
        listed.entry("/root/x")
    with pytest.raises(Unavailable, match="was not collected"):
        listed.entry("/dev/other")


def test_a_group_that_did_not_end_well_tells_nothing_of_its_probes() -> None:
    listed, out = b"a.b\n-\n/dev/x\n", b"==> /dev/null <==\n\n==> /dev/x <==\n1\n"
    for status, ending in ((b"ok 0 1 2 -\n", Ending.OK), (b"timeout - 1 2 -\n", Ending.ERROR), (b"", Ending.ERROR)):
        members = [("asked", b"a.b\t/dev/x\n"), ("p/+7/list", listed), ("p/+7/out", out), ("p/+7/status", status)]
        reading = read_archive(tar(*members)).readings["a.b"]
        assert reading.ending is ending
        assert bool(reading.files) is (ending is Ending.OK)
