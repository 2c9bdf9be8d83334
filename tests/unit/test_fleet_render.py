"""A fleet as people and programs read it: grouped by host sets, neutralised, and with one verdict."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files

import fleets
import jsonschema
import pytest
from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.cells import cell_len

import runs
from hostcheck.errors import HostcheckError
from hostcheck.model import FleetRun, Run, fleet_exit_code
from hostcheck.render import fleet_group as group
from hostcheck.render.fleet import FORMATS, render_fleet
from hostcheck.render.fleet_hosts import fold_hosts, hosts_line
from hostcheck.render.fleet_json import read_fleet_json
from hostcheck.render.fleet_words import fleet_verdict, hosts_word, observed_range
from hostcheck.render.json import read_json
from hostcheck.render.safe import hidden
from hostcheck.schema import fleet_schema, fleet_schema_text

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def text(fleet: FleetRun, *, verbose: bool = False, width: int = 80, color: bool = False, ascii: bool = False) -> str:
    return render_fleet(fleet, "text", verbose=verbose, color=color, width=width, ascii=ascii)


def flat(shown: str) -> str:
    return " ".join(shown.split())


SHOWN = """\
63 hosts · 2026-11-20 22:50 UTC · hostcheck 0.1.0
  Judged     60 of 63
  Hardware   60 hosts with 2 × Intel Xeon Platinum 8480C, 112 cores, 2 NUMA
             nodes: gpu[01-60]
  Judged by  checklist default for training; failures of severity medium or
             above count

NOT JUDGED  3 hosts; nothing is known about them.

  unreachable: no route to host
    2 hosts: gpu[61-62]
  host key: the key of gpu63 has changed; see ssh-keygen -R gpu63
    gpu63

COULD NOT BE DETERMINED  On 2 hosts; not the same as passed.

  2 checks: gpu.smi: timeout
    2 hosts: gpu[42-43]
    gpu.ecc, gpu.power-limit

FAILING  What touches most hosts first.

  high      gpu.power-limit
    41 hosts: gpu[01-41]
    gpu[01-40] gpu[0-7]: the power limit is 650 W
      expected at least 700 W (gpu/h100-sxm5-80gb: vendor datasheet)
    gpu41 gpu0: the power limit is 600 W
      expected at least 700 W (gpu/h100-sxm5-80gb: vendor datasheet)
    Why: A lower limit costs clock under load.
    Fix: change a setting
      nvidia-smi -i 0 -pl 700
      nvidia-smi -i 1 -pl 700
      nvidia-smi -i 2 -pl 700
      and 5 more fixes: -v shows all

REQUIRED, AND NOT PASSED

  rdma.speed  not applicable
    gpu44

DIFFERING  Hosts with the same hardware ought to be the same in these.

  2 hosts: gpu[07-08]
    of those with 8 x NVIDIA H100 80GB HBM3, 2 x Intel Xeon Platinum 8480C
    NVIDIA driver: 580.159.04; on 57 others 570.86.15
    Kernel: 6.8.0-60; on 58 others 6.8.0-51

NOT COMPARED  What could not be read on some of the hosts with the same
  hardware.

  2 hosts: gpu[42-43]
    NVIDIA driver

OUTLIERS  Far from the median of hosts with the same hardware; nothing fails for
  them.

  GPU temperature when idle (8 x NVIDIA H100 80GB HBM3, 2 x Intel Xeon Platinum
    8480C)
    2 hosts: gpu[17-18] gpu3: 61 °C; the median is 34 °C, 9 deviations away

OTHER NAMES  These hosts are reported under the names that you gave them.

  gpu45 names itself gpu46: that is gpu46 of this fleet

WAIVED  Not counted until the date given.

  network.mtu  until 2027-01-31 by ops: spare part is on order
    gpu44

NOTES  Findings of severity info: worth knowing, never counted.

  software.uptime
    gpu44
    the host has been up for 431 days

SUMMARY  1 check failing, 1 reason for what is undetermined, 1 set of hosts that
  differ, 2 outliers

  not judged    3 hosts: gpu[61-63]
  fail          41 hosts: gpu[01-41]
  undetermined  3 hosts: gpu[42-44]
  pass          16 hosts: gpu[45-60]

  hostcheck explain gpu.power-limit  what a check is for
  -v                                 each host, and every line

