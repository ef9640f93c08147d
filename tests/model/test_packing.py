"""Narrow convolutions packed for a CPU are the same convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from drsn_edge.model.packing import PackedConv1d


@pytest.mark.parametrize("windows", [16, 5])
@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(1, 4, 2), (4, 4, 1), (4, 8, 2), (16, 16, 1), (3, 5, 1)])
def test_values_and_gradients_are_those_of_conv1d(inputs: int, outputs: int, stride: int, windows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    packed = PackedConv1d(inputs, outputs, 3, stride=stride, padding=1).double()
    plain = nn.Conv1d(inputs, outputs, 3, stride=stride, padding=1).double()
    plain.load_state_dict(packed.state_dict())
    weight = torch.randn(windows, outputs, (31 + stride) // stride, dtype=torch.float64, generator=generator)
    values = torch.randn(windows, inputs, 32, dtype=torch.float64, generator=generator)
    found = []
    for module in (packed.train(), plain.train()):
        x = values.clone().requires_grad_()
        y = module(x)
        (y * weight[..., : y.shape[2]]).sum().backward()
        found.append([y.detach(), x.grad, module.weight.grad, module.bias.grad if module.bias is not None else None])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_evaluation_is_the_plain_convolution_bit_for_bit() -> None:
    packed = PackedConv1d(4, 4, 3, padding=1).eval()
    x = torch.randn(16, 4, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(packed(x), nn.Conv1d.forward(packed, x))


def test_gradients_pass_the_numerical_check() -> None:
    packed = PackedConv1d(2, 3, 3, padding=1).double().train()
    x = torch.randn(5, 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert len(x) == 16 // 3, "this batch is packed"
    assert torch.autograd.gradcheck(packed, (x,))
