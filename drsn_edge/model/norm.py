"""BatchNorm that can take the statistics of a batch that several processes share.

The same parameters, buffers and values as PyTorch's. Alone, in evaluation, traced and exported it is PyTorch's own;
`torch.nn.SyncBatchNorm` does not run on a CPU.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Exchange(Protocol):
    """What the processes that share a batch tell each other; all call the same methods in the same order."""

    def gathered(self, value: Tensor) -> Tensor:
        """The values of all processes, `[processes, ...]`, in the order of their ranks."""

    def summed(self, value: Tensor) -> Tensor:
        """The sum of the values of all processes."""


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`scale * x + shift` by channel, in one pass: broadcast products take three times as long on a CPU."""
    scale, shift = scale.to(x.dtype), shift.to(x.dtype)
    return torch.batch_norm(x, scale, shift, torch.zeros_like(scale), torch.ones_like(scale), False, 0.0, 0.0, False)


def _channel_sum(x: Tensor) -> Tensor:
    """Sum over windows and positions in float64, `[C]`; positions are added up in the type of `x`."""
    return x.sum(dim=2).sum(dim=0, dtype=torch.float64)


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values in each channel, their mean and their sum of squared deviations, `[C]` float64."""
    count = torch.full(x.shape[1:2], x.shape[0] * x.shape[2], dtype=torch.float64, device=x.device)
    mean = _channel_sum(x) / count
    centred = x - mean.to(x.dtype)[:, None]
    rest = _channel_sum(centred)  # what the rounded mean has left
    square = torch.linalg.vector_norm(centred, dim=2).double().square_().sum(dim=0)
    return count, mean, square - rest * rest / count


class _Normalise(torch.autograd.Function):
    """`weight * (x - mean) / sqrt(variance + eps) + bias` of `[N, C, L]`, with the statistics of all processes.

    Moments are combined as in Chan, Golub and LeVeque, "Updating Formulae", 1979: sums of squares would cancel. The
    gradient of x needs the sums of the gradient and of its product with x (Ioffe and Szegedy, "Batch Normalization",
    2015, section 3) over the whole batch, too.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, exchange: Exchange
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        counts, means, deviations = exchange.gathered(torch.stack(_moments(x))).unbind(dim=1)
        count = counts.sum(dim=0)
        mean = (counts * means).sum(dim=0) / count
        variance = (deviations + counts * (means - mean) ** 2).sum(dim=0) / count
        inverse = torch.rsqrt(variance + eps)
        scale = weight * inverse
        ctx.save_for_backward(x, weight, mean, inverse, count)
        ctx.exchange = exchange
        ctx.mark_non_differentiable(mean, variance, count)
        return _affine(x, scale, bias - mean * scale), mean, variance, count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, count = ctx.saved_tensors
        plain = _channel_sum(grads[0])
        product = torch.linalg.vecdot(grads[0], x, dim=2).sum(dim=0, dtype=torch.float64)
        product = (product - mean * plain) * inverse
        mean_plain, mean_product = (ctx.exchange.summed(torch.stack([plain, product])) / count).unbind(dim=0)
        scale = weight * inverse
        slope = -scale * inverse * mean_product
        dx = _affine(grads[0], scale, -scale * mean_plain - slope * mean)
        dx += _affine(x, slope, torch.zeros_like(slope))
        # The gradients of weight and bias stay those of this process: they are summed with all others later.
        return dx, product.to(weight.dtype), plain.to(weight.dtype), None, None


class _Norm(_BatchNorm):
    """What both have in common. `exchange` is set for as long as several processes train together."""

    exchange: Exchange | None = None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in nn.BatchNorm1d
        """`[N, C, ...]` to the same shape."""
        if self.exchange is None or not self.training:
            return super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        x = input.to(self.weight.dtype).reshape(*input.shape[:2], -1)
        y, mean, variance, count = _Normalise.apply(x, self.weight, self.bias, self.eps, self.exchange)  # type: ignore[no-untyped-call]
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = variance * (count / (count - 1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        result: Tensor = y.reshape(input.shape).to(input.dtype)
        return result


class BatchNorm1d(_Norm, nn.BatchNorm1d):
    """`nn.BatchNorm1d`."""


class BatchNorm2d(_Norm, nn.BatchNorm2d):
    """`nn.BatchNorm2d`."""
