from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest
from numpy.typing import NDArray

from drsn_edge.errors import UsageError
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.datasets import Dataset
from drsn_edge.signals.interference import VOICES, Babble, Distractors, noise_source
from drsn_edge.signals.noise import NO_SOURCE, add_noise, noise_rng
from drsn_edge.signals.recording import Recording
from drsn_edge.signals.splits import PARTS, Part, Split, split
from drsn_edge.signals.windows import Windows, cut

Refuses = Callable[..., AbstractContextManager[None]]

SPEAKERS = ("ada", "ben", "cleo", "dan", "eve")
WINDOW = 1024


def voices(*, each: int = 12) -> Dataset:
    """Every speaker hums at a frequency of its own: whoever is in a babble shows in its spectrum."""
    rng = np.random.default_rng(0)
    recordings = []
    for place, speaker in enumerate(SPEAKERS):
        for index in range(each):
            length = int(rng.integers(300, 900))
            tone = np.sin(2 * np.pi * ((20 + 40 * place) * np.arange(length) / WINDOW + rng.uniform()))
            signal = np.zeros(WINDOW)
            signal[:length] = tone * rng.uniform(0.1, 10) + 0.5 * (index % 2)
            groups = {"speaker": speaker}
            recordings.append(Recording(signal[None].astype(np.float32), 8000.0, str(index % 2), groups, f"{index}"))
    contract = SignalContract(8000.0, window=WINDOW, hop=WINDOW)
    return Dataset("voices", "voices", tuple(recordings), ("0", "1"), contract)


def part_windows(dataset: Dataset, made: Split, part: Part) -> Windows:
    return cut(dataset, made.segments(part, dataset), dataset.contract, source=noise_source(dataset, made, part))


def heard(noise: NDArray[np.float32]) -> NDArray[np.bool_]:
    """`[N, speakers]`: whose tone stands out in each noise."""
    power = np.abs(np.fft.rfft(noise[:, 0], axis=1)) ** 2
    bands = np.stack([power[:, 20 + 40 * place - 6 : 20 + 40 * place + 7].sum(axis=1) for place in range(5)], axis=1)
    result: NDArray[np.bool_] = bands > 0.03 * bands.sum(axis=1, keepdims=True)
    return result


@pytest.mark.parametrize("fold", [0, 3])
def test_babble_is_of_other_speakers_that_train(fold: int) -> None:
    dataset = voices()
    made = split(dataset, protocol="speaker", fold=fold)
    tester, validator = SPEAKERS[fold], SPEAKERS[(fold + 1) % 5]
    for part in PARTS:
        windows = part_windows(dataset, made, part)
        own = [
            SPEAKERS.index(dataset.recordings[item.recording].groups["speaker"])
            for item in made.segments(part, dataset)
        ]
        everyone = np.zeros(5, bool)
        for draw in range(10):
            rng = noise_rng(0, part, draw)
            noise = add_noise(windows.x, -20.0, "babble", rng, source=windows.source) - windows.x
            found = heard(noise)
            assert not found[:, SPEAKERS.index(tester)].any()
            assert not found[:, SPEAKERS.index(validator)].any()
            assert not found[np.arange(len(own)), own].any()
            everyone |= found.any(axis=0)
        assert everyone.sum() == 3


def test_the_noise_of_training_does_not_come_again_in_validation_and_test() -> None:
    dataset = voices()
    made = split(dataset, protocol="speaker", fold=1)
    members = {}
    for part in PARTS:
        source = noise_source(dataset, made, part)
        assert isinstance(source, Babble)
        members[part] = set(source.pool.members)
    assert members["validation"] == members["test"]
    assert not members["train"] & members["test"]
    trained = {item.recording for item in made.segments("train", dataset)}
    assert members["train"] | members["test"] == trained
    # The same half for the same recordings in another order.
    turned = dataclasses.replace(dataset, recordings=dataset.recordings[::-1])
    source = noise_source(turned, made, "train")
    assert isinstance(source, Babble)
    names = {dataset.recordings[index].fingerprint for index in members["train"]}
    assert {turned.recordings[index].fingerprint for index in source.pool.members} == names


