from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from drsn_edge.errors import InputError
from drsn_edge.parity import betabinomial, intervals


def beta_rates(
    rng: np.random.Generator, rate: float, correlation: float, shape: tuple[int, int]
) -> NDArray[np.float64]:
    """One rate per window, with the given mean and correlation of draws within a window."""
    if correlation == 0:
        return np.full(shape, rate)
    strength = (1 - correlation) / correlation
    return rng.beta(rate * strength, (1 - rate) * strength, shape)


def coverage(rate: float, correlation: float, windows: int, draws: int, repetitions: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    events = rng.binomial(draws, beta_rates(rng, rate, correlation, (repetitions, windows)))
    each = np.full(windows, draws)
    _, low, high, _ = intervals.clustered_ends(events, each)
    return float(np.mean((low <= rate) & (rate <= high)))


# Three standard errors of a share of 0.955 over n repetitions.
def slack(repetitions: int) -> float:
    return 3 * float(np.sqrt(0.955 * 0.045 / repetitions))


@pytest.mark.parametrize(
    ("rate", "correlation", "windows", "draws"),
    [(0.003, 0.05, 250, 40), (0.01, 0.1, 250, 10), (0.03, 0.05, 60, 40), (0.1, 0.1, 60, 10)],
)
def test_stated_intervals_hold_the_truth_small(rate: float, correlation: float, windows: int, draws: int) -> None:
    held = coverage(rate, correlation, windows, draws, repetitions=300, seed=11)
    assert 0.935 - slack(300) <= held <= 0.975 + slack(300)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.003, 0.01, 0.03, 0.1])
@pytest.mark.parametrize("correlation", [0.0, 0.05, 0.1, 0.3])
@pytest.mark.parametrize(("windows", "draws"), list(itertools.product([60, 250], [10, 40])))
def test_stated_intervals_hold_the_truth(rate: float, correlation: float, windows: int, draws: int) -> None:
    held = coverage(rate, correlation, windows, draws, repetitions=2000, seed=12)
    assert held >= 0.935
    can_show = windows * min(1.0, rate / max(correlation, 1e-9))
    if can_show >= 10 and rate * windows * draws >= 30:  # else the upper end cannot be missed, and it holds more often
        assert held <= 0.975


@pytest.mark.parametrize("rate", [0.001, 0.003])
def test_a_single_event_does_not_lift_the_lower_end_above_the_truth(rate: float) -> None:
    # 500 draws: one event or two, and the lower limit of Jeffreys' prior lies above the rate in 8 % of experiments.
    events = np.random.default_rng(5).binomial(10, rate, (2000, 50))
    _, low, _, _ = intervals.clustered_ends(events, np.full(50, 10))
    assert np.mean(low > rate) <= 0.025 + 3 * float(np.sqrt(0.025 * 0.975 / 2000))


@pytest.mark.parametrize("correlation", [0.25, 0.3, 0.35])
def test_a_well_known_correlation_is_met_between_the_points_of_the_grid(correlation: float) -> None:
    # 400 windows know their correlation to 5 %; a grid with steps of 35 % made intervals a tenth too wide.
    rng = np.random.default_rng(6)
    events = rng.binomial(40, beta_rates(rng, 0.2, correlation, (20, 400)))
    low, high = betabinomial.interval(events, np.full(400, 40), 0.95)
    wanted = 2 * 1.96 * np.sqrt(0.2 * 0.8 / 16_000 * (1 + 39 * correlation))
    assert np.mean(high - low) == pytest.approx(wanted, rel=0.06)


@pytest.mark.parametrize("share", [0.2, 0.1])
def test_holds_the_truth_when_rates_are_not_beta(share: float) -> None:
    # A share of the windows changes in one draw of five, the others never: no beta distribution looks like that.
    rng = np.random.default_rng(3)
    truth, held, repetitions = share * 0.2, 0, 300
    for _ in range(repetitions):
        events = rng.binomial(20, np.where(rng.random(150) < share, 0.2, 0.0))
        found = intervals.clustered_counts(events, np.full(150, 20))
        held += found.low <= truth <= found.high
    assert 0.935 - slack(repetitions) <= held / repetitions <= 0.975 + slack(repetitions)


def test_ignoring_clusters_would_not_hold() -> None:
    rng = np.random.default_rng(4)
    events = rng.binomial(40, beta_rates(rng, 0.03, 0.1, (300, 250)))
    ends = [intervals.wilson(int(row.sum()), 250 * 40) for row in events]
    assert np.mean([low <= 0.03 <= high for low, high in ends]) < 0.7


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (19, 2400)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_is_scipys(k: int, n: int, confidence: float) -> None:
    want = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert intervals.wilson(k, n, confidence) == pytest.approx((want.low, want.high), abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_refuses_impossible_proportions(k: int, n: int) -> None:
    with pytest.raises(InputError) as caught:
        intervals.wilson(k, n)
    assert f"{k} of {n}" in str(caught.value)
    assert "0 <= k <= n" in str(caught.value)


def test_confidence_must_be_a_probability() -> None:
    with pytest.raises(InputError) as caught:
        intervals.wilson(1, 5, 95)
    assert "95" in str(caught.value)
    assert "between 0 and 1" in str(caught.value)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 10, 59, 60, 61, 249])
@pytest.mark.parametrize("probability", [0.9, 0.975, 0.995])
def test_student_quantile(freedom: int, probability: float) -> None:
    want = float(stats.t.ppf(probability, freedom))
    assert intervals.student_quantile(probability, freedom) == pytest.approx(want, rel=1e-7)


