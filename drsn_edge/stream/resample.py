"""Another sample rate, with an anti-alias filter: polyphase windowed sinc, whole signals or piece by piece."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import InputError

_LOBES = 32  # of the sinc on either side: a transition band of a few per cent of the lower rate
_BETA = 8.0  # Kaiser window: 80 dB
_LARGEST = 4096  # numerator and denominator: beyond it the filter bank would not fit a small device


class Resampler:
    """From one rate to another, linear phase; sample 0 stays sample 0.

    Args:
        channels: Of the signal.
        rate: Of what comes in.
        wanted: Of what goes out.

    Raises:
        InputError: Rates whose ratio is no fraction of small numbers.
    """

    def __init__(self, channels: int, rate: float, wanted: float) -> None:
        ratio = Fraction(wanted / rate).limit_denominator(_LARGEST)
        if abs(float(ratio) * rate / wanted - 1) > 1e-9 or max(ratio.numerator, ratio.denominator) > _LARGEST:
            raise InputError(
                "the sample rate cannot be made the contract's", got=f"{rate:g} Hz",
                expected=f"a rate whose ratio to {wanted:g} Hz is a fraction of numbers up to {_LARGEST}",
            )  # fmt: skip
        self._up, self._down = ratio.numerator, ratio.denominator
        self.ratio = self._up / self._down  # samples out for a sample in
        # Cut-off at the lower of both Nyquist rates, in cycles per sample of the input.
        cutoff = min(1.0, self._up / self._down)
        self._half = int(np.ceil(_LOBES / cutoff))
        offsets = np.arange(-self._half + 1, self._half + 1)
        phases = np.arange(self._up)[:, None] / self._up
        t = phases - offsets[None, :]
        taper = np.i0(_BETA * np.sqrt(np.clip(1 - (t / self._half) ** 2, 0, None))) / np.i0(_BETA)
        taps = cutoff * np.sinc(cutoff * t) * taper
        self._taps = (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32)
        self._channels = channels
        self.reset()

    def reset(self) -> None:
        """Begin again, as after a gap."""
        self._held = np.zeros((self._channels, self._half - 1), np.float32)
        self._begin = -(self._half - 1)  # number of the first input sample that is held
        self._made = 0  # output samples so far

    def feed(self, samples: NDArray[np.float32], *, last: bool = False) -> NDArray[np.float32]:
        """What can be said of the output so far; with `last` all of it, zeros beyond the end."""
        held = np.concatenate([self._held, samples], axis=1)
        total = self._begin + held.shape[1]  # input samples in all
        if last:
            held = np.concatenate([held, np.zeros((self._channels, self._half), np.float32)], axis=1)
        known = total if last else total - self._half  # outputs lie strictly before this input sample
        stop = max(self._made, -(-known * self._up // self._down))
        numbers = np.arange(self._made, stop) * self._down
        centre, phase = numbers // self._up, numbers % self._up
        out = np.empty((self._channels, len(numbers)), np.float32)
        if not len(numbers):
            self._held = held
            return out
        views = np.lib.stride_tricks.sliding_window_view(held, 2 * self._half, axis=1)
        for begin in range(0, len(numbers), 4096):  # pieces: the gathered windows are large
            part = slice(begin, begin + 4096)
            rows = centre[part] - (self._half - 1) - self._begin
            out[:, part] = np.einsum("cnt,nt->cn", views[:, rows], self._taps[phase[part]])
        self._made = stop
        keep = max(0, stop * self._down // self._up - (self._half - 1) - self._begin)
        self._held = held[:, keep:].copy()
        self._begin += keep
        return out


def resample(samples: NDArray[np.float32], rate: float, wanted: float) -> NDArray[np.float32]:
    """A whole signal `[channels, n]`."""
    return Resampler(samples.shape[0], rate, wanted).feed(samples, last=True)
