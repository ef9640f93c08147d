"""Files that hold many named variables (npz, mat): which of them are the signal that was meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import InputError
from drsn_edge.signals.readers import Signal, stack


@dataclass(frozen=True)
class Variable:
    """What is known of a variable before it is read: its shape, and whether it holds real numbers."""

    shape: tuple[int, ...]
    numeric: bool

    @property
    def signal(self) -> bool:
        """Whether it can be a signal: numbers along one axis or two, more than one of them."""
        return self.numeric and len(self.shape) in (1, 2) and int(np.prod(self.shape)) > 1


def choose(
    path: Path,
    variables: Mapping[str, Variable],
    wanted: tuple[str, ...] | None,
    load: Callable[[str], NDArray[Any]],
    rate: float | None,
) -> Signal:
    """The wanted variables as one signal, or the only one that can be a signal.

    Raises:
        InputError: A variable that is not there, no signal or several to choose from, or unequal lengths.
    """
    signals = [name for name, variable in variables.items() if variable.signal]
    listed = ", ".join(f"{name} {list(variables[name].shape)}" for name in signals) or "none"
    if wanted is None:
        if len(signals) != 1:
            raise InputError(
                f"{path} does not say which variable is the signal",
                got=f"{len(signals)} that could be: {listed}",
                expected="one, or a channel to choose",
                hint="write the variable's name into the column channel",
            )
        wanted = (signals[0],)
    if len(set(wanted)) < len(wanted):
        raise InputError(f"{path}: a variable is asked for twice", got="+".join(wanted), expected="every one once")
    for name in wanted:
        if name not in variables:
            raise InputError(f"{path} has no such variable", got=name, expected=f"one of those it has: {listed}")
    blocks = [stack(load(name), name, path) for name in wanted]
    lengths = {name: block.shape[1] for name, block in zip(wanted, blocks, strict=True)}
    if len(set(lengths.values())) > 1:
        raise InputError(
            f"{path}: the channels differ in length",
            got=", ".join(f"{name} {length}" for name, length in lengths.items()),
            expected="the same number of samples in each",
        )
    names = [
        name if block.shape[0] == 1 else f"{name}.{index}"
        for name, block in zip(wanted, blocks, strict=True)
        for index in range(block.shape[0])
    ]
    return Signal(np.concatenate(blocks), rate, tuple(names))
