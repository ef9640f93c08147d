"""One number that makes confidences honest: logits are divided by it before the softmax."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import InputError
from drsn_edge.parity.calibration_error import probabilities

# Where every window is decided rightly the likelihood grows without end as the temperature falls; it stops here.
LOWEST, HIGHEST = 0.1, 10.0


@dataclass(frozen=True)
class Temperature:
    """A fitted temperature.

    Attributes:
        value: Between `LOWEST` and `HIGHEST`; 1 leaves confidences as they are, above 1 the network was too sure.
        nll_before: Mean negative log likelihood of the true classes at temperature 1, in nats.
        nll_after: The same at `value`.
    """

    value: float
    nll_before: float
    nll_after: float


def fit_temperature(logits: NDArray[np.floating], y: NDArray[np.integer]) -> Temperature:
    """The temperature of least negative log likelihood (Guo et al., ICML 2017, section 4.2).

    It changes no decision. The likelihood is convex in 1 / temperature, so that bisection of its derivative finds the
    one minimum.

    Args:
        logits: `[N, classes]`, of windows that were not trained on.
        y: `[N]` true classes.

    Raises:
        InputError: Shapes that do not fit, no windows, a class that does not exist, or logits that are not finite.
    """
    good = logits.ndim == 2 and y.shape == logits.shape[:1] and y.size > 0
    if not good or y.min() < 0 or y.max() >= logits.shape[1] or not np.isfinite(logits).all():
        raise InputError(
            "a temperature cannot be fitted to these logits",
            got=f"{logits.dtype}{list(logits.shape)} with {int((~np.isfinite(logits)).sum())} not finite, "
            f"y {list(y.shape)}" + (f" of {y.min()} to {y.max()}" if y.size else ""),
            expected="finite logits [N, classes], y [N] from 0 to classes - 1, N at least 1",
        )
    z = np.asarray(logits, dtype=np.float64)
    true = z[np.arange(len(z)), y]

    def slope(inverse: float) -> float:
        return float(np.mean((probabilities(z, 1 / inverse) * z).sum(axis=1) - true))

    low, high = 1 / HIGHEST, 1 / LOWEST
    if slope(low) >= 0:
        high = low
    elif slope(high) <= 0:
        low = high
    for _ in range(48):  # 100 / 2^48 is below the resolution of any use
        middle = (low + high) / 2
        if slope(middle) < 0:
            low = middle
        else:
            high = middle
    value = 2 / (low + high)
    return Temperature(value, _nll(z, true, 1.0), _nll(z, true, value))


def _nll(z: NDArray[np.float64], true: NDArray[np.float64], temperature: float) -> float:
    top = z.max(axis=1)
    log_sum = np.log(np.exp((z - top[:, None]) / temperature).sum(axis=1))
    return float(np.mean(log_sum + (top - true) / temperature))