def test_the_power_of_babble_is_that_of_its_ratio() -> None:
    dataset = voices()
    made = split(dataset, protocol="speaker")
    windows = part_windows(dataset, made, "test")
    snr = np.linspace(-10, 10, len(windows))
    power = np.mean(
        [
            (add_noise(windows.x, snr, "babble", noise_rng(draw), source=windows.source) - windows.x).var(axis=2)
            for draw in range(200)
        ],
        axis=0,
    )
    ratio = 10 * np.log10(windows.x.var(axis=2) / power)[:, 0]
    np.testing.assert_allclose(ratio, snr, atol=0.6)
    assert VOICES == 4


def test_draws_are_seeded_and_follow_the_windows() -> None:
    dataset = voices()
    made = split(dataset, protocol="speaker")
    windows = part_windows(dataset, made, "train")
    before = windows.x.copy()

    def draw(some: Windows, seed: int) -> NDArray[np.float32]:
        return add_noise(some.x, 0.0, "babble", noise_rng(seed), source=some.source)

    np.testing.assert_array_equal(draw(windows, 1), draw(windows, 1))
    assert not np.array_equal(draw(windows, 1), draw(windows, 2))
    np.testing.assert_array_equal(windows.x, before)
    rows = np.array([5, 30, 2])
    picked = windows.select(rows)
    assert isinstance(windows.source, Babble)
    assert isinstance(picked.source, Babble)
    np.testing.assert_array_equal(picked.source.own, windows.source.own[rows])
    by_slice = windows.source.select(slice(3, 9))
    np.testing.assert_array_equal(by_slice.own, windows.source.own[3:9])
    np.testing.assert_array_equal(
        add_noise(windows.x, np.inf, "babble", noise_rng(0), source=windows.source), windows.x
    )


def test_a_model_meets_recordings_that_nobody_split() -> None:
    dataset = voices()
    source = noise_source(dataset, None, "test")
    assert isinstance(source, Babble)
    assert {dataset.recordings[index].groups["speaker"] for index in source.pool.members} == set(SPEAKERS)


def test_noise_that_data_cannot_have(refuses: Refuses) -> None:
    dataset = voices()
    alone = dataclasses.replace(dataset, recordings=dataset.recordings[:12])
    windows = cut(
        alone, split(alone, protocol="random").segments("test", alone), alone.contract,
        source=noise_source(alone, None, "test"),
    )  # fmt: skip
    with refuses(UsageError, got="6 recordings, none but of ada", expected="others than ada", also=("--where",)):
        add_noise(windows.x, 0.0, "babble", noise_rng(0), source=windows.source)
    with refuses(UsageError, got="distractor", expected="gaussian, laplacian, pink, babble", also=("pictures",)):
        add_noise(windows.x, 0.0, "distractor", noise_rng(0), source=windows.source)
    windows.source.check(("babble", "pink"))
    with refuses(UsageError, got="babble", expected="gaussian, laplacian, pink", also=("group speaker",)):
        add_noise(windows.x, 0.0, "babble", noise_rng(0))
    with refuses(UsageError, got="babble", expected="gaussian, laplacian, pink"):
        NO_SOURCE.check(("pink", "babble"))
    mute = dataclasses.replace(dataset.recordings[0], groups={})
    without = dataclasses.replace(dataset, recordings=(mute, *dataset.recordings[1:]))
    assert noise_source(without, None, "train") is NO_SOURCE


def test_a_silent_recording_is_a_silent_voice() -> None:
    recordings = [
        Recording(np.zeros((1, 32), np.float32), 8000.0, "0", {"speaker": name}, name) for name in ("a", "b", "c", "d")
    ]
    # Not equal, or they would be one recording.
    recordings = [dataclasses.replace(item, sample_rate_hz=8000.0 + n) for n, item in enumerate(recordings)]
    dataset = Dataset("s", "s", tuple(recordings), ("0",), SignalContract(8000.0, window=32))
    x = np.random.default_rng(0).normal(size=(4, 1, 32)).astype(np.float32)
    noisy = add_noise(x, 0.0, "babble", noise_rng(0), source=noise_source(dataset, None, "train"))
    np.testing.assert_array_equal(noisy, x)


