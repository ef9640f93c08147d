from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from drsn_edge.errors import UsageError
from drsn_edge.signals.windows import Windows
from drsn_edge.training.batches import ahead, epoch_batches, validation_batches, with_noise
from drsn_edge.training.options import FitOptions, NoiseRange

GAUSSIAN = NoiseRange(("gaussian",), (-6.0, 10.0))


def test_every_window_is_in_every_epoch_and_batches_are_full(make_windows: Callable[..., Windows]) -> None:
    windows = make_windows(50)
    batches = list(epoch_batches(windows, NoiseRange(), batch=16, seed=0, epoch=1))
    assert [len(y) for _, y in batches] == [16] * 4
    seen = np.concatenate([x for x, _ in batches])
    assert len(np.unique(seen.reshape(len(seen), -1), axis=0)) == 50
    for x, y in batches:
        for one, label in zip(x, y, strict=True):
            (row,) = np.flatnonzero((windows.x == one).all(axis=(1, 2)))
            assert windows.y[row] == label


def test_fewer_windows_than_a_batch_are_one_batch(make_windows: Callable[..., Windows]) -> None:
    ((x, y),) = epoch_batches(make_windows(10), NoiseRange(), batch=128, seed=0, epoch=1)
    assert len(x) == len(y) == 10


def test_noise_is_new_in_every_epoch_and_repeats_with_the_seed(make_windows: Callable[..., Windows]) -> None:
    windows = make_windows(32)

    def noise(epoch: int, seed: int = 0) -> NDArray[np.float32]:
        """By window, whatever the order of the epoch."""
        pairs = [
            np.concatenate([x for x, _ in epoch_batches(windows, kind, batch=16, seed=seed, epoch=epoch)])
            for kind in (GAUSSIAN, NoiseRange())
        ]
        order = [int(np.flatnonzero((windows.x == clean).all(axis=(1, 2)))[0]) for clean in pairs[1]]
        result: NDArray[np.float32] = (pairs[0] - pairs[1])[np.argsort(order), 0]
        result /= result.std(axis=1, keepdims=True)
        return result

    first = noise(1)
    np.testing.assert_array_equal(first, noise(1))
    for other in (noise(2), noise(1, seed=1)):
        assert np.abs((first * other).mean(axis=1)).max() < 0.6  # correlation of 64 samples
        assert np.abs((first * other).mean()) < 0.1
    np.testing.assert_array_equal(windows.x, make_windows(32).x)


def test_noise_that_is_drawn_once_stays_with_its_window(make_windows: Callable[..., Windows]) -> None:
    windows = make_windows(32)
    once = NoiseRange(("gaussian",), (-4.0, -4.0), once=True)
    noisy = with_noise(windows, once, seed=0)
    np.testing.assert_array_equal(noisy.x, with_noise(windows, once, seed=0).x)
    added = noisy.x - windows.x
    ratio = 10 * np.log10(windows.x.var() / added.var())
    assert ratio == pytest.approx(-4.0, abs=0.7)
    for epoch in (1, 2):
        seen = np.concatenate([x for x, _ in epoch_batches(noisy, once, batch=16, seed=0, epoch=epoch)])
        for one in seen:
            assert (noisy.x == one).all(axis=(1, 2)).sum() == 1
    assert not np.array_equal(noisy.x, with_noise(windows, once, seed=1).x)


def test_no_noise_cannot_be_drawn_once() -> None:
    with pytest.raises(UsageError, match="drawn once") as caught:
        NoiseRange(once=True)
    assert "--noise-once" in str(caught.value.hint)


def test_runs_that_were_begun_without_it_are_the_same_runs() -> None:
    assert "once" not in FitOptions(noise=GAUSSIAN).to_json()["noise"]
    assert FitOptions(noise=NoiseRange(("gaussian",), (-6.0, 10.0), once=True)).to_json()["noise"]["once"] is True


