"""Intervals of rates over draws that are clustered by window, and the exact paired test."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import InputError
from drsn_edge.parity import betabinomial

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A rate with its interval.

    Attributes:
        rate: Share of the draws.
        low: Lower end.
        high: Upper end.
        windows: Independent windows.
        draws: Draws in all.
        design_effect: Measured variance over that of independent draws, at least 1; None where no draw or every draw
            shows the event, and nothing could be measured.
    """

    rate: float
    low: float
    high: float
    windows: int
    draws: int
    design_effect: float | None


def wilson(k: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson, JASA 22, 1927): `k` of `n` independent draws.

    Raises:
        InputError: Not 0 <= k <= n, n not positive, or confidence not between 0 and 1.
    """
    if not (n > 0 and 0 <= k <= n):
        raise InputError("a proportion is impossible", got=f"{k} of {n}", expected="0 <= k <= n, n at least 1")
    _check_confidence(confidence)
    low, high = _score_interval(np.asarray(k / n), np.asarray(n), NormalDist().inv_cdf(0.5 + confidence / 2))
    return float(low), float(high)


def clustered(changed: NDArray[Any], cluster: NDArray[Any], confidence: float = 0.95) -> Interval:
    """`clustered_counts`, from one entry per draw.

    Args:
        changed: Whether the draw shows the event, bool `[draws]`.
        cluster: The independent window that the draw belongs to, int `[draws]`.
        confidence: Probability that the interval holds the rate.

    Raises:
        InputError: No draws, or the two differ in length.
    """
    if changed.shape != cluster.shape or changed.ndim != 1 or changed.size == 0:
        raise InputError(
            "draws and clusters do not fit together",
            got=f"shapes {changed.shape} and {cluster.shape}",
            expected="one cluster per draw, at least one draw",
        )
    _, index = np.unique(cluster, return_inverse=True)
    return clustered_counts(np.bincount(index, weights=changed.astype(np.float64)), np.bincount(index), confidence)


def clustered_counts(events: NDArray[Any], draws: NDArray[Any], confidence: float = 0.95) -> Interval:
    """Interval of a rate whose draws are clustered by window: the wider, at each end, of two.

    1. Cluster-robust Wilson: the effective number of draws is `draws / design effect`, where the design effect is the
       variance between windows over the binomial one, at least 1, and the quantile is Student's with windows - 1
       degrees of freedom. Right for any kind of clustering once some ten windows show the event; too short before.
       With one window only, that window counts as one draw.
    2. Beta-binomial, integrated over the correlation within windows (`betabinomial.interval`). Right when few windows
       show the event, but it trusts the shape of the beta distribution when many do. It alone speaks when no draw, or
       every draw, shows the event: then the draws cannot tell how strongly they cluster, and its prior does.

    What is stated for 95 % (`benchmarks/interval_coverage.py`; draws within a window independent, correlated up to 0.3
    by a beta distribution, or tied to a margin of the window that makes up to 0.8 of the latent variance):

    * 93.5 to 97.5 % where at least 10 windows and 30 draws are expected to show the event;
    * at least 93.5 % everywhere else. Counts are whole numbers: a rate below the upper end that no event at all gives
      cannot be missed from below, so the interval is conservative there, up to 99.9 %.

    Not stated where single windows change in nearly every draw or in none (a correlation of 0.6 and more) and fewer
    than some ten windows show it: an upper end that holds then would be that of one draw per window, and more draws do
    not replace windows.

    Args:
        events: Draws of each window that show the event.
        draws: Draws of each window, at least one.
        confidence: Probability that the interval holds the rate.

    Raises:
        InputError: No windows, a window without draws or with more events than draws, a bad confidence.
    """
    k: NDArray[np.int64] = np.asarray(np.rint(events), dtype=np.int64)
    m: NDArray[np.int64] = np.asarray(np.rint(draws), dtype=np.int64)
    if k.shape != m.shape or k.ndim != 1 or k.size == 0 or (m < 1).any() or (k < 0).any() or (k > m).any():
        raise InputError(
            "events and draws per window do not fit together",
            got=f"{k.size} windows with {k.sum()} events, {m.size} windows with {m.sum()} draws",
            expected="at least one window, each with one draw or more and no more events than draws",
        )
    _check_confidence(confidence)
    order = np.lexsort((k, m))  # sums in floating point come out the same whatever order the windows came in
    found = clustered_ends(k[None, order], m[order], confidence)
    rate, low, high, effect = (float(values[0]) for values in found)
    return Interval(rate, low, high, len(k), int(m.sum()), effect if 0 < rate < 1 else None)


def clustered_ends(
    events: NDArray[np.int64], draws: NDArray[np.int64], confidence: float = 0.95
) -> tuple[Floats, Floats, Floats, Floats]:
    """`clustered_counts` of many experiments on the same draws.

    Args:
        events: `[experiments, windows]`, each at most as large as the window's draws.
        draws: `[windows]`, each at least 1.
        confidence: Probability that an interval holds its rate.

    Returns:
        Rate, lower end, upper end and design effect, `[experiments]` each; the design effect is NaN where no draw or
        every draw shows the event.
    """
    windows, total = len(draws), int(draws.sum())
    rate = events.sum(axis=1) / total
    low, high = betabinomial.interval(events, draws, confidence)
    effect = np.full(len(events), np.nan)
    some = (rate > 0) & (rate < 1)
    if some.any():
        effect[some] = _design_effect(events[some], draws, rate[some])
        quantile = student_quantile(0.5 + confidence / 2, max(windows - 1, 1))
        bottom, top = _score_interval(rate[some], total / effect[some], quantile)
        low[some], high[some] = np.minimum(low[some], bottom), np.maximum(high[some], top)
    return rate, np.minimum(low, rate), np.maximum(high, rate), effect


def _design_effect(events: NDArray[np.int64], draws: NDArray[np.int64], rate: Floats) -> Floats:
    windows, total = len(draws), int(draws.sum())
    if windows == 1:
        return np.full(len(events), float(total))
    spread = np.sum((events - rate[:, None] * draws) ** 2, axis=1) * windows / (windows - 1)  # of a ratio estimator
    return np.asarray(np.maximum(1.0, spread / (total * rate * (1 - rate))))


def _score_interval(rate: Floats, n: Floats, quantile: float) -> tuple[Floats, Floats]:
    square = quantile**2
    middle = (rate + square / (2 * n)) / (1 + square / n)
    half = quantile / (1 + square / n) * np.sqrt(rate * (1 - rate) / n + square / (4 * n * n))
    return np.maximum(0.0, middle - half), np.minimum(1.0, middle + half)


def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t with a whole number of degrees of freedom, to 1e-7 of it (between 0.001 and 0.999)."""
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        return (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )  # Abramowitz and Stegun 26.7.5
    t = z + math.fsum(term / freedom**power for power, term in enumerate(terms, start=1))
    if freedom <= 60:  # from there on the expansion is exact enough by itself
        norm = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
        for _ in range(3):
            density = math.exp(norm - (freedom + 1) / 2 * math.log1p(t * t / freedom))
            t -= (_student_cdf(t, freedom) - probability) / density
    return t


