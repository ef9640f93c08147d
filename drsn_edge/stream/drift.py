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
        # How far out, in spreads of the range; a unit that never varied has none.
        self._spread = np.maximum(self._high - self._low, 1e-9)
        self._windows, self._inside = windows, 0
        self._held = np.zeros((0, len(FIGURES), len(known.units)))  # those that means of further windows need
        self._gaps = 0
        self.outside = False

    def add(self, telemetry: NDArray[np.float64], gaps: int = 0) -> dict[int, dict[str, Any]]:
        """Take the telemetry `[n, figures, units]` of windows in, in their order.

        Args:
            telemetry: Of windows without a gap between them.
            gaps: That came before them. Behind a gap the mean begins again; whether it was outside stays until it is
                known anew.

        Returns:
            For each of them at which the mean has just left the range or come back: which unit, which figure, value
            and range (of the one that is farthest out).
        """
        if gaps != self._gaps:
            self._gaps, self._held, self._inside = gaps, self._held[:0], 0
        held = np.concatenate([self._held, telemetry])
        self._held = held[max(0, len(held) - self._windows + 1) :]
        if len(held) < self._windows:
            return {}
        means = np.lib.stride_tricks.sliding_window_view(held, self._windows, axis=0).mean(axis=-1)
        excess = np.maximum(self._low - means, means - self._high) / self._spread
        out = (excess.max(axis=(1, 2)) > 0).tolist()
        first = len(telemetry) - len(out)  # the windows before it only filled the mean
        told = {}
        for place, outside in enumerate(out):
            # Near the edge a mean goes in and out: back is what has stayed in for as long as the mean looks.
            self._inside = 0 if outside else self._inside + 1
            if outside != self.outside and (outside or self._inside >= self._windows):
                self.outside = outside
                told[first + place] = self._tell(means[place], excess[place])
        return told

    def _tell(self, mean: NDArray[np.float64], excess: NDArray[np.float64]) -> dict[str, Any]:
        figure, unit = np.unravel_index(int(excess.argmax()), excess.shape)
        return {
            "event": "raised" if self.outside else "cleared",
            "unit": self._known.units[int(unit)],
            "figure": FIGURES[int(figure)],
            "value": round(float(mean[figure, unit]), 6),
            "range": [round(float(self._low[figure, unit]), 6), round(float(self._high[figure, unit]), 6)],
        }
