"""Which windows calibrate: stratified over class and SNR, and refused where they would mislead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import InputError
from drsn_edge.parity.intervals import wilson
from drsn_edge.signals.noise import Noise, add_noise, noise_rng
from drsn_edge.signals.windows import Windows

# Fewer leave the range of the largest activations to chance.
MINIMUM = 64


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
    """Draw windows evenly over classes, and over SNR within each class; every eighth stays clean.

    Args:
        windows: Of the training part.
        count: How many; fewer where there are not so many.
        noises: Kinds of noise, in turn; none leaves every window clean.
        snr_db: Lowest and highest SNR.
        seed: Of the draw.
        stream: Names an independent draw: calibration and held-out windows must not be the same.
    """
    rng = noise_rng(seed, stream)
    order = rng.permutation(len(windows))
    # Round-robin over classes: sort the shuffled windows by how many of their class came before them.
    labels = windows.y[order]
    rank = np.empty(len(order), np.int64)
    for label in np.unique(labels):
        mask = labels == label
        rank[mask] = np.arange(np.count_nonzero(mask))
    picked = order[np.argsort(rank, kind="stable")][:count]
    chosen = windows.select(picked)
    snr = np.full(len(chosen), np.nan, np.float32)
    x = chosen.x.copy()
    if noises and snr_db is not None:
        noisy = np.flatnonzero(np.arange(len(chosen)) % 8 != 0)
        # A golden-ratio walk covers the range evenly for every class, whatever the number of classes.
        steps = (np.arange(len(noisy)) * 0.6180339887498949) % 1.0
        snr[noisy] = snr_db[0] + (snr_db[1] - snr_db[0]) * steps
        for index, kind in enumerate(noises):
            rows = noisy[index :: len(noises)]
            x[rows] = add_noise(x[rows], snr[rows], kind, rng)
    return NoisyWindows(Windows(x=x, y=chosen.y, cluster=chosen.cluster, labels=chosen.labels), snr)


def refuse(windows: Windows, *, what: str = "the calibration data") -> None:
    """Refuse windows that cannot calibrate anything.

    Raises:
        InputError: Too few, not finite, all flat, or of one class only.
    """
    if len(windows) < MINIMUM:
        raise InputError(
            f"{what} is too small", got=f"{len(windows)} windows", expected=f"at least {MINIMUM}",
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
    if len(classes) < 2:
        raise InputError(
            f"{what} has one class only", got=windows.labels[int(classes[0])],
            expected=f"windows of several of: {', '.join(windows.labels)}",
            hint="ranges of one class are not those of the others",
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
