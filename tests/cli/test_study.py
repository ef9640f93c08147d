"""`study` as a user meets it; what it does is tested with the pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drsn_edge.parity.study_cell import CellScore, StudyCell

Cli = Callable[..., Any]
PLAN = ("study", "synthetic:seconds=4", "--where", "load=1", "--window", "256", "--epochs", "2")


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A study of two cells, as it lies on a disk."""
    out = tmp_path / "study"
    for model, accuracy in (("resnet", 0.8), ("drsn-cw", 0.875)):
        for seed in (0, 1, 2):
            scores = tuple(
                CellScore(
                    snr_db=snr, windows=30, draws=300, balanced_accuracy=accuracy + 0.01 * seed, macro_f1=accuracy,
                    calibration_error=0.1, calibration_error_scaled=0.05, confusion=((12, 3), (2, 13)),
                )
                for snr in (None, -6.0)
            )  # fmt: skip
            cell = StudyCell(
                model=model, noise="gaussian", fold=0, seed=seed, parameters=8416, epochs=2, best_epoch=1,
                temperature=1.2, train_seconds=1.0, score_seconds=1.0, windows={"train": 9}, labels=("a", "b"),
                scores=scores,
            )  # fmt: skip
            path = out / "cells" / f"{model}.gaussian.fold0.seed{seed}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(cell.to_json()))
    config = {
        "format_version": 1, "planned": 8, "dataset": "cwru:x", "where": {}, "options": {"epochs": 2},
        "identity": {"train_snr_db": [-6.0, 10.0], "protocol": "time", "preset": "paper"},
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(config))
    return out


def test_summarise_prints_means_and_differences(cli: Cli, finished: Path) -> None:
    said = cli("study", "--summarise", finished)
    assert said.code == 0
    row = next(line for line in said.out.splitlines() if line.startswith("-6 dB")).split()
    assert row == ["-6", "dB", "81.0", "±1.0", "88.5", "±1.0", "+7.5", "(+7.5", "to", "+7.5)", "n=3"]
    assert "6 cells finished, 8 planned" in said.out
    assert "2 of 8 cells are not finished" in said.err
    value = cli("study", "--summarise", finished, "--json").json
    assert value == json.loads((finished / "study.json").read_text())
    assert value["summary"]["conditions"][0]["models"]["drsn-cw"]["difference"]["mean"] == pytest.approx(0.075)
    assert (finished / "study.html").is_file()


def test_confusion_where_it_is_asked_for(cli: Cli, finished: Path) -> None:
    value = cli("study", "--summarise", finished, "--confusion=-6", "--json").json
    assert {item["snr_db"] for item in value["summary"]["confusion"]} == {-6.0}
    said = cli("study", "--summarise", finished, "--confusion=loud")
    assert said.code == 2
    assert "loud" in said.err
    assert "clean" in said.err


def test_a_dry_run_says_what_would_be_trained(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = cli(*PLAN, "--out", out, "--noise", "gaussian,pink", "--seeds", "3", "--snr=-6:6:6", "--dry-run", "--json")
    assert said.code == 0, said.err
    value = said.json
    assert value["planned"] == 2 * 2 * 3
    options = value["config"]["options"]
    assert options["snrs_db"] == [-6.0, 0.0, 6.0]
    assert options["noises"] == ["gaussian", "pink"]
    assert options["seeds"] == [0, 1, 2]
    assert options["train_snr_db"] == [-6.0, 10.0]
    assert not out.exists()
    quiet = cli(*PLAN, "--out", out, "--train-snr", "none", "--dry-run", "--json", "--quiet")
    assert quiet.json["config"]["options"]["train_snr_db"] is None
    assert quiet.err == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "x"], ["no DATASET", "study DATASET --out DIR"]),
        (["synthetic"], ["no --out", "study --summarise DIR"]),
        (["synthetic", "--summarise", "x"], ["synthetic", "study --summarise DIR"]),
        (["--summarise", "x", "--out", "y"], ["y", "alone"]),
        (["synthetic", "--out", "x", "--fold", "first"], ["first", "all, or numbers"]),
        (["synthetic", "--out", "x", "--models", "resnet,vgg"], ["vgg", "drsn-cw"]),
        (["synthetic", "--out", "x", "--models", "none"], ["models", "at least one"]),
        (["synthetic", "--out", "x", "--noise", "none"], ["noises", "at least one"]),
        (["synthetic", "--out", "x", "--snr=6:-6:2"], ["6:-6:2", "LOW at most HIGH"]),
        (["synthetic", "--out", "x", "--train-snr=quiet"], ["quiet", "LOW:HIGH"]),
        (["synthetic", "--out", "x", "--protocol", "load", "--fold", "99"], ["99", "folds"]),
    ],
)
def test_what_users_get_wrong(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said = cli("study", *arguments)
    assert said.code == 2
    for word in words:
        assert word in said.err
    assert list(tmp_path.iterdir()) == []
