"""Signals out of files: one reader for each format, found by the file's suffix.

Every reader is a function `read(path, wanted) -> Signal`. It gives the wanted channels, by name or by number, in the
order asked; without a wish it gives all channels of a format that holds one table (wav, csv, parquet, npy), and the
only signal of one that holds many variables (npz, mat). It never guesses between several: files in which the first
variable is another measurement have fooled published work.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import ContractError, InputError

__all__ = ["READERS", "Signal", "is_unnamed", "pick", "rate_of", "read_signal", "stack", "unnamed", "unreadable"]

# suffix -> module with a function `read`
READERS = {
    ".wav": "drsn_edge.signals.readers.wav",
    ".npy": "drsn_edge.signals.readers.npy",
    ".npz": "drsn_edge.signals.readers.npz",
    ".csv": "drsn_edge.signals.readers.csv",
    ".mat": "drsn_edge.signals.readers.mat",
    ".parquet": "drsn_edge.signals.readers.parquet",
}

# Names under which npz, mat and parquet files carry the sample rate, in hertz.
RATE_NAMES = ("sample_rate_hz", "sample_rate", "sampling_rate", "fs", "Fs")


@dataclass(frozen=True, eq=False)
class Signal:
    """What a reader gives: `samples[channels, samples]` float32, the rate in hertz if the file says, channel names."""

    samples: NDArray[np.float32]
    rate: float | None
    names: tuple[str, ...]


_ROOM, _PACKING = 256 << 20, 300


def read_signal(
    path: Path, *, channel: str | None = None, sample_rate_hz: float | None = None
) -> tuple[NDArray[np.float32], float | None, tuple[str, ...]]:
    """Read channels of a file.

    Args:
        path: A file with one of the suffixes of `READERS`.
        channel: Name or number (from 0) of a channel; several joined by `+`; None for all, see the module.
        sample_rate_hz: What the caller knows of the rate; the file must not say otherwise.

    Returns:
        `[channels, samples]` float32, the sample rate in hertz (the file's, else the caller's), channel names.

    Raises:
        InputError: Absent, damaged, of an unknown format, or without the channel.
        ContractError: The file states another sample rate.
        MissingDependency: The format needs a package that is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise InputError(
            f"{path} has a suffix that no reader knows", got=suffix or "no suffix", expected=", ".join(READERS)
        )
    if not path.is_file():
        raise InputError("the recording is not there", got=path, expected=f"a {suffix} file")
    wanted = tuple(item.strip() for item in channel.split("+")) if channel else None
    signal = cast("Signal", importlib.import_module(READERS[suffix]).read(path, wanted))
    if signal.samples.size == 0:
        raise InputError(f"{path} is empty", got="0 samples", expected="at least one sample")
    rate = signal.rate
    if rate is None:
        rate = sample_rate_hz
    elif sample_rate_hz is not None and not math.isclose(rate, sample_rate_hz, rel_tol=1e-6):
        raise ContractError(
            f"{path} has another sample rate than was given for it",
            got=f"{rate:g} Hz in the file",
            expected=f"{sample_rate_hz:g} Hz",
            hint="correct the rate that was given, or leave it empty: the file knows its own",
        )
    return signal.samples, rate, signal.names


def unnamed(count: int) -> tuple[str, ...]:
    """Names for the channels of a format that has none."""
    return tuple(f"channel-{index}" for index in range(count))


def is_unnamed(name: str) -> bool:
    """Whether a channel's name is one of `unnamed`."""
    return re.fullmatch(r"channel-\d+", name) is not None


def pick(names: Sequence[str], wanted: Sequence[str], path: Path) -> list[int]:
    """Positions of the wanted channels: by name first, then by number.

    Raises:
        InputError: A channel that is not there, or asked for twice.
    """
    places: list[int] = []
    for item in wanted:
        if item in names:
            place = names.index(item)
        elif item.isdecimal() and int(item) < len(names):
            place = int(item)
        else:
            raise InputError(
                f"{path} has no such channel", got=repr(item), expected=f"{', '.join(names)} (or 0 to {len(names) - 1})"
            )
        if place in places:
            raise InputError(f"{path}: a channel is asked for twice", got="+".join(wanted), expected="every one once")
        places.append(place)
    return places


def stack(array: NDArray[Any], name: str, path: Path) -> NDArray[np.float32]:
    """An array as `[channels, samples]` float32; of two axes the longer one is time.

    Raises:
        InputError: Not numbers, or not one or two axes of which one is longer.
    """
    if array.dtype.kind not in "iuf":
        raise InputError(
            f"{path}: {name} does not hold real numbers", got=array.dtype, expected="integers or floating point"
        )
    if array.ndim == 1:
        array = array[None, :]
    elif array.ndim != 2 or (array.shape[0] == array.shape[1] and array.size > 1):
        raise InputError(
            f"{path}: {name} has a shape without a clear time axis",
            got=list(array.shape),
            expected="[samples], or two axes of which the longer one is time",
        )
    elif array.shape[0] > array.shape[1]:
        array = array.T
    # A double beyond float32 becomes infinite here, and the recording then says where.
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(array, dtype=np.float32)


def rate_of(value: object, path: Path) -> float:
    """A sample rate that a file carries.

    Raises:
        InputError: Not a positive number.
    """
    try:
        rate = float(np.asarray(value, dtype=np.float64).reshape(()))
    except (TypeError, ValueError):
        rate = math.nan
    if not (math.isfinite(rate) and rate > 0):
        raise InputError(
            f"{path} states a sample rate that cannot be", got=value, expected="a positive number of hertz"
        )
    return rate


def check_unpacked(path: Path, size: int, form: str) -> None:
    """Refuse a file whose contents are out of all proportion to it: nothing that a sensor saw is packed like that.

    Args:
        path: The file.
        size: Bytes that its arrays would take, as it says itself.
        form: As in `unreadable`.

    Raises:
        InputError: More than 256 MB, and more than 300 times the file.
    """
    packed = path.stat().st_size
    if size > max(_ROOM, _PACKING * packed):
        raise unreadable(path, form, f"{size} bytes unpacked out of {packed}")


def unreadable(path: Path, form: str, error: BaseException | str) -> InputError:
    """The error for a file that is damaged or not what its suffix says."""
    return InputError(
        f"{path} cannot be read",
        got=str(error) or type(error).__name__,
        expected=f"a whole {form} file",
        hint="copy or export the file again; compare its size with the original's",
    )
