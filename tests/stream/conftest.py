"""A bundle with telemetry, a clock that tests move, and a network that needs no runner."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from drsn_edge.signals.contract import SignalContract
from drsn_edge.stream.source import Clock


@pytest.fixture(scope="session")
def watched(workshop: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workshop's network, exported with telemetry and its range."""
    from drsn_edge.pipeline.export import ExportOptions, export
    from drsn_edge.pipeline.sweep import SweepOptions

    out = tmp_path_factory.mktemp("watched") / "tiny.drsn"
    options = ExportOptions(precisions=("fp32",), telemetry=True, engines=(), report=False)
    export(
        workshop.run, out=out, calibrate=workshop.data, options=options, sweep=SweepOptions(draws=10, snrs_db=(0.0,))
    )
    return out


class Hands(Clock):
    """A clock that goes only when it is told to, or waited for."""

    def __init__(self) -> None:
        self.now, self.set_by = 1000.0, 1.7e9

    def wall(self) -> float:
        return self.now + self.set_by

    def steady(self) -> float:
        return self.now

    def wait(self, descriptors: list[int], seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def contract() -> SignalContract:
    return SignalContract(sample_rate_hz=1000.0, window=64, hop=32)


@pytest.fixture
def by_sign() -> Callable[[NDArray[np.float32]], dict[str, NDArray[Any]]]:
    """Windows that are mostly positive are class 1: sure by how much."""

    def infer(x: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        mean = x.reshape(len(x), -1).mean(axis=1)
        return {"logits": np.stack([-20 * mean, 20 * mean], axis=1)}

    return infer


@pytest.fixture
def lines() -> Callable[..., list[dict[str, Any]]]:
    """The JSON lines of a file, of one type if asked."""

    def read(path: Path, type_: str | None = None) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in path.read_text().splitlines()]
        return [item for item in found if type_ in (None, item["type"])]

    return read


def tone(label: str, samples: int, *, seed: int = 0, noise: float = 0.1) -> NDArray[np.float32]:
    """What the workshop's network knows."""
    order = {"low": 3, "middle": 9, "high": 17}[label]
    turn = 2 * np.pi * order * np.arange(samples) / 64
    return (np.sin(turn) + noise * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


@pytest.fixture(scope="session")
def make_tone() -> Callable[..., NDArray[np.float32]]:
    return tone
