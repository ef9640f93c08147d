from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from drsn_edge.errors import InputError
from drsn_edge.parity.published import SNRS_DB, published
from drsn_edge.parity.study_cell import CellScore, StudyCell
from drsn_edge.parity.study_summary import summarise

MODELS = ("convnet", "resnet", "drsn-cw")


def score(snr: float | None, accuracy: float, confusion: Any = ((9, 1), (2, 8))) -> CellScore:
    return CellScore(
        snr_db=snr, windows=20, draws=20 if snr is None else 200, balanced_accuracy=accuracy, macro_f1=accuracy - 0.01,
        calibration_error=0.1, calibration_error_scaled=0.05, confusion=confusion,
    )  # fmt: skip


def cell(model: str, accuracy: float, **changes: Any) -> StudyCell:
    options: dict[str, Any] = {
        "model": model, "noise": "gaussian", "fold": 0, "seed": 0, "parameters": 100, "epochs": 5, "best_epoch": 4,
        "temperature": 1.5, "train_seconds": 2.0, "score_seconds": 1.0, "windows": {"train": 60}, "labels": ("a", "b"),
        "scores": (score(None, accuracy), score(-6.0, accuracy - 0.3), score(0.0, accuracy - 0.1)),
    }  # fmt: skip
    return StudyCell(**(options | changes))


def test_figures_and_differences_over_seeds() -> None:
    low, high = (0.90, 0.92, 0.91), (0.95, 0.96, 0.98)
    cells = [cell("resnet", value, seed=seed) for seed, value in enumerate(low)]
    cells += [cell("drsn-cw", value, seed=seed) for seed, value in enumerate(high)]
    summary = summarise(cells, models=MODELS, confusion=(None, -6.0))
    assert summary.reference == "resnet"
    assert summary.parameters == {"resnet": 100, "drsn-cw": 100}
    assert [item.name for item in summary.conditions] == ["clean", "-6 dB", "0 dB"]
    at = summary.conditions[1]
    assert (at.windows, at.draws) == (20, 200)
    figure = at.models["drsn-cw"].figures["balanced_accuracy"]
    assert figure.mean == pytest.approx(np.mean(high) - 0.3)
    assert figure.std == pytest.approx(np.std(high, ddof=1))
    assert at.models["drsn-cw"].figures["macro_f1"].mean == pytest.approx(np.mean(high) - 0.31)
    difference = at.models["drsn-cw"].difference
    assert difference is not None
    assert difference.mean == pytest.approx(np.mean(high) - np.mean(low))
    assert difference.n == 3
    assert at.models["resnet"].difference is None
    assert [(item.model, item.snr_db, item.counts) for item in summary.confusion] == [
        (model, snr, ((27, 3), (6, 24))) for snr in (None, -6.0) for model in ("resnet", "drsn-cw")
    ]
    value = json.loads(json.dumps(summary.to_json(), allow_nan=False))
    assert value["conditions"][1]["models"]["drsn-cw"]["difference"]["n"] == 3
    assert value["temperature"]["gaussian"]["resnet"]["mean"] == 1.5


def test_without_resnet_the_first_is_the_reference() -> None:
    summary = summarise([cell("drsn-cw", 0.9), cell("convnet", 0.8)], models=MODELS, confusion=())
    assert summary.reference == "convnet"
    assert list(summary.parameters) == ["convnet", "drsn-cw"]


def test_a_grid_may_have_holes() -> None:
    cells = [cell("resnet", 0.9), cell("drsn-cw", 0.95, seed=1), cell("resnet", 0.8, noise="pink")]
    summary = summarise(cells, models=MODELS, confusion=(-6.0,))
    assert summary.conditions[0].models["drsn-cw"].difference is None
    assert [item.noise for item in summary.conditions] == ["gaussian"] * 3 + ["pink"] * 3
    assert list(summary.conditions[3].models) == ["resnet"]
    assert [(item.model, item.noise) for item in summary.confusion] == [
        ("resnet", "gaussian"), ("drsn-cw", "gaussian"), ("resnet", "pink"),
    ]  # fmt: skip
    assert list(summary.temperatures["pink"]) == ["resnet"]


def test_folds_with_other_classes_are_put_together_by_name() -> None:
    cells = [
        cell("resnet", 0.9, scores=(score(None, 0.9, ((5, 1), (2, 6))),)),
        cell("resnet", 0.7, fold=1, labels=("b", "c"), scores=(score(None, 0.7, ((7, 3), (4, 8))),)),
    ]
    summary = summarise(cells, models=MODELS, confusion=(None,))
    assert summary.confusion[0].labels == ("a", "b", "c")
    assert summary.confusion[0].counts == ((5, 1, 0), (2, 13, 3), (0, 4, 8))
    assert summary.conditions[0].windows == 40


def test_what_cannot_be_summarised() -> None:
    with pytest.raises(InputError, match=r"(?s)nothing to summarise.*0 finished cells.*at least one"):
        summarise([], models=MODELS, confusion=())
    with pytest.raises(InputError, match=r"(?s)twice.*resnet.*every cell once"):
        summarise([cell("resnet", 0.9), cell("resnet", 0.8)], models=MODELS, confusion=())


def test_a_cell_survives_json() -> None:
    one = cell("resnet", 0.9)
    assert StudyCell.from_json(json.loads(json.dumps(one.to_json())), source="x") == one
    assert "confusion" not in one.to_json(confusion=False)["scores"][0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 9}, "cells/x.json.*format version.*9.*1"),
        ({"scores": [{}]}, "cells/x.json.*wrong fields.*confusion.*fields of a finished cell"),
        ({"lr": 0.1}, "wrong fields.*lr"),
        ({"labels": None}, "wrong fields.*TypeError"),
    ],
)
def test_a_damaged_cell_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=f"(?s){words}"):
        StudyCell.from_json(cell("resnet", 0.9).to_json() | change, source="cells/x.json")


def test_the_papers_curves_give_the_papers_table() -> None:
    """Table III of the paper: test accuracy, mean over three noises and eleven ratios."""
    for model, mean in (("resnet", 86.25), ("drsn-cs", 88.55), ("drsn-cw", 89.57)):
        curves = [published(noise, model) for noise in ("gaussian", "laplacian", "pink")]
        values = [value for curve in curves if curve is not None for value in curve]
        assert len(values) == 3 * len(SNRS_DB)
        assert 100 * np.mean(values) == pytest.approx(mean, abs=0.11)
        assert all(curve is not None and list(curve) == sorted(curve) for curve in curves)
    assert published("gaussian", "convnet") is None
    assert published("babble", "resnet") is None
