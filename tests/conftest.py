"""What tests of several folders need: small networks with the statistics of trained ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from drsn_edge.model.network import Network
    from drsn_edge.signals.contract import SignalContract

MakeNetwork = Callable[..., "tuple[Network, SignalContract]"]


@pytest.fixture(scope="session")
def make_network() -> MakeNetwork:
    """A function that makes a network in evaluation mode, and the contract of its windows.

    Batch statistics, scales and biases are drawn as training leaves them: fresh ones (mean 0, variance 1) would hide a
    normalisation that is folded into the wrong place.
    """
    torch = pytest.importorskip("torch", reason="networks are PyTorch modules")
    from drsn_edge.model.config import NetworkConfig
    from drsn_edge.model.network import Network
    from drsn_edge.signals.contract import SignalContract

    def make(
        model: str = "drsn-cw",
        *,
        preset: str | None = None,
        widths: tuple[int, ...] = (4, 6, 9),
        units: tuple[int, ...] = (1, 2, 1),
        dims: int = 1,
        channels: tuple[str, ...] = ("signal",),
        classes: int = 5,
        window: int = 64,
        image: tuple[int, int] | None = None,
        trained: bool = True,
        seed: int = 0,
        **contract: Any,
    ) -> tuple[Network, SignalContract]:
        image = image or ((16, 20) if dims == 2 else None)
        if preset is not None:
            config = NetworkConfig.preset(preset, model=model, classes=classes, in_channels=len(channels), dims=dims)
        else:
            config = NetworkConfig(
                model=model, classes=classes, in_channels=len(channels), dims=dims, widths=widths, units=units  # type: ignore[arg-type]
            )  # fmt: skip
        signal = SignalContract(sample_rate_hz=12_800.0, channels=channels, window=window)
        if image is not None:
            signal = replace(signal, window=image[0] * image[1], image=image)
        signal = replace(signal, **contract)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Network(config, signal)
            if trained:
                _draw_statistics(torch, network)
        return network.eval(), signal

    return make


def _draw_statistics(torch: Any, network: Network) -> None:
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0.0, 0.3)
                module.running_var.log_normal_(0.0, 0.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0.0, 0.2)
            elif isinstance(module, torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Linear):
                module.bias.normal_(0.0, 0.1)
