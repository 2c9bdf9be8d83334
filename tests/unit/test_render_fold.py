"""Folding says the same with fewer words; ClusterShell is the judge."""

from __future__ import annotations

import pytest
from ClusterShell.NodeSet import NodeSet
from hypothesis import given
from hypothesis import strategies as st

from hostcheck.render.fold import fold, fold_line


@pytest.mark.parametrize(
    ("subjects", "folded"),
    [
        ([], []),
        (["host"], ["host"]),
        (["gpu3"], ["gpu3"]),
        ([f"gpu{n}" for n in range(8)], ["gpu[0-7]"]),
        ([f"gpu{n}" for n in (5, 1, 0, 3)], ["gpu[0-1,3,5]"]),
        ([f"gpu{n}" for n in range(512)], ["gpu[0-511]"]),
        (["mlx5_0", "mlx5_1", "gpu0"], ["gpu0", "mlx5_[0-1]"]),
        (["node008", "node009", "node010"], ["node[008-010]"]),
        (["nvme0n1", "nvme1n1"], ["nvme[0-1]n1"]),
        ([f"gpu{g}/link{n}" for g in range(8) for n in range(18)], ["gpu[0-7]/link[0-17]"]),
        (["0000:17:00.0", "0000:17:00.1", "0000:18:00.0"], ["0000:17:00.[0-1]", "0000:18:00.0"]),
        (["eth10", "eth2"], ["eth[2,10]"]),
        (["a", "b", "a"], ["a", "b"]),
        (["", "host"], ["", "host"]),
    ],
)
def test_fold(subjects: list[str], folded: list[str]) -> None:
    assert fold(subjects) == folded


@given(
    st.sets(
        st.builds("{}{}".format, st.sampled_from(["gpu", "node0", "mlx5_", "n1x"]), st.integers(0, 120)), min_size=1
    )
)
def test_folding_loses_and_adds_nothing(names: set[str]) -> None:
    assert NodeSet(",".join(fold(names))) == NodeSet.fromlist(names)


@given(st.sets(st.builds("node{:0{}d}".format, st.integers(0, 120), st.integers(1, 4)), min_size=1))
def test_leading_zeros_are_kept(names: set[str]) -> None:
    assert set(NodeSet(",".join(fold(names)))) == names


@given(st.sets(st.builds("gpu{}/link{}".format, st.integers(0, 7), st.integers(0, 17)), min_size=1))
def test_two_dimensions_lose_and_add_nothing(names: set[str]) -> None:
    assert set(NodeSet(",".join(fold(names)))) == names


@given(st.lists(st.text(max_size=30), max_size=20))
def test_any_text_can_be_folded(names: list[str]) -> None:
    assert len(fold(names)) <= len(names)


def test_a_number_of_many_digits_is_no_number() -> None:
    assert fold(["x" + "9" * 10_000]) == ["x" + "9" * 10_000]


def test_fold_line_counts_what_it_leaves_out() -> None:
    names = [f"{letter}{letter}" for letter in "abcdefghijklmnop"]

    assert fold_line(names[:4]) == "aa, bb, cc, dd"
    assert fold_line(names, most=4) == "aa, bb, cc and 13 more"
