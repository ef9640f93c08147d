"""A network that computes as its INT8 graph will: rounding where the graph has Q/DQ, gradients straight through it.

Nothing is approximated. Where the exporter puts a pair, on the input and on the weights of the planned convolutions,
the forward pass rounds to the same integers: BatchNormalization is folded first, in float64, with its running
statistics; scales are symmetric, per tensor for inputs and per output channel for weights; halves are rounded to even,
as ONNX QuantizeLinear does.

Gradients: straight-through for values that are not clipped (Bengio et al. 2013), and for a learned scale those of
Esser et al., "Learned Step Size Quantization", ICLR 2020, equation 3.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from drsn_edge.errors import InputError
from drsn_edge.model.config import NetworkConfig
from drsn_edge.model.network import Network
from drsn_edge.model.packing import PackedConv1d

_LOW, _HIGH = -128, 127
# As the calibration's: builders multiply scales, and a product must not underflow.
_SMALLEST_SCALE = 1e-18


class _FakeQuantize(torch.autograd.Function):
    """`scale * clamp(round(x / scale))`, and the two gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        steps = x / scale
        ctx.save_for_backward(steps)
        return torch.clamp(torch.round(steps), _LOW, _HIGH).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None]:
        (steps,) = ctx.saved_tensors
        inside = (steps >= _LOW) & (steps <= _HIGH)
        slope = None
        if ctx.needs_input_grad[1]:
            rounded = torch.clamp(torch.round(steps), _LOW, _HIGH)
            # 1 / sqrt(count * levels): a step per activation would drown the weights' (section 2.2 of the paper).
            share = (rounded.numel() * _HIGH) ** -0.5
            slope = (grads[0] * torch.where(inside, rounded - steps, rounded)).sum() * share
        return grads[0] * inside, slope


def fake_quantize(x: Tensor, scale: Tensor) -> Tensor:
    """What a QuantizeLinear and a DequantizeLinear of int8 make of `x`; `scale` is positive and broadcastable."""
    result: Tensor = _FakeQuantize.apply(x, scale)  # type: ignore[no-untyped-call]
    return result


class FakeQuantConv(nn.Module):
    """A convolution as the INT8 graph has it.

    Args:
        conv: The convolution, shared with the network that it is of.
        norm: The BatchNormalization that the exporter folds into it, if it does.
        scale: Of its input.
        learned: Whether the scale is a parameter.
        full_range: Its input is never negative, and level -127 stands for zero: 127 steps are taken off in front of the
            rounding and added behind it.
    """

    def __init__(
        self,
        conv: nn.Conv1d | nn.Conv2d,
        norm: nn.BatchNorm1d | nn.BatchNorm2d | None,
        scale: float,
        *,
        learned: bool,
        full_range: bool = False,
    ) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.full_range = full_range
        self.scale = nn.Parameter(torch.tensor(scale), requires_grad=learned)

    @property
    def step(self) -> Tensor:
        """The scale, positive whatever training makes of it."""
        return self.scale.abs().clamp_min(_SMALLEST_SCALE)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias with the BatchNormalization in them, computed in float64 as the exporter does."""
        weight = self.conv.weight.double()
        bias = torch.zeros(len(weight)).double() if self.conv.bias is None else self.conv.bias.double()
        if self.norm is not None:
            mean, variance, gamma, beta = (value.double() for value in _statistics(self.norm))
            factor = gamma / torch.sqrt(variance + self.norm.eps)
            weight = weight * factor.reshape(-1, *[1] * (weight.dim() - 1))
            bias = bias * factor + (beta - mean * factor)
        return weight.float(), bias.float()

    def forward(self, x: Tensor) -> Tensor:
        """`[N, in, ...]` to `[N, out, ...]`."""
        weight, bias = self.folded()
        rounded, step = fake_quantize(weight, weight_scales(weight)), self.step
        if self.full_range:
            offset = step.detach() * _HIGH
            x = fake_quantize(x - offset, step) + offset
        else:
            x = fake_quantize(x, step)
        if isinstance(self.conv, PackedConv1d):
            return self.conv.convolve(x, rounded, bias, packed=self.training)
        result: Tensor = self.conv._conv_forward(x, rounded, bias)
        return result


def _statistics(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, variance, gamma, beta."""
    if norm.running_mean is None or norm.running_var is None:
        raise TypeError("a BatchNormalization without running statistics cannot be folded")
    return norm.running_mean, norm.running_var, norm.weight, norm.bias


