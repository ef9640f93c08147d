"""Windows cut from recordings, and which of them are independent of each other."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drsn_edge.errors import InputError, UsageError
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.datasets import Dataset
from drsn_edge.signals.noise import NO_SOURCE, NoiseSource

if TYPE_CHECKING:
    from drsn_edge.signals.window_plan import WindowPlan


@dataclass(frozen=True)
class Segment:
    """A stretch of one recording: samples `start` up to but without `stop` of `dataset.recordings[recording]`."""

    recording: int
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Windows:
    """Raw windows with their classes.

    Attributes:
        x: `[N, C, W]` float32, as measured; `[N, C, H, W]` when the contract says that a window is a picture.
        y: `[N]` int64, index into `labels`; -1 for all where nobody has labelled them.
        cluster: `[N]` int64, the independent (non-overlapping) window that each belongs to. Intervals are computed over
            clusters: overlapping windows and repeated noise draws are not new evidence.
        labels: Class names.
        source: Makes the noise for these windows that is made of recordings; see `interference.py`.
        group: `[N]` int64, alike for windows of recordings that are alike in every group (load, bearing, speaker); None
            where nobody said.

    Raises:
        InputError: The arrays do not fit together.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    cluster: NDArray[np.int64]
    labels: tuple[str, ...]
    source: NoiseSource = field(default=NO_SOURCE, repr=False)
    group: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        good = (
            self.x.ndim in (3, 4)
            and self.x.dtype == np.float32
            and self.y.shape == self.cluster.shape == self.x.shape[:1]
            and (self.group is None or self.group.shape == self.y.shape)
            and (self.y.size == 0 or not self.labelled or (self.y.min() >= 0 and self.y.max() < len(self.labels)))
        )
        if not good:
            raise InputError(
                "the windows do not fit together",
                got=f"x {self.x.dtype}{list(self.x.shape)}, y {list(self.y.shape)}, cluster "
                f"{list(self.cluster.shape)}, {len(self.labels)} labels",
                expected="x float32[N, C, W] or [N, C, H, W], y and cluster [N], every y an index into labels or none",
            )

    def __len__(self) -> int:
        return int(self.x.shape[0])

    @property
    def labelled(self) -> bool:
        """Whether anybody said which classes these are."""
        return not (self.y.size and (self.y == -1).all())

    def select(self, indices: ArrayLike) -> Windows:
        """Some of the windows, by index or by mask, in the order given."""
        index: NDArray[Any] = np.asarray(indices)
        if index.size == 0:
            index = index.astype(np.int64)  # an empty list is an array of floats to NumPy
        return Windows(
            x=self.x[index],
            y=self.y[index],
            cluster=self.cluster[index],
            labels=self.labels,
            source=self.source.select(index),
            group=None if self.group is None else self.group[index],
        )

    @property
    def independent(self) -> int:
        """How many independent windows these are."""
        return int(np.unique(self.cluster).size)

    def fingerprint(self) -> str:
        """SHA-256 over `x` and `y`: what calibration data and golden vectors are bound to."""
        digest = hashlib.sha256(f"{self.x.shape}".encode())
        digest.update(np.ascontiguousarray(self.x, dtype="<f4").tobytes())
        digest.update(np.ascontiguousarray(self.y, dtype="<i8").tobytes())
        return digest.hexdigest()


def cut(
    dataset: Dataset,
    segments: Sequence[Segment],
    contract: SignalContract,
    *,
    hop: int | None = None,
    labels: Sequence[str] | None = None,
    source: NoiseSource = NO_SOURCE,
) -> Windows:
    """Every window that lies wholly within a segment, `hop` samples apart from the segment's start.

    Args:
        dataset: Where the recordings are.
        segments: What to cut, as a split names it.
        contract: Window, hop and what every recording must keep.
        hop: Instead of the contract's; `contract.window` gives windows that do not overlap.
        labels: The classes of a model, in its order (`split.labels`); by default all of the data set's.
        source: `noise_source(dataset, ...)`, where windows shall have noise that is made of recordings.

    Raises:
        ContractError: A recording does not keep the contract.
        InputError: No segment holds a window, a segment outside its recording, or a class that is not in `labels`.
        UsageError: `hop` below one.
    """
    step = contract.hop if hop is None else hop
    if step < 1:
        raise UsageError("the hop cannot be used", got=step, expected="at least 1 sample")
    return planned(dataset, segments, contract, hop=step, labels=labels, source=source).cut()


def shifts(
    dataset: Dataset,
    segments: Sequence[Segment],
    contract: SignalContract,
    *,
    draws: int,
    labels: Sequence[str] | None = None,
    source: NoiseSource = NO_SOURCE,
) -> Windows:
    """The windows that do not overlap, each seen at `draws` evenly spaced shifts: several clean draws of each.

    A shift that would reach past the segment's end is left out, so the last window of a segment may have fewer.
    Arguments and errors as for `cut`; `draws` is 1 to `contract.window`.
    """
    return planned(dataset, segments, contract, draws=draws, labels=labels, source=source).cut()


def planned(
    dataset: Dataset,
    segments: Sequence[Segment],
    contract: SignalContract,
    *,
    hop: int | None = None,
    draws: int | None = None,
    labels: Sequence[str] | None = None,
    source: NoiseSource = NO_SOURCE,
) -> WindowPlan:
    """The windows of `cut` (with `hop`) or of `shifts` (with `draws`), cut when they are asked for.

    Arguments and errors as there; without both, windows that do not overlap.
    """
    from drsn_edge.signals.window_plan import plan_windows, shift_starts

    window = contract.window
    if draws is not None and not 1 <= draws <= window:
        raise UsageError("the number of draws cannot be used", got=draws, expected=f"1 to {window}, the window")
    step = window if hop is None else hop
    starts = (lambda room: np.arange(0, room + 1, step)) if draws is None else shift_starts(contract, draws)
    return plan_windows(dataset, segments, contract, starts, labels=labels, source=source)


def check_segment(dataset: Dataset, segment: Segment, contract: SignalContract, names: tuple[str, ...]) -> None:
    """Refuse a segment that is none, or whose recording does not keep the contract."""
    if not 0 <= segment.recording < len(dataset.recordings):
        raise InputError(
            f"a segment names a recording that {dataset.spec} does not have",
            got=segment,
            expected=f"a recording from 0 to {len(dataset.recordings) - 1}",
        )
    recording = dataset.recordings[segment.recording]
    contract.check(recording)
    if not 0 <= segment.start < segment.stop <= recording.samples:
        raise InputError(
            f"a segment lies outside its recording {recording.source}",
            got=f"samples {segment.start} to {segment.stop}",
            expected=f"within 0 to {recording.samples}",
        )
    if recording.label and recording.label not in names:
        raise InputError(
            f"{recording.source} has a class that is not among those asked for",
            got=recording.label,
            expected=", ".join(names),
        )
