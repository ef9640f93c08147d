"""Networks as others write them; imported by name, as a user's own module is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLASSES = 3


class Threshold(nn.Module):
    """The threshold branch of figure 4, as a module that gives tau `[N, C, 1]` or `[N, 1, 1]`."""

    def __init__(self, channels: int, *, shared: bool = False) -> None:
        super().__init__()
        self.shared = shared
        self.gap = nn.AdaptiveAvgPool1d(1)
        outputs = 1 if shared else channels
        self.fc = nn.Sequential(
            nn.Linear(channels, channels), nn.BatchNorm1d(channels), nn.ReLU(inplace=True),
            nn.Linear(channels, outputs), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        average = torch.flatten(self.gap(torch.abs(x)), 1)
        alpha = self.fc(average)
        tau: Tensor = torch.mul(average.mean(1, keepdim=True) if self.shared else average, alpha)
        return tau.unsqueeze(2)


class PostActivationUnit(nn.Module):
    """Conv, BN, ReLU, Conv, BN, shrinkage; a 1x1 convolution with BN beside it; ReLU after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual_function = nn.Sequential(
            nn.Conv1d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm1d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv1d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm1d(outputs),
        )
        self.shrinkage = Threshold(outputs)
        self.shortcut: nn.Module = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv1d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm1d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        raw = self.residual_function(x)
        excess = torch.abs(raw) - self.shrinkage(raw)
        shrunk = torch.sign(raw) * torch.relu(excess)
        return torch.relu(shrunk + self.shortcut(x))


class PreActivationUnit(nn.Module):
    """BN, ReLU, Conv twice, two ReLUs for the shrinkage, a bare 1x1 convolution beside it."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, shared: bool) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm1d(inputs), nn.BatchNorm1d(outputs)
        self.conv1 = nn.Conv1d(inputs, outputs, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv1d(outputs, outputs, 3, padding=1)
        self.shrinkage = Threshold(outputs, shared=shared)
        self.shared = shared
        self.downsample = nn.Conv1d(inputs, outputs, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(torch.relu(self.bn2(self.conv1(torch.relu(self.bn1(x))))))
        tau = self.shrinkage(y)
        # The published models have either spelling.
        y = y - torch.clamp(y, min=-tau, max=tau) if self.shared else torch.relu(y - tau) - torch.relu(-y - tau)
        result: Tensor = y + self.downsample(x)
        return result


class Classifier(nn.Module):
    """Standardises its windows itself, as its contract says."""

    def __init__(self, *units: nn.Module, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(1, width // 2, 3, padding=1, bias=False), nn.BatchNorm1d(width // 2))
        self.layers = nn.Sequential(*units)
        self.pool = nn.AdaptiveAvgPool1d(1)
        self.fc = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(2, keepdim=True)
        x = x / torch.sqrt(x.pow(2).mean(2, keepdim=True) + 1e-5)
        result: Tensor = self.fc(torch.flatten(self.pool(torch.relu(self.layers(torch.relu(self.stem(x))))), 1))
        return result


def post_activation() -> Classifier:
    return Classifier(PostActivationUnit(4, 8, 2), PostActivationUnit(8, 8, 1), width=8)


def two_relus() -> Classifier:
    return Classifier(PreActivationUnit(4, 8, 2, shared=False), PreActivationUnit(8, 8, 1, shared=False), width=8)


def channel_shared() -> Classifier:
    return Classifier(PreActivationUnit(4, 8, 2, shared=True), PreActivationUnit(8, 8, 1, shared=True), width=8)


class Broken(nn.Module):
    """Raises in forward."""

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError(f"no {tuple(x.shape)}")
