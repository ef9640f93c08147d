"""Small trained networks and their bundles, for `benchmarks.fault_injection`: made once, kept under `--work`."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch

from drsn_edge.bundle import Bundle, fill_folder
from drsn_edge.files import new_folder
from drsn_edge.model.checkpoint import Checkpoint, TrainingRecord, save_checkpoint
from drsn_edge.model.config import NetworkConfig
from drsn_edge.model.network import Network
from drsn_edge.pipeline.data import ModelData
from drsn_edge.pipeline.export_options import ExportOptions
from drsn_edge.pipeline.graphs import make_graphs
from drsn_edge.pipeline.sources import Source, load_source
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.datasets import Dataset
from drsn_edge.signals.recording import Recording
from drsn_edge.signals.splits import split
from drsn_edge.signals.windows import cut
from drsn_edge.training.loop import fit
from drsn_edge.training.options import FitOptions, NoiseRange

WINDOW, RATE = 128, 1000.0
LABELS = ("low", "middle", "high")


@dataclass(frozen=True)
class Recipe:
    """A network to train: model, stages, channels of its windows, whether it standardises them, seed."""

    name: str
    model: str = "drsn-cw"
    widths: tuple[int, ...] = (4, 6)
    units: tuple[int, ...] = (1, 2)
    channels: int = 1
    standardise: str = "window"
    seed: int = 0
    preset: str | None = None


RECIPES = (
    Recipe("cw"),
    Recipe("cs", model="drsn-cs", seed=1),
    Recipe("cw-two-channels", channels=2, seed=2),
    Recipe("cw-raw", standardise="none", seed=3),
    Recipe("cw-three-stages", widths=(4, 6, 9), units=(1, 1, 1), seed=4),
    Recipe("cw-paper", preset="paper", seed=6),
    Recipe("cw-edge", preset="edge", seed=9),
)


@functools.cache
def dataset(channels: int, standardise: str) -> Dataset:
    """Three tones from two machines, every channel with its own phase and size."""
    rng = np.random.default_rng(0)
    recordings = []
    for label, order in zip(LABELS, (3, 9, 17), strict=True):
        for machine in ("one", "two"):
            turn = 2 * np.pi * order * np.arange(12_800) / 64
            rows = [
                (1 + index) * np.sin(turn + rng.uniform(0, 6)) + 0.1 * rng.standard_normal(len(turn))
                for index in range(channels)
            ]
            signal = np.stack(rows).astype(np.float32)
            recordings.append(Recording(signal, RATE, label, {"machine": machine}, f"{label}-{machine}"))
    contract = SignalContract(
        sample_rate_hz=RATE,
        channels=tuple(f"sensor {index}" for index in range(channels)),
        window=WINDOW,
        hop=WINDOW // 2,
        standardise=standardise,  # type: ignore[arg-type]
    )
    return Dataset("tones", "tones", tuple(recordings), LABELS, contract)


def data_of(recipe: Recipe, source: Source) -> ModelData:
    """What a network may see of its data set."""
    return ModelData(dataset(recipe.channels, recipe.standardise), source.split, LABELS, ())


def trained(recipe: Recipe, work: Path) -> Path:
    """The run folder of a recipe; trained when it is not there yet."""
    run = work / "runs" / recipe.name
    if (run / "config.json").is_file():
        return run
    data = dataset(recipe.channels, recipe.standardise)
    parts = split(data, protocol="time")
    train = cut(data, parts.segments("train", data), data.contract, hop=WINDOW // 2, labels=LABELS)
    validation = cut(data, parts.segments("validation", data), data.contract, hop=WINDOW, labels=LABELS)
    if recipe.preset:
        config = NetworkConfig.preset(recipe.preset, model=recipe.model, classes=3, in_channels=recipe.channels)
    else:
        config = NetworkConfig(
            model=recipe.model,  # type: ignore[arg-type]
            classes=3,
            in_channels=recipe.channels,
            widths=recipe.widths,
            units=recipe.units,
        )
    torch.manual_seed(recipe.seed)
    network = Network(config, data.contract)
    noise = NoiseRange(("gaussian",), (-6.0, 10.0))
    fit(network, train, validation, options=FitOptions(epochs=15, batch=64, lr=0.1, noise=noise, seed=recipe.seed))
    record = TrainingRecord("tones", noises=("gaussian",), snr_db=(-6.0, 10.0), epochs=15, best_epoch=15)
    run.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(run, force=True) as folder:
        save_checkpoint(folder, Checkpoint(network, data.contract, LABELS, record, parts))
    return run


def exported(
    recipe: Recipe, work: Path, *, opset: int = 17, method: str = "auto", seed: int = 0, windows: int = 128
) -> tuple[Bundle, Source, ModelData]:
    """The bundle of a recipe; exported when it is not there yet."""
    source = load_source(str(trained(recipe, work)))
    data = data_of(recipe, source)
    path = work / "bundles" / f"{recipe.name}-{opset}-{method.replace(' ', '_')}-{seed}.drsn"
    if not (path / "manifest.json").is_file():
        options = ExportOptions(opset=opset, method=method, seed=seed, calibration_windows=windows, engines=())
        with traced_once(recipe, work):
            made = make_graphs(source, data, options=options)
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(path, force=True) as folder:
            fill_folder(folder, made.manifest | {"name": recipe.name}, made.files)
    return Bundle.open(path), source, data


def cases(quick: bool) -> Iterator[tuple[Recipe, int, str, int]]:
    """Clean exports: recipe, opset, range method, seed of the golden and the calibration windows."""
    opsets = (17, 21) if quick else (17, 18, 19, 20, 21)
    methods = ("mse", "percentile", "min-max", "entropy")
    small = [recipe for recipe in RECIPES if recipe.preset is None]
    for seed in range(1 if quick else 8):
        for index, recipe in enumerate(small[:2] if quick else RECIPES):
            # The presets have twelve units: every opset once, with another seed each, so that they do not outweigh all.
            for opset in opsets if recipe.preset is None else opsets[seed : seed + 1]:
                yield recipe, opset, methods[(index + seed) % len(methods)], seed


@contextlib.contextmanager
def traced_once(recipe: Recipe, work: Path) -> Iterator[None]:
    """Let torch trace a network once, whatever opsets it is exported to.

    A trace depends on the network alone and takes most of an export; everything after it is done each time.
    """
    path = work / "traces" / f"{recipe.name}.onnx"
    trace = torch.onnx.export

    def export(*args: Any, **options: Any) -> Any:
        if not path.is_file():
            program = trace(*args, **options)
            assert program is not None  # only where a file is written
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(ir.serde.serialize_model(program.model).SerializeToString())
        return SimpleNamespace(model=ir.serde.deserialize_model(onnx.load_from_string(path.read_bytes())))

    torch.onnx.export = export
    try:
        yield
    finally:
        torch.onnx.export = trace


def wrong_epsilon(source: Source, epsilon: float) -> Network:
    """The same network with another epsilon in every BatchNormalization, as a careless conversion makes it."""
    module: Network = copy.deepcopy(source.module)
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm1d):
            layer.eps = epsilon
    return module


def running_variances(source: Source) -> dict[str, np.ndarray]:
    """By module path of the BatchNormalization."""
    return {
        name: layer.running_var.numpy().copy()
        for name, layer in source.module.named_modules()
        if isinstance(layer, torch.nn.BatchNorm1d) and layer.running_var is not None
    }
