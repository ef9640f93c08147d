"""NumPy archives: one array for each signal, and a scalar such as `sample_rate_hz` if the file knows its rate."""

from __future__ import annotations

import pickle
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np

from drsn_edge.signals.readers import RATE_NAMES, Signal, check_unpacked, rate_of, unreadable
from drsn_edge.signals.readers.variables import Variable, choose

_MAGIC = b"PK\x03\x04"
_DAMAGE = (
    ValueError,
    EOFError,
    OSError,
    KeyError,
    SyntaxError,
    MemoryError,  # a shape that no file can hold
    RuntimeError,  # an encrypted member, an unknown compression
    pickle.UnpicklingError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def read(path: Path, wanted: tuple[str, ...] | None) -> Signal:
    """The only signal of the archive, or the wanted ones by name.

    Raises:
        InputError: Not a whole archive, a pickle inside, or without the array.
    """
    try:
        # Opened here, because NumPy leaves its own handle open when the archive is damaged.
        with path.open("rb") as handle:
            if (head := handle.read(4)) != _MAGIC:
                raise ValueError(f"a file that starts with {head!r}; an archive starts with {_MAGIC!r}")
            handle.seek(0)
            archive = np.load(handle, allow_pickle=False)
            check_unpacked(path, sum(item.file_size for item in archive.zip.infolist()), "NumPy archive")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # an array that Python 2 wrote is an array
                members = {name: archive[name] for name in archive.files}
    except _DAMAGE as error:
        raise unreadable(path, "NumPy archive", error) from None
    arrays = {name: array for name, array in members.items() if isinstance(array, np.ndarray)}  # else plain files
    rate = next((rate_of(arrays.pop(name), path) for name in RATE_NAMES if name in arrays), None)
    variables = {name: Variable(array.shape, array.dtype.kind in "iuf") for name, array in arrays.items()}
    return choose(path, variables, wanted, arrays.__getitem__, rate)
