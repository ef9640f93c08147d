"""Babble and distractors from training to the verified bundle; pictures all the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drsn_edge.errors import UsageError
from drsn_edge.model.config import WIDTHS, NetworkConfig
from drsn_edge.pipeline.export import ExportOptions, ExportResult, export
from drsn_edge.pipeline.sweep import SweepOptions
from drsn_edge.pipeline.train import TrainResult, train
from drsn_edge.pipeline.verify import verify

OPTIONS = ExportOptions(engines=(), method="min-max", calibration_windows=64, report=False)


@pytest.fixture(autouse=True)
def three_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """One unit for each stage: everything is there, and torch's exporter is slow."""

    def preset(name: str, *, model: Any, classes: int, in_channels: int = 1, dims: Any = 1) -> NetworkConfig:
        return NetworkConfig(model, classes, in_channels, dims, WIDTHS[name], units=(1, 1, 1))

    monkeypatch.setattr(NetworkConfig, "preset", preset)


def run(dataset: str, out: Path, **changes: Any) -> TrainResult:
    options: dict[str, Any] = {"batch": 16, "lr": 0.05, "threads": 1}
    return train(dataset, out=out, **(options | changes))


def conditions(result: ExportResult) -> set[tuple[str, float | None]]:
    return {(point.noise, point.snr_db) for point in result.parity.decisions}


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three words of three tones each, spoken by five speakers at pitches of their own."""
    folder = tmp_path_factory.mktemp("voices")
    rng = np.random.default_rng(0)
    lines = ["path,label,sample_rate_hz,speaker"]
    for speaker in range(5):
        for word, order in (("low", 3), ("middle", 9), ("high", 17)):
            signal = np.sin(2 * np.pi * order * (1 + 0.03 * speaker) * np.arange(1920) / 64)
            np.save(folder / f"{word}-{speaker}.npy", (signal + 0.1 * rng.standard_normal(1920)).astype(np.float32))
            lines.append(f"{word}-{speaker}.npy,{word},1000,speaker {speaker}")
    (folder / "recordings.csv").write_text("\n".join(lines) + "\n")
    return f"table:{folder / 'recordings.csv'}"


@pytest.mark.slow
def test_a_network_that_learned_in_babble_is_calibrated_and_judged_in_it(voices: str, tmp_path: Path) -> None:
    trained = run(
        voices, tmp_path / "run", protocol="speaker", fold=2, window=64, hop=32, noise=("babble",), snr=(5.0, 15.0),
        epochs=6, model="drsn-cs",
    )  # fmt: skip
    assert trained.training.noises == ("babble",)
    scores = {score.condition: score.balanced_accuracy for score in trained.scores}
    assert scores["clean"] > 0.6
    assert "babble -10 dB" in scores
    result = export(
        tmp_path / "run", out=tmp_path / "voices.drsn", calibrate=voices, options=OPTIONS,
        sweep=SweepOptions(snrs_db=(10.0,), draws=1),
    )  # fmt: skip
    assert conditions(result) == {("none", None), ("babble", 10.0)}
    assert not [note for note in result.notes if "without it" in note]
    # The speaker who tests has nobody left to babble when he comes alone: that is said, not replaced.
    with pytest.raises(UsageError, match="nothing that babble could be made of") as caught:
        verify(
            tmp_path / "voices.drsn", data=voices, where={"speaker": "speaker 2"},
            options=SweepOptions(snrs_db=(10.0,), draws=1),
        )  # fmt: skip
    assert "none but of speaker 2" in str(caught.value.got)
    assert "others than speaker 2" in str(caught.value.expected)


@pytest.mark.parametrize("kind", ["babble", "distractor"])
def test_noise_that_the_data_cannot_have_is_refused_before_anything_is_written(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no noise of this kind") as caught:
        run("synthetic:seconds=1", tmp_path / "run", noise=(kind,), window=512, dry_run=True)
    assert caught.value.got == kind
    assert caught.value.expected == "gaussian, laplacian, pink"
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Stripes that lie, stand and lean, at any phase."""
    path = tmp_path_factory.mktemp("pictures") / "stripes.npz"
    rng = np.random.default_rng(0)
    row, column = np.mgrid[:16, :16]
    arrays: dict[str, Any] = {"classes": np.array(["lying", "standing", "leaning"])}
    for part, count in (("train", 600), ("test", 60)):
        y = np.arange(count) % 3
        way = np.stack([row, column, row + column])[y]
        wave = np.sin(2 * np.pi * (way / 6 + rng.uniform(size=(count, 1, 1))))[:, None]
        x = 128 + 80 * wave + 10 * rng.standard_normal((count, 2, 16, 16))
        arrays |= {f"x_{part}": x.clip(0, 255).astype(np.uint8), f"y_{part}": y}
    np.savez_compressed(path, **arrays)
    return f"images:{path}"


def test_pictures_from_training_to_a_verified_bundle(pictures: str, tmp_path: Path) -> None:
    trained = run(
        pictures, tmp_path / "run", protocol="given", noise=("gaussian", "distractor"), snr=(3.0, 20.0), epochs=3
    )
    assert trained.windows == {"train": 540, "validation": 60, "test": 60}
    scores = {score.condition: score.balanced_accuracy for score in trained.scores}
    assert scores["clean"] > 0.6
    assert scores["distractor 10 dB"] > scores["distractor -10 dB"]
    result = export(
        tmp_path / "run", out=tmp_path / "stripes.drsn", calibrate=pictures, options=OPTIONS,
        sweep=SweepOptions(snrs_db=(10.0,), draws=1),
    )  # fmt: skip
    assert conditions(result) == {("none", None), ("gaussian", 10.0), ("distractor", 10.0)}
    assert len(result.bundle.units) == 3
    assert result.bundle.contract.shape == (2, 16, 16)
    assert sum(row["precision"] == "int8" for row in result.plan) == 6
    by_hop = {hop.to: hop.status for hop in result.parity.hops}
    assert by_hop["onnx-fp32"] == by_hop["onnx-fp16"] == "passed"
    assert "onnx-int8" in by_hop
    again = verify(tmp_path / "stripes.drsn")
    assert {hop.to: hop.status for hop in again.hops} == by_hop
