"""Q/DQ pairs: where they stand, what they say, and which are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from drsn_edge.errors import InputError

pytest.importorskip("onnx_ir", reason="graphs are made with onnx_ir")

import onnx
import onnx_ir as ir

from drsn_edge.calibration import quantize as module
from drsn_edge.calibration.observers import round_weights, weight_scales
from drsn_edge.calibration.plan import PrecisionPlan
from drsn_edge.calibration.qdq import QuantizePass
from drsn_edge.calibration.quantize import ensure_float_units, quantize
from drsn_edge.exporters.canonical import CanonicalGraph
from drsn_edge.exporters.graph_tools import constant, emit
from drsn_edge.exporters.precision import with_probes

Array = NDArray[Any]
Exported = Callable[..., Any]
Run = Callable[..., dict[str, Array]]
Scales = Callable[..., Any]
GLUES = ("fp16", "fp32")


def proto_of(graph: CanonicalGraph) -> Any:
    return onnx.load_from_string(graph.to_bytes())


@pytest.fixture(scope="module", params=GLUES)
def glue(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def quantized(
    exported: Exported, glue: str, unit_scales: Scales
) -> tuple[CanonicalGraph, CanonicalGraph, dict[str, float]]:
    """A 2-unit network, its int8 form, and the scales."""
    _, graph = exported()
    plan, scales = unit_scales(graph)
    return graph, quantize(graph, plan=plan, scales=scales, glue=glue), scales  # type: ignore[arg-type]


def test_structure_is_the_one_that_every_tensorrt_reads(
    quantized: tuple[CanonicalGraph, CanonicalGraph, dict[str, float]],
) -> None:
    graph, int8, scales = quantized
    proto = proto_of(int8)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 17)]
    onnx.checker.check_model(proto, full_check=True)
    arrays = {item.name: onnx.numpy_helper.to_array(item) for item in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}
    convolutions = {node.name: node for node in proto.graph.node if node.op_type == "Conv"}
    original = {node.name: constant(node.inputs[1]) for node in graph.model.graph if node.op_type == "Conv"}
    assert set(scales) < set(convolutions) == set(original)
    pairs = set()
    for name, node in convolutions.items():
        weights = original[name]
        assert weights is not None
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        # Before 10.4 nothing but this tells the kernel's size when weights are computed.
        assert attributes["kernel_shape"] == list(weights.shape[2:])
        if name not in scales:
            assert (
                all(makers[item].op_type == "Cast" for item in node.input[:1] if item in makers) or name == "stem/Conv"
            )
            continue
        assert arrays[node.input[2]].dtype == np.float32, "an integer bias would need a DequantizeLinear of its own"
        for index, (source, axis) in enumerate(((node.input[0], None), (node.input[1], 0))):
            restore = makers[source]
            step = makers[restore.input[0]]
            assert (restore.op_type, step.op_type) == ("DequantizeLinear", "QuantizeLinear")
            pairs |= {restore.name, step.name}
            for item in (step, restore):
                assert len(item.input) == 3, "8.x demands the zero-point"
                scale, zero = arrays[item.input[1]], arrays[item.input[2]]
                assert scale.dtype == np.float32, "8.x reads scales through a float pointer"
                assert zero.dtype == np.int8
                assert not zero.any()
                assert zero.shape == scale.shape
                given = {attribute.name: attribute.i for attribute in item.attribute}
                if axis is None:
                    assert scale.shape == ()
                    assert float(scale) == scales[name]
                else:
                    assert scale.shape == weights.shape[:1]
                    assert given["axis"] == 0
                    assert np.array_equal(scale, weight_scales(weights))
            # 8.x has no int8 constants: weights come as float, already on their grid.
            if index == 1:
                stored = arrays[step.input[0]]
                assert stored.dtype == np.float32
                assert np.array_equal(stored, round_weights(weights))
    every = {node.name for node in proto.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    assert every == pairs, "a pair stands where no convolution reads it"


def test_no_pair_on_outputs_or_in_units(quantized: tuple[CanonicalGraph, CanonicalGraph, dict[str, float]]) -> None:
    graph, int8, _ = quantized
    assert [unit.name for unit in int8.units] == [unit.name for unit in graph.units]
    for unit in int8.units:
        assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in unit.nodes}
    for node in int8.model.graph:
        if node.op_type == "Conv":
            readers = {use.node.op_type for use in node.outputs[0].uses()}
            assert "QuantizeLinear" not in readers, "shrinkage reads the full sum"
        if node.op_type == "DequantizeLinear":
            assert {use.node.op_type for use in node.outputs[0].uses()} == {"Conv"}
            assert not node.outputs[0].is_graph_output()


def test_types_of_the_glue(exported: Exported, unit_scales: Scales) -> None:
    _, graph = exported()
    plan, scales = unit_scales(graph)
    for glue, precision, halves in (("fp16", "int8", True), ("fp32", "int8-fp32", False)):
        int8 = quantize(graph, plan=plan, scales=scales, glue=glue)  # type: ignore[arg-type]
        assert int8.model.metadata_props["drsn_edge.precision"] == precision
        casts = [node for node in int8.model.graph if node.op_type == "Cast"]
        assert bool(casts) == halves
        for value in (*int8.model.graph.inputs, *int8.model.graph.outputs):
            assert value.dtype == ir.DataType.FLOAT


def test_probes_can_be_put_on_an_int8_graph(
    quantized: tuple[CanonicalGraph, CanonicalGraph, dict[str, float]],
) -> None:
    _, int8, _ = quantized
    outputs = [value.name for value in onnx.load_from_string(with_probes(int8.to_bytes())).graph.output]
    assert "units.1.threshold" in outputs


@pytest.mark.parametrize("layer", ["units.0.conv2/Conv", "units.0/threshold", "stem/Conv"])
def test_a_layer_in_fp32_stays_fp32_under_fp16_glue(exported: Exported, layer: str, unit_scales: Scales) -> None:
    _, graph = exported()
    plan, scales = unit_scales(graph)
    rows = tuple(dataclasses.replace(row, precision="fp32") if row.layer == layer else row for row in plan.layers)
    scales.pop(layer, None)
    int8 = quantize(graph, plan=PrecisionPlan(rows), scales=scales)
    unit = {node.name for node in graph.units[0].branch} if layer.endswith("/threshold") else {layer}
    nodes = {node.name: node for node in int8.model.graph}
    for name in unit:
        assert nodes[name].outputs[0].dtype == ir.DataType.FLOAT, name
    gemm = next(node for node in int8.units[1].branch if node.op_type == "Gemm")
    assert gemm.outputs[0].dtype == ir.DataType.FLOAT16


@pytest.mark.parametrize("scale", [0.0, -0.1, float("nan"), float("inf")])
def test_what_is_no_scale_is_refused(exported: Exported, scale: float, unit_scales: Scales) -> None:
    _, graph = exported()
    plan, scales = unit_scales(graph)
    name = plan.int8[1].layer
    with pytest.raises(InputError, match="cannot be quantized by this plan") as caught:
        quantize(graph, plan=plan, scales=scales | {name: scale})
    assert f"the scale of {name} is {scale}, not a positive number" in str(caught.value.got)
    assert "a positive scale" in str(caught.value.expected)


def test_weights_that_are_not_finite_are_refused(exported: Exported, unit_scales: Scales) -> None:
    graph = exported()[1].clone()
    plan, scales = unit_scales(graph)
    node = next(node for node in graph.model.graph if node.name == plan.int8[0].layer)
    weight = constant(node.inputs[1])
    assert weight is not None
    weight = weight.copy()
    weight.flat[3] = np.nan
    node.inputs[1].const_value = ir.tensor(weight, name=node.inputs[1].name)
    with pytest.raises(InputError) as caught:
        quantize(graph, plan=plan, scales=scales)
    assert f"the weights of {node.name} are not finite" in str(caught.value.got)


def test_scales_and_plan_must_name_the_same_layers(exported: Exported, unit_scales: Scales) -> None:
    _, graph = exported()
    plan, scales = unit_scales(graph)
    name = plan.int8[0].layer
    with pytest.raises(InputError, match="do not name the same layers") as caught:
        quantize(graph, plan=plan, scales={key: value for key, value in scales.items() if key != name})
    assert caught.value.got == f"{name} in the plan only (1 such)"
    with pytest.raises(InputError, match="do not name the same layers") as caught:
        quantize(graph, plan=plan, scales=scales | {"stem/Conv": 0.1})
    assert caught.value.got == "stem/Conv in the scales only (1 such)"
    assert caught.value.expected == "one scale for every int8 layer"


def test_the_pass_refuses_what_is_no_convolution(exported: Exported) -> None:
    graph = exported()[1].clone()
    with pytest.raises(ir.passes.PreconditionError, match="there is no convolution nobody/Conv"):
        QuantizePass({"nobody/Conv": 0.1})(graph.model)


def test_a_quantized_branch_would_be_noticed(exported: Exported) -> None:
    """The postcondition itself: break it by hand."""
    _, graph = exported()
    broken = graph.clone()
    node = broken.units[0].branch[-1]
    node.op_type = "QuantizeLinear"
    with pytest.raises(InputError, match=r"the threshold branch of units\.0 was quantized") as caught:
        ensure_float_units(broken.units, graph.units)
    assert caught.value.got == node.name
    with pytest.raises(InputError, match="has changed the shrinkage units") as caught:
        ensure_float_units(graph.units[:1], graph.units)
    assert caught.value.got == "['units.0']"


def test_a_quantizer_that_quantizes_a_branch_is_stopped(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, unit_scales: Scales
) -> None:
    class Careless(QuantizePass):
        def call(self, model: ir.Model) -> ir.passes.PassResult:
            result = super().call(model)
            node = next(node for node in model.graph if node.op_type == "Abs")
            value = node.inputs[0]
            assert value is not None
            pair = [
                next(node for node in model.graph if node.op_type == "QuantizeLinear").inputs[index] for index in (1, 2)
            ]
            stored = emit(node, "QuantizeLinear", [value, *pair], shape=value.shape, dtype=ir.DataType.INT8, name="a/Q")
            node.replace_input_with(0, emit(node, "DequantizeLinear", [stored, *pair], like=value, name="a/DQ"))
            return result

    _, graph = exported()
    plan, scales = unit_scales(graph)
    monkeypatch.setattr(module, "QuantizePass", Careless)
    with pytest.raises(InputError, match=r"the threshold branch of units\.0 was quantized") as caught:
        quantize(graph, plan=plan, scales=scales, glue="fp32")
    assert caught.value.got in ("a/Q", "a/DQ")


def test_the_graph_that_is_quantized_is_not_changed(exported: Exported, glue: str, unit_scales: Scales) -> None:
    _, graph = exported()
    before = graph.to_bytes()
    plan, scales = unit_scales(graph)
    first = quantize(graph, plan=plan, scales=scales, glue=glue).to_bytes()  # type: ignore[arg-type]
    assert graph.to_bytes() == before
    assert quantize(graph, plan=plan, scales=scales, glue=glue).to_bytes() == first  # type: ignore[arg-type]
