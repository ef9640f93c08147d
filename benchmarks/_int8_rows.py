"""The graphs that `int8_quality` compares: of drsn-edge, ONNX Runtime and ModelOpt, and of networks trained on."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._modelopt import quantized
from drsn_edge.calibration.calibrate import CalibrationOptions, calibrate
from drsn_edge.calibration.contract import Calibration
from drsn_edge.calibration.quantize import quantize_as
from drsn_edge.calibration.windows import NoisyWindows, choose
from drsn_edge.exporters.canonical import CanonicalGraph
from drsn_edge.exporters.torch_graph import export_network
from drsn_edge.files import sha256_bytes
from drsn_edge.pipeline.data import ModelData, open_data
from drsn_edge.pipeline.sources import Source, load_source

BEST_PEER = "ORT conv outputs excluded"


@dataclass(frozen=True, eq=False)
class Subject:
    """One trained network with its graph, calibration and test windows."""

    name: str
    source: Source
    data: ModelData
    graph: CanonicalGraph
    windows: NoisyWindows
    held_out: NoisyWindows


def subject(path: Path, dataset: str, count: int) -> Subject:
    """As `export` does it."""
    source = load_source(str(path))
    graph = export_network(source.module, contract=source.contract, labels=source.labels)
    data = open_data(
        dataset, contract=source.contract, labels=source.labels, training=source.training, split=source.split
    )
    if source.training is None:
        raise SystemExit(f"{path} does not say what it was trained on")
    low, high = source.training["snr_db"]
    noises = tuple(source.training["noises"])
    windows = choose(data.windows("train", overlap=True), count=count, noises=noises, snr_db=(low, high))
    held_out = choose(
        data.windows("validation", overlap=True), count=count, noises=noises, snr_db=(low - 4, high), stream="held-out"
    )
    return Subject(path.name, source, data, graph, windows, held_out)


def ours(item: Subject) -> Iterator[tuple[str, bytes]]:
    """Rows of drsn-edge."""
    for name, options in (
        ("drsn-edge learned", CalibrationOptions()),
        ("drsn-edge learned 25/25", CalibrationOptions(quantize_first=True)),
        ("drsn-edge nearest", CalibrationOptions(rounding="nearest")),
        ("drsn-edge nearest 25/25", CalibrationOptions(rounding="nearest", quantize_first=True)),
        ("drsn-edge symmetric nearest", CalibrationOptions(rounding="nearest", full_range=False)),
    ):
        found = calibrate(
            item.graph, item.windows, item.held_out, contract=item.source.contract, weights_sha256="0" * 64,
            options=options,
        )  # fmt: skip
        yield name, quantize_as(item.graph, found, glue="fp32").to_bytes()


def onnxruntime_rows(item: Subject, *, quick: bool) -> Iterator[tuple[str, bytes]]:
    """Rows of onnxruntime.quantization, every calibrator: its defaults, if not quick, and the best informed recipe."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    recipes: tuple[tuple[str, list[str] | None], ...] = (("ORT default", None), (BEST_PEER, ["Conv"]))
    for recipe, operators in recipes[1:] if quick else recipes:
        for method in ("MinMax", "Entropy", "Percentile"):
            extra: dict[str, Any] = {"ActivationSymmetric": True, "WeightSymmetric": True}
            if operators is not None:
                extra["OpTypesToExcludeOutputQuantization"] = ["Conv"]
            with tempfile.TemporaryDirectory() as folder, quiet():
                source, target = Path(folder) / "in.onnx", Path(folder) / "out.onnx"
                source.write_bytes(item.graph.to_bytes())
                quantize_static(
                    str(source), str(target), Reader(item.windows.windows.x), quant_format=QuantFormat.QDQ,
                    per_channel=True, activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
                    calibrate_method=getattr(CalibrationMethod, method), op_types_to_quantize=operators,
                    extra_options=extra,
                )  # fmt: skip
                yield f"{recipe}, {method.lower()}", target.read_bytes()


class Reader:
    """Calibration windows in the form that onnxruntime.quantization wants."""

    def __init__(self, windows: NDArray[np.float32], batch: int = 32) -> None:
        self.pieces = iter([windows[start : start + batch] for start in range(0, len(windows), batch)])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next batch."""
        piece = next(self.pieces, None)
        return None if piece is None else {"window": piece}

    def __iter__(self) -> Reader:
        return self

    def __next__(self) -> dict[str, NDArray[np.float32]]:
        piece = self.get_next()
        if piece is None:
            raise StopIteration
        return piece


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Its calibrators print, and warn of every tensor that they leave out."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def rebuilt(folder: Path | None, item: Subject, kind: str) -> Iterator[tuple[str, bytes]]:
    """A network that was trained further, under the same name: quantized after QAT, or FP32 as a control."""
    if folder is None:
        return
    path = folder / item.name
    source = load_source(str(path))
    graph = export_network(source.module, contract=source.contract, labels=source.labels)
    if kind == "fine-tuned FP32":
        yield kind, graph.to_bytes()
        return
    if source.qat is None or source.weights is None:
        raise SystemExit(f"{path} was not trained by `train --qat`")
    found = Calibration.from_json(source.qat)
    found.check(weights=sha256_bytes(source.weights), contract=source.contract.to_json())
    yield kind, quantize_as(graph, found, glue="fp32").to_bytes()


def modelopt_rows(python: Path, item: Subject, missing: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """Rows of ModelOpt, whatever it makes; `missing` is told what it did not."""
    for name, method in (("ModelOpt default", None), ("ModelOpt max", "max")):
        data, reason = quantized(python, item.graph.to_bytes(), item.windows.windows.x, method=method)
        if data is None:
            missing[f"{name}, {item.name}"] = reason
        else:
            yield name, data


def integer_convolutions(data: bytes) -> str:
    """`24/25`: convolutions whose input and weights both come from a DequantizeLinear."""
    import onnx

    graph = onnx.load_from_string(data).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    nodes = [node for node in graph.node if node.op_type == "Conv"]
    integer = [node for node in nodes if all(makers.get(name) == "DequantizeLinear" for name in node.input[:2])]
    return f"{len(integer)}/{len(nodes)}"
