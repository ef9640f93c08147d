from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drsn_edge.errors import MissingDependency
from drsn_edge.parity.study_cell import CellScore, StudyCell
from drsn_edge.parity.study_summary import summarise
from drsn_edge.report.study_page import StudyPage, render, write_study_page

MODELS = ("convnet", "resnet", "drsn-cw")
NASTY = "<b>ball & 'inner'</b>"


def study(*, seeds: int = 3, folds: int = 1, noises: tuple[str, ...] = ("gaussian", "pink")) -> list[StudyCell]:
    rng = np.random.default_rng(0)
    cells = []
    for noise, model, fold, seed in (
        (n, m, f, s) for n in noises for m in MODELS for f in range(folds) for s in range(seeds)
    ):
        scores = []
        for snr in (None, -6.0, 0.0, 6.0):
            accuracy = 0.9 + 0.01 * (snr or 8) + 0.02 * MODELS.index(model) + float(rng.normal(0, 0.004))
            scores.append(
                CellScore(
                    snr_db=snr, windows=30, draws=300, balanced_accuracy=accuracy, macro_f1=accuracy,
                    calibration_error=0.08, calibration_error_scaled=0.03, confusion=((13, 2), (1, 14)),
                )
            )  # fmt: skip
        cells.append(
            StudyCell(
                model=model, noise=noise, fold=fold, seed=seed, parameters=8416, epochs=5, best_epoch=4,
                temperature=1.4, train_seconds=1.0, score_seconds=1.0, windows={"train": 9}, labels=("healthy", NASTY),
                scores=tuple(scores),
            )
        )  # fmt: skip
    return cells


def page(cells: list[StudyCell] | None = None, **changes: Any) -> StudyPage:
    summary = summarise(cells or study(), models=MODELS, confusion=(None, -6.0))
    options: dict[str, Any] = {
        "title": f"Study of {NASTY}", "summary": summary, "configuration": {"epochs": 5, "seeds": [0, 1, 2]},
        "protocol": "time", "preset": "paper", "headline_snr_db": -6.0, "notes": ("Noted.",),
    }  # fmt: skip
    return StudyPage(**(options | changes))


@pytest.fixture(scope="module")
def source() -> str:
    return render(page())


def test_the_answer_comes_first(source: str) -> None:
    top = source[source.index("<body>") : source.index("<svg")]
    assert 'class="verdict"' in top
    assert re.search(
        r"gaussian, −6 dB:</strong> against resnet, convnet −[\d.]+ points \(.*drsn-cw \+[\d.]+ points", top
    )
    assert "n = 3" in top
    assert "pink, −6 dB" in top
    assert "Noted." in top


def test_nothing_is_loaded_from_anywhere(source: str) -> None:
    assert "://" not in source
    assert "@import" not in source
    assert not re.search(r"<(script|link|img|iframe)\b", source)
    assert all(target.startswith("#") for target in re.findall(r'(?:href|src)="([^"]*)"', source))
    identifiers = re.findall(r'\bid="([^"]+)"', source)
    assert len(identifiers) == len(set(identifiers))


def test_every_figure_is_drawn_and_described(source: str) -> None:
    figures = re.findall(r"<svg.*?</svg>", source, flags=re.DOTALL)
    assert len(figures) == 2 * 2 + 2
    for drawn in figures:
        assert re.search(r'aria-label="[^"]{20,}"', drawn)
        assert drawn.count("<path") > 15
        assert "clean" in drawn
    accuracy = figures[0]
    assert "resnet, the paper&#x27;s rig" in accuracy or "resnet, the paper's rig" in accuracy
    assert "convnet, the paper" not in accuracy
    assert "stroke-dasharray" in accuracy


def test_figures_are_in_the_tables_too(source: str) -> None:
    for caption in ("Balanced accuracy, gaussian noise", "Points above resnet, pink noise", "Macro F1, gaussian noise"):
        assert f"<caption><span>{caption}</span></caption>" in source
    assert "of each fold" not in source
    assert "<caption>drsn-cw, gaussian, −6 dB</caption>" in source
    assert "<caption>drsn-cw, clean (trained on pink)</caption>" in source
    assert "not corrected for their number" in source
    assert "off to about ±0.3 points" in source


def test_what_comes_from_outside_is_escaped(source: str) -> None:
    assert NASTY not in source
    assert "&lt;b&gt;ball &amp;" in source


def test_the_papers_curves_stand_beside_the_papers_networks_only() -> None:
    assert "the paper" not in render(page(preset="edge")).split("<svg", 1)[1]


def test_folds_are_shown_one_by_one() -> None:
    drawn = render(page(study(seeds=2, folds=3, noises=("gaussian",)), protocol="load"))
    assert "<caption><span>Balanced accuracy of each fold, gaussian noise</span></caption>" in drawn
    assert "drsn-cw, fold 2" in drawn
    assert "One load tests, another validates" in drawn


def test_one_training_has_no_interval_and_one_network_no_difference() -> None:
    single = render(page(study(seeds=1, noises=("gaussian",))))
    assert "n = 1, no interval" in single
    alone = render(page([cell for cell in study() if cell.model == "drsn-cw"]))
    assert "Points above" not in alone
    assert 'class="verdict"' not in alone


def test_equal_studies_give_equal_bytes(tmp_path: Path, source: str) -> None:
    write_study_page(tmp_path / "study.html", page())
    assert (tmp_path / "study.html").read_text() == source


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependency, match=r"(?s)matplotlib.*drsn-edge\[report\]"):
        render(page())
