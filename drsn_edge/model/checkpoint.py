"""A trained network in a folder: `model.safetensors`, `config.json` and, when it was trained here, `split.json`.

No pickle is ever read with code in it: weights are safetensors, or a `.pt` state dict loaded with `weights_only=True`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drsn_edge._version import __version__
from drsn_edge.errors import HashMismatch, InputError
from drsn_edge.extras import require
from drsn_edge.files import read_json, sha256_bytes, sha256_file, write_bytes, write_json
from drsn_edge.model.config import NetworkConfig
from drsn_edge.model.network import Network
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.splits import Split

FORMAT_VERSION = 1
WEIGHTS, CONFIG, SPLIT = "model.safetensors", "config.json", "split.json"


@dataclass(frozen=True)
class TrainingRecord:
    """What a network was trained on, as far as later steps must know it.

    Attributes:
        dataset: The data set as it was named on the command line.
        where: Group values that recordings were chosen by.
        protocol, fold: How train, validation and test were told apart.
        seed: Of weights, order and noise.
        noises: Kinds of noise drawn in training; empty for none.
        snr_db: Lowest and highest trained SNR in dB; None without noise.
        epochs: Epochs run; `best_epoch` is the one that was kept.
        scores: Balanced accuracy by condition, on the parts that each name says.
    """

    dataset: str
    where: Mapping[str, str] = field(default_factory=dict)
    protocol: str = "time"
    fold: int = 0
    seed: int = 0
    noises: tuple[str, ...] = ()
    snr_db: tuple[float, float] | None = None
    epochs: int = 0
    best_epoch: int = 0
    scores: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        value = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return value | {
            "where": dict(self.where),
            "noises": list(self.noises),
            "snr_db": None if self.snr_db is None else list(self.snr_db),
            "scores": dict(self.scores),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainingRecord:
        """The record that `to_json` wrote.

        Raises:
            InputError: Wrong fields.
        """
        try:
            snr = value["snr_db"]
            return cls(
                **{
                    **value,
                    "noises": tuple(value["noises"]),
                    "snr_db": None if snr is None else (float(snr[0]), float(snr[1])),
                }
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InputError(
                "the training record has the wrong fields",
                got=error,
                expected=", ".join(item.name for item in dataclasses.fields(cls)),
            ) from None


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A network with everything that is needed to use it."""

    network: Network
    contract: SignalContract
    labels: tuple[str, ...]
    training: TrainingRecord | None = None
    split: Split | None = None

    @property
    def config(self) -> NetworkConfig:
        """The network's configuration."""
        return self.network.config


def weight_bytes(network: torch.nn.Module) -> bytes:
    """The weights as safetensors: equal weights give equal bytes, so their SHA-256 names them."""
    save = require("safetensors.torch", purpose="writing a checkpoint").save
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    data: bytes = save(dict(sorted(state.items())))
    return data


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; every file by rename, the configuration last, since it carries the hashes of the others."""
    weights = weight_bytes(checkpoint.network)
    write_bytes(folder / WEIGHTS, weights)
    if checkpoint.split is not None:
        write_json(folder / SPLIT, checkpoint.split.to_json())
    write_json(
        folder / CONFIG,
        {
            "format_version": FORMAT_VERSION,
            "drsn_edge": __version__,
            "network": checkpoint.config.to_json(),
            "contract": checkpoint.contract.to_json(),
            "labels": list(checkpoint.labels),
            "training": None if checkpoint.training is None else checkpoint.training.to_json(),
            "weights_sha256": sha256_bytes(weights),
        },
    )


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder.

    Raises:
        InputError: A file is absent, damaged, of another format version, or does not fit the others.
    """
    if not (folder / CONFIG).is_file():
        raise InputError(
            "this is no checkpoint folder",
            got=folder,
            expected=f"a folder with {CONFIG} and {WEIGHTS}",
            hint="give the folder that `drsn-edge train --out` made",
        )
    value = read_json(folder / CONFIG, what="the checkpoint's configuration")
    check_format(value, folder / CONFIG)
    network, contract, labels = network_from_config(value, folder / CONFIG)
    path = folder / WEIGHTS
    state = read_safetensors(path)
    expected = value.get("weights_sha256")
    if expected is not None and sha256_file(path) != expected:
        raise HashMismatch(
            "the weights are not those that the configuration names",
            got=f"{path}: sha256 {sha256_file(path)}",
            expected=expected,
            hint="take both files from the same run",
        )
    load_state(network, state, path)
    training = None if value.get("training") is None else TrainingRecord.from_json(value["training"])
    split = Split.from_json(read_json(folder / SPLIT, what="the split")) if (folder / SPLIT).is_file() else None
    return Checkpoint(network.eval(), contract, labels, training, split)


