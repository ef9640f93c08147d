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
    largest = np.array([np.nan if full is None else full * (1 - 1e-4) for full in full_scale])
    clipped = np.maximum(-low.min(axis=1), high.max(axis=1)) >= largest
    unknown = np.flatnonzero(np.isnan(largest))
    if len(unknown):
        rows = slice(None) if len(unknown) == len(x) else unknown  # a copy only where sensors differ
        pieces, low, high = flat_x[rows], low[rows], high[rows]
        clipped[unknown] = np.maximum(_often(pieces, low), _often(pieces, high)).max(axis=1) >= _AT_EXTREME
    return Quality(nan, flat, clipped & ~nan & ~flat)


def _often(x: NDArray[np.float32], value: NDArray[np.float32]) -> NDArray[np.intp]:
    """How often each channel `[n, channels, samples]` has its value `[n, channels]`."""
    # Hits are few, and finding them is several times as quick as adding up what is none.
    hits = np.flatnonzero(x == value[..., None]) // x.shape[2]
    return np.bincount(hits, minlength=value.size).reshape(value.shape)