FAIL  Of 63 hosts: 41 hosts failed, 3 hosts could not be judged, 3 hosts
  undetermined, 16 hosts passed.
Exit code 1: at least one host has a failure of severity medium or above.
"""


def test_the_whole_of_a_report() -> None:
    assert text(fleets.mixed()) == SHOWN


@pytest.mark.parametrize("name", list(fleets.SAMPLES))
@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("verbose", [False, True])
def test_no_line_is_too_wide_but_for_what_must_stay_whole(name: str, width: int, verbose: bool) -> None:
    shown = text(fleets.SAMPLES[name](), width=width, verbose=verbose)
    for line in shown.splitlines():
        whole = " " not in line.strip() or name == "hostile" or line.lstrip().startswith(("nvidia-smi", "echo"))
        copied = verbose and re.match(r" *[0-9,]+ hosts: \S", line)
        assert whole or copied or cell_len(line) <= width, line
        assert line == line.rstrip()
    assert "\n\n\n" not in shown
    assert shown.endswith(".\n")


@pytest.mark.parametrize("name", list(fleets.SAMPLES))
@pytest.mark.parametrize("format", FORMATS)
def test_no_output_holds_what_a_reader_cannot_see(name: str, format: str) -> None:
    for verbose in (False, True):
        shown = render_fleet(fleets.SAMPLES[name](), format, verbose=verbose, color=False, width=80, ascii=False)
        assert not [character for character in shown if character != "\n" and hidden(character)]


def test_a_terminal_without_utf8_gets_ascii() -> None:
    for make in fleets.SAMPLES.values():
        assert text(make(), ascii=True, verbose=True).isascii()


def test_colours_change_no_word() -> None:
    assert re.sub(r"\x1b\[[0-9;]*m", "", text(fleets.mixed(), color=True)) == SHOWN


def test_a_host_cannot_begin_a_line_of_the_report() -> None:
    for verbose in (False, True):
        lines = text(fleets.hostile(), verbose=verbose).splitlines()
        assert not [line for line in lines if line.startswith(("#", "[", "|"))]
        assert [line for line in lines if line.startswith("FAIL ")] == [lines[-2]]


def test_everything_is_there_for_a_verbose_reader() -> None:
    short, long = text(fleets.huge()), text(fleets.huge(), verbose=True)

    assert len(short.splitlines()) < 150
    assert "-v shows all" in short
    assert "-v shows all" not in long
    for name in fleets.huge().runs:
        assert f"{name}  fail" in long


@pytest.mark.parametrize("name", list(fleets.SAMPLES))
def test_words_say_the_same_as_the_exit_code(name: str) -> None:
    fleet = fleets.SAMPLES[name]()
    verdict = fleet_verdict(fleet)

    assert verdict.code == fleet_exit_code(fleet)
    for format in ("text", "md"):
        shown = render_fleet(fleet, format, color=False, width=80, ascii=False)
        assert f"Exit code {verdict.code}:" in shown


def test_an_absentee_alone_is_no_success() -> None:
    fleet = replace(fleets.SAMPLES["healthy"](), absent=fleets.mixed().absent)

    assert fleet_verdict(fleet).code == 3
    assert "UNDETERMINED  Of 11 hosts: 3 hosts could not be judged, 8 hosts passed." in text(fleet)
    nobody = replace(fleet, runs={})
    assert fleet_verdict(nobody).code == 3
    assert "None of 3 hosts could be judged." in text(nobody)


# grouping


def test_findings_come_by_the_hosts_that_they_touch() -> None:
    def failing(*ids: str, severity: str = "medium") -> Run:
        return runs.run(*(runs.result(id, runs.finding("fail", "x"), severity=severity) for id in ids))

    many = {f"h{n}": failing("a.one", "a.two") for n in range(5)}
    fleet = fleets.fleet({**many, "h5": failing("a.two", "a.three"), "h6": failing("a.grave", severity="critical")})
    low = replace(fleet, runs={**fleet.runs, **{f"l{n}": failing("a.low", severity="low") for n in range(50)}})

    assert [(issue.result.id, len(issue.hosts)) for issue in group.fleet_issues(low)] == [
        ("a.two", 6), ("a.one", 5), ("a.grave", 1), ("a.three", 1), ("a.low", 50),
    ]  # fmt: skip


def test_numbers_that_differ_on_each_host_become_a_range() -> None:
    free, odd = sorted(group.fleet_issues(fleets.huge()), key=lambda issue: issue.result.id)

    (line,) = free.seen
    assert (line.joined, len(line.hosts), line.low, line.high) == (300, 300, 0.0, 299.0)
    assert observed_range(line) == "observed 0 to 299"
    assert len(odd.seen) == 300


def test_every_failure_of_every_host_is_on_some_line() -> None:
    for make in fleets.SAMPLES.values():
        fleet = make()
        told = {(issue.result.id, host) for issue in group.fleet_issues(fleet) for host in issue.hosts}
        told |= {(note.result.id, host) for note in group.fleet_notes(fleet) for host in note.hosts}
        for issue in group.fleet_issues(fleet):
            assert {host for line in issue.seen for host in line.hosts} == set(issue.hosts)
        assert told == {
            (result.id, name)
            for name, run in fleet.runs.items()
            for result in run.results
            if any(finding.status == "fail" and finding.waived is None for finding in result.findings)
        }


def test_each_host_stands_once() -> None:
    for make in fleets.SAMPLES.values():
        fleet = make()
        stood = [host for each in group.standings(fleet) for host in each.hosts]
        assert sorted(stood) == sorted([*fleet.runs, *(absentee.name for absentee in fleet.absent)])


NAMES = st.one_of(
    st.from_regex(r"(gpu|r[0-9]{1,2}n|10\.0\.[01]\.|n-)[0-9]{1,4}(\.example\.org|-ib[0-3])?", fullmatch=True),
    st.text('ag[]1-9,@!&^* .:/\n\x1b"%', max_size=12),
)


@given(st.lists(NAMES, max_size=60))
def test_folded_hosts_are_the_hosts(names: list[str]) -> None:
    plain = {name for name in names if re.fullmatch(r"[A-Za-z0-9_.:-]+", name)}
    sets = fold_hosts(names)
    odd = len(set(names) - plain)
    expanded = {str(name) for each in sets[: len(sets) - odd] for name in NodeSet(each, resolver=RESOLVER_NOGROUP)}

    assert expanded == plain
    assert not any(hidden(character) for each in sets for character in each)
    for each in sets[len(sets) - odd :]:
        assert each.startswith('"') or not re.search(r"[\s,\[\]]", each)


@given(st.sets(st.integers(0, 500), min_size=1, max_size=80), st.integers(1, 10))
def test_a_line_that_is_cut_says_how_many_are_left(numbers: set[int], most: int) -> None:
    names = [f"gpu{number}" for number in numbers]
    line = hosts_line(names, most)
    shown, _, rest = line.partition(" and ")
    left = int(rest.removesuffix(" more").replace(",", "")) if rest else 0

    assert shown.count(",") < most
    assert len(NodeSet(shown, resolver=RESOLVER_NOGROUP)) + left == len(numbers)


def test_a_name_is_never_expanded_nor_asked_for() -> None:
    assert fold_hosts(["gpu[1-1000000000]", "@all", "a,b"]) == ['"gpu[1-1000000000]"', "@all", '"a,b"']
    assert hosts_word(["@all"]) == "@all"
    assert fold_hosts(["9" * 300]) == ["9" * 300]


def test_ten_thousand_hosts_fold_to_a_few_words() -> None:
    assert fold_hosts(f"r{n // 32}n{n % 32:02d}" for n in range(9_984)) == ["r[0-311]n[00-31]"]


# JSON


@pytest.mark.parametrize("name", list(fleets.SAMPLES))
def test_json_reads_back_and_follows_the_schema(name: str) -> None:
    fleet = fleets.SAMPLES[name]()
    document = render_fleet(fleet, "json")

    assert read_fleet_json(document) == fleet
    assert fleet_exit_code(read_fleet_json(document)) == fleet_exit_code(fleet)
    assert render_fleet(read_fleet_json(document), "json") == document
    assert not list(jsonschema.Draft202012Validator(fleet_schema()).iter_errors(json.loads(document)))


def test_each_run_has_a_line_of_its_own() -> None:
    fleet = fleets.mixed()
    document, lines = render_fleet(fleet, "json"), render_fleet(fleet, "jsonl").splitlines()

    assert [read_json(line) for line in lines] == list(fleet.runs.values())
    assert [line.split('"')[1] for line in document.splitlines() if line.startswith('    "gpu')] == list(fleet.runs)


def test_undecodable_text_does_not_lose_the_fleet() -> None:
    fleet = fleets.fleet({"a\udcff": runs.run(runs.result("gpu.one", runs.finding("fail", "\udcff")))})

    assert list(read_fleet_json(render_fleet(fleet, "json")).runs) == ["a?"]
    assert render_fleet(fleet, "jsonl").count("\n") == 1


@pytest.mark.parametrize("document", ["", "[]", '{"schema": 9}', '{"schema": 1}', "[" * 100_000])
def test_what_is_no_fleet_is_refused_in_one_line(document: str) -> None:
    with pytest.raises(HostcheckError) as caught:
        read_fleet_json(document)
    assert "\n" not in str(caught.value)


def test_the_schema_is_the_committed_one() -> None:
    jsonschema.Draft202012Validator.check_schema(fleet_schema())
    assert files("hostcheck").joinpath("fleet.schema.json").read_text("utf-8") == fleet_schema_text(), (
        "the model has changed: python -m hostcheck.schema fleet > hostcheck/fleet.schema.json"
    )
    printed = subprocess.run(
        [sys.executable, "-m", "hostcheck.schema", "fleet"], check=True, capture_output=True, text=True
    )
    assert printed.stdout == fleet_schema_text()


# Markdown


@pytest.mark.parametrize("name", list(fleets.SAMPLES))
def test_hosts_add_no_markup(name: str) -> None:
    document = render_fleet(fleets.SAMPLES[name](), "md")
    tokens = PARSER.parse(document)
    spans = {child.type for token in tokens for child in token.children or ()}

    assert {token.type.rpartition("_")[0] or token.type for token in tokens} <= {
        "heading", "paragraph", "inline", "bullet_list", "list_item", "fence", "table", "thead", "tbody", "tr", "th",
        "td",
    }  # fmt: skip
    assert spans <= {"text", "code_inline", "strong_open", "strong_close", "text_special"}
    assert "\n\n\n" not in document
    assert "None" not in document or name == "empty"
    cells: list[list[int]] = []
    for token in tokens:
        if token.type == "table_open":
            cells.append([])
        elif token.type == "tr_open":
            cells[-1].append(0)
        elif token.type in ("th_open", "td_open"):
            cells[-1][-1] += 1
    assert all(len(set(table)) == 1 for table in cells)


def test_markdown_says_what_text_says() -> None:
    spoken = "\n".join(
        "".join(child.content for child in token.children or ()) if token.type == "inline" else token.content
        for token in PARSER.parse(render_fleet(fleets.mixed(), "md"))
    )
    for words in (
        "gpu[01-40] gpu[0-7] the power limit is 650 W", "no route to host", "gpu[61-62]", "gpu.smi: timeout",
        "580.159.04", "61 °C; the median is 34 °C", "gpu45 names itself gpu46", "until 2027-01-31 by ops",
        "nvidia-smi -i 7 -pl 700", "the host has been up for 431 days", "not applicable, gpu44",
    ):  # fmt: skip
        assert words in spoken


def test_there_is_no_other_format() -> None:
    with pytest.raises(ValueError, match="jsonl"):
        render_fleet(fleets.mixed(), "html")


def test_a_waiver_that_ended_is_told_with_what_it_was_for() -> None:
    fleet = fleets.fleet({"gpu1": runs.expired(), "gpu2": runs.expired()})
    shown = flat(text(fleet))
    assert "swap is on its waiver expired on 2026-10-31" in shown
    assert "eth2: the MTU is 1500 its waiver expired on 2026-10-31" in shown
    assert "the MTU is 576 its waiver" not in shown
    document = render_fleet(fleet, "md", verbose=False, color=False, width=80, ascii=False)
    assert "swap is on; its waiver expired on 2026-10-31" in document
