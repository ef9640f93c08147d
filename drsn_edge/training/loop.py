"""The training loop: the paper's recipe, seeded, resumable, the best epoch kept.

Zhao et al. 2020, section IV: stochastic gradient descent with momentum 0.9, the learning rate in three stages, L2 of
1e-4, batches of 128, cross-entropy. Ours: fresh noise in every epoch (the paper adds it once), and a validation part
that decides which epoch is kept (`EpochRecord.preferred_to`).
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drsn_edge.errors import InputError, UsageError
from drsn_edge.files import check_output, sha256_bytes, write_bytes
from drsn_edge.model.network import Network
from drsn_edge.model.weights import weight_bytes
from drsn_edge.progress import SILENT, Progress
from drsn_edge.signals.windows import Windows
from drsn_edge.training.compute import Compute, TrainStep
from drsn_edge.training.metrics import balanced_accuracy
from drsn_edge.training.options import FitOptions
from drsn_edge.training.parallel import ALONE, Processes, synchronised
from drsn_edge.training.records import EpochRecord, FitResult, choose
from drsn_edge.training.schedule import learning_rates
from drsn_edge.training.sources import Rows, Source
from drsn_edge.training.sources import source as make_source
from drsn_edge.training.state import STATE, State

LOG = "log.jsonl"


def fit(
    network: Network,
    train: Windows,
    validation: Windows,
    *,
    options: FitOptions,
    out: Path | None = None,
    force: bool = False,
    resume: bool = False,
    compute: Compute | None = None,
    processes: Processes = ALONE,
    on_best: Callable[[EpochRecord], None] | None = None,
    progress: Progress = SILENT,
) -> FitResult:
    """Train a network in place, on the device that it is on.

    Args:
        network: With the weights to start from; with those of the best epoch afterwards.
        train: Raw windows, any hop.
        validation: Raw windows that decide which epoch is kept.
        options: See `FitOptions`. Equal options, weights and windows give equal results on one machine with the same
            number of threads.
        out: Folder for `log.jsonl` and `state.pt`, both written after every epoch; None keeps nothing.
        force: Start anew in a folder that holds a run.
        resume: Go on with the run in `out`; the weights come out as if it had never stopped, whatever the number of
            processes before and now (but for rounding where it changed).
        compute: Precision and compilation.
        processes: Those that train it together, with equal arguments; `out` is written, and `on_best` called, by the
            one that leads.
        on_best: Called after every epoch that is preferred to all before it; the network holds its weights then.
        progress: Told of every epoch.

    Raises:
        UsageError: `out` exists and neither `force` nor `resume` is given; nothing to resume, or a run of something
            else; noise that the windows cannot have; fewer windows in a batch than processes; the training diverged.
        InputError: Windows that do not fit the network, fewer than two, or of one class only; other windows in another
            process.
    """
    check_windows(network, train, validation)
    for windows in (train, validation):
        windows.source.check(options.noise.kinds)
    rates = learning_rates(options.epochs, options.lr)
    step = TrainStep(network, make_optimizer(network, options), compute=compute, processes=processes)
    identity = _identity(step, train, validation, options)
    _check_processes(processes, identity, min(options.batch, len(train)))
    records: list[EpochRecord] = []
    best_state = _copy(network)
    if resume:
        if out is None:
            raise UsageError("a run can only go on where it was kept", got="resume without out", expected="its folder")
        state = processes.from_leader(State.load(out) if processes.leads else None)
        assert state is not None
        state.check(identity)
        network.load_state_dict(dict(state.network))
        step.load_state_dict(state.optimizer)
        best_state = {name: value.to(step.device) for name, value in state.best.items()}
        records = [EpochRecord(**record) for record in state.log]
    elif out is not None and processes.leads:
        check_output(out, force=force)
        out.mkdir(parents=True, exist_ok=True)
        for name in (STATE, LOG):
            (out / name).unlink(missing_ok=True)
    batches = make_source(train, validation, options, step.device, processes)
    with synchronised(network, processes), progress.step("training", total=options.epochs) as bar:
        bar.advance(len(records))
        for epoch in range(len(records) + 1, options.epochs + 1):
            record = _epoch(step, batches, epoch, rates[epoch - 1])
            records.append(record)
            if choose(records, validation.independent) is record:
                best_state = _copy(network)
                if on_best is not None and processes.leads:
                    on_best(record)
            if out is not None and processes.leads:
                log = tuple(dataclasses.asdict(item) for item in records)
                State(identity, epoch, network.state_dict(), step.state_dict(), best_state, log).save(out)
                write_bytes(out / LOG, "".join(json.dumps(line) + "\n" for line in log).encode())
            bar.advance(
                1, note=f"loss {record.train_loss:.3f}, validation {100 * record.validation_balanced_accuracy:.1f} %"
            )
    network.load_state_dict(best_state)
    network.eval()
    return FitResult(tuple(records), choose(records, validation.independent))


def make_optimizer(network: nn.Module, options: FitOptions) -> torch.optim.SGD:
    """Gradient descent with decay on the weights of convolutions and fully connected layers only."""
    decayed = {module.weight for module in network.modules() if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear)}
    groups = [
        {"params": [p for p in network.parameters() if p in decayed], "weight_decay": options.decay},
        {"params": [p for p in network.parameters() if p not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum, fused=True)


def _epoch(step: TrainStep, batches: Source, epoch: int, lr: float) -> EpochRecord:
    began = time.perf_counter()
    for group in step.optimizer.param_groups:
        group["lr"] = lr
    train_loss, train_accuracy, seen = train_epoch(step, batches.epoch(epoch))
    speed = seen / (time.perf_counter() - began)
    accuracy, validation_loss = validate(step.network, batches.validation(), step.processes)
    if not (math.isfinite(train_loss) and math.isfinite(validation_loss)):
        raise UsageError(
            f"the training diverged in epoch {epoch}",
            got=f"training loss {train_loss:g}, validation loss {validation_loss:g}",
            expected="finite losses",
            hint=f"train with a smaller --lr than {step.optimizer.defaults['lr']:g}",
        )
    return EpochRecord(
        epoch=epoch,
        lr=lr,
        train_loss=train_loss,
        train_accuracy=train_accuracy,
        validation_balanced_accuracy=accuracy,
        validation_loss=validation_loss,
        seconds=time.perf_counter() - began,
        windows_per_s=speed,
    )


def train_epoch(step: TrainStep, batches: Iterable[Rows]) -> tuple[float, float, int]:
    """One pass over the windows: mean loss, accuracy, and how many windows were seen by all processes."""
    step.network.train()
    sums = torch.zeros(2, dtype=torch.float64, device=step.device)
    seen = 0
    for x, target, total in batches:
        loss_sum, count = step(x, target, total)
        sums[0] += loss_sum  # on the device: nothing waits for it
        sums[1] += count
        seen += total
    loss, right = step.processes.summed(sums).tolist()
    return loss / seen, right / seen, seen


def validate(network: Network, batches: Iterable[Rows], processes: Processes = ALONE) -> tuple[float, float]:
    """Balanced accuracy and mean cross-entropy over this process's batches and those of all others."""
    device = next(network.parameters()).device
    classes = network.config.classes
    network.eval()
    counts = torch.zeros(classes * classes, dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    with torch.inference_mode():
        for x, target, _ in batches:
            logits = network(x)
            loss += F.cross_entropy(logits, target, reduction="sum")
            counts += torch.bincount(target * classes + logits.argmax(dim=1), minlength=len(counts))
    everything = processes.summed(torch.cat([loss[None], counts.double()])).cpu().numpy()
    confusion = everything[1:].round().astype("int64").reshape(classes, classes)
    return balanced_accuracy(confusion), float(everything[0]) / int(confusion.sum())


def check_windows(network: Network, train: Windows, validation: Windows) -> None:
    """Refuse windows that a network cannot be trained on.

    Raises:
        InputError: Another shape, other classes, or fewer than two classes present.
    """
    for name, windows in (("training", train), ("validation", validation)):
        config = network.config
        if windows.x.ndim != config.dims + 2 or windows.x.shape[1] != config.in_channels:
            raise InputError(
                f"the {name} windows do not fit the network",
                got=list(windows.x.shape),
                expected=f"{config.in_channels} channels in {config.dims} dimension(s)",
            )
        if len(windows.labels) != config.classes:
            raise InputError(
                f"the {name} windows have other classes than the network",
                got=f"{len(windows.labels)} ({', '.join(windows.labels)})",
                expected=config.classes,
            )
        present = sorted({windows.labels[index] for index in windows.y})
        if len(present) < 2:
            raise InputError(
                f"the {name} windows are of too few classes",
                got=f"{len(windows)} windows of {', '.join(present) or 'no class'}",
                expected="windows of at least 2 classes",
                hint="choose other recordings, or another --protocol",
            )


def _identity(step: TrainStep, train: Windows, validation: Windows, options: FitOptions) -> dict[str, Any]:
    return {
        **options.to_json(),
        **step.compute.to_json(),
        # Another device draws other noise.
        **({} if step.device.type == "cpu" else {"device": step.device.type}),
        "network": step.network.config.to_json(),
        "labels": list(train.labels),
        # Enough of each hash to tell two apart, short enough to be read in a message.
        "first weights": sha256_bytes(weight_bytes(step.network))[:16],
        "training windows": train.fingerprint()[:16],
        "validation windows": validation.fingerprint()[:16],
    }


def _check_processes(processes: Processes, identity: Mapping[str, Any], batch: int) -> None:
    if batch < processes.count:
        raise UsageError(
            "a batch has too few windows for so many processes",
            got=f"{batch} windows, {processes.count} processes",
            expected="at least one window for each",
            hint="start fewer processes: torchrun --nproc-per-node",
        )
    theirs = processes.from_leader(dict(identity))
    other = [name for name in identity if theirs.get(name) != identity[name]]
    if other:
        raise InputError(
            f"process {processes.rank} of the run would train something else than process 0",
            got="; ".join(f"{name} = {identity[name]}" for name in other),
            expected="; ".join(f"{name} = {theirs.get(name)}" for name in other),
            hint="give every machine the same command and the same recordings",
        )


def _copy(network: Network) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
