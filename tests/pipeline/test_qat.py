"""`train --qat` and the export of what it made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from drsn_edge.bundle import Bundle
from drsn_edge.calibration.check import check_bundle_calibration
from drsn_edge.calibration.contract import Calibration
from drsn_edge.calibration.plan import PrecisionPlan
from drsn_edge.errors import InputError, UsageError
from drsn_edge.files import sha256_file
from drsn_edge.golden import Golden
from drsn_edge.model.checkpoint import load_checkpoint
from drsn_edge.model.fake_quant import FakeQuantNetwork
from drsn_edge.pipeline.export import ExportOptions, check_export, export
from drsn_edge.pipeline.sweep import SweepOptions
from drsn_edge.pipeline.train import TrainResult, train
from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner

QUICK = ExportOptions(engines=(), report=False)


@pytest.fixture(scope="module")
def trained(workshop: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    out = tmp_path_factory.mktemp("qat") / "run"
    return out, train(workshop.data, out=out, init=workshop.run, qat=True, epochs=2, batch=32)


@pytest.fixture(scope="module")
def bundle(trained: tuple[Path, TrainResult], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("qat") / "q.drsn"
    # No data: the scales are the run's, and 24 hand-made windows tell graphs from each other.
    export(trained[0], out=out, options=QUICK, sweep=SweepOptions(draws=1, snrs_db=()))
    return Bundle.open(out)


def test_the_run_is_a_checkpoint_in_fp32_with_plan_and_scales(workshop: Any, trained: tuple[Path, TrainResult]) -> None:
    out, result = trained
    assert {path.name for path in out.iterdir()} == {
        "config.json", "log.jsonl", "model.safetensors", "scores.json", "split.json",
    }  # fmt: skip
    original, checkpoint = load_checkpoint(workshop.run), load_checkpoint(out)
    assert checkpoint.qat is not None
    assert checkpoint.qat["original"] == "run"
    assert checkpoint.qat["original_weights_sha256"] == sha256_file(workshop.run / "model.safetensors")
    assert (checkpoint.qat["options"]["epochs"], checkpoint.qat["options"]["objective"]) == (2, "distil")
    # 4 dB below the lowest SNR of the original: decisions there are close.
    assert checkpoint.qat["options"]["noise"] == {"kinds": ["gaussian"], "snr_db": [-10.0, 10.0]}
    calibration = Calibration.from_json(checkpoint.qat["calibration"])
    calibration.check(weights=sha256_file(out / "model.safetensors"), contract=checkpoint.contract.to_json())
    assert calibration.plan.summary == "4 of 5 convolutions in int8"
    assert result.training == checkpoint.training
    assert checkpoint.training is not None
    assert (checkpoint.training.snr_db, checkpoint.training.epochs) == ((-6.0, 10.0), 2)
    assert len((out / "log.jsonl").read_text().splitlines()) == 2
    # As a plain network: the same modules, statistics untouched, other weights.
    before, after = original.network.state_dict(), checkpoint.network.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert "units.0.conv1.weight" in moved
    assert not any("running" in name for name in moved)


def test_changed_decisions_are_counted_against_the_original(trained: tuple[Path, TrainResult]) -> None:
    out, result = trained
    assert result.qat is not None
    assert [row.condition for row in result.qat.changed] == [
        "clean", "gaussian -4 dB", "gaussian -8 dB", "gaussian -10 dB",
    ]  # fmt: skip
    for row in result.qat.changed:
        assert 0 <= min(row.post_training, row.int8, row.fp32) <= max(row.post_training, row.int8, row.fp32) < 0.5
    kept = json.loads((out / "scores.json").read_text())
    assert kept["qat"]["changed"] == [row.to_json() for row in result.qat.changed]
    assert kept["qat"]["plan"] == "4 of 5 convolutions in int8"
    json.dumps(result.to_json(), allow_nan=False)


def test_the_exported_graph_is_the_fake_quantized_forward(trained: tuple[Path, TrainResult], bundle: Bundle) -> None:
    out, _ = trained
    checkpoint = load_checkpoint(out)
    assert checkpoint.qat is not None
    calibration = Calibration.from_json(checkpoint.qat["calibration"])
    windows = Golden.from_bytes(bundle.read("golden.npz")).windows
    with OnnxRuntimeRunner(bundle.read("model.int8-fp32.onnx")) as runner:
        found = runner.run({"window": windows})["logits"]
    with torch.no_grad():
        wanted = (
            FakeQuantNetwork(checkpoint.network, calibration.scales, full_range=calibration.full_range)
            .eval()(torch.from_numpy(windows))
            .numpy()
        )
    error = np.abs(found - wanted).max(axis=1) / np.abs(wanted).max()
    assert calibration.full_range
    assert np.mean(error < 1e-5) > 0.7
    assert error.max() < 0.02
    assert bundle.read_json("calibration.json") == checkpoint.qat["calibration"]
    assert check_bundle_calibration(bundle) == []


def test_a_run_with_scales_needs_no_data_and_takes_no_other_plan(
    trained: tuple[Path, TrainResult], bundle: Bundle, tmp_path: Path
) -> None:
    out, _ = trained
    rows = PrecisionPlan.from_json(bundle.read_json("calibration.json")["plan"])
    plan = check_export(out, out=tmp_path / "b.drsn", options=ExportOptions(precisions=("int8",), engines=()))
    assert "int8" in plan["graphs"]
    for options, got in (
        (ExportOptions(quantize_first=True, engines=()), "--quantize-first"),
        (ExportOptions(method="mse", engines=()), "--method mse"),
        (ExportOptions(plan=rows, engines=()), "--plan"),
        (ExportOptions(max_changed=0.005, engines=()), "--precision auto --max-changed 0.005"),
        (ExportOptions(rounding="learned", engines=()), "--rounding learned"),
        (ExportOptions(calibration_windows=64, engines=()), "--calibration-windows 64"),
    ):
        with pytest.raises(UsageError, match="plan and scales of its own") as caught:
            check_export(out, out=tmp_path / "b.drsn", options=options)
        assert caught.value.got == got
        assert "--precision auto" in str(caught.value.expected)
    for options in (
        ExportOptions(rounding="nearest", engines=()),  # it has that
        ExportOptions(calibration_windows=64, telemetry=True, engines=()),  # they give the range of thresholds
    ):
        check_export(out, out=tmp_path / "b.drsn", options=options)


def test_scales_of_other_weights_are_refused(workshop: Any, trained: tuple[Path, TrainResult], tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(trained[0], mixed)
    shutil.copy(workshop.run / "model.safetensors", mixed)
    config = json.loads((mixed / "config.json").read_text())
    config["weights_sha256"] = sha256_file(mixed / "model.safetensors")
    (mixed / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="other weights"):
        export(mixed, out=tmp_path / "b.drsn", options=QUICK)
    assert not (tmp_path / "b.drsn").exists()


def test_what_qat_cannot_start_from(
    workshop: Any, trained: tuple[Path, TrainResult], tmp_path: Path, write_table: Callable[..., str]
) -> None:
    out = tmp_path / "new"

    def refused(**changes: Any) -> UsageError:
        with pytest.raises(UsageError) as caught:
            train(**({"dataset": workshop.data, "out": out, "init": workshop.run, "qat": True} | changes))
        assert not out.exists()
        return caught.value

    assert "--init RUN" in str(refused(init=None).expected)
    assert "already" in refused(init=trained[0]).what
    error = refused(model="drsn-cs")
    assert ("model" in error.what, error.got, error.expected) == (True, "drsn-cs", "drsn-cw")
    assert "--window" in str(refused(window=128).hint)
    assert "--resume" in refused(resume=True).what
    assert "--compile" in refused(compile=True).what
    assert "epochs" in refused(epochs=0).what
    other = write_table(tmp_path / "other", seed=5)
    error = refused(dataset=other)
    assert "not the recordings that trained the run" in error.what
    assert "6 of 6" in str(error.got)


@pytest.mark.parametrize("option", [{"quantize_first": True}, {"objective": "labels"}])
def test_options_of_qat_without_it_are_refused(workshop: Any, tmp_path: Path, option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="quantization-aware") as caught:
        train(workshop.data, out=tmp_path / "new", **option)
    assert "--qat" in str(caught.value.hint)


def test_a_dry_run_checks_and_writes_nothing(workshop: Any, tmp_path: Path) -> None:
    result = train(workshop.data, out=tmp_path / "new", init=workshop.run, qat=True, dry_run=True)
    assert result.training.epochs == 20
    assert result.qat is None
    assert not (tmp_path / "new").exists()
