"""What a training run reports: a line per epoch, and which epoch was kept."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
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

    def preferred_to(self, kept: EpochRecord, windows: int) -> bool:
        """Whether this epoch is kept instead of an earlier one.

        At one learning rate the better one is: by balanced accuracy, then by loss. At a lower rate it is enough to be
        within one standard error of the validation part (the rule of Breiman et al., "Classification and Regression
        Trees", 1984, section 3.4.3). Weights that still move much have lucky epochs, which are no better on other data:
        on CWRU at -4 dB the plain maximum lost 1.0 point against the last epoch, in the mean of three seeds.

        Args:
            kept: The epoch that is kept so far.
            windows: Independent validation windows.
        """
        if self.lr < kept.lr:
            # Laplace's estimate: an epoch without a mistake has an error, too.
            share = (kept.validation_balanced_accuracy * windows + 1) / (windows + 2)
            margin = math.sqrt(share * (1 - share) / windows)
            return self.validation_balanced_accuracy >= kept.validation_balanced_accuracy - margin
        return (self.validation_balanced_accuracy, -self.validation_loss) > (
            kept.validation_balanced_accuracy,
            -kept.validation_loss,
        )


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


def choose(records: Sequence[EpochRecord], windows: int) -> EpochRecord:
    """The epoch that is kept of a run: the preferred one, from the first to the last."""
    return functools.reduce(lambda kept, record: record if record.preferred_to(kept, windows) else kept, records)
