"""Windows without classes: how far they are from what trained the network, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drsn_edge.errors import DrsnError, InputError
from drsn_edge.signals.windows import Windows

pytest.importorskip("torch", reason="BatchNorm layers remember the training")
pytest.importorskip("onnxruntime", reason="calibration runs the FP32 graph")

import torch

from drsn_edge.calibration.calibrate import CalibrationOptions
from drsn_edge.calibration.familiar import LARGEST, refuse_unfamiliar, training_distance
from drsn_edge.model.checkpoint import load_checkpoint
from drsn_edge.pipeline.export import ExportOptions, export

FAST = CalibrationOptions(method="percentile", rounding="nearest")


def normed(mean: float, variance: float) -> Any:
    """A network of one BatchNorm that remembers these moments in both channels."""
    layer: Any = torch.nn.BatchNorm1d(2, eps=0.0).eval()
    layer.running_mean.fill_(mean)
    layer.running_var.fill_(variance)
    return torch.nn.Sequential(layer)


@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (0.7, 1.0), (0.0, 4.0), (-0.5, 0.3)])
def test_the_distance_is_the_divergence_of_two_normal_distributions(mean: float, variance: float) -> None:
    """Against torch's own divergence, on values whose moments are known exactly."""
    x = np.tile(np.array([-1.0, 1.0], np.float32), (150, 2, 8))  # mean 0, variance 1, in batches of 64, 64 and 22
    wanted = torch.distributions.kl_divergence(
        torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(mean, variance**0.5)
    )
    assert training_distance(normed(mean, variance), x) == pytest.approx(float(wanted), abs=1e-6)


def test_a_network_is_left_as_it_was(make_network: Callable[..., Any], tones: Callable[..., Windows]) -> None:
    network, _ = make_network("drsn-cw", classes=4, widths=(4, 7), units=(1, 1))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    distance = training_distance(network, tones(70).x)
    assert distance is not None
    assert distance > LARGEST, "drawn weights remember nothing"
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_nothing_says_whether_it_suits(tones: Callable[..., Windows]) -> None:
    x = tones(64).x
    for network in (None, torch.nn.Conv1d(1, 2, 3)):
        with pytest.raises(InputError, match="has no classes, and nothing says whether it suits") as caught:
            refuse_unfamiliar(network, x)
        assert "without BatchNorm" in str(caught.value.got)
        assert "labels" in str(caught.value.expected)


def test_unlabelled_windows_without_a_network_do_not_calibrate(
    tones: Callable[..., Windows], run: Callable[..., Any], clean: Callable[..., Any]
) -> None:
    windows = tones(96)
    bare = dataclasses.replace(windows, y=np.full(96, -1, np.int64))
    with pytest.raises(InputError, match="nothing says whether it suits this network"):
        run(data=clean(bare), options=FAST)


@pytest.fixture
def unlabelled(write_table: Callable[..., str], tmp_path: Path) -> Callable[..., str]:
    """The workshop's recordings without their labels, or random ones in their place."""

    def write(*, random: bool = False) -> str:
        folder = tmp_path / ("random" if random else "bare")
        spec = write_table(folder, seed=5)
        table = folder / "recordings.csv"
        for label in ("low", "middle", "high"):
            table.write_text(table.read_text().replace(f",{label},", ",,"))
        if random:
            rng = np.random.default_rng(0)
            for path in folder.glob("*.npy"):
                np.save(path, rng.standard_normal(6400, dtype=np.float32))
        return spec

    return write


def test_recordings_without_classes_calibrate(workshop: Any, unlabelled: Callable[..., str], tmp_path: Path) -> None:
    options = ExportOptions(
        precisions=("int8",), engines=(), report=False, method="percentile", rounding="nearest", calibration_windows=96
    )
    made = export(workshop.run, out=tmp_path / "b.drsn", calibrate=unlabelled(), options=options)
    assert made.bundle.manifest["provenance"]["calibration"]["windows"] == 96
    assert any("have no classes" in note for note in made.notes)
    assert not made.parity.decisions


def test_random_recordings_without_classes_are_refused(
    workshop: Any, unlabelled: Callable[..., str], tmp_path: Path
) -> None:
    options = ExportOptions(precisions=("int8",), engines=(), report=False)
    with pytest.raises(InputError, match="is far from what trained this network") as caught:
        export(workshop.run, out=tmp_path / "b.drsn", calibrate=unlabelled(random=True), options=options)
    assert "nats" in str(caught.value.got)
    assert caught.value.expected == f"at most {LARGEST:g}"
    assert not (tmp_path / "b.drsn").exists()


def test_they_do_nothing_else(workshop: Any, unlabelled: Callable[..., str], tmp_path: Path) -> None:
    from drsn_edge.pipeline.survey import data
    from drsn_edge.pipeline.train import train
    from drsn_edge.pipeline.verify import verify

    spec = unlabelled()
    calls: tuple[Callable[[], Any], ...] = (
        lambda: verify(workshop.bundle, data=spec),
        lambda: train(spec, out=tmp_path / "run"),
        lambda: data(spec),
    )
    for call in calls:
        with pytest.raises(DrsnError, match="have no classes") as caught:
            call()
        assert caught.value.got == "an empty column label"


def test_the_workshop_is_as_familiar_as_it_should_be(workshop: Any, write_table: Callable[..., str]) -> None:
    """What trains it is near, what is random far, with room on both sides of the limit."""
    from drsn_edge.calibration.windows import choose
    from drsn_edge.pipeline.data import open_data

    run = load_checkpoint(workshop.run)
    data = open_data(workshop.data, contract=run.contract, labels=run.labels, training=None, split=run.split)
    pool = data.windows("train", overlap=True)
    near = training_distance(run.network, choose(pool, count=256, noises=("gaussian",), snr_db=(-6.0, 10.0)).windows.x)
    far = training_distance(run.network, np.random.default_rng(1).standard_normal(pool.x.shape, dtype=np.float32))
    assert near is not None
    assert far is not None
    assert near < LARGEST / 2
    assert far > 2 * LARGEST
