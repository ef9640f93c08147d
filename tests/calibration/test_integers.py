"""What Q/DQ pairs compute: against integers in NumPy, and in a real engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnx_ir", reason="graphs are made with onnx_ir")

import onnx
import onnx_ir as ir

from drsn_edge.calibration.observers import weight_scales
from drsn_edge.calibration.qdq import QuantizePass
from drsn_edge.calibration.quantize import quantize
from drsn_edge.exporters.graph_tools import constant
from drsn_edge.exporters.precision import emulated

Array = NDArray[Any]
Exported = Callable[..., Any]
Run = Callable[..., dict[str, Array]]
Scales = Callable[..., Any]


def reference(x: Array, weight: Array, bias: Array, *, scale: float, stride: int, pad: int) -> Array:
    """An int8 convolution in integers: round half to even, saturate, multiply and add in int64, scale once."""
    steps = weight_scales(weight)
    xq = np.clip(np.rint(x / np.float32(scale)), -128, 127).astype(np.int64)
    wq = np.clip(np.rint(weight / steps.reshape(-1, *[1] * (weight.ndim - 1))), -128, 127).astype(np.int64)
    xq = np.pad(xq, ((0, 0), (0, 0), *[(pad, pad)] * (x.ndim - 2)))
    windows = np.lib.stride_tricks.sliding_window_view(xq, weight.shape[2:], axis=tuple(range(2, x.ndim)))
    windows = windows[(slice(None), slice(None), *[slice(None, None, stride)] * (x.ndim - 2))]
    total = np.einsum({3: "nclk,ock->nol", 4: "nchwij,ocij->nohw"}[weight.ndim], windows, wq)
    shape = (1, -1, *[1] * (x.ndim - 2))
    result: Array = total * (np.float64(scale) * steps.astype(np.float64)).reshape(shape) + bias.reshape(shape)
    return result


@pytest.mark.parametrize("options", [{}, {"dims": 2}])
def test_every_convolution_computes_what_integers_say(
    exported: Exported, run_onnx: Run, options: Any, unit_scales: Scales, quantizer: Scales
) -> None:
    """Layer by layer: what a quantized convolution puts out, from what it was given, in the very file."""
    contract, graph = exported("drsn-cw", **options)
    plan, scales = unit_scales(graph)
    model = quantize(graph, plan=plan, scales=scales, glue="fp32").model
    original = {node.name: node for node in graph.model.graph}
    nodes: dict[str, Any] = {node.name or "": node for node in model.graph}
    inputs = {name: quantizer(nodes[name]).inputs[0] for name in scales}
    for value in {**dict.fromkeys(inputs.values()), **dict.fromkeys(nodes[name].outputs[0] for name in scales)}:
        if not value.is_graph_output():
            model.graph.outputs.append(value)
    x = np.random.default_rng(3).normal(size=(3, *contract.shape)).astype(np.float32) * 5
    found = run_onnx(ir.to_proto(model).SerializeToString(), window=x)
    clipped = 0
    for name, scale in scales.items():
        given = found[inputs[name].name]
        weight, bias = (constant(value) for value in original[name].inputs[1:])
        assert weight is not None
        assert bias is not None
        attributes = original[name].attributes
        stride, pad = attributes.get_ints("strides")[0], attributes.get_ints("pads")[0]
        wanted = reference(given, weight, bias, scale=scale, stride=stride, pad=pad)
        clipped += int((np.abs(given) > 127.5 * scale).sum())
        size = np.abs(wanted).max()
        assert np.abs(found[nodes[name].outputs[0].name] - wanted).max() <= 2e-6 * size, name
    assert clipped > 0, "saturation was not seen"


def test_rounding_is_half_to_even_and_saturates(run_onnx: Run, one_channel: Callable[..., bytes]) -> None:
    halves = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.5, 300.0, -128.5, -300.0], np.float32)
    data = one_channel(scale=0.25, weight=127.0)  # the weight's step is exactly 1
    found = run_onnx(data, window=(halves * np.float32(0.25)).reshape(1, 1, -1))["logits"].ravel() / (0.25 * 127)
    assert found.tolist() == [0, 2, 2, 0, -2, 126, 127, 127, -128, -128]


@pytest.fixture(scope="session")
def one_channel() -> Callable[..., bytes]:
    """One convolution of one weight, quantized."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT

    def make(*, scale: float, weight: float) -> bytes:
        model = ir.from_proto(
            helper.make_model(
                helper.make_graph(
                    [helper.make_node("Conv", ["window", "w"], ["logits"], name="a/Conv")],
                    "test",
                    [helper.make_tensor_value_info("window", kind, ["batch", 1, 10])],
                    [helper.make_tensor_value_info("logits", kind, ["batch", 1, 10])],
                    [onnx.numpy_helper.from_array(np.full((1, 1, 1), weight, np.float32), "w")],
                ),
                opset_imports=[helper.make_opsetid("", 17)],
                ir_version=8,
            )
        )
        QuantizePass({"a/Conv": scale})(model)
        data: bytes = ir.to_proto(model).SerializeToString()
        return data

    return make


