"""What a run that was killed needs to go on: written whole after every epoch, read without running code."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drsn_edge.errors import InputError, UsageError
from drsn_edge.files import write_bytes

STATE = "state.pt"
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class State:
    """A run after `epoch` whole epochs.

    Attributes:
        identity: Everything that the weights depend on, as plain values: options, network, hashes of the windows.
        epoch: Epochs done. Order and noise are functions of seed and epoch, so no generator's state is kept.
        network: Weights and batch statistics.
        optimizer: Momenta.
        best: Weights and batch statistics of the best epoch.
        log: The records of the epochs done.
    """

    identity: Mapping[str, Any]
    epoch: int
    network: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    best: Mapping[str, Tensor]
    log: tuple[Mapping[str, Any], ...]

    def save(self, folder: Path) -> None:
        """Replace the state in a folder by rename."""
        value = {"format_version": _FORMAT, **{name: getattr(self, name) for name in _FIELDS}}
        stream = io.BytesIO()
        torch.save(value | {"log": list(self.log), "identity": dict(self.identity)}, stream)
        write_bytes(folder / STATE, stream.getvalue())

    @classmethod
    def load(cls, folder: Path) -> State:
        """Read the state of a folder.

        Raises:
            UsageError: There is none.
            InputError: Damaged, or of another format version.
        """
        path = folder / STATE
        if not path.is_file():
            raise UsageError(
                "there is no run to go on with",
                got=path,
                expected="the state that an interrupted run left",
                hint="leave --resume out; add --force if the folder exists",
            )
        try:
            value = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # noqa: BLE001 - torch, pickle and zipfile each raise their own
            raise InputError(
                "the state of the run cannot be read",
                got=f"{path}: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
                expected="a state that training wrote",
                hint="start anew with --force",
            ) from None
        version = value.get("format_version") if isinstance(value, dict) else None
        if version != _FORMAT or not set(_FIELDS) <= set(value):
            raise InputError(
                "the state of the run has another format", got=f"{path}: version {version}", expected=_FORMAT
            )
        return cls(**{name: value[name] for name in _FIELDS} | {"log": tuple(value["log"])})

    def check(self, identity: Mapping[str, Any]) -> None:
        """Refuse to go on with something else than was begun.

        Raises:
            UsageError: The first of the differences, and how many there are.
        """
        names = sorted(set(self.identity) | set(identity))
        other = [name for name in names if self.identity.get(name) != identity.get(name)]
        if other:
            raise UsageError(
                "the run was begun with something else",
                got="; ".join(f"{name} = {identity.get(name)}" for name in other),
                expected="; ".join(f"{name} = {self.identity.get(name)}" for name in other),
                hint="resume with the options and the data it was begun with, or start anew with --force",
            )


_FIELDS = ("identity", "epoch", "network", "optimizer", "best", "log")
