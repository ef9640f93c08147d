"""Fixtures of the graphs' tests: exported networks, hand-made graphs, ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from drsn_edge.exporters import trt_choice
from drsn_edge.runtime import driver, trt_log
from drsn_edge.runtime.driver import DeviceInfo, DeviceProbe

Array = NDArray[Any]


ORIN = DeviceInfo("Orin", "sm87", "12.6", 64 << 30, integrated=True)


@pytest.fixture
def orin(monkeypatch: pytest.MonkeyPatch) -> DeviceInfo:
    """A machine with an Orin."""
    monkeypatch.setattr(driver, "probe_device", lambda index=0: DeviceProbe(ORIN))
    return ORIN


@pytest.fixture
def tensorrt(orin: DeviceInfo, trt_api: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes a generation of TensorRT, such as `10.3` or `rtx`; `built` is the precision that its engines have."""
    monkeypatch.setattr(trt_log, "_LOGGERS", {})
    make: Callable[..., Any] = trt_api.builder
    return make


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says which modules are installed, and which GPU there is."""

    def install(*modules: str, device: DeviceInfo | None = None) -> None:
        monkeypatch.setattr(trt_choice, "available", lambda name: name in modules)
        probe = DeviceProbe(device, None if device else "no CUDA driver")
        monkeypatch.setattr(driver, "probe_device", lambda index=0: probe)

    return install


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
def exported(make_network: Callable[..., Any]) -> Callable[..., Any]:
    """A function that gives a network, its contract and its canonical graph; the same ones for the same arguments."""
    pytest.importorskip("onnxscript", reason="networks are exported with torch's exporter")
    from drsn_edge.exporters.canonical import CanonicalOptions
    from drsn_edge.exporters.torch_graph import export_network

    made: dict[tuple[Any, ...], tuple[Any, Any, Any]] = {}

    def export(model: str = "drsn-cw", opset: int = 17, **options: Any) -> tuple[Any, Any, Any]:
        # Two units are enough to see everything twice, and torch's exporter is slow.
        options = {"widths": (4, 7), "units": (1, 1), "dims": 1} | options
        key = (model, opset, *sorted(options.items()))
        if key not in made:
            network, contract = make_network(model, **options)
            labels = tuple(f"class {index}" for index in range(network.config.classes))
            graph = export_network(network, contract=contract, labels=labels, options=CanonicalOptions(opset=opset))
            made[key] = network, contract, graph
        return made[key]

    return export


@pytest.fixture(scope="session")
def windows() -> Callable[..., NDArray[np.float32]]:
    """Seeded windows of a contract: noise of very different amplitudes and offsets, as sensors give it."""

    def draw(contract: Any, count: int, *, seed: int = 0) -> NDArray[np.float32]:
        rng = np.random.default_rng(seed)
        ones = [1] * len(contract.shape)
        gain, offset = 10 ** rng.uniform(-2, 3, (count, *ones)), rng.normal(0, 5, (count, *ones))
        x: NDArray[np.float32] = (gain * rng.standard_normal((count, *contract.shape)) + offset).astype(np.float32)
        return x

    return draw


@pytest.fixture(scope="session")
def graph() -> Callable[..., bytes]:
    """A function that writes a graph by hand.

    `nodes` are `(operator, inputs, outputs, attributes)`; inputs and outputs are shapes by name.
    """
    onnx = pytest.importorskip("onnx", reason="graphs are made with onnx")
    helper = onnx.helper

    def make(
        nodes: Sequence[tuple[Any, ...]],
        *,
        inputs: Mapping[str, Sequence[Any]],
        outputs: Mapping[str, Sequence[Any] | None],
        constants: Mapping[str, Array] | None = None,
        opset: int = 17,
        kinds: Mapping[str, int] | None = None,
        as_inputs: bool = False,
        functions: Sequence[Any] = (),
    ) -> bytes:
        constants, kinds = constants or {}, kinds or {}

        def describe(name: str, shape: Sequence[Any] | None) -> Any:
            return helper.make_tensor_value_info(name, kinds.get(name, onnx.TensorProto.FLOAT), shape)

        made = [
            helper.make_node(kind, list(sources), list(targets), name=f"n{index}", **(rest[0] if rest else {}))
            for index, (kind, sources, targets, *rest) in enumerate(nodes)
        ]
        initializers = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
        listed = [describe(name, shape) for name, shape in inputs.items()]
        if as_inputs:
            listed += [helper.make_tensor_value_info(item.name, item.data_type, item.dims) for item in initializers]
        found = helper.make_graph(made, "test", listed, [describe(*item) for item in outputs.items()], initializers)
        imports = [helper.make_opsetid("", opset)] + [helper.make_opsetid(item.domain, 1) for item in functions]
        model = helper.make_model(found, opset_imports=imports, ir_version=8, functions=list(functions))
        data: bytes = model.SerializeToString()
        return data

    return make
