"""`adapt`: a trained network goes on with a few recordings of another machine; scores before and after, on both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from drsn_edge.errors import ContractError, InputError, UsageError
from drsn_edge.extras import require
from drsn_edge.files import check_output
from drsn_edge.pipeline.data import open_data
from drsn_edge.pipeline.train import cut_part, train
from drsn_edge.progress import SILENT, Progress
from drsn_edge.signals.datasets import load_dataset
from drsn_edge.signals.noise import Noise
from drsn_edge.signals.splits import PARTS, Part, split

if TYPE_CHECKING:
    from drsn_edge.model.checkpoint import Checkpoint
    from drsn_edge.signals.windows import Windows
    from drsn_edge.training.evaluate import Score

# A tenth of what a network begins with: it is to go on, not to begin anew.
LR = 0.01
NO_OLD = "none"


@dataclass(frozen=True)
class SiteScore:
    """One network on one site's test windows.

    Attributes:
        site: `old` or `new`.
        network: `before` or `after`.
        score: Of its decisions under one condition.
    """

    site: str
    network: str
    score: Score

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "site": self.site,
            "network": self.network,
            "condition": self.score.condition,
            "windows": self.score.windows,
            "balanced_accuracy": self.score.balanced_accuracy,
        }


@dataclass(frozen=True)
class AdaptResult:
    """What `adapt` did.

    Attributes:
        run: The new run.
        source: The run that it began with.
        datasets: By site; without the old one where nobody wanted it.
        windows: Of the new site, by part.
        scores: Of both networks on each site.
        notes: What the user should know.
    """

    run: Path
    source: Path
    datasets: Mapping[str, str]
    windows: Mapping[Part, int]
    scores: tuple[SiteScore, ...]
    notes: tuple[str, ...]

    def change(self, site: str, condition: str = "clean") -> float:
        """By how much the balanced accuracy on a site has changed."""
        found = {
            item.network: item.score.balanced_accuracy
            for item in self.scores
            if item.site == site and item.score.condition == condition
        }
        return found["after"] - found["before"]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "format_version": 1,
            "run": str(self.run),
            "source": str(self.source),
            "datasets": dict(self.datasets),
            "windows": dict(self.windows),
            "scores": [item.to_json() for item in self.scores],
            "change": {site: self.change(site) for site in self.datasets} if self.scores else {},
            "notes": list(self.notes),
        }


def adapt(
    source: Path,
    dataset: str,
    *,
    out: Path,
    old: str | None = None,
    where: Mapping[str, str] | None = None,
    protocol: str = "time",
    fold: int = 0,
    epochs: int | None = None,
    batch: int = 128,
    lr: float = LR,
    seed: int = 0,
    draws: int = 10,
    force: bool = False,
    dry_run: bool = False,
    threads: int = 1,
    progress: Progress = SILENT,
) -> AdaptResult:
    """Go on training a run on the recordings of another site, and score both networks on both sites' test windows.

    Args:
        source: A run that `train` made.
        dataset: Recordings of the new site, by name; its classes and its contract must be those of the run.
        out: The new run.
        old: The data set of the old site; the one that the run was trained on by default, `none` to do without.
        where: Group values that the new recordings are chosen by.
        protocol: How the new recordings are split, as for `train`.
        fold: Likewise.
        epochs: As for `train`.
        batch: Windows per step.
        lr: Learning rate; a tenth of that of a network that begins anew.
        seed: Of order and noise.
        draws: Noise draws for each window that is scored.
        force: Replace the run in `out`.
        dry_run: Check everything, train and write nothing.
        threads: CPU threads.
        progress: Where steps go.

    Raises:
        UsageError: The run does not say what it was trained on; as `train`.
        ContractError: Recordings of another contract, or other classes than the run's.
        InputError: No windows of some class to train on or to be judged by; as `train`.
        MissingDependency: As `train`.
    """
    require("torch", "safetensors", purpose="training")
    from drsn_edge.model.checkpoint import load_checkpoint

    check_output(out, force=force)
    before = load_checkpoint(source)
    record = before.training
    if record is None:
        raise UsageError(
            "the run does not say what it was trained on", got=source, expected="a run that `drsn-edge train` made"
        )
    sites = {"new": dataset} if old == NO_OLD else {"old": old or record.dataset, "new": dataset}
    noises = cast("tuple[Noise, ...]", record.noises)  # as it was trained
    notes: list[str] = []
    # Everything is looked at before anything is trained.
    fresh = _new_site(dataset, before, where=where or {}, protocol=protocol, fold=fold, seed=seed)
    found = {site: fresh["test"] if site == "new" else _old_site(spec, before, notes) for site, spec in sites.items()}
    done = train(
        dataset,
        out=out,
        model=before.config.model,
        preset="init",
        protocol=protocol,
        fold=fold,
        where=where,
        noise=noises,
        snr=record.snr_db,
        noise_once=record.noise_once,
        epochs=epochs,
        batch=batch,
        lr=lr,
        seed=seed,
        window=before.contract.window,
        hop=before.contract.hop,
        init=source,
        force=force,
        dry_run=dry_run,
        threads=threads,
        progress=progress,
    )
    notes += done.notes
    if dry_run:
        return AdaptResult(out, source, sites, done.windows, (), tuple(dict.fromkeys(notes)))
    after = load_checkpoint(out)
    scores = [
        item
        for site, windows in found.items()
        for network, checkpoint in (("before", before), ("after", after))
        for item in _scores(site, network, checkpoint, windows, noises, seed=seed, draws=draws)
    ]
    return AdaptResult(out, source, sites, done.windows, tuple(scores), tuple(dict.fromkeys(notes)))


def _new_site(
    dataset: str, before: Checkpoint, *, where: Mapping[str, str], protocol: str, fold: int, seed: int
) -> dict[str, Windows]:
    """Its windows by part, of every class in each."""
    data = load_dataset(dataset, where=where, protocol=protocol, expect=before.contract)
    labels = {recording.label for recording in data.recordings}
    if labels != set(before.labels):
        raise ContractError(
            "the recordings of the new site have other classes than the run",
            got=", ".join(sorted(labels)),
            expected=", ".join(before.labels),
            hint="a network goes on with all of its classes: record what is missing, leave others out by --where",
        )
    parts = split(data, protocol=protocol, fold=fold, seed=seed)
    windows = {str(part): cut_part(data, parts, part) for part in PARTS}
    purposes = {"train": "to train on", "validation": "to choose the epoch by", "test": "to be judged by"}
    for part, purpose in purposes.items():
        # A protocol may also have left out classes that are not in every group.
        absent = sorted(set(before.labels) - {windows[part].labels[index] for index in windows[part].y})
        if absent:
            raise InputError(
                f"the new site has no windows {purpose} of every class",
                got=f"none of {', '.join(absent)} in the {part} part of {len(data.recordings)} recordings",
                expected=f"at least one window of {data.contract.window} samples of each class",
                hint="record longer or more often: by time, 60 % of a recording train, 20 % validate, 20 % test",
            )
    return windows


def _old_site(spec: str, before: Checkpoint, notes: list[str]) -> Windows:
    """Test windows that the run has not seen."""
    training = None if before.training is None else before.training.to_json()
    try:
        data = open_data(spec, contract=before.contract, labels=before.labels, training=training, split=before.split)
    except InputError as error:
        raise InputError(
            "the old site's recordings cannot be read, so nobody would know what is lost there",
            got=f"{spec}: {error.what}",
            expected="the data set that the run was trained on",
            hint=f"say where it is with --old DATASET, or do without with --old {NO_OLD}",
        ) from error
    notes += [f"old site: {note}" for note in data.notes]
    return data.windows("test", overlap=False)


def _scores(
    site: str,
    network: str,
    checkpoint: Checkpoint,
    windows: Windows,
    noises: tuple[Noise, ...],
    *,
    seed: int,
    draws: int,
) -> list[SiteScore]:
    """Clean, and with the noises of the training at 0 dB; both networks meet the same draws."""
    from drsn_edge.training.evaluate import evaluate

    levels = (0.0,) if noises else ()
    found = evaluate(checkpoint.network, windows, noise=noises, snrs=levels, draws=draws, seed=seed + 1)
    return [SiteScore(site, network, score) for score in found]
