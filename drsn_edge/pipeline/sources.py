"""What can be exported: a run folder, a state dict file, an importable class, or any ONNX file."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drsn_edge.errors import InputError, UsageError
from drsn_edge.extras import require
from drsn_edge.files import read_settings
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.splits import Split


@dataclass(frozen=True, eq=False)
class Source:
    """A network to export.

    Attributes:
        name: For messages and the manifest.
        module: The PyTorch module in evaluation mode; None for an ONNX file.
        onnx: Bytes of an ONNX file; None for a module.
        contract, labels: Of its windows and logits.
        weights: Its weights as safetensors; None for an ONNX file.
        config: The network's configuration as JSON, where it is one of ours.
        training: What it was trained on, as JSON; None where nobody knows.
        split: Which recordings trained it; None where nobody knows.
        qat: Calibration that it was trained with, as JSON; None for a network that was not trained to be quantized.
    """

    name: str
    module: Any
    onnx: bytes | None
    contract: SignalContract
    labels: tuple[str, ...]
    weights: bytes | None
    config: dict[str, Any] | None
    training: dict[str, Any] | None
    split: Split | None
    qat: dict[str, Any] | None = None


def load_source(source: str, *, config: Path | None = None, weights: Path | None = None) -> Source:
    """Load what the user named.

    Args:
        source: A run folder, `FILE.onnx`, `FILE.pt` / `.pth` / `.safetensors`, or `module:Class`.
        config: Configuration with `contract` and `labels` (and `network` for a state dict); needed for all but a run.
            With `names` it says which tensor of a state dict is which, see `drsn_edge.model.names`.
        weights: State dict for `module:Class`.

    Raises:
        UsageError: Options that do not fit the source.
        InputError: Files that cannot be used.
        MissingDependency: torch is not installed.
    """
    path = Path(source)
    if path.suffix == ".onnx":
        return _from_onnx(path, _needed(config, source))
    require("torch", "safetensors", purpose="loading a network")
    if path.suffix in (".pt", ".pth", ".safetensors"):
        return _from_state_dict(path, _needed(config, source))
    if path.is_dir() or ":" not in source:
        if config is not None or weights is not None:
            raise UsageError(
                "a run folder has its own configuration and weights", got="--config or --weights", expected="neither"
            )
        return _from_run(path)
    return _from_class(source, _needed(config, source), weights)


def _needed(config: Path | None, source: str) -> Path:
    if config is None:
        raise UsageError(
            f"{source} does not say what its windows and classes are",
            got="no --config",
            expected="--config FILE with `contract` and `labels`, in JSON or TOML (docs/formats.md)",
        )
    return config


def _from_run(path: Path) -> Source:
    from drsn_edge.model.checkpoint import load_checkpoint
    from drsn_edge.model.weights import weight_bytes

    checkpoint = load_checkpoint(path)
    return Source(
        name=path.resolve().name,
        module=checkpoint.network,
        onnx=None,
        contract=checkpoint.contract,
        labels=checkpoint.labels,
        weights=weight_bytes(checkpoint.network),
        config=checkpoint.config.to_json(),
        training=None if checkpoint.training is None else checkpoint.training.to_json(),
        split=checkpoint.split,
        qat=None if checkpoint.qat is None else checkpoint.qat["calibration"],
    )


def _from_state_dict(path: Path, config: Path) -> Source:
    from drsn_edge.model.checkpoint import load_state_dict_file
    from drsn_edge.model.weights import weight_bytes

    checkpoint = load_state_dict_file(path, config)
    return Source(
        name=path.stem,
        module=checkpoint.network,
        onnx=None,
        contract=checkpoint.contract,
        labels=checkpoint.labels,
        weights=weight_bytes(checkpoint.network),
        config=checkpoint.config.to_json(),
        training=None,
        split=None,
    )


def _from_class(source: str, config: Path, weights: Path | None) -> Source:
    from drsn_edge.model.names import parse_names, rename, with_counters
    from drsn_edge.model.weights import read_safetensors, read_torch, weight_bytes

    contract, labels = read_config(config)
    module_name, _, attribute = source.partition(":")
    # As `python -m` does: a user's own file beside the command is importable.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:
        raise UsageError(
            "the model class cannot be imported",
            got=f"{source}: {type(error).__name__}: {error}",
            expected="an importable module:Class",
        ) from error
    try:
        network = factory()
    except TypeError as error:
        raise UsageError(
            "the model class cannot be made", got=f"{source}: {error}", expected="a callable without arguments",
            hint="write a function that makes the model, and name that",
        ) from error  # fmt: skip
    torch = require("torch", purpose="loading a network")
    if not isinstance(network, torch.nn.Module):
        raise UsageError("this makes no PyTorch module", got=type(network).__name__, expected="a torch.nn.Module")
    if weights is not None:
        state = read_safetensors(weights) if weights.suffix == ".safetensors" else read_torch(weights)
        names = read_settings(config, what="the configuration").get("names")
        if names is not None:
            state = with_counters(rename(state, parse_names(names, config), weights), network)
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise InputError(
                "the weights do not fit the model",
                got=str(error).splitlines()[-1].strip(),
                expected=f"those of {source}",
            ) from None
    return Source(
        name=attribute.lower(),
        module=network.eval(),
        onnx=None,
        contract=contract,
        labels=labels,
        weights=weight_bytes(network),
        config=None,
        training=None,
        split=None,
    )


def _from_onnx(path: Path, config: Path) -> Source:
    contract, labels = read_config(config)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            "the ONNX file cannot be read", got=f"{path}: {error.strerror}", expected="an ONNX file"
        ) from None
    return Source(
        name=path.stem,
        module=None,
        onnx=data,
        contract=contract,
        labels=labels,
        weights=None,
        config=None,
        training=None,
        split=None,
    )


def read_config(path: Path) -> tuple[SignalContract, tuple[str, ...]]:
    """Contract and labels of a foreign network.

    Raises:
        InputError: Missing or bad fields.
    """
    value = read_settings(path, what="the configuration")
    if not isinstance(value.get("contract"), dict) or not isinstance(value.get("labels"), list):
        raise InputError(f"{path} lacks contract or labels", got=sorted(value), expected="contract and labels")
    labels = tuple(str(label) for label in value["labels"])
    if len(labels) < 2 or len(set(labels)) != len(labels):
        raise InputError(f"{path} has unusable labels", got=labels, expected="at least two names, none twice")
    return SignalContract.from_json(value["contract"]), labels