def _student_cdf(t: float, freedom: int) -> float:
    """Abramowitz and Stegun 26.7.3 and 26.7.4: a finite sum for a whole number of degrees of freedom."""
    angle = math.atan(t / math.sqrt(freedom))
    term = math.cos(angle) if freedom % 2 else 1.0
    total = 0.0
    for power in range(freedom % 2, freedom - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (power + 1) / (power + 2)
    share = math.sin(angle) * total
    return 0.5 + ((angle + share) / math.pi if freedom % 2 else share / 2)


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided exact McNemar test: how likely so uneven a split is when losing and gaining are equally likely.

    Args:
        b: Pairs that only the reference gets right.
        c: Pairs that only the candidate gets right.

    Raises:
        InputError: A negative count.
    """
    if b < 0 or c < 0:
        raise InputError("a count of pairs is negative", got=f"{b} and {c}", expected="two counts, 0 or more")
    n, k = b + c, min(b, c)
    if n == 0:
        return 1.0
    step = np.arange(1, k + 1, dtype=np.float64)
    # log of C(n, 0..k): the numbers themselves overflow from n = 1030 on
    log_choose = np.concatenate([[0.0], np.cumsum(np.log(n - step + 1) - np.log(step))])
    log_sum = log_choose[-1] + math.log(float(np.exp(log_choose - log_choose[-1]).sum()))
    return min(1.0, math.exp(log_sum - (n - 1) * math.log(2)))


def lowest_upper_end(windows: int, draws: int, confidence: float = 0.95) -> float:
    """The upper end when no draw shows the event: a limit below it cannot be met with these numbers."""
    per_window = np.full(windows, draws // windows, dtype=np.int64)
    per_window[: draws % windows] += 1
    return clustered_counts(np.zeros(windows, dtype=np.int64), per_window, confidence).high


@functools.cache  # asked for every noise level of a result, of which most are alike
def decidable(limit: float, windows: int, draws: int, confidence: float = 0.95) -> bool:
    """Whether every variant that changes at most a tenth of `limit` has its upper end at or below `limit`.

    The fewest changes are not the easiest case: one changed draw alone does not say whether its window changes always
    or hardly ever, and leaves a wider interval than several in as many windows.

    Args:
        limit: Largest admissible upper end.
        windows: Independent windows.
        draws: Of all of them.
        confidence: Of the interval.
    """
    per_window = np.full(windows, draws // windows, dtype=np.int64)
    per_window[: draws % windows] += 1
    most = math.ceil(limit / 10 * draws)
    # The ends of the interval change slowly with the number of events: a handful of them stands for all.
    for events in sorted({*range(min(most, 4) + 1), most}):
        spread = np.full(windows, events // windows, dtype=np.int64)
        spread[: events % windows] += 1
        if clustered_counts(np.minimum(spread, per_window), per_window, confidence).high > limit:
            return False
    return True


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InputError("the confidence is no probability", got=confidence, expected="between 0 and 1, as 0.95")
