from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from drsn_edge.training.records import EpochRecord, choose


def epoch(number: int, accuracy: float, *, loss: float = 0.5, lr: float = 0.1) -> EpochRecord:
    return EpochRecord(
        epoch=number, lr=lr, train_loss=1.0, train_accuracy=0.5, validation_balanced_accuracy=accuracy,
        validation_loss=loss, seconds=1.0, windows_per_s=1.0,
    )  # fmt: skip


def chosen(*records: EpochRecord, windows: int = 100) -> int:
    return choose(records, windows).epoch


def test_at_one_rate_accuracy_decides_then_the_lower_loss_then_the_earlier() -> None:
    assert chosen(epoch(1, 0.9), epoch(2, 0.95), epoch(3, 0.94)) == 2
    assert chosen(epoch(1, 0.9, loss=0.4), epoch(2, 0.9, loss=0.3), epoch(3, 0.9, loss=0.5)) == 2
    assert chosen(epoch(1, 0.9), epoch(2, 0.9)) == 1
    assert chosen(epoch(1, 0.9, loss=0.1), epoch(2, 0.91, loss=9.0)) == 2


def test_a_lower_rate_need_not_be_better_but_close() -> None:
    # One standard error at 0.9 of 100 windows is 0.03.
    assert chosen(epoch(1, 0.9), epoch(2, 0.88, lr=0.01)) == 2
    assert chosen(epoch(1, 0.9), epoch(2, 0.86, lr=0.01)) == 1
    assert chosen(epoch(1, 0.9), epoch(2, 0.88, lr=0.01), windows=10_000) == 1
    assert chosen(epoch(1, 0.9), epoch(2, 0.86, lr=0.01), epoch(3, 0.87, lr=0.01), epoch(4, 0.89, lr=0.01)) == 4
    assert chosen(epoch(1, 0.9), epoch(2, 0.88, lr=0.01), epoch(3, 0.89, lr=0.01), epoch(4, 0.87, lr=0.01)) == 3


def test_an_epoch_without_a_mistake_has_a_standard_error_too() -> None:
    assert chosen(epoch(1, 1.0), epoch(2, 0.995, lr=0.01)) == 2
    assert chosen(epoch(1, 1.0), epoch(2, 0.98, lr=0.01)) == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(1, 1000))
def test_never_far_below_the_best(accuracies: list[float], windows: int) -> None:
    """Two changes of the rate can give away two margins, and a margin is at most half a window's square root."""
    rates = [0.1, 0.01, 0.001]
    records = [
        epoch(index, accuracy, lr=rates[3 * index // len(accuracies)]) for index, accuracy in enumerate(accuracies)
    ]
    kept = choose(records, windows)
    assert kept.validation_balanced_accuracy >= max(accuracies) - 2 * 0.5 / math.sqrt(windows) - 1e-12
    alone = [record for record in records if record.lr == kept.lr]
    assert kept.validation_balanced_accuracy == max(record.validation_balanced_accuracy for record in alone)
