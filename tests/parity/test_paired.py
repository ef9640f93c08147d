from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from drsn_edge.parity.paired import paired_difference, spread


@pytest.mark.parametrize("count", [2, 3, 5, 12, 80])
def test_one_fold_is_the_paired_t_test(count: int) -> None:
    rng = np.random.default_rng(count)
    one, other = rng.normal(0.93, 0.02, count), rng.normal(0.9, 0.02, count)
    found = paired_difference(
        {(0, i): float(v) for i, v in enumerate(one)}, {(0, i): float(v) for i, v in enumerate(other)}
    )
    want = stats.ttest_rel(one, other).confidence_interval(0.95)
    assert found is not None
    assert found.mean == pytest.approx(float(np.mean(one - other)))
    assert (found.n, found.freedom) == (count, count - 1)
    assert [found.low, found.high] == pytest.approx([want.low, want.high], abs=1e-7)
    assert found.excludes_zero == bool(stats.ttest_rel(one, other).pvalue < 0.05)


def test_folds_are_fixed_effects() -> None:
    """The interval of the mean of the fold means in a linear model with one intercept for each fold."""
    rng = np.random.default_rng(1)
    pairs = {(fold, seed): float(rng.normal(0.1 * fold, 0.02)) for fold in range(4) for seed in range(2 + fold)}
    found = paired_difference(pairs, dict.fromkeys(pairs, 0.0))
    design = np.array([[fold == column for column in range(4)] for fold, _ in pairs], dtype=float)
    values = np.array(list(pairs.values()))
    beta, residual, _, _ = np.linalg.lstsq(design, values, rcond=None)
    contrast = np.full(4, 0.25)
    freedom = len(values) - 4
    error = np.sqrt(residual[0] / freedom * contrast @ np.linalg.inv(design.T @ design) @ contrast)
    half = stats.t.ppf(0.975, freedom) * error
    assert found is not None
    assert found.freedom == freedom == 10
    assert found.mean == pytest.approx(float(contrast @ beta))
    assert [found.low, found.high] == pytest.approx([found.mean - half, found.mean + half], rel=1e-6)


def test_it_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    held, trials = 0, 2000
    for _ in range(trials):
        pairs = {(fold, seed): float(rng.normal(0.05 * fold, 0.02)) for fold in range(3) for seed in range(2)}
        found = paired_difference(pairs, dict.fromkeys(pairs, 0.0))
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.05 <= found.high
    assert 0.935 < held / trials < 0.965


def test_only_pairs_count() -> None:
    found = paired_difference({(0, 0): 0.9, (0, 1): 0.8, (0, 2): 0.1}, {(0, 0): 0.8, (0, 1): 0.8, (1, 2): 0.9})
    assert found is not None
    assert found.n == 2
    assert found.mean == pytest.approx(0.05)
    assert paired_difference({(0, 0): 0.9}, {(0, 1): 0.8}) is None


def test_without_two_trainings_in_a_fold_there_is_no_interval() -> None:
    found = paired_difference({(0, 0): 0.9, (1, 0): 0.7}, {(0, 0): 0.8, (1, 0): 0.5})
    assert found is not None
    assert found.to_json() == {"mean": pytest.approx(0.15), "ci95": None, "n": 2, "freedom": 0}
    assert not found.excludes_zero


def test_spread_gives_every_fold_the_same_weight() -> None:
    found = spread({(0, 0): 0.9, (0, 1): 0.7, (1, 0): 0.4})
    assert found.mean == pytest.approx((0.8 + 0.4) / 2)
    assert found.std == pytest.approx(np.std([0.9, 0.7, 0.4], ddof=1))
    assert found.to_json()["folds"] == {"0": pytest.approx(0.8), "1": pytest.approx(0.4)}
    assert spread({(3, 0): 0.5}).to_json() == {"mean": 0.5, "std": None, "n": 1, "folds": {"3": 0.5}}
