"""Golden vectors: the windows on which a damaged graph shows first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from drsn_edge.signals.noise import Noise, add_noise, noise_rng
from drsn_edge.signals.windows import Windows

# Of these SNRs every class gets windows, beside clean ones.
_SNRS = (10.0, 6.0, 2.0, 0.0, -2.0, -4.0, -6.0)
_POOL = 8  # candidates per golden window, of which the smallest margins are kept


def choose_golden(
    windows: Windows,
    logits: Callable[[NDArray[np.float32]], NDArray[np.floating]],
    *,
    count: int = 96,
    noises: Sequence[Noise] = ("gaussian",),
    seed: int = 0,
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Choose hard windows.

    Half of them are spread evenly over classes and SNRs, clean ones among them; the other half are those with the
    smallest margin between the two largest logits out of eight times as many, because a small error changes those
    decisions first. The last six replace the easiest: silence, the loudest and the faintest window, one clipped at half
    its amplitude, one with a large offset, one a thousand times as loud.

    Args:
        windows: Not trained on.
        logits: Of the reference, for `[N, C, ...]`.
        count: How many in all, at least 16.
        noises: Kinds of noise, in turn.
        seed: Of the draw.

    Returns:
        Windows `[count, C, ...]`, classes `[count]` (-1 where a made-up window has none), SNR `[count]` (NaN: clean).
    """
    rng = noise_rng(seed, "golden")
    size = (count - 6) // 2 * _POOL
    order = np.concatenate([rng.permutation(len(windows)) for _ in range(-(-size // len(windows)))])[:size]
    rank = np.zeros(size, np.int64)
    for label in np.unique(windows.y):
        mask = windows.y[order] == label
        rank[mask] = np.arange(np.count_nonzero(mask))
    order = order[np.argsort(rank, kind="stable")]
    x, y = windows.x[order].copy(), windows.y[order]
    level = (np.arange(size) // max(len(np.unique(windows.y)), 1)) % (len(_SNRS) + 1)
    snr = np.array([np.nan, *_SNRS], np.float32)[level]
    for index, kind in enumerate(noises):
        rows = np.flatnonzero(~np.isnan(snr))[index :: len(noises)]
        x[rows] = add_noise(x[rows], snr[rows], kind, rng)
    found = np.sort(logits(x).astype(np.float64), axis=1)
    margin = found[:, -1] - found[:, -2]
    spread = np.arange((count - 6) // 2)
    rest = np.argsort(margin[len(spread) :], kind="stable")[: count - 6 - len(spread)] + len(spread)
    chosen = np.concatenate([spread, rest])
    edges, edge_labels = _edges(windows)
    return (
        np.ascontiguousarray(np.concatenate([x[chosen], edges])),
        np.concatenate([y[chosen], edge_labels]),
        np.concatenate([snr[chosen], np.full(len(edges), np.nan, np.float32)]),
    )


def _edges(windows: Windows) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Windows at the edge of what a sensor gives."""
    size = np.abs(windows.x.reshape(len(windows), -1)).max(axis=1)
    loudest, faintest = int(size.argmax()), int(size.argmin())
    middle = int(np.argsort(size)[len(size) // 2])
    window = windows.x[middle]
    top = np.float32(np.abs(window).max() / 2)
    made = [
        np.zeros_like(window),
        windows.x[loudest],
        windows.x[faintest],
        np.clip(window, -top, top),
        window + np.float32(10 * size[middle]),
        window * np.float32(1000),
    ]
    labels = [-1, windows.y[loudest], windows.y[faintest], windows.y[middle], windows.y[middle], windows.y[middle]]
    return np.stack(made).astype(np.float32), np.asarray(labels, np.int64)