def test_without_clusters_it_agrees_with_a_binomial() -> None:
    found = intervals.clustered(np.arange(3000) % 100 == 0, np.arange(3000))
    jeffreys = stats.beta.ppf([0.025, 0.975], 30.5, 2970.5)
    low, high = intervals.wilson(30, 3000)
    assert found.low == pytest.approx(min(jeffreys[0], low), rel=0.01)
    assert found.high == pytest.approx(max(jeffreys[1], high), rel=0.01)
    assert (found.windows, found.draws) == (3000, 3000)
    assert found.design_effect == pytest.approx(1.0, abs=1e-3)


def test_repeating_every_draw_buys_nothing() -> None:
    once = intervals.clustered(np.arange(200) % 20 == 0, np.arange(200))
    ten = intervals.clustered(np.repeat(np.arange(200) % 20 == 0, 10), np.repeat(np.arange(200), 10))
    assert ten.design_effect == pytest.approx(10, rel=0.01)
    assert ten.low == pytest.approx(once.low, abs=0.003)
    assert ten.high == pytest.approx(once.high, abs=0.01)


def test_no_event_gives_zero_to_something_and_says_that_clustering_is_unknown() -> None:
    found = intervals.clustered(np.zeros(2400, bool), np.repeat(np.arange(240), 10))
    assert (found.rate, found.low, found.design_effect) == (0.0, 0.0, None)
    # wider than independent draws would give, narrower than one draw per window would give
    assert intervals.wilson(0, 2400)[1] < found.high < intervals.wilson(0, 240)[1]
    assert found.high == intervals.lowest_upper_end(240, 2400)


def test_all_events_is_the_mirror_image() -> None:
    cluster = np.repeat(np.arange(60), 5)
    none, every = (intervals.clustered(np.full(300, value), cluster) for value in (False, True))
    assert (every.low, every.high) == pytest.approx((1 - none.high, 1.0), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_does_not_happen_has_the_mirrored_interval(data: st.DataObject) -> None:
    draws = np.array(data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=30)))
    events = np.array([data.draw(st.integers(0, int(most))) for most in draws])
    found, other = intervals.clustered_counts(events, draws), intervals.clustered_counts(draws - events, draws)
    assert (other.low, other.high) == pytest.approx((1 - found.high, 1 - found.low), abs=1e-6)


def test_many_experiments_at_once_are_each_by_itself() -> None:
    # Rows share a grid of rates, which moves an end by a fraction of the width.
    rng = np.random.default_rng(7)
    draws = np.where(np.arange(60) % 8 == 7, 5, 10)
    events = rng.binomial(draws, rng.beta(0.2, 6, (200, 60)))
    events[0], events[1] = 0, draws
    rate, low, high, effect = intervals.clustered_ends(events, draws)
    for row, one in enumerate(intervals.clustered_counts(item, draws) for item in events):
        slack = 0.03 * (one.high - one.low)
        assert (low[row], high[row]) == pytest.approx((one.low, one.high), abs=slack)
        assert rate[row] == one.rate
        assert effect[row] == pytest.approx(np.nan if one.design_effect is None else one.design_effect, nan_ok=True)


def test_one_window_is_one_draw() -> None:
    found = intervals.clustered(np.arange(100) < 30, np.zeros(100, int))
    assert found.high - found.low > 0.9


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_interval_holds_its_rate_and_does_not_depend_on_order(data: st.DataObject) -> None:
    draws = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=30))
    events = [data.draw(st.integers(0, most)) for most in draws]
    found = intervals.clustered_counts(np.array(events), np.array(draws))
    assert 0 <= found.low <= found.rate <= found.high <= 1
    order = data.draw(st.permutations(range(len(draws))))
    again = intervals.clustered_counts(np.array(events)[order], np.array(draws)[order])
    assert (again.low, again.high) == pytest.approx((found.low, found.high), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("events", "draws"), [([1], [0]), ([3], [2]), ([], []), ([1, 1], [2])], ids=["empty", "too many", "none", "ragged"]
)
def test_counts_that_do_not_fit(events: list[int], draws: list[int]) -> None:
    with pytest.raises(InputError) as caught:
        intervals.clustered_counts(np.array(events), np.array(draws))
    assert f"{len(events)} windows with {sum(events)} events" in str(caught.value)
    assert "no more events than draws" in str(caught.value)


def test_draws_and_clusters_that_do_not_fit() -> None:
    with pytest.raises(InputError) as caught:
        intervals.clustered(np.zeros(4, bool), np.zeros(3, int))
    assert "(4,) and (3,)" in str(caught.value)
    assert "one cluster per draw" in str(caught.value)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (0, 9), (10, 10), (3, 17), (500, 540), (40_000, 41_000)])
def test_mcnemar_is_scipys_binomial_test(b: int, c: int) -> None:
    want = 1.0 if b + c == 0 else stats.binomtest(b, b + c, 0.5).pvalue
    assert intervals.mcnemar_exact(b, c) == pytest.approx(want, rel=1e-8)
    assert intervals.mcnemar_exact(b, c) == intervals.mcnemar_exact(c, b)


def test_mcnemar_refuses_negative_counts() -> None:
    with pytest.raises(InputError, match="negative") as caught:
        intervals.mcnemar_exact(-2, 1)
    assert "-2 and 1" in str(caught.value)
