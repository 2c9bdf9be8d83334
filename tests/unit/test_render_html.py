"""The HTML report as a parser reads it; tests/e2e/test_report_browser.py opens it in a browser."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest

import runs
from hostcheck.render.html import options, render_html
from hostcheck.render.templates import link

VOID = {"meta", "link", "br", "input"}
TAGS = {
    "html", "head", "meta", "link", "title", "style", "body", "header", "h1", "h2", "h3", "h4", "p", "strong", "b",
    "dl", "dt", "dd", "ul", "li", "nav", "a", "main", "section", "article", "span", "code", "pre", "table", "thead",
    "tbody", "tr", "th", "td", "form", "fieldset", "legend", "label", "input", "details", "summary", "div", "br",
    "footer", "svg", "rect", "path",
}  # fmt: skip


class Page(HTMLParser):
    """The elements, attributes and texts of a page; it has to be nested rightly."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.style = ""
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.mark.parametrize("name", list(runs.SAMPLES))
def test_page_is_whole_and_of_our_elements_only(name: str) -> None:
    page = Page(render_html(runs.SAMPLES[name]()))

    assert page.tags <= TAGS
    assert not [
        found for found in page.attributes if found[1].startswith("on") or found[1] in ("src", "style", "srcset")
    ]


@pytest.mark.parametrize("name", list(runs.SAMPLES))
def test_policy_allows_our_style_and_nothing_else(name: str) -> None:
    page = Page(render_html(runs.SAMPLES[name]()))
    policy = next(value for tag, attribute, value in page.attributes if tag == "meta" and "default-src" in value)
    hashed = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()

    assert (
        policy == f"default-src 'none'; style-src 'sha256-{hashed}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert "url(" not in page.style
    assert "@import" not in page.style


@pytest.mark.parametrize("name", ["mixed", "hostile"])
def test_links_lead_into_the_page_or_to_a_reference(name: str) -> None:
    page = Page(render_html(runs.SAMPLES[name]()))
    hrefs = {value for tag, attribute, value in page.attributes if (tag, attribute) == ("a", "href")}
    ids = {value for _, attribute, value in page.attributes if attribute == "id"}
    references = {
        reference for each in runs.SAMPLES[name]().results for reference in each.references if link(reference)
    }

    assert hrefs - references == {f"#{id}" for id in ids} & hrefs
    assert references <= hrefs


def test_everything_of_the_run_is_said() -> None:
    run = runs.mixed()
    text = Page(render_html(run)).text

    for result in run.results:
        assert result.id in text
        for finding in result.findings:
            assert finding.summary in text
            assert all(line in text for line in finding.fix.split("\n"))
            assert finding.expected is None or finding.expected.source in text
    for words in ("gpu[0-7]", "until 2027-01-31", "ticket 4711", "inlet 24 °C", "KeyError: 'x'", "7 checks failed",
                  "A GPU whose spare rows are used up", "skipped by site.toml"):  # fmt: skip
        assert words in text


def test_numbers_stand_beside_what_is_possible() -> None:
    page = Page(render_html(runs.mixed()))
    (table,) = re.findall(
        r"Measured Measured 2026-10-02 10:06 UTC, level standard, in 122 s\. Each number.*? All results", page.text
    )

    assert "copy.d2h pinned 42 GB/s 66.6% of 63.02, at least 72% gpu[0-1], each alone; worst 38.8 on gpu1" in table
    assert "gemm.bf16 8192 681.1 TFLOPS 68.8% of 989.5, at least 60% gpu0, 0.985 J/TFLOP" in table
    assert "launch.kernel wall 9.25 us gpu0" in table, "times have no bar"
    assert "hbm.triad 2,000 GB/s invalid python (pid 7) ran on the GPU meanwhile gpu1" in table
    bars = [value for tag, name, value in page.attributes if tag == "rect" and name == "width"]
    assert bars == ["100", "66.6", "100", "68.8"]
    assert [value for tag, name, value in page.attributes if (tag, name) == ("svg", "class")] == ["bar short", "bar"]
    assert "Measured" not in Page(render_html(runs.healthy())).text


def test_a_bar_ends_at_its_end_whatever_the_host_says() -> None:
    page = Page(render_html(runs.hostile()))
    assert [value for tag, name, value in page.attributes if tag in ("rect", "path") and name in ("width", "d")] == [
        "100", "100.0", "M100.0 0v10",
    ]  # fmt: skip


def test_each_line_of_an_issue_is_among_what_to_do() -> None:
    text = Page(render_html(runs.mixed())).text
    (todo,) = re.findall(r"What to do Replace a part.*Could not be determined Not the same", text)

    for line in ("gpu0 the power limit is 650 W", "gpu2 the power limit is 648 W", "expected at least 700 W",
                 "observed Disabled, expected Enabled", "the chassis caps power at 8,000 W"):  # fmt: skip
        assert line in todo
    assert todo.count("sudo systemctl enable --now nvidia-persistenced") == 1


def test_hostile_text_is_said_and_does_nothing() -> None:
    document = render_html(runs.hostile())

    assert r"\x1b[31mred\x1b[0m" in document
    assert "<script" not in document
    assert "<img" not in document
    assert "{{ 7 * 7 }}" in document
    assert '<script>alert(1)</script> <img src=x onerror=alert(1)> &amp; "quoted"' in Page(document).text


@pytest.mark.parametrize(
    ("text", "is_link"),
    [
        ("https://docs.nvidia.com/a?b=c&d=e#f", True),
        ("http://example.org", True),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("see https://example.org", False),
        ("https://example.org/ x", False),
        ('https://example.org/"onclick=', False),
        ("https://exa\u202emple.org", False),
        ("", False),
    ],
)
def test_what_is_a_link(text: str, is_link: bool) -> None:
    assert bool(link(text)) is is_link


def test_templates_use_the_run_and_filters_only() -> None:
    """No template reads anything but `run`, marks text as safe, or writes a colour outside of the style sheet."""
    for name in ("report.html.j2", "report.md.j2"):
        source = files("hostcheck.reports").joinpath(name).read_text("utf-8")
        assert not re.search(r"\|\s*safe\b|autoescape|import ", source)
        assert "style=" not in source


def test_a_waiver_that_ended_is_told_with_what_it_was_for() -> None:
    text = Page(render_html(runs.expired())).text

    assert text.count("its waiver expired on 2026-10-31: spare board is on order, ticket 4711") == 4
    assert "swap is on (its waiver expired on 2026-10-31)" in text
    assert "eth2 the MTU is 1500 (its waiver expired on 2026-10-31)" in text
    assert "gpu.ecc (gpu3; waiver expired on 2026-10-31)" in text
    assert "the MTU is 576 (its waiver" not in text


def test_waived_and_uncounted_are_marked() -> None:
    text = Page(render_html(runs.mixed())).text

    assert "the MTU is 1500 (waived)" in text
    assert "memory.swappiness does not count" in text
    assert "10 fail 3 not counted" in text


@pytest.mark.parametrize(
    ("line", "marked"),
    [
        ("must not carry --no-persistence-mode", 'must not carry <span class="option">--no-persistence-mode</span>'),
        ("smi -i 2 --pl=700", 'smi <span class="option">-i</span> 2 <span class="option">--pl=700</span>'),
        ("zz-gpu-nofile.conf && --<b>", "zz-gpu-nofile.conf &amp;&amp; --&lt;b&gt;"),
        ("--a<script>", '<span class="option">--a&lt;script&gt;</span>'),
    ],
)
def test_options_are_marked_and_all_is_escaped(line: str, marked: str) -> None:
    assert options(line) == marked
