"""Quantization-aware training: a trained network learns to decide in INT8 as it does in FP32.

The objective is the original network, not the labels: what a quantized network is judged by is how many decisions
differ from those of FP32. Distillation (Hinton et al. 2015) has that as its minimum, needs no labels, and so may go to
SNRs below the trained ones, where decisions are close and most of them change.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drsn_edge.errors import UsageError
from drsn_edge.model.fake_quant import FakeQuantNetwork
from drsn_edge.model.network import Network
from drsn_edge.progress import SILENT, Progress
from drsn_edge.signals.windows import Windows
from drsn_edge.training.batches import epoch_batches, epoch_rows, validation_batches
from drsn_edge.training.loop import check_windows
from drsn_edge.training.metrics import balanced_accuracy, confusion
from drsn_edge.training.options import NoiseRange
from drsn_edge.training.records import EpochRecord, FitResult

Objective = Literal["distil", "labels"]
_RISE = 0.1
OBJECTIVES: tuple[str, ...] = get_args(Objective)


@dataclass(frozen=True, kw_only=True)
class QatOptions:
    """How a network is trained to be quantized.

    Attributes:
        epochs: Passes over the training windows.
        batch: Windows per step.
        lr: Highest learning rate; it rises for a tenth of the steps, and falls to nothing along half a cosine.
        objective: `distil` towards the original network's logits, or `labels`.
        learned: Input scales are learned too; else they stay as calibration found them.
        noise: Drawn anew for every window in every epoch.
        validation_draws: Noise draws per validation window, beside the window as it is.
        seed: Of order and noise.

    Raises:
        UsageError: A value out of bounds.
    """

    epochs: int = 20
    batch: int = 128
    lr: float = 1e-4
    objective: Objective = "distil"
    learned: bool = True
    noise: NoiseRange = field(default_factory=NoiseRange)
    validation_draws: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        checks: list[tuple[str, object, bool, str]] = [
            ("epochs", self.epochs, self.epochs >= 1, "at least 1"),
            ("batch", self.batch, self.batch >= 2, "at least 2 windows"),
            ("lr", self.lr, 0 < self.lr < float("inf"), "a positive number"),
            ("objective", self.objective, self.objective in OBJECTIVES, ", ".join(OBJECTIVES)),
            ("validation_draws", self.validation_draws, self.validation_draws >= 1, "at least 1"),
            ("seed", self.seed, self.seed >= 0, "at least 0"),
        ]
        for name, value, good, expected in checks:
            if not good:
                raise UsageError(f"the training option {name} cannot be used", got=value, expected=expected)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        value = dataclasses.asdict(self)
        snr = self.noise.snr_db
        return value | {"noise": {"kinds": list(self.noise.kinds), "snr_db": None if snr is None else list(snr)}}


def fine_tune(
    student: FakeQuantNetwork | Network,
    teacher: Network,
    train: Windows,
    validation: Windows,
    *,
    options: QatOptions,
    progress: Progress = SILENT,
) -> FitResult:
    """Train a network in place; the epoch with the least validation loss is kept.

    Args:
        student: Fake-quantized; or a plain network, which is then fine-tuned in FP32, for comparison.
        teacher: The original, in evaluation mode.
        train: Raw windows, any hop.
        validation: Raw windows that decide which epoch is kept.
        options: How. Equal options, weights and windows give equal results on one machine.
        progress: Told of every epoch.

    Raises:
        UsageError: The training diverged, or noise that the windows cannot have.
        InputError: Windows that do not fit the network.
    """
    check_windows(teacher, train, validation)
    for windows in (train, validation):
        windows.source.check(options.noise.kinds)
    teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], lr=options.lr, fused=True)
    total = options.epochs * len(epoch_rows(len(train), batch=options.batch, seed=options.seed, epoch=1))
    # Adam's first steps are all of full size, whatever the gradient: without a rise they undo more than epochs mend.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.lr, total_steps=total + 1, pct_start=_RISE, cycle_momentum=False
    )
    judge = _Judge.draw(teacher, validation, options)
    records: list[EpochRecord] = []
    best: tuple[float, EpochRecord, dict[str, Tensor]] | None = None
    with progress.step("quantization-aware training", total=options.epochs) as step:
        for epoch in range(1, options.epochs + 1):
            began, rate = time.perf_counter(), float(schedule.get_last_lr()[0])
            loss, accuracy, seen = _epoch(student, teacher, train, options, optimizer, schedule, epoch)
            speed = seen / (time.perf_counter() - began)
            score, judged = judge.score(student, teacher.config.classes)
            if not (math.isfinite(loss) and math.isfinite(judged)):
                raise UsageError(
                    f"the training diverged in epoch {epoch}",
                    got=f"training loss {loss:g}, validation loss {judged:g}", expected="finite losses",
                    hint=f"train with a smaller --lr than {options.lr:g}",
                )  # fmt: skip
            record = EpochRecord(
                epoch=epoch, lr=rate, train_loss=loss, train_accuracy=accuracy, validation_balanced_accuracy=score,
                validation_loss=judged, seconds=time.perf_counter() - began, windows_per_s=speed,
            )  # fmt: skip
            records.append(record)
            if best is None or judged < best[0]:
                best = judged, record, {name: value.detach().clone() for name, value in student.state_dict().items()}
            step.advance(1, note=f"loss {loss:.4f}, validation {judged:.4f}")
    assert best is not None
    student.load_state_dict(best[2])
    student.eval()
    return FitResult(tuple(records), best[1])


def _epoch(
    student: nn.Module,
    teacher: Network,
    windows: Windows,
    options: QatOptions,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    epoch: int,
) -> tuple[float, float, int]:
    student.train()
    if isinstance(student, Network):  # the control: its statistics stay, as those of a fake-quantized network do
        for module in student.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eval()
    loss_sum, right, seen = 0.0, 0, 0
    for x, y in epoch_batches(windows, options.noise, batch=options.batch, seed=options.seed, epoch=epoch):
        window, target = torch.from_numpy(x), torch.from_numpy(y)
        optimizer.zero_grad(set_to_none=True)
        wanted = _wanted(teacher, window, options)
        logits = student(window)
        loss = _loss(logits, wanted, target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        loss_sum += float(loss.detach()) * len(y)
        right += int((logits.detach().argmax(dim=1) == target).sum())
        seen += len(y)
    return loss_sum / seen, right / seen, seen


def _wanted(teacher: Network, window: Tensor, options: QatOptions) -> Tensor | None:
    """The original network's log-probabilities, where they are the objective."""
    if options.objective == "labels":
        return None
    with torch.no_grad():
        return F.log_softmax(teacher(window), dim=1)


