"""MATLAB: files up to version 7 need nothing, version 7.3 (which is HDF5) needs h5py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from drsn_edge import extras
from drsn_edge.signals.readers import RATE_NAMES, Signal, check_unpacked, mat5, rate_of, unreadable
from drsn_edge.signals.readers.variables import Variable, choose

_HDF5 = b"\x89HDF\r\n\x1a\n"


def read(path: Path, wanted: tuple[str, ...] | None) -> Signal:
    """The only signal of the file, or the wanted variables by name.

    Raises:
        InputError: Not a whole MATLAB file, or without the variable.
        MissingDependency: h5py is not installed.
    """
    with path.open("rb") as handle:
        head = handle.read(520)
    # MATLAB puts 512 bytes of its own in front of HDF5's signature; other writers put none.
    return _read_73(path, wanted) if _HDF5 in (head[:8], head[512:]) else _read_old(path, wanted)


def _read_old(path: Path, wanted: tuple[str, ...] | None) -> Signal:
    try:
        listing = mat5.list_variables(path)
    except (ValueError, MemoryError) as error:
        raise unreadable(path, "MATLAB", error) from None

    def load(name: str) -> NDArray[Any]:
        try:
            return mat5.read_variable(path, listing[name])
        except (ValueError, MemoryError) as error:
            raise unreadable(path, "MATLAB", error) from None

    variables = {name: Variable(item.shape, item.dtype is not None) for name, item in listing.items()}
    rate = None
    for name in RATE_NAMES:
        if name in variables and not variables[name].signal:
            if not variables[name].numeric:
                raise unreadable(path, "MATLAB", f"a sample rate {name} that is no number")
            rate = rate_of(load(name), path)
            break
    return choose(path, variables, wanted, load, rate)


def _read_73(path: Path, wanted: tuple[str, ...] | None) -> Signal:
    h5py = extras.require("h5py", purpose="reading MATLAB files of version 7.3")
    try:
        with h5py.File(path, "r") as file:
            # A link may lead to a dataset in any other file, and so may a dataset's own storage.
            own = [name for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)]
            found = {name: file[name] for name in own if isinstance(file.get(name), h5py.Dataset)}
            found = {name: item for name, item in found.items() if not item.external and not item.is_virtual}
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

            def load(name: str) -> NDArray[Any]:
                check_unpacked(path, found[name].nbytes, "MATLAB 7.3")
                values: NDArray[Any] = found[name][()]
                return values

            return choose(path, variables, wanted, load, rate)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise unreadable(path, "MATLAB 7.3", error) from None
