"""Where commands write to: files as a whole, and never over a device, a pipe or a link."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from hostcheck.cli.options import write
from hostcheck.errors import HostcheckError


def test_a_file_is_replaced_as_a_whole_and_a_link_stays_one(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("before")
    link.symlink_to(target)
    write(link, b"after", private=True)
    assert link.is_symlink()
    assert target.read_bytes() == b"after"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "target"]


def test_a_pipe_is_written_into_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    came: list[bytes] = []
    reader = threading.Thread(target=lambda: came.append(pipe.read_bytes()))
    reader.start()
    write(pipe, b"all of it")
    reader.join(60)
    assert came == [b"all of it"]
    assert pipe.is_fifo()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
@pytest.mark.parametrize(("minor", "says"), [(3, ""), (7, "No space left on device")])
def test_a_device_is_written_into_and_not_replaced(tmp_path: Path, minor: int, says: str) -> None:
    device = tmp_path / "device"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        device.open("rb").close()
    except OSError:
        pytest.skip("no devices can be made here")
    if says:
        with pytest.raises(HostcheckError, match=says):
            write(device, b"lost")
    else:
        write(device, b"lost")
    assert device.is_char_device()


def test_what_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    for path, says in ((tmp_path, "Is a directory"), (tmp_path / "no" / "where", "No such file or directory")):
        with pytest.raises(HostcheckError, match=says):
            write(path, b"x")
    assert not list(tmp_path.iterdir())
