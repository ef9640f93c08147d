"""One cell of a study, in a worker process: train, fit the temperature, score, write the result by rename."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from drsn_edge.errors import DrsnError, UsageError
from drsn_edge.files import write_json
from drsn_edge.parity.study_cell import CellScore, StudyCell
from drsn_edge.pipeline.study_result import CELLS
from drsn_edge.pipeline.train import cut_part, new_network
from drsn_edge.signals.datasets import Dataset, load_dataset
from drsn_edge.signals.splits import PARTS, Part, Split, split
from drsn_edge.signals.windows import Windows
from drsn_edge.training.study import Cell, StudyOptions
from drsn_edge.training.workers import Tell

if TYPE_CHECKING:
    import torch

    from drsn_edge.model.network import Network
    from drsn_edge.training.options import FitOptions
    from drsn_edge.training.records import FitResult

WORK = "work"


@dataclass(frozen=True)
class Setup:
    """What every cell of a study has in common.

    Attributes:
        dataset: By name.
        where: Group values that recordings were chosen by, as pairs.
        options: With `epochs` given.
        out: Folder of the study.
        device: Where cells are made, `cpu` or `cuda`.
    """

    dataset: str
    where: tuple[tuple[str, str], ...]
    options: StudyOptions
    out: Path
    device: str = "cpu"


def cell_file(out: Path, cell: Cell) -> Path:
    """Where a finished cell is."""
    return out / CELLS / f"{cell.key}.json"


def run_cell(setup: Setup, cell: Cell, tell: Tell) -> None:
    """Make one cell; `tell` is given the epochs done, every time.

    The state of the training lies under `work/` until the cell is whole: a cell that was killed goes on where it was.

    Raises:
        DrsnError: As for `train`.
    """
    import torch

    from drsn_edge.training.compute import find_device
    from drsn_edge.training.confidence import temperature_of
    from drsn_edge.training.evaluate import evaluate

    torch.set_num_threads(1)  # one core for each worker
    options = setup.options
    place = find_device(setup.device)
    data, parts, windows = _prepared(setup, cell.fold, cell.seed)
    work = setup.out / WORK / cell.key
    fitting = fit_options(options, cell)
    began = time.perf_counter()
    network, result = _fit(
        data, parts, windows, cell, preset=options.preset, options=fitting, work=work, tell=tell, place=place
    )
    temperature = temperature_of(network, windows["validation"], fitting).value
    trained = time.perf_counter()
    scores = evaluate(
        network,
        windows["test"],
        noise=(cell.noise,),
        snrs=options.snrs_db,
        draws=options.draws,
        temperature=temperature,
    )
    names = CellScore.__dataclass_fields__
    done = StudyCell(
        model=cell.model,
        noise=cell.noise,
        fold=cell.fold,
        seed=cell.seed,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        epochs=len(result.records),
        best_epoch=result.best.epoch,
        temperature=temperature,
        train_seconds=trained - began,
        score_seconds=time.perf_counter() - trained,
        windows={part: len(windows[part]) for part in PARTS},
        labels=parts.labels,
        scores=tuple(CellScore(**{name: getattr(score, name) for name in names}) for score in scores),
    )
    write_json(cell_file(setup.out, cell), done.to_json())
    shutil.rmtree(work, ignore_errors=True)


def fit_options(options: StudyOptions, cell: Cell) -> FitOptions:
    """How the network of a cell is trained."""
    from drsn_edge.training.options import FitOptions, NoiseRange

    assert options.epochs is not None
    snr = options.train_snr_db
    return FitOptions(
        epochs=options.epochs,
        batch=options.batch,
        lr=options.lr,
        noise=NoiseRange() if snr is None else NoiseRange((cell.noise,), snr, options.noise_once),
        seed=cell.seed,
    )


@lru_cache(maxsize=1)
def _dataset(setup: Setup) -> Dataset:
    options = setup.options
    return load_dataset(
        setup.dataset, where=dict(setup.where), protocol=options.protocol, window=options.window, hop=options.hop
    )


@lru_cache(maxsize=1)  # cells come seed by seed, fold by fold
def _prepared(setup: Setup, fold: int, seed: int) -> tuple[Dataset, Split, Mapping[Part, Windows]]:
    data = _dataset(setup)
    parts = split(data, protocol=setup.options.protocol, fold=fold, seed=seed)
    return data, parts, {part: cut_part(data, parts, part) for part in PARTS}


def _fit(
    data: Dataset,
    parts: Split,
    windows: Mapping[Part, Windows],
    cell: Cell,
    *,
    preset: str,
    options: FitOptions,
    work: Path,
    tell: Tell,
    place: torch.device,
) -> tuple[Network, FitResult]:
    from drsn_edge.training.loop import fit
    from drsn_edge.training.state import STATE, State

    def attempt(*, resume: bool) -> tuple[Network, FitResult]:
        network = new_network(data, parts, model=cell.model, preset=preset, seed=cell.seed).to(place)
        watch = _Epochs(tell)
        result = fit(
            network,
            windows["train"],
            windows["validation"],
            options=options,
            out=work,
            force=not resume,
            resume=resume,
            progress=watch,
        )
        return network, result

    if (work / STATE).is_file():
        try:
            State.load(work)
            return attempt(resume=True)
        except DrsnError as error:
            # Of another version, or damaged: the cell is made anew. A training that diverged does so again.
            if isinstance(error, UsageError) and "diverged" in error.what:
                raise
    return attempt(resume=False)


class _Epochs:
    """Progress that tells how many epochs are done."""

    def __init__(self, tell: Tell) -> None:
        self._tell, self._done = tell, 0

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[_Epochs]:
        del title, total
        yield self

    def advance(self, amount: int = 1, note: str | None = None) -> None:
        del note
        self._done += amount
        self._tell(self._done)

    def notice(self, text: str) -> None:
        pass
