from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from scipy.signal import welch

from drsn_edge.errors import InputError, UsageError
from drsn_edge.signals.noise import COLOURS, Noise, add_noise, noise_rng, parse_snr_range, parse_snr_sweep

Refuses = Callable[..., AbstractContextManager[None]]


def tones(count: int, channels: int = 1, samples: int = 2048) -> NDArray[np.float32]:
    """Windows of very different power and offset."""
    rng = np.random.default_rng(0)
    phase = rng.uniform(0, 6, (count, channels, 1))
    wave = np.sin(0.1 * np.arange(samples) + phase) * 10.0 ** rng.uniform(-3, 3, (count, channels, 1))
    return np.asarray(wave + rng.normal(0, 5, (count, channels, 1)), np.float32)


def draw(kind: Noise, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Noise alone, of expected variance one: at 0 dB on a signal of variance one."""
    x = np.ones(shape, np.float32)
    x[..., ::2] = -1
    noise = add_noise(x, 0.0, kind, noise_rng(7, kind)).astype(np.float64) - x
    return np.asarray(noise / x[0].std(dtype=np.float64), np.float64)


@pytest.mark.parametrize("kind", COLOURS)
@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 5.0])
def test_the_mean_power_of_the_noise_is_what_was_asked(kind: Noise, snr_db: float) -> None:
    x = tones(400, channels=2)
    noise = add_noise(x, snr_db, kind, noise_rng(1)).astype(np.float64) - x
    power = x.astype(np.float64).var(axis=-1)
    ratio = (noise**2).mean(axis=-1) / power
    expected = 10.0 ** (-snr_db / 10)
    # 800 draws: white noise scatters by 3 % each, pink by 30 %; float32 costs a little where the offset is large.
    assert np.median(power) > 0
    good = power > 1e-4
    assert ratio[good].mean() == pytest.approx(expected, rel=0.05 if kind == "pink" else 0.01)
    # The power is not pinned draw by draw.
    assert ratio[good].std() / expected > (0.1 if kind == "pink" else 0.02)


def test_every_window_can_have_its_own_ratio() -> None:
    x = tones(3)
    x /= x.std(axis=-1, keepdims=True)
    noise = add_noise(x, np.array([-10.0, 0.0, np.inf]), "gaussian", noise_rng(1)) - x
    power = noise.var(axis=-1)[:, 0]
    assert power[0] == pytest.approx(10, rel=0.15)
    assert power[1] == pytest.approx(1, rel=0.15)
    assert power[2] == 0


def test_an_offset_is_no_signal() -> None:
    x = tones(1)
    x -= x.mean()
    plain = add_noise(x, 0.0, "gaussian", noise_rng(3)) - x
    lifted = add_noise(x + 8 * x.std(), 0.0, "gaussian", noise_rng(3)) - (x + 8 * x.std())
    np.testing.assert_allclose(lifted, plain, atol=1e-4 * x.std())


@pytest.mark.parametrize("kind", COLOURS)
def test_a_flat_window_gets_none_and_its_neighbour_does(kind: Noise) -> None:
    x = tones(2)
    x[0] = 0.1  # not exact in binary: its variance rounds to something above zero
    noisy = add_noise(x, -10.0, kind, noise_rng(0))
    assert np.array_equal(noisy[0], x[0])
    assert not np.array_equal(noisy[1], x[1])


@pytest.mark.parametrize(("kind", "kurtosis"), [("gaussian", 0.0), ("laplacian", 3.0), ("pink", 0.0)])
def test_the_tails_are_those_of_the_kind(kind: Noise, kurtosis: float) -> None:
    noise = draw(kind, (200, 1, 2048))
    assert noise.mean() == pytest.approx(0, abs=0.01)
    assert stats.kurtosis(noise.ravel()) == pytest.approx(kurtosis, abs=0.15)


def test_laplacian_noise_is_laplacian() -> None:
    noise = draw("laplacian", (10, 1, 1000)).ravel()
    assert stats.kstest(noise, stats.laplace(scale=np.sqrt(0.5)).cdf).pvalue > 0.01


@pytest.mark.parametrize(("kind", "slope"), [("gaussian", 0.0), ("laplacian", 0.0), ("pink", -1.0)])
def test_the_spectrum_falls_as_the_kind_says(kind: Noise, slope: float) -> None:
    noise = draw(kind, (200, 1, 2048))[:, 0]
    frequency, density = welch(noise, nperseg=2048, window="boxcar", detrend=False)
    middle = slice(2, -2)
    fitted = np.polyfit(np.log(frequency[middle]), np.log(density.mean(axis=0)[middle]), 1)[0]
    assert fitted == pytest.approx(slope, abs=0.03)


@pytest.mark.parametrize("samples", [2047, 2048, 3])
def test_pink_noise_has_no_offset_and_unit_power(samples: int) -> None:
    noise = draw("pink", (2000, 1, samples))[:, 0]
    np.testing.assert_allclose(noise.mean(axis=-1), 0, atol=1e-5)
    assert (noise**2).mean() == pytest.approx(1, rel=0.05)


def test_pink_noise_on_pictures_falls_with_the_radius() -> None:
    noise = draw("pink", (300, 1, 32, 32))[:, 0]
    density = (np.abs(np.fft.fft2(noise)) ** 2).mean(axis=0)
    u, v = np.meshgrid(np.fft.fftfreq(32), np.fft.fftfreq(32), indexing="ij")
    radius = np.hypot(u, v)
    slope = np.polyfit(np.log(radius[radius > 0]), np.log(density[radius > 0]), 1)[0]
    assert slope == pytest.approx(-1, abs=0.05)
    assert (noise**2).mean() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("kind", COLOURS)
def test_draws_are_seeded_and_leave_the_input_alone(kind: Noise) -> None:
    x = tones(4)
    before = x.copy()
    first = add_noise(x, 0.0, kind, noise_rng(1, "test", kind, -4.0, 2))
    assert first.dtype == np.float32
    assert np.array_equal(first, add_noise(x, 0.0, kind, noise_rng(1, "test", kind, -4, 2)))
    assert not np.array_equal(first, add_noise(x, 0.0, kind, noise_rng(1, "test", kind, -4.0, 3)))
    assert not np.array_equal(first, add_noise(x, 0.0, kind, noise_rng(2, "test", kind, -4.0, 2)))
    assert np.array_equal(x, before)
    assert add_noise(x[:0], 0.0, kind, noise_rng(0)).shape == (0, 1, 2048)


def test_keys_cannot_run_together() -> None:
    keys: list[tuple[int | float | str, ...]] = [(), (1,), ("1",), (1, 2), (12,), ("12",), (2, 1), (-1,), (1.5,), ("",)]
    first = {noise_rng(0, *key).integers(2**63) for key in keys}
    assert len(first) == len(keys)


def test_a_stream_is_the_same_in_another_process() -> None:
    code = "from drsn_edge.signals.noise import noise_rng; print(noise_rng(5, 'test', 'pink', -4.0).integers(2**63))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) == noise_rng(5, "test", "pink", -4.0).integers(2**63)


@pytest.mark.parametrize("kind", COLOURS)
def test_a_batch_takes_milliseconds(kind: Noise) -> None:
    x, rng = tones(128), noise_rng(0)
    add_noise(x, 0.0, kind, rng)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        add_noise(x, 0.0, kind, rng)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05  # 2 to 4 ms here; a float64 detour or a loop over windows would show


def test_refusals(refuses: Refuses) -> None:
    x, rng = tones(3), noise_rng(0)
    with refuses(UsageError, got="brown", expected="gaussian, laplacian, pink"):
        add_noise(x, 0.0, "brown", rng)  # type: ignore[arg-type]
    with refuses(InputError, got="float64[3, 1, 2048]", expected="float32[N, C, W]"):
        add_noise(x.astype(np.float64), 0.0, "pink", rng)
    with refuses(InputError, got="float32[1, 2048]", expected="float32[N, C, W]"):
        add_noise(x[0], 0.0, "pink", rng)
    with refuses(InputError, got="nan", expected="one number of dB"):
        add_noise(x, np.nan, "pink", rng)
    with refuses(InputError, got="[1.0, 2.0]", expected="each of the 3 windows"):
        add_noise(x, [1.0, 2.0], "pink", rng)
    with refuses(InputError, got="-1000", expected="at least -200"):
        add_noise(x, -1000.0, "pink", rng)
    with refuses(UsageError, got="-1", expected="at least 0"):
        noise_rng(-1)


def test_ranges_and_sweeps_are_read() -> None:
    assert parse_snr_range("-6:10") == (-6.0, 10.0)
    assert parse_snr_range("-4") == (-4.0, -4.0)
    assert parse_snr_sweep("-10:10:2") == tuple(float(value) for value in range(-10, 11, 2))
    assert parse_snr_sweep("0:1:0.1")[-1] == 1.0
    assert parse_snr_sweep("0:5:2") == (0.0, 2.0, 4.0)
    assert parse_snr_sweep("3") == (3.0,)


@given(low=st.integers(-50, 50), count=st.integers(0, 40), step=st.sampled_from([0.1, 0.25, 0.3, 1.0, 2.0]))
def test_a_sweep_has_both_ends(low: int, count: int, step: float) -> None:
    values = parse_snr_sweep(f"{low}:{low + count * step!r}:{step!r}")
    assert len(values) == count + 1
    np.testing.assert_allclose(values, low + step * np.arange(count + 1), atol=1e-8)


@pytest.mark.parametrize("text", ["", "a", "1:2:3", "1:", "nan", "inf:3", "-900:3"])
def test_a_range_that_is_none_is_refused(text: str, refuses: Refuses) -> None:
    with refuses(UsageError, got=repr(text), expected="LOW:HIGH in dB"):
        parse_snr_range(text)


@pytest.mark.parametrize("text", ["", "1:2", "1:2:3:4", "a:b:c", "0:1:nan"])
def test_a_sweep_that_is_none_is_refused(text: str, refuses: Refuses) -> None:
    with refuses(UsageError, got=repr(text), expected="LOW:HIGH:STEP in dB"):
        parse_snr_sweep(text)


def test_ranges_and_sweeps_run_forwards(refuses: Refuses) -> None:
    with refuses(UsageError, got="10:-6", expected="-6:10"):
        parse_snr_range("10:-6")
    for text in ("10:-6:2", "-6:10:0", "-6:10:-2", "-6:10:0.001"):
        with refuses(UsageError, got=text, expected="STEP above 0"):
            parse_snr_sweep(text)
