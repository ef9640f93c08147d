"""The learning rate of every epoch."""

from __future__ import annotations

from drsn_edge.errors import UsageError


def learning_rates(epochs: int, lr: float) -> tuple[float, ...]:
    """The paper's three stages: 40 % of the epochs at `lr`, 40 % at a tenth of it, 20 % at a hundredth.

    Zhao et al. 2020, section IV: 40 epochs at 0.1, 40 at 0.01, 20 at 0.001. Stages end at the next whole epoch.

    Raises:
        UsageError: No epochs, or a learning rate that is not positive.
    """
    if epochs < 1:
        raise UsageError("the number of epochs cannot be used", got=epochs, expected="at least 1")
    if not 0 < lr < float("inf"):
        raise UsageError("the learning rate cannot be used", got=lr, expected="a positive number")
    first, second = -(-4 * epochs // 10), -(-8 * epochs // 10)
    return tuple(lr / (1 if epoch < first else 10 if epoch < second else 100) for epoch in range(epochs))
