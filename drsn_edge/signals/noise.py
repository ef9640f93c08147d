"""Noise of a given signal-to-noise ratio, every draw seeded.

The ratio is the usual one, `SNR = 10 log10(P_signal / P_noise)` in dB (Zhao et al. 2020, section IV), with the power of
each window and channel taken after its mean is removed: a sensor's offset is no signal. `P_noise` is the **expected**
power. A draw is not rescaled to hit the ratio exactly: that would tie its samples together, take away the spread that
a detector meets in the field, and make Laplacian noise lighter-tailed than it says. Over 2,048 samples the power of one
white draw is within about 0.3 dB (two standard deviations) of its expectation.

Two kinds are made of recordings and not of chance alone, `babble` and `distractor`: what they are, and what the ratio
means for a distractor, stands in `interference.py`. Windows that can have them carry a `NoiseSource`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drsn_edge.errors import InputError, UsageError

Noise = Literal["gaussian", "laplacian", "pink", "babble", "distractor"]
NOISES: tuple[Noise, ...] = get_args(Noise)
# Those that chance alone makes, for any windows.
COLOURS: tuple[Noise, ...] = ("gaussian", "laplacian", "pink")

_LIMIT_DB = 200.0  # far outside any use, well inside float32


class NoiseSource:
    """Makes the kinds of noise that need more than chance, for windows one by one; this one makes none.

    Attributes:
        kinds: What it makes.
    """

    kinds: tuple[Noise, ...] = ()

    def select(self, rows: NDArray[np.int64] | slice) -> NoiseSource:
        """The source of some of the windows, in the order given."""
        del rows
        return self

    def add(
        self, x: NDArray[np.float32], snr_db: NDArray[np.float64], kind: Noise, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Windows `[N, C, ...]` with noise of `kind`, at `snr_db` `[N]`; `x` stays as it is.

        Raises:
            UsageError: The source does not make this kind, or has nothing to make it of.
        """
        del x, snr_db, rng
        raise self.refusal(kind)

    def check(self, kinds: Iterable[Noise]) -> None:
        """Refuse kinds of noise that these windows cannot have, before anything is computed.

        Raises:
            UsageError: Neither a colour nor among `self.kinds`.
        """
        for kind in kinds:
            if kind not in (*COLOURS, *self.kinds):
                raise self.refusal(kind)

    def refusal(self, kind: Noise) -> UsageError:
        """The error for a kind that is not made."""
        return UsageError(
            "the data set has no noise of this kind",
            got=kind,
            expected=", ".join((*COLOURS, *self.kinds)),
            hint="babble is made of other speakers (recordings with the group speaker), a distractor of other pictures",
        )


NO_SOURCE = NoiseSource()


def add_noise(
    x: NDArray[np.float32],
    snr_db: ArrayLike,
    kind: Noise,
    rng: np.random.Generator,
    *,
    source: NoiseSource = NO_SOURCE,
) -> NDArray[np.float32]:
    """Windows with fresh noise on them; `x` stays as it is.

    Args:
        x: `[N, C, W]` or `[N, C, H, W]` float32, raw: noise comes before any standardisation.
        snr_db: One ratio for all, or `[N]`, one for each window. Infinity adds nothing.
        kind: `gaussian` and `laplacian` are white; `pink` has a power density proportional to 1/f, no part at f = 0,
            and in pictures the radial frequency for f.
        rng: The only source of chance; see `noise_rng`.
        source: Of these very windows, for the kinds that are made of recordings: `windows.source.select(rows)`.

    Returns:
        Float32 of the shape of `x`. A flat window has no power and gets no noise.

    Raises:
        UsageError: An unknown kind of noise, or one that these windows cannot have.
        InputError: Another shape or type, or a ratio that is not a number.
    """
    if kind not in NOISES:
        raise UsageError("there is no noise of this kind", got=kind, expected=", ".join(NOISES))
    if x.ndim not in (3, 4) or x.dtype != np.float32:
        raise InputError(
            "noise cannot be added to this array",
            got=f"{x.dtype}{list(x.shape)}",
            expected="float32[N, C, W] or [N, C, H, W]",
        )
    ratio = np.asarray(snr_db, dtype=np.float64)
    if ratio.shape not in ((), x.shape[:1]) or np.isnan(ratio).any() or (ratio < -_LIMIT_DB).any():
        raise InputError(
            "the signal-to-noise ratio cannot be used",
            got=snr_db if ratio.size < 8 else f"array of shape {ratio.shape}",
            expected=f"one number of dB of at least {-_LIMIT_DB:g}, or one for each of the {x.shape[0]} windows",
        )
    if x.shape[0] == 0:
        return x.copy()
    if kind not in COLOURS:
        return source.add(x, np.broadcast_to(ratio, x.shape[:1]), kind, rng)
    noise = _DRAW[kind](x.shape, rng)
    noise *= noise_gain(x, ratio)
    noise += x
    return noise


