"""Decisions and confidences of a network, clean and over a sweep of noise, the same draws for every network."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from drsn_edge.errors import InputError, UsageError
from drsn_edge.model.network import Network
from drsn_edge.parity.calibration_error import CalibrationTally
from drsn_edge.parity.metrics import macro_f1
from drsn_edge.progress import SILENT, Progress
from drsn_edge.runtime.runner import Runner
from drsn_edge.signals.noise import Noise, add_noise, noise_rng
from drsn_edge.signals.windows import Windows
from drsn_edge.training.metrics import balanced_accuracy, confusion

SNRS_DB = tuple(float(snr) for snr in range(-10, 11, 2))


@dataclass(frozen=True)
class Score:
    """Decisions under one condition.

    Attributes:
        noise: Kind of noise; `none` for the windows as they are.
        snr_db: Its ratio; None without noise.
        windows: Independent windows; `draws` counts every noise draw of every window.
        balanced_accuracy: Mean over classes of the share decided rightly, 0 to 1.
        macro_f1: Mean F1 over the classes, 0 to 1.
        calibration_error: Expected calibration error of the confidences as they are (temperature 1), 0 to 1.
        calibration_error_scaled: The same with logits divided by the temperature that `evaluate` was given.
        confusion: `[classes][classes]` draws: true class by row, decision by column.
    """

    noise: str
    snr_db: float | None
    windows: int
    draws: int
    balanced_accuracy: float
    macro_f1: float
    calibration_error: float
    calibration_error_scaled: float
    confusion: tuple[tuple[int, ...], ...]

    @property
    def condition(self) -> str:
        """In words: `clean`, or `gaussian -4 dB`."""
        return "clean" if self.snr_db is None else f"{self.noise} {self.snr_db:g} dB"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "noise": self.noise,
            "snr_db": self.snr_db,
            "windows": self.windows,
            "draws": self.draws,
            "balanced_accuracy": self.balanced_accuracy,
            "macro_f1": self.macro_f1,
            "calibration_error": self.calibration_error,
            "calibration_error_scaled": self.calibration_error_scaled,
            "confusion": [list(row) for row in self.confusion],
        }


def evaluate(
    model: Network | Runner,
    windows: Windows,
    *,
    noise: Sequence[Noise] = ("gaussian",),
    snrs: Sequence[float] = SNRS_DB,
    draws: int = 10,
    seed: int = 0,
    batch: int = 256,
    temperature: float = 1.0,
    progress: Progress = SILENT,
) -> tuple[Score, ...]:
    """Score a network, or whatever runs one.

    A draw is a function of seed, kind, ratio and window alone: two models see the same noise, and a shorter sweep
    gives the same figures. None of it is drawn in training.

    Args:
        model: A network, or an active runner with the input `window` and the output `logits`.
        windows: Those of the test part, best without overlap.
        noise: Kinds; each is swept.
        snrs: Ratios in dB.
        draws: Noise draws per window.
        seed: Of the noise.
        batch: Windows at once; it does not change the noise.
        temperature: Of the network; it changes no decision.
        progress: Told of every batch.

    Returns:
        Clean first, then every kind over every ratio.

    Raises:
        InputError: No windows, or a temperature that is not a positive number.
        UsageError: No draws, an empty batch, or noise that the windows cannot have.
    """
    windows.source.check(noise)
    if len(windows) == 0:
        raise InputError("there is nothing to score", got="0 windows", expected="at least one")
    for name, value in (("draws", draws), ("batch", batch)):
        if value < 1:
            raise UsageError(f"{name} cannot be used", got=value, expected="at least 1")
    levels: list[tuple[Noise | None, float]] = [(None, 0.0), *((kind, float(snr)) for kind in noise for snr in snrs)]
    scores: list[Score] = []
    with _scorer(model) as logits_of, progress.step("scoring", total=len(levels)) as step:
        for kind, snr in levels:
            tallies = CalibrationTally(), CalibrationTally(temperature=temperature)
            counts = _level(
                logits_of, windows, kind, snr, draws=draws if kind else 1, seed=seed, batch=batch, tallies=tallies
            )
            scores.append(
                Score(
                    noise=kind or "none",
                    snr_db=snr if kind else None,
                    windows=windows.independent,
                    draws=int(counts.sum()),
                    balanced_accuracy=balanced_accuracy(counts),
                    macro_f1=macro_f1(counts),
                    calibration_error=tallies[0].error,
                    calibration_error_scaled=tallies[1].error,
                    confusion=tuple(tuple(row) for row in counts.tolist()),
                )
            )
            step.advance(1, note=f"{scores[-1].condition}: {scores[-1].balanced_accuracy:.1%}")
    return tuple(scores)


LogitsOf = Callable[[NDArray[np.float32]], NDArray[Any]]

# Noise is drawn in pieces of this many windows, whatever the batch, so that the batch does not change it.
_PIECE = 64


def _level(
    logits_of: LogitsOf,
    windows: Windows,
    kind: Noise | None,
    snr: float,
    *,
    draws: int,
    seed: int,
    batch: int,
    tallies: Sequence[CalibrationTally],
) -> NDArray[np.int64]:
    """Confusion over all draws of one condition; the tallies collect the confidences."""
    classes = len(windows.labels)
    counts = np.zeros((classes, classes), dtype=np.int64)
    for draw in range(draws):
        x = windows.x
        if kind is not None:
            pieces = []
            for start in range(0, len(x), _PIECE):
                rows, rng = slice(start, start + _PIECE), noise_rng(seed, "score", kind, snr, draw, start)
                pieces.append(add_noise(x[rows], snr, kind, rng, source=windows.source.select(rows)))
            x = np.concatenate(pieces)
        for start in range(0, len(x), batch):
            y, logits = windows.y[start : start + batch], logits_of(x[start : start + batch])
            counts += confusion(y, logits.argmax(axis=1), classes)
            for tally in tallies:
                tally.add(logits, y)
    return counts


@contextlib.contextmanager
def _scorer(model: Network | Runner) -> Iterator[LogitsOf]:
    """Windows to logits; a network is in evaluation mode for as long."""
    if isinstance(model, Runner):
        yield lambda x: model.run({"window": x})["logits"]
        return
    device = next(model.parameters()).device
    training = model.training

    def logits_of(x: NDArray[np.float32]) -> NDArray[Any]:
        with torch.inference_mode():
            result: NDArray[Any] = model(torch.from_numpy(x).to(device)).cpu().numpy()
        return result

    model.eval()
    try:
        yield logits_of
    finally:
        model.train(training)