def test_the_order_is_new_in_every_epoch(make_windows: Callable[..., Windows]) -> None:
    windows = make_windows(32)
    first, second = (
        np.concatenate([x for x, _ in epoch_batches(windows, NoiseRange(), batch=16, seed=0, epoch=epoch)])
        for epoch in (1, 2)
    )
    assert (first == second).all(axis=(1, 2)).mean() < 0.2


def test_ratios_cover_the_range_and_kinds_are_mixed() -> None:
    rng = np.random.default_rng(0)
    x = np.broadcast_to(np.sin(np.arange(2048) / 5, dtype=np.float32), (3000, 1, 2048))
    noise = NoiseRange(("gaussian", "laplacian", "pink"), (-6.0, 10.0)).draw(x, rng) - x
    ratio = 10 * np.log10(x.var(axis=2) / noise.var(axis=2)).ravel()
    assert ratio.min() < -5.5
    assert ratio.max() > 9.5
    assert ratio.mean() == pytest.approx(2.0, abs=0.4)
    z = (noise - noise.mean(axis=2, keepdims=True)) / noise.std(axis=2, keepdims=True)
    kurtosis = (z**4).mean(axis=(1, 2))
    low = (np.abs(np.fft.rfft(z[:, 0], axis=1)) ** 2)[:, 1:20].mean(axis=1) / 2048
    pink = low > 5
    laplacian = ~pink & (kurtosis > 4)
    for share in (pink.mean(), laplacian.mean(), (~pink & ~laplacian).mean()):
        assert share == pytest.approx(1 / 3, abs=0.05)


def test_validation_is_clean_first_then_noisy_and_always_the_same(make_windows: Callable[..., Windows]) -> None:
    windows = make_windows(20)
    first, second = (list(validation_batches(windows, GAUSSIAN, draws=2, batch=8, seed=3)) for _ in range(2))
    assert [len(y) for _, y in first] == [8, 8, 4] * 3
    np.testing.assert_array_equal(np.concatenate([x for x, _ in first[:3]]), windows.x)
    for (one, _), (other, _) in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.isclose(first[3][0], first[6][0]).any(axis=2).all()
    np.testing.assert_array_equal(np.concatenate([y for _, y in first]), np.tile(windows.y, 3))


def test_without_noise_validation_sees_every_window_once(make_windows: Callable[..., Windows]) -> None:
    batches = list(validation_batches(make_windows(20), NoiseRange(), draws=4, batch=8, seed=0))
    assert sum(len(y) for _, y in batches) == 20


def test_ahead_keeps_the_order_and_passes_errors_on() -> None:
    assert list(ahead(lambda index: index**2, range(5))) == [0, 1, 4, 9, 16]

    def fail(index: int) -> int:
        if index == 2:
            raise ZeroDivisionError("in the thread")
        return index

    results = ahead(fail, range(5))
    assert next(results) == 0
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError, match="in the thread"):
        next(results)


@pytest.mark.parametrize(
    ("kinds", "snr_db", "words"),
    [
        (("white",), (-6.0, 10.0), "white.*gaussian, laplacian, pink"),
        ((), (-6.0, 10.0), "kinds none.*both or neither|both or neither.*kinds none"),
        (("gaussian",), None, "range None"),
        (("gaussian",), (10.0, -6.0), "10:-6.*LOW:HIGH"),
    ],
)
def test_noise_that_cannot_be_drawn(kinds: tuple[str, ...], snr_db: tuple[float, float] | None, words: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){words}"):
        NoiseRange(kinds, snr_db)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch": 1}, "batch.*1.*at least 2"),
        ({"momentum": 1.0}, "momentum.*1.0.*below 1"),
        ({"decay": -1e-4}, "decay.*-0.0001.*at least 0"),
        ({"validation_draws": 0}, "validation_draws.*0.*at least 1"),
        ({"seed": -1}, "seed.*-1.*at least 0"),
        ({"epochs": 0}, "epochs.*0.*at least 1"),
    ],
)
def test_options_out_of_bounds(change: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){words}"):
        FitOptions(**change)  # type: ignore[arg-type]
