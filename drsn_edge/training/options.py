"""What a training run depends on, beside the network and the windows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import UsageError
from drsn_edge.signals.noise import NO_SOURCE, NOISES, Noise, NoiseSource, add_noise
from drsn_edge.training.schedule import learning_rates


@dataclass(frozen=True)
class NoiseRange:
    """The noise that a network is trained on.

    Attributes:
        kinds: One of them is drawn for every window; empty for none.
        snr_db: Lowest and highest signal-to-noise ratio in dB, drawn uniformly for every window; None for no noise.
        once: Every training window keeps the noise of one draw through all epochs, as in the paper (section IV); by
            default each epoch has noise of its own.

    Raises:
        UsageError: An unknown kind, a range that runs backwards, one of the two without the other, or no noise at all
            that is drawn once.
    """

    kinds: tuple[Noise, ...] = ()
    snr_db: tuple[float, float] | None = None
    once: bool = False

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in NOISES:
                raise UsageError("there is no noise of this kind", got=kind, expected=", ".join(NOISES))
        if bool(self.kinds) != (self.snr_db is not None):
            raise UsageError(
                "noise needs kinds and a range of ratios, both or neither",
                got=f"kinds {', '.join(self.kinds) or 'none'}, range {self.snr_db}",
                expected="e.g. gaussian and -6 to 10 dB",
            )
        if self.once and not self.kinds:
            raise UsageError(
                "there is no noise that could be drawn once",
                got="noise once, and no noise",
                expected="e.g. gaussian and -6 to 10 dB",
                hint="give --noise and an SNR, or leave --noise-once out",
            )
        if self.snr_db is not None and not self.snr_db[0] <= self.snr_db[1]:
            raise UsageError(
                "the range of signal-to-noise ratios runs backwards",
                got=f"{self.snr_db[0]:g}:{self.snr_db[1]:g}",
                expected="LOW:HIGH in dB",
            )

    def draw(
        self, x: NDArray[np.float32], rng: np.random.Generator, source: NoiseSource = NO_SOURCE
    ) -> NDArray[np.float32]:
        """Windows `[N, C, ...]` with noise on them, kind and ratio drawn for each; the array itself without noise.

        `source` is that of these windows, for kinds that are made of recordings.
        """
        if self.snr_db is None:
            return x
        snr = rng.uniform(*self.snr_db, size=len(x))
        kind = rng.integers(len(self.kinds), size=len(x))
        noisy = np.empty_like(x)
        for index, name in enumerate(self.kinds):
            rows = np.flatnonzero(kind == index)
            noisy[rows] = add_noise(x[rows], snr[rows], name, rng, source=source.select(rows))
        return noisy

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        value = {"kinds": list(self.kinds), "snr_db": None if self.snr_db is None else list(self.snr_db)}
        # Not where it is the default: runs that were begun before it could be said are the same runs.
        return value | {"once": True} if self.once else value


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Everything that the weights depend on, beside network and windows.

    Attributes:
        epochs: Passes over the training windows.
        batch: Windows per step.
        lr: Learning rate of the first stage.
        momentum: Of the gradient descent.
        decay: L2 on the weights of convolutions and fully connected layers; not on biases, not on BatchNorm.
        noise: Of the training windows, and its range that of the validation windows.
        validation_draws: Noise draws per validation window, beside the window as it is; the same in every epoch.
        seed: Of order and noise.

    Raises:
        UsageError: A value out of bounds.
    """

    epochs: int = 100
    batch: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    decay: float = 1e-4
    noise: NoiseRange = field(default_factory=NoiseRange)
    validation_draws: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        learning_rates(self.epochs, self.lr)
        checks: list[tuple[str, object, bool, str]] = [
            ("batch", self.batch, self.batch >= 2, "at least 2 windows: one window has no batch statistics"),
            ("momentum", self.momentum, 0 <= self.momentum < 1, "at least 0 and below 1"),
            ("decay", self.decay, 0 <= self.decay < float("inf"), "at least 0"),
            ("validation_draws", self.validation_draws, self.validation_draws >= 1, "at least 1"),
            ("seed", self.seed, self.seed >= 0, "at least 0"),
        ]
        for name, value, good, expected in checks:
            if not good:
                raise UsageError(f"the training option {name} cannot be used", got=value, expected=expected)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self) | {"noise": self.noise.to_json()}
