"""A convolution that trains faster on a CPU when it is narrow.

oneDNN computes in blocks of as many channels as a vector register holds, 16 with AVX-512 and 8 with AVX2, and pads
narrower ones with zeros, so that the 4-channel convolutions of the paper's first stage take as long as those of a whole
block. `[N, C, L]` is also `[N / p, p C, L]`, at no cost: p windows side by side as p groups of channels, convolved by a
block-diagonal weight. The zeros are then the weight's, in arithmetic that was done anyway, and the maps are read and
written whole. More windows than fill a block would only add zeros to multiply by.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BLOCK = 16 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 8


class PackedConv1d(nn.Conv1d):
    """`nn.Conv1d`, the same parameters and the same values; packed only where a CPU is to compute gradients.

    Evaluation, tracing and export see the plain convolution.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in nn.Conv1d
        """`[N, in, L]` to `[N, out, L']`."""
        return self.convolve(input, self.weight, self.bias, packed=self.training)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, *, packed: bool) -> Tensor:
        """The same with other weights of these shapes, packed if asked and possible."""
        pack = _BLOCK // max(self.in_channels, self.out_channels)
        windows = x.shape[0]
        plain = not packed or pack < 2 or windows % pack != 0 or x.device.type != "cpu"
        if plain or bias is None or not torch.is_grad_enabled():
            result: Tensor = self._conv_forward(x, weight, bias)
            return result
        eye = torch.eye(pack, dtype=weight.dtype)
        blocks = eye[:, None, :, None, None] * weight[None, :, None]
        wide = blocks.reshape(pack * self.out_channels, pack * self.in_channels, -1)
        side_by_side = x.reshape(windows // pack, pack * self.in_channels, -1)
        result = F.conv1d(side_by_side, wide, bias.repeat(pack), self.stride, self.padding)
        return result.reshape(windows, self.out_channels, -1)
