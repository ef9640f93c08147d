"""The samples of one sensor that no window has used up yet, in memory of a fixed size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Ring:
    """Samples `[channels, n]` in the order of time, numbered from the start of the stream.

    The memory is linear and has room for twice the capacity: what is left moves to the front when the end is reached.
    So a window is always one piece, and a sample is moved once on average.

    Args:
        channels: Of the signal.
        capacity: Samples that may wait.
    """

    def __init__(self, channels: int, capacity: int) -> None:
        self.capacity = capacity
        self._data = np.zeros((channels, 2 * capacity), np.float32)
        self._first = self._end = 0
        self.position = 0  # of the first sample that is held

    def __len__(self) -> int:
        return self._end - self._first

    @property
    def end(self) -> int:
        """Number of the sample that comes next."""
        return self.position + len(self)

    @property
    def room(self) -> int:
        """Samples that may come before old ones are lost."""
        return self.capacity - len(self)

    def append(self, samples: NDArray[np.float32]) -> int:
        """Add samples `[channels, n]`; returns how many of the oldest were pushed out."""
        lost = max(0, len(self) + int(samples.shape[1]) - self.capacity)
        old = min(lost, len(self))
        self._skip(old)
        if lost > old:  # of one piece that is larger than the ring only the end is kept
            samples = samples[:, lost - old :]
            self.position += lost - old
        count = samples.shape[1]
        if self._end + count > self._data.shape[1]:
            left = len(self)
            self._data[:, :left] = self._data[:, self._first : self._end].copy()
            self._first, self._end = 0, left
        self._data[:, self._end : self._end + count] = samples
        self._end += count
        return lost

    def windows(self, size: int, hop: int, count: int) -> NDArray[np.float32]:
        """View `[count, channels, size]` of the first windows; valid until the next `append`."""
        channel, sample = self._data.strides
        # What `sliding_window_view` gives, at a tenth of its price; the constructor checks the bounds.
        shape, strides = (count, len(self._data), size), (hop * sample, channel, sample)
        return np.ndarray(shape, np.float32, self._data, self._first * sample, strides)

    def advance(self, count: int) -> None:
        """Let the first `count` samples go."""
        self._skip(count)

    def jump(self, position: int) -> None:
        """Forget what is held; the next sample has this number."""
        self._first = self._end = 0
        self.position = position

    def _skip(self, count: int) -> None:
        self._first += count
        self.position += count
