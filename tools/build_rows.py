"""Bring ids, sections and classes of hostcheck/rows.toml up to date with the checklist document.

    python -m tools.build_rows CHECKLIST.md [--check]

The titles are ours and stay as they are in rows.toml; a row without one stops the build. The numbers of rows by section
and class are compared with the table of counts that the document itself holds.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

OUTPUT = Path(__file__).parents[1] / "hostcheck/rows.toml"

HEADER = """\
# The rows of the performance checklist: id, class and title. Titles are written by hand here; the rest is kept up to
# date by tools/build_rows.py. Classes: probe (can be read), tune (can be read and changed), bench (is measured),
# workload (needs a running job, its script or its pod), advice (no machine can tell; attested by an operator).
"""

CLASSES = ("probe", "tune", "bench", "workload", "advice")

_SECTION = re.compile(r"### (?:(\d+)\. )?(.+?)(?: \(.*\))?")
_CLASS = re.compile(rf" ({'|'.join(CLASSES)}) ")


@dataclass(frozen=True, slots=True)
class Found:
    """One row of the document: its section's number, its id and class."""

    section: int
    id: str
    kind: str


def rows_of(text: str) -> list[Found]:
    """Return the rows of the document; sections without a number follow the numbered ones."""
    found: list[Found] = []
    section = 0
    inside = False
    for line in text.splitlines():
        if line.startswith("## "):
            inside = line.startswith(("## Appendix items", "## Supplementary"))
        elif inside and (match := _SECTION.fullmatch(line)):
            section = int(match[1]) if match[1] else section + 1
        elif inside and (id := re.search(r"\| `([a-z0-9-]+)` \|", line)):
            kind = next((cell.strip() for cell in line[id.end() :].split("|") if _CLASS.fullmatch(cell)), "")
            found.append(Found(section, id[1], kind))
    return found


def faults(rows: Sequence[Found], text: str) -> list[str]:
    """Return where the rows differ from the document's own table of counts."""
    found = [f"{id}: there are two rows of this id" for id, n in Counter(row.id for row in rows).items() if n > 1]
    found += [f"{row.id}: has no class" for row in rows if not row.kind]
    for line in text.splitlines():
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        if len(cells) != 10 or not cells[4].isdigit():
            continue
        if cells[0].isdigit():
            own = [row for row in rows if row.section == int(cells[0])]
        elif cells[1].startswith("supplementary"):
            own = [row for row in rows if row.id.startswith("x-")]
        else:
            own = [row for row in rows if not row.id.startswith("x-") or cells[1] == "all rows"]
        counts = [len(own), *(sum(row.kind == kind for row in own) for kind in CLASSES)]
        if counts != [int(cell) for cell in cells[4:]]:
            found.append(f"{cells[1]}: the document counts {', '.join(cells[4:])}, its rows give {counts}")
    return found


def write(rows: Sequence[Found], sections: Mapping[int, str], titles: Mapping[str, str]) -> str:
    """Return the text of rows.toml."""
    lines = [HEADER.rstrip()]
    for number in sorted({row.section for row in rows}):
        lines += ["", "[[section]]", f"number = {number}", f'title = "{sections[number]}"', "rows = ["]
        lines += [f'  ["{row.id}", "{row.kind}", "{titles[row.id]}"],' for row in rows if row.section == number]
        lines.append("]")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Rewrite rows.toml, or with --check only say whether it is up to date."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("document", type=Path)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    document = given.document.read_text("utf-8")
    present = OUTPUT.read_text("utf-8")
    table = tomllib.loads(present)["section"]
    sections = {section["number"]: section["title"] for section in table}
    titles = {id: title for section in table for id, _, title in section["rows"]}
    rows = rows_of(document)
    problems = faults(rows, document)
    problems += [f"section {number} has no title" for number in {row.section for row in rows} - set(sections)]
    problems += [f"{row.id}: has no title" for row in rows if row.id not in titles]
    problems += [f"{id}: is not in the document" for id in titles if id not in {row.id for row in rows}]
    if not problems:
        made = write(rows, sections, titles)
        if given.check and made != present:
            problems = [f"{OUTPUT.name} is not up to date"]
        elif not given.check:
            OUTPUT.write_text(made, "utf-8")
    print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
