from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from drsn_edge.errors import InputError
from drsn_edge.training.metrics import balanced_accuracy, confusion

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@given(PAIRS)
def test_as_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    y, decided = np.array(pairs).T
    counts = confusion(y, decided, 5)
    np.testing.assert_array_equal(counts, confusion_matrix(y, decided, labels=range(5)))
    if set(decided) <= set(y) and len(set(y)) > 1:  # scikit-learn warns otherwise
        assert balanced_accuracy(counts) == pytest.approx(balanced_accuracy_score(y, decided))


def test_absent_classes_do_not_count() -> None:
    assert balanced_accuracy(np.array([[3, 1, 0], [0, 0, 0], [1, 0, 1]])) == pytest.approx((0.75 + 0.5) / 2)


def test_nothing_to_score() -> None:
    with pytest.raises(InputError, match=r"(?s)0 windows.*at least one"):
        balanced_accuracy(np.zeros((3, 3), dtype=np.int64))
