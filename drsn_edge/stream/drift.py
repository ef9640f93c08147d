"""Thresholds that leave the range of training: the sensor came loose, or the noise is another. Needs no labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import InputError, UsageError

FIGURES = ("threshold", "zero_share")
# A running mean may lie outside of what single windows had by this share of their spread.
_MARGIN = 0.05


@dataclass(frozen=True, eq=False)
class TelemetryRange:
    """What training windows had, clean up to the lowest trained SNR.

    Attributes:
        units: Names of the shrinkage units.
        low, high: Smallest and largest of each figure, `[units]`.
        windows: How many were looked at.
        snr_db: Lowest and highest SNR of their noise; None without.
    """

    units: tuple[str, ...]
    low: Mapping[str, NDArray[np.float64]]
    high: Mapping[str, NDArray[np.float64]]
    windows: int
    snr_db: tuple[float, float] | None = None

    @classmethod
    def measured(
        cls, outputs: Mapping[str, NDArray[Any]], units: tuple[str, ...], snr_db: tuple[float, float] | None
    ) -> TelemetryRange:
        """From the telemetry `[N, units]` of windows."""
        low = {name: outputs[name].min(axis=0).astype(np.float64) for name in FIGURES}
        high = {name: outputs[name].max(axis=0).astype(np.float64) for name in FIGURES}
        return cls(units, low, high, len(outputs[FIGURES[0]]), snr_db)

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "windows": self.windows,
            "snr_db": None if self.snr_db is None else list(self.snr_db),
            **{name: {"low": self.low[name].tolist(), "high": self.high[name].tolist()} for name in FIGURES},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], units: tuple[str, ...]) -> TelemetryRange:
        """From the manifest.

        Raises:
            InputError: Not what `to_json` wrote.
        """
        try:
            low = {name: np.asarray(value[name]["low"], np.float64) for name in FIGURES}
            high = {name: np.asarray(value[name]["high"], np.float64) for name in FIGURES}
            snr = value.get("snr_db")
            made = cls(units, low, high, int(value["windows"]), None if snr is None else (float(snr[0]), float(snr[1])))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InputError("the manifest's telemetry cannot be used", got=repr(error), expected="ranges") from None
        for bounds in (low, high):
            for name in FIGURES:
                if bounds[name].shape != (len(units),) or not np.isfinite(bounds[name]).all():
                    raise InputError(
                        "the manifest's telemetry does not fit its units", got=bounds[name].shape,
                        expected=f"{len(units)} finite numbers",
                    )  # fmt: skip
        return made


class DriftWatch:
    """Running means of one sensor's telemetry against the range.

    Args:
        known: The range.
        windows: Over how many windows the mean runs.

    Attributes:
        outside: Whether the mean is outside of the range now.
    """

    def __init__(self, known: TelemetryRange, *, windows: int) -> None:
        if windows < 1:
            raise UsageError("the drift needs windows", got=windows, expected="at least 1")
        self._known = known
        spread = {name: _MARGIN * (known.high[name] - known.low[name]) for name in FIGURES}
        self._low = np.stack([known.low[name] - spread[name] for name in FIGURES])
        self._high = np.stack([known.high[name] + spread[name] for name in FIGURES])
        self._held = np.zeros((windows, len(FIGURES), len(known.units)))
        self._count = self._next = self._inside = 0
        self.outside = False

    def add(self, threshold: NDArray[Any], zero_share: NDArray[Any]) -> dict[str, Any] | None:
        """Take a window's telemetry `[units]` in.

        Returns:
            When the mean has just left the range or come back: which unit, which figure, value and range (of the one
            that is farthest out). None otherwise.
        """
        self._held[self._next] = threshold, zero_share
        self._next = (self._next + 1) % len(self._held)
        self._count = min(self._count + 1, len(self._held))
        if self._count < len(self._held):
            return None
        mean = self._held.mean(axis=0)
        # How far out, in spreads of the range; a unit that never varied has none.
        spread = np.maximum(self._high - self._low, 1e-9)
        excess = np.maximum(self._low - mean, mean - self._high) / spread
        outside = bool(excess.max() > 0)
        # Near the edge a mean goes in and out: back is what has stayed in for as long as the mean looks.
        self._inside = 0 if outside else self._inside + 1
        if outside == self.outside or (self.outside and self._inside < len(self._held)):
            return None
        self.outside = outside
        figure, unit = np.unravel_index(int(excess.argmax()), excess.shape)
        return {
            "event": "raised" if outside else "cleared",
            "unit": self._known.units[int(unit)],
            "figure": FIGURES[int(figure)],
            "value": round(float(mean[figure, unit]), 6),
            "range": [round(float(self._low[figure, unit]), 6), round(float(self._high[figure, unit]), 6)],
        }

    def forget(self) -> None:
        """A gap: the mean begins again. Whether it was outside stays until it is known anew."""
        self._count = self._next = self._inside = 0
