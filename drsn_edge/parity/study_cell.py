"""One cell of a study: a network trained once, and its scores on the test part. Read and written without torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drsn_edge.errors import InputError

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class CellScore:
    """Decisions of one network under one condition; shares and errors are 0 to 1.

    Attributes:
        snr_db: None without noise.
        windows: Independent windows; `draws` counts every noise draw of every window.
        balanced_accuracy, macro_f1: Over the classes.
        calibration_error: Expected calibration error of the confidences as they are.
        calibration_error_scaled: The same at the fitted temperature.
        confusion: `[classes][classes]` draws: true class by row, decision by column.
    """

    snr_db: float | None
    windows: int
    draws: int
    balanced_accuracy: float
    macro_f1: float
    calibration_error: float
    calibration_error_scaled: float
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class StudyCell:
    """A finished cell.

    Attributes:
        model, noise, fold, seed: Which cell it is.
        parameters: Of the network.
        epochs: Epochs run; `best_epoch` is the one that was kept.
        temperature: Fitted on the validation windows.
        train_seconds, score_seconds: Wall time on one core, beside the other workers; of the last run where a cell was
            resumed.
        windows: How many windows each part has.
        labels: Class names, in the order of the confusion.
        scores: Clean first, then every ratio.
    """

    model: str
    noise: str
    fold: int
    seed: int
    parameters: int
    epochs: int
    best_epoch: int
    temperature: float
    train_seconds: float
    score_seconds: float
    windows: Mapping[str, int]
    labels: tuple[str, ...]
    scores: tuple[CellScore, ...]

    def to_json(self, *, confusion: bool = True) -> dict[str, Any]:
        """Plain JSON values; without the confusion matrices if they are not wanted."""
        value = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        scores = [dataclasses.asdict(score) for score in self.scores]
        if not confusion:
            for score in scores:
                del score["confusion"]
        return value | {
            "format_version": _FORMAT,
            "windows": dict(self.windows),
            "labels": list(self.labels),
            "scores": scores,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, source: object) -> StudyCell:
        """The cell that `to_json` wrote, with its confusion matrices.

        Raises:
            InputError: Another format version, or wrong fields; `source` says where.
        """
        if value.get("format_version") != _FORMAT:
            raise InputError(
                f"{source} has another format version", got=repr(value.get("format_version")), expected=_FORMAT
            )
        try:
            scores = tuple(
                CellScore(**{**score, "confusion": tuple(tuple(map(int, row)) for row in score["confusion"])})
                for score in value["scores"]
            )
            plain = {key: item for key, item in value.items() if key != "format_version"}
            return cls(**{**plain, "labels": tuple(map(str, value["labels"])), "scores": scores})
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{source} has the wrong fields",
                got=f"{type(error).__name__}: {error}",
                expected="the fields of a finished cell",
                hint="remove the file: the study will make the cell again",
            ) from None
