"""The threshold branch: equations 12 and 14, and what must hold for any features and any weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from drsn_edge.model.shrinkage import ChannelGate, Shrinkage, SqueezeExcite

few = settings(max_examples=40, deadline=None)
numbers = st.one_of(st.just(0.0), st.floats(2**-10, 2**10, width=32), st.floats(-(2**10), -(2**-10), width=32))
CHANNELS = 3
maps = hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.just(CHANNELS), st.integers(1, 8)), elements=numbers)
seeds = st.integers(0, 2**16)


class Fixed(nn.Module):
    """A gate that gives what it was told, so that an equation can be checked by itself."""

    def __init__(self, alpha: Tensor) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, pooled: Tensor) -> Tensor:
        return self.alpha.expand(len(pooled), -1)


def layer(seed: int, *, shared: bool, channels: int = CHANNELS) -> Shrinkage:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = Shrinkage(channels, shared=shared).eval()
        norm = module.gate.bn
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.normal_()
        norm.running_var.log_normal_()
    return module


@pytest.mark.parametrize("spatial", [(16,), (4, 5)])
def test_equation_14_each_channel_has_its_own_threshold(spatial: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, *spatial, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    module = Shrinkage(3, shared=False)
    alpha = torch.tensor([[0.1, 0.5, 0.9]], dtype=torch.float64)
    module.gate = Fixed(alpha)  # type: ignore[assignment]
    by_hand = [[alpha[0, c] * x[n, c].abs().mean() for c in range(3)] for n in range(2)]
    torch.testing.assert_close(module.threshold(x), torch.tensor(by_hand, dtype=torch.float64))


@pytest.mark.parametrize("spatial", [(16,), (4, 5)])
def test_equation_12_all_channels_share_one_threshold(spatial: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, *spatial, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    module = Shrinkage(3, shared=True)
    module.gate = Fixed(torch.tensor([[0.3]], dtype=torch.float64))  # type: ignore[assignment]
    tau = module.threshold(x)
    assert tau.shape == (2, 1)
    torch.testing.assert_close(tau[:, 0], 0.3 * x.abs().flatten(1).mean(dim=1))


def test_gate_is_fc_norm_relu_fc_sigmoid() -> None:
    gate = ChannelGate(4, 2).eval()
    kinds = [type(module).__name__ for module in (gate.fc1, gate.bn, gate.fc2)]
    assert kinds == ["Linear", "BatchNorm1d", "Linear"]
    assert (gate.fc1.out_features, gate.fc2.out_features) == (4, 2), "the paper's first FC keeps the width"
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    by_hand = torch.sigmoid(gate.fc2(torch.relu(gate.bn(gate.fc1(x)))))
    assert torch.equal(gate(x), by_hand)
    assert Shrinkage(4, shared=True).gate.fc2.out_features == 1
    assert Shrinkage(4, shared=False).gate.fc2.out_features == 4


@pytest.mark.parametrize("shared", [True, False])
@few
@given(x=maps, seed=seeds)
def test_threshold_lies_between_zero_and_the_largest_magnitude(shared: bool, x: Any, seed: int) -> None:
    features = torch.from_numpy(x)
    with torch.no_grad():
        tau = layer(seed, shared=shared).threshold(features)
    largest = features.abs().flatten(1).amax(dim=1, keepdim=True) if shared else features.abs().amax(dim=2)
    assert bool((tau >= 0).all())
    assert bool((tau <= largest * (1 + 1e-6)).all())


@pytest.mark.parametrize("shared", [True, False])
@few
@given(x=maps, seed=seeds)
def test_what_is_not_zero_is_never_zeroed_whole(shared: bool, x: Any, seed: int) -> None:
    """A threshold is a part of the mean, and the largest value is no smaller than the mean."""
    features, module = torch.from_numpy(x), layer(seed, shared=shared)
    with torch.no_grad():
        alpha = module.gate(features.abs().mean(dim=2))
        shrunk = module(features)
    if shared:
        alive, survived = features.flatten(1).any(dim=1), shrunk.flatten(1).any(dim=1)
        saturated = alpha[:, 0] > 0.999
    else:
        alive, survived, saturated = features.any(dim=2), shrunk.any(dim=2), alpha > 0.999
    assert torch.equal(survived | saturated, alive | saturated)


@pytest.mark.parametrize("shared", [True, False])
@few
@given(x=maps, seed=seeds, scale=st.floats(0.125, 8))
def test_every_sample_has_its_own_threshold(shared: bool, x: Any, seed: int, scale: float) -> None:
    features, module = torch.from_numpy(x), layer(seed, shared=shared)
    changed = features.clone()
    changed[0] = changed[0] * scale + 1
    with torch.no_grad():
        before, after = module(features), module(changed)
        alone = module(features[-1:])
    assert torch.equal(before[1:], after[1:])
    torch.testing.assert_close(alone[0], before[-1], rtol=1e-5, atol=1e-5 * float(features.abs().max()))


@pytest.mark.parametrize("shared", [True, False])
def test_silence_stays_silence(shared: bool) -> None:
    module = layer(3, shared=shared)
    x = torch.zeros(2, CHANNELS, 8, requires_grad=True)
    shrunk = module(x)
    assert not shrunk.any()
    shrunk.sum().backward()
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())


@pytest.mark.parametrize("value", [2.5, -2.5, 1e-3])
@pytest.mark.parametrize("shared", [True, False])
def test_constant_features_lose_the_share_alpha(shared: bool, value: float) -> None:
    module = layer(4, shared=shared)
    x = torch.full((1, CHANNELS, 8), value)
    with torch.no_grad():
        alpha = module.gate(x.abs().mean(dim=2))
        torch.testing.assert_close(module(x), x * (1 - alpha)[..., None])


@pytest.mark.parametrize("shared", [True, False])
def test_half_precision_extremes_give_no_nan(shared: bool) -> None:
    module = layer(5, shared=shared).half()
    rows = [[65504.0] * 8, [-65504.0, 65504.0] * 4, [6e-8] * 8]
    x = torch.tensor([rows, [[0.0] * 8] * 3], dtype=torch.float16)
    with torch.no_grad():
        shrunk = module(x)
    assert bool(torch.isfinite(shrunk).all())
    assert bool((shrunk.abs() <= x.abs()).all())


def test_squeeze_and_excitation_scales_and_never_zeroes_a_part() -> None:
    x = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(6))
    module = SqueezeExcite(4).eval()
    with torch.no_grad():
        ratio = module(x) / x
    assert bool(((ratio > 0) & (ratio < 1)).all())
    torch.testing.assert_close(ratio, ratio[..., :1].expand_as(ratio))
