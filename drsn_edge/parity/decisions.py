"""Decisions of all variants, counted batch by batch: memory grows with independent windows, not with draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import InputError
from drsn_edge.parity import intervals, metrics
from drsn_edge.parity.decision_point import Changed, Confusion, DecisionPoint
from drsn_edge.parity.logits import NO_DECISION, as_logits, margins, top1
from drsn_edge.parity.tolerances import FP32_MAX_REL

__all__ = ["Changed", "DecisionPoint", "DecisionTally", "decide"]

# A confusion matrix of more classes is no longer read by anybody, and would be most of the JSON.
CONFUSION_CLASSES = 32

Counts = NDArray[np.int64]
Layout = tuple[int, bool, frozenset[str]]


class DecisionTally:
    """Decisions of several variants at one noise level, added batch by batch.

    Args:
        reference: The variant that the others are compared with.
        noise: Noise kind of this point; `none` for clean windows.
        snr_db: In dB; None for clean windows.
        gated: Whether the gate judges this point.
    """

    def __init__(self, reference: str, *, noise: str, snr_db: float | None, gated: bool) -> None:
        self._reference = reference
        self._noise, self._snr_db, self._gated = noise, snr_db, gated
        self._index: dict[int, int] = {}
        self._draws: Counts = np.zeros(0, np.int64)
        self._changed: dict[str, Counts] = {}
        self._correct: dict[str, Counts] = {}
        self._confusion: dict[str, Counts] = {}
        self._ties: dict[str, int] = {}
        self._layout: Layout | None = None

    def add(self, y: NDArray[Any] | None, cluster: NDArray[Any], logits: Mapping[str, NDArray[Any]]) -> None:
        """Count one batch.

        Args:
            y: True classes, int `[N]`; None without labels, and then in every batch.
            cluster: The independent window of each draw, int `[N]`; the same window may come again in later batches.
            logits: `[N, classes]` of every variant, the reference included; the same variants in every batch.

        Raises:
            InputError: The reference or a variant is missing, shapes differ, or labels come only sometimes.
        """
        scores = {variant: as_logits(value, name=variant) for variant, value in logits.items()}
        self._check(y, cluster, scores)
        rows = self._rows(cluster)
        self._draws += self._per_window(rows)
        reference = scores[self._reference]
        decided = top1(reference)
        finite = np.where(np.isfinite(reference), reference, 0.0)
        tied = margins(finite) <= 2 * FP32_MAX_REL * np.abs(finite).max(axis=1)
        for variant, values in scores.items():
            decision = top1(values)
            if variant != self._reference:
                differs = (decision != decided) | (decision == NO_DECISION) | (decided == NO_DECISION)
                self._changed[variant] += self._per_window(rows[differs])
                self._ties[variant] += int(np.count_nonzero(differs & tied & (decision != NO_DECISION)))
            if y is not None:
                self._correct[variant] += self._per_window(rows[decision == y])
                self._confusion[variant] += metrics.confusion(y, decision, reference.shape[1])

    def point(self) -> DecisionPoint:
        """Everything counted so far.

        Raises:
            InputError: Nothing was added.
        """
        if not len(self._draws):
            raise InputError("there are no decisions to count", got="no batch", expected="at least one window")
        return DecisionPoint(
            noise=self._noise,
            snr_db=self._snr_db,
            windows=len(self._draws),
            draws=int(self._draws.sum()),
            gated=self._gated,
            accuracy={variant: metrics.accuracy(matrix) for variant, matrix in self._confusion.items()},
            changed={variant: self._changed_of(variant) for variant in self._changed},
            mcnemar_p={variant: self._mcnemar(variant) for variant in self._changed if self._correct},
            accuracy_ci95={variant: self._accuracy_interval(variant) for variant in self._confusion},
            balanced_accuracy={name: metrics.balanced_accuracy(matrix) for name, matrix in self._confusion.items()},
            macro_f1={name: metrics.macro_f1(matrix) for name, matrix in self._confusion.items()},
            confusion={
                name: _rows_of(matrix) for name, matrix in self._confusion.items() if len(matrix) <= CONFUSION_CLASSES
            },
        )

    def _check(self, y: NDArray[Any] | None, cluster: NDArray[Any], scores: Mapping[str, NDArray[np.float64]]) -> None:
        if self._reference not in scores:
            raise InputError("the reference has no logits", got=", ".join(scores), expected=self._reference)
        shapes = {variant: values.shape for variant, values in scores.items()}
        draws, classes = shapes[self._reference]
        for variant, shape in shapes.items():
            if shape != (draws, classes):
                raise InputError(f"{variant} has other logits than the reference", got=shape, expected=(draws, classes))
        for name, values in (("cluster", cluster), *([] if y is None else [("label", y)])):
            if values.shape != (draws,):
                raise InputError(f"there is not one {name} per draw", got=values.shape, expected=(draws,))
        layout = (classes, y is not None, frozenset(scores))
        if self._layout is None:
            self._layout = layout
            self._begin(classes, list(scores), labelled=y is not None)
        elif layout != self._layout:
            raise InputError("a batch is not like the first one", got=_say(*layout), expected=_say(*self._layout))

    def _begin(self, classes: int, variants: list[str], *, labelled: bool) -> None:
        none = np.zeros(0, np.int64)
        self._changed = dict.fromkeys([variant for variant in variants if variant != self._reference], none)
        self._ties = dict.fromkeys(self._changed, 0)
        if labelled:
            self._correct = dict.fromkeys([self._reference, *self._changed], none)
            self._confusion = {variant: np.zeros((classes, classes + 1), np.int64) for variant in self._correct}

    def _rows(self, cluster: NDArray[Any]) -> NDArray[np.int64]:
        """Row of each draw's window; windows that are new get the next rows."""
        unique, inverse = np.unique(cluster, return_inverse=True)
        rows = np.array([self._index.setdefault(int(value), len(self._index)) for value in unique], np.int64)
        new = len(self._index) - len(self._draws)
        if new:
            self._draws = np.pad(self._draws, (0, new))
            for counts in (self._changed, self._correct):
                counts.update({variant: np.pad(values, (0, new)) for variant, values in counts.items()})
        return np.asarray(rows[inverse])

    def _per_window(self, rows: NDArray[np.int64]) -> Counts:
        return np.bincount(rows, minlength=len(self._draws)).astype(np.int64)

    def _changed_of(self, variant: str) -> Changed:
        events = self._changed[variant]
        found = intervals.clustered_counts(events, self._draws)
        return Changed(
            count=int(events.sum()),
            rate=found.rate,
            ci95=(found.low, found.high),
            ties=self._ties[variant],
            windows=int(np.count_nonzero(events)),
            design_effect=found.design_effect,
        )

    def _accuracy_interval(self, variant: str) -> tuple[float, float]:
        found = intervals.clustered_counts(self._correct[variant], self._draws)
        return found.low, found.high

    def _mcnemar(self, variant: str) -> float:
        lost = self._correct[self._reference] - self._correct[variant]
        return intervals.mcnemar_exact(int(np.count_nonzero(lost > 0)), int(np.count_nonzero(lost < 0)))


def decide(
    y: NDArray[Any] | None,
    cluster: NDArray[Any],
    logits: Mapping[str, NDArray[Any]],
    *,
    reference: str,
    noise: str,
    snr_db: float | None,
    gated: bool,
) -> DecisionPoint:
    """The decisions of all draws at once: a `DecisionTally` with one batch."""
    tally = DecisionTally(reference, noise=noise, snr_db=snr_db, gated=gated)
    tally.add(y, cluster, logits)
    return tally.point()


def _rows_of(matrix: Counts) -> Confusion:
    return tuple(tuple(int(count) for count in row) for row in matrix)


def _say(classes: int, labelled: bool, variants: frozenset[str]) -> str:
    return f"{classes} classes, {'with' if labelled else 'without'} labels, {', '.join(sorted(variants))}"
