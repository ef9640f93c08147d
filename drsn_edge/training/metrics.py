"""Balanced accuracy from counts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import InputError


def confusion(y: NDArray[Any], decided: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Counts `[classes, classes]`: true class by row, decision by column."""
    return np.bincount(y * classes + decided, minlength=classes * classes).reshape(classes, classes)


def balanced_accuracy(counts: NDArray[np.int64]) -> float:
    """Mean over classes of the share that was decided rightly; classes without a window do not count.

    Raises:
        InputError: No windows at all.
    """
    total = counts.sum(axis=1)
    present = total > 0
    if not present.any():
        raise InputError("there is nothing to score", got="0 windows", expected="at least one")
    return float(np.mean(counts.diagonal()[present] / total[present]))
