"""`train`: load a data set, split it, cut windows, fit, keep the best epoch, score it on the test part."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drsn_edge.errors import UsageError
from drsn_edge.extras import require
from drsn_edge.files import check_output, write_json
from drsn_edge.progress import SILENT, Progress
from drsn_edge.signals.datasets import Dataset, load_dataset
from drsn_edge.signals.interference import noise_source
from drsn_edge.signals.noise import Noise
from drsn_edge.signals.splits import PARTS, Part, Split, split
from drsn_edge.signals.windows import Windows, cut

if TYPE_CHECKING:
    from drsn_edge.model.checkpoint import TrainingRecord
    from drsn_edge.model.network import Network
    from drsn_edge.pipeline.qat import QatRun
    from drsn_edge.training.compute import Amp
    from drsn_edge.training.evaluate import Score

SCORES = "scores.json"

# Steps matter, not epochs: on CWRU a thousand are worse by 0.9 points at -4 dB than two thousand.
_STEPS, _LEAST, _MOST = 2000, 20, 200
# The paper's.
_LR = 0.1


@dataclass(frozen=True)
class TrainResult:
    """A trained network.

    Attributes:
        run: The run folder: a checkpoint with `log.jsonl`, `state.pt` and `scores.json`.
        training: What the checkpoint says of the training; no scores after a dry run.
        scores: Of the test part: clean, then every kind of noise over the sweep.
        windows: How many windows each part has.
        notes: What the user should know, one sentence each.
        qat: Of a network that was trained to be quantized; `scores` are those of its FP32 form.
    """

    run: Path
    training: TrainingRecord
    scores: tuple[Score, ...]
    windows: Mapping[Part, int]
    notes: tuple[str, ...]
    qat: QatRun | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "format_version": 1,
            "run": str(self.run),
            "training": self.training.to_json(),
            "scores": [score.to_json() for score in self.scores],
            "windows": dict(self.windows),
            "notes": list(self.notes),
            "qat": None if self.qat is None else self.qat.to_json(),
        }


def train(
    dataset: str,
    *,
    out: Path,
    model: str = "drsn-cw",
    preset: str = "paper",
    protocol: str = "time",
    fold: int = 0,
    where: Mapping[str, str] | None = None,
    noise: tuple[Noise, ...] = ("gaussian",),
    snr: tuple[float, float] | None = (-6.0, 10.0),
    noise_once: bool = False,
    epochs: int | None = None,
    batch: int = 128,
    lr: float | None = None,
    seed: int = 0,
    window: int | None = None,
    hop: int | None = None,
    init: Path | None = None,
    qat: bool = False,
    quantize_first: bool = False,
    objective: str = "distil",
    force: bool = False,
    resume: bool = False,
    dry_run: bool = False,
    threads: int = 1,
    device: str = "auto",
    amp: Amp = "none",
    compile: bool = False,  # noqa: A002 - the name of the option
    progress: Progress = SILENT,
) -> TrainResult:
    """Train a network and score it on the part of the data that it has not seen.

    Started by `torchrun`, several processes share every batch; the result is that of one process but for rounding. The
    first one writes and scores; the others return no scores.

    Args:
        dataset: Name of a data set, see `load_dataset`.
        out: Run folder; from the first epoch on it is a checkpoint that can be used.
        model: `convnet`, `resnet`, `senet`, `drsn-cs` or `drsn-cw`.
        preset: `paper` or `edge`, see `NetworkConfig.preset`; `init` takes the network of `init`, whatever its widths.
        protocol: How recordings are split, see `split`.
        fold: Which group tests, for protocols that leave one out.
        where: Only recordings of these groups.
        noise: Kinds of noise to train on, and to be scored on; none trains on the windows as they are.
        snr: Lowest and highest trained ratio in dB; None trains on the windows as they are.
        noise_once: Every training window keeps the noise of one draw through all epochs, as in the paper; by default
            each epoch has noise of its own.
        epochs: None takes `default_epochs`; with `qat` those of `QatOptions`.
        batch: Windows per step.
        lr: Learning rate of the first stage; None takes 0.1, with `qat` that of `QatOptions`.
        seed: Of weights, order and noise; and of the split where it is `random`.
        window: Samples per window, instead of the data set's own.
        hop: Samples from window to window in training, instead of the data set's own.
        init: Start from the weights of this run instead of random ones.
        qat: Train the network of `init` to decide in INT8 as it does in FP32. Everything about network, split and noise
            comes from that run.
        quantize_first: With `qat`: the first convolution in int8 too.
        objective: With `qat`: `distil` towards the decisions of `init`, or `labels`.
        force: Replace the run in `out`.
        resume: Go on with the run in `out`, which was killed; equal to one that never stopped.
        dry_run: Check everything, train and write nothing.
        threads: CPU threads. One by default: the run is then the same on every machine, and does not crawl on a busy
            one (two threads that spin for each other were seen to take 25 times as long). Each process has so many.
        device: `cpu`, `cuda`, or `auto` for a GPU where there is one.
        amp: Mixed precision, see `Compute`.
        compile: Let `torch.compile` make the kernels, see `Compute`.
        progress: Told of epochs and conditions.

    Raises:
        UsageError: Options that do not fit together, an output that exists, nothing to resume.
        InputError: Data that cannot be used, fewer than two classes.
        MissingDependency: torch is not installed, or nothing that compiles.
        MissingDevice: No GPU where one was asked for, or not one for each process.
    """
    require("torch", "safetensors", purpose="training")
    from drsn_edge.model.checkpoint import CONFIG, SPLIT, WEIGHTS, Checkpoint, TrainingRecord, save_checkpoint
    from drsn_edge.training.compute import Compute, cpu_threads, find_device
    from drsn_edge.training.confidence import temperature_of
    from drsn_edge.training.evaluate import evaluate
    from drsn_edge.training.loop import check_windows, fit
    from drsn_edge.training.options import FitOptions, NoiseRange
    from drsn_edge.training.parallel import processes
    from drsn_edge.training.records import EpochRecord

    if qat:
        from drsn_edge.pipeline.qat import train_qat

        return train_qat(
            dataset,
            out=out,
            init=init,
            asked={
                "model": (model, "drsn-cw"), "preset": (preset, "paper"), "protocol": (protocol, "time"),
                "fold": (fold, 0), "noise": (tuple(noise), ("gaussian",)), "snr": (snr, (-6.0, 10.0)),
                "window": (window, None), "hop": (hop, None), "device": (device, "auto"), "amp": (amp, "none"),
                "noise-once": (noise_once, False),
                "compile": (compile, False), "resume": (resume, False),
            },
            given={"epochs": epochs, "batch": batch, "lr": lr, "seed": seed, "objective": objective},
            where=where,
            quantize_first=quantize_first,
            force=force,
            dry_run=dry_run,
            threads=threads,
            progress=progress,
        )  # fmt: skip
    if quantize_first or objective != "distil":
        raise UsageError(
            "the option is one of quantization-aware training",
            got="--quantize-first" if quantize_first else f"--objective {objective}", expected="it together with --qat",
            hint="add --qat --init RUN",
        )  # fmt: skip
    compute, place = Compute(amp=amp, compile=compile), find_device(device)
    with processes(place) as group, cpu_threads(threads):
        compute.check(place, group)
        if group.leads:
            _check_out(out, force=force, resume=resume)
        noisy = bool(noise) and snr is not None
        data = load_dataset(dataset, where=where or {}, protocol=protocol, window=window, hop=hop)
        parts = split(data, protocol=protocol, fold=fold, seed=seed)
        windows = {part: cut_part(data, parts, part) for part in PARTS}
        for part in PARTS:
            windows[part].source.check(noise)
        options = FitOptions(
            epochs=default_epochs(len(windows["train"]), batch) if epochs is None else epochs,
            batch=batch,
            lr=_LR if lr is None else lr,
            noise=NoiseRange(tuple(noise) if noisy else (), snr if noisy else None, noise_once),
            seed=seed,
        )
        network = new_network(data, parts, model=model, preset=preset, seed=seed, init=init).to(place)
        check_windows(network, windows["train"], windows["validation"])
        record = TrainingRecord(
            dataset=dataset,
            where=dict(where or {}),
            protocol=protocol,
            fold=fold,
            seed=seed,
            noises=options.noise.kinds,
            snr_db=options.noise.snr_db,
            noise_once=options.noise.once,
            epochs=options.epochs,
            device=place.type,
            amp=compute.amp,
            compile=compute.compile,
            processes=group.count,
        )
        notes = (*data.notes, *parts.notes)
        counts = {part: len(windows[part]) for part in PARTS}
        if dry_run:
            return TrainResult(out, record, (), counts, (*notes, "Dry run: nothing was trained or written."))

        def save(**changes: Any) -> TrainingRecord:
            done = dataclasses.replace(record, **changes)
            save_checkpoint(out, Checkpoint(network, data.contract, parts.labels, done, parts))
            return done

        def keep(best: EpochRecord) -> None:
            # A run that is killed leaves the best epoch so far, and says how far it came.
            save(epochs=best.epoch, best_epoch=best.epoch)

        if force and group.leads:
            for name in (
                CONFIG,
                WEIGHTS,
                SPLIT,
                SCORES,
            ):  # the old configuration first: without it there is no checkpoint
                (out / name).unlink(missing_ok=True)
        result = fit(
            network,
            windows["train"],
            windows["validation"],
            options=options,
            out=out,
            force=force,
            resume=resume,
            compute=compute,
            processes=group,
            on_best=keep,
            progress=progress,
        )
        if not group.leads:
            return TrainResult(out, record, (), counts, notes)
        temperature = temperature_of(network, windows["validation"], options).value
        scores = evaluate(
            network,
            windows["test"],
            noise=tuple(noise) or ("gaussian",),
            temperature=temperature,
            progress=progress,
        )
        done = save(
            best_epoch=result.best.epoch,
            temperature=temperature,
            scores={f"test {score.condition}": score.balanced_accuracy for score in scores},
        )
        trained = TrainResult(out, done, scores, counts, notes)
        table = {key: value for key, value in trained.to_json().items() if key != "run"}
        write_json(out / SCORES, table | {"labels": list(parts.labels)})
        return trained


def default_epochs(windows: int, batch: int) -> int:
    """Epochs for about two thousand steps, between 20 and 200."""
    steps = max(1, -(-windows // batch))
    return min(_MOST, max(_LEAST, -(-_STEPS // steps)))


def _check_out(out: Path, *, force: bool, resume: bool) -> None:
    if force and resume:
        raise UsageError(
            "a run cannot be both replaced and resumed",
            got="--force and --resume",
            expected="one of them",
            hint="--resume goes on with the run, --force starts anew",
        )
    if not resume:
        check_output(out, force=force)
    if out.exists() and not out.is_dir():
        raise UsageError("the output is a file", got=out, expected="a folder, or a new name")


def cut_part(data: Dataset, parts: Split, part: Part) -> Windows:
    """Windows of a part: a hop apart to train on, without overlap to judge by."""
    hop = data.contract.hop if part == "train" else data.contract.window
    source = noise_source(data, parts, part)
    return cut(data, parts.segments(part, data), data.contract, hop=hop, labels=parts.labels, source=source)


def new_network(
    data: Dataset, parts: Split, *, model: str, preset: str, seed: int, init: Path | None = None
) -> Network:
    """A new network, or that of an earlier run when it is of the same kind."""
    import torch

    from drsn_edge.model.checkpoint import load_checkpoint
    from drsn_edge.model.config import NetworkConfig
    from drsn_edge.model.network import Network

    contract = data.contract
    earlier = None if init is None else load_checkpoint(init)
    if preset == "init":
        if earlier is None:
            raise UsageError("the preset is that of an earlier run", got="--preset init", expected="it with --init RUN")
        config = earlier.config
    else:
        config = NetworkConfig.preset(
            preset,
            model=model,
            classes=len(parts.labels),
            in_channels=len(contract.channels),
            dims=1 if contract.image is None else 2,
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(config, contract)
    if earlier is None:
        return network
    differences = earlier.contract.differences(dataclasses.replace(contract, hop=earlier.contract.hop))
    if earlier.config != config:
        differences.append(f"network: {earlier.config} and {config}")
    if earlier.labels != parts.labels:
        differences.append(f"labels: {', '.join(earlier.labels)} and {', '.join(parts.labels)}")
    if differences:
        raise UsageError(
            f"the weights of {init} are of another kind",
            got="; ".join(differences),
            expected="the same network, contract and labels",
            hint="give its --model, --preset (or --preset init) and --window, or leave --init out",
        )
    network.load_state_dict(earlier.network.state_dict())
    return network
