"""Ranges of activations, streamed: constant memory however many windows pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import InputError, UsageError

Method = Literal["min-max", "percentile", "mse", "entropy"]
METHODS: tuple[str, ...] = get_args(Method)

# Symmetric int8 with zero-point 0: levels 0 to 127 on either side.
LEVELS = 127
_BINS = 1 << 14
# The entropy search compares shapes and wants filled bins; TensorRT's calibrator uses 2048 of them.
_MERGED = 8
# Values below 2**-100 are counted as if they were zero: no float32 scale could tell them apart.
_LOWEST_EXPONENT = -100
# Of a scale. Builders multiply and divide scales by each other: a product of two must not underflow in float32.
_SMALLEST_SCALE = 1e-18
# Amplitudes that the searches try, as shares of the largest magnitude.
_SHARES = np.linspace(0.05, 1.0, 96, dtype=np.float64)


class RangeObserver:
    """A histogram of magnitudes that doubles its range when it must.

    The range is a power of two and doubling merges bins in pairs, so what is kept depends on the values alone, not on
    their order or on how they were cut into batches. Zeros, half of what a ReLU leaves, are counted apart: every scale
    represents them exactly. Range estimates are amplitudes `amax`; `scale_of` makes a scale of one.
    """

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(_BINS, np.int64)
        self.zeros = 0
        self.largest = 0.0
        self._exponent: int | None = None

    @property
    def limit(self) -> float:
        """Upper end of the histogram, above every value seen; 0 when there were only zeros."""
        return 0.0 if self._exponent is None else math.ldexp(1.0, self._exponent)

    def update(self, values: NDArray[Any], *, name: str = "a tensor") -> None:
        """Add a batch of values of any shape.

        Raises:
            InputError: NaN or infinity among them; `name` says of what.
        """
        flat = values.astype(np.float32, copy=False).ravel()
        low = float(flat.min(initial=0.0))
        top = max(float(flat.max(initial=0.0)), -low)
        if not math.isfinite(top):
            raise InputError(
                f"{name} is not finite during calibration", got=top, expected="finite values",
                hint="the windows or the network are damaged",
            )  # fmt: skip
        magnitude = flat if low >= 0 else np.abs(flat)
        nonzero = int(np.count_nonzero(magnitude != 0))  # of truth values: four times as fast as of floats
        self.zeros += magnitude.size - nonzero
        if nonzero == 0:
            return
        self.largest = max(self.largest, top)
        exponent = max(math.frexp(top)[1], _LOWEST_EXPONENT)  # top < 2**exponent
        if self._exponent is None:
            self._exponent = exponent
        while exponent > self._exponent:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate([merged, np.zeros_like(merged)])
            self._exponent += 1
        # A power of two: the product is exact, and a value falls into the same bin whenever it comes.
        # Written as the integers that bincount takes: anything else it would copy.
        index = np.empty(magnitude.size, np.intp)
        np.multiply(magnitude, np.float32(math.ldexp(_BINS, -self._exponent)), out=index, casting="unsafe")
        self.counts += np.bincount(index, minlength=_BINS)
        self.counts[0] -= magnitude.size - nonzero

    def amax(self, method: str, *, percentile: float = 99.99) -> float:
        """The amplitude that int8 level 127 stands for.

        Args:
            method: `min-max`, `percentile`, `mse` (least squared error of rounding and clipping together) or `entropy`
                (least Kullback-Leibler divergence, as TensorRT's and ONNX Runtime's calibrators search it).
            percentile: Share of the values other than zero that are not clipped, in percent.

        Raises:
            UsageError: Unknown method.
        """
        if method not in METHODS:
            raise UsageError("unknown range method", got=method, expected=", ".join(METHODS))
        if self.limit == 0.0:
            return 1.0  # nothing but zeros passed: any positive range represents them
        if method == "min-max":
            return self.largest
        if method == "percentile":
            return self._percentile(percentile)
        if method == "mse":
            return self._best(self._squared_error)
        merged = self.counts.reshape(-1, _MERGED).sum(axis=1)
        return self._best(lambda amax: self._divergence(amax, merged))

    def _percentile(self, percentile: float) -> float:
        below = np.cumsum(self.counts)
        index = int(np.searchsorted(below, below[-1] * percentile / 100))
        return min((index + 1) * self.limit / _BINS, self.largest)

    def _best(self, cost: Callable[[float], float]) -> float:
        candidates = _SHARES * self.largest
        return float(candidates[int(np.argmin([cost(float(value)) for value in candidates]))])

    def _squared_error(self, amax: float) -> float:
        centres = (np.arange(_BINS) + 0.5) * (self.limit / _BINS)
        scale = amax / LEVELS
        error = centres - np.minimum(np.rint(centres / scale), LEVELS) * scale
        return float(np.dot(self.counts, error * error))

    def _divergence(self, amax: float, counts: NDArray[np.int64]) -> float:
        kept = min(max(round(amax / self.limit * len(counts)), LEVELS + 1), len(counts))
        reference = counts[:kept].astype(np.float64)
        # What would be clipped is part of the distribution that is wanted, and no part of the one that is had.
        reference[-1] += counts[kept:].sum()
        # Bin b belongs to level b * 128 // kept; every level begins somewhere, because there are as many bins at least.
        begin = -(-np.arange(LEVELS + 1) * kept // (LEVELS + 1))
        filled = counts[:kept] > 0
        total = np.add.reduceat(counts[:kept], begin)
        size = np.add.reduceat(filled.astype(np.int64), begin)
        spread = np.where(filled, np.repeat(total / np.maximum(size, 1), np.diff(begin, append=kept)), 0.0)
        p, q = reference / reference.sum(), spread / max(spread.sum(), 1.0)
        used = p > 0
        # A bin that the candidate leaves empty costs as if it held a thousandth of the smallest filled one.
        floor = q[q > 0].min(initial=1.0) * 1e-3
        return float(np.sum(p[used] * np.log(p[used] / np.maximum(q[used], floor))))


def scale_of(amax: float) -> float:
    """The scale of an amplitude, a float32 number: the file holds float32, and a contract must hold the very same."""
    return float(np.float32(max(amax / LEVELS, _SMALLEST_SCALE)))


def weight_scales(weight: NDArray[Any]) -> NDArray[np.float32]:
    """Scale per output channel (axis 0); 1 for a channel of zeros, which any scale represents."""
    amax = np.abs(weight.astype(np.float32)).reshape(len(weight), -1).max(axis=1)
    scales = np.where(amax > 0, np.maximum(amax / np.float32(LEVELS), np.float32(_SMALLEST_SCALE)), np.float32(1))
    return scales.astype(np.float32)


def round_weights(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """The weights that their int8 integers stand for: `scale * round(weight / scale)`, half to even."""
    scales = weight_scales(weight).reshape(-1, *[1] * (weight.ndim - 1))
    integers: NDArray[np.float32] = np.clip(np.rint(weight / scales), -LEVELS, LEVELS)
    return integers * scales
