"""Parquet: one column for each channel; the schema's metadata may carry `sample_rate_hz`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from drsn_edge import extras
from drsn_edge.errors import InputError
from drsn_edge.signals.readers import RATE_NAMES, Signal, check_unpacked, pick, rate_of, unreadable


def read(path: Path, wanted: tuple[str, ...] | None) -> Signal:
    """All columns, or the wanted ones by name or number; columns that were not asked for need not be numbers.

    Raises:
        InputError: Not a whole Parquet file, a column that does not hold numbers, or no such column.
        MissingDependency: pyarrow is not installed.
    """
    arrow = extras.require("pyarrow", "pyarrow.parquet", purpose="reading Parquet files")
    try:
        with arrow.parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            names = tuple(schema.names)
            places = list(range(len(names))) if wanted is None else pick(names, wanted, path)
            chosen = tuple(names[place] for place in places)
            for name in chosen:
                kind = schema.field(name).type
                if not (arrow.types.is_integer(kind) or arrow.types.is_floating(kind)):
                    raise InputError(
                        f"{path}: the column {name} does not hold real numbers",
                        got=kind,
                        expected="integers or floating point",
                        hint="choose the columns that hold samples in the column channel of the table of recordings",
                    )
            check_unpacked(path, 8 * file.metadata.num_rows * len(chosen), "Parquet")
            table = file.read(columns=list(chosen))
    except (arrow.ArrowException, OSError, KeyError) as error:
        raise unreadable(path, "Parquet", error) from None
    # A missing value becomes NaN, and the recording then says where.
    with np.errstate(over="ignore", invalid="ignore"):
        columns = [table.column(name).to_numpy().astype(np.float32) for name in chosen]
    metadata = schema.metadata or {}
    rate = next((rate_of(metadata[key], path) for key in map(str.encode, RATE_NAMES) if key in metadata), None)
    return Signal(np.stack(columns), rate, chosen)