def noise_gain(x: NDArray[np.float32], snr_db: NDArray[np.float64]) -> NDArray[np.float32]:
    """What noise of power one is multiplied by: `[N, C, 1, ...]` for `x` `[N, C, ...]` and one ratio or `[N]`."""
    axes = tuple(range(2, x.ndim))
    power = x.var(axis=axes, keepdims=True, dtype=np.float64)
    # Rounding leaves a constant window with a variance of 1e-17, not zero.
    power[np.ptp(x, axis=axes, keepdims=True) == 0] = 0.0
    ratio = 10.0 ** (-snr_db.reshape(-1, *[1] * (x.ndim - 1)) / 10.0)
    gain: NDArray[np.float32] = np.sqrt(power * ratio).astype(np.float32)
    return gain


def _gaussian(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    return rng.standard_normal(shape, dtype=np.float32)


def _laplacian(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """The difference of two exponentials is Laplacian with variance 2; NumPy's own `laplace` has no float32 path."""
    noise = rng.standard_exponential(shape, dtype=np.float32)
    noise -= rng.standard_exponential(shape, dtype=np.float32)
    noise *= np.float32(math.sqrt(0.5))
    return noise


def pink_filter(sizes: tuple[int, ...]) -> NDArray[np.float32]:
    """What the half spectrum of white noise over `sizes` positions is multiplied by.

    Its mean squared gain over all bins is one, so that the expected variance stays exactly one.
    """
    grids = np.meshgrid(*[np.fft.fftfreq(size) for size in sizes], indexing="ij")
    frequency = np.sqrt(sum(grid**2 for grid in grids))
    gain: NDArray[Any] = np.zeros_like(frequency)
    np.divide(1.0, np.sqrt(frequency), out=gain, where=frequency > 0)
    gain /= math.sqrt(float(np.mean(gain**2)))
    return cast("NDArray[np.float32]", gain[..., : sizes[-1] // 2 + 1].astype(np.float32))


def _pink(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """White noise shaped in the frequency domain."""
    sizes = shape[2:]
    axes = tuple(range(2, len(shape)))
    spectrum = np.fft.rfftn(_gaussian(shape, rng), axes=axes)
    spectrum *= pink_filter(sizes)
    return cast("NDArray[np.float32]", np.fft.irfftn(spectrum, s=sizes, axes=axes).astype(np.float32, copy=False))


_DRAW: dict[Noise, Callable[[tuple[int, ...], np.random.Generator], NDArray[np.float32]]] = {
    "gaussian": _gaussian,
    "laplacian": _laplacian,
    "pink": _pink,
}


def noise_rng(seed: int, *keys: int | float | str) -> np.random.Generator:
    """A generator of its own for every combination of seed and keys, e.g. `noise_rng(0, "test", "pink", -4.0, draw)`.

    The same arguments give the same stream in every process; other keys give an independent one, so that figures do not
    depend on which part of a sweep was run, or in what order. Numbers that are equal are the same key.

    Raises:
        UsageError: A negative seed.
    """
    if seed < 0:
        raise UsageError("the seed cannot be used", got=seed, expected="a whole number of at least 0")
    words: list[int] = []
    for key in keys:
        text = f"text {key}" if isinstance(key, str) else f"number {float(key)!r}"
        # Four words for every key, whatever it is: two lists of keys can never run together into one.
        digest = hashlib.sha256(text.encode()).digest()
        words += [int.from_bytes(digest[at : at + 4], "little") for at in range(0, 16, 4)]
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=tuple(words)))


def parse_snr_range(text: str) -> tuple[float, float]:
    """`LOW:HIGH` in dB, from which training draws; a single number is a fixed ratio.

    Raises:
        UsageError: Not of this form, or LOW above HIGH.
    """
    values = _numbers(text, (1, 2), "LOW:HIGH in dB, e.g. -6:10, or one number")
    low, high = values[0], values[-1]
    if low > high:
        raise UsageError("the range of signal-to-noise ratios runs backwards", got=text, expected=f"{high:g}:{low:g}")
    return low, high


def parse_snr_sweep(text: str) -> tuple[float, ...]:
    """`LOW:HIGH:STEP` in dB, both ends included; a single number is a sweep of one.

    Raises:
        UsageError: Not of this form, LOW above HIGH, or a step that is not positive or gives more than 1,000 values.
    """
    form = "LOW:HIGH:STEP in dB, e.g. -10:10:2, or one number"
    values = _numbers(text, (1, 3), form)
    if len(values) == 1:
        return values
    low, high, step = values
    if low > high or step <= 0 or (high - low) / step > 1000:
        raise UsageError(
            "the sweep of signal-to-noise ratios cannot be walked",
            got=text,
            expected=f"{form}: LOW at most HIGH, STEP above 0, at most 1,000 steps",
        )
    count = math.floor((high - low) / step + 1e-9) + 1
    return tuple(round(low + index * step, 9) for index in range(count))


def _numbers(text: str, counts: tuple[int, ...], form: str) -> tuple[float, ...]:
    try:
        values = tuple(float(item) for item in text.split(":"))
    except ValueError:
        values = ()
    if len(values) not in counts or not all(abs(value) <= _LIMIT_DB for value in values):
        raise UsageError(
            "the signal-to-noise ratio cannot be read",
            got=repr(text),
            expected=f"{form}; every number within {-_LIMIT_DB:g} and {_LIMIT_DB:g}",
        )
    return values