def pictures(count: int = 48, size: tuple[int, int] = (20, 32)) -> Dataset:
    """Every picture is of one colour, `label * 100 + index`: a patch tells where it comes from."""
    height, width = size
    recordings = []
    for index in range(count):
        label = index % 3
        signal = np.full((2, height * width), label * 100 + index, np.float32)
        signal[1] += 0.5
        recordings.append(Recording(signal, 1.0, "abc"[label], {"part": "test" if index % 4 == 3 else "train"}, ""))
    contract = SignalContract(1.0, ("x", "y"), window=height * width, hop=height * width, image=size)
    return Dataset("pictures", "pictures", tuple(recordings), ("a", "b", "c"), contract)


def test_a_distractor_is_a_rectangle_of_another_class_that_trains() -> None:
    dataset = pictures()
    made = split(dataset, protocol="given")
    for part in PARTS:
        windows = part_windows(dataset, made, part)
        source = windows.source
        assert isinstance(source, Distractors)
        trained = {item.recording for item in made.segments("train", dataset)}
        assert set(source.pool.members) <= trained
        noisy = add_noise(windows.x, 0.0, "distractor", noise_rng(0), source=source)
        for before, after, label in zip(windows.x, noisy, windows.y, strict=True):
            changed = (before != after).any(axis=0)
            rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
            assert changed.sum() == rows.size * columns.size == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
            (value,) = np.unique(after[0][changed])
            assert (after[1][changed] == value + 0.5).all()
            index = next(i for i in trained if dataset.recordings[i].signal[0, 0] == value)
            assert dataset.recordings[index].label != "abc"[label]


def test_the_ratio_of_a_distractor_is_that_of_the_areas() -> None:
    dataset = pictures()
    made = split(dataset, protocol="given")
    windows = part_windows(dataset, made, "train").select(np.zeros(4000, np.int64))
    for snr in (-10.0, -3.0, 0.0, 6.0, 12.0):
        noisy = add_noise(windows.x, snr, "distractor", noise_rng(1), source=windows.source)
        covered = (noisy != windows.x).any(axis=1)
        assert covered.mean() == pytest.approx(1 / (1 + 10 ** (snr / 10)), rel=0.02)
        # Every place has its turn, and the sizes differ.
        assert (covered.mean(axis=0) > 0).all()
        height = covered.any(axis=2).sum(axis=1)
        assert height.min() < height.max()
    unchanged = add_noise(windows.x[:9], np.inf, "distractor", noise_rng(1), source=windows.source.select(slice(9)))
    np.testing.assert_array_equal(unchanged, windows.x[:9])
    hidden = add_noise(windows.x[:9], -100.0, "distractor", noise_rng(1), source=windows.source.select(slice(9)))
    assert (hidden != windows.x[:9]).all()


def test_a_patch_is_cut_out_whole() -> None:
    height, width = 12, 10
    ramp = np.arange(height * width, dtype=np.float32)
    recordings = [Recording((ramp + 1000 * n)[None], 1.0, "ab"[n % 2], {"part": "train"}, str(n)) for n in range(6)]
    contract = SignalContract(1.0, window=height * width, hop=height * width, image=(height, width))
    dataset = Dataset("ramps", "ramps", tuple(recordings), ("a", "b"), contract)
    windows = np.full((300, 1, height, width), -1, np.float32)
    source = noise_source(dataset, None, "train").select(np.zeros(300, np.int64))
    noisy = add_noise(windows, 3.0, "distractor", noise_rng(2), source=source)
    for picture in noisy[:, 0]:
        rows, columns = np.nonzero(picture >= 0)
        if rows.size:
            patch = picture[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert (np.diff(patch, axis=1) == 1).all()
            assert (np.diff(patch, axis=0) == width).all()
