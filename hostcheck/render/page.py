"""A page of terminal text: neutralised, wrapped between words, coloured or not."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from collections.abc import Mapping

from rich.cells import cell_len
from rich.text import Text

from hostcheck.model import Severity
from hostcheck.render.safe import ascii_only, clip, safe, safe_lines

PIPED_WIDTH = 100
WIDEST = 110
"""Longer lines are hard to read, however wide the terminal is."""
SEVERITY_STYLE = {
    Severity.CRITICAL: "bold red",
    Severity.HIGH: "red",
    Severity.MEDIUM: "yellow",
    Severity.LOW: "",
    Severity.INFO: "dim",
}
_LONGEST = 2000
_WORD = re.compile(r"\S+\s*|\s+")


class Page:
    """Lines of styled text. Everything that is put on it is made safe here, and nothing on it is read as markup.

    Args:
        width: columns; nothing but a single long word or a line of a fix is longer.
        color: whether to write colours.
        ascii: whether the reader's terminal is without UTF-8.
    """

    def __init__(self, *, width: int, color: bool, ascii: bool) -> None:
        self.width = max(20, min(width, WIDEST))
        self.ascii = ascii
        self._color = color
        self._lines: list[Text] = []

    def blank(self) -> None:
        """Put an empty line, unless there is one already."""
        if self._lines and self._lines[-1].plain:
            self._lines.append(Text())

    def put(self, *parts: str | tuple[str, str], indent: int = 0, hang: int | None = None, between: str = " ") -> None:
        """Put a paragraph of parts, each a text or (text, style), wrapped between words.

        A paragraph without any text leaves no line.

        Args:
            parts: empty ones are left out.
            indent: columns left free.
            hang: columns left free from the second line on; as `indent` where none are given.
            between: what separates the parts.
        """
        line = Text()
        for part in parts:
            text, style = part if isinstance(part, tuple) else (part, "")
            if text:
                line.append(self._plain(between) if line else "").append(self._plain(text), style)
        if not line:
            return
        self._wrap(line, indent, indent if hang is None else hang)

    def pair(self, label: str, value: str, *, width: int, indent: int = 2) -> None:
        """Put a label and its value in two columns; one above the other where the page is narrow."""
        if self.width < 60:
            self.put((f"{label}:", "dim"), value, indent=indent, hang=indent + 2)
            return
        line = Text().append(self._plain(label).ljust(width), "dim").append(self._plain(value))
        self._wrap(line, indent, indent + width)

    def verbatim(self, text: str, *, indent: int = 0, style: str = "") -> None:
        """Put lines as they are, however long, so that they can be copied.

        A here-document ends only at a word in the first column: such a text is not indented.
        """
        margin = "" if "<<" in text else " " * indent
        for line in safe_lines(text):
            self._lines.append(Text(margin).append(ascii_only(line) if self.ascii else line, style))

    def text(self) -> str:
        """Return the page."""
        if not self._color:
            return "".join(f"{line.plain}\n" for line in self._lines)
        # Half of what loading the text form costs; without colours there is nothing for it to do.
        from rich.console import Console

        console = Console(
            file=io.StringIO(),
            width=10_000,
            force_terminal=True,
            color_system="standard",
            markup=False,
            highlight=False,
            emoji=False,
            legacy_windows=False,
        )
        with console.capture() as captured:
            for line in self._lines:
                console.print(line, no_wrap=True, overflow="ignore", crop=False)
        return captured.get()

    def _plain(self, text: str) -> str:
        shown = safe(clip(text, _LONGEST))
        return ascii_only(shown) if self.ascii else shown

    def _wrap(self, line: Text, indent: int, hang: int) -> None:
        cuts: list[int] = []
        at = indent
        for word in _WORD.finditer(line.plain):
            if at + cell_len(word[0].rstrip()) > self.width and at > (hang if cuts else indent):
                cuts.append(word.start())
                at = hang
            at += cell_len(word[0])
        for number, piece in enumerate(line.divide(cuts)):
            piece.rstrip()
            self._lines.append(Text(" " * (hang if number else indent)).append_text(piece))


def wants_color(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether standard output is for colours: NO_COLOR, then FORCE_COLOR, then TERM=dumb, then a terminal."""
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return environ["FORCE_COLOR"] != "0"
    return environ.get("TERM") != "dumb" and sys.stdout.isatty()


def wants_ascii() -> bool:
    """Return whether standard output cannot take every character."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return encoding.lower().replace("-", "").replace("_", "") not in ("utf8", "utf8sig")


def page_width(environ: Mapping[str, str] = os.environ) -> int:
    """Return the columns of the terminal, or a fixed number where there is none."""
    if environ.get("COLUMNS", "").isdecimal() or sys.stdout.isatty():
        return shutil.get_terminal_size((PIPED_WIDTH, 24)).columns
    return PIPED_WIDTH
