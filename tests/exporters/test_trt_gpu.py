"""The whole way on a real GPU: build, preflight, run, compare with ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drsn_edge.exporters.trt_engine import EngineOptions, build_engine, builder_choice, sidecar, wanted_graph
from drsn_edge.extras import available
from drsn_edge.runtime import open_runner, run_batched
from drsn_edge.runtime.driver import probe_device
from drsn_edge.runtime.preflight import describe_here, preflight, read_plan_header

PROBE = probe_device()
onnx = pytest.importorskip("onnx", reason="graphs are made with onnx")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(PROBE.device is None, reason=f"needs an NVIDIA GPU: {PROBE.reason}"),
]


@pytest.fixture(params=["tensorrt", "rtx"])
def backend(request: pytest.FixtureRequest) -> str:
    module = "tensorrt" if request.param == "tensorrt" else "tensorrt_rtx"
    if not available(module):
        pytest.skip(f"{module} is not installed")
    if request.param == "rtx":
        import tensorrt_rtx

        assert PROBE.device is not None
        if PROBE.device.sm.upper() not in tensorrt_rtx.ComputeCapability.__members__:
            pytest.skip(f"TensorRT for RTX does not support {PROBE.device.sm}")
    return str(request.param)


def graph(half: bool) -> bytes:
    """Two convolutions with a soft threshold between, on `x[batch, 8, 1, 64]`."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    kind = np.float16 if half else np.float32
    rng = np.random.default_rng(0)
    constants: dict[str, Any] = {
        "w1": rng.normal(0, 0.2, (8, 8, 1, 3)).astype(kind),
        "w2": rng.normal(0, 0.2, (8, 8, 1, 3)).astype(kind),
        "tau": np.full((1, 8, 1, 1), 0.25, kind),
    }
    conv = {"kernel_shape": [1, 3], "pads": [0, 1, 0, 1]}
    cast = onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], name="in/Cast", to=cast),
        helper.make_node("Conv", ["h", "w1"], ["c"], name="one/Conv", **conv),
        helper.make_node("Neg", ["tau"], ["low"], name="shrink/Neg"),
        helper.make_node("Min", ["c", "tau"], ["m"], name="shrink/Min"),
        helper.make_node("Max", ["m", "low"], ["d"], name="shrink/Max"),
        helper.make_node("Sub", ["c", "d"], ["s"], name="shrink/Sub"),
        helper.make_node("Conv", ["s", "w2"], ["o"], name="two/Conv", **conv),
        helper.make_node("Cast", ["o"], ["y"], name="out/Cast", to=onnx.TensorProto.FLOAT),
    ]
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 8, 1, 64]) for name in "xy")
    initializers = [numpy_helper.from_array(value, key) for key, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "test", [x], [y], initializers),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    content: bytes = model.SerializeToString()
    return content


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 5e-3)])
def test_engine_agrees_with_onnx_runtime(precision: Any, tolerance: float, backend: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the oracle")
    options = EngineOptions(precision=precision, backend=backend, max_batch=32)
    assert builder_choice(backend) == backend
    build = build_engine(graph("fp16" in wanted_graph(options)), options=options)
    device = PROBE.device
    info = sidecar(build, onnx_name="m", onnx_sha256="", device=device)
    path = tmp_path / "model.engine"
    path.write_bytes(build.plan)
    assert preflight(read_plan_header(path), info, describe_here()) == []
    x = np.random.default_rng(1).normal(0, 1, (100, 8, 1, 64)).astype(np.float32)
    with open_runner(info["runner"], path) as runner:
        results = [run_batched(runner, x)["y"] for _ in range(3)]  # plain, captured, replayed
    (tmp_path / "m.onnx").write_bytes(graph(False))
    with open_runner("onnxruntime", tmp_path / "m.onnx") as oracle:
        expected = run_batched(oracle, x)["y"]
    for result in results:
        assert np.abs(result - expected).max() <= tolerance * np.abs(expected).max()
