"""Which windows calibrate: stratified over class, group and SNR, and refused where they would mislead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import InputError, UsageError
from drsn_edge.parity.intervals import wilson
from drsn_edge.signals.noise import Noise, add_noise, noise_rng
from drsn_edge.signals.windows import Windows

# With a quarter of them thresholds err half as much again when the windows are of one SNR or mostly of one class
# (docs/results.md); fewer to judge by leave the choice of the method to chance.
MINIMUM, MINIMUM_HELD_OUT = 64, 16
# Of every ten clusters, those that calibrate and those that judge when one pool must serve for both.
_CALIBRATE, _JUDGE = (0, 1, 2, 3, 4, 5), (7, 8)
# One window in so many stays clean.
_CLEAN = 8


@dataclass(frozen=True, eq=False)
class NoisyWindows:
    """Windows as the network will meet them.

    Attributes:
        windows: Noise included.
        snr_db: `[N]`, NaN for clean.
    """

    windows: Windows
    snr_db: NDArray[np.float32]


def choose(
    windows: Windows,
    *,
    count: int,
    noises: Sequence[Noise] = (),
    snr_db: tuple[float, float] | None = None,
    seed: int = 0,
    stream: str = "calibration",
) -> NoisyWindows:
    """Draw windows evenly over classes, and over groups and SNR within each class; every eighth stays clean.

    Args:
        windows: Of the training part.
        count: How many. With noise, windows come again with another draw of it where there are not so many; without,
            fewer are drawn.
        noises: Kinds of noise, in turn; none leaves every window clean.
        snr_db: Lowest and highest SNR.
        seed: Of the draw.
        stream: Names an independent draw: calibration and held-out windows must not be the same.
    """
    if count < 1:
        raise UsageError("the number of windows to draw cannot be used", got=count, expected="at least 1")
    rng = noise_rng(seed, stream)
    noise = bool(noises) and snr_db is not None
    rounds = -(-count // max(len(windows), 1)) if noise else 1
    order = np.concatenate([rng.permutation(len(windows)) for _ in range(rounds)])
    # Round-robin over the groups of each class: a load with few recordings counts as much as one with many. Every round
    # is shuffled anew, or every eighth window, which stays clean, could be of the same group most of the time.
    if windows.group is not None:
        strata = windows.y[order] * (int(windows.group.max(initial=0)) + 1) + windows.group[order]
        order = order[np.lexsort((noise_rng(seed, stream, "groups").random(len(order)), ranks(strata)))]
    # Round-robin over classes: sort the shuffled windows by how many of their class came before them.
    rank = ranks(windows.y[order])
    by_class = np.lexsort((windows.y[order], rank))
    picked = order[by_class][:count]
    chosen = windows.select(picked)
    snr = np.full(len(chosen), np.nan, np.float32)
    x = chosen.x
    if noise and snr_db is not None:
        # Both counted within each class, so that every class has its clean windows and the whole range of SNR: a
        # golden-ratio walk covers the range evenly however many steps it has.
        noisy = np.flatnonzero((rank[by_class][:count] + chosen.y) % _CLEAN != 0)
        step = ranks(chosen.y[noisy]) + chosen.y[noisy]
        snr[noisy] = snr_db[0] + (snr_db[1] - snr_db[0]) * (step * 0.6180339887498949 % 1.0)
        for index, kind in enumerate(noises):
            rows = noisy[step % len(noises) == index]
            if rows.size:
                x[rows] = add_noise(x[rows], snr[rows], kind, rng, source=chosen.source.select(rows))
    return NoisyWindows(chosen, snr)


def ranks(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of the same label came before each."""
    rank = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        mask = labels == label
        rank[mask] = np.arange(np.count_nonzero(mask))
    return rank


def apart(windows: Windows) -> tuple[Windows, Windows]:
    """Windows that calibrate and others that judge, out of one pool, where nobody knows what the network has seen.

    Args:
        windows: Overlapping by less than one window, clusters in the order of time.

    Returns:
        Six clusters of every ten, and two; those between are left out, because a window reaches into the next cluster.
    """
    place = windows.cluster % 10
    return windows.select(np.isin(place, _CALIBRATE)), windows.select(np.isin(place, _JUDGE))


def refuse(windows: Windows, *, what: str = "the calibration data", minimum: int = MINIMUM) -> None:
    """Refuse windows that cannot calibrate anything.

    Args:
        windows: Noise included or not.
        what: How messages name them.
        minimum: How many there must be.

    Raises:
        InputError: Too few, not finite, all flat, or of one class only.
    """
    if len(windows) < minimum:
        raise InputError(
            f"{what} is too small", got=f"{len(windows)} windows", expected=f"at least {minimum}",
            hint="take longer recordings, or a shorter hop",
        )  # fmt: skip
    if not np.isfinite(windows.x).all():
        raise InputError(f"{what} has samples that are not numbers", got="NaN or infinity", expected="finite samples")
    flat = int(np.count_nonzero(np.ptp(windows.x.reshape(len(windows), -1), axis=1) == 0))
    if flat > len(windows) // 2:
        raise InputError(
            f"{what} is constant", got=f"{flat} of {len(windows)} windows do not vary", expected="recorded signals",
            hint="check the channel and the cable",
        )  # fmt: skip
    classes = np.unique(windows.y)
    if windows.labelled and len(classes) < 2:
        raise InputError(
            f"{what} has one class only", got=windows.labels[int(classes[0])],
            expected=f"windows of several of: {', '.join(windows.labels)}",
            hint="ranges of one class are not those of the others; take recordings of more classes",
        )  # fmt: skip


def refuse_unrelated(logits: NDArray[np.floating], y: NDArray[np.int64], *, what: str = "the calibration data") -> None:
    """Refuse windows on which the FP32 network does no better than chance: random data, or another sensor's.

    Args:
        logits: `[N, classes]`, of the FP32 graph on these windows.
        y: `[N]` true classes.
        what: How messages name them.

    Raises:
        InputError: The interval of the accuracy reaches down to chance.
    """
    right = int(np.count_nonzero(logits.argmax(axis=1) == y))
    chance = max(1 / logits.shape[1], float(np.bincount(y).max() / len(y)))
    low, _ = wilson(right, len(y))
    if low <= chance:
        raise InputError(
            f"{what} means nothing to this network",
            got=f"its FP32 accuracy is {right / len(y):.1%} on {len(y)} windows",
            expected=f"clearly above chance, {chance:.1%}",
            hint="calibrate on recordings of the kind that it was trained on; random data damages every scale",
        )
