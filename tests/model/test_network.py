"""The five networks against the paper's table, and against themselves in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from drsn_edge.errors import UsageError
from drsn_edge.model.config import MODELS
from drsn_edge.model.network import Front, Network, Unit, count_parameters
from drsn_edge.model.shrinkage import Shrinkage

MakeNetwork = Callable[..., Any]
PAPER = {"convnet": 8_416, "resnet": 8_416, "senet": 11_552, "drsn-cs": 10_220, "drsn-cw": 11_552}


@pytest.mark.parametrize(("model", "parameters"), PAPER.items())
def test_parameters_of_the_paper(make_network: MakeNetwork, model: str, parameters: int) -> None:
    network, _ = make_network(model, preset="paper", classes=8, window=2048)
    assert count_parameters(network) == parameters


@pytest.mark.parametrize("model", MODELS)
def test_output_shapes_of_table_2(make_network: MakeNetwork, model: str) -> None:
    network, _ = make_network(model, preset="paper", classes=8, window=2048)
    shapes: list[tuple[int, ...]] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        shapes.append(tuple(output.shape[1:]))

    for module in (network.stem, *network.units, network.bn, network.fc):
        module.register_forward_hook(record)
    network(torch.zeros(2, 1, 2048))
    stages = [(4, 512)] * 4 + [(8, 256)] * 4 + [(16, 128)] * 4
    assert shapes == [(4, 1024), *stages, (16, 128), (8,)]
    assert sum(isinstance(module, nn.Conv1d) for module in network.modules()) == 25


def test_edge_preset_has_multiples_of_32_throughout(make_network: MakeNetwork) -> None:
    network, _ = make_network("drsn-cw", preset="edge")
    widths = {module.out_channels for module in network.modules() if isinstance(module, nn.Conv1d)}
    assert widths == {32, 64}


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("model", MODELS)
def test_equals_the_network_written_in_numpy(
    make_network: MakeNetwork, reference: ModuleType, model: str, dims: int
) -> None:
    network, contract = make_network(
        model, dims=dims, channels=("a", "b"), window=50, image=(9, 12) if dims == 2 else None
    )
    window = np.random.default_rng(1).normal(3.0, 40.0, (3, *contract.shape))
    state = {name: value.double().numpy() for name, value in network.state_dict().items()}
    with torch.no_grad():
        logits = network.double()(torch.from_numpy(window)).numpy()
    expected = reference.network(window, state, network.config, contract)
    np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("before", "after"), [(4, 4), (4, 8), (4, 7), (1, 6)])
@pytest.mark.parametrize("dims", [1, 2])
def test_shortcut_subsamples_and_pads_channels_on_both_sides(
    make_network: MakeNetwork, dims: int, before: int, after: int
) -> None:
    network, _ = make_network("resnet", widths=(before, after), units=(1, 1), dims=dims)
    unit = network.units[1]
    assert isinstance(unit, Unit)
    spatial = (7,) if dims == 1 else (7, 6)
    x = torch.randn(2, before, *spatial, generator=torch.Generator().manual_seed(0))
    found = unit.shortcut(x)
    first = (after - before) // 2
    assert found.shape[1] == after
    assert torch.equal(found[:, first : first + before], x[..., ::2] if dims == 1 else x[..., ::2, ::2])
    assert not found[:, :first].any()
    assert not found[:, first + before :].any()


def test_nothing_is_rectified_after_the_sum(make_network: MakeNetwork) -> None:
    network, _ = make_network("drsn-cw")
    unit = network.units[0]
    x = torch.randn(4, 4, 32, generator=torch.Generator().manual_seed(0))
    assert bool((unit(x) < 0).any())
    for parameter in unit.conv2.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(unit(x), unit.shortcut(x)), "a unit that adds nothing is its identity"


def test_convnet_has_no_identity(make_network: MakeNetwork) -> None:
    network, _ = make_network("convnet")
    unit = network.units[0]
    for parameter in unit.conv2.parameters():
        nn.init.zeros_(parameter)
    assert not unit(torch.randn(2, 4, 32)).any()


def test_starts_as_the_paper_does(make_network: MakeNetwork) -> None:
    network, _ = make_network("drsn-cw", widths=(64, 64), units=(1, 1), trained=False)
    weight = network.units[0].conv1.weight
    assert float(weight.detach().std()) == pytest.approx((2 / (64 * 3)) ** 0.5, rel=0.05), "He, over fan-in"
    biases = [
        value for name, value in network.state_dict().items() if name.endswith(("conv1.bias", "fc1.bias", "fc.bias"))
    ]
    assert biases
    assert not any(bool(bias.any()) for bias in biases)


@pytest.mark.parametrize("model", MODELS)
def test_no_window_looks_at_another(make_network: MakeNetwork, model: str) -> None:
    network, contract = make_network(model)
    x = torch.randn(5, *contract.shape, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[2] = 100 * torch.randn(contract.shape, generator=torch.Generator().manual_seed(1))
    others = [0, 1, 3, 4]
    with torch.no_grad():
        before, after, alone = network(x), network(changed), network(x[:1])
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[2], after[2])
    torch.testing.assert_close(alone, before[:1], rtol=1e-4, atol=1e-5)


def test_front_is_detrending_and_standardising_each_channel(make_network: MakeNetwork, reference: ModuleType) -> None:
    for detrend in ("mean", "none"):
        for standardise in ("window", "none"):
            _, contract = make_network(channels=("a", "b"), detrend=detrend, standardise=standardise)
            window = np.random.default_rng(0).normal(5.0, [[[0.1], [30.0]]], (3, 2, 64))
            found = Front(contract)(torch.from_numpy(window)).numpy()
            expected = reference.front(
                window, detrend=detrend == "mean", standardise=standardise == "window", epsilon=contract.epsilon
            )
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("samples", [1000, 2048, 999])
@pytest.mark.parametrize("value", [0.0, 9.81, -3.3, 32_768.3, 1e-3])
def test_a_dead_sensor_is_silence_and_not_its_rounding_error(
    make_network: MakeNetwork, value: float, samples: int
) -> None:
    _, contract = make_network(window=samples)
    flat = Front(contract)(torch.full((1, 1, samples), value))
    assert float(flat.abs().max()) < 1e-2


def test_standardisation_takes_amplitude_and_offset_away(make_network: MakeNetwork) -> None:
    network, contract = make_network()
    x = torch.randn(3, *contract.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network(x), network(1000 * x + 50), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("model", ["drsn-cw", "drsn-cs"])
def test_probe_says_what_every_unit_did(make_network: MakeNetwork, model: str, dims: int) -> None:
    network, contract = make_network(model, dims=dims)
    x = torch.randn(3, *contract.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, probes = network.probe(x)
        assert torch.equal(logits, network(x))
    assert tuple(probes) == network.config.unit_names == ("units.0", "units.1", "units.2", "units.3")
    for name, probe in probes.items():
        channels = network.get_submodule(name).conv2.out_channels
        assert probe.threshold.shape == probe.zero_share.shape == (3, channels)
        zeros = (probe.shrunk == 0).flatten(2).double().mean(dim=2)
        torch.testing.assert_close(probe.zero_share.double(), zeros, rtol=1e-6, atol=1e-6)
        assert 0 < float(zeros.mean()) < 1
        if model == "drsn-cs":
            assert torch.equal(probe.threshold, probe.threshold[:, :1].expand(-1, channels))
    assert not any(module._forward_hooks for module in network.modules())


def test_probe_of_a_network_without_thresholds_is_empty(make_network: MakeNetwork) -> None:
    network, contract = make_network("senet")
    assert network.probe(torch.zeros(1, *contract.shape))[1] == {}


def test_probe_refuses_training_mode(make_network: MakeNetwork) -> None:
    network, contract = make_network()
    with pytest.raises(UsageError, match=r"training mode[\s\S]*evaluation mode"):
        network.train().probe(torch.zeros(2, *contract.shape))


def test_probe_takes_its_hooks_away_after_an_error(make_network: MakeNetwork) -> None:
    network, _ = make_network()
    with pytest.raises(RuntimeError):
        network.probe(torch.zeros(2, 3, 64))
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("model", MODELS)
def test_every_parameter_is_trained(make_network: MakeNetwork, model: str) -> None:
    network, contract = make_network(model)
    x = torch.randn(8, *contract.shape, generator=torch.Generator().manual_seed(0))
    network.train()(x).square().sum().backward()
    idle = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert idle == []
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in network.parameters())


def test_training_and_evaluation_shrink_alike(make_network: MakeNetwork) -> None:
    """The path with its own derivative is used in training only; its values are the same."""
    network, contract = make_network("drsn-cw")
    x = torch.randn(4, *contract.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        inference = network(x)
    torch.testing.assert_close(network(x.requires_grad_()).detach(), inference, rtol=1e-5, atol=1e-6)


def test_only_the_two_drsn_shrink(make_network: MakeNetwork) -> None:
    for model in MODELS:
        network: Network = make_network(model)[0]
        found = [module for module in network.modules() if isinstance(module, Shrinkage)]
        assert bool(found) == network.config.shrinks == (model in ("drsn-cs", "drsn-cw"))
        assert all(module.shared == (model == "drsn-cs") for module in found)
