from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from drsn_edge.errors import InputError
from drsn_edge.files import dump_json
from drsn_edge.parity.ledger import HopError, compare, share_of_total


@pytest.fixture
def logits() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, 8, (200, 10)).astype(np.float32)


def test_figures_of_a_case_by_hand() -> None:
    reference = np.array([[4.0, 0.0], [1.0, 3.0]])
    candidate = np.array([[3.0, 0.0], [1.0, 3.5]])
    error = compare(reference, candidate)
    assert error.windows == 2
    assert error.max_abs == 1.0
    assert error.max_rel == 0.25
    assert error.rmse == pytest.approx(math.sqrt(1.25 / 4))
    assert error.sqnr_db == pytest.approx(10 * math.log10(26 / 1.25))
    assert error.cosine == pytest.approx((12 + 1 + 10.5) / math.sqrt(26 * (9 + 1 + 12.25)))
    assert error.top1_agreement == 1.0
    assert error.margin_eaten == 0.5  # both windows: 2 * 1 / 4 and 2 * 0.5 / 2
    assert error.margin_eaten_p99 == 0.5


def test_identical_logits(logits: NDArray[np.float32]) -> None:
    error = compare(logits, logits.copy())
    assert error.identical
    assert (error.max_abs, error.rmse, error.margin_eaten, error.top1_agreement) == (0, 0, 0, 1)
    assert error.sqnr_db == math.inf
    assert error.cosine == pytest.approx(1)
    assert error.to_json()["sqnr_db"] is None


def test_differences_are_taken_in_float64() -> None:
    reference = np.array([[1.0, 0.0]])
    assert compare(reference.astype(np.float32), reference + np.array([[1e-12, 0]])).max_abs == pytest.approx(
        1e-12, rel=1e-3
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_candidate_that_is_not_finite_is_infinitely_far(logits: NDArray[np.float32], bad: float) -> None:
    candidate = logits.copy()
    candidate[7, 3] = bad
    error = compare(logits, candidate)
    assert error.nonfinite == 1
    assert (error.max_abs, error.max_rel, error.rmse, error.margin_eaten) == (math.inf,) * 4
    assert error.sqnr_db == -math.inf
    assert error.top1_agreement == pytest.approx(199 / 200)
    written = json.loads(dump_json(error.to_json()))
    assert written["max_abs"] is None
    assert written["nonfinite"] == 1


def test_a_moved_tie_eats_an_infinite_margin() -> None:
    reference = np.array([[1.0, 1.0, 0.0], [5.0, 0.0, 0.0]])
    assert compare(reference, reference + np.array([[1e-6, 0, 0], [0, 0, 0]])).margin_eaten == math.inf
    assert compare(reference, reference).margin_eaten == 0


@given(
    reference=hnp.arrays(np.float64, (6, 4), elements=st.floats(-30, 30)),
    moved=hnp.arrays(np.float64, (6, 4), elements=st.floats(-3, 3)),
)
def test_a_margin_eaten_below_one_changes_no_decision(
    reference: NDArray[np.float64], moved: NDArray[np.float64]
) -> None:
    error = compare(reference, reference + moved)
    if error.margin_eaten < 1 - 1e-9:
        assert error.top1_agreement == 1
    assert error.margin_eaten_p99 <= error.margin_eaten
    assert error.max_abs >= error.rmse or error.rmse == pytest.approx(error.max_abs)


@pytest.mark.parametrize("case", ["plain", "identical", "nan", "tie"])
def test_round_trip_through_json(logits: NDArray[np.float32], case: str) -> None:
    reference, candidate = logits.copy(), logits + 0.01
    if case == "identical":
        candidate = reference
    if case == "nan":
        candidate[0, 0] = np.nan
    if case == "tie":
        reference[3] = 1.0
    error = compare(reference, candidate)
    assert HopError.from_json(json.loads(dump_json(error.to_json()))) == error


@pytest.mark.parametrize(
    ("reference", "candidate", "words"),
    [
        (np.zeros((3, 4)), np.zeros((3, 5)), ["(3, 5)", "(3, 4)"]),
        (np.zeros((0, 4)), np.zeros((0, 4)), ["(0, 4)", "at least one window"]),
        (np.zeros((3, 1)), np.zeros((3, 1)), ["(3, 1)", "two classes"]),
        (np.zeros(4), np.zeros(4), ["(4,)", "[windows, classes]"]),
        (np.array([[1.0, np.nan]]), np.zeros((1, 2)), ["nan in window 0, class 1", "finite logits"]),
    ],
)
def test_what_cannot_be_compared(reference: NDArray[Any], candidate: NDArray[Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        compare(reference, candidate)
    for word in words:
        assert word in str(caught.value)


def test_shares_of_the_squared_error(logits: NDArray[np.float32]) -> None:
    small, large = compare(logits, logits + 0.1), compare(logits, logits + 0.3)
    shares = share_of_total([small, None, large])
    assert shares[1] is None
    assert [share for share in shares if share is not None] == pytest.approx([0.1, 0.9], rel=1e-4)


def test_shares_without_any_error_and_with_an_infinite_one(logits: NDArray[np.float32]) -> None:
    none = compare(logits, logits)
    bad = compare(logits, np.full_like(logits, np.nan))
    assert share_of_total([none, none]) == (0.0, 0.0)
    assert share_of_total([compare(logits, logits + 1), bad, None]) == (0.0, 1.0, None)
