"""MATLAB files of versions 4 to 7, read here element by element: numeric arrays only.

SciPy's reader trusts the tags of a file, and a few flipped bytes end the whole process in its compiled part. Here every
length is held against what is left before it is used. Everything that is no array of real numbers (text, cells,
structures, objects, sparse and complex arrays) is listed and not read.

Source: MathWorks, "MAT-File Format", the chapters on version 5 and version 4.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Bytes of one variable that are still unpacked: days of a sensor fit, a bomb does not.
SIZE_LIMIT = 2 << 30
_HEADER = 128
_COMPRESSED, _MATRIX = 15, 14
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_COMPLEX, _LOGICAL, _OPAQUE = 0x0800, 0x0200, 17
_INT8, _INT32, _UINT32, _UTF8 = 1, 5, 6, 16
_OLD_STORED = ("f8", "f4", "i4", "i2", "u2", "u1")
# Flags, dimensions and name of a variable: names have at most 63 characters, dimensions rarely more than four.
_HEAD_LIMIT = 1 << 16


@dataclass(frozen=True)
class MatVariable:
    """A variable of a file.

    Attributes:
        name: As MATLAB calls it.
        shape: Two axes at least.
        dtype: Of its numbers; None where it holds none that are real.
        stored: How they are stored, where that is known from the head of the variable.
        start, size: Where its element is in the file, without the tag.
        packed: Whether that is compressed.
        order: `<` or `>`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str | None
    stored: str | None
    start: int
    size: int
    packed: bool
    order: str


def list_variables(path: Path) -> dict[str, MatVariable]:
    """The variables of a file by name.

    Raises:
        ValueError: Not a whole file of these versions, or a name that is there twice.
        OSError: It cannot be read.
    """
    found: dict[str, MatVariable] = {}
    with path.open("rb") as handle:
        data = handle.read(SIZE_LIMIT + 1)
    if len(data) > SIZE_LIMIT:
        raise ValueError(f"a file of more than {SIZE_LIMIT} bytes")
    # Version 5 begins with text; a 0 among the first four bytes is how version 4 is told from it.
    old = len(data) < 4 or 0 in data[:4]
    for item in _version_4(data) if old else _version_5(data):
        if item.name in found:
            raise ValueError(f"the variable {item.name} is there twice")
        found[item.name] = item
    return found


def read_variable(path: Path, item: MatVariable) -> NDArray[Any]:
    """The numbers of one variable.

    Raises:
        ValueError: Fewer or more bytes than its shape needs, or none that are numbers.
    """
    if item.dtype is None:
        raise ValueError(f"{item.name} does not hold real numbers")
    with path.open("rb") as handle:
        handle.seek(item.start)
        data = handle.read(item.size)
    if item.stored is not None:  # version 4: numbers alone
        return _shaped(data, item.stored, item)
    if item.packed:
        data = _unpack(data, SIZE_LIMIT)
        _, start, stop = _tag(data, 0, item.order, _MATRIX)
        data = data[start:stop]
    *_, position = _head(data, item.order)
    kind, start, stop = _tag(data, position, item.order)
    if kind not in _STORED:
        raise ValueError(f"{item.name} stores its numbers as type {kind}")
    return _shaped(data[start:stop], item.order + _STORED[kind], item)


def _shaped(data: bytes, stored: str, item: MatVariable) -> NDArray[Any]:
    expected = math.prod(item.shape) * np.dtype(stored).itemsize
    if len(data) != expected:
        raise ValueError(f"{item.name} of {list(item.shape)} in {len(data)} bytes, expected {expected}")
    array: NDArray[Any] = np.frombuffer(data, stored).reshape(item.shape, order="F").astype(item.dtype)
    return array


def _version_5(data: bytes) -> Iterator[MatVariable]:
    mark, version = data[126:128], data[124:126]
    order = {b"IM": "<", b"MI": ">"}.get(mark)
    if order is None or version != struct.pack(f"{order}H", 0x0100):
        raise ValueError(f"no MATLAB file: version {version.hex()}, byte order {mark!r}")
    position = _HEADER
    while position < len(data):
        kind, start, stop = _tag(data, position, order)
        position = stop
        if kind not in (_COMPRESSED, _MATRIX):
            raise ValueError(f"an element of type {kind} at byte {start - 8}, expected a matrix")
        packed = kind == _COMPRESSED
        head = data[start : min(stop, start + _HEAD_LIMIT)]
        if packed:
            head = _unpack(data[start:stop], _HEAD_LIMIT, part=True)
            # The length within is that of the whole matrix: more than this part of it.
            kind, _ = struct.unpack(f"{order}II", _some(head, 0, 8))
            if kind != _MATRIX:
                raise ValueError(f"a compressed element of type {kind}, expected a matrix")
            head = head[8:]
        flags, shape, name, _ = _head(head, order)
        if name:  # the workspace of functions and of objects has none
            dtype = _CLASSES.get(flags & 0xFF) if not flags & (_COMPLEX | _LOGICAL) else None
            yield MatVariable(name, shape, dtype, None, start, stop - start, packed, order)


