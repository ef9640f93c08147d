"""Mean, spread, and the paired difference of networks that were trained several times."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from drsn_edge.parity.intervals import student_quantile


@dataclass(frozen=True)
class Spread:
    """A figure over runs.

    Attributes:
        mean: Over the folds' means, so that every fold counts alike.
        std: Sample standard deviation over all runs, seeds and folds together; None for a single run.
        n: Runs.
        folds: Mean of each fold.
    """

    mean: float
    std: float | None
    n: int
    folds: Mapping[int, float]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "mean": self.mean,
            "std": self.std,
            "n": self.n,
            "folds": {str(fold): mean for fold, mean in self.folds.items()},
        }


@dataclass(frozen=True)
class Difference:
    """A paired difference with its interval.

    Attributes:
        mean: Over the folds' means.
        low, high: Ends of the interval; None where no fold has two pairs.
        n: Pairs: runs of the same fold and seed.
        freedom: Degrees of freedom: pairs less folds.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    freedom: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "mean": self.mean,
            "ci95": None if self.low is None else [self.low, self.high],
            "n": self.n,
            "freedom": self.freedom,
        }


Runs = Mapping[tuple[int, int], float]


def spread(runs: Runs) -> Spread:
    """Mean and standard deviation of runs, by `(fold, seed)`; at least one run."""
    values = list(runs.values())
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    folds = {fold: float(np.mean(of_fold)) for fold, of_fold in _by_fold(runs).items()}
    return Spread(float(np.mean(list(folds.values()))), std, len(values), folds)


def paired_difference(runs: Runs, reference: Runs, confidence: float = 0.95) -> Difference | None:
    """How much higher `runs` are than `reference`, over the `(fold, seed)` that both have; None where there is none.

    Student's t over the seeds of each fold, with one variance for all folds. Folds are fixed, not drawn: the interval
    says how far the difference may come from the chance of training, on these folds. With one fold it is the interval
    of the paired t-test.
    """
    pairs = {key: runs[key] - reference[key] for key in sorted(runs.keys() & reference.keys())}
    if not pairs:
        return None
    folds = [np.asarray(values) for values in _by_fold(pairs).values()]
    mean = float(np.mean([values.mean() for values in folds]))
    freedom = len(pairs) - len(folds)
    if freedom == 0:
        return Difference(mean, None, None, len(pairs), 0)
    variance = sum(float(np.sum((values - values.mean()) ** 2)) for values in folds) / freedom
    error = math.sqrt(variance * sum(1 / len(values) for values in folds)) / len(folds)
    half = student_quantile(0.5 + confidence / 2, freedom) * error
    return Difference(mean, mean - half, mean + half, len(pairs), freedom)


def _by_fold(runs: Runs) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for (fold, _), value in sorted(runs.items(), key=lambda item: item[0][0]):
        found.setdefault(fold, []).append(value)
    return found
