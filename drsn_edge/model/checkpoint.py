"""A trained network in a folder: `model.safetensors`, `config.json` and, when it was trained here, `split.json`.

No pickle is ever read with code in it: weights are safetensors, or a `.pt` state dict loaded with `weights_only=True`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drsn_edge._version import __version__
from drsn_edge.errors import InputError
from drsn_edge.files import dump_json, read_json, read_settings, sha256_bytes, write_bytes, write_json
from drsn_edge.model.config import NetworkConfig
from drsn_edge.model.names import parse_names, rename, with_counters
from drsn_edge.model.network import Network
from drsn_edge.model.weights import (
    check_hash,
    load_state,
    parse_safetensors,
    read_safetensors,
    read_torch,
    weight_bytes,
)
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
        noise_once: Whether every training window kept the noise of one draw through all epochs.
        epochs: Epochs run; `best_epoch` is the one that was kept.
        device: Where it was trained, `cpu` or `cuda`: another one draws other noise and rounds otherwise.
        amp: Mixed precision of the training, `none`, `bf16` or `fp16`.
        compile: Whether `torch.compile` made the kernels of the training.
        processes: How many trained it together.
        temperature: What logits are divided by for honest confidences, fitted on validation windows; 1 where none was.
        scores: Balanced accuracy by condition, on the parts that each name says.
    """

    dataset: str
    where: Mapping[str, str] = field(default_factory=dict)
    protocol: str = "time"
    fold: int = 0
    seed: int = 0
    noises: tuple[str, ...] = ()
    snr_db: tuple[float, float] | None = None
    noise_once: bool = False
    epochs: int = 0
    best_epoch: int = 0
    device: str = "cpu"
    amp: str = "none"
    compile: bool = False
    processes: int = 1
    temperature: float = 1.0
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
            temperature = float(value.get("temperature", 1.0))  # records before it was fitted have none
            if not 0 < temperature < float("inf"):
                raise ValueError(f"temperature {temperature}: expected a positive number")
            return cls(
                **{
                    **value,
                    "noises": tuple(value["noises"]),
                    "temperature": temperature,
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
    """A network with everything that is needed to use it.

    Attributes:
        network: In FP32, whatever it was trained for.
        contract, labels: Of its windows and logits.
        training: What it was trained on; None for weights from elsewhere.
        split: Which recordings trained it.
        qat: Where it was trained to be quantized: from which weights, how, and the calibration (plan and scales) that
            belongs to it, as JSON.
    """

    network: Network
    contract: SignalContract
    labels: tuple[str, ...]
    training: TrainingRecord | None = None
    split: Split | None = None
    qat: Mapping[str, Any] | None = None

    @property
    def config(self) -> NetworkConfig:
        """The network's configuration."""
        return self.network.config


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; every file by rename, the configuration last, since it carries the hashes of the others."""
    weights = weight_bytes(checkpoint.network)
    split = None if checkpoint.split is None else dump_json(checkpoint.split.to_json()).encode()
    write_bytes(folder / WEIGHTS, weights)
    if split is not None:
        write_bytes(folder / SPLIT, split)
    else:
        # What another run left here would be taken for the split of this one.
        (folder / SPLIT).unlink(missing_ok=True)
    write_json(
        folder / CONFIG,
        {
            "format_version": FORMAT_VERSION,
            "drsn_edge": __version__,
            "network": checkpoint.config.to_json(),
            "contract": checkpoint.contract.to_json(),
            "labels": list(checkpoint.labels),
            "training": None if checkpoint.training is None else checkpoint.training.to_json(),
            "qat": None if checkpoint.qat is None else dict(checkpoint.qat),
            "weights_sha256": sha256_bytes(weights),
            "split_sha256": None if split is None else sha256_bytes(split),
        },
    )


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder.

    Raises:
        InputError: A file is absent, damaged, of another format version, or does not fit the others.
        HashMismatch: Weights or split are not those that were saved with the configuration.
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
    load_state(network, read_safetensors(folder / WEIGHTS, sha256=value.get("weights_sha256")), folder / WEIGHTS)
    training = None if value.get("training") is None else TrainingRecord.from_json(value["training"])
    qat = value.get("qat")  # configurations before there was any have none
    if qat is not None and not (isinstance(qat, dict) and isinstance(qat.get("calibration"), dict)):
        raise InputError(
            f"{folder / CONFIG}: qat has the wrong fields", got=repr(qat)[:80], expected="an object with a calibration"
        )
    return Checkpoint(network.eval(), contract, labels, training, _read_split(folder / SPLIT, value), qat)


def network_from_bytes(weights: bytes, config: Mapping[str, Any], contract: SignalContract) -> Network:
    """A network from safetensors bytes and its configuration.

    Raises:
        InputError: Damaged, or they do not fit each other.
    """
    network = Network(NetworkConfig.from_json(config), contract)
    load_state(network, parse_safetensors(weights, Path(WEIGHTS)), Path(WEIGHTS))
    return network.eval()


def load_state_dict_file(weights: Path, config: Path) -> Checkpoint:
    """A `.pt`, `.pth` or `.safetensors` state dict with a configuration file of the checkpoint's shape, JSON or TOML.

    Its `names`, where it has some, say which tensor is which: see `names.rename`.

    Raises:
        InputError: Not a plain state dict (a pickle with code in it is refused), or it does not fit the configuration.
    """
    value = read_settings(config, what="the configuration")
    if "format_version" in value:  # one written by hand need not have it
        check_format(value, config)
    network, contract, labels = network_from_config(value, config)
    state = read_safetensors(weights) if weights.suffix == ".safetensors" else read_torch(weights)
    if "names" in value:
        state = rename(state, parse_names(value["names"], config), weights)
    load_state(network, with_counters(state, network), weights)
    return Checkpoint(network.eval(), contract, labels)


def _read_split(path: Path, config: Mapping[str, Any]) -> Split | None:
    """The split beside a configuration; it decides what calibration and verification may see, so it is bound too."""
    expected = config.get("split_sha256")
    if not path.is_file():
        if expected is not None:
            raise InputError("the split is not there", got=path, expected="the file that was saved with the weights")
        return None
    value = read_json(path, what="the split")
    check_hash(path, path.read_bytes(), expected)
    return Split.from_json(value)


def check_format(value: Mapping[str, Any], path: Path) -> None:
    """Refuse a file that a newer drsn-edge wrote."""
    version = value.get("format_version")
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path} has another format version",
            got=repr(version),
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
    for name, kind, words in (("network", dict, "object"), ("contract", dict, "object"), ("labels", list, "list")):
        if not isinstance(value[name], kind):
            raise InputError(f"{path}: {name} has the wrong kind", got=repr(value[name]), expected=f"a JSON {words}")
    config = NetworkConfig.from_json(value["network"])
    contract = SignalContract.from_json(value["contract"])
    labels = tuple(str(label) for label in value["labels"])
    if len(set(labels)) != len(labels):
        raise InputError(f"{path} names a label twice", got=", ".join(labels), expected="a name for every class")
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
