"""Accuracy, balanced accuracy and macro F1 of a confusion matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import InputError


def confusion(labels: NDArray[Any], decisions: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Windows by true class (rows) and decision (columns), `[classes, classes + 1]`.

    The last column counts windows without a decision (NaN or infinite logits, decision -1).

    Raises:
        InputError: A label or a decision that is no class.
    """
    for name, values, least in (("label", labels, 0), ("decision", decisions, -1)):
        wrong = (values < least) | (values >= classes)
        if wrong.any():
            raise InputError(
                f"a {name} is no class",
                got=int(values[wrong][0]),
                expected=f"0 to {classes - 1}",
                hint="the data set must have the class names of the model, in their order",
            )
    column = np.where(decisions < 0, classes, decisions)
    counts = np.bincount(labels.astype(np.int64) * (classes + 1) + column, minlength=classes * (classes + 1))
    return np.asarray(counts, dtype=np.int64).reshape(classes, classes + 1)


def accuracy(matrix: NDArray[np.int64]) -> float:
    """Share of windows decided rightly."""
    return float(np.trace(matrix) / matrix.sum())


def balanced_accuracy(matrix: NDArray[np.int64]) -> float:
    """Mean over the classes that occur of the share of their windows decided rightly."""
    present = matrix.sum(axis=1) > 0
    return float(np.mean(np.diagonal(matrix)[present] / matrix.sum(axis=1)[present]))


def macro_f1(matrix: NDArray[np.int64]) -> float:
    """Mean F1 over the classes that occur as a label or as a decision."""
    classes = len(matrix)
    both = matrix.sum(axis=1) + matrix[:, :classes].sum(axis=0)
    return float(np.mean(2 * np.diagonal(matrix)[both > 0] / both[both > 0]))
