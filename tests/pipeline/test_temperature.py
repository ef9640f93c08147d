"""The temperature on its way: fitted after training, kept in the checkpoint, carried into the bundle."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from drsn_edge.errors import InputError
from drsn_edge.model.checkpoint import CONFIG, Checkpoint, TrainingRecord, load_checkpoint, save_checkpoint
from drsn_edge.parity.calibration_error import CalibrationTally
from drsn_edge.pipeline.export import ExportOptions, export
from drsn_edge.signals.windows import Windows
from drsn_edge.training.confidence import temperature_of
from drsn_edge.training.evaluate import evaluate
from drsn_edge.training.options import FitOptions, NoiseRange

MakeNetwork = Callable[..., Any]
RECORD = TrainingRecord(dataset="synthetic", temperature=1.75)


@pytest.fixture
def run(make_network: MakeNetwork, tmp_path: Path) -> Path:
    network, contract = make_network()
    labels = tuple("abcde")
    save_checkpoint(tmp_path / "run", Checkpoint(network, contract, labels, RECORD))
    return tmp_path / "run"


def edit(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads((run / CONFIG).read_text())
    change(value["training"])
    (run / CONFIG).write_text(json.dumps(value))


def test_it_is_kept_in_the_checkpoint(run: Path) -> None:
    training = load_checkpoint(run).training
    assert training is not None
    assert training.temperature == 1.75


def test_a_checkpoint_from_before_has_temperature_one(run: Path) -> None:
    edit(run, lambda training: training.pop("temperature"))
    training = load_checkpoint(run).training
    assert training == dataclasses.replace(RECORD, temperature=1.0)


@pytest.mark.parametrize("value", [0, -1.5, "warm", None])
def test_a_temperature_that_cannot_be_is_refused(run: Path, value: object) -> None:
    edit(run, lambda training: training.update(temperature=value))
    with pytest.raises(InputError, match=rf"(?s)training record.*{value}.*temperature"):
        load_checkpoint(run)


def test_it_is_carried_into_the_bundle(run: Path, tmp_path: Path) -> None:
    options = ExportOptions(precisions=("fp32",), engines=(), report=False)
    manifest = export(run, out=tmp_path / "net.drsn", options=options).bundle.manifest
    assert manifest["model"]["temperature"] == 1.75
    assert manifest["provenance"]["training"]["temperature"] == 1.75


def test_it_is_fitted_on_the_windows_that_are_given_and_scores_have_both_errors(make_network: MakeNetwork) -> None:
    """A head that is five times too sure: the temperature says so, and takes the calibration error away."""
    network, contract = make_network(classes=3)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((600, *contract.shape)).astype(np.float32)
    with torch.no_grad():
        logits = network(torch.from_numpy(x)).double().numpy()
        logits -= logits.max(axis=1, keepdims=True)
        chance = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        y = (rng.random((600, 1)) > np.cumsum(chance, axis=1)).sum(axis=1).clip(max=2).astype(np.int64)
        network.fc.weight.mul_(5)
        network.fc.bias.mul_(5)
    windows = Windows(x=x, y=y, cluster=np.arange(600), labels=("a", "b", "c"))
    first, second = windows.select(np.arange(300)), windows.select(np.arange(300, 600))
    found = temperature_of(network.train(), first, FitOptions(noise=NoiseRange()))
    assert network.training
    assert found.value == pytest.approx(5, rel=0.25)
    (score,) = evaluate(network, second, noise=(), temperature=found.value)
    assert score.calibration_error > 0.08
    assert score.calibration_error_scaled < score.calibration_error / 2
    with torch.no_grad():
        sure = network.eval()(torch.from_numpy(second.x)).numpy()
    for temperature, error in ((1.0, score.calibration_error), (found.value, score.calibration_error_scaled)):
        tally = CalibrationTally(temperature=temperature)
        tally.add(sure, second.y)
        assert error == pytest.approx(tally.error, abs=1e-6)
    with pytest.raises(InputError, match=r"(?s)temperature.*0.*positive"):
        evaluate(network, second, noise=(), temperature=0.0)
