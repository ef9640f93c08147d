"""Golden windows: every class, every level of noise, the hard ones, and the edges of what a sensor gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from drsn_edge.errors import UsageError
from drsn_edge.pipeline.golden import choose_golden
from drsn_edge.signals.windows import Windows

Array = NDArray[Any]
LABELS = tuple(f"c{index}" for index in range(10))


def pool(count: int = 240, *, classes: int = 10, seed: int = 0, uneven: bool = False) -> Windows:
    rng = np.random.default_rng(seed)
    y = (np.arange(count) % classes).astype(np.int64)
    if uneven:
        y = np.minimum(rng.geometric(0.3, count) - 1, classes - 1).astype(np.int64)
        y[:classes] = np.arange(classes)
    gain = rng.uniform(0.1, 4, (count, 1, 1))
    x = (gain * rng.standard_normal((count, 1, 64))).astype(np.float32)
    return Windows(x=x, y=y, cluster=np.arange(count, dtype=np.int64), labels=LABELS[:classes])


class Recorded:
    """A linear classifier that keeps what it was asked."""

    def __init__(self, classes: int = 10) -> None:
        self.weight = np.random.default_rng(1).standard_normal((64, classes))
        self.asked: list[Array] = []

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.floating]:
        self.asked.append(x.copy())
        return x[:, 0] @ self.weight

    def margins(self, x: Array) -> Array:
        values = np.sort(x[:, 0] @ self.weight, axis=1)
        margin: Array = values[:, -1] - values[:, -2]
        return margin


@pytest.mark.parametrize("count", [16, 17, 96, 255])
@pytest.mark.parametrize("classes", [2, 7, 10])
def test_counts_and_shapes(count: int, classes: int) -> None:
    x, y, snr = choose_golden(pool(classes=classes), Recorded(classes), count=count)
    assert x.shape == (count, 1, 64)
    assert [item.dtype.name for item in (x, y, snr)] == ["float32", "int64", "float32"]
    assert y.shape == snr.shape == (count,)
    assert x.flags.c_contiguous
    assert np.isfinite(x).all()


@pytest.mark.parametrize("count", [0, 6, 15])
def test_too_few_are_refused(count: int) -> None:
    with pytest.raises(UsageError, match="too few golden windows") as caught:
        choose_golden(pool(), Recorded(), count=count)
    assert (caught.value.got, caught.value.expected) == (str(count), "at least 16")


@pytest.mark.parametrize("uneven", [False, True])
def test_the_first_half_holds_every_class_and_every_level(uneven: bool) -> None:
    _, y, snr = choose_golden(pool(uneven=uneven), Recorded())
    spread = slice(0, 45)
    assert set(y[spread]) == set(range(10))
    levels = np.where(np.isnan(snr[spread]), 99, snr[spread])
    values, counts = np.unique(levels, return_counts=True)
    assert set(values) == {99, 10, 6, 2, 0, -2, -4, -6}
    assert counts.max() - counts.min() <= 2
    if not uneven:
        assert np.bincount(y[spread]).min() >= 4


def test_the_second_half_is_the_hardest_of_the_rest() -> None:
    classifier = Recorded()
    x, _, _ = choose_golden(pool(600), classifier)
    (asked,) = classifier.asked
    assert len(asked) == 360
    margins = classifier.margins(asked)
    hard = np.sort(classifier.margins(x[45:90]))
    assert hard == pytest.approx(np.sort(margins[45:])[:45])
    assert np.median(hard) < 0.5 * np.median(classifier.margins(x[:45]))
    assert np.array_equal(x[:45], asked[:45])


def test_the_edges_of_a_sensor() -> None:
    windows = pool()
    x, y, snr = choose_golden(windows, Recorded())
    silence, loudest, faintest, clipped, offset, thousand = x[-6:]
    size = np.abs(windows.x).max(axis=(1, 2))
    assert not silence.any()
    assert np.array_equal(loudest, windows.x[size.argmax()])
    assert np.array_equal(faintest, windows.x[size.argmin()])
    middle = thousand / 1000
    top = np.abs(middle).max()
    assert np.abs(clipped).max() == pytest.approx(top / 2)
    assert (np.abs(clipped) >= 0.999 * top / 2).sum() > 1
    assert (offset - middle).ravel() == pytest.approx(np.full(64, 10 * top), rel=1e-5)
    assert np.isnan(snr[-6:]).all()
    index = int(np.argmin([np.abs(window - middle).max() for window in windows.x]))
    assert y[-6:].tolist() == [-1, windows.y[size.argmax()], windows.y[size.argmin()], *[windows.y[index]] * 3]


def test_no_window_comes_twice_from_a_small_pool() -> None:
    """Clean windows are there once; what comes again has another draw of noise."""
    x, _, snr = choose_golden(pool(30), Recorded())
    assert len({row.tobytes() for row in x[:90]}) == 90
    assert np.isnan(snr[:90]).any()


def test_it_is_deterministic_and_leaves_the_pool() -> None:
    windows = pool()
    before = windows.x.copy()
    one, two, other = (choose_golden(windows, Recorded(), seed=seed) for seed in (0, 0, 1))
    for index in range(3):
        assert np.array_equal(one[index], two[index], equal_nan=True)
    assert not np.array_equal(one[0], other[0])
    assert np.array_equal(windows.x, before)


def test_kinds_of_noise_take_turns() -> None:
    """Laplacian noise has the heavier tail: with both, the fourth moment lies between."""
    flat = pool(400)
    flat.x[:] = np.sin(np.arange(64) / 3)

    def kurtosis(kinds: tuple[Any, ...]) -> float:
        classifier = Recorded()
        choose_golden(flat, classifier, count=200, noises=kinds)
        noise = classifier.asked[0] - flat.x[0]
        noise = noise[np.abs(noise).max(axis=(1, 2)) > 0]
        noise /= noise.std(axis=(1, 2), keepdims=True)
        return float((noise**4).mean())

    one, both, two = (kurtosis(kinds) for kinds in (("gaussian",), ("gaussian", "laplacian"), ("laplacian",)))
    assert one < both - 0.3
    assert both < two - 0.3


@pytest.mark.parametrize("options", [{}, {"detrend": "none", "standardise": "none"}, {"standardise": "none"}])
def test_edges_are_finite_through_the_network(make_network: Callable[..., Any], options: dict[str, str]) -> None:
    torch = pytest.importorskip("torch", reason="networks are PyTorch modules")
    network, contract = make_network("drsn-cw", widths=(4, 7), units=(1, 1), classes=4, **options)
    windows = pool(64, classes=4)
    assert contract.shape == windows.x.shape[1:]

    def logits(x: NDArray[np.float32]) -> NDArray[np.floating]:
        with torch.inference_mode():
            found: NDArray[np.floating] = network(torch.from_numpy(x)).numpy()
        return found

    x, _, _ = choose_golden(windows, logits, count=32)
    assert np.isfinite(logits(x)).all()
