"""`study`: train a grid of networks, noises, folds and seeds, cell by cell, and say what differs and how surely."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from drsn_edge.errors import InputError, UsageError
from drsn_edge.extras import require
from drsn_edge.files import read_json, sha256_bytes, write_json
from drsn_edge.pipeline.study_result import CELLS, CONFIG, FORMAT, RESULT, StudyResult, gather, write_results
from drsn_edge.pipeline.study_worker import WORK, Setup, cell_file, fit_options, run_cell
from drsn_edge.pipeline.train import cut_part, default_epochs, new_network
from drsn_edge.progress import SILENT, Progress
from drsn_edge.runtime.cpus import usable_cpus
from drsn_edge.signals.datasets import Dataset, load_dataset
from drsn_edge.signals.protocols import fold_count
from drsn_edge.signals.splits import split
from drsn_edge.training.study import Cell, StudyOptions, check_same, options_json
from drsn_edge.training.workers import run_jobs

LOCK = ".lock"


def study(
    dataset: str,
    *,
    out: Path,
    options: StudyOptions | None = None,
    where: Mapping[str, str] | None = None,
    confusion: Sequence[float | None] | None = None,
    workers: int | None = None,
    device: str = "auto",
    dry_run: bool = False,
    progress: Progress = SILENT,
) -> StudyResult:
    """Train and score every cell of a grid that is not finished yet, and summarise all that are.

    Every cell trains on one kind of noise and is scored on the test part, clean and at every ratio; all networks see
    the same noise draws. A cell appears in `cells/` when it is whole. A study that was killed goes on with the same
    command; with more models, noises, folds or seeds it grows.

    Args:
        dataset: Name of a data set, see `load_dataset`.
        out: Folder of the study.
        options: The grid, and how each cell is trained and scored.
        where: Only recordings of these groups.
        confusion: Ratios whose decisions are shown class by class, None for clean; by default clean, 0 dB and the
            lowest trained ratio.
        workers: Processes, one thread each; by default one for each core, or for each GPU. They are spawned: a script
            needs the usual `if __name__ == "__main__":`.
        device: `cpu`, `cuda`, or `auto` for GPUs where there are any; workers take them in turn.
        dry_run: Check everything, train and write nothing.
        progress: Told of epochs and cells.

    Raises:
        UsageError: Options that do not fit together, a folder that holds something else or is in use.
        InputError: Data that cannot be used.
        DrsnError: The first error of a cell, after all others have been made.
        MissingDependency: torch is not installed.
        MissingDevice: No GPU where one was asked for.
    """
    require("torch", "safetensors", purpose="training")
    options = options or StudyOptions()
    if workers is not None and workers < 1:
        raise UsageError("the number of workers cannot be used", got=workers, expected="at least 1")
    data = load_dataset(dataset, where=where or {}, protocol=options.protocol, window=options.window, hop=options.hop)
    folds, epochs, notes = _check_data(data, options)
    options = dataclasses.replace(options, epochs=epochs)
    grid = options.cells(folds)
    gpus = _gpus(device)
    # Another device draws other noise.
    identity = _identity(data, options) | ({"device": "cuda"} if gpus else {})
    config = {
        "dataset": dataset,
        "where": dict(where or {}),
        "options": options_json(options, folds, epochs),
        "identity": identity,
    }
    _check_folder(out, identity)
    todo = [cell for cell in grid if not cell_file(out, cell).is_file()]
    if dry_run:
        said = f"Dry run: {len(todo)} of {len(grid)} cells of {epochs} epochs would be trained; nothing was written."
        return gather(out, config, len(grid), confusion, (*notes, said))
    (out / CELLS).mkdir(parents=True, exist_ok=True)
    with _locked(out):
        write_json(out / CONFIG, {"format_version": FORMAT, "planned": len(grid), **config})
        setup = Setup(dataset, tuple(sorted((where or {}).items())), options, out, "cuda" if gpus else "cpu")
        count = min(workers or gpus or usable_cpus(), max(len(todo), 1))
        _run(setup, todo, grid, count, gpus, config, confusion, notes, progress)
        with contextlib.suppress(OSError):  # the state of cells that were begun and are not in this grid
            (out / WORK).rmdir()
        return write_results(gather(out, config, len(grid), confusion, notes))


def _run(
    setup: Setup,
    todo: Sequence[Cell],
    grid: Sequence[Cell],
    workers: int,
    gpus: int,
    config: Mapping[str, Any],
    confusion: Sequence[float | None] | None,
    notes: tuple[str, ...],
    progress: Progress,
) -> None:
    assert setup.options.epochs is not None
    told = dict.fromkeys(todo, 0)
    finished = len(grid) - len(todo)
    with progress.step("study", total=len(todo) * setup.options.epochs) as step:

        def epochs(cell: Cell, done: int) -> None:
            # A cell that is tried again starts from what it had kept: epochs are counted once.
            step.advance(max(done - told[cell], 0), note=f"{finished} of {len(grid)} cells, {cell.key}")
            told[cell] = max(done, told[cell])

        def end(cell: Cell) -> None:
            nonlocal finished
            finished += 1
            partial = gather(setup.out, config, len(grid), confusion, notes)
            write_json(setup.out / RESULT, partial.to_json())
            step.advance(0, note=f"{finished} of {len(grid)} cells, {cell.key}")

        failures = run_jobs(todo, run_cell, setup, workers=workers, gpus=gpus, on_message=epochs, on_done=end)
    if failures:
        error = failures[0].error
        raise type(error)(
            f"{len(failures)} of {len(grid)} cells could not be made; {failures[0].job.key}: {error.what}",
            got=error.got,
            expected=error.expected,
            hint=error.hint or "the other cells are kept: give the command again to try these once more",
        )


def _gpus(device: str) -> int:
    """How many GPUs make cells; 0 for the CPU."""
    import torch

    from drsn_edge.training.compute import find_device

    return torch.cuda.device_count() if find_device(device).type == "cuda" else 0


def _check_data(data: Dataset, options: StudyOptions) -> tuple[tuple[int, ...], int, tuple[str, ...]]:
    """Folds, epochs and notes, after every fold was split and the first was cut."""
    from drsn_edge.training.loop import check_windows

    split(data, protocol=options.protocol)  # the errors of the protocol, before folds are counted
    folds = options.folds or tuple(range(fold_count(data, options.protocol)))
    parts = [split(data, protocol=options.protocol, fold=fold) for fold in folds]
    notes = dict.fromkeys([*data.notes, *(note for item in parts for note in item.notes)])
    windows, validation = cut_part(data, parts[0], "train"), cut_part(data, parts[0], "validation")
    for part in (windows, validation, cut_part(data, parts[0], "test")):
        part.source.check(options.noises)
    epochs = options.epochs or default_epochs(len(windows), options.batch)
    network = new_network(data, parts[0], model=options.models[0], preset=options.preset, seed=0)
    check_windows(network, windows, validation)
    return folds, epochs, tuple(notes)


def _identity(data: Dataset, options: StudyOptions) -> dict[str, Any]:
    """Everything that the figures of a cell depend on, beside its place in the grid."""
    fitting = fit_options(options, Cell(options.models[0], options.noises[0], 0, 0)).to_json()
    fingerprints = "".join(recording.fingerprint for recording in data.recordings)
    return {
        **{name: value for name, value in fitting.items() if name not in ("noise", "seed")},
        # Absent where it is not asked for, as in studies that were begun before it could be.
        **({"noise_once": True} if options.noise_once else {}),
        "train_snr_db": None if options.train_snr_db is None else list(options.train_snr_db),
        "preset": options.preset,
        "protocol": options.protocol,
        "snrs_db": list(options.snrs_db),
        "draws": options.draws,
        "contract": data.contract.to_json(),
        "labels": list(data.labels),
        "recordings": f"{len(data.recordings)}, sha256 {sha256_bytes(fingerprints.encode())[:16]}",
    }


def _check_folder(out: Path, identity: Mapping[str, Any]) -> None:
    if (out / CONFIG).is_file():
        value = read_json(out / CONFIG, what="the configuration of the study")
        before = value.get("identity")
        if value.get("format_version") != FORMAT or not isinstance(before, dict):
            raise InputError(
                "the study has another format version", got=repr(value.get("format_version")), expected=FORMAT
            )
        check_same(out, before, identity)
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            "the output holds something else than a study",
            got=out,
            expected=f"a new name, or a folder with the {CONFIG} of a study",
        )


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """One study at a time in a folder: two would train the same cells, and write into each other's state."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (out / LOCK).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                "another study is running in this folder", got=out, expected="one at a time, or another --out"
            ) from None
        yield
