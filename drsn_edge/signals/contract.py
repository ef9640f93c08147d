"""The signal contract: what a window is, from the sensor to the first convolution."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from drsn_edge.errors import ContractError, InputError
from drsn_edge.signals.recording import Recording

Detrend = Literal["none", "mean"]
Standardise = Literal["none", "window"]
_OPTIONAL = frozenset({"units", "epsilon", "image"})


@dataclass(frozen=True)
class SignalContract:
    """Everything that must be the same in training and on the device.

    `detrend` and `standardise` are executed inside the network and its graphs, in FP32: an engine takes raw windows, so
    there is no second implementation that could differ. The rest is checked on every recording by `check`.

    Attributes:
        sample_rate_hz: Samples per second.
        channels: Channel names, in the order of the window's first axis.
        units: Of the samples, for people; no arithmetic depends on it.
        window: Samples per window and channel.
        hop: Samples between the starts of consecutive windows, in training and when streaming.
        detrend: `mean` takes each channel's mean off each window.
        standardise: `window` divides each channel of each window by its standard deviation (amplitude differs between
            mountings and machines, and would otherwise give classes away).
        epsilon: Added to the variance, in units squared: a flat window becomes zeros, not NaN.
        image: `(height, width)` when the window is a picture, with `window == height * width`; None for signals.
    """

    sample_rate_hz: float
    channels: tuple[str, ...] = ("signal",)
    units: str = "unknown"
    window: int = 2048
    hop: int = 512
    detrend: Detrend = "mean"
    standardise: Standardise = "window"
    epsilon: float = 1e-12
    image: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        checks: list[tuple[str, object, bool, str]] = [
            (
                "sample_rate_hz",
                self.sample_rate_hz,
                math.isfinite(self.sample_rate_hz) and self.sample_rate_hz > 0,
                "a positive number of hertz",
            ),
            (
                "channels",
                self.channels,
                bool(self.channels) and len(set(self.channels)) == len(self.channels),
                "at least one channel name, none twice",
            ),
            ("window", self.window, self.window >= 2, "at least 2 samples"),
            ("hop", self.hop, self.hop >= 1, "at least 1 sample"),
            ("detrend", self.detrend, self.detrend in get_args(Detrend), " or ".join(get_args(Detrend))),
            (
                "standardise",
                self.standardise,
                self.standardise in get_args(Standardise),
                " or ".join(get_args(Standardise)),
            ),
            ("epsilon", self.epsilon, 0 < self.epsilon < math.inf, "a positive number"),
            (
                "image",
                self.image,
                self.image is None or self.image[0] * self.image[1] == self.window,
                f"(height, width) with height * width = window = {self.window}",
            ),
        ]
        for name, value, good, expected in checks:
            if not good:
                raise InputError(f"the signal contract has a bad {name}", got=value, expected=expected)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one window as the network takes it: `[channels, samples]`, or `[channels, height, width]`."""
        return (len(self.channels), *(self.image or (self.window,)))

    def check(self, recording: Recording) -> None:
        """Refuse a recording that the network was not made for.

        Raises:
            ContractError: Another sample rate or channel count, or shorter than one window.
        """
        if not math.isclose(recording.sample_rate_hz, self.sample_rate_hz, rel_tol=1e-6):
            raise ContractError(
                f"{recording.source} has another sample rate than the contract",
                got=f"{recording.sample_rate_hz:g} Hz",
                expected=f"{self.sample_rate_hz:g} Hz",
                hint="resample the recording, with an anti-alias filter, or give the rate that it really has",
            )
        if recording.channels != len(self.channels):
            raise ContractError(
                f"{recording.source} has another number of channels than the contract",
                got=recording.channels,
                expected=f"{len(self.channels)} ({', '.join(self.channels)})",
                hint="choose the channels in the recordings table",
            )
        if recording.samples < self.window:
            raise ContractError(
                f"{recording.source} is shorter than one window",
                got=f"{recording.samples} samples ({recording.duration_s:.3g} s)",
                expected=f"at least {self.window} samples ({self.window / self.sample_rate_hz:.3g} s)",
                hint="leave the recording out, or train with a shorter --window",
            )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        value = dataclasses.asdict(self)
        value["channels"] = list(self.channels)
        value["image"] = None if self.image is None else list(self.image)
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SignalContract:
        """The contract that `to_json` wrote, or that somebody wrote by hand.

        `units`, `epsilon` and `image` may be absent. What changes the arithmetic of a network may not: a preprocessing
        that nobody chose is the commonest "loss of accuracy".

        Raises:
            InputError: A field is missing, unknown, or of the wrong kind.
        """
        names = {item.name for item in dataclasses.fields(cls)}
        if not names - _OPTIONAL <= set(value) <= names:
            raise InputError(
                "the signal contract has the wrong fields",
                got=sorted(value),
                expected=f"{', '.join(sorted(names - _OPTIONAL))}, and if you like {', '.join(sorted(_OPTIONAL))}",
            )
        value = {**cls(sample_rate_hz=1.0).to_json(), **value}
        try:
            image = value["image"]
            return cls(
                sample_rate_hz=float(value["sample_rate_hz"]),
                channels=tuple(str(name) for name in value["channels"]),
                units=str(value["units"]),
                window=int(value["window"]),
                hop=int(value["hop"]),
                detrend=value["detrend"],
                standardise=value["standardise"],
                epsilon=float(value["epsilon"]),
                image=None if image is None else (int(image[0]), int(image[1])),
            )
        except (TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
            raise InputError(
                "the signal contract has a bad value", got=error, expected="the fields of to_json"
            ) from None

    def differences(self, other: SignalContract) -> list[str]:
        """What differs, in words; empty when equal."""
        return [
            f"{item.name}: {getattr(self, item.name)!r} and {getattr(other, item.name)!r}"
            for item in dataclasses.fields(self)
            if getattr(self, item.name) != getattr(other, item.name)
        ]
