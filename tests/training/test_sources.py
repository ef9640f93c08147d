"""Batches that the device draws: run on the CPU here, where only the generator is another one than on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import kstest, kurtosis

from drsn_edge.signals.noise import NoiseSource
from drsn_edge.signals.windows import Windows
from drsn_edge.training import sources
from drsn_edge.training.options import FitOptions, NoiseRange
from drsn_edge.training.parallel import ALONE, Processes
from drsn_edge.training.sources import DeviceSource, HostSource, source

CPU = torch.device("cpu")
OPTIONS = FitOptions(epochs=1, batch=16, seed=3, validation_draws=2)


def tones(count: int, length: int = 2048, channels: int = 1) -> Windows:
    time = np.arange(length) / 7 + np.arange(count * channels).reshape(count, channels, 1)
    x = (np.arange(1, channels + 1)[:, None] * np.sin(time) + 5).astype(np.float32)
    return Windows(x=x, y=np.arange(count) % 2, cluster=np.arange(count), labels=("a", "b"))


def noisy(windows: Windows, noise: NoiseRange) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Windows of one epoch, clean and with noise."""
    found = []
    for kind in (NoiseRange(), noise):
        options = replace(OPTIONS, noise=kind, batch=64)
        batches = DeviceSource(windows, windows, options, CPU, ALONE).epoch(1)
        found.append(np.concatenate([x.numpy() for x, _, _ in batches]))
    return found[0], found[1]


def test_the_order_is_that_of_the_host() -> None:
    windows = tones(50, length=64)
    both = [kind(windows, windows, OPTIONS, CPU, ALONE) for kind in (HostSource, DeviceSource)]
    for host, device in zip(both[0].epoch(2), both[1].epoch(2), strict=True):
        assert torch.equal(host[0], device[0])
        assert torch.equal(host[1], device[1])
        assert host[2] == device[2] == 16


@pytest.mark.parametrize("snr", [-6.0, 10.0])
@pytest.mark.parametrize("kind", ["gaussian", "laplacian", "pink"])
def test_noise_has_the_power_and_the_shape_that_it_says(kind: str, snr: float) -> None:
    clean, mixed = noisy(tones(64, channels=2), NoiseRange((kind,), (snr, snr)))  # type: ignore[arg-type]
    noise = mixed - clean
    ratio = 10 * np.log10(clean.var(axis=2).mean(axis=0) / (noise**2).mean(axis=(0, 2)))
    np.testing.assert_allclose(ratio, snr, atol=0.3)  # for each channel by itself
    unit = noise / noise.std(axis=2, keepdims=True)
    if kind == "pink":
        power = (np.abs(np.fft.rfft(unit, axis=2)) ** 2).mean(axis=(0, 1))
        frequency = np.arange(len(power))
        slope = np.polyfit(np.log(frequency[4:800]), np.log(power[4:800]), 1)[0]
        assert slope == pytest.approx(-1.0, abs=0.1)
        assert power[0] < 1e-3
    else:
        law, scale = ("norm", 1.0) if kind == "gaussian" else ("laplace", 0.5**0.5)
        assert kstest(unit[0].ravel()[::3], law, args=(0, scale)).pvalue > 1e-4
        assert kurtosis(unit.ravel()) == pytest.approx(0.0 if kind == "gaussian" else 3.0, abs=0.3)


def test_ratios_cover_the_range_and_kinds_are_mixed() -> None:
    clean, mixed = noisy(tones(1024), NoiseRange(("gaussian", "laplacian", "pink"), (-6.0, 10.0)))
    noise = (mixed - clean)[:, 0]
    ratio = 10 * np.log10(clean[:, 0].var(axis=1) / noise.var(axis=1))
    assert ratio.min() < -5
    assert ratio.max() > 9
    assert ratio.mean() == pytest.approx(2.0, abs=0.6)
    unit = noise / noise.std(axis=1, keepdims=True)
    pink = (np.abs(np.fft.rfft(unit, axis=1)) ** 2)[:, 1:20].mean(axis=1) / 2048 > 5
    laplacian = ~pink & (kurtosis(unit, axis=1) > 1)
    for share in (pink.mean(), laplacian.mean()):
        assert share == pytest.approx(1 / 3, abs=0.06)


