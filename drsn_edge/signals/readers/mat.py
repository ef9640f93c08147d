"""MATLAB: files up to version 7 with scipy, version 7.3 (which is HDF5) with h5py."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from drsn_edge import extras
from drsn_edge.signals.readers import RATE_NAMES, Signal, rate_of, unreadable
from drsn_edge.signals.readers.variables import Variable, choose

_PURPOSE = "reading MATLAB files"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_NUMERIC = {"double", "single", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}


def read(path: Path, wanted: tuple[str, ...] | None) -> Signal:
    """The only signal of the file, or the wanted variables by name.

    Raises:
        InputError: Not a whole MATLAB file, or without the variable.
        MissingDependency: scipy or h5py is not installed.
    """
    with path.open("rb") as handle:
        head = handle.read(520)
    # MATLAB puts 512 bytes of its own in front of HDF5's signature; other writers put none.
    return _read_73(path, wanted) if _HDF5 in (head[:8], head[512:]) else _read_5(path, wanted)


def _read_5(path: Path, wanted: tuple[str, ...] | None) -> Signal:
    scipy_io = extras.require("scipy.io", purpose=_PURPOSE)
    # What scipy lets out of a damaged file depends on where it was cut.
    damage = (
        scipy_io.matlab.MatReadError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        EOFError,
        OSError,
        OverflowError,
        MemoryError,
        NotImplementedError,
        zlib.error,
        struct.error,
    )

    def load(name: str) -> object:
        try:
            return scipy_io.loadmat(path, variable_names=[name])[name]
        except damage as error:
            raise unreadable(path, "MATLAB", error) from None

    try:
        listing = scipy_io.whosmat(path)
    except damage as error:
        raise unreadable(path, "MATLAB", error) from None
    variables = {name: Variable(tuple(shape), kind in _NUMERIC) for name, shape, kind in listing}
    rate = None
    for name in RATE_NAMES:
        if name in variables and not variables[name].signal:
            rate = rate_of(load(name), path)
            break
    return choose(path, variables, wanted, load, rate)  # type: ignore[arg-type]


def _read_73(path: Path, wanted: tuple[str, ...] | None) -> Signal:
    h5py = extras.require("h5py", purpose=f"{_PURPOSE} of version 7.3")
    try:
        with h5py.File(path, "r") as file:
            found = {name: file[name] for name in file if isinstance(file.get(name), h5py.Dataset)}
            variables = {
                # Text is stored as numbers too; only the attribute tells.
                name: Variable(item.shape, item.dtype.kind in "iuf" and item.attrs.get("MATLAB_class") != b"char")
                for name, item in found.items()
            }
            rate = None
            for name in RATE_NAMES:
                if name in variables and not variables[name].signal:
                    rate = rate_of(found[name][()], path)
                    break
            return choose(path, variables, wanted, lambda name: found[name][()], rate)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise unreadable(path, "MATLAB 7.3", error) from None
