"""`demo`: the whole way, from made-up vibration to a verified bundle, with nothing but this package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drsn_edge.files import check_output
from drsn_edge.pipeline.export import ExportOptions, ExportResult, export
from drsn_edge.pipeline.sweep import SweepOptions
from drsn_edge.pipeline.train import TrainResult, train
from drsn_edge.progress import SILENT, Progress

DATASET = "synthetic"
# Enough for the demonstration on two cores; a real training takes the default.
EPOCHS = 24


@dataclass(frozen=True, eq=False)
class DemoResult:
    """What `demo` made: a run and a bundle."""

    trained: TrainResult
    exported: ExportResult

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"format_version": 1, "train": self.trained.to_json(), "export": self.exported.to_json()}


def demo(
    *, out: Path, epochs: int = EPOCHS, seed: int = 0, force: bool = False, progress: Progress = SILENT
) -> DemoResult:
    """Train on the synthetic data set, export with int8 and an engine, verify, report.

    Args:
        out: Folder for `run` and `demo.drsn`.
        epochs: Of the training.
        seed: Of everything.
        force: Replace what is there.
        progress: Where steps go.

    Raises:
        UsageError: `out` exists and `force` is false.
    """
    check_output(out, force=force)
    trained = train(DATASET, out=out / "run", epochs=epochs, seed=seed, force=force, progress=progress)
    exported = export(
        out / "run",
        out=out / "demo.drsn",
        calibrate=DATASET,
        options=ExportOptions(seed=seed),
        sweep=SweepOptions(draws=10, snrs_db=(-8, -4, 0, 4, 8)),
        force=force,
        progress=progress,
    )
    return DemoResult(trained, exported)


def check_demo(*, out: Path, epochs: int = EPOCHS, seed: int = 0, force: bool = False) -> TrainResult:
    """Everything that `demo` checks before it starts, and what it would train; writes nothing.

    Arguments and errors as for `demo`.
    """
    check_output(out, force=force)
    return train(DATASET, out=out / "run", epochs=epochs, seed=seed, force=force, dry_run=True)