def test_a_flat_window_gets_no_noise() -> None:
    windows = replace(tones(20, length=64), x=np.full((20, 1, 64), 7.3, dtype=np.float32))
    _, mixed = noisy(windows, NoiseRange(("gaussian",), (-6.0, -6.0)))
    assert (mixed == np.float32(7.3)).all()


def test_draws_are_functions_of_seed_epoch_and_step() -> None:
    windows, noise = tones(40, length=64), NoiseRange(("gaussian", "pink"), (0.0, 10.0))

    def epoch(number: int, seed: int = 3) -> list[torch.Tensor]:
        options = replace(OPTIONS, noise=noise, seed=seed)
        return [x for x, _, _ in DeviceSource(windows, windows, options, CPU, ALONE).epoch(number)]

    torch.manual_seed(5)
    first = epoch(1)
    torch.manual_seed(6)  # no global generator takes part
    for one, other in zip(first, epoch(1), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first[0], epoch(2)[0])
    assert not torch.equal(first[0], epoch(1, seed=4)[0])


@pytest.mark.parametrize("kind", [HostSource, DeviceSource])
def test_processes_share_every_batch(kind: type[HostSource]) -> None:
    windows, noise = tones(41, length=64), NoiseRange(("gaussian",), (0.0, 10.0))
    options = replace(OPTIONS, noise=noise, batch=15)
    whole = list(kind(windows, windows, options, CPU, ALONE).epoch(1))
    shares = [list(kind(windows, windows, options, CPU, Processes(rank, 2)).epoch(1)) for rank in (0, 1)]
    assert len(whole) == len(shares[0]) == len(shares[1]) == 3
    for (x, y, total), one, other in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat([one[0], other[0]]), x)
        assert torch.equal(torch.cat([one[1], other[1]]), y)
        assert one[2] == other[2] == total == 15


@pytest.mark.parametrize("kind", [HostSource, DeviceSource])
@pytest.mark.parametrize("noise", [NoiseRange(), NoiseRange(("gaussian",), (0.0, 10.0))])
def test_processes_share_validation(kind: type[HostSource], noise: NoiseRange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_VALIDATION_BATCH", 16)
    windows = tones(41, length=64)
    options = replace(OPTIONS, noise=noise, batch=8)
    whole = [x for x, _, _ in kind(windows, windows, options, CPU, ALONE).validation()]
    assert sum(map(len, whole)) == 41 * (3 if noise.kinds else 1)
    assert torch.equal(torch.cat(whole[:3]), torch.from_numpy(windows.x))
    assert len(noise.kinds) == 0 or not torch.equal(whole[3], whole[6])
    again = [x for x, _, _ in kind(windows, windows, options, CPU, ALONE).validation()]
    group = Processes(0, 2), Processes(1, 2)
    shares = [[x for x, _, _ in kind(windows, windows, options, CPU, member).validation()] for member in group]
    assert len(shares[0]) + len(shares[1]) == len(whole)
    for index, batch in enumerate(whole):
        assert torch.equal(batch, again[index])
        assert torch.equal(batch, shares[index % 2][index // 2])


def test_pictures_have_noise_in_both_directions() -> None:
    x = np.random.default_rng(0).normal(size=(32, 2, 12, 16)).astype(np.float32)
    windows = Windows(x=x, y=np.arange(32) % 2, cluster=np.arange(32), labels=("a", "b"))
    clean, mixed = noisy(windows, NoiseRange(("pink",), (0.0, 0.0)))
    assert mixed.shape == x.shape
    assert (mixed - clean).var() == pytest.approx(1.0, abs=0.1)
    np.testing.assert_allclose((mixed - clean).mean(axis=(2, 3)), 0, atol=1e-5)


def test_noise_of_recordings_is_made_on_the_host(make_windows: Callable[..., Windows]) -> None:
    class Voices(NoiseSource):
        kinds = ("babble",)

    windows = replace(make_windows(), source=Voices())
    cuda = torch.device("cuda")
    babble = replace(OPTIONS, noise=NoiseRange(("gaussian", "babble"), (0.0, 10.0)))
    assert isinstance(source(windows, windows, babble, cuda), HostSource)
    assert isinstance(source(windows, windows, OPTIONS, CPU), HostSource)
