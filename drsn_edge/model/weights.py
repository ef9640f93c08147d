"""Weights in files: written the same for the same weights, read without ever running code that is in them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from drsn_edge.errors import HashMismatch, InputError
from drsn_edge.extras import require
from drsn_edge.files import sha256_bytes
from drsn_edge.model.network import Network


def weight_bytes(network: nn.Module) -> bytes:
    """The weights as safetensors: equal weights give equal bytes, so their SHA-256 names them."""
    save = require("safetensors.torch", purpose="writing a checkpoint").save
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    data: bytes = save(dict(sorted(state.items())))
    return data


def check_hash(path: Path, data: bytes, sha256: str | None) -> None:
    """Refuse a file's bytes that do not have the hash that is given, if one is.

    Raises:
        HashMismatch: Another hash.
    """
    found = sha256_bytes(data)
    if sha256 is not None and found != sha256:
        raise HashMismatch(
            f"{path} is not the file that its configuration names",
            got=f"{len(data)} bytes with sha256 {found}",
            expected=f"sha256 {sha256}",
            hint="copy the folder again: the file is damaged, or from another run",
        )


def read_safetensors(path: Path, *, sha256: str | None = None) -> dict[str, Tensor]:
    """Tensors of a safetensors file, which is not parsed unless it has the hash that is given."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError("the weights are not there", got=path, expected="a safetensors file") from None
    except OSError as error:
        raise InputError(
            "the weights cannot be read", got=f"{path}: {error.strerror}", expected="a safetensors file"
        ) from None
    check_hash(path, data, sha256)
    return parse_safetensors(data, path)


def parse_safetensors(data: bytes, path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file's bytes; `path` is for the message."""
    load = require("safetensors.torch", purpose="reading weights").load
    try:
        state: dict[str, Tensor] = load(data)
    except Exception as error:  # noqa: BLE001 - safetensors raises its own class and plain ones, all mean "unusable"
        raise InputError(
            "the weights cannot be read",
            got=f"{path} ({len(data)} bytes): {error}",
            expected="a whole safetensors file",
            hint="copy it again; the file is truncated or damaged",
        ) from None
    return state


def read_torch(path: Path) -> dict[str, Tensor]:
    """A state dict from a `.pt` file, never running code that is in it."""
    try:
        with warnings.catch_warnings():  # about pickle protocols, which the user cannot change
            warnings.simplefilter("ignore")
            value = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError("the weights are not there", got=path, expected="a .pt file") from None
    except Exception as error:  # noqa: BLE001 - torch, pickle and zipfile each raise their own
        raise InputError(
            "the weights cannot be read as a plain state dict",
            got=f"{path}: {_refusal(error)}",
            expected="a file written by torch.save(model.state_dict(), ...); pickles with code are refused",
            hint="save the state dict, not the model, or convert it to safetensors",
        ) from None
    if isinstance(value, dict) and isinstance(value.get("state_dict"), dict):
        value = value["state_dict"]
    if not isinstance(value, dict) or not value:
        raise InputError(
            "the file holds no state dict", got=f"{path}: {type(value).__name__}", expected="a dict of tensors"
        )
    odd = [f"{name!r}: {type(item).__name__}" for name, item in value.items() if not isinstance(item, Tensor)]
    if odd or not all(isinstance(name, str) for name in value):
        raise InputError(
            "the file holds no plain state dict",
            got=f"{path}: {(odd or list(value))[0]}",
            expected="a dict of names and tensors, or one under `state_dict`",
            hint="save model.state_dict() by itself",
        )
    # DistributedDataParallel and torch.compile put a prefix before every name, in the order in which they were applied.
    return {re.sub(r"^(module\.|_orig_mod\.)+", "", name): tensor for name, tensor in value.items()}


def _refusal(error: Exception) -> str:
    """Why torch did not read a file, without its advice to read it with `weights_only=False`."""
    text = str(error)
    found = re.search(r"GLOBAL ([\w.]+)", text)
    if found:
        return f"it would call {found[1]}"
    return text.splitlines()[0].split(". In PyTorch")[0] if text else type(error).__name__


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
            hint="where they have other names, say which is which under `names` in the file of --config"
            if missing and unknown
            else None,
        )
    wrong = sorted(n for n, v in state.items() if v.is_floating_point() != own[n].is_floating_point() or v.is_complex())
    if wrong:
        raise InputError(
            f"a tensor in {path} is of another kind",
            got=f"{wrong[0]}: {state[wrong[0]].dtype}",
            expected=own[wrong[0]].dtype,
        )
    damaged = sorted(name for name, value in state.items() if not torch.isfinite(value.to(own[name].dtype)).all())
    if damaged:
        raise InputError(
            f"the weights in {path} are not all finite",
            got=f"NaN or infinity in {damaged[0]}",
            expected="finite weights",
        )
    negative = sorted(name for name, value in state.items() if name.endswith("running_var") and bool((value < 0).any()))
    if negative:
        raise InputError(
            f"a variance in {path} is negative", got=negative[0], expected="at least 0", hint="copy the file again"
        )
    network.load_state_dict(dict(state))
