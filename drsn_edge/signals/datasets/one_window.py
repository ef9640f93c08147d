"""Recordings of one event each, as exactly one window."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from drsn_edge.signals.recording import Recording


def as_one_window(recordings: Sequence[Recording], window: int) -> tuple[tuple[Recording, ...], tuple[str, ...]]:
    """Recordings of exactly `window` samples each: an event is neither cut in two nor found at a telling place.

    A shorter recording stands in the middle of zeros; of a longer one the stretch with the most energy is kept.

    Returns:
        The recordings, and notes: how many were trimmed, and what the padding does to signal-to-noise ratios.
    """
    trimmed = sum(recording.samples > window for recording in recordings)
    filled = float(np.median([min(recording.samples / window, 1.0) for recording in recordings]))
    notes = []
    if trimmed:
        notes.append(
            f"{trimmed} of {len(recordings)} recordings are longer than a window of {window} samples: the stretch with "
            "the most energy is kept."
        )
    if filled < 1:
        notes.append(
            f"Recordings fill {filled:.0%} of their window (median), the rest is silence: a signal-to-noise ratio is "
            f"that of the whole window, and {-10 * math.log10(filled):.1f} dB higher while there is something to hear."
        )
    return tuple(_fit(recording, window) for recording in recordings), tuple(notes)


def _fit(recording: Recording, window: int) -> Recording:
    excess = recording.samples - window
    if excess <= 0:
        before = -excess // 2
        signal = np.pad(recording.signal, ((0, 0), (before, -excess - before)))
    else:
        energy = np.cumsum((recording.signal.astype(np.float64) ** 2).sum(axis=0))
        start = int((energy[window - 1 :] - np.concatenate([[0.0], energy[:excess]])).argmax())
        signal = recording.signal[:, start : start + window]
    return dataclasses.replace(recording, signal=signal)
