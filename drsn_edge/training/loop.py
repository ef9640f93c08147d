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
from collections.abc import Callable
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
from drsn_edge.training.batches import epoch_batches, validation_batches
from drsn_edge.training.metrics import balanced_accuracy, confusion
from drsn_edge.training.options import FitOptions
from drsn_edge.training.records import EpochRecord, FitResult, choose
from drsn_edge.training.schedule import learning_rates
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
        resume: Go on with the run in `out`; the weights come out as if it had never stopped.
        on_best: Called after every epoch that is preferred to all before it; the network holds its weights then.
        progress: Told of every epoch.

    Raises:
        UsageError: `out` exists and neither `force` nor `resume` is given; nothing to resume, or a run of something
            else; noise that the windows cannot have; the training diverged.
        InputError: Windows that do not fit the network, fewer than two, or of one class only.
    """
    check_windows(network, train, validation)
    for windows in (train, validation):
        windows.source.check(options.noise.kinds)
    rates = learning_rates(options.epochs, options.lr)
    optimizer = make_optimizer(network, options)
    identity = _identity(network, train, validation, options)
    records: list[EpochRecord] = []
    best_state = _copy(network)
    if resume:
        if out is None:
            raise UsageError("a run can only go on where it was kept", got="resume without out", expected="its folder")
        state = State.load(out)
        state.check(identity)
        network.load_state_dict(dict(state.network))
        optimizer.load_state_dict(dict(state.optimizer))
        best_state = dict(state.best)
        records = [EpochRecord(**record) for record in state.log]
    elif out is not None:
        check_output(out, force=force)
        out.mkdir(parents=True, exist_ok=True)
        for name in (STATE, LOG):
            (out / name).unlink(missing_ok=True)
    with progress.step("training", total=options.epochs) as step:
        step.advance(len(records))
        for epoch in range(len(records) + 1, options.epochs + 1):
            record = _epoch(network, optimizer, train, validation, options, epoch, rates[epoch - 1])
            records.append(record)
            if choose(records, validation.independent) is record:
                best_state = _copy(network)
                if on_best is not None:
                    on_best(record)
            if out is not None:
                log = tuple(dataclasses.asdict(item) for item in records)
                State(identity, epoch, network.state_dict(), optimizer.state_dict(), best_state, log).save(out)
                write_bytes(out / LOG, "".join(json.dumps(line) + "\n" for line in log).encode())
            step.advance(
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


def _epoch(
    network: Network,
    optimizer: torch.optim.SGD,
    train: Windows,
    validation: Windows,
    options: FitOptions,
    epoch: int,
    lr: float,
) -> EpochRecord:
    began = time.perf_counter()
    for group in optimizer.param_groups:
        group["lr"] = lr
    train_loss, train_accuracy, seen = train_epoch(network, optimizer, train, options, epoch)
    speed = seen / (time.perf_counter() - began)
    accuracy, validation_loss = validate(network, validation, options)
    if not (math.isfinite(train_loss) and math.isfinite(validation_loss)):
        raise UsageError(
            f"the training diverged in epoch {epoch}",
            got=f"training loss {train_loss:g}, validation loss {validation_loss:g}",
            expected="finite losses",
            hint=f"train with a smaller --lr than {options.lr:g}",
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


def train_epoch(
    network: Network, optimizer: torch.optim.Optimizer, windows: Windows, options: FitOptions, epoch: int
) -> tuple[float, float, int]:
    """One pass over the windows: mean loss, accuracy, and how many windows were seen."""
    device = next(network.parameters()).device
    network.train()
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    right = torch.zeros((), dtype=torch.int64, device=device)
    seen = 0
    for x, y in epoch_batches(windows, options.noise, batch=options.batch, seed=options.seed, epoch=epoch):
        target = torch.from_numpy(y).to(device)
        optimizer.zero_grad(set_to_none=True)
        logits = network(torch.from_numpy(x).to(device))
        loss = F.cross_entropy(logits, target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss_sum += loss.detach() * len(y)
        right += (logits.detach().argmax(dim=1) == target).sum()
        seen += len(y)
    return float(loss_sum) / seen, float(right) / seen, seen


def validate(network: Network, windows: Windows, options: FitOptions) -> tuple[float, float]:
    """Balanced accuracy and mean cross-entropy over clean windows and fixed noise draws."""
    device = next(network.parameters()).device
    classes = network.config.classes
    network.eval()
    counts = confusion(windows.y[:0], windows.y[:0], classes)
    loss = 0.0
    batches = validation_batches(
        windows, options.noise, draws=options.validation_draws, batch=2 * options.batch, seed=options.seed
    )
    with torch.inference_mode():
        for x, y in batches:
            logits = network(torch.from_numpy(x).to(device)).cpu()
            loss += float(F.cross_entropy(logits, torch.from_numpy(y), reduction="sum"))
            counts += confusion(y, logits.argmax(dim=1).numpy(), classes)
    return balanced_accuracy(counts), loss / int(counts.sum())


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


def _identity(network: Network, train: Windows, validation: Windows, options: FitOptions) -> dict[str, Any]:
    return {
        **options.to_json(),
        "network": network.config.to_json(),
        "labels": list(train.labels),
        # Enough of each hash to tell two apart, short enough to be read in a message.
        "first weights": sha256_bytes(weight_bytes(network))[:16],
        "training windows": train.fingerprint()[:16],
        "validation windows": validation.fingerprint()[:16],
    }


def _copy(network: Network) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