def _version_4(data: bytes) -> Iterator[MatVariable]:
    position = 0
    while position < len(data) or position == 0:
        head = _some(data, position, 20)
        order = "<" if struct.unpack_from("<i", head)[0] in range(1000) else ">"
        kind, rows, columns, imaginary, length = struct.unpack(f"{order}5i", head)
        machine, reserved, number, text = kind // 1000, kind // 100 % 10, kind // 10 % 10, kind % 10
        known = machine == (order == ">") and reserved == 0 and number < len(_OLD_STORED) and text in (0, 1, 2)
        if not known or min(rows, columns) < 0 or imaginary not in (0, 1) or not 0 < length <= _HEAD_LIMIT:
            raise ValueError(f"no MATLAB file: a header of {head.hex()}")
        name = _some(data, position + 20, length).partition(b"\0")[0].decode("latin1")
        stored = order + _OLD_STORED[number]
        size = rows * columns * np.dtype(stored).itemsize * (1 + imaginary)
        start = position + 20 + length
        _some(data, start, size)
        position = start + size
        real = text == 0 and imaginary == 0
        yield MatVariable(name, (rows, columns), stored[1:] if real else None, stored, start, size, False, order)


def _head(data: bytes, order: str) -> tuple[int, tuple[int, ...], str, int]:
    """Flags, shape and name of a matrix, and where its numbers begin."""
    _, start, stop = _tag(data, 0, order, _UINT32)
    if stop - start != 8:
        raise ValueError(f"array flags of {stop - start} bytes, expected 8")
    (flags,) = struct.unpack_from(f"{order}I", data, start)
    if flags & 0xFF == _OPAQUE:  # strings and tables of newer MATLABs: no dimensions follow
        return flags, (0, 0), "", stop
    _, start, stop = _tag(data, stop, order, _INT32)
    if not 8 <= stop - start <= 4 * 32 or (stop - start) % 4:
        raise ValueError(f"dimensions of {stop - start} bytes, expected 4 for each of 2 to 32")
    shape = struct.unpack_from(f"{order}{(stop - start) // 4}i", data, start)
    if min(shape) < 0 or math.prod(shape) > SIZE_LIMIT:
        raise ValueError(f"a shape of {list(shape)}")
    kind, start, end = _tag(data, _even(stop), order)
    if kind not in (_INT8, _UTF8):
        raise ValueError(f"a name of type {kind}")
    name = data[start:end].rstrip(b"\0").decode("utf-8", errors="replace")
    return flags, shape, name, _even(end)


def _tag(data: bytes, position: int, order: str, wanted: int | None = None) -> tuple[int, int, int]:
    """Type of the element at a position, and where its data begin and end."""
    kind, size = struct.unpack(f"{order}II", _some(data, position, 8))
    start = position + 8
    if kind >> 16:  # a small element: its data stand in the tag
        kind, size, start = kind & 0xFFFF, kind >> 16, position + 4
        if size > 4:
            raise ValueError(f"a small element of {size} bytes at byte {position}")
    if wanted is not None and kind != wanted:
        raise ValueError(f"an element of type {kind} at byte {position}, expected type {wanted}")
    if start + size > len(data):
        raise ValueError(f"an element of {size} bytes at byte {position}, {max(0, len(data) - start)} are left")
    return kind, start, start + size


def _even(position: int) -> int:
    """Elements within a matrix begin at multiples of 8 bytes."""
    return -(-position // 8) * 8


def _some(data: bytes, start: int, size: int) -> bytes:
    found = data[start : start + size]
    if len(found) != size:
        raise ValueError(f"{len(found)} bytes at byte {start}, expected {size}")
    return found


def _unpack(data: bytes, limit: int, *, part: bool = False) -> bytes:
    """Inflate, at most so many bytes; `part` says that there may be more."""
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(data, limit)
    except zlib.error as error:
        raise ValueError(f"damaged compression: {error}") from None
    if not part and not stream.eof:
        more = len(found) >= limit
        raise ValueError(f"more than {limit} bytes unpacked" if more else "compressed data that are cut off")
    return found
