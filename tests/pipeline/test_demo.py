"""`demo`: the whole way, with a training that is done already."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from drsn_edge.cli import app
from drsn_edge.errors import UsageError
from drsn_edge.model.checkpoint import load_checkpoint
from drsn_edge.pipeline import demo as module
from drsn_edge.pipeline.train import TrainResult


@pytest.fixture
def trained(workshop: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `train` was asked for; it copies the workshop's run."""
    asked: dict[str, Any] = {}

    def train(dataset: str, *, out: Path, **options: Any) -> TrainResult:
        asked.update(dataset=dataset, out=out, **options)
        shutil.copytree(workshop.run, out)
        record = load_checkpoint(out).training
        assert record is not None
        return TrainResult(out, record, (), {"train": 696, "validation": 114, "test": 114}, ())

    monkeypatch.setattr(module, "DATASET", workshop.data)
    monkeypatch.setattr(module, "train", train)
    return asked


def test_it_ends_with_a_verified_bundle(trained: dict[str, Any], workshop: Any, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    said = CliRunner().invoke(app, ["demo", "--out", str(out), "--epochs", "3", "--seed", "5", "--json"])
    value = json.loads(said.stdout)
    # Few windows may be out of tolerance; the exit code says what the result says.
    assert said.exit_code == (0 if value["export"]["passed"] else 5)
    assert (trained["epochs"], trained["seed"], trained["out"]) == (3, 5, out / "run")
    assert value["export"]["bundle"] == str(out / "demo.drsn")
    assert {hop["to"] for hop in value["export"]["parity"]["hops"]} >= {"onnx-fp32", "onnx-fp16", "onnx-int8"}
    assert (out / "demo.drsn" / "manifest.json").is_file()
    assert sorted(path.name for path in out.iterdir()) == ["demo.drsn", "run"]


def test_a_dry_run_trains_nothing(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo"), "--epochs", "3", "--dry-run"])
    assert said.exit_code == 0, said.stderr
    assert said.stdout.startswith("would train 3 epochs into ")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays(trained: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match=r"(?s)exists already.*mine.*--force"):
        module.demo(out=tmp_path / "mine")
    assert trained == {}
