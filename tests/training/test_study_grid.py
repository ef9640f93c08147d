from __future__ import annotations

from typing import Any

import pytest

from drsn_edge.errors import UsageError
from drsn_edge.training.study import Cell, StudyOptions, check_same, options_json


def test_the_grid_goes_seed_by_seed() -> None:
    options = StudyOptions(noises=("gaussian", "pink"), seeds=(0, 1))
    cells = options.cells((0, 2))
    assert len(cells) == len(set(cells)) == 2 * 2 * 2 * 2
    assert cells[0] == Cell("resnet", "gaussian", 0, 0)
    assert [cell.seed for cell in cells] == [0] * 8 + [1] * 8
    assert cells[1].key == "drsn-cw.gaussian.fold0.seed0"
    assert len({cell.key for cell in cells}) == len(cells)


def test_what_was_left_open_is_written_down() -> None:
    value = options_json(StudyOptions(folds=None), (0, 1), 30)
    assert (value["folds"], value["epochs"], value["train_snr_db"]) == ([0, 1], 30, [-6.0, 10.0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"noise_once": True, "train_snr_db": None}, "drawn once.*--train-snr none"),
        ({"models": ("resnet", "vgg")}, "unknown models.*vgg.*drsn-cw"),
        ({"models": ()}, "models.*none.*at least one"),
        ({"noises": ("brown",)}, "unknown noises.*brown.*pink"),
        ({"seeds": (1, 1)}, "seeds.*1, 1.*each once"),
        ({"folds": (0, 0)}, "folds.*0, 0.*each once"),
        ({"snrs_db": ()}, "snrs_db.*none.*at least one"),
        ({"seeds": (-1,)}, "seed.*-1.*at least 0"),
        ({"preset": "huge"}, "preset.*huge.*paper, edge"),
        ({"draws": 9}, "draws.*9.*at least 10"),
    ],
)
def test_options_that_cannot_be(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){words}"):
        StudyOptions(**changes)


def test_what_differs_is_named() -> None:
    before = {"lr": 0.1, "epochs": 20, "snrs_db": [-6.0, 0.0], "old": 1}
    check_same("here", before, dict(before))
    with pytest.raises(UsageError) as caught:
        check_same("here", before, {"lr": 0.1, "epochs": 30, "snrs_db": [-6.0], "old": 1})
    assert caught.value.got == "epochs = 30; snrs_db = [-6]"
    assert caught.value.expected == "epochs = 20; snrs_db = [-6, 0]"
    with pytest.raises(UsageError, match=r"(?s)old = None.*old = 1"):
        check_same("here", before, {key: value for key, value in before.items() if key != "old"})
