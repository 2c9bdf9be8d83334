"""Which transaction on which hosts a user means."""

from __future__ import annotations

import pytest

from hostcheck.cli.tune_history import _split
from hostcheck.errors import HostcheckError


@pytest.mark.parametrize(
    ("words", "number", "targets"),
    [
        ((), None, ()),
        (("2",), "2", ()),
        (("2", "gpu[01-64]"), "2", ("gpu[01-64]",)),
        (("gpu07", "2"), "2", ("gpu07",)),
        (("gpu07", "10.0.0.2"), None, ("gpu07", "10.0.0.2")),
    ],
)
def test_a_number_is_a_transaction_wherever_it_stands(
    words: tuple[str, ...], number: str | None, targets: tuple[str, ...]
) -> None:
    """`rollback gpu07 2` took back the newest transaction of gpu07, and looked for a host called 2."""
    assert _split(words) == (number, targets)


def test_several_transactions_are_refused() -> None:
    with pytest.raises(HostcheckError, match="one transaction at a time, not 2 and 3"):
        _split(("2", "3", "gpu07"))
