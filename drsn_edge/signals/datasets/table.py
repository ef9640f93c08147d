"""Anybody's recordings, named by a table: `table:recordings.csv`, or `table:recordings.csv,units=g`.

One line for each recording, a header with these columns:

    path             wav, npy, npz, csv, mat or parquet; relative to the table
    label            its class; empty in every line for recordings that nobody has labelled, which can only calibrate
    sample_rate_hz   may be empty where the file states its own; where both do, they must agree
    channel          may be empty, or absent: name or number in the file, several joined by `+`
    anything else    a group: load, bearing, speaker, rig, ...; an empty cell puts the recording into no group
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from drsn_edge.errors import ContractError, DrsnError, InputError
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.datasets import Dataset, natural
from drsn_edge.signals.datasets.spec import DatasetSpec
from drsn_edge.signals.readers import read_signal
from drsn_edge.signals.recording import Recording

_REQUIRED = ("path", "label")
_OWN = (*_REQUIRED, "sample_rate_hz", "channel")


@dataclass(frozen=True)
class _Row:
    """One line of the table; `where` names it in messages."""

    where: str
    cells: dict[str, str]

    def require(self, column: str) -> str:
        value = self.cells.get(column, "")
        if not value:
            raise InputError(f"{self.where}, column {column} is empty", got="nothing", expected=f"a {column}")
        return value

    def rate(self) -> float | None:
        text = self.cells.get("sample_rate_hz", "")
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise InputError(
                f"{self.where}, column sample_rate_hz cannot be used",
                got=repr(text),
                expected="a positive number of hertz",
            )
        return value


def load(spec: DatasetSpec, protocol: str | None) -> Dataset:
    """The recordings that a table lists, in its order; classes sorted by name.

    Raises:
        InputError: No table, a column or a cell missing, a file that is absent or damaged; names line and column.
        ContractError: Recordings of different sample rates or channels.
        MissingDependency: A file needs a package that is not installed.
    """
    del protocol
    spec.check(path="FILE.csv", options=("units",))
    table = spec.path
    if table is None or not table.is_file():
        raise InputError(
            "the table of recordings is not there", got=table, expected="a CSV file with the columns path and label"
        )
    recordings: list[Recording] = []
    names: tuple[str, ...] = ()
    first = ""
    for row in _rows(table):
        recording, channels = _recording(row, table.parent)
        if not recordings:
            names, first = channels, row.where
        _agree(row, recording, channels, recordings, names, first)
        recordings.append(recording)
        if bool(recording.label) != bool(recordings[0].label):
            raise InputError(
                f"{row.where} is labelled otherwise than the first recording",
                got=f"label {recording.label!r}", expected=f"{'a label' if recordings[0].label else 'none'} ({first})",
                hint="give every recording its class, or leave the column empty throughout",
            )  # fmt: skip
    if not recordings:
        raise InputError(f"{table} lists no recordings", got="a header alone", expected="one line for each recording")
    return Dataset(
        name=table.stem,
        spec=spec.text,
        recordings=tuple(recordings),
        labels=tuple(sorted({recording.label for recording in recordings} - {""}, key=natural)),
        contract=SignalContract(
            sample_rate_hz=recordings[0].sample_rate_hz, channels=names, units=spec.options.get("units", "unknown")
        ),
    )


def _rows(table: Path) -> Iterator[_Row]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.reader(handle, strict=True)
            header = [cell.strip() for cell in next(reader, [])]
            missing = [column for column in _REQUIRED if column not in header]
            if missing or len(set(header)) < len(header) or "" in header:
                raise InputError(
                    f"{table}, line 1: the header cannot be used",
                    got=",".join(header) or "nothing",
                    expected=f"columns {', '.join(_REQUIRED)} and, if you have them, sample_rate_hz, channel and "
                    "groups; every name once, none empty, separated by commas",
                )
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                where = f"{table}, line {reader.line_num}"
                if len(cells) != len(header):
                    raise InputError(
                        f"{where} has another number of cells than the header",
                        got=f"{len(cells)}: {','.join(cells)}",
                        expected=f"{len(header)}: {','.join(header)}",
                    )
                yield _Row(where, dict(zip(header, (cell.strip() for cell in cells), strict=True)))
    except UnicodeDecodeError as error:
        raise InputError(f"{table} is not a text file", got=error, expected="CSV in UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{table}, line {reader.line_num} is not CSV", got=error, expected="CSV with commas") from None


def _recording(row: _Row, folder: Path) -> tuple[Recording, tuple[str, ...]]:
    label = row.cells["label"]
    path = folder / row.require("path")
    given = row.rate()
    try:
        signal, rate, names = read_signal(path, channel=row.cells.get("channel") or None, sample_rate_hz=given)
    except InputError as error:
        raise _at(row, error) from None
    if rate is None:
        raise InputError(
            f"{row.where}, column sample_rate_hz is empty",
            got=f"{path}, which does not state its own",
            expected="a positive number of hertz",
        )
    groups = {key: value for key, value in row.cells.items() if key not in _OWN and value}
    try:
        return Recording(signal, rate, label, groups, str(path)), names
    except InputError as error:
        raise _at(row, error) from None


def _at(row: _Row, error: DrsnError) -> DrsnError:
    """The same error with the line of the table in front."""
    return type(error)(f"{row.where}: {error.what}", got=error.got, expected=error.expected, hint=error.hint)


def _agree(
    row: _Row,
    recording: Recording,
    channels: tuple[str, ...],
    earlier: list[Recording],
    names: tuple[str, ...],
    first: str,
) -> None:
    """A data set has one sample rate and one list of channels: a model takes no other."""
    if channels != names:
        raise ContractError(
            f"{row.where} has other channels than the first recording",
            got="+".join(channels),
            expected=f"{'+'.join(names)} ({first})",
            hint="choose the same channels in the column channel",
        )
    rate = earlier[0].sample_rate_hz if earlier else recording.sample_rate_hz
    if not math.isclose(recording.sample_rate_hz, rate, rel_tol=1e-6):
        raise ContractError(
            f"{row.where} has another sample rate than the first recording",
            got=f"{recording.sample_rate_hz:g} Hz",
            expected=f"{rate:g} Hz ({first})",
            hint="resample the recordings to one rate, with an anti-alias filter",
        )
