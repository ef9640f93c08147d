"""Windows that are cut when they are asked for: the memory of a batch, however many there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import InputError
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.datasets import Dataset
from drsn_edge.signals.noise import NoiseSource
from drsn_edge.signals.windows import Segment, Windows, check_segment


@dataclass(frozen=True, eq=False)
class WindowPlan:
    """Where windows begin, and what they belong to; the samples stay in their recordings.

    Attributes:
        dataset, contract: Of the windows.
        labels: Class names.
        recording, start: `[N]` int64, index of the recording and first sample of each window.
        y, cluster: `[N]` int64, as of `Windows`.
        source: Of all the windows.
    """

    dataset: Dataset
    contract: SignalContract
    labels: tuple[str, ...]
    recording: NDArray[np.int64]
    start: NDArray[np.int64]
    y: NDArray[np.int64]
    cluster: NDArray[np.int64]
    source: NoiseSource

    def __len__(self) -> int:
        return len(self.start)

    def cut(self, rows: slice = slice(None)) -> Windows:
        """The windows of some rows, with samples of their own."""
        recordings, starts = self.recording[rows], self.start[rows]
        x = np.empty((len(starts), len(self.contract.channels), self.contract.window), dtype=np.float32)
        for index in np.unique(recordings):
            mine = np.flatnonzero(recordings == index)
            signal = self.dataset.recordings[int(index)].signal
            views = np.lib.stride_tricks.sliding_window_view(signal, self.contract.window, axis=1)
            x[mine] = views[:, starts[mine]].swapaxes(0, 1)
        return Windows(
            x=x.reshape(len(starts), *self.contract.shape),
            y=self.y[rows],
            cluster=self.cluster[rows],
            labels=self.labels,
            source=self.source.select(rows),
            group=_groups(self.dataset)[recordings],
        )


def _groups(dataset: Dataset) -> NDArray[np.int64]:
    """By recording, which of the sets of group values it has; by their first occurrence."""
    found: dict[tuple[tuple[str, str], ...], int] = {}
    numbers = [found.setdefault(tuple(sorted(item.groups.items())), len(found)) for item in dataset.recordings]
    return np.asarray(numbers, np.int64)


def plan_windows(
    dataset: Dataset,
    segments: Sequence[Segment],
    contract: SignalContract,
    starts_within: Callable[[int], NDArray[np.int64]],
    *,
    labels: Sequence[str] | None,
    source: NoiseSource,
) -> WindowPlan:
    """Windows at `starts_within(room)` of every segment, where `room` is the last start that fits.

    Raises:
        ContractError: A recording does not keep the contract.
        InputError: No segment holds a window, a segment outside its recording, or a class that is not in `labels`.
    """
    names = dataset.labels if labels is None else tuple(labels)
    columns: list[tuple[NDArray[np.int64], ...]] = []
    clusters = 0
    for segment in segments:
        room = segment.stop - segment.start - contract.window
        check_segment(dataset, segment, contract, names)
        if room < 0:
            continue
        starts = np.asarray(starts_within(room), dtype=np.int64)
        word = dataset.recordings[segment.recording].label
        label = names.index(word) if word else -1
        columns.append(
            (
                np.full_like(starts, segment.recording),
                segment.start + starts,
                np.full_like(starts, label),
                clusters + starts // contract.window,
            )
        )
        clusters += (segment.stop - segment.start) // contract.window
    if not sum(len(starts) for _, starts, _, _ in columns):
        longest = max((segment.stop - segment.start for segment in segments), default=0)
        raise InputError(
            f"{dataset.spec} yields no window here",
            got=f"{len(segments)} segments, the longest of {longest} samples",
            expected=f"at least one of {contract.window} samples, the window",
            hint="take longer recordings, another part of the split, or train with a shorter --window",
        )
    recording, start, y, cluster = (np.concatenate(column) for column in zip(*columns, strict=True))
    # A source stands for the data set's recordings in their order: these are the windows' own.
    return WindowPlan(dataset, contract, names, recording, start, y, cluster, source.select(recording))


def shift_starts(contract: SignalContract, draws: int) -> Callable[[int], NDArray[np.int64]]:
    """Starts of the windows that do not overlap, each at `draws` evenly spaced shifts, as far as they fit."""
    shift = np.arange(draws) * contract.window // draws

    def starts(room: int) -> NDArray[np.int64]:
        every = (np.arange(room // contract.window + 1)[:, None] * contract.window + shift).ravel()
        return every[every <= room]

    return starts
