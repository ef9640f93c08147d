"""What a study has found so far: cells from their files, the summary, `study.json` and the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drsn_edge._version import __version__
from drsn_edge.errors import InputError, MissingDependency
from drsn_edge.files import read_json, write_json
from drsn_edge.model.config import MODELS
from drsn_edge.parity.study_cell import StudyCell
from drsn_edge.parity.study_summary import StudySummary, summarise
from drsn_edge.report.study_page import StudyPage, write_study_page

CELLS, CONFIG, RESULT, PAGE = "cells", "config.json", "study.json", "study.html"
FORMAT = 1


@dataclass(frozen=True)
class StudyResult:
    """A study as far as it has come.

    Attributes:
        out: Its folder.
        config: What was asked for, and what identifies it.
        cells: Finished, in the order of the grid.
        planned: Cells that this command asked for; more may have been there.
        summary: None before the first cell is finished.
        notes: What the user should know, one sentence each.
    """

    out: Path
    config: Mapping[str, Any]
    cells: tuple[StudyCell, ...]
    planned: int
    summary: StudySummary | None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The content of `study.json`; confusion matrices of single cells stay in their files."""
        return {
            "format_version": FORMAT,
            "drsn_edge": __version__,
            "config": dict(self.config),
            "planned": self.planned,
            "cells": [cell.to_json(confusion=False) for cell in self.cells],
            "summary": None if self.summary is None else self.summary.to_json(),
            "notes": list(self.notes),
        }


def summarise_study(out: Path, *, confusion: Sequence[float | None] | None = None) -> StudyResult:
    """Rebuild `study.json` and `study.html` from the cells that are there, without training and without the data.

    Raises:
        InputError: There is no study, no finished cell, or a file that cannot be read.
    """
    value = read_json(out / CONFIG, what="the configuration of the study")
    if value.get("format_version") != FORMAT:
        raise InputError("the study has another format version", got=repr(value.get("format_version")), expected=FORMAT)
    config = {key: item for key, item in value.items() if key not in ("format_version", "planned")}
    result = gather(out, config, int(value["planned"]), confusion, ())
    if result.summary is None:
        raise InputError("the study has no finished cell", got=out / CELLS, expected="at least one file")
    return write_results(result)


def write_results(result: StudyResult) -> StudyResult:
    """Write `study.json`, and the page where it can be drawn; the result has a note where it cannot."""
    assert result.summary is not None
    options, identity = result.config["options"], result.config["identity"]
    trained = identity["train_snr_db"]
    where = result.config["where"]
    shown = {key: value for key, value in options.items() if value is not None}
    page = StudyPage(
        title=f"Study of {result.config['dataset']}"
        + (f", {', '.join(f'{key} {value}' for key, value in where.items())}" if where else ""),
        summary=result.summary,
        configuration={**shown, **identity, "parameters": result.summary.parameters},
        protocol=identity["protocol"],
        preset=identity["preset"],
        headline_snr_db=None if trained is None else float(trained[0]),
        notes=result.notes,
    )
    try:
        write_study_page(result.out / PAGE, page)
    except MissingDependency as error:
        note = f"{PAGE} was not written: {error.what}; {error.hint}; then --summarise."
        result = dataclasses.replace(result, notes=(*result.notes, note))
    write_json(result.out / RESULT, result.to_json())
    return result


def gather(
    out: Path, config: Mapping[str, Any], planned: int, confusion: Sequence[float | None] | None, notes: tuple[str, ...]
) -> StudyResult:
    """All cells that are finished, and what they say together.

    Raises:
        InputError: A cell that cannot be read.
    """
    found = [
        StudyCell.from_json(read_json(path, what="the cell"), source=path)
        for path in (sorted((out / CELLS).glob("*.json")) if (out / CELLS).is_dir() else [])
    ]
    # In the order of the paper's table, then as they are trained.
    cells = sorted(found, key=lambda c: (c.noise, MODELS.index(c.model) if c.model in MODELS else 99, c.fold, c.seed))
    summary = None
    if cells:
        shown = _shown(config) if confusion is None else tuple(confusion)
        summary = summarise(cells, models=list(dict.fromkeys([*MODELS, *(c.model for c in cells)])), confusion=shown)
    if len(cells) < planned:
        notes = (*notes, f"{planned - len(cells)} of {planned} cells are not finished; figures are of those that are.")
    return StudyResult(out, config, tuple(cells), planned, summary, notes)


def _shown(config: Mapping[str, Any]) -> tuple[float | None, ...]:
    """Clean, 0 dB, and the lowest trained ratio, as far as they were scored."""
    identity = config["identity"]
    trained = identity["train_snr_db"]
    return (None, 0.0, *(() if trained is None else (float(trained[0]),)))
