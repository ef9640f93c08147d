"""What a study says: every figure over seeds and folds, and each network's difference to the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drsn_edge.errors import InputError
from drsn_edge.parity.paired import Difference, Spread, paired_difference, spread
from drsn_edge.parity.study_cell import CellScore, StudyCell

REFERENCE = "resnet"
FIGURES = ("balanced_accuracy", "macro_f1", "calibration_error", "calibration_error_scaled")


@dataclass(frozen=True)
class ModelFigures:
    """One network under one condition: its figures by name, and its balanced accuracy less that of the reference."""

    figures: Mapping[str, Spread]
    difference: Difference | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: figure.to_json() for name, figure in self.figures.items()} | {
            "difference": None if self.difference is None else self.difference.to_json()
        }


@dataclass(frozen=True)
class StudyCondition:
    """All networks under one condition.

    Attributes:
        noise: What they were trained on, and are tested on.
        snr_db: None for clean test windows.
        windows: Independent test windows, of all folds together.
        draws: Noise draws of all of them, for one seed.
        models: By name, in the order of the study.
    """

    noise: str
    snr_db: float | None
    windows: int
    draws: int
    models: Mapping[str, ModelFigures]

    @property
    def name(self) -> str:
        """In words: `clean`, or `-4 dB`."""
        return "clean" if self.snr_db is None else f"{self.snr_db:g} dB"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "noise": self.noise,
            "snr_db": self.snr_db,
            "windows": self.windows,
            "draws": self.draws,
            "models": {model: figures.to_json() for model, figures in self.models.items()},
        }


@dataclass(frozen=True)
class StudyConfusion:
    """Decisions of one network under one condition, summed over seeds and folds."""

    model: str
    noise: str
    snr_db: float | None
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "model": self.model,
            "noise": self.noise,
            "snr_db": self.snr_db,
            "labels": list(self.labels),
            "counts": [list(row) for row in self.counts],
        }


@dataclass(frozen=True)
class StudySummary:
    """The figures of a study.

    Attributes:
        reference: The network that differences are to.
        parameters: Of each network.
        temperatures: Fitted, by noise and network, over seeds and folds.
        conditions: Per noise clean first, then every ratio upwards.
        confusion: At the ratios that were asked for.
    """

    reference: str
    parameters: Mapping[str, int]
    temperatures: Mapping[str, Mapping[str, Spread]]
    conditions: tuple[StudyCondition, ...]
    confusion: tuple[StudyConfusion, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; shares, not per cent."""
        return {
            "reference": self.reference,
            "parameters": dict(self.parameters),
            "temperature": {
                noise: {model: value.to_json() for model, value in by_model.items()}
                for noise, by_model in self.temperatures.items()
            },
            "conditions": [condition.to_json() for condition in self.conditions],
            "confusion": [matrix.to_json() for matrix in self.confusion],
        }


def summarise(cells: Sequence[StudyCell], *, models: Sequence[str], confusion: Sequence[float | None]) -> StudySummary:
    """Figures over all cells.

    Args:
        cells: Finished ones; the grid need not be complete, differences are over the pairs that are there.
        models: Order of the networks; those without a cell are left out.
        confusion: Ratios whose decisions are shown class by class, None for clean.

    Raises:
        InputError: No cells, or two cells that are the same.
    """
    if not cells:
        raise InputError("there is nothing to summarise", got="0 finished cells", expected="at least one")
    keys = [(cell.model, cell.noise, cell.fold, cell.seed) for cell in cells]
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError("a cell is there twice", got=twice, expected="every cell once")
    present = [model for model in models if any(cell.model == model for cell in cells)]
    reference = REFERENCE if REFERENCE in present else present[0]
    noises = list(dict.fromkeys(cell.noise for cell in cells))
    conditions = [
        _condition([cell for cell in cells if cell.noise == noise], noise, snr, present, reference)
        for noise in noises
        for snr in _ratios([cell for cell in cells if cell.noise == noise])
    ]
    wanted = [condition for condition in conditions if condition.snr_db in confusion]
    return StudySummary(
        reference=reference,
        parameters={model: next(cell.parameters for cell in cells if cell.model == model) for model in present},
        temperatures={
            noise: {
                model: spread(runs)
                for model in present
                if (runs := {(c.fold, c.seed): c.temperature for c in cells if (c.noise, c.model) == (noise, model)})
            }
            for noise in noises
        },
        conditions=tuple(conditions),
        confusion=tuple(
            _confusion([c for c in cells if c.noise == condition.noise and c.model == model], condition.snr_db)
            for condition in wanted
            for model in condition.models
        ),
    )


def _ratios(cells: Sequence[StudyCell]) -> list[float | None]:
    found = {score.snr_db for cell in cells for score in cell.scores}
    return [*([None] if None in found else []), *sorted(snr for snr in found if snr is not None)]


def _at(cell: StudyCell, snr: float | None) -> CellScore:
    return next(score for score in cell.scores if score.snr_db == snr)


def _condition(
    cells: Sequence[StudyCell], noise: str, snr: float | None, models: Sequence[str], reference: str
) -> StudyCondition:
    runs = {
        model: {
            name: {(c.fold, c.seed): float(getattr(_at(c, snr), name)) for c in cells if c.model == model}
            for name in FIGURES
        }
        for model in models
    }
    figures = {
        model: ModelFigures(
            {name: spread(values) for name, values in by_name.items()},
            None if model == reference else paired_difference(by_name[FIGURES[0]], runs[reference][FIGURES[0]]),
        )
        for model, by_name in runs.items()
        if by_name[FIGURES[0]]
    }
    tested = {cell.fold: _at(cell, snr) for cell in cells}
    return StudyCondition(
        noise,
        snr,
        sum(score.windows for score in tested.values()),
        sum(score.draws for score in tested.values()),
        figures,
    )


def _confusion(cells: Sequence[StudyCell], snr: float | None) -> StudyConfusion:
    """Folds may have other classes: counts are put together by name."""
    labels = tuple(dict.fromkeys(label for cell in cells for label in cell.labels))
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for cell in cells:
        place = np.array([labels.index(label) for label in cell.labels])
        counts[np.ix_(place, place)] += np.asarray(_at(cell, snr).confusion, dtype=np.int64)
    return StudyConfusion(cells[0].model, cells[0].noise, snr, labels, tuple(tuple(row) for row in counts.tolist()))