def _loss(logits: Tensor, wanted: Tensor | None, target: Tensor) -> Tensor:
    """Mean over windows: divergence from the original network, or cross-entropy of the labels."""
    if wanted is None:
        return F.cross_entropy(logits, target)
    return F.kl_div(F.log_softmax(logits, dim=1), wanted, reduction="batchmean", log_target=True)


@dataclass(frozen=True, eq=False)
class _Judge:
    """Validation windows, drawn once, with what the original network says of them.

    Attributes:
        batches: Windows, classes, and the original's log-probabilities where they are the objective.
    """

    batches: tuple[tuple[Tensor, Tensor, Tensor | None], ...]

    @classmethod
    def draw(cls, teacher: Network, windows: Windows, options: QatOptions) -> _Judge:
        """Clean windows and fixed noise draws."""
        drawn = validation_batches(
            windows, options.noise, draws=options.validation_draws, batch=2 * options.batch, seed=options.seed
        )
        pairs = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in drawn]
        return cls(tuple((x, y, _wanted(teacher, x, options)) for x, y in pairs))

    def score(self, student: nn.Module, classes: int) -> tuple[float, float]:
        """Balanced accuracy and mean loss."""
        student.eval()
        loss, seen, decided, true = 0.0, 0, [], []
        with torch.inference_mode():
            for window, target, wanted in self.batches:
                logits = student(window)
                loss += float(_loss(logits, wanted, target)) * len(target)
                seen += len(target)
                decided.append(logits.argmax(dim=1).numpy())
                true.append(target.numpy())
        return balanced_accuracy(confusion(np.concatenate(true), np.concatenate(decided), classes)), loss / seen
