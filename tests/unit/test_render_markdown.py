"""The Markdown report, as a CommonMark parser with tables reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

import runs
from hostcheck.render.markdown import code, escape, fence, render_markdown
from hostcheck.render.safe import safe

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
PLAIN = {
    "heading_open", "heading_close", "paragraph_open", "paragraph_close", "inline", "bullet_list_open",
    "bullet_list_close", "list_item_open", "list_item_close", "fence", "table_open", "table_close", "thead_open",
    "thead_close", "tbody_open", "tbody_close", "tr_open", "tr_close", "th_open", "th_close", "td_open", "td_close",
}  # fmt: skip
INLINE = {"text", "code_inline", "strong_open", "strong_close", "text_special"}


def tokens(document: str) -> list[Token]:
    return PARSER.parse(document)


def spoken(document: str) -> str:
    """All text that a reader sees."""
    return "\n".join(
        "".join(child.content for child in token.children or ()) if token.type == "inline" else token.content
        for token in tokens(document)
    )


@pytest.mark.parametrize("name", list(runs.SAMPLES))
def test_the_host_adds_no_markup(name: str) -> None:
    document = render_markdown(runs.SAMPLES[name]())

    assert {token.type for token in tokens(document)} <= PLAIN
    assert {child.type for token in tokens(document) for child in token.children or ()} <= INLINE
    assert "\n\n\n" not in document
    assert "None" not in document


@pytest.mark.parametrize("name", ["mixed", "hostile"])
def test_each_row_of_a_table_has_the_cells_of_its_head(name: str) -> None:
    cells: list[int] = []
    for token in tokens(render_markdown(runs.SAMPLES[name]())):
        if token.type == "tr_open":
            cells.append(0)
        elif token.type in ("th_open", "td_open"):
            cells[-1] += 1
    assert set(cells) <= {2, 3, 4}
    results = [token for token in tokens(render_markdown(runs.SAMPLES[name]())) if token.type == "tr_open"]
    assert len(results) >= len(runs.SAMPLES[name]().results)


def test_headings_are_ours_alone() -> None:
    mixed, hostile = (
        [token.tag for token in tokens(render_markdown(make())) if token.type == "heading_open"]
        for make in (runs.mixed, runs.hostile)
    )

    assert mixed.count("h1") == hostile.count("h1") == 1
    assert hostile == ["h1", "h2", "h3", "h4", "h2", "h2", "h2", "h2", "h2", "h3", "h3", "h2", "h2"]


def test_everything_of_the_run_is_said() -> None:
    document = spoken(render_markdown(runs.mixed()))

    for result in runs.mixed().results:
        assert result.id in document
    for words in ("gpu[0-7]", "sudo systemctl enable --now nvidia-persistenced", "expected at least 700 W",
                  "gpu/h100-sxm5-80gb: vendor datasheet", "spare board is on order", "until 2027-01-31",
                  "gpu.nvlink: timeout after 30 s", "NCCL_P2P_DISABLE=1 is set in 2 processes"):  # fmt: skip
        assert words in document


def test_numbers_stand_beside_what_is_possible() -> None:
    lines = render_markdown(runs.mixed()).splitlines()
    row = "| copy.d2h pinned | 42 GB/s | 66.6% of 63.02, at least 72% | gpu\\[0-1\\], each alone; worst 38.8 on gpu1 |"
    assert row in lines
    assert "| hbm.triad  | 2,000 GB/s | invalid: python (pid 7) ran on the GPU meanwhile | gpu1 |" in lines
    assert "Measured 2026-10-02 10:06 UTC, level standard, in 122 s." in lines
    assert "Measured" not in render_markdown(runs.healthy())


def test_fixes_are_copied_as_they_are() -> None:
    blocks = [token.content for token in tokens(render_markdown(runs.mixed())) if token.type == "fence"]

    assert "sudo systemctl enable --now nvidia-persistenced\n" in blocks
    assert "# ends every process on GPU 5\nsudo nvidia-smi --gpu-reset -i 5\n" in blocks


SOME = st.one_of(st.text(), st.text(st.sampled_from("\\`*_{}[]()<>#+-.!|~&;:/@= \n\tw1.ahtp$")))


@given(SOME)
def test_escaped_text_reads_as_itself(text: str) -> None:
    (opening, inline, closing) = tokens(f"{escape(text)} x")

    assert (opening.type, closing.type) == ("paragraph_open", "paragraph_close")
    assert {child.type for child in inline.children or ()} <= {"text", "text_special"}
    assert "".join(child.content for child in inline.children or ()) == f"{safe(text).strip()} x".strip()


@pytest.mark.parametrize(
    "text",
    ["<!-- x", "<script x", "<?x", "<!X", "<pre", "</div", "<https://x.y>", "# x", "- x", "-", "+ x", "1. x", "1)",
     "> x", "---", "===", "***", "___", "~~~", "```", "    x", "[x]: http://y", "| x", "&lt;", "&#42;", "x  ", "x\\",
     "!["],
)  # fmt: skip
def test_nothing_begins_a_block(text: str) -> None:
    (_, inline, _) = tokens(f"{escape(text)}\n")

    assert "".join(child.content for child in inline.children or ()) == text.strip()


@given(SOME)
def test_escaped_text_stays_in_its_cell(text: str) -> None:
    document = f"| a | b |\n| --- | --- |\n| {escape(text)} | end |\n"
    cells = [token.content for token in tokens(document) if token.type == "inline"]

    assert len(cells) == 4
    assert cells[3] == "end"


@given(SOME)
def test_code_span_reads_as_itself(text: str) -> None:
    (_, inline, _) = tokens(f"x {code(text)} y")
    spans = [child.content for child in inline.children or () if child.type == "code_inline"]

    assert [span.strip() for span in spans] == [safe(text).strip()]


@given(SOME)
def test_fence_holds_the_lines(text: str) -> None:
    (block,) = tokens(fence(text))

    assert block.type == "fence"
    assert [line for line in block.content.split("\n") if line] == [
        line for line in fence(text).split("\n")[1:-1] if line
    ]


def test_web_addresses_are_no_links() -> None:
    shown = escape("see http://evil.example, WWW.evil.example or root@evil.example")

    assert shown == r"see http\:\/\/evil.example, WWW\.evil.example or root\@evil.example"


def test_a_waiver_that_ended_is_told_with_what_it_was_for() -> None:
    text = spoken(render_markdown(runs.expired()))

    assert "swap is on\n\n\nits waiver expired on 2026-10-31\n" in text
    assert "the MTU is 1500 (its waiver expired on 2026-10-31)" in text
    assert "gpu.ecc (gpu3; waiver expired on 2026-10-31)" in text
    assert "swap is on (its waiver expired on 2026-10-31)" in text
