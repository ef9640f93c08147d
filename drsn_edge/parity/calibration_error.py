"""How far the confidences of decisions are from how often they are right."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import InputError

BINS = 15


def probabilities(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Softmax over the last axis of `logits / temperature`, in float64.

    Raises:
        InputError: A temperature that is not a positive number.
    """
    if not 0 < temperature < float("inf"):
        raise InputError("the temperature cannot be used", got=temperature, expected="a positive number")
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    result = np.exp(scaled)
    result /= result.sum(axis=-1, keepdims=True)
    return np.asarray(result)


class CalibrationTally:
    """Expected calibration error, collected batch by batch.

    Confidence is the largest probability. Decisions fall into bins of equal width by their confidence, closed at the
    upper end; the error is the mean over decisions of |share decided rightly - mean confidence| of their bin (Guo et
    al., On Calibration of Modern Neural Networks, ICML 2017, section 2). A confidence that is no number is in no bin.

    Args:
        bins: How many.
        temperature: Logits are divided by it first.

    Raises:
        InputError: No bins, or a temperature that is not a positive number.
    """

    def __init__(self, *, bins: int = BINS, temperature: float = 1.0) -> None:
        if bins < 1:
            raise InputError("the number of bins cannot be used", got=bins, expected="at least 1")
        probabilities(np.zeros((1, 2)), temperature)
        self.temperature = temperature
        self.count: NDArray[np.int64] = np.zeros(bins, dtype=np.int64)
        self.confidence: NDArray[np.float64] = np.zeros(bins)
        self.right: NDArray[np.float64] = np.zeros(bins)

    def add(self, logits: NDArray[np.floating], y: NDArray[np.integer]) -> None:
        """Decisions of one batch: logits `[N, classes]` and true classes `[N]`."""
        chance = probabilities(logits, self.temperature)
        # The decision is that of the logits: at a high temperature two probabilities can round to the same number.
        decided = logits.argmax(axis=1)
        confidence = chance[np.arange(len(chance)), decided]
        finite = np.isfinite(confidence)
        confidence, right = confidence[finite], (decided == y)[finite]
        bins = len(self.count)
        place = np.searchsorted(np.arange(1, bins) / bins, confidence)
        self.count += np.bincount(place, minlength=bins)
        self.confidence += np.bincount(place, weights=confidence, minlength=bins)
        self.right += np.bincount(place, weights=right, minlength=bins)

    @property
    def error(self) -> float:
        """The error, 0 to 1.

        Raises:
            InputError: Nothing was added.
        """
        total = int(self.count.sum())
        if total == 0:
            raise InputError("there is no confidence to judge", got="0 decisions", expected="at least one")
        return float(np.abs(self.right - self.confidence).sum() / total)