def weight_scales(weight: Tensor) -> Tensor:
    """Scale per output channel, `[out, 1, ...]`; 1 for a channel of zeros. No gradient goes through it."""
    amax = weight.detach().abs().flatten(1).amax(dim=1)
    scales = torch.where(amax > 0, (amax / _HIGH).clamp_min(_SMALLEST_SCALE), torch.ones_like(amax))
    return scales.reshape(-1, *[1] * (weight.dim() - 1))


class FakeQuantNetwork(nn.Module):
    """A network as its INT8 graph computes it, on the very parameters of the network that it was made from.

    BatchNormalization keeps its statistics in training too: those are what the graph will have, and batch statistics
    would move the scale of every folded weight from step to step.

    Args:
        network: Trained. What trains here trains there.
        scales: Input scale by int8 layer, as the precision plan names layers (`units.0.conv1/Conv`).
        full_range: Layers whose scale is for 255 levels, as the calibration says.
        learned: Whether scales are parameters.

    Raises:
        InputError: A layer that is no convolution of the network.
    """

    def __init__(
        self,
        network: Network,
        scales: Mapping[str, float],
        *,
        full_range: Collection[str] = (),
        learned: bool = False,
    ) -> None:
        super().__init__()
        shared: dict[int, Any] = {id(value): value for value in (*network.parameters(), *network.buffers())}
        self.network: Network = copy.deepcopy(network, shared)
        self.config: NetworkConfig = network.config
        self._layers: dict[str, FakeQuantConv] = {}
        norms = folded_norms(network.config)
        modules = dict(self.network.named_modules())
        for layer, scale in scales.items():
            path = layer.removesuffix("/Conv")
            conv = modules.get(path)
            if not isinstance(conv, nn.Conv1d | nn.Conv2d):
                raise InputError(
                    "the plan quantizes something that the network does not have", got=layer,
                    expected="a convolution of it, as units.0.conv1/Conv", hint="make the plan from this network",
                )  # fmt: skip
            norm = modules[norms[path]] if path in norms else None
            if norm is not None and not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                raise TypeError(f"{norms[path]} is a {type(norm).__name__}, not a BatchNormalization")
            made = FakeQuantConv(conv, norm, scale, learned=learned, full_range=layer in full_range)
            self._layers[layer] = made
            self.network.set_submodule(path, made)
            if norm is not None:
                self.network.set_submodule(norms[path], nn.Identity())

    @property
    def scales(self) -> dict[str, float]:
        """Input scale by layer, as float32 holds it."""
        return {layer: float(made.step.detach()) for layer, made in self._layers.items()}

    def train(self, mode: bool = True) -> FakeQuantNetwork:
        """Training mode for everything but the statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, window: Tensor) -> Tensor:
        """Logits of raw windows."""
        logits: Tensor = self.network(window)
        return logits


def folded_norms(config: NetworkConfig) -> dict[str, str]:
    """Which BatchNormalization the exporter folds into which convolution: that which alone reads its result.

    `conv1` is always followed by `bn2` alone. What leaves `conv2` is shrunk, scaled or added to the shortcut first,
    unless there is neither: then the next unit's `bn1` follows, or the last `bn`; and the stem is read by the shortcut
    too, unless there is none.
    """
    names = config.unit_names
    found = {f"{unit}.conv1": f"{unit}.bn2" for unit in names}
    if config.model == "convnet":
        found["stem"] = f"{names[0]}.bn1"
        found |= {f"{unit}.conv2": f"{after}.bn1" for unit, after in itertools.pairwise(names)}
        found[f"{names[-1]}.conv2"] = "bn"
    return found
