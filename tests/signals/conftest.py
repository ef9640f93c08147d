"""Shared by the tests of recordings, windows, noise, splits and data sets."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from drsn_edge.errors import DrsnError
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.datasets import Dataset
from drsn_edge.signals.recording import Recording

# A busy machine is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

Refuses = Callable[..., AbstractContextManager[None]]
Measure = Callable[..., Recording]
Collect = Callable[..., Dataset]


@pytest.fixture(scope="session")
def refuses() -> Refuses:
    """The block must raise exactly this error, with the offending value, what was expected, and all of `also`."""

    @contextlib.contextmanager
    def check(kind: type[DrsnError], *, got: str, expected: str, also: tuple[str, ...] = ()) -> Iterator[None]:
        with pytest.raises(DrsnError) as caught:
            yield
        error = caught.value
        assert type(error) is kind, error
        assert error.got is not None
        assert got in error.got, error
        assert error.expected is not None
        assert expected in error.expected, error
        for part in also:
            assert part in str(error), error

    return check


@pytest.fixture(scope="session")
def measure() -> Measure:
    """A recording of which every sample tells its place: `recording * 10_000 + sample`, plus half for each channel."""

    def make(
        index: int, samples: int, *, label: str = "a", channels: int = 1, rate: float = 100.0, **groups: str
    ) -> Recording:
        ramp = index * 10_000 + np.arange(samples) + 0.5 * np.arange(channels)[:, None]
        return Recording(ramp.astype(np.float32), rate, label, groups, f"recording {index}")

    return make


@pytest.fixture(scope="session")
def collect() -> Collect:
    """A data set of given recordings; its contract follows the first."""

    def make(recordings: list[Recording], *, window: int = 8, hop: int = 2, **fields: object) -> Dataset:
        first = recordings[0]
        contract = SignalContract(
            first.sample_rate_hz, tuple(f"c{index}" for index in range(first.channels)), window=window, hop=hop
        )
        labels = tuple(sorted({recording.label for recording in recordings}))
        return Dataset("made", "made", tuple(recordings), labels, contract, **fields)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def cwru_folder() -> Path:
    """The CWRU recordings, which are not part of the repository."""
    folder = Path(__file__).parents[3] / "shared" / "data" / "cwru"
    if not folder.is_dir():
        pytest.skip(f"needs the CWRU recordings in {folder}")
    return folder
