"""Weights from files that others wrote: code is never run, and nothing that does not fit is taken."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from drsn_edge.errors import InputError
from drsn_edge.model.weights import load_state, read_safetensors, read_torch, weight_bytes

MakeNetwork = Callable[..., Any]


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("how", ["torch", "legacy", "pickle"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, how: str) -> None:
    marker, path = tmp_path / "ran", tmp_path / "w.pt"
    if how == "pickle":
        path.write_bytes(pickle.dumps({"w": Trap(marker)}))
    else:
        torch.save({"w": Trap(marker)}, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(InputError) as caught:
        read_torch(path)
    assert not marker.exists()
    assert str(path) in str(caught.value)
    assert "pickles with code are refused" in str(caught.value)
    assert "weights_only" not in str(caught.value), "no advice to run it all the same"
    pickle.loads(pickle.dumps(Trap(marker)))
    assert marker.exists(), "the trap does work"


def test_a_whole_pickled_model_is_refused(make_network: MakeNetwork, tmp_path: Path) -> None:
    torch.save(make_network()[0], tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"drsn_edge.model.network.Network[\s\S]*state dict"):
        read_torch(tmp_path / "model.pt")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
@pytest.mark.parametrize("wrapped", [True, False])
def test_prefixes_of_wrappers_are_taken_off(
    make_network: MakeNetwork, tmp_path: Path, prefix: str, wrapped: bool
) -> None:
    network, _ = make_network()
    state: dict[str, Any] = {prefix + name: value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "w.pt")
    other, _ = make_network(seed=1)
    load_state(other, read_torch(tmp_path / "w.pt"), tmp_path / "w.pt")
    assert weight_bytes(other) == weight_bytes(network)


@pytest.mark.parametrize(
    "value", [{}, {"a": 1}, {"a": torch.zeros(1), "lr": 0.1}, {1: torch.zeros(1)}, [torch.zeros(1)], torch.zeros(2)]
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, value: Any) -> None:
    torch.save(value, tmp_path / "w.pt")
    with pytest.raises(InputError, match="state dict") as caught:
        read_torch(tmp_path / "w.pt")
    assert caught.value.expected


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a file of weights"])
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    for name, read in (("w.pt", read_torch), ("w.safetensors", read_safetensors)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError) as caught:
            read(tmp_path / name)
        assert name in str(caught.value)
        assert caught.value.expected
    with pytest.raises(InputError, match="not there"):
        read_torch(tmp_path / "absent.pt")
    with pytest.raises(InputError, match="not there"):
        read_safetensors(tmp_path / "absent.safetensors")
    with pytest.raises(InputError, match="cannot be read"):
        read_safetensors(tmp_path)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["units.0.conv1.weight", "bn.running_mean"])
def test_weights_that_are_not_finite_are_refused(make_network: MakeNetwork, name: str, value: float) -> None:
    network, _ = make_network()
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    state[name].reshape(-1)[0] = value
    with pytest.raises(InputError, match=rf"{name}[\s\S]*finite weights"):
        load_state(network, state, Path("w.pt"))


def test_a_double_that_overflows_a_float_is_refused(make_network: MakeNetwork) -> None:
    network, _ = make_network()
    state = {key: value.double() if value.is_floating_point() else value for key, value in network.state_dict().items()}
    load_state(network, state, Path("w.pt"))
    state["fc.bias"][0] = 1e300
    with pytest.raises(InputError, match=r"fc.bias"):
        load_state(network, state, Path("w.pt"))


def test_a_negative_variance_is_refused(make_network: MakeNetwork) -> None:
    network, _ = make_network()
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    state["bn.running_var"][1] = -0.5
    with pytest.raises(InputError, match=r"variance[\s\S]*bn.running_var"):
        load_state(network, state, Path("w.pt"))


@pytest.mark.parametrize("kind", [torch.int8, torch.complex64])
def test_integers_and_complex_numbers_are_no_weights(make_network: MakeNetwork, kind: torch.dtype) -> None:
    network, _ = make_network()
    state = network.state_dict() | {"fc.weight": network.fc.weight.detach().to(kind)}
    with pytest.raises(InputError, match=rf"fc.weight: {kind}[\s\S]*torch.float32"):
        load_state(network, state, Path("w.pt"))


def test_what_is_missing_or_too_many_is_counted_and_named(make_network: MakeNetwork) -> None:
    network, _ = make_network()
    state = dict(network.state_dict())
    del state["fc.bias"]
    state |= {"extra.one": torch.zeros(1), "extra.two": torch.zeros(1)}
    with pytest.raises(InputError) as caught:
        load_state(network, state, Path("w.pt"))
    assert "1 missing, 2 unknown, 0 of another shape; first: fc.bias" in str(caught.value)
    assert "drsn-cw" in str(caught.value)


def test_a_refused_state_changes_nothing(make_network: MakeNetwork) -> None:
    network, _ = make_network()
    before = weight_bytes(network)
    state = {key: tensor.clone() + 1 for key, tensor in network.state_dict().items()}
    state["fc.weight"][0, 0] = torch.nan
    with pytest.raises(InputError):
        load_state(network, state, Path("w.pt"))
    assert weight_bytes(network) == before
