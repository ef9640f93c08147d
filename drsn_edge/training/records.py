"""What a training run reports: a line per epoch, and which epoch was kept."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One line of the log. Epochs count from 1; accuracies are shares, not per cent."""

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    validation_balanced_accuracy: float
    validation_loss: float
    seconds: float
    windows_per_s: float

    @property
    def rank(self) -> tuple[float, float]:
        """Higher is better: balanced accuracy, then the lower loss."""
        return self.validation_balanced_accuracy, -self.validation_loss


@dataclass(frozen=True)
class FitResult:
    """A finished run; the network holds the weights of the best epoch.

    Attributes:
        records: One per epoch.
        best: The epoch that was kept.
    """

    records: tuple[EpochRecord, ...]
    best: EpochRecord

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"epochs": len(self.records), "best": dataclasses.asdict(self.best)}
