"""Which file wins: our reading of drop-in folders against systemd's own programs, on trees of random files."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from hostcheck.facts.owner_files import find_tmpfile, sources
from hostcheck.facts.owners import _LOAD, _SYSCTL, _TMPFILES, FILES_PROBE
from hostcheck.snapshot.local import collect

NAMES = ("10-a.conf", "50-default.conf", "90-hostcheck-x.conf", "99-site.conf", "B.conf", "zz.conf", "_x.conf")
FOLDERS = ("etc", "run", "usr/local/lib", "usr/lib")

needs = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None or shutil.which("systemd-tmpfiles") is None,
    reason="systemd's programs are not installed",
)


def tree(root: Path, kind: str, lines: str, dice: random.Random) -> None:
    """Make a tree of drop-ins; `lines` has a place for a word that no other file has. Some are masked, some linked."""
    (root / "var").mkdir()
    for folder in FOLDERS:
        for name in dice.sample(NAMES, 3):
            path = root / folder / f"{kind}.d" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            how = dice.random()
            if how < 0.15 and folder == "etc":
                path.symlink_to("/dev/null")
            elif how < 0.3:
                target = root / f"var/{folder.replace('/', '-')}-{name}"
                target.write_text(lines.format(folder=folder.replace("/", "-"), name=name))
                path.symlink_to(os.path.relpath(target, path.parent))
            else:
                path.write_text(lines.format(folder=folder.replace("/", "-"), name=name))


def found(root: Path, folders: tuple[str, ...]) -> list[str]:
    """Return the paths that count, by our reading, in order; what is masked by an empty file says nothing."""
    reading = collect([FILES_PROBE], root=str(root)).reading(FILES_PROBE.id)
    return [source.path for source in sources(reading, folders, ".conf") if source.text]


@needs
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("kind", "folders"), [("sysctl", _SYSCTL), ("modules-load", _LOAD), ("tmpfiles", _TMPFILES)])
def test_the_order_of_drop_ins_is_systemds(tmp_path: Path, kind: str, folders: tuple[str, ...], seed: int) -> None:
    tree(tmp_path, kind, "# {folder} {name}\n", random.Random(seed))
    said = subprocess.run(
        ["systemd-analyze", "cat-config", f"--root={tmp_path}", f"{kind}.d/"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    theirs = [line.removeprefix(f"# {tmp_path}") for line in said.splitlines() if line.startswith(f"# {tmp_path}")]
    mine = found(tmp_path, folders)
    assert [path for path in theirs if (tmp_path / path[1:]).read_text()] == mine
    assert mine


@needs
@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize(
    ("kinds", "targets"),
    [
        (("w", "w+", "w!"), ("/data/x",)),
        (("w", "w!"), ("/data/x", "/data/x", "/data/*", "/data/?", "/da*/x", "/data/y", "/*")),
    ],
    ids=["one path", "globs"],
)
def test_what_is_written_at_boot_is_what_systemd_writes(
    tmp_path: Path, kinds: tuple[str, ...], targets: tuple[str, ...], seed: int
) -> None:
    dice = random.Random(seed)
    tree(tmp_path, "tmpfiles", "KIND TARGET - - - - WORD\n", dice)
    for number, path in enumerate(sorted(tmp_path.rglob("*.conf"))):
        if path.is_file() and not path.is_symlink():
            text = path.read_text().replace("KIND", dice.choice(kinds)).replace("TARGET", dice.choice(targets))
            path.write_text(text.replace("WORD", f"{number:04}"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/x").write_text("none")
    subprocess.run(["systemd-tmpfiles", f"--root={tmp_path}", "--create", "--boot"], capture_output=True)
    reading = collect([FILES_PROBE], root=str(tmp_path)).reading(FILES_PROBE.id)
    mine = find_tmpfile(sources(reading, _TMPFILES, ".conf"), "/data/x")
    written = (tmp_path / "data/x").read_text()
    # All words are of one length: what is written replaces what is there, and what is added ends the file.
    assert (mine.value if mine else "none") == written[-4:], written
