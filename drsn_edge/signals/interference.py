"""Noise that is made of recordings: other voices, and patches of other pictures.

`babble`: four voices at once, each a recording of another speaker, repeated without a pause and standardised, from a
place drawn anew. Its power is that of the four together, so the ratio means what it means for white noise.

`distractor`: a patch of a picture of another class, pasted over the window at a place, with a size and an aspect drawn
anew: the object that has nothing to do with the class, as a mouse beside a cat (Zhao et al. 2020, section I). It hides
what is under it, so the ratio is that of the areas, `SNR = 10 log10(visible / covered)`: two pictures have the same
power for each pixel, in expectation. At 0 dB half of the picture is covered; below, the distractor is the larger of
the two, and nothing but the training says which of them is meant.

Who is heard where: both are made of the recordings that train, whichever part they are added to. A speaker or picture
that tests is never in the noise that a network trains on, nor in that which it is tested with; no window meets its own
speaker, or its own class, in its noise. Half of those recordings (by fingerprint, the same half everywhere) make the
noise of training and the other half that of validation and test, so that no noise is judged by that has been learned.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import UsageError
from drsn_edge.signals.datasets import Dataset
from drsn_edge.signals.noise import NO_SOURCE, Noise, NoiseSource, noise_gain
from drsn_edge.signals.recording import Recording
from drsn_edge.signals.splits import Part, Split

VOICES = 4
# Height to width of a distractor, relative to the picture's own: up to twice either.
_ASPECT = 2.0

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


def noise_source(dataset: Dataset, split: Split | None, part: Part) -> NoiseSource:
    """What noise a data set can make of its own recordings, for windows of one part.

    Args:
        dataset: Pictures have distractors; recordings that all have the group `speaker` have babble.
        split: Says which recordings train. Where it knows none of them, as in a data set that is new to the network,
            the noise is made of all recordings: nothing of them was trained on.
        part: Which half of those recordings is used.

    Returns:
        A source for the recordings, in their order: `cut(..., source=...)` makes it one for windows.
    """
    recordings = dataset.recordings
    if dataset.contract.image is not None:
        names = [recording.label for recording in recordings]
    elif all("speaker" in recording.groups for recording in recordings):
        names = [recording.groups["speaker"] for recording in recordings]
    else:
        return NO_SOURCE
    pool = Pool(recordings, tuple(names), _half(recordings, names, split, part), dataset.contract.shape)
    own = np.arange(len(recordings))
    return Babble(pool, own) if dataset.contract.image is None else Distractors(pool, own)


def _half(recordings: Sequence[Recording], names: Sequence[str], split: Split | None, part: Part) -> tuple[int, ...]:
    """Every second recording of each speaker or class that trains: the first, third, ... for the noise of training."""
    trained = [
        index
        for index, recording in enumerate(recordings)
        if split is not None and "train" in split.parts.get(recording.fingerprint, ())
    ]
    found: dict[str, list[int]] = {}
    for index in sorted(trained or range(len(recordings)), key=lambda index: recordings[index].fingerprint):
        found.setdefault(names[index], []).append(index)
    return tuple(index for name in sorted(found) for index in found[name][0 if part == "train" else 1 :: 2])


@dataclass(frozen=True, eq=False)
class Pool:
    """Recordings that noise is made of.

    Attributes:
        recordings: Of the data set.
        names: For each of them, the speaker or the class.
        members: Those that noise is made of, by index; all of one name together, names sorted.
        shape: Of a window.
    """

    recordings: tuple[Recording, ...]
    names: tuple[str, ...]
    members: tuple[int, ...]
    shape: tuple[int, ...]

    @functools.cached_property
    def codes(self) -> Integers:
        """A number for every recording's name, in the order of the names."""
        order = {name: code for code, name in enumerate(sorted(set(self.names)))}
        return np.array([order[name] for name in self.names], dtype=np.int64)

    def others(self, own: Integers, count: int, kind: Noise, rng: np.random.Generator) -> Integers:
        """`[N, count]` places in `members`, none of the name of the recording `own` `[N]`."""
        member_codes = self.codes[list(self.members)]
        codes = self.codes[own]
        first = np.searchsorted(member_codes, codes, side="left")
        same = np.searchsorted(member_codes, codes, side="right") - first
        free = len(self.members) - same
        if not free.all():
            window = int(np.flatnonzero(free == 0)[0])
            raise UsageError(
                f"there is nothing that {kind} could be made of",
                got=f"{len(self.members)} recordings, none but of {self.names[own[window]]}",
                expected=f"recordings of others than {self.names[own[window]]} in the training part",
                hint="take the whole data set, without --where",
            )
        places = (rng.random((len(own), count)) * free[:, None]).astype(np.int64)
        # Places at and behind the window's own stretch move past it.
        return places + np.where(places >= first[:, None], same[:, None], 0)

    @functools.cached_property
    def voices(self) -> tuple[Floats, Integers, Integers]:
        """Members one after another `[C, T]`, each repeated for a window beyond its length; starts and lengths."""
        window = self.shape[-1]
        pieces = [_standardised(_without_silence(self.recordings[index].signal)) for index in self.members]
        lengths = np.array([piece.shape[1] for piece in pieces], dtype=np.int64)
        repeated = [np.take(piece, np.arange(piece.shape[1] + window), axis=1, mode="wrap") for piece in pieces]
        starts = np.concatenate([[0], np.cumsum(lengths + window)[:-1]])
        return np.concatenate(repeated, axis=1), starts.astype(np.int64), lengths

    @functools.cached_property
    def pictures(self) -> Floats:
        """Members as `[P, C, H, W]`."""
        return np.stack([self.recordings[index].signal.reshape(self.shape) for index in self.members])


