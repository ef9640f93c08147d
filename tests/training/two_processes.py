"""What tests/training/test_parallel.py starts twice, as processes 0 and 1 of a run, and calls itself as one alone.

python two_processes.py FOLDER PORT [PORT ...]
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from drsn_edge.errors import DrsnError, InputError
from drsn_edge.model.config import NetworkConfig
from drsn_edge.model.network import Network
from drsn_edge.model.norm import BatchNorm1d, BatchNorm2d
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.windows import Windows
from drsn_edge.training import loop
from drsn_edge.training.loop import fit
from drsn_edge.training.options import FitOptions, NoiseRange
from drsn_edge.training.parallel import Processes, processes, synchronised

OPTIONS = FitOptions(epochs=3, batch=15, lr=0.05, noise=NoiseRange(("gaussian", "pink"), (0.0, 10.0)), seed=1)
SHAPES = {"vectors": (7, 3), "signals": (7, 3, 10), "pictures": (7, 3, 4, 5)}


def make_windows(count: int = 48, seed: int = 0) -> Windows:
    """Tones of three frequencies."""
    rng = np.random.default_rng(seed)
    y = (np.arange(count) % 3).astype(np.int64)
    phase = rng.uniform(0, 2 * np.pi, (count, 1))
    x = np.sin(2 * np.pi * (3 + 6 * y[:, None]) * np.arange(64) / 64 + phase) + 0.05 * rng.standard_normal((count, 64))
    return Windows(x=x[:, None].astype(np.float32), y=y, cluster=np.arange(count), labels=("a", "b", "c"))


def make_network(model: str = "drsn-cw") -> Network:
    torch.manual_seed(0)
    config = NetworkConfig(model=model, classes=3, widths=(4, 8), units=(1, 1))  # type: ignore[arg-type]
    return Network(config, SignalContract(sample_rate_hz=1000.0, window=64, hop=64))


def train(group: Processes, out: Path | None = None, *, resume: bool = False, model: str = "drsn-cw") -> dict[str, Any]:
    """Loss curve and weights of a run."""
    network = make_network(model)
    result = fit(
        network, make_windows(), make_windows(30, seed=1), options=OPTIONS, out=out, resume=resume, processes=group
    )
    curve = [
        [r.train_loss, r.train_accuracy, r.validation_loss, r.validation_balanced_accuracy] for r in result.records
    ]
    return {"curve": np.array(curve)} | {name: value.numpy() for name, value in network.state_dict().items()}


def normalise(group: Processes, kind: str, layer: nn.Module | None = None) -> dict[str, NDArray[Any]]:
    """Values, gradients and statistics of a BatchNorm of this process's rows of a batch far from zero."""
    shape = SHAPES[kind]
    rng = np.random.default_rng(3)
    rows = group.rows(shape[0])
    x, weigh = (torch.from_numpy(rng.normal(at, 2.0, shape)[rows]) for at in (50.0, 0.0))
    x.requires_grad_()
    module = layer or (BatchNorm2d(3) if len(shape) == 4 else BatchNorm1d(3))
    module.double().train()
    with torch.no_grad():
        module.weight.copy_(torch.tensor([0.5, -1.0, 2.0]))  # type: ignore[operator]
    with synchronised(module, group):
        y = module(x)
        (y * weigh).sum().backward()
    group.sum_gradients(module)
    assert x.grad is not None
    state = {name: value.numpy() for name, value in module.state_dict().items()}
    gradients = {f"d {name}": value.grad.numpy() for name, value in module.named_parameters() if value.grad is not None}
    return state | gradients | {"y": y.detach().numpy(), "dx": x.grad.numpy()}


class Killed(BaseException):
    pass


def fail_in_epoch_2(group: Processes, how: Any, out: Path | None = None) -> None:
    calls: list[int] = []

    def validate(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            how()
        return real(*args)

    real = loop.validate
    with mock.patch.object(loop, "validate", validate):
        train(group, out)


def main() -> None:
    torch.set_num_threads(1)
    folder, ports, rank = Path(sys.argv[1]), sys.argv[2:], int(os.environ["RANK"])
    found: dict[str, Any] = {}

    def stop() -> None:
        raise Killed

    def meet() -> Any:
        os.environ["MASTER_PORT"] = ports.pop(0)
        return processes(torch.device("cpu"))

    with meet() as group:
        found["group"] = np.array([group.rank, group.count])
        for kind in SHAPES:
            found |= {f"{kind} {name}": value for name, value in normalise(group, kind).items()}
        found |= {f"fit {name}": value for name, value in train(group, folder / f"run-{rank}").items()}
        try:
            fail_in_epoch_2(group, stop, folder / f"stopped-{rank}")
        except Killed:
            found |= {f"resumed {n}": v for n, v in train(group, folder / f"stopped-{rank}", resume=True).items()}
    np.savez(folder / f"found-{rank}.npz", **found)

    def refuse() -> None:
        if rank == 1:
            raise InputError("the disk of process 1 is full", got="0 bytes", expected="room")

    def die() -> None:
        if rank == 1:
            os._exit(9)

    errors = []
    for how in (refuse, die):
        try:
            with meet() as group:
                fail_in_epoch_2(group, how)
        except DrsnError as error:
            errors.append({"class": type(error).__name__, **error.to_json()})
        (folder / f"errors-{rank}.json").write_text(json.dumps(errors))


if __name__ == "__main__":
    main()
