"""CSV: one column for each channel, one line for each sample.

The separator is a semicolon, tab or comma, whichever the first line has, in this order; else white space. A first line
with anything that is not a number is a header of channel names. Lines that start with `#` are comments.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from drsn_edge.errors import InputError
from drsn_edge.signals.readers import Signal, pick, unnamed, unreadable


def read(path: Path, wanted: tuple[str, ...] | None) -> Signal:
    """All columns, or the wanted ones by name or number; columns that were not asked for need not be numbers.

    Raises:
        InputError: Not UTF-8, no samples, a cell that is not a number, lines of unequal length, or no such column.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise unreadable(path, "CSV (UTF-8)", error) from None
    first = next((index for index, line in enumerate(lines) if line.strip() and not line.startswith("#")), None)
    if first is None:
        raise InputError(f"{path} is empty", got="no line with samples", expected="one line for each sample")
    separator = next((item for item in ";\t," if item in lines[first]), None)
    cells = _cells(lines[first], separator)
    named = not all(map(_is_number, cells))
    names = tuple(cells) if named else unnamed(len(cells))
    if len(set(names)) < len(names):
        raise InputError(f"{path} has two columns of one name", got=", ".join(names), expected="every name once")
    places = list(range(len(names))) if wanted is None else pick(names, wanted, path)
    start = first + named
    if not any(line.strip() and not line.startswith("#") for line in lines[start:]):
        raise InputError(f"{path} is empty", got="a header and no samples", expected="one line for each sample")
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            table = np.loadtxt(
                lines[start:], delimiter=separator, usecols=places, ndmin=2, dtype=np.float64, quotechar='"'
            ).astype(np.float32)
    except ValueError:
        raise _first_bad_line(path, lines, start, separator, names, places) from None
    return Signal(np.ascontiguousarray(table.T), None, tuple(names[place] for place in places))


def _cells(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return line.split()
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _first_bad_line(
    path: Path, lines: list[str], start: int, separator: str | None, names: tuple[str, ...], places: list[int]
) -> InputError:
    """NumPy counts rows without comments and blank lines; people count lines."""
    for number, line in enumerate(lines[start:], start=start + 1):
        text = line.partition("#")[0]
        if not text.strip():
            continue
        cells = _cells(text, separator)
        for place in places:
            if place >= len(cells):
                return InputError(
                    f"{path}, line {number} is too short", got=f"{len(cells)} columns", expected=f"{len(names)} columns"
                )
            if not _is_number(cells[place]):
                return InputError(
                    f"{path}, line {number}, column {names[place]} is not a number",
                    got=repr(cells[place]),
                    expected="a number with a decimal point",
                    hint="choose the columns that hold samples in the column channel of the table of recordings",
                )
    return unreadable(path, "CSV", "lines that NumPy does not read")
