"""Which windows calibrate: even over classes and SNR, the same every time, and apart from those that judge."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drsn_edge.calibration.windows import apart, choose, ranks, refuse_unrelated
from drsn_edge.errors import InputError, UsageError
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.datasets import Dataset
from drsn_edge.signals.recording import Recording
from drsn_edge.signals.windows import Segment, Windows, cut

LOW, HIGH = -6.0, 10.0


def indexed(count: int, classes: int, *, seed: int = 0, uneven: bool = False) -> Windows:
    """Windows that carry their index, so that a drawn one can be told."""
    rng = np.random.default_rng(seed)
    y = (np.arange(count) % classes).astype(np.int64)
    if uneven:
        y = np.minimum(rng.geometric(0.4, count) - 1, classes - 1).astype(np.int64)
    x = rng.standard_normal((count, 1, 64)).astype(np.float32)
    return Windows(x=x, y=y, cluster=np.arange(count, dtype=np.int64), labels=tuple(f"c{i}" for i in range(classes)))


@settings(max_examples=40)
@given(classes=st.integers(2, 40), per_class=st.integers(8, 30), kinds=st.integers(1, 3), seed=st.integers(0, 99))
def test_stratified_over_classes_snr_and_clean(classes: int, per_class: int, kinds: int, seed: int) -> None:
    count = classes * per_class
    noises = ("gaussian", "laplacian", "pink")[:kinds]
    found = choose(indexed(count, classes), count=count, noises=noises, snr_db=(LOW, HIGH), seed=seed)  # type: ignore[arg-type]
    assert len(found.windows) == len(found.snr_db) == count
    for label in range(classes):
        snr = found.snr_db[found.windows.y == label]
        assert len(snr) == per_class
        clean = np.isnan(snr)
        assert per_class // 8 <= clean.sum() <= per_class // 8 + 1
        noisy = np.sort(snr[~clean])
        assert (noisy >= LOW).all()
        assert (noisy <= HIGH).all()
        # No gap much wider than an even spread would leave.
        gaps = np.diff(np.concatenate([[LOW], noisy, [HIGH]]))
        assert gaps.max() <= 3.0 * (HIGH - LOW) / len(noisy)


def test_kinds_of_noise_take_turns_in_every_class(monkeypatch: pytest.MonkeyPatch) -> None:
    import drsn_edge.calibration.windows as module

    drawn: Counter[tuple[str, int]] = Counter()

    def note(x: np.ndarray, snr: np.ndarray, kind: str, rng: object, **_: object) -> np.ndarray:
        drawn.update((kind, round(float(value))) for value in x[:, 0, 0])
        return x

    monkeypatch.setattr(module, "add_noise", note)
    windows = indexed(320, 5)
    windows.x[:, 0, 0] = windows.y
    choose(windows, count=320, noises=("gaussian", "pink"), snr_db=(LOW, HIGH))
    for label in range(5):
        counts = [drawn[kind, label] for kind in ("gaussian", "pink")]
        assert sum(counts) == 56
        assert abs(counts[0] - counts[1]) <= 1


def test_clean_windows_stay_as_they_are_and_noisy_ones_do_not() -> None:
    windows = indexed(64, 4)
    before = windows.x.copy()
    found = choose(windows, count=64, noises=("gaussian",), snr_db=(0.0, 0.0))
    assert np.array_equal(windows.x, before), "the pool itself was changed"
    pool = {row.tobytes() for row in before}
    same = np.array([row.tobytes() in pool for row in found.windows.x])
    assert np.array_equal(same, np.isnan(found.snr_db))


def test_noise_has_the_power_that_it_says() -> None:
    windows = indexed(80, 4)
    found = choose(windows, count=80, noises=("gaussian",), snr_db=(-6.0, 6.0))
    for index in np.flatnonzero(~np.isnan(found.snr_db)):
        original = windows.x[found.windows.cluster[index]]
        noise = found.windows.x[index] - original
        ratio = 10 * np.log10(original.var() / noise.var())
        assert abs(ratio - found.snr_db[index]) < 2.5


def test_without_noise_every_window_is_clean_and_none_comes_twice() -> None:
    for options in ({}, {"noises": ("gaussian",)}, {"snr_db": (LOW, HIGH)}):
        found = choose(indexed(30, 3), count=100, **options)
        assert np.isnan(found.snr_db).all()
        assert sorted(found.windows.cluster) == list(range(30))


def test_with_noise_few_windows_come_again_with_another_draw() -> None:
    found = choose(indexed(30, 3), count=100, noises=("gaussian",), snr_db=(LOW, HIGH))
    assert len(found.windows) == 100
    times = Counter(found.windows.cluster.tolist())
    assert set(times) == set(range(30))
    assert max(times.values()) <= 4
    noisy = found.windows.x[~np.isnan(found.snr_db)]
    assert len({row.tobytes() for row in noisy}) == len(noisy)


def test_rare_classes_are_taken_whole_before_others_fill_up() -> None:
    windows = indexed(400, 4, uneven=True)
    rare = int(np.bincount(windows.y).min())
    found = choose(windows, count=4 * rare + 20)
    counts = np.bincount(found.windows.y, minlength=4)
    assert counts.min() == rare
    assert counts.max() <= rare + 20


def test_equal_arguments_draw_equal_windows() -> None:
    windows = indexed(120, 4)
    arguments = {"count": 60, "noises": ("gaussian", "pink"), "snr_db": (LOW, HIGH), "seed": 3}
    one, two = (choose(windows, **arguments) for _ in range(2))  # type: ignore[arg-type]
    assert one.windows.fingerprint() == two.windows.fingerprint()
    assert np.array_equal(one.snr_db, two.snr_db, equal_nan=True)


@pytest.mark.parametrize("other", [{"seed": 1}, {"stream": "held-out"}])
def test_another_seed_or_stream_is_another_draw(other: dict[str, object]) -> None:
    windows = indexed(400, 4)
    arguments = {"count": 40, "noises": ("gaussian",), "snr_db": (LOW, HIGH)}
    one = choose(windows, **arguments)  # type: ignore[arg-type]
    two = choose(windows, **(arguments | other))  # type: ignore[arg-type]
    assert one.windows.fingerprint() != two.windows.fingerprint()
    assert set(one.windows.cluster) != set(two.windows.cluster)
    common = {row.tobytes() for row in one.windows.x} & {row.tobytes() for row in two.windows.x}
    clean = {row.tobytes() for row in one.windows.x[np.isnan(one.snr_db)]}
    assert common <= clean, "the two streams share a draw of noise"


@pytest.mark.parametrize("count", [0, -3])
def test_no_windows_cannot_be_drawn(count: int) -> None:
    with pytest.raises(UsageError, match="number of windows to draw") as caught:
        choose(indexed(10, 2), count=count)
    assert (caught.value.got, caught.value.expected) == (str(count), "at least 1")


@pytest.mark.parametrize("hop", [16, 48, 64])
def test_apart_shares_no_sample(hop: int) -> None:
    """Windows of one long recording, cut as `cut` does it."""
    window, samples = 64, 64 * 83 + 17
    starts = np.arange(0, samples - window + 1, hop)
    x = np.zeros((len(starts), 1, window), np.float32)
    y = np.arange(len(starts), dtype=np.int64) % 2
    pool = Windows(x=x, y=y, cluster=starts // window, labels=("a", "b"))
    pool.x[:, 0, 0] = starts
    one, two = apart(pool)
    seen = [np.zeros(samples, bool), np.zeros(samples, bool)]
    for part, mask in zip((one, two), seen, strict=True):
        for start in part.x[:, 0, 0].astype(int):
            mask[start : start + window] = True
    assert not (seen[0] & seen[1]).any()
    assert 0.55 < len(one) / len(starts) < 0.65
    assert 0.15 < len(two) / len(starts) < 0.25


@given(st.lists(st.integers(0, 4), max_size=50))
def test_ranks_count_what_came_before(labels: list[int]) -> None:
    found = ranks(np.asarray(labels, np.int64))
    assert found.tolist() == [labels[:index].count(label) for index, label in enumerate(labels)]


@pytest.fixture
def logits_of() -> Callable[[np.ndarray, float], np.ndarray]:
    def make(y: np.ndarray, accuracy: float) -> np.ndarray:
        guess = np.where(np.arange(len(y)) < accuracy * len(y), y, (y + 1) % 4)
        return np.eye(4)[guess]

    return make


@pytest.mark.parametrize(("accuracy", "good"), [(0.2, False), (0.3, False), (0.45, True), (1.0, True)])
def test_accuracy_must_be_clearly_above_chance(
    logits_of: Callable[[np.ndarray, float], np.ndarray], accuracy: float, good: bool
) -> None:
    y = np.arange(100, dtype=np.int64) % 4
    if good:
        refuse_unrelated(logits_of(y, accuracy), y)
        return
    with pytest.raises(InputError, match="means nothing to this network") as caught:
        refuse_unrelated(logits_of(y, accuracy), y)
    assert f"{accuracy:.1%} on 100 windows" in str(caught.value.got)


def test_always_saying_the_most_frequent_class_is_chance(
    logits_of: Callable[[np.ndarray, float], np.ndarray],
) -> None:
    y = np.where(np.arange(200) % 4 == 0, np.arange(200) % 3, 3).astype(np.int64)
    with pytest.raises(InputError, match="means nothing to this network") as caught:
        refuse_unrelated(np.tile([0.0, 0.0, 0.0, 1.0], (200, 1)), y)
    assert "accuracy is 75.0% on 200 windows" in str(caught.value.got)
    assert caught.value.expected == "clearly above chance, 75.0%"
    refuse_unrelated(logits_of(y, 0.95), y)


@settings(max_examples=30)
@given(groups=st.integers(2, 5), per_group=st.integers(2, 12), seed=st.integers(0, 99))
def test_stratified_over_groups_within_each_class(groups: int, per_group: int, seed: int) -> None:
    """The first load has ten times the recordings of the others, and no more windows that calibrate."""
    rng = np.random.default_rng(seed)
    classes, common = 3, 12
    group = np.concatenate([np.zeros(10 * common * classes), np.repeat(np.arange(1, groups), common * classes)])
    pool = indexed(len(group), classes)
    windows = dataclasses.replace(pool, group=group.astype(np.int64)).select(rng.permutation(len(group)))
    count = classes * groups * per_group
    found = choose(windows, count=count, noises=("gaussian",), snr_db=(LOW, HIGH), seed=seed)
    kept = found.windows.group
    assert kept is not None
    strata = Counter(zip(found.windows.y.tolist(), kept.tolist(), strict=True))
    assert set(strata.values()) == {per_group}
    assert len(strata) == classes * groups


def test_clean_windows_are_not_all_of_one_group() -> None:
    pool = indexed(640, 2)
    found = choose(
        dataclasses.replace(pool, group=np.arange(640, dtype=np.int64) // 2 % 4), count=512, noises=("gaussian",),
        snr_db=(LOW, HIGH),
    )  # fmt: skip
    assert found.windows.group is not None
    clean = Counter(found.windows.group[np.isnan(found.snr_db)].tolist())
    assert sum(clean.values()) == 64
    assert len(clean) == 4
    assert max(clean.values()) < 32


def test_groups_are_those_of_the_recordings() -> None:
    """Alike in every group is alike; recordings without any make a group of their own."""
    signal = np.random.default_rng(0).standard_normal((1, 256), dtype=np.float32)
    rows = [("a", {"load": "0", "rig": "x"}), ("b", {"rig": "x", "load": "0"}), ("a", {"load": "1"}), ("b", {})]
    contract = SignalContract(sample_rate_hz=100.0, channels=("s",), window=64, hop=64)
    recordings = tuple(Recording(signal + index, 100.0, label, groups) for index, (label, groups) in enumerate(rows))
    data = Dataset(name="d", spec="d", recordings=recordings, labels=("a", "b"), contract=contract)
    windows = cut(data, [Segment(index, 0, 256) for index in range(4)], contract)
    assert windows.group is not None
    assert windows.group.reshape(4, 4).tolist() == [[0] * 4, [0] * 4, [1] * 4, [2] * 4]
