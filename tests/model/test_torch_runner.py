"""The PyTorch runner, the reference of every comparison."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from drsn_edge.errors import InputError
from drsn_edge.model.checkpoint import Checkpoint, save_checkpoint
from drsn_edge.model.runner import TorchRunner
from drsn_edge.runtime.runner import open_runner, run_batched

MakeNetwork = Callable[..., Any]


def test_gives_the_networks_logits(make_network: MakeNetwork) -> None:
    network, contract = make_network()
    x = np.random.default_rng(0).normal(size=(7, *contract.shape)).astype(np.float32)
    with TorchRunner(network) as runner, torch.no_grad():
        expected = network(torch.from_numpy(x)).numpy()
        np.testing.assert_array_equal(runner.run({"window": x})["logits"], expected)
        np.testing.assert_allclose(run_batched(runner, x, batch=3)["logits"], expected, rtol=1e-4, atol=1e-5)
        assert str(runner.outputs["logits"]) == "logits: float32[batch, 5]"


def test_double_is_the_noise_floor_and_leaves_the_network_alone(make_network: MakeNetwork) -> None:
    network, contract = make_network()
    network.train()
    x = np.random.default_rng(0).normal(size=(2, *contract.shape)).astype(np.float32)
    with TorchRunner(network, double=True) as runner:
        logits = runner.run({"window": x})["logits"]
    assert logits.dtype == np.float64
    assert runner.outputs["logits"].dtype == "float64"
    assert network.training
    assert network.fc.weight.dtype == torch.float32
    with TorchRunner(network) as single:
        np.testing.assert_allclose(single.run({"window": x})["logits"], logits, rtol=1e-4, atol=1e-4)


def test_probe_adds_the_outputs_of_every_unit(make_network: MakeNetwork) -> None:
    network, contract = make_network("drsn-cs")
    x = np.zeros((2, *contract.shape), np.float32)
    with TorchRunner(network, probe=True) as runner:
        found = runner.run({"window": x})
    assert set(found) == {"logits"} | {
        f"{unit}.{kind}" for unit in network.config.unit_names for kind in ("threshold", "zero_share", "shrunk")
    }
    assert found["units.0.threshold"].shape == (2, 4)


def test_takes_windows_that_cannot_be_written_to(make_network: MakeNetwork, tmp_path: Path) -> None:
    network, contract = make_network()
    np.save(tmp_path / "x.npy", np.ones((3, *contract.shape), np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    with TorchRunner(network) as runner:
        assert runner.run({"window": mapped})["logits"].shape == (3, 5)


def test_opens_a_checkpoint_by_name(make_network: MakeNetwork, tmp_path: Path) -> None:
    network, contract = make_network("resnet")
    save_checkpoint(tmp_path, Checkpoint(network, contract, ("a", "b", "c", "d", "e")))
    x = np.ones((1, *contract.shape), np.float32)
    with open_runner("torch", tmp_path) as runner, TorchRunner(network) as direct:
        np.testing.assert_array_equal(runner.run({"window": x})["logits"], direct.run({"window": x})["logits"])


def test_refuses_other_types_and_shapes(make_network: MakeNetwork) -> None:
    network, _ = make_network()
    with TorchRunner(network) as runner:
        with pytest.raises(InputError, match=r"float64[\s\S]*float32"):
            runner.run({"window": np.zeros((1, 1, 64))})
        with pytest.raises(InputError, match=r"\[1, 2, 64\][\s\S]*batch, 1, samples"):
            runner.run({"window": np.zeros((1, 2, 64), np.float32)})
