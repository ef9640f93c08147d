"""Rate of an event over draws that come in windows, when few windows show it: beta-binomial, integrated on a grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Correlation of draws within a window: 0 (draws are independent) and 24 values up to 0.95, evenly on a log scale.
_CORRELATION: NDArray[np.float64] = np.concatenate([[0.0], np.geomspace(0.001, 0.95, 24)])
_EDGES: NDArray[np.float64] = np.concatenate([[0.0, 0.0005], np.sqrt(_CORRELATION[1:-1] * _CORRELATION[2:]), [1.0]])
# Prior Beta(1/2, 2), by its distribution function: mean 0.2, half of it below 0.12. Fresh noise per draw keeps the
# correlation low, and a window that sits on a boundary can make it high. Chosen by simulated coverage.
_PRIOR: NDArray[np.float64] = np.diff(1.5 * np.sqrt(_EDGES) - 0.5 * _EDGES**1.5)
_POINTS = 160


def interval(events: NDArray[np.int64], draws: NDArray[np.int64], confidence: float) -> tuple[float, float]:
    """Equal-tailed credible interval of the rate.

    Each window has its own rate, drawn from a beta distribution; Jeffreys prior on the mean, Beta(1/2, 2) on the
    correlation. With no events the lower end is 0, with nothing else the upper end is 1.

    Args:
        events: Draws of each window that show the event.
        draws: Draws of each window, at least 1.
        confidence: Probability between the ends.
    """
    total, count = int(draws.sum()), int(events.sum())
    rates = _grid(events, draws)
    likelihood = _log_likelihood(events, draws, rates)
    weight = (np.exp(likelihood - likelihood.max()) * _PRIOR[:, None]).sum(axis=0)
    weight *= np.sqrt(rates * (1 - rates))  # Jeffreys, times the derivative of the logit scale
    below = np.cumsum(weight)
    below = (below - weight / 2) / below[-1]
    tail = (1 - confidence) / 2
    low, high = np.interp([tail, 1 - tail], below, rates)
    return (0.0 if count == 0 else float(low)), (1.0 if count == total else float(high))


def _grid(events: NDArray[np.int64], draws: NDArray[np.int64]) -> NDArray[np.float64]:
    """Rates, evenly on the logit scale, eight standard errors to both sides."""
    total = int(draws.sum())
    centre = (int(events.sum()) + 0.5) / (total + 1)
    binomial = centre * (1 - centre) / total
    clustered = float(np.sum((events - draws * centre) ** 2)) / total**2
    width = 8 * np.sqrt(binomial + max(binomial, clustered)) / (centre * (1 - centre))
    middle = np.log(centre / (1 - centre))
    logits = np.linspace(max(middle - min(width, 12.0), -18.0), min(middle + min(width, 12.0), 18.0), _POINTS)
    return np.asarray(1 / (1 + np.exp(-logits)))


def _log_likelihood(
    events: NDArray[np.int64], draws: NDArray[np.int64], rates: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`[correlation, rate]`, up to a constant.

    With t = correlation / (1 - correlation), a window with k events of m draws has likelihood
    prod_{j<k} (p + j t) prod_{j<m-k} (1 - p + j t) / prod_{j<m} (1 + j t): no gamma function, and t = 0 is the
    binomial. Windows enter only through how many have more than j events, so windows cost nothing.
    """
    with_event, without, drawn = (_more_than(counts) for counts in (events, draws - events, draws))
    result = np.empty((len(_CORRELATION), len(rates)))
    for row, correlation in enumerate(_CORRELATION):
        t = correlation / (1 - correlation)
        result[row] = (
            np.log(rates[:, None] + t * np.arange(len(with_event))) @ with_event
            + np.log(1 - rates[:, None] + t * np.arange(len(without))) @ without
            - np.log1p(t * np.arange(len(drawn))) @ drawn
        )
    return result


def _more_than(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """How many counts are larger than j, for j = 0, 1, ... below the largest."""
    return np.asarray(np.cumsum(np.bincount(counts)[::-1])[::-1][1:], dtype=np.float64)