def _without_silence(signal: Floats) -> Floats:
    """Without the zeros that a recording was padded with at either end."""
    heard = np.flatnonzero(signal.any(axis=0))
    return signal[:, heard[0] : heard[-1] + 1] if heard.size else signal[:, :1]


def _standardised(signal: Floats) -> Floats:
    centred = signal - signal.mean(axis=1, keepdims=True)
    size = np.sqrt((centred**2).mean(axis=1, keepdims=True))
    result: Floats = np.divide(centred, size, out=np.zeros_like(centred), where=size > 0)
    return result


class Babble(NoiseSource):
    """Other speakers, `VOICES` at a time, behind windows of the recordings `own`."""

    kinds: tuple[Noise, ...] = ("babble",)

    def __init__(self, pool: Pool, own: Integers) -> None:
        self.pool, self.own = pool, own

    def select(self, rows: NDArray[np.int64] | slice) -> Babble:
        """The source of some of the windows."""
        return Babble(self.pool, self.own[rows])

    def add(self, x: Floats, snr_db: NDArray[np.float64], kind: Noise, rng: np.random.Generator) -> Floats:
        """See `NoiseSource`."""
        self.check((kind,))
        picked = self.pool.others(self.own, VOICES, kind, rng)
        signal, starts, lengths = self.pool.voices
        begin = starts[picked] + rng.integers(0, lengths[picked])
        views = np.lib.stride_tricks.sliding_window_view(signal, x.shape[2], axis=1)
        noise = views[:, begin[:, 0]]
        for voice in range(1, VOICES):
            noise += views[:, begin[:, voice]]
        noise = noise.swapaxes(0, 1) * (noise_gain(x, snr_db) / np.float32(np.sqrt(VOICES)))
        noise += x
        return noise


class Distractors(NoiseSource):
    """A patch of a picture of another class, over windows of the pictures `own`."""

    kinds: tuple[Noise, ...] = ("distractor",)

    def __init__(self, pool: Pool, own: Integers) -> None:
        self.pool, self.own = pool, own

    def select(self, rows: NDArray[np.int64] | slice) -> Distractors:
        """The source of some of the windows."""
        return Distractors(self.pool, self.own[rows])

    def add(self, x: Floats, snr_db: NDArray[np.float64], kind: Noise, rng: np.random.Generator) -> Floats:
        """See `NoiseSource`."""
        self.check((kind,))
        other = self.pool.pictures[self.pool.others(self.own, 1, kind, rng)[:, 0]]
        height, width = x.shape[2:]
        covered = 1.0 / (1.0 + 10.0 ** (snr_db / 10.0))
        # Where one side would be longer than the picture, the other one makes up for it.
        share = np.clip(np.sqrt(covered * _ASPECT ** rng.uniform(-1, 1, len(x))), covered, 1.0)
        rows, source_rows = _side(height, share, rng)
        columns, source_columns = _side(
            width, np.divide(covered, share, where=share > 0, out=np.zeros_like(share)), rng
        )
        window, channel = np.ogrid[: len(x), : x.shape[1]]
        patch = other[
            window[:, :, None, None], channel[:, :, None, None], source_rows[:, None, :, None],
            source_columns[:, None, None, :],
        ]  # fmt: skip
        return np.where((rows[:, :, None] & columns[:, None, :])[:, None], patch, x)


def _side(size: int, share: NDArray[np.float64], rng: np.random.Generator) -> tuple[NDArray[np.bool_], Integers]:
    """Along one side: which positions `[N, size]` a patch covers, and from which of the other picture each comes."""
    # Rounded up or down by chance: small patches keep their area on average.
    length = np.floor(share * size + rng.random(len(share))).astype(np.int64).clip(0, size)
    target = rng.integers(0, size - length + 1)[:, None]
    origin = rng.integers(0, size - length + 1)[:, None]
    position = np.arange(size)
    inside = (position >= target) & (position < target + length[:, None])
    return inside, (position - target + origin).clip(0, size - 1)
