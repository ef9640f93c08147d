from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drsn_edge.errors import UsageError
from drsn_edge.training.schedule import learning_rates


def test_a_hundred_epochs_are_those_of_the_paper() -> None:
    assert learning_rates(100, 0.1) == pytest.approx([0.1] * 40 + [0.01] * 40 + [0.001] * 20)


@pytest.mark.parametrize(
    ("epochs", "stages"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (2, 1, 0)), (5, (2, 2, 1)), (40, (16, 16, 8))]
)
def test_stages_end_at_the_next_whole_epoch(epochs: int, stages: tuple[int, int, int]) -> None:
    expected = [1.0] * stages[0] + [0.1] * stages[1] + [0.01] * stages[2]
    assert learning_rates(epochs, 1.0) == pytest.approx(expected)


@given(st.integers(1, 400), st.floats(1e-4, 1.0))
def test_never_rises_and_begins_at_the_rate_given(epochs: int, lr: float) -> None:
    rates = learning_rates(epochs, lr)
    assert len(rates) == epochs
    assert rates[0] == lr
    assert list(rates) == sorted(rates, reverse=True)


def test_no_epochs() -> None:
    with pytest.raises(UsageError, match=r"(?s)epochs.*0.*at least 1"):
        learning_rates(0, 0.1)


@pytest.mark.parametrize("lr", [0.0, -0.1, float("nan"), float("inf")])
def test_a_rate_that_is_not_positive(lr: float) -> None:
    with pytest.raises(UsageError, match=rf"(?s)learning rate.*{lr}.*positive"):
        learning_rates(10, lr)
