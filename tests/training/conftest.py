"""Small windows, small networks: tones of another frequency in each class."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from drsn_edge.model.config import NetworkConfig
from drsn_edge.model.network import Network
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.windows import Windows

LENGTH = 64
MakeWindows = Callable[..., Windows]
MakeNetwork = Callable[..., Network]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Equal bits are promised for one number of threads; two that wait for each other are slow on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_windows() -> MakeWindows:
    def make(count: int = 48, *, classes: int = 3, seed: int = 0) -> Windows:
        rng = np.random.default_rng(seed)
        y = (np.arange(count) % classes).astype(np.int64)
        time = np.arange(LENGTH) / LENGTH
        phase = rng.uniform(0, 2 * np.pi, (count, 1))
        x = np.sin(2 * np.pi * (3 + 6 * y[:, None]) * time + phase) + 0.05 * rng.standard_normal((count, LENGTH))
        labels = tuple(f"tone-{index}" for index in range(classes))
        return Windows(x=x[:, None].astype(np.float32), y=y, cluster=np.arange(count), labels=labels)

    return make


@pytest.fixture
def make_network() -> MakeNetwork:
    def make(*, classes: int = 3, seed: int = 0, model: str = "drsn-cw") -> Network:
        torch.manual_seed(seed)
        config = NetworkConfig(model=model, classes=classes, widths=(4, 8), units=(1, 1))  # type: ignore[arg-type]
        return Network(config, SignalContract(sample_rate_hz=1000.0, window=LENGTH, hop=LENGTH))

    return make
