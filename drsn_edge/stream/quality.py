"""What is wrong with windows before any network sees them: not finite, flat, clipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Without a known full scale: so many samples of one window at its very extreme are no coincidence.
_AT_EXTREME = 8


@dataclass(frozen=True, eq=False)
class Quality:
    """Of a batch, `[n]` each; a window may be several of them."""

    nan: NDArray[np.bool_]
    flat: NDArray[np.bool_]
    clipped: NDArray[np.bool_]

    @property
    def good(self) -> NDArray[np.bool_]:
        """What the network may see: clipped windows, too."""
        return ~(self.nan | self.flat)

    def reason(self, row: int) -> str:
        """In a word."""
        return "nan" if self.nan[row] else "flat"


def examine(x: NDArray[np.float32], full_scale: Sequence[float | None]) -> Quality:
    """Look at windows `[n, channels, ...]`.

    Args:
        x: The windows.
        full_scale: Largest magnitude that each window's sensor can give; None where nobody knows: then a window is
            called clipped when eight of its samples, in one channel, are exactly its largest or its smallest.
    """
    flat_x = x.reshape(*x.shape[:2], -1)
    # Both carry NaN on, and neither needs a copy of the windows.
    low, high = flat_x.min(axis=2), flat_x.max(axis=2)
    nan = ~(np.isfinite(low) & np.isfinite(high)).all(axis=1)
    flat = (low == high).any(axis=1) & ~nan
    clipped = np.zeros(len(x), np.bool_)
    for row, full in enumerate(full_scale):
        if nan[row] or flat[row]:
            continue
        if full is not None:
            clipped[row] = max(-low[row].min(), high[row].max()) >= full * (1 - 1e-4)
        else:
            for channel, values in enumerate(flat_x[row]):
                at = max(np.count_nonzero(values == high[row, channel]), np.count_nonzero(values == low[row, channel]))
                clipped[row] |= at >= _AT_EXTREME
    return Quality(nan, flat, clipped)
