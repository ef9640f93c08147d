from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from drsn_edge.model import packing
from drsn_edge.model.packing import PackedConv1d
from drsn_edge.model.shrinkage import Shrinkage, mean_magnitude


@pytest.fixture(params=[8, 16])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Channels of a block, as of AVX2 and AVX-512."""
    monkeypatch.setattr(packing, "_BLOCK", request.param)
    return int(request.param)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("channels", [(1, 4), (4, 4), (4, 8), (3, 5), (8, 8), (16, 16)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("windows", [8, 7])
def test_equals_the_plain_convolution(channels: tuple[int, int], stride: int, kernel: int, windows: int) -> None:
    torch.manual_seed(0)
    packed = PackedConv1d(*channels, kernel, stride=stride, padding=kernel // 2).double()
    plain = nn.Conv1d(*channels, kernel, stride=stride, padding=kernel // 2).double()
    plain.load_state_dict(packed.state_dict())
    x = torch.randn(windows, channels[0], 33, dtype=torch.float64)
    results = []
    for module in (packed, plain):
        given = x.clone().requires_grad_()
        y = module(given)
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
        results.append((y, given.grad, module.weight.grad, module.bias.grad if module.bias is not None else None))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("training", "windows", "channels", "packs"),
    [
        (True, 8, 4, {8: 2, 16: 4}),
        (True, 8, 8, {8: 1, 16: 2}),
        (True, 6, 4, {8: 2, 16: 1}),  # four do not divide six
        (True, 8, 16, {8: 1, 16: 1}),
        (False, 8, 4, {8: 1, 16: 1}),
    ],
)
def test_packed_to_a_block_and_only_in_training(
    training: bool, windows: int, channels: int, packs: dict[int, int], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    conv1d = F.conv1d

    def watch(x: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(tuple(x.shape))
        return conv1d(x, *rest)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(F, "conv1d", watch)
    module = PackedConv1d(channels, channels, 3, padding=1).train(training)
    module(torch.zeros(windows, channels, 20))
    pack = packs[block]
    assert seen == [(windows // pack, pack * channels, 20)]


def test_the_block_is_that_of_this_cpu() -> None:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        pytest.skip("needs /proc/cpuinfo")
    wide = "avx512f" in path.read_text() and "ATEN_CPU_CAPABILITY" not in os.environ
    assert (packing._BLOCK == 16) == wide


def test_gradients_of_mean_magnitude_and_shrinkage() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, 11, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mean_magnitude, (x,))
    for shared in (False, True):
        assert torch.autograd.gradcheck(Shrinkage(4, shared=shared).double().eval(), (x,))
