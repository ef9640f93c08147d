from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drsn_edge.errors import ContractError, InputError, UsageError
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.datasets import Dataset
from drsn_edge.signals.recording import Recording
from drsn_edge.signals.windows import Segment, Windows, cut, shifts

Refuses = Callable[..., AbstractContextManager[None]]
Measure = Callable[..., Recording]
Collect = Callable[..., Dataset]

LENGTHS = st.lists(st.integers(1, 90), min_size=1, max_size=4)


def place(windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """Recording and first sample of every window, read off the samples themselves (see `measure`)."""
    first = windows.x[:, 0, 0].astype(np.int64)
    return first // 10_000, first % 10_000


@given(lengths=LENGTHS, window=st.integers(2, 20), hop=st.integers(1, 30), offset=st.integers(0, 9))
def test_every_window_lies_inside_its_segment(
    lengths: list[int], window: int, hop: int, offset: int, measure: Measure, collect: Collect
) -> None:
    recordings = [measure(index, 100, label="ab"[index % 2]) for index in range(len(lengths))]
    dataset = collect(recordings, window=window)
    segments = [Segment(index, offset, offset + length) for index, length in enumerate(lengths)]
    counts = [(length - window) // hop + 1 if length >= window else 0 for length in lengths]
    if not any(counts):
        with pytest.raises(InputError):
            cut(dataset, segments, dataset.contract, hop=hop)
        return
    windows = cut(dataset, segments, dataset.contract, hop=hop)
    assert len(windows) == sum(counts)
    recording, start = place(windows)
    assert np.array_equal(np.bincount(recording, minlength=len(lengths)), counts)
    assert (start >= offset).all()
    assert (start + window <= offset + np.array(lengths)[recording]).all()
    assert ((start - offset) % hop == 0).all()
    # Each holds consecutive samples of its recording.
    assert np.array_equal(windows.x[:, 0], windows.x[:, 0, :1] + np.arange(window, dtype=np.float32))
    assert [windows.labels[label] for label in windows.y] == [recordings[index].label for index in recording]


@given(lengths=LENGTHS, window=st.integers(2, 20), hop=st.integers(1, 30))
def test_clusters_are_the_windows_that_do_not_overlap(
    lengths: list[int], window: int, hop: int, measure: Measure, collect: Collect
) -> None:
    dataset = collect([measure(index, 100) for index in range(len(lengths))], window=window)
    segments = [Segment(index, 3, 3 + length) for index, length in enumerate(lengths)]
    if max(lengths) < window:
        return
    windows = cut(dataset, segments, dataset.contract, hop=hop)
    recording, start = place(windows)
    # Same cluster if and only if same segment and same block of one window; so never across segments.
    blocks = list(zip(recording, (start - 3) // window, strict=True))
    assert len(set(zip(windows.cluster, blocks, strict=True))) == len(set(blocks)) == windows.independent
    # As many clusters as there is room for, and windows cut without overlap are one cluster each.
    apart = cut(dataset, segments, dataset.contract, hop=window)
    assert apart.independent == len(apart) == sum(length // window for length in lengths)
    assert windows.cluster.max() < len(apart)


@given(length=st.integers(20, 99), window=st.integers(2, 20), draws=st.integers(1, 20))
def test_shifts_see_each_independent_window_several_times(
    length: int, window: int, draws: int, measure: Measure, collect: Collect
) -> None:
    draws = min(draws, window)
    dataset = collect([measure(0, 120)], window=window)
    windows = shifts(dataset, [Segment(0, 7, 7 + length)], dataset.contract, draws=draws)
    _, start = place(windows)
    assert (start >= 7).all()
    assert (start + window <= 7 + length).all()
    assert len(set(start)) == len(start)
    count = np.bincount(windows.cluster)
    assert count.size == length // window
    assert (count[:-1] == draws).all()
    assert 1 <= count[-1] <= draws
    if count.size > 1:  # the first cluster is whole
        shift = (start - 7)[windows.cluster == 0]
        assert np.ptp(np.diff(np.append(np.sort(shift), window))) <= 1  # evenly spaced


def test_channels_stay_in_order(measure: Measure, collect: Collect) -> None:
    dataset = collect([measure(0, 30, channels=3)])
    windows = cut(dataset, [Segment(0, 0, 30)], dataset.contract)
    assert windows.x.shape == (12, 3, 8)
    assert np.array_equal(windows.x[:, 2], windows.x[:, 0] + 1)


def test_a_picture_is_one_window_in_its_own_shape() -> None:
    pictures = np.random.default_rng(0).random((4, 3, 6, 5)).astype(np.float32)
    recordings = tuple(Recording(item.reshape(3, 30), 1.0, "ab"[n % 2]) for n, item in enumerate(pictures))
    contract = SignalContract(1.0, ("r", "g", "b"), window=30, hop=30, image=(6, 5))
    dataset = Dataset("pictures", "pictures", recordings, ("a", "b"), contract)
    windows = cut(dataset, [Segment(index, 0, 30) for index in range(4)], contract)
    assert np.array_equal(windows.x, pictures)


def test_classes_can_be_numbered_as_a_model_does(measure: Measure, collect: Collect, refuses: Refuses) -> None:
    dataset = collect([measure(0, 10, label="a"), measure(1, 10, label="b"), measure(2, 10, label="c")])
    b = [Segment(1, 0, 10)]
    assert cut(dataset, b, dataset.contract).y.tolist() == [1, 1]
    windows = cut(dataset, b, dataset.contract, labels=("z", "c", "b"))
    assert (windows.y.tolist(), windows.labels) == ([2, 2], ("z", "c", "b"))
    with refuses(InputError, got="b", expected="a, c", also=("recording 1",)):
        cut(dataset, b, dataset.contract, labels=("a", "c"))


def test_select_takes_indices_and_masks(measure: Measure, collect: Collect) -> None:
    dataset = collect([measure(0, 40)])
    windows = cut(dataset, [Segment(0, 0, 40)], dataset.contract)
    some = windows.select([5, 1])
    assert some.x[:, 0, 0].tolist() == [10, 2]
    assert some.cluster.tolist() == [1, 0]
    assert np.array_equal(windows.select(windows.cluster == 1).x, windows.x[windows.cluster == 1])
    assert len(windows.select([])) == 0


def test_fingerprint_follows_samples_and_classes_alone(measure: Measure, collect: Collect) -> None:
    dataset = collect([measure(0, 40), measure(1, 40, label="b")])
    windows = cut(dataset, [Segment(0, 0, 40), Segment(1, 0, 40)], dataset.contract)
    assert dataclasses.replace(windows, labels=("x", "y")).fingerprint() == windows.fingerprint()
    assert dataclasses.replace(windows, y=1 - windows.y).fingerprint() != windows.fingerprint()
    x = windows.x.copy()
    x[3, 0, 2] = np.nextafter(x[3, 0, 2], np.float32(0))
    assert dataclasses.replace(windows, x=x).fingerprint() != windows.fingerprint()
    assert windows.select(range(len(windows) - 1)).fingerprint() != windows.fingerprint()


def test_cutting_is_fast() -> None:
    signal = np.zeros((1, 2_000_000), np.float32)
    contract = SignalContract(12_000.0, hop=512)
    dataset = Dataset("long", "long", (Recording(signal, 12_000.0, "a"),), ("a",), contract)
    start = time.perf_counter()
    windows = cut(dataset, [Segment(0, 0, 2_000_000)], contract)
    assert len(windows) == 3903
    assert time.perf_counter() - start < 2  # 0.02 s; a loop over samples would take minutes


def test_refusals(measure: Measure, collect: Collect, refuses: Refuses) -> None:
    dataset = collect([measure(0, 40), measure(1, 40, rate=50.0), measure(2, 40, channels=2), measure(3, 7)])
    contract = dataset.contract
    with refuses(InputError, got="2 segments, the longest of 7 samples", expected="8 samples", also=("--window",)):
        cut(dataset, [Segment(0, 0, 7), Segment(0, 8, 12)], contract)
    with refuses(InputError, got="0 segments", expected="8 samples"):
        shifts(dataset, [], contract, draws=2)
    with refuses(InputError, got="recording=4", expected="0 to 3"):
        cut(dataset, [Segment(4, 0, 7)], contract)
    with refuses(InputError, got="samples 0 to 41", expected="within 0 to 40", also=("recording 0",)):
        cut(dataset, [Segment(0, 0, 41)], contract)
    with refuses(ContractError, got="50 Hz", expected="100 Hz", also=("recording 1",)):
        cut(dataset, [Segment(0, 0, 40), Segment(1, 0, 40)], contract)
    with refuses(ContractError, got="2", expected="1 (c0)", also=("recording 2",)):
        cut(dataset, [Segment(2, 0, 40)], contract)
    with refuses(ContractError, got="7 samples", expected="at least 8", also=("recording 3",)):
        cut(dataset, [Segment(0, 0, 40), Segment(3, 0, 7)], contract)
    with refuses(UsageError, got="0", expected="at least 1"):
        cut(dataset, [Segment(0, 0, 40)], contract, hop=0)
    for draws in (0, 9):
        with refuses(UsageError, got=str(draws), expected="1 to 8"):
            shifts(dataset, [Segment(0, 0, 40)], contract, draws=draws)


def test_windows_that_do_not_fit_together_are_refused(refuses: Refuses) -> None:
    x, y = np.zeros((2, 1, 4), np.float32), np.zeros(2, np.int64)
    with refuses(InputError, got="float64[2, 1, 4]", expected="float32[N, C, W]"):
        Windows(x.astype(np.float64), y, y, ("a",))
    with refuses(InputError, got="y [3]", expected="y and cluster [N]"):
        Windows(x, np.zeros(3, np.int64), y, ("a",))
    with refuses(InputError, got="1 labels", expected="an index into labels"):
        Windows(x, y + 1, y, ("a",))
