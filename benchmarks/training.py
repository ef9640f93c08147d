"""Training throughput: our loop against a plain PyTorch loop, the same network, noise and optimiser, in one run.

Protocol: random windows of 2048 samples, Gaussian noise of -6 to 10 dB drawn anew for every window of every epoch,
batches of 128, gradient descent with momentum. Three loops take turns, one epoch each, so that whatever else the
machine does meets all of them; the first turn warms up and does not count. Reported is the median over turns.

    plain            DataLoader, one window at a time through numpy, layers as PyTorch has them
    plain loop       the same loop around our layers (packed narrow convolutions, short backward passes)
    drsn-edge        our loop around our layers

Before that, both kinds of layers are checked to give the same loss and gradients.

    python -m benchmarks.training [--threads 1] [--epochs 5] [--windows 1280] [--model drsn-cw] [--preset paper]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from drsn_edge.model.config import NetworkConfig
from drsn_edge.model.network import Network
from drsn_edge.model.packing import PackedConv1d
from drsn_edge.model.shrinkage import Shrinkage, spatial_mean
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.windows import Windows
from drsn_edge.training.compute import TrainStep
from drsn_edge.training.loop import make_optimizer, train_epoch
from drsn_edge.training.options import FitOptions, NoiseRange
from drsn_edge.training.sources import source

CLASSES, LENGTH = 10, 2048


class PlainShrinkage(Shrinkage):
    """The equations, left to autograd."""

    def forward(self, x: Tensor) -> Tensor:
        magnitude = spatial_mean(x.abs())
        alpha = self.gate(magnitude)
        tau = alpha * (magnitude.mean(dim=1, keepdim=True) if self.shared else magnitude)
        tau = tau.reshape(*tau.shape, *[1] * (x.dim() - 2))
        return x - torch.maximum(torch.minimum(x, tau), -tau)


class PlainWindows(Dataset[tuple[Tensor, int]]):
    """One window at a time, as most training scripts have it."""

    def __init__(self, windows: Windows, seed: int) -> None:
        self.windows = windows
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x = self.windows.x[index]
        power = x.var() * 10 ** (-self.rng.uniform(-6, 10) / 10)
        noise = self.rng.standard_normal(x.shape, dtype=np.float32) * np.float32(np.sqrt(power))
        return torch.from_numpy(x + noise), int(self.windows.y[index])


def make_network(args: argparse.Namespace, *, plain: bool) -> Network:
    """The same weights either way."""
    torch.manual_seed(0)
    config = NetworkConfig.preset(args.preset, model=args.model, classes=CLASSES)
    network = Network(config, SignalContract(sample_rate_hz=12000.0, window=LENGTH))
    for module in network.modules() if plain else ():
        if isinstance(module, PackedConv1d):
            module.__class__ = nn.Conv1d  # type: ignore[assignment]
        elif isinstance(module, Shrinkage):
            module.__class__ = PlainShrinkage
    return network.train()


def largest_difference(args: argparse.Namespace, windows: Windows) -> float:
    """Between losses and gradients of both kinds of layers in float64, each relative to its largest element."""
    found: list[list[Tensor]] = []
    for plain in (True, False):
        network = make_network(args, plain=plain).double()
        x, y = torch.from_numpy(windows.x[:64]).double(), torch.from_numpy(windows.y[:64])
        loss = F.cross_entropy(network(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        # Biases in front of a BatchNorm have no gradient but rounding.
        found.append([loss.detach(), *(p.grad for p in network.parameters() if p.grad is not None and p.dim() > 1)])
    return max(float((one - other).abs().max() / one.abs().max()) for one, other in zip(*found, strict=True))


def plain_epoch(network: Network, windows: Windows, seed: int) -> Callable[[int], None]:
    loader = DataLoader(PlainWindows(windows, seed), batch_size=128, shuffle=True, drop_last=True)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def run(epoch: int) -> None:
        del epoch
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return run


def our_epoch(network: Network, windows: Windows) -> Callable[[int], None]:
    options = FitOptions(epochs=1, lr=0.01, noise=NoiseRange(("gaussian",), (-6.0, 10.0)))
    step = TrainStep(network, make_optimizer(network, options))

    batches = source(windows, windows, options, torch.device("cpu"))

    def run(epoch: int) -> None:
        train_epoch(step, batches.epoch(epoch))

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--windows", type=int, default=1280)
    parser.add_argument("--model", default="drsn-cw")
    parser.add_argument("--preset", default="paper")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rng = np.random.default_rng(0)
    windows = Windows(
        x=rng.standard_normal((args.windows, 1, LENGTH), dtype=np.float32),
        y=rng.integers(CLASSES, size=args.windows),
        cluster=np.arange(args.windows),
        labels=tuple(f"class-{index}" for index in range(CLASSES)),
    )
    difference = largest_difference(args, windows)
    if difference > 1e-9:
        raise SystemExit(f"the two kinds of layers differ: {difference:.1e}, expected rounding")
    loops = {
        "plain": plain_epoch(make_network(args, plain=True), windows, seed=0),
        "plain loop": plain_epoch(make_network(args, plain=False), windows, seed=0),
        "drsn-edge": our_epoch(make_network(args, plain=False), windows),
    }
    speeds: dict[str, list[float]] = {name: [] for name in loops}
    for epoch in range(args.epochs + 1):
        for name, run in loops.items():
            began = time.perf_counter()
            run(epoch)
            if epoch:
                speeds[name].append(args.windows // 128 * 128 / (time.perf_counter() - began))
    median = {name: statistics.median(values) for name, values in speeds.items()}
    print(f"{'loop':<12}{'windows/s':>12}{'fastest':>12}{'times plain':>14}")
    for name, value in median.items():
        print(f"{name:<12}{value:>12.0f}{max(speeds[name]):>12.0f}{value / median['plain']:>14.2f}")
    rows = [{"loop": name, "windows_per_s": values, "median": median[name]} for name, values in speeds.items()]
    summary = {
        "windows_per_s": median["drsn-edge"],
        "plain_windows_per_s": median["plain"],
        "speedup": median["drsn-edge"] / median["plain"],
        "speedup_of_layers": median["plain loop"] / median["plain"],
        "largest_relative_difference": difference,
    }
    device = {"machine": platform.machine(), "torch": torch.__version__, "threads": args.threads}
    options = {"model": args.model, "preset": args.preset, "batch": 128, "length": LENGTH, "windows": args.windows}
    print(json.dumps({"device": device, "options": options, "rows": rows, "summary": summary}, indent=2))


if __name__ == "__main__":
    main()
