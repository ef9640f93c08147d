"""Rate of an event over draws that come in windows, when few windows show it: beta-binomial, integrated on a grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

# Correlation of draws within a window: 0 (draws are independent) and 48 values up to 0.95, evenly on a log scale. With
# 24 the neighbours of a well-known correlation, 35 % apart, made intervals up to 12 % too wide or too narrow.
_CORRELATION: Floats = np.concatenate([[0.0], np.geomspace(0.001, 0.95, 48)])
_EDGES: Floats = np.concatenate([[0.0, 0.0005], np.sqrt(_CORRELATION[1:-1] * _CORRELATION[2:]), [1.0]])
# Prior Beta(1/2, 2), by its distribution function: mean 0.2, half of it below 0.12. Fresh noise per draw keeps the
# correlation low, and a window that sits on a boundary can make it high. Chosen by simulated coverage.
_PRIOR: Floats = np.diff(1.5 * np.sqrt(_EDGES) - 0.5 * _EDGES**1.5)
_POINTS = 100
# Fewer windows than this, and a limit is that of a count of a few.
_FEW = 20
# Rows that share a grid: their likelihoods are one matrix product.
_TOGETHER = 128


def interval(events: Counts, draws: Counts, confidence: float) -> tuple[Floats, Floats]:
    """Equal-tailed credible intervals of the rate, one for every row of events.

    Each window has its own rate, drawn from a beta distribution; Jeffreys prior on the mean, Beta(1/2, 2) on the
    correlation. Where few windows show the event, the lower end has the prior with which independent draws give the
    exact limit (Clopper and Pearson, Biometrika 26, 1934): that of Jeffreys was missed in up to 8 % of experiments with
    about one event (Brown, Cai and DasGupta, Statistical Science 16, 2001, mend it there too). Where few
    windows lack it, the upper end likewise. With no events the lower end is 0, with nothing else the upper end is 1.

    Args:
        events: Draws of each window that show the event, `[rows, windows]`.
        draws: Draws of each window, at least 1, `[windows]`: the same in every row.
        confidence: Probability between the ends.

    Returns:
        Lower and upper ends, `[rows]` each.
    """
    total, count = int(draws.sum()), events.sum(axis=1)
    low, high = np.zeros(len(events)), np.ones(len(events))
    order = np.argsort(count, kind="stable")  # rows of like rates have like grids
    for start in range(0, len(order), _TOGETHER):
        rows = order[start : start + _TOGETHER]
        low[rows], high[rows] = _together(events[rows], draws, (1 - confidence) / 2)
    return np.where(count == 0, 0.0, low), np.where(count == total, 1.0, high)


def _together(events: Counts, draws: Counts, tail: float) -> tuple[Floats, Floats]:
    rates = _grid(events, draws)
    likelihood = _log_likelihood(events, draws, rates)
    likelihood -= likelihood.max(axis=(0, 1))
    weight = np.einsum("crn,c->rn", np.exp(likelihood), _PRIOR)
    p = rates[:, None]  # every prior below is times p (1 - p), the derivative of the logit scale
    jeffreys = np.sqrt(p * (1 - p))
    showing, lacking = np.count_nonzero(events, axis=1), np.count_nonzero(draws - events, axis=1)
    low = _quantile(weight * np.where(showing < _FEW, 1 - p, jeffreys), rates, tail)
    high = _quantile(weight * np.where(lacking < _FEW, p, jeffreys), rates, 1 - tail)
    return low, high


def _quantile(weight: Floats, rates: Floats, probability: float) -> Floats:
    below = np.cumsum(weight, axis=0)
    below = (below - weight / 2) / below[-1]
    return np.array([np.interp(probability, column, rates) for column in below.T])


def _grid(events: Counts, draws: Counts) -> Floats:
    """Rates, evenly on the logit scale, eight standard errors to both sides of every row, as fine as any row wants."""
    total = int(draws.sum())
    centre = (events.sum(axis=1) + 0.5) / (total + 1)
    binomial = centre * (1 - centre) / total
    clustered = np.sum((events - draws * centre[:, None]) ** 2, axis=1) / total**2
    width = np.minimum(8 * np.sqrt(binomial + np.maximum(binomial, clustered)) / (centre * (1 - centre)), 12.0)
    middle = np.log(centre / (1 - centre))
    bottom, top = max(float((middle - width).min()), -18.0), min(float((middle + width).max()), 18.0)
    own = np.minimum(middle + width, 18.0) - np.maximum(middle - width, -18.0)
    points = int(np.ceil((top - bottom) / float(own.min()) * (_POINTS - 1) - 1e-6)) + 1
    return np.asarray(1 / (1 + np.exp(-np.linspace(bottom, top, points))))


def _log_likelihood(events: Counts, draws: Counts, rates: Floats) -> Floats:
    """`[correlation, rate, row]`, up to a constant.

    With t = correlation / (1 - correlation), a window with k events of m draws has likelihood
    prod_{j<k} (p + j t) prod_{j<m-k} (1 - p + j t) / prod_{j<m} (1 + j t): no gamma function, and t = 0 is the
    binomial. Windows enter only through how many have more than j events, so windows cost nothing.
    """
    with_event, without, drawn = _more_than(events), _more_than(draws - events), _more_than(draws[None])[:, 0]
    result = np.empty((len(_CORRELATION), len(rates), len(events)))
    for row, correlation in enumerate(_CORRELATION):
        t = correlation / (1 - correlation)
        result[row] = (
            np.log(rates[:, None] + t * np.arange(len(with_event))) @ with_event
            + np.log(1 - rates[:, None] + t * np.arange(len(without))) @ without
            - np.log1p(t * np.arange(len(drawn))) @ drawn
        )
    return result


def _more_than(counts: Counts) -> Floats:
    """How many counts of each row are larger than j, for j = 0, 1, ... below the largest: `[j, rows]`."""
    rows, most = len(counts), int(counts.max())
    place = counts + (most + 1) * np.arange(rows)[:, None]
    histogram = np.bincount(place.ravel(), minlength=rows * (most + 1)).reshape(rows, most + 1)
    return np.asarray(np.cumsum(histogram[:, ::-1], axis=1)[:, ::-1][:, 1:].T, dtype=np.float64)
