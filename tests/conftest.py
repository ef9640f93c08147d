"""What tests of several folders need: small networks with the statistics of trained ones, and a bundle of one."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import numpy as np
import pytest

if TYPE_CHECKING:
    from drsn_edge.model.network import Network
    from drsn_edge.signals.contract import SignalContract

MakeNetwork = Callable[..., "tuple[Network, SignalContract]"]

# No example is too slow: on a busy machine a deadline fails tests that nothing is wrong with.
hypothesis.settings.register_profile("drsn-edge", deadline=None)
hypothesis.settings.load_profile("drsn-edge")


class TrtApi:
    """`tests/trt_api`: tables of genuine interfaces of TensorRT, and fakes that have exactly what these have."""

    def __init__(self) -> None:
        self.folder = Path(__file__).parent / "trt_api"
        self.tables: dict[str, Any] = {
            path.stem: json.loads(path.read_text()) for path in sorted((self.folder / "tables").glob("*.json"))
        }

    def load(self, name: str) -> Any:
        """A file of that folder as a module; it is on no path, since tests import nothing from each other."""
        full = f"trt_api_{name}"
        if full not in sys.modules:
            spec = importlib.util.spec_from_file_location(full, self.folder / f"{name}.py")
            assert spec is not None
            assert spec.loader is not None
            sys.modules[full] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
            spec.loader.exec_module(sys.modules[full])
        return sys.modules[full]

    def builder(self, generation: str, **options: Any) -> Any:
        """A generation as a builder, such as `10.3`: `fake_builder.py`."""
        return self.load("fake_builder").FakeBuilder(generation, self.tables, self.load("genuine"), **options)

    def runner(self, generation: str, machine: Any) -> Any:
        """A generation as a runtime on a fake CUDA: `fake_runner.py`."""
        return self.load("fake_runner").FakeRuntime(generation, self.tables, self.load("genuine"), machine)


@pytest.fixture(scope="session")
def trt_api() -> TrtApi:
    """TensorRT where there is none."""
    return TrtApi()


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


@dataclass(frozen=True)
class Workshop:
    """A small network that was trained and exported once: copy what you change.

    Attributes:
        data: The recordings that it was trained on, as a data set is named; three tones from two machines.
        run: The run folder.
        bundle: With int8, and with an engine for sm86 where TensorRT for RTX is installed.
    """

    data: str
    run: Path
    bundle: Path

    def copy(self, folder: Path) -> Path:
        """A copy of the bundle that a test may damage."""
        return Path(shutil.copytree(self.bundle, folder / self.bundle.name))


@pytest.fixture(scope="session")
def write_table() -> Callable[..., str]:
    """A function that writes recordings and their table, and gives the name of the data set."""

    def write(folder: Path, *, samples: int = 6400, rate: float = 1000, labels: int = 3, seed: int = 0) -> str:
        rng = np.random.default_rng(seed)
        folder.mkdir(parents=True, exist_ok=True)
        lines = ["path,label,sample_rate_hz,machine"]
        for label, order in (("low", 3), ("middle", 9), ("high", 17))[:labels]:
            for machine in ("one", "two"):
                turn = 2 * np.pi * order * np.arange(samples) / 64
                signal = np.sin(turn + rng.uniform(0, 6)) + 0.1 * rng.standard_normal(samples)
                np.save(folder / f"{label}-{machine}.npy", signal.astype(np.float32))
                lines.append(f"{label}-{machine}.npy,{label},{rate:g},{machine}")
        (folder / "recordings.csv").write_text("\n".join(lines) + "\n")
        return f"table:{folder / 'recordings.csv'}"

    return write


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, write_table: Callable[..., str]) -> Workshop:
    """Train, export, calibrate and build once for all tests."""
    for module in ("torch", "safetensors", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="a bundle is made with PyTorch, onnx and ONNX Runtime")
    import torch

    from drsn_edge.extras import available
    from drsn_edge.model.checkpoint import Checkpoint, TrainingRecord, save_checkpoint
    from drsn_edge.model.config import NetworkConfig
    from drsn_edge.model.network import Network
    from drsn_edge.pipeline.export import ExportOptions, export
    from drsn_edge.pipeline.sweep import SweepOptions
    from drsn_edge.signals.datasets import load_dataset
    from drsn_edge.signals.splits import split
    from drsn_edge.signals.windows import cut
    from drsn_edge.training.loop import fit
    from drsn_edge.training.options import FitOptions, NoiseRange

    folder = tmp_path_factory.mktemp("workshop")
    spec = write_table(folder / "data")
    data = load_dataset(spec, window=64, hop=32)
    parts = split(data, protocol="time")
    train = cut(data, parts.segments("train", data), data.contract, hop=32, labels=parts.labels)
    validation = cut(data, parts.segments("validation", data), data.contract, hop=64, labels=parts.labels)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = Network(NetworkConfig("drsn-cw", classes=3, widths=(4, 6), units=(1, 1)), data.contract)
        noise = NoiseRange(("gaussian",), (-6.0, 10.0))
        fit(network, train, validation, options=FitOptions(epochs=12, batch=64, lr=0.1, noise=noise))
        record = TrainingRecord(spec, noises=("gaussian",), snr_db=(-6.0, 10.0), epochs=12, best_epoch=12)
        save_checkpoint(folder / "run", Checkpoint(network, data.contract, parts.labels, record, parts))
        targets = ("sm86",) if available("tensorrt_rtx") else ()
        export(
            folder / "run",
            out=folder / "tiny.drsn",
            calibrate=spec,
            options=ExportOptions(targets=targets, engines=None if targets else ()),
            sweep=SweepOptions(draws=10, snrs_db=(0.0,)),
        )
    finally:
        torch.set_num_threads(threads)
    return Workshop(spec, folder / "run", folder / "tiny.drsn")
