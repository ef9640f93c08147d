"""What `study` is told, as the options that it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drsn_edge.cli.options import parse_list, parse_noises
from drsn_edge.errors import UsageError
from drsn_edge.model.config import MODELS
from drsn_edge.signals.noise import parse_snr_range, parse_snr_sweep
from drsn_edge.training.study import StudyOptions


def parse(*, models: str, fold: str, noise: str, snr: str, train_snr: str, seeds: int, **rest: Any) -> StudyOptions:
    """The options of the grid.

    Raises:
        UsageError: A name or a number that cannot be read, or options that do not fit together.
    """
    return StudyOptions(
        models=parse_list(models, what="model", known=MODELS),
        folds=parse_folds(fold),
        noises=parse_noises(noise),
        snrs_db=parse_snr_sweep(snr),
        train_snr_db=None if train_snr == "none" else parse_snr_range(train_snr),
        seeds=tuple(range(seeds)),
        **rest,
    )


def parse_folds(text: str) -> tuple[int, ...] | None:
    """`0,2` as a tuple; `all` as None.

    Raises:
        UsageError: Anything else.
    """
    if text == "all":
        return None
    items = [item.strip() for item in text.split(",")]
    if not all(item.isdecimal() for item in items):
        raise UsageError("--fold is not understood", got=text, expected="all, or numbers from 0, as 0,2")
    return tuple(int(item) for item in items)


def parse_confusion(text: str | None) -> tuple[float | None, ...] | None:
    """`-6,0,clean` as ratios, None for clean; no text as None.

    Raises:
        UsageError: An item that is neither.
    """
    if text is None:
        return None
    found: list[float | None] = []
    for item in text.split(","):
        try:
            found.append(None if item.strip() == "clean" else float(item))
        except ValueError:
            raise UsageError(
                "--confusion is not understood", got=item, expected="ratios in dB or clean, as --confusion=-6,0,clean"
            ) from None
    return tuple(found)


def check_given(dataset: str | None, out: Path | None) -> tuple[str, Path]:
    """What a study cannot be without.

    Raises:
        UsageError: One of them is absent.
    """
    if dataset is None or out is None:
        raise UsageError(
            "a study needs a data set and a folder",
            got=f"{dataset or 'no DATASET'}, {out or 'no --out'}",
            expected="study DATASET --out DIR, or study --summarise DIR",
        )
    return dataset, out


def check_summarise(dataset: str | None, out: Path | None) -> None:
    """Refuse what `--summarise` would ignore.

    Raises:
        UsageError: A data set or another folder was given.
    """
    if dataset is not None or out is not None:
        raise UsageError(
            "--summarise takes the folder of the study alone",
            got=", ".join(str(item) for item in (dataset, out) if item is not None),
            expected="study --summarise DIR",
        )
