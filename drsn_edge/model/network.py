"""The five networks of the comparison, one skeleton (Zhao et al. 2020, Table II and figures 2 and 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drsn_edge.errors import UsageError
from drsn_edge.model.config import NetworkConfig
from drsn_edge.model.norm import BatchNorm1d, BatchNorm2d
from drsn_edge.model.packing import PackedConv1d
from drsn_edge.model.shrinkage import Shrinkage, SqueezeExcite, spatial_mean
from drsn_edge.signals.contract import SignalContract

_CONV = {1: PackedConv1d, 2: nn.Conv2d}
_NORM = {1: BatchNorm1d, 2: BatchNorm2d}


class Front(nn.Module):
    """The in-graph part of the signal contract: detrend, then standardise, each channel of each window by itself."""

    def __init__(self, contract: SignalContract) -> None:
        super().__init__()
        self.detrend = contract.detrend == "mean"
        self.standardise = contract.standardise == "window"
        self.epsilon = contract.epsilon

    def forward(self, window: Tensor) -> Tensor:
        """Raw `[N, C, ...]` to what the stem takes, the same shape."""
        positions = tuple(range(2, window.dim()))
        if not (self.detrend or self.standardise):
            return window
        centred = window - window.mean(dim=positions, keepdim=True)
        # Once more: the rounding error of a large mean would stand for the whole signal of a dead sensor, +1 or -1
        # after the division, whichever way a runtime adds up.
        centred = centred - centred.mean(dim=positions, keepdim=True)
        x = centred if self.detrend else window
        if self.standardise:
            variance = (centred * centred).mean(dim=positions, keepdim=True)
            x = x / torch.sqrt(variance + self.epsilon)
        return x


class Unit(nn.Module):
    """BN, ReLU, Conv, BN, ReLU, Conv, then what the model adds, then the identity. No ReLU after the sum."""

    def __init__(self, config: NetworkConfig, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        conv, norm = _CONV[config.dims], _NORM[config.dims]
        padding = config.kernel // 2
        self.stride = stride
        self.extra = channels - in_channels
        self.residual = config.model != "convnet"
        self.bn1 = norm(in_channels)
        self.conv1 = conv(in_channels, channels, config.kernel, stride=stride, padding=padding)
        self.bn2 = norm(channels)
        self.conv2 = conv(channels, channels, config.kernel, padding=padding)
        self.shrinkage: nn.Module
        if config.shrinks:
            self.shrinkage = Shrinkage(channels, shared=config.model == "drsn-cs")
        elif config.model == "senet":
            self.shrinkage = SqueezeExcite(channels)
        else:
            self.shrinkage = nn.Identity()

    def shortcut(self, x: Tensor) -> Tensor:
        """Every `stride`-th position, and zero channels on both sides; no parameters (the authors' own choice)."""
        if self.stride > 1:
            x = x[..., :: self.stride] if x.dim() == 3 else x[..., :: self.stride, :: self.stride]
        if self.extra:
            before = self.extra // 2
            x = F.pad(x, [0, 0] * (x.dim() - 2) + [before, self.extra - before])
        return x

    def forward(self, x: Tensor) -> Tensor:
        """`[N, in, L]` to `[N, channels, ceil(L / stride)]`."""
        y = self.conv1(torch.relu(self.bn1(x)))
        y = self.conv2(torch.relu(self.bn2(y)))
        y = self.shrinkage(y)
        result: Tensor = y + self.shortcut(x) if self.residual else y
        return result


@dataclass(frozen=True)
class Probe:
    """What one shrinkage unit did to a batch.

    Attributes:
        threshold: `[N, C]`; a shared threshold is repeated for every channel.
        zero_share: `[N, C]`, share of positions in the dead zone.
        shrunk: `[N, C, ...]`, features after shrinkage.
    """

    threshold: Tensor
    zero_share: Tensor
    shrunk: Tensor


class Network(nn.Module):
    """Raw windows `[N, channels, ...]` to logits `[N, classes]`.

    Initialised as in the paper's reference settings: He-normal weights over fan-in, zero biases.
    """

    def __init__(self, config: NetworkConfig, contract: SignalContract) -> None:
        super().__init__()
        self.config = config
        self.front = Front(contract)
        conv, norm = _CONV[config.dims], _NORM[config.dims]
        self.stem = conv(config.in_channels, config.widths[0], config.kernel, stride=2, padding=config.kernel // 2)
        units: list[Unit] = []
        channels = config.widths[0]
        for width, count in zip(config.widths, config.units, strict=True):
            for index in range(count):
                units.append(Unit(config, channels, width, stride=2 if index == 0 else 1))
                channels = width
        self.units = nn.ModuleList(units)
        self.bn = norm(channels)
        self.fc = nn.Linear(channels, config.classes)
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, window: Tensor) -> Tensor:
        """Logits of raw windows."""
        x = self.stem(self.front(window))
        for unit in self.units:
            x = unit(x)
        logits: Tensor = self.fc(spatial_mean(torch.relu(self.bn(x))))
        return logits

    def probe(self, window: Tensor) -> tuple[Tensor, dict[str, Probe]]:
        """Logits, and by module path what every shrinkage unit did; empty for networks that do not shrink.

        Raises:
            UsageError: The network is in training mode.
        """
        if self.training:
            raise UsageError(
                "a network in training mode cannot be probed",
                got="training mode",
                expected="evaluation mode",
                hint="call eval() first: the probe computes every threshold again, which moves batch statistics",
            )
        seen: dict[str, Probe] = {}

        def watch(name: str) -> None:
            def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                if not isinstance(module, Shrinkage):
                    raise TypeError(f"{name} is no shrinkage")
                threshold = module.threshold(inputs[0]).expand(-1, output.shape[1])
                seen[name] = Probe(threshold, spatial_mean((output == 0).to(output.dtype)), output)

            handles.append(self.get_submodule(f"{name}.shrinkage").register_forward_hook(hook))

        handles: list[torch.utils.hooks.RemovableHandle] = []
        if self.config.shrinks:
            for name in self.config.unit_names:
                watch(name)
        try:
            return self(window), seen
        finally:
            for handle in handles:
                handle.remove()


def count_parameters(network: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
