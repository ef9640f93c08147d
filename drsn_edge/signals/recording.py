"""One recording: what a sensor measured, and what is known about it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import InputError


@dataclass(frozen=True, eq=False)
class Recording:
    """A labelled multi-channel signal.

    Attributes:
        signal: `[channels, samples]`, float32, in the units of the sensor.
        sample_rate_hz: Samples per second of every channel.
        label: Class name; empty for an unlabelled recording.
        groups: Whatever must not straddle a split: bearing, load, rig, speaker.
        source: Where it came from, for messages: a path, or a description.

    Raises:
        InputError: Empty or not two-dimensional, NaN or infinite samples, a sample rate that is not positive.
    """

    signal: NDArray[np.float32]
    sample_rate_hz: float
    label: str
    groups: Mapping[str, str] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        signal: NDArray[Any] = np.asarray(self.signal)
        if signal.ndim != 2 or signal.size == 0:
            raise InputError(
                f"{self.source or 'the recording'} has the wrong shape",
                got=f"array of shape {signal.shape}",
                expected="[channels, samples], at least one of each",
            )
        if signal.dtype != np.float32:
            raise InputError(
                f"{self.source or 'the recording'} has the wrong type", got=signal.dtype, expected="float32"
            )
        finite = np.isfinite(signal)
        if not finite.all():
            channel, sample = np.argwhere(~finite)[0]
            raise InputError(
                f"{self.source or 'the recording'} has samples that are not numbers",
                got=f"{signal[channel, sample]} at channel {channel}, sample {sample} "
                f"({int(np.size(finite) - np.count_nonzero(finite))} in all)",
                expected="finite samples",
                hint="cut the damaged stretch out, or leave the recording out",
            )
        if not (np.isfinite(self.sample_rate_hz) and self.sample_rate_hz > 0):
            raise InputError(
                f"{self.source or 'the recording'} has no usable sample rate",
                got=self.sample_rate_hz,
                expected="a positive number of hertz",
            )
        # A frozen dataclass may still share a writable array; windows are views into it.
        signal = signal.view()
        signal.flags.writeable = False
        object.__setattr__(self, "signal", signal)
        object.__setattr__(self, "groups", MappingProxyType(dict(self.groups)))

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.signal.shape[0])

    @property
    def samples(self) -> int:
        """Samples per channel."""
        return int(self.signal.shape[1])

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.samples / self.sample_rate_hz

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over sample rate, shape and samples: the same measurement under any name or label."""
        digest = hashlib.sha256(f"{float(self.sample_rate_hz)!r} {self.signal.shape}".encode())
        digest.update(np.ascontiguousarray(self.signal).tobytes())
        return digest.hexdigest()
