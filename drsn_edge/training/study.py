"""A study as a grid: one cell is a network, a noise, a fold and a seed. No torch: grids are planned without it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drsn_edge.errors import UsageError
from drsn_edge.model.config import MODELS, PRESETS
from drsn_edge.signals.noise import NOISES, Noise

LEAST_DRAWS = 10


@dataclass(frozen=True, order=True)
class Cell:
    """One training and its scores."""

    model: str
    noise: Noise
    fold: int
    seed: int

    @property
    def key(self) -> str:
        """Name of its file."""
        return f"{self.model}.{self.noise}.fold{self.fold}.seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What is compared with what, and how each network is trained and scored.

    Attributes:
        models: Networks; differences are to `resnet`, or to the first where it is not among them.
        preset: `paper` or `edge`.
        protocol: How recordings are split.
        folds: Which groups test in turn; None takes all of them.
        noises: Each is trained on and tested on by itself.
        snrs_db: Ratios that the test part is scored at, beside clean windows.
        train_snr_db: Range that training draws from; None trains on the windows as they are.
        noise_once: Every training window keeps the noise of one draw, as in the paper.
        seeds: Of weights, order and training noise.
        epochs: None takes those that suit the first fold, the same for every cell.
        batch: Windows per step.
        lr: Learning rate of the first stage.
        draws: Noise draws per test window, the same for every network.
        window: Samples per window, instead of the data set's own.
        hop: Samples from window to window in training, instead of the data set's own.

    Raises:
        UsageError: An unknown name, a name twice, nothing to compare, or fewer than ten draws.
    """

    models: tuple[str, ...] = ("resnet", "drsn-cw")
    preset: str = "paper"
    protocol: str = "time"
    folds: tuple[int, ...] | None = (0,)
    noises: tuple[Noise, ...] = ("gaussian",)
    snrs_db: tuple[float, ...] = tuple(float(snr) for snr in range(-10, 11, 2))
    train_snr_db: tuple[float, float] | None = (-6.0, 10.0)
    noise_once: bool = False
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    epochs: int | None = None
    batch: int = 128
    lr: float = 0.1
    draws: int = LEAST_DRAWS
    window: int | None = None
    hop: int | None = None

    def __post_init__(self) -> None:
        axes: list[tuple[str, tuple[Any, ...] | None, tuple[str, ...] | None]] = [
            ("models", self.models, MODELS),
            ("noises", self.noises, NOISES),
            ("folds", self.folds, None),
            ("seeds", self.seeds, None),
            ("snrs_db", self.snrs_db, None),
        ]
        for name, values, known in axes:
            if values is None:
                continue
            wrong = [value for value in values if known is not None and value not in known]
            if wrong:
                raise UsageError(f"the study has unknown {name}", got=wrong[0], expected=", ".join(known or ()))
            if not values or len(set(values)) != len(values):
                raise UsageError(
                    f"the study cannot have these {name}",
                    got=", ".join(map(str, values)) or "none",
                    expected="at least one, each once",
                )
        if self.preset not in PRESETS:
            raise UsageError("unknown preset", got=self.preset, expected="one of " + ", ".join(PRESETS))
        if min(self.seeds) < 0:
            raise UsageError("the seed cannot be used", got=min(self.seeds), expected="a whole number of at least 0")
        if self.noise_once and self.train_snr_db is None:
            raise UsageError(
                "there is no noise that could be drawn once", got="--noise-once, --train-snr none", expected="a range"
            )
        if self.draws < LEAST_DRAWS:
            raise UsageError(
                "there are too few noise draws per test window", got=self.draws, expected=f"at least {LEAST_DRAWS}"
            )

    def cells(self, folds: tuple[int, ...]) -> tuple[Cell, ...]:
        """The grid, seed by seed: a study that is stopped early can be compared nonetheless."""
        axes = itertools.product(self.seeds, folds, self.noises, self.models)
        return tuple(Cell(model, noise, fold, seed) for seed, fold, noise, model in axes)


def check_same(folder: object, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to put cells of two studies into one folder.

    Models, noises, folds and seeds are no part of what is compared: with more of them the grid grows.

    Raises:
        UsageError: Everything that differs, by name.
    """
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if names:
        raise UsageError(
            f"{folder} holds a study with another configuration",
            got="; ".join(f"{name} = {_words(now.get(name))}" for name in names),
            expected="; ".join(f"{name} = {_words(before.get(name))}" for name in names),
            hint="repeat the configuration to go on with it, or give another --out; models, noises, folds and seeds "
            "may be added",
        )


def _words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_words, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def options_json(options: StudyOptions, folds: tuple[int, ...], epochs: int) -> dict[str, Any]:
    """The options with what was left open, as plain JSON values."""
    value = dataclasses.asdict(dataclasses.replace(options, folds=folds, epochs=epochs))
    return {name: list(item) if isinstance(item, tuple) else item for name, item in value.items()}
