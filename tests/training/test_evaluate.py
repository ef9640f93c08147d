from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from drsn_edge.errors import InputError, UsageError
from drsn_edge.model.network import Network
from drsn_edge.model.runner import TorchRunner
from drsn_edge.signals.noise import add_noise, noise_rng
from drsn_edge.signals.windows import Windows
from drsn_edge.training.evaluate import evaluate
from drsn_edge.training.loop import fit
from drsn_edge.training.options import FitOptions, NoiseRange

MakeWindows = Callable[..., Windows]
SNRS = (-8.0, 0.0)


@pytest.fixture
def network(make_windows: MakeWindows, make_network: Callable[..., Network]) -> Network:
    network = make_network()
    options = FitOptions(epochs=8, batch=16, lr=0.05, noise=NoiseRange(("gaussian",), (0.0, 10.0)))
    fit(network, make_windows(96), make_windows(30, seed=1), options=options)
    return network


def test_equals_a_slow_reference(network: Network, make_windows: MakeWindows) -> None:
    windows = make_windows(70, seed=2)  # more than one piece of noise, and a part of one
    scores = evaluate(network, windows, noise=("gaussian", "pink"), snrs=SNRS, draws=3, seed=5, batch=32)
    assert [score.condition for score in scores] == [
        "clean", "gaussian -8 dB", "gaussian 0 dB", "pink -8 dB", "pink 0 dB",
    ]  # fmt: skip
    for score in scores:
        y, decided = [], []
        for draw in range(1 if score.snr_db is None else 3):
            for start in (0, 64):
                x = windows.x[start : start + 64]
                if score.snr_db is not None:
                    rng = noise_rng(5, "score", score.noise, score.snr_db, draw, start)
                    x = add_noise(x, score.snr_db, score.noise, rng)  # type: ignore[arg-type]
                for one, label in zip(x, windows.y[start : start + 64], strict=True):
                    with torch.no_grad():
                        decided.append(int(network(torch.from_numpy(one[None])).argmax()))
                    y.append(label)
        assert score.balanced_accuracy == pytest.approx(balanced_accuracy_score(y, decided))
        assert np.sum(score.confusion) == score.draws == len(y)
        assert score.windows == 70
        assert score.to_json()["confusion"] == [list(row) for row in score.confusion]
    assert scores[0].balanced_accuracy > scores[1].balanced_accuracy


def test_a_figure_depends_on_nothing_but_its_own_condition(network: Network, make_windows: MakeWindows) -> None:
    windows = make_windows(70, seed=2)
    whole = evaluate(network, windows, noise=("gaussian", "laplacian"), snrs=(-8.0, -4.0, 0.0), draws=2)
    assert evaluate(network, windows, noise=("gaussian", "laplacian"), snrs=(-8.0, -4.0, 0.0), draws=2) == whole
    part = evaluate(network, windows, noise=("laplacian",), snrs=(-4.0,), draws=2, batch=7)
    same = (whole[0], next(score for score in whole if score.condition == "laplacian -4 dB"))
    for one, other in zip(part, same, strict=True):
        # Confidences differ in rounding between batches; decisions do not.
        assert one.calibration_error == pytest.approx(other.calibration_error, abs=1e-6)
        assert dataclasses.replace(one, calibration_error=0, calibration_error_scaled=0) == dataclasses.replace(
            other, calibration_error=0, calibration_error_scaled=0
        )
    reseeded = evaluate(network, windows, noise=("laplacian",), snrs=(-8.0,), draws=2, seed=1)
    assert reseeded[1].confusion != next(score for score in whole if score.condition == "laplacian -8 dB").confusion


def test_a_runner_scores_as_its_network(network: Network, make_windows: MakeWindows) -> None:
    windows = make_windows(30, seed=2)
    with TorchRunner(network) as runner:
        assert evaluate(runner, windows, snrs=SNRS, draws=2) == evaluate(network, windows, snrs=SNRS, draws=2)


def test_the_network_stays_in_the_mode_it_was_in(network: Network, make_windows: MakeWindows) -> None:
    windows = make_windows(30, seed=2)
    expected = evaluate(network, windows, snrs=SNRS, draws=1)
    statistics = network.bn.running_mean.clone()  # type: ignore[union-attr]
    network.train()
    assert evaluate(network, windows, snrs=SNRS, draws=1) == expected
    assert network.training
    assert torch.equal(network.bn.running_mean, statistics)  # type: ignore[arg-type]


def test_ten_draws_by_default(network: Network, make_windows: MakeWindows) -> None:
    scores = evaluate(network, make_windows(6), snrs=(0.0,))
    assert [score.draws for score in scores] == [6, 60]


def test_what_cannot_be_scored(network: Network, make_windows: MakeWindows) -> None:
    with pytest.raises(InputError, match=r"(?s)nothing to score.*0 windows.*at least one"):
        evaluate(network, make_windows(6).select([]))
    for name in ("draws", "batch"):
        with pytest.raises(UsageError, match=rf"(?s){name}.*0.*at least 1"):
            evaluate(network, make_windows(6), **{name: 0})  # type: ignore[arg-type]
