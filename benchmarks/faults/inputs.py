"""What an engine is fed on the device, in place of the window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _resampled(x: Array) -> Array:
    """The window as a sensor at 12.8 kHz instead of 12 kHz gives it."""
    place = np.arange(x.shape[-1]) * (12.0 / 12.8)
    grid = np.arange(x.shape[-1])
    flat = x.reshape(-1, x.shape[-1])
    return np.stack([np.interp(place, grid, row) for row in flat]).reshape(x.shape).astype(np.float32)


def _wrapped(x: Array) -> Array:
    """int16 that wraps: full scale taken for half of what the windows reach."""
    top = np.abs(x).max(axis=-1, keepdims=True) / 2 + 1e-30
    return np.asarray((x + top) % (2 * top) - top, dtype=np.float32)


INPUTS: dict[str, Callable[[Array], Array]] = {
    "wrong sampling rate": _resampled,
    "gain x2": lambda x: x * np.float32(2),
    "channel order": lambda x: np.ascontiguousarray(x[:, ::-1]),
    "polarity": lambda x: -x,
    "stale buffer": lambda x: np.roll(x, 1, axis=0),
    "wrapped int16": _wrapped,
}
