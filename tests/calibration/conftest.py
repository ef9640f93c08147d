"""Fixtures of the calibration's tests: networks that tell tones apart, their graphs, windows, ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from drsn_edge.signals.windows import Windows

Array = NDArray[Any]
CLASSES = 4


@pytest.fixture(scope="session")
def run_onnx() -> Callable[..., dict[str, Array]]:
    """Run a graph as it is written: no optimisation, one thread."""
    ort = pytest.importorskip("onnxruntime", reason="graphs are run with ONNX Runtime")

    def run(data: bytes, **feeds: Array) -> dict[str, Array]:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, feeds), strict=True))

    return run


@pytest.fixture(scope="session")
def tones() -> Callable[..., Windows]:
    """Tones of another frequency in each class, with a little noise; `hop` of a quarter window within a cluster."""

    def make(count: int = 96, *, seed: int = 0, shape: tuple[int, ...] = (1, 64), classes: int = CLASSES) -> Windows:
        rng = np.random.default_rng(seed)
        y = (np.arange(count) % classes).astype(np.int64)
        time = np.arange(int(np.prod(shape[1:]))).reshape(shape[1:]) / 64
        phase = rng.uniform(0, 2 * np.pi, (count, shape[0], *[1] * (len(shape) - 1)))
        wave = np.sin(2 * np.pi * (3 + 5 * y.reshape(-1, *[1] * len(shape))) * time + phase)
        x = (wave + 0.05 * rng.standard_normal(wave.shape)).astype(np.float32)
        labels = tuple(f"tone {index}" for index in range(classes))
        return Windows(x=x, y=y, cluster=np.arange(count, dtype=np.int64), labels=labels)

    return make


@pytest.fixture(scope="session")
def exported(make_network: Callable[..., Any]) -> Callable[..., Any]:
    """A function that gives a network's contract and canonical graph; the same ones for the same arguments."""
    pytest.importorskip("onnxscript", reason="networks are exported with torch's exporter")
    from drsn_edge.exporters.canonical import CanonicalOptions
    from drsn_edge.exporters.torch_graph import export_network

    made: dict[tuple[Any, ...], tuple[Any, Any]] = {}

    def export(model: str = "drsn-cw", opset: int = 17, **options: Any) -> tuple[Any, Any]:
        options = {"classes": CLASSES} | options
        if "preset" not in options:
            options = {"widths": (4, 7), "units": (1, 1)} | options
        key = (model, opset, *sorted(options.items()))
        if key not in made:
            network, contract = make_network(model, **options)
            labels = tuple(f"tone {index}" for index in range(CLASSES))
            made[key] = (
                contract,
                export_network(network, contract=contract, labels=labels, options=CanonicalOptions(opset=opset)),
            )
        return made[key]

    return export


@pytest.fixture(scope="session")
def fitted(exported: Callable[..., Any], tones: Callable[..., Windows]) -> Callable[..., Any]:
    """A function that gives contract and graph of a network that tells tones apart.

    The convolutions are drawn; only the head is fitted, in closed form on its own pooled features. That is seconds less
    than training, and far above chance.
    """
    import onnx_ir as ir

    from drsn_edge.calibration.collect import tap
    from drsn_edge.exporters.canonical import CanonicalGraph
    from drsn_edge.exporters.units import find_units
    from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner

    made: dict[tuple[Any, ...], tuple[Any, CanonicalGraph]] = {}

    def fit_head(model: str = "drsn-cw", **options: Any) -> tuple[Any, CanonicalGraph]:
        key = (model, *sorted(options.items()))
        if key not in made:
            contract, graph = exported(model, **options)
            copy = graph.clone()
            (head,) = [node for node in copy.model.graph if node.outputs[0].is_graph_output()]
            assert head.op_type == "Gemm"
            pooled = head.inputs[0].name
            windows = tones(400, seed=77, shape=contract.shape)
            with OnnxRuntimeRunner(tap(graph.to_bytes(), [pooled])) as runner:
                features = runner.run({"window": windows.x})[pooled]
            design = np.column_stack([features, np.ones(len(features))]).astype(np.float64)
            targets = np.eye(CLASSES)[windows.y] * 8 - 2
            solution = np.linalg.lstsq(design, targets, rcond=None)[0]
            weight, bias = solution[:-1].T, solution[-1]
            if not head.attributes.get_int("transB", 0):
                weight = weight.T
            for value, array in ((head.inputs[1], weight), (head.inputs[2], bias)):
                assert tuple(value.shape) == array.shape
                value.const_value = ir.tensor(np.ascontiguousarray(array, np.float32), name=value.name)
            made[key] = contract, CanonicalGraph(copy.model, find_units(copy.model), copy.notes)
        return made[key]

    return fit_head


@pytest.fixture(scope="session")
def unit_scales() -> Callable[..., Any]:
    """A function that gives a graph's default plan, and a different scale for every tensor in it."""
    from drsn_edge.calibration.plan import make_plan

    def scales(graph: Any, **options: Any) -> tuple[Any, dict[str, float]]:
        plan = make_plan(graph, **options)
        tensors = list(dict.fromkeys(row.tensor for row in plan.int8))
        return plan, {row.layer: float(np.float32(0.02 + 0.003 * tensors.index(row.tensor))) for row in plan.int8}

    return scales


@pytest.fixture(scope="session")
def quantizer() -> Callable[..., Any]:
    """A function that gives the QuantizeLinear in front of an input of a node; None where there is none."""
    from drsn_edge.exporters.graph_tools import producer

    def find(node: Any, index: int = 0) -> Any:
        restore = producer(node.inputs[index], "DequantizeLinear")
        return None if restore is None else producer(restore.inputs[0], "QuantizeLinear")

    return find


@pytest.fixture(scope="session")
def clean() -> Callable[[Windows], Any]:
    """Windows as they are, with the SNR of clean ones."""
    from drsn_edge.calibration.windows import NoisyWindows

    return lambda windows: NoisyWindows(windows, np.full(len(windows), np.nan, np.float32))


@pytest.fixture(scope="session")
def run(fitted: Callable[..., Any], tones: Callable[..., Windows], clean: Callable[..., Any]) -> Callable[..., Any]:
    """Calibrate a small network on tones."""
    from drsn_edge.calibration.calibrate import calibrate
    from drsn_edge.calibration.windows import choose

    def calibration(*, model: str = "drsn-cw", network: dict[str, Any] | None = None, **options: Any) -> Any:
        contract, graph = fitted(model, **(network or {}))
        data = options.pop("data", None) or choose(tones(128), count=96, noises=("gaussian",), snr_db=(0.0, 20.0))
        held_out = options.pop("held_out", None) or clean(tones(64, seed=5))
        return calibrate(graph, data, held_out, contract=contract, weights_sha256="a" * 64, **options)

    return calibration
