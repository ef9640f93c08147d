"""NumPy arrays, `[samples]` or two axes of which the longer one is time. Pickles are refused: they are programs."""

from __future__ import annotations

import pickle
import tokenize
import warnings
from pathlib import Path

import numpy as np

from drsn_edge.signals.readers import Signal, pick, stack, unnamed, unreadable

_MAGIC = b"\x93NUMPY"


def read(path: Path, wanted: tuple[str, ...] | None) -> Signal:
    """All channels, or the wanted ones by number.

    Raises:
        InputError: Not a whole array of numbers, a pickle, or without the channel.
    """
    try:
        with path.open("rb") as handle:
            # Of anything that it does not know NumPy says that it is a pickle, and how to load that unsafely.
            if (head := handle.read(6)) != _MAGIC:
                raise ValueError(
                    f"a file that starts with {head!r}; an array starts with {_MAGIC!r}, pickles are refused"
                )
            handle.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # an array that Python 2 wrote is an array
                array = np.load(handle, allow_pickle=False)
    except (
        ValueError, EOFError, OSError, SyntaxError, MemoryError, pickle.UnpicklingError, tokenize.TokenError,
    ) as error:  # fmt: skip
        raise unreadable(path, "NumPy array", error) from None
    samples = stack(array, "the array", path)
    names = unnamed(samples.shape[0])
    if wanted is not None:
        places = pick(names, wanted, path)
        samples, names = samples[places], tuple(names[place] for place in places)
    return Signal(samples, None, names)
