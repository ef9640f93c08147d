"""Soft thresholding with thresholds that the network sets for every sample.

M. Zhao, S. Zhong, X. Fu, B. Tang, M. Pecht: "Deep Residual Shrinkage Networks for Fault Diagnosis", IEEE Transactions
on Industrial Informatics 16(7), 2020, 4681-4690, doi 10.1109/TII.2019.2943898.

    y = x - tau   if x >  tau
        0         if |x| <= tau        (the dead zone)                                     equation 5
        x + tau   if x < -tau
    dy/dx = 0 in the dead zone, 1 outside it                                               equation 6

    tau_c = alpha_c * mean over positions of |x_c|,      alpha = sigmoid(z), one z per channel   (DRSN-CW, equation 14)
    tau   = alpha   * mean over positions and channels,  alpha = sigmoid(z), one z per sample   (DRSN-CS, equation 12)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from drsn_edge.model.norm import BatchNorm1d


class _SoftThreshold(torch.autograd.Function):
    """The training path: one mask is all that the backward pass needs, where autograd would keep four maps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tau: Tensor) -> Tensor:
        shrunk = x - torch.clamp(x, -tau, tau)
        ctx.save_for_backward(shrunk)
        ctx.tau_shape = tau.shape
        return shrunk

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (shrunk,) = ctx.saved_tensors
        sign = torch.sign(shrunk)
        slope = grads[0] * sign
        # sign * sign is the 0/1 mask of equation 6; tau moves every survivor towards zero.
        return slope * sign, -slope.sum_to_size(ctx.tau_shape)


def soft_threshold(x: Tensor, tau: Tensor) -> Tensor:
    """Equation 5, written as `x - max(min(x, tau), -tau)`.

    This form cannot turn an overflow into NaN as `sign(x) * max(|x| - tau, 0)` built from differences can, gives exact
    zeros in the dead zone, and is the one that TensorRT fuses into the fewest kernels.

    Args:
        x: Features, any shape.
        tau: Thresholds >= 0, broadcastable to `x`.
    """
    if torch.is_grad_enabled() and (x.requires_grad or tau.requires_grad):
        result: Tensor = _SoftThreshold.apply(x, tau)  # type: ignore[no-untyped-call]
        return result
    return x - torch.maximum(torch.minimum(x, tau), -tau)


def spatial_mean(x: Tensor) -> Tensor:
    """Mean over positions: `[N, C, ...]` to `[N, C]`."""
    # Not flattened first: a graph would compute the shape of that at run time.
    return x.mean(dim=tuple(range(2, x.dim())))


class _MeanMagnitude(torch.autograd.Function):
    """The training path: autograd would write the mean's gradient out as a whole map, only to multiply it by signs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _mean_of_magnitudes(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        slope = grads[0] * (grads[0].numel() / x.numel())
        return torch.sign(x).mul_(_per_channel(slope.to(x.dtype), x))


def mean_magnitude(x: Tensor) -> Tensor:
    """Mean of |x| over positions: `[N, C, ...]` to `[N, C]`."""
    if torch.is_grad_enabled() and x.requires_grad:
        result: Tensor = _MeanMagnitude.apply(x)  # type: ignore[no-untyped-call]
        return result
    return _mean_of_magnitudes(x)


def _mean_of_magnitudes(x: Tensor) -> Tensor:
    magnitude = x.abs()
    # In mixed precision the mean of maps of 16 bits is FP32, as in every graph that is exported.
    return spatial_mean(magnitude.float() if torch.is_autocast_enabled(x.device.type) else magnitude)


def _per_channel(value: Tensor, like: Tensor) -> Tensor:
    """`[N, M]` as `[N, M, 1, ...]`, so that it broadcasts over the positions of `like`."""
    return value.reshape(*value.shape, *[1] * (like.dim() - 2))


class ChannelGate(nn.Module):
    """FC, BatchNorm, ReLU, FC, sigmoid (figure 4): `[N, C]` to coefficients in (0, 1), `[N, outputs]`."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels)
        self.bn = BatchNorm1d(channels)
        self.fc2 = nn.Linear(channels, outputs)

    def forward(self, pooled: Tensor) -> Tensor:
        """`pooled`: `[N, C]`."""
        if torch.is_autocast_enabled(pooled.device.type):  # thresholds are never computed in 16 bits
            with torch.autocast(pooled.device.type, enabled=False):
                return self._coefficients(pooled.float())
        return self._coefficients(pooled)

    def _coefficients(self, pooled: Tensor) -> Tensor:
        return torch.sigmoid(self.fc2(torch.relu(self.bn(self.fc1(pooled)))))


class Shrinkage(nn.Module):
    """Soft thresholding with learned thresholds.

    Args:
        channels: Channels of the features.
        shared: One threshold per sample (DRSN-CS) instead of one per sample and channel (DRSN-CW).
    """

    def __init__(self, channels: int, *, shared: bool) -> None:
        super().__init__()
        self.shared = shared
        self.gate = ChannelGate(channels, 1 if shared else channels)

    def threshold(self, x: Tensor) -> Tensor:
        """Thresholds of `x` `[N, C, ...]`: `[N, C]`, or `[N, 1]` when shared."""
        magnitude = mean_magnitude(x)
        alpha: Tensor = self.gate(magnitude)
        return alpha * (magnitude.mean(dim=1, keepdim=True) if self.shared else magnitude)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, ...]` to the same shape."""
        tau = self.threshold(x)
        return soft_threshold(x, _per_channel(tau if tau.dtype == x.dtype else tau.to(x.dtype), x))


class SqueezeExcite(nn.Module):
    """Channel attention with the same gate, the SENet row of the comparison: scales channels, never zeroes a part."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = ChannelGate(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, ...]` to the same shape."""
        scale = self.gate(spatial_mean(x))
        return x * _per_channel(scale if scale.dtype == x.dtype else scale.to(x.dtype), x)
