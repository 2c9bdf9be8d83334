"""Neutralising text of a host: what cannot be seen, or would act on a terminal, becomes a visible escape."""

from __future__ import annotations

import re
import unicodedata

# Printable by their category and yet invisible: fillers, joiners and variation selectors
# (Default_Ignorable_Code_Point), and the blank Braille pattern.
_BLANK = "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef"
_HIDDEN = re.compile(f"[{_BLANK}]")

_TYPOGRAPHIC = str.maketrans({
    "–": "-", "—": "-", "‑": "-", "−": "-", "…": "...", "·": "-", "•": "*", "×": "x", "→": "->", "←": "<-",
    "≥": ">=", "≤": "<=", "≈": "~", "±": "+/-", "°": " deg ", "µ": "u", "μ": "u", "Ω": "Ohm",
    "‘": "'", "’": "'", "“": '"', "”": '"', "®": "(R)", "™": "(TM)", "©": "(C)",
})  # fmt: skip


def safe(text: str) -> str:
    """Return one line without anything that a reader cannot see.

    Control characters (C0, DEL, C1), escape sequences, line breaks, bidirectional overrides, zero-width and other
    format characters, private-use characters and lone surrogates are written as `\\x1b`, `\\n`, `\\u202e`; unusual
    spaces become plain ones.
    """
    if text.isprintable() and (text.isascii() or not _HIDDEN.search(text)):
        return text
    return "".join(map(_visible, text))


def safe_lines(text: str) -> list[str]:
    """Return the lines of a text that may have several, each of them safe; no blank lines at the ends."""
    return [safe(line.replace("\t", "    ")).rstrip() for line in text.strip("\n").split("\n")]


def json_safe(document: str) -> str:
    """Return a JSON document in which each such character inside a string is an escape; it reads back as the same."""
    if document.isascii() and "\x7f" not in document:
        return document
    return "\n".join(
        line
        if line.isprintable() and not _HIDDEN.search(line)
        else "".join(_utf16_escape(character) if hidden(character) else character for character in line)
        for line in document.split("\n")
    )


def ascii_only(text: str) -> str:
    """Return the text for a terminal without UTF-8: typographic characters spelt out, all others as escapes."""
    if text.isascii():
        return text
    return text.translate(_TYPOGRAPHIC).encode("ascii", "backslashreplace").decode("ascii")


def clip(text: str, most: int) -> str:
    """Return the text, or its beginning with the number of characters left out."""
    if len(text) <= most:
        return text
    return f"{text[:most].rstrip()} … ({len(text) - most:,} more characters)"


def hidden(character: str) -> bool:
    """Return whether a reader could not see a character, or could be misled by it."""
    if character.isprintable():
        return _HIDDEN.match(character) is not None
    return unicodedata.category(character) != "Zs"


def _visible(character: str) -> str:
    if not hidden(character):
        return character if character.isprintable() else " "
    code = ord(character)
    named = {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}
    if code in named:
        return named[code]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _utf16_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
