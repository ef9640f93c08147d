"""Ranges of activations, streamed: constant memory however many windows pass."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import InputError, UsageError

Method = Literal["min-max", "percentile", "mse", "entropy"]
METHODS: tuple[str, ...] = get_args(Method)

# Symmetric int8 with zero-point 0: levels 0 to 127 on either side.
LEVELS = 127
_BINS = 4096


class RangeObserver:
    """A histogram of magnitudes that doubles its range when it must.

    Doubling merges bins in pairs, so nothing is kept but the counts and the largest magnitude. Range estimates are
    amplitudes `amax`; the scale is `amax / 127`.
    """

    def __init__(self, bins: int = _BINS) -> None:
        self.counts: NDArray[np.int64] = np.zeros(bins, np.int64)
        self.limit = 0.0
        self.largest = 0.0

    def update(self, values: NDArray[Any]) -> None:
        """Add a batch of values of any shape.

        Raises:
            InputError: NaN or infinity among them.
        """
        magnitude = np.abs(values, dtype=np.float32).ravel()
        top = float(magnitude.max(initial=0.0))
        if not np.isfinite(top):
            raise InputError(
                "a tensor is not finite during calibration", got=top, expected="finite values",
                hint="the windows or the network are damaged",
            )  # fmt: skip
        self.largest = max(self.largest, top)
        if top == 0.0:
            self.counts[0] += magnitude.size
            return
        if self.limit == 0.0:
            self.limit = top
        while top > self.limit:
            self.counts = np.concatenate(
                [self.counts.reshape(-1, 2).sum(axis=1), np.zeros(len(self.counts) // 2, np.int64)]
            )
            self.limit *= 2
        index = (magnitude * np.float32(len(self.counts) / self.limit)).astype(np.int32)
        np.minimum(index, len(self.counts) - 1, out=index)
        self.counts += np.bincount(index, minlength=len(self.counts))

    def amax(self, method: str, *, percentile: float = 99.99) -> float:
        """The amplitude that int8 level 127 stands for.

        Args:
            method: `min-max`, `percentile`, `mse` (least squared error of rounding and clipping together) or `entropy`
                (least Kullback-Leibler divergence, as TensorRT's and ONNX Runtime's calibrators search it).
            percentile: Share of values not clipped, in percent.

        Raises:
            UsageError: Unknown method.
        """
        if method not in METHODS:
            raise UsageError("unknown range method", got=method, expected=", ".join(METHODS))
        if self.limit == 0.0:
            # Nothing but zeros passed: any positive scale represents them, and a scale must not be zero.
            return 1.0
        if method == "min-max":
            return self.largest
        if method == "percentile":
            return self._percentile(percentile)
        return self._best(self._mse if method == "mse" else self._divergence)

    def _percentile(self, percentile: float) -> float:
        below = np.cumsum(self.counts)
        index = int(np.searchsorted(below, below[-1] * percentile / 100))
        return min((index + 1) * self.limit / len(self.counts), self.largest)

    def _candidates(self) -> NDArray[np.float64]:
        return np.linspace(0.1, 1.0, 91, dtype=np.float64) * self.largest

    def _best(self, cost: Any) -> float:
        candidates = self._candidates()
        return float(candidates[int(np.argmin([cost(float(value)) for value in candidates]))])

    def _centres(self) -> NDArray[np.float64]:
        step = np.float64(self.limit / len(self.counts))
        centres: NDArray[np.float64] = (np.arange(len(self.counts), dtype=np.float64) + 0.5) * step
        return centres

    def _mse(self, amax: float) -> float:
        centres = self._centres()
        scale = amax / LEVELS
        error = centres - np.minimum(np.rint(centres / scale), LEVELS) * scale
        return float(np.dot(self.counts, error * error))

    def _divergence(self, amax: float) -> float:
        kept = max(round(amax / self.limit * len(self.counts)), LEVELS + 1)
        kept = min(kept, len(self.counts))
        reference = self.counts[:kept].astype(np.float64)
        reference[-1] += self.counts[kept:].sum()
        level = np.minimum((np.arange(kept) * (LEVELS + 1)) // kept, LEVELS)
        filled = self.counts[:kept] > 0
        total = np.bincount(level, weights=self.counts[:kept], minlength=LEVELS + 1)
        size = np.bincount(level, weights=filled, minlength=LEVELS + 1)
        spread = np.where(filled, total[level] / np.maximum(size[level], 1), 0.0)
        p, q = reference / reference.sum(), spread / max(spread.sum(), 1.0)
        used = p > 0
        # A bin that the candidate leaves empty costs as if it held a thousandth of the smallest filled one.
        floor = q[q > 0].min(initial=1.0) * 1e-3
        return float(np.sum(p[used] * np.log(p[used] / np.maximum(q[used], floor))))


def weight_scales(weight: NDArray[Any]) -> NDArray[np.float32]:
    """Scale per output channel (axis 0); positive even for a channel of zeros."""
    amax = np.abs(weight.astype(np.float32)).reshape(len(weight), -1).max(axis=1)
    scales: NDArray[np.float32] = np.maximum(amax, np.finfo(np.float32).tiny * LEVELS).astype(np.float32) / np.float32(
        LEVELS
    )
    return scales
