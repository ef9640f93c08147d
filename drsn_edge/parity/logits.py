"""What every comparison does with logits first: shape, decisions, margins."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import InputError

# The decision of a window whose logits are not all finite: no class, so it agrees with nothing, itself included.
NO_DECISION = -1


def as_logits(value: NDArray[Any], *, name: str) -> NDArray[np.float64]:
    """Logits `[windows, classes]` as float64.

    Raises:
        InputError: Not two-dimensional, no windows, or fewer than two classes.
    """
    logits: NDArray[np.float64] = np.asarray(value, dtype=np.float64)
    if logits.ndim != 2 or logits.shape[0] < 1 or logits.shape[1] < 2:
        raise InputError(
            f"the logits of {name} have the wrong shape",
            got=f"array of shape {logits.shape}",
            expected="[windows, classes], at least one window and two classes",
        )
    return logits


def top1(logits: NDArray[np.float64]) -> NDArray[np.int64]:
    """The class of each window; `NO_DECISION` where a logit is NaN or infinite."""
    decision: NDArray[np.int64] = np.argmax(np.where(np.isnan(logits), -np.inf, logits), axis=1)
    decision[~np.isfinite(logits).all(axis=1)] = NO_DECISION
    return decision


def margins(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest logit less the second largest, per window: what an error has to eat, twice, to change the decision."""
    best = np.partition(logits, -2, axis=1)[:, -2:]
    return np.asarray(best[:, 1] - best[:, 0])