def load_state_dict_file(weights: Path, config: Path) -> Checkpoint:
    """A `.pt`, `.pth` or `.safetensors` state dict with a configuration file of the checkpoint's shape.

    Raises:
        InputError: Not a plain state dict (a pickle with code in it is refused), or it does not fit the configuration.
    """
    value = read_json(config, what="the configuration")
    network, contract, labels = network_from_config(value, config)
    state = read_safetensors(weights) if weights.suffix == ".safetensors" else read_torch(weights)
    load_state(network, state, weights)
    return Checkpoint(network.eval(), contract, labels)


def check_format(value: Mapping[str, Any], path: Path) -> None:
    """Refuse a file that a newer drsn-edge wrote."""
    version = value.get("format_version")
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path} has another format version",
            got=version,
            expected=FORMAT_VERSION,
            hint="install the drsn-edge that wrote it, or export it again",
        )


def network_from_config(value: Mapping[str, Any], path: Path) -> tuple[Network, SignalContract, tuple[str, ...]]:
    """An untrained network, its contract and its labels from a parsed configuration."""
    missing = {"network", "contract", "labels"} - set(value)
    if missing:
        raise InputError(
            f"{path} lacks {', '.join(sorted(missing))}", got=sorted(value), expected="network, contract and labels"
        )
    config = NetworkConfig.from_json(value["network"])
    contract = SignalContract.from_json(value["contract"])
    labels = tuple(str(label) for label in value["labels"])
    if len(labels) != config.classes:
        raise InputError(
            f"{path} has another number of labels than of classes", got=len(labels), expected=config.classes
        )
    if len(contract.channels) != config.in_channels or (contract.image is not None) != (config.dims == 2):
        raise InputError(
            f"{path}: the contract does not fit the network",
            got=f"windows of shape {contract.shape}",
            expected=f"{config.in_channels} channels in {config.dims} dimension(s)",
        )
    return Network(config, contract), contract, labels


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file."""
    module = require("safetensors.torch", "safetensors", purpose="reading a checkpoint")
    try:
        state: dict[str, Tensor] = module.load_file(path)
    except FileNotFoundError:
        raise InputError("the weights are not there", got=path, expected="a safetensors file") from None
    except Exception as error:  # noqa: BLE001 - safetensors raises its own class and plain ones, all mean "unusable"
        raise InputError(
            "the weights cannot be read",
            got=f"{path} ({path.stat().st_size} bytes): {error}",
            expected="a whole safetensors file",
            hint="copy it again; the file is truncated or damaged",
        ) from None
    return state


def read_torch(path: Path) -> dict[str, Tensor]:
    """A state dict from a `.pt` file, never running code that is in it."""
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError("the weights are not there", got=path, expected="a .pt file") from None
    except Exception as error:  # noqa: BLE001 - torch, pickle and zipfile each raise their own
        raise InputError(
            "the weights cannot be read as a plain state dict",
            got=f"{path}: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            expected="a file written by torch.save(model.state_dict(), ...); pickles with code are refused",
            hint="save the state dict, not the model, or convert it to safetensors",
        ) from None
    if isinstance(value, dict) and isinstance(value.get("state_dict"), dict):
        value = value["state_dict"]
    if not isinstance(value, dict) or not all(isinstance(item, Tensor) for item in value.values()):
        raise InputError(
            "the file holds no state dict", got=f"{path}: {type(value).__name__}", expected="a dict of tensors"
        )
    # DistributedDataParallel and torch.compile put a prefix before every name.
    return {name.removeprefix("module.").removeprefix("_orig_mod."): tensor for name, tensor in value.items()}


def load_state(network: Network, state: Mapping[str, Tensor], path: Path) -> None:
    """Fill a network, naming the first tensors that do not fit."""
    own = network.state_dict()
    missing, unknown = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    wrong = sorted(name for name in set(own) & set(state) if own[name].shape != state[name].shape)
    if missing or unknown or wrong:
        shown = wrong[:1] or missing[:1] or unknown[:1]
        raise InputError(
            f"the weights in {path} do not fit the network",
            got=f"{len(missing)} missing, {len(unknown)} unknown, {len(wrong)} of another shape; first: {shown[0]}",
            expected=f"the {len(own)} tensors of a {network.config.model} with widths {network.config.widths}",
        )
    damaged = sorted(name for name, value in state.items() if not torch.isfinite(value).all())
    if damaged:
        raise InputError(
            f"the weights in {path} are not all finite",
            got=f"NaN or infinity in {damaged[0]}",
            expected="finite weights",
        )
    network.load_state_dict(dict(state))