def test_a_channel_of_zeros_gives_its_bias(exported: Exported, run_onnx: Run, unit_scales: Scales) -> None:
    contract, original = exported()
    graph = original.clone()
    node = next(node for node in graph.model.graph if node.name == "units.0.conv1/Conv")
    weight = constant(node.inputs[1])
    assert weight is not None
    weight = weight.copy()
    weight[1] = 0
    node.inputs[1].const_value = ir.tensor(weight, name=node.inputs[1].name)
    plan, scales = unit_scales(graph)
    int8 = quantize(graph, plan=plan, scales=scales, glue="fp32")
    target: Any = next(node for node in int8.model.graph if node.name == "units.0.conv1/Conv")
    int8.model.graph.outputs.append(target.outputs[0])
    x = np.random.default_rng(0).normal(size=(2, *contract.shape)).astype(np.float32)
    found = run_onnx(int8.to_bytes(), window=x)
    bias = constant(target.inputs[2])
    assert bias is not None
    assert np.isfinite(found["logits"]).all()
    assert (found[target.outputs[0].name][:, 1] == bias[1]).all()


def two_readers() -> Any:
    """Two convolutions of the input, with the same weights."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weight = np.random.default_rng(0).normal(size=(4, 4, 3)).astype(np.float32)
    return ir.from_proto(
        helper.make_model(
            helper.make_graph(
                [
                    helper.make_node("Conv", ["window", "w"], ["a"], name="a/Conv"),
                    helper.make_node("Conv", ["window", "w"], ["b"], name="b/Conv"),
                    helper.make_node("Add", ["a", "b"], ["logits"], name="Add"),
                ],
                "test",
                [helper.make_tensor_value_info("window", kind, ["batch", 4, 16])],
                [helper.make_tensor_value_info("logits", kind, ["batch", 4, 14])],
                [onnx.numpy_helper.from_array(weight, "w")],
            ),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
    )


def test_convolutions_of_one_input_share_a_pair_when_their_scales_agree() -> None:
    for second, pairs in ((0.1, 1), (0.2, 2)):
        model = two_readers()
        QuantizePass({"a/Conv": 0.1, "b/Conv": second})(model)
        quantizers = [node for node in model.graph if node.op_type == "QuantizeLinear"]
        assert sum(node.inputs[0].name == "window" for node in quantizers) == pairs
        assert len(quantizers) == pairs + 2


def test_the_size_of_the_kernel_is_written_where_it_was_not() -> None:
    """Before 10.4 TensorRT takes it from nowhere else when weights are computed."""
    model = two_readers()
    assert all("kernel_shape" not in node.attributes for node in model.graph)
    QuantizePass({"a/Conv": 0.1})(model)
    written = {node.name: node.attributes.get_ints("kernel_shape", None) for node in model.graph}
    assert written["a/Conv"] == (3,)
    assert written["b/Conv"] is None


def test_shared_weights_stay_shared_in_value(run_onnx: Run) -> None:
    model = two_readers()
    weight = constant(model.graph.initializers["w"])
    assert weight is not None
    x = np.random.default_rng(1).normal(size=(2, 4, 16)).astype(np.float32)
    QuantizePass({"a/Conv": 0.05, "b/Conv": 0.05})(model)
    found = run_onnx(ir.to_proto(model).SerializeToString(), window=x)["logits"]
    assert np.allclose(found, 2 * reference(x, weight, np.zeros(4), scale=0.05, stride=1, pad=0), atol=1e-5)


def test_the_first_convolution_can_be_quantized_too(exported: Exported, run_onnx: Run, unit_scales: Scales) -> None:
    contract, graph = exported()
    plan, scales = unit_scales(graph, quantize_first=True)
    int8 = quantize(graph, plan=plan, scales=scales)
    assert sum(node.op_type == "QuantizeLinear" for node in int8.model.graph) >= len(plan.int8)
    x = np.random.default_rng(0).normal(size=(2, *contract.shape)).astype(np.float32)
    assert np.isfinite(run_onnx(int8.to_bytes(), window=x)["logits"]).all()


def test_the_latest_opset(exported: Exported, run_onnx: Run, unit_scales: Scales) -> None:
    contract, graph = exported(opset=21)
    _, same = exported()
    x = np.random.default_rng(0).normal(size=(2, *contract.shape)).astype(np.float32)
    results = []
    for item in (graph, same):
        plan, scales = unit_scales(item)
        int8 = quantize(item, plan=plan, scales=scales)
        results.append(run_onnx(emulated(int8.to_bytes()), window=x)["logits"])
    assert onnx.load_from_string(quantize(graph, plan=plan, scales=scales).to_bytes()).opset_import[0].version == 21
    assert np.array_equal(results[0], results[1])


def test_tensorrt_makes_every_planned_convolution_int8(exported: Exported, unit_scales: Scales) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs TensorRT for RTX")
    from drsn_edge.exporters.trt_engine import EngineOptions, build_engine
    from drsn_edge.exporters.trt_layers import contraction_precision

    _, graph = exported()
    plan, scales = unit_scales(graph)
    made = build_engine(
        quantize(graph, plan=plan, scales=scales).to_bytes(),
        options=EngineOptions(precision="int8", backend="rtx", targets=("sm86",), max_batch=8, opt_batch=4),
        expected={row.layer: "int8" for row in plan.int8},
    )
    convolutions = [layer for layer in made.layers if contraction_precision(layer) is not None]
    found = {name: contraction_precision(layer) for layer in convolutions for name in layer.onnx_nodes}
    assert {name: found.get(name) for name in scales} == dict.fromkeys(scales, "int8")
    assert found["stem/Conv"] == "fp16"
